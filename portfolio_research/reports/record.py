"""What a portfolio has lived through and could live through, computed from the ledger for one report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from portfolio_research.attribution import Contributions, fill_contributions
from portfolio_research.budget import RiskBudget, risk_budget
from portfolio_research.config import DataError, Settings
from portfolio_research.data import load_episodes
from portfolio_research.significance import headline
from portfolio_research.store.ledger import Fill
from portfolio_research.stress import Stress, stress_report

_FILL = ["date", "asset", "size", "price", "fee"]
_ENOUGH = 20  # returns below which nothing is said about shares of risk


@dataclass(frozen=True)
class Record:
    """Closes, fills and equity from the first bar to the day of the report; each number is computed when asked for."""

    settings: Settings
    closes: pd.DataFrame  # by market time and asset
    fills: Sequence[Fill]  # before the day's trades
    equity: "pd.Series[float]"  # after each bar's trades
    benchmark: "pd.Series[float]"  # NaN where there was none
    capital: float  # quote currency, before the first bar
    weights: "pd.Series[float]"  # held before the day's trades

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """The headline numbers since the start, as `significance.headline` gives them."""
        own, other = (values / values.shift(fill_value=self.capital) - 1.0 for values in (self.equity, self.benchmark))
        terms = {
            "periods_per_year": self.settings.periods_per_year,
            "risk_free_rate": self.settings.portfolio.analytics.risk_free_rate,
        }
        return headline(own, other if other.notna().any() else None, **terms)  # type: ignore[arg-type]

    @cached_property
    def sources(self) -> Contributions:
        """Price and cost by asset, from the first fill to the day, before its trades."""
        rows = [(f.ts, f.asset, float(f.size), float(f.price), float(f.fee)) for f in self.fills]
        return fill_contributions(self.closes, pd.DataFrame(rows, columns=_FILL), self.capital)

    @cached_property
    def budget(self) -> RiskBudget:
        """Shares of the risk of what is held, against the optimiser's max_risk_share, or 20 % where it has none."""
        wanted = self.settings.portfolio
        returns = self.closes.pct_change(fill_method=None).iloc[1:].tail(wanted.rebalancing.lookback)
        known = returns[self.weights.index].dropna()
        if self.weights.empty or len(known) < _ENOUGH:
            raise DataError(f"a risk budget needs a position, and {_ENOUGH} returns of what is held, not {len(known)}")
        return risk_budget(self.weights, known.cov(), wanted.optimizer.max_risk_share or 0.20)

    @cached_property
    def stress(self) -> Stress:
        """Scenarios for what is held, those that the recorded prices can tell something about."""
        limits = self.settings.portfolio.monitoring.alerts
        critical = limits.max_drawdown_critical or 0.20
        returns = self.closes.pct_change(fill_method=None).iloc[1:]
        if self.weights.empty or not len(returns):
            raise DataError("nothing is held yet, so no scenario can cost anything")
        made = stress_report(
            returns,
            self.weights,
            load_episodes(),
            shocks=[{str(self.weights.abs().idxmax()): -0.3}],
            warning=min(limits.max_drawdown_warning or 0.10, critical),
            critical=critical,
            drawdown_now=max(0.0, 1.0 - float(self.equity.iloc[-1] / max(self.equity.max(), self.capital))),
        )
        at_limit = made.table["kind"].eq("reverse") & made.table["loss"].le(0)  # no move is needed to reach it
        told = made.table["loss"].notna() & ~at_limit
        return Stress(*(part[told] for part in made))
