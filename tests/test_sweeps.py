"""A sweep loses nothing: not by a killed worker, not by a killed driver, not by a point that fails, on either engine."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sweep_calls import GRID, RETURNS, work

import portfolio_research
from portfolio_research import sweeps, workers
from portfolio_research.config import ConfigError, DataError
from portfolio_research.content import content_hash
from portfolio_research.sweeps import Sweep, grid_points, sweep
from portfolio_research.trials import TrialLedger
from portfolio_research.workers import ClusterWorkers, LocalWorkers


def executions(folder: Path) -> Counter[int]:
    return Counter(int(path.name.split("-")[0]) for path in folder.iterdir())


def found(result: Sweep) -> pd.DataFrame:
    return result.table.drop(columns=["seconds", "marks", "die"], errors="ignore")


@pytest.fixture(scope="module")
def undisturbed() -> pd.DataFrame:
    rows = [{"k": k, "total": work(RETURNS, k)["total"], "error": None} for k in GRID["k"]]
    return pd.DataFrame(rows).rename_axis("point")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="dask is not installed: pip install -e '.[dask]'")
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as made:
        yield made


@pytest.fixture(params=["joblib", "dask"])
def engine(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"n_jobs": 2} if request.param == "joblib" else {"client": request.getfixturevalue("client")}


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The chunks that were sent, as lists of k."""
    sent: list[list[int]] = []
    for kind in (LocalWorkers, ClusterWorkers):
        send = kind.send

        def noted(self, slot, job, calls, send=send) -> None:
            sent.append([params["k"] for _, params in calls])
            send(self, slot, job, calls)

        monkeypatch.setattr(kind, "send", noted)
    return sent


def kill_one_after(folder: Path, many: int) -> Thread:
    """SIGKILL, from outside, whoever left the newest of so many marks."""

    def watch() -> None:
        while len(marks := list(folder.iterdir())) < many:
            time.sleep(0.005)
        newest = max(marks, key=lambda path: path.stat().st_mtime_ns)
        os.kill(int(newest.name.split("-")[1]), signal.SIGKILL)

    thread = Thread(target=watch)
    thread.start()
    return thread


def who(data: pd.DataFrame, k: int) -> float:
    """Takes long enough that both workers get some."""
    time.sleep(0.02)
    return float(os.getpid())


def workers_of_a_sweep() -> set[float]:
    return set(sweep(who, {"k": list(range(40))}, RETURNS, n_jobs=2).table["value"])


def test_processes_rest_between_sweeps_unless_the_world_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "helper_of_a_sweep.py"
    helper.write_text("FACTOR = 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def scaled(data: pd.DataFrame, k: int) -> float:
        import helper_of_a_sweep  # type: ignore[import-not-found]

        return float(k * helper_of_a_sweep.FACTOR)

    assert sweep(scaled, {"k": [1, 2]}, RETURNS, n_jobs=2).table["value"].tolist() == [2, 4]
    first = workers_of_a_sweep()
    assert len(first) == 2 and workers_of_a_sweep() == first
    helper.write_text("FACTOR = 10.0\n")
    os.utime(helper, (time.time() + 5, time.time() + 5))  # coarse clocks of file systems
    assert sweep(scaled, {"k": [1, 2]}, RETURNS, n_jobs=2).table["value"].tolist() == [10, 20]
    os.utime(helper, (1, 1))
    second = workers_of_a_sweep()
    assert not first & second and workers_of_a_sweep() == second
    monkeypatch.chdir(tmp_path)
    third = workers_of_a_sweep()
    assert not second & third
    for worker in third:
        os.kill(int(worker), signal.SIGKILL)
    assert not third & workers_of_a_sweep()


# ---------------------------------------------------------------- deaths
def test_a_killed_worker_costs_one_chunk(engine, chunks, undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    killer = kill_one_after(tmp_path, 50)
    result = sweep(work, GRID | {"marks": [str(tmp_path)]}, RETURNS, **engine)
    killer.join()
    pd.testing.assert_frame_equal(found(result), undisturbed, check_dtype=False)
    again = {k for k, times in executions(tmp_path).items() if times > 1}
    assert result.deaths == 1 and max(executions(tmp_path).values()) == 2
    assert any(again <= set(chunk) for chunk in chunks)  # all that was done twice was in one chunk
    assert len(executions(tmp_path)) == 120


def test_a_call_that_always_kills_is_given_up_and_named(engine, undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    grid = {"k": list(range(20)), "marks": [str(tmp_path)], "die": ["always"]}
    result = sweep(work, grid, RETURNS, **engine)
    assert result.deaths == executions(tmp_path)[7] == 3
    assert list(result.failures["k"]) == [7] and "killed its worker 3 times" in result.failures["error"].iloc[0]
    pd.testing.assert_frame_equal(found(result).drop(7), undisturbed.iloc[:20].drop(7), check_dtype=False)
    assert result.hashes[7] is None and len(result.trials) == 19 and "1 failed" in repr(result)


def test_an_error_is_a_row(engine, tmp_path: Path) -> None:
    result = sweep(work, {"k": list(range(10)), "die": ["error"]}, RETURNS, store=tmp_path, **engine)
    assert result.failures["error"].to_dict() == {5: "ZeroDivisionError: point five"}
    assert result.table["total"].notna().sum() == 9 and 5 not in result.series["returns"]
    again = sweep(work, {"k": list(range(10)), "die": ["error"]}, RETURNS, store=tmp_path, n_jobs=1)
    assert again.reused == 9 and list(again.failures.index) == [5]  # what failed is tried again


def test_engines_and_orders_agree_to_the_bit(client, undisturbed: pd.DataFrame) -> None:
    order = np.random.default_rng(0).permutation(120).tolist()
    here = sweep(work, [{"k": k} for k in order], RETURNS, n_jobs=2)
    alone = sweep(work, GRID, RETURNS, n_jobs=1)
    there = sweep(work, GRID, RETURNS, client=client)
    assert found(there).equals(found(alone))
    assert found(there).equals(found(here).sort_values("k", ignore_index=True).rename_axis("point"))
    a, b = here.series["returns"], there.series["returns"]
    assert all((a[place] == b[k]).all() for place, k in enumerate(order))
    pd.testing.assert_frame_equal(found(there), undisturbed, check_dtype=False)
    assert here.best(by="total").params == there.best(by="total").params


def test_data_reach_a_worker_that_does_not_see_the_file(client, undisturbed, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a relative path means another file to workers that were started elsewhere
    write = sweeps.write_data
    monkeypatch.setattr(sweeps, "write_data", lambda data, folder: os.path.relpath(write(data, folder)))
    shipped: list[object] = []
    ship = ClusterWorkers.ship
    monkeypatch.setattr(ClusterWorkers, "ship", lambda self, job: (shipped.append(job), ship(self, job)))
    killer = kill_one_after(marks := tmp_path / "marks", 50) if (tmp_path / "marks").mkdir() is None else None
    result = sweep(work, GRID | {"marks": [str(marks)]}, RETURNS * 1.0000001, client=client)
    killer.join()
    assert 1 <= len(shipped) <= 3 and result.deaths == 1 and not len(result.failures)
    assert np.allclose(result.table["total"], undisturbed["total"] * 1.0000001)


# ---------------------------------------------------------------- the driver
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sweep_calls import GRID, RETURNS, work
from portfolio_research import sweep
sweep(work, GRID | {"marks": [sys.argv[2]]}, RETURNS, store=sys.argv[3], n_jobs=2, chunk_s=0.3)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_driver_resumes(how: signal.Signals, undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    marks, store = tmp_path / "marks", tmp_path / "store"
    marks.mkdir()
    here = str(Path(__file__).parent)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, here, str(marks), str(store)], stderr=subprocess.DEVNULL)
    while len(list(marks.iterdir())) < 60:
        time.sleep(0.01)
    driver.send_signal(how)
    driver.wait()
    pids = {int(path.name.split("-")[1]) for path in marks.iterdir()}
    until = time.monotonic() + 10
    while any(running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)  # nobody is left behind
    before = executions(marks)
    result = sweep(work, GRID | {"marks": [str(marks)]}, RETURNS, store=store, n_jobs=1)
    pd.testing.assert_frame_equal(found(result), undisturbed, check_dtype=False)
    twice = [k for k, times in executions(marks).items() if times > 1]
    assert result.reused >= 20 and len(twice) == len(before) - result.reused  # only what was not told yet
    last = sweep(work, GRID | {"marks": [str(marks)]}, RETURNS, store=store, n_jobs=1)
    assert last.reused == 120 and found(last).equals(found(result))


def running(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- the store
def test_the_store_knows_what_made_a_result(tmp_path: Path) -> None:
    def once(data, k):
        return k

    def changed(data, k):
        return k + 1

    first = sweep(once, {"k": [1, 2]}, RETURNS, store=tmp_path, n_jobs=1)
    assert first.table["value"].tolist() == [1, 2]
    assert sweep(once, {"k": [1.0, 2, 3]}, RETURNS, store=tmp_path, n_jobs=1).reused == 2
    assert sweep(changed, {"k": [1]}, RETURNS, store=tmp_path, n_jobs=1).table["value"].tolist() == [2]
    assert sweep(once, {"k": [1]}, RETURNS.iloc[1:], store=tmp_path, n_jobs=1).reused == 0
    (tmp_path / "chunk-x.pickle").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"chunk-x\.pickle cannot be read"):
        sweep(once, {"k": [1]}, RETURNS, store=tmp_path, n_jobs=1)


def test_the_same_point_twice_is_done_once(tmp_path: Path) -> None:
    result = sweep(work, [{"k": 3, "marks": str(tmp_path)}] * 3, RETURNS, n_jobs=1)
    assert executions(tmp_path) == {3: 1} and len(result.table) == 3 and len(result.trials) == 1
    assert result.table["total"].nunique() == 1


def test_data_of_another_content_are_not_used(tmp_path: Path) -> None:
    path = workers.write_data(RETURNS, tmp_path)
    assert workers.write_data(RETURNS, tmp_path) == path
    Path(path).write_bytes(Path(workers.write_data(RETURNS * 2, tmp_path)).read_bytes())
    workers._HELD.clear()
    with pytest.raises(workers.DataNotHere):
        workers.held_data(workers.Job(b"", path, content_hash(RETURNS)))
    with pytest.raises(ConfigError, match="leave the store alone"):
        sweep(work, {"k": [1]}, RETURNS, store=tmp_path, n_jobs=1)


def test_few_data_sets_are_held(tmp_path: Path) -> None:
    workers._HELD.clear()
    for factor in (1, 2, 3):
        data = RETURNS * factor
        job = workers.Job(b"", workers.write_data(data, tmp_path), content_hash(data))
        payload = Path(job.path).read_bytes() if factor == 3 else None
        assert workers.held_data(job, payload).equals(data)
        assert workers.held_data(workers.Job(b"", "gone", content_hash(data))).equals(data)  # from memory
    assert len(workers._HELD) == 2


def test_a_function_cannot_change_its_data() -> None:
    def spoil(data, k):
        data.to_numpy()[0, 0] = k
        return k

    assert "read-only" in sweep(spoil, {"k": [1]}, RETURNS, n_jobs=1).table["error"].iloc[0]


# ---------------------------------------------------------------- trials
def test_every_point_is_a_trial_and_the_best_comes_judged(tmp_path: Path) -> None:
    ledger = TrialLedger(tmp_path / "trials.jsonl")
    for _ in range(2):
        result = sweep(work, {"k": [0, 1, 2, 3]}, RETURNS, n_jobs=1, trials=ledger, periods_per_year=252)
    assert len(ledger) == 4 and (ledger.on(RETURNS)["seen"] == 2).all()
    sweep(work, {"k": [9]}, RETURNS, n_jobs=1, trials=ledger)
    judged = result.best()
    assert judged.trials == 5 and judged.periods_per_year == 252  # what was tried later counts as well
    top = (result.series["returns"].mean() / result.series["returns"].std()).idxmax()
    assert judged.params == {"k": top} and judged.name == "work"
    assert result.best(by="total", largest=False).params == {"k": int(result.table["total"].idxmin())}
    assert "<table" in result._repr_html_() and "4 of 4 points done" in repr(result)


def test_there_is_no_best_without_a_judgement() -> None:
    bare = sweep(lambda data, k: {"sharpe": k}, {"k": [1, 2]}, RETURNS, n_jobs=1)
    assert len(bare.trials) == 2  # they count all the same
    with pytest.raises(ConfigError, match="gave no returns, so nobody can say"):
        bare.best()
    result = sweep(work, {"k": [1, 2]}, RETURNS, n_jobs=1)
    with pytest.raises(ConfigError, match="no column 'profit': choose one of k, total"):
        result.best(by="profit")
    flat = sweep(lambda data, k: data["a"] * 0, {"k": [1, 2]}, RETURNS, n_jobs=1)
    with pytest.raises(DataError, match="no point has a value"):
        flat.best()
    for name in ("sweep", "Sweep"):
        assert name in portfolio_research.__all__


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: grid_points({"k": 5}), ConfigError, r"k is 5: a grid has a list for each name, such as \[5\]"),
        (lambda: grid_points({"k": "abc"}), ConfigError, "k is 'abc'"),
        (lambda: grid_points({"k": []}), ConfigError, "no points"),
        (lambda: grid_points([]), ConfigError, "no points"),
        (lambda: grid_points({"error": [1]}), ConfigError, "cannot be called error"),
        (lambda: sweep(work, GRID, RETURNS, chunk_s=0.1), ConfigError, "chunk_s is 0.1"),
        (lambda: sweep(work, GRID, RETURNS, client=object(), n_jobs=2), ConfigError, "n_jobs=2 is for processes"),
        (lambda: sweep(unsendable(), GRID, RETURNS), ConfigError, "cannot be sent to workers"),
        (lambda: sweep(lambda data, k: {"k": 2}, {"k": [1]}, RETURNS, n_jobs=1), DataError, "returned 'k', which names"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def unsendable() -> Callable[..., Any]:
    import threading

    def fn(data, k, lock=None):
        return k

    fn.lock = threading.Lock()  # type: ignore[attr-defined]
    return fn


class Asynchronous:
    asynchronous = True


def test_an_asynchronous_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="asynchronous"):
        sweep(work, GRID, RETURNS, client=Asynchronous())


def test_results_of_other_kinds_are_errors_of_their_point() -> None:
    kinds = [lambda: [1], lambda: None, lambda: {"x": unsendable()}, lambda: sys.exit("out"), lambda: np.float64(2.5)]
    kinds.append(lambda: {"returns": [0.1, 0.2]})
    result = sweep(lambda data, k: kinds[k](), {"k": list(range(6))}, 0, n_jobs=1)
    said = result.table["error"]
    assert "returned a list: return a number, a Series" in said[0] and "NoneType" in said[1]
    assert "'returns' is a Series" in said[5] and "pickle" in said[2]
    assert said[3] == "SystemExit: out" and result.table["value"][4] == 2.5


def test_another_version_on_a_worker_stops_the_sweep(monkeypatch, tmp_path: Path) -> None:
    job = workers.Job(b"", "", "", version="0.0")
    with pytest.raises(ConfigError, match="the driver 0.0: install the same on both"):
        workers.run_chunk(job, [])


def test_a_cluster_without_workers_is_not_waited_for_for_ever(monkeypatch) -> None:
    class Empty:
        def nthreads(self):
            return {}

    monkeypatch.setattr(sweeps, "_PATIENCE", 0.2)
    with pytest.raises(ConfigError, match="has had no workers"):
        sweep(work, {"k": [1]}, RETURNS, client=Empty())
