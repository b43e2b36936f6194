"""The engine as a process: one per portfolio, a clean stop, and a halt that is heard."""
from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from engine_runs import market
from test_crash import replay_settings, revision

from portfolio_research.config import PortfolioError, Settings, StoreError, portfolio_home
from portfolio_research.engine.lock import EngineRunning, engine_lock, lock_holder
from portfolio_research.engine.process import DONE, HALTED, TAKEN, run_engine
from portfolio_research.store import Store, telemetry

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    market(3, bars=80).to_csv(tmp_path / "prices.csv")
    return replay_settings(tmp_path / "prices.csv")


def heartbeat(wanted: Settings) -> telemetry.Heartbeat | None:
    try:
        with Store.open(portfolio_home(wanted) / "portfolio.db", readonly=True) as store, store.read() as conn:
            return telemetry.heartbeats(conn, "main").get("engine")
    except PortfolioError:
        return None


def until(wanted: Settings, detail: str, seconds: float = 60.0) -> telemetry.Heartbeat:
    """Wait for a heartbeat that says `detail`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        beat = heartbeat(wanted)
        if beat is not None and beat.detail == detail:
            return beat
        time.sleep(0.05)
    raise AssertionError(f"no heartbeat {detail!r}; the last was {heartbeat(wanted)}")


def test_an_engine_lives_on_at_the_end_refuses_a_second_one_and_stops_cleanly(
    wanted: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    process = FORK.Process(target=lambda: os._exit(run_engine(wanted)))
    process.start()
    assert process.pid is not None
    try:
        beat = until(wanted, "end of data")
        assert beat.state == "running" and beat.pid == process.pid
        assert run_engine(wanted) == TAKEN
        message = capfd.readouterr().err
        holder = lock_holder(portfolio_home(wanted) / "engine.lock")
        assert f"already run by process {process.pid} since {holder['since']}" in message
        os.kill(process.pid, signal.SIGTERM)
        process.join(20)
        assert process.exitcode == DONE
    finally:
        process.kill()
    last = heartbeat(wanted)
    assert last is not None and last.state == "stopped"


def test_a_full_disk_halts_the_engine_which_says_so(wanted: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # as if the disk were full
        os._exit(run_engine(wanted, until_end=True))

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == HALTED
    message = capfd.readouterr().err
    assert "the engine of portfolio main halted" in message
    assert "portfolio.db" in message and "free" in message
    before = revision(portfolio_home(wanted) / "portfolio.db")
    assert run_engine(wanted, until_end=True) == DONE  # with space again it continues
    assert revision(portfolio_home(wanted) / "portfolio.db") > before


def test_a_lock_is_free_again_after_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "main" / "engine.lock"
    with engine_lock(path):
        assert lock_holder(path)["pid"] == os.getpid()
        said = f"process {os.getpid()} since .*stop that engine first"
        with pytest.raises(EngineRunning, match=said), engine_lock(path):
            pass
    with engine_lock(path):
        pass


def test_a_lock_of_which_nothing_can_be_read_is_refused_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "main" / "engine.lock"
    with engine_lock(path):
        path.write_text("[]")
        with pytest.raises(EngineRunning, match="another process"), engine_lock(path):
            pass
    assert lock_holder(tmp_path / "nothing") == {}


def test_a_store_that_cannot_be_opened_is_a_halt(wanted: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    home = portfolio_home(wanted)
    home.mkdir()
    (home / "portfolio.db").write_text("this is no database, and it is long enough to be told from an empty one" * 20)
    assert run_engine(wanted, until_end=True) == HALTED
    assert "portfolio.db" in capfd.readouterr().err
    assert issubclass(EngineRunning, StoreError)
