"""The decision: what is traded, what is not and why, and that no cent appears or vanishes."""
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.costs import Costs, trade_costs
from portfolio_research.rebalancing import (
    Policy,
    Position,
    Positions,
    as_positions,
    decide,
    policy_from,
    trade_amounts,
    urgency_of,
)

FREE = Costs(0, 0)
TARGET = pd.Series({"A": 0.4, "B": 0.3, "C": 0.2, "D": 0.1})


def decision(values: dict[str, float], *, cash: float = 0.0, target: pd.Series = TARGET, regime: str = "normal",
             costs: Costs = FREE, **policy: float):  # type: ignore[no-untyped-def]
    return decide(as_positions(values, cash=cash), target, policy=Policy(**policy), costs=costs, regime=regime)


books = st.lists(st.floats(0, 1e6), min_size=2, max_size=8)


@st.composite
def problem(draw: st.DrawFn) -> tuple[np.ndarray, float, np.ndarray, Costs, float]:
    values = np.array(draw(books))
    raw = np.array(draw(st.lists(st.floats(0, 1), min_size=len(values), max_size=len(values)))) + 1e-3
    target = raw / raw.sum() * draw(st.floats(0.3, 1.0))
    costs = Costs(draw(st.floats(0, 0.05)), draw(st.floats(0, 0.05)))
    return values, draw(st.floats(0, 1e6)) + 1.0, target, costs, draw(st.floats(0, 1e4))


# ------------------------------------------------------------------ amounts
@settings(max_examples=150, deadline=None)
@given(problem())
def test_book_is_at_target_after_fees(p: tuple[np.ndarray, float, np.ndarray, Costs, float]) -> None:
    values, cash, target, costs, _ = p
    amounts = trade_amounts(values, cash, target, costs)
    equity = cash + values.sum()
    after = equity - trade_costs(amounts, costs).sum()
    np.testing.assert_allclose(values + amounts, target * after, rtol=1e-9, atol=3e-11 * equity)


@settings(max_examples=150, deadline=None)
@given(problem())
def test_minimum_size_and_cash_are_respected(p: tuple[np.ndarray, float, np.ndarray, Costs, float]) -> None:
    values, cash, target, costs, smallest = p
    amounts = trade_amounts(values, cash, target, costs, smallest)
    left = cash - amounts.sum() - trade_costs(amounts, costs).sum()
    assert left >= -1e-9 * (cash + values.sum())
    assert (amounts[amounts != 0].__abs__() >= smallest * (1 - 1e-12)).all()
    assert (values + amounts >= -1e-9).all()


def test_buys_shrink_together_when_a_sell_is_skipped() -> None:
    values = np.array([508.0, 280.0, 192.0])  # the sell of 8 is skipped, the buys of 15 and 13 want 28 of 20
    amounts = trade_amounts(values, 20.0, np.array([0.5, 0.295, 0.205]), FREE, 9.0)
    np.testing.assert_allclose(amounts, [0, 15 * 20 / 28, 13 * 20 / 28])


def test_shrunk_buys_that_become_too_small_leave_their_cash_to_the_others() -> None:
    values = np.array([508.0, 280.0, 192.0])
    amounts = trade_amounts(values, 20.0, np.array([0.5, 0.295, 0.205]), FREE, 9.5)  # 13 would shrink to 9.29
    np.testing.assert_allclose(amounts, [0, 15, 0])
    costly = trade_amounts(values, 20.0, np.array([0.5, 0.295, 0.205]), Costs(0.01, 0.0), 9.5)
    assert costly[0] == costly[2] == 0 and 9.5 < costly[1] < 15


def test_worthless_book_is_refused() -> None:
    for cash in (0.0, -5.0, float("nan")):
        with pytest.raises(DataError, match="positive equity"):
            trade_amounts(np.zeros(2), cash, np.array([0.5, 0.5]), FREE)


# ------------------------------------------------------------------ positions
def test_positions_in_decimal_and_float() -> None:
    book = Positions({"A": Position("A", Decimal("2"), Decimal("90"), Decimal("100")), "B": Position("B", 3, 10, 20)},
                     cash=Decimal("40"))
    assert book.equity == 300.0
    assert book["A"].pnl == 20.0
    assert book.weights().to_dict() == {"A": pytest.approx(2 / 3), "B": pytest.approx(0.2)}
    assert Positions().weights().empty and Positions().equity == 0


def test_weights_of_a_worthless_book_are_refused() -> None:
    with pytest.raises(DataError, match="positive equity"):
        as_positions({"A": 0.0}).weights()
    with pytest.raises(DataError, match="positive equity"):
        as_positions({"A": float("nan")}).weights()


def test_as_positions_takes_what_is_at_hand() -> None:
    assert as_positions(pd.Series({"A": 1.0, "B": 3.0})).weights()["B"] == 0.75
    assert as_positions({"A": Decimal("2")}, cash=2).weights()["A"] == 0.5
    held = Position("A", 2, 1, 5)
    assert as_positions({"A": held})["A"] is held
    with pytest.raises(DataError, match="A: str is no position"):
        as_positions({"A": "12"})


# ------------------------------------------------------------------ policy
@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 5.0, float("nan")])
@pytest.mark.parametrize("name", ["tolerance", "high_volatility_tolerance"])
def test_tolerance_outside_its_range(name: str, bad: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*in \\(0, 1\\)"):
        Policy(**{name: bad})


def test_negative_limits() -> None:
    with pytest.raises(ConfigError, match="min_trade_size"):
        Policy(min_trade_size=-1)


def test_policy_of_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH__PORTFOLIO__REBALANCING__TOLERANCE", "0.07")
    assert policy_from(Settings()) == Policy(tolerance=0.07)


def test_urgency_steps_at_multiples() -> None:
    assert [urgency_of(d, 0.1) for d in (0.0, 0.1, 0.11, -0.2, 0.21, -0.3, 0.31)] == [
        "low", "low", "medium", "medium", "high", "high", "critical"]


# ------------------------------------------------------------------ decisions
def test_within_tolerance_nothing_happens_and_every_asset_says_so() -> None:
    d = decision({"A": 450, "B": 280, "C": 180, "D": 90})
    assert not d.rebalance and d.estimated_cost == 0
    assert "A" in d.reason and "within the tolerance of 5.00%" in d.reason
    assert {r.reason for r in d.recommendations} == {"within tolerance: the book is not rebalanced"}
    assert all(r.side == "hold" and r.amount_to_trade == 0 for r in d.recommendations)


def test_exactly_at_the_tolerance_is_not_above_it() -> None:
    target = pd.Series({"A": 0.5, "B": 0.25, "C": 0.25})
    assert not decision({"A": 5, "B": 3, "C": 2}, cash=0.0, target=target, tolerance=0.05, min_trade_size=0).rebalance
    assert decision({"A": 5, "B": 3.01, "C": 1.99}, target=target, tolerance=0.05, min_trade_size=0).rebalance


def test_regime_tightens_the_tolerance_as_documented() -> None:
    book = {"A": 440.0, "B": 270, "C": 190, "D": 100}
    assert [decision(book, regime=r).rebalance for r in ("low", "normal", "high")] == [False, False, True]
    assert decision(book, regime="high").tolerance == 0.03


def test_first_purchase_spends_everything_but_the_fees() -> None:
    d = decision({}, cash=1_000.0, costs=Costs())
    assert d.rebalance and d.reason == "no positions yet: first purchase"
    assert sum(r.amount_to_trade for r in d.recommendations) + d.estimated_cost == pytest.approx(1_000, rel=1e-12)


def test_held_without_target_is_sold() -> None:
    d = decision({"A": 400, "B": 300, "C": 200, "D": 100, "X": 200})
    last = d.recommendations[-1]
    assert (last.asset, last.side, last.target_weight) == ("X", "sell", 0.0)
    assert last.amount_to_trade == pytest.approx(200) and "no target weight" in last.reason
    assert last.signed_amount == -last.amount_to_trade


def test_small_trades_are_skipped_with_their_size() -> None:
    d = decision({"A": 480, "B": 220, "C": 195, "D": 105})
    by = {r.asset: r for r in d.recommendations}
    assert d.rebalance and by["A"].side == "sell" and by["B"].side == "buy"
    assert by["C"].reason == "below minimum trade size: 5.00 < 10.00"
    assert by["C"].side == "hold" and by["C"].urgency == "low"
    assert by["A"].reason == "drift +8.00% exceeds the tolerance" and by["A"].urgency == "medium"


def test_a_trade_without_cash_says_so() -> None:
    d = decision({"A": 409, "B": 308, "C": 207, "D": 66}, cash=10.0, tolerance=0.03, min_trade_size=11)
    by = {r.asset: r for r in d.recommendations}
    assert not d.rebalance and "every trade is below the minimum trade size" in d.reason
    assert by["D"].reason == "below minimum trade size: of 34.00, cash pays for less than 11.00"


def test_asset_at_target_says_so() -> None:
    by = {r.asset: r for r in decision({"A": 500, "B": 200, "C": 200, "D": 100}).recommendations}
    assert by["C"].reason == "at target" and by["C"].side == "hold"
    assert by["A"].side == "sell"


def test_within_tolerance_but_traded_with_the_book() -> None:
    by = {r.asset: r for r in decision({"A": 480, "B": 240, "C": 180, "D": 100}).recommendations}
    assert by["C"].reason == "drift -2.00% goes to target with the rest of the book"


def test_too_few_targets() -> None:
    d = decision({"A": 100, "B": 900}, target=pd.Series({"A": 0.5, "B": 0.5, "C": 0.0}))
    assert not d.rebalance and d.reason.startswith("only 2 assets have a target, at least 3")
    assert all(r.reason == d.reason for r in d.recommendations)


def test_twap_strictly_above_the_threshold() -> None:
    target = pd.Series({"A": 0.5, "B": 0.25, "C": 0.25})
    exact = decision({}, cash=40_000, target=target)
    assert [r.use_twap for r in exact.recommendations] == [True, False, False]


@pytest.mark.parametrize(("target", "words"), [
    ({"A": np.nan, "B": 0.5, "C": 0.5}, "A: target nan"),
    ({"A": -0.1, "B": 0.6, "C": 0.5}, "A: target -0.1"),
    ({"A": 0.5, "B": 0.5, "C": 0.5}, "sum to 1.5"),
    ({"A": 0.0, "B": 0.0, "C": 0.0}, "sum to 0"),
])
def test_impossible_targets(target: dict[str, float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        decision({"A": 1.0}, target=pd.Series(target))


def test_double_target_and_missing_mark() -> None:
    with pytest.raises(DataError, match="A has two target"):
        decision({"A": 1.0}, target=pd.Series([0.5, 0.5], index=["A", "A"]))
    with pytest.raises(DataError, match="B has no finite value"):
        decision({"B": np.nan})


def test_warning_when_the_tolerance_is_blind() -> None:
    wide = pd.Series(0.05, index=list("ABCDEFGHIJKLMNOPQRST"))
    assert "more than half of the median target weight of 5.00%" in decision({"A": 1.0}, target=wide).warning
    assert decision({"A": 1.0}, tolerance=0.125).warning == ""  # median target 0.25
    assert decision({"A": 1.0}, tolerance=0.126).warning != ""


def test_decision_is_json() -> None:
    out = json.loads(json.dumps(decision({"A": 900.0}).to_dict(), allow_nan=False))
    assert out["rebalance"] is True
    assert set(out["recommendations"][0]) == {
        "asset", "side", "current_weight", "target_weight", "drift", "amount_to_trade", "urgency", "estimated_cost",
        "use_twap", "reason", "tolerance", "urgency_reason", "amount_left"}


@settings(max_examples=100, deadline=None)
@given(problem(), st.sampled_from(["low", "normal", "high"]))
def test_decision_agrees_with_its_parts(
    p: tuple[np.ndarray, float, np.ndarray, Costs, float], regime: str
) -> None:
    values, cash, target, costs, smallest = p
    names = [f"A{i}" for i in range(len(values))]
    policy = Policy(min_trade_size=smallest)
    d = decide(as_positions(dict(zip(names, values, strict=True)), cash=cash), pd.Series(target, names),
               policy=policy, costs=costs, regime=regime)
    assert [r.asset for r in d.recommendations] == names
    drift = np.array([r.drift for r in d.recommendations])
    np.testing.assert_allclose(drift, values / (cash + values.sum()) - target, atol=1e-12)
    amounts = np.array([r.signed_amount for r in d.recommendations])
    if d.rebalance:
        assert not values.any() or np.abs(drift).max() > d.tolerance
        np.testing.assert_array_equal(amounts, trade_amounts(values, cash, target, costs, smallest))
        assert d.estimated_cost == pytest.approx(trade_costs(amounts, costs).sum())
    else:
        assert not amounts.any() and d.estimated_cost == 0
    for r in d.recommendations:
        assert r.reason and (r.side == "hold") == (r.amount_to_trade == 0)
        assert r.use_twap == (r.amount_to_trade > policy.large_trade_threshold)
