"""Candles of Hyperliquid, kept on disk for good: the venue serves only the newest 5,000 of each coin and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import pandas as pd

from portfolio_research.config import ConfigError
from portfolio_research.market.cache import Gap, Kept, RowFile, VenueFolder
from portfolio_research.market.info import (
    BASE_URL,
    DAY,
    INTERVALS,
    MAX_CANDLES,
    Candle,
    Clock,
    HyperliquidInfo,
    began,
    wall_clock,
)

COLUMNS = ("date", "open", "high", "low", "close", "volume", "trades")
Span = tuple[datetime, datetime]


class HyperliquidCandles:
    """Closed candles of one interval, a CSV file per coin. Whatever the venue does, a row that is kept stays."""

    def __init__(
        self,
        base_url: str = BASE_URL,
        cache_dir: Path | str = "candles",
        client: httpx.AsyncClient | None = None,
        *,
        info: HyperliquidInfo | None = None,
        clock: Clock = wall_clock,
        history_days: float = 1100,  # how far back the first fetch of a coin goes; twelve coins cost 470 of 1,200
        interval: str = "1d",
    ) -> None:
        if interval not in INTERVALS:
            raise ConfigError(f"interval {interval!r} is not kept: give one of {', '.join(INTERVALS)}")
        self.interval = interval
        self.step = INTERVALS[interval]
        self.history = timedelta(days=history_days)
        self.info = info or HyperliquidInfo(base_url, client)
        self.cache_dir = Path(cache_dir)
        self.clock = clock
        self._folder = VenueFolder(cache_dir, self.info.base_url)
        self._retried: set[tuple[str, datetime]] = set()  # holes that the venue was asked to fill, once is enough

    async def update(self, coin: str) -> Kept:
        """Ask for the closed candles that are not on disk, and keep them."""
        now, new, revised = self.clock(), 0, list[datetime]()
        for start, end in self._missing(coin, now):
            self._retried.add((coin, start))
            rows = await self.info.candles(coin, start, end, self.interval)
            added, changed = self._keep(coin, self._closed(rows, now), start, now)
            new, revised = new + added, revised + changed
        return self.kept(coin, new, revised)

    def kept(self, coin: str, new: int = 0, revised: Sequence[datetime] = ()) -> Kept:
        """What is on disk, and where it has holes."""
        times = [candle.date for candle in self.stored(coin)]
        return Kept(coin, new, times, gaps(times, self.step), revised)

    def questions(self, coin: str) -> int:
        """How many questions `update` would ask now."""
        return len(self._missing(coin, self.clock()))

    def stored(self, coin: str) -> list[Candle]:
        """Candles on disk, oldest first."""
        return list(_read(self._file(coin)).values())

    def prices(self, coins: Sequence[str]) -> pd.DataFrame:
        """Closes on disk: UTC index named "date", one column per coin, NaN before a listing. Nothing is filled."""
        closes = {coin: {c.date: float(c.close) for c in self.stored(coin)} for coin in coins}
        dates = sorted(set().union(*closes.values()))
        rows = [[closes[coin].get(date, math.nan) for coin in coins] for date in dates]
        index = pd.DatetimeIndex(dates, name="date", tz="UTC").as_unit("ns")
        return pd.DataFrame(rows, index=index, columns=list(coins), dtype="float64")

    def path(self, coin: str) -> Path:
        """The coin's file."""
        return self._file(coin).path

    def served_from(self, now: datetime) -> datetime:
        """The oldest candle that the venue still serves."""
        return began(now, self.step) - (MAX_CANDLES - 1) * self.step

    def _file(self, coin: str) -> RowFile:
        return self._folder.file(coin, self.interval, COLUMNS)

    def _missing(self, coin: str, now: datetime) -> list[Span]:
        """What to ask for: what closed since the newest candle, holes, and what is older than the oldest.

        A question begins with a candle that is kept, where there is one: so it is noticed if the venue rewrites it.
        """
        served, known = self.served_from(now), [candle.date for candle in self.stored(coin)]
        wanted = max(began(now - self.history, self.step), served)
        if not known:
            return [(wanted, now)]
        spans = []
        if known[-1] + 2 * self.step <= now:
            spans.append((max(known[-1], served), now))
        for gap in gaps(known, self.step):
            since = max(gap.after, served)
            if gap.before > served and (coin, since) not in self._retried:
                spans.append((since, gap.before))
        if wanted < min(known[0], self._folder.asked_from(self.path(coin).stem)):
            spans.append((wanted, known[0]))
        return spans

    def _closed(self, rows: Sequence[tuple[Candle, datetime]], now: datetime) -> list[Candle]:
        """Candles that are over: by our clock and, in case it is fast, because the venue has begun the next one.

        The last candle of a coin that is traded no more has no next one; it is over when a whole interval has passed.
        """
        return [
            candle
            for n, (candle, ends) in enumerate(rows)
            if ends < now and (n + 1 < len(rows) or ends < now - self.step)
        ]

    def _keep(self, coin: str, found: Sequence[Candle], start: datetime, now: datetime) -> tuple[int, list[datetime]]:
        """Append what is not on disk yet; return how many, and of which kept candles the venue now says otherwise."""
        file = self._file(coin)
        with self._folder.locked():  # another process may have fetched the same in the meantime
            known = _read(file)
            new = [candle for candle in found if candle.date >= start and candle.date not in known]
            file.append(map(self._to_csv, new), now)
            if found:  # an empty answer proves nothing
                self._folder.note_asked(file.path.stem, start)
        return len(new), [c.date for c in found if c.date in known and known[c.date].numbers != c.numbers]

    def _to_csv(self, c: Candle) -> tuple[object, ...]:
        date = c.date.date().isoformat() if self.step == DAY else c.date.isoformat()
        return date, c.open, c.high, c.low, c.close, c.volume, c.trades


def gaps(times: Sequence[datetime], step: timedelta, longest: timedelta | None = None) -> list[Gap]:
    """Where rows that should follow each other by `step` are further apart than `longest` (None: than the step)."""
    return [
        Gap(earlier, later, (later - earlier) // step - 1)
        for earlier, later in pairwise(times)
        if later - earlier > (longest or step)
    ]


def _read(file: RowFile) -> dict[datetime, Candle]:
    """Candles by date, as each was first seen."""
    first_seen = dict[datetime, Candle]()
    for candle in file.read(_from_csv):
        first_seen.setdefault(candle.date, candle)
    return dict(sorted(first_seen.items()))


def _from_csv(row: dict[str, str]) -> Candle:
    date = datetime.fromisoformat(row["date"])
    prices = (row["open"], row["high"], row["low"], row["close"], row["volume"])
    candle = Candle(date.replace(tzinfo=date.tzinfo or UTC), *prices, int(row["trades"]))
    if not 0 < float(row["close"]) < math.inf or not all(map(math.isfinite, candle.numbers)):
        raise ValueError(f"close {row['close']} on {row['date']}")
    return candle
