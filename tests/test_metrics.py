"""Metrics against golden values, their edge cases, and the properties that hold for any returns."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research import metrics as m
from portfolio_research.config import ConfigError, DataError

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SMALL = st.floats(-0.6, 0.6).map(lambda v: round(v, 4))
SERIES = st.lists(SMALL, min_size=3, max_size=60)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def golden(test_data):
    return json.loads((test_data / "metrics_golden.json").read_text())


def options(case):
    return {key: case[key] for key in ("periods_per_year", "risk_free_rate", "alpha")}


def pair(case):
    return pd.Series(case["returns"], dtype=float), pd.Series(case["benchmark"], dtype=float)


# --- golden -----------------------------------------------------------------------------------------------------------
def test_every_golden_value(golden):
    for case in golden["series"]:
        returns, benchmark = pair(case)
        got = m.report(returns, benchmark, **options(case))
        assert set(got.index) >= set(case["expected"])
        for name, expected in case["expected"].items():
            np.testing.assert_allclose(got[name], float(expected), **CLOSE, err_msg=f"{case['name']}: {name}")


def test_golden_series_side_by_side(golden):
    cases = [c for c in golden["series"] if len(c["returns"]) == 754]
    frame = pd.DataFrame({c["name"]: c["returns"] for c in cases})
    both = m.report(frame, pair(cases[0])[1], periods_per_year=252)
    for case in cases:
        alone = m.report(frame[case["name"]], pair(cases[0])[1], periods_per_year=252)
        np.testing.assert_allclose(both[case["name"]], alone, rtol=1e-12)


def test_golden_drawdown_table(golden):
    case = next(c for c in golden["series"] if c["name"] == golden["drawdowns"]["series"])
    got = m.drawdown_table(pair(case)[0])
    for (_, row), expected in zip(got.iterrows(), golden["drawdowns"]["table"], strict=True):
        np.testing.assert_allclose(row["depth"], expected["depth"], **CLOSE)
        for key in ("peak_period", "trough_period", "recovery_period", "length"):
            assert (None if pd.isna(row[key]) else row[key]) == expected[key]


def test_golden_rolling(golden):
    spec = golden["rolling"]
    case = next(c for c in golden["series"] if c["name"] == spec["series"])
    returns, benchmark = pair(case)
    names = list(spec["values"])
    got = m.rolling(returns, spec["window"], benchmark, metrics=names, periods_per_year=spec["periods_per_year"])
    assert list(got) == names
    assert got.iloc[: spec["window"] - 1].isna().all().all()
    for name, expected in spec["values"].items():
        column = got[name].dropna()
        assert len(column) == expected["n"]
        stats = [column.iloc[0], column.iloc[-1], column.mean(), column.min(), column.max()]
        np.testing.assert_allclose(stats, [expected[k] for k in ("first", "last", "mean", "min", "max")], **CLOSE)


# --- the registry -----------------------------------------------------------------------------------------------------
def test_registry_is_complete_and_speaks_a_closed_vocabulary():
    for name, metric in m.REGISTRY.items():
        assert metric.name == name and metric.label and metric.formula
        assert metric.unit in {"fraction", "ratio", "count", "periods", "flag"}
        assert metric.better in {"higher", "lower", "none"} and metric.sign in {"loss", "positive", "any"}
        assert getattr(m, name) is metric


def test_signs_are_as_the_registry_says():
    rng = np.random.default_rng(4)
    got = m.report(pd.DataFrame(rng.standard_t(4, (300, 200)) * 0.02 - 0.001), pd.Series(rng.normal(0, 0.02, 300)))
    for name, metric in m.REGISTRY.items():
        row = got.loc[name]
        assert (row >= 0).all() if metric.sign == "positive" else row.median() > 0 if metric.sign == "loss" else True, name
    anywhere = [name for name, metric in m.REGISTRY.items() if metric.sign == "any" and (got.loc[name] < 0).any()]
    assert len(anywhere) > 15


@pytest.mark.parametrize(
    "name",
    ["total_return", "sharpe", "sortino", "calmar", "volatility", "max_drawdown", "value_at_risk", "cvar", "win_rate"]
    + ["profit_factor", "information_ratio", "beta", "alpha"],
)
def test_each_everyday_metric_is_a_function(name):
    rng = np.random.default_rng(1)
    returns, benchmark = pd.Series(rng.normal(0, 0.01, 50)), pd.Series(rng.normal(0, 0.01, 50))
    value = getattr(m, name)(returns, benchmark, periods_per_year=252)
    assert isinstance(value, float) and np.isfinite(value)


def test_a_benchmark_metric_asks_for_its_benchmark():
    with pytest.raises(ConfigError, match="beta compares with a benchmark"):
        m.beta(pd.Series([0.1, 0.2]))


# --- edge cases -------------------------------------------------------------------------------------------------------
ALWAYS = {"n_obs"}
GIVEN = {"total_return", "cagr", "mean_annual", "best", "worst", "max_drawdown", "pain_index", "ulcer_index"}


@pytest.mark.parametrize("empty", [pd.Series(dtype=float), pd.Series([np.nan, np.nan])])
def test_nothing_gives_nan_not_zero(empty):
    got = m.report(empty, empty)
    assert got["n_obs"] == 0
    assert got.drop("n_obs").isna().all()


def test_no_columns_give_no_columns():
    assert m.report(pd.DataFrame(index=range(3))).shape == (len(m.REGISTRY), 0)


def test_one_return():
    got = m.report(pd.Series([0.1]), pd.Series([0.2]))
    np.testing.assert_allclose(got["total_return"], 0.1)
    for name in ("volatility", "sharpe", "skew", "sharpe_se", "psr_0", "beta", "correlation", "tracking_error"):
        assert np.isnan(got[name]), name


@pytest.mark.parametrize("value", [0.001, 0.1, -0.02])
def test_constant_returns_have_no_ratio(value):
    got = m.report(pd.Series([value] * 300), pd.Series(np.linspace(-0.1, 0.1, 300)))
    assert got["volatility"] == 0 and got["beta"] == 0
    for name in ("sharpe", "skew", "excess_kurtosis", "psr_0", "var_cornish_fisher", "correlation", "treynor"):
        assert np.isnan(got[name]), name
    np.testing.assert_allclose(got[["var_historical", "var_linear", "cvar_historical", "var_gaussian"]], -value)


def test_all_zero_returns():
    got = m.report(pd.Series([0.0] * 20))
    assert got["total_return"] == 0 and got["max_drawdown"] == 0 and got["max_drawdown_duration"] == 0
    ratios = ["win_rate", "profit_factor", "omega", "gain_to_pain", "payoff_ratio", "calmar", "martin_ratio", "sortino"]
    assert got[ratios].isna().all()


def test_gain_without_loss_and_loss_without_gain():
    up, down = m.report(pd.Series([0.01, 0.02, 0.0])), m.report(pd.Series([-0.1, -0.2, -0.3]))
    assert up["profit_factor"] == up["omega"] == up["gain_to_pain"] == np.inf
    assert up["max_drawdown"] == 0 and not np.signbit(up["max_drawdown"])
    assert np.isnan(up["payoff_ratio"]) and np.isnan(up["sortino"])
    assert down["profit_factor"] == down["omega"] == 0 and down["win_rate"] == 0 and down["gain_to_pain"] == -1


def test_large_gains_are_not_taken_for_prices():
    got = m.report(pd.Series([1.5, 0.2, 0.0, 0.7, 0.1]))
    np.testing.assert_allclose(got["total_return"], 2.5 * 1.2 * 1.7 * 1.1 - 1)
    assert got["max_drawdown"] == 0


def test_ruin_and_worse():
    ruined = m.report(pd.Series([0.1, -1.0, 0.5]))
    assert ruined["total_return"] == ruined["cagr"] == -1 and ruined["max_drawdown"] == 1
    assert np.isnan(m.report(pd.Series([0.1, -1.5, 0.5]))["cagr"])


def test_flat_benchmark_and_own_benchmark():
    x = pd.Series([0.01, -0.02, 0.03, 0.0])
    flat = m.report(x, pd.Series([0.001] * 4))
    assert np.isnan(flat["beta"]) and np.isnan(flat["correlation"]) and np.isnan(flat["down_capture"])
    own = m.report(x, x)
    assert own["tracking_error"] == 0 and np.isnan(own["information_ratio"]) and own["batting_average"] == 0
    np.testing.assert_allclose(own[["beta", "correlation", "up_capture", "down_capture"]], 1)


def test_a_benchmark_is_matched_by_date_and_pairwise_complete():
    days = pd.date_range("2024-01-01", periods=6, tz="UTC")
    x = pd.Series([0.01, -0.02, np.nan, 0.03, -0.01, 0.02], days)
    b = pd.Series([0.02, -0.01, 0.01, np.nan, -0.02, 0.01], days).iloc[::-1]
    both = x.notna() & b.reindex(days).notna()
    got, expected = m.report(x, b), m.report(x[both], b.reindex(days)[both])
    names = [n for n, metric in m.REGISTRY.items() if metric.benchmark]
    pd.testing.assert_series_equal(got[names], expected[names])
    assert got["n_obs"] == 5


def test_two_assets_with_one_common_date_each():
    frame = pd.DataFrame({"A": [0.1, np.nan], "B": [np.nan, 0.2]})
    got = m.report(frame, pd.Series([np.nan, 0.1]))
    assert list(got.loc["n_obs"]) == [1, 1]
    assert np.isnan(got.loc["batting_average", "A"]) and got.loc["batting_average", "B"] == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: m.report([0.1, 0.2]), DataError, "list"),
        (lambda: m.report(pd.DataFrame({"BTC": [0.1], "ETH": ["x"]})), DataError, "ETH"),
        (lambda: m.report(pd.DataFrame({"BTC": [0.1, np.inf]}, index=["mon", "tue"])), DataError, "BTC on tue"),
        (lambda: m.report(pd.Series([0.1]), pd.Series([-np.inf], name="S&P")), DataError, "benchmark returns of S&P"),
        (lambda: m.report(pd.Series([0.1]), pd.Series([0.1], index=[9])), DataError, "no date"),
        (lambda: m.report(pd.Series([0.1]), pd.Series([0.1, 0.2], index=[0, 0])), DataError, "unique"),
        (lambda: m.report(pd.Series([0.1]), periods_per_year=0), ConfigError, "periods_per_year"),
        (lambda: m.report(pd.Series([0.1]), risk_free_rate=-1), ConfigError, "risk_free_rate"),
        (lambda: m.report(pd.Series([0.1]), alpha=1), ConfigError, "alpha"),
        (lambda: m.rolling(pd.Series([0.1]), 1), ConfigError, "window"),
        (lambda: m.rolling(pd.Series([0.1]), 2.5), ConfigError, "window"),
        (lambda: m.rolling(pd.DataFrame({"A": [0.1], "B": [0.1]}), 2), ConfigError, "one series"),
        (lambda: m.drawdown(pd.Series([np.inf])), DataError, "infinite"),
        (lambda: m.rolling(pd.Series([0.1]), 2, metrics=["sharp"]), ConfigError, "no rolling 'sharp': choose from"),
        (lambda: m.rolling(pd.Series([0.1]), 2, metrics="beta"), ConfigError, "beta compares with a benchmark"),
    ],
)
def test_bad_input_names_the_culprit(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_empty_benchmark_leaves_benchmark_metrics_nan():
    with pytest.raises(DataError, match="no date"):
        m.report(pd.Series([0.1]), pd.Series(dtype=float))


ROLLING = "volatility sharpe sortino max_drawdown var_historical var_linear cvar_historical beta".split()


def test_rolling_edge_cases():
    x = pd.Series([0.01, -0.02, np.nan, 0.03, 0.03, 0.03, -0.01])
    got = m.rolling(x, 3, x, metrics=ROLLING)
    assert got.iloc[:5].isna().all().all()  # short, or with the gap
    assert got["volatility"][5] == 0 and np.isnan(got["sharpe"][5]) and np.isnan(got["beta"][5])
    assert np.isnan(got["sortino"][5]) and got["max_drawdown"][5] == 0
    assert list(m.rolling(x, 3)) == ["volatility", "sharpe", "sortino", "max_drawdown"]
    assert list(m.rolling(x, 3, x))[4:] == ["beta"] and m.rolling(x, 3, metrics=[]).shape == (7, 0)
    assert m.rolling(x, 20, x, metrics=ROLLING).isna().all().all() and len(m.rolling(x[:0], 3)) == 0


def test_rolling_survives_a_monstrous_day():
    rng = np.random.default_rng(3)
    calm = rng.normal(0, 1e-4, 200)
    x = pd.Series(np.r_[4e4, calm])
    after, alone = m.rolling(x, 50)["volatility"], m.rolling(pd.Series(calm), 50)["volatility"]
    np.testing.assert_allclose(after.iloc[60:], alone.iloc[59:])


def test_rolling_in_parts_equals_rolling_whole():
    x = pd.Series(np.random.default_rng(4).normal(0, 0.01, 400))
    long = m.rolling(pd.concat([x] * 12, ignore_index=True), 60)  # crosses several parts
    for at in (59, 2183, 2184, 2185, 4799):
        window = pd.concat([x] * 12, ignore_index=True)[at - 59 : at + 1]
        np.testing.assert_allclose(long.loc[at, "sharpe"], m.sharpe(window), rtol=1e-12)


def test_drawdown_keeps_gaps():
    got = m.drawdown(pd.DataFrame({"A": [-0.5, np.nan, 1.0]}))
    assert list(got["A"].dropna()) == [-0.5, 0.0] and np.isnan(got["A"][1])


def test_drawdown_table_dates_and_open_spell():
    days = pd.date_range("2024-01-01", periods=4, tz="UTC")
    table = m.drawdown_table(pd.Series([-0.1, 0.2, -0.3, 0.1], days))
    assert list(table["peak_period"]) == [2, 0]
    assert pd.isna(table["recovery_period"][0]) and table["recovery_period"][1] == 2
    assert table["peak"][0] == days[1] and pd.isna(table["peak"][1]) and table["recovery"][1] == days[1]
    assert m.drawdown_table(pd.Series([0.1, 0.2])).empty


def test_a_wide_ragged_matrix_equals_its_columns():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(0, 0.02, (120, 70))).mask(rng.random((120, 70)) < 0.002)
    frame.iloc[:30, 50:] = np.nan
    both = m.report(frame, frame[0])
    for column in (0, 33, 50, 69):
        pd.testing.assert_series_equal(both[column], m.report(frame[column], frame[0]))


# --- properties -------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(SERIES)
def test_relations_between_metrics(values):
    got = m.report(pd.Series(values))
    assert got["cvar_historical"] >= got["var_historical"] - 1e-12
    assert 0 <= got["max_drawdown"] <= 1 and 0 <= got["time_under_water"] <= 1
    assert got["pain_index"] <= got["ulcer_index"] + 1e-12 <= got["max_drawdown"] + 2e-12
    assert got["max_drawdown_duration"] <= got["n_obs"]
    if np.isfinite(got["profit_factor"]):
        np.testing.assert_allclose(got["gain_to_pain"], got["profit_factor"] - 1, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(SERIES, st.floats(0.1, 5))
def test_scaling_a_position_scales_risk_and_keeps_ratios(values, factor):
    one, scaled = m.report(pd.Series(values)), m.report(pd.Series(values) * factor)
    for name in ("volatility", "downside_deviation", "var_historical", "cvar_historical", "mean_annual"):
        np.testing.assert_allclose(scaled[name], one[name] * factor, rtol=1e-9, atol=1e-9)
    for name in ("sharpe", "sortino", "win_rate", "profit_factor", "omega", "tail_ratio"):
        np.testing.assert_allclose(scaled[name], one[name], rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(SERIES)
def test_order_matters_only_along_the_path(values):
    one, back = m.report(pd.Series(values)), m.report(pd.Series(values[::-1]))
    for name in ("total_return", "volatility", "sharpe", "sortino", "cvar_historical", "win_rate", "omega", "skew"):
        np.testing.assert_allclose(back[name], one[name], rtol=1e-7, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(-1e150, 1e150), st.just(np.nan)), max_size=12))
def test_any_finite_input_is_answered_without_a_warning(values):
    x = pd.Series(values, dtype=float)
    assert len(m.report(x, x if len(x) else None)) == len(m.REGISTRY)
    m.rolling(x, 3, x if len(x) else None, metrics=ROLLING if len(x) else None)
    if not x.dropna().empty and x.abs().max() < 1:
        m.drawdown_table(x)


@settings(max_examples=40, deadline=None)
@given(SERIES, st.integers(2, 70))
def test_each_rolling_row_is_the_report_of_its_window(values, window):
    x = pd.Series((values * 3)[:90])
    b = x.shift(1, fill_value=0.01) - 0.5 * x
    rows = m.rolling(x, window, b, metrics=ROLLING, risk_free_rate=0.03)
    for at in range(window - 1, len(x)):
        part = slice(at - window + 1, at + 1)
        own = m.report(x[part], b[part], risk_free_rate=0.03)
        np.testing.assert_allclose(rows.loc[at], own[ROLLING], rtol=1e-9, atol=1e-9)


def test_in_the_domain_cornish_fisher_rises_and_outside_it_does_not():
    rng, z = np.random.default_rng(8), np.linspace(-6, 6, 4001)
    x = pd.DataFrame({k: rng.standard_t(k + 3, 250) + 0.2 * rng.exponential(k, 250) for k in range(1, 40)}) / 100
    got = m.report(x)
    s, k = got.loc["skew"].to_numpy()[:, None], got.loc["excess_kurtosis"].to_numpy()[:, None]
    curve = z + (z**2 - 1) * s / 6 + (z**3 - 3 * z) * k / 24 - (2 * z**3 - 5 * z) * s**2 / 36
    rising = (np.diff(curve) > 0).all(axis=1)
    assert set(rising) == {True, False}
    np.testing.assert_array_equal(got.loc["cornish_fisher_valid"], rising)
    chosen = np.where(rising, got.loc["var_cornish_fisher"], got.loc["var_historical"])
    np.testing.assert_array_equal(got.loc["var_modified"], chosen)
