"""Handlers against real servers on loopback: a log file, an SMTP server, a webhook."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from pydantic import SecretStr

from portfolio_research.alerts import Notice, Severity
from portfolio_research.channels import SlackAlertHandler, configured_handlers
from portfolio_research.config import AlertError, ConfigError, EmailSettings, HandlerSettings
from portfolio_research.handlers import EmailAlertHandler, LogAlertHandler
from portfolio_research.wire import DeliveryError

NOTICE = Notice(
    "main",
    "[CRITICAL] main: Drawdown 22 %\r\nBcc: eve@example.com",
    Severity.CRITICAL,
    ("CRITICAL Drawdown 22 %", "LOW <!channel> & <b>bold</b>\r\nnext"),
    datetime(2020, 3, 12, tzinfo=UTC),
    "k1",
    "http://127.0.0.1:5000/?a=1&b=2",
)


def send(handler: Any, notice: Notice = NOTICE) -> None:
    asyncio.run(handler.send(notice))


def failure(handler: Any, notice: Notice = NOTICE) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(handler, notice)
    assert isinstance(caught.value, AlertError)
    return caught.value


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# ---------------------------------------------------------------- log
def test_each_line_of_the_log_is_one_alert(tmp_path: Path) -> None:
    handler = LogAlertHandler(tmp_path / "deep" / "alerts.log")
    send(handler)
    send(handler)
    lines = handler.path.read_text().splitlines()
    assert len(lines) == 4 and lines[:2] == lines[2:]
    assert lines[0] == "2020-03-12T00:00:00Z main CRITICAL Drawdown 22 %" and lines[1].endswith("next")


def test_a_line_cut_short_is_closed_first(tmp_path: Path) -> None:
    path = tmp_path / "alerts.log"
    path.write_text("half a li")
    send(LogAlertHandler(str(path)))
    assert path.read_text().splitlines()[0] == "half a li" and len(path.read_text().splitlines()) == 3


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    assert str(tmp_path) in str(failure(LogAlertHandler(tmp_path)))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_that_may_pass() -> None:
    error = failure(LogAlertHandler("/dev/full"))
    assert "space" in str(error) and not error.permanent


def test_a_file_at_its_size_limit_is_an_error(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; from portfolio_research.handlers import _append\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try: _append(Path(sys.argv[1]), b'x' * 20)\n"
        "except OSError as error: raise SystemExit(0 if '10 of 20' in str(error) else 1)\n"
        "raise SystemExit(2)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.log")], timeout=60).returncode == 0


def test_two_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "alerts.log"
    many = replace(NOTICE, lines=tuple("x" * 300 for _ in range(20)))

    async def both() -> None:
        await asyncio.gather(*(LogAlertHandler(path).send(many) for _ in range(10)))

    asyncio.run(both())
    lines = path.read_text().splitlines()
    assert len(lines) == 200 and len(set(lines)) == 1


# ---------------------------------------------------------------- e-mail
class Mailbox:
    """An SMTP server's memory; `answer` is what it says to DATA, `rcpt` to a recipient."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []
        self.answer, self.rcpt, self.delay = "250 taken", "250 ok", 0.0
        self.refuse: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuse:
            return self.rcpt
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        await asyncio.sleep(self.delay)
        self.envelopes.append((envelope, session))
        return self.answer

    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.envelopes[-1][0].content, policy=default)
        assert isinstance(parsed, EmailMessage)
        return parsed


def serve(box: Mailbox, **options: Any) -> Controller:
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    return controller


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp(box: Mailbox) -> Iterator[dict[str, Any]]:
    controller = serve(box)
    yield {
        "host": "127.0.0.1",
        "port": controller.port,
        "sender": "bot@example.com",
        "recipients": ["ana@example.com", "ben@example.com"],
    }
    controller.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        cert,
        *names,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return cert, key


@pytest.fixture
def secure(box: Mailbox, certificate: tuple[Path, Path]) -> Iterator[dict[str, Any]]:
    """A server with STARTTLS and a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"bot", b"hunter2"), handled=False)

    controller = serve(box, tls_context=context, authenticator=check, auth_required=True)
    config = {
        "host": "127.0.0.1",
        "port": controller.port,
        "sender": "bot@example.com",
        "recipients": "ana@example.com",
    }
    yield config | {"username": "bot", "password": "hunter2", "ca_file": str(certificate[0])}
    controller.stop()


def test_a_mail_arrives_whole_as_text_and_html_and_nothing_is_smuggled_in(smtp: dict[str, Any], box: Mailbox) -> None:
    send(EmailAlertHandler(smtp))
    mail = box.message()
    assert box.envelopes[0][0].rcpt_tos == ["ana@example.com", "ben@example.com"] and mail["Bcc"] is None
    assert mail["Subject"] == "[CRITICAL] main: Drawdown 22 % Bcc: eve@example.com"
    assert mail["Message-ID"] == "<k1@alerts.portfolio-research>" and mail["Date"]
    text, markup = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None and markup is not None
    assert "LOW <!channel> & <b>bold</b> next" in text.get_content() and NOTICE.dashboard_url in text.get_content()
    assert "&lt;b&gt;bold" in markup.get_content() and "?a=1&amp;b=2" in markup.get_content()


def test_without_a_key_or_a_dashboard_it_still_is_a_mail(smtp: dict[str, Any], box: Mailbox) -> None:
    send(EmailAlertHandler(EmailSettings(**smtp)), replace(NOTICE, key="", dashboard_url=""))
    assert box.message()["Message-ID"] and "href" not in box.envelopes[0][0].content.decode()


def test_a_password_goes_only_through_tls(
    secure: dict[str, Any], box: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    handler = EmailAlertHandler(secure | {"password": SecretStr("hunter2")})
    send(handler)
    assert box.envelopes[0][1].ssl is not None and box.envelopes[0][1].authenticated
    assert "hunter2" not in caplog.text + repr(handler) + repr(vars(handler))


def test_a_wrong_password_may_be_corrected_so_it_is_tried_again(secure: dict[str, Any], box: Mailbox) -> None:
    error = failure(EmailAlertHandler(secure | {"password": "wrong-one"}))
    assert "535" in str(error) and not error.permanent and "wrong-one" not in str(error) and not box.envelopes


def test_an_unknown_certificate_is_refused(secure: dict[str, Any], box: Mailbox) -> None:
    error = failure(EmailAlertHandler({k: v for k, v in secure.items() if k != "ca_file"}))
    assert "certificate" in str(error).lower() and not box.envelopes


def test_a_server_without_starttls_gets_no_password(smtp: dict[str, Any], box: Mailbox) -> None:
    failure(EmailAlertHandler(smtp | {"username": "bot", "password": "hunter2"}))
    assert not box.envelopes


@pytest.mark.parametrize(("answer", "permanent"), [("451 greylisted", False), ("554 spam", True)])
def test_the_answer_decides_whether_to_try_again(
    smtp: dict[str, Any], box: Mailbox, answer: str, permanent: bool
) -> None:
    box.answer = answer
    error = failure(EmailAlertHandler(smtp))
    assert error.permanent is permanent and answer.split()[1] in str(error)


@pytest.mark.parametrize(("rcpt", "permanent"), [("450 later", False), ("550 unknown", True)])
def test_all_recipients_refused(smtp: dict[str, Any], box: Mailbox, rcpt: str, permanent: bool) -> None:
    box.rcpt, box.refuse = rcpt, set(smtp["recipients"])
    assert failure(EmailAlertHandler(smtp)).permanent is permanent


def test_one_recipient_refused_is_told_and_the_other_is_not_mailed_twice(smtp: dict[str, Any], box: Mailbox) -> None:
    box.rcpt, box.refuse = "550 unknown", {"ben@example.com"}
    error = failure(EmailAlertHandler(smtp))
    assert error.permanent and "ben@example.com" in str(error) and box.envelopes[0][0].rcpt_tos == ["ana@example.com"]


def test_nobody_there_and_nobody_answering(smtp: dict[str, Any], box: Mailbox) -> None:
    assert not failure(EmailAlertHandler(smtp | {"port": free_port()})).permanent
    box.delay = 1
    assert "0.3 s" in str(failure(EmailAlertHandler(smtp | {"timeout": 0.3})))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hots": "x"}, "hots"),
        ({"port": 0}, "port"),
        ({"recipients": []}, "recipients"),
        ({"sender": "a@b.c\r\nBcc: x@y.z"}, "e-mail settings"),
        ({"ca_file": "/no/such/file"}, "e-mail settings"),
        ({"username": "bot"}, "PORTFOLIO_RESEARCH_SMTP_PASSWORD"),
        ({"username": "bot", "password": "p", "start_tls": False}, "unencrypted"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PORTFOLIO_RESEARCH_SMTP_PASSWORD", raising=False)
    config = {"host": "h", "sender": "a@b.c", "recipients": ["d@e.f"]} | change
    with pytest.raises(ConfigError, match=said):
        EmailAlertHandler(config)


def test_the_password_comes_from_the_environment(
    secure: dict[str, Any], box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_SMTP_PASSWORD", secure.pop("password"))
    send(EmailAlertHandler(secure))
    assert len(box.envelopes) == 1


# ---------------------------------------------------------------- webhook
class Hook(ThreadingHTTPServer):
    """Remembers what was posted; `answer` is (status, headers, body), `drip` seconds between bytes of the answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.bodies: list[dict[str, Any]] = []
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b"ok")
        self.drip = 0.0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T0/B0/s3cret"


class _Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, headers, body = self.server.answer
        raw = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        data = f"{raw}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            for piece in [data] if not self.server.drip else [bytes([b]) for b in data]:
                self.wfile.write(piece)
                self.wfile.flush()
                if self.server.closing.wait(self.server.drip):
                    return
        except OSError:
            pass  # the client had enough, which is what the test is about

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def test_a_message_arrives_as_harmless_blocks(hook: Hook) -> None:
    send(SlackAlertHandler(hook.url))
    (body,) = hook.bodies
    texts = [block["text"]["text"] for block in body["blocks"]]
    assert "<!channel>" not in json.dumps(body) and "&lt;!channel&gt; &amp; &lt;b&gt;" in texts[1]
    assert texts[2].endswith("<http://127.0.0.1:5000/?a=1&amp;b=2|dashboard>") and "\n" not in body["text"]


def test_too_long_a_message_is_cut_not_refused(hook: Hook) -> None:
    send(
        SlackAlertHandler(SecretStr(hook.url)),
        replace(NOTICE, lines=tuple("y" * 500 for _ in range(30)), dashboard_url=""),
    )
    send(SlackAlertHandler(hook.url), replace(NOTICE, lines=("z" * 9000,)))
    assert all(len(b["text"]["text"]) <= 3000 for body in hook.bodies for b in body["blocks"])


@pytest.mark.parametrize(
    ("status", "permanent"),
    [(429, False), (408, False), (500, False), (503, False), (302, True), (404, True), (410, True)],
)
def test_what_the_status_means(hook: Hook, status: int, permanent: bool) -> None:
    hook.answer = (status, {"Location": "http://127.0.0.1:1/"}, b"no\r\nservice" * 100)
    error = failure(SlackAlertHandler(hook.url))
    assert (
        error.permanent is permanent and str(status) in str(error) and len(str(error)) < 300 and len(hook.bodies) == 1
    )


def test_retry_after_in_seconds_as_a_date_and_as_nonsense(hook: Hook) -> None:
    handler = SlackAlertHandler(hook.url)
    hook.answer = (429, {"Retry-After": "7"}, b"")
    assert failure(handler).retry_after == 7
    hook.answer = (503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)}, b"")
    assert 60 < (failure(handler).retry_after or 0) <= 90
    for header in ({"Retry-After": "soon"}, {}):
        hook.answer = (429, header, b"")
        assert failure(handler).retry_after is None


def test_a_server_that_drips_is_cut_off(hook: Hook) -> None:
    hook.drip = 0.05
    assert "no end after 0.5 s" in str(failure(SlackAlertHandler(hook.url, timeout=0.5)))  # no single byte was late


def test_nobody_there_and_the_secret_stays_secret(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    send(SlackAlertHandler(hook.url))
    handler = SlackAlertHandler(f"http://127.0.0.1:{free_port()}/services/s3cret")
    error = failure(handler)
    assert not error.permanent and "s3cret" not in caplog.text + str(error) + repr(vars(handler))


@pytest.mark.parametrize(
    "url", [None, "", "hooks.slack.com/x", "ftp://x/y", "https://", "https://x/\ny", "http://x:99999/", "http://[x/"]
)
def test_no_webhook_is_refused_at_once(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL", raising=False)
    with pytest.raises(ConfigError, match="PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL"):
        SlackAlertHandler(url)


# ---------------------------------------------------------------- configuration
def test_the_configuration_names_the_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL", hook.url)
    settings = HandlerSettings.model_validate(
        {"log": "a.log", "email": {"host": "h", "sender": "a@b.c", "recipients": ["d@e.f"]}, "slack": {}}
    )
    log, mail, slack = configured_handlers(settings, tmp_path)
    assert (log.name, mail.name, slack.name) == ("log", "email", "slack")
    assert isinstance(log, LogAlertHandler) and log.path == tmp_path / "a.log"
    send(slack)
    assert len(hook.bodies) == 1
    (only,) = configured_handlers(
        HandlerSettings.model_validate({"log": str(tmp_path / "b.log"), "slack": {"enabled": False}}), Path("/x")
    )
    assert isinstance(only, LogAlertHandler) and only.path == tmp_path / "b.log"
