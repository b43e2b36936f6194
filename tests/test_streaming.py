"""Metrics updated return by return: equal to those computed from scratch, for any gaps, over any time, after any restart."""
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError
from portfolio_research.metrics import drawdown, report, rolling
from portfolio_research.regimes import ewma_volatility
from portfolio_research.streaming import StreamingMetrics

NAN = np.nan
WINDOWED = {
    "window_volatility": "volatility", "window_sharpe": "sharpe", "window_var": "var_historical",
    "window_cvar": "cvar_historical", "window_max_drawdown": "max_drawdown",
}  # fmt: skip
ALWAYS = {"n_obs": "n_obs", "volatility": "volatility", "max_drawdown": "max_drawdown"}
ALL = ["n_obs", "wealth", "drawdown", "max_drawdown", "volatility", "ewma_volatility", *WINDOWED]
OPTIONS = {"periods_per_year": 252, "risk_free_rate": 0.02, "alpha": 0.1}
RETURNS = st.lists(st.one_of(st.floats(-1, 4).map(lambda v: round(v, 3)), st.sampled_from([NAN, 0.0, -1.0])), max_size=40)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def batch(returns, window, **options):
    """The same numbers, computed from scratch."""
    x = pd.Series(returns, dtype=float).dropna()
    every, last = report(x, **options), report(x[-window:], **options)
    out = {ours: every[theirs] for ours, theirs in ALWAYS.items()} | {ours: last[theirs] for ours, theirs in WINDOWED.items()}
    ewma = ewma_volatility(x, periods_per_year=options.get("periods_per_year", 365))
    wealth = np.multiply.accumulate(1 + x.to_numpy())
    return out | {
        "wealth": wealth[-1] if len(x) else 1.0, "drawdown": -drawdown(x).iloc[-1] if len(x) else NAN,
        "ewma_volatility": ewma.iloc[-1] if len(x) else NAN,
    }  # fmt: skip


def wild(n, rng):
    """Returns that spoil sums: fat tails, +400 %, -90 %, a stretch of almost nothing, and gaps."""
    x = 0.02 * rng.standard_t(3, n).clip(-40, 40)
    x[n // 5], x[n // 3] = 4.0, -0.9
    x[n // 2 : n // 2 + n // 10] *= 1e-10
    x[rng.random(n) < 0.03] = NAN
    return x


# ---------------------------------------------------------------- equal to the batch
@settings(max_examples=80)
@given(RETURNS, st.integers(2, 9))
def test_every_update_equals_the_batch(returns, window):
    stream = StreamingMetrics(window, **OPTIONS)
    for n, value in enumerate(returns, 1):
        stream.update(value)
        got, expected = stream.values(), batch(returns[:n], window, **OPTIONS)
        assert set(got) == set(ALL) == set(expected)
        for name in ALL:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-10, atol=1e-12, err_msg=f"{name} after {n}")
            assert not (got[name] == 0 and np.signbit(got[name])), name


@pytest.mark.parametrize(("window", "alpha"), [(2, 0.5), (7, 0.01), (20, 0.05), (20, 0.3), (64, 0.99)])
def test_tails_of_any_size(window, alpha):
    x = np.random.default_rng(window).standard_t(3, 150) * 0.02
    stream = StreamingMetrics(window, alpha=alpha)
    for n, value in enumerate(x, 1):
        stream.update(value)
        last = report(pd.Series(x[:n][-window:]), alpha=alpha)
        got = stream.values()
        np.testing.assert_allclose([got["window_var"], got["window_cvar"]], last[["var_historical", "cvar_historical"]], rtol=1e-12)


def test_many_series_with_gaps_of_their_own():
    rng = np.random.default_rng(1)
    x = rng.standard_t(4, (130, 6)) * 0.03
    x[rng.random(x.shape) < 0.3] = NAN
    x[:, 2], x[:40, 3] = NAN, NAN  # one that never was, one that came late
    stream = StreamingMetrics(17, list("ABCDEF"))
    for n, row in enumerate(x, 1):
        stream.update(row)
        if n % 7 == 0:
            table = stream.values()
            for i, name in enumerate("ABCDEF"):
                expected = pd.Series(batch(x[:n, i], 17))[table.columns]
                np.testing.assert_allclose(table.loc[name], expected, rtol=1e-10, atol=1e-12, err_msg=f"{name} after {n}")


def test_one_of_many_is_that_one_alone():
    x = np.stack([wild(300, np.random.default_rng(seed)) for seed in range(40)], axis=1)
    many = StreamingMetrics(20, 40)  # which do not complete their blocks at the same time
    alone = [StreamingMetrics(20) for _ in range(40)]
    for t, row in enumerate(x):
        many.update(row)
        for one, value in zip(alone, row, strict=True):
            one.update(value)
        if t < 45 or t % 50 == 0:
            expected = pd.DataFrame([one.values() for one in alone], many.values().index)
            pd.testing.assert_frame_equal(many.values(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.no_cover
def test_a_hundred_thousand_updates_do_not_drift():
    n, series, window = 2000, 50, 250  # side by side: a hundred thousand updates, checked in the end; and one long one
    rng = np.random.default_rng(2)
    x = np.stack([wild(n, rng) for _ in range(series)], axis=1)
    stream = StreamingMetrics(window, series)
    stream.extend(pd.DataFrame(x, columns=stream.names))
    table = stream.values()
    for i, name in enumerate(stream.names):
        expected = pd.Series(batch(x[:, i], window))[table.columns]
        np.testing.assert_allclose(table.loc[name], expected, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.no_cover
def test_after_a_hundred_thousand_returns_all_of_it_is_as_from_scratch():
    n, window = 100_000, 720
    x = wild(n, np.random.default_rng(3))
    stream, seen = StreamingMetrics(window), {}
    for t, value in enumerate(x):
        stream.update(value)
        if t % 50 == 0 or n // 5 <= t < n // 5 + 1000:
            seen[t] = stream.values()
    got = pd.DataFrame(seen).T
    known = ~np.isnan(x)
    place = np.cumsum(known)[got.index] - 1  # of the last known return
    full = place >= window
    got, place, x = got[full], place[full], pd.Series(x[known])
    names = ["volatility", "sharpe", "max_drawdown", "var_historical", "cvar_historical"]
    through = rolling(x, window, metrics=names).iloc[place]
    for ours, theirs in WINDOWED.items():
        np.testing.assert_allclose(got[ours], through[theirs], rtol=1e-10, atol=1e-12, err_msg=ours)
    np.testing.assert_allclose(got["ewma_volatility"], ewma_volatility(x).iloc[place], rtol=1e-10)
    np.testing.assert_allclose(got["drawdown"], -drawdown(x).iloc[place], rtol=1e-10, atol=1e-15)
    for t in got.index[:: len(got) // 20]:
        every = report(x[: int(np.cumsum(known)[t])])
        for ours, theirs in ALWAYS.items():
            np.testing.assert_allclose(got.loc[t, ours], every[theirs], rtol=1e-10, err_msg=ours)


def test_calm_days_are_exact_after_a_wild_one_has_left():
    calm = 1e-8 * np.random.default_rng(4).standard_normal(600)
    calm[100] = 4.0
    stream = StreamingMetrics(50)
    stream.extend(pd.Series(calm))
    last = report(pd.Series(calm[-50:]))
    np.testing.assert_allclose(stream.values()["window_volatility"], last["volatility"], rtol=1e-13)
    np.testing.assert_allclose(stream.values()["window_sharpe"], last["sharpe"], rtol=1e-12)


# ---------------------------------------------------------------- odd returns
def test_before_the_first_return_nothing_is_known():
    got = StreamingMetrics(5).values()
    assert got.pop("n_obs") == 0 and got.pop("wealth") == 1
    assert all(np.isnan(value) for value in got.values())


def test_what_does_not_move_has_no_volatility_and_no_sharpe():
    stream = StreamingMetrics(7)
    rounded = np.diff(1.001 ** np.arange(40.0)) / 1.001 ** np.arange(39.0)  # constant up to the rounding of prices
    for x in ([0.001] * 30, [0.0] * 30, rounded):
        stream.extend(pd.Series(x))
        got = stream.values()
        assert got["window_volatility"] == 0 and np.isnan(got["window_sharpe"])
    assert got["window_max_drawdown"] == 0


def test_ruin_is_ruin_and_the_window_forgets_it():
    stream = StreamingMetrics(4)
    stream.extend(pd.Series([0.1, -1.0, 0.5]))
    got = stream.values()
    assert got["wealth"] == 0 and got["drawdown"] == got["max_drawdown"] == got["window_max_drawdown"] == 1
    stream.extend(pd.Series([0.1, -0.2, 0.1]))
    got = stream.values()
    assert got["drawdown"] == 1 and got["window_max_drawdown"] == pytest.approx(0.2)


def test_worse_than_ruin_cannot_be_judged_while_it_is_in_the_window():
    for before in range(6):  # whichever place in a block it has
        stream = StreamingMetrics(3)
        stream.extend(pd.Series([0.01] * before + [-1.5]))
        for _ in range(2):
            stream.update(-0.1)
            assert np.isnan(stream.values()["window_max_drawdown"])
        stream.update(-0.1)
        assert stream.values()["window_max_drawdown"] == pytest.approx(1 - 0.9**3)


def test_huge_returns_warn_of_nothing():
    stream = StreamingMetrics(3)
    for value in (1e200, 1e200, -0.5, 0.1, 0.1, 0.1):
        stream.update(value)
        stream.values()
    assert stream.values()["window_volatility"] == 0


# ---------------------------------------------------------------- a restart
@pytest.mark.parametrize("way", ["json", "pickle"])
@pytest.mark.parametrize("at", [0, 1, 19, 20, 21, 39, 40, 47])
def test_a_restart_changes_no_bit(way, at):
    rng = np.random.default_rng(at)
    x = np.stack([wild(120, rng) for _ in range(4)], axis=1)
    x[: at // 2, 1] = NAN  # one came late
    through, before = (StreamingMetrics(20, 4, decay=0.9, **OPTIONS) for _ in range(2))
    through.extend(pd.DataFrame(x, columns=through.names))
    before.extend(pd.DataFrame(x[:at], columns=before.names))
    if way == "json":
        after = StreamingMetrics.from_state(json.loads(json.dumps(before.state())))
    else:
        after = pickle.loads(pickle.dumps(before))
    pd.testing.assert_frame_equal(after.values(), before.values(), check_exact=True)
    for row in x[at:]:
        after.update(row)
        before.update(row)
        pd.testing.assert_frame_equal(after.values(), before.values(), check_exact=True)
    pd.testing.assert_frame_equal(after.values(), through.values(), check_exact=True)


def test_one_portfolio_stays_one():
    stream = StreamingMetrics(5)
    stream.extend(pd.Series([0.1, -0.1]))
    again = StreamingMetrics.from_state(stream.state())
    assert again.values() == stream.values() and again.options == stream.options


def test_values_are_not_the_state():
    stream = StreamingMetrics(5, ["A", "B"])
    stream.update([0.1, 0.2])
    first = stream.values()
    first.loc[:, "n_obs"] = 99.0
    kept = stream.state()
    kept["since"][0][0] = 99.0
    assert stream.values().loc["A", "n_obs"] == 1


# ---------------------------------------------------------------- what comes in
def test_a_series_goes_by_name():
    stream = StreamingMetrics(5, ["A", "B", "C"])
    stream.update(pd.Series({"B": 0.2, "A": 0.1}))
    assert list(stream.values()["n_obs"]) == [1, 1, 0] and list(stream.values()["wealth"]) == [1.1, 1.2, 1.0]
    stream.extend(pd.DataFrame({"C": [0.3, NAN], "A": [0.0, 0.0]}))
    assert list(stream.values()["n_obs"]) == [3, 1, 1]
    one = StreamingMetrics(5, "A")
    one.update(pd.Series({"A": 0.1}, dtype="Float64"))
    assert one.values().loc["A", "wealth"] == 1.1


def test_what_is_refused_changes_nothing():
    stream = StreamingMetrics(5, ["A", "B"])
    stream.update([0.1, -0.1])
    before = stream.state()
    for bad, says in (
        ([0.1], "1 returns came for 2 series"), ([0.1, 0.1, 0.1], "3 returns came"),
        ([0.1, np.inf], "return 2 of series B is infinite"),
        (pd.Series({"A": 0.1, "Z": 0.1}), "Z: nobody watches"), (pd.Series([0.1, 0.2], ["A", "A"]), "given twice"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=says):
            stream.update(bad)
    with pytest.raises(DataError, match="nobody watches"):
        stream.extend(pd.DataFrame({"Z": [0.1]}))
    assert stream.state() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 1}, "window is 1"),
        ({"window": 2.5}, "window is 2.5"),
        ({"window": True}, "window is True"),
        ({"series": 0}, "at least 1"),
        ({"series": ["A", "A"]}, "names that differ"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"periods_per_year": 0}, "periods_per_year is 0"),
        ({"risk_free_rate": -1}, "risk_free_rate is -1"),
        ({"alpha": 1}, "alpha is 1"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        StreamingMetrics(**{"window": 5, **options})


def test_history_may_be_an_array_with_a_column_per_series():
    x = np.random.default_rng(3).normal(0, 0.02, (60, 2))
    plain, named = StreamingMetrics(20, ["a", "b"]), StreamingMetrics(20, ["a", "b"])
    plain.extend(x)
    named.extend(pd.DataFrame(x[:, ::-1], columns=["b", "a"]))
    pd.testing.assert_frame_equal(plain.values(), named.values())
    with pytest.raises(DataError, match="3 returns came for 2 series"):
        plain.extend(np.zeros((1, 3)))
