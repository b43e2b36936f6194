"""Real servers on loopback for tests of delivery: mail and web, friendly, refusing, hanging and dripping."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from portfolio_research.alerts import Notice, Severity

NOTICE = Notice(  # what an attacker, or an asset with an unfortunate name, would put there
    "main",
    "[CRITICAL] main: Drawdown 22 %\r\nBcc: eve@example.com",
    Severity.CRITICAL,
    ("CRITICAL Drawdown 22 %", "LOW <!channel> & <b>bold</b>\r\nnext @everyone \x1b[2J\x1b[31mred\u202e"),
    datetime(2020, 3, 12, tzinfo=UTC),
    "k1",
    "http://127.0.0.1:5000/?a=1&b=2",
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# ---------------------------------------------------------------- mail
class Mailbox:
    """An SMTP server's memory; `answer` is what it says to DATA, `rcpt` to a recipient."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []
        self.answer, self.rcpt = "250 taken", "250 ok"
        self.refuse: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuse:
            return self.rcpt
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append((envelope, session))
        return self.answer

    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.envelopes[-1][0].content, policy=default)
        assert isinstance(parsed, EmailMessage)
        return parsed


def mail_server(box: Mailbox, **options: Any) -> Controller:
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    return controller


def mail_config(port: int) -> dict[str, Any]:
    recipients = ["ana@example.com", "ben@example.com"]
    return {"host": "127.0.0.1", "port": port, "sender": "bot@example.com", "recipients": recipients}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that nobody has signed, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run([*made, *names], check=True, capture_output=True, timeout=60)
    return cert, key


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@contextmanager
def scripted(*lines: bytes, drip: float = 0.0) -> Iterator[int]:
    """A server that says one line, hears one, and so on; when its lines are used up it hangs. With `drip`, byte by byte."""
    closing = threading.Event()

    def talk(peer: socket.socket) -> None:
        with peer:
            peer.settimeout(0.02)
            for line in lines:
                for piece in [bytes([byte]) for byte in line] if drip else [line]:
                    peer.sendall(piece)
                    if closing.wait(drip):
                        return
                while not closing.is_set():
                    try:
                        peer.recv(65536)
                        break
                    except TimeoutError:
                        continue
            closing.wait()

    def accept() -> None:
        while not closing.is_set():
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=_quietly, args=(talk, peer), daemon=True).start()

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            closing.set()
            listening.shutdown(socket.SHUT_RDWR)


def _quietly(talk: Any, peer: socket.socket) -> None:
    with suppress(OSError):  # the client had enough, which is what the test is about
        talk(peer)


# ---------------------------------------------------------------- web
class Hook(ThreadingHTTPServer):
    """Remembers what it was asked; `answers` are (status, headers, body), the last one stays.

    `drip` is the seconds between bytes of the answer; while `hanging` is set it never answers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, dict[str, str], bytes, int]] = []  # method, headers, body, status of the answer
        self.answers: list[tuple[int, dict[str, str], bytes]] = [(200, {}, b"ok")]
        self.drip = 0.0
        self.hanging, self.heard, self.closing = threading.Event(), threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T0/B0/s3cret"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body, _ in self.asked]


class _Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_GET(self) -> None:
        said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append((self.command, dict(self.headers), said, status))
        self.server.heard.set()
        if self.server.hanging.is_set():
            self.server.closing.wait()
            return
        raw = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        data = f"{raw}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with suppress(OSError):
            for piece in [data] if not self.server.drip else [bytes([b]) for b in data]:
                self.wfile.write(piece)
                self.wfile.flush()
                if self.server.closing.wait(self.server.drip):
                    return

    do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def web_server() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def send(handler: Any, notice: Notice = NOTICE) -> None:
    asyncio.run(handler.send(notice))
