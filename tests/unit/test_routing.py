"""Routes, lanes, and the walk over the hosts of a next hop."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from pillarbox.core.address import Domain, Host, Mailbox, parse_host
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.mail import Place
from pillarbox.engine.ports import DnsFault, EarlyAddresses, MxRecord, NoRecords, User
from pillarbox.engine.routing import (
    Discard,
    HoldHop,
    LmtpSocket,
    MaildirHop,
    Mx,
    NextHop,
    Pipe,
    Route,
    Router,
    SmartHost,
    TlsPolicy,
    Turn,
    parse_next_hop,
)
from pillarbox.engine.walk import MAX_HOSTS, MAX_TRIES, AskAddresses, AskMx, Exhausted, MxWalk, Race, Try, TrySocket
from pillarbox.sim.dns import ScriptedAddresses, ScriptedMx, ScriptedResolver

US = Domain.parse("us.example.test")


# --- next hops and routes


@pytest.mark.parametrize(
    ("source", "next_hop"),
    [
        ("mx", Mx()),
        ("maildir", MaildirHop()),
        ("discard", Discard()),
        ("turn", Turn()),
        ("smtp://127.0.0.1:2600", SmartHost("127.0.0.1", 2600)),
        ("smtp://[::1]:25", SmartHost("::1", 25)),
        ("smtp://[0:0::1]", SmartHost("::1", 25)),
        ("smtp://Relay.Example.test/", SmartHost("relay.example.test", 25)),
        ("smtp://relay:65535", SmartHost("relay", 65535)),
        ("smtps://relay.test", SmartHost("relay.test", 465, implicit_tls=True)),
        ("smtps://[::1]:2465", SmartHost("::1", 2465, implicit_tls=True)),
        ("smtp://bücher.example", SmartHost("xn--bcher-kva.example", 25)),
        ("lmtp://Relay.test:2424", SmartHost("relay.test", 2424, lmtp=True)),
        ("lmtp://[::1]", SmartHost("::1", 24, lmtp=True)),
        ("lmtp:unix:/run/dovecot/lmtp", LmtpSocket("/run/dovecot/lmtp")),
        ("lmtp:unix:a socket", LmtpSocket("a socket")),
        ("pipe", Pipe()),
        ("hold", HoldHop()),
    ],
)
def test_next_hops(source: str, next_hop: NextHop) -> None:
    assert parse_next_hop(source) == next_hop


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("lmtp://relay.test:25", "LMTP must not be on port 25"),
        ("lmtp://", "is none of"),
        ("lmtp:unix:", "is none of"),
        ("lmtp:/run/lmtp", "is none of"),
        ("lmtp:unix:a\0b", "is none of"),
        ("pipe:/bin/cat", "is none of"),
        ("pigeon", "is none of mx, smtp://HOST, smtp://HOST:PORT, smtps://HOST, "),
        ("smtps:relay.test", "is none of"),
        ("smtps://host:0", "no port between 1 and 65535"),
        ("Turn", "is none of"),
        ("", "is none of"),
        ("MX", "is none of"),
        ("smtp://", "is none of"),
        ("smtp://::1", "is none of"),
        ("smtp://a b", "is none of"),
        ("smtp://host:0", "no port between 1 and 65535"),
        ("smtp://host:65536", "no port between 1 and 65535"),
        ("smtp://-host-", "has no valid host"),
        ("smtp://[127.0.0.x]", "is none of"),
        ("smtp://[:::]", "has no valid host"),
    ],
)
def test_what_is_no_next_hop(source: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_next_hop(source)


@pytest.mark.parametrize("match", ["", "*.", "*.*", "a@", "@example.test", "a b", "*example.test"])
def test_what_matches_nothing(match: str) -> None:
    with pytest.raises(ValueError, match="is neither"):
        Route(match, Mx())


DIRECTORY = Snapshot(
    domains=(Domain.parse("local.test"), Domain.parse("both.test")),
    relay_domains=(Domain.parse("relayed.test"), Domain.parse("kept.test"), Domain.parse("sent.test")),
    users=(
        User(Mailbox.parse("owner@local.test"), owns=(Domain.parse("kept.test"), Domain.parse("sent.test"))),
        User(Mailbox.parse("other@local.test"), enabled=False, owns=(Domain.parse("kept.test"),)),
    ),
)
ROUTES = [
    Route("Boss@Example.org", Discard()),
    Route("*.example.org", SmartHost("192.0.2.1", 2600)),
    Route("example.org", SmartHost("::1", 25), TlsPolicy.REQUIRED),
    Route("deep.sub.example.org", Discard()),  # never: *.example.org stands before it
    Route("secret.test", SmartHost("relay.test", 587), TlsPolicy.VERIFIED, "relay.secret"),
    Route("plain.test", Mx(), TlsPolicy.OFF),
    Route("odd.test", Mx(port=2525)),
    Route("both.test", Discard()),
    Route("[192.0.2.7]", Discard()),
    Route("example.org", Discard()),  # never
    Route("turned.test", Turn()),
    Route("sent.test", SmartHost("host.sent.test")),
    Route("vip@kept.test", Mx()),
    Route("wrapped.test", SmartHost("relay.test", 465, implicit_tls=True)),
    Route("wrapped6.test", SmartHost("::1", 465, implicit_tls=True), TlsPolicy.VERIFIED),
    Route("local-host.test", SmartHost("relay.test", 24, lmtp=True)),
    Route("socket.test", LmtpSocket("/run/lmtp"), credentials="relay.secret"),
    Route("piped.test", Pipe(("/bin/a b", "{local}"), 1.5)),
]


@pytest.mark.parametrize(
    ("address", "lane", "position"),
    [
        ("bOSS@example.ORG", "discard", 0),
        ("other@example.org", "smtp:[::1]:25;tls=required", 2),
        ("x@sub.example.org", "smtp:192.0.2.1:2600", 1),
        ("x@deep.sub.example.org", "smtp:192.0.2.1:2600", 1),
        ("x@notexample.org", "mx:notexample.org", None),
        ("x@secret.test", "smtp:relay.test:587;tls=verified;auth=relay.secret", 4),
        ("x@plain.test", "mx:plain.test;tls=off", 5),
        ("x@odd.test", "mx:odd.test:2525", 6),
        ("x@both.test", "discard", 7),
        ("x@local.test", "maildir", None),
        ("x@[192.0.2.7]", "discard", 8),
        ("x@[192.0.2.8]", "mx:[192.0.2.8]", None),
        ("x@[IPv6:2001:db8::1]", "mx:[IPv6:2001:db8::1]", None),
        ("x@org", "mx:org", None),
        ("x@turned.test", "turn:turned.test", 10),
        ("x@relayed.test", "mx:relayed.test", None),
        ("x@kept.test", "turn:kept.test", None),  # since somebody owns it
        ("vip@kept.test", "mx:kept.test", 12),
        ("x@sub.kept.test", "mx:sub.kept.test", None),
        ("x@sent.test", "smtp:host.sent.test:25", 11),
        ("x@wrapped.test", "smtps:relay.test:465", 13),
        ("x@wrapped6.test", "smtps:[::1]:465;tls=verified", 14),
        ("x@local-host.test", "lmtp:relay.test:24", 15),
        ("x@socket.test", "lmtp:unix:/run/lmtp;auth=relay.secret", 16),
        ("x@piped.test", "pipe:'/bin/a b' '{local}';timeout=1.5;line_end=lf", 17),
    ],
)
def test_the_first_match_wins(address: str, lane: str, position: int | None) -> None:
    found, route = Router(ROUTES, DIRECTORY).route(Mailbox.parse(address))
    assert found == lane
    if position is not None:
        assert route is ROUTES[position]


@pytest.mark.parametrize(
    ("domain", "lane", "next_hop"),
    [
        ("kept.test", "turn:kept.test", Turn()),
        ("turned.test", "turn:turned.test", Turn()),
        ("sent.test", "smtp:host.sent.test:25", SmartHost("host.sent.test")),
        ("relayed.test", "mx:relayed.test", Mx()),
        ("local.test", "maildir", MaildirHop()),
    ],
)
def test_where_mail_for_a_domain_waits(domain: str, lane: str, next_hop: NextHop) -> None:
    """Where each of its recipients would, so that what waits there is found."""
    place, route = Router(ROUTES, DIRECTORY).place(Domain(domain))
    assert (place, route.next_hop) == (Place(lane, Domain(domain)), next_hop)
    assert Router(ROUTES, DIRECTORY).route(Mailbox.parse(f"somebody@{domain}"))[0] == lane


def test_everything_to_one_place() -> None:
    router = Router([Route("*", SmartHost("relay.test"))], DIRECTORY)
    for address in ("x@local.test", "x@far.example", "x@[192.0.2.8]"):
        assert router.route(Mailbox.parse(address))[0] == "smtp:relay.test:25"


def test_the_defaults() -> None:
    router = Router([], DIRECTORY)
    assert router.route(Mailbox.parse("x@local.test")) == ("maildir", Route("*", MaildirHop()))
    assert router.route(Mailbox.parse("x@far.example")) == ("mx:far.example", Route("*", Mx()))


def test_a_next_hop_that_an_operator_chose() -> None:
    relay = Route("other.test", SmartHost("relay.test", 2600), TlsPolicy.REQUIRED, "relay.secret")
    router, box = Router([relay], DIRECTORY), Mailbox.parse("x@far.example")
    assert router.by_hand("smtp://backup.test", box) == ("smtp:backup.test:25", Route("*", SmartHost("backup.test")))
    assert router.by_hand("smtp://relay.test:2600", box) == (
        "smtp:relay.test:2600;tls=required;auth=relay.secret",
        relay,
    )
    assert router.by_hand("mx", box)[0] == "mx:far.example"
    assert router.by_hand("of a later version", box) == router.route(box)


# --- the walk


def unshuffled(records: list[MxRecord]) -> None:
    pass


def walk_to(name: str, next_hop: Mx | SmartHost | LmtpSocket | None = None) -> MxWalk:
    host: Host = parse_host(name)
    return MxWalk(next_hop or Mx(), host, US, unshuffled)


def drive(walk: MxWalk, resolver: ScriptedResolver) -> tuple[list[str], Exhausted]:
    """Every connection fails. Gives what was tried, and the end."""

    async def run() -> tuple[list[str], Exhausted]:
        tried: list[str] = []
        while True:
            match walk.next_question():
                case AskMx(domain=domain):
                    walk.answer(await resolver.mx(domain))
                case AskAddresses(host=host, every=True):
                    walk.answer(await resolver.addresses(host))
                case AskAddresses(host=host):
                    walk.answer(await resolver.first_addresses(host))
                case Race(tries=(Try(host=host, ip=ip, port=port) as target, *_)):
                    tried.append(f"{host} {ip} {port}")
                    walk.failed(target, "connection refused")
                case Exhausted() as end:
                    return tried, end

    return asyncio.run(run())


ADDRESSES: dict[str, ScriptedAddresses] = {
    "a.test": ["192.0.2.1"],
    "b.test": ["192.0.2.2", "192.0.2.3", "2001:db8::2", "192.0.2.4"],
    "c.test": ["2001:db8::3"],
    "only.test": ["192.0.2.9"],
    "us.example.test": ["192.0.2.99"],
    "bare.test": NoRecords(),
    "broken.test": DnsFault("SERVFAIL"),
}
A, C = "a.test 192.0.2.1 25", "c.test 2001:db8::3 25"
B = ["b.test 2001:db8::2 25", "b.test 192.0.2.2 25", "b.test 192.0.2.3 25", "b.test 192.0.2.4 25"]


@pytest.mark.parametrize(
    ("mx", "tried", "status", "permanent"),
    [
        ([(20, "b.test"), (10, "a.test")], [A, *B], "4.4.1", False),
        ([(10, "A.test"), (10, "c.test"), (20, "a.test")], [A, C], "4.4.1", False),
        ([(10, "bare.test"), (20, "gone.test"), (30, "a.test")], [A], "4.4.1", False),
        ([(10, "broken.test"), (20, "a.test")], [A], "4.4.1", False),
        ([(10, "broken.test"), (20, "gone.test")], [], "4.4.3", False),
        ([(10, "gone.test"), (20, "bare.test")], [], "4.4.1", False),
        ([(0, "")], [], "5.1.10", True),
        ([(0, ""), (10, "a.test")], [A], "4.4.1", False),
        # We stand among them (RFC 5321 §5.1).
        ([(10, "a.test"), (20, "US.example.test"), (20, "b.test"), (30, "c.test")], [A], "4.4.1", False),
        ([(10, "us.example.test"), (20, "a.test")], [], "5.4.6", True),
        (DnsFault("time-out"), [], "4.4.3", False),
        ([], ["dest.test 192.0.2.50 25"], "4.4.1", False),
        # An address where a name belongs (RFC 5321 §5.1), however it is written.
        ([(5, "192.0.2.66"), (10, "a.test")], [A], "4.4.1", False),
        ([(5, "192.0.2.66"), (6, "2001:db8::66")], [], "4.4.1", False),
    ],
)
def test_mx_sets(mx: ScriptedMx, tried: list[str], status: str, permanent: bool) -> None:
    walk = walk_to("dest.test")
    found, end = drive(
        walk, ScriptedResolver(mx={"dest.test": mx}, addresses={"dest.test": ["192.0.2.50"]} | ADDRESSES)
    )
    assert (found, str(end.status), end.permanent) == (tried, status, permanent)
    assert end.text in walk.notes


@pytest.mark.parametrize(
    ("domain", "tried", "status", "permanent", "text"),
    [
        ("only.test", ["only.test 192.0.2.9 25"], "4.4.1", False, "connection refused"),  # the implicit MX
        ("nowhere.test", [], "5.1.2", True, "domain nowhere.test does not exist"),
        ("bare.test", [], "5.1.2", True, "neither MX nor address records"),
        ("broken.test", [], "4.4.3", False, "SERVFAIL"),
        ("us.example.test", [], "5.4.6", True, "leads back to this host"),
        ("[192.0.2.77]", ["[192.0.2.77] 192.0.2.77 25"], "4.4.1", False, "connection refused"),
        ("[IPv6:2001:db8::7]", ["[IPv6:2001:db8::7] 2001:db8::7 25"], "4.4.1", False, "connection refused"),
    ],
)
def test_without_mx(domain: str, tried: list[str], status: str, permanent: bool, text: str) -> None:
    found, end = drive(walk_to(domain), ScriptedResolver(addresses=ADDRESSES))
    assert (found, str(end.status), end.permanent) == (tried, status, permanent)
    assert text in end.text


@pytest.mark.parametrize(
    ("hop", "asked", "tried", "status"),
    [
        (SmartHost("a.test", 2600), [("A", "a.test")], ["a.test 192.0.2.1 2600"], "4.4.1"),
        (SmartHost("192.0.2.5", 25), [], ["192.0.2.5 192.0.2.5 25"], "4.4.1"),
        (SmartHost("::1", 25), [], ["::1 ::1 25"], "4.4.1"),
        (SmartHost("gone.test", 25), [("A", "gone.test")], [], "4.4.1"),
        (SmartHost("bare.test", 25), [("A", "bare.test")], [], "4.4.1"),
        (SmartHost("broken.test", 25), [("A", "broken.test")], [], "4.4.3"),
        (SmartHost("us.example.test", 26), [("A", "us.example.test")], ["us.example.test 192.0.2.99 26"], "4.4.1"),
    ],
)
def test_smart_hosts_are_not_subject_to_mx(
    hop: SmartHost, asked: list[tuple[str, str]], tried: list[str], status: str
) -> None:
    resolver = ScriptedResolver(mx={hop.host: [(10, "c.test")]}, addresses=ADDRESSES)
    if hop.host == "gone.test":
        resolver = ScriptedResolver(addresses=ADDRESSES)
    for domain in ("dest.test", "[192.0.2.77]"):
        resolver.asked.clear()
        found, end = drive(walk_to(domain, hop), resolver)
        assert (found, str(end.status), resolver.asked, end.permanent) == (tried, status, asked, False)


def test_a_socket_is_tried_once_and_nothing_is_asked() -> None:
    walk = walk_to("dest.test", LmtpSocket("/run/lmtp"))
    assert walk.next_question() == TrySocket("/run/lmtp")
    walk.failed(TrySocket("/run/lmtp"), "Connection refused")
    end = walk.next_question()
    assert isinstance(end, Exhausted) and (str(end.status), end.permanent) == ("4.4.1", False)
    assert "unix:/run/lmtp: Connection refused" in end.text


def test_an_implicit_mx_that_vanishes_meanwhile_is_no_verdict() -> None:
    walk = walk_to("only.test")
    walk.answer(NoRecords())
    _, end = drive(walk, ScriptedResolver())
    assert (str(end.status), end.permanent) == ("4.4.1", False)


def test_what_was_known_too_late_is_asked_for_when_all_else_has_failed() -> None:
    four, six = ip_address("192.0.2.1"), ip_address("2001:db8::1")
    first, second = Try("a.test", four, 25), Try("a.test", six, 25)
    for rest, after in (
        ((six, four), Race((second,))),
        ((four,), AskAddresses("b.test")),
        (NoRecords(), AskAddresses("b.test")),
        (DnsFault("SERVFAIL"), AskAddresses("b.test")),
    ):
        walk = walk_to("dest.test")
        walk.answer((MxRecord(10, "a.test"), MxRecord(20, "b.test")))
        walk.answer(EarlyAddresses((four,)))
        assert walk.next_question() == Race((first,))
        walk.failed(first, "refused")
        assert walk.next_question() == AskAddresses("a.test", every=True)
        walk.answer(rest)
        assert walk.next_question() == after


def test_any_of_a_race_may_fail_first() -> None:
    walk = walk_to("b.test")
    walk.answer((MxRecord(10, "b.test"),))
    walk.answer((ip_address("192.0.2.2"), ip_address("192.0.2.3"), ip_address("2001:db8::2")))
    question = walk.next_question()
    assert isinstance(question, Race)
    assert [str(each) for each in question.tries] == [
        "b.test [2001:db8::2]",
        "b.test [192.0.2.2]",
        "b.test [192.0.2.3]",
    ]
    walk.failed(question.tries[1], "refused")
    assert walk.next_question() == Race((question.tries[0], question.tries[2]))
    with pytest.raises(RuntimeError, match="is not to be tried"):
        walk.failed(question.tries[1], "refused")


def test_equal_preferences_are_shuffled_and_unequal_ones_are_not() -> None:
    mx = [(10, f"h{n}.test") for n in range(8)] + [(5, "first.test"), (20, "last.test")]
    addresses = {name: [f"192.0.2.{n}"] for n, (_, name) in enumerate(mx)}
    orders: set[tuple[str, ...]] = set()
    for seed in range(5):
        walk = MxWalk(Mx(), Domain.parse("dest.test"), US, random.Random(seed).shuffle)
        tried, _ = drive(walk, ScriptedResolver(mx={"dest.test": mx}, addresses=addresses))
        orders.add(tuple(tried))
        assert tried[0].startswith("first.test") and tried[-1].startswith("last.test")
    assert len(orders) > 1


def test_hosts_and_tries_have_bounds() -> None:
    names = [f"h{n:02}.test" for n in range(50)]
    mx = {"dest.test": [(n, name) for n, name in enumerate(names)]}
    tried, _ = drive(walk_to("dest.test"), ScriptedResolver(mx=mx, addresses={name: ["192.0.2.1"] for name in names}))
    assert [line.split()[0] for line in tried] == names[:MAX_HOSTS]
    many: Sequence[str] = [f"192.0.2.{n}" for n in range(100)]
    tried, _ = drive(walk_to("dest.test"), ScriptedResolver(mx=mx, addresses=dict.fromkeys(names, many)))
    assert len(tried) == MAX_TRIES


def test_a_question_stands_until_it_is_answered() -> None:
    walk = walk_to("dest.test", Mx(port=2525))
    assert walk.next_question() == walk.next_question() == AskMx(Domain.parse("dest.test"))
    target = Try("a.test", ip_address("192.0.2.1"), 2525)
    with pytest.raises(RuntimeError, match="is not to be tried"):
        walk.failed(target, "no")
    walk.answer((MxRecord(10, "a.test"),))
    assert walk.next_question() == walk.next_question() == AskAddresses("a.test")
    walk.answer((ip_address("192.0.2.1"),))
    assert walk.next_question() == walk.next_question() == Race((target,))
    with pytest.raises(RuntimeError, match="is not to be tried"):
        walk.failed(Try("a.test", ip_address("192.0.2.2"), 2525), "no")
    with pytest.raises(RuntimeError, match="nothing was asked"):
        walk.answer(NoRecords())


def test_the_notes_tell_the_whole_walk() -> None:
    resolver = ScriptedResolver(
        mx={"dest.test": [(10, "a.test"), (20, "gone.test"), (30, "us.example.test"), (40, "c.test")]},
        addresses=ADDRESSES,
    )
    walk = walk_to("dest.test")
    drive(walk, resolver)
    assert walk.notes == [
        "MX of dest.test: 10 a.test, 20 gone.test, 30 us.example.test, 40 c.test",
        "us.example.test is this host: only what is preferred to it is tried",
        "addresses of a.test: 192.0.2.1",
        "a.test [192.0.2.1]: connection refused",
        "addresses of gone.test: none",
        "no host for dest.test could be reached, the last one a.test [192.0.2.1]: connection refused",
    ]
    assert resolver.asked == [("MX", "dest.test"), ("A", "a.test"), ("A", "gone.test")]
