"""A running dashboard over a real store, for the tests: in this process, on a free port, stopped at the end."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dashboard_world import World, settings_at

from portfolio_research.config import Settings, portfolio_home
from portfolio_research.dashboard.server import serve


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> str:
        """Cookies as a browser would send them back."""
        return "; ".join(line.split(";")[0] for line in self.headers.get_all("Set-Cookie", []))


class Client:
    """Speaks HTTP to the dashboard, following nothing, keeping nothing."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token

    def ask(self, method: str, path: str, body: Any = None, token: bool = True, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"token {self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **kwargs: Any) -> Answer:
        return self.ask("GET", path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> Answer:
        return self.ask("POST", path, body, **kwargs)


@contextmanager
def running(settings: Settings) -> Iterator[Client]:
    """The dashboard of `settings`, served from a thread."""
    ready: Future[str] = Future()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    def run() -> None:
        try:
            loop.run_until_complete(serve(settings, stopping, ready.set_result))
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            else:
                raise
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ready.result(timeout=30)
        yield Client(settings.dashboard.port, (portfolio_home(settings) / "token").read_text())
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stopping.set)
        thread.join(timeout=30)
        assert not thread.is_alive()


@contextmanager
def dashboard(**world: Any) -> Iterator[tuple[Client, World]]:
    """A portfolio and its dashboard, in $PORTFOLIO_RESEARCH_HOME."""
    settings = settings_at(free_port())
    made = World(settings, **world)
    try:
        with running(settings) as client:
            yield client, made
    finally:
        made.close()
