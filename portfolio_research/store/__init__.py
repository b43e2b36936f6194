"""What outlives a process: the ledger, the telemetry, the alerts, and the snapshot that everything shows."""

from portfolio_research.store.database import Store

__all__ = ["Store"]
