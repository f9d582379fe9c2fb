// The client that the broker itself serves, run against it; prints what it gets, a JSON text a line.
const [url, credential, task] = process.argv.slice(2);
const source = await (await fetch(`${url}/v1/http-client.js`)).text();
const { Broker, BrokerError } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const broker = new Broker(url, credential);
const say = (...words) => console.log(JSON.stringify(words));

const tasks = {
  async follow() {
    for await (const event of broker.follow('news', { from: 'start' })) say('event', event.event, event.data);
  },

  async everything() {
    say('published', (await broker.publish('a/b', { n: 1 }, { durable: true })).id);
    say('read', (await broker.read('a/b')).events[0].payload);
    await broker.set('k', 'v', { create: true });
    say('key', (await broker.get('k')).value, await broker.get('none'));
    say('conflict', await broker.set('k', 'w', { create: true }).catch((e) => [e instanceof BrokerError, e.status, e.code]));
    say('sum', (await broker.increment('n', 2)).value, (await broker.list('n')).entries.length);
    await broker.delete('k');
    await broker.enqueue('jobs', { type: 'x' });
    const [first] = await broker.claim('jobs', { filter: { type: 'x' }, wait: 5 });
    await broker.release(first);
    const [job] = await broker.claim('jobs', { filter: { type: 'x' }, wait: 5 });
    say('job', job.payload, job.delivery, await broker.done(job));
    say('nobody', await broker.call('nobody', [1]).catch((e) => e.status));
  },
};
await tasks[task]();
