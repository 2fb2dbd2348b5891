// What an operator may want to look into: dropped silos, forged messages, rejected silos, dead letters.

import { count, el, write } from "./base.js";
import { head, noticeTable } from "./parts.js";

const KINDS = ["dropped", "forged", "rejected", "dead letter"];

export function noticesView({ store, redraw }) {
  const kind = el("select", {}, el("option", { value: "" }, "all kinds"), ...KINDS.map((one) => el("option", { value: one }, one)));
  const list = noticeTable("Notices", "Nothing was dropped or forged, and there is no dead letter.");
  const lost = el("p", { class: "muted small", hidden: true });
  kind.addEventListener("change", redraw);
  const element = el("div", { class: "views" },
    el("div", { class: "stack" }, head("Notices", "api/notices"), el("p", {}, el("label", {}, "Show ", kind)), lost), list.element);
  return {
    element,
    title: () => "Notices",
    update() {
      list.show(store.notices.filter((notice) => !kind.value || notice.kind === kind.value).reverse());
      lost.hidden = !store.missed;
      write(lost, `${count(store.missed, "event")} did not reach this board: what it shows is not complete.`);
    },
  };
}
