"""A worker: the part of a daemon that is one of several, which listens on sockets that it was handed."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import attrs
import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from broker.app.workers.exchange import answer_with
from broker.app.workers.link import ControlLink
from broker.app.workers.plan import WorkerPlan
from broker.app.workers.site import HandedOver, SharedSite
from broker.errors import NotFound, Unavailable
from broker.observe.admin.history import History
from broker.observe.admin.site import AdminSite
from broker.web.net.listening import Listener
from broker.web.net.sharing import AcceptShare, SharedCounts

log = Logger()

BEAT = 0.5  # seconds between two signs that the loop runs
HELLO, READY, HEARTBEAT, SAMPLE = "hello", "ready", "beat", "sample"  # what is told
ADMIN, PUBLIC = "admin", "public"  # which site is asked by HTTP
PASS_ON, HAND_OVER = "pass on", "hand over"  # what is for another worker

encode = msgspec.msgpack.Encoder().encode
_read_handed_over = msgspec.msgpack.Decoder(HandedOver).decode
Answer = Callable[[bytes], Awaitable[bytes]]


@attrs.define(eq=False)
class WorkerParts:
    """What the supervisor asks for and is told of.

    Attributes:
        site: of the public port.
        admin_site: of the port for operators, which is the supervisor's.
        history: of what the worker does.
        about: returns what it is.
        ready: returns why it is not ready.
        actions: what it does when it is told to, by name.
        stop: ends the process.
    """

    site: SharedSite
    admin_site: AdminSite
    history: History
    about: Callable[[], Mapping[str, Any]]
    ready: Callable[[], Iterable[str]]
    actions: dict[str, Callable[[], object]] = attrs.field(factory=dict)
    stop: Callable[[], object] = lambda: None


class Worker(Service):
    """Joins a daemon to its supervisor.

    Args:
        reactor: the reactor.
        plan: what it was told at the start.

    Attributes:
        plan: as above.
        link: to the supervisor; None before the start.
        parts: are set when the daemon is made.
    """

    site_class: ClassVar[type[SharedSite]] = SharedSite  # of the public port
    parts: WorkerParts

    def __init__(self, reactor: Any, plan: WorkerPlan) -> None:
        self._reactor, self.plan = reactor, plan
        self._counts = SharedCounts(plan.counts, plan.count)
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor
        self._share: AcceptShare | None = None
        self.link: ControlLink | None = None

    def use(
        self,
        site: SharedSite,
        admin_site: AdminSite,
        history: History,
        about: Callable[[], Mapping[str, Any]],
        ready: Callable[[], Iterable[str]],
    ) -> None:
        """Have what the supervisor asks for; see ``WorkerParts``."""
        self.parts = WorkerParts(site, admin_site, history, about, ready)

    def join(self, listener: Listener, site: SharedSite, node: str) -> None:
        """Let *listener* listen on the sockets that the worker, which is the node *node*, was handed for *site*."""
        site.share(self.plan, node)
        site.pass_on = lambda passed: self._ask(PASS_ON, encode(passed))
        site.hand_over = self._hand_over
        for place, made in self.plan.sockets():
            listener.bound.add(place, made)
        self._share = AcceptShare(self._reactor, self._counts, self.plan.number - 1, lambda: site.connections)
        listener.share = self._share

    @property
    def facts(self) -> dict[str, int]:
        """What clients are told of it."""
        return {"worker": self.plan.number, "workers": self.plan.count}

    def withdraw(self) -> None:
        """Leave new connections to the other workers."""
        if self._share is not None:
            self._share.withdraw()
            self._beat()

    def announce(self) -> None:
        """Tell the supervisor that clients are accepted."""
        log.info("worker {worker} of {count} is ready", count=self.plan.count, worker=self.plan.number)
        self._notify(READY, self.parts.about())

    def startService(self) -> None:
        """Begin to talk with the supervisor."""
        super().startService()
        self.link = link = ControlLink(self._answer, lost=self._lost)
        self._reactor.adoptStreamConnection(self.plan.link, socket.AF_UNIX, Factory.forProtocol(lambda: link))
        os.close(self.plan.link)
        self._notify(HELLO, os.getpid())
        self._beating.start(BEAT)
        self.parts.history.listeners.add(partial(self._notify, SAMPLE))

    def stopService(self) -> None:
        """Say nothing more; the supervisor waits for the end of the process."""
        super().stopService()
        if self._beating.running:
            self._beating.stop()
        if self.link is not None:
            link, self.link = self.link, None
            link.close()

    def _notify(self, name: str, content: object) -> None:
        if self.link is not None:
            self.link.notify(name, encode(content))

    def _beat(self) -> None:
        if self._share is not None:
            self._share.note()
        self._notify(HEARTBEAT, list(self.parts.ready()))

    async def _answer(self, name: str, body: bytes) -> bytes:
        if name in (ADMIN, PUBLIC):
            site = self.parts.admin_site if name == ADMIN else self.parts.site
            return await answer_with(site.answer, body)
        if name == HAND_OVER:
            self._adopt(body)
            return b""
        act = self.parts.actions.get(name)
        if act is None:
            raise NotFound("action", name)
        await maybeDeferred(act)
        return b""

    def _ask(self, name: str, body: bytes, descriptor: int | None = None) -> Deferred[bytes]:
        if self.link is not None:
            return self.link.ask(name, body, descriptor)
        if descriptor is not None:
            os.close(descriptor)
        return fail(Unavailable("worker", name))

    def _hand_over(self, handed: HandedOver, descriptor: int) -> None:
        # If it fails, the client has lost its connection, as with a worker that has gone.
        self._ask(HAND_OVER, encode(handed), descriptor).addErrback(lambda failure: failure.trap(Unavailable))

    def _adopt(self, body: bytes) -> None:
        assert self.link is not None, "it is what has brought it"
        descriptor = self.link.descriptor()
        try:
            self.parts.site.adopt(_read_handed_over(body), descriptor)
        finally:
            os.close(descriptor)  # the transport has one of its own

    def _lost(self) -> None:
        if self.link is not None:  # else the link was closed here
            self.link = None
            log.error("the supervisor has gone: worker {worker} ends", worker=self.plan.number)
            self.parts.stop()
