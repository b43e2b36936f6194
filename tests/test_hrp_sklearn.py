"""HierarchicalRiskParity among scikit-learn's tools: its own checks, searches, pipelines, copies and parallel work."""

import copy
import pickle
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.covariance import OAS, LedoitWolf
from sklearn.feature_selection import VarianceThreshold
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_estimators_nan_inf,
    parametrize_with_checks,
)

from portfolio_research.config import DataError, OptimizationError
from portfolio_research.hrp import HierarchicalRiskParity

# One year to learn, one month to hold: the walk that a daily bot walks.
WALK = TimeSeriesSplit(n_splits=4, max_train_size=252, test_size=21)

ESTIMATORS = [
    HierarchicalRiskParity(),
    HierarchicalRiskParity(distance="direct", linkage="ward", order="optimal", covariance=LedoitWolf()),
    HierarchicalRiskParity(distance="direct", algorithm="matrix_free"),
    HierarchicalRiskParity(merge_correlated=0.999, min_volatility=1e-6, codependence="spearman", max_weight=1.0),
    HierarchicalRiskParity(missing="pairwise"),
    HierarchicalRiskParity(missing="drop_assets"),
]


def not_for_portfolios(estimator: HierarchicalRiskParity) -> dict[str, str]:
    """The checks of scikit-learn that ask for what a portfolio must not do."""
    if estimator.missing == "pairwise":
        return {}
    if estimator.missing == "drop_assets":
        holes = "the check pierces every column, so that no asset is complete: refused, as it must be"
        return {"check_estimators_pickle": holes}
    return {
        "check_estimators_nan_inf": "fit refuses NaN as asked, but predict shows it: the return of a book with a price "
        "missing is unknown, which is one NaN in the answer and not an error about all the other days",
    }


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    """Two sectors, six assets, 400 days; `f` is the calm one."""
    rng = np.random.default_rng(3)
    sectors = np.repeat(rng.normal(0, 0.01, (400, 2)), 3, axis=1)
    values = (sectors + rng.normal(0, 0.01, (400, 6))) * [1.0, 1.5, 2.0, 0.7, 1.1, 0.3]
    return pd.DataFrame(values, pd.date_range("2020-01-01", periods=400, tz="UTC"), list("abcdef"))


# ---------------------------------------------------------------- scikit-learn's own checks


@pytest.mark.filterwarnings("ignore:.*rows for.*assets", "ignore:.*look like prices", "ignore:.*move as one", "ignore:.*share only")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=not_for_portfolios)
def test_check_of_scikit_learn(estimator, check) -> None:
    check(estimator)


@pytest.mark.filterwarnings("ignore:.*look like prices")
def test_the_one_check_that_fails_fails_in_predict_only() -> None:
    with pytest.raises(AssertionError, match="doesn't check for NaN and inf in predict"):
        check_estimators_nan_inf("HierarchicalRiskParity", HierarchicalRiskParity())


def test_columns_are_matched_by_label_where_scikit_learn_wants_an_error(returns: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(returns)
    with pytest.raises(AssertionError, match="predict did not raise"):
        check_dataframe_column_names_consistency("HierarchicalRiskParity", HierarchicalRiskParity())
    np.testing.assert_array_equal(model.predict(returns[list("fedcba")]), model.predict(returns))
    with pytest.raises(DataError, match="returns lack f"):
        model.predict(returns.drop(columns="f"))


def test_tags_say_whether_missing_returns_are_allowed() -> None:
    for missing in ("raise", "drop_assets", "pairwise"):
        tags = get_tags(HierarchicalRiskParity(missing=missing))
        assert tags.input_tags.allow_nan == (missing != "raise") and not tags.input_tags.sparse


def test_refusals_are_value_errors_too() -> None:
    assert issubclass(DataError, ValueError) and issubclass(OptimizationError, ValueError)


# ---------------------------------------------------------------- parameters


def test_every_parameter_can_be_set_and_survives_clone() -> None:
    model = HierarchicalRiskParity(covariance=OAS(assume_centered=True))
    assert {"distance", "linkage", "order", "covariance", "covariance__assume_centered"} <= set(model.get_params())
    for name, value in model.get_params(deep=False).items():
        assert getattr(HierarchicalRiskParity(**{name: value}), name) is value
    twin = clone(model.set_params(linkage="ward", covariance__assume_centered=False))
    assert twin.linkage == "ward" and twin.covariance.assume_centered is False and twin.covariance is not model.covariance


def test_a_parameter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid parameter 'linkages'"):
        HierarchicalRiskParity().set_params(linkages="ward")


def test_clone_of_a_fitted_model_is_not_fitted(returns: pd.DataFrame) -> None:
    assert not hasattr(clone(HierarchicalRiskParity().fit(returns)), "weights_")


def test_fit_changes_no_parameter_and_keeps_nothing_of_the_fit_before(returns: pd.DataFrame) -> None:
    model = HierarchicalRiskParity()
    before = model.get_params()
    model.fit(returns).fit(returns[["a", "b"]])
    assert model.get_params() == before
    fresh = HierarchicalRiskParity().fit(returns[["a", "b"]])
    assert vars(model).keys() == vars(fresh).keys()
    assert list(model.weights_.index) == list(model.feature_names_in_) == ["a", "b"] and model.n_features_in_ == 2
    pd.testing.assert_frame_equal(model.covariance_, fresh.covariance_)


def test_names_are_those_of_the_last_fit(returns: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(returns)
    assert model.feature_names_in_.dtype == object and model.feature_names_in_.tolist() == list("abcdef")
    model.fit(returns.to_numpy()[:, :4])
    assert model.n_features_in_ == 4
    assert "a" not in getattr(model, "feature_names_in_", [])


def test_page_of_a_notebook_shows_what_was_changed(returns: pd.DataFrame) -> None:
    model = HierarchicalRiskParity(linkage="ward")
    assert repr(model) == "HierarchicalRiskParity(linkage='ward')"
    assert "linkage" in model._repr_html_() and "Not fitted" in model._repr_html_()
    assert "Not fitted" not in model.fit(returns)._repr_html_()


# ---------------------------------------------------------------- pipelines


class WithoutLabels(TransformerMixin, BaseEstimator):
    """A transformer as most are: an array comes out, unless pandas output is asked for."""

    def fit(self, X: pd.DataFrame, y: None = None) -> "WithoutLabels":
        self.names_ = list(X.columns)
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        return np.asarray(X) * 1.0

    def get_feature_names_out(self, names: None = None) -> np.ndarray:
        return np.asarray(self.names_, dtype=object)


def test_labels_pass_through_a_pipeline_with_pandas_output(returns: pd.DataFrame) -> None:
    plain = HierarchicalRiskParity().fit(returns)
    line = make_pipeline(WithoutLabels(), HierarchicalRiskParity()).set_output(transform="pandas").fit(returns)
    pd.testing.assert_series_equal(line[-1].weights_, plain.weights_)
    pd.testing.assert_series_equal(line.predict(returns), plain.predict(returns))
    assert line.score(returns) == plain.score(returns)
    nameless = make_pipeline(WithoutLabels(), HierarchicalRiskParity()).fit(returns)
    np.testing.assert_array_equal(nameless[-1].weights_, plain.weights_)


@pytest.mark.parametrize(
    "selector, kept",
    [
        (ColumnTransformer([("keep", "passthrough", ["e", "a", "c"])], verbose_feature_names_out=False), ["e", "a", "c"]),
        (VarianceThreshold(5e-5), ["a", "b", "c", "d", "e"]),
    ],
)
def test_selecting_columns_before_is_selecting_them_by_hand(selector, kept: list[str], returns: pd.DataFrame) -> None:
    line = Pipeline([("select", selector), ("hrp", HierarchicalRiskParity())]).set_output(transform="pandas")
    line.fit(returns)
    pd.testing.assert_series_equal(line["hrp"].weights_, HierarchicalRiskParity().fit(returns[kept]).weights_)
    assert line["hrp"].feature_names_in_.tolist() == kept
    assert line.predict(returns[-5:]).index.equals(returns.index[-5:])


def test_a_search_reaches_through_a_pipeline(returns: pd.DataFrame) -> None:
    line = Pipeline([("select", VarianceThreshold()), ("hrp", HierarchicalRiskParity())]).set_output(transform="pandas")
    grid = {"select__threshold": [0.0, 5e-5], "hrp__distance": ["paper", "direct"]}
    search = GridSearchCV(line, grid, cv=WALK, error_score="raise").fit(returns)
    # Without `f`, much the calmest asset, every month is wilder.
    assert search.best_params_["select__threshold"] == 0.0
    assert "f" in search.best_estimator_["hrp"].weights_.index


# ---------------------------------------------------------------- searches and parallel work


def walked(returns: pd.DataFrame, **options: str) -> list[float]:
    """The score of every month of the walk, by hand."""
    scores = []
    for learn, hold in WALK.split(returns):
        assert (len(learn), len(hold)) == (252, 21) and learn[-1] + 1 == hold[0]
        weights = HierarchicalRiskParity(**options).fit(returns.iloc[learn]).weights_
        scores.append(-float((returns.iloc[hold] * weights).sum(axis=1).std()))
    return scores


def test_grid_search_over_linkage_walks_forward(returns: pd.DataFrame) -> None:
    grid = {"linkage": ["single", "average", "ward"], "covariance": [None, LedoitWolf()]}
    search = GridSearchCV(HierarchicalRiskParity(), grid, cv=WALK, error_score="raise").fit(returns)
    table = search.cv_results_
    for i, options in enumerate(table["params"]):
        months = [table[f"split{k}_test_score"][i] for k in range(4)]
        np.testing.assert_allclose(months, walked(returns, **options), rtol=1e-12)
    assert search.best_score_ == max(table["mean_test_score"])
    pd.testing.assert_series_equal(
        search.best_estimator_.weights_, HierarchicalRiskParity(**search.best_params_).fit(returns).weights_
    )
    assert search.n_features_in_ == 6


def test_two_workers_find_what_one_finds(returns: pd.DataFrame) -> None:
    grid = {"linkage": ["single", "ward"], "distance": ["paper", "direct"]}
    with joblib.parallel_config("loky", n_jobs=2):
        searches = [
            GridSearchCV(HierarchicalRiskParity(), grid, cv=WALK, n_jobs=jobs, error_score="raise").fit(returns)
            for jobs in (1, 2)
        ]
    one, two = (search.cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_array_equal(one, two)


def test_threads_do_not_disturb_each_other(returns: pd.DataFrame) -> None:
    windows = [returns.iloc[start : start + 252] for start in range(0, 148, 8)]
    alone = [HierarchicalRiskParity().fit(window).weights_ for window in windows]
    fit = joblib.delayed(lambda window: HierarchicalRiskParity().fit(window).weights_)
    for one, other in zip(alone, joblib.Parallel(4, prefer="threads")(map(fit, windows)), strict=True):
        pd.testing.assert_series_equal(one, other, check_exact=True)


def test_cross_validation_returns_each_months_portfolio(returns: pd.DataFrame) -> None:
    result = cross_validate(HierarchicalRiskParity(), returns, cv=WALK, return_estimator=True, error_score="raise")
    np.testing.assert_allclose(result["test_score"], walked(returns), rtol=1e-12)
    assert all(abs(model.weights_.sum() - 1) < 1e-14 for model in result["estimator"])


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "joblib"])
def test_a_copy_of_a_fitted_model_is_the_model(how: str, returns: pd.DataFrame, tmp_path: Path) -> None:
    model = HierarchicalRiskParity(covariance=LedoitWolf()).fit(returns)
    if how == "joblib":
        joblib.dump(model, tmp_path / "model")
        twin = joblib.load(tmp_path / "model")
    else:
        twin = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
    pd.testing.assert_series_equal(twin.weights_, model.weights_, check_exact=True)
    pd.testing.assert_series_equal(twin.predict(returns), model.predict(returns), check_exact=True)
    pd.testing.assert_frame_equal(twin.explain("c"), model.explain("c"), check_exact=True)
    pd.testing.assert_frame_equal(twin.statistics(), model.statistics(), check_exact=True)
    assert twin.order_ == model.order_ and twin.score(returns) == model.score(returns)
    assert vars(twin).keys() == vars(model).keys()


def test_a_copy_shares_nothing_with_its_model(returns: pd.DataFrame) -> None:
    model = HierarchicalRiskParity().fit(returns)
    twin = copy.deepcopy(model)
    twin.weights_["a"] = 9.0
    assert model.weights_["a"] < 1


# ---------------------------------------------------------------- rows and kinds of input


def test_order_of_the_days_does_not_matter(returns: pd.DataFrame) -> None:
    weights = HierarchicalRiskParity().fit(returns).weights_
    for seed in range(5):
        shuffled = HierarchicalRiskParity().fit(returns.sample(frac=1, random_state=seed)).weights_
        np.testing.assert_allclose(shuffled, weights, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda x: x.to_numpy(), id="array"),
        pytest.param(lambda x: np.asfortranarray(x.to_numpy()), id="Fortran order"),
        pytest.param(lambda x: x.to_numpy().tolist(), id="lists"),
        pytest.param(lambda x: x.astype(object).to_numpy(), id="objects"),
        pytest.param(lambda x: x.astype(object), id="frame of objects"),
        pytest.param(lambda x: x.convert_dtypes(), id="nullable"),
        pytest.param(lambda x: x.astype("float64[pyarrow]"), id="arrow"),
    ],
)
def test_any_table_of_numbers_gives_the_same_weights(given, returns: pd.DataFrame) -> None:
    weights = HierarchicalRiskParity().fit(returns).weights_
    other = HierarchicalRiskParity().fit(given(returns)).weights_
    np.testing.assert_allclose(other, weights, rtol=1e-13)  # sums along rows or columns round differently


def test_read_only_input_is_read_only(returns: pd.DataFrame) -> None:
    array = returns.to_numpy().copy()
    array.flags.writeable = False
    weights = HierarchicalRiskParity().fit(array).weights_
    np.testing.assert_allclose(weights, HierarchicalRiskParity().fit(returns).weights_, rtol=1e-13)


def test_input_is_left_as_it_was(returns: pd.DataFrame) -> None:
    given = returns.to_numpy().copy()
    HierarchicalRiskParity().fit(given)
    np.testing.assert_array_equal(given, returns)


def test_single_precision_is_computed_in_double(returns: pd.DataFrame) -> None:
    single = returns.astype(np.float32)
    model = HierarchicalRiskParity().fit(single)
    assert model.weights_.dtype == np.float64
    pd.testing.assert_series_equal(model.weights_, HierarchicalRiskParity().fit(single.astype(float)).weights_)
