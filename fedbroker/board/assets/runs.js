// Runs of programs: their metrics as curves, and their sessions.

import { clean, el, keyed, patch, write } from "./base.js";
import { chartGrid } from "./chart.js";
import { facts, head, path, section, sessionTable } from "./parts.js";

const CHARTS = 3; // of each run in the list of runs
const RUNS = 8;

/** Return the heading of a run in a list, and its cohort. */
export function runHead(run) {
  const last = run.curves[0]?.points.at(-1)?.[0];
  return [
    el("h3", {}, el("a", { href: path("runs", run.run) }, clean(run.program, 60) || "program")),
    el("span", { class: "muted small" }, `cohort ${clean(run.cohort, 40)}${last === undefined ? "" : ` · round ${last}`}`),
  ];
}

export function runsView({ store }) {
  const list = el("ul", { class: "stack wide-gap" });
  const nothing = el("p", { class: "panel empty" }, "No program has reported a metric. A program does so with ",
    el("code", {}, "run.report({\"loss\": loss})"), ".");
  const entries = new Map();
  const create = ({ run }) => {
    const entry = { head: el("div", { class: "head" }), charts: chartGrid() };
    entries.set(run, entry);
    return el("li", {}, entry.head, entry.charts.element);
  };
  const update = (_, run) => {
    const entry = entries.get(run.run);
    patch(entry.head, runHead(run));
    entry.charts.show(run.curves.slice(0, CHARTS));
  };
  return {
    element: el("div", { class: "views" }, head("Curves", "api/curves"), list, nothing),
    title: () => "Curves",
    update() {
      const runs = store.runs().filter((run) => run.curves.length);
      keyed(list, runs.slice(0, RUNS), ({ run }) => run, create, update);
      nothing.hidden = runs.length > 0;
    },
  };
}

export function runView({ store }, id) {
  const title = el("span");
  const about = el("dl", { class: "facts" });
  const charts = chartGrid();
  const none = el("p", { class: "panel empty" }, "This board has no curve of this run.");
  const sessions = sessionTable("Sessions of this run", "No session of this run is known.", 12, ["Cohort"]);
  let name = "Run";
  return {
    element: el("div", { class: "views" },
      el("div", { class: "stack" }, head(title, "api/curves"), about),
      section("Metrics by round", charts.element, none), section("Sessions", sessions.element)),
    title: () => name,
    update() {
      const run = store.runs().find((one) => one.run === id);
      name = clean(run?.program, 60) || "Run";
      write(title, name);
      patch(about, facts([
        ["run", el("code", {}, clean(id, 40))],
        ["cohort", run ? el("a", { href: path("cohorts", run.cohort) }, clean(run.cohort, 40)) : ""],
        ["round", run?.curves[0]?.points.at(-1)?.[0]],
      ]));
      charts.show(run?.curves ?? []);
      none.hidden = Boolean(run?.curves.length);
      sessions.show(store.sessionsNewest((session) => session.run === id));
    },
    tick: sessions.tick,
  };
}
