"""Alerts as people and programs read them: the same fields and words on the command line, in REST, snapshot and report.

A silence takes effect at the monitor's next check and its end is noted there too; what is shown here is what is true
now, by the silences themselves.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, inspect, select

from portfolio_research.alerts import AlertState, Severity, Silence, default_rules, system_rules
from portfolio_research.config import AlertError
from portfolio_research.sinks import OutboxItem
from portfolio_research.store import schema
from portfolio_research.store.alerts import load_silences, load_states
from portfolio_research.store.encoding import plain
from portfolio_research.store.ledger import portfolio_row

FIELDS = (
    "id", "rule", "subject", "type", "severity", "state", "title", "message", "value", "threshold", "peak", "since",
    "updated", "judged", "acknowledged_by", "acknowledged_at", "acknowledged_until", "comment", "told",
    "silenced_until", "inhibited_by", "flapping",
)  # fmt: skip
WHAT = {  # what happened, for people
    "pending": "first breach", "forgotten": "over before it was believed", "fired": "fired", "escalated": "got worse",
    "eased": "eased", "recovering": "recovering", "relapsed": "relapsed", "resolved": "resolved",
    "blind": "cannot be judged", "sighted": "can be judged again", "flapping": "comes and goes: muted",
    "calm": "calm again", "acknowledged": "acknowledged", "expired": "acknowledgement ended", "reminded": "reminded",
    "told": "told late", "silenced": "silenced", "unsilenced": "silence ended",
}  # fmt: skip
_UNITS = {rule.id: rule.unit for rule in (*default_rules(), *system_rules())} | {"cannot-judge": "fraction"}


@dataclass(frozen=True, slots=True)
class Viewer:
    """What is needed to show the alerts of a portfolio, read once."""

    portfolio: str
    silences: Sequence[Silence]  # that have not ended
    units: Mapping[str, str]  # "number" or "fraction", by rule: these are the rules there are
    at: datetime  # clock

    @classmethod
    def load(cls, conn: Connection, portfolio: str, settings: Mapping[str, Any], at: datetime) -> "Viewer":
        """From the store; `settings` are those the portfolio runs with."""
        own = settings.get("portfolio", {}).get("monitoring", {}).get("rules", [])
        told = inspect(conn).has_table(schema.silence.name)  # not in an older store that is only read
        silences = load_silences(conn, [portfolio], at) if told else []
        return cls(portfolio, silences, _UNITS | {rule["id"]: rule.get("unit", "number") for rule in own}, at)

    def alert(self, state: AlertState) -> dict[str, Any]:
        """One alert in JSON's own types."""
        ends = [one.ends for one in self.silences if one.covers(state, self.at)] if state.active else []
        shown = replace(state, silenced_until=max(ends, default=None))
        view = {name: plain(getattr(shown, name)) for name in FIELDS}
        return view | {"unit": self.units.get(state.rule, "number")}


def load_viewer(conn: Connection, portfolio: str, at: datetime) -> Viewer:
    """The viewer of a portfolio that is in the store."""
    return Viewer.load(conn, portfolio, json.loads(portfolio_row(conn, portfolio).settings), at)


def check_rule(conn: Connection, portfolio: str, rule: str, at: datetime) -> None:
    """Refuse a silence about a rule that does not exist: it would hold nothing back."""
    table = schema.alert
    fired = conn.execute(select(table.c.rule).where(table.c.portfolio == portfolio)).scalars()
    known = list(dict.fromkeys([*load_viewer(conn, portfolio, at).units, *fired]))
    if rule and rule not in known:
        near = get_close_matches(rule, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise AlertError(f"portfolio {portfolio} has no rule {rule!r}: {hint}there is: {', '.join(known)}")


def active_alerts(conn: Connection, viewer: Viewer) -> list[dict[str, Any]]:
    """What has fired and is not over, the worst first, then the newest."""
    table = schema.alert
    active = table.c.portfolio == viewer.portfolio, table.c.state.in_(("firing", "acknowledged", "recovering"))
    payloads = conn.execute(select(table.c.payload).where(*active)).scalars()
    states = [AlertState.from_dict(json.loads(payload)) for payload in payloads]
    states.sort(key=lambda state: (state.severity.rank, state.since), reverse=True)
    return [viewer.alert(state) for state in states]


def list_alerts(conn: Connection, portfolio: str, at: datetime, *, everything: bool = False) -> list[dict[str, Any]]:
    """Alerts as they are shown, active ones first, then the worst, then the newest; `everything`: also what is over."""
    viewer = load_viewer(conn, portfolio, at)
    states = [s for s in load_states(conn, [portfolio]).values() if everything or s.active]
    states.sort(key=lambda s: (s.active, s.state == "pending", s.severity.rank, s.since), reverse=True)
    return [viewer.alert(state) for state in states]


def show_alert(conn: Connection, portfolio: str, alert_id: str, at: datetime) -> dict[str, Any] | None:
    """Everything about one alert: itself, the silences that cover it, and its whole history; None if there is none."""
    state = load_states(conn, [portfolio]).get(alert_id)
    if state is None:
        return None
    viewer = load_viewer(conn, portfolio, at)
    about = [one for one in load_silences(conn, [portfolio], None) if _concerns(one, state)]
    now = [silence_view(one) for one in viewer.silences if one.covers(state, at)]
    heard = {"portfolio": portfolio, "told_at": plain(state.told_at), "notices": state.notices}
    return viewer.alert(state) | heard | {
        "silences": now, "history": history(conn, portfolio, [alert_id, *(one.id for one in about)])
    }  # fmt: skip


def _concerns(silence: Silence, state: AlertState) -> bool:
    """Whether it was ever about this alert, at whatever severity and time."""
    return silence.rule in ("", state.rule) and silence.subject in ("", state.subject)


def history(conn: Connection, portfolio: str, ids: Iterable[str], limit: int | None = None) -> list[dict[str, Any]]:
    """What happened to these alerts and silences, oldest first; the newest `limit` of it."""
    table = schema.alert_event
    mine = (table.c.portfolio == portfolio, table.c.alert_id.in_(list(ids)))
    query = select(table.c.payload).where(*mine).order_by(table.c.id.desc()).limit(limit)
    return [_event_view(json.loads(payload)) for payload in conn.execute(query).scalars()][::-1]


def _event_view(event: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("at", "kind", "severity", "from_state", "to_state", "value", "message", "who", "comment")
    return {"what": WHAT.get(event["kind"], event["kind"])} | {key: event[key] for key in keys}


def silence_view(silence: Silence) -> dict[str, Any]:
    """One silence in JSON's own types."""
    view: dict[str, Any] = plain(silence.to_dict())
    return view | {"everywhere": silence.portfolio == "*"}


def held_back(alert: Mapping[str, Any]) -> list[str]:
    """Why people hear nothing, or less, of a shown alert; in words."""
    yes = (
        (alert["silenced_until"], f"silenced until {clock_time(alert['silenced_until'])}"),
        (alert["inhibited_by"], f"held back by {alert['inhibited_by']}"),
        (alert["flapping"], "comes and goes: muted until calm"),
        (not alert["judged"], "cannot be judged"),
    )
    return [words for holds, words in yes if holds]


def clock_time(text: str | None) -> str:
    """A time of a view, to the minute: 2026-03-12 14:05 UTC."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else "–"


def shown_number(value: float | None, unit: str) -> str:
    """A number of a view with its unit."""
    if value is None:
        return "–"
    return f"{value:.1%}".replace("%", " %") if unit == "fraction" else f"{value:.4g}"


def count_alerts(active: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many of the active ones are in whose hands, held back, and of each severity."""
    taken = sum(bool(alert["acknowledged_by"]) for alert in active)
    held = sum(bool(alert["silenced_until"] or alert["inhibited_by"] or alert["flapping"]) for alert in active)
    blind = sum(not alert["judged"] for alert in active)
    counts = {"open": len(active) - taken, "acknowledged": taken, "held_back": held, "cannot_judge": blind}
    return counts | {str(level): sum(alert["severity"] == level for alert in active) for level in Severity}


def letter_view(letter: OutboxItem) -> dict[str, Any]:
    """One message that never arrived in JSON's own types."""
    known = {"id": letter.id, "handler": letter.handler, "title": letter.notice.title, "lines": letter.notice.lines}
    known |= {"severity": letter.notice.severity, "attempts": letter.attempts, "error": letter.error}
    view: dict[str, Any] = plain(known | {"queued_at": letter.queued_at})
    return view
