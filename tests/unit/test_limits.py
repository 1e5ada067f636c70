"""Rates: so many a minute, so many at once, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.engine import limits
from pillarbox.engine.limits import Rate


def test_as_many_at_once_as_a_minute_has() -> None:
    rate = Rate(3)
    assert [rate.allows("alice", 100.0) for _ in range(5)] == [True, True, True, False, False]


def test_they_come_back_one_by_one() -> None:
    rate = Rate(3)
    assert all(rate.allows("alice", 0.0) for _ in range(3))
    moments = (10.0, 19.9, 20.0, 20.0, 39.9, 40.0, 59.9, 60.0)
    assert [rate.allows("alice", now) for now in moments] == [False, False, True, False, False, True, False, True]


def test_a_long_silence_saves_no_more_than_a_minute() -> None:
    rate = Rate(2)
    assert rate.allows("alice", 0.0)
    assert [rate.allows("alice", 1e6) for _ in range(3)] == [True, True, False]


def test_refused_ones_cost_nothing() -> None:
    rate = Rate(1)
    assert rate.allows("alice", 0.0)
    assert not any(rate.allows("alice", now / 10) for now in range(599))
    assert rate.allows("alice", 60.0)


def test_each_name_has_its_own() -> None:
    rate = Rate(1)
    assert rate.allows("alice", 0.0) and rate.allows("bob", 0.0)
    assert not rate.allows("alice", 0.0) and not rate.allows("bob", 0.0)


def test_the_name_unused_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_NAMES", 3)
    rate = Rate(2)
    for name in ("a", "b", "c", "a"):
        assert rate.allows(name, 0.0)
    assert rate.allows("d", 0.0)  # in the place of b
    assert len(rate._buckets) == 3
    assert not rate.allows("a", 0.0)
    assert [rate.allows("b", 0.0) for _ in range(3)] == [True, True, False]
    assert len(rate._buckets) == 3


@given(st.integers(1, 5), st.lists(st.floats(0, 30), max_size=80))
def test_no_minute_has_more_than_twice_the_rate(per_minute: int, pauses: list[float]) -> None:
    rate, now, allowed = Rate(per_minute), 0.0, []
    for pause in pauses:
        now += pause
        if rate.allows("alice", now):
            allowed.append(now)
    for start in allowed:
        assert sum(start <= moment < start + 60 for moment in allowed) <= 2 * per_minute


def test_what_has_happened_is_charged_and_its_debt_paid_off() -> None:
    rate = Rate(3)
    for _ in range(5):
        rate.charge("alice", 0.0)
    assert rate.spent("alice", 59.9) and not rate.spent("alice", 60.1)
    assert not rate.spent("bob", 0.0)


def test_looking_takes_nothing() -> None:
    rate = Rate(1)
    assert not any(rate.spent("alice", 0.0) for _ in range(5))
    assert rate.allows("alice", 0.0) and rate.spent("alice", 0.0)


def test_a_debt_has_an_end() -> None:
    rate = Rate(2)
    for _ in range(1000):
        rate.charge("alice", 0.0)
    assert rate.spent("alice", limits.MAX_DEBT * 60.0) and not rate.spent("alice", limits.MAX_DEBT * 60.0 + 31)


def test_charges_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_NAMES", 3)
    rate = Rate(1)
    for name in "abcd":
        rate.charge(name, 0.0)
    assert [name for name in "abcd" if rate.spent(name, 0.0)] == ["b", "c", "d"]
