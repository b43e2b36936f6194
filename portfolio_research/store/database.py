"""The store: one file (or one PostgreSQL database) that outlives every process.

Writers are serialised from their first statement on: SQLite by BEGIN IMMEDIATE, PostgreSQL by the lock on the
revision's row, which each write transaction raises by one. So a reader that polls the revision knows cheaply whether
anything has changed, and a read-modify-write inside `begin` never loses another process's update.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.pool import ConnectionPoolEntry

from portfolio_research.config import StoreError
from portfolio_research.store.schema import MIGRATIONS, SCHEMA_VERSION, meta, metadata

BUSY_SECONDS = 10.0  # how long a writer waits for another one
_SCHEMA_LOCK = 7_206_115  # PostgreSQL advisory lock, so that two processes do not create the tables at once
_REMEDIES = {  # what SQLite says -> what to do about it
    "disk is full": "free some space; what was being written was rolled back, everything before it is safe",
    "disk i/o error": "the disk failed or is full; what was being written was rolled back, check its free space",
    "readonly database": "make the file and its folder writable for this user",
    "unable to open": "make the file and its folder readable and writable for this user",
    "locked": f"another process has held it for more than {BUSY_SECONDS:g} s; stop it or wait",
    "not a database": "it is some other file; choose another store or move it away",
    "malformed": "the file is damaged; restore a backup",
}


class Store:
    """A connection to the store. Calls are quick and synchronous; `begin` writes, `read` reads one consistent state."""

    def __init__(self, engine: Engine, where: str, *, readonly: bool) -> None:
        self.engine = engine
        self.where = where  # file or URL without password, as shown to people
        self.readonly = readonly

    @classmethod
    def open(cls, url_or_path: str | Path, *, readonly: bool = False, durable: bool = True) -> Self:
        """Open the store, create its tables if there are none, and bring those of an older version up to date.

        A file is made if missing, except with `readonly`. `durable=False` may lose the last transactions on power loss
        (never on a crash of the process, and never half of one): it suits a replay that can be run again.
        """
        url = _parse(url_or_path)
        is_file = url.get_backend_name() == "sqlite"
        where = str(url.database) if is_file else url.render_as_string(hide_password=True)
        if is_file:
            _prepare_file(Path(where), readonly)
        store = cls(_engine(url, readonly=readonly, durable=durable), where, readonly=readonly)
        try:
            store._check_schema()
        except BaseException:
            store.close()
            raise
        return store

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One write transaction: all of it is committed, with the revision raised by one, or none of it."""
        if self.readonly:
            raise StoreError(f"{self.where} was opened for reading only")
        with self._errors(), self.engine.connect() as conn:
            conn = conn.execution_options(portfolio_write=True)
            with conn.begin():
                conn.execute(update(meta).where(meta.c.key == "revision").values(value=meta.c.value + 1))
                yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent state of the store, whatever is written meanwhile."""
        with self._errors(), self.engine.connect() as conn:
            if conn.dialect.name == "postgresql":
                conn = conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with conn.begin():
                yield conn

    def revision(self) -> int:
        """How many write transactions the store has seen."""
        with self.read() as conn:
            return _meta(conn, "revision") or 0

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_schema(self) -> None:
        with self._errors(), self.engine.connect() as conn:
            conn = conn.execution_options(portfolio_write=not self.readonly)
            with conn.begin():
                if conn.dialect.name == "postgresql":
                    conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
                tables = inspect(conn).get_table_names()
                version = _meta(conn, "schema_version") if "meta" in tables else None
                if version is None:
                    self._create(conn, tables)
                elif version != SCHEMA_VERSION:
                    self._migrate(conn, version)

    def _create(self, conn: Connection, tables: Sequence[str]) -> None:
        if tables:
            raise StoreError(f"{self.where} holds tables of something else ({tables[0]}, ...): choose another store")
        if self.readonly:
            raise StoreError(f"{self.where} is empty: start it once with `portfolio-research run`")
        metadata.create_all(conn)
        conn.execute(
            insert(meta), [{"key": "schema_version", "value": SCHEMA_VERSION}, {"key": "revision", "value": 0}]
        )

    def _migrate(self, conn: Connection, version: int) -> None:
        """Step by step to the newest version, all in one transaction. A reader reads the older one as it is."""
        steps = range(version, SCHEMA_VERSION)
        if version > SCHEMA_VERSION or any(step not in MIGRATIONS for step in steps):
            raise StoreError(_other_version(self.where, version))
        if self.readonly:
            return
        for step in steps:
            for statement in MIGRATIONS[step]:
                conn.execute(text(statement))
        conn.execute(update(meta).where(meta.c.key == "schema_version").values(value=SCHEMA_VERSION))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the database refuses becomes a StoreError that names the file; our own mistakes stay what they are."""
        try:
            yield
        except (IntegrityError, ProgrammingError):
            raise
        except DBAPIError as error:
            said = str(error.orig).strip()
            remedy = next(
                (fix for sign, fix in _REMEDIES.items() if sign in said.lower()), "check that it can be reached"
            )
            raise StoreError(f"{self.where}: {said}: {remedy}") from error


def insert_new(conn: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is there already; say whether it was new."""
    statement = _dialect_insert(conn, table).values(**values).on_conflict_do_nothing()
    key = next(iter(table.primary_key))  # asked back, because a driver need not count what an INSERT did
    return conn.execute(statement.returning(key)).first() is not None


def upsert(conn: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row, or overwrite the one with its primary key."""
    keys = [column.name for column in table.primary_key]
    rest = {name: value for name, value in values.items() if name not in keys}
    conn.execute(_dialect_insert(conn, table).values(**values).on_conflict_do_update(index_elements=keys, set_=rest))


def upsert_many(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of the same columns, or overwrite those with their primary keys."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = _dialect_insert(conn, table)
    new = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    conn.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), list(rows))


def _dialect_insert(conn: Connection, table: Table) -> Any:
    return postgresql.insert(table) if conn.dialect.name == "postgresql" else sqlite.insert(table)


def _meta(conn: Connection, key: str) -> int | None:
    return conn.execute(select(meta.c.value).where(meta.c.key == key)).scalar()


def _other_version(where: str, version: int) -> str:
    known = f"{where} has schema version {version}, this program knows {SCHEMA_VERSION}"
    if version > SCHEMA_VERSION:
        return f"{known}: it was written by a newer portfolio_research; upgrade this one, or choose another store"
    return f"{known}: no migration leads from there; choose another store"


def _parse(url_or_path: str | Path) -> URL:
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return URL.create("sqlite", database=str(Path(url_or_path).expanduser()))
    try:
        url = make_url(url_or_path)
    except ArgumentError as error:
        raise StoreError(
            f"{url_or_path!r} is no store: give a file, sqlite:///FILE or postgresql://HOST/DATABASE"
        ) from error
    if url.get_backend_name() not in ("sqlite", "postgresql") or not url.database:
        raise StoreError(f"{url!r} is no store: give a file, sqlite:///FILE or postgresql://HOST/DATABASE")
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def _prepare_file(path: Path, readonly: bool) -> None:
    if readonly and not path.is_file():
        raise StoreError(f"{path}: no such store: start it once with `portfolio-research run`")
    try:
        if not readonly:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: choose a folder that can be written") from error


def _engine(url: URL, *, readonly: bool, durable: bool) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, readonly=readonly, durable=durable)
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise StoreError("PostgreSQL needs psycopg: pip install 'portfolio_research[postgres]'") from error
    if not durable:
        event.listen(engine, "connect", _relax_commits)
    return engine


def _relax_commits(connection: Any, _record: ConnectionPoolEntry) -> None:
    connection.execute("SET synchronous_commit TO off")
    connection.commit()


def _sqlite_engine(url: URL, *, readonly: bool, durable: bool) -> Engine:
    path = Path(str(url.database)).absolute().as_uri()

    def connect() -> sqlite3.Connection:
        mode = "ro" if readonly else "rwc"
        connection = sqlite3.connect(
            f"{path}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in _pragmas(readonly=readonly, durable=durable):
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(url, creator=connect)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _pragmas(*, readonly: bool, durable: bool) -> Iterator[str]:
    yield "PRAGMA foreign_keys=ON"
    if not readonly:
        yield "PRAGMA journal_mode=WAL"
        yield f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}"


def _begin_sqlite(conn: Connection) -> None:
    """Ours: the driver's own BEGIN is deferred, so two writers would both read and one fail at its first write."""
    write = conn.get_execution_options().get("portfolio_write", False)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
