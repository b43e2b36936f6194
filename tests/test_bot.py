"""The bot: what it is made of, what it records, and what it does when something is wrong."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engine_runs import market, rows, run, settings
from sqlalchemy import update

from portfolio_research.calendars import check_rows
from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.engine import wiring
from portfolio_research.engine.bot import HyperliquidTradingBot
from portfolio_research.engine.supervisor import Halted, RestartPolicy
from portfolio_research.market.feeds import ReplayFeed
from portfolio_research.market.hyperliquid import HyperliquidFeed
from portfolio_research.store import Store, ledger, schema, telemetry
from portfolio_research.store.outbox import StoreSink
from portfolio_research.store.snapshot import build_snapshot

AT_ONCE = RestartPolicy(first_delay=0.0, max_restarts=2)
PRICES = market(5, bars=75)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    with Store.open(tmp_path / "portfolio.db", durable=False) as opened:
        yield opened


def test_live_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="not available in this version.*engine.mode: paper"):
        HyperliquidTradingBot(Settings(engine={"mode": "live"}))  # type: ignore[arg-type]


def test_it_has_the_parts_and_writes_what_the_snapshot_shows(store: Store) -> None:
    bot = run(settings(), PRICES, store)
    parts = "hrp_optimizer portfolio_analytics portfolio_monitor risk_manager data_collector order_executor".split()
    assert all(getattr(bot, part) is not None for part in [*parts, "advanced_executor"])
    assert bot.dashboard_manager is None
    picture = build_snapshot(store, "main", window="all")
    assert picture["engine"]["state"] == "stopped"
    assert len(picture["equity"]["t"]) == 15 and len(picture["positions"]) == 6
    assert picture["overview"]["risk_score"] is not None and picture["overview"]["regime"] in ("low", "normal", "high")
    assert abs(sum(row["risk_contribution"] for row in picture["allocation"]) - 1) < 1e-9
    assert {metric["name"] for metric in picture["metrics"]} >= {"total_return", "sharpe"}
    assert sum(row["weight"] for row in picture["allocation"]) == pytest.approx(1.0, abs=1e-6)


def test_a_second_start_at_the_end_changes_nothing(store: Store, tmp_path: Path) -> None:
    run(settings(), PRICES, store)
    tables = ("order", "fill", "equity", "rebalance", "alert_event", "target")
    before = [rows(tmp_path / "portfolio.db", table) for table in tables]
    run(settings(), PRICES, store)
    assert [rows(tmp_path / "portfolio.db", table) for table in tables] == before


def test_more_prices_continue_where_it_ended(store: Store, tmp_path: Path) -> None:
    start = PRICES.index[60].to_pydatetime()
    run(settings(), PRICES.iloc[:68], store, start=start)
    run(settings(), PRICES, store, start=start)
    with Store.open(tmp_path / "whole.db", durable=False) as whole:
        run(settings(), PRICES, whole, start=start)
    for table in ("order", "fill", "equity", "alert_event"):
        assert rows(tmp_path / "portfolio.db", table) == rows(tmp_path / "whole.db", table), table


def test_a_restart_takes_up_the_leaf_order_and_what_is_held(store: Store, tmp_path: Path) -> None:
    patient = settings({"order_tolerance": 0.2, "trading_cost": 0.001}, tolerance=0.02)
    start = PRICES.index[60].to_pydatetime()
    whole, forgetful = (Store.open(tmp_path / f"{name}.db", durable=False) for name in ("whole", "forgetful"))
    run(patient, PRICES.iloc[:70], whole, start=start)
    for each in (store, forgetful):
        run(patient, PRICES.iloc[:66], each, start=start)
    with forgetful.begin() as conn:
        conn.execute(update(schema.target).values(place=None))
    for each in (store, forgetful):
        run(patient, PRICES.iloc[:70], each, start=start)
    targets = {path.stem: rows(path, "target") for path in tmp_path.glob("*.db")}
    assert targets["portfolio"] == targets["whole"] != targets["forgetful"]
    assert rows(tmp_path / "portfolio.db", "fill") == rows(tmp_path / "whole.db", "fill")
    given = [row["weight"] for row in targets["whole"]], [row["weight"] for row in targets["forgetful"]]
    assert np.abs(np.subtract(*given)).max() > 1e-3


def test_bounds_that_cannot_be_kept_halt_at_once_and_are_named(store: Store) -> None:
    with pytest.raises(Halted, match="OptimizationError: max_weight of .*leave only 0.6 of 1"):
        run(settings({"max_weight": 0.1}), PRICES, store)


def test_what_is_held_is_said_as_it_stands_before_the_trade(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[pd.Series | None] = []

    def listening(bot: HyperliquidTradingBot) -> None:
        fit = bot.hrp_optimizer.fit

        def listen(returns: pd.DataFrame, *, previous_weights: object = None, previous_order: object = None) -> object:
            heard.append(None if previous_weights is None else pd.Series(previous_weights))
            return fit(returns)

        monkeypatch.setattr(bot.hrp_optimizer, "fit", listen)

    run(settings({"trading_cost": 0.001}), PRICES.iloc[:63], store, prepare=listening)
    with store.read() as conn:
        first = telemetry.equity(conn, "main")[0]
        fills = [(fill.asset, float(fill.size)) for fill in ledger.fills(conn, "main") if fill.ts == first.ts]
    cash, bought = first.cash, pd.DataFrame(fills, columns=["asset", "size"]).groupby("asset")["size"].sum()
    values = bought * PRICES.iloc[61]  # of the second bar: bought on the first, drifted since
    assert heard[0] is None
    pd.testing.assert_series_equal(heard[1].sort_index(), (values / (values.sum() + cash)).sort_index(),
                                   rtol=1e-12, check_names=False)


def test_prices_of_other_assets_are_refused_and_change_nothing(store: Store, tmp_path: Path) -> None:
    run(settings(), PRICES, store)
    before = rows(tmp_path / "portfolio.db", "portfolio"), rows(tmp_path / "portfolio.db", "equity")
    others = PRICES.rename(columns={"A1": "B1", "A4": "B4"})
    with pytest.raises(ConfigError, match="portfolio main holds A1, A4, and price frame has no prices.*--fresh"):
        run(settings(), others, store)
    assert (rows(tmp_path / "portfolio.db", "portfolio"), rows(tmp_path / "portfolio.db", "equity")) == before


def test_rebalancing_off_trades_nothing(store: Store, tmp_path: Path) -> None:
    run(settings(enabled=False), PRICES, store)
    assert not rows(tmp_path / "portfolio.db", "order") and len(rows(tmp_path / "portfolio.db", "equity")) == 15


def test_an_interval_of_days_decides_that_often(store: Store) -> None:
    run(settings(interval_hours=72), PRICES, store)
    with store.read() as conn:
        slots = [row.slot for row in ledger.rebalances(conn, "main")]
    assert [slot.day for slot in slots[::-1]] == [1, 4, 7, 10, 13]


def decided_on(store: Store) -> list[pd.Timestamp]:
    """The bars on which it was decided, oldest first."""
    with store.read() as conn:
        return [pd.Timestamp(row.slot) for row in ledger.rebalances(conn, "main")][::-1]


@pytest.mark.parametrize(("frequency", "slots"), [("weekly", 7), ("monthly", 2), ("quarterly", 2)])
def test_a_frequency_decides_once_in_each_slot_of_the_calendar(store: Store, frequency: str, slots: int) -> None:
    prices = market(7, bars=100)  # from 2020-03-01 on
    run(settings(frequency=frequency, interval_hours=1e6), prices, store)
    expected = prices.index[check_rows(prices.index, frequency, first=60)]
    assert decided_on(store) == expected.tolist() and len(expected) == slots


def test_missed_slots_are_one_decision_and_a_restart_knows_the_last_one(store: Store) -> None:
    prices = market(7, bars=200)
    gap = prices[(prices.index < "2020-03-10") | (prices.index >= "2020-06-17")]  # nothing ran for three months
    monthly, start = settings(frequency="monthly"), prices.index[60].to_pydatetime()
    for bars in (62, 69, 75, len(gap)):  # stopped and started again within a slot, across one, and after the gap
        run(monthly, gap.iloc[:bars], store, start=start)
    assert [f"{slot:%m-%d}" for slot in decided_on(store)] == ["03-01", "06-17", "07-01"]


def test_a_limit_that_stops_an_order_makes_the_rebalance_partial(store: Store) -> None:
    wanted = settings()
    risky = wanted.portfolio.model_copy(
        update={"risk": wanted.portfolio.risk.model_copy(update={"max_position_weight": 0.05})}
    )
    run(wanted.model_copy(update={"portfolio": risky}), PRICES.iloc[:61], store)
    with store.read() as conn:
        (row,) = ledger.rebalances(conn, "main")
    assert row.state == "partial" and "max_position_weight" in row.reason


def test_a_halted_risk_manager_keeps_everything_but_the_orders(store: Store, tmp_path: Path) -> None:
    run(settings(), PRICES, store, prepare=lambda bot: bot.risk_manager.halt("drill"))
    assert not rows(tmp_path / "portfolio.db", "order") and len(rows(tmp_path / "portfolio.db", "equity")) == 15


def test_a_loop_that_cannot_work_halts_with_a_critical_alert(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bot: HyperliquidTradingBot) -> None:
        def fit(returns: pd.DataFrame) -> None:
            raise ArithmeticError("singular matrix")

        monkeypatch.setattr(bot.hrp_optimizer, "fit", fit)

    with pytest.raises(Halted, match="model loop: ArithmeticError: singular matrix"):
        run(settings(), PRICES, store, prepare=broken, restart=AT_ONCE)
    with store.read() as conn:
        beat = telemetry.heartbeats(conn, "main")["engine"]
    assert beat.state == "halted" and "singular matrix" in beat.detail
    alerts = [a for a in StoreSink(store, "main").load().values() if a.rule == "engine-halted"]
    assert [(a.state, a.severity.value) for a in alerts] == [("firing", "critical")]
    assert "singular matrix" in alerts[0].message


def test_a_loop_that_recovers_goes_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flaky(bot: HyperliquidTradingBot) -> None:
        fit, left = bot.hrp_optimizer.fit, [2]

        def sometimes(returns: pd.DataFrame) -> object:
            if left[0]:
                left[0] -= 1
                raise ArithmeticError("not yet")
            return fit(returns)

        monkeypatch.setattr(bot.hrp_optimizer, "fit", sometimes)

    run(settings(), PRICES, store, prepare=flaky, restart=AT_ONCE)
    assert len(rows(tmp_path / "portfolio.db", "equity")) == 15


def test_a_hole_in_the_prices_halts_and_names_the_asset(store: Store) -> None:
    holed = PRICES.copy()
    holed.iloc[40, 2] = np.nan
    with pytest.raises(Halted, match="A2"):
        run(settings(), holed, store, restart=AT_ONCE)


def test_stop_ends_a_slow_replay_at_once(store: Store) -> None:
    feed = ReplayFeed(PRICES, start=PRICES.index[60].to_pydatetime(), speed=0.001)

    async def scenario() -> None:
        bot = HyperliquidTradingBot(settings(), feed=feed, store=store)
        running = asyncio.create_task(bot.start())
        await asyncio.sleep(0.05)
        await bot.stop()
        await running

    asyncio.run(scenario())
    with store.read() as conn:
        assert telemetry.heartbeats(conn, "main")["engine"].state == "stopped"


def test_a_dashboard_that_is_handed_in_is_started_and_stopped(store: Store) -> None:
    class Dashboard:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def start(self) -> None:
            self.calls.append("start")

        def stop(self) -> None:
            self.calls.append("stop")

    dashboard = Dashboard()
    run(settings(), PRICES.iloc[:61], store, dashboard=dashboard)
    assert dashboard.calls == ["start", "stop"]


# from settings to a feed


def csv_settings(folder: Path, prices: pd.DataFrame, assets: tuple[str, ...] = (), **data: str) -> Settings:
    prices.to_csv(folder / "prices.csv")
    source = {"source": "csv", "path": folder / "prices.csv", **data}
    portfolio = {"rebalancing": {"lookback": 60}, "assets": list(assets)}
    return Settings(portfolio=portfolio, data=source)  # type: ignore[arg-type]


def test_the_sample_begins_half_a_year_before_february_2020() -> None:
    feed = wiring.make_feed(Settings())
    assert isinstance(feed, ReplayFeed) and len(feed.assets) == 20
    assert f"{feed.start:%F} {feed.live_from:%F}" == "2019-08-01 2020-02-03"


def test_a_file_begins_where_its_lookback_ends(tmp_path: Path) -> None:
    feed = wiring.make_feed(csv_settings(tmp_path, PRICES, assets=("A1", "A3")))
    assert isinstance(feed, ReplayFeed) and feed.assets == ["A1", "A3"] and feed.source == "prices.csv"
    assert (feed.start, feed.live_from) == (PRICES.index[60], PRICES.index[-1])


def test_what_the_gate_did_to_a_file_stands_in_every_report(tmp_path: Path, store: Store) -> None:
    stable = 1 + 0.001 * np.sin(np.arange(len(PRICES)))
    wanted = csv_settings(tmp_path, PRICES.assign(USDT=stable))
    feed = wiring.make_feed(wanted)
    told = ("Left out: USDT (stablecoin)", "Kept, with a warning: the table (rows)")
    assert isinstance(feed, ReplayFeed) and feed.notes == told
    bot = HyperliquidTradingBot(wanted, feed=feed, store=store)
    assert bot._report()["data_notes"] == list(told)
    assert wiring.make_feed(Settings()).notes == ()  # type: ignore[attr-defined]


def test_an_engine_does_not_hold_what_has_ended(tmp_path: Path) -> None:
    prices = PRICES.copy()
    prices.iloc[70:, 1] = np.nan
    with pytest.raises(DataError, match="A1 from .*its last price is of .*ended: refuse.*ended: drop"):
        wiring.make_feed(csv_settings(tmp_path, prices))
    wanted = csv_settings(tmp_path, prices)
    left = wanted.model_copy(update={"data": wanted.data.model_copy(update={"quality": {"ended": "drop"}})})
    feed = wiring.make_feed(left)
    assert isinstance(feed, ReplayFeed) and "A1" not in feed.assets and feed.notes[0].startswith("Left out: A1 (ended)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assets": ("A1", "XX")}, "portfolio.assets: the prices have no XX"),
        ({"start": "2020-01-05"}, "data.start 2020-01-05 is too early: 60 returns"),
        ({"start": "2031-01-01"}, "data.start 2031-01-01 is outside the prices"),
        ({"live_from": "soon"}, "data.live_from is 'soon': write a date"),
    ],
)
def test_dates_and_assets_that_do_not_fit_are_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wiring.make_feed(csv_settings(tmp_path, PRICES, **options))  # type: ignore[arg-type]


def test_too_few_bars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 bars of prices; a lookback of 60"):
        wiring.make_feed(csv_settings(tmp_path, PRICES.iloc[:40]))


def test_hyperliquid_asks_nobody_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    wanted = Settings(data={"source": "hyperliquid", "base_url": "http://127.0.0.1:1"})  # type: ignore[arg-type]
    assert isinstance(wiring.make_feed(wanted), HyperliquidFeed)
