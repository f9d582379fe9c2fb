// The first view: what the node is, and what it has done in the last 15 minutes.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { byteRate, bytes, date, element, number, plain, seconds } from "./dom.js";

const TILES = [
  ["Connections", ({ totals }) => number(totals.connections)],
  ["Sessions", ({ totals }) => number(totals.sessions)],
  ["Topics", ({ gauges }) => number(gauges.topics)],
  ["Services", ({ gauges }) => number(gauges.services)],
  ["Calls pending", ({ gauges }) => number(gauges.calls_pending)],
  ["Jobs ready", ({ gauges }) => number(gauges.jobs_ready)],
  ["Dead letters", ({ gauges }) => number(gauges.jobs_dead)],
  ["Refusals", ({ totals }) => number(totals.refusals)],
  ["Store", ({ gauges }) => bytes(gauges.store_bytes)],
  ["Memory held", ({ gauges }) => bytes(gauges.memory_held_bytes)],
];

export class Overview {
  constructor() {
    this.charts = [
      new Chart("Messages", [{ key: "in", label: "in" }, { key: "out", label: "out" }], (value) => `${number(value)}/s`),
      new Chart("Bytes", [{ key: "bytes_in", label: "in" }, { key: "bytes_out", label: "out" }], byteRate),
      new Chart("Clients", [{ key: "connections", label: "connections" }, { key: "sessions", label: "sessions" }], number),
      new Chart("Lag of cursors", [{ key: "lag", label: "events behind" }], number),
      new Chart("Lag of the reactor", [{ key: "loop", label: "at most" }], seconds),
      new Chart("Work", [{ key: "jobs", label: "jobs ready" }, { key: "calls", label: "calls pending" }], number),
    ];
    this.tiles = element("div", { class: "tiles" });
    this.facts = element("dl");
    this.element = element("div", {},
      this.tiles,
      element("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)),
      element("h3", { class: "hidden" }, "What it is"),
      element("div", { class: "panel facts" }, this.facts));
  }

  draw(samples) {
    for (const chart of this.charts) chart.draw(samples);
  }

  async load() {
    const status = await get("status");
    this.tiles.replaceChildren(...TILES.map(([label, read]) =>
      element("div", { class: "tile" }, element("span", {}, label), element("b", {}, read(status)))));
    const facts = {
      Node: status.node, Host: status.hostname, Process: `${status.pid}`, Version: status.version, Started: `${date(status.started)} UTC`,
      Store: status.store, Durability: status.durability, Dialects: status.dialects, Nodes: status.nodes,
      Warnings: status.warnings, "Not ready": status.ready.length ? status.ready : null,
    };
    this.facts.replaceChildren(...Object.entries(facts).filter(([, value]) => value != null).flatMap(([name, value]) =>
      [element("dt", {}, name), element("dd", {}, plain(value))]));
    return status;
  }
}
