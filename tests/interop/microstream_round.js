// node microstream_round.js URL TRANSPORT,TRANSPORT: two services say everything to each other.
"use strict";

const assert = require("node:assert");
const { Service } = require("./microstream_client.js");

const [url, transports] = [process.argv[2], process.argv[3].split(",")];
const options = { transports };

async function rejected(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not rejected");
}

async function moved(service) {
  for (let tries = 0; service.transport !== transports.at(-1); tries++) {
    assert(tries < 6000, `still ${service.transport}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function main() {
  let arrived;
  const arrival = new Promise((resolve) => (arrived = resolve));
  const b = new Service(url, "round-b", options)
    .onRequest("echo", (data) => ({ got: data }))
    .onRequest("text", () => "text")
    .onRequest("zero", () => 0)
    .onRequest("nothing", () => undefined)
    .onRequest("null", () => null)
    .onRequest("keys", (data, payload) => Object.keys(payload))
    .onRequest("boom", () => {
      throw new Error("kaput");
    })
    .onRequest("late", () => new Promise((resolve) => setTimeout(() => resolve("late"), 300)))
    .onRequest("never", () => {
      arrived();
      return new Promise(() => {});
    })
    .onRequest("binary", (data) => ({ size: data.blob.length, back: Buffer.from([...data.blob].reverse()) }));
  await b.connected();

  // Said at once: in the middle of the move to WebSocket, where there is one.
  const a = new Service(url, "round-a", options);
  const order = [];
  b.onRequest("number", (data) => {
    order.push(data);
    return data;
  });
  await a.connected();
  const numbers = Array.from({ length: 200 }, (_, number) => number);
  const answers = [];
  for (const number of numbers) {
    answers.push(a.sendRequest("round-b", "number", number));
    if (number % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.deepStrictEqual(await Promise.all(answers), numbers);
  assert.deepStrictEqual(order, numbers);

  await moved(a);
  await moved(b);
  assert.deepStrictEqual(await a.sendRequest("round-b", "echo", { x: 1, s: "\ud800é😀" }), {
    got: { x: 1, s: "\ud800é😀" },
  });
  assert.strictEqual(await a.sendRequest("round-b", "text"), "text");
  assert.strictEqual(await a.sendRequest("round-b", "zero"), 0);
  assert.deepStrictEqual(await a.sendRequest("round-b", "nothing"), {});
  assert.deepStrictEqual(await a.sendRequest("round-b", "null"), {});
  assert.deepStrictEqual(await a.sendRequest("round-b", "keys", undefined), ["id", "event"]);
  assert.deepStrictEqual(await a.sendRequest("round-b", "keys", null), ["id", "event", "data"]);
  assert.strictEqual(await a.sendRequest("round-b", "late"), "late");
  assert.deepStrictEqual(await b.sendRequest("round-b", "echo", "self"), { got: "self" });

  const missing = await rejected(a.sendRequest("nosuch", "echo", {}));
  assert.strictEqual(missing.code, "TARGET_SERVICE_NOT_FOUND");
  assert.strictEqual(missing.message, 'Service "nosuch" not found');
  assert.strictEqual(missing.errorData.targetService, "nosuch");
  assert.strictEqual((await rejected(a.sendRequest("round-b", "nohandler"))).code, "EVENT_NOT_FOUND");
  assert.strictEqual((await rejected(a.sendRequest("round-b", "boom"))).errorData.error, "kaput");
  assert.strictEqual((await rejected(a.sendRequest("round-b", "late", {}, 50))).code, "REQUEST_TIMEOUT");

  const { size, back } = await a.sendRequest("round-b", "binary", { blob: Buffer.from([1, 2, 3]) });
  assert.strictEqual(size, 3);
  assert.deepStrictEqual([...back], [3, 2, 1]);
  const blob = Buffer.alloc(200_000, 7);
  assert.strictEqual((await a.sendRequest("round-b", "binary", { blob })).back.length, 200_000);

  const large = "x".repeat(200_000);
  assert.deepStrictEqual(await a.sendRequest("round-b", "echo", large), { got: large });
  const many = await Promise.all(Array.from({ length: 1000 }, (_, n) => a.sendRequest("round-b", "echo", n)));
  assert.deepStrictEqual(many, Array.from({ length: 1000 }, (_, n) => ({ got: n })));

  const open = rejected(a.sendRequest("round-b", "never"));
  await arrival;
  b.close();
  const lost = await open;
  assert.strictEqual(lost.code, "TARGET_SERVICE_DISCONNECTED");
  assert.strictEqual((await rejected(a.sendRequest("round-b", "echo"))).code, "TARGET_SERVICE_NOT_FOUND");
  console.log(JSON.stringify({ done: true, transport: a.transport }));
  a.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.log(error && error.stack ? error.stack : JSON.stringify(error));
    process.exit(2);
  },
);
