/* Small tools over the DOM. Data only ever becomes text nodes and attributes, never markup. */

/* h("td", { class: "num" }, "text", node) */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/* Write only what changed: selection, focus and screen readers stay undisturbed. */
export function text(node, value) {
  const next = String(value ?? "");
  if (node.textContent !== next) node.textContent = next;
  return node;
}
export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
  return node;
}
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
  return node;
}

/* Make the children of `parent` follow `items`: keep, move, add and remove nodes by key, then update each. */
export function follow(parent, items, keyOf, create, update) {
  const kept = (parent.followed ??= new Map());
  const seen = new Set();
  let before = parent.firstElementChild;
  items.forEach((item, index) => {
    const key = String(keyOf(item, index));
    seen.add(key);
    let node = kept.get(key);
    if (!node) {
      node = create(item);
      kept.set(key, node);
    }
    if (node === before) before = before.nextElementSibling;
    else parent.insertBefore(node, before);
    update(node, item, index);
  });
  for (const [key, node] of kept) {
    if (seen.has(key)) continue;
    node.remove();
    kept.delete(key);
  }
}

/* A panel: heading, age of its numbers, body */
export function panel(id, title, ...body) {
  const age = h("span", { class: "age" });
  const tools = h("div", { class: "tools" });
  const head = h("header", {}, h("h2", { id: `${id}-title` }, title), tools, age);
  const root = h("section", { class: "panel", id, "aria-labelledby": `${id}-title` }, head, ...body);
  return { root, tools };
}

/* A table whose rows follow the data. columns: { key, label, class, cell(row) -> string, paint(td, row) } */
export function table(caption, columns, keyOf, options = {}) {
  const state = { sort: options.sort ?? null, rows: [] };
  const heads = columns.map((column) => headOf(column, state, () => draw()));
  const body = h("tbody");
  const root = h("table", { class: options.class ?? "" }, h("caption", { class: "quiet" }, caption),
    h("thead", {}, h("tr", {}, ...heads)), body);
  const more = h("button", { type: "button", class: "more", onclick: () => { root.classList.toggle("all"); label(); } });
  const label = () => text(more, root.classList.contains("all") ? "Show fewer" : `Show all ${state.rows.length}`);

  function draw() {
    columns.forEach((column, i) => {
      const sorted = state.sort?.key === column.key;
      attr(heads[i], "aria-sort", sorted ? (state.sort.up ? "ascending" : "descending") : null);
    });
    follow(body, ordered(state, columns), keyOf, () => rowOf(columns), (tr, row) => {
      columns.forEach((column, i) => {
        const cell = tr.children[i];
        if (column.paint) column.paint(cell, row);
        else text(cell, column.cell(row));
        if (column.tone) attr(cell, "data-tone", column.tone(row));
      });
      options.row?.(tr, row);
    });
    show(more, state.rows.length > 8);
    label();
  }
  return { root, more, update(rows) { state.rows = rows; draw(); } };
}

function headOf(column, state, draw) {
  const cell = h("th", { scope: "col", class: column.class ?? "" });
  if (!column.value) { cell.append(column.label); return cell; }
  const sort = () => {
    const up = state.sort?.key === column.key ? !state.sort.up : Boolean(column.textual);
    state.sort = { key: column.key, up };
    draw();
  };
  cell.append(h("button", { type: "button", class: "sort", onclick: sort }, column.label));
  return cell;
}

function rowOf(columns) {
  return h("tr", {}, ...columns.map((column, i) =>
    h(i === 0 ? "th" : "td", { class: column.class ?? "", "data-label": column.label, scope: i === 0 ? "row" : null })));
}

function ordered(state, columns) {
  const column = state.sort && columns.find((one) => one.key === state.sort.key);
  if (!column) return state.rows;
  const sign = state.sort.up ? 1 : -1;
  const rank = (row) => column.value(row) ?? -Infinity;
  return [...state.rows].sort((a, b) => sign * (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
}
