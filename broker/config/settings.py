"""The settings of a daemon, all of them by environment variables.

Each option is stated once, here: an attribute ``poll_timeout_seconds`` is the
variable ``TXBROKER_POLL_TIMEOUT_SECONDS``.
"""

from __future__ import annotations

import difflib
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from broker.config.addresses import is_local, is_redis, without_password
from broker.config.aliases import aliases
from broker.config.effects import without_effect
from broker.config.files import open_to_others, unreadable, unwritable
from broker.config.machine import memory_bytes, usable_cores
from broker.config.minimums import tight, too_small
from broker.config.options import (
    BYTES,
    BYTES_OR_NONE,
    COUNT,
    COUNT_OR_AUTO,
    ENDPOINTS,
    FLAG,
    NETWORKS,
    OUTPUT,
    PAIRS,
    PATH,
    PATHS,
    PATTERNS,
    PER_SECOND,
    RETENTION,
    SECONDS,
    TEXT,
    URL,
    WORDS,
    EnvironmentReader,
    Option,
    Retention,
    choice,
    option,
    options_of,
)
from broker.config.own import LISTEN, OwnReader, own_prefix
from broker.patterns import is_reserved

ENV_PREFIX = "TXBROKER_"
DAY = 86400.0  # seconds
MAX_WAIT_MS = 4000  # milliseconds: less than broker/redis/connection.py waits for any reply
# What PyJWT takes for a public or private key, which is no secret that an issuer and the broker could share.
NO_SHARED_SECRET = re.compile(r"-----BEGIN |\A(?:ssh|ecdsa)-")
MIN_SIGNING_SECRET = 32  # bytes of one that tokens are signed with, which is not warned about
MIN_SECRET = 16  # characters of a secret that is not warned about
PROTOCOLS = ("owlmeans", "ganomede", "thinws", "hpkv", "microstream", "http")
DEFAULT_PORT = 8000
MAX_PROCESSES = 256
FILE_CHECKS: Mapping[Any, Callable[[str], str]] = {PATH: unreadable, PATHS: unreadable, OUTPUT: unwritable}
# Of the commands for application developers, which may stand in the environment of a daemon, too.
CLIENT_NAMES = frozenset(
    f"TXBROKER_{name}"
    for name in ("URL", "CREDENTIAL", "CREDENTIAL_FILE", "CA_FILE", "METHOD", "QUEUE", "JOB_ID", "JOB_DELIVERY")
)
KEY_VARIABLE = "$KEY"  # stands for a credential in commands that are shown
CREDENTIALS = ("api_secret", "api_secret_previous", "api_keys", "jwt_secret", "jwt_public_key_file", "jwks_file")
DEFAULT_RETENTION = Retention(seconds=7 * 86400.0, count=1_000_000)

# A Kubernetes Service named "txbroker" puts such names into every pod beside it.
KUBERNETES_NAME = re.compile(r"TXBROKER_(SERVICE_(HOST|PORT(_.*)?)|PORT(_.*)?)")


class SettingsError(Exception):
    """The settings can not be used; ``problems`` has one sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@attrs.frozen(kw_only=True)
class Settings:
    """The effective settings of one daemon."""

    # Authentication

    api_secret: str = option(
        TEXT, "", "The secret that clients share; it names nobody, so that they share their ids, too.", secret=True
    )
    api_secret_previous: str = option(
        TEXT, "", "The previous secret, still accepted while clients change over.", secret=True
    )
    api_keys: Mapping[str, str] = option(
        PAIRS, {}, "Keys of named clients, each written ``name:key``; also the keys that get HPKV tokens.", secret=True
    )
    jwt_secret: str = option(TEXT, "", "The key that JSON web tokens are signed with (HS256).", secret=True)
    jwt_public_key_file: str = option(
        PATH,
        "",
        "A PEM file with the public key that JSON web tokens are verified by: RSA (RS256), Ed25519 (EdDSA), "
        "or EC of the curve P-256, P-384, P-521 or secp256k1 (ES256, ES384, ES512, ES256K).",
    )
    jwks_file: str = option(
        PATH, "", "A file with a JWK set of such public keys; a token says by its ``kid`` which it is signed with."
    )
    jwt_audience: str = option(TEXT, "", "The ``aud`` that a token must have.")
    jwt_issuer: str = option(TEXT, "", "The ``iss`` that a token must have.")
    jwt_leeway_seconds: float = option(
        SECONDS,
        60.0,
        "For how long clocks may differ: a token is good so much before its ``nbf`` and after its ``exp``.",
    )
    permissions_file: str = option(
        PATH,
        "",
        "A TOML file of what each principal or role may do; without it, an admitted client may do everything.",
    )
    auth: str = option(
        choice("none", "optional", "required"),
        lambda self: "required" if self.secured else "none",
        "Whether clients must show a credential.",
        shown="none without a credential, else required",
    )
    auth_deadline_seconds: float = option(
        SECONDS,
        30.0,
        "How long a client may stay without a credential it must show, or without asking for anything; 0: any time.",
    )
    auth_tries: int = option(COUNT, 5, "After so many wrong credentials a connection is closed.")
    auth_failures_per_minute: int = option(
        COUNT,
        30,
        "After so many wrong credentials from one address within a minute, none is looked at until it is over; "
        "0: any number. The addresses of an IPv6 /64 count as one.",
    )
    token_seconds: float = option(
        SECONDS, 7200.0, "How long an HPKV token is good, unless the credential that it is made with ends before."
    )
    insecure: tuple[str, ...] = option(
        WORDS, (), "The dialects that may be reached from other machines without a credential, named one by one."
    )
    allowed_origins: tuple[str, ...] = option(
        WORDS,
        (),
        "The origins, such as ``https://app.example``, whose pages may use the broker; ``*`` for all. "
        "Without it, pages of the host and port of the broker may: a page on the same host on another port is of "
        "another origin.",
    )
    allowed_hosts: tuple[str, ...] = option(
        WORDS,
        (),
        "What ``Host`` may name, besides ``localhost`` and loopback addresses, while no credential is required; "
        "``*`` for anything. Where other machines may connect, ``Host`` is judged only if this is given.",
    )

    # Listening

    listen: tuple[str, ...] = option(
        ENDPOINTS,
        lambda self: (f"tcp:{DEFAULT_PORT}",) if self.guarded else (f"tcp:{DEFAULT_PORT}:interface=127.0.0.1",),
        "Twisted endpoint strings, several separated by ``;``: ``tcp:``, ``tcp6:``, ``ssl:``, ``unix:``, ``systemd:``; "
        "``haproxy:`` before one of them for connections that begin with a header of the PROXY protocol.",
        shown=f"tcp:{DEFAULT_PORT}:interface=127.0.0.1 unless a credential is required, else tcp:{DEFAULT_PORT}",
    )
    tls_certificate_file: tuple[str, ...] = option(
        PATHS,
        (),
        "PEM files of certificates, each with the others of its chain behind it, such as ``fullchain.pem``: then all "
        "endpoints of TCP in ``TXBROKER_LISTEN`` are for TLS, 1.2 or later. Of several, a client gets that of the "
        "name it asks for, or else the first.",
    )
    tls_key_file: tuple[str, ...] = option(
        PATHS,
        lambda self: self.tls_certificate_file,
        "PEM files of their private keys, in the same order.",
        shown="the files of the certificates",
    )
    admin_listen: tuple[str, ...] = option(
        ENDPOINTS,
        ("tcp:8001:interface=127.0.0.1",),
        "Where ``/metrics`` is served, ``/about`` and ``/ready`` with names and addresses, and ``/admin/``; "
        "``none`` for nowhere. "
        "A ``unix:`` endpoint without a ``mode=`` is for the daemon's own user. "
        "Where other machines can connect, ``TXBROKER_ADMIN_SECRET`` is needed.",
    )
    admin_secret: str = option(
        TEXT,
        "",
        "The secret that the admin port asks for, as ``Authorization: Bearer …``, for everything but ``/health``.",
        secret=True,
    )
    trusted_proxies: tuple[str, ...] = option(
        NETWORKS,
        (),
        "Addresses of proxies, such as ``10.0.0.5`` or ``10.0.0.0/8``, that say by ``X-Forwarded-For`` or "
        "``Forwarded``, or by the PROXY protocol at a ``haproxy:`` endpoint, for whom they speak; ``unix`` for those "
        "that come over a unix socket.",
    )
    protocols: tuple[str, ...] = option(
        WORDS,
        PROTOCOLS,
        "The dialects: names of modules under ``protocols.``, or ``package.module:attribute``.",
    )
    node: str = option(
        TEXT,
        lambda _: _default_node_name(),
        "The name of this node, unique among those that share a store.",
        shown="the host name and a random suffix",
    )

    processes: int = option(
        COUNT_OR_AUTO,
        1,
        "How many worker processes share the ports, each on a core of its own; ``auto`` or 0: as many as there are "
        "cores that may be used. More than one needs a ``TXBROKER_STORE`` that they can share, which is Redis. "
        "Limits are for all of them together.",
    )
    worker_timeout_seconds: float = option(
        SECONDS,
        15.0,
        "With several processes: one whose event loop stands still for so long is replaced; 0: it is not.",
    )

    # Storage

    store: str = option(
        URL,
        "sqlite:",
        "``sqlite:`` and the path of a file, ``redis://…`` or ``memory:``. A path is looked for in "
        "``$STATE_DIRECTORY``, else in the working directory; without one it is ``txbroker.db``.",
    )
    bus: str = option(
        URL,
        lambda self: self.store if is_redis(self.store) else "local:",
        "What carries events between nodes: ``local:`` or ``redis://…``.",
        shown="the store's Redis when the store is Redis, else local:",
    )
    durability: str = option(
        choice("fsync", "os"),
        "fsync",
        "Whether an acknowledged write to SQLite is on the disk (``fsync``) or with the operating system (``os``).",
    )
    redis_prefix: str = option(TEXT, "txbroker:", "What all keys in Redis begin with.")
    redis_wait_replicas: int = option(
        COUNT, 0, "How many replicas of Redis must have a write before it is acknowledged; 0: none."
    )
    redis_wait_ms: int = option(
        COUNT, 1000, "Milliseconds that they have; then the write is refused, although it may have been done."
    )
    retention: Retention = option(
        RETENTION, DEFAULT_RETENTION, "The greatest age and number of the events of a channel; ``none``: any."
    )
    durable_topics: tuple[str, ...] = option(
        PATTERNS, (), "Topics whose events are stored whichever dialect they come from."
    )
    retained_topics: tuple[str, ...] = option(
        PATTERNS, (), "Topics whose last event is kept for whoever subscribes later, even when it is not stored."
    )
    dedup_seconds: float = option(
        SECONDS,
        300.0,
        "How long a topic knows the key of an event, or a work queue that of a job, which is not stored again "
        "meanwhile; 0: not at all.",
    )
    max_store_bytes: int = option(
        BYTES_OR_NONE,
        0,
        "How large the store may be before it refuses writes: the file with its write-ahead log, "
        "or the memory that the Redis server uses; ``none``: any size.",
    )
    min_free_bytes: int = option(
        BYTES_OR_NONE,
        64 << 20,
        "How much of the disk under a SQLite store stays free; with less it refuses writes. ``none``: any.",
    )

    # What clients create

    max_channels: int = option(COUNT, 100_000, "How many channels with events one principal may begin; 0: any number.")
    max_cursors: int = option(COUNT, 100_000, "How many cursors one principal may have; 0: any number.")
    cursor_seconds: float = option(
        SECONDS,
        # Else events that a client has acknowledged would come again.
        lambda self: max(30 * DAY, 2 * self.retention.seconds),
        "How long a cursor lives without being moved or read; 0: for ever.",
        shown="2592000 (30 days), or twice the age of TXBROKER_RETENTION if that is longer",
    )
    max_indices: int = option(COUNT, 1000, "How many indices one principal may have; 0: any number.")
    index_seconds: float = option(SECONDS, 30 * DAY, "How long an index lives without being read; 0: for ever.")
    max_memberships: int = option(
        COUNT, 100_000, "How many rooms one principal may have joined, under all its ids; 0: any number."
    )
    membership_seconds: float = option(
        SECONDS, 90 * DAY, "How long what a client has joined is kept while it is away; 0: for ever."
    )
    max_clients: int = option(COUNT, 100_000, "How many client ids of one principal have a mailbox; 0: any number.")
    client_seconds: float = option(SECONDS, 90 * DAY, "How long a client id that is away has a mailbox; 0: for ever.")
    max_ids: int = option(
        COUNT, 100_000, "How many ids that clients give themselves one principal may own; 0: any number."
    )
    max_queues: int = option(
        COUNT,
        100_000,
        "How many queues and mailboxes may hold messages of which one principal sent the first; 0: any number.",
    )
    max_mailbox: int = option(COUNT, 1000, "How many messages wait for one client.")
    mailbox_seconds: float = option(SECONDS, 7 * DAY, "How long a message waits; a job, too, and how long it is dead.")
    max_jobs: int = option(
        COUNT, 100_000, "How many jobs one work queue may have, without those that are dead; 0: any number."
    )
    max_keys: int = option(COUNT, 1_000_000, "How many keys one principal may have created; 0: any number.")

    # Timeouts

    lease_seconds: float = option(
        SECONDS, 30.0, "How long a worker has a job before it must be done, if the worker does not say."
    )
    max_deliveries: int = option(COUNT, 5, "After so many failures a job is dead; 0: after the first, too.")
    poll_timeout_seconds: float = option(SECONDS, 5.0, "How long a poll waits for an event.")
    error_delay_seconds: float = option(
        SECONDS, 1.0, "How long a failed long poll is held back, for clients that come again at once."
    )
    call_timeout_seconds: float = option(
        SECONDS, 60.0, "How long a call waits for its answer unless it says otherwise."
    )
    max_call_timeout_seconds: float = option(SECONDS, 3600.0, "The longest wait that a call may ask for.")
    late_window_seconds: float = option(
        SECONDS, 60.0, "For how long after its deadline a call is remembered, to know a late answer."
    )
    request_idle_seconds: float = option(SECONDS, 60.0, "How long a streamed request lives without an answer.")
    keepalive_seconds: float = option(
        SECONDS, 75.0, "How long an HTTP connection stays open without a request; 0: without limit."
    )
    upload_stall_seconds: float = option(
        SECONDS, 60.0, "How long the body of a request may stand still before it is refused with 408; 0: without limit."
    )
    takeover_probe_seconds: float = option(
        SECONDS, 1.0, "How long the holder of a name may stay silent when another asks for it."
    )
    node_lease_seconds: float = option(
        SECONDS,
        5.0,
        "With a shared store: for how long a node that is silent keeps its names; a call to it ends within 2 seconds "
        "of that. All nodes should have the same, 1 at least: less lets others take over sooner, more bears longer "
        "stalls.",
    )
    ping_seconds: float = option(SECONDS, 25.0, "The time between two pings to a silent client; 0: none.")
    pong_seconds: float = option(SECONDS, 20.0, "How long the answer to a ping may take.")
    slow_grace_seconds: float = option(
        SECONDS,
        5.0,
        "How long more than ``TXBROKER_SEND_QUEUE_BYTES`` may wait for a client before it is closed with 1013.",
    )
    drain_seconds: float = option(
        SECONDS,
        # Alone it has ended within two seconds, whatever a client leaves undone.
        lambda self: 10.0 if self.clustered else 1.5,
        "How long a stopping daemon waits for what is under way; with a shared store it closes its clients one by one "
        "in 80 % of that, so that they do not all come to the other nodes at once.",
        shown="1.5 alone, 10 with a shared store",
    )

    # Limits

    max_message_bytes: int = option(BYTES, 1 << 20, "The longest message or body that is accepted.")
    max_value_bytes: int = option(BYTES, 1 << 20, "The longest value of a key.")
    max_connections: int = option(COUNT, 10000, "How many clients may be connected; 0: any number.")
    max_connections_per_address: int = option(
        COUNT,
        1000,
        "How many of them from one IP address, or one /64 of IPv6; 0: any number. Connections from this machine "
        "and from trusted proxies are not limited by it.",
    )
    max_unadmitted: int = option(
        COUNT,
        1000,
        "How many connections may be of clients that are not admitted yet, since they have not made a whole request "
        "or have not shown a credential they must show; the oldest is dropped for the next. 0: any number.",
    )
    max_unadmitted_per_address: int = option(
        COUNT, 100, "How many of those from one address, counted as above; 0: any number."
    )
    max_subscriptions: int = option(COUNT, 1000, "How many topics and patterns one client may listen to.")
    max_registrations: int = option(COUNT, 1000, "How many procedures and services one client may offer.")
    max_pending_calls: int = option(COUNT, 10000, "How many calls of one connection may be unanswered.")
    max_calls: int = option(COUNT, 100_000, "How many calls may be unanswered in all.")
    max_calls_per_client: int = option(
        COUNT,
        lambda self: max(1, self.max_calls // 2),
        "How many of them may be of one client, whatever the number of its connections; "
        "those whom their credential does not name are one client by address.",
        shown="half of TXBROKER_MAX_CALLS",
    )
    max_waiting_polls: int = option(COUNT, 10000, "How many polls may wait at once.")
    max_waiting_polls_per_client: int = option(
        COUNT,
        lambda self: max(1, self.max_waiting_polls // 2),
        "How many of them may be of one client, as for ``TXBROKER_MAX_CALLS_PER_CLIENT``.",
        shown="half of TXBROKER_MAX_WAITING_POLLS",
    )
    send_queue_bytes: int = option(
        BYTES,
        1 << 20,
        "How much may wait for a client that does not read, for longer than ``TXBROKER_SLOW_GRACE_SECONDS``; "
        "when 16 times as much waits it is closed at once.",
    )
    resume_events: int = option(
        COUNT,
        10_000,
        "How many stored events a subscription may send at once to a client that comes back; the others follow as it "
        "reads.",
    )
    memory_limit_bytes: int = option(
        BYTES_OR_NONE,
        lambda _: memory_bytes() // 2,
        "How much clients may make the daemon hold: what they do not read, what they have sent in part, what waits for "
        "something. Above 80 % publishing, calling and writing are refused, above it the largest holders are closed; "
        "0: without limit in all.",
        shown="half of the memory of the cgroup or the machine",
    )
    memory_per_address_bytes: int = option(
        BYTES_OR_NONE,
        lambda self: _share_of_address(self.memory_limit_bytes, max(self.send_queue_bytes, self.max_message_bytes)),
        "How much of each kind of it the clients of one address may cause; then the largest of them are closed. "
        "Raise it where many come through one proxy; 0: without a limit of its own.",
        shown="12 times the greater of TXBROKER_SEND_QUEUE_BYTES and TXBROKER_MAX_MESSAGE_BYTES, "
        "or all of a limit that is less than 48 times as much",
    )
    rate: float = option(
        PER_SECOND,
        0.0,
        "How many requests and frames one client may send, whatever they say, and whatever the number of its "
        "connections; those whom their credential does not name are one client by address. 0: without limit.",
    )
    rate_burst: int = option(COUNT, 0, "How often at once, after a pause; 0: as often as in one second.")

    # Dialects

    owlmeans_default_subscriptions: tuple[str, ...] = option(
        PATTERNS, (), "Topics whose events every OwlMeans client receives without subscribing."
    )
    owlmeans_pass_stacks: bool = option(
        FLAG, False, "Whether the stack in an error of an OwlMeans client reaches the caller."
    )
    microstream_idle_seconds: float = option(
        SECONDS,
        15.0,
        "A MicroStream service that has sent heartbeats is removed when nothing was received from it for so long; "
        "0: only when it does not answer a ping, as the others.",
    )
    thinws_open_rooms: bool = option(FLAG, False, "Whether those outside a ThinWS room may send to it.")

    # Transport, logging and these settings

    settings_file: str = option(
        PATH,
        "",
        "A file of these variables, as ``EnvironmentFile=`` of systemd has them, which go before those of the "
        "environment. It is read again on SIGHUP, unlike the environment.",
    )

    fast_path: bool = option(FLAG, True, "Whether whole, uncompressed WebSocket frames are read by the fast path.")
    speedups: str = option(
        choice("auto", "off"),
        "auto",
        "``auto`` uses the compiled functions of the accelerator where it was built; ``off`` uses Python only.",
    )
    compression: bool = option(FLAG, False, "Whether permessage-deflate is offered; it costs 64 KiB a connection.")
    log_level: str = option(
        choice("debug", "info", "warn", "error", "critical", trace="debug", warning="warn", fatal="critical"),
        "info",
        "The least important lines that are logged.",
    )
    log_file: str = option(
        OUTPUT,
        "",
        "The file of the log, opened again on SIGUSR1 and SIGHUP; the option ``--logfile`` of twistd, too, names one. "
        "Without either it is standard output, or ``twistd.log`` in the background.",
    )
    log_format: str = option(
        choice("auto", "text", "json"), "auto", "``auto`` is text on a terminal and JSON elsewhere."
    )
    metrics_queues: tuple[str, ...] = option(
        WORDS,
        (),
        "The work queues that have metrics of their own, with their names as a label; all queues are counted together.",
    )

    # Not options: where they came from, what was wrong, and where files are

    sources: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    own: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  # of dialects, by their names
    warnings: tuple[str, ...] = attrs.field(default=(), repr=False)
    faults: frozenset[str] = attrs.field(default=frozenset(), repr=False)  # attributes whose text or file is wrong
    state_directory: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], own: Mapping[str, type] | None = None) -> Settings:
        """Return the settings of the environment *environ*.

        Args:
            environ: the environment.
            own: the classes of the settings that dialects have of their own, by the names of the dialects.

        Raises:
            SettingsError: with everything that is wrong, at once.
        """
        settings, problems = cls.read(environ, own)
        if problems:
            raise SettingsError(problems)
        return settings

    @classmethod
    def read(cls, environ: Mapping[str, str], own: Mapping[str, type] | None = None) -> tuple[Settings, list[str]]:
        """Return the settings as far as *environ* can be used, and a sentence for each thing that is wrong with it.

        What is wrong has its default, and is one of ``faults``.  The arguments are those of ``from_environ``.
        """
        notes: list[str] = []
        reader = EnvironmentReader(ENV_PREFIX, options_of(cls), environ, aliases(environ, notes))
        others = OwnReader(ENV_PREFIX, own or {}, environ, reader.known)
        notes += _unknown_names(environ, reader.known | others.known)
        notes += _open_secrets(environ)
        directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd may name several
        settings = cls(
            **reader.values,
            sources={**reader.sources, **others.sources},
            own=others.values,
            faults=frozenset(reader.faults | _unreadable_files(reader.values)),
            state_directory=directory,
        )._with_port_on_loopback()
        problems = reader.errors + others.errors + settings.problems()
        notes += [*settings.weaknesses(), *without_effect(settings), *tight(settings)]
        return attrs.evolve(settings, warnings=tuple(notes)), problems

    @property
    def secured(self) -> bool:
        """Whether any credential is configured."""
        return any(getattr(self, name) for name in CREDENTIALS)

    @property
    def may_be_secured(self) -> bool:
        """Whether any credential is configured, or was meant to be and can not be read, which is told already."""
        return self.secured or not self.faults.isdisjoint(CREDENTIALS)

    @property
    def clustered(self) -> bool:
        """Whether other nodes may be there for the clients of this one."""
        return is_redis(self.bus)

    @property
    def process_count(self) -> int:
        """How many processes share the ports."""
        return self.processes or usable_cores()

    @property
    def credentials(self) -> str:
        """The names of the settings by which a credential is configured."""
        return ", ".join(_variable(name) for name in CREDENTIALS if getattr(self, name)) or "TXBROKER_AUTH"

    @property
    def credential_variable(self) -> str:
        """The variable of a shell that stands for a credential in a command to try; "any" where none is configured."""
        if not self.secured:
            return "any"
        return "$TXBROKER_API_SECRET" if self.api_secret else KEY_VARIABLE

    @property
    def guarded(self) -> bool:
        """Whether a client without a credential is refused anything."""
        return self.secured and (self.auth == "required" or (self.auth == "optional" and bool(self.permissions_file)))

    @property
    def judged_hosts(self) -> tuple[str, ...] | None:
        """What ``Host`` may name besides this machine; None: anything."""
        if self.guarded or (self._exposed and not self.allowed_hosts):
            return None
        return self.allowed_hosts

    @property
    def _exposed(self) -> list[str]:
        return [endpoint for endpoint in self.listen if not is_local(endpoint)]

    @property
    def own_endpoints(self) -> dict[str, tuple[str, ...]]:
        """Where stream dialects listen, by their names."""
        return {name: own.listen for name, own in self.own.items() if hasattr(own, LISTEN)}

    def client_endpoints(self) -> Iterator[tuple[str, str]]:
        """Yield each endpoint that clients come to, behind the name of the variable that has it."""
        for endpoint in self.listen:
            yield "TXBROKER_LISTEN", endpoint
        for name, endpoints in self.own_endpoints.items():
            for endpoint in endpoints:
                yield f"{own_prefix(ENV_PREFIX, name)}{LISTEN.upper()}", endpoint

    def all_endpoints(self) -> Iterator[tuple[str, str]]:
        """Yield each endpoint, those of operators last, behind the name of the variable that has it."""
        yield from self.client_endpoints()
        for endpoint in self.admin_listen:
            yield "TXBROKER_ADMIN_LISTEN", endpoint

    def problems(self) -> list[str]:
        """Return a sentence for each option that does not go together with the others."""
        found = []
        # A credential that can not be read is one, and that it can not be is told already.
        unknown = not self.faults.isdisjoint(CREDENTIALS)
        if self.auth == "required" and not self.may_be_secured:
            found.append(
                "TXBROKER_AUTH is required, but no client could be admitted: "
                "set TXBROKER_API_SECRET, _API_KEYS or _JWT_SECRET"
            )
        if {self.api_secret, self.api_secret_previous} & set(self.api_keys.values()):
            found.append("TXBROKER_API_KEYS: a key is the same word as the shared secret; whom it names is not clear")
        shared = {self.api_secret, self.api_secret_previous, *self.api_keys.values()}
        if self.admin_secret and self.admin_secret in shared:
            found.append("TXBROKER_ADMIN_SECRET: clients have the same word; let it be one that operators alone know")
        if NO_SHARED_SECRET.search(self.jwt_secret):
            found.append(
                "TXBROKER_JWT_SECRET: that is a key or a certificate of public-key cryptography, by which HS256 signs "
                "nothing: set TXBROKER_JWT_PUBLIC_KEY_FILE to the file of the public key"
            )
        if self.jwt_secret and self.jwt_secret in shared:
            found.append("TXBROKER_JWT_SECRET: clients have the same word, by which they could sign tokens of anybody")
        if not self.listen:
            found.append("TXBROKER_LISTEN names nothing to listen on")
        if self.node_lease_seconds < 1:
            found.append("TXBROKER_NODE_LEASE_SECONDS: expected 1 at least: a slow node would lose its names")
        if not 0 < self.redis_wait_ms <= MAX_WAIT_MS:
            found.append(f"TXBROKER_REDIS_WAIT_MS: expected 1 to {MAX_WAIT_MS}: Redis is given up when it is silent")
        if is_redis(self.bus) and not is_redis(self.store):
            found.append("TXBROKER_BUS: nodes that share a bus must share a store: set TXBROKER_STORE=redis://… too")
        found += [*self._unshared(), *too_small(self)]
        exposed = self._exposed
        open_to_all = [name for name in self.protocols if name not in self.insecure]
        if exposed and open_to_all and not self.guarded and not unknown:
            remedy = "TXBROKER_AUTH=required" if self.secured else "TXBROKER_API_SECRET"
            found.append(
                f"TXBROKER_LISTEN: {exposed[0]} can be reached from other machines, unlike "
                f"tcp:8000:interface=127.0.0.1, and no credential is required: "
                f"set {remedy}, or TXBROKER_INSECURE={','.join(self.protocols)} if that is meant"
            )
        found += self._exposed_streams()
        for endpoint in self.admin_listen:
            if not self.admin_secret and not is_local(endpoint) and "admin_secret" not in self.faults:
                found.append(
                    f"TXBROKER_ADMIN_LISTEN: {endpoint} can be reached from other machines, and no secret is "
                    "asked for: set TXBROKER_ADMIN_SECRET, or listen on interface=127.0.0.1"
                )
        for name, known, value in self._all():
            if name == "TXBROKER_TLS_KEY_FILE" != self.key_variable:
                continue  # these are the files of the certificates
            check = FILE_CHECKS.get(known.kind)
            paths = value if known.kind is PATHS else (value,)
            found += [f"{name}: {reason}" for reason in dict.fromkeys(map(check, paths) if check else ()) if reason]
        return found + self._contradictions()

    def _unshared(self) -> list[str]:
        """Return why several processes can not do the work of one."""
        number = self.process_count
        if number == 1 or "processes" in self.faults:
            return []
        if number > MAX_PROCESSES:
            return [f"TXBROKER_PROCESSES: expected at most {MAX_PROCESSES}"]
        where = f"TXBROKER_PROCESSES: {number} processes"
        if not is_redis(self.store):
            kind = self.store.partition(":")[0]
            return [
                f"{where} need a store that they can share, and {kind}: is one process's own: what is written, its "
                "order and who waits for it are known in that process only. Set TXBROKER_STORE=redis://…, or "
                "TXBROKER_PROCESSES=1"
            ]
        if not is_redis(self.bus):
            return [f"{where} need a bus between them: leave out TXBROKER_BUS, or let it be redis://…"]
        return []

    def _exposed_streams(self) -> list[str]:
        """Return a sentence for each endpoint of a stream dialect by which anybody could do anything."""
        if self.guarded:
            return []
        remedy = "TXBROKER_AUTH=required" if self.secured else "TXBROKER_API_SECRET"
        return [
            f"{own_prefix(ENV_PREFIX, name)}{LISTEN.upper()}: {endpoint} can be reached from other machines, and no "
            f"credential is required: set {remedy}, or TXBROKER_INSECURE={name} if that is meant"
            for name, endpoints in self.own_endpoints.items()
            if name not in self.insecure
            for endpoint in endpoints
            if not is_local(endpoint)
        ]

    def _contradictions(self) -> list[str]:
        """Return a sentence for each two options that can not hold together."""
        found = []
        if self.unpaired_keys:
            found.append(self.unpaired_keys)
        if self.ping_seconds and not self.pong_seconds:
            found.append("TXBROKER_PONG_SECONDS: expected more than 0: no client could answer a ping in time")
        if "call_timeout_seconds" in self.sources and self.call_timeout_seconds > self.max_call_timeout_seconds:
            found.append(
                "TXBROKER_CALL_TIMEOUT_SECONDS: expected at most TXBROKER_MAX_CALL_TIMEOUT_SECONDS, "
                f"which is {self.max_call_timeout_seconds:g}"
            )
        return found

    @property
    def key_variable(self) -> str:
        """The variable that names the files of private keys."""
        return _variable("tls_certificate_file" if self.tls_key_file == self.tls_certificate_file else "tls_key_file")

    @property
    def unpaired_keys(self) -> str:
        """A sentence when there is not one private key for each certificate, else ""."""
        number = len(self.tls_certificate_file)
        if len(self.tls_key_file) == number:
            return ""
        return (
            "TXBROKER_TLS_KEY_FILE: expected one for each certificate of TXBROKER_TLS_CERTIFICATE_FILE, "
            f"which names {number}"
        )

    def weaknesses(self) -> list[str]:
        """Return a sentence for each credential that is easily guessed or mistaken."""
        words = {
            "API_SECRET": self.api_secret,
            "API_SECRET_PREVIOUS": self.api_secret_previous,
            "ADMIN_SECRET": self.admin_secret,
            "JWT_SECRET": self.jwt_secret,
            **{f"API_KEYS: the key of {name!r}": key for name, key in self.api_keys.items()},
        }
        found = self._unused_cores()
        found += [
            f"{ENV_PREFIX}{name} has fewer than {MIN_SECRET} characters and could be guessed"
            for name, word in words.items()
            if 0 < len(word) < MIN_SECRET
        ]
        if MIN_SECRET <= len(self.jwt_secret.encode("utf-8", "surrogatepass")) < MIN_SIGNING_SECRET:
            found.append(
                f"{ENV_PREFIX}JWT_SECRET has fewer than {MIN_SIGNING_SECRET} bytes, the least for HS256 (RFC 7518, 3.2)"
            )
        found += [
            f"{ENV_PREFIX}{name} has characters other than those of ASCII that are printed: clients can not show it in "
            "a header field"
            for name, word in words.items()
            if name != "JWT_SECRET" and not (word.isascii() and word.isprintable())
        ]
        found += [f"{self.key_variable}: {note}" for note in map(open_to_others, self.tls_key_file) if note]
        found += [
            f"{ENV_PREFIX}API_KEYS: {name!r} is a reserved name; the client id of the key is key:{name}"
            for name in self.api_keys
            if is_reserved(name)
        ]
        if not self.trusted_proxies:
            found += [
                f"{name}: {endpoint} believes whoever can connect, whatever address it says: name the proxies "
                "in TXBROKER_TRUSTED_PROXIES"
                for name, endpoint in self.client_endpoints()
                if endpoint.startswith("haproxy:") and not is_local(endpoint)
            ]
        return found

    def _unused_cores(self) -> list[str]:
        """Return that there are more processes than can run at once, if there are."""
        cores = usable_cores()
        if self.process_count <= max(cores, 1):
            return []
        return [f"TXBROKER_PROCESSES: {self.process_count} processes share {cores} usable cores: let it be auto"]

    def describe(self) -> list[tuple[str, str, str]]:
        """Return name, value and source of each option, secrets masked."""
        rows = []
        for name, known, value in self._all():
            text = known.kind.write(value)
            if known.secret:
                text = "***" if value else ""
            elif "://" in text:
                text = without_password(text)
            rows.append((name, text, self.sources.get(name.removeprefix(ENV_PREFIX).lower(), "default")))
        return rows

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that dialects have of their own, which no log must show."""
        return tuple(value for _, known, value in self._all_own() if known.secret and isinstance(value, str))

    def _all(self) -> Iterator[tuple[str, Option, Any]]:
        """Yield the variable, the option and the value of every setting."""
        for attribute, known in options_of(type(self)).items():
            yield ENV_PREFIX + attribute.upper(), known, getattr(self, attribute)
        yield from self._all_own()

    def _all_own(self) -> Iterator[tuple[str, Option, Any]]:
        for name, own in self.own.items():
            for attribute, known in options_of(type(own)).items():
                yield own_prefix(ENV_PREFIX, name) + attribute.upper(), known, getattr(own, attribute)

    def _with_port_on_loopback(self) -> Settings:
        """Return the settings in which ``PORT`` alone means loopback, unless a credential is required."""
        if self.sources.get("listen") != "PORT" or self.guarded:
            return self
        return attrs.evolve(self, listen=tuple(f"{endpoint}:interface=127.0.0.1" for endpoint in self.listen))


def _variable(attribute: str) -> str:
    return ENV_PREFIX + attribute.upper()


def _open_secrets(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each file with a secret that other users of the machine can read or change."""
    names = [f"{_variable(name)}_FILE" for name, known in options_of(Settings).items() if known.secret]
    return [f"{name}: {note}" for name in names if (note := open_to_others(environ.get(name, "")))]


def _unreadable_files(values: Mapping[str, Any]) -> set[str]:
    return {
        name for name, known in options_of(Settings).items() if known.kind is PATH and unreadable(values.get(name, ""))
    }


def protocols_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the dialects in the environment, for those who have to know them before the rest is read."""
    text = environ.get(f"{ENV_PREFIX}PROTOCOLS", "").strip()
    return WORDS.parse(text) if text else PROTOCOLS


def _default_node_name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0]) or "node"
    return f"{host}-{secrets.token_hex(3)}"


def _share_of_address(limit: int, message: int) -> int:
    """Return what one address may have of *limit*, where a message or a send queue may have *message* bytes."""
    return limit if 0 < limit < 48 * message else 12 * message


def _unknown_names(environ: Mapping[str, str], known: set[str]) -> list[str]:
    notes = []
    words = [name.removeprefix(ENV_PREFIX) for name in known]
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in known or name in CLIENT_NAMES:
            continue
        if KUBERNETES_NAME.fullmatch(name):
            continue
        near = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), words, n=1)
        notes.append(f"{name} is not a setting" + (f"; did you mean {ENV_PREFIX}{near[0]}?" if near else ""))
    return notes
