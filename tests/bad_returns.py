"""Tables of returns that must not be optimised in silence, and what has to be said about each.

One list serves the gate and every estimator behind it: `judge(case, run)` builds the table, runs, and checks that the
error or the warning names the asset, the row and the remedy, or that nothing is said about a good table.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from portfolio_research.config import DataError
from portfolio_research.data import sample_prices, to_returns


class Case(NamedTuple):
    """A table and what must be said about it."""

    name: str
    build: Callable[[], Any]
    verdict: Literal["error", "warning", "fine"]
    says: str = ""  # regular expression; parts in order
    missing: str = "raise"
    gate: bool = True  # whether the gate alone can tell; the others need moments


@cache
def _stocks() -> pd.DataFrame:
    return to_returns(sample_prices().loc["2018":"2021"])


def stocks() -> pd.DataFrame:
    """1,007 days of 20 stocks, 2018 to 2021."""
    return _stocks().copy()


def with_cells(cell: object, rows: slice | list[int], asset: str = "AMD") -> pd.DataFrame:
    returns = stocks().astype(object if isinstance(cell, str) else float)
    returns.iloc[rows, returns.columns.get_loc(asset)] = cell
    return returns


def noise(scale: float) -> np.ndarray:
    return scale * np.random.default_rng(0).normal(size=len(stocks()))


def with_column(values: Any, name: str = "NEW") -> pd.DataFrame:
    return stocks().assign(**{name: values})


LATE = slice(0, 302)  # 30 % of the rows
ROUNDING = 1e-4 * (1 + 1e-14 * np.arange(1007))
REMEDY = ".*missing='drop_assets'.*missing='pairwise'.*start after their first price.*do not fill NaN with zero"

CASES = [
    # cells
    Case("late listing", lambda: with_cells(np.nan, LATE), "error", r"AMD \(302, first at 2018-01-03\)" + REMEDY),
    Case("five missing cells", lambda: with_cells(np.nan, [7, 9, 20, 21, 99]), "error",
         r"missing cells in AMD \(5, first at 2018-01-12\)" + REMEDY),
    Case("column of NaN", lambda: with_column(np.nan), "error", r"NEW \(1007, first at 2018-01-03\)" + REMEDY),
    Case("missing in an array", lambda: with_cells(np.nan, [3]).to_numpy(), "error", r"in 1 \(1, first at 3\)" + REMEDY),
    Case("masked array", lambda: np.ma.masked_greater(stocks().to_numpy(), 0.19), "error",
         r"in 1 \(1, first at 269\), 4 \(1" + REMEDY),
    Case("missing of pandas", lambda: with_cells(np.nan, [3]).astype("Float64"), "error", r"AMD \(1, first at 2018-01-08\)"),
    Case("infinite", lambda: with_cells(np.inf, [3]), "error",
         r"infinite cells in AMD \(1, first at 2018-01-08\): drop these assets, or correct"),
    Case("minus infinite", lambda: with_cells(-np.inf, [0, 1]), "error", r"AMD \(2, first at 2018-01-03\)"),
    Case("infinite and missing", lambda: with_cells(np.inf, [3]).assign(BAC=np.nan), "error", "infinite cells in AMD",
         "drop_assets"),
    # what a policy allows
    Case("late listing, dropped", lambda: with_cells(np.nan, LATE), "warning",
         r"^AMD \(302, first at 2018-01-03\) miss cells and are left out; AAPL, BAC, .* and 14 more remain$", "drop_assets"),
    Case("every asset late, dropped", lambda: stocks().mask(np.tile(np.arange(1007)[:, None] < 250, 20)), "error",
         r"no asset is complete: missing cells in AAPL \(250, first at 2018-01-03\).*use fewer rows", "drop_assets"),
    Case("late listing, pairwise", lambda: with_cells(np.nan, LATE), "fine", "", "pairwise"),
    Case("column of NaN, pairwise", lambda: with_column(np.nan), "error", "of NEW hold no number at all: drop these", "pairwise"),
    Case("few common rows", lambda: with_cells(np.nan, slice(0, 990)), "warning",
         r"AAPL and AMD share only 17 rows.*for 20 assets have at least 30.*missing='drop_assets'", "pairwise"),
    Case("few rows of the first", lambda: with_cells(np.nan, slice(0, 990), "AAPL"), "warning",
         r"^AAPL and AMD share only 17 rows", "pairwise"),
    Case("few rows of one asset", lambda: with_cells(np.nan, slice(0, 990))[["AMD"]], "warning",
         r"^AMD share only 17 rows of returns: for 1 assets have at least 30", "pairwise"),
    Case("one common row", lambda: with_cells(np.nan, slice(0, 1006)), "error",
         r"AAPL and AMD share 1 row\(s\) of returns: a correlation needs at least 2; drop one", "pairwise"),
    # motion
    Case("no variance", lambda: with_column(0.0), "error", r"of NEW never change.*hold them as cash.*treat_as_cash=\['NEW'\]"),
    Case("constant return", lambda: with_column(1e-4), "error", "of NEW never change"),
    Case("constant but for rounding", lambda: with_column(ROUNDING), "error", "of NEW never change"),
    Case("too small to square", lambda: with_column(noise(1e-170)), "error", "of NEW never change"),
    Case("constant, pairwise", lambda: with_cells(np.nan, [3]).assign(NEW=0.0), "error", "of NEW never change", "pairwise"),
    Case("stablecoin", lambda: with_column(noise(1e-6), "USDC"), "warning",
         r"USDC move less than a twentieth of the median asset.*treat_as_cash=\['USDC'\] or min_volatility=0\.0"),
    Case("stablecoin, pairwise", lambda: with_cells(np.nan, LATE).assign(USDC=noise(1e-6)), "warning", "^USDC move less",
         "pairwise"),
    Case("interest with little noise", lambda: with_column(0.1 + noise(1e-6), "RATE"), "warning", "^RATE move less"),
    Case("interest with hardly any noise", lambda: stocks().assign(**{f"RATE{i}": 0.1 + noise(i * 1e-10) for i in range(1, 6)}),
         "warning", "^RATE1, RATE2, RATE3, RATE4, RATE5 move less"),
    Case("three days", lambda: pd.DataFrame({"A": [0.0, 0.1, 0.2], "B": [0.2, 0.0, 0.1], "C": [0.0, 0.002, 0.0]}), "warning",
         r"^C move less .* \(0\.1 per period\) .* min_volatility=0\.005$"),
    # clones
    Case("exact copy", lambda: with_column(stocks()["AAPL"], "COPY"), "warning",
         r"AAPL and COPY \(1\.0000\) move as one.*merge_correlated=0\.999", gate=False),
    Case("wrapped coin", lambda: with_column(stocks()["AAPL"] + noise(1e-4), "COPY"), "warning",
         r"AAPL and COPY \(1\.0000\).*merge_correlated", gate=False),
    Case("mirror", lambda: with_column(-2 * stocks()["AAPL"] + noise(1e-4), "SHORT"), "warning",
         r"AAPL and SHORT \(-1\.0000\) mirror.*drop one", gate=False),
    # shape
    Case("one asset", lambda: stocks()[["AMD"]], "fine"),
    Case("two assets", lambda: stocks()[["AMD", "JPM"]], "fine"),
    Case("three assets", lambda: stocks()[["AMD", "JPM", "XOM"]], "fine"),
    Case("fewer rows than assets", lambda: stocks()[:10], "warning", "10 rows for 20 assets: correlations are mostly noise"),
    Case("two rows", lambda: stocks()[:2], "warning", "2 rows for 20 assets"),
    Case("one row", lambda: stocks()[:1], "error", r"AAPL, AMD, .* have 1 row\(s\): a variance needs at least 2"),
    Case("no row", lambda: stocks()[:0], "error", r"and 15 more have 0 row\(s\)"),
    Case("no column", lambda: stocks()[[]], "error", r"0 feature\(s\) \(shape=\(1007, 0\)\) .*pass one row per period"),
    Case("one-dimensional", lambda: stocks()["AMD"].to_numpy(), "error", r"shape \(1007,\): pass one row per period"),
    Case("series", lambda: stocks()["AMD"], "error", r"shape \(1007,\): pass one row per period and one column"),
    # labels and types
    Case("labels twice", lambda: stocks().rename(columns={"AMD": "BAC"}), "error", "hold BAC more than once: give each"),
    Case("objects", lambda: stocks().astype(object), "fine"),
    Case("array of objects", lambda: stocks().to_numpy(dtype=object), "fine"),
    Case("text cell", lambda: with_cells("n/a", [3]), "error", r"AMD \(mixed\) are not real numbers: convert or drop"),
    Case("number as text", lambda: with_cells("0.01", slice(None)), "error", r"AMD \(string\) are not real numbers"),
    Case("text column", lambda: with_column("x", "NAME"), "error", r"NAME \(string\) are not real numbers"),
    Case("array of text", lambda: np.array([["a", "b"], ["c", "d"]]), "error", r"0 \(string\), 1 \(string\) are not"),
    Case("date column", lambda: with_column(pd.Timestamp("2024-01-01"), "DAY"), "error", r"DAY \(datetime64\) are not real"),
    Case("flags", lambda: with_column(stocks()["AMD"] > 0, "UP"), "error", r"UP \(boolean\) are not real numbers"),
    Case("complex", lambda: with_column(1j * stocks()["AMD"], "Z"), "error", "of Z are not real numbers. Complex data not"),
    Case("sparse", lambda: sparse.csr_array(stocks().to_numpy()), "error", r"returns are sparse.*use returns\.toarray"),
    Case("integers", lambda: (stocks() * 1000).round().astype(int), "fine"),
    # meaning
    Case("prices", lambda: sample_prices().loc["2018":"2021"], "warning", r"AAPL, AMD, .* look like prices; use to_returns"),
    Case("prices of one asset", lambda: with_column(100 + noise(1.0).cumsum(), "SPY"), "warning", "returns of SPY are all pos"),
    Case("prices of a cheap coin", lambda: pd.DataFrame({"DOGE": 0.05 + np.abs(noise(0.01))}), "warning", "of DOGE are all pos"),
    Case("good returns", stocks, "fine"),
    Case("nineteen assets, shuffled", lambda: stocks().drop(columns="XOM").sample(frac=1, axis=1, random_state=1), "fine"),
]  # fmt: skip


def judge(case: Case, run: Callable[[Any, str], object]) -> None:
    """Run with the case's table and its policy for missing cells, and check what is said about it, and where."""
    returns = case.build()
    if case.verdict == "error":
        with pytest.raises(DataError, match=re.compile(case.says, re.DOTALL)):
            run(returns, case.missing)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(returns, case.missing)
    told = [str(w.message) for w in caught]
    if case.verdict == "fine":
        assert told == []
    else:
        assert any(re.search(case.says, text) for text in told), told
        assert {w.filename for w in caught} == {run.__code__.co_filename}, "a warning points at the line that asked"
