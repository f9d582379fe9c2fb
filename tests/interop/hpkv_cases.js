// Runs cases with the real client and says one line of JSON for each.
//
// "node": the client's own Node transport.  "browser": the path it takes in a page,
// on the WebSocket that Node itself brings.
'use strict';

const assert = require('node:assert');
const [mode, baseUrl, apiKey] = process.argv.slice(2);

if (mode === 'node') {
  delete globalThis.WebSocket;
} else {
  assert.strictEqual(typeof globalThis.WebSocket, 'function', 'this Node has no WebSocket of its own');
}
const { HPKVClientFactory, WebsocketTokenManager } = require('@hpkv/websocket-client');

const clients = [];
const unthrottled = { throttling: { enabled: false } };

function api(config = unthrottled, url = baseUrl, key = apiKey) {
  const client = HPKVClientFactory.createApiClient(key, url, config);
  clients.push(client);
  return client;
}

async function connectedApi(config) {
  const client = api(config);
  await client.connect();
  return client;
}

async function token(wanted, key = apiKey) {
  return new WebsocketTokenManager(key, baseUrl).generateToken(wanted);
}

function subscriber(text, config = unthrottled) {
  const client = HPKVClientFactory.createSubscriptionClient(text, baseUrl, config);
  clients.push(client);
  return client;
}

async function connectedSubscriber(wanted, config) {
  const client = subscriber(await token(wanted), config);
  await client.connect();
  return client;
}

// Collect the notifications of a client from now on.
function notifications(client) {
  const heard = [];
  client.subscribe((notification) => heard.push(notification));
  return heard;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(question, ms = 60000) {
  const end = Date.now() + ms;
  while (!question()) {
    assert(Date.now() < end, `not within ${ms} ms: ${question}`);
    await pause(5);
  }
}

// Set a key to 'end', and leave of what was heard only what came before that.
async function upTo(writer, heards, ...keys) {
  for (const key of keys) await writer.set(key, 'end');
  for (const heard of heards) {
    await until(() => heard.some(({ value }) => value === 'end'));
    heard.splice(heard.findIndex(({ value }) => value === 'end'));
  }
}

// The error that a promise ends with.
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: 'it should have failed' });
}

async function fails(code, promise, text) {
  const error = await failure(promise);
  assert.strictEqual(error.code, code, error.message);
  if (text) assert.strictEqual(error.message, text);
}

let made = 0;
const unique = (name) => `${name}-${Date.now()}-${++made}`;

async function run(cases) {
  for (const [name, body] of Object.entries(cases)) {
    let error = '';
    try {
      await body();
    } catch (caught) {
      error = String((caught && caught.stack) || caught);
    }
    console.log(JSON.stringify({ case: name, error }));
    for (const client of clients.splice(0)) {
      await client.disconnect().catch(() => {});
      client.destroy();
    }
  }
}

module.exports = {
  api, apiKey, assert, baseUrl, connectedApi, connectedSubscriber, failure, fails, mode, notifications, run,
  subscriber, token, unique, until, upTo,
};
