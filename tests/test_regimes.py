"""Regime labels: causal to the bit, sensible at the edges, and worth something on data they were not chosen on."""
import warnings
from itertools import groupby

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import filtfilt
from scipy.special import ndtr

from portfolio_research import sample_prices
from portfolio_research.config import ConfigError, DataError
from portfolio_research.regimes import (
    _em,
    _fit,
    average_correlation,
    correlation_regime,
    current_regime,
    detect_regime,
    ewma_volatility,
    markov_regime,
    trend_regime,
    trend_strength,
)

MAJORS = ["BTC", "ETH", "BNB", "XRP", "ADA", "SOL", "DOGE", "LTC", "LINK", "AVAX", "DOT"]
SUDDEN = {"low_exit": 0.2, "high_exit": 0.8}  # no hysteresis


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def fat_tailed(n, seed=0):
    rng = np.random.default_rng(seed)
    days = pd.date_range("2020-01-01", periods=n, tz="UTC")
    return pd.Series(0.02 * rng.standard_t(3, n) * np.exp(0.5 * np.sin(np.arange(n) / 90)), days)


def frame(n, assets=12, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.standard_t(4, (n, 1)) * (1 + np.sin(np.arange(n) / 80))[:, None]
    return pd.DataFrame(0.01 * common + 0.015 * rng.standard_normal((n, assets)), fat_tailed(n).index).add_prefix("A")


# ---------------------------------------------------------------- nothing is ever revised
def bits(found):
    """Labels and probabilities as bytes, so that NaN equals NaN and 0.0 does not equal -0.0."""
    columns = [found] if isinstance(found, pd.Series) else [found[c] for c in found]
    return [list(c) if c.dtype == object else c.to_numpy().tobytes() for c in columns]


def assert_causal(detect, data, cuts):
    """Labels of a history cut anywhere are the first labels of the whole history."""
    whole = detect(data)
    for cut in cuts:
        same = bits(detect(data.iloc[:cut])) == bits(whole.iloc[:cut])  # apart: pytest would print the difference at length
        assert same, f"data after row {cut} changed what was said before"


OF_SERIES = {
    "volatility": lambda x: detect_regime(x, window=70),
    "without hysteresis": lambda x: detect_regime(x, window=70, **SUDDEN),
    "ewma": ewma_volatility,
    "trend": lambda x: trend_regime(x, decay=0.9),
    "t": trend_strength,
    "markov": lambda x: markov_regime(x, first=60, every=37),
}
OF_FRAMES = {"correlation": lambda x: correlation_regime(x, decay=0.9, window=70), "mean": average_correlation}
CUTS = [0, 1, 2, 59, 60, 61, 96, 97, 98, 503, 504, 505, 755, 756, 757, 1023, 1024, 1025, 1100]


@pytest.mark.parametrize("detect", [*OF_SERIES.values(), detect_regime, trend_regime, markov_regime])
def test_appending_data_never_changes_an_earlier_label_or_bit(detect):
    x = fat_tailed(1200)
    x.iloc[[0, 3, 300, 504, 800]] = np.nan
    assert_causal(detect, x, CUTS if detect is not OF_SERIES["markov"] else CUTS[:12])


@pytest.mark.parametrize("detect", [*OF_FRAMES.values(), correlation_regime])
@pytest.mark.parametrize("assets", [2, 3, 9, 40])
def test_appending_data_never_changes_a_correlation(detect, assets):
    x = frame(1200, assets)
    x.iloc[:400, 0] = np.nan
    x.iloc[500:560, 1] = np.nan
    x.iloc[900:, -1] = np.nan
    assert_causal(detect, x, CUTS)


VALUES = st.one_of(
    st.floats(-0.5, 0.5),
    st.sampled_from([0.0, -0.0, 0.01, -0.01, np.nan, 1e150, -1e150, 1e-160, 5e-324, 3.92, -1.0]),
)
RUNS = st.lists(st.tuples(VALUES, st.integers(1, 30)), min_size=3, max_size=60)  # ties, constant stretches


@pytest.mark.parametrize("name", OF_SERIES)
@settings(max_examples=25, deadline=None)
@given(runs=RUNS, data=st.data())
def test_no_series_whatever_makes_a_detector_look_ahead(name, runs, data):
    x = pd.Series([value for value, times in runs for _ in range(times)])
    assert_causal(OF_SERIES[name], x, [data.draw(st.integers(0, len(x))) for _ in range(3)])


@pytest.mark.parametrize("name", OF_FRAMES)
@settings(max_examples=25, deadline=None)
@given(columns=st.lists(RUNS, min_size=2, max_size=11), data=st.data())
def test_no_frame_whatever_makes_a_detector_look_ahead(name, columns, data):
    longest = max(sum(times for _, times in runs) for runs in columns)
    x = pd.DataFrame({i: pd.Series([v for v, times in runs for _ in range(times)]) for i, runs in enumerate(columns)})
    assert_causal(OF_FRAMES[name], x, [data.draw(st.integers(0, longest)) for _ in range(3)])


def smoothed_markov(x):
    """What libraries call predict_proba: the fitted chain, smoothed from both sides."""
    square = (x / x.std()).to_numpy() ** 2
    theta, _ = _fit(square, np.array([-0.7, 0.7, -4.0, -3.0]))
    chance = smoothed(square, theta)
    return pd.DataFrame({"regime": np.where(chance > 0.5, "high", "low").astype(object), "probability": chance})


def two_sided_ewma(x):
    variance = filtfilt([0.06], [1, -0.94], x.to_numpy() ** 2)
    return pd.Series(np.where(variance > np.median(variance), "high", "low"), x.index, dtype=object)


@pytest.mark.parametrize("detect", [smoothed_markov, two_sided_ewma, lambda x: detect_regime(x[::-1])[::-1]])
def test_the_test_is_red_on_a_detector_that_knows_the_future(detect):
    with pytest.raises(AssertionError, match="changed what was said before"):
        assert_causal(detect, fat_tailed(1200), [800, 1000, 1100])


# ---------------------------------------------------------------- the definition, by plain loops
def slow_ranks(x, window, decay=0.94):
    ranks, variances = [], []
    for r in x.dropna():
        variances.append(decay * variances[-1] + (1 - decay) * r * r if variances else r * r)
        others, now = variances[-window:-1], variances[-1]
        same = sum(v == now for v in others)
        ranks.append((sum(v < now for v in others) + same / 2) / len(others) if others else 0.5)
    return ranks


def slow_labels(x, window=504, low=0.2, low_exit=0.35, high_exit=0.65, high=0.8):
    label, labels = "normal", []
    for i, rank in enumerate(slow_ranks(x, window)):
        if label == "high" and rank <= high_exit or label == "low" and rank >= low_exit:
            label = "normal"
        if i >= 59 and rank > high:
            label = "high"
        if i >= 59 and rank < low:
            label = "low"
        labels.append(label)
    return labels


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=61, max_size=160), st.sampled_from([21, 70]))
def test_labels_are_those_of_the_slow_definition(values, window):  # of 21, percentiles lie on the lines themselves
    x = pd.Series(values)
    assert list(detect_regime(x, window=window)) == slow_labels(x, window)
    assert current_regime(x, window=window)["volatility_regime"] == slow_labels(x, window)[-1]


def test_the_lines_themselves_do_not_begin_a_regime_and_the_exits_end_it():
    x = fat_tailed(1200, seed=12)
    ranks, labels = np.array(slow_ranks(x, 21)), detect_regime(x, window=21).to_numpy()
    before = np.append("normal", labels[:-1])
    for line, inside, outside in ((0.8, "high", 0.65), (0.2, "low", 0.35)):
        assert (labels[(ranks == line) & (before != inside)] != inside).all() and (ranks == line).any()
        assert (labels[ranks == outside] != inside).all() and ((ranks == outside) & (before == inside)).any()


@pytest.mark.parametrize("bands", [{}, SUDDEN, {"low": 0.1, "low_exit": 0.5, "high_exit": 0.5, "high": 0.9}])
def test_long_history_agrees_with_the_slow_definition(bands):
    x = fat_tailed(1100, seed=2)
    assert list(detect_regime(x, **bands)) == slow_labels(x, **bands)


def test_a_label_outlives_the_line_until_its_exit():
    x = fat_tailed(1500, seed=2)
    ranks, labels = np.array(slow_ranks(x, 504)), detect_regime(x).to_numpy()
    assert ((ranks > 0.65) & (ranks <= 0.8) & (labels == "high")).any()
    assert ((ranks < 0.35) & (ranks >= 0.2) & (labels == "low")).any()
    assert not ((ranks <= 0.65) & (labels == "high")).any() and not ((ranks >= 0.35) & (labels == "low")).any()
    changes = [len(list(groupby(detect_regime(x, **bands)))) for bands in ({}, SUDDEN)]
    assert changes[0] < 0.7 * changes[1]


def test_all_three_labels_occur_and_high_is_wilder_than_low():
    x = fat_tailed(1500, seed=3)
    labels = detect_regime(x)
    assert set(labels) == {"low", "normal", "high"}
    known = ewma_volatility(x)[labels.index >= labels.index[60]]
    assert known[labels == "high"].mean() > known[labels == "normal"].mean() > known[labels == "low"].mean()


def test_a_gap_keeps_the_label_and_leaves_the_rest_alone():
    x = fat_tailed(700, seed=5)
    gappy = x.copy()
    gappy.iloc[::9] = np.nan
    for detect in (detect_regime, trend_regime, lambda r: markov_regime(r, first=200)["regime"]):
        labels = detect(gappy)
        assert (labels[gappy.notna()] == detect(gappy.dropna())).all()
        assert (labels.iloc[9::9].to_numpy() == labels.iloc[8:-1:9].to_numpy()[: len(labels.iloc[9::9])]).all()
    assert np.isnan(ewma_volatility(gappy).iloc[9]) and np.isnan(trend_strength(gappy).iloc[9])


# ---------------------------------------------------------------- now
@settings(max_examples=40, deadline=None)
@given(runs=RUNS, window=st.sampled_from([2, 70, 504]))
def test_now_is_the_last_label_and_counts_its_days(runs, window):
    x = pd.Series([value for value, times in runs for _ in range(times)])
    now, labels = current_regime(x, window=window), detect_regime(x, window=window)
    known = labels[x.notna()]
    assert now["volatility_regime"] == labels.iloc[-1] and now["observations"] == len(known)
    if len(known):
        *past, (label, days) = [(label, len(list(spell))) for label, spell in groupby(known)]
        assert (now["elapsed"], now["since"]) == (days, known.index[-days]) and label == now["volatility_regime"]
        finished = [length for name, length in past[1:] if name == label]  # the first began before the history
        expected = np.mean(finished) if len(finished) >= 3 else np.nan
        np.testing.assert_allclose(now["expected_duration"], expected)
    assert np.isnan(now["probability"]) or 0 <= now["probability"] <= 1


def test_since_reaches_back_as_far_as_the_label_does():
    x = fat_tailed(900, seed=6)
    x.iloc[100:] = 0.0  # a turbulent start, then nothing happens
    labels, now = detect_regime(x, window=60), current_regime(x, window=60)
    assert now["since"] == labels.index[np.flatnonzero(labels != now["volatility_regime"])[-1] + 1]
    assert now["volatility_regime"] == "low" and now["since"] < x.index[200]
    assert current_regime(x[:80] * 0)["since"] == x.index[0]


@pytest.mark.parametrize("n", [0, 1, 59])
def test_too_little_history_is_normal_and_not_reliable(n):
    now = current_regime(fat_tailed(n))
    assert now["volatility_regime"] == "normal" and now["reliable"] is False and now["observations"] == n
    assert np.isnan(now["probability"]) and np.isnan(now["expected_duration"]) and now["elapsed"] == n
    assert (detect_regime(fat_tailed(n)) == "normal").all() and (trend_regime(fat_tailed(n)) == "flat").all()
    assert (correlation_regime(frame(n)) == "normal").all()


def test_nothing_known_has_no_volatility():
    now = current_regime(pd.Series([np.nan] * 5))
    assert now["since"] is None and np.isnan(now["volatility"]) and np.isnan(now["percentile"])
    assert np.isnan(now["probability"]) and now["elapsed"] == 0


def test_what_is_not_known_compares_equal():  # two judgements of one market must be one dict, NaN or not
    assert current_regime(fat_tailed(20)) == current_regime(fat_tailed(20))


def test_sixty_observations_are_enough():
    now = current_regime(fat_tailed(60))
    assert now["reliable"] is True and 0 < now["probability"] < 1


@pytest.mark.parametrize("value", [0.0, 0.01])
def test_an_unchanging_market_is_normal(value):
    assert (detect_regime(pd.Series([value] * 200), decay=0.5) == "normal").mean() > 0.9
    zeros = current_regime(pd.Series([0.0] * 200))
    assert zeros["percentile"] == 0.5 and np.isnan(zeros["probability"])


def test_volatility_is_annual_by_the_periods_given():
    x = fat_tailed(300)
    daily = current_regime(x, periods_per_year=1)["volatility"]
    np.testing.assert_allclose(current_regime(x, periods_per_year=252)["volatility"], daily * np.sqrt(252))
    np.testing.assert_allclose(ewma_volatility(x).iloc[-1], daily * np.sqrt(365))


# ---------------------------------------------------------------- the probability
@pytest.mark.parametrize("n", [100, 303, 747, 1067, 1300])  # high, low, normal, low, high
@pytest.mark.parametrize("decay", [0.94, 0.97])
def test_probability_is_the_normal_share_of_the_log_variance(n, decay):
    x = fat_tailed(n, seed=4)
    now = current_regime(x, decay=decay)
    variance = ewma_volatility(x, decay=decay, periods_per_year=1).to_numpy() ** 2
    window, before, r = variance[-504:], variance[-504:-1], x.to_numpy()[1:][-503:]
    z = r[-len(before) :] / np.sqrt(before)
    kurtosis = (z**4).mean() / (z**2).mean() ** 2
    sure = np.sqrt((1 - decay) * (kurtosis - 1))
    edge = {q: ndtr((np.log(np.quantile(window, q)) - np.log(variance[-1])) / sure) for q in (0.2, 0.35, 0.65, 0.8)}
    assert n == 747 or decay != 0.94 or now["volatility_regime"] == ("low" if n in (303, 1067) else "high")
    share = {"low": edge[0.35], "normal": edge[0.8] - edge[0.2], "high": 1 - edge[0.65]}
    np.testing.assert_allclose(now["probability"], share[now["volatility_regime"]], rtol=1e-9)


def test_the_filter_error_is_that_of_muth():  # a level that walks randomly, seen through noise
    rng = np.random.default_rng(7)
    decay, n, noise = 0.94, 400_000, 1.0
    walk = np.sqrt((1 - decay) ** 2 / decay) * noise  # of the steps for which 0.94 is the best decay
    level = np.cumsum(walk * rng.standard_normal(n))
    seen = pd.Series(level + noise * rng.standard_normal(n)).ewm(alpha=1 - decay, adjust=False).mean().to_numpy()
    np.testing.assert_allclose((seen - level)[1000:].var(), (1 - decay) * noise**2, rtol=0.05)


def test_fat_tails_make_one_less_sure():
    calm = np.tile([0.01, -0.01], 300)  # no dispersion of the squares: the variance is known exactly
    rng = np.random.default_rng(1)
    tails = rng.standard_t(2.5, 600) * 0.01
    step = np.repeat([1.0, 1.6], [540, 60])
    sure, unsure = (current_regime(pd.Series(x * step))["probability"] for x in (calm, tails))
    assert sure > 0.99 > 0.95 > unsure


# ---------------------------------------------------------------- correlation
def slow_correlation(x, decay):
    """Every pair of every day, the long way."""
    x, days = x.to_numpy(), len(x)
    weight = decay ** np.arange(days)[::-1]
    top = bottom = 0.0
    for s in range(days):
        age = decay ** np.arange(s + 1)[::-1]
        seen = ~np.isnan(x[: s + 1])
        variance = np.nansum(age[:, None] * x[: s + 1] ** 2, axis=0) / np.maximum((age[:, None] * seen).sum(axis=0), 1e-300)
        z = [x[s, i] / np.sqrt(variance[i]) for i in range(x.shape[1]) if seen[s, i] and variance[i] > 0]
        if len(z) >= 2:
            pairs = [z[i] * z[j] for i in range(len(z)) for j in range(len(z)) if i != j]
            top, bottom = top + weight[s] * np.mean(pairs), bottom + weight[s] * np.mean(np.square(z))
    return top / bottom


def test_average_correlation_is_that_of_every_pair():
    x = frame(150, 5)
    x.iloc[:60, 0] = np.nan  # listed later
    x.iloc[70:90, 1] = np.nan  # a hole
    x.iloc[120:, 2] = np.nan  # gone
    x.iloc[:, 3] = 0.0  # never moves
    for n in (30, 75, 150):
        np.testing.assert_allclose(average_correlation(x[:n], decay=0.95).iloc[-1], slow_correlation(x[:n], 0.95))


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
def test_average_correlation_finds_the_true_one(rho):
    rng = np.random.default_rng(0)
    z = np.sqrt(rho) * rng.standard_normal((4000, 1)) + np.sqrt(1 - rho) * rng.standard_normal((4000, 8))
    found = average_correlation(pd.DataFrame(z * np.arange(1, 9) / 100), decay=0.97)[200:]
    np.testing.assert_allclose(found.mean(), rho, atol=0.03)


def test_average_correlation_at_its_limits():
    x = fat_tailed(100)
    same = pd.DataFrame({"a": x, "b": 3 * x, "c": 0.1 * x})
    np.testing.assert_allclose(average_correlation(same), 1)
    np.testing.assert_allclose(average_correlation(pd.DataFrame({"a": x, "b": -x})), -1)
    assert average_correlation(pd.DataFrame(0.0, x.index, ["a", "b"])).isna().all()
    alone = same.assign(b=np.nan, c=np.nan)
    assert average_correlation(alone).isna().all() and (correlation_regime(alone) == "normal").all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=60))
def test_average_correlation_stays_in_its_range(rows):
    found = average_correlation(pd.DataFrame(rows)).dropna()
    assert found.between(-1, 1).all()


def test_memory_layout_changes_no_bit():
    x = frame(300, 9)
    columns = pd.DataFrame({c: x[c] for c in x})
    rows = pd.DataFrame(np.ascontiguousarray(x.to_numpy()), x.index)
    assert bits(average_correlation(columns)) == bits(average_correlation(rows))


def test_a_coin_listed_late_drops_no_date():
    x = frame(900, 6)
    young = x.assign(late=np.where(np.arange(900) < 850, np.nan, x["A0"]))
    assert (correlation_regime(young)[:850] == correlation_regime(x)[:850]).all()


def test_a_day_on_which_fewer_than_two_trade_keeps_the_label():
    x = frame(900, 3)
    holes = x.copy()
    holes.iloc[600:620, :2] = np.nan
    labels = correlation_regime(holes)
    assert (labels[600:620] == labels.iloc[599]).all() and average_correlation(holes)[600:620].isna().all()


# ---------------------------------------------------------------- trend
def test_trend_strength_by_its_formula():
    x = fat_tailed(300)
    weight = 0.98 ** np.arange(300)[::-1]
    noise = (weight * x**2).sum() * (weight**2).sum() / weight.sum()
    np.testing.assert_allclose(trend_strength(x).iloc[-1], (weight * x).sum() / np.sqrt(noise))


def test_trend_has_no_scale_and_two_equal_sides():
    x = fat_tailed(1000, seed=8) + 0.001
    np.testing.assert_allclose(trend_strength(1e-6 * x), trend_strength(x))
    turned = trend_regime(-x)
    assert (turned == trend_regime(x).map({"up": "down", "down": "up", "flat": "flat"})).all()
    assert {"down", "flat"} <= set(turned)


def test_trend_begins_at_one_line_and_ends_at_another():
    x = fat_tailed(3000, seed=9)
    t, labels = trend_strength(x).to_numpy(), trend_regime(x).to_numpy()
    late = np.arange(3000) >= 59
    assert (labels[late & (t > 1.5)] == "up").all() and (labels[late & (t < -1.5)] == "down").all()
    assert not (labels[t <= 0.5] == "up").any() and not (labels[t >= -0.5] == "down").any()
    assert (labels[(t > 0.5) & (t <= 1.5)] == "up").any() and (labels[(t > 0.5) & (t <= 1.5)] == "flat").any()


def test_noise_is_flat_as_often_as_the_notebook_says():
    labels = trend_regime(pd.Series(np.random.default_rng(0).standard_normal(200_000)))[500:]
    assert 0.69 < (labels == "flat").mean() < 0.73
    assert 3.1 < (labels != labels.shift()).mean() * 252 < 3.7


def test_a_market_that_never_moves_is_flat():
    assert (trend_regime(pd.Series([0.0] * 100)) == "flat").all() and trend_strength(pd.Series([0.0])).isna().all()
    assert (trend_regime(pd.Series([0.01] * 100))[59:] == "up").all()


# ---------------------------------------------------------------- the Markov model
def two_states(n, seed=0, up=0.01, down=0.03, wild=3.0):
    rng = np.random.default_rng(seed)
    state, u = np.zeros(n, int), rng.random(n)
    for t in range(1, n):
        state[t] = (u[t] < up) if state[t - 1] == 0 else (u[t] >= down)
    return state, pd.Series(np.where(state, wild, 1.0) * rng.standard_normal(n) / 100)


def chain(theta):
    up, down = 1 / (1 + np.exp(-theta[2:]))
    return np.exp(theta[:2]), np.array([[1 - up, up], [down, 1 - down]]), np.array([down, up]) / (up + down)


def hamilton(square, theta):
    """Filtered probabilities and log likelihood with matrices, as the textbook has them."""
    variance, move, belief = chain(theta)
    filtered, total = [], 0.0
    for s in square:
        joint = (belief @ move) * np.exp(-s / variance / 2) / np.sqrt(2 * np.pi * variance)
        total, belief = total + np.log(joint.sum()), joint / joint.sum()
        filtered.append(belief)
    return np.array(filtered), total


def smoothed(square, theta):
    filtered, _ = hamilton(square, theta)
    _, move, _ = chain(theta)
    after, out = filtered[-1], [filtered[-1]]
    for belief in filtered[-2::-1]:  # Kim (1994)
        after = belief * (move @ (after / (belief @ move)))
        out.append(after)
    return np.array(out)[::-1, 1]


START = np.array([-0.7, 0.7, -4.0, -3.0])


def test_one_step_of_em_is_the_textbook_one():
    _, x = two_states(700)
    square = (x / x.std()).to_numpy() ** 2
    wild = smoothed(square, START)
    theta, odds = _em(square, START)
    np.testing.assert_allclose(np.exp(theta[1]), (wild * square).sum() / wild.sum(), rtol=1e-3)
    np.testing.assert_allclose(np.exp(theta[0]), ((1 - wild) * square).sum() / (1 - wild).sum(), rtol=1e-3)
    np.testing.assert_allclose(odds / (1 + odds), hamilton(square, START)[0][-1, 1])
    assert hamilton(square, theta)[1] > hamilton(square, START)[1]


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_where_plain_em_ends(seed):
    _, x = two_states(1200, seed)
    square = (x / x.std()).to_numpy() ** 2
    plain = START
    for _ in range(400):
        plain, _ = _em(square, plain)
    found, _ = _fit(square, START)
    np.testing.assert_allclose(found, plain, atol=0.02)


def test_the_chain_that_made_the_data_is_found():
    state, x = two_states(6000, seed=1)
    scale = x.var()
    theta, _ = _fit((x**2 / scale).to_numpy(), START)
    variance, move, _ = chain(theta)
    np.testing.assert_allclose(np.sqrt(variance * scale) * 100, [1, 3], rtol=0.05)
    np.testing.assert_allclose([move[0, 1], move[1, 0]], [0.01, 0.03], rtol=0.35)
    found = markov_regime(x)[504:]
    assert ((found["regime"] == "high") == state[504:]).mean() > 0.93
    bins = found["probability"].groupby(pd.cut(found["probability"], [0, 0.2, 0.8, 1])).mean()
    true = pd.Series(state[504:], found.index).groupby(pd.cut(found["probability"], [0, 0.2, 0.8, 1])).mean()
    np.testing.assert_allclose(bins, true, atol=0.08)  # calibrated


def test_probabilities_are_filtered_with_parameters_of_the_past():
    _, x = two_states(760, seed=2)
    found = markov_regime(x)
    scale = (x[:504] ** 2).mean()
    theta, _ = _fit((x[:504] ** 2 / scale).to_numpy(), START)
    filtered, _ = hamilton((x**2 / scale).to_numpy(), theta)
    np.testing.assert_allclose(found["probability"][504:756], filtered[504:756, 1], rtol=1e-2, atol=1e-6)
    assert ((found["probability"] > 0.5) == (found["regime"] == "high")).all()
    assert found["probability"][:504].isna().all() and (found["regime"][:504] == "normal").all()


@pytest.mark.parametrize("seed", range(5))
def test_high_is_always_the_wilder_state(seed):
    _, x = two_states(2600, seed, up=0.2, down=0.02, wild=2.0)  # wild most of the time
    found = markov_regime(x, first=300, every=100)
    assert x[found["regime"] == "high"].std() > x[found["regime"] == "low"].std()
    swapped, odds = _fit((x**2 / x.var()).to_numpy(), START[[1, 0, 3, 2]])  # started with the states exchanged
    straight, same = _fit((x**2 / x.var()).to_numpy(), START)
    np.testing.assert_allclose(swapped, straight, atol=0.05)
    np.testing.assert_allclose(odds, same, rtol=0.1)


@pytest.mark.parametrize("x", [np.zeros(900), np.full(900, 0.01), np.r_[np.zeros(700), 0.01 * np.ones(200)],
                               np.r_[np.full(600, 1e-160), np.full(300, 1e150)]])
def test_a_degenerate_market_has_no_surprises(x):
    found = markov_regime(pd.Series(x))
    assert found["probability"].dropna().between(0, 1).all()
    assert not x.any() or not x[:504].any() or found["probability"][504:].notna().all()
    assert x.any() or (found["regime"] == "normal").all()


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: detect_regime([0.1]), DataError, "one Series"),
        (lambda: detect_regime(pd.Series(["a"])), DataError, "numeric"),
        (lambda: detect_regime(pd.Series([0.1, np.inf], index=["mon", "tue"])), DataError, "tue is inf"),
        (lambda: markov_regime(pd.Series([0.1, -1e200], index=["mon", "tue"])), DataError, "tue is -1e[+]200"),
        (lambda: trend_regime(pd.Series([0.1, -np.inf], index=["mon", "tue"])), DataError, "tue"),
        (lambda: detect_regime(pd.Series([0.1]), decay=1), ConfigError, "decay"),
        (lambda: trend_strength(pd.Series([0.1]), decay=0), ConfigError, "decay"),
        (lambda: average_correlation(frame(3), decay=np.nan), ConfigError, "decay"),
        (lambda: detect_regime(pd.Series([0.1]), window=1), ConfigError, "window"),
        (lambda: detect_regime(pd.Series([0.1]), window=50.5), ConfigError, "window"),
        (lambda: detect_regime(pd.Series([0.1]), low=0.8, high=0.2), ConfigError, "low=0.8"),
        (lambda: current_regime(pd.Series([0.1]), high_exit=0.9), ConfigError, "high_exit=0.9"),
        (lambda: current_regime(pd.Series([0.1]), low_exit=np.nan), ConfigError, "rise in this order"),
        (lambda: correlation_regime(frame(3), low_exit=0.1), ConfigError, "low_exit=0.1"),
        (lambda: correlation_regime(frame(3)["A0"]), DataError, "two assets"),
        (lambda: correlation_regime(frame(3)[["A0"]]), DataError, "two assets"),
        (lambda: correlation_regime(frame(3).assign(b="x")), DataError, "numeric"),
        (lambda: correlation_regime(frame(3).assign(b=[0, np.inf, 0])), DataError, "b on 2020-01-02"),
        (lambda: trend_regime(pd.Series([0.1]), enter=0.4), ConfigError, "enter=0.4"),
        (lambda: markov_regime(pd.Series([0.1]), first=20), ConfigError, "first=20"),
        (lambda: markov_regime(pd.Series([0.1]), every=0), ConfigError, "every=0"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---------------------------------------------------------------- worth, where the parameters were not chosen
def worth(market, labels, year):
    ahead = np.sqrt((market**2).rolling(21).mean().shift(-21))
    kept = pd.DataFrame({"ahead": ahead, "label": labels}).iloc[504:]
    mean = kept.groupby("label")["ahead"].mean()
    return mean["high"] / mean["low"], (kept["label"] != kept["label"].shift()).iloc[1:].sum() / len(kept) * year


@pytest.fixture(scope="module")
def crypto(test_data):
    prices = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True)
    return prices.pct_change(fill_method=None).iloc[1:]


@pytest.mark.parametrize("name", ["BTC", "majors"])
def test_regimes_tell_something_about_the_next_month_of_crypto(crypto, name):
    x = crypto["BTC"] if name == "BTC" else crypto[MAJORS].mean(axis=1)
    (ratio, changes), (ratio_sudden, changes_sudden) = (worth(x, detect_regime(x, **b), 365) for b in ({}, SUDDEN))
    assert 1.2 < ratio < 1.5 and ratio > 0.9 * ratio_sudden
    assert changes < 15 and changes < 0.65 * changes_sudden
    ratio_markov, changes_markov = worth(x, markov_regime(x)["regime"], 365)
    assert 1.1 < ratio_markov <= ratio + 0.05 and changes_markov > 3 * changes


def test_correlation_regimes_tell_something_about_the_next_month_of_crypto(crypto):
    x = crypto[MAJORS]
    labels = correlation_regime(x).to_numpy()
    ahead = {"low": [], "normal": [], "high": []}
    for i in range(504, len(x) - 21, 7):
        month = x.iloc[i + 1 : i + 22].dropna(axis=1).corr().to_numpy()
        ahead[labels[i]].append(month[np.triu_indices(len(month), 1)].mean())
    assert np.mean(ahead["high"]) > np.mean(ahead["normal"]) > np.mean(ahead["low"])
    assert np.mean(ahead["high"]) - np.mean(ahead["low"]) > 0.08


def test_what_the_probability_claims_of_bitcoin_is_nearly_kept_by_the_month_after(crypto):
    x, claimed, kept = crypto["BTC"], [], []
    for t in range(756, len(x) - 21, 9):
        past = x.iloc[t - 756 : t]
        now = current_regime(past)
        label = now["volatility_regime"]
        band = {"low": (0, 0.35), "normal": (0.2, 0.8), "high": (0.65, 1)}[label]
        bottom, top = np.quantile(ewma_volatility(past, periods_per_year=1)[-504:], band)
        month = np.sqrt((x.iloc[t : t + 21] ** 2).mean())
        claimed.append(now["probability"])
        kept.append((month > bottom or label == "low") and (month < top or label == "high"))
    assert 0.5 < np.mean(claimed) < 0.75  # crypto is fat-tailed: no label is sure
    assert 0 < np.mean(claimed) - np.mean(kept) < 0.15  # and a month is longer than today


def test_hysteresis_was_chosen_on_the_first_half_and_holds_on_the_second():
    market = sample_prices().pct_change(fill_method=None).iloc[1:].mean(axis=1)["2006-07":]
    ratio, changes = worth(market, detect_regime(market), 252)
    ratio_sudden, changes_sudden = worth(market, detect_regime(market, **SUDDEN), 252)
    assert ratio > 2 and ratio > 0.9 * ratio_sudden and changes < 0.5 * changes_sudden
