"""Alerts of many portfolios, kept like those of one, in one transaction a tick and with few statements.

What is known stays in memory between ticks. Whatever people do leaves an event, so the newest event says whether
anybody has acted since: only then everything is read again, and the tick decided again from what is true now.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, func, select

from portfolio_research.alert_fleet import FleetEvaluation
from portfolio_research.alerts import AlertState, Silence
from portfolio_research.store import schema
from portfolio_research.store.alerts import append_events, load_silences, load_states, save_states
from portfolio_research.store.database import Store
from portfolio_research.store.outbox import StoreSink


class FleetSink:
    """The durable sink of `evaluate_many`; messages wait in the outbox of the portfolio that they name."""

    def __init__(self, store: Store, portfolios: Sequence[str]) -> None:
        self.store = store
        self.portfolios = list(portfolios)
        self._known: Mapping[str, AlertState] = {}
        self._newest = -1  # event, when they were known

    def load(self) -> Mapping[str, AlertState]:
        """All alerts of the portfolios by fingerprint, read anew only if somebody else wrote."""
        with self.store.read() as conn:
            self._refresh(conn)
        return self._known

    def silences(self, now: datetime) -> list[Silence]:
        """Silences about any of the portfolios that have not ended."""
        with self.store.read() as conn:
            return load_silences(conn, self.portfolios, now)

    def commit(self, evaluation: FleetEvaluation, *, handlers: Sequence[str], now: datetime) -> FleetEvaluation:
        """Write one tick; the evaluation as it was written."""
        with self.store.begin() as conn:
            self._refresh(conn)
            silences = load_silences(conn, self.portfolios, evaluation.options["clock"] or now)
            same = evaluation.base is self._known or evaluation.base == self._known
            if not same or silences != list(evaluation.options["silences"]):
                evaluation = evaluation.again(self._known, silences)
            save_states(conn, evaluation.changed.values(), evaluation.gone)
            append_events(conn, evaluation.events, now)
            for notice in evaluation.notices:
                StoreSink(self.store, notice.portfolio)._queue(conn, notice, handlers, now)
            newest = _newest(conn)
        self._known, self._newest = evaluation.states, newest
        return evaluation

    def _refresh(self, conn: Connection) -> None:
        newest = _newest(conn)
        if newest != self._newest:
            self._known, self._newest = load_states(conn, self.portfolios), newest


def _newest(conn: Connection) -> int:
    return conn.execute(select(func.max(schema.alert_event.c.id))).scalar() or 0
