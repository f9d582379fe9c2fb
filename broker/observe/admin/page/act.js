// The view of what can be done to the node as a whole, and the dialogs that ask before something is done.

import { post } from "./api.js";
import { element } from "./dom.js";

// Resolves to whether the operator wants it.
export function confirmed(text, label) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = label;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const json = (text) => (text.trim() ? JSON.parse(text) : undefined);

const FORMS = [
  {
    title: "Publish", path: "publish",
    fields: [["topic", "Topic"], ["name", "Name", "message"], ["payload", "Payload, JSON", "{}"], ["durable", "Store it", false]],
    body: ({ topic, name, payload, durable }) => ({ topic, name, durable, payload: json(payload) ?? null }),
  },
  {
    title: "Call", path: "call",
    fields: [["procedure", "Procedure"], ["args", "Arguments, a JSON array", "[]"], ["timeout", "Timeout in seconds", "10"]],
    body: ({ procedure, args, timeout }) => ({ procedure, args: json(args) ?? [], timeout: Number(timeout) }),
  },
  {
    title: "Log level", path: "log-level", does: "Set",
    fields: [["level", "Level", ["debug", "info", "warn", "error"]]],
    body: ({ level }) => ({ level }),
  },
  {
    title: "Drain", path: "drain", fields: [],
    about: "Be not ready, take no new clients, and close those there are, one after the other; they go to other nodes.",
    danger: "Let the node be not ready, and close its clients? Only a restart undoes that.",
    body: () => ({}),
  },
];

function field([name, label, initial]) {
  if (typeof initial === "boolean") return element("label", {}, element("input", { name, type: "checkbox" }), label);
  if (Array.isArray(initial)) {
    const options = initial.map((value) => element("option", { value, selected: value === "info" }, value));
    return element("label", {}, label, element("select", { name }, ...options));
  }
  const long = label.includes("JSON");
  const made = element(long ? "textarea" : "input", { name, spellcheck: "false", autocomplete: "off", required: !long });
  made.value = initial ?? "";
  return element("label", {}, label, made);
}

function panel({ title, path, fields, body, danger, about, does }) {
  const result = element("pre", { hidden: true });
  async function submit(event) {
    event.preventDefault();
    const values = Object.fromEntries([...form.elements].filter((each) => each.name).map((each) =>
      [each.name, each.type === "checkbox" ? each.checked : each.value]));
    if (danger && !(await confirmed(danger, title))) return;
    result.hidden = false;
    try {
      result.textContent = JSON.stringify(await post(path, body(values)), null, 2);
    } catch (error) {
      result.textContent = error.message;
    }
  }
  const form = element("form", { class: "panel", onsubmit: submit },
    element("h3", {}, title), about && element("p", { class: "muted" }, about), ...fields.map(field),
    element("p", { class: "buttons" }, element("button", { class: danger ? "danger" : "primary" }, does ?? title)), result);
  return form;
}

export const actPanels = () => element("div", { class: "forms" }, ...FORMS.map(panel));
