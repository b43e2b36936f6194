/* The live page: one snapshot, shown; one event stream, heard; intervals as the fallback. It needs no kernel. */
import { donut, loadPlotly, performance as drawPerformance } from "./charts.js";
import { attr, h, show, text } from "./dom.js";
import { alerts } from "./alerts.js";
import { allocation, cards, metrics, performancePanel, positions, rebalancing } from "./panels.js";
import { clock, day, duration, number, percent, words } from "./format.js";

const MOUNTED = Symbol.for("portfolio-dashboard");
const WINDOWS = ["30d", "90d", "180d", "1y", "all"];
const TIMEOUT = 10000;
const PUSH_PAUSE = 400; // at most one snapshot per so many milliseconds, however fast the store changes
const SILENT = 60; // seconds without a heartbeat after which a "running" engine is not believed

export function mount(place, base) {
  return (globalThis[MOUNTED] ??= new Page(place, base).root);
}

class Page {
  constructor(place, base) {
    this.base = base;
    const asked = new URLSearchParams(location.search);
    this.portfolio = asked.get("portfolio");
    this.window = WINDOWS.includes(asked.get("window")) ? asked.get("window") : "90d";
    this.snapshot = null;
    this.trouble = null;
    this.link = "connecting";
    this.build();
    place.replaceChildren(this.root);
    this.listen();
    this.refresh();
    setInterval(() => this.tick(), 1000);
  }

  build() {
    this.strip = new Strip((chosen) => this.choose(chosen), () => this.repaint());
    this.banner = h("div", { class: "banner", role: "status", hidden: true });
    this.say = h("p", { class: "hidden", "aria-live": "polite" });
    const desk = { send: (path, body) => this.act(path, body), load: (path) => this.ask(path), announce: (message) => text(this.say, message) };
    this.performance = performancePanel();
    this.allocation = allocation();
    this.alerts = alerts(desk);
    this.sections = [cards(), this.alerts, this.performance, this.allocation, rebalancing(), positions(), metrics()];
    this.body = h("div", { class: "grid", hidden: true }, ...this.sections.map((section) => section.root));
    this.empty = h("div", { class: "state" });
    this.skeleton();
    this.root = h("div", { class: "prd", lang: "en" }, this.strip.root, this.banner, this.say, h("main", {}, this.empty, this.body));
    this.strip.pick(this.window);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.repaint());
    document.addEventListener("visibilitychange", () => this.awake());
  }

  skeleton() {
    const blocks = Array.from({ length: 6 }, () => h("div", { class: "card ghost" }));
    this.empty.replaceChildren(h("p", { class: "hidden" }, "Loading the portfolio"), h("div", { class: "cards" }, ...blocks), h("div", { class: "panel ghost" }));
  }

  /* ---- reading ---- */

  query() {
    const query = new URLSearchParams({ window: this.window });
    if (this.portfolio) query.set("portfolio", this.portfolio);
    return query;
  }

  async refresh() {
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    this.again = false;
    const wanted = this.window;
    try {
      const answer = await fetch(`${this.base}api/v1/snapshot?${this.query()}`, { signal: AbortSignal.timeout(TIMEOUT), credentials: "same-origin" });
      if (answer.status === 401 || answer.status === 403) { location.assign(`${this.base}login?next=${encodeURIComponent(location.pathname + location.search)}`); return; }
      const body = await answer.json();
      if (wanted !== this.window) this.again = true;
      else if (answer.ok) this.accept(body);
      else this.refused(answer.status, body);
    } catch {
      this.refused(0, { error: "The dashboard's server does not answer.", remedy: "If it was stopped, start it again: portfolio-research run. This page reconnects by itself." });
    } finally {
      this.busy = false;
      this.asked = performance.now();
      if (this.again) setTimeout(() => this.refresh(), PUSH_PAUSE);
    }
  }

  accept(snapshot) {
    this.snapshot = snapshot;
    this.received = performance.now();
    this.trouble = null;
    const waiting = !snapshot.as_of;
    show(this.empty, waiting);
    show(this.body, !waiting);
    if (waiting) this.explain("Nothing computed yet", snapshot.engine.warming_up ? "The engine is warming up on past prices." : "The engine has not computed a bar yet.", "Start it with portfolio-research run; this page fills by itself.");
    else {
      for (const section of this.sections) section.update(snapshot);
      this.draw();
    }
    this.tick();
  }

  refused(status, body) {
    this.trouble = { status, ...body };
    if (!this.snapshot) this.explain(status === 503 ? "Nothing to show yet" : status ? "This cannot be shown" : "No connection", body.error, body.remedy);
    this.tick();
  }

  explain(title, error, remedy) {
    this.empty.replaceChildren(h("section", { class: "panel notice" }, h("h2", {}, title), h("p", {}, error ?? ""), h("p", { class: "quiet" }, remedy ?? "")));
    show(this.empty, true);
  }

  /* ---- charts, after the numbers ---- */

  draw(force = false) {
    const { snapshot } = this;
    const last = snapshot.equity.t.length - 1;
    const shape = JSON.stringify([snapshot.window, last, snapshot.equity.t[last], snapshot.equity.equity[last], snapshot.allocation, snapshot.limits]);
    if (!force && shape === this.drawn) return;
    this.drawn = shape;
    const later = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
    later(async () => {
      try {
        const plotly = await loadPlotly();
        await drawPerformance(plotly, this.performance.chart, this.snapshot);
        await donut(plotly, this.allocation.chart, this.snapshot);
        for (const { waiting } of [this.performance, this.allocation]) show(waiting, false);
        attr(this.root, "data-charts", "drawn");
        this.charted = performance.now();
      } catch (error) {
        this.drawn = null;
        for (const { waiting } of [this.performance, this.allocation]) { show(waiting, true); text(waiting, `No chart: ${error.message}. The tables hold the same numbers.`); }
      }
    }, { timeout: 1000 });
  }

  repaint() { if (this.snapshot?.as_of) this.draw(true); }

  /* ---- hearing of changes ---- */

  listen() {
    this.stream?.close();
    this.stream = new EventSource(`${this.base}api/v1/stream`);
    this.stream.addEventListener("open", () => { this.link = "live"; this.tick(); });
    this.stream.addEventListener("revision", () => { if (!this.soon) this.soon = setTimeout(() => { this.soon = null; this.refresh(); }, this.pause()); });
    this.stream.addEventListener("error", () => {
      this.link = "lost";
      if (this.stream.readyState === EventSource.CLOSED) setTimeout(() => { if (!document.hidden) this.listen(); }, 5000);
      this.refresh();
    });
  }

  pause() { return Math.max(0, PUSH_PAUSE - (performance.now() - (this.asked ?? 0))); }

  /* A page nobody sees needs no stream; browsers allow few per server. */
  awake() {
    if (document.hidden) { this.stream?.close(); this.link = "asleep"; return; }
    this.listen();
    this.refresh();
  }

  tick() {
    const { refresh } = this.snapshot ?? {};
    const since = (then) => (then === undefined ? Infinity : (performance.now() - then) / 1000);
    const every = this.trouble ? 5 : (refresh?.metrics_seconds ?? 30);
    if (!document.hidden && since(this.asked) >= every) this.refresh();
    if (this.snapshot?.as_of && since(this.charted) >= (refresh?.charts_seconds ?? 300)) { this.charted = performance.now(); this.draw(true); }
    this.health(this.snapshot ? since(this.received) : null);
  }

  /* ---- how old is what you see ---- */

  health(sinceReceived) {
    const { snapshot, trouble } = this;
    const engine = snapshot?.engine;
    const age = engine && engine.age_seconds !== null ? engine.age_seconds + sinceReceived : null;
    const silent = engine && (engine.state === "stale" || (engine.state === "running" && age > SILENT));
    const state = !engine ? "unknown" : silent ? "stale" : engine.state;
    const link = trouble ? "lost" : this.link;
    this.strip.update({ snapshot, state, age, link });
    attr(this.root, "data-engine", state);
    attr(this.root, "data-link", link);
    const warning = this.warning(state, age);
    show(this.banner, Boolean(warning));
    text(this.banner, warning);
    const stamp = snapshot?.as_of ? `as of ${day(snapshot.as_of)}, ${duration(age)} old` : "";
    for (const node of this.root.querySelectorAll(".panel > header > .age")) text(node, stamp);
    this.alerts.checked(snapshot?.monitor, sinceReceived ?? 0);
    for (const node of this.root.querySelectorAll(".card[id]")) attr(node, "title", stamp);
    const open = snapshot?.alerts.counts.open ?? 0;
    document.title = `${open ? `(${open}) ` : ""}${isSimulated(snapshot) ? `${SIMULATED} ` : ""}${snapshot ? snapshot.portfolio : "Portfolio"}${state === "stale" ? ": stale" : ""} · portfolio research`;
  }

  warning(state, age) {
    const { snapshot, trouble } = this;
    if (trouble && snapshot) return `⚠ Not connected: ${trouble.error} What you see is ${duration(age)} old.`;
    if (!snapshot) return "";
    const { engine } = snapshot;
    if (state === "stale") return `⚠ The engine is not answering: no heartbeat since ${clock(engine.heartbeat)} (${duration(age)} ago). Numbers are from then. Start it again: portfolio-research run.`;
    if (state === "halted") return `⚠ The engine has halted: ${engine.detail || "see its log"}. No trades until it is started again.`;
    if (state === "stopped") return `The engine was stopped${engine.heartbeat ? ` ${duration(age)} ago` : ""}. Numbers are from then.`;
    return "";
  }

  /* ---- acting ---- */

  choose(chosen) {
    this.window = chosen;
    const query = new URLSearchParams(location.search);
    query.set("window", chosen);
    history.replaceState(null, "", `${location.pathname}?${query}${location.hash}`);
    this.strip.pick(chosen);
    this.refresh();
  }

  /* Change something; what the server says comes back as { ok, error } */
  async act(path, given) {
    const xsrf = document.cookie.match(/(?:^|;\s*)_xsrf=([^;]*)/)?.[1] ?? "";
    try {
      const answer = await fetch(`${this.base}api/v1/${path}?${this.query()}`, {
        method: "POST", credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT),
        headers: { "Content-Type": "application/json", "X-XSRFToken": decodeURIComponent(xsrf) }, body: JSON.stringify(given) });
      const body = await answer.json();
      this.refresh();
      return answer.ok ? { ok: true, error: "" } : { ok: false, error: first(body) ?? `${body.error}. ${body.remedy ?? ""}` };
    } catch {
      return { ok: false, error: "The server does not answer; nothing was recorded. Try again." };
    }
  }

  /* Read something that is not in the snapshot; null if that fails */
  async ask(path) {
    try {
      const answer = await fetch(`${this.base}api/v1/${path}?${this.query()}`, { signal: AbortSignal.timeout(TIMEOUT), credentials: "same-origin" });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }
}

/* Who was quicker, if that is why a change was refused */
function first(body) {
  if (body.ended_by) return `Already ended by ${body.ended_by}, ${clock(body.ends)}.`;
  return body.acknowledged_by && body.state !== "resolved" ? `Already acknowledged by ${body.acknowledged_by}, ${clock(body.acknowledged_at)}.` : null;
}

/* ---- the strip at the top: what, how fresh, in which state ---- */

const STATES = { running: "Running", stale: "Stale", stopped: "Stopped", halted: "Halted", "never started": "Not started", unknown: "Loading" };
const LINKS = { live: "Live", lost: "Disconnected", connecting: "Connecting", asleep: "Asleep" };

const SIMULATED = "SIMULATED"; // how the source of a market that does not exist begins

function isSimulated(snapshot) {
  return Boolean(snapshot?.source?.startsWith(SIMULATED));
}

class Strip {
  constructor(choose, repaint) {
    this.name = h("h1", {}, "Portfolio");
    this.mode = h("span", { class: "badge" });
    this.simulated = h("span", { class: "badge simulated", title: "No price on this page is real" }, SIMULATED);
    show(this.simulated, false);
    this.facts = {};
    const fact = (key, label) => {
      this.facts[key] = h("dd");
      return h("div", { "data-fact": key }, h("dt", {}, label), this.facts[key]);
    };
    const list = h("dl", { class: "facts" }, fact("engine", "Engine"), fact("as_of", "As of"), fact("age", "Updated"), fact("regime", "Volatility"), fact("source", "Prices"), fact("link", "Connection"));
    this.windows = h("div", { class: "windows", role: "group", "aria-label": "Time window" },
      ...WINDOWS.map((one) => h("button", { type: "button", "data-window": one, onclick: () => choose(one) }, one === "all" ? "All" : one)));
    const theme = h("button", { type: "button", class: "theme", "aria-label": "Light or dark colours", onclick: () => { turn(); repaint(); } }, "◐");
    this.root = h("header", { class: "strip" }, h("div", { class: "who" }, h("img", { src: new URL("./favicon.svg", import.meta.url).href, alt: "", width: 28, height: 28 }), this.name, this.mode, this.simulated), list, h("div", { class: "controls" }, this.windows, theme));
  }

  pick(chosen) {
    for (const button of this.windows.children) attr(button, "aria-pressed", String(button.dataset.window === chosen));
  }

  update({ snapshot, state, age, link }) {
    const { facts } = this;
    text(facts.engine, `${STATES[state] ?? words(state)}${state === "running" && snapshot.engine.speed ? `, ${number(snapshot.engine.speed, snapshot.engine.speed % 1 ? 1 : 0)} bars/s` : ""}`);
    attr(facts.engine, "data-state", state);
    text(facts.link, LINKS[link] ?? link);
    attr(facts.link, "data-state", link);
    if (!snapshot) return;
    text(this.name, snapshot.portfolio);
    text(this.mode, snapshot.mode);
    show(this.mode, Boolean(snapshot.mode));
    show(this.simulated, isSimulated(snapshot));
    text(facts.as_of, day(snapshot.as_of));
    text(facts.age, age === null ? "–" : `${duration(age)} ago`);
    const { regime, regime_since: since, regime_probability: sure } = snapshot.overview;
    text(facts.regime, regime ? `${regime}${since ? ` since ${day(since)}` : ""}${sure == null ? "" : `, ${sure > 0.99 ? "over 99 %" : percent(sure, 0)} sure`}` : "–");
    attr(facts.regime, "data-regime", regime);
    text(facts.source, snapshot.source);
  }
}

function turn() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("portfolio-theme", root.dataset.theme); } catch { /* storage is off */ }
}
