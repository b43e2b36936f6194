"""`portfolio-research alerts backtest`: the tables, the picture, the mark on simulated prices."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from portfolio_research import __main__ as command_line
from portfolio_research.__main__ import main
from portfolio_research.alert_backtest import backtest_alerts
from portfolio_research.alert_values import book_weights
from portfolio_research.alerts import default_rules
from portfolio_research.analytics import PortfolioAnalytics
from portfolio_research.backtest import walk_forward
from portfolio_research.calendars import calendar_from
from portfolio_research.config import DataSettings, Settings
from portfolio_research.costs import costs_from
from portfolio_research.data import sample_prices, to_returns
from portfolio_research.rebalancing import policy_from
from portfolio_research.settings import load_settings
from portfolio_research.targets import optimizer_from

PRICES = sample_prices().loc["2018":"2020", ["AAPL", "JPM", "KO", "XOM", "JNJ"]]
OWN = """
portfolio:
  monitoring:
    rules: [{id: deep, type: drawdown, metric: max_drawdown, critical: 0.2}]
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What the command says, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PORTFOLIO_RESEARCH_CONFIG", raising=False)
    PRICES.to_csv(tmp_path / "prices.csv")

    def run(*args: str, columns: int = 120, expect: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["portfolio-research", "alerts", "backtest", *args])
        monkeypatch.setattr(command_line.out, "_width", columns)
        with pytest.raises(SystemExit) as end:
            main()
        text = capsys.readouterr()
        assert (end.value.code or 0) == expect, text
        return text.err if expect else text.out

    return run


def test_the_numbers_are_those_of_the_library(told, tmp_path: Path) -> None:
    printed = json.loads(told("prices.csv", "--json"))
    settings = Settings(data=DataSettings(source="csv", path=tmp_path / "prices.csv"))
    run = walk_forward(PRICES, optimizer_from(settings), policy=policy_from(settings), costs=costs_from(settings), lookback=252,
                       step=calendar_from(settings), capital=settings.portfolio.capital, progress=False)
    stocks = PortfolioAnalytics(periods_per_year=252)
    made = backtest_alerts(default_rules(), run.returns, book_weights(run, PRICES), to_returns(PRICES), analytics=stocks)
    known = made.summary.to_dict()
    assert {key: np.nan if value is None else value for key, value in printed.items()} == pytest.approx(known, nan_ok=True)
    assert printed["caught"] == printed["falls"] == 1 and not list(tmp_path.glob("home/*/trials*"))


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_tables_fit_the_terminal(told, columns: int) -> None:
    text = told("prices.csv", columns=columns)
    lines = text.splitlines()
    tables = [line for line in lines if line and line[0] in "┃│┏┡└"]
    assert tables and max(map(len, tables)) <= columns and "…" not in text
    assert "2020-03-23" in text and "messages in 2.0 years" in text and "drawdown" in text
    assert "false/y" in text and ("came true" in "".join(tables)) is (columns > 110)


def test_simulated_prices_are_marked_and_the_picture_is_drawn(told, tmp_path: Path) -> None:
    judging = ["--horizon", "5", "--loss", "0.05", "--fall", "0.3"]
    text = told("simulated", "--start", "2024-06-01", "--picture", "alerts.png", *judging)
    assert text.count("SIMULATED") == 2 and "Falls of 30% and more" in text and "further loss of 5.0% within 5 bars" in text
    assert (tmp_path / "alerts.png").read_bytes()[:4] == b"\x89PNG"


def test_a_budget_proposes_the_keys_of_the_configuration(told, tmp_path: Path) -> None:
    text = told("prices.csv", "--budget", "1 per month", columns=80)
    assert "Limits for 1 messages a month" in text and "proposed" in text
    (tmp_path / "config.yaml").write_text(text[text.index("portfolio:") :])
    limits = load_settings(tmp_path / "config.yaml").portfolio.monitoring.alerts
    assert limits.max_drawdown_warning not in (None, 0.10) and limits.daily_loss_low != 0.02


def test_rules_of_ones_own_are_tried_too(told, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OWN)
    text = told("prices.csv")
    assert "deep" in text and "Not judged" in text and "data-stale" in text


def test_a_wrong_number_is_one_line(told) -> None:
    assert "fall is 2.0" in told("prices.csv", "--start", "2020-01-02", "--fall", "2", expect=2)
