"""Recorded prices as a market: history in a moment, then one bar after another at a chosen speed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pandas as pd

from portfolio_research.config import ConfigError, DataError
from portfolio_research.market.protocol import Tick
from portfolio_research.simulation import simulated_mark

Moment = str | datetime | None


class ReplayFeed:
    """Bars of a price frame from `start` on: before `live_from` at once, then `speed` of them per second.

    It can be taken up after any bar and always gives the same ones: only when they come depends on the clock.
    """

    def __init__(
        self,
        prices: pd.DataFrame,  # UTC index, one column per asset; NaN before a listing
        *,
        start: Moment = None,  # first bar that is given; None: the first there is
        live_from: Moment = None,  # first bar that is given at `speed`; None: `start`
        speed: float = 1.0,  # bars per second; 0: as fast as they are taken
        source: str = "price frame",  # as shown to people; simulated prices are marked whatever it says
        notes: Sequence[str] = (),  # what people should know of the prices, a line each
    ) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ConfigError(f"speed is {speed}: give bars per second, or 0 for as fast as possible")
        self._prices = prices
        self.start = _moment(start, "start") or _utc(prices.index[0])
        self.live_from = _moment(live_from, "live_from") or self.start
        self.speed = speed
        self.notes = tuple(notes)
        mark = simulated_mark(prices.columns)
        self.source = source if source.startswith(mark) else f"{mark}: {source}"
        if self.start > _utc(prices.index[-1]):
            raise DataError(
                f"prices end on {prices.index[-1]:%Y-%m-%d}, before start {self.start:%Y-%m-%d}: start earlier"
            )

    @property
    def assets(self) -> list[str]:
        """All assets, listed yet or not."""
        return [str(asset) for asset in self._prices.columns]

    def history(self, n: int, until: datetime | None = None) -> pd.DataFrame:
        """The last `n` bars up to and including `until` (None: all), those before `start` included."""
        end = len(self._prices) if until is None else self._prices.index.searchsorted(pd.Timestamp(until), side="right")
        return self._prices.iloc[max(0, int(end) - n) : int(end)]

    async def ticks(self, after: datetime | None = None) -> AsyncIterator[Tick]:
        """Bars from `start` on and later than `after`."""
        index = self._prices.index
        first = index.searchsorted(pd.Timestamp(self.start), side="left")
        if after is not None:
            first = max(first, index.searchsorted(pd.Timestamp(after), side="right"))
        due = time.monotonic()
        for row in range(int(first), len(index)):
            ts = _utc(index[row])
            if self.speed and ts >= self.live_from:
                due = max(due + 1 / self.speed, time.monotonic())  # a late reader is not flooded with what it missed
                await asyncio.sleep(due - time.monotonic())
            else:
                due = time.monotonic()
                await asyncio.sleep(0)  # the computed past must not starve the rest of the process
            yield Tick(ts, self._closes(row))

    def _closes(self, row: int) -> dict[str, float]:
        prices = zip(self.assets, self._prices.iloc[row].tolist(), strict=True)
        return {asset: price for asset, price in prices if not math.isnan(price)}


def _moment(value: Moment, name: str) -> datetime | None:
    """A time given as text or datetime; text without zone is UTC."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"{name} is {value!r}: write it as 2020-02-03") from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _utc(stamp: pd.Timestamp) -> datetime:
    """A plain datetime: what is stored and compared is never of pandas' own kind."""
    if stamp.tzinfo is None:
        raise DataError("the prices' dates have no time zone: use prices.tz_localize('UTC')")
    moment: datetime = stamp.tz_convert("UTC").to_pydatetime()
    return moment
