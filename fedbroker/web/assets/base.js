// Elements, texts and numbers of the pages. Text enters a page through textContent only.

const SVG = "http://www.w3.org/2000/svg";
export const LONGEST = 160; // characters of a name on a page; more of them tell a reader nothing

/** Make an element: `el("a", {href, class}, "text", child)`. Attributes that are false or undefined are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element; like `el`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  set(element, attributes);
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Set attributes that differ; remove those that are false, null or undefined. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) element.removeAttribute(name);
    else {
      const text = value === true ? "" : String(value);
      if (element.getAttribute(name) !== text) element.setAttribute(name, text);
    }
  }
}

/** Write a text if it differs, so that nothing is laid out again for the same words. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Control characters, and characters that turn or hide the text around them.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** Return a text of another machine for the page: invisible characters escaped, and at most `limit` characters. */
export function clean(text, limit = LONGEST) {
  const all = String(text ?? "");
  const cut = all.length > limit ? `${all.slice(0, limit)}…` : all;
  return cut.replace(INVISIBLE, (character) => {
    const code = character.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** Return a duration in seconds for people: 0.04 s, 3.2 s, 1 min 05 s, 2 h 10 min, 3 d 4 h. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const all = Math.max(0, seconds);
  if (all < 0.1) return `${all.toFixed(2)} s`;
  if (all < 59.95) return `${all.toFixed(1)} s`;
  const whole = Math.round(all);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
}

/** Return a number of bytes in decimal units. */
export function bytes(count) {
  if (!Number.isFinite(count)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${unit === 0 || value >= 99.5 ? Math.round(value) : value.toPrecision(2)} ${units[unit]}`;
}

/** Return a number of things: `count(1, "silo")` is "1 silo". */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Return a metric's value with four significant digits. */
export function value(number) {
  if (!Number.isFinite(number)) return String(number);
  if (number !== 0 && (Math.abs(number) < 1e-3 || Math.abs(number) >= 1e6)) return number.toExponential(2);
  return String(Number(number.toPrecision(4)));
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** Make a <time> element for a Unix time: the clock, with the day if it is not today's. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return el("span");
  const today = date.toDateString() === new Date().toDateString();
  return el("time", { datetime: date.toISOString(), title: date.toISOString() }, (today ? CLOCK : DAY).format(date));
}

/** Make a state in a word. `tone` is ok, busy, warn, bad or empty. */
export function chip(text, tone = "") {
  return el("span", { class: "chip", "data-tone": tone }, text);
}

/** Make a text of another machine: cut on the page, with up to 1,000 characters when pointed at. */
export function named(text, limit = LONGEST) {
  const shown = clean(text, limit);
  return el("span", { title: String(text ?? "").length > limit && clean(text, 1000) }, shown);
}

/** Replace those children that differ from the new ones: the others keep the focus, and what a reader has selected. */
export function patch(container, children) {
  const before = [...container.children];
  children.forEach((child, index) => {
    if (!before[index]) container.append(child);
    else if (!before[index].isEqualNode(child)) before[index].replaceWith(child);
  });
  for (const child of before.slice(children.length)) child.remove();
}

/**
 * Keep a container's children equal to a list, touching only what changed.
 *
 * @param {Element} container whose children are made here only
 * @param {Array} items of which an unchanged one is the same object as before
 * @param {function} key of an item: a string
 * @param {function} create `create(item)` makes an element
 * @param {function} [update] `update(element, item)`; without it, a changed item gets a new element
 */
export function keyed(container, items, key, create, update) {
  const before = container._rows ?? new Map();
  const wanted = new Map(items.map((item) => [key(item), item]));
  for (const [name, row] of before) if (!wanted.has(name)) row.element.remove();
  const now = new Map();
  let next = container.firstElementChild;
  for (const [name, item] of wanted) {
    const row = before.get(name) ?? { element: create(item), item: undefined };
    if (row.item === undefined) update?.(row.element, item);
    else if (row.item !== item && update) update(row.element, item);
    else if (row.item !== item) {
      const made = create(item);
      if (row.element === next) next = made;
      row.element.replaceWith(made);
      row.element = made;
    }
    row.item = item;
    now.set(name, row);
    if (row.element === next) next = next.nextElementSibling;
    else container.insertBefore(row.element, next);
  }
  container._rows = now;
}
