"""Public candles and marks, from a server on loopback that answers as the venue does, and as proxies misbehave."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime

import pandas as pd
import pytest
from candle_market import DAY, NOW, Market, row, serving

from portfolio_research.config import ConfigError, DataError, StoreError, VenueError
from portfolio_research.market import info as info_module
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.hyperliquid import DEFAULT_COINS, HyperliquidFeed
from portfolio_research.market.info import Budget, Candle, HyperliquidInfo
from portfolio_research.market.protocol import Feed


@pytest.fixture
def market():
    with serving(Market()) as server:
        yield server


def candles_of(market, folder, pauses=(0.01, 0.01)):
    return HyperliquidCandles(
        cache_dir=folder, info=HyperliquidInfo(market.url, pauses=pauses), clock=lambda: market.now
    )


def update(candles, *coins):
    async def go():
        try:
            return [(await candles.update(coin)).new for coin in coins]
        finally:
            await candles.info.close()
            candles.info._client = None

    return asyncio.run(go())


def ask(market, what="mids", *args, pauses=(0.01, 0.01)):
    async def go():
        info = HyperliquidInfo(market.url, pauses=pauses)
        try:
            return await getattr(info, what)(*args)
        finally:
            await info.close()

    return asyncio.run(go())


# Candles and their file


def test_closed_days_are_stored_and_the_unfinished_one_is_not(market, tmp_path):
    candles = candles_of(market, tmp_path)
    assert update(candles, "BTC", "ETH") == [38, 38]
    prices = candles.prices(["BTC", "ETH"])
    assert (prices.index[0], prices.index[-1]) == (
        pd.Timestamp("2024-02-01", tz="UTC"),
        pd.Timestamp("2024-03-09", tz="UTC"),
    )
    assert (prices.index.name, list(prices.columns), prices["BTC"].iloc[0]) == ("date", ["BTC", "ETH"], 70000.5)
    assert [path for path, _ in market.asked] == ["/info", "/info"]


def test_the_file_says_where_and_when_each_candle_comes_from(market, tmp_path):
    candles = candles_of(market, tmp_path)
    update(candles, "BTC")
    header, first, *_ = candles.path("BTC").read_text().splitlines()
    assert header == "date,open,high,low,close,volume,trades,source,fetched_at"
    assert first == f"2024-02-01,70000.5,70000.5,70000.5,70000.5,1.5,3,{market.url},2024-03-10T12:00:00+00:00"
    names = sorted(path.name for path in candles.path("BTC").parent.iterdir())
    assert names == [".lock", "BTC_1d.csv", "asked.json"], "no partial file is left"


def test_only_what_is_new_is_fetched_and_the_file_only_grows(market, tmp_path):
    candles = candles_of(market, tmp_path)
    update(candles, "BTC")
    before = candles.path("BTC").read_text()
    assert update(candles, "BTC") == [0]
    assert len(market.asked) == 1, "nothing can have closed: nothing is asked"
    market.now = NOW + 2 * DAY
    market.mids["BTC"] = "1.0"  # a venue that rewrote its history would not change ours
    assert update(candles, "BTC") == [2]
    assert market.asked[-1][1]["req"]["startTime"] == int(datetime(2024, 3, 9, tzinfo=UTC).timestamp() * 1000)
    after = candles.path("BTC").read_text()
    assert after.startswith(before) and after.count("\n") == before.count("\n") + 2


def test_a_day_that_the_venue_has_not_closed_yet_is_waited_for(market, tmp_path):
    candles = candles_of(market, tmp_path)
    update(candles, "BTC")
    market.now = NOW + DAY
    market.days = market.days[:38]
    assert update(candles, "BTC") == [0]


def test_the_first_fetch_of_twelve_coins_fits_into_half_a_minutes_budget(market, tmp_path):
    candles = candles_of(market, tmp_path)
    market.mids |= dict.fromkeys(DEFAULT_COINS, "10")
    update(candles, *DEFAULT_COINS)
    assert sum(weight for _, weight in candles.info.budget._spent) <= 500


@pytest.mark.parametrize(
    "rows",
    [
        [row("BTC", "2024-03-02", "1"), row("BTC", "2024-03-02", "1")],
        [row("BTC", "2024-03-02", "1"), row("BTC", "2024-03-01", "1")],
        [row("ETH", "2024-03-01", "1")],
        [row("BTC", "2024-03-01", "1", interval="1h")],
        [row("BTC", "2024-03-01", "0")],
        [row("BTC", "2024-03-01", "NaN")],
        [row("BTC", "2024-03-01", "-Infinity")],
        [row("BTC", "2024-03-01", "ten")],
        [{**row("BTC", "2024-03-01", "1"), "t": None}],
        [{**row("BTC", "2024-03-01", "1"), "v": "-1"}],
        [{k: v for k, v in row("BTC", "2024-03-01", "1").items() if k != "c"}],
        ["candle"],
    ],
)
def test_candles_that_cannot_be_are_not_stored(market, tmp_path, rows):
    market.faults = [(200, json.dumps(rows), {})]
    with pytest.raises(VenueError, match="BTC: candle.*this answer is not used"):
        update(candles_of(market, tmp_path), "BTC")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(market, tmp_path):
    candles = candles_of(market, tmp_path)
    update(candles, "BTC")
    path = candles.path("BTC")
    path.write_text(path.read_text().replace("70001.5", "gone"))
    with pytest.raises(StoreError, match=r"BTC_1d\.csv, line 3, cannot be read.*gone.*take the line out"):
        candles.stored("BTC")
    path.write_text(path.read_text().replace("gone", "-1"))
    with pytest.raises(StoreError, match="-1"):
        candles.stored("BTC")


def test_a_folder_that_cannot_be_written_is_named(market, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=r"taken/.*Not a directory: make the folder writable"):
        update(candles_of(market, tmp_path / "taken"), "BTC")


@pytest.mark.parametrize("coin", ["", "../../etc/passwd", "A B"])
def test_names_that_are_no_coins_reach_no_file(market, tmp_path, coin):
    with pytest.raises(VenueError, match="no name of a coin"):
        candles_of(market, tmp_path).stored(coin)


# What venues and proxies answer


def test_mids_are_prices_of_perpetuals(market):
    assert ask(market) == {"BTC": 70000.5, "ETH": 3900.25}


@pytest.mark.parametrize(
    "body",
    ["<html>Sign in</html>", "", '{"BTC": 1', '{"BTC": NaN}', "[]", "{}", "null", '{"BTC": "x"}', '{"BTC": null}'],
)
def test_status_200_is_not_believed_by_itself(market, body):
    market.faults = [(200, body, {})]
    with pytest.raises(VenueError, match=f"{market.url}.*check data.base_url"):
        ask(market)
    assert len(market.asked) == 1, "the same question would get the same answer"


def test_a_coin_that_the_venue_does_not_list(market, tmp_path):
    with pytest.raises(VenueError, match="answered None to candleSnapshot.*does it list XYZ.*portfolio.assets"):
        update(candles_of(market, tmp_path), "XYZ")


@pytest.mark.parametrize(
    "fault", [(429, "null", {}), (500, "oops", {}), (502, "<html>", {}), (429, "{}", {"Retry-After": "0"})]
)
def test_trouble_that_passes_is_asked_again(market, fault):
    market.faults = [fault, fault]
    assert ask(market)["BTC"] == 70000.5
    assert len(market.asked) == 3


def test_trouble_that_stays_is_reported_with_its_count(market):
    market.faults = [(503, "", {})] * 3
    with pytest.raises(VenueError, match="status 503, 3 times: try again later"):
        ask(market)


def test_the_venue_says_how_long_to_wait(market):
    market.faults = [(429, "", {"Retry-After": "1"})]
    before = time.monotonic()
    ask(market)
    assert time.monotonic() - before >= 1


def test_a_refusal_is_final(market):
    market.faults = [(422, "Failed to deserialize the JSON body " * 20, {})]
    with pytest.raises(VenueError, match=r"status 422: Failed to deserialize.*\.\.\."):
        ask(market)
    assert len(market.asked) == 1


def test_nobody_there(market, tmp_path):
    market.url = "http://127.0.0.1:9"
    with pytest.raises(VenueError, match="127.0.0.1:9 could not be reached.*3 times"):
        ask(market)


def test_an_answer_that_drips_in_does_not_hold_us(market, monkeypatch):
    monkeypatch.setattr(info_module, "_SECONDS", 0.3)
    over = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not over.wait(0.05):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return

    market.faults = [drip]
    try:
        with pytest.raises(VenueError, match="did not finish its answer"):
            ask(market)
    finally:
        over.set()


def test_the_budget_waits_instead_of_overspending():
    async def spend():
        budget = Budget(limit=100, seconds=0.2)
        begun = time.monotonic()
        moments = []
        for _ in range(5):
            await budget.spend(50)
            moments.append(time.monotonic() - begun)
        return moments

    moments = asyncio.run(spend())
    assert moments[2] >= 0.2 and moments[4] >= 0.4
    assert all(later - earlier >= 0.19 for earlier, later in zip(moments, moments[2:], strict=False))


def test_a_question_that_is_too_big_for_any_minute_is_still_asked_once():
    asyncio.run(Budget(limit=10, seconds=60).spend(50))


# The feed


def follow(feed, n, after=None, then=lambda k: None):
    async def go():
        got = []
        async for tick in feed.ticks(after):
            got.append(tick)
            then(len(got))
            if len(got) == n:
                break
        await feed.candles.info.close()
        return got

    return asyncio.run(asyncio.wait_for(go(), 20))


def feed_of(market, folder, **options):
    options = {"start": datetime(2024, 3, 1, tzinfo=UTC), "poll_seconds": 0.02, **options}
    return HyperliquidFeed(candles_of(market, folder), ["BTC", "ETH"], **options)


def test_bars_then_marks_then_the_next_bar_in_order_of_time(market, tmp_path):
    feed = feed_of(market, tmp_path)
    assert isinstance(feed, Feed)
    assert "127.0.0.1" in feed.source

    def midnight(k):
        if k == 10:  # after the first mark
            market.now = datetime(2024, 3, 11, 0, 1, tzinfo=UTC)

    ticks = follow(feed, 12, then=midnight)
    assert [t.ts.day for t in ticks if t.is_bar] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [t.is_bar for t in ticks] == [True] * 9 + [False, True, False]
    assert [t.ts for t in ticks] == sorted({t.ts for t in ticks}), "a stage never has to go back in time"
    mark = next(t for t in ticks if not t.is_bar)
    assert mark.closes == {"BTC": 70000.5, "ETH": 3900.25}
    assert ticks[0].closes == {"BTC": 70000.5 + 29, "ETH": 3900.25 + 29}
    assert feed.history(2, ticks[3].ts).index[-1] == pd.Timestamp("2024-03-04", tz="UTC")
    assert len(feed.history(1000)) == 39


def test_it_is_taken_up_after_a_bar(market, tmp_path):
    ticks = follow(feed_of(market, tmp_path), 2, after=datetime(2024, 3, 8, tzinfo=UTC))
    assert [(t.ts.day, t.is_bar) for t in ticks] == [(9, True), (9, False)]


def test_without_a_start_it_begins_180_bars_before_the_newest(market, tmp_path):
    market.days = pd.date_range("2023-01-01", "2024-03-20", tz="UTC")
    first = follow(feed_of(market, tmp_path, start=None), 1)[0]
    assert first.ts == datetime(2024, 3, 9, tzinfo=UTC) - 179 * DAY


def test_the_first_use_waits_for_the_venue_and_says_so(market, tmp_path, caplog):
    market.faults = [(503, "", {})] * 9
    feed = feed_of(market, tmp_path)
    assert follow(feed, 1)[0].ts.day == 1 and feed.trouble == ""
    assert "no new candles" in caplog.text and "503" in caplog.text and "candles are back" in caplog.text
    assert len(caplog.records) == 2, "an outage is told once, not at every question"


def test_an_address_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.base_url.*no-port.*is no address"):
        HyperliquidCandles("http://127.0.0.1:no-port", tmp_path)
    with pytest.raises(ConfigError, match=r"data\.base_url.*is no address"):
        HyperliquidInfo("api.hyperliquid.xyz")


def test_an_answer_that_cannot_be_unpacked_is_refused(market):
    market.faults = [(200, "no gzip", {"Content-Encoding": "gzip"})] * 9
    with pytest.raises(VenueError, match="could not be reached.*DecodingError"):
        ask(market)


def test_later_it_runs_on_what_is_on_disk_and_says_so(market, tmp_path, caplog):
    update(candles_of(market, tmp_path), "BTC", "ETH")
    market.faults = [(503, "", {})] * 3
    market.now = NOW + DAY
    ticks = follow(feed_of(market, tmp_path), 10)
    assert [t.ts.day for t in ticks if t.is_bar][:9] == list(range(1, 10))
    assert "no new candles" in caplog.text and "status 503" in caplog.text


def test_marks_that_fail_are_left_out(market, tmp_path, caplog):
    update(candles_of(market, tmp_path), "BTC", "ETH")
    market.faults = [(200, "<html>", {})]
    ticks = follow(feed_of(market, tmp_path, start=datetime(2024, 3, 9, tzinfo=UTC)), 2)
    assert [t.is_bar for t in ticks] == [True, False]
    assert "no new marks" in caplog.text


def test_a_day_that_one_coin_lacks_is_not_over(market, tmp_path):
    feed = feed_of(market, tmp_path)
    update(candles_of(market, tmp_path), "BTC", "ETH")
    eth = feed.candles.path("ETH")
    eth.write_text("".join(eth.read_text().splitlines(keepends=True)[:-2]))
    market.faults = [(200, "[]", {})] * 9
    assert [t.ts.day for t in follow(feed, 7) if t.is_bar] == [1, 2, 3, 4, 5, 6, 7]


def test_no_mark_overtakes_a_bar_that_is_late(market, tmp_path):
    """The venue has marks of the new day, but not yet the candle of the old one."""
    feed, last = feed_of(market, tmp_path, start=datetime(2024, 3, 9, tzinfo=UTC)), market.days
    seen = []

    def then(k):
        if k == 2:
            market.days, market.now = last[last < "2024-03-10"], datetime(2024, 3, 11, 0, 1, tzinfo=UTC)
            threading.Timer(0.3, lambda: (seen.append(feed.trouble), setattr(market, "days", last))).start()

    ticks = follow(feed, 4, then=then)
    assert [(t.ts.day, t.is_bar) for t in ticks] == [(9, True), (9, False), (10, True), (10, False)]
    assert seen == ["waiting for the candle of 2024-03-10 of BTC, ETH"] and feed.trouble == ""


def test_a_coin_without_candles_is_named(market, tmp_path, caplog):
    market.faults = [(200, "[]", {})]
    follow(feed_of(market, tmp_path), 1)
    assert "no candles of BTC: wait, or take it out of portfolio.assets" in caplog.text


def test_a_coin_that_the_venue_does_not_list_is_an_error(market, tmp_path):
    feed = HyperliquidFeed(candles_of(market, tmp_path), ["BTC", "eth"], poll_seconds=0.02)
    with pytest.raises(ConfigError, match="portfolio.assets.*lists no eth; did you mean ETH"):
        follow(feed, 1)


def test_the_first_bar_has_enough_returns_before_it(market, tmp_path):
    ticks = follow(feed_of(market, tmp_path, start=None, lookback=30), 1)
    assert ticks[0].ts == datetime(2024, 3, 2, tzinfo=UTC), "31 candles from 1 February"
    with pytest.raises(ConfigError, match="data.start 2024-03-01 is too early: 30 returns of BTC.*2024-03-02"):
        follow(feed_of(market, tmp_path, lookback=30), 1)
    with pytest.raises(DataError, match="BTC has 38 daily candles, a lookback of 38 returns needs 39"):
        follow(feed_of(market, tmp_path, start=None, lookback=38), 1)


def test_no_bar_is_skipped_after_a_long_absence(market, tmp_path):
    market.days = pd.date_range("2023-01-01", "2024-03-20", tz="UTC")
    first = follow(feed_of(market, tmp_path, start=None), 1, after=datetime(2023, 5, 1, tzinfo=UTC))[0]
    assert first.ts == datetime(2023, 5, 2, tzinfo=UTC)


# What the venue really answered


def recorded(test_data, name):
    path = test_data / "hyperliquid_samples" / name
    if not path.exists():
        pytest.skip(f"{path} is not there: recorded answers are kept outside of the project")
    return json.loads(path.read_text())


def test_recorded_mids(market, test_data):
    (exchange,) = recorded(test_data, "sdk_get_all_mids.json")
    market.faults = [(200, json.dumps(exchange["response"]), {})]
    mids = ask(market)
    assert mids["BTC"] == float(exchange["response"]["BTC"])
    assert set(mids) == set(exchange["response"])


def test_recorded_candles(market, test_data):
    exchange = recorded(test_data, "sdk_get_candles_snapshot.json")[1]
    market.faults = [(200, json.dumps(exchange["response"]), {})]
    wanted = exchange["request"]["req"]
    begin, end = (datetime.fromtimestamp(wanted[key] / 1000, UTC) for key in ("startTime", "endTime"))
    candles = ask(market, "candles", wanted["coin"], begin, end, wanted["interval"])
    assert market.asked[0][1] == exchange["request"], "we ask as the official client did"
    assert len(candles) == len(exchange["response"])
    first, closes = candles[0]
    assert first.date < begin < closes, "the first candle began before what was asked for"
    assert isinstance(first, Candle) and float(first.close) > 0


def test_recorded_answers_of_other_kinds_are_not_taken_for_prices(market, test_data):
    samples = test_data / "hyperliquid_samples"
    names = [path.name for path in sorted(samples.glob("sdk_*.json")) if "all_mids" not in path.name]
    for name in names or pytest.skip(f"no recorded answers in {samples}"):
        market.faults = [(200, json.dumps(recorded(test_data, name)[-1]["response"]), {})]
        with pytest.raises(VenueError):
            ask(market)
