"""Who is told what and when: nights, daylight saving, retries and the channel that takes over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.alerts import Notice, Severity
from portfolio_research.config import ChannelSettings, QuietHours
from portfolio_research.routing import (
    GIVE_UP,
    backoff,
    expired,
    hears,
    instead_of,
    one_message,
    quiet_until,
    sort_out,
    successors,
)
from portfolio_research.sinks import OutboxItem

NIGHT = QuietHours.model_validate({"start": "22:00", "end": "07:00", "zone": "Europe/Berlin"})
NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)


def item(id: int, severity: str, at: datetime, key: str = "", handler: str = "slack") -> OutboxItem:
    notice = Notice("main", f"title {id}", Severity(severity), (f"line {id}",), at, key or f"k{id}")
    return OutboxItem(id, handler, notice, 0, at)


def ids(found: Any) -> list[list[int]]:
    return [[one.id for one in batch] for batch in (found.skip, found.held, *found.batches)]


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2024-01-05T20:59:59", None),  # 21:59:59 in Berlin
        ("2024-01-05T21:00:00", "2024-01-06T06:00:00"),
        ("2024-01-06T05:59:59", "2024-01-06T06:00:00"),
        ("2024-01-06T06:00:00", None),
        ("2024-07-05T20:00:00", "2024-07-06T05:00:00"),  # in summer an hour earlier
        ("2024-03-30T23:00:00", "2024-03-31T05:00:00"),  # the night that loses an hour
        ("2024-10-26T23:00:00", "2024-10-27T06:00:00"),  # the night that gains one
        ("2024-10-27T00:30:00", "2024-10-27T06:00:00"),
    ],
)
def test_the_night_is_that_of_the_clock_on_the_wall(at: str, end: str | None) -> None:
    found = quiet_until(NIGHT, datetime.fromisoformat(at + "Z"))
    assert found == (datetime.fromisoformat(end + "Z") if end else None)


def test_quiet_hours_may_lie_within_a_day() -> None:
    siesta = QuietHours.model_validate({"start": "12:00", "end": "14:30"})
    assert quiet_until(siesta, NOON) == NOON.replace(hour=14, minute=30)
    assert quiet_until(siesta, NOON.replace(hour=15)) is None and quiet_until(siesta, NOON.replace(hour=11)) is None


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), st.times(), st.times())
def test_the_end_comes_after_the_moment_and_within_a_day(at: datetime, start: Any, end: Any) -> None:
    start, end = start.replace(microsecond=0, fold=0), end.replace(microsecond=0, fold=0)
    if start == end:
        return
    quiet = QuietHours.model_validate({"start": start, "end": end, "zone": "America/New_York"})
    moment = at.replace(tzinfo=UTC)
    until = quiet_until(quiet, moment)
    assert until is None or timedelta(0) < until - moment <= timedelta(hours=25)


def test_the_mild_is_held_the_severe_goes_and_the_morning_gets_one_message() -> None:
    evening = NOON.replace(hour=19)
    queue = [item(n, s, evening + timedelta(hours=h)) for n, (s, h) in enumerate(
        [("high", 0), ("medium", 3), ("critical", 4), ("low", 5), ("high", 6), ("medium", 13)])]  # fmt: skip
    wants = ChannelSettings(min_severity="medium", quiet_hours=NIGHT)
    assert ids(sort_out(queue[:5], wants, evening + timedelta(hours=7))) == [[3], [0, 1, 4], [2]]
    morning = sort_out(queue, wants, evening + timedelta(hours=13))
    assert ids(morning) == [[3], [], [0], [1, 4], [2], [5]]
    told = one_message(morning.batches[1])
    assert told.title == "[HIGH] main: 2 messages of the quiet hours" and told.severity is Severity.HIGH
    assert told.lines == ("01:00Z line 4", "22:00Z line 1") and told.key.startswith("held:")


@given(st.lists(st.tuples(st.sampled_from(list(Severity)), st.integers(0, 48)), max_size=12), st.integers(0, 60))
def test_every_message_is_in_exactly_one_place(messages: list[tuple[Severity, int]], hour: int) -> None:
    queue = [item(n, s, NOON + timedelta(hours=h)) for n, (s, h) in enumerate(messages)]
    wants = ChannelSettings(min_severity="medium", quiet_hours=NIGHT)
    found = ids(sort_out(queue, wants, NOON + timedelta(hours=hour)))
    assert sorted(n for batch in found for n in batch) == list(range(len(queue)))


def test_what_delivery_says_itself_is_for_everybody() -> None:
    deaf = ChannelSettings(min_severity="critical")
    assert hears(deaf, item(1, "low", NOON, "digest:2024-01-05").notice) and not hears(deaf, item(1, "high", NOON).notice)


def test_a_message_is_given_up_after_a_day_of_trying() -> None:
    by_day, by_night = item(1, "high", NOON), item(2, "high", NOON.replace(hour=22))
    channel = ChannelSettings(quiet_hours=NIGHT)
    assert not expired(by_day, channel, NOON + GIVE_UP) and expired(by_day, channel, NOON + GIVE_UP + timedelta(seconds=1))
    assert not expired(by_night, channel, by_night.queued_at + timedelta(hours=32))  # it was held until six
    assert expired(by_night, channel, by_night.queued_at + timedelta(hours=33))


def test_backoff_doubles_up_to_a_quarter_of_an_hour() -> None:
    longest = [backoff(n, chance=lambda low, high: high) for n in (0, 1, 2, 50)]
    assert longest == [5, 10, 20, 900] and all(5 <= backoff(3) <= 40 for _ in range(50))
    assert backoff(0, 100.0) == 100


NAMES = ["log", "email", "slack", "webhook"]


@pytest.mark.parametrize(
    ("failed", "order"),
    [
        ("email", ["slack", "webhook", "log"]),
        ("webhook", ["email", "slack", "log"]),
        ("gone", ["email", "slack", "webhook", "log"]),
    ],
)
def test_the_next_takes_over_and_the_log_comes_last(failed: str, order: list[str]) -> None:
    assert successors(failed, NAMES, ["log"]) == order


def test_who_has_it_is_only_told_once_a_day_that_the_channel_is_gone() -> None:
    lost = item(1, "low", NOON)
    ((name, told),) = instead_of(lost, "410", ["email", "log"], {"email": "delivered"}, NOON).items()
    assert name == "email" and told.key == "down:slack:2024-01-05" and told.severity is Severity.HIGH
    assert told.lines == ("HIGH slack did not deliver: 410",)
    ((name, told),) = instead_of(lost, "410", ["email", "log"], {}, NOON).items()
    assert name == "email" and told.key == "instead:k1" and told.lines[0] == "line 1" and "(instead of slack)" in told.title
    dead = {"email": "dead", "log": "delivered"}
    assert list(instead_of(lost, "410", ["email", "log"], dead, NOON)) == ["log"]
    assert instead_of(lost, "410", [], {}, NOON) == {}
