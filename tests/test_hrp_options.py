"""Every option of HierarchicalRiskParity through the estimator: what it changes, what it must not, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from portfolio_research.config import DataError, OptimizationError
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.tree import LINKAGES

MAJORS = ["BTC", "DASH", "DGB", "DOGE", "ETC", "ETH", "LTC", "XLM", "XMR", "XRP"]


def noise(rows: int, columns: int, seed: int = 0) -> pd.DataFrame:
    """Returns with one market factor; the labels are A000, A001, ..."""
    rng = np.random.default_rng(seed)
    market = rng.normal(0, 0.02, (rows, 1))
    sizes = rng.uniform(0.5, 2.0, columns)
    labels = [f"A{i:03d}" for i in range(columns)]
    return pd.DataFrame((market + rng.normal(0, 0.02, (rows, columns))) * sizes, columns=labels)


def weights(returns: pd.DataFrame, **options: object) -> "pd.Series[float]":
    """Fitted weights."""
    return HierarchicalRiskParity(**options).fit(returns).weights_


def same(one: "pd.Series[float]", other: "pd.Series[float]", tolerance: float = 0.0) -> None:
    """The same weight for each label of the first; their order does not matter."""
    np.testing.assert_allclose(one, other.reindex(one.index), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def coins(test_data: Path) -> pd.DataFrame:
    """Daily returns of ten majors and of USDT, 2017-08 to 2021-04 (Coin Metrics)."""
    prices = pd.read_csv(test_data / "coinmetrics_daily_price_usd.csv.gz", index_col=0, parse_dates=True)
    return prices.loc["2017-08-01":"2021-04-30", [*MAJORS, "USDT"]].pct_change().iloc[1:]


@pytest.fixture(scope="module")
def stocks(test_data: Path) -> pd.DataFrame:
    """Daily returns of twenty US stocks, 2018 to 2021."""
    prices = pd.read_csv(test_data / "hrp_golden_prices.csv.gz", index_col=0, parse_dates=True)
    return prices.loc["2018":"2021"].pct_change().iloc[1:]


@pytest.fixture(scope="module")
def perps(test_data: Path) -> pd.DataFrame:
    """Daily returns of the perpetuals listed in all of 2024 (Hyperliquid)."""
    prices = pd.read_csv(test_data / "hyperliquid_candles/perps_1d_close.csv.gz", index_col=0, parse_dates=True)
    return prices.loc["2024"].dropna(axis=1).pct_change().iloc[1:].iloc[:, :40]


TABLES = ["coins", "stocks", "perps", "noise"]


@pytest.fixture
def table(request: pytest.FixtureRequest) -> pd.DataFrame:
    """The data set of that name; the coins without their stablecoin."""
    if request.param == "noise":
        return noise(120, 9, 4)
    found: pd.DataFrame = request.getfixturevalue(request.param)
    return found.drop(columns="USDT", errors="ignore")


# ---------------------------------------------------------------- the peers, where they are installed


def close_to(peer: Callable[[pd.DataFrame], "pd.Series[float]"], stocks: pd.DataFrame, **options: object) -> None:
    """The peer's weights, on real and on made returns, with labels sorted as PyPortfolioOpt needs them."""
    for returns in (stocks[sorted(stocks.columns)], noise(80, 7, 1), noise(250, 33, 2)):
        same(weights(returns, **options), pd.Series(peer(returns)), 1e-12)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_pyportfolioopt(linkage: str, stocks: pd.DataFrame) -> None:
    hrp = pytest.importorskip("pypfopt", reason="PyPortfolioOpt is not installed").HRPOpt
    close_to(lambda r: hrp(r).optimize(linkage_method=linkage), stocks, distance="direct", linkage=linkage)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order, leaf_order", [("optimal", True), ("linkage", False)])
@pytest.mark.parametrize("codependence", ["pearson", "spearman", "kendall"])
@pytest.mark.parametrize("linkage", ["single", "ward"])
def test_riskfolio(linkage: str, codependence: str, order: str, leaf_order: bool, stocks: pd.DataFrame) -> None:
    riskfolio = pytest.importorskip("riskfolio", reason="Riskfolio-Lib is not installed")

    def peer(r: pd.DataFrame) -> "pd.Series[float]":
        portfolio = riskfolio.HCPortfolio(returns=r)
        return portfolio.optimization("HRP", codependence, linkage=linkage, leaf_order=leaf_order)["weights"]

    close_to(peer, stocks, distance="direct", linkage=linkage, codependence=codependence, order=order)


@pytest.mark.parametrize("measure, codependence", [("Pearson", "pearson"), ("Spearman", "spearman"), ("Kendall", "kendall")])
def test_skfolio(measure: str, codependence: str, stocks: pd.DataFrame) -> None:
    optimization = pytest.importorskip("skfolio.optimization", reason="skfolio is not installed")
    distance = getattr(pytest.importorskip("skfolio.distance"), f"{measure}Distance")()

    def peer(r: pd.DataFrame) -> "pd.Series[float]":
        return pd.Series(optimization.HierarchicalRiskParity(distance_estimator=distance).fit(r).weights_, r.columns)

    close_to(peer, stocks, distance="direct", linkage="ward", order="optimal", codependence=codependence)


@pytest.mark.filterwarnings("ignore")
def test_peers_with_a_shrunk_covariance(stocks: pd.DataFrame) -> None:
    """PyPortfolioOpt grows the tree from the shrunk matrix; the others from the sample, and shrink the shares only."""
    hrp = pytest.importorskip("pypfopt", reason="PyPortfolioOpt is not installed").HRPOpt
    riskfolio = pytest.importorskip("riskfolio", reason="Riskfolio-Lib is not installed")
    skfolio = pytest.importorskip("skfolio", reason="skfolio is not installed")
    prior = skfolio.prior.EmpiricalPrior(covariance_estimator=skfolio.moments.LedoitWolf())
    one = skfolio.optimization.HierarchicalRiskParity(prior_estimator=prior)

    def shrunk(r: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(LedoitWolf().fit(r.to_numpy()).covariance_, r.columns, r.columns)

    def other(r: pd.DataFrame) -> "pd.Series[float]":
        return riskfolio.HCPortfolio(returns=r).optimization("HRP", method_cov="ledoit")["weights"]

    options = {"distance": "direct", "covariance": LedoitWolf()}
    close_to(lambda r: hrp(cov_matrix=shrunk(r)).optimize(), stocks, **options)
    close_to(other, stocks, order="optimal", codependence="pearson", **options)
    ward = {"linkage": "ward", "order": "optimal", "codependence": "pearson"}
    close_to(lambda r: pd.Series(one.fit(r).weights_, r.columns), stocks, **options, **ward)


def test_the_tree_of_the_sample_beside_a_shrunk_covariance(stocks: pd.DataFrame) -> None:
    same(weights(stocks), weights(stocks, codependence="pearson"))
    sample = HierarchicalRiskParity().fit(stocks)
    mixed = HierarchicalRiskParity(covariance=LedoitWolf(), codependence="pearson").fit(stocks)
    assert mixed.order_ == sample.order_
    np.testing.assert_allclose(mixed.covariance_, LedoitWolf().fit(stocks.to_numpy()).covariance_, rtol=1e-10)


@pytest.mark.parametrize("linkage", ["single", "ward"])
def test_canopy(linkage: str, stocks: pd.DataFrame) -> None:
    canopy = pytest.importorskip("canopy", reason="canopy-optimizer is not installed").MasterCanopy

    def peer(r: pd.DataFrame) -> "pd.Series[float]":
        return canopy(method="HRP", linkage_method=linkage).cluster(r).allocate()

    close_to(peer, stocks, distance="direct", linkage=linkage, order="optimal")


# ---------------------------------------------------------------- missing returns


@pytest.fixture(scope="module")
def listed(test_data: Path) -> pd.DataFrame:
    """Coins of which some were listed late: DOT and SOL in 2020, the others before (Binance)."""
    prices = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True)
    names = ["BTC", "ETH", "BNB", "XRP", "ADA", "LTC", "LINK", "DOT", "SOL"]
    return prices.loc["2020-01-01":"2021-12-31", names].pct_change(fill_method=None).iloc[1:]


def test_missing_returns_are_refused_by_name(listed: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"missing.* DOT \(\d+, first at 2020-01-02\), SOL"):
        HierarchicalRiskParity().fit(listed)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_drop_assets_is_dropping_them_by_hand(listed: pd.DataFrame) -> None:
    model = HierarchicalRiskParity(missing="drop_assets").fit(listed)
    rest = listed.drop(columns=["DOT", "SOL"])
    same(HierarchicalRiskParity().fit(rest).weights_, model.weights_)
    assert list(model.weights_.index) == list(listed.columns)
    assert model.weights_[["DOT", "SOL"]].tolist() == [0.0, 0.0]
    assert model.diagnostics_["dropped"] == ["DOT", "SOL"]
    assert list(model.covariance_.index) == list(rest.columns) and len(model.order_) == 7
    assert not model.predict(listed).isna().any()
    with pytest.raises(DataError, match="DOT"):
        model.explain("DOT")


@pytest.mark.filterwarnings("ignore:.*left out")
@given(seed=st.integers(0, 1000), holes=st.sets(st.integers(0, 7), max_size=7))
@settings(max_examples=20)
def test_drop_assets_drops_what_has_holes_and_nothing_else(seed: int, holes: set[int]) -> None:
    returns = noise(60, 8, seed)
    whole = returns.copy()
    for j in holes:
        returns.iloc[(seed + j) % 60, j] = np.nan
    model = HierarchicalRiskParity(missing="drop_assets").fit(returns)
    kept = [c for j, c in enumerate(returns.columns) if j not in holes]
    same(weights(whole[kept]), model.weights_)
    assert model.weights_.drop(kept).eq(0).all() and model.weights_.sum() == pytest.approx(1, abs=1e-14)
    assert set(model.diagnostics_["dropped"]) == set(returns.columns) - set(kept)


@pytest.mark.parametrize("options", [{}, {"distance": "direct", "linkage": "ward", "order": "optimal"}])
def test_pairwise_of_complete_returns_changes_nothing(options: dict[str, str], stocks: pd.DataFrame) -> None:
    same(weights(stocks, **options), weights(stocks, missing="pairwise", **options), 1e-12)


@pytest.mark.filterwarnings("ignore:.*share only")
def test_pairwise_weighs_every_asset_and_moves_with_no_shuffle(listed: pd.DataFrame) -> None:
    model = HierarchicalRiskParity(missing="pairwise").fit(listed)
    assert (model.weights_ > 0).all() and model.weights_.sum() == pytest.approx(1, abs=1e-14)
    assert model.diagnostics_["dropped"] == []
    np.testing.assert_allclose(np.diag(model.covariance_), listed.var(), rtol=1e-9)
    assert np.linalg.eigvalsh(model.covariance_).min() > -1e-12
    for seed in range(10):
        same(model.weights_, weights(listed.sample(frac=1, axis=1, random_state=seed), missing="pairwise"), 1e-12)


# ---------------------------------------------------------------- cash


def test_usdt_beside_ten_majors_changes_nothing_but_the_cash_line(coins: pd.DataFrame) -> None:
    majors = coins[MAJORS]
    for options in ({"treat_as_cash": ["USDT"]}, {"treat_as_cash": "USDT"}, {"min_volatility": 0.01}):
        for rule in ({}, {"distance": "direct", "linkage": "ward", "order": "optimal"}, {"covariance": LedoitWolf()}):
            plain = HierarchicalRiskParity(**rule).fit(majors)
            model = HierarchicalRiskParity(**options, **rule).fit(coins)
            same(plain.weights_, model.weights_)
            assert model.weights_["USDT"] == 0 and list(model.weights_.index) == list(coins.columns)
            assert model.diagnostics_["cash"] == ["USDT"]
            pd.testing.assert_frame_equal(model.covariance_, plain.covariance_)
            assert model.order_ == plain.order_ and model.diversification_ratio_ == plain.diversification_ratio_
            np.testing.assert_array_equal(model.linkage_, plain.linkage_)
            pd.testing.assert_series_equal(model.predict(coins), plain.predict(majors))


def test_without_the_option_usdt_takes_most_of_the_book(coins: pd.DataFrame) -> None:
    assert weights(coins)["USDT"] > 0.9  # why the option exists


@given(seed=st.integers(0, 1000), at=st.integers(0, 10), log_size=st.floats(-9, -5), name=st.sampled_from(["USD", "ZZZ"]))
@settings(max_examples=30)
def test_a_simulated_stablecoin_anywhere_changes_nothing(seed: int, at: int, log_size: float, name: str) -> None:
    majors = noise(90, 10, seed)
    still = np.random.default_rng(seed).normal(0, 10.0**log_size, 90)
    more = majors.copy()
    more.insert(at, name, still)
    for options in ({"treat_as_cash": [name]}, {"min_volatility": 1e-4}, {"treat_as_cash": [name], "min_volatility": 1e-4}):
        model = HierarchicalRiskParity(**options).fit(more)
        same(weights(majors), model.weights_)
        assert model.weights_[name] == 0 and model.diagnostics_["cash"] == [name]


@pytest.mark.parametrize("column", [0.0, 1e-4, np.nan])
def test_cash_may_stand_still_or_have_no_price_at_all(column: float) -> None:
    majors = noise(60, 5)
    model = HierarchicalRiskParity(treat_as_cash=["EUR"]).fit(majors.assign(EUR=column))
    same(weights(majors), model.weights_)
    assert not model.predict(majors.assign(EUR=column)).isna().any()


@pytest.mark.filterwarnings("ignore:.*less than a twentieth")
def test_min_volatility_is_the_sample_volatility_per_period() -> None:
    returns = noise(100, 4)
    sizes = returns.std().sort_values()
    between = float(sizes.iloc[:2].mean())
    model = HierarchicalRiskParity(min_volatility=between).fit(returns)
    assert model.diagnostics_["cash"] == [sizes.index[0]]
    at_the_edge = float(returns[sizes.index[1]].std(ddof=1))
    assert HierarchicalRiskParity(min_volatility=at_the_edge).fit(returns).diagnostics_["cash"] == [sizes.index[0]]


def test_explain_and_statistics_know_cash(coins: pd.DataFrame) -> None:
    model = HierarchicalRiskParity(treat_as_cash=["USDT"]).fit(coins)
    path = model.explain("USDT")
    assert path["share"].prod() == 0 and path["weight"].iloc[-1] == 0
    assert list(model.statistics().columns) == ["hrp", "inverse_variance", "equal_weight"]
    assert model.statistics().loc["effective_assets", "equal_weight"] == pytest.approx(10)


# ---------------------------------------------------------------- copies


def with_copy(returns: pd.DataFrame, asset: str, times: int = 1) -> pd.DataFrame:
    """The returns with exact copies of one asset."""
    return returns.assign(**{f"{asset} copy {i}": returns[asset] for i in range(times)})


def together(found: "pd.Series[float]") -> "pd.Series[float]":
    """Weights with copies added to their originals."""
    return found.groupby([label.split(" ")[0] for label in found.index]).sum()


RULES = [
    *({"distance": d, "linkage": link} for d in ("paper", "direct") for link in LINKAGES),
    {"distance": "direct", "linkage": "ward", "order": "optimal"},
    {"covariance": LedoitWolf()},
    {"codependence": "spearman"},
    {"codependence": "pearson", "covariance": LedoitWolf()},
]


@pytest.mark.parametrize("table", TABLES, indirect=True)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_an_exact_copy_of_any_asset_changes_nothing(rule: dict[str, object], table: pd.DataFrame) -> None:
    options = {**rule, "merge_correlated": 0.999}
    plain = weights(table, **options)
    for asset in table.columns if len(rule) == 1 else table.columns[::4]:
        model = HierarchicalRiskParity(**options).fit(with_copy(table, asset))
        same(plain, together(model.weights_), 1e-10)
        assert model.weights_[asset] == pytest.approx(model.weights_[f"{asset} copy 0"], rel=1e-12)
        assert model.diagnostics_["merged"] == {asset: [asset, f"{asset} copy 0"]}


@pytest.mark.parametrize("table", TABLES, indirect=True)
def test_merging_without_copies_changes_nothing(table: pd.DataFrame) -> None:
    for rule in RULES:
        same(weights(table, **rule), weights(table, merge_correlated=0.999, **rule), 1e-14)


@pytest.mark.filterwarnings("ignore:.*move as one")
def test_without_the_option_a_copy_takes_more_than_its_share(stocks: pd.DataFrame) -> None:
    grown = [together(weights(with_copy(stocks, a)))[a] / weights(stocks)[a] for a in stocks.columns]
    assert np.median(grown) > 1.2  # why the option exists


@given(seed=st.integers(0, 1000), n=st.integers(1, 8), copies=st.dictionaries(st.integers(0, 7), st.integers(1, 3), max_size=8))
@settings(max_examples=30)
def test_any_number_of_copies_of_any_assets(seed: int, n: int, copies: dict[int, int]) -> None:
    returns = noise(60, n, seed)
    more = returns
    for asset, times in copies.items():
        more = with_copy(more, f"A{asset % n:03d}", times)
    more = more.sample(frac=1, axis=1, random_state=seed)
    for rule in ({}, {"distance": "direct"}, {"covariance": LedoitWolf()}):
        found = weights(more, merge_correlated=0.999, **rule)
        same(weights(returns, **rule), together(found), 1e-10)
        for asset in returns.columns:
            family = found[[c for c in more.columns if c.split(" ")[0] == asset]]
            np.testing.assert_allclose(family, family.iloc[0], rtol=1e-10)


@pytest.mark.filterwarnings("ignore:.*move as one")
def test_near_copies_share_a_leaf_by_inverse_variance(stocks: pd.DataFrame) -> None:
    wrapped = stocks.assign(**{"KO wrapped": stocks["KO"] + np.random.default_rng(0).normal(0, 1e-4, len(stocks))})
    assert 0.999 < wrapped["KO"].corr(wrapped["KO wrapped"]) < 1
    model = HierarchicalRiskParity(merge_correlated=0.999).fit(wrapped)
    same(weights(stocks), together(model.weights_), 1e-3)
    a, b = model.weights_[["KO", "KO wrapped"]] * wrapped[["KO", "KO wrapped"]].var()
    assert a == pytest.approx(b)
    off = HierarchicalRiskParity(merge_correlated=1.0).fit(wrapped)
    assert off.diagnostics_["merged"] == {}


def test_an_exact_copy_is_one_even_for_the_strictest_threshold(stocks: pd.DataFrame) -> None:
    for asset in stocks.columns:
        model = HierarchicalRiskParity(merge_correlated=1.0).fit(with_copy(stocks, asset))
        assert model.diagnostics_["merged"] == {asset: [asset, f"{asset} copy 0"]}


def test_all_assets_may_be_copies_of_one() -> None:
    returns = with_copy(noise(60, 1), "A000", 4)
    model = HierarchicalRiskParity(merge_correlated=0.999).fit(returns)
    np.testing.assert_allclose(model.weights_, 0.2, rtol=1e-12)
    assert model.order_ == ["A000"] and model.splits_ == [] and model.diversification_ratio_ == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:.*mirror each other")
def test_mirrored_assets_are_no_copies(stocks: pd.DataFrame) -> None:
    mirrored = stocks.assign(short=-stocks["KO"])
    assert HierarchicalRiskParity(merge_correlated=0.999).fit(mirrored).diagnostics_["merged"] == {}


# ---------------------------------------------------------------- bounds


def box(found: np.ndarray, rng: np.random.Generator, assets: list[str], risk: np.ndarray) -> dict[str, object]:
    """Random limits that a given portfolio keeps, most of them narrow enough to bind."""
    low, high = found * rng.uniform(0.2, 1, len(found)), found + rng.uniform(0, 0.1, len(found))
    groups = {a: [f"g{g}" for g in range(3) if rng.random() < 0.4] for a in assets}
    sums = {g: sum(w for a, w in zip(assets, found, strict=True) if g in groups[a]) for g in ("g0", "g1", "g2")}
    there = {g: s for g, s in sums.items() if s > 0}
    return {
        "min_weight": dict(zip(assets, low.tolist(), strict=True)),
        "max_weight": dict(zip(assets, np.minimum(high, 1).tolist(), strict=True)),
        "groups": groups,
        "group_min": {g: s * 0.9 for g, s in there.items()},
        "group_max": {g: min(s * 1.05, 1) for g, s in there.items()},
        "max_risk_share": min(1.0, float(risk.max()) * 1.02),
    }


def excess(found: "pd.Series[float]", options: dict[str, object], covariance: pd.DataFrame) -> float:
    """By how much the worst limit is missed."""
    low, high = pd.Series(options["min_weight"]), pd.Series(options["max_weight"])
    worst = [float((low - found).max()), float((found - high).max()), abs(found.sum() - 1)]
    for side, sign in (("group_max", 1), ("group_min", -1)):
        for group, bound in options[side].items():
            total = sum(w for a, w in found.items() if group in options["groups"][a])
            worst.append(sign * (total - bound))
    share = found * (covariance @ found) / (found @ covariance @ found)
    return max(*worst, float(share.max()) - options["max_risk_share"])


@given(seed=st.integers(0, 100_000), n=st.integers(2, 10))
@settings(max_examples=40)
def test_random_feasible_limits_are_kept(seed: int, n: int) -> None:
    returns, rng = noise(80, n, seed), np.random.default_rng(seed)
    kept = rng.dirichlet(np.full(n, 2.0))
    covariance = returns.cov()
    risk = kept * (covariance.to_numpy() @ kept) / (kept @ covariance.to_numpy() @ kept)
    options = box(kept, rng, list(returns.columns), risk)
    model = HierarchicalRiskParity(**options).fit(returns)
    assert excess(model.weights_, options, covariance) <= 1e-9
    assert (model.weights_ >= 0).all()


@given(seed=st.integers(0, 10_000), n=st.integers(1, 10))
@settings(max_examples=20)
def test_limits_that_do_not_bind_change_nothing(seed: int, n: int) -> None:
    returns = noise(80, n, seed)
    plain = HierarchicalRiskParity().fit(returns)
    found = plain.weights_.to_numpy()
    covariance = plain.covariance_.to_numpy()
    risk = found * (covariance @ found) / (found @ covariance @ found)
    options = box(found, np.random.default_rng(seed), list(returns.columns), risk)
    model = HierarchicalRiskParity(**options).fit(returns)
    same(plain.weights_, model.weights_)
    assert not model.diagnostics_["bound"]


def test_nobody_bears_more_than_his_share_of_the_risk(coins: pd.DataFrame) -> None:
    plain = HierarchicalRiskParity(treat_as_cash=["USDT"]).fit(coins)
    assert plain.risk_contributions()["hrp"].max() > 0.12
    model = HierarchicalRiskParity(treat_as_cash=["USDT"], max_risk_share=0.12).fit(coins)
    assert model.risk_contributions()["hrp"].max() <= 0.12 + 1e-9
    assert model.weights_.sum() == pytest.approx(1, abs=1e-12) and model.weights_["USDT"] == 0


IMPOSSIBLE = [
    ({"max_weight": 0.1}, r"max_weight.*leave only 0\.6 of 1"),
    ({"min_weight": 0.3}, r"min_weight.*1\.8"),
    ({"min_weight": {"A000": 0.4}, "max_weight": {"A000": 0.3}}, "A000"),
    ({"groups": {"A000": "g", "A001": "g"}, "group_min": {"g": 0.5}, "max_weight": 0.2}, "group_min.*g|g.*group_min"),
    ({"groups": {"A000": "g", "A001": "g"}, "group_min": {"g": 0.5}, "group_max": {"g": 0.4}}, "group_m.*g"),
    ({"max_risk_share": 0.1}, "max_risk_share"),
]


@pytest.mark.parametrize("options, said", IMPOSSIBLE)
def test_limits_that_nothing_keeps_are_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptimizationError, match=said):
        HierarchicalRiskParity(**options).fit(noise(80, 6))


def test_a_plain_minimum_is_not_for_cash_and_a_named_one_is() -> None:
    returns = noise(80, 4).assign(USD=0.0)
    plain = HierarchicalRiskParity(treat_as_cash=["USD"], min_weight=0.2).fit(returns).weights_
    assert plain["USD"] == 0 and plain.drop("USD").min() >= 0.2 - 1e-9
    named = HierarchicalRiskParity(treat_as_cash=["USD"], min_weight={"USD": 0.3}).fit(returns)
    assert named.weights_["USD"] == pytest.approx(0.3, abs=1e-9)
    same(0.7 * weights(returns.drop(columns="USD")), named.weights_, 1e-9)
    assert named.explain("USD")["share"].prod() == named.weights_["USD"]


def test_a_limit_may_name_an_asset_that_is_dropped() -> None:
    returns = noise(80, 5)
    returns.loc[:40, "A004"] = np.nan
    options = {"min_weight": {"A004": 0.2}, "max_weight": {"A004": 0.3}, "groups": {"A004": "late", "A000": "old"}}
    with pytest.warns(UserWarning, match="A004 .*left out"):
        model = HierarchicalRiskParity(missing="drop_assets", **options).fit(returns)
    same(weights(returns.drop(columns="A004")), model.weights_)


def test_limits_may_be_series() -> None:
    returns = noise(80, 5)
    limits = {"min_weight": {"A000": 0.1}, "max_weight": {"A001": 0.2}, "groups": {"A002": "g", "A003": "g"}}
    limits["group_max"] = {"g": 0.3}
    series = {name: pd.Series(values) for name, values in limits.items()}
    same(weights(returns, **limits), weights(returns, **series))


def test_limits_hold_beside_cash_and_copies(coins: pd.DataFrame) -> None:
    more = coins.assign(**{"BTC wrapped": coins["BTC"], "ETH staked": coins["ETH"]})
    groups = {"BTC": "bitcoin", "BTC wrapped": "bitcoin", "ETH": "ether", "ETH staked": "ether"}
    options = {"treat_as_cash": ["USDT"], "merge_correlated": 0.999, "max_weight": 0.15, "groups": groups}
    model = HierarchicalRiskParity(**options, group_max={"bitcoin": 0.12}, max_risk_share=0.2).fit(more)
    found = model.weights_
    assert found.max() <= 0.15 + 1e-9 and found[["BTC", "BTC wrapped"]].sum() <= 0.12 + 1e-9
    assert found["USDT"] == 0 and found.sum() == pytest.approx(1, abs=1e-9)
    assert model.risk_contributions()["hrp"].max() <= 0.2 + 1e-9


# ---------------------------------------------------------------- what is held already


def held(returns: pd.DataFrame, seed: int = 0) -> "pd.Series[float]":
    """Some weights that sum to 1."""
    return pd.Series(np.random.default_rng(seed).dirichlet(np.ones(returns.shape[1])), returns.columns)


def test_without_costs_what_is_held_does_not_matter() -> None:
    returns = noise(80, 6)
    model = HierarchicalRiskParity().fit(returns, previous_weights=held(returns), previous_order=list(returns.columns)[::-1])
    same(HierarchicalRiskParity().fit(returns).weights_, model.weights_)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 8), cost=st.floats(1e-5, 0.05))
@settings(max_examples=30)
def test_costs_move_weights_along_the_line_from_held_to_wanted(seed: int, n: int, cost: float) -> None:
    returns = noise(80, n, seed)
    start, target = held(returns, seed), weights(returns)
    moved = HierarchicalRiskParity(trading_cost=cost).fit(returns, previous_weights=start).weights_
    gap = target - start
    part = 0.0 if not gap.any() else float((moved - start) @ gap / (gap @ gap))
    assert -1e-12 <= part <= 1 + 1e-12
    same(start + part * gap, moved, 1e-12)
    assert moved.sum() == pytest.approx(1, abs=1e-12) and (moved >= 0).all()


def test_dearer_trades_are_smaller_trades() -> None:
    returns = noise(80, 6)
    start = held(returns)
    traded = [
        (HierarchicalRiskParity(trading_cost=c).fit(returns, previous_weights=start).weights_ - start).abs().sum()
        for c in (0.0, 0.0005, 0.005, 0.5)
    ]
    assert traded == sorted(traded, reverse=True) and traded[0] > traded[1] > traded[3] == pytest.approx(0, abs=1e-12)


def test_limits_hold_after_the_costs_are_counted() -> None:
    returns = noise(80, 6)
    start = pd.Series([0.9, 0.1, 0, 0, 0, 0], returns.columns)
    for cost in (0.0, 0.0005, 0.005, 0.5):
        model = HierarchicalRiskParity(trading_cost=cost, max_weight=0.25, max_risk_share=0.3).fit(
            returns, previous_weights=start
        )
        assert model.weights_.max() <= 0.25 + 1e-9
        assert model.risk_contributions()["hrp"].max() <= 0.3 + 1e-9


@given(seed=st.integers(0, 10_000), cost=st.sampled_from([0.0, 0.0005, 0.5]))
@settings(max_examples=15)
def test_limits_that_do_not_bind_change_no_trade(seed: int, cost: float) -> None:
    returns = noise(80, 6, seed)
    start = held(returns, seed)
    free, wide = (
        HierarchicalRiskParity(trading_cost=cost, **limits).fit(returns, previous_weights=start).weights_
        for limits in ({}, {"max_weight": 0.999, "max_risk_share": 1.0, "min_weight": 1e-9})
    )
    same(free, wide)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 10), cost=st.sampled_from([0.0001, 0.001, 0.01, 1.0]))
@settings(max_examples=20)
def test_limits_are_kept_from_any_book_at_any_cost(seed: int, n: int, cost: float) -> None:
    returns, rng = noise(80, n, seed), np.random.default_rng(seed)
    kept, covariance = rng.dirichlet(np.full(n, 2.0)), returns.cov()
    risk = kept * (covariance.to_numpy() @ kept) / (kept @ covariance.to_numpy() @ kept)
    options = box(kept, rng, list(returns.columns), risk)
    start = pd.Series(np.where(rng.random(n) < 0.5, 0.0, rng.dirichlet(np.full(n, 0.2))), returns.columns)
    model = HierarchicalRiskParity(trading_cost=cost, **options).fit(returns, previous_weights=start)
    assert excess(model.weights_, options, covariance) <= 1e-9


def test_an_old_order_is_kept_while_it_is_good_enough() -> None:
    returns = noise(80, 12)
    fresh = HierarchicalRiskParity().fit(returns)
    old = [*fresh.order_[6:], *fresh.order_[:6]]
    kept = HierarchicalRiskParity(order_tolerance=10.0).fit(returns, previous_order=old)
    assert kept.order_ == old
    strict = HierarchicalRiskParity(order_tolerance=1e-15).fit(returns, previous_order=sorted(returns, key=lambda a: a[::-1]))
    assert strict.order_ == fresh.order_ or strict.weights_ @ returns.cov() @ strict.weights_ <= (
        fresh.weights_ @ returns.cov() @ fresh.weights_
    ) * (1 + 1e-12)


def test_an_old_order_may_lack_new_assets_and_hold_gone_ones() -> None:
    returns = noise(80, 8)
    model = HierarchicalRiskParity(order_tolerance=10.0).fit(returns, previous_order=["GONE", "A003", "A001", "A000"])
    at = [model.order_.index(a) for a in ("A003", "A001", "A000")]
    assert at == sorted(at) and sorted(model.order_) == list(returns.columns)


def test_an_old_order_knows_a_copy_by_its_own_name() -> None:
    returns = with_copy(noise(80, 6), "A002")
    old = ["A002 copy 0", "A005", "A000", "A001", "A003", "A004"]
    model = HierarchicalRiskParity(order_tolerance=10.0, merge_correlated=0.999).fit(returns, previous_order=old)
    assert model.order_ == ["A002", *old[1:]]


# ---------------------------------------------------------------- without the matrix


@pytest.mark.filterwarnings("ignore:.*rows for.*assets", "ignore:.*move as one", "ignore:.*mirror each other")
@pytest.mark.parametrize("shape", [(60, 1), (60, 2), (60, 3), (60, 37), (2, 5), (3, 40), (252, 300)], ids=str)
def test_matrix_free_is_dense(shape: tuple[int, int]) -> None:
    returns = noise(*shape, 1)
    dense = HierarchicalRiskParity(distance="direct").fit(returns)
    free = HierarchicalRiskParity(distance="direct", algorithm="matrix_free").fit(returns)
    same(dense.weights_, free.weights_, 1e-12)
    assert free.order_ == dense.order_
    assert free.diversification_ratio_ == pytest.approx(dense.diversification_ratio_, rel=1e-9)


@pytest.mark.filterwarnings("ignore:.*rows for.*assets")
def test_matrix_free_is_dense_for_two_thousand_assets() -> None:
    returns = noise(252, 2000, 5)
    dense = HierarchicalRiskParity(distance="direct").fit(returns)
    free = HierarchicalRiskParity(distance="direct", algorithm="matrix_free").fit(returns)
    same(dense.weights_, free.weights_, 1e-12)


@pytest.mark.parametrize(
    "options",
    [{"distance": "paper"}, {"linkage": "ward"}, {"order": "optimal"}, {"covariance": LedoitWolf()}]
    + [{"codependence": "kendall"}, {"missing": "pairwise"}, {"merge_correlated": 0.999}],
    ids=lambda o: next(iter(o)),
)
def test_matrix_free_names_what_it_cannot_be_together_with(options: dict[str, object]) -> None:
    with pytest.raises(OptimizationError, match=rf"matrix_free.*{next(iter(options))}"):
        HierarchicalRiskParity(**{"distance": "direct", "algorithm": "matrix_free", **options}).fit(noise(60, 5))


# ---------------------------------------------------------------- everything at once

EVERYTHING = {
    "distance": "direct",
    "linkage": "average",
    "order": "optimal",
    "codependence": "spearman",
    "covariance": LedoitWolf(),
    "missing": "drop_assets",
    "treat_as_cash": ["USD"],
    "min_volatility": 1e-4,
    "merge_correlated": 0.999,
    "min_weight": {"A001": 0.02},
    "max_weight": 0.3,
    "groups": {"A000": "odd", "A002": "odd", "A003": ["odd", "three"]},
    "group_min": {"three": 0.05},
    "group_max": {"odd": 0.35},
    "max_risk_share": 0.25,
    "order_tolerance": 0.01,
    "trading_cost": 0.0002,
}


def everything(seed: int) -> tuple[pd.DataFrame, "pd.Series[float]", list[str]]:
    """Returns with a coin of cash, a quiet asset, a copy and one with holes; what is held; and an old order."""
    returns = with_copy(noise(120, 8, seed), "A004")
    rng = np.random.default_rng(seed)
    returns = returns.assign(USD=0.0, QUIET=rng.normal(0, 1e-6, 120), LATE=noise(120, 1, seed + 1)["A000"])
    returns.loc[:30, "LATE"] = np.nan
    before = pd.Series(rng.dirichlet(np.ones(8)), [f"A{i:03d}" for i in range(8)])
    return returns, before, [f"A{i:03d}" for i in rng.permutation(8)]


@pytest.mark.filterwarnings("ignore:.*left out")
@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_column_order_does_not_matter_with_every_option_on(seed: int) -> None:
    returns, before, old = everything(seed)
    fit = {"previous_weights": before, "previous_order": old}
    model = HierarchicalRiskParity(**EVERYTHING).fit(returns, **fit)
    assert model.weights_.sum() == pytest.approx(1, abs=1e-12)
    for shuffle in range(3):
        other = HierarchicalRiskParity(**EVERYTHING).fit(returns.sample(frac=1, axis=1, random_state=shuffle), **fit)
        same(model.weights_, other.weights_, 1e-12)
        assert other.order_ == model.order_
        assert {k: sorted(map(str, v)) for k, v in other.diagnostics_.items() if k in ("dropped", "cash", "merged")} == {
            k: sorted(map(str, v)) for k, v in model.diagnostics_.items() if k in ("dropped", "cash", "merged")
        }


@pytest.mark.filterwarnings("ignore:.*left out")
@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_explained_factors_multiply_to_the_weight_with_every_option_on(seed: int) -> None:
    returns, before, old = everything(seed)
    model = HierarchicalRiskParity(**EVERYTHING).fit(returns, previous_weights=before, previous_order=old)
    for asset in returns.columns.drop("LATE"):
        path = model.explain(asset)
        assert abs(path["share"].prod() - model.weights_[asset]) <= 1e-15
        assert path["weight"].iloc[-1] == pytest.approx(model.weights_[asset], abs=1e-15)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_diagnostics_say_what_was_done() -> None:
    returns, before, old = everything(0)
    model = HierarchicalRiskParity(**EVERYTHING).fit(returns, previous_weights=before, previous_order=old)
    done = model.diagnostics_
    assert done["dropped"] == ["LATE"] and sorted(done["cash"]) == ["QUIET", "USD"]
    assert done["merged"] == {"A004": ["A004", "A004 copy 0"]}
    assert model.weights_[["LATE", "USD", "QUIET"]].tolist() == [0, 0, 0]
    assert model.n_features_in_ == len(returns.columns) and list(model.weights_.index) == list(returns.columns)


# ---------------------------------------------------------------- refusals

WRONG = {
    "distance": ["nearest", None, 1],
    "linkage": ["WARD", None],
    "order": ["best", None, True],
    "codependence": ["tau"],
    "algorithm": ["fast", None],
    "missing": ["drop", None, True],
    "covariance": ["ledoit", LedoitWolf, np.eye(5), 5],
    "treat_as_cash": ["nope", ["A000", "nope"], 5],
    "min_volatility": [-0.01, np.nan, np.inf, "0.01", None, [0.1]],
    "merge_correlated": [0, -0.5, 1.5, np.nan, "0.9"],
    "min_weight": [-0.1, 1.1, "0.1", np.nan, None, {"nope": 0.1}, {"A000": -0.1}, {"A000": np.nan}],
    "max_weight": [-0.1, 1.1, "0.1", np.nan, None, {"nope": 0.1}, {"A000": 2}],
    "groups": [{"nope": "g"}, "g", [("A000", "g")]],
    "group_min": [{"nope": 0.1}],
    "group_max": [{"nope": 0.1}],
    "max_risk_share": [-0.1, 1.5, "0.2", np.nan],
    "order_tolerance": [-0.1, np.nan, "0.1", None],
    "trading_cost": [-0.001, np.nan, np.inf, "0.1", None],
    "risk_aversion": [0, -1.0, np.nan, "5"],
    "holding_periods": [0, -1.0, np.nan, "63"],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values], ids=str)
def test_a_bad_value_is_refused_by_the_name_of_its_parameter(name: str, value: object) -> None:
    returns = noise(60, 5)
    model = HierarchicalRiskParity(**{name: value})
    with pytest.raises((OptimizationError, DataError), match=rf"(?s){name}.*(: |use |give )"):
        model.fit(returns, previous_weights=held(returns), previous_order=list(returns.columns))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"A000": np.nan, "A001": 0.5}, id="NaN"),
        pytest.param({"A000": 1.5, "A001": -0.5}, id="short"),
        pytest.param({"A000": 1.5, "A001": 0.5}, id="sum above one"),
        pytest.param({"A000": np.inf}, id="infinite"),
        pytest.param({"A000": "half"}, id="text"),
        pytest.param(np.full(3, 1 / 3), id="too short"),
        pytest.param(pd.Series([0.5, 0.5], ["A000", "A000"]), id="twice"),
    ],
)
def test_impossible_previous_weights_are_refused(given: object) -> None:
    with pytest.raises((OptimizationError, DataError), match="previous_weights|held weights"):
        HierarchicalRiskParity(trading_cost=0.001).fit(noise(60, 5), previous_weights=given)


@pytest.mark.parametrize("given", ["A000", 5], ids=str)
def test_impossible_previous_orders_are_refused(given: object) -> None:
    with pytest.raises((OptimizationError, DataError), match="previous_order|previous order"):
        HierarchicalRiskParity(order_tolerance=0.1).fit(noise(60, 5), previous_order=given)


def test_one_asset_with_every_option() -> None:
    returns = noise(60, 1)
    options = {
        "missing": "drop_assets",
        "min_volatility": 1e-6,
        "merge_correlated": 0.999,
        "min_weight": 0.5,
        "max_weight": 1.0,
        "groups": {"A000": "all"},
        "group_min": {"all": 0.5},
        "max_risk_share": 1.0,
        "order_tolerance": 0.1,
        "trading_cost": 0.01,
        "covariance": LedoitWolf(),
        "codependence": "kendall",
    }
    model = HierarchicalRiskParity(**options).fit(returns, previous_weights={"A000": 1.0}, previous_order=["A000"])
    assert model.weights_.to_dict() == {"A000": pytest.approx(1.0, abs=1e-15)}
    assert model.explain("A000")["share"].prod() == pytest.approx(1.0, abs=1e-15)


def test_all_assets_cash_is_refused() -> None:
    returns = noise(60, 4)
    for options in ({"treat_as_cash": list(returns.columns)}, {"min_volatility": 0.9}):
        with pytest.raises(OptimizationError, match="every asset counts as cash: .*min_volatility"):
            HierarchicalRiskParity(**options).fit(returns)


def test_columns_without_a_name_are_refused() -> None:
    returns = noise(60, 4).set_axis([np.nan, 1.0, 2.0, 3.0], axis=1)
    with pytest.raises(DataError, match="name"):
        HierarchicalRiskParity(treat_as_cash=[2.0]).fit(returns)


def test_a_label_twice_among_the_cash_is_refused() -> None:
    returns = noise(60, 4).set_axis(["A", "B", "USD", "USD"], axis=1)
    with pytest.raises(DataError, match="USD more than once"):
        HierarchicalRiskParity(treat_as_cash=["USD"]).fit(returns)


@pytest.mark.parametrize("kind", ["object", "Float64", "float64[pyarrow]", "float32"])
def test_min_volatility_measures_every_kind_of_number(kind: str) -> None:
    returns = noise(60, 4).assign(USD=np.random.default_rng(0).normal(0, 1e-6, 60)).astype(kind)
    assert HierarchicalRiskParity(min_volatility=1e-4).fit(returns).diagnostics_["cash"] == ["USD"]


class Columns:
    """A frame of another library, as polars has it: names, columns by name, and a matrix that forgets what they were."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.columns, self.table = list(table.columns), table

    def __getitem__(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return np.column_stack([self[name].astype(float) for name in self.columns])


def test_frames_of_another_library_keep_their_names_and_kinds() -> None:
    returns = noise(60, 4)
    same(weights(returns), HierarchicalRiskParity().fit(Columns(returns)).weights_)
    dated = returns.assign(date=pd.date_range("2024-01-01", periods=60))
    with pytest.raises(DataError, match="date .*not real numbers"):
        HierarchicalRiskParity().fit(Columns(dated))


# ---------------------------------------------------------------- labels

DAYS = pd.date_range("2024-01-01", periods=6, tz="UTC")


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([5, 3, 1, 0, 2, 4], id="integers"),
        pytest.param(["b", 2, "a", 1, 3.5, "c"], id="mixed"),
        pytest.param(pd.MultiIndex.from_product([["spot", "perp"], ["BTC", "ETH", "XRP"]]), id="MultiIndex"),
        pytest.param(pd.Index([("a", 1), ("a", "b"), ("b", 1), "c", 4, ("e", 9)], tupleize_cols=False), id="tuples"),
        pytest.param(DAYS, id="Timestamps"),
        pytest.param(pd.CategoricalIndex(list("bacfed")), id="categories"),
        pytest.param(["é", "e", "ß", "₿", "a", "Ω"], id="letters"),
    ],
)
def test_labels_may_be_anything(labels: pd.Index) -> None:
    returns = noise(80, 6).set_axis(pd.Index(labels), axis=1)
    options = {"treat_as_cash": [returns.columns[2]], "merge_correlated": 0.999, "max_weight": 0.4}
    model = HierarchicalRiskParity(**options).fit(returns)
    assert model.weights_.index.equals(returns.columns) and model.weights_.iloc[2] == 0
    assert model.weights_.sum() == pytest.approx(1, abs=1e-12)
    shuffled = returns.iloc[:, [4, 2, 0, 5, 3, 1]]
    again = HierarchicalRiskParity(**options).fit(shuffled)
    np.testing.assert_allclose(again.weights_, model.weights_.iloc[[4, 2, 0, 5, 3, 1]], rtol=0, atol=1e-12)
    for asset, weight in model.weights_.items():
        assert abs(model.explain(asset)["share"].prod() - weight) <= 1e-15
