"""The connections of a lane: which hosts are tried, what is kept and reused, what happens at the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pillarbox.core.address import Domain
from pillarbox.engine.mail import Deferred, Failed, Job, Report, Unsent
from pillarbox.engine.ports import AddressAnswer, DnsFault, IpAddress, MxAnswer, NoDomain, NoRecords
from pillarbox.engine.routing import Mx, SmartHost
from pillarbox.engine.walk import Try
from pillarbox.net.pool import KEPT_FREE, SmtpMailer, Ways
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedAddresses, ScriptedMx, ScriptedResolver
from tests.making import HOSTNAME, turns
from tests.unit.test_sender import (
    AFTER,
    FAR,
    IP,
    ONE_BY_ONE,
    TAKEN,
    TOGETHER,
    Bodies,
    Office,
    ScriptedServer,
    Wires,
    in_order,
    job,
    office,
    run,
    talk,
    told,
)

REFUSED = ConnectionRefusedError(111, "Connection refused")
LATE = TimeoutError()
GOOD = TOGETHER + talk(together=True)
MORE = talk(together=True)
OTHER = "192.0.2.2"
THIRD = "2001:db8::3"


def place(
    servers: dict[str, ScriptedServer | OSError],
    *,
    mx: dict[str, ScriptedMx] | None = None,
    addresses: dict[str, ScriptedAddresses] | None = None,
    next_hop: Mx | SmartHost | None = None,
) -> Office:
    return Office(servers, ScriptedResolver(mx=mx, addresses=addresses), next_hop or Mx())


# --- which hosts are tried


def test_every_host_and_address_is_tried_in_order() -> None:
    def made() -> Office:
        return place(
            {
                "192.0.2.11": REFUSED,
                "2001:db8::11": LATE,
                "192.0.2.12": ScriptedServer(["S 421 Busy\n"]),
                "192.0.2.13": ScriptedServer(["X\n"]),
                IP: ScriptedServer([GOOD]),
            },
            mx={"far.example": [(20, "b.example"), (10, "a.example"), (30, "c.example"), (40, "d.example")]},
            addresses={
                "a.example": ["192.0.2.11", "2001:db8::11"],
                "b.example": ["192.0.2.12", "192.0.2.13"],
                "d.example": [IP],
            },
        )

    async def main(here: Office) -> None:
        report = await here.deliver(job())
        assert told(report) == [f"delivered {TAKEN}"]
        assert report.outcomes[0].next_hop == f"d.example [{IP}]"
        assert here.wires.asked == [
            ("2001:db8::11", 25),
            ("192.0.2.11", 25),
            ("192.0.2.12", 25),
            ("192.0.2.13", 25),
            (IP, 25),
        ]

    run(made, main)


class Nowhere(Wires):
    """As Wires; at some addresses nobody ever answers."""

    def __init__(self, servers: dict[str, ScriptedServer | OSError], silent: set[str]) -> None:
        super().__init__(servers)
        self.silent = silent
        self.called_off: list[str] = []

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        seconds: float,
        source: IpAddress | None = None,
    ) -> None:
        if host in self.silent:
            self.asked.append((host, port))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.called_off.append(host)
                self.silent.remove(host)  # the next time it is as the others
                raise
        await super().connect(factory, host, port, seconds=seconds, source=source)


def silent_at(here: Office, *silent: str) -> Nowhere:
    nowhere = here.wires = Nowhere(here.servers, set(silent))
    here.mailer._ways = replace(here.mailer._ways, network=nowhere)
    return nowhere


async def told_in_time(here: Office, report: asyncio.Future[Report]) -> list[str]:
    """Real sockets under a virtual clock: both go on until the report is there."""
    while not report.done():
        await turns(20)
        here.clock.advance(0.05)
    return told(await report)


ONE_HOST: dict[str, ScriptedMx] = {"far.example": [(10, "a.example"), (20, "b.example")]}


def test_an_address_where_nobody_answers_costs_a_moment() -> None:
    """RFC 8305 §5."""

    def made() -> Office:
        return place(
            {IP: ScriptedServer([GOOD])}, mx=ONE_HOST, addresses={"a.example": [IP, THIRD, OTHER], "b.example": ["::1"]}
        )

    async def main(here: Office) -> None:
        nowhere = silent_at(here, THIRD)
        assert await told_in_time(here, here.deliver(job())) == [f"delivered {TAKEN}"]
        assert here.wires.asked == [(THIRD, 25), (IP, 25)]
        assert nowhere.called_off == [THIRD]
        assert here.clock.monotonic() < 1.0

    run(made, main)


def test_one_that_greets_badly_gives_way_to_the_rest_of_its_host() -> None:
    """Also to those that were called off for its sake; and hosts are never mixed."""

    def made() -> Office:
        return place(
            {OTHER: ScriptedServer(["S 421 Busy\n"]), IP: ScriptedServer([GOOD])},
            mx=ONE_HOST,
            addresses={"a.example": [THIRD, OTHER, "192.0.2.9"], "b.example": [IP]},
        )

    async def main(here: Office) -> None:
        nowhere = silent_at(here, THIRD)
        here.servers |= {"192.0.2.9": REFUSED, THIRD: REFUSED}
        assert await told_in_time(here, here.deliver(job())) == [f"delivered {TAKEN}"]
        assert nowhere.called_off == [THIRD]
        assert here.wires.asked == [(THIRD, 25), (OTHER, 25), (THIRD, 25), ("192.0.2.9", 25), (IP, 25)]

    run(made, main)


def test_an_address_that_was_known_too_late_is_tried_when_the_others_have_failed() -> None:
    def made() -> Office:
        return place(
            {OTHER: REFUSED, THIRD: ScriptedServer([GOOD])}, mx=FAR, addresses={"mx.far.example": [OTHER, THIRD]}
        )

    async def main(here: Office) -> None:
        here.resolver.late_ipv6.add("mx.far.example")
        report = await here.deliver(job())
        assert told(report) == [f"delivered {TAKEN}"]
        assert here.wires.asked == [(OTHER, 25), (THIRD, 25)]

    run(made, main)


def test_a_way_that_leads_nowhere_says_what_was_tried() -> None:
    def made() -> Office:
        return place(
            {IP: REFUSED, OTHER: LATE},
            mx={"far.example": [(10, "a.example"), (20, "b.example")]},
            addresses={"a.example": [IP], "b.example": [OTHER]},
        )

    async def main(here: Office) -> None:
        report = await here.deliver(job("a@far.example", "b@far.example"))
        assert set(told(report)) == {
            f"deferred 4.4.1 no host for far.example could be reached, the last one b.example [{OTHER}]: TimeoutError"
        }
        assert report.notes == (
            "MX of far.example: 10 a.example, 20 b.example",
            f"addresses of a.example: {IP}",
            f"a.example [{IP}]: [Errno 111] Connection refused",
            f"addresses of b.example: {OTHER}",
            f"b.example [{OTHER}]: TimeoutError",
        )

    run(made, main)


NO_MAIL = "failed 5.1.10 far.example accepts no mail (null MX)"
LOOP = "failed 5.4.6 mail for far.example leads back to this host, where the domain is not known"
ENDS: list[tuple[str, dict[str, ScriptedMx], dict[str, ScriptedAddresses], str]] = [
    ("null MX", {"far.example": [(0, "")]}, {"far.example": [IP]}, NO_MAIL),
    ("no domain", {}, {}, "failed 5.1.2 domain far.example does not exist"),
    ("DNS fault", {"far.example": DnsFault("SERVFAIL")}, {}, "deferred 4.4.3 MX of far.example: SERVFAIL"),
    (
        "DNS fault of addresses",
        FAR,
        {"mx.far.example": DnsFault("time-out")},
        "deferred 4.4.3 addresses of mx.far.example: time-out",
    ),
    ("no addresses", FAR, {"mx.far.example": NoRecords()}, "deferred 4.4.1 no host for far.example has an address"),
    ("no host", FAR, {"mx.far.example": NoDomain()}, "deferred 4.4.1 no host for far.example has an address"),
    (
        "neither MX nor address",
        {"far.example": NoRecords()},
        {"far.example": NoRecords()},
        "failed 5.1.2 domain far.example has neither MX nor address records",
    ),
    ("ourselves", {"far.example": [(10, "mx.example.test"), (20, "b.example")]}, {"b.example": [IP]}, LOOP),
]


@pytest.mark.parametrize(("mx", "addresses", "outcome"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
def test_ends_without_a_connection(
    mx: dict[str, ScriptedMx], addresses: dict[str, ScriptedAddresses], outcome: str
) -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job("a@far.example", "b@far.example")) == [outcome] * 2
        assert here.wires.asked == []

    run(lambda: place({}, mx=mx, addresses=addresses), main)


@pytest.mark.parametrize("answer", [NoDomain(), [(0, "")]])
def test_a_domain_that_takes_no_mail_any_more_ends_no_mail_for_others_of_its_site(answer: ScriptedMx) -> None:
    """Domains whose mail arrived at one site share a job, and are still together when one of them has left it."""

    def made() -> Office:
        return place(
            {IP: ScriptedServer([GOOD])},
            mx={"gone.example": answer, "far.example": [(10, "mx.far.example")]},
            addresses={"mx.far.example": [IP]},
        )

    async def main(here: Office) -> None:
        report = await here.deliver(job("a@gone.example", "b@far.example", "c@gone.example"))
        assert [type(outcome) for outcome in report.outcomes] == [Failed, Unsent, Failed]
        assert told(report)[1].startswith("deferred 4.4.4 goes apart from mail for gone.example: ")
        report = await here.deliver(job("b@far.example"))
        assert told(report) == [f"delivered {TAKEN}"]

    run(made, main)


def test_a_domain_without_mx_stands_for_itself() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]

    run(lambda: place({IP: ScriptedServer([GOOD])}, addresses={"far.example": [IP]}), main)


@pytest.mark.parametrize("host", ["relay.example", IP])
def test_a_smart_host_takes_all_without_mx(host: str) -> None:
    async def main(here: Office) -> None:
        report = await here.deliver(job("a@no.such.example"))
        assert told(report) == [f"delivered {TAKEN}"]
        assert here.wires.asked == [(IP, 2600)]
        assert all(kind == "A" for kind, _ in here.resolver.asked)
        wanted = f"[{IP}]" if host == IP else f"relay.example [{IP}]"
        assert report.outcomes[0].next_hop == wanted

    addresses: dict[str, ScriptedAddresses] = {"relay.example": [IP]}
    run(
        lambda: place({IP: ScriptedServer([GOOD])}, addresses=addresses, next_hop=SmartHost(host, 2600)),
        main,
    )


def test_an_address_literal_is_its_own_host() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job(f"a@[{IP}]")) == [f"delivered {TAKEN}"]
        assert here.resolver.asked == []

    run(lambda: place({IP: ScriptedServer([GOOD])}), main)


class BrokenResolver:
    """Meets the port Resolver, with a bug."""

    async def mx(self, domain: Domain) -> MxAnswer:
        raise ZeroDivisionError

    async def addresses(self, host: str) -> AddressAnswer:
        raise ZeroDivisionError

    first_addresses = addresses


def test_a_bug_on_the_way_defers(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ways = Ways(Wires({}), BrokenResolver(), VirtualClock(), Bodies(), HOSTNAME, in_order)
        report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        SmtpMailer(Mx(), ways).deliver(job(), lambda of, result: report.set_result(result))
        assert told(await report) == ["deferred 4.3.0 internal error"]

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


# --- what is kept


def test_a_connection_is_used_again() -> None:
    async def main(here: Office) -> None:
        for _ in range(3):
            assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 1 and len(here.wires.asked) == 1

    run(lambda: office(GOOD + MORE + MORE), main)


def test_jobs_at_a_time_have_connections_of_their_own() -> None:
    async def main(here: Office) -> None:
        reports = await asyncio.gather(*(here.deliver(job()) for _ in range(3)))
        assert [told(report) for report in reports] == [[f"delivered {TAKEN}"]] * 3
        assert len(here.server.conversations) == 3
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 3

    run(lambda: office(GOOD + MORE, GOOD + MORE, GOOD + MORE), main)


def test_a_free_connection_is_kept_for_a_while_and_left_politely() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        here.clock.advance(KEPT_FREE - 2)
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        here.clock.advance(KEPT_FREE + 2)
        first = here.server.conversations[0]
        await first.gone.wait()
        assert first.commands[-1] == "QUIT"
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 2

    run(lambda: office(GOOD + MORE, GOOD), main)


async def until_gone(here: Office, number: int = 0) -> None:
    await (await here.server.conversation(number)).gone.wait()
    await turns()


@pytest.mark.parametrize("end", ["X", "!", "S 421 4.4.2 Idle\nX"])
def test_a_kept_connection_that_the_server_closed_is_not_used(end: str) -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        await until_gone(here)
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 2

    run(lambda: office(GOOD + end, GOOD), main)


@pytest.mark.parametrize("end", ["X", "!", "S 421 4.4.2 Idle\nX"])
@pytest.mark.parametrize("opening", [TOGETHER, ONE_BY_ONE], ids=["pipelined", "one by one"])
def test_a_kept_connection_that_is_closed_at_the_first_command_is_replaced_unnoticed(opening: str, end: str) -> None:
    together = opening == TOGETHER

    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 2

    run(lambda: office(opening + talk(together=together) + "C MAIL.*\n" + end, GOOD), main)


def test_of_several_stale_connections_none_is_in_the_way() -> None:
    async def main(here: Office) -> None:
        await asyncio.gather(*(here.deliver(job()) for _ in range(3)))
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 4

    stale = GOOD + "C MAIL.*\nX"
    run(lambda: office(stale, stale, stale, GOOD), main)


def test_a_server_that_closes_at_the_first_command_of_a_new_connection_defers() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert await here.carry(job()) == ["deferred 4.4.2 connection closed by the server"]

    run(lambda: office(GOOD + "C MAIL.*\nX", TOGETHER + "C MAIL.*\nX"), main)


def test_a_connection_closed_after_a_reply_is_not_stale() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert await here.carry(job()) == ["deferred 4.4.2 connection closed by the server"]

    run(lambda: office(GOOD + "C MAIL.*\nC RCPT.*\nC DATA\nS 250 Ok\nX"), main)


def test_a_connection_that_was_told_421_is_not_used_again() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == ["deferred 4.3.2 421 4.3.2 Closing"]
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 2

    run(lambda: office(TOGETHER + talk(together=True, end="421 4.3.2 Closing"), GOOD), main)


# --- the end


def test_close_leaves_free_connections_politely() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        await here.close(30)
        await until_gone(here)
        assert here.server.conversations[0].commands[-1] == "QUIT"

    run(lambda: office(GOOD), main)


def test_close_lets_a_transaction_end_within_the_grace() -> None:
    async def main(here: Office) -> None:
        report = here.deliver(job())
        talked = await here.server.conversation()
        await talked.held[0].wait()
        closing = asyncio.create_task(here.mailer.close(30))
        await turns()
        here.clock.advance(29)
        await turns()
        assert not closing.done() and not report.done()
        talked.go_on[0].set()
        assert told(await report) == [f"delivered {TAKEN}"]
        await closing
        await talked.gone.wait()
        assert talked.commands[-1] == "QUIT"

    run(lambda: office(GOOD.replace(f"S {TAKEN}", f"H 0\nS {TAKEN}")), main)


@pytest.mark.parametrize(
    ("at", "outcomes"),
    [
        ("S 354 Go", []),
        (f"S {TAKEN}", [f"deferred 4.4.2 maybe delivered: cut by us, {AFTER}"]),
    ],
)
def test_close_cuts_what_has_not_ended_and_calls_it_not_tried_unless_it_may_have_arrived(
    at: str, outcomes: list[str]
) -> None:
    async def main(here: Office) -> None:
        report = here.deliver(job())
        talked = await here.server.conversation()
        await talked.held[0].wait()
        await here.close(5)
        assert told(await report) == outcomes
        talked.go_on[0].set()
        await talked.gone.wait()

    run(lambda: office(GOOD.replace(at, f"H 0\n{at}")), main)


def test_close_gives_up_connecting_at_once() -> None:
    async def main(here: Office) -> None:
        here.wires.held = asyncio.Event()
        report = here.deliver(job())
        while not here.wires.asked:
            await turns()
        await here.close(30)
        assert await report == Report(())

    run(lambda: office(), main)


def test_a_connection_that_is_let_go_before_it_greets_leaves_nothing_to_complain_of() -> None:
    async def main(here: Office) -> None:
        faults: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(str(context)))
        connection = await here.mailer._dial(Try("mx.far.example", ip_address(IP), 25))
        connection.quit()
        await turns(20)
        del connection
        gc.collect()
        await turns()
        assert faults == []

    run(lambda: office("S 220 mx\n"), main)


def test_close_gives_up_a_greeting_at_once() -> None:
    async def main(here: Office) -> None:
        report = here.deliver(job())
        talked = await here.server.conversation()
        await turns()
        await here.close(30)
        assert await report == Report(())
        await talked.gone.wait()

    run(lambda: office("W"), main)


def test_close_answers_a_job_that_has_just_come() -> None:
    async def main(here: Office) -> None:
        report = here.deliver(job())
        await here.mailer.close(30)
        await turns()
        assert report.done() and report.result() == Report(())

    run(lambda: office(), main)


def test_a_stale_connection_is_not_replaced_when_closing() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        report = here.deliver(job())
        talked = here.server.conversations[0]
        await talked.held[0].wait()
        closing = asyncio.create_task(here.mailer.close(30))
        await turns()
        talked.go_on[0].set()
        assert await report == Report(())
        await closing
        assert len(here.server.conversations) == 1

    run(lambda: office(GOOD + "C MAIL.*\nH 0\nX"), main)


@pytest.mark.parametrize("kind", [Deferred, Failed])
def test_done_is_called_behind_deliver_and_once(kind: type[Deferred | Failed]) -> None:
    """Also where the end is known without any waiting."""
    calls: list[Report] = []
    fault: Callable[[], ScriptedMx] = NoDomain if kind is Failed else lambda: DnsFault("SERVFAIL")

    async def main(here: Office) -> None:
        def done(of: Job, report: Report) -> None:
            calls.append(report)

        here.mailer.deliver(job(), done)
        assert calls == []
        await turns()
        assert [type(outcome) for outcome in calls[0].outcomes] == [kind] and len(calls) == 1

    run(lambda: place({}, mx={"far.example": fault()}), main)
