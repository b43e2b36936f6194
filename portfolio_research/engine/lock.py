"""One engine per portfolio: a lock that the kernel releases when its holder dies, and that says who holds it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from portfolio_research.config import StoreError


class EngineRunning(StoreError):
    """Another process runs this portfolio."""


@contextmanager
def engine_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` while inside; raise EngineRunning, naming the holder, if somebody else does.

    The file stays behind on purpose: deleting it would let two processes lock two different files of the same name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineRunning(_refusal(path)) from None
        _sign(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def lock_holder(path: Path) -> dict[str, object]:
    """What the newest holder wrote: {"pid", "since"}, or {} if nothing can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _sign(descriptor: int, path: Path) -> None:
    line = json.dumps({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")})
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, line.encode(), 0)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}): free some space or choose another folder"
        ) from error


def _refusal(path: Path) -> str:
    holder = lock_holder(path)
    who = f"process {holder['pid']} since {holder['since']}" if {"pid", "since"} <= holder.keys() else "another process"
    return (
        f"portfolio {path.parent.name} is already run by {who} (lock {path}): "
        "stop that engine first, or set another portfolio.name"
    )
