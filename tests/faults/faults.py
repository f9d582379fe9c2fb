"""What may befall the nodes, Redis and the network of a cluster, at random."""

from __future__ import annotations

import math
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet import reactor

from tests.support.cluster import ProxiedCluster, SentinelCluster
from tests.support.daemon import Daemon
from tests.support.eventually import TIMEOUT, pause
from tests.support.sentinel import REPLICAS, SentinelSetup, info_of

LEASE = 2.0  # seconds, of the nodes
DURATIONS = (0.3, 1.0, 1.6 * LEASE)  # seconds for which something is away: shorter and longer than a lease

TAIL = 1.0  # seconds before a failover from which replicas may lack something


class Faults:
    """Lets things fail one after the other, and mends each.

    Attributes:
        counts: how often what was done.
        frozen: of each node since when it runs, if it was frozen; infinite while it is.
        back: when the store began to go back to what it was before, each time, and when that was over.
    """

    def __init__(self, cluster: ProxiedCluster, chance: random.Random, *, going_back: bool = False) -> None:
        self.cluster = cluster
        self.counts: Counter[str] = Counter()
        self.frozen: dict[Daemon, float] = dict.fromkeys(cluster.nodes, -math.inf)
        self.back: list[tuple[float, float]] = []
        self._chance = chance
        self._began = reactor.seconds()
        self._kinds: list[Callable[[], Awaitable[None]]] = [
            *(self._kill_node, self._freeze_node, self._cut_power, self._swallow, self._hold, self._break_connections),
            *(self._kill_redis, self._freeze_redis),
        ]
        if going_back:
            self._kinds.append(self._go_back)

    def say(self, text: str) -> None:
        """Tell what happens, and when."""
        print(f"{reactor.seconds() - self._began:8.2f} s  {text}", flush=True)

    async def strike(self) -> None:
        """Let one thing fail, and mend it."""
        kind = self._chance.choice(self._kinds)
        self.counts[kind.__name__.strip("_").replace("_", " ")] += 1
        await kind()

    def summary(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))

    # Nodes

    def _any(self, things: Sequence[Any]) -> tuple[int, Any]:
        number = self._chance.randrange(len(things))
        return number, things[number]

    def _seconds(self) -> float:
        return self._chance.choice(DURATIONS)

    async def _kill_node(self) -> None:
        number, node = self._any(self.cluster.nodes)
        self.say(f"node{number} is killed")
        await node.kill()
        await node.start()
        self.say(f"node{number} is back")

    async def _freeze_node(self) -> None:
        number, node = self._any(self.cluster.nodes)
        seconds = self._seconds()
        self.say(f"node{number} freezes for {seconds} s")
        self.frozen[node] = math.inf
        node.program.freeze()
        await pause(seconds)
        node.program.thaw()
        self.frozen[node] = reactor.seconds()

    async def _cut_power(self) -> None:
        """Kill a node whose connections nobody closes; it comes back, with new ones."""
        number, node = self._any(self.cluster.nodes)
        network = self.cluster.networks[number]
        self.say(f"node{number} has no power")
        network.swallow()
        await node.kill()
        await pause(self._seconds())
        network.heal()
        await node.start()
        self.say(f"node{number} has power again")

    # The network between a node and Redis

    async def _swallow(self) -> None:
        number, network = self._any(self.cluster.networks)
        seconds = self._seconds()
        self.say(f"what node{number} and Redis say is swallowed for {seconds} s")
        network.swallow()
        await pause(seconds)
        network.heal()

    async def _hold(self) -> None:
        number, network = self._any(self.cluster.networks)
        seconds = self._seconds()
        self.say(f"what node{number} and Redis say is held for {seconds} s")
        network.hold()
        await pause(seconds)
        network.heal()

    async def _break_connections(self) -> None:
        number, network = self._any(self.cluster.networks)
        self.say(f"the connections of node{number} to Redis break")
        network.reset()

    # Redis

    async def _kill_redis(self) -> None:
        self.say("Redis is killed")
        await self.cluster.redis.kill()
        await self.cluster.redis.start()
        self.say("Redis is back")

    async def _freeze_redis(self) -> None:
        seconds = self._seconds()
        self.say(f"Redis freezes for {seconds} s")
        self.cluster.redis.pause()
        await pause(seconds)
        self.cluster.redis.resume()

    async def _go_back(self) -> None:
        """Copy the files of Redis; some time later, start it on the copy."""
        redis = self.cluster.redis
        copy = redis.directory / "snapshot"
        began = reactor.seconds()
        # Redis 7 has a directory of files, those before one file.
        files = redis.directory / "appendonlydir"
        if files.exists():
            shutil.copytree(files, copy)
        else:
            files = redis.directory / "appendonly.aof"
            shutil.copy(files, copy)
        await pause(self._chance.choice((0.3, 1.0)))
        self.say("Redis is killed, and goes back to its snapshot")
        await redis.kill()
        if files.is_dir():
            shutil.rmtree(files)
        copy.replace(files)
        await redis.start()
        self.back.append((began, reactor.seconds()))
        self.say("Redis is back")


class SentinelFaults(Faults):
    """With a master, replicas and Sentinels: each failover may lose what the replicas did not have yet."""

    cluster: SentinelCluster

    @property
    def _setup(self) -> SentinelSetup:
        return self.cluster.setup

    async def _kill_redis(self) -> None:
        """Kill the master; another takes its place, and it comes back as a replica."""
        await self._fail_over(self._setup.failover)

    async def _freeze_redis(self) -> None:
        master, seconds, began = await self._setup.master(), self._seconds(), reactor.seconds()
        self.say(f"the master freezes for {seconds} s")
        master.pause()
        await pause(seconds)
        master.resume()
        await self._until_mended()
        self.back.append((began - TAIL, reactor.seconds()))
        self.say("there is a master and its replicas")

    async def _go_back(self) -> None:
        """Let the replicas lag behind, and then one of them take over."""
        self.say("the replicas are cut off")
        # Else it would refuse what they do not get.
        await (await self._setup.master()).command("CONFIG", "SET", "min-replicas-to-write", "0")
        await self._fail_over(lambda: self._setup.lagging_failover(lambda: pause(1.0)))

    async def _fail_over(self, how: Callable[[], Awaitable[object]]) -> None:
        before, began = await self._setup.master(), reactor.seconds()
        self.say("the master is killed")
        await how()
        self.say("another is the master")
        before.options += ["--replicaof", "127.0.0.1", str((await self._setup.master()).port)]
        await before.start()
        await self._until_mended()
        self.back.append((began - TAIL, reactor.seconds()))
        self.say("there is a master and its replicas")

    async def _until_mended(self) -> None:
        """Return when the next failover would find replicas."""
        end = reactor.seconds() + TIMEOUT
        while True:
            try:
                info = await info_of(await self._setup.master(), "replication")
            except Exception as error:  # it may just be changed
                info = {"error": repr(error)}
            replicas = [info.get(f"slave{number}", "") for number in range(REPLICAS)]
            if info.get("role") == "master" and all("state=online" in replica for replica in replicas):
                return
            assert reactor.seconds() < end, info
            await pause(0.1)
