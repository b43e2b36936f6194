"""The tree and its cuts: every fast path against the slow one that it replaces, on any data."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform

from portfolio_research.config import OptimizationError
from portfolio_research.covariance import moments
from portfolio_research.tree import (
    LINKAGES,
    Split,
    cluster,
    cluster_of_returns,
    correlation_distance,
    distance_of_distances,
    halvings,
    leaves,
    multiply_shares,
    refuse_hedges,
    split_shares,
    split_shares_of_returns,
)


def noise(rows: int, assets: int, seed: int = 0) -> np.ndarray:
    """Returns with groups, some common factors and volatilities over three orders of magnitude."""
    rng = np.random.default_rng([rows, assets, seed])
    factors = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, assets))
    return (factors + rng.normal(size=(rows, assets))) * 10 ** rng.uniform(-4, -1, assets)


shapes = st.tuples(st.integers(5, 60), st.integers(1, 70), st.integers(0, 10_000))


# ---------------------------------------------------------------- distances


@given(shapes)
def test_distances_against_scipy(shape: tuple[int, int, int]) -> None:
    correlation, _ = moments(noise(*shape))
    distance = correlation_distance(correlation)
    np.testing.assert_array_equal(distance, np.sqrt((1 - correlation) / 2))
    np.testing.assert_allclose(distance_of_distances(distance), pdist(distance), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 300])
def test_distances_where_a_slab_ends(n: int) -> None:
    distance = correlation_distance(moments(noise(400, n))[0])
    np.testing.assert_allclose(distance_of_distances(distance), pdist(distance), rtol=1e-12)


def test_distances_leave_their_input_alone() -> None:
    correlation, _ = moments(noise(40, 5))
    kept = correlation.copy()
    for distance in ("paper", "direct"):
        cluster(correlation, distance=distance)
    apart = correlation_distance(correlation)
    twin = apart.copy()
    distance_of_distances(apart)
    assert (correlation == kept).all() and (apart == twin).all()


@pytest.mark.parametrize("epsilon", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
def test_near_copies_keep_their_digits(epsilon: float) -> None:
    values = noise(100, 150)
    copied = np.column_stack([values, values[:, [3, 140]] + epsilon * noise(100, 2) * values.std()])
    distance = correlation_distance(moments(copied)[0])
    np.testing.assert_allclose(distance_of_distances(distance), pdist(distance), rtol=1e-9, atol=1e-300)


def test_a_market_of_near_copies_in_many_pieces() -> None:
    rng = np.random.default_rng(5)
    one = rng.normal(size=(80, 1))
    values = np.column_stack([one + 1e-7 * rng.normal(size=(80, 190)), rng.normal(size=(80, 5))])
    distance = correlation_distance(moments(values)[0])
    assert 190 * 189 // 2 > 2**18 // 195  # more pairs than are looked at again in one go
    np.testing.assert_allclose(distance_of_distances(distance), pdist(distance), rtol=1e-9)


def test_a_second_look_is_taken_by_the_size_of_both() -> None:
    """One asset against all others makes rows of very different length; the short ones still keep their digits."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=(300, 1)) + 1e-3 * rng.normal(size=(300, 60))
    values[:, 17] *= -1
    distance = correlation_distance(moments(values)[0])
    np.testing.assert_allclose(distance_of_distances(distance), pdist(distance), rtol=1e-9)


# ---------------------------------------------------------------- the tree


@given(shape=shapes, distance=st.sampled_from(["paper", "direct"]), linkage=st.sampled_from(LINKAGES))
@settings(max_examples=80)
def test_the_tree_is_scipys(shape: tuple[int, int, int], distance: str, linkage: str) -> None:
    correlation, _ = moments(noise(*shape))
    n = len(correlation)
    merges = cluster(correlation, distance=distance, linkage=linkage)
    if n == 1:
        assert merges.shape == (0, 4)
        return
    apart = np.sqrt((1 - correlation) / 2)
    pairs = pdist(apart) if distance == "paper" else squareform(apart, checks=False)
    expected = hierarchy.linkage(pairs, linkage)
    np.testing.assert_allclose(merges[:, 2], expected[:, 2], rtol=1e-9)
    assert hierarchy.is_valid_linkage(merges)
    assert (merges[:, [0, 1, 3]] == expected[:, [0, 1, 3]]).all()


@given(shape=shapes, linkage=st.sampled_from(LINKAGES), order=st.sampled_from(["linkage", "optimal"]))
@settings(max_examples=60)
def test_leaves_are_scipys(shape: tuple[int, int, int], linkage: str, order: str) -> None:
    correlation, _ = moments(noise(*shape))
    merges, n = cluster(correlation, linkage=linkage, order=order), len(correlation)
    found = leaves(merges, n)
    assert found.dtype == np.intp and sorted(found) == list(range(n))
    assert n == 1 or (found == hierarchy.leaves_list(merges)).all()


def test_optimal_order_brings_neighbours_together() -> None:
    correlation, _ = moments(noise(60, 40))
    apart = squareform(distance_of_distances(correlation_distance(correlation)))

    def way(order: str) -> float:
        found = leaves(cluster(correlation, order=order), 40)
        return float(sum(apart[a, b] for a, b in pairwise(found)))

    assert way("optimal") < way("linkage")


def test_a_chain_is_no_recursion() -> None:
    n = 3000  # each merge takes one more leaf in; Python would stop a recursion at 1000
    last = np.concatenate([[0], np.arange(n, 2 * n - 2)])
    merges = np.column_stack([np.arange(1, n), last, np.arange(1, n), np.arange(2, n + 1)]).astype(float)
    assert leaves(merges, n).tolist() == [*range(n - 1, 0, -1), 0]


@pytest.mark.parametrize("parameter", ["distance", "linkage", "order"])
def test_unknown_parameters_list_the_known_ones(parameter: str) -> None:
    with pytest.raises(OptimizationError, match=rf"{parameter}='nearest' does not exist: use one of .*,"):
        cluster(np.eye(1), **{parameter: "nearest"})


# ---------------------------------------------------------------- without the matrix


def same_tree(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal merges in equal order, heights up to rounding."""
    assert (found[:, [0, 1, 3]] == expected[:, [0, 1, 3]]).all()
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=1e-10)


@given(shapes)
@settings(max_examples=80)
def test_matrix_free_is_dense(shape: tuple[int, int, int]) -> None:
    values = noise(*shape)
    same_tree(cluster_of_returns(values), cluster(moments(values)[0], distance="direct"))


@pytest.mark.parametrize(("rows", "assets"), [(400, 255), (400, 256), (400, 257), (60, 900), (250, 2000)])
def test_matrix_free_is_dense_when_rows_are_dropped(rows: int, assets: int) -> None:
    values = noise(rows, assets)
    correlation, volatility = moments(values)
    merges = cluster_of_returns(values)
    same_tree(merges, cluster(correlation, distance="direct"))
    order = leaves(merges, assets)
    weights = multiply_shares(split_shares_of_returns(values, order))
    np.testing.assert_allclose(weights, multiply_shares(split_shares(correlation, volatility, order)), atol=1e-12)


def test_matrix_free_when_nothing_is_alike() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1200))  # the walk cannot guess where it goes
    same_tree(cluster_of_returns(values), cluster(moments(values)[0], distance="direct"))


@pytest.mark.parametrize("seed", range(20))
def test_equal_distances_join_in_scipys_order(seed: int) -> None:
    """Signs have exact correlations, so that distances are equal to the last bit, many at a time."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(8, 24))
    values = np.vstack([signs, -signs])  # mean zero, length 4
    same_tree(cluster_of_returns(values), cluster(np.clip(values.T @ values / 16, -1, 1), distance="direct"))


def test_copies_and_mirrors_are_at_the_ends_of_the_scale() -> None:
    one = np.random.default_rng(1).normal(size=64)
    assert cluster_of_returns(np.column_stack([one, 3 * one]))[0].tolist() == pytest.approx([0, 1, 0, 2], abs=1e-7)
    assert cluster_of_returns(np.column_stack([one, -one]))[0].tolist() == pytest.approx([0, 1, 1, 2])
    assert cluster_of_returns(one[:, None]).shape == (0, 4)


# ---------------------------------------------------------------- the cuts


def slow_halvings(start: int, stop: int) -> list[tuple[int, int, int]]:
    """By recursion, parents first but in depth."""
    if stop - start < 2:
        return []
    middle = start + (stop - start) // 2
    return [(start, middle, stop), *slow_halvings(start, middle), *slow_halvings(middle, stop)]


@given(st.integers(1, 600))
def test_halvings_are_those_of_the_recursion(n: int) -> None:
    cuts = halvings(n)
    assert sorted(cuts) == sorted(slow_halvings(0, n))
    lengths = [stop - start for start, _, stop in cuts]
    assert all(a >= b - 1 for a, b in pairwise(lengths))  # level by level
    known = {(0, n)}
    for start, middle, stop in cuts:
        assert (start, stop) in known  # parents before children
        known |= {(start, middle), (middle, stop)}


def slow_variance(covariance: np.ndarray, half: np.ndarray) -> float:
    """Variance under inverse-variance weights, from a fresh slice."""
    block = covariance[np.ix_(half, half)]
    weights = 1 / np.diag(block)
    weights /= weights.sum()
    return float(weights @ block @ weights)


@given(shapes)
@settings(max_examples=60)
def test_splits_are_the_papers_listing(shape: tuple[int, int, int]) -> None:
    values = noise(*shape)
    correlation, volatility = moments(values)
    n = len(volatility)
    order = np.random.default_rng(shape[2]).permutation(n)
    splits = split_shares(correlation, volatility, order)
    assert [tuple(s[:3]) for s in splits] == halvings(n)
    covariance = correlation * np.outer(volatility, volatility)
    for split in splits:
        first = slow_variance(covariance, order[split.start : split.middle])
        second = slow_variance(covariance, order[split.middle : split.stop])
        assert split.first_variance == pytest.approx(first, rel=1e-9)
        assert split.second_variance == pytest.approx(second, rel=1e-9)
        assert split.share == pytest.approx(1 - first / (first + second), rel=1e-9)
        assert split.share + split.rest == pytest.approx(1, abs=1e-15)
    weights = multiply_shares(splits)
    assert len(weights) == n and abs(weights.sum() - 1) < 1e-14 and (weights >= 0).all()


@given(shapes)
@settings(max_examples=60)
def test_splits_of_returns_are_those_of_their_covariance(shape: tuple[int, int, int]) -> None:
    values = noise(*shape) + 0.01
    correlation, volatility = moments(values)
    order = np.random.default_rng(shape[2]).permutation(len(volatility))
    splits = split_shares(correlation, volatility, order)
    of_returns = split_shares_of_returns(values, order)
    assert [tuple(s[:3]) for s in splits] == [tuple(s[:3]) for s in of_returns]
    np.testing.assert_allclose(of_returns, splits, rtol=1e-8)
    np.testing.assert_allclose(multiply_shares(of_returns), multiply_shares(splits), rtol=1e-8)


@pytest.mark.parametrize("n", [63, 64, 65, 128, 129, 500, 1025])
def test_splits_where_parts_and_pieces_end(n: int) -> None:
    values = noise(300, n)
    correlation, volatility = moments(values)
    order = np.random.default_rng(n).permutation(n)
    splits, covariance = split_shares(correlation, volatility, order), correlation * np.outer(volatility, volatility)
    for split in splits:
        assert split.first_variance == pytest.approx(
            slow_variance(covariance, order[split.start : split.middle]), rel=1e-10
        )
    np.testing.assert_allclose(split_shares_of_returns(values, order), splits, rtol=1e-9)


def test_splits_are_plain_numbers() -> None:
    correlation, volatility = moments(noise(50, 7))
    for split in split_shares(correlation, volatility, np.arange(7)):
        assert isinstance(split, Split)
        assert [type(part) for part in split] == [int, int, int, float, float]


def test_weights_are_products_along_the_path() -> None:
    splits = split_shares(*moments(noise(80, 37)), np.arange(37))
    weights = multiply_shares(splits)
    for leaf in range(37):
        path = 1.0
        for split in splits:
            if split.start <= leaf < split.stop:
                path *= split.share if leaf < split.middle else split.rest
        assert weights[leaf] == path
    assert multiply_shares([]).tolist() == [1.0]


@given(st.lists(st.floats(1e-6, 1e2), min_size=1, max_size=80))
def test_unrelated_assets_get_inverse_variance(volatilities: list[float]) -> None:
    volatility = np.array(volatilities)
    weights = multiply_shares(split_shares(np.eye(len(volatility)), volatility, np.arange(len(volatility))))
    np.testing.assert_allclose(weights, volatility**-2 / (volatility**-2).sum(), rtol=1e-12)


# ---------------------------------------------------------------- hedges


def test_two_perfect_hedges_are_refused_by_name() -> None:
    correlation = np.kron(np.eye(2), [[1.0, -1.0], [-1.0, 1.0]])
    splits = split_shares(correlation, np.ones(4), np.arange(4))
    assert np.isnan(splits[0].share) and np.isnan(splits[0].rest)
    with pytest.raises(OptimizationError, match="up, down, in, out hedge each other without any risk left"):
        refuse_hedges(splits, ["up", "down", "in", "out"])


def test_hedges_of_returns_are_refused_too() -> None:
    up, down = noise(90, 2).T
    values = np.column_stack([up, -up, down, -down])
    splits = split_shares_of_returns(values, np.arange(4))
    assert splits[0].first_variance == splits[0].second_variance == 0
    with pytest.raises(OptimizationError, match="hedge each other"):
        refuse_hedges(splits, "abcd")


def test_one_perfect_hedge_takes_the_book() -> None:
    correlation = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    splits = split_shares(correlation, np.ones(3), np.array([2, 1, 0]))
    refuse_hedges(splits, "abc")
    assert multiply_shares(splits).tolist() == [0.0, 0.5, 0.5]
