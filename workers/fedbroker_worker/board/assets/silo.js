// The page of one silo's administrator: what is asked of the silo, and what leaves it.

import { bytes, chip, clean, count, duration, el, keyed, moment, named, set, write } from "/assets/base.js";
import { announcer, beforeFrame, follow, statusLine } from "/assets/live.js";

const RUNNING = new Set(["received", "waiting for blobs", "computing", "masking", "sending"]);
const TONES = {
  answered: "ok", refused: "warn", failed: "bad", cancelled: "", interrupted: "warn", lacking: "", begun: "warn",
};
const STATES = {
  "in its cohort": "ok", paused: "warn", leaving: "warn", joining: "busy", "standing by": "busy",
};
const LONG = 2000; // characters of a text in the details

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const connection = statusLine(page.status);
const say = announcer(page.live);
let status;
let work = new Map();
let reachable = false;
let problem = "";
let filter = "all";
let offset = 0; // the server's clock minus this machine's, in seconds

const now = () => Date.now() / 1000 + offset;

function isRunning(item) {
  return RUNNING.has(item.state);
}

function passes(item) {
  if (filter === "all") return true;
  if (filter === "failed") return !["answered", "refused"].includes(item.state);
  return item.state === filter;
}

function who(item) {
  return item.key_name || item.key || `${item.coordinator} (unsigned)`;
}

function reads(item) {
  return item.reads.length ? `reads ${item.reads.map((read) => clean(read.source, 40)).join(", ")}` : "reads no data";
}

function left(item) {
  if (item.why) return clean(item.rule ? `${item.rule}: ${item.why}` : item.why, 200);
  if (!item.releases.length) return item.bytes_out ? bytes(item.bytes_out) : "";
  const more = item.releases.length > 1 ? ` and ${item.releases.length - 1} more` : "";
  return `${clean(item.releases[0], 120)}${more}, ${bytes(item.bytes_out)}`;
}

function spent(item) {
  return item.seconds === null ? duration(now() - item.received) : duration(item.seconds);
}

function tone(item) {
  return isRunning(item) ? "busy" : TONES[item.state] ?? "";
}

function makeWork(item) {
  const summary = el("summary", {});
  const more = el("div", { class: "more" });
  const details = el("details", {}, summary, more);
  details.addEventListener("toggle", () => {
    if (details.open) fillMore(details, true);
  });
  const row = el("li", { "data-id": item.id }, details);
  updateWork(row, item);
  return row;
}

function updateWork(row, item) {
  const details = row.firstElementChild;
  details._item = item;
  details.firstElementChild.replaceChildren(
    el("span", { class: "muted when" }, moment(item.received)),
    chip(item.state, tone(item)),
    el("span", { class: "title" }, item.computation ? named(item.computation, 80) : el("span", { class: "muted" }, "no name")),
    el("span", { class: "who" }, named(who(item), 60)),
    el("span", { class: "what" }, isRunning(item) ? reads(item) : left(item) || reads(item)),
    el("span", { class: "number spent" }, spent(item)),
  );
  if (details.open) fillMore(details, false);
}

function fact(name, ...value) {
  return [el("dt", {}, name), el("dd", {}, ...value)];
}

function facts(item) {
  const signed = item.key ? `signed by ${item.key_name ? `${item.key_name}, ` : ""}${item.key}` : "not signed";
  return el("dl", {},
    fact("computation", clean(item.computation, LONG) || "no name", " (claimed by the coordinator)"),
    fact("coordinator", `${clean(item.coordinator)}, ${clean(signed)}`),
    fact("session", `${clean(item.session)}, client stage ${item.stage}`),
    fact("arrived", moment(item.received)),
    fact("clients", String(item.clients)),
    item.reads.length
      ? item.reads.flatMap((read) => fact("reads", `${clean(read.source)}: ${clean(read.columns.join(", "), LONG) || "no column"}`))
      : fact("reads", "no data"),
    fact("came with it", bytes(item.bytes_in)),
    item.why ? fact("why", clean(item.why, LONG)) : [],
    item.rule ? fact("rule", `${clean(item.rule)} in [policy]`) : [],
    item.releases.length ? item.releases.flatMap((text) => fact("left", clean(text, LONG))) : fact("left", isRunning(item) ? "nothing yet" : "nothing"),
    item.masked ? fact("masked", `${count(item.masked, "output")}, summed over ${count(item.silos, "silo")}`) : [],
    fact("bytes out", `${item.bytes_out.toLocaleString("en")} B`),
  );
}

function fillMore(details, ask) {
  const item = details._item;
  const account = details._account ?? el("div", { class: "account" });
  details._account = account;
  details.lastElementChild.replaceChildren(facts(item), account);
  if (!item.explained) {
    account.replaceChildren(el("p", { class: "muted small" }, "Its computations are not kept here."));
  } else if (ask && !account._asked) {
    account._asked = true;
    explain(item.id, account);
  }
}

async function explain(id, account) {
  account.replaceChildren(el("p", { class: "muted" }, "Reading the computations…"));
  try {
    const response = await fetch(`/api/work/${id}/account`);
    const found = await response.json();
    if (!response.ok) throw new Error(found.error ?? response.statusText);
    const lines = found.lines.map((line) => el("li", { "data-level": line.startsWith("  ") ? 1 : 0 }, clean(line, LONG)));
    account.replaceChildren(el("h3", {}, "As this silo reads it from the bytes that came"), el("ul", {}, lines));
  } catch (error) {
    account._asked = false;
    account.replaceChildren(el("p", { class: "problem" }, clean(error.message, LONG)));
  }
}

function drawWork() {
  const items = [...work.values()].sort((one, other) => other.received - one.received || other.id - one.id);
  const running = items.filter(isRunning);
  const ended = items.filter((item) => !isRunning(item) && passes(item));
  const id = (item) => String(item.id);
  keyed(page["running-list"], running, id, makeWork, updateWork);
  keyed(page["asked-list"], ended, id, makeWork, updateWork);
  page["running-empty"].hidden = running.length > 0;
  page["asked-empty"].hidden = ended.length > 0;
  write(page["asked-empty"], filter === "all" ? "Nothing was asked yet." : `Nothing was ${filter}.`);
}

function drawStatus() {
  set(page.problem, { hidden: !problem });
  write(page.problem, clean(problem, LONG));
  if (!status) return;
  const name = clean(status.silo, 63);
  document.title = `${name}: ${reachable ? status.state : "no service"}`;
  write(page.name, name);
  page.state.replaceChildren(reachable ? chip(status.state, STATES[status.state] ?? "") : chip("no service", "bad"));
  const pause = status.paused_since === null ? [] : fact(
    "paused since", moment(status.paused_since), status.pause_kept ? ", until resumed" : ", until the service ends",
  );
  const pairs = [
    pause,
    fact("cohort", clean(status.cohort, 63)),
    fact("broker", `${clean(status.broker)}, ${status.connected ? "connected" : "not connected"}`),
    fact("running", `${count(status.running, "work item")}, ${count(status.sessions, "session")}`),
    fact("answered", status.answered.toLocaleString("en")),
    fact("refused", status.refused.toLocaleString("en")),
    fact("failed", status.failed.toLocaleString("en")),
    fact("left", bytes(status.bytes_out)),
    fact("version", `${clean(status.version)}, Python ${clean(status.python)}`),
    fact("process", String(status.pid), ", since ", moment(status.since)),
  ].filter((pair) => pair.length);
  page.facts.replaceChildren(...pairs.map((pair) => el("div", {}, ...pair)));
  write(page.guarantee, `${status.guarantee.charAt(0).toUpperCase()}${status.guarantee.slice(1)}.`);
  write(page.rules, clean(status.policy, LONG));
  const roster = status.roster ? ` Roster of masked sums: ${clean(status.roster, 300)}.` : "";
  const signers = status.signers.length ? `Work is taken from ${clean(status.signers.join(", "), 500)}.` : "Work is not signed: any user of the broker may send it.";
  write(page.log, signers + roster);
  keyed(page.sources, status.sources, (source) => source.name, (source) => el("tr", {},
    el("td", {}, named(source.name)),
    el("td", { "data-label": "columns" }, clean(source.columns.join(", "), LONG)),
    el("td", { class: "number", "data-label": "rows" }, source.rows === null ? "unknown" : source.rows.toLocaleString("en")),
    el("td", { class: "number", "data-label": "clients" }, source.clients.toLocaleString("en")),
  ));
  page["sources-empty"].hidden = status.sources.length > 0;
  page["sources-table"].hidden = status.sources.length === 0;
}

const draw = beforeFrame(() => {
  drawStatus();
  drawWork();
});

function take(message) {
  if (message.at) offset = message.at - Date.now() / 1000;
  if (message.status) status = message.status;
  reachable = message.reachable;
  problem = message.problem;
  for (const item of message.work) {
    const before = work.get(item.id);
    work.set(item.id, item);
    if (!isRunning(item) && (!before || isRunning(before)) && message.removed) {
      say(`${clean(item.computation || "work", 60)} ${item.state}`);
    }
  }
  for (const id of message.removed ?? []) work.delete(id);
  draw();
}

for (const button of document.querySelectorAll("[data-filter]")) {
  button.addEventListener("click", () => {
    filter = button.dataset.filter;
    for (const other of document.querySelectorAll("[data-filter]")) set(other, { "aria-pressed": String(other === button) });
    draw();
  });
}

setInterval(() => {
  for (const row of page["running-list"].children) {
    const { _item: item } = row.firstElementChild;
    write(row.querySelector(".spent"), spent(item));
  }
}, 1000);

follow("/api/events", {
  state: (message) => {
    work = new Map();
    take(message);
  },
  changes: take,
}, connection);
