"""One connection: what each frame of the client does, and what the client is sent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.errors import BrokerError, CalleeFailed, Invalid, RateLimited, Unauthenticated
from broker.interfaces import ISession
from broker.messages import CloseCode, Request, text_frame
from broker.patterns import RESERVED_PREFIX, check_name
from protocols.owlmeans import wire
from protocols.owlmeans.mailbox import asks_for_mailbox
from protocols.owlmeans.marshalled import marshal, normalise, refused, retry_after
from protocols.owlmeans.outgoing import Outgoing
from protocols.owlmeans.wire import ABSENT, RESULT, Envelope, checked_payload, encode

log = Logger()

BRACE, BRACKET = ord("{"), ord("[")
NO_ARGUMENTS = b"[]"  # of a call without a payload
MAX_NAME_LENGTH = 128  # characters of a client id
MALFORMED_RESULT = ("SocketErrorMessageMalformed", "socket:message:malformed:payload")

Handlers = Mapping[str, Callable[["Session", Envelope], None]]


class Method(Protocol):
    """A call of a method that the broker itself performs."""

    def run(self, session: Session) -> Coroutine[Deferred[Any], Any, dict[str, Any]]:
        """Do it and return the payload of the result."""

    def sent(self, session: Session) -> None:
        """Notice that the result is on its way."""


CLEAN = (CloseCode.NORMAL, CloseCode.NO_STATUS)  # closes of a client that has said goodbye


@attrs.frozen
class Tables:
    """What sessions do, by the words of the wire.

    Attributes:
        admitted: frame type → what it does, for an admitted client.
        unauthenticated: the same for one that must show a credential first.
        read_method: returns the call of a ``broker.`` method, by its name and
            its arguments as a JSON array; raises ``NotFound`` or ``Invalid``.
    """

    admitted: Handlers
    unauthenticated: Handlers
    read_method: Callable[[str, bytes], Method]


@attrs.define(eq=False)
class Performance:
    """A method that the broker performs: what ``Deferred.fromCoroutine`` does, as far as it is needed, for less.

    Attributes:
        session: whose call it is.
        method: the call.
        running: what does it.
        ref: of the call.
        name: of the method.
    """

    session: Session
    method: Method
    running: Coroutine[Deferred[Any], Any, dict[str, Any]]
    ref: str
    name: str

    def go_on(self, result: object = None) -> None:
        """Run until it waits for something, or answer; a callback of what it waits for."""
        try:
            if isinstance(result, Failure):
                waiting = result.throwExceptionIntoGenerator(self.running)
            else:
                waiting = self.running.send(None)  # which takes the result from what it has waited for
            waiting.addBoth(self.go_on)
        except StopIteration as end:
            self._answer(end.value)
        except Exception:
            self._fail()

    def _answer(self, result: dict[str, Any]) -> None:
        try:
            self.session.answer(RESULT, self.ref, encode(result))
            self.method.sent(self.session)
        except Exception:
            self._fail()

    def _fail(self) -> None:
        self.session.on_failure(Failure(), Envelope(type="call", id=self.ref, method=self.name))


@implementer(ISession)
@attrs.define(eq=False)
class Session(Outgoing):
    """One client of this dialect.

    Attributes:
        tables: what frames and methods do.
        name: the client id asked for in the URL, until a credential was shown.
        topics: what to subscribe to as soon as the client is admitted.
        authenticated: whether a credential was shown and found good.
        default_timeout: milliseconds that a call may take if it does not say.
        max_timeout: milliseconds that a call may take at most.
    """

    tables: Tables
    name: str = ""
    topics: tuple[str, ...] = ()
    authenticated: bool = False
    default_timeout: float = attrs.field(init=False)
    max_timeout: float = attrs.field(init=False)
    _handlers: Handlers = attrs.field(init=False)
    _auth_timer: IDelayedCall | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.default_timeout = self.settings.call_timeout_seconds * 1000
        self.max_timeout = self.settings.max_call_timeout_seconds * 1000
        self._handlers = self.tables.unauthenticated

    # Called by the transport.

    def opened(self) -> None:
        """Be visible to others, or wait for a credential."""
        self.start()
        if self.peer.admitted:
            self.admit()
        else:
            seconds = self.settings.auth_deadline_seconds
            self._auth_timer = self.clock.callLater(seconds, self._auth_timeout) if seconds else None

    def received(self, data: bytes, binary: bool) -> None:
        """Do what a frame asks for; what is no frame is dropped and counted."""
        # The hot path, as ``request`` and ``reply`` are: no step that could be spared.
        if binary or not data or data[0] != BRACE:
            self._receive_slowly(data, binary)
            return
        try:
            envelope = self.codec.read(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._receive_slowly(data, binary)
            return
        handler = self._handlers.get(envelope.type)
        if handler is None or self._buffer is not None or envelope.payload is ABSENT:
            self._dispatch(envelope, data)
        else:
            handler(self, envelope)

    def closed(self, code: int, reason: str) -> None:
        """Leave no timer behind."""
        self._cancel_auth_timer()
        self.stop()
        if code in CLEAN:
            self.peer.drop_testament()

    # Called by the core, besides what ``Outgoing`` has.

    def disconnect(self, code: int, reason: str) -> None:
        """Close the connection because the broker says so: for the end of a credential, as for a wrong one."""
        self.link.close(code, refused(reason) if code == CloseCode.POLICY_VIOLATION else reason)

    def warn(self, seconds: float) -> None:
        """Tell the client that its credential ends in *seconds*."""
        self.push(text_frame(wire.expiring(seconds, self.wall.time())))

    # Called by this package.

    def admit(self) -> None:
        """Admit the client: it is visible to others from now on."""
        self._handlers = self.tables.admitted
        self._cancel_auth_timer()
        if self._buffer is not None:
            self._buffer.restart()
        topics, self.topics = self.topics, ()
        for index, topic in enumerate(topics):
            try:
                self.peer.subscribe(topic, rate_limited=not (index or self.peer.named))
            except BrokerError as error:
                self._report_failure(error, Envelope(type="handshake", event=topic))
        self.appear()

    async def take_name_of_url(self) -> None:
        """Take the name that the URL asks for, if it does: a credential was shown."""
        name, self.name = self.name, ""
        if name:
            try:
                await self.take_name(name)
            except BrokerError as error:
                self._report_failure(error, Envelope(type="handshake", id=name))

    async def take_name(self, name: str) -> None:
        """Let *name* be the client id, where the credential names nobody or allows it.

        Raises:
            Invalid: it can be no client id.
            Denied: the client can not have it.
        """
        await self.peer.take_name(check_client_id(name))

    # Incoming frames.

    def _dispatch(self, envelope: Envelope, data: bytes) -> None:
        """Do what *envelope*, read from *data*, asks for."""
        self._notice_start(envelope)
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

    def _notice_start(self, envelope: Envelope) -> None:
        """Notice that the client speaks, and so has its handlers in place.

        One that authenticates first may attach them when that is done; and what is in the mailbox of one that
        first asks for it comes as it has asked.
        """
        if self._buffer is None or envelope.type == "auth" or not self.peer.admitted:
            return
        if not asks_for_mailbox(envelope.method, envelope.payload):
            self.ready()

    def _receive_slowly(self, data: bytes, binary: bool) -> None:
        """Do what *data*, which the fast decoder refuses, asks for as far as it is a frame."""
        try:
            if binary:
                raise Invalid("binary")
            envelope, wrong = wire.read(data)
        except Invalid as error:
            self.peer.ignore()
            log.debug("a frame of {peer} was dropped: {reason}", peer=self.peer.id, reason=error.what)
            return
        if wrong == "type":
            self.peer.ignore()
        elif wrong and envelope.type == "auth":
            # "Exactly one auth frame per received auth frame with non-null stage."
            envelope.stage = "" if wrong == "stage" else envelope.stage
            self._dispatch(envelope, data)
        elif wrong and envelope.type in self._handlers:
            self._notice_start(envelope)
            if self.pace(envelope):
                self.refuse(Invalid(wrong), envelope)
        else:
            self._dispatch(envelope, data)

    def pace(self, envelope: Envelope) -> bool:
        """Count a frame against the rate; say whether it is within it, after a refusal if not."""
        try:
            self.peer.pace()
        except RateLimited as error:
            self.refuse(error, envelope)
            return False
        return True

    def _on_call(self, envelope: Envelope) -> None:
        """Call a method: of the broker, of the recipient, or of whoever performs it."""
        ref, method, recipient, timeout = envelope.id, envelope.method, envelope.recipient, envelope.timeout
        try:
            if not ref:
                raise Invalid("id")
            body = checked_payload(envelope)
            if not body:
                body = NO_ARGUMENTS
            elif body[0] != BRACKET:
                raise Invalid("payload")
            if not method:
                raise Invalid("method")
            if method[0] == "@":
                recipient, _, method = method[1:].partition("/")
                check_name(method, "method")
            elif not recipient and method.startswith(RESERVED_PREFIX):
                self._call_broker(ref, method, body)
                return
            if timeout is None or timeout > self.max_timeout:
                timeout = self.max_timeout if timeout else self.default_timeout
            elif 0 < timeout < 1:
                timeout = 1.0  # in seconds, the least of them would be 0, which is without limit
            self.peer.call(ref, Request("", method, "", "", body, "", recipient, timeout / 1000, envelope.dt / 1000))
        except BrokerError as error:
            self.refuse(error, envelope)

    def _on_result(self, envelope: Envelope) -> None:
        """Answer a call or a request."""
        if not envelope.id:
            self._refuse_answer(envelope)
            return
        error: BrokerError | None = None
        try:
            body = checked_payload(envelope) or b"null"
        except Invalid:
            # The caller must not wait for an answer that it can not get.
            body, error = b"null", CalleeFailed(*MALFORMED_RESULT)
        try:
            self.peer.answer(envelope.id, body, error, time=envelope.dt / 1000)
        except RateLimited as refusal:
            self.notice(refusal, envelope)

    def _on_error(self, envelope: Envelope) -> None:
        """Answer a call or a request with an error."""
        if not envelope.id:
            self._refuse_answer(envelope)
            return
        error = normalise(bytes(envelope.payload), self.settings.owlmeans_pass_stacks)
        try:
            self.peer.answer(envelope.id, b"null", error, time=envelope.dt / 1000)
        except RateLimited as refusal:
            self.notice(refusal, envelope)

    def _refuse_answer(self, envelope: Envelope) -> None:
        """Refuse an answer that does not say what it answers."""
        if self.pace(envelope):
            self.notice(Invalid("id"), envelope)

    def _on_request(self, envelope: Envelope) -> None:
        """Send a request to the recipient, or to one who takes its topic."""
        try:
            if not envelope.id:
                raise Invalid("id")
            body = checked_payload(envelope) or b"null"
            asked = Request("", "", "", "", body, recipient=envelope.recipient, time=envelope.dt / 1000)
            self.peer.request(envelope.id, asked, wire.action(body))
        except BrokerError as error:
            self.refuse(error, envelope)

    def _on_event(self, envelope: Envelope) -> None:
        """Publish an event."""
        name = envelope.event
        try:
            body = checked_payload(envelope) or None
            published = self.peer.publish(name, name, body, time=envelope.dt / 1000)
        except BrokerError as error:
            self.notice(error, envelope)
        else:
            published.addErrback(self.on_failure, envelope)

    def _on_message(self, envelope: Envelope) -> None:
        """Send a message to a client's mailbox or to a work queue."""
        try:
            body = checked_payload(envelope)
            sent = self.peer.enqueue(envelope.id, body, recipient=envelope.recipient, time=envelope.dt / 1000)
        except BrokerError as error:
            self.notice(error, envelope)
        else:
            sent.addCallback(self._enqueued, envelope)
            sent.addErrback(self.on_failure, envelope)

    def _on_ping(self, envelope: Envelope) -> None:
        self.link.send(wire.PONG)

    def _on_unauthorized(self, envelope: Envelope) -> None:
        """Refuse what a client may not do before it has shown who it is."""
        self.refuse(self.peer.unauthenticated(envelope.type), envelope)

    def _call_broker(self, ref: str, name: str, body: bytes) -> None:
        """Perform method *name* and answer the call *ref* of it."""
        method = self.tables.read_method(name, body)
        Performance(self, method, method.run(self), ref, name).go_on()

    def _enqueued(self, dropped: bool, envelope: Envelope) -> None:
        if dropped:
            self.notice(RateLimited("limit", "mailbox"), envelope)

    def on_failure(self, failure: Failure, envelope: Envelope) -> None:
        """Tell the client that what *envelope* asks for has failed."""
        error = failure.value
        if not isinstance(error, BrokerError):
            log.failure("{type} {method} failed", failure, type=envelope.type, method=envelope.method)
            error = BrokerError()
        self.refuse(error, envelope)

    def _report_failure(self, error: BrokerError, asked: Envelope) -> None:
        """Tell that something in the URL was not done."""
        self.push(text_frame(wire.notice(marshal(error), asked, retry_after(error))))

    # The credential.

    def _auth_timeout(self) -> None:
        self._auth_timer = None
        self.link.close(CloseCode.POLICY_VIOLATION, marshal(Unauthenticated("timeout")))

    def _cancel_auth_timer(self) -> None:
        if self._auth_timer is not None:
            self._auth_timer.cancel()
            self._auth_timer = None


def check_client_id(name: str) -> str:
    """Return *name* if it can be a client id: 1 to 128 characters, none of them a control character.

    Raises:
        Invalid: it can not.
    """
    if len(name) > MAX_NAME_LENGTH:
        raise Invalid("name")
    return check_name(name, "name")


FRAMES: Handlers = {
    "call": Session._on_call,
    "result": Session._on_result,
    "error": Session._on_error,
    "request": Session._on_request,
    "response": Session._on_result,
    "event": Session._on_event,
    "message": Session._on_message,
    "ping": Session._on_ping,
}


# Counted otherwise: what somebody waits for is brought at any rate.
ANSWERS = ("result", "error", "response")


def make_tables(
    on_auth: Callable[[Session, Envelope], None],
    read_method: Callable[[str, bytes], Method],
    *,
    rate_limited: bool = False,
) -> Tables:
    """Return the tables with *on_auth*, which answers an ``auth`` frame.

    With *rate_limited*, what the others do is counted against the rate before it is done.
    """
    frames = {kind: _limited(act) if rate_limited and kind not in ANSWERS else act for kind, act in FRAMES.items()}
    unauthorized = _limited(Session._on_unauthorized) if rate_limited else Session._on_unauthorized
    admitted: Handlers = {**frames, "auth": on_auth}
    # "Required mode, not yet authenticated: only auth and ping work."
    open_to_all = {"auth": on_auth, "ping": frames["ping"]}
    return Tables(admitted, {**dict.fromkeys(admitted, unauthorized), **open_to_all}, read_method)


def _limited(act: Callable[[Session, Envelope], None]) -> Callable[[Session, Envelope], None]:
    def limited(session: Session, envelope: Envelope) -> None:
        if session.pace(envelope):
            act(session, envelope)

    return limited
