// The shipped clients of all dialects, hundreds in one process, while the broker is restarted.
//
//   node restart_clients.js URL SECRET KEY FIRST COUNT KIND[,KIND …]
//
// It says a line of JSON for each thing that happens to a client, with its kind, its number and the time in ms:
// "up" when the broker has done something for it, "closed" with the code or the reason of a close, and "given up"
// when it will not come back.  The line "report" on its standard input asks for what the readers have read so far.
"use strict";

process.env.API_SECRET = "the module of ganomede wants one, whatever it is";
delete globalThis.WebSocket; // so that the client of HPKV uses its own for Node
const readline = require("node:readline");

const [url, secret, key, first, count, kinds] = process.argv.slice(2);
const CHANNELS = 10;
const { hostname, port, protocol } = new URL(url);
const socketUrl = url.replace("http", "ws");
const say = (what, kind, n, more) => console.log(JSON.stringify([what, kind, n, Date.now(), more ?? null]));
const readers = [];

const starts = {
  // Polls a channel; each event of the type "mark" shows that it is there.
  ganomede(n) {
    const { Client } = require("ganomede-events");
    const reader = new Client(`reader-${n}`, { secret, protocol: protocol.slice(0, -1), hostname, port: Number(port) });
    const channel = `restart-${n % CHANNELS}`;
    const read = { n, channel, ids: [], acknowledged: 0 };
    let failed = false;
    readers.push(read);
    reader.on("error", () => (failed = true));
    reader.on("cycle", ({ finished }) => {
      if (!failed && finished.after) read.acknowledged = Math.max(read.acknowledged, finished.after);
      failed = false;
    });
    reader.on(channel, (event) => {
      read.ids.push(event.id);
      if (event.type === "mark") say("up", "ganomede", n);
    });
  },

  // Every other one has a token, and hears of its key.
  async hpkv(n) {
    const { HPKVClientFactory, WebsocketTokenManager } = require("@hpkv/websocket-client");
    const name = `restart:${n}`;
    const made = async () => {
      if (n % 2) return HPKVClientFactory.createApiClient(key, url);
      const wanted = { subscribeKeys: [name], accessPattern: `^${name}$` };
      const token = await new WebsocketTokenManager(key, url).generateToken(wanted);
      return HPKVClientFactory.createSubscriptionClient(token, url);
    };
    const client = await again(made);
    let working = false;
    client.on("connected", async () => {
      if (working) return; // it says so twice when it comes back
      working = true;
      await client.set(name, String(Date.now())).then(() => say("up", "hpkv", n), () => {});
      working = false;
    });
    client.on("disconnected", ({ code }) => say("closed", "hpkv", n, code));
    client.on("reconnectFailed", (error) => say("given up", "hpkv", n, error.message));
    await again(() => client.connect());
  },

  // A service that asks itself.
  microstream(n) {
    const { Service } = require("./microstream_client.js");
    const name = `svc-${n}`;
    const options = { heartbeat: 5000, reconnectionDelay: 1000, reconnectionDelayMax: 5000 };
    const exit = () => say("given up", "microstream", n, "the name is taken");
    const service = new Service(`${url}/?serviceName=${name}&token=${secret}`, name, { ...options, exit });
    service.onRequest("echo", (data) => ({ got: data }));
    service.socket.on("connect", () => {
      service.sendRequest(name, "echo", n).then(() => say("up", "microstream", n), () => {});
    });
    service.socket.on("disconnect", (reason) => {
      say(reason === "io server disconnect" ? "given up" : "closed", "microstream", n, reason);
    });
    service.socket.on("connect_error", ({ data }) => data && say("given up", "microstream", n, data.code));
  },

  // Comes back a millisecond after any close, for ever; it hears itself in its room, which it joins once.
  thinws(n) {
    const WebSocket = require("ws");
    let joined = false;
    const open = () => {
      const socket = new WebSocket(`${socketUrl}/thinws?token=${secret}`, { perMessageDeflate: false });
      const send = (frame) => socket.send(JSON.stringify(frame));
      const speak = () => send({ messageID: 3, type: "message", message: n, roomID: `room-${n}` });
      socket.on("open", () => send({ messageID: 1, type: "connect", connectionID: String(n) }));
      socket.on("message", (text) => {
        const { type, messageID } = JSON.parse(text);
        if (type === "message") say("up", "thinws", n);
        else if (messageID === 1 && !joined) send({ messageID: 2, type: "subscribe", roomID: `room-${n}` });
        else if (messageID === 1) speak();
        else if (messageID === 2) {
          joined = true;
          speak();
        }
      });
      socket.on("error", () => {});
      socket.on("close", (code) => {
        if (socket.wasOpen) say("closed", "thinws", n, code);
        setTimeout(open, 1);
      });
      socket.on("open", () => (socket.wasOpen = true));
    };
    open();
  },

  // The library does not come back by itself: its application does, and tells the broker again what it wants.
  owlmeans(n) {
    const WebSocket = require("ws");
    let delay = 500;
    const open = () => {
      const socket = new WebSocket(`${socketUrl}/owlmeans?client=owl-${n}&token=${secret}`, { perMessageDeflate: false });
      const call = { type: "call", id: "1", method: "broker.subscribe", payload: ["restart.owlmeans"], timeout: 60000 };
      let opened = false;
      socket.on("open", () => {
        opened = true;
        socket.send(JSON.stringify(call));
      });
      socket.on("message", (text) => {
        if (JSON.parse(text).type !== "result") return;
        delay = 500;
        say("up", "owlmeans", n);
      });
      socket.on("error", () => {});
      socket.on("close", (code) => {
        if (opened) say("closed", "owlmeans", n, code);
        setTimeout(open, delay * (0.5 + Math.random()));
        delay = Math.min(2 * delay, 5000);
      });
    };
    open();
  },
};

// The first connection is not tried again by the client, and this one must be there before the restart.
async function again(act) {
  for (;;) {
    try {
      return await act();
    } catch {
      await new Promise((done) => setTimeout(done, 500));
    }
  }
}

readline.createInterface({ input: process.stdin }).on("line", () => console.log(JSON.stringify(["report", readers])));
const wanted = kinds.split(",");
// The client of HPKV forgets a socket that it gave up while it was connecting, whose error then ends the process.
process.on("uncaughtException", (error) => say("given up", wanted[0], -1, error.stack.split("\n", 3).join(" ")));
for (let n = Number(first); n < Number(first) + Number(count); n++) starts[wanted[n % wanted.length]](n);
