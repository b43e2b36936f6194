"""What is the same has the same name, what differs in anything that matters has another."""
from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, RiskSettings
from portfolio_research.content import content_hash, described, fingerprint
from portfolio_research.hrp import HierarchicalRiskParity

DATES = pd.date_range("2020-01-01", periods=4, tz="UTC")
FRAME = pd.DataFrame(np.arange(12.0).reshape(4, 3), DATES, list("abc"))
FACTOR = 2


class Side(Enum):
    BUY = 1


@dataclass
class Rule:
    band: float
    model: object = None

    def __call__(self, data):
        return data


def helper(x):
    return x * FACTOR


def calls_helper(x):
    return helper(x)


def around(k):
    def inner(x):
        return x + k

    return inner


def recursive(n):
    return n and recursive(n - 1)


# ---------------------------------------------------------------- data
def test_memory_layout_does_not_count() -> None:
    name = content_hash(FRAME)
    fortran = pd.DataFrame(np.asfortranarray(FRAME.to_numpy()), DATES, list("abc"))
    pieces = pd.concat([FRAME[["a"]], FRAME[["b", "c"]]], axis=1)
    view = pd.concat([FRAME, FRAME]).iloc[:4]
    read_only = FRAME.to_numpy().copy()
    read_only.flags.writeable = False
    same = [
        fortran, pieces, view, FRAME.astype(int), FRAME.astype("float32"), FRAME.tz_convert("Asia/Tokyo"), FRAME.copy(),
        FRAME.set_axis(DATES.as_unit("s")), pd.DataFrame(read_only, DATES, list("abc"), copy=False), FRAME.replace(0.0, -0.0),
        FRAME.rename_axis("date"),
    ]  # fmt: skip
    assert {content_hash(each) for each in same} == {name}


def test_what_matters_counts() -> None:
    changed = FRAME.copy()
    changed.iloc[1, 1] = np.nextafter(changed.iloc[1, 1], np.inf)
    different = [
        FRAME, changed, FRAME.mask(FRAME == 5), FRAME[["a", "c", "b"]], FRAME.iloc[::-1], FRAME.iloc[:3], FRAME.T,
        FRAME.set_axis(DATES + timedelta(hours=1)), FRAME.tz_localize(None), FRAME.rename(columns={"a": "d"}),
        FRAME.to_numpy(), FRAME.to_numpy().ravel(), FRAME["a"], {"a": FRAME}, {"b": FRAME}, [1], None,
        FRAME.assign(c="x"), FRAME.assign(c="y"),
    ]  # fmt: skip
    assert len({content_hash(each) for each in different}) == len(different)


def test_all_missing_numbers_are_one() -> None:
    quiet, odd = np.array([np.nan]), np.array([0x7FF8000000000001], dtype="u8").view("f8")
    assert quiet.tobytes() != odd.tobytes() and content_hash(quiet) == content_hash(odd)


@given(st.integers(1, 5), st.integers(1, 5), st.randoms())
def test_one_bit_anywhere_counts(rows: int, columns: int, random) -> None:
    values = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    other = values.copy()
    cell = random.randrange(rows), random.randrange(columns)
    other[cell] = np.nextafter(other[cell], 1e9)
    assert content_hash(values) != content_hash(other) and content_hash(values) == content_hash(np.asfortranarray(values))


def test_the_name_is_the_same_in_another_process() -> None:
    code = (
        "import numpy as np, pandas as pd; from portfolio_research.content import content_hash;"
        "dates = pd.date_range('2020-01-01', periods=4, tz='UTC');"
        "print(content_hash(pd.DataFrame(np.arange(12.0).reshape(4, 3), dates, list('abc'))))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == content_hash(FRAME)


# ---------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (0, 0.0), (np.int64(3), 3), (np.float64(0.1), 0.1), ((1, 2), [1, 2]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1}, {1, 3}), (Rule(0.1), Rule(0.1)),
        (HierarchicalRiskParity(), HierarchicalRiskParity(linkage="ward").set_params(linkage="single")),
    ],
)  # fmt: skip
def test_equal_parameters_have_one_description(a, b) -> None:
    assert json.dumps(described(a)) == json.dumps(described(b))


def test_different_parameters_have_different_descriptions() -> None:
    each = [
        True, 1, "1", 1.5, None, float("nan"), float("inf"), [1], {"a": 1}, Side.BUY, Path("x"), timedelta(1), RiskSettings(),
        datetime(2020, 1, 1, tzinfo=UTC), Rule(0.1), Rule(0.2), Rule(0.1, HierarchicalRiskParity()), FRAME, DATES, FRAME["a"],
        HierarchicalRiskParity(), HierarchicalRiskParity(linkage="ward"), helper, partial(helper, 1), Rule, len, sum, np.float32,
    ]  # fmt: skip
    assert len({json.dumps(described(value), sort_keys=True) for value in each}) == len(each)


def test_a_parameter_without_content_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a builtins\.object cannot be counted as a parameter"):
        described({"x": [object()]})


# ---------------------------------------------------------------- functions
def test_a_changed_helper_constant_or_closure_is_a_changed_function(monkeypatch) -> None:
    before = fingerprint(calls_helper)
    assert before == fingerprint(calls_helper)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    changed = fingerprint(calls_helper)
    monkeypatch.setitem(globals(), "FACTOR", 2)
    monkeypatch.setitem(globals(), "helper", lambda x: x)
    assert len({before, changed, fingerprint(calls_helper)}) == 3
    assert fingerprint(around(1)) == fingerprint(around(1)) != fingerprint(around(2))
    with pytest.raises(ConfigError, match="cannot be counted"):
        fingerprint(around(object()))


def test_lambdas_are_named_by_what_they_do() -> None:
    one, same, other = (lambda x: x + 1), (lambda x: x + 1), (lambda x: x + 2)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert fingerprint(lambda x: [y + 1 for y in x]) != fingerprint(lambda x: [y + 2 for y in x])


def test_every_callable_has_a_name() -> None:
    each = [
        helper, recursive, len, Rule, Rule(0.1), Rule(0.2), partial(helper, 1), partial(helper, x=1), partial(len),
        Rule(1).__call__, Rule(2).__call__, np.mean, np.median,
    ]  # fmt: skip
    assert len({fingerprint(fn) for fn in each}) == len(each)
    written = {}
    exec("def typed(x):\n    return x", written)  # no source to be found
    assert fingerprint(written["typed"]) == fingerprint(written["typed"])
