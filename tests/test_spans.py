"""Spans join as if their returns had been looked at together, whatever the width and however wild the returns."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.spans import path_of, spread_of, windows

WILD = st.lists(st.one_of(st.floats(-0.9, 4.0), st.just(0.0), st.just(-1.0)), min_size=1, max_size=90)


def fall(x):
    wealth = np.cumprod(np.r_[1.0, 1 + x])
    with np.errstate(invalid="ignore"):
        return np.min(wealth / np.maximum.accumulate(wealth))


@settings(max_examples=80, deadline=None)
@given(WILD, st.integers(1, 90))
def test_every_window_is_what_its_returns_say(values, width):
    x, width = np.array(values), min(width, len(values))
    short = np.minimum(x - 0.01, 0.0)
    spread, path = windows(spread_of(x, short), width), windows(path_of(x), width)
    assert spread.size == path.size == width and len(spread.mean) == len(path.ratio) == len(x) - width + 1
    for i in range(len(x) - width + 1):
        part = x[i : i + width]
        np.testing.assert_allclose(spread.mean[i], part.mean(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(spread.squares[i], part.var() * width, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(spread.below[i], (short[i : i + width] ** 2).sum(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(path.growth[i], np.prod(1 + part), rtol=1e-12)
        np.testing.assert_allclose(path.ratio[i], fall(part), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 63, 64, 255, 256, 300])
def test_a_constant_has_exactly_no_dispersion(width):
    x = np.full(300, 0.1)
    assert (windows(spread_of(x, x * 0), width).squares == 0).all()


def test_columns_are_series_of_their_own():
    x = np.random.default_rng(2).normal(0, 0.02, (50, 3))
    both = windows(path_of(x), 20)
    for k in range(3):
        np.testing.assert_array_equal(both.ratio[:, k], windows(path_of(x[:, k]), 20).ratio)


def test_a_gap_stays_a_gap():
    x = np.r_[0.1, np.nan, 0.1, 0.2, 0.3]
    known = ~np.isnan([windows(spread_of(x, x * 0), 2).mean, windows(path_of(x), 2).ratio])
    assert known.tolist() == [[False, False, True, True]] * 2
