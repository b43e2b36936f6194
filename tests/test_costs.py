"""Costs: the cash that a fill really moves, and what is refused."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.costs import Costs, costs_from, market_impact, trade_costs

rates = st.floats(0, 0.2)


@given(st.floats(-1e9, 1e9), rates, rates)
def test_cost_is_mark_value_minus_cash_moved(amount: float, fee: float, slippage: float) -> None:
    fill = amount * (1 + slippage if amount > 0 else 1 - slippage)  # notional at the fill
    cash_out = fill + abs(fill) * fee
    cost = trade_costs(np.array([amount]), Costs(fee, slippage))[0]
    assert cost == pytest.approx(cash_out - amount, rel=1e-9, abs=1e-9 * max(1.0, abs(amount)))
    assert cost >= 0


def test_no_negative_zero_and_shape_is_kept() -> None:
    out = trade_costs(np.zeros((2, 3)), Costs())
    assert out.shape == (2, 3)
    assert not np.signbit(out).any()


def test_nan_amount_stays_nan() -> None:
    assert np.isnan(trade_costs(np.array([np.nan]), Costs())).all()


@pytest.mark.parametrize("bad", [-0.001, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fee", "slippage"])
def test_impossible_rates_name_the_key(name: str, bad: float) -> None:
    with pytest.raises(ConfigError, match=f"costs.{name}"):
        Costs(**{name: bad})


def test_impact_is_square_root() -> None:
    assert market_impact(0, 1e6, 0.04) == 0
    assert market_impact(1e4, 1e8, 0.04, coefficient=2) == pytest.approx(2 * market_impact(1e4, 1e8, 0.04))
    for bad in ((-1, 1e6, 0.04), (1, 0, 0.04), (1, 1e6, float("nan")), (1, 1e6, -0.1)):
        with pytest.raises(DataError, match="volume is > 0"):
            market_impact(*bad)


def test_costs_of_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH__PORTFOLIO__COSTS__FEE", "0.002")
    assert costs_from(Settings()) == Costs(fee=0.002)
