/** A client of txbroker over its native dialect, for browsers and Node 20 or later.  All times are in seconds, but a `time` or `expires` that comes is in milliseconds since 1970. */

/** How a client behaves. */
export interface Options {
  /** The client id that it asks for. */
  name?: string;
  /** A credential; a function is asked for one with each attempt, and when one expires. */
  token?: string | (() => string | Promise<string>);
  /** What connects; default: `globalThis.WebSocket`, which Node has from version 22 on. */
  WebSocket?: new (url: string) => any;
  /** Of what has no other: 30. */
  timeout?: number;
  /** How long after its deadline a call may still be answered, if `onLate` wants to know: 60. */
  lateWindow?: number;
  /** Whether what is asked while there is no connection waits for one, or fails at once: true. */
  wait?: boolean;
  /** What the first wait after a loss takes at most (0.2), and any wait (30). */
  firstWait?: number;
  maxWait?: number;
  /** Attempts that may fail in a row until it gives up: Infinity. */
  maxAttempts?: number;
  /** Until a connection is ready: 10. */
  connectTimeout?: number;
  /** Of silence after which it looks whether the broker is there (20), and for its answer (10). */
  pingInterval?: number;
  pingTimeout?: number;
  /** For a close in good order: 3. */
  closeTimeout?: number;
  /** Bytes of the frames that may wait to be sent, or answered: 16 MiB. */
  maxBufferedBytes?: number;
  /** Of one frame, as TXBROKER_MAX_MESSAGE_BYTES: 1 MiB. */
  maxMessageBytes?: number;
  /** Items of one registration that may wait for the application; what comes then is asked for again later: 1000. */
  maxUnread?: number;
  /** Operations per second at most; null: as the broker lets it. */
  rate?: number | null;
  /** For how long after it was sent first something is sent again; less than TXBROKER_DEDUP_SECONDS: 240. */
  resendWindow?: number;
}

/** Of one operation. */
export interface Asking {
  timeout?: number;
  /** Whether it waits for a connection. */
  wait?: boolean;
  /** Ends it with `Cancelled`, whose `cause` is the reason of the signal. */
  signal?: AbortSignal;
}

/** A place in a stored topic. */
export interface Position { epoch: string; id: number }

export interface Identity { id: string; session: string; stage: string }

/** The position of what is stored; or to how many sessions it was `delivered`. */
export interface Published { id?: number; epoch?: string; time?: number; duplicate?: boolean; delivered?: number }

export interface Event<T = any> {
  topic: string;
  /** The kind of event; the topic when it has none. */
  name: string;
  payload: T;
  /** "base64" if the payload is that of bytes. */
  encoding?: string;
  content_type?: string;
  sender?: string;
  time: number;
  /** Of a stored one, else 0, "" and null. */
  id: number;
  epoch: string;
  position: Position | null;
  /** That acknowledges it. */
  cursor?: string;
}

/** An event as `read` returns it. */
export interface StoredEvent<T = any> {
  topic: string; name: string; payload: T; sender: string; time: number; id: number; epoch: string;
  content_type?: string; encoding?: string; from?: string;
}

export interface Page<T = any> { events: StoredEvent<T>[]; epoch: string; first: number; head: number }

export interface Member { id: string; sessions: number; info?: any }

export interface Start {
  subscribed: string[]; epoch?: string; id?: number; positions?: Record<string, Position>; recovered?: boolean;
  lost?: any; members?: Member[];
}

/** Events, or changes of keys, that can not be had; for "slow" and "away", what was live may be missing. */
export interface Gap { topic: string; why: string; from?: number | null; to?: number | null; count?: number }

export interface Entry { key: string; value?: string | null; revision: number; expires?: number }

/** A key as it is now: `value` is null when it was removed; `kind` is "present", "missed", or the broker's word. */
export interface Change {
  key: string; value: string | null; revision: number; kind: string; previous?: string | null; time: number;
}

export type NoticeKind =
  | 'connecting' | 'ready' | 'lost' | 'waiting' | 'stopped' | 'expiring' | 'refreshed' | 'auth-failed'
  | 'rate-limited' | 'gap' | 'registration-failed' | 'job-failed' | 'job-lost' | 'error';

/** Something in the life of a client; `delay` until the next attempt, or until the credential ends. */
export interface Notice { kind: NoticeKind; reason: string; code: number; delay: number; error?: any; gap?: Gap }

/** Counts since the client was made; `started` is the sum of succeeded, failed, timedOut, cancelled and pending. */
export interface Statistics {
  state: string; connections: number; losses: number; started: number; succeeded: number; failed: number;
  timedOut: number; cancelled: number; pending: number; resent: number; buffered: number; bufferedBytes: number;
  late: number; events: number; duplicates: number; jobs: number; served: number; rateLimited: number;
  /** Operations per second; Infinity: without limit. */
  rate: number;
}

/** What comes one after the other; to leave a `for await` closes it. */
export interface Items<T> extends AsyncIterableIterator<T> {
  /** What has come and was not asked for. */
  readonly unread: readonly T[];
  close(): void;
}

/** Items of a registration; `ready` ends when it is in place for the first time. */
export interface Registered<T, R = unknown> extends Items<T> { readonly ready: Promise<R> }

export interface Job<T = any> {
  readonly id: string;
  readonly queue: string;
  readonly payload: T;
  /** 1 for the first. */
  readonly delivery: number;
  readonly lease: number;
  readonly ref?: string;
  readonly sender?: string;
  readonly time: number;
  /** Whether the broker was told what has become of it. */
  readonly settled: boolean;
  done(): Promise<unknown>;
  fail(reason?: string, delay?: number): Promise<unknown>;
  /** It is done when `work` is, and has failed when that throws. */
  run(work: (job: Job<T>) => unknown): Promise<void>;
}

export interface PublishOptions extends Asking {
  durable?: boolean;
  /** One event of a topic by it; a durable publication with a key is sent again after a loss. */
  key?: string;
  name?: string;
  /** The newest id that the topic must have, 0 for none, else `Conflict`. */
  expect?: number | Position;
  ttl?: number;
  retain?: boolean;
  exclude?: string[];
  content_type?: string;
  /** "base64" if the payload is a text of bytes, which other dialects get as bytes. */
  encoding?: 'base64';
}

export interface SubscribeOptions {
  /** Where it begins; default: with what is new.  After a loss it goes on where it was. */
  from?: Position | number | 'start' | 'new' | Record<string, Position>;
  cursor?: string;
  /** Whether your own live events come, too. */
  echo?: boolean;
  exact?: boolean;
  last?: number;
  /** True, or what you say of yourself. */
  presence?: unknown;
}

export interface CallOptions<T = any> extends Asking {
  /** The client, or session, that is to perform it. */
  recipient?: string;
  /** Is called with a result that comes after the deadline. */
  onLate?: (result: T) => void;
}

/** `this` of a handler: `signal` is aborted when nobody waits for the answer any more. */
export interface Invocation { signal: AbortSignal; caller: string }

export interface ServeOptions { mode?: 'single' | 'roundrobin' | 'leastbusy'; max_in_flight?: number; queue?: number }

export interface Registration { readonly ready: Promise<unknown>; close(): void }

export class Client {
  /**
   * Default: /v1/ws of the host that the page is from.  `http:` and `https:` stand for `ws:` and `wss:`.
   * Of several nodes, each attempt takes the next.
   */
  constructor(url?: string | URL | (string | URL)[], options?: Options);
  /** "idle", "connecting", "greeting", "ready", "waiting", "closing" or "stopped". */
  readonly state: string;
  /** The client id that the broker knows it by; "" before it is connected. */
  readonly id: string;
  /** Connects, and stays connected until `close`; ends when it is ready, or has given up. */
  connect(): Promise<Identity>;
  close(): Promise<void>;
  /** Ends when everything that is subscribed to, watched, consumed and performed is so at the broker. */
  settled(): Promise<void>;
  /** Shows another credential of the same principal. */
  refresh(token: string): Promise<void>;
  /** Calls `listener` with each notice of a kind, '*': of any; returns what ends that. */
  on(kind: NoticeKind | '*', listener: (notice: Notice) => void): () => void;
  stats(): Statistics;
  setRate(limit: number | null): void;

  publish(topic: string, payload: unknown, options?: PublishOptions): Promise<Published>;
  read<T = any>(topic: string, options?: Asking & {
    after?: number | Position; before?: number | Position; last?: number; limit?: number;
  }): Promise<Page<T>>;
  /** A subscription by `cursor` begins after what it has acknowledged. */
  ack(cursor: string, topic: string, position: number | Position, options?: Asking): Promise<{
    cursor: string; id: number; back: boolean;
  }>;
  members(topic: string, options?: Asking & { limit?: number; after?: string }): Promise<Member[]>;
  /** `Taken`: the client subscribes to it already. */
  subscribe<T = any>(topic: string, options?: SubscribeOptions, callback?: (event: Event<T>) => unknown): Registered<Event<T>, Start>;
  subscribe<T = any>(topic: string, callback: (event: Event<T>) => unknown, options?: SubscribeOptions): Registered<Event<T>, Start>;

  /** Calls a procedure, or a method of the broker, as `broker.batch`. */
  call<T = any>(procedure: string, args?: unknown[], options?: CallOptions<T>): Promise<T>;
  /** The arguments of the handler are those of the call; what it throws is the error of the caller. */
  serve(procedure: string, handler: (this: Invocation, ...args: any[]) => unknown, options?: ServeOptions): Registration;
  /** The handler returns one response, or is an async generator of any number. */
  respond(topic: string, handler: (this: Invocation, payload: any) => unknown): Registration;
  /**
   * Asks for a stream of responses, which ends after so many `replies`, or `idle` seconds after the last.
   * Behind ten times `maxUnread` responses that nobody has read it ends with `Cancelled`.
   */
  request<T = any>(payload: unknown, options?: {
    recipient?: string; replies?: number; idle?: number; timeout?: number; signal?: AbortSignal;
  }): Items<T>;

  enqueue(queue: string, payload: unknown, options?: Asking & {
    key?: string; delay?: number; order?: string; ttl?: number;
  }): Promise<{ id: string; duplicate: boolean }>;
  /** Of the queue `@me`, the messages of the own mailbox.  `Taken`: the client consumes it already. */
  consume<T = any>(queue: string, options?: ConsumeOptions, callback?: (job: Job<T>) => unknown): Registered<Job<T>>;
  consume<T = any>(queue: string, callback: (job: Job<T>) => unknown, options?: ConsumeOptions): Registered<Job<T>>;

  get(key: string): Promise<Entry>;
  set(key: string, value: string, options?: Asking & { ttl?: number; revision?: number }): Promise<Entry>;
  patch(key: string, value: string): Promise<Entry>;
  increment(key: string, amount?: number): Promise<Entry>;
  delete(key: string, options?: Asking & { revision?: number }): Promise<boolean>;
  range(first: string, last: string, options?: Asking & { limit?: number }): Promise<Entry[]>;
  /** `Taken`: the client watches it already. */
  watch(pattern: string, options?: WatchOptions, callback?: (change: Change) => unknown): Registered<Change>;
  watch(pattern: string, callback: (change: Change) => unknown, options?: WatchOptions): Registered<Change>;
}

export interface ConsumeOptions { prefetch?: number; lease?: number; filter?: Record<string, unknown> }

export interface WatchOptions { previous?: boolean; exact?: boolean }

/** Something that was asked for has failed; `done`: it may have been done all the same. */
export class ClientError extends Error {
  constructor(message?: string, fields?: object);
  readonly code: string;
  readonly done: boolean;
}
export class NotFound extends ClientError {}
export class Timeout extends ClientError {}
export class Gone extends ClientError {}
/** A name has an owner already, or this client a registration of it. */
export class Taken extends ClientError {}
export class Unauthenticated extends ClientError {}
export class Denied extends ClientError {}
export class Invalid extends ClientError {}
export class TooLarge extends ClientError {}
/** `retryAfter`: seconds after which to try again. */
export class RateLimited extends ClientError { readonly retryAfter: number }
export class Unavailable extends ClientError {}
export class Busy extends ClientError {}
export class Cancelled extends ClientError {}
/** `head` is the newest id of the topic, if that is what was expected. */
export class Conflict extends ClientError { readonly head?: number }
/** There is no connection, and it was asked not to wait for one.  Nothing was sent. */
export class NotConnected extends ClientError {}
/** The connection was lost before the answer; it may have been done. */
export class ConnectionLost extends ClientError {}
export class BufferFull extends ClientError {}
export class Closed extends ClientError {}
/** The callee has answered with an error of its own; thrown by a procedure, it is such an error. */
export class CallFailed extends ClientError { constructor(message?: string, code?: string) }
