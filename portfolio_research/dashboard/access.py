"""Who may reach the dashboard: the token, the address it listens on, and what its kernels may know."""

import os
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex

from portfolio_research.config import ConfigError, Settings
from portfolio_research.settings import SECRETS

TOKEN_BYTES = 24


def ensure_token(home: Path) -> str:
    """The portfolio's access token: made once, for its owner's eyes only, kept over restarts so that links last."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "token"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _existing_token(path)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token_hex(TOKEN_BYTES))
    return _existing_token(path)


def _existing_token(path: Path) -> str:
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < TOKEN_BYTES:
        raise ConfigError(f"{path}: no usable access token in it; delete the file and start again to get a new one")
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return token


def cookie_secret(token: str) -> bytes:
    """Signs the session cookies: from the token, so that sessions outlive a restart and die with the token."""
    return sha256(b"portfolio_research cookie " + token.encode()).digest()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(settings: Settings) -> None:
    """Refuse to be seen from other machines unless the configuration says so in as many words."""
    host = settings.dashboard.host
    if not is_loopback(host) and not settings.dashboard.public:
        raise ConfigError(
            f"dashboard.host {host} can be reached from other machines; set `dashboard.public: true` if that is meant, "
            "or use 127.0.0.1"
        )


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for the dashboard: its kernels inherit it, so nothing secret may be in it."""
    return {name: value for name, value in environ.items() if name.upper() not in SECRETS}


def address(settings: Settings, token: str = "") -> str:
    """Where the dashboard is, for a browser on this machine."""
    host = settings.dashboard.host
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.dashboard.port}/" + (f"?token={token}" if token else "")
