/* The alerts panel: what fires, who has it in hand, what is held back and why, and what people can do about it. */
import { attr, follow, h, panel, show, text } from "./dom.js";
import { capital, clock, day, duration, metric, minute, number, words } from "./format.js";

const SEVERITY = { critical: ["✖", "Critical"], high: ["▲", "High"], medium: ["◆", "Medium"], low: ["●", "Low"] };
export const RANK = ["critical", "high", "medium", "low"];

export function severityChip() {
  return h("span", { class: "chip" }, h("span", { "aria-hidden": "true", class: "icon" }), h("span"));
}
export function paintChip(chip, level) {
  const [icon, word] = SEVERITY[level] ?? ["○", capital(level)];
  attr(chip, "data-level", level);
  text(chip.children[0], icon);
  text(chip.children[1], word);
}

/* What people call a rule */
const titleOf = (desk, rule) => desk.titles.get(rule) ?? capital(words(rule).replaceAll("-", " "));

/* desk: { send(path, body) -> { ok, error }, load(path) -> body or null, announce(message) } */
export function alerts(desk) {
  const list = h("ul", { class: "alerts" });
  const empty = h("p", { class: "empty" }, "No open alerts. Every limit that can be judged holds.");
  const quiet = h("ul", { class: "alerts past" });
  const silences = h("details", { class: "more-below silences" }, h("summary"), quiet);
  const past = h("ul", { class: "alerts past" });
  const over = h("details", { class: "more-below" }, h("summary"), past);
  const letters = h("ul", { class: "alerts past" });
  const undelivered = h("details", { class: "more-below undelivered", hidden: true }, h("summary"), letters);
  const { root, tools } = panel("alerts", "Alerts", list, empty, undelivered, silences, over);
  const count = h("span", { class: "count" }), checked = h("span", { class: "checked" });
  tools.append(count, checked);
  let known = null;

  return {
    root,
    /* How old the verdicts are, counted on by the page */
    checked(monitor, sinceReceived) {
      const age = monitor?.age_seconds ?? null;
      attr(checked, "data-late", monitor?.late ? "true" : null);
      text(checked, age === null ? "" : `${monitor.late ? "⚠ " : ""}last check ${duration(age + sinceReceived)} ago`);
    },
    update(snapshot) {
      const { failing = [], dead = [], undelivered: lost = 0 } = snapshot.delivery ?? {};
      show(undelivered, failing.length + lost > 0);
      text(undelivered.firstElementChild, [lost ? `Not delivered (${lost})` : "", failing.length ? `trying again: ${failing.map((row) => row.handler).join(", ")}` : ""].filter(Boolean).join(" · "));
      follow(letters, [...failing, ...dead], (row) => `${row.id ?? "try"}/${row.handler}`, () => letterItem(desk), (node, row) => node.paint(row));
      const { active, recent, counts, silences: held, acknowledged_hours: usual } = snapshot.alerts;
      desk.usual = usual;
      desk.titles = new Map([...recent, ...active].map((alert) => [alert.rule, alert.title]));
      text(count, active.length ? tally(counts) : "");
      follow(list, active, (alert) => alert.id, () => alertItem(desk), (node, alert) => node.paint(alert));
      show(empty, active.length === 0);
      show(silences, held.length > 0);
      text(silences.firstElementChild, `Silences (${held.length})`);
      follow(quiet, held, (one) => one.id, () => silenceItem(desk), (node, one) => node.paint(one));
      show(over, recent.length > 0);
      text(over.firstElementChild, `Resolved lately (${recent.length})`);
      follow(past, recent, (alert, i) => `${alert.id}/${alert.updated}/${i}`, pastItem, (node, alert) => node.paint(alert));
      const fresh = known && active.filter((alert) => !known.has(alert.id));
      if (fresh?.length) desk.announce(`New alert: ${fresh.map((alert) => `${alert.severity}, ${alert.title}`).join("; ")}`);
      known = new Set(active.map((alert) => alert.id));
    },
  };
}

function tally(counts) {
  const held = counts.held_back ? `, ${counts.held_back} held back` : "";
  return `${counts.open} to acknowledge, ${counts.acknowledged} acknowledged${held}`;
}

/* ---- one alert ---- */

const ACTIONS = {
  acknowledge: { word: "Acknowledge", done: "Alert acknowledged.", hours: [1, 4, 24, 72, 168], usual: 24 },
  resolve: { word: "Resolve", done: "Alert resolved." },
  silence: { word: "Silence", done: "Alert silenced.", hours: [1, 4, 24, 168], usual: 4, reason: true },
};

function alertItem(desk) {
  const chip = severityChip(), title = h("h3"), message = h("p", { class: "message" }), facts = h("p", { class: "quiet" });
  const flags = h("ul", { class: "flags", "aria-label": "Held back" }), owned = h("p", { class: "owned" });
  const first = h("button", { type: "button" });
  const quiet = h("button", { type: "button" }, "Silence…"), close = h("button", { type: "button" }, "Resolve…");
  const story = history(desk);
  const more = h("details", { class: "about" }, h("summary", {}, "History and more"), h("div", { class: "buttons" }, quiet, close), story.root);
  const form = actionForm();
  let alert = null;

  async function submit(action, given) {
    const about = { rule: alert.rule, subject: alert.subject, max_severity: alert.severity };
    const path = action === "silence" ? "silences" : `alerts/${encodeURIComponent(alert.id)}/${action}`;
    const { ok, error } = await desk.send(path, action === "silence" ? { ...given, ...about } : given);
    if (ok) desk.announce(ACTIONS[action].done);
    return error;
  }
  const open = (action, opener) => {
    (opener === first ? owned : quiet.parentElement).after(form.root); // below what was pressed
    const usual = action === "acknowledge" ? desk.usual : null;
    form.toggle({ ...ACTIONS[action], usual: usual ?? ACTIONS[action].usual, note: action === "silence" ? stillTold(alert) : "" },
      (given) => submit(action, given), opener);
  };
  first.addEventListener("click", () => open(alert.acknowledged_by ? "resolve" : "acknowledge", first));
  quiet.addEventListener("click", () => open("silence", quiet));
  close.addEventListener("click", () => open("resolve", close));
  more.addEventListener("toggle", () => story.paint(alert, more.open));

  const node = h("li", { class: "alert open" }, chip, title, first, message, facts, flags, owned, form.root, more);
  node.paint = (now) => {
    alert = now;
    attr(node, "data-level", alert.severity);
    attr(node, "data-state", alert.state);
    paintChip(chip, alert.severity);
    text(title, alert.title);
    text(message, alert.message);
    text(facts, [capital(alert.type), alert.subject, `since ${day(alert.since)}`, `worst ${metric(alert.peak, alert.unit)}`,
      alert.state === "recovering" ? "recovering" : ""].filter(Boolean).join(" · "));
    const why = held(alert, desk);
    show(flags, why.length > 0);
    follow(flags, why, ([kind]) => kind, () => h("li"), (flag, [kind, said]) => { attr(flag, "data-kind", kind); text(flag, said); });
    const mine = Boolean(alert.acknowledged_by);
    show(owned, mine);
    text(owned, mine ? ownedBy(alert) : "");
    label(first, mine ? "Resolve" : "Acknowledge", alert);
    label(quiet, "Silence…", alert);
    label(close, "Resolve…", alert);
    show(close, !mine);
    story.paint(alert, more.open);
  };
  return node;
}

function label(button, word, alert) {
  text(button, word);
  attr(button, "aria-label", `${word.replace("…", "")}: ${alert.title}`);
}

function ownedBy(alert) {
  const end = alert.acknowledged_until ? ` until ${minute(alert.acknowledged_until)}` : "";
  return `✓ Acknowledged by ${alert.acknowledged_by}, ${minute(alert.acknowledged_at)}${end}${alert.comment ? `: “${alert.comment}”` : ""}`;
}

/* Why people hear nothing, or less, of an alert */
function held(alert, desk) {
  return [
    [alert.silenced_until, "silenced", `Silenced until ${minute(alert.silenced_until)}`],
    [alert.inhibited_by, "inhibited", `Held back by ${titleOf(desk, alert.inhibited_by)}`],
    [alert.flapping, "flapping", "Comes and goes: muted until calm"],
    [!alert.judged, "blind", "Cannot be judged"],
  ].filter(([holds]) => holds).map(([, kind, said]) => [kind, said]);
}

function stillTold(alert) {
  const worse = RANK.indexOf(alert.severity) > 0 ? `If it gets worse than ${alert.severity}, that is told.` : "Nothing about it is told until then.";
  return `Messages are held back, the alert stays here. ${worse}`;
}

/* What happened, newest first: the last steps come with the snapshot, the rest when somebody asks */
function history(desk) {
  const list = h("ol", { class: "history", "aria-label": "History, newest first" });
  const all = h("button", { type: "button", hidden: true, onclick: () => whole() }, "Show the whole history");
  let alert = null, loaded = null, stamp = "";
  const newest = () => JSON.stringify(alert.history.at(-1) ?? null);
  async function whole() {
    const asked = newest(), body = await desk.load(`alerts/${encodeURIComponent(alert.id)}`);
    if (body) { loaded = body.alert.history; stamp = asked; draw(); }
    else text(all, "The history could not be loaded: try again");
  }
  function draw() {
    const events = [...(loaded ?? alert.history)].reverse();
    follow(list, events, (event, i) => `${events.length - i}/${event.at}/${event.kind}`, eventItem, (node, event) => node.paint(event));
    show(all, !loaded && events.length >= 6);
  }
  return {
    root: h("div", {}, list, all),
    paint(now, open) {
      alert = now;
      if (!open) return;
      draw();
      if (loaded && stamp !== newest()) { stamp = newest(); whole(); }
    },
  };
}

function eventItem() {
  const when = h("time"), what = h("strong"), said = h("span");
  const node = h("li", {}, when, what, said);
  node.paint = (event) => {
    attr(when, "datetime", event.at);
    text(when, day(event.at));
    text(what, `${capital(event.what)}${event.who ? ` by ${event.who}` : ""}`);
    text(said, event.comment ? `“${event.comment}”` : event.who && event.kind !== "silenced" ? "" : event.message);
  };
  return node;
}

function pastItem() {
  const chip = severityChip(), title = h("span"), facts = h("p", { class: "quiet" });
  const node = h("li", { class: "alert" }, h("div", { class: "line" }, chip, title), facts);
  node.paint = (alert) => {
    paintChip(chip, alert.severity);
    text(title, alert.title);
    text(facts, [`${day(alert.since)} to ${day(alert.updated)}`, `worst ${metric(alert.peak, alert.unit)}`,
      alert.acknowledged_by ? `acknowledged by ${alert.acknowledged_by}` : "", alert.flapping ? "comes and goes: muted until calm" : ""]
      .filter(Boolean).join(" · "));
  };
  return node;
}

/* ---- messages that did not arrive: given up, or of a channel that fails for now ---- */

function letterItem(desk) {
  const chip = severityChip(), title = h("span"), facts = h("p", { class: "quiet" });
  const again = h("button", { type: "button" }, "Send again…"), drop = h("button", { type: "button" }, "Forget…");
  const buttons = h("div", { class: "buttons" }, again, drop), form = actionForm();
  const node = h("li", { class: "alert" }, h("div", { class: "line" }, chip, title), facts, buttons, form.root);
  const open = (action, word, note, opener) => form.toggle({ word, note }, async (given) => {
    const { ok, error } = await desk.send(`letters/${node.dataset.id}/${action}`, given);
    if (ok) desk.announce(action === "retry" ? "Message on its way again." : "Message forgotten.");
    return error;
  }, opener);
  again.addEventListener("click", () => open("retry", "Send again", "The engine takes it up within seconds.", again));
  drop.addEventListener("click", () => open("drop", "Forget", "It is not sent and no longer shown.", drop));
  node.paint = (row) => {
    attr(node, "data-id", row.id);
    show(buttons, row.id !== undefined);
    label(again, "Send again…", row);
    label(drop, "Forget…", row);
    show(chip, Boolean(row.severity));
    paintChip(chip, row.severity ?? "low");
    text(title, row.title ? `${row.handler}: ${row.title}` : `${row.handler}: ${row.waiting} waiting`);
    const tries = `${row.attempts} ${row.attempts === 1 ? "attempt" : "attempts"}`;
    text(facts, `${row.error} · ${tries}${row.title ? ", given up" : ""} · since ${clock(row.queued_at ?? row.since)}`);
  };
  return node;
}

/* ---- silences ---- */

function silenceItem(desk) {
  const about = h("strong"), until = h("p", { class: "quiet" }), why = h("p", { class: "quiet" });
  const button = h("button", { type: "button" }, "End");
  const form = actionForm();
  const node = h("li", { class: "alert silence" }, about, button, until, why, form.root);
  button.addEventListener("click", () => form.toggle({ word: "End the silence", note: "What still fires is told at the next check." }, async (given) => {
    const { ok, error } = await desk.send(`silences/${encodeURIComponent(node.dataset.id)}/end`, given);
    if (ok) desk.announce("Silence ended.");
    return error;
  }, button));
  node.paint = (one) => {
    attr(node, "data-id", one.id);
    const what = `${[one.rule ? titleOf(desk, one.rule) : "Every rule", one.subject].filter(Boolean).join(" ")}, up to ${one.max_severity}${one.everywhere ? ", every portfolio" : ""}`;
    text(about, what);
    attr(button, "aria-label", `End the silence: ${what}`);
    text(until, `until ${minute(one.ends)}`);
    text(why, `${one.who}: “${one.comment}”`);
  };
  return node;
}

/* ---- who, why, for how long ---- */

let forms = 0;
const NAME = "portfolio-name";
function remembered() { try { return localStorage.getItem(NAME) ?? ""; } catch { return ""; } }
function remember(name) { try { localStorage.setItem(NAME, name); } catch { /* storage is off */ } }
const lasting = (hours) => (hours === 1 ? "1 hour" : hours <= 48 ? `${number(hours, hours % 1 ? 1 : 0)} hours` : `${number(hours / 24, hours % 24 ? 1 : 0)} days`);

/* toggle({ word, hours, usual, reason, note }, submit(given) -> error or "", opener) */
function actionForm() {
  const id = `act-${(forms += 1)}`;
  const who = h("input", { id: `${id}-who`, name: "who", required: true, maxlength: 80, autocomplete: "name" });
  const comment = h("input", { id: `${id}-comment`, name: "comment", maxlength: 500 });
  const asked = h("label", { for: `${id}-comment` });
  const hours = h("select", { id: `${id}-hours`, name: "hours" });
  const length = h("div", { class: "field" }, h("label", { for: `${id}-hours` }, "For"), hours);
  const note = h("p", { class: "quiet" }), problem = h("p", { class: "pr-problem", role: "alert" });
  const confirm = h("button", { type: "submit", class: "primary" });
  const cancel = h("button", { type: "button", onclick: () => close() }, "Cancel");
  const root = h("form", { class: "act", hidden: true },
    h("label", { for: `${id}-who` }, "Your name"), who, asked, comment, length, note, problem, h("div", { class: "buttons" }, confirm, cancel));
  let way = null, submit = null, opener = null;
  const close = () => { show(root, false); text(problem, ""); attr(opener, "aria-expanded", "false"); opener.focus(); };
  root.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  root.addEventListener("submit", async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    text(problem, "");
    remember(who.value.trim());
    const given = { who: who.value.trim(), comment: comment.value.trim(), ...(way.hours ? { hours: Number(hours.value) } : {}) };
    const error = await submit(given);
    confirm.disabled = false;
    if (error) { text(problem, error); return; }
    comment.value = "";
    close();
  });
  return {
    root,
    toggle(wanted, send, from) {
      if (!root.hidden && from === opener) { close(); return; }
      if (opener) attr(opener, "aria-expanded", "false");
      way = wanted; submit = send; opener = from;
      attr(opener, "aria-expanded", "true");
      text(confirm, way.word);
      text(asked, way.reason ? "Reason" : "Comment");
      attr(comment, "required", way.reason ? "" : null);
      attr(comment, "placeholder", way.reason ? "why nobody needs to hear of it" : "what you are doing about it");
      show(length, Boolean(way.hours));
      const choices = way.hours ? [...new Set([...way.hours, way.usual])].sort((a, b) => a - b) : [];
      hours.replaceChildren(...choices.map((one) => h("option", { value: one, selected: one === way.usual }, lasting(one))));
      text(note, way.note ?? "");
      show(note, Boolean(way.note));
      text(problem, "");
      show(root, true);
      who.value ||= remembered();
      (who.value ? comment : who).focus();
    },
  };
}
