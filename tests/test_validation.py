"""Splitters that never teach the future, paths that are whole, and overfitting counted as a plain loop counts it."""
from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from portfolio_research.config import ConfigError, DataError
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.validation import (
    CombinatorialPurgedSplit,
    WalkForwardSplit,
    assemble_paths,
    probability_of_overfitting,
)

RNG = np.random.default_rng(5)
RETURNS = pd.DataFrame(
    RNG.normal(0, 0.01, (300, 5)), pd.date_range("2020-01-01", periods=300, tz="UTC"), list("abcde")
)


# ---------------------------------------------------------------- walk forward
@given(
    st.integers(1, 30), st.integers(1, 10), st.none() | st.integers(1, 12), st.integers(0, 5), st.integers(0, 5),
    st.booleans(), st.integers(0, 60),
)  # fmt: skip
def test_a_walk_forward_never_teaches_the_future(train, test, step, purge, embargo, expanding, spare) -> None:
    walk = WalkForwardSplit(train, test, step, purge, embargo, expanding)
    X = np.zeros((train + purge + embargo + test + spare, 2))
    splits = list(walk.split(X))
    assert len(splits) == walk.get_n_splits(X) >= 1
    for k, (learnt, tested) in enumerate(splits):
        assert tested[0] - learnt[-1] - 1 == purge + embargo and len(tested) == test
        assert learnt[0] == (0 if expanding else k * (step or test))
        assert len(learnt) == (train + k * (step or test) if expanding else train)
    assert splits[-1][1][-1] + (step or test) >= len(X)  # one more would not fit


def test_grid_search_takes_both_splitters() -> None:
    for cv, count in ((WalkForwardSplit(100, 50, purge=2), 3), (CombinatorialPurgedSplit(5, 2, 2, 3), 10)):
        grid = {"linkage": ["single", "ward"]}
        search = GridSearchCV(HierarchicalRiskParity(), grid, cv=cv, error_score="raise").fit(RETURNS)
        assert search.n_splits_ == count and search.best_params_["linkage"] in ("single", "ward")
        assert clone(search).cv == cv
        assert len(cross_val_score(HierarchicalRiskParity(), RETURNS, cv=cv)) == count


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WalkForwardSplit(0, 1), "train is 0"),
        (lambda: WalkForwardSplit(1, 1, step=0), "step is 0"),
        (lambda: WalkForwardSplit(1, 1, purge=-1), "purge is -1"),
        (lambda: WalkForwardSplit(1.5, 1), "train is 1.5"),
        (lambda: CombinatorialPurgedSplit(3, 3), "one at least must teach"),
        (lambda: CombinatorialPurgedSplit(1, 1), "n_groups is 1"),
        (lambda: CombinatorialPurgedSplit(3, True), "n_test_groups is True"),
    ],
)
def test_a_senseless_splitter_is_refused_when_made(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="5 too few"):
        WalkForwardSplit(10, 5).get_n_splits(range(10))
    with pytest.raises(DataError, match="rows to be split are missing"):
        WalkForwardSplit(10, 5).get_n_splits()
    with pytest.raises(DataError, match="4 rows cannot be cut"):
        next(CombinatorialPurgedSplit(5, 1).split(range(4)))
    with pytest.raises(DataError, match="nothing is left"):
        next(CombinatorialPurgedSplit(2, 1, purge=10).split(range(20)))


# ---------------------------------------------------------------- combinatorial, purged
@given(st.integers(2, 7), st.data(), st.integers(0, 4), st.integers(0, 4), st.integers(40, 60))
def test_purge_and_embargo_keep_their_distance(groups, data, purge, embargo, n) -> None:
    tested = data.draw(st.integers(1, groups - 1))
    split = CombinatorialPurgedSplit(groups, tested, purge, embargo)
    edges = np.cumsum([0, *(len(part) for part in np.array_split(range(n), groups))])
    X = np.zeros(n)
    try:
        splits = list(split.split(X))
    except DataError:
        return
    assert len(splits) == comb(groups, tested) == split.get_n_splits()
    for chosen, (train, test) in zip(combinations(range(groups), tested), splits, strict=True):
        spans = [(edges[g], edges[g + 1]) for g in chosen]
        assert test.tolist() == [row for a, b in spans for row in range(a, b)]
        allowed = [t for t in range(n) if all(t < a - purge or t >= b + purge + embargo for a, b in spans)]
        assert train.tolist() == allowed


@given(st.integers(2, 7), st.data())
def test_paths_use_every_result_once_and_are_whole(groups, data) -> None:
    tested = data.draw(st.integers(1, groups - 1))
    split = CombinatorialPurgedSplit(groups, tested)
    X = pd.Series(np.arange(45.0))
    splits = list(split.split(X))
    assert split.paths().shape == (comb(groups - 1, tested - 1), groups)
    # the result of split k on row t is k + t / 100, so that one can see where each value came from
    joined = assemble_paths(split, [k + X.iloc[test] / 100 for k, (_, test) in enumerate(splits)], X)
    assert joined.notna().all(axis=None) and joined.index.equals(X.index)
    assert np.allclose(np.modf(joined.round(6))[0].round(2), np.tile(X.to_numpy()[:, None] / 100, joined.shape[1]))
    came = np.floor(joined.to_numpy() + 1e-9)
    for k, (_, test) in enumerate(splits):
        assert (came == k).sum() == len(test)


def test_results_that_do_not_fit_are_refused() -> None:
    split = CombinatorialPurgedSplit(3, 1)
    with pytest.raises(DataError, match="results of 2 splits, must be 3"):
        assemble_paths(split, [[], []], range(9))
    with pytest.raises(DataError, match="split 1 gave 2 results for 3"):
        assemble_paths(split, [[1, 2, 3], [1, 2], [1, 2, 3]], range(9))


# ---------------------------------------------------------------- overfitting
def by_hand(x: np.ndarray, groups: int) -> tuple[list[float], list[float], list[float]]:
    """Logits and the winners' performances of every half, one after the other."""
    cut, logits, seen, later = np.array_split(x, groups), [], [], []
    for chosen in combinations(range(groups), groups // 2):
        known, hidden = (np.concatenate([cut[g] for g in range(groups) if (g in chosen) == inside])
                         for inside in (True, False))
        a, b = (half.mean(0) / half.std(0, ddof=1) for half in (known, hidden))
        best = int(np.argmax(a))
        omega = rankdata(b)[best] / (x.shape[1] + 1)
        logits.append(np.log(omega / (1 - omega)))
        seen.append(a[best])
        later.append(b[best])
    return logits, seen, later


@pytest.mark.parametrize(("groups", "trials"), [(2, 2), (4, 3), (8, 7), (10, 30)])
def test_overfitting_is_what_a_loop_finds(groups: int, trials: int) -> None:
    x = RNG.normal(0.0005, 0.01, (groups * 11, trials))
    surplus = RNG.normal(0, 1, (groups - 1, trials))  # at the old end: not looked at
    found = probability_of_overfitting(pd.DataFrame(np.concatenate([surplus, x])), n_groups=groups)
    logits, seen, later = by_hand(x, groups)
    assert np.allclose(found.halves["logit"], logits, rtol=1e-12)
    assert np.allclose(found.halves["in_sample"], seen, rtol=1e-9)
    assert np.allclose(found.halves["out_of_sample"], later, rtol=1e-9)
    assert found.pbo == np.mean(np.array(logits) <= 0) and found.probability_of_loss == np.mean(np.array(later) < 0)
    assert found.slope == pytest.approx(np.polyfit(seen, later, 1)[0]) and found.rows == len(x)


def test_copies_of_one_trial_tie() -> None:
    one = RNG.normal(0, 0.01, 64)
    found = probability_of_overfitting(pd.DataFrame(dict.fromkeys("abc", one)), n_groups=8)
    assert (found.halves["logit"] == 0).all() and (found.halves["chosen"] == "a").all() and found.pbo == 1


def test_levels_far_from_zero_cost_no_digits() -> None:
    x = RNG.normal(0.05, 1e-4, (160, 5))  # a Sharpe ratio of 500 per period
    found = probability_of_overfitting(pd.DataFrame(x), n_groups=8)
    assert np.allclose(found.halves["in_sample"], by_hand(x, 8)[1], rtol=1e-7)


def test_what_peers_find() -> None:
    ffn = pytest.importorskip("ffn.core", reason="ffn is not installed: pip install -e '.[peers]'")
    x = pd.DataFrame(RNG.normal(0.0002, 0.01, (96, 12)))
    theirs = ffn.calc_prob_backtest_overfitting(x, n_blocks=8, full_output=True)
    ours = probability_of_overfitting(x, n_groups=8)
    assert ours.pbo == theirs["pbo"] and np.allclose(ours.halves["logit"], theirs["logits"], rtol=1e-12)


@pytest.mark.parametrize(
    ("frame", "groups", "error", "says"),
    [
        (RETURNS, 3, ConfigError, "n_groups is 3"),
        (RETURNS, 22, ConfigError, "n_groups is 22"),
        (RETURNS[["a"]], 4, DataError, "1 trials of 300 returns"),
        (RETURNS.iloc[:7], 4, DataError, "of 7 returns"),
        (RETURNS.drop(RETURNS.index[9]).reindex(RETURNS.index), 4, DataError, "trial a has no return on 2020-01-10"),
        (RETURNS.assign(c=0.01), 4, DataError, "trial c has no performance"),
    ],
)
def test_what_cannot_be_compared_is_refused(frame: pd.DataFrame, groups: int, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        probability_of_overfitting(frame, n_groups=groups)
