"""The store as the dashboard sees it: read everything, write nothing but what people do with alerts."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from portfolio_research.alerts import AlertState
from portfolio_research.channels import configured_handlers, try_channels
from portfolio_research.config import AlertError, ConfigError, PortfolioError, Settings, portfolio_home
from portfolio_research.store import Store
from portfolio_research.store.alert_view import check_rule, letter_view, show_alert, silence_view
from portfolio_research.store.alerts import AlertDesk, load_silences
from portfolio_research.store.audit import drop_letter, note_test, retry_letter
from portfolio_research.store.outbox import StoreSink
from portfolio_research.store.snapshot import build_snapshot, portfolios

T = TypeVar("T")
TEST_PAUSE = timedelta(seconds=10)  # between two test messages: they go to real people


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
        self._tested: datetime | None = None

    async def portfolios(self) -> list[str]:
        """Names of the portfolios in the store."""
        return await self._run(lambda: list(portfolios(self.store)))

    def snapshot(self, portfolio: str, window: str) -> dict[str, Any]:
        """The snapshot of a portfolio that exists (blocking)."""
        self._check(portfolio)
        return build_snapshot(self.store, portfolio, window=window, reports=self._reports)

    async def alert(self, portfolio: str, alert_id: str, now: datetime) -> dict[str, Any]:
        """Everything about one alert, with its whole history."""
        return await self._run(lambda: self._alert(portfolio, alert_id, now))

    async def acknowledge(
        self, portfolio: str, alert_id: str, who: str, comment: str, now: datetime, until: datetime | None
    ) -> dict[str, Any]:
        """Someone takes an alert into their hands; the alert as it is after that."""

        def act(desk: AlertDesk) -> AlertState:
            return desk.acknowledge(alert_id, who, comment, now, until)

        return await self._run(lambda: self._act(portfolio, alert_id, now, act))

    async def resolve(self, portfolio: str, alert_id: str, who: str, comment: str, now: datetime) -> dict[str, Any]:
        """Someone closes an alert; the alert as it is after that."""

        def act(desk: AlertDesk) -> AlertState:
            return desk.resolve(alert_id, who, comment, now)

        return await self._run(lambda: self._act(portfolio, alert_id, now, act))

    async def silences(self, portfolio: str, now: datetime) -> list[dict[str, Any]]:
        """Silences about the portfolio that have not ended, the one that ends first leading."""
        return await self._run(lambda: [silence_view(one) for one in self._desk(portfolio).silences(now)])

    async def silence(
        self, portfolio: str, who: str, comment: str, now: datetime, ends: datetime, **about: Any
    ) -> dict[str, Any]:
        """Hold messages back; `about` is rule, subject, max_severity and everywhere."""
        return await self._run(lambda: self._silence(portfolio, who, comment, now, ends, **about))

    async def end_silence(
        self, portfolio: str, silence_id: str, who: str, comment: str, now: datetime
    ) -> dict[str, Any]:
        """Let messages through again; the silence as it is after that."""
        return await self._run(lambda: self._end_silence(portfolio, silence_id, who, comment, now))

    async def letters(self, portfolio: str) -> list[dict[str, Any]]:
        """Messages that never arrived, oldest first."""

        def read() -> list[dict[str, Any]]:
            self._check(portfolio)
            return [letter_view(letter) for letter in StoreSink(self.store, portfolio).dead()]

        return await self._run(read)

    async def settle(
        self, action: Literal["retry", "drop"], portfolio: str, id: int, who: str, comment: str, now: datetime
    ) -> dict[str, Any]:
        """Send a message that never arrived once more, or forget it; the message as it was."""
        work = {"retry": retry_letter, "drop": drop_letter}[action]

        def change() -> dict[str, Any]:
            self._check(portfolio)
            try:
                return letter_view(work(StoreSink(self.store, portfolio), id, who, comment, now))
            except AlertError as error:
                raise Refused(str(error), "reload the list: somebody was quicker, or it is another one", 404) from error

        return await self._run(change)

    async def try_channels(
        self, settings: Settings, portfolio: str, channel: str, who: str, now: datetime
    ) -> dict[str, Any]:
        """Send a test message through one channel, or all that are on; what became of it, by channel."""
        await self._run(lambda: self._check(portfolio))
        if self._tested is not None and now - self._tested < TEST_PAUSE:
            raise Refused("a test message was sent just now", f"wait {TEST_PAUSE.seconds} seconds between two", 429)
        try:
            handlers = configured_handlers(settings.portfolio.monitoring.handlers, portfolio_home(settings))
        except ConfigError as error:
            raise Refused(str(error), "set it, and start the dashboard again", 409) from error
        chosen = [handler for handler in handlers if channel in ("", handler.name)]
        if not chosen:
            on = ", ".join(handler.name for handler in handlers)
            raise Refused(f"no channel {channel!r} is on", f"there is: {on}", 400)
        self._tested = now
        told = await try_channels(chosen, portfolio)
        outcome = "; ".join(f"{name}: {why or 'arrived'}" for name, why in told.items())
        await self._run(lambda: note_test(self.store, portfolio, who, outcome, now))
        return {name: {"arrived": not why, "error": why} for name, why in told.items()}

    def _desk(self, portfolio: str) -> AlertDesk:
        self._check(portfolio)
        return AlertDesk(self.store, portfolio)

    def _alert(self, portfolio: str, alert_id: str, now: datetime) -> dict[str, Any]:
        self._check(portfolio)
        with self.store.read() as conn:
            found = show_alert(conn, portfolio, alert_id, now)
        if found is None:
            raise Refused(f"no alert {alert_id!r} in portfolio {portfolio}", "reload the alerts", 404)
        return found

    def _act(
        self, portfolio: str, alert_id: str, now: datetime, act: Callable[[AlertDesk], AlertState]
    ) -> dict[str, Any]:
        desk = self._desk(portfolio)
        self._alert(portfolio, alert_id, now)
        try:
            act(desk)
        except AlertError as error:  # 409, with who was first and when
            known = self._alert(portfolio, alert_id, now)
            first = {key: known[key] for key in ("acknowledged_by", "acknowledged_at", "comment", "state")}
            raise Refused(str(error), "nothing to do: reload the alerts to see its state", 409, **first) from error
        return self._alert(portfolio, alert_id, now)

    def _silence(
        self, portfolio: str, who: str, comment: str, now: datetime, ends: datetime, **about: Any
    ) -> dict[str, Any]:
        desk = self._desk(portfolio)
        try:
            with self.store.read() as conn:
                check_rule(conn, portfolio, about["rule"], now)
        except AlertError as error:
            raise Refused(str(error), "choose one of the rules, or leave it out for all", 400) from None
        return silence_view(desk.silence(who, comment, now, ends, **about))

    def _end_silence(self, portfolio: str, silence_id: str, who: str, comment: str, now: datetime) -> dict[str, Any]:
        desk = self._desk(portfolio)
        with self.store.read() as conn:
            found = {one.id: one for one in load_silences(conn, [portfolio], None)}.get(silence_id)
        if found is None:
            raise Refused(f"no silence {silence_id!r} about portfolio {portfolio}", "reload the silences", 404)
        try:
            return silence_view(desk.end_silence(silence_id, who, comment, now))
        except AlertError as error:
            ended = [event.who for event in desk.events(silence_id) if event.kind == "unsilenced"]
            first = {"ended_by": ended[-1] if ended else None, "ends": silence_view(found)["ends"]}
            raise Refused(str(error), "nothing to do: reload the silences", 409, **first) from error

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
