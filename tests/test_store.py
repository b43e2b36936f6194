"""The store: what it refuses, what it survives, and that writers wait for one another."""

import os
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from store_rows import day, start

from portfolio_research.config import StoreError
from portfolio_research.store import Store, database, telemetry
from portfolio_research.store import encoding as enc
from portfolio_research.store.schema import SCHEMA_VERSION
from portfolio_research.store.snapshot import build_snapshot


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "portfolio.db") as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


@pytest.fixture(name="path")
def a_store_on_disk(tmp_path):
    path = tmp_path / "new folder" / "portfolio.db"
    with Store.open(path) as opened, opened.begin() as conn:
        start(conn)
    return path


def counts(path, table="portfolio"):
    with sqlite3.connect(path) as conn:
        return conn.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]


def run(script, *args, **options):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


# Opening


def test_opening_twice_keeps_what_was_written(path):
    with Store.open(path) as again, again.read() as conn:
        assert conn.execute(text("SELECT name FROM portfolio")).scalars().all() == ["main"]


@pytest.mark.parametrize("kind", [str, Path, lambda p: f"sqlite:///{p}"])
def test_path_text_and_url_open_the_same_file(path, kind):
    with Store.open(kind(path)) as opened:
        assert opened.revision() == 1
        assert opened.where == str(path)


def test_the_file_is_wal_with_foreign_keys_and_full_sync(path):
    def pragma(conn, name):
        return conn.execute(text(f"PRAGMA {name}")).scalar()

    with Store.open(path) as durable, durable.read() as conn:
        assert (pragma(conn, "journal_mode"), pragma(conn, "foreign_keys"), pragma(conn, "synchronous")) == (
            "wal",
            1,
            2,
        )
    with Store.open(path, durable=False) as quick, quick.read() as conn:
        assert pragma(conn, "synchronous") == 1


def test_a_newer_schema_is_refused_with_a_remedy(path):
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match=r"portfolio\.db has schema version 99.*upgrade"):
        Store.open(path)


def test_an_unknown_older_schema_is_refused(path):
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE meta SET value = 0 WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match="no migration"):
        Store.open(path)


@pytest.fixture(name="old")
def a_store_of_the_first_version(path):
    """As it was before targets had a place in the leaf order."""
    with Store.open(path) as opened, opened.begin() as conn:
        telemetry.record_targets(conn, "main", day(0), {"BTC": 0.6, "ETH": 0.4})
    with sqlite3.connect(path) as conn:
        conn.execute("ALTER TABLE target DROP COLUMN place")
        conn.execute("ALTER TABLE alert DROP COLUMN told_at")
        conn.execute("DROP TABLE silence")
        conn.execute("UPDATE meta SET value = 1 WHERE key = 'schema_version'")
    return path


def columns(path):
    with sqlite3.connect(path) as conn:
        return [row[:3] for row in conn.execute("PRAGMA table_info(target)")]


def test_an_older_store_is_brought_up_to_date_and_keeps_what_it_holds(old, tmp_path):
    with Store.open(old) as opened, opened.begin() as conn:
        assert telemetry.latest_targets(conn, "main") == (day(0), {"BTC": 0.6, "ETH": 0.4})
        assert telemetry.latest_order(conn, "main") == []
        telemetry.record_targets(conn, "main", day(1), {"BTC": 0.6, "ETH": 0.4}, ["ETH", "BTC"])
    with Store.open(old) as again, again.read() as conn:
        assert telemetry.latest_order(conn, "main") == ["ETH", "BTC"]
        assert conn.execute(text("SELECT value FROM meta WHERE key = 'schema_version'")).scalar() == SCHEMA_VERSION
    Store.open(tmp_path / "new.db").close()
    assert columns(old) == columns(tmp_path / "new.db")


def test_a_reader_reads_an_older_store_and_leaves_it_as_it_is(old):
    before = columns(old)
    with Store.open(old, readonly=True) as opened, opened.read() as conn:
        assert telemetry.latest_targets(conn, "main") == (day(0), {"BTC": 0.6, "ETH": 0.4})
    assert build_snapshot(Store.open(old, readonly=True), "main")["allocation"]
    assert columns(old) == before


def test_a_migration_that_fails_changes_nothing(old, monkeypatch):
    failing = ("ALTER TABLE target ADD COLUMN place INTEGER", "ALTER TABLE nowhere ADD COLUMN x INTEGER")
    broken = database.MIGRATIONS | {1: failing}
    before = columns(old)
    monkeypatch.setattr(database, "MIGRATIONS", broken)
    with pytest.raises(StoreError, match="nowhere"):
        Store.open(old)
    assert columns(old) == before


def test_two_processes_migrate_a_store_once(old):
    script = """
        import sys
        from portfolio_research.store import Store
        Store.open(sys.argv[1]).close()
    """
    with ThreadPoolExecutor(3) as pool:
        assert [done.stderr for done in pool.map(lambda _: run(script, old), range(3))] == [""] * 3
    assert columns(old)[-1][1] == "place"


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(StoreError, match="recipes"):
        Store.open(path)
    with sqlite3.connect(path) as conn:
        assert conn.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("dear diary, " * 400)
    with pytest.raises(StoreError, match=r"notes\.db.*not a database.*choose another store"):
        Store.open(path)
    assert path.read_text().startswith("dear diary")


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense://", "postgresql://"])
def test_urls_of_no_store_are_refused(url):
    with pytest.raises(StoreError, match="postgresql://HOST/DATABASE"):
        Store.open(url)


def test_passwords_do_not_show_when_the_server_cannot_be_reached():
    with pytest.raises(StoreError) as refused:
        Store.open("postgresql://me:hunter2@127.0.0.1:1/none?connect_timeout=2")
    assert "127.0.0.1" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="choose a folder"):
        Store.open(tmp_path / "taken" / "portfolio.db")


def test_a_folder_cannot_be_the_store(tmp_path):
    with pytest.raises(StoreError, match="unable to open"):
        Store.open(tmp_path)


def test_many_processes_may_create_the_store_at_once(tmp_path):
    path = tmp_path / "portfolio.db"
    script = "import sys; from portfolio_research.store import Store; print(Store.open(sys.argv[1]).revision())"
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: run(script, path), range(6)))
    assert [(process.stdout, process.stderr) for process in ended] == [("0\n", "")] * 6
    assert counts(path, "meta") == 2


# Read only


def test_readonly_needs_a_store_and_makes_none(tmp_path):
    with pytest.raises(StoreError, match="start it once with .portfolio-research run"):
        Store.open(tmp_path / "none.db", readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_readonly_refuses_an_empty_file(tmp_path):
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="empty"):
        Store.open(tmp_path / "empty.db", readonly=True)


def test_readonly_reads_beside_a_writer_and_cannot_write(path):
    with Store.open(path) as writer, Store.open(path, readonly=True) as reader:
        before = reader.revision()
        with writer.begin() as conn:
            start(conn, "second")
            assert reader.revision() == before, "nothing uncommitted is seen"
        assert reader.revision() == before + 1
        with pytest.raises(StoreError, match="reading only"), reader.begin():
            pass
        with pytest.raises(StoreError, match="readonly database.*writable"), reader.read() as conn:
            conn.execute(text("DELETE FROM portfolio"))


# Transactions


def test_a_failed_transaction_leaves_nothing_and_no_revision(store):
    before = store.revision()
    with pytest.raises(ZeroDivisionError), store.begin() as conn:
        start(conn, "lost")
        _ = 1 / 0
    assert store.revision() == before
    assert counts(store.where) == 1


def test_the_revision_rises_by_one_per_transaction(store):
    before = store.revision()
    for n in range(3):
        with store.begin() as conn:
            telemetry.heartbeat(conn, "main", "engine", state="running", pid=n)
    assert store.revision() == before + 3


def test_concurrent_read_modify_writes_lose_nothing(path):
    script = """
        import sys
        from sqlalchemy import text
        from portfolio_research.store import Store
        store = Store.open(sys.argv[1], durable=False)
        for _ in range(50):
            with store.begin() as conn:
                cash = int(conn.execute(text("SELECT cash FROM portfolio")).scalar())
                conn.execute(text("UPDATE portfolio SET cash = :cash"), {"cash": str(cash + 1)})
    """
    with ThreadPoolExecutor(3) as pool:
        errors = [process.stderr for process in pool.map(lambda _: run(script, path), range(3))]
    assert errors == [""] * 3
    with Store.open(path) as opened, opened.read() as conn:
        assert conn.execute(text("SELECT cash FROM portfolio")).scalar() == "100150"
        assert opened.revision() == 151


def test_threads_share_one_store(store):
    def beat(n):
        with store.begin() as conn:
            telemetry.heartbeat(conn, "main", f"worker {n}", state="running", pid=n)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(beat, range(20)))
    with store.read() as conn:
        assert len(telemetry.heartbeats(conn, "main")) == 20


def test_a_read_sees_one_state_whatever_is_written_meanwhile(store):
    with store.read() as reading:
        first = reading.execute(text("SELECT count(*) FROM portfolio")).scalar()
        with store.begin() as writing:
            start(writing, "second")
        assert reading.execute(text("SELECT count(*) FROM portfolio")).scalar() == first
    assert counts(store.where) == 2


def test_a_locked_store_says_so(path, monkeypatch):
    monkeypatch.setattr("portfolio_research.store.database.BUSY_SECONDS", 0.05)
    with Store.open(path) as opened:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(StoreError, match="locked.*another process"), opened.begin():
                pass
        finally:
            holder.close()


def test_foreign_keys_hold(store):
    from sqlalchemy.exc import IntegrityError

    with pytest.raises(IntegrityError), store.begin() as conn:
        telemetry.record_bars(conn, "nobody", [(day(0), {"BTC": 1.0})])


# Disks that fail


def test_a_full_disk_names_the_file_and_loses_nothing(store):
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(0), {"BTC": 1.0})])
    with (
        pytest.raises(StoreError, match=r"portfolio\.db: database or disk is full: free some space"),
        store.begin() as conn,
    ):
        pages = conn.execute(text("PRAGMA page_count")).scalar()
        conn.execute(text(f"PRAGMA max_page_count = {pages}"))
        telemetry.record_bars(conn, "main", [(day(n), {f"A{i}": 1.0 for i in range(50)}) for n in range(1, 60)])
    assert counts(store.where, "bar") == 1


def test_a_write_that_the_system_refuses_names_the_file(path):
    """The limit on file size is the system's own refusal, the same that a full disk gives."""
    script = """
        import resource, signal, sys
        from portfolio_research.store import Store, telemetry
        from store_rows import day
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store.open(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for n in range(200):
            with store.begin() as conn:
                telemetry.record_bars(conn, "main", [(day(n), {f"A{i}": 1.0 for i in range(40)})])
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = run(script, path, env=environment, cwd=Path(__file__).parent.parent)
    assert "StoreError" in ended.stderr
    assert "portfolio.db: d" in ended.stderr and "rolled back" in ended.stderr
    with Store.open(path) as opened, opened.read() as conn:
        dates, _, rows = telemetry.bars(conn, "main", 1000)
    assert 0 < len(dates) < 200
    assert all(len(row) == 40 and row == [1.0] * 40 for row in rows), "whole transactions or none"


def test_a_killed_writer_leaves_whole_transactions(path):
    script = """
        import os, signal, sys
        from portfolio_research.store import Store, telemetry
        from store_rows import day
        store = Store.open(sys.argv[1])
        for n in range(5):
            with store.begin() as conn:
                telemetry.record_bars(conn, "main", [(day(n), {"A": 1.0, "B": 2.0})])
        with store.begin() as conn:
            telemetry.record_bars(conn, "main", [(day(9), {"A": 1.0, "B": 2.0})])
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = run(script, path, env=environment, cwd=Path(__file__).parent.parent)
    assert ended.returncode == -9
    with Store.open(path) as opened, opened.read() as conn:
        assert len(telemetry.bars(conn, "main", 100)[0]) == 5


# Values as text


@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.timezones()))
def test_times_come_back_equal_and_in_utc(ts):
    back = enc.from_text(enc.to_text(ts))
    assert back == ts.astimezone(UTC)
    assert back.utcoffset() == timedelta(0)


@given(st.lists(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)), max_size=10))
def test_stored_times_sort_as_times_do(times):
    assert sorted(times) == [enc.from_text(t) for t in sorted(enc.to_text(ts) for ts in times)]


def test_times_without_zone_are_refused():
    with pytest.raises(StoreError, match="no zone"):
        enc.to_text(datetime(2020, 1, 1))


def test_other_zones_become_utc():
    east = datetime(2020, 1, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    assert enc.short(enc.to_text(east)) == "2020-01-01T00:00:00Z"
    assert enc.short(None) is None


def test_json_has_no_nan_and_keeps_shapes():
    import numpy as np
    import pandas as pd

    value = {
        "a": float("nan"),
        "b": [1, True, None, Decimal("0.5"), float("inf")],
        3: day(0),
        "s": pd.Series({"x": np.nan}),
    }
    assert enc.to_json(value) == '{"a":null,"b":[1,true,null,0.5,null],"3":"2020-02-03T00:00:00Z","s":{"x":null}}'
    assert enc.plain(np.arange(3)) == [0, 1, 2]
    assert enc.plain(np.float64(1.5)) == 1.5
    assert enc.plain(np.int64(7)) == 7


def test_json_refuses_what_it_cannot_say():
    with pytest.raises(StoreError, match="object"):
        enc.to_json({"x": object()})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_of_floats_come_back(value):
    assert float(enc.to_decimal(value)) == value


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    Store.open(tmp_path / "mine" / "portfolio.db").close()
    assert (tmp_path / "mine").stat().st_mode & 0o077 == 0
