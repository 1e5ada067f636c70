"""Egress pools: whose turn it is among sources, and who gets room for a connection."""

from __future__ import annotations

import random
from collections import Counter, deque
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.core.address import Domain
from pillarbox.engine.egress import TURN, NoSource, Pool, Pools, Shares, Source, Terms

FOUR, SIX = ip_address("192.0.2.99"), ip_address("2001:db8::99")
NAME = Domain.parse("out.example.test")


def sources(*weights: int) -> tuple[Source, ...]:
    return tuple(Source(IPv4Address(f"192.0.2.{n}"), None, weight) for n, weight in enumerate(weights, 1))


def chosen(pool: Pool, count: int, target: IPv4Address | IPv6Address = FOUR) -> list[str]:
    return [str(pool.choose(target)) for _ in range(count)]


# --- weights


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=7), st.integers(1, 400))
def test_at_every_moment_each_source_has_had_its_share_within_one(weights: list[int], count: int) -> None:
    mine = sources(*weights)
    shares, had, whole = Shares(mine), Counter[Source](), sum(weights)
    for number in range(1, count + 1):
        had[shares.next()] += 1
        for source in mine:
            assert abs(had[source] - Fraction(number * source.weight, whole)) < 1


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 60))
def test_over_a_whole_round_the_shares_are_exact_wherever_it_begins(weights: list[int], begin: int) -> None:
    mine, whole = sources(*weights), sum(weights)
    shares = Shares(mine)
    order = [shares.next() for _ in range(begin + 2 * whole)]
    window = Counter(order[begin : begin + whole])
    assert all(abs(window[source] - source.weight) <= 1 for source in mine)
    assert Counter(order[:whole]) == {source: source.weight for source in mine}


def test_the_order_is_the_same_each_time_and_mixed() -> None:
    first, second = (Pool("p", Terms(sources(1, 2, 1))) for _ in range(2))
    order = chosen(first, 8)
    assert order == chosen(second, 8)
    assert not any(order[n] == order[n + 1] == order[n + 2] for n in range(6))


# --- families, drained sources, reload


def test_a_target_is_met_by_a_source_of_its_family() -> None:
    both = (*sources(1), Source(IPv6Address("2001:db8::1"), NAME, 1))
    pool = Pool("p", Terms(both))
    assert chosen(pool, 3) == ["192.0.2.1"] * 3
    assert chosen(pool, 3, SIX) == ["2001:db8::1"] * 3
    assert pool.choose(SIX) == both[1]


@pytest.mark.parametrize(
    ("mine", "target", "said"),
    [
        (sources(1), SIX, "egress pool p: no source has an address of IPv6"),
        (sources(0, 0), FOUR, "egress pool p: all sources are drained (weight 0)"),
        (
            (*sources(0), Source(IPv6Address("2001:db8::1"))),
            FOUR,
            "egress pool p: all sources of IPv4 are drained (weight 0)",
        ),
        ((), FOUR, "egress pool p is not in the configuration any more"),
    ],
)
def test_why_there_is_no_source(mine: tuple[Source, ...], target: IPv4Address | IPv6Address, said: str) -> None:
    with pytest.raises(NoSource) as caught:
        Pool("p", Terms(mine)).choose(target)
    assert str(caught.value) == said


def test_without_a_pool_the_system_chooses() -> None:
    pool = Pools().get(None)
    assert pool.choose(FOUR) is None and pool.serves(None)
    assert all(pool.take() for _ in range(1000))


def test_a_reload_drains_a_source_and_adds_another() -> None:
    one, two = sources(1, 1)
    pools = Pools()
    pools.renew([("p", Terms((one, two)))])
    pool = pools.get("p")
    assert pool.serves(one) and not pool.serves(None)
    pools.renew([("p", Terms((Source(one.address, None, 0), two)))])
    assert pools.get("p") is pool
    assert not pool.serves(one) and pool.serves(two) and chosen(pool, 2) == [str(two)] * 2
    pools.renew([("p", Terms((one, Source(two.address, NAME, 5))))])
    assert not pool.serves(two)  # its free connections have said another name
    pools.renew([])
    assert not pool.serves(one)
    with pytest.raises(NoSource, match="not in the configuration any more"):
        pool.choose(FOUR)
    pools.renew([("p", Terms((one,)))])
    assert pools.get("p") is pool and chosen(pool, 1) == [str(one)]


def test_a_reload_that_changes_nothing_goes_on_with_the_turns() -> None:
    pool, other = (Pool("p", Terms(sources(3, 1))) for _ in range(2))
    order = chosen(other, 8)
    found = chosen(pool, 3)
    pool.renew(Terms(sources(3, 1), connections=7))
    assert found + chosen(pool, 5) == order


# --- room


class Lane:
    """A member whose jobs never end by themselves."""

    def __init__(self, pool: Pool, name: str, order: list[str]) -> None:
        self.pool, self.name, self.order = pool, name, order
        self.waiting = self.busy = self.free = self.news = 0
        pool.join(self)

    def want(self) -> None:
        if self.free:
            self.free, self.busy = self.free - 1, self.busy + 1
        elif self.pool.take():
            self.busy += 1
            self.order.append(self.name)
        else:
            self.waiting += 1
            self.pool.wait(self)

    def finish(self, *, keep: bool) -> None:
        self.busy -= 1
        if keep and not self.pool.contested:
            self.free += 1
        else:
            self.pool.give()

    def granted(self) -> None:
        self.waiting -= 1
        self.busy += 1
        self.order.append(self.name)

    def spare(self) -> bool:
        if not self.free:
            return False
        self.free -= 1
        self.pool.give()
        return True

    def renewed(self) -> None:
        self.news += 1

    def give_up(self) -> None:
        self.waiting -= 1
        self.pool.withdraw(self)


def bounded(connections: int | None) -> tuple[Pool, Lane, Lane, list[str]]:
    pool, order = Pool("p", Terms(sources(1), connections)), list[str]()
    return pool, Lane(pool, "a", order), Lane(pool, "b", order), order


def test_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    pool, a, b, order = bounded(1)
    for lane in (a, a, b, a, b):
        lane.want()
    assert order == ["a"] and pool.used == 1 and pool.contested
    for lane in (a, a, b, a):
        lane.finish(keep=True)
    assert order == ["a", "a", "b", "a", "b"]
    b.finish(keep=True)
    assert b.free == 1 and pool.used == 1 and not pool.contested


def test_who_waits_is_not_kept_waiting_by_a_connection_without_a_job() -> None:
    pool, a, b, order = bounded(1)
    a.want()
    a.finish(keep=True)
    b.want()
    assert (a.free, b.busy, pool.used, order) == (0, 1, 1, ["a", "b"])


def test_who_gives_up_is_forgotten() -> None:
    pool, a, b, order = bounded(1)
    for lane in (a, b, a):
        lane.want()
    b.give_up()
    pool.leave(b)
    a.finish(keep=False)
    assert order == ["a", "a"] and pool.used == 1
    a.finish(keep=False)
    assert pool.used == 0


def test_a_reload_may_move_the_bound() -> None:
    pool, a, b, order = bounded(1)
    for lane in (a, b, b):
        lane.want()
    pool.renew(Terms(sources(1), 2))
    assert order == ["a", "b"] and a.news == b.news == 1
    pool.renew(Terms(sources(1), None))
    assert order == ["a", "b", "b"] and pool.used == 3
    a.finish(keep=True)
    pool.renew(Terms(sources(1), 1))
    assert a.free == 0 and pool.used == 2  # the others have a job
    b.finish(keep=False)
    a.want()
    assert order == ["a", "b", "b"] and pool.used == 1


def test_a_connection_makes_room_for_another_lane_after_some_jobs() -> None:
    pool, a, b, _ = bounded(1)
    a.want()
    assert not pool.yields(a, TURN)
    a.want()
    assert not pool.yields(a, TURN)  # who waits is the same lane
    a.give_up()
    b.want()
    assert pool.yields(a, TURN) and not pool.yields(a, TURN - 1)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_place_is_lost_and_none_made_up(seed: int, connections: int) -> None:
    chance = random.Random(seed)
    pool, a, b, _ = bounded(connections)
    lanes = (a, b, Lane(pool, "c", []))
    asked: deque[Lane] = deque()
    for _ in range(200):
        lane = chance.choice(lanes)
        what = chance.randrange(4)
        if what == 0 and lane.busy:
            lane.finish(keep=chance.random() < 0.5)
        elif what == 1 and lane.waiting:
            lane.give_up()
        elif what == 2:
            lane.spare()
        else:
            lane.want()
            asked.append(lane)
        assert pool.used == sum(each.busy + each.free for each in lanes) <= connections
        waiting = sum(each.waiting for each in lanes)
        assert not waiting or (pool.used == connections and not any(each.free for each in lanes))
        assert pool.contested is bool(waiting)
