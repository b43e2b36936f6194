"""The crash of 2020, replayed: alerts fire once per escalation, reach a mail server and a webhook, and resolve."""
from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from engine_runs import run

from portfolio_research.alerts import AlertEvent
from portfolio_research.config import Settings
from portfolio_research.data import sample_prices
from portfolio_research.store import Store
from portfolio_research.store.outbox import StoreSink

pytestmark = pytest.mark.no_cover  # many bars over the same lines: tracing them only takes time


class Mailbox:
    def __init__(self) -> None:
        self.texts: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        body = message_from_bytes(envelope.content, policy=default).get_body(("plain",))
        self.texts.append("" if body is None else body.get_content())
        return "250 kept"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture
def webhook() -> Iterator[tuple[list[str], str]]:
    posts: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.dumps(json.loads(self.rfile.read(int(self.headers["Content-Length"]))), ensure_ascii=False))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield posts, f"http://127.0.0.1:{server.server_port}/services/T/B/x"
    server.shutdown()
    server.server_close()


def replayed(folder: Path, port: int) -> tuple[list[AlertEvent], int]:
    """Events of a replay from January to June 2020, told from February on, and how many messages each handler got."""
    email = {"host": "127.0.0.1", "port": port, "sender": "bot@example.org", "recipients": ["me@example.org"]}
    handlers = {"log": "alerts.log", "email": email | {"start_tls": False}, "slack": {}}
    wanted = Settings(
        portfolio={"monitoring": {"handlers": handlers}},  # type: ignore[arg-type]
        engine={"speed": 0},  # type: ignore[arg-type]
        dashboard={"enabled": False},  # type: ignore[arg-type]
    )
    prices = sample_prices().loc[:"2020-06-10"]
    with Store.open(folder / "portfolio.db", durable=False) as store:
        run(wanted, prices, store, start=datetime(2020, 1, 2, tzinfo=UTC), live_from="2020-02-03")
        sink = StoreSink(store, "main")
        assert not sink.pending(datetime.now(UTC)) and not sink.dead()
        return sink.events(), len((folder / "main" / "alerts.log").read_text().splitlines())


def steps(events: list[AlertEvent], word: str) -> list[tuple[str, str, str]]:
    """What people were told of an alert: day, kind, severity."""
    told = [e for e in events if e.kind in ("fired", "escalated", "resolved") and e.message.startswith(word)]
    return [(f"{e.at:%m-%d}", e.kind, e.severity.value) for e in told]


def test_drawdown_and_volatility_fire_once_per_escalation_and_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int], webhook: tuple[list[str], str]
) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    monkeypatch.setenv("PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL", webhook[1])
    events, logged = replayed(tmp_path, mailbox[1])

    assert steps(events, "Drawdown") == [
        ("02-26", "fired", "low"),
        ("02-28", "escalated", "medium"),
        ("03-09", "escalated", "medium"),  # it had eased to low on 03-04
        ("03-12", "escalated", "critical"),
        ("04-21", "escalated", "medium"),  # it had eased to low on 04-20
        ("06-09", "resolved", "low"),
    ]
    assert steps(events, "Volatility") == [
        ("02-26", "fired", "low"),
        ("02-27", "escalated", "medium"),
        ("03-02", "escalated", "high"),
        ("03-13", "escalated", "critical"),
        ("04-20", "resolved", "low"),
    ]
    told = [e for e in events if e.kind in ("fired", "escalated", "resolved") and e.at >= datetime(2020, 2, 3, tzinfo=UTC)]
    log = (tmp_path / "main" / "alerts.log").read_text()
    for event in told:
        assert sum(" ".join(event.message.split()) in text for text in webhook[0]) == 1, event.message
        assert sum(event.message in " ".join(text.split()) for text in mailbox[0].texts) == 1, event.message
        assert event.message in log
    assert len(webhook[0]) == len(mailbox[0].texts) == len({e.at for e in told}) and logged >= len(webhook[0])
    assert not any(e.message in log for e in events if e.kind == "fired" and e.at < datetime(2020, 2, 3, tzinfo=UTC))
