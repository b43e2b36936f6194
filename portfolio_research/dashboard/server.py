"""The dashboard's server: one process with the REST interface, the event stream and, through Voila, the notebook.

Our handlers come before Voila's, because Voila ends in one that takes every address. The page does not depend on its
kernel: it is on the screen before the kernel is up and stays alive when the kernel dies.
"""

import asyncio
import errno
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_core.utils import ensure_async
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import RequestHandler
from traitlets.config import Config
from voila.app import Voila  # type: ignore[import-untyped]
from voila.configuration import VoilaConfiguration  # type: ignore[import-untyped]
from voila.static_file_handler import AllowListFileHandler  # type: ignore[import-untyped]
from voila.tornado.handler import TornadoVoilaHandler  # type: ignore[import-untyped]

from portfolio_research.config import ConfigError, Settings, portfolio_home, store_url
from portfolio_research.dashboard import api, pages
from portfolio_research.dashboard.access import (
    address,
    check_address,
    cookie_secret,
    ensure_token,
    is_loopback,
    without_secrets,
)
from portfolio_research.dashboard.backend import Backend
from portfolio_research.dashboard.identity import TokenIdentity
from portfolio_research.dashboard.live import Hub, Snapshots
from portfolio_research.store import Store
from portfolio_research.store.paths import notebook_path

log = logging.getLogger(__name__)

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' blob:",  # blob: the widget's module; nothing inline, no eval
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
EXTENSIONS = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "anywidget"]
KERNEL_IDLE_SECONDS = 120  # a kernel nobody has used for so long is ended, its page lives on


class OwnKernel(KernelSpecManager):
    """Kernels run this very Python, whatever kernels a user has installed under the same name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The one kernel there is."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    def get_all_specs(self) -> dict[str, Any]:
        """The one kernel there is, as Voila asks for it."""
        return {"python3": {"resource_dir": RESOURCES, "spec": self.get_kernel_spec("python3").to_dict()}}


class App(Voila):  # type: ignore[misc]
    """Voila with our handlers first, our page around the notebook, and closed doors."""

    def __init__(self, settings: Settings, services: api.Services, token: str, sockets: list[socket.socket]) -> None:
        self.portfolio_settings = settings
        self.services = services
        self.sockets = sockets
        self.limits = pages.KernelLimits()
        super().__init__(config=_voila_config(token))

    def initialize(self, argv: Any = None) -> None:
        """As Voila's, but reading neither the command line nor stray configuration files, and leaving signals alone."""
        super(Voila, self).initialize([])
        self.notebook_path = str(notebook_path("dashboards", "portfolio"))
        self.voila_configuration = VoilaConfiguration(parent=self)
        self.setup_template_dirs()

    def setup_template_dirs(self) -> None:
        """Our template before Voila's of the same name, which it extends."""
        super().setup_template_dirs()
        self.template_paths: list[str] = [str(pages.HERE / "template"), *self.template_paths]

    def init_settings(self) -> dict[str, Any]:
        """What tornado and Voila's handlers are told."""
        settings: dict[str, Any] = super().init_settings()
        settings.update(
            compress_response=True,
            headers=HEADERS,
            allow_remote_access=not is_loopback(
                self.portfolio_settings.dashboard.host
            ),  # else the Host header must be local
            local_hostnames=["localhost"],
            log_function=_log_request,
        )
        return settings

    def init_handlers(self) -> list[Any]:
        """Ours, then Voila's but for those that serve files and every address."""
        voila = [item for item in super().init_handlers() if item[1] not in (TornadoVoilaHandler, AllowListFileHandler)]
        page = {
            "limits": self.limits,
            "notebook_path": os.path.relpath(self.notebook_path, self.root_dir),
            "template_paths": self.template_paths,
            "config": self.config,
            "voila_configuration": self.voila_configuration,
        }
        reports = {"path": str(portfolio_home(self.portfolio_settings) / "reports")}
        return [
            *api.routes(self.services),
            (r"/dashboard/static/(?:(?P<version>[0-9a-f]{12})/)?plotly\.min\.js", pages.PlotlyHandler),
            (r"/dashboard/static/(?:(?P<version>[0-9a-f]{12})/)?(?P<name>[a-z_]+\.(?:js|css|svg))", pages.AssetHandler),
            (r"/reports/((?:[\w-][\w.-]*/)*[\w-][\w.-]*\.html)", pages.ReportHandler, reports),
            (r"/login", pages.LoginHandler),
            (r"/", pages.DashboardHandler, page),
            *voila,
            (r"/.*", pages.NotFoundHandler),
        ]

    def listen(self) -> None:
        """Start to answer on the sockets that are already open."""
        self.http_server = HTTPServer(self.app)
        self.http_server.add_sockets(self.sockets)

    async def close(self) -> None:
        """Stop answering, end every kernel, remove what was written for them."""
        self.http_server.stop()
        await ensure_async(self.kernel_manager.shutdown_all(now=True))
        await self.http_server.close_all_connections()
        shutil.rmtree(self.connection_dir, ignore_errors=True)


def _voila_config(token: str) -> Config:
    config = Config()
    config.Voila.update(
        token=token,
        cookie_secret=cookie_secret(token),
        identity_provider_class=TokenIdentity,
        open_browser=False,
        log_level=logging.ERROR,
    )
    config.VoilaConfiguration.update(
        show_tracebacks=False,
        file_allowlist=["$^"],
        allow_template_override="NO",
        allow_theme_override="NO",
        extension_allowlist=EXTENSIONS,
        kernel_spec_manager_class=OwnKernel,
        http_keep_alive_timeout=60,
    )
    config.MappingKernelManager.update(cull_idle_timeout=KERNEL_IDLE_SECONDS, cull_interval=30, cull_connected=True)
    return config


def _log_request(handler: RequestHandler) -> None:
    """Failures only, and never the query: it may hold the token."""
    if handler.get_status() >= 500:
        log.error("%s %s answered %s", handler.request.method, handler.request.path, handler.get_status())


def open_port(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on exactly this port, or an error that says what to change."""
    try:
        return bind_sockets(port, host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} is in use; choose another with `dashboard.port` in config.yaml or --port"
            ) from None
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; change `dashboard.host` or `dashboard.port`"
        ) from None


async def serve(settings: Settings, stopping: asyncio.Event, ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until `stopping` is set. `ready` gets the address with the token once requests are answered."""
    check_address(settings)
    sockets = open_port(settings.dashboard.host, settings.dashboard.port)
    try:
        token = ensure_token(portfolio_home(settings))
        with Store.open(store_url(settings)) as store, ThreadPoolExecutor(4, "store") as pool:
            await _serve_store(settings, store, pool, token, sockets, stopping, ready)
    finally:
        for each in sockets:
            each.close()


async def _serve_store(
    settings: Settings,
    store: Store,
    pool: ThreadPoolExecutor,
    token: str,
    sockets: list[socket.socket],
    stopping: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    backend = Backend(store, settings.portfolio.name, portfolio_home(settings) / "reports", pool)
    hub = Hub(store.revision, pool)
    services = api.Services(settings, backend, hub, Snapshots(backend.snapshot, hub, pool))
    app = App(settings, services, token, sockets)
    app.initialize()
    app.start()
    watching = asyncio.create_task(hub.run())
    try:
        ready(address(settings, token))
        await stopping.wait()
    finally:
        watching.cancel()
        await app.close()


def run_dashboard(settings: Settings) -> int:
    """Serve the dashboard of a portfolio until SIGINT or SIGTERM; its exit status.

    Secrets leave this process's environment first: the notebook's kernels inherit it.
    """
    for name in set(os.environ) - set(without_secrets(os.environ)):
        del os.environ[name]
    asyncio.run(_until_signal(settings))
    return 0


async def _until_signal(settings: Settings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await serve(settings, stopping, lambda url: print(f"Dashboard: {url}", flush=True))
