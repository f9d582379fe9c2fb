// A client of txbroker for browsers and Node 20 or later; txbroker.d.ts describes it.  Times are in seconds.

const DEFAULTS = {
	name: '', token: null, WebSocket: null, timeout: 30, lateWindow: 60, wait: true, firstWait: 0.2, maxWait: 30,
	maxAttempts: Infinity, connectTimeout: 10, pingInterval: 20, pingTimeout: 10, closeTimeout: 3, maxBuffered: 10_000,
	maxBufferedBytes: 16 << 20, maxMessageBytes: 1 << 20, maxUnread: 1000, resendWindow: 240, rate: null,
};

export class ClientError extends Error {
	constructor(message, more) {
		const { name, code = 'INTERNAL', done = false } = new.target;
		super(message || name);
		Object.assign(this, { name, code, done }, more);
	}
}
export const [
	NotFound, Taken, Unauthenticated, Denied, Invalid, TooLarge, RateLimited, Busy, Conflict, NotConnected, BufferFull,
	Timeout, Gone, Unavailable, Cancelled, ConnectionLost, Closed,
] = ('NotFound Taken Unauthenticated Denied Invalid TooLarge RateLimited Busy Conflict NotConnected BufferFull '
	+ 'Timeout Gone Unavailable Cancelled ConnectionLost Closed').split(' ').map((name, index) => ({
	[name]: class extends ClientError {
		static code = name.replace(/\B[A-Z]/g, '_$&').toUpperCase();
		static done = index > 10; // it may have been done all the same
	},
})[name]);
export class CallFailed extends ClientError {
	constructor(message, code = 'ResilientError') { super(message, { code }); }
}
const WIRE = {
	__proto__: null, SocketErrorConnectionUnsupported: NotFound, SocketErrorConnectionUnauthorized: Unauthenticated,
	SocketErrorConnection: Gone, SocketErrorTimeout: Timeout, SocketErrorMessageMalformed: Invalid, SocketError: Unavailable,
	ForbiddenAuthorizationError: Denied, AuthManagerError: Unauthenticated,
	':exists': Taken, ':conflict': Conflict, ':busy': Busy, ':cancelled': Cancelled, ':limit': RateLimited,
};
const LARGE = /:limit:(frame|presence|events|exclude|topics|value|snapshot|names|payload|message)$/;

// Returns the error that the text `type|||message|||` means.
function errorOf(text, retryAfter = 1) {
	const [type, message] = text.includes('|||') ? text.split('|||') : [, text], [, , why, head] = message.split(':');
	const key = type === 'SocketErrorMessage' ? `:${why}` : type?.replace(/(?<=^AuthManagerError)(AuthenFailed|Unsupported)$/, '');
	const found = LARGE.test(message) ? TooLarge : WIRE[key];
	if (!found) return new CallFailed(message, type);
	return new found(message, found === RateLimited ? { retryAfter } : found === Conflict && head > 0 && { head: +head });
}
const isRate = (err) => err?.message.endsWith(':limit:rate');
const textOf = (err) => String(err?.message || err).slice(0, 4096).replaceAll('|||', '').replace(/\|+$/, '');

const noop = () => {};
const now = () => performance.now() / 1000;
const after = (seconds, work) => setTimeout(work, Math.min(seconds * 1000, 2 ** 31 - 1));
function deferred() {
	const made = {};
	made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
	made.promise.catch(noop); // nobody has to look at it
	made.end = (err, value) => (err ? made.reject(err) : made.resolve(value));
	return made;
}
const payloadOf = ({ encoding, payload }) => (encoding ? Uint8Array.from(atob(payload), (c) => c.charCodeAt()) : payload);
function bodyOf(payload) {
	if (!(payload instanceof ArrayBuffer || ArrayBuffer.isView(payload))) return { payload };
	const bytes = new Uint8Array(payload.buffer ?? payload, payload.byteOffset, payload.byteLength);
	return { payload: btoa(bytes.reduce((text, each) => text + String.fromCharCode(each), '')), encoding: 'base64' };
}
function withOptions(values, { contentType: content_type, maxInFlight: max_in_flight, ...more }) {
	const opts = { ...more, content_type, max_in_flight };
	return JSON.stringify(opts) === '{}' ? values : [...values, opts];
}
const matches = (pattern, name) => new RegExp(`^${pattern.replace(/[^\w*>]/g, '\\$&')
	.replace(/(^|\.)\*(?=\\|$)/g, '$1[^.]+').replace(/[*>]$/, '.*')}$`, 's').test(name);

// Lets operations pass: half as fast after a refusal, and then faster by a tenth of what it was each second.
function throttle(limit) {
	let then = now(), last = 0, learnt = Infinity, refused = 0, blocked = 0, recent = 0;
	const made = {
		limit,
		get rate() { return Math.min(made.limit ?? Infinity, learnt); },
		wait() {
			const passed = now() - then;
			then += passed;
			recent *= 0.5 ** passed;
			learnt += refused * 0.1 * Math.max(0, Math.min(passed, then - blocked));
			if (learnt > refused * 4) learnt = Infinity;
			return Math.max(0, blocked - then, last + 1 / made.rate - then);
		},
		pass() {
			if (made.wait()) return false;
			last = Math.max(last + 1 / made.rate, then - 0.1);
			recent++;
			return true;
		},
		refuse(seconds) {
			made.wait();
			if (then < blocked) return; // it had been sent before that was known
			refused = made.rate < Infinity ? made.rate : Math.max(1, recent * 0.7);
			learnt = Math.max(1, refused / 2);
			blocked = then + seconds;
		},
	};
	return made;
}

// Items that come one after the other; to leave a `for await` closes them.
function stream(limit, close, drained) {
	const items = [], waiters = [];
	let finish, wasFull;
	return {
		push(value) {
			if (waiters.length) waiters.shift().resolve({ value, done: false });
			else if (!finish) wasFull = items.push(value) >= limit || wasFull;
		},
		clear: (count = Infinity) => items.splice(0, count),
		end(err) {
			finish ??= ({ end }) => end(err, { value: undefined, done: true });
			waiters.splice(0).forEach(finish);
		},
		items: {
			close, gaps: [],
			get length() { return items.length; },
			[Symbol.asyncIterator]() { return this; },
			next() {
				const waiter = deferred();
				if (items.length) waiter.resolve({ value: items.shift(), done: false });
				else finish ? finish(waiter) : waiters.push(waiter);
				if (wasFull && items.length * 2 <= limit) {
					wasFull = false;
					drained();
				}
				return waiter.promise;
			},
			async return(value) {
				close();
				return { value, done: true };
			},
		},
	};
}

function makeClient(url = '/v1/ws', wanted = {}) {
	const opts = { ...DEFAULTS };
	for (const name in wanted) {
		if (!(name in DEFAULTS)) throw new Invalid(`no option: ${name}`);
		opts[name] = wanted[name] ?? DEFAULTS[name];
	}
	const WebSocket = opts.WebSocket ?? globalThis.WebSocket, page = globalThis.document;
	if (!WebSocket) throw new Invalid('no WebSocket: use Node 22 or later, or `npm install ws` and the option WebSocket');
	const addresses = [url].flat().map((each) => {
		if (!URL.canParse(each, page?.baseURI)) throw new Invalid(`no URL: ${each}`);
		const address = new URL(each, page?.baseURI);
		address.protocol = address.protocol.replace('http', 'ws');
		if (opts.name) address.searchParams.set('client', opts.name);
		return address.href;
	});
	const counts = {
		connections: 0, losses: 0, started: 0, succeeded: 0, failed: 0, timedOut: 0, cancelled: 0, resent: 0, late: 0,
		events: 0, duplicates: 0, jobs: 0, served: 0, rateLimited: 0,
	};
	const regs = new Map(), sent = new Map(), running = new Map(), listeners = new Map(), jobs = new Set(), life = new AbortController();
	const starts = [], settles = [], auths = [], ended = deferred(), limiter = throttle(opts.rate);
	let state = 'idle', outbox = new Map(), size = 0, number = 0, attempts = 0, refusals = 0, readyAt, heardAt;
	let node = Math.floor(Math.random() * addresses.length), socket, identity, final, stateTimer, pingTimer, flushTimer;
	const isReady = () => state === 'ready', isOpen = () => isReady() || state === 'greeting';
	const canRenew = typeof opts.token === 'function';

	function notify(kind, more) {
		const notice = { kind, reason: more?.error?.message ?? '', code: 0, delay: 0, ...more };
		const found = [kind, '*'].flatMap((each) => [...listeners.get(each) ?? []]);
		if (kind === 'error' && !found.length) console.error(notice.error);
		for (const listener of found) {
			try {
				listener(notice);
			} catch (err) {
				console.error(err);
			}
		}
	}

	// The connection

	function enter(next, seconds, work) {
		state = next;
		clearTimeout(stateTimer);
		if (work) stateTimer = after(seconds, work);
	}

	async function credential() {
		try {
			return (canRenew ? await opts.token() : opts.token) ?? null;
		} catch (error) {
			notify('auth-failed', { error });
		}
	}

	async function connect() {
		const attempt = socket = {};
		enter('connecting', opts.connectTimeout, () => drop('not ready in time'));
		notify('connecting');
		const token = await credential();
		if (attempt !== socket) return;
		if (token === undefined) return drop('no credential');
		let made;
		try {
			made = socket = new WebSocket(addresses[node++ % addresses.length]);
		} catch (err) { // such as ws: in a page of https:
			return stop(new Invalid(err.message));
		}
		let problem = page ? 'not reached, or TXBROKER_ALLOWED_ORIGINS does not name this page' : '';
		const on = (type, work) => { made[`on${type}`] = (event) => made === socket && work(event); };
		on('open', () => {
			problem = '';
			greet(token);
		});
		on('message', ({ data }) => received(data));
		// The package ws says the status of an answer, browsers do not.
		const closed = ({ code = 1006, reason }) => lost(+(/response: (\d+)$/.exec(problem)?.[1] ?? code), reason || problem);
		on('close', closed);
		on('error', ({ message }) => {
			problem = message || problem;
			if (state === 'connecting') closed({}); // Node 22 says nothing else of a connection that was not made
		});
	}

	function greet(token) {
		const step = (next) => (err, value) => {
			if (!err) next(value);
			else if (state === 'greeting') drop(err.message, err instanceof Unauthenticated && !err.message.endsWith(':limit') ? 1008 : 1006);
		};
		const hello = () => {
			regs.get('release @me')?.begin(); // as the first it holds for what waits already
			control('whoami', [], step(greeted));
		};
		state = 'greeting';
		heardAt = now();
		token ? authenticate(token, step(hello)) : hello();
	}

	function authenticate(token, then) {
		auths.push(then);
		send({ type: 'auth', stage: 'authenticate', payload: { token } });
	}

	function greeted(found) {
		enter('ready');
		identity = found;
		refusals = 0;
		readyAt = now();
		counts.connections++;
		pingLater();
		notify('ready', { reason: found.id });
		for (const reg of regs.values()) reg.active || reg.begin();
		flush();
		starts.splice(0).forEach(({ resolve }) => resolve(found));
		settle();
	}

	function pingLater() {
		const left = heardAt + opts.pingInterval - now();
		clearTimeout(pingTimer);
		left > 0 ? pingTimer = after(left, pingLater) : ping();
	}

	function ping() {
		const asked = now();
		clearTimeout(pingTimer);
		send({ type: 'ping' });
		pingTimer = after(opts.pingTimeout, () => (heardAt < asked ? drop('the broker is silent') : pingLater()));
	}

	// The network is back, or the page is looked at, whose timers may have slept.
	function look() {
		if (page?.hidden) return;
		if (state === 'waiting') connect();
		else if (isReady()) ping();
	}

	function abandon(left) { left?.terminate ? left.terminate() : left?.close?.(); }

	function drop(reason, code = 1006) {
		const left = socket;
		if (final) return;
		lost(code, reason);
		abandon(left);
	}

	function lost(code, reason) {
		const wasReady = isReady(), refused = [1008, 4001, 4003, 401].includes(code);
		socket = null;
		if (state === 'closing') return stop();
		if (code === 1009) [...sent.values()].sort((one, other) => other.size - one.size)[0]?.end(new TooLarge(reason));
		if (wasReady && now() - readyAt >= 1) attempts = 0;
		state = 'waiting';
		lose(new ConnectionLost(reason));
		if (wasReady) {
			counts.losses++;
			notify('lost', { reason, code });
		}
		const type = refused ? Unauthenticated : code >= 3500 && code < 4000 ? Closed : { 400: Invalid, 403: Denied }[code];
		const error = type && new type(`${code} ${reason}`);
		if (refused) notify('auth-failed', { reason, code, error });
		if (final) return; // the application has closed it when it was told
		if (error && !(refused && canRenew && ++refusals < 5)) return stop(error);
		if (attempts >= opts.maxAttempts) return stop(new NotConnected(reason));
		const delay = Math.min(opts.maxWait, opts.firstWait * 2 ** attempts++) * Math.random();
		enter('waiting', delay, connect);
		notify('waiting', { reason, code, delay });
	}

	function lose(err) {
		[stateTimer, pingTimer, flushTimer].forEach(clearTimeout);
		flushTimer = null;
		for (const reg of [...regs.values()]) reg.lost();
		for (const each of running.values()) each.abort(new Cancelled());
		running.clear();
		for (const then of auths.splice(0)) then(err);
		putBack([...sent.values()].filter((op) => op.again && !op.ended && op.sentAt >= now() - opts.resendWindow));
		for (const op of [...sent.values()]) op.end(err);
	}

	function stop(error) {
		if (state === 'stopped') return;
		abandon(socket);
		socket = null;
		finish(error ?? new Closed());
		state = 'stopped';
		notify('stopped', { error });
		ended.resolve();
	}

	// Ends everything that is under way.
	function finish(err) {
		final ??= err;
		life.abort();
		for (const reg of [...regs.values()]) reg.end(err.message === 'Closed' ? undefined : err);
		for (const job of jobs) job.stop();
		lose(err);
		for (const op of [...outbox.values()]) op.end(err);
		for (const each of [...starts.splice(0), ...settles.splice(0)]) each.reject(err);
	}

	// Operations

	function encode(frame) {
		const text = JSON.stringify(frame), size = new TextEncoder().encode(text).length;
		if (size > opts.maxMessageBytes) throw new TooLarge(`${size} bytes`);
		return { text, size };
	}
	function send(frame) { if (isOpen()) socket.send(frame.text ?? JSON.stringify(frame)); }

	// Begins what will be answered; `then` is called once, and before any later frame is looked at.
	function operation(frame, seconds, then, more) {
		const id = String(++number), op = {
			id, ...encode({ ...frame, id }), ...more,
			end(err, value) {
				clearTimeout(op.timer);
				sent.delete(id);
				if (outbox.delete(id)) size -= op.size;
				if (op.ended) return;
				op.ended = true;
				then(err, value);
			},
		};
		if (seconds) op.timer = after(seconds, () => {
			const isLate = op.onLate && sent.has(id);
			op.end(new Timeout());
			if (!isLate) return;
			sent.set(id, op);
			op.timer = after(opts.lateWindow, op.end);
		});
		return op;
	}

	function transmit(op) {
		if (op.sentAt) counts.resent++;
		op.sentAt ||= now();
		sent.set(op.id, op);
		send(op);
	}

	// Calls a method of the broker for the client itself, now.
	function control(method, payload, then = noop) {
		const { timeout } = opts;
		const op = operation({ type: 'call', method: `broker.${method}`, timeout: timeout * 1000, payload }, timeout, then);
		isOpen() ? transmit(op) : op.end(new NotConnected());
	}

	// Calls a method for the application; `again`: it may be sent again after a loss.
	function ask(method, payload, { timeout = opts.timeout, wait = opts.wait, signal, recipient, onLate } = {}, again, read = (value) => value) {
		const out = deferred(), late = timeout && onLate ? opts.lateWindow : 0;
		let op = { end: then };
		function then(err, value) {
			signal?.removeEventListener('abort', cancel);
			try {
				value = err ?? read(value);
			} catch (problem) {
				err = new ClientError(`no answer: ${problem.message}`);
			}
			counts[{ TIMEOUT: 'timedOut', CANCELLED: 'cancelled' }[err?.code] ?? (err ? 'failed' : 'succeeded')]++;
			out.end(err, value);
		}
		function cancel() {
			if (sent.has(op.id) && !method.startsWith('broker.')) control('cancel', [op.id]);
			op.end(new Cancelled('', { cause: signal.reason }));
		}
		counts.started++;
		try {
			if (!Array.isArray(payload)) throw new Invalid('arguments are an array');
			if (!(timeout >= 0)) throw new Invalid(`timeout: ${timeout}`);
			op = operation({ type: 'call', method, timeout: Math.ceil((timeout + late) * 1000), recipient, payload }, timeout, then, {
				again, wait, onLate: onLate && ((value) => onLate(read(value))),
			});
			signal?.addEventListener('abort', cancel);
			signal?.aborted ? cancel() : submit(op);
		} catch (err) {
			op.end(err instanceof ClientError ? err : new Invalid(err.message));
		}
		return out.promise;
	}

	function submit(op) {
		if (final) throw final;
		if (!isReady() && !op.wait) throw new NotConnected();
		if (isReady() && !outbox.size && mayPass()) return transmit(op);
		if (outbox.size >= opts.maxBuffered || size + op.size > opts.maxBufferedBytes) throw new BufferFull();
		outbox.set(op.id, op);
		size += op.size;
		flushLater();
	}

	const mayPass = () => !(socket.bufferedAmount > opts.maxBufferedBytes) && limiter.pass();

	function flush() {
		flushTimer = clearTimeout(flushTimer);
		for (const op of outbox.values()) {
			if (!isReady() || !mayPass()) return flushLater();
			outbox.delete(op.id);
			size -= op.size;
			transmit(op);
		}
	}

	function flushLater() { if (isReady()) flushTimer ||= after(limiter.wait() + 0.005, flush); }

	// What had been sent waits before all others; it has had its room.
	function putBack(ops) {
		for (const op of ops) {
			sent.delete(op.id);
			size += op.size;
		}
		outbox = new Map([...ops.map((op) => [op.id, op]), ...outbox]);
	}

	function answered({ id, type, payload, retry_after }) {
		const op = sent.get(id), error = type === 'error' ? errorOf(payload, retry_after) : undefined;
		if (op?.ended) {
			counts.late++;
			op.end();
			error || op.onLate(payload);
		} else if (op && isRate(error)) {
			counts.rateLimited++;
			limiter.refuse(error.retryAfter);
			notify('rate-limited', { error, delay: error.retryAfter });
			if (!op.again || !op.wait) return op.end(error);
			op.sentAt = 0;
			putBack([op]);
			flushLater();
		} else op?.end(error, payload);
	}

	function request(payload, { recipient, replies = Infinity, idle = 60, timeout = opts.timeout, signal } = {}) {
		const { items, push, end } = stream(Infinity, () => {
			if (sent.has(op.id)) control('cancel', [op.id]);
			op.end();
		});
		const op = operation({ type: 'request', payload, recipient }, timeout, (err) => {
			signal?.removeEventListener('abort', items.close);
			end(err);
		}, {
			onResponse(value) {
				if (Object.keys(value ?? {}).join() === 'error' && String(value.error).includes('|||')) return op.end(errorOf(value.error));
				push(value);
				clearTimeout(op.timer);
				--replies > 0 ? op.timer = after(idle, op.end) : op.end();
			},
		});
		signal?.addEventListener('abort', items.close);
		isReady() ? transmit(op) : op.end(final ?? new NotConnected());
		return items;
	}

	// Frames

	function received(data) {
		heardAt = now();
		try {
			const frame = JSON.parse(data);
			frames[frame.type]?.(frame, frame.payload);
		} catch (error) {
			notify('error', { error });
		}
	}

	const find = (undo, name) => regs.get(`${undo} ${name}`);
	const frames = {
		__proto__: null,
		result: answered,
		error: answered,
		event(frame, payload) {
			const key = payload?.revision > 0 && frame.event.startsWith('kv/') && frame.event.slice(3);
			const reg = find('unwatch', key) ?? find('unsubscribe', frame.event);
			if (reg?.active) reg.onFrame(frame);
		},
		message(frame) {
			const { queue, id } = frame, reg = find('release', queue);
			if (reg) reg.onFrame(frame);
			else if (queue) giveBack(queue, [id]); // it was on its way when the consumer ended
		},
		response: ({ id }, payload) => sent.get(id)?.onResponse?.(payload),
		call: (frame, payload = []) => perform(frame, payload, find('unregister', frame.method)),
		request: (frame, payload) => perform(frame, [payload], find('unacknowledge', payload?.action) ?? find('unacknowledge', '*')),
		auth: ({ stage }, payload) => auths.shift()?.(stage === null ? errorOf(payload) : undefined),
		system({ id, event }, payload) {
			if (event === 'broker.cancel') running.get(id)?.abort(new Cancelled());
			else if (event === 'broker.error') notify('error', { error: errorOf(payload.error) });
			else if (event === 'broker.expiring') {
				notify('expiring', { delay: payload.left / 1000 });
				if (canRenew) credential().then((token) => { if (token) refresh(token); });
			} else if (event === 'broker.gap') {
				const gap = { why: 'slow', ...payload }, found = [...regs.values()].filter((reg) => reg.covers?.(gap.topic));
				found.length ? found.forEach((reg) => reg.onGap(gap)) : notifyGap(gap);
			}
		},
	};
	const notifyGap = (gap) => notify('gap', { reason: gap.why, gap });

	// Performs a call, or responds to a request.
	async function perform({ type, id, sender: caller }, values, reg) {
		const control = new AbortController(), { signal } = control, isCall = type === 'call';
		const respond = (payload = null, type = isCall ? 'result' : 'response') => {
			const frame = encode({ type, id, payload });
			if (!signal.aborted) send(frame);
		};
		try {
			if (!reg) throw new NotFound('not performed here any more');
			running.set(id, control);
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
		if (running.get(id) === control) running.delete(id);
	}

	// Registrations, which are made again with each connection

	function register(method, undo, name, more) {
		const key = `${undo} ${name}`, ready = deferred();
		let asked = 0, failures = 0, timer, isKnown, isPaused;
		function still() {
			clearTimeout(timer);
			reg.active = false;
			return ++asked;
		}
		function release() {
			still();
			if (isReady()) control(undo, [name]);
		}
		function failed(error) {
			// If it was in place before, who has its name now may be a connection that is dead.
			const passing = isKnown ? /^(TIMEOUT|UNAVAILABLE|TAKEN|RATE_LIMITED)$/ : /^(TIMEOUT|UNAVAILABLE)$/;
			if (reg.onRefused?.(error)) return;
			notify('registration-failed', { reason: key, error });
			if (!passing.test(error.code) && !isRate(error)) reg.end(error);
			else if (!reg.ended) timer = after(Math.min(10, 0.5 * 2 ** failures++) * (0.5 + Math.random() / 2), reg.begin);
		}
		const { items, ...source } = stream(opts.maxUnread, () => {
			reg.ended || release();
			reg.end();
		}, () => {
			if (reg.ended || !isPaused) return;
			isPaused = false;
			if (isReady()) reg.begin();
		});
		const reg = {
			items, ...source, onAnswer: noop, onLost: noop, onEnd: noop, ...more,
			begin() {
				const mine = still();
				if (!isPaused) control(method, reg.values(), (err, result) => {
					if (mine !== asked) return;
					if (err) return failed(err);
					reg.active = isKnown = true;
					failures = 0;
					ready.resolve(result);
					reg.onAnswer(result);
					settle();
				});
			},
			pause() {
				isPaused = true;
				release();
			},
			lost() {
				still();
				reg.onLost();
			},
			end(err) {
				if (reg.ended) return;
				still();
				reg.ended = true;
				regs.delete(key);
				ready.reject(err ?? new Closed());
				reg.onEnd();
				source.end(err);
				settle();
			},
		};
		items.ready = ready.promise;
		if (regs.has(key)) throw new Invalid(`there is one of ${name} already`);
		final ? reg.end(final) : regs.set(key, reg);
		if (isReady()) reg.begin();
		return reg;
	}

	function subscribe(topic, terms, callback) {
		const isMany = !terms.exact && /[*>]/.test(topic), at = { __proto__: null };
		const needed = terms.from ?? terms.cursor ?? terms.last; // what is stored; without them it can do with what is live
		let isBegun, isLive;
		const reg = register('subscribe', 'unsubscribe', topic, {
			values() {
				const found = isMany && Object.keys(at).length ? at : at[topic];
				const more = isBegun ? { last: undefined, from: found ?? terms.from } : needed === undefined && { from: 'new' };
				return withOptions([topic], isLive ? terms : { ...terms, ...more });
			},
			onAnswer({ positions, epoch, id, lost }) {
				if (isBegun && isLive) reg.onGap({ topic, why: 'away' });
				isBegun = true;
				if (epoch && !isLive) Object.assign(at, positions ?? { [topic]: { epoch, id } });
				for (const gap of [lost ?? []].flat()) reg.onGap({ topic, ...gap });
			},
			onRefused({ code }) {
				if (needed !== undefined || isLive || !/^(DENIED|INVALID|TOO_LARGE)$/.test(code)) return false;
				isLive = true;
				reg.begin();
				return true;
			},
			onFrame(frame) {
				const { topic: own = topic, name = own, sender = '', dt: time, epoch = '', cursor = '', content_type: contentType = '' } = frame;
				const id = epoch ? frame.id : 0, position = epoch ? { epoch, id } : null;
				if (id && !isLive) {
					if (at[own]?.epoch === epoch && id <= at[own].id) return counts.duplicates++;
					at[own] = position;
				}
				counts.events++;
				reg.push({ topic: own, name, payload: payloadOf(frame), sender, time, id, epoch, position, cursor, contentType });
				if (items.length < opts.maxUnread) return;
				if (id && !isLive) return reg.pause();
				if (items.length > opts.maxUnread) reg.onGap({ topic: own, why: 'slow', count: reg.clear(1).length });
			},
			covers: (name) => name === topic || (isMany && matches(topic, name)),
			onGap(gap) {
				items.gaps = [...items.gaps.slice(-99), gap];
				notifyGap(gap);
			},
		});
		const { items } = reg;
		Object.defineProperty(items, 'position', { get: () => at[topic] });
		return pump(items, callback);
	}

	function watch(pattern, terms, callback) {
		const known = new Map(); // revisions of the keys that are there
		let epoch, revision = 0;
		function changed(change) {
			change.value === null ? known.delete(change.key) : known.set(change.key, change.revision);
			counts.events++;
			reg.push(change);
		}
		const reg = register('watch', 'unwatch', pattern, {
			values: () => withOptions([pattern], { ...terms, from: epoch && { epoch, revision } }),
			onAnswer(begun) {
				const isSame = begun.epoch === epoch, { entries } = begun;
				epoch = begun.epoch;
				if (!begun.snapshot) return;
				for (const key of known.keys()) {
					if (!entries.some((each) => each.key === key)) changed({ key, value: null, revision: 0, kind: 'missed', time: 0 });
				}
				for (const each of entries) {
					if (!isSame || !(known.get(each.key) >= each.revision)) changed({ ...each, kind: 'present', time: 0 });
				}
				revision = begun.revision;
			},
			onFrame({ name: kind, payload: { timestamp: time, ...change } }) {
				if (change.revision <= known.get(change.key)) return counts.duplicates++;
				revision = Math.max(revision, change.revision);
				changed({ ...change, kind, time });
				if (reg.items.length >= opts.maxUnread) reg.pause();
			},
			covers: (topic) => topic === `kv/${pattern}`,
			onGap(gap) {
				notifyGap(gap);
				reg.begin();
			},
		});
		return pump(reg.items, callback);
	}

	function consume(queue, terms, callback) {
		const { prefetch = 1 } = terms;
		let lostAt = Infinity;
		function clear() {
			const found = reg.clear();
			for (const job of found) job.stop();
			return found;
		}
		const reg = register('consume', 'release', queue, {
			values: () => [queue, { ack: true, prefetch, ...terms }],
			onFrame(frame) {
				counts.jobs++;
				reg.push(jobOf(frame));
			},
			onAnswer() {
				if (now() - lostAt > 5) clear(); // for so long the broker keeps the jobs of a client with a name
				lostAt = Infinity;
			},
			onLost() {
				lostAt = Math.min(lostAt, now());
				if (!opts.name || queue === '@me') clear();
			},
			onEnd() {
				giveBack(queue, clear().map(({ id }) => id));
			},
		});
		for (let worker = 0; worker < prefetch; worker++) pump(reg.items, callback && ((job) => job.run(callback)));
		return reg.items;
	}

	// Consumes no more, and returns jobs that nobody has begun: that they were delivered counts for nothing.
	function giveBack(queue, ids) {
		while (ids.length && isReady()) control('release', [queue, { not_begun: ids.splice(0, 1000) }]);
	}

	function jobOf({ id, queue, payload, delivery, lease, ref = '', sender = '', dt: time }) {
		let timer = after(lease / 2, extend);
		const tell = (kind) => (error) => notify(kind, { reason: `${queue} ${id}`, error });
		function extend() {
			timer = after(lease / 2, extend);
			if (isReady()) control('extend', [id, lease], (err) => {
				if (!(err instanceof NotFound) || job.settled) return;
				job.stop();
				tell('job-lost')(err);
			});
		}
		// Within the lease, or who else gets it says what has become of it.
		function settled(method, more) {
			job.settled = true;
			job.stop();
			return ask(`broker.${method}`, withOptions([id], more), { timeout: Math.max(lease, 1) }, true, noop);
		}
		const job = {
			id, queue, payload, delivery, lease, ref, sender, time, settled: false,
			done: () => settled('done', {}),
			fail: (reason, delay) => settled('fail', { reason, delay }),
			extend: (seconds) => ask('broker.extend', [id, seconds], {}, true, noop),
			async run(work) {
				let end = job.done;
				try {
					await work(job);
				} catch (err) {
					tell('job-failed')(err);
					end = () => job.fail(textOf(err));
				}
				if (!job.settled) await end().catch(tell('job-lost'));
			},
			stop() {
				clearTimeout(timer);
				jobs.delete(job);
			},
		};
		jobs.add(job);
		return job;
	}

	function pump(items, work) {
		const fail = (error) => notify('error', { error });
		const all = async () => { for await (const item of items) await Promise.resolve(item).then(work).catch(fail); };
		if (work) all().catch(fail);
		return items;
	}

	function settle() {
		if (isReady() && [...regs.values()].every((reg) => reg.active)) settles.splice(0).forEach(({ resolve }) => resolve());
	}

	// What applications may do

	function promised(waiting) {
		const made = deferred();
		final ? made.reject(final) : waiting.push(made);
		return made.promise;
	}
	function refresh(token) {
		const out = deferred();
		if (!isReady()) out.reject(final ?? new NotConnected());
		else authenticate(token, (error) => {
			out.end(error);
			notify(error ? 'auth-failed' : 'refreshed', { error });
		});
		return out.promise;
	}
	// The options and the callback may stand in either order.
	const source = (work) => (name, one, other) => (one?.call ? work(name, other ?? {}, one) : work(name, one ?? {}, other));
	const handle = (method, undo) => (name, handler, terms = {}) => {
		if (!handler?.call) throw new Invalid(`no function for ${name}`);
		return register(method, undo, name, { handler, values: () => withOptions([name], terms) }).items;
	};
	const verb = (method, values, { timeout, wait, signal, ...more } = {}, again, read) =>
		ask(`broker.${method}`, withOptions(values, more), { timeout, wait, signal }, again, read);
	// `count` arguments stand before the options, and `member` of the answer is wanted.
	const simple = (method, count, again, member) => (...values) =>
		verb(method, values.slice(0, count).filter((each) => each !== undefined), values[count], again, (found) => found[member] ?? found);

	return {
		get state() { return state; },
		get id() { return identity?.id ?? ''; },
		connect() {
			const start = promised(starts);
			if (isReady()) starts.pop().resolve(identity);
			else if (state === 'idle') {
				for (const each of ['online', 'pageshow']) globalThis.addEventListener?.(each, look, life);
				page?.addEventListener('visibilitychange', look, life);
				connect();
			}
			return start;
		},
		close() {
			if (isOpen()) {
				finish(new Closed());
				enter('closing', opts.closeTimeout, stop);
				socket.close(1000);
			} else if (state !== 'closing') stop();
			return ended.promise;
		},
		settled() {
			const settled = promised(settles);
			settle();
			return settled;
		},
		refresh,
		on(kind, listener) {
			const all = listeners.get(kind) ?? new Set();
			listeners.set(kind, all.add(listener));
			return () => all.delete(listener);
		},
		stats() {
			const { started, succeeded, failed, timedOut, cancelled } = counts, { rate } = limiter;
			const pending = started - succeeded - failed - timedOut - cancelled;
			return { state, ...counts, pending, buffered: outbox.size, bufferedBytes: size, rate: rate < Infinity ? rate : null };
		},
		setRate(limit) {
			limiter.limit = limit;
			flush();
		},
		subscribe: source(subscribe),
		watch: source(watch),
		consume: source(consume),
		serve: handle('register', 'unregister'),
		respond: handle('acknowledge', 'unacknowledge'),
		request,
		call: (procedure, values = [], terms) => ask(procedure, values, terms),
		publish(topic, payload, terms = {}) {
			const { payload: body, encoding } = bodyOf(payload);
			return verb('publish', [topic, body], { ...terms, encoding }, terms.durable && terms.key, (found) => ({
				id: 0, epoch: '', time: 0, duplicate: false, delivered: null, ...found,
			}));
		},
		batch(events, terms) {
			const drafts = events.map((each) => withOptions([], { ...each, ...bodyOf(each.payload) })[0]);
			return verb('batch', [drafts], terms, events.every(({ key }) => key), (found) => found.events);
		},
		read: (topic, terms) => verb('read', [topic], terms, true, ({ events, ...more }) => ({
			...more, events: events.map((each) => ({ ...each, payload: payloadOf(each), position: { epoch: each.epoch, id: each.id } })),
		})),
		enqueue: (queue, payload, terms) => verb('enqueue', [queue, payload], terms, terms?.key),
		queue: (name) => verb('queue', [name], {}, true, ({ in_flight: inFlight, ...more }) => ({ ...more, inFlight })),
		retry: (queue, ids = 'all') => simple('retry', 2, false, 'retried')(queue, ids),
		drop: (queue, ids = 'all') => simple('drop', 2, false, 'dropped')(queue, ids),
		whoami: simple('whoami', 0, true),
		ack: simple('ack', 3, true),
		cursors: simple('cursors', 1, true, 'cursors'),
		members: simple('members', 1, true, 'members'),
		procedures: simple('methods', 1, true, 'methods'),
		get: simple('get', 1, true),
		set: simple('set', 2),
		patch: simple('patch', 2),
		increment: simple('increment', 2),
		delete: simple('delete', 1, false, 'deleted'),
		range: simple('range', 2, true, 'entries'),
	};
}

export class Client {
	constructor(url, options) { Object.defineProperties(this, Object.getOwnPropertyDescriptors(makeClient(url, options))); }
}
