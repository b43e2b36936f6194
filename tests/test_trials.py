"""The ledger counts by content, survives crashes and company, and a judgement says what a selection is worth."""
from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import portfolio_research
from portfolio_research import trials as module
from portfolio_research.config import ConfigError, StoreError
from portfolio_research.content import content_hash
from portfolio_research.significance import deflated_sharpe, min_track_record_length, probabilistic_sharpe
from portfolio_research.trials import TrialLedger, judge
from portfolio_research.validation import probability_of_overfitting

DATES = pd.date_range("2020-01-01", periods=320, tz="UTC")
RNG = np.random.default_rng(2)
PRICES = pd.DataFrame(np.exp(RNG.normal(0, 0.01, (320, 2)).cumsum(0)), DATES, ["a", "b"])
SEARCH = pd.DataFrame(RNG.normal(0.0004, 0.01, (320, 12)), DATES)


def filled(path: Path | None = None, **options) -> TrialLedger:
    ledger = TrialLedger(path, **options)
    for k in SEARCH:
        ledger.record(name="rule", params={"k": k}, data=PRICES, returns=SEARCH[k])
    return ledger


# ---------------------------------------------------------------- counting
@pytest.mark.parametrize("kept_in", [None, "trials.jsonl"])
def test_the_same_trial_counts_once_and_is_seen_twice(kept_in, tmp_path: Path, monkeypatch) -> None:
    ledger = TrialLedger(kept_in and tmp_path / kept_in)
    first = ledger.record(name="rule", params={"step": 21, "band": 0}, data=PRICES, returns=SEARCH[0])
    again = ledger.record(name="rule", params={"band": 0.0, "step": 21}, data=PRICES.copy(), returns=SEARCH[0])
    assert first == again and len(ledger) == 1 and ledger.table().loc[first, "seen"] == 2
    others = [
        ledger.record(name="other", params={"step": 21, "band": 0}, data=PRICES, returns=SEARCH[0]),
        ledger.record(name="rule", params={"step": 20, "band": 0}, data=PRICES, returns=SEARCH[0]),
        ledger.record(name="rule", params={"step": 21, "band": 0}, data=PRICES.iloc[1:], returns=SEARCH[0]),
    ]
    monkeypatch.setattr(module, "__version__", "another")
    others.append(ledger.record(name="rule", params={"step": 21, "band": 0}, data=PRICES, returns=SEARCH[0]))
    assert len({first, *others}) == len(ledger) == 5
    assert list(ledger.table().index) == [first, *others]  # in the order they came, not by merit
    assert len(ledger.on(PRICES)) == len(ledger.on(content_hash(PRICES))) == 4


def test_moments_and_returns_are_those_of_the_trial(tmp_path: Path) -> None:
    filled(tmp_path / "t.jsonl")
    ledger = TrialLedger(tmp_path / "t.jsonl")
    table = ledger.table()
    assert np.allclose(table["sharpe"], SEARCH.mean() / SEARCH.std(ddof=1), rtol=1e-12)
    assert (table["n_obs"] == 320).all() and (table["periods_per_year"] == 365).all()
    kept = ledger.returns(PRICES)
    assert kept.index.equals(DATES) and (kept.to_numpy() == SEARCH.to_numpy()).all()
    assert "12 trials, seen 12 times" in repr(ledger)


@pytest.mark.parametrize(
    "index", [DATES, DATES.tz_localize(None), DATES.tz_convert("Asia/Tokyo"), pd.RangeIndex(320), DATES.as_unit("s")]
)
def test_returns_come_back_with_their_labels(index, tmp_path: Path) -> None:
    returns = SEARCH[0].set_axis(index)
    ledger = TrialLedger(tmp_path / "t.jsonl")
    trial = ledger.record(name="rule", params={}, data=PRICES, returns=returns)
    back = TrialLedger(tmp_path / "t.jsonl").returns(PRICES)[trial]
    assert (back.to_numpy() == returns.to_numpy()).all() and (back.index == index).all()


def test_a_ledger_travels_with_a_task(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "t.jsonl")
    copy = pickle.loads(pickle.dumps(ledger))
    copy.record(name="elsewhere", params={}, data=PRICES, returns=SEARCH[0])
    assert len(ledger) == len(copy) == 13


def test_many_trials_at_once_are_what_they_are_one_by_one() -> None:
    together, apart = TrialLedger(), TrialLedger()
    data = content_hash(PRICES)
    searches = {"all": [SEARCH[k] for k in SEARCH], "ragged": [SEARCH[0], SEARCH[1].iloc[1:]], "one without": [SEARCH[2], None]}
    for case, many in searches.items():
        named = [({"k": k, "case": case}, returns) for k, returns in enumerate(many)]
        together.record_sweep("rule", None, data, named)
        for each in named:
            apart.record_sweep("rule", None, data, [each])
    numbers = ["n_obs", "sharpe", "sharpe_se", "skew", "excess_kurtosis"]
    a, b = together.table(), apart.table()
    assert list(a.index) == list(b.index) and np.allclose(a[numbers], b[numbers], rtol=1e-12, equal_nan=True)
    assert together.returns(PRICES).equals(apart.returns(PRICES)) and a["sharpe"].isna().sum() == 1
    first, second = (together.record_sweep("rule", code, data, [({}, None)]) for code in ("as it was", "changed"))
    assert first != second
    assert together.record_sweep("rule", None, data, []) == []


# ---------------------------------------------------------------- crashes and company
def record_some(path: str, worker: int) -> None:
    ledger = TrialLedger(path)
    for k in range(8):
        ledger.record(name="rule", params={"k": k, "worker": worker * (k % 2)}, data=PRICES, returns=SEARCH[k])


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=record_some, args=(str(path), w)) for w in (1, 2, 3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    ledger = TrialLedger(path)
    assert not ledger.problems and len(ledger) == 4 + 3 * 4 and ledger.table()["seen"].sum() == 24
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("cut", [2, 40, 400])
def test_a_line_cut_off_by_a_crash_is_reported_and_costs_nothing_else(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match="cut off or damaged; its trial is not counted") as said:
        ledger = TrialLedger(path)
    assert len(ledger) == 11 and len(ledger.problems) == len(said) == 1 and "cut off" in repr(ledger)
    ledger.record(name="after", params={}, data=PRICES, returns=SEARCH[0])
    assert len(ledger) == 12 and len(ledger.problems) == 1
    with pytest.warns(UserWarning, match="cut off"):
        again = TrialLedger(path)
    assert len(again) == 12 and list(again.problems) == list(ledger.problems)


def test_a_line_that_lacks_nothing_but_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes()[:-1])
    ledger = TrialLedger(path)
    ledger.record(name="after", params={}, data=PRICES, returns=SEARCH[0])
    assert len(ledger) == len(TrialLedger(path)) == 13 and not ledger.problems


def test_killed_while_writing_leaves_a_ledger_that_reads(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    code = (
        "import sys, numpy as np, pandas as pd; from portfolio_research.trials import TrialLedger\n"
        "ledger, data = TrialLedger(sys.argv[1]), pd.DataFrame({'a': [1.0, 2.0]})\n"
        "for k in range(10**6):\n"
        "    ledger.record(name='rule', params={'k': k}, data=data, returns=pd.Series(np.arange(500.0)))\n"
        "    print(k, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(20)]
    os.kill(child.pid, signal.SIGKILL)
    told += child.stdout.readlines()
    child.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ledger = TrialLedger(path)
    assert len(ledger) >= len([line for line in told if line.strip()])  # what was said to be recorded, is


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be read"):
        TrialLedger(tmp_path / "file" / "t.jsonl")
    ledger = TrialLedger(tmp_path / "new" / "t.jsonl")
    (tmp_path / "new").write_text("")
    with pytest.raises(StoreError, match="cannot be re"):
        ledger.record(name="rule", params={}, data=PRICES, returns=SEARCH[0])


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"t\.jsonl: the trial cannot be recorded \(No space left"):
        filled(tmp_path / "t.jsonl")


def test_damage_in_the_middle_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'{"trial": "unknown", "at": "x"}\n', b"[1]\n", *lines[1:]]))
    with pytest.warns(UserWarning):
        ledger = TrialLedger(path)
    assert len(ledger) == 12 and list(ledger.problems)[0] == len(lines[0]) and len(ledger.problems) == 2


# ---------------------------------------------------------------- the judgement
def test_a_judgement_is_what_the_formulas_say() -> None:
    ledger = filled()
    best = ledger.table()["sharpe"].idxmax()
    k = int(SEARCH.mean().div(SEARCH.std()).idxmax())
    ratios = SEARCH.mean() / SEARCH.std(ddof=1)
    for found in (judge(ledger, best), judge(ledger, best[:10]), judge(SEARCH, k)):
        assert (found.trials, found.n_obs, found.periods_per_year) == (12, 320, 365)
        assert found.sharpe == pytest.approx(ratios[k] * 365**0.5, rel=1e-12)
        assert found.sharpe_variance == pytest.approx(ratios.var(ddof=1), rel=1e-9)
        assert found.deflated_sharpe == pytest.approx(deflated_sharpe(SEARCH[k], ratios), rel=1e-12)
        assert found.probabilistic_sharpe == pytest.approx(probabilistic_sharpe(SEARCH[k]), rel=1e-12)
        assert found.min_track_record == pytest.approx(min_track_record_length(SEARCH[k])["periods"], rel=1e-9)
        luck = min_track_record_length(SEARCH[k], found.expected_max_sharpe)["periods"]
        assert found.min_track_record_luck == pytest.approx(luck, rel=1e-6)
        assert found.overfitting == probability_of_overfitting(SEARCH).pbo


def test_every_form_of_a_judgement_shows_all_of_it() -> None:
    ledger = filled()
    found = judge(ledger, ledger.table().index[3], periods_per_year=252)
    for text in (str(found), repr(found), found._repr_html_()):
        for part in ("selected from 12 trials", "Sharpe ratio", "deflated", "PSR", "PBO", "track record", "luck", "variance"):
            assert part in text
        assert "k=3" in text and "per year of 252" in text
    assert all(word in found.line() for word in ("Trial 4 of 12", "deflated Sharpe", "track record", "overfitting"))
    assert found.numbers()["trials"] == 12 and set(map(type, found.numbers().values())) == {int, float}


def test_only_trials_on_the_same_data_are_rivals() -> None:
    ledger = filled()
    alone = ledger.record(name="rule", params={}, data=PRICES.iloc[1:], returns=SEARCH[0], periods_per_year=252)
    found = judge(ledger, alone)
    assert (found.trials, found.periods_per_year, found.expected_max_sharpe) == (1, 252, 0)
    assert found.deflated_sharpe == found.probabilistic_sharpe and np.isnan(found.sharpe_variance)
    assert "selected from 1 trial on" in str(found) and not found.notes


def test_what_cannot_be_judged_is_said() -> None:
    bare = filled(keep_returns=False)
    found = judge(bare, bare.table().index[0])
    assert np.isnan(found.overfitting) and "returns of 12 of 12 trials were not kept" in found.notes[0]
    assert found.deflated_sharpe == judge(filled(), bare.table().index[0]).deflated_sharpe
    bare.record(name="cash", params={}, data=PRICES, returns=SEARCH[0] * 0)
    found = judge(bare, bare.table().index[0])
    assert found.trials == 13 and "1 of the trials have no Sharpe ratio" in found.notes[0] and "–" in str(found)
    cash = judge(bare, bare.table().index[-1])
    assert np.isnan(cash.deflated_sharpe) and np.isnan(cash.min_track_record)
    short = judge(SEARCH.iloc[:20], 0)
    assert "Overfitting is not judged: 12 trials of 20 returns" in short.notes[0]
    assert "for ever" in str(judge(-SEARCH.abs(), 0))


def test_what_is_not_there_cannot_be_selected() -> None:
    ledger = filled()
    with pytest.raises(ConfigError, match="no trials have a hash"):
        judge(ledger, "zzz")
    with pytest.raises(ConfigError, match="12 trials have a hash"):
        judge(ledger, "")
    with pytest.raises(ConfigError, match="there is no trial 99"):
        judge(SEARCH, 99)


def test_walk_forward_counts_its_runs() -> None:
    prices = portfolio_research.sample_prices().loc["2020"]
    ledger = TrialLedger()
    for options in ({}, {"estimator": portfolio_research.HierarchicalRiskParity()}, {"band": 0.02}, {"step": "weekly"}):
        portfolio_research.walk_forward(prices, lookback=120, trials=ledger, progress=False, **options)
    assert len(ledger) == 3 and ledger.on(prices)["seen"].tolist() == [2, 1, 1]
    assert "band=0.02" in ledger.table()["params"].iloc[1] and "None" not in ledger.table()["params"].iloc[1]


def test_the_package_offers_it() -> None:
    assert portfolio_research.TrialLedger is TrialLedger and portfolio_research.judge is judge
