"""One connection: what each frame of the client does, and what it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.errors import BrokerError, CalleeFailed, Invalid, RateLimited, Unauthenticated
from broker.interfaces import ILink, ISession
from broker.messages import Event, Frame, Mail, Reply, Request, text_frame
from protocols.owlmeans import auth, careful, keys, reserved, wire
from protocols.owlmeans.gate import Gate
from protocols.owlmeans.marshalled import marshal, normalise
from protocols.owlmeans.method import Answer, Method, Methods
from protocols.owlmeans.watches import TOPIC, Watches
from protocols.owlmeans.wire import ABSENT, BROKER, RESPONSE, RESULT, Envelope, decode, encode, milliseconds

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from broker.peer import Peer
    from broker.settings import Settings

log = Logger()

SPECIAL = ("broker.", "@")  # what the broker's own methods begin with, and "@client/method"
METHODS = Methods(*reserved.METHODS, *keys.METHODS)
BURST = 1 << 18  # bytes of queued messages that go out before the client may have read some
PAUSE = 0.05  # seconds until the next burst
MALFORMED = ("SocketErrorMessageMalformed", "socket:message:malformed:payload")


@implementer(ISession)
@attrs.define(eq=False)
class Session:
    """One client of this dialect.

    Attributes:
        peer: the way into the broker.
        link: the way out to the client.
        settings: of the daemon.
        clock: gives the time.
        name: the client id asked for in the URL, until it is taken.
        topics: what to subscribe to as soon as the client is let in.
        authenticated: whether a credential was shown and found good.
        watches: the keys it watches.
    """

    peer: Peer
    link: ILink
    settings: Settings
    clock: IReactorTime
    name: str = ""
    topics: tuple[str, ...] = ()
    authenticated: bool = False
    watches: Watches = attrs.field(init=False)
    _handlers: dict[str, Handler] = attrs.field(factory=dict)
    _client: bytes = b'""'
    _gate: Gate | None = None
    _deadline: IDelayedCall | None = None
    _mailed: int = 0
    _collecting: IDelayedCall | None = None

    def __attrs_post_init__(self) -> None:
        self.watches = Watches(self.peer, self.push)

    # Called by the transport

    def opened(self) -> None:
        """Be there for others, or wait for a credential."""
        self._gate = Gate(self.clock, self.ready, self.settings.send_queue_bytes)
        self._gate.begin()
        if self.peer.admitted:
            self.admit()
        else:
            self._handlers = GUEST
            self._deadline = self.clock.callLater(self.settings.auth_deadline_seconds, self._expel)

    def received(self, data: bytes, binary: bool) -> None:
        """Do what a frame asks for; what is no frame is dropped and counted."""
        if binary or data[:1] != b"{":
            self._read_odd(data, binary)
            return
        try:
            envelope = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._read_odd(data, binary)
            return
        handler = self._handlers.get(envelope.type)
        if handler is None or self._gate is not None or envelope.payload is ABSENT:
            self._take(envelope, data)
        else:
            handler(self, envelope)

    def closed(self, code: int, reason: str) -> None:
        """Leave no timer behind."""
        if self._gate is not None:
            self._gate.close()
        self._lift_deadline()
        if self._collecting is not None:
            self._collecting.cancel()
            self._collecting = None

    # Called by the core

    def request(self, request: Request) -> None:
        """Send a call that this client performs, or a request it takes."""
        dt = int((request.time or self.clock.seconds()) * 1000 + 0.5)
        if request.streamed:
            self.push(text_frame(wire.request(request, self._client, dt)))
        else:
            self.link.send(wire.call(request, self._client, dt))

    def reply(self, reply: Reply) -> None:
        """Send the end of a call, or one answer of a request."""
        dt = int((reply.time or self.clock.seconds()) * 1000 + 0.5)
        sender, error = encode(reply.source), reply.error
        if error is None:
            form, body = RESPONSE if reply.streamed else RESULT, reply.body
        else:
            form, body = wire.failure(marshal(error), reply.streamed)
        self.link.send(form % (encode(reply.ref), body, sender, dt))

    def event(self, event: Event, pattern: str) -> None:
        """Send *event* as it comes by one subscription, or by the watches of its key."""
        if pattern:
            frame = event.render(_event_frame, pattern)
            if self._gate is None:
                self.link.send_frame(frame)
            else:
                self.push(frame)
            return
        for watch in self.watches.admitting(event):
            self.watches.tell(watch, event.render(_event_frame, TOPIC + watch))

    def mail(self, mail: Mail) -> bool:
        """Send a queued message, unless the client can not read it now."""
        gate = self._shut()
        if gate is not None:
            gate.wait()
            return False
        if self.link.paused or self._mailed > BURST:
            self._collect_later()
            return False
        frame = wire.mail(mail)
        self._mailed += len(frame)
        self.link.send(frame)
        return True

    async def probe(self) -> bool:
        """Say that the client is alive: the transport's pings would have noticed otherwise."""
        return True

    # Called by this package

    def admit(self) -> None:
        """Let the client in: it is seen by others from now on."""
        self._handlers = HANDLERS
        self._lift_deadline()
        if self._gate is not None:
            self._gate.begin()
        name, self.name = self.name, ""
        topics, self.topics = self.topics, ()
        try:
            if name:
                auth.take_name(self.peer, name)
        except BrokerError as error:
            self._regret(error, Envelope(type="handshake", id=name))
        for topic in topics:
            try:
                self.peer.subscribe(topic)
            except BrokerError as error:
                self._regret(error, Envelope(type="handshake", event=topic))
        self.appear()

    def _regret(self, error: BrokerError, asked: Envelope) -> None:
        """Tell that something in the URL was not done."""
        self.push(text_frame(wire.notice(marshal(error), asked)))

    def appear(self) -> None:
        """Be seen by others under the client id that it has now."""
        self._client = encode(self.peer.client)
        self.peer.appear()

    def ready(self) -> None:
        """Send what was held back: the client has its handlers in place."""
        gate, self._gate = self._gate, None
        if gate is not None:
            for frame in gate.close():
                self.link.send_frame(frame)
        self.peer.collect()

    def push(self, frame: Frame) -> None:
        """Send what the client has not asked for just now."""
        gate = self._shut()
        if gate is None:
            self.link.send_frame(frame)
        elif not gate.hold(frame):
            self.link.close(1013, "too much before the first frame")

    def _shut(self) -> Gate | None:
        """Return the gate while the client may not have its handlers in place."""
        if self._gate is not None and self._gate.ripe:
            self.ready()
        return self._gate

    def notice(self, error: BrokerError, envelope: Envelope) -> None:
        """Tell of an error that has no other way back."""
        self.link.send(wire.notice(marshal(error), envelope))

    def refuse(self, error: BrokerError, envelope: Envelope) -> None:
        """Tell the client that *envelope* was not done."""
        if envelope.id and envelope.type in ("call", "request"):
            form, body = wire.failure(marshal(error), envelope.type == "request")
            self._answer(form, envelope.id, body)
        else:
            self.notice(error, envelope)

    # The frames

    def _take(self, envelope: Envelope, data: bytes) -> None:
        self._heard(envelope)
        handler = self._handlers.get(envelope.type)
        if handler is None:
            # "Unknown types are dropped, never relayed": a relayed system/close
            # would look like a local close.
            self.peer.ignore()
            return
        if envelope.payload is ABSENT and envelope.type == "message":
            # "If it has no payload, the whole object becomes the payload."
            envelope.payload = msgspec.Raw(data)
        handler(self, envelope)

    def _heard(self, envelope: Envelope) -> None:
        """Notice that the client speaks, and so has its handlers in place.

        One that authenticates first may attach them when that is done.
        """
        if self._gate is not None and envelope.type != "auth" and self.peer.admitted:
            self.ready()

    def _read_odd(self, data: bytes, binary: bool) -> None:
        """Take a frame that is none, or not quite one."""
        try:
            if binary:
                raise Invalid("binary")
            envelope, wrong = careful.read(data)
        except Invalid as error:
            self.peer.ignore()
            log.debug("a frame of {peer} was dropped: {reason}", peer=self.peer.id, reason=error.what)
            return
        if wrong == "type":
            self.peer.ignore()
        elif wrong and envelope.type == "auth":
            # "Exactly one auth frame per received auth frame with non-null stage."
            envelope.stage = "" if wrong == "stage" else envelope.stage
            self._take(envelope, data)
        elif wrong and envelope.type in self._handlers:
            self._heard(envelope)
            self.refuse(Invalid(wrong), envelope)
        else:
            self._take(envelope, data)

    def _call(self, envelope: Envelope) -> None:
        ref, method, recipient = envelope.id, envelope.method, envelope.recipient
        body = bytes(envelope.payload)
        try:
            if not ref:
                raise Invalid("id")
            if body[:1] != b"[" or careful.overflows(body):
                raise Invalid("payload")
            if method.startswith(SPECIAL):
                if method[0] == "@":
                    recipient, _, method = method[1:].partition("/")
                elif not recipient:
                    self._call_broker(ref, method, body)
                    return
            if not method:
                raise Invalid("method")
            timeout = self._timeout(envelope.timeout)
            self.peer.call(
                ref, Request("", method, "", "", body, recipient=recipient, timeout=timeout, time=envelope.time)
            )
        except BrokerError as error:
            self.refuse(error, envelope)

    def _result(self, envelope: Envelope) -> None:
        body = bytes(envelope.payload) or b"null"
        if not envelope.id:
            self.notice(Invalid("id"), envelope)
        elif careful.overflows(body):
            # The caller must not wait for an answer that it can not get.
            self.peer.answer(envelope.id, b"null", CalleeFailed(*MALFORMED), time=envelope.time)
        else:
            self.peer.answer(envelope.id, body, time=envelope.time)

    def _error(self, envelope: Envelope) -> None:
        if envelope.id:
            self.peer.answer(envelope.id, b"null", normalise(bytes(envelope.payload)), time=envelope.time)
        else:
            self.notice(Invalid("id"), envelope)

    def _request(self, envelope: Envelope) -> None:
        body = bytes(envelope.payload) or b"null"
        try:
            if not envelope.id:
                raise Invalid("id")
            if careful.overflows(body):
                raise Invalid("payload")
            request = Request("", "", "", "", body, recipient=envelope.recipient, time=envelope.time)
            self.peer.request(envelope.id, request, _action(body))
        except BrokerError as error:
            self.refuse(error, envelope)

    def _event(self, envelope: Envelope) -> None:
        name, body = envelope.event, bytes(envelope.payload)
        try:
            if careful.overflows(body):
                raise Invalid("payload")
            sent = self.peer.publish(name, name, body or None, time=envelope.time)
        except BrokerError as error:
            self.notice(error, envelope)
        else:
            sent.addErrback(self._undone, envelope)

    def _message(self, envelope: Envelope) -> None:
        body = bytes(envelope.payload)
        try:
            if careful.overflows(body):
                raise Invalid("payload")
            sent = self.peer.enqueue(envelope.id, body, recipient=envelope.recipient, time=envelope.time)
        except BrokerError as error:
            self.notice(error, envelope)
        else:
            sent.addCallbacks(self._enqueued, self._undone, callbackArgs=(envelope,), errbackArgs=(envelope,))

    def _enqueued(self, dropped: bool, envelope: Envelope) -> None:
        if dropped:
            self.notice(RateLimited("limit", "mailbox"), envelope)

    def _ping(self, envelope: Envelope) -> None:
        self.link.send(wire.PONG)

    def _unauthorized(self, envelope: Envelope) -> None:
        self.refuse(Unauthenticated(envelope.type), envelope)

    # What the broker itself performs

    def _call_broker(self, ref: str, method: str, body: bytes) -> None:
        asked = METHODS.read(method, body)
        done = Deferred.fromCoroutine(asked.run(self))
        done.addCallback(self._performed, ref, asked)
        done.addErrback(self._undone, Envelope(type="call", id=ref, method=method))

    def _performed(self, payload: Answer, ref: str, asked: Method) -> None:
        self._answer(RESULT, ref, encode(payload))
        asked.sent(self)

    def _undone(self, failure: Failure, envelope: Envelope) -> None:
        error = failure.value
        if not isinstance(error, BrokerError):
            log.failure("{type} failed", failure, type=envelope.type)
            error = BrokerError()
        self.refuse(error, envelope)

    def _answer(self, form: bytes, ref: str, body: bytes) -> None:
        self.link.send(form % (encode(ref), body, BROKER, milliseconds(self.clock.seconds())))

    # Times

    def _timeout(self, asked: float | None) -> float:
        """Return how many seconds a call may take; 0.0 is without limit."""
        if asked is None:
            return self.settings.call_timeout_seconds
        if asked < 0:
            raise Invalid("timeout")
        longest = self.settings.max_call_timeout_seconds
        return asked / 1000 if asked <= longest * 1000 else longest

    def _expel(self) -> None:
        self._deadline = None
        self.link.close(1008, marshal(Unauthenticated("timeout")))

    def _lift_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _collect_later(self) -> None:
        if self._collecting is None:
            self._collecting = self.clock.callLater(PAUSE, self._collect)

    def _collect(self) -> None:
        self._collecting = None
        self._mailed = 0
        self.peer.collect()


Handler = Callable[[Session, Envelope], None]

HANDLERS: dict[str, Handler] = {
    "call": Session._call,
    "result": Session._result,
    "error": Session._error,
    "request": Session._request,
    "response": Session._result,
    "event": Session._event,
    "message": Session._message,
    "auth": auth.answer,
    "ping": Session._ping,
}

# "Required mode, not yet authenticated: only auth and ping work."
GUEST: dict[str, Handler] = {
    **dict.fromkeys(HANDLERS, Session._unauthorized),
    "auth": auth.answer,
    "ping": Session._ping,
}


class _Action(msgspec.Struct):
    action: str = ""


_decode_action = msgspec.json.Decoder(_Action).decode


def _action(payload: bytes) -> str:
    """Return the topic of a request: "payload.action if it is a string"."""
    try:
        return _decode_action(payload).action
    except (msgspec.DecodeError, RecursionError):
        return ""


def _event_frame(event: Event, pattern: str) -> Frame:
    return wire.event(event, pattern, event.render(_copy))


def _copy(event: Event) -> str:
    return str(uuid4())
