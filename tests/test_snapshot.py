"""The snapshot: complete, finite, consistent with itself, and made without arrays."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from store_rows import DAY, day, fill_of, open_order, start

from portfolio_research.alerts import AlertState, AlertType, Notice, Severity
from portfolio_research.config import AlertError, ConfigError
from portfolio_research.store import Store, ledger, schema, snapshot, telemetry
from portfolio_research.store.alert_view import check_rule, held_back, load_viewer, show_alert
from portfolio_research.store.alerts import AlertDesk
from portfolio_research.store.database import upsert
from portfolio_research.store.encoding import to_json, to_text
from portfolio_research.store.outbox import StoreSink
from portfolio_research.store.snapshot import build_snapshot, portfolios

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOP = {
    "schema",
    "portfolio",
    "quote",
    "mode",
    "source",
    "as_of",
    "window",
    "generated_at",
    "engine",
    "refresh",
    "overview",
    "limits",
    "equity",
    "allocation",
    "positions",
    "alerts",
    "monitor",
    "delivery",
    "rebalancing",
    "metrics",
    "periods_per_year",
    "risk_free_rate",
    "reports",
}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


def alert(rule, severity, state, n=0, **more):
    return AlertState(
        id=rule,
        portfolio="main",
        rule=rule,
        subject="",
        type=AlertType.DRAWDOWN,
        title=rule,
        severity=severity,
        state=state,
        message="it is deep",
        value=0.12,
        threshold=0.1,
        peak=0.13,
        since=day(n),
        updated=day(n),
        **more,
    )


def keep_alert(conn, state):
    upsert(
        conn,
        schema.alert,
        {
            "id": state.id,
            "portfolio": "main",
            "rule": state.rule,
            "subject": "",
            "type": state.type.value,
            "severity": state.severity.value,
            "state": state.state,
            "payload": to_json(state.to_dict()),
            "updated": to_text(state.updated),
        },
    )


def trade(conn):
    """Two days: BTC and ETH are bought on the first, half of ETH is sold on the second, ADA is bought on the second."""
    first = {"BTC": 100.0, "ETH": 50.0, "ADA": 1.0}
    second = {"BTC": 110.0, "ETH": 40.0, "ADA": 1.1}
    telemetry.record_bars(conn, "main", [(day(0), first)])
    for n, (asset, size, price) in enumerate([("BTC", "300", "100"), ("ETH", "400", "50")]):
        ledger.record_fill(conn, fill_of(open_order(conn, asset, size, 0, sequence=n), price, fee="10"))
    telemetry.record_equity(conn, "main", day(0), 99_980.0, 49_980.0, -0.0002, 100_000.0)
    telemetry.record_bars(conn, "main", [(day(1), second)])
    for n, (asset, size, price) in enumerate([("ETH", "-200", "40"), ("ADA", "1000", "1.1")]):
        ledger.record_fill(conn, fill_of(open_order(conn, asset, size, 1, sequence=n), price, fee="1"))
    ledger.set_rebalance_state(conn, ledger.rebalances(conn, "main")[0].id, "done")
    equity = float(ledger.cash(conn, "main")) + 300 * 110 + 200 * 40 + 1000 * 1.1
    telemetry.record_equity(conn, "main", day(1), equity, float(ledger.cash(conn, "main")), equity / 1e5 - 1, 101_000.0)
    return equity


def finite(value):
    """Every number in it is finite, and it is made of JSON's own types."""
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    return value


def test_a_portfolio_that_has_not_begun(store):
    shot = finite(build_snapshot(store, "main", now=NOW))
    assert set(shot) == TOP
    assert (shot["schema"], shot["portfolio"], shot["as_of"], shot["window"]) == (1, "main", None, "90d")
    assert shot["generated_at"] == "2026-01-01T00:00:00Z"
    assert shot["engine"] == {
        "state": "never started",
        "heartbeat": None,
        "age_seconds": None,
        "pid": None,
        "speed": None,
        "detail": "",
        "warming_up": False,
    }
    assert shot["overview"] == {
        "equity": 100_000.0,
        "cash": 100_000.0,
        "pnl_day": None,
        "pnl_day_pct": None,
        "pnl_window": None,
        "pnl_window_pct": None,
        "pnl_total": 0.0,
        "pnl_total_pct": 0.0,
        "drawdown": 0.0,
        "max_drawdown": 0.0,
        "risk_score": None,
        "risk_score_parts": {},
        "positions": 0,
        "regime": None,
        "regime_since": None,
        "regime_probability": None,
    }
    assert shot["equity"] == {"t": [], "equity": [], "drawdown": [], "benchmark": []}
    assert shot["rebalancing"]["reason"] == "no decision yet"
    assert (shot["allocation"], shot["positions"], shot["metrics"], shot["reports"]) == ([], [], [], [])
    counts = dict.fromkeys(("open", "acknowledged", "held_back", "cannot_judge", *Severity), 0)
    nothing = {"active": [], "recent": [], "silences": []}
    assert shot["alerts"] == {**nothing, "counts": counts, "acknowledged_hours": 24.0}


def test_the_numbers_agree_with_each_other(store):
    with store.begin() as conn:
        equity = trade(conn)
        telemetry.record_targets(conn, "main", day(1), {"BTC": 0.5, "ETH": 0.3, "SOL": 0.2})
    shot = finite(build_snapshot(store, "main", now=NOW))
    over = shot["overview"]
    assert shot["as_of"] == "2020-02-04T00:00:00Z"
    assert over["equity"] == pytest.approx(equity)
    assert over["equity"] == pytest.approx(over["cash"] + sum(p["value"] for p in shot["positions"]))
    assert over["pnl_day"] == pytest.approx(equity - 99_980)
    assert over["pnl_total"] == pytest.approx(equity - 100_000)
    assert over["pnl_total_pct"] == pytest.approx(equity / 100_000 - 1)
    assert sum(p["pnl_day"] for p in shot["positions"]) == pytest.approx(over["pnl_day"])
    assert [p["asset"] for p in shot["positions"]] == ["BTC", "ETH", "ADA"]
    btc = shot["positions"][0]
    assert (btc["pnl"], btc["pnl_day"]) == (3000.0, 3000.0)
    assert btc["pnl_pct"] == pytest.approx(0.1)
    ada = shot["positions"][2]
    assert ada["pnl_day"] == pytest.approx(-1.0), "bought at the close: only its fee"
    assert [(a["asset"], a["target"]) for a in shot["allocation"]] == [
        ("BTC", 0.5),
        ("ETH", 0.3),
        ("ADA", None),
        ("SOL", 0.2),
    ]
    assert shot["allocation"][3]["weight"] == 0.0
    assert shot["allocation"][0]["weight"] == pytest.approx(33_000 / equity)
    assert shot["equity"]["t"] == ["2020-02-03T00:00:00Z", "2020-02-04T00:00:00Z"]


def test_losses_are_positive_and_measured_from_the_peak(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(3), {"BTC": 1.0})])
        for n, (value, drawdown) in enumerate([(125_000, 0.0), (90_000, -0.28), (100_000, -0.2)]):
            telemetry.record_equity(conn, "main", day(n), value, value, drawdown)
    over = build_snapshot(store, "main")["overview"]
    assert over["drawdown"] == pytest.approx(0.2)
    assert over["max_drawdown"] == pytest.approx(0.28)


def test_a_holding_that_had_no_price_yesterday_has_no_gain_of_the_day(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 1.0}), (day(1), {"BTC": 1.0, "ETH": 2.0})])
        ledger.record_fill(conn, fill_of(open_order(conn, "ETH", "1", 0), "2"))
    assert build_snapshot(store, "main")["positions"][0]["pnl_day"] is None


def test_the_first_day_counts_from_what_was_paid(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 102.0})])
        ledger.record_fill(conn, fill_of(open_order(conn, "BTC", "10", 0), "100", fee="5"))
    assert build_snapshot(store, "main")["positions"][0]["pnl_day"] == 15.0


def test_a_short_position_gains_when_prices_fall(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 90.0})])
        ledger.record_fill(conn, fill_of(open_order(conn, "BTC", "-10", 0), "100"))
    position = build_snapshot(store, "main")["positions"][0]
    assert (position["pnl"], position["pnl_pct"]) == (100.0, pytest.approx(0.1))


def test_a_lost_portfolio_has_no_weights(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 1000.0})])
        ledger.record_fill(conn, fill_of(open_order(conn, "BTC", "-1000", 0), "100"))
    shot = finite(build_snapshot(store, "main"))
    assert shot["overview"]["equity"] < 0
    assert shot["positions"][0]["weight"] is None


@pytest.mark.parametrize(("window", "points"), [("30d", 31), ("90d", 91), ("180d", 181), ("1y", 366), ("all", 400)])
def test_windows_bound_the_charts(store, window, points):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(399), {"BTC": 1.0})])
        for n in range(400):
            telemetry.record_equity(conn, "main", day(n), 1e5 + n, 0.0, 0.0, None)
    shot = build_snapshot(store, "main", window=window)
    assert len(shot["equity"]["t"]) == points
    assert shot["overview"]["pnl_window"] == pytest.approx(1e5 - (1e5 + 400 - points))


def test_an_unknown_window_names_the_known_ones(store):
    with pytest.raises(ConfigError, match="'7d'.*30d, 90d, 180d, 1y, all"):
        build_snapshot(store, "main", window="7d")


def test_long_curves_are_thinned_without_losing_ends_or_extremes(store):
    values = [1e5 + 1e4 * math.sin(n / 40) for n in range(6000)]
    values[3333], values[4444] = 1.0, 9e5
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(5999), {"BTC": 1.0})])
        conn.execute(
            schema.equity.insert(),
            [
                {"portfolio": "main", "ts": to_text(day(n)), "equity": v, "cash": 0.0, "drawdown": 0.0}
                for n, v in enumerate(values)
            ],
        )
    curve = build_snapshot(store, "main", window="all")["equity"]
    assert 1000 < len(curve["t"]) <= snapshot.MAX_POINTS
    assert curve["t"] == sorted(set(curve["t"]))
    assert (curve["equity"][0], curve["equity"][-1]) == (values[0], values[-1])
    assert {1.0, 9e5} <= set(curve["equity"])


@pytest.mark.parametrize(
    ("state", "speed", "age", "expected", "warming"),
    [
        ("running", 1.0, 14, "running", False),
        ("running", 1.0, 16, "stale", False),
        ("running", None, 599, "running", False),
        ("running", None, 601, "stale", False),
        ("warming up", 0.0, 1, "running", True),
        ("starting", 1.0, 99, "stale", False),
        ("stopped", 1.0, 9999, "stopped", False),
        ("halted", None, 9999, "halted", False),
        ("running", 1.0, -5, "running", False),
    ],
)
def test_the_engine_is_what_its_last_sign_of_life_says(store, state, speed, age, expected, warming):
    with store.begin() as conn:
        telemetry.heartbeat(
            conn, "main", "engine", state=state, pid=7, detail="x", speed=speed, now=NOW - timedelta(seconds=age)
        )
    engine = build_snapshot(store, "main", now=NOW)["engine"]
    assert (engine["state"], engine["warming_up"], engine["pid"], engine["detail"]) == (expected, warming, 7, "x")
    assert engine["age_seconds"] == max(0, age)


def test_settings_of_the_run_are_shown_and_defaults_fill_in(store):
    settings = {
        "portfolio": {"rebalancing": {"tolerance": 0.07}, "monitoring": {"alerts": {"max_drawdown_warning": 0.08}}},
        "data": {"source": "hyperliquid"},
    }
    with store.begin() as conn:
        start(conn, "crypto", json.dumps(settings))
        start(conn, "fixed", json.dumps({"portfolio": {"analytics": {"periods_per_year": 12}}}))
    shot = build_snapshot(store, "crypto")
    assert shot["limits"] == {"max_drawdown_warning": 0.08, "max_drawdown_critical": 0.20, "tolerance": 0.07}
    assert (shot["periods_per_year"], shot["risk_free_rate"]) == (365.0, 0.02)
    assert shot["refresh"] == {"metrics_seconds": 30, "charts_seconds": 300}
    assert build_snapshot(store, "fixed")["periods_per_year"] == 12
    assert build_snapshot(store, "main")["periods_per_year"] == 252


def test_alerts_worst_first_then_newest_and_pending_ones_unseen(store):
    with store.begin() as conn:
        keep_alert(conn, alert("old", Severity.HIGH, "firing", 0))
        keep_alert(
            conn,
            alert(
                "new", Severity.HIGH, "acknowledged", 2, acknowledged_by="eve", acknowledged_at=day(3), comment="seen"
            ),
        )
        keep_alert(conn, alert("worst", Severity.CRITICAL, "recovering", 1))
        keep_alert(conn, alert("not yet", Severity.LOW, "pending", 5))
        for n in range(25):
            keep_alert(conn, alert(f"over {n:02}", Severity.LOW, "resolved", n))
    alerts = finite(build_snapshot(store, "main")["alerts"])
    assert [a["id"] for a in alerts["active"]] == ["worst", "new", "old"]
    assert [a["id"] for a in alerts["recent"]] == [f"over {n:02}" for n in range(24, 4, -1)]
    assert alerts["active"][1] == {
        "id": "new",
        "rule": "new",
        "subject": "",
        "type": "drawdown",
        "severity": "high",
        "state": "acknowledged",
        "title": "new",
        "message": "it is deep",
        "value": 0.12,
        "threshold": 0.1,
        "peak": 0.13,
        "unit": "number",
        "since": "2020-02-05T00:00:00Z",
        "updated": "2020-02-05T00:00:00Z",
        "judged": True,
        "acknowledged_by": "eve",
        "acknowledged_at": "2020-02-06T00:00:00Z",
        "acknowledged_until": None,
        "comment": "seen",
        "told": None,
        "silenced_until": None,
        "inhibited_by": "",
        "flapping": False,
        "history": [],
    }
    assert alerts["counts"]["open"] == 2 and alerts["counts"]["acknowledged"] == 1 and alerts["counts"]["high"] == 2


def test_an_alert_tells_what_happened_lately_and_what_holds_it_back(store):
    desk, later = AlertDesk(store, "main"), NOW + timedelta(hours=4)
    with store.begin() as conn:
        keep_alert(conn, alert("drawdown", Severity.HIGH, "firing", inhibited_by="data-stale", flapping=True, judged=False))
        keep_alert(conn, alert("mine", Severity.CRITICAL, "firing"))
    desk.silence("ann", "known", NOW, later, rule="drawdown")
    desk.acknowledge("drawdown", "ann", "hedged", NOW, NOW + timedelta(hours=1))
    shown = finite(build_snapshot(store, "main", now=NOW + timedelta(minutes=1))["alerts"])
    mine, held = shown["active"]
    assert held["silenced_until"] == "2026-01-01T04:00:00Z"  # by the silence itself: no check has noted it yet
    assert (held["inhibited_by"], held["flapping"], held["judged"], held["unit"]) == ("data-stale", True, False, "fraction")
    assert [(e["kind"], e["who"], e["comment"], e["at"]) for e in held["history"]] == [
        ("acknowledged", "ann", "hedged", "2026-01-01T00:00:00Z")
    ]
    assert held_back(held) == [
        "silenced until 2026-01-01 04:00 UTC", "held back by data-stale", "comes and goes: muted until calm", "cannot be judged",
    ]  # fmt: skip
    assert mine["silenced_until"] is None and held_back(mine) == []
    (silence,) = shown["silences"]
    assert (silence["rule"], silence["who"], silence["everywhere"], silence["max_severity"]) == ("drawdown", "ann", False, "high")
    assert {"held_back": 1, "cannot_judge": 1, "open": 1}.items() <= shown["counts"].items()
    over = build_snapshot(store, "main", now=later)["alerts"]
    assert over["silences"] == [] and over["active"][1]["silenced_until"] is None


def test_the_history_of_an_alert_is_bounded_in_the_snapshot_and_whole_on_demand(store):
    desk = AlertDesk(store, "main")
    with store.begin() as conn:
        keep_alert(conn, alert("busy", Severity.HIGH, "firing"))
    for minute in range(10):
        one = desk.silence("ann", f"n{minute}", NOW + timedelta(minutes=minute), NOW + timedelta(hours=1))
        desk.end_silence(one.id, "ann", "", NOW + timedelta(minutes=minute, seconds=1))
    for minute in range(4):
        desk.acknowledge("busy", "ann", f"n{minute}", NOW)
        desk.resolve("busy", "ann", "", NOW)
        with store.begin() as conn:
            keep_alert(conn, alert("busy", Severity.HIGH, "firing"))
    (shown,) = build_snapshot(store, "main", now=NOW)["alerts"]["active"]
    assert [event["kind"] for event in shown["history"]] == ["acknowledged", "resolved"] * 3
    with store.read() as conn:
        everything = finite(show_alert(conn, "main", "busy", NOW + timedelta(hours=1)))
        assert show_alert(conn, "main", "nothing", NOW) is None
    assert len(everything["history"]) == 28 and everything["history"][0]["kind"] == "silenced"
    assert everything["silences"] == [] and everything["notices"] == 0


def test_a_rule_of_ones_own_is_known_with_its_unit_and_a_misspelt_one_is_not(store):
    mine = {"portfolio": {"monitoring": {"rules": [{"id": "spread", "unit": "fraction"}, {"id": "depth"}]}}}
    with store.begin() as conn:
        ledger.ensure_portfolio(conn, "own", Decimal(1), "USD", "paper", "csv", json.dumps(mine))
        keep_alert(conn, alert("made-in-python", Severity.HIGH, "firing"))
    with store.read() as conn:
        units = load_viewer(conn, "own", NOW).units
        assert (units["spread"], units["depth"], units["drawdown"]) == ("fraction", "number", "fraction")
        check_rule(conn, "own", "spread", NOW)
        check_rule(conn, "main", "made-in-python", NOW)  # it has fired, so there is such a rule
        with pytest.raises(AlertError, match="own has no rule 'sprad': did you mean spread?"):
            check_rule(conn, "own", "sprad", NOW)


def test_a_store_without_silences_can_still_be_read(store):
    with store.begin() as conn:
        keep_alert(conn, alert("old", Severity.HIGH, "firing"))
        schema.silence.drop(conn)
    shown = build_snapshot(store, "main")["alerts"]
    assert shown["silences"] == [] and shown["active"][0]["silenced_until"] is None


def test_an_alert_without_a_number_shows_null(store):
    with store.begin() as conn:
        state = alert("blind", Severity.LOW, "firing")
        keep_alert(conn, AlertState(**{**{f: getattr(state, f) for f in state.__slots__}, "value": math.nan}))
    assert build_snapshot(store, "main")["alerts"]["active"][0]["value"] is None


def test_the_newest_report_and_decision_are_shown(store):
    recommendation = {
        "asset": "BTC",
        "side": "buy",
        "current_weight": 0.1,
        "target_weight": 0.2,
        "drift": -0.1,
        "amount_to_trade": 1e4,
        "urgency": "high",
        "estimated_cost": 9.5,
        "use_twap": False,
        "reason": "drift",
        "urgency_reason": "twice its tolerance",
        "tolerance": 0.01,
        "private": 1,
    }
    decision = {
        "rebalance": True,
        "reason": "BTC drifted",
        "tolerance": 0.03,
        "tolerance_mode": "relative",
        "notes": ["a cap on BTC"],
        "warning": "a wide tolerance",
        "regime": "high",
        "estimated_cost": 9.5,
        "recommendations": [recommendation],
    }
    metric = {
        "name": "sharpe_ratio",
        "label": "Sharpe ratio",
        "value": math.nan,
        "low": math.nan,
        "high": 1.5,
        "unit": "ratio",
        "better": "higher",
        "formula": "x",
        "source": "Sharpe 1966",
    }
    report = {
        "metrics": [metric],
        "risk_score": 41.5,
        "risk_score_parts": {"drawdown": 10.0},
        "regime": "high",
        "regime_since": "2020-02-01T00:00:00Z",
        "risk_contributions": {"BTC": 0.9},
    }
    with store.begin() as conn:
        trade(conn)
        telemetry.record_report(conn, "main", day(1), report)
        ledger.open_rebalance(conn, "main", day(2), decision, "declined")
    shot = finite(build_snapshot(store, "main"))
    assert shot["metrics"] == [{**metric, "value": None, "low": None}]
    assert (shot["overview"]["risk_score"], shot["overview"]["regime"]) == (41.5, "high")
    assert {a["asset"]: (a["risk_contribution"], a["tolerance"]) for a in shot["allocation"]}["BTC"] == (0.9, 0.01)
    del recommendation["private"], recommendation["tolerance"]
    decision["notes"].append(decision.pop("warning"))
    shown = shot["rebalancing"]
    history = shown.pop("history")
    assert shown == {**decision, "decided_at": "2020-02-05T00:00:00Z", "recommendations": [recommendation]}
    assert history == [
        {
            "slot": "2020-02-04T00:00:00Z",
            "state": "done",
            "reason": "drift",
            "trades": 2,
            "traded": 9100.0,
            "fees": 2.0,
        },
        {
            "slot": "2020-02-03T00:00:00Z",
            "state": "executing",
            "reason": "drift",
            "trades": 2,
            "traded": 50000.0,
            "fees": 20.0,
        },
    ]


def test_reports_are_listed_newest_first(store, tmp_path):
    for name in ("2020-02-03.html", "rebalancing-2020-03-16.html", "notes.txt"):
        (tmp_path / "reports").mkdir(exist_ok=True)
        (tmp_path / "reports" / name).write_text("")
    assert build_snapshot(store, "main")["reports"] == [
        {"as_of": "2020-03-16", "url": "/reports/rebalancing-2020-03-16.html"},
        {"as_of": "2020-02-03", "url": "/reports/2020-02-03.html"},
    ]
    assert build_snapshot(store, "main", reports=tmp_path / "nowhere")["reports"] == []


def test_portfolios_are_listed_and_unknown_ones_named(store):
    with store.begin() as conn:
        start(conn, "alpha")
    assert portfolios(store) == ["alpha", "main"]
    with pytest.raises(ledger.UnknownPortfolio, match="'nobody'.*alpha, main"):
        build_snapshot(store, "nobody")


def test_a_readonly_store_gives_the_same_picture(store):
    with store.begin() as conn:
        trade(conn)
    with Store.open(store.where, readonly=True) as reader:
        assert build_snapshot(reader, "main", now=NOW) == build_snapshot(store, "main", now=NOW)


def test_exact_sizes_become_plain_numbers(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(DAY, {"BTC": 3.0})])
        ledger.record_fill(conn, fill_of(open_order(conn, "BTC", "0.00000001"), "3"))
    position = build_snapshot(store, "main")["positions"][0]
    assert position["size"] == float(Decimal("0.00000001"))


def test_it_is_made_without_arrays(store):
    script = (
        "import sys; from portfolio_research.store import Store;"
        "from portfolio_research.store.snapshot import build_snapshot;"
        "build_snapshot(Store.open(sys.argv[1], readonly=True), 'main');"
        "print(sorted({'numpy', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script, store.where], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_what_is_not_delivered_is_seen_and_when_the_rules_were_last_applied(store):
    empty = build_snapshot(store, "main", now=NOW)
    assert empty["delivery"] == {"waiting": 0, "failing": [], "undelivered": 0, "dead": []}
    assert empty["monitor"] == {"last_check": None, "age_seconds": None, "late": False}
    sink = StoreSink(store, "main")
    for n in range(25):
        told = Notice("main", f"[LOW] main: {n} <b>", Severity.LOW, ("LOW x",), NOW, f"k{n}")
        sink.post(told, ["slack", "email"], NOW)
        sink.give_up(sink.pending(NOW, "slack")[0].id, "HTTP 410", NOW, {})
    first = sink.pending(NOW, "email")[0]
    sink.failed(first.id, "451 later", NOW + timedelta(minutes=5))
    with store.begin() as conn:
        telemetry.heartbeat(conn, "main", "monitor", state="running", pid=1, now=NOW - timedelta(seconds=7))
    shot = finite(build_snapshot(store, "main", now=NOW))
    seen = shot["delivery"]
    assert seen["failing"] == [
        {"handler": "email", "waiting": 25, "attempts": 1, "error": "451 later", "since": "2026-01-01T00:00:00Z"}
    ]
    assert (seen["waiting"], seen["undelivered"], len(seen["dead"])) == (25, 25, 20)
    assert seen["dead"][0]["title"] == "[LOW] main: 24 <b>" and seen["dead"][0]["error"] == "HTTP 410"
    assert shot["monitor"] == {"last_check": "2025-12-31T23:59:53Z", "age_seconds": 7.0, "late": False}
    later = build_snapshot(store, "main", now=NOW + timedelta(minutes=11))["monitor"]
    assert later["late"]
