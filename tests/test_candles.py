"""The candle cache: it only grows, survives any crash, never mixes venues, and says what it does not have."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from candle_market import DAY, HOUR, NOW, Market, ms, row, serving

from portfolio_research.config import ConfigError, StoreError, VenueError
from portfolio_research.market import info as info_module
from portfolio_research.market.cache import Gap
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.info import HyperliquidInfo


@pytest.fixture
def market():
    with serving(Market()) as server:
        yield server


def candles_of(market, folder, pauses=(0.01, 0.01), **options):
    info = HyperliquidInfo(market.url, pauses=pauses)
    return HyperliquidCandles(cache_dir=folder, info=info, clock=lambda: market.now, **options)


def update(candles, coin="BTC"):
    async def go():
        try:
            return await candles.update(coin)
        finally:
            await candles.info.close()
            candles.info._client = None

    return asyncio.run(go())


def day(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def asked(market):
    return [(q["startTime"], q["endTime"]) for q in market.asked_for("candleSnapshot")]


# What is asked for


def test_an_older_beginning_is_asked_for_once_and_only_that(market, tmp_path):
    assert update(candles_of(market, tmp_path, history_days=10)).new == 10
    market.asked.clear()
    kept = update(candles_of(market, tmp_path, history_days=100))
    assert (kept.new, kept.times[0], len(kept.times)) == (28, day("2024-02-01"), 38), "listed on 1 February"
    assert asked(market) == [(ms(NOW.replace(hour=0) - 100 * DAY), ms("2024-02-29"))]
    market.asked.clear()
    assert update(candles_of(market, tmp_path, history_days=100)).new == 0
    assert not market.asked, "that there is nothing older is remembered"


def test_an_empty_answer_proves_nothing(market, tmp_path):
    update(candles_of(market, tmp_path, history_days=10))
    market.faults = [(200, "[]", {})]
    assert update(candles_of(market, tmp_path, history_days=100)).new == 0
    assert update(candles_of(market, tmp_path, history_days=100)).new == 28


def test_a_hole_is_reported_and_asked_for_again_by_the_next_process(market, tmp_path):
    whole, market.days = market.days, market.days.delete([10, 11])
    candles = candles_of(market, tmp_path)
    assert update(candles).gaps == [Gap(day("2024-02-10"), day("2024-02-13"), 2)]
    market.days = whole
    later = candles_of(market, tmp_path)
    market.asked.clear()
    market.mids["BTC"] = "70000.5"
    kept = update(later)
    assert (kept.new, kept.gaps) == (2, []), "rows of an older day stand later in the file, in order when read"
    assert asked(market) == [(ms("2024-02-10"), ms("2024-02-13"))]
    assert [c.date for c in later.stored("BTC")] == [when.to_pydatetime() for when in whole[:38]]


def test_a_hole_that_the_venue_does_not_fill_is_asked_for_once(market, tmp_path):
    market.days = market.days.delete([10, 11])
    update(candles_of(market, tmp_path))
    candles = candles_of(market, tmp_path)
    market.asked.clear()
    assert [update(candles).gaps, update(candles).gaps] == [[Gap(day("2024-02-10"), day("2024-02-13"), 2)]] * 2
    assert len(market.asked) == 1


def test_what_the_venue_serves_no_more_is_kept_and_the_gap_is_reported(market, tmp_path):
    market.hours = pd.date_range("2024-01-01", "2024-09-01", freq="h", tz="UTC")
    market.now = day("2024-01-11")
    candles = candles_of(market, tmp_path, interval="1h")
    assert update(candles).new == 240
    market.now = day("2024-08-20")
    market.asked.clear()
    kept = update(candles)
    served = day("2024-08-20") - 4999 * HOUR
    assert asked(market)[0] == (ms(served), ms(market.now)), "what exists no more is not asked for"
    assert kept.gaps == [Gap(day("2024-01-10T23:00"), served, (served - day("2024-01-10T23:00")) // HOUR - 1)]
    assert (kept.new, len(kept.times), kept.times[0]) == (4999, 5239, day("2024-01-01"))
    assert candles.prices(["BTC"]).notna().all().all(), "a gap has no rows, and nothing is put there"


def test_five_thousand_are_asked_for_at_most(market, tmp_path):
    market.hours = pd.date_range("2023-01-01", "2024-03-20", freq="h", tz="UTC")
    candles = candles_of(market, tmp_path, interval="1h")
    assert update(candles).new == 4999, "the one of this hour has not closed"
    assert asked(market) == [(ms(NOW - 4999 * HOUR), ms(NOW))]
    assert candles.info.budget._spent[0][1] == 20 + 84
    assert candles.path("BTC").read_text().splitlines()[1].startswith("2023-08-15T05:00:00+00:00,")


def test_intervals_have_files_of_their_own(market, tmp_path):
    assert update(candles_of(market, tmp_path)).new == 38
    assert update(candles_of(market, tmp_path, interval="1h")).new == 228
    names = sorted(p.name for p in candles_of(market, tmp_path).path("BTC").parent.glob("*.csv"))
    assert names == ["BTC_1d.csv", "BTC_1h.csv"]
    with pytest.raises(ConfigError, match="'4h' is not kept: give one of 1h, 1d"):
        candles_of(market, tmp_path, interval="4h")


# What is believed


def test_the_first_row_may_begin_before_what_was_asked_for(market, tmp_path):
    early = [row("BTC", when, "1") for when in ("2023-01-01", "2024-03-08", "2024-03-09", "2024-03-10")]
    market.faults = [(200, json.dumps(early), {})]
    kept = update(candles_of(market, tmp_path, history_days=2))
    assert kept.times == [day("2024-03-08"), day("2024-03-09")]


def test_a_fast_clock_does_not_take_the_unfinished_candle(market, tmp_path):
    """Our clock is ten minutes ahead, past midnight; the venue's last candle is still that of the day before."""
    answer = [row("BTC", when, "1") for when in ("2024-03-08", "2024-03-09", "2024-03-10")]
    market.now = day("2024-03-11") + timedelta(minutes=9)
    market.faults = [(200, json.dumps(answer), {})]
    assert update(candles_of(market, tmp_path)).times[-1] == day("2024-03-09")
    assert update(candles_of(market, tmp_path)).times[-1] == day("2024-03-10"), "once the venue has begun the next"


def test_the_last_candle_of_a_coin_that_ends_is_taken_a_day_later(market, tmp_path):
    market.days = market.days[:20]
    assert update(candles_of(market, tmp_path)).times[-1] == day("2024-02-20")


def test_a_revised_candle_is_kept_as_it_was_first_seen_and_reported(market, tmp_path):
    update(candles_of(market, tmp_path))
    before = candles_of(market, tmp_path).path("BTC").read_text()
    market.now += DAY
    market.mids["BTC"] = "60000"
    kept = update(candles_of(market, tmp_path))
    assert (kept.new, kept.revised) == (1, [day("2024-03-09")])
    assert candles_of(market, tmp_path).path("BTC").read_text().startswith(before)


def test_the_same_number_written_otherwise_is_no_revision(market, tmp_path):
    update(candles_of(market, tmp_path))
    last, new = row("BTC", "2024-03-09", "70037.50"), row("BTC", "2024-03-10", "1")
    market.now += DAY
    market.faults = [(200, json.dumps([last, new, row("BTC", "2024-03-11", "1")]), {})]
    kept = update(candles_of(market, tmp_path))
    assert (kept.new, kept.revised) == (1, [])


@pytest.mark.parametrize("days", [["2024-03-02", "2024-03-02"], ["2024-03-02", "2024-03-01"]])
def test_answers_that_repeat_or_go_back_change_nothing(market, tmp_path, days):
    update(candles_of(market, tmp_path))
    before = candles_of(market, tmp_path).path("BTC").read_bytes()
    market.now += DAY
    market.faults = [(200, json.dumps([row("BTC", when, "1") for when in days]), {})]
    with pytest.raises(VenueError, match="came twice or out of order"):
        update(candles_of(market, tmp_path))
    assert candles_of(market, tmp_path).path("BTC").read_bytes() == before


@pytest.mark.parametrize("begun", ["2024-03-01T00:30", "2024-03-01T12:00"])
def test_a_candle_off_the_grid_is_refused(market, tmp_path, begun):
    market.faults = [(200, json.dumps([row("BTC", begun, "1")]), {})]
    with pytest.raises(VenueError, match="is not 1d of BTC"):
        update(candles_of(market, tmp_path))


# Faults on the way


def hang(handler):
    time.sleep(0.5)


def cut(handler):
    """A proxy that dies in the midst of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'[{"t": 1')


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ((200, "<html>maintenance</html>", {}), "not JSON: <html>maintenance"),
        ((200, '[{"t": 1709', {}), "not JSON"),
        ((200, '{"error": "no"}', {}), "to candleSnapshot, not candles"),
        ((422, "bad", {}), "status 422"),
        ((429, "", {"Retry-After": "4000"}), "asks us to wait 4000 s"),
        (hang, "did not finish its answer"),
    ],
)
def test_a_fault_that_does_not_pass_is_told_and_changes_nothing(market, tmp_path, monkeypatch, fault, told):
    monkeypatch.setattr(info_module, "_SECONDS", 0.3)
    market.faults = [fault]
    with pytest.raises(VenueError, match=told):
        update(candles_of(market, tmp_path))
    assert candles_of(market, tmp_path).stored("BTC") == [] and len(market.asked) == 1
    assert update(candles_of(market, tmp_path)).new == 38


@pytest.mark.parametrize("fault", [(429, "", {"Retry-After": "0"}), (500, "", {}), (502, "<html>", {}), cut])
def test_a_fault_that_passes_is_waited_out(market, tmp_path, fault):
    market.faults = [fault, fault]
    assert update(candles_of(market, tmp_path)).new == 38
    assert len(market.asked) == 3


def test_retry_after_may_be_a_date(market, tmp_path):
    soon = datetime.now(UTC) + timedelta(seconds=2)
    market.faults = [(429, "", {"Retry-After": f"{soon:%a, %d %b %Y %H:%M:%S GMT}"})]
    before = time.monotonic()
    assert update(candles_of(market, tmp_path)).new == 38
    assert time.monotonic() - before > 0.8
    market.faults, market.now = [(429, "", {"Retry-After": "some day"})], NOW + DAY
    assert update(candles_of(market, tmp_path)).new == 1


# The file


@pytest.fixture
def small(market, tmp_path):
    """A file of three candles, as bytes, and where it is."""
    candles = candles_of(market, tmp_path, history_days=3)
    update(candles)
    return candles.path("BTC"), candles.path("BTC").read_bytes()


def test_cut_at_any_byte_it_is_read_and_healed(market, tmp_path, small):
    path, whole = small
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        candles = candles_of(market, tmp_path, history_days=3)
        lines = max(0, whole[:length].count(b"\n") - 1)
        assert len(candles.stored("BTC")) == lines, length
    for length in {0, 1, 30, *range(len(whole) - 40, len(whole), 13), len(whole) - 1}:
        path.write_bytes(whole[:length])
        update(candles_of(market, tmp_path, history_days=3))
        assert path.read_bytes() == whole, length


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from portfolio_research.market.cache import VenueFolder
folder = VenueFolder(sys.argv[1], "http://venue")
file = folder.file("BTC", "1d", ("date", "text"))
print("ready", flush=True)
n = 0
while True:
    with folder.locked():
        file.append([((datetime(2020, 1, 1, tzinfo=UTC) + timedelta(n + k)).isoformat(), "x" * 40) for k in range(400)],
                    datetime.now(UTC))
        folder.note_asked("BTC_1d", datetime(2020, 1, 1, tzinfo=UTC) - timedelta(n))
    n += 400
"""


def test_killed_in_the_midst_of_writing_it_is_read_and_written_on(tmp_path):
    from portfolio_research.market.cache import VenueFolder

    folder = VenueFolder(tmp_path, "http://venue")
    file = folder.file("BTC", "1d", ("date", "text"))
    seen = 0
    for delay in (0.0, 0.003, 0.011, 0.029):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        rows = file.read(lambda row: row["text"])
        assert len(rows) >= seen and set(rows) <= {"x" * 40}, "nothing that was there is lost or spoilt"
        with folder.locked():  # the kernel has let go of it
            file.append([("2020-01-01", "x" * 40)], NOW)
        seen = len(rows) + 1
        assert len(file.read(lambda row: row["text"])) == seen
        assert folder.asked_from("BTC_1d") <= datetime.max.replace(tzinfo=UTC)


def test_a_disk_that_is_full_is_named_and_the_file_stays_readable(market, tmp_path, small):
    path, whole = small
    market.now += 300 * DAY
    market.days = pd.date_range("2024-02-01", "2025-01-10", tz="UTC")
    limit = f"""
import asyncio, resource, signal
from datetime import datetime
from portfolio_research.config import StoreError
from portfolio_research.market.candles import HyperliquidCandles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) + 1000},) * 2)
candles = HyperliquidCandles("{market.url}", "{tmp_path}", clock=lambda: datetime.fromisoformat("{market.now}"))
try:
    asyncio.run(candles.update("BTC"))
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", limit], capture_output=True, text=True, check=True)
    assert "BTC_1d.csv: File too large: free space" in done.stdout
    assert path.read_bytes().startswith(whole) and len(candles_of(market, tmp_path).stored("BTC")) > 3
    assert update(candles_of(market, tmp_path, history_days=3)).gaps == []


def test_those_who_fetch_at_once_write_each_candle_once(market, tmp_path):
    market.hours = pd.date_range("2023-12-01", "2024-03-20", freq="h", tz="UTC")
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(update, candles_of(market, tmp_path, interval="1h")) for _ in range(6)]
        added = sum(job.result().new for job in jobs)
    candles = candles_of(market, tmp_path, interval="1h")
    lines = candles.path("BTC").read_text().splitlines()
    assert added == len(lines) - 1 == len({line.partition(",")[0] for line in lines[1:]}) == 2412


def test_rows_of_another_venue_are_refused_by_name(market, tmp_path, small):
    path, whole = small
    path.write_bytes(whole.replace(market.url.encode(), b"https://else.where", 1))
    with pytest.raises(StoreError, match=r"BTC_1d\.csv, line 2: this row comes from https://else\.where, not from http"):
        candles_of(market, tmp_path).stored("BTC")
    with pytest.raises(StoreError, match="never put together; move the file away"):
        update(candles_of(market, tmp_path))


def test_two_venues_have_two_folders(market, tmp_path):
    with serving(Market()) as other:
        other.mids["BTC"] = "5"
        for each in (market, other):
            update(candles_of(each, tmp_path))
        assert candles_of(other, tmp_path).prices(["BTC"]).iloc[0, 0] == 5
        assert candles_of(market, tmp_path).prices(["BTC"]).iloc[0, 0] == 70000.5


def test_files_of_earlier_versions_move_in(market, tmp_path, small):
    path, whole = small
    old = tmp_path / "BTC_1d.csv"
    path.rename(old)
    market.asked.clear()
    assert len(candles_of(market, tmp_path).stored("BTC")) == 3
    assert (old.exists(), path.read_bytes()) == (False, whole)
    elsewhere = tmp_path / "ETH_1d.csv"
    elsewhere.write_bytes(whole.replace(market.url.encode(), b"https://else.where"))
    assert candles_of(market, tmp_path).stored("ETH") == [], "another venue's file stays where it is"
    assert elsewhere.exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda text: text.replace(",trades,", ",count,"), "has the columns date.*count.*not date"),
        (lambda text: text.replace(",1.5,3,", ",1.5,", 1), "line 2, cannot be read .it has not 9 columns"),
        (lambda text: text.replace("70035.5", "nan", 1), "line 2, cannot be read"),
        (lambda text: text.replace("2024-03-07", "March", 1), "line 2, cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(market, tmp_path, small, spoil, told):
    path, whole = small
    path.write_text(spoil(whole.decode()))
    assert path.read_bytes() != whole
    with pytest.raises(StoreError, match=rf"BTC_1d\.csv.*{told}"):
        candles_of(market, tmp_path).stored("BTC")


def test_a_file_that_is_no_text_is_named(market, tmp_path, small):
    small[0].write_bytes(b"\xff\xfe\n")
    with pytest.raises(StoreError, match=r"BTC_1d\.csv cannot be read"):
        candles_of(market, tmp_path).stored("BTC")


@pytest.mark.parametrize("content", ["", "[]", '{"BTC_1d": 5}', "{"])
def test_a_note_that_is_lost_costs_one_question(market, tmp_path, small, content):
    (small[0].parent / "asked.json").write_text(content)
    market.asked.clear()
    assert update(candles_of(market, tmp_path, history_days=3)).new == 0
    assert not market.asked, "what is on disk is enough"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(market, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="make the folder writable"):
        update(candles_of(market, tmp_path))


# What the venue really answered


def test_recorded_hourly_candles_are_kept_as_they_came(market, tmp_path, test_data):
    path = test_data / "hyperliquid_samples" / "sdk_get_candles_snapshot.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: recorded answers are kept outside of the project")
    exchange = json.loads(path.read_text())[1]
    wanted, answer = exchange["request"]["req"], exchange["response"]
    market.now = datetime.fromtimestamp(wanted["endTime"] / 1000, UTC)
    market.faults = [(200, json.dumps(answer), {})]
    candles = candles_of(market, tmp_path, interval="1h", history_days=1)
    kept = update(candles, wanted["coin"])
    assert len(answer) - 1 == kept.new == 23, "the last one had not closed"
    assert kept.gaps == [] and kept.times[0] == datetime.fromtimestamp(answer[0]["t"] / 1000, UTC)
    assert [c.close for c in candles.stored(wanted["coin"])] == [r["c"] for r in answer[:-1]]
