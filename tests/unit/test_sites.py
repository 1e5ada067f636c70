"""Sites: domains of one MX set share a lane, are asked for once, and wait for nobody else's DNS."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.core.address import Domain
from pillarbox.engine import sites as sites_module
from pillarbox.engine.mail import State
from pillarbox.engine.ports import AddressAnswer, DnsFault, MxAnswer, MxRecord, NoDomain, NoRecords
from pillarbox.engine.sites import Sites, site_name
from pillarbox.sim.clock import VirtualClock
from tests.making import turns
from tests.queue_rig import LATER, OK, Rig, run

BIG = (MxRecord(10, "mx1.big.example"), MxRecord(20, "mx2.big.example"))
LANE = "mx:(mx1|mx2).big.example"


class Known:
    """A resolver that knows some domains."""

    def __init__(self, answers: dict[str, MxAnswer]) -> None:
        self.answers = answers

    async def mx(self, domain: Domain) -> MxAnswer:
        return self.answers[domain.ascii]

    async def addresses(self, host: str) -> AddressAnswer:
        raise NotImplementedError

    first_addresses = addresses


class Slow:
    """A resolver that answers when it is told to."""

    def __init__(self, *, answer: MxAnswer = BIG) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.now = 0
        self.most = 0
        self.open: dict[str, asyncio.Event] = {}

    async def mx(self, domain: Domain) -> MxAnswer:
        self.asked.append(domain.ascii)
        self.now += 1
        self.most = max(self.most, self.now)
        event = self.open[domain.ascii] = asyncio.Event()
        try:
            await event.wait()
        finally:
            self.now -= 1
        return self.answer

    async def addresses(self, host: str) -> AddressAnswer:
        raise NotImplementedError

    first_addresses = addresses

    def say(self, *domains: str) -> None:
        for domain in domains or tuple(self.open):
            self.open.pop(domain).set()


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (("mx1.example.net", "mx2.example.net"), "(mx1|mx2).example.net"),
        (("mx2.example.net", "mx1.example.net"), "(mx2|mx1).example.net"),
        (("mx.example.net",), "(mx).example.net"),
        (("a.b.example.net", "c.example.net"), "(a.b|c).example.net"),
        (("example.net", "mx.example.net"), "(example|mx.example).net"),
        (("mx.example.net", "mx.example.org"), "(mx.example.net|mx.example.org)"),
        (("localhost",), "(localhost)"),
    ],
)
def test_a_name_that_can_be_read(hosts: tuple[str, ...], name: str) -> None:
    assert site_name(hosts) == name


def test_names_of_large_sites_are_bounded_and_tell_them_apart() -> None:
    hosts = [f"mx{number}.mail.example.net" for number in range(100)]
    one, other = site_name(hosts), site_name([*hosts[:-1], "mx999.mail.example.net"])
    assert one != other and one.startswith("(mx0|") and one.endswith(").mail.example.net")
    assert len(one) <= 2 * sites_module.MAX_NAME
    label = "a" * 63
    assert len(site_name([f"{label}.{label}.{label}.example", f"b.{label}.{label}.example"])) < 200


def test_domains_of_one_site_share_a_lane_and_a_message_to_them_a_job() -> None:
    async def main() -> None:
        resolver = Known({f"d{number}.example": BIG for number in range(3)})
        rig = Rig(resolver=resolver)
        message = await rig.accept("a@d0.example", "b@d1.example", "c@d2.example")
        await turns()
        assert [[row.number for row in job.rows] for job in rig.mailer(LANE).jobs] == [[0, 1, 2]]
        rig.mailer(LANE).end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED] * 3
        assert list(rig.mailers) == [LANE]
        rig.assert_empty()

    run(main())


@pytest.mark.parametrize("answer", [NoRecords(), NoDomain(), (MxRecord(0, ""),), (), DnsFault("timeout")])
def test_a_domain_without_a_site_has_a_lane_of_its_own(answer: MxAnswer) -> None:
    async def main() -> None:
        rig = Rig(resolver=Known({"odd.example": answer}))
        await rig.accept("a@odd.example")
        await turns()
        assert list(rig.mailers) == ["mx:odd.example"]

    run(main())


def test_a_domain_is_asked_for_once_and_its_answer_is_kept_for_a_time() -> None:
    async def main() -> None:
        resolver = Slow()
        rig = Rig(resolver=resolver, answer=lambda job, row: OK)
        for _ in range(20):
            await rig.accept("a@d0.example")
        assert (resolver.asked, rig.mailers, rig.in_memory) == (["d0.example"], {}, 20)
        resolver.say()
        await turns(20)
        assert len(rig.mailer(LANE).jobs) == 20
        before = asyncio.all_tasks()
        rig.queue.accept(rig.message("a@d0.example"), rig.answers.append)
        await turns(1)
        assert asyncio.all_tasks() == before  # what is known costs no task
        await turns()
        assert len(rig.mailer(LANE).jobs) == 21 and len(resolver.asked) == 1
        await rig.pass_time(sites_module.HOLDS)
        await rig.accept("a@d0.example")
        assert len(resolver.asked) == 2
        resolver.say()
        await turns()
        rig.assert_empty()

    run(main())


def test_questions_at_a_time_are_bounded() -> None:
    async def main() -> None:
        resolver = Slow()
        sites = Sites(resolver, VirtualClock())
        found: list[str] = []
        domains = [Domain.parse(f"d{number}.example") for number in range(250)]
        for domain in domains:
            sites.ask([domain], lambda name=domain.ascii: found.append(name))  # type: ignore[misc]
        await turns()
        assert len(resolver.asked) == resolver.most == sites_module.AT_ONCE
        while len(found) < 250:
            resolver.say()
            await turns()
        assert resolver.most == sites_module.AT_ONCE
        assert sorted(found) == sorted(domain.ascii for domain in domains)

    run(main())


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(sites_module, "REMEMBERED", 10)
        sites = Sites(Known({f"d{number}.example": BIG for number in range(30)}), VirtualClock())
        for number in range(30):
            assert await sites.find(Domain.parse(f"d{number}.example")) == "(mx1|mx2).big.example"
        known = [number for number in range(30) if sites.known(Domain.parse(f"d{number}.example")) is not None]
        assert known == list(range(20, 30))

    run(main())


def test_a_domain_whose_dns_is_silent_holds_up_no_other() -> None:
    async def main() -> None:
        resolver = Slow()
        rig = Rig(resolver=resolver, answer=lambda job, row: OK)
        message = await rig.accept("a@dead.example", "b@live.example", "c@also.example")
        await rig.accept("alice@example.test")
        assert len(rig.mailer("maildir").jobs) == 1
        resolver.say("live.example", "also.example")
        await turns()
        assert LANE not in rig.mailers  # for a moment the three are waited for together
        await rig.pass_time(sites_module.TOGETHER)
        assert rig.spool.states(message.id) == [State.LEASED, State.DELIVERED, State.DELIVERED]
        assert [len(job.rows) for job in rig.mailer(LANE).jobs] == [2]
        resolver.say()
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED] * 3
        rig.assert_empty()

    run(main())


def test_etrn_finds_what_waits_at_the_site() -> None:
    async def main() -> None:
        resolver = Known({"d0.example": BIG, "d1.example": BIG})
        rig = Rig(resolver=resolver, answer=lambda job, row: LATER)
        message = await rig.accept("a@d0.example", "b@d1.example")
        await turns()
        assert rig.spool.states(message.id) == [State.SCHEDULED] * 2
        assert await rig.queue.waiting([Domain.parse("d0.example")]) == 1
        assert await rig.queue.release([Domain.parse("d1.example")]) == 1
        await turns(20)
        assert [row.number for row in rig.mailer(LANE).jobs[-1].rows] == [1]

    run(main())


def test_a_bug_behind_one_answer_keeps_nobody_else_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        resolver = Slow()
        sites = Sites(resolver, VirtualClock())
        heard: list[str] = []

        def fails() -> None:
            raise RuntimeError("odd")

        sites.ask([Domain.parse("d0.example")], fails)
        sites.ask([Domain.parse("d0.example")], lambda: heard.append("second"))
        await turns()
        resolver.say()
        await turns()
        assert heard == ["second"]
        assert [record.message for record in caplog.records] == ["bug behind the MX of d0.example"]
        await sites.close()

    run(main())


def test_who_looks_for_a_site_is_not_left_waiting_by_a_stop() -> None:
    async def main() -> None:
        sites = Sites(Slow(), VirtualClock())
        finding = asyncio.create_task(sites.find(Domain.parse("d0.example")))
        await turns()
        await sites.close()
        assert await asyncio.wait_for(finding, 1) == ""

    run(main())


def test_who_waits_for_dns_is_left_to_the_next_start_by_a_stop() -> None:
    async def main() -> None:
        rig = Rig(resolver=Slow())
        message = await rig.accept("a@d0.example")
        await rig.queue.close(0)
        assert rig.spool.states(message.id) == [State.LEASED]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_more_than_may_wait_for_dns_goes_back_and_is_not_told_as_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("pillarbox.engine.placing.WAITING", 5)
        resolver = Slow()
        rig = Rig(resolver=resolver, answer=lambda job, row: OK)
        messages = [await rig.accept(f"a@d{number}.example") for number in range(20)]
        rows = [rig.spool.rows[message.id, 0] for message in messages]
        assert [row.state for row in rows] == [State.LEASED] * 5 + [State.SCHEDULED] * 15
        assert all(row.attempts == 0 and row.due >= rig.clock.now() + 10 for row in rows[5:])
        assert rig.spool.records == [] and rig.in_memory == 5
        await rig.accept("alice@example.test")
        assert len(rig.mailer("maildir").jobs) == 1
        for _ in range(60):
            resolver.say()
            await rig.pass_time(10)
        assert {row.state for row in rows} == {State.DELIVERED}

    run(main())
