"""The monitor: a tick writes before anybody sends, and nothing that fails stops the rest."""

from __future__ import annotations

import asyncio
import contextlib
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
from portfolio_research.config import AlertError, ChannelSettings, ConfigError, StoreError
from portfolio_research.handlers import LogAlertHandler
from portfolio_research.monitor import PortfolioMonitor
from portfolio_research.sinks import MemorySink
from portfolio_research.store import Store
from portfolio_research.store.outbox import StoreSink
from portfolio_research.vigil import Vigil
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


# ---------------------------------------------------------------- routing
WORST = ChannelSettings(min_severity="critical")
NIGHT = ChannelSettings.model_validate({"quiet_hours": {"start": "22:00", "end": "07:00", "zone": "UTC"}})


def titles(phone: Phone) -> list[str]:
    return [notice.title.split()[0] for notice in phone.heard]


def test_a_channel_hears_only_what_is_bad_enough(world: World, sink: Any) -> None:
    everything, worst = Phone("everything"), Phone("worst")
    monitor = world.monitor(everything, worst, sink=sink, channels={"worst": WORST})
    asyncio.run(world.see(monitor, 0.12, 0.12, 0.3))
    assert titles(everything) == ["[MEDIUM]", "[CRITICAL]"] and titles(worst) == ["[CRITICAL]"]
    with pytest.raises(ConfigError, match="channels names pager, which is no handler; there is phone"):
        world.monitor(Phone(), channels={"pager": WORST})


def test_what_a_dead_channel_should_have_told_is_told_by_the_next(world: World, sink: Any) -> None:
    gone = [DeliveryError("HTTP 410", permanent=True)] * 9
    slack, pager, other = Phone("slack", *gone), Phone("pager"), Phone("other")
    monitor = world.monitor(other, slack, pager, sink=sink, channels={"pager": WORST})
    asyncio.run(world.see(monitor, 0.12, 0.12, 0.3))
    asyncio.run(monitor.deliver())
    assert sorted(titles(pager)) == ["[CRITICAL]", "[HIGH]", "[MEDIUM]"]  # the mild one instead of slack, and a word
    assert any("(instead of slack)" in n.title and "HTTP 410" in n.lines[-1] for n in pager.heard)
    assert titles(other) == ["[MEDIUM]", "[CRITICAL]"] and [i.handler for i in sink.dead()] == ["slack", "slack"]
    asyncio.run(world.see(monitor, 0.01, 0.01, 0.01))
    asyncio.run(monitor.deliver())
    assert len(pager.heard) == 4  # resolved; that slack is gone is told once a day


def test_a_dead_letter_that_is_tried_again_arrives(world: World, sink: Any) -> None:
    slack = Phone("slack", DeliveryError("HTTP 410", permanent=True))
    monitor = world.monitor(slack, sink=sink)
    asyncio.run(world.see(monitor, 0.3))
    (letter,) = sink.dead()
    sink.retry(letter.id, world.clock)
    asyncio.run(monitor.deliver())
    assert titles(slack) == ["[CRITICAL]"] and sink.dead() == []


def test_a_night_is_one_message_in_the_morning_also_after_a_restart(world: World, sink: Any) -> None:
    sleeper, log = Phone("sleeper"), Phone("log")
    world.clock = datetime(2026, 1, 1, 23, tzinfo=UTC)
    both = {"sink": sink, "channels": {"sleeper": NIGHT}}
    asyncio.run(world.see(world.monitor(sleeper, log, **both), 0.12, 0.12))
    asyncio.run(world.see(world.monitor(sleeper, log, **both), 0.3))  # critical breaks through
    for hour in range(5):
        world.clock += timedelta(hours=1)
        asyncio.run(world.see(world.monitor(sleeper, log, **both), *[0.15] * 3 if hour == 1 else [0.15]))
    night = len(sleeper.heard)  # with reminders
    assert set(titles(sleeper)) == {"[CRITICAL]"} and len(log.heard) > night
    world.clock = datetime(2026, 1, 2, 7, tzinfo=UTC)
    asyncio.run(world.monitor(sleeper, log, **both).deliver())
    asyncio.run(world.monitor(sleeper, log, **both).deliver())
    morning = sleeper.heard[night:]
    held = [line for notice in log.heard if notice.severity != "critical" for line in notice.lines]
    told = [line for notice in morning for line in notice.lines]
    assert len(morning) == 1 and all(any(line in one for one in told) for line in held)


def test_the_message_of_the_night_is_tried_again_as_one(world: World, sink: Any) -> None:
    sleeper = Phone("sleeper", DeliveryError("down", retry_after=60))
    world.clock = datetime(2026, 1, 1, 23, tzinfo=UTC)
    monitor = world.monitor(sleeper, sink=sink, channels={"sleeper": NIGHT})
    other = Notice("main", "[LOW] main: other", Severity.LOW, ("LOW other",), world.clock, "k9")
    asyncio.run(world.see(monitor, 0.12, 0.12))
    sink.post(other, ["sleeper"], world.clock)
    world.clock = datetime(2026, 1, 2, 7, tzinfo=UTC)
    for _ in range(2):
        asyncio.run(monitor.deliver())
    assert sleeper.heard == [] and sleeper.moods == []
    world.clock += timedelta(minutes=2)
    asyncio.run(monitor.deliver())
    (one,) = sleeper.heard
    assert len(one.lines) == 2 and sink.pending(world.clock + timedelta(days=1)) == []


# ---------------------------------------------------------------- the digest of the day
def test_there_is_one_digest_a_day_also_after_a_restart(world: World, sink: Any) -> None:
    phone, deaf = Phone("phone"), Phone("deaf")
    world.clock = datetime(2026, 1, 1, 7, tzinfo=UTC)
    given = {"sink": sink, "digest_hour": 8, "channels": {"deaf": WORST}}
    world.risk.equity = 101_234.5
    asyncio.run(world.see(world.monitor(phone, deaf, **given), 0.3))
    assert titles(phone) == ["[CRITICAL]"]
    for hour in (8, 9, 20, 32, 33):  # the last two are of the next day
        world.clock = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
        asyncio.run(world.see(world.monitor(phone, deaf, **given), 0.3))
    told = [notice for notice in phone.heard if notice.key.startswith("digest:")]
    assert [notice.key for notice in told] == ["digest:2026-01-01", "digest:2026-01-02"]
    assert told[0].title == "[DIGEST] main: equity 101,234.50, drawdown 30.0 %, 1 active alert"
    assert [n.key for n in deaf.heard if ":" in n.key] == [n.key for n in told]


def test_the_digest_tells_what_did_not_arrive(world: World, sink: Any) -> None:
    phone, slack = Phone("phone"), Phone("slack", DeliveryError("HTTP 410 <b>gone</b>", permanent=True))
    asyncio.run(world.see(world.monitor(phone, slack, sink=sink), 0.3))
    asyncio.run(world.see(world.monitor(phone, slack, sink=sink, digest_hour=0), 0.3))
    (told,) = [notice for notice in phone.heard if notice.key.startswith("digest:")]
    assert any(line.startswith("NOT DELIVERED slack: [CRITICAL]") and "410" in line for line in told.lines)


# ---------------------------------------------------------------- the last resort
def test_a_log_that_cannot_be_written_ends_the_monitor_after_the_others_were_told(world: World, tmp_path: Path) -> None:
    phone = Phone("phone")
    monitor = world.monitor(LogAlertHandler(tmp_path), phone, check_interval=0.01)  # a folder is not a file
    world.value = 0.3
    with pytest.raises(DeliveryError, match="choose another file"):
        asyncio.run(monitor.start_monitoring(*world.parts))
    assert titles(phone) == ["[CRITICAL]"]
    (kept,) = monitor.sink.pending(world.clock, "log")
    assert kept.attempts >= 1 and monitor.sink.dead() == []


def test_the_hook_runs_with_the_commit(world: World, sink: Any) -> None:
    given: list[Any] = []
    asyncio.run(world.see(world.monitor(sink=sink), 0.1, commit_hook=given.append))
    assert len(given) == 1


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


def test_a_handler_that_hangs_does_not_delay_what_others_are_told_later(world: World) -> None:
    async def live() -> None:
        never = asyncio.Event()
        stuck, good = Phone("stuck", never), Phone("good")
        monitor = world.monitor(stuck, good, check_interval=0.01)
        world.value = 0.12
        running = asyncio.create_task(monitor.start_monitoring(*world.parts))
        await until(lambda: good.heard)
        world.value = 0.3
        await until(lambda: len(good.heard) == 2)
        assert not never.is_set() and not running.done()
        monitor.stop()
        never.set()
        await running
        assert len(stuck.heard) == 2  # in the last moment

    asyncio.run(live())


def test_a_handler_that_does_not_let_go_does_not_hold_up_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portfolio_research.monitor._LAST_WORDS", 0.05)
    monkeypatch.setattr("portfolio_research.monitor._LET_GO", 0.05)
    release = asyncio.Event()

    class Stubborn(Phone):
        async def send(self, notice: Notice) -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

    async def live() -> None:
        monitor = world.monitor(Stubborn("stubborn"), check_interval=0.01)
        world.value = 0.3
        running = asyncio.create_task(monitor.start_monitoring(*world.parts))
        await until(lambda: len(world.asked) >= 3)
        monitor.stop()
        async with asyncio.timeout(10):
            await running
        release.set()

    asyncio.run(live())


def test_signs_of_life_follow_complete_checks_only(world: World, tmp_path: Path) -> None:
    class Full(MemorySink):
        def commit(self, *args: Any, **options: Any) -> Any:
            raise StoreError("disk full")

    for sink, there in ((Full(), False), (MemorySink(), True)):
        vigil = Vigil(tmp_path / "beat.json")

        async def live(sink: Any = sink, vigil: Vigil = vigil) -> None:
            monitor = world.monitor(sink=sink, check_interval=60, vigil=vigil)
            running = asyncio.create_task(monitor.start_monitoring(*world.parts))
            await until(lambda: running.done() or (tmp_path / "beat.json").exists())
            monitor.stop()
            await running

        with contextlib.suppress(StoreError):
            asyncio.run(live())
        assert (tmp_path / "beat.json").exists() == there


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
