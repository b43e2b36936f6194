"""The market's worst weeks, replayed with the default limits: what fires, how bad, when, once, and when it is over.

What is expected is derived from the raw prices with plain arithmetic, or read beside them; no price is part of the project.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from portfolio_research.alert_backtest import AlertBacktest, backtest_alerts
from portfolio_research.alert_rules import Severity, default_rules
from portfolio_research.alerts import evaluate
from portfolio_research.analytics import PortfolioAnalytics
from portfolio_research.data import load_prices, to_returns
from portfolio_research.positions import Position, Positions

NAMES = ["covid_crash", "xrp_sec_suit", "doge_spike", "may_2021", "luna_ust", "celsius_3ac", "ftx", "calm_2023q3", "yen_carry",
         "tariff_feb", "tariff_apr"]  # fmt: skip
NEVER = pd.Timestamp("2100-01-01", tz="UTC")
LEVELS = {rule.id: rule.levels for rule in default_rules()}


@cache
def closes(folder: Path) -> pd.DataFrame:
    return load_prices(folder / "crypto_daily_close.csv.gz")


class Week:
    """An episode: an equal-weight portfolio that was watched for 90 days before, and is for a year after."""

    def __init__(self, folder: Path, name: str) -> None:
        self.known = next(e for e in json.loads((folder / "episodes.json").read_text()) if e["name"] == name)
        self.first, self.last = (pd.Timestamp(self.known[key], tz="UTC") for key in ("from", "to"))
        start, end = self.first - pd.Timedelta(days=90), self.last + pd.Timedelta(days=365)
        assets = to_returns(closes(folder).loc[:end]).dropna(axis="columns", how="all")
        traded = assets.loc[start:].notna()  # a coin joins the day after its listing, as in the file of episodes
        self.returns = assets.loc[start:].mean(axis=1).rename("portfolio")
        weights = traded.astype(float).div(traded.sum(axis=1), axis=0)
        self.made: AlertBacktest = backtest_alerts(default_rules(), self.returns, weights, assets)

    def within(self, table: pd.DataFrame, date: str) -> pd.DataFrame:
        return table[(table[date] >= self.first) & (table[date] <= self.last)]

    def numbers(self, rule: str) -> pd.Series:
        """Drawdown or loss of the day, from the returns alone."""
        wealth = (1.0 + self.returns).cumprod()
        return 1.0 - wealth / wealth.cummax().clip(lower=1.0) if rule == "drawdown" else (-self.returns).clip(lower=0.0)


@pytest.fixture(params=NAMES)
def week(request: pytest.FixtureRequest, test_data: Path) -> Week:
    return _week(test_data, request.param)


@cache
def _week(folder: Path, name: str) -> Week:
    return Week(folder, name)


class Told:
    """An alert, by the words of its definition: two breaches in a row fire it, a critical one at once; three bars clear of its
    severity step it down to the worst that was not cleared, or end it. What must come out is derived from returns alone."""

    def __init__(self, since: pd.Timestamp, fired: pd.Timestamp, severity: Severity) -> None:
        self.since, self.fired, self.path, self.resolved = since, fired, [severity], pd.NaT
        self.clear: list[Severity | None] = []

    def see(self, date: pd.Timestamp, reached: Severity | None, held: Severity | None) -> bool:
        """One more bar; whether it is over."""
        now = self.path[-1]
        if reached and reached > now:
            self.path.append(reached)
        self.clear = [*self.clear, held] if (held is None or held < now) and (not reached or reached <= now) else []
        if len(self.clear) < 3:
            return False
        left, self.clear = max(filter(None, self.clear), default=None), []
        if left:
            self.path.append(left)
        else:
            self.resolved = date
        return left is None


def expected(rule: str, numbers: pd.Series) -> list[Told]:
    """Every alert of a rule."""
    found, open_one, breaches = list[Told](), None, list[pd.Timestamp]()
    for date, value in numbers.items():
        reached = max((s for s, level in LEVELS[rule].items() if value >= level), default=None)
        held = max((s for s, level in LEVELS[rule].items() if value >= 0.9 * level), default=None)
        if open_one is not None:
            open_one = None if open_one.see(date, reached, held) else open_one
            continue
        breaches = [*breaches, date] if reached else []
        if len(breaches) == 2 or reached is Severity.CRITICAL:
            open_one, breaches = Told(breaches[0], date, reached), []
            found.append(open_one)
    return found


@pytest.mark.parametrize("rule", ["drawdown", "loss"])
def test_when_it_fires_how_bad_it_gets_and_when_it_is_over(week: Week, rule: str) -> None:
    alerts, right = week.made.alerts[week.made.alerts["rule"] == rule], expected(rule, week.numbers(rule))
    assert alerts["since"].tolist() == [one.since for one in right] and alerts["fired"].tolist() == [one.fired for one in right]
    assert alerts["path"].tolist() == [" > ".join(one.path) for one in right]
    assert alerts["resolved"].fillna(NEVER).tolist() == [NEVER if pd.isna(one.resolved) else one.resolved for one in right]
    for alert in alerts.itertuples():
        end = None if pd.isna(alert.resolved) else alert.resolved
        assert np.isclose(alert.peak, week.numbers(rule).loc[alert.since : end].max())


def test_the_week_is_the_one_beside_the_prices_and_its_worst_day_is_told(week: Week) -> None:
    day, size = pd.Timestamp(week.known["equal_weight_worst_day"], tz="UTC"), week.known["equal_weight_worst_day_return"]
    near = np.isclose(week.returns[day], size, atol=1e-4 if week.known["name"] != "may_2021" else 5e-3)  # a coin was listed in it
    assert near and week.returns.loc[week.first : week.last].idxmin() == day
    if size <= -0.08:
        standing = week.made.alerts[(week.made.alerts["rule"] == "loss") & (week.made.alerts["fired"] <= day)].iloc[-1]
        assert standing["severity"] == "critical" and (pd.isna(standing["resolved"]) or standing["resolved"] > day)


def test_each_escalation_is_told_once(week: Week) -> None:
    for alert in week.made.alerts.itertuples():
        assert all(one != other for one, other in pairwise(alert.path.split(" > ")))
    warnings = week.made.warnings
    assert not warnings.duplicated(["date", "rule"]).any()
    for alert in week.made.alerts[week.made.alerts["type"] != "system"].itertuples():
        mine = warnings[(warnings["rule"] == alert.rule) & (warnings["date"] >= alert.fired)]
        mine = mine if pd.isna(alert.resolved) else mine[mine["date"] < alert.resolved]
        rises = sum(Severity(b) > Severity(a) for a, b in pairwise(alert.path.split(" > ")))
        assert len(mine) == 1 + rises and mine["kind"].tolist() == ["fired"] + ["escalated"] * rises
    assert not week.made.messages["date"].duplicated().any()


def test_a_crash_raises_a_critical_alert_and_a_calm_month_does_not(week: Week) -> None:
    fired, told = week.within(week.made.alerts, "fired"), week.within(week.made.warnings, "date")
    crash = week.known["equal_weight_worst_day_return"] <= -0.08 or week.known["buy_hold_max_drawdown"] <= -0.20
    assert ("critical" in set(told["severity"])) is crash
    if week.known["name"] == "calm_2023q3":
        assert len(fired) <= 2 and len(told) <= 2 and fired["resolved"].notna().all()
    brief = fired[fired["rule"].isin(["loss", "volatility"])]
    assert brief["resolved"].notna().all()  # what is about days is over within the year; a drawdown may last


def test_critical_ones_come_before_the_bottom(test_data: Path) -> None:
    """In the weeks that fell by more than a quarter, a critical warning came at least a day before the trough."""
    for name in ("covid_crash", "may_2021", "luna_ust", "celsius_3ac", "ftx"):
        week = _week(test_data, name)
        wealth = (1.0 + week.returns).cumprod().loc[week.first : week.last]
        trough = wealth.idxmin()
        told = week.within(week.made.warnings, "date")
        assert told[(told["severity"] == "critical") & (told["date"] < trough)].size, name


# ---------------------------------------------------------------- within the day
@pytest.fixture(scope="module")
def august(test_data: Path) -> pd.DataFrame:
    """Hourly closes of ten coins from 4 to 6 August 2024."""
    table = pd.read_csv(test_data / "crypto_1h_2024_ohlcv_long.csv.gz", parse_dates=["date"])
    wide = table.pivot(index="date", columns="coin", values="close").tz_localize("UTC")
    return wide.loc["2024-08-04":"2024-08-06"]


def hourly_checks(prices: pd.DataFrame) -> Iterator[tuple[pd.Timestamp, float, Any]]:
    """The live monitor, asked every hour: bars are days, and between them the marks of now count as a bar that is not over."""
    units = {str(coin): 1.0 / price / prices.shape[1] for coin, price in prices.iloc[0].items()}
    analytics, states, closed, capital = PortfolioAnalytics(), {}, [], 1.0
    for at, row in prices.iterrows():
        book = Positions({coin: Position(coin, size, row[coin], row[coin]) for coin, size in units.items()})
        so_far = [*closed, book.equity / capital - 1.0]
        days = pd.date_range("2024-08-04", periods=len(so_far), tz="UTC")
        own, assets = pd.Series(so_far, days, dtype=float), pd.DataFrame(columns=list(units), dtype=float)
        values = analytics.monitor_values(book, own, assets)
        tick = evaluate(default_rules(), values, states, portfolio="main", now=at.to_pydatetime())
        states = tick.states
        yield at, values["drawdown"], tick
        if at.hour == 23:
            closed, capital = so_far, book.equity


def test_a_crash_within_the_day_is_told_within_one_check(august: pd.DataFrame) -> None:
    wealth = (august / august.iloc[0]).mean(axis=1)
    daily = wealth[wealth.index.hour == 23]
    assert np.isclose((daily / daily.cummax() - 1).min(), -0.0859, atol=2e-4)  # all that daily closes show
    assert np.isclose((wealth / wealth.cummax() - 1).min(), -0.216, atol=5e-4)
    told = [(at, depth, e.severity) for at, depth, tick in hourly_checks(august) for e in tick.events
            if e.kind in ("fired", "escalated") and e.message.startswith("Drawdown")]  # fmt: skip
    deep = next(at for at, depth, _ in hourly_checks(august) if depth >= 0.20)
    assert [(at, severity) for at, _, severity in told if severity == "critical"] == [(deep, "critical")]


def test_on_hourly_bars_the_back_test_says_so_too_and_on_daily_bars_it_cannot(august: pd.DataFrame) -> None:
    wealth = (august / august.iloc[0]).mean(axis=1)
    depth = 1.0 - wealth / wealth.cummax()
    rules = [rule for rule in default_rules() if rule.id == "drawdown"]
    by_hour = backtest_alerts(rules, wealth.pct_change().iloc[1:])
    critical = by_hour.warnings[by_hour.warnings["severity"] == "critical"]
    assert critical["date"].tolist() == [depth.index[depth >= 0.20][0]]
    days = wealth[wealth.index.hour == 23]
    by_day = backtest_alerts(rules, days.pct_change().iloc[1:])
    assert "critical" not in set(by_day.warnings["severity"]) and (1 - days / days.cummax()).max() < 0.10
