"""The REST interface and the event stream: what the page reads, and the only way in which it changes anything.

Everything here needs the token (query, Authorization header, or the session cookie it was exchanged for); a change
from a browser also needs the XSRF cookie. Errors are JSON, `{"error": what is wrong, "remedy": what to do}`.
"""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.iostream import StreamClosedError

from portfolio_research.config import AlertError, PortfolioError, Settings
from portfolio_research.dashboard.backend import Backend, NotStarted, Refused, UnknownPortfolio
from portfolio_research.dashboard.live import Hub, Snapshots, TooManyWatchers

WINDOWS = ("30d", "90d", "180d", "1y", "all")
BEAT_SECONDS = 15.0  # a comment on an idle stream: proxies and dead peers show themselves
RETRY_MILLISECONDS = 2000
MAX_COMMENT = 500
MAX_NAME = 80


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


class AlertActionHandler(ApiHandler):
    """Someone takes an alert into their hands, or closes it."""

    @web.authenticated
    async def post(self, alert_id: str, action: Literal["acknowledge", "resolve"]) -> None:
        """POST /api/v1/alerts/{id}/acknowledge {"who": "Ada", "comment": "looking"}"""
        services = self.services
        try:
            who, comment = _who_and_comment(self.request.body)
            alert = await services.backend.act(action, self.portfolio(), alert_id, who, comment, datetime.now(UTC))
        except PortfolioError as error:
            self.refuse(error)
        else:
            self.reply({"alert": alert})
        await services.hub.look()  # every open page hears of it now, not at the next look


def _who_and_comment(body: bytes) -> tuple[str, str]:
    try:
        given = json.loads(body or b"{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Refused("the body is not a JSON object", 'send {"who": "your name", "comment": "..."}', 400)
    who, comment = given.get("who"), given.get("comment", "")
    if not isinstance(who, str) or not who.strip() or len(who) > MAX_NAME:
        raise Refused("'who' is missing", f"say who acts, in at most {MAX_NAME} characters", 400)
    if not isinstance(comment, str) or len(comment) > MAX_COMMENT:
        raise Refused("'comment' is too long or no text", f"use at most {MAX_COMMENT} characters", 400)
    return who.strip(), comment.strip()


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
        self.reply({"error": "no such address", "remedy": "GET /api/v1/snapshot, /stream, /alerts or /health"}, 404)


def routes(services: Services) -> list[Any]:
    """Addresses and their handlers."""
    given = {"services": services}
    return [
        (r"/api/v1/snapshot", SnapshotHandler, given),
        (r"/api/v1/stream", StreamHandler, given),
        (r"/api/v1/alerts", AlertsHandler, given),
        (r"/api/v1/alerts/([A-Za-z0-9_.:-]{1,200})/(acknowledge|resolve)", AlertActionHandler, given),
        (r"/api/v1/health", HealthHandler, given),
        (r"/api/v1/.*", UnknownHandler, given),
    ]
