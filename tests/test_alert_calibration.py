"""Limits for a budget of messages: in words, in order, within the budget where they were made, judged where they were not."""
from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from portfolio_research.alert_backtest import backtest_alerts
from portfolio_research.alert_calibration import calibrate, messages_per_year
from portfolio_research.alert_rules import AlertType, Rule, Severity, default_rules
from portfolio_research.alert_values import book_weights
from portfolio_research.backtest import walk_forward
from portfolio_research.config import AlertThresholds, ConfigError, DataError
from portfolio_research.data import load_prices, to_returns


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def series(bars: int = 800, seed: int = 0, scale: float = 0.02) -> pd.Series:
    rng = np.random.default_rng(seed)
    calm = np.exp(0.8 * np.sin(np.arange(bars) / 90))
    index = pd.date_range("2019-01-01", periods=bars, tz="UTC", name="date")
    return pd.Series(0.0005 + scale * calm * rng.standard_t(4, bars), index, name="portfolio")


LOSS = Rule("loss", AlertType.PERFORMANCE, "daily_loss", {Severity.LOW: 0.02, Severity.CRITICAL: 0.08}, unit="fraction")
OWN = Rule("own", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 1.0, Severity.HIGH: 2.0}, relative_to="volatility")
SHARPE = next(rule for rule in default_rules() if rule.id == "sharpe")


@pytest.mark.parametrize(
    ("text", "number"),
    [("2 per month", 24), ("1 per week", 365.25 / 7), ("10 per year", 10), ("0.5 a day", 365.25 / 2), (" 3/month ", 36)],
)
def test_budgets_in_words(text: str, number: float) -> None:
    assert messages_per_year(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "two per month", "0 per month", "2 per fortnight", "-1 per year", "2 per month per rule"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="such as '2 per month'"):
        messages_per_year(text)


@pytest.mark.parametrize(("budget", "seed"), [("1 per week", 1), ("2 per month", 2), ("6 per year", 3)])
def test_levels_are_in_order_and_keep_to_the_budget_where_they_were_made(budget: str, seed: int) -> None:
    made = calibrate([LOSS, OWN, SHARPE], series(700, seed), budget)
    for rule in made.rules:
        ordered = [rule.levels[s] if rule.above else -rule.levels[s] for s in Severity if s in rule.levels]
        assert all(a < b for a, b in zip(ordered, ordered[1:], strict=False))
    assert [rule.id for rule in made.rules] == ["loss", "own", "sharpe"] and made.rules[1].relative_to == "volatility"
    least = sum(2 for _ in made.rules) + 2  # one alert each, told and over, is the least a rule can say; and it begins blind
    assert len(made.inside.messages) <= max(made.budget * made.inside.years, least)


def test_a_larger_budget_is_more_watchful() -> None:
    own = series()
    few, many = calibrate([LOSS], own, "6 per year"), calibrate([LOSS], own, "3 per month")
    assert few.rules[0].levels[Severity.LOW] > many.rules[0].levels[Severity.LOW]
    assert few.summary.loc["caught", "proposed"] <= many.summary.loc["caught", "proposed"]


def test_the_second_part_has_no_say() -> None:
    own = series()
    other = own.copy()
    other.iloc[700:] *= 5
    made, again = (calibrate([LOSS, OWN, SHARPE], one, "2 per month") for one in (own, other))
    assert made.rules == again.rules
    pd.testing.assert_frame_equal(made.inside.messages, again.inside.messages)
    assert made.outside.returns.index[0] == own.index[400] and made.inside.returns.index[-1] == own.index[399]
    assert len(again.outside.messages) > len(made.outside.messages)


def test_judged_like_any_other_rules() -> None:
    own = series()
    made = calibrate([LOSS, SHARPE], own, "2 per month", horizon=5, loss=0.04, fall=0.3)
    alone = backtest_alerts(made.rules, own, start=own.index[400], horizon=5, loss=0.04, fall=0.3)
    pd.testing.assert_series_equal(made.outside.summary, alone.summary)
    given_rules = backtest_alerts([LOSS, SHARPE], own, start=own.index[400], horizon=5, loss=0.04, fall=0.3)
    pd.testing.assert_series_equal(made.given.summary, given_rules.summary)
    assert made.summary.loc["messages", "given"] == len(given_rules.messages)
    assert np.isclose(made.summary.loc["messages_per_month", "proposed"], len(alone.messages) / alone.years / 12)


def test_relative_levels_travel_to_a_wilder_market() -> None:
    """Three times the volatility after the cut: fixed limits drown, multiples of the portfolio's own volatility do not."""
    own = series(1200, seed=3, scale=0.01)
    own.iloc[600:] *= 3
    multiple = replace(LOSS, levels={Severity.LOW: 1.0, Severity.CRITICAL: 4.0}, relative_to="volatility")
    summaries = {rule.relative_to: calibrate([rule], own, "1 per month").summary for rule in (LOSS, multiple)}
    sent = {name: summary.loc["messages_per_month"] for name, summary in summaries.items()}
    assert sent[""]["proposed, as fitted"] <= 1 and sent["volatility"]["proposed, as fitted"] <= 1
    assert sent["volatility"]["proposed"] < 0.5 * sent[""]["proposed"]


def test_the_settings_are_a_configuration() -> None:
    scaled = AlertThresholds(scale_with_volatility=["daily_loss"])
    for thresholds in (AlertThresholds(), scaled):
        rules = [rule for rule in default_rules(thresholds) if rule.id in ("drawdown", "sharpe")]
        made = calibrate(rules, series(), "2 per month")
        loaded = default_rules(AlertThresholds(**made.settings, scale_with_volatility=thresholds.scale_with_volatility))
        assert {r.id: r.levels for r in loaded if r.id in ("drawdown", "sharpe")} == {r.id: r.levels for r in made.rules}


def test_a_metric_with_few_numbers_keeps_its_levels() -> None:
    own = series()
    positions = pd.DataFrame(0.5, own.index, ["A", "B"])
    rule = next(rule for rule in default_rules() if rule.id == "positions")
    made = calibrate([LOSS, rule], own, "2 per month", positions)
    assert made.rules[1] == rule and made.table.set_index("rule").loc["positions", "proposed"].isna().all()
    assert made.table.set_index("rule").loc["loss", "proposed"].notna().all()


def test_too_little_history_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 100"):
        calibrate([LOSS], series(150))
    with pytest.raises(ConfigError, match="share 1.5"):
        calibrate([LOSS], series(), share=1.5)
    weight = next(rule for rule in default_rules() if rule.id == "weight")
    with pytest.raises(DataError, match="no rule has a number"):
        calibrate([weight], series())


def test_fixed_limits_cry_wolf_on_coins_and_those_of_a_budget_do_not(test_data: Path) -> None:
    prices = load_prices(test_data / "crypto_daily_close.csv.gz")
    run = walk_forward(prices, lookback=180, step="monthly", cost=0.001, progress=False)
    parts = run.returns, book_weights(run, prices), to_returns(prices)
    scaled = default_rules(AlertThresholds(scale_with_volatility=["max_drawdown", "daily_loss"]))
    few = [[rule for rule in rules if rule.id in ("drawdown", "loss")] for rules in (default_rules(), scaled)]
    fixed, multiple = (calibrate(rules, parts[0], "1 per month", *parts[1:]).summary for rules in few)
    assert fixed.loc["active", "given"] > 0.9 and fixed.loc["messages_per_month", "given"] > 2
    assert fixed.loc["messages_per_month", "proposed"] < 1
    assert abs(multiple.loc["messages_per_month", "proposed"] - 1) < abs(fixed.loc["messages_per_month", "proposed"] - 1)
