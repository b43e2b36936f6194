"""What the tests of the engine share: small markets, short replays, and the ledger as plain rows."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select

from portfolio_research.config import Settings
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.store import Store, schema

LEDGER = ("order", "fill", "position", "rebalance", "equity", "target", "alert", "alert_event", "bar", "report")
WALL_CLOCK = ("recorded_at", "decided_at", "finished_at", "told_at")


def market(seed: int, *, assets: int = 6, bars: int = 150, volatility: float = 0.03) -> pd.DataFrame:
    """Prices of a random market with one common factor."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, volatility / 2, (bars, 1))
    returns = common + rng.normal(0.0005, volatility, (bars, assets)) * rng.uniform(0.3, 1.5, assets)
    index = pd.date_range("2020-01-01", periods=bars, freq="D", tz="UTC", name="date")
    start = 10.0 ** rng.uniform(-1, 4, assets)
    grown = start * np.cumprod(1 + returns.clip(-0.5, 0.5), axis=0)
    return pd.DataFrame(grown, index, [f"A{i}" for i in range(assets)])


OPTIONS = {"order_tolerance": 0.01, "trading_cost": 0.001, "max_weight": 0.2, "max_risk_share": 0.2}
OPTIONS |= {"merge_correlated": 0.4}  # so low that random markets have copies


def settings(optimizer: dict[str, Any] | None = None, **rebalancing: Any) -> Settings:
    """Defaults with a short lookback, as fast as possible, without dashboard."""
    portfolio = {"rebalancing": {"lookback": 60} | rebalancing, "optimizer": optimizer or {}}
    return Settings(portfolio=portfolio, engine={"speed": 0}, dashboard={"enabled": False})  # type: ignore[arg-type]


def run(
    wanted: Settings,
    prices: pd.DataFrame,
    store: Store,
    *,
    start: Any = None,
    live_from: Any = None,
    prepare: Callable[[HyperliquidTradingBot], None] = lambda bot: None,
    **options: Any,
) -> HyperliquidTradingBot:
    """Replay the prices to their end in this process."""
    first = start or prices.index[wanted.portfolio.rebalancing.lookback].to_pydatetime()
    feed = ReplayFeed(prices, start=first, live_from=live_from, speed=0)

    async def scenario() -> HyperliquidTradingBot:
        bot = HyperliquidTradingBot(wanted, feed=feed, store=store, **options)
        prepare(bot)
        await bot.start(until_end=True)
        return bot

    return asyncio.run(scenario())


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    """A table of the store without what the wall clock wrote, in a fixed order."""
    with Store.open(path, readonly=True) as store, store.read() as conn:
        found = [dict(row._mapping) for row in conn.execute(select(schema.metadata.tables[table]))]
    kept = [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in found]
    return sorted(kept, key=lambda row: tuple(str(value) for value in row.values()))
