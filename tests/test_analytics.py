"""The facade: the methods as users call them, the same answers as the parts, and honest NaN."""
import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.analytics import PortfolioAnalytics
from portfolio_research.backtest import market_regime
from portfolio_research.breaches import var_breach_p
from portfolio_research.config import ConfigError, DataError
from portfolio_research.costs import Costs, trade_costs
from portfolio_research.data import sample_prices, to_returns
from portfolio_research.metrics import REGISTRY, report
from portfolio_research.rebalancing import Policy, Position, Positions, as_positions, decide
from portfolio_research.regimes import detect_regime
from portfolio_research.risk import portfolio_risk

RETURNS = to_returns(sample_prices().loc["2018":"2020-03", ["AAPL", "JNJ", "KO", "XOM"]])
TARGET = pd.Series({"AAPL": 0.3, "JNJ": 0.3, "KO": 0.2, "XOM": 0.2})
OFF = {"AAPL": 40_000.0, "JNJ": 25_000.0, "KO": 20_000.0, "XOM": 15_000.0}
STOCKS = PortfolioAnalytics(periods_per_year=252)


def recommended(**changes):  # type: ignore[no-untyped-def]
    (made, *_) = STOCKS.analyze_rebalancing_needs(OFF, TARGET)
    return replace(made, **changes)


# ------------------------------------------------------------------ conventions
def test_conventions_are_checked() -> None:
    for bad in ({"performance_window": 1}, {"periods_per_year": 0}, {"periods_per_year": float("nan")}):
        with pytest.raises(ConfigError, match="performance_window"):
            PortfolioAnalytics(**bad)


# ------------------------------------------------------------------ regime and risk
def test_regime_is_that_of_the_replay() -> None:
    info, market = STOCKS.detect_regime_changes(RETURNS), market_regime(RETURNS)
    for key in ("volatility_regime", "since", "percentile"):
        assert info[key] == market[key]
    assert info["volatility_regime"] == "high"
    assert info["volatility"] == pytest.approx(float(market["volatility"]) * np.sqrt(252 / 365))  # type: ignore[arg-type]
    when, label = info["changes"][-1]
    assert when == info["since"] and label == "high"


def test_regime_of_a_short_series_says_that_it_is_not_reliable() -> None:
    info = STOCKS.detect_regime_changes(RETURNS["KO"].iloc[:20])
    assert info["volatility_regime"] == "normal" and info["reliable"] is False and info["changes"] == []


def test_component_risk_contributions_sum_to_one() -> None:
    out = STOCKS.calculate_portfolio_risk_metrics(RETURNS, TARGET)
    assert sum(out["component_risk_contributions"].values()) == pytest.approx(1)
    assert out["annual_volatility"] == pytest.approx((RETURNS @ TARGET).std() * np.sqrt(252))
    same = STOCKS.calculate_portfolio_risk_metrics(RETURNS, TARGET.to_numpy())
    assert same["volatility"] == pytest.approx(out["volatility"])


# ------------------------------------------------------------------ needs
def test_a_risk_budget_is_that_of_the_risk_metrics() -> None:
    made = STOCKS.risk_budget(RETURNS, TARGET, 0.3)
    shares = STOCKS.calculate_portfolio_risk_metrics(RETURNS, TARGET)["component_risk_contributions"]
    assert made.table["risk_share"].to_dict() == pytest.approx(shares, abs=1e-12)
    assert made.reachable and made.table["over_budget"].any() and made.table["risk_share_within"].max() <= 0.3 + 1e-9
    assert not STOCKS.risk_budget(RETURNS, TARGET).reachable  # four assets, a fifth each
    ragged = RETURNS.assign(NEW=np.nan)
    assert STOCKS.risk_budget(ragged, {**TARGET, "NEW": 0.0}, 0.3).table.equals(made.table)
    page = STOCKS.generate_portfolio_report(OFF, RETURNS, TARGET)["risk_budget"]
    assert page["reachable"] is False and "hold at least 5 assets" in page["reason"]
    assert page["assets"]["AAPL"]["over_budget"] is True and page["assets"]["AAPL"]["trade"] is None


def test_needs_are_those_of_decide_at_the_given_tolerance() -> None:
    got = STOCKS.analyze_rebalancing_needs(positions=OFF, target_weights=TARGET.to_dict(), tolerance=0.05)
    want = decide(as_positions(OFF), TARGET, policy=Policy(), costs=Costs())
    assert got == list(want.recommendations) and want.rebalance
    calm = STOCKS.analyze_rebalancing_needs(OFF, TARGET, tolerance=0.2)
    assert {r.side for r in calm} == {"hold"}
    assert STOCKS.analyze_rebalancing_needs(OFF, TARGET) == got


@pytest.mark.parametrize("bad", [0, 1, 1.5, -0.1])
def test_tolerance_out_of_range(bad: float) -> None:
    with pytest.raises(ConfigError, match="tolerance is"):
        STOCKS.analyze_rebalancing_needs(OFF, TARGET, tolerance=bad)


# ------------------------------------------------------------------ timing
def test_sells_first_then_urgency_then_size_and_no_holds() -> None:
    hold = recommended(asset="H", side="hold", amount_to_trade=0.0)
    rows = [recommended(asset="B1", side="buy", urgency="low"), hold, recommended(asset="S1", urgency="low"),
            recommended(asset="B2", side="buy", urgency="critical"), recommended(asset="S2", urgency="high"),
            recommended(asset="S3", urgency="high", amount_to_trade=99_999.0)]
    plans = STOCKS.optimize_rebalancing_timing(rows, {})
    assert [p["recommendation"].asset for p in plans] == ["S3", "S2", "S1", "B2", "B1"]
    assert STOCKS.optimize_rebalancing_timing([]) == []


def test_large_trades_are_sliced_and_slices_stay_tradable() -> None:
    def plan(amount: float, **conditions: object) -> dict[str, object]:
        r = recommended(amount_to_trade=amount, use_twap=amount > 10_000)
        return STOCKS.optimize_rebalancing_timing([r], conditions)[0]

    assert (plan(10_000)["use_twap"], plan(10_000)["slices"]) == (False, 1)
    assert (plan(10_001)["use_twap"], plan(10_001)["slices"]) == (True, 5)
    assert plan(95_000)["slices"] == 10  # no slice above the threshold
    crowded = plan(35, adv=1_000.0)
    assert crowded["slices"] == 3 and "above its share of volume" in str(crowded["reason"])  # each at least 10
    assert plan(15, adv=100.0)["use_twap"] is False  # cannot be sliced at all
    free = PortfolioAnalytics(policy=Policy(min_trade_size=0))
    assert free.optimize_rebalancing_timing([recommended(amount_to_trade=1.0)], {"adv": 10})[0]["slices"] == 10
    assert plan(20_000)["largest_slice"] == 8_000 and plan(20_000, catch_up=1)["largest_slice"] == 4_000
    assert plan(9_000)["largest_slice"] == 9_000


@pytest.mark.parametrize(("conditions", "urgency", "when"), [
    ({}, "low", "now"),
    ({"hour": 3, "liquid_hours": (13, 21)}, "medium", "13:00 UTC"),
    ({"hour": 15, "liquid_hours": (13, 21)}, "medium", "now"),
    ({"hour": 23, "liquid_hours": (22, 4)}, "medium", "now"),
    ({"hour": 12, "liquid_hours": (22, 4)}, "medium", "22:00 UTC"),
    ({"hour": 3, "liquid_hours": (13, 21)}, "high", "now"),
    ({"hour": 3, "liquid_hours": (13, 21), "volatility_regime": "high"}, "low", "now"),
    ({"spread": 0.01}, "low", "narrower spread"),
    ({"spread": 0.001}, "low", "now"),
    ({"spread": 0.01}, "critical", "now"),
])
def test_when(conditions: dict[str, object], urgency: str, when: str) -> None:
    (plan,) = STOCKS.optimize_rebalancing_timing([recommended(urgency=urgency)], conditions)
    assert plan["when"] == when and plan["timing"] == ("now" if when == "now" else "wait") and plan["reason"]


def test_expected_cost_uses_what_is_known() -> None:
    r = recommended(amount_to_trade=10_000.0, estimated_cost=9.5)
    cost = lambda **c: STOCKS.optimize_rebalancing_timing([r], c)[0]["expected_cost"]  # noqa: E731
    assert cost() == 9.5
    fee_on_the_worse_price = 10_000 * (1.0005 * 1.00045 - 1) if r.side == "buy" else 10_000 * (1 - 0.9995 * 0.99955)
    assert cost(spread=0.001) == pytest.approx(fee_on_the_worse_price, rel=1e-12)
    flat = float(trade_costs(np.array(r.signed_amount), Costs()))
    assert cost(adv={r.asset: 1e8}, volatility=0.02) == pytest.approx(flat + 10_000 * 0.02 * 0.01)
    assert cost(adv={"other": 1e8}, volatility=0.02) == 9.5


HOURS = pd.date_range("2024-01-01", periods=240, freq="h", tz="UTC")
BUSY = pd.Series(1e6 * np.where(abs(HOURS.hour - 15) < 4, 3.0, 1.0), HOURS)


def test_hourly_volumes_say_when_and_the_comparison_stands_beside_it() -> None:
    r = recommended(amount_to_trade=8_000.0, urgency="medium", drift=0.08)
    night = {"hour": 3, "hourly_turnover": BUSY, "volatility": 0.03}
    (plan,) = STOCKS.optimize_rebalancing_timing([r], night)
    ways = plan["ways"]
    assert plan["when"] == "12:00 UTC" and plan["timing"] == "wait" and "waiting 9 h for liquidity saves" in plan["reason"]
    best = ways[ways["recommended"]].iloc[0]
    assert best["wait"] == 9 and plan["expected_cost"] == pytest.approx(best["total"] - best["waiting"])
    assert ways.loc["now", "impact"] == pytest.approx(8_000 * 0.03 * np.sqrt(8_000 / 24e6))  # the pace of the night
    for changed, says in (({"hour": 15}, "nothing speaks"), ({"risk_aversion": 1e4}, "would cost"), ({"hour": None}, "nothing")):
        (now,) = STOCKS.optimize_rebalancing_timing([r], night | changed)
        assert now["when"] == "now" and says in now["reason"]
    for urgent in (replace(r, urgency="high"), r):
        regime = "normal" if urgent.urgency == "high" else "high"
        (now,) = STOCKS.optimize_rebalancing_timing([urgent], night | {"volatility_regime": regime})
        assert now["when"] == "now" and now["expected_cost"] > plan["expected_cost"]


def test_hourly_volumes_of_each_asset_are_its_own() -> None:
    rows = [recommended(asset=a, amount_to_trade=50_000.0, urgency="low", drift=0.05) for a in ("A", "B", "C")]
    table = pd.DataFrame({"A": BUSY, "B": BUSY.shift(12, fill_value=1e6)})
    plans = STOCKS.optimize_rebalancing_timing(rows, {"hour": 2, "hourly_turnover": table, "volatility": 0.01})
    whens = {p["recommendation"].asset: p["when"] for p in plans}
    assert whens == {"A": "12:00 UTC", "B": "now", "C": "now"}
    assert {p["recommendation"].asset: p["ways"] is None for p in plans} == {"A": False, "B": False, "C": True}
    assert all(p["use_twap"] for p in plans) and plans[0]["hours"] > 0 == plans[2]["hours"]


def test_a_threshold_of_zero_slices_every_trade() -> None:
    desk = PortfolioAnalytics(policy=Policy(large_trade_threshold=0.0))
    (plan,) = desk.optimize_rebalancing_timing([recommended(amount_to_trade=10_000.0, use_twap=True)])
    assert plan["slices"] == 5


def test_unknown_condition_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'spraed'.*did you mean spread"):
        STOCKS.optimize_rebalancing_timing([], {"spraed": 0.1})
    with pytest.raises(ConfigError, match="volatility_regime"):
        STOCKS.optimize_rebalancing_timing([], {"qqq": 1})


# ------------------------------------------------------------------ tracking
def test_tracking_adds_up() -> None:
    plans = STOCKS.optimize_rebalancing_timing(STOCKS.analyze_rebalancing_needs(OFF, TARGET))
    fills = [{"asset": p["recommendation"].asset, "side": p["recommendation"].side, "price": 101.0,
              "decision_price": 100.0, "amount": p["recommendation"].amount_to_trade, "fee": 2.0,
              "strategy": "momentum" if i else "rebalancing"} for i, p in enumerate(plans)]
    out = STOCKS.track_rebalancing_performance(executed_trades=fills, original_plan=plans)
    assert set(out["strategy_attribution"]) == {"momentum", "rebalancing"}
    assert out["strategy_attribution"]["mean_reversion"] == 0
    assert out["rebalancing_contribution"] == out["strategy_attribution"]["rebalancing"]
    parts = {k: v for k, v in out["shortfall"].items() if k != "total"}
    assert list(parts) == ["delay", "spread", "impact", "fees", "opportunity"]
    assert sum(parts.values()) == pytest.approx(out["shortfall"]["total"], rel=1e-12)
    assert sum(out["shortfall_by_asset"].values()) == pytest.approx(out["shortfall"]["total"])
    assert out["fees"] == pytest.approx(2.0 * len(plans))


# ------------------------------------------------------------------ monitor
def test_monitor_values_are_those_of_the_parts() -> None:
    held = {a: Position(a, Decimal("2"), 1, Decimal(str(v / 2))) for a, v in OFF.items()}
    book = Positions(held, cash=Decimal("25000"))
    own = RETURNS @ TARGET
    values = STOCKS.monitor_values(book, own, RETURNS)
    assert set(values) - set(REGISTRY) == {"drawdown", "daily_loss", "var", "max_weight", "effective_n",
                                           "max_risk_share", "open_positions", "volatility_ratio", "risk_score",
                                           "var_breach_p", "book_volatility"}
    assert values["var_breach_p"] == var_breach_p(own).iloc[-1] < 0.01  # March 2020
    assert values["book_volatility"] == pytest.approx((RETURNS @ book.weights().reindex(RETURNS.columns, fill_value=0)).std())
    wealth = (1 + own).cumprod()
    assert values["drawdown"] == pytest.approx(1 - wealth.iloc[-1] / wealth.max()) and values["drawdown"] > 0.1
    assert values["daily_loss"] == pytest.approx(max(-own.iloc[-1], 0))
    recent = report(own.iloc[-30:], periods_per_year=252, risk_free_rate=0.02)
    assert {name: values[name] for name in REGISTRY} == pytest.approx(recent.to_dict(), nan_ok=True)
    assert values["max_weight"] == pytest.approx(40 / 125) and values["open_positions"] == 4
    risk = portfolio_risk(RETURNS, book.weights())
    for name in ("var", "max_risk_share"):
        assert values[name] == pytest.approx(risk[name])
    assert values["volatility_ratio"] > 2  # March 2020
    assert 50 < values["risk_score"] <= 100


def test_what_cannot_be_judged_is_nan_and_not_zero() -> None:
    empty = pd.Series(dtype="float64")
    values = STOCKS.monitor_values(Positions(cash=100.0), empty, RETURNS)
    assert values.pop("open_positions") == 0
    assert all(np.isnan(v) for v in values.values())
    young = STOCKS.monitor_values(OFF, pd.Series([0.01, -0.02]), RETURNS.iloc[:5])
    assert young["drawdown"] == pytest.approx(0.02) and young["daily_loss"] == pytest.approx(0.02)
    assert all(np.isnan(young[k]) for k in ("sharpe", "var", "max_risk_share", "volatility_ratio"))
    unknown = STOCKS.monitor_values({**OFF, "NEW": 1.0}, empty, RETURNS)
    assert np.isnan(unknown["var"]) and unknown["open_positions"] == 5
    still = STOCKS.monitor_values(OFF, empty, RETURNS * 0.0)
    assert np.isnan(still["volatility_ratio"])


def test_a_gain_is_no_loss() -> None:
    values = STOCKS.monitor_values(OFF, pd.Series([0.01, 0.02]), RETURNS)
    assert values["drawdown"] == 0 and values["daily_loss"] == 0
    assert not np.signbit(values["drawdown"])


# ------------------------------------------------------------------ report
@pytest.mark.parametrize("returns", [RETURNS, RETURNS @ TARGET], ids=["assets", "portfolio"])
def test_report_is_json_and_complete(returns: pd.DataFrame) -> None:
    page = STOCKS.generate_portfolio_report(positions=OFF, returns=returns, target_weights=TARGET)
    assert json.loads(json.dumps(page, allow_nan=False)) == page
    assert set(page["metrics"]) == set(REGISTRY) == set(page["recent"])
    assert page["metrics"]["beta"] is None  # no benchmark: not computable, not 0
    assert page["as_of"] == "2020-03-31T00:00:00Z"
    assert page["drift"]["AAPL"] == pytest.approx(0.1)
    assert page["decision"]["rebalance"] is True and page["decision"]["tolerance"] == 0.03
    assert page["regime"]["volatility_regime"] == page["decision"]["regime"] == "high"
    assert [r["asset"] for r in page["recommendations"]] == list(TARGET.index)
    assert page["periods_per_year"] == 252 and page["risk_free_rate"] == 0.02
    assert ("component_risk_contributions" in page["risk"]) == isinstance(returns, pd.DataFrame)
    assert page["basis"].startswith("present weights" if isinstance(returns, pd.DataFrame) else "portfolio returns")


def test_report_against_a_benchmark() -> None:
    own = RETURNS @ TARGET
    page = STOCKS.generate_portfolio_report(OFF, own, TARGET, benchmark=own)
    assert page["metrics"]["beta"] == pytest.approx(1)


def test_report_of_a_table_is_the_book_of_now() -> None:
    page = STOCKS.generate_portfolio_report(OFF, RETURNS, TARGET)
    weights = as_positions(OFF).weights()
    want = report(RETURNS @ weights, periods_per_year=252, risk_free_rate=0.02)["sharpe"]
    assert page["metrics"]["sharpe"] == pytest.approx(want)
    with pytest.raises(DataError, match="no returns of NEW"):
        STOCKS.generate_portfolio_report({**OFF, "NEW": 5.0}, RETURNS, TARGET)


def test_report_has_an_interval_beside_every_headline_number() -> None:
    own = RETURNS @ TARGET
    page = STOCKS.generate_portfolio_report(OFF, own, TARGET, benchmark=RETURNS["KO"])
    rows = page["intervals"]["metrics"]
    assert {"cagr", "sharpe", "sortino", "calmar", "max_drawdown", "cvar_historical", "alpha"} <= set(rows)
    for name, row in rows.items():
        assert row["value"] == pytest.approx(page["metrics"][name]) and row["low"] <= row["value"] <= row["high"], name
        assert row["text"].count("[") == 1 and row["significant"] in (True, False, None)
    assert "Sharpe" in page["intervals"]["track_record"] and page["intervals"]["level"] == 0.95
    assert page == STOCKS.generate_portfolio_report(OFF, own, TARGET, benchmark=RETURNS["KO"])  # drawn the same way


def test_report_splits_stress_and_return_by_asset() -> None:
    episodes = pd.DataFrame({"name": ["crash"], "start": [pd.Timestamp("2020-02-19", tz="UTC")],
                             "end": [pd.Timestamp("2020-03-23", tz="UTC")]})
    page = PortfolioAnalytics(periods_per_year=252, episodes=episodes).generate_portfolio_report(OFF, RETURNS, TARGET)
    weights = as_positions(OFF).weights()
    window = RETURNS.loc["2020-02-20":"2020-03-23", weights.index]
    lost = weights * (1 - (1 + window).prod())
    assert page["stress"]["losses"]["crash"] == pytest.approx(lost.to_dict())
    assert page["stress"]["scenarios"]["crash"]["loss"] == pytest.approx(lost.sum())
    assert page["stress"]["scenarios"]["crash"]["breach"] == "critical"
    for name, losses in page["stress"]["losses"].items():
        assert sum(losses.values()) == pytest.approx(page["stress"]["scenarios"][name]["loss"], rel=1e-12)
    total = page["attribution"]["total"]
    assert total == pytest.approx(page["metrics"]["total_return"], rel=1e-12)
    for label in ("asset", "year", "regime"):
        assert sum(page["attribution"][f"by_{label}"].values()) == pytest.approx(total, rel=1e-12)


def test_report_says_what_it_cannot_tell() -> None:
    own = STOCKS.generate_portfolio_report(OFF, RETURNS @ TARGET, TARGET)
    assert "column per asset" in own["stress"]["unavailable"] == own["attribution"]["unavailable"]
    local = RETURNS.tz_localize(None)
    assert "UTC" in STOCKS.generate_portfolio_report(OFF, local, TARGET)["stress"]["unavailable"]
    ruined = RETURNS.copy()
    ruined.iloc[5] = -1.0
    page = STOCKS.generate_portfolio_report(OFF, ruined, TARGET)
    assert str(RETURNS.index[5].date()) in page["attribution"]["unavailable"] and page["metrics"]["total_return"] == -1


CALM = {"KO": "calm", "JNJ": "calm", "XOM": "wild", "AAPL": "wild"}


def test_a_regime_of_attribution_was_known_before_its_return() -> None:
    made = STOCKS.attribute_performance(RETURNS, TARGET)
    assert list(made.labels["regime"].iloc[1:]) == list(detect_regime(RETURNS.mean(axis=1)).iloc[:-1])
    wide = STOCKS.attribute_performance(RETURNS, TARGET, costs=pd.Series(0.0001, RETURNS.index), strategies=CALM)
    assert wide.by("strategy", "kind").sum() == pytest.approx(wide.total, rel=1e-12) and wide.total < made.total


def test_risk_against_a_benchmark_and_with_funding() -> None:
    risk = STOCKS.calculate_portfolio_risk_metrics(RETURNS, TARGET, benchmark=RETURNS["KO"], funding=RETURNS * 0 + 1e-4)
    own = report(RETURNS @ TARGET, RETURNS["KO"], periods_per_year=252, risk_free_rate=0.02)
    assert risk["relative"]["beta"] == pytest.approx(own["beta"])
    assert risk["funding"]["annual_cost"] == pytest.approx(1e-4 * 252 * TARGET.sum())
    assert list(STOCKS.stress_test(RETURNS, TARGET, shocks=[{"KO": -0.2}]).table["kind"]) == ["shock", "correlation", "reverse"]


def test_report_before_the_first_purchase() -> None:
    page = STOCKS.generate_portfolio_report(Positions(cash=1_000.0), RETURNS["KO"], TARGET)
    assert page["decision"]["reason"] == "no positions yet: first purchase" and page["equity"] == 1_000
    nothing = STOCKS.generate_portfolio_report(Positions(cash=1_000.0), pd.Series(dtype="float64"), TARGET)
    assert nothing["as_of"] is None and nothing["metrics"]["sharpe"] is None
    assert nothing["intervals"]["metrics"]["sharpe"]["text"] == "not known"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1, 1e7), min_size=4, max_size=4), st.floats(0.01, 0.5))
def test_plans_trade_exactly_what_is_recommended(values: list[float], tolerance: float) -> None:
    made = STOCKS.analyze_rebalancing_needs(dict(zip(TARGET.index, values, strict=True)), TARGET, tolerance)
    plans = STOCKS.optimize_rebalancing_timing(made, {"spread": 0.001, "adv": 1e6, "volatility": 0.02})
    assert {p["recommendation"].asset for p in plans} == {r.asset for r in made if r.side != "hold"}
    for p in plans:
        assert p["slices"] >= 1 and p["use_twap"] == (p["slices"] > 1)
        assert p["expected_cost"] > 0 and p["recommendation"].amount_to_trade / p["slices"] >= 10 * (1 - 1e-12)
