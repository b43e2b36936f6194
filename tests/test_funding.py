"""Funding rates on disk, and what a position pays over the bars of a price table."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from candle_market import DAY, HOUR, NOW, Market, ms, serving
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.config import DataError, StoreError, VenueError
from portfolio_research.market.funding import HyperliquidFunding, bar_funding
from portfolio_research.market.info import FundingRate, HyperliquidInfo

MINUTE = timedelta(minutes=1)


@pytest.fixture
def market():
    with serving(Market()) as server:
        server.now += MINUTE  # the rate of noon has its stamp
        yield server


def funding_of(market, folder, **options):
    return HyperliquidFunding(HyperliquidInfo(market.url, pauses=()), folder, clock=lambda: market.now, **options)


def update(funding, coin="BTC"):
    async def go():
        try:
            return await funding.update(coin)
        finally:
            await funding.info.close()
            funding.info._client = None

    return asyncio.run(go())


def rate(hour, value="0.0001", coin="BTC", lag=48):
    return {"coin": coin, "fundingRate": value, "premium": "0.0", "time": ms(hour) + lag}


# Kept on disk


def test_rates_come_in_pages_and_only_what_is_missing_is_asked_for(market, tmp_path):
    market.hours = pd.date_range("2024-01-01", "2024-03-20", freq="h", tz="UTC")
    funding = funding_of(market, tmp_path)
    assert funding.questions("BTC") == 15, "as far as anybody knows before"
    kept = update(funding)
    assert (kept.new, kept.gaps, kept.times[-1]) == (69 * 24 + 13, [], NOW), "the rate of this hour is there"
    assert len(market.asked) == 4 and {w for _, w in funding.info.budget._spent} == {45, 29}
    market.asked.clear()
    assert (funding.questions("BTC"), update(funding).new) == (0, 0) and not market.asked
    market.now += 2 * HOUR
    assert update(funding).new == 2
    assert market.asked_for("fundingHistory")[0]["startTime"] == ms(NOW)


def test_the_file_says_what_the_venue_said_and_when(market, tmp_path):
    market.lag = 24 * 60_000  # such a delay has been seen
    market.now += HOUR
    update(funding_of(market, tmp_path))
    (path,) = tmp_path.rglob("BTC_funding.csv")
    header, first, *_ = path.read_text().splitlines()
    assert header == "hour,rate,premium,stamp_ms,source,fetched_at"
    begun = ms("2024-03-01")
    assert first == (
        f"2024-03-01T00:00:00+00:00,0.000000,0.0,{begun + 24 * 60_000},{market.url},2024-03-10T13:01:00+00:00"
    )
    rates = funding_of(market, tmp_path).rates(["BTC"])
    assert (rates.index.name, str(rates.index.tz), rates.index[1]) == ("hour", "UTC", pd.Timestamp("2024-03-01T01Z"))
    assert rates["BTC"].iloc[7] == 7e-6


def test_an_older_beginning_and_an_interrupted_fetch_are_completed(market, tmp_path):
    market.hours = pd.date_range("2024-01-01", "2024-03-20", freq="h", tz="UTC")
    assert update(funding_of(market, tmp_path, history_days=5)).times[0] == datetime(2024, 3, 5, tzinfo=UTC)
    market.faults = [None, (422, "away", {})]
    with pytest.raises(VenueError, match="status 422"):
        update(funding_of(market, tmp_path, history_days=60))
    kept = funding_of(market, tmp_path).kept("BTC")
    assert len(kept.times) == 5 * 24 + 13 + 500 and len(kept.gaps) == 1, "the first page was kept"
    kept = update(funding_of(market, tmp_path, history_days=60))
    assert (kept.gaps, len(kept.times)) == ([], 60 * 24 + 13)
    market.asked.clear()
    assert update(funding_of(market, tmp_path, history_days=60)).new == 0 and not market.asked


def test_a_revised_rate_is_kept_as_it_was_first_seen(market, tmp_path):
    update(funding_of(market, tmp_path))
    market.now += HOUR
    market.faults = [(200, json.dumps([rate(NOW, "0.7"), rate(NOW + HOUR)]), {})]
    kept = update(funding_of(market, tmp_path))
    assert (kept.new, kept.revised) == (1, [NOW])
    assert funding_of(market, tmp_path).stored("BTC")[NOW].rate == "0.000228"


def test_a_venue_that_does_not_heed_what_it_is_asked_ends_the_questions(market, tmp_path):
    always = (200, json.dumps([rate("2024-03-01")]), {})
    market.faults = [always] * 5
    assert update(funding_of(market, tmp_path)).new == 1
    assert len(market.asked) == 2


@pytest.mark.parametrize(
    "rows",
    [
        [rate("2024-03-01"), rate("2024-03-01", lag=60_000)],
        [rate("2024-03-02"), rate("2024-03-01")],
        [rate("2024-03-01", coin="ETH")],
        [rate("2024-03-01", "NaN")],
        [rate("2024-03-01", "1.5")],
        [rate("2024-03-01", "much")],
        [{"coin": "BTC", "time": 5}],
        [{**rate("2024-03-01"), "time": None}],
        ["rate"],
    ],
)
def test_rates_that_cannot_be_are_not_stored(market, tmp_path, rows):
    market.faults = [(200, json.dumps(rows), {})]
    with pytest.raises(VenueError, match="BTC: funding.*this answer is not used"):
        update(funding_of(market, tmp_path))
    assert funding_of(market, tmp_path).stored("BTC") == {}


def test_an_answer_that_is_no_list_names_the_coin(market, tmp_path):
    with pytest.raises(VenueError, match="answered None to fundingHistory.*does it list XYZ"):
        update(funding_of(market, tmp_path), "XYZ")


def test_a_damaged_line_is_named(market, tmp_path):
    update(funding_of(market, tmp_path))
    (path,) = tmp_path.rglob("BTC_funding.csv")
    path.write_text(path.read_text().replace("0.000001", "7", 1))
    with pytest.raises(StoreError, match=r"BTC_funding\.csv, line 3, cannot be read .rate 7"):
        funding_of(market, tmp_path).stored("BTC")


@pytest.mark.parametrize("name", ["sdk_get_funding_history_1684811870000", "sdk_get_funding_history_None"])
def test_recorded_rates_of_2023(market, tmp_path, test_data, name):
    path = test_data / "hyperliquid_samples" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: recorded answers are kept outside of the project")
    answer = json.loads(path.read_text())[1]["response"]
    market.now = datetime.fromtimestamp(answer[-1]["time"] / 1000, UTC)
    market.faults = [(200, json.dumps(answer), {})]
    kept = update(funding_of(market, tmp_path))
    assert kept.new == len(answer) and kept.gaps == []
    assert {when - kept.times[0] for when in kept.times[:3]} == {8 * n * HOUR for n in range(3)}
    assert all(when.minute == when.second == when.microsecond == 0 for when in kept.times)


def test_recorded_rates_without_a_premium(test_data):
    path = test_data / "hyperliquid_samples" / "nautilus_http_funding_history.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: recorded answers are kept outside of the project")
    rates = [FundingRate.parse(row, "BTC") for row in json.loads(path.read_text())]
    assert [r.premium for r in rates] == ["0.00029005", "-0.00012500", ""]
    assert [r.hour.hour for r in rates] == [1, 2, 3]


# Over the bars of prices


def hourly(begin, n, value=1e-4):
    index = pd.date_range(begin, periods=n, freq="h", tz="UTC", name="hour")
    return pd.DataFrame({"BTC": np.full(n, value)}, index)


def daily(begin, n, coins=("BTC",)):
    return pd.DataFrame(1.0, pd.date_range(begin, periods=n, tz="UTC", name="date"), list(coins))


def test_a_day_pays_what_is_due_after_its_midnight_up_to_the_next():
    rates = hourly("2024-03-01", 49)
    rates.loc["2024-03-01T00:00Z", "BTC"] = 0.5  # belongs to the day before
    rates.loc["2024-03-02T00:00Z", "BTC"] = 0.25  # belongs to 1 March
    got = bar_funding(rates, daily("2024-02-29", 5))["BTC"]
    expected = [np.nan, 23e-4 + 0.25, 24e-4, np.nan, np.nan]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert got.index.equals(daily("2024-02-29", 5).index)


def test_a_day_is_known_once_its_last_rate_is():
    prices = daily("2024-03-01", 1)
    assert bar_funding(hourly("2024-03-01", 24), prices)["BTC"].isna().all(), "24:00 is still to come"
    assert bar_funding(hourly("2024-03-01", 25), prices)["BTC"].notna().all()
    assert bar_funding(hourly("2024-03-01T01:00", 24), prices)["BTC"].isna().all(), "nothing is known of its begin"


def test_eight_hourly_rates_and_an_hour_that_the_venue_left_out():
    eight = pd.DataFrame({"BTC": 1e-3}, pd.date_range("2023-05-12", periods=7, freq="8h", tz="UTC"))
    np.testing.assert_allclose(bar_funding(eight, daily("2023-05-12", 2))["BTC"], [3e-3, 3e-3])
    bars = daily("2023-05-12", 1).reindex(pd.date_range("2023-05-12", periods=16, freq="h", tz="UTC"))
    paid = bar_funding(eight, bars, HOUR)["BTC"]
    assert (paid > 0).to_list() == [n in (7, 15) for n in range(16)], "between two rates nothing is paid, and that is known"
    left_out = hourly("2024-08-15", 25).drop(pd.Timestamp("2024-08-15T13:00Z"))
    np.testing.assert_allclose(bar_funding(left_out, daily("2024-08-15", 1))["BTC"], [23e-4])


def test_a_hole_is_unknown_and_not_zero():
    rates = hourly("2024-03-01", 24 * 4 + 1)
    holed = rates.drop(rates.index[30:40])  # 2 March, more than 8 hours
    got = bar_funding(holed, daily("2024-03-01", 4))["BTC"]
    np.testing.assert_allclose(got, [24e-4, np.nan, 24e-4, 24e-4])
    assert bar_funding(rates * np.nan, daily("2024-03-01", 4))["BTC"].isna().all()


def test_coins_without_rates_are_unknown_and_the_shape_is_that_of_the_prices():
    prices = daily("2024-03-01", 2, ("ETH", "BTC"))
    got = bar_funding(hourly("2024-03-01", 49).assign(XRP=1.0), prices)
    assert list(got.columns) == ["ETH", "BTC"] and got.index.equals(prices.index)
    assert got["ETH"].isna().all() and got["BTC"].notna().all()


@given(st.integers(0, 60), st.integers(1, 200), st.sets(st.integers(0, 199), max_size=60), st.sampled_from([1, 6, 24]))
def test_it_agrees_with_adding_up_bar_by_bar(begin, n, absent, width):
    first = pd.Timestamp("2024-03-01", tz="UTC")
    rng = np.random.default_rng(n)
    index = first + pd.to_timedelta(begin + np.arange(n), unit="h")
    rates = pd.DataFrame({"BTC": rng.normal(0, 1e-4, n)}, index).drop(index[[k for k in absent if k < n]])
    bar = timedelta(hours=width)
    prices = pd.DataFrame({"BTC": 1.0}, pd.date_range(first, periods=240 // width, freq=bar))
    got = bar_funding(rates, prices, bar)["BTC"]
    for start, value in got.items():
        near = rates.index[(rates.index >= start - 8 * HOUR) & (rates.index <= start + bar + 8 * HOUR)]
        before, after = near[near <= start], near[near >= start + bar]
        known = len(before) and len(after)
        if known:
            span = near[(near >= before[-1]) & (near <= after[0])]
            known = (np.diff(span.asi8) <= pd.Timedelta("8h").value).all()
        inside = rates["BTC"][(rates.index > start) & (rates.index <= start + bar)]
        assert value == pytest.approx(inside.sum(), abs=1e-15) if known else np.isnan(value)


def test_it_agrees_with_pandas_on_real_rates(test_data):
    folder = test_data / "hyperliquid_candles"
    if not folder.exists():
        pytest.skip(f"{folder} is not there: real rates are kept outside of the project")
    rates = pd.read_csv(folder / "funding_1h.csv.gz", index_col="date", parse_dates=True).tz_localize("UTC")
    closes = pd.read_csv(folder / "perps_1d_close.csv.gz", index_col=0, parse_dates=True).tz_localize("UTC")
    prices = closes.loc["2023-05-01":, list(rates.columns)]
    got = bar_funding(rates, prices)
    expected = rates.resample("D", closed="right", label="left").sum(min_count=1).reindex(prices.index)
    known = got.notna()
    np.testing.assert_allclose(got.to_numpy()[known], expected.to_numpy()[known], rtol=1e-9, atol=1e-15)
    rest = expected.notna() & ~known
    assert (rest.sum() <= 2).all(), "only the day of listing and the one that has not ended are left out"
    assert known["BTC"].sum() == len(prices.loc["2023-05-12":]) - 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda r, p: (r.tz_localize(None), p), "rows of rates are not labelled by dates in UTC"),
        (lambda r, p: (r, p.reset_index(drop=True)), "rows of prices are not labelled"),
        (lambda r, p: (r[::-1], p), "dates of rates go back"),
        (lambda r, p: (r, p.iloc[[0, 0]]), "dates of prices go back or repeat"),
    ],
)
def test_frames_that_cannot_be_matched_are_refused(spoil, told):
    with pytest.raises(DataError, match=told):
        bar_funding(*spoil(hourly("2024-03-01", 49), daily("2024-03-01", 2)))
    with pytest.raises(DataError, match="faster than a bar of 1 day"):
        bar_funding(hourly("2024-03-01", 49), hourly("2024-03-01", 5), DAY)
