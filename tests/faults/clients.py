"""Clients that live through faults: of each thing that they ask for it is known whether it has ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Self

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionDone, ConnectionLost
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived
from websockets.exceptions import InvalidHandshake, InvalidState

from tests.support.daemon import Daemon
from tests.support.ws_client import Closed, Refused, WebSocket, ws_connect

CONNECTING = 3.0  # seconds after which another node is tried
FOREVER = 1e6  # seconds: what is read next may come at any time
_ids = count(1)


class Failed(Exception):
    """The broker has answered with an error: its type or code, and its words."""

    def __init__(self, kind: str, words: str = "") -> None:
        super().__init__(kind, words)
        self.kind, self.words = kind, words


class Lost(Exception):
    """The connection ended before the answer: what was asked for may have been done."""


# What a client sees of a node or a network that fails.
NOT_REACHED = (
    *(ConnectError, ConnectionDone, ConnectionLost, CancelledError, TookTooLong, Closed, Refused),
    *(ConnectingCancelledError, ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed, InvalidHandshake),
)


@attrs.define(eq=False)
class Connection:
    """One WebSocket, whose messages are handled as they come.

    Attributes:
        node: where it leads to.
        open: what was asked for and has no answer yet, by its id.
        performs: what answers calls, by procedure or event; the result may be a Deferred, a ``Failed`` is told.
        faults: what the broker should not have sent.
    """

    node: Daemon
    socket: WebSocket
    open: dict[str, Deferred[Any]] = attrs.field(factory=dict)
    performs: dict[str, Callable[[Any], Any]] = attrs.field(factory=dict)
    closed: bool = False
    faults: list[str] = attrs.field(factory=list)
    _given_up: set[str] = attrs.field(factory=set)

    @classmethod
    async def _connect(cls, node: Daemon, path: str) -> Self:
        return cls(node, await ws_connect(node.ws(path), timeout=CONNECTING))

    def _start(self) -> None:
        Deferred.fromCoroutine(self._read())

    async def _read(self) -> None:
        try:
            while True:
                self.received(await self.socket.receive(FOREVER))
        except Closed:
            self.closed = True
            lost, self.open = self.open, {}
            for waiting in lost.values():
                waiting.errback(Lost())
        except CancelledError:
            pass

    def received(self, text: str) -> None:
        """Handle a message."""
        raise NotImplementedError

    def expect(self, id: str) -> Deferred[Any]:
        """Return what fires with the answer that has this id; cancelled, it is not waited for any more."""
        answered: Deferred[Any] = Deferred(lambda _: self._give_up(id))
        if self.closed:
            answered.errback(Lost())
        else:
            self.open[id] = answered
        return answered

    def _give_up(self, id: str) -> None:
        del self.open[id]
        self._given_up.add(id)

    def settle(self, id: str, result: Any) -> None:
        """End what has this id with a result or with a ``Failed``; a second end is a fault."""
        if id in self.open:
            fire = self.open[id].errback if isinstance(result, Exception) else self.open[id].callback
            del self.open[id]
            fire(result)
        elif id in self._given_up:
            self._given_up.remove(id)
        else:
            self.faults.append(f"{id} has ended twice")

    async def handle(self, name: str, payload: Any, answer: Callable[[Any], object]) -> None:
        """Let the handler of *name* answer."""
        try:
            if name not in self.performs:
                raise Failed("not there yet")
            result = await maybeDeferred(self.performs[name], payload)
        except Failed as failed:
            result = failed
        if not self.closed:
            answer(result)

    def transmit(self, text: str) -> None:
        """Send a message, unless the connection is closing: what waits for an answer to it is told so."""
        with suppress(InvalidState):
            self.socket.send(text)

    def transmit_json(self, value: Any) -> None:
        self.transmit(json.dumps(value, separators=(",", ":")))

    def drop(self) -> None:
        """End it as a cable that is pulled."""
        self.socket.abort()


@attrs.define(eq=False)
class Native(Connection):
    """A client of the native dialect.

    Attributes:
        on_event, on_message: called with each event, and with each message of a mailbox or queue, as JSON.
        on_error: called with the id of each message that the broker has refused.
        on_request: called with the id and the payload of each streamed request; ``reply`` answers.
        streams: called with each part of the streamed request that has this id.
    """

    on_event: Callable[[dict[str, Any]], object] = lambda _: None
    on_message: Callable[[dict[str, Any]], object] = lambda _: None
    on_error: Callable[[str], object] = lambda _: None
    on_request: Callable[[str, Any], object] = lambda *_: None
    streams: dict[str, Callable[[Any], object]] = attrs.field(factory=dict)

    @classmethod
    async def join(cls, node: Daemon, client: str = "", token: str = "") -> Self:
        """Connect to *node*, under the name *client*, or with the credential *token*, if one of them is given."""
        query = f"?token={token}" if token else f"?client={client}" if client else ""
        made = await cls._connect(node, "/owlmeans" + query)
        made._start()
        return made

    def ask(self, method: str, *arguments: Any, timeout: int = 60_000) -> Deferred[Any]:
        """Call; *timeout* is in milliseconds, 0 for none.  The result fails with ``Failed`` or ``Lost``."""
        id = f"c{next(_ids)}"
        answered = self.expect(id)
        self.send(type="call", id=id, method=method, payload=arguments, timeout=timeout)
        return answered

    async def perform(self, method: str, handler: Callable[[Any], Any], **options: Any) -> None:
        """Answer the calls of *method*, with its first argument."""
        self.performs[method] = handler
        try:
            await self.ask("broker.register", method, *([options] if options else []))
        except (Failed, Lost):
            del self.performs[method]
            raise

    def request(self, topic: str, on_part: Callable[[Any], object], **more: Any) -> None:
        """Ask for a stream of answers."""
        id = f"s{next(_ids)}"
        self.streams[id] = on_part
        self.send(type="request", id=id, payload={"action": topic, **more})

    def reply(self, id: str, payload: Any) -> None:
        """Send one part."""
        self.send(type="response", id=id, payload=payload)

    def send(self, **frame: Any) -> None:
        """Send a frame."""
        self.transmit_json(frame)

    def received(self, text: str) -> None:
        frame = json.loads(text)
        kind, id, payload = frame.get("type"), frame.get("id", ""), frame.get("payload")
        if kind == "result":
            self.settle(id, payload)
        elif kind == "error":
            self.settle(id, Failed(*payload.split("|||")[:2]))
        elif kind == "call":
            argument = payload[0] if payload else None
            Deferred.fromCoroutine(self.handle(frame["method"], argument, lambda end: self._answer(id, end)))
        elif kind == "event":
            self.on_event(frame)
        elif kind == "message":
            self.on_message(frame)
        elif kind == "system":
            self.on_error((payload.get("ref") or {}).get("id", ""))
        elif kind == "request":
            self.on_request(id, payload)
        elif kind == "response":
            self.streams[id](payload)

    def _answer(self, id: str, end: Any) -> None:
        if isinstance(end, Failed):
            self.send(type="error", id=id, payload=f"{end.kind}|||{end.kind}|||")
        else:
            self.send(type="result", id=id, payload=end)


@attrs.define(eq=False)
class Micro(Connection):
    """A service of the MicroStream hub, on WebSocket; requests for it go to ``performs[event]``."""

    @classmethod
    async def join(cls, node: Daemon, name: str) -> Self:
        """Register the service *name*.

        Raises:
            Failed: it was refused.
            Lost: the connection was closed instead.
        """
        made = await cls._connect(node, f"/socket.io/?EIO=4&transport=websocket&serviceName={name}")
        made.open["connect"] = Deferred()
        registered = made.open["connect"]
        made._start()
        await registered
        return made

    def ask(self, target: str, event: str, data: Any = None) -> Deferred[Any]:
        """Ask a service; the result fails with ``Failed`` or ``Lost``."""
        id = f"m{next(_ids)}"
        answered = self.expect(id)
        payload = {"id": id, "event": event, "data": data}
        self._emit("request", {"targetService": target, "payload": payload})
        return answered

    def received(self, text: str) -> None:
        if text.startswith("0"):
            self.transmit("40")
        elif text == "2":
            self.transmit("3")
        elif text.startswith("40"):
            self.settle("connect", None)
        elif text.startswith("44"):
            self.settle("connect", Failed(json.loads(text[2:])["data"]["code"]))
        elif text.startswith("42"):
            name, said = json.loads(text[2:])
            if name == "request":
                id = said["id"]
                Deferred.fromCoroutine(self.handle(said["event"], said.get("data"), lambda end: self._answer(id, end)))
            elif name == "response":
                response = said["response"]
                error = response.get("error") if isinstance(response, dict) else None
                self.settle(said["id"], Failed(error["code"], error["message"]) if error else response)

    def _answer(self, id: str, end: Any) -> None:
        response = {"error": {"code": end.kind, "message": end.kind}} if isinstance(end, Failed) else end
        self._emit("response", {"id": id, "response": response})

    def _emit(self, name: str, said: Any) -> None:
        self.transmit("42" + json.dumps([name, said], separators=(",", ":")))


@attrs.define(eq=False)
class Thin(Connection):
    """A ThinWS client; *on_message* is called with each message of a room."""

    on_message: Callable[[Any], object] = lambda _: None

    @classmethod
    async def join(cls, node: Daemon, name: str) -> Self:
        """Connect as *name*, whose rooms come back."""
        made = await cls._connect(node, "/thinws")
        made._start()
        await made.ask(type="connect", connectionID=name)
        return made

    def ask(self, **members: Any) -> Deferred[Any]:
        """Send a frame; the result is the ack, or fails with ``Failed`` or ``Lost``."""
        number = next(_ids)
        answered = self.expect(str(number))
        self.transmit_json({"messageID": number, **members})
        return answered

    def received(self, text: str) -> None:
        frame = json.loads(text)
        if frame["type"] == "ack":
            self.settle(str(frame["messageID"]), frame)
        elif frame["type"] == "error":
            self.settle(str(frame.get("messageID", "")), Failed("error", text))
        else:
            self.on_message(frame["message"])
