"""The machine watches itself: stale data, hung loops, stuck orders, a venue that holds something else, broken numbers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from engine_runs import market, run, settings

from portfolio_research.alerts import AlertState
from portfolio_research.config import Settings, VenueError
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.engine.supervisor import Halted, RestartPolicy
from portfolio_research.engine.watch import Watch, drift
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.market.protocol import Tick
from portfolio_research.store import Store
from portfolio_research.store.outbox import StoreSink

PRICES = market(5, bars=64)
START = PRICES.index[60].to_pydatetime()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        yield opened


def impatient() -> Settings:
    wanted = settings().model_dump(mode="json")
    wanted["portfolio"]["monitoring"]["check_interval"] = 0.25
    return Settings(**wanted)


class Promising(ReplayFeed):
    """A feed that promises ticks all the time, and stops after its last one until it is told to go on."""

    poll_seconds = 0.001

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on = asyncio.Event()

    async def ticks(self, after: datetime | None = None) -> AsyncIterator[Tick]:
        async for tick in super().ticks(after):
            if tick.ts == self._prices.index[-1]:
                await self.on.wait()
            yield tick


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def alerts(store: Store) -> dict[str, AlertState]:
    return {state.rule: state for state in StoreSink(store, "main").load().values()}


def test_ages_are_counted_in_check_intervals() -> None:
    now = [0.0]
    watch = Watch(300, promised=True, clock=lambda: now[0])
    now[0] = 750.0
    assert watch.ages(0.0) == {"loop_age": 0.0, "data_age": 2.5}
    assert watch.ages(900.0) == {"loop_age": 3.0, "data_age": 3.0}  # what a hung loop holds up is old as well
    watch.heard()
    assert watch.ages(0.0)["data_age"] == 0.0
    assert Watch(300, promised=False, clock=lambda: now[0]).ages(0.0)["data_age"] == 0.0


def test_an_unanswered_order_gets_older_with_every_check() -> None:
    watch = Watch(300, promised=True)
    assert [watch.orders(sent) for sent in (["a"], ["a", "b"], ["a", "b"], ["b"], [], ["a"])] == [1, 2, 3, 3, 0, 1]


def test_drift_is_the_value_of_all_differences() -> None:
    ours, theirs = {"A": Decimal(2), "B": Decimal(1)}, {"A": Decimal(1), "C": Decimal(3)}
    assert drift(ours, theirs, {"A": 10, "B": 5, "C": 1}, 180.0) == pytest.approx(18 / 180)
    assert drift(ours, ours, {}, 100.0) == 0.0
    assert math.isnan(drift(ours, theirs, {"A": 10, "B": 5}, 100.0)) and math.isnan(drift(ours, theirs, {}, 0.0))


def test_a_feed_that_falls_silent_is_told_and_freezes_the_rest(store: Store) -> None:
    async def live() -> None:
        feed = Promising(PRICES, start=START, speed=0)
        bot = HyperliquidTradingBot(impatient(), feed=feed, store=store)
        running = asyncio.create_task(bot.start(until_end=True))
        await until(lambda: "data-stale" in alerts(store) and alerts(store)["data-stale"].active)
        stale = alerts(store)["data-stale"]
        assert stale.severity.value == "high" and stale.type.value == "system" and stale.state == "firing"
        assert not any(state.active and state.judged and state.type.value != "system" for state in alerts(store).values())
        feed.on.set()
        await running
        assert alerts(store)["data-stale"].state == "resolved"

    asyncio.run(live())


def test_a_loop_that_hangs_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        go = asyncio.Event()
        bot = HyperliquidTradingBot(impatient(), feed=ReplayFeed(PRICES, start=START, speed=0), store=store)
        place = bot.venue.place

        async def hang(order: Any) -> Any:
            await go.wait()
            return await place(order)

        monkeypatch.setattr(bot.venue, "place", hang)
        running = asyncio.create_task(bot.start(until_end=True))
        await until(lambda: all(alerts(store).get(r) and alerts(store)[r].active for r in ("loop-stuck", "order-stuck")))
        assert alerts(store)["loop-stuck"].message.startswith("Checks that the rebalancing loop hangs")
        assert alerts(store)["order-stuck"].severity.value in ("medium", "high")
        go.set()
        await running
        assert not any(alerts(store)[rule].active for rule in ("loop-stuck", "order-stuck", "data-stale"))

    asyncio.run(live())


def test_a_venue_that_holds_something_else_is_critical_at_once(store: Store) -> None:
    def lose(bot: HyperliquidTradingBot) -> None:
        true = bot.venue.positions

        async def positions() -> Mapping[str, Decimal]:
            held = await true()
            return {asset: size * Decimal("0.9") for asset, size in held.items()}

        bot.venue.positions = positions  # type: ignore[method-assign]

    run(settings(), PRICES, store, start=START, prepare=lose)
    assert (alerts(store)["position-drift"].state, alerts(store)["position-drift"].severity.value) == ("firing", "critical")
    assert alerts(store)["position-drift"].value == pytest.approx(0.1, rel=0.01)


def test_a_venue_that_does_not_answer_cannot_be_judged(store: Store) -> None:
    def away(bot: HyperliquidTradingBot) -> None:
        async def positions() -> Mapping[str, Decimal]:
            raise VenueError("maintenance")

        bot.venue.positions = positions  # type: ignore[method-assign]

    run(settings(), PRICES, store, start=START, prepare=away)
    assert "Ledger against venue" in alerts(store)["cannot-judge"].message and "position-drift" not in alerts(store)


def test_a_halt_is_told_even_if_no_number_can_be_computed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bot: HyperliquidTradingBot) -> None:
        def fail(*args: Any, **options: Any) -> Any:
            raise ArithmeticError("singular matrix")

        monkeypatch.setattr(bot.hrp_optimizer, "fit", fail)
        monkeypatch.setattr("portfolio_research.analytics.risk_score", fail)

    with pytest.raises(Halted):
        run(settings(), PRICES, store, start=START, prepare=broken, restart=RestartPolicy(first_delay=0.0, max_restarts=0))
    assert alerts(store)["engine-halted"].active and alerts(store)["engine-halted"].severity.value == "critical"
    assert "ArithmeticError: singular matrix" in alerts(store)["cannot-judge"].message
