"""The servers that the two public protocol suites speak with, on one port of the front door.

At ``/engine.io/`` every message is echoed.  At ``/socket.io/`` there are the namespaces ``/`` and
``/custom``: at connect the client is told its own payload by ``auth``; ``message`` comes back as
``message-back``; ``message-with-ack`` is acknowledged with its arguments.
"""

from __future__ import annotations

import attrs
from twisted.internet import reactor
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock

from broker.core.service import Broker
from broker.testing import make_broker
from broker.web.net.outbox import Outbox
from broker.web.net.transport import listen
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader
from protocols.microstream.engineio import Times
from protocols.microstream.namespaces import SocketSession
from protocols.microstream.server import Bounds, Server
from protocols.microstream.sessions import Session

CONNECT_TIMEOUT = 1.0  # seconds
TIMES = Times(ping_interval=0.3, ping_timeout=0.2, upgrade_timeout=0.4)


class Echo(Session):
    def message(self, data, binary):
        self.send([(data, binary)])


class Suite(SocketSession):
    def __init__(self, server, peer, handshake, link):
        super().__init__(server, peer, handshake, link, connect_timeout=CONNECT_TIMEOUT)

    def take_connect(self, asked):
        if asked.namespace not in ("/", "/custom"):
            super().take_connect(asked)
            return
        self.accept(asked.namespace)
        self.emit(b'["auth",%b]' % (asked.auth or b"{}"), namespace=asked.namespace)

    def take_event(self, emit):
        args = [bytes(arg) for arg in emit.args]
        if emit.name == "message":
            self.emit(b"[%b]" % b",".join([b'"message-back"', *args]), emit.attachments, namespace=emit.namespace)
        elif emit.name == "message-with-ack":
            self.acknowledge(emit, b"[%b]" % b",".join(args), emit.attachments)


@attrs.define(eq=False)
class SuiteServer:
    """Both servers, listening; time goes by for their sessions only when ``clock`` is advanced."""

    clock: Clock
    broker: Broker
    servers: list[Server]
    site: Site
    port: IListeningPort

    @classmethod
    async def start(cls, times: Times = TIMES, **bounds: object) -> SuiteServer:
        clock = Clock()
        servers = [
            Server(make, clock, name=name, path=f"/{name}/", times=times, bounds=Bounds(**bounds))
            for make, name in ((Echo, "engine.io"), (Suite, "socket.io"))
        ]
        broker = make_broker(reactor)
        upgrader = WebSocketUpgrader(WebSocketOptions(), reactor, broker.metrics)
        site = Site(servers, broker.attach, reactor, upgrader, broker.metrics)
        port = await listen(reactor, "tcp:0:interface=127.0.0.1", site, Outbox(reactor))
        return cls(clock, broker, servers, site, port)

    async def stop(self) -> None:
        """End it; nothing may be left of any session."""
        await self.port.stopListening()
        for server in self.servers:
            server.drain()
            assert server.sessions == {}
            assert len(server.timers) == 0
        await self.broker.stopService()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port.getHost().port}"
