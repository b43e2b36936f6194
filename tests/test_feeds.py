"""Feeds give the same bars in the same order, whenever they are taken up, and the collector never sees ahead."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_prices import walk

from portfolio_research.config import ConfigError, DataError
from portfolio_research.market.collector import DataCollector
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.market.protocol import Feed, Tick

PRICES = walk()


def taken(feed, after=None, n=None):
    async def take():
        ticks = []
        async for tick in feed.ticks(after):
            ticks.append(tick)
            if len(ticks) == n:
                break
        return ticks

    return asyncio.run(take())


def at(day):
    return datetime(2020, 1, day, tzinfo=UTC)


def test_it_is_a_feed():
    feed = ReplayFeed(PRICES, speed=0, source="made")
    assert isinstance(feed, Feed)
    assert (feed.source, feed.assets) == ("made", ["AAA", "BBB", "NEW"])


def test_bars_come_from_start_on_and_unlisted_assets_are_absent():
    ticks = taken(ReplayFeed(PRICES, start="2020-01-09", speed=0))
    assert [tick.ts for tick in ticks] == [at(d) for d in range(9, 31)]
    assert all(type(tick.ts) is datetime and tick.is_bar for tick in ticks)
    assert set(ticks[0].closes) == set(ticks[1].closes) == {"AAA", "BBB"}
    assert ticks[2].closes == PRICES.iloc[10].to_dict()


@given(st.integers(1, 30), st.one_of(st.none(), st.integers(1, 30)))
def test_it_can_be_taken_up_after_any_bar(start, after):
    whole = taken(ReplayFeed(PRICES, start=at(start), speed=0))
    rest = taken(ReplayFeed(PRICES, start=at(start), speed=0), at(after) if after else None)
    assert rest == [tick for tick in whole if after is None or tick.ts > at(after)]


def test_after_may_lie_between_bars():
    assert taken(ReplayFeed(PRICES, speed=0), at(29) + timedelta(hours=5))[0].ts == at(30)


def test_speed_is_bars_per_second_from_live_from_on():
    slow = ReplayFeed(PRICES, start="2020-01-02", live_from=at(25), speed=1e-6)
    assert len(taken(slow, n=23)) == 23, "the past is not paced: at this speed it would take months"
    before = time.monotonic()
    taken(ReplayFeed(PRICES, live_from=at(25), speed=50), after=at(25), n=5)
    assert time.monotonic() - before >= 5 / 50


def test_a_late_reader_is_not_flooded():
    async def read():
        ticks = ReplayFeed(PRICES, speed=20).ticks()
        await anext(ticks)
        await asyncio.sleep(0.3)
        moments = []
        for _ in range(3):
            await anext(ticks)
            moments.append(time.monotonic())
        return moments

    first, second, third = asyncio.run(read())
    assert second - first > 0.04 and third - second > 0.04


def test_a_fast_replay_leaves_room_for_others():
    async def both():
        others = 0

        async def other():
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        async for _ in ReplayFeed(PRICES, speed=0).ticks():
            pass
        task.cancel()
        return others

    assert asyncio.run(both()) >= 29


def test_history_reaches_back_before_start():
    feed = ReplayFeed(PRICES, start="2020-01-20", speed=0)
    pd.testing.assert_frame_equal(feed.history(5, at(20)), PRICES.loc["2020-01-16":"2020-01-20"])
    pd.testing.assert_frame_equal(feed.history(500), PRICES)
    assert feed.history(5, datetime(2019, 1, 1, tzinfo=UTC)).empty


@pytest.mark.parametrize("speed", [-1, float("nan"), float("inf")])
def test_impossible_speeds_are_refused(speed):
    with pytest.raises(ConfigError, match="bars per second"):
        ReplayFeed(PRICES, speed=speed)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"start": "2021-01-01"}, DataError, "end on 2020-01-30, before start 2021-01-01"),
        ({"start": "yesterday"}, ConfigError, "start is 'yesterday'"),
        ({"live_from": "32.1."}, ConfigError, "live_from"),
    ],
)
def test_impossible_times_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        ReplayFeed(PRICES, **options)


def test_prices_without_zone_are_refused():
    with pytest.raises(DataError, match="no time zone"):
        ReplayFeed(PRICES.tz_localize(None))


def test_other_zones_are_told_in_utc():
    feed = ReplayFeed(PRICES, start=datetime.fromisoformat("2020-01-05T02:00:00+02:00"), speed=0)
    assert taken(feed, n=1)[0].ts == at(5)


# The collector


def test_the_collector_sees_no_further_than_now():
    async def follow():
        collector = DataCollector(ReplayFeed(PRICES, start="2020-01-05", speed=0))
        assert collector.prices(5).empty and collector.returns(5).empty
        seen = []
        while (tick := await collector.next()) is not None:
            seen.append((tick.ts, collector.now, collector.prices(3).index[-1], collector.returns(3)))
        return collector, seen

    collector, seen = asyncio.run(follow())
    assert len(seen) == 26
    assert all(ts == now == last for ts, now, last, _ in seen)
    first = seen[0][3]
    assert list(first.columns) == ["AAA", "BBB"], "an asset without a price in the window is left out"
    pd.testing.assert_frame_equal(seen[-1][3], PRICES.pct_change(fill_method=None).iloc[-3:])
    assert collector.marks == PRICES.iloc[-1].to_dict()


def test_the_collector_continues_after_a_bar():
    collector = DataCollector(ReplayFeed(PRICES, speed=0), after=at(10))
    assert asyncio.run(collector.next()).ts == at(11)
    assert len(collector.prices(30)) == 11


def test_marks_move_prices_but_not_the_time_of_bars():
    collector = DataCollector(ReplayFeed(PRICES, speed=0))
    collector.observe(Tick(at(3), {"AAA": 1.0, "BBB": 2.0}))
    collector.observe(Tick(at(3) + timedelta(hours=1), {"AAA": 1.5}, is_bar=False))
    assert collector.now == at(3)
    assert collector.marks == {"AAA": 1.5, "BBB": 2.0}


def test_a_bar_out_of_order_is_refused():
    collector = DataCollector(ReplayFeed(PRICES, speed=0))
    collector.observe(Tick(at(3), {"AAA": 1.0}))
    with pytest.raises(DataError, match="in order of time"):
        collector.observe(Tick(at(2), {"AAA": 1.0}))
