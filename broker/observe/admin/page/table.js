// One list: its rows, in pages, sorted and searched.

import { get } from "./api.js";
import { element, number, plain } from "./dom.js";

const LIMIT = 50;

export class Table {
  // state: {q, sort, order, after, before: [], …fields}; changed: called when it is; chosen: called with a row.
  constructor(name, view, state, changed, chosen) {
    Object.assign(this, { name, view, state, changed, chosen });
    this.rows = [];
    this.body = element("tbody");
    this.heads = view.columns.map((column) => this.head(column));
    this.empty = element("p", { class: "empty", hidden: true });
    this.previous = element("button", { type: "button", title: "Previous page (p)", onclick: () => this.back() }, "Previous");
    this.next = element("button", { type: "button", title: "Next page (n)", onclick: () => this.forward() }, "Next");
    this.told = element("span");
    this.element = element("div", {},
      element("div", { class: "scroll" },
        element("table", {}, element("thead", {}, element("tr", {}, ...this.heads)), this.body), this.empty),
      element("div", { class: "pager" }, this.previous, this.next, this.told));
    this.body.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // else the same key presses the first button of the dialog
      this.chosen(this.rows[[...this.body.children].indexOf(event.target)]);
    });
  }

  head(column) {
    const sortable = this.view.sorts?.includes(column.key);
    const label = sortable
      ? element("button", { type: "button", onclick: () => this.sort(column.key) }, column.label)
      : column.label;
    return element("th", { scope: "col", class: column.right && "number" }, label);
  }

  sort(key) {
    const now = this.order(key);
    this.change({ sort: key, order: now === "desc" ? "asc" : now === "asc" ? "desc" : "" });
  }

  // Returns the order in which *key* is sorted now, "" if by another.
  order(key) {
    if ((this.state.sort || this.view.sort) !== key) return "";
    const numbers = this.view.columns.find((column) => column.key === key);
    return this.state.order || (numbers?.right || key === "time" ? "desc" : "asc");
  }

  change(changes) {
    Object.assign(this.state, { after: "", before: [] }, changes);
    this.changed();
  }

  forward() {
    if (this.following) {
      this.state.before.push(this.state.after);
      this.state.after = this.following;
      this.changed();
    }
  }

  back() {
    if (this.state.before.length) {
      this.state.after = this.state.before.pop();
      this.changed();
    }
  }

  async load() {
    const { before, ...query } = this.state;
    const page = await get(this.name, { limit: LIMIT, ...query });
    this.page = page;
    this.following = page.next;
    this.show(page);
    return page;
  }

  show(page) {
    const focused = [...this.body.children].indexOf(document.activeElement);
    this.rows = page.items;
    this.body.replaceChildren(...page.items.map((row) => this.row(row)));
    if (focused >= 0) this.body.children[Math.min(focused, page.items.length - 1)]?.focus();
    this.heads.forEach((head, index) => {
      const order = this.order(this.view.columns[index].key);
      if (this.view.sorts && order) head.setAttribute("aria-sort", order === "asc" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    this.empty.hidden = page.items.length > 0;
    this.empty.textContent = this.state.q ? `Nothing has “${this.state.q}” in it.` : "There is nothing.";
    this.previous.disabled = !this.state.before.length;
    this.next.disabled = !page.next;
    const total = page.total == null ? "" : ` of ${number(page.total)}`;
    this.told.textContent = `${number(page.items.length)} shown${total}${page.complete ? "" : "; there are more than are looked at"}`;
  }

  row(row) {
    const cells = this.view.columns.map((column) => {
      const text = column.format(row[column.key]);
      const classes = [column.right && "number", text === "–" && "none"].filter(Boolean).join(" ");
      const full = plain(row[column.key]);
      const title = (full.length > 30 || text.startsWith("…")) && full;
      return element("td", { class: classes || null, "data-label": column.label, title }, text);
    });
    return element("tr", { tabindex: 0, onclick: () => this.chosen(row) }, ...cells);
  }

  // Moves the focus by so many rows.
  step(by) {
    const rows = [...this.body.children];
    const at = rows.indexOf(document.activeElement);
    rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))]?.focus();
  }
}
