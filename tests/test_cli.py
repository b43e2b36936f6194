"""The command line: what it prints, and the exit codes that a scheduler relies on."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from portfolio_research import __main__ as command_line
from portfolio_research.__main__ import main
from portfolio_research.alerts import AlertType, Notice, Rule, Severity, evaluate
from portfolio_research.backtest import walk_forward
from portfolio_research.config import Settings
from portfolio_research.data import load_prices, sample_prices, to_returns
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.rebalancing import Policy
from portfolio_research.store import Store, ledger
from portfolio_research.store.outbox import StoreSink
from portfolio_research.targets import optimizer_from
from portfolio_research.trials import TrialLedger

COMMANDS = [
    "run",
    "engine",
    "dashboard",
    "weights",
    "backtest",
    "report",
    "alerts",
    "config",
    "data check",
    "data fetch",
    "alerts ack",
    "alerts backtest",
    "alerts dead",
    "alerts drop",
    "alerts list",
    "alerts resolve",
    "alerts retry",
    "alerts show",
    "alerts silence",
    "alerts silences",
    "alerts test-channel",
    "alerts unsilence",
    "config init",
    "config show",
]


@dataclass
class Done:
    stdout: str
    stderr: str


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in an empty folder with an empty home, and checks its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("PORTFOLIO_RESEARCH_CONFIG", raising=False)

    def run(*args: str, expect: int = 0, **env: str) -> Done:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["portfolio-research", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        done = Done(*capsys.readouterr())
        assert (end.value.code or 0) == expect, done
        return done

    return run


@pytest.fixture
def price_file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.csv"
    sample_prices().loc["2019-01-01":"2020-06-30", ["AAPL", "JPM", "KO", "XOM"]].to_csv(path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli, command: str) -> None:
    text = cli(*command.split(), "--help").stdout
    assert "Usage" in text
    assert command == "config" or f"Example: portfolio-research {command}" in text


def test_weights_are_the_librarys(cli, price_file: Path) -> None:
    printed = json.loads(cli("weights", str(price_file), "--lookback", "100", "--json").stdout)
    frame = sample_prices().loc["2019-01-01":"2020-06-30", ["AAPL", "JPM", "KO", "XOM"]]
    expected = HierarchicalRiskParity().fit(to_returns(frame).iloc[-100:]).weights_
    assert printed == pytest.approx(expected.to_dict(), rel=1e-12)


def test_weights_show_the_alternatives(cli) -> None:
    text = cli("weights", "sample").stdout
    assert "2022-12-28" in text and "JNJ" in text and re.search("equal.weight", text, re.I)


OPTIMIZER = """
portfolio:
  optimizer: {max_weight: {KO: 0.2}, treat_as_cash: [XOM], merge_correlated: 0.7, trading_cost: 0.001, order_tolerance: 0.01}
"""


def test_weights_keep_the_configured_options_and_say_what_they_did(cli, price_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OPTIMIZER)
    text = cli("weights", str(price_file), "--lookback", "100").stdout
    assert "Counted as cash, outside the tree: XOM" in text
    assert "Bounds at work: max_weight KO\n" in text
    assert "Copies that share one leaf: AAPL, JPM" in text
    printed = json.loads(cli("weights", str(price_file), "--lookback", "100", "--json").stdout)
    assert printed["KO"] == pytest.approx(0.2) and printed["XOM"] == 0.0
    (tmp_path / "config.yaml").unlink()
    plain = cli("weights", str(price_file), "--lookback", "100").stdout
    assert not any(word in plain for word in ("cash", "Copies", "Bounds"))


def test_every_bound_at_work_is_named(cli, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("portfolio: {optimizer: {max_weight: 0.06, max_risk_share: 0.062}}\n")
    text = cli("weights", "sample").stdout
    assert re.search(r"Bounds at work: max_weight .*JNJ.*; max_risk_share ", text)


def test_backtest_keeps_the_configured_options(cli, price_file: Path, tmp_path: Path) -> None:
    def final(text: str) -> float:
        (tmp_path / "config.yaml").write_text(text)
        done = cli("backtest", str(price_file), "--start", "2020-05-01", "--csv", "curve.csv", "--json")
        assert json.loads(done.stdout)
        return float((tmp_path / "curve.csv").read_text().splitlines()[-1].rsplit(",", 1)[1])

    wanted = Settings(portfolio={"optimizer": {"max_weight": {"KO": 0.1}}})  # type: ignore[arg-type]
    prices = load_prices(price_file)
    same = walk_forward(prices, optimizer_from(wanted), start="2020-05-01", policy=Policy())
    assert final("portfolio: {optimizer: {max_weight: {KO: 0.1}}}") == pytest.approx(same.equity.iloc[-1], rel=1e-12)
    assert final("") != pytest.approx(same.equity.iloc[-1], rel=1e-6)


def test_bounds_that_name_an_unknown_asset_end_with_2(cli, price_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("portfolio: {optimizer: {max_weight: {DOGE: 0.1}}}\n")
    assert "max_weight names DOGE" in cli("weights", str(price_file), expect=2).stderr


def test_the_configuration_shows_the_options_and_what_they_mean(cli) -> None:
    shown = cli("config", "show").stdout
    assert "optimizer:" in shown and "max_weight: 1.0  # of every asset, or by asset {BTC: 0.3}" in shown


def test_backtest_prints_metrics_and_writes_the_curve(cli, price_file: Path, tmp_path: Path) -> None:
    done = cli("backtest", str(price_file), "--start", "2020-02-03", "--csv", str(tmp_path / "curve.csv"), "--json")
    metrics = json.loads(done.stdout)
    assert metrics["max_drawdown"] > 0.2
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0].endswith("equity") and lines[1].startswith("2020-02-03")


def test_every_backtest_is_a_trial_and_shown_as_one(cli, price_file: Path, tmp_path: Path) -> None:
    said = [cli("backtest", str(price_file), "--start", day).stdout for day in ("2020-02-03", "2020-02-04", "2020-02-03")]
    assert "Trial 1 of 1 on these prices; deflated Sharpe" in said[0] and "minimum track record" in said[0]
    assert "Trial 2 of 2 on these prices; deflated" in said[1]
    assert "Trial 1 of 2 on these prices (run 3 times); deflated" in said[2]
    ledger = TrialLedger(tmp_path / "home" / "main" / "trials.jsonl")
    assert len(ledger) == 2 and len(ledger.on(load_prices(price_file))) == 2
    asked = json.loads(cli("backtest", str(price_file), "--start", "2020-02-04", "--json").stdout)
    assert asked["judgement.trials"] == 2 and 0 < asked["judgement.deflated_sharpe"] < 1 and "sharpe" in asked


def test_what_was_tried_stays_tried_when_a_portfolio_begins_again(tmp_path: Path) -> None:
    home = tmp_path / "main"
    home.mkdir()
    for name in ("trials.jsonl", "portfolio.db"):
        (home / name).write_text("x")
    command_line._set_aside(home)
    assert [path.name for path in home.iterdir()] == ["trials.jsonl"]


def test_backtest_decides_when_the_bot_would(cli, price_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("portfolio: {rebalancing: {frequency: monthly, tolerance: 0.001}}\n")
    text = cli("backtest", str(price_file), "--start", "2020-02-03", "--csv", "curve.csv").stdout
    prices = load_prices(price_file)
    months = prices.loc["2020-02-03":].index.tz_localize(None).to_period("M").nunique()
    assert int(re.search(r"(\d+) trades", text)[1]) <= months * prices.shape[1]


def test_backtest_table_names_the_periods_per_year(cli, price_file: Path) -> None:
    text = cli("backtest", str(price_file), "--start", "2020-02-03").stdout
    assert "252 periods per year" in text and "Sharpe" in text  # the file has no weekends


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no price file"),
        ("", "empty"),
        ("date,A\n2020-01-01,1\n2020-01-02,2\n", "two assets"),
        ("date,A,B\n2020-01-01,1,2\n", "row"),
        ("date,A,B\n2020-01-01,1,2\n2020-01-02,x,3\n", "A on 2020-01-02"),
        ("date,A,B\n2020-01-01,1,2\n2020-01-01,2,3\n", "2020-01-01"),
        ("date,A,B\n2020-01-01,1,2\n2020-01-02,0,3\n", "A on 2020-01-02"),
    ],
)
def test_bad_price_files_end_with_2_and_one_line(cli, tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_text(content)
    done = cli("weights", str(path), expect=2)
    assert told in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


# ---------------------------------------------------------------- the data gate
@pytest.fixture
def coins_file(tmp_path: Path) -> Path:
    """Coins with a stablecoin, one that was delisted, and one that is young."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2023-01-01", periods=400, tz="UTC", name="date")
    prices = pd.DataFrame(100 * np.exp(np.cumsum(rng.normal(0, 0.03, (400, 6)), axis=0)), days, list("ABCDEF"))
    prices["E"], prices.iloc[:350, 5], prices.iloc[300:, 3] = 1 + 0.001 * np.sin(np.arange(400)), np.nan, np.nan
    prices.to_csv(tmp_path / "coins.csv")
    return tmp_path / "coins.csv"


def test_data_check_says_what_is_wrong_and_may_draw_it(
    cli, coins_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line.out, "_width", 160)
    done = cli("data", "check", str(coins_file), "--figure", "map.png")
    assert re.search(r"E +│.*stablecoin +│ drop", done.stdout) and "D " in done.stdout and "ended" in done.stdout
    assert "365 periods per year (a row a day, weekends too)" in done.stdout and "tradable" in done.stdout
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(command_line.out, "_width", 70)
    narrow = cli("data", "check", str(coins_file)).stdout
    assert "stablecoin, drop" in narrow and max(map(len, narrow.splitlines()[:-1])) <= 70
    cli("data", "check", str(coins_file), "--figure", "map.svg")
    assert (tmp_path / "map.svg").read_text().startswith("<svg")
    assert "--figure map.gif" in cli("data", "check", str(coins_file), "--figure", "map.gif", expect=2).stderr


def test_data_check_for_programs(cli, coins_file: Path) -> None:
    told = json.loads(cli("data", "check", str(coins_file), "--json").stdout)
    assert told["ok"] and told["periods_per_year"] == {"value": 365.0, "reason": "a row a day, weekends too"}
    assert {f["rule"] for f in told["findings"]} == {"stablecoin", "short", "ended", "stale"}
    assert told["availability"]["D"]["kept"] == 300 and told["availability"]["E"]["action"] == "drop"


def test_data_check_of_the_sample_and_of_a_refused_file(cli, coins_file: Path, tmp_path: Path) -> None:
    assert "tradable, 1 warning" in cli("data", "check", "sample").stdout
    prices = pd.read_csv(coins_file, index_col=0)
    prices.iloc[200:, 1] *= 1295
    prices.to_csv(coins_file)
    done = cli("data", "check", str(coins_file), expect=2)
    assert "redenomination" in done.stdout and "REFUSED" in done.stdout
    assert "data.accept: [B 2023-07-20]" in done.stdout and "{redenomination: drop | trim | keep}" in done.stdout
    for command in (["weights", str(coins_file)], ["backtest", str(coins_file)], ["run", "--prices", str(coins_file)]):
        assert "B on 2023-07-20: x1" in cli(*command, expect=2).stderr
    (tmp_path / "config.yaml").write_text("data: {accept: [B 2023-07-20]}\n")
    assert "Kept, with a warning: B (redenomination)" in cli("weights", str(coins_file), "--lookback", "60").stderr
    (tmp_path / "config.yaml").write_text("data: {quality: {redenominaton: drop}}\n")
    assert "did you mean redenomination" in cli("weights", str(coins_file), expect=2).stderr


def test_weights_and_backtest_say_what_the_gate_did(cli, coins_file: Path, price_file: Path) -> None:
    done = cli("weights", str(coins_file), "--lookback", "60", "--json")
    assert set(json.loads(done.stdout)) == {"A", "B", "C"}
    assert done.stderr.splitlines() == [
        "Left out: E (stablecoin), F (short)",
        "Kept, with a warning: D (ended)",
        f"`portfolio-research data check {coins_file}` says why.",
        "No price on 2024-02-04, so no weight: D",
    ]
    assert "Left out: E" in cli("backtest", str(coins_file), "--json").stderr
    assert cli("weights", str(price_file), "--lookback", "100").stderr == ""


def test_a_bad_option_ends_with_2(cli) -> None:
    assert "No such option" in cli("weights", "sample", "--lookbak", "3", expect=2).stderr


def test_a_bad_configuration_ends_with_2(cli, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("portfolio:\n  rebalancing: {tolerance: 1.5}\n")
    assert "portfolio.rebalancing.tolerance = 1.5" in cli("config", "show", expect=2).stderr


def test_config_init_writes_a_file_that_loads_and_is_never_overwritten(cli, tmp_path: Path) -> None:
    cli("config", "init")
    before = (tmp_path / "config.yaml").read_text()
    assert "tolerance: 0.05" in before
    assert "tolerance: 0.05" in cli("config", "show").stdout
    assert "exists already" in cli("config", "init", expect=2).stderr
    assert (tmp_path / "config.yaml").read_text() == before


def test_secrets_are_never_shown(cli) -> None:
    secrets = {
        "PORTFOLIO_RESEARCH_SMTP_PASSWORD": "hunter2",
        "PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL": "https://hooks/hunter2",
    }
    assert "hunter2" not in cli("config", "show", **secrets).stdout


def test_a_misspelt_variable_is_refused(cli) -> None:
    done = cli("config", "show", expect=2, PORTFOLIO_RESEARCH__DASHBOARD__PROT="1")
    assert "PORTFOLIO_RESEARCH__DASHBOARD__PORT" in done.stderr


@pytest.mark.parametrize("command", [["alerts"], ["report"], ["alerts", "ack", "abc"]])
def test_without_a_portfolio_the_remedy_is_named(cli, command: list[str]) -> None:
    done = cli(*command, expect=2)
    assert "portfolio-research run" in done.stderr and "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m portfolio_research config show | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.stdout == "portfolio:\n" and "Traceback" not in done.stderr


def test_help_has_its_short_form(cli) -> None:
    assert "Usage" in cli("alerts", "ack", "-h").stdout


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["backtest", "prices.csv", "--start", "2020-02-03", "--csv", "nowhere/x.csv"], "nowhere/x.csv: No such file"),
        (["config", "init", "--path", "nowhere/c.yaml"], "nowhere/c.yaml: No such file"),
        (["config", "show", "--config", "."], ".: Is a directory"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(cli, price_file: Path, command: list[str], told: str) -> None:
    done = cli(*command, expect=2)
    assert told in done.stderr and "Traceback" not in done.stderr


def test_a_lookback_of_zero_is_not_the_default(cli, price_file: Path) -> None:
    assert "portfolio.rebalancing.lookback = 0" in cli("weights", str(price_file), "--lookback", "0", expect=2).stderr


def test_weights_say_how_many_returns_they_come_from(cli, price_file: Path) -> None:
    assert "from 100 returns" in cli("weights", str(price_file), "--lookback", "100").stdout
    assert "from 376 returns" in cli("weights", str(price_file), "--lookback", "9999").stdout


def test_two_sources_exclude_each_other(cli, price_file: Path) -> None:
    done = cli("run", "--prices", str(price_file), "--source", "hyperliquid", expect=2)
    assert "exclude each other" in done.stderr


def alerted(home: Path, portfolio: str) -> StoreSink:
    """A portfolio with one alert."""
    at = datetime(2020, 3, 12, tzinfo=UTC)
    store = Store.open(home / portfolio / "portfolio.db")
    with store.begin() as conn:
        ledger.ensure_portfolio(conn, portfolio, Decimal(1), "USD", "paper", "test", "{}", at)
    rule = Rule("volatility", AlertType.VOLATILITY, "volatility_ratio", {Severity.HIGH: 1.5}, title="Volatility")
    sink = StoreSink(store, portfolio)
    for _ in range(5):
        found = evaluate([rule], {"volatility_ratio": 1.83}, sink.load(), portfolio=portfolio, now=at)
        sink.commit(found, handlers=(), now=at)
    return sink


def one_line(table: str) -> str:
    """A table's text without its frame, column by column."""
    rows = [line.strip("│").split("│") for line in table.splitlines() if line.startswith("│")]
    return " ".join(" ".join(" ".join(column).split()) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_alerts_can_be_read_on_any_terminal(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    (alert,) = alerted(tmp_path / "home", "main").load().values()
    monkeypatch.setattr(command_line.out, "_width", columns)
    lines = cli("alerts").stdout.splitlines()
    text = " ".join(" ".join(line.split("│")[-2 if columns < 110 else 6 :][:1]) for line in lines if "│" in line)
    assert max(map(len, lines)) <= columns and len(lines) <= 9, lines
    assert any(alert.id[:8] in line and "high" in line for line in lines)
    assert " ".join(text.split()).startswith(alert.message[:40])
    assert "2020-03-12" in "".join(lines) and "firing" in "".join(lines)


def test_an_alert_of_another_portfolio_is_acknowledged_once(cli, tmp_path: Path) -> None:
    alerted(tmp_path / "home", "main")
    (alert,) = alerted(tmp_path / "home", "other").load().values()
    said = cli("alerts", "ack", alert.id[:8], "--portfolio", "other", "--who", "ann", "--comment", "seen").stdout
    assert "Acknowledged by ann" in said
    again = cli("alerts", "--portfolio", "other", "ack", alert.id[:8], expect=2)
    assert "ann" in again.stderr and "Traceback" not in again.stderr
    assert re.search(r"acknowledged by ann until .*seen", one_line(cli("alerts", "--portfolio", "other").stdout))
    assert "ann" not in cli("alerts").stdout


def test_the_list_says_who_has_an_alert_and_what_holds_it_back(cli, tmp_path: Path) -> None:
    (alert,) = alerted(tmp_path / "home", "main").load().values()
    assert json.loads(cli("alerts", "list", "--json").stdout)[0]["silenced_until"] is None
    said = cli("alerts", "ack", alert.id[:6], "--for", "4h", "--who", "ann", "--comment", "[hedged]").stdout
    assert re.search(r"by ann until \d{4}-\d\d-\d\d \d\d:\d\d UTC: Volatility", said)
    about = ["--rule", "volatility", "--comment", "expiry day", "--until", f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"]
    made = cli("alerts", "silence", "--who", "bob", *about).stdout
    (shown,) = json.loads(cli("alerts", "--json").stdout)
    assert (shown["acknowledged_by"], shown["state"], shown["peak"]) == ("ann", "acknowledged", 1.83)
    lasts = datetime.fromisoformat(shown["acknowledged_until"]) - datetime.fromisoformat(shown["acknowledged_at"])
    assert lasts == timedelta(hours=4) and shown["silenced_until"].startswith(about[-1])
    told = one_line(cli("alerts", "list").stdout)
    assert "[hedged]" in told and f"silenced until {about[-1]} 00:00 UTC" in told
    listed = one_line(cli("alerts", "silences").stdout)
    assert all(word in listed for word in ("volatility", "high", "bob", "expiry day"))
    (silence,) = json.loads(cli("alerts", "silences", "--json").stdout)
    assert f"unsilence {silence['id'][:8]}" in made and "ended by" in cli("alerts", "unsilence", silence["id"][:5]).stdout
    assert "No silences" in cli("alerts", "silences").stdout
    assert json.loads(cli("alerts", "--json").stdout)[0]["silenced_until"] is None


@pytest.mark.parametrize("columns", [70, 160])
def test_show_tells_the_whole_history(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    (alert,) = alerted(tmp_path / "home", "main").load().values()
    cli("alerts", "silence", "--rule", "volatility", "--for", "90m", "--comment", "known", "--who", "bob")
    cli("alerts", "ack", alert.id, "--who", "ann", "--comment", "seen")
    cli("alerts", "resolve", alert.id, "--who", "ann", "--comment", "hedged")
    monkeypatch.setattr(command_line.out, "_width", columns)
    lines = cli("alerts", "show", alert.id[:4]).stdout.splitlines()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= columns and alert.id in lines[0]
    rows = [line for line in lines if line.startswith("│ 20")]
    happened = ("first breach", "fired", "silenced", "acknowledged", "resolved")
    assert all(re.search(f" {word} ", row) for word, row in zip(happened, rows, strict=True)), text
    assert "2020-03-12 00:00" in rows[0] and "“hedged”" in rows[-1] and "ann" in rows[-1], text
    assert re.search(r"worst +1\.83", text) and re.search(r"limit +1\.5", text)
    shown = json.loads(cli("alerts", "show", alert.id, "--json").stdout)
    assert [one["kind"] for one in shown["history"]] == ["pending", "fired", "silenced", "acknowledged", "resolved"]
    assert shown["state"] == "resolved" and shown["silences"][0]["comment"] == "known"
    assert "No active alerts" in cli("alerts").stdout and alert.id[:8] in cli("alerts", "list", "--all").stdout


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["ack", "ID", "--for", "4h", "--until", "2030-01-01"], "exclude each other"),
        (["ack", "ID", "--for", "4 weeks"], "--for 4 weeks: give a number and m, h or d"),
        (["ack", "ID", "--until", "tomorrow"], "--until tomorrow: give a day or a time"),
        (["ack", "ID", "--until", "2020-01-01"], "must end after now"),
        (["ack", "ID", "--for", "31d"], "within 30 days"),
        (["ack", "zz"], "`portfolio-research alerts list --all` lists them"),
        (["show", "zz"], "no alerts have an id"),
        (["silence", "--comment", "x"], "a silence needs an end"),
        (["silence", "--for", "1h"], "say why"),
        (["silence", "--for", "1h", "--comment", "x", "--rule", "volatilty"], "did you mean volatility?"),
        (["silence", "--for", "1h", "--comment", "x", "--max-severity", "awful"], "choose one of low, medium"),
        (["silence", "--for", "0h", "--comment", "x"], "must end after now"),
        (["unsilence", "zz"], "`portfolio-research alerts silences` lists them"),
    ],
)
def test_what_cannot_be_done_to_an_alert_names_the_remedy(cli, tmp_path: Path, command: list[str], told: str) -> None:
    sink = alerted(tmp_path / "home", "main")
    (alert,), before = sink.load().values(), len(sink.events())
    done = cli("alerts", *(alert.id if word == "ID" else word for word in command), expect=2)
    assert told in done.stderr and "Traceback" not in done.stderr and len(sink.events()) == before


def test_a_silence_of_every_portfolio_says_so(cli, tmp_path: Path) -> None:
    alerted(tmp_path / "home", "main")
    cli("alerts", "silence", "--for", "1h", "--comment", "moving house", "--everywhere")
    assert "every rule, every portfolio" in one_line(cli("alerts", "silences").stdout)


def test_a_test_message_goes_through_every_channel_that_is_on(cli, tmp_path: Path) -> None:
    assert re.search(r"log.*arrived.*everything", cli("alerts", "test-channel").stdout)
    assert "TEST This is a test of the alerts of main" in (tmp_path / "home" / "main" / "alerts.log").read_text()
    quiet = "slack: {min_severity: high, quiet_hours: {zone: Europe/Berlin}}"
    (tmp_path / "config.yaml").write_text(f"portfolio: {{monitoring: {{handlers: {{{quiet}}}}}}}\n")
    nobody = {"PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL": "http://127.0.0.1:9/hook-hunter2"}
    done = cli("alerts", "test-channel", expect=2, **nobody)
    text = one_line(done.stdout)
    assert "arrived" in text and "failed: slack: " in text and "hunter2" not in done.stdout + done.stderr
    assert "high and worse; 22:00 to 07:00 Europe/Berlin only critical" in text
    assert json.loads(cli("alerts", "test-channel", "log", "--json").stdout) == {"log": {"arrived": True, "error": ""}}
    assert "no channel email is on, there is: log, slack" in cli("alerts", "test-channel", "email", expect=2).stderr


@pytest.mark.parametrize("columns", [70, 160])
def test_messages_that_never_arrived_are_listed_and_sent_again(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    sink, now = alerted(tmp_path / "home", "main"), datetime.now(UTC)
    assert "No dead letters" in cli("alerts", "dead").stdout
    for key in "ab":
        sink.post(Notice("main", "[HIGH] main: deep", Severity.HIGH, ("deep",), now, f"k:{key}"), ["slack"], now)
    ids = [str(item.id) for item in sink.pending(now)]
    for id in ids:
        sink.give_up(int(id), "HTTP 410 <gone>", now, {})
    monkeypatch.setattr(command_line.out, "_width", columns)
    text = cli("alerts", "dead").stdout
    assert "[HIGH] main: deep" in text and "HTTP 410 <gone>" in text and max(map(len, text.splitlines())) <= columns
    assert [str(item["id"]) for item in json.loads(cli("alerts", "dead", "--json").stdout)] == ids
    cli("alerts", "retry", ids[0], "--who", "ann")
    cli("alerts", "drop", ids[1], "--who", "bob", "--comment", "stale")
    assert [(event.kind, event.who) for event in sink.events()][-2:] == [("retried", "ann"), ("dropped", "bob")]
    assert [str(item.id) for item in sink.pending(datetime.now(UTC))] == ids[:1] and not sink.dead()
    assert f"main has no message {ids[0]} that was given up" in cli("alerts", "retry", ids[0], expect=2).stderr
