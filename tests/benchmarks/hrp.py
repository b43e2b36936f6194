"""What a fit of hierarchical risk parity costs: python tests/benchmarks/hrp.py [--assets 20 500] [--repeat 5]

Time and memory beside the floor, which nobody who works with these libraries gets under: the covariance as one product,
for the paper's distance a second product of N x N, and scipy's single linkage on distances that are ready. Each
contender lives in a process of its own; they take turns, so that a busy machine slows all of them alike. Shown are the
best wall time, multiples of the floor, and the memory at the peak of a fit, also as a multiple of one N x N matrix. One
BLAS thread, 1000 observations. Other libraries take part when they are installed.
"""
from __future__ import annotations

import argparse
import os
import tracemalloc
import warnings
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads that fight for cores make small products tens of times slower

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

Run = Callable[[], object]


def market(assets: int, days: int) -> pd.DataFrame:
    """Returns with a market, sectors and noise; fixed seed."""
    rng = np.random.default_rng(7)
    sectors = max(2, int(np.sqrt(assets) / 2))
    themes = 0.008 * rng.standard_normal((days, sectors))[:, rng.integers(0, sectors, assets)]
    common = 0.01 * rng.standard_normal((days, 1)) * rng.uniform(0.5, 1.5, assets)
    noise = rng.standard_normal((days, assets)) * rng.uniform(0.008, 0.03, assets)
    index = pd.bdate_range("2010-01-04", periods=days, tz="UTC")
    return pd.DataFrame(common + themes + noise, index, [f"A{i:05d}" for i in range(assets)])


def ours(returns: pd.DataFrame, **options: str) -> Run:
    from portfolio_research import HierarchicalRiskParity

    return lambda: HierarchicalRiskParity(**options).fit(returns)


def floor_direct(returns: pd.DataFrame) -> Run:
    centred = returns.to_numpy() - returns.to_numpy().mean(axis=0)
    distance = squareform(np.sqrt((1 - np.corrcoef(centred.T).clip(-1, 1)) / 2), checks=False)
    return lambda: (centred.T @ centred, hierarchy.linkage(distance, "single"))


def floor_paper(returns: pd.DataFrame) -> Run:
    base, square = floor_direct(returns), np.sqrt((1 - np.corrcoef(returns.to_numpy().T).clip(-1, 1)) / 2)
    return lambda: (base(), square.T @ square)


def pypfopt(returns: pd.DataFrame) -> Run:
    from pypfopt import HRPOpt

    return lambda: HRPOpt(returns).optimize(linkage_method="single")


def riskfolio(returns: pd.DataFrame) -> Run:
    from riskfolio import HCPortfolio

    return lambda: HCPortfolio(returns=returns).optimization(model="HRP", rm="MV", linkage="single")


def skfolio(returns: pd.DataFrame) -> Run:
    from skfolio.optimization import HierarchicalRiskParity

    return lambda: HierarchicalRiskParity().fit(returns)


def pyhrp(returns: pd.DataFrame) -> Run:
    import polars
    from pyhrp import build_tree, compute_corr, compute_cov, risk_parity

    frame = polars.DataFrame({asset: returns[asset].to_numpy() for asset in returns})

    def run() -> object:
        root = build_tree(compute_corr(frame), method="single", bisection=True).root
        return risk_parity(root=root, cov=compute_cov(frame)).portfolio.weights

    return run


CONTENDERS: dict[str, Callable[[pd.DataFrame], Run]] = {
    "floor of direct": floor_direct,
    "floor of paper": floor_paper,
    "direct": lambda returns: ours(returns, distance="direct"),
    "paper": lambda returns: ours(returns, distance="paper"),
    "matrix-free": lambda returns: ours(returns, distance="direct", algorithm="matrix_free"),
    "pyhrp": pyhrp,
    "PyPortfolioOpt": pypfopt,
    "Riskfolio-Lib": riskfolio,
    "skfolio": skfolio,
}


def timed(run: Run) -> float:
    """Seconds of one run."""
    start = perf_counter()
    run()
    return perf_counter() - start


def traced(run: Run) -> float:
    """MiB that one run asks of Python and numpy at its peak; what other languages allocate is not seen."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def serve(name: str, assets: int, days: int, pipe: Connection) -> None:
    """One contender: warm up, then run when asked."""
    warnings.simplefilter("ignore")
    try:
        CONTENDERS[name](market(12, 60))()  # imports and what first calls cost
        run = CONTENDERS[name](market(assets, days))
        pipe.send("ready")
        while measure := pipe.recv():
            pipe.send(measure(run))
    except ImportError:
        pipe.send("not installed")


def race(names: Iterable[str], assets: int, days: int, turns: int, patience: float) -> dict[str, list[float]]:
    """Seconds of every contender that is there, then MiB; a slow one has one turn, one beyond patience none."""
    context = get_context("spawn")
    runs: dict[str, list[float]] = {}
    workers: dict[str, tuple[Any, Connection]] = {}
    for name in names:
        pipe, end = context.Pipe()
        worker = context.Process(target=serve, args=(name, assets, days, end), daemon=True)
        worker.start()
        if pipe.poll(120) and pipe.recv() == "ready":
            runs[name], workers[name] = [], (worker, pipe)
        else:
            worker.kill()
    for measure in [timed] * turns + [traced]:
        for name, (worker, pipe) in list(workers.items()):
            pipe.send(measure)
            if pipe.poll(patience):
                runs[name].append(pipe.recv())
            if len(runs[name]) in (0, turns + 1) or runs[name][-1] > patience / 4 and measure is timed:
                worker.kill()
                del workers[name]
    return runs


def table(runs: dict[str, list[float]], assets: int, days: int, turns: int) -> Table:
    """Best time, multiples of the floor, and memory."""
    best = {name: min(took[:turns]) for name, took in runs.items() if took}
    shown = Table("contender", title=f"{assets} assets x {days} days")
    for column in ("best, ms", "x floor", "MiB", "x 8 N² bytes"):
        shown.add_column(column, justify="right")
    for name, took in runs.items():
        if name not in best:
            shown.add_row(name, "too slow")
            continue
        floor = best["floor of paper" if "paper" in name else "floor of direct"]
        cells = [f"{1000 * best[name]:.1f}", f"{best[name] / floor:.2f}"]
        if len(took) > turns:
            matrices = took[turns] * 2**20 / (8 * assets**2)
            cells += [f"{took[turns]:.1f}", f"{matrices:.2f}" if assets >= 500 else ""]
        shown.add_row(name, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, nargs="+", default=[20, 100, 500, 1000, 2000])
    parser.add_argument("--days", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each contender")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that one run may take")
    given = parser.parse_args()
    console, absent = Console(), set()
    for assets in given.assets:
        runs = race([name for name in CONTENDERS if name not in absent], assets, given.days, given.repeat, given.patience)
        absent |= set(CONTENDERS) - set(runs) - absent
        console.print(table(runs, assets, given.days, given.repeat))
    if absent:
        console.print(f"not installed: {', '.join(sorted(absent))}")


if __name__ == "__main__":
    main()
