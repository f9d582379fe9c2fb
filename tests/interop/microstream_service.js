// node microstream_service.js URL NAME [TRANSPORT,TRANSPORT]: one service that says what happens to it
// and sends the requests it reads: lines of {"target","event","data"}.
"use strict";

const readline = require("node:readline");
const { Service } = require("./microstream_client.js");

const [url, name, transports = "polling,websocket"] = process.argv.slice(2);
const say = (value) => console.log(JSON.stringify(value));

const service = new Service(url, name, { transports: transports.split(","), heartbeat: 200 })
  .onRequest("echo", (data) => ({ got: data }))
  .onRequest("hang", () => new Promise(() => {}));
service.socket.on("connect", () => say({ connected: service.socket.id }));
service.socket.onAnyOutgoing((event) => event === "heartbeat" && say({ heartbeat: Date.now() }));
service.socket.on("disconnect", (reason) => say({ disconnected: reason }));
service.socket.on("connect_error", (error) => say({ refused: error.message, data: error.data }));

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { target, event, data } = JSON.parse(line);
  service.sendRequest(target, event, data).then(
    (response) => say({ response }),
    (error) => say({ error }),
  );
});
