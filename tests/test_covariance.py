"""The gate for returns, the moments and the distances: against plain formulas, and every refusal."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from sklearn.covariance import LedoitWolf

from portfolio_research.config import DataError, OptimizationError
from portfolio_research.covariance import (
    correlation_distance,
    distance_of_distances,
    diversification_ratio,
    effective_assets,
    moments,
    moments_of_estimator,
    returns_matrix,
    risk_contributions,
)
from portfolio_research.hrp import HierarchicalRiskParity


def table(rows: int = 30, columns: int = 4, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=rows, tz="UTC")
    return pd.DataFrame(rng.normal(0, 0.02, (rows, columns)), days, list("ABCDEFGHIJ")[:columns])


def broken(cell: object, row: int = 3, column: int = 1) -> pd.DataFrame:
    returns = table().astype(object if isinstance(cell, str) else float)
    returns.iloc[row, column] = cell
    return returns


# ---------------------------------------------------------------- the gate

BAD = {
    "missing cell": (broken(np.nan), r"missing cells in B \(1, first at 2024-01-04\).*drop these assets"),
    "late listing": (table().assign(C=lambda t: t["C"].where(t.index > t.index[9])), r"C \(10, first at 2024-01-01\)"),
    "column of NaN": (table().assign(D=np.nan), r"missing cells in D \(30, first at 2024-01-01\)"),
    "plus infinity": (broken(np.inf), r"infinite cells in B \(1, first at 2024-01-04\)"),
    "minus infinity": (broken(-np.inf, 0, 0), r"infinite cells in A \(1, first at 2024-01-01\)"),
    "no variance": (table().assign(B=0.0), "returns of B never change.*hold them as cash"),
    "constant return": (table().assign(B=1e-4), "returns of B never change"),
    "constant but for rounding": (
        table().assign(B=1e-4 * (1 + 1e-14 * np.arange(30))),
        "returns of B never change",
    ),
    "two labels alike": (table().set_axis(["A", "B", "A", "C"], axis=1), "hold A more than once"),
    "text": (broken("n/a"), "returns of A, B, C, D are not real numbers"),
    "text column": (table().assign(NAME="x"), "returns of NAME are not real numbers"),
    "date column": (table().assign(DAY=pd.Timestamp("2024-01-01")), "returns of DAY are not real numbers"),
    "complex column": (table().assign(Z=1j), "returns of Z are not real numbers"),
    "one row": (table(1), r"returns of A, B, C, D have 1 row\(s\): a variance needs at least 2"),
    "no row": (table(0), r"have 0 row\(s\)"),
    "no column": (table()[[]], r"shape \(30, 0\): pass one row per period"),
    "one-dimensional array": (np.ones(5), r"shape \(5,\): pass one row per period"),
    "array of text": (np.array([["a", "b"]]), "array of <U1, not of real numbers"),
    "array of objects": (table().to_numpy(dtype=object), "array of object, not of real numbers"),
    "missing in an array": (broken(np.nan).to_numpy(), r"missing cells in 1 \(1, first at 3\)"),
    "many bad assets": (table(30, 10) * 0, "returns of A, B, C, D, E and 5 more never change"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case: str) -> None:
    returns, message = BAD[case]
    with pytest.raises(DataError, match=message):
        returns_matrix(returns)


@pytest.mark.parametrize("case", BAD)
def test_the_estimator_refuses_the_same(case: str) -> None:
    with pytest.raises(DataError, match=BAD[case][1]):
        HierarchicalRiskParity().fit(BAD[case][0])


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (100 * (1 + table()).cumprod(), "look like prices; use to_returns"),
        (table(3, 4), "3 rows for 4 assets: correlations are mostly noise"),
        (table(2, 4), "2 rows for 4 assets"),
    ],
)
def test_odd_input_is_a_warning_at_the_callers_line(returns: pd.DataFrame, message: str) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        HierarchicalRiskParity().fit(returns)
    assert caught[0].filename == __file__


def test_good_input_passes_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, assets = returns_matrix(table())
    np.testing.assert_array_equal(values, table())
    assert assets == ["A", "B", "C", "D"]


@pytest.mark.parametrize("kind", ["float32", "Float64", "int64"])
def test_other_numbers_become_float64(kind: str) -> None:
    returns = (table() * 1000).round().astype(kind)
    values, _ = returns_matrix(returns)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, returns.to_numpy(dtype=float))


def test_pandas_missing_values_are_missing() -> None:
    returns = table().astype("Float64")
    returns.iloc[2, 2] = pd.NA
    with pytest.raises(DataError, match=r"missing cells in C \(1, first at 2024-01-03\)"):
        returns_matrix(returns)


def test_the_input_is_not_written_to() -> None:
    array = table().to_numpy().copy()
    before = array.copy()
    HierarchicalRiskParity().fit(array)
    np.testing.assert_array_equal(array, before)


# ---------------------------------------------------------------- moments

sizes = st.tuples(st.integers(2, 40), st.integers(1, 9), st.integers(0, 10_000))


@given(sizes)
def test_moments_are_those_of_pandas(size: tuple[int, int, int]) -> None:
    returns = table(*size)
    correlation, volatility = moments(returns.to_numpy())
    np.testing.assert_allclose(volatility, returns.std(), rtol=1e-10)
    np.testing.assert_allclose(correlation, returns.corr(), rtol=0, atol=1e-10)
    assert (correlation == correlation.T).all() and (np.diag(correlation) == 1).all()
    assert np.abs(correlation).max() <= 1


def test_moments_of_an_estimator() -> None:
    values = table().to_numpy()
    expected = LedoitWolf().fit(values).covariance_
    correlation, volatility = moments_of_estimator(LedoitWolf(), values, list("ABCD"))
    np.testing.assert_allclose(correlation * np.outer(volatility, volatility), expected, rtol=1e-12, atol=1e-18)


class Fixed:
    """An estimator that answers whatever it was told."""

    def __init__(self, answer: np.ndarray) -> None:
        self.covariance_ = answer

    def fit(self, X: np.ndarray) -> "Fixed":
        return self


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.eye(3), r"Fixed gave no finite 4 x 4 covariance \(shape \(3, 3\)\)"),
        (np.full((4, 4), np.nan), "Fixed gave no finite 4 x 4 covariance"),
        (np.diag([1.0, 0.0, 1.0, -1.0]), "Fixed gave no positive variance for B, D"),
    ],
)
def test_a_useless_estimator_is_refused(answer: np.ndarray, message: str) -> None:
    with pytest.raises(OptimizationError, match=message):
        moments_of_estimator(Fixed(answer), table().to_numpy(), list("ABCD"))


# ---------------------------------------------------------------- distances


@given(sizes)
def test_distances_against_scipy(size: tuple[int, int, int]) -> None:
    correlation, _ = moments(table(*size).to_numpy())
    distance = correlation_distance(correlation)
    np.testing.assert_allclose(distance, np.sqrt((1 - correlation) / 2), rtol=1e-15)
    twice = distance_of_distances(distance)
    np.testing.assert_allclose(twice, squareform(pdist(distance)) if size[1] > 1 else [[0.0]], rtol=1e-9, atol=1e-15)
    assert (twice == twice.T).all() and not np.diag(twice).any()


@pytest.mark.parametrize("epsilon", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
def test_near_copies_keep_their_digits(epsilon: float) -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(200, 6))
    values = np.hstack([base, base + epsilon * rng.normal(size=base.shape)])
    distance = correlation_distance(moments(values)[0])
    np.testing.assert_allclose(distance_of_distances(distance), squareform(pdist(distance)), rtol=1e-9, atol=1e-15)


def test_more_near_copies_than_one_chunk() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(50, 1)) + 1e-7 * rng.normal(size=(50, 150))
    distance = correlation_distance(moments(values)[0])
    np.testing.assert_allclose(distance_of_distances(distance), squareform(pdist(distance)), rtol=1e-9, atol=1e-15)


# ---------------------------------------------------------------- what weights make of it


@given(sizes)
def test_risk_contributions_sum_to_one(size: tuple[int, int, int]) -> None:
    correlation, volatility = moments(table(*size).to_numpy())
    covariance = correlation * np.outer(volatility, volatility) + 1e-8 * np.eye(size[1])
    weights = np.random.default_rng(size[2]).dirichlet(np.ones(size[1]))
    assert risk_contributions(weights, covariance).sum() == pytest.approx(1)
    assert diversification_ratio(weights, covariance) >= 1 - 1e-12
    assert 1 - 1e-12 <= effective_assets(weights) <= size[1] + 1e-9


def test_known_values() -> None:
    assert diversification_ratio(np.full(4, 0.25), np.eye(4)) == pytest.approx(2)
    assert diversification_ratio(np.full(2, 0.5), np.array([[1.0, -1.0], [-1.0, 1.0]])) == float("inf")
    np.testing.assert_allclose(risk_contributions(np.array([0.5, 0.5]), np.diag([1.0, 3.0])), [0.25, 0.75])
    assert effective_assets(np.array([0.5, 0.5, 0.0])) == 2
