"""Connections from an egress pool, over real sockets on loopback: from where, by what name, how many, none lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

import pytest

from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId
from pillarbox.engine.egress import TURN, Pool, Source, Terms
from pillarbox.engine.mail import Delivered, Job, Report
from pillarbox.engine.routing import SmartHost
from pillarbox.net.network import TcpNetwork
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from tests.live.raw_sink import RawSink
from tests.making import HOSTNAME, TEXT, turns
from tests.unit.test_sender import Bodies, in_order, job, message, told

NAME = Domain.parse("out2.example.test")
TWO, THREE = Source(ip_address("127.0.0.2"), NAME), Source(ip_address("127.0.0.3"), None, 2)
SIX = Source(ip_address("::1"), Domain.parse("six.example.test"))
ABSENT = Source(ip_address("192.0.2.77"))


class Post:
    """Mailers of one pool, and what became of their jobs."""

    def __init__(self, *sources: Source, connections: int | None = None) -> None:
        self.clock = VirtualClock()
        self.pool = Pool("p", Terms(sources, connections))
        self.ways = Ways(TcpNetwork(), ScriptedResolver(), self.clock, Bodies(), HOSTNAME, in_order)
        self.mailers: list[SmtpMailer] = []

    def mailer(self, port: int, host: str = "127.0.0.1") -> SmtpMailer:
        self.mailers.append(SmtpMailer(SmartHost(host, port), self.ways, pool=self.pool))
        return self.mailers[-1]

    def deliver(self, mailer: SmtpMailer, work: Job | None = None) -> asyncio.Future[Report]:
        report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        mailer.deliver(work or job(), lambda _, found: report.set_result(found))
        assert not report.done()
        return report

    async def close(self) -> None:
        await asyncio.gather(*(mailer.close(0) for mailer in self.mailers))
        await turns()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


def delivered(report: Report) -> bool:
    return [type(outcome) for outcome in report.outcomes] == [Delivered] * len(report.outcomes) != []


# --- from where


def test_each_source_has_its_share_and_its_name() -> None:
    async def main() -> None:
        with RawSink() as sink:
            post = Post(TWO, THREE, SIX)
            mailer = post.mailer(sink.port)
            reports = await asyncio.gather(*(post.deliver(mailer) for _ in range(9)))
            assert all(map(delivered, reports))
            assert Counter(sink.callers) == {("127.0.0.2", NAME.ascii): 3, ("127.0.0.3", HOSTNAME.ascii): 6}
            assert Counter(report.source for report in reports) == {"127.0.0.2": 3, "127.0.0.3": 6}
            await post.close()
            assert post.pool.used == 0

    run(main)


def test_ipv6_has_its_own_source() -> None:
    async def main() -> None:
        with RawSink(host="::1") as sink:
            post = Post(TWO, SIX)
            report = await post.deliver(post.mailer(sink.port, "::1"))
            assert delivered(report) and report.source == "::1"
            assert sink.callers == [("::1", "six.example.test")]
            await post.close()

    run(main)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (SIX, "egress pool p: no source has an address of IPv4"),
        (Source(TWO.address, None, 0), "egress pool p: all sources are drained (weight 0)"),
        (ABSENT, "[Errno 99] source address 192.0.2.77 is not on this machine, from 192.0.2.77"),
    ],
)
def test_a_pool_that_can_not_be_used_defers_with_its_reason(source: Source, text: str) -> None:
    async def main() -> None:
        with RawSink() as sink:
            post = Post(source, connections=1)
            mailer = post.mailer(sink.port)
            for _ in range(3):
                start = (
                    f"deferred 4.4.1 no host for 127.0.0.1 could be reached, the last one 127.0.0.1 [127.0.0.1]: {text}"
                )
                assert told(await post.deliver(mailer)) == [start]
            assert sink.connections == [] and post.pool.used == 0
            await post.close()

    run(main)


def test_the_next_address_is_tried_where_the_family_has_no_source() -> None:
    async def main() -> None:
        with RawSink() as sink:
            post = Post(TWO)
            resolver = ScriptedResolver(addresses={"relay.example": ["::1", "127.0.0.1"]})
            post.ways = Ways(TcpNetwork(), resolver, post.clock, Bodies(), HOSTNAME, in_order)
            report = await post.deliver(post.mailer(sink.port, "relay.example"))
            assert delivered(report) and report.source == "127.0.0.2"
            assert report.outcomes[0].next_hop == "relay.example [127.0.0.1]"
            await post.close()

    run(main)


def test_a_fault_names_the_source() -> None:
    async def main() -> None:
        with RawSink({b"": b"554 no\r\n"}) as sink:
            post = Post(TWO)
            (said,) = told(await post.deliver(post.mailer(sink.port)))
            assert said.endswith("554 no, from 127.0.0.2") and post.pool.used == 0
            await post.close()

    run(main)


def test_a_source_that_is_drained_has_no_connection_any_more() -> None:
    async def main() -> None:
        with RawSink() as sink:
            post = Post(TWO, connections=5)
            mailer = post.mailer(sink.port)
            assert delivered(await post.deliver(mailer)) and post.pool.used == 1
            post.pool.renew(Terms((Source(TWO.address, NAME, 7), THREE)))
            assert delivered(await post.deliver(mailer)) and len(sink.connections) == 1
            post.pool.renew(Terms((Source(TWO.address, NAME, 0), THREE)))
            assert post.pool.used == 0
            assert delivered(await post.deliver(mailer))
            assert [peer for peer, _ in sink.callers] == ["127.0.0.2", "127.0.0.3"]
            busy = post.deliver(mailer)
            post.pool.renew(Terms((TWO,)))  # while it carries a job, it ends with that
            assert delivered(await busy) and post.pool.used == 0
            await post.close()

    run(main)


# --- reuse, pipelining, LIMITS, several recipients


def test_what_holds_on_a_connection_holds_for_each_source() -> None:
    """Two messages a connection, two recipients a transaction, all of it pipelined."""
    offered = b"250-sink.example\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=2 RCPTMAX=2\r\n"

    async def main() -> None:
        with RawSink({b"EHLO": offered}) as sink:
            post = Post(TWO, Source(THREE.address))
            mailer = post.mailer(sink.port)
            for number in range(4):
                work = job("a@far.example", "b@far.example", of=message(TEXT))
                work.message.id = MessageId(number + 1)
                assert delivered(await post.deliver(mailer, work))
            three = job("a@far.example", "b@far.example", "c@far.example")
            assert delivered(await post.deliver(mailer, three))
            assert [peer for peer, _ in sink.callers] == ["127.0.0.2", "127.0.0.3", "127.0.0.2"]
            assert [[len(each.recipients) for each in one.letters] for one in sink.connections] == [
                [2, 2],
                [2, 2],
                [2, 1],
            ]
            assert all(one.pipelined >= 4 for one in sink.connections)
            await post.close()

    run(main)


# --- room


def test_jobs_beyond_the_bound_wait_and_are_carried() -> None:
    async def main() -> None:
        with RawSink() as one, RawSink() as two:
            post = Post(TWO, connections=2)
            first, second = post.mailer(one.port), post.mailer(two.port)
            reports = [post.deliver(mailer) for _ in range(4 * TURN) for mailer in (first, second)]
            most = 0
            while not all(report.done() for report in reports):
                most = max(most, post.pool.used)
                await asyncio.sleep(0)
            assert all(delivered(report.result()) for report in reports)
            assert most == 2 and len(one.letters) == len(two.letters) == 4 * TURN
            assert len(one.connections) + len(two.connections) <= 10, "they are reused, though both lanes wait"
            await post.close()
            assert post.pool.used == 0

    run(main)


def test_a_lane_with_a_free_connection_makes_room_for_another() -> None:
    async def main() -> None:
        with RawSink() as one, RawSink() as two:
            post = Post(TWO, connections=1)
            first, second = post.mailer(one.port), post.mailer(two.port)
            for mailer in (first, second, first):
                assert delivered(await post.deliver(mailer))
                assert post.pool.used == 1
            assert (len(one.connections), len(two.connections)) == (2, 1)
            await post.close()

    run(main)


def test_a_lane_that_is_done_makes_room_for_one_that_waits() -> None:
    async def main() -> None:
        with RawSink() as one, RawSink() as two:
            post = Post(TWO, connections=1)
            reports = [post.deliver(post.mailer(sink.port)) for sink in (one, two)]
            assert all(map(delivered, await asyncio.gather(*reports)))
            await post.close()

    run(main)


def test_a_lane_with_much_to_do_does_not_keep_another_waiting() -> None:
    async def main() -> None:
        with RawSink() as one, RawSink() as two:
            post = Post(TWO, connections=1)
            first, second = post.mailer(one.port), post.mailer(two.port)
            busy = [post.deliver(first)]
            other = post.deliver(second)
            busy += [post.deliver(first) for _ in range(3 * TURN)]
            assert delivered(await other)
            assert sum(report.done() for report in busy) <= TURN + 1
            assert all(map(delivered, await asyncio.gather(*busy)))
            assert len(one.connections) == 2
            await post.close()

    run(main)


def test_close_gives_back_what_waits_untried_and_lets_others_go_on() -> None:
    async def main() -> None:
        with RawSink({b"": b""}) as mute, RawSink() as sink:
            post = Post(TWO, connections=1)
            stuck, other = post.mailer(mute.port), post.mailer(sink.port)
            begun, waiting, fine = post.deliver(stuck), post.deliver(stuck), post.deliver(other)
            await turns()
            assert post.pool.contested and not fine.done()
            await stuck.close(0)
            assert await begun == await waiting == Report(())
            assert delivered(await fine)
            await post.close()
            assert post.pool.used == 0 and not post.pool.contested

    run(main)


ODD: tuple[dict[bytes, bytes], ...] = (
    {},
    {b"": b"421 busy\r\n"},
    {b"": b"x"},
    {b"EHLO": b"500 what\r\n", b"HELO": b"500 what\r\n"},
    {b"MAIL": b"421 go away\r\n"},
    {b"RCPT": b"550 no\r\n"},
    {b"DATA": b"451 no\r\n"},
    {b".": b"421 gone\r\n"},
)


@pytest.mark.parametrize("seed", range(4))
def test_no_place_is_lost_whatever_remotes_do(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        sinks = [RawSink(says) for says in ODD]
        for sink in sinks:
            sink.__enter__()
        try:
            post = Post(TWO, THREE, ABSENT, connections=3)
            lanes = [post.mailer(port) for port in (*(sink.port for sink in sinks), 1)]
            reports = [post.deliver(chance.choice(lanes)) for _ in range(60)]
            while not all(report.done() for report in reports):
                assert post.pool.used <= 3
                post.clock.advance(1.0)
                await asyncio.sleep(0.001)
            await turns()
            assert post.pool.used == sum(len(lane._free) for lane in lanes)
            assert not post.pool.contested
            await post.close()
            assert post.pool.used == 0
        finally:
            for sink in sinks:
                sink.__exit__(None, None, None)

    run(main)
