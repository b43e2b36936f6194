"""The REST interface and the event stream: what the page reads, and the only way in which it changes anything.

Everything here needs the token (query, Authorization header, or the session cookie it was exchanged for); a change
from a browser also needs the XSRF cookie. Errors are JSON, `{"error": what is wrong, "remedy": what to do}`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.iostream import StreamClosedError

from portfolio_research.alerts import Severity
from portfolio_research.config import AlertError, PortfolioError, Settings
from portfolio_research.dashboard.backend import Backend, NotStarted, Refused, UnknownPortfolio
from portfolio_research.dashboard.forms import MAX_COMMENT, MAX_NAME, Form
from portfolio_research.dashboard.live import Hub, Snapshots, TooManyWatchers

WINDOWS = ("30d", "90d", "180d", "1y", "all")
BEAT_SECONDS = 15.0  # a comment on an idle stream: proxies and dead peers show themselves
RETRY_MILLISECONDS = 2000
_ID = "([A-Za-z0-9_.:-]{1,200})"


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers work with; one per server."""

    settings: Settings
    backend: Backend
    hub: Hub
    snapshots: Snapshots


class ApiHandler(APIHandler):
    """JSON in, JSON out, errors with a remedy."""

    def initialize(self, services: Services) -> None:
        """Called by tornado for each request."""
        self.services = services

    @property
    def content_security_policy(self) -> str:
        """Nothing in an answer of data may run or load anything."""
        return "default-src 'none'; frame-ancestors 'none'"

    def get_login_url(self) -> str:
        """Data is refused, not redirected to a form."""
        raise web.HTTPError(401, "no valid token")

    def reply(self, payload: dict[str, Any] | bytes, status: int = 200) -> None:
        """Send JSON that nobody may keep."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(payload if isinstance(payload, bytes) else json.dumps(payload, allow_nan=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Any failure as JSON; what went wrong inside stays in the log."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        said = error.log_message if isinstance(error, web.HTTPError) and error.log_message else None
        remedy = _REMEDIES.get(status_code, "look at the dashboard's log")
        self.reply({"error": said or self._reason.lower(), "remedy": remedy}, status_code)

    def refuse(self, error: PortfolioError) -> None:
        """The answer to something the lower layers refused on purpose."""
        if isinstance(error, Refused):
            self.reply({"error": str(error), "remedy": error.remedy, **error.details}, error.status)
            return
        status = 409 if isinstance(error, AlertError) else 503
        remedy = (
            "reload the alerts" if status == 409 else "check the store and its disk; the page tries again by itself"
        )
        self.reply({"error": str(error), "remedy": remedy}, status)

    def portfolio(self) -> str:
        """The portfolio asked for, by default the configured one."""
        return str(self.get_query_argument("portfolio", self.services.settings.portfolio.name))

    def window(self) -> str:
        """The time window asked for."""
        window = str(self.get_query_argument("window", "90d"))
        if window not in WINDOWS:
            raise Refused(f"unknown window {window[:20]!r}", f"choose one of {', '.join(WINDOWS)}", 400)
        return window


_REMEDIES = {
    401: "open the link with ?token=... that the dashboard printed, or send 'Authorization: token ...'",
    403: "open the dashboard at its own address and log in; a change needs the X-XSRFToken header",
    404: "see GET /api/v1/health for the portfolios there are",
    405: "use the method that the address is made for",
}


class SnapshotHandler(ApiHandler):
    """Everything a page shows, in one consistent piece."""

    @web.authenticated
    async def get(self) -> None:
        """GET /api/v1/snapshot?portfolio=main&window=90d"""
        try:
            self.reply(await self.services.snapshots.get(self.portfolio(), self.window()))
        except PortfolioError as error:
            self.refuse(error)


class AlertsHandler(ApiHandler):
    """The alerts alone."""

    @web.authenticated
    async def get(self) -> None:
        """GET /api/v1/alerts"""
        try:
            snapshot = json.loads(await self.services.snapshots.get(self.portfolio(), "30d"))
        except PortfolioError as error:
            self.refuse(error)
        else:
            self.reply({"portfolio": snapshot["portfolio"], **snapshot["alerts"]})


class AlertHandler(ApiHandler):
    """One alert, with its whole history."""

    @web.authenticated
    async def get(self, alert_id: str) -> None:
        """GET /api/v1/alerts/{id}"""
        try:
            alert = await self.services.backend.alert(self.portfolio(), alert_id, datetime.now(UTC))
        except PortfolioError as error:
            self.refuse(error)
        else:
            self.reply({"alert": alert})


class ChangeHandler(ApiHandler):
    """Someone changes something; every open page hears of it now, not at the next look."""

    async def change(self, name: str, work: Callable[[datetime], Awaitable[dict[str, Any]]]) -> None:
        """Do the work and answer with what it gives, under its name."""
        try:
            made = await work(datetime.now(UTC))
        except PortfolioError as error:
            self.refuse(error)
        else:
            self.reply({name: made})
        await self.services.hub.look()


class AcknowledgeHandler(ChangeHandler):
    """Someone takes an alert into their hands."""

    @web.authenticated
    async def post(self, alert_id: str) -> None:
        """POST /api/v1/alerts/{id}/acknowledge {"who": "Ada", "comment": "looking", "hours": 4}"""

        async def work(now: datetime) -> dict[str, Any]:
            form = Form(self.request.body, ("who", "comment", "hours", "until"))
            person = form.who(), form.text("comment", MAX_COMMENT)
            return await self.services.backend.acknowledge(self.portfolio(), alert_id, *person, now, form.end(now))

        await self.change("alert", work)


class ResolveHandler(ChangeHandler):
    """Someone closes an alert."""

    @web.authenticated
    async def post(self, alert_id: str) -> None:
        """POST /api/v1/alerts/{id}/resolve {"who": "Ada", "comment": "hedged"}"""

        async def work(now: datetime) -> dict[str, Any]:
            form = Form(self.request.body, ("who", "comment"))
            person = form.who(), form.text("comment", MAX_COMMENT)
            return await self.services.backend.resolve(self.portfolio(), alert_id, *person, now)

        await self.change("alert", work)


class SilencesHandler(ChangeHandler):
    """What people do not want to hear, and until when."""

    @web.authenticated
    async def get(self) -> None:
        """GET /api/v1/silences"""
        try:
            silences = await self.services.backend.silences(self.portfolio(), datetime.now(UTC))
        except PortfolioError as error:
            self.refuse(error)
        else:
            self.reply({"portfolio": self.portfolio(), "silences": silences})

    @web.authenticated
    async def post(self) -> None:
        """POST /api/v1/silences {"who": "Ada", "comment": "expiry day", "hours": 4, "rule": "volatility"}"""

        async def work(now: datetime) -> dict[str, Any]:
            fields = ("who", "comment", "hours", "until", "rule", "subject", "max_severity", "everywhere")
            form = Form(self.request.body, fields)
            person = form.who(), form.text("comment", MAX_COMMENT, "say why, in {} characters at most", needed=True)
            ends = form.end(now, needed=True)
            about = {"rule": form.text("rule", MAX_NAME), "subject": form.text("subject", MAX_NAME)}
            level, everywhere = form.severity("max_severity", Severity.HIGH), form.flag("everywhere")
            return await self.services.backend.silence(
                self.portfolio(), *person, now, ends or now, **about, max_severity=level, everywhere=everywhere
            )

        await self.change("silence", work)


class EndSilenceHandler(ChangeHandler):
    """Someone wants to hear again."""

    @web.authenticated
    async def post(self, silence_id: str) -> None:
        """POST /api/v1/silences/{id}/end {"who": "Ada", "comment": "back at the desk"}"""

        async def work(now: datetime) -> dict[str, Any]:
            form = Form(self.request.body, ("who", "comment"))
            person = form.who(), form.text("comment", MAX_COMMENT)
            return await self.services.backend.end_silence(self.portfolio(), silence_id, *person, now)

        await self.change("silence", work)


class LettersHandler(ApiHandler):
    """Messages that never arrived."""

    @web.authenticated
    async def get(self) -> None:
        """GET /api/v1/letters"""
        try:
            letters = await self.services.backend.letters(self.portfolio())
        except PortfolioError as error:
            self.refuse(error)
        else:
            self.reply({"portfolio": self.portfolio(), "letters": letters})


class LetterHandler(ChangeHandler):
    """Someone wants a message sent once more, or forgotten."""

    @web.authenticated
    async def post(self, id: str, action: Literal["retry", "drop"]) -> None:
        """POST /api/v1/letters/{id}/retry {"who": "Ada", "comment": "the address is right now"}"""

        async def work(now: datetime) -> dict[str, Any]:
            form = Form(self.request.body, ("who", "comment"))
            person = form.who(), form.text("comment", MAX_COMMENT)
            return await self.services.backend.settle(action, self.portfolio(), int(id), *person, now)

        await self.change("letter", work)


class ChannelsHandler(ChangeHandler):
    """Someone wants to know whether alerts would arrive."""

    @web.authenticated
    async def post(self) -> None:
        """POST /api/v1/channels/test {"who": "Ada", "channel": "slack"}"""

        async def work(now: datetime) -> dict[str, Any]:
            form = Form(self.request.body, ("who", "channel"))
            who, channel, services = form.who(), form.text("channel", MAX_NAME), self.services
            return await services.backend.try_channels(services.settings, self.portfolio(), channel, who, now)

        await self.change("channels", work)


class HealthHandler(ApiHandler):
    """Whether the dashboard and the engine behind it are alive."""

    @web.authenticated
    async def get(self) -> None:
        """GET /api/v1/health"""
        services = self.services
        report: dict[str, Any] = {
            "dashboard": "running",
            "revision": services.hub.revision,
            "watchers": services.hub.watchers,
        }
        try:
            report["portfolios"] = await services.backend.portfolios()
            report["engine"] = json.loads(await services.snapshots.get(self.portfolio(), "30d"))["engine"]
        except (NotStarted, UnknownPortfolio) as error:
            report["engine"] = {"state": "never started", "detail": str(error)}
        except PortfolioError as error:
            self.refuse(error)
            return
        self.reply(report)


class StreamHandler(ApiHandler):
    """Server-sent events: one `revision` each time the store has changed. The page then asks for what it shows."""

    @web.authenticated
    async def get(self) -> None:
        """GET /api/v1/stream"""
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        try:
            async with self.services.hub.watch() as queue:
                await self._send(f"retry: {RETRY_MILLISECONDS}\n\n")
                while True:
                    await self._send(await _next_event(queue))
        except TooManyWatchers:
            self.set_header("Content-Type", "application/json")
            self.reply(
                {"error": "too many open streams", "remedy": "close some pages; this one asks at intervals"}, 503
            )
        except (StreamClosedError, TimeoutError):
            self.request.connection.close()  # type: ignore[union-attr]  # a peer that does not read

    async def _send(self, text: str) -> None:
        self.write(text)
        await asyncio.wait_for(self.flush(), timeout=BEAT_SECONDS)


async def _next_event(queue: asyncio.Queue[int]) -> str:
    try:
        revision = await asyncio.wait_for(queue.get(), timeout=BEAT_SECONDS)
    except TimeoutError:
        return ": beat\n\n"
    return f'event: revision\ndata: {{"revision":{revision}}}\n\n'


class UnknownHandler(ApiHandler):
    """Addresses under /api/ that do not exist."""

    @web.authenticated
    async def get(self) -> None:
        """404, as JSON."""
        remedy = "GET /api/v1/snapshot, /stream, /alerts, /alerts/ID, /silences, /letters or /health"
        self.reply({"error": "no such address", "remedy": remedy}, 404)


def routes(services: Services) -> list[Any]:
    """Addresses and their handlers."""
    given = {"services": services}
    return [
        (r"/api/v1/snapshot", SnapshotHandler, given),
        (r"/api/v1/stream", StreamHandler, given),
        (r"/api/v1/alerts", AlertsHandler, given),
        (rf"/api/v1/alerts/{_ID}", AlertHandler, given),
        (rf"/api/v1/alerts/{_ID}/acknowledge", AcknowledgeHandler, given),
        (rf"/api/v1/alerts/{_ID}/resolve", ResolveHandler, given),
        (r"/api/v1/silences", SilencesHandler, given),
        (rf"/api/v1/silences/{_ID}/end", EndSilenceHandler, given),
        (r"/api/v1/letters", LettersHandler, given),
        (r"/api/v1/letters/([0-9]{1,18})/(retry|drop)", LetterHandler, given),
        (r"/api/v1/channels/test", ChannelsHandler, given),
        (r"/api/v1/health", HealthHandler, given),
        (r"/api/v1/.*", UnknownHandler, given),
    ]
