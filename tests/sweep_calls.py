"""The calls that test_sweeps.py sends to workers: here, for a worker that imports them shall import little else."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

DATES = pd.date_range("2020-01-01", periods=400, tz="UTC")
RETURNS = pd.DataFrame(np.random.default_rng(1).normal(0, 0.01, (400, 6)), DATES, list("abcdef"))
GRID = {"k": list(range(120))}


def leave_mark(folder: str, k: int) -> None:
    """Every execution leaves a file that says who did it."""
    Path(folder, f"{k}-{os.getpid()}-{uuid4().hex}").touch()


def work(data: pd.DataFrame, k: int, marks: str = "", die: str = "") -> dict[str, Any]:
    """About 10 ms, and the same result for the same k."""
    if marks:
        leave_mark(marks, k)
    if k == 7 and die == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if k == 5 and die == "error":
        raise ZeroDivisionError("point five")
    end = time.perf_counter() + 0.01
    while time.perf_counter() < end:
        weights = np.arange(1, 7) ** (k / 50)
    returns = data @ (weights / weights.sum())
    return {"returns": returns, "total": float(returns.sum())}
