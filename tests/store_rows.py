"""Rows that several tests of the store begin with."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from portfolio_research.store import ledger

DAY = datetime(2020, 2, 3, tzinfo=UTC)
CAPITAL = Decimal("100000")


def day(n: int) -> datetime:
    return DAY + timedelta(days=n)


def start(conn: Connection, name: str = "main", settings: str = "{}") -> None:
    ledger.ensure_portfolio(conn, name, CAPITAL, "USD", "paper", "test prices", settings, DAY)


def open_order(
    conn: Connection,
    asset: str,
    size: str,
    n: int = 0,
    price: str = "100",
    sequence: int = 0,
    slice_: int = 0,
) -> ledger.PlannedOrder:
    """An order of the rebalance of day `n`, planned."""
    decision = {"rebalance": True, "reason": "drift", "recommendations": []}
    rebalance_id = ledger.open_rebalance(conn, "main", day(n), decision, "executing")
    planned = ledger.PlannedOrder(
        cloid=ledger.cloid(rebalance_id, asset, slice_),
        rebalance_id=rebalance_id,
        portfolio="main",
        sequence=sequence,
        asset=asset,
        size=Decimal(size),
        decision_price=Decimal(price),
        ts=day(n),
        slice=slice_,
    )
    ledger.plan_orders(conn, [planned])
    return planned


def fill_of(order: ledger.PlannedOrder, price: str, fee: str = "0", tid: str | None = None) -> ledger.Fill:
    """The fill that completes `order`."""
    return ledger.Fill(
        tid=tid or f"t{order.cloid}",
        cloid=order.cloid,
        asset=order.asset,
        size=order.size,
        price=Decimal(price),
        fee=Decimal(fee),
        slippage=Decimal("0"),
        ts=order.ts,
    )
