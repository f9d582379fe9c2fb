// The 15 cases of a client with a token, and the 16th that a browser has besides.
'use strict';

const {
  assert, connectedApi, connectedSubscriber, failure, fails, mode, notifications, run, subscriber, token, unique, until,
  upTo,
} = require('./hpkv_cases');

const pattern = { accessPattern: 'sub-test-*' };
const wanted = (...keys) => ({ subscribeKeys: keys, ...pattern });

const cases = {
  'connects with a token': async () => {
    const client = await connectedSubscriber(wanted('sub-test-connect'));
    assert.strictEqual(client.getConnectionStats().isConnected, true);
  },
  'disconnects': async () => {
    const client = await connectedSubscriber(wanted('sub-test-disconnect'));
    await client.disconnect();
    assert.strictEqual(client.getConnectionStats().isConnected, false);
  },
  'is kept out with an invalid token': async () => {
    const client = subscriber('invalid-token');
    for (let i = 0; i < 2; i++) {
      const error = await failure(client.connect());
      assert.match(error.message, mode === 'node' ? /403/ : /connect|closed before opening|403/i);
      assert.strictEqual(client.getConnectionStats().isConnected, false);
    }
  },
  'sets and gets under its pattern': async () => {
    const key = unique('sub-test-set-get');
    const client = await connectedSubscriber(wanted(key));
    assert.strictEqual((await client.set(key, 'subscription-test-value')).code, 200);
    assert.strictEqual((await client.get(key)).value, 'subscription-test-value');
  },
  'deletes under its pattern': async () => {
    const key = unique('sub-test-delete');
    const client = await connectedSubscriber(wanted(key));
    await client.set(key, 'x');
    assert.strictEqual((await client.delete(key)).code, 200);
    for (let i = 0; i < 2; i++) await fails(404, client.get(key), 'Record not found');
  },
  'uses another key under its pattern': async () => {
    const client = await connectedSubscriber(wanted(unique('sub-test-one')));
    const other = unique('sub-test-other');
    assert.strictEqual((await client.set(other, 'x')).success, true);
    assert.strictEqual((await client.get(other)).value, 'x');
  },
  'is denied a key outside its pattern': async () => {
    const key = unique('restricted-key');
    await (await connectedApi()).set(key, 'theirs');
    const client = await connectedSubscriber(wanted(unique('sub-test-denied')));
    for (let i = 0; i < 2; i++) await fails(403, client.set(key, 'unauthorized-update'), 'Access denied');
  },
  'hears of a change': async () => {
    const key = unique('sub-test-notify');
    const writer = await connectedApi();
    await writer.set(key, 'before');
    const heard = notifications(await connectedSubscriber(wanted(key)));
    await writer.set(key, 'after');
    await upTo(writer, [heard], key);
    assert.strictEqual(heard.length, 1);
    assert.deepStrictEqual([heard[0].type, heard[0].key, heard[0].value], ['notification', key, 'after']);
    assert(Math.abs(heard[0].timestamp - Date.now()) < 60000);
  },
  'hears nothing of other keys': async () => {
    const mine = unique('sub-test-mine');
    const heard = notifications(await connectedSubscriber(wanted(mine)));
    const writer = await connectedApi();
    await writer.set(unique('sub-test-not-mine'), 'x');
    await upTo(writer, [heard], mine);
    assert.deepStrictEqual(heard, []);
  },
  'hears as one of two': async () => {
    const key = unique('sub-test-both');
    const both = [await connectedSubscriber(wanted(key)), await connectedSubscriber(wanted(key))].map(notifications);
    const writer = await connectedApi();
    await writer.set(key, 'x');
    await upTo(writer, both, key);
    assert.deepStrictEqual(both.map((heard) => heard.length), [1, 1]);
  },
  'hears nothing after it has unsubscribed': async () => {
    const key = unique('sub-test-unsubscribe');
    const client = await connectedSubscriber(wanted(key));
    const heard = [];
    const id = client.subscribe((notification) => heard.push(notification));
    const writer = await connectedApi();
    await writer.set(key, '1');
    await until(() => heard.length === 1);
    client.unsubscribe(id);
    const others = notifications(client);
    await writer.set(key, '2');
    await upTo(writer, [others], key);
    assert.strictEqual(others.length, 1);
    assert.strictEqual(heard.length, 1);
  },
  'is denied what another may have': async () => {
    const [one, two] = [unique('first'), unique('second')];
    const first = await connectedSubscriber({ subscribeKeys: [one], accessPattern: '^first-' });
    const second = await connectedSubscriber({ subscribeKeys: [two], accessPattern: '^second-' });
    await first.set(one, 'x');
    await second.set(two, 'x');
    for (let i = 0; i < 2; i++) {
      await fails(403, first.get(two), 'Access denied');
      await fails(403, second.get(one), 'Access denied');
    }
  },
  'tells of connecting': async () => {
    const client = subscriber(await token(wanted('sub-test-told')));
    let told = 0;
    client.on('connected', () => told++);
    await client.connect();
    assert(told >= 1);
  },
  'tells of disconnecting': async () => {
    const client = await connectedSubscriber(wanted('sub-test-told'));
    let told = 0;
    client.on('disconnected', () => told++);
    await client.disconnect();
    await until(() => told === 1);
  },
  'tells nobody who does not listen any more': async () => {
    const client = subscriber(await token(wanted('sub-test-told')));
    let told = 0;
    const listener = () => told++;
    client.on('connected', listener);
    client.off('connected', listener);
    await client.connect();
    assert.strictEqual(told, 0);
  },
};

if (mode === 'browser') {
  cases['hears again after it came back'] = async () => {
    const key = unique('sub-test-back');
    const writer = await connectedApi();
    await writer.set(key, 'same');
    const client = await connectedSubscriber(wanted(key), {
      throttling: { enabled: false },
      initialDelayBetweenReconnects: 100,
    });
    const heard = notifications(client);
    await writer.set(key, 'same');
    await until(() => heard.length >= 1);
    client.ws.close(3001, 'as a test');
    await until(() => !client.getConnectionStats().isConnected);
    await until(() => client.getConnectionStats().isConnected);
    await writer.set(key, 'new');
    await upTo(writer, [heard], key);
    assert.deepStrictEqual(heard.map(({ value }) => value), ['same', 'new']);
  };
}

run(cases);
