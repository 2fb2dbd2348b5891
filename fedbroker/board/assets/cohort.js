// Cohorts and one cohort: who is in it, since when, with which sources and version, in which state.

import { clean, count, duration, el, moment, named, patch, write } from "./base.js";
import { facts, head, noticeTable, path, section, sessionTable, stateChip, tableList } from "./parts.js";

const NAMES = 6; // silos in trouble that a cohort's row names

/** Return the silos that are late or gone in words, such as "lga late, jfk gone". */
function trouble(silos) {
  const found = silos.filter((silo) => silo.state !== "present");
  const more = found.length > NAMES ? ` and ${found.length - NAMES} more` : "";
  return found.slice(0, NAMES).map((silo) => `${clean(silo.name, 40)} ${silo.state}`).join(", ") + more;
}

/** Make the table of cohorts: {element, show(cohorts)}. */
export function cohortTable(label, store) {
  const columns = [["Cohort", ""], ["Present", "number", "present"], ["Late or gone", "wide"], ["Dead letters", "number", "dead letters"]];
  const list = tableList(label, columns, {
    noun: "cohort",
    first: 20,
    empty: "No silo has announced itself since this board began to watch.",
    key: ({ name }) => name,
    text: ({ name }) => name,
    cells: (cohort) => [
      el("a", { href: path("cohorts", cohort.name) }, clean(cohort.name, 60)),
      `${cohort.present} of ${cohort.silos}`,
      cohort.trouble ? el("span", { class: "chip long", "data-tone": / gone\b/.test(cohort.trouble) ? "bad" : "warn" }, cohort.trouble) : "",
      cohort.dead_letters === null ? el("span", { class: "muted" }, "unknown") : String(cohort.dead_letters),
    ],
  });
  const before = new Map(); // a row is made again only if its words change
  return {
    element: list.element,
    show(cohorts) {
      list.show(cohorts.sort((a, b) => (a.name < b.name ? -1 : 1)).map((cohort) => {
        const row = { ...cohort, trouble: trouble(store.silosOf(cohort.name)) };
        const words = JSON.stringify(row);
        if (before.get(cohort.name)?.words !== words) before.set(cohort.name, { words, row });
        return before.get(cohort.name).row;
      }));
    },
  };
}

function siloTable() {
  const columns = [["Silo", ""], ["State", "tight"], ["Work", "number", "work items"], ["Sources", "wide"], ["Version", "tight", "version"],
    ["Heartbeat", "number", "heartbeat"], ["Since", "number", "since"]];
  return tableList("Silos", columns, {
    noun: "silo",
    first: 100,
    empty: "No silo is known.",
    key: (silo) => silo.name,
    text: (silo) => [silo.name, silo.state, silo.version, ...silo.sources].join(" "),
    cells: (silo) => [
      named(silo.name, 80),
      el("span", { class: "state" }, stateChip(silo.state), el("span", { class: "muted small", "data-seen": silo.state !== "present" && silo.seen })),
      silo.in_flight ? String(silo.in_flight) : "",
      named(silo.sources.map((source) => clean(source, 60)).join(", "), 400),
      clean(silo.version, 24),
      `${silo.heartbeat} s`,
      moment(silo.since),
    ],
  });
}

export function cohortView({ store }, name) {
  if (name === undefined) return cohortsView(store);
  const silos = siloTable();
  const sessions = sessionTable(`Sessions of ${clean(name)}`, "No session since this board began to watch.", 12, ["Cohort"]);
  const notices = noticeTable(`Notices of ${clean(name)}`, "Nothing was dropped or forged, and there is no dead letter.", 12, ["Cohort"]);
  const about = el("dl", { class: "facts" });
  const dead = el("p", { class: "muted small", hidden: true }, "An operator lists dead letters by ", el("code", {}, "fedbroker dead-letters list"), ".");
  const sentence = el("p", { class: "waits" });
  const element = el("div", { class: "views" },
    el("div", { class: "stack" }, head(clean(name, 80), `api/cohorts/${encodeURIComponent(name)}`), about, dead, sentence),
    section("Silos", silos.element), section("Sessions", sessions.element), section("Notices", notices.element));
  let bad = "";
  return {
    element,
    title: () => `Cohort ${clean(name, 60)}`,
    sentence: () => bad,
    update() {
      const cohort = store.cohorts.get(name);
      const known = store.silosOf(name);
      patch(about, cohort ? facts([
        ["silos", `${cohort.present} of ${cohort.silos} present`],
        ["work", `${count(known.filter((silo) => silo.working).length, "silo")} in sessions`],
        ["dead letters", cohort.dead_letters === null ? "unknown" : String(cohort.dead_letters)],
      ]) : []);
      dead.hidden = !cohort?.dead_letters;
      bad = trouble(known);
      write(sentence, cohort ? bad : "This board has seen no cohort of this name.");
      sentence.hidden = Boolean(cohort) && !bad;
      silos.show(known);
      sessions.show(store.sessionsNewest((session) => session.cohort === name));
      notices.show(store.notices.filter((notice) => notice.cohort === name).reverse());
    },
    tick(now) {
      for (const text of silos.body.querySelectorAll("[data-seen]")) write(text, `last seen ${duration(now - Number(text.dataset.seen))} ago`);
      sessions.tick(now);
    },
  };
}

function cohortsView(store) {
  const cohorts = cohortTable("Cohorts", store);
  const element = el("div", { class: "views" }, head("Cohorts", "api/cohorts"), cohorts.element);
  return { element, title: () => "Cohorts", update: () => cohorts.show([...store.cohorts.values()]) };
}
