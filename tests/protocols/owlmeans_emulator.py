"""An OwlMeans client as strict as the shipped one is brittle.

It does no I/O: ``received`` takes a frame, ``outbox`` has those to send.  On any
frame that would throw inside the shipped client, or hang it, it raises.
``Room`` joins such clients to a broker in memory, ``Remote`` one to a daemon.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import attrs
from twisted.internet.task import Clock

from broker.core.service import Broker
from broker.messages import HttpRequest
from broker.testing import Connected, connect, make_broker
from protocols.owlmeans import dialect
from tests.support.ws_client import WebSocket, ws_connect

REGISTERED = {
    "ResilientError",
    "SocketError",
    "SocketErrorInitialization",
    "SocketErrorConnection",
    "SocketErrorConnectionUnauthorized",
    "SocketErrorConnectionUnsupported",
    "SocketErrorTimeout",
    "SocketErrorMessage",
    "SocketErrorMessageMalformed",
    "AuthError",
    "AuthErrorUnknown",
    "AuthManagerError",
    "AuthManagerErrorUnsupported",
    "AuthManagerErrorAuthenFailed",
    "AuthManagerErrorPlugin",
    "AuthorizationError",
    "ForbiddenAuthorizationError",
    "ProfileError",
}
HOLD = object()  # what a handler returns to answer later


class Violation(AssertionError):
    """The broker sent what would have thrown in the client."""


class Failed(Exception):
    """What a call or an auth was rejected with."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.type, self.message = kind, message


@attrs.define(eq=False)
class Pending:
    """A promise of the client."""

    done: bool = False
    value: Any = None
    error: Failed | None = None

    def settle(self, value: Any = None, error: Failed | None = None) -> None:
        assert not self.done
        self.done, self.value, self.error = True, value, error

    def result(self) -> Any:
        assert self.done, "no answer yet"
        if self.error:
            raise self.error
        return self.value


@attrs.define(eq=False)
class Emulator:
    """One connection of the shipped client."""

    types: set[str] = attrs.field(factory=lambda: set(REGISTERED))
    default_timeout: int = 60000
    now: Callable[[], float] = lambda: 1700000000.0
    stamped: bool = True
    outbox: deque[str] = attrs.field(factory=deque)
    frames: list[dict[str, Any]] = attrs.field(factory=list)  # all that came
    heard: list[tuple[str, Any]] = attrs.field(factory=list)  # what ``observe`` handlers got
    queue: list[dict[str, Any]] = attrs.field(factory=list)
    responses: list[Any] = attrs.field(factory=list)  # ``observeResponse``
    pongs: int = 0
    stage: str = "init"
    _methods: dict[str, Callable[..., Any]] = attrs.field(factory=dict)
    _takers: list[Callable[[dict[str, Any]], bool]] = attrs.field(factory=list)
    _observed: set[str] = attrs.field(factory=set)
    _calls: dict[str, Pending] = attrs.field(factory=dict)
    _streams: dict[str, list[Any]] = attrs.field(factory=dict)
    _auth: Pending | None = None

    # What an app does

    def perform(self, method: str, handler: Callable[..., Any]) -> None:
        self._methods[method] = handler

    def observe(self, *names: str) -> None:
        self._observed.update(names)

    def acknowledge(self, handler: Callable[[dict[str, Any]], bool]) -> None:
        self._takers.append(handler)

    def call(self, method: str, *args: Any, **extra: Any) -> Pending:
        message = {"method": method, "payload": list(args), "type": "call", "id": str(uuid4()), **extra}
        message.setdefault("timeout", self.default_timeout)
        pending = self._calls[message["id"]] = Pending()
        self.send(message)
        return pending

    def request(self, payload: Any, **extra: Any) -> list[Any]:
        id = str(uuid4())
        self._streams[id] = []
        self.send({"type": "request", "payload": payload, "id": id, **extra})
        return self._streams[id]

    def reply(self, id: str, payload: Any) -> None:
        self.send({"type": "response", "payload": payload, "id": id})

    def notify(self, event: str, payload: Any, **extra: Any) -> None:
        self.send({"event": event, "payload": payload, "type": "event", **extra})

    def enqueue(self, payload: Any, id: str | None = None, **extra: Any) -> None:
        self.send({"type": "message", "payload": payload, **({"id": id} if id else {}), **extra})

    def consume(self) -> tuple[Any, str | None, int] | None:
        if not self.queue:
            return None
        message = self.queue.pop(0)
        return message["payload"], message.get("id"), len(self.queue)

    def auth(self, stage: str, payload: Any) -> Pending:
        self.stage = stage
        self._auth = Pending()
        self.send({"type": "auth", "stage": stage, "payload": payload})
        return self._auth

    def ping(self) -> None:
        self.raw('{"type":"ping"}')

    def answer(self, id: str, payload: Any = None, *, error: str | None = None) -> None:
        """Answer a call that a handler held."""
        self.send({"id": id, "type": "result" if error is None else "error", "payload": error or payload})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message as ``prepare`` leaves it."""
        if self.stamped:
            message.setdefault("dt", int(self.now() * 1000))
        self.raw(json.dumps(message, separators=(",", ":")))

    def raw(self, text: str) -> None:
        self.outbox.append(text)

    # What comes

    def received(self, frame: str | bytes | tuple[bytes]) -> None:
        if isinstance(frame, tuple):
            raise Violation(f"binary frame {frame[0]!r}")
        text = frame if isinstance(frame, str) else frame.decode()
        if not text.startswith("{"):
            raise Violation(f"frame {text[:80]!r} does not begin with a brace")
        message = json.loads(text, parse_constant=_constant)
        self.frames.append(message)
        taken = getattr(self, "_on_" + message.get("type", "message"), None)
        if taken is not None:
            taken(message)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the frames of one type that came."""
        return [frame for frame in self.frames if frame.get("type") == kind]

    @property
    def notices(self) -> list[str]:
        """Return the errors that came as system notices."""
        return [frame["payload"]["error"] for frame in self.of("system")]

    def _on_call(self, message: dict[str, Any]) -> None:
        if message.get("method") not in self._methods:
            raise Violation(f"call of {message.get('method')!r}, which was not performed")
        try:
            value = self._methods[message["method"]](*message["payload"])
        except Failed as error:
            self.answer(message["id"], error=f"{error.type}|||{error.message}|||{error.type}: …\n at file.js|||")
        except Exception as error:
            self.answer(message["id"], error=f"{error}|||Error: {error}\n  at file.js:1|||anything")
        else:
            if value is not HOLD:
                self.answer(message["id"], value)

    def _on_result(self, message: dict[str, Any]) -> None:
        self._check_payload(message)
        self._pending(message).settle(message.get("payload"))

    def _on_error(self, message: dict[str, Any]) -> None:
        self._pending(message).settle(error=self._unmarshal(message.get("payload")))

    def _on_request(self, message: dict[str, Any]) -> None:
        if not message.get("id"):
            raise Violation("request without id")
        any(taker(message) for taker in self._takers)

    def _on_response(self, message: dict[str, Any]) -> None:
        if not message.get("id"):
            raise Violation("response without id")
        self._check_payload(message)
        self.responses.append(message["payload"])
        if message["id"] in self._streams:
            self._streams[message["id"]].append(message["payload"])

    def _on_event(self, message: dict[str, Any]) -> None:
        if not message.get("event"):
            raise Violation("event without name")
        self._check_payload(message)
        if message["event"] in self._observed:
            self.heard.append((message["event"], message["payload"]))

    def _on_message(self, message: dict[str, Any]) -> None:
        self._check_payload(message)
        self.queue.append(message)

    def _on_pong(self, message: dict[str, Any]) -> None:
        self.pongs += 1

    def _on_auth(self, message: dict[str, Any]) -> None:
        waiting, self._auth = self._auth, None
        if waiting is None:
            raise Violation("auth that nobody asked for")
        if message.get("stage") is None:
            waiting.settle(error=self._unmarshal(message.get("payload")))
            return
        if message.get("payload") is None:
            raise Violation("auth without payload")
        self.stage = message["stage"]
        waiting.settle(message["payload"])

    def _pending(self, message: dict[str, Any]) -> Pending:
        pending = self._calls.pop(message.get("id", ""), None)
        if pending is None:
            raise Violation(f"{message['type']} for {message.get('id')!r}, which is not pending")
        return pending

    def _unmarshal(self, payload: Any) -> Failed:
        if not isinstance(payload, str):
            raise Violation(f"error payload {payload!r}")
        parts = payload.split("|||")
        if len(parts) < 2 or parts[0] not in self.types:
            raise Violation(f"error {payload!r} is of no registered type")
        if parts[2:] != [""]:
            raise Violation(f"error {payload!r} has a stack")
        return Failed(parts[0], parts[1])

    @staticmethod
    def _check_payload(message: dict[str, Any]) -> None:
        # The shipped client puts the message itself in the place of a missing payload.
        if message.get("payload") is None and message.get("sender", "broker") == "broker":
            raise Violation(f"{message['type']} of the broker without payload")


def _constant(text: str) -> Any:
    raise Violation(f"{text} is no JSON")


@attrs.define(eq=False)
class Member:
    """An emulated client joined to a broker in memory."""

    client: Emulator
    connected: Connected

    @property
    def id(self) -> str:
        return self.connected.peer.id

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.connected.link.closed

    def pump(self) -> bool:
        """Carry what waits, both ways; say whether there was any."""
        sent = self.connected.link.take()
        for frame in sent:
            self.client.received(frame)
        said = list(self.client.outbox)
        self.client.outbox.clear()
        for text in said:
            self.connected.session.received(text.encode("utf-8", "surrogatepass"), False)
        return bool(sent or said)

    def leave(self, code: int = 1000) -> None:
        self.connected.leave(code)


class Room:
    """A broker in memory and the clients that are joined to it."""

    def __init__(self, broker: Broker | None = None, **settings: Any) -> None:
        if broker is None:
            clock = Clock()
            clock.advance(1700000000.0)
            broker = make_broker(clock, **settings)
        self.broker = broker
        self.clock: Any = broker.clock
        self.dialect = dialect(broker.settings)
        self.members: list[Member] = []

    def join(self, name: str = "", query: str = "", headers: dict[str, str] | None = None, **options: Any) -> Member:
        """Return a client; with *name*, one that is called so."""
        query = "&".join(part for part in (f"client={name}" if name else "", query) if part)
        connected = connect(self.broker, self.dialect, HttpRequest("GET", "/", query, headers or {}))
        member = Member(Emulator(now=self.clock.seconds, **options), connected)
        self.members.append(member)
        return member

    def pump(self) -> None:
        """Carry frames until nothing moves any more."""
        moved = True
        while moved:
            present = [member for member in self.members if not member.connected.peer.closed]
            moved = sum(member.pump() for member in present) > 0

    def advance(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        self.pump()
        while seconds > 0:
            self.clock.advance(min(seconds, 0.05))
            seconds -= 0.05
            self.pump()

    def ask(self, member: Member, method: str, *args: Any, **extra: Any) -> Any:
        """Return the result of a call, or raise what it was rejected with."""
        pending = member.client.call(method, *args, **extra)
        self.pump()
        return pending.result()

    def offer(self, member: Member, method: str, handler: Callable[..., Any], **options: Any) -> None:
        """Perform *method* and tell the broker."""
        member.client.perform(method, handler)
        self.ask(member, "broker.register", method, *([options] if options else []))


@attrs.define(eq=False)
class Remote:
    """An emulated client joined to a daemon."""

    client: Emulator
    socket: WebSocket

    @classmethod
    async def join(cls, url: str, **options: Any) -> Remote:
        return cls(Emulator(**options), await ws_connect(url))

    def flush(self) -> None:
        while self.client.outbox:
            self.socket.send(self.client.outbox.popleft())

    async def step(self) -> dict[str, Any]:
        """Take one frame; answer it."""
        self.flush()
        self.client.received(await self.socket.receive())
        self.flush()
        return self.client.frames[-1]

    async def settled(self, pending: Pending) -> Any:
        """Take frames until *pending* is settled; return its result."""
        while not pending.done:
            await self.step()
        return pending.result()

    async def ask(self, method: str, *args: Any, **extra: Any) -> Any:
        return await self.settled(self.client.call(method, *args, **extra))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.step()

    async def offer(self, method: str, handler: Callable[..., Any], **options: Any) -> None:
        self.client.perform(method, handler)
        await self.ask("broker.register", method, *([options] if options else []))

    async def sync(self) -> None:
        """Take everything that was sent before now."""
        pongs = self.client.pongs
        self.client.ping()
        await self.until(lambda: self.client.pongs > pongs)
