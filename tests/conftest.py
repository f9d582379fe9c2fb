"""What every test may ask for."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import hypothesis
import pytest
import pytest_twisted
from coverage import Coverage
from twisted.internet import reactor
from twisted.logger import LogEvent

import broker.speedups
from broker.core.clocks import use_monotonic_time
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.greenlets import blockon
from tests.support.logs import logging
from tests.support.node import Node
from tests.support.redis_server import RedisServer

StartDaemon = Callable[..., Awaitable[Daemon]]

# On a busy machine any example may take long: what it takes says nothing of what is tested.
hypothesis.settings.register_profile(
    "txbroker",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
    max_examples=40,
    stateful_step_count=40,
)
hypothesis.settings.register_profile("soak", hypothesis.settings.get_profile("txbroker"), max_examples=300)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run all rounds and examples of the tests that use chance")
    parser.addoption(
        "--collect-often", action="store_true", help="collect garbage after each object: finds what nothing keeps"
    )


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("TXBROKER_SPEEDUPS") == "off":  # daemons have it from ``clean_environ``
        broker.speedups.built = None
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has started it in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    use_monotonic_time(reactor)  # as the daemon does: whatever takes its seconds for a date is wrong
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "txbroker")
    pytest_twisted.blockon_default = blockon
    if (coverage := Coverage.current()) is not None:
        config.pluginmanager.register(Measured(coverage))


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether a test that has many rounds runs all of them, not only the first few."""
    return bool(request.config.getoption("--soak"))


# What starts a broker or Node.
PROGRAMS = {"daemon", "shared_daemon", "start_daemon", "node"}
# And what starts Redis.  A test that starts a process without them bears the mark itself.
PROCESSES = {*PROGRAMS, "redis_server", "shared_redis_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need other processes, and those of which ``make soak`` runs more."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if PROCESSES.intersection(names):
            item.add_marker("processes")
        if "soak" in names or hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("soak")
        if PROGRAMS.intersection(names):
            item.add_marker("unmeasured")


def pytest_collection_finish(session: pytest.Session) -> None:
    # What was collected stays to the end: each full collection of garbage would look through all of it.
    gc.freeze()
    if session.config.getoption("--collect-often"):
        session.config.pluginmanager.register(CollectOften())


class CollectOften:
    """Collects garbage all the time, so that what nothing keeps is gone at once, not by chance later.

    A coroutine that waits for a Deferred which only itself knows is such garbage: it is closed when it is collected.
    """

    def __init__(self) -> None:
        gc.set_threshold(1, 0, 0)

    def pytest_runtest_setup(self) -> None:
        # A full collection comes early only while few objects have survived the one before.
        gc.collect()
        gc.freeze()
        gc.collect()


@attrs.define
class Measured:
    """Stops the measuring of coverage for tests that run nothing of the broker in this process.

    To be traced makes them, their clients and the reactor three to four times slower.
    """

    coverage: Coverage
    running: bool = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        wanted = item.get_closest_marker("unmeasured") is None
        if wanted == self.running:
            return
        self.running = wanted
        if wanted:
            self.coverage.start()
        else:
            self.coverage.stop()


def _directory() -> Path:
    # Not pytest's own: the path of a unix socket holds no more than 107 bytes.
    return Path(tempfile.mkdtemp(prefix="txbroker-"))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory with a name short enough for unix sockets."""
    directory = _directory()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    """Settings for ``daemon`` and ``shared_daemon``; a test module may override this fixture."""
    return {}


async def _started(daemons: list[Daemon], environ: dict[str, str]) -> Daemon:
    daemon = Daemon(_directory(), **environ)
    daemons.append(daemon)
    return await daemon.start()


async def _ended(daemons: list[Daemon]) -> None:
    """Stop them, and fail when one of them had an error in its log that no test provoked."""
    for daemon in daemons:
        if daemon.running:
            status = await daemon.stop()
            assert status == 0, "\n".join(daemon.output)
        shutil.rmtree(daemon.directory)
    for daemon in daemons:
        assert not daemon.troubles(), "\n".join(daemon.output)


@pytest_twisted.async_yield_fixture
async def daemon(daemon_environ: dict[str, str]) -> AsyncIterator[Daemon]:
    """A running broker for one test."""
    daemons: list[Daemon] = []
    yield await _started(daemons, daemon_environ)
    await _ended(daemons)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses ``shared_daemon`` twice: against one node, and against three on one Redis."""
    if "shared_daemon" in metafunc.fixturenames:
        alone = metafunc.definition.get_closest_marker("alone") is not None
        metafunc.parametrize("shared_daemon", ["one"] if alone else ["one", "three"], indirect=True, scope="module")


@pytest_twisted.async_yield_fixture(scope="module")
async def shared_daemon(
    request: pytest.FixtureRequest, daemon_environ: dict[str, str]
) -> AsyncIterator[Daemon | Cluster]:
    """A running broker for all tests of a module: use names of your own in each.

    It is one node with SQLite, or three with Redis, of which each client comes to
    another; a test that can not do with the latter is marked with ``alone``.
    """
    if request.param == "three":
        cluster = await Cluster.new(**daemon_environ).start()
        yield cluster
        await cluster.end()
        return
    daemons: list[Daemon] = []
    yield await _started(daemons, daemon_environ)
    await _ended(daemons)


@pytest_twisted.async_yield_fixture
async def start_daemon() -> AsyncIterator[StartDaemon]:
    """``await start_daemon(TXBROKER_…="…")`` as often as wanted."""
    daemons: list[Daemon] = []

    async def start(**environ: str) -> Daemon:
        return await _started(daemons, environ)

    yield start
    await _ended(daemons)


@pytest_twisted.async_yield_fixture
async def node() -> AsyncIterator[Node]:
    """Runs scripts of tests/interop."""
    node = Node()
    yield node
    await node.end()


@pytest_twisted.async_yield_fixture
async def redis_server() -> AsyncIterator[RedisServer]:
    """An empty redis-server of one test, which writes every command to its log at once."""
    directory = _directory()
    server = RedisServer(directory, "--appendonly", "yes", "--appendfsync", "always")
    yield await server.start()
    await server.kill()
    shutil.rmtree(directory)


@pytest_twisted.async_yield_fixture(scope="module")
async def shared_redis_server() -> AsyncIterator[RedisServer]:
    """A redis-server without files for all tests of a module: use a prefix of your own in each."""
    directory = _directory()
    server = RedisServer(directory)
    yield await server.start()
    await server.kill()
    shutil.rmtree(directory)


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """What is logged during the test, as a list that grows."""
    with logging() as events:
        yield events
