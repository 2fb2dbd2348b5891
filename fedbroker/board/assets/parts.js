// Parts that several views are made of: headings, links, lists with a search, tables of sessions and notices.

import { chip, clean, count, duration, el, keyed, moment, named, patch, write } from "./base.js";

export const path = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;
const TONES = { running: "busy", ok: "ok", failed: "bad", cancelled: "", present: "ok", late: "warn", gone: "bad",
  answered: "ok", waiting: "warn", dropped: "warn", forged: "bad", rejected: "warn", "dead letter": "bad" };

/** Make the chip of a state, an outcome or a notice's kind. */
export function stateChip(word) {
  return chip(clean(word, 40), TONES[word] ?? "bad");
}

/** Return why a session waits as a sentence. */
export function waitsSentence(session) {
  const words = clean(session.waits, 400);
  return words ? `${words[0].toUpperCase()}${words.slice(1)}${/[.…]$/.test(words) ? "" : "."}` : "";
}

/** Make a section with a heading of the second level. */
export function section(title, ...children) {
  return el("section", { "aria-label": title }, el("div", { class: "head" }, el("h2", {}, title)), ...children);
}

/** Make the head of a view: the heading, which takes the focus after navigation, and a link to its JSON. */
export function head(title, json, ...between) {
  return el("div", { class: "head" }, el("h1", { tabindex: -1 }, title), ...between,
    el("a", { class: "json", href: json, type: "application/json", "aria-label": "This view as JSON" }, "JSON"));
}

/** Make a list of facts from [name, value] pairs; a value is a text or an element, and an empty one is left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

/** Return a session's name for people: the program and round, or its computation. */
export function sessionTitle(session) {
  const round = session.round === null || session.round === undefined ? "" : `, round ${session.round}`;
  return session.program ? `${clean(session.program, 60)}${round}` : clean(session.computation, 60) || "session";
}

/**
 * Make a list that shows the first of its items, with a search and a button for more once they are many.
 *
 * @param {Element} container of the items' elements
 * @param {object} options `frame`: the element around the container, such as its table; `noun` of an item; `first`: number shown at once; `key`, `create`, `update` as for `keyed`;
 *   `text(item)`: what a search looks into; `empty`: words for no items
 * @returns {{element: Element, show: function(Array): Array}} `show` draws and returns the items on the page
 */
export function listing(container, { frame = container, noun, first = 50, key, create, update, text, empty = "None." }) {
  const search = el("input", { type: "search", placeholder: `Find a ${noun}`, "aria-label": `Find a ${noun}`, autocomplete: "off", spellcheck: "false" });
  const shown = el("p", { class: "muted small", role: "status" });
  const more = el("button", { type: "button" }, "Show more");
  const nothing = el("p", { class: "empty" }, empty);
  const tools = el("div", { class: "tools" }, search, shown);
  const element = el("div", { class: "listing" }, tools, frame, nothing, more);
  let items = [];
  let limit = first;
  const draw = () => {
    const words = search.value.trim().toLowerCase();
    const found = words ? items.filter((item) => text(item).toLowerCase().includes(words)) : items;
    const page = found.slice(0, limit);
    keyed(container, page, key, create, update);
    tools.hidden = items.length <= first && !words;
    nothing.hidden = found.length > 0;
    frame.hidden = found.length === 0;
    write(nothing, words ? `No ${noun} with “${clean(words, 60)}”.` : empty);
    more.hidden = found.length <= limit;
    if (!tools.hidden) write(shown, `${page.length.toLocaleString("en")} of ${count(items.length, noun)}`);
    return page;
  };
  search.addEventListener("input", draw);
  more.addEventListener("click", () => {
    limit += 4 * first;
    draw();
  });
  return {
    element,
    show(now) {
      items = now;
      return draw();
    },
  };
}

/**
 * Make a table in a list: `columns` are [title, class, label on a narrow screen], `cells(item)` their contents.
 * The other options are those of `listing`.
 */
export function tableList(label, columns, { cells, ...options }) {
  const heads = columns.map(([title, kind]) => el("th", { scope: "col", role: "columnheader", class: kind }, title));
  const body = el("tbody", { role: "rowgroup" });
  // A narrow screen shows rows as blocks, and a browser then forgets what they are unless their roles say so.
  const frame = el("table", { class: "table", role: "table", "aria-label": label },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), body);
  const made = (item) => cells(item).map((content, index) =>
    el("td", { role: "cell", class: columns[index][1], "data-label": content !== "" && columns[index][2] }, content));
  const create = () => el("tr", { role: "row" });
  const list = listing(body, { frame, create, update: (row, item) => patch(row, made(item)), ...options });
  list.element.classList.add("panel");
  return { ...list, body };
}

/** Return the columns and a function that makes their cells, without the columns whose titles `left` has. */
function columnsWithout(left, columns, cells) {
  const kept = columns.map(([title], index) => (left.includes(title) ? -1 : index)).filter((index) => index >= 0);
  return [kept.map((index) => columns[index]), (item) => { const all = cells(item); return kept.map((index) => all[index]); }];
}

/** Make a table of sessions, without the columns `left`: {element, show(sessions), tick(now)}. */
export function sessionTable(label, empty, first = 25, left = []) {
  const [columns, cells] = columnsWithout(left, [["Session", ""], ["State", "tight"], ["Cohort", ""],
    ["Silos", "number", "silos"], ["Dropped", "number", "dropped"], ["Time", "number"], ["Began", "number"]], (session) => [
    el("a", { href: path("sessions", session.id) }, sessionTitle(session)),
    stateChip(session.outcome),
    el("a", { href: path("cohorts", session.cohort) }, clean(session.cohort, 40)),
    String(session.members),
    session.dropped ? String(session.dropped) : "",
    el("span", { "data-began": session.outcome === "running" && session.began }, duration(session.ended - session.began)),
    moment(session.began),
  ]);
  const text = (session) => [session.id, session.computation, session.program, session.cohort, session.outcome].join(" ");
  const list = tableList(label, columns, { noun: "session", first, empty, key: (session) => session.id, text, cells });
  return {
    ...list,
    tick(now) {
      for (const cell of list.body.querySelectorAll("[data-began]")) write(cell, duration(now - Number(cell.dataset.began)));
    },
  };
}

/** Make a table of notices, without the columns `left`: {element, show(notices)}. */
export function noticeTable(label, empty, first = 50, left = []) {
  const [columns, cells] = columnsWithout(left, [["Time", "tight"], ["Kind", "tight"], ["Cohort", ""], ["Silo", ""],
    ["What happened", "wide"], ["Session", "tight"]], (notice) => [
    moment(notice.time),
    stateChip(notice.kind),
    el("a", { href: path("cohorts", notice.cohort) }, clean(notice.cohort, 40)),
    named(notice.silo, 60),
    named(notice.text, 300),
    notice.session ? el("a", { href: path("sessions", notice.session), "aria-label": `Session ${clean(notice.session, 40)}` }, "session") : "",
  ]);
  const text = (notice) => [notice.kind, notice.cohort, notice.silo, notice.text, notice.session].join(" ");
  return tableList(label, columns, { noun: "notice", first, empty, key: (notice) => String(notice.number), text, cells });
}
