"""Hyperliquid as a feed: its closed daily candles, and marks in between, read without a key."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta

import httpx
import pandas as pd

from portfolio_research.config import ConfigError, DataError, VenueError
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.info import DAY, check_listed
from portfolio_research.market.protocol import Tick

DEFAULT_COINS = ("BTC", "ETH", "SOL", "XRP", "DOGE", "BNB", "AVAX", "LINK", "LTC", "ADA", "DOT", "ATOM")
_log = logging.getLogger(__name__)


class HyperliquidFeed:
    """Closed daily candles, then each new one as it closes, and marks in between.

    A venue that is away is waited for: `trouble` says what is missing meanwhile, and no price is made up for it.
    """

    def __init__(
        self,
        candles: HyperliquidCandles,
        coins: Sequence[str] = DEFAULT_COINS,
        *,
        start: datetime | None = None,  # first bar that is given; None: 180 bars before the newest
        poll_seconds: float = 30.0,  # how often marks are asked for
        lookback: int = 0,  # returns of every coin that must be known on the first bar
    ) -> None:
        self.candles = candles
        self.coins = list(coins) or list(DEFAULT_COINS)
        self.poll_seconds = poll_seconds
        self.lookback = lookback
        self.source = f"Hyperliquid public candles ({httpx.URL(candles.info.base_url).host})"
        self._start = start
        self._troubles: dict[str, str] = {}  # by what is asked for
        self._prices = candles.prices(self.coins)

    @property
    def assets(self) -> list[str]:
        """All coins."""
        return self.coins

    @property
    def trouble(self) -> str:
        """What the venue does not give at present; "" when all is well."""
        return "; ".join(dict.fromkeys(filter(None, self._troubles.values())))

    def history(self, n: int, until: datetime | None = None) -> pd.DataFrame:
        """The last `n` closed bars up to and including `until`; what is not on disk is known once `ticks` has begun."""
        known = self._prices
        end = len(known) if until is None else int(known.index.searchsorted(pd.Timestamp(until), side="right"))
        return known.iloc[max(0, end - n) : end]

    async def ticks(self, after: datetime | None = None) -> AsyncIterator[Tick]:
        """All closed bars later than `after`, then marks and bars as they come, for ever."""
        await self._refresh()
        while self._missing():  # nothing can be computed before every coin has candles
            await asyncio.sleep(self.poll_seconds)
            await self._refresh()
        last = after
        while True:
            for bar in self._bars(last):
                last = bar.ts
                yield bar
            if (mark := await self._mark()) is not None and (last is None or mark.ts > last):
                last = mark.ts
                yield mark
            await asyncio.sleep(self.poll_seconds)
            if self._is_due():
                await self._refresh()

    def _bars(self, after: datetime | None) -> list[Tick]:
        since = after + timedelta(microseconds=1) if after else self._first()
        wanted = self._prices[self._prices.index >= pd.Timestamp(max(since, self._start or since))]
        times = pd.DatetimeIndex(wanted.index).to_pydatetime()
        rows = zip(times, wanted.to_numpy().tolist(), strict=True)
        return [Tick(ts, _priced(zip(self.coins, row, strict=True))) for ts, row in rows]

    def _first(self) -> datetime:
        """The first bar: as asked for, or 180 bars before the newest, but with enough returns before it."""
        begins = {coin: pd.Timestamp(str(self._prices[coin].first_valid_index())) for coin in self.coins}
        youngest = max(begins, key=lambda coin: begins[coin])
        known = int((self._prices.index >= begins[youngest]).sum())
        if known < self.lookback + 1:
            raise DataError(
                f"{youngest} has {known} daily candles, a lookback of {self.lookback} returns needs "
                f"{self.lookback + 1}: take it out of portfolio.assets, or lower portfolio.rebalancing.lookback"
            )
        possible: datetime = self._prices.index[len(self._prices) - known + self.lookback].to_pydatetime()
        if self._start is not None and self._start < possible:
            raise ConfigError(
                f"data.start {self._start:%Y-%m-%d} is too early: {self.lookback} returns of {youngest} before it are "
                f"needed (portfolio.rebalancing.lookback), the first possible bar is {possible:%Y-%m-%d}"
            )
        newest: datetime = self._prices.index[max(0, len(self._prices) - 180)].to_pydatetime()
        return self._start or max(newest, possible)

    async def _mark(self) -> Tick | None:
        """The marks of now, on the time scale of bars (see Tick)."""
        try:
            mids = await self.candles.info.mids()
        except VenueError as error:
            self._note("marks", str(error))
            return None
        known = {coin: mids[coin] for coin in self.coins if coin in mids}
        mark = Tick(self.candles.clock() - DAY, known, is_bar=False)
        if not known or self._is_due():  # a mark ahead of a bar that is still to come would push that bar into the past
            return None
        self._note("marks", "")
        return mark

    def _is_due(self) -> bool:
        """Whether a day has closed that is not on disk."""
        return bool(self._prices.empty or self.candles.clock() >= self._prices.index[-1].to_pydatetime() + 2 * DAY)

    def _missing(self) -> list[str]:
        """Coins without a single candle."""
        return [coin for coin in self.coins if self._prices[coin].isna().all()]

    async def _refresh(self) -> None:
        """Ask for what is not on disk; note what could not be had."""
        trouble = ""
        try:
            for coin in self.coins:
                kept = await self.candles.update(coin)
                for date in kept.revised:
                    _log.warning("%s: the venue changed its candle of %s; the one first seen is kept", coin, date)
        except VenueError as error:
            trouble = str(error)
        known = self.candles.prices(self.coins)
        self._prices = known[known.index <= _common_end(known)]
        if missing := self._missing():
            await self._check_listed(missing)
            names = ", ".join(missing)
            trouble = trouble or f"there are no candles of {names}: wait, or take it out of portfolio.assets"
        elif self._is_due():
            day = self._prices.index[-1] + DAY
            late = [coin for coin in self.coins if pd.Timestamp(str(known[coin].last_valid_index())) < day]
            trouble = trouble or f"waiting for the candle of {day:%Y-%m-%d} of {', '.join(late)}"
        self._note("candles", trouble)

    async def _check_listed(self, coins: Sequence[str]) -> None:
        """A coin that the venue does not know never gets candles: to wait for them would be for ever."""
        try:
            listed = await self.candles.info.mids()
        except VenueError:
            return  # the venue is away, so nobody can tell
        check_listed(coins, listed, self.candles.info.base_url)

    def _note(self, what: str, trouble: str) -> None:
        """Remember a trouble, or that it is over; say so once, not at every question."""
        before = self._troubles.get(what, "")
        self._troubles[what] = trouble
        if trouble and not before:
            _log.warning("no new %s: %s", what, trouble)
        elif before and not trouble:
            _log.warning("%s are back", what)


def _common_end(prices: pd.DataFrame) -> pd.Timestamp:
    """The newest day that every coin with prices has: a day that only some have is not over for us."""
    ends = [pd.Timestamp(str(end)) for _, column in prices.items() if (end := column.last_valid_index()) is not None]
    return min(ends, default=pd.Timestamp.min.tz_localize("UTC"))


def _priced(closes: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {coin: price for coin, price in closes if not math.isnan(price)}
