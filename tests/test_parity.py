"""A replay through the engine is the back-test: same prices, same settings, same equity."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engine_runs import OPTIONS, market, run, settings

from portfolio_research.backtest import BacktestResult, walk_forward
from portfolio_research.calendars import calendar_from
from portfolio_research.config import Settings
from portfolio_research.costs import costs_from
from portfolio_research.data import sample_prices
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.rebalancing import policy_from
from portfolio_research.store import Store, ledger, telemetry
from portfolio_research.targets import optimizer_from

pytestmark = pytest.mark.no_cover  # many bars over the same lines: tracing them only takes time


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    return Store.open(tmp_path / "portfolio.db", durable=False)


def compare(
    wanted: Settings, prices: pd.DataFrame, store: Store, start: pd.Timestamp | str
) -> tuple[set[str], BacktestResult]:
    """Run both, compare them bar by bar, and return the kinds of orders that there were, and the back-test."""
    begin = pd.Timestamp(start) if isinstance(start, pd.Timestamp) else pd.Timestamp(start, tz="UTC")
    run(wanted, prices, store, start=begin.to_pydatetime())
    expected = walk_forward(
        prices, policy=policy_from(wanted), costs=costs_from(wanted), lookback=wanted.portfolio.rebalancing.lookback,
        start=begin, capital=wanted.portfolio.capital, estimator=optimizer_from(wanted),
    )
    with store.read() as conn:
        curve = telemetry.equity(conn, "main")
        decisions = ledger.rebalances(conn, "main")[::-1]
        kinds = {order.kind for order in ledger.order_history(conn, "main")}
        targets = [telemetry.latest_targets(conn, "main", point.ts) for point in curve]
    assert [point.ts for point in curve] == list(expected.equity.index)
    np.testing.assert_allclose([point.equity for point in curve], expected.equity.to_numpy(), rtol=1e-9)
    assert [row.state == "done" for row in decisions] == expected.nav.index.isin(expected.costs.index).tolist()
    stored = pd.DataFrame([found[1] for found in targets if found], expected.weights.index)[expected.weights.columns]
    np.testing.assert_allclose(stored.to_numpy(), expected.weights.to_numpy(), atol=1e-9)
    return kinds, expected


def test_the_crash_of_2020_is_the_back_test(store: Store) -> None:
    kinds, _ = compare(Settings(engine={"speed": 0}), sample_prices().loc[:"2020-04-30"], store, "2019-08-01")  # type: ignore
    assert "market" in kinds


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_markets_are_the_back_test(store: Store, seed: int) -> None:
    prices = market(seed)
    wanted = settings(tolerance=0.02, min_trade_size=400.0, large_trade_threshold=2_000.0, twap_slices=3)
    assert compare(wanted, prices, store, prices.index[60])[0] == {"market", "twap"}


@pytest.mark.parametrize("rebalancing", [
    {"tolerance": 0.15, "tolerance_mode": "relative", "trade_to": "edge", "max_position": 0.3},
    {"tolerance": 0.05, "trade_to": "halfway", "tolerance_mode": "risk"},
    {"tolerance_mode": "cost_aware", "trade_to": "edge"},
])
def test_with_bands_caps_spread_and_makers_it_is_the_back_test(store: Store, rebalancing: dict[str, object]) -> None:
    prices = market(4, bars=100)
    wanted = settings(min_trade_size=50.0, large_trade_threshold=5_000.0, **rebalancing)
    costs = {"fee": 0.001, "spread": 0.002, "slippage": 0.0003, "maker_fee": 0.0002, "maker_share": 0.4}
    wanted = Settings(**wanted.model_dump() | {"portfolio": wanted.portfolio.model_dump() | {"costs": costs}})
    kinds, found = compare(wanted, prices, store, prices.index[60])
    assert "market" in kinds and len(found.costs) > 3
    with store.read() as conn:
        paid = sum(fill.fee + fill.slippage for fill in ledger.fills(conn, "main"))
    assert float(paid) == pytest.approx(found.costs.sum(), rel=1e-6)


def test_with_every_option_of_the_optimiser_it_is_the_back_test(store: Store) -> None:
    prices = market(1, assets=8, bars=110)
    wanted = settings(OPTIONS, tolerance=0.02, min_trade_size=50.0, large_trade_threshold=2_000.0, twap_slices=3)
    _, found = compare(wanted, prices, store, prices.index[60])
    options = optimizer_from(wanted).get_params()
    for off in ({"order_tolerance": 0.0}, {"trading_cost": 0.0}, {"max_weight": 1.0}, {"max_risk_share": None},
                {"merge_correlated": None}):  # each of them matters here: the comparison was about all of them
        without = HierarchicalRiskParity(**options | off)
        other = walk_forward(prices.iloc[:85], policy=policy_from(wanted), costs=costs_from(wanted), lookback=60,
                       start=prices.index[60], estimator=without)
        assert np.abs(other.weights - found.weights.iloc[: len(other.weights)]).to_numpy().max() > 1e-4, off


@pytest.mark.parametrize("when", [{"frequency": "weekly"}, {"interval_hours": 60}])
def test_on_a_calendar_it_is_the_back_test(store: Store, when: dict[str, object]) -> None:
    prices = market(2, bars=100)
    wanted = settings(tolerance=0.01, high_volatility_tolerance=0.01, **when)
    begin = prices.index[60]
    run(wanted, prices, store, start=begin.to_pydatetime())
    expected = walk_forward(prices, policy=policy_from(wanted), costs=costs_from(wanted), lookback=60, start=begin,
                            capital=wanted.portfolio.capital, step=calendar_from(wanted))  # type: ignore[arg-type]
    with store.read() as conn:
        curve, slots = telemetry.equity(conn, "main"), [row.slot for row in ledger.rebalances(conn, "main")][::-1]
    assert slots == list(expected.weights.index) and 2 < len(expected.costs) < len(curve) / 2
    np.testing.assert_allclose([point.equity for point in curve], expected.equity.to_numpy(), rtol=1e-9)
