"""The whole life of alerts under any course of events: numbers with gaps, clocks that jump, people who act, restarts.

`ALERT_RUNS=10000 pytest tests/test_alert_machine.py` runs more courses than the suite does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portfolio_research.alerts import (
    AlertEvent,
    AlertState,
    AlertType,
    Evaluation,
    Lifecycle,
    Rule,
    Severity,
    Silence,
    acknowledge,
    end_silence,
    evaluate,
    resolve,
    silence,
)
from portfolio_research.config import AlertError

RUNS = int(os.environ.get("ALERT_RUNS", "300"))
NAN = float("nan")
START = datetime(2024, 8, 5, tzinfo=UTC)
FOUR = {Severity.LOW: 0.05, Severity.MEDIUM: 0.10, Severity.HIGH: 0.15, Severity.CRITICAL: 0.20}
DEPTH = Rule("depth", AlertType.DRAWDOWN, "drawdown", FOUR)
RULES = (
    DEPTH,
    Rule("own", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 2.0, Severity.HIGH: 4.0}, relative_to="vol", for_ticks=1),
    Rule("few", AlertType.CONCENTRATION, "n", {Severity.LOW: 3, Severity.HIGH: 1}, above=False, clear_ticks=1),
    Rule("halt", AlertType.SYSTEM, "halt", {Severity.CRITICAL: 1.0}, clear_ticks=1, inhibits=True),
    Rule("stale", AlertType.SYSTEM, "age", {Severity.HIGH: 2.0}, clear_ticks=1, inhibits=True, freezes=True),
)
LIFE = Lifecycle()

# ---------------------------------------------------------------- what may happen
drawdowns = st.one_of(st.just(NAN), st.floats(0, 0.3), st.sampled_from([0.0, 0.045, 0.05, 0.0999, 0.1, 0.2, 0.25]))
values = st.fixed_dictionaries(
    {"drawdown": drawdowns, "n": st.sampled_from([NAN, 0, 1, 2, 3, 5, None]), "vol": st.sampled_from([NAN, 0.0, 0.02, 0.08])},
    optional={"halt": st.sampled_from([0.0, 0.0, 0.0, 1.0]), "age": st.sampled_from([0.0, 0.0, 1.0, 3.0])},
)
minutes = st.one_of(st.just(5), st.just(5), st.sampled_from([0, 1, 31, 61, 250, 1500, -3, -40, -2000, -600_000]))
ticks = st.tuples(st.just("tick"), values, minutes, minutes)
people = st.tuples(
    st.sampled_from(["acknowledge", "acknowledge", "resolve", "silence", "unsilence"]),
    st.integers(0, 5),
    st.sampled_from([10, 90, 3000]),
)


def swings(n: int, wait: int) -> list[Any]:
    """A number that comes and goes, and then stays away."""
    path = [{"drawdown": 0.0, "n": 0 if i // 2 % 2 else 9, "halt": 0.0, "age": 0.0} for i in range(n)]
    return [("tick", seen, 2, 2) for seen in path] + [("tick", path[0], wait, wait)] * 2


one_step = st.one_of(ticks, ticks, ticks, people).map(lambda one: [one])
parts = st.one_of(one_step, one_step, one_step, st.builds(swings, st.integers(4, 20), st.sampled_from([5, 61])))
courses = st.lists(parts, max_size=30).map(lambda found: [one for part in found for one in part])


@dataclass
class World:
    """What is kept between steps; with `restart`, everything goes through JSON before each of them."""

    restart: bool = False
    now: datetime = START
    clock: datetime = START
    states: Mapping[str, AlertState] = field(default_factory=dict)
    silences: list[Silence] = field(default_factory=list)
    events: list[AlertEvent] = field(default_factory=list)

    def step(self, one: Any) -> Evaluation | None:
        if self.restart:
            self.states = {key: AlertState.from_dict(through(s)) for key, s in self.states.items()}
            self.silences = [Silence.from_dict(through(s)) for s in self.silences]
        if one[0] != "tick":
            self.act(*one)
            return None
        _, seen, market, wall = one
        self.now, self.clock = self.now + timedelta(minutes=market), self.clock + timedelta(minutes=wall)
        tick = evaluate(RULES, seen, self.states, portfolio="main", now=self.now, clock=self.clock, silences=self.silences)
        self.states = tick.states
        self.events += tick.events
        return tick

    def act(self, what: str, which: int, long: int) -> None:
        ends = self.clock + timedelta(minutes=long)
        try:
            if what == "silence":
                worst = list(Severity)[which % 4]
                made, event = silence("main", "Ana", "drill", self.clock, ends, rule=["", "depth"][which % 2], max_severity=worst)
                self.silences.append(made)
            elif what == "unsilence":
                last = self.silences.pop() if self.silences else None
                if last is None:
                    return
                ended, event = end_silence(last, "Ana", "", self.clock)
                self.silences.append(ended)
            else:
                state = sorted(self.states.values(), key=lambda s: s.id)[which]
                until = ends if which % 2 else None
                new, event = acknowledge(state, "Ana", "", self.clock, until) if what == "acknowledge" else resolve(
                    state, "Ana", "", self.clock
                )
                self.states = {**self.states, state.id: new}
        except (AlertError, IndexError):
            return
        self.events.append(event)


def through(record: Any) -> Any:
    return json.loads(json.dumps(record.to_dict()))


many = settings(max_examples=RUNS, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---------------------------------------------------------------- what must hold
@many
@given(courses)
def test_any_course_of_events(course: list[Any]) -> None:
    straight, restarted = World(), World(restart=True)
    keys: list[str] = []
    for one in course:
        before, known = straight.states, list(straight.silences)
        tick = straight.step(one)
        again = restarted.step(one)
        assert straight.states == restarted.states and straight.silences == restarted.silences
        if tick is not None and again is not None:
            assert tick.notices == again.notices and tick.again(tick.base).states == tick.states
            keys += [notice.key for notice in tick.notices]
            assert len(tick.notices) <= 1
            for key in {*before, *tick.states}:
                follows(before.get(key), tick.states.get(key), tick, known)
    assert len(keys) == len(set(keys)), "two different notices must not look alike"
    assert [e for e in straight.events if e.value == e.value] == [e for e in restarted.events if e.value == e.value]
    story(straight.events, straight.states)


def follows(was: AlertState | None, now: AlertState | None, tick: Evaluation, silences: list[Silence]) -> None:
    """One alert over one tick."""
    mine = [e for e in tick.events if e.alert_id == (now or was).id]  # type: ignore[union-attr]
    kinds = [e.kind for e in mine]
    if now is None:
        assert was is not None and was.state == "pending" and kinds == ["forgotten"]
        return
    assert now.state in ("pending", "firing", "acknowledged", "recovering", "resolved")
    assert (now.acknowledged_by is not None) == (now.state == "acknowledged" or now.acknowledged_at is not None)
    if "resolved" in kinds:
        assert was is not None and was.active and now.judged
    if not now.judged and was is not None:  # blind: nothing moves but what the clock ends
        kept = was if was.state != "acknowledged" or "expired" not in kinds else now
        assert (now.state, now.severity, now.value, now.clearing, now.breaching) == (
            kept.state, was.severity, was.value, was.clearing, was.breaching)  # fmt: skip
    if was is not None and was.active and was.acknowledged_by and now.active and now.acknowledged_by is None:
        assert "escalated" in kinds or "expired" in kinds
    hears(was, now, kinds, tick, silences)


def hears(was: AlertState | None, now: AlertState, kinds: list[str], tick: Evaluation, silences: list[Silence]) -> None:
    """What people are told, and that nothing is lost."""
    assert tick.clock is not None
    silent = any(s.covers(now, tick.clock) for s in silences)
    held = silent or bool(now.inhibited_by)
    told = now.notices - (was.notices if was else 0)
    over = was is not None and was.told is not None and now.told is None and now.state == "resolved" and was.notices == now.notices
    lines = [line for notice in tick.notices for line in notice.lines if line.endswith(now.message)]
    assert told in (0, 1) and (not held or (not told and not over))
    assert bool(lines) or not told
    if now.state == "pending":
        assert not told
    if now.active:
        assert now.silenced_until is None or silent
        if not held:  # nobody who can be told knows less than what is true
            assert now.told is not None and (now.told >= now.severity)
    if now.state == "resolved" and not held and not now.flapping:
        assert now.told is None
    if "reminded" in kinds:
        assert was is not None and was.told_at is not None and now.state == "firing" and not now.flapping
        assert abs(tick.clock - was.told_at) >= LIFE.remind[now.severity]
    if was is not None and was.flapping and now.flapping and told:
        assert was.told is None or now.severity > was.told


def story(events: list[AlertEvent], states: Mapping[str, AlertState]) -> None:
    """Events of each alert follow one another without a gap, and end where it stands."""
    stands: dict[str, str] = {}
    for event in events:
        if event.kind in ("silenced", "unsilenced"):
            continue
        last = stands.get(event.alert_id, "")
        assert event.from_state == last, event
        stands[event.alert_id] = event.to_state
        assert AlertEvent.from_dict(through(event)) == event
    assert {key: state.state for key, state in states.items()} == {key: name for key, name in stands.items() if name}


# ---------------------------------------------------------------- the milder one beside the critical one
@many
@given(st.lists(st.floats(0, 0.4), max_size=30))
def test_one_number_at_two_rules_is_told_once_when_it_is_critical(path: list[float]) -> None:
    other = Rule("other", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 0.1}, for_ticks=1)
    states: Mapping[str, AlertState] = {}
    for i, value in enumerate(path):
        now = START + timedelta(days=i)
        tick = evaluate([DEPTH, other], {"drawdown": value}, states, portfolio="main", now=now)
        states = tick.states
        worst = {s.rule: s for s in states.values() if s.active}
        if "depth" in worst and worst["depth"].severity is Severity.CRITICAL and "other" in worst:
            assert worst["other"].inhibited_by == "depth"
