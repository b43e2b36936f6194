"""A portfolio of the simulated market from the configuration to every place where people see it: each says SIMULATED."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portfolio_research.__main__ import app
from portfolio_research.alerts import Evaluation, evaluate
from portfolio_research.channels import _slack
from portfolio_research.config import Settings
from portfolio_research.engine import wiring
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.handlers import _mail
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.monitor import PortfolioMonitor
from portfolio_research.reports import runner
from portfolio_research.reports.content import RebalancingReport
from portfolio_research.settings import load_settings, to_yaml
from portfolio_research.simulation import simulate_prices
from portfolio_research.store import Store
from portfolio_research.store.snapshot import build_snapshot

SECTIONS: dict[str, Any] = {
    "data": {"source": "simulated", "days": 155, "live_from": "2021-02-20"},  # the crash of this seed is on the 22nd
    "portfolio": {"rebalancing": {"lookback": 60}},
    "engine": {"speed": 0},
    "dashboard": {"enabled": False},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The engine has run through the first crash of the simulated market."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTFOLIO_RESEARCH_HOME", str(folder))
        patch.delenv("PORTFOLIO_RESEARCH_CONFIG", raising=False)
        patch.chdir(folder)
        settings = load_settings(**SECTIONS)

        async def live() -> None:
            await HyperliquidTradingBot(settings).start(until_end=True)

        asyncio.run(live())
        (folder / "config.yaml").write_text(to_yaml(settings))
        yield folder


def opened(home: Path) -> Store:
    return Store.open(home / "main" / "portfolio.db")


def test_the_snapshot_of_dashboard_and_rest(home: Path) -> None:
    with opened(home) as store:
        picture = build_snapshot(store, "main")
    assert picture["source"] == "SIMULATED market, seed 0" and picture["periods_per_year"] == 365
    assert all(position["asset"].startswith("SIM-") for position in picture["positions"])


def test_each_line_of_the_log(home: Path) -> None:
    lines = (home / "main" / "alerts.log").read_text().splitlines()
    assert lines and all(" main SIMULATED " in line for line in lines)
    assert any("CRITICAL" in line for line in lines)


def test_mail_and_slack(tmp_path: Path) -> None:
    with Store.open(tmp_path / "p.db") as store:
        settings = Settings(**SECTIONS)
        with store.begin() as conn:
            wiring.enter_ledger(conn, settings, "SIMULATED market, seed 0")
        monitor = wiring.make_monitor(settings, store, lambda: True, "SIMULATED market, seed 0")
        sink, now = monitor.sink, datetime(2021, 2, 22, tzinfo=UTC)
        evaluation = halted(monitor, now)
        sink.commit(evaluation, handlers=("email", "slack"), now=now)
        notices = {item.handler: item.notice for item in sink.pending(now)}
    mail = _mail(notices["email"], "bot@example.org", ["me@example.org"])
    assert mail["Subject"].startswith("SIMULATED [")
    assert "SIMULATED" in mail.get_body(("plain",)).get_content().splitlines()[0]  # type: ignore[union-attr]
    posted = _slack(notices["slack"])
    assert posted["text"].startswith("SIMULATED [") and "• SIMULATED" in json.dumps(posted, ensure_ascii=False)


def halted(monitor: PortfolioMonitor, now: datetime) -> Evaluation:
    """A tick on which one alert fires."""
    return evaluate(monitor.rules, {"engine_halted": 1.0}, {}, portfolio="main", now=now)


def test_messages_about_real_prices_are_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "p.db") as store:
        settings = Settings()
        with store.begin() as conn:
            wiring.enter_ledger(conn, settings, "prices.csv")
        monitor = wiring.make_monitor(settings, store, lambda: True, "prices.csv")
        now = datetime(2021, 2, 22, tzinfo=UTC)
        evaluation = halted(monitor, now)
        monitor.sink.commit(evaluation, handlers=("log",), now=now)
        (item,) = monitor.sink.pending(now)
    assert item.notice == evaluation.notices[0] and "SIMULATED" not in json.dumps(item.notice.to_dict())


def test_the_report(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home / "config.yaml")
    with opened(home) as store:
        report = RebalancingReport.load(store, settings)
    shown = report.headline().text
    assert shown.startswith("<p class='simulated'>SIMULATED: no price in this report is real.</p>")
    assert report.result()["prices"] == "SIMULATED market, seed 0" and "SIMULATED market" in report.provenance().text

    def executed(template: Path, made: Path, parameters: dict[str, Any], **options: Any) -> None:
        Path(parameters["result_path"]).write_text("{}")

    monkeypatch.setattr(runner, "_execute", executed)
    monkeypatch.setattr(runner, "to_html", lambda notebook, title: title)
    assert runner.run_report(settings).read_text() == "SIMULATED: Rebalancing of main, 2021-03-04"


@pytest.mark.parametrize("command", [["alerts", "--all"], ["weights", "simulated"], ["backtest", "simulated"]])
def test_tables_of_the_command_line(home: Path, command: list[str]) -> None:
    options = ["--config", str(home / "config.yaml")]
    made = CliRunner().invoke(app, [command[0], *options, *command[1:]], env={"COLUMNS": "160"})
    assert made.exit_code == 0, made.output
    tables = made.output.count("┏")
    assert tables and made.output.count(" SIMULATED ") == tables


def test_whoever_makes_the_feed_it_is_marked(tmp_path: Path) -> None:
    prices = simulate_prices(100, ["SIM-BTC", "SIM-ETH"])
    assert ReplayFeed(prices).source == "SIMULATED: price frame"
    prices.to_csv(tmp_path / "mine.csv")
    csv: dict[str, Any] = {**SECTIONS, "data": {"source": "csv", "path": tmp_path / "mine.csv"}}
    assert wiring.make_feed(Settings(**csv)).source == "SIMULATED: mine.csv"
    assert ReplayFeed(prices.rename(columns={"SIM-BTC": "BTC", "SIM-ETH": "ETH"})).source == "price frame"


def test_settings_choose_seed_days_and_what_is_watched(home: Path) -> None:
    sections: dict[str, Any] = {**SECTIONS, "data": {"source": "simulated", "days": 400, "seed": 7}}
    feed = wiring.make_feed(Settings(**sections))
    assert isinstance(feed, ReplayFeed) and feed.source == "SIMULATED market, seed 7"
    prices = simulate_prices(400, seed=7)
    assert feed.history(400).equals(prices)
    assert feed.start == prices.index[60] and feed.live_from == prices.index[240]
    assert Settings(**sections).periods_per_year == 365
