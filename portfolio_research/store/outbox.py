"""Alerts that outlive the process: states, events and waiting messages of one portfolio, written together.

A tick is one transaction: the new states, what happened, and one outbox row per message and handler. If somebody
acknowledged an alert after the monitor had read it, the tick is decided again, inside the transaction, from what is
true now. A message has a key that names the steps it tells, unique per handler: the same tick run twice queues it once.
What is given up is marked dead in the same transaction that queues what somebody else is told instead.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from portfolio_research.alerts import Evaluation, Notice
from portfolio_research.sinks import SETTLED, OutboxItem, known_dead
from portfolio_research.store import schema
from portfolio_research.store.alerts import AlertDesk, append_events, load_silences, load_states, save_states
from portfolio_research.store.database import insert_new
from portfolio_research.store.encoding import from_text, short, to_json, to_text


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

    def post(self, notice: Notice, handlers: Sequence[str], now: datetime) -> int:
        """Queue a message that is not of a tick; how many handlers had not been given it before."""
        with self.store.begin() as conn:
            return self._queue(conn, notice, handlers, now)

    def pending(self, now: datetime, handler: str | None = None) -> list[OutboxItem]:
        """What is due, to one handler or to all, oldest first; a message waits for an earlier one of its handler."""
        items, blocked = [], set[str]()
        for row in self._rows("pending", handler):
            if row.handler in blocked or row.next_at > to_text(now):
                blocked.add(row.handler)
                continue
            items.append(_item(row))
        return items

    def delivered(self, *ids: int) -> None:
        """The messages arrived."""
        self._settle("delivered", "", ids)

    def skipped(self, why: str, *ids: int) -> None:
        """The messages are not for this handler."""
        self._settle("skipped", why, ids)

    def failed(self, id: int, error: str, retry_at: datetime) -> None:
        """It did not arrive, and is due again later."""
        with self.store.begin() as conn:
            self._miss(conn, id, error, next_at=to_text(retry_at))

    def give_up(self, id: int, error: str, now: datetime, instead: Mapping[str, Notice]) -> None:
        """It never will; other handlers get something `instead`."""
        with self.store.begin() as conn:
            self._miss(conn, id, error, state="dead")
            for handler, notice in instead.items():
                self._queue(conn, notice, [handler], now)

    def states(self, key: str) -> dict[str, str]:
        """Handler to the state that the message with this key has there."""
        box = schema.outbox.c
        copies = select(box.handler, box.state).where(box.portfolio == self.portfolio, box.dedup == key)
        with self.store.read() as conn:
            return {row.handler: row.state for row in conn.execute(copies)}

    def dead(self) -> list[OutboxItem]:
        """What was given up, oldest first."""
        return [_item(row) for row in self._rows("dead")]

    def retry(self, id: int, now: datetime) -> None:
        """Try a dead one again, as if it were new."""
        at, box = to_text(now), schema.outbox
        with self.store.begin() as conn:
            known_dead(self._states_by_id(conn, id), id)
            again = {"state": "pending", "attempts": 0, "next_at": at, "recorded_at": at}
            conn.execute(update(box).where(box.c.id == id).values(**again))

    def drop(self, id: int) -> None:
        """Somebody has read a dead one, and it need not be kept."""
        with self.store.begin() as conn:
            known_dead(self._states_by_id(conn, id), id)
            conn.execute(delete(schema.outbox).where(schema.outbox.c.id == id))

    def forget(self, before: datetime) -> int:
        """Remove what was delivered or skipped and queued before; how many."""
        box = schema.outbox.c
        old = box.state.in_(SETTLED), box.recorded_at < to_text(before)
        with self.store.begin() as conn:
            return conn.execute(delete(schema.outbox).where(box.portfolio == self.portfolio, *old)).rowcount

    def _queue(self, conn: Connection, notice: Notice, handlers: Sequence[str], now: datetime) -> int:
        text, at, new = to_json(notice.to_dict()), to_text(now), 0
        for handler in handlers:
            row: dict[str, Any] = {"portfolio": self.portfolio, "dedup": notice.key, "handler": handler, "notice": text}
            row |= {"state": "pending", "attempts": 0, "next_at": at, "last_error": "", "recorded_at": at}
            new += insert_new(conn, schema.outbox, row)
        return new

    def _rows(self, state: str, handler: str | None = None) -> Sequence[Row[Any]]:
        box = schema.outbox.c
        query = select(schema.outbox).where(box.portfolio == self.portfolio, box.state == state).order_by(box.id)
        with self.store.read() as conn:
            return conn.execute(query if handler is None else query.where(box.handler == handler)).all()

    def _states_by_id(self, conn: Connection, id: int) -> Mapping[int, Any]:
        box = schema.outbox.c
        found = conn.execute(select(box.id, box.state).where(box.portfolio == self.portfolio, box.id == id))
        return {row.id: row for row in found}

    def _settle(self, state: str, why: str, ids: Sequence[int]) -> None:
        with self.store.begin() as conn:
            chosen = update(schema.outbox).where(schema.outbox.c.id.in_(ids))
            conn.execute(chosen.values(state=state, last_error=why))

    def _miss(self, conn: Connection, id: int, error: str, **values: str) -> None:
        box = schema.outbox
        change = {"attempts": box.c.attempts + 1, "last_error": error, **values}
        conn.execute(update(box).where(box.c.id == id).values(**change))


def _item(row: Row[Any]) -> OutboxItem:
    notice = Notice.from_dict(json.loads(row.notice))
    return OutboxItem(row.id, row.handler, notice, row.attempts, from_text(row.recorded_at), row.last_error)


def delivery_view(conn: Connection, portfolio: str, most: int) -> dict[str, Any]:
    """How many messages wait, which handlers fail at the moment, and the `most` newest that were given up."""
    box = schema.outbox
    mine = select(box).where(box.c.portfolio == portfolio).order_by(box.c.id)
    waiting = conn.execute(mine.where(box.c.state == "pending")).all()
    dead = conn.execute(mine.where(box.c.state == "dead")).all()
    failing = {row.handler: row for row in reversed(waiting) if row.attempts}  # the oldest message of each
    return {
        "waiting": len(waiting),
        "failing": [_failing(row, waiting) for row in failing.values()],
        "undelivered": len(dead),
        "dead": [_letter(row) for row in dead[: -most - 1 : -1]],
    }


def _failing(row: Row[Any], waiting: Sequence[Row[Any]]) -> dict[str, Any]:
    behind = sum(other.handler == row.handler for other in waiting)
    told = {"handler": row.handler, "waiting": behind, "attempts": row.attempts}
    return {**told, "error": row.last_error, "since": short(row.recorded_at)}


def _letter(row: Row[Any]) -> dict[str, Any]:
    notice = json.loads(row.notice)
    told = {"id": row.id, "handler": row.handler, "title": notice["title"], "severity": notice["severity"]}
    return {**told, "error": row.last_error, "attempts": row.attempts, "queued_at": short(row.recorded_at)}
