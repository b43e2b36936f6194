"""How sure we are of a number: golden values, identities, recovery of known truths, and what has no interval."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.special import ndtr, ndtri

from portfolio_research import significance as s
from portfolio_research.config import ConfigError, DataError
from portfolio_research.metrics import REGISTRY, report
from portfolio_research.uncertainty import stationary_bootstrap

NAN = np.nan
NOISE = pd.Series(np.random.default_rng(0).standard_t(5, 500) * 0.02 + 0.001)
SMALL = st.lists(st.floats(-0.5, 0.5).map(lambda v: round(v, 4)), min_size=3, max_size=60)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def golden(test_data):
    return json.loads((test_data / "metrics_golden.json").read_text())


def autoregression(phi, n, rng):
    noise = lfilter([np.sqrt(1 - phi**2)], [1, -phi], rng.standard_normal(n + 200))[200:]
    return pd.Series(0.02 * noise + 0.001)


# ---------------------------------------------------------------- golden values
def test_golden_deflated_sharpe(golden):
    case = golden["deflated_sharpe"]
    chosen = next(c for c in golden["series"] if c["name"] == case["series"])
    trials = case["trial_sharpe_ratios"]
    assert s.expected_max_sharpe(trials) == pytest.approx(case["expected_max_sharpe"], rel=1e-9)
    assert s.deflated_sharpe(pd.Series(chosen["returns"]), trials) == pytest.approx(case["deflated_sharpe"], rel=1e-9)


def test_golden_sharpe_intervals(golden):
    for case in golden["series"]:
        options = {k: case[k] for k in ("periods_per_year", "risk_free_rate")}
        got = s.sharpe_interval(pd.Series(case["returns"], dtype=float), **options)
        for ours, theirs in (("value", "sharpe"), ("low", "sharpe_ci_low"), ("high", "sharpe_ci_high")):
            np.testing.assert_allclose(got[ours], float(case["expected"][theirs]), rtol=1e-6)  # theirs has 1.959964
        psr = s.probabilistic_sharpe(pd.Series(case["returns"], dtype=float), **options)
        np.testing.assert_allclose(psr, float(case["expected"]["psr_0"]), rtol=1e-9)


# ---------------------------------------------------------------- the Sharpe ratio
@settings(max_examples=60)
@given(SMALL, st.sampled_from([0.0, 0.03]))
def test_formulas_agree_with_the_registry(values, rate):
    x, options = pd.Series(values), {"risk_free_rate": rate, "periods_per_year": 252}
    known, got = report(x, **options), s.sharpe_interval(x, **options)
    names = ["sharpe", "sharpe_ci_low", "sharpe_ci_high", "sharpe_se"]
    np.testing.assert_allclose(got, known[names], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(s.probabilistic_sharpe(x, **options), known["psr_0"], rtol=1e-9, atol=1e-12)
    lo = s.lo_sharpe(x, lags=0, **options)
    if np.isfinite(known["sharpe_se"]):
        np.testing.assert_allclose(lo[["value", "factor"]], [known["sharpe"], 1.0], rtol=1e-9)
        if known["sharpe_se"] > 1e-6:
            np.testing.assert_allclose(lo["standard_error"], known["sharpe_se"], rtol=1e-6)
    else:
        assert lo[["value", "low", "standard_error"]].isna().all()


def test_a_frame_has_a_row_per_asset():
    frame = pd.DataFrame({"a": NOISE, "b": -NOISE, "flat": 0.001})
    for function in (s.sharpe_interval, s.min_track_record_length):
        table = function(frame)
        for name in frame:
            pd.testing.assert_series_equal(table.loc[name], function(frame[name]), check_names=False)
    assert list(s.probabilistic_sharpe(frame)) == pytest.approx([s.probabilistic_sharpe(frame[n]) for n in frame], nan_ok=True)


def test_a_wider_level_is_a_wider_interval():
    narrow, wide = s.sharpe_interval(NOISE, level=0.5), s.sharpe_interval(NOISE, level=0.99)
    assert wide["low"] < narrow["low"] < narrow["value"] < narrow["high"] < wide["high"]
    assert (wide["high"] - wide["low"]) / (2 * wide["standard_error"]) == pytest.approx(2.5758293, rel=1e-7)


def test_the_probabilistic_sharpe_falls_with_its_benchmark():
    value = s.sharpe_interval(NOISE)["value"]
    psr = [s.probabilistic_sharpe(NOISE, level) for level in (value - 2, value, value + 2)]
    assert psr[0] > 0.9 and psr[1] == pytest.approx(0.5) and psr[2] < 0.1
    with pytest.raises(ConfigError, match="benchmark_sharpe is nan"):
        s.probabilistic_sharpe(NOISE, NAN)


@pytest.mark.parametrize(("benchmark", "level"), [(0.0, 0.95), (0.3, 0.9), (-0.5, 0.99)])
def test_a_record_of_the_minimum_length_has_just_that_confidence(benchmark, level):
    found = s.min_track_record_length(NOISE, benchmark, level, risk_free_rate=0.02)
    one = report(NOISE, risk_free_rate=0.02)
    error = one["sharpe_se"] * np.sqrt((one["n_obs"] - 1) / (found["periods"] - 1))
    assert ndtr((one["sharpe"] - benchmark) / error) == pytest.approx(level, rel=1e-10)
    assert found["years"] * 365 == pytest.approx(found["periods"])
    assert found["more_years"] == pytest.approx(max(0.0, found["periods"] - 500) / 365)


def test_the_example_of_the_paper():
    sharpe, target, n = 2 / np.sqrt(252), 1 / np.sqrt(252), 100  # normal returns, observed every day
    error = np.sqrt((1 + sharpe**2 / 2) / (n - 1))
    assert s._record(sharpe - target, error, n, ndtri(0.95)) / 252 == pytest.approx(2.73, abs=0.005)  # years


def test_waiting_so_long_brings_that_confidence():
    x = pd.Series(np.random.default_rng(3).normal(0.02 * 0.03, 0.02, 200))  # repeated: the same moments, a longer record
    copies = s.min_track_record_length(x)["periods"] / 200
    assert 1.5 < copies < 50
    confidence = [s.probabilistic_sharpe(pd.Series(np.tile(x, n))) for n in (int(copies * 0.9), int(copies * 1.1) + 1)]
    assert confidence[0] < 0.95 < confidence[1]


def test_no_record_shows_what_is_not_there():
    worse = s.min_track_record_length(NOISE, benchmark_sharpe=50)
    assert (worse == np.inf).all()
    assert s.min_track_record_length(pd.Series([0.001] * 30)).isna().all()
    for level in (0.5, 1.0):
        with pytest.raises(ConfigError, match="between 0.5 and 1"):
            s.min_track_record_length(NOISE, level=level)


# ---------------------------------------------------------------- Lo
@pytest.mark.parametrize("lags", [1, 5, 11])
def test_los_eta_by_hand(lags):
    x = autoregression(0.4, 240, np.random.default_rng(1)).to_numpy()
    d, q, total = x - x.mean(), 12, 0.0
    for k in range(1, lags + 1):
        total += (q - k) * sum(d[t] * d[t - k] for t in range(k, len(d))) / sum(d * d)
    eta = q / np.sqrt(q + 2 * total)  # Lo 2002, equation 20
    got = s.lo_sharpe(pd.Series(x), lags=lags, periods_per_year=12)
    assert got["value"] == pytest.approx(eta * x.mean() / x.std(ddof=1), rel=1e-12)
    assert got["lags"] == lags and got["factor"] == pytest.approx(eta / np.sqrt(12), rel=1e-12)


@pytest.mark.parametrize("phi", [-0.3, 0.0, 0.2, 0.5])
def test_the_factor_of_an_autoregression_is_found(phi):
    rng = np.random.default_rng(2)
    factors = [s.lo_sharpe(autoregression(phi, 4000, rng))["factor"] for _ in range(15)]
    assert np.mean(factors) == pytest.approx(np.sqrt((1 - phi) / (1 + phi)), rel=0.04)


@pytest.mark.no_cover
@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_intervals_of_the_sharpe_ratio_hold_what_they_promise(phi):
    rng = np.random.default_rng(4)
    truth = 0.05 * np.sqrt(365)
    honest = truth * np.sqrt((1 - phi) / (1 + phi))
    plain, lo = 0, 0
    for _ in range(300):
        x = autoregression(phi, 800, rng)
        a, b = s.sharpe_interval(x), s.lo_sharpe(x)
        plain += a["low"] <= truth <= a["high"]
        lo += b["low"] <= honest <= b["high"]
    assert 0.90 <= lo / 300 <= 0.99
    assert 0.91 <= plain / 300 <= 0.99 if phi == 0 else plain / 300 < 0.90  # without Lo, too sure of itself


def test_gaps_are_left_out_and_few_returns_do_not_matter():
    gappy = NOISE.mask(np.arange(500) % 7 == 3)
    pd.testing.assert_series_equal(s.lo_sharpe(gappy), s.lo_sharpe(gappy.dropna()))
    assert s.lo_sharpe(NOISE, periods_per_year=1)["factor"] == 1.0  # a year of one return has nothing to add up
    for n in range(6):
        assert len(s.lo_sharpe(NOISE[:n])) == 7 and len(s.lo_sharpe(NOISE[:n], lags=5)) == 7
    for lags in (-1, 365):
        with pytest.raises(ConfigError, match="from 0 to fewer than the 365"):
            s.lo_sharpe(NOISE, lags=lags)


# ---------------------------------------------------------------- the best of many
def test_alike_trials_count_as_one():
    noise = pd.DataFrame(np.random.default_rng(5).normal(size=(4000, 8)))
    assert s.independent_trials(noise) == pytest.approx(8, abs=0.1)
    assert s.independent_trials(pd.DataFrame({"a": NOISE, "b": NOISE, "c": 2 * NOISE})) == pytest.approx(1)
    assert s.independent_trials(pd.DataFrame({"a": NOISE, "b": -NOISE})) == 2
    assert np.isnan(s.independent_trials(pd.DataFrame({"a": [0.1, 0.1, 0.1], "b": [0.2, 0.1, 0.3]})))
    with pytest.raises(DataError, match="at least 2 trials"):
        s.independent_trials(noise[[0]])


def test_fewer_independent_trials_are_a_lower_bar():
    trials = np.random.default_rng(6).normal(0, 0.05, 40)
    bars = [s.expected_max_sharpe(trials, n) for n in (2, 5.5, 40)]
    assert bars == sorted(bars) and bars[2] == s.expected_max_sharpe(trials)
    assert s.deflated_sharpe(NOISE, trials, independent=5) > s.deflated_sharpe(NOISE, trials)
    for n in (1.5, 41):
        with pytest.raises(ConfigError, match="from 2 to 40"):
            s.expected_max_sharpe(trials, n)
    for bad in ([0.1], [0.1, np.inf], [[0.1, 0.2], [0.3, 0.4]]):
        with pytest.raises(DataError, match="at least 2 trials"):
            s.expected_max_sharpe(bad)


def test_the_expected_maximum_is_what_luck_shows():
    best = np.random.default_rng(7).normal(0, 0.05, (4000, 50)).max(axis=1)
    trials = 0.05 * ndtri((np.arange(50) + 0.5) / 50)
    assert s.expected_max_sharpe(trials) * 0.05 / np.std(trials, ddof=1) == pytest.approx(best.mean(), rel=0.02)


# ---------------------------------------------------------------- the bootstrap
@settings(max_examples=40)
@given(st.integers(1, 200), st.floats(1, 1e4), st.integers(0, 2**32 - 1))
def test_one_line_of_rows_is_the_stationary_bootstrap(n, block, seed):
    one = s._rows(n, 1, block, np.random.default_rng(seed))
    np.testing.assert_array_equal(one[0], stationary_bootstrap(n, block, np.random.default_rng(seed)))
    many = s._rows(n, 5, block, np.random.default_rng(seed))
    assert many.shape == (5, n) and many.min() >= 0 and many.max() < n


def test_rows_are_equally_likely_and_blocks_have_their_length():
    rows = s._rows(100, 20000, 8.0, np.random.default_rng(8))
    assert np.bincount(rows.ravel(), minlength=100) / 20000 == pytest.approx(np.ones(100), abs=0.1)
    assert abs(np.bincount(rows[:, 57], minlength=100) / 20000 - 0.01).max() < 0.004  # in every place
    jumps = (np.diff(rows, axis=1) % 100 != 1).mean()
    assert 1 / jumps == pytest.approx(8 * 100 / 99, rel=0.02)  # one jump in a hundred happens to go on


@pytest.mark.parametrize("gaps", [False, True])
def test_benchmark_metrics_of_pairs_are_those_of_the_registry(gaps):
    rng = np.random.default_rng(9)
    x, b = rng.normal(0, 0.02, (6, 40)), rng.normal(0, 0.02, (6, 40))
    b[1], x[2], x[3], x[4] = 0.01, 0.01, b[3], b[4] + 0.001  # flat benchmark, flat asset, identical, a constant above
    b[5] = np.abs(b[5])  # never down
    if gaps:
        b[rng.random(b.shape) < 0.2] = NAN
        b[0, 1:], b[5] = NAN, NAN  # a single pair, and none
    with np.errstate(all="ignore"):
        got = s._pairs(x, b, 0.0001, 252)
    assert set(got) == {name for name, metric in REGISTRY.items() if metric.benchmark}
    for i in range(6):
        expected = report(pd.Series(x[i]), pd.Series(b[i]), periods_per_year=252, risk_free_rate=1.0001**252 - 1)
        for name, values in got.items():
            np.testing.assert_allclose(values[i], expected[name], rtol=1e-9, atol=1e-12, err_msg=f"{i} {name}")


def test_every_metric_has_an_interval():
    benchmark = (0.5 * NOISE + pd.Series(np.random.default_rng(10).normal(0, 0.01, 500))).mask(np.arange(500) % 9 == 0)
    table = s.bootstrap_intervals(NOISE, tuple(REGISTRY), benchmark, resamples=60)
    known = report(NOISE, benchmark)
    pd.testing.assert_series_equal(table["value"], known, check_names=False)
    without = set(table.index[table["low"].isna()])
    assert {"n_obs"} <= without <= {"n_obs", "cornish_fisher_valid"}  # they do not vary
    shown = table.drop(index=list(without))
    assert (shown["low"] < shown["high"]).all() and (shown["standard_error"] > 0).all() and (table["resamples"] == 60).all()
    assert table.columns.name.startswith("95% of 60 resamples, blocks of ")


def test_the_seed_decides_everything_and_gaps_are_left_out():
    names = ["sharpe", "max_drawdown"]
    one = s.bootstrap_intervals(NOISE, names, resamples=50)
    pd.testing.assert_frame_equal(one, s.bootstrap_intervals(NOISE, names, resamples=50, seed=0, progress=True))
    assert (one["low"] != s.bootstrap_intervals(NOISE, names, resamples=50, seed=1)["low"]).all()
    gappy = NOISE.mask(np.arange(500) % 7 == 3)
    pd.testing.assert_frame_equal(
        s.bootstrap_intervals(gappy, names, resamples=50), s.bootstrap_intervals(gappy.dropna(), names, resamples=50)
    )
    assert list(s.bootstrap_intervals(NOISE, "sharpe", resamples=50).index) == ["sharpe"]


def test_chunks_do_not_change_what_is_computed():
    long = pd.Series(np.random.default_rng(11).normal(0, 0.01, 2**17))  # two histories at a time
    table = s.bootstrap_intervals(long, ["mean_annual"], resamples=41, block_length=1.0, periods_per_year=1)
    assert table["resamples"].iloc[0] == 41
    assert table["standard_error"].iloc[0] == pytest.approx(0.01 / np.sqrt(2**17), rel=0.35)


def test_the_mean_is_as_uncertain_as_theory_says():
    table = s.bootstrap_intervals(NOISE, ["mean_annual"], resamples=4000, block_length=1.0, periods_per_year=1)
    error = NOISE.std(ddof=0) / np.sqrt(500)
    row = table.loc["mean_annual"]
    assert row["standard_error"] == pytest.approx(error, rel=0.05) and abs(row["bias"]) < 0.1 * error
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_blocks_are_long_where_returns_or_their_volatility_remember():
    rng = np.random.default_rng(12)
    wild = np.repeat(rng.choice([0.005, 0.04], 40), 25)
    calm = rng.normal(0, 0.02, 1000)
    lengths = [s._block_length(x) for x in (calm, wild * rng.standard_normal(1000), autoregression(0.5, 1000, rng).to_numpy())]
    assert lengths[0] < 4 < 8 < min(lengths[1:])


def test_benchmarks_are_resampled_with_the_returns():
    market = pd.Series(np.random.default_rng(13).normal(0, 0.02, 300))
    table = s.bootstrap_intervals(1.5 * market + 0.001, ["beta", "correlation", "alpha"], market, resamples=60)
    np.testing.assert_allclose(table.loc["beta", ["low", "high"]].astype(float), 1.5, rtol=1e-9)
    np.testing.assert_allclose(table.loc["alpha", ["value"]].astype(float), 0.365, rtol=1e-9)


def test_an_interval_that_hides_a_tail_is_none():
    rising = pd.Series(np.where(np.arange(60) == 30, -0.01, 0.01))  # a Calmar ratio only where the one loss is drawn
    table = s.bootstrap_intervals(rising, ["calmar", "profit_factor", "volatility"], resamples=200, block_length=1.0)
    assert np.isfinite(table.loc["calmar", "value"]) and table.loc["calmar", ["low", "high", "bias"]].isna().all()
    assert 0 < table.loc["calmar", "resamples"] < 200
    assert table.loc["profit_factor", "high"] == np.inf and table.loc["volatility", "low"] == 0.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"level": 1.0}, "level is 1.0"),
        ({"resamples": 39}, "at least 40"),
        ({"level": 0.999, "resamples": 1000}, "at least 2000"),
        ({"block_length": 0.5}, "a third of the rows"),
        ({"block_length": 400.0}, "a third of the rows"),
        ({"metrics": ["sharp"]}, "no metric 'sharp'"),
        ({"metrics": ["beta"]}, "pass benchmark="),
        ({"periods_per_year": 0}, "periods_per_year"),
        ({"alpha": 2}, "alpha"),
    ],
)
def test_what_cannot_give_an_interval_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        s.bootstrap_intervals(NOISE, **options)


def test_bad_returns_are_refused():
    for function in (s.bootstrap_intervals, s.headline):
        with pytest.raises(DataError, match="intervals are of one Series"):
            function(pd.DataFrame({"a": NOISE}))
        with pytest.raises(DataError, match="is infinite"):
            function(pd.Series([0.1, np.inf, 0.2]))
    with pytest.raises(DataError, match="shares no date"):
        s.headline(NOISE, NOISE.set_axis(NOISE.index + 1000))


# ---------------------------------------------------------------- coverage
@pytest.mark.no_cover
def test_bootstrap_intervals_hold_the_truth_where_returns_are_independent():
    rng, hits = np.random.default_rng(14), np.zeros(3)
    cvar = 0.02 * np.exp(-ndtri(0.05) ** 2 / 2) / np.sqrt(2 * np.pi) / 0.05 - 0.001
    deepest = report(pd.DataFrame(rng.normal(0.001, 0.02, (500, 500)))).loc["max_drawdown"].median()
    truth = [0.05 * np.sqrt(365), cvar, deepest]
    for seed in range(100):
        table = s.bootstrap_intervals(
            pd.Series(rng.normal(0.001, 0.02, 500)), ["sharpe", "cvar_historical", "max_drawdown"], resamples=100, seed=seed
        )
        hits += (table["low"] <= truth) & (truth <= table["high"])
    assert (hits >= [88, 83, 90]).all(), hits


# ---------------------------------------------------------------- the table
def test_headline_of_a_portfolio_and_its_benchmark():
    market = pd.Series(np.random.default_rng(15).normal(0.0005, 0.02, 700))
    x = 0.8 * market + pd.Series(np.random.default_rng(16).normal(0.003, 0.01, 700))
    table = s.headline(x, market, risk_free_rate=0.02)
    assert list(table) == ["value", "low", "high", "method", "significant"]
    assert list(table.index) == [*s._OWN, *s._VERSUS] and table.index.name == "metric"
    np.testing.assert_allclose(table["value"], report(x, market, risk_free_rate=0.02)[table.index], rtol=1e-9)
    assert table["significant"][["sharpe", "cagr", "alpha", "beta", "information_ratio"]].all()
    assert table["significant"][["volatility", "max_drawdown", "cvar_historical"]].isna().all()
    assert set(table.index[table["method"] == "Mertens-Opdyke"]) == {"sharpe", "information_ratio"}
    assert table.attrs["psr"] == report(x, risk_free_rate=0.02)["psr_0"]
    assert list(s.headline(x).index) == list(s._OWN)
    pd.testing.assert_frame_equal(table, s.headline(x, market, risk_free_rate=0.02))


def test_the_information_ratio_is_the_sharpe_ratio_of_what_is_active():
    market = NOISE.sample(frac=1, random_state=1).set_axis(NOISE.index).mask(np.arange(500) % 5 == 0)
    row = s.headline(NOISE, market, resamples=40).loc["information_ratio"]
    known = s.sharpe_interval(NOISE - market)
    np.testing.assert_allclose(row[["value", "low", "high"]].astype(float), known[["value", "low", "high"]], rtol=1e-12)
    pd.testing.assert_frame_equal(s.headline(NOISE, market.to_frame(), resamples=40), s.headline(NOISE, market, resamples=40))


@pytest.mark.parametrize("seed", range(12))
def test_the_years_to_wait_are_zero_exactly_when_the_interval_is_clear_of_zero(seed):
    rng = np.random.default_rng(seed)
    x = pd.Series(rng.normal(rng.choice([-0.003, 0.0, 0.001, 0.003]), 0.02, 400))
    table = s.headline(x, resamples=40)
    assert (table.attrs["more_years"] == 0) == bool(table.loc["sharpe", "significant"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.random.default_rng(1).normal(0.004, 0.02, 730), "2.0 years are enough to tell this Sharpe from 0"),
        (np.r_[[0.02, -0.0195] * 200, 0.0], "more years to tell this Sharpe from 0"),
        ([0.01, -0.01] * 50, "needs more than 100 more years to tell this Sharpe from 0"),
        ([0.001] * 50, "cannot judge"),
        ([], "cannot judge"),
    ],
)
def test_the_wait_in_words(values, words):
    attrs = s.headline(pd.Series(values, dtype=float), resamples=40).attrs
    assert words in attrs["track_record"]
    assert np.isnan(attrs["more_years"]) == ("cannot" in words)


def test_text():
    table = pd.DataFrame(
        {"value": [0.224, 0.4363, NAN, -0.001, 2.0], "low": [-0.9065, 0.228, NAN, -0.002, NAN],
         "high": [1.355, 0.772, NAN, 0.0004, NAN]},
        ["sharpe", "max_drawdown", "calmar", "beta", "sortino"],
    )
    assert list(s.interval_text(table)) == [
        "0.22 [-0.91, 1.35]", "43.6% [22.8%, 77.2%]", "not known", "0.00 [0.00, 0.00]", "2.00"
    ]  # fmt: skip


# ---------------------------------------------------------------- odd inputs
ODD = {
    "constant": [0.001] * 30, "zeros": [0.0] * 30, "one": [0.1], "two": [0.1, -0.05], "three": [0.1, -0.05, 0.02],
    "ten": [0.1, -0.1] * 5, "empty": [], "all NaN": [NAN] * 20, "NaN inside": [0.01, NAN, -0.02, 0.03] * 8,
    "all gains": [0.01, 0.02, 0.03] * 8,
    "all losses": [-0.01, -0.02, -0.03] * 8, "ruin": [0.1, -1.0, 0.5] * 8, "worse than ruin": [0.1, -1.5, 0.5] * 8,
    "tiny": np.random.default_rng(17).normal(1e-13, 1e-12, 60), "huge": [4.0, -0.9, 0.1] * 10,
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("versus", [None, "self", "flat", "other"])
def test_odd_inputs(case, versus):
    x = pd.Series(ODD[case], dtype=float)
    benchmark = {None: None, "self": x, "flat": x * 0 + 0.01, "other": x[::-1].set_axis(x.index)}[versus]
    table = s.headline(x, benchmark, resamples=40, risk_free_rate=0.01)
    known = report(x, benchmark, risk_free_rate=0.01)[table.index]
    np.testing.assert_array_equal(table["value"], known)
    has = table[table["low"].notna()]
    assert (has["low"] <= has["high"]).all() and has["value"].notna().all()
    assert table["significant"].isna().equals(table["low"].isna() | table.index.isin(s._SIZES))
    numbers = table[["value", "low", "high"]].to_numpy(dtype=float)
    assert not np.signbit(numbers[numbers == 0]).any()
    s.interval_text(table)
    s.min_track_record_length(x)
    s.lo_sharpe(x)


@pytest.mark.parametrize("case", ["constant", "zeros", "one", "two", "empty", "all NaN"])
def test_what_has_no_interval(case):
    table = s.headline(pd.Series(ODD[case], dtype=float), resamples=40)
    assert table[["low", "high"]].isna().all().all()


def test_a_flat_benchmark_and_an_identical_one_have_no_verdict():
    x = NOISE[:100]
    flat = s.headline(x, x * 0 + 0.01, resamples=40)
    assert flat.loc[["beta", "alpha"], ["value", "low"]].isna().all().all()
    same = s.headline(x, x, resamples=40)
    assert same.loc["information_ratio", ["value", "low"]].isna().all()


def test_tiny_returns_are_as_certain_as_large_ones():
    tiny, large = (s.headline(NOISE * scale, resamples=100) for scale in (1e-10, 1.0))
    columns = ["value", "low", "high"]
    for name in ("sharpe", "sortino"):
        np.testing.assert_allclose(tiny.loc[name, columns].astype(float), large.loc[name, columns].astype(float), rtol=1e-6)
