// What each list shows: its columns, whether it can be sorted, and what can be done with a row.

import { byteRate, bytes, date, id, number, plain, seconds } from "./dom.js";

const column = (key, label, format = plain, right = false) => ({ key, label, format, right });
const count = (key, label) => column(key, label, number, true);
const size = (key, label) => column(key, label, bytes, true);
const rate = (key, label) => column(key, label, byteRate, true);
const age = (key, label) => column(key, label, seconds, true);
const time = (key, label) => column(key, label, date);

export const VIEWS = {
  connections: {
    title: "Connections",
    columns: [
      column("dialect", "Dialect"), column("address", "Address"), column("client", "Client", id), size("queue", "Queue"),
      rate("rate_in", "In"), rate("rate_out", "Out"), size("bytes_in", "Received"), size("bytes_out", "Sent"),
      age("seconds", "Age"), column("id", "Id", id),
    ],
    sorts: ["queue", "rate_in", "rate_out", "bytes_in", "bytes_out", "seconds", "dialect", "address", "client", "id"],
    sort: "queue",
    actions: [{
      label: "Disconnect", danger: true, path: "kick",
      body: (row) => (row.id.startsWith("connection-") ? { connection: row.id } : { session: row.id }),
    }],
  },
  sessions: {
    title: "Sessions",
    columns: [
      column("client", "Client", id), column("principal", "Principal"), column("dialect", "Dialect"),
      column("address", "Address"), count("subscriptions", "Subscriptions"), count("calling", "Calls out"),
      count("serving", "Calls in"), size("queue", "Queue"), size("held", "Held"), age("seconds", "Age"),
    ],
    sorts: ["client", "principal", "dialect", "address", "subscriptions", "calling", "serving", "queue", "held", "seconds"],
    sort: "seconds",
    more: (row) => ["session", { id: row.id }],
    actions: [
      { label: "Disconnect", danger: true, path: "kick", body: (row) => ({ session: row.id }) },
      { label: "Disconnect all of this client", danger: true, path: "kick", body: (row) => ({ client: row.client }) },
    ],
  },
  topics: {
    title: "Topics",
    columns: [column("topic", "Topic"), column("pattern", "Pattern"), count("subscribers", "Subscribers")],
    sorts: ["topic", "subscribers"],
    sort: "topic",
  },
  channels: {
    title: "Channels",
    columns: [
      column("channel", "Channel"), count("head", "Head"), count("cursors", "Cursors"), count("lag", "Lag"),
      count("subscribers", "Subscribers"),
    ],
    peek: (row) => ({ topic: row.channel }),
    links: [{ label: "Cursors", to: (row) => ["cursors", { topic: row.channel }] }],
  },
  cursors: {
    title: "Cursors",
    fields: ["topic", "client"],
    columns: [
      column("client", "Client"), column("topic", "Topic"), count("id", "Position"), count("head", "Head"),
      count("lag", "Lag"), time("moved", "Moved"),
    ],
  },
  services: {
    title: "Services",
    columns: [
      column("name", "Name"), column("kind", "Kind"), count("performers", "Performers"),
      count("in_flight", "In flight"), count("waiting", "Waiting"), column("shared", "Shared"),
    ],
    sorts: ["name", "kind", "performers", "in_flight"],
    sort: "name",
  },
  queues: {
    title: "Queues",
    columns: [
      column("queue", "Queue"), count("ready", "Ready"), count("delayed", "Delayed"), count("in_flight", "In flight"),
      count("dead", "Dead"), age("oldest_seconds", "Oldest"), count("consumers", "Consumers here"),
    ],
    peek: (row) => ({ queue: row.queue }),
    links: [{ label: "Dead letters", to: (row) => ["dead", { queue: row.queue }] }],
    actions: [
      { label: "Retry all dead letters", path: "queues/retry", body: (row) => ({ queue: row.queue, all: true }) },
      { label: "Drop all dead letters", danger: true, path: "queues/drop", body: (row) => ({ queue: row.queue, all: true }) },
    ],
  },
  dead: {
    title: "Dead letters",
    parent: "queues",
    fields: ["queue"],
    columns: [
      column("id", "Id"), column("reason", "Reason"), count("failures", "Failures"), column("worker", "Worker"),
      column("sender", "Sender"), time("died", "Died"), size("bytes", "Size"),
    ],
    peek: (row, query) => ({ queue: query.queue, dead: true, after: Number(row.id.split("-").at(-1)) - 1, limit: 1 }),
    actions: [
      { label: "Retry", path: "queues/retry", body: (row, query) => ({ queue: query.queue, ids: [row.id] }) },
      { label: "Drop", danger: true, path: "queues/drop", body: (row, query) => ({ queue: query.queue, ids: [row.id] }) },
    ],
  },
  keys: {
    title: "Keys",
    columns: [column("key", "Key"), size("bytes", "Size"), count("revision", "Revision"), time("expires", "Expires")],
    peek: (row) => ({ key: row.key }),
  },
  tokens: {
    title: "Tokens",
    columns: [column("id", "Id"), count("connections", "Connections"), time("expires", "Expires")],
    sorts: ["connections", "expires", "id"],
    sort: "connections",
    actions: [{ label: "Revoke", danger: true, path: "tokens/revoke", body: (row) => ({ id: row.id }) }],
  },
  refusals: {
    title: "Refusals",
    columns: [
      time("time", "Time"), column("dialect", "Dialect"), column("address", "Address"),
      column("principal", "Principal"), column("verb", "Verb"), column("name", "Name"), column("code", "Code"),
      column("setting", "Setting"),
    ],
    sorts: ["time", "address", "principal", "dialect", "code"],
    sort: "time",
  },
  settings: {
    title: "Settings",
    columns: [column("name", "Name"), column("value", "Value"), column("source", "From")],
    sorts: ["name", "source"],
    sort: "name",
  },
  nodes: {
    title: "Nodes",
    columns: [column("node", "Node"), column("this", "This one"), column("lease", "Has a lease")],
    sorts: ["node"],
    sort: "node",
  },
};

// Of the members that are shown in the details, by their names.
export const FORMATS = {
  seconds, oldest_seconds: seconds, time: date, expires: date, died: date, moved: date, bytes, queue_bytes: bytes,
  bytes_in: bytes, bytes_out: bytes, rate: byteRate, rate_in: byteRate, rate_out: byteRate, held: bytes,
};
