// The other service of the pair: JavaScript, over the microstream dialect.
//
// It performs `shop.stock`, which the prices call, and calls `prices.of`, which they perform.
'use strict';

const { randomUUID } = require('node:crypto');
const { io } = require('socket.io-client');

const STOCK = { apple: 40, pear: 3 };
const socket = io(process.env.BROKER ?? 'http://localhost:8000', { query: { serviceName: 'shop' } });
const waiting = new Map(); // by the id of the request

socket.on('request', ({ id, event, data }) => {
  const response = event === 'stock' ? { pieces: STOCK[data.fruit] } : { error: { code: 'NO_SUCH_EVENT' } };
  socket.emit('response', { id, response });
});

socket.on('response', ({ id, response }) => {
  waiting.get(id)?.(response);
  waiting.delete(id);
});

function call(targetService, event, data) {
  const id = randomUUID();
  socket.emit('request', { targetService, payload: { id, event, data } });
  return new Promise((resolve) => waiting.set(id, resolve));
}

// Both start at once: the prices may not be there yet.
async function priceOf(fruit) {
  for (;;) {
    const response = await call('prices', 'of', { fruit });
    if (response.error?.code !== 'TARGET_SERVICE_NOT_FOUND') return response;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

socket.on('connect', async () => {
  for (const fruit of ['apple', 'pear', 'plum']) {
    const { price, error } = await priceOf(fruit);
    console.log(`shop: a ${fruit}`, error ? `has no price: ${error.message}` : `is sold at ${price}`);
  }
  socket.disconnect();
});
