"""How values become text in the store, and come back.

Times are fixed-width ISO-8601 text in UTC, because text of one width sorts as the times do, on every database.
JSON has no NaN: a number that could not be computed is null, never 0.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from portfolio_research.config import StoreError


def to_text(ts: datetime) -> str:
    """A time as it is stored, to the microsecond, so that it compares equal when it is read back."""
    if ts.tzinfo is None:
        raise StoreError(f"time {ts!r} has no zone: give it one, e.g. ts.replace(tzinfo=UTC)")
    return ts.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """The time that `to_text` wrote."""
    return datetime.fromisoformat(text).astimezone(UTC)


def short(text: str | None) -> str | None:
    """A stored time as people and browsers read it: without a fraction that is zero."""
    return text.replace(".000000Z", "Z") if text else None


def to_decimal(value: float) -> Decimal:
    """The decimal that a float prints as: 0.1 becomes 0.1, not its 55 binary digits."""
    return Decimal(repr(float(value)))


def to_json(value: object) -> str:
    """Compact JSON of plain values, dataclasses, decimals, times and array scalars; non-finite numbers become null."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def plain(value: Any) -> Any:
    """The same value in JSON's own types."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, datetime):
        return short(to_text(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    for method in (
        "to_dict",
        "tolist",
        "item",
    ):  # Series, arrays, array scalars: known by what they offer, not imported
        convert = getattr(value, method, None)
        if callable(convert):
            return plain(convert())
    raise StoreError(f"a {type(value).__name__} cannot be stored as JSON: pass plain numbers, text, lists and dicts")
