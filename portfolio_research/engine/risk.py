"""The risk manager: knows what is held and what it is worth, and has the last word before an order leaves.

Its limits do not make decisions; they catch the order that no sane decision would have made. Selling short is refused,
since nothing here would ever want it.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pandas as pd

from portfolio_research.config import RiskSettings, VenueError
from portfolio_research.rebalancing import Position, Positions


class OrderRefused(VenueError):
    """An order that was stopped before it reached the venue."""


class RiskManager:
    """Positions at their newest marks, the portfolio's returns, and the limits on new orders."""

    def __init__(self, limits: RiskSettings | None = None) -> None:
        self.limits = limits or RiskSettings()
        self.positions = Positions({})
        self.portfolio_returns = pd.Series(dtype=float, name="portfolio")
        self.marks: dict[str, float] = {}
        self.halted = ""  # why no order may leave; "" while they may

    @property
    def equity(self) -> float:
        """Cash and positions at their marks, in quote currency."""
        return float(self.positions.equity)

    def hold(self, positions: Positions) -> None:
        """Take over what the ledger says is held."""
        self.positions = positions
        self.mark(self.marks)

    def mark(self, closes: Mapping[str, float]) -> None:
        """Value everything at new prices; a price that is not one keeps the old mark, and is no reason to trade."""
        self.marks |= {asset: float(price) for asset, price in closes.items() if _is_price(price)}
        held = self.positions.items()
        marked: dict[str, Position] = {asset: self._marked(position) for asset, position in held}
        self.positions = Positions(marked, cash=self.positions.cash)

    def halt(self, reason: str) -> None:
        """Let no order leave until `resume`. The first reason stays: later ones usually follow from it."""
        self.halted = self.halted or reason

    def resume(self) -> None:
        """Let orders leave again."""
        self.halted = ""

    def check(self, asset: str, size: Decimal) -> None:
        """Raise OrderRefused unless an order of `size` units (negative sells) may leave."""
        if self.halted:
            raise OrderRefused(f"{asset}: no order leaves while trading is halted ({self.halted})")
        if not size.is_finite() or not size:
            raise OrderRefused(f"{asset}: order size {size} is no amount to trade")
        if asset not in self.marks:
            raise OrderRefused(
                f"{asset}: has no price yet, so an order cannot be judged; known are {', '.join(self.marks) or 'none'}"
            )
        self._check_share(asset, size)
        if size < 0:
            self._check_sale(asset, -size)
        else:
            self._check_weight(asset, size)

    def _marked(self, position: Position) -> Position:
        price = self.marks.get(position.asset)
        return position if price is None else replace(position, mark_price=Decimal(repr(price)))

    def _held(self, asset: str) -> Decimal:
        return Decimal(self.positions[asset].size) if asset in self.positions else Decimal(0)

    def _check_share(self, asset: str, size: Decimal) -> None:
        notional, limit = abs(float(size)) * self.marks[asset], self.limits.max_order_share
        if not notional <= limit * self.equity:
            raise OrderRefused(
                f"{asset}: an order of {notional:,.2f} is more than {limit:.0%} of the portfolio's {self.equity:,.2f} "
                "(portfolio.risk.max_order_share): trade it in slices, with execute_twap_order"
            )

    def _check_sale(self, asset: str, size: Decimal) -> None:
        held = self._held(asset)
        if size > held:
            raise OrderRefused(f"{asset}: cannot sell {size}, only {held} is held, and nothing is sold short")

    def _check_weight(self, asset: str, size: Decimal) -> None:
        value, limit = float(self._held(asset) + size) * self.marks[asset], self.limits.max_position_weight
        if not value <= limit * self.equity:
            raise OrderRefused(
                f"{asset}: would become {value / self.equity:.1%} of the portfolio, above the "
                f"{limit:.0%} of portfolio.risk.max_position_weight: buy less, or raise the limit"
            )


def _is_price(price: float) -> bool:
    return math.isfinite(price) and price > 0
