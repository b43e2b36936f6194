"""The rules over a history are those of the live monitor, tick by tick; what they said is judged by plain definitions."""
from __future__ import annotations

import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.alert_backtest import AlertBacktest, Replay, backtest_alerts, falls, further_loss, replay
from portfolio_research.alert_rules import AlertType, Rule, Severity, default_rules
from portfolio_research.alert_values import monitor_history
from portfolio_research.alerts import evaluate
from portfolio_research.config import ConfigError, DataError

DEPTH = Rule("depth", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 0.10, Severity.CRITICAL: 0.20}, unit="fraction")
LOSS = Rule("loss", AlertType.PERFORMANCE, "daily_loss", {Severity.HIGH: 0.05}, unit="fraction", for_ticks=1, clear_ticks=1)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def series(values, start: str = "2023-01-01") -> pd.Series:
    index = pd.date_range(start, periods=len(values), tz="UTC", name="date")
    return pd.Series(np.asarray(values, dtype=float), index, name="portfolio")


def tick_by_tick(rules, values: pd.DataFrame, portfolio: str = "main") -> Replay:
    """Every rule on every bar, as the live monitor asks."""
    states, events, notices = {}, [], []
    for when, row in zip(values.index, values.to_dict("records"), strict=True):
        tick = evaluate(rules, row, states, portfolio=portfolio, now=when.to_pydatetime())
        states, events, notices = tick.states, [*events, *tick.events], [*notices, *tick.notices]
    return Replay(tuple(events), tuple(notices), states)


# ---------------------------------------------------------------- the same as tick by tick
@st.composite
def worlds(draw):
    """Rules of all kinds, and values that wander over their levels, with holes."""
    rules, columns, bars = [], {}, draw(st.integers(1, 60))
    steps = st.sampled_from([-4.0, -2.5, -1.0, -0.95, 0.0, 0.05, 0.95, 1.0, 1.9, 2.0, 3.0, 3.5])
    for i in range(draw(st.integers(1, 3))):
        above = draw(st.booleans())
        levels = sorted(draw(st.sets(st.integers(-3, 3), min_size=1, max_size=4)), reverse=not above)
        chosen = sorted(draw(st.sets(st.sampled_from(list(Severity)), min_size=len(levels), max_size=len(levels))))
        metric = draw(st.sampled_from([f"m{i}", f"m{i}", "m0"]))
        reading = [{}, {}, {"relative_to": "unit"}, {"function": lambda row, of=metric: -row[of]}]
        more = dict(draw(st.sampled_from([*reading, {}, {"inhibits": True}, {"freezes": True}])))
        kinds = [AlertType.SYSTEM] if more.keys() & {"inhibits", "freezes"} else [AlertType.RISK, AlertType.SYSTEM]
        more |= {"for_ticks": draw(st.integers(1, 3)), "clear_ticks": draw(st.integers(1, 3))}
        more["clear_ratio"] = draw(st.sampled_from([0.5, 0.9, 1.0]))
        named = dict(zip(chosen, map(float, levels), strict=True))
        rules.append(Rule(f"r{i}", draw(st.sampled_from(kinds)), metric, named, above, **more))
        run = draw(st.lists(st.tuples(steps, st.integers(1, 8)), min_size=1, max_size=12))
        column = np.resize([v for v, often in run for _ in range(often)], bars)
        if draw(st.integers(0, 3)) == 0:
            column[draw(st.lists(st.integers(0, bars - 1), max_size=4))] = draw(st.sampled_from([np.nan, np.inf]))
        columns[f"m{i}"] = column
    columns["unit"] = np.resize(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 1.0, 0.0]), min_size=1, max_size=7)), bars)
    freq = draw(st.sampled_from(["D", "h", "5min"]))  # at five minutes an alert may flap
    return rules, pd.DataFrame(columns, pd.date_range("2024-01-01", periods=bars, tz="UTC", freq=freq))


@settings(max_examples=200)
@given(worlds())
def test_replay_is_tick_by_tick(world) -> None:
    rules, values = world
    assert replay(rules, values) == tick_by_tick(rules, values)


def test_replay_of_a_long_history_with_the_default_rules_is_tick_by_tick() -> None:
    rng = np.random.default_rng(2)
    values = monitor_history(series(0.03 * rng.standard_t(3, 1200)))
    rules = [rule for rule in default_rules() if rule.metric in values and values[rule.metric].notna().any()]
    made = replay(rules, values, portfolio="other")
    assert made == tick_by_tick(rules, values, "other")
    assert len(made.events) > 300 and {event.portfolio for event in made.events} == {"other"}


def test_a_quiet_history_says_nothing() -> None:
    made = backtest_alerts([DEPTH, LOSS], series(np.full(100, 0.001)))
    assert made.alerts.empty and made.warnings.empty and made.messages.empty and made.falls.empty
    assert made.summary["messages"] == 0 and np.isnan(made.summary["precision"]) and list(made.scores().index) == ["all"]


# ---------------------------------------------------------------- a crash by hand
CRASH = series([0.0] * 5 + [-0.06, -0.06, 0.01, -0.10, 0.0, 0.15, 0.10, 0.05] + [0.01] * 20)


def test_a_crash_by_hand() -> None:
    made = backtest_alerts([DEPTH, LOSS], CRASH, horizon=3, loss=0.05, fall=0.15)
    depth = made.alerts[made.alerts["rule"] == "depth"].iloc[0]
    # -6 %: 6 % deep; -6 %: 11.6 % pending; +1 %: 10.8 % fires medium; -10 %: 19.7 %; 0; +15 %: 7.6 %, clear below 9 %; three clear
    assert (depth["since"], depth["fired"]) == (CRASH.index[6], CRASH.index[7])
    assert depth["path"] == "medium" and depth["severity"] == "medium" and depth["resolved"] == CRASH.index[12]
    assert np.isclose(depth["peak"], 1 - 0.94**2 * 1.01 * 0.90)
    assert made.alerts[made.alerts["rule"] == "loss"]["fired"].tolist() == [CRASH.index[5], CRASH.index[8]]
    assert made.warnings["right"].tolist() == [True, True, False]  # after the third, at the trough, nothing more was lost
    fall = made.falls.iloc[0]
    assert (fall["peak"], fall["trough"], fall["lead"]) == (CRASH.index[4], CRASH.index[8], 3.0)
    assert fall["caught"] and fall["warned"] == CRASH.index[5]
    assert made.summary[["warnings", "right", "false", "falls", "caught", "recall"]].tolist() == [3, 2, 1, 1, 1, 1]


def test_scores_by_rule_and_severity_add_up() -> None:
    rng = np.random.default_rng(5)
    made = backtest_alerts(default_rules(), series(0.03 * rng.standard_t(3, 900)))
    for by in ("rule", "severity", "type"):
        table = made.scores(by)
        counts = table[["warnings", "right", "false"]]
        assert counts.drop(index="all").sum().eq(counts.loc["all"]).all()
        assert (table["caught"] <= table.loc["all", "caught"]).all()
    assert "weight" in made.unjudged and "drawdown" not in made.unjudged
    assert np.isclose(made.summary["messages_per_week"], len(made.messages) / (900 / 7), rtol=0.01)


def test_a_warning_too_near_the_end_is_left_open() -> None:
    made = backtest_alerts([LOSS], series([0.0, 0.001] * 10 + [-0.06, 0.0]), horizon=5, loss=0.03)
    assert made.warnings["right"].isna().all() and made.summary["false"] == 0 and made.summary["warnings"] == 1


def test_nothing_after_the_end_is_used() -> None:
    rng = np.random.default_rng(8)
    whole = series(0.03 * rng.standard_t(3, 600))
    cut = whole.index[399]
    part, short = backtest_alerts([DEPTH, LOSS], whole, end=cut), backtest_alerts([DEPTH, LOSS], whole.loc[:cut])
    for name in ("alerts", "warnings", "messages", "falls"):
        pd.testing.assert_frame_equal(getattr(part, name), getattr(short, name))


def test_a_later_start_keeps_the_history_and_forgets_the_states() -> None:
    made = backtest_alerts([DEPTH], CRASH, start=CRASH.index[9], horizon=3, loss=0.05)
    assert np.isclose(made.values["depth"].iloc[0], 1 - 0.94**2 * 1.01 * 0.90)  # the peak lies before the start
    assert made.alerts["since"].tolist() == [CRASH.index[9]] or made.alerts.empty


# ---------------------------------------------------------------- falls and further losses
def brute_loss(x: np.ndarray, horizon: int) -> list[float]:
    wealth = np.cumprod(1 + x)
    known = [max(0.0, 1 - wealth[t + 1 : t + 1 + horizon].min() / wealth[t]) for t in range(len(x) - horizon)]
    return known + [np.nan] * min(horizon, len(x))


@given(st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=40), st.integers(1, 12))
def test_further_loss_by_brute_force(moves, horizon: int) -> None:
    np.testing.assert_allclose(further_loss(series(moves), horizon), brute_loss(np.array(moves), horizon), atol=1e-14)


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=60), st.sampled_from([0.1, 0.2, 0.4]))
def test_falls_are_deep_apart_and_in_order(moves, depth: float) -> None:
    own = series(moves)
    found = falls(own, depth)
    wealth = np.concatenate([[1.0], np.cumprod(1 + own.to_numpy())])
    place = {date: i + 1 for i, date in enumerate(own.index)} | {pd.NaT: 0}
    ends = [(0 if pd.isna(a) else place[a], place[b]) for a, b in zip(found["peak"], found["trough"], strict=True)]
    for (top, low), size in zip(ends, found["depth"], strict=True):
        assert top < low and size >= depth - 1e-12
        assert wealth[low] == wealth[top : low + 1].min() and wealth[top] == wealth[top : low + 1].max()
    assert all(low <= top for (_, low), (top, _) in zip(ends, ends[1:], strict=False))
    assert found["over"].iloc[:-1].all()


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"horizon": 0}, {"loss": 1.5}, {"start": "2030-01-01"}):
        with pytest.raises(ConfigError, match="horizon"):
            backtest_alerts([DEPTH], CRASH, **wrong)
    with pytest.raises(ConfigError, match="depth of a fall"):
        falls(CRASH, 1.5)
    weight = Rule("weight", AlertType.CONCENTRATION, "max_weight", {Severity.HIGH: 0.5})
    with pytest.raises(DataError, match="max_weight, without a number"):
        backtest_alerts([weight], CRASH)


# ---------------------------------------------------------------- the picture
def test_the_picture_marks_warnings_by_severity() -> None:
    matplotlib.use("Agg")
    rng = np.random.default_rng(5)
    made = backtest_alerts(default_rules(), series(0.03 * rng.standard_t(3, 900)))
    assert isinstance(made, AlertBacktest)
    fig = made.plot("SIMULATED")
    labels = {c.get_label(): len(c.get_offsets()) for c in fig.axes[0].collections if c.get_label() in list(Severity)}
    worst = made.warnings.groupby("date")["severity"].agg(lambda s: max(map(Severity, s)).value).value_counts()
    assert labels == {s.value: worst.get(s.value, 0) for s in Severity}
    assert fig.get_suptitle().startswith("SIMULATED\n") and fig.get_figwidth() <= 5.7
    plt.close(fig)
    quiet = backtest_alerts([DEPTH], series(np.full(50, 0.001))).plot()
    plt.close(quiet)
