// A clock and WebSockets that do what a test says, for the JavaScript client.
import assert from 'node:assert/strict';
import { Client } from '../../clients/js/txbroker.js';

export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class FakeClock {
  time = 1000;
  timers = new Map();
  #number = 0;

  // Takes the place of the timers and of the time of this process; what `installed` returns puts those back.
  installed() {
    const [real, now] = [{ setTimeout, clearTimeout }, performance.now];
    globalThis.setTimeout = (work, milliseconds) => {
      assert.ok(milliseconds >= 0 && milliseconds < 2 ** 31, `a timer of ${milliseconds} ms`);
      this.timers.set(++this.#number, { at: this.time + milliseconds / 1000, work });
      return this.#number;
    };
    globalThis.clearTimeout = (timer) => void this.timers.delete(timer);
    performance.now = () => this.time * 1000;
    return () => {
      Object.assign(globalThis, real);
      performance.now = now;
    };
  }

  async advance(seconds) {
    const end = this.time + seconds;
    for (;;) {
      const [next] = [...this.timers].sort(([, one], [, other]) => one.at - other.at);
      if (!next || next[1].at > end) break;
      this.timers.delete(next[0]);
      this.time = Math.max(this.time, next[1].at);
      next[1].work();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

// Both ends of a connection: `opens`, `gives` and `ends` are what the broker does.
export class FakeSocket {
  static all = [];
  static get last() { return FakeSocket.all.at(-1); }
  frames = [];
  closed = null;
  constructor(url) {
    this.url = url;
    FakeSocket.all.push(this);
  }

  send(data) { this.frames.push(JSON.parse(data)); }
  close(code = 1005) { this.closed ??= code; }

  opens() { this.onopen({}); }
  gives(frame) { this.onmessage({ data: JSON.stringify(frame) }); }
  ends(code = 1006, reason = '') { this.onclose({ code, reason }); }
  fails(message) { this.onerror({ message }); }

  // The newest call of a method that is not answered yet.
  call(method) {
    return this.frames.findLast((each) => each.type === 'call' && each.method === method && !each.answered);
  }

  answers(method, payload) {
    const call = this.call(method);
    assert.ok(call, `${method} was not called: ${JSON.stringify(this.frames)}`);
    call.answered = true;
    this.gives({ type: 'result', id: call.id, payload });
    return call;
  }

  refuses(method, payload) {
    const call = this.call(method);
    assert.ok(call, `${method} was not called: ${JSON.stringify(this.frames)}`);
    call.answered = true;
    this.gives({ type: 'error', id: call.id, payload });
  }

  greets() {
    this.opens();
    this.answers('broker.whoami', { id: 'me', session: 's', stage: 'init' });
  }
}

// A client with all of that; `close` checks that it leaves no timer.
export function made(options = {}, url = 'ws://broker.test/v1/ws') {
  FakeSocket.all = [];
  const clock = new FakeClock();
  const putBack = clock.installed();
  const { random } = Math;
  Math.random = () => 0.5;
  const notices = [];
  const client = new Client(url, { WebSocket: FakeSocket, ...options });
  client.on('*', (notice) => notices.push(notice));
  const kinds = () => notices.map(({ kind }) => kind);
  const end = async () => {
    const closed = client.close();
    if (client.state === 'closing') FakeSocket.last.ends(1000);
    await closed;
    putBack();
    Math.random = random;
    assert.equal(client.state, 'stopped');
    assert.equal(clock.timers.size, 0, 'a timer is left');
    const { started, succeeded, failed, timedOut, cancelled, pending } = client.stats();
    assert.deepEqual([started, pending], [succeeded + failed + timedOut + cancelled, 0]);
  };
  return { client, clock, notices, kinds, end };
}

export async function connected(options) {
  const all = made(options);
  all.client.connect();
  await settle();
  FakeSocket.last.greets();
  await settle();
  return all;
}

// Lets the connection be lost and come back.
export async function comesBack(clock, seconds = 1) {
  FakeSocket.last.ends();
  await clock.advance(seconds);
  FakeSocket.last.greets();
  await settle();
}
