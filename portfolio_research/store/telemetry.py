"""Telemetry: bars, equity, reports, targets and signs of life. What may be computed again, unlike the ledger.

Every function takes the connection first. A bar that is worked on a second time, after a crash, leaves one row.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select

from portfolio_research.config import StoreError
from portfolio_research.store import schema
from portfolio_research.store.database import upsert
from portfolio_research.store.encoding import from_text, to_json, to_text

if TYPE_CHECKING:
    import pandas as pd

BarRows = Iterable[tuple[datetime, Mapping[str, float]]]  # (market time, close by asset)


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """The portfolio after all trades of one bar, in quote currency."""

    ts: datetime
    equity: float
    cash: float
    drawdown: float  # <= 0
    benchmark: float | None  # equal-weight buy-and-hold from the same start and capital


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last sign of life of a process."""

    process: str
    state: str  # starting | warming up | running | stopped | halted
    detail: str
    pid: int
    speed: float | None  # bars per second of a replay; None: real time
    at: datetime  # wall clock


def record_bars(conn: Connection, portfolio: str, rows: BarRows) -> int:
    """Record closes; return how many were new.

    NaN means no bar and leaves none. A close that differs from the recorded one is refused: decisions were made on it.
    """
    given = {
        (to_text(ts), asset): float(close)
        for ts, closes in rows
        for asset, close in closes.items()
        if not math.isnan(close)
    }
    if not given:
        return 0
    times = [ts for ts, _ in given]
    known = _closes(conn, portfolio, min(times), max(times))
    for (ts, asset), close in given.items():
        if known.get((ts, asset), close) != close:
            raise StoreError(
                f"{asset} on {ts}: close {close} differs from the recorded {known[ts, asset]}: "
                "the source has changed; use the former one, or choose another portfolio.name"
            )
    new = [
        {"portfolio": portfolio, "ts": ts, "asset": asset, "close": close}
        for (ts, asset), close in given.items()
        if (ts, asset) not in known
    ]
    if new:
        conn.execute(insert(schema.bar), new)
    return len(new)


def bars(
    conn: Connection,
    portfolio: str,
    n: int,
    until: datetime | None = None,
) -> tuple[list[datetime], list[str], list[list[float]]]:
    """The last `n` bars up to and including `until`: times, assets, and one row of closes per time (NaN: no bar)."""
    table = schema.bar
    query = select(table.c.ts).where(table.c.portfolio == portfolio).distinct().order_by(table.c.ts.desc()).limit(n)
    texts = list(conn.execute(query.where(table.c.ts <= to_text(until)) if until else query).scalars())[::-1]
    if not texts:
        return [], [], []
    closes = _closes(conn, portfolio, texts[0], texts[-1])
    assets = sorted({asset for _, asset in closes})
    return (
        [from_text(ts) for ts in texts],
        assets,
        [[closes.get((ts, asset), math.nan) for asset in assets] for ts in texts],
    )


def bars_frame(conn: Connection, portfolio: str, n: int, until: datetime | None = None) -> "pd.DataFrame":
    """The same as a frame: UTC index named "date", one column per asset."""
    import pandas as pd  # here: whoever needs no frame does not pay for pandas

    dates, assets, rows = bars(conn, portfolio, n, until)
    return pd.DataFrame(rows, index=pd.DatetimeIndex(dates, name="date", tz="UTC"), columns=assets, dtype=float)


def newest_bar(conn: Connection, portfolio: str) -> datetime | None:
    """Market time of the newest recorded bar."""
    table = schema.bar
    query = select(table.c.ts).where(table.c.portfolio == portfolio).order_by(table.c.ts.desc()).limit(1)
    found = conn.execute(query).scalar()
    return from_text(found) if found else None


def record_equity(
    conn: Connection,
    portfolio: str,
    ts: datetime,
    equity: float,
    cash: float,
    drawdown: float,
    benchmark: float | None = None,
) -> None:
    """Record the portfolio's value on a bar; the last word on a bar counts."""
    comparison = None if benchmark is None or math.isnan(benchmark) else float(benchmark)
    values = {"equity": float(equity), "cash": float(cash), "drawdown": float(drawdown), "benchmark": comparison}
    for name in ("equity", "cash", "drawdown"):
        if not math.isfinite(values[name] or 0.0):
            raise StoreError(
                f"{name} of portfolio {portfolio} at {ts} is {values[name]}: not recorded, check the prices of that bar"
            )
    upsert(conn, schema.equity, {"portfolio": portfolio, "ts": to_text(ts), **values})


def equity(conn: Connection, portfolio: str, since: datetime | None = None) -> list[EquityPoint]:
    """The equity curve, oldest first."""
    table = schema.equity
    query = select(table).where(table.c.portfolio == portfolio).order_by(table.c.ts)
    rows = conn.execute(query.where(table.c.ts >= to_text(since)) if since else query)
    return [EquityPoint(from_text(row.ts), row.equity, row.cash, row.drawdown, row.benchmark) for row in rows]


def record_report(conn: Connection, portfolio: str, ts: datetime, payload: Mapping[str, Any]) -> None:
    """Record what was computed on a bar, as JSON; numbers that could not be computed become null."""
    upsert(conn, schema.report, {"portfolio": portfolio, "ts": to_text(ts), "payload": to_json(payload)})


def latest_report(
    conn: Connection, portfolio: str, until: datetime | None = None
) -> tuple[datetime, dict[str, Any]] | None:
    """The newest report and its market time."""
    table = schema.report
    query = select(table).where(table.c.portfolio == portfolio).order_by(table.c.ts.desc()).limit(1)
    row = conn.execute(query.where(table.c.ts <= to_text(until)) if until else query).one_or_none()
    return (from_text(row.ts), json.loads(row.payload)) if row is not None else None


def record_targets(
    conn: Connection, portfolio: str, ts: datetime, weights: Mapping[str, float], order: Sequence[str] = ()
) -> None:
    """Record the optimiser's target weights of a bar, and its leaf order if it has one."""
    for asset, weight in weights.items():
        if not math.isfinite(weight):
            raise StoreError(
                f"target weight of {asset} at {ts} is {weight}: not recorded, the optimiser's input must be checked"
            )
    at, table = to_text(ts), schema.target
    conn.execute(delete(table).where(table.c.portfolio == portfolio, table.c.ts == at))
    if strangers := sorted(set(order) - set(weights)):
        raise StoreError(f"the leaf order at {ts} names {', '.join(strangers)} without a weight: not recorded")
    place = {asset: leaf for leaf, asset in enumerate(order)}
    rows = [
        {"portfolio": portfolio, "ts": at, "asset": asset, "weight": float(weight), "place": place.get(asset)}
        for asset, weight in weights.items()
    ]
    if rows:
        conn.execute(insert(table), rows)


def latest_targets(
    conn: Connection, portfolio: str, until: datetime | None = None
) -> tuple[datetime, dict[str, float]] | None:
    """The newest target weights and their market time."""
    table = schema.target
    ts = _newest_targets(conn, portfolio, until)
    if ts is None:
        return None
    query = select(table.c.asset, table.c.weight).where(table.c.portfolio == portfolio, table.c.ts == ts)
    return from_text(ts), {row.asset: row.weight for row in conn.execute(query.order_by(table.c.asset))}


def latest_order(conn: Connection, portfolio: str) -> list[str]:
    """The leaf order that was recorded with the newest target weights; empty if there was none."""
    table = schema.target
    mine = table.c.portfolio == portfolio, table.c.ts == _newest_targets(conn, portfolio), table.c.place.is_not(None)
    return list(conn.execute(select(table.c.asset).where(*mine).order_by(table.c.place)).scalars())


def heartbeat(
    conn: Connection,
    portfolio: str,
    process: str,
    *,
    state: str,
    pid: int,
    detail: str = "",
    speed: float | None = None,
    now: datetime | None = None,
) -> None:
    """Say that `process` lives, and in which state."""
    values = {"state": state, "detail": detail, "pid": pid, "speed": speed, "at": to_text(now or datetime.now(UTC))}
    upsert(conn, schema.heartbeat, {"portfolio": portfolio, "process": process, **values})


def heartbeats(conn: Connection, portfolio: str) -> dict[str, Heartbeat]:
    """The last sign of life of each process."""
    table = schema.heartbeat
    rows: Sequence[Any] = conn.execute(select(table).where(table.c.portfolio == portfolio)).all()
    return {
        row.process: Heartbeat(row.process, row.state, row.detail, row.pid, row.speed, from_text(row.at))
        for row in rows
    }


def _newest_targets(conn: Connection, portfolio: str, until: datetime | None = None) -> str | None:
    table = schema.target
    query = select(table.c.ts).where(table.c.portfolio == portfolio).order_by(table.c.ts.desc()).limit(1)
    found: str | None = conn.execute(query.where(table.c.ts <= to_text(until)) if until else query).scalar()
    return found


def _closes(conn: Connection, portfolio: str, first: str, last: str) -> dict[tuple[str, str], float]:
    table = schema.bar
    within = table.c.ts.between(first, last)
    rows = conn.execute(select(table.c.ts, table.c.asset, table.c.close).where(table.c.portfolio == portfolio, within))
    return {(row.ts, row.asset): row.close for row in rows}
