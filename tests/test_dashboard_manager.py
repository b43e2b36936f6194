"""The dashboard as a process of its own: started, used and stopped through its manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from dashboard_server import free_port
from dashboard_world import World, settings_at

from portfolio_research.config import AlertError, ConfigError, PortfolioError
from portfolio_research.dashboard.manager import DashboardManager
from portfolio_research.settings import load_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def world() -> Iterator[World]:
    made = World(settings_at(free_port()))
    yield made
    made.close()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def test_start_use_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_SMTP_PASSWORD", "hunter2")
    manager = DashboardManager(world.settings)
    assert not manager.is_running
    with manager:
        assert manager.is_running
        assert manager.start() == manager.url == f"http://127.0.0.1:{world.settings.dashboard.port}/"
        assert manager.url in manager.link and "token=" in manager.link
        with build_opener(HTTPCookieProcessor).open(manager.link, timeout=60) as page:
            assert b"portfolio-dashboard" in page.read()
        if Path("/proc").is_dir():
            assert manager._process
            assert b"hunter2" not in environment_of(manager._process.pid)
        alerts = manager.snapshot("30d")["alerts"]["active"]
        done = manager.acknowledge(alerts[0]["id"], "Ada", "hedging")
        assert (done["acknowledged_by"], done["comment"]) == ("Ada", "hedging")
        with pytest.raises(AlertError, match="Ada"):
            manager.acknowledge(alerts[0]["id"], "Bob")
        assert manager.resolve(alerts[1]["id"], "Ada")["state"] == "resolved"
        with pytest.raises(AlertError, match="no alert"):
            manager.acknowledge("feedbeef")
        with pytest.raises(PortfolioError, match="choose one of"):
            manager.snapshot("7w")
    assert not manager.is_running
    assert not listening(world.settings.dashboard.port)
    manager.stop()


def test_a_busy_port_is_an_error_that_names_the_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        manager = DashboardManager(settings_at(port))
        with pytest.raises(ConfigError, match=f"port {port} is in use; choose another with `dashboard.port`"):
            manager.start()
        assert not manager.is_running


def test_refused_before_a_process_is_started() -> None:
    with pytest.raises(ConfigError, match="dashboard.public"):
        DashboardManager(load_settings(dashboard={"host": "0.0.0.0"})).start()


def test_nobody_there_is_said_plainly() -> None:
    with pytest.raises(PortfolioError, match="no dashboard answers"):
        DashboardManager(settings_at(free_port())).snapshot()


def test_too_slow_a_start_is_given_up(world: World) -> None:
    manager = DashboardManager(world.settings)
    with pytest.raises(PortfolioError, match="did not answer"):
        manager.start(timeout=0.0)
    assert not manager.is_running


def test_the_dashboard_does_not_outlive_a_killed_parent(world: World) -> None:
    port = world.settings.dashboard.port
    code = f"""
        import time
        from portfolio_research.settings import load_settings
        from portfolio_research.dashboard.manager import DashboardManager
        manager = DashboardManager(load_settings(dashboard={{"port": {port}}}))
        manager.start()
        print("up", flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline() == "up\n"
        assert listening(port)
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while listening(port) and time.monotonic() < until:
        time.sleep(0.1)
    assert not listening(port)
