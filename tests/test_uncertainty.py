"""Intervals of weights: the resampling does what the papers say, the seed decides everything, failures are counted."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.base import BaseEstimator
from sklearn.covariance import LedoitWolf

from portfolio_research.config import ConfigError, DataError, OptimizationError
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.uncertainty import (
    block_length_of_returns,
    optimal_block_length,
    stationary_bootstrap,
    weight_intervals,
)

COLUMNS = ["weight", "low", "high", "standard_error", "bias", "resamples"]
FEW = {"resamples": 40, "block_length": 5.0}


def returns(assets: int = 6, rows: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.02, (rows, 2))[:, np.arange(assets) % 2]
    values = common + rng.normal(0, 0.02, (rows, assets)) * np.linspace(0.5, 1.5, assets)
    return pd.DataFrame(values, pd.date_range("2024-01-01", periods=rows, tz="UTC"), list("ABCDEFGHIJ")[:assets])


def autoregression(phi: float, rows: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=rows)
    for t in range(1, rows):
        noise[t] += phi * noise[t - 1]
    return noise


# ---------------------------------------------------------------- the bootstrap


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(1, 1e6), st.integers(0, 2**32 - 1))
def test_rows_are_rows(n_rows: int, block_length: float, seed: int) -> None:
    rows = stationary_bootstrap(n_rows, block_length, np.random.default_rng(seed))
    assert rows.shape == (n_rows,) and rows.dtype == np.intp
    assert rows.min() >= 0 and rows.max() < n_rows
    again = stationary_bootstrap(n_rows, block_length, np.random.default_rng(seed))
    np.testing.assert_array_equal(rows, again)


def test_blocks_have_the_length_that_was_asked_for_and_every_row_is_as_likely() -> None:
    rng = np.random.default_rng(1)
    drawn = np.array([stationary_bootstrap(500, 10.0, rng) for _ in range(1000)])
    jumps = (np.diff(drawn, axis=1) % 500 != 1).mean()
    assert 1 / jumps == pytest.approx(10, rel=0.03)
    assert np.bincount(drawn.ravel(), minlength=500) / 1000 == pytest.approx(np.ones(500), abs=0.25)
    assert abs(np.bincount(drawn[:, 250], minlength=500) / 1000 - 0.002).max() < 0.01  # anywhere, not only at the start


def test_lengths_of_blocks_are_geometric() -> None:
    rows = stationary_bootstrap(200_000, 4.0, np.random.default_rng(2))
    ends = np.flatnonzero(np.diff(rows) % 200_000 != 1)
    lengths = np.diff(ends)
    for k in (1, 2, 5):
        assert (lengths == k).mean() == pytest.approx(0.25 * 0.75 ** (k - 1), rel=0.05)


def test_blocks_of_one_row_are_the_ordinary_bootstrap_and_endless_ones_a_rotation() -> None:
    single = stationary_bootstrap(5000, 1.0, np.random.default_rng(3))
    assert (np.diff(single) == 1).mean() < 0.002
    turned = stationary_bootstrap(50, 1e12, np.random.default_rng(3))
    np.testing.assert_array_equal(turned, (turned[0] + np.arange(50)) % 50)


@pytest.mark.parametrize("block_length", [0.5, 0, -1, np.inf, np.nan])
def test_impossible_blocks(block_length: float) -> None:
    with pytest.raises(ConfigError, match="block_length is"):
        stationary_bootstrap(10, block_length, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="n_rows is 0"):
        stationary_bootstrap(0, 2.0, np.random.default_rng(0))


# ---------------------------------------------------------------- the length of a block


@pytest.mark.parametrize("phi", [0.3, 0.6, 0.9, -0.5])
def test_best_block_of_an_autoregression(phi: float) -> None:
    """Politis and White (2004): G / g(0) = 2 phi / (1 - phi^2) for x_t = phi x_{t-1} + e_t."""
    rows = 4000
    known = (2 * abs(phi) / (1 - phi**2)) ** (2 / 3) * rows ** (1 / 3)
    found = np.median([optimal_block_length(autoregression(phi, rows, seed)) for seed in range(15)])
    assert found == pytest.approx(known, rel=0.25)


def test_what_does_not_remember_needs_no_blocks() -> None:
    found = [optimal_block_length(autoregression(0.0, 2000, seed)) for seed in range(15)]
    assert np.median(found) < 2
    assert optimal_block_length(np.full(100, 0.3)) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(-0.99, 0.99), st.integers(0, 99), st.floats(1e-6, 1e3), st.floats(-5, 5))
def test_block_lengths_keep_their_bounds_and_ignore_scale(
    rows: int, phi: float, seed: int, scale: float, shift: float
) -> None:
    series = autoregression(phi, rows, seed)
    length = optimal_block_length(series)
    assert 1 <= length <= max(1, np.ceil(min(3 * np.sqrt(rows), rows / 3)))
    assert optimal_block_length(scale * series) == pytest.approx(length, rel=1e-6)


def test_storms_of_the_squares_decide_and_not_the_returns() -> None:
    rng = np.random.default_rng(5)
    storm = np.exp(0.3 * np.array([autoregression(0.95, 2000, seed) for seed in range(3)])).T
    stormy = rng.normal(size=(2000, 3)) * storm
    calm = rng.normal(size=(2000, 3))
    assert block_length_of_returns(stormy) > 8 > 2 > block_length_of_returns(calm)
    raw = np.median([optimal_block_length(x) for x in stormy.T])
    assert block_length_of_returns(stormy) > 3 * raw


def test_missing_cells_are_left_out_of_the_length() -> None:
    values = returns().to_numpy()
    late = np.vstack([np.full((30, 6), np.nan), values])
    assert block_length_of_returns(late) == block_length_of_returns(values)


# ---------------------------------------------------------------- the intervals


def test_table() -> None:
    frame = returns()
    table = weight_intervals(frame, **FEW)
    assert list(table.columns) == COLUMNS and table.index.name == "asset"
    assert table.columns.name == "90% of 40 resamples, blocks of 5.0 rows"
    assert table.index.tolist() == frame.columns.tolist()
    expected = HierarchicalRiskParity().fit(frame).weights_
    assert table["weight"].tolist() == expected.tolist()
    assert (table["low"] < table["high"]).all() and table["low"].gt(0).all() and table["high"].lt(1).all()
    assert (table["standard_error"] > 0).all() and (table["resamples"] == 40).all()
    assert table["bias"].sum() == pytest.approx(0, abs=1e-12)  # weights sum to 1 in every resample


def test_table_is_what_refitting_by_hand_gives() -> None:
    frame = returns()
    drawn = []
    for child in np.random.SeedSequence(7).spawn(40):
        rows = stationary_bootstrap(200, 5.0, np.random.default_rng(child))
        drawn.append(HierarchicalRiskParity(linkage="ward").fit(frame.iloc[rows]).weights_)
    by_hand = pd.DataFrame(drawn)
    table = weight_intervals(frame, HierarchicalRiskParity(linkage="ward"), seed=7, level=0.8, **FEW)
    np.testing.assert_array_equal(table["low"], by_hand.quantile(0.1))
    np.testing.assert_array_equal(table["high"], by_hand.quantile(0.9))
    np.testing.assert_array_equal(table["standard_error"], by_hand.std())


def test_the_seed_decides_and_nothing_else() -> None:
    frame = returns()
    table = weight_intervals(frame, **FEW)
    np.random.seed(99)
    assert weight_intervals(frame, **FEW).equals(table)
    assert not weight_intervals(frame, seed=1, **FEW).equals(table)
    longer = weight_intervals(frame, resamples=80, block_length=5.0)
    assert not longer.equals(table)


def test_same_bits_for_any_number_of_jobs() -> None:
    frame = returns(8, 300)
    alone = weight_intervals(frame, HierarchicalRiskParity(covariance=LedoitWolf()), resamples=60)
    several = weight_intervals(frame, HierarchicalRiskParity(covariance=LedoitWolf()), resamples=60, n_jobs=2)
    pd.testing.assert_frame_equal(several, alone, check_exact=True)
    with parallel_config(backend="threading", n_jobs=3):
        threads = weight_intervals(frame, HierarchicalRiskParity(covariance=LedoitWolf()), resamples=60)
    pd.testing.assert_frame_equal(threads, alone, check_exact=True)


def test_warning_filters_survive_threads() -> None:
    before = list(warnings.filters)
    with parallel_config(backend="threading", n_jobs=3):
        weight_intervals(returns(), resamples=100, block_length=2.0)
    assert list(warnings.filters) == before


def test_column_order_does_not_matter() -> None:
    frame = returns()
    table = weight_intervals(frame, **FEW)
    turned = weight_intervals(frame[list("FADCBE")], **FEW)
    pd.testing.assert_frame_equal(turned.loc[table.index], table, rtol=1e-9)


def test_arrays_and_mixed_types_are_frames_too() -> None:
    frame = returns()
    table = weight_intervals(frame, **FEW)
    plain = weight_intervals(frame.to_numpy(), **FEW)
    assert plain.index.tolist() == list(range(6))
    np.testing.assert_array_equal(plain.to_numpy(), table.to_numpy())
    whole = (frame * 1000).round()
    mixed = whole.astype({"A": int, "B": "Float64"})
    assert weight_intervals(mixed, **FEW).equals(weight_intervals(whole, **FEW))


def test_more_history_narrows_the_interval() -> None:
    widths = []
    for rows in (150, 2400):
        table = weight_intervals(returns(rows=rows), resamples=60, block_length=1.0)
        widths.append((table["high"] - table["low"]).mean())
    assert widths[1] < 0.5 * widths[0]


def test_a_wider_level_holds_the_narrower() -> None:
    wide = weight_intervals(returns(), level=0.95, **FEW)
    narrow = weight_intervals(returns(), level=0.5, **FEW)
    assert (wide["low"] < narrow["low"]).all() and (wide["high"] > narrow["high"]).all()


def test_one_asset_is_certain() -> None:
    table = weight_intervals(returns(1), **FEW)
    assert table.loc["A", ["weight", "low", "high", "standard_error", "bias"]].tolist() == [1, 1, 1, 0, 0]


def test_the_estimator_is_not_changed() -> None:
    estimator = HierarchicalRiskParity(linkage="ward")
    weight_intervals(returns(), estimator, **FEW)
    assert not hasattr(estimator, "weights_") and estimator.linkage == "ward"


class Plain(BaseEstimator):
    """Inverse variance whose weights are an array, as other libraries keep them."""

    def fit(self, X: pd.DataFrame, y: None = None) -> "Plain":
        precision = 1 / X.var().to_numpy()
        self.weights_ = precision / precision.sum()
        return self


def test_any_estimator_with_weights() -> None:
    table = weight_intervals(returns(), Plain(), **FEW)
    assert table["weight"].sum() == pytest.approx(1)
    assert (table["low"] <= table["high"]).all()


def test_progress_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    weight_intervals(returns(), **FEW)
    assert capsys.readouterr().err == ""
    weight_intervals(returns(), progress=True, **FEW)
    assert "Resampling" in capsys.readouterr().err


# ---------------------------------------------------------------- missing cells, refusals


def holed() -> pd.DataFrame:
    frame = returns()
    frame.iloc[:40, 2] = np.nan
    return frame


def test_missing_cells_follow_the_estimator() -> None:
    with pytest.raises(DataError, match="C"):
        weight_intervals(holed(), **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = weight_intervals(holed(), HierarchicalRiskParity(missing="pairwise"), **FEW)
        without = weight_intervals(holed(), HierarchicalRiskParity(missing="drop_assets"), **FEW)
    assert (pairs["low"] > 0).all()
    assert without.loc["C", ["weight", "low", "high"]].tolist() == [0, 0, 0]
    assert (without.drop("C")["low"] > 0).all()


def quiet(moves: int) -> pd.DataFrame:
    """An asset that moves on so many days only; a resample without any of them cannot be fitted."""
    frame = returns(4, 100)
    frame["D"] = 0.0
    frame.iloc[np.linspace(5, 95, moves).astype(int), 3] = 0.01 * np.arange(1, moves + 1)
    return frame


def test_a_few_refused_resamples_are_counted() -> None:
    with pytest.warns(UserWarning, match=r"of 100 resampled histories could not be fitted; the first: .*D") as told:
        table = weight_intervals(quiet(4), resamples=100, block_length=1.0)
    assert len(told) == 1
    refused = int(str(told[0].message).split()[0])
    assert 1 <= refused <= 5
    assert (table["resamples"] == 100 - refused).all()


def test_too_many_refused_resamples_are_an_error() -> None:
    with pytest.raises(OptimizationError, match=r"could not be fitted; the first: .*D.*hides a whole tail: drop"):
        weight_intervals(quiet(2), resamples=100, block_length=1.0)


def test_a_warning_is_given_once() -> None:
    with pytest.warns(UserWarning, match="rows for") as told:
        weight_intervals(returns(10, 9), resamples=40, block_length=2.0)
    assert sum("rows for" in str(w.message) for w in told) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0}, "level is 0"),
        ({"level": 1.0}, "level is 1.0"),
        ({"level": 90}, "level is 90"),
        ({"resamples": 19}, "use at least 20"),
        ({"resamples": 100, "level": 0.99}, "use at least 200"),
        ({"resamples": 0}, "use at least 20"),
        ({"block_length": 0.9}, "block_length is 0.9 for 200 rows"),
        ({"block_length": 67.0}, "block_length is 67 for 200 rows: give a mean between 1 and a third"),
        ({"block_length": float("nan")}, "block_length is nan"),
    ],
)
def test_options_that_give_no_interval(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weight_intervals(returns(), **options)


def test_the_least_resamples_are_enough() -> None:
    assert len(weight_intervals(returns(), resamples=20, level=0.9)) == 6


def test_bad_returns_end_at_the_gate() -> None:
    with pytest.raises(DataError):
        weight_intervals(np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match="A"):
        weight_intervals(returns().assign(A=0.0))
