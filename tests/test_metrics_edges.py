"""The table of odd inputs: what each metric says of them, without a warning and without an exception."""
import warnings

import numpy as np
import pandas as pd
import pytest

from portfolio_research import metrics as m

NAN, INF = np.nan, np.inf
RF = 1.02 ** (1 / 365) - 1  # 2 % a year, per day
RATIOS = "sharpe sortino skew excess_kurtosis psr_0 sharpe_se calmar martin_ratio payoff_ratio".split()
MAY_BE_INFINITE = {"profit_factor", "omega", "gain_to_pain"}
BENCHMARKED = [name for name, metric in m.REGISTRY.items() if metric.benchmark]
NOISE = np.random.default_rng(0).normal(0.001, 0.02, 250)


def nothing(*names):
    return dict.fromkeys(names, NAN)


# input, risk-free rate, what some metrics must say; a number is compared to 1e-9, NaN must be NaN
CASES = {
    "constant": ([0.001] * 30, 0.0, nothing(*RATIOS[:6], "calmar") | {
        "volatility": 0, "max_drawdown": 0, "win_rate": 1, "profit_factor": INF, "omega": INF, "gain_to_pain": INF,
        "var_historical": -0.001, "cvar_historical": -0.001, "var_modified": -0.001, "cornish_fisher_valid": NAN,
        "total_return": 1.001**30 - 1, "cagr": 1.001**365 - 1, "tail_ratio": 1}),
    "constant up to rounding": (np.diff(1.001 ** np.arange(40.0)) / 1.001 ** np.arange(39.0), 0.0,
                                nothing(*RATIOS[:6]) | {"volatility": 0, "mean_annual": 0.365}),
    "the risk-free rate": ([RF] * 30, 0.02, nothing(*RATIOS[:6], "omega") | {
        "volatility": 0, "downside_deviation": 0, "profit_factor": INF, "cagr": 0.02}),
    "the risk-free rate, rounded": ([float(np.float64(1 + RF) - 1)] * 30, 0.02, nothing("sharpe", "sortino", "omega")),
    "zeros": ([0.0] * 30, 0.0, nothing(*RATIOS, "win_rate", "profit_factor", "omega", "gain_to_pain", "tail_ratio") | {
        "total_return": 0, "cagr": 0, "volatility": 0, "max_drawdown": 0, "time_under_water": 0, "var_historical": 0}),
    "all gains": ([0.01, 0.02, 0.015], 0.0, nothing("sortino", "calmar", "martin_ratio", "payoff_ratio") | {
        "profit_factor": INF, "win_rate": 1, "max_drawdown": 0, "ulcer_index": 0, "max_drawdown_duration": 0}),
    "all losses": ([-0.01, -0.02, -0.015], 0.0, nothing("payoff_ratio") | {
        "profit_factor": 0, "omega": 0, "gain_to_pain": -1, "win_rate": 0, "time_under_water": 1,
        "max_drawdown_duration": 3, "max_drawdown": 1 - 0.99 * 0.98 * 0.985}),
    "one return": ([0.1], 0.0, nothing("volatility", "sharpe", "sharpe_se", "skew", *BENCHMARKED[:6]) | {
        "n_obs": 1, "total_return": 0.1, "best": 0.1, "worst": 0.1, "var_historical": -0.1}),
    "two returns": ([0.1, -0.05], 0.0, nothing("sharpe_se", "psr_0") | {
        "volatility": 0.15 / np.sqrt(2) * np.sqrt(365), "max_drawdown": 0.05, "skew": 0, "excess_kurtosis": -2}),
    "empty": ([], 0.0, nothing(*set(m.REGISTRY) - {"n_obs"}) | {"n_obs": 0}),
    "all NaN": ([NAN] * 5, 0.0, nothing(*set(m.REGISTRY) - {"n_obs"}) | {"n_obs": 0}),
    "NaN inside": ([0.1, NAN, -0.1, NAN], 0.0, {"n_obs": 2, "total_return": -0.01, "cagr": 0.99 ** (365 / 2) - 1}),
    "leading NaN": ([NAN, NAN, 0.1, -0.1], 0.0, {"n_obs": 2, "total_return": -0.01, "max_drawdown": 0.1}),
    "ruin": ([0.1, -1.0, 0.5], 0.0, {"total_return": -1, "cagr": -1, "max_drawdown": 1, "calmar": -1, "worst": -1}),
    "ruin at once": ([-1.0], 0.0, {"total_return": -1, "cagr": -1, "max_drawdown": 1, "time_under_water": 1}),
    "worse than ruin": ([0.1, -1.5, 0.5], 0.0, nothing("cagr", "calmar", "martin_ratio")),
    "first-day loss": ([-0.5, 0.1, 0.1], 0.0, {"max_drawdown": 0.5, "max_drawdown_duration": 3, "time_under_water": 1}),
    "gains above 100 %": ([1.5, 0.2, 0.0, 0.7, 0.1], 0.0, {"total_return": 2.5 * 1.2 * 1.7 * 1.1 - 1, "max_drawdown": 0}),
    "tiny": (NOISE * 1e-12, 0.0, {"sharpe": m.sharpe(pd.Series(NOISE)), "skew": m.skew(pd.Series(NOISE))}),
    "huge": (NOISE * 1e150, 0.0, {"sharpe": m.sharpe(pd.Series(NOISE))}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("case", CASES)
def test_odd_inputs(case):
    values, rate, expected = CASES[case]
    x = pd.Series(values, dtype=float)
    got = m.report(x, x * 0.5 if len(x) else None, risk_free_rate=rate)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    if case not in ("huge", "worse than ruin"):
        infinite = set(got.index[np.isinf(got)])
        assert infinite <= MAY_BE_INFINITE and (got[list(infinite)] > 0).all()
    zeros = got[got == 0]
    assert not np.signbit(zeros).any(), f"minus zero: {list(zeros.index[np.signbit(zeros)])}"


@pytest.mark.parametrize("case", CASES)
def test_one_series_is_a_column_of_a_frame(case):
    values, rate, _ = CASES[case]
    x = pd.Series(values, dtype=float, name="odd")
    both = m.report(pd.DataFrame({"odd": x, "even": np.resize(NOISE, len(x))}), risk_free_rate=rate)["odd"]
    pd.testing.assert_series_equal(both, m.report(x, risk_free_rate=rate), rtol=1e-12)


# the benchmark of 250 noisy days, and what the metrics against it must say
AGAINST = {
    "flat": (NOISE * 0 + 0.001, nothing("beta", "alpha", "correlation", "r_squared", "treynor", "down_capture")),
    "identical": (NOISE, nothing("information_ratio") | {
        "beta": 1, "alpha": 0, "correlation": 1, "r_squared": 1, "tracking_error": 0, "up_capture": 1, "down_capture": 1,
        "batting_average": 0}),
    "a constant below": (NOISE - 0.001, nothing("information_ratio") | {
        "beta": 1, "tracking_error": 0, "correlation": 1, "batting_average": 1}),
    "opposite": (-NOISE, {"beta": -1, "correlation": -1, "r_squared": 1}),
    "all missing but one": (np.r_[0.01, [NAN] * 249], nothing("beta", "correlation", "tracking_error")),
    "all missing": (NOISE * NAN, nothing(*BENCHMARKED)),
    "tiny": (NOISE * 1e-12, {"beta": 1e12, "correlation": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", AGAINST)
def test_odd_benchmarks(case):
    benchmark, expected = AGAINST[case]
    got = m.report(pd.Series(NOISE), pd.Series(benchmark))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
