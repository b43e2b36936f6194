"""The dashboard as a child process: its settings come over standard input, and it ends when that is closed.

So nobody leaves a dashboard behind, not even a parent that was killed.
"""

import asyncio
import os
import signal
import sys
import threading

import yaml

from portfolio_research.config import PortfolioError, Settings
from portfolio_research.dashboard.server import run_dashboard

END = "...\n"  # YAML's own mark for the end of a document


def main() -> int:
    """Read the settings, serve, and say in one line why not, if not."""
    text = "".join(iter(sys.stdin.readline, END))
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        return run_dashboard(Settings(**yaml.safe_load(text)))
    except PortfolioError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


def _follow_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
