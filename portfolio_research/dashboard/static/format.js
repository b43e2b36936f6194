/* Numbers and times as people read them. What could not be computed is shown as such, never as zero. */
export const NONE = "–";
const MINUS = "−";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const grouped = (value, digits) =>
  Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const sign = (value, text) => (value < 0 ? MINUS + text : text);
const nonZero = (text) => /[1-9]/.test(text);

/* 1234.5 -> "1,234.50" */
export function number(value, digits = 2) {
  if (!isNumber(value)) return NONE;
  const text = grouped(value, digits);
  return nonZero(text) ? sign(value, text) : text;
}

/* 1234.5 -> "$1,234.50"; other currencies by their code */
export function money(value, quote, digits = 2) {
  if (!isNumber(value)) return NONE;
  const text = grouped(value, digits);
  const unit = quote === "USD" ? `$${text}` : `${text} ${quote}`;
  return nonZero(text) ? sign(value, unit) : unit;
}

/* 0.1234 -> "12.3 %" */
export function percent(value, digits = 1) {
  if (!isNumber(value)) return NONE;
  const text = grouped(value * 100, digits);
  return `${nonZero(text) ? sign(value, text) : text} %`;
}

/* "+1.2 %" for gains; losses carry their minus already */
export const signed = (value, text) => (isNumber(value) && value > 0 && nonZero(text) ? `+${text}` : text);

/* Direction by shape, so that colour is never alone */
export function arrow(value) {
  if (!isNumber(value) || value === 0) return "";
  return value > 0 ? "▲" : "▼";
}
export function tone(value) {
  if (!isNumber(value) || value === 0) return "flat";
  return value > 0 ? "gain" : "loss";
}

/* Sizes of positions: as many digits as they need */
export function size(value) {
  if (!isNumber(value)) return NONE;
  return value.toLocaleString("en-US", { maximumSignificantDigits: 6 }).replace("-", MINUS);
}

const DAY = { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" };
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: "UTC" };

function parsed(text) {
  const when = text ? new Date(text) : null;
  return when && !Number.isNaN(when.getTime()) ? when : null;
}

/* Market time: a day, with its hour if it is not midnight */
export function day(text) {
  const when = parsed(text);
  if (!when) return NONE;
  const date = when.toLocaleDateString("en-GB", DAY);
  return when.getTime() % 86400000 === 0 ? date : `${date}, ${when.toLocaleTimeString("en-GB", CLOCK).slice(0, 5)} UTC`;
}

/* Wall-clock time */
export function clock(text) {
  const when = parsed(text);
  if (!when) return NONE;
  const time = `${when.toLocaleTimeString("en-GB", CLOCK)} UTC`;
  return near(when) ? time : `${when.toLocaleDateString("en-GB", DAY)}, ${time}`;
}

/* Wall-clock time to the minute, for what people plan */
export function minute(text) {
  const when = parsed(text);
  if (!when) return NONE;
  const time = `${when.toLocaleTimeString("en-GB", CLOCK).slice(0, 5)} UTC`;
  return near(when) ? time : `${when.toLocaleDateString("en-GB", DAY)}, ${time}`;
}

const near = (when) => Math.abs(Date.now() - when.getTime()) < 43200000;

/* 75 -> "1 min" */
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.floor(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

/* A metric by its unit */
export function metric(value, unit) {
  if (unit === "fraction") return percent(value, 2);
  if (unit === "count" || unit === "periods") return number(value, 0);
  if (unit === "flag" && isNumber(value)) return value ? "yes" : "no";
  return number(value, 2);
}

/* Where the true value lies, as far as one can tell; nothing where that is not known */
export function interval(low, high, unit) {
  return isNumber(low) && isNumber(high) ? `95 %: ${metric(low, unit)} to ${metric(high, unit)}` : "";
}

export const words = (text) => String(text ?? "").replaceAll("_", " ");
export const capital = (text) => words(text).replace(/^./, (first) => first.toUpperCase());
export const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
