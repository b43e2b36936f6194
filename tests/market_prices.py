"""Prices that the tests of the market use: made, not real."""

import math

import numpy as np
import pandas as pd

ASSETS = ["AAA", "BBB", "NEW"]


def walk(n: int = 30, late: int = 10) -> pd.DataFrame:
    """Three assets; the last one is listed after `late` days."""
    steps = np.random.default_rng(5).normal(0, 0.02, (n, 3))
    prices = pd.DataFrame(
        100 * np.exp(np.cumsum(steps, axis=0)), pd.date_range("2020-01-01", periods=n, tz="UTC", name="date"), ASSETS
    )
    prices.iloc[:late, 2] = math.nan
    return prices
