"""Every number that a person is shown, computed a second time from raw rows of the ledger, by its definition.

Nothing here calls the functions under test: fills, bars and targets are read with sqlite3, and the rest is arithmetic.
The replay goes through days with trades in slices, trades that are too small, a position closed by hand and bought
again by the engine, and five restarts.
"""
from __future__ import annotations

import asyncio
import json
import math
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from portfolio_research.__main__ import app
from portfolio_research.config import Settings
from portfolio_research.data import sample_prices
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.metrics import REGISTRY
from portfolio_research.reports.content import RebalancingReport
from portfolio_research.store import Store
from portfolio_research.store.snapshot import build_snapshot

START, CAPITAL, LOOKBACK, YEAR, RATE = "2019-11-01", 100_000.0, 60, 252, 0.02
FEE, SLIP, MIN_TRADE, LARGE, CALM_TOLERANCE, WILD_TOLERANCE = 0.00045, 0.0005, 400.0, 4_000.0, 0.02, 0.015
CLOSED_BY_HAND = "2020-01-15"
STOPS = ("2019-11-01", "2019-11-04", CLOSED_BY_HAND, "2020-01-16", "2020-03-12", "2020-03-31")
WINDOWS = {"30d": 30, "90d": 90, "180d": 180, "1y": 365, "all": None}
SETTINGS = Settings(  # type: ignore[call-arg]
    portfolio={  # type: ignore[arg-type]
        "rebalancing": {
            "lookback": LOOKBACK, "tolerance": CALM_TOLERANCE, "high_volatility_tolerance": WILD_TOLERANCE,
            "min_trade_size": MIN_TRADE, "large_trade_threshold": LARGE, "twap_slices": 2,
        },
        "monitoring": {
            "alerts": {
                f"{name}_{level}": value
                for name, levels in {
                    "concentration": (0.08, 0.09, 0.10, 0.11), "daily_loss": (0.01, 0.02, 0.03, 0.05),
                    "var": (0.01, 0.015, 0.02, 0.03), "effective_assets": (18.0, 16.0, 14.0, 12.0),
                    "risk_share": (0.055, 0.06, 0.07, 0.09),
                }.items()
                for level, value in zip(("low", "warning", "high", "critical"), levels, strict=True)
            }
        },
    },
    engine={"speed": 0}, dashboard={"enabled": False},  # type: ignore[arg-type]
)  # fmt: skip


@dataclass
class Seen:
    """What was shown after one stop, and the raw rows beneath it."""

    day: str
    shots: dict[str, dict[str, Any]]
    report: RebalancingReport
    rows: dict[str, list[dict[str, Any]]]
    market: pd.DataFrame  # all closes up to the day, those before the portfolio began included
    capital: float = CAPITAL
    bars: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows["bar"]:
            self.bars.setdefault(row["ts"][:10], {})[row["asset"]] = row["close"]
        strategies = {row["cloid"]: (row["strategy"], row["rebalance_id"]) for row in self.rows["order"]}
        for row in self.rows["fill"]:
            row |= {key: float(row[key]) for key in ("size", "price", "fee", "slippage")}
            row["strategy"], row["rebalance_id"] = strategies[row["cloid"]]
            row["day"] = row["ts"][:10]
            row["place"] = next(o["sequence"] for o in self.rows["order"] if o["cloid"] == row["cloid"])
        # by hand means: after the bar had been worked on
        self.rows["fill"].sort(key=lambda f: (f["day"], f["strategy"] == "manual", f["place"]))

    @property
    def days(self) -> list[str]:
        return sorted(self.bars)

    def fills(self, until: str, *, hand: bool = True, before: bool = False) -> list[dict[str, Any]]:
        """Fills up to a day; without those made by hand on it, or without all of it."""
        return [
            f for f in self.rows["fill"]
            if f["day"] < until or (f["day"] == until and not before and (hand or f["strategy"] != "manual"))
        ]  # fmt: skip

    def book(self, day: str, **which: bool) -> tuple[float, dict[str, float]]:
        """Cash, and value of each position at the day's closes."""
        cash, units = self.capital, defaultdict(float)
        for f in self.fills(day, **which):
            cash -= f["size"] * f["price"] + f["fee"]
            units[f["asset"]] += f["size"]
        return cash, {a: u * self.bars[day][a] for a, u in units.items() if abs(u) > 1e-12}

    def worth(self, day: str, **which: bool) -> float:
        cash, values = self.book(day, **which)
        return cash + sum(values.values())

    def curve(self, until: str | None = None) -> list[float]:
        """Equity at each close, after the engine's trades of that bar."""
        if not hasattr(self, "_curve"):
            self._curve = [self.worth(day, hand=False) for day in self.days]
        return [v for d, v in zip(self.days, self._curve, strict=True) if until is None or d <= until]

    def held_market(self) -> list[float]:
        """Equal parts of the capital bought at the first close, without cost."""
        first = self.bars[self.days[0]]
        return [self.capital * sum(self.bars[d][a] / first[a] for a in first) / len(first) for d in self.days]

    def asset_returns(self, until: str, n: int) -> np.ndarray:
        closes = self.market.loc[:until].to_numpy()[-(n + 1) :]
        return closes[1:] / closes[:-1] - 1

    def weights(self, day: str, **which: bool) -> np.ndarray:
        _, values = self.book(day, **which)
        return np.array([values.get(a, 0.0) for a in self.market.columns]) / self.worth(day, **which)


def raw(path: Path) -> dict[str, list[dict[str, Any]]]:
    tables = ("fill", "bar", "equity", "target", "order", "rebalance", "alert_event", "report", "portfolio")
    with closing(sqlite3.connect(path)) as conn:
        conn.row_factory = sqlite3.Row
        return {name: [dict(row) for row in conn.execute(f'SELECT * FROM "{name}"')] for name in tables}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Seen]]:
    folder = tmp_path_factory.mktemp("numbers")
    path = folder / "portfolio.db"
    prices = sample_prices().loc["2019-07-01":"2020-03-31"]  # type: ignore[misc]
    found: dict[str, Seen] = {}

    def look(day: str) -> Seen:
        with Store.open(path, readonly=True) as store:
            shots = {window: build_snapshot(store, "main", window=window) for window in WINDOWS}
            report = RebalancingReport.load(store, SETTINGS, window=90)
        return Seen(day, shots, report, raw(path), prices.loc[:day])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTFOLIO_RESEARCH_HOME", str(folder))
        for day in STOPS:
            with Store.open(path, durable=False) as store:  # each stop is a new process, as far as the ledger can tell
                bot = replay_to(prices.loc[:day], store)
                found[day] = look(day)
                if day == CLOSED_BY_HAND:
                    position = bot.risk_manager.positions["KO"]
                    asyncio.run(bot.order_executor.place_order("KO", "sell", position.value))
                    found["by hand"] = look(day)
        yield found


def replay_to(prices: pd.DataFrame, store: Store) -> HyperliquidTradingBot:
    async def scenario() -> HyperliquidTradingBot:
        feed = ReplayFeed(prices, start=START, speed=0)
        bot = HyperliquidTradingBot(SETTINGS, feed=feed, store=store, deliver=False)
        await bot.start(until_end=True)
        return bot

    return asyncio.run(scenario())


MOMENTS = [*STOPS, "by hand"]


@pytest.fixture(params=MOMENTS)
def now(request: pytest.FixtureRequest, seen: dict[str, Seen]) -> Seen:
    return seen[request.param]


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def money(value: float) -> Any:
    return pytest.approx(value, abs=CAPITAL * 1e-9)


def test_the_run_has_what_it_takes(seen: dict[str, Seen]) -> None:
    last = seen[STOPS[-1]]
    decisions = [json.loads(row["decision"]) for row in last.rows["rebalance"]]
    reasons = [r["reason"] for d in decisions for r in d.get("recommendations", [])]
    assert any(o["kind"] == "twap" for o in last.rows["order"]), "slices"
    assert any("below minimum trade size" in reason for reason in reasons), "trades that are too small"
    assert {d["regime"] for d in decisions if "regime" in d} >= {"normal", "high"}, "both tolerances"
    assert sum(r["state"] == "done" for r in last.rows["rebalance"]) > 5
    hand = [f for f in last.rows["fill"] if f["strategy"] == "manual"]
    assert len(hand) == 1 and hand[0]["size"] < 0, "closed by hand"
    assert "KO" not in {p["asset"] for p in seen["by hand"].shots["all"]["positions"]}
    assert "KO" in {p["asset"] for p in last.shots["all"]["positions"]}, "and bought again"


def test_equity_cash_and_total(now: Seen) -> None:
    over = now.shots["all"]["overview"]
    cash, values = now.book(now.day)
    worth = cash + sum(values.values())
    assert over["cash"] == money(cash) and over["equity"] == money(worth)
    assert over["pnl_total"] == money(worth - CAPITAL) and over["pnl_total_pct"] == near(worth / CAPITAL - 1)
    assert over["positions"] == len(values)


def test_profit_of_the_day_is_after_costs_and_counts_the_first_day(now: Seen) -> None:
    over, worth = now.shots["all"]["overview"], now.worth(now.day)
    before = CAPITAL if len(now.days) == 1 else now.curve()[-2]
    assert over["pnl_day"] == money(worth - before)
    assert over["pnl_day_pct"] == near(worth / before - 1)
    if len(now.days) == 1:
        costs = sum(f["fee"] + f["slippage"] for f in now.rows["fill"])
        assert over["pnl_day"] == money(-costs) and costs > 50


@pytest.mark.parametrize("window", WINDOWS)
def test_profit_of_a_window_counts_from_its_beginning(now: Seen, window: str) -> None:
    over, days = now.shots[window]["overview"], WINDOWS[window]
    since = f"{datetime.fromisoformat(now.day) - timedelta(days=days):%Y-%m-%d}" if days else ""
    earlier = [v for d, v in zip(now.days, now.curve(), strict=True) if d <= since]
    base = earlier[-1] if earlier else CAPITAL  # what it was worth when the window began
    assert over["pnl_window"] == money(now.worth(now.day) - base)
    assert over["pnl_window_pct"] == near(now.worth(now.day) / base - 1)
    if not earlier:
        assert (over["pnl_window"], over["pnl_window_pct"]) == (over["pnl_total"], over["pnl_total_pct"])


def test_drawdown_begins_at_the_capital_before_the_first_cost(now: Seen) -> None:
    peak, falls = CAPITAL, []
    for value in [*now.curve(), now.worth(now.day)]:
        peak = max(peak, value)
        falls.append(1 - value / peak)
    over = now.shots["all"]["overview"]
    assert over["drawdown"] == near(falls[-1]) and over["max_drawdown"] == near(max(falls))
    assert now.shots["all"]["equity"]["drawdown"] == [near(-fall) for fall in falls[:-1]]
    if len(now.days) == 1:
        assert over["drawdown"] > 0, "the first purchase costs something"


@pytest.mark.parametrize("window", WINDOWS)
def test_the_charts_are_the_ledger(now: Seen, window: str) -> None:
    days = WINDOWS[window]
    since = f"{datetime.fromisoformat(now.day) - timedelta(days=days):%Y-%m-%d}" if days else ""
    rows = [r for r in zip(now.days, now.curve(), now.held_market(), strict=True) if r[0] >= since]
    shown = now.shots[window]["equity"]
    assert shown["t"] == [f"{day}T00:00:00Z" for day, _, _ in rows]
    assert shown["equity"] == [money(v) for _, v, _ in rows]
    assert shown["benchmark"] == [money(v) for _, _, v in rows]
    if window == "all":
        assert shown["benchmark"][0] == CAPITAL, "the same start"


def test_positions(now: Seen) -> None:
    cash, values = now.book(now.day)
    worth, shown = cash + sum(values.values()), {p["asset"]: p for p in now.shots["all"]["positions"]}
    assert set(shown) == set(values)
    size, paid = defaultdict(float), defaultdict(float)  # paid: average cost of what is held, times its size
    for f in now.rows["fill"]:
        a, held = f["asset"], size[f["asset"]]
        paid[a] = paid[a] + f["size"] * f["price"] if f["size"] > 0 else paid[a] * (held + f["size"]) / held
        size[a] = held + f["size"]
        if abs(size[a]) < 1e-12:
            size[a] = paid[a] = 0.0
    for a, p in shown.items():
        mark = now.bars[now.day][a]
        assert p["size"] == near(size[a]) and p["mark_price"] == mark and p["entry_price"] == near(paid[a] / size[a])
        assert p["value"] == money(values[a]) and p["weight"] == near(values[a] / worth)
        assert p["pnl"] == money(values[a] - paid[a]) and p["pnl_pct"] == near(values[a] / paid[a] - 1)
    order = [p["value"] for p in now.shots["all"]["positions"]]
    assert order == sorted(order, reverse=True)


def test_the_day_of_each_position_adds_up_to_the_day(now: Seen) -> None:
    before = now.days[-2] if len(now.days) > 1 else None
    shown = {p["asset"]: p for p in now.shots["all"]["positions"]}
    _, values = now.book(now.day)
    _, held = now.book(before) if before else (0.0, {})
    gains = defaultdict(float, {a: values.get(a, 0.0) - held.get(a, 0.0) for a in {*values, *held}})
    for f in now.rows["fill"]:
        if f["day"] == now.day:
            gains[f["asset"]] -= f["size"] * f["price"] + f["fee"]
    for a, p in shown.items():
        assert p["pnl_day"] == money(gains[a])
    moved_after_close = before == CLOSED_BY_HAND  # its cost came between the two closes
    if not moved_after_close:
        assert sum(gains.values()) == money(now.shots["all"]["overview"]["pnl_day"])


def test_allocation(now: Seen) -> None:
    shown = {row["asset"]: row for row in now.shots["all"]["allocation"]}
    weights = dict(zip(now.market.columns, now.weights(now.day), strict=True))
    targets = {r["asset"]: r["weight"] for r in now.rows["target"] if r["ts"][:10] == now.day}
    assert set(shown) == set(targets) and sum(targets.values()) == near(1.0)
    assert {a: row["target"] for a, row in shown.items()} == targets
    assert {a: row["weight"] for a, row in shown.items()} == {a: near(w) for a, w in weights.items()}
    w = now.weights(now.day, hand=False)  # judged when the engine had traded
    covariance = np.cov(now.asset_returns(now.day, LOOKBACK), rowvar=False)
    shares = w * (covariance @ w) / (w @ covariance @ w)
    for asset, share in zip(now.market.columns, shares, strict=True):
        assert shown[asset]["risk_contribution"] == near(share)
    assert sum(row["risk_contribution"] for row in shown.values()) == near(1.0)


def variances(now: Seen, day: str) -> list[float]:
    """EWMA variance around zero of the equal-weight market after each of the last 756 returns."""
    out: list[float] = []
    for r in now.asset_returns(day, min(756, len(now.market.loc[:day]) - 1)).mean(axis=1):
        out.append(0.94 * out[-1] + 0.06 * r * r if out else r * r)
    return out


def regimes(now: Seen, day: str) -> list[str]:
    labels, path, label = [], variances(now, day), "normal"
    for i, v in enumerate(path):
        others = path[max(0, i - 503) : i]
        below, same = sum(o < v for o in others), sum(o == v for o in others)
        rank = (below + same / 2) / len(others) if others else 0.5
        if (label == "high" and rank <= 0.65) or (label == "low" and rank >= 0.35):
            label = "normal"
        if i >= 59 and rank > 0.8:
            label = "high"
        if i >= 59 and rank < 0.2:
            label = "low"
        labels.append(label)
    return labels


def test_regime_and_tolerance(now: Seen) -> None:
    labels = regimes(now, now.day)
    over = now.shots["all"]["overview"]
    first = max((i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), default=0)
    assert over["regime"] == labels[-1]
    assert over["regime_since"][:10] == f"{now.market.index[first + 1]:%Y-%m-%d}"
    if not now.shots["all"]["rebalancing"]["reason"].endswith("by hand"):
        wanted = WILD_TOLERANCE if labels[-1] == "high" else CALM_TOLERANCE
        assert {row["tolerance"] for row in now.shots["all"]["allocation"]} == {wanted}


def test_risk_score(now: Seen) -> None:
    x = track(now)
    wealth = np.cumprod(1 + x)
    fall = 1 - wealth[-1] / max(1.0, wealth.max())
    over, w = now.shots["all"]["overview"], now.weights(now.day, hand=False)
    expected = {"drawdown": min(fall / 0.20, 1.0), "concentration": min(w.max() / 0.50, 1.0)}
    if len(x) >= 60:
        windows = [np.std(x[i - 21 : i]) for i in range(21, len(x) + 1)]
        expected["volatility"] = sum(v < windows[-1] for v in windows[:-1]) / (len(windows) - 1)
        expected["tail"] = min(cvar(x, 0.05) / (0.20 - fall), 1.0) if fall < 0.20 else 1.0
    parts = {name: value for name, value in over["risk_score_parts"].items() if value is not None}
    assert parts == {name: near(value) for name, value in expected.items()}
    assert over["risk_score"] == near(100 * math.sqrt(sum(v * v for v in expected.values()) / len(expected)))


# ---- performance


def track(now: Seen, until: str | None = None) -> np.ndarray:
    """Returns of the portfolio, the first against the capital."""
    values = [CAPITAL, *now.curve(until)]
    return np.array(values[1:]) / np.array(values[:-1]) - 1


def cvar(x: np.ndarray, alpha: float) -> float:
    """Minus the mean of the worst alpha * n returns, the last of them in part."""
    worst, mass = sorted(x), alpha * len(x)
    whole = math.ceil(mass) - 1
    return -float(sum(worst[:whole]) + (mass - whole) * worst[whole]) / mass


def definitions(x: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Each metric as its formula says."""
    n, k = len(x), (1 + RATE) ** (1 / YEAR) - 1
    e, root = x - k, math.sqrt(YEAR)
    wealth = np.cumprod(1 + x)
    fall = np.array([w / max(1.0, wealth[: i + 1].max()) - 1 for i, w in enumerate(wealth)])
    mean, sd, m2 = x.mean(), x.std(ddof=1), x.var()
    skew, kurt = ((x - mean) ** 3).mean() / m2**1.5, ((x - mean) ** 4).mean() / m2**2 - 3
    down = math.sqrt((np.minimum(e, 0) ** 2).mean())
    s = e.mean() / sd
    se = math.sqrt((1 - skew * s + (kurt + 2) / 4 * s * s) / (n - 1))
    gains, losses = x[x > 0], -x[x < 0]
    growth, ulcer = wealth[-1] ** (YEAR / n) - 1, math.sqrt((fall**2).mean())
    longest = max(map(len, "".join("d" if d < 0 else " " for d in fall).split(" ")))
    slope = np.cov(x, b)[0, 1] / b.var(ddof=1)
    corr = np.corrcoef(x, b)[0, 1]
    gap = x - b
    z = -1.6448536269514722
    pdf = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    bend = kurt / 8 - skew**2 / 6
    rising = bend >= 0 and skew**2 / 9 <= 4 * bend * (1 - kurt / 8 + 5 * skew**2 / 36)
    zc = z + (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * kurt / 24 - (2 * z**3 - 5 * z) * skew**2 / 36
    z95 = 1.959963984540054
    return {
        "n_obs": n, "total_return": wealth[-1] - 1, "cagr": growth, "mean_annual": mean * YEAR,
        "volatility": sd * root, "downside_deviation": down * root, "skew": skew, "excess_kurtosis": kurt,
        "best": x.max(), "worst": x.min(), "sharpe": s * root, "sharpe_se": se * root,
        "sharpe_ci_low": (s - z95 * se) * root, "sharpe_ci_high": (s + z95 * se) * root,
        "psr_0": 0.5 * (1 + math.erf(s / se / math.sqrt(2))), "sortino": e.mean() / down * root,
        "omega": np.maximum(e, 0).sum() / np.maximum(-e, 0).sum(), "gain_to_pain": x.sum() / losses.sum(),
        "win_rate": len(gains) / (len(gains) + len(losses)), "profit_factor": gains.sum() / losses.sum(),
        "payoff_ratio": gains.mean() / losses.mean(),
        "tail_ratio": abs(np.quantile(x, 0.95)) / abs(np.quantile(x, 0.05)),
        "max_drawdown": -fall.min(), "calmar": growth / -fall.min(), "ulcer_index": ulcer,
        "martin_ratio": (growth - RATE) / ulcer, "pain_index": -fall.mean(), "max_drawdown_duration": longest,
        "time_under_water": (fall < 0).mean(), "var_historical": -sorted(x)[math.floor(0.05 * n)],
        "cvar_historical": cvar(x, 0.05), "var_linear": -np.quantile(x, 0.05),
        "var_gaussian": -(mean + z * math.sqrt(m2)), "cvar_gaussian": -mean + math.sqrt(m2) * pdf / 0.05,
        "var_cornish_fisher": -(mean + zc * math.sqrt(m2)), "cornish_fisher_valid": float(rising),
        "var_modified": -(mean + zc * math.sqrt(m2)) if rising else -sorted(x)[math.floor(0.05 * n)],
        "beta": slope, "alpha": YEAR * (e.mean() - slope * (b - k).mean()), "correlation": corr, "r_squared": corr**2,
        "tracking_error": gap.std(ddof=1) * root, "information_ratio": gap.mean() / gap.std(ddof=1) * root,
        "treynor": YEAR * e.mean() / slope, "up_capture": x[b > 0].mean() / b[b > 0].mean(),
        "down_capture": x[b < 0].mean() / b[b < 0].mean(), "batting_average": (gap > 0).mean(),
    }  # fmt: skip


def test_metrics_begin_at_the_capital_and_use_the_year_of_the_sample(now: Seen) -> None:
    if len(now.days) < 30:
        shown = {m["name"]: m["value"] for m in now.shots["all"]["metrics"]}
        assert shown["n_obs"] == len(now.days) and shown["total_return"] == near(now.curve()[-1] / CAPITAL - 1)
        return
    held = np.array([CAPITAL, *now.held_market()])
    expected = definitions(track(now), held[1:] / held[:-1] - 1)
    shot = now.shots["all"]
    assert (shot["periods_per_year"], shot["risk_free_rate"]) == (YEAR, RATE)
    assert {m["name"]: m["value"] for m in shot["metrics"]} == {name: near(v) for name, v in expected.items()}
    assert expected.keys() == REGISTRY.keys(), "every metric has a second opinion"
    assert expected["total_return"] == near(now.curve()[-1] / CAPITAL - 1)


# ---- decisions


def cost(amount: float) -> float:
    """What a trade at the mark loses: the price is worse by the slippage, and the fee is paid on that price."""
    if amount > 0:
        return amount * (1 + SLIP) * (1 + FEE) - amount
    return -amount - -amount * (1 - SLIP) * (1 - FEE)


def wanted_trades(values: dict[str, float], cash: float, target: dict[str, float]) -> dict[str, float]:
    """Amounts after which the book is at target once they are paid for, found by bisection."""
    worth = cash + sum(values.values())
    low, high = 0.9 * worth, worth
    for _ in range(200):
        after = (low + high) / 2
        left = worth - sum(cost(t * after - values.get(a, 0.0)) for a, t in target.items())
        low, high = (after, high) if left > after else (low, after)
    return {a: t * low - values.get(a, 0.0) for a, t in target.items()}


def affordable(full: dict[str, float], cash: float) -> dict[str, float]:
    """Without what is too small; buys shrunk to the cash there is."""
    kept = {a: m for a, m in full.items() if abs(m) >= MIN_TRADE}
    purse = cash + sum(-m - cost(m) for m in kept.values() if m < 0)
    while buys := {a: m for a, m in kept.items() if m > 0}:
        price = sum(m + cost(m) for m in buys.values())
        shrunk = {a: m * min(1.0, purse / price) for a, m in buys.items()}
        small = {a for a, m in shrunk.items() if m < MIN_TRADE}
        kept = {a: m for a, m in kept.items() if a not in small}
        if not small:
            return kept | shrunk
    return kept


def test_every_decision_from_what_was_held_before_it(seen: dict[str, Seen]) -> None:
    last = seen[STOPS[-1]]
    targets: dict[str, dict[str, float]] = defaultdict(dict)
    for row in last.rows["target"]:
        targets[row["ts"][:10]][row["asset"]] = row["weight"]
    traded = 0
    for row in last.rows["rebalance"]:
        decision, day = json.loads(row["decision"]), row["slot"][:10]
        if "recommendations" not in decision:
            continue  # by hand
        cash, values = last.book(day, before=True)
        worth = cash + sum(values.values())
        drift = {a: values.get(a, 0.0) / worth - t for a, t in targets[day].items()}
        tolerance = WILD_TOLERANCE if regimes(last, day)[-1] == "high" else CALM_TOLERANCE
        trades = not values or max(map(abs, drift.values())) > tolerance
        amounts = affordable(wanted_trades(values, cash, targets[day]), cash) if trades else {}
        assert (decision["rebalance"], decision["tolerance"]) == (trades, tolerance), day
        assert decision["estimated_cost"] == money(sum(map(cost, amounts.values())))
        for r in decision["recommendations"]:
            a, amount = r["asset"], amounts.get(r["asset"], 0.0)
            assert r["current_weight"] == near(values.get(a, 0.0) / worth) and r["target_weight"] == targets[day][a]
            assert r["drift"] == near(drift[a])
            assert (r["side"], r["amount_to_trade"]) == (side_of(amount), money(abs(amount))), (day, a)
            assert r["estimated_cost"] == money(cost(amount)) and r["use_twap"] == (abs(amount) > LARGE)
            times = abs(drift[a]) / tolerance
            assert r["urgency"] == "low medium high critical".split()[min(3, max(0, math.ceil(times) - 1))]
        traded += trades
        done = [f for f in last.rows["fill"] if f["rebalance_id"] == row["id"]]
        paid = sum(f["fee"] + f["slippage"] for f in done)
        assert paid == pytest.approx(decision["estimated_cost"], abs=1e-3), "what was expected is what it cost"
    assert traded > 5


def side_of(amount: float) -> str:
    return "buy" if amount > 0 else "sell" if amount < 0 else "hold"


def test_the_table_of_past_rebalances(now: Seen) -> None:
    shown = {row["slot"]: row for row in now.shots["all"]["rebalancing"]["history"]}
    by_slot = defaultdict(list)
    for f in now.rows["fill"]:
        slot = f["rebalance_id"].split("@")[1]
        by_slot[slot.replace("+00:00", "Z")].append(f)
    newest = sorted(by_slot, key=datetime.fromisoformat, reverse=True)[:20]
    assert list(shown) == newest
    for slot in newest:
        done = by_slot[slot]
        assert shown[slot]["trades"] == len({f["asset"] for f in done}), "slices of one order are one trade"
        assert shown[slot]["traded"] == money(sum(abs(f["size"]) * f["price"] for f in done))
        assert shown[slot]["fees"] == money(sum(abs(f["size"]) * f["price"] for f in done) * FEE)


# ---- the report


def test_the_report_shows_the_day_before_its_trades(now: Seen) -> None:
    cash, values = now.book(now.day, before=True)
    report, worth = now.report, cash + sum(values.values())
    assert report.value == money(worth) and f"{worth:,.2f} USD" in report.headline().text
    assert {a: p.value for a, p in report.positions.items()} == {a: money(v) for a, v in values.items()}
    slot = max((r for r in now.rows["rebalance"] if "recommendations" in r["decision"]), key=lambda r: r["slot"])
    decided = json.loads(slot["decision"])
    outcome = report.result()
    assert outcome["rebalance"] == decided["rebalance"] and outcome["estimated_cost"] == money(decided["estimated_cost"])
    assert {t["asset"]: t["amount"] for t in outcome["trades"]} == {
        r["asset"]: money(r["amount_to_trade"]) for r in decided["recommendations"] if r["side"] != "hold"
    }
    for r in decided["recommendations"]:
        cells = f"<td>{r['asset']}</td><td class=n>{r['current_weight']:.2%}</td><td class=n>{r['target_weight']:.2%}</td>"
        assert cells in report.drift_table().text


def test_the_report_says_which_year_it_counts_with_and_never_minus_zero(now: Seen) -> None:
    text = now.report.provenance().text
    assert "<td>periods per year</td><td>252</td>" in text and "<td>risk-free rate</td><td>2.00%</td>" in text
    if now.day not in (STOPS[0], STOPS[-1]):
        return  # a figure takes its time
    peak = max(CAPITAL, *now.curve())
    assert f"since the start it is {abs(1 - now.curve()[-1] / peak):.2%}." in now.report.equity_figure().text
    assert "-0.00%" not in now.report.equity_figure().text


# ---- alerts


def test_alerts_name_the_numbers_of_their_day(seen: dict[str, Seen]) -> None:
    last = seen[STOPS[-1]]
    met = set()
    for row in last.rows["alert_event"]:
        event = json.loads(row["payload"])
        title = re.match(r"[A-Za-z ]+?(?= [-\d])", event["message"])
        if title is None or event["kind"] not in ("fired", "escalated"):
            continue
        day = event["at"][:10]
        x, w = track(last, day), last.weights(day, hand=False)
        wealth, book = np.cumprod(1 + x), last.asset_returns(day, LOOKBACK) @ w
        recent = x[-30:] - ((1 + RATE) ** (1 / YEAR) - 1)
        covariance = np.cov(last.asset_returns(day, LOOKBACK), rowvar=False)
        expected = {
            "Drawdown": 1 - wealth[-1] / max(1.0, wealth.max()),
            "Largest weight": w.max(),
            "Effective assets": w.sum() ** 2 / (w @ w),
            "Largest share of risk": (w * (covariance @ w)).max() / (w @ covariance @ w),
            "Loss of the day": -x[-1],
            "Sharpe ratio": recent.mean() / recent.std(ddof=1) * math.sqrt(YEAR),
            "Value at risk": -sorted(book)[math.floor(0.05 * len(book))],
            "Volatility ratio": book[-10:].std(ddof=1) / book.std(ddof=1),
        }
        name = title.group()
        if name in expected:
            met.add(name)
            assert event["value"] == near(expected[name]), (name, day)
            share = name in ("Drawdown", "Largest weight", "Largest share of risk", "Loss of the day", "Value at risk")
            said = f"{100 * event['value']:.1f} %" if share else f"{event['value']:.4g}"
            assert event["message"].startswith(f"{name} {said}, at or")
    assert met >= {"Drawdown", "Largest weight", "Largest share of risk", "Loss of the day", "Value at risk"}


# ---- the command line


def test_the_back_test_and_the_weights_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    csv = tmp_path / "equity.csv"
    made = CliRunner().invoke(app, ["backtest", "sample", "--start", "2022-09-01", "--csv", str(csv), "--json"])
    assert made.exit_code == 0, made.output
    curve = pd.read_csv(csv, index_col=0)["equity"].to_numpy()
    closes = sample_prices().loc["2022-09-01":].to_numpy()  # type: ignore[misc]
    bought = (1 + 0.0005) * (1 + 0.00045)  # what a purchase costs: slippage, and the fee on it
    held = np.array([1.0, *(closes / closes[0]).mean(axis=1) / bought])
    values = np.array([CAPITAL, *curve])
    expected = definitions(values[1:] / values[:-1] - 1, held[1:] / held[:-1] - 1)
    shown = {name: value for name, value in json.loads(made.stdout).items() if not name.startswith("judgement.")}
    won = shown.pop("batting_average"), expected.pop("batting_average")  # both pay the same on the first day: a tie, or rounding
    assert abs(won[0] - won[1]) <= 1.01 / len(curve)
    assert shown == {name: near(value) for name, value in expected.items()}
    assert curve[0] < CAPITAL, "the first purchase costs something"
    made = CliRunner().invoke(app, ["weights", "sample", "--lookback", "60"], env={"COLUMNS": "160"})
    closes = sample_prices().to_numpy()[-61:]
    covariance = np.cov(closes[1:] / closes[:-1] - 1, rowvar=False)
    equal = math.sqrt(covariance.mean() * YEAR)
    inverse = 1 / np.diag(covariance) / (1 / np.diag(covariance)).sum()
    row = re.search(r"annual_volatility.*", made.stdout)
    assert row is not None and f"{equal:.4g}" in row.group()
    assert f"{math.sqrt(inverse @ covariance @ inverse * YEAR):.4g}" in row.group()
