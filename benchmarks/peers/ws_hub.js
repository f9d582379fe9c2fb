// What limit.c does for WebSockets, on the stock ws server: names of 16 bytes, then anything.
const { WebSocketServer } = require("ws");

const NAME = 16;
const EVERYBODY = "*".repeat(NAME);
const named = new Map();

new WebSocketServer({ port: Number(process.argv[2]), host: "127.0.0.1", perMessageDeflate: false }).on(
  "connection",
  (socket) => {
    let name;
    socket.on("close", () => named.get(name) === socket && named.delete(name));
    socket.on("message", (data) => {
      const first = data.toString("latin1", 0, NAME);
      if (!name) {
        name = first;
        named.set(name, socket);
        socket.send(Buffer.from(`${name}ok`));
        return;
      }
      data.write(name, 0, NAME, "latin1");
      if (first !== EVERYBODY) named.get(first)?.send(data);
      else for (const other of named.values()) if (other !== socket) other.send(data);
    });
  },
);
