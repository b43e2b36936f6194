"""Every bar of a history has the numbers that the live monitor would have had, and nothing looks ahead."""
from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.alert_values import book_weights, monitor_history
from portfolio_research.alerts import default_rules
from portfolio_research.analytics import PortfolioAnalytics
from portfolio_research.backtest import walk_forward
from portfolio_research.config import ConfigError, DataError
from portfolio_research.data import load_prices, sample_prices, to_returns
from portfolio_research.positions import Positions, as_positions
from portfolio_research.rebalancing import Policy
from portfolio_research.targets import EqualWeight

STOCKS = PortfolioAnalytics(periods_per_year=252, performance_window=40, risk_free_rate=0.01)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def market(bars: int = 700, seed: int = 0) -> tuple[pd.Series, pd.DataFrame, pd.DataFrame]:
    """Returns of a portfolio, its weights, and asset returns that begin before it and have gaps."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2020-01-01", periods=bars + 100, tz="UTC", name="date")
    assets = pd.DataFrame(0.02 * rng.standard_t(4, (bars + 100, 4)), dates, list("ABCD"))
    assets.loc[dates[:300], "D"] = np.nan
    assets = assets.mask(rng.random(assets.shape) < 0.002)
    size = rng.uniform(0, 1, (bars, 4)) * (rng.random((bars, 4)) > 0.1)
    size[:, 3] *= np.arange(bars) > 220
    weights = pd.DataFrame(size / (size.sum(axis=1, keepdims=True) + 0.2), dates[100:], list("ABCD"))
    own = (weights.shift(fill_value=0.0) * assets.reindex(dates[100:]).fillna(0.0)).sum(axis=1).rename("portfolio")
    return own, weights, assets


def live(at: int, own: pd.Series, weights: pd.DataFrame, assets: pd.DataFrame, analytics: PortfolioAnalytics, history: int = 252):
    """What the monitor would have been told on that bar."""
    held = weights.iloc[at]
    row = assets.index.get_loc(own.index[at])
    book = as_positions(held[held != 0], cash=1.0 - float(held.sum()))
    return pd.Series(analytics.monitor_values(book, own.iloc[: at + 1], assets.iloc[max(0, row - history + 1) : row + 1]))


def assert_same(then: pd.Series, now: pd.Series, rtol: float = 1e-11) -> None:
    pd.testing.assert_series_equal(then[now.index].astype(float), now.astype(float), rtol=rtol, atol=1e-14, check_names=False)


@pytest.mark.parametrize("analytics", [STOCKS, PortfolioAnalytics()], ids=["stocks", "coins"])
def test_bar_by_bar_like_live(analytics: PortfolioAnalytics) -> None:
    own, weights, assets = market()
    table = monitor_history(own, weights, assets, analytics=analytics)
    for at in [*range(70), *range(70, 700, 9)]:
        assert_same(table.iloc[at], live(at, own, weights, assets, analytics))


def test_path_is_equal_to_the_last_bit() -> None:
    own, weights, assets = market(300)
    table = monitor_history(own, weights, assets)
    names = ["drawdown", "daily_loss", "sharpe", "volatility", "max_drawdown", "open_positions"]
    for at in range(0, 300, 7):
        now = live(at, own, weights, assets, PortfolioAnalytics())
        pd.testing.assert_series_equal(table.iloc[at][names], now[names], check_exact=True, check_names=False)


def test_real_coins_bar_by_bar(test_data: Path) -> None:
    prices = load_prices(test_data / "crypto_daily_close.csv.gz")
    run = walk_forward(prices, EqualWeight(), lookback=180, step="monthly", cost=0.001, progress=False)
    weights, assets = book_weights(run, prices), to_returns(prices)
    table = monitor_history(run.returns, weights, assets)
    for at in [*range(0, 40, 3), *range(40, len(table), 53), len(table) - 1]:
        assert_same(table.iloc[at], live(at, run.returns, weights, assets, PortfolioAnalytics()))


def test_every_default_rule_on_the_portfolio_is_there() -> None:
    own, weights, assets = market(100)
    table = monitor_history(own, weights, assets)
    live_now = live(99, own, weights, assets, PortfolioAnalytics())
    assert {rule.metric for rule in default_rules()} & set(live_now.index) <= set(table.columns)
    assert set(live_now.index) <= set(table.columns)


@settings(max_examples=15)
@given(cut=st.integers(1, 298), seed=st.integers(0, 20))
def test_later_prices_change_nothing_earlier(cut: int, seed: int) -> None:
    own, weights, assets = market(300, seed)
    table = monitor_history(own, weights, assets)
    later = own.index[cut:]
    for changed in (own, weights, assets):
        changed.loc[later] = changed.loc[later].to_numpy()[::-1] * 0.5
    again = monitor_history(own, weights, assets)
    pd.testing.assert_frame_equal(again.iloc[:cut], table.iloc[:cut], check_exact=True)


def test_a_book_that_does_not_move_is_judged_by_the_monitor_itself() -> None:
    own, weights, assets = market(120)
    flat = pd.DataFrame({"A": assets["A"], "B": -assets["A"]}).fillna(0.0)  # a perfect hedge in equal parts
    hedge = pd.DataFrame(0.5, own.index, ["A", "B"])
    table = monitor_history(own, hedge, flat)
    constant = monitor_history(own, hedge, pd.DataFrame(0.001, flat.index, ["A", "B"]))
    for at in (0, 60, 119):
        assert_same(table.iloc[at], live(at, own, hedge, flat, PortfolioAnalytics()))
        assert_same(constant.iloc[at], live(at, own, hedge, flat * 0 + 0.001, PortfolioAnalytics()))


def test_without_weights_the_book_is_not_judged() -> None:
    own, weights, assets = market(100)
    alone, blind = monitor_history(own), monitor_history(own, weights)
    assert alone[["var", "max_weight", "open_positions"]].isna().all(axis=None) and alone["risk_score"].notna().all()
    assert blind["var"].isna().all() and blind["max_weight"].notna().any()
    cash = monitor_history(own, weights * 0.0, assets)
    assert_same(cash.iloc[-1], live(99, own, weights * 0.0, assets, PortfolioAnalytics()))


def test_a_table_of_assets_that_were_never_priced_cannot_be_judged() -> None:
    own, weights, assets = market(100)
    weights["A"] = 0.1
    table = monitor_history(own, weights.rename(columns={"A": "NEW"}), assets)
    assert table["var"].isna().all() and table["max_weight"].notna().any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda o, w, a: (o.where(o.index != o.index[5]), w, a), "2020-04-15 is missing or infinite"),
        (lambda o, w, a: (o.tz_localize(None), w, a), "UTC"),
        (lambda o, w, a: (o.iloc[::-1], w, a), "rising dates"),
        (lambda o, w, a: (o, w.iloc[1:], a), "no weights of 2020-04-10"),
        (lambda o, w, a: (o, w.replace(w.iloc[3, 0], np.nan), a), "weight of A on 2020-04-13"),
        (lambda o, w, a: (o, w, a.iloc[:-1]), "no asset returns of 2020-07-18"),
        (lambda o, w, a: (o.drop(o.index[50]), w, a), "dates that the portfolio has not"),
    ],
)
def test_holes_are_refused_by_name(change, match: str) -> None:
    own, weights, assets = market(100, seed=3)
    weights["A"] = 0.1
    weights.iloc[3, 0] = 0.123
    with pytest.raises(DataError, match=match):
        monitor_history(*change(own, weights, assets))


def test_too_short_a_history_is_refused() -> None:
    own, weights, assets = market(100)
    with pytest.raises(ConfigError, match="at least 20"):
        monitor_history(own, weights, assets, history=10)


# ---------------------------------------------------------------- weights of a back-test
def test_weights_of_a_back_test_are_those_of_its_books() -> None:
    prices = sample_prices().loc["2015":"2017"].copy()
    prices.loc["2016-06":, "XOM"] = np.nan  # delisted: a claim until it is sold
    run = walk_forward(prices, EqualWeight(), step="monthly", policy=Policy(tolerance=0.01), delisting_return=-0.5, progress=False)
    weights = book_weights(run, prices, delisting_return=-0.5)
    assert list(weights.index) == list(run.nav.index)
    traded = run.amounts.index
    cash = 1.0 - weights.sum(axis=1)
    assert (cash > -1e-9).all() and (cash.loc[traded] < 0.01).all()
    after = weights.loc[traded[-1] :]
    assert (after["XOM"] == 0.0).all() and np.count_nonzero(after.iloc[-1]) == 19
    moved = to_returns(prices).reindex(run.nav.index).fillna(0.0)
    moved.loc[moved.index >= "2016-06", "XOM"] = 0.0
    quiet = ~run.nav.index.isin(traded)
    expected = (weights.shift() * moved).sum(axis=1)
    first_gone = prices.loc["2016-06":].index[0]
    quiet &= run.nav.index != first_gone
    np.testing.assert_allclose(run.returns[quiet].iloc[1:], expected[quiet].iloc[1:], rtol=1e-9, atol=1e-12)


def test_nothing_is_held_before_the_first_purchase() -> None:
    prices = sample_prices().loc["2015":"2016"]
    run = walk_forward(prices, EqualWeight(), step="monthly", execution="next", progress=False)
    weights = book_weights(run, prices.tz_localize(None))
    assert (weights.iloc[0] == 0).all() and np.isclose(weights.iloc[1].sum(), 1)
    assert not Positions().weights().any()
