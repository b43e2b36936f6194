"""The monitor: a tick writes before anybody sends, and nothing that fails stops the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from store_rows import start

from portfolio_research.alerts import AlertType, AlreadyAcknowledged, Notice, Rule, Severity
from portfolio_research.config import AlertError, ConfigError, StoreError
from portfolio_research.handlers import LogAlertHandler
from portfolio_research.monitor import PortfolioMonitor
from portfolio_research.routing import backoff
from portfolio_research.sinks import MemorySink
from portfolio_research.store import Store
from portfolio_research.store.outbox import StoreSink
from portfolio_research.wire import DeliveryError

DAY = datetime(2020, 3, 9, tzinfo=UTC)
RULE = Rule("depth", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 0.1, Severity.CRITICAL: 0.2}, title="Drawdown")


class Phone:
    """A handler that does with the first notices what it is told, and hears the others."""

    def __init__(self, name: str = "phone", *moods: Any) -> None:
        self.name, self.moods, self.heard = name, list(moods), list[Notice]()

    async def send(self, notice: Notice) -> None:
        mood = self.moods.pop(0) if self.moods else None
        if isinstance(mood, Exception):
            raise mood
        if mood is not None:
            await mood.wait()
        self.heard.append(notice)


class World:
    """Everything a monitor looks at, with a clock of its own."""

    def __init__(self) -> None:
        self.value: Any = 0.0
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.day = DAY
        self.asked: list[int] = []
        self.risk = SimpleNamespace(positions="positions", portfolio_returns="returns")
        self.analytics = SimpleNamespace(monitor_values=self.values)
        self.collector = SimpleNamespace(returns=self.returns, now=DAY)

    def returns(self, n: int) -> str:
        self.asked.append(n)
        return "asset returns"

    def values(self, *given: Any) -> dict[str, Any]:
        assert given == ("positions", "returns", "asset returns")
        if isinstance(self.value, Exception):
            raise self.value
        return {"drawdown": self.value}

    def monitor(self, *handlers: Any, **options: Any) -> PortfolioMonitor:
        return PortfolioMonitor(handlers, **{"rules": [RULE], "clock": lambda: self.clock} | options)

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        return self.risk, self.analytics, self.collector

    async def see(self, monitor: PortfolioMonitor, *values: Any, **options: Any) -> None:
        for value in values:
            self.value = value
            self.collector.now += timedelta(days=1)
            await monitor.check(*self.parts, **options)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["memory", "store"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemorySink()
        return
    with Store.open(tmp_path / "p.db", durable=False) as store:
        with store.begin() as conn:
            start(conn)
        yield StoreSink(store, "main")


def test_a_tick_is_told_to_every_handler_and_people_can_act(world: World, sink: Any) -> None:
    one, two = Phone("one"), Phone("two")
    monitor = world.monitor(one, two, sink=sink, dashboard_url="http://127.0.0.1:5000")
    asyncio.run(world.see(monitor, 0.05, 0.3))
    (alert,) = monitor.active_alerts
    assert len(one.heard) == len(two.heard) == 1 and one.heard[0].dashboard_url == "http://127.0.0.1:5000"
    assert one.heard[0].at == world.collector.now and world.asked == [252, 252]
    assert monitor.acknowledge(alert.id, "Ana", "mine").acknowledged_at == world.clock
    with pytest.raises(AlreadyAcknowledged):
        monitor.acknowledge(alert.id)
    assert monitor.resolve(alert.id).state == "resolved" and monitor.active_alerts == []
    with pytest.raises(AlertError, match="alerts. lists them"):
        monitor.resolve("nope")


def test_the_worst_comes_first(world: World) -> None:
    other = Rule("low", AlertType.DRAWDOWN, "drawdown", {Severity.LOW: 0.1}, for_ticks=1)
    monitor = world.monitor(rules=[other, RULE])
    asyncio.run(world.see(monitor, 0.3))
    assert [a.rule for a in monitor.active_alerts] == ["depth", "low"]


def test_without_rules_the_default_table_is_watched() -> None:
    assert {rule.type for rule in PortfolioMonitor().rules} == set(AlertType) - {AlertType.SYSTEM}


def test_names_that_collide_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="same name"):
        world.monitor(Phone(), Phone())
    with pytest.raises(ConfigError, match="same id"):
        world.monitor(rules=[RULE, RULE])


def test_failing_analytics_become_an_alert_and_resolve_nothing(world: World, sink: Any) -> None:
    phone = Phone()
    monitor = world.monitor(phone, sink=sink)
    asyncio.run(world.see(monitor, 0.3, *[ValueError("singular matrix")] * 6))
    assert {a.state for a in monitor.active_alerts} == {"firing"} and len(monitor.active_alerts) == 2
    assert sum("singular matrix" in line for n in phone.heard for line in n.lines) == 1


def test_a_collector_without_time_still_gets_a_tick(world: World) -> None:
    class Broken:
        def returns(self, n: int) -> None:
            raise OSError("feed down")

        @property
        def now(self) -> datetime:
            raise OSError("feed down")

    monitor = world.monitor()
    first = asyncio.run(monitor.check(world.risk, world.analytics, Broken()))
    assert first.now == world.clock and "feed down" in first.problem
    world.collector.now = None
    assert asyncio.run(monitor.check(*world.parts)).now == world.clock
    assert asyncio.run(monitor.check(*world.parts, now=DAY)).now == DAY


def test_a_handler_that_fails_is_tried_again_and_the_others_do_not_wait(world: World, sink: Any) -> None:
    good, bad = Phone("good"), Phone("bad", DeliveryError("down", retry_after=600), KeyError("bug"))
    monitor = world.monitor(good, bad, sink=sink)
    asyncio.run(world.see(monitor, 0.3, 0.01, 0.01, 0.01))
    assert len(good.heard) == 2 and bad.heard == []
    world.clock += timedelta(seconds=599)
    assert asyncio.run(monitor.deliver()) == 0 and len(bad.moods) == 1
    world.clock += timedelta(seconds=2)
    asyncio.run(monitor.deliver())
    assert bad.moods == [] and bad.heard == []
    world.clock += timedelta(minutes=20)
    asyncio.run(monitor.deliver())
    assert [n.title.split()[0] for n in bad.heard] == ["[CRITICAL]", "[RESOLVED]"]  # in order, each once


def test_what_cannot_arrive_is_kept_as_dead(world: World, sink: Any) -> None:
    phone = Phone("phone", DeliveryError("revoked", permanent=True))
    monitor = world.monitor(phone, sink=sink)
    asyncio.run(world.see(monitor, 0.3))
    (item,) = sink.dead()
    assert (item.handler, item.error) == ("phone", "revoked") and sink.pending(world.clock + timedelta(days=9)) == []


def test_after_a_day_it_is_given_up(world: World, sink: Any) -> None:
    phone = Phone("phone", *[OSError("down")] * 1000)
    monitor = world.monitor(phone, sink=sink)

    async def a_day() -> None:
        await world.see(monitor, 0.3)
        for _ in range(100):
            world.clock += timedelta(minutes=15)
            await monitor.deliver()

    asyncio.run(a_day())
    (item,) = sink.dead()
    assert item.error == "OSError: down" and 90 <= 1000 - len(phone.moods) <= 97


def test_a_handler_no_longer_configured_does_not_lose_its_messages(world: World, sink: Any) -> None:
    phone = Phone("phone", OSError("down"))
    asyncio.run(world.see(world.monitor(phone, sink=sink), 0.3))
    world.clock += timedelta(hours=1)
    asyncio.run(world.monitor(sink=sink).deliver())
    assert sink.pending(world.clock + timedelta(hours=1))[0].attempts == 2
    world.clock += timedelta(hours=1)
    asyncio.run(world.monitor(phone, sink=sink).deliver())  # configured again
    assert len(phone.heard) == 1


def test_the_hook_runs_with_the_commit(world: World, sink: Any) -> None:
    given: list[Any] = []
    asyncio.run(world.see(world.monitor(sink=sink), 0.1, commit_hook=given.append))
    assert len(given) == 1


def test_backoff_doubles_up_to_a_quarter_of_an_hour() -> None:
    longest = [backoff(n, chance=lambda low, high: high) for n in (0, 1, 2, 50)]
    assert longest == [5, 10, 20, 900] and all(5 <= backoff(3) <= 40 for _ in range(50))
    assert backoff(0, 100.0) == 100


# ---------------------------------------------------------------- the loop
async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_the_loop_checks_delivers_and_stops_and_can_start_again(world: World, sink: Any, tmp_path: Path) -> None:
    log = LogAlertHandler(tmp_path / "a.log")
    monitor = world.monitor(log, sink=sink, check_interval=0.01)
    world.value = 0.3

    async def live() -> None:
        world.asked.clear()
        running = asyncio.create_task(monitor.start_monitoring(*world.parts))
        await until(lambda: len(world.asked) >= 3 and log.path.exists())
        monitor.stop()
        async with asyncio.timeout(10):
            await running

    asyncio.run(live())
    asyncio.run(live())
    assert log.path.read_text().count("CRITICAL") == 1


def test_a_handler_that_hangs_does_not_delay_a_check(world: World) -> None:
    async def live() -> None:
        never = asyncio.Event()
        good = Phone("good")
        monitor = world.monitor(Phone("stuck", never), good, check_interval=0.01)
        world.value = 0.3
        running = asyncio.create_task(monitor.start_monitoring(*world.parts))
        await until(lambda: len(world.asked) >= 5 and good.heard)
        monitor.stop()
        never.set()
        await running

    asyncio.run(live())


def test_missed_checks_are_made_once(world: World) -> None:
    made: list[float] = []

    def values(*_: Any) -> dict[str, float]:
        made.append(time.monotonic())
        if len(made) == 1:
            time.sleep(0.9)  # as if the machine had slept over four checks
        return {"drawdown": 0.0}

    async def live() -> None:
        monitor = world.monitor(check_interval=0.2)
        world.analytics.monitor_values = values
        running = asyncio.create_task(monitor.start_monitoring(*world.parts))
        await until(lambda: len(made) == 4)
        monitor.stop()
        await running

    asyncio.run(live())
    assert max(later - earlier for earlier, later in pairwise(made[1:])) > 0.05  # made up for, they would come at once


def test_stopping_before_the_start_is_respected(world: World) -> None:
    monitor = world.monitor()
    monitor.stop()
    asyncio.run(monitor.start_monitoring(*world.parts))
    assert world.asked == []


def test_a_store_that_cannot_be_written_stops_the_monitor_with_its_error(world: World) -> None:
    class Full(MemorySink):
        def commit(self, *args: Any, **options: Any) -> Any:
            raise StoreError("disk full")

    class Gone(MemorySink):
        def pending(self, now: datetime, handler: str | None = None) -> Any:
            raise StoreError("disk gone")

    for broken in (Full(), Gone()):
        with pytest.raises(StoreError, match="disk"):
            asyncio.run(world.monitor(sink=broken, check_interval=0.01).start_monitoring(*world.parts))
