"""The data collector: what is known of prices now, and not a bar more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pandas as pd

from portfolio_research.config import DataError
from portfolio_research.data import to_returns
from portfolio_research.market.protocol import Feed, Tick


class DataCollector:
    """Follows a feed. Prices and returns end at `now`: nothing that is computed from them can see the future."""

    def __init__(self, feed: Feed, *, after: datetime | None = None) -> None:
        self.feed = feed
        self.now = after  # market time of the newest bar that has been taken; None before the first
        self.marks: dict[str, float] = {}  # newest price of each asset, marks between bars included
        self._ticks: AsyncIterator[Tick] | None = None
        self._returns: dict[int, pd.DataFrame] = {}  # by length, for the bar of `now`: several loops ask for the same

    async def next(self) -> Tick | None:
        """Wait for the next tick and take it; None when the feed has ended."""
        if self._ticks is None:
            self._ticks = self.feed.ticks(self.now)
        try:
            tick = await anext(self._ticks)
        except StopAsyncIteration:
            return None
        self.observe(tick)
        return tick

    def observe(self, tick: Tick) -> None:
        """Take a tick that somebody else has read from the feed. One that is older than `now` is refused."""
        if tick.is_bar:
            if self.now is not None and tick.ts < self.now:
                raise DataError(f"bar of {tick.ts} came after that of {self.now}: a feed gives bars in order of time")
            self.now = tick.ts
            self._returns.clear()
        self.marks.update(tick.closes)

    def prices(self, n: int) -> pd.DataFrame:
        """The last `n` closes up to now; assets that had no price in all that time are left out."""
        if self.now is None:
            return self.feed.history(0)
        return self.feed.history(n, self.now).dropna(axis="columns", how="all")

    def returns(self, n: int) -> pd.DataFrame:
        """The last `n` returns up to now; NaN where there was no price."""
        if n not in self._returns:
            self._returns[n] = to_returns(self.prices(n + 1))
        return self._returns[n]
