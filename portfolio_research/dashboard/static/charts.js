/* The charts: plotly.min.js of the installed plotly package, fetched once, after the first numbers are on the screen. */
import { h } from "./dom.js";
import { day, money, percent } from "./format.js";

let loading = null;

export function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: new URL("./plotly.min.js", import.meta.url).href });
    script.addEventListener("load", () => (window.Plotly ? resolve(window.Plotly) : reject(new Error("plotly did not start"))));
    script.addEventListener("error", () => { loading = null; script.remove(); reject(new Error("plotly could not be loaded")); });
    document.head.append(script);
  });
  return loading;
}

const css = (name, root) => getComputedStyle(root).getPropertyValue(name).trim();
/* plotly reads a little markup in texts */
const plain = (value) => String(value).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };

function base(root) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: css("--font", root), size: 11.5, color: css("--muted", root) },
    hoverlabel: { bgcolor: css("--raised", root), bordercolor: css("--line", root), font: { color: css("--text", root) } },
    showlegend: false, dragmode: false, transition: { duration: 0 },
  };
}

export function performance(plotly, node, snapshot) {
  const { equity: series, limits, quote } = snapshot;
  const line = css("--line", node);
  const floor = Math.min(-0.01, ...series.drawdown.filter((value) => value !== null));
  const depth = floor * 1.25;
  const shown = [["warning", limits.max_drawdown_warning], ["critical", limits.max_drawdown_critical]]
    .filter(([, level]) => level && -level >= depth * 1.35);
  const reach = Math.min(depth, ...shown.map(([, level]) => -level * 1.18));
  const axis = { gridcolor: line, zeroline: false, linecolor: line, tickcolor: line, fixedrange: true, automargin: true };
  const traces = [
    { x: series.t, y: series.benchmark, name: "equal weight", line: { color: css("--muted", node), width: 1.4, dash: "dot" },
      hovertemplate: `equal weight %{y:,.0f}<extra></extra>` },
    { x: series.t, y: series.equity, name: "portfolio", line: { color: css("--accent", node), width: 2.2 },
      hovertemplate: `portfolio %{y:,.0f}<extra></extra>` },
    { x: series.t, y: series.drawdown, name: "drawdown", yaxis: "y2", fill: "tozeroy",
      line: { color: css("--loss", node), width: 1.4 }, fillcolor: css("--loss-soft", node),
      hovertemplate: "drawdown %{y:.1%}<extra></extra>" },
  ].map((trace) => ({ type: "scatter", mode: "lines", ...trace }));
  const layout = {
    ...base(node), margin: { l: 8, r: 10, t: 8, b: 40 }, hovermode: "x unified",
    xaxis: { ...axis, anchor: "y2", type: "date", showgrid: false, hoverformat: "%-d %b %Y", nticks: node.clientWidth < 500 ? 4 : 8 },
    yaxis: { ...axis, domain: [0.36, 1], tickformat: "~s", nticks: 6, tickprefix: quote === "USD" ? "$" : "" },
    yaxis2: { ...axis, domain: [0, 0.28], tickformat: ".0%", nticks: 4, range: [reach, 0.002] },
    shapes: shown.map(([word, level]) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, yref: "y2", y0: -level, y1: -level,
      line: { color: css(word === "critical" ? "--critical" : "--high", node), width: 1, dash: "dash" } })),
    annotations: shown.map(([word, level]) => ({
      xref: "paper", x: 0, xanchor: "left", yref: "y2", y: -level, yanchor: "bottom", showarrow: false,
      text: `${word} ${percent(level, 0)}`, font: { size: 10.5, color: css(word === "critical" ? "--critical" : "--high", node) } })),
  };
  node.setAttribute("aria-label", describe(snapshot));
  return plotly.react(node, traces, layout, CONFIG);
}

function describe({ equity: series, quote, overview }) {
  if (!series.t.length) return "No equity yet.";
  const last = series.t.length - 1;
  return `Equity from ${money(series.equity[0], quote, 0)} on ${day(series.t[0])} to ${money(series.equity[last], quote, 0)} on ` +
    `${day(series.t[last])}; equal weight ends at ${money(series.benchmark[last], quote, 0)}; ` +
    `drawdown now ${percent(overview.drawdown)}, at worst ${percent(overview.max_drawdown)}.`;
}

/* The largest holdings get a colour each, the rest share one; the table beside it shows the same colours. */
export const PALETTE = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s8"];

export function donut(plotly, node, snapshot) {
  const held = snapshot.allocation.filter((row) => row.weight > 0).sort((a, b) => b.weight - a.weight);
  const rest = held.slice(PALETTE.length);
  const slices = held.slice(0, PALETTE.length).map((row, i) => ({ name: row.asset, weight: row.weight, colour: PALETTE[i] }));
  if (rest.length) {
    slices.push({ name: `${rest.length} others`, weight: rest.reduce((sum, row) => sum + row.weight, 0), colour: "--s-rest" });
  }
  const cash = 1 - held.reduce((sum, row) => sum + row.weight, 0);
  if (cash > 0.0005) slices.push({ name: "cash", weight: cash, colour: "--line" });
  const trace = {
    type: "pie", hole: 0.64, sort: false, direction: "clockwise", textinfo: "none", labels: slices.map((one) => plain(one.name)),
    values: slices.map((one) => one.weight), hovertemplate: "%{label} %{percent}<extra></extra>",
    marker: { colors: slices.map((one) => css(one.colour, node)), line: { color: css("--card", node), width: 2 } },
  };
  const effective = 1 / held.reduce((sum, row) => sum + row.weight ** 2, 0);
  const layout = {
    ...base(node), margin: { l: 4, r: 4, t: 4, b: 4 },
    annotations: held.length ? [
      { text: `<b>${held.length}</b>`, y: 0.56, showarrow: false, font: { size: 24, color: css("--text", node) } },
      { text: `assets, effectively ${effective.toFixed(1)}`, y: 0.42, showarrow: false, font: { size: 10.5 } }] : [],
  };
  node.setAttribute("aria-label", `Allocation: ${slices.map((one) => `${one.name} ${percent(one.weight)}`).join(", ")}`);
  return plotly.react(node, [trace], layout, CONFIG);
}
