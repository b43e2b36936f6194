"""The command line: `portfolio-research COMMAND`.

Exit codes, for schedulers: 0 done, 1 a bug of ours, 2 bad input or settings, 3 another engine runs this portfolio,
4 the engine halted because it could not record or a loop died, 5 not all that was asked for could be fetched,
130 stopped by Ctrl-C.

Imports stay inside the commands: `--help` must answer at once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from portfolio_research.config import (
    ConfigError,
    DataError,
    PortfolioError,
    Settings,
    StoreError,
    portfolio_home,
    store_url,
)
from portfolio_research.settings import load_settings, to_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from portfolio_research.alert_backtest import AlertBacktest
    from portfolio_research.alert_calibration import Calibration
    from portfolio_research.market.candles import HyperliquidCandles
    from portfolio_research.market.fetch import CoinFetch
    from portfolio_research.market.funding import HyperliquidFunding
    from portfolio_research.quality import QualityReport
    from portfolio_research.store.outbox import StoreSink
    from portfolio_research.trials import TrialLedger

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hierarchical risk parity from notebook to bot: back-test, dashboard, report, rebalancing.",
)
alerts_app = typer.Typer(rich_markup_mode="rich", help="List alerts, acknowledge, resolve or silence them.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Fetch prices, and check a price file.")
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Write or show the configuration.")
app.add_typer(alerts_app, name="alerts")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
out = Console()
err = Console(stderr=True)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="config.yaml (default: ./config.yaml if it exists).")
]
Prices = Annotated[str, typer.Argument(help="CSV of prices, wide or long; or the word `sample` or `simulated`.")]
Portfolio = Annotated[
    str | None, typer.Option("--portfolio", help="Portfolio name, when not the one in the configuration.")
]
WIDE = 110  # columns that a table of alerts needs to show one thing beside the other
STOP_SECONDS = 20.0  # what a clean stop may take before we insist
MAX_KILLS = 5
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _settings(config: Path | None, **sections: dict[str, Any]) -> Settings:
    """Settings with the options that were really given on the command line."""
    given = {name: {k: v for k, v in values.items() if v is not None} for name, values in sections.items()}
    return load_settings(config, **{name: values for name, values in given.items() if values})


def _prices(settings: Settings) -> tuple[pd.DataFrame, Settings]:
    """Prices that the data gate lets through, and settings that know how many periods a year has."""
    from portfolio_research.engine.wiring import recorded_prices

    if settings.data.source != "csv":
        return recorded_prices(settings.data), settings
    return _passed(_inspected(settings), settings)


def _inspected(settings: Settings, now: datetime | None = None) -> QualityReport:
    """The data gate's report on all that the price argument names."""
    from portfolio_research.data import read_prices
    from portfolio_research.engine.wiring import recorded_prices
    from portfolio_research.faults import quality_from
    from portfolio_research.quality import inspect_prices

    data = settings.data
    raw = read_prices(str(data.path)) if data.source == "csv" else recorded_prices(data)
    return inspect_prices(raw, policy=quality_from(settings), now=now if data.source == "csv" else None)


def _passed(report: QualityReport, settings: Settings, *, tell: bool = True) -> tuple[pd.DataFrame, Settings]:
    """What the gate lets through, after its warnings in a few lines; or the error that names all that it refuses."""
    from portfolio_research.data import with_periods

    path = settings.data.path
    try:
        prices = report.clean()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    for note in report.notes if tell else ():
        _tell(escape(note))
    if report.notes and tell:
        _tell(escape(f"`portfolio-research data check {path}` says why."))
    return prices, with_periods(settings, report.periods_per_year)


def _gated(settings: Settings, *, tell: bool = True) -> Settings:
    """Settings whose price file, if there is one, has passed the data gate."""
    if settings.data.source != "csv":
        return settings
    from portfolio_research.engine.wiring import inspect_file

    return _passed(inspect_file(settings), settings, tell=tell)[1]


def _source(argument: str) -> dict[str, Any]:
    """The data section for a price argument: it decides how many periods a year has."""
    return {"source": argument} if argument in ("sample", "simulated") else {"source": "csv", "path": argument}


def _marked(title: str, assets: Iterable[object] = (), source: str = "") -> str:
    """A table's title, which says so when these assets, or this source of prices, are simulated."""
    from portfolio_research.simulation import SIMULATED, simulated_mark

    marked = simulated_mark(assets) or source.startswith(SIMULATED)
    return f"[bold reverse] {SIMULATED} [/] {title}" if marked else title


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.2f} %"


def _flag(value: float) -> str:
    return "–" if value != value else "yes" if value else "no"


# ---------------------------------------------------------------- running
@app.command(epilog="Example: portfolio-research run --speed 5")
def run(
    config: Config = None,
    portfolio: Portfolio = None,
    source: Annotated[str | None, typer.Option(help="sample, simulated, csv or hyperliquid.")] = None,
    prices: Annotated[Path | None, typer.Option(help="CSV of prices; implies --source csv.")] = None,
    speed: Annotated[float | None, typer.Option(help="Bars per second of a replay; 0 is as fast as possible.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the dashboard.")] = None,
    fresh: Annotated[
        bool, typer.Option(help="Begin again; the old portfolio's folder is kept under another name.")
    ] = False,
) -> None:
    """Run a portfolio: engine and dashboard together, until Ctrl-C."""
    if prices and source not in (None, "csv"):
        raise ConfigError(f"--prices {prices} and --source {source} exclude each other: give one of them")
    settings = _settings(
        config,
        portfolio={"name": portfolio},
        engine={"speed": speed},
        dashboard={"port": port},
        data={"source": "csv" if prices else source, "path": str(prices) if prices else None},
    )
    settings = _gated(settings, tell=False)  # refused before anything is moved; the engine says what it was warned of
    raise typer.Exit(_run_both(settings, portfolio_home(settings), fresh=fresh))


class _EngineProcess:
    """The engine in a process of its own: restarted when it is killed, not when it ends by itself."""

    def __init__(self, settings_file: Path) -> None:
        self.command = [sys.executable, "-m", "portfolio_research", "engine", "--config", str(settings_file)]
        self.kills = 0
        self.process = subprocess.Popen(self.command)

    def exit_code(self) -> int | None:
        """Its exit code once it has ended for good."""
        code = self.process.poll()
        if code is None or code >= 0:
            return code
        self.kills += 1
        if self.kills > MAX_KILLS:
            _tell(f"The engine was killed {self.kills} times; not starting it again.")
            return 4
        _tell(f"The engine was killed (signal {-code}); starting it again, it continues from its ledger.")
        self.process = subprocess.Popen(self.command)
        return None

    def stop(self) -> None:
        """Ask, wait, insist."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _run_both(settings: Settings, home: Path, *, fresh: bool) -> int:
    """Start the dashboard, then the engine; restart what dies; stop both cleanly."""
    from portfolio_research.dashboard.manager import DashboardManager
    from portfolio_research.engine.lock import EngineRunning, engine_lock
    from portfolio_research.reports.schedule import ReportSchedule

    home.mkdir(mode=0o700, parents=True, exist_ok=True)  # what somebody owns is nobody else's business
    try:
        with engine_lock(home / "engine.lock"):  # free: nobody's settings are overwritten, nobody's folder moved away
            if fresh:
                _set_aside(home)
    except EngineRunning as running:
        _tell(str(running))
        return 3
    effective = home / "settings.yaml"
    effective.write_text(to_yaml(settings), encoding="utf-8")
    stopping = threading.Event()  # a flag, not an exception: one in the midst of a start would leave an orphan behind
    for number in STOPPING:  # by hand: a shell that starts us in the background ignores SIGINT
        signal.signal(number, lambda *_: stopping.set())
    dashboard = DashboardManager(settings) if settings.dashboard.enabled else None
    engine_process = None
    reports = ReportSchedule(settings, effective)
    try:
        if dashboard:
            with out.status("Starting the dashboard"):
                dashboard.start()
        engine_process = _EngineProcess(effective)
        _welcome(settings, home, dashboard.link if dashboard else None)
        while not stopping.wait(0.5):
            if (code := engine_process.exit_code()) is not None:
                return code
            if dashboard and not dashboard.is_running and not stopping.is_set():
                _tell("The dashboard stopped; starting it again.")
                dashboard.start()
            reports.poll()
        _tell("\nStopping; what has happened is on disk.")
        return 130
    finally:
        reports.stop()
        if engine_process:
            engine_process.stop()
        if dashboard:
            dashboard.stop()


def _set_aside(home: Path) -> None:
    """Keep the old portfolio under another name and begin with an empty folder."""
    staying = "candles", "trials.jsonl"  # what the venue serves no more stays at hand, and what was tried stays tried
    if any(path.name not in ("engine.lock", *staying) for path in home.iterdir()):
        kept = home.rename(home.with_name(f"{home.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}"))
        home.mkdir(mode=0o700)
        for name in staying:
            if (kept / name).exists():
                (kept / name).rename(home / name)
        out.print(f"The old portfolio is kept in {kept}", highlight=False, soft_wrap=True)


def _tell(message: str) -> None:
    err.print(message, soft_wrap=True, highlight=False)


def _welcome(settings: Settings, home: Path, url: str | None) -> None:
    what = {
        "sample": "real prices of 20 US large caps (bundled sample)",
        "simulated": f"SIMULATED market, seed {settings.data.seed}",
        "csv": str(settings.data.path),
        "hyperliquid": "Hyperliquid public candles",
    }[settings.data.source]
    lines = [f"Portfolio [bold]{escape(settings.portfolio.name)}[/], paper money, {escape(what)}"]
    if url:
        lines.append(f"Dashboard [bold link={url}]{escape(url)}[/]")
    lines += [f"Kept in   {escape(str(home))}", "Stop with Ctrl-C; the next start continues where this one ended."]
    out.print("\n".join(lines), soft_wrap=True, highlight=False)


@app.command(epilog="Example: portfolio-research engine --config config.yaml")
def engine(
    config: Config = None,
    portfolio: Portfolio = None,
    speed: Annotated[float | None, typer.Option(help="Bars per second; 0 is as fast as possible.")] = None,
    until_end: Annotated[bool, typer.Option(help="Stop when the prices end.")] = False,
) -> None:
    """Run the engine alone: one per portfolio, a second one refuses to start (exit code 3)."""
    from portfolio_research.engine.process import run_engine

    settings = _gated(_settings(config, portfolio={"name": portfolio}, engine={"speed": speed}))
    raise typer.Exit(run_engine(settings, until_end=until_end))


@app.command(epilog="Example: portfolio-research dashboard --port 5001")
def dashboard(
    config: Config = None,
    portfolio: Portfolio = None,
    port: Annotated[int | None, typer.Option(help="Port, default 5000.")] = None,
) -> None:
    """Serve the dashboard alone; it shows what the store holds."""
    from portfolio_research.dashboard.server import run_dashboard

    raise typer.Exit(run_dashboard(_settings(config, portfolio={"name": portfolio}, dashboard={"port": port})))


# ---------------------------------------------------------------- research
@app.command(epilog="Example: portfolio-research weights prices.csv --lookback 180")
def weights(
    prices: Prices,
    config: Config = None,
    lookback: Annotated[int | None, typer.Option(help="Returns given to the optimiser (default 252).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Hierarchical-risk-parity weights of a price file, next to equal weight and inverse variance."""
    from portfolio_research.targets import optimizer_from
    from portfolio_research.data import to_returns

    rebalancing = {"rebalancing": None if lookback is None else {"lookback": lookback}}
    frame, settings = _prices(_settings(config, portfolio=rebalancing, data=_source(prices)))
    frame = _listed(frame)
    returns = to_returns(frame).iloc[-settings.portfolio.rebalancing.lookback :]
    model = optimizer_from(settings).fit(returns)
    ordered = model.weights_.sort_values(ascending=False)
    if as_json:
        out.print_json(json.dumps({asset: float(w) for asset, w in ordered.items()}))
        return
    title = f"HRP weights on {frame.index[-1]:%Y-%m-%d}, from {len(returns)} returns"
    table = Table(title=_marked(title, frame.columns))
    table.add_column("asset")
    table.add_column("weight", justify="right")
    table.add_column("")
    for asset, weight in ordered.items():
        table.add_row(escape(str(asset)), _percent(weight), "█" * round(40 * weight / ordered.iloc[0]))
    out.print(table)
    for line in _options_at_work(model.diagnostics_):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    year = settings.periods_per_year
    statistics = model.statistics(periods_per_year=year)
    alternatives = f"Against the simple alternatives, {year:g} periods per year"
    out.print(_frame_table(statistics, _marked(alternatives, frame.columns)))


def _listed(prices: pd.DataFrame) -> pd.DataFrame:
    """The assets that have a price on the last day: the others cannot be bought."""
    gone = prices.columns[prices.iloc[-1].isna()]
    if len(gone):
        _tell(escape(f"No price on {prices.index[-1]:%Y-%m-%d}, so no weight: {', '.join(map(str, gone))}"))
    return prices.drop(columns=gone)


def _options_at_work(found: dict[str, Any]) -> Iterator[str]:
    """What the options changed, in a line for each kind; nothing for the plain method."""
    if found["cash"]:
        yield f"Counted as cash, outside the tree: {', '.join(map(str, found['cash']))}"
    if found["merged"]:
        yield f"Copies that share one leaf: {'; '.join(', '.join(map(str, each)) for each in found['merged'].values())}"
    if found["bound"]:
        each = (f"{name} {', '.join(map(str, labels))}" for name, labels in found["bound"].items())
        yield f"Bounds at work: {'; '.join(each)}"


def _frame_table(frame: pd.DataFrame, title: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for name, row in frame.iterrows():
        table.add_row(str(name), *(_number(value) for value in row))
    return table


@app.command(epilog="Example: portfolio-research backtest sample --start 2015-01-02")
def backtest(
    prices: Prices,
    config: Config = None,
    start: Annotated[str | None, typer.Option(help="First day with a portfolio, e.g. 2015-01-02.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the equity curve here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Back-test with the configured tolerance, costs and minimum trade: the rules of the paper engine.

    Every run is counted in the portfolio's ledger of trials, and shown with what is left of it after so many.
    """
    from portfolio_research.backtest import compare
    from portfolio_research.calendars import calendar_from
    from portfolio_research.costs import costs_from
    from portfolio_research.metrics import report as metrics_report
    from portfolio_research.rebalancing import policy_from
    from portfolio_research.targets import optimizer_from
    from portfolio_research.trials import judge

    frame, settings = _prices(_settings(config, data=_source(prices)))
    p, year, trials = settings.portfolio, settings.periods_per_year, _trials(settings)
    runs = compare(
        frame,
        {"hrp": optimizer_from(settings)},
        policy=policy_from(settings),
        costs=costs_from(settings),
        start=start,
        step=calendar_from(settings),
        lookback=p.rebalancing.lookback,
        capital=p.capital,
        progress=err.is_terminal,
        trials=trials,
        periods_per_year=year,
    )
    result, rate = runs["hrp"], p.analytics.risk_free_rate
    judged = judge(trials, result.trial, periods_per_year=year)
    held = runs["bought and held"].returns
    table = {
        name: metrics_report(run.returns, held, periods_per_year=year, risk_free_rate=rate) for name, run in runs.items()
    }
    if csv:
        with csv.open("w", encoding="utf-8", newline="") as file:
            result.equity.to_csv(file, header=["equity"])
    if as_json:
        numbers = table["hrp"].to_dict() | {f"judgement.{name}": value for name, value in judged.numbers().items()}
        out.print_json(json.dumps({k: float(v) if isfinite(v) else None for k, v in numbers.items()}))
        return
    span = f"{held.index[0]:%Y-%m-%d} to {held.index[-1]:%Y-%m-%d}, {year:g} periods per year"
    out.print(_metric_table(table, _marked(span, frame.columns)))
    out.print(
        f"{len(result.trades)} trades, costs {result.costs.sum():,.2f} {p.quote}"
        + (f"; equity written to {csv}" if csv else ""),
        highlight=False,
    )
    out.print(judged.line(), markup=False, highlight=False, soft_wrap=True)


def _trials(settings: Settings) -> TrialLedger:
    """The ledger in which every back-test for this portfolio is counted."""
    from portfolio_research.trials import TrialLedger

    home = portfolio_home(settings)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return TrialLedger(home / "trials.jsonl")


def _metric_table(table: dict[str, pd.Series[float]], title: str) -> Table:
    """Each metric beside those of the simple rules; with its definition where the terminal is wide enough."""
    from portfolio_research.metrics import REGISTRY

    shown = Table(title=title, caption="Beside it: the same prices, checks and costs, for rules that need no tree.")
    shown.add_column("metric")
    for name in table:
        shown.add_column(name, justify="right")
    wide = out.width >= WIDE
    if wide:
        shown.add_column("definition")
    for metric in table["hrp"].index:
        known = REGISTRY[str(metric)]
        show = {"fraction": _percent, "flag": _flag}.get(known.unit, _number)
        shown.add_row(
            known.label, *(show(run[metric]) for run in table.values()), *([escape(known.formula)] if wide else [])
        )
    return shown


@app.command(epilog="Example: portfolio-research report --as-of 2020-03-31")
def report(
    config: Config = None,
    portfolio: Portfolio = None,
    as_of: Annotated[str | None, typer.Option(help="Day of the report, default the newest in the store.")] = None,
    window: Annotated[int, typer.Option(help="Days of history shown.")] = 180,
    tolerance: Annotated[
        float | None, typer.Option(help="Tolerance to decide with, default the configured one.")
    ] = None,
) -> None:
    """Write the rebalancing report as one HTML file and print its path."""
    from portfolio_research.reports.runner import run_report

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that still cleans up after itself
    settings = _settings(config, portfolio={"name": portfolio})
    page = run_report(settings, as_of=as_of, window=window, tolerance=tolerance, progress=err.is_terminal)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing is left to clean up, and this process ends by itself
    out.print(str(page), highlight=False, soft_wrap=True)


# ---------------------------------------------------------------- data
@data_app.command("fetch", epilog="Example: portfolio-research data fetch BTC ETH SOL --days 365 --out prices.csv")
def data_fetch(
    coins: Annotated[
        list[str] | None, typer.Argument(metavar="COIN", help="Default: portfolio.assets, or twelve large coins.")
    ] = None,
    interval: Annotated[str, typer.Option(help="Length of a candle: 1d or 1h.")] = "1d",
    days: Annotated[
        int, typer.Option(min=1, help="How far back. The venue serves 5,000 candles; what was fetched before is kept.")
    ] = 1000,
    funding: Annotated[
        bool, typer.Option("--funding", help="Funding rates too: 1,000 days of a coin take about two minutes.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write closes of these days: a file .csv, or a folder for it.")
    ] = None,
    config: Config = None,
) -> None:
    """Fetch closed candles from Hyperliquid, no key needed, and keep them for good; only what is missing is asked for.

    Exit code 5 when a coin failed: what was fetched is kept, and the same command later asks for the rest.
    """
    import asyncio

    from portfolio_research.market.candles import HyperliquidCandles
    from portfolio_research.market.fetch import fetch_notes, fetch_table
    from portfolio_research.market.funding import HyperliquidFunding
    from portfolio_research.market.hyperliquid import DEFAULT_COINS

    settings = load_settings(config)
    home = portfolio_home(settings)
    targets = _targets(to, interval) if to else ()
    cache = home / "candles"
    candles = HyperliquidCandles(settings.data.base_url, cache, history_days=days, interval=interval)
    rates = HyperliquidFunding(candles.info, cache, history_days=days) if funding else None
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = list(dict.fromkeys(coins or settings.portfolio.assets or DEFAULT_COINS))
    fetched = asyncio.run(_fetch_all(wanted, candles, rates, "COIN" if coins else "portfolio.assets"))
    out.print(fetch_table(fetched, f"Closed {interval} candles of {settings.data.base_url}"))
    for line in fetch_notes(fetched, candles, days):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    failed = [each for each in fetched if each.trouble]
    for trouble in dict.fromkeys(each.trouble for each in failed):
        names = ", ".join(each.coin for each in failed if each.trouble == trouble)
        err.print(f"[bold red]Failed[/] {escape(f'{names}: {trouble}')}", highlight=False, soft_wrap=True)
    if targets:
        _write_fetched(targets, [each.coin for each in fetched if each.candles.times], candles, rates, days)
    if failed:
        raise typer.Exit(5)


@data_app.command("check", epilog="Example: portfolio-research data check prices.csv --figure map.png")
def data_check(
    prices: Prices,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw which prices there are: a file .png or .svg.")] = None,
) -> None:
    """Say all that is wrong with a price file, the worst first, and what is done about it.

    Exit code 0 when the prices may be traded on, with or without warnings; 2 when they are refused.
    """
    if figure and figure.suffix not in (".png", ".svg"):
        raise ConfigError(f"--figure {figure}: give a file that ends in .png or .svg")
    report = _inspected(_settings(config, data=_source(prices)), datetime.now(UTC))
    if as_json:
        out.print_json(json.dumps(_report_json(report)))
    else:
        if len(report.findings):
            out.print(_findings_table(report, prices))
        for line in (report.summary, *_ways_out(report)):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    if figure:
        from portfolio_research.research_plots import plot_availability

        chart = plot_availability(report)
        figure.write_bytes(chart.svg().encode() if figure.suffix == ".svg" else chart.png())
    if not report.ok:
        raise typer.Exit(2)


def _findings_table(report: QualityReport, title: str) -> Table:
    """A line for each finding; on a narrow terminal the message takes in what the smaller columns would say."""
    narrow = out.width < WIDE
    table = Table(title=escape(title), show_lines=narrow)
    for column in ("", "asset") if narrow else ("", "asset", "when", "rule", "action"):
        table.add_column(column, no_wrap=column != "when")
    table.add_column("finding", ratio=3, overflow="fold")
    if not narrow:
        table.add_column("remedy", ratio=2, overflow="fold")
    for f, when in zip(report.findings.itertuples(), report.when, strict=True):
        told = (f"{f.message}\n{when} {f.rule}, {f.action}; {f.remedy}".replace("\n ", "\n"),)
        wide = (when, f.rule, f.action, f.message, f.remedy)
        color = {"error": "bold red", "warning": "yellow"}.get(str(f.severity), "dim")
        table.add_row(f"[{color}]{f.severity}[/]", escape(str(f.asset)), *map(escape, map(str, told if narrow else wide)))
    return table


def _ways_out(report: QualityReport) -> Iterator[str]:
    """What can be written in the configuration about what is refused, where the file cannot be corrected."""
    from portfolio_research.faults import RULES

    refused = report.findings[report.findings["action"] == "refuse"]
    named = refused[refused["asset"] != ""]
    days = named["start"].dt.strftime("%Y-%m-%d").fillna(named["rule"])
    known = [f"{asset} {day}" for asset, day in zip(named["asset"], days, strict=True)]
    if known:
        yield f"To keep what is known to be right: data.accept: [{', '.join(known[:3])}{', ...' * (len(known) > 3)}]"
    for rule, assets in refused.groupby("rule", sort=False)["asset"]:
        able = {"keep"} if assets.eq("").any() else {"drop", "trim", "keep"}
        if other := [action for action in RULES[str(rule)].allowed if action in able]:
            yield f"Not to refuse such findings: data.quality: {{{rule}: {' | '.join(other)}}}"


def _report_json(report: QualityReport) -> dict[str, Any]:
    """The report for programs; dates as ISO 8601."""
    year = report.periods_per_year
    return {
        "ok": report.ok,
        "summary": report.summary,
        "periods_per_year": None if year is None else {"value": float(year), "reason": year.reason},
        "findings": json.loads(report.findings.to_json(orient="records", date_format="iso")),
        "availability": json.loads(report.availability.to_json(orient="index", date_format="iso")),
    }


def _targets(to: Path, interval: str) -> tuple[Path, Path]:
    """The files of prices and of funding that --out means; a folder is made."""
    if to.suffix == ".csv":
        if not to.parent.is_dir():
            raise ConfigError(f"--out {to}: there is no folder {to.parent}; make it, or choose another")
        return to, to.with_name(f"{to.stem}_funding.csv")
    if to.suffix and not to.is_dir():
        raise ConfigError(f"--out {to}: give a file that ends in .csv, or a folder")
    to.mkdir(parents=True, exist_ok=True)
    return to / f"prices_{interval}.csv", to / f"funding_{interval}.csv"


async def _fetch_all(
    coins: list[str], candles: HyperliquidCandles, rates: HyperliquidFunding | None, where: str
) -> list[CoinFetch]:
    """The fetch, with a bar that counts questions to the venue."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from portfolio_research.market.fetch import fetch

    def questions(files: HyperliquidCandles | HyperliquidFunding) -> int:
        with suppress(StoreError):  # a file that cannot be read fails its own coin, later
            return sum(map(files.questions, coins))
        return 0

    pages = questions(rates) if rates else 0
    if pages * 45 > 1200:
        minutes = round(pages * 45 / 1200)
        err.print(
            f"The venue allows about 26 pages of funding a minute and {pages} are missing: this takes some {minutes} min. "
            "Ctrl-C keeps what has been fetched; the same command goes on from there.",
            highlight=False,
            soft_wrap=True,
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("Fetching", total=1 + questions(candles) + pages)

        def tell(question: dict[str, Any]) -> None:
            coin = question.get("req", question).get("coin", "the list of coins")
            what = {"candleSnapshot": " candles", "fundingHistory": " funding"}.get(question["type"], "")
            progress.update(task, advance=1, description=f"Asking for {escape(coin)}{what}")

        candles.info.on_ask = tell
        try:
            return await fetch(coins, candles, rates, where=where)
        finally:
            await candles.info.close()


def _write_fetched(
    targets: tuple[Path, Path],
    coins: list[str],
    candles: HyperliquidCandles,
    rates: HyperliquidFunding | None,
    days: int,
) -> None:
    """The closes of the last days as one table, and the funding of its bars; say so if the table cannot be used as it is."""
    from portfolio_research.data import load_prices
    from portfolio_research.market.funding import bar_funding
    from portfolio_research.market.info import began

    prices = candles.prices(coins)
    start = began(candles.clock() - timedelta(days=days), candles.step)
    prices = prices[prices.index >= start].dropna(axis="columns", how="all")
    if prices.empty:
        raise ConfigError(f"{targets[0]} is not written: there is no candle of the last {days} days")
    _write_table(prices, targets[0], candles.interval)
    if rates:
        paid = bar_funding(rates.rates(coins), prices, candles.step).round(12)  # sums of decimals of 8 or 10 digits
        _write_table(paid, targets[1], candles.interval)
    try:
        load_prices(targets[0])
    except DataError as error:
        out.print(f"It cannot be used as it is: {error}", markup=False, highlight=False, soft_wrap=True)


def _write_table(frame: pd.DataFrame, path: Path, interval: str) -> None:
    """A CSV file in one step: whoever reads it sees the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, date_format="%Y-%m-%d" if interval == "1d" else "%Y-%m-%dT%H:%M:%SZ")
    partial.replace(path)
    told = f"Written {path}: {len(frame):,} rows of {', '.join(map(str, frame.columns))}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------- alerts
def _sink(settings: Settings) -> StoreSink:
    from portfolio_research.store import Store
    from portfolio_research.store.ledger import portfolio_row
    from portfolio_research.store.outbox import StoreSink

    name = settings.portfolio.name
    with Store.open(store_url(settings), readonly=True) as store, store.read() as conn:  # asking makes no store
        portfolio_row(conn, name)
    return StoreSink(Store.open(store_url(settings)), name)


def _chosen(ctx: typer.Context, config: Path | None, portfolio: str | None) -> Settings:
    """Settings of a command of `alerts`: its own options, or those given before its name."""
    given: Settings = _settings(config, portfolio={"name": portfolio}) if config or portfolio else ctx.obj
    return given


Everything = Annotated[bool, typer.Option("--all", help="Resolved and unconfirmed ones too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@alerts_app.callback(invoke_without_command=True, epilog="Example: portfolio-research alerts ack 3f2a --comment 'seen'")
def alerts(
    ctx: typer.Context,
    config: Config = None,
    portfolio: Portfolio = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List alerts, the worst first. Exit code 0 whether or not there are any."""
    ctx.obj = _settings(config, portfolio={"name": portfolio})
    if not ctx.invoked_subcommand:
        _list_alerts(ctx.obj, everything=everything, as_json=as_json)


@alerts_app.command("list", epilog="Example: portfolio-research alerts list --all --json")
def alerts_list(
    ctx: typer.Context,
    config: Config = None,
    portfolio: Portfolio = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List alerts, the worst first: who has each in hand, and why people hear nothing of it."""
    _list_alerts(_chosen(ctx, config, portfolio), everything=everything, as_json=as_json)


def _list_alerts(settings: Settings, *, everything: bool, as_json: bool) -> None:
    from portfolio_research.store.alert_tables import alert_table
    from portfolio_research.store.alert_view import list_alerts

    sink = _sink(settings)
    with sink.store.read() as conn:
        shown = list_alerts(conn, sink.portfolio, datetime.now(UTC), everything=everything)
    if as_json:
        out.print_json(json.dumps(shown))
    elif not shown:
        out.print("No active alerts." if not everything else "No alerts so far.")
    else:
        out.print(alert_table(shown, _titled(sink, f"Alerts of {sink.portfolio}"), narrow=out.width < WIDE))


def _titled(sink: StoreSink, title: str) -> str:
    """A title that says so when the portfolio's prices are simulated."""
    from portfolio_research.store.ledger import portfolio_row

    with sink.store.read() as conn:
        return _marked(escape(title), source=portfolio_row(conn, sink.portfolio).source)


Who = Annotated[str, typer.Option(help="Who you are.", envvar="USER")]
Comment = Annotated[str, typer.Option(help="Why, for whoever reads it later.")]
AlertId = Annotated[str, typer.Argument(help="Id, or how it begins.")]
Until = Annotated[str | None, typer.Option("--until", help="Until when, UTC: 2026-03-12T18:00.")]
Lasting = Annotated[str | None, typer.Option("--for", help="For how long: 90m, 4h, 2d.")]


def _one(known: Iterable[str], begins: str, what: str, command: str) -> str:
    """The one id that begins so."""
    found = [full for full in known if full.startswith(begins)]
    if len(found) != 1:
        raise ConfigError(
            f"{len(found) or 'no'} {what} have an id that begins with '{begins}'; "
            f"`portfolio-research alerts {command}` lists them"
        )
    return found[0]


def _find(sink: StoreSink, alert_id: str) -> str:
    return _one(sink.load(), alert_id, "alerts", "list --all")


def _end_of(until: str | None, lasting: str | None, now: datetime) -> datetime | None:
    """The end that --until or --for gives; None if neither is there."""
    if until is not None and lasting is not None:
        raise ConfigError(f"--until {until} and --for {lasting} exclude each other: give one of them")
    if lasting is not None:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", lasting.strip())
        if not found:
            raise ConfigError(f"--for {lasting}: give a number and m, h or d, such as 90m, 4h or 2d")
        length = min(float(found[1]), 1e5)  # far too long already, and still a time
        return now + timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[found[2]]: length})
    if until is None:
        return None
    try:
        moment = datetime.fromisoformat(until)
    except ValueError:
        raise ConfigError(f"--until {until}: give a day or a time, such as 2026-03-12 or 2026-03-12T18:00, UTC") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@alerts_app.command("show", epilog="Example: portfolio-research alerts show 3f2a --json")
def alerts_show(
    ctx: typer.Context,
    alert_id: AlertId,
    config: Config = None,
    portfolio: Portfolio = None,
    as_json: AsJson = False,
) -> None:
    """Everything about one alert: numbers, who has it in hand, what holds it back, and its whole history."""
    from portfolio_research.store.alert_tables import alert_facts, history_table
    from portfolio_research.store.alert_view import show_alert

    sink = _sink(_chosen(ctx, config, portfolio))
    with sink.store.read() as conn:
        alert = show_alert(conn, sink.portfolio, _find(sink, alert_id), datetime.now(UTC)) or {}
    if as_json:
        out.print_json(json.dumps(alert))
        return
    out.print(alert_facts(alert, _titled(sink, f"{alert['title']} ({alert['id']}) of {sink.portfolio}")))
    out.print(history_table(alert["history"], narrow=out.width < WIDE))


@alerts_app.command("ack", epilog="Example: portfolio-research alerts ack 3f2a --comment 'earnings day' --for 4h")
def ack(
    ctx: typer.Context,
    alert_id: AlertId,
    comment: Comment = "",
    who: Who = "operator",
    until: Until = None,
    lasting: Lasting = None,
    config: Config = None,
    portfolio: Portfolio = None,
) -> None:
    """Acknowledge an alert: it stays active but stops repeating. A second acknowledgement is refused.

    Without an end it lasts for `portfolio.monitoring.lifecycle.acknowledged_hours`; it also ends when it gets worse.
    """
    now = datetime.now(UTC)
    end = _end_of(until, lasting, now)
    sink = _sink(_chosen(ctx, config, portfolio))
    state = sink.acknowledge(_find(sink, alert_id), who, comment, now, end)
    lasts = f" until {state.acknowledged_until:%Y-%m-%d %H:%M} UTC" if state.acknowledged_until else ""
    out.print(f"Acknowledged by {escape(who)}{lasts}: {escape(state.message)}", soft_wrap=True, highlight=False)


@alerts_app.command("resolve", epilog="Example: portfolio-research alerts resolve 3f2a --comment 'position closed'")
def resolve(
    ctx: typer.Context,
    alert_id: AlertId,
    comment: Comment = "",
    who: Who = "operator",
    config: Config = None,
    portfolio: Portfolio = None,
) -> None:
    """Close an alert by hand. It opens again if its limit is still breached at the next checks."""
    sink = _sink(_chosen(ctx, config, portfolio))
    state = sink.resolve(_find(sink, alert_id), who, comment, datetime.now(UTC))
    out.print(f"Resolved by {escape(who)}: {escape(state.message)}", soft_wrap=True, highlight=False)


@alerts_app.command("silence", epilog="Example: portfolio-research alerts silence --rule volatility --for 4h --comment 'FOMC'")
def alerts_silence(
    ctx: typer.Context,
    rule: Annotated[str, typer.Option(help="Id of the rule, e.g. drawdown; default every rule.")] = "",
    subject: Annotated[str, typer.Option(help="Its subject, e.g. an asset; default any.")] = "",
    max_severity: Annotated[
        str, typer.Option(help="low, medium, high or critical: what is worse is still told.")
    ] = "high",
    until: Until = None,
    lasting: Lasting = None,
    comment: Comment = "",
    who: Who = "operator",
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Every portfolio in this store.")] = False,
    config: Config = None,
    portfolio: Portfolio = None,
) -> None:
    """Hold messages back for a time, at most 30 days. Alerts are followed all the same; what still burns is told at the end."""
    from portfolio_research.alerts import Severity
    from portfolio_research.store.alert_view import check_rule

    now = datetime.now(UTC)
    end = _end_of(until, lasting, now)
    if end is None:
        raise ConfigError("a silence needs an end: give --for 4h, or --until 2026-03-12T18:00")
    if max_severity not in list(Severity):
        raise ConfigError(f"--max-severity {max_severity}: choose one of {', '.join(Severity)}")
    sink = _sink(_chosen(ctx, config, portfolio))
    with sink.store.read() as conn:
        check_rule(conn, sink.portfolio, rule, now)
    about: dict[str, Any] = {"rule": rule, "subject": subject, "max_severity": Severity(max_severity)}
    made = sink.silence(who, comment, now, end, everywhere=everywhere, **about)
    told = f"Silenced until {made.ends:%Y-%m-%d %H:%M} UTC, up to {max_severity}. To end it: portfolio-research alerts unsilence {made.id[:8]}"
    out.print(told, soft_wrap=True, highlight=False)


@alerts_app.command("silences", epilog="Example: portfolio-research alerts silences")
def alerts_silences(
    ctx: typer.Context, config: Config = None, portfolio: Portfolio = None, as_json: AsJson = False
) -> None:
    """List the silences that have not ended."""
    from portfolio_research.store.alert_tables import silence_table
    from portfolio_research.store.alert_view import silence_view

    sink = _sink(_chosen(ctx, config, portfolio))
    shown = [silence_view(one) for one in sink.silences(datetime.now(UTC))]
    if as_json:
        out.print_json(json.dumps(shown))
    elif not shown:
        out.print("No silences: everything worth telling is told.")
    else:
        out.print(silence_table(shown, _titled(sink, f"Silences of {sink.portfolio}"), narrow=out.width < WIDE))


@alerts_app.command("unsilence", epilog="Example: portfolio-research alerts unsilence 9c41 --comment 'back at the desk'")
def alerts_unsilence(
    ctx: typer.Context,
    silence_id: Annotated[str, typer.Argument(help="Id of the silence, or how it begins.")],
    comment: Comment = "",
    who: Who = "operator",
    config: Config = None,
    portfolio: Portfolio = None,
) -> None:
    """End a silence now: what is still active is told at the next check."""
    now = datetime.now(UTC)
    sink = _sink(_chosen(ctx, config, portfolio))
    full = _one([one.id for one in sink.silences(now)], silence_id, "silences", "silences")
    sink.end_silence(full, who, comment, now)
    out.print(f"Silence {full[:8]} ended by {escape(who)}", soft_wrap=True, highlight=False)


@alerts_app.command("test-channel", epilog="Example: portfolio-research alerts test-channel slack")
def alerts_test_channel(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="log, email, slack, webhook or notify; default all that are on.")] = None,
    config: Config = None,
    portfolio: Portfolio = None,
    as_json: AsJson = False,
) -> None:
    """Send a real test message through the configured channels. Exit code 2 if one did not take it."""
    import asyncio

    from portfolio_research.channels import configured_channels, configured_handlers, try_channels

    settings = _chosen(ctx, config, portfolio)
    channels = settings.portfolio.monitoring.handlers
    on = {handler.name: handler for handler in configured_handlers(channels, portfolio_home(settings))}
    if name is not None and name not in on:
        raise ConfigError(
            f"no channel {name} is on, there is: {', '.join(on)}; turn it on in portfolio.monitoring.handlers.{name}"
        )
    board = settings.dashboard
    url = f"http://{board.host}:{board.port}/" if board.enabled else ""
    chosen = list(on.values()) if name is None else [on[name]]
    told = asyncio.run(try_channels(chosen, settings.portfolio.name, url))
    if as_json:
        out.print_json(json.dumps({each: {"arrived": not why, "error": why} for each, why in told.items()}))
    else:
        from portfolio_research.store.alert_tables import channel_table

        out.print(channel_table(told, configured_channels(channels)))
    if any(told.values()):
        raise typer.Exit(2)


@alerts_app.command("dead", epilog="Example: portfolio-research alerts dead")
def alerts_dead(ctx: typer.Context, config: Config = None, portfolio: Portfolio = None, as_json: AsJson = False) -> None:
    """List messages that never arrived, with the last error: `alerts retry` sends one again, `alerts drop` forgets it."""
    from portfolio_research.store.alert_tables import dead_table
    from portfolio_research.store.alert_view import letter_view

    sink = _sink(_chosen(ctx, config, portfolio))
    dead = sink.dead()
    if as_json:
        out.print_json(json.dumps([letter_view(item) for item in dead]))
    elif not dead:
        out.print("No dead letters: every message arrived or is on its way.")
    else:
        out.print(dead_table(dead, _titled(sink, f"Messages of {sink.portfolio} that never arrived"), narrow=out.width < WIDE))


Letter = Annotated[int, typer.Argument(help="Number of the message, as `alerts dead` lists it.")]


@alerts_app.command("retry", epilog="Example: portfolio-research alerts retry 12")
def alerts_retry(
    ctx: typer.Context,
    letter: Letter,
    comment: Comment = "",
    who: Who = "operator",
    config: Config = None,
    portfolio: Portfolio = None,
) -> None:
    """Send a message that was given up once more: a running engine takes it up by itself."""
    from portfolio_research.store.audit import retry_letter

    retry_letter(_sink(_chosen(ctx, config, portfolio)), letter, who, comment, datetime.now(UTC))
    out.print(f"Message {letter} is on its way again", highlight=False)


@alerts_app.command("drop", epilog="Example: portfolio-research alerts drop 12")
def alerts_drop(
    ctx: typer.Context,
    letter: Letter,
    comment: Comment = "",
    who: Who = "operator",
    config: Config = None,
    portfolio: Portfolio = None,
) -> None:
    """Forget a message that never arrived: somebody has read it here."""
    from portfolio_research.store.audit import drop_letter

    drop_letter(_sink(_chosen(ctx, config, portfolio)), letter, who, comment, datetime.now(UTC))
    out.print(f"Message {letter} is gone", highlight=False)


@alerts_app.command("backtest", epilog="Example: portfolio-research alerts backtest prices.csv --picture alerts.png")
def alerts_backtest(
    prices: Prices,
    config: Config = None,
    start: Annotated[str | None, typer.Option(help="First day with a portfolio, e.g. 2015-01-02.")] = None,
    horizon: Annotated[int, typer.Option(help="Bars within which a warning must come true.")] = 10,
    loss: Annotated[
        float | None, typer.Option(help="Further loss that makes it true; default one deviation over the horizon.")
    ] = None,
    fall: Annotated[float, typer.Option(help="Least depth of a fall that should be announced.")] = 0.20,
    budget: Annotated[
        str | None, typer.Option(help="Propose limits for so many messages, e.g. '2 per month'; judged on the second half.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it here, e.g. alerts.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """When each alert would have fired in the past, and what it was good for: the configured rules on a back-test."""
    from portfolio_research.alert_backtest import backtest_alerts
    from portfolio_research.alert_calibration import calibrate
    from portfolio_research.simulation import simulated_mark

    frame, settings = _prices(_settings(config, data=_source(prices)))
    past: dict[str, Any] = {**_alert_history(frame, settings, start), "horizon": horizon, "loss": loss, "fall": fall}
    made = backtest_alerts(**past, portfolio=settings.portfolio.name)
    proposal = calibrate(**past, budget=budget) if budget else None
    if picture:
        mark = simulated_mark(frame.columns)
        made.plot(f"{mark}, alerts" if mark else "Alerts").savefig(picture, dpi=150)
    if as_json:
        out.print_json(json.dumps({name: float(v) if isfinite(v) else None for name, v in made.summary.items()}))
        return
    days = made.returns.index
    out.print(_score_table(made, _marked(f"Alerts, {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}", frame.columns)))
    out.print(_fall_table(made, _marked(f"Falls of {made.fall:.0%} and more", frame.columns)))
    for line in _alert_lines(made):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if proposal:
        _tell_proposal(proposal, frame)


def _alert_history(frame: pd.DataFrame, settings: Settings, start: str | None) -> dict[str, Any]:
    """The rules of the configuration, and the portfolio that the engine would have held."""
    from portfolio_research.alert_values import book_weights
    from portfolio_research.backtest import walk_forward
    from portfolio_research.calendars import calendar_from
    from portfolio_research.costs import costs_from
    from portfolio_research.data import to_returns
    from portfolio_research.engine.wiring import make_analytics, make_rules
    from portfolio_research.rebalancing import policy_from
    from portfolio_research.targets import optimizer_from

    p = settings.portfolio
    terms: dict[str, Any] = {"policy": policy_from(settings), "costs": costs_from(settings), "capital": p.capital}
    terms |= {"start": start, "step": calendar_from(settings), "lookback": p.rebalancing.lookback}
    run = walk_forward(frame, optimizer_from(settings), progress=err.is_terminal, **terms)
    known = {"returns": run.returns, "weights": book_weights(run, frame), "asset_returns": to_returns(frame)}
    return {"rules": make_rules(p.monitoring), **known, "analytics": make_analytics(settings)}


def _score_table(made: AlertBacktest, title: str) -> Table:
    """A line per rule: what its warnings were good for."""
    loss, base = f"{made.loss:.1%}", f"{made.base_rate:.0%}"
    table = Table(title=title, caption=f"right: a further loss of {loss} within {made.horizon} bars, as after {base} of all bars")
    table.add_column("rule", no_wrap=True)
    wide = out.width >= WIDE
    for column in ("told", *(("came true", "false") if wide else ()), "right", "false/y", "caught", "lead", *(("on",) if wide else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in made.scores().iterrows():
        counts = [f"{row[key]:.0f}" for key in ("warnings", *(("right", "false") if wide else ()))]
        right = "–" if row["precision"] != row["precision"] else f"{row['precision']:.0%}"
        rest = right, f"{row['false_per_year']:.1f}", f"{row['caught']:.0f}/{len(made.falls)}", _number(row["lead"])
        on = [f"{row['active']:.0%}"] if wide else []
        table.add_row(escape(str(name)), *counts, *rest, *on, style="bold" if name == "all" else "")
    return table


def _fall_table(made: AlertBacktest, title: str) -> Table:
    """A line per fall: when it was first announced."""
    table = Table(title=title, caption="lead: bars from the first warning to the trough")
    for column in ("peak", "trough", "depth", "warned", "lead"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in made.falls.to_dict("records"):
        peak, trough, warned = ("–" if row[at] != row[at] else f"{row[at]:%Y-%m-%d}" for at in ("peak", "trough", "warned"))
        table.add_row(peak, trough, f"{row['depth']:.1%}", warned, _number(row["lead"]))
    return table


def _alert_lines(made: AlertBacktest) -> Iterator[str]:
    """What the tables do not say."""
    known = made.summary
    yield (
        f"{known['messages']:.0f} messages in {made.years:.1f} years, {known['messages_per_week']:.2g} a week; "
        f"{known['false_per_year']:.1f} false alarms a year"
    )
    if made.unjudged:
        yield f"Not judged, since only a running engine knows their numbers: {', '.join(made.unjudged)}"


def _tell_proposal(proposal: Calibration, frame: pd.DataFrame) -> None:
    """The given limits beside those of a budget, on the half that neither has seen, and the keys to set."""
    summary = proposal.summary
    rows = ["messages_per_month", "false_per_year", "caught", "falls", "lead", "active"]
    days = proposal.outside.returns.index
    title = f"Limits for {proposal.budget / 12:.3g} messages a month, {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"
    out.print(_frame_table(summary.loc[rows, ["given", "proposed"]], _marked(title, frame.columns)))
    out.print("portfolio:\n  monitoring:\n    alerts:", markup=False, highlight=False)
    for key, level in proposal.settings.items():
        out.print(f"      {key}: {level:g}", markup=False, highlight=False)


# ---------------------------------------------------------------- configuration
@config_app.command("init", epilog="Example: portfolio-research config init --path config.yaml")
def config_init(path: Annotated[Path, typer.Option(help="Where to write.")] = Path("config.yaml")) -> None:
    """Write a configuration file with every key at its default. An existing file is never overwritten."""
    if path.exists():
        raise ConfigError(f"{path} exists already; edit it, or give another --path")
    path.write_text(
        "# portfolio_research: every key at its default; delete what you do not change.\n" + to_yaml(Settings()),
        encoding="utf-8",
    )
    out.print(f"Written: {path}", highlight=False)


@config_app.command("show", epilog="Example: portfolio-research config show --config config.yaml")
def config_show(config: Config = None) -> None:
    """Print the settings as they are after file and environment. Secrets are never part of them."""
    out.print(to_yaml(load_settings(config)), markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run a command; what we refuse on purpose is one line on stderr, not a traceback."""
    try:
        app()
    except PortfolioError as error:
        err.print(f"[bold red]Error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(getattr(error, "exit_code", 2))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise  # not about a path that somebody gave
        err.print(
            f"[bold red]Error[/] {escape(f'{error.filename}: {error.strerror}')}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except BrokenPipeError:  # `| head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
