"""Orders: planned as a whole, written down first, ended once; and what users may ask for by hand."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.config import RiskSettings
from portfolio_research.costs import Costs
from portfolio_research.engine.execution import AdvancedExecutor, Desk, OrderExecutor, Trade, plan
from portfolio_research.engine.risk import OrderRefused, RiskManager
from portfolio_research.market.paper import PaperExchange
from portfolio_research.market.protocol import OrderReport, Tick, VenueOrder
from portfolio_research.rebalancing import Position, Positions
from portfolio_research.store import Store, ledger, telemetry

TS = datetime(2020, 3, 12, tzinfo=UTC)
MARKS = {"BTC": 100.0, "ETH": 10.0}


def planned(trades: list[Trade], positions: Positions, **desk: Any) -> list[ledger.PlannedOrder]:
    return plan(trades, rebalance_id="r", positions=positions, marks=MARKS, desk=Desk("main", **desk), ts=TS)


def held(cash: str = "0", **sizes: str) -> Positions:
    marks = {asset: Decimal(str(MARKS[asset])) for asset in sizes}
    return Positions({a: Position(a, Decimal(s), marks[a], marks[a]) for a, s in sizes.items()}, cash=Decimal(cash))


def test_sells_go_out_before_buys_and_large_amounts_in_slices() -> None:
    orders = planned(
        [Trade("ETH", "buy", 900.0), Trade("BTC", "sell", 1000.0)], held("0", BTC="100"), large_trade_threshold=950.0
    )
    assert [(o.asset, o.kind, o.slice, o.slices) for o in orders] == [
        *(("BTC", "twap", k, 5) for k in range(5)),
        ("ETH", "market", 0, 1),
    ]
    assert [o.sequence for o in orders] == list(range(6))
    assert sum(o.size for o in orders[:5]) == -10


def test_exactly_at_the_threshold_is_one_order() -> None:
    assert len(planned([Trade("BTC", "buy", 10_000.0)], held("1000000"))) == 1
    assert len(planned([Trade("BTC", "buy", 10_000.01)], held("1000000"))) == 5


def test_an_order_above_its_share_of_equity_is_sliced_even_if_it_is_small() -> None:
    orders = planned([Trade("BTC", "buy", 900.0)], held("1000"), max_order_share=0.1)
    assert len(orders) == 10 and all(float(o.size) * 100 <= 100 for o in orders)


def test_selling_all_but_a_crumb_sells_all() -> None:
    (order,) = planned([Trade("BTC", "sell", 333.33333333)], held("5000", BTC="3.33333334"))
    assert order.size == Decimal("-3.33333334")


@given(
    amounts=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6),
    cash=st.decimals(0, 1_000_000, places=6),
    fee=st.floats(0, 0.01),
    slippage=st.floats(0, 0.01),
)
def test_a_plan_never_spends_more_than_there_is(amounts: list[float], cash: Decimal, fee: float, slippage: float) -> None:
    costs = Costs(fee, slippage)
    orders = planned([Trade("BTC", "buy", a) for a in amounts], Positions(cash=cash + 1), costs=costs)
    unit = Decimal(100) * (1 + Decimal(repr(slippage))) * (1 + Decimal(repr(fee)))
    assert sum((o.size for o in orders), Decimal(0)) * unit <= cash + 1
    assert all(o.size > 0 and o.size % Decimal("1e-8") == 0 for o in orders)


@dataclass
class World:
    store: Store
    venue: PaperExchange
    risk: RiskManager
    executor: OrderExecutor
    twap: AdvancedExecutor

    def orders(self) -> list[ledger.PlannedOrder]:
        with self.store.read() as conn:
            return ledger.order_history(conn, "main")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Store.open(tmp_path / "p.db", durable=False) as store:
        with store.begin() as conn:
            ledger.ensure_portfolio(conn, "main", Decimal(10_000), "USD", "paper", "test", "{}")
            telemetry.record_bars(conn, "main", [(TS, MARKS)])
        venue, risk = PaperExchange(store, "main", Costs()), RiskManager(RiskSettings())
        venue.mark(Tick(TS, MARKS))
        with store.read() as conn:
            risk.hold(ledger.load_positions(conn, "main"))
        risk.mark(MARKS)
        executor = OrderExecutor(store, venue, risk, Desk("main"))
        executor.now = TS
        yield World(store, venue, risk, executor, AdvancedExecutor(executor))


def test_an_order_by_hand_fills_and_is_in_the_ledger(world: World) -> None:
    order = asyncio.run(world.executor.place_order("BTC", "buy", 1_000))
    assert order.state == "filled" and order.size == 10 and order.strategy == "manual"
    assert world.risk.positions["BTC"].size == 10
    assert asyncio.run(world.executor.place_order("BTC", "sell", 500)).size == -5
    with world.store.read() as conn:
        rebalances = ledger.rebalances(conn, "main")
    assert [row.reason for row in rebalances] == ["sell 500.00 of BTC by hand", "buy 1,000.00 of BTC by hand"]
    assert all(row.slot.microsecond for row in rebalances)  # the bar's own slot stays free


def test_a_twap_by_hand_is_spread_and_each_slice_is_recorded_in_advance(world: World) -> None:
    orders = asyncio.run(world.twap.execute_twap_order("BTC", "buy", 3_000, slices=3, duration=timedelta(seconds=0.02)))
    assert [o.state for o in orders] == ["filled"] * 3 and sum(o.size for o in orders) == 30
    assert len(asyncio.run(world.twap.execute_twap_order("ETH", "buy", 25.0))) == 2  # no slice below the minimum trade


@pytest.mark.parametrize(
    ("asset", "side", "amount", "message"),
    [
        ("BTX", "buy", 100.0, "BTX: has no price.*known: BTC"),
        ("BTC", "hold", 100.0, "side 'hold' is neither"),
        ("BTC", "buy", 9.99, "minimum trade size of 10"),
        ("BTC", "buy", -100.0, "minimum trade size"),
        ("BTC", "buy", float("nan"), "minimum trade size"),
        ("BTC", "buy", float("inf"), "minimum trade size"),
        ("BTC", "buy", 3_000.0, "max_order_share"),
        ("BTC", "buy", 11_000.0, "cannot be traded, only"),
        ("BTC", "sell", 100.0, "only 0 is held"),
    ],
)
def test_bad_requests_are_refused_and_leave_no_trace(
    world: World, asset: str, side: str, amount: float, message: str
) -> None:
    with pytest.raises(OrderRefused, match=message):
        asyncio.run(world.executor.place_order(asset, side, amount))
    assert not world.orders()


@pytest.mark.parametrize("schedule", [{"slices": 0}, {"duration": -1.0}, {"duration": float("inf")}])
def test_a_schedule_that_is_none_is_refused(world: World, schedule: dict[str, Any]) -> None:
    with pytest.raises(OrderRefused, match="is no schedule"):
        asyncio.run(world.twap.execute_twap_order("BTC", "buy", 100.0, **schedule))


def test_an_order_found_as_sent_is_asked_for_before_it_is_sent_again(world: World) -> None:
    (order,) = world.executor.write_down(Trade("BTC", "buy", 1_000, 1), "manual")
    sent = world.executor._note(order, "sent")

    async def scenario() -> None:
        report = await world.venue.place(VenueOrder(order.cloid, order.asset, order.size))
        with world.store.begin() as conn:
            ledger.record_fill(conn, report.fills[0])  # as if the crash came between fill and order state
        done = await world.executor.execute(sent)
        assert done.state == "filled"
        assert await world.executor.execute(done) is done

    asyncio.run(scenario())
    with world.store.read() as conn:
        assert len(ledger.fills(conn, "main")) == 1
        assert ledger.cash(conn, "main") > 8_990


def test_one_that_the_venue_never_saw_is_sent_again(world: World) -> None:
    (order,) = world.executor.write_down(Trade("BTC", "buy", 1_000, 1), "manual")
    assert asyncio.run(world.executor.execute(world.executor._note(order, "sent"))).state == "filled"


def test_after_a_rejected_slice_the_rest_is_rejected_too(world: World) -> None:
    orders = world.executor.write_down(Trade("BTC", "buy", 3_000, 3), "manual")
    asyncio.run(world.executor.execute(orders[0]))
    world.risk.halt("drill")
    done = asyncio.run(world.twap.execute(world.orders()))
    assert [order.state for order in done] == ["filled", "rejected", "rejected"]
    assert "no order leaves while trading is halted (drill)" in done[1].reason
    assert done[2].reason.startswith("slice 1 was rejected: ")
    assert asyncio.run(world.twap.execute(done)) == done  # what has ended stays as it is


def test_what_the_venue_refuses_is_rejected_with_its_reason(world: World) -> None:
    world.venue.mark(Tick(TS, {"ETH": 10.0}))
    with pytest.raises(OrderRefused, match="BTC has no price now"):
        asyncio.run(world.executor.place_order("BTC", "buy", 100.0))
    assert world.orders()[0].state == "rejected"


def test_a_report_of_rejection_is_recorded(world: World) -> None:
    class Refuses(PaperExchange):
        async def place(self, order: VenueOrder) -> OrderReport:
            return OrderReport(order.cloid, "rejected", (), "halted market")

    refusing = OrderExecutor(world.store, Refuses(world.store, "main"), world.risk, Desk("main"))
    with pytest.raises(OrderRefused, match="halted market"):
        asyncio.run(refusing.place_order("BTC", "buy", 100.0))
