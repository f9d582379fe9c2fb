"""One connection: what comes from the client, and what it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import msgspec
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from broker.errors import BrokerError, Invalid, Unauthenticated
from broker.interfaces import ILink, IPeer, ISession
from broker.messages import CloseCode, Event, Frame, Mail, Reply, Request, text_frame
from protocols.owlmeans import auth, careful, wire
from protocols.owlmeans.frames import GUEST, HANDLERS, Handlers
from protocols.owlmeans.gate import Gate
from protocols.owlmeans.marshalled import marshal
from protocols.owlmeans.watches import TOPIC, Watches
from protocols.owlmeans.wire import ABSENT, BROKER, CALL, RESPONSE, RESULT, Envelope, decode, encode, milliseconds

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from broker.config.settings import Settings

log = Logger()

BRACE = ord("{")
BURST = 1 << 18  # bytes of queued messages that go out before the client may have read some
PAUSE = 0.05  # seconds until the next burst


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
        usual: milliseconds that a call may take if it does not say.
        longest: milliseconds that a call may take at most.
        watches: the keys it watches.
    """

    peer: IPeer
    link: ILink
    settings: Settings
    clock: IReactorTime
    name: str = ""
    topics: tuple[str, ...] = ()
    authenticated: bool = False
    usual: float = attrs.field(init=False)
    longest: float = attrs.field(init=False)
    watches: Watches = attrs.field(init=False)
    _handlers: Handlers = GUEST
    _client: bytes = b'""'
    _gate: Gate | None = None
    _deadline: IDelayedCall | None = None
    _mailed: int = 0
    _collecting: IDelayedCall | None = None

    def __attrs_post_init__(self) -> None:
        self.usual = self.settings.call_timeout_seconds * 1000
        self.longest = self.settings.max_call_timeout_seconds * 1000
        self.watches = Watches(self.peer, self.push)

    # Called by the transport

    def opened(self) -> None:
        """Be there for others, or wait for a credential."""
        self._gate = Gate(self.clock, self.ready, self.settings.send_queue_bytes)
        self._gate.begin()
        if self.peer.admitted:
            self.admit()
        else:
            self._deadline = self.clock.callLater(self.settings.auth_deadline_seconds, self._auth_timeout)

    def received(self, data: bytes, binary: bool) -> None:
        """Do what a frame asks for; what is no frame is dropped and counted."""
        # The hot path, as ``request`` and ``reply`` are: no step that could be spared.
        if binary or not data or data[0] != BRACE:
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
            self._gate = None
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
            return
        timeout = int(request.timeout * 1000 + 0.5)
        names = encode(request.id), encode(request.procedure)
        self.link.send(CALL % (*names, request.body, timeout, encode(request.caller), self._client, dt))

    def reply(self, reply: Reply) -> None:
        """Send the end of a call, or one answer of a request."""
        dt = int((reply.time or self.clock.seconds()) * 1000 + 0.5)
        sender, error = encode(reply.source), reply.error
        if error is None:
            form, body = RESPONSE if reply.streamed else RESULT, reply.body
        else:
            form, body = wire.failure(marshal(error, self.settings.owlmeans_pass_stacks), reply.streamed)
        self.link.send(form % (encode(reply.ref), body, sender, dt))

    def event(self, event: Event, pattern: str) -> None:
        """Send *event* as it comes by one subscription, or by the watches of its key."""
        if pattern:
            frame = event.render(wire.event, pattern)
            if self._gate is None:
                self.link.send_frame(frame)
            else:
                self.push(frame)
            return
        for watch in self.watches.admitting(event):
            self.watches.notify(watch, event.render(wire.event, TOPIC + watch))

    def mail(self, mail: Mail) -> bool:
        """Send a queued message, unless the client can not read it now."""
        if not self.link.open:
            return False  # what is sent to a connection that closes is lost
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
            self._report_failure(error, Envelope(type="handshake", id=name))
        for topic in topics:
            try:
                self.peer.subscribe(topic)
            except BrokerError as error:
                self._report_failure(error, Envelope(type="handshake", event=topic))
        self.appear()

    def _report_failure(self, error: BrokerError, asked: Envelope) -> None:
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
            self.link.close(CloseCode.TRY_AGAIN_LATER, "too much before the first frame")

    def _shut(self) -> Gate | None:
        """Return the gate while the client may not have its handlers in place."""
        if self._gate is not None and self._gate.expired:
            self.ready()
        return self._gate

    def notice(self, error: BrokerError, envelope: Envelope) -> None:
        """Tell of an error that has no other way back."""
        self.link.send(wire.notice(marshal(error), envelope))

    def refuse(self, error: BrokerError, envelope: Envelope) -> None:
        """Tell the client that *envelope* was not done."""
        if envelope.id and envelope.type in ("call", "request"):
            form, body = wire.failure(marshal(error), envelope.type == "request")
            self.answer(form, envelope.id, body)
        else:
            self.notice(error, envelope)

    def answer(self, form: bytes, ref: str, body: bytes) -> None:
        """Answer *ref* in the broker's own name."""
        self.link.send(form % (encode(ref), body, BROKER, milliseconds(self.clock.seconds())))

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

    # Timers

    def _auth_timeout(self) -> None:
        self._deadline = None
        self.link.close(CloseCode.POLICY_VIOLATION, marshal(Unauthenticated("timeout")))

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
