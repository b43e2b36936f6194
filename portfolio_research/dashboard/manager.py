"""Starting, stopping and using the dashboard from a program, a notebook or the bot.

The server is a process of its own: charts, kernels and viewers cannot slow down or stop what trades.
"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

from portfolio_research.config import (
    AlertError,
    ConfigError,
    PortfolioError,
    Settings,
    portfolio_home,
)
from portfolio_research.dashboard.access import address, check_address, ensure_token, without_secrets
from portfolio_research.settings import load_settings, to_yaml

START_SECONDS = 60.0  # a loaded machine with two cores needs 15
STOP_SECONDS = 15.0
_LOCAL = build_opener(ProxyHandler({}))  # a proxy has no business between us and our own machine


class DashboardManager:
    """The dashboard of one portfolio, by default at http://127.0.0.1:5000."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=40)

    @property
    def url(self) -> str:
        """Where to look, without the token."""
        return address(self.settings)

    @property
    def link(self) -> str:
        """The address with the token: whoever has it may look and acknowledge."""
        return address(self.settings, self._token())

    @property
    def is_running(self) -> bool:
        """Whether the server that this manager started is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = START_SECONDS) -> str:
        """Start the server and wait until it answers; return its address. Started already: just the address."""
        if self.is_running:
            return self.url
        check_address(self.settings)
        command = [sys.executable, "-m", "portfolio_research.dashboard"]
        self._said.clear()
        self._process = process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=without_secrets(os.environ), start_new_session=True,  # Ctrl-C is for us; we stop it ourselves
        )  # fmt: skip
        reader = Thread(target=self._listen, args=(process,), daemon=True)
        reader.start()
        try:
            self._tell(process)
            self._wait(process, reader, timeout)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop the server and its kernels. Stopped already: nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()

    def snapshot(self, window: str = "90d") -> dict[str, Any]:
        """What the page shows, as data."""
        return self._ask("GET", f"snapshot?{urlencode({'portfolio': self.settings.portfolio.name, 'window': window})}")

    def acknowledge(self, alert_id: str, who: str = "operator", comment: str = "") -> dict[str, Any]:
        """Acknowledge an alert, as the page does; AlertError if somebody was first."""
        return self._act(alert_id, "acknowledge", who, comment)

    def resolve(self, alert_id: str, who: str = "operator", comment: str = "") -> dict[str, Any]:
        """Close an alert, as the page does."""
        return self._act(alert_id, "resolve", who, comment)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tell(self, process: subprocess.Popen[str]) -> None:
        """Send the settings; the pipe stays open as long as we live."""
        assert process.stdin
        try:
            process.stdin.write(to_yaml(self.settings) + "...\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already: waiting for it tells why

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Keep the last lines the server said, and never let its pipe fill up."""
        assert process.stderr
        with process.stderr as said:
            self._said.extend(line.rstrip() for line in said)

    def _wait(self, process: subprocess.Popen[str], reader: Thread, timeout: float) -> None:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if process.poll() is not None:
                reader.join(timeout=5)
                raise ConfigError(f"the dashboard did not start: {self._said[-1] if self._said else 'it said nothing'}")
            try:
                self._ask("GET", "health")
            except PortfolioError:
                time.sleep(0.1)
            else:
                return
        raise PortfolioError(
            f"the dashboard did not answer at {self.url} within {timeout:g} s; is the machine overloaded?"
        )

    def _act(self, alert_id: str, action: str, who: str, comment: str) -> dict[str, Any]:
        query = urlencode({"portfolio": self.settings.portfolio.name})
        answer = self._ask(
            "POST", f"alerts/{quote(alert_id, safe='')}/{action}?{query}", {"who": who, "comment": comment}
        )
        alert: dict[str, Any] = answer["alert"]
        return alert

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"token {self._token()}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        request = Request(f"{self.url}api/v1/{path}", data=data, headers=headers, method=method)
        try:
            with _LOCAL.open(request, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except HTTPError as error:
            raise _refusal(error) from None
        except (URLError, OSError, ValueError) as error:
            raise PortfolioError(f"no dashboard answers at {self.url}: {error}; start it first") from None

    def _token(self) -> str:
        return ensure_token(portfolio_home(self.settings))


def _refusal(error: HTTPError) -> PortfolioError:
    """What the server refused, as an exception."""
    with error:
        text = error.read()
    try:
        said = json.loads(text)
    except ValueError:
        said = {"error": f"the dashboard answered {error.code}"}
    message = ": ".join(part for part in (said.get("error"), said.get("remedy")) if part)
    if error.code == 409 and said.get("acknowledged_by"):
        message = f"{said['error']} (acknowledged by {said['acknowledged_by']} at {said['acknowledged_at']})"
    return AlertError(message) if error.code in (404, 409) else PortfolioError(message)
