// What a MicroStream service does with socket.io-client: register by the serviceName of the query,
// request, response, heartbeat, and the end of the process when the name is taken.
"use strict";

const { randomBytes } = require("node:crypto");
const { io } = require("socket.io-client");

class Service {
  constructor(url, name, options = {}) {
    this.name = name;
    this.handlers = new Map();
    this.waiting = new Map();
    const { heartbeat = 1000, exit = process.exit, ...rest } = options;
    this.socket = io(url, { query: { serviceName: name }, reconnectionDelay: 100, ...rest });
    this.socket.on("connect", () => {
      clearInterval(this.beat);
      if (heartbeat) this.beat = setInterval(() => this.socket.emit("heartbeat", { serviceName: name }), heartbeat);
    });
    this.socket.on("disconnect", () => clearInterval(this.beat));
    this.socket.on("connect_error", (error) => {
      if (error.data && error.data.code === "DUPLICATE_SERVICE_REGISTRATION") {
        console.log(JSON.stringify({ duplicate: error.data }));
        exit(1);
      }
    });
    this.socket.on("request", (payload) => this.serve(payload));
    this.socket.on("response", (answer) => {
      const waiting = this.waiting.get(answer.id);
      if (!waiting) return;
      this.waiting.delete(answer.id);
      clearTimeout(waiting.timer);
      // A null response ends the shipped client's process just here.
      if (answer.response.error) waiting.reject(answer.response.error);
      else waiting.resolve(answer.response);
    });
  }

  serve(payload) {
    const { id, event, data } = payload;
    const handler = this.handlers.get(event);
    let response;
    if (!handler) {
      const errorData = { event, requestID: id, serviceName: this.name };
      response = { error: { code: "EVENT_NOT_FOUND", message: `Event "${event}" not found`, errorData } };
    } else {
      try {
        response = handler(data, payload);
      } catch (error) {
        const errorData = { event, requestID: id, error: error.message };
        response = { error: { code: "INTERNAL_SERVER_ERROR", message: "Internal server error", errorData } };
      }
    }
    if (response instanceof Promise) response.then((late) => this.socket.emit("response", { id, response: late }));
    else this.socket.emit("response", { id, response });
  }

  onRequest(event, handler) {
    this.handlers.set(event, handler);
    return this;
  }

  sendRequest(targetService, event, data, timeout = 60000) {
    const id = randomBytes(16).toString("base64url").slice(0, 21);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject({ code: "REQUEST_TIMEOUT" }), timeout);
      this.waiting.set(id, { resolve, reject, timer });
      this.socket.emit("request", { targetService, payload: { id, event, data } });
    });
  }

  connected() {
    if (this.socket.connected) return Promise.resolve();
    return new Promise((resolve) => this.socket.once("connect", resolve));
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }

  close() {
    clearInterval(this.beat);
    this.socket.close();
  }
}

module.exports = { Service };
