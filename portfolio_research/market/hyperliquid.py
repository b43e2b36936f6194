"""Hyperliquid's public prices: daily candles and marks, read without a key, kept on disk for good.

The venue keeps only the newest 5,000 candles and counts what one asks for (1,200 a minute), so every closed candle is
stored once and never fetched again. An answer is believed only if it has the shape that the venue documents: a web page
with status 200 is not an empty market.
"""
from __future__ import annotations

import asyncio
import csv
import difflib
import io
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import pandas as pd

from portfolio_research.config import ConfigError, DataError, StoreError, VenueError
from portfolio_research.market.protocol import Tick

BASE_URL = "https://api.hyperliquid.xyz"
DEFAULT_COINS = ("BTC", "ETH", "SOL", "XRP", "DOGE", "BNB", "AVAX", "LINK", "LTC", "ADA", "DOT", "ATOM")
MINUTE_WEIGHT = 1200  # what one address may ask for in a minute
DAY = timedelta(days=1)
INTERVALS = {"1h": timedelta(hours=1), "1d": DAY}
MAX_CANDLES = 5000  # older ones do not exist on the venue
COLUMNS = ("date", "open", "high", "low", "close", "volume", "trades", "source", "fetched_at")
_SECONDS = 30.0  # the whole of one request, so that an answer that drips in cannot hold the feed
_PAUSES = (1.0, 4.0, 15.0)  # seconds before each further attempt
_log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def wall_clock() -> datetime:
    """The time it is, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Candle:
    """Prices of one interval. Numbers stay the text that the venue sent, so that the file repeats it exactly."""

    date: datetime  # when it began; a day begins at 00:00 UTC
    open: str
    high: str
    low: str
    close: str
    volume: str
    trades: int

    @classmethod
    def parse(cls, row: Any, coin: str, interval: str = "1d") -> tuple[Self, datetime]:
        """A row of candleSnapshot, and the moment at which it closes."""
        try:
            begun, ends = _moment(row["t"]), _moment(row["T"])
            first, high, low, last, volume = (str(row[key]) for key in "ohlcv")
            good = row["s"] == coin and row["i"] == interval and begun < ends
            good = good and all(0 < float(price) < math.inf for price in (first, high, low, last))
            good = good and 0 <= float(volume) < math.inf
            candle = cls(begun, first, high, low, last, volume, int(row["n"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VenueError(f"{coin}: candle {row!r} cannot be read ({error!r}): this answer is not used") from error
        if not good:
            raise VenueError(f"{coin}: candle {row!r} is not {interval} of {coin} with prices: this answer is not used")
        return candle, ends


class Budget:
    """Keeps requests within what the venue allows in any minute, by waiting."""

    def __init__(self, limit: int = MINUTE_WEIGHT, seconds: float = 60.0) -> None:
        self.limit = limit
        self.seconds = seconds
        self._spent: deque[tuple[float, int]] = deque()

    async def spend(self, weight: int) -> None:
        """Wait until `weight` more is allowed, and note it."""
        while (wait := self._wait(weight, time.monotonic())) > 0:
            await asyncio.sleep(wait)
        self._spent.append((time.monotonic(), weight))

    def _wait(self, weight: int, now: float) -> float:
        while self._spent and self._spent[0][0] <= now - self.seconds:
            self._spent.popleft()
        spent = sum(spent for _, spent in self._spent)
        return self._spent[0][0] + self.seconds - now if self._spent and spent + weight > self.limit else 0.0


class HyperliquidInfo:
    """The venue's public questions and answers: POST /info, strict about what comes back."""

    def __init__(
        self, base_url: str = BASE_URL, client: httpx.AsyncClient | None = None, *, pauses: Sequence[float] = _PAUSES
    ) -> None:
        self.base_url = _address(base_url)
        self.budget = Budget()
        self._client = client
        self._pauses = pauses

    async def mids(self) -> dict[str, float]:
        """Mid price of every perpetual."""
        answer = await self.ask({"type": "allMids"}, weight=2)
        if not isinstance(answer, dict) or not answer or not all(isinstance(mid, str) for mid in answer.values()):
            raise self._refused(f"answered {_short(answer)} to allMids, not prices by coin")
        try:
            mids = {coin: float(price) for coin, price in answer.items()}
        except ValueError as error:
            raise self._refused(f"answered a price that is no number ({error})") from error
        return {coin: price for coin, price in mids.items() if 0 < price < math.inf and not coin.startswith("@")}

    async def candles(
        self, coin: str, start: datetime, end: datetime, interval: str = "1d"
    ) -> list[tuple[Candle, datetime]]:
        """Candles of a coin between two moments, each with the moment at which it closes."""
        count = min(MAX_CANDLES, (end - start) // INTERVALS[interval] + 2)
        request = {"coin": coin, "interval": interval, "startTime": _millis(start), "endTime": _millis(end)}
        answer = await self.ask({"type": "candleSnapshot", "req": request}, weight=20 + math.ceil(count / 60))
        if not isinstance(answer, list):
            raise self._refused(f"answered {_short(answer)} to candleSnapshot, not candles; does it list {coin}?")
        return [Candle.parse(row, coin, interval) for row in answer]

    async def ask(self, question: dict[str, Any], weight: int) -> Any:
        """One question. Reading is safe to repeat: what may pass by itself is asked again, after a pause."""
        for pause in (*self._pauses, None):
            await self.budget.spend(weight)
            try:
                async with asyncio.timeout(_SECONDS):
                    response = await self._post(question)
                return self._parsed(response)
            except _Passing as trouble:
                if pause is None:
                    raise self._refused(f"{trouble}, {len(self._pauses) + 1} times") from trouble
                await asyncio.sleep(trouble.retry_after or pause)
            except TimeoutError as error:
                raise self._refused(f"did not finish its answer within {_SECONDS:g} s") from error
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, question: dict[str, Any]) -> httpx.Response:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=httpx.Timeout(10.0, connect=5.0))
        try:
            return await self._client.post(f"{self.base_url}/info", json=question)
        except httpx.RequestError as error:
            raise _Passing(f"could not be reached ({type(error).__name__} {error})".replace(" )", ")")) from error

    def _parsed(self, response: httpx.Response) -> Any:
        if response.status_code == 429 or response.status_code >= 500:
            raise _Passing(f"answered status {response.status_code}", _retry_after(response))
        if response.status_code != 200:
            raise self._refused(f"answered status {response.status_code}: {_short(response.text)}")
        try:
            return json.loads(response.content, parse_constant=_no_constant)
        except ValueError as error:
            raise self._refused(f"answered status 200, but not JSON: {_short(response.text)}") from error

    def _refused(self, what: str) -> VenueError:
        return VenueError(f"{self.base_url} {what}: try again later, or check data.base_url and portfolio.assets")


class _Passing(VenueError):
    """Trouble that may pass by itself."""

    def __init__(self, what: str, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class HyperliquidCandles:
    """Closed daily candles, one CSV file per coin that only ever grows."""

    def __init__(
        self,
        base_url: str = BASE_URL,
        cache_dir: Path | str = "candles",
        client: httpx.AsyncClient | None = None,
        *,
        info: HyperliquidInfo | None = None,
        clock: Clock = wall_clock,
        history_days: int = 1100,  # how far back the first fetch of a coin goes; twelve coins cost 470 of 1,200
    ) -> None:
        self.history_days = min(history_days, MAX_CANDLES)
        self.info = info or HyperliquidInfo(base_url, client)
        self.cache_dir = Path(cache_dir)
        self.clock = clock

    async def update(self, coin: str) -> int:
        """Fetch what has closed since the newest stored candle; return how many were added."""
        now = self.clock()
        known = self.stored(coin)
        start = known[-1].date + DAY if known else _midnight(now) - self.history_days * DAY
        if start + DAY > now:
            return 0  # the day after the newest stored one has not closed
        rows = await self.info.candles(coin, start, now)
        new = [candle for candle, ends in rows if candle.date >= start and ends < now]
        if [candle.date for candle in new] != sorted({candle.date for candle in new}):
            raise VenueError(f"{coin}: candles came twice or out of order: this answer is not used, try again later")
        if new:
            self._append(coin, new, now)
        return len(new)

    def stored(self, coin: str) -> list[Candle]:
        """Candles on disk, oldest first."""
        path = self.path(coin)
        if not path.exists():
            return []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [_from_csv(row) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error!r}): move it away, it is fetched anew") from error

    def prices(self, coins: Sequence[str]) -> pd.DataFrame:
        """Closes on disk: UTC index named "date", one column per coin, NaN before a listing. Nothing is filled."""
        closes = {coin: {c.date: float(c.close) for c in self.stored(coin)} for coin in coins}
        dates = sorted(set().union(*closes.values()))
        rows = [[closes[coin].get(date, math.nan) for coin in coins] for date in dates]
        index = pd.DatetimeIndex(dates, name="date", tz="UTC").as_unit("ns")
        return pd.DataFrame(rows, index=index, columns=list(coins), dtype="float64")

    def path(self, coin: str) -> Path:
        """The coin's file."""
        if not coin or not all(letter.isalnum() or letter in "-_" for letter in coin):
            raise VenueError(f"{coin!r} is no name of a coin: letters and digits, as BTC or kPEPE")
        return self.cache_dir / f"{coin}_1d.csv"

    def _append(self, coin: str, new: Sequence[Candle], now: datetime) -> None:
        """Put a file that begins with the old one in its place, in one step: a crash leaves the one or the other."""
        path = self.path(coin)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if not path.exists():
            writer.writerow(COLUMNS)
        fetched = now.isoformat(timespec="seconds")
        for c in new:
            prices = (c.open, c.high, c.low, c.close, c.volume, c.trades)
            writer.writerow((c.date.date().isoformat(), *prices, self.info.base_url, fetched))
        try:
            _replace(path, text.getvalue().encode())
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}: free space, or make the folder writable") from error


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
                await self.candles.update(coin)
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
        if unknown := [coin for coin in coins if coin not in listed]:
            near = difflib.get_close_matches(unknown[0].upper(), listed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(listed)[:12])}"
            raise ConfigError(f"portfolio.assets: {self.candles.info.base_url} lists no {unknown[0]}; {hint}")

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


def _address(url: str) -> str:
    """The address without a slash at its end, if it is one."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"data.base_url {url!r} is no address ({error}): write it as {BASE_URL}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"data.base_url {url!r} is no address: write it as {BASE_URL}")
    return url.rstrip("/")


def _priced(closes: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {coin: price for coin, price in closes if not math.isnan(price)}


def _replace(path: Path, addition: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(path.read_bytes() if path.exists() else b"")
            file.write(addition)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _from_csv(row: dict[str, str]) -> Candle:
    date = datetime.fromisoformat(row["date"]).replace(tzinfo=UTC)
    if not 0 < float(row["close"]) < math.inf:
        raise ValueError(f"close {row['close']} on {row['date']}")
    prices = (row["open"], row["high"], row["low"], row["close"], row["volume"])
    return Candle(date, *prices, int(row["trades"]))


def _moment(millis: Any) -> datetime:
    return datetime.fromtimestamp(int(millis) / 1000, UTC)


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the venue asks us to wait, at most a minute."""
    given = response.headers.get("Retry-After", "")
    return min(60.0, float(given)) if given.isdigit() else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
