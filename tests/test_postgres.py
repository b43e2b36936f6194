"""The same store on PostgreSQL: a real server, started and stopped here."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text
from store_rows import CAPITAL, day, fill_of, open_order, start

from portfolio_research.config import StoreError
from portfolio_research.store import Store, ledger, telemetry
from portfolio_research.store.snapshot import build_snapshot

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'portfolio_research[postgres]'")


def programs():
    """Debian's newest PostgreSQL, or nothing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def unprivileged():
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    bin_ = programs() or pytest.skip("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    who, port, folder = unprivileged(), free_port(), Path(tempfile.mkdtemp(prefix="pg-"))
    if who:
        os.chown(folder, who["user"], who["group"])

    def run(*command):
        options = {"env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, "cwd": folder, "timeout": 60, **who}
        subprocess.run(
            [str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        )

    data = folder / "data"
    run(bin_ / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-N", "-E", "UTF8")
    settings = f"-p {port} -h 127.0.0.1 -k {folder} -F"
    run(bin_ / "pg_ctl", "-D", data, "-o", settings, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        run(bin_ / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def url(server, request):
    """A database of its own for each test."""
    import psycopg

    name = f"t{abs(hash(request.node.name))}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def store(url):
    with Store.open(url) as opened:
        with opened.begin() as conn:
            start(conn)
        yield opened


def traded(store):
    """The same history in any store."""
    with store.begin() as conn:
        telemetry.record_bars(conn, "main", [(day(n), {"BTC": 100.0 + n, "ETH": 10.0}) for n in range(5)])
        telemetry.record_targets(conn, "main", day(4), {"BTC": 0.6, "ETH": 0.4})
        fills = [
            fill_of(open_order(conn, "BTC", size, n), price, fee="0.1")
            for n, (size, price) in enumerate([("1.5", "100"), ("-0.5", "101")])
        ]
        assert [ledger.record_fill(conn, fill) for fill in (fills[1], fills[0], fills[0])] == [True, True, False]
        ledger.advance(conn, "main", "trading", day(4))
        telemetry.record_equity(conn, "main", day(4), 100_000.0, 1.0, -0.01, None)
        telemetry.record_report(conn, "main", day(4), {"risk_score": float("nan")})
        telemetry.heartbeat(conn, "main", "engine", state="running", pid=1, now=day(4))
    return store


def test_it_keeps_what_sqlite_keeps(store, tmp_path):
    traded(store)
    with Store.open(tmp_path / "portfolio.db") as other:
        with other.begin() as conn:
            start(conn)
        traded(other)
        ours, theirs = (build_snapshot(each, "main", now=day(4), reports=tmp_path) for each in (store, other))
        with store.read() as a, other.read() as b:
            assert ledger.fills(a, "main") == ledger.fills(b, "main")
            assert ledger.lots(a, "main") == ledger.lots(b, "main")
            assert ledger.cash(a, "main") == ledger.cash(b, "main") == CAPITAL - Decimal("99.7")
            assert telemetry.bars(a, "main", 9) == telemetry.bars(b, "main", 9)
            assert ledger.cursor(a, "main", "trading") == day(4)
    assert ours == theirs


def test_opening_again_keeps_everything(store, url):
    with Store.open(url) as again, Store.open(url, durable=False) as quick, Store.open(url, readonly=True) as reader:
        assert again.revision() == quick.revision() == reader.revision() == 1
        with quick.begin() as conn:
            assert conn.execute(text("SHOW synchronous_commit")).scalar() == "off"
        with pytest.raises(StoreError, match="read-only"), reader.read() as conn:
            conn.execute(text("DELETE FROM portfolio"))


def test_a_failed_transaction_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.begin() as conn:
        start(conn, "lost")
        _ = 1 / 0
    with store.read() as conn:
        assert ledger.portfolio_names(conn) == ["main"]
    assert store.revision() == 1


def test_a_read_sees_one_state(store):
    with store.read() as reading:
        before = ledger.portfolio_names(reading)
        with store.begin() as writing:
            start(writing, "second")
        assert ledger.portfolio_names(reading) == before


def test_concurrent_read_modify_writes_lose_nothing(store, url):
    script = """
        import sys
        from sqlalchemy import text
        from portfolio_research.store import Store
        store = Store.open(sys.argv[1])
        for _ in range(40):
            with store.begin() as conn:
                cash = int(conn.execute(text("SELECT cash FROM portfolio")).scalar())
                conn.execute(text("UPDATE portfolio SET cash = :cash"), {"cash": str(cash + 1)})
    """

    def run(_):
        command = [sys.executable, "-c", textwrap.dedent(script), url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [""] * 3
    with store.read() as conn:
        assert ledger.cash(conn, "main") == CAPITAL + 120
    assert store.revision() == 121


def test_many_processes_may_create_the_store_at_once(url):
    script = "import sys; from portfolio_research.store import Store; print(Store.open(sys.argv[1]).revision())"

    def run(_):
        return subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, timeout=60)

    with ThreadPoolExecutor(3) as pool:
        assert [(ended.stdout, ended.stderr) for ended in pool.map(run, range(4))] == [("0\n", "")] * 4


def test_an_empty_database_cannot_be_read(url):
    with pytest.raises(StoreError, match="empty"):
        Store.open(url, readonly=True)


def test_a_newer_schema_is_refused(store, url):
    with store.begin() as conn:
        conn.execute(text("UPDATE meta SET value = 99 WHERE key = 'schema_version'"))
    with pytest.raises(StoreError, match="schema version 99"):
        Store.open(url)


def test_an_older_store_is_brought_up_to_date(store, url):
    with store.begin() as conn:
        conn.execute(text("ALTER TABLE target DROP COLUMN place"))
        conn.execute(text("ALTER TABLE alert DROP COLUMN told_at"))
        conn.execute(text("DROP TABLE silence"))
        conn.execute(text("UPDATE meta SET value = 1 WHERE key = 'schema_version'"))
    with Store.open(url) as opened, opened.begin() as conn:
        telemetry.record_targets(conn, "main", day(0), {"BTC": 0.6, "ETH": 0.4}, ["ETH", "BTC"])
        assert telemetry.latest_order(conn, "main") == ["ETH", "BTC"]


def test_a_server_that_is_gone_is_named(store, url):
    gone = url.rsplit("/", 1)[0] + "/nothing_here"
    with pytest.raises(StoreError, match="nothing_here.*does not exist"):
        Store.open(gone)
