"""Brinson: golden values, exact sums with either linking, near-equal portfolios, what is not held, refusals."""
import json
import warnings
from decimal import Decimal, localcontext
from fractions import Fraction
from math import prod

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.attribution import contributions, held_weights, rebalancing_contribution
from portfolio_research.brinson import ActiveContributions, active_contributions, brinson_fachler, to_segments
from portfolio_research.config import ConfigError, DataError

LINKINGS = ("carino", "menchero")
EFFECTS = ["allocation", "selection", "interaction"]


@pytest.fixture(scope="module")
def golden(test_data):
    (case,) = json.loads((test_data / "metrics_golden.json").read_text())["attribution"]
    days = pd.DatetimeIndex(case["periods"])
    names = ("portfolio_weights", "portfolio_returns", "benchmark_weights", "benchmark_returns")
    return case, [pd.DataFrame(case[name], days, case["segments"]) for name in names]


@pytest.mark.parametrize("linking", LINKINGS)
def test_golden_values(golden, linking):
    case, tables = golden
    got = brinson_fachler(*tables, linking=linking)
    single = np.stack([case["single_period_effects"][effect] for effect in EFFECTS], axis=1)
    np.testing.assert_allclose(got.values.reshape(single.shape), single, rtol=1e-9, atol=1e-17)
    linked = got.pivot("effect", "segment")
    for effect in EFFECTS:
        np.testing.assert_allclose(linked.loc[effect], case[linking][effect], rtol=1e-9)
    np.testing.assert_allclose(got.by("date"), case[linking]["by_period"], rtol=1e-9)
    totals = (got.portfolio_total, got.benchmark_total, got.total)
    np.testing.assert_allclose(totals, [case[f"{who}_total"] for who in ("portfolio", "benchmark", "active")], rtol=1e-9)


def random_case(seed):
    """Weights, shorts and leverage too, that need not sum to one; returns of any scale, some flat, some not held."""
    rng = np.random.default_rng(seed)
    t, s = int(rng.integers(1, 60)), int(rng.integers(1, 7))
    days, names = pd.date_range("2020-01-31", periods=t, freq="D", tz="UTC"), [f"s{i}" for i in range(s)]
    scale = 10.0 ** rng.uniform(-9, -1.3)
    wp, wb = rng.normal(1 / s, 0.3, (t, s)), rng.dirichlet(np.ones(s), t)
    wp[rng.random((t, s)) < 0.2] = 0.0
    if rng.random() < 0.4:
        wp /= np.where(np.abs(wp.sum(axis=1)) < 0.2, np.inf, wp.sum(axis=1))[:, None]
    rb = rng.normal(0, scale, (t, s))
    rp = rb + rng.normal(0, scale * 10.0 ** rng.uniform(-6, 0), (t, s))
    if rng.random() < 0.3:
        wp, rp = wb + (rng.random(t) < 0.5)[:, None] * (wp - wb), rb.copy()
    rp = np.where(wp == 0, np.nan, rp)
    return [pd.DataFrame(x, days, names) for x in (wp, rp, wb, rb)]


def check_sums(seed):
    tables = random_case(seed)
    wp, rp, wb, rb = (x.fillna(0.0) for x in tables)
    mine, market = (wp * rp).sum(axis=1), (wb * rb).sum(axis=1)
    if (mine <= -0.99).any():
        return
    for linking in LINKINGS:
        got = brinson_fachler(*tables, linking=linking)
        np.testing.assert_allclose(got.returns, mine - market, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(got.total, (1 + mine).prod() - (1 + market).prod(), rtol=1e-9, atol=1e-13)
        parts = np.abs(got.linked).sum()
        for cut in (got.by("effect"), got.by("segment", "month"), got.pivot("date", "effect").to_numpy()):
            assert abs(cut.sum() - got.total) <= 1e-12 * min(1.0, max(parts, abs(got.total))) + 1e-300, (seed, linking)
        assert got.portfolio_total - got.benchmark_total == pytest.approx(got.total, rel=1e-9, abs=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_effects_sum_to_the_active_return(seed):
    check_sums(seed)


@pytest.mark.no_cover
def test_effects_of_many_books_sum():
    for seed in range(100):
        check_sums(seed)


DAYS = pd.date_range("2024-01-01", periods=3, tz="UTC")
WB = pd.DataFrame({"a": [0.6, 0.5, 0.5], "b": [0.4, 0.5, 0.5]}, DAYS)
RB = pd.DataFrame({"a": [0.02, -0.01, 0.03], "b": [0.0, 0.04, -0.02]}, DAYS)
WP = pd.DataFrame({"a": [0.5, 0.5, 0.9], "b": [0.5, 0.5, 0.1]}, DAYS)
RP = RB + 0.01


def test_one_period_by_hand():
    got = brinson_fachler(WP[:1], RP[:1], WB[:1], RB[:1])
    assert isinstance(got, ActiveContributions) and got.values.shape == (1, 6)
    assert got.by("effect", "segment").to_dict() == pytest.approx({
        ("allocation", "a"): -0.1 * (0.02 - 0.012), ("allocation", "b"): 0.1 * (0 - 0.012),
        ("selection", "a"): 0.006, ("selection", "b"): 0.004, ("interaction", "a"): -0.001, ("interaction", "b"): 0.001,
    })  # fmt: skip
    assert got.total == pytest.approx(0.01 - 0.002)


@pytest.mark.parametrize("linking", LINKINGS)
def test_the_benchmark_itself_has_no_active_return(linking):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = brinson_fachler(WB, RB, WB, RB, linking=linking)
        assert got.total == 0 and (got.linked == 0).all() and not np.signbit(got.by("effect").to_numpy()).any()
        assert np.isfinite(got.factors).all() and got.portfolio_total == got.benchmark_total
        empty = brinson_fachler(WB[:0], RB[:0], WB[:0], RB[:0], linking=linking)
        assert empty.total == 0 and empty.by("month", "effect").empty


@pytest.mark.parametrize("size", [1e-15, 1e-12, 1e-8, 1e-200])
def test_near_equal_portfolios_keep_their_digits(size):
    bets = np.array([1.0, -0.5, 0.25]) * size
    wp = pd.DataFrame({"a": bets, "b": -bets}, DAYS)  # on top of the benchmark: exact even at 1e-200
    zero = pd.DataFrame(0.0, DAYS, ["a", "b"])
    got = brinson_fachler(wp, RB, zero, RB)  # against cash, whose return is 0
    exact = sum(Fraction(b) * (Fraction(x) - Fraction(y)) for b, (x, y) in zip(bets, RB.to_numpy(), strict=True))
    assert got.total == pytest.approx(float(exact), rel=max(4 * size, 1e-14))
    for linking in LINKINGS:
        again = brinson_fachler(wp, RB, zero, RB, linking=linking)
        assert again.by("effect").sum() == pytest.approx(got.total, rel=1e-13, abs=0)
        np.testing.assert_allclose(again.factors, 1.0, atol=max(4 * size, 1e-12))


def test_factors_of_near_equal_portfolios_are_those_of_equal_ones():
    nudge = RB + pd.DataFrame({"a": [1e-15, -2e-15, 1e-15], "b": 0.0}, DAYS)
    market = (WB * RB).sum(axis=1).to_numpy()
    whole = np.prod(1 + market)
    near = brinson_fachler(WB, nudge, WB, RB).factors
    np.testing.assert_allclose(near, whole / (1 + market), rtol=1e-13)
    common = brinson_fachler(WB, nudge, WB, RB, linking="menchero").factors
    np.testing.assert_allclose(common, whole ** (2 / 3), rtol=0.2)


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 0.05])
def test_factors_to_the_last_digit(size):
    rng = np.random.default_rng(7)
    days, one = pd.date_range("2024", periods=24, tz="UTC"), {"a": 1.0}
    rb = rng.normal(0, 0.03, 24)
    rp = rb + rng.normal(0, size, 24)
    got = {how: brinson_fachler(one, pd.DataFrame({"a": rp}, days), one, pd.DataFrame({"a": rb}, days), linking=how)
           for how in LINKINGS}
    with localcontext() as context:
        context.prec = 60
        p, b = [[1 + Decimal(x) for x in r] for r in (rp, rb)]
        a, whole_p, whole_b, n = [x - y for x, y in zip(p, b, strict=True)], prod(p), prod(b), Decimal(24)
        k = (whole_p.ln() - whole_b.ln()) / (whole_p - whole_b)
        carino = [float((x.ln() - y.ln()) / (x - y) / k) for x, y in zip(p, b, strict=True)]
        level = (whole_p - whole_b) / n / (whole_p ** (1 / n) - whole_b ** (1 / n))
        slope = (whole_p - whole_b - level * sum(a)) / sum(x * x for x in a)
        menchero = [float(level + slope * x) for x in a]
    np.testing.assert_allclose(got["carino"].factors, carino, rtol=4e-15)
    np.testing.assert_allclose(got["menchero"].factors, menchero, rtol=4e-15)
    assert got["carino"].total == pytest.approx(float(whole_p - whole_b), rel=4e-15)


def test_menchero_factors_differ_less():
    fifty = [brinson_fachler(WP, RP, WB, RB, linking=linking).factors for linking in LINKINGS]
    assert np.ptp(fifty[1]) < np.ptp(fifty[0])


def test_what_the_weights_lack_to_one_is_cash():
    short = WP * 0.9
    got = brinson_fachler(short, RP, WB, RB, cash_return=pd.Series(0.001, DAYS))
    cash = got.pivot("segment", "effect").loc["cash"]
    assert cash["selection"] == cash["interaction"] == 0 and cash["allocation"] != 0
    assert got.portfolio_total == pytest.approx((1 + (short * RP).sum(axis=1) + 0.1 * 0.001).prod() - 1, rel=1e-12)
    assert "cash" not in brinson_fachler(WP, RP, WB, RB).by("segment").index
    tenths = pd.Series(0.1, [f"s{i}" for i in range(10)])  # sums to 1 - 1e-16
    frame = pd.DataFrame(0.01, DAYS, tenths.index)
    assert len(brinson_fachler(tenths, frame, tenths, frame).by("segment")) == 10


def test_a_segment_that_is_not_held_is_all_allocation():
    out = WP.assign(a=0.0, b=1.0)
    for unheld in (np.nan, 7.0):  # a return of nothing means nothing
        got = brinson_fachler(out, RP.assign(a=unheld), WB, RB).pivot("segment", "effect").loc["a"]
        assert got["selection"] == got["interaction"] == 0 and got["allocation"] < 0
    beside = brinson_fachler(WP, RP, {"b": 1.0}, RB[["b"]]).pivot("segment", "effect").loc["a"]
    assert beside["selection"] == beside["interaction"] == 0 and beside["allocation"] != 0
    nobody = brinson_fachler(WB.assign(c=0.0), RB, WB, RB)
    assert nobody.total == 0 and list(nobody.by("segment").index) == ["a", "b", "c"]


def test_labels_cut_it_too():
    regime = pd.Series(["calm", "wild", "calm"], DAYS)
    got = brinson_fachler(WP, RP, WB, RB, labels={"regime": regime})
    assert got.by("regime", "effect").sum() == pytest.approx(got.total, rel=1e-13)
    assert list(got.by("regime").index) == ["calm", "wild"]


# --- asset by asset ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("linking", LINKINGS)
@pytest.mark.parametrize("every", [1, 7, 30])
def test_rebalancing_by_asset_and_month_sums_to_its_contribution(linking, every):
    rng = np.random.default_rng(every)
    r = pd.DataFrame(rng.normal(0, 0.03, (100, 3)), pd.date_range("2024", periods=100, tz="UTC"), list("ABC"))
    w = {"A": 0.5, "B": 0.6, "C": -0.3}
    got = active_contributions(r, held_weights(r, w, every=every), held_weights(r, w), linking=linking)
    expected = rebalancing_contribution(r, w, every=every).iloc[-1]
    for cut in (got.by("asset"), got.by("month", "asset"), got.pivot("date", "kind").to_numpy()):
        assert cut.sum() == pytest.approx(expected["contribution"], rel=1e-11, abs=1e-14)
    assert got.portfolio_total == pytest.approx(expected["rebalanced"], rel=1e-11, abs=1e-14)
    assert got.benchmark_total == pytest.approx(expected["drifting"], rel=1e-11, abs=1e-14)


def test_active_contributions_bear_costs_and_join_assets():
    r = RB.assign(c=0.01)
    got = active_contributions(r, {"a": 0.5, "c": 0.5}, {"a": 0.5, "b": 0.5}, costs=pd.Series(0.001, DAYS))
    per_day = pd.DataFrame(got.values, DAYS, got.items.get_level_values("asset"))
    np.testing.assert_allclose(per_day["b"], -0.5 * RB["b"], atol=1e-18)
    assert (per_day["a"] == 0).all() and np.allclose(per_day["c"], 0.005) and np.allclose(per_day["unallocated"], -0.001)
    mine, other = (1 + 0.5 * r["a"] + 0.005 - 0.001).prod(), (1 + 0.5 * r["a"] + 0.5 * r["b"]).prod()
    assert got.total == pytest.approx(mine - other, rel=1e-12)


# --- segments ---------------------------------------------------------------------------------------------------------
def test_segments_carry_the_whole_return():
    rng = np.random.default_rng(0)
    r = pd.DataFrame(rng.normal(0, 0.02, (50, 6)), pd.date_range("2024", periods=50, tz="UTC"), list("ABCDEF"))
    w = pd.DataFrame(rng.dirichlet(np.ones(6), 50), r.index, r.columns)
    w.loc[:, ["E", "F"]] *= np.arange(50)[:, None] % 2
    where = pd.Series(["x", "y", "x", "y", "z", "z"], list("ABCDEF"))
    weights, returns = to_segments(r, w, where)
    assert list(weights) == list(returns) == ["x", "y", "z"] and returns["z"].isna().sum() == 25
    np.testing.assert_allclose((weights * returns).sum(axis=1), (w * r).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(returns["x"], (w * r)[["A", "C"]].sum(axis=1) / w[["A", "C"]].sum(axis=1), rtol=1e-12)
    active = brinson_fachler(weights, returns, *to_segments(r, dict.fromkeys(r, 1 / 6), where))
    alone = contributions(r, w)
    assert active.portfolio_total == pytest.approx(alone.total, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: to_segments(RB, {"a": 0.3, "b": -0.3}, {"a": "x", "b": "x"}), DataError, "longs and shorts of x cancel"),
        (lambda: to_segments(RB, {"a": 0.3, "b": 0.3}, {"a": "x"}), DataError, "no segment for b"),
        (lambda: to_segments(RB, WP.assign(c=0.1), {"a": "x", "b": "x"}), DataError, "no segment for c"),
        (lambda: brinson_fachler(WP, RP, WB, RB, linking="frongello"), ConfigError, "'frongello': use"),
        (lambda: active_contributions(RB, WP, WB.assign(c=0.1)), DataError, "no returns of c"),
        (lambda: brinson_fachler(WP, RP.mask(RP == 0.03), WB, RB), DataError, "portfolio holds a and has no return"),
        (lambda: brinson_fachler(WP, RP, WB, RB[["a"]]), DataError, "benchmark holds b and has no return of it on 2024"),
        (lambda: brinson_fachler(WP, RP, WB[1:], RB), DataError, "benchmark weights have no row on 2024-01-01"),
        (lambda: brinson_fachler(WP, RP - 1.02, WB, RB), DataError, "portfolio loses everything on 2024-01-0"),
        (lambda: brinson_fachler(WP, RP, WB, RB - 1.05), DataError, "benchmark loses everything on 2024-01-0"),
        (lambda: brinson_fachler(WP.assign(cash=0.1), RP.assign(cash=0.0), WB, RB), DataError,
         "portfolio weights sum to 1.1 on 2024-01-01 .* with a segment cash"),
        (lambda: brinson_fachler(WP.assign(cash=0.0), RP, WB * 0.5, RB), DataError, "benchmark weights sum to 0.5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
