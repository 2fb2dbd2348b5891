// Line charts in SVG: a metric's values by round, with axes; a pointer or the arrow keys choose a point and read it.

import { clean, count, el, keyed, set, svg, value, write } from "./base.js";

const HEIGHT = 170;
const MARGIN = { top: 10, right: 12, bottom: 24, left: 52 };

/** Return up to `most` + 1 round numbers that cover the range from `low` to `high`. */
export function ticks(low, high, most, whole = false) {
  const rough = Math.max((high - low) / most, Number.EPSILON);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
  if (whole) step = Math.max(1, Math.ceil(step));
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let index = first; index * step <= high + step * 1e-9; index += 1) found.push(Number((index * step).toPrecision(12)));
  return found;
}

/** Return the least and the greatest number. */
const extent = (numbers) => numbers.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);

/** Return the range of an axis of values, with room around a line that is flat. */
function range(values) {
  if (!values.length) return [0, 1];
  const [low, high] = extent(values);
  if (low === high) return [low - Math.max(Math.abs(low) * 0.1, 0.5), high + Math.max(Math.abs(high) * 0.1, 0.5)];
  const room = (high - low) * 0.05;
  return [low - room, high + room];
}

/** Return at most four points for each pixel: first, last, least and greatest. The line looks the same. */
export function thinned(points, pixels) {
  const size = Math.ceil(points.length / Math.max(1, pixels));
  if (size < 4) return points;
  const found = [];
  for (let start = 0; start < points.length; start += size) {
    const part = points.slice(start, start + size).filter(([, one]) => one !== null);
    if (!part.length) continue;
    const by = [...part].sort((a, b) => a[1] - b[1]);
    found.push(...[...new Set([part[0], by[0], by.at(-1), part.at(-1)])].sort((a, b) => a[0] - b[0]));
  }
  return found;
}

class Chart {
  constructor() {
    this.name = el("span", { class: "metric" });
    this.reading = el("output", { class: "reading" });
    this.svg = svg("svg", { class: "plot", role: "img", height: HEIGHT });
    this.range = el("input", { type: "range", class: "scrub", step: 1, min: 0 });
    this.area = el("div", { class: "area" }, this.svg, this.range);
    this.element = el("figure", { class: "panel chart" }, el("figcaption", {}, this.name, this.reading), this.area);
    this.chosen = undefined; // index of the point that is read; undefined for the latest
    this.width = 0;
    this.range.addEventListener("input", () => this.choose(Number(this.range.value)));
    this.range.addEventListener("blur", () => this.choose(undefined));
    this.area.addEventListener("pointermove", (event) => this.point(event));
    this.area.addEventListener("pointerleave", () => this.choose(undefined));
    new ResizeObserver(([{ contentRect }]) => {
      if (Math.abs(contentRect.width - this.width) < 1) return;
      this.width = contentRect.width;
      this.draw();
    }).observe(this.area);
  }

  show(curve) {
    this.curve = curve;
    this.points = curve.points.filter(([, one]) => Number.isFinite(one));
    if (this.width) this.draw();
    else this.describe();
  }

  point(event) {
    if (!this.points.length) return;
    const at = event.clientX - this.area.getBoundingClientRect().left;
    const distances = this.points.map(([round]) => Math.abs(this.x(round) - at));
    this.choose(distances.indexOf(Math.min(...distances)));
  }

  choose(index) {
    this.chosen = index;
    this.describe();
    this.mark();
  }

  describe() {
    const { metric } = this.curve;
    const points = this.points;
    const last = points.length - 1;
    const index = Math.min(this.chosen ?? last, last);
    const reading = last < 0 ? "no finite value" : `${this.chosen === undefined ? "" : `round ${points[index][0]}: `}${value(points[index][1])}`;
    write(this.name, clean(metric, 60));
    write(this.reading, reading);
    const words = last < 0 ? "no finite value" : `${count(points.length, "point")}, from ${value(points[0][1])} in round ${points[0][0]} to ${value(points[last][1])} in round ${points[last][0]}`;
    set(this.svg, { "aria-label": `${clean(metric, 60)} by round: ${words}` });
    set(this.range, {
      "aria-label": `Round of ${clean(metric, 60)}`,
      "aria-valuetext": last < 0 ? "no value" : `round ${points[index][0]}: ${value(points[index][1])}`,
      max: Math.max(0, last),
      disabled: last < 1,
      "data-points": points.length,
    });
    if (this.chosen === undefined) this.range.value = String(Math.max(0, last));
  }

  draw() {
    this.describe();
    const [inner, deep] = [Math.max(10, this.width - MARGIN.left - MARGIN.right), HEIGHT - MARGIN.top - MARGIN.bottom];
    const rounds = this.points.map(([round]) => round);
    const [first, last] = rounds.length ? extent(rounds) : [0, 1];
    const [low, high] = range(this.points.map(([, one]) => one));
    this.x = (round) => MARGIN.left + (last === first ? inner / 2 : ((round - first) / (last - first)) * inner);
    this.y = (one) => MARGIN.top + deep - ((one - low) / (high - low)) * deep;
    const axes = svg("g", { class: "axes", "aria-hidden": "true" });
    for (const one of ticks(low, high, 6)) {
      const y = this.y(one).toFixed(1);
      axes.append(svg("line", { x1: MARGIN.left, x2: MARGIN.left + inner, y1: y, y2: y }),
        svg("text", { x: MARGIN.left - 8, y, dy: "0.32em", "text-anchor": "end" }, value(one)));
    }
    for (const one of ticks(first, last, Math.max(2, Math.floor(inner / 36)), true)) {
      axes.append(svg("text", { x: this.x(one).toFixed(1), y: HEIGHT - 7, "text-anchor": "middle" }, String(one)));
    }
    const line = thinned(this.points, inner).map(([round, one]) => `${this.x(round).toFixed(1)},${this.y(one).toFixed(1)}`);
    const marks = this.points.length <= inner / 12 ? this.points : this.points.slice(-1);
    this.cursor = svg("g", { class: "cursor" });
    set(this.svg, { width: Math.round(this.width), viewBox: `0 0 ${Math.round(this.width)} ${HEIGHT}` });
    this.svg.replaceChildren(axes,
      svg("polyline", { class: "curve", points: line.join(" ") }),
      svg("g", { class: "dots" }, ...marks.map(([round, one]) => svg("circle", { cx: this.x(round).toFixed(1), cy: this.y(one).toFixed(1), r: 2 }))),
      this.cursor);
    this.mark();
  }

  mark() {
    if (!this.cursor) return;
    const point = this.chosen === undefined ? undefined : this.points[Math.min(this.chosen, this.points.length - 1)];
    if (!point) return void this.cursor.replaceChildren();
    const [x, y] = [this.x(point[0]).toFixed(1), this.y(point[1]).toFixed(1)];
    this.cursor.replaceChildren(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }), svg("circle", { cx: x, cy: y, r: 4 }));
  }
}

/** Make a grid of charts: {element, show(curves)}. */
export function chartGrid() {
  const element = el("div", { class: "charts" });
  const charts = new WeakMap();
  const create = () => {
    const chart = new Chart();
    charts.set(chart.element, chart);
    return chart.element;
  };
  return {
    element,
    show: (curves) => keyed(element, curves, (curve) => JSON.stringify([curve.run, curve.metric]), create, (made, curve) => charts.get(made).show(curve)),
  };
}
