"""How long alerts of many portfolios take: python tests/benchmarks/alerts.py [--repeat 5] [--portfolios 1000]

Three ticks with everything that belongs to one, the commit of states, events and messages to a store on disk included:
a full evaluation from 720 hourly returns of 50 assets, the next hour, and a crash that breaks every limit at once.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from portfolio_research.alert_fleet import evaluate_many
from portfolio_research.alerts import AlertType, Rule, Severity, default_rules
from portfolio_research.fleet import FleetMetrics, fleet_values
from portfolio_research.store import Store, schema
from portfolio_research.store.fleet import FleetSink

HOURS, ASSETS = 720, 50
START = datetime(2024, 8, 5, tzinfo=UTC)
WATCHED = ("drawdown", "loss", "sharpe", "weight", "effective", "positions", "var", "volatility")
RULES = [rule for rule in default_rules() if rule.id in WATCHED]
CRASH = [Rule(f"limit-{i}", AlertType.RISK, "loss", {Severity.HIGH: 0.01 * (i + 1)}, for_ticks=1) for i in range(10)]


class Fleet:
    """Portfolios over one market; now and then one of them gets into trouble."""

    def __init__(self, portfolios: int, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.rng, self.names = rng, [f"book-{i}" for i in range(portfolios)]
        assets = [f"A{i}" for i in range(ASSETS)]
        moves = rng.normal(0.0004, 0.002, (HOURS, 1)) + rng.normal(0.0002, 0.004, (HOURS, ASSETS))
        self.returns = pd.DataFrame(moves, pd.date_range(START, periods=HOURS, freq="h"), assets)
        self.weights = pd.DataFrame(rng.dirichlet(np.full(ASSETS, 3.0), portfolios), self.names, assets)
        self.weights.iloc[: portfolios // 20, 0] += 0.4  # one in twenty is concentrated
        self.stream = FleetMetrics(self.names, HOURS, periods_per_year=8760)
        for row in (self.returns @ self.weights.T).to_numpy():
            self.stream.update(row)
        self.store = Store.open(folder / "fleet.db")
        columns = ("capital", "quote", "mode", "source", "settings", "cash", "created_at")
        with self.store.begin() as conn:
            conn.execute(schema.portfolio.insert(), [{"name": n, **dict.fromkeys(columns, "1")} for n in self.names])
        self.sink, self.tick = FleetSink(self.store, self.names), 0

    def judge(self, rules: list[Rule], values: dict[str, Any]) -> int:
        """Decide, write down, and say how many messages there are."""
        self.tick += 1
        now = START + timedelta(hours=self.tick)
        silences = self.sink.silences(now)
        found = evaluate_many(rules, values, self.sink.load(), portfolios=self.names, now=now, clock=now, silences=silences)
        return len(self.sink.commit(found, handlers=["log", "email"], now=now).notices)

    def full(self) -> int:
        """Everything from the returns of a month."""
        return self.judge(RULES, fleet_values(self.weights, self.returns, window=HOURS, periods_per_year=8760))

    def next_hour(self) -> int:
        """One row more."""
        row = self.rng.normal(0.0003, 0.004, ASSETS)
        self.stream.update(self.weights.to_numpy() @ row)
        return self.judge(RULES, self.stream.values(self.weights.to_numpy()))

    def crash(self) -> int:
        """Ten limits of every portfolio, broken at once; then calm, so that it can happen again."""
        return self.judge(CRASH, {"loss": np.full(len(self.names), 0.5)})

    def calm(self) -> None:
        for _ in range(3):
            self.judge(CRASH, {"loss": np.zeros(len(self.names))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--portfolios", type=int, default=1000)
    given = parser.parse_args()
    shown: list[tuple[str, list[float], int]] = []
    with TemporaryDirectory() as folder:
        fleet = Fleet(given.portfolios, Path(folder))
        paths: dict[str, tuple[Callable[[], int], int]] = {
            f"full evaluation, {given.portfolios} x {ASSETS} x {HOURS}, {len(RULES)} rules": (fleet.full, 1),
            "incremental tick": (fleet.next_hour, 20),
            f"{10 * given.portfolios} alerts fire in one tick": (fleet.crash, 1),
        }
        for name, (call, times) in paths.items():
            took, messages = [], 0
            for _ in range(given.repeat * times):
                start = perf_counter()
                messages = max(messages, call())
                took.append(perf_counter() - start)
                if call == fleet.crash:
                    fleet.calm()
            shown.append((name, took, messages))
        active = sum(state.active for state in fleet.sink.load().values())
        fleet.store.close()
    table = Table("tick, persistence included", "best, ms", "median, ms", "messages", title=f"Alerts ({active} active at the end)")
    for name, took, messages in shown:
        table.add_row(name, f"{1000 * min(took):.1f}", f"{1000 * median(took):.1f}", str(messages))
    Console().print(table)


if __name__ == "__main__":
    main()
