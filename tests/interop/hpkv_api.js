// The 21 cases of a client with an API key.
'use strict';

const { api, apiKey, assert, connectedApi, failure, fails, run, unique, until } = require('./hpkv_cases');

const succeeded = (answer) => {
  assert.strictEqual(answer.success, true);
  assert.strictEqual(answer.code, 200);
};

run({
  'connects': async () => {
    const client = await connectedApi();
    assert.strictEqual(client.getConnectionStats().isConnected, true);
  },
  'connects once when asked twice at a time': async () => {
    const client = api();
    await Promise.all([client.connect(), client.connect()]);
    assert.strictEqual(client.getConnectionState(), 'CONNECTED');
  },
  'disconnects': async () => {
    const client = await connectedApi();
    await client.disconnect();
    assert.strictEqual(client.getConnectionState(), 'DISCONNECTED');
  },
  'disconnects once when asked twice at a time': async () => {
    const client = await connectedApi();
    await Promise.all([client.disconnect(), client.disconnect()]);
    assert.strictEqual(client.getConnectionState(), 'DISCONNECTED');
  },
  'tells of connecting and disconnecting': async () => {
    const client = api();
    const told = [];
    client.on('connected', () => told.push('connected'));
    client.on('disconnected', () => told.push('disconnected'));
    await client.connect();
    await client.disconnect();
    await until(() => told.length >= 2);
    assert.deepStrictEqual(told.slice(0, 2), ['connected', 'disconnected']);
  },
  'rejects where there is no server': async () => {
    await failure(api({ connectionTimeout: 500 }, 'invalid-url').connect());
  },
  'sets and gets a text': async () => {
    const client = await connectedApi();
    const key = unique('text');
    succeeded(await client.set(key, 'test-value'));
    const answer = await client.get(key);
    assert.strictEqual(answer.code, 200);
    assert.strictEqual(answer.key, key);
    assert.strictEqual(answer.value, 'test-value');
  },
  'sets an object and gets its JSON': async () => {
    const client = await connectedApi();
    const key = unique('object');
    const value = { name: 'test', values: [1, 2.5, null], nested: { a: 'ä' } };
    succeeded(await client.set(key, value));
    assert.strictEqual((await client.get(key)).value, JSON.stringify(value));
  },
  'deletes': async () => {
    const client = await connectedApi();
    const key = unique('delete');
    await client.set(key, 'x');
    succeeded(await client.delete(key));
    await fails(404, client.get(key), 'Record not found');
    await fails(404, client.get(key), 'Record not found');
  },
  'patches the members of an object': async () => {
    const client = await connectedApi();
    const key = unique('patch');
    await client.set(key, { name: 'kept', value: 123 });
    succeeded(await client.set(key, { value: 456, newField: 'new' }, true));
    assert.deepStrictEqual(JSON.parse((await client.get(key)).value), { name: 'kept', value: 456, newField: 'new' });
  },
  'reads a range with both its bounds': async () => {
    const client = await connectedApi();
    for (const letter of 'cab') await client.set(`testing-range-${letter}`, letter);
    const answer = await client.range('testing-range-a', 'testing-range-c');
    assert.deepStrictEqual(answer.records, [...'abc'].map((value) => ({ key: `testing-range-${value}`, value })));
    assert.strictEqual(answer.count, 3);
    assert.strictEqual(answer.truncated, false);
  },
  'reads so many of a range': async () => {
    const client = await connectedApi();
    for (const letter of 'abc') await client.set(`testing-range-limit-${letter}`, letter);
    const answer = await client.range('testing-range-limit-a', 'testing-range-limit-c', { limit: 2 });
    assert.strictEqual(answer.records.length, 2);
    assert.strictEqual(answer.truncated, true);
  },
  'increments': async () => {
    const client = await connectedApi();
    const key = unique('count');
    const first = await client.atomicIncrement(key, 1);
    succeeded(first);
    assert.strictEqual(first.newValue, 1);
    assert.strictEqual((await client.atomicIncrement(key, 5)).newValue, 6);
    assert.strictEqual(parseInt((await client.get(key)).value, 10), 6);
  },
  'gets 404 for a missing key': async () => {
    const client = await connectedApi();
    for (let i = 0; i < 2; i++) await fails(404, client.get(unique('missing')), 'Record not found');
  },
  'deletes no missing key': async () => {
    const client = await connectedApi();
    for (let i = 0; i < 2; i++) await fails(404, client.delete(unique('missing')), 'Record not found');
  },
  'sets no empty key': async () => {
    const client = await connectedApi();
    for (let i = 0; i < 2; i++) await fails(400, client.set('', 'value'), 'Key is required');
  },
  'sets no empty value': async () => {
    const client = await connectedApi();
    for (let i = 0; i < 2; i++) await fails(400, client.set(unique('empty'), ''), 'Value is required');
    await fails(400, client.set(unique('undefined'), undefined), 'Value is required');
  },
  'fails while it is not connected': async () => {
    await failure(api().get('key'));
  },
  'paces itself': async () => {
    const client = await connectedApi({ throttling: { enabled: true, rateLimit: 10 } });
    const begun = Date.now();
    const key = unique('paced');
    await Promise.all(Array.from({ length: 10 }, (_, i) => client.set(`${key}-${i}`, 'x')));
    const took = Date.now() - begun;
    assert(took >= 800, `${took} ms`);
  },
  'sends at once what it does not pace': async () => {
    const client = await connectedApi();
    const begun = Date.now();
    const key = unique('at-once');
    const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => client.set(`${key}-${i}`, 'x')));
    answers.forEach(succeeded);
    assert(Date.now() - begun < 15000); // at its usual pace it would be 20 seconds
  },
  'comes back after a close': async () => {
    const client = await connectedApi({ ...{ throttling: { enabled: false } }, initialDelayBetweenReconnects: 100 });
    const told = [];
    client.on('reconnecting', () => told.push('reconnecting'));
    client.ws.close(1002, 'as a test');
    await until(() => told.length === 1);
    await until(() => client.getConnectionStats().isConnected);
    succeeded(await client.set(unique('back'), 'x'));
    assert(apiKey);
  },
});
