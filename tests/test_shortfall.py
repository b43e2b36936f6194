"""Shortfall: parts that add up exactly, tolerant input, clear errors."""
from collections import namedtuple
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import DataError
from portfolio_research.shortfall import CAUSES, Attribution, attribute_trades, implementation_shortfall

PARTS = list(CAUSES)
PRICE = st.floats(1, 1000).map(lambda v: round(v, 2))
FILL = st.fixed_dictionaries(
    {
        "asset": st.sampled_from(["BTC", "ETH", "SOL"]),
        "side": st.sampled_from(["buy", "sell"]),
        "size": st.floats(0.01, 50),
        "price": PRICE,
        "fee": st.floats(-1, 5),
        "strategy": st.sampled_from(["momentum", "mean_reversion", "rebalancing"]),
    },
    optional={"arrival_price": PRICE, "spread": st.floats(0, 0.1)},
)
ORDER = st.fixed_dictionaries(
    {"amount_to_trade": st.floats(1, 20_000), "decision_price": PRICE}, optional={"spread": st.floats(0, 0.1)}
)
FINAL = {"BTC": 120.0, "ETH": 40.0, "SOL": 7.0}
BOOK = st.dictionaries(st.tuples(st.sampled_from(list(FINAL)), st.sampled_from(["buy", "sell"])), ORDER)


def sign(side):
    return 1 if side == "buy" else -1


# --- implementation shortfall -----------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(st.lists(FILL, max_size=8), BOOK)
def test_parts_add_up_to_paper_gain_minus_real_gain(fills, orders):
    fills = [f for f in fills if (f["asset"], f["side"]) in orders]
    plan = [{"asset": a, "side": s, **order} for (a, s), order in orders.items()]
    got = implementation_shortfall(fills, plan, FINAL)
    np.testing.assert_allclose(got["total"], got[PARTS].sum(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got["slippage"], got["spread"] + got["impact"], rtol=1e-12, atol=1e-12)
    assert (got["spread"] >= 0).all()
    units = [sign(o["side"]) * o["amount_to_trade"] / o["decision_price"] for o in plan]
    paper = sum(q * (FINAL[o["asset"]] - o["decision_price"]) for q, o in zip(units, plan, strict=True))
    real = sum(sign(f["side"]) * f["size"] * (FINAL[f["asset"]] - f["price"]) - f["fee"] for f in fills)
    np.testing.assert_allclose(got["total"].sum(), paper - real, rtol=1e-9, atol=1e-6)


def test_each_cause_by_hand():
    plan = [{"asset": "BTC", "side": "sell", "amount_to_trade": 1000, "decision_price": 100}]
    fills = [{"asset": "BTC", "side": "sell", "size": 4, "price": 98, "arrival_price": 99, "fee": 0.5}] * 2
    got = implementation_shortfall(fills, plan, {"BTC": 90})
    assert list(got["filled"]) == [True, True, False] and got["units"].iloc[2] == pytest.approx(2)
    np.testing.assert_allclose(got[PARTS].sum(), [8, 0, 8, 1, 20])


def test_without_an_arrival_price_there_is_no_delay():
    got = implementation_shortfall([{"asset": "A", "side": "buy", "size": 10, "price": 11}],
                                   [{"asset": "A", "side": "buy", "amount": 100, "price": 10}])
    assert len(got) == 1 and list(got[PARTS].iloc[0]) == [0, 0, 10, 0, 0]


def test_an_arrival_price_counts_as_delay_against_the_plan():
    got = implementation_shortfall([{"asset": "A", "side": "buy", "size": 10, "price": 11, "arrival_price": 11}],
                                   [{"asset": "A", "side": "buy", "amount": 100, "price": 10}])
    assert list(got[PARTS].iloc[0]) == [10, 0, 0, 0, 0]


QUOTED = {"arrival_price": 100, "spread": 0.02}


@pytest.mark.parametrize(
    ("side", "price", "market", "planned", "spread", "impact"),
    [
        ("buy", 103, QUOTED, {}, 10, 20),
        ("sell", 97, QUOTED, {}, 10, 20),
        ("buy", 99, QUOTED, {}, 10, -20),  # it quoted and was hit: all of the spread earned
        ("buy", 103, {"bid": 99, "ask": 101}, {}, 10, 20),
        ("buy", 103, {"mid": 100, "spread": 0.02}, {}, 10, 20),
        ("buy", 103, {"bid": 99, "ask": 101, "arrival_price": 100}, {}, 10, 20),
        ("buy", 103, {}, {"spread": 0.02}, 10, 20),
        ("buy", 103, {"spread": 0.01}, {"spread": 0.02}, 5, 25),  # that of the fill goes first
        ("buy", 103, {"spread": 0.0}, {"spread": 0.02}, 0, 30),  # and zero is a spread
        ("buy", 103, {"spread": np.nan}, {"spread": 0.0}, 0, 30),
        ("buy", 103, {}, {}, 0, 30),  # nothing known: all of it is impact
    ],
)
def test_slippage_is_half_the_spread_and_impact(side, price, market, planned, spread, impact):
    fill = {"asset": "A", "side": side, "size": 10, "price": price, **market}
    order = {"asset": "A", "side": side, "amount": 1000, "decision_price": 100, **planned}
    got = implementation_shortfall([fill], [order])
    np.testing.assert_allclose(got[PARTS].iloc[0], [0, spread, impact, 0, 0], atol=1e-12)


def test_a_timing_plan_may_carry_the_spread():
    plan = [{"recommendation": Row("A", "buy", 1000.0, 100.0), "spread": 0.02}]
    got = implementation_shortfall([{"asset": "A", "side": "buy", "size": 10, "price": 103}], plan)
    assert got["spread"].sum() == pytest.approx(10)


def test_a_plan_without_prices_takes_them_from_the_first_fill():
    fills = [{"asset": "A", "side": "buy", "amount": a, "price": p} for a, p in ((50, 10), (44, 11))]
    got = implementation_shortfall(fills, [{"asset": "A", "side": "buy", "amount_to_trade": 100}])
    np.testing.assert_allclose(got["impact"], [0, 4, 0])
    np.testing.assert_allclose(got["opportunity"], [0, 0, 1])  # one unit missed, last fill one above the first


def test_an_order_never_filled_is_unknown_without_a_final_price():
    order = [{"asset": "A", "side": "buy", "amount_to_trade": 100, "decision_price": 10}]
    assert implementation_shortfall([], order)[["opportunity", "total"]].isna().all().all()
    assert implementation_shortfall([], order, {"A": 12})["total"].iloc[0] == 20
    nothing_known = implementation_shortfall([], [{"asset": "A", "side": "buy", "amount_to_trade": 100}])
    assert nothing_known["opportunity"].isna().all()


def test_an_unplanned_trade_has_no_opportunity_cost():
    got = implementation_shortfall([{"asset": "A", "side": "buy", "size": 1, "price": 10, "fee": 0.1}], [], {"A": 20})
    assert list(got[PARTS].iloc[0]) == [0, 0, 0, 0.1, 0]


def test_nothing_planned_and_nothing_done():
    got = implementation_shortfall([], [])
    assert got.empty and got["total"].sum() == 0 and got[PARTS].to_numpy().dtype == float


Row = namedtuple("Row", "asset side amount_to_trade decision_price")


def test_any_kind_of_row_will_do():
    fills = [{"asset": "A", "side": "buy", "size": 10, "price": 11, "fee": 1}]
    plan = [{"asset": "A", "side": "buy", "amount_to_trade": 110, "decision_price": 10}]
    expected = implementation_shortfall(fills, plan)
    Fill = namedtuple("Fill", "symbol size price fee side strategy")
    for same_fills in (
        pd.DataFrame(fills),
        [{"asset": "A", "size": Decimal(10), "price": Decimal(11), "fee": Decimal(1), "side": "BUY"}],
        [Fill("A", Decimal(10), "11", 1, None, None)],
        ({"asset": "A", "side": "buy", "amount": 110, "price": 11, "fee": 1, "size": np.nan} for _ in range(1)),
    ):
        pd.testing.assert_frame_equal(implementation_shortfall(same_fills, plan), expected)
    order = Row("A", "buy", 110.0, 10.0)
    held = Row("B", "hold", 0.0, 10.0)
    for same_plan in (
        [order, held],
        [{"recommendation": order, "delay": "none"}],
        [{"recommendation": {"asset": "A", "side": "buy", "amount_to_trade": 110}, "decision_price": 10}],
        [order._replace(amount_to_trade=50.0), order._replace(amount_to_trade=60.0, decision_price=None)],
        [{"asset": "A", "amount": 110, "price": 10}],
    ):
        pd.testing.assert_frame_equal(implementation_shortfall(fills, same_plan), expected)


def test_a_negative_size_sells():
    signed = attribute_trades([{"asset": "A", "size": -2, "price": 10}], {"A": 8})
    assert signed["total"] == 4


# --- strategies -------------------------------------------------------------------------------------------------------
@settings(max_examples=50, deadline=None)
@given(st.lists(FILL, max_size=10))
def test_strategies_and_assets_both_sum_to_the_gain(fills):
    got = attribute_trades(fills, FINAL)
    gain = sum(sign(f["side"]) * f["size"] * (FINAL[f["asset"]] - f["price"]) - f["fee"] for f in fills)
    for parts in ("strategy_attribution", "asset_attribution"):
        np.testing.assert_allclose(sum(got[parts].values()), gain, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(got["total"], gain, rtol=1e-9, atol=1e-8)
    assert got["rebalancing_contribution"] == got["strategy_attribution"]["rebalancing"]


def test_a_strategy_without_trades_contributed_nothing():
    got = attribute_trades([])["strategy_attribution"]
    assert got["momentum"] == 0.0 and got == {} and isinstance(got, Attribution)


def test_without_final_prices_only_fees_remain_of_a_single_trade():
    got = attribute_trades([{"asset": "A", "side": "buy", "amount": 100, "price": 10, "fee": 0.3}])
    assert got["total"] == pytest.approx(-0.3) and got["fees"] == 0.3 and got["traded"] == pytest.approx(100)


FULL = {"asset": "A", "side": "buy", "size": 1, "price": 10}


@pytest.mark.parametrize(
    ("trades", "words"),
    [
        (FULL, "executed_trades is a dict"),
        (None, "NoneType"),
        ("trades", "str"),
        ([{**FULL, "asset": None}], "trade 0 names no asset"),
        ([FULL, {**FULL, "price": 0}], "trade 1 of A: give a price"),
        ([{"asset": "A", "side": "buy", "price": 10}], "amount in quote currency or a size"),
        ([{**FULL, "side": "long"}], "'long', not 'buy' or 'sell'"),
        ([{**FULL, "price": "ten"}], "price 'ten' is not a number"),
        ([{**FULL, "price": -1}], "price is -1"),
        ([{**FULL, "size": np.inf}], "size is inf"),
        ([{**FULL, "size": -np.inf}], "size is -inf"),
        ([{**FULL, "spread": 5}], "spread is 5: give it as a fraction"),
        ([{**FULL, "spread": -0.1}], "spread is -0.1"),
        ([{**FULL, "bid": 9.9}], "bid is 9.9, ask is None: give both"),
        ([{**FULL, "bid": 10.1, "ask": 10.0}], "the bid not above the ask"),
        ([{**FULL, "bid": 0, "ask": 10.0}], "above 0"),
    ],
)
def test_a_bad_trade_is_named(trades, words):
    with pytest.raises(DataError, match=words):
        attribute_trades(trades)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"A": 1}, "original_plan is a dict"),
        ([{"side": "buy", "amount": 10}], "planned order 0"),
        ([{"asset": "A", "side": "buy"}], "amount_to_trade"),
        ([{"asset": "A", "side": "up", "amount": 1}], "'up'"),
        ([{"asset": "A", "side": "buy", "amount": 1, "spread": 12}], "planned order 0 of A: spread is 12"),
    ],
)
def test_a_bad_order_is_named(plan, words):
    with pytest.raises(DataError, match=words):
        implementation_shortfall([], plan)
