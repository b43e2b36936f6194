"""The risk budget: shares that add up, a book that keeps the ceiling and is the nearest one, and honest refusals."""
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.budget import risk_budget
from portfolio_research.config import DataError, OptimizationError
from portfolio_research.data import load_prices, sample_prices, to_returns
from portfolio_research.risk import portfolio_risk

RETURNS = to_returns(sample_prices().loc["2018":"2020-03"])
COVARIANCE = RETURNS.cov()
SEEDS = st.integers(0, 2**32 - 1)


def book(seed: int, n: int, invested: float = 1.0) -> tuple[pd.Series, pd.DataFrame]:
    """Random long weights and a covariance of assets with one common factor."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.01, (4 * n, n)) * rng.uniform(0.3, 4, n) + rng.normal(0, 0.01, (4 * n, 1))
    names = [f"A{i}" for i in range(n)]
    raw = rng.exponential(size=n) + 0.01
    return pd.Series(invested * raw / raw.sum(), names), pd.DataFrame(np.cov(x, rowvar=False), names, names)


@given(SEEDS, st.integers(5, 12), st.floats(0.2, 1.0), st.floats(0.2, 0.6))
def test_the_book_within_the_budget_keeps_it_and_what_is_invested(
    seed: int, n: int, invested: float, most: float
) -> None:
    weights, covariance = book(seed, n, invested)
    made = risk_budget(weights, covariance, most)
    table = made.table
    assert made.reachable and table["risk_share"].sum() == pytest.approx(1, abs=1e-12)
    assert (table["risk_share_within"] <= most + 1e-9).all() and (table["weight_within"] >= 0).all()
    assert table["weight_within"].sum() == pytest.approx(invested, abs=1e-12)
    np.testing.assert_allclose(table["weight"] + table["trade"], made.weights, rtol=0, atol=1e-15)
    assert (table["over_budget"] == (table["risk_share"] > most + 1e-9)).all()
    if not table["over_budget"].any():
        assert (table["trade"] == 0).all() and "every position is within" in made.reason and made.turnover == 0
    again = risk_budget(made.weights, covariance, most)
    assert again.table["trade"].abs().max() < 1e-6, "a book that keeps the budget is left alone"


@given(SEEDS, st.integers(5, 8))
def test_no_other_book_that_keeps_the_budget_is_nearer(seed: int, n: int) -> None:
    weights, covariance = book(seed, n)
    most = 1.3 / n
    made = risk_budget(weights, covariance, most)

    def distance(x: np.ndarray) -> np.ndarray:
        return (x * np.log(x / weights.to_numpy())).sum(axis=-1)

    rng, found = np.random.default_rng(seed), made.weights.to_numpy()
    near = np.abs(found * np.exp(rng.normal(0, 0.02, (2000, n))))
    near /= near.sum(axis=1, keepdims=True)
    margins = near * (near @ covariance.to_numpy())
    keeps = margins.max(axis=1) <= most * margins.sum(axis=1)
    assert not keeps.any() or distance(near[keeps]).min() >= distance(found) - 1e-8


def test_shares_and_volatility_are_those_of_the_risk_report() -> None:
    weights = pd.Series({"AAPL": 0.3, "JNJ": 0.2, "XOM": 0.2, "KO": 0.1, "BAC": 0.1})
    made, risk = risk_budget(weights, COVARIANCE), portfolio_risk(RETURNS, weights)
    assert made.table["risk_share"].to_dict() == pytest.approx(risk["component_risk_contributions"], abs=1e-12)
    assert made.volatility == pytest.approx(risk["volatility"], rel=1e-12)
    after = portfolio_risk(RETURNS, made.weights)
    assert after["max_risk_share"] <= 0.2 + 1e-9 and made.volatility_within == pytest.approx(after["volatility"])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_fewer_than_five_positions_cannot_keep_a_fifth(n: int) -> None:
    weights, covariance = book(n, 6)
    made = risk_budget(weights.where(weights.rank() <= n, 0.0), covariance)
    assert not made.reachable and made.table["weight_within"].isna().all() and np.isnan(made.turnover)
    assert np.isnan(made.volatility_within) and made.table["over_budget"].any()
    assert f"{n} positions" in made.reason and "hold at least 5 assets, or allow" in made.reason


def test_five_positions_keep_a_fifth_only_with_equal_shares() -> None:
    made = risk_budget(pd.Series(0.2, ["AAPL", "JNJ", "XOM", "KO", "BAC"]), COVARIANCE)
    assert made.reachable and made.table["risk_share_within"].to_numpy() == pytest.approx(np.full(5, 0.2), abs=1e-8)


def test_what_is_not_held_is_not_bought() -> None:
    weights, covariance = book(3, 8)
    weights.iloc[2] = 0.0
    made = risk_budget(weights, covariance, 0.16)
    assert made.reachable and made.weights.iloc[2] == 0 and made.table["risk_share"].iloc[2] == 0


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"AAPL": 0.5, "JNJ": -0.2, "XOM": 0.3, "KO": 0.2, "BAC": 0.2}, "JNJ is held short"),
        ({"AAPL": 0.0, "JNJ": 0.0}, "does not move"),
        ({}, "does not move"),
    ],
)
def test_what_has_no_way_says_why(weights: dict[str, float], says: str) -> None:
    made = risk_budget(weights, COVARIANCE)
    assert not made.reachable and made.table["trade"].isna().all()
    assert says in made.reason


@pytest.mark.parametrize(
    ("weights", "covariance", "most", "told"),
    [
        ({"AAPL": np.nan}, COVARIANCE, 0.2, "the weight of AAPL is missing"),
        ({"AAPL": 0.5, "LUNA": 0.5}, COVARIANCE, 0.2, "does not know LUNA"),
        ({"AAPL": 0.5, "KO": 0.5}, COVARIANCE.replace(COVARIANCE.loc["KO", "KO"], np.nan), 0.2, "of KO is not finite"),
        ({"AAPL": 1.0}, COVARIANCE, 0.0, "max_risk_share is 0.0"),
        ({"AAPL": 1.0}, COVARIANCE, 20, "max_risk_share is 20"),
    ],
)
def test_what_cannot_be_computed_is_refused(weights: Any, covariance: pd.DataFrame, most: float, told: str) -> None:
    with pytest.raises((DataError, OptimizationError), match=told):
        risk_budget(weights, covariance, most)


def test_a_book_of_coins(test_data: Any) -> None:
    prices = load_prices(test_data / "crypto_daily_close.csv.gz").loc["2023":"2024"].dropna(axis=1)
    coins = to_returns(prices)
    weights = pd.Series({"BTC": 0.5, "ETH": 0.2, "SOL": 0.1, "DOGE": 0.1, "XRP": 0.05, "ADA": 0.05})
    made = risk_budget(weights, coins.cov())
    assert made.reachable and made.table["over_budget"].to_list() == [True] + [False] * 5
    assert made.table["risk_share_within"].max() <= 0.2 + 1e-9
    assert made.volatility_within > made.volatility, "the calmest coin gives risk away: a budget is no cure for volatility"
