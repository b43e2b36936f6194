"""The paper exchange: fills market orders at once, beside the mark by what the costs say, and never twice.

Its memory is the ledger itself. A fill is a function of the order and the mark; it happens when it is recorded, in one
transaction with all that follows from it. So a crash at any moment leaves an order that was filled and recorded, or one
that the exchange has never seen, and nothing in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from portfolio_research.config import ConfigError, VenueError
from portfolio_research.costs import Costs
from portfolio_research.market.protocol import Fill, OrderReport, Tick, VenueOrder
from portfolio_research.store import Store, ledger
from portfolio_research.store.encoding import to_decimal


class PaperExchange:
    """A spot venue inside this process, with fees, spread and slippage proportional to the notional."""

    def __init__(
        self,
        store: Store,
        portfolio: str,
        costs: Costs = Costs(),  # noqa: B008 - frozen
        lot: Decimal = Decimal("1e-8"),  # smallest step of a size
    ) -> None:
        if costs.impact:
            raise ConfigError(
                f"portfolio.costs.impact is {costs.impact:g}, and the paper exchange knows no volumes to charge it on: "
                "set it to 0 here, and use it in a back-test with liquidity"
            )
        self.store = store
        self.portfolio = portfolio
        self.lot = lot
        self._fee = to_decimal(costs.fee_rate)
        self._distance = to_decimal(costs.fill_distance)
        self._marks: dict[str, Decimal] = {}
        self._now: datetime | None = None

    def mark(self, tick: Tick) -> None:
        """Prices at which orders fill from now on. What the tick does not price can no longer be traded."""
        for asset, price in tick.closes.items():
            if not 0 < price < float("inf"):
                raise VenueError(
                    f"{asset} is priced {price} at {tick.ts}: a price is positive and finite, check the feed"
                )
        self._marks = {asset: to_decimal(price) for asset, price in tick.closes.items()}
        self._now = tick.ts

    async def place(self, order: VenueOrder) -> OrderReport:
        """Fill the order, or say why not. Whoever gets the fill records it; a recorded one is given again."""
        known = await self.order_status(order.cloid)
        if known.state != "unknown":
            return known
        mark, now = self._checked(order)
        fill = self._fill(order, mark, now)
        self._afford(order, fill)
        return OrderReport(order.cloid, "filled", (fill,))

    async def order_status(self, cloid: str) -> OrderReport:
        """Filled, with its fills, or unknown."""
        with self.store.read() as conn:
            fills = tuple(ledger.fills_of_order(conn, cloid))
        return OrderReport(cloid, "filled" if fills else "unknown", fills)

    async def positions(self) -> Mapping[str, Decimal]:
        """Units held of each asset."""
        with self.store.read() as conn:
            return {asset: lot.size for asset, lot in ledger.lots(conn, self.portfolio).items() if lot.size}

    def _checked(self, order: VenueOrder) -> tuple[Decimal, datetime]:
        """The mark and the time of it, if the order makes sense at all."""
        if not order.size.is_finite() or not order.size or order.size % self.lot:
            raise VenueError(
                f"{order.asset}: size {order.size} is refused: give a multiple of {self.lot} that is not zero"
            )
        mark = self._marks.get(order.asset)
        if mark is None or self._now is None:
            raise VenueError(
                f"{order.asset} has no price now: wait for its next bar, or choose another asset"
            )
        if order.expires_at is not None and self._now >= order.expires_at:
            raise VenueError(
                f"{order.asset}: the order expired at {order.expires_at}, it is {self._now}: plan a new one"
            )
        return mark, self._now

    def _fill(self, order: VenueOrder, mark: Decimal, now: datetime) -> Fill:
        side = 1 if order.size > 0 else -1
        price = ledger.EXACT.multiply(mark, 1 + side * self._distance)
        if order.limit is not None and side * price > side * order.limit:
            raise VenueError(
                f"{order.asset}: {price} is worse than the limit of {order.limit}: raise the limit or wait"
            )
        notional = ledger.EXACT.multiply(abs(order.size), price)
        return Fill(
            tid=f"paper-{order.cloid}", cloid=order.cloid, asset=order.asset, size=order.size, price=price,
            fee=ledger.EXACT.multiply(notional, self._fee),
            slippage=ledger.EXACT.multiply(abs(order.size), abs(price - mark)), ts=now,
        )  # fmt: skip

    def _afford(self, order: VenueOrder, fill: Fill) -> None:
        """A spot venue lends neither money nor assets."""
        with self.store.read() as conn:
            cash = ledger.cash(conn, self.portfolio)
            held = ledger.lots(conn, self.portfolio).get(order.asset, ledger.Lot()).size
        cost = ledger.EXACT.add(ledger.EXACT.multiply(fill.size, fill.price), fill.fee)
        if order.size > 0 and cost > cash:
            raise VenueError(
                f"{order.asset}: buying {order.size} costs {cost:.2f}, cash is {cash:.2f}: sell first or buy less"
            )
        if order.size < 0 and -order.size > held:
            raise VenueError(f"{order.asset}: cannot sell {-order.size}, {held} are held: sell at most that")
