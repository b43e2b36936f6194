"""The back-test: golden values, no look ahead, and a ledger that balances."""
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS, LedoitWolf

from portfolio_research.backtest import (
    REGIME_HISTORY,
    BacktestResult,
    follow,
    market_regime,
    walk_forward,
)
from portfolio_research.config import ConfigError, DataError, Settings
from portfolio_research.costs import Costs, Liquidity, trade_costs
from portfolio_research.covariance import DenoisedCovariance, DetonedCovariance, EWMACovariance
from portfolio_research.data import sample_prices, to_returns
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.metrics import REGISTRY, report
from portfolio_research.rebalancing import Policy, as_positions, covariance_for, decide
from portfolio_research.regimes import current_regime
from portfolio_research.targets import InverseVariance, optimizer_from, refit, target_path
from portfolio_research.trials import TrialLedger

ROOT = Path(__file__).parents[1]


def market(rows: int = 90, assets: int = 4, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    own = rng.uniform(0.01, 0.03, assets) * rng.standard_normal((rows, assets))
    moves = 0.01 * rng.standard_normal((rows, 1)) + own
    return pd.DataFrame(100 * np.exp(np.cumsum(moves, axis=0)), columns=[f"A{i}" for i in range(assets)],
                        index=pd.date_range("2022-01-01", periods=rows, tz="UTC", name="date"))


class EqualWeight:
    """Not a scikit-learn estimator: anything with fit and weights_ will do."""

    def fit(self, returns: pd.DataFrame) -> "EqualWeight":
        self.weights_ = np.full(returns.shape[1], 1 / returns.shape[1])
        return self


def balances(result: BacktestResult, prices: pd.DataFrame, capital: float = 1.0) -> None:
    """Equity from the recorded trades, costs, funding and deposits alone, one row after the other."""
    units, cash, equity = np.zeros(prices.shape[1]), capital, []
    for date in result.nav.index:
        close = prices.loc[date].to_numpy()
        cash += result.deposits[date] - result.funding[date]
        if date in result.amounts.index:
            amounts = result.amounts.loc[date].to_numpy()
            units = units + amounts / close
            cash -= amounts.sum() + result.costs[date]
        equity.append(cash + units @ close)
    np.testing.assert_allclose(result.equity, equity, rtol=1e-12)


# ------------------------------------------------------------------ walk-forward
@pytest.mark.parametrize("case", range(6))
def test_golden(case: int, test_data: Path) -> None:
    golden = json.loads((test_data / "walkforward_golden.json").read_text())
    values, want = np.array(golden["prices"]), golden["cases"][case]
    prices = pd.DataFrame(values, pd.date_range("2020-01-01", periods=len(values), tz="UTC"),
                          [f"A{i}" for i in range(values.shape[1])])
    got = walk_forward(prices, HierarchicalRiskParity(distance="direct"), **want["params"])
    first = want["params"]["lookback"]
    assert len(got.weights) == want["n_checks"]
    assert [prices.index.get_loc(d) for d in got.turnover.index] == want["trade_rows"]
    np.testing.assert_allclose(got.turnover, want["turnover"], rtol=1e-10)
    np.testing.assert_allclose(got.costs, want["fees"], rtol=1e-10)
    np.testing.assert_allclose(got.nav.to_numpy()[np.array(want["nav_rows"]) - first], want["nav"], rtol=1e-10)
    assert got.nav.sum() == pytest.approx(want["nav_sum"], rel=1e-10)
    np.testing.assert_allclose(got.weights.to_numpy()[want["target_checks"]], want["targets"], atol=1e-12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 99), st.integers(1, 12), st.sampled_from([0.0, 0.001, 0.05]), st.sampled_from([0.0, 0.02]))
def test_value_is_conserved(seed: int, step: int, cost: float, band: float) -> None:
    prices = market(60, 3, seed)
    result = walk_forward(prices, lookback=20, step=step, cost=cost, band=band)
    balances(result, prices)
    assert len(result.nav) == 40 and result.equity.equals(result.nav.rename("equity")) and not result.funding.any()
    assert result.nav.iloc[0] == pytest.approx(1 - cost)


@pytest.mark.filterwarnings("ignore:.*move as one")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 99), st.integers(21, 58), st.integers(1, 9), st.sampled_from([0.0, 0.02]))
def test_the_future_changes_nothing(seed: int, t: int, step: int, band: float) -> None:
    prices = market(60, 3, seed)
    other = prices.copy()
    other.iloc[t + 1 :] *= np.random.default_rng(seed + 1).uniform(0.3, 3.0, other.iloc[t + 1 :].shape)
    a, b = (walk_forward(p, lookback=20, step=step, cost=0.001, band=band) for p in (prices, other))
    until = prices.index[t]
    for name in ("nav", "weights", "amounts", "turnover", "costs"):
        assert getattr(a, name).loc[:until].equals(getattr(b, name).loc[:until]), name
    cut = walk_forward(prices.iloc[: t + 1], lookback=20, step=step, cost=0.001, band=band)
    np.testing.assert_allclose(cut.nav, a.nav.loc[:until], rtol=1e-13)


def test_any_estimator_and_the_users_is_left_alone() -> None:
    prices, mine = market(), HierarchicalRiskParity()
    walk_forward(prices, mine, lookback=30, step=10)
    assert not hasattr(mine, "weights_")
    equal = walk_forward(prices, EqualWeight(), lookback=30)
    want = to_returns(prices).iloc[30:].mean(axis=1)  # equal weights every row: the mean return
    np.testing.assert_allclose(equal.returns.iloc[1:], want, rtol=1e-9)


def test_a_band_trades_less() -> None:
    prices = market(200)
    every, banded = (walk_forward(prices, lookback=50, band=b, cost=0.001) for b in (0.0, 0.05))
    assert len(every.turnover) == 150 > len(banded.turnover) > 1
    assert len(every.trades) == 150 * 4


def test_walk_forward_refuses_nonsense() -> None:
    prices = market()
    for bad in ({"cost": -0.1}, {"cost": 0.5}, {"band": 1.0}, {"band": float("nan")}):
        with pytest.raises(ConfigError, match="cost is"):
            walk_forward(prices, lookback=20, **bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0"):
        walk_forward(prices, lookback=20, step=0)
    for rest, said in (({"policy": Policy(), "cost": 0.001}, "one of the two"), ({"execution": "later"}, "'close'"),
                       ({"costs": Costs(), "execution": "next"}, "goes with cost and band"), ({"capital": 0}, "capital is 0"),
                       ({"delisting_return": -1.0}, "delisting_return"), ({"min_history": 1}, "min_history")):
        with pytest.raises(ConfigError, match=said):
            walk_forward(prices, lookback=20, **rest)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lookback is 1"):
        walk_forward(prices, lookback=1)
    with pytest.raises(DataError, match="at least 91 rows"):
        walk_forward(prices, lookback=90)
    with pytest.raises(DataError, match="two rows|1 rows"):
        walk_forward(prices.iloc[:1], lookback=20)
    prices.iloc[:5] = np.nan
    with pytest.raises(DataError, match="no asset has 20 returns in the 20 before 2022-01-21"):
        walk_forward(prices, lookback=20)


# ------------------------------------------------------------------ what an estimator is told
class Listener:
    """Keeps what it was told; buys the first asset, then the second, then all alike."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, float] | None, list[str] | None]] = []

    def fit(self, returns: pd.DataFrame, *, previous_weights: object = None, previous_order: object = None) -> "Listener":
        self.heard.append((previous_weights, previous_order))
        weights = np.full(returns.shape[1], 1 / returns.shape[1]) if len(self.heard) > 2 else np.zeros(returns.shape[1])
        if len(self.heard) <= 2:
            weights[len(self.heard) - 1] = 1.0
        self.weights_, self.order_ = pd.Series(weights, returns.columns), list(returns.columns[: len(self.heard)])
        return self


def test_held_weights_are_the_drifted_ones_of_the_close_before_the_trade() -> None:
    prices, said = market(63, 4), Listener()
    said.__sklearn_clone__ = lambda: said  # type: ignore[attr-defined]  # the back-test would copy it
    walk_forward(prices, said, lookback=60, step=1, cost=0.001)
    assert said.heard[0] == (None, None)  # nothing is held yet, and nothing was fitted
    assert said.heard[1] == (pytest.approx({"A0": 1.0}), ["A0"])
    assert said.heard[2] == (pytest.approx({"A1": 1.0}), ["A0", "A1"])  # what was sold is gone, not a dust of it


def test_only_what_fit_asks_for_is_handed_on() -> None:
    class Ordered(EqualWeight):
        def fit(self, returns: pd.DataFrame, previous_order: object = None) -> "EqualWeight":
            self.told = previous_order
            return super().fit(returns)

    returns, model = to_returns(market()), Ordered()
    held = pd.Series(0.25, returns.columns)
    refit(model, returns, held=held, order=["A0"])
    assert model.told == ["A0"]
    assert (refit(EqualWeight(), returns, held=held, order=["A0"]) == 0.25).all()
    plain = HierarchicalRiskParity().fit(returns)
    idle = HierarchicalRiskParity()
    assert refit(idle, returns, held=held, order=plain.order_[::-1]).equals(plain.weights_)
    assert "turnover" not in idle.diagnostics_  # what would change nothing is not worked out
    active = HierarchicalRiskParity(order_tolerance=9.0, trading_cost=1e-9)
    refit(active, returns, held=held, order=plain.order_[::-1])
    assert active.order_ == plain.order_[::-1] and "turnover" in active.diagnostics_


@pytest.mark.parametrize("step", [5, 21])
def test_turnover_control_is_the_loop_one_would_write(step: int) -> None:
    prices = sample_prices().loc["2019":"2020"]
    options = {"order_tolerance": 0.01, "trading_cost": 0.001, "max_weight": 0.15, "merge_correlated": 0.9}
    result = walk_forward(prices, HierarchicalRiskParity(**options), lookback=252, step=step, cost=0.001)
    returns, held, order, cash = to_returns(prices), None, None, 1.0
    for row in range(252, len(prices), step):
        if held is not None:
            grown = held * (prices.iloc[row] / prices.iloc[row - step])  # values of the book
            held = grown / grown.sum()
            cash = float(grown.sum())
        model = HierarchicalRiskParity(**options)
        model.fit(returns.iloc[row - 252 : row], previous_weights=held, previous_order=order)
        weights, order = model.weights_, model.order_
        traded = float((weights - (0.0 if held is None else held)).abs().sum())
        cash *= 1 - 0.001 * traded
        held = weights * cash
        when = prices.index[row]
        np.testing.assert_allclose(result.weights.loc[when], weights, atol=1e-12)
        assert result.turnover[when] == pytest.approx(traded, abs=1e-12)
        assert result.nav[when] == pytest.approx(cash, rel=1e-12)
    plain = walk_forward(prices, lookback=252, step=step, cost=0.001)
    assert result.turnover.iloc[1:].sum() < 0.5 * plain.turnover.iloc[1:].sum()
    assert result.weights.max().max() <= 0.15 + 1e-9


# ------------------------------------------------------------------ the configured estimator
COVARIANCES = {"ledoit_wolf": LedoitWolf, "oas": OAS, "ewma": EWMACovariance, "denoised": DenoisedCovariance,
               "detoned": DetonedCovariance}


def test_the_default_configuration_is_the_paper() -> None:
    assert optimizer_from(Settings()).get_params() == HierarchicalRiskParity().get_params()


@pytest.mark.parametrize("name", COVARIANCES)
def test_a_covariance_is_chosen_by_name(name: str) -> None:
    chosen = optimizer_from(Settings(portfolio={"optimizer": {"covariance": name}}))  # type: ignore[arg-type]
    assert type(chosen.covariance) is COVARIANCES[name]
    returns = to_returns(market())
    assert chosen.fit(returns).weights_.equals(HierarchicalRiskParity(covariance=COVARIANCES[name]()).fit(returns).weights_)


def test_every_option_arrives() -> None:
    given = {
        "distance": "direct", "linkage": "ward", "order": "optimal", "codependence": "kendall", "treat_as_cash": ["A3"],
        "min_volatility": 1e-4, "merge_correlated": 0.99, "min_weight": {"A0": 0.1}, "max_weight": 0.8,
        "groups": {"A0": "g", "A1": ["g", "h"]}, "group_min": {"g": 0.2}, "group_max": {"h": 0.5}, "max_risk_share": 0.6,
        "order_tolerance": 0.02, "trading_cost": 0.002, "risk_aversion": 3.0, "holding_periods": 21.0,
    }
    chosen = optimizer_from(Settings(portfolio={"optimizer": given})).get_params()  # type: ignore[arg-type]
    assert chosen == HierarchicalRiskParity(**given | {"treat_as_cash": ("A3",)}).get_params()


# ------------------------------------------------------------------ the bot's rules
@pytest.mark.parametrize("options", [
    {}, {"tolerance_mode": "relative", "trade_to": "edge"}, {"tolerance_mode": "risk", "trade_to": "halfway"},
    {"tolerance_mode": "cost_aware"}, {"max_position": 0.3}, {"impact": 1.0},
], ids=lambda options: "-".join(map(str, options.values())) or "seed")  # fmt: skip
def test_the_bot_is_the_decision_function_bar_by_bar(options: dict[str, Any]) -> None:
    impact = options.get("impact", 0.0)
    policy = Policy(tolerance=0.02, high_volatility_tolerance=0.01, **{k: v for k, v in options.items() if k != "impact"})
    prices, costs = market(140), Costs(0.001, 0.002, impact=impact)
    volume = prices * 0.0 + 50_000.0
    given = {"volume": volume} if impact else {}
    result = walk_forward(prices, policy=policy, costs=costs, lookback=40, capital=10_000.0, **given)  # type: ignore
    returns, assets = to_returns(prices), list(prices.columns)
    units, cash, decided = np.zeros(4), 10_000.0, []
    for date in result.nav.index:  # a second book-keeping, from the contract of the engine
        close = prices.loc[date].to_numpy()
        known = returns.loc[:date]
        regime = current_regime(known.iloc[-REGIME_HISTORY:].mean(axis=1))["volatility_regime"]
        target = HierarchicalRiskParity().fit(known.iloc[-40:]).weights_
        window = known.iloc[-40:]
        liquid = Liquidity(volume.loc[date].to_numpy(), window.std().to_numpy(), assets) if impact else None
        made = decide(as_positions(dict(zip(assets, units * close, strict=True)), cash=cash), target, policy=policy,
                      costs=costs, regime=str(regime), covariance=covariance_for(policy, window), liquidity=liquid)
        if made.rebalance:
            decided.append(date)
            amounts = np.array([r.signed_amount for r in made.recommendations])
            units = units + amounts / close
            cash -= amounts.sum() + trade_costs(amounts, costs, liquid).sum()
            assert result.decisions[date].regime == made.regime
        assert result.equity[date] == pytest.approx(cash + units @ close, rel=1e-12)
    assert list(result.costs.index) == decided and 1 < len(decided) <= len(result.nav)
    balances(result, prices, 10_000.0)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 99), st.integers(31, 58))
def test_the_bot_does_not_look_ahead(seed: int, t: int) -> None:
    prices = market(60, 3, seed)
    other = prices.copy()
    other.iloc[t + 1 :] *= np.random.default_rng(seed).uniform(0.3, 3.0, other.iloc[t + 1 :].shape)
    a, b = (walk_forward(p, policy=Policy(tolerance=0.02), lookback=30) for p in (prices, other))
    until = prices.index[t]
    assert a.nav.loc[:until].equals(b.nav.loc[:until]) and a.amounts.loc[:until].equals(b.amounts.loc[:until])
    assert a.decisions.loc[:until].to_list() == b.decisions.loc[:until].to_list()


def test_start_and_capital() -> None:
    prices, policy = market(), Policy()
    result = walk_forward(prices, lookback=30, start="2022-03-01", capital=5_000.0, policy=policy)
    assert result.nav.index[0] == pd.Timestamp("2022-03-01", tz="UTC")
    assert result.equity.iloc[0] == pytest.approx(5_000 - result.costs.iloc[0])
    aware = walk_forward(prices, lookback=30, start=pd.Timestamp("2022-03-01 01:00", tz="Europe/Berlin"), capital=5_000.0,
                         policy=policy)
    assert aware.equity.equals(result.equity)
    assert len(walk_forward(prices, lookback=30, policy=policy).nav) == 60
    for start, said in (("2030-01-01", "prices end before 2030"), ("2022-01-10", "only 9 returns .*start on 2022-01-31")):
        with pytest.raises(DataError, match=said):
            walk_forward(prices, start=start, lookback=30)
    with pytest.raises(ConfigError, match="'soon' is not a date"):
        walk_forward(prices, start="soon", lookback=30)


def test_no_trade_at_all() -> None:
    idle = walk_forward(market(), lookback=30, policy=Policy(min_positions=9))
    assert idle.trades.empty and (idle.equity == 100_000).all() and idle.costs.empty
    assert idle.decisions.iloc[0].reason.startswith("only 4 assets")


# ------------------------------------------------------------------ everything that can happen to a book
def by_hand(prices: pd.DataFrame, targets: pd.DataFrame, *, cost: float = 0.0, band: float = 0.0, lag: int = 0,
            capital: float = 1.0, funding: pd.DataFrame | None = None, deposits: "pd.Series[float] | None" = None,
            rate: float = 0.0) -> "pd.Series[float]":
    """One day after the other, as slowly and as plainly as possible; the claim after an end is worth the last price."""
    paid_in = {} if deposits is None else deposits.to_dict()
    units, cash, out, pending = np.zeros(prices.shape[1]), capital, {}, None
    last = prices.ffill().fillna(1.0)
    for i, date in enumerate(prices.index[prices.index >= targets.index[0]]):
        close = last.loc[date].to_numpy()
        cash *= 1.0 + (rate if i else 0.0)
        if funding is not None and i:
            cash -= float(units @ (close * funding.loc[date].to_numpy()))
        cash += paid_in.get(date, 0.0)

        wanted, pending = (pending, None) if lag else (None, None)
        for late in (True, False):
            if date in targets.index and not late:
                target = targets.loc[date].to_numpy()
                gap = np.abs(target - units * close / (cash + units @ close)).max()
                if not band or gap > band or not units.any():
                    wanted, pending = (None, target) if lag else (target, None)
            if wanted is not None:
                value = cash + units @ close
                fee = cost * np.abs(wanted - units * close / value).sum() * value
                units, cash, wanted = wanted * (value - fee) / close, (value - fee) * (1 - wanted.sum()), None
        out[date] = cash + float(units @ close)
    return pd.Series(out)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 999), cost=st.sampled_from([0.0, 0.003]), band=st.sampled_from([0.0, 0.03, 0.2]),
       lag=st.sampled_from([0, 1]), fund=st.booleans(), pay=st.booleans(), rate=st.sampled_from([0.0, 2e-4]),
       step=st.integers(1, 9), end=st.booleans())  # fmt: skip
def test_every_path_is_the_clerk(seed: int, cost: float, band: float, lag: int, fund: bool, pay: bool, rate: float,
                                 step: int, end: bool) -> None:
    rng = np.random.default_rng(seed)
    prices = market(70, 4, seed)
    if end:
        prices.iloc[40:, 3] = np.nan  # delisted
    checks = prices.index[5::step]
    targets = pd.DataFrame(rng.dirichlet(np.ones(5), len(checks))[:, :4], checks, prices.columns)
    targets.loc[checks >= prices.index[40], "A3"] *= not end
    funding = pd.DataFrame(rng.normal(3e-4, 1e-3, prices.shape), prices.index, prices.columns) if fund else None
    flows = pd.Series(rng.normal(0, 0.05, 6), prices.index[rng.choice(np.arange(5, 70), 6, replace=False)]) if pay else None
    result = follow(prices, targets, cost=cost, band=band, execution="next" if lag else "close", capital=2.0,
                    cash_rate=rate, funding=funding, deposits=flows)  # type: ignore[typeddict-item]
    want = by_hand(prices, targets, cost=cost, band=band, lag=lag, capital=2.0, funding=funding, deposits=flows, rate=rate)
    np.testing.assert_allclose(result.equity, want, rtol=1e-11)
    assert result.deposits.sum() == pytest.approx(0.0 if flows is None else flows.sum())
    if not rate:
        balances(result, prices.ffill(), 2.0)


def test_deposits_are_no_return() -> None:
    prices = market()
    targets = pd.DataFrame(0.25, prices.index[10::5], prices.columns)
    flows = pd.Series([0.7, -0.2, 3.0], targets.index[[0, 3, 7]])
    plain, paid = follow(prices, targets), follow(prices, targets, deposits=flows)
    np.testing.assert_allclose(paid.nav, plain.nav, rtol=1e-12)
    assert paid.equity.iloc[-1] > 3 and plain.equity.iloc[-1] < 2
    with pytest.raises(DataError, match="deposit of 1 on 2021-01-01"):
        follow(prices, targets, deposits=pd.Series({pd.Timestamp("2021-01-01"): 1.0}))
    with pytest.raises(DataError, match="worth -.* on 2022-02-20 and cannot go on"):
        follow(prices, targets, deposits=pd.Series({pd.Timestamp("2022-02-18", tz="UTC"): -9.0}))


def test_a_delisting_costs_what_it_is_told_and_is_sold_at_the_next_check() -> None:
    prices = market(60, 3)
    prices.iloc[30:, 0] = np.nan
    result = walk_forward(prices, EqualWeight(), lookback=10, step=7, delisting_return=-0.5)
    assert result.universe["A0"].sum() == 3 and (result.weights.loc[~result.universe["A0"], "A0"] == 0).all()
    after, before = result.nav[prices.index[30]], result.nav[prices.index[29]]
    rest = walk_forward(prices, EqualWeight(), lookback=10, step=7).nav
    assert after / before < 0.9 < rest[prices.index[30]] / rest[prices.index[29]]
    assert result.trades.query("asset == 'A0'")["date"].max() == prices.index[31]


@pytest.mark.filterwarnings("ignore:A0 and A1 share only")
def test_a_late_listing_joins_when_its_window_is_full() -> None:
    prices = market()
    prices.iloc[:40, 1] = np.nan
    result = walk_forward(prices, lookback=20)
    assert result.universe["A1"].idxmax() == prices.index[60] and result.nav.notna().all()
    without = walk_forward(prices.drop(columns="A1"), lookback=20)
    early = result.weights.index < prices.index[60]
    np.testing.assert_allclose(result.weights.loc[early, without.weights.columns], without.weights[early], atol=1e-14)
    short = walk_forward(prices, HierarchicalRiskParity(missing="pairwise"), lookback=20, min_history=10)
    assert short.universe["A1"].idxmax() == prices.index[50]


def test_funding_that_is_not_known_is_an_error_that_names_it() -> None:
    prices = market(30, 2)
    targets = pd.DataFrame(0.5, prices.index[[2, 9]], prices.columns)
    rates = prices * 0.0 + 1e-4
    rates.iloc[12, 1] = np.nan
    with pytest.raises(DataError, match="funding of A1 is not known on 2022-01-13"):
        follow(prices, targets, funding=rates)
    with pytest.raises(DataError, match="funding of DOGE, but no price"):
        follow(prices, targets, funding=rates.rename(columns={"A1": "DOGE"}))
    spot = follow(prices, targets, funding=rates[["A0"]])  # A1 is held without funding
    assert 0 < spot.funding.sum() < follow(prices, targets, funding=prices * 0.0 + 1e-4).funding.sum()


def test_targets_that_cannot_be_followed_are_named() -> None:
    prices = market(30, 2)
    prices.iloc[20:, 0] = np.nan
    good = pd.DataFrame(0.5, prices.index[[2, 9]], prices.columns)
    cases = [(good.set_axis(prices.index[[9, 2]]), "out of order"), (good.rename(columns={"A1": "DOGE"}), "targets of DOGE"),
             (good.assign(A0=[0.5, np.nan]), "A0 on 2022-01-10 is nan"), (good.set_axis(prices.index[[2, 25]]), "A0 on 2022-01-26")]
    for targets, said in cases:
        with pytest.raises(DataError, match=said):
            follow(prices, targets)
    naive = follow(prices.tz_localize(None), good.tz_localize(None))
    assert naive.nav.equals(follow(prices, good).nav)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 999), st.integers(2, 12), st.sampled_from(["paper", "direct"]), st.integers(1, 30), st.integers(15, 60))
def test_many_windows_at_once_are_the_windows_one_by_one(seed: int, n: int, distance: str, step: int, lookback: int) -> None:
    rng = np.random.default_rng(seed)
    prices = market(160, n, seed)
    if seed % 3 == 0:
        prices.iloc[: rng.integers(1, 80), 0] = np.nan
    prices = prices[rng.permutation(prices.columns)]  # columns in any order
    rows = np.arange(lookback, 160, step)
    path = target_path(prices, rows, HierarchicalRiskParity(distance=distance), lookback=lookback)
    for k in range(0, len(rows), 7):
        window = path.returns.iloc[rows[k] - lookback : rows[k]].loc[:, path.universe[k]]
        alone = HierarchicalRiskParity(distance=distance).fit(window).weights_
        np.testing.assert_allclose(path.weights[k][path.universe[k]], alone, rtol=1e-11, atol=1e-15)


def test_a_window_that_a_batch_cannot_answer_is_fitted_alone() -> None:
    prices = market(60, 3)
    prices["twin"] = prices["A0"] * 2.0
    with pytest.warns(UserWarning, match="move as one"):
        twins = target_path(prices, np.arange(30, 60, 10), lookback=30)
    assert np.isfinite(twins.weights).all()
    still = market(60, 3)
    still.iloc[20:, 1] = 5.0
    with pytest.raises(DataError, match="2022-02-20: .*A1"):
        target_path(still, np.arange(50, 60, 5), lookback=20)


# ------------------------------------------------------------------ result
def test_report_has_every_metric_and_the_first_cost() -> None:
    result = walk_forward(market(), lookback=30, cost=0.01)
    assert result.returns.iloc[0] == pytest.approx(-0.01)
    assert set(result.metrics.index) == set(REGISTRY)
    assert result.metrics["total_return"] == pytest.approx(result.nav.iloc[-1] - 1)


def test_annual_numbers_keep_the_calendar_of_the_dates_or_that_of_the_caller(tmp_path: Path) -> None:
    stocks, ledger = sample_prices().loc["2019":"2020"], TrialLedger(tmp_path / "trials.jsonl")
    result = walk_forward(stocks, InverseVariance(), lookback=60, trials=ledger)
    pd.testing.assert_series_equal(result.metrics, report(result.returns, periods_per_year=252))
    assert ledger.table().loc[result.trial, "periods_per_year"] == 252
    given = walk_forward(stocks, InverseVariance(), lookback=60, periods_per_year=365, trials=ledger)
    pd.testing.assert_series_equal(given.metrics, report(result.returns, periods_per_year=365))
    assert given.trial == result.trial and len(ledger) == 1  # the same trial, however it is annualised
    ragged = stocks.iloc[np.cumsum(1 + np.arange(120) % 3)]
    with pytest.raises(DataError, match="keep no calendar.*give periods_per_year"):
        walk_forward(ragged, InverseVariance(), lookback=60, trials=ledger)
    assert walk_forward(ragged, InverseVariance(), lookback=60, periods_per_year=120).metrics["volatility"] > 0


def test_regime_of_the_market_uses_three_years_at_most() -> None:
    returns = to_returns(sample_prices().loc["2015":"2020-04"])
    assert market_regime(returns) == market_regime(returns.iloc[-REGIME_HISTORY:])
    assert market_regime(returns)["volatility_regime"] == "high"
    assert market_regime(returns.iloc[:10])["reliable"] is False
