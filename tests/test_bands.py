"""Bands: every width is what a plain loop says, caps and edges keep the sum, and nothing leaves its band."""
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.bands import ToleranceMode, aim_weights, band_widths, capped_weights
from portfolio_research.config import ConfigError

MODES = get_args(ToleranceMode)


@st.composite
def books(draw: st.DrawFn, least: int = 1) -> np.ndarray:
    "Target weights, some of them zero, not all, with a sum of at most 1."
    raw = np.array(draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.01, 1), min_size=least, max_size=8)))
    raw[0] = max(raw[0], 0.01)
    return raw / raw.sum() * draw(st.floats(0.3, 1.0))


def covariance(n: int, seed: int = 0) -> np.ndarray:
    return np.cov(np.random.default_rng(seed).normal(0, 0.03, (60, n)) * np.linspace(0.5, 2, n), rowvar=False).reshape(n, n)


def plain_width(target: list[float], i: int, mode: str, cov: np.ndarray, tolerance: float, cost: float) -> float:
    "One width in plain words."
    n, counted = len(target), target[i] or min(w for w in target if w > 0)
    book = sum(target[j] * target[k] * cov[j, k] for j in range(n) for k in range(n))
    if mode == "absolute":
        return tolerance
    if mode == "relative":
        return tolerance * counted
    if mode == "risk":
        return tolerance * book**0.5 / cov[i, i] ** 0.5
    apart = cov[i, i] - 2 * sum(cov[i, j] * target[j] for j in range(n)) + book
    return (3 * cost * counted**2 * apart / (2 * 3.0 * 0.02**2)) ** (1 / 3)


@pytest.mark.parametrize("mode", MODES)
@given(target=books(), tolerance=st.floats(0.001, 0.5), cost=st.floats(1e-5, 0.05))
def test_widths_are_those_of_a_plain_loop(mode: ToleranceMode, target: np.ndarray, tolerance: float, cost: float) -> None:
    cov = covariance(len(target))
    found = band_widths(target, mode, tolerance=tolerance, covariance=cov, cost=cost, risk_aversion=3.0,
                        normal_volatility=0.02)
    expected = [plain_width(target.tolist(), i, mode, cov, tolerance, cost) for i in range(len(target))]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7 if mode == "cost_aware" else 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_stack_of_books_is_the_books_one_by_one(mode: ToleranceMode) -> None:
    rng = np.random.default_rng(1)
    targets, tolerances = rng.dirichlet(np.ones(5), 7), rng.uniform(0.01, 0.2, 7)
    covs = np.array([covariance(5, seed) for seed in range(7)])
    together = band_widths(targets, mode, tolerance=tolerances, covariance=covs, cost=0.001)
    alone = [band_widths(t, mode, tolerance=x, covariance=c, cost=0.001)
             for t, x, c in zip(targets, tolerances, covs, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_an_asset_without_risk_may_drift_and_one_without_a_book_may_not() -> None:
    cov = np.diag([0.0, 0.04**2])
    assert np.isinf(band_widths(np.array([0.5, 0.5]), "risk", covariance=cov)[0])
    assert band_widths(np.array([1.0, 0.0]), "risk", covariance=cov)[1] == 0  # the book has no risk: any is too much


def test_cost_aware_widens_with_cost_and_variance_and_narrows_with_aversion() -> None:
    target, cov = np.array([0.5, 0.3, 0.2]), np.diag([0.02, 0.04, 0.06]) ** 2
    base = band_widths(target, "cost_aware", covariance=cov, cost=0.001)
    wilder = cov.copy()
    wilder[1, 1] *= 2
    assert (band_widths(target, "cost_aware", covariance=cov, cost=0.002) > base).all()
    assert (band_widths(target, "cost_aware", covariance=2 * cov, cost=0.001) > base).all()
    assert band_widths(target, "cost_aware", covariance=wilder, cost=0.001)[1] > base[1]
    assert (band_widths(target, "cost_aware", covariance=cov, cost=0.001, risk_aversion=10.0) < base).all()
    assert (band_widths(target, "cost_aware", covariance=cov, cost=0.0) == 0).all()


def test_what_a_mode_needs_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match="tolerance_mode is 'daily'; it is absolute"):
        band_widths(np.ones(1), "daily")  # type: ignore[arg-type]
    for mode in ("risk", "cost_aware"):
        with pytest.raises(ConfigError, match=f"tolerance_mode is {mode}, .*pass covariance="):
            band_widths(np.ones(1), mode)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pass costs="):
        band_widths(np.ones(1), "cost_aware", covariance=np.eye(1))


# ------------------------------------------------------------------ the cap
@given(books(), st.floats(0.05, 1.0))
def test_a_cap_is_kept_and_the_rest_shared_in_proportion(target: np.ndarray, cap: float) -> None:
    out = capped_weights(target, cap)
    assert (out <= cap * (1 + 1e-12)).all() and (out[target == 0] == 0).all()
    assert out.sum() == pytest.approx(min(target.sum(), cap * (target > 0).sum()), rel=1e-9)
    free = (out < cap * (1 - 1e-9)) & (target > 0)
    if free.any():
        ratio = out[free] / target[free]
        assert ratio.min() >= 1 - 1e-9 and np.ptp(ratio) <= 1e-9 * ratio.max()
    np.testing.assert_allclose(capped_weights(out, cap), out, rtol=1e-9)  # once is enough


def test_a_stack_of_targets_is_capped_row_by_row() -> None:
    targets = np.random.default_rng(2).dirichlet(np.ones(6), 20)
    np.testing.assert_allclose(capped_weights(targets, 0.25), [capped_weights(t, 0.25) for t in targets], rtol=1e-12)
    assert (capped_weights(targets, 1.0) == targets).all()


# ------------------------------------------------------------------ the edge
@st.composite
def drifted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target = draw(books(2))
    moved = target * np.array(draw(st.lists(st.floats(0.1, 3), min_size=len(target), max_size=len(target))))
    moved[target == 0] = draw(st.floats(0, 0.2))
    widths = np.array(draw(st.lists(st.floats(0.001, 0.3), min_size=len(target), max_size=len(target))))
    return moved / moved.sum() * draw(st.floats(0.5, 1.0)), target, widths


@given(drifted(), st.sampled_from([0.5, 1.0]))
def test_the_aim_is_inside_all_bands_and_sums_to_the_target(book: tuple[np.ndarray, ...], depth: float) -> None:
    held, target, widths = book
    out = np.abs(held - target) > widths
    aim = aim_weights(held, target, widths, out, depth)
    assert aim.sum() == pytest.approx(target.sum(), rel=1e-9) and (aim >= 0).all()
    assert (np.abs(aim - target) <= widths * (1 + 1e-9) + 1e-12).all()
    over, under = out & (held > target), out & (held < target)
    assert (aim[over] <= (target + depth * widths)[over] + 1e-12).all()
    assert (aim[under] >= np.maximum(target - depth * widths, 0)[under] - 1e-12).all()
    assert (aim[out & (target == 0)] == 0).all()


@given(drifted())
def test_money_goes_to_what_is_furthest_off_and_nothing_passes_its_target(book: tuple[np.ndarray, ...]) -> None:
    held, target, widths = book
    out = np.abs(held - target) > widths
    aim = aim_weights(held, target, widths, out, 1.0)
    quiet = ~out & (target > 0)
    bought, sold = quiet & (aim > held + 1e-12), quiet & (aim < held - 1e-12)
    assert not (bought.any() and sold.any())  # one side balances, never both
    off = (aim - target) / widths
    assert (aim[bought] <= target[bought] + 1e-9).all() and (aim[sold] >= target[sold] - 1e-9).all()
    if bought.any():
        assert np.ptp(off[bought]) < 1e-6 and off[quiet].min() >= off[bought].min() - 1e-6
    if sold.any():
        assert np.ptp(off[sold]) < 1e-6 and off[quiet].max() <= off[sold].max() + 1e-6


def test_bands_without_end_and_without_width() -> None:
    held, target = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    aim = aim_weights(held, target, np.array([0.1, np.inf, 0.05]), np.array([True, False, True]), 1.0)
    np.testing.assert_allclose(aim.sum(), 1.0)
    assert aim[0] == 0.5 and aim[2] >= 0.15
    np.testing.assert_allclose(aim_weights(held, target, np.zeros(3), np.ones(3, dtype=bool), 1.0), target)
