"""When to make a report: once the engine has caught up, then every `interval_hours` of the clock.

The newest report on disk is the memory of the schedule, so it survives restarts, and what was missed while nothing ran
is made up for once. Each report is a process of its own: a slow or broken one never holds the engine or the dashboard
up.
"""

import subprocess
import sys
import time
from pathlib import Path

from portfolio_research.config import Settings, StoreError, store_url
from portfolio_research.reports.runner import report_folder
from portfolio_research.store import Store
from portfolio_research.store.telemetry import heartbeats

RETRY_SECONDS = 600.0  # after a report that failed


class ReportSchedule:
    """Starts a report whenever one is due; call `poll` as often as you like."""

    def __init__(self, settings: Settings, settings_file: Path) -> None:
        self.settings = settings
        self.command = [sys.executable, "-m", "portfolio_research", "report", "--config", str(settings_file)]
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = -RETRY_SECONDS  # monotonic

    def poll(self) -> None:
        """Start a report if one is due and none is being made."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() - self._started_at >= RETRY_SECONDS and self.is_due(time.time()):
            self._started_at = time.monotonic()
            self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)

    def is_due(self, now: float) -> bool:
        """Whether there is a portfolio whose newest report is too old at `now`, seconds since the epoch."""
        made = [path.stat().st_mtime for path in report_folder(self.settings).glob("rebalancing-*.html")]
        age = now - max(made, default=0.0)
        return age >= 3600 * self.settings.portfolio.rebalancing.interval_hours and self._engine_has_caught_up()

    def stop(self) -> None:
        """Give a report up that is being made; nothing half-made stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def _engine_has_caught_up(self) -> bool:
        try:
            with Store.open(store_url(self.settings), readonly=True) as store, store.read() as conn:
                beat = heartbeats(conn, self.settings.portfolio.name).get("engine")
        except StoreError:  # not there yet
            return False
        return beat is not None and beat.state == "running"
