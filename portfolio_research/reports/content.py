"""What the rebalancing report says, read from the ledger and nothing else.

The report opens with the decision. It is taken again here from what was held before the day's trades, by the function
that the engine and the back-test use, so that another tolerance can be asked for and the answer is the one the engine
would have given.
"""

import html
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import select

from portfolio_research.alerts import Severity
from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.costs import costs_from
from portfolio_research.data import to_returns, with_periods
from portfolio_research.metrics import REGISTRY
from portfolio_research.performance_plots import plot_attribution, plot_stress
from portfolio_research.plots import Chart, plot_equity, plot_risk_contributions, plot_weights
from portfolio_research.rebalancing import Decision, Position, Positions, covariance_for, decide, policy_from
from portfolio_research.reports.record import Record
from portfolio_research.significance import interval_text
from portfolio_research.simulation import SIMULATED
from portfolio_research.store import Store, schema
from portfolio_research.store.alert_view import active_alerts, held_back, load_viewer
from portfolio_research.store.ledger import Fill, Lot, RebalanceRow, fills, portfolio_row, rebalances
from portfolio_research.store.telemetry import bars_frame, equity, latest_report, latest_targets

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MODES = {"absolute": "", "relative": " of each target", "risk": " of the risk", "cost_aware": ", by cost (median)"}


@dataclass(frozen=True, slots=True)
class Html:
    """A fragment that a notebook shows as it is."""

    text: str

    def _repr_html_(self) -> str:
        return self.text


@dataclass(frozen=True)
class RebalancingReport:
    """One portfolio on one day."""

    settings: Settings
    portfolio: str
    quote: str
    source: str
    as_of: datetime
    window: int  # days of history shown
    decision: Decision
    positions: Positions  # before the day's trades
    computed: dict[str, Any]  # the engine's own figures of that day: metrics, risk, regime
    history: pd.DataFrame  # equity, drawdown (<= 0) and benchmark within the window, by market time
    alerts: list[dict[str, Any]]
    past: list[RebalanceRow]  # rebalances up to the day, newest first
    record: Record  # since the start
    fingerprint: str  # of the prices and fills the report rests on

    @classmethod
    def load(
        cls, store: Store, settings: Settings, as_of: str = "", window: int = 180, tolerance: float = 0.0
    ) -> "RebalancingReport":
        """Read one day: an empty `as_of` is the newest one, a `tolerance` of 0 the configured one."""
        _check(window, tolerance)
        name = settings.portfolio.name
        with store.read() as conn:
            row = portfolio_row(conn, name)
            curve = equity(conn, name)
            day = _day(as_of, [point.ts for point in curve], name)
            frame = pd.DataFrame(
                {
                    "equity": [p.equity for p in curve],
                    "drawdown": [p.drawdown for p in curve],
                    "benchmark": [p.benchmark for p in curve],
                },
                index=pd.DatetimeIndex([p.ts for p in curve], name="date"),
                dtype=float,
            )
            earlier = [fill for fill in fills(conn, name) if fill.ts < day]
            lived = frame.loc[:day]
            closes = bars_frame(conn, name, len(lived), day)
            computed = latest_report(conn, name, day)
            positions = _positions(earlier, closes.iloc[-1], float(row.capital))
            decision = _decide(conn, settings, positions, closes, tolerance, computed[1] if computed else {})
            return cls(
                settings=settings,
                portfolio=name,
                quote=row.quote,
                source=row.source,
                as_of=day,
                window=window,
                decision=decision,
                positions=positions,
                computed=computed[1] if computed else {},
                history=frame.loc[day - timedelta(days=window) : day],
                alerts=_alerts(conn, name, day, newest=day == curve[-1].ts),
                past=[r for r in rebalances(conn, name) if r.slot <= day],
                record=Record(
                    settings=with_periods(settings, computed[1].get("periods_per_year") if computed else None),
                    closes=closes,
                    fills=earlier,
                    equity=lived["equity"],
                    benchmark=lived["benchmark"],
                    capital=float(row.capital),
                    weights=positions.weights(),
                ),
                fingerprint=_fingerprint(closes.tail(1), earlier),
            )

    # ------------------------------------------------------------ what the notebook shows, top to bottom
    def headline(self) -> Html:
        """The decision in one sentence, and what it costs."""
        decision = self.decision
        word = "Rebalance" if decision.rebalance else "Do not rebalance"
        trades = [r for r in decision.recommendations if r.side != "hold"] if decision.rebalance else []
        cost = (
            f"{len(trades)} trades, expected cost {decision.estimated_cost:,.2f} {self.quote}"
            if trades
            else "no trades, no cost"
        )
        facts = {
            "Portfolio": f"{self.portfolio} (paper)",
            "As of": f"{self.as_of:%Y-%m-%d} UTC",
            "Value before": f"{self.value:,.2f} {self.quote}",
            "Tolerance": f"{decision.tolerance:.1%}" + _MODES[decision.tolerance_mode],
            "Market": _market(self.computed),
            "Prices": self.source,
        }
        cells = "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}</dd></div>" for k, v in facts.items())
        told = (*decision.notes, decision.warning, *self.data_notes)
        remarks = "".join(f"<p>{_e(_sentence(text))}</p>" for text in told if text)
        said = f"<p>{_e(_sentence(decision.reason))} {_e(_sentence(cost))}</p>{remarks}"
        warning = f"<p class='simulated'>{SIMULATED}: no price in this report is real.</p>" if self.simulated else ""
        return Html(
            f"{warning}<div class='decision {'go' if decision.rebalance else 'stay'}'><h2>{word}</h2>"
            f"{said}</div><dl class='facts'>{cells}</dl>"
        )

    @property
    def simulated(self) -> bool:
        """Whether the prices are those of a market that does not exist."""
        return self.source.startswith(SIMULATED)

    @property
    def data_notes(self) -> list[str]:
        """What the data gate did to the price file, in a few lines; nothing for other prices."""
        return [f"Of the prices: {note[0].lower()}{note[1:]}" for note in self.computed.get("data_notes", ())]

    @property
    def value(self) -> float:
        """Equity before the day's trades, in quote currency."""
        return float(self.positions.equity)

    def allocation_figure(self) -> Html:
        """Weights against their targets and the tolerance."""
        rows = self.decision.recommendations
        return _figure(
            plot_weights(
                {r.asset: r.current_weight for r in rows},
                {r.asset: r.target_weight for r in rows},
                {r.asset: r.tolerance for r in rows},
            ),
            "Weights against targets and tolerance",
        )

    def drift_table(self) -> Html:
        """Each asset against its target, with its share of the risk."""
        shares = self.computed.get("risk_contributions") or {}
        rows = [
            [
                r.asset,
                f"{r.current_weight:.2%}",
                f"{r.target_weight:.2%}",
                f"{r.drift:+.2%}",
                _given(shares.get(r.asset), ".1%"),
                r.urgency,
                r.urgency_reason,
            ]
            for r in sorted(self.decision.recommendations, key=lambda r: -abs(r.drift))
        ]
        columns = ["asset", "weight", "target", "drift", "risk share", "urgency", "because"]
        return _table(columns, rows, numbers=range(1, 5))

    def trade_table(self) -> Html:
        """What would be traded, and why the rest would not."""
        rows = [
            [
                r.asset,
                r.side + (", TWAP" if r.use_twap else ""),
                f"{r.amount_to_trade:,.2f}" if r.side != "hold" else "–",
                f"{r.estimated_cost:,.2f}" if r.side != "hold" else "–",
                r.reason,
            ]
            for r in sorted(self.decision.recommendations, key=lambda r: -r.amount_to_trade)
        ]
        return _table(["asset", "side", f"amount, {self.quote}", f"cost, {self.quote}", "reason"], rows, numbers=(2, 3))

    def alert_table(self) -> Html:
        """Alerts that were active on the day, the worst first."""
        if not self.alerts:
            return Html("<p>No active alerts.</p>")
        head, some = ["severity", "alert", "since", "seen by"], any(alert["held_back"] for alert in self.alerts)
        rows = [
            [a["severity"], a["message"], a["since"][:10], a.get("acknowledged_by") or "", "; ".join(a["held_back"])]
            for a in self.alerts
        ]
        return _table([*head, "held back"], rows) if some else _table(head, [row[:4] for row in rows])

    def equity_figure(self) -> Html:
        """Equity and drawdown within the window, with the limits."""
        limits = self.settings.portfolio.monitoring.alerts
        figure = plot_equity(
            self.history["equity"],
            self.history["benchmark"] if self.history["benchmark"].notna().any() else None,
            warning=limits.max_drawdown_warning,
            critical=limits.max_drawdown_critical,
        )
        note = (
            "Benchmark: the same assets bought once in equal parts. Drawdown from the highest value of the "
            f"{self.window} days shown; since the start it is {abs(self.history['drawdown'].iloc[-1]):.2%}."
        )
        return _figure(figure, "Equity, benchmark and drawdown", note)

    def risk_figure(self) -> Html:
        """Who carries the risk of what is held after the day's trades."""
        shares = self.computed.get("risk_contributions") or {}
        if not shares:
            return Html("<p>The risk contributions could not be computed on this day.</p>")
        return _figure(
            plot_risk_contributions(shares), "Risk contributions", "Of the portfolio after the day's trades."
        )

    def risk_budget_table(self) -> Html:
        """Who bears too much of the risk of what is held before the day's trades, and the trades that would end it."""
        try:
            made = self.record.budget
        except DataError as reason:
            return Html(f"<p>{_e(_sentence(str(reason)))}</p>")
        said = f"<p>{_e(_sentence(made.reason))}</p>"
        if not made.table["over_budget"].any():
            return Html(said)
        shown = made.table.sort_values("risk_share", ascending=False)
        how = {"weight": "{:.2%}", "risk_share": "{:.1%}", "weight_within": "{:.2%}", "trade": "{:+.2%}"}
        known = shown[[*how]].dropna(axis=1)  # without a way there are no columns for it
        columns = [known[name].map(how[str(name)].format) for name in known]
        rows = [[asset, *cells] for asset, *cells in zip(known.index, *columns, strict=True)]
        head = ["asset", *(str(name).replace("_", " ") for name in known)]
        return Html(said + _table(head, rows, numbers=range(1, len(head))).text)

    def interval_table(self) -> Html:
        """The numbers people quote, and how sure they are."""
        table = self.record.intervals
        verdicts = {True: "yes", False: "no"}
        rows = [
            [REGISTRY[str(name)].label, text, verdicts.get(clear, "–")]
            for name, text, clear in zip(table.index, interval_text(table), table["significant"], strict=True)
        ]
        shown = _table(["since the start", f"value [{table.attrs['level']:.0%} interval]", "clear of zero"], rows, (1,))
        return Html(f"<p>{_e(_sentence(table.attrs['track_record']))}</p>{shown.text}")

    def attribution_figure(self) -> Html:
        """Where the return came from, asset by asset, and what trading cost."""
        made = self.record.sources
        parts = made.pivot("asset", "kind")
        steps = pd.concat([parts["price"].sort_values(ascending=False), pd.Series({"trading": parts["cost"].sum()})])
        figure = plot_attribution(steps[steps != 0], made.total, title="Return by asset") if made.total else None
        if figure is None:
            return Html("<p>No return to take apart yet.</p>")
        return _figure(
            figure,
            "Return by asset",
            f"From {made.dates[0]:%Y-%m-%d} to the decision; the parts add up to the return of {made.total:.2%}.",
        )

    def stress_figure(self) -> Html:
        """Who would lose how much, against the limits."""
        try:
            made = self.record.stress
        except DataError as reason:
            return Html(f"<p>{_e(_sentence(str(reason)))}</p>")
        limits = self.settings.portfolio.monitoring.alerts
        figure = plot_stress(
            made.drawdowns.rename(index=lambda name: str(name).replace("_", " ")),
            made.table["proxied"].rename(index=lambda name: str(name).replace("_", " ")),
            warning=limits.max_drawdown_warning,
            critical=limits.max_drawdown_critical,
        )
        note = (
            "Drawdown of what is held before the day's trades: dated episodes that the recorded prices cover, a fall "
            "of 30 % of the largest holding with what usually falls with it, correlations halfway to one (CVaR of a "
            "period), and the least unlikely move that reaches the limit."
        )
        return _figure(figure, "Stress", note)

    def metric_table(self) -> Html:
        """Every metric with its definition."""
        rows = [[m["label"], _metric(m), m["formula"]] for m in self.computed.get("metrics", [])]
        return _table(["metric", "value", "definition"], rows, numbers=(1,))

    def history_table(self, limit: int = 10) -> Html:
        """The last rebalances that traded."""
        traded = [r for r in self.past if r.state != "declined"][:limit]
        if not traded:
            return Html("<p>No rebalance so far.</p>")
        return _table(["slot", "state", "reason"], [[f"{r.slot:%Y-%m-%d}", r.state, r.reason] for r in traded])

    def provenance(self) -> Html:
        """What the report was made from, so that it can be made again."""
        facts = {
            "window": f"{self.window} days",
            "tolerance": f"{self.decision.tolerance:g}",
            "prices": self.source,
            "periods per year": f"{self.computed.get('periods_per_year', self.settings.periods_per_year):g}",
            "risk-free rate": _given(
                self.computed.get("risk_free_rate", self.settings.portfolio.analytics.risk_free_rate), ".2%"
            ),
            "data fingerprint": self.fingerprint,
        }
        return _table(["parameter", "value"], [[k, v] for k, v in facts.items()])

    def result(self) -> dict[str, Any]:
        """The outcome for machines; written last, so that it exists only if the whole report was made."""
        d = self.decision
        return {
            "portfolio": self.portfolio,
            "prices": self.source,
            "as_of": self.as_of.date().isoformat(),
            "rebalance": d.rebalance,
            "reason": d.reason,
            "tolerance": d.tolerance,
            "regime": d.regime,
            "estimated_cost": d.estimated_cost,
            "value": self.value,
            "trades": [
                {"asset": r.asset, "side": r.side, "amount": r.amount_to_trade, "twap": r.use_twap}
                for r in d.recommendations
                if d.rebalance and r.side != "hold"
            ],
            "alerts": len(self.alerts),
            "data_notes": list(self.computed.get("data_notes", ())),
            "fingerprint": self.fingerprint,
        }


# ---------------------------------------------------------------- reading
def _check(window: int, tolerance: float) -> None:
    if window < 2:
        raise ConfigError(f"window = {window}: a report needs at least 2 days of history")
    if not 0 <= tolerance < 1:
        raise ConfigError(
            f"tolerance = {tolerance}: give a fraction between 0 and 1, such as 0.05 (0 is the configured one)"
        )


def _day(as_of: str, days: Sequence[datetime], portfolio: str) -> datetime:
    """The day asked for, if there is data on it."""
    if not days:
        raise DataError(f"portfolio {portfolio} has no data yet: start it with `portfolio-research run`")
    if not as_of:
        return days[-1]
    try:
        day = datetime.fromisoformat(as_of).replace(tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"as_of = {as_of!r}: give a day as YYYY-MM-DD") from None
    if day not in days:
        near = min(days, key=lambda d: abs(d - day))
        raise DataError(
            f"no data on {day:%Y-%m-%d} for portfolio {portfolio}: it has {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}; "
            f"the nearest day with data is {near:%Y-%m-%d}"
        )
    return day


def _positions(earlier: Sequence[Fill], closes: "pd.Series[float]", capital: float) -> Positions:
    """What was held before the day's trades, at the day's closes."""
    spent = sum(float(fill.size * fill.price + fill.fee) for fill in earlier)
    by_asset: dict[str, list[Fill]] = {}
    for fill in earlier:
        by_asset.setdefault(fill.asset, []).append(fill)
    held = {asset: reduce(Lot.after, done, Lot()) for asset, done in by_asset.items()}
    return Positions(
        {
            asset: Position(asset, float(lot.size), float(lot.entry_price), float(closes[asset]))
            for asset, lot in held.items()
            if lot.size
        },
        cash=capital - spent,
    )


def _decide(
    conn: "Connection",
    settings: Settings,
    positions: Positions,
    closes: pd.DataFrame,
    tolerance: float,
    computed: dict[str, Any],
) -> Decision:
    day = closes.index[-1]
    targets = latest_targets(conn, settings.portfolio.name, day)
    if targets is None:
        raise DataError(f"no target weights on {day:%Y-%m-%d}: the optimiser had not run yet; choose a later day")
    policy = policy_from(settings)
    if tolerance:
        policy = replace(policy, tolerance=tolerance, high_volatility_tolerance=tolerance)
    window = to_returns(closes.iloc[-settings.portfolio.rebalancing.lookback - 1 :])
    return decide(
        positions,
        pd.Series(targets[1]),
        policy=policy,
        costs=costs_from(settings),
        regime=computed.get("regime") or "normal",
        covariance=covariance_for(policy, window),
    )


def _alerts(conn: "Connection", portfolio: str, day: datetime, *, newest: bool) -> list[dict[str, Any]]:
    """Alerts as they stood at the end of the day, from their history, the worst first.

    What is held back is known for the newest day only: silences are of the clock.
    """
    table = schema.alert_event
    rows = conn.execute(select(table.c.payload).where(table.c.portfolio == portfolio).order_by(table.c.id)).scalars()
    standing: dict[str, dict[str, Any]] = {}
    for event in map(json.loads, rows):
        known = standing.get(event["alert_id"], {})
        if event["kind"] == "acknowledged":  # on the wall clock, whatever the market time
            known["acknowledged_by"] = event["who"]
        elif datetime.fromisoformat(event["at"]) <= day:
            since = event["at"] if event["kind"] == "fired" else known.get("since", event["at"])
            over = {"acknowledged_by": ""} if event["kind"] in ("fired", "escalated", "expired") else {}
            standing[event["alert_id"]] = {**known, **event, **over, "since": since}
    now = active_alerts(conn, load_viewer(conn, portfolio, datetime.now(UTC))) if newest else []
    held = {alert["id"]: held_back(alert) for alert in now}
    active = [
        {**event, "held_back": held.get(event["alert_id"], [])}
        for event in standing.values()
        if event["to_state"] in ("firing", "acknowledged", "recovering")
    ]
    return sorted(active, key=lambda event: (-Severity(event["severity"]).rank, event["since"]))


def _fingerprint(closes: pd.DataFrame, earlier: Sequence[Fill]) -> str:
    text = closes.to_csv() + json.dumps([[f.tid, str(f.size), str(f.price), str(f.fee)] for f in earlier])
    return sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- showing
def _e(value: object) -> str:
    return html.escape(str(value))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _market(computed: dict[str, Any]) -> str:
    if not computed.get("regime"):
        return "–"
    since, sure = computed.get("regime_since"), computed.get("regime_probability")
    told = f"{computed['regime']} volatility" + (f" since {since[:10]}" if since else "")
    return told + ("" if sure is None else ", over 99% sure" if sure > 0.99 else f", {sure:.0%} sure")


def _given(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


def _metric(metric: dict[str, Any]) -> str:
    value = metric["value"]
    if value is None:
        return "–"
    if metric["unit"] == "flag":
        return "yes" if value else "no"
    return f"{value:.2%}" if metric["unit"] == "fraction" else f"{value:,.4g}"


def _figure(chart: Chart, alt: str, note: str = "") -> Html:
    """A figure inside the page itself; as an image, so that ids of several figures cannot collide."""
    data = b64encode(chart.svg().encode()).decode()
    caption = f"<figcaption>{_e(note)}</figcaption>" if note else ""
    return Html(f"<figure><img alt='{_e(alt)}' src='data:image/svg+xml;base64,{data}'>{caption}</figure>")


PROSE = ("alert", "held back", "reason", "definition")  # columns of sentences: never squeezed to a word a line


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Html:
    """A plain table; columns in `numbers` are aligned right."""

    def cell(i: int, value: object, tag: str = "td") -> str:
        kind = " class=n" if i in numbers else " class=long" if head[i] in PROSE else ""
        return f"<{tag}{kind}>{_e(value)}</{tag}>"

    top = "".join(cell(i, h, "th") for i, h in enumerate(head))
    body = "".join("<tr>" + "".join(cell(i, v) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return Html(f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>")
