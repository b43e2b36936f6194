"""Alerts of one or many portfolios as rows: how they stand, what happened to them, and what people want silenced.

What the wall clock wrote into a state (when people last heard of it) has a column of its own, so that two replays of
the same prices leave the same payloads. Events are only ever added.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from portfolio_research.alert_people import lifecycle_from
from portfolio_research.alerts import (
    AlertEvent,
    AlertState,
    Lifecycle,
    Severity,
    Silence,
    acknowledge,
    end_silence,
    resolve,
    silence,
)
from portfolio_research.config import AlertError, LifecycleSettings
from portfolio_research.sinks import known_alert
from portfolio_research.store import schema
from portfolio_research.store.database import Store, upsert, upsert_many
from portfolio_research.store.encoding import to_json, to_text

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode
_Action = Callable[[AlertState], tuple[AlertState, AlertEvent]]


class AlertDesk:
    """What people see and do: the alerts of one portfolio, their history, acknowledgements and silences."""

    def __init__(self, store: Store, portfolio: str) -> None:
        self.store = store
        self.portfolio = portfolio

    def load(self) -> dict[str, AlertState]:
        """All alerts of the portfolio by fingerprint, resolved ones included."""
        with self.store.read() as conn:
            return load_states(conn, [self.portfolio])

    def silences(self, now: datetime) -> list[Silence]:
        """Silences about the portfolio that have not ended, the one that ends first leading."""
        with self.store.read() as conn:
            return load_silences(conn, [self.portfolio], now)

    def events(self, alert_id: str | None = None) -> list[AlertEvent]:
        """What happened, to one alert (or silence) or to all, oldest first."""
        table = schema.alert_event
        query = select(table.c.payload).where(table.c.portfolio == self.portfolio).order_by(table.c.id)
        if alert_id is not None:
            query = query.where(table.c.alert_id == alert_id)
        with self.store.read() as conn:
            return [AlertEvent.from_dict(json.loads(payload)) for payload in conn.execute(query).scalars()]

    def acknowledge(
        self, alert_id: str, who: str, comment: str, now: datetime, until: datetime | None = None
    ) -> AlertState:
        """Somebody takes care of it, for a day unless they say until when; AlreadyAcknowledged names who was first."""
        with self.store.begin() as conn:
            lasts = stored_lifecycle(conn, self.portfolio).acknowledged_for
            return self._act(conn, lambda state: acknowledge(state, who, comment, now, until, lasts), alert_id, now)

    def resolve(self, alert_id: str, who: str, comment: str, now: datetime) -> AlertState:
        """Somebody closes it."""
        with self.store.begin() as conn:
            return self._act(conn, lambda state: resolve(state, who, comment, now), alert_id, now)

    def silence(
        self,
        who: str,
        comment: str,
        now: datetime,
        ends: datetime,
        *,
        rule: str = "",
        subject: str = "",
        max_severity: Severity = Severity.HIGH,
        everywhere: bool = False,
    ) -> Silence:
        """Hold words back until `ends`, about this portfolio or `everywhere`."""
        about = "*" if everywhere else self.portfolio
        made, event = silence(about, who, comment, now, ends, rule=rule, subject=subject, max_severity=max_severity)
        with self.store.begin() as conn:
            self._keep(conn, made, event, now)
        return made

    def end_silence(self, silence_id: str, who: str, comment: str, now: datetime) -> Silence:
        """Let words through again, from now on."""
        with self.store.begin() as conn:
            found = [one for one in load_silences(conn, [self.portfolio], None) if one.id == silence_id]
            if not found:
                raise AlertError(f"no silence {silence_id!r} about {self.portfolio}: list them with their ids")
            ended, event = end_silence(found[0], who, comment, now)
            self._keep(conn, ended, event, now)
        return ended

    def _keep(self, conn: Connection, kept: Silence, event: AlertEvent, now: datetime) -> None:
        row = {"id": kept.id, "portfolio": kept.portfolio, "ends": to_text(kept.ends)}
        upsert(conn, schema.silence, row | {"payload": to_json(kept.to_dict()), "recorded_at": to_text(now)})
        append_events(conn, [event], now, portfolio=self.portfolio)

    def _act(self, conn: Connection, action: _Action, alert_id: str, now: datetime) -> AlertState:
        state, event = action(known_alert(load_states(conn, [self.portfolio]), alert_id))
        save_states(conn, [state])
        append_events(conn, [event], now)
        return state


def load_states(conn: Connection, portfolios: Sequence[str]) -> dict[str, AlertState]:
    """All alerts of some portfolios by fingerprint."""
    table = schema.alert
    query = select(table.c.id, table.c.payload, table.c.told_at).order_by(table.c.id)
    if len(portfolios) == 1:
        query = query.where(table.c.portfolio == portfolios[0])
    wanted, states = set(portfolios), {}
    for id, payload, told_at in conn.execute(query):
        data = json.loads(payload)
        if data["portfolio"] in wanted:
            states[id] = AlertState.from_dict(data | ({"told_at": told_at} if told_at else {}))
    return states


def save_states(conn: Connection, changed: Iterable[AlertState], gone: Iterable[str] = ()) -> None:
    """Write what changed; a breach that was over before it fired leaves no row."""
    forgotten = [{"gone": id} for id in gone]
    if forgotten:
        conn.execute(delete(schema.alert).where(schema.alert.c.id == bindparam("gone")), forgotten)
    upsert_many(conn, schema.alert, [_row(state) for state in changed])


def _row(state: AlertState) -> dict[str, Any]:
    payload = state.to_dict()
    told_at = payload.pop("told_at")
    row = {"id": state.id, "portfolio": state.portfolio, "rule": state.rule, "subject": state.subject}
    row |= {"type": state.type.value, "severity": state.severity.value, "state": state.state}
    return row | {"payload": _encode(payload), "updated": to_text(state.updated), "told_at": told_at}


def append_events(conn: Connection, events: Iterable[AlertEvent], now: datetime, *, portfolio: str = "") -> None:
    """Add to the history; of `portfolio`, if an event is about all of them."""
    rows, at = [], to_text(now)
    for event in events:
        row = {"alert_id": event.alert_id, "portfolio": portfolio or event.portfolio, "kind": event.kind}
        rows.append(row | {"at": to_text(event.at), "payload": _encode(event.to_dict()), "recorded_at": at})
    if rows:
        conn.execute(insert(schema.alert_event), rows)


def load_silences(conn: Connection, portfolios: Sequence[str], now: datetime | None) -> list[Silence]:
    """Silences about some portfolios that end after `now`; None: all there ever were."""
    table = schema.silence
    query = select(table.c.payload).order_by(table.c.ends, table.c.id)
    if now is not None:
        query = query.where(table.c.ends > to_text(now))
    about = {*portfolios, "*"}
    found = [Silence.from_dict(json.loads(payload)) for payload in conn.execute(query).scalars()]
    return [one for one in found if one.portfolio in about]


def stored_lifecycle(conn: Connection, portfolio: str) -> Lifecycle:
    """How long things last, by the settings with which the portfolio runs."""
    table = schema.portfolio
    text = conn.execute(select(table.c.settings).where(table.c.name == portfolio)).scalar()
    settings: Mapping[str, Any] = json.loads(text or "{}").get("portfolio", {}).get("monitoring", {})
    return lifecycle_from(LifecycleSettings(**settings.get("lifecycle", {})))
