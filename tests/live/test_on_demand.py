"""TURN, ATRN and ETRN between two servers: a machine that is not always there fetches its mail.

A holds the mail of a domain that a user of its owns; B, whose domain it is, comes for it.
"""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.ledger import token_of
from tests.live.support import HOST, PILLARBOX, Client, Server, arrived, letters, needs, original, stuffed, until

AWAY = "away.test"
CAROL = f"carol@{AWAY}"
OWNER = "owner@here.test"
PASSWORD = "correct horse"
MANY = 500
_MOST_IN_DOUBT = 10  # that the other has, and this one has not recorded: in flight, or in the last commit
LOGIN = "AUTH PLAIN " + b64encode(f"\0{OWNER}\0{PASSWORD}".encode()).decode()


def listeners(**more: object) -> list[dict[str, object]]:
    commands: dict[str, object] = {f"commands.{verb}": "auth" for verb in ("TURN", "ATRN", "ETRN")}
    return [
        {"name": "mx", "address": f"{HOST}:0", **commands, **more},
        {"name": "odmr", "address": f"{HOST}:0", "service": "odmr"},
    ]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Server]:
    """A, with a domain that is kept for its owner."""
    with Server(tmp_path, "a", settings={"listener": listeners()}) as server:
        server.call("domain_add", domain="here.test")
        server.call("domain_add", domain=AWAY, relay=True)
        server.person(OWNER, PASSWORD, owns=[AWAY])
        yield server


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Server]:
    """B, where the domain is local."""
    with Server(tmp_path, "b") as server:
        server.local(CAROL)
        yield server


def queue(server: Server, count: int, *, recipients: tuple[str, ...] = (CAROL,)) -> dict[str, bytes]:
    """Messages for the domain, by token; all of them wait when this returns."""
    sent = {f"turn{number}": simple(f"turn{number}", 600) for number in range(count)}
    with Client(server.port) as client:
        for message in sent.values():
            assert client.send(message, recipients).startswith("250")
    waits(server, count * len(recipients))
    return sent


def waits(server: Server, count: int) -> None:
    until(
        lambda: server.call("queue_count", where="state=scheduled")["count"] == count,
        what=f"{count} recipients wait: {server.log}",
    )


def fetch(server: Server, verb: str, port: int, *domains: str, status: int = 0) -> str:
    return server.cli(
        verb,
        f"{HOST}:{port}",
        "--user",
        OWNER,
        "--password-stdin",
        *domains,
        text=f"{PASSWORD}\n".encode(),
        status=status,
    )


def check_all(server: Server, sent: dict[str, bytes], doubled: int) -> None:
    """Every message has arrived unchanged, at most so many of them twice."""
    found = Counter(token_of(letter) for letter in letters(server, CAROL))
    assert set(found) == set(sent)
    assert sum(found.values()) - len(sent) <= doubled
    for letter in letters(server, CAROL):
        assert original(letter, hops=2) == sent[token_of(letter)].replace(b"\r\n", b"\n")


@pytest.mark.parametrize("verb", ["turn", "atrn"])
def test_mail_is_fetched_over_one_connection(here: Server, away: Server, verb: str) -> None:
    sent = queue(here, 25)
    port = here.ports["odmr"] if verb == "atrn" else here.port
    printed = fetch(away, verb, port)
    assert "25 messages came in" in printed and "250 2.0.0" in printed
    arrived(away, 25, CAROL)
    check_all(away, sent, doubled=0)
    here.drained()
    again = fetch(away, verb, port, status=1)
    assert ("453" if verb == "atrn" else "502") in again


@pytest.mark.parametrize("verb", ["turn", "atrn"])
@pytest.mark.parametrize("victim", ["fetches", "holds"])
def test_killed_in_the_middle_twice(here: Server, away: Server, verb: str, victim: str) -> None:
    sent = queue(here, MANY)
    dies = away if victim == "fetches" else here
    for share in (MANY // 5, MANY // 2):
        port = here.ports["odmr"] if verb == "atrn" else here.port
        command = [str(PILLARBOX), verb, f"{HOST}:{port}", "--user", OWNER, "--password-stdin"]
        with subprocess.Popen(
            [*command, "--config", str(away.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as client:
            client.stdin.write(f"{PASSWORD}\n".encode())  # type: ignore[union-attr]
            client.stdin.close()  # type: ignore[union-attr]
            until(lambda: len(letters(away, CAROL)) >= share, what=f"{share} letters: {away.log}")  # noqa: B023
            dies.kill()
            client.wait(30)
        dies.start()
    until(
        lambda: here.call("queue_count", where="state=active")["count"] == 0, what=f"nothing is under way: {here.log}"
    )
    fetch(away, verb, here.ports["odmr"] if verb == "atrn" else here.port)
    here.drained()
    away.drained()
    check_all(away, sent, doubled=2 * _MOST_IN_DOUBT)


def test_what_is_kept_is_told(here: Server) -> None:
    queue(here, 1)
    (row,) = here.ask("queue", "list")
    assert row["lane"] == f"turn:{AWAY}" and row["attempts"] == 0
    kinds = [record["kind"] for record in here.ask("why", row["id"])["records"]]
    assert kinds == ["kept"]


def test_etrn_starts_a_delivery_to_the_host_of_the_route(here: Server, away: Server) -> None:
    sink = Server(here.place, "c")
    with sink:
        port = sink.port
    here.configure(route=[{"match": AWAY, "next_hop": f"smtp://{HOST}:{port}"}])
    here.stop()
    here.start()
    sent = queue(here, 3)  # nobody is there
    sink.configure(listener=[{"name": "mx", "address": f"{HOST}:{port}"}])
    with sink:
        sink.local(CAROL)
        printed = fetch(away, "etrn", here.port, AWAY)
        assert "253 2.0.0 3 pending messages" in printed
        arrived(sink, 3, CAROL)
        check_all(sink, sent, doubled=0)
        here.drained()
        assert "251" in fetch(away, "etrn", here.port, AWAY)


def test_etrn_by_fetchmail(here: Server, tmp_path: Path) -> None:
    fetchmail = needs("fetchmail")
    sink = Server(here.place, "c")
    with sink:
        port = sink.port
    here.configure(route=[{"match": AWAY, "next_hop": f"smtp://{HOST}:{port}"}])
    here.stop()
    here.start()
    queue(here, 2)
    rc = tmp_path / "fetchmailrc"
    rc.write_text(
        f"poll {HOST} protocol ETRN port {here.port}"
        f' esmtpname "{OWNER}" esmtppassword "{PASSWORD}" fetchdomains {AWAY}\n'
    )
    rc.chmod(0o600)
    sink.configure(listener=[{"name": "mx", "address": f"{HOST}:{port}"}])
    with sink:
        sink.local(CAROL)
        run = subprocess.run(
            [fetchmail, "-f", str(rc), "-v", "-v", "--nosyslog", "--pidfile", str(tmp_path / "pid")],
            capture_output=True,
            timeout=60,
            check=False,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "FETCHMAILHOME": str(tmp_path)},
        )
        assert b"253 2.0.0 2 pending messages" in run.stdout, (run.stdout, run.stderr)
        arrived(sink, 2, CAROL)


def test_atrn_in_the_raw(here: Server) -> None:
    """The transcript of RFC 2645 §5.3, with us as the client that becomes a server."""
    queue(here, 1)
    with Client(here.ports["odmr"]) as client:
        assert client.say(f"ATRN {AWAY}").startswith("530 5.7.0")
        assert client.say(LOGIN).startswith("235 2.7.0")
        assert client.say("ATRN elsewhere.test").startswith("450 4.7.1")
        assert client.say(f"ATRN {AWAY},elsewhere.test").startswith("450 4.7.1")
        assert client.say("MAIL FROM:<>").startswith("502 5.5.1")
        assert client.say(f"ATRN {AWAY}").startswith("250 2.0.0")
        client.write(b"220 b.mx.test ready\r\n")
        assert client.reply() == "EHLO a.mx.test"
        client.write(b"250 b.mx.test\r\n")
        for said, answer in (
            ("MAIL FROM:<alice@elsewhere.example>", b"250 ok\r\n"),
            (f"RCPT TO:<{CAROL}>", b"250 ok\r\n"),
            ("DATA", b"354 go\r\n"),
        ):
            assert client.reply() == said
            client.write(answer)
        lines = []
        while (line := client.reply()) != ".":
            lines.append(line)
        assert any(line == "Subject: turn0" for line in lines)
        client.write(b"250 ok\r\n")
        assert client.reply() == "QUIT"
        client.write(b"221 bye\r\n")
        assert client.closed()
    here.drained()


def test_octets_behind_turn_close_the_connection(here: Server) -> None:
    queue(here, 1)
    with Client(here.port) as client:
        assert client.say(LOGIN).startswith("235")
        client.write(b"TURN\r\n220 b.mx.test ready\r\n")
        assert client.reply().startswith("250")
        assert client.closed()
    assert here.call("queue_count", where="state=scheduled")["count"] == 1


def test_who_may_not_turn(here: Server) -> None:
    here.cli("user", "add", "other@here.test", "--password-stdin", text=b"other pass\n")
    queue(here, 1)
    with Client(here.port, hello=False) as client:
        assert client.say("TURN").startswith("503 5.5.1")
        assert client.say("EHLO client.example").startswith("250")
        assert client.say("TURN").startswith("530 5.7.0")
        assert client.say(f"ETRN {AWAY}").startswith("530 5.7.0")
        other = b64encode(b"\0other@here.test\0other pass").decode()
        assert client.say(f"AUTH PLAIN {other}").startswith("235")
        assert client.say("TURN").startswith("502 5.7.1")
        assert client.say(f"ATRN {AWAY}").startswith("450 4.7.1")
        assert client.say(f"ETRN {AWAY}").startswith("459 4.7.1")
        assert client.say("ETRN #queue").startswith("459 4.7.1")
        assert client.say("ETRN").startswith("501 5.5.4")
        assert client.say("TURN now").startswith("501 5.5.4")
        assert client.say("MAIL FROM:<>").startswith("250")
        assert client.say("TURN").startswith("503 5.5.1")
        assert client.say(f"ETRN {AWAY}").startswith("503 5.5.1")


def test_etrn_for_a_domain_without_a_host(here: Server) -> None:
    queue(here, 1)
    with Client(here.port) as client:
        assert client.say(LOGIN).startswith("235")
        assert client.say(f"ETRN {AWAY}").startswith("458 4.4.0")


def test_a_peer_that_goes_away_in_the_swap(here: Server) -> None:
    """At each point of the change of roles: what is not taken waits."""
    queue(here, 3)
    answers = [b"220 b ready\r\n", b"250 b\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]
    for length in range(len(answers) + 1):
        with Client(here.port) as client:
            assert client.say(LOGIN).startswith("235")
            assert client.say("TURN").startswith("250")
            for answer in answers[:length]:
                client.write(answer)
                client.reply()
            client.reset()
        waits(here, 3)


def test_a_refusal_of_the_fetching_side_is_settled(here: Server, away: Server) -> None:
    """5yz for one recipient, as in any delivery: it fails, and its sender is told."""
    with Client(here.port) as client:
        assert client.send(simple("ghost", 500), (f"ghost@{AWAY}",), OWNER).startswith("250")
    waits(here, 1)
    printed = fetch(away, "turn", here.port)
    assert "0 messages came in" in printed
    here.drained()
    (notice,) = arrived(here, 1, OWNER)
    assert b"550 5.1.1" in notice


def test_a_large_message_is_fetched(here: Server, away: Server) -> None:
    message = simple("large", 3_000_000)
    with Client(here.port) as client:
        client.envelope((CAROL,))
        client.write(stuffed(message))
        assert client.reply().startswith("250")
    waits(here, 1)
    fetch(away, "turn", here.port)
    (letter,) = arrived(away, 1, CAROL)
    assert original(letter, hops=2) == message.replace(b"\r\n", b"\n")


def test_without_a_server_nothing_is_fetched(tmp_path: Path) -> None:
    told = Server(tmp_path, "lonely").cli("turn", f"{HOST}:2525", status=1)
    assert "pillarbox serve" in told
