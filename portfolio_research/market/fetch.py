"""Many coins at once: what is missing of each is asked for, and a coin that fails does not hold up the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from portfolio_research.config import StoreError, VenueError
from portfolio_research.market.cache import Kept
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.funding import HyperliquidFunding
from portfolio_research.market.info import check_listed


@dataclass(frozen=True, slots=True)
class CoinFetch:
    """What is on disk of one coin after the fetch, whether it succeeded or not."""

    coin: str
    candles: Kept
    funding: Kept | None  # None: not asked for
    trouble: str  # why it failed; "" when it did not


async def fetch(
    coins: Sequence[str],
    candles: HyperliquidCandles,
    funding: HyperliquidFunding | None = None,
    *,
    where: str = "portfolio.assets",  # where the coins were named, for the message about an unknown one
) -> list[CoinFetch]:
    """Bring the files of all coins up to date; raise ConfigError for a name that the venue does not know."""
    away = ""
    try:
        check_listed(coins, await candles.info.coins(), candles.info.base_url, where)
    except VenueError as error:
        away = str(error)  # who cannot list its coins has no candles for us either
    fetched = []
    for coin in coins:
        prices, trouble = await _attempt(candles, coin, away)
        rates, also = await _attempt(funding, coin, away) if funding else (None, "")
        fetched.append(CoinFetch(coin, prices, rates, "; ".join(dict.fromkeys(filter(None, (trouble, also))))))
    return fetched


async def _attempt(files: HyperliquidCandles | HyperliquidFunding, coin: str, away: str) -> tuple[Kept, str]:
    """What is kept after an update, and why it failed: then it is what came before the failure."""
    try:
        before = files.kept(coin)
        try:
            return (before, away) if away else (await files.update(coin), "")
        except VenueError as error:
            now = files.kept(coin)
            return Kept(coin, len(now.times) - len(before.times), now.times, now.gaps), str(error)
    except StoreError as error:
        return Kept(coin, 0, (), ()), str(error)


def fetch_table(fetched: Sequence[CoinFetch], title: str) -> Table:
    """A line for each file: what is on disk, what of it is new, and how much is missing in between."""
    table = Table(title=title)
    for name in ("coin", "kept", "first", "last"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "new", "missing"):
        table.add_column(name, justify="right")
    for each in fetched:
        coin = escape(each.coin) + (" [red]failed[/]" if each.trouble else "")
        for kind, kept in (("candles", each.candles), ("funding", each.funding)):
            if kept is None:
                continue
            span = (_time(kept.times[0]), _time(kept.times[-1])) if kept.times else ("–", "–")
            missing = sum(gap.missing for gap in kept.gaps)
            table.add_row(coin, kind, *span, f"{len(kept.times):,}", f"{kept.new:,}", f"{missing:,}")
            coin = ""
    return table


def _time(moment: datetime) -> str:
    """A date; the time of day only where there is one."""
    return f"{moment:%Y-%m-%d}" if not (moment.hour or moment.minute) else f"{moment:%Y-%m-%d %H:%M}"


def fetch_notes(fetched: Sequence[CoinFetch], candles: HyperliquidCandles, days: int) -> Iterator[str]:
    """What the table has no room for: where holes are, what was revised, what ends early, and where it all lies."""
    now = candles.clock()
    served, closed = candles.served_from(now), now - candles.step
    if (now - served).days < days:
        yield f"The venue serves {candles.interval} candles from {_time(served)} on; older ones are those kept before."
    for each in fetched:
        for kind, kept in (("candles", each.candles), ("funding rates", each.funding)):
            for gap in kept.gaps if kept else ():
                span = f"{gap.missing:,} {kind} between {_time(gap.after)} and {_time(gap.before)}"
                why = "serves them no more" if kind == "candles" and gap.before <= served else "does not give them"
                yield f"{each.coin}: {span} are missing: the venue {why}; nothing was put in their place."
            for moment in kept.revised if kept else ():
                yield f"{each.coin}: the venue changed its {kind} of {_time(moment)}; what was first seen is kept."
        if not each.trouble and each.candles.times and each.candles.times[-1] + candles.step < closed:
            last = _time(each.candles.times[-1])
            yield f"{each.coin}: the venue has no candle after {last}: it is late, or {each.coin} is traded no more."
        if not each.trouble and not each.candles.times:
            yield f"{each.coin}: the venue has no candle of it yet."
    yield f"Kept in {candles.path(fetched[0].coin).parent}"
