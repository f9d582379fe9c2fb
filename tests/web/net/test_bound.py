"""Sockets that are bound before the process gives its rights up, and served after it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.error import CannotListenError

from broker.web.net.listening import Listener
from broker.web.net.port import FramePort
from tests.web.net.test_certificates import write
from tests.web.sockets import Scene, reactor


def bound_port(listener: Listener) -> int:
    (bound,) = next(iter(listener.bound._sockets.values()))
    return int(bound.getsockname()[1])


@pytest_twisted.ensureDeferred
async def test_who_connects_before_the_daemon_has_started_is_served_then(scene: Scene) -> None:
    listener, endpoint = Listener(reactor, scene.outbox), "tcp:0:interface=127.0.0.1"
    listener.bind(endpoint)
    client = await scene.connect(bound_port(listener))
    client.transport.write(b"hello")
    port = await listener.listen(endpoint, scene.servers)
    scene.ports.append(port)
    assert isinstance(port, FramePort)
    assert await client.until(5) == b"hello"
    assert scene.servers.connections[0].transport.getTcpNoDelay()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_who_connects_to_a_port_that_is_held_is_served_when_it_accepts(scene: Scene, kind: str) -> None:
    listener = Listener(reactor, scene.outbox)
    listener.hold()
    path = scene.path / "socket"
    endpoint = {"tcp": "tcp:0:interface=127.0.0.1", "unix": f"unix:{path}"}[kind]
    closed, port = [await listener.listen(each, scene.servers) for each in ("tcp:0:interface=127.0.0.1", endpoint)]
    scene.ports.append(port)
    client = await scene.connect(cast(Any, port).getHost().port if kind == "tcp" else path)
    client.transport.write(b"hello")
    assert port not in reactor.getReaders()
    await cast(Any, closed).stopListening()
    listener.accept()
    assert await client.until(5) == b"hello"
    assert closed not in reactor.getReaders()
    scene.ports.append(await listener.listen("tcp:0:interface=127.0.0.1", scene.servers))
    assert scene.ports[-1] in reactor.getReaders()


@pytest.mark.parametrize("endpoint", ["tcp6:0:interface=\\:\\:1", "haproxy:tcp:0:interface=127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_every_endpoint_of_tcp_is_bound(scene: Scene, endpoint: str) -> None:
    listener = Listener(reactor, scene.outbox)
    listener.bind(endpoint)
    number = bound_port(listener)
    scene.ports.append(await listener.listen(endpoint, scene.servers))
    assert scene.ports[0].getHost().port == number


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_is_bound(scene: Scene) -> None:
    path = scene.path / "socket"
    listener = Listener(reactor, scene.outbox)
    listener.bind(f"unix:{path}:mode=600")
    assert path.stat().st_mode & 0o777 == 0o600
    client = await scene.connect(path)
    client.transport.write(b"hello")
    scene.ports.append(await listener.listen(f"unix:{path}:mode=600", scene.servers))
    assert await client.until(5) == b"hello"


@pytest_twisted.ensureDeferred
async def test_a_key_is_read_while_it_can_be(scene: Scene, tmp_path: Path) -> None:
    files = write(tmp_path, "localhost")
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={files.key}:certKey={files.certificate}"
    listener = Listener(reactor, scene.outbox)
    listener.bind(endpoint)
    (certificates,) = listener.certificates
    Path(files.key).chmod(0)  # of no effect for root
    scene.ports.append(await listener.listen(endpoint, scene.servers))
    assert listener.certificates == [certificates]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_what_is_taken_is_told(scene: Scene, kind: str) -> None:
    taken = {"tcp": "tcp:0:interface=127.0.0.1", "unix": f"unix:{scene.path / 'socket'}"}[kind]
    port = await scene.listen(taken)
    endpoint = f"tcp:{port.getHost().port}:interface=127.0.0.1" if kind == "tcp" else taken
    with pytest.raises(CannotListenError):
        Listener(reactor, scene.outbox).bind(endpoint)


def test_what_is_no_endpoint_is_told(scene: Scene) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Listener(reactor, scene.outbox).bind("nonsense:1")
