// A hub with the semantics that the benchmarks use, on the stock socket.io server:
// call -> the one service -> result, rooms for a fan-out, and MicroStream's
// request -> the service of that name -> response.
const { Server } = require("socket.io");

const port = Number(process.argv[2]);
const io = new Server({ perMessageDeflate: false, transports: ["websocket"] });
const services = new Map();
const pending = new Map();
let next = 0;

io.on("connection", (socket) => {
  const { serviceName } = socket.handshake.query;
  if (serviceName) services.set(serviceName, socket);
  socket.on("request", ({ targetService, payload }) => {
    pending.set(payload.id, socket);
    services.get(targetService).emit("request", payload);
  });
  socket.on("response", (response) => {
    const caller = pending.get(response.id);
    pending.delete(response.id);
    caller.emit("response", response);
  });
  socket.on("register", (method) => {
    services.set(method, socket);
    socket.emit("registered", method);
  });
  socket.on("call", (call) => {
    const id = `h${++next}`;
    pending.set(id, { caller: socket, id: call.id });
    services.get(call.method).emit("call", { ...call, id });
  });
  socket.on("result", (result) => {
    const call = pending.get(result.id);
    pending.delete(result.id);
    call.caller.emit("result", { ...result, id: call.id });
  });
  socket.on("subscribe", (room) => {
    socket.join(room);
    socket.emit("subscribed", room);
  });
  socket.on("publish", (event) => socket.to(event.event).emit("event", event));
});
io.listen(port, () => console.log("ready"));
