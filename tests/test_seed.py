"""The user's own description, run as it is written: its snippets, its configuration, its names.

`trading.portfolio` is read as `portfolio_research`; where a snippet says `...` for arguments, they are filled in. The text
itself is not part of the project: it is read beside the reference data.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import engine_runs
import pandas as pd
import pytest

import portfolio_research
from portfolio_research import (
    AdvancedExecutor,
    DashboardManager,
    DataCollector,
    HierarchicalRiskParity,
    HyperliquidTradingBot,
    OrderExecutor,
    PortfolioAnalytics,
    PortfolioMonitor,
    RiskManager,
    load_settings,
    sample_prices,
)
from portfolio_research.store import Store


@pytest.fixture(scope="session")
def seed(test_data: Path) -> str:
    found = sorted((test_data.parent / "seed").glob("*.md"))
    if not found:
        pytest.skip(f"the original description is not in {test_data.parent / 'seed'}")
    return found[0].read_text(encoding="utf-8")


def snippet(seed: str, containing: str) -> str:
    """The one Python block that has this text."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", seed, re.S) if containing in b]
    return block.replace("from trading.portfolio import", "from portfolio_research import")


def execute(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block, top-level await included, and return its names."""
    compiled = compile(code, "seed", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run() -> None:
        result = eval(compiled, names)
        if inspect.isawaitable(result):
            await result

    asyncio.run(run())
    return names


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> HyperliquidTradingBot:
    """A bot that has run over real prices."""
    prices = sample_prices().loc["2019-01-01":"2019-08-30"]
    store = Store.open(tmp_path_factory.mktemp("seed") / "portfolio.db", durable=False)
    return engine_runs.run(engine_runs.settings(), prices, store)


@pytest.fixture(scope="module")
def names(bot: HyperliquidTradingBot) -> dict[str, Any]:
    """What the snippets take for granted."""
    returns_matrix = bot.data_collector.returns(120)
    weights = HierarchicalRiskParity().fit(returns_matrix).weights_
    return {
        "bot": bot,
        "analytics": PortfolioAnalytics(periods_per_year=252),
        "portfolio_returns": bot.risk_manager.portfolio_returns,
        "returns": bot.risk_manager.portfolio_returns,
        "returns_matrix": returns_matrix,
        "weights": weights,
        "optimal_weights": weights,
        "target_weights": weights,
        "risk_manager": bot.risk_manager,
        "data_collector": bot.data_collector,
        "order_executor": bot.order_executor,
        "advanced_executor": bot.advanced_executor,
    }


def test_every_python_block_is_run_here(seed: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", seed, re.S)
    tried = set(re.findall(r'snippet\(seed, "(.+?)"\)', Path(__file__).read_text(encoding="utf-8"))) - {"(.+?)"}
    assert len(blocks) == len(tried) == 7
    assert all(sum(text in block for text in tried) == 1 for block in blocks)


def test_manual_analytics(seed: str, names: dict[str, Any]) -> None:
    done = execute(snippet(seed, "generate_portfolio_report"), dict(names))
    assert done["report"]["metrics"]["volatility"] > 0 and done["report"]["periods_per_year"] == 365
    held = set(names["bot"].risk_manager.positions)
    assert held and {r.asset for r in done["recommendations"]} == held


def test_custom_monitoring(seed: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    worst = PortfolioAnalytics.monitor_values

    def crash(self: PortfolioAnalytics, *args: Any) -> dict[str, float]:
        return {**worst(self, *args), "drawdown": 0.25}

    monkeypatch.setattr(PortfolioAnalytics, "monitor_values", crash)
    code = snippet(seed, "LogAlertHandler(").replace("await monitor", "later(monitor)\nawait monitor")

    def later(monitor: PortfolioMonitor) -> None:
        asyncio.get_running_loop().call_later(1.0, monitor.stop)

    done = execute(code, names | {"later": later})
    assert [alert.title for alert in done["monitor"].active_alerts if alert.type == "drawdown"] == ["Drawdown"]
    assert "Drawdown 25.0 %" in (tmp_path / "portfolio_alerts.log").read_text()


def test_integration_with_the_bot(seed: str, bot: HyperliquidTradingBot) -> None:
    block = snippet(seed, "class HyperliquidTradingBot")
    made = {
        "HierarchicalRiskParity": HierarchicalRiskParity,
        "PortfolioAnalytics": PortfolioAnalytics,
        "PortfolioMonitor": PortfolioMonitor,
        "DashboardManager": DashboardManager,
    }
    described = execute(block.replace("(...)", "()"), dict(made))["HyperliquidTradingBot"]()
    described._initialize_components()
    ours = HyperliquidTradingBot(bot.settings, store=bot.store, dashboard=DashboardManager(bot.settings))
    for name, part in vars(described).items():
        assert type(part) is type(getattr(ours, name)) or isinstance(getattr(ours, name), type(part)), name
    assert set(vars(described)) == set(re.findall(r"self\.(\w+) = ", block))
    for loop in re.findall(r"self\.(_\w+_loop)\(", block):
        assert inspect.iscoroutinefunction(getattr(HyperliquidTradingBot, loop)), loop
    assert inspect.iscoroutinefunction(HyperliquidTradingBot.start)
    assert inspect.iscoroutinefunction(PortfolioMonitor.start_monitoring)


@pytest.mark.parametrize(("regime", "tolerance"), [("high", 0.03), ("normal", 0.05), ("low", 0.05)])
def test_regime_aware_rebalancing(
    seed: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, regime: str, tolerance: float
) -> None:
    assert names["analytics"].detect_regime_changes(names["returns"])["volatility_regime"] in ("low", "normal", "high")
    monkeypatch.setattr(
        PortfolioAnalytics, "detect_regime_changes", lambda self, returns: {"volatility_regime": regime}
    )
    done = execute(snippet(seed, "detect_regime_changes"), dict(names))
    assert done["tolerance"] == tolerance == names["analytics"].policy.tolerance_for(regime)


def test_risk_budget(seed: str, names: dict[str, Any]) -> None:
    done = execute(snippet(seed, "component_risk_contributions"), dict(names))
    shares = done["risk_metrics"]["component_risk_contributions"]
    assert set(shares) == set(names["returns_matrix"].columns) and sum(shares.values()) == pytest.approx(1, abs=1e-12)
    over = [asset for asset, share in shares.items() if share > done["max_risk_contribution"]]
    budget = names["analytics"].risk_budget(names["returns_matrix"], names["weights"], done["max_risk_contribution"])
    assert budget.table.index[budget.table["over_budget"]].to_list() == over  # and what `pass` stands for is in the table
    assert budget.reachable and budget.table["risk_share_within"].max() <= 0.2 + 1e-9


def test_transaction_costs(seed: str, names: dict[str, Any], bot: HyperliquidTradingBot) -> None:
    row = "plan['recommendation']"
    code = snippet(seed, "large_trade_threshold").replace("(...)", f"({row}.asset, {row}.side, {row}.amount_to_trade)")
    target = pd.Series({"JNJ": 0.4, "PG": 0.3, "KO": 0.3})
    needs = names["analytics"].analyze_rebalancing_needs(bot.risk_manager.positions, target, tolerance=0.05)
    wanted = [r for r in needs if r.side == "sell"][:3]
    before = {a: float(p.size) for a, p in bot.risk_manager.positions.items()}
    threshold = sorted(r.amount_to_trade for r in wanted)[1]
    done = execute(
        code,
        names
        | {
            "recommendations": wanted,
            "market_conditions": {"volatility_regime": "normal"},
            "large_trade_threshold": threshold,
        },
    )
    assert len(done["rebalancing_plan"]) == 3
    after = {a: float(p.size) for a, p in bot.risk_manager.positions.items()}
    for r in wanted:
        sold = (before[r.asset] - after.get(r.asset, 0.0)) * float(bot.data_collector.marks[r.asset])
        assert sold == pytest.approx(r.amount_to_trade, rel=1e-6), r.asset


def test_performance_attribution(seed: str, names: dict[str, Any]) -> None:
    trades = [
        {
            "asset": "JNJ",
            "side": "buy",
            "amount": 1000.0,
            "price": 101.0,
            "decision_price": 100.0,
            "fee": 0.5,
            "strategy": strategy,
        }
        for strategy in ("momentum", "rebalancing")
    ]
    plan = [{"asset": "JNJ", "side": "buy", "amount": 2000.0, "decision_price": 100.0}]
    done = execute(snippet(seed, "strategy_attribution"), names | {"executed_trades": trades, "original_plan": plan})
    assert set(done["strategy_performance"]) == {"momentum", "mean_reversion", "rebalancing"}
    assert done["strategy_performance"]["momentum"] < 0 and done["strategy_performance"]["mean_reversion"] == 0


def test_the_configuration_loads_unchanged(seed: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", seed, re.S)
    path = tmp_path / "config.yaml"
    path.write_text(block, encoding="utf-8")
    assert load_settings(path) == load_settings()


def test_every_class_it_names_can_be_imported(seed: str) -> None:
    classes = r"\b(?:[A-Z][a-z]+)+(?:RiskParity|Analytics|Monitor|Manager|TradingBot|AlertHandler)\b"
    named = set(re.findall(classes, seed))
    assert len(named) >= 7
    for name in named:
        assert inspect.isclass(getattr(portfolio_research, name)), name
    for part in (RiskManager, DataCollector, OrderExecutor, AdvancedExecutor):
        assert inspect.isclass(part)
