"""The supervisor and the baton: nothing dies in silence, and every stage sees every bar in its turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from portfolio_research.config import StoreError
from portfolio_research.engine.schedule import STAGES, Schedule
from portfolio_research.engine.supervisor import Halted, RestartPolicy, Supervisor
from portfolio_research.market.protocol import Tick

AT_ONCE = RestartPolicy(first_delay=0.0)
START = datetime(2020, 1, 1, tzinfo=UTC)


def fails(times: int, then: Callable[[], None] = lambda: None) -> Callable[[], asyncio.Future[None]]:
    """A loop that raises the first few times, then ends."""
    left = [times]

    async def loop() -> None:
        await asyncio.sleep(0)
        if left[0]:
            left[0] -= 1
            raise ValueError("no prices")
        then()

    return loop  # type: ignore[return-value]


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_failed_loop_is_restarted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    restarts: list[tuple[str, str]] = []
    supervisor = Supervisor(
        policy=AT_ONCE, may_end=lambda: True, on_restart=lambda loop, why: restarts.append((loop, why))
    )
    with caplog.at_level(logging.WARNING):
        asyncio.run(supervisor.run({"risk": fails(3)}))
    assert restarts == [("risk", "ValueError: no prices")] * 3
    assert "the risk loop failed (restart 3 of 5): ValueError: no prices" in caplog.text


def test_a_loop_that_keeps_failing_halts_the_others() -> None:
    ended: list[str] = []

    async def sibling() -> None:
        try:
            await forever()
        finally:
            ended.append("sibling")

    with pytest.raises(Halted, match="model loop: ValueError: no prices") as caught:
        asyncio.run(Supervisor(policy=AT_ONCE).run({"model": fails(99), "trading": sibling}))
    assert caught.value.loop == "model"
    assert isinstance(caught.value.__cause__, ValueError)
    assert ended == ["sibling"]


def test_a_loop_that_just_returns_is_a_failure_too() -> None:
    with pytest.raises(Halted, match="risk loop: ended although it should go on"):
        asyncio.run(Supervisor(policy=AT_ONCE).run({"risk": fails(0), "trading": forever}))


def test_a_fatal_error_is_not_tried_again() -> None:
    tries: list[int] = []

    async def loop() -> None:
        tries.append(1)
        raise StoreError("portfolio.db: database or disk is full")

    with pytest.raises(Halted, match="disk is full"):
        asyncio.run(Supervisor(policy=AT_ONCE, fatal=(StoreError,)).run({"trading": loop}))
    assert len(tries) == 1


def test_the_delay_grows_to_its_ceiling() -> None:
    policy = RestartPolicy(first_delay=0.5, factor=2.0, max_delay=3.0)
    assert [policy.delay(n) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_long_good_run_is_forgiven() -> None:
    restarts: list[str] = []
    forgiving = RestartPolicy(max_restarts=1, first_delay=0.0, forgive_after=0.0)
    supervisor = Supervisor(policy=forgiving, may_end=lambda: True, on_restart=lambda loop, why: restarts.append(loop))
    asyncio.run(supervisor.run({"risk": fails(5)}))
    assert len(restarts) == 5


def test_stop_waits_for_the_loops_that_end_and_cancels_the_one_that_does_not(caplog: pytest.LogCaptureFixture) -> None:
    finished: list[str] = []

    async def scenario() -> None:
        asked = asyncio.Event()

        async def polite() -> None:
            await asked.wait()
            await asyncio.sleep(0)
            finished.append("polite")

        supervisor = Supervisor(policy=AT_ONCE, request_stop=asked.set)
        running = asyncio.create_task(supervisor.run({"polite": polite, "deaf": forever}))
        await asyncio.sleep(0)
        await supervisor.stop(timeout=0.05)
        await running

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert finished == ["polite"]
    assert "the deaf loop did not end" in caplog.text


def test_an_error_while_stopping_is_not_lost() -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def loop() -> None:
            await asked.wait()
            raise StoreError("portfolio.db: database or disk is full")

        supervisor = Supervisor(policy=AT_ONCE, request_stop=asked.set)
        running = asyncio.create_task(supervisor.run({"trading": loop}))
        await asyncio.sleep(0)
        await supervisor.stop()
        await running

    with pytest.raises(Halted, match="disk is full"):
        asyncio.run(scenario())


def test_stop_before_run_is_harmless() -> None:
    asyncio.run(Supervisor().stop())


# the baton


def ticks(n: int, *, bars: bool = True) -> list[Tick]:
    return [Tick(START + timedelta(days=i), {"BTC": 1.0 + i}, is_bar=bars) for i in range(n)]


def source(
    all_ticks: list[Tick], opened: list[datetime | None] | None = None
) -> Callable[[datetime | None], AsyncIterator[Tick]]:
    async def stream(after: datetime | None) -> AsyncIterator[Tick]:
        if opened is not None:
            opened.append(after)
        for tick in all_ticks:
            if after is None or tick.ts > after:
                await asyncio.sleep(0)
                yield tick

    return stream


async def drain(schedule: Schedule, seen: list[tuple[str, datetime]], *, bars_only: tuple[str, ...] = ()) -> None:
    async def loop(stage: str) -> None:
        async for tick in schedule.ticks(stage, bars_only=stage in bars_only):
            seen.append((stage, tick.ts))

    await asyncio.gather(*(loop(stage) for stage in reversed(STAGES)))  # the order of starting does not matter


def test_every_bar_passes_every_stage_in_order() -> None:
    seen: list[tuple[str, datetime]] = []
    bars = ticks(5)
    schedule = Schedule(source(bars), done={})
    asyncio.run(drain(schedule, seen))
    assert seen == [(stage, bar.ts) for bar in bars for stage in STAGES]
    assert schedule.ended and schedule.last == bars[-1].ts


def test_a_stage_lets_pass_what_it_had_finished() -> None:
    seen: list[tuple[str, datetime]] = []
    opened: list[datetime | None] = []
    bars = ticks(3)
    done = dict.fromkeys(STAGES, bars[0].ts) | {"trading": bars[1].ts, "risk": bars[1].ts}
    asyncio.run(drain(Schedule(source(bars, opened), done=done), seen))
    assert opened == [bars[0].ts]
    assert seen == [(stage, bars[1].ts) for stage in STAGES[2:]] + [(stage, bars[2].ts) for stage in STAGES]


def test_marks_between_bars_skip_the_stages_of_bars() -> None:
    seen: list[tuple[str, datetime]] = []
    asyncio.run(drain(Schedule(source(ticks(1, bars=False)), done={}), seen, bars_only=("model", "rebalancing")))
    assert [stage for stage, _ in seen] == ["trading", "risk", "performance", "monitoring"]


def test_a_failed_stage_gets_the_same_bar_again() -> None:
    seen: list[tuple[str, datetime]] = []
    bars = ticks(3)
    schedule = Schedule(source(bars), done={})
    failing = [True]

    def loop(stage: str) -> Callable[[], asyncio.Future[None]]:
        async def run() -> None:
            async for tick in schedule.ticks(stage):
                if stage == "model" and tick.ts == bars[1].ts and failing.pop() if failing else False:
                    raise ValueError("singular")
                seen.append((stage, tick.ts))

        return run  # type: ignore[return-value]

    supervisor = Supervisor(policy=AT_ONCE, may_end=lambda: schedule.ended)
    asyncio.run(supervisor.run({stage: loop(stage) for stage in STAGES}))
    assert not failing
    assert seen == [(stage, bar.ts) for bar in bars for stage in STAGES]


def test_a_source_that_fails_is_opened_again_and_not_taken_for_the_end() -> None:
    opened: list[datetime | None] = []
    bars = ticks(3)

    async def flaky(after: datetime | None) -> AsyncIterator[Tick]:
        opened.append(after)
        for bar in bars:
            if after is None or bar.ts > after:
                yield bar
            if len(opened) == 1 and bar is bars[1]:
                raise ConnectionError("reset by peer")

    seen: list[datetime] = []
    schedule = Schedule(flaky, done={}, stages=("trading",))

    async def loop() -> None:
        async for tick in schedule.ticks("trading"):
            seen.append(tick.ts)

    asyncio.run(Supervisor(policy=AT_ONCE, may_end=lambda: schedule.ended).run({"trading": loop}))
    assert seen == [bar.ts for bar in bars]
    assert opened == [None, bars[1].ts]


def test_close_finishes_the_bar_under_way_and_takes_no_new_one() -> None:
    seen: list[tuple[str, datetime]] = []
    bars = ticks(4)
    schedule = Schedule(source(bars), done={})

    async def loop(stage: str) -> None:
        async for tick in schedule.ticks(stage):
            seen.append((stage, tick.ts))
            if stage == "model" and tick.ts == bars[1].ts:
                schedule.close()

    async def scenario() -> None:
        await asyncio.gather(*(loop(stage) for stage in STAGES))

    asyncio.run(scenario())
    assert seen == [(stage, bar.ts) for bar in bars[:2] for stage in STAGES]


def test_close_does_not_wait_for_a_slow_source() -> None:
    async def scenario() -> Schedule:
        async def silent(after: datetime | None) -> AsyncIterator[Tick]:
            await forever()
            yield ticks(1)[0]

        schedule = Schedule(silent, done={}, stages=("trading",))
        waiting = asyncio.ensure_future(anext(aiter(schedule.ticks("trading")), None))
        await asyncio.sleep(0)
        schedule.close()
        assert await waiting is None
        return schedule

    assert asyncio.run(scenario()).ended
