"""How the machine is: numbers for the rules about stale data, hung loops, stuck orders and reconciliation.

Ages are counted in check intervals, by a clock that nobody can set. A replay waits for nobody: its data are never old,
so that the same prices give the same alerts however slow the machine is.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal


class Watch:
    """What was last heard, and what has been waiting since when."""

    def __init__(
        self,
        interval: float,  # seconds between checks
        *,
        promised: bool,  # whether the feed promises ticks all the time, so that none for long means trouble
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval, self.promised = interval, promised
        self._clock = clock
        self._heard = clock()
        self._waiting: dict[str, int] = {}  # order -> checks that have seen it unanswered

    def heard(self) -> None:
        """A tick came."""
        self._heard = self._clock()

    def ages(self, hanging: float) -> dict[str, float]:
        """Check intervals without new data, and that the loop at work has been; `hanging` is in seconds.

        Data that a hung loop keeps from being used are as old as if they had not come.
        """
        loop = hanging / self.interval
        data = (self._clock() - self._heard) / self.interval if self.promised else 0.0
        return {"loop_age": loop, "data_age": max(data, loop)}

    def orders(self, sent: Iterable[str]) -> float:
        """For how many checks the oldest order that was sent has been without an answer."""
        self._waiting = {cloid: self._waiting.get(cloid, 0) + 1 for cloid in sent}
        return float(max(self._waiting.values(), default=0))


def drift(
    ledger: Mapping[str, Decimal],  # units that we believe to hold
    venue: Mapping[str, Decimal],  # units by the venue's own books
    marks: Mapping[str, float],
    equity: float,
) -> float:
    """Value of all differences as a part of equity; NaN where it cannot be judged."""
    differs = {asset: abs(ledger.get(asset, Decimal(0)) - venue.get(asset, Decimal(0))) for asset in {*ledger, *venue}}
    worth = sum(float(units) * marks.get(asset, math.nan) for asset, units in differs.items() if units)
    return worth / equity if equity > 0 else math.nan
