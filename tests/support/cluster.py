"""Three real brokers on one real Redis, which look like one; if need be over a network that fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import ClassVar, Self

from twisted.internet.defer import Deferred, gatherResults

from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.proxy import Network, Proxy
from tests.support.redis_server import RedisServer
from tests.support.sentinel import DOWN_AFTER, MASTER, SentinelSetup

NODES = 3
SAFE = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "10")


class Cluster:
    """Stands for a ``Daemon``; each time it is asked where it is, it names another node."""

    node_class: ClassVar[type[Daemon]] = Daemon

    def __init__(self, directory: Path, nodes: int = NODES, /, **environ: str) -> None:
        self.directory = directory
        self.redis = RedisServer(directory, "--appendonly", "yes", "--appendfsync", "always")
        self.environ = environ
        self.nodes = [
            self.node_class(directory / f"node{number}", TXBROKER_NODE=f"node{number}") for number in range(nodes)
        ]
        self._turns = cycle(self.nodes)
        for node in self.nodes:
            node.directory.mkdir()

    @classmethod
    def new(cls, nodes: int = NODES, /, **environ: str) -> Self:
        """Return one in a new directory, which ``end`` removes."""
        # Not pytest's own: the path of a unix socket holds no more than 107 bytes.
        return cls(Path(tempfile.mkdtemp(prefix="txbroker-")), nodes, **environ)

    async def start(self) -> Self:
        """Start Redis and all nodes."""
        await self.redis.start()
        await self.start_nodes()
        return await self.until_ready()

    async def start_nodes(self) -> Self:
        """Start the nodes alone, for a Redis that has run before."""
        for number, node in enumerate(self.nodes):
            shared = {"TXBROKER_STORE": await self.store_of(number), "TXBROKER_DRAIN_SECONDS": "2"}
            node.environ.update({**WITH_METRICS, **self.environ, **shared})
        await gatherResults([Deferred.fromCoroutine(node.start()) for node in self.nodes])
        return self

    async def until_ready(self) -> Self:
        """Return when all nodes have reached Redis: before, they lose what nobody acknowledges."""
        for node in self.nodes:
            await node.until_ready()
        return self

    async def store_of(self, number: int) -> str:
        """Return the URL by which a node reaches Redis."""
        return f"redis+unix://{self.redis.socket}"

    async def end(self) -> None:
        """Stop all of it, and fail when a node had an error in its log that no test provoked."""
        try:
            running = [node for node in self.nodes if node.running]
            for node in running:
                node.program.thaw()
            statuses = await gatherResults([Deferred.fromCoroutine(node.stop()) for node in running])
            assert set(statuses) <= {0}, "\n".join(self.output)
        finally:
            await self.end_redis()
            shutil.rmtree(self.directory)
        assert not self.troubles(), "\n".join(self.output)

    async def end_redis(self) -> None:
        """Kill Redis."""
        await self.redis.kill()

    # What tests ask of a daemon.

    @property
    def url(self) -> str:
        """Where the next node is."""
        return next(self._turns).url

    def ws(self, path: str) -> str:
        """Return the WebSocket URL of *path* at the next node."""
        return next(self._turns).ws(path)

    @property
    def port(self) -> int:
        """The port of the next node."""
        return next(self._turns).port

    @property
    def output(self) -> list[str]:
        """Everything that all nodes have said."""
        return [line for node in self.nodes for line in node.output]

    @property
    def provoked(self) -> list[str]:
        """What may stand in an error line of any node; the same list for all."""
        return self.nodes[0].provoked

    def events(self) -> list[Mapping[str, object]]:
        """Return the log lines of all nodes as objects."""
        return [event for node in self.nodes for event in node.events()]

    def troubles(self) -> list[str]:
        """Return the lines that tell of an error nobody provoked."""
        for node in self.nodes[1:]:
            node.provoked = self.provoked
        return [line for node in self.nodes for line in node.troubles()]


class ProxiedCluster(Cluster):
    """One where each node reaches Redis over a network of its own that can fail, ``networks[number]``."""

    def __init__(self, directory: Path, nodes: int = NODES, /, **environ: str) -> None:
        super().__init__(directory, nodes, **environ)
        self.networks: list[Network] = []

    async def store_of(self, number: int) -> str:
        proxy = await Proxy(self.redis.port).start()
        self.networks.append(Network([proxy]))
        return f"redis://127.0.0.1:{proxy.port}"

    async def end(self) -> None:
        for network in self.networks:
            network.heal()
        try:
            await super().end()
        finally:
            for network in self.networks:
                await network.stop()


class SentinelCluster(ProxiedCluster):
    """One on a master with replicas and Sentinels, ``setup``, in the place of the one Redis."""

    def __init__(self, directory: Path, nodes: int = NODES, /, **environ: str) -> None:
        super().__init__(directory, nodes, **environ)
        place = directory / "s"
        place.mkdir()
        # As the documentation recommends.  Without replicas to write to, a master that was frozen, and whose
        # successor was made meanwhile, refuses what nodes ask that have not noticed.
        options = ("--appendonly", "yes", "--appendfsync", "always", *SAFE)
        self.setup = SentinelSetup(place, *options, down_after=DOWN_AFTER)

    async def start(self) -> Self:
        await self.setup.start()
        await self.start_nodes()
        return await self.until_ready()

    async def store_of(self, number: int) -> str:
        servers = [await Proxy(server.port).start() for server in self.setup.servers]
        # What the Sentinels say of a server leads to the way that this node has to it.
        rewritten = {_resp(proxy.target): _resp(proxy.port) for proxy in servers}
        sentinels = [await Proxy(port, rewritten).start() for port in self.setup.sentinels]
        self.networks.append(Network([*servers, *sentinels]))
        places = ",".join(f"127.0.0.1:{proxy.port}" for proxy in sentinels)
        return f"redis+sentinel://{places}/{MASTER}"

    async def end_redis(self) -> None:
        await self.setup.end()


def _resp(port: int) -> bytes:
    assert port > 9999  # so that the length stays the same
    return b"$5\r\n%d\r\n" % port
