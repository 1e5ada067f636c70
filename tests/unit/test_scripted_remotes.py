"""Remote servers that do one odd thing at one step, each step with each oddity, against the real queue and client.

The tables are read so: a line is an oddity, a column the step at which the remote does it, a cell what then becomes of
the two recipients, of both or of the first and the second:

D  delivered                     u  deferred 4.4.1, no host could be used     4  deferred by its 4yz
?  deferred, maybe delivered     l  deferred 4.4.2, the connection ended      5  failed by its 5yz
                                 o  deferred 4.5.0, a reply that can't be
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from pillarbox.engine import queue as queue_module
from pillarbox.engine.mail import Octets, State
from pillarbox.engine.ports import DnsFault, NoDomain, NoRecords
from pillarbox.engine.records import Kind
from pillarbox.engine.routing import TlsPolicy
from pillarbox.engine.walk import MAX_TRIES
from pillarbox.net.pool import KEPT_FREE, SWEEP
from pillarbox.net.timeouts import Deadlines
from pillarbox.sim.dns import ScriptedAddresses, ScriptedMx, ScriptedResolver
from pillarbox.smtp.sasl import Credentials
from tests.making import TEXT, turns
from tests.remote_rig import Found, House, Oddity, Talk, assert_no_faults

WORDS = {
    "D": "delivered",
    "?": "ambiguous 4.4.2",
    "u": "deferred 4.4.1",
    "l": "deferred 4.4.2",
    "o": "deferred 4.5.0",
    "4": "deferred 4.0.0",
    "5": "failed 5.0.0",
}
STATES = {"D": State.DELIVERED, "5": State.FAILED}  # the others are scheduled
LARGE = b"Subject: x\r\n\r\n" + b"A line of the text, which is to be longer than any buffer.\r\n" * 3000

# --- the oddities


def stall(talk: Talk, usual: bytes) -> None:
    talk.is_mute = True


def drip(talk: Talk, usual: bytes) -> None:
    """A line of a reply every minute, and never the last."""
    talk.is_mute = True

    def once_more() -> None:
        if not talk.pipe.is_closing():
            talk.say(b"250-wait\r\n")
            talk.remote.clock.call_later(60.0, once_more)

    once_more()


def code(number: int) -> Oddity:
    def odd(talk: Talk, usual: bytes) -> None:
        talk.say(b"%d odd\r\n" % number)
        if number // 100 == 3 and usual[:1] == b"3":
            talk.invite()

    return odd


def lines(count: int) -> Oddity:
    def many(talk: Talk, usual: bytes) -> None:
        head = usual[:3] or b"250"
        talk.say((head + b"-and more\r\n") * count + usual)
        if usual[:1] == b"3":
            talk.invite()

    return many


def raw(octets: bytes) -> Oddity:
    return lambda talk, usual: talk.say(octets)


def closing(count: int | None) -> Oddity:
    """Behind so many octets of the usual reply; None: behind all of them."""

    def close(talk: Talk, usual: bytes) -> None:
        talk.say(usual[:count])
        talk.close()

    return close


def reset(talk: Talk, usual: bytes) -> None:
    talk.close(ConnectionResetError(104, "Connection reset by peer"))


def thinks_again(talk: Talk, usual: bytes) -> None:
    """5yz after a 250, in one segment."""
    talk.say(usual + b"550 5.0.0 on second thoughts\r\n")
    if usual[:1] == b"3":
        talk.invite()


ODDITIES: dict[str, Oddity] = {
    "stall": stall,
    "drip": drip,
    "bare LF": raw(b"250 Ok\n"),
    **{str(number): code(number) for number in (200, 225, 254, 300, 350, 421, 440, 599)},
    "100,000 lines": lines(100_000),
    "250,000 lines": lines(250_000),
    "garbage": raw(b"\xff\x00 HTTP/1.1 400 Bad Request\r\n"),
    "empty line": raw(b"\r\n"),
    "two codes": raw(b"250-Ok\r\n251 Ok\r\n"),
    "1yz": raw(b"150 Ok\r\n"),
    "no line end": raw(b"250 " + b"x" * 1_200_000),
    **{f"close at {count}": closing(count) for count in (0, 1, 3, 4, 5, 7)},
    "close behind": closing(None),
    "reset": reset,
    "thinks again": thinks_again,
}
SLOW = {"stall", "drip", "bare LF"}

SMTP = """\
               greeting EHLO HELO STARTTLS AUTH MAIL RCPT-1 RCPT-2 DATA end RSET
stall          u        u    u    u        u    l    l      l      l    ?   D
drip           u        u    u    u        u    l    l      l      l    ?   D
bare-LF        u        u    u    u        u    l    l      l      l    ?   D
200            D        D    D    D        D    D    D      D      o    D   D
225            D        D    D    D        D    D    D      D      o    D   D
254            D        D    D    D        D    D    D      D      o    D   D
300            u        u    u    u        u    o    o      o      D    o   o
350            u        u    u    u        u    o    o      o      D    o   o
440            u        u    u    D        u    4    4D     D4     4    4   o
599            u        D    u    D        u    5    5D     D5     5    5   o
421            u        u    u    u        u    4    4      4      4    4   D
100,000-lines  D        D    D    D        D    D    D      D      D    D   D
250,000-lines  u        u    u    u        u    l    l      l      l    ?   D
garbage        u        u    u    u        u    l    l      l      l    ?   D
empty-line     u        u    u    u        u    l    l      l      l    ?   D
two-codes      u        u    u    u        u    l    l      l      l    ?   D
1yz            u        u    u    u        u    l    l      l      l    ?   D
no-line-end    u        u    u    u        u    l    l      l      l    ?   D
close-at-0     u        u    u    u        u    l    l      l      l    ?   D
close-at-1     u        u    u    u        u    l    l      l      l    ?   D
close-at-3     u        u    u    u        u    l    l      l      l    ?   D
close-at-4     u        u    u    u        u    l    l      l      l    ?   D
close-at-5     u        u    u    u        u    l    l      l      l    ?   D
close-behind   u        u    u    D        u    l    l      l      ?    D   l
reset          u        u    u    u        u    l    l      l      l    ?   D
thinks-again   u        u    u    u        u    l    l      l      l    D   l
"""
# What comes before its command is known for what it is; where all commands have gone out, it is not.
PIPELINED = """\
               MAIL RCPT-1 RCPT-2 DATA end RSET
stall          l    l      l      l    ?   D
drip           l    l      l      l    ?   D
200            D    D      D      o    D   D
225            D    D      D      o    D   D
254            D    D      D      o    D   D
300            o    o      o      D    o   o
350            o    o      o      D    o   o
440            4    4D     D4     4    4   o
599            5    5D     D5     5    5   o
421            4    4      4      4    4   D
100,000-lines  D    D      D      D    D   D
250,000-lines  l    l      l      l    ?   D
garbage        l    l      l      l    ?   D
empty-line     l    l      l      l    ?   D
two-codes      l    l      l      l    ?   D
close-at-0     l    l      l      l    ?   D
close-at-7     l    l      l      l    ?   D
close-behind   l    l      l      ?    D   l
reset          l    l      l      l    ?   D
thinks-again   5o   o5     5      l    D   5
"""
LMTP = """\
               greeting LHLO MAIL RCPT-1 RCPT-2 DATA end-1 end-2 RSET
stall          u        u    l    l      l      l    ?     D?    D
drip           u        u    l    l      l      l    ?     D?    D
200            D        D    D    D      D      o    D     D     D
225            D        D    D    D      D      o    D     D     D
300            u        u    o    o      o      D    o     Do    o
350            u        u    o    o      o      D    o     Do    o
440            u        u    4    4D     D4     4    4D    D4    o
599            u        u    5    5D     D5     5    5D    D5    o
421            u        u    4    4      4      4    4     D4    D
100,000-lines  D        D    D    D      D      D    D     D     D
garbage        u        u    l    l      l      l    ?     D?    D
empty-line     u        u    l    l      l      l    ?     D?    D
close-at-0     u        u    l    l      l      l    ?     D?    D
close-behind   u        u    l    l      l      ?    D?    D     l
reset          u        u    l    l      l      l    ?     D?    D
thinks-again   u        u    5o   o5     5      l    D5    D     5
"""


@dataclass(frozen=True)
class Row:
    """One behaviour of a remote."""

    manner: str  # one by one, pipelined, LMTP
    step: str
    oddity: str
    cell: str
    seconds: float  # that it takes until the outcome is known

    def __str__(self) -> str:
        return f"{self.manner}-{self.step}-{self.oddity}"

    @property
    def letters(self) -> str:
        return self.cell * 2 if len(self.cell) == 1 else self.cell


def rows(manner: str, table: str) -> Iterator[Row]:
    head, *body = table.splitlines()
    for line in body:
        oddity, *cells = line.split()
        for step, cell in zip(head.split(), cells, strict=True):
            step, odd = step.replace("-", " "), oddity.replace("-", " ", 1) if "-at" not in oddity else oddity
            odd = odd.replace("-", " ")
            yield Row(manner, step, odd, cell, _seconds(step, odd, cell))


def _seconds(step: str, oddity: str, cell: str) -> float:
    if oddity in SLOW:
        return SECONDS.get(step.partition(" ")[0], Deadlines().command)
    if step == "STARTTLS" and cell == "D" and oddity not in ("440", "599", "close behind"):
        return Deadlines().handshake  # the remote does not know how TLS goes
    return 0.0


SECONDS = {  # RFC 5321 §4.5.3.2
    "greeting": 300.0,
    "EHLO": 300.0,
    "HELO": 300.0,
    "LHLO": 300.0,
    "MAIL": 300.0,
    "RCPT": 300.0,
    "DATA": 120.0,
    "end": 600.0,
}
ROWS = [*rows("one by one", SMTP), *rows("pipelined", PIPELINED), *rows("LMTP", LMTP)]


def test_there_are_enough_behaviours() -> None:
    assert len({str(row) for row in ROWS}) == len(ROWS) >= 150
    assert {row.oddity for row in ROWS} == set(ODDITIES)


def house(row: Row) -> House:
    remote: dict[str, Any] = {"lmtp": row.manner == "LMTP", "oddities": {row.step: ODDITIES[row.oddity]}}
    keywords = () if row.manner == "one by one" else ("PIPELINING", "ENHANCEDSTATUSCODES")
    changes: dict[str, Any] = {}
    match row.step:
        case "HELO":
            remote["answers"] = {"EHLO": "500 What?"}
        case "STARTTLS":
            keywords, changes["tls"] = (*keywords, "STARTTLS"), TlsPolicy.OPPORTUNISTIC
        case "AUTH":
            keywords, changes["credentials"] = (*keywords, "AUTH PLAIN"), Credentials("user", "secret")
        case "RSET":
            remote["at_first"] = {"RCPT 1": "550 5.1.1 Who"}
            if row.manner != "one by one":
                remote["at_first"]["DATA"] = "503 5.5.1 To whom?"
    return House(**changes, keywords=keywords, **remote)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def check(found: list[Found], letters: str) -> None:
    assert [str(each) for each in found] == [WORDS[letter] for letter in letters]
    for each, letter in zip(found, letters, strict=True):
        assert each.state is STATES.get(letter, State.SCHEDULED)
        assert each.reply.startswith("maybe delivered: ") == (letter == "?")
        assert len(each.reply) < 2500


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_recipient_is_where_it_should_be(row: Row, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = house(row)
        if row.step == "RSET":
            first = await here.accept("x@far.example")
            assert [str(each) for each in await here.settled(first, within=1)] == ["failed 5.1.1"]
        message = await here.accept("a@far.example", "b@far.example")
        found = await here.settled(message, within=row.seconds + 2 * SWEEP)
        check(found, row.letters)
        assert all(row.seconds <= each.after <= row.seconds + 2 * SWEEP for each in found)
        assert here.remote.played == 1
        if row.cell == "u":
            (kind,) = {record.kind for record in here.of(message) if record.recipient is None}
            assert kind is Kind.ATTEMPT
        elif "D" in row.letters:
            assert here.remote.texts == [TEXT]
        await here.pass_time(int(KEPT_FREE) + 2)
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


# --- a close at any byte

CUTS: dict[str, Callable[[], House]] = {
    "one by one": House,
    "pipelined": partial(House, keywords=("PIPELINING",)),
    "LMTP": partial(House, keywords=("PIPELINING",), lmtp=True),
}


@pytest.mark.parametrize("manner", CUTS)
def test_a_close_at_any_byte(manner: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of all that the remote says: deferred, and maybe delivered once the text has gone out."""

    async def whole() -> bytes:
        here = CUTS[manner]()
        check(await here.settled(await here.accept("a@far.example", "b@far.example"), within=1), "DD")
        await here.close()
        return here.remote.said

    async def cut(count: int, said: bytes) -> None:
        here = CUTS[manner]()
        here.remote.cut_at = count
        found = await here.settled(await here.accept("a@far.example", "b@far.example"), within=1)
        answered = said[:count].count(b"\r\n", said.index(b"354 "))
        opened = said[:count].endswith(b"HELP\r\n") or b"HELP\r\n" not in said[:count]
        behind = "D" * (answered - 1) + "??" if answered else "uu" if opened else "ll"
        check(found, (behind if manner == "LMTP" or answered < 2 else "DD")[:2])
        await here.close()

    async def main() -> None:
        said = await whole()
        for count in range(1, len(said)):
            await cut(count, said)

    run(main)
    gc.collect()
    assert_no_faults(caplog.records)


# --- while the text goes out: a remote that has stopped reading

BODY: list[tuple[str, Oddity, str, float]] = [  # with what comes of it where the text is in memory
    ("stall", stall, "l", 180.0),
    ("drip", drip, "l", 180.0),
    ("close", closing(0), "l", 0.0),
    ("reset", reset, "l", 0.0),
    ("garbage", raw(b"?\r\n"), "l", 0.0),
    ("421", code(421), "4", 0.0),
    ("250", code(250), "l", 0.0),
    ("350", code(350), "o", 0.0),
    ("599", code(599), "5", 0.0),
]


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on the disk"])
@pytest.mark.parametrize(("oddity", "letter", "seconds"), [each[1:] for each in BODY], ids=[each[0] for each in BODY])
def test_in_the_midst_of_the_text(
    oddity: Oddity,
    letter: str,
    seconds: float,
    on_disk: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of the message has not gone out, so nobody has it, whatever is said."""
    if on_disk:
        monkeypatch.setattr(queue_module, "CONTENT_BUDGET", 0)

    async def main() -> None:
        here = House(oddities={"DATA": oddity})
        here.remote.body_step = "DATA"
        message = await here.accept("a@far.example", "b@far.example", content=LARGE)
        found = await here.settled(message, within=seconds + 2 * SWEEP)
        check(found, "ll" if on_disk else letter * 2)
        assert all(seconds <= each.after <= seconds + 2 * SWEEP for each in found)
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


# --- a message that goes as one chunk

CHUNKS = {
    "stall": "?",
    "drip": "?",
    "200": "D",
    "350": "o",
    "421": "4",
    "440": "4",
    "599": "5",
    "100,000 lines": "D",
    "garbage": "?",
    "empty line": "?",
    "close at 0": "?",
    "close at 4": "?",
    "close behind": "D",
    "reset": "?",
    "thinks again": "D",
}


@pytest.mark.parametrize("oddity", CHUNKS)
def test_bdat(oddity: str, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 3030"""

    async def main() -> None:
        here = House(keywords=("PIPELINING", "CHUNKING", "BINARYMIME"), oddities={"end": ODDITIES[oddity]})
        binary = b"Subject: x\r\n\r\na\rb\nc\0"
        message = await here.accept("a@far.example", "b@far.example", content=binary, octets=Octets.BINARY)
        seconds = Deadlines().end if oddity in SLOW else 0.0
        found = await here.settled(message, within=seconds + 2 * SWEEP)
        check(found, CHUNKS[oddity] * 2)
        assert all(seconds <= each.after <= seconds + 2 * SWEEP for each in found)
        assert here.remote.texts == [binary]
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


# --- QUIT, and what is said to a connection that is kept


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_is_said_to_quit_matters_to_nobody(oddity: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = House(oddities={"QUIT": ODDITIES[oddity]})
        check(await here.settled(await here.accept("a@far.example", "b@far.example"), within=1), "DD")
        await here.pass_time(int(KEPT_FREE) + 2)
        assert here.remote.commands[-1] == "QUIT"
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


@pytest.mark.parametrize("octets", [b"421 4.4.2 Idle\r\n", b"550 Second thoughts\r\n", b"25", b"?\r\n", b""])
def test_what_is_said_to_an_idle_connection_ends_it(octets: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = House()
        check(await here.settled(await here.accept("a@far.example"), within=1), "D")
        here.remote.pipes[0].hear(octets) if octets else here.remote.pipes[0].lose(None)
        await turns()
        check(await here.settled(await here.accept("a@far.example"), within=1), "D")
        assert len(here.remote.pipes) == 2
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


# --- the way there


@pytest.mark.parametrize(("error", "seconds"), [(TimeoutError("late"), 30.0), (ConnectionRefusedError(111, "no"), 0.0)])
def test_no_connection(error: OSError, seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = House()
        here.remote.connects = lambda seconds: error
        found = await here.settled(await here.accept("a@far.example", "b@far.example"), within=seconds + 1)
        check(found, "uu")
        assert all(seconds <= each.after <= seconds + 1 for each in found)
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


MANY = [(number, f"mx{number}.far.example") for number in range(3000)]
DNS: list[tuple[str, ScriptedMx, dict[str, ScriptedAddresses], str]] = [
    ("MX loops", DnsFault("CNAME chain too long"), {}, "deferred 4.4.3"),
    ("MX in no time", DnsFault("no answer within 10 seconds"), {}, "deferred 4.4.3"),
    ("MX malformed", DnsFault("a message is shorter than it says"), {}, "deferred 4.4.3"),
    ("MX of itself", [(0, "far.example")], {}, "deferred 4.4.1"),
    ("MX is nothing", [(0, ""), (10, "")], {}, "failed 5.1.10"),
    ("3000 MX, no address", MANY, {}, "deferred 4.4.1"),
    ("address loops", [(0, "mx")], {"mx": DnsFault("CNAME chain too long")}, "deferred 4.4.3"),
    ("no address", [(0, "mx")], {"mx": NoRecords()}, "deferred 4.4.1"),
    ("no host", [(0, "mx")], {"mx": NoDomain()}, "deferred 4.4.1"),
    ("3000 addresses", [(0, "mx")], {"mx": [f"192.0.{n // 256}.{n % 256}" for n in range(3000)]}, "deferred 4.4.1"),
    ("empty MX", [], {}, "failed 5.1.2"),
    ("no domain", NoDomain(), {}, "failed 5.1.2"),
]


@pytest.mark.parametrize(("mx", "addresses", "outcome"), [each[1:] for each in DNS], ids=[each[0] for each in DNS])
def test_dns_that_lies(
    mx: ScriptedMx, addresses: dict[str, ScriptedAddresses], outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        here = House(resolver=ScriptedResolver(mx={"far.example": mx}, addresses=addresses))
        here.remote.connects = lambda seconds: ConnectionRefusedError(111, "refused")
        message = await here.accept("a@far.example", "b@far.example")
        await turns(10 * MAX_TRIES)  # an address that refuses at once costs no time, but some turns
        assert [str(each) for each in await here.settled(message, within=1)] == [outcome] * 2
        assert all(len(record.detail_json()) < 2500 for record in here.of(message))
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


# --- TLS


def test_garbage_instead_of_tls(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = House(tls=TlsPolicy.OPPORTUNISTIC, keywords=("STARTTLS",), oddities={"STARTTLS": speaks_no_tls})
        check(await here.settled(await here.accept("a@far.example", "b@far.example"), within=1), "DD")
        await here.close()

    def speaks_no_tls(talk: Talk, usual: bytes) -> None:
        talk.say(usual)
        asyncio.get_running_loop().call_later(0, talk.say, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        talk.is_mute = True

    run(main)
    assert_no_faults(caplog.records)


# --- lines of EHLO that no RFC knows

KEYWORDS = [
    "",
    " ",
    "=",
    "SIZE",
    "SIZE -1",
    "SIZE 9" * 100,
    "SIZE " + "9" * 1900,
    "SIZE \u00b2",
    "SIZE 0x10",
    "SIZE=1",
    "LIMITS",
    "LIMITS RCPTMAX=0 MAILMAX=0",
    "LIMITS RCPTMAX=-1 MAILMAX= RCPTDOMAINMAX",
    "LIMITS RCPTMAX=\u0661",
    "LIMITS MAILMAX=1",
    "AUTH",
    "AUTH=PLAIN",
    "AUTH PLAIN PLAIN plain \xff",
    "PIPELINING yes",
    "pipelining",
    "8BITMIME\tx",
    "DELIVERBY x",
    "DSN DSN",
    "\x1b[2J",
    "x" * 2000,
]


@pytest.mark.parametrize("keyword", KEYWORDS, ids=[repr(each[:20]) for each in KEYWORDS])
def test_odd_keywords(keyword: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = House(keywords=(keyword, keyword))
        check(await here.settled(await here.accept("a@far.example", "b@far.example"), within=1), "DD")
        check(await here.settled(await here.accept("a@far.example"), within=1), "D")
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


@pytest.mark.parametrize("challenge", [b"334 \r\n", b"334 !\r\n", b"334\r\n", b"334 " + b"A" * 1600 + b"\r\n"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
def test_a_login_that_never_ends(mechanism: str, challenge: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        oddities = {each: raw(challenge) for each in ("AUTH", *WORDS_OF_LOGIN)}
        here = House(keywords=(f"AUTH {mechanism}",), credentials=Credentials("user", "secret"), oddities=oddities)
        check(await here.settled(await here.accept("a@far.example", "b@far.example"), within=1), "uu")
        assert len(here.remote.commands) <= 5
        await here.close()

    run(main)
    assert_no_faults(caplog.records)


WORDS_OF_LOGIN = ("DXNLCG==", "DXNLCJ==", "C2VJCMV0")  # as commands: user, secret

# --- the deadlines that are configured

KEYS = {
    "greeting": "greeting",
    "EHLO": "hello",
    "HELO": "hello",
    "AUTH": "command",
    "STARTTLS": "command",
    "MAIL": "mail",
    "RCPT 1": "rcpt",
    "RCPT 2": "rcpt",
    "DATA": "data",
    "end": "end",
}


@pytest.mark.parametrize("step", KEYS)
def test_each_deadline_is_the_one_configured(step: str) -> None:
    async def main() -> None:
        here = house(Row("one by one", step, "stall", "l", 0.0))
        here.ways = replace(here.ways, deadlines=replace(Deadlines(), **{KEYS[step]: 17.0}))
        found = await here.settled(await here.accept("a@far.example", "b@far.example"), within=20)
        assert all(17.0 <= each.after <= 17.0 + 2 * SWEEP for each in found)
        await here.close()

    run(main)
