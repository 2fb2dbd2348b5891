// The first view: what runs and why it waits, the cohorts, the newest curves, incidents, and sessions of the past.

import { clean, count, duration, el, keyed, patch, set, svg, write } from "./base.js";
import { chartGrid } from "./chart.js";
import { cohortTable } from "./cohort.js";
import { head, noticeTable, path, section, sessionTable, sessionTitle, stateChip, waitsSentence } from "./parts.js";
import { runHead } from "./runs.js";

const CHARTS = 4;
const NOTICES = 6;
const RUNNING = 12; // cards; the view of sessions has all

/** Make the card of a running session. */
function runningCard() {
  const link = el("a", {});
  const state = el("span");
  const time = el("span", { class: "number" });
  const waits = el("p", { class: "waits" });
  const done = svg("rect", { class: "part-compute", height: "100%" });
  const gone = svg("rect", { class: "part-lost", height: "100%" });
  const bar = svg("svg", { class: "bars thin", role: "img" }, svg("rect", { class: "track", width: "100%", height: "100%" }), done, gone);
  const where = el("p", { class: "muted small" });
  const element = el("li", { class: "panel running" }, el("div", { class: "head" }, el("h3", {}, link), state, time), waits, bar, where);
  return { element, link, state, time, waits, done, gone, bar, where };
}

/** Make the list of running sessions: {element, show(sessions), tick(now)}. */
function runningList(store) {
  const element = el("ul", { class: "cards" });
  const cards = new Map();
  const create = (session) => {
    const card = runningCard();
    cards.set(session.id, card);
    return card.element;
  };
  const update = (_, session) => {
    const card = cards.get(session.id);
    card.session = session;
    set(card.link, { href: path("sessions", session.id) });
    write(card.link, sessionTitle(session));
    patch(card.state, [stateChip(session.outcome)]);
    write(card.waits, waitsSentence(session) || "It waits for no silo.");
  };
  const progress = (card) => {
    const stage = store.stages.get(card.session.id)?.get(card.session.stage);
    const silos = stage?.silos || card.session.members || 1;
    const answered = stage?.answered ?? 0;
    const dropped = Math.min(card.session.dropped, Math.max(0, silos - answered));
    const words = stage ? `stage ${stage.stage}: ${answered} of ${count(silos, "silo")} answered` : card.session.members ? count(card.session.members, "silo") : "not started";
    set(card.done, { width: `${(100 * answered) / silos}%` });
    set(card.gone, { x: `${(100 * answered) / silos}%`, width: `${(100 * dropped) / silos}%` });
    set(card.bar, { "aria-label": words });
    write(card.where, `cohort ${clean(card.session.cohort, 40)} · ${words}${card.session.dropped ? ` · ${card.session.dropped} dropped` : ""}`);
  };
  return {
    element,
    show(sessions) {
      keyed(element, sessions, (session) => session.id, create, update);
      const shown = new Set(sessions.map((session) => session.id));
      for (const [id, card] of cards) {
        if (shown.has(id)) progress(card);
        else cards.delete(id);
      }
      element.hidden = sessions.length === 0;
    },
    tick(now) {
      for (const card of cards.values()) write(card.time, duration(now - card.session.began));
    },
  };
}

export function overview({ store }) {
  const running = runningList(store);
  const idle = el("p", { class: "panel empty" }, "No session is running.");
  const more = el("p", { hidden: true }, el("a", { href: path("sessions") }, "All sessions under way"));
  const cohorts = cohortTable("Cohorts", store);
  const curves = el("div", { class: "stack" });
  const curveHead = el("div", { class: "head" });
  const charts = chartGrid();
  curves.append(curveHead, charts.element);
  const notices = noticeTable("Newest notices", "Nothing was dropped or forged, and there is no dead letter.", NOTICES);
  const past = sessionTable("Past sessions", "No session has ended since this board began to watch.", 8);
  const curveSection = section("Curves of the newest run", curves);
  const element = el("div", { class: "views" },
    head("Overview", "api/state"),
    section("Under way", running.element, more, idle),
    section("Cohorts", cohorts.element),
    curveSection,
    section("Notices", notices.element),
    section("Past sessions", past.element));
  let session;
  return {
    element,
    title: () => (session ? `${sessionTitle(session)} runs` : "Overview"),
    sentence: () => (session ? `${sessionTitle(session)}: ${waitsSentence(session)}` : ""),
    update() {
      const all = store.sessionsNewest();
      const under = all.filter((one) => one.outcome === "running");
      session = under[0];
      running.show(under.slice(0, RUNNING));
      more.hidden = under.length <= RUNNING;
      idle.hidden = under.length > 0;
      cohorts.show([...store.cohorts.values()]);
      const run = store.runs().find((one) => one.curves.length);
      curveSection.hidden = !run;
      if (run) {
        patch(curveHead, runHead(run));
        charts.show(run.curves.slice(0, CHARTS));
      }
      notices.show(store.notices.slice(-NOTICES).reverse());
      past.show(all.filter((one) => one.outcome !== "running"));
    },
    tick: running.tick,
  };
}
