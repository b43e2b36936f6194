"""A portfolio in a real store, as an engine would have left it in March 2020, for tests of the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import insert, update

from portfolio_research.alerts import AlertState, AlertType, Severity, fingerprint
from portfolio_research.config import Settings, store_url
from portfolio_research.data import sample_prices
from portfolio_research.settings import load_settings
from portfolio_research.store import Store, ledger, schema, telemetry
from portfolio_research.store.encoding import to_json, to_text

CAPITAL = 100_000.0
START, END = "2019-09-03", "2020-03-16"
SOURCE = "sample: US large caps, daily"


def settings_at(port: int, **portfolio: object) -> Settings:
    return load_settings(dashboard={"port": port}, portfolio=portfolio)


class World:
    """The store of one portfolio; tests move it on."""

    def __init__(self, settings: Settings, name: str = "main", rename: Mapping[str, str] | None = None) -> None:
        self.settings, self.name = settings, name
        prices = sample_prices().loc[START:END].rename(columns=rename or {})
        self.prices = prices
        self.path = Path(store_url(settings).removeprefix("sqlite:///"))
        self.store = Store.open(self.path)
        self._ledger()
        self._curve()
        self._report()
        self.beat()
        self.alert(
            "drawdown",
            "Drawdown",
            Severity.CRITICAL,
            AlertType.DRAWDOWN,
            "Drawdown 28.4 %, at or above 20 %",
            0.284,
            0.20,
        )
        self.alert(
            "var", "Value at risk", Severity.HIGH, AlertType.RISK, "Value at risk 8.3 %, at or above 8 %", 0.083, 0.08
        )
        self.alert(
            "volatility",
            "Volatility spike",
            Severity.MEDIUM,
            AlertType.VOLATILITY,
            "Short over long volatility 2.6, at or above 2",
            2.6,
            2,
        )
        self.alert(
            "sharpe",
            "Sharpe ratio",
            Severity.LOW,
            AlertType.PERFORMANCE,
            "Sharpe ratio -0.4, at or below 0",
            -0.4,
            0,
            "resolved",
        )

    @property
    def now(self) -> datetime:
        return self.prices.index[-1].to_pydatetime()

    def _weights(self) -> dict[str, float]:
        raw = {asset: 1.0 / (3 + rank) for rank, asset in enumerate(self.prices.columns)}
        return {asset: weight / sum(raw.values()) for asset, weight in raw.items()}

    def _ledger(self) -> None:
        first = self.prices.index[0].to_pydatetime()
        start = self.prices.iloc[0]
        shown = json.dumps(self.settings.model_dump(mode="json"))
        with self.store.begin() as conn:
            ledger.ensure_portfolio(conn, self.name, Decimal(str(CAPITAL)), "USD", "paper", SOURCE, shown)
            rows = [(ts.to_pydatetime(), dict(row)) for ts, row in self.prices.iterrows()]
            telemetry.record_bars(conn, self.name, rows)
            done = ledger.open_rebalance(
                conn, self.name, first, {"rebalance": True, "reason": "no positions yet"}, "executing"
            )
            for number, (asset, weight) in enumerate(self._weights().items()):
                size = Decimal(repr(round(CAPITAL * 0.985 * weight / float(start[asset]), 6)))
                order = ledger.PlannedOrder(
                    cloid=ledger.cloid(done, asset),
                    rebalance_id=done,
                    portfolio=self.name,
                    sequence=number,
                    asset=asset,
                    size=size,
                    decision_price=Decimal(repr(float(start[asset]))),
                    ts=first,
                )
                ledger.plan_orders(conn, [order])
                price = Decimal(repr(round(float(start[asset]) * 1.0005, 6)))
                fee = (size * price * Decimal("0.00045")).quantize(Decimal("0.000001"))
                ledger.record_fill(
                    conn,
                    ledger.Fill(
                        tid=f"t{order.cloid}",
                        cloid=order.cloid,
                        asset=asset,
                        size=size,
                        price=price,
                        fee=fee,
                        slippage=Decimal("0.5"),
                        ts=first,
                    ),
                )
            ledger.set_rebalance_state(conn, done, "done")

    def _curve(self) -> None:
        with self.store.begin() as conn:
            cash = float(ledger.cash(conn, self.name))
            sizes = {h.asset: float(h.size) for h in ledger.holdings(conn, self.name)}
            peak, start = CAPITAL, self.prices.iloc[0]
            for ts, row in self.prices.iterrows():
                equity = cash + sum(size * row[asset] for asset, size in sizes.items())
                peak = max(peak, equity)
                benchmark = CAPITAL * float((row / start).mean())
                telemetry.record_equity(conn, self.name, ts.to_pydatetime(), equity, cash, equity / peak - 1, benchmark)

    def _report(self) -> None:
        targets = dict(zip(self.prices.columns, reversed(self._weights().values()), strict=True))
        targets = {asset: 0.6 * weight + 0.4 * self._weights()[asset] for asset, weight in targets.items()}
        shares = {
            asset: weight * (1.3 if rank % 2 else 0.7) for rank, (asset, weight) in enumerate(self._weights().items())
        }
        metrics = [
            ("total_return", "Total return", -0.2213, "fraction", "higher"),
            ("annual_return", "Annual return", -0.3814, "fraction", "higher"),
            ("volatility", "Volatility", 0.3312, "fraction", "lower"),
            ("sharpe", "Sharpe ratio", -1.21, "ratio", "higher"),
            ("sortino", "Sortino ratio", -1.42, "ratio", "higher"),
            ("calmar", "Calmar ratio", -1.34, "ratio", "higher"),
            ("max_drawdown", "Maximum drawdown", 0.2842, "fraction", "lower"),
            ("var", "Value at risk, 95 %", 0.0412, "fraction", "lower"),
            ("cvar", "Expected shortfall, 95 %", 0.0731, "fraction", "lower"),
            ("win_rate", "Win rate", 0.534, "fraction", "higher"),
            ("profit_factor", "Profit factor", 0.82, "ratio", "higher"),
            ("beta", "Beta", 0.96, "ratio", "none"),
            ("alpha", "Alpha", None, "fraction", "higher"),
            ("information_ratio", "Information ratio", 0.41, "ratio", "higher"),
            ("diversification_ratio", "Diversification ratio", 1.31, "ratio", "higher"),
            ("drawdown_length", "Longest drawdown", 24, "periods", "lower"),
        ]
        payload = {
            "metrics": [
                {
                    "name": n,
                    "label": label,
                    "value": v,
                    "unit": u,
                    "better": b,
                    "formula": f"definition of {label.lower()}",
                    "source": "Bacon (2023)",
                }
                for n, label, v, u, b in metrics
            ],
            "risk_score": 71.0,
            "risk_score_parts": {"volatility": 24.0, "drawdown": 28.5, "concentration": 8.5, "tail": 10.0},
            "regime": "high",
            "regime_since": to_text(datetime(2020, 2, 27, tzinfo=UTC)),
            "risk_contributions": shares,
        }
        with self.store.begin() as conn:
            telemetry.record_targets(conn, self.name, self.now, targets)
            telemetry.record_report(conn, self.name, self.now, payload)
            ledger.open_rebalance(conn, self.name, self.now, self._decision(targets), "declined")

    def _decision(self, targets: Mapping[str, float]) -> dict[str, object]:
        held = self._weights()
        items = []
        for rank, (asset, target) in enumerate(targets.items()):
            drift = held[asset] - target
            amount = abs(drift) * 78_000 * (4 if rank == 0 else 1)
            trade = amount >= 400
            items.append(
                {
                    "asset": asset,
                    "side": "hold" if not trade else "sell" if drift > 0 else "buy",
                    "current_weight": held[asset],
                    "target_weight": target,
                    "drift": drift,
                    "amount_to_trade": amount if trade else 0.0,
                    "urgency": (
                        "critical"
                        if rank == 0
                        else "high"
                        if abs(drift) > 0.03
                        else "medium"
                        if abs(drift) > 0.01
                        else "low"
                    ),
                    "estimated_cost": amount * 0.00095 if trade else 0.0,
                    "use_twap": amount > 10_000,
                    "reason": _reason(drift, trade),
                }
            )
        worst = max(abs(held[asset] - target) for asset, target in targets.items())
        reason = f"{items[0]['asset']} is {worst:.1%} away from its target, tolerance 3.0%"
        return {
            "rebalance": True,
            "reason": reason,
            "tolerance": 0.03,
            "regime": "high",
            "estimated_cost": 41.7,
            "recommendations": items,
        }

    @contextmanager
    def called(self, source: str) -> Iterator[None]:
        """Prices from elsewhere, as far as the name of the source goes."""
        self._call(source)
        try:
            yield
        finally:
            self._call(SOURCE)

    def _call(self, source: str) -> None:
        mine = schema.portfolio.c.name == self.name
        with self.store.begin() as conn:
            conn.execute(update(schema.portfolio).where(mine).values(source=source))

    def beat(self, age: float = 0.0, state: str = "running", detail: str = "") -> None:
        """A sign of life of the engine, `age` seconds ago."""
        with self.store.begin() as conn:
            when = datetime.now(UTC) - timedelta(seconds=age)
            telemetry.heartbeat(conn, self.name, "engine", state=state, detail=detail, pid=4711, speed=1.0, now=when)

    def checked(self, age: float = 0.0) -> None:
        """The rules were applied, `age` seconds ago."""
        with self.store.begin() as conn:
            when = datetime.now(UTC) - timedelta(seconds=age)
            telemetry.heartbeat(conn, self.name, "monitor", state="running", pid=4711, now=when)

    def alert(
        self,
        rule: str,
        title: str,
        severity: Severity,
        kind: AlertType,
        message: str,
        value: float,
        threshold: float,
        state: str = "firing",
    ) -> str:
        """Put one alert into the store as it stands; its id."""
        key = fingerprint(self.name, rule, "")
        alert = AlertState(
            key,
            self.name,
            rule,
            "",
            kind,
            title,
            severity,
            state,
            message,
            value,
            threshold,
            value,
            self.now - timedelta(days=6),
            self.now,
        )
        row = {
            "id": key,
            "portfolio": self.name,
            "rule": rule,
            "subject": "",
            "type": str(kind),
            "severity": str(severity),
            "state": state,
            "payload": to_json(alert.to_dict()),
            "updated": to_text(self.now),
        }
        with self.store.begin() as conn:
            conn.execute(insert(schema.alert), [row])
        return key

    def close(self) -> None:
        self.store.close()


def _reason(drift: float, trade: bool) -> str:
    if not trade:
        return "below the minimum trade size"
    return "drift beyond the tolerance" if abs(drift) > 0.03 else "brought to target with the others"
