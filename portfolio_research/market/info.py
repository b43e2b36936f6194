"""Questions to Hyperliquid that need no key: prices, candles, funding rates, and how much one may ask.

An answer is believed only if it has the shape that the venue documents: a web page with status 200 is not an empty
market.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from portfolio_research.config import ConfigError, VenueError

BASE_URL = "https://api.hyperliquid.xyz"
MINUTE_WEIGHT = 1200  # what one address may ask for in a minute
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
INTERVALS = {"1h": HOUR, "1d": DAY}
MAX_CANDLES = 5000  # older ones do not exist on the venue
PAGE = 500  # funding rates in one answer
LONGEST_WAIT = 300.0  # seconds; a venue that asks for more is tried another time
_SECONDS = 30.0  # the whole of one request, so that an answer that drips in cannot hold the feed
_PAUSES = (1.0, 4.0, 15.0)  # seconds before each further attempt

Clock = Callable[[], datetime]


def wall_clock() -> datetime:
    """The time it is, in UTC."""
    return datetime.now(UTC)


def began(moment: datetime, step: timedelta) -> datetime:
    """When the interval began in which a moment lies."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return moment - (moment - epoch) % step


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

    @property
    def numbers(self) -> tuple[float, ...]:
        """What it says, however it is written."""
        return (*map(float, (self.open, self.high, self.low, self.close, self.volume)), float(self.trades))

    @classmethod
    def parse(cls, row: Any, coin: str, interval: str = "1d") -> tuple[Self, datetime]:
        """A row of candleSnapshot, and the moment at which it closes."""
        step = INTERVALS[interval]
        try:
            begun, ends = _moment(row["t"]), _moment(row["T"])
            first, high, low, last, volume = (str(row[key]) for key in "ohlcv")
            good = row["s"] == coin and row["i"] == interval and begun == began(begun, step) < ends <= begun + step
            good = good and all(0 < float(price) < math.inf for price in (first, high, low, last))
            good = good and 0 <= float(volume) < math.inf
            candle = cls(begun, first, high, low, last, volume, int(row["n"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VenueError(f"{coin}: candle {row!r} cannot be read ({error!r}): this answer is not used") from error
        if not good:
            raise VenueError(f"{coin}: candle {row!r} is not {interval} of {coin} with prices: this answer is not used")
        return candle, ends


@dataclass(frozen=True, slots=True)
class FundingRate:
    """What a long position pays for one interval, as a share of its notional; a short one receives it."""

    hour: datetime  # when it is due: the venue's stamp lags by milliseconds, at times by minutes
    rate: str  # text of the venue; positive: longs pay
    premium: str  # "" where the venue says nothing of it
    stamp: int  # the venue's own, in ms

    @classmethod
    def parse(cls, row: Any, coin: str) -> Self:
        """A row of fundingHistory, of any year."""
        try:
            rate, stamp = str(row["fundingRate"]), int(row["time"])
            good = row["coin"] == coin and -1 < float(rate) < 1
            funding = cls(began(_moment(stamp), HOUR), rate, str(row.get("premium") or ""), stamp)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise VenueError(f"{coin}: funding {row!r} cannot be read ({error!r}): this answer is not used") from error
        if not good:
            raise VenueError(f"{coin}: funding {row!r} is no rate of {coin}: this answer is not used")
        return funding


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
        self.on_ask: Callable[[dict[str, Any]], object] = lambda question: None  # a progress bar hears of each question
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

    async def coins(self) -> list[str]:
        """Every perpetual that has ever been listed: what is delisted has candles still."""
        answer = await self.ask({"type": "meta"}, weight=20)
        try:
            names = [entry["name"] for entry in answer["universe"]]
        except (KeyError, TypeError) as error:
            raise self._refused(f"answered {_short(answer)} to meta, not the list of coins") from error
        if not names or not all(isinstance(name, str) for name in names):
            raise self._refused(f"answered {_short(answer)} to meta, not the list of coins")
        return names

    async def candles(
        self, coin: str, start: datetime, end: datetime, interval: str = "1d"
    ) -> list[tuple[Candle, datetime]]:
        """Candles of a coin between two moments, oldest first, each with the moment at which it closes."""
        count = min(MAX_CANDLES, (end - start) // INTERVALS[interval] + 2)
        request = {"coin": coin, "interval": interval, "startTime": _millis(start), "endTime": _millis(end)}
        answer = await self.ask({"type": "candleSnapshot", "req": request}, weight=20 + math.ceil(count / 60))
        if not isinstance(answer, list):
            raise self._refused(f"answered {_short(answer)} to candleSnapshot, not candles; does it list {coin}?")
        rows = [Candle.parse(row, coin, interval) for row in answer]
        _check_order(coin, "candles", [candle.date for candle, _ in rows])
        return rows

    async def funding(self, coin: str, start: datetime, end: datetime) -> list[FundingRate]:
        """Funding rates stamped between two moments, oldest first; the venue gives the 500 that come first."""
        request = {"coin": coin, "startTime": _millis(start), "endTime": _millis(end)}
        count = min(PAGE, (end - start) // HOUR + 2)
        answer = await self.ask({"type": "fundingHistory", **request}, weight=20 + math.ceil(count / 20))
        if not isinstance(answer, list):
            raise self._refused(f"answered {_short(answer)} to fundingHistory, not rates; does it list {coin}?")
        rates = [FundingRate.parse(row, coin) for row in answer]
        _check_order(coin, "funding rates", [rate.hour for rate in rates])
        return rates

    async def ask(self, question: dict[str, Any], weight: int) -> Any:
        """One question. Reading is safe to repeat: what may pass by itself is asked again, after a pause."""
        self.on_ask(question)
        for pause in (*self._pauses, None):
            await self.budget.spend(weight)
            try:
                async with asyncio.timeout(_SECONDS):
                    response = await self._post(question)
                return self._parsed(response)
            except _Passing as trouble:
                if pause is None:
                    raise self._refused(f"{trouble}, {len(self._pauses) + 1} times") from trouble
                if trouble.retry_after > LONGEST_WAIT:
                    raise self._refused(f"{trouble} and asks us to wait {trouble.retry_after:.0f} s") from trouble
                await asyncio.sleep(max(trouble.retry_after, pause))
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

    def __init__(self, what: str, retry_after: float = 0.0) -> None:
        super().__init__(what)
        self.retry_after = retry_after


def check_listed(coins: Iterable[str], listed: Iterable[str], venue: str, where: str = "portfolio.assets") -> None:
    """Refuse a coin that the venue does not know, with the name that is nearest to it."""
    known = sorted(listed)
    if unknown := next((coin for coin in coins if coin not in known), None):
        names = {name.upper(): name for name in known}
        near = difflib.get_close_matches(unknown.upper(), names, n=1)
        hint = f"did you mean {names[near[0]]}?" if near else f"there is {', '.join(known[:12])}"
        raise ConfigError(f"{where}: {venue} lists no {unknown}; {hint}")


def _address(url: str) -> str:
    """The address without a slash at its end, if it is one."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"data.base_url {url!r} is no address ({error}): write it as {BASE_URL}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"data.base_url {url!r} is no address: write it as {BASE_URL}")
    return url.rstrip("/")


def _check_order(coin: str, what: str, times: list[datetime]) -> None:
    if times != sorted(set(times)):
        raise VenueError(f"{coin}: {what} came twice or out of order: this answer is not used, try again later")


def _moment(millis: Any) -> datetime:
    return datetime.fromtimestamp(int(millis) / 1000, UTC)


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the venue asks us to wait, given as a number or as a date; 0 when it says nothing."""
    given = response.headers.get("Retry-After", "")
    if given.isdigit():
        return float(given)
    try:
        return max(0.0, (parsedate_to_datetime(given) - wall_clock()).total_seconds())
    except (TypeError, ValueError):  # no date, or one without a time zone
        return 0.0


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
