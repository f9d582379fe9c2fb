"""One ThinWS client: what its frames do, and what it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import attrs
import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError, Denied, Invalid, RateLimited, Unauthenticated
from broker.interfaces import IPeer
from broker.jsontext import object_text
from broker.messages import Event
from broker.sessions import OrderedSession
from protocols.thinws.frames import Members, connection_id, echo, read, room_frame, room_of, text_of

log = Logger()

ERRORS = {
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
class Session(OrderedSession):
    """One ThinWS client.

    A frame is answered before the next one is looked at, and room messages
    that arrive meanwhile go out behind the answer.

    Attributes:
        identity: its connectionID; "" before it has given one.
    """

    _peer: IPeer
    _hooks: Hooks
    _open_rooms: bool
    identity: str = ""
    _token_refused: bool = False
    _refusal_logged: bool = False  # whether the log has a line of what the next refusal tells the client
    _lack: str = ""  # what a web token lacked that was refused
    _postponed: str = ""  # the token that was not looked at, since too many wrong ones came from its address
    _connected: bool = False

    @property
    def id(self) -> str:
        """The session id: what a log may say of this client, whose connectionID is its only secret."""
        return self._peer.id

    def authenticate(self, token: str) -> None:
        """Become who *token* names; after a wrong one, every frame is refused until a right one comes.

        One that can not be looked at now is looked at with a later frame.
        """
        self._token_refused, self._postponed, self._lack = True, "", ""
        self._refusal_logged = False
        try:
            self._peer.identify(token)
            self._token_refused = False
        except RateLimited:
            self._postponed = token
        except BrokerError as error:
            self._lack, self._refusal_logged = error.explanation, True

    # What the transport and the core call

    def ended(self) -> None:
        """Call the hooks of ``disconnect``, unless the client has disconnected itself."""
        self._notify_disconnect()

    def event(self, event: Event, pattern: str) -> None:
        """Send a room message."""
        frame = event.render(room_frame)
        if self.holding:
            self.hold(event.topic, frame)
        else:
            self._link.send_frame(frame)

    async def probe(self) -> bool:
        """Say no: the client holds no name that could be taken over."""
        return False

    # Frames

    def frame(self, data: bytes, binary: bool) -> Deferred[None] | None:
        """Begin what a frame asks for; the Deferred fires when it was answered."""
        frame: Members = {}
        try:
            try:
                frame = read(data, binary)
            finally:
                self._peer.pace()  # what is malformed is counted as well
            kind = text_of(frame.get("type"))
            if kind == "ack":
                return None
            handler = HANDLERS.get(kind)
            if handler is None:
                raise Invalid("type", message="Unknown message type" if kind else "Invalid message")
            if kind != "connect":
                self._check_admitted(kind)
            doing = handler(self, frame)
        except BrokerError as error:
            self._refuse(frame, error)
            return None
        return doing.addCallbacks(self._done, self._failed, (frame, kind), errbackArgs=(frame,))

    def overrun(self, data: bytes, binary: bool) -> None:
        """Refuse a frame because too much waits before it."""
        frame: Members = {}
        self._peer.ignore()
        try:
            frame = read(data, binary)
        except Invalid:
            pass
        self._refuse(frame, RateLimited("limit", "backlog"))

    def _done(self, room: str, frame: Members, kind: str) -> None:
        if self._held:
            # Of a room that this frame has left, nothing may come behind the ack.
            self.release(lambda topic: not self._peer.joined(topic))
        self._link.send(b'{"type":"ack"%b}' % echo(frame))
        if kind == "message" and self._hooks["message"]:
            self._notify("message", room, json.loads(object_text(frame)))

    def _failed(self, failure: Failure, frame: Members) -> None:
        error = failure.value
        if not isinstance(error, BrokerError):
            log.failure("thinws session {conn} failed", failure, conn=self.id)
            error = BrokerError()
        self._refuse(frame, error)

    def _refuse(self, frame: Members, error: BrokerError) -> None:
        """Send the error frame: the one reply to *frame*."""
        text = ERRORS.get(error.code, "Internal server error")
        if isinstance(error, Invalid):
            text = error.message
        elif isinstance(error, Unauthenticated) and error.explanation:
            text = f"{text}: {error.explanation}"
        elif isinstance(error, Denied) and error.what == "room":
            text = "Not a member of this room"
        elif isinstance(error, RateLimited) and error.name in TOO_MANY:
            text = "Too many rooms"
        self._link.send(b'{"type":"error","message":%b%b}' % (_encode(text), echo(frame)))

    # What a client may ask for.  Each handler returns the room, "" where there is none.

    def _connect(self, frame: Members) -> Deferred[str]:
        identity = connection_id(frame)
        if not identity:
            raise Invalid("connectionID", message="connectionID is required")
        token = text_of(frame.get("token"))
        if token:
            self.authenticate(token)
        self._check_admitted("connect")
        return Deferred.fromCoroutine(self._become(identity))

    def _subscribe(self, frame: Members) -> Deferred[str]:
        return Deferred.fromCoroutine(self._join(room_of(frame), self._implied_identity(frame)))

    def _unsubscribe(self, frame: Members) -> Deferred[str]:
        return Deferred.fromCoroutine(self._part(room_of(frame), self._implied_identity(frame)))

    def _disconnect(self, frame: Members) -> Deferred[str]:
        self._peer.part_all()
        self._notify_disconnect()
        return succeed("")

    def _message(self, frame: Members) -> Deferred[str]:
        room = room_of(frame)
        if not self._open_rooms and not self._peer.joined(room):
            raise Denied("room", room)
        body = frame.get("message", frame.get("payload"))
        # The connectionID is the only credential: it goes to nobody.
        forwarded = {name: text for name, text in frame.items() if name not in ("messageID", "connectionID")}
        sent = self._peer.publish(
            room, "message", None if body is None else bytes(body), named=False, original=object_text(forwarded)
        )
        return sent.addCallback(lambda _: room)

    def _check_admitted(self, kind: str) -> None:
        if self._postponed and self._peer.tries_left:
            self.authenticate(self._postponed)
            if self._postponed:
                raise RateLimited("limit", "auth")
        if self._refusal_logged:  # that of the credential, which this frame tells the client of
            self._refusal_logged = False
            raise Unauthenticated(kind, message=self._lack)
        if self._token_refused or not self._peer.admitted:
            raise self._peer.unauthenticated(kind, self._lack)

    def _implied_identity(self, frame: Members) -> str:
        """Return the connectionID by which a subscribe or unsubscribe connects as well, or "".

        Raises:
            Invalid: the client has connected with another one.
        """
        identity = connection_id(frame)
        if not identity or identity == self.identity:
            return ""
        if self.identity:
            raise Invalid("connectionID", message="connectionID mismatch")
        return identity

    async def _become(self, identity: str) -> str:
        await self._peer.become(identity)
        self._notify_disconnect()
        self.identity, self._connected = identity, True
        self._notify("connect")
        return ""

    async def _join(self, room: str, identity: str) -> str:
        if identity:
            await self._become(identity)
        await self._peer.join(room, rate_limited=not identity)  # one frame, one token
        self._notify("subscribe", room)
        return room

    async def _part(self, room: str, identity: str) -> str:
        if identity:
            await self._become(identity)
        await self._peer.part(room, rate_limited=not identity)
        self._notify("unsubscribe", room)
        return room

    def _notify_disconnect(self) -> None:
        """Call the hooks of ``disconnect``, once for each connect."""
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
