"""Funding rates of Hyperliquid, kept on disk for good, and what a position paid over the bars of a price table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from portfolio_research.config import DataError
from portfolio_research.market.cache import Kept, RowFile, VenueFolder
from portfolio_research.market.candles import gaps
from portfolio_research.market.info import (
    DAY,
    HOUR,
    PAGE,
    Clock,
    FundingRate,
    HyperliquidInfo,
    began,
    wall_clock,
)

COLUMNS = ("hour", "rate", "premium", "stamp_ms")
BEGIN = datetime(2023, 5, 12, tzinfo=UTC)  # the venue has no rate that is older
LONGEST = timedelta(hours=8)  # between two rates: 8 hours until 2023-06-08, one since; at times it leaves an hour out


class HyperliquidFunding:
    """Funding rates, a CSV file per coin, kept by the same rules as candles."""

    def __init__(
        self,
        info: HyperliquidInfo,
        cache_dir: Path | str = "candles",
        *,
        clock: Clock = wall_clock,
        history_days: float = 1100,
    ) -> None:
        self.info = info
        self.clock = clock
        self.history = timedelta(days=history_days)
        self._folder = VenueFolder(cache_dir, info.base_url)

    async def update(self, coin: str) -> Kept:
        """Ask for the rates that are not on disk, 500 at a time, and keep each answer before the next question."""
        now, new, revised = self.clock(), 0, list[datetime]()
        for start, end in self._missing(coin, now):
            since = start
            while since <= end:
                answer = await self.info.funding(coin, since, end)
                if not (found := [rate for rate in answer if rate.hour >= since]):
                    break  # there are no more, or the venue does not heed what it is asked
                added, changed = self._keep(coin, found, start, now)
                new, revised = new + added, revised + changed
                since = found[-1].hour + HOUR
        return self.kept(coin, new, revised)

    def kept(self, coin: str, new: int = 0, revised: Sequence[datetime] = ()) -> Kept:
        """What is on disk, and where it has holes."""
        times = list(self.stored(coin))
        return Kept(coin, new, times, gaps(times, HOUR, LONGEST), revised)

    def questions(self, coin: str) -> int:
        """How many questions `update` would ask now: each is answered with at most 500 rates."""
        return sum(math.ceil((end - start) / HOUR / PAGE) for start, end in self._missing(coin, self.clock()))

    def stored(self, coin: str) -> dict[datetime, FundingRate]:
        """Rates on disk by the hour at which they are due, oldest first."""
        return _read(self._file(coin))

    def rates(self, coins: Sequence[str]) -> pd.DataFrame:
        """Rates on disk: UTC index named "hour", one column per coin, NaN where none is known."""
        columns = {coin: {r.hour: float(r.rate) for r in self.stored(coin).values()} for coin in coins}
        hours = sorted(set().union(*columns.values()))
        rows = [[columns[coin].get(hour, math.nan) for coin in coins] for hour in hours]
        index = pd.DatetimeIndex(hours, name="hour", tz="UTC").as_unit("ns")
        return pd.DataFrame(rows, index=index, columns=list(coins), dtype="float64")

    def _file(self, coin: str) -> RowFile:
        return self._folder.file(coin, "funding", COLUMNS)

    def _missing(self, coin: str, now: datetime) -> list[tuple[datetime, datetime]]:
        """What to ask for: rates since the newest, in holes, and those that are older than the oldest."""
        known = list(self.stored(coin))
        wanted = max(began(now - self.history, DAY), BEGIN)  # a day is known from its first hour on
        if not known:
            return [(wanted, now)]
        spans = [(known[-1], now)] if known[-1] + HOUR <= now else []
        spans += [(gap.after, gap.before + HOUR) for gap in gaps(known, HOUR, LONGEST)]  # a stamp lags its hour
        if wanted < min(known[0], self._folder.asked_from(self._file(coin).path.stem)):
            spans.append((wanted, known[0] + HOUR))
        return spans

    def _keep(
        self, coin: str, found: Sequence[FundingRate], start: datetime, now: datetime
    ) -> tuple[int, list[datetime]]:
        file = self._file(coin)
        with self._folder.locked():
            known = _read(file)
            new = [rate for rate in found if rate.hour not in known]
            file.append(((r.hour.isoformat(), r.rate, r.premium, r.stamp) for r in new), now)
            self._folder.note_asked(file.path.stem, start)
        return len(new), [r.hour for r in found if r.hour in known and float(known[r.hour].rate) != float(r.rate)]


def bar_funding(rates: pd.DataFrame, prices: pd.DataFrame, bar: timedelta = DAY) -> pd.DataFrame:
    """What a long position pays over each bar of a price table: the sum of the rates due in (begin, end] of the bar.

    A row of prices is named after the moment at which its bar begins and holds the price at its end: the row of date D
    is the close of D+1 00:00, so its funding is the sum of the rates due after D 00:00 and up to D+1 00:00. That is
    what a position pays between the close of the row before and this one. A bar is NaN unless rates are known at or
    before its begin, at or after its end, and in between with no more than 8 hours from one to the next.
    """
    for name, frame in {"rates": rates, "prices": prices}.items():
        if not isinstance(frame.index, pd.DatetimeIndex) or str(frame.index.tz) != "UTC":
            raise DataError(f"the rows of {name} are not labelled by dates in UTC: use {name}.tz_localize('UTC')")
        if not frame.index.is_monotonic_increasing or frame.index.has_duplicates:
            raise DataError(f"the dates of {name} go back or repeat: sort them, keep one row per date")
    index = pd.DatetimeIndex(prices.index).as_unit("ns")
    begins = index.asi8
    width = pd.Timedelta(bar).value
    if (np.diff(begins) < width).any():
        raise DataError(f"the rows of prices follow each other faster than a bar of {bar}: give the bar's real length")
    known = rates.reindex(columns=prices.columns)
    paid = {coin: _paid(known[coin].dropna(), begins, begins + width) for coin in prices.columns}
    return pd.DataFrame(paid, index=prices.index, columns=prices.columns, dtype="float64")


def _paid(rates: pd.Series, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sum of one coin's rates over each bar; times in ns."""
    due = pd.DatetimeIndex(rates.index).as_unit("ns").asi8
    if not len(due):
        return np.full(len(begins), np.nan)
    bar = np.searchsorted(ends, due, side="left")  # the first bar that ends at or after the rate
    inside = (bar < len(ends)) & (due > begins[np.minimum(bar, len(ends) - 1)])
    total = np.bincount(bar[inside], weights=rates.to_numpy()[inside], minlength=len(ends))
    breaks = np.concatenate([[0], np.cumsum(np.diff(due) > pd.Timedelta(LONGEST).value)])
    before = np.searchsorted(due, begins, side="right") - 1  # the last rate at or before the bar's begin
    after = np.searchsorted(due, ends, side="left")  # the first at or after its end
    known = (before >= 0) & (after < len(due))
    known &= breaks[np.maximum(before, 0)] == breaks[np.minimum(after, len(due) - 1)]
    return np.where(known, total, np.nan)


def _read(file: RowFile) -> dict[datetime, FundingRate]:
    """Rates by hour, as each was first seen."""
    first_seen = dict[datetime, FundingRate]()
    for rate in file.read(_from_csv):
        first_seen.setdefault(rate.hour, rate)
    return dict(sorted(first_seen.items()))


def _from_csv(row: dict[str, str]) -> FundingRate:
    if not -1 < float(row["rate"]) < 1:
        raise ValueError(f"rate {row['rate']} at {row['hour']}")
    return FundingRate(datetime.fromisoformat(row["hour"]), row["rate"], row["premium"], int(row["stamp_ms"]))
