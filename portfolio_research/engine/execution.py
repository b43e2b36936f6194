"""From a decision to fills: orders are planned as a whole, written down, and only then sent.

A plan is complete before its first order leaves: sizes in exact units, sells before buys, large ones in slices, buys
capped at the cash that the sells will have brought. So what a crash interrupts can be taken up where it was, and one
plan always ends in the same book.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from difflib import get_close_matches

from sqlalchemy import Connection

from portfolio_research.config import VenueError
from portfolio_research.costs import Costs
from portfolio_research.engine.risk import OrderRefused, RiskManager
from portfolio_research.market.protocol import OrderReport, Venue, VenueOrder
from portfolio_research.rebalancing import Decision, Positions
from portfolio_research.store import Store, ledger
from portfolio_research.store.encoding import to_decimal

LOT = Decimal("1e-8")
EXACT = ledger.EXACT
DOWN = Context(prec=28, rounding=ROUND_DOWN)
SHARE_MARGIN = 0.95  # prices and equity move while slices go out: stay this far below the limit on one order


@dataclass(frozen=True, slots=True)
class Desk:
    """What planning needs to know of venue and portfolio."""

    portfolio: str
    costs: Costs = Costs()
    lot: Decimal = LOT
    large_trade_threshold: float = 10_000.0  # quote currency; above it, slices
    twap_slices: int = 5
    min_trade_size: float = 10.0  # quote currency; no slice is made smaller
    max_order_share: float = 0.25  # one order's notional over equity

    def slices(self, amount: float, equity: float) -> int:
        """In how many orders an amount goes out: as few as the two limits on one order allow."""
        needed = math.ceil(amount / (SHARE_MARGIN * self.max_order_share * equity))
        return max(self.twap_slices, needed) if amount > self.large_trade_threshold or needed > 1 else 1

    def split(self, size: Decimal, n: int) -> list[Decimal]:
        """`size` in `n` whole-lot pieces, the rounding in the last one."""
        piece = self.whole(size / n)
        return [piece] * (n - 1) + [size - piece * (n - 1)] if piece else [size]

    def whole(self, size: Decimal) -> Decimal:
        """Rounded towards zero to whole lots."""
        return size.quantize(self.lot, rounding=ROUND_DOWN)


@dataclass(frozen=True, slots=True)
class Trade:
    """What somebody wants traded."""

    asset: str
    side: str  # "buy" | "sell"
    amount: float  # quote currency at the mark, > 0
    slices: int | None = None  # None: as the desk sees fit


class Purse:
    """The cash there will be after each planned order, by the venue's own exact arithmetic."""

    def __init__(self, cash: Decimal, costs: Costs) -> None:
        self.cash = cash
        fee, distance = to_decimal(costs.fee_rate), to_decimal(costs.fill_distance)
        self._bought = (1 + distance) * (1 + fee)
        self._sold = (1 - distance) * (1 - fee)

    def sell(self, size: Decimal, mark: Decimal) -> None:
        """Take in what `size` units bring."""
        self.cash = EXACT.add(self.cash, EXACT.multiply(EXACT.multiply(size, mark), self._sold))

    def buy(self, size: Decimal, mark: Decimal, lot: Decimal) -> Decimal:
        """Pay for `size`, or for the most that there is cash for; return what was bought."""
        unit = EXACT.multiply(mark, self._bought)
        most = DOWN.divide(max(self.cash, Decimal(0)), unit).quantize(lot, rounding=ROUND_DOWN)
        bought = min(size, most)
        self.cash = EXACT.subtract(self.cash, EXACT.multiply(bought, unit))
        return bought


def plan(
    trades: Iterable[Trade],
    *,
    rebalance_id: str,
    positions: Positions,
    marks: Mapping[str, float],
    desk: Desk,
    ts: datetime,
    strategy: str = "rebalancing",
) -> list[ledger.PlannedOrder]:
    """The orders that carry out the trades, in the order in which they go out."""
    purse, equity = Purse(Decimal(positions.cash), desk.costs), positions.equity
    orders: list[ledger.PlannedOrder] = []
    for trade in sorted(trades, key=lambda t: t.side != "sell"):
        mark = to_decimal(marks[trade.asset])
        size = _units(trade, positions, mark, desk, purse)
        traded = min(trade.amount, float((abs(size) + desk.lot) * mark))  # the purse may have cut it
        pieces = desk.split(size, trade.slices or desk.slices(traded, equity)) if size else []
        orders += [
            ledger.PlannedOrder(
                ledger.cloid(rebalance_id, trade.asset, k),
                rebalance_id,
                desk.portfolio,
                len(orders) + k,
                trade.asset,
                piece,
                mark,
                ts,
                kind="twap" if len(pieces) > 1 else "market",
                slice=k,
                slices=len(pieces),
                strategy=strategy,
            )
            for k, piece in enumerate(pieces)
        ]
    return orders


def trades_of(decision: Decision) -> list[Trade]:
    """What a decision wants traded."""
    traded = (r for r in decision.recommendations if r.side != "hold" and r.amount_to_trade > 0)
    return [Trade(r.asset, r.side, r.amount_to_trade) for r in traded] if decision.rebalance else []


def _units(trade: Trade, positions: Positions, mark: Decimal, desk: Desk, purse: Purse) -> Decimal:
    """Signed size in whole lots. Selling all but a lot sells all: no crumbs stay behind."""
    size = desk.whole(to_decimal(trade.amount) / mark)
    if trade.side == "buy":
        return purse.buy(size, mark, desk.lot)
    held = Decimal(positions[trade.asset].size) if trade.asset in positions else Decimal(0)
    size = held if abs(held - size) <= desk.lot else size
    purse.sell(size, mark)
    return -size


class OrderExecutor:
    """Sends one order at a time, and records what became of it before anything else happens."""

    def __init__(self, store: Store, venue: Venue, risk_manager: RiskManager, desk: Desk) -> None:
        self.store, self.venue, self.risk_manager, self.desk = store, venue, risk_manager, desk
        self.now: datetime | None = None  # market time of the newest tick

    async def place_order(
        self,
        asset: str,
        side: str,  # "buy" | "sell"
        amount_to_trade: float,  # quote currency, at the mark
        *,
        strategy: str = "manual",
    ) -> ledger.PlannedOrder:
        """Trade at the market in one order, and return it as it ended. Raises OrderRefused when it may not leave."""
        (order,) = self.write_down(Trade(asset, side, amount_to_trade, slices=1), strategy)
        return _settled(await self.execute(order))

    def write_down(self, trade: Trade, strategy: str) -> list[ledger.PlannedOrder]:
        """Plan a trade that its caller decided, and record it, before anything is sent, as a decision of its own."""
        self._check_request(trade)
        ts = self.now or datetime.now(UTC)
        with self.store.begin() as conn:
            rebalance_id = self._open_manual(conn, ts, trade)
            positions = ledger.load_positions(conn, self.desk.portfolio)
            orders = plan(
                [trade],
                rebalance_id=rebalance_id,
                positions=positions,
                marks=self.risk_manager.marks,
                desk=self.desk,
                ts=ts,
                strategy=strategy,
            )
            self._check_plan(trade, orders)
            ledger.plan_orders(conn, orders)
        return orders

    async def execute(self, order: ledger.PlannedOrder) -> ledger.PlannedOrder:
        """Bring a recorded order to its end: filled, or rejected with a reason. One that has ended stays as it is.

        One found as `sent` was interrupted: only the venue knows its fate, so it is asked before it is sent again.
        """
        if order.state in ("filled", "rejected"):
            return order
        report = await self.venue.order_status(order.cloid) if order.state == "sent" else None
        if report is None or report.state == "unknown":
            try:
                self.risk_manager.check(order.asset, order.size)
                self._note(order, "sent")
                report = await self.venue.place(VenueOrder(order.cloid, order.asset, order.size))
            except VenueError as refusal:
                return self._note(order, "rejected", str(refusal))
        return self._record(order, report)

    def _record(self, order: ledger.PlannedOrder, report: OrderReport) -> ledger.PlannedOrder:
        """Fills and the order's end in one transaction, so that a crash leaves both or neither."""
        with self.store.begin() as conn:
            for fill in report.fills:
                ledger.record_fill(conn, fill)
            ledger.set_order_state(conn, order.cloid, report.state, report.reason)
            self.risk_manager.hold(ledger.load_positions(conn, self.desk.portfolio))
        return replace(order, state=report.state, reason=report.reason)

    def reject(self, order: ledger.PlannedOrder, reason: str) -> ledger.PlannedOrder:
        """End an order that was not sent."""
        return order if order.state in ("filled", "rejected") else self._note(order, "rejected", reason)

    def _note(self, order: ledger.PlannedOrder, state: str, reason: str = "") -> ledger.PlannedOrder:
        with self.store.begin() as conn:
            ledger.set_order_state(conn, order.cloid, state, reason)
        return replace(order, state=state, reason=reason)

    def _open_manual(self, conn: Connection, ts: datetime, trade: Trade) -> str:
        """A slot of its own, microseconds after the bar's: the bar's slot belongs to the rebalancing loop."""
        newest = max((row.slot for row in ledger.rebalances(conn, self.desk.portfolio, limit=1)), default=ts)
        decision = {
            "reason": f"{trade.side} {trade.amount:,.2f} of {trade.asset} by hand",
            "rebalance": True,
            **asdict(trade),
        }
        return ledger.open_rebalance(
            conn, self.desk.portfolio, max(ts, newest) + timedelta(microseconds=1), decision, "done"
        )

    def _check_request(self, trade: Trade) -> None:
        known = self.risk_manager.marks
        if trade.side not in ("buy", "sell"):
            raise OrderRefused(f"{trade.asset}: side {trade.side!r} is neither 'buy' nor 'sell'")
        if trade.asset not in known:
            near = ", ".join(get_close_matches(str(trade.asset), known, n=3)) or ", ".join(sorted(known)) or "none"
            raise OrderRefused(f"{trade.asset}: has no price, so it cannot be traded; known: {near}")
        if not (math.isfinite(trade.amount) and trade.amount >= self.desk.min_trade_size):
            raise OrderRefused(
                f"{trade.asset}: {trade.amount} is below the minimum trade size of {self.desk.min_trade_size:g} "
                "(portfolio.rebalancing.min_trade_size): amounts are positive, in quote currency"
            )

    def _check_plan(self, trade: Trade, orders: Sequence[ledger.PlannedOrder]) -> None:
        """Refuse what would be traded only in part, and what the risk manager would stop at the first slice."""
        planned = float(sum((abs(order.size) for order in orders), Decimal(0))) * self.risk_manager.marks[trade.asset]
        if planned < 0.999 * trade.amount:
            raise OrderRefused(
                f"{trade.asset}: {trade.amount:,.2f} cannot be traded, only {planned:,.2f} can be paid or is held: "
                "sell something first, or trade less"
            )
        self.risk_manager.check(trade.asset, orders[0].size)


class AdvancedExecutor:
    """Trades large amounts in slices (time-weighted average price, TWAP), each recorded in advance and resumable."""

    def __init__(self, executor: OrderExecutor) -> None:
        self.executor = executor

    async def execute_twap_order(
        self,
        asset: str,
        side: str,  # "buy" | "sell"
        amount_to_trade: float,  # quote currency, at the mark
        *,
        slices: int | None = None,  # None: as many as the settings say
        duration: float | timedelta = 0.0,  # seconds from the first slice to the last
        strategy: str = "manual",
    ) -> list[ledger.PlannedOrder]:
        """Trade an amount in equal slices, evenly spread; return them as they ended, or raise OrderRefused."""
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        n = self.executor.desk.twap_slices if slices is None else slices
        if n < 1 or not 0 <= seconds < math.inf:
            raise OrderRefused(
                f"{asset}: {n} slices over {seconds:g} s is no schedule; give at least 1 slice and a duration >= 0"
            )
        most = (
            max(1, int(amount_to_trade // max(self.executor.desk.min_trade_size, 1e-9))) if amount_to_trade > 0 else 1
        )
        orders = self.executor.write_down(Trade(asset, side, amount_to_trade, min(n, most)), strategy)
        return await self.execute(orders, pause=seconds / max(len(orders) - 1, 1))

    async def execute(self, orders: Sequence[ledger.PlannedOrder], *, pause: float = 0.0) -> list[ledger.PlannedOrder]:
        """Send recorded slices one after the other. After one is rejected the rest are too."""
        done: list[ledger.PlannedOrder] = []
        for order in orders:
            if done and pause and order.state == "planned":
                await asyncio.sleep(pause)
            if done and done[-1].state == "rejected":
                done.append(self.executor.reject(order, f"slice {done[-1].slice} was rejected: {done[-1].reason}"))
            else:
                done.append(await self.executor.execute(order))
        return done


def _settled(order: ledger.PlannedOrder) -> ledger.PlannedOrder:
    if order.state == "rejected":
        raise OrderRefused(order.reason)
    return order
