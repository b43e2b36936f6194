"""Slack, webhook and apprise, against a real web server on loopback; and what the configuration makes of them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import importlib.util
import json
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from loopback import NOTICE, Hook, free_port, send, web_server
from pydantic import SecretStr

from portfolio_research.alerts import Notice
from portfolio_research.channels import (
    NotifyAlertHandler,
    SlackAlertHandler,
    WebhookAlertHandler,
    configured_channels,
    configured_handlers,
    try_channels,
)
from portfolio_research.config import ConfigError, HandlerSettings
from portfolio_research.handlers import LogAlertHandler
from portfolio_research.wire import DeliveryError, aside

apprise = pytest.mark.skipif(
    importlib.util.find_spec("apprise") is None, reason="apprise is not installed (extra notify)"
)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLACK_WEBHOOK_URL", "WEBHOOK_URL", "WEBHOOK_SECRET", "WEBHOOK_TOKEN", "NOTIFY_URLS"):
        monkeypatch.delenv(f"PORTFOLIO_RESEARCH_{name}", raising=False)


def failure(handler: Any, notice: Notice = NOTICE) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(handler, notice)
    return caught.value


# ---------------------------------------------------------------- Slack
def test_a_message_arrives_as_harmless_blocks(hook: Hook) -> None:
    send(SlackAlertHandler(hook.url))
    (body,) = hook.bodies
    texts = [block["text"]["text"] for block in body["blocks"]]
    everything = json.dumps(body, ensure_ascii=False)
    assert "&lt;!channel&gt; &amp; &lt;b&gt;" in texts[1] and "\n" not in body["text"]
    assert not any(bad in everything for bad in ("<!channel>", "@everyone", "\\u001b", "\u202e", "\\r"))
    assert texts[2].endswith("<http://127.0.0.1:5000/?a=1&amp;b=2|dashboard>")


def test_too_long_a_message_is_cut_not_refused(hook: Hook) -> None:
    many = tuple(f"{n} " + "y" * 500 for n in range(30))
    send(SlackAlertHandler(SecretStr(hook.url)), replace(NOTICE, lines=many, dashboard_url=""))
    send(SlackAlertHandler(hook.url), replace(NOTICE, lines=("z" * 9000,)))
    assert all(len(b["text"]["text"]) <= 3000 for body in hook.bodies for b in body["blocks"])
    shown = hook.bodies[0]["blocks"][1]["text"]["text"].splitlines()
    assert shown[-1] == f"• and {30 - (len(shown) - 1)} more"


@pytest.mark.parametrize(
    ("status", "permanent"),
    [(429, False), (408, False), (425, False), (500, False), (503, False), (302, True), (404, True), (410, True)],
)
def test_what_the_status_means(hook: Hook, status: int, permanent: bool) -> None:
    hook.answers = [(status, {"Location": hook.url}, b"no\r\nservice" * 100)]
    error = failure(SlackAlertHandler(hook.url))
    assert error.permanent is permanent and str(status) in str(error) and len(str(error)) < 300
    assert len(hook.asked) == 1  # a redirect is not followed


def test_retry_after_in_seconds_as_a_date_and_as_nonsense(hook: Hook) -> None:
    handler = SlackAlertHandler(hook.url)
    in_a_while = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    hook.answers = [(429, {"Retry-After": "7"}, b""), (503, {"Retry-After": in_a_while}, b"")]
    hook.answers += [(429, header, b"") for header in ({"Retry-After": "soon"}, {}, {"Retry-After": "1e9"})]
    assert failure(handler).retry_after == 7
    assert 60 < (failure(handler).retry_after or 0) <= 90
    assert [failure(handler).retry_after for _ in range(3)] == [None, None, None]


def test_a_server_that_drips_or_hangs_is_cut_off(hook: Hook) -> None:
    hook.drip = 0.05
    assert "no end after 0.3 s" in str(failure(SlackAlertHandler(hook.url, timeout=0.3)))  # no single byte was late
    hook.hanging.set()
    assert "no end after 0.3 s" in str(failure(SlackAlertHandler(hook.url, timeout=0.3)))


def test_an_answer_without_end_is_not_read(hook: Hook) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    hook.answers = [(500, {"Content-Encoding": "gzip"}, bomb)]
    assert len(str(failure(SlackAlertHandler(hook.url)))) < 300


def test_the_secret_stays_secret_even_when_the_server_says_it(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    send(SlackAlertHandler(hook.url))
    hook.answers = [(404, {}, b"no such hook: /services/T0/B0/s3cret")]
    gone = SlackAlertHandler(f"http://127.0.0.1:{free_port()}/services/T0/B0/s3cret")
    errors = failure(SlackAlertHandler(hook.url)), failure(gone)
    assert [error.permanent for error in errors] == [True, False]
    assert "s3cret" not in caplog.text + str(errors) + repr(vars(gone)) and "***" in str(errors[0])


@pytest.mark.parametrize(
    "url", [None, "", "hooks.slack.com/x", "ftp://x/y", "https://", "https://x/\ny", "http://x:99999/", "http://[x/"]
)
def test_no_webhook_is_refused_at_once(url: str | None) -> None:
    with pytest.raises(ConfigError, match="PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL"):
        SlackAlertHandler(url)


# ---------------------------------------------------------------- webhook
def test_a_program_gets_the_notice_as_plain_values(hook: Hook) -> None:
    send(WebhookAlertHandler(hook.url))
    (method, headers, body, _) = hook.asked[0]
    told = json.loads(body)
    assert method == "POST" and headers["Content-Type"] == "application/json" and headers["Webhook-Id"] == "k1"
    assert "Webhook-Signature" not in headers and "Authorization" not in headers
    assert told["severity"] == "critical" and told["at"] == "2020-03-12T00:00:00Z" and told["key"] == "k1"
    assert told["lines"][1] == "LOW <!channel> & <b>bold</b> next @everyone [2J [31mred" and "\n" not in told["title"]


def test_what_is_signed_can_be_checked_and_the_token_is_sent(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    key = b"0123456789abcdef"
    monkeypatch.setenv("PORTFOLIO_RESEARCH_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("PORTFOLIO_RESEARCH_WEBHOOK_SECRET", "whsec_" + base64.b64encode(key).decode())
    monkeypatch.setenv("PORTFOLIO_RESEARCH_WEBHOOK_TOKEN", "t0ken")
    handler = WebhookAlertHandler()
    send(handler, replace(NOTICE, key="digest:2020-03-12 \u00e9\r\n"))
    _, headers, body, _ = hook.asked[0]
    signed = f"{headers['Webhook-Id']}.{headers['Webhook-Timestamp']}.".encode() + body
    proof = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["Webhook-Signature"] == f"v1,{proof}" and headers["Authorization"] == "Bearer t0ken"
    assert headers["Webhook-Id"].startswith("digest:2020-03-12%20") and "t0ken" not in repr(vars(handler))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"url": None}, "WEBHOOK_URL"),
        ({"secret": "whsec_not base64!"}, "WEBHOOK_SECRET"),
        ({"token": "two\nlines"}, "WEBHOOK_TOKEN"),
        ({"url": "http://example.com/x", "token": "t"}, "unencrypted"),
    ],
)
def test_a_webhook_that_cannot_work_is_refused_at_once(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        WebhookAlertHandler(**{"url": "https://example.com/x"} | given)


# ---------------------------------------------------------------- apprise
@apprise
def test_a_service_gets_harmless_text(hook: Hook) -> None:
    send(NotifyAlertHandler(f"json://127.0.0.1:{hook.server_address[1]}/s3cret"))
    (body,) = hook.bodies
    text = body["title"] + body["message"]
    assert "<!channel> & <b>bold</b> next" in text and NOTICE.dashboard_url in text
    assert not any(bad in text for bad in ("@everyone", "\r", "\x1b", "\u202e"))


@apprise
def test_a_service_that_refuses_or_hangs_is_an_error_without_its_address(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    handler = NotifyAlertHandler(f"json://127.0.0.1:{hook.server_address[1]}/s3cret", timeout=0.3)
    hook.answers = [(500, {}, b"/s3cret"), (200, {}, b"")]
    refused = failure(handler)
    hook.hanging.set()
    late = failure(handler)
    again = failure(handler)  # the thread of the attempt before is still in there
    assert not refused.permanent and "no end after 0.3 s" in str(late) and "has not ended" in str(again)
    assert "s3cret" not in caplog.text + str((refused, late, again)) + repr(handler) and len(hook.asked) == 2
    hook.closing.set()


@apprise
@pytest.mark.parametrize("urls", ["", "nonsense", "json://127.0.0.1/a nonsense"])
def test_addresses_that_apprise_cannot_use_are_counted_not_quoted(urls: str) -> None:
    with pytest.raises(ConfigError, match="PORTFOLIO_RESEARCH_NOTIFY_URLS: [0-9] given") as caught:
        NotifyAlertHandler(urls)
    assert "127.0.0.1" not in str(caught.value)


def test_without_the_extra_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"portfolio_research\[notify\]"):
        NotifyAlertHandler("json://127.0.0.1/")


# ---------------------------------------------------------------- configuration
MAIL = {"host": "h", "sender": "a@b.c", "recipients": ["d@e.f"]}


def test_the_configuration_names_the_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("PORTFOLIO_RESEARCH_WEBHOOK_URL", hook.url)
    night = {"start": 1320, "end": "07:00", "zone": "Europe/Berlin"}
    settings = HandlerSettings.model_validate(
        {"log": "a.log", "email": MAIL | {"min_severity": "high"}, "slack": {"quiet_hours": night}, "webhook": {}}
    )
    log, *others = configured_handlers(settings, tmp_path)
    assert isinstance(log, LogAlertHandler) and log.path == tmp_path / "a.log"
    assert [handler.name for handler in others] == ["email", "slack", "webhook"]
    channels = configured_channels(settings)
    assert list(channels) == ["email", "slack", "webhook"] and channels["email"].min_severity == "high"
    assert channels["slack"].quiet_hours is not None and channels["slack"].quiet_hours.start.hour == 22
    send(others[1])
    assert len(hook.bodies) == 1


def test_what_is_off_is_not_there() -> None:
    off = HandlerSettings.model_validate({"log": "/x/b.log", "slack": {"enabled": False}, "notify": {"enabled": False}})
    (only,) = configured_handlers(off, Path("/y"))
    assert isinstance(only, LogAlertHandler) and only.path == Path("/x/b.log") and configured_channels(off) == {}


@pytest.mark.parametrize("quiet", [{"zone": "Middle/Earth"}, {"zone": "/etc/passwd"}, {"start": "07:00"}, {"unless": "x"}])
def test_quiet_hours_that_make_no_sense_are_refused(quiet: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"quiet_hours"):
        HandlerSettings.model_validate({"slack": {"quiet_hours": {"end": "07:00", **quiet}}})


def test_a_test_tells_what_works_and_what_does_not(tmp_path: Path, hook: Hook) -> None:
    class Broken:
        name = "broken"

        async def send(self, notice: Notice) -> None:
            raise KeyError


    handlers: list[Any] = [LogAlertHandler(tmp_path / "a.log"), SlackAlertHandler(hook.url), Broken()]
    assert asyncio.run(try_channels(handlers, "main", "http://x/")) == {"log": "", "slack": "", "broken": "KeyError"}
    assert "Nothing is wrong" in (tmp_path / "a.log").read_text() and "[TEST] main" in hook.bodies[0]["text"]


# ---------------------------------------------------------------- beside the loop
def test_a_thread_that_hangs_does_not_keep_the_process_alive() -> None:

    never = threading.Event()

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await aside(never.wait)

    asyncio.run(scenario())  # a shared pool would be waited for here
    never.set()


def test_what_a_thread_raises_is_raised_where_it_is_awaited() -> None:

    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(lambda: 1 / 0))
    with pytest.raises(RuntimeError, match="SystemExit"):
        asyncio.run(aside(sys.exit, 3))
