"""The pages a person meets: the dashboard, its login, its files, the reports."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado import web
from tornado.escape import url_escape, xhtml_escape
from tornado.httputil import url_concat
from voila.handler import VoilaHandler  # type: ignore[import-untyped]

from portfolio_research.dashboard.identity import TokenIdentity

HERE = Path(__file__).parent
ABANDONED_SECONDS = 20.0  # without a connection: its page is gone, or has not got that far
FOREVER = "private, max-age=31536000, immutable"
REPORT_POLICY = (  # of a file that may hold anything: pictures and styles inside it, nothing else
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; font-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(slots=True)
class KernelLimits:
    """How many kernels page views may start. Beyond it a page comes without one: REST and the event stream feed it."""

    alive: int = 8
    starting: int = 2
    now_starting: int = field(default=0, init=False)

    def allow(self, alive: int) -> bool:
        """Whether one more may be started."""
        return alive < self.alive and self.now_starting < self.starting


@cache
def asset_version() -> str:
    """Changes with any file of the page, so that browsers may keep them for good."""
    digest = sha256(version("plotly").encode())
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def shell() -> tuple[str, str]:
    """The page around the notebook: what comes before its cells and what comes after."""
    text = (HERE / "template" / "shell.html").read_text(encoding="utf-8").replace("{{version}}", asset_version())
    before, after = text.split("<!-- notebook -->")
    return before, after


@cache
def plotly_gzip() -> bytes:
    """plotly.min.js of the installed plotly package, compressed once."""
    return gzip.compress(plotly_script(), compresslevel=6)


def plotly_script() -> bytes:
    """plotly.min.js of the installed plotly package; the package itself (5 s, 40 MB) is never imported."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()


class DashboardHandler(VoilaHandler):  # type: ignore[misc]
    """The dashboard: the page at once, then the notebook's cells as its kernel runs them."""

    def initialize(self, limits: KernelLimits, **kwargs: Any) -> None:
        """Called by tornado for each request."""
        super().initialize(**kwargs)
        self.limits = limits

    @web.authenticated
    async def get(self) -> None:
        """GET /?portfolio=main&window=90d"""
        if "token" in self.request.query_arguments:
            self.redirect(self._without_token())  # the cookie is set by now: the token leaves the address bar
            return
        self.xsrf_token  # noqa: B018 - reading it sets the cookie that a change has to bring back
        before, after = shell()
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.write(before)
        await self.flush()
        await self._end_abandoned()
        if self.limits.allow(len(self.kernel_manager.list_kernel_ids())):
            await self._write_cells()
        self.finish(after)

    async def _end_abandoned(self) -> None:
        """Whoever reloads or leaves a page leaves a kernel behind: end those that nobody is connected to."""
        manager = self.kernel_manager
        for kernel_id in list(manager.list_kernel_ids()):
            kernel = manager.kernel_model(kernel_id)
            idle = datetime.now(UTC) - datetime.fromisoformat(kernel["last_activity"])
            if kernel["connections"] == 0 and idle.total_seconds() > ABANDONED_SECONDS:
                with suppress(KeyError, RuntimeError, web.HTTPError):  # ended meanwhile, by the culler or another page
                    await ensure_async(manager.shutdown_kernel(kernel_id, now=True))

    async def _write_cells(self) -> None:
        self.limits.now_starting += 1
        try:
            async for part in self._cells():
                self.write(part)
                await self.flush()
        except Exception:  # a kernel that does not start must not take the page with it
            self.log.exception("the notebook's kernel failed; the page goes on without it")
        finally:
            self.limits.now_starting -= 1

    async def _cells(self) -> AsyncIterator[str]:
        async for part in self.get_generator():
            if not part.startswith(
                "<script>window.voila_heartbeat"
            ):  # inline, so the policy forbids it; we need no heartbeat
                yield part

    def _without_token(self) -> str:
        kept = [(name, value.decode()) for name, values in self.request.query_arguments.items() for value in values]
        return url_concat(self.base_url, [pair for pair in kept if pair[0] != "token"])


class LoginHandler(JupyterHandler):
    """A form for the token, for those who come without the link."""

    @allow_unauthenticated
    async def get(self) -> None:
        """GET /login"""
        if self.current_user:
            self.redirect(self._next())
        else:
            self._form()

    @allow_unauthenticated
    async def post(self) -> None:
        """POST /login with the token"""
        identity = self.identity_provider
        assert isinstance(identity, TokenIdentity)
        if not identity.matches(self.get_body_argument("token", "")):
            self.set_status(401)
            self._form("That is not the token.")
            return
        identity.set_login_cookie(self, identity.viewer())
        self.redirect(self._next())

    def _next(self) -> str:
        """Where to go after the login: a page of ours, nothing else."""
        wanted = self.get_argument("next", self.base_url)
        ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and "login" not in wanted
        return wanted if ours else self.base_url

    def _form(self, problem: str = "") -> None:
        text = (HERE / "template" / "login.html").read_text(encoding="utf-8")
        fill = {
            "{{version}}": asset_version(),
            "{{problem}}": xhtml_escape(problem),
            "{{xsrf}}": self.xsrf_form_html(),
            "{{next}}": url_escape(self._next()),
        }
        for mark, value in fill.items():
            text = text.replace(mark, value if isinstance(value, str) else value.decode())
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(text)


class AssetHandler(JupyterHandler):
    """The page's own files; nothing about the portfolio is in them, so the login form may use them too."""

    @allow_unauthenticated
    async def get(self, name: str, version: str | None = None) -> None:
        """GET /dashboard/static/{version}/dashboard.js"""
        path = HERE / "static" / name
        if not path.is_file():
            raise web.HTTPError(404)
        self.send_asset(path.read_bytes(), _TYPES[path.suffix], version)

    def send_asset(self, body: bytes, content_type: str, version: str | None) -> None:
        """Under its present version a file is kept for good, otherwise it is asked for again each time."""
        self.set_header("Content-Type", content_type)
        self.set_header("Cache-Control", FOREVER if version == asset_version() else "no-cache")
        self.finish(body)


class PlotlyHandler(AssetHandler):
    """4.8 MB of charts: compressed once, kept by the browser for good."""

    @allow_unauthenticated
    async def get(self, name: str = "", version: str | None = None) -> None:
        """GET /dashboard/static/{version}/plotly.min.js"""
        self.set_header("Vary", "Accept-Encoding")
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.send_asset(await asyncio.to_thread(plotly_gzip), _TYPES[".js"], version)
        else:
            self.send_asset(plotly_script(), _TYPES[".js"], version)


class ReportHandler(JupyterHandler, web.StaticFileHandler):
    """The portfolio's reports: HTML files in its `reports` folder, shown without letting them run anything."""

    @property
    def content_security_policy(self) -> str:
        """Pictures and styles inside the file, nothing else."""
        return REPORT_POLICY

    async def get(self, path: str, include_body: bool = True) -> None:
        """GET /reports/2020-03-16.html"""
        await web.StaticFileHandler.get(self, path, include_body)

    def set_extra_headers(self, path: str) -> None:
        """Reports are private and may be written anew."""
        self.set_header("Cache-Control", "no-cache")


class NotFoundHandler(JupyterHandler):
    """Any other address."""

    @web.authenticated
    async def get(self) -> None:
        """404, in one line."""
        self.set_status(404)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("No such page. The dashboard is at /")
