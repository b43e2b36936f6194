"""What people hear of alerts and do about them: once, again, late, not at all; and what the store keeps of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from store_rows import start

from portfolio_research.alerts import (
    AlertState,
    AlertType,
    Evaluation,
    Lifecycle,
    Rule,
    Severity,
    acknowledge,
    evaluate,
    fingerprint,
    resolve,
    silence,
    system_rules,
)
from portfolio_research.config import AlertError
from portfolio_research.monitor import MemorySink
from portfolio_research.store import Store, schema
from portfolio_research.store.outbox import StoreSink

DAY = datetime(2024, 8, 5, tzinfo=UTC)
LEVELS = {Severity.LOW: 0.05, Severity.MEDIUM: 0.10, Severity.HIGH: 0.15, Severity.CRITICAL: 0.20}
DEPTH = Rule("depth", AlertType.DRAWDOWN, "drawdown", LEVELS, title="Drawdown", unit="fraction", for_ticks=1, clear_ticks=1)
ID = fingerprint("main", "depth")


def at(minutes: float) -> datetime:
    return DAY + timedelta(minutes=minutes)


class Desk:
    """One alert, a tick every five minutes, and what is heard of it."""

    def __init__(self, *rules: Rule, **options: Any) -> None:
        self.rules, self.options = rules or (DEPTH,), options
        self.states: Any = {}
        self.minutes = 0.0
        self.silences: list[Any] = []

    def tick(self, value: Any, minutes: float = 5, **more: Any) -> list[str]:
        self.minutes += minutes
        now = at(self.minutes)
        self.last: Evaluation = evaluate(
            self.rules, {"drawdown": value, "engine_halted": 0.0, "data_age": 0.0} | more, self.states, portfolio="main",
            now=now, clock=now, silences=self.silences, **self.options,
        )  # fmt: skip
        self.states = self.last.states
        return [line.split(",")[0] for notice in self.last.notices for line in notice.lines]

    @property
    def state(self) -> AlertState:
        return self.states[ID]  # type: ignore[no-any-return]

    def acknowledge(self, **how: Any) -> None:
        self.states = {**self.states, ID: acknowledge(self.state, "Ana", "on it", at(self.minutes), **how)[0]}

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.last.events]


# ---------------------------------------------------------------- reminders and acknowledgements
@pytest.mark.parametrize(("value", "every"), [(0.25, 30), (0.16, 240)])
def test_what_nobody_takes_is_said_again(value: float, every: int) -> None:
    desk = Desk()
    assert len(desk.tick(value)) == 1
    said = [bool(desk.tick(value, 5)) for _ in range(2 * every // 5 + 1)]
    assert [5 * (i + 1) for i, heard in enumerate(said) if heard] == [every, 2 * every]
    assert "still: " in desk.last.notices[0].lines[0] if desk.last.notices else True


def test_what_is_low_or_recovering_or_taken_is_not() -> None:
    for value in (0.06, 0.12):
        desk = Desk()
        desk.tick(value)
        assert not any(desk.tick(value, 600) for _ in range(20))
    slow = Desk(replace(DEPTH, clear_ticks=99))
    slow.tick(0.25)
    assert not any(slow.tick(0.01, 60) for _ in range(20)) and slow.state.state == "recovering"
    taken = Desk()
    taken.tick(0.25)
    taken.acknowledge()
    assert not any(taken.tick(0.25, 60) for _ in range(23))


def test_without_a_clock_nobody_is_reminded_and_nothing_ends() -> None:
    states: Any = {}
    for i in range(50):
        tick = evaluate([DEPTH], {"drawdown": 0.25}, states, portfolio="main", now=DAY + timedelta(days=i))
        states = tick.states
        assert bool(tick.notices) == (i == 0)
        if not i:
            states = {ID: acknowledge(states[ID], "Ana", "", DAY)[0]}
    assert states[ID].acknowledged_by == "Ana"


def test_an_acknowledgement_ends_after_a_day_or_when_it_says() -> None:
    for how, lasts in (({}, 1440), ({"until": at(95)}, 90), ({"lasts": timedelta(hours=2)}, 120)):
        desk = Desk()
        desk.tick(0.25)
        desk.acknowledge(**how)
        assert desk.tick(0.25, lasts - 1) == [] and desk.state.state == "acknowledged"
        (line,) = desk.tick(0.25, 1)
        assert line.startswith("CRITICAL acknowledged no longer: ") and desk.state.state == "firing"
        (event,) = desk.last.events
        assert (event.kind, event.who, event.comment, event.from_state) == ("expired", "Ana", "on it", "acknowledged")
        assert desk.state.acknowledged_until is None and desk.tick(0.25, 30) != []


def test_an_acknowledgement_does_not_hold_back_what_is_worse() -> None:
    desk = Desk()
    desk.tick(0.12)
    desk.acknowledge()
    assert desk.tick(0.25)[0].startswith("CRITICAL worse: ") and desk.state.acknowledged_by is None


@pytest.mark.parametrize("until", [at(-1), at(0), at(31 * 1440), datetime(2024, 8, 6)])
def test_an_acknowledgement_needs_an_end_that_makes_sense(until: datetime) -> None:
    desk = Desk()
    desk.tick(0.25, 0)
    with pytest.raises(AlertError, match="within 30 days|time zone"):
        desk.acknowledge(until=until)


def test_a_clock_that_jumps_back_makes_noise_and_not_silence() -> None:
    desk = Desk()
    desk.tick(0.25)
    desk.acknowledge()
    assert desk.tick(0.25, -60) == []  # an hour of summer time
    assert desk.tick(0.25, -3 * 365 * 1440)[0].startswith("CRITICAL acknowledged no longer")
    assert desk.tick(0.25, -100 * 1440)[0].startswith("CRITICAL still")
    assert desk.tick(0.01, -100 * 1440)[0] == "OK resolved: Drawdown 1.0 %"
    assert "over after 0:00:00" in desk.state.message


# ---------------------------------------------------------------- silences
def muted(desk: Desk, minutes: float, **about: Any) -> None:
    made, _ = silence("main", "Ana", "drill", at(desk.minutes), at(desk.minutes + minutes), **about)
    desk.silences.append(made)


def test_what_fires_in_a_silence_is_told_when_it_ends() -> None:
    desk = Desk()
    muted(desk, 30)
    assert desk.tick(0.16) == [] and desk.kinds == ["fired"] and desk.state.silenced_until == at(30)
    assert desk.tick(0.16, 24) == []
    (line,) = desk.tick(0.17, 1)
    assert line == "HIGH still: Drawdown 17.0 %" and desk.kinds == ["told"] and desk.state.silenced_until is None
    assert desk.tick(0.17) == []


def test_what_comes_and_goes_in_a_silence_is_never_told() -> None:
    desk = Desk()
    muted(desk, 30)
    assert desk.tick(0.16) == desk.tick(0.01) == desk.tick(0.01, 60) == [] and not desk.state.live


def test_an_end_in_a_silence_is_told_after_it() -> None:
    desk = Desk()
    desk.tick(0.16)
    muted(desk, 30)
    assert desk.tick(0.01) == [] and desk.kinds == ["resolved"] and desk.state.live
    assert desk.tick(0.01, 30) == ["OK resolved: Drawdown 1.0 %"] and not desk.state.live


def test_a_silence_covers_what_it_says_and_nothing_worse() -> None:
    for about, heard in (
        ({"rule": "other"}, True),
        ({"rule": "depth"}, False),
        ({"subject": "BTC"}, True),
        ({"max_severity": Severity.MEDIUM}, True),
        ({"max_severity": Severity.HIGH}, False),
    ):
        desk = Desk()
        muted(desk, 30, **about)
        assert bool(desk.tick(0.16)) == heard
    assert desk.tick(0.25)[0] == "CRITICAL Drawdown 25.0 %"  # never told of high, so it is no "worse" either


def test_a_silence_needs_an_end_a_name_and_a_reason() -> None:
    for who, comment, ends, says in (
        ("Ana", "x", at(31 * 1440), "within 30 days"),
        ("Ana", "x", at(0), "must end after now"),
        (" ", "x", at(5), "say who"),
        ("Ana", " ", at(5), "say why"),
    ):
        with pytest.raises(AlertError, match=says):
            silence("main", who, comment, at(0), ends)


# ---------------------------------------------------------------- inhibition
def test_while_trading_is_halted_metrics_are_followed_and_not_told() -> None:
    desk = Desk(DEPTH, *system_rules())
    calm = {"loop_age": 0.0, "order_age": 0.0, "position_drift": 0.0}
    assert len(desk.tick(0.25, engine_halted=1.0, **calm)) == 1
    assert desk.state.state == "firing" and desk.state.inhibited_by == "engine-halted"
    assert desk.tick(0.25, 120, engine_halted=1.0, **calm) == ["CRITICAL still: Engine halted 1"]
    drift = desk.tick(0.25, engine_halted=1.0, **calm | {"position_drift": 0.03})
    assert drift == ["CRITICAL Ledger against venue 3.0 %"]  # the machine is not inhibited
    after = desk.tick(0.25, **calm)
    assert [line.split()[0] for line in after] == ["CRITICAL", "OK", "OK"] and "still: Drawdown" in after[0]


def test_old_data_freeze_and_say_so_once() -> None:
    desk = Desk(DEPTH, *system_rules())
    calm = {"loop_age": 0.0, "order_age": 0.0, "position_drift": 0.0}
    desk.tick(0.25, **calm)
    assert desk.tick(0.0, data_age=2.0, **calm) == []  # pending; the number is not looked at any more
    assert desk.state.state == "firing" and not desk.state.judged and "data are old" in desk.state.message
    assert desk.tick(0.0, data_age=3.0, **calm) == ["HIGH Checks without new data 3"]
    assert desk.state.inhibited_by == "data-stale" and not any(s.rule == "cannot-judge" for s in desk.states.values())
    assert sorted(desk.tick(0.0, data_age=0.0, **calm)) == ["OK resolved: Checks without new data 0", "OK resolved: Drawdown 0.0 %"]


def test_missing_numbers_under_a_halt_are_followed_and_not_told() -> None:
    halted = next(r for r in system_rules() if r.id == "engine-halted")
    desk = Desk(DEPTH, halted)
    said = [desk.tick(None, engine_halted=1.0) for _ in range(4)]
    assert [len(lines) for lines in said] == [1, 0, 0, 0]
    assert desk.states[fingerprint("main", "cannot-judge")].inhibited_by == "engine-halted"


def test_beside_a_critical_alert_a_milder_one_about_the_same_number_is_silent() -> None:
    mine = Rule("mine", AlertType.DRAWDOWN, "drawdown", {Severity.HIGH: 0.18}, for_ticks=1, clear_ticks=1)
    other = Rule("btc", AlertType.DRAWDOWN, "drawdown", {Severity.HIGH: 0.18}, for_ticks=1, subject="BTC")
    desk = Desk(DEPTH, mine, other)
    assert len(desk.tick(0.25)) == 2  # that of BTC is another subject
    assert desk.states[fingerprint("main", "mine")].inhibited_by == "depth"
    eased = desk.tick(0.179)
    assert desk.state.severity is Severity.HIGH and eased == ["HIGH still: drawdown 0.179"]


# ---------------------------------------------------------------- flapping
def swing(desk: Desk, n: int, minutes: float = 5) -> list[list[str]]:
    return [desk.tick(0.16 if i % 2 == 0 else 0.01, minutes) for i in range(n)]


def test_five_changes_in_an_hour_are_too_many() -> None:
    desk = Desk()
    said = swing(desk, 12)
    assert [len(lines) for lines in said] == [1, 1, 1, 1, 1] + [0] * 7
    assert said[4] == ["HIGH comes and goes (muted until calm): Drawdown 16.0 %"] and desk.state.flapping
    assert desk.tick(0.01, 59) == [] and desk.tick(0.01, 1) == ["OK resolved: Drawdown 1.0 %"]
    assert not desk.state.flapping and not desk.state.live


def test_a_flapping_alert_that_stays_is_heard_again_when_calm() -> None:
    desk = Desk()
    swing(desk, 11)
    assert desk.tick(0.16, 59) == [] and desk.tick(0.16, 1) == ["HIGH calm again: Drawdown 16.0 %"]
    assert desk.tick(0.16, 239) == [] and desk.tick(0.16, 1) == ["HIGH still: Drawdown 16.0 %"]


def test_flapping_does_not_hide_what_is_worse() -> None:
    desk = Desk()
    swing(desk, 9)
    assert desk.tick(0.25) == ["CRITICAL worse: Drawdown 25.0 %"] and desk.state.flapping


def test_slow_changes_are_no_flapping_and_blindness_is_no_calm() -> None:
    slow = Desk()
    assert all(len(lines) == 1 for lines in swing(slow, 20, 15.1))
    blind = Desk()
    swing(blind, 11)
    assert blind.tick(None, 300) == [] and blind.state.flapping


def test_how_long_things_last_can_be_set() -> None:
    life = Lifecycle({Severity.LOW: timedelta(minutes=10)}, flapping_changes=2, calm_for=timedelta(minutes=20))
    desk = Desk(lifecycle=life)
    assert [len(desk.tick(0.06)) for _ in range(3)] == [1, 0, 1]
    assert [len(lines) for lines in swing(Desk(lifecycle=life), 4)] == [1, 1, 1, 0]


def test_the_resolved_line_has_value_duration_peak_and_who() -> None:
    desk = Desk()
    desk.tick(0.22)
    desk.tick(0.31)
    desk.acknowledge()
    desk.tick(0.02, 90)
    (line,) = desk.last.notices[0].lines
    assert line == "OK resolved: Drawdown 2.0 %, over after 1:35:00, worst 31.0 %; acknowledged by Ana"


def test_closed_by_hand_is_not_told_and_fires_anew() -> None:
    desk = Desk()
    desk.tick(0.25)
    desk.states = {ID: resolve(desk.state, "Ana", "wrong price", at(desk.minutes))[0]}
    assert desk.tick(0.01) == [] and desk.tick(0.25) == ["CRITICAL Drawdown 25.0 %"]


# ---------------------------------------------------------------- what is kept
@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "p.db") as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


@pytest.fixture(params=["store", "memory"])
def sink(request: pytest.FixtureRequest, store: Store) -> Any:
    return StoreSink(store, "main") if request.param == "store" else MemorySink()


def commit(sink: Any, value: float, minutes: float) -> Evaluation:
    now = at(minutes)
    seen = evaluate([DEPTH], {"drawdown": value}, sink.load(), portfolio="main", now=now, clock=now, silences=sink.silences(now))
    return sink.commit(seen, handlers=["log"], now=now)  # type: ignore[no-any-return]


def test_a_silence_is_kept_listed_ended_and_in_the_history(sink: Any) -> None:
    one = sink.silence("Ana", "drill", at(0), at(60), rule="depth")
    two = sink.silence("Ben", "move", at(0), at(30), max_severity=Severity.CRITICAL)
    assert sink.silences(at(1)) == [two, one] and sink.silences(at(30)) == [one]
    assert commit(sink, 0.16, 5).notices == () and sink.load()[ID].silenced_until == at(60)
    ended = sink.end_silence(one.id, "Cleo", "over", at(31))
    assert ended.ends == at(31) and sink.silences(at(31)) == []
    assert len(commit(sink, 0.16, 35).notices) == 1
    history = [(e.kind, e.who, e.comment) for e in sink.events() if e.who]
    assert history == [("silenced", "Ana", "drill"), ("silenced", "Ben", "move"), ("unsilenced", "Cleo", "over")]
    assert [e.kind for e in sink.events(one.id)] == ["silenced", "unsilenced"]
    with pytest.raises(AlertError, match="has ended"):
        sink.end_silence(one.id, "Ben", "", at(40))
    with pytest.raises(AlertError, match="no silence 'nope'"):
        sink.end_silence("nope", "Ben", "", at(40))


def test_a_silence_written_meanwhile_is_respected(sink: Any) -> None:
    seen = evaluate([DEPTH], {"drawdown": 0.16}, sink.load(), portfolio="main", now=at(0), clock=at(0))
    sink.silence("Ana", "drill", at(0), at(60))
    written = sink.commit(seen, handlers=["log"], now=at(0))
    assert written.notices == () and written.states[ID].silenced_until == at(60)


def test_a_silence_of_everything_reaches_every_portfolio(store: Store) -> None:
    with store.begin() as conn:
        start(conn, "other")
    main, other = StoreSink(store, "main"), StoreSink(store, "other")
    mine = main.silence("Ana", "drill", at(0), at(60))
    assert other.silences(at(1)) == []
    every = other.silence("Ana", "drill", at(0), at(50), everywhere=True)
    assert main.silences(at(1)) == [every, mine] and [e.alert_id for e in other.events()] == [every.id]
    assert main.end_silence(every.id, "Ben", "", at(2)).ends == at(2) and other.silences(at(3)) == []


def test_a_reminder_survives_a_restart_and_the_payload_has_no_clock(store: Store) -> None:
    commit(StoreSink(store, "main"), 0.25, 0)
    assert commit(StoreSink(store, "main"), 0.25, 29).notices == ()
    (notice,) = commit(StoreSink(store, "main"), 0.25, 30).notices
    assert "still: " in notice.lines[0]
    with store.read() as conn:
        ((payload, told_at),) = conn.execute(select(schema.alert.c.payload, schema.alert.c.told_at))
    assert "told_at" not in json.loads(payload) and told_at == "2024-08-05T00:30:00Z"


def test_the_settings_of_the_portfolio_say_how_long_an_acknowledgement_lasts(store: Store) -> None:
    with store.begin() as conn:
        start(conn, "short", json.dumps({"portfolio": {"monitoring": {"lifecycle": {"acknowledged_hours": 2}}}}))
    sink = StoreSink(store, "short")
    seen = evaluate([DEPTH], {"drawdown": 0.25}, {}, portfolio="short", now=at(0), clock=at(0))
    sink.commit(seen, handlers=[], now=at(0))
    assert sink.acknowledge(fingerprint("short", "depth"), "Ana", "", at(0)).acknowledged_until == at(120)
    commit(StoreSink(store, "main"), 0.25, 0)
    assert StoreSink(store, "main").acknowledge(ID, "Ana", "", at(0), at(7)).acknowledged_until == at(7)


VERSION_2 = """
CREATE TABLE meta ("key" TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE portfolio (name TEXT NOT NULL, capital TEXT NOT NULL, quote TEXT NOT NULL, mode TEXT NOT NULL,
  source TEXT NOT NULL, settings TEXT NOT NULL, cash TEXT NOT NULL, created_at TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE alert (id TEXT NOT NULL, portfolio TEXT NOT NULL, rule TEXT NOT NULL, subject TEXT NOT NULL,
  type TEXT NOT NULL, severity TEXT NOT NULL, state TEXT NOT NULL, payload TEXT NOT NULL, updated TEXT NOT NULL,
  PRIMARY KEY (id), FOREIGN KEY(portfolio) REFERENCES portfolio (name));
CREATE TABLE alert_event (id INTEGER NOT NULL, alert_id TEXT NOT NULL, portfolio TEXT NOT NULL, kind TEXT NOT NULL,
  at TEXT NOT NULL, payload TEXT NOT NULL, recorded_at TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE outbox (id INTEGER NOT NULL, portfolio TEXT NOT NULL, dedup TEXT NOT NULL, handler TEXT NOT NULL,
  notice TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, next_at TEXT NOT NULL, last_error TEXT NOT NULL,
  recorded_at TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (portfolio, dedup, handler));
INSERT INTO meta VALUES ('schema_version', 2), ('revision', 7);
INSERT INTO portfolio VALUES ('main', '1', 'USD', 'paper', 'x', '{}', '1', 'x');
"""
OLD_STATE = (
    '{"id":"ID","portfolio":"main","rule":"depth","subject":"","type":"drawdown","title":"Drawdown","severity":"high",'
    '"state":"firing","message":"m","value":0.16,"threshold":0.15,"peak":0.16,"since":"2024-08-05T00:00:00Z",'
    '"updated":"2024-08-05T00:00:00Z","judged":true,"breaching":0,"clearing":0,"settling":null,"notices":1,'
    '"acknowledged_by":null,"acknowledged_at":null,"comment":"","before":null}'
)


def test_alerts_of_the_version_before_are_taken_over_and_not_told_again(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as conn:
        conn.executescript(VERSION_2)
        row = (ID, "main", "depth", "", "drawdown", "high", "firing", OLD_STATE.replace("ID", ID), "2024-08-05T00:00:00.000000Z")
        conn.execute("INSERT INTO alert VALUES (?,?,?,?,?,?,?,?,?)", row)
    with Store.open(path) as store:
        sink = StoreSink(store, "main")
        assert sink.load()[ID].told is Severity.HIGH and sink.silences(at(0)) == []
        assert commit(sink, 0.17, 5).notices == ()
        assert len(commit(sink, 0.25, 10).notices) == 1
        sink.silence("Ana", "drill", at(10), at(60), max_severity=Severity.CRITICAL)
        assert len(sink.silences(at(11))) == 1 and sink.acknowledge(ID, "Ana", "", at(11)).acknowledged_until
