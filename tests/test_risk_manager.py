"""The risk manager: what it knows, and what it stops."""
from __future__ import annotations

import math
from decimal import Decimal

import pytest

from portfolio_research.config import RiskSettings
from portfolio_research.engine.risk import OrderRefused, RiskManager
from portfolio_research.rebalancing import Position, Positions


@pytest.fixture
def manager() -> RiskManager:
    """Equity 1000: 6 BTC at 100, and cash 400."""
    manager = RiskManager(RiskSettings(max_order_share=0.25, max_position_weight=0.70))
    manager.hold(Positions({"BTC": Position("BTC", Decimal(6), Decimal(90), Decimal(90))}, cash=Decimal(400)))
    manager.mark({"BTC": 100.0, "ETH": 10.0})
    return manager


def test_it_knows_what_is_held_at_the_newest_marks(manager: RiskManager) -> None:
    assert manager.equity == 1000.0
    assert manager.positions["BTC"].mark_price == 100
    assert manager.portfolio_returns.empty


@pytest.mark.parametrize("price", [math.nan, math.inf, 0.0, -1.0])
def test_what_is_no_price_keeps_the_old_mark(manager: RiskManager, price: float) -> None:
    manager.mark({"BTC": price})
    assert manager.equity == 1000.0


@pytest.mark.parametrize(("asset", "size"), [("ETH", "25"), ("BTC", "-2.5"), ("BTC", "1")])
def test_sane_orders_pass(manager: RiskManager, asset: str, size: str) -> None:
    manager.check(asset, Decimal(size))


@pytest.mark.parametrize(
    ("asset", "size", "message"),
    [
        ("ETH", "25.1", "more than 25% of the portfolio's 1,000.00 .*max_order_share.*execute_twap_order"),
        ("ETH", "-1", "cannot sell 1, only 0 is held"),
        ("BTC", "1.01", "would become 70.1% of the portfolio.*max_position_weight"),
        ("BTC", "0", "no amount to trade"),
        ("BTC", "NaN", "no amount to trade"),
        ("BTC", "Infinity", "no amount to trade"),
        ("DOGE", "1", "has no price yet.*BTC, ETH"),
    ],
)
def test_others_are_stopped_with_the_rule(manager: RiskManager, asset: str, size: str, message: str) -> None:
    with pytest.raises(OrderRefused, match=f"^{asset}: .*{message}"):
        manager.check(asset, Decimal(size))


def test_nothing_leaves_while_halted_and_the_first_reason_stays(manager: RiskManager) -> None:
    manager.halt("worth nothing")
    manager.halt("a later one")
    with pytest.raises(OrderRefused, match="worth nothing"):
        manager.check("ETH", Decimal(1))
    manager.resume()
    manager.check("ETH", Decimal(1))


def test_a_portfolio_that_is_worth_nothing_buys_nothing() -> None:
    manager = RiskManager()
    manager.mark({"BTC": 100.0})
    with pytest.raises(OrderRefused, match="max_order_share"):
        manager.check("BTC", Decimal("0.01"))
