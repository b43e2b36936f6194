"""The frontier: every rule in it is the rule of the bot, nothing looks ahead, and the measured table is met on real prices."""
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from engine_runs import market
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.backtest import BacktestResult, follow, walk_forward
from portfolio_research.backtest_plots import plot_frontier
from portfolio_research.calendars import check_rows
from portfolio_research.config import ConfigError, DataError
from portfolio_research.costs import Costs
from portfolio_research.data import load_prices, sample_prices, to_returns
from portfolio_research.frontier import rebalancing_frontier
from portfolio_research.rebalancing import Policy
from portfolio_research.targets import EqualWeight

FREE = Costs(fee=0.0, slippage=0.0)
PRICES = market(11, bars=400)
MEASURED = ["turnover", "orders", "tracking_error_bp"]


def equal(prices: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(1 / prices.shape[1], prices.index[:1], prices.columns)


def measured(run: BacktestResult, base: BacktestResult, periods_per_year: float = 365.0) -> list[float]:
    """What the table says of a rule, from a back-test of it."""
    years = (len(run.nav) - 1) / periods_per_year
    apart = (run.returns - base.returns).iloc[1:].std() * np.sqrt(periods_per_year)
    return [float(run.turnover.iloc[1:].sum()) / 2 / years, (len(run.trades) - run.amounts.iloc[0].ne(0).sum()) / years,
            1e4 * float(apart)]


# ---------------------------------------------------------------- the rule of the bot


@pytest.mark.parametrize("mode", ["absolute", "relative", "risk", "cost_aware"])
@pytest.mark.parametrize("trade_to", ["target", "halfway", "edge"])
def test_a_rule_is_what_the_bot_does(mode: Any, trade_to: Any) -> None:
    prices, start = PRICES.iloc[:250], PRICES.index[60]
    weights = pd.DataFrame(np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])[None], [start], prices.columns)
    tolerance = {"absolute": 0.03, "relative": 0.2, "risk": 0.03, "cost_aware": 0.05}[mode]
    policy = Policy(tolerance, tolerance, min_trade_size=0, tolerance_mode=mode, trade_to=trade_to, risk_aversion=5e-6)
    every = {"target": "daily", "halfway": "weekly", "edge": "daily"}[trade_to]
    costs = Costs(fee=0.0, slippage=1e-9)  # in the bot's book costs compound, so next to none; the aversion is as small
    table = rebalancing_frontier(prices, weights, policy=policy, policy_every=every, modes=[], costs=costs, lookback=756)
    row = table.loc[table["current"]].iloc[0]
    daily = pd.DataFrame(np.tile(weights, (len(prices) - 60, 1)), prices.index[60:], prices.columns)
    asked = daily.iloc[check_rows(pd.DatetimeIndex(daily.index), every)]
    run = follow(prices, asked, policy=policy, costs=costs, capital=1e9)
    assert row[MEASURED].to_list() == pytest.approx(measured(run, follow(prices, daily)), rel=1e-5)
    assert row["turnover"] > 0


def test_the_default_policy_on_moving_targets_and_regimes_is_what_the_bot_does() -> None:
    prices = sample_prices().loc["2017":"2020", ["AAPL", "JNJ", "KO", "XOM", "BAC", "AMD"]]
    targets = walk_forward(prices, step=5, start="2019-06-03").weights
    daily = targets.reindex(prices.loc["2019-06-03":].index, method="ffill")
    policy = Policy(0.02, 0.01, min_trade_size=0)
    table = rebalancing_frontier(prices, targets, policy=policy, modes=["absolute"], tolerances={"absolute": [0.02]},
                                 trade_to=["target"], every=["daily"], costs=FREE)
    run, base = follow(prices, daily, policy=policy, costs=FREE), follow(prices, daily)
    assert {d.regime for d in run.decisions} >= {"high", "normal"}
    assert table.loc[table["current"], MEASURED].iloc[0].to_list() == pytest.approx(measured(run, base), rel=1e-9)
    flat = table.loc["absolute 2 % to target, daily", MEASURED].to_list()
    assert flat == pytest.approx(measured(follow(prices, daily, band=0.02), base), rel=1e-9)
    assert flat[0] < table.loc[table["current"], "turnover"].iloc[0]  # what the second tolerance costs


def test_costs_are_those_of_what_is_traded() -> None:
    costs = Costs(fee=0.0005, slippage=0.0, spread=0.001, impact=1.0)
    table = rebalancing_frontier(PRICES, equal(PRICES), modes=["absolute"], costs=costs)
    both_ways = 1e4 * (costs.buy_rate + costs.sell_rate)
    np.testing.assert_allclose(table["cost_bp"], table["turnover"] * both_ways, rtol=1e-12)


# ---------------------------------------------------------------- what it measures


def test_measured_on_real_prices(test_data: Any) -> None:
    prices = load_prices(test_data / "crypto_daily_close.csv.gz").loc["2020-09-22":]
    prices = prices.dropna(axis=1)
    assert prices.shape[1] == 16
    inverse = 1 / to_returns(prices).std()
    targets = (inverse / inverse.sum()).to_frame(prices.index[0]).T
    table = rebalancing_frontier(prices, targets, modes=["absolute", "relative"], every=["daily"],
                                 tolerances={"absolute": [0.015, 0.05], "relative": [0.1, 0.25]})
    found = table.assign(turnover=100 * table["turnover"])[MEASURED]
    for rule, expected in {  # of the same prices and rules, measured by another program
        "to target, daily": [354, 5835, 0],
        "absolute 5 % to target, daily": [62, 87, 511],
        "absolute 1.5 % to target, daily": [130, 509, 166],
        "relative 25 % to target, daily": [129, 526, 139],
    }.items():
        assert found.loc[rule].to_list() == pytest.approx(expected, rel=0.01, abs=1e-9), rule
    edge = found.loc["relative 10 % to edge, daily"]  # there 102 %, 4389 orders, 150 bp: ours moves fewer assets for the money
    assert edge["turnover"] < 102 and edge["orders"] < 4389 and edge["tracking_error_bp"] < 150
    assert edge["turnover"] < 0.8 * found.loc["relative 25 % to target, daily", "turnover"]


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(5, 60))
def test_what_is_efficient_is_beaten_by_nobody(seed: int, n: int, bars: int) -> None:
    prices = market(seed, assets=n, bars=bars)
    table = rebalancing_frontier(prices, equal(prices), every=["daily", "weekly"], tolerances={"absolute": [0.005, 0.02]})
    assert table.iloc[0]["tracking_error_bp"] == 0 and table["current"].sum() == 1
    assert table[["turnover", "orders", "cost_bp", "tracking_error_bp"]].ge(0).all().all()
    assert (table["small_orders"] <= table["orders"]).all() and table["efficient"].any()
    for _, row in table.iterrows():
        beats = ((table["cost_bp"] <= row["cost_bp"]) & (table["tracking_error_bp"] <= row["tracking_error_bp"])
                 & ((table["cost_bp"] < row["cost_bp"]) | (table["tracking_error_bp"] < row["tracking_error_bp"])))
        assert row["efficient"] == (not beats.any())


def test_an_estimator_is_asked_on_every_bar() -> None:
    options: dict[str, Any] = {"modes": ["relative"], "trade_to": ["edge"], "every": ["weekly"], "lookback": 100}
    made = rebalancing_frontier(PRICES, EqualWeight(), **options)
    given_ = rebalancing_frontier(PRICES, walk_forward(PRICES, EqualWeight(), lookback=100).weights, **options)
    pd.testing.assert_frame_equal(made, given_)


def test_cash_a_cap_and_assets_that_are_not_held() -> None:
    targets = equal(PRICES) * 0.6
    targets["A5"] = 0.0
    gap = PRICES.copy()
    gap.loc[gap.index[100:], "A5"] = np.nan  # listed no more, and not held
    options: dict[str, Any] = {"modes": ["absolute"], "every": ["daily"]}
    table = rebalancing_frontier(gap, targets, **options)
    pd.testing.assert_frame_equal(table, rebalancing_frontier(PRICES, targets.drop(columns="A5"), **options))
    capped = rebalancing_frontier(PRICES, targets, policy=Policy(max_position=0.05), **options)
    assert capped.iloc[0]["turnover"] < table.iloc[0]["turnover"]


def test_small_orders_depend_on_the_account() -> None:
    small, large = (rebalancing_frontier(PRICES, equal(PRICES), capital=c)["small_orders"].sum() for c in (1e3, 1e9))
    assert small > 100 > 2 > large


# ---------------------------------------------------------------- refusals and the picture


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"modes": ["fuzzy"]}, "'fuzzy' is not known; modes are absolute, relative"),
        ({"tolerances": {"fuzzy": [0.1]}}, "'fuzzy' is not known"),
        ({"trade_to": ["moon"]}, "'moon' is not known"),
        ({"tolerances": {"absolute": [0.0]}}, "a tolerance is 0.0"),
        ({"every": ["fortnightly"]}, "every is 'fortnightly'"),
        ({"targets": equal(PRICES).set_axis(pd.DatetimeIndex(["2019-01-01"], tz="UTC"))}, "2019-01-01 are on no row"),
        ({"targets": equal(PRICES).rename(columns={"A0": "LUNA"})}, "targets of LUNA, but no prices"),
        ({"targets": equal(PRICES) * 2}, "of 2020-01-01 are no weights"),
        ({"targets": -equal(PRICES)}, "are no weights"),
        ({"targets": equal(PRICES).set_axis(PRICES.index[-1:])}, "there are 1 bars"),
        ({"prices": PRICES.assign(A0=PRICES["A0"].iloc[:300])}, "A0 has no price on 2020-10-27"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], told: str) -> None:
    given_ = {"prices": PRICES, "targets": equal(PRICES), **options}
    with pytest.raises((ConfigError, DataError), match=told):
        rebalancing_frontier(**given_)


def test_the_picture_has_a_dot_for_every_rule() -> None:
    table = rebalancing_frontier(PRICES, equal(PRICES))
    axis = plot_frontier(table, title="SIMULATED").axes[0]
    shown = table[(table["tracking_error_bp"] > 0) & (table["cost_bp"] > 0)]
    dots = sum(len(c.get_offsets()) for c in axis.collections)  # the last one is the rule of now, once more
    assert dots == len(shown) + 1 and axis.get_title(loc="left").startswith("SIMULATED")
    assert [text.get_text() for text in axis.get_legend().get_texts()][-1] == "the rule of now"
