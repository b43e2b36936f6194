"""Run the report notebook with papermill and put one finished HTML file where the dashboard finds it.

A report is either there whole or not there: it is made under another name and moved into place, a failed run never
touches the last good report, and the notebook of a failed run is kept beside it for whoever looks for the cause.
Papermill's own metadata cannot tell a killed kernel from a finished one, so success is the result file that the last
cell writes.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from portfolio_research.config import PortfolioError, Settings, portfolio_home, store_url
from portfolio_research.reports.page import to_html
from portfolio_research.settings import SECRETS, to_yaml
from portfolio_research.simulation import SIMULATED
from portfolio_research.store import Store
from portfolio_research.store.paths import notebook_path

TIMEOUT = 300  # seconds one cell may take


def report_folder(settings: Settings) -> Path:
    """Where the portfolio's reports are kept, and served from."""
    return portfolio_home(settings) / "reports"


def run_report(
    settings: Settings,
    *,
    as_of: str | None = None,
    window: int = 180,
    tolerance: float | None = None,
    progress: bool = True,
) -> Path:
    """Make the rebalancing report and return its path, `rebalancing-<day>.html`; its outcome is a `.json` beside it.

    Bad parameters, an unknown portfolio and a day without data are refused before the notebook is started.
    """
    from portfolio_research.reports.content import RebalancingReport

    with Store.open(store_url(settings), readonly=True) as store:
        report = RebalancingReport.load(store, settings, as_of or "", window, tolerance or 0.0)
    day = report.as_of.date().isoformat()
    folder = report_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"rebalancing-{day}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
        made, result = Path(scratch) / f"{name}.ipynb", Path(scratch) / f"{name}.json"
        parameters = {
            "portfolio": settings.portfolio.name,
            "as_of": day,
            "window": window,
            "tolerance": tolerance or 0.0,
            "settings_path": _settings_file(settings, Path(scratch)),
            "result_path": str(result),
        }
        _execute(
            notebook_path("reports", "rebalancing"),
            made,
            parameters,
            keep=folder / f"{name}.failed.ipynb",
            progress=progress,
        )
        page = Path(scratch) / f"{name}.html"
        mark = f"{SIMULATED}: " if report.simulated else ""
        title = f"{mark}Rebalancing of {settings.portfolio.name}, {day}"
        page.write_text(to_html(made, title=title), encoding="utf-8")
        json.loads(result.read_text(encoding="utf-8"))
        os.replace(result, folder / result.name)
        os.replace(page, folder / page.name)
    (folder / f"{name}.failed.ipynb").unlink(missing_ok=True)
    return folder / f"{name}.html"


def _settings_file(settings: Settings, folder: Path) -> str:
    """The settings for the kernel: a file, because parameters are pasted into the notebook as code."""
    path = folder / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    return str(path)


def _execute(template: Path, made: Path, parameters: dict[str, Any], *, keep: Path, progress: bool) -> None:
    import papermill  # type: ignore[import-untyped]
    from traitlets.config import Config

    try:
        with _without_secrets():
            papermill.execute_notebook(
                str(template),
                str(made),
                parameters,
                kernel_name="python3",
                progress_bar=progress,
                request_save_on_cell_execute=False,
                execution_timeout=TIMEOUT,
                cwd=str(made.parent),
                config=Config({"KernelManager": {"transport": "ipc"}}),  # no port that others could read or take
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # being told to stop is not news
            )
    except Exception as error:
        if made.exists():
            os.replace(made, keep)
        raise ReportError(
            f"the report could not be made: {_last_line(error)}; the notebook of the failed run is {keep}"
        ) from error
    if not Path(parameters["result_path"]).exists():
        os.replace(made, keep)
        raise ReportError(f"the report's kernel ended before its last cell; the notebook of the failed run is {keep}")


@contextmanager
def _without_secrets() -> Iterator[None]:
    """A kernel inherits the environment, and a notebook can print it."""
    hidden = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


class ReportError(PortfolioError):
    """A report that could not be made; the last good one is untouched."""


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
