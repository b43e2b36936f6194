"""From settings to the parts of an engine: which prices, which store, who hears of alerts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection

from portfolio_research.alert_people import lifecycle_from
from portfolio_research.alerts import Evaluation, Notice, Rule, custom_rules, default_rules, system_rules
from portfolio_research.analytics import PortfolioAnalytics
from portfolio_research.channels import configured_channels, configured_handlers
from portfolio_research.config import (
    ConfigError,
    DataError,
    DataSettings,
    MonitoringSettings,
    RuleSettings,
    Settings,
    portfolio_home,
    store_url,
)
from portfolio_research.costs import costs_from
from portfolio_research.data import check_prices, load_episodes, read_prices, sample_prices
from portfolio_research.faults import quality_from
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.market.hyperliquid import HyperliquidFeed
from portfolio_research.market.protocol import Feed
from portfolio_research.monitor import PortfolioMonitor
from portfolio_research.positions import Positions
from portfolio_research.quality import QualityReport, inspect_prices
from portfolio_research.rebalancing import policy_from
from portfolio_research.simulation import SIMULATED, simulate_prices
from portfolio_research.store import Store, ledger
from portfolio_research.store.outbox import StoreSink
from portfolio_research.vigil import configured_vigil

SAMPLE_START, SAMPLE_LIVE_FROM = "2019-08-01", "2020-02-03"  # six computed months, then the crash of March 2020
DEFAULT_BARS = 180  # computed past of another source: before its end, or at the beginning of a simulated market
HALTED = "engine-halted"  # the rule that tells of it


class EngineAnalytics(PortfolioAnalytics):
    """The analytics, what only the engine knows, and what rules of one's own may want to look at."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.halted = 0.0  # 1.0 once a loop had to be given up
        self.machine: dict[str, float] = {}  # how the machine is, see `Watch`

    def monitor_values(self, positions: Any, portfolio_returns: Any, asset_returns: Any) -> dict[str, Any]:
        """The watched numbers. If they cannot be computed, the machine is still watched, and `problem` says why."""
        known: dict[str, Any] = {"engine_halted": self.halted, **self.machine}
        try:
            known |= super().monitor_values(positions, portfolio_returns, asset_returns)
        except Exception as error:  # whatever is wrong with the numbers must not hide that the engine halted
            known["problem"] = f"{type(error).__name__}: {error}"
        return known | {"positions": positions, "portfolio_returns": portfolio_returns, "asset_returns": asset_returns}


class EngineSink(StoreSink):
    """Records everything; queues messages only for what happens now: nobody wants mail about last autumn.

    What is made from simulated prices says so, in its title and in each line: a log has no title.
    """

    def __init__(self, store: Store, portfolio: str, tells: Callable[[], bool], *, simulated: bool = False) -> None:
        super().__init__(store, portfolio)
        self._tells = tells
        self._simulated = simulated

    def commit(
        self,
        evaluation: Evaluation,
        *,
        handlers: Sequence[str],
        now: datetime,
        extra: Callable[[Connection], None] | None = None,
    ) -> Evaluation:
        """Write one tick."""
        return super().commit(evaluation, handlers=handlers if self._tells() else (), now=now, extra=extra)

    def post(self, notice: Notice, handlers: Sequence[str], now: datetime) -> int:
        """Queue a message that is not of a tick."""
        return super().post(notice, handlers, now) if self._tells() else 0

    def _queue(self, conn: Connection, notice: Notice, handlers: Sequence[str], now: datetime) -> int:
        if self._simulated:
            title, lines = f"{SIMULATED} {notice.title}", tuple(f"{SIMULATED} {line}" for line in notice.lines)
            notice = replace(notice, title=title, lines=lines)
        return super()._queue(conn, notice, handlers, now)


def make_feed(settings: Settings) -> Feed:
    """The feed that `settings.data` asks for."""
    data = settings.data
    if data.source == "hyperliquid":
        return _hyperliquid(settings)
    notes = list[str]()
    if data.source == "csv":
        prices, notes = _from_file(settings)
    else:
        prices = check_prices(_chosen(recorded_prices(data), settings.portfolio.assets))
    start, live_from = _span(settings, prices)
    named = {
        "sample": "20 US large caps, daily closes (bundled sample)",
        "simulated": f"{SIMULATED} market, seed {data.seed}",
        "csv": Path(str(data.path)).name,
    }[data.source]
    speed = settings.engine.speed
    return ReplayFeed(prices, start=start, live_from=live_from, speed=speed, source=named, notes=notes)


def recorded_prices(data: DataSettings) -> pd.DataFrame:
    """The prices that need no file and no venue."""
    return simulate_prices(data.days, seed=data.seed) if data.source == "simulated" else sample_prices()


def told_from(feed: Feed) -> datetime | None:
    """Market time from which people are told; before it, the past is only computed. None: from the first bar."""
    if isinstance(feed, HyperliquidFeed):
        return feed.candles.clock() - timedelta(days=2)  # its newest closed bar began one or two days ago
    return feed.live_from if isinstance(feed, ReplayFeed) else None


def open_store(settings: Settings, feed: Feed) -> Store:
    """The store. Each commit waits for the disk, unless a replay of the same prices would give the same again."""
    return Store.open(store_url(settings), durable=not isinstance(feed, ReplayFeed))


def enter_ledger(conn: Connection, settings: Settings, source: str) -> None:
    """Begin the portfolio, or take it up again."""
    wanted = settings.portfolio
    text = json.dumps(settings.model_dump(mode="json"))
    ledger.ensure_portfolio(
        conn,
        wanted.name,
        Decimal(repr(wanted.capital)),
        wanted.quote,
        settings.engine.mode,
        source,
        text,
        datetime.now(UTC),
    )


def check_holdings(portfolio: str, held: Iterable[str], feed: Feed) -> None:
    """Refuse prices that lack what the portfolio holds: it could be neither valued nor sold."""
    priced = getattr(feed, "assets", None)  # not every feed can say
    if priced is not None and (lacking := sorted(set(held) - set(priced))):
        raise ConfigError(
            f"portfolio {portfolio} holds {', '.join(lacking)}, and {feed.source} has no prices of that: give the "
            "prices it was started with, choose another --portfolio, or begin again with `run --fresh`"
        )


def make_analytics(settings: Settings) -> EngineAnalytics:
    """The analytics as configured."""
    wanted = settings.portfolio.analytics
    return EngineAnalytics(
        risk_free_rate=wanted.risk_free_rate,
        periods_per_year=settings.periods_per_year,
        performance_window=wanted.performance_window,
        policy=policy_from(settings),
        costs=costs_from(settings),
        episodes=load_episodes(),
    )


def make_rules(wanted: MonitoringSettings) -> tuple[Rule, ...]:
    """The table, the machine's rules, and one's own."""
    limits = wanted.alerts
    _check_metrics(wanted.rules)
    functions = {rule.function: _function(rule) for rule in wanted.rules if rule.function}
    return (*default_rules(limits), *system_rules(limits), *custom_rules(wanted.rules, functions, limits))


def _check_metrics(rules: Sequence[RuleSettings]) -> None:
    """Refuse a rule on a number that the monitor does not have: it could never be judged."""
    empty = pd.Series(dtype=float), pd.DataFrame(dtype=float)
    known = list(PortfolioAnalytics().monitor_values(Positions(), *empty)) if rules else []
    for rule in rules:
        for metric in filter(None, (rule.metric, rule.relative_to)):
            if metric not in known:
                near = get_close_matches(metric, known, n=1) or [", ".join(known)]
                raise ConfigError(
                    f"portfolio.monitoring.rules: {rule.id} is about {metric}, which the monitor does not know; "
                    f"there is {near[0]}"
                )


def _function(rule: RuleSettings) -> Callable[[Mapping[str, Any]], float]:
    """The function that a rule names."""
    module, _, name = rule.function.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"portfolio.monitoring.rules: {rule.id} wants {rule.function}, and {error}: correct the name, or put the "
            "folder of the module on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"portfolio.monitoring.rules: {rule.id} wants {rule.function}, which is no function")
    return found  # type: ignore[no-any-return]


def make_monitor(settings: Settings, store: Store, tells: Callable[[], bool], source: str = "") -> PortfolioMonitor:
    """The monitor as configured; it queues messages only while `tells()`, and always records.

    `source` is the feed's: messages about a simulated market are marked.
    """
    wanted = settings.portfolio
    dashboard, home, told = settings.dashboard, portfolio_home(settings), wanted.monitoring
    return PortfolioMonitor(
        configured_handlers(told.handlers, home),
        channels=configured_channels(told.handlers),
        vigil=configured_vigil(told.heartbeat, home),
        digest_hour=told.digest_hour,
        rules=make_rules(told),
        lifecycle=lifecycle_from(told.lifecycle),
        sink=EngineSink(store, wanted.name, tells, simulated=source.startswith(SIMULATED)),
        check_interval=told.check_interval,
        portfolio=wanted.name,
        history=wanted.rebalancing.lookback,  # the returns on which the shown risk rests
        dashboard_url=f"http://{dashboard.host}:{dashboard.port}/" if dashboard.enabled else "",
    )


def inspect_file(settings: Settings) -> QualityReport:
    """The data gate's report on the price file, of the assets that the portfolio may hold and will have to trade."""
    raw, known = read_prices(str(settings.data.path)), quality_from(settings)
    policy = replace(known, actions={"ended": "refuse", **known.actions})  # neither bought nor sold without a price
    try:
        return inspect_prices(raw, policy=policy, assets=settings.portfolio.assets)
    except ConfigError as error:
        raise ConfigError(f"portfolio.{error}") from None


def _from_file(settings: Settings) -> tuple[pd.DataFrame, list[str]]:
    """What the gate lets through, and its warnings."""
    try:
        report = inspect_file(settings)
        prices = report.clean()
        wanted = [asset for asset in settings.portfolio.assets if asset in prices.columns]
        return check_prices(prices[wanted] if wanted else prices), report.notes
    except DataError as error:
        raise DataError(f"{settings.data.path}: {error}") from None


def _chosen(prices: pd.DataFrame, assets: list[str]) -> pd.DataFrame:
    missing = [asset for asset in assets if asset not in prices.columns]
    if missing:
        known = ", ".join(map(str, prices.columns))
        raise ConfigError(f"portfolio.assets: the prices have no {missing[0]}; there is {known}")
    return prices[assets] if assets else prices


def _span(settings: Settings, prices: pd.DataFrame) -> tuple[datetime, datetime]:
    """First computed bar, and the bar from which time passes at `engine.speed`."""
    data, lookback = settings.data, settings.portfolio.rebalancing.lookback
    if len(prices) < lookback + 2:
        raise DataError(
            f"there are {len(prices)} bars of prices; a lookback of {lookback} returns needs {lookback + 2}: "
            "give more prices, or a smaller portfolio.rebalancing.lookback"
        )
    sample, simulated, last = data.source == "sample", data.source == "simulated", len(prices) - 1
    first = prices.index[lookback if simulated else max(lookback, last - DEFAULT_BARS)]
    start = _bar(prices, data.start or (SAMPLE_START if sample else None), "data.start", first)
    begun = int(prices.index.searchsorted(pd.Timestamp(start), side="left"))
    watched = prices.index[min(begun + DEFAULT_BARS, last) if simulated else last]
    live = _bar(prices, data.live_from or (SAMPLE_LIVE_FROM if sample else None), "data.live_from", watched)
    if start < prices.index[lookback]:
        raise ConfigError(
            f"data.start {start:%Y-%m-%d} is too early: {lookback} returns before it are needed "
            f"(portfolio.rebalancing.lookback), the first possible bar is {prices.index[lookback]:%Y-%m-%d}"
        )
    return start, max(start, live)


def _bar(prices: pd.DataFrame, day: str | None, key: str, default: pd.Timestamp) -> datetime:
    if day is None:
        return _plain(default)
    moment = _moment(day, key)
    if not prices.index[0] <= moment <= prices.index[-1]:
        raise ConfigError(
            f"{key} {day} is outside the prices, {prices.index[0]:%Y-%m-%d} to {prices.index[-1]:%Y-%m-%d}"
        )
    return _plain(moment)


def _moment(day: str, key: str) -> pd.Timestamp:
    try:
        moment = pd.Timestamp(day)
    except ValueError as error:
        raise ConfigError(f"{key} is {day!r}: write a date such as 2020-02-03") from error
    return moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")


def _plain(moment: pd.Timestamp) -> datetime:
    plain: datetime = moment.to_pydatetime()
    return plain


def _hyperliquid(settings: Settings) -> HyperliquidFeed:
    candles = HyperliquidCandles(settings.data.base_url, portfolio_home(settings) / "candles")
    start = settings.data.start
    return HyperliquidFeed(
        candles,
        settings.portfolio.assets,
        start=_plain(_moment(start, "data.start")) if start else None,
        lookback=settings.portfolio.rebalancing.lookback,
    )
