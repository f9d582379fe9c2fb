// The JavaScript client with a clock and a WebSocket that do what each test says.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as txbroker from '../../clients/js/txbroker.js';
import { FakeSocket, comesBack, connected, made, settle } from './javascript_fakes.mjs';

const { Client } = txbroker;
const RATE = 'SocketErrorMessage|||socket:message:limit:rate|||';
const failure = (promise) => promise.then((value) => assert.fail(`it ended with ${value}`), (error) => error);
const event = (id, more = {}) => ({ type: 'event', event: 't', id, epoch: 'e', name: 't', payload: id, ...more });
const job = (id, more = {}) => ({ type: 'message', id, queue: 'q', delivery: 1, lease: 30, payload: id, dt: 5, ...more });

// Making one

test('where there is no WebSocket it says so', { skip: Boolean(globalThis.WebSocket) }, async () => {
  const error = await failure(new Client('ws://broker.test').connect());
  assert.deepEqual([error.code, error.message], ['INVALID', 'WebSocket is not a constructor']);
});

test('options that are not known and URLs that are none are refused', () => {
  assert.throws(() => made({ timout: 3 }), txbroker.Invalid);
  assert.throws(() => new Client('no URL', { WebSocket: FakeSocket }), TypeError);
});

test('an option that is undefined is not given', async () => {
  const { client, clock, end } = await connected({ token: undefined, timeout: undefined, name: undefined });
  const outcome = failure(client.call('p'));
  await clock.advance(30);
  assert.ok(await outcome instanceof txbroker.Timeout);
  await end();
});

test('http URLs stand for those of WebSockets, and the name is in the query', async () => {
  const client = new Client('https://broker.test/v1/ws', { WebSocket: FakeSocket, name: 'a b' });
  client.connect();
  await settle();
  assert.equal(FakeSocket.last.url, 'wss://broker.test/v1/ws?client=a+b');
  await client.close();
});

// The connection

test('connect ends with who the client is', async () => {
  const { client, end } = made();
  const identity = client.connect();
  await settle();
  FakeSocket.last.greets();
  assert.deepEqual(await identity, { id: 'me', session: 's', stage: 'init' });
  assert.deepEqual([client.id, client.state], ['me', 'ready']);
  await end();
});

test('waits double with jitter up to their limit', async () => {
  const { client, clock, notices, end } = made({ firstWait: 1, maxWait: 6 });
  client.connect();
  for (let attempt = 0; attempt < 5; attempt += 1) {
    await settle();
    FakeSocket.last.ends();
    await clock.advance(6);
  }
  const delays = notices.filter(({ kind }) => kind === 'waiting').map(({ delay }) => delay);
  assert.deepEqual(delays, [0.5, 1, 2, 3, 3]); // half of 1, 2, 4, 6, 6
  await end();
});

test('it gives up after as many attempts as it may make', async () => {
  const { client, clock, end } = made({ maxAttempts: 2 });
  const outcome = failure(client.connect());
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await settle();
    FakeSocket.last.ends();
    await clock.advance(1);
  }
  assert.ok(await outcome instanceof txbroker.NotConnected);
  assert.equal(FakeSocket.all.length, 3);
  assert.ok(await failure(client.get('k')) instanceof txbroker.NotConnected);
  await end();
});

test('a connection that lasts lets the waits begin anew, and one that does not lets them grow', async () => {
  const { clock, notices, end } = await connected({ firstWait: 1 });
  await clock.advance(2);
  await comesBack(clock);
  await comesBack(clock, 2);
  await clock.advance(2);
  await comesBack(clock);
  const delays = notices.filter(({ kind }) => kind === 'waiting').map(({ delay }) => delay);
  assert.deepEqual(delays, [0.5, 1, 0.5]);
  await end();
});

test('where no connection may be made at all it ends', async () => {
  class Forbidden { constructor() { throw new Error('an insecure WebSocket in a page of https:'); } }
  const { client, end } = made({ WebSocket: Forbidden });
  assert.ok(await failure(client.connect()) instanceof txbroker.Invalid);
  await end();
});

test('an attempt that is not ready in time is given up', async () => {
  const { client, clock, kinds, end } = made({ connectTimeout: 4 });
  client.connect();
  await settle();
  await clock.advance(3.9);
  assert.deepEqual(kinds(), ['connecting']);
  await clock.advance(1);
  assert.deepEqual(kinds(), ['connecting', 'waiting', 'connecting']);
  assert.notEqual(FakeSocket.all[0].closed, null);
  await end();
});

test('an attempt that has failed is over, whether a close is told or not', async () => {
  const { client, clock, notices, end } = made();
  client.connect();
  await settle();
  FakeSocket.last.fails('connect ECONNREFUSED');
  FakeSocket.last.ends();
  assert.deepEqual(notices.map(({ kind, code, reason }) => [kind, code, reason]), [
    ['connecting', 0, ''], ['waiting', 1006, 'connect ECONNREFUSED'],
  ]);
  await clock.advance(1);
  FakeSocket.last.greets();
  FakeSocket.last.fails('ECONNRESET');
  assert.equal(client.state, 'ready');
  await end();
});

test('a silent broker is asked, and then left', async () => {
  const { client, clock, end } = await connected({ pingInterval: 20, pingTimeout: 10 });
  await clock.advance(20);
  assert.equal(FakeSocket.last.frames.at(-1).type, 'ping');
  FakeSocket.last.gives({ type: 'pong' });
  await clock.advance(29);
  assert.equal(client.state, 'ready');
  await clock.advance(2);
  assert.equal(client.stats().losses, 1);
  await end();
});

test('frames of a connection that was left are not looked at', async () => {
  const { client, clock, end } = await connected({ pingInterval: 2, pingTimeout: 1 });
  const [old] = FakeSocket.all;
  const answer = client.get('k');
  await clock.advance(4);
  old.ends();
  old.gives({ type: 'result', id: '2', payload: { key: 'k', value: 'old', revision: 1 } });
  FakeSocket.last.greets();
  FakeSocket.last.answers('broker.get', { key: 'k', value: 'new', revision: 2 });
  assert.equal((await answer).value, 'new');
  await end();
});

test('the network that is back ends a wait, and lets a connection be looked at', async () => {
  const page = new EventTarget();
  const names = ['addEventListener', 'removeEventListener'];
  for (const name of names) globalThis[name] = page[name].bind(page);
  try {
    const { client, clock, end } = await connected({ firstWait: 1000, maxWait: 1000 });
    page.dispatchEvent(new Event('online'));
    assert.equal(FakeSocket.last.frames.at(-1).type, 'ping');
    FakeSocket.last.ends();
    await settle();
    assert.equal(client.state, 'waiting');
    page.dispatchEvent(new Event('online'));
    await settle();
    FakeSocket.last.greets();
    assert.equal(client.state, 'ready');
    assert.equal(clock.time, 1000);
    await end();
    page.dispatchEvent(new Event('online'));
    assert.equal(client.state, 'stopped');
  } finally {
    for (const name of names) delete globalThis[name];
  }
});

test('close ends all that is under way with Closed, and waits for the other side no longer than it may', async () => {
  const { client, clock, end } = await connected({ closeTimeout: 3 });
  const [call, items] = [failure(client.call('p')), client.subscribe('t')];
  FakeSocket.last.answers('broker.subscribe', { subscribed: ['t'] });
  const next = items.next();
  const closed = client.close();
  assert.ok(await call instanceof txbroker.Closed);
  assert.deepEqual(await next, { value: undefined, done: true });
  assert.equal(FakeSocket.last.closed, 1000);
  await clock.advance(3);
  await closed;
  assert.ok(await failure(client.connect()) instanceof txbroker.Closed);
  await end();
});

test('a close code of its own kind ends it', async () => {
  const { client, kinds, end } = await connected();
  FakeSocket.last.ends(3500, 'kicked');
  assert.equal(client.state, 'stopped');
  assert.deepEqual(kinds().slice(-2), ['lost', 'stopped']);
  await end();
});

// Credentials

const authenticated = (stage = 'authenticated', payload = {}) => FakeSocket.last.gives({ type: 'auth', stage, payload });
const wrong = 'AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||';

test('a credential is shown before anything else, and is in no URL', async () => {
  const { client, end } = made({ token: 'secret' });
  client.connect();
  await settle();
  FakeSocket.last.opens();
  assert.deepEqual(FakeSocket.last.frames, [{ type: 'auth', stage: 'authenticate', payload: { token: 'secret' } }]);
  assert.ok(!FakeSocket.last.url.includes('secret'));
  authenticated();
  FakeSocket.last.answers('broker.whoami', { id: 'me', session: 's', stage: 'authenticated' });
  assert.equal(client.state, 'ready');
  await end();
});

test('a wrong credential ends the client', async () => {
  const { client, kinds, end } = made({ token: 'wrong' });
  const outcome = failure(client.connect());
  await settle();
  FakeSocket.last.opens();
  authenticated(null, wrong);
  assert.ok(await outcome instanceof txbroker.Unauthenticated);
  assert.deepEqual(kinds(), ['connecting', 'auth-failed', 'stopped']);
  await end();
});

test('a function is asked for a credential with each attempt, and five refusals end it', async () => {
  let asked = 0;
  const { client, clock, end } = made({ token: async () => `token ${++asked}` });
  const outcome = failure(client.connect());
  for (let attempt = 1; attempt <= 5; attempt += 1) {
    await settle();
    FakeSocket.last.opens();
    assert.equal(FakeSocket.last.frames[0].payload.token, `token ${attempt}`);
    authenticated(null, wrong);
    await clock.advance(4);
  }
  assert.ok(await outcome instanceof txbroker.Unauthenticated);
  assert.equal(asked, 5);
  await end();
});

test('a function that fails is asked again', async () => {
  let asked = 0;
  const { client, clock, kinds, end } = made({ token: () => { if (!asked++) throw new Error('no network'); return 't'; } });
  client.connect();
  await settle();
  assert.deepEqual(kinds(), ['connecting', 'auth-failed', 'waiting']);
  await clock.advance(1);
  FakeSocket.last.opens();
  assert.equal(FakeSocket.last.frames[0].payload.token, 't');
  await end();
});

test('a credential that expires is renewed', async () => {
  let asked = 0;
  const { client, kinds, end } = made({ token: () => `token ${++asked}` });
  client.connect();
  await settle();
  FakeSocket.last.opens();
  authenticated();
  FakeSocket.last.answers('broker.whoami', { id: 'me', session: 's', stage: 'authenticated' });
  FakeSocket.last.gives({ type: 'system', event: 'broker.expiring', payload: { left: 30000 } });
  await settle();
  assert.equal(FakeSocket.last.frames.at(-1).payload.token, 'token 2');
  authenticated();
  await settle();
  assert.deepEqual(kinds().slice(-2), ['expiring', 'refreshed']);
  FakeSocket.last.gives({ type: 'system', event: 'broker.expiring', payload: { left: 30000 } });
  await settle();
  authenticated(null, wrong); // of which nobody waits for the end
  await settle();
  assert.equal(kinds().at(-1), 'auth-failed');
  const refused = failure(client.refresh('of somebody else'));
  authenticated(null, 'AuthManagerErrorAuthenFailed|||auth:manager:authen:identity|||');
  assert.ok(await refused instanceof txbroker.Unauthenticated);
  assert.equal(client.state, 'ready');
  await end();
});

// Operations

test('what is asked while there is no connection waits, in its order', async () => {
  const { client, end } = made();
  const published = client.publish('t', 1, { durable: true, key: 'k', content_type: 'x' });
  client.get('k');
  assert.equal(client.stats().buffered, 2);
  client.connect();
  await settle();
  FakeSocket.last.greets();
  assert.deepEqual(FakeSocket.last.frames.slice(1).map(({ method }) => method), ['broker.publish', 'broker.get']);
  const call = FakeSocket.last.answers('broker.publish', { epoch: 'e', id: 1, time: 2, duplicate: false });
  assert.deepEqual(call.payload, ['t', 1, { durable: true, key: 'k', content_type: 'x' }]);
  assert.deepEqual(await published, { epoch: 'e', id: 1, time: 2, duplicate: false });
  await end();
});

test('or fails at once, as asked, and when too much waits', async () => {
  const { client, end } = made({ maxBufferedBytes: 1000, maxMessageBytes: 2000 });
  assert.ok(await failure(client.call('p', [], { wait: false })) instanceof txbroker.NotConnected);
  assert.ok(await failure(client.call('p', ['x'.repeat(1000)])) instanceof txbroker.BufferFull);
  assert.ok(await failure(client.call('p', ['x'.repeat(2000)])) instanceof txbroker.TooLarge);
  client.call('p', ['x'.repeat(400)]);
  client.call('p');
  assert.ok(await failure(client.call('p', ['x'.repeat(400)])) instanceof txbroker.BufferFull);
  assert.equal(client.stats().buffered, 2);
  await end();
  assert.equal(client.stats().bufferedBytes, 0);
});

test('what the broker knows by a key is sent again with the same id, and the rest ends', async () => {
  const { client, clock, end } = await connected();
  const published = client.publish('t', 1, { durable: true, key: 'k' });
  const [called, live] = [failure(client.call('p')), failure(client.publish('t', 2))];
  const { id } = FakeSocket.last.frames.find(({ method }) => method === 'broker.publish');
  await comesBack(clock);
  const again = FakeSocket.last.answers('broker.publish', { epoch: 'e', id: 1, time: 2, duplicate: true });
  assert.equal(again.id, id);
  assert.equal((await published).duplicate, true);
  for (const error of [await called, await live]) {
    assert.ok(error instanceof txbroker.ConnectionLost);
    assert.equal(error.done, true);
  }
  assert.equal(client.stats().resent, 1);
  await end();
});

test('but not when the broker may have forgotten the key', async () => {
  const { client, clock, end } = await connected({ resendWindow: 10, timeout: 100, pingInterval: 1000 });
  const published = failure(client.publish('t', 1, { durable: true, key: 'k' }));
  await clock.advance(11);
  FakeSocket.last.ends();
  assert.ok(await published instanceof txbroker.ConnectionLost);
  await end();
});

test('a deadline holds while it waits, too', async () => {
  const { client, clock, end } = made();
  const outcome = failure(client.get('k'));
  await clock.advance(30);
  assert.ok(await outcome instanceof txbroker.Timeout);
  assert.equal(client.stats().buffered, 0);
  await end();
});

test('a result that comes late is given to who wants to know', async () => {
  const { client, clock, end } = await connected();
  const late = [];
  const outcome = failure(client.call('p', [1], { timeout: 2, onLate: (result) => late.push(result) }));
  assert.equal(FakeSocket.last.call('p').timeout, 62_000);
  await clock.advance(2);
  assert.ok(await outcome instanceof txbroker.Timeout);
  FakeSocket.last.answers('p', 'late');
  assert.deepEqual(late, ['late']);
  assert.deepEqual([client.stats().late, client.stats().timedOut], [1, 1]);
  await end();
});

test('a signal cancels a call, here and at the broker', async () => {
  const { client, end } = await connected();
  const control = new AbortController();
  const outcome = failure(client.call('p', [], { signal: control.signal }));
  const { id } = FakeSocket.last.call('p');
  control.abort('enough');
  const error = await outcome;
  assert.ok(error instanceof txbroker.Cancelled);
  assert.equal(error.cause, 'enough');
  assert.deepEqual(FakeSocket.last.call('broker.cancel').payload, [id]);
  assert.ok(await failure(client.call('p', [], { signal: control.signal })) instanceof txbroker.Cancelled);
  assert.equal(client.stats().cancelled, 2);
  await end();
});

test('arguments that are none are refused', async () => {
  const { client, end } = await connected();
  assert.ok(await failure(client.call('p', [], { timeout: -1 })) instanceof txbroker.Invalid);
  assert.ok(await failure(client.call('p', [10n])) instanceof txbroker.Invalid);
  await end();
});

test('members of a publication that the client does not know pass as they are', async () => {
  const { client, end } = await connected();
  client.publish('t', 'Af8=', { encoding: 'base64' });
  assert.deepEqual(FakeSocket.last.call('broker.publish').payload, ['t', 'Af8=', { encoding: 'base64' }]);
  const items = client.subscribe('t');
  FakeSocket.last.answers('broker.subscribe', { subscribed: ['t'] });
  FakeSocket.last.gives(event('x', { payload: 'Af8=', encoding: 'base64', epoch: undefined }));
  const { payload, encoding } = (await items.next()).value;
  assert.deepEqual([payload, encoding], ['Af8=', 'base64']);
  await end();
});

test('a connection that does not take what it is given is given no more', async () => {
  const { client, clock, end } = await connected({ maxBufferedBytes: 1000 });
  FakeSocket.last.bufferedAmount = 1001;
  client.get('k');
  assert.equal(client.stats().buffered, 1);
  FakeSocket.last.bufferedAmount = 0;
  await clock.advance(0.1);
  assert.equal(client.stats().buffered, 0);
  await end();
});

// The rate

test('the rate falls when the broker refuses, and recovers', async () => {
  const { client, clock, kinds, end } = await connected({ timeout: 0, pingInterval: 1000 });
  for (let count = 0; count < 20; count += 1) client.publish('t', count);
  const kept = client.publish('t', 'kept', { durable: true, key: 'k' });
  FakeSocket.last.refuses('broker.publish', RATE);
  const { rate } = client.stats();
  assert.ok(rate > 5 && rate < 10, `${rate}`);
  assert.ok(kinds().includes('rate-limited'));
  assert.equal(FakeSocket.last.frames.length, 22);
  await clock.advance(0.9); // it waits a second
  assert.equal(FakeSocket.last.frames.length, 22);
  await clock.advance(0.5);
  assert.equal(FakeSocket.last.frames.length, 23); // the one with a key, once more
  FakeSocket.last.answers('broker.publish', { epoch: 'e', id: 1, time: 2, duplicate: false });
  assert.equal((await kept).id, 1);
  await clock.advance(2);
  assert.ok((client.get('k'), client.stats().rate) > rate);
  await clock.advance(60);
  assert.equal((client.get('k'), client.stats().rate), Infinity);
  assert.equal(client.stats().rateLimited, 1);
  await end();
});

test('what can not be asked again ends with RateLimited, which says when to try again', async () => {
  const { client, clock, end } = await connected();
  const outcome = failure(client.call('p'));
  FakeSocket.last.refuses('p', RATE);
  assert.equal((await outcome).retryAfter, 1);
  const later = failure(client.call('q'));
  await clock.advance(2);
  const { id } = FakeSocket.last.call('q');
  FakeSocket.last.gives({ type: 'error', id, payload: RATE, retry_after: 0.02 });
  assert.equal((await later).retryAfter, 0.02);
  await end();
});

test('a rate can be set and removed while it runs', async () => {
  const { client, clock, end } = await connected({ rate: 2, timeout: 0, pingInterval: 1000 });
  await clock.advance(10);
  for (let count = 0; count < 10; count += 1) client.call('p', [count]);
  const sent = () => FakeSocket.last.frames.filter(({ method }) => method === 'p').length;
  assert.equal(sent(), 1);
  await clock.advance(2);
  assert.equal(sent(), 5);
  client.setRate(null);
  assert.equal(sent(), 10);
  await end();
});

// Subscriptions

const begin = (payload = { subscribed: ['t'], epoch: 'e', id: 0, recovered: true }) =>
  FakeSocket.last.answers('broker.subscribe', payload);

test('a subscription goes on after the last event, and drops what comes twice', async () => {
  const { client, clock, end } = await connected();
  const items = client.subscribe('t', { from: 'start', cursor: 'c', echo: true });
  assert.deepEqual(begin().payload, ['t', { from: 'start', cursor: 'c', echo: true }]);
  assert.equal((await items.ready).id, 0);
  FakeSocket.last.gives(event(1));
  FakeSocket.last.gives(event(2));
  await comesBack(clock);
  assert.deepEqual(begin({ subscribed: ['t'], epoch: 'e', id: 2 }).payload[1].from, { epoch: 'e', id: 2 });
  FakeSocket.last.gives(event(2));
  FakeSocket.last.gives(event(3));
  const found = [];
  for await (const { id, position } of items) {
    found.push(id);
    assert.deepEqual(position, { epoch: 'e', id });
    if (id === 3) break;
  }
  assert.deepEqual(found, [1, 2, 3]);
  assert.deepEqual(FakeSocket.last.call('broker.unsubscribe').payload, ['t']);
  assert.equal(client.stats().duplicates, 1);
  await end();
});

test('one of a pattern goes on by topic', async () => {
  const { client, clock, end } = await connected();
  client.subscribe('t.*', { from: 'start' });
  begin({ subscribed: ['t.*'], positions: { 't.a': { epoch: 'e', id: 4 } } });
  FakeSocket.last.gives(event(5, { event: 't.*', topic: 't.a' }));
  FakeSocket.last.gives(event(1, { event: 't.*', topic: 't.b' }));
  await comesBack(clock);
  const { from } = FakeSocket.last.call('broker.subscribe').payload[1];
  assert.deepEqual(from, { 't.a': { epoch: 'e', id: 5 }, 't.b': { epoch: 'e', id: 1 } });
  await end();
});

test('one that names no beginning goes on, too', async () => {
  const { client, clock, end } = await connected();
  client.subscribe('t', () => {});
  assert.deepEqual(begin({ subscribed: ['t'], epoch: 'e', id: 4 }).payload, ['t', { from: 'new' }]);
  await comesBack(clock);
  assert.deepEqual(begin({ subscribed: ['t'], epoch: 'e', id: 4 }).payload, ['t', { from: { epoch: 'e', id: 4 } }]);
  await end();
});

test('one that may not read what is stored does without, and tells what may be missing', async () => {
  const { client, clock, notices, end } = await connected();
  const items = client.subscribe('t', { echo: true });
  FakeSocket.last.refuses('broker.subscribe', 'ForbiddenAuthorizationError|||auth:authorization:forbidden:read:t|||');
  assert.deepEqual(begin({ subscribed: ['t'] }).payload, ['t', { echo: true }]);
  FakeSocket.last.gives(event(7));
  await comesBack(clock);
  assert.deepEqual(begin({ subscribed: ['t'] }).payload, ['t', { echo: true }]);
  const gaps = notices.filter(({ kind }) => kind === 'gap').map(({ gap }) => gap);
  assert.deepEqual([items.unread.length, gaps], [1, [{ topic: 't', why: 'away' }]]);
  assert.ok(!notices.some(({ kind }) => kind === 'registration-failed'));
  await end();
});

test('of several nodes each attempt takes the next', async () => {
  const { client, clock, end } = made({}, ['ws://a.test/', 'ws://b.test/']);
  client.connect();
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await settle();
    FakeSocket.last.ends();
    await clock.advance(1);
  }
  assert.deepEqual(FakeSocket.all.map(({ url }) => url), ['ws://b.test/', 'ws://a.test/', 'ws://b.test/', 'ws://a.test/']);
  await end();
});

test('one for the last events begins anew where nothing is stored', async () => {
  const { client, clock, end } = await connected();
  client.subscribe('t', { last: 1 }, () => {});
  assert.deepEqual(begin({ subscribed: ['t'] }).payload, ['t', { last: 1 }]);
  await comesBack(clock);
  assert.deepEqual(begin({ subscribed: ['t'] }).payload, ['t']);
  await end();
});

test('events that are not read in time are asked for again, and what may be missing is told', async () => {
  const { client, notices, end } = await connected({ maxUnread: 4 });
  const items = client.subscribe('t', { from: 'start' });
  begin();
  for (const id of [1, 2, 3, 4, 5]) FakeSocket.last.gives(event(id));
  assert.deepEqual([items.unread.length, FakeSocket.last.call('broker.unsubscribe').payload], [4, ['t']]);
  assert.deepEqual(notices.at(-1).gap, { topic: 't', why: 'slow' });
  assert.equal((await items.next()).value.id, 1);
  assert.equal(FakeSocket.last.call('broker.subscribe'), undefined);
  assert.equal((await items.next()).value.id, 2);
  assert.deepEqual(begin().payload[1].from, { epoch: 'e', id: 4 });
  FakeSocket.last.gives(event(5));
  assert.deepEqual(items.unread.map(({ id }) => id), [3, 4, 5]);
  await end();
});

test('what is lost is told', async () => {
  const { client, notices, end } = await connected();
  client.subscribe('t', { from: { epoch: 'old', id: 3 } });
  begin({ subscribed: ['t'], epoch: 'e', id: 0, recovered: false, lost: { from: 4, to: null, why: 'epoch' } });
  FakeSocket.last.gives({ type: 'system', event: 'broker.gap', payload: { topic: 't', from: 7, to: 8, why: 'retention' } });
  const gaps = [{ topic: 't', from: 4, to: null, why: 'epoch' }, { topic: 't', from: 7, to: 8, why: 'retention' }];
  assert.deepEqual(notices.filter(({ kind }) => kind === 'gap').map(({ gap }) => gap), gaps);
  await end();
});

test('one that is refused ends with the error, and one whose name is held by the dead tries again', async () => {
  const { client, clock, kinds, end } = await connected();
  const items = client.subscribe('secret');
  const denied = 'ForbiddenAuthorizationError|||auth:authorization:forbidden:subscribe:secret|||';
  FakeSocket.last.refuses('broker.subscribe', denied);
  FakeSocket.last.refuses('broker.subscribe', denied); // without what is stored
  assert.ok(await failure(items.next()) instanceof txbroker.Denied);
  assert.ok(await failure(items.ready) instanceof txbroker.Denied);
  client.serve('p', () => 1);
  FakeSocket.last.answers('broker.register', { registered: ['p'] });
  await comesBack(clock);
  FakeSocket.last.refuses('broker.register', 'SocketErrorMessage|||socket:message:exists:p|||');
  assert.equal(kinds().at(-1), 'registration-failed');
  const settled = client.settled();
  await clock.advance(1);
  FakeSocket.last.answers('broker.register', { registered: ['p'] });
  await settled;
  await end();
});

test('a callback that fails ends nothing', async () => {
  const { client, notices, end } = await connected();
  const found = [];
  client.subscribe('t', async ({ payload }) => {
    found.push(payload);
    if (payload === 1) throw new Error('mine');
  }, { from: 'start' });
  begin();
  FakeSocket.last.gives(event(1));
  FakeSocket.last.gives(event(2));
  await settle();
  assert.deepEqual(found, [1, 2]);
  assert.equal(notices.at(-1).error.message, 'mine');
  assert.throws(() => client.subscribe('t'), txbroker.Taken);
  await end();
});

// Keys

test('a watch goes on, and tells what is different when the changes are not known any more', async () => {
  const { client, clock, end } = await connected();
  const items = client.watch('k*', { previous: true });
  const entries = [{ key: 'k1', value: 'a', revision: 3 }, { key: 'k2', value: 'b', revision: 4 }];
  FakeSocket.last.answers('broker.watch', { watching: ['k*'], entries, epoch: 'e', revision: 4, snapshot: true });
  const change = (payload) => FakeSocket.last.gives({ type: 'event', event: 'kv/k*', name: 'set', payload });
  change({ key: 'k1', value: 'c', revision: 5, timestamp: 9, previous: 'a' });
  change({ key: 'k1', value: 'c', revision: 5, timestamp: 9, previous: 'a' });
  await comesBack(clock);
  const now = [{ key: 'k1', value: 'c', revision: 5 }, { key: 'k3', value: 'd', revision: 7 }];
  const call = FakeSocket.last.answers('broker.watch', { entries: now, epoch: 'e', revision: 7, snapshot: true });
  assert.deepEqual(call.payload, ['k*', { previous: true, from: { epoch: 'e', revision: 5 } }]);
  const found = [];
  while (items.unread.length) found.push((await items.next()).value);
  assert.deepEqual(found, [
    { key: 'k1', value: 'a', revision: 3, kind: 'present', time: 0 },
    { key: 'k2', value: 'b', revision: 4, kind: 'present', time: 0 },
    { key: 'k1', value: 'c', revision: 5, kind: 'set', previous: 'a', time: 9 },
    { key: 'k2', value: null, revision: 0, kind: 'missed', time: 0 },
    { key: 'k3', value: 'd', revision: 7, kind: 'present', time: 0 },
  ]);
  FakeSocket.last.gives({ type: 'system', event: 'broker.gap', payload: { topic: 'kv/k*', why: 'missed' } });
  assert.ok(FakeSocket.last.call('broker.watch'));
  await end();
});

test('a topic that is called like a key is another', async () => {
  const { client, end } = await connected();
  const [events, changes] = [client.subscribe('k'), client.watch('k')];
  begin({ subscribed: ['k'], epoch: 'e', id: 0 });
  FakeSocket.last.answers('broker.watch', { watching: ['k'], entries: [], epoch: 'e', revision: 0, snapshot: true });
  FakeSocket.last.gives(event(1, { event: 'k' }));
  FakeSocket.last.gives({ type: 'event', event: 'kv/k', name: 'set', payload: { key: 'k', value: 'a', revision: 1, timestamp: 9 } });
  assert.deepEqual([events.unread.map(({ payload }) => payload), changes.unread.map(({ value }) => value)], [[1], ['a']]);
  await end();
});

test('a watch brings all anew when the epoch is another, and what is not there any more', async () => {
  const { client, clock, end } = await connected();
  const items = client.watch('*');
  const entries = [{ key: 'k1', value: 'a', revision: 3 }, { key: 'k2', value: 'b', revision: 4 }];
  FakeSocket.last.answers('broker.watch', { entries, epoch: 'e', revision: 4, snapshot: true });
  await comesBack(clock);
  FakeSocket.last.answers('broker.watch', { entries: [{ key: 'k1', value: 'a', revision: 1 }], epoch: 'f', revision: 1, snapshot: true });
  assert.deepEqual(items.unread.map(({ key, kind }) => [key, kind]), [
    ['k1', 'present'], ['k2', 'present'], ['k2', 'missed'], ['k1', 'present'],
  ]);
  await comesBack(clock);
  assert.deepEqual(FakeSocket.last.call('broker.watch').payload, ['*', { from: { epoch: 'f', revision: 1 } }]);
  await end();
});

// Jobs

test('a job is done when its callback returns, and has failed when that throws', async () => {
  const { client, notices, end } = await connected();
  let release;
  client.consume('q', { prefetch: 2, filter: { kind: 'x' } }, ({ payload }) => {
    if (payload === 'bad') throw new Error('no paper');
    return new Promise((resolve) => { release = resolve; });
  });
  const call = FakeSocket.last.answers('broker.consume', { consuming: ['q'] });
  assert.deepEqual(call.payload, ['q', { ack: true, prefetch: 2, filter: { kind: 'x' } }]);
  FakeSocket.last.gives(job('good'));
  FakeSocket.last.gives(job('bad'));
  await settle();
  assert.deepEqual(FakeSocket.last.call('broker.fail').payload, ['bad', { reason: 'no paper' }]);
  assert.equal(FakeSocket.last.call('broker.done'), undefined);
  release();
  await settle();
  assert.deepEqual(FakeSocket.last.call('broker.done').payload, ['good']);
  FakeSocket.last.refuses('broker.done', 'SocketErrorConnectionUnsupported|||socket:connection:unsupported:job:good|||');
  await settle();
  assert.deepEqual(notices.map(({ kind }) => kind).slice(-2), ['job-failed', 'job-lost']);
  await end();
});

test('a lease is extended until the job is settled, and a job that is lost is told', async () => {
  const { client, clock, kinds, end } = await connected({ pingInterval: 1000 });
  const items = client.consume('q');
  FakeSocket.last.answers('broker.consume', { consuming: ['q'] });
  FakeSocket.last.gives(job('j'));
  const { value } = await items.next();
  await clock.advance(15);
  assert.deepEqual(FakeSocket.last.answers('broker.extend', {}).payload, ['j', 30]);
  await clock.advance(15);
  FakeSocket.last.refuses('broker.extend', 'SocketErrorConnectionUnsupported|||socket:connection:unsupported:job:j|||');
  assert.equal(kinds().at(-1), 'job-lost');
  await clock.advance(100);
  assert.equal(FakeSocket.last.call('broker.extend'), undefined);
  value.done();
  await end();
});

test('jobs that were not begun go back when nobody consumes any more, and are dropped when they have gone back', async () => {
  const { client, clock, end } = await connected();
  const items = client.consume('q', { prefetch: 4 });
  FakeSocket.last.answers('broker.consume', { consuming: ['q'] });
  FakeSocket.last.gives(job('one'));
  await comesBack(clock);
  FakeSocket.last.answers('broker.consume', { consuming: ['q'] });
  assert.equal(items.unread.length, 0);
  FakeSocket.last.gives(job('two'));
  items.close();
  assert.deepEqual(FakeSocket.last.call('broker.release').payload, ['q', { not_begun: ['two'] }]);
  FakeSocket.last.gives(job('three')); // it was on its way
  assert.deepEqual(FakeSocket.last.call('broker.release').payload, ['q', { not_begun: ['three'] }]);
  assert.deepEqual(await items.next(), { value: undefined, done: true });
  await end();
});

test('the mailbox is asked for before anything else', async () => {
  const { client, end } = made({ name: 'me' });
  client.consume('@me', () => {});
  client.connect();
  await settle();
  FakeSocket.last.opens();
  assert.deepEqual(FakeSocket.last.frames.map(({ method }) => method), ['broker.consume', 'broker.whoami']);
  await end();
});

test('jobs that were not begun go back before the connection is closed', async () => {
  const { client, end } = await connected();
  client.consume('q', { prefetch: 4 });
  FakeSocket.last.answers('broker.consume', { consuming: ['q'] });
  FakeSocket.last.gives(job('one'));
  await end();
  assert.deepEqual(FakeSocket.last.frames.at(-1).payload, ['q', { not_begun: ['one'] }]);
  assert.equal(FakeSocket.last.closed, 1000);
});

test('a client with a name keeps the jobs that it has not begun, until nobody consumes any more', async () => {
  const { client, clock, end } = await connected({ name: 'me', pingInterval: 1000 });
  const items = client.consume('q', { prefetch: 4 });
  FakeSocket.last.answers('broker.consume', { consuming: ['q'] });
  FakeSocket.last.gives(job('one'));
  await comesBack(clock);
  assert.equal(items.unread.length, 1);
  FakeSocket.last.ends();
  items.close();
  assert.equal(items.unread.length, 0);
  await clock.advance(1);
  FakeSocket.last.greets();
  await clock.advance(60);
  assert.equal(FakeSocket.last.call('broker.extend'), undefined);
  await end();
});

test('only what the broker knows by a key is sent again', async () => {
  const { client, clock, end } = await connected();
  const asked = {
    live: client.publish('t', 1, { key: 'k' }), stored: client.publish('t', 1, { durable: true }),
    kept: client.publish('t', 1, { durable: true, key: 'k' }), job: client.enqueue('q', 1, { key: 'k' }),
    unknown: client.enqueue('q', 1), read: client.read('t'), set: client.set('k', 'v'),
  };
  await comesBack(clock);
  assert.deepEqual(FakeSocket.last.frames.slice(1).map(({ method }) => method), ['broker.publish', 'broker.enqueue', 'broker.read']);
  for (const name of ['live', 'stored', 'unknown', 'set']) assert.equal((await failure(asked[name])).code, 'CONNECTION_LOST');
  await end();
});

// Procedures

test('a procedure answers with its result, or with its error', async () => {
  const { client, end } = await connected({ maxMessageBytes: 5000 });
  client.serve('p', function (kind) {
    if (kind === 'coded') throw new txbroker.CallFailed('by zero', 'DivisionError');
    if (kind === 'plain') throw new TypeError('a|||b|');
    if (kind === 'long') throw new Error('x'.repeat(9999));
    return { none: undefined, large: 'x'.repeat(9999), caller: this.caller }[kind];
  }, { mode: 'roundrobin', max_in_flight: 3 });
  assert.deepEqual(FakeSocket.last.call('broker.register').payload, ['p', { mode: 'roundrobin', max_in_flight: 3 }]);
  const answers = async (...payload) => {
    FakeSocket.last.gives({ type: 'call', id: 'c', method: 'p', payload, sender: 'bob' });
    await settle();
    return FakeSocket.last.frames.at(-1);
  };
  assert.deepEqual(await answers('caller'), { type: 'result', id: 'c', payload: 'bob' });
  assert.deepEqual(await answers('none'), { type: 'result', id: 'c', payload: null });
  assert.deepEqual(await answers('coded'), { type: 'error', id: 'c', payload: 'DivisionError|||by zero|||' });
  assert.deepEqual(await answers('plain'), { type: 'error', id: 'c', payload: 'ResilientError|||ab|||' });
  assert.equal((await answers('long')).payload.length, 4096 + 'ResilientError|||'.length + 3);
  assert.match((await answers('large')).payload, /^ResilientError\|\|\|1\d+ bytes/);
  FakeSocket.last.gives({ type: 'call', id: 'd', method: 'gone', payload: [] });
  await settle();
  assert.equal(FakeSocket.last.frames.at(-1).type, 'error');
  assert.equal(client.stats().served, 6);
  await end();
});

test('a procedure learns that nobody waits any more, and then answers nothing', async () => {
  const { client, clock, end } = await connected();
  const reasons = [];
  client.serve('p', function () {
    return new Promise((resolve) => this.signal.addEventListener('abort', () => {
      reasons.push(this.signal.reason.code);
      resolve('late');
    }));
  });
  FakeSocket.last.gives({ type: 'call', id: 'c', method: 'p', payload: [] });
  FakeSocket.last.gives({ type: 'system', event: 'broker.cancel', id: 'c' });
  await settle();
  FakeSocket.last.gives({ type: 'call', id: 'd', method: 'p', payload: [] });
  await comesBack(clock);
  assert.deepEqual(reasons, ['CANCELLED', 'CANCELLED']);
  assert.deepEqual(FakeSocket.all.flatMap(({ frames }) => frames).filter(({ type }) => type === 'result'), []);
  await end();
});

test('a request is answered by as many responses as the handler yields', async () => {
  const { client, end } = await connected();
  client.respond('report', async function* ({ year }) {
    yield [year, 1];
    yield [year, 2];
  });
  client.respond('*', () => 'any');
  for (const action of ['report', 'else']) {
    FakeSocket.last.gives({ type: 'request', id: action, payload: { action, year: 9 }, sender: 'a' });
    await settle();
  }
  assert.deepEqual(FakeSocket.last.frames.filter(({ type }) => type === 'response'), [
    { type: 'response', id: 'report', payload: [9, 1] },
    { type: 'response', id: 'report', payload: [9, 2] },
    { type: 'response', id: 'else', payload: 'any' },
  ]);
  await end();
});

test('responses end by their number, by silence, by an error and by the loss of the connection', async () => {
  const { client, clock, end } = await connected({ pingInterval: 1000 });
  const asked = (options) => {
    const items = client.request({ action: 'a' }, options);
    const { id } = FakeSocket.last.frames.at(-1);
    return { items, id, gives: (payload) => FakeSocket.last.gives({ type: 'response', id, payload }) };
  };
  const two = asked({ replies: 2 });
  two.gives(1);
  two.gives(2);
  assert.deepEqual([(await two.items.next()).value, (await two.items.next()).value, (await two.items.next()).done], [1, 2, true]);
  const idle = asked({ idle: 3 });
  idle.gives(1);
  await clock.advance(3);
  assert.deepEqual([(await idle.items.next()).value, (await idle.items.next()).done], [1, true]);
  const none = asked({ timeout: 2 });
  await clock.advance(2);
  assert.ok(await failure(none.items.next()) instanceof txbroker.Timeout);
  const nobody = asked();
  nobody.gives({ error: 'SocketErrorConnectionUnsupported|||socket:connection:unsupported:request:a|||' });
  assert.ok(await failure(nobody.items.next()) instanceof txbroker.NotFound);
  const left = asked();
  await left.items.return();
  assert.deepEqual(FakeSocket.last.call('broker.cancel').payload, [left.id]);
  const lost = asked();
  FakeSocket.last.ends();
  assert.ok(await failure(lost.items.next()) instanceof txbroker.ConnectionLost);
  assert.ok(await failure(client.request({}).next()) instanceof txbroker.NotConnected);
  await end();
});

test('a request whose responses nobody reads ends, and so does its handler', async () => {
  const { client, end } = await connected({ maxUnread: 2 });
  const items = client.request({ action: 'a' });
  const { id } = FakeSocket.last.frames.at(-1);
  const gives = (payload) => FakeSocket.last.gives({ type: 'response', id, payload });
  for (let number = 0; number < 19; number++) gives(number);
  assert.equal(FakeSocket.last.call('broker.cancel'), undefined);
  gives(19);
  assert.deepEqual(FakeSocket.last.call('broker.cancel').payload, [id]);
  gives(20);
  for (let number = 0; number < 20; number++) assert.equal((await items.next()).value, number);
  assert.ok(await failure(items.next()) instanceof txbroker.Cancelled);
  await end();
});

// Errors and garbage

test('each error of the broker is of the class of its code', async () => {
  const cases = JSON.parse(process.env.ERRORS ?? '[]');
  const { client, end } = await connected();
  for (const [marshalled, code, name] of cases) {
    const outcome = failure(client.call('p'));
    FakeSocket.last.refuses('p', marshalled);
    const error = await outcome;
    assert.deepEqual([error.code, error.name, error.constructor === txbroker[name]], [code, name, true], marshalled);
    assert.ok(error instanceof txbroker.ClientError && error instanceof Error);
  }
  const { failed, timedOut, cancelled } = client.stats();
  assert.equal(failed + timedOut + cancelled, cases.length);
  await end();
});

test('a conflict tells what is there', async () => {
  const { client, end } = await connected();
  const outcome = failure(client.publish('t', 1, { durable: true, expect: 3 }));
  FakeSocket.last.refuses('broker.publish', 'SocketErrorMessage|||socket:message:conflict:17|||');
  assert.equal((await outcome).head, 17);
  await end();
});

test('frames that are none end nothing', async () => {
  const { client, end } = await connected();
  const strange = ['', '{', 'null', '[]', '7', '{"type":"result"}', '{"type":"event"}', '{"type":"system","event":"broker.gap"}',
    '{"type":"system","event":"broker.error"}', '{"type":"auth"}', '{"type":"response","id":"1"}', '{"type":"call"}'];
  for (const data of strange) FakeSocket.last.onmessage({ data });
  await settle();
  assert.equal(client.state, 'ready');
  await end();
});

test('a listener that fails ends nothing, and one that was taken away is not called', async (context) => {
  const said = context.mock.method(console, 'error', () => {});
  const { client, clock, end } = await connected();
  const found = [];
  const stop = client.on('lost', () => found.push('lost'));
  client.on('lost', () => { throw new Error('mine'); });
  await comesBack(clock);
  stop();
  await comesBack(clock);
  assert.deepEqual([found, said.mock.callCount()], [['lost'], 2]);
  await end();
});

test('a client that is closed when it is told of a loss stays closed', async () => {
  const { client, clock, kinds, end } = await connected();
  client.on('lost', () => client.close());
  FakeSocket.last.ends();
  assert.equal(client.state, 'stopped');
  assert.ok(kinds().includes('stopped'));
  await clock.advance(100);
  assert.equal(FakeSocket.all.length, 1);
  await end();
});
