"""Files of what a venue once told: a row is added at the end and never changed, and each says where it comes from.

A venue serves only its newest candles, so what was fetched is kept for good. Each venue has a folder of its own,
because the prices of two are never put together.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from portfolio_research.config import StoreError, VenueError

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole in what is kept: nothing is known between two rows."""

    after: datetime  # the last row before it
    before: datetime  # the first row after it
    missing: int  # rows that would fill it


@dataclass(frozen=True, slots=True)
class Kept:
    """What is on disk of one coin after it was asked for."""

    coin: str
    new: int  # rows that this time were added
    times: Sequence[datetime]  # of all rows, oldest first
    gaps: Sequence[Gap]
    revised: Sequence[datetime] = ()  # rows of which the venue now says otherwise; they stay as they were first seen


class RowFile:
    """A CSV file that only grows. Its last two columns say who told it and when we asked.

    A crash in the midst of a write leaves a last line without its end: nobody reads it, and the next write cuts it off.
    """

    def __init__(self, path: Path, columns: Sequence[str], source: str) -> None:
        self.path = path
        self.columns = (*columns, "source", "fetched_at")
        self.source = source

    def read(self, parse: Callable[[dict[str, str]], Row]) -> list[Row]:
        """All rows in the order of the file."""
        if not self.path.exists():
            return []
        try:
            text = _whole(self.path.read_bytes()).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.path} cannot be read ({error}): move it away, it is fetched anew") from error
        return list(self._parsed(text, parse))

    def _parsed(self, text: str, parse: Callable[[dict[str, str]], Row]) -> Iterator[Row]:
        lines = csv.DictReader(io.StringIO(text, newline=""))
        if text and tuple(lines.fieldnames or ()) != self.columns:
            found, wanted = ", ".join(lines.fieldnames or ()), ", ".join(self.columns)
            raise StoreError(f"{self.path} has the columns {found}, not {wanted}: move it away, it is fetched anew")
        for row in lines:
            try:
                if None in row or None in row.values():
                    raise ValueError(f"it has not {len(self.columns)} columns")
                if row["source"] == self.source:
                    yield parse(row)
                    continue
            except (TypeError, ValueError) as error:
                raise StoreError(
                    f"{self.path}, line {lines.line_num}, cannot be read ({error}): take the line out, it is "
                    "fetched anew where the venue still serves it"
                ) from error
            raise StoreError(
                f"{self.path}, line {lines.line_num}: this row comes from {row['source']}, not from {self.source}: "
                "prices of two venues are never put together; move the file away, or set data.base_url back"
            )

    def append(self, rows: Iterable[Sequence[object]], fetched: datetime) -> None:
        """Add rows at the end and wait for the disk. The caller holds the folder's lock."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        told = (self.source, fetched.isoformat(timespec="seconds"))
        writer.writerows((*row, *told) for row in rows)
        if not (body := text.getvalue()):
            return
        try:
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                end = len(_whole(file.read()))
                file.truncate(end)
                file.seek(end)
                file.write(("" if end else ",".join(self.columns) + "\n").encode() + body.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}: free space, or make the folder writable") from error


class VenueFolder:
    """The folder of one venue: its files, from when on each was asked for, and one lock for all who write."""

    def __init__(self, cache_dir: Path | str, source: str) -> None:
        self.above = Path(cache_dir)
        self.source = source
        self.path = self.above / re.sub(r"[^A-Za-z0-9.-]+", "_", source.partition("://")[2])

    def file(self, coin: str, kind: str, columns: Sequence[str]) -> RowFile:
        """The file of a coin: `BTC_1d.csv`. One of earlier versions, which kept all venues in one folder, moves in."""
        if not coin or not all(letter.isalnum() or letter in "-_" for letter in coin):
            raise VenueError(f"{coin!r} is no name of a coin: letters and digits, as BTC or kPEPE")
        file = RowFile(self.path / f"{coin}_{kind}.csv", columns, self.source)
        earlier = self.above / file.path.name
        if earlier.exists() and not file.path.exists() and _source_of(earlier) == self.source:
            with self.locked():
                if earlier.exists() and not file.path.exists():  # nobody else was faster
                    earlier.rename(file.path)
        return file

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who writes here. The kernel lets go when a process dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}: make the folder writable, or give another") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def asked_from(self, name: str) -> datetime:
        """From when on the rows of a file were ever asked for: what is absent since then, the venue does not have."""
        try:
            return datetime.fromisoformat(self._asked()[name])
        except (KeyError, TypeError, ValueError):
            return datetime.max.replace(tzinfo=UTC)

    def note_asked(self, name: str, start: datetime) -> None:
        """Remember it. The caller holds the lock; a note that is lost costs one question."""
        if start >= self.asked_from(name):
            return
        partial = self.path / ".asked.partial"
        partial.write_text(json.dumps(self._asked() | {name: start.isoformat()}, indent=0), encoding="utf-8")
        partial.replace(self.path / "asked.json")

    def _asked(self) -> dict[str, str]:
        try:
            found = json.loads((self.path / "asked.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _whole(content: bytes) -> bytes:
    """The lines that have their end."""
    return content[: content.rfind(b"\n") + 1]


def _source_of(path: Path) -> str:
    """Who told the first row of a file."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return next((str(row.get("source")) for row in csv.DictReader(file)), "")
