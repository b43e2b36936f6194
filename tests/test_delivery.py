"""Delivery as a whole: servers that hang, an outage of an hour, a SIGKILL in between, and the engine around it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_runs import market, run, settings
from loopback import Hook, mail_config, scripted, web_server
from sqlalchemy import select
from store_rows import start

from portfolio_research.alerts import AlertType, Lifecycle, Notice, Rule, Severity
from portfolio_research.channels import SlackAlertHandler, WebhookAlertHandler
from portfolio_research.config import Settings
from portfolio_research.engine.supervisor import Halted, RestartPolicy
from portfolio_research.handlers import EmailAlertHandler, LogAlertHandler
from portfolio_research.monitor import PortfolioMonitor
from portfolio_research.store import Store, schema, telemetry
from portfolio_research.store.outbox import StoreSink

DAY = datetime(2026, 1, 1, tzinfo=UTC)
RULE = Rule("depth", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 0.1, Severity.CRITICAL: 0.2}, clear_ticks=1)
FORK = multiprocessing.get_context("fork")  # a real process, without the seconds that imports take


@pytest.fixture
def hook() -> Iterator[Hook]:
    with web_server() as server:
        yield server


def parts(value: Any, now: Any) -> tuple[Any, Any, Any]:
    """Risk manager, analytics and collector whose drawdown is `value()`."""
    risk = SimpleNamespace(positions={}, portfolio_returns=[])
    analytics = SimpleNamespace(monitor_values=lambda *_: {"drawdown": value()})
    return risk, analytics, SimpleNamespace(returns=lambda n: [], now=now)


def test_servers_that_hang_and_drip_hold_up_neither_checks_nor_the_log(hook: Hook, tmp_path: Path) -> None:
    hook.drip = 0.01
    depth, checks, log = [0.12], [0], LogAlertHandler(tmp_path / "a.log")

    def value() -> float:
        checks[0] += 1
        return depth[0]

    async def scenario(mail: int) -> None:
        slow = EmailAlertHandler(mail_config(mail)), SlackAlertHandler(hook.url)
        monitor = PortfolioMonitor([*slow, log], rules=[RULE], check_interval=0.01)
        running = asyncio.create_task(monitor.start_monitoring(*parts(value, DAY)))
        async with asyncio.timeout(20):
            while not (log.path.exists() and hook.asked):
                await asyncio.sleep(0.005)
            before, depth[0] = checks[0], 0.3
            while len(log.path.read_text().splitlines()) < 2 or checks[0] < before + 5:
                await asyncio.sleep(0.005)
        attempts = [item.attempts for item in monitor.sink.pending(datetime.now(UTC))]
        assert attempts == [0] * 4  # both still hang in their first message, and nobody waited
        monitor.stop()
        running.cancel()
        await asyncio.wait({running})

    with scripted() as mail:  # says nothing at all
        asyncio.run(scenario(mail))


# ---------------------------------------------------------------- an outage and a SIGKILL
def watch(store: Path, log: Path, url: str, minutes: range) -> None:
    """A monitor whose portfolio falls and recovers every three minutes; time is simulated, all else is real."""

    async def scenario() -> None:
        now = [DAY]
        depth = [0.0]
        with Store.open(store) as opened:
            sink = StoreSink(opened, "main")
            handlers = [LogAlertHandler(log), WebhookAlertHandler(url)]
            lasting = Lifecycle(flapping_changes=1000)
            monitor = PortfolioMonitor(handlers, rules=[RULE], sink=sink, clock=lambda: now[0], lifecycle=lasting)
            for minute in minutes:
                now[0], depth[0] = DAY + timedelta(minutes=minute), (0.05, 0.25, 0.05)[minute % 3]
                await monitor.check(*parts(lambda: depth[0], now[0]), now=now[0], deliver=False)
                await monitor.deliver()

    asyncio.run(scenario())


def test_an_outage_of_an_hour_and_a_kill_lose_nothing_and_repeat_only_under_the_same_key(
    hook: Hook, tmp_path: Path
) -> None:
    store, log = tmp_path / "p.db", tmp_path / "a.log"
    with Store.open(store) as opened, opened.begin() as conn:
        start(conn)
    hook.answers = [(200, {}, b"")]
    FORK.Process(target=watch, args=(store, log, hook.url, range(5))).run()  # all is well
    before = len(hook.asked)
    hook.answers = [(503, {}, b"")]
    down = FORK.Process(target=watch, args=(store, log, hook.url, range(5, 35)))
    down.start()
    down.join(60)
    hook.heard.clear()
    hook.hanging.set()  # it takes the message and never says so
    shot = FORK.Process(target=watch, args=(store, log, hook.url, range(60, 65)))
    shot.start()
    assert hook.heard.wait(60) and shot.pid is not None
    os.kill(shot.pid, signal.SIGKILL)
    shot.join(60)
    hook.hanging.clear()
    in_flight = json.loads(hook.asked[-1][2])["key"]
    hook.answers = [(200, {}, b"")]
    FORK.Process(target=watch, args=(store, log, hook.url, range(65, 95))).run()

    with Store.open(store, readonly=True) as opened, opened.read() as conn:
        rows = conn.execute(select(schema.outbox.c.dedup, schema.outbox.c.handler, schema.outbox.c.state)).all()
    assert {row.state for row in rows} == {"delivered"} and (down.exitcode, shot.exitcode) == (0, -signal.SIGKILL)
    told = Counter(json.loads(body)["key"] for _, _, body, status in hook.asked if status == 200)
    assert set(told) == {row.dedup for row in rows if row.handler == "webhook"} and len(told) >= 40
    taken = told + Counter({in_flight: 1})
    assert {key: n for key, n in taken.items() if n > 1} == {in_flight: 2} and before == 3
    ids = [json.loads(body)["key"] for _, _, body, status in hook.asked if status == 200]
    assert ids == [row.dedup for row in rows if row.handler == "webhook"]  # in order
    lines = log.read_text().splitlines()
    assert len(lines) - len(set(lines)) <= 1  # the log may have been cut off between writing and noting it


# ---------------------------------------------------------------- the engine
def test_an_engine_whose_log_cannot_be_written_halts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    prices = market(3)
    prices.iloc[100:] *= 0.5  # something to tell
    (tmp_path / "main" / "alerts.log").mkdir(parents=True)
    with Store.open(tmp_path / "p.db", durable=False) as store, pytest.raises(Halted, match="delivery loop.*alerts.log"):
        run(settings(), prices, store, restart=RestartPolicy(max_restarts=1, first_delay=0.01))


def test_the_engine_gives_signs_of_life_and_its_digest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    monitoring = {"digest_hour": 0, "heartbeat": {"file": "beat.json"}}
    wanted: Settings = settings()
    wanted = wanted.model_copy(update={"portfolio": wanted.portfolio.model_copy(
        update={"monitoring": type(wanted.portfolio.monitoring).model_validate(monitoring)})})  # fmt: skip
    prices = market(4, bars=80)
    for _ in range(2):
        with Store.open(tmp_path / "p.db", durable=False) as store:
            run(wanted, prices, store)
    with Store.open(tmp_path / "p.db", readonly=True) as store, store.read() as conn:
        assert telemetry.heartbeats(conn, "main")["monitor"].state == "running"
        kept = conn.execute(select(schema.outbox.c.dedup, schema.outbox.c.notice)).all()
    digests = [Notice.from_dict(json.loads(row.notice)) for row in kept if row.dedup.startswith("digest:")]
    assert len({notice.key for notice in digests}) == len(digests) <= 2 and "no active alerts" in digests[0].title
    assert json.loads((tmp_path / "main" / "beat.json").read_text())["portfolio"] == "main"
