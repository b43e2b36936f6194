"""The gate for returns, the moments and the distances: against plain formulas, and every refusal."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_returns import CASES, Case, judge, stocks
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from sklearn.covariance import LedoitWolf

from portfolio_research.config import OptimizationError
from portfolio_research.covariance import (
    correlation_distance,
    distance_of_distances,
    diversification_ratio,
    effective_assets,
    moments,
    moments_of_estimator,
    returns_matrix,
    risk_contributions,
    warn_of_copies,
)
from portfolio_research.data import to_returns


def table(rows: int = 30, columns: int = 4, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=rows, tz="UTC")
    return pd.DataFrame(rng.normal(0, 0.02, (rows, columns)), days, list("ABCDEFGHIJ")[:columns])


# ---------------------------------------------------------------- the gate


def gate(returns: object, missing: str) -> None:
    values, assets, _ = returns_matrix(returns, missing)
    if not np.isnan(values).any():
        warn_of_copies(moments(values)[0], assets)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_said_about_bad_returns(case: Case) -> None:
    judge(case, gate)


def test_a_table_that_only_the_moments_tell_passes_the_gate_alone() -> None:
    for case in CASES:
        if not case.gate:
            judge(case._replace(verdict="fine"), lambda returns, missing: returns_matrix(returns, missing))


def test_the_policy_has_three_values() -> None:
    with pytest.raises(OptimizationError, match="missing='zero' does not exist: use one of raise, drop_assets, pairwise"):
        returns_matrix(table(), missing="zero")


def test_what_is_refused_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="NaN"):
        returns_matrix(table().where(table() > 0))
    with pytest.raises(TypeError, match="argument must be a number"):
        returns_matrix(np.array([[1.0, {}], [2.0, 3.0]], dtype=object))


def test_dropped_assets_leave_the_rest_as_it_was() -> None:
    returns = stocks()
    returns.iloc[5, [1, 3]] = np.nan
    with pytest.warns(UserWarning, match="2018-01-10"):
        values, assets, dropped = returns_matrix(returns, "drop_assets")
    assert dropped == ["AMD", "BBY"] and assets == [a for a in returns if a not in dropped]
    np.testing.assert_array_equal(values, returns[assets])


def test_pairwise_keeps_the_holes() -> None:
    returns = stocks().mask(np.random.default_rng(0).random((1007, 20)) < 0.1)
    values, assets, dropped = returns_matrix(returns, "pairwise")
    assert assets == list(returns) and dropped == []
    np.testing.assert_array_equal(values, returns)


@pytest.mark.parametrize("year", range(2019, 2026))
def test_ordinary_coins_pass_in_silence(year: int, test_data: Path) -> None:
    prices = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True)
    returns = to_returns(prices.loc[str(year)].dropna(axis=1))
    judge(Case(str(year), lambda: returns, "fine"), gate)


def test_a_real_stablecoin_is_named(test_data: Path) -> None:
    prices = pd.read_csv(test_data / "coinmetrics_daily_price_usd.csv.gz", index_col=0, parse_dates=True)
    returns = to_returns(prices.loc["2020"].dropna(axis=1))
    judge(Case("2020", lambda: returns, "warning", r"^USDT move less.*treat_as_cash=\['USDT'\]"), gate)


def test_good_input_passes_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, assets, dropped = returns_matrix(table())
    np.testing.assert_array_equal(values, table())
    assert assets == ["A", "B", "C", "D"] and dropped == []


@pytest.mark.parametrize("kind", ["float32", "Float64", "int64"])
def test_other_numbers_become_float64(kind: str) -> None:
    returns = (table() * 1000).round().astype(kind)
    values, _, _ = returns_matrix(returns)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, returns.to_numpy(dtype=float))


def test_the_input_is_not_written_to() -> None:
    array = table().to_numpy().copy()
    before = array.copy()
    gate(array, "raise")
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
