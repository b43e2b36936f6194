"""The nearest point of a polyhedron: in closed form, by the interior point method, and where there is no interior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from portfolio_research.data import Array
from portfolio_research.nearest import (
    Region,
    fill,
    nearest_weights,
    polished,
    region,
    relative_entropy,
    settled,
    softened,
)

SEEDS = st.integers(0, 10**6)


def draw(seed: int, n: int, pinned: bool = False) -> tuple[Array, Array, Region]:
    """A target, a portfolio, and a region around it with overlapping rows; `pinned`: some rows hold with equality."""
    rng = np.random.default_rng(seed)
    target, kept = rng.dirichlet(np.ones(n), 2).clip(min=1e-6)
    target, kept = target / target.sum(), kept / kept.sum()
    low = kept * rng.random(n) * (rng.random(n) < 0.5)
    high = np.where(rng.random(n) < 0.5, np.minimum(1.0, kept * (1.0 + rng.random(n))), 1.0)
    members = (rng.random((4, n)) < 0.5) * 1.0
    sums = members @ kept
    slack = np.where(rng.random(4) < 0.5, 0.0, 0.1) if pinned else rng.uniform(0.01, 0.1, 4)
    return target, kept, region(low, high, np.vstack([members, -members]), np.concatenate([sums + slack, slack - sums]))


@given(seed=SEEDS, n=st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_a_box_is_filled_to_the_last_digit(seed: int, n: int) -> None:
    target, kept, inside = draw(seed, n)
    weights = fill(target, inside.low, inside.high)
    assert abs(weights.sum() - 1) < 1e-14 and (weights >= inside.low).all() and (weights <= inside.high).all()
    free = (weights > inside.low) & (weights < inside.high)
    assert not free.any() or np.ptp(weights[free] / target[free]) < 1e-12 * (weights[free] / target[free]).max()
    assert relative_entropy(weights, target) <= relative_entropy(kept, target) + 1e-14


def test_a_total_out_of_reach_gives_the_nearest_end() -> None:
    low, high, target = np.full(3, 0.1), np.full(3, 0.2), np.full(3, 1 / 3)
    assert fill(target, low, high).tolist() == high.tolist() and fill(target, low, high, 0.1).tolist() == low.tolist()


@given(seed=SEEDS, n=st.integers(2, 25), pinned=st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_nearest_weights_are_inside_and_nearer_than_others(seed: int, n: int, pinned: bool) -> None:
    target, kept, inside = draw(seed, n, pinned)
    assert inside.miss(kept) < 1e-14
    weights = nearest_weights(target, inside)
    assert inside.miss(weights) <= 1e-9
    for step in (1.0, 0.1, 1e-3):
        assert relative_entropy(weights + step * (kept - weights), target) >= relative_entropy(weights, target) - 1e-9


@pytest.mark.parametrize("seed", range(15))
def test_another_solver_finds_nothing_nearer(seed: int) -> None:
    target, kept, inside = draw(seed, 6)
    weights = nearest_weights(target, inside)
    rows = {"type": "ineq", "fun": lambda w: inside.bound - inside.rows @ w}
    found = minimize(
        lambda w: relative_entropy(w, target), kept, method="SLSQP", options={"ftol": 1e-12, "maxiter": 300},
        bounds=list(zip(inside.low.clip(1e-12), inside.high, strict=True)),
        constraints=[rows, {"type": "eq", "fun": lambda w: w.sum() - 1.0}],
    )  # fmt: skip
    assert found.success and abs(found.fun - relative_entropy(weights, target)) < 1e-7
    assert np.abs(found.x - weights).max() < 1e-3


@given(seed=SEEDS, n=st.integers(2, 15))
@settings(max_examples=60, deadline=None)
def test_a_settled_region_is_the_same_set(seed: int, n: int) -> None:
    _, kept, inside = draw(seed, n, pinned=True)
    same = settled(inside)
    assert same.miss(kept) < 1e-9
    other = nearest_weights(np.random.default_rng(seed).dirichlet(np.ones(n)).clip(min=1e-3), same)
    assert inside.miss(other) <= 1e-8


def test_rows_that_pin_each_other_become_equations() -> None:
    circle = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])  # each pair at most 2/3: only equal weights
    inside = region(np.zeros(3), np.ones(3), circle, np.full(3, 2 / 3))
    assert len(settled(inside).rows) == 0
    assert np.allclose(nearest_weights(np.array([0.7, 0.2, 0.1]), inside), 1 / 3, atol=1e-14)
    zero = region(np.zeros(3), np.ones(3), np.array([[1.0, 0.0, 0.0], [-1.0, -1.0, 0.0]]), np.array([0.3, -0.3]))
    roomy = settled(zero)
    assert len(roomy.rows) == 2  # w2 is free, so nothing is pinned
    zero = zero._replace(rows=np.vstack([zero.rows, [1.0, 1.0, 0.0]]), bound=np.append(zero.bound, 0.3))
    weights = nearest_weights(np.array([0.7, 0.2, 0.1]), zero._replace(low=np.array([0.3, 0.0, 0.0])))
    assert np.allclose(weights, [0.3, 0.0, 0.7], atol=1e-9)


def test_fixed_bounds_leave_no_question() -> None:
    low = np.array([0.25, 0.75])
    weights, slack = softened(np.array([0.5, 0.5]), region(low, low, np.empty((0, 2)), np.empty(0)), np.empty((0, 2)), 1.0)
    assert weights.tolist() == [0.25, 0.75] and slack == 0.0


@pytest.mark.parametrize("price", [1.0, 10.0, 100.0])
def test_slack_is_paid_where_rows_cannot_hold(price: float) -> None:
    target = np.array([0.5, 0.3, 0.2])
    box = region(np.array([0.3, 0.0, 0.0]), np.ones(3), np.empty((0, 3)), np.empty(0))
    weights, slack = softened(target, box, np.array([[1.0, 0.0, 0.0]]), price)  # asks for weight 0, and at least 0.3 there is
    assert slack >= 0.3 - 1e-6 and abs(weights[0] - slack) < 1e-6
    assert box.miss(weights) < 1e-8 and slack <= 0.5 + 1e-6


def test_a_polish_that_fails_leaves_the_weights_alone() -> None:
    target, rough = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    box = region(np.zeros(3), np.ones(3), np.empty((0, 3)), np.empty(0))

    def singular(x: Array, dual: Array) -> tuple[Array, Array, Array]:
        return np.ones((1, 3)), np.zeros(1), -np.diag(1.0 / x)

    def wild(x: Array, dual: Array) -> tuple[Array, Array, Array]:
        return np.array([[1.0, 0.0, 0.0]]), np.array([9.0]), np.zeros((3, 3))

    for curve in (singular, wild):
        assert polished(rough, target, box, box.miss, lambda near, curve=curve: curve) is rough
    assert np.allclose(polished(rough, target, box, box.miss), target, atol=1e-15)
