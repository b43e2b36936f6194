"""From an exploratory notebook to a rebalancing bot: hierarchical risk parity with one code path.

The public names below are imported when they are first used, so that `import portfolio_research` costs next to nothing.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analytics import PortfolioAnalytics
    from .backtest import BacktestResult, replay, walk_forward
    from .config import (
        AlertError,
        ConfigError,
        DataError,
        OptimizationError,
        PortfolioError,
        Settings,
        StoreError,
        VenueError,
        load_settings,
    )
    from .costs import Costs
    from .dashboard.manager import DashboardManager
    from .data import check_prices, load_prices, sample_prices, to_returns
    from .engine.bot import HyperliquidTradingBot
    from .engine.execution import AdvancedExecutor, OrderExecutor
    from .engine.risk import RiskManager
    from .handlers import EmailAlertHandler, LogAlertHandler, SlackAlertHandler
    from .hrp import HierarchicalRiskParity
    from .market.collector import DataCollector
    from .monitor import PortfolioMonitor
    from .plots import plot_comparison, plot_dendrogram, plot_waterfall, plot_weight_intervals
    from .rebalancing import Policy, Position, Positions
    from .uncertainty import weight_intervals

__version__ = "0.1.0"
__all__ = [
    "AdvancedExecutor",
    "AlertError",
    "BacktestResult",
    "ConfigError",
    "Costs",
    "DashboardManager",
    "DataCollector",
    "DataError",
    "EmailAlertHandler",
    "HierarchicalRiskParity",
    "HyperliquidTradingBot",
    "LogAlertHandler",
    "OptimizationError",
    "OrderExecutor",
    "Policy",
    "PortfolioAnalytics",
    "PortfolioError",
    "PortfolioMonitor",
    "Position",
    "Positions",
    "RiskManager",
    "Settings",
    "SlackAlertHandler",
    "StoreError",
    "VenueError",
    "check_prices",
    "load_prices",
    "load_settings",
    "plot_comparison",
    "plot_dendrogram",
    "plot_waterfall",
    "plot_weight_intervals",
    "replay",
    "sample_prices",
    "to_returns",
    "walk_forward",
    "weight_intervals",
]

_HOMES = {  # where each public name lives
    "analytics": "PortfolioAnalytics",
    "backtest": "BacktestResult replay walk_forward",
    "config": "AlertError ConfigError DataError OptimizationError PortfolioError StoreError VenueError"
    " Settings load_settings",
    "costs": "Costs",
    "dashboard.manager": "DashboardManager",
    "data": "check_prices load_prices sample_prices to_returns",
    "engine.bot": "HyperliquidTradingBot",
    "engine.execution": "AdvancedExecutor OrderExecutor",
    "engine.risk": "RiskManager",
    "handlers": "EmailAlertHandler LogAlertHandler SlackAlertHandler",
    "hrp": "HierarchicalRiskParity",
    "market.collector": "DataCollector",
    "monitor": "PortfolioMonitor",
    "plots": "plot_comparison plot_dendrogram plot_waterfall plot_weight_intervals",
    "rebalancing": "Policy Position Positions",
    "uncertainty": "weight_intervals",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
