// A client that is told 429: it must learn which request that was of.
'use strict';

const { assert, connectedApi, fails, run } = require('./hpkv_cases');

run({
  'too many requests are refused one by one': async () => {
    const client = await connectedApi();
    const answers = await Promise.allSettled(Array.from({ length: 20 }, (_, i) => client.set(`k${i}`, 'x')));
    const refused = answers.filter(({ status }) => status === 'rejected');
    assert.strictEqual(refused.length, 10);
    assert(refused.every(({ reason }) => reason.code === 429 && reason.message === 'Rate limit exceeded'));
    assert.strictEqual(client.getConnectionStats().isConnected, true);
    await fails(429, client.set('', 'x'), 'Rate limit exceeded');
  },
});
