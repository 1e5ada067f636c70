"""The whole table: for each pair of a command and a reply a live server that gives it, for the reason that the table
names.

The pairs come from `core/table.py`; `PROVOKED` has what provokes each, and a pair without one is an error. The servers
are started when the first pair asks for them, each configured for its conditions.
"""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pillarbox.core.table import TABLE, Entry
from tests.live.corpus import simple
from tests.live.names import NameServer
from tests.live.strace import Strace
from tests.live.support import HOST, PILLARBOX, Client, Server, maildir, until
from tests.live.test_bad_disk import fill, small_disk, takes

LOCAL = "example.test"
ALICE, BOB = f"alice@{LOCAL}", f"bob@{LOCAL}"
PASSWORD = "correct horse"
PAIRS = [entry for entry in TABLE if entry.classical]
EVERYTHING = {f"commands.{verb}": "on" for verb in ("VRFY", "EXPN", "HELP", "SEND", "SOML", "SAML")} | {
    f"commands.{verb}": "auth" for verb in ("TURN", "ATRN", "ETRN")
}
LONG = "x" * 12_400
TO_TERMINALS = ("SEND", "SOML", "SAML")


# --- the servers


class World:
    """The servers, by the condition that they are in."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.stack = ExitStack()
        self._servers: dict[str, Server] = {}

    def __getitem__(self, name: str) -> Server:
        if name not in self._servers:
            self._servers[name] = self._start(name)
        return self._servers[name]

    def _start(self, name: str) -> Server:
        listener: dict[str, Any] = {"name": "mx", "address": f"{HOST}:0", **EVERYTHING}
        settings: dict[str, Any] = {"listener": [listener], "limits": {}}
        if name == "default":
            settings["listener"] = [{"name": "mx", "address": f"{HOST}:0"}]
        elif name == "withheld":
            listener.update({f"commands.{verb}": "off" for verb in ("VRFY", "EXPN", "HELP", "TURN")})
        elif name == "no-mail":
            listener["accepts_mail"] = False
        elif name == "classic":
            listener["compat"] = "classic"
        elif name == "strict":
            settings["limits"] = {"errors": 1, "recipients": 100, "terminal_messages": 1}
        elif name == "one-connection":
            settings["limits"] = {"connections_per_address": 1}
        elif name == "checks-senders":
            names = self.stack.enter_context(NameServer({}, failing=("servfail.test",)))
            listener["check_sender_domain"] = True
            settings["dns"] = {"servers": [names.address]}
        server = Server(self.place, name, settings=settings)
        if name == "full":
            self.stack.enter_context(small_disk(server.data, 24))
        self.stack.enter_context(server)
        if name not in ("no-mail", "one-connection"):
            self._people(server)
        return server

    def _people(self, server: Server) -> None:
        server.call("domain_add", domain=LOCAL)
        server.call("domain_add", domain="relayed.test", relay=True)
        for address, name, more in (
            (ALICE, "Alice Liddell", {}),
            (BOB, "Bob Smith", {}),
            (f"joe@{LOCAL}", "Joe Smith", {}),
            (f"soft@{LOCAL}", "", {"quota": "8K", "soft_quota": "2K"}),
            (f"unreadable@{LOCAL}", "", {"quota": "8K"}),
        ):
            server.call("user_add", address=address, name=name, **more)
        server.call("forward_add", address=f"told@{LOCAL}", targets=["told@else.example"], how="announce")
        server.call("forward_add", address=f"gone@{LOCAL}", targets=["gone@else.example"], how="moved")
        server.call("list_add", address=f"staff@{LOCAL}", members=[ALICE, BOB], expn="anyone")
        for user, option in ((f"op@{LOCAL}", ["--operator"]), (f"owner@{LOCAL}", ["--owns", "relayed.test"])):
            server.cli("user", "add", user, "--password-stdin", *option, text=f"{PASSWORD}\n".encode())

    def watched(self) -> Server:
        """The main server, with a terminal of Alice's open."""
        server = self["main"]
        if not hasattr(self, "_watch"):
            self._watch = subprocess.Popen(
                [str(PILLARBOX), "watch", ALICE, "--config", str(server.config)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            self.stack.callback(self._end_watch)
            assert self._watch.stderr is not None
            assert b"watching" in self._watch.stderr.readline()
        return server

    def _end_watch(self) -> None:
        self._watch.terminate()
        self._watch.wait(20)
        assert self._watch.stderr is not None
        self._watch.stderr.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("table"))
    with made.stack:
        yield made


# --- what provokes each pair

Provoker = Callable[[World], str]
PROVOKED: dict[tuple[str, int], Provoker] = {}


def provokes(command: str, code: int) -> Callable[[Provoker], Provoker]:
    def register(provoker: Provoker) -> Provoker:
        PROVOKED[command, code] = provoker
        return provoker

    return register


def says(server: str, *lines: str | bytes, hello: bool = True) -> Provoker:
    """The reply to the last of the lines."""

    def provoke(world: World) -> str:
        with Client(world[server].port, hello=hello) as client:
            return [client.say(line) for line in lines][-1]

    return provoke


def table(server: str, command: str, *pairs: tuple[int, tuple[str | bytes, ...]], hello: bool = True) -> None:
    for code, lines in pairs:
        PROVOKED[command, code] = says(server, *lines, hello=hello)


def once_too_often(verb: str) -> Provoker:
    """The second refused command of a session that bears one."""
    return says("strict", f"{verb} {LONG}", f"{verb} {LONG}", hello=False)


MAIL, RCPT = "MAIL FROM:<s@else.example>", f"RCPT TO:<{BOB}>"
AUTH = "AUTH PLAIN " + b64encode(f"\0owner@{LOCAL}\0{PASSWORD}".encode()).decode()
OPERATOR = "AUTH PLAIN " + b64encode(f"\0op@{LOCAL}\0{PASSWORD}".encode()).decode()

for verb in (
    "HELO",
    "EHLO",
    "MAIL",
    "RCPT",
    "DATA",
    "RSET",
    *TO_TERMINALS,
    "VRFY",
    "EXPN",
    "HELP",
    "NOOP",
    "QUIT",
    "TURN",
):
    PROVOKED[verb, 500] = says("main", f"{verb} {LONG}", hello=False)
    if verb not in ("QUIT", "TURN"):
        PROVOKED[verb, 421] = once_too_often(verb)

for verb in ("HELO", "EHLO"):
    table(
        "main",
        verb,
        (250, (f"{verb} client.example",)),
        (501, (verb,)),
        (504, (f"{verb} [X400:foo]",)),
        hello=False,
    )
table("no-mail", "HELO", (521, ("HELO client.example",)), hello=False)
table("main", "EHLO", (550, ("EHLO main.mx.test",)), hello=False)
table("main", "MAIL", (250, (MAIL,)), (552, (f"{MAIL} SIZE=99999999999",)), (501, ("MAIL FROM:x",)))
table("checks-senders", "MAIL", (451, ("MAIL FROM:<s@servfail.test>",)))
table(
    "main",
    "RCPT",
    (250, (MAIL, RCPT)),
    (251, (MAIL, f"RCPT TO:<told@{LOCAL}>")),
    (550, (MAIL, f"RCPT TO:<nobody@{LOCAL}>")),
    (551, (MAIL, f"RCPT TO:<gone@{LOCAL}>")),
    (552, (f"{MAIL} SIZE=9000", f"RCPT TO:<soft@{LOCAL}>")),
    (553, (MAIL, f"RCPT TO:<jörg@{LOCAL}>".encode())),
    (450, (f"{MAIL} SIZE=3000", f"RCPT TO:<soft@{LOCAL}>")),
    (501, (MAIL, "RCPT TO:x")),
    (503, (RCPT,)),
)
table("strict", "RCPT", (452, (MAIL, *(f"RCPT TO:<u{number}@relayed.test>" for number in range(101)))))
table("no-mail", "RCPT", (521, (RCPT,)), hello=False)
table(
    "main",
    "DATA",
    (354, (MAIL, RCPT, "DATA")),
    (554, (MAIL, f"RCPT TO:<nobody@{LOCAL}>", "DATA")),
    (501, (MAIL, RCPT, "DATA now")),
    (503, ("DATA",)),
)
table("main", ".", (250, (MAIL, RCPT, "DATA", ".")), (554, (MAIL, RCPT, "DATA", "a\nb\r\n.")))
table("main", "RSET", (250, ("RSET",)), (501, ("RSET now",)))
table("classic", "RSET", (200, ("RSET",)), (504, ("RSET KEY=VALUE",)))
for verb in TO_TERMINALS:
    opening = f"{verb} FROM:<s@else.example>"
    table("main", verb, (250, (opening,)), (552, (f"{opening} SIZE=99999999999",)), (501, (f"{verb} FROM:x",)))
    table("strict", verb, (451, (opening, "RSET", opening)))
    table("default", verb, (502, (opening,)))
table(
    "main",
    "VRFY",
    (250, ("VRFY alice",)),
    (251, (f"VRFY told@{LOCAL}",)),
    (550, ("VRFY nobody",)),
    (551, (f"VRFY gone@{LOCAL}",)),
    (553, ("VRFY Smith",)),
    (501, ("VRFY",)),
    (504, (f"VRFY {ALICE} X=1",)),
)
table("default", "VRFY", (252, ("VRFY alice",)))
table(
    "main",
    "EXPN",
    (250, ("EXPN staff",)),
    (550, ("EXPN nobody",)),
    (501, ("EXPN",)),
    (504, (f"EXPN staff@{LOCAL} X=1",)),
)
for verb in ("VRFY", "EXPN", "HELP"):
    table("withheld", verb, (502, (f"{verb} alice",)))
table(
    "main",
    "HELP",
    (211, (OPERATOR, "HELP")),
    (214, ("HELP",)),
    (501, ("HELP jörg".encode(),)),
    (504, ("HELP cooking",)),
)
table("main", "NOOP", (250, ("NOOP",)))
table("classic", "NOOP", (200, ("NOOP",)))
table("main", "QUIT", (221, ("QUIT",)))
table("withheld", "TURN", (502, ("TURN",)))
table("main", "TURN", (503, ("TURN",)), hello=False)


@provokes("connect", 220)
def _(world: World) -> str:
    with Client(world["main"].port, hello=False) as client:
        return client.greeting


@provokes("connect", 421)
def _(world: World) -> str:
    port = world["one-connection"].port
    with Client(port), Client(port, hello=False) as second:
        assert second.closed()
        return second.greeting


@provokes("RCPT", 451)
def _(world: World) -> str:
    """The mailbox is no folder."""
    box = maildir(world["main"], f"unreadable@{LOCAL}")
    box.parent.mkdir(parents=True, exist_ok=True)
    box.write_text("in the way")
    return says("main", MAIL, f"RCPT TO:<unreadable@{LOCAL}>")(world)


@provokes(".", 552)
def _(world: World) -> str:
    server = world["small"]
    server.configure(limits={"message_size": "20K"})
    server.stop()
    server.start()
    with Client(server.port) as client:
        return client.send(simple("too big", 30_000), (BOB,))


def with_no_room(line: str) -> Provoker:
    """The reply to the line on a full disk. What is free is looked at every half second."""

    def provoke(world: World) -> str:
        server = world["full"]
        filler = server.data / "filler"
        fill(filler, leave=0)
        try:
            until(lambda: not takes(server), what="the disk is seen to be full")
            return says("full", line)(world)
        finally:
            filler.unlink()
            until(partial(takes, server), what="room again")

    return provoke


for verb in ("MAIL", *TO_TERMINALS):
    PROVOKED[verb, 452] = with_no_room(f"{verb} FROM:<s@else.example>")


@provokes(".", 452)
def _(world: World) -> str:
    server = world["full"]
    filler = server.data / "filler"
    with Client(server.port) as client:
        client.envelope((BOB,))
        fill(filler, leave=0)
        try:
            client.write(simple("no room", 100_000) + b".\r\n")
            return client.reply()
        finally:
            filler.unlink()


def failing(world: World) -> Strace:
    server = world["failing"]
    options = ("-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO")
    return Strace(server.pid, world.place / "trace", *options)


@provokes(".", 451)
def _(world: World) -> str:
    with failing(world), Client(world["failing"].port) as client:
        return client.send(simple("failing", 500), (BOB,))


@provokes("DATA", 451)
def _(world: World) -> str:
    server = world["failing"]
    until(partial(takes, server), what="the disk works again")
    with Client(server.port) as client, failing(world):
        client.say(MAIL)
        client.say(RCPT)
        with Client(server.port) as other:
            assert other.send(simple("other", 500), (BOB,)).startswith("451")
        until(lambda: not takes(server), what="the failure is known")
        return client.say("DATA")


@provokes("TURN", 250)
def _(world: World) -> str:
    server = world["main"]
    with Client(server.port) as client:
        assert client.send(simple("for turn", 500), ("carol@relayed.test",)).startswith("250")
    until(lambda: server.call("queue_count", where="lane=turn:relayed.test state=scheduled")["count"], what="it waits")
    return says("main", AUTH, "TURN")(world)


# --- the tests


def test_nothing_is_left_out() -> None:
    assert len(PAIRS) == 112
    assert set(PROVOKED) == {(entry.command, entry.code) for entry in PAIRS}


@pytest.mark.parametrize("entry", PAIRS, ids=lambda entry: f"{entry.command}-{entry.code}")
def test_pair(world: World, entry: Entry) -> None:
    reply = PROVOKED[entry.command, entry.code](world)
    for line in reply.splitlines():
        assert line.startswith(str(entry.code)), reply
        given = line[4:].partition(" ")[0]
        if entry.enhanced:
            assert given in entry.enhanced, reply
        else:
            assert not given.startswith(f"{entry.code // 100}."), reply


@pytest.mark.parametrize("verb", TO_TERMINALS)
def test_a_terminal_is_reached(world: World, verb: str) -> None:
    """That the 250 of these rows is one to mail that arrives: it is shown."""
    with Client(world.watched().port) as client:
        for line in (f"{verb} FROM:<s@else.example>", f"RCPT TO:<{ALICE}>"):
            assert client.say(line).startswith("250")
        assert client.say("DATA").startswith("354")
        client.write(b"Subject: hello\r\n\r\nhello\r\n.\r\n")
        assert client.reply().startswith("250")
