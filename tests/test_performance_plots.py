"""Performance figures: every bar, band and mark is the number it stands for, at any length and with any gap."""

from math import fsum
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from portfolio_research.config import ConfigError, DataError
from portfolio_research.metrics import report
from portfolio_research.performance_plots import (
    _calendar,
    _sharpe_errors,
    plot_attribution,
    plot_distribution,
    plot_intervals,
    plot_monthly_returns,
    plot_regimes,
    plot_rolling,
    plot_stress,
)
from portfolio_research.plots import COLORS, Chart


def path(rows: int = 400, start: str = "2023-01-01", freq: str = "D", tz: str | None = "UTC") -> pd.Series:
    rng = np.random.default_rng(rows)
    return pd.Series(rng.standard_t(4, rows) * 0.02, pd.date_range(start, periods=rows, freq=freq, tz=tz), name="book")


def labels(values: pd.Series) -> pd.Series:
    return pd.Series(np.array(["low", "normal", "high"])[np.arange(len(values)) // 7 % 3], values.index)


LOSSES = pd.DataFrame(
    {"BTC": [0.10, -0.02, 0.03], "ETH": [0.05, 0.01, np.nan], "SOL": [-0.01, 0.02, 0.01]}, ["crash", "rally", "unknown"]
)
TABLE = pd.DataFrame({"value": [0.22, 0.3], "low": [-0.91, 0.2], "high": [1.36, 0.5]}, ["sharpe", "volatility"])
PARTS = pd.Series({"BTC": 0.05, "ETH": -0.02, "fees": -0.001})
INPUTS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "rolling": (plot_rolling, (path(), 60), {}),
    "monthly": (plot_monthly_returns, (path(),), {}),
    "attribution": (plot_attribution, (PARTS, 0.029), {}),
    "regimes": (plot_regimes, (path().cumsum(), labels(path())), {}),
    "log regimes": (plot_regimes, ((1 + path()).cumprod(), labels(path())), {"log": True}),
    "stress": (plot_stress, (LOSSES, pd.Series({"crash": 0.4})), {"warning": 0.1, "critical": 0.2}),
    "distribution": (plot_distribution, (path(),), {}),
    "intervals": (plot_intervals, (TABLE,), {}),
}


def equal(a: Any, b: Any) -> bool:
    return bool(a.equals(b)) if isinstance(a, (pd.Series, pd.DataFrame)) else a == b


@pytest.mark.parametrize("name", INPUTS)
def test_same_data_same_bytes_and_nothing_changed(name: str) -> None:
    draw, data, options = INPUTS[name]
    before, style = [d.copy() if hasattr(d, "copy") else d for d in data], dict(mpl.rcParams)
    first, second = draw(*data, **options), draw(*data, **options)
    assert isinstance(first, Chart) and first.svg() == second.svg() and first.png(dpi=40) == second.png(dpi=40)
    assert all(map(equal, data, before)) and dict(mpl.rcParams) == style


def ticks(ax: Axes) -> list[Any]:
    """The labels that are in view; matplotlib keeps others beyond the ends."""
    found = []
    for axis in ax.xaxis, ax.yaxis:
        low, high = sorted(axis.get_view_interval())
        found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
    return found


def texts_fit(chart: Chart) -> bool:
    """Whether every text lies within the page."""
    chart.draw_without_rendering()
    page = chart.bbox
    drawn = [t for ax in chart.axes for t in (*ax.texts, *ticks(ax), ax.title)]
    drawn += [t for legend in chart.legends for t in legend.get_texts()]
    boxes = [t.get_window_extent() for t in drawn if t.get_text()]
    return all(b.x0 >= page.x0 - 1 and b.x1 <= page.x1 + 1 and b.y0 >= page.y0 - 1 for b in boxes)


def apart(chart: Chart, texts: list[Any]) -> bool:
    """Whether no two of these texts cover each other."""
    chart.draw_without_rendering()
    boxes = [t.get_window_extent().shrunk(0.98, 0.98) for t in texts if t.get_text()]
    return not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def handles(chart: Chart) -> list[str]:
    return [t.get_text() for t in chart.legends[0].get_texts()]


# ---------------------------------------------------------------- rolling


def test_every_point_of_the_band_is_the_report_of_its_window() -> None:
    values = path(80)
    options = {"periods_per_year": 252, "risk_free_rate": 0.03}
    ax = plot_rolling(values, 20, **options).axes[1]
    drawn = ax.collections[0].get_paths()[0].vertices
    for end in (20, 47, 80):
        known = report(values.iloc[end - 20 : end], **options)
        for side in -1.96, 1.96:
            assert np.isclose(drawn[:, 1], known["sharpe"] + side * known["sharpe_se"], rtol=1e-9).any()


def test_long_windows_in_parts_are_the_same() -> None:
    x = path(2000).to_numpy()
    whole = _sharpe_errors(x, 700, 365, 0.0)
    assert np.isnan(whole[:699]).all() and np.isfinite(whole[699:]).all()
    for end in (700, 1100, 2000):
        assert whole[end - 1] == pytest.approx(report(pd.Series(x[end - 700 : end]))["sharpe_se"], rel=1e-9)


def test_nothing_before_the_first_full_window_and_gaps_stay_gaps() -> None:
    values = path(100)
    values.iloc[50] = np.nan
    for ax in plot_rolling(values, 20).axes:
        drawn = np.asarray(ax.lines[0].get_ydata())
        assert np.isnan(drawn[:19]).all() and np.isnan(drawn[50:70]).all() and np.isfinite(drawn[[19, 49, 70, 99]]).all()


def test_a_constant_has_no_sharpe_ratio_and_no_band() -> None:
    calm, sharpe, _ = plot_rolling(pd.Series(0.001, path(50).index), 20).axes
    assert sharpe.get_title(loc="left") == "Sharpe ratio: no value" and calm.get_title(loc="left") == "Volatility: 0%"


# ---------------------------------------------------------------- months


def cells(chart: Chart) -> dict[tuple[int, str], str]:
    """Texts by year and month."""
    ax = chart.axes[0]
    years = [int(t.get_text()) for t in ax.get_yticklabels()]
    columns = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    return {(years[int(y)], columns[x]): t.get_text() for t in ax.texts for x, y in [t.get_position()]}


def test_months_and_years_compound() -> None:
    values = pd.Series(0.0, pd.date_range("2023-11-01", "2024-01-01"))
    values[["2023-11-01", "2023-11-30", "2023-12-31", "2024-01-01"]] = 0.10, -0.10, 0.5, -0.25
    assert cells(plot_monthly_returns(values)) == {
        (2023, "Nov"): "−1.0", (2023, "Dec"): "50", (2023, "Year"): "48*", (2024, "Jan"): "−25*", (2024, "Year"): "−25*"
    }  # fmt: skip


def test_losses_are_seen_without_colour() -> None:
    ax = plot_monthly_returns(path()).axes[0]
    assert {t.get_weight() for t in ax.texts if t.get_text().startswith("−")} == {"bold"}
    assert {t.get_weight() for t in ax.texts if not t.get_text().startswith("−")} == {"normal"}


def marked(values: pd.Series) -> set[str]:
    years, _, marks = _calendar(values)
    return {f"{years[i]}-{j + 1:02d}" for i, j in np.argwhere(marks[:, :12])}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (path(365), set()),
        (path(366), {"2024-01"}),
        (path(364), {"2023-12"}),
        (path(364, "2023-01-02"), {"2023-01"}),
        (path(365).drop(pd.Timestamp("2023-05-31", tz="UTC")), {"2023-05"}),
        (path(365).drop(pd.date_range("2023-05-31", "2023-06-01", tz="UTC")), {"2023-05", "2023-06"}),
        (path(365).mask(path(365).index == "2023-07-04"), {"2023-07"}),
        (path(365).mask(path(365).index < "2023-02-01"), set()),  # January has no return, and no cell
        (path(260, freq="B"), set()),  # 2 January to 29 December
        (path(260, freq="B").drop(pd.date_range("2023-09-12", "2023-09-15", tz="UTC")), set()),
        (path(260, freq="B").drop(pd.date_range("2023-09-11", "2023-09-15", tz="UTC")), {"2023-09"}),
        (path(260, freq="B").mask(path(260, freq="B").index == "2023-07-04"), {"2023-07"}),
        (path(250, freq="B"), {"2023-12"}),
        (path(24 * 59, freq="h"), set()),
        (path(24, freq="ME", tz=None), set()),
        (path(24, freq="MS", tz=None), set()),
        (path(24, freq="BME", tz=None), set()),
        (path(24, freq="ME", tz=None).iloc[[*range(7), *range(8, 24)]], {"2023-09"}),
        (path(52, freq="W", tz=None), set()),
        (path(1), {"2023-01"}),
    ],
)
def test_a_month_that_lacks_days_is_marked(values: pd.Series, expected: set[str]) -> None:
    assert marked(values) == expected


def test_a_year_that_lacks_a_month_is_marked() -> None:
    years, _, marks = _calendar(path(500, "2022-12-01"))
    assert years == [2022, 2023, 2024] and marks[:, 12].tolist() == [True, False, True]


def test_dates_count_in_utc_and_in_any_order() -> None:
    values = pd.Series([0.1, 0.2], pd.to_datetime(["2024-03-01 03:00", "2024-02-29 03:00"]).tz_localize("Asia/Tokyo"))
    assert cells(plot_monthly_returns(values))[2024, "Feb"].startswith("32")


@pytest.mark.parametrize("years", [1, 5, 16, 30])
def test_numbers_of_any_history_fit_their_cells(years: int) -> None:
    chart = plot_monthly_returns(path(365 * years, tz=None) * 5)
    assert apart(chart, list(chart.axes[0].texts)) and texts_fit(chart)
    assert chart.get_figheight() < 0.25 * (years + 1) + 1


# ---------------------------------------------------------------- attribution


def waterfall(ax: Axes) -> list[tuple[str, float, float, bool]]:
    """Label, start, end and whether it is hatched, from the top down."""
    names = [t.get_text() for t in ax.get_yticklabels()]
    bars = sorted(ax.patches, key=lambda p: p.get_y())
    return [(names[i], p.get_x(), p.get_x() + p.get_width(), p.get_hatch() is not None) for i, p in enumerate(bars)]


def test_each_part_begins_where_the_one_above_ended() -> None:
    rows = waterfall(plot_attribution(PARTS).axes[0])
    assert [(name, hatched) for name, _, _, hatched in rows] == [("BTC", False), ("ETH", True), ("fees", True), ("total", False)]
    np.testing.assert_allclose([row[1:3] for row in rows], [[0, 0.05], [0.05, 0.03], [0.03, 0.029], [0, 0.029]], atol=1e-15)


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.integers(1, 15))
def test_any_grouping_ends_at_the_total(parts: list[float], largest: int) -> None:
    values = pd.Series(parts, [f"A{i}" for i in range(len(parts))])
    rows = waterfall(plot_attribution(values, fsum(parts), largest=largest).axes[0])
    assert len(rows) <= largest + 2 and rows[-1][2] == fsum(parts)
    assert rows[-2][2] == pytest.approx(fsum(parts), abs=1e-12)


def test_small_parts_are_one_and_say_how_many() -> None:
    values = pd.Series({f"A{i}": 0.01 * (i + 1) * (-1) ** i for i in range(10)})
    rows = waterfall(plot_attribution(values, largest=3).axes[0])
    assert [row[0] for row in rows] == ["A7", "A8", "A9", "other (7)", "total"]
    assert rows[3][2] - rows[3][1] == pytest.approx(values[:7].sum())


def test_labels_of_several_levels_are_joined() -> None:
    index = pd.MultiIndex.from_tuples([("hrp", "BTC"), ("hrp", "fees")])
    rows = waterfall(plot_attribution(pd.Series([0.1, -0.01], index)).axes[0])
    assert [row[0] for row in rows] == ["hrp · BTC", "hrp · fees", "total"]


def test_a_residual_is_refused_and_named() -> None:
    with pytest.raises(DataError, match=r"sum to 2.900000%, not to 3.000000%: a residual of \+0.100000% has no label"):
        plot_attribution(PARTS, 0.03)
    plot_attribution(PARTS, 0.029 + 1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 40.0])
def test_values_at_the_ends_fit(scale: float) -> None:
    for sign in 1, -1:
        chart = plot_attribution(pd.Series({f"STAKED-ETHER-{i}": sign * scale * (i - 3) for i in range(9)}))
        assert texts_fit(chart)


# ---------------------------------------------------------------- regimes


def bands(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    """Left and right ends in days from the first band, by name without its share."""
    found = {str(c.get_label()).split()[0]: [p.get_extents() for p in c.get_paths()] for c in chart.axes[0].collections}
    start = min(box.x0 for boxes in found.values() for box in boxes)
    return {name: [(round(b.x0 - start, 6), round(b.x1 - start, 6)) for b in boxes] for name, boxes in found.items()}


def test_bands_reach_to_the_day_of_the_change() -> None:
    values = path(6)
    drawn = bands(plot_regimes(values, pd.Series(["low", "low", "high", None, "normal", "high"], values.index)))
    assert drawn == {"low": [(0, 2)], "normal": [(4, 5)], "high": [(2, 3), (5, 6)]}


def test_legend_says_how_much_of_the_known_time_each_took() -> None:
    values = path(10)
    chart = plot_regimes(values, pd.Series(["high"] * 3 + ["low"] * 1, values.index[:4]))
    assert [t.get_text() for t in chart.axes[0].get_legend().get_texts()] == ["low 25%", "high 75%"]


def test_bands_differ_in_grey() -> None:
    chart = plot_regimes(path(30), labels(path(30)))
    low, normal, high = chart.axes[0].collections
    grey = [float(np.dot(to_rgb(c.get_facecolor()[0]), [0.299, 0.587, 0.114])) for c in (low, normal, high)]
    assert grey[1] > grey[0] + 0.05 > grey[2] + 0.2 and high.get_hatch() and not low.get_hatch()


def test_other_names_and_numbers_are_labels_too() -> None:
    values = pd.Series(np.arange(8.0))
    drawn = bands(plot_regimes(values, pd.Series([0, 0, 1, 1, 2, 2, 3, 3])))
    assert drawn == {"0": [(0, 2)], "1": [(2, 4)], "2": [(4, 6)], "3": [(6, 8)]}


# ---------------------------------------------------------------- stress


def test_bars_of_a_scenario_are_its_holdings_and_the_stroke_their_sum() -> None:
    chart = plot_stress(LOSSES)
    ax = chart.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["crash", "rally", "unknown"]
    (strokes,) = [c for c in ax.collections if c.get_label() == "sum"]
    np.testing.assert_allclose(np.ma.filled(strokes.get_offsets()[:, 0], np.nan), [0.14, 0.01, np.nan])
    for row, name in enumerate(LOSSES.index[:2]):
        lengths = [p.get_width() for p in ax.patches if round(p.get_y() + 0.28, 6) == row]
        assert sorted(lengths) == pytest.approx(sorted(LOSSES.loc[name]))
    assert [t.get_text() for t in ax.texts] == ["14%", "1%", "cannot be known"]


def test_an_unknown_loss_has_no_bar_rather_than_part_of_one() -> None:
    ax = plot_stress(LOSSES).axes[0]
    assert not any(p.get_width() for p in ax.patches if round(p.get_y() + 0.28, 6) == 2)


def test_many_scenarios_without_an_answer_share_a_row() -> None:
    losses = pd.concat([LOSSES, pd.DataFrame(np.nan, [f"old {i}" for i in range(4)], LOSSES.columns)])
    ax = plot_stress(losses).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["crash", "rally", "5 scenarios"]
    assert [t.get_text() for t in ax.texts] == ["14%", "1%", "cannot be known"]


def test_gains_are_left_of_zero() -> None:
    ax = plot_stress(LOSSES).axes[0]
    ends = [sorted((p.get_x(), p.get_x() + p.get_width())) for p in ax.patches if p.get_width() < 0]
    assert ends and all(high <= 1e-15 for _, high in ends)


def test_proxied_share_is_hatched_and_said() -> None:
    chart = plot_stress(LOSSES, {"crash": 0.4})
    assert chart.axes[0].texts[0].get_text() == "14%, 40% proxied"
    strips = [p for p in chart.axes[0].patches if abs(p.get_height() - 0.16) < 1e-9 and p.get_width()]
    assert [p.get_width() for p in strips] == [pytest.approx(0.4 * 0.15)] and strips[0].get_hatch()
    assert "rests on proxies" in handles(chart) and "rests on proxies" not in handles(plot_stress(LOSSES))


def test_small_holdings_become_others_and_limits_are_named() -> None:
    rng = np.random.default_rng(0)
    losses = pd.DataFrame(rng.normal(0.002, 0.003, (7, 50)), columns=[f"LONG-NAME-OF-AN-ASSET-{i}" for i in range(50)])
    chart = plot_stress(losses, warning=0.1, critical=0.2)
    names = handles(chart)
    assert {"others (46)", "sum", "warning 10%", "critical 20%"} < set(names) and len(names) == 8
    assert texts_fit(chart) and apart(chart, list(chart.legends[0].get_texts()))


# ---------------------------------------------------------------- distribution


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 5).map(lambda x: round(x, 4)), min_size=1, max_size=60), st.sampled_from([0.01, 0.05, 0.3]))
def test_the_hatched_bars_are_the_tail(returns: list[float], alpha: float) -> None:
    values = pd.Series(returns)
    chart = plot_distribution(values, alpha=alpha)
    bars = chart.axes[0].patches
    tail = int((values <= -report(values, alpha=alpha)["var_historical"]).sum())
    assert sum(p.get_height() for p in bars) == len(values)
    assert sum(p.get_height() for p in bars if p.get_hatch()) == tail
    assert f", {tail:,} at or beyond the" in chart.axes[0].get_title(loc="left")


def test_lines_stand_at_the_losses_of_the_report() -> None:
    values, known = path(), report(path(), alpha=0.1)
    lines = {str(line.get_label()).split()[0]: line for line in plot_distribution(values, alpha=0.1).axes[0].lines}
    assert lines["VaR"].get_xdata()[0] == -known["var_historical"]
    assert lines["CVaR"].get_xdata()[0] == -known["cvar_historical"]


def test_the_bell_has_the_area_of_the_bars() -> None:
    ax = plot_distribution(path(2000)).axes[0]
    bell = next(line for line in ax.lines if line.get_label() == "normal")
    area = np.trapezoid(bell.get_ydata(), bell.get_xdata())
    assert area == pytest.approx(2000 * ax.patches[0].get_width(), rel=1e-3)


def test_a_giant_gain_does_not_squeeze_the_losses() -> None:
    values = path(1000)
    values.iloc[500] = 4.0
    ax = plot_distribution(values).axes[0]
    assert ax.get_xlim()[0] < values.min() and ax.get_xlim()[1] < 1
    beyond = int((values > -values.min()).sum())
    assert ax.get_xlabel() == f"last bar: {beyond} of {float(f'{-100 * values.min():.3g}'):.4g}% or more, up to 400%"
    assert sum(p.get_height() for p in ax.patches) == 1000
    assert plot_distribution(path(1000)).axes[0].get_xlabel() == ""


@pytest.mark.parametrize("values", [[0.01], [0.0] * 9, [0.001] * 9, [1e-12, -2e-12, 3e-12], [0.1, -1.0, 4.0], [0.01, np.nan]])
def test_odd_returns_are_drawn(values: list[float]) -> None:
    chart = plot_distribution(pd.Series(values))
    chart.svg()
    left, right = chart.axes[0].get_xlim()
    assert right > left and len(chart.axes[0].patches) <= 90


# ---------------------------------------------------------------- intervals


def test_rows_say_value_and_interval_in_their_unit() -> None:
    chart = plot_intervals(TABLE)
    assert [ax.get_yticklabels()[0].get_text() for ax in chart.axes] == ["Sharpe ratio", "Volatility"]
    assert [ax.texts[0].get_text() for ax in chart.axes] == ["0.22  [−0.91, 1.36]", "30%  [20%, 50%]"]
    assert [len(ax.lines) for ax in chart.axes] == [2, 1]  # zero is drawn where it lies in the picture
    assert texts_fit(chart)


def test_an_interval_that_is_missing_says_so() -> None:
    table = pd.DataFrame({"value": [0.1, np.nan], "low": [np.nan] * 2, "high": [np.nan] * 2}, ["cagr", "own"])
    chart = plot_intervals(table)
    assert [ax.texts[0].get_text() for ax in chart.axes] == ["10%, no interval", "cannot be computed"]
    chart.svg()


# ---------------------------------------------------------------- any data


@pytest.mark.parametrize(("rows", "tz"), [(1, None), (1, "UTC"), (2, "UTC"), (30, "Asia/Tokyo"), (365 * 30, None)])
def test_a_day_or_thirty_years(rows: int, tz: str | None) -> None:
    values = path(rows, tz=tz)
    charts = [plot_monthly_returns(values), plot_regimes(values, labels(values)), plot_distribution(values)]
    charts += [plot_rolling(values, min(rows, 365))] if rows > 1 else []
    for chart in charts:
        assert texts_fit(chart)


def test_gaps_at_any_place() -> None:
    values = path(200)
    values.iloc[[0, 1, 50, 51, 120, -1]] = np.nan
    for chart in (
        plot_monthly_returns(values), plot_regimes(values, labels(values)), plot_distribution(values), plot_rolling(values, 20)
    ):  # fmt: skip
        chart.draw_without_rendering()
    drawn = plot_regimes(values, labels(values)).axes[0].lines[0].get_ydata()
    assert np.isnan(drawn).sum() == 6


def test_colours_are_of_the_palette() -> None:
    assert to_hex(plot_attribution(PARTS).axes[0].patches[0].get_facecolor()) == COLORS["blue"].lower()


# ---------------------------------------------------------------- refusals


EMPTY = pd.Series(dtype=float)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_rolling(EMPTY, 20), "no returns to draw"),
        (lambda: plot_rolling(path(10), 20), "no 20 returns in a row among 10: choose a shorter window"),
        (lambda: plot_rolling(path(30).mask(np.arange(30) % 10 == 5), 20), "fill the gaps"),
        (lambda: plot_rolling(path(30) * np.inf, 20), "returns hold an infinite number at 2023-01-01"),
        (lambda: plot_monthly_returns(EMPTY), "no returns to draw"),
        (lambda: plot_monthly_returns(pd.Series([0.1, 0.2])), "give the returns a DatetimeIndex"),
        (lambda: plot_attribution({}), "no contributions to draw"),
        (lambda: plot_attribution({"BTC": 0.1, "ETH": np.nan}), "the contribution of ETH is unknown"),
        (lambda: plot_attribution(PARTS, np.nan), "has no label"),
        (lambda: plot_regimes(EMPTY, EMPTY), "no values to draw"),
        (lambda: plot_regimes(path(9), labels(path(9, "1999-01-01"))), "no time in common"),
        (lambda: plot_regimes(path(9), labels(path(9)), log=True), "draw with log=False"),
        (lambda: plot_stress(LOSSES[:0]), "no losses to draw"),
        (lambda: plot_stress(LOSSES[["ETH"]][2:]), "no losses to draw"),
        (lambda: plot_stress(LOSSES.iloc[[0, 0]]), "the losses name crash twice"),
        (lambda: plot_stress(LOSSES.set_axis(["A", "B", "A"], axis=1)), "the losses name A twice"),
        (lambda: plot_stress(LOSSES * np.inf), "the loss of BTC in crash is infinite"),
        (lambda: plot_distribution(EMPTY), "no returns to draw"),
        (lambda: plot_distribution(pd.Series([np.nan])), "no returns to draw"),
        (lambda: plot_intervals(TABLE[:0]), "no values to draw"),
        (lambda: plot_intervals(TABLE[["value", "low"]]), "no column high"),
    ],
)
def test_nothing_to_draw_is_an_error(draw: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="window of at least 2"):
        plot_rolling(path(9), 1)
    with pytest.raises(ConfigError, match="alpha is 5"):
        plot_distribution(path(9), alpha=5)
