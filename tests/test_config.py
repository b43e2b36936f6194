"""Configuration: what is written is used or refused by name."""

from pathlib import Path
from typing import get_args

import pytest

from portfolio_research.config import (
    AlertThresholds,
    ConfigError,
    OptimizerSettings,
    PortfolioError,
    Settings,
    portfolio_home,
    store_url,
)
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.settings import (
    check_environment,
    load_settings,
    read_yaml,
    setting_keys,
    to_yaml,
)
from portfolio_research.tree import LINKAGES


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORTFOLIO_RESEARCH_CONFIG", raising=False)


def write(text: str) -> Path:
    path = Path("given.yaml")
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("portfolio:\n  rebalancing: {tolerance: 0}\n", "portfolio.rebalancing.tolerance = 0"),
        ("portfolio:\n  rebalancing: {tolerance: 1}\n", "portfolio.rebalancing.tolerance = 1"),
        ("portfolio:\n  rebalancing: {tolerance: 5}\n", "portfolio.rebalancing.tolerance = 5"),
        ("portfolio:\n  rebalancing: {tolerence: 0.1}\n", "did you mean portfolio.rebalancing.tolerance?"),
        ("portfolio:\n  tolerance: 0.1\n", "did you mean portfolio.rebalancing.tolerance?"),
        ("dashbord: {port: 1}\n", "did you mean dashboard?"),
        ("zzz: 1\n", "unknown key zzz"),
        ("dashboard: {port: 70000}\n", "dashboard.port = 70000"),
        ("dashboard: {port: 5000}\ndashboard: {port: 5001}\n", "'dashboard' stands twice, again in line 2"),
        ("portfolio: {name: a, name: b}\n", "'name' stands twice"),
        ("portfolio: {name: ../etc}\n", "portfolio.name = '../etc'"),
        ("data: {source: csv}\n", "data.path"),
        ("data: {source: yahoo}\n", "data.source = 'yahoo'"),
        ("portfolio: [\n", "not valid YAML"),
        ("- 1\n", "top level"),
        ("engine: {mode: yolo}\n", "engine.mode = 'yolo'"),
        (
            "portfolio:\n  monitoring:\n    handlers:\n      email: {host: h, sender: a@b, recipients: []}\n",
            "recipients",
        ),
        ("portfolio:\n  monitoring:\n    handlers:\n      email: {host: h, password: s}\n", "unknown key"),
        ("portfolio:\n  optimizer: {max_wieght: 0.2}\n", "did you mean portfolio.optimizer.max_weight?"),
        ("portfolio:\n  max_risk_share: 0.2\n", "did you mean portfolio.optimizer.max_risk_share?"),
        ("portfolio:\n  rebalancing: {frequency: hourly}\n", "portfolio.rebalancing.frequency = 'hourly'"),
        ("portfolio:\n  optimizer: {missing: pairwise}\n", "unknown key portfolio.optimizer.missing"),
        ("portfolio:\n  optimizer: {linkage: nearest}\n", "portfolio.optimizer.linkage = 'nearest'"),
        ("portfolio:\n  optimizer: {covariance: lw}\n", "'sample', 'ledoit_wolf'"),
        ("portfolio:\n  optimizer: {max_weight: 20}\n", "portfolio.optimizer.max_weight = 20: give a fraction"),
        ("portfolio:\n  optimizer: {max_weight: .nan}\n", "portfolio.optimizer.max_weight = nan: give a fraction"),
        ("portfolio:\n  optimizer: {min_weight: true}\n", "portfolio.optimizer.min_weight = True: give a fraction"),
        ("portfolio:\n  optimizer: {max_weight: {BTC: 20}}\n", "portfolio.optimizer.max_weight: BTC is 20: give a"),
        ("portfolio:\n  optimizer: {max_weight: {ON: 0.2}}\n", "the name True is no text in YAML: put it in quotes"),
        ("portfolio:\n  optimizer: {min_weight: 0.3, max_weight: 0.2}\n", "min_weight of every asset (0.3) is above"),
        (
            "portfolio:\n  optimizer: {min_weight: 0.1, max_weight: {BTC: 0.05}}\n",
            "min_weight of BTC (0.1) is above its max_weight (0.05)",
        ),
        ("portfolio:\n  optimizer: {group_max: {coins: 0.5}}\n", "group_max names coins, which no asset is in"),
        ("portfolio:\n  optimizer: {groups: {BTC: [a]}, group_min: {b: 0.5}}\n", "group_min names b"),
        ("portfolio:\n  optimizer: {order_tolerance: .inf}\n", "portfolio.optimizer.order_tolerance = inf"),
        ("portfolio:\n  optimizer: {trading_cost: -0.001}\n", "portfolio.optimizer.trading_cost = -0.001"),
        ("portfolio:\n  optimizer: {risk_aversion: 0}\n", "portfolio.optimizer.risk_aversion = 0"),
    ],
)
def test_bad_files_are_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_settings(write(text))
    assert told in str(refusal.value) and "given.yaml" in str(refusal.value)


def test_a_missing_file_says_how_to_write_one() -> None:
    with pytest.raises(ConfigError, match="config init"):
        load_settings("nowhere.yaml")


def test_an_empty_file_is_all_defaults() -> None:
    assert load_settings(write("")) == Settings()


def test_environment_outranks_caller_outranks_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("portfolio:\n  rebalancing: {tolerance: 0.04, min_positions: 5, min_trade_size: 20}\n")
    monkeypatch.setenv("PORTFOLIO_RESEARCH__PORTFOLIO__REBALANCING__TOLERANCE", "0.07")
    chosen = load_settings(
        file, portfolio={"rebalancing": {"tolerance": 0.06, "min_positions": 4}}
    ).portfolio.rebalancing
    assert (chosen.tolerance, chosen.min_positions, chosen.min_trade_size, chosen.interval_hours) == (0.07, 4, 20, 24)


def test_a_bad_value_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH__DASHBOARD__PORT", "five")
    with pytest.raises(ConfigError, match=r"dashboard\.port = 'five'"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("PORTFOLIO_RESEARCH__DASHBOARD__PROT", "PORTFOLIO_RESEARCH__DASHBOARD__PORT"),
        ("PORTFOLIO_RESEARCH_SMTP_PASWORD", "PORTFOLIO_RESEARCH_SMTP_PASSWORD"),
        ("PORTFOLIO_RESERACH__DASHBOARD__PORT", "PORTFOLIO_RESEARCH__DASHBOARD__PORT"),
        ("PORTFOLIO_RESEARCH_DASHBOARD__PORT", "PORTFOLIO_RESEARCH__DASHBOARD__PORT"),
    ],
)
def test_mistyped_variables_are_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_environment([name])
    assert name in str(refusal.value) and near in str(refusal.value)


def test_other_peoples_variables_are_left_alone() -> None:
    check_environment(["PATH", "HOME", "PORT", "PORTFOLIO", "RESEARCH"])


def test_the_path_of_the_file_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_CONFIG", str(write("dashboard: {port: 5003}\n").resolve()))
    assert load_settings().dashboard.port == 5003


def test_config_yaml_of_the_working_folder_is_found() -> None:
    Path("config.yaml").write_text("dashboard: {port: 5004}\n")
    assert load_settings().dashboard.port == 5004


def test_what_is_shown_can_be_loaded_again() -> None:
    settings = load_settings(write("portfolio: {name: other, assets: [A, B]}\ndata: {source: csv, path: p.csv}\n"))
    assert load_settings(write(to_yaml(settings))) == settings


OPTIMIZER = """
portfolio:
  optimizer:
    covariance: ledoit_wolf
    treat_as_cash: [USDC]
    max_weight: {BTC: 0.3, "ON": 0.1}
    min_weight: 0.01
    groups: {BTC: coins, ETH: [coins, staked]}
    group_max: {coins: 0.5}
    max_risk_share: 0.2
    order_tolerance: 0.01
    trading_cost: 0.001
"""


def test_options_of_the_optimiser_survive_the_way_to_another_process() -> None:
    settings = load_settings(write(OPTIMIZER))
    assert settings.portfolio.optimizer.max_weight == {"BTC": 0.3, "ON": 0.1}
    assert settings.portfolio.optimizer.groups == {"BTC": "coins", "ETH": ["coins", "staked"]}
    assert load_settings(write(to_yaml(settings))) == settings


def test_the_optimiser_is_the_estimators_own_by_default() -> None:
    estimator = HierarchicalRiskParity().get_params()
    left_out = {"algorithm", "missing"}  # of research, and of the data gate
    offered = OptimizerSettings().model_dump()
    assert set(offered) == set(estimator) - left_out
    names = {"covariance": "sample", "treat_as_cash": []}  # what a file calls None and ()
    assert offered == {name: names.get(name, default) for name, default in estimator.items() if name in offered}
    assert get_args(OptimizerSettings.model_fields["linkage"].annotation) == LINKAGES


@pytest.mark.parametrize(("text", "value"), [("0.2", 0.2), ('{"BTC": 0.2}', {"BTC": 0.2})])
def test_bounds_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, value: object) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH__PORTFOLIO__OPTIMIZER__MAX_WEIGHT", text)
    assert load_settings().portfolio.optimizer.max_weight == value


def test_a_written_file_says_what_may_stand_beside_a_key() -> None:
    shown = to_yaml(load_settings(write("portfolio: {assets: [max_weight, B]}")))
    assert "    max_weight: 1.0  # of every asset, or by asset {BTC: 0.3}\n" in shown
    assert "  - max_weight\n" in shown  # a comment stands beside keys, not beside what is called like one
    assert "tolerance: 0.05\n" in shown


def test_keys_are_unique_and_include_every_key_of_the_seed() -> None:
    keys = list(setting_keys())
    assert len(keys) == len(set(keys))
    for key in (
        "portfolio.rebalancing.interval_hours",
        "portfolio.analytics.performance_window",
        "portfolio.monitoring.alerts.concentration_critical",
        "dashboard.enabled",
    ):
        assert key in keys


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    for wrong in (
        {"max_drawdown_warning": 0.3},
        {"concentration_critical": 0.2},
        {"sharpe_high": 0.5},
        {"effective_assets_critical": 3.5},
    ):
        with pytest.raises(ValueError, match="must come before"):
            AlertThresholds(**wrong)


def test_a_default_that_no_longer_fits_gives_way() -> None:
    assert AlertThresholds(max_drawdown_warning=0.16).max_drawdown_high is None
    assert AlertThresholds(max_drawdown_high=0.19).max_drawdown_high == 0.19


def test_a_password_in_the_stores_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="pgpass") as refusal:
        load_settings(write("engine: {store_url: 'postgresql://me:hunter2@db/portfolios'}\n"))
    assert "hunter2" not in str(refusal.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().portfolio.name = "other"  # type: ignore[misc]


def test_home_and_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    settings = load_settings(portfolio={"name": "crypto"})
    assert portfolio_home(settings) == tmp_path / "crypto"
    assert store_url(settings) == f"sqlite:///{tmp_path}/crypto/portfolio.db"
    assert store_url(load_settings(engine={"store_url": "postgresql://h/db"})) == "postgresql://h/db"


def test_unreadable_bytes_are_an_error_of_the_file() -> None:
    path = Path("binary.yaml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PortfolioError, match="not valid YAML"):
        read_yaml(path)


def test_the_readmes_section_on_the_optimiser_loads() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = [text for text in readme.split("```") if text.strip().startswith("portfolio:\n  optimizer:")]
    chosen = load_settings(write(block)).portfolio.optimizer
    assert chosen.max_risk_share == 0.2 and chosen.model_fields_set > {"covariance", "trading_cost", "order_tolerance"}
