"""The snapshot: the one versioned picture of a portfolio that dashboard, REST interface, report and messages share.

It is read from the store alone, in one consistent read, by plain Python: a dashboard asks for it every few seconds and
must not pay for arrays. Every number is finite or null, every loss is positive except in the drawdown series, times are
ISO-8601 in UTC.
"""
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from portfolio_research.alerts import AlertState
from portfolio_research.config import ConfigError, DashboardSettings, DataSettings, PortfolioSettings
from portfolio_research.store import ledger, schema, telemetry
from portfolio_research.store.alert_view import Viewer, active_alerts, count_alerts, history, silence_view
from portfolio_research.store.database import Store
from portfolio_research.store.encoding import plain, short, to_text
from portfolio_research.store.outbox import delivery_view

SCHEMA = 1
WINDOWS = {"30d": 30, "90d": 90, "180d": 180, "1y": 365, "all": None}  # days of market time
MAX_POINTS = 1500  # of each chart line
REPLAY_SILENCE = 15.0  # seconds without a sign of life after which a replay's engine counts as stale
_HISTORY = 20  # rebalances and resolved alerts that are listed, active ones that come with what happened lately
_EVENTS = 6  # newest events of an active alert
_TRADE_KEYS = (
    "asset", "side", "current_weight", "target_weight", "drift", "amount_to_trade", "urgency", "estimated_cost",
    "use_twap", "reason", "urgency_reason",
)  # fmt: skip
_METRIC_KEYS = ("name", "label", "value", "low", "high", "unit", "better", "formula", "source")


def portfolios(store: Store) -> list[str]:
    """Names of the portfolios in the store."""
    with store.read() as conn:
        return ledger.portfolio_names(conn)


def build_snapshot(
    store: Store, portfolio: str, *, window: str = "90d", now: datetime | None = None, reports: Path | None = None
) -> dict[str, Any]:
    """The whole picture as JSON's own types. `now` is the wall clock; `reports` the folder of rendered reports.

    `window` counts back from the newest bar and bounds the charts. Every profit is after costs, and counts from what
    the portfolio was worth before: `pnl_day` one bar ago, `pnl_window` when the window began, the capital before the
    first.
    """
    wall = now or datetime.now(UTC)
    with store.read() as conn:
        view = _View.load(conn, portfolio, window)
        picture = {
            "schema": SCHEMA,
            "portfolio": portfolio,
            "quote": view.row.quote,
            "mode": view.row.mode,
            "source": view.row.source,
            "as_of": view.as_of,
            "window": window,
            "generated_at": wall,
            "engine": _engine(conn, view, wall),
            "refresh": _refresh(view),
            "overview": _overview(conn, view),
            "limits": _limits(view),
            "equity": _curve(view),
            "allocation": _allocation(view),
            "positions": _positions(conn, view),
            "alerts": _alerts(conn, view, wall),
            "monitor": _monitor(conn, view, wall),
            "delivery": delivery_view(conn, portfolio, _HISTORY),
            "rebalancing": _rebalancing(conn, view),
            "metrics": [_only(metric, _METRIC_KEYS) for metric in view.report.get("metrics") or []],
            "periods_per_year": view.report.get("periods_per_year") or _periods_per_year(view),
            "risk_free_rate": _risk_free_rate(view),
            "reports": _reports(reports or Path(store.where).parent / "reports"),
        }
    made: dict[str, Any] = plain(picture)
    return made


@dataclass(frozen=True, slots=True)
class _View:
    """What several sections need, read once."""

    row: Row[Any]
    settings: Mapping[str, Any]
    holdings: Sequence[ledger.Holding]
    cash: Decimal
    as_of: datetime | None
    since: datetime | None  # when the window begins; None: at the very beginning
    curve: Sequence[Row[Any]]  # equity rows inside the window, oldest first
    report: Mapping[str, Any]
    targets: Mapping[str, float]
    decision: ledger.RebalanceRow | None

    @classmethod
    def load(cls, conn: Connection, portfolio: str, window: str) -> "_View":
        row = ledger.portfolio_row(conn, portfolio)
        as_of = telemetry.newest_bar(conn, portfolio)
        report = telemetry.latest_report(conn, portfolio)
        targets = telemetry.latest_targets(conn, portfolio)
        since = _window_start(window, as_of)
        return cls(
            row=row,
            settings=json.loads(row.settings),
            holdings=ledger.holdings(conn, portfolio),
            cash=Decimal(row.cash),
            as_of=as_of,
            since=since,
            curve=_equity_rows(conn, portfolio, since),
            report=report[1] if report else {},
            targets=targets[1] if targets else {},
            decision=next(iter(ledger.rebalances(conn, portfolio, limit=1)), None),
        )

    @property
    def equity(self) -> Decimal:
        return self.cash + sum((h.size * h.mark_price for h in self.holdings), Decimal(0))

    @property
    def decided(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.decision.decision) if self.decision else {}
        return found

    def weight(self, value: Decimal) -> float | None:
        return float(value / self.equity) if self.equity > 0 else None

    def setting(self, key: str) -> Any:
        """A setting of the run that wrote the store, or its default."""
        for source in (self.settings, _DEFAULTS):
            value: Any = source
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        return None


_DEFAULTS = {
    "portfolio": PortfolioSettings().model_dump(),
    "dashboard": DashboardSettings().model_dump(),
    "data": DataSettings().model_dump(),
}


def _window_start(window: str, as_of: datetime | None) -> datetime | None:
    if window not in WINDOWS:
        raise ConfigError(f"window {window!r} is not known: choose one of {', '.join(WINDOWS)}")
    days = WINDOWS[window]
    return as_of - timedelta(days=days) if as_of and days else None


def _equity_rows(conn: Connection, portfolio: str, since: datetime | None) -> Sequence[Row[Any]]:
    table = schema.equity
    query = select(table).where(table.c.portfolio == portfolio).order_by(table.c.ts)
    return conn.execute(query.where(table.c.ts >= to_text(since)) if since else query).all()


# Sections


def _engine(conn: Connection, view: _View, wall: datetime) -> dict[str, Any]:
    beat = telemetry.heartbeats(conn, view.row.name).get("engine")
    if beat is None:
        nothing = {"heartbeat": None, "age_seconds": None, "pid": None, "speed": None, "detail": ""}
        return {"state": "never started", **nothing, "warming_up": False}
    age = max(0.0, (wall - beat.at).total_seconds())
    allowed = REPLAY_SILENCE if beat.speed is not None else 2 * view.setting("portfolio.monitoring.check_interval")
    ended = beat.state in ("stopped", "halted")
    state = beat.state if ended else "stale" if age > allowed else "running"
    return {
        "state": state, "heartbeat": beat.at, "age_seconds": age, "pid": beat.pid, "speed": beat.speed,
        "detail": beat.detail,
        "warming_up": state == "running" and beat.state != "running",
    }  # fmt: skip


def _refresh(view: _View) -> dict[str, Any]:
    return {
        "metrics_seconds": view.setting("dashboard.refresh_seconds"),
        "charts_seconds": view.setting("dashboard.chart_refresh_seconds"),
    }


def _overview(conn: Connection, view: _View) -> dict[str, Any]:
    now, capital = float(view.equity), float(view.row.capital)
    past = _past(conn, view)
    peak = max(now, past.peak)
    drawdown = 1 - now / peak
    return {
        "equity": now,
        "cash": view.cash,
        **_change("day", now, past.before),
        **_change("window", now, past.began),
        **_change("total", now, capital),
        "drawdown": drawdown,
        "max_drawdown": max(drawdown, past.worst),
        "risk_score": view.report.get("risk_score"),
        "risk_score_parts": view.report.get("risk_score_parts") or {},
        "positions": len(view.holdings),
        "regime": view.report.get("regime"),
        "regime_since": view.report.get("regime_since"),
        "regime_probability": view.report.get("regime_probability"),
    }


@dataclass(frozen=True, slots=True)
class _Past:
    peak: float  # highest equity of any finished bar, or the capital
    worst: float  # deepest drawdown of any finished bar, positive
    before: float | None  # equity one bar before the newest, or the capital; None before the first bar
    began: float | None  # equity when the window began, or the capital; None before the first bar


def _past(conn: Connection, view: _View) -> _Past:
    table = schema.equity
    mine = table.c.portfolio == view.row.name
    peak, worst = conn.execute(select(func.max(table.c.equity), func.min(table.c.drawdown)).where(mine)).one()
    capital, newest = float(view.row.capital), to_text(view.as_of) if view.as_of else None

    def worth(when: ColumnElement[bool]) -> float:
        """Equity of the newest of these bars; without any, what the portfolio was given."""
        newest_first = select(table.c.equity).where(mine, when).order_by(table.c.ts.desc())
        found = conn.execute(newest_first.limit(1)).scalar()
        return capital if found is None else float(found)

    before = worth(table.c.ts < newest) if newest else None
    began = worth(table.c.ts <= to_text(view.since)) if view.since else capital if newest else None
    return _Past(max(capital, peak or 0.0), -(worst or 0.0), before, began)


def _change(name: str, now: float, before: float | None) -> dict[str, float | None]:
    if before is None:
        return {f"pnl_{name}": None, f"pnl_{name}_pct": None}
    return {f"pnl_{name}": now - before, f"pnl_{name}_pct": now / before - 1 if before > 0 else None}


def _limits(view: _View) -> dict[str, Any]:
    return {
        "max_drawdown_warning": view.setting("portfolio.monitoring.alerts.max_drawdown_warning"),
        "max_drawdown_critical": view.setting("portfolio.monitoring.alerts.max_drawdown_critical"),
        "tolerance": view.setting("portfolio.rebalancing.tolerance"),
    }


def _curve(view: _View) -> dict[str, list[Any]]:
    rows = _thinned(view.curve)
    columns = {name: [getattr(row, name) for row in rows] for name in ("equity", "drawdown", "benchmark")}
    return {"t": [short(row.ts) for row in rows], **columns}


def _thinned(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """At most `MAX_POINTS` rows: both ends, and the lowest and highest of each stretch, so that no trough is lost."""
    if len(rows) <= MAX_POINTS:
        return rows
    stretches = (MAX_POINTS - 2) // 2
    keep = {0, len(rows) - 1}
    for n in range(stretches):
        stretch = range(n * len(rows) // stretches, (n + 1) * len(rows) // stretches)
        keep |= {min(stretch, key=lambda i: rows[i].equity), max(stretch, key=lambda i: rows[i].equity)}
    return [rows[i] for i in sorted(keep)]


def _allocation(view: _View) -> list[dict[str, Any]]:
    held = {h.asset: view.weight(h.size * h.mark_price) for h in view.holdings}
    shares = view.report.get("risk_contributions") or {}
    tolerance = view.decided.get("tolerance") or view.setting("portfolio.rebalancing.tolerance")
    advice = view.decided.get("recommendations") or []
    own = {item["asset"]: item["tolerance"] for item in advice if "tolerance" in item}
    assets = sorted({*held, *view.targets}, key=lambda asset: (-(held.get(asset) or 0.0), asset))
    return [
        {
            "asset": asset, "weight": held.get(asset, 0.0), "target": view.targets.get(asset),
            "tolerance": own.get(asset, tolerance),
            "risk_contribution": shares.get(asset),
        }
        for asset in assets
    ]  # fmt: skip


def _positions(conn: Connection, view: _View) -> list[dict[str, Any]]:
    days = _day_gains(conn, view)
    rows = [
        {
            "asset": h.asset,
            "size": h.size,
            "entry_price": h.entry_price,
            "mark_price": h.mark_price,
            "value": h.size * h.mark_price,
            "weight": view.weight(h.size * h.mark_price),
            "pnl": h.size * (h.mark_price - h.entry_price),
            "pnl_pct": (h.mark_price / h.entry_price - 1) * (1 if h.size > 0 else -1),
            "pnl_day": days[h.asset],
        }
        for h in view.holdings
    ]
    return sorted(rows, key=lambda row: (-abs(row["value"]), row["asset"]))


def _day_gains(conn: Connection, view: _View) -> dict[str, Decimal | None]:
    """What each position gained since the bar before: value now, less value then, less what was paid in between."""
    name = view.row.name
    dates, assets, closes = telemetry.bars(conn, name, 2)
    before = dict(zip(assets, closes[0], strict=True)) if len(dates) == 2 else {}
    since = ledger.fills(conn, name, since=dates[0]) if dates else []
    recent = [f for f in since if not before or f.ts > dates[0]]
    return {h.asset: _gain(h, before.get(h.asset), [f for f in recent if f.asset == h.asset]) for h in view.holdings}


def _gain(holding: ledger.Holding, before: float | None, fills: Sequence[ledger.Fill]) -> Decimal | None:
    held_before = holding.size - sum((f.size for f in fills), Decimal(0))
    paid = sum((f.size * f.price + f.fee for f in fills), Decimal(0))
    if held_before and (before is None or before != before):
        return None
    return holding.size * holding.mark_price - held_before * Decimal(repr(before or 0.0)) - paid


def _alerts(conn: Connection, view: _View, wall: datetime) -> dict[str, Any]:
    """What fires, the worst first, what is over, and what people do not want to hear."""
    table, name = schema.alert, view.row.name
    viewer = Viewer.load(conn, name, view.settings, wall)
    active = active_alerts(conn, viewer)
    for rank, alert in enumerate(active):
        alert["history"] = history(conn, name, [alert["id"]], _EVENTS) if rank < _HISTORY else []
    over = select(table.c.payload).where(table.c.portfolio == name, table.c.state == "resolved")
    newest = conn.execute(over.order_by(table.c.updated.desc(), table.c.id).limit(_HISTORY)).scalars()
    return {
        "active": active,
        "recent": [viewer.alert(AlertState.from_dict(json.loads(payload))) for payload in newest],
        "silences": [silence_view(one) for one in viewer.silences],
        "counts": count_alerts(active),
        "acknowledged_hours": view.setting("portfolio.monitoring.lifecycle.acknowledged_hours"),
    }


def _monitor(conn: Connection, view: _View, wall: datetime) -> dict[str, Any]:
    """When the rules were last applied: the alerts are as old as that, however alive the engine is."""
    beat = telemetry.heartbeats(conn, view.row.name).get("monitor")
    if beat is None:
        return {"last_check": None, "age_seconds": None, "late": False}
    age = max(0.0, (wall - beat.at).total_seconds())
    late = age > 2 * view.setting("portfolio.monitoring.check_interval")
    return {"last_check": beat.at, "age_seconds": age, "late": late}


def _rebalancing(conn: Connection, view: _View) -> dict[str, Any]:
    decided = view.decided
    return {
        "decided_at": view.decision.slot if view.decision else None,  # market time
        "rebalance": bool(decided.get("rebalance")),
        "reason": view.decision.reason if view.decision else "no decision yet",
        "tolerance": decided.get("tolerance"),
        "tolerance_mode": decided.get("tolerance_mode") or "absolute",
        "notes": [text for text in (*(decided.get("notes") or ()), decided.get("warning")) if text],
        "regime": decided.get("regime"),
        "estimated_cost": decided.get("estimated_cost"),
        "recommendations": [_only(item, _TRADE_KEYS) for item in decided.get("recommendations") or []],
        "history": _history(conn, view.row.name),
    }


def _history(conn: Connection, portfolio: str) -> list[dict[str, Any]]:
    """Rebalances that traded, newest first: days on which nothing was to be done say nothing here."""
    rows = ledger.rebalances(conn, portfolio, limit=_HISTORY, declined=False)
    fills = ledger.fills_of_rebalances(conn, [row.id for row in rows])
    return [
        {
            "slot": row.slot, "state": row.state, "reason": row.reason,
            "trades": len({f.asset for f in fills[row.id]}),  # slices of one order are one trade
            "traded": sum((abs(f.size * f.price) for f in fills[row.id]), Decimal(0)),
            "fees": sum((f.fee for f in fills[row.id]), Decimal(0)),
        }
        for row in rows
    ]  # fmt: skip


def _periods_per_year(view: _View) -> float:
    explicit = view.setting("portfolio.analytics.periods_per_year")
    if explicit is not None:
        return float(explicit)
    return 252.0 if view.setting("data.source") == "sample" else 365.0


def _risk_free_rate(view: _View) -> Any:
    """What the metrics were computed with; settings may have changed since."""
    used = view.report.get("risk_free_rate")
    return view.setting("portfolio.analytics.risk_free_rate") if used is None else used


def _reports(folder: Path) -> list[dict[str, Any]]:
    """Rendered reports, newest first; the date in a file's name is the day it speaks of."""
    found = []
    for path in folder.glob("**/*.html"):
        day = re.search(r"\d{4}-\d{2}-\d{2}", path.name)
        found.append({"as_of": day.group() if day else None, "url": f"/reports/{path.relative_to(folder).as_posix()}"})
    return sorted(found, key=lambda report: (report["as_of"] or "", report["url"]), reverse=True)


def _only(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: values.get(key) for key in keys}
