"""Calendars: every rule against a slow one that walks from bar to bar, and never a look at a later bar."""
from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_research.calendars import FREQUENCIES, check_rows, new_slot
from portfolio_research.config import ConfigError, DataError

PRESETS = st.sampled_from(["daily", "weekly", "monthly", "quarterly", "yearly"])
ALIASES = st.sampled_from(["MS", "ME", "W-FRI", "BME", "QS", "3D", "2W", "12h", "YE", "B"])
WEEK = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


@st.composite
def bars(draw: st.DrawFn, hours: tuple[int, ...] = (6, 24, 24 * 7)) -> pd.DatetimeIndex:
    """Bars of some spacing with holes in them, anywhere between 1965 and 2040."""
    step = draw(st.sampled_from(hours))
    start = pd.Timestamp("1965-01-01", tz="UTC") + pd.Timedelta(hours=draw(st.integers(0, 24 * 365 * 75)))
    whole = pd.date_range(start, periods=draw(st.integers(2, 150)), freq=f"{step}h")
    kept = np.random.default_rng(draw(st.integers(0, 2**32))).random(len(whole)) < draw(st.sampled_from([1.0, 0.7, 0.1]))
    kept[draw(st.integers(0, len(whole) - 1))] = True
    return whole[kept]


def slot(ts: pd.Timestamp, every: str, weekday: str) -> tuple[int, ...]:
    """The period of a time stamp, told by Python's own calendar."""
    if every == "weekly":
        return (date(ts.year, ts.month, ts.day) - timedelta((ts.weekday() - WEEK.index(weekday)) % 7)).timetuple()[:3]
    parts = {"daily": (ts.month, ts.day), "monthly": (ts.month,), "quarterly": ((ts.month - 1) // 3,), "yearly": ()}
    return (ts.year, *parts[every])


@given(bars(), PRESETS, st.sampled_from(WEEK), st.sampled_from(["first", "last"]), st.data())
def test_presets_are_what_a_walk_from_bar_to_bar_finds(
    index: pd.DatetimeIndex, every: str, weekday: Any, on: Any, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(index) - 1))
    ahead = timedelta(days=on == "last")
    slots = [slot(ts + ahead, every, weekday) for ts in index]
    expected = [first, *(t for t in range(first + 1, len(index)) if slots[t] != slots[t - 1])]
    rows = check_rows(index, every, first=first, on=on, weekday=weekday)
    assert rows.tolist() == expected and rows.dtype == np.intp


@given(bars(), ALIASES)
def test_aliases_are_the_first_bars_at_or_after_their_dates(index: pd.DatetimeIndex, alias: str) -> None:
    boundaries = pd.date_range(index[0].normalize(), index[-1], freq=alias)
    between = [bool(((boundaries > before) & (boundaries <= now)).any()) for before, now in pairwise(index)]
    assert check_rows(index, alias).tolist() == [0, *(np.flatnonzero(between) + 1)]


@given(bars(), PRESETS | ALIASES | st.integers(1, 20), st.sampled_from(["first", "last"]), st.data())
def test_later_bars_change_no_check_before_them(
    index: pd.DatetimeIndex, every: str | int, on: Any, data: st.DataObject
) -> None:
    known = data.draw(st.integers(1, len(index)))
    first = data.draw(st.integers(0, known - 1))
    on = "first" if isinstance(every, int) or every not in FREQUENCIES else on
    whole = check_rows(index, every, first=first, on=on)
    assert check_rows(index[:known], every, first=first, on=on).tolist() == whole[whole < known].tolist()


@given(st.data())
def test_the_last_day_of_a_period_is_the_calendars(data: st.DataObject) -> None:
    start = pd.Timestamp("2015-01-01", tz="UTC") + pd.Timedelta(days=data.draw(st.integers(0, 3000)))
    index = pd.date_range(start, periods=400)
    monthly, yearly = (index[check_rows(index, every, on="last")][1:] for every in ("monthly", "yearly"))
    assert monthly.is_month_end.all() and yearly.is_year_end.all()
    assert set(monthly) == set(index[1:][index[1:].is_month_end])
    weekly = index[check_rows(index, "weekly", on="last", weekday="wednesday")][1:]
    assert (weekly.day_name() == "Tuesday").all()


def test_a_last_day_without_a_bar_moves_forward_and_a_business_month_end_does_not() -> None:
    weekdays = pd.bdate_range("2024-02-26", "2024-07-05", tz="UTC")  # March and June end on a weekend
    days = [f"{day:%m-%d}" for day in weekdays[check_rows(weekdays, "monthly", on="last")]]
    assert days == ["02-26", "02-29", "04-01", "04-30", "05-31", "07-01"]
    business = [f"{day:%m-%d}" for day in weekdays[check_rows(weekdays, "BME")]]
    assert business == ["02-26", "02-29", "03-29", "04-30", "05-31", "06-28"]


def test_a_period_without_a_bar_is_not_made_up_for() -> None:
    index = pd.DatetimeIndex(["2024-01-05", "2024-04-20", "2024-04-21", "2024-05-02"], tz="UTC")
    assert check_rows(index, "monthly").tolist() == [0, 1, 3] == check_rows(index, "MS").tolist()


def test_time_zones_are_utc() -> None:
    evening = pd.date_range("2024-01-30 20:00", periods=4, freq="D", tz="America/New_York")  # 01:00 UTC of the next day
    assert check_rows(evening, "monthly").tolist() == [0, 1] == check_rows(evening, "MS").tolist()


@given(bars(), st.data())
def test_dates_of_ones_own_are_all_kept(index: pd.DatetimeIndex, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, int((index[-1] - index[0]).total_seconds() // 3600)), max_size=6))
    dates = [index[0] + pd.Timedelta(hours=hours) for hours in chosen]
    expected = {0, *(next(t for t, ts in enumerate(index) if ts >= day) for day in dates)}
    assert check_rows(index, dates).tolist() == sorted(expected)


def test_dates_may_be_written_in_many_ways() -> None:
    index = pd.date_range("2024-01-01", periods=40, tz="UTC")
    ways: list[Any] = [
        ["2024-01-10", "2024-02-03"],
        [date(2024, 1, 10), date(2024, 2, 3)],
        [datetime(2024, 2, 3, tzinfo=UTC), datetime(2024, 1, 10, tzinfo=UTC)],
        pd.DatetimeIndex(["2024-01-10", "2024-02-03"]),
        pd.Series(pd.to_datetime(["2024-01-10", "2024-02-03"], utc=True)),
        ("2024-01-09T01:00", "2024-02-02T23:59+00:00"),
    ]
    assert all(check_rows(index, way).tolist() == [0, 9, 33] for way in ways)
    assert check_rows(index, [], first=3).tolist() == [3]


INDEX = pd.date_range("2024-01-01", periods=40, tz="UTC")


@pytest.mark.parametrize(
    ("every", "options", "told"),
    [
        (0, {}, "every is 0 rows; give 1 or more"),
        (True, {}, "every is True rows"),
        (timedelta(0), {}, "every is 0:00:00; an interval is positive"),
        ("fortnightly", {}, "'fortnightly'; it is a number of rows, one of daily"),
        ("M", {}, "an alias of pandas such as MS, ME"),
        ("-1D", {}, "every is '-1D'"),
        ("monthly", {"on": "middle"}, "on is 'middle'"),
        ("ME", {"on": "last"}, "aliases .ME is a month's end. and dates say it themselves"),
        (5, {"on": "last"}, "last only with daily, weekly"),
        ("weekly", {"weekday": "fri"}, "weekday is 'fri'; it is one of monday"),
        (["soon"], {}, "no list of dates"),
        ([None], {}, "one of the dates is missing"),
        (["2023-12-31"], {}, "no bar for a check on 2023-12-31: the bars run from 2024-01-01 to 2024-02-09"),
        (["2024-01-20", "2024-02-10"], {}, "no bar for a check on 2024-02-10"),
        (["2024-01-20", "2024-01-09"], {"first": 10}, "2024-01-09 comes too early: the first one possible is on 2024-01-11"),
        ("monthly", {"first": 40}, "first check is on row 40, and there are 40 rows"),
        ("monthly", {"first": -1}, "first check is on row -1"),
    ],
)
def test_what_is_no_calendar_is_refused(every: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, DataError), match=told):
        check_rows(INDEX, every, **options)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (INDEX.tz_localize(None), "time zone"),
        (pd.RangeIndex(5), "DatetimeIndex"),
        (INDEX[::-1], "must ascend"),
        (INDEX[[0, 1, 1, 2]], "must ascend"),
        (INDEX[:0], "there are 0 rows"),
    ],
)
def test_an_index_without_a_calendar_is_refused(index: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_rows(index, "monthly")


@given(bars(), st.integers(1, 24 * 30), st.data())
def test_an_interval_is_waited_out(index: pd.DatetimeIndex, hours: int, data: st.DataObject) -> None:
    first, wait = data.draw(st.integers(0, len(index) - 1)), timedelta(hours=hours)
    decided = [first]
    for t in range(first + 1, len(index)):
        if new_slot(index[decided[-1]], index[t], wait):
            decided.append(t)
    rows = check_rows(index, wait, first=first)
    assert rows.tolist() == decided and rows.dtype == np.intp
    known = data.draw(st.integers(first + 1, len(index)))
    assert check_rows(index[:known], wait, first=first).tolist() == rows[rows < known].tolist()


@given(bars(), PRESETS, st.sampled_from(WEEK))
def test_the_bot_asks_the_same_question(index: pd.DatetimeIndex, every: str, weekday: Any) -> None:
    decided = [0]
    for t in range(1, len(index)):
        if new_slot(index[decided[-1]], index[t], every, weekday=weekday):
            decided.append(t)
    assert decided == check_rows(index, every, weekday=weekday).tolist()


def test_a_slot_never_begins_backwards_and_its_name_is_checked() -> None:
    late, early = pd.Timestamp("2024-03-01", tz="UTC"), pd.Timestamp("2024-01-01", tz="UTC")
    assert new_slot(early, late, "monthly") and not new_slot(late, early, "monthly")
    with pytest.raises(ConfigError, match="frequency is 'MS'; it is one of daily"):
        new_slot(early, late, "MS")
