"""The baton: a bar passes through the stages in one fixed order, although every stage is a loop of its own.

Six free-running loops over one book would race: the same prices could give another ledger on every run. So there is one
baton. The loop that holds it works on the current bar; asking for its next bar hands the baton on. A loop that fails
keeps it, and gets the same bar again when it is restarted. After a restart of the process, a stage that had already
finished a bar lets it pass.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime

from portfolio_research.market.protocol import Tick

STAGES = ("trading", "risk", "model", "rebalancing", "performance", "monitoring")

Source = Callable[[datetime | None], AsyncIterator[Tick]]  # opens the ticks that come after a time


class Schedule:
    """Who may work on which bar."""

    def __init__(
        self,
        source: Source,
        *,
        done: Mapping[str, datetime | None],  # newest tick each stage has finished; read again at every tick
        stages: tuple[str, ...] = STAGES,
    ) -> None:
        self.stages = stages
        self.ended = False  # the source has no more ticks, or `close` was called and the last bar is through
        self._open = source
        self._done = done
        self._ticks: AsyncIterator[Tick] | None = None
        self._tick: Tick | None = None
        self._last = self._done.get(stages[-1])  # newest tick that went through every stage
        self._turn = [asyncio.Event() for _ in stages]
        self._turn[0].set()
        self._closing = asyncio.Event()
        self._since = time.monotonic()  # when the baton came to whoever holds it

    async def ticks(self, stage: str, *, bars_only: bool = False) -> AsyncIterator[Tick]:
        """The ticks of one stage, each only when the stages before it have finished with it."""
        index = self.stages.index(stage)
        while (tick := await self._wait(index)) is not None:
            if self._concerns(stage, tick, bars_only):
                yield tick  # a loop that fails here never comes back for more, and so keeps the baton
            self._pass(index)

    def close(self) -> None:
        """Take no new tick; the one under way still goes through every stage, then the loops end."""
        self._closing.set()

    @property
    def last(self) -> datetime | None:
        """Time of the newest tick that went through every stage."""
        return self._last

    @property
    def at_work(self) -> tuple[str, float]:
        """The stage that works on a tick, and for how many seconds by now; ("", 0) while there is none."""
        holder = next((stage for stage, turn in zip(self.stages, self._turn, strict=True) if turn.is_set()), "")
        return (holder, time.monotonic() - self._since) if self._tick is not None else ("", 0.0)

    async def _wait(self, index: int) -> Tick | None:
        await self._turn[index].wait()
        if self._tick is None and not self.ended:
            await self._pull()
        return self._tick

    def _concerns(self, stage: str, tick: Tick, bars_only: bool) -> bool:
        done = self._done.get(stage)
        return (tick.is_bar or not bars_only) and (done is None or tick.ts > done)

    def _pass(self, index: int) -> None:
        self._turn[index].clear()
        self._since = time.monotonic()
        if index + 1 == len(self.stages) and self._tick is not None:
            self._last, self._tick = self._tick.ts, None
        self._turn[(index + 1) % len(self.stages)].set()

    async def _pull(self) -> None:
        """Wait for the next tick, or for `close`, whichever comes first."""
        waits = asyncio.ensure_future(self._next()), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            tick = waits[0].result() if waits[0].done() and not self._closing.is_set() else None
        except BaseException:
            self._ticks = None  # a generator that raised is exhausted: reading on would look like the end of the data
            raise
        finally:
            for wait in waits:
                wait.cancel()
        if tick is None:
            self._finish()
        self._tick, self._since = tick, time.monotonic()

    async def _next(self) -> Tick | None:
        if self._ticks is None:
            self._ticks = self._open(self._last)
        try:
            return await anext(self._ticks)
        except StopAsyncIteration:
            return None

    def _finish(self) -> None:
        self.ended = True
        for turn in self._turn:
            turn.set()
