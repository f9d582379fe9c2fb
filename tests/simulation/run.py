"""One run: the steps of a schedule, then everything heals, and then what must hold is checked."""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import attrs

from tests.simulation import checks
from tests.simulation.clients import Client, History
from tests.simulation.commands import State
from tests.simulation.node import Node, simulated
from tests.simulation.schedule import ACTIVE, ALL, START_STEP, Schedule, Step, make_schedule
from tests.simulation.server import Server
from tests.simulation.world import START, Endless, Violation, World

SETTLE = 6.0  # seconds after everything has healed
READY = 30.0  # seconds in which all nodes must be ready again
LEAVING = 6.0  # seconds after the last client has left: longer than a topic stays subscribed, or a link idle
SNAPSHOTS = 0.25  # seconds between two states of the data that the server may go back to
COLLECTED = 16  # runs between two looks for what they have left: some 0.8 MB each

_runs = count()


@attrs.frozen
class Result:
    """What a run has shown.

    Attributes:
        violations: of what must hold.
        trace: what has happened, if it was asked for.
        digest: the same for the same run.
    """

    schedule: Schedule
    violations: list[Violation]
    trace: list[str]
    digest: str


class Run:
    """The nodes, the server and the clients of one run."""

    def __init__(self, schedule: Schedule, *, keep_trace: bool = False) -> None:
        self.schedule = schedule
        self.world = World(schedule.seed, keep_trace=keep_trace)
        self.server = Server(self.world)
        self.nodes: dict[str, Node] = {}
        self.history = History(self.world, self.server, self.nodes)
        self.all_nodes: list[Node] = []
        self.clients = [Client(self.history, f"c{number}", self._place) for number in range(schedule.clients)]
        self.healed = False
        self._snapshots: list[tuple[float, State]] = []
        self._back = any(step.what == "back" for step in schedule.steps)
        self.lost_data = any(step.what in ("back", "wipe") for step in schedule.steps)

    def run(self) -> None:
        world = self.world
        for number in range(self.schedule.nodes):
            world.at(START + START_STEP * number, self._start, f"n{number}", 1)
        for client in self.clients:
            world.at(START + 1.0, client.connect)
        for step in self.schedule.steps:
            world.at(START + step.at, self._step, step)
        if self._back:
            self._snapshot()
        world.run_until(START + ACTIVE)
        self._heal()
        self._wait_until_ready()
        world.run_until(world.now + SETTLE)
        checks.check_deaf(self)
        checks.check_names(self)
        checks.check_members(self)
        checks.check_history(self)
        checks.check_mail(self)  # it may wake what had to go on by itself
        self._leave()
        checks.check_empty(self)
        for node in self.nodes.values():
            if node.alive:
                node.stop()
        world.run_until(world.now + 6.0)
        checks.check_stopped(self)
        if self.server.data.unknown:
            world.violate("a command is not simulated", f"{sorted(set(self.server.data.unknown))}")

    def _place(self, client: Client) -> Node | None:
        alive = [
            node for node in self.nodes.values() if node.alive and node.broker.running and not node.broker.draining
        ]
        return alive[(int(client.name[1:]) + client.session) % len(alive)] if alive else None

    def _start(self, name: str, start: int) -> None:
        self.world.log(f"{name} starts")
        node = self.nodes[name] = Node(self.world, self.server, name, start)
        self.all_nodes.append(node)

    # Steps.

    def _step(self, step: Step) -> None:
        self.world.log(f"-- {step}")
        if step.actor == "redis":
            getattr(self, f"redis_{step.what}")(*step.arguments)
        elif step.actor.startswith("n"):
            node = self.nodes[step.actor]
            if node.alive:
                getattr(self, f"node_{step.what}")(node, *step.arguments)
        else:
            client = self.clients[int(step.actor[1:])]
            if step.what == "leave":
                client.disconnect()
            else:
                client.do(step.what, *step.arguments)

    def _later(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        """Undo a fault in some time, at the latest when everything heals."""
        self.world.at(min(self.world.now + seconds, START + ACTIVE), call, *arguments)

    def node_cut(self, node: Node, kinds: str, seconds: float) -> None:
        node.network.set_cut(set(kinds.split()), True)
        self._later(seconds, node.network.set_cut, set(kinds.split()), False)

    def node_reset(self, node: Node, kinds: str) -> None:
        node.network.reset(set(kinds.split()))

    def node_stall(self, node: Node, kinds: str, seconds: float) -> None:
        """Let nothing through of the connections that there are; new ones are well."""
        links = [link for link, kind in node.network.links.items() if kind in kinds.split()]
        for link in links:
            link.set_cut(True)
            self._later(seconds, link.set_cut, False)

    def node_flaky(self, node: Node, kinds: str, seconds: float, lag: float) -> None:
        """Break connections again and again, slow as they are."""
        network = node.network
        network.set_lag(lag)
        end = min(self.world.now + seconds, START + ACTIVE)
        self._later(seconds, network.set_lag, 0.0)
        chance = self.world.chance("flaky", node.name, self.world.now)

        def reset() -> None:
            if self.world.now < end:
                network.reset(set(kinds.split()))
                self.world.after(0.2 + 0.6 * chance.random(), reset)

        reset()

    def node_lossy(self, node: Node, seconds: float, loss: float) -> None:
        """Lose some of what other nodes send, and bring some of it twice."""
        node.network.set_loss(loss)
        self._later(seconds, node.network.set_loss, 0.0)

    def node_lag(self, node: Node, lag: float, seconds: float) -> None:
        node.network.set_lag(lag)
        self._later(seconds, node.network.set_lag, 0.0)

    def node_freeze(self, node: Node, seconds: float, net_first: bool) -> None:
        if not node.clock.frozen:
            node.freeze()
            self._later(seconds, self._thaw, node, net_first)

    def _thaw(self, node: Node, net_first: bool) -> None:
        if node.clock.frozen:
            self.world.log(f"{node.name} thaws")
            node.thaw(net_first)

    def node_crash(self, node: Node, silently: bool, seconds: float) -> None:
        node.crash(silently=silently)
        self._process_over(node)
        self._later(seconds, self._restart, node)

    def _process_over(self, node: Node) -> None:
        for client in self.clients:
            if client.peer is not None and client.node is node:
                client.lose_process()

    def node_stop(self, node: Node, seconds: float) -> None:
        if node.clock.frozen or not node.broker.running:
            return
        for client in self.clients:
            if client.peer is not None and client.node is node:
                client.disconnect()
        node.stop()
        self._later(max(seconds, 3.0), self._restart, node)

    def _restart(self, node: Node) -> None:
        if node.alive:
            node.crash(silently=False)  # it takes too long, and is killed
        if self.nodes[node.name] is node:
            self._start(node.name, node.starts + 1)

    def redis_hang(self, seconds: float) -> None:
        if self.server.up:
            self.server.hang(True)
            self._later(seconds, self._hang_over, self.server.runs)

    def _hang_over(self, run: int) -> None:
        if self.server.runs == run:
            self.server.hang(False)

    def redis_down(self, seconds: float) -> None:
        self._redis_down(seconds, None)

    def redis_wipe(self, seconds: float) -> None:
        self._redis_down(seconds, ({}, {}))

    def redis_back(self, seconds: float, ago: float) -> None:
        now = self.world.now
        found = [data for when, data in self._snapshots if when <= now - ago]
        self._redis_down(seconds, found[-1] if found else ({}, {}))
        self._snapshots.clear()

    def _redis_down(self, seconds: float, data: State | None) -> None:
        if not self.server.up:
            return
        self.server.end()
        self._later(seconds, self._redis_up, data)

    def _redis_up(self, data: State | None) -> None:
        self.world.log("redis is up again")
        self.server.start(data)

    def _snapshot(self) -> None:
        if self.server.up:
            self._snapshots.append((self.world.now, self.server.data.copy()))
        if self.world.now < START + ACTIVE:
            self.world.after(SNAPSHOTS, self._snapshot)

    # The end.

    def _heal(self) -> None:
        self.world.log("== everything heals")
        self.healed = True
        if not self.server.up:
            self.server.start()
        self.server.hang(False)
        for node in list(self.nodes.values()):
            node.network.set_cut(ALL, False)
            node.network.set_lag(0.0)
            node.network.set_loss(0.0)
            if node.clock.frozen:
                node.thaw(True)

    def _wait_until_ready(self) -> None:
        end = self.world.now + READY
        while not all(node.ready for node in self.living()):
            if self.world.now >= end:
                reasons = [(node.name, node.broker.ready(), node.leased) for node in self.living()]
                self.world.violate("a node is not ready again", f"{reasons}")
                return
            self.world.run_until(self.world.now + 0.5)

    def living(self) -> Iterable[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def _leave(self) -> None:
        """Let all leave: first those that are called, so that no call is left open by them."""
        world = self.world
        callers = {issued.client for issued in self.history.calls.values() if not issued.ends and not issued.gone}
        for client in self.clients:
            for reader in client.readers.values():
                reader.stopped = True
            if client not in callers:
                client.disconnect(again=False)
        world.run_until(world.now + 1.0)
        for client in self.clients:
            if client.peer is not None:
                for kind, name in list(client.wishes):
                    if kind == "name":
                        client.peer.release(name)
        world.run_until(world.now + 21.0 if any(each.streamed for each in checks.open_calls(self)) else world.now)
        for client in self.clients:
            client.disconnect(again=False)
        world.run_until(world.now + LEAVING)


def run_seed(seed: int, theme: str = "", *, keep_trace: bool = False) -> Result:
    """Return what the run of *seed* shows; see ``make_schedule``."""
    return run_schedule(make_schedule(seed, theme), keep_trace=keep_trace)


def run_schedule(schedule: Schedule, *, keep_trace: bool = False) -> Result:
    """Return what the run of *schedule* shows."""
    enabled = gc.isenabled()
    gc.disable()  # what it finds is logged whenever it runs
    if next(_runs) % COLLECTED == 0:
        gc.collect()  # what other runs have left, and would never be looked at
    gc.freeze()  # it has no look at anything but this run
    try:
        with _unraisable() as found:
            result = _run(schedule, keep_trace=keep_trace)
            gc.collect()
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    result.violations.extend(found)
    return result


@contextmanager
def _unraisable() -> Iterator[list[Violation]]:
    """Note what goes wrong when objects are forgotten: coroutines that can not be closed, above all."""
    found: list[Violation] = []

    def hook(what: Any) -> None:
        found.append(Violation("an exception that nobody gets", f"{what.exc_value!r} in {what.object!r}"))

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield found
    finally:
        sys.unraisablehook = before


def _run(schedule: Schedule, *, keep_trace: bool) -> Result:
    run = Run(schedule, keep_trace=keep_trace)
    with simulated(run.world), suppress(Endless):
        run.run()
    world = run.world
    digest = f"{world.steps} {world.now:.6f} {world.chance('end').random()} {hash_of(run)}"
    return Result(schedule, world.violations, world.trace, digest)


def hash_of(run: Run) -> str:
    """Return something that is the same for the same run, and hardly for another."""
    history = run.history
    facts = (
        sorted(history.appended.items()),
        sorted((token, len(issued.ends), len(issued.parts)) for token, issued in history.calls.items()),
        sorted(history.done.items()),
        len(run.server.data.keys),
    )
    return hashlib.sha1(repr(facts).encode()).hexdigest()
