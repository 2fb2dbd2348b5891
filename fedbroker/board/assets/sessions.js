// Sessions under way and past; and one session: why it waits, its stages, and a time line for each silo.

import { bytes, clean, duration, el, moment, patch, write } from "./base.js";
import { facts, head, noticeTable, path, section, sessionTable, sessionTitle, stateChip, tableList, waitsSentence } from "./parts.js";
import { timeline } from "./timeline.js";

const WAITING = "waiting-"; // with a coordinator's id, the id of an invocation that has no session so far

export function sessionsView({ store }) {
  const under = sessionTable("Sessions under way", "No session is running.");
  const past = sessionTable("Past sessions", "No session has ended since this board began to watch.");
  return {
    element: el("div", { class: "views" }, head("Sessions", "api/sessions"), section("Under way", under.element), section("Past", past.element)),
    title: () => "Sessions",
    update() {
      const all = store.sessionsNewest();
      under.show(all.filter((session) => session.outcome === "running"));
      past.show(all.filter((session) => session.outcome !== "running"));
    },
    tick: under.tick,
  };
}

function stageTable() {
  return tableList("Stages", [["Stage", ""], ["Answered", "number", "answered"], ["Needed", "number", "needed"], ["Time", "number", "time"], ["Sums", "tight"]], {
    noun: "stage",
    first: 12,
    empty: "No stage has begun.",
    key: (stage) => String(stage.stage),
    text: (stage) => `stage ${stage.stage}`,
    cells: (stage) => [
      `stage ${stage.stage}`,
      `${stage.answered} of ${stage.silos}`,
      stage.needed ? String(stage.needed) : "",
      stage.ended === null ? "running" : duration(stage.ended - stage.began),
      stage.masked ? "masked" : "",
    ],
  });
}

/** Fetch a past session, whose bars are not part of the stream. Return false if the board does not know it. */
async function load(store, id) {
  const response = await fetch(`api/sessions/${encodeURIComponent(id)}`);
  if (!response.ok) return false;
  const { session, stages, bars } = await response.json();
  if (!store.sessions.has(id)) store.sessions.set(id, session);
  store.addParts(stages, bars);
  return true;
}

export function sessionView({ store, redraw }, id) {
  const title = el("span");
  const state = el("span");
  const about = el("dl", { class: "facts" });
  const waits = el("p", { class: "waits" });
  const error = el("p", { class: "error" });
  const line = timeline(redraw);
  const stages = stageTable();
  const notices = noticeTable("Notices of this session", "Nothing was dropped or forged.", 12, ["Cohort", "Session"]);
  const parts = el("div", { class: "views inner" }, section("Time line", line.element), section("Stages", stages.element), section("Notices", notices.element));
  const element = el("div", { class: "views" },
    el("div", { class: "stack" }, head(title, `api/sessions/${encodeURIComponent(id)}`, state), waits, error, about), parts);
  let asked = false;
  let unknown = false;
  const find = () => {
    if (asked) return;
    asked = true;
    load(store, id).then((found) => { unknown = !found; redraw(); }, () => { asked = false; });
  };
  const follow = () => { // an invocation that waited for silos has a session now
    const next = store.sessionsNewest((other) => other.coordinator === id.slice(WAITING.length))[0];
    if (next) location.replace(path("sessions", next.id));
  };
  const session = () => store.sessions.get(id);
  const bars = () => store.bars.get(id) ?? new Map();
  const spent = (one, now) => (one.ended ?? now) - one.began;
  return {
    element,
    title: () => (session() ? sessionTitle(session()) : "Session"),
    sentence: () => (session()?.outcome === "running" ? waitsSentence(session()) : ""),
    update(now) {
      const one = session();
      if (!one || (one.outcome !== "running" && !store.bars.has(id))) find();
      parts.hidden = !one;
      if (!one) {
        if (id.startsWith(WAITING)) follow();
        title.replaceChildren("Session");
        write(waits, unknown ? "This board does not know this session: it keeps the newest ones." : "Asking for this session…");
        return;
      }
      write(title, sessionTitle(one));
      patch(state, [stateChip(one.outcome)]);
      const running = one.outcome === "running";
      waits.hidden = !running;
      write(waits, waitsSentence(one) || "It waits for no silo.");
      error.hidden = !one.error;
      write(error, clean(one.error, 1000));
      const all = [...bars().values()].flat();
      patch(about, facts([
        ["time", el("span", { class: "elapsed" }, duration(spent(one, now)))],
        ["began", moment(one.began)],
        ["silos", one.members === 0 ? "" : `${one.members}${one.dropped ? `, ${one.dropped} dropped` : ""}`],
        ["forged", one.forged ? String(one.forged) : ""],
        ["out", bytes(all.reduce((sum, bar) => sum + bar.bytes_out, 0))],
        ["in", bytes(all.reduce((sum, bar) => sum + bar.bytes_in, 0))],
        ["computation", clean(one.computation, 80)],
        ["run", one.run ? el("a", { href: path("runs", one.run) }, clean(one.program, 60) || "run") : ""],
        ["cohort", el("a", { href: path("cohorts", one.cohort) }, clean(one.cohort, 40))],
        ["session", el("code", {}, clean(one.id, 60))],
        ["coordinator", el("code", {}, clean(one.coordinator, 40))],
      ]));
      const known = [...(store.stages.get(id)?.values() ?? [])].sort((a, b) => a.stage - b.stage);
      stages.show(known);
      notices.show(store.notices.filter((notice) => notice.session === id).reverse());
      line.show({ bars: bars(), stages: known, running, spent: spent(one, now) });
    },
    tick(now) {
      const one = session();
      if (!one) return;
      write(about.querySelector(".elapsed"), duration(spent(one, now)));
      if (one.outcome === "running") line.tick(spent(one, now));
    },
  };
}
