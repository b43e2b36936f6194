/* The widget: takes over the dashboard that the page mounted before its kernel was up, or mounts it where the widget is. */
async function render({ model, el }) {
  const base = new URL(model.get("base_url"), location.href).href;
  let root = globalThis[Symbol.for("portfolio-dashboard")];
  try {
    root ??= (await import(`${base}dashboard/static/dashboard.js`)).mount(el, base);
  } catch {
    el.textContent = "This notebook is the live dashboard: open it with `portfolio-research dashboard`.";
    return undefined;
  }
  root.dataset.kernel = "connected";
  return () => { root.dataset.kernel = "gone"; };
}
export default { render };
