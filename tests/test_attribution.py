"""Attribution: every cut adds up to the total, against slow loops and golden values; rebalancing against a ledger."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.attribution import (
    Contributions,
    contributions,
    fill_contributions,
    held_weights,
    link_factors,
    log_ratio,
    on_dates,
    rebalancing_contribution,
    rebalancing_events,
    rebalancing_premium,
)
from portfolio_research.backtest import walk_forward
from portfolio_research.config import ConfigError, DataError
from portfolio_research.data import sample_prices

SEEDS = st.integers(0, 2**32 - 1)
CUTS = (
    ("asset",), ("strategy",), ("kind",), ("date",), ("month",), ("quarter",), ("year",), ("regime",),
    ("strategy", "month"), ("month", "strategy", "regime"), ("asset", "kind", "regime", "quarter"),
)  # fmt: skip


# --- linking ----------------------------------------------------------------------------------------------------------
def test_log_ratio_keeps_its_digits():
    x = np.array([1e-300, -1e-18, 1e-12, -1e-9, 1e-6])
    np.testing.assert_allclose(log_ratio(x), 1 - x / 2 + x * x / 3, rtol=4e-16)
    assert log_ratio(np.array([0.0, -0.0])).tolist() == [1, 1]
    np.testing.assert_allclose(log_ratio(np.array([np.e - 1, -0.5])), [1 / (np.e - 1), 2 * np.log(2)], rtol=1e-15)


def test_a_flat_total_links_with_the_plain_ratio():
    r = pd.Series([0.25, -0.2])
    np.testing.assert_allclose(link_factors(r), log_ratio(r.to_numpy()), rtol=1e-15)
    tiny = pd.Series([1e-9, -1e-9, 1e-17])
    np.testing.assert_allclose((tiny * link_factors(tiny)).sum(), np.expm1(np.log1p(tiny).sum()), rtol=1e-6, atol=1e-24)


def test_nearly_everything_lost_still_links():
    r = pd.Series([-0.999999] * 5)
    assert (r * link_factors(r)).sum() == pytest.approx(-1, rel=1e-12)


@pytest.mark.parametrize("bad", [-1.0, -1.5, np.nan, np.inf, -np.inf])
def test_what_cannot_be_linked_is_refused_by_its_date(bad):
    days = pd.date_range("2024-03-01", periods=3, tz="UTC")
    with pytest.raises(DataError, match="2024-03-02"):
        link_factors(pd.Series([0.1, bad, bad], days))


def test_golden_log_linked_contributions(test_data):
    (case,) = json.loads((test_data / "metrics_golden.json").read_text())["attribution"]
    days = pd.DatetimeIndex(case["periods"])
    r = pd.DataFrame(case["portfolio_returns"], days, case["segments"])
    got = contributions(r, pd.DataFrame(case["portfolio_weights"], days, case["segments"]))
    assert got.total == pytest.approx(case["portfolio_total"], rel=1e-9)
    linked = case["log_linked_contributions"]
    np.testing.assert_allclose(got.by("asset"), linked["by_segment"], rtol=1e-9)
    np.testing.assert_allclose(got.by("month"), linked["by_period"], rtol=1e-9)
    assert list(got.by("month").index) == [p[:7] for p in case["periods"]]


# --- every cut adds up ------------------------------------------------------------------------------------------------
def random_book(seed):
    """Arguments of a book with shorts, leverage, fees, funding, cash, quiet days, several strategies, ragged regimes."""
    rng = np.random.default_rng(seed)
    n, t = int(rng.integers(1, 8)), int(rng.integers(1, 200))
    days = pd.date_range("2023-11-20", periods=t, tz="UTC")
    assets = [f"A{i}" for i in range(n)]
    r = np.clip(rng.standard_t(3, (t, n)) * 10.0 ** rng.uniform(-7, -1.4), -0.5, 0.9) / (1 + n)
    r[rng.random(t) < 0.2] = 0.0
    r[rng.random((t, n)) < 0.1] = 0.0
    w = rng.normal(0.2, 0.6, (t, n)) * (rng.random((t, n)) < 0.8)
    returns = pd.DataFrame(np.where(w == 0, np.nan, r), days, assets)
    fee = rng.exponential(2e-4, (t, n)) * (rng.random((t, n)) < 0.3)
    options, style = {}, int(rng.integers(3))
    weights = pd.DataFrame(w, days, assets)
    if style == 1:
        options["strategies"] = {a: f"s{rng.integers(3)}" for a in assets}
    if style == 2:
        share = rng.dirichlet(np.ones(3), n).T
        weights = pd.concat({f"s{i}": weights * s for i, s in enumerate(share)}, axis=1)
    if rng.random() < 0.7:
        by_asset = pd.DataFrame(fee, days, assets)
        options["costs"] = by_asset if rng.random() < 0.5 else by_asset.sum(axis=1)
    if rng.random() < 0.7:
        rates = pd.DataFrame(rng.normal(1e-4, 3e-4, weights.shape), days, weights.columns)
        options["funding"] = weights * rates
    if rng.random() < 0.7:
        options["cash_return"] = 1e-4 if rng.random() < 0.5 else pd.Series(rng.normal(1e-4, 1e-5, t), days)
    switches = np.cumsum(rng.random(t) < 0.1) % 3
    options["labels"] = {"regime": pd.Series(np.array(["low", "high", "normal"], dtype=object)[switches], days)}
    return returns, weights, options


def check_adds_up(seed, cuts):
    returns, weights, options = random_book(seed)
    try:
        got = contributions(returns, weights, **options)
    except DataError as error:
        assert "linking needs each above -1" in str(error)  # a book with leverage that was ruined
        return
    compound = np.prod(1 + got.returns.to_numpy()) - 1
    np.testing.assert_allclose(got.total, compound, rtol=1e-10, atol=1e-13)
    for cut in cuts:
        residual = abs(got.by(*cut).sum() - got.total)
        assert residual <= 1e-12 * max(1.0, abs(got.total)), (seed, cut)
        assert residual <= 1e-12 * abs(got.total) or abs(got.total) <= 1e-3, (seed, cut)
    table = got.pivot(["asset", "kind"], "regime")
    assert abs(table.to_numpy().sum() - got.total) <= 1e-12 * max(1.0, abs(got.total)), seed


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_every_cut_adds_up_to_the_total(seed):
    check_adds_up(seed, CUTS)


@pytest.mark.no_cover
def test_every_cut_of_a_thousand_books_adds_up():
    for seed in range(1000):
        check_adds_up(seed, CUTS[-1:])


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_return_of_a_period_is_the_books(seed):
    returns, weights, options = random_book(seed)
    w = weights.T.groupby(level=-1).sum().T
    expected = (w * returns.fillna(0.0)[w.columns]).sum(axis=1)
    for charge in ("costs", "funding"):
        if charge in options:
            expected -= options[charge] if options[charge].ndim == 1 else options[charge].sum(axis=1)
    expected += (1 - w.sum(axis=1)) * options.get("cash_return", 0.0)
    if (expected > -0.999).all():
        got = contributions(returns, weights, **options).returns
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-14)


def long_table(got):
    """The same as a long frame, for pandas to sum."""
    table = pd.DataFrame(got.linked, got.dates, got.items).stack([0, 1, 2], future_stack=True).rename("x").reset_index()
    table = table.rename(columns={table.columns[0]: "date"})
    table["month"] = table["date"].dt.strftime("%Y-%m")
    table["regime"] = table["date"].map(got.labels["regime"])
    return table


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_cuts_are_those_of_a_long_table(seed):
    returns, weights, options = random_book(seed)
    try:
        got = contributions(returns, weights, **options)
    except DataError:
        return
    table = long_table(got)
    for cut in (["month"], ["regime", "asset"], ["kind", "month", "strategy"]):
        expected = table.groupby(cut)["x"].sum()
        same = got.by(*cut).to_dict()
        assert same.keys() == expected.to_dict().keys()
        np.testing.assert_allclose(expected, [same[key] for key in expected.index], rtol=1e-9, atol=1e-13)
    expected = table.pivot_table("x", ["strategy", "kind"], "regime", "sum", fill_value=0.0)
    same = got.pivot(["strategy", "kind"], "regime")
    assert same.shape == expected.shape
    np.testing.assert_allclose(same.loc[expected.index, expected.columns], expected, rtol=1e-9, atol=1e-13)


DAYS = pd.date_range("2024-01-30", periods=4, tz="UTC")
R = pd.DataFrame({"A": [0.1, -0.1, 0.0, 0.02], "B": [0.0, 0.05, 0.0, -0.01]}, DAYS)
HALF = {"A": 0.5, "B": 0.5}


def test_signs_and_kinds_by_hand():
    got = contributions(R.iloc[:1], {"A": -1.0, "B": 0.5}, costs=pd.Series(0.01, DAYS), cash_return=0.001,
                        funding=pd.DataFrame({"A": [-0.002]}, DAYS[:1]))
    assert got.by("kind").to_dict() == pytest.approx({"price": -0.1, "cost": -0.01, "funding": 0.002, "cash": 0.0015})
    assert got.by("asset").to_dict() == pytest.approx({"A": -0.098, "B": 0, "unallocated": -0.01, "cash": 0.0015})
    assert got.by("strategy").to_dict() == pytest.approx({"portfolio": got.total})
    assert got.total == pytest.approx(-0.1065) and repr(got) == f"Contributions(total={got.total})"


def test_order_and_shape_are_as_asked():
    regime = pd.Series(["b", "a", "b", "c"], DAYS, name="regime")
    got = contributions(R, HALF, labels={"regime": regime})
    assert got.values.shape == got.linked.shape == (4, 2) and got.factors.shape == (4,)
    assert list(got.by("regime").index) == ["b", "a", "c"]  # as they appear
    assert list(got.by(regime.astype(pd.CategoricalDtype(["c", "a", "b", "never"]))).index) == ["c", "a", "b"]
    assert list(got.by("month").index) == ["2024-01", "2024-02"] and list(got.by("quarter").index) == ["2024Q1"]
    assert list(got.by("year").index) == ["2024"] and got.by("date").index.equals(DAYS)
    assert list(got.by("asset", "month").index) == [(a, m) for a in "AB" for m in ("2024-01", "2024-02")]
    table = got.pivot("month", "regime")
    assert table.shape == (2, 3) and table.loc["2024-02", "a"] == 0 and table.dtypes.eq(float).all()
    assert table.index.name == "month" and table.columns.name == "regime"
    by_hand = regime.replace({"b": "x", "a": "x"}).rename("mine")
    assert got.by(by_hand, "asset").index.names == ["mine", "asset"]


def test_labels_may_cover_more_dates_and_take_any_name():
    longer = pd.Series(range(10), pd.date_range("2024-01-28", periods=10, tz="UTC"))
    assert list(contributions(R, HALF).by(longer).index) == [2, 3, 4, 5]
    desk = pd.Series(["x", "y", "x", "y"], DAYS)
    assert list(contributions(R, HALF, labels={"asset": desk}).by("asset").index) == ["x", "y"]  # the user's word goes


def test_strategies_may_disagree_on_an_asset():
    both = pd.DataFrame({("up", "A"): [0.5] * 4, ("down", "A"): [-0.5] * 4, ("down", "B"): [0.3] * 4}, DAYS)
    got = contributions(R, both, costs=pd.DataFrame({"A": [0.001] * 4}, DAYS))
    first = got.pivot("date", ["strategy", "kind"]).iloc[0] / got.factors[0]
    expected = {("up", "price"): 0.05, ("down", "price"): -0.05, ("unallocated", "cost"): -0.001}
    assert first.to_dict() == pytest.approx(expected)
    swapped = both.swaplevel(axis=1).rename_axis(["asset", "strategy"], axis=1)
    pd.testing.assert_series_equal(contributions(R, swapped).by("strategy"), contributions(R, both).by("strategy"))
    constant = contributions(R, both.iloc[0])
    np.testing.assert_allclose(constant.by("strategy"), contributions(R, both).by("strategy"))


def test_what_is_not_held_needs_no_return_and_no_column():
    gaps = R.assign(B=np.nan)
    assert contributions(gaps, {"A": 1.0, "B": 0.0, "C": 0.0}).by("asset").to_dict() == pytest.approx(
        {"A": contributions(R, {"A": 1.0}).total, "B": 0, "C": 0})
    late = pd.DataFrame({"A": 0.5, "B": [0.0, 0.0, 0.5, 0.5]}, DAYS)
    contributions(R.assign(B=[np.nan, np.nan, 0.1, 0.1]), late)


def test_rows_are_matched_by_date():
    shuffled = pd.DataFrame({"A": [1.0, 2.0, 3.0, 4.0], "B": 0.0}, DAYS).iloc[[2, 0, 3, 1]]
    np.testing.assert_allclose(contributions(R, shuffled).values[:, 0], R["A"] * [1, 2, 3, 4])


def test_tables_on_dates():
    constant = on_dates(pd.Series([1, 2], ["A", "B"]), DAYS, "weights")
    assert constant.shape == (4, 2) and constant.dtypes.eq(float).all() and constant.index.equals(DAYS)
    assert on_dates({"A": 1.0}, DAYS[:0], "weights").shape == (0, 1) and on_dates({}, DAYS, "weights").shape == (4, 0)
    gap = pd.DataFrame({"A": pd.array([1, None], dtype="Int64")}, DAYS[:2])
    assert np.isnan(on_dates(gap, DAYS[:2], "returns", gaps=True).iloc[1, 0])
    with pytest.raises(DataError, match="returns of A on 2024-01-31 .* nan"):
        on_dates(gap, DAYS[:2], "returns")


def test_nothing_held_nothing_earned_and_no_periods():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idle = contributions(R, {"A": 0.0})
        assert idle.total == 0 and not np.signbit(idle.by("asset", "month").to_numpy()).any()
        empty = contributions(R.iloc[:0], HALF, labels={"regime": pd.Series(dtype=object)})
        assert empty.total == 0 and empty.by("month").empty and empty.pivot("month", "asset").empty
        assert empty.by("regime", "asset").empty
        assert contributions(R, pd.DataFrame(index=DAYS)).total == 0


def test_zero_return_days_show_what_cancelled():
    flat = pd.DataFrame({"A": [0.1, 0.0], "B": [-0.1, 0.0]}, DAYS[:2])
    got = contributions(flat, HALF)
    assert got.total == 0 and got.by("asset").to_dict() == {"A": 0.05, "B": -0.05}


def test_periods_need_not_be_dates():
    got = contributions(R.reset_index(drop=True), HALF)
    assert len(got.by("date", "asset")) == 8
    with pytest.raises(DataError, match="'month' needs dates"):
        got.by("month")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: contributions(R, {"A": 1.0, "XRP": 0.1}), DataError, "no returns of XRP"),
        (lambda: contributions(R.mask(R == 0.05), HALF), DataError, "B is held and has no return on 2024-01-31"),
        (lambda: contributions(R.replace(0.05, np.inf), {"A": 1.0}), DataError, "returns of B on 2024-01-31 .* are inf"),
        (lambda: contributions(R, {"A": 11.0}), DataError, "return on 2024-01-31 .* is -1.1"),
        (lambda: contributions(R, {"A": np.nan}), DataError, "weights of A"),
        (lambda: contributions(R, {"A": "all"}), DataError, "not a number"),
        (lambda: contributions(R, pd.DataFrame({"A": [1.0, np.nan, 1, 1]}, DAYS)), DataError, "A on 2024-01-31"),
        (lambda: contributions(R, pd.DataFrame({"A": 1.0}, DAYS[1:])), DataError, "weights have no row on 2024-01-30"),
        (lambda: contributions(R, pd.DataFrame({"A": 1.0}, DAYS.tz_localize(None))), DataError, "no row on 2024-01-30"),
        (lambda: contributions(R, pd.DataFrame({"A": "x"}, DAYS)), DataError, "not a number"),
        (lambda: contributions(R, HALF, costs=pd.Series(0.1, DAYS[:2])), DataError, "costs have no row on 2024-02-01"),
        (lambda: contributions(R, HALF, funding=pd.DataFrame({"A": np.nan}, DAYS)), DataError, "funding of A on"),
        (lambda: contributions(R, HALF, cash_return=np.inf), DataError, "cash returns of cash"),
        (lambda: contributions(R, HALF, strategies={"A": "s"}), DataError, "no strategy for B"),
        (lambda: contributions(R[["A", "A"]], {"A": 1.0}), DataError, "returns have A more than once"),
        (lambda: contributions(R.iloc[[0, 0]], {"A": 1.0}), DataError, "returns have 2024-01-30 .* more than once"),
        (lambda: contributions(R, pd.Series([0.1, 0.2], ["A", "A"])), DataError, "weights have A more than once"),
        (lambda: contributions(R, pd.DataFrame({("s", "A"): 1.0}, DAYS), strategies={}), ConfigError, "already"),
        (lambda: contributions(R, pd.DataFrame({("a", "s", "A"): 1.0}, DAYS)), DataError, "3 levels"),
        (lambda: contributions(R, HALF).by("moth"), ConfigError, "did you mean month"),
        (lambda: contributions(R, HALF).by(), ConfigError, "at least one label"),
        (lambda: contributions(R, HALF).pivot("asset", "asset"), ConfigError, "only once"),
        (lambda: contributions(R, HALF).by(pd.Series("x", DAYS[1:], name="desk")), DataError,
         "desk has no label on 2024-01-30 .*1 such"),
        (lambda: contributions(R, HALF).by(pd.Series(["x", None, np.nan, "y"], DAYS)), DataError, "2024-01-31 .*2 such"),
        (lambda: contributions(R, HALF).by(pd.Series("x", DAYS[[0, 0, 1, 2, 3]])), DataError, "more than one label"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_back_test_is_explained_to_the_last_digit():
    prices = sample_prices().iloc[-400:, :6]
    done = walk_forward(prices, step=21, cost=0.001)
    nav, close = done.nav, prices.loc[done.nav.index]
    units = (done.amounts / close.loc[done.amounts.index]).reindex(close.index).fillna(0.0).cumsum()
    weights = (units * close).div(nav, axis=0).shift(fill_value=0.0)
    costs = done.costs.reindex(nav.index).fillna(0.0) / nav.shift(fill_value=1.0)
    got = contributions(close.pct_change().fillna(0.0), weights, costs=costs)
    np.testing.assert_allclose(got.returns, done.returns, rtol=1e-9, atol=1e-13)
    assert got.total == pytest.approx(nav.iloc[-1] - 1, rel=1e-12) and got.by("kind")["cost"] < 0
    assert isinstance(got, Contributions)


# --- fills ------------------------------------------------------------------------------------------------------------
def random_desk(seed):
    """Closes of three assets, fills at odd hours and prices, longs and shorts."""
    rng = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=40, tz="UTC")
    closes = pd.DataFrame(100 * np.exp(np.cumsum(rng.normal(0, 0.03, (40, 3)), axis=0)), days, ["A", "B", "C"])
    n = int(rng.integers(1, 30))
    rows, columns = rng.integers(0, 40, n), rng.integers(0, 3, n)
    fills = pd.DataFrame({
        "date": days[rows] + pd.to_timedelta(rng.integers(0, 86_399, n), "s"), "asset": closes.columns[columns],
        "size": rng.normal(0, 3, n), "price": closes.to_numpy()[rows, columns] * (1 + rng.normal(0, 0.002, n)),
        "fee": rng.uniform(0, 2, n),
    })  # fmt: skip
    return closes, fills


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_fills_explain_the_equity_of_a_ledger(seed):
    closes, fills = random_desk(seed)
    equity, capital = [], 10_000.0
    for day, row in closes.iterrows():
        done = fills[fills["date"] < day + pd.Timedelta(days=1)]
        cash = capital - (done["size"] * done["price"] + done["fee"]).sum()
        equity.append(cash + sum(done.loc[done["asset"] == a, "size"].sum() * row[a] for a in closes))
    made = fill_contributions(closes, fills, capital)
    np.testing.assert_allclose(made.returns, np.diff(np.r_[capital, equity]) / np.r_[capital, equity[:-1]], rtol=1e-9, atol=1e-13)
    assert made.total == pytest.approx(equity[-1] / capital - 1, rel=1e-11, abs=1e-13)
    for cut in (("asset",), ("kind", "month"), ("asset", "kind")):
        assert made.by(*cut).sum() == pytest.approx(made.total, rel=1e-12, abs=1e-14)


def test_fills_that_closes_do_not_know_are_named():
    closes, fills = random_desk(1)
    assert fill_contributions(closes, fills.iloc[:0], 1.0).total == 0
    early = fills.assign(date=pd.Timestamp("2023-12-31", tz="UTC"))
    for bad, words in ((fills.assign(asset="D"), "asset D"), (early, "date 2023-12-31"), (fills.drop(columns="fee"), "column fee")):
        with pytest.raises(DataError, match=words):
            fill_contributions(closes, bad, 1.0)


# --- rebalancing ------------------------------------------------------------------------------------------------------
def matrix(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(0, 0.03, (n, 3)), pd.date_range("2024-01-01", periods=n, tz="UTC"), list("ABC"))


def slow_rebalancing(r, w, every, cost):
    """The same by holding units in a ledger."""
    target, wealth = pd.Series(w), 1.0
    values, cash, out = target * wealth, (1 - target.sum()) * wealth, []
    for t, (_, row) in enumerate(r.iterrows()):
        values = values * (1 + row[target.index])
        wealth = values.sum() + cash
        out.append(wealth - 1)
        if (t + 1) % every == 0 and t + 1 < len(r):
            wealth -= cost * (target * wealth - values).abs().sum()
            values, cash = target * wealth, (1 - target.sum()) * wealth
    return out


@pytest.mark.parametrize("every", [1, 7, 60, 100])
@pytest.mark.parametrize("weights", [{"A": 0.5, "B": 0.3, "C": 0.2}, {"A": 0.4, "C": 0.0}, {"A": 1.2, "C": -0.2}])
def test_rebalanced_and_drifting_agree_with_a_ledger(every, weights):
    got = rebalancing_contribution(matrix(), weights, every=every, cost=0.002)
    close = {"rtol": 1e-10, "atol": 1e-13}
    np.testing.assert_allclose(got["rebalanced"], slow_rebalancing(matrix(), weights, every, 0.002), **close)
    np.testing.assert_allclose(got["drifting"], slow_rebalancing(matrix(), weights, 10**9, 0.0), **close)
    np.testing.assert_allclose(got["contribution"], got["rebalanced"] - got["drifting"])
    if every >= 60:
        np.testing.assert_allclose(got["contribution"], 0, atol=1e-13)


def test_restoring_every_period_is_the_weighted_return():
    w = pd.Series({"A": 0.2, "B": 0.3, "C": 0.5})
    got = rebalancing_contribution(matrix(), w)["rebalanced"]
    np.testing.assert_allclose(got, (1 + matrix() @ w).cumprod() - 1)


@pytest.mark.parametrize("every", [1, 7, 60, None])
def test_held_weights_are_those_of_a_ledger(every):
    w, r = pd.Series({"A": 0.9, "B": 0.0, "C": -0.2}), matrix()
    got = held_weights(r, w, every=every)
    assert list(got) == ["A", "C"] and got.index.equals(r.index)
    values, cash = w.to_numpy(), 0.3
    for t, row in enumerate(r.to_numpy()):
        if every and t % every == 0:
            wealth = values.sum() + cash
            values, cash = w.to_numpy() * wealth, 0.3 * wealth
        np.testing.assert_allclose(got.iloc[t], (values / (values.sum() + cash))[[0, 2]], rtol=1e-10)
        values = values * (1 + row)
    assert held_weights(matrix(0), w, every=every).empty


def test_costs_only_cost():
    free, dear = (rebalancing_contribution(matrix(), {"A": 0.5, "B": 0.5}, cost=c) for c in (0.0, 0.01))
    assert dear["rebalanced"].iloc[-1] < free["rebalanced"].iloc[-1] and dear["drifting"].equals(free["drifting"])


def test_no_periods_no_rows():
    assert rebalancing_contribution(matrix(0), {"A": 1.0}).empty


def test_a_book_worth_nothing_is_refused_by_its_date():
    crash = pd.DataFrame({"A": [0.1, -0.6, 0.1]}, DAYS[:3])
    for function in (rebalancing_contribution, rebalancing_events):
        with pytest.raises(DataError, match="worth nothing on 2024-01-31"):
            function(crash, {"A": 2.0})
    drifting = pd.DataFrame({"A": [1.0, 1.0, 1.0], "B": [0.0, 0.0, 0.0]}, DAYS[:3])
    with pytest.raises(DataError, match="worth nothing on 2024-01-31"):
        rebalancing_contribution(drifting, {"A": -0.4, "B": 1.4})


def random_restoring(seed):
    rng = np.random.default_rng(seed)
    t, n = int(rng.integers(1, 120)), int(rng.integers(1, 6))
    r = pd.DataFrame(np.clip(rng.normal(0, 0.03, (t, n)), -0.3, 0.3), pd.date_range("2024", periods=t, tz="UTC"))
    w = pd.Series(rng.dirichlet(np.ones(n)) * rng.uniform(0.3, 1.0))
    return r, w, {"every": int(rng.integers(1, 30)), "cost": float(rng.choice([0.0, 0.002]))}


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_events_telescope_to_the_contribution(seed):
    r, w, how = random_restoring(seed)
    if seed % 3 == 0:
        w.iloc[0] *= -0.3  # a short position
    events, whole = rebalancing_events(r, w, **how), rebalancing_contribution(r, w, **how)["contribution"].iloc[-1]
    scale = max(1.0, np.abs(events["net"]).sum())
    assert abs(events["net"].sum() - whole) <= 1e-12 * scale
    np.testing.assert_allclose(events["gross"] - events["cost"], events["net"], rtol=1e-12, atol=1e-14)
    assert len(events) == (len(r) - 1) // how["every"] and (seed % 3 == 0 or (events["cost"] >= 0).all())


def stopping(r, w, every, cost, stop):
    """Final return of the book that restores at its first `stop` events and then drifts; and its last fee."""
    values, cash, fee = w.to_numpy(), 1 - w.sum(), 0.0
    for t, row in enumerate(r.to_numpy()):
        values = values * (1 + row)
        if (t + 1) % every == 0 and t + 1 < len(r) and (t + 1) // every <= stop:
            wealth = values.sum() + cash
            fee = cost * np.abs(w * wealth - values).sum()
            values, cash = w.to_numpy() * (wealth - fee), (1 - w.sum()) * (wealth - fee)
    return values.sum() + cash - 1, fee


@pytest.mark.parametrize("seed", range(5))
def test_an_event_is_worth_what_stopping_before_it_would_have_cost(seed):
    r, w, how = random_restoring(seed)
    events = rebalancing_events(r, w, **how)
    totals = [stopping(r, w, **how, stop=k)[0] for k in range(len(events) + 1)]
    np.testing.assert_allclose(events["net"], np.diff(totals), rtol=1e-9, atol=1e-13)
    for k, day in enumerate(events.index[:3], 1):
        fee, place = stopping(r, w, **how, stop=k)[1], r.index.get_loc(day)
        onward = (1 + r.iloc[place + 1 :]).prod() @ w + 1 - w.sum()
        assert events["cost"].iloc[k - 1] == pytest.approx(fee * onward, rel=1e-9, abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_premium_is_harvest_less_dispersion_less_cost(seed):
    r, w, how = random_restoring(seed)
    got, whole = rebalancing_premium(r, w, **how)["value"], rebalancing_contribution(r, w, **how).iloc[-1]
    growth = np.log1p(whole["rebalanced"]) - np.log1p(whole["drifting"])
    np.testing.assert_allclose(got["premium"], growth, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got["harvest"] - got["dispersion"] - got["cost"], got["premium"], atol=1e-12)
    assert (got[["harvest", "dispersion", "cost"]] >= -1e-12).all()


def test_expected_harvest_is_the_formula():
    r, w = matrix(), pd.Series({"A": 0.5, "B": 0.2, "C": 0.1})
    cov = r.cov().to_numpy()
    expected = 0.5 * (w @ np.diag(cov) - w @ cov @ w) * len(r)
    assert rebalancing_premium(r, w)["value"]["expected_harvest"] == pytest.approx(expected, rel=1e-12)


def test_expected_harvest_is_found_in_the_long_run():
    value = rebalancing_premium(matrix(5000), {"A": 0.4, "B": 0.3, "C": 0.3})["value"]
    assert value["harvest"] == pytest.approx(value["expected_harvest"], rel=0.02)


def test_the_range_is_that_of_the_resampled_histories():
    r, w, rng = matrix(), {"A": 0.5, "B": 0.5}, np.random.default_rng(1)
    rows = [rng.integers(len(r), size=len(r)) for _ in range(50)]
    got = rebalancing_premium(r, w, every=5, resamples=iter(rows), level=0.8)
    each = [rebalancing_premium(r.iloc[x].set_axis(r.index), w, every=5)["value"] for x in rows]
    np.testing.assert_allclose(got["low"], pd.DataFrame(each).quantile(0.1), rtol=1e-9)
    np.testing.assert_allclose(got["high"], pd.DataFrame(each).quantile(0.9), rtol=1e-9)
    assert rebalancing_premium(r, w, resamples=[])[["low", "high"]].isna().all(axis=None)


def test_premium_of_little_or_of_ruin_is_unknown_and_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = rebalancing_premium(matrix(1), {"A": 0.5, "B": 0.5})["value"]
        assert one["premium"] == pytest.approx(0, abs=1e-15) and np.isnan(one["expected_harvest"])
        none = rebalancing_premium(matrix(0), {"A": 1.0})["value"]
        assert none["premium"] == 0 and rebalancing_events(matrix(0), {"A": 1.0}).empty
        ruin = rebalancing_premium(pd.DataFrame({"A": [-1.0, 0.0], "B": [0.1, 0.1]}), {"A": 0.5, "B": 0.5})["value"]
        assert ruin[["harvest", "dispersion"]].isna().all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rebalancing_premium(matrix(), {"A": 1.0}, level=1.0), ConfigError, "level"),
        (lambda: rebalancing_events(matrix(), {"A": 1.0}, every=1.5), ConfigError, "every"),
        (lambda: rebalancing_events(matrix(), {"A": 1.0}, cost=-0.1), ConfigError, "cost"),
        (lambda: rebalancing_contribution(matrix(), {"XRP": 1.0}), DataError, "no returns of XRP"),
        (lambda: rebalancing_contribution(matrix().mask(matrix() > 0.05), {"A": 1, "B": 1}), DataError, "on 2024"),
        (lambda: rebalancing_contribution(matrix(), {"A": 1.0}, every=0), ConfigError, "every"),
        (lambda: rebalancing_contribution(matrix(), {"A": 1.0}, cost=1.0), ConfigError, "cost"),
        (lambda: rebalancing_contribution(matrix().replace(matrix().iloc[0, 0], np.inf), {"A": 1}), DataError, "A on 2024"),
    ],
)
def test_bad_input_names_the_culprit(call, error, words):
    with pytest.raises(error, match=words):
        call()
