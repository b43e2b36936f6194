"""The bot: six loops over one book, each with one job, one bar at a time.

A loop commits what it did together with the note that it did it (`ledger.advance`). So each loop works on a bar
exactly once, however often the process dies, and a replay of the same prices always writes the same ledger.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, Protocol

import pandas as pd
from sqlalchemy import Connection

from portfolio_research.backtest import REGIME_HISTORY, market_regime
from portfolio_research.calendars import calendar_from, new_slot
from portfolio_research.config import (
    ConfigError,
    DataError,
    OptimizationError,
    PortfolioError,
    Settings,
    StoreError,
    VenueError,
)
from portfolio_research.costs import costs_from
from portfolio_research.engine import wiring
from portfolio_research.engine.execution import AdvancedExecutor, Desk, OrderExecutor, plan, trades_of
from portfolio_research.engine.record import TrackRecord, report_payload
from portfolio_research.engine.risk import RiskManager
from portfolio_research.engine.schedule import STAGES, Schedule
from portfolio_research.engine.supervisor import Halted, Loop, RestartPolicy, Supervisor
from portfolio_research.engine.watch import Watch, drift
from portfolio_research.market.collector import DataCollector
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.market.paper import PaperExchange
from portfolio_research.market.protocol import Feed, Tick, Venue
from portfolio_research.rebalancing import Decision, covariance_for, decide, policy_from
from portfolio_research.store import Store, ledger, telemetry
from portfolio_research.targets import optimizer_from, refit

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
VENUE_SECONDS = 10.0  # for a venue to say what it holds
OVERDUE = 2.0  # check intervals after which a tick, or the work on one, is missed
LAST_WORDS_SECONDS = 5.0  # for messages that wait when the engine ends
FATAL = (StoreError, DataError, ConfigError, OptimizationError)  # the same again would fail the same way


class Dashboard(Protocol):
    """What the bot asks of a dashboard manager: it lives one layer up, and so it is handed in."""

    def start(self) -> object: ...

    def stop(self) -> object: ...


class HyperliquidTradingBot:
    """A portfolio that runs by itself: prices in, HRP targets, rebalancing, records, alerts."""

    def __init__(
        self,
        settings: Settings,
        *,
        feed: Feed | None = None,  # None: as settings.data says
        venue: Venue | None = None,  # None: a paper exchange
        store: Store | None = None,  # None: as settings say
        dashboard: Dashboard | None = None,
        deliver: bool = True,  # whether alerts are sent to the handlers, or only recorded
        restart: RestartPolicy | None = None,
    ) -> None:
        if settings.engine.mode == "live":
            raise ConfigError(
                "engine.mode live is not available in this version: no order would reach a real exchange. "
                "Set engine.mode: paper, which trades the same prices on paper"
            )
        self.settings, self.name, self.deliver = settings, settings.portfolio.name, deliver
        self.feed: Feed = feed or wiring.make_feed(settings)
        self.store = store or wiring.open_store(settings, self.feed)
        self.dashboard_manager = dashboard
        self.on_tick: Callable[[Tick], None] = lambda tick: None  # called with every tick before it is worked on
        self.told_from = wiring.told_from(self.feed)
        self._stop = asyncio.Event()
        self._until_end = False
        self._judged: tuple[datetime | None, dict[str, Any]] = None, {}  # regime, and the bar it was judged on
        self._detail = ""  # what people should know of the engine's state
        self._initialize_components(venue)
        self._take_up()
        self.schedule = Schedule(self._ticks, done=self._done)
        self.supervisor = Supervisor(
            policy=restart or RestartPolicy(),
            fatal=FATAL,
            may_end=self._may_end,
            request_stop=self._request_stop,
            on_restart=self._restarted,
        )

    def _initialize_components(self, venue: Venue | None = None) -> None:
        """Everything the loops work with."""
        wanted = self.settings.portfolio
        self.policy, self.costs = policy_from(self.settings), costs_from(self.settings)
        self.hrp_optimizer = optimizer_from(self.settings)
        self.portfolio_analytics = wiring.make_analytics(self.settings)
        self.data_collector = DataCollector(self.feed)
        self.risk_manager = RiskManager(wanted.risk)
        self.venue: Venue = venue or PaperExchange(self.store, self.name, self.costs)
        desk = Desk(
            self.name,
            self.costs,
            large_trade_threshold=wanted.rebalancing.large_trade_threshold,
            twap_slices=wanted.rebalancing.twap_slices,
            min_trade_size=wanted.rebalancing.min_trade_size,
            max_order_share=wanted.risk.max_order_share,
        )
        self.order_executor = OrderExecutor(self.store, self.venue, self.risk_manager, desk)
        self.advanced_executor = AdvancedExecutor(self.order_executor)
        self.portfolio_monitor = wiring.make_monitor(self.settings, self.store, self._tells, self.feed.source)
        self.watch = Watch(self.portfolio_monitor.check_interval, promised=hasattr(self.feed, "poll_seconds"))

    def _take_up(self) -> None:
        """Continue from what the store holds."""
        capital = self.settings.portfolio.capital
        with self.store.begin() as conn:
            wiring.enter_ledger(conn, self.settings, self.feed.source)
            self._done = {stage: ledger.cursor(conn, self.name, stage) for stage in STAGES}
            self.record = TrackRecord.load(conn, self.name, capital)
            self.risk_manager.hold(ledger.load_positions(conn, self.name))
            wiring.check_holdings(self.name, self.risk_manager.positions, self.feed)
            targets = telemetry.latest_targets(conn, self.name)
            self.leaf_order = telemetry.latest_order(conn, self.name)  # of the newest fit; [] if there was none
            decided = (row.slot for row in ledger.rebalances(conn, self.name) if not row.slot.microsecond)
            self._last_slot = next(decided, None)  # microseconds mark what was traded by hand
        self.risk_manager.portfolio_returns = self.record.returns
        self.data_collector.now = self._done["trading"]  # known before the next bar comes: marks may come first
        self.targets = pd.Series(targets[1] if targets else {}, dtype=float).sort_index()

    # Starting and stopping

    async def start(self, *, until_end: bool = False) -> None:
        """Run until `stop`; with `until_end`, return at the end of a replay. Raises Halted when a loop is given up."""
        self._until_end = until_end
        self.portfolio_monitor.vigil.start()
        if self.dashboard_manager is not None:
            self.dashboard_manager.start()
        try:
            await self.supervisor.run(self._loops())
            await self._send_what_waits()
            self._beat("stopped")
        except Halted as halted:
            await self._halt(str(halted))
            raise
        finally:
            await self.portfolio_monitor.vigil.stop()
            if self.dashboard_manager is not None:
                self.dashboard_manager.stop()

    async def stop(self, timeout: float = 15.0) -> None:
        """Finish the bar under way, then end every loop; what takes longer than `timeout` seconds is cancelled."""
        await self.supervisor.stop(timeout)

    def _loops(self) -> dict[str, Loop]:
        return {
            "trading": self._trading_loop,
            "risk": self._risk_monitoring_loop,
            "model": self._model_update_loop,
            "rebalancing": self._portfolio_rebalancing_loop,
            "performance": self._performance_tracking_loop,
            "monitoring": self._monitoring_loop,
            "heartbeat": self._heartbeat_loop,
            "delivery": self._delivery_loop,
            "watch": self._watch_loop,
        }

    def _may_end(self) -> bool:
        return self._stop.is_set() or self.schedule.ended

    def _request_stop(self) -> None:
        self._stop.set()
        self.schedule.close()

    def _restarted(self, loop: str, reason: str) -> None:
        self._detail = f"{loop} loop restarted after {reason}"

    def bars_to_compute(self) -> int:
        """How many bars of the past are still to be computed, if that is known."""
        if not isinstance(self.feed, ReplayFeed) or self.told_from is None:
            return 0
        past = self.feed.history(sys.maxsize, until=self.told_from).index
        return int((past > (self._done["monitoring"] or self.feed.start - timedelta.resolution)).sum())

    # The six loops

    async def _trading_loop(self) -> None:
        """Records each bar: from here on it is a fact that everything else is computed from."""
        async for tick in self.schedule.ticks("trading", bars_only=True):
            with self._stage("trading", tick) as conn:
                telemetry.record_bars(conn, self.name, [(tick.ts, tick.closes)])

    async def _risk_monitoring_loop(self) -> None:
        """Takes over what the ledger says is held, and stops trading when that is worth nothing."""
        async for tick in self.schedule.ticks("risk"):
            with self._stage("risk", tick) as conn:
                self.risk_manager.hold(ledger.load_positions(conn, self.name))
            if self.risk_manager.equity <= 0:
                self.risk_manager.halt(f"the portfolio is worth {self.risk_manager.equity:,.2f}")

    async def _model_update_loop(self) -> None:
        """Fits the optimiser to the newest returns.

        It is told what is held at this bar's marks, before the rebalancing loop trades, and the leaf order of the bar
        before: the stored one, so that a bar that is worked on again, or after a restart, gets the same targets.
        """
        async for tick in self.schedule.ticks("model", bars_only=True):
            window = self.data_collector.returns(self.settings.portfolio.rebalancing.lookback)
            held = self.risk_manager.positions.weights() if self.risk_manager.equity > 0 else None
            self.targets = refit(self.hrp_optimizer, window, held=held, order=self.leaf_order or None).sort_index()
            order = [str(asset) for asset in getattr(self.hrp_optimizer, "order_", ())]
            with self._stage("model", tick) as conn:
                telemetry.record_targets(conn, self.name, tick.ts, {str(a): w for a, w in self.targets.items()}, order)
            self.leaf_order = order

    async def _portfolio_rebalancing_loop(self) -> None:
        """Decides once per slot whether to rebalance, and carries it out."""
        async for tick in self.schedule.ticks("rebalancing", bars_only=True):
            rebalance_id = self._open_rebalance(tick)
            if rebalance_id is not None:
                await self._carry_out(rebalance_id)
            with self._stage("rebalancing", tick) as conn:
                if rebalance_id is not None:
                    self._close_rebalance(conn, rebalance_id)

    async def _performance_tracking_loop(self) -> None:
        """Values the book after the bar's trades, and measures how it has done."""
        async for tick in self.schedule.ticks("performance", bars_only=True):
            equity, cash = self.risk_manager.equity, float(self.risk_manager.positions.cash)
            drawdown, benchmark = self.record.drawdown(equity), self.record.benchmark(tick.closes)
            self.record.add(tick.ts, equity, benchmark)
            self.risk_manager.portfolio_returns = self.record.returns
            report = self._report()
            with self._stage("performance", tick) as conn:
                telemetry.record_equity(conn, self.name, tick.ts, equity, cash, drawdown, benchmark)
                telemetry.record_report(conn, self.name, tick.ts, report)

    async def _monitoring_loop(self) -> None:
        """Judges each bar when everything else about it is done, and marks between bars once per `check_interval`.

        The monitor's own `start_monitoring` goes by the clock; here the bars are the clock, so that a replay repeats.
        """
        due = time.monotonic()
        async for tick in self.schedule.ticks("monitoring"):
            if tick.is_bar or time.monotonic() >= due:
                await self._check(tick)
                due = time.monotonic() + self.portfolio_monitor.check_interval

    # What the loops do

    async def _ticks(self, after: datetime | None) -> AsyncIterator[Tick]:
        """The feed's ticks; every part sees the new prices before the first loop does."""
        async for tick in self.feed.ticks(after):
            self.watch.heard()
            self.data_collector.observe(tick)
            self.risk_manager.mark(tick.closes)
            self.order_executor.now = tick.ts
            if isinstance(self.venue, PaperExchange):
                self.venue.mark(tick)
            self.on_tick(tick)
            yield tick

    async def _check(self, tick: Tick) -> None:
        def advance(conn: Connection) -> None:
            ledger.advance(conn, self.name, "monitoring", tick.ts)
            telemetry.heartbeat(conn, self.name, "monitor", state="running", pid=os.getpid())

        if not tick.is_bar:  # a crash need not wait for the close to be noticed
            self.risk_manager.portfolio_returns = self._returns_at(tick.ts)
        parts = self.risk_manager, self.portfolio_analytics, self.data_collector
        self.portfolio_analytics.machine = await self._machine(0.0)
        await self.portfolio_monitor.check(*parts, now=tick.ts, deliver=False, commit_hook=advance)
        self._done["monitoring"] = tick.ts

    async def _machine(self, hanging: float) -> dict[str, float]:
        """How the machine is; `hanging` is for how many seconds a loop has been at work on one tick."""
        with self.store.read() as conn:
            waiting = self.watch.orders(ledger.unanswered(conn, self.name))
        held = {asset: Decimal(position.size) for asset, position in self.risk_manager.positions.items()}
        try:
            async with asyncio.timeout(VENUE_SECONDS):
                theirs = await self.venue.positions()
            differs = drift(held, theirs, self.risk_manager.marks, self.risk_manager.equity)
        except (VenueError, TimeoutError) as error:
            log.warning("the venue did not say what it holds: %s", error or "no answer")
            differs = math.nan
        return {**self.watch.ages(hanging), "order_age": waiting, "position_drift": differs}

    async def _watch_loop(self) -> None:
        """Checks by the clock when ticks stay away or a loop hangs: nobody else would notice, the monitor waits too."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.watch.interval):
                    return await self._ended()
            if not self.schedule.ended and max(self.watch.ages(self.schedule.at_work[1]).values()) >= OVERDUE:
                await self._check_machine()

    async def _check_machine(self) -> None:
        stage, seconds = self.schedule.at_work
        self.portfolio_analytics.machine = await self._machine(seconds)
        if stage:
            self._retitle("loop-stuck", f"Checks that the {stage} loop hangs")
        parts = self.risk_manager, self.portfolio_analytics, self.data_collector
        await self.portfolio_monitor.check(*parts, now=self.order_executor.now, deliver=False)

    def _retitle(self, rule_id: str, title: str) -> None:
        """Let a rule about the machine say what it is about."""
        monitor = self.portfolio_monitor
        monitor.rules = tuple(replace(rule, title=title) if rule.id == rule_id else rule for rule in monitor.rules)

    def _returns_at(self, ts: datetime) -> pd.Series[float]:
        """The track record, and the return since its newest bar at the marks of now."""
        known = self.record.returns
        before = self.settings.portfolio.capital * float((1.0 + known.to_numpy()).prod())
        index = pd.DatetimeIndex([ts], name="date", tz="UTC")
        return pd.concat([known, pd.Series([self.risk_manager.equity / before - 1.0], index=index, name="portfolio")])

    @contextmanager
    def _stage(self, stage: str, tick: Tick) -> Iterator[Connection]:
        """One transaction for what a stage did and for the note that it did it."""
        with self.store.begin() as conn:
            yield conn
            ledger.advance(conn, self.name, stage, tick.ts)
        self._done[stage] = tick.ts

    def _open_rebalance(self, tick: Tick) -> str | None:
        """Take up the rebalance that a crash interrupted, or decide; None when there is nothing to carry out."""
        with self.store.read() as conn:
            interrupted = ledger.rebalances(conn, self.name, state="executing")
        if interrupted:
            return interrupted[0].id
        if not self._is_due(tick.ts) or self.risk_manager.halted:
            return None
        decision = self._decide()
        with self.store.begin() as conn:
            state = "executing" if decision.rebalance else "declined"
            rebalance_id = ledger.open_rebalance(conn, self.name, tick.ts, decision.to_dict(), state)
            orders = plan(
                trades_of(decision),
                rebalance_id=rebalance_id,
                positions=self.risk_manager.positions,
                marks=self.risk_manager.marks,
                desk=self.order_executor.desk,
                ts=tick.ts,
            )
            ledger.plan_orders(conn, orders)
        self._last_slot = tick.ts
        return rebalance_id if decision.rebalance else None

    def _is_due(self, ts: datetime) -> bool:
        last = self._last_slot
        due = last is None or new_slot(last, ts, calendar_from(self.settings))
        return self.settings.portfolio.rebalancing.enabled and due

    def _regime(self) -> dict[str, Any]:
        """The market's volatility regime on the newest bar, judged once."""
        now = self.data_collector.now
        if self._judged[0] != now or now is None:
            self._judged = now, market_regime(self.data_collector.returns(REGIME_HISTORY))
        return self._judged[1]

    def _decide(self) -> Decision:
        regime = str(self._regime()["volatility_regime"])
        window = self.data_collector.returns(self.settings.portfolio.rebalancing.lookback)
        return decide(
            self.risk_manager.positions,
            self.targets,
            policy=self.policy,
            costs=self.costs,
            regime=regime,
            covariance=covariance_for(self.policy, window),
        )

    async def _carry_out(self, rebalance_id: str) -> None:
        with self.store.read() as conn:
            orders = ledger.orders(conn, rebalance_id)
        for _, parent in groupby(orders, key=lambda order: order.asset):
            slices = list(parent)
            if slices[0].kind == "twap":
                await self.advanced_executor.execute(slices)
            else:
                await self.order_executor.execute(slices[0])

    def _close_rebalance(self, conn: Connection, rebalance_id: str) -> None:
        rejected = [order for order in ledger.orders(conn, rebalance_id) if order.state != "filled"]
        if not rejected:
            return ledger.set_rebalance_state(conn, rebalance_id, "done")
        reason = f"{len(rejected)} orders were not filled; the first: {rejected[0].reason}"
        log.warning("rebalance %s: %s", rebalance_id, reason)
        ledger.set_rebalance_state(conn, rebalance_id, "partial", reason)

    def _report(self) -> dict[str, object]:
        wanted = self.settings.portfolio
        return report_payload(
            self.risk_manager.positions,
            self.record,
            self.data_collector.returns(wanted.rebalancing.lookback),
            self._regime(),
            periods_per_year=self.settings.periods_per_year,
            risk_free_rate=wanted.analytics.risk_free_rate,
            data_notes=getattr(self.feed, "notes", ()),  # not every feed has been through the gate
        )

    # Signs of life

    def _tells(self) -> bool:
        """Whether people are told now: not of the past that is only computed, and not when the caller wants silence."""
        now = self.order_executor.now
        return self.deliver and not (self.told_from and now and now < self.told_from)

    def _condition(self) -> tuple[str, str]:
        """State and detail for the heartbeat."""
        now, trouble = self.order_executor.now, str(getattr(self.feed, "trouble", ""))
        if self.risk_manager.halted:
            return "running", f"trading is halted: {self.risk_manager.halted}"
        if self.schedule.ended:
            return "running", "end of data"
        if now is None or (self.told_from and now < self.told_from):
            return "warming up", trouble or (f"at {now:%Y-%m-%d}" if now else "reading prices")
        return "running", trouble or self._detail

    def _beat(self, state: str, detail: str = "") -> None:
        speed = self.feed.speed if isinstance(self.feed, ReplayFeed) else None
        with self.store.begin() as conn:
            telemetry.heartbeat(conn, self.name, "engine", state=state, detail=detail, pid=os.getpid(), speed=speed)

    async def _heartbeat_loop(self) -> None:
        while not self._stop.is_set() and not (self.schedule.ended and self._until_end):
            self._beat(*self._condition())
            self.portfolio_monitor.vigil.watch(self._patience())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), HEARTBEAT_SECONDS)

    def _patience(self) -> float:
        """Seconds without a check after which systemd is no longer told that all is well; at the end none is due."""
        return float("inf") if self.schedule.ended else max(2 * self.portfolio_monitor.check_interval, 60.0)

    async def _delivery_loop(self) -> None:
        """Sends what the monitor has queued; a slow mail server holds up nobody."""
        sending = asyncio.ensure_future(self.portfolio_monitor.keep_delivering() if self.deliver else self._stop.wait())
        stopped = asyncio.ensure_future(self._ended())
        try:
            await asyncio.wait({sending, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            stopped.cancel()

    async def _ended(self) -> None:
        while not self._stop.is_set() and not (self.schedule.ended and self._until_end):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), HEARTBEAT_SECONDS)

    async def _send_what_waits(self) -> None:
        """A last attempt before the end; what does not arrive now stays queued for the next start."""
        if self.deliver:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.portfolio_monitor.deliver(), LAST_WORDS_SECONDS)

    async def _halt(self, reason: str) -> None:
        """Stop trading, and say so everywhere that still works."""
        log.critical("engine of portfolio %s halted: %s", self.name, reason)
        self.risk_manager.halt(reason)
        self.portfolio_analytics.halted = 1.0
        self._retitle(wiring.HALTED, f"Engine halted ({reason})")
        try:
            self._beat("halted", reason)
            parts = self.risk_manager, self.portfolio_analytics, self.data_collector
            await self.portfolio_monitor.check(*parts, deliver=False)
            await self._send_what_waits()
        except PortfolioError as error:
            log.critical("the halt of portfolio %s could not be recorded: %s", self.name, error)
