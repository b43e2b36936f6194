"""The data gate: each trap of real price tables rebuilt from its description, and no false alarm on real ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.data import (
    PeriodsPerYear,
    check_prices,
    infer_periods_per_year,
    read_prices,
    sample_prices,
    to_returns,
    with_periods,
)
from portfolio_research.faults import RULES, QualityPolicy, quality_from, read_table
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.quality import QualityReport, inspect_prices
from portfolio_research.research_plots import plot_availability

COINS = ["BTC", "ETH", "ADA", "XLM"]


def market(rows: int = 500, names: list[str] | None = None, seed: int = 0, freq: str = "D") -> pd.DataFrame:
    """Clean prices with heavy tails and one common factor."""
    rng, names = np.random.default_rng(seed), names or COINS
    steps = 0.6 * rng.standard_t(4, (rows, 1)) + rng.standard_t(4, (rows, len(names)))
    days = pd.date_range("2021-01-01", periods=rows, freq=freq, tz="UTC", name="date").as_unit("ns")
    return pd.DataFrame(100 * np.exp(np.cumsum(0.015 * steps, axis=0)), days, names)


def rules(report: QualityReport, asset: str | None = None) -> set[str]:
    found = report.findings
    return set(found["rule"] if asset is None else found.loc[found["asset"] == asset, "rule"])


def one(report: QualityReport, rule: str) -> pd.Series:
    found = report.findings[report.findings["rule"] == rule]
    assert len(found) == 1, report
    return found.iloc[0]


def day(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


# ---------------------------------------------------------------- what is clean stays as it is
def test_a_clean_table_has_no_findings_and_is_not_touched() -> None:
    prices = market()
    before = prices.copy()
    report = inspect_prices(prices)
    assert report.ok and report.findings.empty and "no findings" in report.summary
    pd.testing.assert_frame_equal(report.clean(), before, check_freq=False)
    pd.testing.assert_frame_equal(prices, before)
    assert (report.availability["rows"] == 500).all() and (report.availability["action"] == "keep").all()


def test_the_bundled_sample_passes_with_the_one_thing_that_is_odd_in_it() -> None:
    report = inspect_prices(sample_prices())
    assert report.ok and report.periods_per_year == 252
    assert one(report, "frozen")["asset"] == "RRC"  # its price stands still for 69 days in the beginning of 1990
    assert rules(report) == {"frozen"}
    pd.testing.assert_frame_equal(report.clean(), sample_prices())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(120, 400), st.integers(2, 6))
def test_what_clean_gives_out_passes_the_door_and_has_no_new_price(seed: int, rows: int, assets: int) -> None:
    rng = np.random.default_rng(seed)
    prices = market(rows, [f"A{i}" for i in range(assets)], seed)
    for _ in range(rng.integers(0, 4)):
        start = int(rng.integers(0, rows - 5))
        prices.iloc[start : start + int(rng.integers(1, 30)), int(rng.integers(assets))] = np.nan
    report = inspect_prices(prices)
    try:
        clean = report.clean()
    except DataError as error:
        assert not report.ok or "portfolio needs at least two" in str(error)
        return
    assert check_prices(clean, ended=True) is clean
    same = prices.reindex_like(clean)
    assert ((clean == same) | clean.isna()).all().all()
    assert not inspect_prices(clean).findings["rule"].isin(["hole", "relist"]).any()


# ---------------------------------------------------------------- the traps
def test_a_stablecoin_is_found_and_left_out() -> None:
    prices, rng = market(names=[f"C{i}" for i in range(10)]), np.random.default_rng(1)
    prices["BUSD"] = 1 + rng.normal(0, 1e-4, 500)
    prices["DAI"] = 1 + 0.047 * np.sin(np.arange(500))  # moves as much as a coin; its price gives it away
    report = inspect_prices(prices)
    assert rules(report, "BUSD") == rules(report, "DAI") == {"stablecoin"}
    assert one(inspect_prices(prices.drop(columns="DAI")), "stablecoin")["rows"] == 365
    with pytest.warns(UserWarning, match="treat_as_cash"):
        naive = HierarchicalRiskParity().fit(to_returns(prices.drop(columns="DAI"))).weights_
    clean = HierarchicalRiskParity().fit(to_returns(report.clean())).weights_
    assert naive["BUSD"] > 0.99 and clean.max() < 0.25 and "BUSD" not in clean


def test_what_only_passes_through_one_is_no_stablecoin() -> None:
    prices = market()
    prices["ADA"] *= 1.0 / prices["ADA"].iloc[-20:].mean()
    prices["XLM"] = np.linspace(0.9, 1.3, 500)
    assert "stablecoin" not in rules(inspect_prices(prices))
    pegged = 1 + np.random.default_rng(0).normal(0, 1e-3, 500)
    prices["SHARE"] = np.where(np.arange(500) % 12 == 0, 1.2, pegged)  # 91.7 % near 1
    assert "stablecoin" not in rules(inspect_prices(prices), "SHARE")


def test_a_hole_is_never_filled_and_costs_the_shorter_side() -> None:
    prices = market()
    prices.iloc[60:80, 1] = np.nan
    prices.iloc[80:, 1] *= prices.iloc[59, 1] / prices.iloc[80, 1]
    report = inspect_prices(prices)
    found, clean = one(report, "hole"), report.clean()
    assert (found["asset"], found["start"], found["end"], found["rows"]) == ("ETH", day("2021-03-02"), day("2021-03-21"), 20)
    assert clean["ETH"].first_valid_index() == day("2021-03-22") and clean["ETH"].notna().sum() == 420
    assert report.availability.loc["ETH", ["rows", "missing", "kept"]].tolist() == [480, 20, 420]
    kept = inspect_prices(prices, policy={"hole": "keep"}).clean()
    assert kept["ETH"].isna().sum() == 20


def test_luna_collapses_and_another_asset_comes_back_under_its_name() -> None:
    prices = market(700, [*COINS, "LUNA"])
    fall = [60.0, 30.0, 17.0, 1.07, 0.0001, 0.00005]
    prices.iloc[490:496, 4] = fall
    prices.iloc[496:514, 4] = np.nan
    prices.iloc[514:, 4] = np.linspace(8.0, 2.0, 186)
    true = prices["LUNA"].pct_change(fill_method=None)
    filled = prices["LUNA"].ffill().pct_change()
    assert filled.max() > 1e5 > true.max()
    report = inspect_prices(prices)
    assert rules(report, "LUNA") >= {"redenomination", "relist"} and not report.ok
    assert "0.00005 before, 8 after" in one(report, "relist")["message"].replace("5e-05", "0.00005")
    with pytest.raises(DataError, match="LUNA from .*relist"):
        report.clean()
    crash = f"{prices.index[493]:%Y-%m-%d}"
    answered = inspect_prices(prices, policy=QualityPolicy(actions={"relist": "trim"}, accept=[("LUNA", crash)]))
    clean = answered.clean()
    assert clean["LUNA"].last_valid_index() == prices.index[495]  # the loss stays in the history
    assert answered.ok and clean["LUNA"].notna().sum() == 496


def test_a_corpse_gets_no_weight() -> None:
    rng, prices = np.random.default_rng(4), market(300, [*COINS, "LUNA"])
    prices.iloc[250:, 4] = 5e-5 * (1 + rng.integers(0, 3, 50))  # after the collapse it trades on, and it is no asset any more
    naive = HierarchicalRiskParity().fit(to_returns(prices)).weights_
    assert naive["LUNA"] > 0
    crash = inspect_prices(prices)
    assert one(crash, "redenomination")["start"] == prices.index[250] and not crash.ok
    clean = inspect_prices(prices, policy={"redenomination": "trim"}).clean()
    assert clean["LUNA"].last_valid_index() == prices.index[249] and pd.isna(clean["LUNA"].iloc[-1])


def test_a_table_of_returns_is_told_once() -> None:
    report = inspect_prices(to_returns(market()))
    assert not report.ok and "as in a table of returns" in one(report, "returns")["message"]
    assert rules(report) == {"returns"} and "stay" not in report.summary


def test_what_is_too_little_for_a_portfolio_is_refused() -> None:
    prices = market(names=["BTC", "USDT"])
    prices["USDT"] = 1 + np.random.default_rng(0).normal(0, 1e-3, 500)
    for table, words in ((prices[["BTC"]], "what stays is BTC"), (prices, "what stays is BTC"), (market(1), "one row"),
                         (pd.DataFrame(), "no asset")):
        report = inspect_prices(table)
        assert words in one(report, "few")["message"] and not report.ok
        with pytest.raises(DataError, match=words):
            report.clean()
    assert "1 row x 4 assets" in inspect_prices(market(1)).summary
    assert inspect_prices(prices, policy={"stablecoin": "keep"}).ok


def test_a_wrapped_twin_is_found_and_the_original_stays() -> None:
    rng, prices = np.random.default_rng(5), market()
    prices.insert(0, "WBTC", prices["BTC"] * np.exp(rng.normal(0, 0.0007, 500)))
    prices.iloc[:200, 0] = np.nan
    report = inspect_prices(prices)
    assert rules(report) == {"twin"} and one(report, "twin")["asset"] == "WBTC"
    assert "as BTC does" in one(report, "twin")["message"] and list(report.clean()) == COINS


def test_three_names_of_one_asset_leave_one() -> None:
    rng, prices = np.random.default_rng(5), market()
    for name in ("RENBTC", "HBTC"):
        prices[name] = prices["BTC"] * np.exp(rng.normal(0, 0.0007, 500))
    assert list(inspect_prices(prices).clean()) == COINS


def test_alike_is_not_the_same() -> None:
    common, rng = np.cumsum(np.random.default_rng(1).normal(0, 0.03, 2000)), np.random.default_rng(2)
    own = 0.03 * np.sqrt(1 / 0.97 - 1)  # correlation 0.97, above the highest of 106 perpetuals
    frame = pd.DataFrame({n: np.exp(common + np.cumsum(rng.normal(0, own, 2000))) for n in ("GALA", "SAND", "MINA")},
                         pd.date_range("2019-01-01", periods=2000, tz="UTC"))
    corr = to_returns(frame).corr().to_numpy()
    assert 0.96 < corr[0, 1] < 0.98 and inspect_prices(frame).findings.empty


def test_one_shared_print_makes_no_twins_and_few_shared_rows_none() -> None:
    prices = market()
    prices.iloc[250:, :2] *= 6.0
    assert "twin" not in rules(inspect_prices(prices))
    prices = market()
    prices["OLD"] = prices["BTC"].where(np.arange(500) < 300)
    prices["BTC"] = prices["BTC"].where(np.arange(500) >= 260)
    assert "twin" not in rules(inspect_prices(prices))


def test_ragged_starts_keep_almost_all_observations() -> None:
    rng, prices = np.random.default_rng(9), market(2738, [f"C{i}" for i in range(24)])
    for i, start in enumerate(np.sort(rng.integers(0, 2500, 23))):
        prices.iloc[:start, i] = np.nan
    prices.iloc[: 2738 - 163, 23] = np.nan
    clean = inspect_prices(prices).clean()
    assert len(prices.dropna()) == 163
    assert clean.notna().sum().sum() == prices.notna().sum().sum()


@pytest.mark.parametrize(("asset", "factor"), [("COCOS", 1295), ("DREP", 108), ("SUN", 0.0012), ("BNBDOWN", 106_944)])
def test_a_redenomination_stops_everything(asset: str, factor: float) -> None:
    prices = market(names=[*COINS, asset])
    prices.iloc[300:, 4] *= factor
    report = inspect_prices(prices)
    found = one(report, "redenomination")
    assert (found["asset"], found["start"], found["action"]) == (asset, prices.index[300], "refuse")
    with pytest.raises(DataError, match=f"{asset} on 2021-10-28.*redenomination"):
        report.clean()
    assert list(inspect_prices(prices, policy={"redenomination": "drop"}).clean()) == COINS
    trimmed = inspect_prices(prices, policy={"redenomination": "trim", "leveraged": "keep"}).clean()
    assert trimmed[asset].notna().sum() == 300


def test_a_wrong_print_is_a_jump_and_not_two_redenominations() -> None:
    prices = market()
    prices.iloc[200, 2] *= 50
    prices.iloc[300:302, 3] /= 40
    report = inspect_prices(prices)
    assert rules(report) == {"jump"} and not report.ok
    assert one(report.__class__(**{**vars(report), "findings": report.findings.query("asset == 'ADA'")}), "jump")["rows"] == 2


def test_trimming_leaves_no_jump_inside() -> None:
    prices = market()
    prices.iloc[200, 2] *= 50
    prices.iloc[np.arange(100, 140, 3), 3] *= 50
    prices.iloc[450, 3] /= 50
    clean = inspect_prices(prices, policy={"jump": "trim", "redenomination": "trim"}).clean()
    moves = np.abs(np.log(clean).diff()).max()
    assert (moves < np.log(4)).all()
    assert clean.notna().sum().tolist() == [500, 500, 299, 100]  # of many prints, all between is left out


@pytest.mark.parametrize("factor", [4.92, 0.16, 5.9, 9.0])
def test_real_moves_pass_with_a_warning(factor: float) -> None:
    prices = market(seed=3)
    prices.iloc[250:, 1] *= factor
    report = inspect_prices(prices)
    found = one(report, "move")
    assert report.ok and (found["asset"], found["severity"], found["action"]) == ("ETH", "warning", "keep")
    assert report.clean().notna().all().all()


@pytest.mark.parametrize(("bar", "rule"), [(1, "listing"), (3, "listing"), (4, "redenomination")])
def test_a_print_of_a_listing_costs_the_first_days_only(bar: int, rule: str) -> None:
    prices = market()
    prices.iloc[:100, 3] = np.nan
    prices.iloc[100 : 100 + bar, 3] /= 20
    report = inspect_prices(prices)
    assert rules(report) == {rule} and report.ok == (rule == "listing")
    if report.ok:
        assert report.clean()["XLM"].first_valid_index() == prices.index[100 + bar]


def test_leveraged_tokens_need_a_base() -> None:
    names = ["BTC", "BNB", "BNBDOWN", "BTCUPUSDT", "ETH3L", "ADABULL", "JUP", "SYRUP", "UP", "SUP", "XBULL"]
    report = inspect_prices(market(names=names))
    assert set(report.findings["asset"]) == {"BNBDOWN", "BTCUPUSDT", "ETH3L", "ADABULL"} and rules(report) == {"leveraged"}
    assert list(report.clean()) == ["BTC", "BNB", "JUP", "SYRUP", "UP", "SUP", "XBULL"]


def test_frozen_and_stale_prices() -> None:
    prices = market()
    prices.iloc[100:109, 0] = prices.iloc[100, 0]  # nine are not ten
    prices.iloc[100:110, 1] = prices.iloc[100, 1]
    prices.iloc[488:, 2] = prices.iloc[488, 2]
    report = inspect_prices(prices)
    assert report.ok and one(report, "frozen")["asset"] == "ETH" and one(report, "frozen")["rows"] == 10
    assert one(report, "stale")["asset"] == "ADA" and one(report, "stale")["rows"] == 12


def test_no_volume_is_told() -> None:
    prices = market()
    volume = prices * 0 + 5.0
    volume.iloc[40:60, 1] = 0.0
    volume.iloc[90:95, 2] = 0.0
    assert one(inspect_prices(prices, volume=volume), "untraded")["asset"] == "ETH"


def test_an_asset_that_ended_stays() -> None:
    prices = market()
    prices.iloc[400:, 3] = np.nan
    report = inspect_prices(prices)
    assert report.ok and one(report, "ended")["start"] == prices.index[400]
    assert report.clean()["XLM"].notna().sum() == 400


def test_history_that_is_too_short_is_left_out_and_reported() -> None:
    prices = market()
    prices.iloc[:411, 3] = np.nan
    report = inspect_prices(prices)
    assert "89 prices are fewer than min_history = 90" in one(report, "short")["message"] and list(report.clean()) == COINS[:3]
    assert inspect_prices(prices, policy=QualityPolicy(min_history=89)).findings.empty
    young = inspect_prices(prices.iloc[-60:])
    assert young.ok and rules(young) == {"rows"} and young.clean().shape == (60, 4)


def test_a_trimmed_asset_can_become_too_short() -> None:
    prices = market(200)
    prices.iloc[:60, 0] = prices.iloc[80:90, 0] = prices.iloc[150:155, 0] = np.nan
    report = inspect_prices(prices)
    assert rules(report, "BTC") == {"hole", "short"} and "BTC" not in report.clean()


# ---------------------------------------------------------------- dates
def test_time_zones() -> None:
    prices = market()
    for frame, words in ((prices.tz_localize(None), "no time zone"), (prices.tz_convert("Europe/Berlin"), "Europe/Berlin")):
        report = inspect_prices(frame)
        assert not report.ok and words in one(report, "time_zone")["message"]
        kept = inspect_prices(frame, policy={"time_zone": "keep"})
        pd.testing.assert_frame_equal(kept.clean(), prices, check_freq=False, check_names=False)


@pytest.mark.parametrize("as_text", [True, False])
def test_mixed_zones(as_text: bool) -> None:
    prices = market()
    labels = [d if i % 2 else d.tz_localize(None) for i, d in enumerate(prices.index)]
    report = inspect_prices(prices.set_axis(pd.Index([str(d) for d in labels] if as_text else labels, dtype=object)))
    assert not report.ok and "others do not" in one(report, "time_zone")["message"] and len(report.prices) == 500


def test_days_of_another_midnight() -> None:
    berlin = market().tz_localize(None).tz_localize("Europe/Berlin").tz_convert("UTC")
    report = inspect_prices(berlin)
    assert report.ok and one(report, "day")["rows"] == 500 and "23:00" in one(report, "day")["message"]
    assert "day" not in rules(inspect_prices(market(freq="h")))


def test_rows_that_are_no_dates() -> None:
    report = inspect_prices(market().reset_index(drop=True))
    assert not report.ok and "0 in row 1 is no date" in one(report, "dates")["message"] and report.prices.empty
    with pytest.raises(DataError, match="no date"):
        report.clean()
    prices = market()
    gap = prices.set_axis(prices.index.where(np.arange(500) != 7))
    assert one(inspect_prices(gap), "dates")["rows"] == 1 and "NaT in row 8" in one(inspect_prices(gap), "dates")["message"]


def test_order_and_duplicates_of_a_wide_table() -> None:
    prices = market()
    messy = pd.concat([prices.iloc[:300], prices.iloc[298:], prices.iloc[[10, 10]] * 2])
    report = inspect_prices(messy)
    assert {"order", "duplicate"} <= rules(report) and not report.ok
    found = one(report, "duplicate")
    assert (found["start"], found["rows"]) == (prices.index[10], 4) and "3 times; 2 of the rows differ" in found["message"]
    kept = inspect_prices(messy, policy={"order": "keep", "duplicate": "keep"})
    pd.testing.assert_frame_equal(kept.clean(), prices, check_freq=False)


def test_four_identical_rows_on_31_days_of_a_long_table() -> None:
    wide = market(names=[*COINS, "JUV"])
    long = wide.rename_axis(columns="symbol").stack().rename("close").reset_index()
    extra = long[(long["symbol"] == "JUV") & long["date"].between("2021-08-01", "2021-08-31")]
    long = pd.concat([long, extra, extra, extra]).sort_values("date", kind="stable")
    assert len(extra) == 31 and long["date"].is_monotonic_increasing
    report = inspect_prices(long)
    found = one(report, "duplicate")
    assert (found["asset"], found["rows"], found["start"]) == ("JUV", 93, day("2021-08-01")) and not report.ok
    assert "31 dates are there more than once, 2021-08-01 4 times; the rows are identical" in found["message"]
    pd.testing.assert_frame_equal(inspect_prices(long, policy={"duplicate": "keep"}).clean()[list(wide)], wide,
                                  check_freq=False)


def test_a_long_table_with_everything() -> None:
    long = market(120).rename_axis(columns="coin").stack().rename("price").reset_index()
    other = long[long["coin"] == "ETH"].iloc[[5]].assign(price=1.0)
    nameless = long.iloc[[3]].assign(coin=None)
    report = inspect_prices(pd.concat([long, other, nameless]))
    assert rules(report) == {"order", "duplicate", "name"} and rules(report, "ETH") == {"order", "duplicate"}
    assert "1 of the rows differ" in one(report, "duplicate")["message"]


def test_names() -> None:
    prices = market(names=["BTC", "btc", "kPEPE", "PEPE", "@107", "ETH-USDC", "kava"])
    report = inspect_prices(prices)
    assert one(report, "name")["asset"] == "btc" and not report.ok
    told = report.findings[report.findings["rule"] == "alias"].set_index("asset")["message"]
    assert set(told.index) == {"kPEPE", "@107", "ETH-USDC"} and "many units of PEPE" in told["kPEPE"]
    assert (report.findings.loc[report.findings["rule"] == "alias", "severity"] == "info").all()
    twice = pd.concat([market(), market()[["BTC"]]], axis=1)
    assert "more than one column" in one(inspect_prices(twice), "name")["message"]
    with pytest.raises(DataError, match="several levels"):
        inspect_prices(pd.concat({"close": market()}, axis=1))


def test_missing_rows_and_irregular_dates() -> None:
    prices = market()
    report = inspect_prices(prices.drop(prices.index[100:104]))
    found = one(report, "rows")
    assert report.ok and found["rows"] == 4 and (found["start"], found["end"]) == (prices.index[99], prices.index[104])
    odd = prices.iloc[np.sort(np.random.default_rng(0).choice(500, 200, replace=False))]
    report = inspect_prices(odd)
    assert report.ok and report.periods_per_year is None and "irregular" in rules(report)
    assert report.findings["rule"].eq("rows").sum() == 10 and "unknown" in report.summary


def test_a_jump_over_missing_rows_is_not_a_move_of_one_bar() -> None:
    prices = market()
    prices.iloc[250:, 0] *= 8
    prices.iloc[250:, 1] *= 200
    report = inspect_prices(prices.drop(prices.index[200:250]))
    assert rules(report, "BTC") == set() and rules(report, "ETH") == {"relist"}


def test_against_the_clock() -> None:
    prices = market()
    last = prices.index[-1]
    def told(hours: float) -> set[str]:
        return rules(inspect_prices(prices, now=last + pd.Timedelta(hours=hours)))
    assert told(-30) == {"future"} and told(5) == {"unfinished"} and told(30) == set() and told(80) == {"stale"}
    weekdays = market(freq="B")
    assert inspect_prices(weekdays, now=weekdays.index[-1] + pd.Timedelta(days=4)).findings.empty


# ---------------------------------------------------------------- values
@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, -np.inf])
def test_impossible_prices(bad: float) -> None:
    prices = market()
    prices.iloc[100:103, 1] = bad
    report = inspect_prices(prices)
    assert rules(report) == {"impossible"} and one(report, "impossible")["rows"] == 3
    with pytest.raises(DataError, match=rf"ETH from 2021-04-11 to 2021-04-13: the price is {bad:g}"):
        report.clean()
    assert inspect_prices(prices, policy={"impossible": "trim"}).clean()["ETH"].notna().sum() == 397


def test_text_and_numbers_as_text() -> None:
    prices = market().astype(str)
    assert inspect_prices(prices).findings.empty
    prices.iloc[3, 2] = "n/a"
    assert one(inspect_prices(prices), "text")["start"] == day("2021-01-04")
    prices["NONE"] = np.nan
    assert rules(inspect_prices(prices), "NONE") == {"empty"}
    assert inspect_prices(market().round().astype(int)).findings.empty


def test_all_findings_are_listed_and_many_of_one_kind_are_one() -> None:
    prices = market(names=[*COINS, "A", "B", "C"])
    prices.iloc[10, 0], prices.iloc[30:, 1], prices.iloc[40, 2] = 0.0, prices.iloc[30:, 1] * 500, np.nan
    prices.iloc[::3, 4] = -1.0
    report = inspect_prices(prices)
    assert {"impossible", "redenomination", "hole"} <= rules(report)
    many = report.findings[report.findings["asset"] == "A"].query("rule == 'impossible'")
    assert len(many) == 1 and "the first of 167 such places" in many["message"].iloc[0] and many["rows"].iloc[0] == 167
    with pytest.raises(DataError) as caught:
        report.clean()
    for words in ("BTC on 2021-01-11", "ETH on 2021-01-31", "A from 2021-01-01"):
        assert words in str(caught.value)


# ---------------------------------------------------------------- policy and report
def test_a_policy_knows_its_rules() -> None:
    with pytest.raises(ConfigError, match="no rule holes.*did you mean hole"):
        QualityPolicy(actions={"holes": "keep"})
    with pytest.raises(ConfigError, match="order cannot drop; choose from refuse, keep"):
        inspect_prices(market(), policy={"order": "drop"})
    assert all(rule.action in rule.allowed and rule.severity in ("error", "warning", "info") for rule in RULES.values())


def test_a_configuration_says_what_is_known_and_what_the_optimiser_takes_care_of() -> None:
    data = {"quality": {"hole": "drop"}, "accept": ["LUNA 2022-05-13"], "min_history": 30}
    optimizer = {"treat_as_cash": ["USDT"], "merge_correlated": 0.999}
    policy = quality_from(Settings(data=data, portfolio={"optimizer": optimizer}))
    assert (policy.action("hole", "X"), policy.action("twin", "X"), policy.min_history) == ("drop", "keep", 30)
    assert policy.action("stablecoin", "USDT") == policy.action("redenomination", "LUNA", "2022-05-13") == "keep"
    assert quality_from(Settings()) == QualityPolicy(accept=[])
    with pytest.raises(ConfigError, match="data.accept has 'LUNA'"):
        quality_from(Settings(data={"accept": ["LUNA"]}))


def test_only_what_is_asked_for_is_looked_at() -> None:
    prices = market()
    prices["XLM"] *= np.where(np.arange(500) < 300, 1, 50)
    report = inspect_prices(prices, assets=["ETH", "BTC"])
    assert report.ok and list(report.clean()) == ["BTC", "ETH"]
    with pytest.raises(ConfigError, match="no DOGE; there is BTC, ETH"):
        inspect_prices(prices, assets=["BTC", "DOGE"])


def test_notes_are_short() -> None:
    prices = market(names=[*COINS, *(f"A{i}" for i in range(6)), "USDT"])
    prices["USDT"], prices.iloc[400:, 4:10] = 1.0001, np.nan
    report = inspect_prices(prices.assign(USDT=1 + np.random.default_rng(0).normal(0, 1e-3, 500)))
    assert report.notes == ["Left out: USDT (stablecoin)", "Kept, with a warning: A0, A1, A2, A3 and 2 more (ended)"]
    assert inspect_prices(market()).notes == []


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    dirty = tmp_path / "dirty.csv"
    dirty.write_text("date,BTC,ETH\n2024-01-01,1,2\n2024-01-01T05:00Z,x,2\nsoon,1,2\n2024-01-04,1,-2\n2024-01-03,1,\n")
    assert rules(inspect_prices(read_prices(dirty))) >= {"dates", "time_zone", "order", "text", "impossible"}
    long = market(100).rename_axis(columns="Symbol").stack().rename("Close").reset_index().assign(volume=5)
    long.to_csv(tmp_path / "long.csv", index=False)
    pd.testing.assert_frame_equal(inspect_prices(read_prices(tmp_path / "long.csv")).clean()[COINS], market(100),
                                  check_freq=False, rtol=1e-14)
    with pytest.raises(DataError, match="no price file"):
        read_prices(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder; name the price file"):
        read_prices(tmp_path)
    for sign in (";", "\t"):
        dirty.write_text(f"date{sign}BTC{sign}ETH\n2024-01-01{sign}1,5{sign}2\n2024-01-02{sign}1{sign}2,1\n")
        with pytest.raises(DataError, match="the columns are separated by"):
            read_prices(dirty)


def test_a_long_table_may_name_what_it_lacks() -> None:
    wide = market()
    wide.iloc[:100, 2] = np.nan
    long = wide.rename_axis(columns="coin").melt(value_name="close", ignore_index=False).reset_index()
    assert long["close"].isna().sum() == 100
    pd.testing.assert_frame_equal(inspect_prices(long).clean()[COINS], wide, check_freq=False)


def test_accepting_one_finding_keeps_the_rule_for_all_others() -> None:
    prices = market()
    prices.iloc[300:, 0] *= 50
    prices.iloc[350:, 1] *= 50
    report = inspect_prices(prices, policy=QualityPolicy(accept=[("BTC", "redenomination")]))
    assert set(report.findings.query("action == 'refuse'")["asset"]) == {"ETH"}
    assert inspect_prices(prices, policy=QualityPolicy(accept=[("BTC", "2021-10-28"), ("ETH", "2021-12-17")])).ok


def test_the_worst_comes_first_and_the_page_escapes_names() -> None:
    prices = market(names=[*COINS, "<b>"])
    prices.iloc[300:, 4] *= 50
    prices.iloc[400:, 0] = np.nan
    report = inspect_prices(prices)
    assert report.findings["severity"].tolist() == ["error", "warning"]
    text, page = repr(report), report._repr_html_()
    assert "REFUSED" in text and "<b> on 2021-10-28" in text and "&lt;b&gt;" in page and "<b>" not in page


def test_an_empty_table_is_told_and_not_drawn() -> None:
    report = inspect_prices(pd.DataFrame())
    assert "unknown" in report.summary
    with pytest.raises(DataError):
        report.clean()
    with pytest.raises(DataError, match="nothing to draw"):
        plot_availability(report)


def test_the_map_shows_every_missing_day_and_repeats_itself() -> None:
    prices = market(3000, [f"A{i}" for i in range(90)])
    prices.iloc[1500, 7] = np.nan
    report = inspect_prices(prices)
    chart = plot_availability(report)
    codes = chart.axes[0].collections[0].get_array()
    assert codes.shape == (90, 1200) and (codes == 3).sum() == 1
    assert plot_availability(report).png() == chart.png()


def test_a_raw_table_is_read_without_copying_what_is_good() -> None:
    prices = market()
    table, text, found = read_table(prices)
    assert np.shares_memory(table.to_numpy(), prices.to_numpy()) and not text.any() and not found


# ---------------------------------------------------------------- periods
@pytest.mark.parametrize(
    ("freq", "expected"),
    [("D", 365), ("B", 252), ("h", 8760), ("4h", 2190), ("15min", 35_040), ("W", 52), ("W-FRI", 52), ("MS", 12),
     ("BME", 12), ("QS", 4), ("YS", 1), ("2D", 182.5)],
)  # fmt: skip
def test_periods_of_regular_dates(freq: str, expected: float) -> None:
    year = infer_periods_per_year(pd.date_range("2020-03-05", periods=60, freq=freq, tz="UTC"))
    assert year == expected and isinstance(year, PeriodsPerYear) and year.reason in repr(year)


def test_periods_with_holidays_and_missing_rows() -> None:
    weekdays = pd.bdate_range("2020-01-01", periods=500, tz="UTC")
    assert infer_periods_per_year(weekdays.delete(range(0, 500, 25))) == 252
    every = pd.date_range("2020-01-01", periods=500, tz="UTC")
    assert infer_periods_per_year(every.delete(range(0, 500, 25))) == 365
    assert infer_periods_per_year(weekdays + pd.Timedelta(hours=21)) == 252


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 2, 3, 4], [0, 1, 5, 6, 20, 40, 41, 90], [*range(60), *range(300, 350)]])
def test_periods_are_never_guessed(rows: list[int]) -> None:
    dates = pd.date_range("2024-01-01", periods=400, tz="UTC")[rows]
    with pytest.raises(DataError, match="give periods_per_year"):
        infer_periods_per_year(dates)


def test_periods_fill_a_gap_in_the_configuration_only() -> None:
    assert with_periods(Settings(), 252.0).periods_per_year == 252
    given = Settings(portfolio={"analytics": {"periods_per_year": 100}})
    assert with_periods(given, 252.0).periods_per_year == 100 and with_periods(Settings(), None) == Settings()


# ---------------------------------------------------------------- real tables
TABLES = {
    "crypto_daily_close": (44_307, 365), "coinmetrics_daily_price_usd": (30_310, 365), "crypto_daily_ohlcv_long": (44_307, 365),
    "hyperliquid_candles/perps_1d_close": (115_169, 365), "crypto_1h_2024_ohlcv_long": (59_954, 8760),
    "hyperliquid_candles/perps_1h_ohlcv_long": (98_368, 8760),
}  # fmt: skip


@pytest.fixture(scope="session")
def real(test_data) -> dict[str, QualityReport]:
    """A report of each real price table."""
    reports = {}
    for name in TABLES:
        frame = pd.read_csv(test_data / f"{name}.csv.gz")
        first = frame.columns[0]
        reports[name] = inspect_prices(frame.assign(**{first: pd.to_datetime(frame[first], utc=True)}))
    return reports


def test_no_real_table_is_refused(real: dict[str, QualityReport]) -> None:
    prices = 0
    for name, report in real.items():
        assert report.ok, report
        assert (report.prices.notna().sum().sum(), report.periods_per_year) == TABLES[name]
        assert report.clean().notna().sum().sum() == report.kept.sum().sum()
        prices += int(report.prices.notna().sum().sum())
        assert rules(report) <= {"move", "ended", "short", "stablecoin", "alias", "listing"}
    assert prices == 392_415  # and none of them refused


def test_real_moves_listings_and_cash(real: dict[str, QualityReport]) -> None:
    coins, perps = real["crypto_daily_close"], real["hyperliquid_candles/perps_1d_close"]
    assert one(coins, "move")["asset"] == "DOGE" and one(coins, "move")["start"] == day("2021-01-28")
    moved = perps.findings.query("rule == 'move'").set_index("asset")
    assert moved["start"].to_dict() == {"DOGE": day("2021-01-28"), "OM": day("2025-04-13")}
    assert one(perps, "listing")["asset"] == "HPOS" and perps.clean()["HPOS"].first_valid_index() == day("2023-05-11")
    assert one(real["coinmetrics_daily_price_usd"], "stablecoin")["asset"] == "USDT"
    assert perps.findings["rule"].value_counts().to_dict() == {"ended": 13, "short": 13, "alias": 7, "move": 2, "listing": 1}


def test_ragged_coins_keep_all_their_rows(real: dict[str, QualityReport]) -> None:
    report = real["crypto_daily_close"]
    assert len(report.prices.dropna()) == 163 and report.clean().notna().sum().sum() == 44_307
