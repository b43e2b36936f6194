"""Turnover control: what is off changes nothing, what is on stays between held and wanted, and the sample shows its worth."""

from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research import tree
from portfolio_research.config import OptimizationError
from portfolio_research.covariance import moments
from portfolio_research.data import sample_prices, to_returns
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.turnover import blend, carry_order, drifted, keep_order, trade_fraction, turnover

SEEDS = st.integers(0, 2**32 - 1)
COSTS = st.floats(1e-6, 1.0)


def weights(rng: np.random.Generator, n: int, zeros: float = 0.2) -> np.ndarray:
    """Random long-only weights that sum to 1, some of them zero."""
    raw = rng.exponential(size=n) * (rng.random(n) >= zeros)
    raw[rng.integers(n)] += 0.1
    return raw / raw.sum()


def covariance(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.normal(0, 0.02, (3 * n, n)) + rng.normal(0, 0.02, (3 * n, 1))
    return np.cov(x, rowvar=False).reshape(n, n)


def weights_of(order: np.ndarray, correlation: np.ndarray, volatility: np.ndarray) -> np.ndarray:
    out = np.empty(len(order))
    out[order] = tree.multiply_shares(tree.split_shares(correlation, volatility, order))
    return out


def never(order: np.ndarray) -> float:
    raise AssertionError("nothing is to be judged here")


# ---------------------------------------------------------------- turnover and drift


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12))
def test_turnover_is_a_distance_between_books(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = (weights(rng, n) for _ in range(3))
    assert turnover(a, a) == 0 and turnover(a, b) == turnover(b, a)
    assert 0 <= turnover(a, b) <= 1 + 1e-12
    assert turnover(a, c) <= turnover(a, b) + turnover(b, c) + 1e-12
    assert turnover(a, b) == pytest.approx(np.maximum(b - a, 0).sum())  # what is sold pays for what is bought


@settings(deadline=None)
@given(SEEDS, st.integers(1, 8), st.integers(0, 5), st.floats(0, 1))
def test_drift_is_what_units_that_lie_still_become(seed: int, n: int, rows: int, invested: float) -> None:
    rng = np.random.default_rng(seed)
    start, returns = weights(rng, n) * invested, rng.normal(0, 0.1, (rows, n))
    values = np.append(start, 1 - invested)  # the last one is cash
    for row in returns:
        values[:-1] *= 1 + row
    np.testing.assert_allclose(drifted(start, returns), values[:-1] / values.sum(), atol=1e-12)


# ---------------------------------------------------------------- the list


def test_without_change_the_list_is_carried_as_it_is() -> None:
    fresh, previous = np.array([3, 1, 0, 2]), np.array([0, 1, 2, 3])
    assert carry_order(fresh, previous).tolist() == previous.tolist()


@pytest.mark.parametrize(
    ("fresh", "previous", "carried"),
    [
        ([0, 1, 2], [], [0, 1, 2]),  # all new
        ([0, 1, 2], [2], [0, 1, 2]),  # two before the only one that was here
        ([2, 0, 1], [2], [2, 0, 1]),  # two behind it, in their order
        ([4, 0, 3, 1, 2], [2, 1, 0], [2, 1, 4, 0, 3]),  # the new first one stays before its neighbour
        ([0, 3, 4, 1, 2], [2, 1, 0], [2, 1, 0, 3, 4]),
    ],
)
def test_newcomers_stand_behind_their_neighbour(fresh: list[int], previous: list[int], carried: list[int]) -> None:
    got = carry_order(np.array(fresh, dtype=np.intp), np.array(previous, dtype=np.intp))
    assert got.tolist() == carried and got.dtype == np.intp


@settings(deadline=None)
@given(SEEDS, st.integers(1, 15), st.integers(0, 15))
def test_a_carried_list_keeps_the_old_sequence_and_loses_nobody(seed: int, n: int, old: int) -> None:
    rng = np.random.default_rng(seed)
    fresh, previous = rng.permutation(n), rng.permutation(n)[:old]
    carried = carry_order(fresh, previous)
    assert sorted(carried) == list(range(n))
    assert [a for a in carried.tolist() if a in previous] == previous.tolist()
    place, known = {a: i for i, a in enumerate(carried.tolist())}, set(previous.tolist())
    for left, right in pairwise(fresh.tolist()):
        if right not in known and known:  # behind its left neighbour
            assert place[right] == place[left] + 1


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(0, 12), st.floats(0, 0.2))
def test_another_column_order_gives_the_same_list(seed: int, n: int, old: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    fresh, previous, rename = rng.permutation(n), rng.permutation(n)[:old], rng.permutation(n)
    risk, back = rng.uniform(0.9, 1.1, n), np.argsort(rename)

    def volatility(order: np.ndarray) -> float:
        return float(risk[order] @ np.arange(1, n + 1))

    here = keep_order(fresh, previous, volatility, tolerance=tolerance)
    there = keep_order(rename[fresh], rename[previous], lambda o: volatility(back[o]), tolerance=tolerance)
    assert rename[here].tolist() == there.tolist()


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12))
def test_zero_tolerance_is_the_fresh_list(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    fresh = rng.permutation(n)
    assert keep_order(fresh, rng.permutation(n), never, tolerance=0.0) is fresh


def test_the_first_day_takes_the_fresh_list() -> None:
    fresh = np.array([1, 0])
    assert keep_order(fresh, np.array([], dtype=np.intp), never, tolerance=0.5) is fresh


@pytest.mark.parametrize(
    ("old_risk", "tolerance", "kept"),
    [(1.0, 0.01, True), (1.01, 0.01, True), (1.0101, 0.01, False), (0.5, 1e-9, True), (9e9, np.inf, True),
     (np.nan, np.inf, False)],
)
def test_the_old_list_stays_within_the_tolerance(old_risk: float, tolerance: float, kept: bool) -> None:
    fresh, previous = np.array([0, 1, 2]), np.array([2, 1, 0])
    risk = {(0, 1, 2): 1.0, (2, 1, 0): old_risk}
    got = keep_order(fresh, previous, lambda o: risk[tuple(o.tolist())], tolerance=tolerance)
    assert got.tolist() == (previous if kept else fresh).tolist()


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.floats(0, 0.5))
def test_asking_twice_changes_nothing(seed: int, n: int, tolerance: float) -> None:
    """A day that is computed again after a crash, with its own list as the previous one, ends at the same list."""
    rng = np.random.default_rng(seed)
    fresh, previous, risk = rng.permutation(n), rng.permutation(n), rng.uniform(0.9, 1.1, n)

    def volatility(order: np.ndarray) -> float:
        return float(risk[order] @ np.arange(1, n + 1))

    once = keep_order(fresh, previous, volatility, tolerance=tolerance)
    assert keep_order(fresh, once, volatility, tolerance=tolerance).tolist() == once.tolist()


@pytest.mark.parametrize("tolerance", [-0.01, np.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(OptimizationError, match="order_tolerance is"):
        keep_order(np.array([0, 1]), np.array([1, 0]), never, tolerance=tolerance)


@pytest.mark.parametrize("bad", [[0, 0], [0, 2], [-1, 0], [[0, 1]]])
def test_lists_that_are_none_are_refused(bad: list[int]) -> None:
    good = np.array([0, 1])
    with pytest.raises(OptimizationError, match="the previous order .* different positions from 0 to 1"):
        carry_order(good, np.array(bad))
    with pytest.raises(OptimizationError, match="the fresh order"):
        carry_order(np.array([0, 0]), good)


# ---------------------------------------------------------------- the gap


@settings(deadline=None)
@given(st.floats(0, 2), st.floats(0, 1), COSTS, COSTS)
def test_the_dearer_the_less_is_traded(size: float, variance: float, cost: float, more: float) -> None:
    cheap, dear = (trade_fraction(size, variance, trading_cost=c) for c in (cost, cost + more))
    assert 0 <= dear <= cheap <= 1


@settings(deadline=None)
@given(SEEDS, st.integers(2, 6), st.floats(1e-4, 0.05))
def test_no_other_fraction_costs_less(seed: int, n: int, cost: float) -> None:
    rng = np.random.default_rng(seed)
    gap, sigma = weights(rng, n) - weights(rng, n), covariance(rng, n)
    size, variance = float(np.abs(gap).sum()), float(gap @ sigma @ gap)
    grid = np.linspace(0, 1, 101)

    def loss(fraction: np.ndarray) -> np.ndarray:
        return 0.5 * 5 * 63 * (1 - fraction) ** 2 * variance + cost * fraction * size

    best = trade_fraction(size, variance, trading_cost=cost)
    assert float(loss(np.array(best))) <= loss(grid).min() + 1e-12


def test_longer_horizon_and_more_aversion_trade_more() -> None:
    base = trade_fraction(0.2, 1e-6, trading_cost=2e-4)
    assert 0 < base < trade_fraction(0.2, 1e-6, trading_cost=2e-4, holding_periods=100)
    assert base < trade_fraction(0.2, 1e-6, trading_cost=2e-4, risk_aversion=10)
    assert trade_fraction(0.2, 0.0, trading_cost=1e-9) == 0  # a gap without risk is worth no trade
    assert trade_fraction(0.2, 0.0, trading_cost=0) == 1


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.floats(0, 1), st.one_of(st.just(0.0), COSTS))
def test_a_blend_is_a_portfolio_between_held_and_target(seed: int, n: int, invested: float, cost: float) -> None:
    rng = np.random.default_rng(seed)
    target, held, sigma = weights(rng, n), weights(rng, n) * invested, covariance(rng, n)
    before = held.copy(), target.copy()
    got = blend(target, held, lambda x: float(x @ sigma @ x), trading_cost=cost)
    assert abs(got.sum() - 1) < 1e-14 * n and (got >= 0).all()
    start = held + (1 - held.sum()) * target
    assert (np.minimum(start, target) - 1e-12 <= got).all() and (got <= np.maximum(start, target) + 1e-12).all()
    assert turnover(held, got) <= turnover(held, target) + 1e-12
    assert (held == before[0]).all() and (target == before[1]).all()  # arguments are left alone


@settings(deadline=None)
@given(SEEDS, st.integers(2, 12), st.floats(1e-4, 0.1))
def test_another_column_order_gives_the_same_blend(seed: int, n: int, cost: float) -> None:
    rng = np.random.default_rng(seed)
    target, held, sigma, p = weights(rng, n), weights(rng, n), covariance(rng, n), rng.permutation(n)
    here = blend(target, held, lambda x: float(x @ sigma @ x), trading_cost=cost)
    shuffled = sigma[np.ix_(p, p)]
    there = blend(target[p], held[p], lambda x: float(x @ shuffled @ x), trading_cost=cost)
    np.testing.assert_allclose(here[p], there, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.floats(0, 1), COSTS)
def test_free_trading_and_an_empty_book_give_the_target_itself(
    seed: int, n: int, invested: float, cost: float
) -> None:
    rng = np.random.default_rng(seed)
    target, held, sigma = weights(rng, n), weights(rng, n) * invested, covariance(rng, n)

    def variance(x: np.ndarray) -> float:
        return float(x @ sigma @ x)

    assert (blend(target, held, variance, trading_cost=0.0) == target).all()
    np.testing.assert_allclose(blend(target, 0 * held, variance, trading_cost=cost), target, rtol=0, atol=1e-15)
    np.testing.assert_allclose(blend(target, target, variance, trading_cost=cost), target, rtol=0, atol=1e-15)
    full = weights(rng, n)
    np.testing.assert_allclose(blend(target, full, variance, trading_cost=1e9), full, rtol=0, atol=1e-15)


def test_money_of_an_asset_that_left_goes_into_the_target_and_the_rest_may_stay() -> None:
    target, held = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.0, 0.0])  # the other half was in an asset now gone
    got = blend(target, held, lambda x: float(x @ x) * 1e-4, trading_cost=1.0)
    np.testing.assert_allclose(got, held + 0.5 * target, atol=1e-15)


@pytest.mark.parametrize(
    "held", [[0.5, 0.6], [-0.1, 0.5], [np.nan, 0.5], [np.inf, 0.0], [0.5], [0.2, 0.3, 0.5]], ids=str
)
def test_held_weights_that_cannot_be_are_refused(held: list[float]) -> None:
    with pytest.raises(OptimizationError, match="held weights"):
        blend(np.array([0.5, 0.5]), np.array(held), lambda x: 1.0, trading_cost=0.001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trading_cost": -0.1}, "trading_cost is -0.1"),
        ({"trading_cost": np.nan}, "trading_cost is nan"),
        ({"trading_cost": 0.1, "risk_aversion": 0.0}, "risk_aversion is 0"),
        ({"trading_cost": 0.1, "holding_periods": -1}, "holding_periods is -1"),
        ({"trading_cost": 0.0, "holding_periods": np.nan}, "holding_periods is nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptimizationError, match=message):
        blend(np.array([0.5, 0.5]), np.array([0.4, 0.6]), lambda x: 1.0, **options)


# ---------------------------------------------------------------- what it is for: the bundled sample


def months_of(returns: np.ndarray) -> list[tuple]:
    """Last row, correlation, volatility, covariance and fresh list of every month: 252 days, every 21 days."""
    out = []
    for end in range(252, len(returns), 21):
        correlation, volatility = moments(returns[end - 252 : end])
        fresh = tree.leaves(tree.cluster(correlation), len(volatility))
        out.append((end, correlation, volatility, correlation * np.outer(volatility, volatility), fresh))
    return out


def rolling(returns: np.ndarray, months: list[tuple], tolerance: float, cost: float) -> tuple[float, float, float]:
    """Monthly turnover of the target and of the book, annual volatility out of sample."""
    n = returns.shape[1]
    held, target, order = np.zeros(n), np.zeros(n), np.array([], dtype=np.intp)
    wanted, traded, earned = [], [], []
    for end, correlation, volatility, sigma, fresh in months:
        built = partial(weights_of, correlation=correlation, volatility=volatility)

        def variance(x: np.ndarray, sigma: np.ndarray = sigma) -> float:
            return float(x @ sigma @ x)

        order = keep_order(fresh, order, lambda o, b=built, v=variance: v(b(o)) ** 0.5, tolerance=tolerance)
        new = blend(built(order), held, variance, trading_cost=cost)
        wanted.append(turnover(target, new))
        traded.append(turnover(held, new))
        ahead = returns[end : end + 21]
        wealth = np.append(1.0, np.cumprod(1 + ahead, axis=0) @ new)
        earned.append(wealth[1:] / wealth[:-1] - 1)
        target, held = new, drifted(new, ahead)
    risk = float(np.concatenate(earned).std(ddof=1)) * 252**0.5
    return float(np.mean(wanted[1:])), float(np.mean(traded[1:])), risk


@pytest.mark.no_cover
@pytest.mark.parametrize("first", [0, 10])  # the months begin on another day
def test_turnover_control_costs_no_calm(first: int) -> None:
    returns = to_returns(sample_prices()).dropna().to_numpy()[first:]
    months = months_of(returns)
    plain = rolling(returns, months, 0.0, 0.0)
    assert 0.09 < plain[0] < 0.105 and 0.155 < plain[2] < 0.165
    for tolerance, cost, most in ((0.01, 0.0, 0.042), (0.0, 0.001, 0.03), (0.01, 0.001, 0.02)):
        wanted, traded, volatility = rolling(returns, months, tolerance, cost)
        assert wanted <= 0.04 and traded <= most
        assert volatility <= plain[2] + 0.001


def walk(returns: pd.DataFrame, first: int = 252, **options: float) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Target and held weights at each month's end, by the estimator, and annual volatility out of sample."""
    model, held, order, targets, drifts, earned = HierarchicalRiskParity(**options), None, None, [], [], []
    for end in range(first, len(returns), 21):
        model.fit(returns.iloc[end - 252 : end], previous_weights=held, previous_order=order)
        order, ahead = model.order_, returns.iloc[end : end + 21].to_numpy()
        drifts.append(held)
        targets.append(model.weights_)
        wealth = np.append(1.0, np.cumprod(1 + ahead, axis=0) @ model.weights_.to_numpy())
        earned.append(wealth[1:] / wealth[:-1] - 1)
        held = pd.Series(drifted(model.weights_.to_numpy(), ahead), returns.columns)
    volatility = float(np.concatenate(earned).std(ddof=1)) * 252**0.5
    return pd.DataFrame(targets).reset_index(drop=True), pd.DataFrame(drifts[1:]).reset_index(drop=True), volatility


def monthly(now: pd.DataFrame, before: pd.DataFrame) -> float:
    return float(np.mean([turnover(a, b) for a, b in zip(before.to_numpy(), now.to_numpy()[1:], strict=True)]))


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    return to_returns(sample_prices()).dropna()


@pytest.mark.no_cover
def test_the_estimator_trades_a_quarter_and_is_as_calm(sample: pd.DataFrame) -> None:
    plain, _, risk = walk(sample)
    target, held, patient = walk(sample, order_tolerance=0.01, trading_cost=0.001)
    assert 0.09 < monthly(plain, plain.iloc[:-1]) < 0.10
    assert monthly(target, target.iloc[:-1]) <= 0.04 and monthly(target, held) <= 0.04
    assert patient <= risk + 0.001


@pytest.mark.no_cover
def test_columns_may_stand_in_any_order_all_along(sample: pd.DataFrame) -> None:
    last, options = sample.iloc[-252 - 21 * 40 :], {"order_tolerance": 0.01, "trading_cost": 0.001}
    here, _, _ = walk(last, **options)
    for seed in range(3):
        columns = np.random.default_rng(seed).permutation(last.columns)
        there, _, _ = walk(last[columns], **options)
        assert (here - there[last.columns]).abs().to_numpy().max() <= 1e-12


def test_what_is_off_changes_no_bit(sample: pd.DataFrame) -> None:
    last = sample.iloc[-252 - 21 * 12 :]
    for end in range(252, len(last), 21):
        window, held = last.iloc[end - 252 : end], pd.Series(0.05, last.columns)
        plain = HierarchicalRiskParity().fit(window)
        given = HierarchicalRiskParity().fit(window, previous_weights=held, previous_order=list(last.columns))
        assert given.order_ == plain.order_ and (given.weights_ == plain.weights_).all()


def test_assets_come_and_go(sample: pd.DataFrame) -> None:
    options = {"order_tolerance": 0.05, "trading_cost": 0.001}
    old = HierarchicalRiskParity(**options).fit(sample.iloc[:252, :12])
    now = sample.iloc[252:504, 4:]  # four left, eight came
    new = HierarchicalRiskParity(**options).fit(now, previous_weights=old.weights_, previous_order=old.order_)
    assert sorted(new.order_) == sorted(now.columns) and abs(new.weights_.sum() - 1) < 1e-14
    assert (new.weights_ > 0).all()  # what came gets the money of what left
    kept = HierarchicalRiskParity(order_tolerance=1e6).fit(now, previous_order=old.order_)
    assert [a for a in kept.order_ if a in old.order_] == [a for a in old.order_ if a in now.columns]
