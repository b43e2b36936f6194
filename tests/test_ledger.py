"""The ledger: exact, indifferent to the order and the number of times a fill is heard."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import CAPITAL, day, fill_of, open_order, start

from portfolio_research.config import ConfigError, StoreError
from portfolio_research.rebalancing import Positions
from portfolio_research.store import Store, ledger, telemetry


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


def traded(conn, *trades):
    """Record (asset, size, price) as the fill of one order per day."""
    for n, (asset, size, price) in enumerate(trades):
        ledger.record_fill(conn, fill_of(open_order(conn, asset, size, n), price))


# Portfolios and stages


def test_a_portfolio_is_created_once_and_taken_up_again(store):
    with store.begin() as conn:
        again = ledger.ensure_portfolio(conn, "main", Decimal("100000.00"), "USD", "paper", "other prices", '{"a":1}')
        row = ledger.portfolio_row(conn, "main")
    assert again is False
    assert (row.source, row.settings, row.cash) == ("other prices", '{"a":1}', "100000")


@pytest.mark.parametrize("changed", [{"capital": Decimal(5)}, {"quote": "EUR"}, {"mode": "live"}])
def test_what_would_falsify_the_ledger_cannot_change(store, changed):
    given_ = {"capital": CAPITAL, "quote": "USD", "mode": "paper", **changed}
    with pytest.raises(ConfigError, match=f"main was started with {next(iter(changed))}"), store.begin() as conn:
        ledger.ensure_portfolio(conn, "main", source="x", settings_json="{}", **given_)


def test_an_unknown_portfolio_names_the_known_ones(store):
    with store.begin() as conn:
        start(conn, "second")
    with pytest.raises(ledger.UnknownPortfolio, match="'third'.*main, second"), store.read() as conn:
        ledger.cash(conn, "third")


def test_a_cursor_only_advances(store):
    with store.begin() as conn:
        assert ledger.cursor(conn, "main", "risk") is None
        ledger.advance(conn, "main", "risk", day(0))
        ledger.advance(conn, "main", "risk", day(1))
        ledger.advance(conn, "main", "model", day(0))
    with store.read() as conn:
        assert (ledger.cursor(conn, "main", "risk"), ledger.cursor(conn, "main", "model")) == (day(1), day(0))
    with pytest.raises(StoreError, match="stage risk"), store.begin() as conn:
        ledger.advance(conn, "main", "risk", day(1))


# Decisions and orders


def test_a_slot_has_one_decision(store):
    with store.begin() as conn:
        first = ledger.open_rebalance(conn, "main", day(0), {"reason": "drift", "tolerance": float("nan")}, "executing")
        second = ledger.open_rebalance(conn, "main", day(0), {"reason": "again"}, "declined")
        ledger.open_rebalance(conn, "main", day(1), {"reason": "within tolerance"}, "declined")
    assert first == second
    with store.read() as conn:
        newest, oldest = ledger.rebalances(conn, "main")
        assert ledger.rebalances(conn, "main", limit=1) == [newest]
        assert ledger.rebalances(conn, "main", state="executing") == [oldest]
    assert (newest.state, newest.slot, newest.finished_at is None) == ("declined", day(1), False)
    assert (oldest.id, oldest.state, oldest.reason, oldest.finished_at) == (first, "executing", "drift", None)
    assert oldest.decision == '{"reason":"drift","tolerance":null}'


def test_a_rebalance_finishes(store):
    with store.begin() as conn:
        opened = ledger.open_rebalance(conn, "main", day(0), {"reason": "drift"}, "executing")
        ledger.set_rebalance_state(conn, opened, "done")
        done = ledger.rebalances(conn, "main")[0]
        ledger.set_rebalance_state(conn, opened, "partial", "BTC was refused", now=day(5))
        partial = ledger.rebalances(conn, "main")[0]
    assert (done.state, done.reason, done.finished_at is None) == ("done", "drift", False)
    assert (partial.state, partial.reason, partial.finished_at) == ("partial", "BTC was refused", day(5))
    with pytest.raises(StoreError, match="nothing is not in the ledger"), store.begin() as conn:
        ledger.set_rebalance_state(conn, "nothing", "done")


def test_orders_are_planned_once_and_keep_their_state(store):
    with store.begin() as conn:
        buy = open_order(conn, "BTC", "1.5", sequence=1)
        sell = open_order(conn, "ETH", "-2", sequence=0)
        ledger.set_order_state(conn, buy.cloid, "rejected", "no cash")
        assert ledger.plan_orders(conn, [buy, sell]) == 0
    with store.read() as conn:
        planned = ledger.orders(conn, buy.rebalance_id)
        assert planned == ledger.order_history(conn, "main")
        assert ledger.order_history(conn, "main", since=day(1)) == []
    assert planned[0] == sell
    assert (planned[1].size, planned[1].state, planned[1].reason) == (Decimal("1.5"), "rejected", "no cash")
    with pytest.raises(StoreError, match="order 0xnone"), store.begin() as conn:
        ledger.set_order_state(conn, "0xnone", "filled")


def test_client_ids_are_stable_and_distinct():
    one = ledger.cloid("main@2020-02-03T00:00:00+00:00", "BTC", 0)
    assert one == ledger.cloid("main@2020-02-03T00:00:00+00:00", "BTC")
    assert len({one, ledger.cloid("main@2020-02-03T00:00:00+00:00", "BTC", 1), ledger.cloid("other", "BTC")}) == 3
    assert len(one) == 34 and int(one, 16) > 0


# Fills


def test_average_cost(store):
    with store.begin() as conn:
        traded(conn, ("BTC", "1", "100"), ("BTC", "3", "200"), ("BTC", "-2", "300"))
        lot = ledger.lots(conn, "main")["BTC"]
        assert (lot.size, lot.entry_price, lot.realized) == (Decimal(2), Decimal(175), Decimal(250))
        assert ledger.cash(conn, "main") == CAPITAL - 100 - 600 + 600


def test_a_fill_through_zero_opens_the_other_side_at_its_own_price(store):
    with store.begin() as conn:
        traded(conn, ("BTC", "1", "100"), ("BTC", "-3", "150"))
        assert ledger.lots(conn, "main")["BTC"] == ledger.Lot(Decimal(-2), Decimal(150), Decimal(50))
        ledger.record_fill(conn, fill_of(open_order(conn, "BTC", "2", 2), "140", fee="1"))
        assert ledger.lots(conn, "main")["BTC"] == ledger.Lot(Decimal(0), Decimal(0), Decimal(69))
        assert ledger.holdings(conn, "main") == []
        assert ledger.cash(conn, "main") == CAPITAL + 69


def test_a_fill_heard_twice_counts_once(store):
    with store.begin() as conn:
        fill = fill_of(open_order(conn, "BTC", "1"), "100", fee="0.045")
        assert [ledger.record_fill(conn, fill) for _ in range(3)] == [True, False, False]
        assert ledger.fills(conn, "main") == ledger.fills_of_order(conn, fill.cloid) == [fill]
        assert ledger.fills(conn, "main", since=day(1)) == []
        assert ledger.fills_of_rebalances(conn, ["main@2020-02-03T00:00:00+00:00", "x"]) == {
            "main@2020-02-03T00:00:00+00:00": [fill],
            "x": [],
        }
        assert ledger.cash(conn, "main") == Decimal("99899.955")


def test_a_fill_of_no_order_is_refused(store):
    with pytest.raises(StoreError, match="never planned"), store.begin() as conn:
        ledger.record_fill(conn, ledger.Fill("t", "0x1", "BTC", Decimal(1), Decimal(1), Decimal(0), Decimal(0), day(0)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": Decimal("NaN")},
        {"price": Decimal("Infinity")},
        {"price": Decimal(0)},
        {"size": Decimal(-1)},
        {"asset": "ETH"},
    ],
)
def test_a_fill_that_cannot_be_is_refused_and_changes_nothing(store, wrong):
    from dataclasses import replace

    with store.begin() as conn:
        fill = fill_of(open_order(conn, "BTC", "1"), "100")
    with pytest.raises(StoreError, match="unusable"), store.begin() as conn:
        ledger.record_fill(conn, replace(fill, **wrong))
    with store.read() as conn:
        assert ledger.cash(conn, "main") == CAPITAL
        assert ledger.fills(conn, "main") == []


amounts = st.decimals("0.00000001", "5000", places=8)
sizes = st.one_of(amounts, amounts.map(lambda size: -size))
trades = st.lists(
    st.tuples(st.sampled_from(["BTC", "ETH"]), sizes, amounts, amounts, st.integers(0, 2)), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trades=trades, data=st.data())
def test_any_order_and_any_repetition_give_the_same_ledger_and_nothing_is_lost(tmp_path, trades, data):
    with Store.open(tmp_path / "any.db", durable=False) as store:
        heard, fills = 0, []
        with store.begin() as conn:
            start(conn)
            for n, (asset, size, price, fee, when) in enumerate(trades):
                order = open_order(conn, asset, str(size), when, sequence=n, slice_=n)
                fills.append(fill_of(order, str(price), str(fee)))
            conn.exec_driver_sql("SAVEPOINT clean")
            for fill in fills:
                ledger.record_fill(conn, fill)
            expected = (ledger.cash(conn, "main"), ledger.lots(conn, "main"), ledger.fills(conn, "main"))
            conn.exec_driver_sql("ROLLBACK TO clean")
            for fill in data.draw(st.permutations(fills + fills)):
                heard += ledger.record_fill(conn, fill)
            found = (ledger.cash(conn, "main"), ledger.lots(conn, "main"), ledger.fills(conn, "main"))
            conn.rollback()
    assert heard == len(fills)
    assert found == expected
    cash, lots, _ = found
    assert cash == CAPITAL - sum((f.size * f.price + f.fee for f in fills), Decimal(0))
    for asset, lot in lots.items():
        assert lot.size == sum((f.size for f in fills if f.asset == asset), Decimal(0))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sizes, amounts, amounts), min_size=1, max_size=10))
def test_profit_taken_plus_profit_on_paper_is_what_was_earned(history):
    """realized + size (mark - entry) = size mark - all that was paid: at any mark, here 123."""
    lot, paid = ledger.Lot(), Decimal(0)
    for size, price, fee in history:
        lot = lot.after(ledger.Fill("t", "c", "BTC", size, price, fee, Decimal(0), day(0)))
        paid += size * price + fee
    on_paper = lot.size * (Decimal(123) - lot.entry_price)
    assert float(lot.realized + on_paper) == pytest.approx(float(lot.size * 123 - paid), rel=1e-12, abs=1e-9)


# What is held


def test_holdings_are_marked_at_their_newest_price(store):
    with store.begin() as conn:
        traded(conn, ("BTC", "1.25", "100"), ("ETH", "2", "50"))
        telemetry.record_bars(
            conn, "main", [(day(0), {"BTC": 101.0, "ETH": 51.0}), (day(1), {"BTC": 102.5, "ETH": float("nan")})]
        )
    with store.read() as conn:
        assert ledger.holdings(conn, "main") == [
            ledger.Holding("BTC", Decimal("1.25"), Decimal(100), Decimal("102.5")),
            ledger.Holding("ETH", Decimal(2), Decimal(50), Decimal(51)),
        ]


def test_a_holding_without_any_price_is_an_error(store):
    with store.begin() as conn:
        traded(conn, ("BTC", "1", "100"))
    with pytest.raises(StoreError, match="holds BTC.*no price"), store.read() as conn:
        ledger.holdings(conn, "main")


def test_positions_stay_decimal(store):
    with store.begin() as conn:
        traded(conn, ("BTC", "0.3", "100.1"))
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 100.2})])
        positions = ledger.load_positions(conn, "main")
    assert isinstance(positions, Positions)
    btc = positions["BTC"]
    assert (btc.size, btc.entry_price, btc.mark_price) == (Decimal("0.3"), Decimal("100.1"), Decimal("100.2"))
    assert positions.cash == CAPITAL - Decimal("30.03")
    assert float(positions.equity) == pytest.approx(100_000.03, abs=1e-9)
    assert positions.weights()["BTC"] == pytest.approx(30.06 / 100_000.03)


def test_market_times_keep_their_microseconds(store):
    odd = day(0) + timedelta(microseconds=1)
    with store.begin() as conn:
        ledger.advance(conn, "main", "trading", odd)
        assert ledger.cursor(conn, "main", "trading") == odd
