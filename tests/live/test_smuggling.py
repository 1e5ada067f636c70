"""Smuggling and injection over DATA and commands: nothing is accepted that is two things, nothing is emitted so.

A real server takes what the tables give, octet by octet, and relays all that it accepts to a sink that keeps every
octet. RFC 5321 §2.3.8, §4.1.1.4; CVE-2023-51764 to -51766, CVE-2011-0411, CVE-2021-38371.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from pillarbox.app.config_load import ConfigError, parse
from pillarbox.app.control import ControlClient, Refused
from tests.live.raw_sink import OFFERED, RawSink
from tests.live.sequences import (
    BARE,
    COMMANDS,
    END,
    HIDDEN,
    SEQUENCES,
    TEXT_BREAKS,
    VICTIM,
    Sequence,
    judge,
)
from tests.live.support import BOB, HOST, PILLARBOX, Client, Server, until

AWAY = "carol@away.example"
FROM = "alice@elsewhere.example"
REFUSED = "554 5.6.0"
BROKEN = re.compile(r"500 (?:5\.5\.2 )?Bare CR")  # EHLO and HELO have no enhanced code (RFC 2034 §4)
LIMITS = {"connections_per_address": 10_000, "probes": 100_000, "errors": 1000, "transactions": 100_000}


def settings(sink: RawSink, **route: str) -> dict[str, object]:
    return {
        "relay": {"networks": [f"{HOST}/32"]},
        "route": [{"match": "*", "next_hop": f"smtp://{HOST}:{sink.port}", **route}],
        "listener": [{"name": "mx", "address": f"{HOST}:0", "tls": "starttls"}],
        "limits": LIMITS,
    }


def several(sinks: list[RawSink], **route: str) -> dict[str, object]:
    """The mail for n0.example goes to the first, and so on."""
    routes = [
        {"match": f"n{number}.example", "next_hop": f"smtp://{HOST}:{sink.port}", **route}
        for number, sink in enumerate(sinks)
    ]
    return {**settings(sinks[0]), "route": routes}


@pytest.fixture(scope="module")
def sink() -> Iterator[RawSink]:
    with RawSink() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sink: RawSink) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("smuggling"), settings=settings(sink)) as running:
        yield running


@pytest.fixture
def fresh(server: Server, sink: RawSink) -> RawSink:
    """With nothing in it that another test sent."""
    server.drained()
    for connection in sink.connections:
        connection.letters.clear()
    return sink


def connect(server: Server) -> Client:
    client = Client(server.port)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def send(server: Server, pieces: tuple[bytes, ...]) -> str:
    """The one reply to a message in these pieces; behind a 250 the session must be where it should."""
    with connect(server) as client:
        client.envelope([AWAY], FROM)
        for piece in pieces:
            client.write(piece)
        reply = client.reply()
        if reply.startswith("250"):
            assert client.say("NOOP").startswith("250") and client.say("QUIT").startswith("221")
        assert client.closed()
        return reply


def check(server: Server, sink: RawSink, accepted: list[bytes]) -> None:
    """What went out is what was accepted, one message for each, and not an octet that could be read otherwise."""
    server.drained()
    assert sink.bare == []
    letters = sink.letters
    assert [(letter.sender, letter.recipients) for letter in letters] == [(FROM.encode(), [AWAY.encode()])] * len(
        accepted
    )
    assert sorted(without_trace(letter.text) for letter in letters) == sorted(accepted)


def call(server: Server, verb: str, args: dict[str, object], body: bytes = b"") -> Any:
    return ControlClient(server.data / "control.sock").call(verb, args, body)


def submit(server: Server, recipient: str, sender: str = FROM) -> None:
    call(server, "send", {"sender": sender, "recipients": [recipient]}, b"Subject: x\n\nx\n")


def without_trace(text: bytes) -> bytes:
    match = re.match(rb"Received: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", text)
    assert match is not None, text
    return text[match.end() :]


# --- the tables themselves


def test_there_are_more_than_two_hundred() -> None:
    assert len({sequence.wire for sequence in SEQUENCES}) == len(SEQUENCES) >= 200
    assert len(set(COMMANDS)) == len(COMMANDS) >= 100
    assert all(HIDDEN in line and BARE.search(line) and b"\r\n" not in line for line in COMMANDS)
    verdicts = [sequence.message is None for sequence in SEQUENCES]
    assert verdicts.count(True) > 200 and verdicts.count(False) > 50


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"a\r\n.\r\nb", b"a\r\n"),
        (b".\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n..\r\n.\r\n.\r\n", b"a\r\n.\r\n"),
        (b"a\n.\r\n.\r\n", None),
        (b"a\r\n.\n.\r\n\r\n.\r\n", None),
        (b"a\r\n.\r\n\n", b"a\r\n"),
        (b"a\0\r\n.\r\n", None),
        (b"a\r\n\r.\r\n.\r\n", None),
    ],
)
def test_the_oracle(wire: bytes, message: bytes | None) -> None:
    assert judge(wire) == message


# --- around the end of the data


@pytest.mark.parametrize("cut", [lambda sequence: (sequence.wire,), lambda sequence: sequence.pieces], ids=["1", "n"])
def test_no_message_hides_another(server: Server, fresh: RawSink, cut: Callable[[Sequence], tuple[bytes, ...]]) -> None:
    accepted, wrong = [], []
    for sequence in SEQUENCES:
        reply, message = send(server, cut(sequence)), sequence.message
        if message is not None:
            accepted.append(message)
        if not reply.startswith(REFUSED if message is None else "250 2.0.0"):
            wrong.append((sequence.edge, reply))
    assert wrong == []
    check(server, fresh, accepted)


# --- in commands


def test_no_command_hides_another(server: Server, fresh: RawSink) -> None:
    """The first is refused and nothing else comes of it; the second ends the session."""
    wrong = []
    for line in COMMANDS:
        with connect(server) as client:
            said = [client.say(line), client.say("NOOP"), client.say("RSET"), client.say(line)]
            if not client.closed() or [reply[:3] for reply in said] != ["500", "250", "250", "421"]:
                wrong.append((line, said))
            assert BROKEN.match(said[0])
    assert wrong == []
    check(server, fresh, [])


def test_no_command_hides_another_in_a_transaction(server: Server, fresh: RawSink) -> None:
    """What was hidden is not among the recipients."""
    for line in COMMANDS:
        with connect(server) as client:
            assert client.say(f"MAIL FROM:<{FROM}>").startswith("250")
            assert client.say(f"RCPT TO:<{AWAY}>").startswith("250")
            assert BROKEN.match(client.say(line))
            assert client.say("DATA").startswith("354")
            client.write(b"Subject: x\r\n\r\nx" + END)
            assert client.reply().startswith("250")
    check(server, fresh, [b"Subject: x\r\n\r\nx\r\n"] * len(COMMANDS))


CODES = ("+0D", "+0A", "+0D+0A", "+00", "+0D+0AX-Injected:+20yes")
ENCODED = [
    *(f"MAIL FROM:<{FROM}> ENVID=a{code}b" for code in CODES),
    *(f"RCPT TO:<{AWAY}> ORCPT=rfc822;a{code}b@x.example" for code in CODES),
]


@pytest.mark.parametrize("line", ENCODED)
def test_nothing_comes_encoded(server: Server, fresh: RawSink, line: str) -> None:
    """In xtext (RFC 3461 §4): refused, or not known at all where the extension is not offered."""
    with Client(server.port, hello=False) as client:
        offers_dsn = "DSN" in client.say("EHLO client.example")
        if line.startswith("RCPT"):
            assert client.say(f"MAIL FROM:<{FROM}>").startswith("250")
        assert client.say(line).startswith("501 5.5.4" if offers_dsn else "555 5.5.4")
    check(server, fresh, [])


@pytest.mark.parametrize("code", CODES)
def test_no_author_that_a_stranger_claims_is_passed_on(server: Server, fresh: RawSink, code: str) -> None:
    """AUTH= is taken from anyone and believed from nobody (RFC 4954 §5)."""
    with connect(server) as client:
        assert client.say(f"MAIL FROM:<{FROM}> AUTH=a{code}b")[:3] in ("250", "501")
        client.say("RSET")
        assert client.say(f"MAIL FROM:<{FROM}> AUTH=a{code.replace('+0', '+4')}b").startswith("250")
        assert client.say(f"RCPT TO:<{AWAY}>").startswith("250")
        assert client.say("DATA").startswith("354")
        client.write(b"Subject: x\r\n\r\nx" + END)
        assert client.reply().startswith("250")
    check(server, fresh, [b"Subject: x\r\n\r\nx\r\n"])
    assert b"Injected" not in b"".join(bytes(each.octets) for each in fresh.connections)


NAMES = [
    *("client.example (by evil", "client.example)", "client\t.example", "client.example\tby evil", "a;b", "<x>", '"x"'),
    *(
        "[127.0.0.1",
        "[IPv6:::1%a]",
        "client.example\x0bby",
        "client.example\x7f",
        "\xe9.example",
        "\u2028.example",
        "a:b",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_breaks_a_trace_field(server: Server, fresh: RawSink, name: str) -> None:
    """Refused, or quoted in one field that holds no control character and balanced comments (RFC 5321 §4.4)."""
    with Client(server.port, hello=False) as client:
        reply = client.say(f"EHLO {name}")
        if reply.startswith("501"):
            return
        assert reply.startswith("250")
        assert client.send(b"Subject: x\r\n\r\nx\r\n", [AWAY], FROM).startswith("250")
    check(server, fresh, [b"Subject: x\r\n\r\nx\r\n"])
    (letter,) = fresh.letters
    trace = letter.text.removesuffix(b"Subject: x\r\n\r\nx\r\n")
    assert trace.count(b"(") == trace.count(b")") and not re.search(rb"[^\t\r\n -~]", trace)
    assert trace.count(b";") == 1


# --- behind STARTTLS, on either side

BEHIND = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"NOOP\r\n",
    b"\x16\x03\x01",
    b"EHLO evil.example\r\n",
    f"MAIL FROM:<{FROM}>\r\nRCPT TO:<{VICTIM}>\r\nDATA\r\nx\r\n.\r\n".encode(),
    b"." + END,
    b"STARTTLS\r\n",
]


@pytest.mark.parametrize("behind", BEHIND)
def test_nothing_comes_behind_starttls(server: Server, fresh: RawSink, behind: bytes) -> None:
    """One reply at most, then the end of the connection: no second reply, and not an octet of a handshake."""
    with connect(server) as client:
        client.write(b"STARTTLS\r\n" + behind)
        said = b"".join(iter(lambda: client.socket.recv(65536), b""))
    assert re.fullmatch(rb"(?:(?:220|421|501|503) [ -~]*\r\n)?", said)
    check(server, fresh, [])


def test_what_was_said_before_tls_is_forgotten(server: Server, fresh: RawSink) -> None:
    """A recipient from before the handshake is not one behind it (RFC 3207 §4.2)."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(server) as client:
        assert client.say(f"MAIL FROM:<{FROM}>").startswith("250")
        client.say(f"RCPT TO:<{VICTIM}>")
        assert client.say("RSET").startswith("250")
        assert client.say("STARTTLS").startswith("220")
        client.socket = context.wrap_socket(client.socket)
        assert client.say(f"RCPT TO:<{VICTIM}>").startswith("503")
    check(server, fresh, [])


INJECTED = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"2",
    b"250 ok\r\n",
    OFFERED,
    b"250-evil\r\n250 AUTH PLAIN\r\n",
    b"\x16\x03\x03\x00\x02\x02\x28",
    b"554 no\r\n",
]


@pytest.mark.parametrize("policy", ["required", "verified", "opportunistic"])
def test_our_client_takes_nothing_behind_the_220(tmp_path: Path, policy: str) -> None:
    """Not an octet goes to that connection any more, and the message waits."""
    with ExitStack() as stack:
        offer = {b"EHLO": b"250-sink.example\r\n250 STARTTLS\r\n"}
        sinks = [stack.enter_context(RawSink({**offer, b"STAR": b"220 go on\r\n" + octets})) for octets in INJECTED]
        running = stack.enter_context(Server(tmp_path, settings=several(sinks, tls=policy)))
        for number in range(len(sinks)):
            submit(running, f"carol@n{number}.example")
        until(lambda: all(row["attempts"] for row in running.call("queue_list", where="", limit=99)))
        rows = running.call("queue_list", where="", limit=99)
    assert len(rows) == len(sinks)
    assert all(row["state"] == "deferred" and "behind its reply to STARTTLS" in row["reply"] for row in rows)
    for sink in sinks:
        assert [bytes(each.octets).partition(b"STARTTLS\r\n")[1:] for each in sink.connections] == [
            (b"STARTTLS\r\n", b"")
        ]


# --- in what an operator hands in


FIELDS: dict[str, dict[str, object]] = {
    "send from": {"verb": "send", "sender": "a^b@x.example", "recipients": [AWAY]},
    "send from, quoted": {"verb": "send", "sender": '"a^b"@x.example', "recipients": [AWAY]},
    "send from, domain": {"verb": "send", "sender": "a@x^.example", "recipients": [AWAY]},
    "send to": {"verb": "send", "sender": FROM, "recipients": [f"a^{AWAY}"]},
    "send to, second": {"verb": "send", "sender": FROM, "recipients": [AWAY, "a@x.example^"]},
    "domain": {"verb": "domain_add", "domain": "x^.example"},
    "user": {"verb": "user_add", "address": "a^b@local.example", "name": ""},
    "user name": {"verb": "user_add", "address": "a@local.example", "name": "Alice^Liddell"},
    "user owns": {"verb": "user_add", "address": "a@local.example", "owns": ["x^.example"]},
    "alias": {"verb": "alias_add", "address": "a^b@local.example", "targets": [FROM]},
    "alias target": {"verb": "alias_add", "address": "a@local.example", "targets": [f"a^{FROM}"]},
    "catch-all": {"verb": "alias_add", "address": "@local^.example", "targets": [FROM]},
    "forward": {"verb": "forward_add", "address": "a^@local.example", "targets": [FROM], "how": "announce"},
    "forward target": {"verb": "forward_add", "address": "a@local.example", "targets": [f"{FROM}^"], "how": "moved"},
    "list": {"verb": "list_add", "address": "l^@local.example", "members": [FROM]},
    "list member": {"verb": "list_add", "address": "l@local.example", "members": [f"^{FROM}"]},
    "fetch host": {"verb": "fetch", "host": "x^.example:25", "domains": [], "user": None, "password": None},
    "fetch domain": {
        "verb": "fetch",
        "host": "x.example:25",
        "domains": ["x^.example"],
        "user": None,
        "password": None,
    },
}


def filled(value: object, broken: str) -> object:
    if isinstance(value, str):
        return value.replace("^", f"{broken}{HIDDEN.decode()}{broken}")
    return [filled(item, broken) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("broken", TEXT_BREAKS)
def test_no_value_of_an_operator_hides_anything(server: Server, fresh: RawSink, field: str, broken: str) -> None:
    if "local.example" not in json.dumps(server.call("domain_list")):
        server.call("domain_add", domain="local.example")
    listed = ("domain_list", "user_list", "alias_list", "forward_list", "list_list")
    before = [server.call(verb) for verb in listed]
    values = {name: filled(value, broken) for name, value in FIELDS[field].items()}
    verb = str(values.pop("verb"))
    with pytest.raises(Refused):
        call(server, verb, {"verb": "etrn", **values} if verb == "fetch" else values)
    assert [server.call(verb) for verb in listed] == before
    check(server, fresh, [])


@pytest.mark.parametrize("broken", ["\r", "\n", "\r\n"])
def test_the_command_line_refuses_too(server: Server, fresh: RawSink, broken: str) -> None:
    """As a process: what is wrong is named on lines of its own, and no line of the output is the hidden one."""
    hidden = f"{broken}{HIDDEN.decode()}{broken}"
    for words in (
        ("send", "--from", f"a{hidden}@x.example", "--to", AWAY),
        ("send", "--from", FROM, "--to", f"a{hidden}@x.example"),
        ("user", "add", BOB, "--name", f"Bob{hidden}"),
        ("alias", "add", f"a{hidden}@x.example", BOB),
    ):
        command = [str(PILLARBOX), *words, "--config", str(server.config)]
        run = subprocess.run(command, input=b"x\n", capture_output=True, timeout=60, check=False)
        assert run.returncode in (1, 2) and run.stdout == b""
        assert all(line.startswith(b"pillarbox: ") for line in run.stderr.splitlines())
    check(server, fresh, [])


@pytest.mark.parametrize("broken", TEXT_BREAKS)
@pytest.mark.parametrize(
    "line",
    [
        "hostname = {}",
        '[[route]]\nmatch = {}\nnext_hop = "mx"',
        '[[route]]\nmatch = "*"\nnext_hop = {}',
        "[[listener]]\nname = {}",
        "[relay]\nnetworks = [{}]",
        "user = {}",
    ],
)
def test_no_value_of_the_configuration_hides_anything(line: str, broken: str) -> None:
    for value in (f"x.example{broken}y", f"smtp://x{broken}y:25", f"a{broken}b@x.example", f"x.example{broken}"):
        with pytest.raises(ConfigError):
            parse(line.format(json.dumps(value)), Path("pillarbox.toml"))


# --- what a program of ours writes: submitted text, and notices


@pytest.mark.parametrize("octets", [b"a\rb", b"a\0b", b"a\r\r\nb", b"\r.\r\nb", b"a\r"])
def test_no_submitted_text_hides_anything(server: Server, fresh: RawSink, octets: bytes) -> None:
    assert "of the text has a" in server.cli("send", "--from", FROM, "--to", AWAY, text=octets, status=1)
    check(server, fresh, [])


def test_line_ends_of_submitted_text_are_line_ends(server: Server, fresh: RawSink) -> None:
    """LF is what a file has; a dot behind it is a dot."""
    server.cli("send", "--from", FROM, "--to", AWAY, text=b"Subject: x\n\nx\n.\nMAIL FROM:<>\n..\n\r\n.\r\n")
    server.drained()
    assert fresh.bare == []
    (letter,) = fresh.letters
    assert letter.text.endswith(b"\r\n\r\nx\r\n.\r\nMAIL FROM:<>\r\n..\r\n\r\n.\r\n")
    assert letter.recipients == [AWAY.encode()]


HOSTILE = {  # and whether it is a reply at all, that ends in a notice
    b"550 5.1.1 no\rX-Injected: yes\r\n": False,
    b"550 5.1.1 no\nX-Injected: yes\r\n": False,
    b"550 5.1.1 no\n\nX-Injected: yes\n.\n\r\n": False,
    b"550 5.1.1 no\0\r\n": False,
    b"550-5.1.1 no\r\n550 5.1.1 \n.\nMAIL FROM:<>\r\n": False,
    b"550 5.1.1 \xe2\x80\xa8X-Injected: yes\x85.\x85\r\n": True,
    b"550 5.1.1 \x0bX-Injected:\x0cyes\x1e\r\n": True,
    b"550 5.1.1 (unbalanced <comment; --=_boundary\r\n": True,
    b"550-5.1.1 no\r\n550-5.1.1 .\r\n550 5.1.1 X-Injected: yes\r\n": True,
    b"550 5.1.1 \r\r\n": False,
}


def test_no_reply_of_a_next_hop_gets_into_the_fields_of_a_notice(tmp_path: Path) -> None:
    """Each next hop that refuses a recipient in its own way; the last one takes the notices."""
    with ExitStack() as stack:
        sinks = [stack.enter_context(RawSink({b"RCPT": answer})) for answer in HOSTILE]
        good = stack.enter_context(RawSink())
        running = stack.enter_context(Server(tmp_path, settings=several([*sinks, good])))
        for number in range(len(sinks)):
            submit(running, f"carol@n{number}.example", sender=f"alice@n{len(sinks)}.example")
        until(lambda: all(row["attempts"] for row in running.call("queue_list", where="", limit=99)))
        until(lambda: len(good.letters) >= sum(HOSTILE.values()))
        waiting = {row["address"] for row in running.call("queue_list", where="", limit=99)}
    assert [sink.bare for sink in (*sinks, good)] == [[]] * (len(sinks) + 1)
    told = {number for number in range(len(sinks)) if f"carol@n{number}.example" not in waiting}
    assert told == {number for number, noticed in enumerate(HOSTILE.values()) if noticed}
    assert len(good.letters) == len(told)
    for letter in good.letters:
        assert (letter.sender, letter.recipients) == (b"", [f"alice@n{len(sinks)}.example".encode()])
        assert not re.search(rb"[^\t\r\n -~]", letter.text)
        notice = message_from_bytes(letter.text)
        parts = list(notice.walk())
        assert "X-Injected" not in {name for part in parts for name in part} and not notice.defects
        assert [part.get_content_type() for part in parts[:3]] == [
            "multipart/report",
            "text/plain",
            "message/delivery-status",
        ]
