"""The ledger: what was decided, ordered and filled, and what is held because of it.

Every function takes the connection first, so that several make one transaction. Amounts are exact Decimals: cash is
capital minus what all fills cost, to the last digit, in whatever order the fills were heard and however often.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from decimal import Context, Decimal
from functools import reduce
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Connection, Row, Table, and_, func, select, update

from portfolio_research.config import ConfigError, StoreError
from portfolio_research.store import schema
from portfolio_research.store.database import insert_new, upsert
from portfolio_research.store.encoding import from_text, to_decimal, to_json, to_text

if TYPE_CHECKING:
    from portfolio_research.rebalancing import Positions

ZERO = Decimal(0)
EXACT = Context(prec=200)  # sums and products of prices, sizes and fees are exact in it
AVERAGE = Context(prec=28)  # an average price is a quotient, rounded here and nowhere else
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fill:
    """What a venue says it traded."""

    tid: str  # the venue's trade id: the same fill heard twice has the same
    cloid: str
    asset: str
    size: Decimal  # signed, in units of the asset; negative sells
    price: Decimal
    fee: Decimal  # quote currency
    slippage: Decimal  # quote currency paid against the mark, >= 0
    ts: datetime

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        return _from_row(cls, row)


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """One order, or one slice of one, as it stands in the ledger."""

    cloid: str
    rebalance_id: str
    portfolio: str
    sequence: int  # sells before buys; slices of one parent in order
    asset: str
    size: Decimal  # signed, in units of the asset; negative sells
    decision_price: Decimal  # mark when it was decided
    ts: datetime
    kind: str = "market"  # market | twap
    slice: int = 0
    slices: int = 1
    strategy: str = "rebalancing"
    state: str = "planned"  # planned | sent | filled | rejected
    reason: str = ""

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        return _from_row(cls, row)


@dataclass(frozen=True, slots=True)
class RebalanceRow:
    """One decision of the past; `decision` is its JSON, recommendations included."""

    id: str
    portfolio: str
    slot: datetime
    state: str  # declined | executing | done | partial | aborted
    reason: str
    decision: str
    decided_at: datetime
    finished_at: datetime | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        return _from_row(cls, row)


@dataclass(frozen=True, slots=True)
class Lot:
    """What is held of one asset: average-cost accounting."""

    size: Decimal = ZERO
    entry_price: Decimal = ZERO  # average cost per unit of what is held
    realized: Decimal = ZERO  # profit taken so far, after all fees

    def after(self, fill: Fill) -> "Lot":
        """The lot once `fill` has happened. A fill through zero closes the old lot and opens one at its own price."""
        size = EXACT.add(self.size, fill.size)
        closed = _closed(self.size, fill.size)
        gain = EXACT.multiply(closed, EXACT.subtract(fill.price, self.entry_price))
        realized = EXACT.subtract(EXACT.add(self.realized, gain), fill.fee)
        return Lot(size, self._entry_after(fill, size), realized)

    def _entry_after(self, fill: Fill, size: Decimal) -> Decimal:
        if not size:
            return ZERO
        if self.size * fill.size > 0:
            cost = EXACT.add(EXACT.multiply(self.size, self.entry_price), EXACT.multiply(fill.size, fill.price))
            return AVERAGE.divide(cost, size)
        return self.entry_price if self.size * size > 0 else fill.price


def _closed(held: Decimal, traded: Decimal) -> Decimal:
    """How much of what was held the trade closes, with the sign of what was held."""
    if held * traded >= 0:
        return ZERO
    return held if abs(traded) >= abs(held) else EXACT.minus(traded)


@dataclass(frozen=True, slots=True)
class Holding:
    """A position with its newest price."""

    asset: str
    size: Decimal
    entry_price: Decimal
    mark_price: Decimal


def cloid(rebalance_id: str, asset: str, slice_: int = 0) -> str:
    """Client order id: the same order always gets the same one, so that it can be asked for after a crash."""
    return "0x" + sha256(f"{rebalance_id}/{asset}/{slice_}".encode()).hexdigest()[:32]


# Portfolios and stages


def ensure_portfolio(
    conn: Connection,
    name: str,
    capital: Decimal,
    quote: str,
    mode: str,
    source: str,
    settings_json: str,
    now: datetime | None = None,
) -> bool:
    """Create the portfolio with its capital as cash, or take it up again; say whether it is new.

    Settings and the name of the source may change between runs. Capital, quote currency and mode may not: the ledger
    would no longer add up.
    """
    given = {"capital": str(capital), "quote": quote, "mode": mode}
    if insert_new(
        conn,
        schema.portfolio,
        {
            "name": name,
            **given,
            "source": source,
            "settings": settings_json,
            "cash": str(capital),
            "created_at": _wall(now),
        },
    ):
        return True
    row = portfolio_row(conn, name)
    for key, value in given.items():
        kept = getattr(row, key)
        if Decimal(kept) != capital if key == "capital" else kept != value:
            raise ConfigError(
                f"portfolio {name} was started with {key} {kept}, not {value}: set it back, choose another name, "
                "or begin again with `portfolio-research run --fresh`"
            )
    conn.execute(_where_name(update(schema.portfolio), name).values(source=source, settings=settings_json))
    return False


def portfolio_row(conn: Connection, name: str) -> Row[Any]:
    """The portfolio's row; a name that is not there is an error."""
    row = conn.execute(select(schema.portfolio).where(schema.portfolio.c.name == name)).one_or_none()
    if row is None:
        raise unknown_portfolio(conn, name)
    return row


def portfolio_names(conn: Connection) -> list[str]:
    """Names of all portfolios in the store, sorted."""
    return list(conn.execute(select(schema.portfolio.c.name).order_by(schema.portfolio.c.name)).scalars())


class UnknownPortfolio(StoreError):
    """A portfolio that the store does not hold."""


def unknown_portfolio(conn: Connection, name: str) -> UnknownPortfolio:
    """The error to raise, naming the portfolios there are."""
    known = ", ".join(portfolio_names(conn)) or "none yet: start one with `portfolio-research run`"
    return UnknownPortfolio(f"no portfolio {name!r} in this store; there is: {known}")


def cash(conn: Connection, portfolio: str) -> Decimal:
    """Quote currency at hand."""
    return Decimal(portfolio_row(conn, portfolio).cash)


def cursor(conn: Connection, portfolio: str, stage: str) -> datetime | None:
    """Market time of the newest bar that the stage has finished."""
    table = schema.stage_cursor
    found = conn.execute(select(table.c.ts).where(table.c.portfolio == portfolio, table.c.stage == stage)).scalar()
    return from_text(found) if found else None


def advance(conn: Connection, portfolio: str, stage: str, ts: datetime) -> None:
    """Note, in the transaction of the stage's own effects, that it has finished `ts`. A cursor never goes back."""
    done = cursor(conn, portfolio, stage)
    if done is not None and ts <= done:
        raise StoreError(f"stage {stage} of portfolio {portfolio} has finished {done}: it cannot do {ts} again")
    upsert(conn, schema.stage_cursor, {"portfolio": portfolio, "stage": stage, "ts": to_text(ts)})


# Decisions and orders


def open_rebalance(
    conn: Connection,
    portfolio: str,
    slot: datetime,
    decision: Mapping[str, Any] | Any,
    state: str,
    now: datetime | None = None,
) -> str:
    """Write a decision down and return its id. A slot has one: a second call changes nothing and returns its id."""
    rebalance_id = f"{portfolio}@{slot.astimezone(UTC).isoformat()}"
    reason = decision["reason"] if isinstance(decision, Mapping) else decision.reason
    insert_new(
        conn,
        schema.rebalance,
        {
            "id": rebalance_id,
            "portfolio": portfolio,
            "slot": to_text(slot),
            "state": state,
            "reason": str(reason),
            "decision": to_json(decision),
            "decided_at": _wall(now),
            "finished_at": None if state == "executing" else _wall(now),
        },
    )
    return rebalance_id


def set_rebalance_state(
    conn: Connection,
    rebalance_id: str,
    state: str,
    reason: str | None = None,
    now: datetime | None = None,
) -> None:
    """Move a rebalance on; any state but `executing` finishes it. `reason` replaces the decision's own."""
    table = schema.rebalance
    values = {"state": state, "finished_at": None if state == "executing" else _wall(now)}
    changed = conn.execute(update(table).where(table.c.id == rebalance_id).values(**values, **_given(reason=reason)))
    _must_exist(changed.rowcount, f"rebalance {rebalance_id}")


def rebalances(
    conn: Connection, portfolio: str, limit: int | None = None, state: str | None = None, declined: bool = True
) -> list[RebalanceRow]:
    """Decisions, newest first; without the declined ones on request."""
    table = schema.rebalance
    query = select(table).where(table.c.portfolio == portfolio).order_by(table.c.slot.desc()).limit(limit)
    query = query if declined else query.where(table.c.state != "declined")
    rows = conn.execute(query.where(table.c.state == state) if state else query)
    return [RebalanceRow.from_row(row) for row in rows]


def plan_orders(conn: Connection, rows: Iterable[PlannedOrder]) -> int:
    """Write orders down before any is sent; return how many were new. An order that is there already stays as it is."""
    return sum(insert_new(conn, schema.order, _to_row(row)) for row in rows)


def orders(conn: Connection, rebalance_id: str) -> list[PlannedOrder]:
    """Orders of one rebalance, in the order in which they go out."""
    table = schema.order
    rows = conn.execute(
        select(table).where(table.c.rebalance_id == rebalance_id).order_by(table.c.sequence, table.c.cloid)
    )
    return [PlannedOrder.from_row(row) for row in rows]


def order_history(conn: Connection, portfolio: str, since: datetime | None = None) -> list[PlannedOrder]:
    """All orders of the portfolio, oldest first."""
    table = schema.order
    rows = conn.execute(_since(table, portfolio, since).order_by(table.c.ts, table.c.sequence, table.c.cloid))
    return [PlannedOrder.from_row(row) for row in rows]


def find_order(conn: Connection, order_cloid: str) -> PlannedOrder | None:
    """The order with this client id."""
    row = conn.execute(select(schema.order).where(schema.order.c.cloid == order_cloid)).one_or_none()
    return PlannedOrder.from_row(row) if row is not None else None


def unanswered(conn: Connection, portfolio: str) -> list[str]:
    """Orders that were sent and of which nobody knows yet what became."""
    table = schema.order
    sent = select(table.c.cloid).where(table.c.portfolio == portfolio, table.c.state == "sent").order_by(table.c.cloid)
    return list(conn.execute(sent).scalars())


def set_order_state(conn: Connection, order_cloid: str, state: str, reason: str | None = None) -> None:
    """Move an order on."""
    table = schema.order
    changed = conn.execute(
        update(table).where(table.c.cloid == order_cloid).values(state=state, **_given(reason=reason))
    )
    _must_exist(changed.rowcount, f"order {order_cloid}")


# Fills and what is held


def record_fill(conn: Connection, fill: Fill) -> bool:
    """Record a fill and apply it to cash and position, once; say whether it was new.

    Fills may be heard in any order and more than once: the result is that of hearing each once, in order of time.
    """
    order = find_order(conn, fill.cloid)
    if order is None:
        raise StoreError(
            f"fill {fill.tid} of {fill.asset} belongs to order {fill.cloid}, which was never planned: plan it first"
        )
    _check_fill(fill, order)
    if not insert_new(conn, schema.fill, {**_to_row(fill), "portfolio": order.portfolio}):
        return False
    _pay(conn, order.portfolio, fill)
    _apply(conn, order.portfolio, fill)
    return True


def fills(conn: Connection, portfolio: str, since: datetime | None = None) -> list[Fill]:
    """Fills of the portfolio, oldest first."""
    return _fills(conn, _since(schema.fill, portfolio, since))


def fills_of_order(conn: Connection, order_cloid: str) -> list[Fill]:
    """Fills of one order, oldest first."""
    return _fills(conn, select(schema.fill).where(schema.fill.c.cloid == order_cloid))


def fills_of_rebalances(conn: Connection, rebalance_ids: Sequence[str]) -> dict[str, list[Fill]]:
    """Fills of each of these rebalances."""
    found: dict[str, list[Fill]] = {rebalance_id: [] for rebalance_id in rebalance_ids}
    joined = schema.fill.join(schema.order, schema.fill.c.cloid == schema.order.c.cloid)
    query = select(schema.fill, schema.order.c.rebalance_id).select_from(joined)
    for row in conn.execute(query.where(schema.order.c.rebalance_id.in_(rebalance_ids))):
        found[row.rebalance_id].append(Fill.from_row(row))
    return found


def holdings(conn: Connection, portfolio: str) -> list[Holding]:
    """Open positions with the newest recorded price of each, sorted by asset."""
    table = schema.position
    rows = conn.execute(select(table).where(table.c.portfolio == portfolio).order_by(table.c.asset)).all()
    held = [row for row in rows if Decimal(row.size)]
    marks = _marks(conn, portfolio, [row.asset for row in held])
    return [Holding(row.asset, Decimal(row.size), Decimal(row.entry_price), marks[row.asset]) for row in held]


def lots(conn: Connection, portfolio: str) -> dict[str, Lot]:
    """Every asset ever traded: size, average cost and profit taken."""
    table = schema.position
    rows = conn.execute(select(table).where(table.c.portfolio == portfolio).order_by(table.c.asset))
    return {row.asset: Lot(Decimal(row.size), Decimal(row.entry_price), Decimal(row.realized)) for row in rows}


def load_positions(conn: Connection, portfolio: str) -> "Positions":
    """Cash and open positions in exact Decimals, marked at the newest recorded bar."""
    from portfolio_research.rebalancing import (
        Position,
        Positions,
    )  # here: it brings pandas, which the snapshot does without

    held = holdings(conn, portfolio)
    return Positions(
        {h.asset: Position(h.asset, h.size, h.entry_price, h.mark_price) for h in held}, cash=cash(conn, portfolio)
    )


def _fills(conn: Connection, query: Any) -> list[Fill]:
    """In the order in which they happened; the order's place in its rebalance decides between equal times."""
    happened = schema.order.c
    joined = query.join(schema.order, schema.fill.c.cloid == happened.cloid)
    return [
        Fill.from_row(row)
        for row in conn.execute(joined.order_by(schema.fill.c.ts, happened.sequence, schema.fill.c.tid))
    ]


def _check_fill(fill: Fill, order: PlannedOrder) -> None:
    numbers = {"size": fill.size, "price": fill.price, "fee": fill.fee, "slippage": fill.slippage}
    for name, number in numbers.items():
        if not number.is_finite():
            raise StoreError(
                f"fill {fill.tid} of {fill.asset}: {name} is {number}, not finite: the venue's answer is unusable"
            )
    if fill.asset != order.asset or fill.size * order.size <= 0 or fill.price <= 0:
        raise StoreError(
            f"fill {fill.tid}: {fill.size} {fill.asset} at {fill.price} cannot belong to order {order.cloid} "
            f"of {order.size} {order.asset}: the venue's answer is unusable"
        )


def _pay(conn: Connection, portfolio: str, fill: Fill) -> None:
    cost = EXACT.add(EXACT.multiply(fill.size, fill.price), fill.fee)
    left = EXACT.subtract(cash(conn, portfolio), cost)
    conn.execute(_where_name(update(schema.portfolio), portfolio).values(cash=str(left)))


def _apply(conn: Connection, portfolio: str, fill: Fill) -> None:
    """Usually the fill is the asset's newest and continues its lot; a late one makes the lot anew from all fills."""
    table = schema.fill
    mine = select(table).where(table.c.portfolio == portfolio, table.c.asset == fill.asset)
    if _fills(conn, mine.where(table.c.ts >= to_text(fill.ts))) == [fill]:
        lot = lots(conn, portfolio).get(fill.asset, Lot()).after(fill)
    else:
        lot = reduce(Lot.after, _fills(conn, mine), Lot())
    row = {"size": str(lot.size), "entry_price": str(lot.entry_price), "realized": str(lot.realized)}
    upsert(conn, schema.position, {"portfolio": portfolio, "asset": fill.asset, **row})


def _marks(conn: Connection, portfolio: str, assets: Sequence[str]) -> dict[str, Decimal]:
    table = schema.bar
    mine = table.c.portfolio == portfolio
    newest = select(func.max(table.c.ts)).where(mine).scalar_subquery()
    marks = {
        row.asset: to_decimal(row.close) for row in conn.execute(select(table).where(and_(mine, table.c.ts == newest)))
    }
    for asset in assets:  # one that has no price on the newest bar keeps its last one
        if asset not in marks:
            marks[asset] = _last_mark(conn, portfolio, asset)
    return marks


def _last_mark(conn: Connection, portfolio: str, asset: str) -> Decimal:
    table = schema.bar
    query = select(table.c.close).where(table.c.portfolio == portfolio, table.c.asset == asset)
    close = conn.execute(query.order_by(table.c.ts.desc()).limit(1)).scalar()
    if close is None:
        raise StoreError(f"portfolio {portfolio} holds {asset}, of which no price was ever recorded: record its bars")
    return to_decimal(close)


# Rows and back


def _to_row(value: Any) -> dict[str, Any]:
    return {name: _stored(item) for name, item in asdict(value).items()}


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_text(value)
    return str(value) if isinstance(value, Decimal) else value


def _from_row(kind: type[_T], row: Row[Any]) -> _T:
    types: Mapping[str, Any] = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _loaded(types[name], getattr(row, name)) for name in types})


def _loaded(kind: Any, value: Any) -> Any:
    if kind is Decimal:
        return Decimal(value)
    return from_text(value) if kind in (datetime, datetime | None) and value is not None else value


def _since(table: Table, portfolio: str, since: datetime | None) -> Any:
    query = select(table).where(table.c.portfolio == portfolio)
    return query.where(table.c.ts >= to_text(since)) if since else query


def _where_name(statement: Any, name: str) -> Any:
    return statement.where(schema.portfolio.c.name == name)


def _wall(now: datetime | None) -> str:
    return to_text(now or datetime.now(UTC))


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _must_exist(rowcount: int, what: str) -> None:
    if rowcount == 0:
        raise StoreError(f"{what} is not in the ledger")
