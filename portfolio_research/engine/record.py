"""The track record: the equity curve so far, and what follows from it on every bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import Connection

from portfolio_research.metrics import REGISTRY, report
from portfolio_research.rebalancing import Positions
from portfolio_research.risk import portfolio_risk, risk_score
from portfolio_research.store import telemetry


class TrackRecord:
    """Equity by bar, in memory as in the store. Amounts in quote currency."""

    def __init__(self, capital: float) -> None:
        self.capital = capital
        self._dates: list[datetime] = []
        self._equity: list[float] = []
        self._benchmark: list[float] = []
        self._base: dict[str, float] = {}  # closes of the first bar, on which the benchmark buys
        self._peak = capital

    @classmethod
    def load(cls, conn: Connection, portfolio: str, capital: float) -> TrackRecord:
        """What the store holds of it."""
        record = cls(capital)
        points = telemetry.equity(conn, portfolio)
        if points:
            _, assets, rows = telemetry.bars(conn, portfolio, 1, until=points[0].ts)
            record._base = dict(zip(assets, rows[0], strict=True))
        for point in points:
            record.add(point.ts, point.equity, math.nan if point.benchmark is None else point.benchmark)
        return record

    def add(self, ts: datetime, equity: float, benchmark: float) -> None:
        """Append the newest bar, or put right what was added for it before."""
        if self._dates and self._dates[-1] == ts:
            for values in (self._dates, self._equity, self._benchmark):
                values.pop()
        self._dates.append(ts)
        self._equity.append(equity)
        self._benchmark.append(benchmark)
        self._peak = max(self._peak, equity)

    @property
    def returns(self) -> pd.Series[float]:
        """The portfolio's return on each bar; the first is against the capital, so that all of them make the whole."""
        return self._returns(self._equity, "portfolio")

    @property
    def benchmark_returns(self) -> pd.Series[float]:
        """Returns of the benchmark on the same bars."""
        return self._returns(self._benchmark, "benchmark")

    def drawdown(self, equity: float) -> float:
        """How far `equity` is below the highest so far, <= 0."""
        return equity / max(self._peak, equity) - 1.0

    def benchmark(self, closes: Mapping[str, float]) -> float:
        """Value of the capital had it been spread evenly over the assets of the first bar, and left alone."""
        self._base = self._base or dict(closes)
        grown = [closes[asset] / first for asset, first in self._base.items() if asset in closes]
        return self.capital * sum(grown) / len(grown)

    def _returns(self, values: list[float], name: str) -> pd.Series[float]:
        index = pd.DatetimeIndex(self._dates, name="date", tz="UTC")
        before = [self.capital, *values[:-1]] if values else []
        return pd.Series(
            [now / then - 1.0 for now, then in zip(values, before, strict=True)], index=index, name=name, dtype=float
        )


def report_payload(
    positions: Positions,
    record: TrackRecord,
    asset_returns: pd.DataFrame,  # recent returns, a column per asset
    regime: Mapping[str, Any],  # of the market, as `market_regime`
    *,
    periods_per_year: float,
    risk_free_rate: float,  # annual
    data_notes: Sequence[str] = (),  # what people should know of the prices
) -> dict[str, Any]:
    """What the dashboard and the report show of a bar, computed once: metrics, risk, regime."""
    values = report(
        record.returns, record.benchmark_returns, periods_per_year=periods_per_year, risk_free_rate=risk_free_rate
    )
    weights = positions.weights()
    score, parts = risk_score(record.returns, weights)
    risk = portfolio_risk(asset_returns, weights) if len(weights) else {}
    return {
        "metrics": [_described(name, values) for name in values.index],
        "periods_per_year": periods_per_year,
        "risk_free_rate": risk_free_rate,
        "data_notes": list(data_notes),
        "risk_contributions": risk.get("component_risk_contributions", {}),
        "risk_score": score,
        "risk_score_parts": parts,
        "regime": regime["volatility_regime"],
        "regime_since": regime["since"],
        "regime_probability": regime["probability"],
    }


_INTERVALS = {"sharpe": ("sharpe_ci_low", "sharpe_ci_high")}  # those that need no resampling


def _described(name: str, values: pd.Series[float]) -> dict[str, Any]:
    """A metric with its definition and, where it is known, its interval."""
    metric = REGISTRY[name]
    described = {key: getattr(metric, key) for key in ("label", "unit", "better", "formula", "source")}
    ends = zip(("low", "high"), _INTERVALS.get(name, ()), strict=False)
    return {"name": name, "value": float(values[name]), **{end: float(values[row]) for end, row in ends}, **described}
