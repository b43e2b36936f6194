"""Telemetry: rows that may be written twice, and frames that come back as they went in."""

import math

import pandas as pd
import pytest
from store_rows import day, start

from portfolio_research.config import StoreError
from portfolio_research.store import Store, telemetry


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


def test_bars_come_back_as_a_frame(store):
    rows = [(day(n), {"ETH": 10.0 + n, "BTC": math.nan if n == 0 else 100.0 + n}) for n in range(5)]
    with store.begin() as conn:
        assert telemetry.record_bars(conn, "main", rows) == 9
    with store.read() as conn:
        frame = telemetry.bars_frame(conn, "main", 10)
        assert telemetry.newest_bar(conn, "main") == day(4)
    expected = pd.DataFrame(
        {"BTC": [math.nan, 101.0, 102.0, 103.0, 104.0], "ETH": [10.0, 11.0, 12.0, 13.0, 14.0]},
        index=pd.DatetimeIndex([day(n) for n in range(5)], name="date"),
    )
    pd.testing.assert_frame_equal(frame, expected, check_index_type=False)


def test_bars_are_the_last_n_until_a_time(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(n), {"BTC": float(n + 1)}) for n in range(10)])
    with store.read() as conn:
        dates, assets, rows = telemetry.bars(conn, "main", 3, until=day(6))
        assert (dates, assets, rows) == ([day(4), day(5), day(6)], ["BTC"], [[5.0], [6.0], [7.0]])
        assert telemetry.bars(conn, "main", 3, until=day(-1)) == ([], [], [])


def test_an_empty_store_gives_an_empty_frame(store):
    with store.read() as conn:
        assert telemetry.bars_frame(conn, "main", 5).empty
        assert telemetry.newest_bar(conn, "main") is None
        assert telemetry.equity(conn, "main") == []
        assert telemetry.latest_report(conn, "main") is None
        assert telemetry.latest_targets(conn, "main") is None
        assert telemetry.heartbeats(conn, "main") == {}


def test_a_bar_worked_on_twice_leaves_one_row_and_another_price_is_refused(store):
    bar = [(day(0), {"BTC": 1.5, "ETH": 2.5})]
    with store.begin() as conn:
        assert telemetry.record_bars(conn, "main", bar) == 2
        assert telemetry.record_bars(conn, "main", bar) == 0
        assert telemetry.record_bars(conn, "main", []) == 0
    with (
        pytest.raises(StoreError, match=r"BTC on 2020-02-03.*1\.6 differs from the recorded 1\.5"),
        store.begin() as conn,
    ):
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 1.6}), (day(1), {"BTC": 1.7})])
    with store.read() as conn:
        assert telemetry.bars(conn, "main", 10) == ([day(0)], ["BTC", "ETH"], [[1.5, 2.5]])


def test_the_equity_curve_comes_back_in_order(store):
    with store.begin() as conn:
        telemetry.record_equity(conn, "main", day(1), 101.0, 1.0, -0.01, 99.0)
        telemetry.record_equity(conn, "main", day(0), 100.0, 2.0, 0.0, math.nan)
        telemetry.record_equity(conn, "main", day(1), 102.0, 1.0, 0.0, None)
    with store.read() as conn:
        assert telemetry.equity(conn, "main") == [
            telemetry.EquityPoint(day(0), 100.0, 2.0, 0.0, None),
            telemetry.EquityPoint(day(1), 102.0, 1.0, 0.0, None),
        ]
        assert [point.ts for point in telemetry.equity(conn, "main", since=day(1))] == [day(1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_equity_that_is_no_number_is_refused(store, bad):
    with pytest.raises(StoreError, match="equity of portfolio main"), store.begin() as conn:
        telemetry.record_equity(conn, "main", day(0), bad, 0.0, 0.0)


def test_reports_are_json_without_nan(store):
    with store.begin() as conn:
        telemetry.record_report(conn, "main", day(0), {"risk": {"var": math.nan, "cvar": 0.1}})
        telemetry.record_report(conn, "main", day(1), {"risk": {}})
    with store.read() as conn:
        assert telemetry.latest_report(conn, "main") == (day(1), {"risk": {}})
        assert telemetry.latest_report(conn, "main", until=day(0)) == (day(0), {"risk": {"var": None, "cvar": 0.1}})


def test_targets_are_the_newest_set_only(store):
    with store.begin() as conn:
        telemetry.record_targets(conn, "main", day(0), {"BTC": 0.6, "ETH": 0.4})
        telemetry.record_targets(conn, "main", day(1), {"BTC": 1.0})
    with store.read() as conn:
        assert telemetry.latest_targets(conn, "main") == (day(1), {"BTC": 1.0})
        assert telemetry.latest_targets(conn, "main", until=day(0)) == (day(0), {"BTC": 0.6, "ETH": 0.4})
    with pytest.raises(StoreError, match="weight of BTC"), store.begin() as conn:
        telemetry.record_targets(conn, "main", day(2), {"BTC": math.nan})


def test_the_leaf_order_is_kept_with_the_targets(store):
    weights = {"BTC": 0.5, "ETH": 0.3, "SOL": 0.2, "USDC": 0.0}
    with store.begin() as conn:
        assert telemetry.latest_order(conn, "main") == []
        telemetry.record_targets(conn, "main", day(0), weights, ["SOL", "BTC", "ETH"])
    with store.read() as conn:
        assert telemetry.latest_order(conn, "main") == ["SOL", "BTC", "ETH"]  # cash has no leaf
        assert telemetry.latest_targets(conn, "main") == (day(0), weights)
    with store.begin() as conn:
        telemetry.record_targets(conn, "main", day(1), weights)
        assert telemetry.latest_order(conn, "main") == []
    with pytest.raises(StoreError, match="leaf order.*DOGE without a weight"), store.begin() as conn:
        telemetry.record_targets(conn, "main", day(2), weights, ["DOGE", "BTC"])


def test_heartbeats_keep_the_last_sign_of_life(store):
    with store.begin() as conn:
        telemetry.heartbeat(conn, "main", "engine", state="starting", pid=1, now=day(0))
        telemetry.heartbeat(conn, "main", "engine", state="running", pid=2, detail="bar 3", speed=1.0, now=day(1))
        telemetry.heartbeat(conn, "main", "dashboard", state="running", pid=3)
    with store.read() as conn:
        beats = telemetry.heartbeats(conn, "main")
    assert set(beats) == {"engine", "dashboard"}
    assert beats["engine"] == telemetry.Heartbeat("engine", "running", "bar 3", 2, 1.0, day(1))
