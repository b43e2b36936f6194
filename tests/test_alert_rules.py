"""Rules: the table, levels in multiples of volatility, rules of one's own, and what cannot be judged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chi2

from portfolio_research.alert_rules import Reading, breach, read, shown
from portfolio_research.alerts import (
    AlertState,
    AlertType,
    Rule,
    Severity,
    custom_rules,
    default_rules,
    evaluate,
    fingerprint,
    system_rules,
)
from portfolio_research.breaches import kupiec, var_breach_p
from portfolio_research.config import AlertThresholds, ConfigError, MonitoringSettings, RuleSettings
from portfolio_research.engine.wiring import make_rules
from portfolio_research.settings import load_settings

DAY = datetime(2024, 8, 5, tzinfo=UTC)
LOW, MEDIUM, HIGH, CRITICAL = Severity


def ticks(rules: Any, *values: dict[str, Any], states: Any = None) -> list[Any]:
    known: Any = states or {}
    out = []
    for i, seen in enumerate(values):
        out.append(evaluate(rules, seen, known, portfolio="main", now=DAY + timedelta(hours=i)))
        known = out[-1].states
    return out


def state(tick: Any, rule: str) -> AlertState:
    return tick.states[fingerprint("main", rule)]  # type: ignore[no-any-return]


# ---------------------------------------------------------------- the table
def test_the_table_of_the_specification() -> None:
    levels = {r.id: [r.levels.get(s) for s in Severity] for r in default_rules()}
    assert levels == {
        "drawdown": [0.05, 0.10, 0.15, 0.20],
        "weight": [0.25, 0.30, 0.40, 0.50],
        "effective": [4, 3, 2, 1.5],
        "risk-share": [0.20, 0.30, 0.40, 0.60],
        "positions": [None, 2, 1, None],
        "sharpe": [None, 0, -1, None],
        "loss": [0.02, 0.03, 0.05, 0.08],
        "var": [0.04, 0.06, 0.08, 0.12],
        "var-breaches": [None, 0.05, 0.01, None],
        "score": [50, 65, 80, 90],
        "volatility": [1.5, 2, 3, 4],
    }
    system = {r.id: [r.levels.get(s) for s in Severity] for r in system_rules()}
    assert system == {
        "data-stale": [None, None, 2, None],
        "loop-stuck": [None, None, 3, None],
        "order-stuck": [None, 2, 3, None],
        "position-drift": [None, None, None, 0.02],
        "engine-halted": [None, None, None, 1],
    }
    assert {r.id: r.levels for r in default_rules(AlertThresholds(sharpe_low=0.5))}["sharpe"][LOW] == 0.5


@pytest.mark.parametrize(
    ("alerts", "says"),
    [
        ("{max_drawdown_warning: 0.3}", ("max_drawdown_warning", "max_drawdown_high")),
        ("{var_breaches_high: 0.2}", ("var_breaches_warning", "var_breaches_high")),
        ("{order_age_warning: 5, order_age_high: 5}", ("order_age_warning", "order_age_high")),
        ("{data_age_hgh: 3}", ("data_age_hgh", "data_age_high")),
        ("{scale_with_volatility: [drawdown]}", ("scale_with_volatility",)),
    ],
)
def test_the_configuration_names_the_keys_it_refuses(alerts: str, says: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"portfolio: {{monitoring: {{alerts: {alerts}}}}}\n")
    with pytest.raises(ConfigError, match="portfolio.monitoring.alerts") as refusal:
        load_settings(path)
    assert all(name in str(refusal.value) for name in says)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"id": "x", "metric": "m"}, "at least one of low, warning, high, critical"),
        ({"id": "x", "high": 1}, "a metric or a function"),
        ({"id": "x", "metric": "m", "function": "a:b", "high": 1}, "not both"),
        ({"id": "x", "metric": "m", "low": 2, "high": 1}, "low .2.0. must come before high .1.0."),
        ({"id": "x", "metric": "m", "low": 1, "high": 2, "above": False}, "levels fall"),
        ({"id": "X!", "metric": "m", "high": 2}, "pattern"),
        ({"id": "x", "function": "no-colon", "high": 2}, "pattern"),
    ],
)
def test_a_rule_of_ones_own_that_cannot_work_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_settings(portfolio={"monitoring": {"rules": [rule]}})


# ---------------------------------------------------------------- relative to volatility
def test_levels_of_a_calm_and_of_a_wild_portfolio() -> None:
    rule = default_rules(AlertThresholds(scale_with_volatility=["max_drawdown"]))[0]
    calm, wild = ticks([rule], {"drawdown": 0.21, "book_volatility": 0.01})[0], ticks(
        [rule], *[{"drawdown": 0.21, "book_volatility": 0.04}] * 2
    )
    assert state(calm, "drawdown").severity is CRITICAL and state(calm, "drawdown").threshold == pytest.approx(0.20)
    assert state(wild[1], "drawdown").severity is LOW and state(wild[1], "drawdown").threshold == pytest.approx(0.20)
    text = wild[1].notices[0].lines[0]
    assert "21.0 % (5.25 x book volatility), at or above 20.0 % (5 x book volatility)" in text


@pytest.mark.parametrize("missing", [None, float("nan"), 0.0, -0.01])
def test_without_the_reference_there_is_no_number(missing: float | None) -> None:
    rule = Rule("own", AlertType.DRAWDOWN, "drawdown", {HIGH: 5}, relative_to="book_volatility", for_ticks=1)
    fired, blind = ticks([rule], {"drawdown": 0.2, "book_volatility": 0.02}, {"drawdown": 0.0, "book_volatility": missing})
    assert state(blind, "own").state == "firing" and "no book_volatility to compare with" in state(blind, "own").message


def test_hysteresis_is_in_multiples() -> None:
    rule = Rule("own", AlertType.DRAWDOWN, "d", {HIGH: 5}, relative_to="v", for_ticks=1, clear_ticks=1)
    path = [{"d": 0.10, "v": 0.02}, {"d": 0.10, "v": 0.0215}, {"d": 0.10, "v": 0.023}]
    assert [state(t, "own").state for t in ticks([rule], *path)] == ["firing", "firing", "resolved"]


# ---------------------------------------------------------------- rules of one's own
def test_a_function_that_fails_is_one_rule_that_cannot_be_judged() -> None:
    given = [
        RuleSettings(id="bad", function="m:bad", high=1.0, title="Bad"),
        RuleSettings(id="good", function="m:good", critical=1.0),
        RuleSettings(id="plain", metric="x", critical=2.0),
    ]
    functions = {"m:bad": lambda values: 1 / 0, "m:good": lambda values: 2 * values["x"]}
    rules = custom_rules(given, functions)
    first, second = ticks(rules, {"x": 2.0}, {"x": 2.0})
    assert {s.rule for s in first.states.values() if s.active} == {"good", "plain"}
    (told,) = second.notices
    assert told.lines == ("MEDIUM Cannot judge: Bad (ZeroDivisionError: division by zero)",)
    with pytest.raises(ConfigError, match="rule bad: there is no function m:bad; there is: none"):
        custom_rules(given, {})


@pytest.mark.parametrize("result", ["text", None, float("nan"), float("inf")])
def test_a_function_that_gives_no_number_gives_none(result: Any) -> None:
    rule = Rule("f", AlertType.RISK, "f", {HIGH: 1}, function=lambda values: result)
    assert read(rule, {}) == Reading(None)


def test_functions_of_the_configuration_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_desk.py").write_text("def lone(values):\n    return values['max_weight'] ** 2\nlimit = 3\n")
    monkeypatch.syspath_prepend(tmp_path)

    def wanted(function: str) -> MonitoringSettings:
        return MonitoringSettings(rules=[RuleSettings(id="lone", function=function, high=0.25)])

    rule = next(r for r in make_rules(wanted("my_desk:lone")) if r.id == "lone")
    assert breach(rule, read(rule, {"max_weight": 0.5}).value or 0.0) is HIGH
    for function, says in (("my_desk:lonely", "lonely"), ("no_desk:lone", "no_desk"), ("my_desk:limit", "no function")):
        with pytest.raises(ConfigError, match=f"portfolio.monitoring.rules: lone wants.*{says}"):
            make_rules(wanted(function))


@pytest.mark.parametrize("keys", [{"metric": "max_weigth"}, {"metric": "cvar_historical", "relative_to": "book_volatlity"}])
def test_a_number_that_the_monitor_does_not_have_is_refused_with_the_nearest(keys: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="which the monitor does not know; there is (max_weight|book_volatility)"):
        make_rules(MonitoringSettings(rules=[RuleSettings(id="mine", high=0.25, **keys)]))  # type: ignore[arg-type]


def test_numbers_for_people() -> None:
    rule = Rule("x", AlertType.RISK, "x", {HIGH: 1}, unit="fraction")
    assert shown(rule, 0.1) == "10.0 %" and shown(Rule("x", AlertType.RISK, "x", {HIGH: 1}), 1234.5678) == "1235"


# ---------------------------------------------------------------- losses beyond VaR
def test_kupiec_by_hand_and_against_the_binomial() -> None:
    x, n, a = 5, 30, 0.05
    p = (n - x) * np.log((1 - x / n) / (1 - a)) + x * np.log(x / n / a)
    assert kupiec(x, n) == pytest.approx(chi2.sf(2 * p, 1))
    assert kupiec([0, 1, 1.5], n).tolist() == [1, 1, 1] and np.isnan(kupiec(0, 0))
    assert kupiec(30, 30) == pytest.approx(0, abs=1e-30)
    exact = binom.sf(np.arange(3, 12) - 1, n, a)
    assert (np.abs(np.log10(kupiec(np.arange(3, 12), n) / exact)) < 1).all()  # the same order of magnitude


def test_breaches_are_counted_against_what_was_known_before() -> None:
    rng = np.random.default_rng(3)
    x = pd.Series(rng.normal(0, 0.01, 120))
    x.iloc[-6:] = -0.2
    at = 119 - 29
    limits = [np.sort(x[max(0, t - 252) : t])[int(0.05 * (t - max(0, t - 252) - 1))] for t in range(at, 120)]
    hits = sum(x[t] < limit for t, limit in zip(range(at, 120), limits, strict=True))
    assert var_breach_p(x).iloc[-1] == kupiec(hits, 30) < 0.01
    assert var_breach_p(x.iloc[:29]).isna().all() and not np.isnan(var_breach_p(x.iloc[:30]).iloc[-1])
    gappy = pd.DataFrame({"a": x, "b": x.where(x.index != 100)})
    assert var_breach_p(gappy)["a"].equals(var_breach_p(x).rename("a")) and var_breach_p(gappy)["b"].notna().iloc[-1]
