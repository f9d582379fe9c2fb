// A client of txbroker; txbroker.d.ts describes it.  Times are in seconds.

const DEFAULTS = {
	name: '', token: null, WebSocket: null, timeout: 30, lateWindow: 60, wait: true, firstWait: 0.2, maxWait: 30,
	maxAttempts: Infinity, connectTimeout: 10, pingInterval: 20, pingTimeout: 10, closeTimeout: 3,
	maxBufferedBytes: 16 << 20, maxMessageBytes: 1 << 20, maxUnread: 1000, resendWindow: 240, rate: null,
};

export class ClientError extends Error {
	constructor(message, more) {
		const { name, done = false } = new.target, code = name.replace(/\B[A-Z]/g, '_$&').toUpperCase();
		super(message || name);
		Object.assign(this, { name, code, done }, more);
	}
}
const classes = (done) => new Proxy({}, { get: (_, name) => ({ [name]: class extends ClientError { static done = done; } })[name] });
export const {
	NotFound, Taken, Unauthenticated, Denied, Invalid, TooLarge, RateLimited, Busy, Conflict, NotConnected, BufferFull,
} = classes(false), { Timeout, Gone, Unavailable, Cancelled, ConnectionLost, Closed } = classes(true);
export class CallFailed extends ClientError {
	constructor(message, code = 'ResilientError') { super(message, { code }); }
}
const WIRE = {
	__proto__: null, SocketErrorConnectionUnsupported: NotFound, SocketErrorConnectionUnauthorized: Unauthenticated,
	SocketErrorConnection: Gone, SocketErrorTimeout: Timeout, SocketErrorMessageMalformed: Invalid, SocketError: Unavailable,
	ForbiddenAuthorizationError: Denied, AuthManagerError: Unauthenticated,
	':exists': Taken, ':conflict': Conflict, ':busy': Busy, ':cancelled': Cancelled, ':limit': RateLimited,
};

function errorOf(text, retryAfter = 1) {
	const [type, message] = text.includes('|||') ? text.split('|||') : [, text], [, , why, head] = message.split(':');
	const key = type === 'SocketErrorMessage' ? `:${why}` : type?.replace(/(?<=^AuthManagerError).*/, '');
	const isLarge = /:limit:(frame|presence|events|exclude|topics|value|snapshot|names|payload|message)$/.test(message);
	const found = isLarge ? TooLarge : WIRE[key];
	if (!found) return new CallFailed(message, type);
	return new found(message, found === RateLimited ? { retryAfter } : found === Conflict && head > 0 && { head: +head });
}
const isRate = (err) => err?.message.endsWith(':limit:rate');
const textOf = (err) => String(err?.message || err).slice(0, 4096).replace(/\|{3}|\|+$/g, '');

const noop = () => {};
const now = () => performance.now() / 1000;
const after = (seconds, work) => setTimeout(work, Math.min(seconds * 1000, 2 ** 31 - 1));
function defer() {
	const made = {};
	made.promise = new Promise((resolve, reject) => { made.end = (err, value) => (err ? reject(err) : resolve(value)); });
	made.promise.catch(noop); // nobody has to look
	return made;
}

const args = (values, opts) => (JSON.stringify(opts) === '{}' ? values : [...values, opts]);

function stream(close, onNext) {
	const unread = [];
	let ended, wake = noop;
	async function* read() {
		for (;;) {
			while (unread.length) {
				onNext?.();
				yield unread.shift();
			}
			if (ended?.err) throw ended.err;
			if (ended) return;
			await new Promise((resolve) => { wake = resolve; });
		}
	}
	return {
		items: Object.assign(read(), { unread, close, return: async (value) => (close(), { value, done: true }) }),
		push(item) { wake(ended || unread.push(item)); },
		end(err) { wake(ended ??= { err }); },
	};
}

// Arguments before the options, whether it may be sent again, the wanted member.
const METHODS = {
	publish: [2], read: [1, true], ack: [3, true], members: [1, true, 'members'], enqueue: [2], get: [1, true],
	range: [2, true, 'entries'], set: [2], patch: [2], increment: [2], delete: [1, false, 'deleted'],
};

export function Client(url = '/v1/ws', wanted = {}) {
	const opts = { ...DEFAULTS };
	for (const name in wanted) {
		if (!(name in DEFAULTS)) throw new Invalid(`no option: ${name}`);
		opts[name] = wanted[name] ?? DEFAULTS[name];
	}
	const WebSocket = opts.WebSocket ?? globalThis.WebSocket;
	const urls = [url].flat().map((each) => {
		const address = new URL(each, globalThis.document?.baseURI);
		address.protocol = address.protocol.replace('http', 'ws');
		if (opts.name) address.searchParams.set('client', opts.name);
		return address.href;
	});
	const counts = {
		connections: 0, losses: 0, started: 0, succeeded: 0, failed: 0, timedOut: 0, cancelled: 0, resent: 0, late: 0,
		events: 0, duplicates: 0, jobs: 0, served: 0, rateLimited: 0, pending: 0, bufferedBytes: 0,
	};
	const regs = new Map(), ops = new Map(), tasks = new Map(), listeners = new Set(), jobs = new Set(), waiters = new Set();
	const auths = [], ended = defer(), life = new AbortController(), canRenew = opts.token?.call;
	let state = 'idle', queue = new Set(), number = 0, attempts = 0, refusals = 0, upAt, heardAt;
	let node = Math.random() * urls.length | 0, socket, me, final, stateTimer, pingTimer, flushTimer;
	const isUp = () => state === 'ready', isOpen = () => isUp() || state === 'greeting';

	function tell(kind, more) {
		const notice = { kind, reason: more?.error?.message ?? '', code: 0, delay: 0, ...more };
		if (kind === 'error' && !listeners.size) console.error(notice.error);
		for (const [of, listener] of listeners) {
			try { if (of === kind || of === '*') listener(notice); } catch (err) { console.error(err); }
		}
	}

	// The connection

	function enter(next, seconds, work) {
		state = next;
		clearTimeout(stateTimer);
		if (work) stateTimer = after(seconds, work);
	}

	const credential = async () => (canRenew ? opts.token() : opts.token);

	async function connect() {
		const attempt = socket = {};
		enter('connecting', opts.connectTimeout, () => lost('not ready'));
		tell('connecting');
		const token = await credential().catch((error) => tell('auth-failed', { error }));
		if (attempt !== socket) return;
		if (token === undefined) return lost('no token');
		try {
			socket = new WebSocket(urls[node++ % urls.length]);
		} catch (err) { // such as ws: in a page of https:
			return stop(new Invalid(err.message));
		}
		const made = socket, on = {
			open: () => greet(token),
			message: received,
			close: ({ code, reason }) => lost(reason, code),
			// Node 22 says nothing else, a browser not why.
			error({ message }) {
				if (state === 'connecting') lost(message || 'not reached, or not in TXBROKER_ALLOWED_ORIGINS');
			},
		};
		for (const type in on) made[`on${type}`] = (event) => made === socket && on[type](event);
	}

	function greet(token) {
		const hello = (err) => {
			if (err) return failed(err);
			regs.get('release @me')?.begin(); // what waits already comes to the first
			control('whoami', [], (err, found) => (err ? failed(err) : greeted(found)));
		};
		state = 'greeting';
		heardAt = now();
		token ? login(token, hello) : hello();
	}

	function failed(err) {
		const isFinal = err instanceof Unauthenticated && !err.message.endsWith(':limit');
		if (!final && state === 'greeting') lost(err.message, isFinal ? 1008 : 1006);
	}

	function login(token, then) {
		auths.push(then);
		send({ type: 'auth', stage: 'authenticate', payload: { token } });
	}

	function greeted(found) {
		enter('ready');
		me = found;
		refusals = 0;
		upAt = now();
		counts.connections++;
		pingLater();
		tell('ready');
		for (const reg of regs.values()) reg.active || reg.begin();
		flush();
		settle();
	}

	function pingLater() {
		const left = heardAt + opts.pingInterval - now();
		left > 0 ? pingTimer = after(left, pingLater) : ping();
	}

	function ping() {
		const asked = now();
		clearTimeout(pingTimer);
		send({ type: 'ping' });
		pingTimer = after(opts.pingTimeout, () => (heardAt < asked ? lost('silent broker') : pingLater()));
	}

	function leave() {
		const left = socket;
		socket = null;
		(left?.terminate ?? left?.close)?.call(left);
	}

	function lost(reason, code = 1006) {
		const wasUp = isUp(), refused = [1008, 4001, 4003].includes(code);
		const type = refused ? Unauthenticated : code >= 3500 && code < 4000 && Closed, error = type && new type(`${code} ${reason}`);
		leave();
		if (state === 'closing') return stop();
		if (wasUp && now() - upAt >= 1) attempts = 0;
		state = 'waiting';
		lose(new ConnectionLost(reason));
		if (wasUp) {
			counts.losses++;
			tell('lost', { reason, code });
		}
		if (refused) tell('auth-failed', { code, error });
		if (final) return;
		if (error && !(refused && canRenew && ++refusals < 5)) return stop(error);
		if (attempts >= opts.maxAttempts) return stop(new NotConnected(reason));
		const delay = Math.min(opts.maxWait, opts.firstWait * 2 ** attempts++) * Math.random();
		enter('waiting', delay, connect);
		tell('waiting', { reason, code, delay });
	}

	function lose(err) {
		[stateTimer, pingTimer, flushTimer].forEach(clearTimeout);
		for (const reg of regs.values()) reg.lost();
		for (const each of tasks.values()) each.abort(new Cancelled());
		tasks.clear();
		for (const then of auths.splice(0)) then(err);
		for (const op of ops.values()) if (op.sentAt && !(op.again && op.sentAt >= now() - opts.resendWindow)) op.end(err);
		queue = new Set(ops.values());
	}

	function stop(error) {
		if (state === 'stopped') return;
		leave();
		finish(error);
		state = 'stopped';
		tell('stopped', { error });
		ended.end();
	}

	function finish(err) {
		final ??= err ?? new Closed();
		life.abort();
		for (const reg of regs.values()) reg.end(err);
		lose(final);
		for (const each of [...ops.values(), ...waiters, ...jobs]) each.end(final);
	}

	// Operations

	function encode(frame) {
		const text = JSON.stringify(frame), size = new TextEncoder().encode(text).length;
		if (size > opts.maxMessageBytes) throw new TooLarge(`${size} bytes`);
		return { text, size };
	}

	const send = (frame) => socket.send(encode(frame).text);

	// Calls `then` before any later frame is looked at.
	function start(frame, { timeout = opts.timeout, wait = opts.wait, signal, recipient, urgent, ...more }, then) {
		const id = `${++number}`, late = timeout && more.onLate ? opts.lateWindow : 0;
		const abort = () => op.cancel(new Cancelled('', { cause: signal.reason })), op = {
			wait, ...more,
			end(err, value) {
				clearTimeout(op.timer);
				queue.delete(op);
				if (ops.delete(id)) counts.bufferedBytes -= op.size;
				signal?.removeEventListener('abort', abort);
				if (!op.ended) then(err, value, op.ended = true);
			},
			cancel(err) {
				if (op.sentAt && !op.ended) control('cancel', [id]);
				op.end(err);
			},
		};
		try {
			if (!(timeout >= 0)) throw new Invalid(`timeout: ${timeout}`);
			if (signal?.aborted) return abort(), op;
			Object.assign(op, encode({ ...frame, recipient, id, timeout: Math.ceil((timeout + late) * 1000) }));
			if (urgent ? !isOpen() : final || (!isUp() && !wait)) throw final ?? new NotConnected();
			if (!urgent && counts.bufferedBytes + op.size > opts.maxBufferedBytes) throw new BufferFull();
			if (timeout) op.timer = after(timeout, () => {
				op.end(new Timeout());
				if (!late || !op.sentAt) return;
				op.size = 0;
				ops.set(id, op);
				op.timer = after(late, op.end);
			});
			signal?.addEventListener('abort', abort);
			ops.set(id, op);
			counts.bufferedBytes += op.size;
			urgent ? emit(op) : flush(queue.add(op));
		} catch (err) {
			op.end(err instanceof ClientError ? err : new Invalid(err.message));
		}
		return op;
	}

	function control(method, payload, then = noop) { start({ type: 'call', method: `broker.${method}`, payload }, { urgent: true }, then); }

	function ask(method, payload, terms, again, read) {
		const out = defer();
		counts.started++;
		counts.pending++;
		start({ type: 'call', method, payload }, { ...terms, again }, (err, value) => {
			counts.pending--;
			counts[{ Timeout: 'timedOut', Cancelled: 'cancelled' }[err?.name] ?? (err ? 'failed' : 'succeeded')]++;
			out.end(err, err || Promise.resolve(value).then(read));
		});
		return out.promise;
	}

	function emit(op) {
		if (op.sentAt) counts.resent++;
		op.sentAt ||= now();
		socket.send(op.text);
	}

	function flush() {
		clearTimeout(flushTimer);
		for (const op of queue) {
			if (!isUp()) return;
			const wait = socket.bufferedAmount > opts.maxBufferedBytes ? 0.01 : waitOf();
			if (wait) return flushTimer = after(wait, flush);
			queue.delete(op);
			emit(op);
		}
	}

	// Half of the rate after a refusal, and each second a tenth more.

	let before = Infinity, calmAt = 0, nextAt = 0, passedAt = 0, recent = 0;
	function rate() {
		const part = 0.5 + 0.1 * Math.max(0, now() - calmAt);
		return Math.min(opts.rate ?? Infinity, part > 4 ? Infinity : before * part);
	}
	function waitOf() {
		const wait = Math.max(calmAt, nextAt) - now();
		if (wait > 0) return wait + 0.005;
		recent = recent * 0.5 ** (now() - passedAt) + 1;
		passedAt = now();
		nextAt = Math.max(nextAt, passedAt - 0.1) + 1 / rate();
	}

	function answered({ id, type, payload, retry_after }) {
		const op = ops.get(id), error = type === 'error' ? errorOf(payload, retry_after) : null;
		if (op?.ended) {
			counts.late++;
			op.end();
			error || op.onLate(payload);
		} else if (op && isRate(error)) {
			counts.rateLimited++;
			if (now() >= calmAt) { // else it was sent earlier
				before = Math.max(2, Math.min(rate(), recent * 0.7));
				calmAt = now() + error.retryAfter;
			}
			tell('rate-limited', { error, delay: error.retryAfter });
			if (!op.again || !op.wait) return op.end(error);
			op.sentAt = 0;
			queue = new Set([op, ...queue]);
			flush();
		} else op?.end(error, payload);
	}

	function request(payload, { replies = Infinity, idle = 60, ...terms } = {}) {
		const { items, push, end } = stream(() => op.cancel());
		const op = start({ type: 'request', payload }, {
			...terms, wait: false,
			onResponse(value) {
				if (/^\w+\|{3}/.test(value?.error)) return op.end(errorOf(value.error));
				push(value);
				clearTimeout(op.timer);
				if (items.unread.length >= opts.maxUnread * 10) return op.cancel(new Cancelled('not read'));
				--replies > 0 ? op.timer = after(idle, op.end) : op.end();
			},
		}, end);
		return items;
	}

	// Frames

	function received({ data }) {
		heardAt = now();
		try {
			const frame = JSON.parse(data), { type, event, payload } = frame;
			frames[type === 'system' ? event : type]?.(frame, payload);
		} catch (err) {
			fail(err);
		}
	}

	const find = (undo, name) => regs.get(`${undo} ${name}`), watched = (topic) => regs.get(topic.replace(/^kv\//, 'unwatch '));
	const frames = {
		__proto__: null,
		result: answered,
		error: answered,
		event(frame) {
			const reg = watched(frame.event) ?? find('unsubscribe', frame.event);
			if (reg?.active) reg.onFrame(frame);
		},
		message(frame) {
			const reg = find('release', frame.queue);
			reg ? reg.onFrame(frame) : frame.queue && giveBack(frame);
		},
		response: ({ id }, payload) => ops.get(id)?.onResponse?.(payload),
		call: (frame, payload = []) => perform(frame, payload, find('unregister', frame.method)),
		request: (frame, payload) => perform(frame, [payload], find('unacknowledge', payload?.action) ?? find('unacknowledge', '*')),
		auth({ stage }, payload) {
			const error = stage === null ? errorOf(payload) : undefined;
			if (isUp()) tell(error ? 'auth-failed' : 'refreshed', { error });
			auths.shift()?.(error);
		},
		'broker.cancel': ({ id }) => tasks.get(id)?.abort(new Cancelled()),
		'broker.error': (_, { error }) => fail(errorOf(error)),
		'broker.expiring'(_, { left }) {
			tell('expiring', { delay: left / 1000 });
			if (canRenew) credential().then((token) => { refresh(token); }, fail);
		},
		'broker.gap'(_, gap) {
			onGap(gap);
			watched(gap.topic)?.begin();
		},
	};
	const onGap = (gap) => tell('gap', { reason: gap.why, gap: { why: 'slow', ...gap } });

	async function perform({ type, id, sender: caller }, values, reg) {
		const control = new AbortController(), { signal } = control, isCall = type === 'call';
		const respond = (payload = null, type = isCall ? 'result' : 'response') => signal.aborted || send({ type, id, payload });
		try {
			if (!reg) throw new NotFound('not performed');
			tasks.set(id, control);
			counts.served++;
			const made = await reg.handler.apply({ signal, caller }, values);
			if (isCall || !made?.[Symbol.asyncIterator]) respond(made);
			else for await (const each of made) {
				if (signal.aborted) break;
				respond(each);
			}
		} catch (err) {
			const code = err instanceof CallFailed && /^\w+$/.test(err.code) ? err.code : 'ResilientError';
			respond(`${code}|||${textOf(err)}|||`, 'error');
		}
		if (tasks.get(id) === control) tasks.delete(id);
	}

	// Registrations

	function register(method, undo, name, more) {
		const key = `${undo} ${name}`, ready = defer(), half = (opts.maxUnread >> 1) + 1;
		let failures = 0, timer;
		function still() {
			clearTimeout(timer);
			reg.active = false;
		}
		function failed(error) {
			if (reg.onRefused?.(error)) return reg.begin();
			tell('registration-failed', { reason: key, error });
			// A dead connection may still have its name.
			if (!isRate(error) && ![Timeout, Unavailable, reg.isKnown && Taken].includes(error.constructor)) reg.end(error);
			else if (!reg.ended) timer = after(Math.min(10, 2 ** failures++) * Math.random(), reg.begin);
		}
		const { items, push, end } = stream(() => reg.end(), () => {
			if (unread.length === half && !reg.active && !reg.ended && isUp()) reg.begin();
		});
		const { unread } = Object.assign(items, { ready: ready.promise }), reg = {
			items, push, ...more,
			begin() {
				still();
				if (unread.length <= half) control(method, reg.values(), (err, result) => {
					if (reg.ended || !isOpen()) return;
					if (err) return failed(err);
					reg.active = true;
					failures = 0;
					ready.end(null, result);
					reg.onAnswer?.(result);
					reg.isKnown = true;
					settle();
				});
			},
			// What is not read in time is asked for again when half is read.
			add(item) {
				counts.events++;
				push(item);
				if (!reg.active || unread.length < opts.maxUnread) return;
				still();
				control(undo, [name]);
				onGap({ topic: name });
			},
			lost() {
				still();
				reg.onAway?.();
			},
			end(err) {
				if (reg.ended) return;
				reg.ended = true;
				control(undo, [name]);
				regs.delete(key);
				ready.end(err ?? new Closed());
				reg.lost();
				end(err);
				settle();
			},
		};
		if (regs.has(key)) throw new Taken(name);
		regs.set(key, reg);
		if (final) reg.end(final);
		if (isUp()) reg.begin();
		return reg;
	}

	function subscribe(topic, terms) {
		const at = { __proto__: null }, isOne = terms.exact || !/[*>]/.test(topic);
		// Null: it may not read what is stored.
		let origin = (terms.from ?? terms.cursor ?? terms.last) === undefined ? { from: 'new' } : {};
		return register('subscribe', 'unsubscribe', topic, {
			values: () => args([topic], { ...terms, ...origin }),
			onAnswer({ positions, epoch, id, lost = [] }) {
				if (!origin && this.isKnown) onGap({ topic, why: 'away' });
				if (epoch) Object.assign(at, positions ?? { [topic]: { epoch, id } });
				for (const gap of [lost].flat()) onGap({ topic, ...gap });
				origin &&= {
					last: undefined, get from() { return (isOne ? at[topic] : Object.keys(at)[0] && at) ?? terms.from; },
				};
			},
			onRefused: (err) => origin?.from === 'new' && [Denied, Invalid, TooLarge].includes(err.constructor) && !(origin = null),
			onFrame({ type, event, topic = event, dt: time, id, epoch = '', ...more }) {
				const position = epoch ? { epoch, id } : null, had = at[topic];
				if (had?.epoch === epoch && id <= had.id) return counts.duplicates++;
				if (position) at[topic] = position;
				this.add({ name: topic, ...more, topic, time, id: epoch ? id : 0, epoch, position });
			},
		});
	}

	function watch(pattern, terms) {
		const revisions = new Map();
		let epoch, revision = 0;
		function changed(kind, { timestamp: time = 0, ...change }) {
			const { key, value, revision: at } = change;
			if (at <= revisions.get(key)) return;
			value === null ? revisions.delete(key) : revisions.set(key, at);
			revision = Math.max(revision, at);
			return !reg.add({ ...change, kind, time });
		}
		const reg = register('watch', 'unwatch', pattern, {
			values: () => args([pattern], { ...terms, from: epoch && { epoch, revision } }),
			onAnswer(begun) {
				if (!begun.snapshot) return;
				const there = new Set(begun.entries.map(({ key }) => key));
				for (const key of revisions.keys()) {
					if (epoch !== begun.epoch) revisions.set(key, 0);
					if (!there.has(key) && revisions.delete(key)) changed('missed', { key, value: null, revision: 0 });
				}
				for (const each of begun.entries) changed('present', each);
				({ epoch, revision } = begun);
			},
			onFrame: ({ name, payload }) => changed(name, payload) || counts.duplicates++,
		});
		return reg;
	}

	const giveBack = ({ queue, id }) => control('release', [queue, { not_begun: [id] }]);

	function consume(queue, terms) {
		return register('consume', 'release', queue, {
			values: () => [queue, { ack: true, prefetch: 1, ...terms }],
			onFrame(frame) {
				counts.jobs++;
				this.push(jobOf(frame));
			},
			onAway() {
				if (!this.ended && opts.name && queue !== '@me') return;
				for (const job of this.items.unread.splice(0)) {
					job.end();
					giveBack(job);
				}
			},
		});
	}

	function jobOf({ type, dt: time, ...fields }) {
		const { id, lease } = fields;
		let timer = after(lease / 2, extend);
		const told = (kind) => (error) => tell(kind, { reason: `${job.queue} ${id}`, error });
		function extend() {
			timer = after(lease / 2, extend);
			control('extend', [id, lease], (err) => {
				if (!(err instanceof NotFound) || job.settled) return;
				job.end();
				told('job-lost')(err);
			});
		}
		const report = (method) => (reason, delay) => {
			job.settled = true;
			job.end();
			return verb(method, [id], { reason, delay, timeout: Math.max(lease, 1) }, true);
		};
		const job = {
			...fields, time, settled: false, done: report('done'), fail: report('fail'),
			async run(work) {
				const end = await Promise.resolve(job).then(work).then(() => job.done, (err) => {
					told('job-failed')(err);
					return () => job.fail(textOf(err));
				});
				if (!job.settled) await end().catch(told('job-lost'));
			},
			end() {
				clearTimeout(timer);
				jobs.delete(job);
			},
		};
		jobs.add(job);
		return job;
	}

	const fail = (error) => tell('error', { error });
	async function pump(items, work) {
		for await (const item of items) await Promise.resolve().then(() => item.run?.(work) ?? work(item)).catch(fail);
	}

	// For applications

	function until(is) {
		const waiter = { is, ...defer() };
		final ? waiter.end(final) : waiters.add(waiter);
		settle();
		return waiter.promise;
	}
	function settle() {
		for (const waiter of waiters) if (isUp() && waiter.is() && waiters.delete(waiter)) waiter.end(null, me);
	}
	function refresh(token) {
		const out = defer();
		isUp() ? login(token, out.end) : out.end(final ?? new NotConnected());
		return out.promise;
	}
	const source = (work) => (name, one, other) => {
		const [terms = {}, callback] = one?.call ? [other, one] : [one, other], { items } = work(name, terms);
		for (let worker = 0; callback && worker < (terms.prefetch ?? 1); worker++) pump(items, callback).catch(fail);
		return items;
	};
	const handle = (method, undo) => (name, handler, terms = {}) => {
		if (!handler?.call) throw new Invalid('no function');
		return register(method, undo, name, { handler, values: () => args([name], terms) }).items;
	};
	function verb(method, values, { timeout, wait, signal, ...more } = {}, again, read) {
		const isKeyed = more.key && (more.durable || method !== 'publish');
		return ask(`broker.${method}`, args(values, more), { timeout, wait, signal }, again || isKeyed, read);
	}
	const client = {
		get state() { return state; },
		get id() { return me?.id ?? ''; },
		connect() {
			const ready = until(() => true);
			if (state === 'idle') {
				globalThis.addEventListener?.('online', () => (state === 'waiting' ? connect() : isUp() && ping()), life);
				connect();
			}
			return ready;
		},
		close() {
			if (isOpen()) {
				finish();
				enter('closing', opts.closeTimeout, stop);
				socket.close(1000);
			} else if (state !== 'closing') stop();
			return ended.promise;
		},
		settled: () => until(() => [...regs.values()].every((reg) => reg.active)),
		refresh,
		on(...entry) {
			listeners.add(entry);
			return () => listeners.delete(entry);
		},
		stats: () => ({ state, ...counts, buffered: queue.size, rate: rate() }),
		setRate(limit) {
			opts.rate = limit;
			nextAt = 0;
			flush();
		},
		subscribe: source(subscribe),
		watch: source(watch),
		consume: source(consume),
		serve: handle('register', 'unregister'),
		respond: handle('acknowledge', 'unacknowledge'),
		request,
		call: (procedure, values = [], terms) => ask(procedure, values, terms),
	};
	for (const [method, [count, again, member]] of Object.entries(METHODS)) {
		client[method] = (...values) => verb(method, values.slice(0, count), values[count], again, (found) => found[member] ?? found);
	}
	return Object.setPrototypeOf(client, new.target.prototype);
}
