"""The body of a request that changes something: every field is checked before anything is done."""

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from portfolio_research.alert_people import LONGEST
from portfolio_research.alerts import Severity
from portfolio_research.dashboard.backend import Refused

MAX_COMMENT = 500
MAX_NAME = 80
MAX_HOURS = LONGEST / timedelta(hours=1)
_SHAPE = 'send {"who": "your name", "comment": "..."}'


class Form:
    """A JSON object with known fields; what is wrong with one is said with what would be right."""

    def __init__(self, body: bytes, fields: Collection[str]) -> None:
        try:
            given = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise Refused("the body is not a JSON object", _SHAPE, 400)
        if unknown := sorted(given.keys() - set(fields)):
            raise Refused(f"unknown field {unknown[0][:40]!r}", f"there is: {', '.join(fields)}", 400)
        self._given: dict[str, Any] = given

    def who(self) -> str:
        """The person who acts."""
        return self.text("who", MAX_NAME, "say who acts, in {} characters at most", needed=True)

    def text(self, name: str, longest: int, remedy: str = "use {} characters at most", *, needed: bool = False) -> str:
        """A text without white space around it."""
        value = self._given.get(name)
        value = "" if value is None else value
        if not isinstance(value, str) or len(value) > longest or not _writable(value):
            raise Refused(f"{name!r} is too long or no text", remedy.format(longest), 400)
        if needed and not value.strip():
            raise Refused(f"{name!r} is missing", remedy.format(longest), 400)
        return value.strip()

    def flag(self, name: str) -> bool:
        """True or false; false if it is not there."""
        value = self._given.get(name, False)
        if not isinstance(value, bool):
            raise Refused(f"{name!r} is neither true nor false", "leave it out, or send true or false", 400)
        return value

    def severity(self, name: str, default: Severity) -> Severity:
        """One of the four severities."""
        value = self._given.get(name, default)
        if value not in list(Severity):
            raise Refused(f"{name!r} is no severity", f"choose one of {', '.join(Severity)}", 400)
        return Severity(value)

    def end(self, now: datetime, *, needed: bool = False) -> datetime | None:
        """The end that `hours` from now or `until` gives; None if neither is there."""
        hours, until = self._given.get("hours"), self._given.get("until")
        if hours is not None and until is not None:
            raise Refused("'hours' and 'until' exclude each other", "send one of them", 400)
        if hours is None and until is None:
            if needed:
                raise Refused("'hours' is missing", "say for how many hours, or 'until' when", 400)
            return None
        end = _time(until) if hours is None else now + timedelta(hours=_hours(hours))
        if not now < end <= now + LONGEST:
            raise Refused("'until' is past, or too far away", f"choose a time within {LONGEST.days} days", 400)
        return end


def _writable(text: str) -> bool:
    """Whether it can be stored: half a character cannot."""
    return "\0" not in text and text == text.encode(errors="ignore").decode()


def _hours(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_HOURS:
        return float(value)
    raise Refused("'hours' is no number of hours that can be", f"send a number above 0, up to {MAX_HOURS:g}", 400)


def _time(value: object) -> datetime:
    try:
        end = datetime.fromisoformat(value if isinstance(value, str) else "")
        return end.astimezone(UTC) if end.tzinfo else end.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Refused("'until' is no time", "write it as 2026-03-12T18:00:00Z", 400) from None
