"""What a client is sent: by others, by the broker, and as answers.

"The broker MUST NOT push events, calls or requests to a session before its
first own frame, or before 250 ms when it came by URL/default": frames sent right
after the handshake reach the client before the app has attached its handlers,
and are lost there or end it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.answers import milliseconds
from broker.errors import BrokerError
from broker.interfaces import ILink, IPeer, IWallClock
from broker.messages import CloseCode, Delivery, Event, Frame, Mail, Reply, Request, text_frame
from broker.patterns import KEY_PREFIX, QUEUE
from protocols.owlmeans import wire
from protocols.owlmeans.backlog import Backlog
from protocols.owlmeans.codec import Codec
from protocols.owlmeans.mailbox import Mailbox
from protocols.owlmeans.marshalled import marshal, retry_after
from protocols.owlmeans.watches import Watches
from protocols.owlmeans.wire import BROKER_JSON, RESPONSE, Envelope, encode

if TYPE_CHECKING:
    from broker.config.settings import Settings

MAX_BURST_BYTES = 1 << 18  # of queued messages that go out before the client may have read some
BURST_INTERVAL = 0.05  # seconds until the next burst
TIMEOUT = 0.25  # seconds after which a silent client is taken to be ready


@attrs.define(eq=False)
class StartBuffer:
    """The frames of one session that wait for its start.

    Attributes:
        clock: gives the time.
        on_timeout: called when something waits and the client has been silent for too long.
        max_bytes: bytes of payload that may be kept.
        link: counts what is kept.
    """

    clock: IReactorTime
    on_timeout: Callable[[], object]
    max_bytes: int
    link: ILink
    _begin: float = 0.0
    _size: int = 0
    _frames: list[Frame] = attrs.field(factory=list)
    _timer: IDelayedCall | None = None

    def restart(self) -> None:
        """Count the time from now on."""
        self._begin = self.clock.seconds()
        if self._timer is not None:
            self._timer.reset(TIMEOUT)

    @property
    def expired(self) -> bool:
        """Whether the client has been silent for too long."""
        return self.clock.seconds() >= self._begin + TIMEOUT

    def schedule(self) -> None:
        """Call ``on_timeout`` once the client has been silent for ``TIMEOUT``: there is something to send."""
        if self._timer is None:
            delay = self._begin + TIMEOUT - self.clock.seconds()
            self._timer = self.clock.callLater(max(0.0, delay), self._timed_out)

    def add(self, frame: Frame) -> bool:
        """Keep *frame*; False when there are too many."""
        size = frame.size
        if self._size + size > self.max_bytes:
            return False
        self._size += size
        self._frames.append(frame)
        self.link.hold(size)
        self.schedule()
        return True

    def close(self) -> list[Frame]:
        """Stop the timer; return the frames that were kept, oldest first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        frames, self._frames = self._frames, []
        self.link.hold(-self._size)
        self._size = 0
        return frames

    def _timed_out(self) -> None:
        self._timer = None
        self.on_timeout()


@attrs.define(eq=False)
class Outgoing:
    """What one client is sent.

    Attributes:
        peer: the way into the broker.
        link: the way out to the client.
        settings: of the daemon.
        codec: writes calls and results.
        clock: for timers.
        wall: for the dates of messages.
        mailbox: delivers the messages of its mailbox, if it acknowledges these.
    """

    peer: IPeer
    link: ILink
    settings: Settings
    codec: Codec
    clock: IReactorTime = attrs.field(init=False)
    wall: IWallClock = attrs.field(init=False)
    _watches: Watches | None = attrs.field(default=None, init=False)
    _backlog: Backlog | None = attrs.field(default=None, init=False)
    _client: bytes = attrs.field(default=b'""', init=False)  # its client id as JSON
    _buffer: StartBuffer | None = attrs.field(default=None, init=False)  # until it has its handlers in place
    mailbox: Mailbox | None = attrs.field(default=None, init=False)
    _burst: int = attrs.field(default=0, init=False)  # bytes of queued messages in the present burst
    _burst_timer: IDelayedCall | None = attrs.field(default=None, init=False)
    _burst_delay: float = attrs.field(default=0.0, init=False)  # seconds until the next look for room

    def __attrs_post_init__(self) -> None:
        self.clock, self.wall = self.peer.clock, self.peer.wall

    @property
    def watches(self) -> Watches:
        """The keys it watches."""
        if self._watches is not None:
            return self._watches
        watches = Watches(self.peer, self.push, self.link)
        if self.link.open:  # else it would keep this session, to which it refers
            self._watches = watches
        return watches

    @property
    def backlog(self) -> Backlog:
        """The events that it has no room for."""
        if self._backlog is None:
            settings = self.settings
            self._backlog = Backlog(
                self.peer,
                self.link,
                self.clock,
                settings.send_queue_bytes,
                settings.resume_events,
                settings.slow_grace_seconds,
            )
        return self._backlog

    def start(self) -> None:
        """Begin to keep what the broker sends, until the client is ready."""
        self._buffer = StartBuffer(self.clock, self.ready, self.settings.send_queue_bytes, self.link)
        self._buffer.restart()

    def stop(self) -> None:
        """Send nothing more; leave no timer behind."""
        if self._watches is not None:
            self._watches.stop()
            self._watches = None  # it refers to this session
        if self._backlog is not None:
            self._backlog.close()
            self._backlog = None
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None
        if self._burst_timer is not None:
            self._burst_timer.cancel()
            self._burst_timer = None

    # Called by the core.

    def request(self, request: Request) -> None:
        """Send a call that this client performs, or a request it takes."""
        dt = int((request.time or self.wall.time()) * 1000 + 0.5)
        if request.streamed:
            self.push(text_frame(wire.request(request, self._client, dt)))
            return
        # 0 is without limit: what is less than a millisecond must not become that.
        timeout = int(request.timeout * 1000 + 0.5) or (1 if request.timeout else 0)
        self.link.send(
            self.codec.call(request.id, request.procedure, request.body, timeout, request.caller, self._client, dt)
        )

    def cancelled(self, id: str) -> None:
        """Tell the client that a call or a request which it has to answer was cancelled."""
        self.push(text_frame(wire.cancelled(id)))

    def reply(self, reply: Reply) -> None:
        """Send the end of a call, or one answer of a request."""
        dt = int((reply.time or self.wall.time()) * 1000 + 0.5)
        error = reply.error
        if error is None and not reply.streamed:
            self.link.send(self.codec.result(reply.ref, reply.body, reply.source, dt))
            return
        if error is None:
            form, body = RESPONSE, reply.body
        else:
            form, body = wire.failure(
                marshal(error, self.settings.owlmeans_pass_stacks), reply.streamed, retry_after(error)
            )
        self.link.send(form % (encode(reply.ref), body, encode(reply.source), dt))

    def event(self, event: Event, pattern: str) -> None:
        """Send *event* as it comes by one subscription, or by the watches of its key."""
        if pattern is not event.topic and not self.link.open:
            return  # it may have been closed for what came by another of its subscriptions
        if pattern:
            frame = event.render(wire.event, pattern)
            if self._buffer is not None:
                self._push_event(event, pattern, frame)
            elif self.link.paused:
                self.backlog.add(event, pattern)
            else:
                self.link.send_frame(frame)
            return
        self.watches.notify(event)

    def gap(self, topic: str, why: str) -> None:
        """Tell the client that events of *topic* were missed, or changes of all that it watches."""
        watched = self._watches.patterns if self._watches is not None and not topic else ()
        for each in [topic] if topic else [KEY_PREFIX + pattern for pattern in watched]:
            self.push(text_frame(wire.gap_of_changes(each, why)))

    def acknowledge_mail(self, prefetch: int) -> None:
        """Let the client have so many messages of its mailbox at once, until it says that they are done; 0: all."""
        if self.mailbox is None:
            self.mailbox = Mailbox(self.peer, self.link, self.settings.lease_seconds, prefetch)
        self.mailbox.prefetch = prefetch
        self.ready()

    def mail(self, mail: Mail) -> bool | Deferred[bool]:
        """Send a queued message, unless the client can not read it now."""
        if not self.link.open:
            return False  # what is sent to a connection that closes is lost
        buffer = self._open_buffer()
        if buffer is not None:
            buffer.schedule()
            return False
        if mail.queue.startswith(QUEUE):  # there is room, see ``accepts_jobs``
            self.link.send(wire.job(mail) if isinstance(mail, Delivery) else wire.mail(mail))
            return True
        if self.link.paused or self._burst > MAX_BURST_BYTES:
            self._schedule_burst()
            return False
        if self.mailbox is not None and self.mailbox.prefetch:
            return self.mailbox.deliver(mail)
        frame = wire.mail(mail)
        self._burst += len(frame)
        self.link.send(frame)
        return True

    def accepts_jobs(self, all_left: bool) -> bool:
        """Whether a job could be sent now; *all_left*: whether nothing may wait."""
        if not self.link.open:
            return False
        buffer = self._open_buffer()
        if buffer is not None:
            buffer.schedule()
            return False
        if self.link.paused or (all_left and self.link.unsent):
            # What was sent in this iteration leaves at its end, if it can.
            delay, self._burst_delay = self._burst_delay, BURST_INTERVAL
            self._schedule_burst(delay)
            return False
        self._burst_delay = 0.0
        return True

    async def probe(self) -> bool:
        """Say that the client is alive: the transport's pings would have noticed otherwise."""
        return True

    # Called by this package.

    def appear(self) -> None:
        """Be visible to others under the present client id."""
        self._client = encode(self.peer.client)
        self.peer.appear()

    def ready(self) -> None:
        """Send what was kept: the client has its handlers in place."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            for frame in buffer.close():
                self.link.send_frame(frame)
            self.peer.resume()
        self.peer.collect()

    def push(self, frame: Frame) -> None:
        """Send what the client has not asked for just now."""
        buffer = self._open_buffer()
        if buffer is None:
            self.link.send_frame(frame)
        elif not buffer.add(frame):
            self.link.close(CloseCode.TRY_AGAIN_LATER, "too much before the first frame")

    def _push_event(self, event: Event, pattern: str, frame: Frame) -> None:
        """Keep *frame* of *event* until the client is ready; a stored one that is too much is read again then."""
        buffer = self._open_buffer()
        if buffer is None:
            self.link.send_frame(frame)
        elif not (buffer.add(frame) or self.backlog.wait_in_store(event, pattern)):
            self.link.close(CloseCode.TRY_AGAIN_LATER, "too much before the first frame")

    def notice(self, error: BrokerError, envelope: Envelope) -> None:
        """Send a ``system`` notice of an error that has no other way back."""
        self.link.send(wire.notice(marshal(error), envelope, retry_after(error)))

    def refuse(self, error: BrokerError, envelope: Envelope) -> None:
        """Send the error that *envelope* failed with: as its answer, or as a notice."""
        if envelope.id and envelope.type in ("call", "request"):
            form, body = wire.failure(marshal(error), envelope.type == "request", retry_after(error))
            self.answer(form, envelope.id, body)
        else:
            self.notice(error, envelope)

    def answer(self, form: bytes, ref: str, body: bytes) -> None:
        """Answer *ref* in the broker's own name."""
        self.link.send(form % (encode(ref), body, BROKER_JSON, milliseconds(self.wall.time())))

    def _open_buffer(self) -> StartBuffer | None:
        """Return the buffer while the client may not have its handlers in place."""
        if self._buffer is not None and self._buffer.expired:
            self.ready()
        return self._buffer

    def _schedule_burst(self, delay: float = BURST_INTERVAL) -> None:
        if self._burst_timer is None:
            self._burst_timer = self.clock.callLater(delay, self._next_burst)

    def _next_burst(self) -> None:
        self._burst_timer = None
        self._burst = 0
        self.peer.collect()
