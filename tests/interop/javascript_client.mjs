// The JavaScript client against a daemon: node javascript_client.mjs <url> <task> [argument …]
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { Client } from '../../clients/js/txbroker.js';

const [url, task, ...words] = process.argv.slice(2);
const say = (word, value) => console.log(JSON.stringify([word, value]));
const options = { WebSocket, firstWait: 0.02, maxWait: 0.2 };
const codeOf = (promise) => promise.then(() => 'none', ({ code }) => code);
const input = createInterface({ input: process.stdin });
const lines = input[Symbol.asyncIterator]();
const told = () => lines.next();

const tasks = {
  async restarts() {
    const client = new Client(url, options), caller = new Client(url, options);
    await Promise.all([client.connect(), caller.connect()]);
    const events = client.subscribe('events', { from: 'start' });
    const changes = client.watch('key');
    const live = client.subscribe('live');
    const jobs = [];
    client.consume('queue', ({ payload }) => jobs.push(payload));
    client.serve('double', (number) => 2 * number);
    client.respond('twice', async function* ({ number }) {
      yield number;
      yield number;
    });
    for (let number = 0; number < 3; number += 1) {
      await client.settled();
      await caller.publish('events', number, { durable: true, key: `k${number}` });
      await caller.enqueue('queue', number, { key: `j${number}` });
      await caller.set('key', String(number));
      await caller.publish('live', number);
      const { payload: event } = (await events.next()).value;
      let change;
      do change = (await changes.next()).value.value; while (change !== String(number));
      const { payload: passing } = (await live.next()).value;
      const result = await caller.call('double', [number]);
      const answers = [];
      for await (const answer of caller.request({ action: 'twice', number }, { replies: 2 })) answers.push(answer);
      while (jobs.length <= number || client.stats().pending) await new Promise((resolve) => setTimeout(resolve, 5));
      say('round', { number, event, passing, change, job: jobs[number], result, answers });
      const lost = number < 2 && [client, caller].map((each) => new Promise((resolve) => each.on('ready', resolve)));
      await told();
      if (lost) await Promise.all(lost);
    }
    await Promise.all([client.close(), caller.close()]);
    say('end', client.stats());
  },

  async away() {
    const client = new Client(url, options);
    await client.connect();
    say('ready', true);
    const lost = new Promise((resolve) => client.on('lost', resolve));
    await told();
    await lost;
    const stored = ['a', 'b', 'c'].map((name) => client.publish('t', name, { durable: true, key: name }));
    say('failed', await client.call('p', [], { wait: false }).catch(({ code, done }) => [code, done]));
    say('stored', (await Promise.all(stored)).map(({ id }) => id));
    say('events', (await client.read('t')).events.map(({ payload }) => payload));
    await client.close();
  },

  async credential(token) {
    const client = new Client(url, { ...options, token });
    try {
      const { id, stage } = await client.connect();
      say('identity', { id, stage });
      say('refreshed', await codeOf(client.refresh('another')));
    } catch ({ code }) {
      say('failed', code);
    }
    await client.close();
  },

  async calls() {
    const [ann, bob] = ['ann', 'bob'].map((name) => new Client(url, { ...options, name }));
    await Promise.all([ann.connect(), bob.connect()]);
    ann.serve('slow', function () {
      return new Promise(() => this.signal.addEventListener('abort', () => say('aborted', this.signal.reason.code)));
    });
    let release;
    ann.serve('late', () => new Promise((resolve) => { release = resolve; }));
    ann.subscribe('room', { presence: { nick: 'Ann' } }, () => {});
    await ann.settled();
    const control = new AbortController();
    const call = bob.call('slow', [], { signal: control.signal });
    while (!ann.stats().served) await new Promise((resolve) => setTimeout(resolve, 5));
    control.abort('stop');
    say('cancelled', await call.catch(({ code, cause }) => [code, cause]));
    const late = new Promise((onLate) => {
      codeOf(bob.call('late', [], { timeout: 0.2, onLate })).then((code) => {
        release('at last');
        late.then((result) => say('late', [code, result]));
      });
    });
    await late;
    say('present', (await bob.members('room')).map(({ id, info }) => [id, info]));
    const mail = new Promise((resolve) => ann.consume('@me', ({ payload }) => resolve(payload)));
    await ann.settled();
    const socket = new WebSocket(url);
    await new Promise((resolve) => { socket.onopen = resolve; });
    socket.send(JSON.stringify({ type: 'message', recipient: 'ann', payload: { n: 1 } }));
    say('mail', await mail);
    socket.close();
    await Promise.all([ann.close(), bob.close()]);
  },
};
await tasks[task](...words);
input.close();
process.stdin.unref?.();
