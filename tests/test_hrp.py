"""Hierarchical risk parity: published weights, properties that must hold on any data, and every refusal."""

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_returns import CASES as CASES_OF_BAD_RETURNS
from bad_returns import Case, judge
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from portfolio_research.config import DataError, OptimizationError
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.tree import LINKAGES, Split

VARIANTS = {
    "paper": {},
    "direct": {"distance": "direct"},
    "direct_ol": {"distance": "direct", "order": "optimal"},
    "ward": {"distance": "direct", "linkage": "ward"},
    "ward_ol": {"distance": "direct", "linkage": "ward", "order": "optimal"},
}
CASES = [
    "paper example",
    "sp500 2018-2021",
    "sp500 2008-2009",
    "sp500 2020 H1, 19 assets",
    "sp500 T<N",
    "factors 2014-2022",
]
SPANS = {
    "sp500 2018-2021": ("2018-01-01", "2021-12-31"),
    "sp500 2008-2009": ("2008-01-01", "2009-12-31"),
    "sp500 2020 H1, 19 assets": ("2020-01-01", "2020-06-30"),
    "sp500 T<N": ("2020-03-02", "2020-03-17"),
}


def paper_example() -> pd.DataFrame:
    """The paper's ten series; Python 2's random module chose the columns, so they are written out."""
    rng = np.random.RandomState(12345)
    x = rng.normal(0, 1, size=(10000, 5))
    y = x[:, [2, 0, 4, 1, 1]] + rng.normal(0, 0.25, size=(10000, 5))
    return pd.DataFrame(np.hstack([x, y]), columns=[f"{i:02d}" for i in range(1, 11)])


def factors() -> pd.DataFrame:
    """Five factor indices out of skfolio's data set, which only skfolio carries."""
    spec = find_spec("skfolio")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the factors data set comes with skfolio, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "factors_dataset.csv.gz"
    return pd.read_csv(path, index_col=0, parse_dates=True)


def returns_of(name: str, folder: Path) -> pd.DataFrame:
    if name == "paper example":
        return paper_example()
    if name.startswith("factors"):
        prices = factors()
    else:
        prices = pd.read_csv(folder / "hrp_golden_prices.csv.gz", index_col=0, parse_dates=True)
        prices = prices.loc[slice(*SPANS[name])]
    return prices.drop(columns="XOM" if "19" in name.split(", ")[-1] else []).pct_change().iloc[1:]


@pytest.fixture(scope="module")
def golden(test_data: Path) -> dict[str, dict]:
    cases = json.loads((test_data / "hrp_golden.json").read_text())["cases"]
    return {case["name"]: case for case in cases}


@pytest.fixture(scope="module")
def stocks(test_data: Path) -> pd.DataFrame:
    return returns_of("sp500 2018-2021", test_data)


def noise(rows: int, columns: int, seed: int = 0, scale: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    factor = rng.normal(0, scale, (rows, 1))
    sizes = rng.uniform(0.5, 2.0, columns)
    labels = [f"A{i:03d}" for i in range(columns)]
    return pd.DataFrame((factor + rng.normal(0, scale, (rows, columns))) * sizes, columns=labels)


# ---------------------------------------------------------------- published weights


def test_every_golden_case_is_here(golden: dict[str, dict]) -> None:
    assert sorted(golden) == sorted(CASES)


@pytest.mark.filterwarnings("ignore:.*rows for.*assets")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, variant: str, golden: dict[str, dict], test_data: Path) -> None:
    case, returns = golden[name], returns_of(name, test_data)
    assert returns.shape == (case["n_obs"], len(case["assets"]))
    weights = HierarchicalRiskParity(**VARIANTS[variant]).fit(returns).weights_
    assert list(weights.index) == case["assets"]
    np.testing.assert_allclose(weights, case["weights"][variant], rtol=0, atol=1e-10)


def test_the_table_of_the_paper() -> None:
    printed = [7.00, 7.59, 10.84, 19.03, 9.72, 10.19, 6.62, 9.10, 7.12, 12.79]
    weights = HierarchicalRiskParity().fit(paper_example()).weights_
    assert np.abs(100 * weights - printed).max() < 0.005


# ---------------------------------------------------------------- properties

shapes = st.tuples(st.integers(30, 60), st.integers(1, 25), st.integers(0, 10_000))
variants = st.sampled_from(list(VARIANTS.values()))


@given(shape=shapes, options=variants)
@settings(max_examples=60)
def test_weights_are_a_portfolio(shape: tuple[int, int, int], options: dict[str, str]) -> None:
    weights = HierarchicalRiskParity(**options).fit(noise(*shape)).weights_
    assert abs(weights.sum() - 1) < 1e-14
    assert (weights >= 0).all()


@given(shape=shapes, power=st.integers(-30, 30), options=variants)
@settings(max_examples=40)
def test_scale_does_not_matter(shape: tuple[int, int, int], power: int, options: dict[str, str]) -> None:
    returns = noise(*shape)
    weights = HierarchicalRiskParity(**options).fit(returns).weights_
    scaled = HierarchicalRiskParity(**options).fit(returns * 2.0**power).weights_  # powers of two: no rounding
    np.testing.assert_allclose(scaled, weights, rtol=1e-12)


@given(shape=shapes, seed=st.integers(0, 10_000), options=variants)
@settings(max_examples=60)
def test_column_order_does_not_matter(shape: tuple[int, int, int], seed: int, options: dict[str, str]) -> None:
    returns = noise(*shape)
    model = HierarchicalRiskParity(**options).fit(returns)
    shuffled = returns.sample(frac=1, axis=1, random_state=seed)
    other = HierarchicalRiskParity(**options).fit(shuffled)
    assert list(other.weights_.index) == list(shuffled.columns)
    pd.testing.assert_series_equal(other.weights_.reindex(returns.columns), model.weights_, rtol=0, atol=0)
    assert other.order_ == model.order_


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore:.*rows for.*assets")
@pytest.mark.parametrize("name", CASES)
def test_no_shuffle_of_real_data_moves_a_weight(name: str, test_data: Path) -> None:
    returns = returns_of(name, test_data)
    weights = HierarchicalRiskParity().fit(returns).weights_
    rng, model = np.random.default_rng(0), HierarchicalRiskParity()
    for _ in range(1000):
        order = rng.permutation(len(weights))
        moved = model.fit(returns.iloc[:, order]).weights_.to_numpy() - weights.to_numpy()[order]
        assert np.abs(moved).max() <= 1e-12


class Diagonal:
    """A covariance estimator of unrelated assets."""

    def __init__(self, variances: tuple[float, ...]) -> None:
        self.variances = variances

    def get_params(self, deep: bool = True) -> dict[str, object]:
        return {"variances": self.variances}

    def fit(self, X: np.ndarray, y: None = None) -> "Diagonal":
        self.covariance_ = np.diag(self.variances)
        return self


@given(st.lists(st.floats(1e-6, 1e2), min_size=1, max_size=30), variants)
def test_unrelated_assets_get_inverse_variance(variances: list[float], options: dict[str, str]) -> None:
    returns = noise(40, len(variances))
    weights = HierarchicalRiskParity(covariance=Diagonal(tuple(variances)), **options).fit(returns).weights_
    inverse = 1 / np.array(variances)
    np.testing.assert_allclose(weights, inverse / inverse.sum(), rtol=1e-12)


def test_one_asset_takes_all() -> None:
    model = HierarchicalRiskParity().fit(noise(50, 1))
    assert model.weights_.to_dict() == {"A000": 1.0}
    assert model.order_ == ["A000"] and model.splits_ == [] and model.linkage_.shape == (0, 4)
    assert model.explain("A000").empty
    assert model.diversification_ratio_ == pytest.approx(1)


@given(st.integers(0, 1000))
def test_two_assets_have_a_closed_form(seed: int) -> None:
    returns = noise(60, 2, seed)
    a, b = returns.var()
    weights = HierarchicalRiskParity().fit(returns).weights_
    np.testing.assert_allclose(weights, [b / (a + b), a / (a + b)], rtol=1e-12)


def textbook(returns: pd.DataFrame, order: list[str]) -> pd.Series:
    """Stage 3 as the paper's listing has it, with label slices, as an independent check."""
    cov = returns.cov()

    def variance(items: list[str]) -> float:
        block = cov.loc[items, items].to_numpy()
        w = 1 / np.diag(block)
        w /= w.sum()
        return float(w @ block @ w)

    weights = pd.Series(1.0, index=order)
    clusters = [order]
    while clusters:
        halves = [
            part[a:b]
            for part in clusters
            for a, b in pairwise([0, len(part) // 2, len(part)])
            if len(part) > 1
        ]
        for first, second in zip(halves[::2], halves[1::2], strict=True):
            share = 1 - variance(first) / (variance(first) + variance(second))
            weights[first] *= share
            weights[second] *= 1 - share
        clusters = halves
    return weights


@given(shape=st.tuples(st.integers(30, 60), st.integers(2, 25), st.integers(0, 10_000)), options=variants)
@settings(max_examples=30)
def test_bisection_is_the_papers_listing(shape: tuple[int, int, int], options: dict[str, str]) -> None:
    returns = noise(*shape)
    model = HierarchicalRiskParity(**options).fit(returns)
    expected = textbook(returns, model.order_)
    np.testing.assert_allclose(model.weights_, expected.reindex(returns.columns), rtol=1e-11)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_every_linkage_of_scipy_works(linkage: str, stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity(linkage=linkage).fit(stocks)
    assert model.weights_.sum() == pytest.approx(1, abs=1e-14)
    assert hierarchy.is_valid_linkage(model.linkage_)


def test_linkage_numbers_the_input_columns(stocks: pd.DataFrame) -> None:
    backwards = stocks[stocks.columns[::-1]]
    model = HierarchicalRiskParity().fit(backwards)
    leaves = hierarchy.leaves_list(model.linkage_)
    assert [backwards.columns[i] for i in leaves] == model.order_


@pytest.mark.filterwarnings("ignore:.*rows for.*assets")
def test_a_chain_of_two_thousand_assets_needs_no_recursion() -> None:
    model = HierarchicalRiskParity(distance="direct").fit(noise(60, 2000))
    assert model.weights_.sum() == pytest.approx(1, abs=1e-12)
    assert len(model.explain(model.order_[0])) in (10, 11)


# ---------------------------------------------------------------- explanations


@given(shape=shapes, options=variants)
@settings(max_examples=30)
def test_explained_shares_multiply_to_the_weight(shape: tuple[int, int, int], options: dict[str, str]) -> None:
    model = HierarchicalRiskParity(**options).fit(noise(*shape))
    for asset, weight in model.weights_.items():
        path = model.explain(asset)
        assert abs(path["share"].prod() - weight) <= 1e-15
        assert all(asset in mine for mine in path["assets"])
        assert not any(asset in other for other in path["against"])
        assert ((path["share"] >= 0) & (path["share"] <= 1)).all()


def test_explain_begins_with_the_whole_book_and_ends_alone(stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(stocks)
    path = model.explain("AMD")
    assert sorted(path["assets"].iloc[0] + path["against"].iloc[0]) == sorted(stocks.columns)
    assert path["assets"].iloc[-1] == ["AMD"]
    assert path["variance"].iloc[-1] == pytest.approx(stocks["AMD"].var())
    inverse = 1 / path["variance"]
    np.testing.assert_allclose(path["share"], inverse / (inverse + 1 / path["variance_against"]), rtol=1e-10)


def test_explain_refuses_a_stranger(stocks: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"'DOGE' was not fitted: choose one of .*AAPL"):
        HierarchicalRiskParity().fit(stocks).explain("DOGE")


def test_statistics_against_plain_numpy(stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(stocks)
    table = model.statistics(periods_per_year=252)
    portfolio = model.predict(stocks)
    assert list(table.columns) == ["hrp", "inverse_variance", "equal_weight"]
    assert table.index.name == "252 periods per year"
    assert table.loc["annual_volatility", "hrp"] == pytest.approx(portfolio.std() * np.sqrt(252))
    assert table.loc["annual_volatility", "equal_weight"] == pytest.approx(stocks.mean(axis=1).std() * np.sqrt(252))
    assert table.loc["effective_assets", "equal_weight"] == pytest.approx(20)
    assert table.loc["diversification_ratio", "hrp"] == model.diversification_ratio_
    assert table.loc["diversification_ratio", "hrp"] == pytest.approx(model.weights_ @ stocks.std() / portfolio.std())
    assert table.loc["largest_weight", "hrp"] == model.weights_.max()
    shares = model.weights_ * stocks.cov().dot(model.weights_) / portfolio.var()
    assert table.loc["largest_risk_share", "hrp"] == pytest.approx(shares.max())
    inverse = 1 / stocks.var()
    assert table.loc["largest_weight", "inverse_variance"] == pytest.approx((inverse / inverse.sum()).max())
    assert model.statistics().index.name == "365 periods per year"


# ---------------------------------------------------------------- scikit-learn


def test_covariance_is_the_sample_covariance_in_input_order(stocks: pd.DataFrame) -> None:
    backwards = stocks[stocks.columns[::-1]]
    covariance = HierarchicalRiskParity().fit(backwards).covariance_
    pd.testing.assert_frame_equal(covariance, backwards.cov(), rtol=1e-10)


def test_clone_and_parameters() -> None:
    model = HierarchicalRiskParity(distance="direct", linkage="ward", order="optimal", covariance=LedoitWolf())
    twin = clone(model)
    assert twin is not model and twin.covariance is not model.covariance
    assert twin.get_params()["linkage"] == "ward"
    assert twin.set_params(linkage="single").linkage == "single"


def test_fit_leaves_its_covariance_estimator_alone(stocks: pd.DataFrame) -> None:
    estimator = LedoitWolf()
    model = HierarchicalRiskParity(covariance=estimator).fit(stocks)
    assert not hasattr(estimator, "covariance_")
    np.testing.assert_allclose(model.covariance_, LedoitWolf().fit(stocks.to_numpy()).covariance_, rtol=1e-10)


def test_the_tree_may_hear_the_sample_beside_a_shrunk_covariance(stocks: pd.DataFrame) -> None:
    both = HierarchicalRiskParity(covariance=LedoitWolf(), codependence="pearson").fit(stocks)
    sample, shrunk = HierarchicalRiskParity().fit(stocks), HierarchicalRiskParity(covariance=LedoitWolf()).fit(stocks)
    assert both.order_ == sample.order_ != shrunk.order_
    pd.testing.assert_frame_equal(both.covariance_, shrunk.covariance_)
    assert HierarchicalRiskParity(codependence="pearson").fit(stocks).weights_.equals(sample.weights_)


def test_grid_search_maximises_the_score(stocks: pd.DataFrame) -> None:
    grid = {"distance": ["paper", "direct"]}
    search = GridSearchCV(HierarchicalRiskParity(), grid, cv=TimeSeriesSplit(2), error_score="raise").fit(stocks)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() < 0


def test_score_is_minus_the_volatility_of_predict(stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(stocks[:500])
    unseen = stocks[500:]
    portfolio = model.predict(unseen)
    assert portfolio.index.equals(unseen.index)
    np.testing.assert_allclose(portfolio, (unseen * model.weights_).sum(axis=1), rtol=1e-12)
    assert model.score(unseen) == -portfolio.std()


def test_predict_matches_by_label_and_keeps_missing_missing(stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(stocks)
    more = stocks[::-1].assign(OTHER=1.0)[["OTHER", *stocks.columns[::-1]]]
    np.testing.assert_allclose(model.predict(more)[::-1], model.predict(stocks), rtol=1e-10)
    holed = stocks[:3].copy()
    holed.iloc[1, 4] = np.nan
    assert model.predict(holed).isna().tolist() == [False, True, False]


def test_arrays_are_named_by_position(stocks: pd.DataFrame) -> None:
    array = stocks.to_numpy()
    model = HierarchicalRiskParity().fit(array)
    assert list(model.weights_.index) == list(range(20))
    assert model.n_features_in_ == 20 and not hasattr(model, "feature_names_in_")
    np.testing.assert_allclose(model.weights_, HierarchicalRiskParity().fit(stocks).weights_, rtol=0, atol=0)
    assert model.predict(array).shape == (len(array),)


def test_labels_of_mixed_types_have_an_order_too() -> None:
    returns = noise(60, 4).set_axis(["b", 2, "a", 1], axis=1)
    weights = HierarchicalRiskParity().fit(returns).weights_
    again = HierarchicalRiskParity().fit(returns[[1, "a", 2, "b"]]).weights_
    assert list(weights.index) == ["b", 2, "a", 1]
    pd.testing.assert_series_equal(again.reindex(weights.index), weights)


def test_unfitted_says_so() -> None:
    model = HierarchicalRiskParity()
    for question in (lambda: model.predict(noise(5, 2)), lambda: model.explain("A000"), model.statistics):
        with pytest.raises(NotFittedError):
            question()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("parameter", ["distance", "linkage", "order"])
def test_unknown_parameters_list_the_known_ones(parameter: str) -> None:
    with pytest.raises(OptimizationError, match=rf"{parameter}='nearest' does not exist: use one of .*,"):
        HierarchicalRiskParity(**{parameter: "nearest"}).fit(noise(30, 1))


def test_predict_names_what_is_missing(stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(stocks)
    with pytest.raises(DataError, match="returns lack AMD, JPM"):
        model.predict(stocks.drop(columns=["AMD", "JPM"]))
    with pytest.raises(DataError, match="X has 3 features, but HierarchicalRiskParity is expecting 20 features as input"):
        model.predict(stocks.to_numpy()[:, :3])


@pytest.mark.parametrize("case", CASES_OF_BAD_RETURNS, ids=lambda case: case.name)
def test_bad_returns_are_never_fitted_in_silence(case: Case) -> None:
    judge(case, lambda returns, missing: HierarchicalRiskParity(missing=missing).fit(returns))


@pytest.mark.filterwarnings("ignore:.*mirror each other")
def test_a_mirrored_pair_has_half_each() -> None:
    walk = noise(40, 1)["A000"]
    model = HierarchicalRiskParity().fit(pd.DataFrame({"up": walk, "down": -walk}))
    assert model.weights_.tolist() == pytest.approx([0.5, 0.5])
    assert model.diversification_ratio_ > 1e6  # nothing is left of the risk, up to rounding


def test_splits_are_named(stocks: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(stocks)
    assert len(model.splits_) == 19 and all(isinstance(s, Split) for s in model.splits_)
    assert (model.splits_[0].start, model.splits_[0].middle, model.splits_[0].stop) == (0, 10, 20)
