"""A real Sentinel set-up: one master, its replicas, and the Sentinels that watch them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import txredisapi
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.support.eventually import TIMEOUT, pause
from tests.support.processes import Ended, Program
from tests.support.redis_server import RedisServer, free_port, redis_executable

MASTER = "shop"  # the name by which the Sentinels know the master
DOWN_AFTER = 500  # milliseconds without an answer after which a Sentinel takes a server for down, if it is to notice
PATIENT = 60_000  # the same, where none must be taken for down because the machine is busy
REPLICAS, SENTINELS = 2, 3

# Small and quick: what is tested is the broker, not how fast a replica can copy gigabytes.
OPTIONS = (
    *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
    *("--replica-serve-stale-data", "yes", "--repl-backlog-size", "16mb"),
)
SENTINEL_CONF = """\
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {name} 127.0.0.1 {master} {quorum}
sentinel down-after-milliseconds {name} {down_after}
sentinel failover-timeout {name} 3000
sentinel parallel-syncs {name} 5
"""


class SentinelSetup:
    """Redis servers of which one is the master, and Sentinels that make another the master when it fails.

    Attributes:
        servers: all Redis servers, the first master before the others.
        sentinels: the running Sentinels, by port.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        replicas: int = REPLICAS,
        sentinels: int = SENTINELS,
        down_after: int = PATIENT,
    ) -> None:
        self.directory = directory
        self._down_after = down_after
        self.servers: list[RedisServer] = []
        self.sentinels: dict[int, Program] = {}
        self._count = sentinels
        for number in range(1 + replicas):
            place = directory / f"redis{number}"
            place.mkdir(parents=True)
            self.servers.append(RedisServer(place, *OPTIONS, *options))

    @classmethod
    def new(cls, *options: str) -> SentinelSetup:
        """Return one in a new directory, which ``end`` removes; *options* are those of each redis-server."""
        # Not pytest's own: the path of a unix socket holds no more than 107 bytes.
        return cls(Path(tempfile.mkdtemp(prefix="txbroker-")), *options)

    @property
    def url(self) -> str:
        """What ``TXBROKER_STORE`` is set to."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/{MASTER}"

    async def start(self) -> SentinelSetup:
        """Start the master, its replicas and the Sentinels; return when each knows the others."""
        master, *replicas = self.servers
        await master.start()
        for server in replicas:
            server.options += ["--replicaof", "127.0.0.1", str(master.port)]
        await gatherResults([Deferred.fromCoroutine(server.start()) for server in replicas])
        await self.until_replicas(len(replicas))
        for number in range(self._count):
            await self._start_sentinel(number, master.port)
        await self._until_acquainted()
        return self

    async def end(self) -> None:
        """Kill all of it, and remove its files."""
        for sentinel in self.sentinels.values():
            await sentinel.end()
        for server in self.servers:
            if server.running:
                await server.kill()
        shutil.rmtree(self.directory)

    async def _start_sentinel(self, number: int, master: int) -> None:
        directory = self.directory / f"sentinel{number}"
        directory.mkdir()
        conf = directory / "sentinel.conf"
        quorum = self._count // 2 + 1
        while True:
            port = free_port()
            conf.write_text(
                SENTINEL_CONF.format(
                    port=port,
                    directory=directory,
                    name=MASTER,
                    master=master,
                    quorum=quorum,
                    down_after=self._down_after,
                )
            )
            command = [redis_executable(), str(conf), "--sentinel"]
            sentinel = Program.start(command, env={"LC_ALL": "C"}, cwd=directory)
            try:
                await sentinel.line(lambda line: "+monitor" in line)
            except Ended:
                assert "in use" in sentinel.report()  # somebody took it in between
            else:
                self.sentinels[port] = sentinel
                return

    async def _until_acquainted(self) -> None:
        """Return when every Sentinel knows all replicas and all other Sentinels: only then can it fail over."""
        for port in self.sentinels:
            while True:
                known = await self.ask(port, "SENTINEL", "MASTER", MASTER)
                fields = dict(zip(known[::2], known[1::2], strict=True))
                replicas, others = int(fields["num-slaves"]), int(fields["num-other-sentinels"])
                if replicas >= len(self.servers) - 1 and others >= self._count - 1:
                    break
                await pause(0.05)

    # What it is now.

    @staticmethod
    async def ask(port: int, *words: str) -> list[str]:
        """Return what the Sentinel on *port* answers to a command, as a list of texts."""
        client = await txredisapi.Connection("127.0.0.1", port, reconnect=False, convertNumbers=False)
        try:
            return cast(list[str], await client.execute_command(*words))
        finally:
            await client.disconnect()

    async def master(self) -> RedisServer:
        """Return the server that the Sentinels name now."""
        for port, sentinel in self.sentinels.items():
            if sentinel.status is None:
                _, named = await self.ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
                for server in self.servers:
                    if server.port == int(named):
                        return server
                raise LookupError(f"no server has the port {named}, those are {[each.port for each in self.servers]}")
        raise AssertionError("no Sentinel is running")

    async def replicas(self) -> list[RedisServer]:
        """Return the servers that are not the master."""
        master = await self.master()
        return [server for server in self.servers if server is not master]

    async def until_replicas(self, count: int, timeout: float = TIMEOUT) -> None:
        """Return when *count* replicas of the first server have all that it has."""
        master = self.servers[0] if not self.sentinels else await self.master()

        async def linked() -> bool:
            info = await info_of(master, "replication")
            replicas = [info.get(f"slave{number}", "") for number in range(int(info["connected_slaves"]))]
            offset = info["master_repl_offset"]
            return sum(f"offset={offset}," in each and "state=online" in each for each in replicas) >= count

        await _until(linked, timeout)

    async def until_master(self, server: RedisServer, timeout: float = TIMEOUT) -> None:
        """Return when the Sentinels name *server* as the master, and it is one."""

        async def promoted() -> bool:
            return await self.master() is server and (await info_of(server, "replication"))["role"] == "master"

        await _until(promoted, timeout)

    # What happens to it.

    async def failover(self, timeout: float = TIMEOUT) -> RedisServer:
        """Kill the master, let another take over, and return that."""
        await self._set_down_after(PATIENT)
        return await self._fail_over(timeout)

    async def lagging_failover(self, lose: Callable[[], Awaitable[object]], timeout: float = TIMEOUT) -> RedisServer:
        """Cut the replicas off, let *lose* write what they do not get, kill the master; return its successor.

        However long *lose* takes: Sentinels would not make a replica the master that was cut off for ten times as
        long as it takes them to notice that a server is down.
        """
        await self._set_down_after(PATIENT)
        await self.cut_replicas()
        await lose()
        return await self._fail_over(timeout)

    async def _fail_over(self, timeout: float) -> RedisServer:
        """Kill the master, and tell a Sentinel to act: none need notice it, on a machine that may be busy."""
        before = await self.master()
        await before.kill()
        successor = await self._successor(before, timeout)
        # One that still takes the old one for the master would let a third one take over.
        await _until(lambda: self._all_name(successor), timeout)
        await self._set_down_after(self._down_after)
        return successor

    async def _all_name(self, server: RedisServer) -> bool:
        """Return whether all Sentinels name *server* as the master."""
        named = [await self.ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER) for port in self.sentinels]
        return all(int(port) == server.port for _, port in named)

    async def _set_down_after(self, milliseconds: int) -> None:
        for port in self.sentinels:
            await self.ask(port, "SENTINEL", "SET", MASTER, "down-after-milliseconds", str(milliseconds))

    async def cut_replicas(self) -> None:
        """Let no replica get what is written from now on, until they are mended or their master ends."""
        # To stop their processes would not do: what the master has sent waits in their sockets.
        master = await self.master()
        await master.command("ACL", "SETUSER", "default", "-psync", "-sync")
        await master.command("CLIENT", "KILL", "TYPE", "replica")

    async def mend_replicas(self) -> None:
        """Undo ``cut_replicas``."""
        await (await self.master()).command("ACL", "SETUSER", "default", "+psync", "+sync")

    async def revive(self, server: RedisServer, timeout: float = TIMEOUT) -> None:
        """Start *server*, which was killed, again: the Sentinels make it a replica of the present master."""
        master = await self.master()
        server.options = [*server.options, "--replicaof", "127.0.0.1", str(master.port)]
        await server.start()
        await self.until_replicas(1, timeout)

    async def _successor(self, before: RedisServer, timeout: float) -> RedisServer:
        async def promoted() -> bool:
            try:
                named = await self.master()
            except LookupError:  # one that has another port since it was started again
                return False
            if named is before:
                with suppress(txredisapi.ResponseError):  # it is under way, or no replica is fit yet
                    await self.ask(next(iter(self.sentinels)), "SENTINEL", "FAILOVER", MASTER)
            return named is not before and named.running and (await info_of(named, "replication"))["role"] == "master"

        await _until(promoted, timeout)
        return await self.master()


async def info_of(server: RedisServer, section: str) -> dict[str, str]:
    """Return the fields of a section of what *server* says by INFO."""
    text = str(await server.command("INFO", section))
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def _until(condition: Callable[[], Awaitable[bool]], timeout: float) -> None:
    end = reactor.seconds() + timeout
    while not await condition():
        assert reactor.seconds() < end, f"not within {timeout} s"
        await pause(0.05)
