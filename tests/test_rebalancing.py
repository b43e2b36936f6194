"""The decision: what is traded, what is not and why, and that no cent appears or vanishes."""
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.bands import ToleranceMode
from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.costs import Costs, Liquidity, trade_costs
from portfolio_research.rebalancing import (
    Policy,
    Position,
    Positions,
    as_positions,
    covariance_for,
    decide,
    drift_multiples,
    policy_from,
    trade_amounts,
    urgency_of,
)

FREE = Costs(0, 0)
TARGET = pd.Series({"A": 0.4, "B": 0.3, "C": 0.2, "D": 0.1})


def decision(values: dict[str, float], *, cash: float = 0.0, target: pd.Series = TARGET, regime: str = "normal",
             costs: Costs = FREE, **policy: Any):  # type: ignore[no-untyped-def]
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


# ------------------------------------------------------------------ how drift is measured
MODES = get_args(ToleranceMode)
NAMES = [f"A{i}" for i in range(8)]


def returns_of(n: int, seed: int = 0) -> pd.DataFrame:
    moves = np.random.default_rng(seed).normal(0, 0.03, (80, n)) * np.linspace(0.5, 2, n)
    return pd.DataFrame(moves, columns=NAMES[:n])


@pytest.mark.parametrize("mode", MODES)
def test_a_stack_of_days_is_judged_like_the_days_one_by_one(mode: ToleranceMode) -> None:
    rng = np.random.default_rng(3)
    policy, cov = Policy(tolerance=0.1, tolerance_mode=mode, max_position=0.4), returns_of(5).cov()
    targets, held = rng.dirichlet(np.ones(5), 40), rng.dirichlet(np.ones(5) * 3, 40)
    tolerances = rng.choice([0.05, 0.1], 40)
    together = drift_multiples(held, targets, policy=policy, regime_tolerance=tolerances, covariance=cov.to_numpy(),
                               costs=Costs())
    alone = [drift_multiples(h, t, policy=policy, regime_tolerance=x, covariance=cov.to_numpy(), costs=Costs())
             for h, t, x in zip(held, targets, tolerances, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    for k in range(40):
        made = decide(as_positions(dict(zip(NAMES, held[k], strict=False))), pd.Series(targets[k], NAMES[:5]),
                      policy=replace(policy, tolerance=tolerances[k], min_trade_size=0.0), costs=Costs(), covariance=cov)
        assert made.rebalance == bool((together[k] > 1).any())
        multiples = [abs(r.drift) / r.tolerance for r in made.recommendations]
        np.testing.assert_allclose(multiples, together[k], rtol=1e-9)
        assert [r.urgency for r in made.recommendations] == [urgency_of(m, 1.0) for m in multiples]


@given(st.floats(1e-4, 0.9), st.integers(-3, 3))
def test_above_the_tolerance_means_above_to_the_last_bit(tolerance: float, steps: int) -> None:
    drift = tolerance
    for _ in range(abs(steps)):
        drift = float(np.nextafter(drift, np.sign(steps)))
    found = drift_multiples(np.array([drift]), np.array([0.0]), policy=Policy(tolerance=tolerance))
    assert (found[0] > 1) == (drift > tolerance)


def test_a_crumb_without_a_target_breaks_no_narrow_band() -> None:
    held, target = np.array([0.5, 0.3999, 0.1, 0.0001]), np.array([0.5, 0.4, 0.1, 0.0])
    assert (drift_multiples(held, target, policy=Policy(tolerance=0.2, tolerance_mode="relative")) < 1).all()
    held = np.array([0.5, 0.35, 0.1, 0.05])
    assert drift_multiples(held, target, policy=Policy(tolerance=0.2, tolerance_mode="relative"))[3] == pytest.approx(2.5)


def test_a_band_without_width_tolerates_rounding_only() -> None:
    policy = Policy(tolerance_mode="cost_aware")
    free = drift_multiples(np.array([0.5 + 1e-16, 0.3]), np.array([0.5, 0.5]), policy=policy, covariance=np.eye(2), costs=FREE)
    assert free.tolist() == [0.0, np.inf]
    unknown = drift_multiples(np.array([np.nan, 0.5]), np.array([0.5, 0.5]), policy=Policy())
    assert np.isnan(unknown[0]) and unknown[1] == 0


def test_what_a_mode_needs_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="tolerance_mode is risk, .*covariance="):
        decision({"A": 500, "B": 300, "C": 200}, tolerance_mode="risk")
    cov = pd.DataFrame(np.eye(4), list("ABCD"), list("ABCD"))
    book = as_positions({"A": 500.0, "B": 300.0, "C": 100.0, "X": 100.0})
    with pytest.raises(DataError, match="X has no covariance"):
        decide(book, TARGET, policy=Policy(tolerance_mode="risk"), costs=FREE, covariance=cov)
    cov.loc["A", "B"] = np.nan
    with pytest.raises(DataError, match="B has no covariance"):
        decide(as_positions({"A": 1.0}), TARGET, policy=Policy(tolerance_mode="risk"), costs=FREE, covariance=cov)


def test_covariance_for_is_the_sample_covariance_where_it_is_needed() -> None:
    returns = returns_of(3)
    for mode in MODES:
        found = covariance_for(Policy(tolerance_mode=mode), returns)
        assert (found is None) == (mode in ("absolute", "relative"))
        if found is not None:
            np.testing.assert_allclose(found, np.cov(returns.to_numpy(), rowvar=False), rtol=1e-12)


def test_a_regime_of_high_volatility_tightens_every_tolerance_but_the_cost_aware_one() -> None:
    cov = returns_of(4).cov().set_axis(list("ABCD")).set_axis(list("ABCD"), axis=1)
    for mode in MODES:
        widths = [[r.tolerance for r in decide(as_positions({"A": 1.0}), TARGET, policy=Policy(tolerance_mode=mode),
                                               costs=Costs(), regime=regime, covariance=cov).recommendations]
                  for regime in ("normal", "high")]
        ratio = np.divide(*widths)
        np.testing.assert_allclose(ratio, 1.0 if mode == "cost_aware" else 0.05 / 0.03)


def test_urgency_says_why() -> None:
    d = decision({"A": 480, "B": 220, "C": 195, "D": 105}, regime="high", tolerance=0.05)
    reasons = [r.urgency_reason for r in d.recommendations]
    assert reasons[0] == "drift +8.00% is 2.7 times the tolerance of 3.00%, tighter while volatility is high; above 2"
    assert reasons[2] == "drift -0.50% is within the tolerance of 3.00%, tighter while volatility is high"
    cov = pd.DataFrame(np.diag([0.0, 1, 1, 1]), list("ABCD"), list("ABCD"))
    d = decide(as_positions({"A": 900.0, "B": 60.0, "C": 40.0}), TARGET, policy=Policy(tolerance_mode="risk"), costs=FREE,
               covariance=cov)
    assert d.recommendations[0].urgency_reason == "drift +50.00% carries no risk"
    assert "times its risk band of" in d.recommendations[1].urgency_reason and d.tolerance_mode == "risk"
    free = decide(as_positions({"A": 900.0, "B": 60.0, "C": 40.0}), TARGET, policy=Policy(tolerance_mode="cost_aware"),
                  costs=FREE, covariance=cov)
    assert free.recommendations[1].urgency == "critical"
    assert "infinitely many times its cost_aware band of 0.00%" in free.recommendations[1].urgency_reason


# ------------------------------------------------------------------ how far a trade goes
@st.composite
def banded(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    values, cash, target, costs, _ = draw(problem())
    policy = Policy(tolerance=draw(st.floats(0.01, 0.5)), tolerance_mode=draw(st.sampled_from(MODES)), min_positions=0,
                    trade_to=draw(st.sampled_from(["target", "halfway", "edge"])), min_trade_size=0.0,
                    max_position=draw(st.floats(0.2, 1.0)))
    return values, cash, target, costs, policy


@settings(max_examples=200, deadline=None)
@given(banded())
def test_after_the_trades_the_book_is_where_the_policy_wants_it(p) -> None:  # type: ignore[no-untyped-def]
    values, cash, target, costs, policy = p
    names = NAMES[: len(values)]
    cov = returns_of(len(values)).cov()
    made = decide(as_positions(dict(zip(names, values, strict=True)), cash=cash), pd.Series(target, names), policy=policy,
                  costs=costs, covariance=cov)
    amounts = np.array([r.signed_amount for r in made.recommendations])
    paid, equity = trade_costs(amounts, costs), cash + values.sum()
    left = cash - amounts.sum() - paid.sum()
    after = values + amounts
    assert left >= -1e-9 * equity
    assert after.sum() + left + paid.sum() == pytest.approx(equity, rel=1e-9)
    assert made.estimated_cost == pytest.approx(paid.sum(), rel=1e-12, abs=1e-12)
    held = after / (after.sum() + left)
    times = drift_multiples(held, target, policy=policy, covariance=cov.to_numpy(), costs=costs)
    drift = np.abs(held - np.array([r.target_weight for r in made.recommendations]))
    assert ((times <= 1 + 1e-6) | (drift < 1e-9)).all()
    whole = policy.trade_to == "target" or not values.any()
    if made.rebalance and whole:
        assert (drift < 1e-9).all()
    for r in made.recommendations:
        assert r.reason and r.urgency_reason and (r.side == "hold") == (r.amount_to_trade == 0)


def test_edge_and_halfway_trade_less_than_target_and_say_so() -> None:
    book = {"A": 500.0, "B": 245.0, "C": 156.0, "D": 99.0}
    made = {to: decision(book, trade_to=to, min_trade_size=0) for to in ("target", "halfway", "edge")}
    traded = {to: sum(r.amount_to_trade for r in d.recommendations) for to, d in made.items()}
    assert traded["target"] == pytest.approx(200) and traded["halfway"] == pytest.approx(150)
    assert traded["edge"] == pytest.approx(100)
    by = {r.asset: r for r in made["edge"].recommendations}
    assert [by[a].side for a in "ABCD"] == ["sell", "buy", "buy", "hold"]
    assert by["A"].reason == "drift +10.00% exceeds the tolerance: traded back to the edge of its band"
    assert by["B"].reason == "drift -5.50% exceeds the tolerance: traded back to the edge of its band"
    assert by["D"].reason == "within the tolerance of 5.00%: left alone"
    assert "halfway back to target" in made["halfway"].recommendations[0].reason


def test_who_balances_the_others_is_told() -> None:
    made = decision({"A": 500.0, "B": 260.0, "C": 160.0, "D": 80.0}, trade_to="edge", min_trade_size=0)
    by = {r.asset: r for r in made.recommendations}
    assert by["C"].reason == "drift -4.00% is among the furthest off: balances the others" and by["C"].side == "buy"


def test_first_purchase_goes_to_target_whatever_the_policy() -> None:
    d = decision({}, cash=1_000.0, costs=Costs(), trade_to="edge")
    amounts = np.array([r.amount_to_trade for r in d.recommendations])
    np.testing.assert_allclose(amounts / amounts.sum(), TARGET)


# ------------------------------------------------------------------ caps and markets
def test_a_cap_on_positions_is_reported() -> None:
    d = decision({}, cash=1_000.0, max_position=0.3)
    assert [r.target_weight for r in d.recommendations] == pytest.approx([0.3, 0.3, 0.8 / 3, 0.4 / 3])
    assert d.notes == ("max_position of 30.00% caps A 40.00%; 10.00% goes to the others in proportion.",)
    tight = decision({}, cash=1_000.0, max_position=0.2)
    assert sum(r.target_weight for r in tight.recommendations) == pytest.approx(0.8)
    assert "20.00% that nobody may take stays in cash" in tight.notes[0]
    assert decision({"A": 1.0}).notes == ()


def market(**volume: float) -> Liquidity:
    return Liquidity(np.array(list(volume.values())), np.full(len(volume), 0.04), list(volume))


def test_an_order_larger_than_the_market_is_cut_and_the_rest_reported() -> None:
    thin = market(D=500.0, A=1e9, B=1e9, C=1e9)  # by name: the order does not matter
    d = decide(as_positions({}, cash=1_000.0), TARGET, policy=Policy(), costs=FREE, liquidity=thin)
    last = d.recommendations[3]
    assert (last.amount_to_trade, last.amount_left) == (50.0, 50.0)
    assert last.reason.endswith("cut to what the market's volume allows, 50.00 left for the next check")
    assert [r.amount_left for r in d.recommendations[:3]] == [0, 0, 0]
    again = decide(as_positions({"A": 400.0, "B": 300.0, "C": 200.0, "D": 50.0}, cash=50.0), TARGET, costs=FREE,
                   policy=Policy(tolerance=0.02), liquidity=thin)
    assert again.rebalance and again.recommendations[3].amount_to_trade == pytest.approx(50.0)


def test_what_nobody_trades_cannot_be_traded_and_says_so() -> None:
    d = decide(as_positions({}, cash=1_000.0), TARGET, policy=Policy(), costs=Costs(impact=1.0),
               liquidity=market(A=1e9, B=1e9, C=1e9, D=0.0))
    assert d.recommendations[3].side == "hold" and "the market's volume allows only 0.00" in d.recommendations[3].reason


def test_a_cut_sell_leaves_less_to_buy_with() -> None:
    d = decide(as_positions({"A": 600.0, "B": 200.0, "C": 150.0, "D": 50.0}), TARGET, policy=Policy(), costs=FREE,
               liquidity=market(A=1_000.0, B=1e9, C=1e9, D=1e9))
    amounts = np.array([r.signed_amount for r in d.recommendations])
    assert amounts[0] == -100 and amounts[1:].sum() == pytest.approx(100)


@settings(max_examples=100, deadline=None)
@given(problem(), st.floats(0.1, 2), st.floats(1e3, 1e9), st.sampled_from(["target", "edge"]))
def test_with_impact_value_is_conserved_and_cash_not_negative(p, impact, volume, to) -> None:  # type: ignore[no-untyped-def]
    values, cash, target, costs, smallest = p
    costs = replace(costs, impact=impact)
    names = NAMES[: len(values)]
    liquidity = Liquidity(np.full(len(values), volume), np.full(len(values), 0.05), names)
    made = decide(as_positions(dict(zip(names, values, strict=True)), cash=cash), pd.Series(target, names),
                  policy=Policy(min_trade_size=smallest, trade_to=to), costs=costs, liquidity=liquidity)
    amounts = np.array([r.signed_amount for r in made.recommendations])
    paid, equity = trade_costs(amounts, costs, liquidity), cash + values.sum()
    left = cash - amounts.sum() - paid.sum()
    assert left >= -1e-9 * equity and (values + amounts >= -1e-9 * equity).all()
    assert (values + amounts).sum() + left + made.estimated_cost == pytest.approx(equity, rel=1e-9)
    assert (np.abs(amounts) <= costs.participation * volume * (1 + 1e-12)).all()


def test_impact_without_liquidity_is_refused() -> None:
    with pytest.raises(ConfigError, match="costs.impact is 1, .*pass liquidity="):
        decision({"A": 900.0}, costs=Costs(impact=1.0))


# ------------------------------------------------------------------ configuration
@pytest.mark.parametrize(("name", "bad"), [
    ("tolerance_mode", "daily"), ("trade_to", "middle"), ("max_position", 0.0), ("max_position", 1.5),
    ("risk_aversion", 0.0), ("normal_volatility", float("inf")),
])
def test_impossible_policies_name_the_key(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        Policy(**{name: bad})  # type: ignore[arg-type]


def test_every_key_of_the_section_arrives() -> None:
    given = {"tolerance": 0.2, "high_volatility_tolerance": 0.1, "min_positions": 2, "min_trade_size": 5.0,
             "large_trade_threshold": 1e5, "tolerance_mode": "relative", "trade_to": "edge", "max_position": 0.4,
             "risk_aversion": 3.0, "normal_volatility": 0.02}
    assert policy_from(Settings(portfolio={"rebalancing": given})) == Policy(**given)  # type: ignore[arg-type]
