"""From an exploratory notebook to a rebalancing bot: hierarchical risk parity with one code path.

The public names below are imported when they are first used, so that `import portfolio_research` costs next to nothing.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alert_backtest import AlertBacktest, backtest_alerts
    from .alert_calibration import Calibration, calibrate
    from .alert_plots import plot_alerts
    from .alert_values import book_weights, monitor_history
    from .analytics import PortfolioAnalytics
    from .attribution import Contributions, contributions, fill_contributions, rebalancing_contribution
    from .backtest import BacktestResult, compare, follow, walk_forward
    from .backtest_plots import plot_backtest, plot_frontier
    from .brinson import brinson_fachler
    from .budget import RiskBudget, risk_budget
    from .calendars import check_rows
    from .channels import NotifyAlertHandler, SlackAlertHandler, WebhookAlertHandler
    from .config import (
        AlertError,
        ChannelSettings,
        ConfigError,
        DataError,
        OptimizationError,
        PortfolioError,
        QuietHours,
        Settings,
        StoreError,
        VenueError,
    )
    from .content import content_hash
    from .costs import Costs, Liquidity
    from .dashboard.manager import DashboardManager
    from .data import (
        PeriodsPerYear,
        check_prices,
        infer_periods_per_year,
        load_episodes,
        load_prices,
        sample_prices,
        to_returns,
    )
    from .engine.bot import HyperliquidTradingBot
    from .engine.execution import AdvancedExecutor, OrderExecutor
    from .engine.risk import RiskManager
    from .faults import QualityPolicy
    from .frontier import rebalancing_frontier
    from .handlers import EmailAlertHandler, LogAlertHandler
    from .hrp import HierarchicalRiskParity
    from .market.candles import HyperliquidCandles
    from .market.collector import DataCollector
    from .market.funding import HyperliquidFunding, bar_funding
    from .monitor import PortfolioMonitor
    from .performance_plots import (
        plot_attribution,
        plot_distribution,
        plot_intervals,
        plot_monthly_returns,
        plot_regimes,
        plot_rolling,
        plot_stress,
    )
    from .plots import (
        plot_comparison,
        plot_dendrogram,
        plot_equity,
        plot_metrics,
        plot_risk_contributions,
        plot_waterfall,
        plot_weight_intervals,
        plot_weights,
    )
    from .positions import Position, Positions
    from .quality import QualityReport, inspect_prices
    from .rebalancing import Policy
    from .regimes import correlation_regime, current_regime, detect_regime, markov_regime, trend_regime
    from .research_plots import plot_availability
    from .risk import correlation_change, portfolio_risk
    from .settings import load_settings
    from .shortfall import implementation_shortfall
    from .significance import bootstrap_intervals, deflated_sharpe, headline
    from .simulation import (
        ScriptedEpisode,
        simulate_funding,
        simulate_prices,
        simulate_turnover,
        stylized_facts,
    )
    from .streaming import StreamingMetrics
    from .stress import stress_report
    from .sweeps import Sweep, sweep
    from .targets import EqualWeight, InverseVariance
    from .timing import execution_options, liquidity_profile
    from .trials import Judgement, TrialLedger, judge
    from .uncertainty import weight_intervals
    from .validation import CombinatorialPurgedSplit, WalkForwardSplit, probability_of_overfitting
    from .wire import DeliveryError

__version__ = "0.1.0"
__all__ = [
    "AdvancedExecutor",
    "AlertBacktest",
    "AlertError",
    "BacktestResult",
    "Calibration",
    "ChannelSettings",
    "CombinatorialPurgedSplit",
    "ConfigError",
    "Contributions",
    "Costs",
    "DashboardManager",
    "DataCollector",
    "DataError",
    "DeliveryError",
    "EmailAlertHandler",
    "EqualWeight",
    "HierarchicalRiskParity",
    "HyperliquidCandles",
    "HyperliquidFunding",
    "HyperliquidTradingBot",
    "InverseVariance",
    "Judgement",
    "Liquidity",
    "LogAlertHandler",
    "NotifyAlertHandler",
    "OptimizationError",
    "OrderExecutor",
    "PeriodsPerYear",
    "Policy",
    "PortfolioAnalytics",
    "PortfolioError",
    "PortfolioMonitor",
    "Position",
    "Positions",
    "QualityPolicy",
    "QualityReport",
    "QuietHours",
    "RiskBudget",
    "RiskManager",
    "ScriptedEpisode",
    "Settings",
    "SlackAlertHandler",
    "StoreError",
    "StreamingMetrics",
    "Sweep",
    "TrialLedger",
    "VenueError",
    "WalkForwardSplit",
    "WebhookAlertHandler",
    "backtest_alerts",
    "bar_funding",
    "book_weights",
    "bootstrap_intervals",
    "brinson_fachler",
    "calibrate",
    "check_prices",
    "check_rows",
    "compare",
    "content_hash",
    "contributions",
    "correlation_change",
    "correlation_regime",
    "current_regime",
    "deflated_sharpe",
    "detect_regime",
    "execution_options",
    "fill_contributions",
    "follow",
    "headline",
    "implementation_shortfall",
    "infer_periods_per_year",
    "inspect_prices",
    "judge",
    "liquidity_profile",
    "load_episodes",
    "load_prices",
    "load_settings",
    "markov_regime",
    "monitor_history",
    "plot_alerts",
    "plot_attribution",
    "plot_availability",
    "plot_backtest",
    "plot_comparison",
    "plot_dendrogram",
    "plot_distribution",
    "plot_equity",
    "plot_frontier",
    "plot_intervals",
    "plot_metrics",
    "plot_monthly_returns",
    "plot_regimes",
    "plot_risk_contributions",
    "plot_rolling",
    "plot_stress",
    "plot_waterfall",
    "plot_weight_intervals",
    "plot_weights",
    "portfolio_risk",
    "probability_of_overfitting",
    "rebalancing_contribution",
    "rebalancing_frontier",
    "risk_budget",
    "sample_prices",
    "simulate_funding",
    "simulate_prices",
    "simulate_turnover",
    "stress_report",
    "stylized_facts",
    "sweep",
    "to_returns",
    "trend_regime",
    "walk_forward",
    "weight_intervals",
]

_HOMES = {  # where each public name lives
    "alert_backtest": "AlertBacktest backtest_alerts",
    "alert_calibration": "Calibration calibrate",
    "alert_plots": "plot_alerts",
    "alert_values": "book_weights monitor_history",
    "analytics": "PortfolioAnalytics",
    "attribution": "Contributions contributions fill_contributions rebalancing_contribution",
    "backtest": "BacktestResult compare follow walk_forward",
    "backtest_plots": "plot_backtest plot_frontier",
    "brinson": "brinson_fachler",
    "budget": "RiskBudget risk_budget",
    "calendars": "check_rows",
    "channels": "NotifyAlertHandler SlackAlertHandler WebhookAlertHandler",
    "config": "AlertError ChannelSettings ConfigError DataError OptimizationError PortfolioError QuietHours Settings"
    " StoreError VenueError",
    "content": "content_hash",
    "costs": "Costs Liquidity",
    "dashboard.manager": "DashboardManager",
    "data": "PeriodsPerYear check_prices infer_periods_per_year load_episodes load_prices sample_prices to_returns",
    "engine.bot": "HyperliquidTradingBot",
    "engine.execution": "AdvancedExecutor OrderExecutor",
    "engine.risk": "RiskManager",
    "faults": "QualityPolicy",
    "frontier": "rebalancing_frontier",
    "handlers": "EmailAlertHandler LogAlertHandler",
    "hrp": "HierarchicalRiskParity",
    "market.candles": "HyperliquidCandles",
    "market.collector": "DataCollector",
    "market.funding": "HyperliquidFunding bar_funding",
    "monitor": "PortfolioMonitor",
    "performance_plots": "plot_attribution plot_distribution plot_intervals plot_monthly_returns plot_regimes"
    " plot_rolling plot_stress",
    "plots": "plot_comparison plot_dendrogram plot_equity plot_metrics plot_risk_contributions plot_waterfall"
    " plot_weight_intervals plot_weights",
    "positions": "Position Positions",
    "quality": "QualityReport inspect_prices",
    "rebalancing": "Policy",
    "regimes": "correlation_regime current_regime detect_regime markov_regime trend_regime",
    "research_plots": "plot_availability",
    "risk": "correlation_change portfolio_risk",
    "settings": "load_settings",
    "shortfall": "implementation_shortfall",
    "significance": "bootstrap_intervals deflated_sharpe headline",
    "simulation": "ScriptedEpisode simulate_funding simulate_prices simulate_turnover stylized_facts",
    "streaming": "StreamingMetrics",
    "stress": "stress_report",
    "sweeps": "Sweep sweep",
    "targets": "EqualWeight InverseVariance",
    "timing": "execution_options liquidity_profile",
    "trials": "Judgement TrialLedger judge",
    "uncertainty": "weight_intervals",
    "validation": "CombinatorialPurgedSplit WalkForwardSplit probability_of_overfitting",
    "wire": "DeliveryError",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
