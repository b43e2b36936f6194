"""What the engine needs of a market: ticks that come in, and a venue that takes orders.

Whoever offers these shapes can be traded on: the replay and the paper exchange here, a live venue, or a user's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from portfolio_research.store.ledger import Fill

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Feed", "Fill", "OrderReport", "Tick", "Venue", "VenueOrder"]


@dataclass(frozen=True, slots=True)
class Tick:
    """Prices at one moment.

    A bar carries the time at which it began (a daily bar of date D: D 00:00 UTC). A mark between two bars carries its
    moment less the length of a bar, so that it comes after the bar that closed before it and before the one still open.
    """

    ts: datetime
    closes: dict[str, float]  # assets without a price are absent
    is_bar: bool = True


@runtime_checkable
class Feed(Protocol):
    """Where prices come from."""

    @property
    def source(self) -> str:
        """Name of the source, as shown to people."""

    def history(self, n: int, until: datetime | None = None) -> pd.DataFrame:
        """The last `n` closed bars up to and including `until`: UTC index, a column per asset, NaN before listing."""

    def ticks(self, after: datetime | None = None) -> AsyncIterator[Tick]:
        """Ticks later than `after`, in order."""


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """An order as a venue takes it: at the market, unless there is a limit."""

    cloid: str
    asset: str
    size: Decimal  # signed, in units of the asset; negative sells
    limit: Decimal | None = None  # worst price that is accepted
    expires_at: datetime | None = None  # from then on the venue must refuse it


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What a venue says of an order. `unknown`: it has never seen it."""

    cloid: str
    state: str  # filled | rejected | unknown
    fills: Sequence[Fill] = ()
    reason: str = ""


@runtime_checkable
class Venue(Protocol):
    """Who takes orders."""

    async def place(self, order: VenueOrder) -> OrderReport:
        """Take an order. The same cloid again gives the same answer, it does not trade again."""

    async def order_status(self, cloid: str) -> OrderReport:
        """What became of an order."""

    async def positions(self) -> Mapping[str, Decimal]:
        """Units held of each asset, as the venue sees it."""
