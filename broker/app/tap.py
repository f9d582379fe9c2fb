"""``twistd broker``: makes the parts of the daemon and joins them; nothing else imports so much."""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python import usage

from broker import __version__
from broker.access.addresses import TrustedProxies
from broker.access.admission import Admission
from broker.access.browsers import BrowserPolicy
from broker.app.backends import make_backends
from broker.app.certificates import CertificateReload, certificate_warnings, make_certificates
from broker.app.checks import Attempts, problems_of
from broker.app.daemon import Daemon
from broker.app.dialects import found_dialects, load_dialects, own_settings
from broker.app.greeting import announce_start
from broker.app.log_output import LogOutput, log_output, observe
from broker.app.pidfile import remove_stale
from broker.app.plugins import PluginLife
from broker.app.process import (
    end_with,
    raise_file_limit,
    tune_allocator,
    tune_garbage_collector,
)
from broker.app.reload import Reloads
from broker.app.reloadables import AccessReload, AdminSecretReload, LogReload
from broker.app.settings import read_settings
from broker.app.signals import catch_signals, catch_stops
from broker.app.start_report import StartReport
from broker.app.stream_port import stream_ports
from broker.app.systemd import answer_watchdog, notify_reloading, notify_systemd
from broker.app.trimmer import MemoryTrimmer
from broker.config.environment import Environment
from broker.config.own import described
from broker.config.settings import ENV_PREFIX, Settings, protocols_of
from broker.core.clocks import use_monotonic_time
from broker.core.service import Broker
from broker.observe.admin.api import AdminApi
from broker.observe.admin.history import History
from broker.observe.admin.page_files import PageFiles
from broker.observe.admin.pages import AdminPages
from broker.observe.admin.port import AdminPort
from broker.observe.admin.site import AdminSite
from broker.observe.admin.stored import Lags
from broker.observe.admin.tokens import TokenPage
from broker.observe.lag import ReactorLag
from broker.observe.logs import LogLines
from broker.observe.metrics import Metrics
from broker.observe.stacks import StackWatch
from broker.speedups import speedups
from broker.web.http.parser import Limits
from broker.web.http.timeouts import Times
from broker.web.net.listening import Listener
from broker.web.net.transport import Outbox, ReactorLoop
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader

if TYPE_CHECKING:
    from broker.app.workers.supervisor import Supervisor
    from broker.app.workers.worker import Worker
    from broker.web.net.certificates import ServerCertificates

log = Logger()

WORKER = "TXBROKER_WORKER"  # in the environment of a process that a supervisor has started
SIGNALS = {"reload": signal.SIGHUP, "reopen": signal.SIGUSR1, "drain": signal.SIGUSR2}
SETTLE = 0.05  # seconds in which a request follows its connection
BODY_OVERHEAD = 65536  # bytes that a body may have beside the message in it


class Options(usage.Options):
    """The options of ``twistd broker``: none but help, since every setting is an environment variable."""

    synopsis = "[options]"

    @property
    def longdesc(self) -> str:
        """The text of ``--help``: where the settings are, which dialects were found, and what settings those have."""
        text = (
            "Settings are environment variables that begin with TXBROKER_; docs/settings lists them. "
            f"Dialects found: {', '.join(found_dialects())}. TXBROKER_PROTOCOLS says which of them are spoken."
        )
        own = described(ENV_PREFIX, own_settings(protocols_of(os.environ)))
        return " ".join([text, *(["Their own settings:", *own] if own else [])])

    def postOptions(self) -> None:
        """Remove the file of the process if it is one of a run before: twistd looks at it next."""
        parent: Any = self.parent or {}
        remove_stale(parent.get("pidfile", ""))

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"txbroker {__version__}")
        raise SystemExit(0)


def makeService(options: usage.Options) -> IService:
    """Return the daemon that the environment describes; exit with status 2 if it can not be made."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    report = StartReport()
    report.install()
    parent: Any = options.parent or {}
    worker = _worker(reactor)
    environment = Environment(os.environ)
    read = partial(read_settings, environment, None if worker is None else worker.plan.settings)
    settings, problems = read()
    attempts = Attempts(problems)
    number = 0 if worker is None else worker.plan.number
    report.output = output = attempts.make("LOG_FILE", lambda: log_output(parent, settings, number))
    reloads = Reloads(settings, read)
    if output is not None:
        reloads.add(LogReload(output.lines))
    made: Daemon | Supervisor | None
    if worker is None and settings.process_count > 1:
        made = attempts.make("LISTEN", lambda: _supervisor(reactor, settings, reloads, output, parent, attempts))
    else:
        observer = None if output is None else output.lines
        made = attempts.make(
            "LISTEN", lambda: make_daemon(reactor, settings, reloads, observer, attempts.problems, worker)
        )
    if made is None:
        report.refuse(list(dict.fromkeys(attempts.problems)), parent, settings)
        raise SystemExit(2)
    daemon = made
    if isinstance(daemon, Daemon):
        daemon.binds_first = any(parent.get(name) is not None for name in ("uid", "gid"))
    reactor.callWhenRunning(report.close)
    if output is not None:
        observe(parent, output.lines)
        output.trace_faults()
    acts = _actions(daemon, output, reloads)
    catch_signals(cast(Any, reactor), {SIGNALS[name]: act for name, act in acts.items()})
    reactor.callWhenRunning(answer_watchdog, reactor)
    reactor.callWhenRunning(catch_stops, reactor, lambda at_once: _stop(reactor, daemon, at_once))
    if worker is not None:
        worker.parts.actions = acts
        worker.parts.stop = lambda: _stop(reactor, daemon, True)
    return daemon


def _actions(
    daemon: Daemon | Supervisor, output: LogOutput | None, reloads: Reloads
) -> dict[str, Callable[[], object]]:
    """Return what the daemon does besides to serve clients and to stop, by name."""
    all_do: Callable[[str], Deferred[Any]] | None = getattr(daemon, "all_do", None)  # where it has workers

    def reopen() -> object:
        if output is not None:
            output.reopen()
        return all_do and all_do("reopen")

    def reload() -> object:
        # The log first: what is wrong with a file stands in the new one.
        if output is not None:
            output.reopen()
        notify_reloading()
        good = reloads.reload()
        if all_do is not None:
            # Where it is wrong they open their log again, and stay as they are.
            return all_do("reload" if good else "reopen").addBoth(lambda _: notify_systemd("READY=1"))
        notify_systemd("READY=1")
        return None

    def drain() -> None:
        daemon.drain()
        notify_systemd("STATUS=draining: no new clients are taken")

    return {"reload": reload, "reopen": reopen, "drain": drain}


def _worker(reactor: Any) -> Worker | None:
    """Return what this process is, if it is one of several of a daemon."""
    if WORKER not in os.environ:
        return None
    from broker.app.workers.plan import WorkerPlan
    from broker.app.workers.worker import Worker

    return Worker(reactor, WorkerPlan.pop_from(os.environ))


def _supervisor(
    reactor: Any,
    settings: Settings,
    reloads: Reloads,
    output: LogOutput | None,
    parent: Mapping[str, Any],
    attempts: Attempts,
) -> Supervisor:
    # A single process does without what this brings.
    from broker.app.workers.assembly import make_supervisor

    return make_supervisor(reactor, settings, reloads, output, parent, attempts.problems, partial(_give_up, reactor))


def _give_up(reactor: Any, status: int) -> None:
    end_with(status)
    with suppress(ReactorNotRunning):  # it stops already
        reactor.stop()


def make_daemon(
    reactor: Any,
    settings: Settings,
    reloads: Reloads | None = None,
    observer: ILogObserver | None = None,
    problems: Iterable[str] = (),
    worker: Worker | None = None,
) -> Daemon:
    """Return the daemon that *settings* describe, not yet started.

    Args:
        reactor: the reactor.
        settings: the settings.
        reloads: to which its parts are added that can be reloaded.
        observer: see ``Daemon``.
        problems: what is known to be wrong already.
        worker: leads to the supervisor; None: the daemon is one process.

    Raises:
        SettingsError: with everything that can not be used.
        ValueError: two dialects claim the same path.
    """
    dialects, broker, certificates = _make_parts(reactor, settings, problems)
    warnings = [*settings.warnings, *certificate_warnings(settings, certificates)]
    site = make_site(reactor, settings, broker, dialects, Site if worker is None else worker.site_class)
    plugins = list(_plugins(reactor, site, broker, dialects))
    outbox = Outbox(reactor, broker.memory.send_queue)
    ReactorLoop(reactor, outbox).install()
    listener = make_listener(reactor, settings, outbox, certificates)
    listener.hold()
    admin_listener = make_listener(reactor, settings, outbox)
    if worker is not None:
        worker.join(listener, site, settings.node)
    if reloads is not None:
        reloads.add(AccessReload(settings, broker.access, broker.credentials_changed))
        reloads.add(CertificateReload(certificates, (listener, admin_listener), warns=worker is None))

    daemon = Daemon(
        broker,
        site,
        lambda endpoint: listener.listen(endpoint, site),
        settings.listen,
        drain_seconds=settings.drain_seconds,
        announce=lambda ports: reactor.callWhenRunning(_announce, settings, warnings, dialects, ports, worker, broker),
        ports=stream_ports(reactor, settings, _link_options(settings), broker, site, listener),
        others=[
            make_lag(reactor, broker),
            *make_admin(
                reactor, settings, broker, site, admin_listener, reloads, observer, lambda: daemon.drain(), worker
            ),
            MemoryTrimmer(lambda: broker.memory.freed + broker.metrics.bytes_in + broker.metrics.bytes_out),
        ],
        plugins=plugins,
        observer=observer,
        bind=listener.bind,
        settle=lambda: deferLater(reactor, SETTLE),
        accept=listener.accept,
        **({} if worker is None else {"withdraw": worker.withdraw}),
    )
    return daemon


def _make_parts(
    reactor: Any, settings: Settings, problems: Iterable[str]
) -> tuple[list[Any], Broker, ServerCertificates | None]:
    """Return the dialects, the core and the certificates.

    Raises:
        SettingsError: with everything that can not be used.
    """
    tune_allocator()
    attempts = Attempts([*problems, *problems_of(settings)])
    dialects = attempts.make("PROTOCOLS", lambda: load_dialects(settings.protocols, settings))
    core = attempts.make("STORE", lambda: make_core(reactor, settings, attempts.problems))
    certificates = attempts.make("TLS_CERTIFICATE_FILE", lambda: make_certificates(settings))
    attempts.finish()
    broker, dialects = cast(Broker, core), cast(list[Any], dialects)
    names, compiled = [dialect.name for dialect in dialects], speedups(settings.speedups) is not None
    broker.about.facts.update(dialects=names, speedups=compiled)
    return dialects, broker, certificates


def _announce(
    settings: Settings,
    warnings: Iterable[str],
    dialects: Iterable[Any],
    ports: list[tuple[str, IListeningPort]],
    worker: Worker | None,
    broker: Broker,
) -> None:
    """Tell everybody who wants to know that the daemon runs, on *ports*."""
    if worker is None:
        for warning in warnings:
            log.warn("{warning}", warning=warning)
        announce_start(ports, dialects, settings, ready=not broker.ready())
    else:
        worker.announce()
    raise_file_limit(settings.max_connections)
    notify_systemd("READY=1")
    tune_garbage_collector()


def _plugins(reactor: Any, site: Site, broker: Broker, dialects: Iterable[Any]) -> Iterator[PluginLife]:
    """Let the metrics have what *dialects* count, and yield those that are to be started or stopped."""
    for dialect in dialects:
        extras = site.routes.extras[dialect.name]
        broker.metrics.begin(dialect.name)
        broker.metrics.add_own(dialect.name, extras.metrics)
        if hasattr(dialect, "start") or hasattr(dialect, "stop"):
            yield PluginLife(dialect.name, extras.start, extras.stop, broker.attach, reactor)


def make_core(reactor: Any, settings: Settings, problems: Iterable[str] = ()) -> Broker:
    """Return the core with the store, the bus and the credentials of *settings*, not yet started.

    Where there are *problems* already, it is not made, but what else is wrong is found.

    Raises:
        SettingsError: there is no such store or bus, or a file has wrong contents.
    """
    made = make_backends(reactor, settings, problems)
    store, metrics = made.store, made.metrics
    broker = Broker(settings, store, made.bus, reactor, made.access, metrics)
    for name, read in getattr(store, "gauges", dict)().items():  # each kind of store has its own
        metrics.gauge(name, read)
    if not store.shared:
        broker.about.facts["durability"] = settings.durability  # the description of a shared one says what it promises
    broker.about.private["hostname"] = socket.gethostname()
    return broker


def make_lag(reactor: Any, broker: Broker) -> ReactorLag:
    """Return what measures how late the reactor is; *broker* is not ready while that is too late."""
    lag = ReactorLag(reactor, broker.metrics.reactor_lag_seconds, StackWatch())
    broker.loop_problem = lag.reason
    broker.metrics.begin_port()
    broker.metrics.gauge("reactor_lag_max_seconds", lag.longest)
    return lag


def metrics_reader(metrics: Metrics) -> Callable[[], tuple[bytes, str]]:
    """Return a function that returns *metrics* as text, with its content type."""
    expositions: list[Any] = []

    def read() -> tuple[bytes, str]:
        if not expositions:
            # Imported by the first request: a start does without the time and memory.
            from broker.observe.exposition import Exposition

            expositions.append(Exposition(metrics))
        return expositions[0].text(), expositions[0].content_type

    return read


def make_site(
    reactor: Any, settings: Settings, broker: Broker, dialects: Iterable[Any], site_class: type[Site] = Site
) -> Any:
    """Return the public port's factory, one of *site_class*."""
    options = _link_options(settings)
    return site_class(
        dialects,
        broker.attach,
        reactor,
        WebSocketUpgrader(options, reactor, broker.metrics, broker.memory),
        broker.metrics,
        admission=Admission.of(settings, TrustedProxies(settings.trusted_proxies)),
        policy=BrowserPolicy(settings.allowed_origins, settings.judged_hosts, secured=settings.guarded),
        limits=Limits(body_bytes=settings.max_message_bytes + BODY_OVERHEAD),
        times=Times(idle=settings.keepalive_seconds or math.inf, body=settings.upload_stall_seconds or math.inf),
        ready=broker.obstacles,
        about=broker.about,
        memory=broker.memory,
        refusals=broker.parts.refusals,
        spread=settings.clustered,
    )


def _link_options(settings: Settings) -> WebSocketOptions:
    return WebSocketOptions(
        max_message_bytes=settings.max_message_bytes,
        send_queue_bytes=settings.send_queue_bytes,
        slow_grace=settings.slow_grace_seconds,
        ping_interval=settings.ping_seconds,
        pong_timeout=settings.pong_seconds,
        fast_path=settings.fast_path,
        speedups=settings.speedups,
        compression=settings.compression,
    )


def make_listener(reactor: Any, settings: Settings, outbox: Outbox, certificates: Any = None) -> Listener:
    """Return what listens on endpoints, those of TCP with *certificates* if there are some."""
    # Where no proxy is named, whoever can connect to a ``haproxy:`` endpoint is one.
    proxies = TrustedProxies(settings.trusted_proxies) if settings.trusted_proxies else None
    return Listener(reactor, outbox, certificates=certificates, proxies=proxies)


def make_admin(
    reactor: Any,
    settings: Settings,
    broker: Broker,
    site: Site,
    listener: Listener,
    reloads: Reloads | None,
    observer: ILogObserver | None,
    drain: Callable[[], object],
    worker: Worker | None = None,
) -> list[IService]:
    """Return what serves operators, not yet started; of a *worker*, its supervisor has the port."""
    history = make_history(broker)
    admin_site = make_admin_site(
        reactor,
        settings,
        broker,
        history,
        open_connections=site.open_connections,
        effective=None if reloads is None else lambda: reloads.settings,
        drain=drain,
        set_level=partial(setattr, observer, "level") if isinstance(observer, LogLines) else None,
    )
    if worker is not None:
        broker.about.facts.update(worker.facts)
        worker.use(cast(Any, site), admin_site, history, broker.about.details, broker.ready)
        return [history, worker]
    if reloads is not None:
        reloads.add(AdminSecretReload(settings, admin_site.replace_secret))
    port = AdminPort(admin_site, lambda at: listener.listen(at, admin_site), settings.admin_listen, listener.bind)
    return [history, port]


def make_history(broker: Broker) -> History:
    """Return what takes samples of *broker*, not yet started."""
    return History(broker.parts, Lags(broker.parts))


def make_admin_site(
    reactor: Any,
    settings: Settings,
    broker: Broker,
    history: History | None = None,
    *,
    open_connections: Callable[[], Iterable[Any]] = tuple,
    effective: Callable[[], Settings] | None = None,
    drain: Callable[[], object] | None = None,
    set_level: Callable[[str], object] | None = None,
) -> AdminSite:
    """Return the admin port's factory; the rest of the arguments are those of ``AdminApi``."""
    refresh = getattr(broker.store, "refresh", lambda: succeed(None))
    pages = AdminPages(metrics_reader(broker.metrics), broker.ready, broker.about.details, refresh)
    history = history or make_history(broker)
    api = AdminApi(broker, history, open_connections, effective or (lambda: settings), drain, set_level)
    return AdminSite(
        [pages, TokenPage(api.revoke), api, PageFiles()],
        broker.attach,
        reactor,
        WebSocketUpgrader(WebSocketOptions(), reactor, broker.metrics),
        broker.metrics,
        failures=broker.parts.failures,
        admission=Admission.of(settings, TrustedProxies()),
        memory=broker.memory,
        secret=settings.admin_secret,
        hosts=settings.allowed_hosts,
        ready=broker.ready,
        refusals=broker.parts.refusals,
    )


def _stop(reactor: Any, daemon: Daemon | Supervisor, at_once: bool) -> None:
    if at_once:
        daemon.stop_now()
    with suppress(ReactorNotRunning):  # a second signal while it stops
        reactor.stop()
        notify_systemd("STOPPING=1")
