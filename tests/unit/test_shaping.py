"""A lane's shaper, on a clock of numbers: what lowers it, what opens the breaker, and how all of it is over again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.app.config_shaping import built_in
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import Ambiguous, Deferred, Delivered, Failed, Job, Kept, Outcome, Report, Row
from pillarbox.engine.shaping import SETTLE, Rules, Shaper, in_the_log
from pillarbox.engine.shaping_rules import Action, Fault, Rule, compiled
from pillarbox.engine.slowdown import SlowDown
from tests.making import make_message

LANE = "mx:far.example"
HOP = "mx.far.example [192.0.2.1]"
UNREACHABLE, LOST_STATUS, DNS_STATUS = EnhancedCode(4, 4, 1), EnhancedCode(4, 4, 2), EnhancedCode(4, 4, 3)
REACHED = "no host for far.example could be reached, the last one mx.far.example [192.0.2.1]: "
MINUTE = 60.0


def reply(text: str) -> Outcome:
    kind = Failed if text[0] == "5" else Deferred
    return kind(text, HOP, EnhancedCode(int(text[0]), 0, 0), remote=True)


OK = Delivered("250 2.0.0 Ok", HOP)
MANY = reply("421 4.7.0 Too many connections")
FAST = reply("450 4.7.1 Rate limit exceeded")
GREY = reply("450 4.7.1 Greylisted, come back later")
NOBODY = reply("550 5.1.1 No such user")
DOWN = Deferred(f"{REACHED}[Errno 111] Connect call failed ('192.0.2.1', 25)", HOP, UNREACHABLE)
REFUSED = Deferred(f"{REACHED}421 4.3.2 Try later", HOP, UNREACHABLE)
CROWDED = Deferred(f"{REACHED}421 4.7.0 Too many connections", HOP, UNREACHABLE)
LATE = Deferred("no answer in time", HOP, LOST_STATUS)
LOST = Deferred("connection closed by the server", HOP, LOST_STATUS)
NO_DNS = Deferred("MX of far.example: SERVFAIL", HOP, DNS_STATUS)
NO_DOMAIN = Failed("domain far.example does not exist", HOP, EnhancedCode(5, 1, 2))
MESSAGE = make_message(MessageId(1))
JOB = Job(MESSAGE, [Row(0, MESSAGE.envelope.recipients[0])], LANE)

LOWERING = Rule("many", Action.LOWER_CONNECTIONS, text=compiled("many"), seconds=600, successes=3)
SLOWING = Rule("rate", Action.RATE, text=compiled("rate"), seconds=600, successes=3, slower=0.5)
BREAKER = Rule("breaker", Action.PAUSE, faults=tuple(set(Fault) - {Fault.DNS}), seconds=30, longest=900, in_a_row=5)


class Rig:
    """A shaper and its clock. `half`: what randomness gives, so that no pause is longer or shorter."""

    def __init__(self, *rules: Rule, limit: int = 20, random: float = 0.5) -> None:
        self.shaper: Shaper = Rules(rules or built_in()).shaper(LANE, lambda: random)
        self.limit = limit
        self.now = 1000.0
        self.told: list[SlowDown] = []

    def hear(self, *outcomes: Outcome, times: int = 1, apart: float = 0.0) -> Sequence[SlowDown]:
        """Gives what the last one told."""
        told: Sequence[SlowDown] = ()
        for _ in range(times):
            self.now += apart
            assert self.most() >= 1
            told = self.shaper.heard(Report(outcomes), JOB, self.now)
            self.told += told
        return told

    def most(self) -> int:
        return self.shaper.most(self.limit)

    def is_open(self) -> bool:
        """Attempts are kept back."""
        return self.shaper.opens_at(self.now) > self.now

    def is_as_ever(self) -> bool:
        free = not self.is_open() and self.shaper.present(self.now) is None
        return free and self.most() == self.limit and self.shaper.pace() is None


# --- connections


def test_connections_are_halved_and_the_slow_down_names_cause_and_end() -> None:
    rig = Rig(LOWERING)
    told = rig.hear(MANY)
    assert rig.most() == 10
    cause = "many: 421 4.7.0 Too many connections"
    assert told == [SlowDown(cause, "at most 10 connections at a time", 1000.0, 1600.0, LANE)]
    assert rig.shaper.present(rig.now) == told[0]
    assert not rig.is_open() and rig.shaper.pace() is None


def test_what_was_under_way_lowers_nothing_twice() -> None:
    rig = Rig(LOWERING)
    rig.hear(MANY, times=20, apart=0.1)
    assert rig.most() == 10
    assert len(rig.told) == 1


def test_the_next_round_halves_again_but_one_is_left() -> None:
    rig = Rig(LOWERING)
    found = []
    for _ in range(7):
        rig.hear(MANY, apart=SETTLE)
        found.append(rig.most())
    assert found == [10, 5, 2, 1, 1, 1, 1]
    begun = [each for each in rig.told if each.until is not None and each.until > each.since + SETTLE]
    ended = [each for each in rig.told if each not in begun]
    assert [each.what.split()[2] for each in begun] == ["10", "5", "2", "1"]
    assert [(each.since, each.until) for each in ended] == [(1005, 1010), (1010, 1015), (1015, 1020)]
    assert rig.shaper.present(rig.now) == SlowDown(
        "many: 421 4.7.0 Too many connections", "at most 1 connection at a time", 1020.0, rig.now + 600, LANE
    )


def test_a_lane_with_one_connection_has_nothing_to_lower() -> None:
    rig = Rig(LOWERING, limit=1)
    assert rig.hear(MANY) == []
    assert rig.is_as_ever()


def test_deliveries_bring_connections_back_step_by_step() -> None:
    rig = Rig(LOWERING)
    rig.hear(MANY)
    found = []
    for _ in range(12):
        rig.hear(OK, apart=1.0)
        found.append(rig.most())
    assert found == [10, 10, 12, 12, 12, 15, 15, 15, 18, 18, 18, 20]
    assert rig.is_as_ever()
    assert rig.told[-1] == SlowDown(
        "many: 421 4.7.0 Too many connections", "at most 10 connections at a time", 1000.0, rig.now, LANE
    )


def test_such_a_reply_begins_the_count_of_deliveries_anew() -> None:
    rig = Rig(LOWERING)
    rig.hear(MANY)
    rig.hear(OK, times=2)
    rig.hear(MANY)
    rig.hear(OK, times=2)
    assert rig.most() == 10


def test_time_ends_a_slow_down_and_the_next_report_tells() -> None:
    rig = Rig(LOWERING)
    rig.hear(MANY)
    rig.now += 599.9
    assert rig.shaper.present(rig.now) is not None
    rig.now += 0.2
    assert rig.is_as_ever()
    assert [each.until for each in rig.hear(OK)] == [1600.0]
    assert rig.hear(OK) == ()


def test_a_reply_of_the_kind_lengthens_it() -> None:
    rig = Rig(LOWERING)
    rig.hear(MANY)
    rig.hear(MANY, apart=4.0)
    rig.now = 1601.0
    present = rig.shaper.present(rig.now)
    assert present is not None and present.until == 1604.0
    rig.now = 1604.0
    assert rig.is_as_ever()


def test_a_delivery_to_some_does_not_count_where_others_met_the_rule() -> None:
    rig = Rig(LOWERING)
    rig.hear(MANY)
    rig.hear(OK, MANY, times=30)
    assert rig.most() == 10


# --- rate


def test_the_rate_is_a_part_of_what_was_measured() -> None:
    rig = Rig(SLOWING)
    rig.hear(OK, times=120, apart=0.5)
    told = rig.hear(FAST)
    assert rig.shaper.pace() == Limit(60, 60)
    assert told == [SlowDown("rate: 450 4.7.1 Rate limit exceeded", "at most 60 a minute", 1060.0, 1660.0, LANE)]
    assert rig.most() == rig.limit and not rig.is_open()
    rig.hear(FAST, apart=SETTLE)
    assert rig.shaper.pace() == Limit(30, 60)


def test_the_rate_comes_back() -> None:
    rig = Rig(SLOWING)
    rig.hear(OK, times=120, apart=0.5)
    rig.hear(FAST)
    seen = set()
    for _ in range(30):
        rig.hear(OK)
        seen.add(rig.shaper.pace())
    assert {Limit(75, 60), Limit(93, 60)} <= seen
    assert rig.is_as_ever()


def test_a_rate_has_a_floor() -> None:
    rig = Rig(SLOWING)
    rig.hear(FAST, times=10, apart=SETTLE)
    assert rig.shaper.pace() == Limit(1, 60)
    rig.hear(OK, times=3)
    assert rig.is_as_ever()


def test_a_fixed_rate() -> None:
    rig = Rig(Rule("rate", Action.RATE, text=compiled("rate"), rate=Limit(30, 3600), successes=1))
    rig.hear(OK, times=120, apart=0.5)
    told = rig.hear(FAST)
    assert rig.shaper.pace() == Limit(30, 3600)
    assert [each.what for each in told] == ["at most 30 an hour"]
    assert rig.hear(FAST, apart=SETTLE) == []
    rig.hear(OK, times=40)
    assert rig.is_as_ever()


def test_what_was_measured_long_ago_is_forgotten() -> None:
    rig = Rig(SLOWING)
    rig.hear(OK, times=120, apart=0.5)
    rig.now += 3 * MINUTE
    rig.hear(FAST)
    assert rig.shaper.pace() == Limit(1, 60)


# --- the breaker


@pytest.mark.parametrize("fault", [DOWN, LATE, LOST, Ambiguous("lost", HOP, LOST_STATUS)], ids=lambda each: each.text)
def test_five_faults_in_a_row_open_the_breaker(fault: Outcome) -> None:
    rig = Rig()
    rig.hear(fault, times=4)
    assert rig.is_as_ever()
    (told,) = rig.hear(fault)
    assert told.cause == f"breaker: {fault.text}" and told.until == 1030.0
    assert told.what == "no attempts, behind 5 connection faults in a row"
    assert rig.is_open() and rig.shaper.opens_at(rig.now) == 1030.0
    assert rig.shaper.present(rig.now) == told


def test_a_421_as_greeting_counts_but_a_burst_of_them_only_once() -> None:
    rig = Rig()
    rig.hear(REFUSED, times=20)
    assert not rig.is_open()
    rig.hear(REFUSED, times=3, apart=SETTLE)
    assert not rig.is_open()
    rig.hear(REFUSED, apart=SETTLE)
    assert rig.is_open()


def test_too_many_connections_at_the_greeting_lowers_them_and_others_keep_the_breaker_closed() -> None:
    rig = Rig()
    for _ in range(10):
        rig.hear(CROWDED, times=5, apart=0.1)
        rig.hear(OK, apart=SETTLE)
    assert not rig.is_open() and rig.most() == 1
    assert {each.cause for each in rig.told} == {"too-many-connections: 421 4.7.0 Too many connections"}


@pytest.mark.parametrize("sign", [OK, GREY, NOBODY, MANY], ids=lambda each: each.text)
def test_any_sign_of_life_begins_the_count_anew(sign: Outcome) -> None:
    rig = Rig()
    for _ in range(5):
        rig.hear(DOWN, times=4)
        rig.hear(sign)
    assert not rig.is_open()


@pytest.mark.parametrize("outcome", [NO_DNS, NO_DOMAIN, Kept("kept", HOP, UNREACHABLE)], ids=lambda each: each.text)
def test_what_is_not_the_next_hops_fault(outcome: Outcome) -> None:
    rig = Rig()
    rig.hear(DOWN, times=4)
    rig.hear(outcome, times=50)
    assert rig.is_as_ever()
    rig.hear(DOWN)
    assert rig.is_open()


def test_a_probe_that_comes_through_closes_it() -> None:
    rig = Rig()
    rig.hear(DOWN, times=5)
    assert rig.most() == 1
    rig.now = 1030.0
    assert not rig.is_open() and rig.most() == 1
    present = rig.shaper.present(rig.now)
    assert present is not None and present.until is None and present.what.startswith("one attempt at a time")
    (told,) = rig.hear(OK, apart=1.0)
    assert (told.since, told.until) == (1000.0, 1031.0)
    assert rig.is_as_ever()


def test_a_probe_that_is_answered_at_all_closes_it() -> None:
    rig = Rig()
    rig.hear(DOWN, times=5)
    rig.now = 1030.0
    rig.hear(GREY)
    assert rig.is_as_ever()


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_quarter_of_an_hour() -> None:
    rig = Rig()
    rig.hear(DOWN, times=5)
    pauses = []
    for _ in range(8):
        pauses.append(rig.shaper.opens_at(rig.now) - rig.now)
        rig.now = rig.shaper.opens_at(rig.now)
        ended, begun = rig.hear(DOWN)
        assert ended.until == rig.now == begun.since
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]


def test_after_it_was_closed_the_pauses_begin_anew() -> None:
    rig = Rig()
    for _ in range(2):
        rig.hear(DOWN, times=5)
        assert rig.shaper.opens_at(rig.now) == rig.now + 30
        rig.now += 30
        rig.hear(OK)
        assert rig.is_as_ever()


def test_attempts_that_were_under_way_do_not_open_it_again() -> None:
    rig = Rig()
    rig.hear(DOWN, times=20, apart=1.0)
    assert rig.shaper.opens_at(rig.now) == 1035.0
    assert len(rig.told) == 1


def test_an_attempt_under_way_that_came_through_closes_it() -> None:
    rig = Rig()
    rig.hear(DOWN, times=5)
    (told,) = rig.hear(OK, apart=2.0)
    assert told.until == 1002.0
    assert rig.is_as_ever()


@pytest.mark.parametrize(("random", "pause"), [(0.0, 27.0), (0.5, 30.0), (1.0, 33.0)])
def test_pauses_differ_by_chance(random: float, pause: float) -> None:
    rig = Rig(random=random)
    rig.hear(DOWN, times=5)
    assert rig.shaper.opens_at(rig.now) - rig.now == pytest.approx(pause)


# --- what slows nothing, and all of it at once


@pytest.mark.parametrize("outcome", [OK, GREY, NOBODY, NO_DNS, NO_DOMAIN], ids=lambda each: each.text)
def test_what_slows_nothing(outcome: Outcome) -> None:
    rig = Rig()
    rig.hear(outcome, times=100)
    assert rig.is_as_ever() and rig.told == []


def test_a_report_without_outcomes_says_nothing() -> None:
    rig = Rig()
    rig.hear(times=10)
    assert rig.is_as_ever() and rig.told == []


def test_slow_downs_of_each_kind_stand_side_by_side() -> None:
    rig = Rig(LOWERING, SLOWING, BREAKER)
    rig.hear(MANY, FAST)
    assert len(rig.told) == 2
    rig.hear(DOWN, times=5)
    present = rig.shaper.present(rig.now)
    assert present is not None and present.cause.startswith("breaker")
    rig.now += 30
    rig.hear(OK)
    present = rig.shaper.present(rig.now)
    assert present is not None and present.cause.startswith("many")
    assert rig.shaper.pace() is not None
    rig.hear(OK, times=100)
    assert rig.is_as_ever()


def test_a_lane_keeps_to_the_rules_that_are_for_it() -> None:
    rules = Rules([Rule("not-there", Action.NONE, codes=("4yz",), lanes=("mx:*.far.example",)), LOWERING])
    for lane, most in (("mx:a.far.example", 20), ("mx:far.example", 10), ("mx:b.far.example", 20)):
        shaper = rules.shaper(lane, lambda: 0.5)
        assert shaper.most(20) == 20
        shaper.heard(Report((MANY,)), JOB, 1000.0)
        assert shaper.most(20) == most


def test_renewed_rules_hold_at_once_and_a_slow_down_goes_on() -> None:
    rules = Rules([LOWERING])
    shaper = rules.shaper(LANE, lambda: 0.5)
    assert shaper.most(20) == 20
    shaper.heard(Report((MANY,)), JOB, 1000.0)
    rules.renew([SLOWING])
    shaper.heard(Report((MANY,)), JOB, 1010.0)
    assert shaper.most(20) == 10 and shaper.pace() is None
    shaper.heard(Report((FAST,)), JOB, 1010.0)
    assert shaper.pace() is not None
    shaper.opens_at(1600.0)
    assert shaper.most(20) == 20


def test_the_log_tells_beginning_and_end() -> None:
    rig = Rig(LOWERING)
    (begun,) = rig.hear(MANY)
    why = "(many: 421 4.7.0 Too many connections)"
    assert in_the_log(begun, rig.now) == f"at most 10 connections at a time, for 600 s {why}"
    rig.now += 700
    (ended,) = rig.hear(OK)
    assert in_the_log(ended, rig.now) == f"over behind 600 s: at most 10 connections at a time {why}"
    assert in_the_log(SlowDown("c", "w", 0.0, None, LANE), rig.now) == "w (c)"


def test_a_lane_that_is_opened_anew_is_as_slow_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillarbox.engine.shaping.MAX_SHAPERS", 3)
    rules = Rules([BREAKER])
    first = rules.shaper("first", lambda: 0.5)
    for _ in range(5):
        first.heard(Report((DOWN,)), JOB, 1000.0)
    rules.shaper("second", lambda: 0.5)
    assert rules.shaper("first", lambda: 0.5).opens_at(1000.0) == 1030.0
    for lane in ("third", "fourth", "fifth"):
        assert rules.shaper(lane, lambda: 0.5).opens_at(1000.0) <= 1000.0
    assert rules.shaper("first", lambda: 0.5) is not first


def test_a_long_reply_is_cut() -> None:
    rig = Rig(LOWERING)
    (told,) = rig.hear(reply("421 Too many " + "x" * 1000))
    assert len(told.cause) < 320 and told.cause.endswith(" …")


OUTCOMES = [OK, MANY, FAST, GREY, NOBODY, DOWN, REFUSED, CROWDED, LATE, LOST, NO_DNS, NO_DOMAIN]
STEPS = st.lists(
    st.tuples(st.lists(st.sampled_from(OUTCOMES), max_size=3), st.floats(0, 2000), st.integers(1, 50)), max_size=60
)


@given(STEPS)
def test_whatever_is_heard_one_may_go_and_deliveries_end_all_of_it(
    steps: list[tuple[list[Outcome], float, int]],
) -> None:
    rig = Rig()
    for outcomes, seconds, limit in steps:
        rig.limit = limit
        rig.hear(*outcomes, apart=seconds)
        assert 1 <= rig.most() <= limit
        assert rig.shaper.opens_at(rig.now) <= rig.now + 900 * 1.1
        pace = rig.shaper.pace()
        assert pace is None or pace.most >= 1
        for each in rig.told:
            assert each.until is not None and each.until >= each.since and each.lane == LANE
    rig.hear(OK, times=800)
    assert rig.is_as_ever()
    assert_each_is_ended(rig)


@given(STEPS)
def test_whatever_is_heard_time_ends_all_but_a_probe(steps: list[tuple[list[Outcome], float, int]]) -> None:
    rig = Rig()
    for outcomes, seconds, _ in steps:
        rig.hear(*outcomes, apart=seconds)
    rig.now += 3 * 3600
    assert not rig.is_open()
    rig.hear(GREY)
    assert rig.is_as_ever()
    assert_each_is_ended(rig)


def assert_each_is_ended(rig: Rig) -> None:
    """What was told to begin was told to end, once, and each end is of something that began."""
    begun, ended = set[tuple[str, str, float]](), list[tuple[str, str, float]]()
    for each in rig.told:
        key = (each.cause, each.what, each.since)
        if key in begun and key not in ended:
            ended.append(key)
        else:
            begun.add(key)
    assert begun == set(ended) and len(begun) == len(ended)
