"""Alerts that outlive the process: states, events and waiting messages of one portfolio, written together.

A tick is one transaction: the new states, what happened, and one outbox row per message and handler. If somebody
acknowledged an alert after the monitor had read it, the tick is decided again, inside the transaction, from what is
true now. A message has a key that names the steps it tells, unique per handler: the same tick run twice queues it once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from portfolio_research.alerts import AlertEvent, AlertState, Evaluation, Notice, acknowledge, resolve
from portfolio_research.monitor import OutboxItem, known_alert
from portfolio_research.store import schema
from portfolio_research.store.database import Store, insert_new, upsert
from portfolio_research.store.encoding import from_text, to_json, to_text

_Action = Callable[[AlertState, str, str, datetime], tuple[AlertState, AlertEvent]]


class StoreSink:
    """The durable sink of a `PortfolioMonitor`; the dashboard acknowledges through one of its own."""

    def __init__(self, store: Store, portfolio: str) -> None:
        self.store = store
        self.portfolio = portfolio

    def load(self) -> dict[str, AlertState]:
        """All alerts of the portfolio by fingerprint, resolved ones included."""
        with self.store.read() as conn:
            return self._states(conn)

    def commit(
        self,
        evaluation: Evaluation,
        *,
        handlers: Sequence[str],
        now: datetime,
        extra: Callable[[Connection], None] | None = None,
    ) -> Evaluation:
        """Write one tick, and whatever `extra` adds to its transaction; the evaluation as it was written."""
        with self.store.begin() as conn:
            stored = self._states(conn)
            if stored != evaluation.base:
                evaluation = evaluation.again(stored)
            self._save(conn, stored, evaluation.states)
            self._append(conn, evaluation.events, now)
            for notice in evaluation.notices:
                self._queue(conn, notice, handlers, now)
            if extra is not None:
                extra(conn)
        return evaluation

    def pending(self, now: datetime) -> list[OutboxItem]:
        """What is due for sending, oldest first; a message waits for an earlier one of its handler."""
        box = schema.outbox.c
        waiting = select(schema.outbox).where(box.portfolio == self.portfolio, box.state == "pending").order_by(box.id)
        items, blocked = [], set[str]()
        with self.store.read() as conn:
            for row in conn.execute(waiting):
                if row.handler in blocked or row.next_at > to_text(now):
                    blocked.add(row.handler)
                    continue
                items.append(_item(row))
        return items

    def delivered(self, id: int) -> None:
        """The message arrived."""
        with self.store.begin() as conn:
            conn.execute(update(schema.outbox).where(schema.outbox.c.id == id).values(state="delivered", last_error=""))

    def failed(self, id: int, error: str, retry_at: datetime | None) -> None:
        """It did not arrive: due again at `retry_at`, or given up and kept as dead."""
        box = schema.outbox.c
        values = {"attempts": box.attempts + 1, "last_error": error}
        values |= {"state": "dead"} if retry_at is None else {"next_at": to_text(retry_at)}
        with self.store.begin() as conn:
            conn.execute(update(schema.outbox).where(box.id == id).values(**values))

    def dead(self) -> list[tuple[OutboxItem, str]]:
        """Messages that were given up, with the last error, oldest first."""
        box = schema.outbox.c
        given_up = select(schema.outbox).where(box.portfolio == self.portfolio, box.state == "dead").order_by(box.id)
        with self.store.read() as conn:
            return [(_item(row), row.last_error) for row in conn.execute(given_up)]

    def acknowledge(self, alert_id: str, who: str, comment: str, now: datetime) -> AlertState:
        """Somebody takes care of it; AlreadyAcknowledged names who was first."""
        return self._act(acknowledge, alert_id, who, comment, now)

    def resolve(self, alert_id: str, who: str, comment: str, now: datetime) -> AlertState:
        """Somebody closes it."""
        return self._act(resolve, alert_id, who, comment, now)

    def events(self, alert_id: str | None = None) -> list[AlertEvent]:
        """What happened, to one alert or to all, oldest first."""
        table = schema.alert_event
        query = select(table.c.payload).where(table.c.portfolio == self.portfolio).order_by(table.c.id)
        if alert_id is not None:
            query = query.where(table.c.alert_id == alert_id)
        with self.store.read() as conn:
            return [AlertEvent.from_dict(json.loads(payload)) for payload in conn.execute(query).scalars()]

    def _act(self, action: _Action, alert_id: str, who: str, comment: str, now: datetime) -> AlertState:
        with self.store.begin() as conn:
            stored = self._states(conn)
            state, event = action(known_alert(stored, alert_id), who, comment, now)
            self._save(conn, stored, stored | {alert_id: state})
            self._append(conn, [event], now)
        return state

    def _states(self, conn: Connection) -> dict[str, AlertState]:
        table = schema.alert
        rows = conn.execute(select(table.c.id, table.c.payload).where(table.c.portfolio == self.portfolio))
        return {row.id: AlertState.from_dict(json.loads(row.payload)) for row in rows}

    def _save(self, conn: Connection, stored: Mapping[str, AlertState], states: Mapping[str, AlertState]) -> None:
        """Write what changed; a breach that was over before it fired leaves no row."""
        for gone in stored.keys() - states.keys():
            conn.execute(delete(schema.alert).where(schema.alert.c.id == gone))
        for id, state in states.items():
            if stored.get(id) != state:
                row = {"id": id, "portfolio": self.portfolio, "rule": state.rule, "subject": state.subject}
                row |= {"type": state.type.value, "severity": state.severity.value, "state": state.state}
                row |= {"payload": to_json(state.to_dict()), "updated": to_text(state.updated)}
                upsert(conn, schema.alert, row)

    def _append(self, conn: Connection, events: Sequence[AlertEvent], now: datetime) -> None:
        for event in events:
            row = {"alert_id": event.alert_id, "portfolio": self.portfolio, "kind": event.kind}
            row |= {"at": to_text(event.at), "payload": to_json(event.to_dict()), "recorded_at": to_text(now)}
            conn.execute(insert(schema.alert_event).values(**row))

    def _queue(self, conn: Connection, notice: Notice, handlers: Sequence[str], now: datetime) -> None:
        text, at = to_json(notice.to_dict()), to_text(now)
        for handler in handlers:
            row: dict[str, Any] = {"portfolio": self.portfolio, "dedup": notice.key, "handler": handler, "notice": text}
            row |= {"state": "pending", "attempts": 0, "next_at": at, "last_error": "", "recorded_at": at}
            insert_new(conn, schema.outbox, row)


def _item(row: Row[Any]) -> OutboxItem:
    notice = Notice.from_dict(json.loads(row.notice))
    return OutboxItem(row.id, row.handler, notice, row.attempts, from_text(row.recorded_at))
