"""Portfolio risk against golden values; contributions that sum; a score with documented parts."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError
from portfolio_research.metrics import report
from portfolio_research.risk import concentration, diversification_ratio, portfolio_risk, risk_score


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


# --- properties -------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=4, max_size=4), st.floats(0.01, 0.5))
def test_contributions_sum_to_their_totals(weights, alpha):
    got = portfolio_risk(matrix(80), weights, alpha=alpha)
    if not any(weights):
        assert got["volatility"] == 0 and np.isnan(got["diversification_ratio"]) and np.isnan(got["effective_n"])
        return
    np.testing.assert_allclose(sum(got["component_risk_contributions"].values()), 1, rtol=1e-9)
    np.testing.assert_allclose(sum(got["risk_contributions"].values()), got["volatility"], rtol=1e-9)
    np.testing.assert_allclose(sum(got["cvar_contributions"].values()), got["cvar"], rtol=1e-9, atol=1e-15)
    assert got["cvar"] >= got["var"] - 1e-12


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
        (lambda: risk_score(matrix()["A"], drawdown_limit=0), ConfigError, "limits"),
    ],
)
def test_bad_input_names_the_culprit(call, error, words):
    with pytest.raises(error, match=words):
        call()


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
