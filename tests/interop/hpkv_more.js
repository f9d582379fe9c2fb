// What the vendor's own cases leave out, with the same client.
'use strict';

const {
  api, assert, baseUrl, connectedApi, connectedSubscriber, failure, fails, notifications, run, subscriber, token,
  unique, until, upTo,
} = require('./hpkv_cases');

// pattern, key, whether it is admitted as accessPattern, whether it is heard of as one of subscribePatterns
const TABLE = [
  ['sub-test-*', 'sub-test-x-1', true, true],
  ['sub-test-*', 'restricted-key-1', false, false],
  ['^user:[0-9]+$', 'user:123', true, true],
  ['^user:[0-9]+$', 'user:123:visits', false, false],
  ['^product:*$', 'product:phone:modelA', true, true],
  ['^product:*$', 'order:1', false, false],
  ['^(product|user):*$', 'user:session:9', true, true],
  ['^(product|user):*$', 'order:1', false, false],
  ['product:headphone:*', 'product:headphone:modelB', true, true],
  ['product:headphone:*', 'product:phone:modelA', false, false],
  ['*:modelA', 'product:headphone:modelA', true, true],
  ['user:123', 'user:1234', true, false],
  ['^[a-z]*$', 'abc', true, true],
  ['^[a-z]*$', 'ab1', false, false],
];

run({
  'increments by two clients are all counted': async () => {
    const key = unique('together');
    const two = [await connectedApi(), await connectedApi()];
    const hundred = (client) => Promise.all(Array.from({ length: 100 }, () => client.atomicIncrement(key, 1)));
    const answers = (await Promise.all(two.map(hundred))).flat();
    assert.strictEqual((await two[0].get(key)).value, '200');
    assert.deepStrictEqual(answers.map(({ newValue }) => newValue).sort((a, b) => a - b), [...Array(200).keys()].map((n) => n + 1));
  },
  '500 sets at once are all done': async () => {
    const client = await connectedApi();
    const key = unique('many');
    const answers = await Promise.all(Array.from({ length: 500 }, (_, i) => client.set(`${key}-${i}`, `value ${i}`)));
    assert(answers.every(({ code }) => code === 200));
    const { records, count, truncated } = await client.range(`${key}-`, `${key}-~`, { limit: 1000 });
    assert.deepStrictEqual([records.length, count, truncated], [500, 500, false]);
  },
  'access patterns admit what the table says': async () => {
    for (const [accessPattern, key, admitted] of TABLE) {
      const client = await connectedSubscriber({ accessPattern });
      const error = await failure(client.get(`${key}`)).catch(() => ({ code: 200 }));
      assert.strictEqual(error.code !== 403, admitted, `${accessPattern} ${key}`);
      await client.disconnect();
    }
  },
  'subscribe patterns hear what the table says': async () => {
    const writer = await connectedApi();
    for (const [pattern, key, , heardOf] of TABLE) {
      const client = await connectedSubscriber({ subscribePatterns: [pattern, 'end'] });
      const heard = notifications(client);
      await writer.set(key, 'x');
      await writer.set('end', 'x');
      await until(() => heard.some((notification) => notification.key === 'end'));
      assert.strictEqual(heard.length === 2, heardOf, `${pattern} ${key}`);
      await client.disconnect();
    }
  },
  'keys and patterns may be asked for together': async () => {
    const client = await connectedSubscriber({ subscribeKeys: ['one*'], subscribePatterns: ['two*'] });
    const heard = notifications(client);
    const writer = await connectedApi();
    for (const key of ['one*', 'oneX', 'two*', 'twoX', 'three']) await writer.set(key, 'x');
    await until(() => heard.length === 3);
    assert.deepStrictEqual(heard.map(({ key }) => key), ['one*', 'two*', 'twoX']);
    await fails(403, client.get('three'));
    assert.strictEqual((await client.get('twoX')).value, 'x');
  },
  'a token without anything is for nothing': async () => {
    const client = await connectedSubscriber({});
    await fails(403, client.get('key'));
  },
  'a wrong key gets no token': async () => {
    const error = await failure(token({ subscribeKeys: ['k'] }, 'wrong-key'));
    assert.strictEqual(error.name, 'AuthenticationError');
    assert.match(error.message, /^Failed to generate token: 401 Unauthorized$/);
  },
  'a wrong pattern gets no token': async () => {
    for (const accessPattern of ['(a+)+', 'x'.repeat(257), '(?=a)']) {
      const error = await failure(token({ accessPattern }));
      assert.match(error.message, /^Failed to generate token: 400 Bad Request$/);
    }
    for (const wanted of [{ subscribeKeys: 'k' }, { subscribePatterns: [1] }, { accessPattern: {} }, []]) {
      assert.match((await failure(token(wanted))).message, /400/);
    }
  },
  'a wrong key does not connect': async () => {
    const error = await failure(api({}, baseUrl, 'wrong-key').connect());
    assert.match(error.message, /connect|403/);
  },
  'a writer hears of its own change behind the answer': async () => {
    const key = unique('own');
    const client = await connectedSubscriber({ subscribeKeys: [key] });
    const order = [];
    client.ws.on('message', (message) => order.push(message.type || 'answer'));
    await client.set(key, 'x');
    await until(() => order.length === 2);
    assert.deepStrictEqual(order, ['answer', 'notification']);
  },
  'all kinds of writes are told of': async () => {
    const key = unique('kinds');
    const heard = notifications(await connectedSubscriber({ subscribeKeys: [key] }));
    const writer = await connectedApi();
    await writer.set(key, { a: 1 });
    await writer.set(key, { b: 2 }, true);
    await writer.delete(key);
    await failure(writer.delete(key));
    await writer.atomicIncrement(key, -2.5);
    await writer.get(key);
    await writer.range(key, key);
    await failure(writer.set(key, ''));
    await writer.set(key, 'end');
    await until(() => heard.some(({ value }) => value === 'end'));
    assert.deepStrictEqual(heard.map(({ value }) => value), ['{"a":1}', '{"a":1,"b":2}', null, '-2.5', 'end']);
  },
  'patching a missing key creates it, and text is appended': async () => {
    const client = await connectedApi();
    const key = unique('append');
    assert.strictEqual((await client.set(key, 'Hello ', true)).code, 200);
    await client.set(key, 'World!', true);
    assert.strictEqual((await client.get(key)).value, 'Hello World!');
  },
  'pages through a range': async () => {
    const client = await connectedApi();
    const base = unique('page');
    const keys = Array.from({ length: 25 }, (_, i) => `${base}-${String.fromCharCode(97 + i)}`);
    await Promise.all(keys.map((key) => client.set(key, key)));
    const found = [];
    let [from, more] = [`${base}-`, true];
    while (more) {
      const { records, truncated } = await client.range(from, `${base}-\u00ff`, { limit: 10 });
      found.push(...records.map(({ key }) => key));
      from = `${found[found.length - 1]}\u0000`;
      more = truncated;
    }
    assert.deepStrictEqual(found, keys);
  },
  'a range shows what the token admits': async () => {
    const writer = await connectedApi();
    const base = unique('admitted');
    for (const name of ['a1', 'b1', 'a2', 'b2', 'a3']) await writer.set(`${base}:${name}`, name);
    const client = await connectedSubscriber({ accessPattern: `^${base}:a` });
    const { records, count, truncated } = await client.range(`${base}:`, `${base}:\u00ff`, { limit: 2 });
    assert.deepStrictEqual([records.map(({ value }) => value), count, truncated], [['a1', 'a2'], 2, true]);
    const { records: all } = await client.range(`${base}:`, `${base}:\u00ff`);
    assert.deepStrictEqual(all.map(({ value }) => value), ['a1', 'a2', 'a3']);
  },
  'a base URL may end in a slash or in /hpkv': async () => {
    for (const url of [`${baseUrl}/`, `${baseUrl}/hpkv`, `${baseUrl}/ws`, baseUrl.replace('http', 'ws')]) {
      const client = api({ throttling: { enabled: false } }, url);
      await client.connect();
      assert.strictEqual((await client.set(unique('base'), 'x')).code, 200);
    }
  },
  'what is wrong is told with its code': async () => {
    const client = await connectedApi();
    const key = unique('wrong');
    await client.set(key, 'text');
    await fails(400, client.atomicIncrement(key, 1), 'Value is not numeric');
    await fails(400, client.atomicIncrement(unique('n'), NaN), 'Value is not numeric');
    await fails(400, client.range('a', undefined), 'Invalid range');
    await fails(400, client.range('a', 'b', { limit: 0 }), 'Invalid limit');
    await fails(400, client.set('k'.repeat(1025), 'x'), 'Key too large');
    await fails(400, client.set('\ud800', 'x'), 'Key is required');
    assert.strictEqual((await client.get(key)).value, 'text');
  },
  'tokens serve several connections': async () => {
    const text = await token({ subscribeKeys: ['again'], accessPattern: 'again' });
    const two = [subscriber(text), subscriber(text)];
    for (const client of two) await client.connect();
    const heard = two.map(notifications);
    await two[0].set('again', 'x');
    await upTo(two[0], heard, 'again');
    assert.deepStrictEqual(heard.map(({ length }) => length), [1, 1]);
  },
});
