"""Losses by holding that add up, proxies that are marked, and closed forms that are what they claim."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from portfolio_research.config import ConfigError, DataError
from portfolio_research.data import load_episodes
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.stress import (
    correlation_stress,
    factor_shock,
    liquidity_haircut,
    replay_episodes,
    reverse_stress,
    stress_report,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def matrix(n=300, assets="ABCDE", seed=0, scale=0.02):
    rng = np.random.default_rng(seed)
    common = rng.standard_t(4, n)[:, None]
    values = np.maximum(scale * (common + rng.standard_t(4, (n, len(assets)))) / 2, -0.9)
    return pd.DataFrame(values, pd.date_range("2024-01-01", periods=n, tz="UTC"), list(assets))


def episode(*spans):
    rows = [(f"e{i}", pd.Timestamp(a, tz="UTC"), pd.Timestamp(b, tz="UTC")) for i, (a, b) in enumerate(spans)]
    return pd.DataFrame(rows, columns=["name", "start", "end"])


SPANS = episode(("2024-02-01", "2024-02-20"), ("2024-06-01", "2024-06-02"), ("2024-03-01", "2024-08-01"))
weight_lists = st.lists(st.sampled_from([0.0, 0.1, 0.25, -0.3, 0.5, -0.05, 1.2]), min_size=5, max_size=5)


# --- replay -----------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(0, 200), st.integers(0, 5), st.sampled_from([0.0, 0.13]))
def test_losses_and_drawdowns_by_holding_sum_to_the_scenario(weights, late, seed, now):
    r = matrix(seed=seed)
    r.iloc[:late, 1] = np.nan
    r.iloc[: late // 2, 3] = np.nan
    got = replay_episodes(r, weights, SPANS, drawdown_now=now, draws=20)
    judged = got.table["loss"].notna().to_numpy()
    gross = 1 + np.abs(weights).sum()
    for parts, total in ((got.losses, "loss"), (got.drawdowns, "drawdown")):
        difference = (parts.sum(axis=1) - got.table[total])[judged]
        assert (difference.abs() <= 1e-12 * gross).all()
    assert (got.table["drawdown"][judged] >= np.maximum(got.table["loss"][judged], 0) - 1e-12).all()
    assert (got.table["depth"][judged] >= now - 1e-12).all()
    assert not (np.signbit(got.losses) & (got.losses == 0)).any(axis=None)


@settings(max_examples=40, deadline=None)
@given(weight_lists, st.integers(0, 5))
def test_a_window_in_the_data_is_plain_buy_and_hold(weights, seed):
    r = matrix(seed=seed)
    got = replay_episodes(r, weights, SPANS, drawdown_now=0.1, drawdown_limit=0.25)
    for row, (_, span) in zip(got.table.itertuples(), SPANS.iterrows(), strict=True):
        rows = r.loc[span["start"] + pd.Timedelta(days=1) : span["end"]]
        wealth = pd.concat([pd.Series([1.0]), 1 + ((1 + rows).cumprod() - 1) @ np.array(weights)])
        under = 1 - wealth / wealth.cummax()
        np.testing.assert_allclose(row.loss, 1 - wealth.iloc[-1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(row.drawdown, under.max(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(row.depth, (1 - wealth / wealth.cummax().clip(lower=1 / 0.9)).max(), atol=1e-12)
        np.testing.assert_allclose(row.room, 0.25 - row.depth)
        assert row.trough == under.idxmax() if under.max() > 1e-12 else True
        assert (row.loss_low, row.loss_high, row.drawdown_high) == (row.loss, row.loss, row.drawdown)
        assert (row.proxied, row.covered, row.proxied_assets, row.not_covered) == (0, 1, [], [])


def test_a_late_coin_is_proxied_by_beta_times_the_others_and_marked():
    r = matrix(400)
    r["E"] = 2 * r[list("ABCD")].mean(axis=1)  # beta 2 and no residual: the proxy is exact
    young = r.copy()
    young.loc[:"2024-06-30", "E"] = np.nan
    w = pd.Series({"A": 0.5, "E": 0.5})
    got, true = replay_episodes(young, w, SPANS[:1]), replay_episodes(r, w, SPANS[:1])
    row = got.table.iloc[0]
    assert row["proxied"] == 0.5 and row["covered"] == 1 and row["proxied_assets"] == ["E"]
    np.testing.assert_allclose(got.losses, true.losses, rtol=1e-10)
    np.testing.assert_allclose([row["loss_low"], row["loss_high"]], row["loss"], rtol=1e-9)
    known = replay_episodes(young, w, SPANS[:1], benchmark=r["E"] / 3)  # beta 3 against this one
    np.testing.assert_allclose(known.losses, true.losses, rtol=1e-10)


def test_returns_that_exist_are_used_inside_a_window():
    r = matrix(400)
    r.loc["2024-02-05", "B"] = np.nan
    r.loc["2024-02-10", "B"] = -0.8
    got = replay_episodes(r, {"B": 1.0}, SPANS[:1])
    assert got.table["loss"].iloc[0] > 0.7 and got.table["proxied_assets"].iloc[0] == ["B"]


def test_the_interval_holds_the_truth_and_is_the_same_every_time():
    inside = []
    for seed in range(60):
        r = matrix(500, seed=seed)
        young = r.copy()
        young.loc[:"2024-05-31", "A"] = np.nan
        one = replay_episodes(young, {"A": 1.0}, SPANS[:1]).table.iloc[0]
        true = replay_episodes(r, {"A": 1.0}, SPANS[:1]).table["loss"].iloc[0]
        inside.append(one["loss_low"] <= true <= one["loss_high"])
        assert one["loss_low"] < one["loss"] < one["loss_high"] and one["drawdown_high"] >= one["drawdown"]
    assert 0.75 < np.mean(inside) <= 1
    again = replay_episodes(young, {"A": 1.0}, SPANS[::-1]).table.loc["e0"]
    assert (again["loss_low"], again["loss_high"]) == (one["loss_low"], one["loss_high"])  # whatever else is asked


def test_coins_of_different_ages_share_an_interval():
    r = matrix(500)
    r.loc[:"2024-05-31", "A"] = np.nan
    r.loc[:"2024-10-31", "B"] = np.nan
    one = replay_episodes(r, {"A": 0.5, "B": 0.5}, SPANS[:1]).table.iloc[0]
    assert one["proxied"] == 1 and one["loss_low"] < one["loss"] < one["loss_high"]


def test_the_interval_knows_the_error_of_beta():
    rng, days = np.random.default_rng(0), pd.date_range("2024-01-01", periods=130, tz="UTC")
    b = pd.Series(rng.normal(0, 0.01, 130), days)
    b.loc["2024-02-02"] = -0.5
    r = pd.DataFrame({"A": 1.5 * b + rng.normal(0, 0.02, 130), "B": b}, days)
    r.loc[:"2024-02-29", "A"] = np.nan
    got = replay_episodes(r, {"A": 1.0}, episode(("2024-02-01", "2024-02-02")), benchmark=b, draws=4000).table.iloc[0]
    error = 0.02 / (0.01 * np.sqrt(70))
    expected = 2 * norm.ppf(0.95) * np.hypot(0.5 * error, 0.02)
    assert got["loss_high"] - got["loss_low"] == pytest.approx(expected, rel=0.2) and expected > 0.3


def test_what_cannot_be_known_is_named_and_not_counted():
    r = matrix(400)
    r.iloc[:-40, 1] = np.nan  # too short even for a beta
    got = replay_episodes(r, {"A": 0.7, "B": 0.3}, SPANS[:1])
    row = got.table.iloc[0]
    assert row["covered"] == pytest.approx(0.7) and row["not_covered"] == ["B"] and np.isnan(got.losses["B"].iloc[0])
    np.testing.assert_allclose(row["loss"], got.losses["A"].iloc[0])
    mostly = replay_episodes(r, {"A": 0.3, "B": 0.7}, SPANS[:1])
    assert np.isnan(mostly.table["loss"].iloc[0]) and mostly.losses.isna().all(axis=None)
    assert replay_episodes(r, {"A": 0.3, "B": 0.7}, SPANS[:1], min_coverage=0.2).table["loss"].notna().all()
    assert replay_episodes(r, {"A": 0.3, "B": 0.7}, SPANS[:1], min_overlap=30).table["covered"].iloc[0] == 1
    r.iloc[:-20, 1] = np.nan
    few = replay_episodes(r, {"A": 0.3, "B": 0.7}, SPANS[:1], min_overlap=10).table.iloc[0]
    assert few["covered"] == 1 and few["loss"] > -1 and np.isnan([few["loss_low"], few["loss_high"]]).all()
    assert replay_episodes(r.iloc[:1], {"A": 1.0}, SPANS).table["loss"].isna().all()


def test_windows_that_the_data_do_not_span():
    r = matrix(100)
    spans = episode(("2023-12-20", "2024-01-20"), ("2024-03-25", "2024-04-20"), ("2023-12-31", "2024-01-05"),
                    ("2030-01-01", "2030-01-02"), ("2024-04-05", "2024-04-09"))
    got = replay_episodes(r, {"A": 1.0}, spans).table
    assert got["loss"].isna().tolist() == [True, True, False, True, False]
    assert got["covered"].tolist() == [0, 0, 1, 0, 1]
    five = (1 + r["A"].iloc[:5]).prod()
    np.testing.assert_allclose(got["loss"].iloc[2], 1 - five)


def test_hours_of_the_last_day_count():
    hourly = matrix(24 * 40).set_axis(pd.date_range("2024-01-01", periods=24 * 40, freq="h", tz="UTC"))
    got = replay_episodes(hourly, {"A": 1.0}, episode(("2024-01-10", "2024-01-12")))
    rows = hourly.loc["2024-01-11":"2024-01-12", "A"]
    assert len(rows) == 48
    np.testing.assert_allclose(got.table["loss"].iloc[0], 1 - (1 + rows).prod())


def test_weekends_belong_to_the_next_trading_day():
    r = matrix(100)
    r = r[r.index.day_of_week < 5]
    got = replay_episodes(r, {"A": 1.0}, episode(("2024-01-06", "2024-01-14")))  # Saturday to Sunday
    np.testing.assert_allclose(got.table["loss"].iloc[0], 1 - (1 + r.loc["2024-01-08":"2024-01-12", "A"]).prod())


def test_a_market_that_stands_still_is_no_proxy():
    r = matrix(400)
    r.iloc[:200, 0] = np.nan
    got = replay_episodes(r, {"A": 1.0}, SPANS[:1], benchmark=pd.Series(0.001, r.index))
    assert got.table["not_covered"].iloc[0] == ["A"] and np.isnan(got.table["loss"].iloc[0])
    alone = replay_episodes(r[["A"]], {"A": 1.0}, SPANS[:1])
    assert alone.table["covered"].iloc[0] == 0


def test_nothing_held_loses_nothing():
    got = replay_episodes(matrix(), {}, SPANS)
    assert (got.table["loss"] == 0).all() and (got.table["covered"] == 1).all() and got.losses.shape == (3, 0)
    assert replay_episodes(matrix(), {"A": 0.5}, SPANS[:0]).table.empty


def test_a_book_that_is_ruined_on_the_way():
    r = matrix(100)
    r.loc["2024-02-05", "A"] = -0.9
    got = replay_episodes(r, {"A": 2.0}, SPANS[:1])
    assert got.table["drawdown"].iloc[0] > 1 and got.table["room"].iloc[0] < -0.8
    np.testing.assert_allclose(got.drawdowns.sum(axis=1), got.table["drawdown"])


def test_replays_agree_with_the_recorded_episodes(test_data):
    closes = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True).tz_localize("UTC")
    r = closes.pct_change(fill_method=None)
    for known in json.loads((test_data / "episodes.json").read_text()):
        held = closes.columns[closes.loc[known["from"] : known["to"]].notna().all()]
        got = replay_episodes(r, pd.Series(1 / len(held), held), episode((known["from"], known["to"]))).table.iloc[0]
        if known["name"] != "may_2021":  # ICP is listed on its first day
            assert len(held) == known["coins"]
            assert got["drawdown"] == pytest.approx(-known["buy_hold_max_drawdown"], abs=5.1e-5), known["name"]
            assert got["proxied"] <= 1 / len(held) + 1e-9


def test_hidden_coins_are_proxied_close_to_the_truth(test_data):
    closes = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True).tz_localize("UTC")
    r, rows = closes.pct_change(fill_method=None).iloc[1:], []
    episodes = load_episodes().set_index("name", drop=False)
    for name in ("black_thursday_2020", "luna_2022", "ftx_2022", "yen_carry_2024"):
        one = episodes.loc[[name]]
        window = r.loc[one["start"].iloc[0] : one["end"].iloc[0]]
        for coin in window.columns[window.notna().all()]:
            hidden = r.copy()
            hidden.loc[: one["end"].iloc[0], coin] = np.nan
            true = replay_episodes(r, {coin: 1.0}, one).table["loss"].iloc[0]
            got = replay_episodes(hidden, {coin: 1.0}, one).table.iloc[0]
            assert got["proxied"] == 1
            rows.append((true, got["loss"], got["loss_low"], got["loss_high"]))
    true, loss, low, high = np.array(rows).T
    assert len(rows) > 60 and np.abs(true - loss).mean() < 0.3 * np.abs(true).mean()
    assert ((true >= low) & (true <= high)).mean() > 0.75


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: replay_episodes(matrix(), {"Z": 1.0}, SPANS), DataError, "no returns of Z"),
    (lambda: replay_episodes(matrix().tz_localize(None), {"A": 1.0}, SPANS), DataError, "UTC"),
    (lambda: replay_episodes(matrix().reset_index(drop=True), {"A": 1.0}, SPANS), DataError, "by date"),
    (lambda: replay_episodes(matrix()[::-1], {"A": 1.0}, SPANS), DataError, "repeat or go back"),
    (lambda: replay_episodes(matrix(), {"A": 1.0}, SPANS.drop(columns="end")), DataError, "lack the column end"),
    (lambda: replay_episodes(matrix(), {"A": 1.0}, SPANS, drawdown_now=1.0), ConfigError, "drawdown_now"),
    (lambda: replay_episodes(matrix(), {"A": 1.0}, SPANS, benchmark=pd.concat([matrix()["A"]] * 2)), DataError, "benchmark repeat"),
    (lambda: replay_episodes(matrix().replace(matrix().iloc[2, 0], np.inf), {"A": 1.0}, SPANS), DataError, "A on 2024-01-03"),
    (lambda: replay_episodes(matrix().iloc[::7], {"A": 1.0}, SPANS), DataError, "7 days apart"),
    (lambda: replay_episodes(matrix(), {"A": 1.0}, SPANS, draws=0), ConfigError, "draws"),
    (lambda: stress_report(matrix(), {"A": 1.0}, SPANS, liquidity=liquidity_haircut({"B": 1.0}, 1.0, adv=1.0, volatility=0.1)),
     DataError, "other holdings"),
    (lambda: factor_shock(matrix(), {"A": 1.0}, {}), ConfigError, "shock"),
    (lambda: factor_shock(matrix(), {"A": 1.0}, {"A": -1.5}), ConfigError, "not below -1"),
    (lambda: factor_shock(matrix(), {"A": 1.0}, {"Z": -0.5}), DataError, "no returns of Z"),
    (lambda: factor_shock(matrix().assign(B=0.001), {"A": 1.0}, {"B": -0.5}), DataError, "B never moves"),
    (lambda: correlation_stress(matrix(), {"A": 1.0}, 1.5), ConfigError, "lam"),
    (lambda: correlation_stress(matrix(), {"A": 1.0}, toward="two"), ConfigError, "toward"),
    (lambda: reverse_stress(matrix(), {"A": 1.0}, 1.0), ConfigError, "limit"),
    (lambda: liquidity_haircut({"A": 1.0}, 1e6, adv={"B": 1.0}, volatility=0.1), DataError, "adv of A"),
    (lambda: liquidity_haircut({"A": 1.0}, 1e6, adv=0.0, volatility=0.1), DataError, "adv of A is 0"),
    (lambda: liquidity_haircut({"A": 1.0}, 1e6, adv=1.0, volatility=-0.1), DataError, "volatility of A"),
    (lambda: liquidity_haircut({"A": 1.0}, -1.0, adv=1.0, volatility=0.1), ConfigError, "equity"),
    (lambda: stress_report(matrix(), {"A": 1.0}, SPANS, warning=0.3), ConfigError, "warning"),
])
def test_bad_input_names_the_culprit(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- factor shock -----------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(weight_lists, st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.booleans())
def test_a_shock_is_the_regression_on_the_factors(weights, first, second, two):
    r, w = matrix(), np.array(weights)
    shock = {"A": first, "C": second} if two else {"A": first}
    got = factor_shock(r, weights, shock)
    c, at = r.cov(), list(shock)
    expected = c[at].to_numpy() @ np.linalg.inv(c.loc[at, at].to_numpy()) @ np.array(list(shock.values()))
    losses = -w * np.maximum(expected, -1)
    np.testing.assert_allclose(got.losses.iloc[0], losses, rtol=1e-9, atol=1e-13)
    row = got.table.iloc[0]
    assert abs(got.losses.iloc[0].sum() - row["loss"]) <= 1e-12 and not row["singular"]
    left = c.to_numpy() - c[at].to_numpy() @ np.linalg.inv(c.loc[at, at].to_numpy()) @ c.loc[at].to_numpy()
    np.testing.assert_allclose(row["std"], np.sqrt(max(w @ left @ w, 0)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(row["loss_high"] - row["loss"], norm.ppf(0.95) * row["std"])
    assert row["drawdown"] == max(row["loss"], 0)


def test_a_factor_need_not_be_held_nor_a_book_be_complete():
    r = matrix()
    r["index"] = r.mean(axis=1)
    r.loc[r.index[:100], "D"] = np.nan
    r["E"] = np.nan
    got = factor_shock(r, {"A": 0.6, "B": 0.4, "D": 0.0, "E": 0.0}, {"index": -0.1})
    beta = r[["A", "B"]].apply(lambda x: x.cov(r["index"]) / r["index"].var())
    np.testing.assert_allclose(got.losses.iloc[0][["A", "B"]], 0.1 * np.array([0.6, 0.4]) * beta, rtol=1e-9)
    assert got.losses.iloc[0]["D"] == got.losses.iloc[0]["E"] == 0 and got.table.index[0] == "index -10%"


def test_a_shock_to_all_that_is_held_leaves_nothing_open():
    row = factor_shock(matrix(), {"A": 0.5, "B": 0.5}, {"A": -0.1, "B": -0.2}).table.iloc[0]
    assert row["loss"] == pytest.approx(0.15) and row["std"] == 0 and row["explained"] == 1
    assert row["loss_low"] == row["loss_high"] == row["loss"]


def test_copies_are_said_to_be_singular():
    r = matrix()
    r["B"] = r["A"]
    alike = factor_shock(r, [0.2] * 5, {"A": -0.3, "B": -0.3})
    one = factor_shock(r, [0.2] * 5, {"A": -0.3})
    assert alike.table["singular"].iloc[0] and not one.table["singular"].iloc[0]
    np.testing.assert_allclose(alike.losses, one.losses, rtol=1e-9)
    np.testing.assert_allclose(alike.table["distance"], one.table["distance"], rtol=1e-9)
    apart = factor_shock(r, [0.2] * 5, {"A": -0.3, "B": 0.1})
    assert apart.table["distance"].iloc[0] == np.inf and apart.losses["B"].iloc[0] == pytest.approx(-0.02)


def test_nothing_falls_by_more_than_all():
    r = matrix()
    r["B"] = 3 * r["A"]
    assert factor_shock(r, {"A": 0.5, "B": 0.5}, {"A": -0.5}).losses["B"].iloc[0] == 0.5


def test_too_little_history_has_no_answer():
    r = matrix(29)
    for got in (factor_shock(r, {"A": 1.0}, {"B": -0.1}), reverse_stress(r, {"A": 1.0})):
        assert np.isnan(got.table["loss"].iloc[0]) and np.isnan(got.table["drawdown"].iloc[0])
        assert got.losses["A"].isna().all()
    assert correlation_stress(r, {"A": 1.0}).table.isna().all(axis=None)


# --- correlations -----------------------------------------------------------------------------------------------------
@settings(max_examples=50, deadline=None)
@given(st.lists(st.just(0.0) | st.floats(1e-6, 1), min_size=5, max_size=5), st.floats(0, 1), st.integers(0, 5))
def test_long_books_only_get_riskier(weights, lam, seed):
    r = matrix(seed=seed)
    got, more = (correlation_stress(r, weights, x) for x in (lam, min(1.0, lam + 0.1)))
    v = got.table.loc["volatility"]
    assert v["before"] <= v["after"] + 1e-15 and v["after"] <= more.table.loc["volatility", "after"] + 1e-15
    on = np.array(weights) > 0
    if on.any():
        np.testing.assert_allclose(v["before"], np.sqrt(np.array(weights) @ r.cov() @ np.array(weights)), rtol=1e-9)
        assert (got.table.loc["diversification_ratio"] >= 1 - 1e-9).all()
        c = r.loc[:, on].corr().to_numpy()
        mixed = (1 - lam) * c + lam
        assert np.linalg.eigvalsh(mixed)[0] >= -1e-12
        np.testing.assert_allclose(v["after"], np.sqrt(np.abs((w := (np.array(weights) * r.std())[on]) @ mixed @ w)), rtol=1e-9)
        if on.sum() > 1:
            np.testing.assert_allclose(got.table.loc["average_correlation", "after"], mixed[np.triu_indices(len(c), 1)].mean())
    np.testing.assert_allclose(got.losses.sum(), got.table.loc["cvar"], rtol=1e-12, atol=1e-15)
    factor = norm.pdf(norm.ppf(0.05)) / 0.05
    np.testing.assert_allclose(got.table.loc["cvar"], factor * v)


def test_hedges_fail_towards_zero():
    r = matrix()
    r["B"] = r["A"] + 0.1 * r["C"]
    w = {"A": 1.0, "B": -1.0}
    one, zero = correlation_stress(r, w, 0.5), correlation_stress(r, w, 0.5, toward="zero")
    assert one.table.loc["volatility", "after"] < one.table.loc["volatility", "before"] < zero.table.loc["volatility", "after"]


def test_hrp_before_and_after():
    r = matrix()[list("DBACE")]
    got = correlation_stress(r, pd.Series(0.2, list("EDCBA")), 0.7)
    fitted = HierarchicalRiskParity().fit(r).weights_
    np.testing.assert_allclose(got.hrp["before"], fitted[got.hrp.index], rtol=1e-9)
    np.testing.assert_allclose(got.hrp.sum(), 1)
    volatility, c = r.std(), 0.3 * r.corr() + 0.7

    class Given:
        def fit(self, X):
            self.covariance_ = (c * np.outer(volatility, volatility)).loc[list("ABCDE"), list("ABCDE")].to_numpy()
            return self

        def get_params(self, deep=True):
            return {}

    stressed = HierarchicalRiskParity(covariance=Given()).fit(r).weights_
    np.testing.assert_allclose(got.hrp["after"], stressed[got.hrp.index], rtol=1e-9)


def test_copies_and_mirrors_in_the_tree():
    r = matrix()
    r["B"], r["C"] = r["A"], -r["A"]
    got = correlation_stress(r, [0.2] * 5, 0.5)
    assert np.isfinite(got.table).all(axis=None)
    np.testing.assert_allclose(got.hrp["after"].sum(), 1)


def test_constant_and_single_assets():
    r = matrix().assign(B=0.001)
    got = correlation_stress(r, {"A": 0.5, "B": 0.5}, 1.0)
    assert np.isnan(got.hrp.loc["B", "after"]) and got.hrp.loc["A", "after"] == 1 and got.losses.loc["B", "after"] == 0
    assert np.isnan(correlation_stress(r, {"A": 1.0}).table.loc["average_correlation", "after"])
    still = correlation_stress(r, {"B": 1.0})
    assert still.table.loc["volatility", "after"] == 0 and np.isnan(still.table.loc["diversification_ratio", "after"])


# --- reverse ----------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(weight_lists.filter(any), st.floats(0.05, 0.5), st.integers(0, 5))
def test_the_reverse_move_hits_the_limit_and_none_is_nearer(weights, limit, seed):
    r, w = matrix(seed=seed), np.array(weights)
    got = reverse_stress(r, weights, limit)
    assert abs(got.losses.iloc[0].sum() - limit) <= 1e-12
    inverse = np.linalg.inv(r.cov().to_numpy())
    sigma = np.sqrt(w @ r.cov().to_numpy() @ w)
    np.testing.assert_allclose(got.table["distance"].iloc[0], limit / sigma, rtol=1e-9)
    others = np.random.default_rng(seed).standard_normal((200, 5)) * 0.05
    others -= np.outer(others @ w + limit, w) / (w @ w)  # every other move that hits the limit
    np.testing.assert_allclose(others @ w, -limit)
    far = np.sqrt(np.einsum("ij,jk,ik->i", others, inverse, others))
    assert (far >= limit / sigma * (1 - 1e-9)).all()
    move = -got.losses.iloc[0].to_numpy()[w != 0] / w[w != 0]
    best = (-limit * r.cov().to_numpy() @ w / sigma**2)[w != 0]
    np.testing.assert_allclose(move, best, rtol=1e-8)


def test_what_is_left_to_the_limit_when_under_water():
    r = matrix()
    got = reverse_stress(r, {"A": 1.0}, 0.20, drawdown_now=0.10)
    np.testing.assert_allclose(got.table["loss"].iloc[0], 1 - 0.8 / 0.9)
    gone = reverse_stress(r, {"A": 1.0}, 0.20, drawdown_now=0.30)
    assert gone.table["loss"].iloc[0] == gone.table["distance"].iloc[0] == 0
    assert gone.table["probability_gaussian"].iloc[0] == pytest.approx(0.5, abs=0.1)


def test_fat_tails_are_more_likely_to_get_there():
    row = reverse_stress(matrix(2000), [0.2] * 5, 0.10).table.iloc[0]
    assert 2 < row["student_dof"] < 8 and row["probability_student"] > 10 * row["probability_gaussian"]
    p = matrix(2000).mean(axis=1)
    assert row["probability_observed"] == (p <= -0.10).mean() and row["worst_observed"] == pytest.approx(-p.min())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odd = reverse_stress(pd.DataFrame({"A": [0.01, -0.01] * 40}), {"A": 1.0})
    assert 0 <= odd.table["probability_student"].iloc[0] < 1e-6


@pytest.mark.parametrize("weights", [{"A": 0.5, "B": -0.5}, {"C": 1.0}, {}])
def test_no_move_reaches_the_limit_of_a_book_that_does_not_move(weights):
    r = matrix().assign(C=0.001)
    r["B"] = r["A"]
    got = reverse_stress(r, weights)
    assert got.table[["loss", "drawdown", "distance", "probability_student"]].isna().all(axis=None)


# --- liquidity --------------------------------------------------------------------------------------------------------
def test_exit_costs_by_hand():
    got = liquidity_haircut({"A": 0.5, "B": -0.25, "C": 0.0}, 1e6, adv={"A": 1e7, "B": 1e6}, volatility=0.04,
                            spread={"A": 0.001, "B": 0.002}, participation=0.05, coefficient=0.8, confidence=0.99)
    assert list(got.index) == ["A", "B"]
    a, b = got.loc["A"], got.loc["B"]
    assert (a["value"], a["days"], b["value"], b["days"]) == (5e5, 1.0, 2.5e5, 5.0)
    np.testing.assert_allclose([a["half_spread"], b["half_spread"]], [250, 250])
    np.testing.assert_allclose(b["impact"], 2.5e5 * 0.8 * 0.04 * 0.5)
    np.testing.assert_allclose(b["price_risk"], 2.5e5 * norm.ppf(0.99) * 0.04 * np.sqrt(5 / 3))
    np.testing.assert_allclose(got["cost"], got[["half_spread", "impact", "price_risk"]].sum(axis=1))
    np.testing.assert_allclose(got["haircut"], got["cost"] / got["value"])
    np.testing.assert_allclose(got["loss"], got["cost"] / 1e6)


def test_price_risk_is_that_of_an_even_exit():
    rng, days = np.random.default_rng(0), 4
    steps = rng.normal(0, 0.02 / 10, (20000, days * 100))  # 100 steps a day
    left = 1 - (np.arange(days * 100) + 0.5) / (days * 100)
    simulated = (steps @ left).std()
    got = liquidity_haircut({"A": 1.0}, 1.0, adv=2.5, volatility=0.02, spread=0.0, coefficient=0.0)
    assert got["days"].iloc[0] == pytest.approx(4)
    assert got["price_risk"].iloc[0] / norm.ppf(0.95) == pytest.approx(simulated, rel=0.02)
    assert liquidity_haircut({}, 1.0, adv=1.0, volatility=0.1).empty


# --- report -----------------------------------------------------------------------------------------------------------
def report(w, **options):
    r = matrix(400)
    exits = liquidity_haircut(w, 1e6, adv=1e7, volatility=0.03)
    return stress_report(r, w, SPANS, shocks=[{"A": -0.3}, {"A": 0.3}], correlations=(0.5, -0.5), liquidity=exits, **options)


@pytest.mark.parametrize("w", [{"A": 0.5, "B": 0.3, "C": 0.2}, {"A": 0.9, "B": -0.4, "E": 0.0}])
def test_every_scenario_sums_and_is_judged(w):
    got = report(w, drawdown_now=0.05)
    t = got.table
    assert t["kind"].tolist() == ["replay"] * 3 + ["shock"] * 2 + ["correlation"] * 2 + ["reverse", "liquidity"]
    np.testing.assert_allclose(got.losses.sum(axis=1), t["loss"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.drawdowns.sum(axis=1), t["drawdown"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(t["room"], 0.20 - t["depth"])
    single = t["kind"] != "replay"
    np.testing.assert_allclose(t["depth"][single], 1 - 0.95 * (1 - t["drawdown"][single]))
    assert t["breach"]["reverse 20%"] == "critical" and abs(t["room"]["reverse 20%"]) < 1e-12
    assert t["breach"]["A +30%"] == "none" and t["drawdown"]["A +30%"] == 0
    expected = np.where(t["depth"] >= 0.2 - 1e-9, "critical", np.where(t["depth"] >= 0.1, "warning", "none"))
    assert t["breach"].tolist() == expected.tolist()
    worst = got.drawdowns.loc["A -30%"]
    assert (t["largest_loser"]["A -30%"], t["largest_loss"]["A -30%"]) == (worst.idxmax(), worst.max())
    assert t[["proxied", "covered"]].notna().all(axis=None)


def test_the_unknown_is_no_all_clear():
    r = matrix(400)
    r.iloc[:-20, 1] = np.nan
    got = stress_report(r, {"A": 0.3, "B": 0.7}, SPANS)
    assert (got.table["breach"] == "unknown").all() and got.table["largest_loser"].isna().all()
    assert got.losses.isna().any(axis=1).all()
    part = stress_report(0.01 * r, {"A": 0.7, "B": 0.3}, SPANS).table.loc[SPANS["name"]]
    assert (part["depth"] < 0.1).all() and (part["breach"] == "unknown").all() and (part["covered"] == 0.7).all()
    deep = stress_report(r, {"A": 7.0, "B": 3.0}, SPANS).table["breach"]
    assert deep["e2"] == "critical"  # what is covered is enough


@pytest.mark.parametrize("episodes", [SPANS, SPANS[:0]])
def test_an_empty_book_and_an_empty_list(episodes):
    got = stress_report(matrix(400), {}, episodes, shocks=[{"A": -0.3}])
    assert (got.table["breach"].drop("reverse 20%") == "none").all() and got.table["breach"]["reverse 20%"] == "unknown"
    some = stress_report(matrix(400), {"A": 1.0}, episodes)
    assert len(some.table) == len(episodes) + 2 and some.table["breach"].isin(["none", "warning", "critical"]).all()
