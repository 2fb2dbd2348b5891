// A silo's part in a stage as a bar: queue, transfer and compute, or waiting, which grows.

import { clean, duration, el, svg } from "./base.js";

const PARTS = ["queue", "transfer", "compute"];
export const LEGEND = [["queue", "queue"], ["transfer", "transfer"], ["compute", "compute"], ["waiting", "waiting"], ["lost", "dropped"]];

/** Return what a bar shows in words, for those who do not see it. `now`: seconds since the session's start. */
export function barText(bar, now) {
  const stage = `stage ${bar.stage}`;
  if (bar.outcome === "waiting") return `${stage}: waiting for ${duration(now - bar.began)}`;
  const why = bar.why ? `: ${clean(bar.why)}` : "";
  if (bar.outcome !== "answered") return `${stage}: ${clean(bar.outcome, 40)} after ${duration(bar.total)}${why}`;
  return `${stage}: answered in ${duration(bar.total)}: ${PARTS.map((part) => `${part} ${duration(bar[part])}`).join(", ")}`;
}

/** Return a bar's rectangles as [part, from, to], in seconds since the session's start. */
export function pieces(bar, now) {
  if (bar.outcome === "waiting") return [["waiting", bar.began, Math.max(bar.began, now)]];
  const end = bar.began + bar.total;
  if (bar.outcome !== "answered") return [["lost", bar.began, end]];
  let at = bar.began;
  const found = [];
  for (const part of PARTS) {
    const until = Math.min(end, at + (bar[part] || 0));
    if (until > at) found.push([part, at, until]);
    at = until;
  }
  if (end > at) found.push(["rest", at, end]); // on the way, and merged
  return found;
}

const percent = (seconds, [from, to]) => (100 * (seconds - from)) / Math.max(1e-6, to - from);

/** Draw bars into an <svg class="bars">. `span`: the seconds at its left and right edge. */
export function drawBars(target, bars, span, now) {
  const marks = [svg("rect", { class: "track", width: "100%", height: "100%", rx: 2 })];
  for (const bar of bars) {
    const group = svg("g", {}, svg("title", {}, barText(bar, now)));
    for (const [part, from, to] of pieces(bar, now)) {
      const [left, right] = [percent(from, span), percent(to, span)];
      if (right < 0 || left > 100) continue;
      group.append(svg("rect", {
        class: `part-${part}`,
        x: `${left.toFixed(3)}%`,
        width: `${Math.max(0.15, right - left).toFixed(3)}%`, // a short part is a line, never nothing
        height: "100%",
      }));
    }
    marks.push(group);
  }
  target.replaceChildren(...marks);
}

/** Move the right edges of the waiting bars of an <svg> that `drawBars` has drawn. */
export function growBars(target, bars, span, now) {
  const waiting = bars.filter((bar) => bar.outcome === "waiting");
  const marks = target.getElementsByClassName("part-waiting");
  for (let index = 0; index < marks.length && index < waiting.length; index += 1) {
    const width = percent(now, span) - percent(waiting[index].began, span);
    marks[index].setAttribute("width", `${Math.max(0.15, width).toFixed(3)}%`);
  }
}

/** Make the legend of the bars. */
export function legend() {
  const items = LEGEND.map(([part, word]) =>
    el("li", {}, svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("rect", { class: `part-${part}`, width: 10, height: 10, rx: 2 })), word));
  return el("ul", { class: "legend", "aria-label": "Colours of the bars" }, ...items);
}
