"""One ThinWS client: what its frames do, and what it is sent."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError, Denied, Invalid, RateLimited, Unauthenticated
from broker.interfaces import ILink, IPeer
from broker.jsontext import object_text
from broker.messages import CloseCode, Event, Frame
from broker.sessions import BaseSession
from protocols.thinws.frames import Members, connection_id, echo, read, room_frame, room_of, text_of

log = Logger()

BACKLOG = 1 << 20  # bytes of frames that may wait for the one before them
FRAME = 128  # bytes that each of them costs besides its own
HELD = 10_000  # room messages that may wait for an answer to go out first
HELD_BYTES = 1 << 23  # of them

WORDS = {
    "UNAUTHENTICATED": "Not authorized",
    "DENIED": "Not authorized",
    "TOO_LARGE": "Message too large",
    "RATE_LIMITED": "Rate limit exceeded",
}
TOO_MANY = ("subscriptions", "memberships")

Hook = Callable[..., object]
Hooks = Mapping[str, list[Hook]]

_encode = msgspec.json.Encoder().encode


@attrs.define(eq=False)
class Session(BaseSession):
    """One ThinWS client.

    A frame is answered before the next one is looked at, and room messages
    that arrive meanwhile go out behind the answer.

    Attributes:
        identity: its connectionID; "" before it has given one.
    """

    _peer: IPeer
    _link: ILink
    _hooks: Hooks
    _open_rooms: bool
    identity: str = ""
    _barred: bool = False
    _connected: bool = False
    _busy: bool = False
    _pumping: bool = False
    _backlog: deque[tuple[bytes, bool]] = attrs.field(factory=deque)
    _backlog_bytes: int = 0
    _held: list[Frame] = attrs.field(factory=list)
    _held_bytes: int = 0

    @property
    def id(self) -> str:
        """The session id: what a log may say of this client, whose connectionID is its only secret."""
        return self._peer.id

    def show(self, token: str) -> None:
        """Become who *token* names; with a wrong one, nothing is allowed from now on."""
        try:
            self._peer.identify(token)
            self._barred = False
        except BrokerError:
            self._barred = True

    # What the transport calls

    def received(self, data: bytes, binary: bool) -> None:
        """Take one frame, after those before it."""
        if not self._busy and not self._backlog:
            self._take(data, binary)
            return
        if self._backlog and self._backlog_bytes + len(data) + FRAME > BACKLOG:
            self._overrun(data, binary)
            return
        self._backlog.append((data, binary))
        self._backlog_bytes += len(data) + FRAME

    def _overrun(self, data: bytes, binary: bool) -> None:
        frame: Members = {}
        try:
            frame = read(data, binary)
        except Invalid:
            pass
        self._refuse(frame, RateLimited("limit", "backlog"))

    def closed(self, code: int, reason: str) -> None:
        """Let the hooks know, unless the client has said so itself."""
        self._backlog.clear()
        self._leave()

    # What the core calls

    def event(self, event: Event, pattern: str) -> None:
        """Send a room message."""
        frame = event.render(room_frame)
        if not self._busy:
            self._link.send_frame(frame)
        elif len(self._held) < HELD and self._held_bytes < HELD_BYTES:
            self._held.append(frame)
            self._held_bytes += len(frame.payload)
        else:
            self._link.close(CloseCode.TRY_AGAIN_LATER, "busy")

    async def probe(self) -> bool:
        """Say nothing of the client: it holds no name that could be taken over."""
        return False

    # Frames

    def _take(self, data: bytes, binary: bool) -> None:
        frame: Members = {}
        try:
            frame = read(data, binary)
            self._peer.pace()
            kind = text_of(frame.get("type"))
            if kind == "ack":
                return
            handler = HANDLERS.get(kind)
            if handler is None:
                raise Invalid("type", message="Unknown message type" if kind else "Invalid message")
            if kind != "connect":
                self._authorize()
            self._busy = True
            doing = handler(self, frame)
        except BrokerError as error:
            self._refuse(frame, error)
            self._next(None)
            return
        doing.addCallbacks(self._done, self._failed, (frame, kind), errbackArgs=(frame,))
        doing.addErrback(self._broken)
        doing.addBoth(self._next)

    def _done(self, room: str, frame: Members, kind: str) -> None:
        self._send(b'{"type":"ack"%b}' % echo(frame))
        if kind == "message" and self._hooks["message"]:
            self._notify("message", room, json.loads(object_text(frame)))

    def _failed(self, failure: Failure, frame: Members) -> None:
        error = failure.value
        if not isinstance(error, BrokerError):
            log.failure("thinws session {conn} failed", failure, conn=self.id)
            error = BrokerError()
        self._refuse(frame, error)

    def _broken(self, failure: Failure) -> None:
        """Part with the client for a bug of ours."""
        log.failure("thinws session {conn} failed", failure, conn=self.id)
        self._link.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _refuse(self, frame: Members, error: BrokerError) -> None:
        """Send the error frame: the one reply to *frame*."""
        text = WORDS.get(error.code, "Internal server error")
        if isinstance(error, Invalid):
            text = error.message
        elif isinstance(error, Denied) and error.what == "room":
            text = "Not a member of this room"
        elif isinstance(error, RateLimited) and error.name in TOO_MANY:
            text = "Too many rooms"
        self._send(b'{"type":"error","message":%b%b}' % (_encode(text), echo(frame)))

    def _send(self, reply: bytes) -> None:
        self._link.send(reply)

    def _next(self, _: object) -> None:
        """Send what was held for the answer, then go on with the frames that wait."""
        self._busy = False
        held, self._held, self._held_bytes = self._held, [], 0
        for frame in held:
            self._link.send_frame(frame)
        if self._pumping:
            return
        self._pumping = True
        while self._backlog and not self._busy:
            data, binary = self._backlog.popleft()
            self._backlog_bytes -= len(data) + FRAME
            self._take(data, binary)
        self._pumping = False

    # What a client may ask for.  Each handler returns the room, "" where there is none.

    def _connect(self, frame: Members) -> Deferred[str]:
        identity = connection_id(frame)
        if not identity:
            raise Invalid("connectionID", message="connectionID is required")
        token = text_of(frame.get("token"))
        if token:
            self.show(token)
        self._authorize()
        return Deferred.fromCoroutine(self._become(identity))

    def _subscribe(self, frame: Members) -> Deferred[str]:
        return Deferred.fromCoroutine(self._join(room_of(frame), self._given(frame)))

    def _unsubscribe(self, frame: Members) -> Deferred[str]:
        return Deferred.fromCoroutine(self._part(room_of(frame), self._given(frame)))

    def _disconnect(self, frame: Members) -> Deferred[str]:
        self._peer.part_all()
        self._leave()
        done: Deferred[str] = Deferred()
        done.callback("")
        return done

    def _message(self, frame: Members) -> Deferred[str]:
        room = room_of(frame)
        if not self._open_rooms and not self._peer.joined(room):
            raise Denied("room", room)
        body = frame.get("message", frame.get("payload"))
        # The connectionID is the only credential: it goes to nobody.
        forwarded = {name: text for name, text in frame.items() if name not in ("messageID", "connectionID")}
        sent = self._peer.publish(
            room, "message", None if body is None else bytes(body), source="", original=object_text(forwarded)
        )
        return sent.addCallback(lambda _: room)

    def _authorize(self) -> None:
        if self._barred or not self._peer.admitted:
            raise Unauthenticated("token")

    def _given(self, frame: Members) -> str:
        """Return the connectionID by which *frame* connects on its way, or ""."""
        given = connection_id(frame)
        if not given or given == self.identity:
            return ""
        if self.identity:
            raise Invalid("connectionID", message="connectionID mismatch")
        return given

    async def _become(self, identity: str) -> str:
        await self._peer.become(identity)
        self._leave()
        self.identity, self._connected = identity, True
        self._notify("connect")
        return ""

    async def _join(self, room: str, identity: str) -> str:
        if identity:
            await self._become(identity)
        await self._peer.join(room)
        self._notify("subscribe", room)
        return room

    async def _part(self, room: str, identity: str) -> str:
        if identity:
            await self._become(identity)
        await self._peer.part(room)
        self._notify("unsubscribe", room)
        return room

    def _leave(self) -> None:
        """Tell of the disconnect, once for each connect."""
        if self._connected:
            self._connected = False
            self._notify("disconnect")

    def _notify(self, name: str, *about: object) -> None:
        if name != "message":
            log.debug("thinws {conn} {change}", conn=self.id, change=name)
        for hook in self._hooks[name]:
            try:
                hook(self, *about)
            except Exception:
                log.failure("a hook of the thinws event {change} failed", change=name)


Handler = Callable[[Session, Members], Deferred[str]]
HANDLERS: Mapping[str, Handler] = {
    "connect": Session._connect,
    "subscribe": Session._subscribe,
    "unsubscribe": Session._unsubscribe,
    "disconnect": Session._disconnect,
    "message": Session._message,
}
