// Requests to the admin API, with the secret of the node if it asks for one.

const SECRET = "txbroker-secret"; // in the storage of this tab

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function headers(more) {
  const secret = sessionStorage.getItem(SECRET);
  // The bytes of the secret as UTF-8: a header holds no other characters than those of Latin-1.
  const bytes = secret ? String.fromCharCode(...new TextEncoder().encode(secret)) : "";
  return secret ? { ...more, Authorization: `Bearer ${bytes}` } : more;
}

let asking = null; // the answer to the one dialog that asks for the secret

function askForSecret() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("login");
    const field = document.getElementById("secret");
    field.value = "";
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(SECRET, field.value.trim());
      field.value = "";
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function send(path, options) {
  for (;;) {
    const shown = sessionStorage.getItem(SECRET);
    const response = await fetch(`api/${path}`, { ...options, headers: headers(options.headers ?? {}) });
    if (response.status !== 401) return response;
    if (shown === sessionStorage.getItem(SECRET)) await askForSecret();
  }
}

async function content(response) {
  const answer = await response.json();
  if (!response.ok) throw new Problem(response.status, answer.detail ?? response.statusText);
  return answer;
}

export async function get(path, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(known).toString();
  return content(await send(text ? `${path}?${text}` : path, {}));
}

export async function post(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return content(await send(path, options));
}

// Calls onEvent(name, data) for each server-sent event, until the stream ends.  EventSource can show no secret.
export async function stream(path, onEvent) {
  const response = await send(path, {});
  if (!response.ok) await content(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const pieces = (text + value).split("\n\n");
    text = pieces.pop();
    for (const piece of pieces) {
      const fields = Object.fromEntries(piece.split("\n").map((line) => {
        const at = line.indexOf(": ");
        return [line.slice(0, at), line.slice(at + 2)];
      }));
      if (fields.event) onEvent(fields.event, JSON.parse(fields.data));
    }
  }
}
