// The page: follows the stream, chooses the view that the address names, and draws what changed before the next frame.

import { write } from "./base.js";
import { announcer, beforeFrame, follow, statusLine } from "./live.js";
import { cohortView } from "./cohort.js";
import { noticesView } from "./notices.js";
import { overview } from "./overview.js";
import { runView, runsView } from "./runs.js";
import { sessionsView, sessionView } from "./sessions.js";
import { Store } from "./store.js";

const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const TICK = 100; // milliseconds between two steps of what grows
const TICK_STILL = 1000;
const SAY = 5000; // milliseconds between two sentences for screen readers

const main = document.getElementById("main");
const lost = document.getElementById("lost");
const store = new Store();
const status = statusLine(document.getElementById("status"));
const say = announcer(document.getElementById("said"), SAY);
let connection = "reconnecting";
let view;
let drawn; // the view that has been drawn, and may move

const ROUTES = { "": overview, sessions: sessionsView, cohorts: cohortView, runs: runsView, notices: noticesView };
const DETAILS = { sessions: sessionView, cohorts: cohortView, runs: runView };

/** Return the parts of the address after "#/", decoded; of a wrong one, those of the overview. */
function address() {
  try {
    return location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    return [""];
  }
}

function navigate(event) {
  const [first = "", id] = address();
  const make = (id ? DETAILS[first] : ROUTES[first]) ?? overview;
  view = make({ store, redraw }, id);
  main.replaceChildren(view.element);
  for (const link of document.querySelectorAll(".top nav a")) {
    const here = link.getAttribute("href") === `#/${first}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  draw();
  if (event) {
    scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true }); // a screen reader starts with the new view
  }
}

function draw() {
  const now = store.now();
  const state = connection === "live" && store.broker ? "lost" : connection;
  status(state);
  lost.hidden = state !== "lost";
  if (state === "lost") write(lost, `The board has lost the broker, and shows what it knew before: ${store.broker}`);
  main.setAttribute("aria-busy", String(!store.ready));
  if (!store.ready) return;
  view.update(now);
  drawn = view;
  view.tick?.(now);
  document.title = `${view.title()} – fedbroker board`;
  say(view.sentence?.() ?? "");
}

const redraw = beforeFrame(draw);

addEventListener("hashchange", navigate);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after "#" is the view
  main.focus();
});
follow("api/events", {
  state: (state) => { store.load(state); redraw(); },
  changes: (changes) => { store.apply(changes); redraw(); },
}, (state) => { connection = state; redraw(); });
const tick = beforeFrame(() => { if (drawn === view) view.tick?.(store.now()); });
(function again() {
  if (!document.hidden) tick();
  setTimeout(again, STILL.matches ? TICK_STILL : TICK);
})();
navigate();
