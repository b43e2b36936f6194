"""The notebook that compares with the peers: what can be judged without having them.

With the peers installed, tests/test_explore.py runs it. Without, its stored outputs must still say what the package says.
"""

from __future__ import annotations

import re
from configparser import ConfigParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from house import ROOT, Cell, Notebook, source

from portfolio_research.data import sample_prices, to_returns
from portfolio_research.metrics import REGISTRY, report

NOTEBOOK = Notebook.read(ROOT / "nbs" / "explore" / "why_your_numbers_differ.ipynb")
LABELS = {metric.label: name for name, metric in REGISTRY.items()}


def cell(text: str) -> Cell:
    """The one code cell that holds this text."""
    (found,) = [c for c in NOTEBOOK.code if text in source(c)]
    return found


def rows(found: Cell) -> dict[str, list[str]]:
    """A stored table: cells by the row's label."""
    (html,) = ["".join(o["data"]["text/html"]) for o in found["outputs"] if "text/html" in o.get("data", {})]
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.S)
    table = {tuple(re.findall(r"<th[^>]*>(.*?)</th>", x)): re.findall(r"<td>(.*?)</td>", x) for x in lines}
    return {label[-1].replace("&gt;", ">"): values for label, values in table.items() if values}


@pytest.fixture(scope="module")
def today() -> pd.Series:
    """The report of what the notebook's tables are about."""
    returns = to_returns(sample_prices().loc["2019-12-31":"2022"])
    return report(returns["JPM"], returns.mean(axis=1), periods_per_year=252)


def peers() -> dict[str, str]:
    """What the extra `peers` asks for: lower bound by package."""
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(requirement.split(">=") for requirement in config["DEFAULT"]["extra_peers"].split())


def numbers(version: str) -> list[int]:
    return [int(n) for n in version.split(".")]


def test_the_extra_is_what_the_notebook_compares_with() -> None:
    stored = rows(cell("pd.Series({name: version(name)"))
    assert stored.keys() == peers().keys()
    for package, (measured,) in stored.items():
        assert numbers(measured) >= numbers(peers()[package]), f"{package}: measured {measured}, older than the extra asks for"
        assert re.search(rf"^(import|from) {package.partition('-')[0]}\b", source(NOTEBOOK.code[0]), re.M)


def test_our_column_is_what_we_say_today(today: pd.Series) -> None:
    stored = {LABELS[label]: values[0] for label, values in rows(cell('marked(FOUND["JPM"])')).items()}
    assert len(stored) >= 30
    assert stored == {name: f"{today[name]:.5g}" for name in stored}


def test_the_interval_is_what_we_say_today(today: pd.Series) -> None:
    (output,) = cell('low, high = jpm_report["sharpe_ci_low"]')["outputs"]
    low, high = today["sharpe_ci_low"], today["sharpe_ci_high"]
    assert "".join(output["data"]["text/plain"]) == f"'{today['sharpe']:.2f} [{low:.2f}, {high:.2f}]'"


def test_every_difference_of_the_table_has_its_reason() -> None:
    html = "".join(cell("reasons.to_frame()")["outputs"][0]["data"]["text/html"])
    table = rows(cell('marked(FOUND["JPM"])'))
    differences = sum(value not in ("=", "–") for values in table.values() for value in values[1:])
    reasons = re.findall(r"<td>(.*?)</td>", html)
    assert len(reasons) == differences >= 30 and all(reason.strip() for reason in reasons)


# ---------------------------------------------------------------- shown red
def explain(theirs: float) -> dict[str, Any]:
    """The notebook's own `explain`, beside a library whose mean is `theirs`."""
    asked = {"volatility": lambda x, b: theirs}
    space: dict[str, Any] = {"SERIES": {"x": pd.Series([0.01, 0.03])}, "market": None, "LIBRARIES": {"peer": asked}}
    space |= {"REGISTRY": {}, "YEAR": 252, "np": np, "pd": pd, "report": report}
    (close,) = re.findall(r"^def close.*?(?=^def values)", source(cell("def close(")), re.S | re.M)
    exec(close + source(cell("def explain(")), space)
    space["explain"]("volatility", "peer", "it is the mean", lambda x, b: x.mean())
    return space["EXPLAINED"]


def test_a_library_that_does_as_described_is_explained() -> None:
    assert explain(0.02 * (1 + 1e-12)) == {("volatility", "peer"): "it is the mean"}


def test_a_library_that_changes_its_mind_is_noticed() -> None:
    with pytest.raises(AssertionError, match="peer volatility of x is"):
        explain(0.02 * (1 + 1e-6))
