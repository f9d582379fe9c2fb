"""The hub: services register under a name and send each other requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Raw
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError, CalleeFailed, Invalid, NotFound
from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode, Reply, Request
from protocols.microstream.engineio import Times
from protocols.microstream.exact import NotExact, decode
from protocols.microstream.namespaces import CONNECT_TIMEOUT, INVALID_NAMESPACE, SocketSession
from protocols.microstream.server import Bounds, Handshake, Server
from protocols.microstream.socketio import Connect, Emit
from protocols.microstream.words import (
    DUPLICATE_REQUEST,
    INVALID_NAME,
    NOTHING,
    Answer,
    Credential,
    Envelope,
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
PASSING = frozenset(("RATE_LIMITED", "UNAVAILABLE", "GONE"))  # not the client's fault, or over soon
SPARE = 64  # answered or expired requests that may be remembered besides the open ones

_envelope = msgspec.json.Decoder(Envelope)
_payload = msgspec.json.Decoder(Payload)
_numbered = msgspec.json.Decoder(Numbered)
_answer = msgspec.json.Decoder(Answer)
_credential = msgspec.json.Decoder(Credential)
_items = msgspec.json.Decoder(list[Raw])
_members = msgspec.json.Decoder(dict[str, Raw])
_text = msgspec.json.Decoder(str)


class Service(SocketSession):
    """One client of the hub.

    Attributes:
        server: the hub.
    """

    server: MicroStream

    def __init__(self, server: MicroStream, peer: IPeer, handshake: Handshake, link: ILink | None) -> None:
        super().__init__(server, peer, handshake, link, server.connect_timeout)
        self._names = handshake.query.get("serviceName", ())
        self._token = handshake.query.get("token", ("",))[0] or handshake.headers.get("authorization", "")
        self._joining: Deferred[None] | None = None
        # The requests it was sent: its id of each, to the broker's and
        # whether the caller speaks another dialect.
        self._serving: dict[str, tuple[str, bool]] = {}

    # Registration

    def take_connect(self, asked: Connect) -> None:
        """Register the service; the answer waits until a holder of the name has been probed."""
        if asked.namespace != "/":
            self.refuse(asked.namespace, INVALID_NAMESPACE)
            return
        joining = Deferred.fromCoroutine(self._join(asked.auth))
        if not joining.called:
            self._joining = joining
        joining.addErrback(self._not_joined)

    async def _join(self, auth: bytes) -> None:
        name = ", ".join(self._names)
        try:
            self._identify(auth)
            name = self._name()
            if not self.peer.identity.name:
                self.peer.take_name(name)
            await self.peer.perform([name], as_service=True, takeover=True)
        except BrokerError as error:
            if error.code in PASSING:
                # The shipped client never tries again after a refusal, but after a close.
                self.end(CloseCode.TRY_AGAIN_LATER, error.code)
            else:
                self.refuse("/", connect_error(error, name))
            return
        finally:
            self._joining = None
        self.peer.appear()
        self.accept("/")

    def _identify(self, auth: bytes) -> None:
        """Show the broker the token, of the URL's query or of the CONNECT."""
        token = self._token
        if not token and auth:
            try:
                token = decode(_credential, auth).token
            except NotExact:
                raise Invalid("token", message="token is no text") from None
        if token:
            self.peer.identify(token)

    def _name(self) -> str:
        """Return the name that was asked for.

        JavaScript writes "undefined" for an option that was forgotten.
        """
        if len(self._names) != 1 or self._names[0] in ("", "undefined"):
            raise CalleeFailed(INVALID_NAME, "One serviceName is needed in the query")
        return self._names[0]

    def _not_joined(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("{dialect} failed to register a service", failure, dialect=self.server.name)
            self.end(CloseCode.INTERNAL_ERROR, "internal error")

    def take_disconnect(self, namespace: str) -> None:
        """Unregister: what was asked of it, and what it asked, ends."""
        self._serving.clear()
        self.peer.undo()

    def ended(self) -> None:
        """Stop registering, if that is under way."""
        super().ended()
        if self._joining is not None:
            self._joining.cancel()

    # What it says

    def take_event(self, emit: Emit) -> None:
        """Take a request or a response; "Unknown events: silently ignored".

        So is ``heartbeat``: every packet is a sign of life of who sent it.
        """
        take = self._events.get(emit.name)
        if take is not None and emit.args:
            take(self, emit)

    def _request(self, emit: Emit) -> None:
        try:
            envelope = decode(_envelope, emit.args[0])
            payload = decode(_payload, envelope.payload)
        except NotExact:
            self._refuse_request(emit)
            return
        target, id, data = envelope.targetService, payload.id, bytes(payload.data)
        request = Request(
            "",
            f"{target}.{payload.event}",
            target,
            payload.event,
            b"[%b]" % data,
            timeout=self.server.timeout,
            original=bytes(envelope.payload),
            attachments=emit.attachments,
        )
        try:
            # What an error must tell is in the reference: names hold no line ends.
            self.peer.call(f"{target}\n{id}", request, quiet=True, service=target)
        except BrokerError as error:
            self._respond(id, failed_response(error, target, id))

    def _refuse_request(self, emit: Emit) -> None:
        """Answer a malformed request, if it has an id that could be answered."""
        try:
            members = decode(_members, emit.args[0])
            id = decode(_numbered, members["payload"]).id
        except (NotExact, KeyError):
            self.server.dropped += 1
            return
        try:
            target = decode(_text, members["targetService"])
        except (NotExact, KeyError):
            target = ""
        error = Invalid("request", message="A request needs targetService, payload.id and payload.event")
        self._respond(id, failed_response(error, target, id))

    def _response(self, emit: Emit) -> None:
        """Bring an answer back; only from the one that was asked, and only the first."""
        try:
            answer = decode(_answer, emit.args[0])
        except NotExact:
            self.server.dropped += 1
            return
        key, foreign = self._serving.pop(answer.id, ("", False))
        body = bytes(answer.response)
        error = failure_in(body) if foreign else None
        if not self.peer.answer(key, body, error, attachments=emit.attachments):
            self.server.dropped += 1

    _events: ClassVar[Mapping[str, Any]] = {"request": _request, "response": _response}

    # What it is told

    def request(self, request: Request) -> None:
        """Pass a request on.

        Raises:
            CalleeFailed: its id is that of another one under way here.
        """
        if request.streamed:
            raise NotFound("request", request.recipient)
        foreign = request.dialect != self.server.name
        if foreign:
            id, payload = request.id, _payload_of(request)
        else:
            id, payload = decode(_numbered, request.original).id, request.original
        serving, open_calls = self._serving, self.peer.serving
        if id in serving and serving[id][0] in open_calls:
            data = b'{"targetService":%b,"requestID":%b}' % (quote(request.service), quote(id))
            raise CalleeFailed(DUPLICATE_REQUEST, f'Request ID "{id}" is in use', data)
        if len(serving) > 2 * len(open_calls) + SPARE:
            # Those that were never answered; each look here pays for itself.
            self._serving = serving = {id: entry for id, entry in serving.items() if entry[0] in open_calls}
        serving[id] = (request.id, foreign)
        self.emit(b'["request",%b]' % payload, request.attachments)

    def reply(self, reply: Reply) -> None:
        """Bring an answer."""
        target, _, id = reply.ref.partition("\n")
        body = reply.body if reply.error is None else failed_response(reply.error, target, id)
        self._respond(id, body, reply.attachments)

    def _respond(self, id: str, body: bytes, attachments: tuple[bytes, ...] = ()) -> None:
        if "/" not in self.sockets.joined:
            return
        if body in NOTHING:
            body = b"{}"  # null would end the requester's process
        self.emit(b'["response",{"id":%b,"response":%b}]' % (encode(id), body), attachments)


def _payload_of(request: Request) -> bytes:
    """Return the payload for a request of another dialect.

    "first argument becomes data; more than one: the whole array"
    """
    try:
        items = decode(_items, request.body)
    except NotExact:
        raise Invalid("arguments") from None
    head = b'{"id":%b,"event":%b' % (quote(request.id), quote(request.method))
    if not items:
        return head + b"}"
    return b'%b,"data":%b}' % (head, bytes(items[0]) if len(items) == 1 else request.body)


class MicroStream(Server):
    """The dialect.

    Args:
        settings: of the daemon.
        clock: the reactor, or a ``task.Clock``.
        times: of Engine.IO; by default after the settings.
        connect_timeout: see ``namespaces.SocketSession``.

    Attributes:
        timeout: seconds for which a request is remembered.  The requester has
            a shorter limit of its own, and may still want a late answer.
        dropped: how many messages could be of no use to anybody.
    """

    example = "curl '{http}/socket.io/?EIO=4&transport=polling&serviceName=me'"

    def __init__(
        self,
        settings: Settings,
        clock: IReactorTime,
        *,
        times: Times | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        super().__init__(
            Service,  # type: ignore[arg-type]
            clock,
            times=times or _times(settings),
            bounds=_bounds(settings),
            node="" if settings.bus == "local:" else settings.node,
        )
        self.timeout = settings.call_timeout_seconds + settings.late_window_seconds
        self.connect_timeout = connect_timeout
        self.dropped = 0


def _times(settings: Settings) -> Times:
    usual = Times()
    return Times(
        ping_interval=settings.ping_seconds or usual.ping_interval,  # the clients rely on pings
        ping_timeout=settings.pong_seconds or usual.ping_timeout,
        max_payload=min(MAX_PAYLOAD, settings.max_message_bytes),
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        settings.max_connections,
        settings.max_connections_per_address,
        settings.send_queue_bytes,
        settings.allowed_origins,
    )


def dialect(settings: Settings) -> MicroStream:
    """Return the dialect for *settings*."""
    from twisted.internet import reactor

    return MicroStream(settings, reactor)
