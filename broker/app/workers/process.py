"""One worker, as the supervisor sees it: its process, its link, and what it has said last."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.app.workers.exchange import decode_answer, encode_request
from broker.app.workers.link import ControlLink
from broker.app.workers.plan import BoundPlace, WorkerPlan, worker_environ
from broker.app.workers.site import HandedOver, PassedOn
from broker.app.workers.worker import ADMIN, HAND_OVER, HEARTBEAT, HELLO, PASS_ON, PUBLIC, READY, SAMPLE
from broker.errors import Unavailable
from broker.messages import HttpRequest, Response

log = Logger()

FIRST_FREE = 3  # descriptor behind the standard streams
MODULE = "broker.app.workers.main"
STARTING, SERVING, STOPPING, ENDED = "starting", "ready", "stopping", "ended"

decode = msgspec.msgpack.Decoder().decode
_read_passed_on = msgspec.msgpack.Decoder(PassedOn).decode
_read_handed_over = msgspec.msgpack.Decoder(HandedOver).decode


@attrs.frozen
class WorkerCommand:
    """How workers are started.

    Attributes:
        options: of twistd.
        environ: of the supervisor.
        node: the name of the daemon.
        paths: where modules are looked for.
        count: how many workers there are.
        counts: the descriptor of the numbers of connections.
        sockets: the bound sockets, each behind its place.
        inherited: copies of the sockets that systemd has handed over, in their order.
    """

    options: Sequence[str]
    environ: dict[str, str]
    node: str
    paths: list[str]
    count: int
    counts: int
    sockets: Sequence[tuple[tuple[str, int], socket.socket]]
    inherited: Sequence[int] = ()

    def spawn(self, reactor: Any, number: int, protocol: ProcessProtocol, link: int) -> Any:
        """Start worker *number*, whose end of its link is the descriptor *link*; return its process.

        Raises:
            OSError: it can not be started.
        """
        handed = [*self.inherited, link, self.counts, *(made.fileno() for _, made in self.sockets)]
        first = FIRST_FREE + len(self.inherited)
        places = tuple(BoundPlace(*place, first + 2 + index) for index, (place, _) in enumerate(self.sockets))
        plan = WorkerPlan(number, self.count, os.getpid(), first, first + 1, places)
        with open(os.devnull, "rb") as nothing:
            streams = {0: nothing.fileno(), 1: 1, 2: 2}
            return reactor.spawnProcess(
                protocol,
                sys.executable,
                [sys.executable, "-P", "-m", MODULE, *self.options],
                env=worker_environ(self.environ, self.node, plan, self.paths, len(self.inherited)),
                childFDs={**streams, **dict(enumerate(handed, FIRST_FREE))},
            )


class WorkerProcess(ProcessProtocol):
    """One process.

    Args:
        number: of the worker, from 1.
        on_ready: called with this when it serves clients.
        on_end: called with this when it has ended.
        on_sample: called with each sample of what it does.
        find: returns another worker by its number.

    Attributes:
        number: as above.
        state: STARTING, SERVING, STOPPING or ENDED.
        pid: of the process.
        about: what it has said of itself; {} before it was ready.
        reasons: why it is not ready, by its last word.
        silent: how often was looked since its last word.
        was_ready: whether it has ever been.
        status: its exit status, or the negative number of the signal that has ended it; None: it runs.
        ended: fires when it has ended.
    """

    def __init__(
        self,
        number: int,
        on_ready: Callable[[WorkerProcess], object],
        on_end: Callable[[WorkerProcess], object],
        on_sample: Callable[[WorkerProcess, Mapping[str, Any]], object],
        find: Callable[[int], WorkerProcess | None],
    ) -> None:
        self.number = number
        self.state = STARTING
        self.pid = 0
        self.about: dict[str, Any] = {}
        self.reasons: list[str] = ["starting"]
        self.silent = 0
        self.was_ready = False
        self.status: int | None = None
        self.ended: Deferred[None] = Deferred()
        self._on_ready, self._on_end, self._on_sample, self._find = on_ready, on_end, on_sample, find
        self._link = ControlLink(self._answer, self._told)
        self._said_hello = False
        self._pending: list[str] = []  # what it is to do as soon as it is there

    def start(self, reactor: Any, command: WorkerCommand) -> None:
        """Start the process.

        Raises:
            OSError: it can not be.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            self.pid = command.spawn(reactor, self.number, self, theirs.fileno()).pid
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: self._link))

    @property
    def node(self) -> str:
        """The name of the node that it is; "" before it was ready."""
        return str(self.about.get("node", ""))

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        process: Any = self.transport
        with suppress(ProcessExitedAlready):
            process.signalProcess(int(number))

    def stop(self, *, at_once: bool) -> None:
        """Let it stop, in good order unless *at_once*."""
        self.state = STOPPING if self.status is None else ENDED
        self.signal(signal.SIGINT if at_once else signal.SIGTERM)

    def do(self, name: str) -> Deferred[bytes]:
        """Let it do what is called *name*, as soon as it can be told to; see ``WorkerParts.actions``."""
        if self.status is not None:
            return fail(Unavailable("worker", name))
        if not self._said_hello:
            self._pending.append(name)
            return fail(Unavailable("worker", name))
        return self._link.ask(name)

    async def answer(self, request: HttpRequest, *, public: bool = False) -> Response:
        """Return what it answers to *request*, at the port for operators unless *public*.

        Raises:
            Unavailable: it has gone.
        """
        return decode_answer(await self._link.ask(PUBLIC if public else ADMIN, encode_request(request)))

    def _told(self, name: str, body: bytes) -> None:
        self.silent = 0
        content = decode(body)
        if name == HEARTBEAT:
            self.reasons = content if self.was_ready else ["starting"]
        elif name == SAMPLE:
            self._on_sample(self, content)
        elif name == HELLO:
            self._said_hello = True
            for each in self._pending:
                self._link.ask(each).addErrback(_ignore)
        elif name == READY:
            self.about, self.reasons, self.was_ready = content, [], True
            if self.state == STARTING:
                self.state = SERVING
            self._on_ready(self)

    async def _answer(self, name: str, body: bytes) -> bytes:
        """Ask the worker that *body* is for."""
        if name == PASS_ON:
            passed = _read_passed_on(body)
            return await self._other(passed.number)._link.ask(PUBLIC, passed.request)
        handed, descriptor = _read_handed_over(body), self._link.descriptor()
        try:
            other = self._other(handed.number)
        except Unavailable:
            os.close(descriptor)
            raise
        return await other._link.ask(HAND_OVER, body, descriptor)

    def _other(self, number: int) -> WorkerProcess:
        worker = self._find(number)
        if worker is None or worker is self or worker.state != SERVING:
            raise Unavailable("worker", str(number))
        return worker

    def processEnded(self, reason: Failure) -> None:
        """Note how it has ended."""
        value: Any = reason.value
        self.status = -value.signal if value.signal else value.exitCode
        self.state, self.reasons = ENDED, ["ended"]
        self._link.close()
        self._on_end(self)
        self.ended.callback(None)


def _ignore(_: Failure) -> None:
    return None
