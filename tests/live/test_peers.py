"""Mail between Pillarbox and servers not written here, both ways: the helpers of tests/peers do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.support import BOB, HOST, Client, Server, arrived, until
from tests.peers.aiosmtpd import Aiosmtpd
from tests.peers.debian import CACHE
from tests.peers.exim import Exim
from tests.peers.opensmtpd import OpenSmtpd
from tests.peers.peer import DOMAIN, MAILBOX, Peer, Site
from tests.peers.postfix import Postfix
from tests.peers.process import CannotRun

RELAYING = (Postfix, Exim, OpenSmtpd)
WAIT = 60.0  # seconds for a letter to arrive


@contextmanager
def started(kind: type[Peer], place: Path, relay_to: int | None = None) -> Iterator[Peer]:
    place.mkdir()
    try:
        with kind(Site(place, CACHE, relay_to)) as peer:
            yield peer
    except CannotRun as error:
        pytest.skip(f"LOUD: {kind.name} can't be had: {error}")


def _name(kind: type[Peer]) -> str:
    return kind.name


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [*RELAYING, Aiosmtpd], ids=_name)
def test_a_peer_gets_mail_from_pillarbox(kind: type[Peer], tmp_path: Path) -> None:
    with started(kind, tmp_path / "peer") as peer:
        route = {"match": DOMAIN, "next_hop": f"smtp://{HOST}:{peer.port}"}
        settings = {"route": [route], "relay": {"networks": [f"{HOST}/32"]}}
        with Server(tmp_path, settings=settings) as server, Client(server.port) as client:
            assert client.send(simple("towards"), [MAILBOX], MAILBOX).startswith("250")
            letters = until(peer.letters, WAIT, f"a letter in the mailbox of {kind.name}")
    assert len(letters) == 1 and b"towards" in letters[0] and peer.version


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", RELAYING, ids=_name)
def test_a_peer_passes_mail_on_to_pillarbox(kind: type[Peer], tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.local(BOB)
        with started(kind, tmp_path / "peer", server.port) as peer, Client(peer.port) as client:
            assert client.send(simple("from"), [BOB], MAILBOX).startswith("250")
            (letter,) = arrived(server, 1)
    assert b"from" in letter and f"for <{BOB}>".encode() in letter.replace(b"\n\t", b" ")


@pytest.mark.matrix
@pytest.mark.parametrize("kind", RELAYING, ids=_name)
def test_a_peer_relays_for_nobody_unless_told_to(kind: type[Peer], tmp_path: Path) -> None:
    with started(kind, tmp_path / "peer") as peer, Client(peer.port) as client:
        client.say(f"MAIL FROM:<{MAILBOX}>")
        assert client.say(f"RCPT TO:<{BOB}>")[0] in "45"


def test_what_cannot_relay_says_so(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="relays nothing"):
        Aiosmtpd(Site(tmp_path, CACHE, relay_to=1))
