"""Figures: they say what the numbers say, are the same bytes every time, and leave nothing behind."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

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
    plot_comparison,
    plot_dendrogram,
    plot_equity,
    plot_metrics,
    plot_risk_contributions,
    plot_waterfall,
    plot_weight_intervals,
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


def band() -> pd.DataFrame:
    return pd.DataFrame({"low": metrics()["sharpe"] - 1, "high": metrics()["sharpe"] + 1})


def bars(ax: Axes) -> dict[str, tuple[float, bool]]:
    """Length and whether it is hatched, by the label on the axis; the band behind has no hatch and another height."""
    labels = [t.get_text() for t in ax.get_yticklabels()]
    drawn = [p for p in ax.patches if abs(p.get_height() - 0.62) < 1e-9]
    return {labels[round(p.get_y() + p.get_height() / 2)]: (p.get_width(), p.get_hatch() is not None) for p in drawn}


def intervals(**weights: float) -> pd.DataFrame:
    """A table such as `weight_intervals` gives; each interval is 0.1 wide."""
    weight = pd.Series(weights)
    table = pd.DataFrame({"weight": weight, "low": weight - 0.05, "high": weight + 0.05})
    return table.rename_axis(columns="90% of 500 resamples, blocks of 8.0 rows")


def overlaps(chart: Chart, ax: Axes, axis: str) -> bool:
    """Whether two neighbours among the tick labels of an axis run into each other."""
    chart.draw_without_rendering()
    labels = ax.get_yticklabels() if axis == "y" else ax.get_xticklabels()
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    ends = sorted((b.y0, b.y1) if axis == "y" else (b.x0, b.x1) for b in boxes)
    return any(high > low + 0.5 for (_, high), (low, _) in zip(ends, ends[1:], strict=False))


WEIGHTS = {"BTC": 0.5, "ETH": 0.3, "SOL": 0.2}
TARGET = {"BTC": 0.4, "ETH": 0.35, "DOGE": 0.25}
DRAWINGS = {
    "dendrogram": lambda: plot_dendrogram(HierarchicalRiskParity().fit(returns())),
    "weights": lambda: plot_weights(WEIGHTS, TARGET, tolerance=0.05),
    "weights alone": lambda: plot_weights(pd.Series(WEIGHTS)),
    "comparison": lambda: plot_comparison(HierarchicalRiskParity().fit(returns())),
    "waterfall": lambda: plot_waterfall(HierarchicalRiskParity().fit(returns()), "A003"),
    "intervals": lambda: plot_weight_intervals(intervals(BTC=0.5, ETH=0.3), {"held": WEIGHTS}),
    "equity": lambda: plot_equity(equity(), equity() ** 0.5, warning=0.1, critical=0.2),
    "equity alone": lambda: plot_equity(equity() / 1e5),
    "equity by number": lambda: plot_equity(pd.Series([1.0, 1.1, 0.9])),
    "long history": lambda: plot_equity(equity(), warning=0.1, log=True, spells=3),
    "risk": lambda: plot_risk_contributions(WEIGHTS, TARGET, limit=0.25),
    "metrics": lambda: plot_metrics(metrics()),
    "one metric": lambda: plot_metrics(metrics(), ["sharpe"], {"sharpe": band()}),
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

    before, open_ones = dict(mpl.rcParams), plt.get_fignums()
    for draw in DRAWINGS.values():
        draw().draw_without_rendering()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_ones


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
    steps = np.arange(n - 1)
    left = np.where(steps == 0, 0, n + steps - 1)
    chain = np.column_stack([left, steps + 1, 1.0 + steps, steps + 2]).astype(float)
    model: Any = SimpleNamespace(
        linkage_=chain, order_=list(range(n)), covariance_=pd.DataFrame(np.eye(n)), diagnostics_={}
    )
    assert len(plot_dendrogram(model).axes[0].collections[0].get_paths()) == n - 1


def test_dendrogram_rows_are_the_leaf_order() -> None:
    model = HierarchicalRiskParity().fit(returns()[::-1][["A003", "A001", "A005", "A000", "A004", "A002"]])
    _, matrix, _ = plot_dendrogram(model).axes
    assert [t.get_text() for t in matrix.get_yticklabels()] == model.order_
    expected = returns()[model.order_].corr().to_numpy().ravel()
    shown = [float(t.get_text()) for t in matrix.texts]
    np.testing.assert_allclose(shown, expected, atol=0.0051)


@pytest.mark.parametrize("assets", [5, 20, 60])
def test_names_of_the_tree_do_not_run_into_each_other(assets: int) -> None:
    frame = returns(assets)
    chart = plot_dendrogram(HierarchicalRiskParity().fit(frame.set_axis([f"WRAPPED-{c}" for c in frame], axis=1)))
    matrix = chart.axes[1]
    assert not overlaps(chart, matrix, "x") and not overlaps(chart, matrix, "y")
    assert len(matrix.get_xticks()) == (assets if assets <= 30 else 0)


def test_colours_end_at_the_largest_correlation_of_two_assets() -> None:
    frame = returns()
    _, matrix, bar = plot_dendrogram(HierarchicalRiskParity().fit(frame)).axes
    correlation = frame.corr().to_numpy()
    low, high = matrix.collections[0].get_clim()
    assert high == pytest.approx(correlation[~np.eye(6, dtype=bool)].max())
    assert low == min(0.0, correlation.min())
    assert bar.get_ylabel() == "correlation"


def test_rows_of_tree_and_matrix_are_the_same_rows() -> None:
    model = HierarchicalRiskParity().fit(returns(7))
    tree, matrix, _ = plot_dendrogram(model).axes
    assert tree.get_ylim() == matrix.get_ylim() == (7, 0)
    leaves = {float(y) for path in tree.collections[0].get_paths() for x, y in path.vertices if x == 0}
    assert leaves == set(matrix.get_yticks())


def test_a_copy_stands_behind_the_asset_it_was_merged_with() -> None:
    frame = returns().assign(COPY=lambda f: f["A002"], CALM=1e-9)
    model = HierarchicalRiskParity(merge_correlated=0.999, treat_as_cash=["CALM"]).fit(frame)
    tree, matrix, _ = plot_dendrogram(model).axes
    labels = [t.get_text() for t in matrix.get_yticklabels()]
    assert len(labels) == 6 == len(tree.collections[0].get_paths()) + 1
    (merged,) = [label for label in labels if "+1" in label]
    assert merged.split()[0] in ("A002", "COPY")


def test_a_tree_without_covariance_says_how_to_get_one() -> None:
    model = HierarchicalRiskParity(algorithm="matrix_free", distance="direct").fit(returns())
    for draw in plot_dendrogram, plot_comparison:
        with pytest.raises(AttributeError, match="algorithm='dense'"):
            draw(model)
    assert len(plot_waterfall(model, "A001").axes[0].patches) > 0


# ---------------------------------------------------------------- comparison


def test_comparison_draws_the_three_rules() -> None:
    model = HierarchicalRiskParity().fit(returns())
    left, right = plot_comparison(model, periods_per_year=252).axes
    order = model.weights_.sort_values(ascending=False).index
    assert [t.get_text() for t in left.get_yticklabels()] == order.tolist()
    hrp, inverse, equal = (c.get_offsets()[:, 0] for c in left.collections)
    np.testing.assert_allclose(hrp, model.weights_[order])
    precision = 1 / np.diag(model.covariance_.loc[order, order])
    np.testing.assert_allclose(inverse, precision / precision.sum())
    np.testing.assert_allclose(equal, 1 / 6)
    for drawn in right.collections:
        assert drawn.get_offsets()[:, 0].sum() == pytest.approx(1)


def test_comparison_says_what_comes_of_it() -> None:
    model = HierarchicalRiskParity().fit(returns())
    chart = plot_comparison(model, periods_per_year=252)
    table = model.statistics(periods_per_year=252)
    labels = [t.get_text() for t in chart.legends[0].get_texts()]
    assert [label.split(":")[0] for label in labels] == ["HRP", "inverse variance", "equal weight"]
    for label, rule in zip(labels, table, strict=True):
        assert f"volatility {table.at['annual_volatility', rule]:.1%} a year" in label
        assert f"largest risk share {table.at['largest_risk_share', rule]:.1%}" in label


def test_comparison_leaves_cash_out() -> None:
    frame = returns().assign(CALM=1e-9)
    left, _ = plot_comparison(HierarchicalRiskParity(treat_as_cash=["CALM"]).fit(frame)).axes
    assert len(left.get_yticklabels()) == 6


# ---------------------------------------------------------------- waterfall


def stack(chart: Chart) -> list[tuple[float, float]]:
    """What is kept and what the row stood at before, from the top down."""
    ax = chart.axes[0]
    rows: dict[int, list[tuple[float, float]]] = {}
    for p in ax.patches:
        rows.setdefault(round(p.get_y() + 0.31), []).append((p.get_x(), p.get_x() + p.get_width()))
    return [(rows[k][1][1], rows[k][0][1]) for k in sorted(rows)]


@pytest.mark.parametrize("asset", ["A000", "A004"])
def test_waterfall_runs_from_the_book_to_the_weight(asset: str) -> None:
    model = HierarchicalRiskParity().fit(returns())
    chart = plot_waterfall(model, asset)
    kept = [row[0] for row in stack(chart)]
    path = model.explain(asset)
    np.testing.assert_allclose(kept, [1.0, *path["weight"]])
    assert kept[-1] == pytest.approx(model.weights_[asset], rel=1e-12)
    for (_, before), above in zip(stack(chart)[1:], kept[:-1], strict=True):
        assert before == pytest.approx(above)  # nothing is lost between two rows


def test_each_step_names_the_sibling_it_was_shared_with() -> None:
    model = HierarchicalRiskParity().fit(returns(12))
    asset = model.order_[0]
    labels = [t.get_text().replace("\n", " ") for t in plot_waterfall(model, asset).axes[0].get_yticklabels()]
    against = model.explain(asset)["against"].tolist()
    assert labels[0] == "the whole book"
    assert labels[1] == f"against {against[0][0]}, {against[0][1]} and {len(against[0]) - 2} more"
    assert labels[-1] == f"against {', '.join(against[-1])}"


def test_steps_of_options_follow_the_splits() -> None:
    path = HierarchicalRiskParity().fit(returns()).explain("A001").astype({"against": object})
    weight = path["weight"].iloc[-1]
    for step, share, against in ("copies", 0.5, ["COPY"]), ("bounds", 1.6, []), ("cash", 0.9, np.nan), ("own", 1, []):
        weight *= share
        path.loc[step] = [["A001"], against, np.nan, np.nan, share, weight]
    model: Any = SimpleNamespace(explain=lambda asset: path)
    chart = plot_waterfall(model, "A001")
    labels = [t.get_text() for t in chart.axes[0].get_yticklabels()]
    assert labels[-4:] == ["shared with COPY", "moved by bounds", "cash set apart", "own"]
    (added,) = [p for p in chart.axes[0].patches if p.get_hatch()]
    before = path.at["copies", "weight"]
    assert (added.get_x(), added.get_width()) == pytest.approx((before, 0.6 * before))
    assert [t.get_text() for t in chart.axes[0].texts][-3].startswith("× 1.6 = ")


def test_waterfall_of_every_option_at_once() -> None:
    frame = returns().assign(COPY=lambda f: f["A002"], CALM=1e-9)
    model = HierarchicalRiskParity(merge_correlated=0.999, treat_as_cash=["CALM"], max_weight=0.18).fit(frame)
    for asset in frame:
        assert stack(plot_waterfall(model, asset))[-1][0] == pytest.approx(model.weights_[asset], abs=1e-12)


def test_waterfall_of_one_asset_and_of_none() -> None:
    model = HierarchicalRiskParity().fit(returns(1))
    assert stack(plot_waterfall(model, "A000")) == [(1.0, 1.0)]
    with pytest.raises(DataError, match="'XYZ' was not fitted"):
        plot_waterfall(model, "XYZ")


@pytest.mark.parametrize("width", [4.5, 8.0])
def test_waterfall_fits_a_narrow_page(width: float) -> None:
    frame = returns(60)
    model = HierarchicalRiskParity().fit(frame.set_axis([f"WRAPPED-{c}-USD" for c in frame], axis=1))
    chart = plot_waterfall(model, model.order_[0])
    chart.set_size_inches(width, chart.get_figheight())
    assert not overlaps(chart, chart.axes[0], "x") and not overlaps(chart, chart.axes[0], "y")
    for text in chart.axes[0].texts:
        assert text.get_window_extent().x1 <= chart.bbox.x1 + 1


# ---------------------------------------------------------------- intervals


def test_intervals_largest_first_and_hollow_where_equal_weight_lies_inside() -> None:
    table = intervals(A=0.1, B=0.5, C=0.26, D=0.14)
    ax = plot_weight_intervals(table).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["B", "C", "D", "A"]
    bars, dots = ax.collections
    segments = np.array(bars.get_segments())
    np.testing.assert_allclose(segments[:, :, 0], [[0.45, 0.55], [0.21, 0.31], [0.09, 0.19], [0.05, 0.15]])
    np.testing.assert_allclose(dots.get_offsets()[:, 0], [0.5, 0.26, 0.14, 0.1])
    hollow = (dots.get_facecolors()[:, :3] == 1).all(axis=1)
    assert hollow.tolist() == [False, True, False, False]
    assert ax.lines[0].get_xdata()[0] == 0.25
    assert "90% of 500 resamples, blocks of 8.0 rows" in ax.get_xlabel()


def test_several_tables_stand_beside_each_other() -> None:
    tables = {"sample": intervals(A=0.6, B=0.4), "shrunk": intervals(B=0.45, A=0.55)}
    chart = plot_weight_intervals(tables, {"held": {"A": 0.5}})
    ax = chart.axes[0]
    assert [t.get_text() for t in chart.legends[0].get_texts()] == ["sample", "shrunk", "held", "equal weight"]
    first, second = ax.collections[1].get_offsets(), ax.collections[3].get_offsets()
    np.testing.assert_allclose(second[:, 0], [0.55, 0.45])
    assert (first[:, 1] < second[:, 1]).all() and (second[:, 1] - first[:, 1] < 1).all()


def test_any_number_of_tables_is_drawn() -> None:
    tables = {str(k): intervals(A=0.6, B=0.4) for k in range(7)}
    assert len(plot_weight_intervals(tables).axes[0].collections) == 14


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


def test_a_metric_that_is_missing_now_is_not_replaced_by_an_older_one() -> None:
    table = pd.DataFrame({"sharpe": [1.0, 2.0, np.nan]}, DAYS[:3])
    assert plot_metrics(table).axes[0].get_title(loc="left") == "Sharpe ratio: no value"


def test_a_band_stands_behind_its_metric_only() -> None:
    left, right, *_ = plot_metrics(metrics(), bands={"sharpe": band()[60:]}).axes
    assert not left.collections
    corners = right.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == band()["low"].iloc[60] and corners[:, 1].max() == band()["high"].iloc[-1]


@pytest.mark.parametrize("values", [[1.0], [np.nan, 1.0, np.nan], [1.0, np.nan, 2.0]])
def test_a_point_between_gaps_is_a_dot(values: list[float]) -> None:
    top, low = plot_equity(pd.Series(values, DAYS[: len(values)])).axes
    for line in top.lines[0], low.lines[0]:
        assert line.get_marker() == "." and line.get_markevery() == np.flatnonzero(~np.isnan(values)).tolist()
    left, right = top.get_xlim()
    assert right - left < 3  # days, not the four years that matplotlib puts around a single date


def test_a_line_without_lonely_points_has_no_marks() -> None:
    assert plot_equity(equity()).axes[0].lines[0].get_marker() == ""


def test_spells_reach_from_peak_to_recovery_and_the_last_one_to_the_end() -> None:
    value = pd.Series([100.0, 120.0, 90.0, np.nan, 121.0, 130.0, 117.0], DAYS[:7])
    top, low = plot_equity(value, spells=5).axes
    assert low.get_title(loc="left") == "Drawdown   1: 25%   2: 10%"
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in low.patches]
    first = float(top.lines[0].get_xdata(orig=False)[0])
    assert [(round(a - first, 6), round(b - first, 6)) for a, b in spans] == [(1, 4), (5, 6)]
    assert [t.get_text() for t in low.texts] == ["1", "2"] and len(top.patches) == 2


def test_equity_that_never_falls_has_no_spell() -> None:
    low = plot_equity(pd.Series([1.0, 1.1, 1.2], DAYS[:3]), spells=3).axes[1]
    assert low.get_title(loc="left") == "Drawdown" and not low.texts


@pytest.mark.parametrize("last", [1.02, 3.0, 30.0, 1e6])
def test_a_log_scale_is_labelled_however_little_it_spans(last: float) -> None:
    chart = plot_equity(pd.Series(np.geomspace(1, last, 9), DAYS[:9]), log=True)
    chart.draw_without_rendering()
    low, high = chart.axes[0].get_ylim()
    shown = [float(t.get_text().replace(",", "")) for t in chart.axes[0].get_yticklabels() if t.get_text()]
    assert 2 <= sum(low <= x <= high for x in shown) <= 9


def test_names_of_two_close_limits_do_not_run_into_each_other() -> None:
    chart = plot_equity((equity() / 1e5) ** 9, warning=0.1, critical=0.12)
    chart.draw_without_rendering()
    first, second = (t.get_window_extent() for t in chart.axes[1].texts)
    assert first.x1 < second.x0


def test_long_names_are_cut_where_they_stay_apart() -> None:
    names = [f"WRAPPED-STAKED-ETHER-ON-CHAIN-{i:02d}" for i in range(20)]
    for chart in plot_weights(dict.fromkeys(names, 0.05)), plot_risk_contributions(dict.fromkeys(names, 0.05)):
        labels = [t.get_text() for t in chart.axes[0].get_yticklabels()]
        assert len(set(labels)) == 20 and max(map(len, labels)) <= 20


def test_negative_percents_carry_a_real_minus_and_zero_none() -> None:
    chart = plot_weights({"BTC": 1.2, "ETH": -0.2})
    chart.draw_without_rendering()
    labels = [t.get_text() for t in chart.axes[0].get_xticklabels()]
    assert "−20%" in labels and "0%" in labels and not any(label.startswith("-") for label in labels)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_weights({}), "no weights to draw"),
        (lambda: plot_weights({"A": np.nan}), "no weights to draw"),
        (lambda: plot_weights(WEIGHTS, {}), "no target weights to draw"),
        (lambda: plot_weights(pd.Series([0.5, 0.5], ["A", "A"])), "weights name A twice"),
        (lambda: plot_risk_contributions({}), "no risk contributions to draw"),
        (lambda: plot_weight_intervals({}), "no intervals to draw"),
        (lambda: plot_weight_intervals(intervals(A=1.0)[:0]), "no intervals to draw"),
        (lambda: plot_weight_intervals({"a": intervals(A=1.0), "b": intervals(B=1.0)}), "b has no interval of A"),
        (lambda: plot_weight_intervals(intervals(A=1.0), {"held": {}}), "no held to draw"),
        (lambda: plot_equity(pd.Series(dtype=float)), "no equity values to draw"),
        (lambda: plot_equity(equity(), equity().set_axis(DAYS.shift(999))), "no time in common"),
        (lambda: plot_equity(pd.Series([1.0, 0.0]), log=True), "logarithmic scale cannot show: draw with log=False"),
        (lambda: plot_equity(pd.Series([1.0, np.inf], ["a", "b"])), "equity values hold an infinite number at b"),
        (lambda: plot_weights({"A": -np.inf}), "weights hold an infinite number at A"),
        (lambda: plot_metrics(metrics()[:0]), "no metrics to draw"),
        (lambda: plot_metrics(metrics(), []), "no metrics to draw"),
        (lambda: plot_metrics(metrics(), ["alpha"]), "no metric alpha in the table: choose from volatility, sharpe"),
    ],
)
def test_nothing_to_draw_is_an_error(draw, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()
