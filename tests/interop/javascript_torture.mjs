// Calls, publishes, enqueues, follows and works behind a network that fails; says what has come of it.
import ws from 'ws';
import { Client, ClientError } from '../../clients/js/txbroker.js';

const [url, total] = [process.argv[2], Number(process.argv[3])];
const [TOPIC, QUEUE, CURSOR, PROCEDURE, WORKERS] = ['torture.events', 'torture', 'torture-tail', 'torture.echo', 16];
const options = {
  WebSocket: globalThis.WebSocket ?? ws, pingInterval: 0.4, pingTimeout: 0.4, firstWait: 0.02, maxWait: 0.2, connectTimeout: 2, timeout: 20,
};
const say = (word, value) => console.log(JSON.stringify([word, value]));
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const found = { called: {}, stored: 0, enqueued: 0, triedAgain: 0, ids: [], numbers: [], done: {}, gaps: 0, notices: {}, problems: [] };
const count = (table, name) => { table[name] = (table[name] ?? 0) + 1; };

process.on('unhandledRejection', (error) => found.problems.push(`unhandled: ${error?.stack}`));
console.error = (...words) => found.problems.push(`console: ${words.join(' ')}`);

// The worker has no name: what was sent to it and has not arrived goes to the next at once.
const clients = ['torture-caller', 'torture-server', '', 'torture-reader'].map((name) => new Client(url, { ...options, name }));
const [caller, server, worker, reader] = clients;
for (const client of clients) client.on('*', ({ kind }) => count(found.notices, kind));

async function untilDone(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      found.triedAgain += 1;
      await pause(0.05);
    }
  }
}

// Does all numbers, so many at a time.
const each = (work) => Promise.all(Array.from({ length: WORKERS }, async (_, start) => {
  for (let number = start; number < total; number += WORKERS) await work(number);
}));

async function call(number) {
  try {
    if (await caller.call(PROCEDURE, [number], { timeout: 10 }) !== number) found.problems.push(`call ${number} has another's result`);
    count(found.called, 'ok');
  } catch (error) {
    if (!(error instanceof ClientError)) found.problems.push(`call ${number}: ${error.stack}`);
    count(found.called, error.code);
  }
}

async function publish(number) {
  await untilDone(() => caller.publish(TOPIC, number, { durable: true, key: `k${number}` }));
  found.stored += 1;
}

async function enqueue(number) {
  await untilDone(() => caller.enqueue(QUEUE, number, { key: `j${number}` }));
  found.enqueued += 1;
}

const memory = [];
function measure() {
  globalThis.gc();
  memory.push(Math.round(process.memoryUsage().heapUsed / 2 ** 20));
}

async function read() {
  const events = reader.subscribe(TOPIC, { cursor: CURSOR });
  for await (const { id, payload, position } of events) {
    found.ids.push(id);
    found.numbers.push(payload);
    if (found.ids.length === Math.floor(total / 5)) measure();
    if (id % 50 === 0) await reader.ack(CURSOR, TOPIC, position).catch(() => { found.triedAgain += 1; });
    found.gaps = found.notices.gap ?? 0;
    if (found.ids.length >= total) break;
  }
}

server.serve(PROCEDURE, (number) => number);
worker.consume(QUEUE, { prefetch: 8, lease: 30 }, ({ payload }) => count(found.done, payload));
const reading = read();
await Promise.all(clients.map((client) => client.connect()));
await Promise.all(clients.map((client) => client.settled()));
const telling = setInterval(() => {
  const reached = Object.values(found.called).reduce((sum, one) => sum + one, 0) + found.stored + found.enqueued + found.ids.length;
  say('progress', (reached + Object.keys(found.done).length) / (5 * total));
}, 20);
await Promise.all([each(call), each(publish), each(enqueue), reading]);
while (Object.keys(found.done).length < total || worker.stats().pending) await pause(0.05);
clearInterval(telling);
const { events } = reader.stats();
await Promise.all(clients.map((client) => client.close()));
measure();
const statistics = clients.map((client) => client.stats());
say('end', { ...found, events, statistics, memory });
// Nothing else keeps the process: it ends by itself.
