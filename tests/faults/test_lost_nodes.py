"""A node that freezes, is cut off or loses its power: calls to it end with its lease, and others take over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.faults.clients import Failed, Lost, Micro, Native
from tests.support.cluster import ProxiedCluster
from tests.support.daemon import Daemon
from tests.support.eventually import TIMEOUT, eventually, pause

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]

LEASE = 2.0  # seconds
AFTER_LEASE = 2.0  # seconds for what must end with it
CALLER, CALLEE, OTHER = range(3)  # nodes


@pytest_twisted.async_yield_fixture
async def cluster() -> AsyncIterator[ProxiedCluster]:
    """Three nodes, each with its own way to Redis."""
    cluster = ProxiedCluster.new(TXBROKER_NODE_LEASE_SECONDS=str(LEASE), TXBROKER_PING_SECONDS="0")
    yield await cluster.start()
    await cluster.end()


class Fault:
    """Ends a node as seen by the others, and gives it back."""

    def __init__(self, cluster: ProxiedCluster) -> None:
        self.node, self.network = cluster.nodes[CALLEE], cluster.networks[CALLEE]

    async def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class Frozen(Fault):
    """Its process is stopped, and goes on where it was."""

    async def begin(self) -> None:
        self.node.program.freeze()

    def end(self) -> None:
        self.node.program.thaw()


class Swallowed(Fault):
    """A black hole between it and Redis."""

    async def begin(self) -> None:
        self.network.swallow()

    def end(self) -> None:
        self.network.heal()


class Held(Fault):
    """The same, and what was sent meanwhile arrives afterwards."""

    async def begin(self) -> None:
        self.network.hold()

    def end(self) -> None:
        self.network.heal()


class Powerless(Fault):
    """It is dead, and nobody is told that its connections are."""

    async def begin(self) -> None:
        self.network.swallow()
        await self.node.kill()

    def end(self) -> None:
        """It does not come back."""


@attrs.define(eq=False)
class Performer:
    """Serves one name, by one of two dialects: answers with its own name, or not at all if it is asked to wait."""

    name: str
    client: Any
    served: list[Any] = attrs.field(factory=list)

    def __call__(self, data: Any) -> Any:
        self.served.append(data)
        return Deferred() if data == "wait" else self.name


async def natively(node: Daemon, name: str) -> Performer:
    """Let *name* perform ``solo`` at *node*."""
    performer = Performer(name, await Native.join(node))
    await performer.client.perform("solo", performer)
    return performer


async def by_microstream(node: Daemon, name: str) -> Performer:
    """Let *name* be the service ``svc`` at *node*."""
    performer = Performer(name, await Micro.join(node, "svc"))
    performer.client.performs["ask"] = performer
    return performer


@attrs.frozen
class Dialect:
    """How one calls and performs."""

    serve: Callable[[Daemon, str], Any]
    ask: Callable[[Any, Any], Deferred[Any]]
    gone: tuple[str, ...]  # the errors of a call whose callee's node is lost


NATIVE = Dialect(
    natively,
    lambda client, data: client.ask("solo", data, timeout=0),  # without a deadline: the lease alone ends it
    ("SocketErrorConnection", "SocketErrorConnectionUnsupported", "SocketError"),
)
MICROSTREAM = Dialect(
    by_microstream,
    lambda client, data: client.ask("svc", "ask", data),
    ("TARGET_SERVICE_DISCONNECTED", "TARGET_SERVICE_NOT_FOUND", "UNAVAILABLE"),
)


@attrs.define(eq=False)
class Story:
    """One dialect's part in a test: what was called, and how it ended."""

    dialect: Dialect
    cluster: ProxiedCluster
    caller: Any
    local: Any  # a client at the callee's node
    performer: Performer
    ends: list[tuple[str, float]] = attrs.field(factory=list)  # and when
    begun: int = 0

    @classmethod
    async def begin(cls, dialect: Dialect, cluster: ProxiedCluster) -> Story:
        """Let a performer be there, and be called from another node, which keeps the route."""
        nodes = cluster.nodes
        caller: Any
        local: Any
        if dialect is NATIVE:
            caller, local = await Native.join(nodes[CALLER]), await Native.join(nodes[CALLEE])
        else:
            caller, local = await Micro.join(nodes[CALLER], "caller"), await Micro.join(nodes[CALLEE], "local")
        story = cls(dialect, cluster, caller, local, await dialect.serve(nodes[CALLEE], "first"))
        assert await dialect.ask(caller, 1) == "first"
        return story

    def call(self, data: Any) -> None:
        """Call, and write down how it ends."""
        self.begun += 1

        def ended(result: Any) -> None:
            error = result.value if hasattr(result, "value") else result
            self.ends.append((error.kind if isinstance(error, Failed) else repr(error), reactor.seconds()))

        self.dialect.ask(self.caller, data).addBoth(ended)

    async def until_asked(self, data: Any) -> None:
        await eventually(lambda: data in self.performer.served)

    async def until_all_ended(self) -> None:
        await eventually(lambda: len(self.ends) == self.begun)
        assert {kind for kind, _ in self.ends} <= set(self.dialect.gone), self.ends

    async def take_over(self) -> Performer:
        """Let another serve the name at the third node as soon as that is possible."""
        end = reactor.seconds() + TIMEOUT
        while True:
            try:
                return await self.dialect.serve(self.cluster.nodes[OTHER], "second")
            except (Failed, Lost):
                assert reactor.seconds() < end, "the name was not given up"
                await pause(0.1)

    async def until_answered_by(self, client: Any, name: str, timeout: float = TIMEOUT) -> None:
        """Call until *name* has answered; nobody else may, an error is none."""
        end, answer = reactor.seconds() + timeout, None
        while answer is None:
            assert reactor.seconds() < end, "no answer"
            try:
                answer = await self.dialect.ask(client, "again")
            except Failed:
                await pause(0.1)
        assert answer == name


def run(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


FAULTS = [Frozen, Swallowed, Held, Powerless]
ALWAYS = [Frozen, Swallowed]  # the others take as long, and are alike


@pytest.fixture(params=FAULTS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, soak: bool) -> type[Fault]:
    """Each of the faults, or only some where there is little time."""
    chosen: type[Fault] = request.param
    if not soak and chosen not in ALWAYS:
        pytest.skip("for want of time")
    return chosen


async def stories_of(cluster: ProxiedCluster) -> list[Story]:
    return [await Story.begin(dialect, cluster) for dialect in (NATIVE, MICROSTREAM)]


@pytest_twisted.ensureDeferred
async def test_calls_to_a_lost_node_end_with_its_lease(cluster: ProxiedCluster, kind: type[Fault], soak: bool) -> None:
    stories = await stories_of(cluster)
    for story in stories:
        story.call("wait")
        await story.until_asked("wait")
    fault = kind(cluster)
    began = reactor.seconds()
    await fault.begin()
    for later in range(8):
        for story in stories:
            story.call(later)
        await pause(LEASE / 4)
    await gatherResults([run(story.until_all_ended()) for story in stories])
    if soak:  # seconds count only where nobody else keeps the machine busy
        assert max(at for story in stories for _, at in story.ends) - began < 2 * LEASE + AFTER_LEASE
    fault.end()


@pytest_twisted.ensureDeferred
async def test_another_takes_over_and_the_lost_node_serves_no_more(cluster: ProxiedCluster, kind: type[Fault]) -> None:
    stories = await stories_of(cluster)
    fault = kind(cluster)
    await fault.begin()
    await gatherResults([run(story.take_over()) for story in stories])
    for story in stories:
        await story.until_answered_by(story.caller, "second")
        story.performer.served.clear()
    if kind is Swallowed or kind is Held:
        for story in stories:
            with pytest.raises(Failed) as refused:
                await story.dialect.ask(story.local, "while it is cut off")
            assert refused.value.kind in ("SocketError", "UNAVAILABLE")
    fault.end()
    for story in stories:
        if kind is not Powerless:
            await story.until_answered_by(story.local, "second")
        await story.until_answered_by(story.caller, "second")
        assert story.performer.served == []
