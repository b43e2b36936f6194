"""The simulated market: like the real one where risk is concerned, the same for the same seed, and never mistaken for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_research.config import DataError
from portfolio_research.data import check_prices
from portfolio_research.simulation import (
    SIMULATED_ASSETS,
    ScriptedEpisode,
    calibration,
    simulate_funding,
    simulate_prices,
    simulate_turnover,
    simulated_mark,
    stress_facts,
    stylized_facts,
)

DAYS = st.integers(2, 900)
SEEDS = st.integers(0, 2**32)
CALIBRATED = range(9)  # the default seed and eight others


# ---------------------------------------------------------------- like the real one
@pytest.fixture(scope="module")
def facts() -> dict[int, pd.DataFrame]:
    return {seed: stylized_facts(simulate_prices(seed=seed)) for seed in CALIBRATED}


def middle(facts: dict[int, pd.DataFrame], column: str) -> pd.Series:
    """A single history is noisy where tails are so fat: what must agree is its median over seeds."""
    return pd.DataFrame({seed: table[column] for seed, table in facts.items()}).median(axis=1)


def test_volatility_and_tails_of_each_coin(facts: dict[int, pd.DataFrame]) -> None:
    real = calibration()[0]
    assert (middle(facts, "volatility") / real["volatility"]).between(0.85, 1.15).all()
    dof = middle(facts, "t_dof")
    assert dof.between(2.0, 4.5).all()
    assert dof.rank().corr(real["t_dof"].rank()) > 0.8  # whose tails are fat is right, too


@pytest.mark.parametrize("seed", CALIBRATED)
def test_memory_and_company_of_each_history(seed: int, facts: dict[int, pd.DataFrame]) -> None:
    mean = facts[seed].mean()
    assert 2.0 <= mean["t_dof"] <= 4.5
    assert 0.15 <= mean["|r|, lag 1"] <= 0.30
    assert mean["|r|, lag 1"] > mean["|r|, lag 5"] > max(mean["|r|, lag 20"], mean["|r|, lag 60"])
    assert 0.50 <= mean["correlation"] <= 0.70


@pytest.mark.parametrize("seed", CALIBRATED)
def test_bad_times_of_each_history(seed: int) -> None:
    bad = stress_facts(simulate_prices(seed=seed))
    assert bad["worst day"] < -0.15 and bad["correlation in the worst episode"] > 0.85
    assert 1.5 < bad["volatility in stress / in calm"] < 2.2
    assert 14 < bad["mean length of a run of stress, days"] < 35
    assert bad["correlation in stress"] > bad["correlation in calm"]


def test_correlations_coin_by_coin() -> None:
    each = np.array([np.log(simulate_prices(seed=seed)).diff().corr() for seed in CALIBRATED])
    assert np.abs(np.median(each, axis=0) - calibration()[1].to_numpy()).max() < 0.1


def test_the_facts_are_those_of_the_calibration(test_data: Path) -> None:
    """The same functions on the real prices give the numbers that the market is calibrated to."""
    prices = pd.read_csv(test_data / "crypto_daily_close.csv.gz", index_col=0, parse_dates=True)
    prices = prices[[name.removeprefix("SIM-") for name in SIMULATED_ASSETS]].loc["2020-10-01":"2025-06-30"]
    measured, (real, correlation) = stylized_facts(prices), calibration()
    for column in ("volatility", "t_dof"):
        assert np.allclose(measured[column], real[column], atol=0.006)
    assert np.allclose(measured.mean()["|r|, lag 1":"r, lag 1"], [0.227, 0.162, 0.070, 0.036, -0.041], atol=6e-4)  # type: ignore[misc]
    assert np.allclose(np.log(prices).diff().corr(), correlation, atol=6e-4)
    bad = stress_facts(prices)
    assert bad.iloc[:4].tolist() == pytest.approx([22.7, 1.83, 0.63, 0.591], abs=0.04)
    assert bad["worst day"] == pytest.approx(-0.325, abs=1e-3) and bad["days below -15 %"] == 6


def test_nothing_can_be_earned_without_growth() -> None:
    earned = [simulate_prices(400, seed=seed, growth=0.0).pct_change().mean().mean() for seed in range(60)]
    assert abs(np.mean(earned)) < 3 * np.std(earned) / np.sqrt(len(earned))


# ---------------------------------------------------------------- the same for the same seed
MAKERS: list[Callable[..., pd.DataFrame]] = [simulate_prices, simulate_funding, simulate_turnover]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(MAKERS), SEEDS, DAYS, DAYS)
def test_more_days_never_change_the_days_before(make: Any, seed: int, few: int, more: int) -> None:
    few, more = sorted((few, more))
    pd.testing.assert_frame_equal(make(more, seed=seed).iloc[:few], make(few, seed=seed), check_freq=False, check_exact=True)


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.lists(st.sampled_from(SIMULATED_ASSETS), min_size=1, unique=True), st.booleans())
def test_a_coin_does_not_depend_on_its_company(seed: int, assets: list[str], ragged: bool) -> None:
    together = simulate_prices(90, seed=seed, ragged=ragged)
    assert simulate_prices(90, assets, seed=seed, ragged=ragged).equals(together[assets])


@settings(deadline=None, max_examples=5)
@given(SEEDS, st.integers(2, 60), st.integers(2, 60))
def test_hours_have_both_properties_and_end_at_the_closes(seed: int, few: int, more: int) -> None:
    few, more = sorted((few, more))
    hourly = simulate_prices(more, seed=seed, bar="1h")
    assert hourly.iloc[: 24 * few].equals(simulate_prices(few, seed=seed, bar="1h"))
    closes = hourly.groupby(hourly.index.floor("D")).last()  # type: ignore[attr-defined]
    np.testing.assert_allclose(closes, simulate_prices(more, seed=seed), rtol=1e-12)


def test_hours_move_about_as_much_as_days() -> None:
    hourly = np.log(simulate_prices(bar="1h", days=1000, seed=3)).diff()
    daily = np.log(simulate_prices(1000, seed=3)).diff()
    ratio = np.sqrt(24.0) * hourly.std() / daily.std()
    assert ratio.between(0.85, 1.15).all()


def test_seeds_differ_and_nothing_else_is_touched() -> None:
    state = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    assert not simulate_prices(50).equals(simulate_prices(50, seed=1))
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index, union-attr]


# ---------------------------------------------------------------- what comes out
def test_prices_are_ready_for_use() -> None:
    prices = simulate_prices(400)
    assert check_prices(prices) is prices
    assert str(prices.index.tz) == "UTC" and (prices.dtypes == "float64").all()  # type: ignore[attr-defined]
    assert prices.index.name == "date" and prices.index.dtype == "datetime64[ns, UTC]"
    assert prices.attrs["source"] == "SIMULATED market, seed 0"
    assert prices.iloc[0].between(60, 160).all()


def test_late_listings() -> None:
    prices = simulate_prices(ragged=True)
    listed = prices.notna().idxmax()
    assert (listed.iloc[:6] == prices.index[0]).all() and listed.iloc[6:].nunique() == 6
    assert listed.max() <= prices.index[600]
    assert check_prices(prices) is prices


def test_marks() -> None:
    assert simulated_mark(simulate_prices(2, ["SIM-UNI", "SIM-BTC"]).columns) == "SIMULATED"
    assert simulated_mark(["BTC", "SIMBA", 3]) == simulated_mark([]) == ""


# ---------------------------------------------------------------- episodes
PLAIN = simulate_prices(120, start="2022-01-01")


def played(*episodes: ScriptedEpisode) -> pd.DataFrame:
    """By how much prices differ from those without the episodes, as a factor."""
    return simulate_prices(120, start="2022-01-01", episodes=episodes) / PLAIN


def test_a_collapse_takes_one_coin_and_ends_it() -> None:
    factor = played(ScriptedEpisode("collapse", "2022-02-01", "SIM-UNI", -0.9))
    assert (factor.drop(columns="SIM-UNI") == 1).all(axis=None)
    gone = factor["SIM-UNI"]
    assert (gone[:"2022-01-31"] == 1).all() and gone["2022-02-06":].isna().all()  # type: ignore[misc]
    assert gone["2022-02-01"] == pytest.approx(0.1**0.5) and gone["2022-02-05"] == pytest.approx(0.1)
    ended = simulate_prices(120, start="2022-01-01", episodes=[ScriptedEpisode("collapse", "2022-02-01", "SIM-UNI")])
    assert check_prices(ended, ended=True) is ended


def test_a_spike_goes_half_of_the_way_back() -> None:
    factor = played(ScriptedEpisode("spike", "2022-02-01", "SIM-DOGE", 3.0))["SIM-DOGE"]
    assert factor["2022-02-01"] == pytest.approx(4.0) and factor.iloc[-1] == pytest.approx(2.0)


def test_a_grind_has_no_bad_day() -> None:
    factor = played(ScriptedEpisode("grind", "2022-02-01", size=-0.5))
    assert np.allclose(factor.iloc[-1], 0.5) and factor.pct_change().min().min() > -0.03


def test_a_crash_takes_all_and_leaves_the_past_alone() -> None:
    factor = played(ScriptedEpisode("crash", "2022-02-01"))
    assert (factor.loc[:"2022-01-31"] == 1).all(axis=None)  # type: ignore[misc]
    prices = simulate_prices(120, start="2022-01-01", episodes=[ScriptedEpisode("crash", "2022-02-01")])
    fell = prices.pct_change().loc["2022-02-01"]
    assert fell.max() < -0.1 and fell.mean() == pytest.approx(-0.3, abs=0.1)
    after = np.log(prices.loc["2022-01-31":"2022-03-01"]).diff().corr().to_numpy()  # type: ignore[misc]
    assert after[np.triu_indices(12, 1)].mean() > 0.85


def test_an_episode_may_reach_beyond_the_end_and_two_may_meet() -> None:
    factor = played(ScriptedEpisode("grind", "2022-04-25"), ScriptedEpisode("spike", "2022-04-30", "SIM-BTC"))
    assert np.isfinite(factor).all(axis=None) and factor["SIM-BTC"].iloc[-1] == pytest.approx(5 * 0.7 ** (6 / 30))


# ---------------------------------------------------------------- funding and turnover
def test_funding_is_like_that_of_perpetuals() -> None:
    rates = pd.concat([365 * simulate_funding(seed=seed) for seed in range(5)])
    assert 0.15 < rates.mean().mean() < 0.22 and rates.median().median() == pytest.approx(0.11, abs=0.02)
    assert 0.8 < (rates > 0).mean().mean() < 0.92
    memory = simulate_funding().apply(pd.Series.autocorr).mean()
    assert 0.65 < memory < 0.92


def test_turnover_has_the_median_of_each_coin() -> None:
    each = pd.DataFrame({seed: simulate_turnover(seed=seed).median() for seed in range(5)}).median(axis=1)
    assert (each / calibration()[0]["turnover"]).between(0.8, 1.25).all()
    spread = np.log(simulate_turnover())
    assert 0.5 < spread.std().mean() < 0.9 and 0.5 < spread.apply(pd.Series.autocorr).mean() < 0.8


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"days": 1}, "days is 1: give a whole number of 2 or more"),
        ({"days": 2.5}, "days is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"assets": ["BTC"]}, "name some of SIM-BTC"),
        ({"assets": []}, "name some of"),
        ({"assets": ["SIM-BTC", "SIM-BTC"]}, "each once"),
        ({"start": "tomorrow?"}, "is no date"),
        ({"start": "2022-01-01 12:00"}, "a time of day"),
        ({"bar": "5m"}, "bar is '5m'"),
        ({"growth": -1.0}, "growth -1.0"),
    ],
)
def test_what_cannot_be_simulated(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        simulate_prices(**{"days": 10, **options})


@pytest.mark.parametrize(
    ("episode", "says"),
    [
        (ScriptedEpisode("flood", "2020-10-05"), "no episode 'flood'; choose one of crash"),  # type: ignore[arg-type]
        (ScriptedEpisode("crash", "2021-10-05"), "simulated is 2020-10-01 to 2020-10-30"),
        (ScriptedEpisode("crash", "soon"), "day is 'soon'"),
        (ScriptedEpisode("crash", "2020-10-05", "SIM-BTC"), "leave it out"),
        (ScriptedEpisode("spike", "2020-10-05"), "name one of SIM-BTC"),
        (ScriptedEpisode("collapse", "2020-10-05", "LUNA"), "the asset is 'LUNA'"),
        (ScriptedEpisode("crash", "2020-10-05", size=0.3), "the size is 0.3"),
        (ScriptedEpisode("collapse", "2020-10-05", "SIM-BTC", size=-1.0), "the size is -1.0"),
        (ScriptedEpisode("spike", "2020-10-05", "SIM-BTC", size=-0.5), "such as 4"),
    ],
)
def test_what_cannot_happen(episode: ScriptedEpisode, says: str) -> None:
    with pytest.raises(DataError, match=says):
        simulate_prices(30, episodes=[episode])
