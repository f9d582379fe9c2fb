// The page: which view is shown, what is live, and the keys.

import { actPanels, confirmed } from "./act.js";
import { Problem, get, post, stream } from "./api.js";
import { element, plain } from "./dom.js";
import { Overview } from "./overview.js";
import { Table } from "./table.js";
import { FORMATS, VIEWS } from "./views.js";

const KEPT = 450; // samples: 15 minutes
const MANY = 2000; // rows of a list, from which on it is loaded less often
const RETRY = 2000; // milliseconds until the stream is asked for again
const THEMES = ["auto", "light", "dark"];
const WAIT = 200; // milliseconds after the last letter until the search begins

const byId = (id) => document.getElementById(id);
const names = ["overview", ...Object.keys(VIEWS).filter((name) => !VIEWS[name].parent), "act"];
const titles = { overview: "Overview", act: "Act" };
const samples = [];
let shown = { name: "", view: null };
let ticks = 0;

// Views

function route() {
  const [name, text] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: name in VIEWS || names.includes(name) ? name : "overview", query: Object.fromEntries(new URLSearchParams(text)) };
}

function go(name, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value);
  const text = new URLSearchParams(known).toString();
  location.hash = text ? `#/${name}?${text}` : `#/${name}`;
}

function open() {
  const { name, query } = route();
  const about = VIEWS[name];
  const current = about?.parent ?? name;
  for (const link of byId("nav").children) {
    if (link.dataset.view === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("nav").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  const fields = Object.fromEntries((about?.fields ?? []).map((field) => [field, query[field] ?? ""]));
  const told = Object.values(fields).filter(Boolean).join(", ");
  byId("title").textContent = (about?.title ?? titles[name]) + (told ? `: ${told}` : "");
  byId("search").parentElement.hidden = !about || name === "dead";
  byId("search").value = query.q ?? "";
  say("");
  shown = { name, view: make(name, about, fields, query) };
  byId("view").replaceChildren(shown.view.element);
  return load();
}

function make(name, about, fields, query) {
  if (name === "overview") return new Overview();
  if (name === "act") return { element: actPanels(), load: async () => {} };
  const state = { ...fields, q: query.q ?? "", sort: query.sort ?? "", order: query.order ?? "", after: "", before: [] };
  const changed = () => {
    remember(name, fields, state);
    return load();
  };
  return new Table(name, about, state, changed, (row) => details(name, about, row, fields));
}

function remember(name, fields, { q, sort, order }) {
  const known = Object.entries({ ...fields, q, sort, order }).filter(([, value]) => value);
  const text = new URLSearchParams(known).toString();
  history.replaceState(null, "", text ? `#/${name}?${text}` : `#/${name}`);
}

async function load() {
  const { view } = shown;
  try {
    const found = await view.load();
    if (shown.view !== view) return;
    if (found?.name === "txbroker") status(found);
    view.draw?.(samples);
    if (byId("message").dataset.kind === "load") say("");
  } catch (error) {
    if (shown.view === view) say(error instanceof Problem ? error.message : "The node does not answer.", "load");
  }
}

function say(text, kind = "") {
  const message = byId("message");
  message.hidden = !text;
  message.textContent = text;
  message.dataset.kind = kind;
  message.classList.toggle("good", kind === "good");
}

// Details of a row

async function details(name, about, row, query) {
  if (!row) return;
  const dialog = byId("details");
  const body = byId("details-body");
  const list = element("dl");
  const extra = element("pre", { hidden: true });
  const fill = (content) => list.replaceChildren(...Object.entries(content).flatMap(([key, value]) =>
    [element("dt", {}, key), element("dd", {}, (key in FORMATS && value != null ? FORMATS[key] : plain)(value))]));
  const first = about.columns[0].key;
  byId("details-title").textContent = plain(row[first] || row.id);
  fill(row);
  body.replaceChildren(list, extra, element("p", { class: "buttons" }, ...buttons(about, row, query, extra)));
  if (!dialog.open) dialog.showModal();
  if (about.more) {
    try {
      fill(await get(...about.more(row)));
    } catch (error) {
      tell(extra, error.message);
    }
  }
}

function tell(place, text) {
  place.hidden = false;
  place.textContent = text;
}

function buttons(about, row, query, extra) {
  const made = (about.links ?? []).map(({ label, to }) => element("button", { type: "button", onclick: () => {
    byId("details").close();
    go(...to(row));
  } }, label));
  if (about.peek) {
    made.push(element("button", { type: "button", onclick: async () => {
      try {
        tell(extra, JSON.stringify(await post("peek", about.peek(row, query)), null, 2));
      } catch (error) {
        tell(extra, error.message);
      }
    } }, "Peek"));
  }
  for (const action of about.actions ?? []) made.push(actionButton(action, row, query, extra));
  return made;
}

function actionButton({ label, path, body, danger }, row, query, extra) {
  return element("button", { type: "button", class: danger ? "danger" : "primary", onclick: async () => {
    if (danger && !(await confirmed(`${label}: ${byId("details-title").textContent}?`, label))) return;
    try {
      const done = await post(path, body(row, query));
      byId("details").close();
      await load();
      say(`${label}: ${Object.entries(done).map(([key, value]) => `${key} ${plain(value)}`).join(", ")}`, "good");
    } catch (error) {
      tell(extra, error.message);
    }
  } }, label);
}

// What is live

function status({ node, ready }) {
  byId("node").textContent = node;
  const badge = byId("ready");
  badge.textContent = ready.length ? "not ready" : "ready";
  badge.title = ready.join("; ");
  badge.className = `badge ${ready.length ? "bad" : "good"}`;
  document.title = `${node} – txbroker`;
}

function live(good) {
  const badge = byId("live");
  badge.textContent = good ? "live" : "not live";
  badge.className = `badge ${good ? "good" : "bad"}`;
}

function onEvent(name, data) {
  live(true);
  if (name === "history") samples.splice(0, samples.length, ...data);
  else samples.push(data);
  if (samples.length > KEPT) samples.splice(0, samples.length - KEPT);
  if (name === "sample") tick();
  shown.view?.draw?.(samples);
}

function tick() {
  ticks += 1;
  const busy = document.hidden || document.querySelector("dialog[open]");
  const seldom = (shown.view?.page?.total ?? 0) > MANY || shown.name === "settings";
  if (!busy && !(seldom && ticks % 5)) load();
}

async function watch() {
  for (;;) {
    try {
      await stream("live", onEvent);
    } catch {
      // told by the badge
    }
    live(false);
    await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
}

// Controls

function theme(next) {
  const now = localStorage.getItem("txbroker-theme") ?? "auto";
  const chosen = next ? THEMES[(THEMES.indexOf(now) + 1) % THEMES.length] : now;
  localStorage.setItem("txbroker-theme", chosen);
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  byId("theme").textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[chosen];
}

const KEYS = {
  "/": () => byId("search").focus(),
  "[": () => turn(-1),
  "]": () => turn(1),
  j: () => shown.view.step?.(1),
  k: () => shown.view.step?.(-1),
  ArrowDown: () => shown.view.step?.(1),
  ArrowUp: () => shown.view.step?.(-1),
  n: () => shown.view.forward?.(),
  p: () => shown.view.back?.(),
  t: () => theme(true),
  "?": () => byId("keys").showModal(),
};

function turn(by) {
  const at = names.indexOf(VIEWS[shown.name]?.parent ?? shown.name);
  go(names[(at + by + names.length) % names.length]);
}

function onKey(event) {
  if (event.target.id === "search" && event.key === "Escape") event.target.blur();
  const typing = event.target.closest("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  const moves = event.key.startsWith("Arrow");
  if (moves && !shown.view.step) return;
  event.preventDefault();
  KEYS[event.key]();
}

function onSearch() {
  clearTimeout(onSearch.timer);
  onSearch.timer = setTimeout(() => shown.view.change?.({ q: byId("search").value }), WAIT);
}

for (const name of names) {
  byId("nav").append(element("a", { href: `#/${name}`, "data-view": name }, VIEWS[name]?.title ?? titles[name]));
}
byId("theme").addEventListener("click", () => theme(true));
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("search").addEventListener("input", onSearch);
addEventListener("hashchange", open);
addEventListener("keydown", onKey);
theme(false);
open().then(() => get("status")).then(status).catch(() => {});
watch();
