"""The durable sink: one transaction a tick, nothing lost, nothing twice, people respected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select
from store_rows import start

from portfolio_research.alerts import (
    AlertType,
    AlreadyAcknowledged,
    Evaluation,
    Notice,
    Rule,
    Severity,
    evaluate,
    fingerprint,
)
from portfolio_research.config import AlertError
from portfolio_research.sinks import MemorySink
from portfolio_research.store import Store, ledger, schema
from portfolio_research.store.outbox import StoreSink

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = datetime(2020, 3, 9, tzinfo=UTC)
RULE = Rule("depth", AlertType.DRAWDOWN, "drawdown", {Severity.MEDIUM: 0.1, Severity.CRITICAL: 0.2}, title="Drawdown")
ID = fingerprint("main", "depth")
BOTH = ["log", "email"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "p.db") as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


@pytest.fixture(params=["store", "memory"])
def sink(request: pytest.FixtureRequest, store: Store) -> Any:
    return StoreSink(store, "main") if request.param == "store" else MemorySink()


def tick(sink: Any, value: float, n: int = 0, **options: Any) -> Evaluation:
    seen = evaluate([RULE], {"drawdown": value}, sink.load(), portfolio="main", now=DAY + timedelta(days=n))
    return sink.commit(seen, handlers=BOTH, now=NOW, **options)


def test_a_tick_leaves_states_events_and_one_message_per_handler(sink: Any) -> None:
    tick(sink, 0.3)
    assert sink.load()[ID].state == "firing"
    assert [e.kind for e in sink.events()] == ["fired"] and sink.events("other") == []
    assert [(i.handler, i.attempts) for i in sink.pending(NOW)] == [("log", 0), ("email", 0)]
    assert sink.pending(NOW)[0].notice.lines[0].startswith("CRITICAL Drawdown")


def test_the_same_tick_twice_queues_once_even_after_delivery(sink: Any) -> None:
    seen = evaluate([RULE], {"drawdown": 0.3}, {}, portfolio="main", now=DAY)
    sink.commit(seen, handlers=BOTH, now=NOW)
    for item in sink.pending(NOW):
        sink.delivered(item.id)
    sink.commit(seen, handlers=BOTH, now=NOW)
    assert sink.pending(NOW) == [] and [e.kind for e in sink.events()] == ["fired"]


def test_two_firings_at_the_same_market_time_are_two_messages(sink: Any) -> None:
    for value in (0.3, 0.01, 0.01, 0.01, 0.3):
        tick(sink, value)
    titles = [i.notice.title.split()[0] for i in sink.pending(NOW) if i.handler == "log"]
    assert titles == ["[CRITICAL]", "[RESOLVED]", "[CRITICAL]"]


def test_an_acknowledgement_written_meanwhile_is_kept(sink: Any) -> None:
    tick(sink, 0.3)
    seen = evaluate([RULE], {"drawdown": 0.31}, sink.load(), portfolio="main", now=DAY + timedelta(days=1))
    sink.acknowledge(ID, "Ana", "hedged", NOW)
    written = sink.commit(seen, handlers=BOTH, now=NOW)
    assert written.states[ID].acknowledged_by == "Ana" and sink.load()[ID].value == 0.31
    assert sink.load()[ID].acknowledged_at == NOW and sink.load()[ID].comment == "hedged"


def test_a_resolution_written_meanwhile_is_kept(sink: Any) -> None:
    tick(sink, 0.12)
    tick(sink, 0.12, 1)
    seen = evaluate([RULE], {"drawdown": 0.01}, sink.load(), portfolio="main", now=DAY + timedelta(days=2))
    sink.resolve(ID, "Ana", "", NOW)
    assert sink.commit(seen, handlers=BOTH, now=NOW).states[ID].state == "resolved"
    assert [e.who for e in sink.events(ID)] == ["", "", "Ana"]


def test_people_are_told_who_was_first_and_what_is_unknown(sink: Any) -> None:
    tick(sink, 0.3)
    sink.acknowledge(ID, "Ana", "", NOW)
    with pytest.raises(AlreadyAcknowledged, match="Ana"):
        sink.acknowledge(ID, "Ben", "", NOW)
    with pytest.raises(AlertError, match="no alert 'nope'"):
        sink.resolve("nope", "Ben", "", NOW)


def test_a_message_waits_for_the_earlier_one_of_its_handler(sink: Any) -> None:
    tick(sink, 0.12)
    tick(sink, 0.12, 1)
    tick(sink, 0.3, 2)
    first = next(i for i in sink.pending(NOW) if i.handler == "log")
    sink.failed(first.id, "down", NOW + timedelta(minutes=1))
    assert [i.handler for i in sink.pending(NOW)] == ["email", "email"]
    later = [i for i in sink.pending(NOW + timedelta(minutes=1)) if i.handler == "log"]
    assert [i.attempts for i in later] == [1, 0] and later[0].id == first.id
    sink.give_up(first.id, "gone", NOW, {})
    assert [i.handler for i in sink.pending(NOW)] == ["log", "email", "email"] or len(sink.pending(NOW)) == 3


WORD = Notice("main", "a word", Severity.LOW, ("LOW a word",), NOW, "instead:k")


def test_a_message_of_its_own_is_queued_once_per_handler(sink: Any) -> None:
    assert [sink.post(WORD, BOTH, NOW), sink.post(WORD, BOTH, NOW), sink.post(WORD, [*BOTH, "slack"], NOW)] == [2, 0, 1]
    assert sink.states("instead:k") == dict.fromkeys((*BOTH, "slack"), "pending") and sink.states("other") == {}
    assert [i.handler for i in sink.pending(NOW, "slack")] == ["slack"]


def test_what_is_not_for_a_handler_is_skipped_and_waits_no_more(sink: Any) -> None:
    tick(sink, 0.3)
    (item,) = sink.pending(NOW, "email")
    sink.skipped("milder than high", item.id)
    assert sink.pending(NOW, "email") == [] and sink.states(item.notice.key)["email"] == "skipped"


def test_what_is_given_up_is_kept_can_be_tried_again_and_can_be_dropped(sink: Any) -> None:
    tick(sink, 0.3)
    (item,) = sink.pending(NOW, "email")
    sink.failed(item.id, "451", NOW)
    sink.give_up(item.id, "554", NOW, {"log": WORD})
    (dead,) = sink.dead()
    assert (dead.id, dead.attempts, dead.error) == (item.id, 2, "554") and sink.pending(NOW, "email") == []
    assert [i.notice.key for i in sink.pending(NOW, "log")][-1] == "instead:k"
    later = NOW + timedelta(days=2)
    sink.retry(dead.id, later)
    (again,) = sink.pending(later, "email")
    assert (again.attempts, again.queued_at) == (0, later) and sink.dead() == []
    for act in (lambda: sink.retry(dead.id, later), lambda: sink.drop(dead.id), lambda: sink.drop(99)):
        with pytest.raises(AlertError, match="no message"):
            act()
    sink.give_up(again.id, "554", later, {})
    sink.drop(again.id)
    assert sink.dead() == [] and "email" not in sink.states(item.notice.key)


def test_giving_up_and_telling_somebody_else_are_one_step(store: Store) -> None:
    sink = StoreSink(store, "main")
    tick(sink, 0.3)
    (item,) = sink.pending(NOW, "email")
    with pytest.raises(AttributeError):
        sink.give_up(item.id, "554", NOW, {"log": None})  # type: ignore[dict-item]
    assert sink.dead() == [] and sink.pending(NOW, "email")[0].attempts == 0


def test_after_a_month_what_arrived_is_forgotten_and_nothing_else(sink: Any) -> None:
    tick(sink, 0.3)
    sink.post(WORD, BOTH, NOW)
    first, second, third, _ = sink.pending(NOW)
    sink.delivered(first.id, second.id)
    sink.give_up(third.id, "554", NOW, {})
    assert sink.forget(NOW) == 0 and sink.forget(NOW + timedelta(days=30)) == 2
    assert len(sink.dead()) == 1 and len(sink.pending(NOW)) == 1


def test_a_breach_that_never_fired_leaves_no_row(sink: Any) -> None:
    tick(sink, 0.12)
    assert sink.load()[ID].state == "pending"
    tick(sink, 0.01, 1)
    assert sink.load() == {} and [e.kind for e in sink.events()] == ["pending", "forgotten"]


def test_everything_survives_a_restart(tmp_path: Path, store: Store) -> None:
    tick(StoreSink(store, "main"), 0.3)
    with Store.open(tmp_path / "p.db") as other:
        again = StoreSink(other, "main")
        assert again.load() == StoreSink(store, "main").load() and len(again.pending(NOW)) == 2
        first = again.pending(NOW)[0]
        again.give_up(first.id, "gone for good", NOW, {})
        (item,) = StoreSink(store, "main").dead()
        assert (item.id, item.attempts, item.error) == (first.id, 1, "gone for good")


def test_the_cursor_moves_in_the_same_transaction_or_nothing_is_written(store: Store) -> None:
    sink = StoreSink(store, "main")

    def fail(conn: Connection) -> None:
        ledger.advance(conn, "main", "monitoring", DAY)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        tick(sink, 0.3, extra=fail)
    assert sink.load() == {} and sink.events() == [] and sink.pending(NOW) == []
    tick(sink, 0.3, extra=lambda conn: ledger.advance(conn, "main", "monitoring", DAY))
    with store.read() as conn:
        assert ledger.cursor(conn, "main", "monitoring") == DAY
        assert conn.execute(select(func.count()).select_from(schema.outbox)).scalar() == 2


def test_portfolios_do_not_see_each_other(store: Store) -> None:
    with store.begin() as conn:
        start(conn, "other")
    tick(StoreSink(store, "main"), 0.3)
    other = StoreSink(store, "other")
    assert other.load() == {} and other.events() == [] and other.pending(NOW) == [] and other.dead() == []
    (mine,) = StoreSink(store, "main").pending(NOW, "log")
    StoreSink(store, "main").give_up(mine.id, "gone", NOW, {})
    with pytest.raises(AlertError, match="no message"):
        other.retry(mine.id, NOW)
    assert other.forget(NOW + timedelta(days=99)) == 0
