"""Costs: the cash that a fill really moves, and what is refused."""
from typing import get_args

import numpy as np
import pytest
from engine_runs import market
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.backtest import walk_forward
from portfolio_research.config import ConfigError, DataError, OptimizationError, Settings
from portfolio_research.costs import (
    CostConvention,
    Costs,
    Liquidity,
    cost_components,
    costs_from,
    equity_after,
    funding_costs,
    market_impact,
    slice_impact,
    trade_costs,
)

rates = st.floats(0, 0.2)


@given(st.floats(-1e9, 1e9), rates, rates)
def test_cost_is_mark_value_minus_cash_moved(amount: float, fee: float, slippage: float) -> None:
    fill = amount * (1 + slippage if amount > 0 else 1 - slippage)  # notional at the fill
    cash_out = fill + abs(fill) * fee
    cost = trade_costs(np.array([amount]), Costs(fee, slippage))[0]
    assert cost == pytest.approx(cash_out - amount, rel=1e-9, abs=1e-9 * max(1.0, abs(amount)))
    assert cost >= 0


def test_no_negative_zero_and_shape_is_kept() -> None:
    out = trade_costs(np.zeros((2, 3)), Costs())
    assert out.shape == (2, 3)
    assert not np.signbit(out).any()


def test_nan_amount_stays_nan() -> None:
    assert np.isnan(trade_costs(np.array([np.nan]), Costs())).all()


@pytest.mark.parametrize("bad", [-0.001, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fee", "slippage", "spread", "maker_fee"])
def test_impossible_rates_name_the_key(name: str, bad: float) -> None:
    with pytest.raises(ConfigError, match=f"costs.{name}"):
        Costs(**{name: bad})


def test_impact_is_square_root() -> None:
    assert market_impact(0, 1e6, 0.04) == 0
    assert market_impact(1e4, 1e8, 0.04, coefficient=2) == pytest.approx(2 * market_impact(1e4, 1e8, 0.04))
    for bad in ((-1, 1e6, 0.04), (1, 0, 0.04), (1, 1e6, float("nan")), (1, 1e6, -0.1)):
        with pytest.raises(DataError, match="volume is > 0"):
            market_impact(*bad)


def test_costs_of_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH__PORTFOLIO__COSTS__FEE", "0.002")
    assert costs_from(Settings()) == Costs(fee=0.002)


@pytest.mark.parametrize(("name", "bad"), [
    ("maker_share", 1.1), ("maker_share", float("nan")), ("impact", -1.0), ("impact", float("inf")),
    ("participation", 0.0), ("participation", 1.5),
])
def test_impossible_conditions_name_the_key(name: str, bad: float) -> None:
    with pytest.raises(ConfigError, match=f"costs.{name} is"):
        Costs(**{name: bad})


def test_a_spread_wider_than_the_price_is_refused() -> None:
    with pytest.raises(ConfigError, match="costs.spread is 0.9 and costs.slippage 0.6"):
        Costs(spread=0.9, slippage=0.6)


def test_every_key_of_the_configuration_arrives() -> None:
    given = {"fee": 0.001, "slippage": 0.002, "spread": 0.003, "maker_fee": 0.0004, "maker_share": 0.5, "impact": 1.5,
             "participation": 0.2}
    assert costs_from(Settings(portfolio={"costs": given})) == Costs(**given)  # type: ignore[arg-type]
    assert costs_from(Settings()) == Costs()


# ------------------------------------------------------------------ components
markets = st.tuples(st.floats(1e3, 1e12), st.floats(0, 0.3))


@st.composite
def any_costs(draw: st.DrawFn) -> Costs:
    small = st.floats(0, 0.05)
    return Costs(draw(small), draw(small), draw(small), draw(small), draw(st.floats(0, 1)), draw(st.floats(0, 2)))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), any_costs(), markets)
def test_components_add_up_and_are_what_the_cash_says(amounts: list[float], costs: Costs, market: tuple[float, float]) -> None:
    a = np.array(amounts)
    liquidity = Liquidity(np.full(len(a), market[0]), np.full(len(a), market[1]))
    parts = cost_components(a, costs, liquidity)
    for part in parts:
        assert (part >= 0).all() and not np.signbit(part).any()
    moved = costs.impact * market[1] * np.sqrt(np.abs(a) / market[0])
    moved = np.where(a < 0, np.minimum(moved, 1 - costs.fill_distance), moved)  # a sell brings nothing at worst
    fill = a * (1 + np.sign(a) * (costs.fill_distance + moved))  # notional at the fill
    cash_out = fill + np.abs(fill) * costs.fee_rate
    np.testing.assert_allclose(parts.total, cash_out - a, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parts.total, trade_costs(a, costs, liquidity), rtol=1e-12, atol=1e-9)


def test_components_by_hand() -> None:
    costs = Costs(fee=0.001, slippage=0.002, spread=0.004, maker_fee=0.0002, maker_share=0.25, impact=1.0)
    parts = cost_components(np.array([1_000.0, -1_000.0]), costs, Liquidity(np.full(2, 1e5), np.full(2, 0.05)))
    np.testing.assert_allclose(parts.spread, 1_000 * 0.75 * 0.002)
    np.testing.assert_allclose(parts.slippage, 1_000 * 0.75 * 0.002)
    np.testing.assert_allclose(parts.impact, 1_000 * 0.05 * 0.1)
    np.testing.assert_allclose(parts.fee, 0.0008 * np.array([1_008.0, 992.0]))


def test_a_maker_pays_his_fee_and_nothing_else() -> None:
    maker = Costs(maker_share=1.0, spread=0.01)
    assert maker.fill_distance == 0 and maker.fee_rate == maker.maker_fee
    np.testing.assert_allclose(trade_costs(np.array([100.0, -100.0]), maker), 0.015)


# ------------------------------------------------------------------ impact
@given(st.floats(1, 1e6), st.floats(1.01, 10), markets)
def test_impact_grows_with_size_and_faster_than_in_proportion(
    amount: float, times: float, market: tuple[float, float]
) -> None:
    costs, liquidity = Costs(impact=1.0), Liquidity(np.array([market[0]]), np.array([market[1]]))
    small, large = (cost_components(np.array([x]), costs, liquidity).impact[0] for x in (amount, amount * times))
    assert large == pytest.approx(small * times**1.5, rel=1e-9)


@given(st.floats(0, 1e6), st.integers(1, 50), st.floats(0, 3))
def test_slices_pay_what_the_whole_order_pays(amount: float, slices: int, coefficient: float) -> None:
    paid = slice_impact(amount, slices, 1e7, 0.05, coefficient=coefficient)
    whole = amount * market_impact(amount, 1e7, 0.05, coefficient=coefficient)
    assert paid.shape == (slices,) and paid.sum() == pytest.approx(whole, rel=1e-9, abs=1e-9)
    assert (np.diff(paid) >= -1e-9).all()
    costs = Costs(impact=coefficient)
    charged = cost_components(np.array([amount]), costs, Liquidity(np.array([1e7]), np.array([0.05]))).impact[0]
    assert charged == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_no_slices() -> None:
    with pytest.raises(DataError, match="0 slices"):
        slice_impact(100.0, 0, 1e6, 0.05)


def test_impact_without_a_market_is_refused() -> None:
    with pytest.raises(ConfigError, match="costs.impact is 1, .* pass liquidity="):
        trade_costs(np.array([1.0]), Costs(impact=1.0))
    assert trade_costs(np.array([1.0]), Costs(impact=0.0)) > 0


@pytest.mark.parametrize("volume", [0.0, float("nan"), -1.0])
def test_a_trade_without_a_volume_names_its_asset(volume: float) -> None:
    market = Liquidity(np.array([1e6, volume]), np.array([0.03, 0.03]), ["BTC", "GONE"])
    with pytest.raises(DataError, match="GONE: volume"):
        trade_costs(np.array([1.0, 1.0]), Costs(impact=1.0), market)
    assert trade_costs(np.array([1.0, 0.0]), Costs(impact=1.0), market)[1] == 0  # not traded: nobody asks
    with pytest.raises(DataError, match="asset 1: volume"):
        trade_costs(np.array([1.0, 1.0]), Costs(impact=1.0), Liquidity(market.volume, market.volatility))


def test_liquidity_by_name_and_over_many_bars() -> None:
    market = Liquidity(np.arange(1.0, 7.0).reshape(2, 3), np.full((2, 3), 0.02), ["A", "B", "C"])
    picked = market.of(["C", "A"])
    assert picked.volume.tolist() == [[3, 1], [6, 4]] and picked.assets == ("C", "A")
    assert market.most(Costs(participation=0.5)).tolist() == [[0.5, 1, 1.5], [2, 2.5, 3]]
    amounts = np.ones((2, 3))
    bars = [trade_costs(amounts[k], Costs(impact=1), Liquidity(market.volume[k], market.volatility[k])) for k in (0, 1)]
    np.testing.assert_array_equal(trade_costs(amounts, Costs(impact=1), market), bars)
    with pytest.raises(DataError, match="no volume and volatility of X, Y"):
        market.of(["A", "X", "Y"])


# ------------------------------------------------------------------ funding
def test_funding_is_paid_by_longs_and_received_by_shorts() -> None:
    paid = funding_costs(np.array([[1_000.0, -500.0, 0.0]]), np.array([[1e-4, 2e-4, np.nan]]))
    np.testing.assert_allclose(paid, [[0.1, -0.1, 0.0]])
    assert funding_costs(np.array([100.0]), np.array([-1e-3]))[0] == pytest.approx(-0.1)
    with pytest.raises(DataError, match="no funding rate"):
        funding_costs(np.array([1.0]), np.array([np.nan]))


# ------------------------------------------------------------------ conventions
books = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.01, 1)), min_size=1, max_size=6)


@given(books, st.floats(0, 1e6), any_costs(), markets, st.booleans())
def test_self_financing_conserves_value(
    book: list[tuple[float, float]], cash: float, costs: Costs, market: tuple[float, float], thin: bool
) -> None:
    values, raw = np.array(book).T
    target, equity = raw / raw.sum(), cash + values.sum() + 1.0
    liquidity = Liquidity(np.full(len(values), market[0]), np.full(len(values), market[1]))
    wanted = liquidity if thin or costs.impact else None
    after = equity_after(values, equity, target, costs, liquidity=wanted)
    most = np.inf if wanted is None else wanted.most(costs)
    amounts = np.clip(target * after - values, -most, most)
    assert after + trade_costs(amounts, costs, wanted).sum() == pytest.approx(equity, rel=1e-12)


@given(books, st.floats(0, 0.05))
def test_value_before_trade_is_the_flat_rate_of_research(book: list[tuple[float, float]], rate: float) -> None:
    values, raw = np.array(book).T
    target, equity = raw / raw.sum(), values.sum() + 1.0
    after = equity_after(values, equity, target, Costs(fee=rate, slippage=0.0), convention="value_before_trade")
    assert after == pytest.approx(equity * (1 - rate * np.abs(target - values / equity).sum()), rel=1e-12)


@given(books, st.floats(1e-5, 0.01))
def test_the_two_conventions_differ_by_the_square_of_the_rate(book: list[tuple[float, float]], rate: float) -> None:
    values, raw = np.array(book).T
    target, equity, costs = raw / raw.sum(), values.sum() + 1.0, Costs(fee=rate, slippage=0.0)
    exact = equity_after(values, equity, target, costs)
    flat = equity_after(values, equity, target, costs, convention="value_before_trade")
    assert abs(exact - flat) <= 2.1 * rate**2 * equity + 1e-12 * equity


def test_costs_that_eat_the_book_are_refused() -> None:
    market = Liquidity(np.full(2, 1.0), np.full(2, 50.0))
    ruinous = Costs(impact=1e6, participation=1.0)
    for convention in get_args(CostConvention):
        with pytest.raises(OptimizationError, match="costs more than it is worth"):
            equity_after(np.array([1.0, 0.0]), 1.0, np.array([0.0, 1.0]), ruinous, liquidity=market, convention=convention)


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match="'bt'; it is one of value_before_trade, self_financing"):
        equity_after(np.array([1.0]), 1.0, np.array([1.0]), Costs(), convention="bt")  # type: ignore[arg-type]


def test_walk_forward_pays_by_the_value_before_the_trade() -> None:
    prices = market(1, assets=4, bars=90)
    found = walk_forward(prices, lookback=60, step=10, cost=0.002)
    flat, units, cash = Costs(fee=0.002, slippage=0.0), np.zeros(4), 1.0
    for day, amounts in found.amounts.iterrows():
        close = prices.loc[day].to_numpy()
        equity = cash + float(units @ close)
        after = equity_after(units * close, equity, found.weights.loc[day].to_numpy(), flat, convention="value_before_trade")
        assert found.nav[day] == pytest.approx(after, rel=1e-12)
        units, cash = units + amounts.to_numpy() / close, cash - amounts.sum() - found.costs[day]
