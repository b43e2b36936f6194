"""The store as the dashboard sees it: read everything, write nothing but what people do with alerts."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from portfolio_research.config import AlertError, PortfolioError
from portfolio_research.store import Store
from portfolio_research.store.outbox import StoreSink
from portfolio_research.store.snapshot import build_snapshot, portfolios

T = TypeVar("T")


class Refused(PortfolioError):
    """A request that cannot be served, with the HTTP status and the remedy."""

    def __init__(self, message: str, remedy: str, status: int, **details: Any) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.status = status
        self.details = details  # further keys of the JSON answer


class UnknownPortfolio(Refused):
    """A link names a portfolio that the store does not know."""


class NotStarted(Refused):
    """The configured portfolio has no engine yet that would have written anything."""


class Backend:
    """The store behind one dashboard; its calls leave the event loop free."""

    def __init__(self, store: Store, configured: str, reports: Path, pool: ThreadPoolExecutor) -> None:
        self.store = store
        self._configured = configured
        self._reports = reports
        self._pool = pool

    async def portfolios(self) -> list[str]:
        """Names of the portfolios in the store."""
        return await self._run(lambda: list(portfolios(self.store)))

    def snapshot(self, portfolio: str, window: str) -> dict[str, Any]:
        """The snapshot of a portfolio that exists (blocking)."""
        self._check(portfolio)
        return build_snapshot(self.store, portfolio, window=window, reports=self._reports)

    async def act(
        self,
        action: Literal["acknowledge", "resolve"],
        portfolio: str,
        alert_id: str,
        who: str,
        comment: str,
        now: datetime,
    ) -> dict[str, Any]:
        """Acknowledge or resolve one alert; the alert as it is after that."""
        return await self._run(lambda: self._act(action, portfolio, alert_id, who, comment, now))

    def _act(self, action: str, portfolio: str, alert_id: str, who: str, comment: str, now: datetime) -> dict[str, Any]:
        self._check(portfolio)
        sink = StoreSink(self.store, portfolio)
        state = sink.load().get(alert_id)
        if state is None:
            raise Refused(f"no alert {alert_id!r} in portfolio {portfolio}", "reload the alerts", 404)
        try:
            changed = getattr(sink, action)(alert_id, who, comment, now)
        except AlertError as error:
            raise self._conflict(sink, alert_id, error) from error
        return dict(changed.to_dict())

    def _conflict(self, sink: StoreSink, alert_id: str, error: AlertError) -> Refused:
        """409, with who was first and when."""
        state = sink.load().get(alert_id)
        known = state.to_dict() if state else {}
        details = {key: known.get(key) for key in ("acknowledged_by", "acknowledged_at", "comment", "state")}
        return Refused(str(error), "nothing to do: reload the alerts to see its state", 409, **details)

    def _check(self, portfolio: str) -> None:
        known = list(portfolios(self.store))
        if portfolio in known:
            return
        if portfolio == self._configured:
            raise NotStarted(
                f"portfolio {portfolio} has no data yet",
                "start its engine: portfolio-research run",
                503,
                state="never started",
            )
        raise UnknownPortfolio(
            f"unknown portfolio {portfolio[:64]!r}", f"known: {', '.join(known) or 'none yet'}", 404, portfolios=known
        )

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
