// The stream of events from the page's server, and what the page says about it.

import { write } from "./base.js";

const RETRY_LEAST = 500; // milliseconds before the next try, doubled up to the most
const RETRY_MOST = 8000;
const SILENT = 40000; // milliseconds without a message; the server sends one at least every 15 s

const WORDS = { live: "live", reconnecting: "reconnecting", lost: "broker lost" };

/**
 * Follow a stream of server-sent events and keep it open.
 *
 * @param {string} url of the stream
 * @param {Object<string, function>} on a function for the data of each event, by the event's name
 * @param {function} state called with "live" or "reconnecting"
 */
export function follow(url, on, state) {
  let source;
  let pause = RETRY_LEAST;
  let silence;
  const again = () => {
    clearTimeout(silence);
    source?.close();
    state("reconnecting");
    setTimeout(open, pause);
    pause = Math.min(RETRY_MOST, pause * 2);
  };
  const heard = () => {
    pause = RETRY_LEAST;
    clearTimeout(silence);
    silence = setTimeout(again, SILENT);
  };
  const open = () => {
    source = new EventSource(url);
    source.onerror = again;
    source.addEventListener("ping", heard);
    for (const [name, call] of Object.entries(on)) {
      source.addEventListener(name, (event) => {
        heard();
        state("live");
        call(JSON.parse(event.data));
      });
    }
    heard();
  };
  state("reconnecting");
  open();
}

/** Return `show(state)`, which writes live, reconnecting or broker lost into an element with the class "status". */
export function statusLine(element) {
  return (state) => {
    if (element.dataset.state === state) return;
    element.dataset.state = state;
    write(element, WORDS[state] ?? state);
  };
}

/**
 * Return `say(text)`, which writes into a live region at most every `pause` milliseconds: the latest text wins, and one
 * in which only durations have changed is not worth to be read out.
 */
export function announcer(element, pause = 2000) {
  let latest = "";
  let said = "";
  let timer;
  let free = 0;
  const gist = (text) => text.replace(/\d[\d.]* (s|min|h)\b/g, "");
  const now = () => {
    timer = undefined;
    free = performance.now() + pause;
    said = gist(latest);
    write(element, latest);
  };
  return (text) => {
    latest = text;
    if (timer === undefined && said !== gist(text)) timer = setTimeout(now, Math.max(0, free - performance.now()));
  };
}

/** Return `ask()`: the functions given run once before the next frame, however often it is called. */
export function beforeFrame(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    // A page in the background gets no frames; its title and live region should go on.
    const go = () => {
      asked = false;
      run();
    };
    if (document.hidden) setTimeout(go, 200);
    else requestAnimationFrame(go);
  };
}
