"""Who may not ask learns nothing: known and unknown users get the same words, in the same time.

Times are medians, the kinds taken by turns. How far two runs over the same kind lie apart is the noise, and known and
unknown may lie apart by no more than that, with a floor of a few microseconds or per cent.
"""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import pytest

from tests.live.support import HOST, Client, Server

DOMAIN = "example.test"
KNOWN, UNKNOWN = f"alice@{DOMAIN}", f"nobody@{DOMAIN}"
TIMES = 1000
_NOISE_FLOOR = 0.02  # of the median
_NOISE_FACTOR = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    many = 1_000_000
    settings = {
        "listener": [{"name": "mx", "address": f"{HOST}:0"}],
        "limits": {"probes": many, "errors": many, "auth_failures": many, "session_auth_failures": many},
    }
    with Server(tmp_path_factory.mktemp("leak"), settings=settings) as started:
        started.local(*(f"user{number}@{DOMAIN}" for number in range(50)))
        started.call_with(b"correct horse", "user_add", address=KNOWN, name="Alice Liddell")
        started.person(f"off@{DOMAIN}", "correct horse")
        started.cli("user", "disable", f"off@{DOMAIN}")
        started.call("user_add", address=f"bare@{DOMAIN}", name="")
        started.cli("list", "add", f"staff@{DOMAIN}", KNOWN)
        yield started


def timed(client: Client, line: str) -> tuple[float, str]:
    begun = perf_counter()
    reply = client.say(line)
    return perf_counter() - begun, reply


def alike(server: Server, known: Callable[[int], str], unknown: Callable[[int], str], times: int) -> str:
    """The one reply to all of them, after their times were held against each other."""
    kinds = {"known": known, "unknown": unknown, "known again": known, "unknown again": unknown}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    replies = set()
    rng = random.Random(1)
    with Client(server.port) as client:
        for number in range(times):
            for kind in rng.sample(list(kinds), len(kinds)):
                seconds, reply = timed(client, kinds[kind](number))
                found[kind].append(seconds)
                replies.add(reply)
    assert len(replies) == 1, replies
    apart_within_the_noise(found)
    return replies.pop()


def apart_within_the_noise(found: dict[str, list[float]]) -> None:
    medians = {kind: median(seconds) for kind, seconds in found.items()}
    noise = max(
        abs(medians["known"] - medians["known again"]),
        abs(medians["unknown"] - medians["unknown again"]),
        _NOISE_FLOOR * medians["known"],
    )
    apart = abs(median(found["known"] + found["known again"]) - median(found["unknown"] + found["unknown again"]))
    print({kind: f"{value * 1e6:.1f} us" for kind, value in medians.items()}, f"apart {apart * 1e6:.2f} us")  # noqa: T201
    assert apart <= _NOISE_FACTOR * noise, medians


@pytest.mark.parametrize("verb", ["VRFY", "EXPN"])
def test_names(server: Server, verb: str) -> None:
    known = KNOWN if verb == "VRFY" else f"staff@{DOMAIN}"
    reply = alike(server, lambda _: f"{verb} {known}", lambda _: f"{verb} {UNKNOWN}", TIMES)
    assert reply.startswith("252 2.5.0")


def plain(name: str, password: str) -> str:
    return "AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()).decode()


@pytest.mark.parametrize("times", [60, pytest.param(TIMES, marks=[pytest.mark.matrix, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("other", [UNKNOWN, f"off@{DOMAIN}", f"bare@{DOMAIN}"])
def test_passwords(server: Server, other: str, times: int) -> None:
    reply = alike(
        server, lambda number: plain(KNOWN, f"wrong {number}"), lambda number: plain(other, f"wrong {number}"), times
    )
    assert reply.startswith("535 5.7.8")


def first(name: str) -> str:
    return "AUTH SCRAM-SHA-256 " + b64encode(f"n,,n={name},r=chance".encode()).decode()


def proved(client: Client, name: str) -> tuple[float, str, str]:
    """How long a login by SCRAM with a wrong proof takes, its challenge without what is chance, and its end."""
    begun = perf_counter()
    challenge = b64decode(client.say(first(name)).split()[1]).decode()
    nonce, salt, iterations = challenge.split(",")
    proof = b64encode(bytes(32)).decode()
    reply = client.say(b64encode(f"c=biws,{nonce},p={proof}".encode()))
    return perf_counter() - begun, f"{len(nonce)} {len(salt)} {iterations}", reply


@pytest.mark.parametrize("times", [200, pytest.param(TIMES, marks=pytest.mark.matrix)])
@pytest.mark.parametrize("other", [UNKNOWN, "nobody", f"off@{DOMAIN}", f"bare@{DOMAIN}"])
def test_scram(server: Server, other: str, times: int) -> None:
    """Not by the time, the text or the challenge can somebody be told from nobody."""
    kinds = {"known": KNOWN, "unknown": other, "known again": KNOWN, "unknown again": other}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    said = set()
    rng = random.Random(1)
    with Client(server.port) as client:
        for _ in range(times):
            for kind in rng.sample(list(kinds), len(kinds)):
                seconds, challenge, reply = proved(client, kinds[kind])
                found[kind].append(seconds)
                said.add((challenge, reply))
    assert len(said) == 1 and said.pop()[1].startswith("535 5.7.8")
    apart_within_the_noise(found)


def test_a_salt_stays_what_it_is(server: Server) -> None:
    """One that changed would be nobody's."""

    def salt(name: str) -> str:
        with Client(server.port) as client:
            return b64decode(client.say(first(name)).split()[1]).decode().split(",")[1]

    for local in ("alice", "nobody", "bare"):
        names = (local, local.upper(), f"{local}@{DOMAIN}", f"{local.title()}@{DOMAIN.upper()}")
        assert len({salt(name) for name in names}) == 1, local
    assert len({salt(name) for name in ("alice", "nobody", "bare", "off")}) == 4


def test_who_is_disabled_is_told_no_more_by_the_right_password(server: Server) -> None:
    with Client(server.port) as client:
        assert client.say(plain(f"off@{DOMAIN}", "correct horse")) == client.say(plain(UNKNOWN, "correct horse"))
        assert client.say(plain(KNOWN, "correct horse")).startswith("235 ")
