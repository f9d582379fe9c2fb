// What the shipped ganomede-events client does, one line of JSON for each thing that happened.
//
//   node ganomede_client.js <port> <secret> <task> [argument …]
'use strict';

process.env.API_SECRET = 'the module wants one, whatever it is';
const { Client, IndexerClient } = require('ganomede-events');

const [port, secret, task, ...words] = process.argv.slice(2);

function say(...what) {
  console.log(JSON.stringify(what));
}

function client(id) {
  return new Client(id, { secret, protocol: 'http', hostname: '127.0.0.1', port: Number(port) });
}

function fail(error) {
  say('failed', error.statusCode, error.restCode, error.message);
  process.exit(1);
}

function checked(next) {
  return (error, ...results) => (error ? fail(error) : next(...results));
}

const tasks = {
  // Listen to a channel and tell every event and every cycle, until killed.
  listen(id, channel) {
    const listener = client(id);
    listener.on('error', error => say('error', error.statusCode, error.restCode, error.name));
    listener.on('cycle', ({ finished, next }) => say('cycle', finished.after ?? null, next.after ?? null));
    listener.on(channel, (event, name) => say('event', event, name));
    say('listening');
  },

  // Send as many events as wanted, one after the other.
  send(id, channel, count) {
    const sender = client(id);
    const next = n => {
      if (n > Number(count)) return process.exit(0);
      sender.send(channel, { from: 'svc/v1', type: 'add', data: { n } }, checked(header => {
        say('sent', header.id, header);
        next(n + 1);
      }));
    };
    next(1);
  },

  // Send to oneself with and without data; what can not be sent is told without a request.
  roundTrip(channel) {
    const one = client('one');
    one.on('error', fail);
    one.on(channel, (event, name) => {
      say('event', event, name);
      if (event.type === 'last') process.exit(0);
    });
    one.send(channel, { from: 'svc', type: 'first', data: { deep: ['✓', null, 1.5] } }, checked(() => {
      one.send('error', { from: 'svc', type: 'x' }, error => {
        say('refused', error.message);
        one.send(channel, { from: 'svc', type: 'last' });
      });
    }));
  },

  // Wait for one event, then for nothing.
  once(channel) {
    const one = client('once');
    one.on('error', fail);
    one.on('drain', () => {
      say('drain');
      process.exit(0);
    });
    one.once(channel, event => say('event', event.id));
    say('listening');
  },

  // Poll with what is no secret.
  refused(channel) {
    const one = client('refused');
    one.on('error', (error, name) => {
      say('error', error.statusCode, error.restCode, error.name, error.message, name);
      process.exit(0);
    });
    one.on(channel, () => say('event'));
  },

  // Ask for the latest events.
  latest(channel, limit) {
    client('latest').getLatestEvents(channel, limit && Number(limit), checked(events => {
      say(...events.map(event => event.id));
      process.exit(0);
    }));
  },

  // Create an index twice, and read it.
  index(id, channel, field, value) {
    const indexer = new IndexerClient({ protocol: 'http', hostname: '127.0.0.1', port, secret });
    indexer.createIndex(id, channel, field, checked(first => {
      indexer.createIndex(id, channel, field, checked(second => {
        indexer.getIndexEvents(id, value, checked(result => {
          say(first, second, result);
          process.exit(0);
        }));
      }));
    }));
  },

  // How many whole seconds an idle poll takes.
  idle(channel) {
    const one = client('idle');
    const start = Date.now();
    one.on('error', fail);
    one.on('cycle', () => {
      say('cycle', Math.floor((Date.now() - start) / 1000));
      process.exit(0);
    });
    one.on(channel, () => say('event'));
  },
};

tasks[task](...words);
