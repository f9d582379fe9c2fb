// Charts of the last 15 minutes.

import { element, svg } from "./dom.js";

const SPAN = 900; // seconds
const WIDTH = 600;
const HEIGHT = 120;
const GAP = 10; // seconds without a sample, over which no line is drawn

// series: [{key, label}], at most two; format: makes the text of a value.
export class Chart {
  constructor(title, series, format) {
    this.series = series;
    this.format = format;
    this.samples = [];
    this.at = null; // the time that is pointed at
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.picture.setAttribute("aria-label", `${title} in the last 15 minutes`);
    this.lines = series.map((_, index) => svg("path", { class: index ? "two" : "one" }));
    this.cross = svg("line", { class: "cross", y1: 0, y2: HEIGHT, visibility: "hidden" });
    for (const y of [1, HEIGHT / 2, HEIGHT - 1]) this.picture.append(svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.picture.append(...this.lines, this.cross);
    this.legend = element("span", { class: "legend" });
    this.top = element("span", {});
    this.element = element("figure", {},
      element("figcaption", {}, element("strong", {}, title), this.legend),
      this.picture,
      element("div", { class: "axis" }, element("span", {}, "−15 min"), this.top, element("span", {}, "now")));
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerleave", () => this.point(null));
  }

  point(event) {
    if (event) {
      const box = this.picture.getBoundingClientRect();
      this.at = this.end - SPAN + (SPAN * (event.clientX - box.left)) / box.width;
    } else {
      this.at = null;
    }
    this.draw(this.samples);
  }

  draw(samples) {
    this.samples = samples;
    const last = samples.at(-1);
    this.end = last ? last.t : Date.now() / 1000;
    const shown = samples.filter((sample) => sample.t >= this.end - SPAN);
    const highest = Math.max(1e-9, ...shown.flatMap((sample) => this.series.map(({ key }) => sample[key])));
    const y = (value) => HEIGHT - 2 - (value / highest) * (HEIGHT - 8);
    this.series.forEach(({ key }, index) => {
      let path = "";
      shown.forEach((sample, position) => {
        const near = position && sample.t - shown[position - 1].t < GAP;
        path += `${near ? "L" : "M"}${this.x(sample.t)} ${y(sample[key]).toFixed(1)}`;
      });
      this.lines[index].setAttribute("d", path);
    });
    this.tell(shown, last, highest);
  }

  x(time) {
    return (WIDTH * (1 - (this.end - time) / SPAN)).toFixed(1);
  }

  tell(shown, last, highest) {
    let told = last;
    this.cross.setAttribute("visibility", this.at == null || !shown.length ? "hidden" : "visible");
    if (this.at != null && shown.length) {
      told = shown.reduce((best, one) => (Math.abs(one.t - this.at) < Math.abs(best.t - this.at) ? one : best));
      for (const end of ["x1", "x2"]) this.cross.setAttribute(end, this.x(told.t));
    }
    this.legend.replaceChildren(...this.series.map(({ key, label }, index) =>
      element("span", { class: index ? "two" : "one" }, `${label} ${told ? this.format(told[key]) : "–"}  `)));
    const when = told && this.at != null ? new Date(told.t * 1000).toTimeString().slice(0, 8) : "";
    this.top.textContent = when || (shown.length ? `highest ${this.format(highest < 1e-8 ? 0 : highest)}` : "no samples yet");
  }
}
