"""The MicroStream hub: services register under a name and send each other requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access.addresses import TrustedProxies
from broker.arrays import first_items
from broker.errors import BrokerError, CalleeFailed, Invalid, NotFound, RateLimited
from broker.interfaces import ILink, IPeer
from broker.jsontext import decode, overflows, read_items
from broker.messages import CloseCode, Reply, Request
from broker.patterns import MAX_NAME, is_of_broker, is_reserved
from protocols.microstream.engineio import Times
from protocols.microstream.namespaces import INVALID_NAMESPACE, SocketSession
from protocols.microstream.server import Bounds, Server
from protocols.microstream.sessions import Handshake, SessionContext
from protocols.microstream.socketio import Connect, Emit
from protocols.microstream.wire import (
    DUPLICATE_REQUEST,
    INVALID_NAME,
    INVALID_RESPONSE,
    NULLS,
    OVERFLOW,
    Answer,
    Credential,
    Envelope,
    Malformed,
    Numbered,
    Payload,
    connect_error,
    encode,
    failed_response,
    failure_in,
    quote,
)

if TYPE_CHECKING:
    from broker.config.settings import Settings

log = Logger()

MAX_PAYLOAD = 1_000_000  # bytes; what socket.io servers take
TRANSIENT = frozenset(("RATE_LIMITED", "UNAVAILABLE", "GONE"))  # reasons that pass by themselves
UNADMITTED_PART = 4  # of so many connections of clients that are not admitted, sessions may be one: they cost more
MAX_ID_LENGTH = 1024  # characters of the id of a request
TOO_LONG = f"targetService has {MAX_NAME} characters at most, and payload.id {MAX_ID_LENGTH}"
MAX_STALE = 64  # expired requests that a service remembers besides twice the open ones

_envelope = msgspec.json.Decoder(Envelope)
_payload = msgspec.json.Decoder(Payload)
_numbered = msgspec.json.Decoder(Numbered)
_answer = msgspec.json.Decoder(Answer)
_credential = msgspec.json.Decoder(Credential)
_malformed = msgspec.json.Decoder(Malformed)
_text = msgspec.json.Decoder(str)


class Service(SocketSession):
    """A client of the hub: a service, once it is registered."""

    def __init__(
        self, hub: MicroStream, context: SessionContext, peer: IPeer, handshake: Handshake, link: ILink | None
    ) -> None:
        self.connect_timeout = 0.0  # ``Bounds.deadline`` does the same
        super().__init__(context, peer, handshake, link)
        self._hub = hub
        self._names = handshake.query.get("serviceName", ())
        self._token = handshake.query.get("token", ("",))[0] or handshake.headers.get("authorization", "")
        self._joining: Deferred[None] | None = None
        # The requests it was sent, by the id it knows: the broker's id, and
        # whether the caller uses another dialect.
        self._serving: dict[str, tuple[str, bool]] = {}

    # Registration

    def on_connect(self, connect: Connect) -> None:
        """Register the service; the answer comes when a present holder of the name has been probed."""
        if connect.namespace != "/":
            self.peer.ignore()
            self.refuse(connect.namespace, INVALID_NAMESPACE)
            return
        joining = Deferred.fromCoroutine(self._join(connect.auth))
        if not joining.called:
            self._joining = joining
        joining.addErrback(self._not_joined)

    async def _join(self, auth: bytes) -> None:
        name = ", ".join(self._names)
        try:
            self.peer.pace()
            self._identify(auth)
            name = self._name()
            if not self.peer.identity.client and not self._has_reserved_word(name):
                await self.peer.take_name(name)
            await self.peer.perform([name], as_service=True, takeover=True)
        except BrokerError as error:
            if error.code in TRANSIENT:
                # The shipped client never tries again after CONNECT_ERROR, but does after a close.
                self.end(CloseCode.TRY_AGAIN_LATER, error.code)
            else:
                self.refuse("/", connect_error(error, name))
            return
        finally:
            self._joining = None
        self.peer.appear()
        self.accept("/")

    def _identify(self, auth: bytes) -> None:
        """Authenticate by the token of the handshake, or else of the CONNECT, if there is one.

        Raises:
            Invalid: the token of the CONNECT is not a string.
            Unauthenticated: the token is wrong.
        """
        token = self._token
        if not token and auth:
            try:
                token = decode(_credential, auth).token
            except Invalid:
                raise Invalid("token", message="token is no text") from None
        if token:
            self.peer.identify(token)

    def _name(self) -> str:
        """Return the ``serviceName`` of the handshake.

        Raises:
            CalleeFailed: it is missing, given twice, or "undefined", which is what
                JavaScript writes for an option that was forgotten.
        """
        if len(self._names) != 1 or self._names[0] in ("", "undefined"):
            raise CalleeFailed(INVALID_NAME, "One serviceName is needed in the query")
        return self._names[0]

    def _has_reserved_word(self, name: str) -> bool:
        """Whether *name*, such as "user", is one that a service may have and a client id not."""
        may_take_names = self._hub.is_open or self.peer.identity.authenticated
        return may_take_names and is_reserved(name) and not is_of_broker(name)

    def _not_joined(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("{dialect} failed to register a service", failure, dialect=self._hub.name)
            self.end(CloseCode.INTERNAL_ERROR, "internal error")

    def on_disconnect(self, namespace: str) -> None:
        """Unregister the service; its requests end, both those it was sent and those it made."""
        self._serving.clear()
        self.set_idle_timeout(0)
        self.peer.ignore()
        self.peer.undo()

    def on_ended(self) -> None:
        """Cancel the registration, if one is under way."""
        super().on_ended()
        if self._joining is not None:
            self._joining.cancel()

    # From the client

    def on_event(self, emit: Emit) -> None:
        """Handle a request, a response or a heartbeat; "Unknown events: silently ignored"."""
        handle = self._events.get(emit.name)
        if handle is None:
            self.peer.ignore()
        else:
            handle(self, emit)

    def _request(self, emit: Emit) -> None:
        try:
            envelope = decode(_envelope, emit.args[0])
            payload = decode(_payload, envelope.payload)
        except (Invalid, IndexError):
            self._refuse_request(emit)
            return
        target, id, data = envelope.targetService, payload.id, bytes(payload.data)
        if len(target) > MAX_NAME or len(id) > MAX_ID_LENGTH:
            self._fail(Invalid("request", message=TOO_LONG), target, id)
            return
        original = bytes(envelope.payload)
        if overflows(original):
            self._fail(Invalid("number", message=OVERFLOW), target, id)
            return
        request = Request(
            "",
            f"{target}.{payload.event}",
            target,
            payload.event,
            b"[%b]" % data,
            timeout=self._hub.timeout,
            original=original,
            attachments=emit.attachments,
        )
        try:
            # An error tells both the target and the id: the reference holds them, as names hold no line ends.
            self.peer.call(f"{target}\n{id}", request, quiet=True, service=target)
        except BrokerError as error:
            self._respond(id, failed_response(error, target, id))

    def _refuse_request(self, emit: Emit) -> None:
        """Answer a malformed request with INVALID_REQUEST, or drop it when it has no id."""
        try:
            members = decode(_malformed, emit.args[0])
            id = decode(_numbered, members.payload).id
        except (Invalid, IndexError):
            self._drop()
            return
        try:
            target = decode(_text, members.targetService)
        except Invalid:
            target = ""
        error = Invalid("request", message="A request needs targetService, payload.id and payload.event")
        self._fail(error, target, id)

    def _fail(self, error: BrokerError, target: str, id: str) -> None:
        """Respond with *error* to a request that no verb has counted; in the error, names are cut that are too long."""
        try:
            self.peer.take_token()
        except RateLimited as limited:
            error = limited
        self._respond(id, failed_response(error, target[:MAX_NAME], id[:MAX_ID_LENGTH]))

    def _drop(self) -> None:
        """Count a message that can not be answered."""
        self._hub.dropped += 1
        self.peer.ignore()

    def _response(self, emit: Emit) -> None:
        """Answer a request that was sent to this service, once; drop any other response."""
        try:
            answer = decode(_answer, emit.args[0])
        except (Invalid, IndexError):
            self._drop()
            return
        key, foreign = self._serving.pop(answer.id, ("", False))
        body = bytes(answer.response)
        if overflows(body):
            error: BrokerError | None = CalleeFailed(INVALID_RESPONSE, OVERFLOW)
        else:
            error = failure_in(body) if foreign else None
        try:
            awaited = self.peer.answer(key, body, error, attachments=emit.attachments)
        except RateLimited:
            awaited = False  # a response has no answer that could tell
        if not awaited:
            self._hub.dropped += 1

    def _heartbeat(self, emit: Emit) -> None:
        """Limit the time without a packet, of any type, from the first heartbeat on; the name in it does not matter."""
        self.peer.ignore()
        self.set_idle_timeout(self._hub.idle_seconds)

    _events: ClassVar[Mapping[str, Any]] = {"request": _request, "response": _response, "heartbeat": _heartbeat}

    # To the client

    def request(self, request: Request) -> None:
        """Send a request to the service; one of this dialect with the exact text of its payload.

        Raises:
            NotFound: it asks for a stream.
            CalleeFailed: another request with its id is open at this service.
            Invalid: it is of another dialect, and its arguments are not an array.
        """
        if request.streamed:
            raise NotFound("request", request.recipient)
        foreign = request.dialect != self._hub.name
        if foreign:
            id, payload = request.id, _payload_of(request)
        else:
            id, payload = decode(_numbered, request.original).id, request.original
        serving, open_calls = self._serving, self.peer.serving
        if id in serving and serving[id][0] in open_calls:
            data = b'{"targetService":%b,"requestID":%b}' % (quote(request.service), quote(id))
            raise CalleeFailed(DUPLICATE_REQUEST, f'Request ID "{id}" is in use', data)
        if len(serving) > 2 * len(open_calls) + MAX_STALE:
            # Drop those that expired unanswered: at most once in so many requests.
            self._serving = serving = {id: entry for id, entry in serving.items() if entry[0] in open_calls}
        serving[id] = (request.id, foreign)
        self.emit(b'["request",%b]' % payload, request.attachments)

    def reply(self, reply: Reply) -> None:
        """Send the response to a request of this service."""
        target, _, id = reply.ref.partition("\n")
        body = reply.body if reply.error is None else failed_response(reply.error, target, id)
        self._respond(id, body, reply.attachments)

    def _respond(self, id: str, body: bytes, attachments: tuple[bytes, ...] = ()) -> None:
        if "/" not in self.sockets.joined:
            return
        if body in NULLS:
            body = b"{}"  # null would make the shipped client's process exit
        self.emit(b'["response",{"id":%b,"response":%b}]' % (encode(id), body), attachments)


def _payload_of(request: Request) -> bytes:
    """Return the payload for a request of another dialect.

    "first argument becomes data; more than one: the whole array"
    """
    head = b'{"id":%b,"event":%b' % (quote(request.id), quote(request.method))
    items = _first_two(request.body)
    if not items:
        return head + b"}"
    return b'%b,"data":%b}' % (head, items[0] if len(items) == 1 else request.body)


def _first_two(body: bytes) -> list[bytes]:
    """Return the first two of the arguments *body*.

    Raises:
        Invalid: it is no array.
    """
    try:
        return first_items(body, 2)
    except Invalid:
        pass
    try:
        return [bytes(item) for item in read_items(body)]
    except Invalid:
        raise Invalid("arguments") from None


class MicroStream(Server):
    """The dialect.

    Args:
        settings: of the daemon.
        clock: the reactor, or a ``task.Clock``.

    Attributes:
        is_open: whether clients need no credential to have a name.
        idle_seconds: after which a service that has sent heartbeats is removed when nothing
            more is received; 0: never.
        timeout: seconds for which a request stays open.  The requester has a
            shorter limit of its own, but may still want a late response.
        dropped: number of malformed messages, and of responses that nobody waits for.
    """

    def __init__(self, settings: Settings, clock: IReactorTime) -> None:
        token = "&token={key}" if settings.auth == "required" else ""
        self.example = f'curl "{{http}}/socket.io/?EIO=4&transport=polling&serviceName=me{token}"'
        super().__init__(partial(Service, self), clock, **server_options(settings))
        self.is_open = settings.auth == "none"
        self.idle_seconds = settings.microstream_idle_seconds
        self.timeout = settings.call_timeout_seconds + settings.late_window_seconds
        self.dropped = 0


def server_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of ``Server`` that follow from the settings of the daemon."""
    return {
        "times": _times(settings),
        "bounds": _bounds(settings),
        "node": "" if settings.bus == "local:" else settings.node,
        "spread": settings.clustered,
    }


def _times(settings: Settings) -> Times:
    default = Times()
    return Times(
        ping_interval=settings.ping_seconds or default.ping_interval,  # the clients rely on pings
        ping_timeout=settings.pong_seconds or default.ping_timeout,
        max_payload=min(MAX_PAYLOAD, settings.max_message_bytes),
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        settings.max_connections,
        settings.max_connections_per_address,
        settings.send_queue_bytes,
        -(-settings.max_unadmitted // UNADMITTED_PART),
        -(-settings.max_unadmitted_per_address // UNADMITTED_PART),
        settings.auth_deadline_seconds,
        TrustedProxies(settings.trusted_proxies).is_exempt,
    )


def dialect(settings: Settings) -> MicroStream:
    """Return the dialect for *settings*."""
    from twisted.internet import reactor

    return MicroStream(settings, reactor)
