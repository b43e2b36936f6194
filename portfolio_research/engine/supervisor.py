"""The supervisor: restarts a loop that failed, halts all when it keeps failing, and never lets one die in silence.

`asyncio.gather` leaves the siblings of a dead loop running unwatched; `TaskGroup` ends all of them at the first error.
A portfolio needs neither: a short outage of a feed should be waited out, a loop that cannot work must stop the trading.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

Loop = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often, and how soon, a failed loop is started again. Times in seconds."""

    max_restarts: int = 5  # in a row; one more failure halts
    first_delay: float = 0.5
    factor: float = 2.0
    max_delay: float = 30.0
    forgive_after: float = 60.0  # a loop that ran this long starts with a clean record

    def delay(self, restart: int) -> float:
        """Pause before the given restart, counted from 1."""
        return min(self.first_delay * self.factor ** (restart - 1), self.max_delay)


class Halted(Exception):
    """A loop cannot go on; `loop` is its name and `__cause__` why."""

    def __init__(self, loop: str, reason: str) -> None:
        super().__init__(f"{loop} loop: {reason}")
        self.loop = loop


class Supervisor:
    """Runs named loops until all have ended, one is given up, or `stop` is called."""

    def __init__(
        self,
        *,
        policy: RestartPolicy = RestartPolicy(),
        fatal: tuple[type[BaseException], ...] = (),  # errors after which a restart could only do harm
        may_end: Callable[[], bool] = lambda: False,  # whether a loop may return now
        request_stop: Callable[[], None] = lambda: None,  # asks the loops to end by themselves
        on_restart: Callable[[str, str], None] = lambda loop, reason: None,
    ) -> None:
        self.policy, self.fatal = policy, fatal
        self._may_end, self._request_stop, self._on_restart = may_end, request_stop, on_restart
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    async def run(self, loops: dict[str, Loop]) -> None:
        """Run the loops; return when every one has ended, raise Halted when one is given up."""
        self._tasks = {name: asyncio.create_task(self._keep(name, loop), name=name) for name, loop in loops.items()}
        try:
            ended, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await self._cancel()
        for task in ended:
            if not task.cancelled():
                task.result()

    async def stop(self, timeout: float = 15.0) -> None:
        """Let the loops end by themselves; cancel those that have not after `timeout` seconds."""
        self._stopping = True
        self._request_stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=timeout)
            for task in late:
                log.warning("the %s loop did not end within %g s and is cancelled", task.get_name(), timeout)
        await self._cancel()

    async def _cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, name: str, loop: Loop) -> None:
        restarts = 0
        while True:
            started = time.monotonic()
            reason, error = await self._once(loop)
            if not reason:
                return
            restarts = 1 if time.monotonic() - started >= self.policy.forgive_after else restarts + 1
            if self._stopping or restarts > self.policy.max_restarts or isinstance(error, self.fatal):
                raise Halted(name, reason) from error
            log.warning(
                "the %s loop failed (restart %d of %d): %s",
                name,
                restarts,
                self.policy.max_restarts,
                reason,
                exc_info=error,
            )
            self._on_restart(name, reason)
            await asyncio.sleep(self.policy.delay(restarts))

    async def _once(self, loop: Loop) -> tuple[str, Exception | None]:
        """Run a loop once; why it ended wrongly, or "" if it may have ended."""
        try:
            await loop()
        except Exception as error:  # every kind of failure gets the same treatment; none is dropped
            return f"{type(error).__name__}: {error}", error
        return ("" if self._stopping or self._may_end() else "ended although it should go on"), None
