"""Signs of life, given to real sockets, files and servers; and the silence of a monitor that no longer checks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from loopback import Hook, free_port, web_server

from portfolio_research.config import ConfigError, HeartbeatSettings
from portfolio_research.vigil import Vigil, configured_vigil, daily_digest, digest_key, tell_systemd, watchdog_seconds

NOON = datetime(2020, 3, 12, 12, tzinfo=UTC)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A datagram socket in the place of systemd."""
    name = f"portfolio-research-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}" if request.param == "abstract" else name)
        listening.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if request.param == "abstract" else name)
        yield listening


@pytest.fixture
def hook() -> Iterator[Hook]:
    with web_server() as server:
        yield server


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def live(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_systemd_hears_the_beginning_the_watch_and_the_end(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    heard = []

    async def scenario() -> None:
        vigil = Vigil()
        vigil.start()
        watching = asyncio.create_task(vigil.keep_watching(60))
        for _ in range(3):
            heard.append(await asyncio.to_thread(manager.recv, 64))
        watching.cancel()
        await vigil.stop()

    live(scenario)
    manager.setblocking(False)
    while heard[-1] != b"STOPPING=1":
        heard.append(manager.recv(64))
    assert heard[0] == b"READY=1" and set(heard[1:-1]) == {b"WATCHDOG=1"}


def test_a_monitor_that_no_longer_checks_falls_silent(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    manager.setblocking(False)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    vigil = Vigil()
    vigil.start()
    for now[0] in (101.0, 101.5, 102.0, 160.0, 161.0):  # a word each second, until a check is 60 s old
        vigil.watch(patience=60)
    vigil.beat("main", NOON, NOON)
    vigil.watch(patience=60)
    heard = []
    while True:
        try:
            heard.append(manager.recv(64))
        except BlockingIOError:
            break
    assert heard == [b"READY=1", *[b"WATCHDOG=1"] * 4]


def test_nobody_listening_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not tell_systemd("READY=1") and "systemd was not told READY=1" in caplog.text


@pytest.mark.parametrize(
    ("usec", "pid", "every"), [("30000000", "", 15.0), ("", "", None), ("0", "", None), ("x", "", None), ("9", "1", None)]
)
def test_how_often_systemd_wants_a_word(
    usec: str, pid: str, every: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_seconds() == every


def test_the_file_is_whole_at_every_moment_and_the_address_is_asked(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HEARTBEAT_URL", hook.url)
    settings = HeartbeatSettings(file="deep/beat.json", ping="POST")

    async def scenario() -> None:
        vigil = configured_vigil(settings, tmp_path)
        vigil.pause = 0.0
        for n in range(20):
            vigil.beat("main", NOON.replace(minute=n), NOON)
            await asyncio.sleep(0)
            for found in (tmp_path / "deep").glob("beat.json"):
                assert json.loads(found.read_text())["portfolio"] == "main"
        await until(lambda: hook.asked and (tmp_path / "deep" / "beat.json").exists())
        await vigil.stop()

    live(scenario)
    assert hook.asked[0][0] == "POST" and hook.bodies[0]["tick"] == "2020-03-12T12:00:00Z"
    assert list((tmp_path / "deep").glob(".*")) == []


def test_an_address_that_hangs_holds_nothing_up_and_stays_secret(
    hook: Hook, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    hook.hanging.set()

    async def scenario() -> None:
        vigil = Vigil(tmp_path, "GET", hook.url, pause=0.0, timeout=0.2)  # and a folder is not a file
        for _ in range(50):
            vigil.beat("main", NOON, NOON)
        await until(lambda: "no end after 0.2 s" in caplog.text and "heartbeat file" in caplog.text)
        await vigil.stop()
        gone = Vigil(None, "GET", f"http://127.0.0.1:{free_port()}/s3cret", pause=0.0)
        for _ in range(3):
            gone.beat("main", NOON, NOON)
            await until(lambda: all(task.done() for task in gone._under_way.values()))

    live(scenario)
    assert len(hook.asked) == 1 and "s3cret" not in caplog.text
    assert caplog.text.count("ConnectError") == 1  # the same trouble is told once


def test_signs_keep_their_distance(tmp_path: Path) -> None:
    async def scenario() -> None:
        vigil = Vigil(tmp_path / "beat.json", pause=3600)
        vigil.beat("main", NOON, NOON)
        await until((tmp_path / "beat.json").exists)
        vigil.beat("main", NOON.replace(hour=13), NOON)
        await vigil.stop()

    live(scenario)
    assert json.loads((tmp_path / "beat.json").read_text())["tick"] == "2020-03-12T12:00:00Z"


def test_a_ping_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTFOLIO_RESEARCH_HEARTBEAT_URL", raising=False)
    with pytest.raises(ConfigError, match="PORTFOLIO_RESEARCH_HEARTBEAT_URL"):
        Vigil(None, "GET")


def test_the_digest_is_due_from_its_hour_on_and_says_what_is_unknown() -> None:
    assert [digest_key(12, NOON.replace(hour=h)) for h in (11, 12, 23)] == ["", *["digest:2020-03-12"] * 2]
    told = daily_digest("main", "digest:x", NOON, equity=float("nan"), drawdown=None, alerts=[], undelivered=[])
    assert told.title == "[DIGEST] main: equity unknown, drawdown unknown, no active alerts"
    assert told.lines[-1] == "Every message of the past was delivered."
