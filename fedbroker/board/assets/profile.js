// A picture of all silos of a large stage: a column for each, slowest first, with its parts stacked.

import { pieces } from "./bars.js";
import { count, duration, el, set, write } from "./base.js";

const HEIGHT = 84;
const PAUSE = 250; // milliseconds between two pictures
const SCHEME = matchMedia("(prefers-color-scheme: dark)");

/** Return the seconds that a bar has taken so far. */
const length = (bar, spent) => (bar.outcome === "waiting" ? Math.max(0, spent - bar.began) : bar.total);

/** Make the picture: {element, show(bars, spent, stage)}. */
export function profile() {
  const canvas = el("canvas", { role: "img", class: "profile" });
  const most = el("span");
  const words = el("span");
  const element = el("figure", { class: "profile-box", hidden: true }, canvas, el("figcaption", { class: "muted small" }, words, most));
  let latest;
  let timer;
  let at = 0;
  let colours;
  SCHEME.addEventListener("change", () => { colours = undefined; draw(); });

  const draw = () => {
    timer = undefined;
    at = performance.now();
    const width = canvas.clientWidth;
    if (!latest || !width) return;
    const [bars, spent, stage] = latest;
    const style = getComputedStyle(canvas);
    colours ??= Object.fromEntries([["queue", "queue"], ["transfer", "transfer"], ["compute", "compute"], ["waiting", "waiting"], ["lost", "bad"], ["rest", "line"]]
      .map(([part, name]) => [part, style.getPropertyValue(`--${name}`)]));
    const scale = devicePixelRatio || 1;
    set(canvas, { width: Math.round(width * scale), height: Math.round(HEIGHT * scale) });
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    const sorted = [...bars].sort((a, b) => length(b, spent) - length(a, spent));
    const longest = length(sorted[0], spent) || 1;
    const column = width / sorted.length;
    const snap = (at) => Math.round(at * scale) / scale; // whole pixels, so that no column is blurred
    for (const [index, bar] of sorted.entries()) {
      const [left, right] = [snap(index * column), snap((index + 1) * column)];
      for (const [part, from, to] of pieces(bar, spent)) {
        context.fillStyle = colours[part];
        const [low, high] = [from, to].map((one) => (HEIGHT * Math.min(longest, one - bar.began)) / longest);
        context.fillRect(left, HEIGHT - high, Math.max(right - left - (column > 4 ? 1 : 0), 1 / scale), Math.max(0.5, high - low));
      }
    }
    const middle = sorted[sorted.length >> 1];
    write(words, `all ${count(sorted.length, "silo")}${stage ? ` of stage ${stage.stage}` : ""}, slowest first`);
    write(most, `longest ${duration(longest)}`);
    set(canvas, { "aria-label": `Time of all ${count(sorted.length, "silo")}: longest ${duration(longest)}, median ${duration(length(middle, spent))}` });
  };
  return {
    element,
    show(...next) {
      latest = next;
      timer ??= setTimeout(draw, Math.max(0, PAUSE - (performance.now() - at)));
    },
  };
}
