"""Makes the supervisor of several workers, with the port for operators."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import attrs
from twisted.application.reactors import getReactorTypes
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from broker.access.principals import make_access
from broker.app.certificates import CertificateReload, make_certificates
from broker.app.daemon import bind_endpoints
from broker.app.greeting import announce_start
from broker.app.log_output import LogOutput
from broker.app.process import StartError, raise_file_limit, tune_allocator, tune_garbage_collector
from broker.app.reload import Reloads
from broker.app.reloadables import AccessReload
from broker.app.systemd import notify_systemd
from broker.app.verification import Verified, verify
from broker.app.workers.operators import OperatorPort
from broker.app.workers.plan import inherited_sockets
from broker.app.workers.process import FIRST_FREE, WorkerCommand
from broker.app.workers.supervisor import Supervisor
from broker.config.own import LISTEN, own_prefix
from broker.config.settings import ENV_PREFIX, Settings, SettingsError
from broker.core.clocks import wall_clock_of
from broker.web.net.endpoints import inherited_descriptor
from broker.web.net.listening import Listener
from broker.web.net.sharing import SharedCounts
from broker.web.net.socket_file import file_identity, remove_own
from broker.web.net.transport import Outbox, ReactorLoop

log = Logger()

OTHERS = 100  # connections of operators


@attrs.frozen
class BoundPort:
    """A socket that the workers listen on, for whoever wants to know where that is."""

    address: IAddress

    def getHost(self) -> IAddress:
        """See ``IListeningPort``."""
        return self.address


class SharedSockets:
    """The sockets of all ports of clients, and how workers are started with them.

    Args:
        listener: binds them.
        settings: say where.
        command: for workers that have no sockets yet.

    Attributes:
        ports: behind their endpoint strings.
    """

    def __init__(self, listener: Listener, settings: Settings, command: WorkerCommand) -> None:
        self._listener, self._settings, self._command = listener, settings, command
        self._files: list[tuple[str, tuple[int, int]]] = []
        self.ports: list[tuple[str, Any]] = []

    def bind(self) -> WorkerCommand:
        """Bind them all; return how workers are started.

        Raises:
            StartError: one can not be bound.
        """
        settings, bound = self._settings, self._listener.bound
        self._bind("TXBROKER_LISTEN", settings.listen)
        for name in settings.protocols:
            endpoints = settings.own_endpoints.get(name, ())
            bind_endpoints(f"{own_prefix(ENV_PREFIX, name)}{LISTEN.upper()}", endpoints, self._listener.bind)
        for (path, port), made in bound.all():
            identity = file_identity(path) if made.family == socket.AF_UNIX and not port else None
            if identity is not None:
                self._files.append((path, identity))
        return attrs.evolve(self._command, sockets=bound.all())

    def _bind(self, setting: str, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            before = [made for _, made in self._listener.bound.all()]
            bind_endpoints(setting, [endpoint], self._listener.bind)
            new = [made for _, made in self._listener.bound.all() if made not in before]
            descriptor = new[0].fileno() if new else inherited_descriptor(endpoint)
            if descriptor is None:
                raise StartError(f"{setting}: {endpoint} can not be shared")
            self.ports.append((endpoint, BoundPort(address_of(descriptor))))

    def close(self) -> None:
        """Close them; remove the files of unix sockets."""
        for _, made in self._listener.bound.all():
            made.close()
        for path, identity in self._files:
            remove_own(path, identity)


def address_of(descriptor: int) -> IAddress:
    """Return where the socket *descriptor* is bound."""
    with socket.socket(fileno=os.dup(descriptor)) as made:
        name = made.getsockname()
        if made.family == socket.AF_UNIX:
            return UNIXAddress(name)
        return (IPv6Address if made.family == socket.AF_INET6 else IPv4Address)("TCP", *name[:2])


def make_supervisor(
    reactor: Any,
    settings: Settings,
    reloads: Reloads,
    output: LogOutput | None,
    parent: Mapping[str, Any],
    problems: Iterable[str],
    give_up: Callable[[int], object],
) -> Supervisor:
    """Return the supervisor, not yet started.

    Args:
        reactor: the reactor.
        settings: of the daemon.
        reloads: to which is added what can be reloaded here.
        output: of the log; None: twistd writes it.
        parent: the options of twistd.
        problems: what is known to be wrong already.
        give_up: ends the process with a status.

    Raises:
        SettingsError: with everything that can not be used.
    """
    verified = verify(reactor, settings, problems)
    if parent.get("chroot"):
        verified.problems.append("TXBROKER_PROCESSES: workers can not be started within --chroot")
    if verified.problems:
        raise SettingsError(verified.problems)
    tune_allocator()
    outbox = Outbox(reactor)
    ReactorLoop(reactor, outbox).install()
    counts = SharedCounts.make(settings.process_count)
    inherited = [os.dup(FIRST_FREE + index) for index in range(inherited_sockets(os.environ))]
    options = twistd_options(reactor, parent, output)
    command = WorkerCommand(
        options,
        dict(os.environ),
        settings.node,
        list(sys.path),
        settings.process_count,
        counts.descriptor,
        (),
        inherited,
    )
    sockets = SharedSockets(Listener(reactor, outbox), settings, command)
    supervisor = Supervisor(
        reactor,
        settings.process_count,
        counts,
        sockets.bind,
        sockets.close,
        announce=lambda: announce(settings, verified, sockets.ports),
        give_up=give_up,
        drain_seconds=settings.drain_seconds,
        timeout=settings.worker_timeout_seconds,
        observer=None if output is None else output.lines,
    )
    OperatorPort(reactor, settings, reloads, outbox, output).add_to(supervisor, wall_clock_of(reactor).time())
    add_checks(reloads, settings)
    return supervisor


def add_checks(reloads: Reloads, settings: Settings) -> None:
    """Let a reload fail here if it would fail in the workers, and then not be begun there."""
    reloads.add(AccessReload(settings, make_access(settings), lambda: 0))
    listener = attrs.make_class("Certificates", ["certificates"])
    certificates = make_certificates(settings)
    reloads.add(CertificateReload(certificates, (listener([certificates] if certificates else []),)))


def announce(settings: Settings, verified: Verified, ports: list[tuple[str, Any]]) -> None:
    """Tell everybody who wants to know that the workers serve clients, on *ports*."""
    for warning in verified.warnings:
        log.warn("{warning}", warning=warning)
    announce_start(ports, verified.dialects, settings)
    log.info("{workers} workers share the ports", workers=settings.process_count)
    raise_file_limit(OTHERS)
    notify_systemd("READY=1")
    tune_garbage_collector()


def twistd_options(reactor: Any, parent: Mapping[str, Any], output: LogOutput | None) -> list[str]:
    """Return the options of twistd for a worker: no daemon of its own, the same reactor, and the same log."""
    options = ["-n", "--pidfile="]
    for kind in cast(Iterable[Any], getReactorTypes()):
        if kind.moduleName == type(reactor).__module__:
            options.append(f"--reactor={kind.shortName}")
            break
    if output is not None:
        options.append(f"--logfile={output.file.path or output.name}")
    else:
        options += ["--syslog"] if parent.get("syslog") else []
        options += [f"--{name}={parent[name]}" for name in ("prefix", "facility", "logger") if parent.get(name)]
    return [*options, "broker"]
