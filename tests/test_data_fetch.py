"""`portfolio-research data fetch` against a venue on loopback: what it asks, keeps, writes and says."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pandas as pd
import pytest
from candle_market import DAY, HOUR, Market, serving

from portfolio_research.__main__ import main
from portfolio_research.data import load_prices
from portfolio_research.market.candles import HyperliquidCandles
from portfolio_research.market.funding import HyperliquidFunding
from portfolio_research.market.hyperliquid import DEFAULT_COINS
from portfolio_research.market.info import HyperliquidInfo


@pytest.fixture
def market(monkeypatch):
    """A venue whose coins began 60 days ago, by its clock, which is also ours."""
    monkeypatch.setitem(HyperliquidInfo.__init__.__kwdefaults__, "pauses", (0.01,))
    with serving(Market()) as server:
        for kept in (HyperliquidCandles, HyperliquidFunding):
            monkeypatch.setitem(kept.__init__.__kwdefaults__, "clock", lambda: server.now)
        server.mids = {"BTC": "70000.5", "ETH": "3900.25", "kPEPE": "0.0125"}
        begin(server, datetime(2024, 3, 10, 12, 1, tzinfo=UTC))
        yield server


def begin(market, now):
    today = pd.Timestamp(now).floor("D")
    market.now = now
    market.days = pd.date_range(today - 60 * DAY, today)
    market.hours = pd.date_range(today - 60 * DAY, pd.Timestamp(now).floor("h"), freq="h")


@pytest.fixture
def data_fetch(market, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder with an empty home, and checks its exit code; gives stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("PORTFOLIO_RESEARCH_CONFIG", raising=False)
    settings = f"portfolio: {{assets: [BTC, ETH]}}\ndata: {{base_url: '{market.url}'}}\n"
    (tmp_path / "config.yaml").write_text(settings)

    def run(*args, expect=0):
        monkeypatch.setattr(sys, "argv", ["portfolio-research", "data", "fetch", *args])
        market.asked.clear()
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert (end.value.code or 0) == expect, said
        return said

    return run


def cells(text):
    """The lines of the table by coin and kind, split into cells."""
    found, coin = {}, ""
    for line in text.splitlines():
        if line.startswith("│"):
            first, kind, *rest = (cell.strip() for cell in line.strip("│").split("│"))
            coin = first or coin
            found[coin, kind] = rest
    return found


def days_ago(n):
    return f"{datetime(2024, 3, 10) - n * DAY:%Y-%m-%d}"


def test_the_first_fetch_writes_prices_that_can_be_loaded(market, data_fetch, tmp_path):
    said = data_fetch("--out", "prices.csv")
    assert cells(said.out) == {
        (coin, "candles"): [days_ago(60), days_ago(1), "60", "60", "0"] for coin in ("BTC", "ETH")
    }
    assert f"Closed 1d candles of {market.url}" in said.out and "Written prices.csv: 60 rows of BTC, ETH" in said.out
    prices = load_prices("prices.csv")
    assert list(prices.columns) == ["BTC", "ETH"] and prices["BTC"].iloc[0] == 70000.5
    assert (tmp_path / "prices.csv").read_text().splitlines()[1] == f"{days_ago(60)},70000.5,3900.25"
    assert [p.name for p in tmp_path.glob(".*")] == [], "no partial file is left"
    folder = re.search(r"Kept in (.*)", said.out)[1]
    assert folder.startswith(str(tmp_path / "home" / "main" / "candles")) and os.path.exists(f"{folder}/BTC_1d.csv")
    assert (tmp_path / "home" / "main").stat().st_mode & 0o777 == 0o700


def test_a_second_fetch_asks_for_nothing_but_the_list_of_coins(market, data_fetch):
    data_fetch()
    said = data_fetch()
    assert [question["type"] for _, question in market.asked] == ["meta"]
    assert cells(said.out)[("BTC", "candles")][2:] == ["60", "0", "0"]


def test_coins_can_be_named_and_days_limited(market, data_fetch):
    said = data_fetch("kPEPE", "BTC", "kPEPE", "--days", "10", "--out", "folder")
    assert [coin for coin, _ in cells(said.out)] == ["kPEPE", "BTC"]
    assert load_prices("folder/prices_1d.csv").shape == (10, 2)
    data_fetch("kPEPE", "BTC")
    data_fetch("kPEPE", "BTC", "--days", "20", "--out", "folder")
    assert load_prices("folder/prices_1d.csv").shape == (20, 2), "what is kept beyond that is not written"


def test_hourly_candles_and_the_limit_of_what_is_served(market, data_fetch):
    said = data_fetch("--interval", "1h", "--out", "hourly.csv")
    hours = len(market.hours) - 1
    assert load_prices("hourly.csv").shape == (hours, 2)
    served = pd.Timestamp(market.now).floor("h") - 4999 * HOUR
    assert f"The venue serves 1h candles from {served:%Y-%m-%d %H:%M} on".replace(" 00:00", "") in said.out
    assert "serves 1h" not in data_fetch("--interval", "1h", "--days", "200").out


def test_funding_is_summed_to_the_days_of_the_prices(market, data_fetch):
    said = data_fetch("--funding", "--days", "30", "--out", "prices.csv")
    assert "Written prices_funding.csv: 30 rows of BTC, ETH" in said.out
    for coin in ("BTC", "ETH"):
        first, last, rows, new, missing = cells(said.out)[coin, "funding"]
        assert (first, rows, missing) == (days_ago(30), new, "0")
        assert int(rows) == 30 * 24 + market.now.hour + 1 and last >= days_ago(0)
    prices, paid = load_prices("prices.csv"), pd.read_csv("prices_funding.csv", index_col="date")
    assert list(paid.index) == [f"{date:%Y-%m-%d}" for date in prices.index]
    first = 30 * 24  # rates count up in millionths from the first hour, 60 days ago
    assert paid["BTC"].iloc[0] == pytest.approx(sum(range(first + 1, first + 25)) / 1e6, abs=1e-12)
    assert paid.notna().all().all()


def test_a_long_fetch_of_funding_says_how_long(market, data_fetch):
    market.hours = market.hours[-5:]
    said = data_fetch("--funding").err.replace("\n", " ")
    assert "and 30 are missing: this takes some 1 min. Ctrl-C keeps" in said


def test_without_assets_it_takes_twelve_coins(market, data_fetch, tmp_path):
    (tmp_path / "other.yaml").write_text(f"data: {{base_url: '{market.url}'}}\n")
    market.mids = dict.fromkeys(DEFAULT_COINS, "10")
    assert [coin for coin, _ in cells(data_fetch("-c", "other.yaml").out)] == list(DEFAULT_COINS)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["BTC", "eth"], r"COIN: http://127.* lists no eth; did you mean ETH\?"),
        (["PEPE"], r"lists no PEPE; did you mean kPEPE\?"),
        (["XYZW"], "lists no XYZW; there is BTC, ETH, kPEPE"),
        (["--interval", "4h"], "'4h' is not kept: give one of 1h, 1d"),
        (["--out", "prices.txt"], "prices.txt: give a file that ends in .csv, or a folder"),
        (["--out", "nowhere/prices.csv"], "there is no folder nowhere; make it"),
        (["--days", "0"], "(?s)days.*equal.*1"),
    ],
)
def test_bad_input_ends_with_2_before_a_candle_is_asked_for(market, data_fetch, args, told):
    assert re.search(told, data_fetch(*args, expect=2).err)
    assert not market.asked_for("candleSnapshot")


def test_an_unknown_asset_of_the_configuration_is_named_as_such(market, data_fetch):
    market.mids.pop("ETH")
    assert "portfolio.assets: " in data_fetch(expect=2).err


def test_a_coin_that_fails_is_named_and_the_others_are_kept(market, data_fetch, tmp_path):
    market.faults = [None, (422, "no", {})]
    said = data_fetch("BTC", "ETH", "kPEPE", "--out", "prices.csv", expect=5)
    assert re.search(r"Failed BTC: http://127.* status 422: no", said.err)
    assert list(load_prices("prices.csv").columns) == ["ETH", "kPEPE"]
    assert cells(said.out)[("BTC failed", "candles")] == ["–", "–", "0", "0", "0"]
    assert cells(data_fetch("BTC", "ETH", "kPEPE").out)[("BTC", "candles")][2:] == ["60", "60", "0"]


def test_what_came_before_a_failure_is_counted_and_written(market, data_fetch):
    data_fetch("BTC", "--funding", "--days", "50")
    market.faults = [None, None, (422, "no", {})]
    said = data_fetch("ETH", "BTC", "--funding", "--days", "50", expect=5)
    assert cells(said.out)[("ETH failed", "candles")][2:] == ["50", "50", "0"]
    assert re.search("Failed ETH: .*422", said.err) and ("BTC", "candles") in cells(said.out)


def test_a_venue_that_is_away_leaves_what_is_kept(market, data_fetch):
    data_fetch()
    market.faults = [(503, "", {})] * 2
    said = data_fetch("--out", "prices.csv", expect=5)
    assert re.search("Failed BTC, ETH: .*status 503, 2 times: try again later", said.err)
    assert len(market.asked) == 2, "only the list of coins was asked for"
    assert len(load_prices("prices.csv")) == 60


def test_without_any_candle_nothing_is_written(market, data_fetch, tmp_path):
    market.faults = [(503, "", {})] * 2
    said = data_fetch("--out", "prices.csv", expect=2)
    assert "Failed BTC, ETH" in said.err and "prices.csv is not written: there is no candle" in said.err
    assert not (tmp_path / "prices.csv").exists()


def test_a_list_of_coins_that_is_none_fails_all(market, data_fetch):
    for answer in ("[]", '{"universe": []}', '{"universe": [{"name": 5}]}'):
        market.faults = [(200, answer, {})]
        assert "to meta, not the list of coins" in data_fetch(expect=5).err


def test_a_file_of_another_venue_fails_its_coin_by_name(market, data_fetch, tmp_path):
    data_fetch()
    (path,) = tmp_path.rglob("BTC_1d.csv")
    path.write_text(path.read_text().replace(market.url, "https://else.where"))
    said = data_fetch("BTC", "ETH", expect=5)
    assert re.search(r"Failed BTC: .*BTC_1d\.csv, line 2: this row comes from https://else\.where", said.err)
    assert ("ETH", "candles") in cells(said.out)


def test_holes_revisions_and_ends_are_told(market, data_fetch):
    whole = market.days
    market.days = whole.delete([30, 31, -1])
    said = data_fetch("BTC", "ETH", "--out", "prices.csv").out
    after, before = (f"{whole[n]:%Y-%m-%d}" for n in (29, 32))
    assert f"BTC: 2 candles between {after} and {before} are missing: the venue does not give them; nothing" in said
    assert cells(said)[("BTC", "candles")][-1] == "2"
    market.days, market.mids["BTC"] = whole, "60000"
    said = data_fetch("BTC", "--days", "50").out
    assert f"BTC: the venue changed its candles of {after}; what was first seen is kept." in said
    market.days = whole[:10]
    said = data_fetch("kPEPE").out
    assert f"kPEPE: the venue has no candle after {whole[9]:%Y-%m-%d}: it is late, or kPEPE is traded no more." in said


def test_prices_that_are_refused_are_announced(market, data_fetch):
    said = data_fetch("BTC", "--out", "prices.csv").out
    assert "It cannot be used as it is: prices.csv: there are prices of BTC; a portfolio needs at least two" in said


def test_a_coin_without_a_candle_is_named(market, data_fetch):
    market.faults = [None, (200, "[]", {})]
    assert "BTC: the venue has no candle of it yet." in data_fetch("BTC", "ETH").out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_midst_it_goes_on_from_there(market, data_fetch, tmp_path, sent):
    """Each coin has at least 1,441 rates, in pages of 500; the venue becomes silent after two pages of BTC."""

    def silent(handler):
        time.sleep(20)

    begin(market, datetime.now(UTC))  # another process knows only this clock
    market.faults = [None] * 4 + [silent]
    command = [sys.executable, "-m", "portfolio_research", "data", "fetch", "--funding", "--days", "60"]
    def heard() -> None:  # a shell's background job ignores Ctrl-C, and so would its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heard}
    process = subprocess.Popen(command, **options)
    deadline = time.monotonic() + 30
    while len(market.asked) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, said = process.communicate(timeout=20)
    assert process.returncode == (130 if sent == signal.SIGINT else -9) and "Traceback" not in said
    market.faults.clear()
    rates = 60 * 24 + market.now.hour + 1
    said = data_fetch("--funding", "--days", "60").out
    assert cells(said)["BTC", "candles"][2:] == ["60", "0", "0"], "they were kept"
    assert cells(said)["BTC", "funding"][2:] == [f"{rates:,}", f"{rates - 1000:,}", "0"], "and so were two pages"
    assert cells(said)["ETH", "funding"][2:] == [f"{rates:,}", f"{rates:,}", "0"]


def test_fresh_begins_again_but_keeps_the_candles(tmp_path):
    from portfolio_research.__main__ import _set_aside

    home = tmp_path / "main"
    (home / "candles").mkdir(parents=True)
    (home / "candles" / "x.csv").write_text("kept")
    (home / "engine.lock").write_text("")
    _set_aside(home)
    assert [path.name for path in tmp_path.iterdir()] == ["main"], "candles alone are no past"
    (home / "portfolio.db").write_text("past")
    _set_aside(home)
    assert sorted(path.name for path in home.iterdir()) == ["candles"]
    assert (home / "candles" / "x.csv").read_text() == "kept"
    (aside,) = (path for path in tmp_path.iterdir() if path.name != "main")
    assert (aside / "portfolio.db").exists() and not (aside / "candles").exists()
