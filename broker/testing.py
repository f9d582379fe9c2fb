"""Help for authors of dialects: a broker without a daemon, clients without a network.

::

    broker = make_broker(api_secret="s")
    ann = connect(broker, dialect)                                    # over WebSocket
    assert ann.stream(["SUB news", "PUB news 1"]) == [[b"OK"], [b"OK"]]
    answer = value_of(http_request(broker, dialect, "GET", "/news"))  # over HTTP
    assert answer.body.take() == b"first"                             # where that is sent while it is made
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias, cast, get_args, get_origin, get_type_hints

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from broker.access.principals import Access, make_access
from broker.buses import open_bus
from broker.config.options import Kind, options_of
from broker.config.settings import Settings
from broker.core.service import Broker
from broker.interfaces import ILink, IPeer, ISession, IStreamDialect, IWallClock
from broker.messages import CloseCode, Frame, HttpRequest, Response
from broker.stores import open_store
from broker.web.http.streaming import StreamedAnswer, framing_of, is_stream, length_of, source_of
from broker.web.site import Site

Message: TypeAlias = bytes | tuple[bytes]  # a text message, or a binary one in a tuple

UNREAD_BYTES = 65536  # that a fake stream keeps before the client's network makes its source wait


@implementer(ILink)
@attrs.define(eq=False)
class FakeLink:
    """Keeps what a session sends.

    Attributes:
        handshake: the request the client is said to have come with.
        sent: text messages as bytes, binary ones as (bytes,) tuples.
        closed: (code, reason) once closed, else None.
        paused: what ``ILink.paused`` says; set it as the test needs, and call ``drain`` for the end of that.
        unsent, drains: what ``ILink`` says.
        on_drained: see ``ILink``.
        receiving: whether the session wants to receive; a fake link hands it what it is told to all the same.
        held: the bytes that the session says it keeps for later.
        max_message_bytes: see ``ILink``.
        stream: whether it is that of a stream dialect, which has no messages: all is bytes.
    """

    handshake: HttpRequest = attrs.field(factory=lambda: HttpRequest("GET", "/", "", {}))
    sent: list[Any] = attrs.field(factory=list)
    closed: tuple[int, str] | None = None
    paused: bool = False
    unsent: int = 0
    drains: int = 0
    on_drained: Callable[[], object] | None = None
    receiving: bool = True
    held: int = 0
    max_message_bytes: int = 1 << 20
    stream: bool = False

    @property
    def open(self) -> bool:
        """Whether it was not closed yet."""
        return self.closed is None

    def allow_messages(self, max_bytes: int) -> None:
        """Remember it; messages over a WebSocket may be longer all the same."""
        self.max_message_bytes = max_bytes

    def pause_receiving(self) -> None:
        """Remember it."""
        self.receiving = False

    def resume_receiving(self) -> None:
        """Remember it."""
        self.receiving = True

    def hold(self, change: int) -> None:
        """Add to ``held``."""
        self.held += change

    def send(self, payload: bytes) -> None:
        """Keep a text message.

        Raises:
            UnicodeDecodeError: it is not UTF-8, as text must be, except in a stream.
        """
        if self.closed is None:
            if not self.stream:
                payload.decode()
            self.sent.append(payload)

    def send_binary(self, payload: bytes) -> None:
        """Keep a binary message."""
        if self.closed is None:
            self.sent.append(payload if self.stream else (payload,))

    def send_frame(self, frame: Frame) -> None:
        """Keep the message of a frame."""
        self.send(frame.payload)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Remember the first close."""
        self.closed = self.closed or (code, reason)

    def abort(self) -> None:
        """Remember an abort as code 1006."""
        self.close(CloseCode.ABNORMAL)

    def drain(self) -> None:
        """Send all that waits: tell the session that it may go on."""
        self.paused, self.unsent = False, 0
        self.drains += 1
        on_drained, self.on_drained = self.on_drained, None
        if on_drained is not None:
            on_drained()

    def take(self) -> list[Any]:
        """Return what was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


def make_broker(
    clock: IReactorTime | None = None,
    access: Access | None = None,
    *,
    wall: IWallClock | None = None,
    **settings: Any,
) -> Broker:
    """Return a started broker in memory.

    Args:
        clock: for timers, and for how long something takes; by default a ``task.Clock``, which stands still.
        access: who may do what; by default what *settings* say, as in the daemon.
        wall: for dates; by default that is *clock*, too.
        settings: fields of ``config.settings.Settings``: ``api_secret="s"``, ``max_subscriptions=2``.

    Raises:
        TypeError: there is no such setting, or its value is of the wrong type.
        ValueError: its value is not one that the environment variable could have.
        Invalid: a file that a setting names says something wrong.
    """
    clock = clock or Clock()
    checked = _checked(settings)
    if access is None and checked.auth == "required" and not checked.secured:
        raise ValueError('auth="required" lets nobody in without an api_secret, api_keys or a JWT key')
    broker = Broker(
        checked,
        open_store("memory:", clock=clock, wall=wall),
        open_bus("local:", "test", reactor=clock),
        clock,
        access or make_access(checked),
    )
    broker.startService()
    return broker


@attrs.define(eq=False)
class Connected:
    """A client of a WebSocket or stream dialect under test: its peer, its link, its session."""

    peer: IPeer
    link: FakeLink
    session: ISession

    def say(self, message: str | Message) -> list[Any]:
        """Let the client send *message*; return what it is sent meanwhile."""
        if isinstance(message, tuple):
            self.session.received(message[0], True)
        else:
            self.session.received(message.encode() if isinstance(message, str) else message, self.link.stream)
        return self.link.take()

    def stream(self, messages: Iterable[str | Message]) -> list[list[Any]]:
        """Let the client send *messages*, until the link is closed; return what it is sent after each."""
        answers: list[list[Any]] = []
        for message in messages:
            if self.link.closed is not None:
                break
            answers.append(self.say(message))
        return answers

    def leave(self, code: int = CloseCode.NORMAL) -> None:
        """Let the client close the connection with *code*; its peer is closed when the session has ended."""
        self.link.close(code)
        ending: Any = self.session.closed(code, "")
        if ending is None:
            self.peer.close()
        else:
            ensureDeferred(ending).addBoth(lambda _: self.peer.close())


def connect(broker: Broker, dialect: Any, request: HttpRequest | None = None) -> Connected:
    """Return a client that *dialect*, of WebSockets or a stream dialect, has accepted.

    What the client of a stream dialect says may be any bytes, and what it is sent comes as its session has cut it.

    Raises:
        BrokerError: the dialect has refused it.
    """
    stream = bool(IStreamDialect.providedBy(dialect))
    handshake = request or HttpRequest("" if stream else "GET", "" if stream else "/", "", {})
    link = FakeLink(handshake, max_message_bytes=broker.settings.max_message_bytes, stream=stream)
    peer = broker.attach(dialect.name, link.handshake.address or "127.0.0.1")
    try:
        session = value_of(ensureDeferred(dialect.session(peer, link)))
    except BaseException:
        peer.close()
        raise
    if peer.session is None:
        peer.bind(session, link.close, link=link)
    session.opened()
    return Connected(peer, link, session)


@attrs.define(eq=False)
class FakeStream:
    """A body that is sent while it is made, as the client has it; its source waits while 64 KiB are not read.

    Read it by ``take``, or with ``async for``.

    Attributes:
        ended: whether the client has all of it.
        broken: whether the connection was dropped before.
    """

    ended: bool = False
    broken: bool = False
    _answer: StreamedAnswer = attrs.field(init=False, repr=False)
    _unread: bytearray = attrs.field(factory=bytearray, repr=False)
    _changed: Deferred[None] | None = attrs.field(default=None, repr=False)

    def take(self) -> bytes:
        """Return what has come since the last time; more can come now."""
        data = bytes(self._unread)
        self._unread.clear()
        self._answer.resume()
        return data

    def leave(self) -> None:
        """Let the client go away."""
        self._answer.cancel()

    def abort(self) -> None:
        """Drop the connection, as the broker does it."""
        self.broken = True
        self._answer.cancel()
        self._change()

    def __aiter__(self) -> FakeStream:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return what comes next.

        Raises:
            ConnectionError: the connection was dropped.
        """
        while not self._unread:
            if self.broken:
                raise ConnectionError("the body is not complete")
            if self.ended:
                raise StopAsyncIteration
            self._changed = Deferred()
            await self._changed
        return self.take()

    async def aclose(self) -> None:
        """As ``leave``."""
        self.leave()

    def _start(self, site: Site, request: HttpRequest, response: Response) -> None:
        source = source_of(response.body, site.slices)
        length = length_of(source) if response.length is None else response.length
        release = site.streaming(request, cast(Any, self))
        self._answer = StreamedAnswer(source, framing_of("1.0", length), self._receive, self._end, release)
        if request.method == "HEAD":
            self._answer.skip()
        else:
            self._answer.start(paused=False)

    def _receive(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > UNREAD_BYTES:
            self._answer.pause()
        self._change()

    def _end(self, answer: StreamedAnswer, complete: bool) -> None:
        self.ended, self.broken = complete, not complete
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.callback(None)


def http_request(
    broker: Broker,
    dialect: Any,
    method: str,
    target: str,
    body: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
    *,
    address: str = "127.0.0.1",
) -> Deferred[Response]:
    """Fire with the answer to an HTTP request, as the public port with *dialect* alone gives it.

    That includes what the port does around ``IHttpDialect.answer``: it finds the
    dialect by its path, turns errors into answers and closes the peer.  A long
    poll fires later; cancelling is the client that goes away.  A body that is sent while
    it is made is a ``FakeStream``.

    Args:
        broker: what ``make_broker`` has returned.
        dialect: an IHttpDialect.
        method: such as "GET".
        target: path and query, encoded as in the request line: "/a?b=c".
        body: as it is after any content coding was undone.
        headers: by name, in any case.
        address: where the client comes from.
    """
    path, _, query = target.partition("?")
    request = HttpRequest(
        method,
        path,
        query,
        {"host": "localhost"} | {name.lower(): value for name, value in (headers or {}).items()},
        body.encode() if isinstance(body, str) else body,
        address,
    )
    site = Site([dialect], broker.attach, broker.clock, cast(Any, None), broker.metrics)
    return Deferred.fromCoroutine(_answered(site, request))


async def _answered(site: Site, request: HttpRequest) -> Response:
    response = await site.answer(request)
    if is_stream(response.body):
        stream = FakeStream()
        stream._start(site, request, response)
        response = attrs.evolve(response, body=stream)
    return response


def value_of(waiting: Deferred[Any] | Coroutine[Deferred[Any], Any, Any]) -> Any:
    """Return what *waiting*, a Deferred or a coroutine, has ended with, raising its failure.

    Raises:
        AssertionError: it has not ended.
    """
    deferred = ensureDeferred(waiting)
    fired: list[Any] = []
    failed: list[Any] = []
    deferred.addCallbacks(fired.append, failed.append)
    if failed:
        failed[0].raiseException()
    assert fired, "the Deferred has not fired"
    return fired[0]


def _checked(settings: Mapping[str, Any]) -> Settings:
    """Return *settings* as the daemon has them; see ``make_broker`` for what it raises."""
    options, hints = options_of(Settings), _hints()
    for name, value in settings.items():
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1)
            raise TypeError(f"there is no setting {name}" + (f"; did you mean {near[0]}?" if near else ""))
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} must be {_described(hints[name])}, not {value!r}")
        try:
            read = options[name].kind.parse(_text_of(value, options[name].kind))
            if read != value and hints[name] is not float:  # the text of a float is rounded
                raise ValueError(f"expected {read!r}")
        except ValueError as error:
            raise ValueError(f"{name}: {error}, not {value!r}") from None
    return Settings(**settings)


def _text_of(value: Any, kind: Kind[Any]) -> str:
    """Return what an environment variable says for *value*."""
    if isinstance(value, Mapping):  # what ``write`` makes of it has no secrets
        return " ".join(f"{name}:{key}" for name, key in value.items()) or "none"
    return kind.write(value)


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _fits(value: object, hint: Any) -> bool:
    """Whether *value* is of the type that *hint* says; one of ``Settings``."""
    origin = get_origin(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(item, get_args(hint)[0]) for item in value)
    if origin is not None:
        return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _described(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
