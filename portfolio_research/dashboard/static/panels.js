/* The sections of the page. Each is { root, update(snapshot) }; an update patches what changed and nothing else. */
import { attr, follow, h, panel, show, svg, table, text } from "./dom.js";
import { RANK, paintChip, severityChip } from "./alerts.js";
import { PALETTE } from "./charts.js";
import { arrow, capital, day, interval, metric, money, NONE, number, percent, sentence, signed, size, tone, words } from "./format.js";

/* On a card, cents only where they can be read */
const brief = (value, quote) => money(value, quote, Math.abs(value) < 1e5 ? 2 : 0);
const moved = (value, shown) => (value === null || value === undefined ? NONE : `${arrow(value)} ${signed(value, shown)}`.trim());
const isNumber = (value) => typeof value === "number";

/* ---- overview cards ---- */

export function cards() {
  const root = h("section", { class: "cards", id: "overview", "aria-label": "Overview" });
  const make = (id, label) => {
    const card = {
      value: h("strong", { class: "value" }), note: h("span", { class: "note" }), extra: h("div", { class: "extra" }),
    };
    card.root = h("article", { class: "card", id }, h("h2", {}, label), card.value, card.note, card.extra);
    root.append(card.root);
    return card;
  };
  const value = make("card-value", "Portfolio value");
  const today = make("card-day", "P&L, last day");
  const span = make("card-window", "P&L, window");
  const risk = make("card-risk", "Risk score");
  const fall = make("card-drawdown", "Drawdown");
  const count = make("card-positions", "Positions");
  const spark = sparkline();
  value.extra.append(spark.root);
  const scale = meter();
  risk.extra.append(scale.root);
  const depth = meter();
  fall.extra.append(depth.root);
  const parts = h("dl", { class: "parts" });
  risk.root.append(h("details", { class: "why" }, h("summary", {}, "What it is made of"), parts));

  function pnl(card, amount, share, note) {
    text(card.value, moved(amount, brief(amount, update.quote)));
    attr(card.value, "data-tone", tone(amount));
    text(card.note, `${signed(share, percent(share, 2))} · ${note}`);
  }
  function update(snapshot) {
    const { overview: o, limits, quote } = snapshot;
    update.quote = quote;
    text(value.value, brief(o.equity, quote));
    text(value.note, `${moved(o.pnl_total, brief(o.pnl_total, quote))} (${signed(o.pnl_total_pct, percent(o.pnl_total_pct, 2))}) since start`);
    spark.update(snapshot.equity.equity);
    pnl(today, o.pnl_day, o.pnl_day_pct, `on ${day(snapshot.as_of)}`);
    text(span.root.querySelector("h2"), `P&L, ${snapshot.window === "all" ? "all time" : snapshot.window.replace("d", " days").replace("1y", "1 year")}`);
    pnl(span, o.pnl_window, o.pnl_window_pct, `worst drawdown since start ${percent(o.max_drawdown)}`);
    text(risk.value, isNumber(o.risk_score) ? `${number(o.risk_score, 0)} / 100` : NONE);
    text(risk.note, riskWord(o.risk_score));
    scale.update(isNumber(o.risk_score) ? o.risk_score / 100 : null, [[0.5, "medium"], [0.65, "high"], [0.8, "critical"]]);
    follow(parts, Object.entries(o.risk_score_parts ?? {}), ([name]) => name, () => h("div", {}, h("dt"), h("dd")),
      (node, [name, part]) => { text(node.children[0], words(name)); text(node.children[1], number(part, 1)); });
    show(parts.parentElement, parts.childElementCount > 0);
    const drawdown = isNumber(o.drawdown) ? Math.abs(o.drawdown) : null;
    text(fall.value, drawdown === null ? NONE : percent(-drawdown));
    attr(fall.value, "data-tone", drawdown > 0.0005 ? "loss" : "flat");
    text(fall.note, `warning ${percent(limits.max_drawdown_warning, 0)}, critical ${percent(limits.max_drawdown_critical, 0)}`);
    const full = (limits.max_drawdown_critical || 0.2) * 1.25;
    depth.update(drawdown === null ? null : drawdown / full,
      [[limits.max_drawdown_warning / full, "high"], [limits.max_drawdown_critical / full, "critical"]]);
    text(count.value, number(o.positions, 0));
    text(count.note, `cash ${brief(o.cash, quote)}${o.equity ? ` (${percent(o.cash / o.equity)})` : ""}`);
  }
  return { root, update };
}

function riskWord(score) {
  if (!isNumber(score)) return "not enough history yet";
  if (score < 50) return "low: nothing stands out";
  if (score < 65) return "raised: keep an eye on it";
  return score < 80 ? "high: review the positions" : "very high: act on it";
}

function meter() {
  const fill = h("span", { class: "fill" });
  const root = h("div", { class: "meter", "aria-hidden": "true" }, fill);
  return {
    root,
    update(share, marks) {
      fill.style.width = `${Math.min(1, Math.max(0, share ?? 0)) * 100}%`;
      const reached = marks.filter(([at]) => share !== null && share >= at).pop();
      attr(fill, "data-level", reached ? reached[1] : "low");
      while (root.children.length - 1 < marks.length) root.append(h("i"));
      marks.forEach(([at], i) => { root.children[i + 1].style.left = `${Math.min(1, at) * 100}%`; });
    },
  };
}

function sparkline() {
  const path = svg("path", { fill: "none", "vector-effect": "non-scaling-stroke" });
  const root = svg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, path);
  return {
    root,
    update(values) {
      const known = values.filter(isNumber);
      const low = Math.min(...known), high = Math.max(...known), span = high - low || 1;
      attr(path, "d", known.length < 2 ? "" : known
        .map((v, i) => `${i ? "L" : "M"}${((i * 100) / (known.length - 1)).toFixed(2)} ${(22 - ((v - low) / span) * 20).toFixed(2)}`).join(""));
    },
  };
}

/* ---- performance ---- */

export function performancePanel() {
  const key = (name, label) => h("span", { class: "key", "data-series": name }, label);
  const chart = h("div", { class: "chart tall", role: "img", "aria-label": "Equity and drawdown" });
  const waiting = h("p", { class: "chart-note" }, "Drawing the charts…");
  const legend = h("p", { class: "legend" }, key("equity", "portfolio"), key("benchmark", "equal weight, bought and held"), key("drawdown", "drawdown, below"));
  const { root } = panel("performance", "Performance", legend, h("div", { class: "frame" }, chart, waiting));
  return { root, chart, waiting, update() {} };
}

/* ---- allocation: actual against target within the tolerance ---- */

export function allocation() {
  const chart = h("div", { class: "chart ring", role: "img", "aria-label": "Allocation" });
  const waiting = h("p", { class: "chart-note" }, "Drawing the chart…");
  let colours = new Map(), widest = 0.1;
  const columns = [
    { key: "asset", label: "Asset", class: "asset", textual: true, value: (row) => row.asset, paint: (cell, row) => swatch(cell, row.asset, colours.get(row.asset)) },
    { key: "bar", label: "Actual, target, tolerance", class: "bars", paint: (cell, row) => bar(cell, row, widest) },
    { key: "weight", label: "Weight", class: "num", value: (row) => row.weight, cell: (row) => percent(row.weight) },
    { key: "target", label: "Target", class: "num", value: (row) => row.target, cell: (row) => percent(row.target) },
    { key: "risk", label: "Risk share", class: "num", value: (row) => row.risk_contribution, cell: (row) => percent(row.risk_contribution) },
  ];
  const rows = table("Weight of each asset, its target, and its share of the portfolio's risk", columns, (row) => row.asset, { class: "allocation cards-no" });
  const key = h("p", { class: "legend" }, h("span", { class: "key", "data-series": "equity" }, "actual"),
    h("span", { class: "key", "data-series": "target" }, "target"), h("span", { class: "key", "data-series": "band" }, "tolerance"));
  const { root } = panel("allocation", "Allocation", h("div", { class: "frame" }, chart, waiting), key, rows.root, rows.more);
  return {
    root, chart, waiting,
    update(snapshot) {
      const sorted = [...snapshot.allocation].sort((a, b) => (b.weight ?? 0) - (a.weight ?? 0) || (a.asset < b.asset ? -1 : 1));
      colours = new Map(sorted.filter((row) => row.weight > 0).map((row, i) => [row.asset, PALETTE[i] ?? "--s-rest"]));
      widest = Math.max(0.05, ...sorted.flatMap((row) => [row.weight ?? 0, (row.target ?? 0) + (row.tolerance ?? 0)]));
      rows.update(sorted);
    },
  };
}

function swatch(cell, name, colour) {
  if (!cell.firstElementChild) cell.append(h("i", { class: "swatch", "aria-hidden": "true" }), h("span"));
  cell.children[0].style.background = colour ? `var(${colour})` : "var(--line)";
  text(cell.children[1], name);
}

function bar(cell, row, widest) {
  if (!cell.firstElementChild) cell.append(h("div", { class: "bar", "aria-hidden": "true" }, h("b"), h("span"), h("i")));
  const [band, fill, mark] = cell.firstElementChild.children;
  const at = (value) => `${Math.min(100, Math.max(0, (value / widest) * 100)).toFixed(2)}%`;
  const known = isNumber(row.target);
  show(band, known); show(mark, known);
  const low = Math.max(0, (row.target ?? 0) - row.tolerance), high = (row.target ?? 0) + row.tolerance;
  band.style.left = at(low); band.style.width = at(high - low);
  fill.style.width = at(row.weight ?? 0);
  attr(fill, "data-out", known && Math.abs(row.weight - row.target) > row.tolerance ? "yes" : null);
  mark.style.left = at(row.target ?? 0);
}

/* ---- rebalancing ---- */

const SIDES = { buy: "▲ Buy", sell: "▼ Sell", hold: "– Hold" };

export function rebalancing() {
  const verdict = h("p", { class: "verdict" }), facts = h("p", { class: "quiet" });
  const notes = h("p", { class: "quiet" });
  let quote = "USD";
  const urgency = (row) => -RANK.indexOf(row.urgency);
  const columns = [
    { key: "asset", label: "Asset", class: "asset", textual: true, value: (row) => row.asset, cell: (row) => row.asset },
    { key: "side", label: "Action", class: "side", textual: true, value: (row) => row.side, cell: (row) => SIDES[row.side] ?? row.side },
    { key: "urgency", label: "Urgency", value: urgency, paint: (cell, row) => { paintUrgency(cell, row); attr(cell, "title", row.urgency_reason ?? null); } },
    { key: "drift", label: "Drift", class: "num", value: (row) => Math.abs(row.drift),
      paint: (cell, row) => { text(cell, signed(row.drift, percent(row.drift))); attr(cell, "title", `${percent(row.current_weight)} now, ${percent(row.target_weight)} wanted`); } },
    { key: "amount", label: "Amount", class: "num", value: (row) => row.amount_to_trade, cell: (row) => money(row.amount_to_trade, quote, 0) },
    { key: "cost", label: "Cost", class: "num", value: (row) => row.estimated_cost, cell: (row) => money(row.estimated_cost, quote) },
    { key: "twap", label: "Execution", class: "how", cell: (row) => (row.side === "hold" ? NONE : row.use_twap ? "TWAP" : "Market") },
    { key: "reason", label: "Reason", class: "reason", cell: (row) => row.reason },
  ];
  const rows = table("Recommendations of the last decision", columns, (row) => row.asset, {
    class: "orders", row: (tr, row) => attr(tr, "data-side", row.side) });
  const past = table("Decisions so far", [
    { key: "slot", label: "Decided for", cell: (row) => day(row.slot) },
    { key: "state", label: "Outcome", cell: (row) => capital(row.state) },
    { key: "trades", label: "Trades", class: "num", cell: (row) => number(row.trades, 0) },
    { key: "traded", label: "Traded", class: "num", cell: (row) => money(row.traded, quote, 0) },
    { key: "fees", label: "Fees", class: "num", cell: (row) => money(row.fees, quote) },
    { key: "reason", label: "Reason", class: "reason", cell: (row) => row.reason },
  ], (row) => row.slot);
  const history = h("details", { class: "more-below" }, h("summary"), past.root, past.more);
  const empty = h("p", { class: "empty" }, "No decision yet: the first one follows the first full window of prices.");
  const reports = h("ul", { class: "reports" });
  const shelf = h("details", { class: "more-below" }, h("summary"), reports);
  const { root } = panel("rebalancing", "Rebalancing", verdict, facts, notes, empty, rows.root, rows.more, history, shelf);
  return {
    root,
    update(snapshot) {
      const plan = snapshot.rebalancing ?? {};
      quote = snapshot.quote;
      const decided = Boolean(plan.decided_at);
      show(empty, !decided); show(verdict, decided); show(facts, decided); show(notes, false); show(rows.root, decided);
      if (decided) {
        text(verdict, `${plan.rebalance ? "Rebalance" : "Hold"}: ${plan.reason}`);
        attr(verdict, "data-rebalance", plan.rebalance ? "yes" : "no");
        text(notes, (plan.notes ?? []).map(sentence).join(" "));
        show(notes, (plan.notes ?? []).length > 0);
        const mode = plan.tolerance_mode && plan.tolerance_mode !== "absolute" ? ` (${plan.tolerance_mode.replace("_", "-")})` : "";
        text(facts, `Decided for ${day(plan.decided_at)} · tolerance ${percent(plan.tolerance)}${mode} in a ${plan.regime} volatility regime · estimated cost ${money(plan.estimated_cost, quote)}`);
      }
      const order = { buy: 0, sell: 0, hold: 1 };
      rows.update([...(plan.recommendations ?? [])].sort((a, b) => order[a.side] - order[b.side]
        || RANK.indexOf(a.urgency) - RANK.indexOf(b.urgency) || b.amount_to_trade - a.amount_to_trade));
      const slots = plan.history ?? [];
      show(history, slots.length > 0);
      text(history.firstElementChild, `Earlier decisions (${slots.length})`);
      past.update(slots);
      shelve(shelf, reports, snapshot.reports ?? []);
    },
  };
}

function paintUrgency(cell, row) {
  if (!cell.firstElementChild) cell.append(severityChip());
  if (row.side === "hold") { attr(cell.firstElementChild, "data-level", "none"); text(cell.firstElementChild.children[0], ""); text(cell.firstElementChild.children[1], NONE); }
  else paintChip(cell.firstElementChild, row.urgency);
}

function shelve(shelf, list, reports) {
  const safe = reports.map((one) => ({ ...one, href: new URL(one.url, location.href) }))
    .filter((one) => one.href.origin === location.origin && one.href.protocol.startsWith("http"));
  show(shelf, safe.length > 0);
  text(shelf.firstElementChild, `Reports (${safe.length})`);
  follow(list, safe, (one) => one.url, () => h("li", {}, h("a", { target: "_blank", rel: "noopener" })), (node, one) => {
    attr(node.firstElementChild, "href", one.href.href);
    text(node.firstElementChild, `Rebalancing report of ${day(one.as_of)}`);
  });
}

/* ---- positions ---- */

export function positions() {
  let quote = "USD";
  const pnl = (value) => moved(value, money(value, quote));
  const columns = [
    { key: "asset", label: "Asset", class: "asset", textual: true, value: (row) => row.asset, cell: (row) => row.asset },
    { key: "value", label: "Value", class: "num", value: (row) => row.value, cell: (row) => money(row.value, quote) },
    { key: "weight", label: "Weight", class: "num", value: (row) => row.weight, cell: (row) => percent(row.weight) },
    { key: "size", label: "Size", class: "num", value: (row) => row.size, cell: (row) => size(row.size) },
    { key: "entry", label: "Entry", class: "num", value: (row) => row.entry_price, cell: (row) => number(row.entry_price) },
    { key: "mark", label: "Mark", class: "num", value: (row) => row.mark_price, cell: (row) => number(row.mark_price) },
    { key: "day", label: "P&L, last day", class: "num", value: (row) => row.pnl_day, cell: (row) => pnl(row.pnl_day), tone: (row) => tone(row.pnl_day) },
    { key: "pnl", label: "P&L", class: "num", value: (row) => row.pnl, cell: (row) => pnl(row.pnl), tone: (row) => tone(row.pnl) },
    { key: "pct", label: "P&L %", class: "num", value: (row) => row.pnl_pct, cell: (row) => signed(row.pnl_pct, percent(row.pnl_pct)), tone: (row) => tone(row.pnl_pct) },
  ];
  const rows = table("What is held, at the last mark", columns, (row) => row.asset, { sort: { key: "value", up: false }, class: "positions" });
  const empty = h("p", { class: "empty" }, "Nothing is held yet.");
  const { root } = panel("positions", "Positions", rows.root, rows.more, empty);
  return {
    root,
    update(snapshot) {
      quote = snapshot.quote;
      show(empty, snapshot.positions.length === 0);
      show(rows.root, snapshot.positions.length > 0);
      rows.update(snapshot.positions);
    },
  };
}

/* ---- metrics, each with its definition ---- */

const BETTER = { higher: "Higher is better.", lower: "Lower is better.", none: "" };

export function metrics() {
  const grid = h("div", { class: "metrics" });
  const note = h("p", { class: "quiet" });
  const empty = h("p", { class: "empty" }, "Not enough returns yet to judge performance.");
  const { root } = panel("metrics", "Metrics", note, empty, grid);
  const create = () => {
    const label = h("span", { class: "label" }), value = h("strong", { class: "value" });
    const range = h("span", { class: "quiet" });
    const formula = h("code"), source = h("p", { class: "quiet" });
    const node = h("details", { class: "metric", name: "metric" }, h("summary", {}, label, value, range), h("div", { class: "definition" }, formula, source));
    node.paint = (item) => {
      text(label, item.label);
      text(value, metric(item.value, item.unit));
      text(range, interval(item.low, item.high, item.unit));
      attr(node.firstElementChild, "title", item.formula);
      text(formula, item.formula);
      text(source, [BETTER[item.better] ?? "", item.source].filter(Boolean).join(" "));
    };
    return node;
  };
  return {
    root,
    update(snapshot) {
      show(empty, snapshot.metrics.length === 0);
      text(note, `Annual figures use ${number(snapshot.periods_per_year, 0)} periods a year and a risk-free rate of ${percent(snapshot.risk_free_rate)}. Open a metric for its definition.`);
      follow(grid, snapshot.metrics, (item) => item.name, create, (node, item) => node.paint(item));
    },
  };
}
