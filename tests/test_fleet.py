"""Many portfolios at once: the same numbers, the same alerts, the same history as one by one, and few messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import start

from portfolio_research.alert_fleet import evaluate_many
from portfolio_research.alerts import (
    AlertState,
    AlertType,
    Notice,
    Rule,
    Severity,
    acknowledge,
    default_rules,
    evaluate,
    fingerprint,
    group_notices,
    silence,
    system_rules,
)
from portfolio_research.analytics import PortfolioAnalytics
from portfolio_research.config import AlertError, DataError
from portfolio_research.fleet import FleetMetrics, fleet_values
from portfolio_research.positions import Position, Positions
from portfolio_research.store import Store
from portfolio_research.store.fleet import FleetSink
from portfolio_research.store.outbox import StoreSink

START = datetime(2024, 8, 5, tzinfo=UTC)
NAN = float("nan")
LEVELS = {Severity.LOW: 0.05, Severity.MEDIUM: 0.10, Severity.HIGH: 0.15, Severity.CRITICAL: 0.20}
DEPTH = Rule("depth", AlertType.DRAWDOWN, "drawdown", LEVELS)


def double(values: Any) -> float:
    return 2 * float(values["drawdown"]) if values["n"] > 1 else 1 / 0


RULES = (
    DEPTH,
    replace(DEPTH, id="own", relative_to="vol", levels={Severity.HIGH: 3.0}, for_ticks=1),
    Rule("few", AlertType.CONCENTRATION, "n", {Severity.LOW: 3, Severity.HIGH: 1}, above=False, clear_ticks=1),
    Rule("made", AlertType.RISK, "made", {Severity.HIGH: 0.3}, function=double, subject="BTC"),
    Rule("stale", AlertType.SYSTEM, "age", {Severity.HIGH: 2.0}, clear_ticks=1, inhibits=True, freezes=True),
)


# ---------------------------------------------------------------- the same alerts
def numbers(rng: np.random.Generator, n: int) -> dict[str, Any]:
    depth = np.abs(rng.normal(0.08, 0.08, n))
    depth[rng.random(n) < 0.2] = NAN
    some = {"drawdown": depth, "n": rng.choice([0.0, 1.0, 2.0, 4.0, NAN], n), "vol": rng.choice([0.0, 0.02, 0.05, NAN], n)}
    return some | {"age": rng.choice([0.0, 0.0, 0.0, 3.0, np.inf], n)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_all_at_once_is_one_by_one(seed: int) -> None:
    rng, names = np.random.default_rng(seed), [f"book {i}" for i in range(6)]
    alone: dict[str, AlertState] = {}
    fleet: Any = {}
    silences = [silence("book 2", "Ana", "x", START, START + timedelta(hours=9), max_severity=Severity.CRITICAL)[0]]
    now = clock = START
    for n in range(25):
        now, clock = now + timedelta(minutes=int(rng.integers(-5, 40))), clock + timedelta(minutes=int(rng.integers(-99, 900)))
        rules = RULES if n < 20 else RULES[:3]
        values, problems = numbers(rng, 6), {"book 1": "feed down"}
        active = [s for s in alone.values() if s.active and not s.acknowledged_by]
        if active and rng.random() < 0.3:
            mine, _ = acknowledge(active[0], "Ana", "", clock)
            alone[mine.id], fleet = mine, {**fleet, mine.id: mine}
        how: Any = {"now": now, "clock": clock, "silences": silences}
        many = evaluate_many(rules, values, fleet, portfolios=names, problems=problems, most=99, **how)
        events, notices = [], []
        for i, name in enumerate(names):
            own = {metric: column[i] for metric, column in values.items()}
            one = evaluate(rules, own, alone, portfolio=name, problem=problems.get(name, ""), **how)
            alone = dict(one.states)
            events += one.events
            notices += one.notices
        assert many.states == alone and list(many.events) == events and list(many.notices) == notices
        assert all(fleet.get(key) != state for key, state in many.changed.items()) and set(many.gone) <= set(fleet)
        assert many.again(fleet, silences).changed == many.changed
        fleet = many.states


def test_quiet_portfolios_cost_and_change_nothing() -> None:
    calm = {rule.metric: 0.0 if rule.above else 100.0 for rule in (*default_rules(), *system_rules())}
    found = evaluate_many([*default_rules(), *system_rules()], calm, {}, portfolios=["a", "b"], now=START)
    assert not found.changed and not found.events and not found.notices and not found.gone


def test_wrong_shapes_and_missing_metrics() -> None:
    with pytest.raises(AlertError, match=r"values of drawdown have shape \(3,\), there are 2 portfolios"):
        evaluate_many([DEPTH], {"drawdown": [1, 2, 3]}, {}, portfolios=["a", "b"], now=START)
    blind = evaluate_many([DEPTH], {}, {}, portfolios=["a", "b"], now=START)
    assert {s.rule for s in blind.states.values()} == {"cannot-judge"} and len(blind.changed) == 2
    assert evaluate_many([], {}, {}, portfolios=["a"], now=START).states == {}


# ---------------------------------------------------------------- few messages
def test_ten_thousand_alerts_are_twenty_messages() -> None:
    names = [f"book {i}" for i in range(1000)]
    rules = [Rule(f"r{i}", AlertType.RISK, "loss", {Severity.HIGH: 0.1, Severity.CRITICAL: 0.5}, for_ticks=1) for i in range(10)]
    loss = np.where(np.arange(1000) == 700, 0.6, 0.2)
    found = evaluate_many(rules, {"loss": loss}, {}, portfolios=names, now=START)
    assert len(found.changed) == 10_000 and len(found.notices) == 20
    assert found.notices[0].portfolio == "book 700" and found.notices[0].severity is Severity.CRITICAL
    last = found.notices[-1]
    assert last.title == "[HIGH] 981 more portfolios, 9810 alerts" and len(last.head()) == 21 and last.portfolio in names
    assert len({n.key for n in found.notices}) == 20
    one = evaluate([replace(r, subject=str(i)) for i, r in enumerate(rules * 100)], {"loss": 0.2}, {}, portfolio="p", now=START)
    assert len(one.notices) == 1 and one.notices[0].head()[-1] == "and 980 more"


def test_what_is_over_comes_after_what_is_not() -> None:
    over = [Notice(f"p{i}", "[RESOLVED] p", Severity.CRITICAL, ("x",), START, str(i)) for i in range(3)]
    bad = Notice("bad", "[LOW] bad", Severity.LOW, ("x",), START, "k")
    grouped = group_notices([*over, bad], 2)
    assert [n.portfolio for n in grouped] == ["bad", "p0"] and grouped[1].lines == ("[RESOLVED] p",) * 3
    assert group_notices([bad], 1) == (bad,)


# ---------------------------------------------------------------- what is kept
@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "p.db") as opened:
        with opened.begin() as conn:
            for name in ("main", "other"):
                start(conn, name)
        yield opened


def commit(sink: FleetSink, depth: list[float], n: int) -> Any:
    now = START + timedelta(minutes=5 * n)
    seen = evaluate_many([DEPTH], {"drawdown": depth}, sink.load(), portfolios=sink.portfolios, now=now, clock=now,
                         silences=sink.silences(now))  # fmt: skip
    return sink.commit(seen, handlers=["log"], now=now)


def test_a_fleet_is_kept_like_each_of_its_portfolios(store: Store, tmp_path: Path) -> None:
    path = [(0.25, 0.12), (0.25, 0.12), (0.01, 0.30), (NAN, 0.01), (0.01, 0.01), (0.01, 0.01), (0.01, 0.06), (0.01, 0.01)]
    sink = FleetSink(store, ["main", "other"])
    for n, depth in enumerate(path):
        commit(sink, list(depth), n)
    with Store.open(tmp_path / "alone.db") as alone:
        with alone.begin() as conn:
            for name in ("main", "other"):
                start(conn, name)
        for i, name in enumerate(("main", "other")):
            mine, kept = StoreSink(alone, name), StoreSink(store, name)
            for n, depth in enumerate(path):
                now = START + timedelta(minutes=5 * n)
                seen = evaluate([DEPTH], {"drawdown": depth[i]}, mine.load(), portfolio=name, now=now, clock=now)
                mine.commit(seen, handlers=["log"], now=now)
            assert mine.load() == kept.load() and mine.events() == kept.events()
            late = START + timedelta(days=1)
            assert [m.notice for m in mine.pending(late)] == [m.notice for m in kept.pending(late)]
    assert FleetSink(store, ["main", "other"]).load() == sink.load() == {
        k: s for name in ("main", "other") for k, s in StoreSink(store, name).load().items()
    }


def test_what_people_did_meanwhile_is_respected(store: Store) -> None:
    sink, key = FleetSink(store, ["main", "other"]), fingerprint("main", "depth")
    commit(sink, [0.25, 0.0], 0)
    now = START + timedelta(hours=3)
    seen = evaluate_many([DEPTH], {"drawdown": [0.26, 0.3]}, sink.load(), portfolios=sink.portfolios, now=now, clock=now)
    StoreSink(store, "main").acknowledge(key, "Ana", "on it", now)
    StoreSink(store, "other").silence("Ana", "drill", now, now + timedelta(hours=1), max_severity=Severity.CRITICAL)
    written = sink.commit(seen, handlers=["log"], now=now)
    assert seen.notices and not written.notices and written.states[key].acknowledged_by == "Ana"
    assert StoreSink(store, "main").load()[key].value == 0.26
    assert StoreSink(store, "other").load()[fingerprint("other", "depth")].silenced_until == now + timedelta(hours=1)


def test_a_tick_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    sink = FleetSink(store, ["main", "nobody"])
    with pytest.raises(Exception, match="FOREIGN KEY"):
        commit(sink, [0.25, 0.25], 0)
    assert sink.load() == {} and StoreSink(store, "main").events() == []


# ---------------------------------------------------------------- the same numbers
def world(gaps: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(4)
    days, assets = pd.date_range("2024-01-01", periods=120, tz="UTC"), [f"A{i}" for i in range(6)]
    returns = pd.DataFrame(rng.normal(0, 0.02, (120, 6)), days, assets)
    if gaps:
        returns.iloc[:50, 1], returns.iloc[77, 3] = NAN, NAN
        returns.iloc[:, 4] = NAN
    books = pd.DataFrame(rng.dirichlet(np.ones(6), 9), [f"b{i}" for i in range(9)], assets)
    books.iloc[0, 1:5], books.iloc[1] = 0.0, 0.0
    books.iloc[2, [1, 3, 4]] = 0.0
    books.iloc[3, 4] = books.iloc[4, 4] = 0.0
    books.iloc[5, :] = [0.5, 0, -0.3, 0, 0, 0.4]
    return books, returns


@pytest.mark.parametrize("gaps", [False, True])
def test_each_row_is_what_the_analytics_say(gaps: bool) -> None:
    books, returns = world(gaps)
    desk = PortfolioAnalytics(risk_free_rate=0.03, periods_per_year=365, performance_window=30)
    values = fleet_values(books, returns, risk_free_rate=0.03)
    for i, (_, weights) in enumerate(books.iterrows()):
        held = weights[weights != 0]
        own = (returns[held.index] @ held).where(returns[held.index].notna().all(axis=1)) if len(held) else returns.iloc[:, 0] * 0
        lots = {a: Position(a, Decimal(1), 1, Decimal(repr(float(w)))) for a, w in held.items()}
        book = Positions(lots, cash=Decimal(repr(1 - float(held.sum()))))
        live = desk.monitor_values(book, own, returns)
        for name, column in values.items():
            assert column[i] == pytest.approx(live[name], rel=1e-9, abs=1e-12, nan_ok=True), (name, i)


def test_short_and_strange_tables() -> None:
    books, returns = world(False)
    young = fleet_values(books, returns.iloc[:5], day=3)
    assert np.isnan(young["var"]).all() and np.isnan(young["sharpe"]).all() and (young["open_positions"][2:5] >= 3).all()
    wealth = (1 + returns.iloc[:5] @ books.iloc[2]).cumprod()
    assert young["daily_loss"][2] == pytest.approx(max(0.0, 1 - wealth.iloc[-1] / wealth.iloc[1]))
    assert np.isnan(fleet_values(books, returns.iloc[:0])["drawdown"]).all()
    with pytest.raises(DataError, match="A5 is in only one"):
        fleet_values(books, returns.drop(columns="A5"))


def test_row_by_row_is_the_whole_table_at_every_moment() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(0, 0.01, (160, 12))
    x[rng.random(x.shape) < 0.1] = NAN
    weights = rng.dirichlet(np.ones(3), 12)
    stream = FleetMetrics([f"b{i}" for i in range(12)], 40, periods_per_year=365)
    for t, row in enumerate(x):
        stream.update(row)
        if t % 7 and t < 150:
            continue
        now = stream.values(weights)
        for i in range(12):
            seen = x[: t + 1, i][~np.isnan(x[: t + 1, i])]
            recent = seen[-40:]
            if len(seen) < 20:
                assert np.isnan(now["var"][i]) and np.isnan(now["volatility_ratio"][i])
                continue
            place = int(0.05 * len(recent) + 1e-12)
            assert now["var"][i] == -np.sort(recent)[place]
            assert now["book_volatility"][i] == pytest.approx(recent.std(ddof=1))
            assert now["volatility_ratio"][i] == pytest.approx(seen[-10:].std(ddof=1) / recent.std(ddof=1))
            wealth = np.cumprod(1 + seen)
            assert now["drawdown"][i] == pytest.approx(1 - wealth[-1] / max(1.0, wealth.max()), abs=1e-12)
            assert now["daily_loss"][i] == max(-seen[-1], 0.0)
