"""The gate for returns, moments, codependence and estimators: against plain formulas, and every refusal."""

import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_returns import CASES, Case, judge, stocks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr, spearmanr
from sklearn.base import BaseEstimator, clone
from sklearn.covariance import LedoitWolf
from sklearn.utils.estimator_checks import check_estimator

from portfolio_research.config import DataError, OptimizationError
from portfolio_research.covariance import (
    DenoisedCovariance,
    DetonedCovariance,
    EWMACovariance,
    codependence,
    denoise,
    detone,
    diversification_ratio,
    effective_assets,
    effective_bets,
    moments,
    moments_of_estimator,
    moments_pairwise,
    nearest_correlation,
    noise_edge,
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
    with pytest.raises(TypeError, match="argument must be real: a string is no number"):
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
@settings(max_examples=40)
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


# ---------------------------------------------------------------- moments with holes


def with_holes(size: tuple[int, int, int], share: float = 0.2) -> pd.DataFrame:
    returns = table(*size)
    return returns.mask(np.random.default_rng(size[2] + 1).random(returns.shape) < share)


@given(st.tuples(st.integers(40, 80), st.integers(1, 6), st.integers(0, 10_000)))
@settings(max_examples=40)
def test_pairwise_moments_are_those_of_pandas(size: tuple[int, int, int]) -> None:
    returns = with_holes(size)
    correlation, volatility = moments_pairwise(returns.to_numpy())
    np.testing.assert_allclose(volatility, returns.std(), rtol=1e-12)
    np.testing.assert_allclose(correlation, returns.corr(), rtol=0, atol=1e-12)
    assert (correlation == correlation.T).all() and (np.diag(correlation) == 1).all()


@given(sizes)
@settings(max_examples=40)
def test_pairwise_moments_without_holes_are_the_plain_ones(size: tuple[int, int, int]) -> None:
    values = table(*size).to_numpy()
    for mine, plain in zip(moments_pairwise(values), moments(values), strict=True):
        np.testing.assert_array_equal(mine, plain)
    below = np.vstack([values, np.full(size[1], np.nan)])  # a row that nobody has takes the long way
    for mine, plain in zip(moments_pairwise(below), moments(values), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=0, atol=1e-10 if size[0] < 4 else 1e-12)


def test_pairs_that_do_not_fit_together_are_moved_and_named() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 90))
    third = 0.05 * np.random.default_rng(1).normal(size=90)
    returns = pd.DataFrame({"A": a, "B": a + third, "C": -a + third})
    returns.loc[:29, "A"] = returns.loc[30:59, "B"] = returns.loc[60:, "C"] = np.nan
    returns.loc[60:, "B"] = returns.loc[60:, "A"]  # A and B alike, B and C alike, A and C opposite
    returns.loc[:29, "C"] = returns.loc[:29, "B"]
    assert np.linalg.eigvalsh(returns.corr()).min() < -0.5
    with pytest.warns(UserWarning, match=r"do not fit together.* move \w and \w from -?[01]\.\d\d to -?0\.\d\d") as caught:
        correlation, volatility = moments_pairwise(returns.to_numpy(), list("ABC"))
    assert caught[0].filename == __file__
    assert np.linalg.eigvalsh(correlation).min() > -1e-12 and (np.diag(correlation) == 1).all()
    np.testing.assert_allclose(volatility, returns.std())


def test_a_pair_that_never_moves_together_is_refused() -> None:
    returns = table(30, 3)
    returns.loc[returns.index[:20], "A"] = np.nan
    returns.loc[returns.index[20:], "B"] = 0.01
    with pytest.raises(DataError, match=r"none on which both move: B and A \(10\); drop one of each pair"):
        moments_pairwise(returns.to_numpy(), list("ABC"))
    returns.loc[returns.index[20:], "B"] = np.nan
    with pytest.raises(DataError, match=r"too few shared rows.*0 and 1 \(0\)"):
        moments_pairwise(returns.to_numpy())


def test_the_nearest_correlation_is_highams() -> None:
    given_, outer = np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]), np.array([0.7607, 0.1573])
    nearest = nearest_correlation(given_)  # Higham (2002), section 1
    np.testing.assert_allclose(nearest[[0, 0, 1], [1, 2, 2]], [outer[0], outer[1], outer[0]], atol=5e-5)
    assert np.linalg.norm(nearest - given_) == pytest.approx(0.5278, abs=5e-5)


@given(st.integers(3, 12), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_nearest_correlation_is_one_and_no_other_is_nearer(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.triu(rng.uniform(-1, 1, (n, n)), 1)
    matrix += matrix.T + np.eye(n)
    nearest = nearest_correlation(matrix)
    assert np.linalg.eigvalsh(nearest).min() > -1e-10 and (np.diag(nearest) == 1).all()
    assert nearest_correlation(nearest) is nearest
    for other in (moments(rng.normal(size=(50, n)))[0], moments(rng.normal(size=(3, n)))[0], np.eye(n)):
        between = nearest + 0.01 * (other - nearest)  # still a correlation
        assert np.linalg.norm(between - matrix) >= np.linalg.norm(nearest - matrix) * (1 - 1e-4)


# ---------------------------------------------------------------- codependence


@given(st.tuples(st.integers(5, 60), st.integers(2, 4), st.integers(0, 10_000)), st.integers(1, 6))
@settings(max_examples=25)
def test_codependence_is_scipys(size: tuple[int, int, int], digits: int) -> None:
    values = table(*size).to_numpy().round(digits)  # few digits: many ties
    values[:2] = [[-1.0] * size[1], [1.0] * size[1]]  # every column moves
    for kind, reference in (("pearson", pearsonr), ("spearman", spearmanr), ("kendall", kendalltau)):
        found = codependence(values, kind)
        for i, j in combinations(range(size[1]), 2):
            assert found[i, j] == pytest.approx(reference(values[:, i], values[:, j]).statistic, abs=1e-12)
        assert (found == found.T).all() and np.linalg.eigvalsh(found).min() > -1e-12


def test_codependence_of_holes_is_pearsons_alone() -> None:
    returns = with_holes((60, 4, 0))
    np.testing.assert_allclose(codependence(returns.to_numpy()), returns.corr(), atol=1e-12)
    for kind in ("spearman", "kendall"):
        with pytest.raises(DataError, match=f"{kind} ranks need complete rows: use codependence='pearson'"):
            codependence(returns.to_numpy(), kind)
    with pytest.raises(OptimizationError, match="codependence='distance' does not exist: use one of pearson, spearman"):
        codependence(table().to_numpy(), "distance")


# ---------------------------------------------------------------- estimators

ESTIMATORS = [EWMACovariance(), DenoisedCovariance(), DetonedCovariance(), DetonedCovariance(base=DenoisedCovariance())]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_estimators_pass_the_checks_of_scikit_learn(estimator: BaseEstimator) -> None:
    check_estimator(estimator, on_skip=None)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_estimators_give_a_covariance(estimator: BaseEstimator) -> None:
    returns = stocks()
    twin = clone(estimator)
    assert twin.fit(returns) is twin and list(twin.feature_names_in_) == list(returns)
    assert np.linalg.eigvalsh(twin.covariance_).min() > -1e-12
    assert twin.location_.shape == (20,)
    if not isinstance(estimator, EWMACovariance):
        np.testing.assert_allclose(np.diag(twin.covariance_), returns.var(), rtol=1e-12)
        np.testing.assert_allclose(twin.location_, returns.mean(), rtol=1e-12)


@pytest.mark.parametrize("half_life", [1.0, 10.0, 63.0, 1e9, np.inf])
def test_ewma_is_that_of_pandas(half_life: float) -> None:
    returns = table(80, 4)
    fitted = EWMACovariance(half_life).fit(returns)
    if np.isinf(half_life):
        expected, mean = returns.cov(), returns.mean()
    else:
        weighted = returns.ewm(halflife=half_life)
        expected, mean = weighted.cov().loc[returns.index[-1]], weighted.mean().iloc[-1]
    np.testing.assert_allclose(fitted.covariance_, expected, rtol=1e-6 if half_life == 1e9 else 1e-10)
    np.testing.assert_allclose(fitted.location_, mean, rtol=1e-8)


@pytest.mark.parametrize("half_life", [0, -1.0, np.nan])
def test_ewma_needs_a_half_life(half_life: float) -> None:
    with pytest.raises(OptimizationError, match=r"half_life=.* must be a positive number of periods"):
        EWMACovariance(half_life).fit(table())


def one_factor(rows: int, columns: int, strength: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return strength * rng.normal(size=(rows, 1)) + rng.normal(size=(rows, columns))


def test_pure_noise_is_denoised_to_nothing() -> None:
    correlation = moments(one_factor(4000, 40, 0.0, 0))[0]
    edge = noise_edge(np.linalg.eigvalsh(correlation), 4000)
    assert edge == pytest.approx((1 + 0.1) ** 2)  # Marchenko and Pastur (1967) with N / T = 0.01
    np.testing.assert_allclose(denoise(correlation, 4000), np.eye(40), atol=1e-12)


def test_denoising_follows_the_textbook() -> None:
    correlation = moments(one_factor(300, 30, 1.0, 1))[0]
    values, vectors = np.linalg.eigh(correlation)
    edge = (1 - values[-1] / 30) * 30 / 29 * (1 + np.sqrt(0.1)) ** 2
    assert noise_edge(values, 300) == pytest.approx(edge)
    assert (values > edge).sum() == 1
    values[:-1] = values[:-1].mean()  # Lopez de Prado (2020), snippet 2.5
    expected = vectors @ np.diag(values) @ vectors.T
    expected /= np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(denoise(correlation, 300), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_denoising_comes_closer_to_the_truth(seed: int) -> None:
    correlation = moments(one_factor(100, 50, 0.7, seed))[0]
    truth = np.full((50, 50), 0.49 / 1.49)
    np.fill_diagonal(truth, 1.0)
    assert np.linalg.norm(denoise(correlation, 100) - truth) < 0.7 * np.linalg.norm(correlation - truth)


@pytest.mark.parametrize("rows", [2, 5, 20])
def test_denoising_survives_few_rows_and_copies(rows: int) -> None:
    values = one_factor(rows, 12, 1.0, 3)
    for columns in (values, values[:, [0, 0]], values[:, :1]):
        cleaned = denoise(moments(columns)[0], rows)
        assert np.isfinite(cleaned).all() and (np.diag(cleaned) == 1).all() and np.linalg.eigvalsh(cleaned).min() > -1e-9


def test_detoning_follows_the_textbook() -> None:
    correlation = moments(stocks().to_numpy())[0]
    values, vectors = np.linalg.eigh(correlation)
    for factors in (1, 3):
        top = vectors[:, -factors:]
        expected = correlation - top @ np.diag(values[-factors:]) @ top.T  # Lopez de Prado (2020), section 2.6
        expected /= np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        np.testing.assert_allclose(detone(correlation, factors), expected, atol=1e-10)
    np.testing.assert_allclose(detone(correlation, 0), correlation, atol=1e-12)
    np.testing.assert_array_equal(detone(np.eye(4)), np.eye(4))  # no market to remove


def test_detoning_two_groups_leaves_the_groups() -> None:
    rng = np.random.default_rng(5)
    market, groups = rng.normal(size=(500, 1)), np.repeat(rng.normal(size=(500, 2)), 5, axis=1)
    left = detone(moments(2 * market + groups + rng.normal(size=(500, 10)))[0])
    same = left[:5, :5][np.triu_indices(5, 1)]
    assert same.min() > 0.1 and left[:5, 5:].max() < -0.1


def test_what_has_nothing_left_is_refused() -> None:
    with pytest.raises(OptimizationError, match=r"nothing is left of columns 0, 1 without 1 factor\(s\): remove fewer"):
        detone(np.ones((2, 2)))
    for estimator in (DenoisedCovariance(), DetonedCovariance()):
        with pytest.raises(DataError, match="columns 1 never change: hold them as cash"):
            estimator.fit(table().assign(B=0.0))


def test_detoning_what_another_estimator_found() -> None:
    returns = stocks()
    denoised = DenoisedCovariance().fit(returns).covariance_
    size = np.sqrt(np.diag(denoised))
    base = DenoisedCovariance()
    found = DetonedCovariance(factors=2, base=base).fit(returns).covariance_
    np.testing.assert_allclose(found / np.outer(size, size), detone(denoised / np.outer(size, size), 2), atol=1e-10)
    assert not hasattr(base, "covariance_")


# ---------------------------------------------------------------- what weights make of it


@given(sizes)
@settings(max_examples=40)
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


def test_effective_bets() -> None:
    assert effective_bets(np.full(4, 0.25), np.eye(4)) == pytest.approx(4)
    assert effective_bets(np.array([1.0, 0.0]), np.diag([2.0, 1.0])) == pytest.approx(1)
    assert effective_bets(np.full(3, 1 / 3), np.ones((3, 3))) == pytest.approx(1)  # copies are one bet
    assert np.isnan(effective_bets(np.array([1.0, 0.0]), np.diag([0.0, 1.0])))  # cash is none
    shares = np.array([0.5, 0.5]) ** 2 * [1.0, 3.0]
    shares /= shares.sum()
    expected = np.prod(shares**-shares)  # Meucci (2009), eq. 18
    assert effective_bets(np.array([0.5, 0.5]), np.diag([1.0, 3.0])) == pytest.approx(expected)


@given(sizes)
@settings(max_examples=40)
def test_effective_bets_lie_between_one_and_n(size: tuple[int, int, int]) -> None:
    correlation, volatility = moments(table(*size).to_numpy())
    weights = np.random.default_rng(size[2]).dirichlet(np.ones(size[1]))
    assert 1 - 1e-9 <= effective_bets(weights, correlation * np.outer(volatility, volatility)) <= size[1] + 1e-9
