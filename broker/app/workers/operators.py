"""The port for operators of a supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import attrs

from broker import __version__
from broker.access.addresses import TrustedProxies
from broker.access.admission import Admission
from broker.access.failures import AuthFailures
from broker.access.refusals import RefusalLog
from broker.app.log_output import LogOutput
from broker.app.reload import Reloads
from broker.app.reloadables import AdminSecretReload
from broker.app.workers.front import WorkersApi
from broker.app.workers.merged import MergedHistory
from broker.app.workers.scrapes import Scrapes
from broker.app.workers.supervisor import Supervisor
from broker.config.settings import Settings
from broker.core.memory import Memory
from broker.interfaces import ILink, ISession
from broker.messages import Identity
from broker.observe.admin.page_files import PageFiles
from broker.observe.admin.pages import AdminPages
from broker.observe.admin.port import AdminPort
from broker.observe.admin.site import AdminSite
from broker.observe.metrics import Metrics
from broker.web.net.listening import Listener
from broker.web.net.transport import Outbox
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader

_numbers = count(1)


@attrs.define(eq=False)
class OperatorPeer:
    """Who asks the supervisor: it has what the site and streams need of a peer, and no core behind it."""

    clock: Any
    send_queue_bytes: int
    slow_grace_seconds: float
    dialect: str = ""
    id: str = attrs.field(factory=lambda: f"operator-{next(_numbers)}")
    session: Any = None
    admitted: bool = False
    client: str = ""

    def admit(self, identity: Identity) -> None:
        """See ``IPeer.admit``."""
        self.admitted = True

    def bind(
        self,
        session: ISession,
        disconnect: Callable[[int, str], object] | None = None,
        *,
        link: ILink | None = None,
    ) -> None:
        """See ``IPeer.bind``."""
        self.session = session

    def hold(self, change: int) -> None:
        """See ``IPeer.hold``: what waits for one who does not read is bounded by itself."""

    def slow_consumer(self) -> None:
        """See ``IPeer.slow_consumer``."""

    def close(self) -> None:
        """See ``IPeer.close``."""
        session, self.session = self.session, None
        if session is not None:
            session.disconnect(1000, "")


class OperatorPort:
    """Makes the services of the port, and what else operators see.

    Args:
        reactor: the reactor.
        settings: of the daemon.
        reloads: knows those in effect.
        outbox: of the process.
        output: of the log.

    Attributes:
        history: of what all workers do.
        metrics: of this process.
    """

    def __init__(
        self, reactor: Any, settings: Settings, reloads: Reloads, outbox: Outbox, output: LogOutput | None
    ) -> None:
        self._reactor, self._settings, self._reloads = reactor, settings, reloads
        self._outbox, self._output = outbox, output
        self._started = 0.0
        self.history = MergedHistory(reactor.seconds)
        self.metrics = Metrics()
        self.metrics.begin_port()

    def add_to(self, supervisor: Supervisor, started: float) -> None:
        """Let *supervisor*, which was made at the time *started*, have the port."""
        self._started = started
        metrics, settings = self.metrics, self._settings
        metrics.gauges["workers"] = lambda: settings.process_count
        metrics.gauges["workers_ready"] = lambda: len(supervisor.serving)
        metrics.gauges["worker_restarts"] = lambda: supervisor.restarts
        scrapes = Scrapes(self._reactor, lambda: supervisor.serving, metrics)
        supervisor.ended.append(scrapes.ended)
        supervisor.sampled.append(lambda worker, sample: self.history.add(worker.number, sample))
        site = self._site(supervisor, scrapes)
        self._reloads.add(AdminSecretReload(settings, site.replace_secret))
        listener = Listener(self._reactor, self._outbox)
        port = AdminPort(site, lambda at: listener.listen(at, site), settings.admin_listen, listener.bind)
        supervisor.others += [scrapes, port]

    def _site(self, supervisor: Supervisor, scrapes: Scrapes) -> AdminSite:
        settings, reactor = self._settings, self._reactor

        def about() -> Mapping[str, Any]:
            return about_all(supervisor, settings, self._started)

        api = WorkersApi(supervisor, reactor, lambda: self._reloads.settings, self.history, about, self._set_level())
        pages = AdminPages(scrapes.text, supervisor.reasons, about, scrapes.refresh)
        refusals = RefusalLog(reactor, self.metrics)
        return AdminSite(
            [pages, api, PageFiles()],
            lambda dialect, address: OperatorPeer(
                reactor, settings.send_queue_bytes, settings.slow_grace_seconds, dialect
            ),
            reactor,
            WebSocketUpgrader(WebSocketOptions(), reactor, self.metrics),
            self.metrics,
            failures=AuthFailures(reactor, settings.auth_failures_per_minute, refusals),
            admission=Admission.of(settings, TrustedProxies()),
            memory=Memory(settings.memory_limit_bytes, settings.memory_per_address_bytes),
            secret=settings.admin_secret,
            hosts=settings.allowed_hosts,
            ready=supervisor.reasons,
            refusals=refusals,
        )

    def _set_level(self) -> Callable[[str], object] | None:
        lines = None if self._output is None else self._output.lines
        return None if lines is None else lambda level: setattr(lines, "level", level)


def about_all(supervisor: Supervisor, settings: Settings, started: float) -> dict[str, Any]:
    """Return what the daemon is: what the first of its workers is that has said it, and what each of them is."""
    known = [worker.about for worker in supervisor.workers.values() if worker.about]
    first = {name: value for name, value in known[0].items() if name != "worker"} if known else {}
    return {
        "name": "txbroker",
        "version": __version__,
        **first,
        "started": started,
        "node": settings.node,
        "workers": [
            {
                "worker": worker.number,
                "pid": worker.pid,
                "node": worker.node or None,
                "state": worker.state,
                "reasons": worker.reasons,
            }
            for worker in supervisor.workers.values()
        ],
    }
