"""How long the event loop stands still while a mail server hangs and a webhook drips: python tests/benchmarks/delivery.py

The servers run in a process of their own. A task asks for its turn every millisecond; the gap is how much later it got
it. "alone" is the same task on an otherwise idle loop: what the machine itself does to it. On a busy machine the gap
holds what others computed; what this loop computed in it is shown beside.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from time import perf_counter, thread_time
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

from portfolio_research.alert_people import Lifecycle
from portfolio_research.alerts import AlertType, Rule, Severity
from portfolio_research.channels import SlackAlertHandler, WebhookAlertHandler
from portfolio_research.handlers import EmailAlertHandler, LogAlertHandler
from portfolio_research.monitor import PortfolioMonitor
from portfolio_research.store import Store
from portfolio_research.store.ledger import ensure_portfolio
from portfolio_research.store.outbox import StoreSink
from portfolio_research.vigil import Vigil

BAR = 50.0  # milliseconds


async def serve(ports: Any) -> None:
    """A mail server that never greets, a webhook that drips, and one that is well."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
            if writer.is_closing():
                return

    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client was stopped
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    servers = [await asyncio.start_server(each, "127.0.0.1", 0) for each in (hang, drip, well)]
    ports.send([server.sockets[0].getsockname()[1] for server in servers])
    await asyncio.Event().wait()


def run_servers(ports: Any) -> None:
    asyncio.run(serve(ports))


async def gaps(seconds: float, beside: Callable[[], Awaitable[None]] | None = None) -> list[tuple[float, float]]:
    """Milliseconds that the loop was late, each time it was asked, and how many of them it computed."""
    found, working = [], asyncio.ensure_future(beside()) if beside else None
    end = perf_counter() + seconds
    while (asked := perf_counter()) < end:
        computed = thread_time()
        await asyncio.sleep(0.001)
        found.append(((perf_counter() - asked - 0.001) * 1e3, (thread_time() - computed) * 1e3))
    if working:
        working.cancel()
        await asyncio.wait({working})
    return found


def monitor_of(folder: Path, store: Store, ports: list[int]) -> PortfolioMonitor:
    """Something to say twice a second, to four channels, and an address for signs of life."""
    mail, slow, well = ports
    post = {"host": "127.0.0.1", "port": mail, "sender": "bot@example.com", "recipients": ["ana@example.com"]}
    handlers = [
        LogAlertHandler(folder / "a.log"), EmailAlertHandler(post | {"timeout": 1}),
        SlackAlertHandler(f"http://127.0.0.1:{slow}/", timeout=1), WebhookAlertHandler(f"http://127.0.0.1:{well}/"),
    ]  # fmt: skip
    rule = Rule("depth", AlertType.DRAWDOWN, "drawdown", {Severity.CRITICAL: 0.2}, clear_ticks=1)
    vigil = Vigil(folder / "beat.json", "POST", f"http://127.0.0.1:{slow}/", pause=0.1, timeout=1)
    talkative = Lifecycle(flapping_changes=10**9)
    return PortfolioMonitor(
        handlers, rules=[rule], sink=StoreSink(store, "main"), check_interval=0.5, lifecycle=talkative, vigil=vigil
    )


def delivering(seconds: float, ports: list[int]) -> tuple[list[tuple[float, float]], int]:
    """The gaps meanwhile, and how many messages the log was told."""
    depths = cycle((0.05, 0.25))
    analytics = SimpleNamespace(monitor_values=lambda *_: {"drawdown": next(depths)})
    parts = SimpleNamespace(positions={}, portfolio_returns=[]), analytics, SimpleNamespace(returns=lambda n: [], now=None)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "p.db") as store:
        with store.begin() as conn:
            ensure_portfolio(conn, "main", Decimal(1), "USD", "paper", "benchmark", "{}", datetime.now(UTC))
        monitor = monitor_of(Path(folder), store, ports)
        found = asyncio.run(gaps(seconds, lambda: monitor.start_monitoring(*parts)))
        return found, len((Path(folder) / "a.log").read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1, help="seconds of each measurement, times four")
    seconds = 4.0 * parser.parse_args().repeat
    ours, theirs = multiprocessing.Pipe()
    servers = multiprocessing.get_context("spawn").Process(target=run_servers, args=(theirs,), daemon=True)
    servers.start()
    ports = ours.recv()
    logging.disable()
    alone = asyncio.run(gaps(seconds))
    busy, told = delivering(seconds, ports)
    servers.terminate()
    table = Table(title=f"Gaps of the event loop in {seconds:g} s, {told} messages told meanwhile (bar: {BAR:g} ms)")
    for column in ("", "median ms", "99 % ms", "worst ms", "most computed in one, ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in (("alone", alone), ("delivering", busy)):
        late, computed = zip(*found, strict=True)
        cuts = quantiles(late, n=100)
        table.add_row(name, f"{cuts[49]:.2f}", f"{cuts[98]:.2f}", f"{max(late):.1f}", f"{max(computed):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
