"""The example of the docs on one public port: the servers that the two official protocol suites test.

At ``/engine.io/`` every message is echoed.  At ``/socket.io/`` there are the namespaces ``/`` and
``/custom``: at connect the client is sent its own payload by ``auth``; ``message`` comes back as
``message-back``; ``message-with-ack`` is acknowledged with its arguments.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.task import Clock

from broker.access.browsers import BrowserPolicy
from broker.core.service import Broker
from broker.testing import make_broker
from broker.web.net.listening import listen
from broker.web.net.transport import Outbox
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader
from protocols.microstream import Bounds, Server, Times
from tests.support.examples import load_example

TIMES = Times(ping_interval=0.3, ping_timeout=0.2, upgrade_timeout=0.4)


@attrs.define(eq=False)
class SuiteServer:
    """Both servers, listening; time goes by for their sessions only when ``clock`` is advanced."""

    clock: Clock
    broker: Broker
    servers: list[Server]
    site: Site
    port: Any  # an IListeningPort

    @classmethod
    async def start(cls, times: Times = TIMES, origins: tuple[str, ...] = (), **bounds: Any) -> SuiteServer:
        clock, example = Clock(), load_example("socketio_echo")
        servers = [
            Server(make, clock, name=name, path=f"/{name}/", times=times, bounds=Bounds(**bounds))
            for make, name in ((example.Echo, "engine.io"), (example.Events, "socket.io"))
        ]
        broker = make_broker(reactor)
        upgrader = WebSocketUpgrader(WebSocketOptions(), reactor, broker.metrics)
        site = Site(servers, broker.attach, reactor, upgrader, broker.metrics, policy=BrowserPolicy(origins))
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
