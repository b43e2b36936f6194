"""Limits that hold: feasible cases are met, infeasible ones are refused by name, and no portfolio inside is nearer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from portfolio_research import bounds
from portfolio_research.bounds import TOLERANCE, Limits, binding, limits, within
from portfolio_research.config import DataError, OptimizationError
from portfolio_research.data import Array

Case = tuple[Array, dict[str, Any], Array, Array]  # target, limits, covariance, a portfolio that keeps the limits


def shares(weights: Array, covariance: Array) -> Array:
    margin = covariance @ weights
    return weights * margin / (weights @ margin)


def entropy(weights: Array, target: Array) -> float:
    return float((weights * np.log(np.maximum(weights, 1e-300) / np.where(target > 0, target, 1.0))).sum())


def violation(weights: Array, checked: Limits, covariance: Array | None) -> float:
    """The largest violation of any limit, computed without the module."""
    sums = np.array([weights[mask].sum() for mask in checked.members])
    over = [weights - checked.high, checked.low - weights, sums - checked.group_high, checked.group_low - sums]
    if checked.max_risk_share is not None and covariance is not None:
        over.append(shares(weights, covariance) - checked.max_risk_share)
    return float(np.concatenate(over).max())


def draw(rng: np.random.Generator, risk: bool = True) -> Case | None:
    """Limits around a portfolio that keeps them, from razor-thin to loose, some groups with equal bounds; None if it is
    too hedged for a cap."""
    n = int(rng.integers(2, 13) if rng.random() < 0.85 else rng.integers(13, 31))
    loads = rng.normal(0.5, 0.7, (n, int(rng.integers(1, 4)))) * 0.02  # some negative: hedges
    covariance = loads @ loads.T * rng.choice([0.2, 1.0, 3.0]) + np.diag(np.exp(rng.normal(-4.0, 0.7, n)) ** 2)
    target, witness = (np.maximum(rng.dirichlet(np.full(n, rng.choice([0.4, 1.0, 5.0]))), 1e-6) for _ in "tw")
    target, witness = target / target.sum(), witness / witness.sum()
    room = rng.choice([1e-6, 0.01, 0.1, 0.5, 2.0], n)
    low = np.where(rng.random(n) < 0.4, witness / (1 + room), 0.0)
    high = np.where(rng.random(n) < 0.4, np.minimum(witness * (1 + room), 1.0), 1.0)
    asked: dict[str, Any] = {"min_weight": dict(enumerate(low)), "max_weight": dict(enumerate(high))}
    groups: dict[int, list[str]] = {i: [] for i in range(n)}
    least, most = {}, {}
    for k in range(int(rng.integers(0, 5))):
        mask = rng.random(n) < rng.uniform(0.2, 0.7)
        if not mask.any():
            continue
        for i in np.flatnonzero(mask).tolist():
            groups[i].append(f"g{k}")
        slack = rng.choice([0.0, 0.01, 0.1, 0.5])
        if rng.random() < 0.6:
            most[f"g{k}"] = min(1.0, witness[mask].sum() * (1 + slack))
        if rng.random() < 0.6:
            least[f"g{k}"] = min(1.0, witness[mask].sum() / (1 + slack))
    asked |= {"groups": groups, "group_min": least, "group_max": most}
    if risk:
        cap = shares(witness, covariance).max() * (1 + rng.choice([0.0, 0.001, 0.02, 0.2, 1.0]))
        if cap > 1.0:
            return None
        asked["max_risk_share"] = max(cap, 1.0 / n)
    return target, asked, covariance, witness


def cases(seed: int, count: int, risk: bool = True) -> list[Case]:
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        if case := draw(rng, risk):
            found.append(case)
    return found


@pytest.mark.no_cover
# ---------------------------------------------------------------- feasible
@pytest.mark.parametrize("block", range(4))
def test_a_thousand_feasible_limits_are_met(block: int) -> None:
    for target, asked, covariance, witness in cases(300 + block, 250):
        checked = limits(range(len(target)), **asked)
        assert violation(witness, checked, covariance) < 1e-12  # the case is what it claims to be
        weights = within(target, checked, covariance)
        assert violation(weights, checked, covariance) <= TOLERANCE
        assert abs(weights.sum() - 1) <= 1e-14 and weights.min() >= 0
        again = within(weights, checked, covariance)
        assert np.abs(again - weights).max() <= 1e-12


def test_the_cases_are_of_every_kind() -> None:
    kinds = {"overlap": 0, "equal bounds": 0, "overlap with equal bounds": 0, "risk cap binds": 0}
    for target, asked, covariance, _ in cases(300, 250):
        checked = limits(range(len(target)), **asked)
        fixed = bool((checked.group_low == checked.group_high).any())
        kinds["overlap"] += not checked.disjoint
        kinds["equal bounds"] += fixed
        kinds["overlap with equal bounds"] += fixed and not checked.disjoint
        kinds["risk cap binds"] += shares(target, covariance).max() > checked.max_risk_share  # type: ignore[operator]
    assert min(kinds.values()) >= 20, kinds


def test_linear_limits_satisfy_the_optimality_conditions() -> None:
    """log(w/h) is a sum of the normals of the limits that bind, with prices that are not negative (Kuhn and Tucker)."""
    for target, asked, _, _ in cases(7, 150, risk=False):
        checked = limits(range(len(target)), **asked)
        weights, ones = within(target, checked), np.ones(len(target))
        at = binding(weights, checked)
        normals = [ones, -ones, *(np.eye(len(ones))[i] for i in at.get("max_weight", []))]
        normals += [-np.eye(len(ones))[i] for i in at.get("min_weight", [])]
        masks = dict(zip(checked.groups, checked.members * 1.0, strict=True))
        normals += [masks[g] for g in at.get("group_max", [])] + [-masks[g] for g in at.get("group_min", [])]
        held = weights > 1e-9
        slope = -np.log(weights[held] / target[held])
        assert nnls(np.array(normals).T[held], slope)[1] < 1e-6


def test_no_witness_is_nearer_than_the_answer_to_linear_limits() -> None:
    rng = np.random.default_rng(5)
    for target, asked, _, witness in cases(4, 120, risk=False):
        weights = within(target, limits(range(len(target)), **asked))
        for step in (1.0, 0.1, 1e-3, *rng.random(5)):  # the set is convex: all of these are inside
            assert entropy(weights + step * (witness - weights), target) >= entropy(weights, target) - 1e-12


def test_boxes_satisfy_the_optimality_conditions() -> None:
    """w = clip(t h): free assets share one factor, those at a floor want less, those at a cap want more."""
    rng = np.random.default_rng(6)
    for _ in range(200):
        n = int(rng.integers(2, 40))
        h, w = rng.dirichlet(np.ones(n), 2)
        low, high = w * rng.random(n), np.minimum(1.0, w * (1 + rng.random(n)))
        weights = within(h, limits(range(n), min_weight=dict(enumerate(low)), max_weight=dict(enumerate(high))))
        assert (weights >= low).all() and (weights <= high).all() and abs(weights.sum() - 1) < 1e-14
        factor, floor, cap = weights / h, weights == low, weights == high
        free = ~(floor | cap)
        assert np.ptp(factor[free]) < 1e-12 * factor[free].max(initial=1.0) if free.any() else True
        assert factor[cap].max(initial=0.0) <= min(factor[free].min(initial=np.inf), factor[floor].min(initial=np.inf)) + 1e-12


def test_two_ways_to_the_same_groups() -> None:
    """Groups that do not overlap: the closed form, and the general method through a repeated group."""
    rng = np.random.default_rng(8)
    for _ in range(45):
        n = int(rng.integers(4, 25))
        h, w = rng.dirichlet(np.ones(n), 2)
        group = {i: f"g{i % 3}" for i in range(n)}
        twice = {i: [g, g + "again"] for i, g in group.items()}
        most = {"g0": min(1.0, 1.05 * w[::3].sum()), "g1": min(1.0, 1.2 * w[1::3].sum())}
        least = {"g2": 0.9 * w[2::3].sum()}
        once = within(h, limits(range(n), groups=group, group_max=most, group_min=least))
        more = {"g0again": most["g0"], "g1again": most["g1"]}
        checked = limits(range(n), groups=twice, group_max=most | more, group_min=least)
        assert not checked.disjoint
        assert np.abs(within(h, checked) - once).max() < 1e-9


@pytest.mark.parametrize("n", [2, 3, 8, 20])
def test_equal_risk_is_the_only_answer_to_the_smallest_cap(n: int) -> None:
    covariance = np.diag(np.arange(1.0, n + 1) ** 2)  # without correlation: inverse volatility (Maillard et al. 2010)
    weights = within(np.full(n, 1 / n), limits(range(n), max_risk_share=1 / n), covariance)
    inverse = 1 / np.arange(1.0, n + 1)
    assert np.allclose(weights, inverse / inverse.sum(), atol=1e-7)


def test_a_risk_cap_gives_a_local_optimum() -> None:
    """Nearby portfolios that keep the limits are not nearer to the target."""
    rng = np.random.default_rng(12)
    covariance = np.array([[4.0, 1.0, 0.5], [1.0, 2.0, -0.4], [0.5, -0.4, 1.0]])
    target, checked = np.array([0.6, 0.3, 0.1]), limits("ABC", max_risk_share=0.5)
    weights = within(target, checked, covariance)
    assert np.isclose(shares(weights, covariance).max(), 0.5, atol=1e-9)
    moves = rng.normal(0, 0.01, (5000, 3))
    near = weights + moves - moves.mean(axis=1, keepdims=True)
    inside = [w for w in near if w.min() > 0 and shares(w, covariance).max() <= 0.5]
    assert len(inside) > 500 and min(entropy(w, target) for w in inside) > entropy(weights, target) - 1e-12


# ---------------------------------------------------------------- what must not change
def test_what_fits_comes_back_untouched() -> None:
    rng = np.random.default_rng(2)
    for target, asked, covariance, _ in cases(21, 50):
        n = len(target)
        loose = {"max_weight": min(1.0, 1.01 * target.max()), "min_weight": 0.99 * target.min(), "groups": asked["groups"]}
        cap = min(1.0, 1.001 * shares(target, covariance).max())
        if shares(target, covariance).max() > cap:
            continue
        assert within(target, limits(range(n), **loose, max_risk_share=cap), covariance) is target
        assert within(target, limits(range(n)), rng.random((n, n))) is target


@given(seed=st.integers(0, 10**6), risk=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_order_of_columns_does_not_matter(seed: int, risk: bool) -> None:
    (target, asked, covariance, _), = cases(seed, 1, risk)
    n, order = len(target), np.random.default_rng(seed).permutation(len(target))
    one = within(target, limits(range(n), **asked), covariance)
    other = within(target[order], limits(order.tolist(), **asked), covariance[np.ix_(order, order)])
    assert np.abs(other - one[order]).max() <= 1e-12


@given(seed=st.integers(0, 10**6), risk=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_second_time_changes_nothing(seed: int, risk: bool) -> None:
    (target, asked, covariance, _), = cases(seed, 1, risk)
    checked = limits(range(len(target)), **asked)
    once = within(target, checked, covariance)
    assert violation(once, checked, covariance) <= TOLERANCE
    assert np.abs(within(once, checked, covariance) - once).max() <= 1e-12


def test_untouched_assets_keep_their_proportions() -> None:
    h = np.array([0.5, 0.2, 0.2, 0.1])
    weights = within(h, limits("ABCD", max_weight=0.4))
    assert weights[0] == 0.4 and np.allclose(weights[1:], 0.6 * h[1:] / 0.5)


def test_a_zero_target_gets_its_minimum() -> None:
    h = np.array([0.6, 0.4, 0.0, 0.0])
    weights = within(h, limits(["A", "B", "USD", "OLD"], max_weight={"A": 0.55}, min_weight={"USD": 0.1}))
    assert weights.tolist()[2:] == [0.1, 0.0] and abs(weights.sum() - 1) < 1e-15
    covariance = np.diag([4.0, 1.0, 0.0, 1.0])
    capped = within(h, limits(["A", "B", "USD", "OLD"], min_weight={"USD": 0.1}, max_risk_share=0.6), covariance)
    assert capped[2] == 0.1 and capped[3] == 0.0 and np.isclose(shares(capped, covariance).max(), 0.6, atol=1e-9)
    says = "max_weight of A, B leave only 0.8 of 1 to invest, and USD, OLD have weight zero to begin with"
    with pytest.raises(OptimizationError, match=says):
        within(h, limits(["A", "B", "USD", "OLD"], max_weight={"A": 0.4, "B": 0.4}))


def test_many_assets_and_one() -> None:
    h = np.random.default_rng(3).dirichlet(np.ones(5000))
    group = {i: f"g{i % 40}" for i in range(5000)}
    checked = limits(range(5000), max_weight=0.0005, groups=group, group_max={"g0": 0.01, "g1": 0.02}, group_min={"g2": 0.05})
    weights = within(h, checked)
    assert violation(weights, checked, None) < 1e-14 and abs(weights.sum() - 1) < 1e-14
    assert within(np.ones(1), limits(["A"], max_risk_share=1.0), np.eye(1)).tolist() == [1.0]
    fixed = limits("AB", min_weight={"A": 0.25, "B": 0.75}, max_weight={"A": 0.25, "B": 0.75}, max_risk_share=0.95)
    assert within(np.array([0.5, 0.5]), fixed, np.eye(2)).tolist() == [0.25, 0.75]


# ---------------------------------------------------------------- infeasible
def infeasible(rng: np.random.Generator, kind: int) -> tuple[list[str], dict[str, Any], list[str]]:
    """Assets a0 ..., limits that none of their portfolios keeps, and the words that the message must hold."""
    n = int(rng.integers(4, 25))
    names = [f"a{i}" for i in range(n)]
    w, short = rng.dirichlet(np.full(n, 2.0)), rng.uniform(0.5, 0.999)
    half = {name: "left" if i % 2 else "right" for i, name in enumerate(names)}
    if kind == 0:  # caps below 1
        asked, words = {"max_weight": dict(zip(names, w * short, strict=True))}, "max_weight of a0|leave only|loosen"
    elif kind == 1:  # floors above 1
        floors = np.minimum(w / short, 1.0) + 1e-3
        asked = {"min_weight": dict(zip(names, floors.clip(max=1), strict=True))}
        words = "min_weight of a0|ask for|lower"
    elif kind == 2:  # a group's floor above its members' caps
        caps = dict.fromkeys(names[::2], 0.3 * short / n)
        asked = {"max_weight": caps, "groups": half, "group_min": {"right": 0.4}}
        words = "max_weight of a0, a2|group_min of right|contradict"
    elif kind == 3:  # a group's cap below its members' floors
        asked = {"min_weight": {"a0": 0.2, "a2": 0.2}, "groups": half, "group_max": {"right": 0.39 * short}}
        words = "min_weight of a0, a2|group_max of right|contradict"
    elif kind == 4:  # group caps below 1
        asked = {"groups": half, "group_max": {"left": 0.4, "right": 0.6 * short}}
        words = "group_max of left, right|leave only"
    elif kind == 5:  # overlapping: two floors on disjoint parts, a cap on the whole
        both = {name: [side, "all"] for name, side in half.items()}
        asked = {"groups": both, "group_min": {"left": 0.3, "right": 0.3}, "group_max": {"all": 0.6 * short}}
        words = "group_max of all|group_min of left, right|contradict"
    elif kind == 6:  # overlapping: what is outside is capped too
        both = {name: ["most"] if i else ["most", "few"] for i, name in enumerate(names[:-1])}
        asked = {"groups": both, "group_max": {"most": 0.5, "few": 0.1}, "max_weight": {names[-1]: 0.5 * short}}
        words = f"max_weight of {names[-1]}|group_max of most|leave only"
    elif kind == 7:  # one floor bears too much of the risk
        asked, words = {"min_weight": {"a1": rng.uniform(0.5, 0.9)}, "max_risk_share": 0.3}, "share of 0.3|by a1|min_weight of a1"
    elif kind == 8:  # the risk cap asks for more assets than may be held
        none = dict.fromkeys(names[1:], 0.0)
        asked, words = {"max_weight": none, "max_risk_share": 0.9}, "max_risk_share of 0.9|below 1/1|allow at least 1"
    else:  # two of a group's assets, and one cap, bear too much of the risk
        asked = {"groups": dict.fromkeys(names[:2], "pair"), "group_min": {"pair": 0.9}, "max_weight": {"a0": 0.4}}
        asked["max_risk_share"], words = 0.4, "max_risk_share of 0.4|by a1|max_weight of a0|bounds of group pair"
    return names, asked, words.split("|")


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", range(10))
def test_a_thousand_infeasible_limits_are_refused_by_name(kind: int) -> None:
    rng = np.random.default_rng(kind)
    for _ in range(110 if kind < 9 else 10):
        names, asked, words = infeasible(rng, kind)
        n = len(names)
        with pytest.raises(OptimizationError) as refusal:
            within(np.full(n, 1 / n), limits(names, **asked), np.eye(n))
        assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_a_refused_risk_cap_has_no_portfolio_on_a_fine_grid() -> None:
    """Three assets: where the search, or the proof from a minimum, says no, a grid over all portfolios agrees."""
    rng = np.random.default_rng(1)
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12]).clip(min=0.0)
    said = {True: 0, False: 0}
    for _ in range(45):
        root = rng.normal(0.3, 1.0, (3, 3))
        covariance, low = root @ root.T + 0.1 * np.eye(3), rng.choice([0.0, 0.2, 0.5], 3) * (np.arange(3) == rng.integers(3))
        cap = rng.uniform(0.34, 0.7)
        margin = grid @ covariance
        risk = (grid * margin / (grid * margin).sum(axis=1, keepdims=True)).max(axis=1)
        possible = bool((risk[(grid >= low).all(axis=1)] < cap - 0.01).any())
        try:
            within(np.ones(3) / 3, limits("ABC", min_weight=dict(zip("ABC", low, strict=True)), max_risk_share=cap), covariance)
        except OptimizationError:
            assert not possible
            said[False] += 1
        else:
            said[True] += 1
    assert min(said.values()) >= 6


@pytest.mark.parametrize(
    ("target", "asked", "says"),
    [
        ([0.6, 0.4, 0.0], {"max_weight": {"A": 0.5, "B": 0.4}}, "and z has weight zero to begin with"),
        ([0.6, 0.4, 0.0], {"groups": {"z": "g"}, "group_min": {"g": 0.1}}, "group_min of g .*z has weight zero to begin with"),
        ([0.6, 0.4, 0.0], {"max_risk_share": 0.4}, "max_risk_share of 0.4 cannot be met"),
    ],
)
def test_a_zero_to_begin_with_is_said(target: list[float], asked: dict[str, Any], says: str) -> None:
    with pytest.raises(OptimizationError, match=says):
        within(np.array(target), limits(["A", "B", "z"], **asked), np.eye(3))


def test_what_binds_is_named() -> None:
    covariance = np.diag([4.0, 1.0, 1.0, 1.0])
    asked = {"groups": {"A": "one", "B": "two", "C": ["two", "three"]}, "group_max": {"two": 0.5, "three": 0.9}}
    checked = limits("ABCD", min_weight={"D": 0.1}, max_weight={"A": 0.4}, group_min={"one": 0.3}, max_risk_share=0.6, **asked)
    assert binding(np.array([0.4, 0.25, 0.25, 0.1]), checked) == {"min_weight": ["D"], "max_weight": ["A"], "group_max": ["two"]}
    assert binding(np.array([0.3, 0.3, 0.2 - 1e-10, 0.2]), checked) == {"group_min": ["one"], "group_max": ["two"]}
    assert binding(np.array([0.35, 0.3, 0.15, 0.2]), checked) == {}
    assert binding(np.array([0.35, 0.3, 0.15, 0.2]), checked, np.eye(4)) == {}
    weights = within(np.array([0.7, 0.1, 0.1, 0.1]), limits("ABCD", max_risk_share=0.6), covariance)
    assert binding(weights, limits("ABCD", max_risk_share=0.6), covariance) == {"max_risk_share": ["A"]}
    assert binding(weights, limits("ABCD"), covariance) == {}
    assert binding(np.array([1.0, 0, 0, 0]), limits("ABCD", max_risk_share=1.0), covariance) == {}  # alone bears all
    assert binding(np.array([1.0, 0, 0, 0]), checked, np.zeros((4, 4))).keys() == {"min_weight", "max_weight"}


BAD = {
    "unknown asset": ({"max_weight": {"XRP": 0.2}}, "max_weight names XRP, but the assets are A, B, C"),
    "unknown asset in groups": ({"groups": {"XRP": "g"}}, "groups name XRP, but the assets are A, B, C"),
    "unknown group": ({"groups": {"A": "g"}, "group_max": {"h": 0.2}}, "group_max names h, but the groups are g"),
    "minimum above maximum": ({"min_weight": {"B": 0.4}, "max_weight": 0.3 + 0.1 - 0.05}, "min_weight of B is 0.4, above its"),
    "group minimum above maximum": (
        {"groups": {"A": "g"}, "group_min": {"g": 0.4}, "group_max": {"g": 0.3}},
        "group_min of g is 0.4, above its maximum 0.3",
    ),
    "groups as text": ({"groups": "g"}, "groups is 'g': give a mapping from asset to group"),
    "groups as pairs": ({"groups": [("A", "g")]}, "give a mapping from asset to group, such as {'A': 'majors'}"),
    "bounds without groups": ({"group_max": {"g": 0.1}}, "group_max names g, but groups= is missing"),
    "minimum without groups": ({"group_min": {"g": 0.1}, "groups": {}}, "group_min names g, but groups= is missing"),
    "one bound for all groups": ({"group_max": 0.1, "groups": {"A": "g"}}, "group_max is 0.1: give a mapping from group"),
    "NaN": ({"max_weight": {"A": np.nan}}, "max_weight of A is nan: give a fraction"),
    "text": ({"min_weight": {"A": "0.1"}}, "min_weight of A is '0.1': give a fraction"),
    "None": ({"min_weight": {"A": None}}, "min_weight of A is None: give a fraction"),
    "truth": ({"min_weight": True}, "min_weight is True: give a fraction"),
    "negative": ({"min_weight": -0.1}, "min_weight is -0.1: give a fraction"),
    "per cent": ({"max_weight": 40}, "max_weight is 40: give a fraction from 0 to 1"),
    "risk share": ({"max_risk_share": 1.5}, "max_risk_share is 1.5"),
    "risk share below the equal one": ({"max_risk_share": 0.3}, "below 1/3, the equal share of the 3 assets"),
    "equal caps": ({"max_weight": 0.3}, "max_weight of A, B, C leave only 0.9 of 1 to invest"),
}


@pytest.mark.parametrize("name", BAD)
def test_limits_that_make_no_sense_are_refused(name: str) -> None:
    asked, says = BAD[name]
    with pytest.raises(OptimizationError) as refusal:
        limits("ABC", **asked)
    assert says in str(refusal.value)


HALF = np.array([0.5, 0.5])


@pytest.mark.parametrize(
    ("target", "covariance", "says"),
    [
        (np.ones(3) / 3, np.eye(3), r"shape \(3,\), but the limits are of 2 assets"),
        (np.array([1.5, -0.5]), np.eye(2), "target of B is negative"),
        (np.array([np.nan, 1.0]), np.eye(2), "target of A is negative or not a number"),
        (np.array([0.5, 0.4]), np.eye(2), "sums to 0.9"),
        (HALF, None, "needs a finite covariance"),
        (HALF, np.eye(3), r"this one is \(3, 3\)"),
        (HALF, np.full((2, 2), np.nan), "holds NaN"),
        (HALF, np.array([[1.0, -1.0], [-1.0, 1.0]]), "no variance"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(target: Array, covariance: Array | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        within(target, limits("AB", max_risk_share=0.6), covariance)


def test_trivial_and_disjoint() -> None:
    assert limits("AB").trivial and limits("AB", groups={"A": "g"}, group_max={"g": 1.0}).trivial
    for asked in ({"min_weight": 0.1}, {"max_weight": {"A": 0.9}}, {"max_risk_share": 0.9}):
        assert not limits("AB", **asked).trivial  # type: ignore[arg-type]
    assert limits("AB", groups={"A": ["g", "h"]}, group_max={"g": 0.5}).disjoint
    assert not limits("AB", groups={"A": ["g", "h"]}, group_max={"g": 0.5, "h": 0.5}).disjoint


def test_an_answer_that_breaks_a_group_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    both = limits("ABC", groups={"A": ["g", "h"], "B": "h"}, group_max={"g": 0.2, "h": 0.5})
    monkeypatch.setattr(bounds, "nearest_weights", lambda target, inside: target)
    with pytest.raises(OptimizationError, match="no weights were found"):
        within(np.array([0.6, 0.3, 0.1]), both)
