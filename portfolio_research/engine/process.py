"""The engine as a process: one per portfolio, stopped by signals, honest in its exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from tqdm import tqdm  # type: ignore[import-untyped]

from portfolio_research.config import Settings, StoreError, portfolio_home
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.engine.lock import EngineRunning, engine_lock
from portfolio_research.engine.supervisor import Halted
from portfolio_research.market.protocol import Tick

DONE, TAKEN, HALTED = 0, 3, 4  # exit codes: clean stop, another engine runs this portfolio, it could not go on

log = logging.getLogger(__name__)


def run_engine(settings: Settings, *, until_end: bool = False) -> int:
    """Run the portfolio's engine until SIGTERM, SIGINT or, with `until_end`, the end of a replay; return the exit code.

    Settings and data that cannot be used raise ConfigError or DataError before anything has begun.
    """
    try:
        with engine_lock(portfolio_home(settings) / "engine.lock"):
            return asyncio.run(_run(settings, until_end))
    except EngineRunning as running:
        return _say(str(running), TAKEN)
    except StoreError as error:
        return _say(f"the engine of portfolio {settings.portfolio.name} halted: {error}", HALTED)


async def _run(settings: Settings, until_end: bool) -> int:
    bot = HyperliquidTradingBot(settings)
    stop_on_signals(bot)
    try:
        with _Progress(bot):
            await bot.start(until_end=until_end)
    except Halted as halted:
        return _say(f"the engine of portfolio {settings.portfolio.name} halted: {halted}", HALTED)
    finally:
        bot.store.close()
    return DONE


def stop_on_signals(bot: HyperliquidTradingBot) -> None:
    """The first SIGTERM or SIGINT ends the bot cleanly; a second one ends the process, which loses nothing either."""
    loop = asyncio.get_running_loop()
    stops = set[asyncio.Task[None]]()  # a task that nobody holds may be collected before it has run

    def stop(number: signal.Signals) -> None:
        log.info("%s: stopping after the bar under way", number.name)
        stops.add(asyncio.create_task(bot.stop()))
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


class _Progress:
    """A bar on the terminal while the past is computed."""

    def __init__(self, bot: HyperliquidTradingBot) -> None:
        self.bot = bot
        total = bot.bars_to_compute()
        self.shown = (
            tqdm(total=total, desc="Computing the past", unit=" bars", leave=False, disable=None) if total else None
        )

    def __enter__(self) -> None:
        self.bot.on_tick = self.advance

    def advance(self, tick: Tick) -> None:
        """One bar further; gone when the present begins."""
        if self.shown is None:
            return
        self.shown.update()
        if self.bot.told_from is not None and tick.ts >= self.bot.told_from:
            self.__exit__()

    def __exit__(self, *exc: object) -> None:
        if self.shown is not None:
            self.shown.close()
            self.shown = None


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code
