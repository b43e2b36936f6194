"""The rebalancing report: made by papermill from the ledger, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import engine_runs
import nbformat
import papermill
import pytest

from portfolio_research.alerts import Severity
from portfolio_research.config import ConfigError, DataError, Settings, StoreError, store_url
from portfolio_research.data import sample_prices
from portfolio_research.reports import runner
from portfolio_research.reports.content import RebalancingReport, _table
from portfolio_research.reports.runner import ReportError, report_folder, run_report
from portfolio_research.reports.schedule import ReportSchedule
from portfolio_research.risk import portfolio_risk
from portfolio_research.settings import load_settings, to_yaml
from portfolio_research.store import Store
from portfolio_research.store.alerts import AlertDesk
from portfolio_research.store.ledger import rebalances
from portfolio_research.store.paths import notebook_path
from portfolio_research.store.telemetry import heartbeat

Broken = Callable[[str], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A portfolio that has lived through the crash of 2020 on real prices."""
    folder = tmp_path_factory.mktemp("home")
    prices = sample_prices().loc["2019-08-01":"2020-03-31"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTFOLIO_RESEARCH_HOME", str(folder))
        patch.delenv("PORTFOLIO_RESEARCH_CONFIG", raising=False)
        patch.chdir(folder)
        with Store.open(folder / "main" / "portfolio.db", durable=False) as store:
            engine_runs.run(engine_runs.settings(), prices, store)
        yield folder


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(portfolio={"rebalancing": {"lookback": 60}})


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Puts a line of code before the last cell of the report's notebook."""

    def spoil(code: str) -> None:
        notebook = nbformat.read(notebook_path("reports", "rebalancing"), as_version=4)
        notebook.cells.insert(-1, nbformat.v4.new_code_cell(code))
        nbformat.write(notebook, tmp_path / "spoilt.ipynb")
        monkeypatch.setattr(runner, "notebook_path", lambda kind, name: tmp_path / "spoilt.ipynb")

    return spoil


def load(settings: Settings, as_of: str = "", **options: float) -> RebalancingReport:
    with Store.open(f"{report_folder(settings).parent}/portfolio.db", readonly=True) as store:
        return RebalancingReport.load(store, settings, as_of, **options)  # type: ignore[arg-type]


def test_the_report_opens_with_the_decision_and_needs_nothing_from_outside(settings: Settings) -> None:
    page = run_report(settings, as_of="2020-03-16", progress=False)
    assert page == report_folder(settings) / "rebalancing-2020-03-16.html"
    text = page.read_text()
    outcome = json.loads(page.with_suffix(".json").read_text())
    assert text.index('class="decision') < text.index("<table")
    assert ("<h2>Rebalance</h2>" in text) == outcome["rebalance"] and outcome["as_of"] == "2020-03-16"
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?\s*(?:https?:)?//""", text) and "<script" not in text
    assert text.count("<img ") == 5 and "Return by asset" in text and "Drawdown" in text and "Sharpe ratio" in text
    assert len(text) < 600_000
    first = page.read_bytes()
    assert run_report(settings, as_of="2020-03-16", progress=False).read_bytes() == first
    assert sorted(p.name for p in page.parent.iterdir()) == [
        "rebalancing-2020-03-16.html",
        "rebalancing-2020-03-16.json",
    ]


def test_what_the_gate_did_is_told_under_the_decision(settings: Settings) -> None:
    report = load(settings)
    assert report.data_notes == [] == report.result()["data_notes"] and "Of the prices" not in report.headline().text
    told = replace(report, computed=report.computed | {"data_notes": ["Left out: <USDT> (stablecoin)"]})
    assert "<p>Of the prices: left out: &lt;USDT&gt; (stablecoin).</p>" in told.headline().text
    assert told.result()["data_notes"] == ["Left out: <USDT> (stablecoin)"]


def test_default_parameters_report_on_the_newest_day(home: Path, tmp_path: Path) -> None:
    made = tmp_path / "out.ipynb"
    papermill.execute_notebook(notebook_path("reports", "rebalancing"), made, kernel_name="python3", progress_bar=False)
    assert "2020-03-31 UTC" in made.read_text()


def test_every_parameter_is_annotated_and_explained() -> None:
    found = papermill.inspect_notebook(notebook_path("reports", "rebalancing"))
    assert {"portfolio", "as_of", "window", "tolerance"} <= set(found)
    assert all(p["inferred_type_name"] not in (None, "None") and p["help"] for p in found.values())


def test_the_decision_is_the_one_the_engine_took(settings: Settings) -> None:
    with Store.open(report_folder(settings).parent / "portfolio.db", readonly=True) as store, store.read() as conn:
        recorded = rebalances(conn, "main")
    assert sum(r.state == "done" for r in recorded) >= 3
    for row in recorded:
        decision = json.loads(row.decision)
        again = load(settings, row.slot.date().isoformat()).decision
        amounts = {r["asset"]: r["amount_to_trade"] for r in decision["recommendations"]}
        assert again.rebalance == decision["rebalance"] and again.reason == decision["reason"]
        assert {r.asset: r.amount_to_trade for r in again.recommendations} == pytest.approx(amounts, abs=1e-6)


def test_another_tolerance_gives_another_decision(settings: Settings) -> None:
    assert load(settings, "2020-03-16", tolerance=0.001).decision.rebalance
    strict = load(settings, "2020-03-16", tolerance=0.9)
    assert not strict.decision.rebalance and strict.result()["trades"] == []
    assert "Do not rebalance" in strict.headline().text


def test_the_return_by_asset_adds_up_to_the_ledger(settings: Settings) -> None:
    for day in ("2020-03-16", "2020-03-27"):
        report = load(settings, day)
        made = report.record.sources
        assert 1.0 + made.total == pytest.approx(report.value / report.record.capital, rel=1e-12)
        assert made.by("asset").sum() == pytest.approx(made.total, rel=1e-12) and made.by("kind")["cost"] < 0
        recorded = report.record.equity
        whole = (1 + made.returns).cumprod().iloc[:-1] * report.record.capital  # the last bar is before its trades
        assert whole.to_numpy() == pytest.approx(recorded.iloc[:-1].to_numpy(), rel=1e-12)
        assert f"return of {made.total:.2%}" in report.attribution_figure().text


def test_headline_numbers_are_the_engine_s_with_intervals(settings: Settings) -> None:
    report = load(settings, "2020-03-16")
    known = {m["name"]: m["value"] for m in report.computed["metrics"]}
    table = report.record.intervals
    assert table["value"].to_dict() == pytest.approx({name: known[name] for name in table.index}, rel=1e-9)
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    text = report.interval_table().text
    assert "more years to tell this Sharpe from 0" in text and text.count("[") == len(table) + 1


def test_stress_of_what_is_held(settings: Settings) -> None:
    report = load(settings, "2020-03-27")
    made, held = report.record.stress, report.positions.weights()
    prices = sample_prices().loc["2020-02-19":"2020-03-23", held.index]
    lost = held * (1 - prices.iloc[-1] / prices.iloc[0])
    assert made.losses.loc["covid_2020"].to_dict() == pytest.approx(lost.to_dict())
    assert made.table["loss"].to_numpy() == pytest.approx(made.losses.sum(axis=1).to_numpy(), rel=1e-12)
    assert "reverse" not in set(made.table["kind"])  # the book is at its limit: the least move to it is none
    assert "reverse" in set(load(settings, "2020-02-14").record.stress.table["kind"])
    assert report.stress_figure().text.count("<img") == 1


def test_who_is_above_the_risk_budget_and_what_would_end_it(settings: Settings) -> None:
    report = load(settings, "2020-03-27")
    made, known = report.record.budget, report.record.closes.pct_change(fill_method=None).iloc[1:]
    assert made.max_risk_share == 0.2 and made.table["weight"].to_dict() == report.positions.weights().to_dict()
    lookback = settings.portfolio.rebalancing.lookback
    shares = portfolio_risk(known.tail(lookback), report.positions.weights())["component_risk_contributions"]
    assert made.table["risk_share"].to_dict() == pytest.approx(shares, abs=1e-12)
    text = report.risk_budget_table().text
    assert "very position is within the budget" in text and "<table" not in text
    for most, columns in ((0.06, 5), (0.04, 3)):  # twenty stocks: a way, and none
        wanted = load_settings(portfolio={"rebalancing": {"lookback": 60}, "optimizer": {"max_risk_share": most}})
        text = load(wanted, "2020-03-27").risk_budget_table().text
        assert text.count("<th") - text.count("<thead") == columns and ("trade" in text) == (columns == 5)


def test_on_the_first_day_there_is_nothing_to_explain(settings: Settings) -> None:
    first = load(settings, "2019-10-25")
    assert "A risk budget needs a position, and 20 returns" in first.risk_budget_table().text
    assert "Nothing is held yet" in first.stress_figure().text
    assert "No return to take apart yet" in first.attribution_figure().text
    assert "not known" in first.interval_table().text


def test_alerts_are_those_of_the_day(settings: Settings) -> None:
    assert load(settings, "2020-02-14").alerts == [] or all(
        a["since"] <= "2020-02-14T23" for a in load(settings, "2020-02-14").alerts
    )
    shown = load(settings, "2020-03-16").alerts
    assert shown[0]["severity"] == "critical" and any("Drawdown" in a["message"] for a in shown)
    assert not any(alert["held_back"] for alert in shown)  # not the newest day


def test_alerts_of_the_newest_day_say_who_has_them_and_what_is_held_back(settings: Settings) -> None:
    now, report = datetime.now(UTC), load(settings)
    key = report.alerts[0]["alert_id"]
    assert "held back" not in report.alert_table().text
    with Store.open(store_url(settings)) as store:
        desk = AlertDesk(store, settings.portfolio.name)
        about = {"rule": desk.acknowledge(key, "Ada", "", now).rule, "max_severity": Severity.CRITICAL}
        made = desk.silence("Ada", "known", now, now + timedelta(hours=4), **about)  # type: ignore[arg-type]
        text = load(settings).alert_table().text
        desk.end_silence(made.id, "Ada", "", now + timedelta(seconds=1))
    assert re.search(r"<td>Ada</td><td class=long>silenced until \d{4}-\d\d-\d\d \d\d:\d\d UTC</td>", text)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"as_of": "2020-03-15"}, DataError, "nearest day with data is 2020-03-1[36]"),
        ({"as_of": "1999-01-01"}, DataError, "it has 2019-10-2"),
        ({"as_of": "yesterday"}, ConfigError, "YYYY-MM-DD"),
        ({"window": 1}, ConfigError, "at least 2 days"),
        ({"tolerance": 1.5}, ConfigError, "between 0 and 1"),
    ],
)
def test_bad_parameters_are_refused_before_any_work(
    settings: Settings, options: dict[str, object], error: type[Exception], told: str
) -> None:
    before = sorted(report_folder(settings).glob("*"))
    with pytest.raises(error, match=told):
        run_report(settings, progress=False, **options)  # type: ignore[arg-type]
    assert sorted(report_folder(settings).glob("*")) == before


def test_an_unknown_portfolio_is_named_with_the_known_ones(home: Path) -> None:
    with pytest.raises(StoreError, match="portfolio-research run"):
        run_report(load_settings(portfolio={"name": "other"}), progress=False)
    elsewhere = load_settings(portfolio={"name": "other"}, engine={"store_url": f"sqlite:///{home}/main/portfolio.db"})
    with pytest.raises(StoreError, match="main"):
        run_report(elsewhere, progress=False)


@pytest.mark.parametrize(
    ("code", "told"),
    [("raise RuntimeError('no luck')", "no luck"), ("import os; os.kill(os.getpid(), 9)", "could not be made")],
)
def test_a_failed_run_never_touches_the_last_good_report(
    settings: Settings, broken: Broken, code: str, told: str
) -> None:
    good = report_folder(settings) / "rebalancing-2020-03-20.html"
    good.parent.mkdir(exist_ok=True)
    good.write_text("the last good one")
    broken(code)
    with pytest.raises(ReportError, match=told):
        run_report(settings, as_of="2020-03-20", progress=False)
    assert good.read_text() == "the last good one"
    assert (good.parent / "rebalancing-2020-03-20.failed.ipynb").exists()
    assert not list(good.parent.glob(".making-*"))


def test_the_kernel_knows_no_secret(settings: Settings, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORTFOLIO_RESEARCH_SMTP_PASSWORD", "PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL"):
        monkeypatch.setenv(name, "hunter2")
    broken("import os; assert 'hunter2' not in os.environ.values()")
    assert "hunter2" not in run_report(settings, as_of="2020-03-25", progress=False).read_text()
    assert os.environ["PORTFOLIO_RESEARCH_SMTP_PASSWORD"] == "hunter2"


def test_a_report_that_is_told_to_stop_leaves_nothing_half_made(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(to_yaml(settings))
    command = [sys.executable, "-m", "portfolio_research", "report", "--config", str(file), "--as-of", "2020-03-10"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(report_folder(settings).glob(".making-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.terminate()
        assert process.wait(20) == 143
    assert not list(report_folder(settings).glob(".making-*"))
    assert not list(report_folder(settings).glob("*2020-03-10*"))


def test_names_are_escaped() -> None:
    assert "<img" not in _table(["a"], [["<img onerror=x>"]]).text


def test_a_portfolio_without_data_says_how_to_start_it(tmp_path: Path) -> None:
    from portfolio_research.store.ledger import ensure_portfolio

    with Store.open(tmp_path / "p.db") as store:
        with store.begin() as conn:
            now = datetime.now(UTC)
            ensure_portfolio(conn, "main", 1000, "USD", "paper", "sample", "{}", now)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="portfolio-research run"):
            RebalancingReport.load(store, Settings())


def test_the_schedule_waits_for_the_engine_then_for_the_interval(
    settings: Settings, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(to_yaml(settings))
    schedule, now = ReportSchedule(settings, file), time.time()
    for old in report_folder(settings).glob("*"):
        old.unlink()
    with Store.open(home / "main" / "portfolio.db") as store:
        for state, due in (("warming up", False), ("running", True)):
            with store.begin() as conn:
                heartbeat(conn, "main", "engine", state=state, pid=1)
            assert schedule.is_due(now) == due
    schedule.poll()
    assert schedule.process is not None and schedule.process.wait(90) == 0
    made = report_folder(settings) / "rebalancing-2020-03-31.html"
    assert made.exists() and not schedule.is_due(time.time() + 23 * 3600) and schedule.is_due(time.time() + 25 * 3600)
    first = schedule.process
    schedule.poll()
    assert schedule.process is first
    schedule.stop()
    nowhere = load_settings(portfolio={"name": "nowhere"})
    assert not ReportSchedule(nowhere, file).is_due(now)
