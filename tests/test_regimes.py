"""Regime labels: causal to the bit, sensible at the edges."""
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import ConfigError, DataError
from portfolio_research.regimes import current_regime, detect_regime, ewma_volatility


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def fat_tailed(n, seed=0):
    rng = np.random.default_rng(seed)
    days = pd.date_range("2020-01-01", periods=n, tz="UTC")
    return pd.Series(0.02 * rng.standard_t(3, n) * np.exp(0.5 * np.sin(np.arange(n) / 90)), days)


def slow_label(x, window=504, decay=0.94, low=0.2, high=0.8):
    """The label after the last return, by the book: plain loops."""
    variances = []
    for r in x.dropna():
        variances.append(r * r if not variances else decay * variances[-1] + (1 - decay) * r * r)
    if len(variances) < 60:
        return "normal"
    past, now = variances[-window:], variances[-1]
    rank = (sum(v < now for v in past) + (sum(v == now for v in past) - 1) / 2) / (len(past) - 1)
    return "high" if rank > high else "low" if rank < low else "normal"


@pytest.mark.parametrize("cut", [1, 59, 60, 61, 503, 504, 505, 1023, 1024, 1025, 1100])
def test_appending_data_never_changes_an_earlier_label_or_bit(cut):
    x = fat_tailed(1200)
    x.iloc[[3, 300, 800]] = np.nan
    pd.testing.assert_series_equal(detect_regime(x[:cut]), detect_regime(x)[:cut])
    assert ewma_volatility(x[:cut]).to_numpy().tobytes() == ewma_volatility(x)[:cut].to_numpy().tobytes()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=61, max_size=160), st.data())
def test_prefix_invariance_and_the_slow_definition(values, data):
    x = pd.Series(values)
    cut = data.draw(st.integers(1, len(values)))
    labels = detect_regime(x, window=70)
    assert (detect_regime(x[:cut], window=70) == labels[:cut]).all()
    assert labels.iloc[cut - 1] == slow_label(x[:cut], window=70)
    assert current_regime(x[:cut], window=70)["volatility_regime"] == labels.iloc[cut - 1]


def test_long_history_agrees_with_the_slow_definition():
    x = fat_tailed(1500, seed=2)
    labels = detect_regime(x)
    for at in (60, 504, 777, 1024, 1300, 1500):
        assert labels.iloc[at - 1] == slow_label(x[:at])


def test_all_three_labels_occur_and_high_is_wilder_than_low():
    x = fat_tailed(1500, seed=3)
    labels = detect_regime(x)
    assert set(labels) == {"low", "normal", "high"}
    known = ewma_volatility(x)[labels.index >= labels.index[60]]
    assert known[labels == "high"].mean() > known[labels == "normal"].mean() > known[labels == "low"].mean()


@pytest.mark.parametrize("n", [650, 700, 800, 900])
def test_since_is_the_first_day_of_the_present_label(n):
    x = fat_tailed(n, seed=4)
    now, labels = current_regime(x), detect_regime(x)
    assert (labels[now["since"] :] == now["volatility_regime"]).all()
    before = labels[: now["since"]].iloc[:-1]
    assert before.iloc[-1] != now["volatility_regime"]


def test_since_reaches_back_as_far_as_the_label_does():
    x = fat_tailed(900, seed=6)
    x.iloc[100:] = 0.0  # a turbulent start, then nothing happens
    labels, now = detect_regime(x, window=60), current_regime(x, window=60)
    assert now["since"] == labels.index[np.flatnonzero(labels != now["volatility_regime"])[-1] + 1]
    assert now["volatility_regime"] == "low" and now["since"] < x.index[200]
    assert current_regime(x[:80] * 0)["since"] == x.index[0]


def test_a_gap_keeps_the_label_and_leaves_the_rest_alone():
    x = fat_tailed(700, seed=5)
    gappy = x.copy()
    gappy.iloc[::9] = np.nan
    labels = detect_regime(gappy)
    assert (labels[gappy.notna()] == detect_regime(gappy.dropna())).all()
    assert (labels.iloc[9::9].to_numpy() == labels.iloc[8:-1:9].to_numpy()[: len(labels.iloc[9::9])]).all()
    assert np.isnan(ewma_volatility(gappy).iloc[9])


@pytest.mark.parametrize("n", [0, 1, 59])
def test_too_little_history_is_normal_and_not_reliable(n):
    now = current_regime(fat_tailed(n))
    assert now["volatility_regime"] == "normal" and now["reliable"] is False and now["observations"] == n
    assert (detect_regime(fat_tailed(n)) == "normal").all()


def test_nothing_known_has_no_volatility():
    now = current_regime(pd.Series([np.nan] * 5))
    assert now["since"] is None and np.isnan(now["volatility"]) and np.isnan(now["percentile"])


def test_sixty_observations_are_enough():
    assert current_regime(fat_tailed(60))["reliable"] is True


@pytest.mark.parametrize("value", [0.0, 0.01])
def test_an_unchanging_market_is_normal(value):
    assert (detect_regime(pd.Series([value] * 200), decay=0.5) == "normal").mean() > 0.9
    assert current_regime(pd.Series([0.0] * 200))["percentile"] == 0.5


def test_volatility_is_annual_by_the_periods_given():
    x = fat_tailed(300)
    daily = current_regime(x, periods_per_year=1)["volatility"]
    np.testing.assert_allclose(current_regime(x, periods_per_year=252)["volatility"], daily * np.sqrt(252))
    np.testing.assert_allclose(ewma_volatility(x).iloc[-1], daily * np.sqrt(365))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: detect_regime([0.1]), DataError, "one Series"),
        (lambda: detect_regime(pd.Series(["a"])), DataError, "numeric"),
        (lambda: detect_regime(pd.Series([0.1, np.inf], index=["mon", "tue"])), DataError, "tue"),
        (lambda: detect_regime(pd.Series([0.1]), decay=1), ConfigError, "decay"),
        (lambda: detect_regime(pd.Series([0.1]), window=1), ConfigError, "window"),
        (lambda: detect_regime(pd.Series([0.1]), low=0.8, high=0.2), ConfigError, "low < high"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(call, error, words):
    with pytest.raises(error, match=words):
        call()
