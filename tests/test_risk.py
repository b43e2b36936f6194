"""Portfolio risk against golden values; contributions that sum; a score with documented parts."""
import json
import warnings
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError
from portfolio_research.metrics import report
from portfolio_research.risk import (
    concentration,
    correlation_change,
    diversification_ratio,
    held_returns,
    portfolio_risk,
    risk_score,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def golden(test_data):
    return json.loads((test_data / "metrics_golden.json").read_text())["portfolio"]


def matrix(n=300, assets="ABCD", seed=0):
    rng = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=n, tz="UTC")
    common = rng.standard_normal(n)[:, None]
    return pd.DataFrame(0.01 * (common + rng.standard_normal((n, len(assets)))), days, list(assets))


# --- golden -----------------------------------------------------------------------------------------------------------
RENAMED = {"risk_contributions_pct": "component_risk_contributions"}


@pytest.mark.parametrize("as_series", [True, False])
def test_golden_portfolios(golden, as_series):
    assert len(golden) == 2
    for case in golden:
        frame = pd.DataFrame(case["returns"], columns=case["assets"])
        weights = pd.Series(case["weights"], case["assets"])[::-1] if as_series else case["weights"]
        got = portfolio_risk(frame, weights, alpha=case["alpha"])
        for name, expected in case["expected"].items():
            value = got[RENAMED.get(name, name)]
            value = [value[a] for a in case["assets"]] if isinstance(value, dict) else value
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12, err_msg=f"{case['name']}: {name}")
        assert diversification_ratio(frame, weights) == got["diversification_ratio"]
        np.testing.assert_allclose(sum(got["component_cvar_contributions"].values()), 1, rtol=1e-12)


# --- properties -------------------------------------------------------------------------------------------------------
def awkward(draw):
    """Returns with copies, mirrors, constants and holes, and weights of any sign."""
    frame = matrix(draw(st.integers(20, 80)), seed=draw(st.integers(0, 50)))
    kinds = draw(st.lists(st.sampled_from(["own", "copy", "mirror", "constant", "hole", "zero"]), min_size=3, max_size=3))
    for asset, kind in zip("BCD", kinds, strict=True):
        change = {"copy": frame["A"], "mirror": -frame["A"], "constant": 0.001, "zero": 0.0}.get(kind, frame[asset])
        frame[asset] = change
        if kind == "hole":
            frame.loc[frame.index[3:6], asset] = np.nan
    weights = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, -0.3, -0.1, 0.7, 1.5]), min_size=4, max_size=4))
    return frame, weights


@settings(max_examples=150, deadline=None)
@given(st.data(), st.floats(0.01, 0.5))
def test_contributions_sum_to_their_totals(data, alpha):
    frame, weights = awkward(data.draw)
    got = portfolio_risk(frame, weights, alpha=alpha)
    if np.isnan(got["max_risk_share"]):
        assert got["volatility"] == 0 and np.isnan(got["diversification_ratio"]) and np.isnan(got["effective_risk_bets"])
    else:
        for shares, parts, total in (("component_risk_contributions", "risk_contributions", "volatility"),
                                     ("component_cvar_contributions", "cvar_contributions", "cvar")):
            parts, shares = [*got[parts].values()], [*got[shares].values()]
            dust = 1e-12 * np.abs(parts).sum()
            assert abs(sum(parts) - got[total]) <= max(dust, 1e-12 * abs(got[total]))
            if got[total] > dust:  # a tail that gains has no loss to share
                assert abs(sum(shares) - 1) <= 1e-12 * np.abs(shares).sum()
            else:
                assert np.isnan(shares).all()
        assert 1 - 1e-12 <= got["effective_risk_bets"] <= 4 + 1e-12
        assert got["max_risk_share"] == max(got["component_risk_contributions"].values())
    assert got["cvar"] >= got["var"] - 1e-12
    assert all(np.signbit(v) == 0 for v in got["cvar_contributions"].values() if v == 0)


@pytest.mark.parametrize("weights", [[0.1, 0.2, -0.3, 0.0], [0.1, 0.0, 0.0, 0.1], [0.7, -0.7, 0.0, 0.0]])
def test_a_perfect_hedge_has_no_risk_and_no_shares_of_dust(weights):
    r = matrix(101)
    r["B"], r["C"], r["D"] = r["A"], r["A"], -r["A"]
    got = portfolio_risk(r, weights)
    assert got["volatility"] == 0 and abs(got["cvar"]) < 1e-15
    for name in ("component_risk_contributions", "component_cvar_contributions"):
        held = [v for v, w in zip(got[name].values(), weights, strict=True) if w]
        assert np.isnan(held).all()


def test_tied_dates_share_the_edge_of_the_tail():
    p = [-0.04, -0.02, -0.02, 0.01, 0.03, 0.02, 0.01, 0.05, 0.04, 0.02]
    r = pd.DataFrame({"A": [0.0, -0.04, 0.0, *p[3:]], "B": [-0.08, 0.0, -0.04, *p[3:]]})  # two ways to lose 2 %
    one, other = portfolio_risk(r, [0.5, 0.5], alpha=0.2), portfolio_risk(r[::-1], [0.5, 0.5], alpha=0.2)
    assert one["cvar_contributions"] == pytest.approx({"A": 0.005, "B": 0.025}) == other["cvar_contributions"]
    np.testing.assert_allclose(one["cvar"], 0.03)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0.1, 3))
def test_risk_is_homogeneous_and_a_long_book_diversifies(weights, factor):
    one, scaled = portfolio_risk(matrix(60), weights), portfolio_risk(matrix(60), [w * factor for w in weights])
    np.testing.assert_allclose(scaled["volatility"], one["volatility"] * factor)
    np.testing.assert_allclose(scaled["effective_n"], one["effective_n"])
    np.testing.assert_allclose(list(scaled["marginal_risk"].values()), list(one["marginal_risk"].values()))
    assert one["diversification_ratio"] >= 1 - 1e-12
    assert 1 <= one["effective_n"] <= one["effective_n_entropy"] + 1e-12 <= 4 + 1e-9


def test_the_portfolio_numbers_are_those_of_its_return_series():
    r, w = matrix(), pd.Series({"A": 0.5, "B": 0.2, "C": -0.1, "D": 0.3})
    got, own = portfolio_risk(r, w, alpha=0.1), report(r @ w, periods_per_year=1, alpha=0.1)
    np.testing.assert_allclose(
        [got["volatility"], got["var"], got["cvar"]], own[["volatility", "var_historical", "cvar_historical"]]
    )


def test_marginal_risk_is_the_derivative():
    r, w, h = matrix(), np.array([0.4, 0.3, 0.2, 0.1]), 1e-6
    got = portfolio_risk(r, w)["marginal_risk"]
    for i, asset in enumerate("ABCD"):
        up, down = (portfolio_risk(r, w + s * h * np.eye(4)[i])["volatility"] for s in (1, -1))
        np.testing.assert_allclose(got[asset], (up - down) / (2 * h), rtol=1e-6)


# --- benchmark and funding --------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_beta_has_parts_and_the_rest_is_the_report(data):
    frame, weights = awkward(data.draw)
    b = pd.Series(np.random.default_rng(7).normal(0, 0.01, len(frame)), frame.index).drop(frame.index[5])
    got = portfolio_risk(frame, weights, benchmark=b, periods_per_year=252, risk_free_rate=0.03)["relative"]
    on = [a for a, w in zip("ABCD", weights, strict=True) if w]
    own = frame[on].dropna() @ np.array([w for w in weights if w])
    own = own if on else pd.Series(0.0, frame.index)
    expected = report(own, b, periods_per_year=252, risk_free_rate=0.03)
    np.testing.assert_allclose(sum(got["beta_contributions"].values()), expected["beta"], rtol=1e-9, atol=1e-12)
    for name in set(got) - {"beta_contributions", "information_ratio"}:  # the ratio of a dusty tracking error is dust
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_flat_benchmark_has_no_beta():
    got = portfolio_risk(matrix(), [0.25] * 4, benchmark=pd.Series(0.001, matrix().index))["relative"]
    assert np.isnan(got["beta"]) and all(np.isnan(v) for v in got["beta_contributions"].values())
    assert np.isfinite(got["tracking_error"])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 9))
def test_price_and_funding_parts_sum_to_the_volatility_after_funding(data, seed):
    frame, weights = awkward(data.draw)
    rates = 0.02 * matrix(len(frame), seed=100 + seed).set_axis(frame.index) + 0.0005
    rates.iloc[7, 2] = np.nan
    got = portfolio_risk(frame, weights, funding=rates)["funding"]
    on = [a for a, w in zip("ABCD", weights, strict=True) if w]
    if not on:
        assert got["annual_cost"] == 0 and got["volatility"] == 0
        return
    w = pd.Series({a: w for a, w in zip("ABCD", weights, strict=True) if w})
    both = frame[on].notna().all(axis=1) & rates[on].notna().all(axis=1)
    net = ((frame - rates).loc[both, on] @ w)
    np.testing.assert_allclose(got["volatility"], net.std(), rtol=1e-9, atol=1e-16)
    parts = [*got["price_contributions"].values(), *got["funding_contributions"].values()]
    assert abs(sum(parts) - got["volatility"]) <= 1e-12 * np.abs(parts).sum()
    np.testing.assert_allclose(got["price_share"] + got["funding_share"], 1, rtol=1e-9)
    np.testing.assert_allclose(got["annual_cost"], 365 * (rates.loc[both, on] @ w).mean(), rtol=1e-9, atol=1e-15)
    assert got["observations"] == both.sum()


def test_a_constant_funding_rate_costs_and_does_not_move():
    r, rate = matrix(), pd.Series({"A": 0.0005, "B": 0.0, "C": -0.0002, "D": 0.1})
    got = portfolio_risk(r, {"A": 0.5, "B": 0.4, "C": -0.3}, funding=rate, periods_per_year=100)
    f = got["funding"]
    assert f["annual_costs"] == pytest.approx({"A": 0.025, "B": 0.0, "C": 0.006}) and f["annual_cost"] == pytest.approx(0.031)
    assert f["volatility"] == pytest.approx(got["volatility"], rel=1e-12)
    assert f["funding_share"] == 0 and f["price_share"] == pytest.approx(1, rel=1e-12)


def test_funding_is_never_guessed():
    r = matrix(10)
    with pytest.raises(DataError, match="no funding of B"):
        portfolio_risk(r, [0.5, 0.5, 0, 0], funding=r[["A", "C"]])
    with pytest.raises(DataError, match="no funding of B"):
        portfolio_risk(r, [0.5, 0.5, 0, 0], funding=pd.Series({"A": 0.1, "B": np.nan}))
    hourly = r.resample("1h").ffill()
    with pytest.raises(DataError, match="01:00:00.*207 such rows.*sum the rates"):
        portfolio_risk(r, [0.25] * 4, funding=hourly)
    with pytest.raises(DataError, match="shares no date"):
        portfolio_risk(r, [0.25] * 4, funding=r.set_axis(r.index + pd.Timedelta(days=400)))
    with pytest.raises(DataError, match="repeat"):
        portfolio_risk(r, [0.25] * 4, funding=pd.concat([r, r.iloc[:1]]))
    with pytest.raises(DataError, match="funding of A on 2024-01-02.*infinite"):
        portfolio_risk(r, [0.25] * 4, funding=r.assign(A=r["A"].where(r.index != r.index[1], np.inf)))


def test_funding_of_recorded_perpetuals(test_data):
    folder = test_data / "hyperliquid_candles"
    rates = pd.read_csv(folder / "funding_1h.csv.gz", index_col=0, parse_dates=True)
    closes = pd.read_csv(folder / "perps_1d_close.csv.gz", index_col=0, parse_dates=True)
    rates.index, closes.index = pd.to_datetime(rates.index, utc=True), pd.to_datetime(closes.index, utc=True)
    names = ["BTC", "ETH", "SOL", "DOGE"]
    r = closes[names].pct_change(fill_method=None).loc["2024-01-01":"2025-06-29"]
    daily = rates[names].resample("1D").sum(min_count=24).reindex(r.index)
    got = portfolio_risk(r, [0.25] * 4, funding=daily)["funding"]
    assert got["observations"] > 500
    annual = {a: c / 0.25 for a, c in got["annual_costs"].items()}
    assert annual == pytest.approx({"BTC": 0.195, "ETH": 0.168, "SOL": 0.201, "DOGE": 0.274}, abs=0.005)
    assert abs(got["funding_share"]) < 0.02  # a cost, hardly a risk


# --- correlations through time ----------------------------------------------------------------------------------------
def correlated(rho, n, seed):
    z = np.random.default_rng(seed).standard_normal((n, 4))
    return np.sqrt(rho) * z[:, :1] + np.sqrt(1 - rho) * z[:, 1:]


def test_a_rise_of_correlations_is_seen_and_named():
    values = np.vstack([correlated(0.3, 200, 0), correlated(0.9, 100, 1)])
    frame = pd.DataFrame(values, pd.date_range("2024-01-01", periods=300, tz="UTC"), list("ABC"))
    got = correlation_change(frame, 100, before=200)
    now, then = frame[-100:].corr(), frame[:200].corr()
    upper = np.triu_indices(3, 1)
    np.testing.assert_allclose(got["average_now"], now.to_numpy()[upper].mean())
    np.testing.assert_allclose(got["average_before"], then.to_numpy()[upper].mean())
    np.testing.assert_allclose(got["largest_eigenvalue_share_now"], np.linalg.eigvalsh(now)[-1] / 3)
    pairs = got["pairs"]
    assert pairs["change"].abs().is_monotonic_decreasing and (pairs["p_value"] < 0.01).all() and len(pairs) == 3
    first = pairs.iloc[0]
    np.testing.assert_allclose(first["now"], now.loc[first["first"], first["second"]])
    same = correlation_change(frame[-100:], 100, before=frame[:200])
    pd.testing.assert_frame_equal(same["pairs"], pairs)


def test_p_values_are_corrected_for_the_number_of_pairs():
    got = correlation_change(matrix(120, seed=5), 60)["pairs"]
    order = got.sort_values("z", key=np.abs, ascending=False)
    raw = 2 * (1 - np.array([NormalDist().cdf(abs(z)) for z in order["z"]]))
    np.testing.assert_allclose(order["p_value"], np.minimum(np.maximum.accumulate(raw * [6, 5, 4, 3, 2, 1]), 1), atol=1e-12)


@pytest.mark.no_cover
def test_fat_tails_raise_few_false_alarms():
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(400):
        z = rng.standard_normal((240, 2)) @ np.array([[1, 0.6], [0, 0.8]])
        z *= np.sqrt(4 / rng.chisquare(4, 240))[:, None]
        alarms += correlation_change(pd.DataFrame(z), 120)["pairs"]["p_value"][0] < 0.05
    assert alarms / 400 < 0.12  # Fisher's own test: 0.25


def test_late_constant_and_lonely_assets():
    frame = matrix(100)
    frame.loc[frame.index[:80], "B"] = np.nan
    frame["C"] = 0.001
    got = correlation_change(frame, 40)
    assert got["left_out"] == ["B"]
    constant = got["pairs"].set_index(["first", "second"])
    assert np.isnan(constant.loc[("A", "C"), "change"]) and np.isnan(constant.loc[("C", "D"), "p_value"])
    assert np.isfinite(got["average_now"]) and np.isfinite(got["largest_eigenvalue_share_before"])
    alone = correlation_change(matrix(100)[["A"]], 40)
    assert alone["pairs"].empty and np.isnan(alone["average_now"]) and alone["largest_eigenvalue_share_now"] == 1


def test_correlations_of_majors_in_the_covid_window(test_data):
    closes = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True)
    majors = closes.columns[closes.loc["2019-08-01":"2025-06-30"].notna().all()]
    r = closes[majors].pct_change(fill_method=None)
    got = correlation_change(r.loc["2020-02-15":"2020-04-15"], 61, before=r.loc["2019-08-02":"2020-02-14"])
    assert got["average_now"] == pytest.approx(0.90, abs=0.01)  # of log returns: 0.92
    assert got["largest_eigenvalue_share_now"] == pytest.approx(0.91, abs=0.01) and got["average_before"] < 0.8


# --- edge cases -------------------------------------------------------------------------------------------------------
def test_only_complete_rows_of_held_assets_count():
    r = matrix(50)
    r.loc[r.index[:10], "A"] = np.nan
    r["D"] = np.nan
    w = pd.Series({"A": 0.5, "B": 0.5, "C": 0.0, "D": 0.0})
    got, clean = portfolio_risk(r, w), portfolio_risk(r[["A", "B"]].iloc[10:], [0.5, 0.5])
    assert got["observations"] == 40
    np.testing.assert_allclose(got["volatility"], clean["volatility"])
    assert got["component_risk_contributions"]["C"] == got["component_risk_contributions"]["D"] == 0
    assert np.isnan(got["marginal_risk"]["D"]) and np.isfinite(got["marginal_risk"]["C"])
    assert got["max_risk_share"] < 1 and np.isfinite(got["cvar"])


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_give_nan_not_zero(rows):
    got = portfolio_risk(matrix(5).iloc[:rows], [0.25] * 4)
    assert np.isnan(got["volatility"]) and np.isnan(got["diversification_ratio"])
    assert all(np.isnan(v) for v in got["component_risk_contributions"].values())
    assert np.isnan(got["cvar"]) == (rows == 0) and got["effective_n"] == 4


def test_a_book_that_does_not_move_has_no_shares():
    r = pd.DataFrame({"A": [0.01] * 30, "B": [0.01] * 30})
    got = portfolio_risk(r, [0.1, 0.2])
    assert got["volatility"] == 0
    assert np.isnan(got["diversification_ratio"]) and np.isnan(got["max_risk_share"]) and np.isnan(got["risk_hhi"])


def test_nothing_held():
    got = portfolio_risk(matrix(30), {})
    assert got["component_risk_contributions"] == {} and np.isnan(got["max_weight"]) and np.isnan(got["max_risk_share"])
    assert np.isnan(concentration([0.0, 0.0])["hhi"])


def test_a_single_position_is_fully_concentrated():
    got = portfolio_risk(matrix(30), {"B": -2.0})
    np.testing.assert_allclose(got["component_risk_contributions"]["B"], 1)
    assert got["effective_n"] == got["max_weight"] == 1 and np.isnan(got["hhi_normalised"])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: portfolio_risk(matrix(), {"A": 0.5, "XRP": 0.5}), DataError, "no returns of XRP"),
        (lambda: portfolio_risk(matrix(), [0.5, 0.5]), DataError, "2 weights for 4 assets"),
        (lambda: portfolio_risk(matrix(), {"A": np.nan}), DataError, "weight of A"),
        (lambda: portfolio_risk(matrix(), pd.Series([0.1, 0.2], ["A", "A"])), DataError, "weight of A"),
        (lambda: portfolio_risk(matrix()["A"], [1.0]), DataError, "Series"),
        (lambda: portfolio_risk(matrix().where(lambda r: r != r.iloc[3, 1], np.inf), [1] * 4), DataError, "B on 2024"),
        (lambda: portfolio_risk(matrix(), [0.25] * 4, alpha=0), ConfigError, "alpha"),
        (lambda: portfolio_risk(matrix(), [0.25] * 4, periods_per_year=0), ConfigError, "periods_per_year"),
        (lambda: portfolio_risk(matrix().set_axis(list("ABCA"), axis=1), {"A": 1}), DataError, "A .*more than once"),
        (lambda: portfolio_risk(matrix().assign(B="x"), [0.25] * 4), DataError, "B are not numbers"),
        (lambda: held_returns(matrix(), {"E": 1}, role="funding"), DataError, "no funding of E"),
        (lambda: risk_score(matrix()), DataError, "DataFrame"),
        (lambda: correlation_change(matrix(50), 40), ConfigError, "40 and 40 periods do not fit into 50"),
        (lambda: correlation_change(matrix(50), 5), ConfigError, "at least 10"),
        (lambda: risk_score(matrix()["A"], drawdown_limit=0), ConfigError, "limits"),
    ],
)
def test_bad_input_names_the_culprit(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_book_mostly_in_cash_is_not_concentrated():
    x = matrix(100)["A"]
    assert risk_score(x, {"A": 0.1})[1]["concentration"] == 0.2
    assert risk_score(x, {"A": -0.6, "B": 0.1})[1]["concentration"] == 1
    assert np.isnan(risk_score(x, {"A": 0.0})[1]["concentration"]) and np.isnan(risk_score(x, {})[1]["concentration"])


def test_zero_parts_have_no_sign():
    _, parts = risk_score(pd.Series([0.01] * 70), {"A": 0.1})
    assert not any(np.signbit(v) for v in parts.values())


# --- the score --------------------------------------------------------------------------------------------------------
def test_score_is_the_root_mean_square_of_its_known_parts():
    x = matrix(400)["A"]
    score, parts = risk_score(x, [0.25, 0.75])
    assert list(parts) == ["drawdown", "volatility", "concentration", "tail"] and parts["concentration"] == 1
    np.testing.assert_allclose(score, 100 * np.sqrt(np.mean([v * v for v in parts.values()])))
    assert score >= 50
    without, parts = risk_score(x)
    assert np.isnan(parts["concentration"]) and 0 <= without <= 100


def test_parts_by_hand():
    x = pd.Series(np.resize([0.01, -0.01], 100))
    _, parts = risk_score(x, [0.2] * 5, drawdown_limit=0.1)
    depth = 1 - (1.01 * 0.99) ** 50 / (1.01 * (1.01 * 0.99) ** 0)
    np.testing.assert_allclose(parts["drawdown"], depth / 0.1)
    np.testing.assert_allclose(parts["tail"], 0.01 / (0.1 - depth))
    np.testing.assert_allclose(parts["concentration"], 0.4)


def test_beyond_the_limit_the_score_stays_within_a_hundred():
    x = pd.Series([-0.05] * 80)
    score, parts = risk_score(x, {"A": 1.0})
    assert parts["drawdown"] == parts["tail"] == parts["concentration"] == 1 and score <= 100


def test_a_young_portfolio_is_judged_on_what_is_known():
    score, parts = risk_score(pd.Series([0.01, -0.02]))
    assert np.isnan(parts["volatility"]) and np.isnan(parts["tail"])
    np.testing.assert_allclose(score, 100 * parts["drawdown"])


def test_a_volatility_spike_raises_its_part():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.01, 300)
    x[-21:] *= 4
    assert risk_score(pd.Series(x))[1]["volatility"] > 0.98


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(-0.9, 2), st.just(np.nan)), max_size=90))
def test_score_is_a_number_from_0_to_100_or_nan(values):
    score, parts = risk_score(pd.Series(values, dtype=float))
    assert np.isnan(score) if all(np.isnan(v) for v in parts.values()) else 0 <= score <= 100
