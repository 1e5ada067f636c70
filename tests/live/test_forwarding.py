"""What leaves behind a forward, an alias or a list: whose bounces it makes, what mark it bears, and that no circle of
hosts carries it for long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.ledger import token_of
from tests.live.support import HOST, Client, Server, arrived, letters, original

HERE, THERE = "here.test", "there.test"
ALICE, BOB = f"alice@{HERE}", f"bob@{THERE}"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two servers that send to each other."""
    a, b = Server(tmp_path, "a"), Server(tmp_path, "b")
    with a:
        a.local(ALICE)
        b.configure(route=[{"match": HERE, "next_hop": f"smtp://{HOST}:{a.port}"}])
        with b:
            b.local(BOB)
            port_of_b, port_of_a = b.port, a.port
            a.configure(
                listener=[{"name": "mx", "address": f"{HOST}:{port_of_a}"}],
                route=[{"match": THERE, "next_hop": f"smtp://{HOST}:{port_of_b}"}],
            )
            a.stop()
            a.start()
            yield a, b


def head(letter: bytes) -> bytes:
    return letter.split(b"\n\n")[0]


def test_a_list(hosts: tuple[Server, Server]) -> None:
    """One message, to a list and to somebody else: each copy has the reverse-path that is its own."""
    a, b = hosts
    a.call("list_add", address=f"team@{HERE}", members=[ALICE, BOB])
    with Client(a.port) as client:
        assert client.send(simple("listed"), (f"team@{HERE}", f"postmaster@{HERE}")).startswith("250")
    (local,), (remote,) = arrived(a, 1, ALICE), arrived(b, 1, BOB)
    (other,) = arrived(a, 1, f"postmaster@{HERE}")
    assert local.startswith(f"Return-Path: <team-owner@{HERE}>\n".encode())
    assert remote.startswith(f"Return-Path: <team-owner@{HERE}>\n".encode())
    assert other.startswith(b"Return-Path: <alice@elsewhere.example>\n")
    assert original(remote, hops=1).startswith(f"Delivered-To: team@{HERE}\nReceived: ".encode())


def test_a_bounce_of_a_list_goes_to_its_owner(hosts: tuple[Server, Server]) -> None:
    a, _ = hosts
    a.call("list_add", address=f"team@{HERE}", members=[f"ghost@{THERE}"])
    a.call("alias_add", address=f"team-owner@{HERE}", targets=[ALICE])
    with Client(a.port) as client:
        assert client.send(simple("bounced"), (f"team@{HERE}",)).startswith("250")
    (notice,) = arrived(a, 1, ALICE)
    assert notice.startswith(b"Return-Path: <>\n") and b"550 5.1.1" in notice


def test_a_message_with_the_null_reverse_path_keeps_it(hosts: tuple[Server, Server]) -> None:
    a, b = hosts
    a.call("list_add", address=f"team@{HERE}", members=[BOB])
    with Client(a.port) as client:
        assert client.send(simple("null"), (f"team@{HERE}",), "").startswith("250")
    assert arrived(b, 1, BOB)[0].startswith(b"Return-Path: <>\n")


def test_who_may_post(hosts: tuple[Server, Server]) -> None:
    a, _ = hosts
    a.call("list_add", address=f"closed@{HERE}", members=[ALICE], post="members")
    with Client(a.port) as client:
        client.say("MAIL FROM:<mallory@elsewhere.example>")
        assert client.say(f"RCPT TO:<closed@{HERE}>").startswith("550 5.7.2")
        client.say("RSET")
        client.say(f"MAIL FROM:<ALICE@{HERE}>")
        assert client.say(f"RCPT TO:<closed@{HERE}>").startswith("250")


@pytest.mark.parametrize("kind", ["alias", "forward"])
def test_a_circle_of_two_hosts(hosts: tuple[Server, Server], kind: str) -> None:
    """x@here leads to y@there, and that back to x@here: the second round is refused, and the sender is told once."""
    a, b = hosts
    b.call("domain_add", domain="mid.test")
    b.call("alias_add", address="y@mid.test", targets=[f"x@{HERE}"])
    a.configure(
        route=[
            {"match": "mid.test", "next_hop": f"smtp://{HOST}:{b.port}"},
            {"match": THERE, "next_hop": f"smtp://{HOST}:{b.port}"},
        ]
    )
    a.stop()
    a.start()
    if kind == "alias":
        a.call("alias_add", address=f"x@{HERE}", targets=["y@mid.test"])
    else:
        a.call("forward_add", address=f"x@{HERE}", targets=["y@mid.test"], how="announce")
    with Client(a.port) as client:
        assert client.send(simple("round"), (f"x@{HERE}",), BOB).startswith("250")
    (notice,) = arrived(b, 1, BOB)
    assert b"554 5.4.6" in notice
    a.drained()
    b.drained()
    assert len(letters(b, BOB)) == 1


def test_the_own_address_literal(hosts: tuple[Server, Server]) -> None:
    """RFC 1123 §5.2.17."""
    a, _ = hosts
    with Client(a.port) as client:
        assert client.send(simple("literal"), (f"postmaster@[{HOST}]",)).startswith("250")
        assert client.send(simple("known"), (f"alice@[{HOST}]",)).startswith("250")
        client.say("MAIL FROM:<>")
        assert client.say(f"RCPT TO:<nobody@[{HOST}]>").startswith("550 5.7.1")
        assert client.say("RCPT TO:<postmaster@[192.0.2.1]>").startswith("550 5.7.1")
    assert token_of(arrived(a, 1, f"postmaster@{HERE}")[0]) == "literal"
    assert token_of(arrived(a, 1, ALICE)[0]) == "known"
