"""What people do with messages, kept in the history in which everything else that they do is kept as well."""

from datetime import datetime
from math import nan

from portfolio_research.alerts import AlertEvent, Severity
from portfolio_research.config import AlertError
from portfolio_research.sinks import OutboxItem
from portfolio_research.store.alerts import append_events
from portfolio_research.store.database import Store
from portfolio_research.store.outbox import StoreSink


def retry_letter(sink: StoreSink, id: int, who: str, comment: str, now: datetime) -> OutboxItem:
    """Send a message that was given up once more."""
    letter = _letter(sink, id)
    sink.retry(id, now)
    _note_letter(sink, letter, "retried", who, comment, now)
    return letter


def drop_letter(sink: StoreSink, id: int, who: str, comment: str, now: datetime) -> OutboxItem:
    """Forget a message that was given up."""
    letter = _letter(sink, id)
    sink.drop(id)
    _note_letter(sink, letter, "dropped", who, comment, now)
    return letter


def note_test(store: Store, portfolio: str, who: str, outcome: str, now: datetime) -> None:
    """Somebody has sent a test message through the channels."""
    _note(store, AlertEvent("channels", portfolio, now, "tested", "", "", Severity.LOW, nan, nan, outcome, who), now)


def _letter(sink: StoreSink, id: int) -> OutboxItem:
    found = next((item for item in sink.dead() if item.id == id), None)
    if found is None:
        raise AlertError(f"{sink.portfolio} has no message {id} that was given up; `alerts dead` lists them")
    return found


def _note_letter(sink: StoreSink, letter: OutboxItem, kind: str, who: str, comment: str, now: datetime) -> None:
    about, said = f"letter:{letter.id}", f"{letter.handler}: {letter.notice.title}"
    known = (about, sink.portfolio, now, kind, "", "", letter.notice.severity, nan, nan, said, who, comment)
    _note(sink.store, AlertEvent(*known), now)


def _note(store: Store, event: AlertEvent, now: datetime) -> None:
    with store.begin() as conn:
        append_events(conn, [event], now)
