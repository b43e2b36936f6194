"""kill -9 at any moment, start again: the ledger is that of a run which nobody interrupted."""
from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from engine_runs import LEDGER, OPTIONS, market, rows

from portfolio_research.config import PortfolioError, Settings, portfolio_home
from portfolio_research.data import to_returns
from portfolio_research.engine.process import run_engine
from portfolio_research.store import Store
from portfolio_research.targets import optimizer_from

KILLS = 10
FORK = multiprocessing.get_context("fork")  # a real process, without the seconds that imports take


def replay_settings(prices: Path, **optimizer: object) -> Settings:
    rebalancing = {"lookback": 60, "tolerance": 0.02, "min_trade_size": 50.0, "large_trade_threshold": 5_000.0}
    return Settings(
        portfolio={"rebalancing": rebalancing, "optimizer": optimizer},  # type: ignore[arg-type]
        data={"source": "csv", "path": prices},  # type: ignore[arg-type]
        engine={"speed": 0},  # type: ignore[arg-type]
        dashboard={"enabled": False},  # type: ignore[arg-type]
    )


def revision(path: Path) -> int:
    """How much has been written; 0 while there is no store."""
    try:
        with Store.open(path, readonly=True) as store:
            return store.revision()
    except PortfolioError:
        return 0


def killed_after(wanted: Settings, writes: int) -> int | None:
    """Start an engine and kill it after so many more writes; its exit code."""
    path = portfolio_home(wanted) / "portfolio.db"
    limit = revision(path) + writes
    process = FORK.Process(target=lambda: os._exit(run_engine(wanted, until_end=True)))
    process.start()
    while process.is_alive() and revision(path) < limit:
        time.sleep(0.001)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    return process.exitcode


def test_the_ledger_survives_kill_9_at_ten_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = market(11, bars=95, volatility=0.04)
    prices.to_csv(tmp_path / "prices.csv")
    wanted = replay_settings(tmp_path / "prices.csv")

    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "whole"))
    assert run_engine(wanted, until_end=True) == 0
    whole = portfolio_home(wanted) / "portfolio.db"
    share = revision(whole) // (KILLS + 2)

    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "killed"))
    moments = random.Random(20200312)
    codes = [killed_after(wanted, moments.randint(1, share)) for _ in range(KILLS)]
    assert codes == [-signal.SIGKILL] * KILLS
    assert run_engine(wanted, until_end=True) == 0

    killed = portfolio_home(wanted) / "portfolio.db"
    for table in LEDGER:
        assert rows(killed, table) == rows(whole, table), table
    kinds = {row["kind"] for row in rows(whole, "order")}
    assert kinds == {"market", "twap"} and rows(whole, "alert_event")  # the comparison was about something


def test_the_kept_leaf_order_survives_kill_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = market(12, assets=8, bars=75)
    prices.to_csv(tmp_path / "prices.csv")
    wanted = replay_settings(tmp_path / "prices.csv", **OPTIONS | {"order_tolerance": 0.05})

    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "whole"))
    assert run_engine(wanted, until_end=True) == 0
    whole = portfolio_home(wanted) / "portfolio.db"
    share = revision(whole) // 4

    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "killed"))
    assert [killed_after(wanted, share) for _ in range(2)] == [-signal.SIGKILL] * 2
    assert run_engine(wanted, until_end=True) == 0
    killed = portfolio_home(wanted) / "portfolio.db"
    for table in LEDGER:
        assert rows(killed, table) == rows(whole, table), table

    def order(day: str) -> list[str]:
        leaves = [row for row in rows(whole, "target") if row["ts"].startswith(day) and row["place"] is not None]
        return [row["asset"] for row in sorted(leaves, key=lambda row: row["place"])]

    days = [f"{day:%Y-%m-%d}" for day in prices.index[60:]]
    fresh = [optimizer_from(wanted).fit(to_returns(prices.loc[:day]).iloc[-60:]).order_ for day in days]
    assert order(days[0]) == fresh[0]
    assert sum(order(day) != anew for day, anew in zip(days, fresh, strict=True)) >= 5  # days that lean on the day before
