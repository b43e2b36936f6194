"""Attribution: rebalancing against drifting, by a slow ledger."""
import numpy as np
import pandas as pd
import pytest

from portfolio_research.attribution import rebalancing_contribution
from portfolio_research.config import ConfigError, DataError


# --- rebalancing ------------------------------------------------------------------------------------------------------
def matrix(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(0, 0.03, (n, 3)), pd.date_range("2024-01-01", periods=n, tz="UTC"), list("ABC"))


def slow_rebalancing(r, w, every, cost):
    """The same by holding units in a ledger."""
    target, wealth = pd.Series(w), 1.0
    values, cash, out = target * wealth, (1 - target.sum()) * wealth, []
    for t, (_, row) in enumerate(r.iterrows()):
        values = values * (1 + row[target.index])
        wealth = values.sum() + cash
        out.append(wealth - 1)
        if (t + 1) % every == 0 and t + 1 < len(r):
            wealth -= cost * (target * wealth - values).abs().sum()
            values, cash = target * wealth, (1 - target.sum()) * wealth
    return out


@pytest.mark.parametrize("every", [1, 7, 60, 100])
@pytest.mark.parametrize("weights", [{"A": 0.5, "B": 0.3, "C": 0.2}, {"A": 0.4, "C": 0.0}, {"A": 1.2, "C": -0.2}])
def test_rebalanced_and_drifting_agree_with_a_ledger(every, weights):
    got = rebalancing_contribution(matrix(), weights, every=every, cost=0.002)
    close = {"rtol": 1e-10, "atol": 1e-13}
    np.testing.assert_allclose(got["rebalanced"], slow_rebalancing(matrix(), weights, every, 0.002), **close)
    np.testing.assert_allclose(got["drifting"], slow_rebalancing(matrix(), weights, 10**9, 0.0), **close)
    np.testing.assert_allclose(got["contribution"], got["rebalanced"] - got["drifting"])
    if every >= 60:
        np.testing.assert_allclose(got["contribution"], 0, atol=1e-13)


def test_restoring_every_period_is_the_weighted_return():
    w = pd.Series({"A": 0.2, "B": 0.3, "C": 0.5})
    got = rebalancing_contribution(matrix(), w)["rebalanced"]
    np.testing.assert_allclose(got, (1 + matrix() @ w).cumprod() - 1)


def test_costs_only_cost():
    free, dear = (rebalancing_contribution(matrix(), {"A": 0.5, "B": 0.5}, cost=c) for c in (0.0, 0.01))
    assert dear["rebalanced"].iloc[-1] < free["rebalanced"].iloc[-1] and dear["drifting"].equals(free["drifting"])


def test_no_periods_no_rows():
    assert rebalancing_contribution(matrix(0), {"A": 1.0}).empty


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rebalancing_contribution(matrix(), {"XRP": 1.0}), DataError, "no returns of XRP"),
        (lambda: rebalancing_contribution(matrix().mask(matrix() > 0.05), {"A": 1, "B": 1}), DataError, "on 2024"),
        (lambda: rebalancing_contribution(matrix(), {"A": 1.0}, every=0), ConfigError, "every"),
        (lambda: rebalancing_contribution(matrix(), {"A": 1.0}, cost=1.0), ConfigError, "cost"),
    ],
)
def test_bad_input_names_the_culprit(call, error, words):
    with pytest.raises(error, match=words):
        call()
