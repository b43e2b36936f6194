"""Without costs every engine must come to the same value: ours beside those of skfolio, bt, vectorbt and cvxportfolio.

None of them is needed for anything else, so each test is skipped where its package is not installed.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from portfolio_research.backtest import BacktestResult, walk_forward
from portfolio_research.hrp import HierarchicalRiskParity

LOOKBACK, STEP = 126, 21
pytestmark = [pytest.mark.no_cover, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def prices() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    moves = rng.uniform(0.006, 0.03, 8) * (0.6 * rng.standard_t(5, (700, 1)) + 0.8 * rng.standard_t(5, (700, 8)))
    index = pd.date_range("2020-01-01", periods=700, tz="UTC")
    return pd.DataFrame(100 * np.cumprod(1 + np.clip(moves, -0.3, 0.3), axis=0), index, [f"A{i}" for i in range(8)])


@pytest.fixture(scope="module")
def ours(prices: pd.DataFrame) -> BacktestResult:
    return walk_forward(prices, HierarchicalRiskParity(distance="direct"), lookback=LOOKBACK, step=STEP)


def peer(name: str) -> Any:
    reason = f"{name} is not installed; to compare with it: pip install {name}"
    return pytest.importorskip(name, reason=reason, exc_type=ImportError)


def test_skfolio_from_prices_to_value(prices: pd.DataFrame, ours: BacktestResult) -> None:
    peer("skfolio")
    from skfolio.cluster import HierarchicalClustering, LinkageMethod
    from skfolio.model_selection import WalkForward, cross_val_predict
    from skfolio.optimization import HierarchicalRiskParity as Theirs
    from skfolio.seriation import HierarchicalSeriation

    tree = HierarchicalSeriation(
        hierarchical_clustering_estimator=HierarchicalClustering(linkage_method=LinkageMethod.SINGLE), optimal_ordering=False
    )
    found = cross_val_predict(
        Theirs(seriation_estimator=tree), prices.tz_localize(None).pct_change().iloc[1:],
        cv=WalkForward(test_size=STEP, train_size=LOOKBACK, reduce_test=True),
        portfolio_params={"weight_drift": True, "compounded": True},
    )  # fmt: skip
    weights = np.array([each.weights for each in found.portfolios])
    np.testing.assert_allclose(ours.weights.to_numpy()[: len(weights)], weights, atol=1e-12)
    value = np.concatenate([[1.0], np.cumprod(1.0 + found.returns)])
    np.testing.assert_allclose(ours.nav.to_numpy()[: len(value)], value, rtol=1e-12)
    assert len(value) > 500


def test_bt(prices: pd.DataFrame, ours: BacktestResult) -> None:
    bt = peer("bt")
    data = prices.loc[ours.nav.index].tz_localize(None)
    targets = ours.weights.tz_localize(None)
    algos = [bt.algos.RunOnDate(*targets.index), bt.algos.SelectAll(), bt.algos.WeighTarget(targets), bt.algos.Rebalance()]
    run = bt.Backtest(bt.Strategy("s", algos), data, integer_positions=False, progress_bar=False, initial_capital=1e6)
    run.run()
    np.testing.assert_allclose(run.strategy.prices.to_numpy()[1:] / 100.0, ours.nav, rtol=1e-12)


def test_vectorbt(prices: pd.DataFrame, ours: BacktestResult) -> None:
    vbt = peer("vectorbt")
    data = prices.loc[ours.nav.index].tz_localize(None)
    size = ours.weights.tz_localize(None).reindex(data.index)
    run = vbt.Portfolio.from_orders(data, size=size, size_type="targetpercent", group_by=True, cash_sharing=True,
                                    call_seq="auto", init_cash=1e6, freq="1D")  # fmt: skip
    np.testing.assert_allclose(run.value().to_numpy() / 1e6, ours.nav, rtol=1e-12)


def test_cvxportfolio(prices: pd.DataFrame, ours: BacktestResult) -> None:
    cvx = peer("cvxportfolio")
    frame = prices.loc[ours.nav.index].tz_localize(None)
    returns = frame.pct_change().shift(-1).iloc[:-1].assign(cash=0.0)
    targets = ours.weights.tz_localize(None)
    targets = targets.assign(cash=1.0 - targets.sum(axis=1)).reindex(frame.index[:-1])

    class Follow(cvx.policies.Policy):  # type: ignore[misc, name-defined]
        def values_in_time(self, t: Any, current_weights: Any, **rest: Any) -> Any:
            wanted = targets.loc[t]
            return current_weights if np.isnan(wanted.iloc[0]) else wanted

    market = cvx.MarketSimulator(returns=returns, cash_key="cash", min_history=pd.Timedelta("0d"), round_trades=False, costs=[])
    run = market.backtest(Follow(), start_time=frame.index[0], end_time=frame.index[-2], initial_value=1e6)
    np.testing.assert_allclose(run.v.to_numpy() / 1e6, ours.nav.iloc[:-1], rtol=1e-12)
