"""Alerts that outlive the process: states, events and waiting messages of one portfolio, written together.

A tick is one transaction: the new states, what happened, and one outbox row per message and handler. If somebody
acknowledged an alert after the monitor had read it, the tick is decided again, inside the transaction, from what is
true now. A message has a key that names the steps it tells, unique per handler: the same tick run twice queues it once.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from portfolio_research.alerts import Evaluation, Notice
from portfolio_research.monitor import OutboxItem
from portfolio_research.store import schema
from portfolio_research.store.alerts import AlertDesk, append_events, load_silences, load_states, save_states
from portfolio_research.store.database import insert_new
from portfolio_research.store.encoding import from_text, to_json, to_text


class StoreSink(AlertDesk):
    """The durable sink of a `PortfolioMonitor`; the dashboard acknowledges through one of its own."""

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
            stored = load_states(conn, [self.portfolio])
            silences = load_silences(conn, [self.portfolio], evaluation.clock or now)
            if stored != evaluation.base or silences != list(evaluation.silences):
                evaluation = evaluation.again(stored, silences)
            changed = [state for id, state in evaluation.states.items() if stored.get(id) != state]
            save_states(conn, changed, stored.keys() - evaluation.states.keys())
            append_events(conn, evaluation.events, now)
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

    def _queue(self, conn: Connection, notice: Notice, handlers: Sequence[str], now: datetime) -> None:
        text, at = to_json(notice.to_dict()), to_text(now)
        for handler in handlers:
            row: dict[str, Any] = {"portfolio": self.portfolio, "dedup": notice.key, "handler": handler, "notice": text}
            row |= {"state": "pending", "attempts": 0, "next_at": at, "last_error": "", "recorded_at": at}
            insert_new(conn, schema.outbox, row)


def _item(row: Row[Any]) -> OutboxItem:
    notice = Notice.from_dict(json.loads(row.notice))
    return OutboxItem(row.id, row.handler, notice, row.attempts, from_text(row.recorded_at))
