"""The log and the mailbox, against real files and real servers on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult
from loopback import (
    NOTICE,
    Mailbox,
    free_port,
    mail_config,
    mail_server,
    make_certificate,
    scripted,
    send,
    server_context,
)
from pydantic import SecretStr

from portfolio_research.alerts import Notice
from portfolio_research.config import AlertError, ConfigError, EmailSettings
from portfolio_research.handlers import EmailAlertHandler, LogAlertHandler
from portfolio_research.wire import DeliveryError


def failure(handler: Any, notice: Notice = NOTICE) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(handler, notice)
    assert isinstance(caught.value, AlertError)
    return caught.value


# ---------------------------------------------------------------- log
def test_each_line_of_the_log_is_one_alert(tmp_path: Path) -> None:
    handler = LogAlertHandler(tmp_path / "deep" / "alerts.log")
    send(handler)
    send(handler)
    lines = handler.path.read_text().splitlines()
    assert len(lines) == 4 and lines[:2] == lines[2:]
    assert lines[0] == "2020-03-12T00:00:00Z main CRITICAL Drawdown 22 %" and lines[1].endswith("next @everyone [2J [31mred")


def test_the_name_of_a_portfolio_cannot_add_a_line_either(tmp_path: Path) -> None:
    handler = LogAlertHandler(tmp_path / "alerts.log")
    send(handler, replace(NOTICE, portfolio="main\n2020-01-01T00:00:00Z main CRITICAL forged"))
    assert len(handler.path.read_text().splitlines()) == 2


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
@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp(box: Mailbox) -> Iterator[dict[str, Any]]:
    controller = mail_server(box)
    yield mail_config(controller.port)
    controller.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(box: Mailbox, certificate: tuple[Path, Path]) -> Iterator[dict[str, Any]]:
    """A server with STARTTLS and a password."""

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"bot", b"hunter2"), handled=False)

    controller = mail_server(box, tls_context=server_context(certificate), authenticator=check, auth_required=True)
    config = mail_config(controller.port) | {"recipients": "ana@example.com"}
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
    plain = text.get_content()
    assert "LOW <!channel> & <b>bold</b> next @everyone [2J [31mred\r\n" in plain and NOTICE.dashboard_url in plain
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


def test_nobody_there() -> None:
    assert not failure(EmailAlertHandler(mail_config(free_port()))).permanent


GREETED = (b"220 hello\r\n", b"250 hello\r\n")


@pytest.mark.parametrize("lines", [(), GREETED[:1], GREETED, (*GREETED, b"250 ok\r\n"), (b"220-and so on\r\n" * 50,)])
def test_a_server_that_hangs_is_left_in_time_wherever_it_hangs(lines: tuple[bytes, ...]) -> None:
    with scripted(*lines) as port:
        error = failure(EmailAlertHandler(mail_config(port) | {"timeout": 0.3}))
    assert "no end after 0.3 s" in str(error) and not error.permanent


def test_a_server_that_drips_is_cut_off() -> None:
    with scripted(b"220 " + b"x" * 400 + b"\r\n", drip=0.02) as port:  # no single byte is late
        assert "no end after 0.3 s" in str(failure(EmailAlertHandler(mail_config(port) | {"timeout": 0.3})))


def test_a_mail_that_was_taken_is_delivered_whatever_becomes_of_the_good_bye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio_research.handlers._GOOD_BYE", 0.1)
    one = mail_config(0) | {"recipients": ["ana@example.com"]}
    taken = (*GREETED, b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n", b"250 taken\r\n")
    with scripted(*taken) as port:
        send(EmailAlertHandler(one | {"port": port}), replace(NOTICE, lines=("short",)))
    with scripted(*taken, b"421 no time for you\r\n") as port:
        send(EmailAlertHandler(one | {"port": port}), replace(NOTICE, lines=("short",)))


def test_starttls_that_was_stripped_is_not_done_without(smtp: dict[str, Any], box: Mailbox) -> None:
    assert "STARTTLS" in str(failure(EmailAlertHandler(smtp | {"start_tls": True}))) and not box.envelopes


def test_tls_from_the_first_byte(box: Mailbox, certificate: tuple[Path, Path]) -> None:
    controller = mail_server(box, ssl_context=server_context(certificate))
    try:
        own = mail_config(controller.port) | {"use_tls": True, "timeout": 5}
        assert "certificate" in str(failure(EmailAlertHandler(own))).lower() and not box.envelopes
        send(EmailAlertHandler(own | {"ca_file": str(certificate[0])}))
    finally:
        controller.stop()
    assert len(box.envelopes) == 1


def test_a_long_refusal_is_cut() -> None:
    with scripted(b"554 " + b"no " * 300 + b"\r\n") as port:
        assert len(str(failure(EmailAlertHandler(mail_config(port))))) < 340


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
