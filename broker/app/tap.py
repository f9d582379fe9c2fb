"""``twistd broker``: makes the parts of the daemon and joins them; nothing else imports so much."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn, TextIO, cast

from twisted.application.service import IService
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python import usage
from twisted.python.logfile import LogFile

from broker import __version__
from broker.access.addresses import TrustedProxies
from broker.access.admission import Admission
from broker.access.browsers import BrowserPolicy
from broker.access.principals import make_access
from broker.app.certificates import make_certificates
from broker.app.checks import Attempts, problems_of
from broker.app.daemon import Daemon
from broker.app.dialects import DialectError, found_dialects, load_dialects, own_settings
from broker.app.greeting import announce_start
from broker.app.plugins import PluginLife
from broker.app.process import (
    catch_signals,
    explain_start_errors,
    notify_systemd,
    raise_file_limit,
    tune_allocator,
    tune_garbage_collector,
)
from broker.app.store import make_store
from broker.app.trimmer import MemoryTrimmer
from broker.buses import open_bus
from broker.config.own import described
from broker.config.settings import ENV_PREFIX, Settings, SettingsError, protocols_of
from broker.core.clocks import use_monotonic_time
from broker.core.service import Broker
from broker.errors import BrokerError
from broker.interfaces import IBus, IStore
from broker.observe.admin.pages import AdminPages
from broker.observe.admin.port import AdminPort
from broker.observe.admin.site import AdminSite
from broker.observe.admin.tokens import TokenPage
from broker.observe.logs import LogLines, Redaction
from broker.observe.metrics import Metrics
from broker.web.http.parser import Limits
from broker.web.http.timeouts import Times
from broker.web.net.listening import Listener
from broker.web.net.transport import Outbox, ReactorLoop
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader

log = Logger()

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

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"txbroker {__version__}")
        raise SystemExit(0)


def makeService(options: usage.Options) -> IService:
    """Return the daemon that the environment describes; exit with status 2 if it can not be made."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    explain_start_errors()
    try:
        settings = Settings.from_environ(os.environ, own_settings(protocols_of(os.environ)))
        parent: Any = options.parent or {}
        daemon = make_daemon(
            reactor,
            settings,
            observer=_log_observer(parent, settings, reactor),
            changes_user=any(parent.get(name) is not None for name in ("uid", "gid")),
        )
    except SettingsError as error:
        _exit_with(error.problems)
    except (DialectError, BrokerError, ValueError) as error:
        _exit_with([str(error)])
    reactor.callWhenRunning(catch_signals, reactor, lambda at_once: _stop(reactor, daemon, at_once))
    return daemon


def make_daemon(
    reactor: Any, settings: Settings, observer: ILogObserver | None = None, *, changes_user: bool = False
) -> Daemon:
    """Return the daemon that *settings* describe, not yet started.

    Args:
        reactor: the reactor.
        settings: the settings.
        observer: see ``Daemon``.
        changes_user: whether the process becomes another user before it starts.

    Raises:
        SettingsError: with everything that can not be used.
        ValueError: two dialects claim the same path.
    """
    tune_allocator()
    attempts = Attempts(problems_of(settings))
    loaded = attempts.make("PROTOCOLS", lambda: load_dialects(settings.protocols, settings))
    core = attempts.make("STORE", lambda: make_core(reactor, settings))
    certificates = attempts.make("TLS_CERTIFICATE_FILE", lambda: make_certificates(settings))
    attempts.finish()
    dialects, broker = cast(list[Any], loaded), cast(Broker, core)
    broker.about.facts["dialects"] = [dialect.name for dialect in dialects]
    site = make_site(reactor, settings, broker, dialects)
    plugins = []
    for dialect in dialects:
        extras = site.routes.extras[dialect.name]
        broker.metrics.begin(dialect.name)
        broker.metrics.add_own(dialect.name, extras.metrics)
        if hasattr(dialect, "start") or hasattr(dialect, "stop"):
            plugins.append(PluginLife(dialect.name, extras.start, extras.stop, broker.attach, reactor))
    admin_site = make_admin_site(reactor, settings, broker)
    outbox = Outbox(reactor, broker.memory.send_queue)
    ReactorLoop(reactor, outbox).install()
    listener = make_listener(reactor, settings, outbox, certificates)
    admin_listener = make_listener(reactor, settings, outbox)

    def running(ports: list[tuple[str, IListeningPort]]) -> None:
        for warning in settings.warnings:
            log.warn("{warning}", warning=warning)
        announce_start(ports, dialects, tls=certificates is not None)
        raise_file_limit(settings.max_connections)
        notify_systemd("READY=1")
        tune_garbage_collector()

    return Daemon(
        broker,
        site,
        lambda endpoint: listener.listen(endpoint, site),
        settings.listen,
        drain_seconds=settings.drain_seconds,
        announce=lambda ports: reactor.callWhenRunning(running, ports),
        others=[
            AdminPort(admin_site, lambda endpoint: admin_listener.listen(endpoint, admin_site), settings.admin_listen),
            MemoryTrimmer(lambda: broker.memory.freed + broker.metrics.bytes_in + broker.metrics.bytes_out),
        ],
        plugins=plugins,
        observer=observer,
        **({"bind": listener.bind} if changes_user else {}),
    )


def make_core(reactor: Any, settings: Settings) -> Broker:
    """Return the core with the store, the bus and the credentials of *settings*, not yet started.

    Raises:
        SettingsError: there is no such store or bus, or a file has wrong contents.
    """
    attempts, metrics = Attempts(), Metrics()
    access = attempts.make("PERMISSIONS_FILE", lambda: make_access(settings))
    made = attempts.make("STORE", lambda: _make_store(reactor, settings, metrics))
    bus = None
    if made is not None or settings.bus != settings.store:  # else the same is wrong with it
        bus = attempts.make("BUS", lambda: _make_bus(reactor, settings))
    attempts.finish()
    store, bus = cast(IStore, made), cast(IBus, bus)
    broker = Broker(settings, store, bus, reactor, access, metrics)
    if not store.shared:
        broker.about.facts["durability"] = settings.durability  # the description of a shared one says what it promises
    broker.about.private["hostname"] = socket.gethostname()
    return broker


def _make_store(reactor: Any, settings: Settings, metrics: Metrics) -> IStore:
    return make_store(
        reactor,
        settings,
        announce=settings.bus == settings.store,
        observe=metrics.committed,
        failed=metrics.store_failed,
        checkpoint_failed=metrics.checkpoint_failed,
    )


def _make_bus(reactor: Any, settings: Settings) -> IBus:
    return open_bus(
        settings.bus,
        settings.node,
        reactor=reactor,
        prefix=settings.redis_prefix,
        lease=settings.node_lease_seconds,
    )


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


def make_site(reactor: Any, settings: Settings, broker: Broker, dialects: Iterable[Any]) -> Site:
    """Return the public port's factory."""
    options = WebSocketOptions(
        max_message_bytes=settings.max_message_bytes,
        send_queue_bytes=settings.send_queue_bytes,
        slow_grace=settings.slow_grace_seconds,
        ping_interval=settings.ping_seconds,
        pong_timeout=settings.pong_seconds,
        fast_path=settings.fast_path,
        compression=settings.compression,
    )
    return Site(
        dialects,
        broker.attach,
        reactor,
        WebSocketUpgrader(options, reactor, broker.metrics, broker.memory),
        broker.metrics,
        admission=Admission(
            settings.max_connections,
            settings.max_connections_per_address,
            settings.max_unadmitted,
            settings.max_unadmitted_per_address,
            settings.auth_deadline_seconds,
            TrustedProxies(settings.trusted_proxies),
        ),
        policy=BrowserPolicy(settings.allowed_origins, settings.judged_hosts, secured=settings.guarded),
        limits=Limits(body_bytes=settings.max_message_bytes + BODY_OVERHEAD),
        times=Times(idle=settings.keepalive_seconds or math.inf, body=settings.upload_stall_seconds or math.inf),
        ready=broker.obstacles,
        about=broker.about,
        memory=broker.memory,
        spread=settings.clustered,
    )


def make_listener(reactor: Any, settings: Settings, outbox: Outbox, certificates: Any = None) -> Listener:
    """Return what listens on endpoints, those of TCP with *certificates* if there are some."""
    # Where no proxy is named, whoever can connect to a ``haproxy:`` endpoint is one.
    proxies = TrustedProxies(settings.trusted_proxies) if settings.trusted_proxies else None
    return Listener(reactor, outbox, certificates=certificates, proxies=proxies)


def make_admin_site(reactor: Any, settings: Settings, broker: Broker) -> AdminSite:
    """Return the admin port's factory."""
    pages = AdminPages(metrics_reader(broker.metrics), broker.ready, broker.about.details)
    return AdminSite(
        [pages, TokenPage()],
        broker.attach,
        reactor,
        WebSocketUpgrader(WebSocketOptions(), reactor, broker.metrics),
        broker.metrics,
        failures=broker.parts.failures,
        secret=settings.admin_secret,
        hosts=settings.allowed_hosts,
        ready=broker.ready,
    )


def _log_observer(parent: Any, settings: Settings, reactor: Any) -> ILogObserver | None:
    """Return the observer of the log, or None when twistd's options name another."""
    if parent.get("logger") or parent.get("syslog"):
        return None
    stream = _log_stream(parent, reactor)
    form = settings.log_format
    if form == "auto":
        form = "text" if stream is sys.stdout and stream.isatty() else "json"
    credentials = (
        settings.api_secret,
        settings.api_secret_previous,
        settings.admin_secret,
        settings.jwt_secret,
        *settings.api_keys.values(),
        *settings.secrets,
    )
    observer = LogLines(stream, settings.log_level, form, settings.node, Redaction(credentials))
    if "fileLogObserverFactory" in parent:  # python -m twisted
        parent["fileLogObserverFactory"] = lambda _: observer
        parent["logLevel"] = LogLevel.debug
    return observer


def _log_stream(parent: Any, reactor: Any) -> TextIO:
    """Return the file of the log that twistd's options name."""
    if "logFile" in parent:  # python -m twisted
        return cast(TextIO, parent["logFile"])
    name = parent.get("logfile") or ("-" if parent.get("nodaemon") else "twistd.log")
    if name == "-":
        return sys.stdout
    file = LogFile.fromFullPath(name)
    # As twistd does with a log of its own.
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return cast(TextIO, file)


def _stop(reactor: Any, daemon: Daemon, at_once: bool) -> None:
    if at_once:
        daemon.stop_now()
    with suppress(ReactorNotRunning):  # a second signal while it stops
        reactor.stop()
        notify_systemd("STOPPING=1")


def _exit_with(problems: list[str]) -> NoReturn:
    print("txbroker can not start:", *(f"  {problem}" for problem in problems), sep="\n", file=sys.stderr)
    raise SystemExit(2)
