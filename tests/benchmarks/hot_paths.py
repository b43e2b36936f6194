"""How long the hot paths take on this machine: python tests/benchmarks/hot_paths.py [--repeat 5]

The paths take turns, so that a busy machine slows all of them alike; best and median wall time are shown.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from portfolio_research import (
    HierarchicalRiskParity,
    Policy,
    PortfolioAnalytics,
    StreamingMetrics,
    contributions,
    correlation_regime,
    current_regime,
    detect_regime,
    headline,
    inspect_prices,
    load_episodes,
    markov_regime,
    sample_prices,
    stress_report,
    to_returns,
    walk_forward,
    weight_intervals,
)
from portfolio_research.metrics import report, rolling


def market(assets: int, days: int = 1000) -> pd.DataFrame:
    """Correlated returns with a fixed seed."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.01, (days, 1))
    return pd.DataFrame(common + rng.normal(0, 0.02, (days, assets)), columns=[f"A{i}" for i in range(assets)])


def grown(assets: int, days: int) -> pd.DataFrame:
    """Daily prices of assets that were listed one after the other."""
    index = pd.date_range("2018-01-01", periods=days, tz="UTC")
    prices = 100 * np.exp(market(assets, days).cumsum()).set_axis(index)
    return prices.mask(np.arange(days)[:, None] < np.linspace(0, days - 200, assets).astype(int))


def judged() -> dict[str, Callable[[], object]]:
    """Metrics, risk, regimes, attribution and the report of all of them."""
    wide = market(50).set_axis(pd.date_range("2022-01-01", periods=1000, tz="UTC"))
    positions, equal = dict.fromkeys(wide, 1000.0), pd.Series(0.02, wide.columns)
    book = wide @ equal
    long = pd.concat([book] * 3, ignore_index=True)[:2520]
    desk, ticks = PortfolioAnalytics(), StreamingMetrics(720, 1000)
    ticks.extend(np.random.default_rng(1).normal(0, 0.01, (800, 1000)))

    def tick() -> object:
        ticks.update(np.full(1000, 0.001))
        return ticks.values()

    return {
        "all metrics, 2520 days": lambda: report(long),
        "rolling 63 of 2520 days": lambda: rolling(long, 63),
        "headline with 500 resamples, 1000 days": lambda: headline(book),
        "a tick of 1000 portfolios, window 720": tick,
        "regimes, 2520 days": lambda: detect_regime(long),
        "regime of today, 756 days": lambda: current_regime(book[-756:]),
        "correlation regimes, 50 assets x 1000 days": lambda: correlation_regime(wide),
        "Markov regimes, filtered, 2520 days": lambda: markov_regime(long),
        "attribution by asset and month, 50 assets x 1000 days": lambda: contributions(wide, equal).pivot("month", "asset"),
        "stress report, 50 assets x 1000 days": lambda: stress_report(wide, equal, load_episodes()),
        "portfolio report, 50 assets x 1000 days": lambda: desk.generate_portfolio_report(positions, wide, equal),
    }


def paths() -> dict[str, Callable[[], object]]:
    """Everything that is timed, by what a user would call it."""
    prices = sample_prices().iloc[-800:]
    returns = to_returns(prices).iloc[1:]
    ragged = grown(200, 2738)
    fits = {f"fit HRP, {n} assets x 1000 days": market(n) for n in (20, 100, 500)}
    return {
        **{name: lambda data=data: HierarchicalRiskParity().fit(data) for name, data in fits.items()},
        "weight intervals, 500 fits of 20 assets x 500 days": lambda: weight_intervals(market(20, 500)),
        "all metrics, 20 assets x 799 days": lambda: report(returns, periods_per_year=252),
        "walk-forward, 548 fits of 20 assets": lambda: walk_forward(prices, lookback=252),
        "bot's rules, 43 bars of 20 assets": lambda: walk_forward(prices, policy=Policy(), start=prices.index[-43]),
        "data gate, 200 assets x 2738 days": lambda: inspect_prices(ragged).clean(),
        **judged(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    timed = paths()
    took: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeat):
        for name, call in timed.items():
            start = perf_counter()
            call()
            took[name].append(perf_counter() - start)
    table = Table("path", "best, ms", "median, ms", title=f"Hot paths, {repeat} turns")
    for name, seconds in took.items():
        table.add_row(name, f"{1000 * min(seconds):.1f}", f"{1000 * median(seconds):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
