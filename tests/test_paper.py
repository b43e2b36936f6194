"""The paper exchange: exact costs, one fill per client id, and nothing lost or doubled when the process is killed."""

import asyncio
import os
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_rows import CAPITAL, day, open_order, start

from portfolio_research.config import ConfigError, VenueError
from portfolio_research.costs import Costs, cost_components
from portfolio_research.market.paper import PaperExchange
from portfolio_research.market.protocol import Tick, Venue, VenueOrder
from portfolio_research.store import Store, ledger


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


@pytest.fixture
def venue(store):
    exchange = PaperExchange(store, "main", Costs(fee=0.001, slippage=0.002))
    exchange.mark(Tick(day(0), {"BTC": 100.0, "ETH": 0.1}))
    return exchange


def place(venue, asset, size, **more):
    """Plan, place and record, as an executor does."""
    size = Decimal(size)
    with venue.store.begin() as conn:
        planned = open_order(conn, asset, str(size), slice_=len(ledger.order_history(conn, "main")))
    report = asyncio.run(venue.place(VenueOrder(planned.cloid, asset, size, **more)))
    with venue.store.begin() as conn:
        for fill in report.fills:
            ledger.record_fill(conn, fill)
    return report


def cash(store):
    with store.read() as conn:
        return ledger.cash(conn, "main")


def test_it_is_a_venue(venue):
    assert isinstance(venue, Venue)


def test_costs_are_exact(venue):
    bought = place(venue, "BTC", "2").fills[0]
    assert (bought.price, bought.fee, bought.slippage) == (Decimal("100.2"), Decimal("0.2004"), Decimal("0.4"))
    assert bought.ts == day(0)
    sold = place(venue, "BTC", "-1").fills[0]
    assert (sold.price, sold.fee, sold.slippage) == (Decimal("99.8"), Decimal("0.0998"), Decimal("0.2"))
    assert cash(venue.store) == CAPITAL - Decimal("200.6004") + Decimal("99.7002")
    assert asyncio.run(venue.positions()) == {"BTC": Decimal(1)}


@given(mark=st.floats(1e-4, 1e6), units=st.integers(1, 10**12), side=st.sampled_from([1, -1]))
def test_a_fill_costs_what_the_cost_model_says(mark, units, side):
    from portfolio_research.costs import trade_costs

    costs = Costs()
    size = Decimal(units) * Decimal("1e-8") * side
    fill = PaperExchange(None, "main", costs)._fill(VenueOrder("0x1", "BTC", size), ledger.to_decimal(mark), day(0))
    paid = size * fill.price + fill.fee - size * ledger.to_decimal(mark)
    assert float(paid) == pytest.approx(float(trade_costs(float(size) * mark, costs)), rel=1e-9)


@given(st.floats(0, 0.01), st.floats(0, 0.01), st.floats(0, 0.01), st.floats(0, 1), st.sampled_from([1, -1]))
def test_spread_and_makers_cost_what_the_cost_model_says(slippage, spread, maker_fee, maker_share, side):
    costs = Costs(slippage=slippage, spread=spread, maker_fee=maker_fee, maker_share=maker_share)
    size, mark = Decimal(3) * side, Decimal("123.45")
    fill = PaperExchange(None, "main", costs)._fill(VenueOrder("0x1", "BTC", size), mark, day(0))
    parts = cost_components(np.array([float(size * mark)]), costs)
    assert float(fill.fee) == pytest.approx(parts.fee[0], rel=1e-12)
    assert float(fill.slippage) == pytest.approx(parts.spread[0] + parts.slippage[0], rel=1e-9, abs=1e-12)


def test_impact_is_refused_by_name():
    with pytest.raises(ConfigError, match="portfolio.costs.impact is 1, and the paper exchange knows no volumes"):
        PaperExchange(None, "main", Costs(impact=1.0))


def test_the_same_client_id_fills_once(venue):
    first = place(venue, "BTC", "2")
    venue.mark(Tick(day(1), {"BTC": 500.0}))
    again = asyncio.run(venue.place(VenueOrder(first.cloid, "BTC", Decimal(2))))
    assert again == first == asyncio.run(venue.order_status(first.cloid))
    with venue.store.begin() as conn:
        assert not ledger.record_fill(conn, again.fills[0])
    assert cash(venue.store) == CAPITAL - Decimal("200.6004")


def test_an_order_that_was_never_recorded_is_unknown(venue):
    report = asyncio.run(venue.order_status("0xnever"))
    assert (report.state, report.fills) == ("unknown", ())


@pytest.mark.parametrize("size", ["NaN", "Infinity", "0", "0.000000001"])
def test_sizes_that_make_no_sense_are_refused(venue, size):
    with pytest.raises(VenueError, match="BTC: size"):
        asyncio.run(venue.place(VenueOrder("0x1", "BTC", Decimal(size))))


def test_what_has_no_price_cannot_be_traded(venue):
    with pytest.raises(VenueError, match="XRP has no price"):
        asyncio.run(venue.place(VenueOrder("0x1", "XRP", Decimal(1))))
    venue.mark(Tick(day(1), {"ETH": 0.1}))
    with pytest.raises(VenueError, match="BTC has no price"):
        asyncio.run(venue.place(VenueOrder("0x1", "BTC", Decimal(1))))


@pytest.mark.parametrize("price", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_marks_are_refused_and_change_nothing(venue, price):
    with pytest.raises(VenueError, match="ETH is priced"):
        venue.mark(Tick(day(1), {"BTC": 1.0, "ETH": price}))
    assert place(venue, "BTC", "1").fills[0].price == Decimal("100.2")


def test_it_lends_neither_money_nor_assets(venue):
    with pytest.raises(VenueError, match="BTC: buying 1000 costs 100300.20, cash is 100000.00"):
        place(venue, "BTC", "1000")
    with pytest.raises(VenueError, match="BTC: cannot sell 1, 0 are held"):
        place(venue, "BTC", "-1")
    place(venue, "BTC", "1")
    with pytest.raises(VenueError, match="cannot sell 2, 1 are held"):
        place(venue, "BTC", "-2")


def test_all_the_cash_can_be_spent_but_not_a_lot_more(venue):
    unit = Decimal("100.2") * Decimal("1.001")
    most = (CAPITAL / unit).quantize(Decimal("1e-8"), rounding="ROUND_DOWN")
    with pytest.raises(VenueError, match="buying"):
        place(venue, "BTC", most + Decimal("1e-8"))
    place(venue, "BTC", most)
    assert 0 <= cash(venue.store) < Decimal("1e-5")


def test_limits_and_expiry_are_kept(venue):
    with pytest.raises(VenueError, match="worse than the limit"):
        place(venue, "BTC", "1", limit=Decimal("100.1"))
    assert place(venue, "BTC", "1", limit=Decimal("100.2")).state == "filled"
    with pytest.raises(VenueError, match="worse than the limit"):
        place(venue, "BTC", "-1", limit=Decimal("99.9"))
    with pytest.raises(VenueError, match="expired"):
        place(venue, "BTC", "1", expires_at=day(0))
    assert place(venue, "BTC", "1", expires_at=day(1)).state == "filled"


KILLED = """
    import asyncio, os, signal, sys
    from decimal import Decimal
    from portfolio_research.costs import Costs
    from portfolio_research.market.paper import PaperExchange
    from portfolio_research.market.protocol import Tick, VenueOrder
    from portfolio_research.store import Store, ledger
    from store_rows import day, open_order

    def die_at(point):
        if point == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    store = Store.open(sys.argv[1])
    venue = PaperExchange(store, "main", Costs())
    venue.mark(Tick(day(0), {"BTC": 100.0}))
    with store.begin() as conn:
        planned = [open_order(conn, "BTC", "1", slice_=k, sequence=k) for k in range(3)]
        die_at(0)
    for k, order in enumerate(planned):
        with store.begin() as conn:
            ledger.set_order_state(conn, order.cloid, "sent")
        die_at(10 * k + 1)
        report = asyncio.run(venue.place(VenueOrder(order.cloid, "BTC", order.size)))
        die_at(10 * k + 2)
        with store.begin() as conn:
            for fill in report.fills:
                ledger.record_fill(conn, fill)
            die_at(10 * k + 3)
            ledger.set_order_state(conn, order.cloid, "filled")
        die_at(10 * k + 4)
"""


@pytest.mark.parametrize("point", [0, 1, 2, 3, 4, 11, 13, 22, 24])
def test_killed_at_any_point_and_run_again_each_order_fills_once(tmp_path, point):
    path = tmp_path / "portfolio.db"
    with Store.open(path) as store, store.begin() as conn:
        start(conn)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    def run(die_at):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(die_at)]
        return subprocess.run(
            command, env=environment, cwd=Path(__file__).parent.parent, timeout=60, capture_output=True, text=True
        )

    assert run(point).returncode == -9
    ended = run(-1)
    assert (ended.returncode, ended.stderr) == (0, "")
    with Store.open(path) as store, store.read() as conn:
        assert len(ledger.fills(conn, "main")) == 3
        assert ledger.lots(conn, "main")["BTC"].size == 3
        assert ledger.cash(conn, "main") == CAPITAL - 3 * Decimal("100.05") * Decimal("1.00045")
        assert {order.state for order in ledger.order_history(conn, "main")} == {"filled"}
