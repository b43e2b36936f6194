"""Timing: liquid hours from volumes, slices that stay tradable, impact of the whole order, and the price of waiting."""
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError
from portfolio_research.costs import Costs, market_impact, trade_costs
from portfolio_research.timing import (
    ORDER_HOURS,
    chosen_way,
    execution_options,
    liquidity_profile,
    next_slice,
    order_impact,
    slice_count,
    waiting_cost,
)

AMOUNTS = st.floats(0.01, 1e7)


def turnover(days: int, seed: int = 0, assets: int = 1) -> pd.DataFrame:
    """Hourly turnover that is highest at 15:00 UTC."""
    rng, index = np.random.default_rng(seed), pd.date_range("2024-03-01", periods=24 * days, freq="h", tz="UTC")
    busy = 1 + np.exp(-(((index.hour.to_numpy() - 15) / 3) ** 2))
    return pd.DataFrame(busy[:, None] * rng.lognormal(0, 0.2, (len(index), assets)), index, list("ABCD")[:assets])


PROFILE = liquidity_profile(turnover(30))


# ---------------------------------------------------------------- liquid hours


def test_a_profile_is_the_mean_share_of_complete_days() -> None:
    table = turnover(3)
    shares = table["A"].to_numpy().reshape(3, 24)
    expected = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    made = liquidity_profile(table["A"])
    np.testing.assert_allclose(made["share"], expected, rtol=1e-12)
    np.testing.assert_allclose(made["relative_cost"], 1 / np.sqrt(24 * expected), rtol=1e-12)
    broken = pd.concat([table.iloc[:-1], turnover(4).iloc[-20:-8]])  # a day without its last hour, and half a day
    np.testing.assert_allclose(liquidity_profile(broken)["share"], liquidity_profile(table.iloc[:48])["share"])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(1e-3, 1e6))
def test_a_profile_knows_no_size_no_order_and_no_time_zone(seed: int, assets: int, scale: float) -> None:
    table = turnover(4, seed, assets)
    made = liquidity_profile(table)
    assert made["share"].sum() == pytest.approx(1, abs=1e-12) and made.index.tolist() == list(range(24))
    shuffled = table.sample(frac=1, random_state=seed % 1000).tz_convert("Asia/Tokyo") * scale
    np.testing.assert_allclose(liquidity_profile(shuffled), made, rtol=1e-9)
    each = np.mean([liquidity_profile(table[a])["share"] for a in table], axis=0)
    np.testing.assert_allclose(made["share"], each, rtol=1e-12)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (turnover(2).tz_localize(None), "time zone"),
        (turnover(2).reset_index(drop=True), "time zone"),
        (turnover(2).shift(freq="10min"), "no full hour"),
        (-turnover(2), "turnover of A on 2024-03-01.*it is finite and >= 0"),
        (turnover(2) * np.inf, "turnover of A"),
        (turnover(1).iloc[1:], "A has no UTC day"),
        (turnover(2, assets=2).assign(B=np.nan), "B has no UTC day"),
        (turnover(2) * 0, "A has no UTC day"),
        (pd.concat([turnover(1), turnover(1)]), "one row per hour"),
    ],
)
def test_turnover_that_has_no_profile_is_refused(table: pd.DataFrame, told: str) -> None:
    with pytest.raises(DataError, match=told):
        liquidity_profile(table)


def test_bitcoin_is_liquid_when_america_and_europe_are_at_work(test_data: Any) -> None:
    rows = pd.read_csv(test_data / "crypto_1h_2024_ohlcv_long.csv.gz", parse_dates=["date"])
    btc = rows[rows["coin"] == "BTC"].set_index("date")
    index = pd.DatetimeIndex(btc.index)
    made = liquidity_profile(pd.Series((btc["close"] * btc["volume"]).to_numpy(),
                                       index if index.tz else index.tz_localize("UTC")))
    assert made["share"].idxmax() in (13, 14, 15) and made["share"].idxmin() in (4, 5, 9, 10, 22, 23)
    assert 0.6 < made["relative_cost"].min() < 0.8 and 1.1 < made["relative_cost"].max() < 1.5


# ---------------------------------------------------------------- slices


@given(AMOUNTS, st.just(0.0) | st.floats(1, 1e5), st.floats(1, 1e6), st.integers(1, 20), st.just(0.0) | st.floats(1e-3, 1e3))
def test_slices_keep_both_limits_and_the_minimum(
    amount: float, threshold: float, most: float, least: int, smallest: float
) -> None:
    slices, why = slice_count(amount, threshold=threshold, most=most, least=least, min_slice=smallest)
    if amount <= threshold and amount <= most:
        assert (slices, why) == (1, "")
    elif slices > 1:
        assert amount / slices >= smallest * (1 - 1e-12) and why
    if slices > 1 and amount // (smallest or 1) > slices:  # the minimum is not what decided
        assert amount / slices <= min(threshold or np.inf, most) * (1 + 1e-12) and slices >= least


@pytest.mark.parametrize(("amount", "sliced"), [(9_999.99, False), (10_000.0, False), (10_000.01, True)])
def test_the_threshold_is_strict(amount: float, sliced: bool) -> None:
    assert (slice_count(amount)[0] > 1) is sliced


@given(AMOUNTS, st.integers(1, 30), st.sets(st.integers(0, 29)), st.floats(1, 4), st.floats(0, 50))
def test_catching_up_never_rushes_and_never_trades_too_much(
    amount: float, slices: int, failing: set[int], catch_up: float, smallest: float
) -> None:
    filled, most = 0.0, catch_up * amount / slices
    for k in range(slices):
        size = next_slice(amount, slices, k, filled, catch_up=catch_up, min_slice=smallest)
        assert size == 0 or smallest <= size <= most * (1 + 1e-12)
        filled += 0.0 if k in failing else min(size, amount - filled)
    assert filled <= amount * (1 + 1e-12)
    if not failing and amount / slices >= smallest:
        assert filled == pytest.approx(amount)
    if slices - 1 not in failing and len(failing & set(range(slices))) == 1 and catch_up >= 2 and amount / slices >= 50:
        assert filled == pytest.approx(amount), "one failure is made up for"


def test_a_crumb_goes_out_with_the_slice_before_it() -> None:
    assert next_slice(100, 4, 2, 50, min_slice=30) == 50  # 25 would be too small, and so would the 25 left after it
    assert next_slice(100, 4, 0, 0, min_slice=30) == 0 and next_slice(100, 4, 1, 0, min_slice=30) == 50
    assert next_slice(100, 4, 3, 99.5) == 0


@pytest.mark.parametrize("bad", [{"k": 4}, {"k": -1}, {"filled": 101}, {"filled": -1}, {"catch_up": 0.9}])
def test_a_slice_of_no_schedule_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not defined"):
        next_slice(**{"amount": 100.0, "slices": 4, "k": 0, "filled": 0.0} | bad)
    with pytest.raises(ConfigError, match="are not defined"):
        slice_count(-1)


# ---------------------------------------------------------------- costs


@given(st.floats(1, 1e6), st.floats(1e6, 1e10), st.floats(0.001, 0.2), st.floats(0.01, 24))
def test_impact_is_the_square_root_law_until_it_takes_a_tenth_of_the_volume(
    amount: float, volume: float, volatility: float, hours: float
) -> None:
    law, made = market_impact(amount, volume, volatility), order_impact(amount, volume, volatility, hours=hours)
    taken = amount / (volume * hours / 24)
    assert made >= law and made == pytest.approx(law * max(1, (taken / 0.1) ** 0.5))
    if taken > 0.1:  # linear from there on
        assert order_impact(2 * amount, volume, volatility, hours=hours) == pytest.approx(2 * made)
    assert order_impact(amount, volume, volatility, hours=2 * hours) <= made


def test_impact_accrues_on_the_whole_order_and_not_on_each_slice() -> None:
    whole = [execution_options(50_000, 0.1, volume=1e8, volatility=0.03, slices=n).loc["now, over 4 h", "impact"]
             for n in (2, 5, 50)]
    assert whole[0] == whole[1] == whole[2] == pytest.approx(50_000 * 0.03 * (50_000 / 1e8) ** 0.5)
    by_slice = 50 * (1_000 * market_impact(1_000, 1e8, 0.03))
    assert by_slice == pytest.approx(whole[0] / 50**0.5)  # what one must not believe


@given(st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1), st.floats(0, 0.5), st.integers(0, 23), st.integers(1, 9))
def test_ways_add_up_and_one_is_recommended(amount: float, weight: float, hour: int, slices: int) -> None:
    costs = Costs(fee=0.0004, slippage=0.001)
    table = execution_options(amount, weight, volume=5e7, volatility=0.04, costs=costs, hour=hour, profile=PROFILE,
                              slices=slices)
    np.testing.assert_allclose(table[["fee", "spread", "impact", "waiting"]].sum(axis=1), table["total"])
    assert (table[["fee", "spread", "impact"]] > 0).all().all() and (table["waiting"] >= 0).all()
    assert (table["hours"] > 0).eq(slices > 1).equals(table["allowed"])
    best, why = chosen_way(table)
    assert table.index[table["recommended"]].tolist() == [best.name] and why
    assert best["total"] == table.loc[table["allowed"], "total"].min()
    assert chosen_way(table, at_once=True)[0]["wait"] == 0


def test_without_a_profile_it_is_the_flat_rate_and_the_law_and_nobody_waits() -> None:
    table = execution_options(10_000, 0.1, volume=1e8, volatility=0.02, costs=Costs())
    assert table["wait"].eq(0).all() and len(table) == 4
    flat = float(trade_costs(np.array(10_000.0), Costs()))
    assert table.loc["now", "total"] == pytest.approx(flat + 10_000 * 0.02 * 0.01, rel=1e-12)
    assert table.loc["now", "participation"] == pytest.approx(10_000 / (1e8 * ORDER_HOURS / 24))


def test_nobody_waits_in_a_liquid_hour_and_everybody_less_who_fears_risk_more() -> None:
    assert execution_options(1_000, 0.1, volume=1e6, volatility=0.05, hour=15, profile=PROFILE)["wait"].max() == 0
    picked = [chosen_way(execution_options(5_000, 0.05, volume=1e6, volatility=0.05, hour=3, profile=PROFILE,
                                           risk_aversion=fear))[0]["wait"] for fear in (0, 1, 10, 1_000)]
    assert picked == sorted(picked, reverse=True) and picked[0] > 0 == picked[-1]


def test_the_price_of_waiting_is_the_variance_of_the_gap() -> None:
    price, drift = waiting_cost(10_000, 0.1, 0.05, wait=24, hours=0, risk_aversion=4)
    assert price == pytest.approx(0.5 * 4 * 0.1**2 * 0.05**2 * 100_000) and drift == pytest.approx(500)
    rng = np.random.default_rng(0)  # slices close the gap evenly: the mean squared open part is a third
    steps = rng.normal(0, 0.05 / 24**0.5 / 40, (4_000, 24 * 40))[:, : 6 * 40] * 40**0.5
    open_part = 1 - np.arange(240) / 240
    simulated = (10_000 * steps * open_part).sum(axis=1).std()
    assert waiting_cost(10_000, 0.1, 0.05, wait=0, hours=6)[1] == pytest.approx(simulated, rel=0.05)


@pytest.mark.parametrize("bad", [{"hour": 24}, {"hour": None}, {"durations": ()}, {"durations": (0,)}, {"durations": (25,)}])
def test_ways_that_are_not_defined_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="hours are 0 to 23, durations in"):
        execution_options(1.0, 0.1, volume=1e6, volatility=0.01, **bad)
    for wrong in ({"hours": 0}, {"participation": 0}):
        with pytest.raises(ConfigError, match="is not defined"):
            order_impact(1.0, 1e6, 0.01, **wrong)
