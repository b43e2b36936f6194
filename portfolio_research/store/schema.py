"""Tables of the store: the ledger (what was decided, ordered, filled), the telemetry, the alerts and their outbox.

Money and sizes are stored as text, so that a Decimal comes back as it went in. Market time (`ts`, `slot`) and
wall-clock time (`*_at`) are ISO-8601 text in UTC: they sort as they read, and they mean the same on SQLite and
PostgreSQL. Only wall-clock columns may differ between two runs over the same prices.
"""
from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint

SCHEMA_VERSION = 3
MIGRATIONS = {  # version -> what leads to the next one; it only adds, so that readers can still read the older one
    1: ("ALTER TABLE target ADD COLUMN place INTEGER",),
    2: (
        "ALTER TABLE alert ADD COLUMN told_at TEXT",
        "CREATE TABLE silence (id TEXT NOT NULL PRIMARY KEY, portfolio TEXT NOT NULL, ends TEXT NOT NULL, "
        "payload TEXT NOT NULL, recorded_at TEXT NOT NULL)",
    ),
}

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),  # 'schema_version', 'revision'
    Column("value", Integer, nullable=False),
)

portfolio = Table(
    "portfolio",
    metadata,
    Column("name", Text, primary_key=True),
    Column("capital", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("mode", Text, nullable=False),  # paper | live
    Column("source", Text, nullable=False),  # where the prices come from, as shown to people
    Column("settings", Text, nullable=False),  # JSON, without secrets
    Column("cash", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

stage_cursor = Table(  # the newest bar each stage has finished: what makes a restart continue instead of repeat
    "stage_cursor",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("ts", Text, nullable=False),
)

bar = Table(
    "bar",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("ts", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("close", Float, nullable=False),
)

target = Table(
    "target",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("ts", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("weight", Float, nullable=False),
    Column("place", Integer),  # in the optimiser's leaf order, from 0: what the next fit may keep; null: no leaf
)

rebalance = Table(
    "rebalance",
    metadata,
    Column("id", Text, primary_key=True),
    Column("portfolio", Text, ForeignKey("portfolio.name"), nullable=False),
    Column("slot", Text, nullable=False),  # market time of the decision: one decision per slot
    Column("state", Text, nullable=False),  # declined | executing | done | partial | aborted
    Column("reason", Text, nullable=False),
    Column("decision", Text, nullable=False),  # JSON of the whole decision, recommendations included
    Column("decided_at", Text, nullable=False),
    Column("finished_at", Text),
    UniqueConstraint("portfolio", "slot"),
)

order = Table(
    "order",
    metadata,
    Column("cloid", Text, primary_key=True),
    Column("rebalance_id", Text, ForeignKey("rebalance.id"), nullable=False),
    Column("portfolio", Text, ForeignKey("portfolio.name"), nullable=False),
    Column("sequence", Integer, nullable=False),  # sells before buys; slices of one parent in order
    Column("asset", Text, nullable=False),
    Column("size", Text, nullable=False),  # Decimal, signed: negative sells
    Column("kind", Text, nullable=False),  # market | twap
    Column("slice", Integer, nullable=False),  # 0 for a market order
    Column("slices", Integer, nullable=False),
    Column("decision_price", Text, nullable=False),  # mark when it was decided, for the implementation shortfall
    Column("strategy", Text, nullable=False),
    Column("state", Text, nullable=False),  # planned | sent | filled | rejected
    Column("reason", Text, nullable=False, default=""),
    Column("ts", Text, nullable=False),
)

fill = Table(
    "fill",
    metadata,
    Column("tid", Text, primary_key=True),  # the venue's trade id: a fill heard twice is recorded once
    Column("cloid", Text, ForeignKey("order.cloid"), nullable=False),
    Column("portfolio", Text, ForeignKey("portfolio.name"), nullable=False),
    Column("asset", Text, nullable=False),
    Column("size", Text, nullable=False),
    Column("price", Text, nullable=False),
    Column("fee", Text, nullable=False),
    Column("slippage", Text, nullable=False),  # quote paid against the mark, >= 0
    Column("ts", Text, nullable=False),
)

position = Table(
    "position",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("size", Text, nullable=False),
    Column("entry_price", Text, nullable=False),  # average cost of what is held
    Column("realized", Text, nullable=False),  # profit taken so far, after fees
)

equity = Table(
    "equity",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("ts", Text, primary_key=True),
    Column("equity", Float, nullable=False),
    Column("cash", Float, nullable=False),
    Column("drawdown", Float, nullable=False),  # <= 0
    Column("benchmark", Float),  # equal-weight buy-and-hold from the same start
)

report = Table(  # what the performance stage computed on a bar: metrics, risk, regime, decision inputs
    "report",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("ts", Text, primary_key=True),
    Column("payload", Text, nullable=False),
)

alert = Table(
    "alert",
    metadata,
    Column("id", Text, primary_key=True),  # fingerprint of (portfolio, rule, subject)
    Column("portfolio", Text, ForeignKey("portfolio.name"), nullable=False),
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("payload", Text, nullable=False),  # JSON of the whole AlertState
    Column("updated", Text, nullable=False),
    Column("told_at", Text),  # clock: when people last heard of it
)

silence = Table(
    "silence",
    metadata,
    Column("id", Text, primary_key=True),
    Column("portfolio", Text, nullable=False),  # "*": all
    Column("ends", Text, nullable=False),  # clock
    Column("payload", Text, nullable=False),  # JSON of the whole Silence
    Column("recorded_at", Text, nullable=False),
)

alert_event = Table(  # append only
    "alert_event",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("alert_id", Text, nullable=False),
    Column("portfolio", Text, ForeignKey("portfolio.name"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("payload", Text, nullable=False),  # JSON of the whole AlertEvent
    Column("recorded_at", Text, nullable=False),
    Index("alert_event_by_alert", "portfolio", "alert_id"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("portfolio", Text, ForeignKey("portfolio.name"), nullable=False),
    Column("dedup", Text, nullable=False),  # key of the notice: no handler is given one twice
    Column("handler", Text, nullable=False),
    Column("notice", Text, nullable=False),  # JSON
    Column("state", Text, nullable=False),  # pending | delivered | skipped | dead
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Text, nullable=False),
    Column("last_error", Text, nullable=False, default=""),
    Column("recorded_at", Text, nullable=False),
    UniqueConstraint("portfolio", "dedup", "handler"),
)

heartbeat = Table(
    "heartbeat",
    metadata,
    Column("portfolio", Text, ForeignKey("portfolio.name"), primary_key=True),
    Column("process", Text, primary_key=True),  # engine | dashboard | monitor
    Column("state", Text, nullable=False),  # starting | warming up | running | stopped | halted
    Column("detail", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("speed", Float),
    Column("at", Text, nullable=False),
)
