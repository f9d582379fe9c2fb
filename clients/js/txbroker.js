// A client of txbroker over its native dialect, for browsers and Node 20 or later.  All times are in seconds.
//
//   import { Client } from 'http://localhost:8000/v1/client.js';
//   const client = new Client('ws://localhost:8000/v1/ws', { token: 'credential' });
//   await client.connect();
//   for await (const event of client.subscribe('news', { from: 'start' })) console.log(event.id, event.payload);

const DEFAULTS = {
  name: '', token: undefined, WebSocket: undefined, timeout: 30, lateWindow: 60, wait: true, firstWait: 0.2,
  maxWait: 30, maxAttempts: Infinity, connectTimeout: 10, pingInterval: 20, pingTimeout: 10, closeTimeout: 3,
  maxBuffered: 10_000, maxBufferedBytes: 16 << 20, maxMessageBytes: 1 << 20, maxUnread: 1000, rate: null,
  resendWindow: 240, random: Math.random, clock: {
    now: () => performance.now() / 1000,
    after: (seconds, work) => setTimeout(work, Math.min(seconds * 1000, 2 ** 31 - 1)),
    cancel: (timer) => clearTimeout(timer),
  },
};
const BAD_CREDENTIAL = [1008, 4001, 4003, 401]; // close codes, and a status of the handshake
const MAX_REFUSALS = 5; // of credentials in a row
const STABLE = 1; // seconds that a connection lasts at least, to count as a success
const HELD_WHILE_AWAY = 5; // seconds for which the broker keeps the jobs of a client with a name

// Errors

export class ClientError extends Error {
  static code = 'INTERNAL';
  static done = false;
  constructor(message = '', fields = {}) {
    super(message || new.target.code.toLowerCase().replaceAll('_', ' '));
    Object.assign(this, { name: new.target.name, code: new.target.code, done: new.target.done }, fields);
  }
}
const kind = (name, code, done = false) => ({
  [name]: class extends ClientError { static code = code; static done = done; },
})[name];
export const NotFound = kind('NotFound', 'NOT_FOUND');
export const Timeout = kind('Timeout', 'TIMEOUT', true);
export const Gone = kind('Gone', 'GONE', true);
export const Taken = kind('Taken', 'TAKEN');
export const Unauthenticated = kind('Unauthenticated', 'UNAUTHENTICATED');
export const Denied = kind('Denied', 'DENIED');
export const Invalid = kind('Invalid', 'INVALID');
export const TooLarge = kind('TooLarge', 'TOO_LARGE');
export const RateLimited = kind('RateLimited', 'RATE_LIMITED');
export const Unavailable = kind('Unavailable', 'UNAVAILABLE', true);
export const Busy = kind('Busy', 'BUSY');
export const Cancelled = kind('Cancelled', 'CANCELLED', true);
export const Conflict = kind('Conflict', 'CONFLICT');
export const NotConnected = kind('NotConnected', 'NOT_CONNECTED');
export const ConnectionLost = kind('ConnectionLost', 'CONNECTION_LOST', true);
export const BufferFull = kind('BufferFull', 'BUFFER_FULL');
export const Closed = kind('Closed', 'CLOSED', true);
// An error of the callee's own, and what a procedure throws to have a code.
export class CallFailed extends ClientError {
  constructor(message, code = 'ResilientError') { super(message, { code }); }
}

const LARGE = 'frame|presence|events|exclude|topics|value|snapshot|names|payload|message';
const MARSHALLED = Object.entries({
  [`SocketErrorMessage.{3}socket:message:limit:(${LARGE})$`]: TooLarge,
  'SocketErrorConnectionUnsupported\\|': NotFound,
  'SocketErrorConnectionUnauthorized\\|': Unauthenticated,
  'SocketErrorConnection\\|': Gone,
  'SocketErrorTimeout\\|': Timeout,
  'ForbiddenAuthorizationError\\|': Denied,
  'SocketErrorMessageMalformed\\|': Invalid,
  'SocketErrorMessage.{3}socket:message:exists:': Taken,
  'SocketErrorMessage.{3}socket:message:conflict:': Conflict,
  'SocketErrorMessage.{3}socket:message:busy:': Busy,
  'SocketErrorMessage.{3}socket:message:cancelled:': Cancelled,
  'SocketErrorMessage.{3}socket:message:limit:': RateLimited,
  'AuthManagerError(AuthenFailed|Unsupported)?\\|': Unauthenticated,
  'SocketError.{3}socket:internal': Unavailable,
}).map(([pattern, type]) => [new RegExp(`^${pattern}`), type]);

function errorOf(marshalled) {
  const [type, message = type, ...more] = String(marshalled).split('|||');
  const found = MARSHALLED.find(([pattern]) => pattern.test(`${type}|||${message}`))?.[1];
  if (!found) return new CallFailed(message, more.length || message !== type ? type : undefined);
  const head = found === Conflict && /:(\d+)$/.exec(message);
  return new found(message, head ? { head: Number(head[1]) } : found === RateLimited ? { retryAfter: 1 } : {});
}
const isRate = (error) => error instanceof RateLimited && error.message.endsWith(':limit:rate');
const marshalled = (error) => {
  const code = error instanceof CallFailed && /^[\p{L}_]\w*$/u.test(error.code) ? error.code : 'ResilientError';
  return `${code}|||${(error?.message || String(error)).replaceAll('|||', '').replace(/\|+$/, '')}|||`;
};

// Helpers

const quiet = (promise) => (promise.catch(() => {}), promise); // who does not look at it is not told by the process
const bytesOf = (text) => new TextEncoder().encode(text).length;
const fromBase64 = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const payloadOf = (frame) => (frame.encoding === 'base64' ? fromBase64(frame.payload) : frame.payload);
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const given = (options) => Object.fromEntries(
  Object.entries(options).flatMap(([name, value]) => (value === undefined || value === null ? [] : [[snake(name), value]])),
);
const argumentsOf = (first, options) => {
  const last = given(options);
  return Object.keys(last).length ? [...first, last] : first;
};
// What stands on the wire for a payload: bytes are text there.
function bodyOf(payload) {
  if (!(payload instanceof ArrayBuffer || ArrayBuffer.isView(payload))) return { payload };
  const bytes = new Uint8Array(payload.buffer ?? payload, payload.byteOffset ?? 0, payload.byteLength);
  return { payload: btoa(Array.from(bytes, (each) => String.fromCharCode(each)).join('')), encoding: 'base64' };
}
const both = (one = {}, other = {}) => (typeof one === 'function' ? [other, one] : [one, typeof other === 'function' && other]);
const isPattern = (name) => /(^|\.)(\*\.|>$)|\*$/.test(name);
function matches(pattern, name) {
  const exact = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
  const parts = pattern.split('.').map((token, index, { length }) => {
    if (token === '*') return '[^.]+';
    if (index < length - 1 || !/[*>]$/.test(token)) return exact(token);
    return token === '>' ? '.+' : `${exact(token.slice(0, -1))}.*`;
  });
  return new RegExp(`^${parts.join('\\.')}$`, 's').test(name);
}
function deferred() {
  const made = {};
  made.promise = quiet(new Promise((resolve, reject) => Object.assign(made, { resolve, reject })));
  return made;
}

// How fast a client asks: additive increase, and half of it after a refusal.
class Throttle {
  #now; #learnt = null; #refused = 0; #tokens = 1; #blocked = 0; #count = 0;
  constructor(limit, now) { Object.assign(this, { limit }); this.#now = now; }

  get rate() {
    const rates = [this.limit, this.#learnt].filter((each) => each !== null && each !== undefined);
    return rates.length ? Math.min(...rates) : null;
  }

  acquire(now) {
    this.#advance(now);
    if (this.rate !== null) {
      if (now < this.#blocked || this.#tokens < 1) return false;
      this.#tokens -= 1;
    }
    this.#count += 1;
    return true;
  }

  next(now) {
    this.#advance(now);
    const wait = this.rate === null ? 0 : Math.max(0, 1 - this.#tokens) / this.rate;
    return Math.max(this.#blocked - now, wait);
  }

  refused(now, retryAfter) {
    this.#advance(now);
    if (now < this.#blocked) return; // one of those that had been sent before that was known
    this.#refused = this.rate ?? Math.max(1, this.#count * 0.7);
    this.#learnt = Math.max(1, this.#refused / 2);
    this.#tokens = 0;
    this.#blocked = now + retryAfter;
  }

  #advance(now) {
    const passed = Math.max(0, now - this.#now);
    this.#now = now;
    this.#count *= 0.5 ** Math.min(passed, 60); // of those that passed lately
    const open = Math.min(passed, now - this.#blocked);
    if (this.#learnt !== null && open > 0) {
      this.#learnt += this.#refused * 0.1 * open;
      if (this.#learnt >= this.#refused * 4) this.#learnt = null;
    }
    const { rate } = this;
    this.#tokens = rate === null ? 1 : Math.min(Math.max(2, rate / 10), this.#tokens + rate * passed);
  }
}

// What comes one after the other; to leave a `for await` closes it.
class Items {
  gaps = [];
  _ended = false;
  #items = []; #waiters = []; #error; #limit; #wasFull = false;
  constructor(limit, close, drained = () => {}) { this.#limit = limit; Object.assign(this, { close, _drained: drained }); }

  get length() { return this.#items.length; }
  get _full() { return this.#items.length >= this.#limit; }
  [Symbol.asyncIterator]() { return this; }

  next() {
    if (this.#items.length) return Promise.resolve({ value: this._pop(), done: false });
    if (this._ended) return this.#error ? quiet(Promise.reject(this.#error)) : Promise.resolve({ value: undefined, done: true });
    const waiter = deferred();
    this.#waiters.push(waiter);
    return waiter.promise;
  }

  return(value) {
    this.close();
    return Promise.resolve({ value, done: true });
  }

  _push(value) {
    if (this._ended) return;
    if (this.#waiters.length) return void this.#waiters.shift().resolve({ value, done: false });
    this.#items.push(value);
    this.#wasFull ||= this._full;
  }

  _pop() {
    const item = this.#items.shift();
    if (this.#wasFull && this.#items.length * 2 <= this.#limit) {
      this.#wasFull = false;
      this._drained();
    }
    return item;
  }

  _clear() { return this.#items.splice(0); }

  _end(error) {
    if (this._ended) return;
    this._ended = true;
    this.#error = error;
    for (const waiter of this.#waiters.splice(0)) error ? waiter.reject(error) : waiter.resolve({ value: undefined, done: true });
  }
}

// What a client is registered for, which is made again with each connection.
class Registration {
  active = false; ended = false; ready = deferred();
  #asked = 0; #failures = 0; #timer; #wasReady = false;
  constructor(core, name, options) { Object.assign(this, { core, name, options }); }

  get key() { return `${this.constructor.undo} ${this.name}`; }
  arguments() { return argumentsOf([this.name], this.options); }
  answered() {}
  onEnd() {}
  onLost() {}

  begin() {
    this.core.clock.cancel(this.#timer);
    const asked = ++this.#asked;
    this.core.control(this.constructor.method, this.arguments(), (error, result) => {
      if (asked === this.#asked) error ? this.#failed(error) : this.#succeeded(result);
    });
  }

  lost() {
    this.pause(false);
    this.onLost();
  }

  pause(undo = true) {
    this.core.clock.cancel(this.#timer);
    this.#asked += 1;
    this.active = false;
    if (undo && this.core.isReady) this.core.control(this.constructor.undo, [this.name]);
  }

  close() {
    if (!this.ended) this.pause();
    this.end();
  }

  end(error) {
    if (this.ended) return;
    this.pause(false);
    this.ended = true;
    this.core.forget(this);
    this.ready.reject(error ?? new Closed());
    this.onEnd(error);
  }

  #succeeded(result) {
    this.active = this.#wasReady = true;
    this.#failures = 0;
    this.ready.resolve(this.answered(result));
    this.core.settle();
  }

  #failed(error) {
    const { core } = this;
    // If it was in place before, who has its name now may be a connection that is dead.
    const kinds = this.#wasReady ? [Timeout, Unavailable, Taken, RateLimited] : [Timeout, Unavailable];
    core.notify('registration-failed', { reason: this.key, error });
    if (this.ended) return;
    if (!isRate(error) && !kinds.some((type) => error instanceof type)) return void this.end(error);
    const delay = Math.min(10, 0.5 * 2 ** Math.min(this.#failures++, 10)) * (0.5 + core.options.random() / 2);
    this.#timer = core.clock.after(delay, () => this.begin());
  }
}

// A registration that brings items, and pauses while the application does not read them.
class Source extends Registration {
  #paused = false;
  constructor(core, name, options, limit = core.options.maxUnread) {
    super(core, name, options);
    this.items = new Items(limit, () => this.close(), () => this.#resume());
    this.items.ready = this.ready.promise;
  }

  begin() { if (!this.#paused) super.begin(); }
  onEnd(error) { this.items._end(error); }

  overflow() {
    this.#paused = true;
    this.pause();
  }

  #resume() {
    if (!this.#paused || this.ended) return;
    this.#paused = false;
    if (this.core.isReady) this.begin();
  }
}

class Subscription extends Source {
  static method = 'broker.subscribe'; static undo = 'broker.unsubscribe';
  #positions = {}; #begun = false;
  constructor(core, name, options) {
    super(core, name, options);
    this.resumes = (options.from ?? options.cursor ?? '') !== '';
    this.isPattern = !options.exact && isPattern(name);
    Object.defineProperty(this.items, 'position', { get: () => this.#positions[name] });
  }

  arguments() {
    const { last, ...options } = this.options;
    if (!this.#begun) return argumentsOf([this.name], this.options);
    const found = this.isPattern ? this.#positions : this.#positions[this.name];
    if (this.resumes && found && Object.keys(found).length) options.from = found;
    return argumentsOf([this.name], options);
  }

  answered(start) {
    this.#begun = true;
    if (this.resumes) Object.assign(this.#positions, start.positions ?? { [this.name]: { epoch: start.epoch, id: start.id } });
    for (const lost of [start.lost ?? []].flat()) this.onGap({ topic: this.name, ...lost });
    return start;
  }

  onEvent(frame) {
    if (!this.active) return;
    const topic = frame.topic || this.name;
    const id = frame.epoch && Number.isInteger(frame.id) ? frame.id : 0;
    const position = id ? { epoch: frame.epoch, id } : null;
    if (id && this.resumes) {
      const known = Object.hasOwn(this.#positions, topic) && this.#positions[topic];
      if (known && known.epoch === frame.epoch && id <= known.id) return void (this.core.counts.duplicates += 1);
      this.#positions[topic] = position;
    }
    this.core.counts.events += 1;
    this.items._push({
      topic, name: frame.name || topic, payload: payloadOf(frame), sender: frame.sender ?? '', time: frame.dt ?? 0, id,
      epoch: id ? frame.epoch : '', position, cursor: frame.cursor ?? '', contentType: frame.content_type ?? '',
    });
    if (!this.items._full) return;
    if (this.resumes) this.overflow();
    else if (this.items.length > this.core.options.maxUnread) {
      this.items._pop();
      this.onGap({ topic, why: 'slow', count: 1 });
    }
  }

  covers(topic) { return topic === this.name || (this.isPattern && matches(this.name, topic)); }

  onGap(gap) {
    this.items.gaps = [...this.items.gaps.slice(-99), gap];
    this.core.notify('gap', { reason: gap.why, gap });
  }
}

class Watch extends Source {
  static method = 'broker.watch'; static undo = 'broker.unwatch';
  #epoch = ''; #revision = 0; #known = new Map();

  arguments() {
    const from = this.#epoch ? { epoch: this.#epoch, revision: this.#revision } : undefined;
    return argumentsOf([this.name], { ...this.options, from });
  }

  answered({ epoch, snapshot, entries, revision }) {
    const same = epoch === this.#epoch;
    this.#epoch = epoch;
    if (!snapshot) return;
    const before = same ? new Map(this.#known) : new Map();
    const present = new Set(entries.map(({ key }) => key));
    for (const key of [...this.#known.keys()].sort()) {
      if (!present.has(key)) this.#push({ key, value: null, revision: 0, kind: 'missed', time: 0 });
    }
    for (const entry of entries) {
      const known = before.get(entry.key) ?? 0;
      this.#known.set(entry.key, entry.revision);
      if (known < entry.revision) this.#push({ ...entry, kind: 'present', time: 0 });
    }
    this.#revision = revision;
  }

  onEvent({ name, payload: { key, value, revision = 0, previous, timestamp: time = 0 } }) {
    if (!this.active) return;
    if (revision && revision <= (this.#known.get(key) ?? 0)) return void (this.core.counts.duplicates += 1);
    this.#revision = Math.max(this.#revision, revision);
    this.#push({ key, value: value ?? null, revision, kind: name, ...(previous === undefined ? {} : { previous }), time });
    if (this.items._full) this.overflow();
  }

  covers(topic) { return topic === `kv/${this.name}`; }

  onGap(gap) {
    this.core.notify('gap', { reason: gap.why, gap });
    this.active = false;
    this.begin();
  }

  #push(change) {
    if (change.value === null) this.#known.delete(change.key);
    else this.#known.set(change.key, change.revision);
    this.core.counts.events += 1;
    this.items._push(change);
  }
}

class Consumer extends Source {
  static method = 'broker.consume'; static undo = 'broker.release';
  #lostAt = 0;

  answered() {
    if (this.#lostAt && this.core.clock.now() - this.#lostAt > HELD_WHILE_AWAY) this.#dropUnbegun();
    this.#lostAt = 0;
  }

  onLost() {
    this.#lostAt ||= this.core.clock.now();
    if (!this.core.options.name || this.name === '@me') this.#dropUnbegun();
  }

  onJob(frame) {
    this.core.counts.jobs += 1;
    this.items._push(new Job(this.core, frame));
  }

  onEnd(error) {
    for (const job of this.#dropUnbegun()) {
      if (this.core.isReady) this.core.control('broker.fail', [job.id, { delay: 0, reason: 'not begun' }]);
    }
    super.onEnd(error);
  }

  #dropUnbegun() {
    const jobs = this.items._clear();
    for (const job of jobs) job._stop();
    return jobs;
  }
}

class Job {
  settled = false;
  #core; #timer;
  constructor(core, { id, queue, payload, delivery = 1, lease = 30, ref = '', sender = '', dt: time = 0 }) {
    Object.assign(this, { id, queue, payload, delivery, lease, ref, sender, time });
    this.#core = core;
    core.jobs.add(this);
    this.#extendLater();
  }

  done() { return this.#settle('broker.done', [this.id]); }
  fail(reason, delay) { return this.#settle('broker.fail', argumentsOf([this.id], { reason: reason || null, delay })); }
  extend(seconds) { return this.#core.ask('broker.extend', [this.id, seconds], { again: true, read: () => {} }); }

  // It is done when what `work` returns is, and has failed when that throws.
  async run(work) {
    let failure;
    try {
      await work(this);
    } catch (error) {
      failure = error ?? new Error('failed');
      this.#core.notify('job-failed', { reason: `${this.queue} ${this.id}`, error: failure });
    }
    if (this.settled) return;
    await (failure ? this.fail(failure.message || String(failure)) : this.done()).catch((error) => this.#lost(error));
  }

  _stop() {
    this.#core.clock.cancel(this.#timer);
    this.#core.jobs.delete(this);
  }

  #settle(method, values) {
    this.settled = true;
    this._stop();
    // Within the lease, or who else gets it says what has become of it.
    return this.#core.ask(method, values, { again: true, timeout: Math.max(this.lease, 1), read: () => {} });
  }

  #extendLater() {
    this.#timer = this.#core.clock.after(this.lease / 2, () => {
      if (this.#core.isReady) {
        this.#core.control('broker.extend', [this.id, this.lease], (error) => {
          if (!(error instanceof NotFound) || this.settled) return;
          this._stop();
          this.#lost(error);
        });
      }
      this.#extendLater();
    });
  }

  #lost(error) { this.#core.notify('job-lost', { reason: `${this.queue} ${this.id}`, error }); }
}

class Procedure extends Registration {
  static method = 'broker.register'; static undo = 'broker.unregister';
}

class Responder extends Registration {
  static method = 'broker.acknowledge'; static undo = 'broker.unacknowledge';
}

// The states of a connection, and who gets each frame.
class Core {
  state = 'idle'; identity = null; final = null; jobs = new Set(); listeners = new Map(); registrations = new Map();
  counts = {
    connections: 0, losses: 0, started: 0, succeeded: 0, failed: 0, timedOut: 0, cancelled: 0, resent: 0, late: 0,
    events: 0, duplicates: 0, jobs: 0, served: 0, rateLimited: 0,
  };
  sent = new Map(); controls = new Map(); late = new Map(); outbox = new Map(); requests = new Map(); running = new Map();
  size = 0; #number = 0; #attempts = 0; #refusals = 0; #readyAt = 0; #heardAt = 0; #asked = false;
  #timer; #pingTimer; #flushTimer; #socket; #problem; #auths = []; #starts = []; #settles = []; #ended = deferred();

  constructor(url, options) {
    for (const name of Object.keys(options)) if (!(name in DEFAULTS)) throw new Invalid(`there is no option ${name}`);
    this.options = { ...DEFAULTS, ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) };
    this.clock = this.options.clock;
    this.WebSocket = this.options.WebSocket ?? globalThis.WebSocket;
    if (!this.WebSocket) {
      throw new Invalid('there is no WebSocket here: use Node 22 or later, or `npm install ws` and give the option WebSocket');
    }
    try {
      this.url = new URL(url ?? '/v1/ws', globalThis.location?.href);
    } catch {
      throw new Invalid(`no URL: ${url}`);
    }
    this.url.protocol = this.url.protocol.replace('http', 'ws');
    if (this.options.name) this.url.searchParams.set('client', this.options.name);
    this.throttle = new Throttle(this.options.rate, this.clock.now());
  }

  get isReady() { return this.state === 'ready'; }
  get isOpen() { return this.isReady || this.state === 'greeting'; }

  notify(kind, fields = {}) {
    const notice = { kind, reason: '', code: 0, delay: 0, ...fields };
    const listeners = [...this.listeners.get(kind) ?? [], ...this.listeners.get('*') ?? []];
    if (kind === 'error' && !listeners.length) console.error('txbroker:', notice.reason, notice.error);
    for (const listener of listeners) {
      try {
        listener(notice);
      } catch (error) {
        console.error(`txbroker: a listener for ${kind} has failed`, error);
      }
    }
  }

  // The connection

  start() {
    const start = deferred();
    if (this.final) start.reject(this.final);
    else if (this.isReady) start.resolve(this.identity);
    else this.#starts.push(start);
    if (this.state === 'idle') {
      globalThis.addEventListener?.('online', this.#look);
      globalThis.addEventListener?.('pageshow', this.#look);
      globalThis.document?.addEventListener('visibilitychange', this.#look);
      this.#connect();
    }
    return start.promise;
  }

  // The network is back, or the page is looked at, whose timers may have slept.
  #look = () => {
    if (globalThis.document?.visibilityState === 'hidden') return;
    if (this.state === 'waiting') this.#connect();
    else if (this.isReady) this.#ping();
  };

  async #connect() {
    this.#setState('connecting', this.options.connectTimeout, () => this.#drop('not ready in time'));
    const timer = this.#timer; // of this attempt
    this.notify('connecting');
    let { token } = this.options;
    try {
      if (typeof token === 'function') token = await token();
    } catch (error) {
      this.notify('auth-failed', { reason: 'no credential', error });
      if (timer === this.#timer) this.#disconnected(1006, `no credential: ${error?.message}`);
      return;
    }
    if (timer !== this.#timer || this.state !== 'connecting') return;
    const socket = new this.WebSocket(this.url.href);
    const on = (name, work) => { socket[`on${name}`] = (event) => socket === this.#socket && work(event); };
    this.#socket = socket;
    this.#problem = '';
    on('open', () => this.#opened(token));
    on('message', ({ data }) => this.#received(data));
    on('error', ({ message }) => { this.#problem = message ?? ''; });
    on('close', ({ code, reason }) => this.#closed(code, reason));
  }

  #setState(state, seconds, work) {
    this.clock.cancel(this.#timer);
    this.state = state;
    this.#timer = this.clock.after(seconds, work);
  }

  #opened(token) {
    this.state = 'greeting';
    this.#heardAt = this.clock.now();
    if (!token) return void this.#hello();
    this.#authenticate(token, (error) => {
      if (!error) this.#hello();
      else if (/:limit$/.test(error.message)) this.#drop(error.message);
      else this.#drop(error.message, 1008);
    });
  }

  #hello() {
    this.registrations.get('broker.release @me')?.begin(); // as the first it holds for what waits already
    this.control('broker.whoami', [], (error, identity) => {
      if (!error) this.#greeted(identity);
      else if (this.state === 'greeting') this.#drop(error.message, error instanceof Unauthenticated ? 1008 : 1006);
    });
  }

  #greeted(identity) {
    this.clock.cancel(this.#timer);
    Object.assign(this, { identity, state: 'ready' });
    this.#readyAt = this.clock.now();
    this.#refusals = 0;
    this.counts.connections += 1;
    this.#pingLater();
    this.notify('ready', { reason: identity.id });
    for (const registration of this.registrations.values()) if (!registration.active) registration.begin();
    this.flush();
    for (const start of this.#starts.splice(0)) start.resolve(identity);
    this.settle();
  }

  #pingLater() {
    const { pingInterval } = this.options;
    this.#pingTimer = this.clock.after(Math.max(0, this.#heardAt + pingInterval - this.clock.now()), () => {
      if (this.clock.now() - this.#heardAt < pingInterval) this.#pingLater();
      else this.#ping();
    });
  }

  #ping() {
    this.clock.cancel(this.#pingTimer);
    this.#asked = true;
    this.send({ type: 'ping' });
    this.#pingTimer = this.clock.after(this.options.pingTimeout, () => {
      if (this.#asked) this.#drop('the broker is silent');
      else this.#pingLater();
    });
  }

  #abandon(terminate = true) {
    const socket = this.#socket;
    this.#socket = null;
    if (terminate && socket?.terminate) socket.terminate(); // of the package ws: it waits for nobody
    else socket?.close();
  }

  #drop(reason, code = 1006) {
    this.#abandon();
    this.#disconnected(code, reason);
  }

  #closed(code, reason) {
    const status = Number(/response: (\d{3})$/.exec(this.#problem)?.[1] ?? 0); // of ws; browsers do not tell it
    const never = this.state === 'connecting' && globalThis.document && 'not reached, or TXBROKER_ALLOWED_ORIGINS lacks this page';
    this.#socket = null;
    this.#disconnected(status || code, reason || this.#problem || never || '');
  }

  #disconnected(code, reason) {
    if (this.state === 'closing') return void this.#stop();
    const refused = BAD_CREDENTIAL.includes(code);
    const type = refused ? Unauthenticated : { 400: Invalid, 403: Denied }[code] ?? (code >= 3500 && code < 4000 && Closed);
    if (code === 1009) this.#giveUpLargest(reason);
    this.#lose(code, reason);
    if (this.final) return;
    const error = type && new type(`${code} ${reason}`.trim());
    if (refused) {
      this.notify('auth-failed', { reason, code, error });
      this.#refusals += 1;
    }
    if (type && !(refused && typeof this.options.token === 'function' && this.#refusals < MAX_REFUSALS)) return void this.#stop(error);
    this.#wait(code, reason);
  }

  #lose(code, reason) {
    const wasReady = this.isReady;
    this.state = 'waiting';
    this.#cancelTimers();
    if (wasReady) {
      this.counts.losses += 1;
      if (this.clock.now() - this.#readyAt >= STABLE) this.#attempts = 0;
    }
    const error = new ConnectionLost(reason);
    for (const registration of [...this.registrations.values()]) registration.lost();
    this.#endConnection(error);
    const oldest = this.clock.now() - this.options.resendWindow;
    const again = [...this.sent.values()].filter((each) => each.again && each.sentAt >= oldest);
    const ended = [...this.sent.values(), ...this.controls.values()].filter((each) => !again.includes(each));
    this.sent.clear();
    this.controls.clear();
    this.#putBack(again);
    for (const operation of ended) operation.end(error);
    if (wasReady) this.notify('lost', { reason, code });
  }

  #wait(code, reason) {
    if (this.final) return; // the application has closed it when it was told
    const { firstWait, maxWait, maxAttempts, random } = this.options;
    if (this.#attempts >= maxAttempts) return void this.#stop(new NotConnected(reason));
    const delay = Math.min(maxWait, firstWait * 2 ** Math.min(this.#attempts++, 60)) * random();
    this.#setState('waiting', delay, () => this.#connect());
    this.notify('waiting', { reason, code, delay });
  }

  close() {
    if (this.isOpen) {
      this.#finish(new Closed());
      this.#setState('closing', this.options.closeTimeout, () => this.#stop());
      this.#socket.close(1000);
    } else if (this.state !== 'closing') this.#stop();
    return this.#ended.promise;
  }

  #stop(error) {
    if (this.state === 'stopped') return;
    this.#abandon();
    this.#finish(error ?? new Closed());
    this.state = 'stopped';
    this.notify('stopped', { reason: error?.message ?? '', error });
    this.#ended.resolve();
  }

  // Ends everything that is under way.
  #finish(error) {
    this.#cancelTimers();
    this.final ??= error;
    globalThis.removeEventListener?.('online', this.#look);
    globalThis.removeEventListener?.('pageshow', this.#look);
    globalThis.document?.removeEventListener('visibilitychange', this.#look);
    for (const registration of [...this.registrations.values()]) registration.end(error instanceof Closed && error.message === 'closed' ? undefined : error);
    for (const job of this.jobs) job._stop();
    this.#endConnection(error);
    for (const each of [...this.#starts.splice(0), ...this.#settles.splice(0)]) each.reject(error);
    for (const table of [this.sent, this.controls, this.outbox, this.late]) for (const operation of [...table.values()]) operation.end(error);
  }

  #endConnection(error) {
    for (const { controller } of this.running.values()) controller.abort(new Cancelled());
    this.running.clear();
    for (const request of [...this.requests.values()]) request.end(error);
    for (const end of this.#auths.splice(0)) end(error);
  }

  #cancelTimers() {
    for (const timer of [this.#timer, this.#pingTimer, this.#flushTimer]) this.clock.cancel(timer);
    this.#timer = this.#pingTimer = this.#flushTimer = undefined;
  }

  // Operations

  newId() { return String(++this.#number); }

  send(frame) {
    if (this.isOpen && this.#socket) this.#socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  // Calls `method` for the client itself, now; `end` is called before any later frame is looked at.
  control(method, payload, end = () => {}) {
    const id = this.newId();
    const { timeout } = this.options;
    if (!this.isOpen) return void end(new NotConnected());
    const operation = { id, control: true };
    operation.timer = this.clock.after(timeout, () => operation.end(new Timeout()));
    operation.end = (error, value) => {
      this.clock.cancel(operation.timer);
      if (this.controls.delete(id) || error) end(error, value);
    };
    this.controls.set(id, operation);
    this.send({ type: 'call', id, method, timeout: timeout * 1000, payload });
  }

  // Calls `method`; `again`: it may be sent again after a loss.
  ask(method, payload, { again = false, read = (value) => value, timeout, wait, recipient, onLate, signal } = {}) {
    const { options, counts } = this;
    const seconds = timeout ?? options.timeout;
    const id = this.newId();
    const outcome = deferred();
    counts.started += 1;
    const operation = {
      id, again, seconds, onLate, read, isRemote: !method.startsWith('broker.'), wait: wait ?? options.wait, ended: false,
      end: (error, value) => {
        this.clock.cancel(operation.timer);
        for (const table of [this.sent, this.late]) table.delete(id);
        this.#unbuffer(operation);
        if (operation.ended) return;
        signal?.removeEventListener('abort', operation.cancel);
        operation.ended = true;
        if (!error) {
          try {
            value = read(value);
          } catch (problem) {
            error = new ClientError(`an answer can not be read: ${problem.message}`);
          }
        }
        counts[!error ? 'succeeded' : error instanceof Timeout ? 'timedOut' : error instanceof Cancelled ? 'cancelled' : 'failed'] += 1;
        error ? outcome.reject(error) : outcome.resolve(value);
      },
      cancel: () => {
        if (this.sent.has(id) && operation.isRemote && this.isReady) this.control('broker.cancel', [id]);
        operation.end(new Cancelled('', { cause: signal.reason }));
      },
    };
    try {
      if (!(seconds >= 0)) throw new Invalid(`timeout is a number of seconds, not ${seconds}`);
      const told = Math.ceil((seconds && onLate ? seconds + options.lateWindow : seconds) * 1000);
      operation.data = JSON.stringify({ type: 'call', id, method, timeout: told, recipient: recipient || undefined, payload });
      operation.bytes = bytesOf(operation.data);
      this.#submit(operation, signal);
    } catch (error) {
      operation.end(error instanceof ClientError ? error : new Invalid(`not JSON: ${error.message}`));
    }
    return outcome.promise;
  }

  #submit(operation, signal) {
    if (this.final) throw this.final;
    if (operation.bytes > this.options.maxMessageBytes) throw new TooLarge(`${operation.bytes} bytes`);
    if (signal?.aborted) throw new Cancelled('', { cause: signal.reason });
    if (!this.isReady && !operation.wait) throw new NotConnected();
    const { maxBuffered, maxBufferedBytes } = this.options;
    const now = this.isReady && !this.outbox.size && this.#mayPass();
    if (!now && (this.outbox.size >= maxBuffered || this.size + operation.bytes > maxBufferedBytes)) throw new BufferFull();
    signal?.addEventListener('abort', operation.cancel);
    if (operation.seconds) operation.timer = this.clock.after(operation.seconds, () => this.#timeOut(operation));
    if (now) return void this.#transmit(operation);
    this.outbox.set(operation.id, operation);
    this.size += operation.bytes;
    this.#flushLater();
  }

  #mayPass() {
    return !(this.#socket.bufferedAmount > this.options.maxBufferedBytes) && this.throttle.acquire(this.clock.now());
  }

  #transmit(operation) {
    if (operation.sentAt === undefined) operation.sentAt = this.clock.now();
    else this.counts.resent += 1;
    this.sent.set(operation.id, operation);
    this.send(operation.data);
  }

  #unbuffer(operation) {
    if (this.outbox.delete(operation.id)) this.size -= operation.bytes;
  }

  // What had been sent waits before all others; it has had its room.
  #putBack(operations) {
    if (!operations.length) return;
    this.outbox = new Map([...operations.map((each) => [each.id, each]), ...this.outbox]);
    for (const each of operations) this.size += each.bytes;
  }

  flush() {
    this.clock.cancel(this.#flushTimer);
    this.#flushTimer = undefined;
    while (this.isReady && this.outbox.size) {
      if (!this.#mayPass()) return void this.#flushLater();
      const [operation] = this.outbox.values();
      this.#unbuffer(operation);
      this.#transmit(operation);
    }
  }

  #flushLater() {
    if (!this.isReady || this.#flushTimer !== undefined) return;
    this.#flushTimer = this.clock.after(Math.max(0.005, this.throttle.next(this.clock.now())), () => this.flush());
  }

  #timeOut(operation) {
    const wasSent = this.sent.has(operation.id);
    operation.end(new Timeout());
    if (!wasSent || !operation.onLate) return;
    this.late.set(operation.id, operation);
    operation.timer = this.clock.after(this.options.lateWindow, () => this.late.delete(operation.id));
  }

  // It is what was too big, and would be again and again.
  #giveUpLargest(reason) {
    const largest = [...this.sent.values()].sort((one, other) => other.bytes - one.bytes)[0];
    largest?.end(new TooLarge(reason));
  }

  #onAnswer({ id, type, payload }) {
    const error = type === 'error' ? errorOf(payload) : undefined;
    const operation = this.controls.get(id) ?? this.sent.get(id);
    if (!operation) return void this.#onLate(id, error, payload);
    if (!isRate(error)) return void operation.end(error, payload);
    this.counts.rateLimited += 1;
    this.throttle.refused(this.clock.now(), error.retryAfter);
    this.notify('rate-limited', { reason: error.message, delay: error.retryAfter });
    if (operation.control || !operation.again || !operation.wait) return void operation.end(error);
    operation.sentAt = undefined;
    this.sent.delete(id);
    this.#putBack([operation]);
    this.#flushLater();
  }

  #onLate(id, error, payload) {
    const operation = this.late.get(id);
    if (!operation) return;
    operation.end();
    this.counts.late += 1;
    if (!error) operation.onLate(operation.read(payload));
  }

  #authenticate(token, end) {
    this.#auths.push(end);
    this.send({ type: 'auth', stage: 'authenticate', payload: { token } });
  }

  refresh(token) {
    const outcome = deferred();
    if (!this.isReady) outcome.reject(this.final ?? new NotConnected());
    else {
      this.#authenticate(token, (error) => {
        if (error) this.notify('auth-failed', { reason: error.message, error });
        else this.notify('refreshed');
        error ? outcome.reject(error) : outcome.resolve();
      });
    }
    return outcome.promise;
  }

  async #renew() {
    try {
      await this.refresh(await this.options.token());
    } catch (error) {
      if (!(error instanceof ClientError)) this.notify('auth-failed', { reason: 'no credential', error });
    }
  }

  // Registrations

  register(registration) {
    if (this.final) registration.end(this.final);
    else if (this.registrations.has(registration.key)) throw new Invalid(`there is one of ${registration.name} already`);
    else {
      this.registrations.set(registration.key, registration);
      if (this.isReady) registration.begin();
    }
    return registration;
  }

  forget(registration) {
    if (this.registrations.get(registration.key) === registration) this.registrations.delete(registration.key);
    this.settle();
  }

  settled() {
    const outcome = deferred();
    if (this.final) outcome.reject(this.final);
    else this.#settles.push(outcome);
    this.settle();
    return outcome.promise;
  }

  settle() {
    if (!this.isReady || [...this.registrations.values()].some((each) => !each.active)) return;
    for (const outcome of this.#settles.splice(0)) outcome.resolve();
  }

  // Frames

  #received(data) {
    this.#heardAt = this.clock.now();
    this.#asked = false;
    try {
      this.#dispatch(JSON.parse(data));
    } catch (error) {
      this.notify('error', { reason: 'a frame was not understood', error });
    }
  }

  #dispatch(frame) {
    const { type, id, payload } = frame;
    if (type === 'result' || type === 'error') this.#onAnswer(frame);
    else if (type === 'event') this.#onEvent(frame);
    else if (type === 'message') this.registrations.get(`broker.release ${frame.queue}`)?.onJob(frame);
    else if (type === 'response') this.requests.get(id)?.onResponse(payload);
    else if (type === 'call') this.#perform(frame, `broker.unregister ${frame.method}`);
    else if (type === 'request') {
      const key = `broker.unacknowledge ${payload?.action}`;
      this.#perform(frame, this.registrations.has(key) ? key : 'broker.unacknowledge *');
    } else if (type === 'auth') this.#auths.shift()?.(frame.stage === null ? errorOf(payload) : undefined);
    else if (type === 'system') this.#onSystem(frame);
  }

  #onEvent(frame) {
    const watch = frame.payload?.revision > 0 && frame.event.startsWith('kv/') && `broker.unwatch ${frame.event.slice(3)}`;
    const found = this.registrations.get(watch) ?? this.registrations.get(`broker.unsubscribe ${frame.event}`);
    found?.onEvent(frame);
  }

  #onSystem({ id, event, payload }) {
    if (event === 'broker.cancel') this.running.get(id)?.controller.abort(new Cancelled());
    else if (event === 'broker.error') {
      const error = errorOf(payload.error);
      this.notify('error', { reason: error.message, error });
    } else if (event === 'broker.expiring') {
      this.notify('expiring', { delay: payload.left / 1000 });
      if (typeof this.options.token === 'function') this.#renew();
    } else if (event === 'broker.gap') {
      const gap = { why: 'slow', ...payload };
      const found = [...this.registrations.values()].filter((each) => each.covers?.(gap.topic));
      for (const each of found) each.onGap(gap);
      if (!found.length) this.notify('gap', { reason: gap.why, gap });
    }
  }

  // Performs a call, or responds to a request.
  async #perform({ type, id, payload, sender }, key) {
    const { handler } = this.registrations.get(key) ?? {};
    const isCall = type === 'call';
    if (!handler) return isCall ? this.send({ type: 'error', id, payload: 'ResilientError|||not performed here any more|||' }) : undefined;
    const controller = new AbortController();
    const task = { controller };
    this.running.set(id, task);
    this.counts.served += 1;
    const answer = (kind, value) => {
      const data = JSON.stringify({ type: kind, id, payload: value ?? null });
      if (bytesOf(data) > this.options.maxMessageBytes) throw new TooLarge(`${bytesOf(data)} bytes`);
      if (this.running.get(id) === task) this.send(data);
    };
    try {
      const made = await handler.apply({ signal: controller.signal, caller: sender }, isCall ? payload ?? [] : [payload]);
      if (isCall || !made?.[Symbol.asyncIterator]) answer(isCall ? 'result' : 'response', made);
      else {
        for await (const each of made) {
          if (controller.signal.aborted) break;
          answer('response', each);
        }
      }
    } catch (error) {
      if (!controller.signal.aborted) answer('error', marshalled(error));
    } finally {
      if (this.running.get(id) === task) this.running.delete(id);
    }
  }

  request(payload, { recipient, replies = Infinity, idle = 60, timeout = this.options.timeout, signal } = {}) {
    const id = this.newId();
    let count = 0, timer;
    const items = new Items(Infinity, () => {
      if (this.requests.has(id)) this.control('broker.cancel', [id]);
      request.end();
    });
    const request = {
      end: (error) => {
        this.clock.cancel(timer);
        signal?.removeEventListener('abort', items.close);
        this.requests.delete(id);
        items._end(error);
      },
      onResponse: (value) => {
        if (Object.keys(value ?? {}).join() === 'error' && String(value.error).includes('|||')) return void request.end(errorOf(value.error));
        items._push(value);
        this.clock.cancel(timer);
        if (++count >= replies) request.end();
        else timer = this.clock.after(idle, () => request.end());
      },
    };
    const data = JSON.stringify({ type: 'request', id, payload, recipient });
    if (bytesOf(data) > this.options.maxMessageBytes) request.end(new TooLarge(`${bytesOf(data)} bytes`));
    else if (!this.isReady) request.end(this.final ?? new NotConnected());
    else {
      this.requests.set(id, request);
      timer = this.clock.after(timeout, () => request.end(new Timeout()));
      signal?.addEventListener('abort', items.close);
      this.send(data);
    }
    return items;
  }
}

async function callWithEach(core, items, work) {
  try {
    for await (const item of items) {
      try {
        await work(item);
      } catch (error) {
        core.notify('error', { reason: 'a callback has failed', error });
      }
    }
  } catch (error) {
    core.notify('error', { reason: 'nothing more comes', error });
  }
}

export class Client {
  #core;
  constructor(url, options = {}) { this.#core = new Core(url, options); }

  get state() { return this.#core.state; }
  get id() { return this.#core.identity?.id ?? ''; }
  connect() { return this.#core.start(); }
  close() { return this.#core.close(); }
  settled() { return this.#core.settled(); }
  refresh(token) { return this.#core.refresh(token); }

  on(kind, listener) {
    const { listeners } = this.#core;
    const all = listeners.get(kind) ?? listeners.set(kind, new Set()).get(kind);
    all.add(listener);
    return () => all.delete(listener);
  }

  stats() {
    const { state, counts, sent, outbox, size, throttle } = this.#core;
    return { state, ...counts, pending: sent.size + outbox.size, buffered: outbox.size, bufferedBytes: size, rate: throttle.rate };
  }

  setRate(limit) {
    this.#core.throttle.limit = limit;
    this.#core.flush();
  }

  #ask(name, values, options = {}, again = false, read = undefined) {
    const { timeout, wait, signal, ...more } = options;
    return this.#core.ask(`broker.${name}`, argumentsOf(values, more), { timeout, wait, signal, again, read });
  }

  whoami() { return this.#ask('whoami', [], {}, true); }

  // Topics

  publish(topic, payload, options = {}) {
    const { payload: body, encoding } = bodyOf(payload);
    const again = Boolean(options.durable && options.key);
    return this.#ask('publish', [topic, body], { ...options, encoding }, again, ({ id = 0, epoch = '', time = 0, duplicate = false, delivered = null }) => ({ id, epoch, time, duplicate, delivered }));
  }

  batch(events, options) {
    const drafts = events.map(({ payload, ...more }) => ({ ...given(more), ...bodyOf(payload) }));
    return this.#ask('batch', [drafts], options, events.every(({ key }) => key), ({ events: stored }) => stored);
  }

  read(topic, options) {
    return this.#ask('read', [topic], options, true, (page) => ({
      ...page, events: page.events.map((each) => ({ ...each, payload: payloadOf(each), position: { epoch: each.epoch, id: each.id } })),
    }));
  }

  ack(cursor, topic, position, options) { return this.#ask('ack', [cursor, topic, position], options, true); }
  cursors(topic) { return this.#ask('cursors', topic === undefined ? [] : [topic], {}, true, (found) => found.cursors); }
  members(topic, options) { return this.#ask('members', [topic], options, true, ({ members }) => members); }

  subscribe(topic, ...more) {
    const [options, callback] = both(...more);
    const { items } = this.#core.register(new Subscription(this.#core, topic, options));
    if (callback) callWithEach(this.#core, items, callback);
    return items;
  }

  // Calls

  call(procedure, values = [], options = {}) {
    if (Array.isArray(values)) return this.#core.ask(procedure, values, options);
    return quiet(Promise.reject(new Invalid('the arguments of a call are an array')));
  }

  procedures(pattern = '>') { return this.#ask('methods', [pattern], {}, true, ({ methods }) => methods); }
  serve(procedure, handler, options = {}) { return this.#handle(Procedure, procedure, handler, options); }
  respond(topic, handler) { return this.#handle(Responder, topic, handler, {}); }
  request(payload, options) { return this.#core.request(payload, options); }

  #handle(type, name, handler, options) {
    if (typeof handler !== 'function') throw new Invalid(`what performs ${name} is a function`);
    const made = this.#core.register(Object.assign(new type(this.#core, name, options), { handler }));
    return { ready: made.ready.promise, close: () => made.close() };
  }

  // Work queues

  enqueue(queue, payload, options = {}) {
    return this.#ask('enqueue', [queue, payload], options, Boolean(options.key), ({ id, duplicate = false }) => ({ id, duplicate }));
  }

  queue(name) { return this.#ask('queue', [name], {}, true, ({ in_flight: inFlight, ...more }) => ({ ...more, inFlight })); }
  retry(queue, ids = 'all') { return this.#ask('retry', [queue, ids], {}, false, ({ retried }) => retried); }
  drop(queue, ids = 'all') { return this.#ask('drop', [queue, ids], {}, false, ({ dropped }) => dropped); }

  consume(queue, ...more) {
    const [{ prefetch = 1, ...options }, callback] = both(...more);
    const { items } = this.#core.register(new Consumer(this.#core, queue, { ack: true, prefetch, ...options }));
    for (let worker = 0; callback && worker < prefetch; worker += 1) callWithEach(this.#core, items, (job) => job.run(callback));
    return items;
  }

  // Keys

  get(key) { return this.#ask('get', [key], {}, true); }
  set(key, value, options) { return this.#ask('set', [key, value], options); }
  patch(key, value) { return this.#ask('patch', [key, value]); }
  increment(key, amount = 1) { return this.#ask('increment', [key, amount]); }
  delete(key, options) { return this.#ask('delete', [key], options, false, ({ deleted }) => deleted); }
  range(first, last, options) { return this.#ask('range', [first, last], options, true, ({ entries }) => entries); }

  watch(pattern, ...more) {
    const [options, callback] = both(...more);
    const { items } = this.#core.register(new Watch(this.#core, pattern, options));
    if (callback) callWithEach(this.#core, items, callback);
    return items;
  }
}
