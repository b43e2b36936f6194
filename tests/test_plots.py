"""Figures: they say what the numbers say, are the same bytes every time, and leave nothing behind."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from portfolio_research.config import DataError
from portfolio_research.hrp import HierarchicalRiskParity
from portfolio_research.plots import (
    COLORS,
    Chart,
    plot_dendrogram,
    plot_equity,
    plot_metrics,
    plot_risk_contributions,
    plot_weights,
)

DAYS = pd.date_range("2024-01-01", periods=120, tz="UTC")


def returns(assets: int = 6, rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(assets)
    common = rng.normal(0, 0.02, (rows, 1))
    names = [f"A{i:03d}" for i in range(assets)]
    return pd.DataFrame(common + rng.normal(0, 0.02, (rows, assets)), DAYS[:rows], names)


def equity() -> pd.Series:
    return 100_000 * (1 + returns(1)["A000"]).cumprod()


def metrics() -> pd.DataFrame:
    return pd.DataFrame({"volatility": np.linspace(0.1, 0.3, 120), "sharpe": np.linspace(-1, 2, 120), "own": 1.0}, DAYS)


def bars(ax: Axes) -> dict[str, tuple[float, bool]]:
    """Length and whether it is hatched, by the label on the axis; the band behind has no hatch and another height."""
    labels = [t.get_text() for t in ax.get_yticklabels()]
    drawn = [p for p in ax.patches if abs(p.get_height() - 0.62) < 1e-9]
    return {labels[round(p.get_y() + p.get_height() / 2)]: (p.get_width(), p.get_hatch() is not None) for p in drawn}


WEIGHTS = {"BTC": 0.5, "ETH": 0.3, "SOL": 0.2}
TARGET = {"BTC": 0.4, "ETH": 0.35, "DOGE": 0.25}
DRAWINGS = {
    "dendrogram": lambda: plot_dendrogram(HierarchicalRiskParity().fit(returns())),
    "weights": lambda: plot_weights(WEIGHTS, TARGET, tolerance=0.05),
    "weights alone": lambda: plot_weights(pd.Series(WEIGHTS)),
    "equity": lambda: plot_equity(equity(), equity() ** 0.5, warning=0.1, critical=0.2),
    "equity alone": lambda: plot_equity(equity() / 1e5),
    "equity by number": lambda: plot_equity(pd.Series([1.0, 1.1, 0.9])),
    "risk": lambda: plot_risk_contributions(WEIGHTS, TARGET, limit=0.25),
    "metrics": lambda: plot_metrics(metrics()),
    "one metric": lambda: plot_metrics(metrics(), ["sharpe"]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_same_data_same_bytes(name: str) -> None:
    first, second = DRAWINGS[name](), DRAWINGS[name]()
    assert isinstance(first, Chart)
    picture = second.png(dpi=50)
    assert first.svg() == second.svg()
    assert first.png(dpi=50) == picture


def test_jupyter_shows_the_same_picture() -> None:
    chart = DRAWINGS["weights"]()
    assert chart._repr_png_() == chart.png() != chart.png(dpi=50)


def test_svg_stands_on_its_own() -> None:
    svg = DRAWINGS["equity"]().svg()
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert "<dc:date>" not in svg and "matplotlib.org" not in svg


def test_drawing_changes_no_global_setting_and_opens_no_figure() -> None:
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    for draw in DRAWINGS.values():
        draw().svg()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_pyplot_is_never_loaded() -> None:
    code = "import sys, portfolio_research.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_loud_and_quiet_differ_in_grey_too() -> None:
    def lightness(name: str) -> float:
        return float(np.dot(to_rgb(COLORS[name]), [0.2126, 0.7152, 0.0722]))

    assert lightness("orange") - lightness("blue") > 0.2


# ---------------------------------------------------------------- dendrogram


@pytest.mark.parametrize(("assets", "names", "numbers"), [(1, 1, 1), (2, 2, 4), (12, 12, 144), (13, 13, 0), (61, 0, 0)])
def test_dendrogram_of_any_size(assets: int, names: int, numbers: int) -> None:
    chart = plot_dendrogram(HierarchicalRiskParity().fit(returns(assets)))
    tree, matrix = chart.axes[:2]
    assert len(tree.collections[0].get_paths()) == assets - 1
    assert len(matrix.get_yticks()) == names
    assert len(matrix.texts) == numbers
    chart.png(dpi=30)


def test_a_chain_deeper_than_pythons_stack() -> None:
    n = sys.getrecursionlimit() + 500
    model = HierarchicalRiskParity()
    steps = np.arange(n - 1)
    left = np.where(steps == 0, 0, n + steps - 1)
    model.linkage_ = np.column_stack([left, steps + 1, 1.0 + steps, steps + 2]).astype(float)
    model.order_ = list(range(n))
    model.covariance_ = pd.DataFrame(np.eye(n))
    assert len(plot_dendrogram(model).axes[0].collections[0].get_paths()) == n - 1


def test_dendrogram_rows_are_the_leaf_order() -> None:
    model = HierarchicalRiskParity().fit(returns()[::-1][["A003", "A001", "A005", "A000", "A004", "A002"]])
    _, matrix, _ = plot_dendrogram(model).axes
    assert [t.get_text() for t in matrix.get_yticklabels()] == model.order_
    expected = returns()[model.order_].corr().to_numpy().ravel()
    shown = [float(t.get_text()) for t in matrix.texts]
    np.testing.assert_allclose(shown, expected, atol=0.0051)


# ---------------------------------------------------------------- weights and risk


def test_weights_outside_their_band_are_hatched() -> None:
    drawn = bars(plot_weights(WEIGHTS, TARGET, tolerance=0.07).axes[0])
    assert list(drawn) == ["ETH", "BTC", "DOGE", "SOL"]  # quiet ones first, as drawn
    assert drawn == {"BTC": (0.5, True), "ETH": (0.3, False), "DOGE": (0.0, True), "SOL": (0.2, True)}


def test_largest_target_comes_first_and_is_marked() -> None:
    ax = plot_weights(WEIGHTS, TARGET).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["BTC", "ETH", "DOGE", "SOL"]
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 0], [0.4, 0.35, 0.25, 0.0])
    assert not any(hatched for _, hatched in bars(ax).values())


def test_short_positions_fit_in() -> None:
    ax = plot_weights({"BTC": 1.2, "ETH": -0.2}).axes[0]
    assert ax.get_xlim()[0] <= -0.2


def test_risk_beyond_the_limit_is_hatched() -> None:
    ax = plot_risk_contributions({"A": 0.1, "B": 0.21, "C": 0.2, "D": 0.49}).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["D", "B", "C", "A"]
    assert {k for k, (_, hatched) in bars(ax).items() if hatched} == {"B", "D"}
    assert ax.lines[0].get_xdata()[0] == 0.20
    assert ax.get_legend().get_texts()[0].get_text() == "limit 20%"


# ---------------------------------------------------------------- equity and metrics


def test_drawdown_and_limits() -> None:
    chart = plot_equity(pd.Series([100.0, 120.0, 90.0, 130.0], DAYS[:4]), warning=0.10, critical=0.125)
    top, low = chart.axes
    np.testing.assert_allclose(low.lines[0].get_ydata(), [0, 0, -0.25, 0])
    assert [line.get_ydata()[0] for line in low.lines[1:]] == [-0.10, -0.125]
    assert [t.get_text() for t in low.texts] == ["warning 10%", "critical 12.5%"]
    assert low.get_ylim()[0] < -0.25 and top.get_legend() is None


def test_gaps_stay_gaps() -> None:
    value = pd.Series([1.0, np.nan, 1.2], DAYS[:3])
    top, low = plot_equity(value).axes
    assert np.isnan(top.lines[0].get_ydata()[1]) and np.isnan(low.lines[0].get_ydata()[1])


def test_benchmark_starts_where_both_are_known() -> None:
    value = pd.Series([100.0, 110.0, 120.0], DAYS[:3])
    benchmark = pd.Series([np.nan, 5.0, 10.0, 20.0], DAYS[:4])
    drawn = plot_equity(value, benchmark).axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(drawn, [np.nan, 110.0, 220.0])


def test_other_time_zones_are_drawn_in_utc() -> None:
    value = pd.Series([1.0, 2.0], pd.date_range("2024-01-01", periods=2, tz="Asia/Tokyo"))
    assert str(plot_equity(value).axes[0].lines[0].get_xdata(orig=True)[0]).startswith("2023-12-31T15:00")


def test_metrics_are_named_by_the_registry() -> None:
    chart = plot_metrics(metrics())
    titles = [ax.get_title(loc="left") for ax in chart.axes]
    assert titles[:3] == ["Volatility: 30%", "Sharpe ratio: 2.00", "own: 1.00"]
    assert len(chart.axes) == 4 and not chart.axes[3].axison
    assert len(chart.axes[1].lines) == 2  # the Sharpe ratio crosses zero, so zero is drawn


def test_a_metric_without_values_says_so() -> None:
    table = pd.DataFrame({"beta": [np.nan, np.nan]}, DAYS[:2])
    assert plot_metrics(table).axes[0].get_title(loc="left").endswith("no value")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_weights({}), "no weights to draw"),
        (lambda: plot_weights({"A": np.nan}), "no weights to draw"),
        (lambda: plot_weights(WEIGHTS, {}), "no target weights to draw"),
        (lambda: plot_weights(pd.Series([0.5, 0.5], ["A", "A"])), "weights name A twice"),
        (lambda: plot_risk_contributions({}), "no risk contributions to draw"),
        (lambda: plot_equity(pd.Series(dtype=float)), "no equity values to draw"),
        (lambda: plot_equity(equity(), equity().set_axis(DAYS.shift(999))), "no time in common"),
        (lambda: plot_metrics(metrics()[:0]), "no metrics to draw"),
        (lambda: plot_metrics(metrics(), []), "no metrics to draw"),
        (lambda: plot_metrics(metrics(), ["alpha"]), "no metric alpha in the table: choose from volatility, sharpe"),
    ],
)
def test_nothing_to_draw_is_an_error(draw, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()
