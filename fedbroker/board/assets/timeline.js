// The time line of a session: a row for each silo, its stages as bars on one axis. With many silos, the failed, waiting
// and slowest come first, and a picture above shows all of them.

import { barText, drawBars, growBars, legend } from "./bars.js";
import { bytes, clean, count, duration, el, named, set, svg, write } from "./base.js";
import { ticks } from "./chart.js";
import { listing, stateChip } from "./parts.js";
import { profile } from "./profile.js";

const MANY = 40; // silos, from which on the order is by trouble

/** Return the end of a running session's axis: it grows in steps of a quarter, so that bars seldom move. */
function axisEnd(seconds) {
  let end = 2;
  while (end < seconds) end *= 1.25;
  return end;
}

/** Return how a silo's bars sort: dropped first, then waiting, then answered; the slowest of each first. */
function rank(bars, spent) {
  const last = bars.at(-1);
  const kind = bars.some((bar) => bar.outcome !== "answered" && bar.outcome !== "waiting") ? 0 : last.outcome === "waiting" ? 1 : 2;
  return { kind, slow: last.outcome === "waiting" ? spent - last.began : Math.max(...bars.map((bar) => bar.total)) };
}

/** Make the words beside a silo's bars: its time, sizes and state. */
function ending(bars, spent) {
  const waiting = bars.find((bar) => bar.outcome === "waiting");
  const lost = bars.find((bar) => bar.outcome !== "waiting" && bar.outcome !== "answered");
  const word = lost?.outcome ?? (waiting ? "waiting" : "answered");
  const total = bars.reduce((sum, bar) => sum + bar.total, waiting ? spent - waiting.began : 0);
  return { word, total, why: lost?.why ?? "", in: bars.reduce((sum, bar) => sum + bar.bytes_in, 0) };
}

/** Make a row: {element, show(row), grow(row, spent)}. */
function silo() {
  const name = el("span", { class: "name" });
  const marks = svg("svg", { class: "bars", role: "img" });
  const time = el("span", { class: "time number" });
  const size = el("span", { class: "size number muted" });
  const state = el("span", { class: "outcome" });
  const element = el("li", { class: "silo" }, name, marks, time, size, state);
  let word = "";
  return {
    element,
    show(row) {
      const end = ending(row.bars, row.spent());
      name.replaceChildren(named(row.silo, 80));
      drawBars(marks, row.bars, row.span, row.spent());
      set(marks, { "aria-label": `${clean(row.silo, 80)}: ${row.bars.slice(-4).map((bar) => barText(bar, row.spent())).join("; ")}` });
      write(time, duration(end.total));
      write(size, end.in ? bytes(end.in) : "");
      if (word !== end.word + end.why) {
        state.replaceChildren(stateChip(end.word), ...(end.why ? [el("span", { class: "muted small why" }, clean(end.why, 200))] : []));
        word = end.word + end.why;
      }
    },
    grow(row, spent) {
      growBars(marks, row.bars, row.span, spent);
      write(time, duration(ending(row.bars, spent).total));
    },
  };
}

/** Draw the axis over the seconds of `span`. */
function drawAxis(axis, [from, to], stages) {
  const at = (seconds) => `${(100 * (seconds - from)) / (to - from)}%`;
  const marks = ticks(0, to - from, 6).map((one) => svg("text", {
    x: at(from + one), y: 12, "text-anchor": one === 0 ? "start" : one > 0.97 * (to - from) ? "end" : "middle",
  }, duration(one).replace(/\.0+ s$/, " s")));
  const edges = stages.filter((stage) => stage.began > from && stage.began < to)
    .map((stage) => svg("line", { x1: at(stage.began), x2: at(stage.began), y1: 16, y2: 20 }));
  axis.replaceChildren(...marks, ...edges);
}

/** Make the time line: {element, show({bars, stages, running, spent}), tick(spent)}. `changed` asks for another `show`. */
export function timeline(changed) {
  const stage = el("select", { "aria-label": "Stage" }, el("option", { value: "" }, "all stages"));
  const order = el("select", { "aria-label": "Order of silos" },
    ...[["", "usual order"], ["trouble", "slowest first"], ["name", "by name"]].map(([value, word]) => el("option", { value }, word)));
  const facts = el("p", { class: "muted" });
  const axis = svg("svg", { class: "axis", "aria-hidden": "true" });
  const rows = el("ul", { class: "silos", "aria-label": "Silos" });
  const picture = profile();
  const made = new WeakMap();
  const list = listing(rows, {
    frame: el("div", {}, el("div", { class: "silo axis-row" }, el("span"), axis), rows),
    noun: "silo",
    first: MANY,
    key: (row) => row.silo,
    text: (row) => row.silo,
    empty: "No silo was asked so far.",
    create: () => {
      const row = silo();
      made.set(row.element, row);
      return row.element;
    },
    update: (element, row) => made.get(element).show(row),
  });
  const element = el("div", { class: "panel timeline" },
    el("div", { class: "tools" }, legend(), el("span", { class: "choices" }, stage, order)), facts, picture.element, list.element);
  let page = [];
  let cache = new Map();
  let setting = "";
  let span = [0, 1];
  let state;

  const chooseSpan = () => {
    const only = state.stages.find((one) => String(one.stage) === stage.value);
    const from = only?.began ?? 0;
    const open = only ? only.ended === null : state.running;
    const until = only?.ended ?? state.spent;
    return [from, from + (open ? axisEnd(until - from) : Math.max(0.001, until - from))];
  };
  const offer = () => {
    const numbers = state.stages.map((one) => String(one.stage));
    if (stage.length === numbers.length + 1) return;
    const chosen = stage.value;
    stage.replaceChildren(el("option", { value: "" }, "all stages"), ...numbers.map((one) => el("option", { value: one }, `stage ${one}`)));
    stage.value = chosen;
  };
  /** Return a row for each silo; the same object as before if nothing of it changed. */
  const collect = () => {
    const now = `${span} ${stage.value}`;
    const before = setting === now ? cache : new Map();
    setting = now;
    cache = new Map();
    for (const [name, all] of state.bars) {
      const known = before.get(name);
      const bars = stage.value === "" ? all : all.filter((bar) => String(bar.stage) === stage.value);
      if (!bars.length) continue;
      const row = known?.all === all ? known : { silo: name, all, bars, span, spent: () => state.spent };
      cache.set(name, row);
    }
    const found = [...cache.values()];
    const byName = (a, b) => (a.silo < b.silo ? -1 : 1);
    if (order.value === "name" || (order.value === "" && found.length <= MANY)) return found.sort(byName);
    const ranks = new Map(found.map((row) => [row, rank(row.bars, state.spent)]));
    return found.sort((a, b) => ranks.get(a).kind - ranks.get(b).kind || ranks.get(b).slow - ranks.get(a).slow || byName(a, b));
  };
  for (const control of [stage, order]) control.addEventListener("change", changed);
  return {
    element,
    show(next) {
      state = next;
      offer();
      span = chooseSpan();
      drawAxis(axis, span, state.stages);
      const found = collect();
      page = list.show(found);
      const latest = stage.value === "" ? state.stages.at(-1) : state.stages.find((one) => String(one.stage) === stage.value);
      write(facts, latest ? summary(latest, found) : "");
      picture.element.hidden = found.length <= MANY;
      if (found.length > MANY) picture.show(found.map((row) => row.bars.at(-1)), state.spent, latest);
    },
    tick(spent) {
      if (!state) return;
      state.spent = spent;
      if (spent > span[1] && stage.value === "") return void changed();
      for (const [index, row] of page.entries()) if (row.bars.at(-1).outcome === "waiting") made.get(rows.children[index])?.grow(row, spent);
    },
  };
}

/** Return what a stage's bars come to, in a line. */
function summary(stage, rows) {
  const bars = rows.flatMap((row) => row.bars.filter((bar) => bar.stage === stage.stage));
  const answered = bars.filter((bar) => bar.outcome === "answered").sort((a, b) => a.total - b.total);
  const waiting = bars.filter((bar) => bar.outcome === "waiting").length;
  const parts = [`stage ${stage.stage}: ${answered.length.toLocaleString("en")} of ${count(bars.length, "silo")} answered`];
  if (answered.length > 1) parts.push(`median ${duration(answered[answered.length >> 1].total)}`, `slowest ${clean(answered.at(-1).silo, 40)} ${duration(answered.at(-1).total)}`);
  if (waiting) parts.push(`${waiting.toLocaleString("en")} waiting`);
  const lost = bars.length - answered.length - waiting;
  if (lost) parts.push(`${lost.toLocaleString("en")} dropped`);
  return parts.join(" · ");
}
