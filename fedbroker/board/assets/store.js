// What the board knows, as the server tells it: a snapshot, then changes. An entry that changes becomes a new object, so
// that views find out by identity what to draw again.

const NOTICES = 500; // the newest of them
const POINTS = 20000; // of one curve

const pair = (first, second) => JSON.stringify([first, second]);

export class Store {
  constructor() {
    this.load({});
  }

  /** Replace everything by a snapshot. */
  load(state) {
    this.ready = state.at !== undefined;
    this.cohorts = new Map();
    this.silos = new Map();
    this.sessions = new Map();
    this.stages = new Map(); // by session: by number
    this.bars = new Map(); // by session: by silo: in the order of stages
    this.curves = new Map();
    this.notices = []; // oldest first
    this.told = 0; // the number of the latest notice
    this.broker = "";
    this.missed = 0;
    this.ahead = 0; // seconds by which the server's clock is ahead of ours
    this.apply(state);
  }

  /** Apply changes: each entry replaces the one with the same key; points and notices are appended. */
  apply(changes) {
    if (changes.at !== undefined) this.ahead = changes.at - Date.now() / 1000;
    for (const cohort of changes.cohorts ?? []) this.cohorts.set(cohort.name, cohort);
    for (const silo of changes.silos ?? []) this.silos.set(pair(silo.cohort, silo.name), silo);
    for (const session of changes.sessions ?? []) this.sessions.set(session.id, session);
    this.addParts(changes.stages ?? [], changes.bars ?? []);
    for (const curve of changes.curves ?? []) this.addPoints(curve);
    for (const notice of changes.notices ?? []) this.notices.push({ ...notice, number: (this.told += 1) });
    this.notices.splice(0, this.notices.length - NOTICES);
    if (typeof changes.broker === "string") this.broker = changes.broker;
    if (Number.isFinite(changes.missed)) this.missed = changes.missed;
    if (changes.removed) this.remove(changes.removed);
  }

  /** Add stages and bars, also of a past session that was fetched. */
  addParts(stages, bars) {
    for (const stage of stages) {
      const known = this.stages.get(stage.session) ?? new Map();
      this.stages.set(stage.session, known.set(stage.stage, stage));
    }
    for (const bar of bars) {
      const known = this.bars.get(bar.session) ?? new Map();
      const others = (known.get(bar.silo) ?? []).filter((other) => other.stage !== bar.stage);
      this.bars.set(bar.session, known.set(bar.silo, [...others, bar].sort((one, two) => one.stage - two.stage)));
    }
  }

  addPoints(curve) {
    const key = pair(curve.run, curve.metric);
    const points = [...(this.curves.get(key)?.points ?? []), ...curve.points].slice(-POINTS);
    this.curves.set(key, { ...curve, points });
  }

  remove(removed) {
    for (const name of removed.cohorts ?? []) this.cohorts.delete(name);
    for (const [cohort, name] of removed.silos ?? []) this.silos.delete(pair(cohort, name));
    for (const [run, metric] of removed.curves ?? []) this.curves.delete(pair(run, metric));
    for (const id of removed.sessions ?? []) this.sessions.delete(id);
    for (const id of [...(removed.sessions ?? []), ...(removed.bars ?? [])]) {
      this.stages.delete(id);
      this.bars.delete(id);
    }
  }

  /** The time now on the server's clock, in seconds since 1970. */
  now() {
    return Date.now() / 1000 + this.ahead;
  }

  /** Sessions, newest first; those under way before all others. */
  sessionsNewest(only = () => true) {
    const running = (session) => (session.outcome === "running" ? 1 : 0);
    return [...this.sessions.values()].filter(only).sort((a, b) => running(b) - running(a) || b.began - a.began);
  }

  /** A cohort's silos: those in trouble first, then by name. */
  silosOf(cohort) {
    const rank = { gone: 0, late: 1, present: 2 };
    return [...this.silos.values()]
      .filter((silo) => silo.cohort === cohort)
      .sort((a, b) => rank[a.state] - rank[b.state] || (a.name < b.name ? -1 : 1));
  }

  /** Runs of programs with what is known of them, newest first: [{run, program, cohort, curves, sessions, began}]. */
  runs() {
    const runs = new Map();
    const entry = ({ run, program, cohort }) => {
      if (!runs.has(run)) runs.set(run, { run, program, cohort, curves: [], sessions: 0, began: runs.size });
      return runs.get(run);
    };
    for (const curve of this.curves.values()) entry(curve).curves.push(curve);
    for (const session of this.sessions.values()) {
      if (!session.run) continue;
      const run = entry(session);
      run.sessions += 1;
      run.began = Math.max(run.began, session.began);
    }
    return [...runs.values()].sort((a, b) => b.began - a.began);
  }
}
