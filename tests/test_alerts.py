"""The state machine of alerts: what must hold for any series of numbers, and the cases people get wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.alerts import (
    AlertEvent,
    AlertState,
    AlertType,
    AlreadyAcknowledged,
    Evaluation,
    Notice,
    Rule,
    Severity,
    acknowledge,
    default_rules,
    evaluate,
    fingerprint,
    resolve,
)
from portfolio_research.config import AlertError, AlertThresholds, ConfigError
from portfolio_research.metrics import REGISTRY

NAN = float("nan")
START = datetime(2020, 2, 3, tzinfo=UTC)
LEVELS = {Severity.LOW: 0.05, Severity.MEDIUM: 0.10, Severity.HIGH: 0.15, Severity.CRITICAL: 0.20}
DEPTH = Rule("depth", AlertType.DRAWDOWN, "drawdown", LEVELS, title="Drawdown", unit="fraction")
ID = fingerprint("main", "depth")
BLIND_ID = fingerprint("main", "cannot-judge")


def run(
    values: list[Any], states: dict[str, AlertState] | None = None, start: int = 0, rule: Rule = DEPTH
) -> list[Evaluation]:
    """One tick a day of one rule."""
    known: Any = states or {}
    ticks = []
    for i, value in enumerate(values):
        now = START + timedelta(days=start + i)
        ticks.append(evaluate([rule], {rule.metric: value}, known, portfolio="main", now=now))
        known = ticks[-1].states
    return ticks


def state_of(ticks: list[Evaluation]) -> AlertState:
    return ticks[-1].states[ID]


def told(ticks: list[Evaluation]) -> list[str]:
    """The first word of each line about the rule itself, in order."""
    return [
        line.split()[0]
        for t in ticks
        for n in t.notices
        for line in n.lines
        if "Drawdown" in line and "judge" not in line
    ]


# ---------------------------------------------------------------- rules
def test_the_default_table_keeps_the_numbers_of_the_configuration() -> None:
    rules = {r.id: r for r in default_rules()}
    assert rules["drawdown"].levels == LEVELS
    assert rules["weight"].levels[Severity.MEDIUM] == 0.30 and rules["weight"].levels[Severity.CRITICAL] == 0.50
    assert {r.type for r in rules.values()} == set(AlertType) - {AlertType.SYSTEM}
    assert all(r.for_ticks == 2 and r.clear_ticks == 3 and r.clear_ratio == 0.9 for r in rules.values())


def test_a_rule_on_a_registered_metric_uses_its_name_unit_and_direction() -> None:
    known = [rule for rule in default_rules() if rule.metric in REGISTRY]
    assert [rule.metric for rule in known] == ["sharpe"]
    for rule in known:
        metric = REGISTRY[rule.metric]
        assert rule.title == metric.label and (rule.unit == "fraction") == (metric.unit == "fraction")
        assert rule.above == (metric.better == "lower")


def test_thresholds_and_pace_can_be_changed_and_switched_off() -> None:
    thresholds = AlertThresholds(max_drawdown_critical=0.3, sharpe_warning=None, sharpe_high=None, confirm_checks=5)
    rules = {r.id: r for r in default_rules(thresholds)}
    assert rules["drawdown"].levels[Severity.CRITICAL] == 0.3 and rules["drawdown"].for_ticks == 5
    assert "sharpe" not in rules


@pytest.mark.parametrize(
    "bad",
    [
        {"levels": {}},
        {"levels": {Severity.LOW: NAN}},
        {"levels": {Severity.LOW: 0.2, Severity.HIGH: 0.2}},
        {"levels": {Severity.LOW: 1.0, Severity.HIGH: 2.0}, "above": False},
        {"for_ticks": 0},
        {"clear_ticks": 0},
        {"clear_ratio": 0.0},
        {"clear_ratio": 1.1},
    ],
)
def test_a_rule_that_cannot_work_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="alert rule mine"):
        Rule(**{"id": "mine", "type": AlertType.RISK, "metric": "m", "levels": LEVELS} | bad)


def test_a_value_at_the_level_is_a_breach_in_both_directions() -> None:
    assert state_of(run([0.20])).severity is Severity.CRITICAL
    few = Rule("depth", AlertType.CONCENTRATION, "n", {Severity.MEDIUM: 2, Severity.CRITICAL: 1}, above=False)
    assert state_of(run([1], rule=few)).state == "firing"
    assert run([2.1], rule=few)[-1].states == {}
    assert state_of(run([1, 1.05, 1.05, 1.05, 1.05], rule=few)).severity is Severity.CRITICAL  # within the gap
    assert state_of(run([1, 3, 3, 2, 3], rule=few)).severity is Severity.MEDIUM


def test_a_level_of_zero_has_a_gap_too() -> None:
    sharpe = Rule("depth", AlertType.PERFORMANCE, "s", {Severity.MEDIUM: 0.0, Severity.HIGH: -1.0}, above=False)
    assert state_of(run([-0.1, -0.1, 0.05, 0.05, 0.05, 0.05], rule=sharpe)).state == "firing"
    assert state_of(run([-0.1, -0.1, 0.2, 0.2, 0.2], rule=sharpe)).state == "resolved"


def test_severities_are_ordered_and_not_alphabetical() -> None:
    assert all(a < b and b > a and a <= b and b >= a for a, b in pairwise(Severity))
    assert not Severity.LOW > Severity.CRITICAL


# ---------------------------------------------------------------- up, down, blind
def test_below_critical_waits_and_critical_does_not() -> None:
    assert told(run([0.12])) == [] and told(run([0.12, 0.12])) == ["MEDIUM"] and told(run([0.3])) == ["CRITICAL"]


def test_a_dip_while_pending_forgets_it() -> None:
    ticks = run([0.12, 0.01, 0.12])
    assert told(ticks) == [] and state_of(ticks).breaching == 1
    assert [e.kind for t in ticks for e in t.events] == ["pending", "forgotten", "pending"]
    assert ticks[1].states == {} and ticks[1].events[0].to_state == ""


def test_a_dip_while_pending_again_brings_back_how_the_last_episode_ended() -> None:
    over = run([0.3, 0.01, 0.01, 0.01])
    again = run([0.12, 0.01], dict(over[-1].states), start=4)
    assert again[0].states[ID].before == over[-1].states[ID] and state_of(again) == state_of(over)


def test_every_rise_is_told_once_and_stepping_down_is_silent() -> None:
    ticks = run([0.12, 0.12, 0.16, 0.16, 0.25, 0.25, 0.16, 0.16, 0.16, 0.16])
    assert told(ticks) == ["MEDIUM", "HIGH", "CRITICAL"] and state_of(ticks).severity is Severity.HIGH
    assert told(run([0.25], dict(ticks[-1].states), start=10)) == ["CRITICAL"]


def test_it_is_over_only_after_a_clear_run_and_says_so_with_peak_and_who() -> None:
    fired = state_of(run([0.22]))
    mine, _ = acknowledge(fired, "Ana", "on it", START)
    ticks = run([0.3, 0.04, 0.19, 0.04, 0.04], {ID: mine}, start=1)
    assert state_of(ticks).state == "recovering" and told(ticks) == []  # 0.19 began the count anew
    kinds = [e.kind for t in ticks for e in t.events]
    assert kinds == ["recovering", "relapsed", "recovering"] and ticks[2].states[ID].state == "acknowledged"
    (notice,) = run([0.04], dict(ticks[-1].states), start=6)[-1].notices
    assert notice.title.startswith("[RESOLVED]") and "worst 30.0 %" in notice.lines[0] and "Ana" in notice.lines[0]


def test_who_heard_of_the_worst_hears_of_the_end_although_it_eased_before() -> None:
    ticks = run([0.25, 0.16, 0.16, 0.16, 0.01, 0.01, 0.01])
    notices = [notice for tick in ticks for notice in tick.notices if "Drawdown" in notice.title]
    kinds = [event.kind for tick in ticks for event in tick.events if event.alert_id == ID]
    assert kinds == ["fired", "eased", "recovering", "resolved"]
    assert [notice.severity for notice in notices] == [Severity.CRITICAL, Severity.CRITICAL]
    assert notices[-1].title.startswith("[RESOLVED]") and state_of(ticks).severity is Severity.HIGH
    again = run([0.11, 0.11, 0.01, 0.01, 0.01], dict(ticks[-1].states), start=10)
    assert [notice.severity for tick in again for notice in tick.notices] == [Severity.MEDIUM, Severity.MEDIUM]


def test_a_milder_alert_in_the_same_message_does_not_hide_the_end_of_a_critical_one() -> None:
    weight = Rule("weight", AlertType.CONCENTRATION, "weight", {Severity.LOW: 0.3}, for_ticks=1, title="Weight")
    states: Any = {}
    for i, (depth, share) in enumerate([(0.25, 0.1), (0.01, 0.1), (0.01, 0.1), (0.01, 0.4)]):
        now, values = START + timedelta(days=i), {"drawdown": depth, "weight": share}
        tick = evaluate([DEPTH, weight], values, states, portfolio="main", now=now)
        states = tick.states
    assert [line.split()[0] for line in tick.notices[0].lines] == ["LOW", "OK"]
    assert tick.notices[0].severity is Severity.CRITICAL and tick.notices[0].title.startswith("[LOW]")


def test_stepping_down_and_over_needs_the_lower_levels_clear_as_long() -> None:
    ticks = run([0.3, 0.12, 0.12, 0.01])  # clear of critical for three ticks, of medium for one
    assert state_of(ticks).state == "firing" and state_of(ticks).severity is Severity.MEDIUM
    assert state_of(run([0.3, 0.01, 0.01, 0.12])).state == "firing"


@pytest.mark.parametrize("nothing", [NAN, None, "n/a", float("inf"), 10**400])
def test_no_number_freezes_everything(nothing: object) -> None:
    before = run([0.3, 0.01, 0.01])
    ticks = run([nothing] * 5, dict(before[-1].states), start=3)
    frozen = state_of(ticks)
    assert (frozen.state, frozen.clearing, frozen.value) == ("recovering", 2, 0.01)
    assert "cannot judge" in frozen.message and not frozen.judged
    assert [e.kind for t in ticks for e in t.events if e.alert_id == ID] == ["blind"]
    assert state_of(run([0.01], dict(ticks[-1].states), start=8)).state == "resolved"
    back = run([0.3], dict(run([0.3, nothing])[-1].states), start=2)
    assert [e.kind for e in back[-1].events if e.alert_id == ID] == ["sighted"] and state_of(back).judged


def test_what_cannot_be_judged_is_an_alert_that_names_it() -> None:
    other = Rule("other", AlertType.RISK, "var", {Severity.LOW: 0.1}, title="Value at risk")
    third = Rule("third", AlertType.RISK, "score", {Severity.LOW: 0.1})
    known: Any = {}
    for i in range(3):
        values = {"drawdown": 0.0, "score": 0.0}
        tick = evaluate(
            [DEPTH, other, third], values, known, portfolio="main", now=START + timedelta(days=i), problem="x\ny"
        )
        known = tick.states
        assert bool(tick.notices) == (i == 1)
    assert (
        known[BLIND_ID].message == "Cannot judge: Value at risk (x y)" and known[BLIND_ID].severity is Severity.MEDIUM
    )
    tick = evaluate([DEPTH, other, third], {}, known, portfolio="main", now=START + timedelta(days=3))
    assert tick.states[BLIND_ID].severity is Severity.HIGH and len(tick.notices) == 1
    tick = evaluate([], {}, {}, portfolio="main", now=START)
    assert tick.states == {} and tick.notices == ()


def test_an_alert_whose_rule_is_gone_is_closed() -> None:
    fired = dict(run([0.3])[-1].states)
    tick = evaluate([], {}, fired, portfolio="main", now=START)
    assert tick.states[ID].state == "resolved" and tick.events[0].comment == "rule removed"
    other = evaluate([], {}, fired, portfolio="other", now=START)
    assert other.states[ID].state == "firing"  # not ours


def test_one_notice_for_many_alerts_worst_first_over_last() -> None:
    rules = [
        Rule(f"r{i}", AlertType.RISK, f"m{i}", {Severity.LOW: 1, Severity.CRITICAL: 2 + i}, for_ticks=1, clear_ticks=1)
        for i in range(3)
    ]
    first = evaluate(
        rules, {"m0": 1.0, "m1": 0.0, "m2": 0.0}, {}, portfolio="main", now=START, dashboard_url="http://x"
    )
    (notice,) = evaluate(rules, {"m0": 0.0, "m1": 1.0, "m2": 9.0}, first.states, portfolio="main", now=START).notices
    assert [line.split()[0] for line in notice.lines] == [
        "CRITICAL",
        "LOW",
        "OK",
    ] and notice.severity is Severity.CRITICAL
    assert notice.title.endswith("(+2 more)") and first.notices[0].dashboard_url == "http://x"


def test_the_subject_is_part_of_identity_and_of_the_title() -> None:
    rule = Rule("w", AlertType.CONCENTRATION, "w", {Severity.CRITICAL: 0.5}, subject="BTC", title="Weight")
    (state,) = evaluate([rule], {"w": 0.6}, {}, portfolio="main", now=START).states.values()
    assert state.title == "Weight BTC" and state.id == fingerprint("main", "w", "BTC") != fingerprint("main", "w")


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(AlertError, match="time zone"):
        evaluate([DEPTH], {}, {}, portfolio="main", now=datetime(2020, 1, 1))


def test_a_head_shorter_than_its_limit_is_whole() -> None:
    assert Notice("p", "t", Severity.LOW, ("a", "b"), START).head() == ["a", "b"]


# ---------------------------------------------------------------- people
def test_the_second_acknowledgement_names_the_first() -> None:
    mine, event = acknowledge(state_of(run([0.3])), "  Ana  Lima ", "hedging", START)
    assert (event.kind, event.who, event.comment, mine.comment) == ("acknowledged", "Ana Lima", "hedging", "hedging")
    with pytest.raises(AlreadyAcknowledged, match="Ana Lima at 2020-02-03T00:00:00Z") as caught:
        acknowledge(mine, "Ben", "", START)
    assert (caught.value.acknowledged_by, caught.value.acknowledged_at) == ("Ana Lima", START)


def test_only_active_alerts_and_only_by_somebody() -> None:
    pending = state_of(run([0.12]))
    over = state_of(run([0.3, 0, 0, 0]))
    for action in (acknowledge, resolve):
        for state in (pending, over):
            with pytest.raises(AlertError, match=state.state):
                action(state, "Ana", "", START)
        with pytest.raises(AlertError, match="say who"):
            action(state_of(run([0.3])), " ", "", START)


def test_a_rise_ends_an_acknowledgement() -> None:
    mine, _ = acknowledge(state_of(run([0.12, 0.12])), "Ana", "fine", START)
    ticks = run([0.12, 0.25], {ID: mine}, start=2)
    assert ticks[0].states[ID].state == "acknowledged" and state_of(ticks).state == "firing"
    assert state_of(ticks).acknowledged_by is None and told(ticks) == ["CRITICAL"]


def test_acknowledging_while_recovering_keeps_the_count() -> None:
    mine, _ = acknowledge(state_of(run([0.3, 0.01])), "Ana", "", START)
    assert (mine.state, mine.clearing) == ("recovering", 1)


def test_resolved_by_hand_but_still_in_breach_fires_again() -> None:
    closed, event = resolve(state_of(run([0.3])), "Ana", "wrong price", START)
    assert closed.state == "resolved" and "Ana (wrong price)" in closed.message and event.to_state == "resolved"
    assert told(run([0.3], {ID: closed}, start=1)) == ["CRITICAL"]


def test_the_dashboard_finds_its_fields() -> None:
    wanted = "id type severity state title message value threshold subject since updated acknowledged_by"
    data = state_of(run([0.3])).to_dict()
    assert {*wanted.split(), "acknowledged_at", "comment"} <= data.keys() and data["since"] == "2020-02-03T00:00:00Z"
    json.dumps(data, allow_nan=False)


# ---------------------------------------------------------------- for any series
VALUES = st.lists(st.one_of(st.floats(0, 0.4), st.just(NAN), st.sampled_from(list(LEVELS.values()))), max_size=40)
TIMES = st.lists(st.integers(0, 39), max_size=4, unique=True)


def lived(
    values: list[float], acks: list[int], restart: bool = False
) -> list[tuple[AlertState | None, AlertState | None, Evaluation]]:
    """(before, after, tick) for each value; somebody acknowledges at `acks`; with `restart` states go through JSON."""
    known: Any = {}
    out = []
    for i, value in enumerate(values):
        now = START + timedelta(days=i)
        state = known.get(ID)
        if i in acks and state is not None and state.active and state.acknowledged_by is None:
            known = dict(known) | {ID: acknowledge(state, "Ana", "", now)[0]}
        if restart:
            known = {k: AlertState.from_dict(json.loads(json.dumps(s.to_dict()))) for k, s in known.items()}
        tick = evaluate([DEPTH], {"drawdown": value}, known, portfolio="main", now=now)
        out.append((known.get(ID), tick.states.get(ID), tick))
        known = tick.states
    return out


@given(VALUES, TIMES)
def test_no_number_never_changes_where_an_alert_stands(values: list[float], acks: list[int]) -> None:
    for value, (before, after, tick) in zip(values, lived(values, acks), strict=True):
        if value != value and before is not None:
            assert after is not None and (after.state, after.severity, after.clearing) == (
                before.state,
                before.severity,
                before.clearing,
            )
            assert not any(e.to_state == "resolved" for e in tick.events if e.alert_id == ID)


@given(VALUES, TIMES)
def test_one_notice_for_each_firing_rise_and_end_and_no_other(values: list[float], acks: list[int]) -> None:
    for before, after, tick in lived(values, acks):
        was = before if before is not None and before.active else None
        is_ = after if after is not None and after.active else None
        rose = is_ is not None and (was is None or is_.severity > was.severity)
        ended = was is not None and is_ is None
        assert len(tick.notices) <= 1
        lines = [line for n in tick.notices for line in n.lines if "Drawdown" in line and "Cannot judge" not in line]
        assert len(lines) == (rose or ended)
        assert (after.notices if after else 0) - (before.notices if before else 0) == rose


@given(VALUES, TIMES)
def test_an_acknowledgement_lasts_until_it_is_over_or_worse(values: list[float], acks: list[int]) -> None:
    for before, after, _ in lived(values, acks):
        if before is not None and before.active and before.acknowledged_by:
            assert after is not None
            assert after.acknowledged_by == "Ana" or after.severity > before.severity
            assert after.state != "firing" or after.severity > before.severity


@given(VALUES, TIMES)
def test_over_means_three_clear_ticks_in_a_row(values: list[float], acks: list[int]) -> None:
    seen: list[float] = []
    for value, (_, after, tick) in zip(values, lived(values, acks), strict=True):
        seen += [value] if value == value else []
        if any(e.kind == "resolved" and e.alert_id == ID for e in tick.events):
            assert after is not None and all(v < 0.05 * 0.9 + 1e-9 for v in seen[-3:]) and len(seen) > 3


@given(VALUES, TIMES)
def test_a_restart_changes_nothing_and_everything_survives_json(values: list[float], acks: list[int]) -> None:
    straight, restarted = lived(values, acks), lived(values, acks, restart=True)
    assert straight == restarted or [str(x) for x in straight] == [str(x) for x in restarted]  # NaN in the values
    for _, _, tick in straight:
        for event in tick.events:
            assert AlertEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event
        for notice in tick.notices:
            assert Notice.from_dict(json.loads(json.dumps(notice.to_dict()))) == notice


@given(VALUES, TIMES)
def test_keys_of_notices_never_repeat_and_running_a_tick_again_gives_the_same(
    values: list[float], acks: list[int]
) -> None:
    ticks = [tick for *_, tick in lived(values, acks)]
    keys = [n.key for t in ticks for n in t.notices]
    assert len(keys) == len(set(keys))
    assert all(t.again(t.base).notices == t.notices for t in ticks)


@given(VALUES, TIMES)
def test_events_are_a_gapless_story(values: list[float], acks: list[int]) -> None:
    for before, after, tick in lived(values, acks):
        mine = [e for e in tick.events if e.alert_id == ID]
        assert len(mine) <= 1
        moved = (before and before.state) != (after and after.state) or (before and before.severity) != (
            after and after.severity
        )
        if moved and not (before and after and before.state == after.state == "pending"):
            assert mine and mine[0].from_state == (before.state if before else "")
