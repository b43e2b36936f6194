"""How much faster a sweep is on two workers than one call after the other: python tests/benchmarks/sweeps.py [--repeat 1]

1,000 points of 16 to 20 ms each. The cluster is up before the clock runs; the processes of this machine are not.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from portfolio_research import sweep

RETURNS = np.random.default_rng(0).normal(0, 0.01, (600, 20))


def search(returns: np.ndarray, decay: float) -> float:
    """Numpy work of about 18 ms, on one thread: singular values of 440 weighted windows."""
    weights = np.exp(-decay * np.arange(60, 0, -1))[:, None]
    return float(sum(np.linalg.svd(returns[k : k + 60] * weights, compute_uv=False)[0] for k in range(440)))


def serial(grid: dict[str, list[float]]) -> list[float]:
    with threadpool_limits(1):
        return [search(RETURNS, decay) for decay in grid["decay"]]


def engines(client: Any) -> dict[str, Callable[[dict[str, list[float]]], list[float]]]:
    """Everything that is timed; each gives the same numbers."""
    def swept(**where: Any) -> Callable[[dict[str, list[float]]], list[float]]:
        return lambda grid: sweep(search, grid, RETURNS, progress=False, **where).table["value"].tolist()

    return {"serial": serial, "joblib": swept(n_jobs=2)} | ({"dask": swept(client=client)} if client else {})


def cluster() -> Any:
    """A client of two workers, if dask is installed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return None
    client = Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
    client.wait_for_workers(2)
    return client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--points", type=int, default=1000)
    options = parser.parse_args()
    grid = {"decay": np.linspace(0, 0.1, options.points).tolist()}
    timed = engines(cluster())
    serial({"decay": [0.0]})
    took: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(options.repeat):
        answers = []
        for name, run in timed.items():
            start = perf_counter()
            answers.append(run(grid))
            took[name].append(perf_counter() - start)
        assert all(answer == answers[0] for answer in answers)
    table = Table("engine", "median, s", "times as fast", title=f"{options.points} points, two workers, {options.repeat} turns")
    for name, seconds in took.items():
        faster = median(a / b for a, b in zip(took["serial"], seconds, strict=True))
        table.add_row(name, f"{median(seconds):.2f}", f"{faster:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
