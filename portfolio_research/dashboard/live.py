"""What all open pages share: one look at the store's revision, one snapshot per change, however many are watching."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from portfolio_research.config import PortfolioError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SNAPSHOT_SECONDS = 1.0  # an unchanged store still ages: the heartbeat's age is part of the snapshot
MAX_WATCHERS = 64


class TooManyWatchers(Exception):
    """The stream is full; a page then falls back to asking at intervals."""


class Hub:
    """Tells every watcher of a new revision of the store.

    A watcher's queue holds one item, the newest: whoever is slow skips revisions instead of piling them up.
    """

    def __init__(self, read_revision: Callable[[], int], pool: ThreadPoolExecutor) -> None:
        self.revision = 0
        self._read = read_revision
        self._pool = pool
        self._watchers: set[asyncio.Queue[int]] = set()
        self._failing = False

    @property
    def watchers(self) -> int:
        """Open streams."""
        return len(self._watchers)

    async def run(self) -> None:
        """Look at the store until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Look once; a store that cannot be read is said once and tried again."""
        try:
            revision = await asyncio.get_running_loop().run_in_executor(self._pool, self._read)
        except Exception as error:  # whatever the database driver raises, the pages must go on
            if not self._failing:
                log.warning("the store cannot be read: %s", error)
            self._failing = True
            return
        self._failing = False
        if revision != self.revision:
            self.revision = revision
            for queue in self._watchers:
                _replace(queue, revision)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[asyncio.Queue[int]]:
        """A queue that gets the present revision at once and each new one after it."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchers
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        queue.put_nowait(self.revision)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)


def _replace(queue: asyncio.Queue[int], revision: int) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(revision)


@dataclass(slots=True)
class _Entry:
    revision: int
    at: float  # monotonic
    task: "asyncio.Task[bytes]"


class Snapshots:
    """Snapshots as JSON, computed once per revision and window off the event loop."""

    def __init__(self, build: Callable[[str, str], dict[str, Any]], hub: Hub, pool: ThreadPoolExecutor) -> None:
        self._build = build
        self._hub = hub
        self._pool = pool
        self._entries: dict[tuple[str, str], _Entry] = {}

    async def get(self, portfolio: str, window: str) -> bytes:
        """UTF-8 JSON of the snapshot; PortfolioError as the store raises it."""
        key = (portfolio, window)
        entry = self._entries.get(key)
        if entry is None or not self._usable(entry):
            task = asyncio.create_task(self._compute(portfolio, window))
            entry = self._entries[key] = _Entry(self._hub.revision, time.monotonic(), task)
        try:
            return await asyncio.shield(entry.task)
        except PortfolioError:
            self._entries.pop(key, None)
            raise

    def _usable(self, entry: _Entry) -> bool:
        fresh = entry.revision == self._hub.revision and time.monotonic() - entry.at < SNAPSHOT_SECONDS
        return fresh and not (entry.task.done() and entry.task.exception())

    async def _compute(self, portfolio: str, window: str) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._encode, portfolio, window)

    def _encode(self, portfolio: str, window: str) -> bytes:
        return json.dumps(self._build(portfolio, window), allow_nan=False, separators=(",", ":")).encode()
