"""A venue on loopback that answers POST /info as Hyperliquid does: candles, funding, coins; and faults when told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pandas as pd

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STEPS = {"1h": HOUR, "1d": DAY}
Server = TypeVar("Server", bound=ThreadingHTTPServer)


def ms(moment: datetime | str) -> int:
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def row(coin: str, day: datetime | str, close: str, interval: str = "1d") -> dict[str, Any]:
    """One candle as the venue writes it: decimal text, times in ms, closing a millisecond before the next."""
    span = {"t": ms(day), "T": ms(day) + STEPS[interval] // timedelta(milliseconds=1) - 1, "s": coin, "i": interval}
    return span | dict.fromkeys("ohlc", close) | {"v": "1.5", "n": 3}


class Market(ThreadingHTTPServer):
    """Candles of some coins, their mids and funding. `faults` are answered first; the clock is set by hand."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.now = NOW
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Any] = []
        self.mids = {"BTC": "70000.5", "ETH": "3900.25", "@142": "1.0"}
        self.days = pd.date_range("2024-02-01", "2024-03-20", tz="UTC")
        self.hours = pd.date_range("2024-03-01", "2024-03-20", freq="h", tz="UTC")  # of hourly candles and of funding
        self.served = 5000  # candles; older ones are gone
        self.lag = 48  # ms by which a funding stamp comes after its hour

    def answer(self, question: dict[str, Any]) -> Any:
        match question["type"]:
            case "allMids":
                return self.mids
            case "meta":
                return {"universe": [{"name": coin, "szDecimals": 3} for coin in self.mids if coin[0] != "@"]}
            case "candleSnapshot":
                return self.candles(**question["req"])
            case "fundingHistory":
                return self.funding(question["coin"], question["startTime"], question["endTime"])
        raise AssertionError(question)

    def candles(self, coin: str, interval: str, startTime: int, endTime: int) -> list[dict[str, Any]] | None:
        """Closes count up from the mid; the newest candle is one that has not closed."""
        if coin not in self.mids:
            return None
        times = self.days if interval == "1d" else self.hours
        begun = times[times <= pd.Timestamp(self.now)]
        rows = [row(coin, day, str(float(self.mids[coin]) + n), interval) for n, day in enumerate(begun)]
        return [r for r in rows[-self.served :] if r["T"] >= startTime and r["t"] <= endTime]

    def funding(self, coin: str, start: int, end: int) -> list[dict[str, Any]] | None:
        """Rates count up in millionths; the 500 that come first."""
        if coin not in self.mids:
            return None
        rates = [(ms(hour) + self.lag, f"{n / 1e6:.6f}") for n, hour in enumerate(self.hours)]
        found = [(t, rate) for t, rate in rates if start <= t <= min(end, ms(self.now))]
        return [{"coin": coin, "fundingRate": rate, "premium": "0.0", "time": t} for t, rate in found[:500]]

    def asked_for(self, kind: str) -> list[dict[str, Any]]:
        found = [question for _, question in self.asked if question["type"] == kind]
        return [question.get("req", question) for question in found]


class Handler(BaseHTTPRequestHandler):
    server: Market

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, question))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if callable(fault):
            return fault(self)
        status, body, headers = fault or (200, json.dumps(self.server.answer(question)), {})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Answer in a thread for as long as one is inside."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
