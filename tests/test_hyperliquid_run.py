"""An engine on public daily candles: a loopback venue, days that close, outages, restarts. No network, no key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import rows

from portfolio_research.backtest import walk_forward
from portfolio_research.config import Settings, StoreError
from portfolio_research.costs import costs_from
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.engine.supervisor import Halted
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.hyperliquid import HyperliquidFeed
from portfolio_research.market.info import Budget, HyperliquidInfo
from portfolio_research.rebalancing import policy_from
from portfolio_research.store import Store, telemetry
from portfolio_research.store.outbox import StoreSink
from portfolio_research.store.snapshot import build_snapshot

DAY = timedelta(days=1)
COINS = ["BTC", "ETH", "SOL", "XRP", "DOGE", "AVAX"]
TODAY = datetime(2024, 3, 10, tzinfo=UTC)
PAST = 500  # days of candles before today, and some that are still to come
NOON = timedelta(hours=12)


class Exchange(ThreadingHTTPServer):
    """Answers POST /info as the venue does. Its clock is set by hand; `fault` takes the place of every answer."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0, today: datetime = TODAY) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.port = int(self.server_address[1])
        self.today, self.now = today, today + NOON
        self.asked: list[dict[str, Any]] = []
        self.fault: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda question: None
        steps = np.random.default_rng(11).normal(0.0004, 0.03, (PAST + 20, len(COINS)))
        common = np.random.default_rng(12).normal(0, 0.02, (PAST + 20, 1))
        self.closes = np.array([40_000.0, 2_000, 60, 0.5, 0.08, 20]) * np.cumprod(1 + steps + common, axis=0)
        self.shock = 1.0  # mids against the last close

    def clock(self) -> datetime:
        """A second later whenever somebody looks."""
        self.now += timedelta(seconds=1)
        return self.now

    def answer(self, question: dict[str, Any]) -> Any:
        match question["type"]:
            case "meta":
                return {"universe": [{"name": coin, "szDecimals": 5, "maxLeverage": 50} for coin in COINS]}
            case "allMids":
                row = (self.now - self.today).days + PAST - 1
                return {coin: f"{self.closes[row, n] * self.shock:.6g}" for n, coin in enumerate(COINS)} | {"@1": "1.5"}
            case "candleSnapshot":
                return self.candles(**question["req"])
        raise AssertionError(question)

    def candles(self, coin: str, interval: str, startTime: int, endTime: int) -> list[dict[str, Any]]:
        """Candles from the one in which `startTime` lies; the newest is the day that has not closed."""
        found = []
        for row in range(len(self.closes)):
            begun = int((self.today + (row - PAST) * DAY).timestamp() * 1000)
            ends = begun + 86_399_999
            if ends >= startTime and begun <= min(endTime, self.now.timestamp() * 1000):
                price = f"{self.closes[row, COINS.index(coin)]:.8g}"
                span = {"t": begun, "T": ends, "s": coin, "i": interval}
                found.append(span | dict.fromkeys("ohlc", price) | {"v": "12.5", "n": 7})
        return found

    def asked_for(self, kind: str) -> list[dict[str, Any]]:
        return [question for question in self.asked if question["type"] == kind]


class Handler(BaseHTTPRequestHandler):
    server: Exchange

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(question)
        status, body = self.server.fault(question) or (200, json.dumps(self.server.answer(question)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(exchange: Exchange) -> Iterator[Exchange]:
    thread = threading.Thread(target=exchange.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield exchange
    finally:
        exchange.shutdown()
        exchange.server_close()
        thread.join()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with serving(Exchange()) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        yield opened


def configured(url: str, **data: str) -> Settings:
    portfolio = {
        "assets": COINS,
        "rebalancing": {"lookback": 60, "tolerance": 0.001},
        "monitoring": {"check_interval": 0.01},
        "risk": {"max_order_share": 0.9},
    }
    source = {"source": "hyperliquid", "base_url": url, **data}
    return Settings(portfolio=portfolio, data=source, dashboard={"enabled": False})  # type: ignore[arg-type]


def url_of(exchange: Exchange) -> str:
    return f"http://127.0.0.1:{exchange.port}"


class Engine:
    """A bot in this process, on the exchange's clock, that asks often and does not pause for long."""

    def __init__(self, exchange: Exchange, store: Store, folder: Path, **data: str) -> None:
        self.store, self.settings = store, configured(url_of(exchange), **data)
        info = HyperliquidInfo(url_of(exchange), pauses=())
        info.budget = Budget(limit=10**6)  # it asks more often than the venue would allow
        candles = HyperliquidCandles(cache_dir=folder / "candles", info=info, clock=exchange.clock)
        self.feed = HyperliquidFeed(candles, COINS, poll_seconds=0.02, start=TODAY - 10 * DAY, lookback=60)
        self.bot = HyperliquidTradingBot(self.settings, feed=self.feed, store=store)
        self.ticks = 0

    @asynccontextmanager
    async def running(self):
        def count(tick: object) -> None:
            self.ticks += 1

        self.bot.on_tick = count
        self.task = task = asyncio.create_task(self.bot.start())
        try:
            yield self
        finally:
            if not task.done():
                await self.bot.stop()
            await self.feed.candles.info.close()
            await task

    async def until(self, what: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.beat()
            await asyncio.sleep(0.02)

    async def marked(self) -> None:
        """Wait until marks have gone through every loop."""
        seen = self.ticks
        await self.until(lambda: self.ticks >= seen + 3)

    def days(self) -> list[int]:
        """Days since the exchange's first today of every bar in the equity curve."""
        with self.store.read() as conn:
            return [(point.ts - TODAY).days for point in telemetry.equity(conn, "main")]

    def beat(self) -> tuple[str, str]:
        with self.store.read() as conn:
            found = telemetry.heartbeats(conn, "main").get("engine")
        return (found.state, found.detail) if found else ("", "")


WARM = list(range(-10, 0))


def test_it_warms_up_trades_marks_and_decides_on_the_next_closed_candle(
    exchange: Exchange, store: Store, tmp_path: Path
) -> None:
    engine = Engine(exchange, store, tmp_path)

    async def scenario() -> None:
        async with engine.running():
            await engine.until(lambda: engine.days() == WARM)
            await engine.marked()
            orders = len(rows(tmp_path / "portfolio.db", "order"))
            slots = len(rows(tmp_path / "portfolio.db", "rebalance"))
            assert orders and slots == 10, "one decision on each closed day"
            held = engine.bot.risk_manager.equity
            exchange.shock = 0.7
            await engine.until(lambda: engine.bot.risk_manager.equity < 0.8 * held)
            assert engine.days() == WARM and len(rows(tmp_path / "portfolio.db", "rebalance")) == slots
            assert len(rows(tmp_path / "portfolio.db", "order")) == orders, "a mark is no reason to trade"
            active = StoreSink(store, "main").load
            await engine.until(lambda: any(a.rule.startswith("drawdown") and a.active for a in active().values()))
            exchange.shock, exchange.now = 1.0, exchange.now + DAY
            await engine.until(lambda: engine.days() == [*WARM, 0])
            await engine.marked()
            assert len(rows(tmp_path / "portfolio.db", "rebalance")) == slots + 1

    asyncio.run(scenario())
    prices = engine.feed.history(10_000)
    wanted = engine.settings
    expected = walk_forward(
        prices, policy=policy_from(wanted), costs=costs_from(wanted), lookback=60, start=f"{TODAY - 10 * DAY:%F}"
    )
    with store.read() as conn:
        got = [point.equity for point in telemetry.equity(conn, "main")]
    assert got == pytest.approx(expected.equity.to_list(), rel=1e-9), "the same as the back-test of the same candles"
    picture = build_snapshot(store, "main", window="all")
    assert picture["periods_per_year"] == 365 and "127.0.0.1" in picture["source"]
    assert {row["asset"] for row in picture["allocation"]} == set(COINS)


def test_a_restart_continues_and_asks_only_for_what_is_new(exchange: Exchange, store: Store, tmp_path: Path) -> None:
    async def once(days: list[int]) -> HyperliquidTradingBot:
        async with Engine(exchange, store, tmp_path).running() as engine:
            await engine.until(lambda: engine.days() == days)
            await engine.marked()
        return engine.bot

    asyncio.run(once(WARM))
    assert len(exchange.asked_for("candleSnapshot")) == len(COINS)
    before = rows(tmp_path / "portfolio.db", "fill")
    exchange.asked.clear()
    again = asyncio.run(once(WARM))
    assert not exchange.asked_for("candleSnapshot"), "nothing has closed, nothing is fetched"
    assert rows(tmp_path / "portfolio.db", "fill") == before
    assert len(again.data_collector.returns(60)) == 60, "what was known before is known before the next bar"
    exchange.now += 3 * DAY
    asyncio.run(once([*WARM, 0, 1, 2]))
    assert {q["req"]["startTime"] for q in exchange.asked_for("candleSnapshot")} == {int((TODAY - DAY).timestamp() * 1000)}


@pytest.mark.parametrize(
    ("fault", "told"), [((500, "null"), "status 500"), ((200, "<html>maintenance</html>"), "not JSON: <html>")]
)
def test_an_outage_is_told_waited_out_and_changes_nothing(
    exchange: Exchange, store: Store, tmp_path: Path, fault: tuple[int, str], told: str
) -> None:
    engine = Engine(exchange, store, tmp_path)

    async def scenario() -> None:
        exchange.fault = lambda question: fault
        async with engine.running():
            await engine.until(lambda: engine.beat()[0] == "warming up" and told in engine.beat()[1])
            assert engine.days() == [], "without prices there is nothing to compute"
            exchange.fault = lambda question: None
            await engine.until(lambda: engine.days() == WARM)
            await engine.until(lambda: engine.beat() == ("running", ""))
            ledger = rows(tmp_path / "portfolio.db", "fill")
            exchange.fault = lambda question: fault
            exchange.now += DAY
            await engine.until(lambda: engine.beat()[0] == "running" and told in engine.beat()[1])
            assert engine.days() == WARM and rows(tmp_path / "portfolio.db", "fill") == ledger
            exchange.fault = lambda question: fault if question["type"] == "candleSnapshot" else None
            await asyncio.sleep(0.2)  # marks are there, the candle is not
            exchange.fault = lambda question: None
            await engine.until(lambda: engine.days() == [*WARM, 0])
            await engine.until(lambda: engine.beat() == ("running", ""))

    asyncio.run(scenario())


def test_a_venue_that_cannot_be_reached_is_waited_for(store: Store, tmp_path: Path) -> None:
    first = Exchange()
    engine = Engine(first, store, tmp_path)
    first.server_close()

    async def scenario() -> None:
        async with engine.running():
            await engine.until(lambda: "could not be reached" in engine.beat()[1])
            with serving(Exchange(first.port)) as second:
                await engine.until(lambda: engine.days() == WARM)
                await engine.marked()
            # the word of the first outage may still stand for a beat, so both are waited for
            await engine.until(lambda: engine.beat()[0] == "running" and "could not be reached" in engine.beat()[1])
            assert second.asked
            with serving(Exchange(first.port)) as third:
                first.now = third.now = first.now + DAY
                await engine.until(lambda: engine.days() == [*WARM, 0])

    asyncio.run(scenario())


def test_a_coin_that_the_venue_does_not_list_ends_it_with_the_remedy(
    exchange: Exchange, store: Store, tmp_path: Path
) -> None:
    engine = Engine(exchange, store, tmp_path)
    engine.feed.coins.append("DOGGE")
    engine.feed._prices = engine.feed.candles.prices(engine.feed.coins)
    exchange.fault = lambda q: (500, "null") if q.get("req", {}).get("coin") == "DOGGE" else None

    async def scenario() -> None:
        async with engine.running():
            await engine.until(engine.task.done)

    with pytest.raises(Halted, match="lists no DOGGE; did you mean DOGE"):
        asyncio.run(scenario())
    assert engine.beat()[0] == "halted"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_runs_on_candles_of_today(tmp_path: Path) -> None:
    """`run --source hyperliquid` with the wall clock, the configuration that a user would write, and no network."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with serving(Exchange(today=midnight)) as venue:
        (tmp_path / "config.yaml").write_text(
            f"data: {{base_url: '{url_of(venue)}', start: '{midnight - 20 * DAY:%F}'}}\ndashboard: {{enabled: false}}\n"
            f"portfolio: {{assets: [{', '.join(COINS)}]}}\n"
        )
        env = os.environ | {"PORTFOLIO_RESEARCH_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "portfolio_research", "run", "--source", "hyperliquid"]
        database = tmp_path / "home" / "main" / "portfolio.db"
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline, state = time.monotonic() + 90, ""
            while state != "running" and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.3)
                not_there_yet = suppress(StoreError)  # or there without its tables
                with not_there_yet, Store.open(database, readonly=True) as store, store.read() as conn:
                    state = getattr(telemetry.heartbeats(conn, "main").get("engine"), "state", "")
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert state == "running" and process.returncode == 130, said.decode()
    assert b"Traceback" not in said and b"Hyperliquid public candles" in said
    with Store.open(database, readonly=True) as store:
        picture = build_snapshot(store, "main", window="all")
    assert len(picture["equity"]["t"]) in (20, 21) and len(picture["positions"]) == len(COINS)
    newest = datetime.fromisoformat(picture["equity"]["t"][-1])
    assert newest in (midnight - DAY, midnight), "the day that has not closed is no bar"
