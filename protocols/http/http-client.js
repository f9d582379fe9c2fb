// A client of the broker's HTTP API, for browsers and Node 18 or later:
//
//   import { Broker } from 'http://localhost:8000/v1/http-client.js';
//   const broker = new Broker('http://localhost:8000', 'credential');
//   for await (const event of broker.follow('news', { from: 'start' })) console.log(event.id, event.data);

export class BrokerError extends Error {
  constructor(status, problem) {
    super(problem.detail || `HTTP status ${status}`);
    Object.assign(this, { name: 'BrokerError', status, code: problem.code, problem });
  }
}

const name = (text) => (text === '.' || text === '..' ? text.replaceAll('.', '%2E') : encodeURIComponent(text));
const given = (fields) => Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);

export class Broker {
  constructor(url = '', credential = '') {
    this.url = `${url.replace(/\/+$/, '')}/v1`;
    this.credential = credential;
  }

  async request(method, path, { query = {}, headers = {}, body, signal } = {}) {
    const said = new URLSearchParams(given(query)).toString();
    const fields = { ...Object.fromEntries(given(headers)) };
    if (this.credential) fields.Authorization = `Bearer ${this.credential}`;
    const response = await fetch(this.url + path + (said && `?${said}`), { method, headers: fields, body, signal });
    if (!response.ok) throw new BrokerError(response.status, await response.json().catch(() => ({})));
    return response;
  }

  async json(method, path, options = {}) {
    const body = options.value === undefined ? undefined : JSON.stringify(options.value);
    const response = await this.request(method, path, { ...options, body });
    return response.status === 204 ? null : response.json();
  }

  // Topics

  publish(topic, payload, { durable, retain, name: kind, key, expect } = {}) {
    const headers = { 'Idempotency-Key': key, 'If-Match': expect === undefined ? undefined : `"${expect}"` };
    const query = { durable: durable ? 1 : undefined, retain: retain ? 1 : undefined, name: kind };
    return this.json('POST', `/topics/${name(topic)}`, { value: payload, query, headers });
  }

  batch(events) {
    return this.json('POST', '/batch', { value: events });
  }

  read(topic, query = {}) {
    return this.json('GET', `/topics/${name(topic)}`, { query });
  }

  members(topic, query = {}) {
    return this.json('GET', `/topics/${name(topic)}/members`, { query });
  }

  acknowledge(cursor, topic, position) {
    return this.json('PUT', `/cursors/${name(cursor)}/${name(topic)}`, { value: position });
  }

  // Yields { id, event, data } without end; after a break it goes on behind the last one.
  follow(topic, { signal, ...query } = {}) {
    return this.stream(`/topics/${name(topic)}`, query, signal);
  }

  async *stream(path, query, signal) {
    let last, wait = 1000;
    for (;;) {
      try {
        const headers = { Accept: 'text/event-stream', 'Last-Event-ID': last };
        const response = await this.request('GET', path, { query, headers, signal });
        for await (const message of messagesOf(response.body)) {
          if (message.retry) wait = message.retry;
          if (message.id !== undefined) last = message.id;
          if (message.data !== undefined) yield { id: last, event: message.event, data: JSON.parse(message.data) };
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof BrokerError && error.status < 500 && error.status !== 429) throw error;
        if (error instanceof SyntaxError) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  // Keys

  async get(key) {
    try {
      const response = await this.request('GET', `/keys/${name(key)}`);
      return { value: await response.text(), tag: response.headers.get('ETag') };
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  set(key, value, { ttl, tag, create } = {}) {
    const headers = { 'If-Match': tag, 'If-None-Match': create ? '*' : undefined };
    return this.request('PUT', `/keys/${name(key)}`, { query: { ttl }, headers, body: value }).then((r) => r.json());
  }

  delete(key, { tag } = {}) {
    return this.json('DELETE', `/keys/${name(key)}`, { headers: { 'If-Match': tag } });
  }

  increment(key, amount = 1) {
    return this.json('POST', `/keys/${name(key)}/increment`, { value: amount });
  }

  list(prefix, query = {}) {
    return this.json('GET', '/keys', { query: { prefix, ...query } });
  }

  watch(prefix, { signal, ...query } = {}) {
    return this.stream('/keys', { prefix, ...query }, signal);
  }

  // Calls and work queues

  call(procedure, args = [], { timeout, key } = {}) {
    const headers = { 'Idempotency-Key': key };
    return this.json('POST', `/call/${name(procedure)}`, { value: args, query: { timeout }, headers });
  }

  enqueue(queue, payload, query = {}) {
    return this.json('POST', `/queues/${name(queue)}`, { value: payload, query });
  }

  claim(queue, { filter, ...query } = {}) {
    const wanted = filter === undefined ? undefined : JSON.stringify(filter);
    return this.json('POST', `/queues/${name(queue)}/claim`, { query: { ...query, filter: wanted } });
  }

  done(job) {
    return this.json('POST', `/queues/${name(job.queue)}/jobs/${name(job.id)}/done`);
  }

  // Gives it back: it comes again at once, as if it was not claimed.
  release(job) {
    return this.json('POST', `/queues/${name(job.queue)}/jobs/${name(job.id)}/release`);
  }

  fail(job, options = {}) {
    return this.json('POST', `/queues/${name(job.queue)}/jobs/${name(job.id)}/fail`, { value: options });
  }

  extend(job, seconds) {
    return this.json('POST', `/queues/${name(job.queue)}/jobs/${name(job.id)}/extend`, { value: { seconds } });
  }
}

// Yields the server-sent events of a body, those without data too.
async function* messagesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (text + value).split('\n\n');
      text = blocks.pop();
      for (const block of blocks) yield messageOf(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function messageOf(block) {
  const message = {};
  for (const line of block.split('\n')) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === 'data') message.data = message.data === undefined ? value : `${message.data}\n${value}`;
    else if (field === 'retry') message.retry = Number(value);
    else if (field) message[field] = value;
  }
  return message;
}
