"""Events: publish one, wait for more, look at the latest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from broker.access.admission import HeldRefusals
from broker.core.bounded import BoundedDict
from broker.errors import BrokerError, Unavailable
from broker.interfaces import Coro, IPeer
from broker.jsontext import MIN_SUSPECT, may_overflow, overflows
from broker.messages import MAX_TIME, Event, HttpRequest, Response
from protocols.ganomede.answers import NOTHING, Refusal, failed, failure, invalid, quote
from protocols.ganomede.requests import Bodies, channel_of, name_of, read_query, whole_number

if TYPE_CHECKING:
    from broker.config.settings import Settings

log = Logger()

LIMIT = 100  # events of one answer, where the request does not say
MAX_LIMIT = 1000
TOLD = "It is told to begin anew"
NOT_TOLD = "It gets nothing up to that id, also when it is started anew, before it asks with a lower after, such as 0"
MAX_BYTES = 1 << 23  # bytes of the data in one answer at most, unless a single event has more
PAGE_BYTES = 1 << 17  # bytes of it that are read and sent at once, and one event more
MAX_HELD = 1000  # error answers that are held back at once; more are sent at once
MAX_LOGGED = 1000  # cursors beyond the end that are remembered as logged


class Publication(msgspec.Struct, gc=False, rename={"source": "from"}):
    """What the body of a POST says; "" is missing or wrong."""

    clientId: str = ""
    channel: str = ""
    source: str = ""
    type: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    secret: str | msgspec.UnsetType = msgspec.UNSET


class Events:
    """The handlers of ``/events`` and ``/latest``."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.poll_timeout_seconds
        self._max_bytes = MAX_BYTES
        # An answer that its client does not read must not be more than may wait for a client.
        self._whole_bytes = min(MAX_BYTES, settings.send_queue_bytes)
        self._page_bytes = min(PAGE_BYTES, settings.send_queue_bytes)
        self._error_delay = settings.error_delay_seconds
        self._bodies = Bodies(Publication, settings.max_message_bytes)
        self._held = HeldRefusals(MAX_HELD)
        self._logged: BoundedDict[tuple[str, str], None] = BoundedDict(MAX_LOGGED)

    async def post(self, peer: IPeer, request: HttpRequest) -> Response:
        """Store an event; answer it as it was stored."""
        said = self._bodies.read(request)
        authenticate(peer, said.secret, request)
        name_of(said.clientId, "Invalid Client ID")
        channel = channel_of(said.channel)
        if not said.source:
            raise invalid("Invalid from")
        if not said.type:
            raise invalid("Invalid type")
        data = said.data
        if data is msgspec.UNSET:
            body = None
        else:
            body = bytes(data)
            suspect = len(body) >= MIN_SUSPECT or may_overflow(body)
            if body[:1] not in (b"{", b"[") or (suspect and overflows(body)):
                raise invalid("Invalid data")
        event = await peer.post(channel, said.type, body, client=said.clientId, author=said.source)
        return Response(200, event.render(encode))

    async def poll(self, peer: IPeer, request: HttpRequest) -> Response:
        """Answer events the client does not have yet; wait for them if there are none.

        The shipped client comes back at once after an error, thousands of times
        a second, so that answers that say no are held back for a while.
        """
        try:
            return await self._poll(peer, request)
        except CancelledError:
            raise
        except Refusal as refusal:
            response = refusal.response
        except BrokerError as error:
            response = failed(error, request)
        except Exception:
            log.failure("a poll failed", req_id=request.id)
            response = failure(500, "Internal", "polling failed")
        await self._hold(peer)
        return response

    async def _poll(self, peer: IPeer, request: HttpRequest) -> Response:
        query = read_query(request.query)
        authenticate(peer, query.get("secret", msgspec.UNSET))
        client = name_of(query.get("clientId"), "Invalid Client ID")
        channel = channel_of(query.get("channel"))
        limit = _limit(query)
        waiting = peer.act_as(client)  # before the poll, which another's client must not wait for
        if waiting is not None:
            await waiting
        epoch = query.get("epoch")
        if epoch is None:
            return await self._read(peer, client, channel, limit, query.get("after"))
        # Not known to the shipped client: "epoch=" asks for it, and whoever shows one of the past gets 410.
        began = await peer.present_epoch(epoch or None)
        after = whole_number(query.get("after") or "")
        if epoch and (epoch != began or (after and await self._is_beyond(peer, client, channel, after, told=True))):
            raise _gone(peer)
        response = await self._read(peer, client, channel, limit, query.get("after"))
        if peer.epoch != began:
            raise _gone(peer)
        return Response(response.status, response.body, headers=(("X-Epoch", began),))

    async def _read(self, peer: IPeer, client: str, channel: str, limit: int, said: str | None) -> Response:
        if said is None:
            after = await peer.cursor(client, channel)
            events = await self._wait(peer, channel, after, limit)
        elif (number := whole_number(said)) is None:
            # This acknowledges nothing.
            await peer.cursor(client, channel)
            after = 0
            events = await self._wait(peer, channel, after, limit)
        else:
            after = number
            events = await self._wait(peer, channel, after, limit, client)
        if events:
            if len(events) == 1 and len(events[0].body or b"") < self._page_bytes:
                alone: Response = events[0].render(_alone)
                return alone
            if self._is_last(events, limit):
                return _listed(events)
            peer.hold(_bytes_of(events))  # until the client can be sent something
            return Response(200, self._pages(peer, channel, events, limit))
        if after:
            await self._is_beyond(peer, client, channel, after)
        return NOTHING

    def _wait(self, peer: IPeer, channel: str, after: int, limit: int, client: str = "") -> Coro[list[Event]]:
        """Return the first page of what is newer than *after*, waiting for it if there is nothing.

        Move the cursor of *client* there, if that is given.
        """
        return peer.poll(
            channel,
            after,
            limit,
            self._timeout,
            max_bytes=self._max_bytes,
            page_bytes=self._page_bytes,
            client=client,
        )

    def _is_last(self, events: list[Event], limit: int) -> bool:
        """Whether there are no more for an answer of *limit* events behind *events*, a page of it."""
        return len(events) >= limit or _bytes_of(events) < self._page_bytes

    async def _pages(self, peer: IPeer, channel: str, events: list[Event], limit: int) -> AsyncIterator[bytes]:
        """Yield the array of *events* and those behind them, up to *limit*, which are read while it is sent.

        Nothing is held while it is not asked for the next page, as by a client that does not read.
        """
        peer.hold(-_bytes_of(events))
        epoch, left, before = peer.epoch, self._max_bytes, b"["
        while True:
            after, last = events[-1].id, self._is_last(events, limit)
            limit, left = limit - len(events), left - _bytes_of(events)
            yield before + _drained(events)
            if last or left <= 0:
                break
            events = await peer.read(channel, after, limit, max_bytes=left, page_bytes=self._page_bytes)
            if peer.epoch != epoch:
                raise Unavailable(message="The store was wiped or has gone back")
            if not events or len(events[0].body or b"") > left:
                break
            before = b","
        yield b"]"

    async def latest(self, peer: IPeer, request: HttpRequest) -> Response:
        """Answer the last events of a channel, oldest first."""
        query = read_query(request.query)
        authenticate(peer, query.get("secret", msgspec.UNSET))
        channel = channel_of(query.get("channel"))
        return _listed(await peer.latest(channel, _limit(query), max_bytes=self._whole_bytes))

    async def _hold(self, peer: IPeer) -> None:
        if self._error_delay > 0:
            await self._held.hold(peer.address, lambda: peer.pause(self._error_delay))

    async def _is_beyond(self, peer: IPeer, client: str, channel: str, after: int, *, told: bool = False) -> bool:
        """Return whether *client* has ids which *channel* has not reached, and log it once: a store that was wiped.

        Whoever shows the epoch is *told* so: these ids were lost when nobody was left to notice.
        """
        try:
            newest = await peer.head(channel)
        except BrokerError:
            return False  # it stands in the log already; the poll itself goes well
        if after <= newest:
            return False
        if (client, channel) not in self._logged:
            self._logged[client, channel] = None
            log.warn(
                "client {client} has events of {channel} up to {after}, but the newest is {newest}: was the store "
                "wiped? {then}",
                client=client,
                channel=channel,
                after=after,
                newest=newest,
                then=TOLD if told else NOT_TOLD,
            )
        return True


def _gone(peer: IPeer) -> Refusal:
    current = (("X-Epoch", peer.epoch),)
    return Refusal(failure(410, "Gone", "The store was wiped or has gone back: ids begin anew", headers=current))


def authenticate(peer: IPeer, secret: str | msgspec.UnsetType, request: HttpRequest | None = None) -> None:
    """Identify *peer* by *secret*, or else by the secret in the query of *request*.

    Where no credential is asked for, none need be shown.  Then the request is counted
    against the rate, once and for all.

    Raises:
        Unauthenticated: neither is good.
        RateLimited: there were too many requests, or too many wrong secrets.
    """
    if secret is msgspec.UNSET:
        _identify_by_query(peer, request, "" if not peer.admitted else None)
    else:
        try:
            peer.identify(secret)
        except BrokerError:
            if request is None or not request.query:
                raise
            _identify_by_query(peer, request, "")
    peer.take_one_token()


def _identify_by_query(peer: IPeer, request: HttpRequest | None, other: str | None) -> None:
    """Identify *peer* by the secret in the query of *request*, or by *other* where there is none."""
    query = read_query(request.query) if request is not None and request.query else {}
    secret = query.get("secret", other)
    if secret is not None:
        peer.identify(secret)


def encode(event: Event) -> bytes:
    """Return *event* as JSON; its body goes through as it came."""
    # An older version may have stored what no clock shows.
    time = event.time if 0 <= event.time <= MAX_TIME else 0.0
    head = (event.id, round(time * 1000), quote(event.name), quote(event.author or event.source))
    if event.body is None:
        return b'{"id":%d,"timestamp":%d,"type":%b,"from":%b}' % head
    if event.binary:
        mark = b',"encoding":"base64","content_type":' + quote(event.content_type)
        return b'{"id":%d,"timestamp":%d,"type":%b,"from":%b,"data":%b%b}' % (*head, event.json, mark)
    return b'{"id":%d,"timestamp":%d,"type":%b,"from":%b,"data":%b}' % (*head, event.body)


def _joined(events: list[Event]) -> bytes:
    """Return *events* as the items of a JSON array."""
    return b",".join([event.render(encode) for event in events])


def _drained(events: list[Event]) -> bytes:
    """Return *events* as the items of a JSON array, and forget them."""
    items = _joined(events)
    events.clear()
    return items


def _bytes_of(events: list[Event]) -> int:
    return sum(len(event.body or b"") for event in events)


def _listed(events: list[Event]) -> Response:
    return Response(200, b"[%b]" % _joined(events)) if events else NOTHING


def _alone(event: Event) -> Response:
    """Return the answer that has *event* only; one for all who waited for it."""
    return Response(200, b"[%b]" % event.render(encode))


def _limit(query: Mapping[str, str]) -> int:
    said = query.get("limit")
    if said is None:
        return LIMIT
    return min(whole_number(said) or LIMIT, MAX_LIMIT)
