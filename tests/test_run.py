"""`portfolio-research run`: engine, dashboard and report together, as a newcomer starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dashboard_server import free_port

from portfolio_research.engine.lock import engine_lock


class Running:
    """The command in a process group of its own."""

    def __init__(self, home: Path, *args: str) -> None:
        self.home, self.port, self.output = home, free_port(), home.parent / "output.txt"
        command = [sys.executable, "-m", "portfolio_research", "run", "--port", str(self.port), *args]
        env = {**os.environ, "PORTFOLIO_RESEARCH_HOME": str(home), "COLUMNS": "80"}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, cwd=home.parent, env=env, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def get(self, path: str, **headers: str) -> Any:
        token = (self.home / "main" / "token").read_text().strip()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"token {token}", **headers})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def wait_for(self, what: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        """The first snapshot for which `what` holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                snapshot = self.get("/api/v1/snapshot")
                if what(snapshot):
                    return snapshot
            except OSError:  # not there yet, or no data yet
                pass
            time.sleep(0.3)
        raise AssertionError(self.said)

    def members(self) -> list[str]:
        """Processes of the group that still run."""
        found = subprocess.run(
            ["ps", "-o", "pid=,stat=,args=", "--sid", str(self.process.pid)], capture_output=True, text=True
        )
        return [line for line in found.stdout.splitlines() if not line.split()[1].startswith("Z")]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*args: str) -> Running:
        started.append(Running(tmp_path / "home", *args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def complete(snapshot: dict[str, Any]) -> bool:
    return bool(
        snapshot["equity"]["equity"]
        and snapshot["overview"]["equity"]
        and snapshot["rebalancing"]["recommendations"]
        and snapshot["alerts"]["active"] + snapshot["alerts"]["recent"]
    )


def test_a_first_run_shows_a_portfolio_survives_a_killed_engine_and_stops_cleanly(run: Callable[..., Running]) -> None:
    first = run("--speed", "4")
    snapshot = first.wait_for(complete)
    assert re.search(rf"http://\S+:{first.port}/\?token=[0-9a-f]+\n", first.said), "the link must be whole on a line"
    assert abs(sum(row["target"] for row in snapshot["allocation"]) - 1) < 1e-9
    assert {row["asset"] for row in snapshot["allocation"]} >= {"AAPL", "XOM"}
    assert "large caps" in snapshot["source"] and snapshot["periods_per_year"] == 252

    before = first.wait_for(lambda s: s["engine"]["state"] == "running" and not s["engine"]["warming_up"])
    os.kill(before["engine"]["pid"], signal.SIGKILL)
    after = first.wait_for(lambda s: s["engine"]["pid"] != before["engine"]["pid"] and s["as_of"] > before["as_of"])
    assert "continues from its ledger" in first.said
    curve = after["equity"]["t"]  # its newest point may be a bar behind: the bar is recorded before the book is valued
    assert before["as_of"] in curve and curve == sorted(set(curve)) and curve[-1] <= after["as_of"]

    first.wait_for(lambda s: bool(s["reports"]))
    begun = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(25) == 130 and time.monotonic() - begun <= 20
    assert first.members() == [] and "Traceback" not in first.said

    second = run("--speed", "4")
    assert second.wait_for(complete)["as_of"] >= after["as_of"], "it continues, it does not begin again"
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(25) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_midst_of_the_start_leaves_no_process_behind(run: Callable[..., Running], number: int) -> None:
    starting = run("--speed", "4")
    while not (starting.home / "main" / "token").exists():
        assert starting.process.poll() is None, starting.said
        time.sleep(0.05)
    starting.process.send_signal(number)
    assert starting.process.wait(25) == 130
    assert starting.members() == [] and "Traceback" not in starting.said


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--prices", "nowhere.csv"], "nowhere.csv"),
        (["--source", "yahoo"], "data.source = 'yahoo'"),
        (["--portfolio", "../up"], "portfolio.name"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(run: Callable[..., Running], args: list[str], told: str) -> None:
    refused = run(*args)
    assert refused.process.wait(60) == 2
    assert told in refused.said and "Traceback" not in refused.said
    assert refused.members() == []


def test_a_second_run_of_a_portfolio_touches_nothing(run: Callable[..., Running]) -> None:
    from portfolio_research.engine.lock import engine_lock

    probe = run("--source", "yahoo")  # only for its home
    probe.process.wait(60)
    settings = probe.home / "main" / "settings.yaml"
    with engine_lock(probe.home / "main" / "engine.lock"):
        settings.write_text("of the first")
        refused = run()
        assert refused.process.wait(60) == 3
    assert "already run by process" in refused.said and "Dashboard" not in refused.said
    assert settings.read_text() == "of the first"


def test_a_busy_port_is_said_before_anything_starts(run: Callable[..., Running]) -> None:
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        refused = run("--port", str(busy.getsockname()[1]))
        assert refused.process.wait(60) == 2
    assert "in use" in refused.said and "dashboard.port" in refused.said
    assert not (refused.home / "main" / "portfolio.db").exists()


def test_what_is_left_out_of_a_price_file_is_said_once(run: Callable[..., Running], tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), 100
    days = pd.date_range("2024-01-01", periods=rows, tz="UTC", name="date")
    prices = pd.DataFrame(np.exp(rng.normal(0, 0.03, (rows, 3)).cumsum(axis=0)), days, ["BTC", "ETH", "SOL"])
    prices.assign(USDT=1 + rng.normal(0, 1e-3, rows)).to_csv(tmp_path / "coins.csv")
    (tmp_path / "config.yaml").write_text("{portfolio: {rebalancing: {lookback: 60}}, dashboard: {enabled: false}}")
    warned = run("--prices", "coins.csv")
    deadline = time.monotonic() + 60
    while "says why" not in warned.said and warned.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert warned.said.count("Left out: USDT (stablecoin)") == 1, warned.said


def test_fresh_does_not_move_the_folder_of_a_running_engine(run: Callable[..., Running], tmp_path: Path) -> None:
    lock = tmp_path / "home" / "main" / "engine.lock"
    with engine_lock(lock):
        refused = run("--fresh")
        assert refused.process.wait(60) == 3
    assert str(os.getpid()) in refused.said and [p.name for p in (tmp_path / "home").iterdir()] == ["main"]


def test_fresh_begins_again_and_keeps_the_old_folder(run: Callable[..., Running], tmp_path: Path) -> None:
    old = tmp_path / "home" / "main"
    old.mkdir(parents=True)
    (old / "memory.txt").write_text("precious")
    refused = run("--fresh", "--prices", "nowhere.csv")
    assert refused.process.wait(60) == 2 and (old / "memory.txt").exists(), "prices that are refused move nothing away"
    few = tmp_path / "few.csv"
    few.write_text("date,A,B\n2024-01-01,1,2\n2024-01-02,2,3\n2024-01-03,2,4\n")
    again = run("--fresh", "--prices", str(few))
    again.process.wait(60)
    assert [p.read_text() for p in (tmp_path / "home").glob("main.*/memory.txt")] == ["precious"]
