"""Settings that do nothing beside the others, which only a warning can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from broker.config.addresses import is_local, is_over_tcp, is_redis, is_unix

Condition = Callable[[Any], bool]  # of ``Settings``


@attrs.frozen
class Need:
    """What some settings need of others, to have an effect.

    Attributes:
        names: of the settings, as attributes of ``Settings``.
        met: whether it is there.
        missing: what stands behind "has no effect: " when it is not; names the other settings.
    """

    names: tuple[str, ...]
    met: Condition
    missing: str


def _any_of(*names: str) -> tuple[Condition, str]:
    """Return the condition that one of *names* is set, and the words for that none is."""

    def met(settings: Any) -> bool:
        # What could not be read is told otherwise.
        return any(getattr(settings, name) or name in settings.faults for name in names)

    variables = [f"TXBROKER_{name.upper()}" for name in names]
    if len(variables) == 1:
        return met, f"{variables[0]} is not set"
    return met, f"none of {', '.join(variables[:-1])} and {variables[-1]} is set"


def _dialect(name: str) -> tuple[Condition, str]:
    """Return the condition that *name*, or a dialect that may use its settings, too, is spoken, and the words for not.

    A dialect of a plugin is given all settings.
    """

    def met(settings: Any) -> bool:
        built_in = attrs.fields(type(settings)).protocols.default
        return any(spoken == name or spoken not in built_in for spoken in settings.protocols)

    return met, f"TXBROKER_PROTOCOLS does not name {name}"


def _has_sqlite(settings: Any) -> bool:
    return bool(settings.store.startswith("sqlite:"))


def _judges_hosts(settings: Any) -> bool:
    return not settings.guarded or bool(settings.admin_listen and not settings.admin_secret)


def _is_exposed(settings: Any) -> bool:
    return not (settings.guarded or all(is_local(endpoint) for _, endpoint in settings.client_endpoints()))


NO_CREDENTIAL = "no credential is configured, such as TXBROKER_API_KEYS"
NO_ADMIN_PORT = "TXBROKER_ADMIN_LISTEN is none"
NO_SQLITE = "TXBROKER_STORE is no SQLite"

NEEDS = (
    Need(
        ("jwt_audience", "jwt_issuer", "jwt_leeway_seconds"), *_any_of("jwt_secret", "jwt_public_key_file", "jwks_file")
    ),
    Need(("auth",), lambda of: of.auth != "optional" or of.may_be_secured, NO_CREDENTIAL),
    Need(("auth_tries",), lambda of: of.may_be_secured, NO_CREDENTIAL),
    Need(
        ("auth_failures_per_minute",),
        lambda of: of.may_be_secured or bool(of.admin_secret) or "admin_secret" in of.faults,
        f"{NO_CREDENTIAL}, and no TXBROKER_ADMIN_SECRET",
    ),
    Need(
        ("api_secret_previous",),
        lambda of: of.api_secret != of.api_secret_previous,
        "TXBROKER_API_SECRET is the same word",
    ),
    Need(("token_seconds",), *_dialect("hpkv")),
    Need(
        ("insecure",),
        _is_exposed,
        "it is for endpoints of TXBROKER_LISTEN that other machines can reach, without a credential that is required",
    ),
    Need(
        ("allowed_hosts",),
        _judges_hosts,
        "TXBROKER_AUTH asks for a credential, which no page of another host has",
    ),
    Need(
        ("tls_certificate_file",),
        lambda of: any(is_over_tcp(endpoint) for _, endpoint in of.client_endpoints()),
        "TXBROKER_LISTEN has no endpoint of TCP without certificates of its own",
    ),
    Need(("admin_secret", "metrics_queues"), lambda of: bool(of.admin_listen), NO_ADMIN_PORT),
    Need(
        ("trusted_proxies",),
        lambda of: of.trusted_proxies != ("unix",) or any(is_unix(endpoint) for _, endpoint in of.client_endpoints()),
        "TXBROKER_LISTEN has no unix socket",
    ),
    Need(
        ("worker_timeout_seconds",),
        lambda of: of.process_count > 1 or "processes" in of.faults,
        "TXBROKER_PROCESSES is 1",
    ),
    Need(("durability", "min_free_bytes"), _has_sqlite, NO_SQLITE),
    Need(
        ("redis_prefix",),
        lambda of: is_redis(of.store) or is_redis(of.bus),
        "neither TXBROKER_STORE nor TXBROKER_BUS is a Redis",
    ),
    Need(("redis_wait_replicas",), lambda of: is_redis(of.store), "TXBROKER_STORE is no Redis"),
    Need(("redis_wait_ms",), *_any_of("redis_wait_replicas")),
    Need(("node_lease_seconds",), lambda of: is_redis(of.bus), "TXBROKER_BUS is no Redis, by which there are others"),
    Need(("poll_timeout_seconds", "error_delay_seconds"), *_dialect("ganomede")),
    Need(
        ("pong_seconds",),
        # Socket.IO clients are sent pings always.
        lambda of: bool(of.ping_seconds) or _dialect("microstream")[0](of),
        "TXBROKER_PING_SECONDS is 0",
    ),
    Need(("rate_burst",), *_any_of("rate")),
    Need(("owlmeans_default_subscriptions", "owlmeans_pass_stacks"), *_dialect("owlmeans")),
    Need(("microstream_idle_seconds",), *_dialect("microstream")),
    Need(("thinws_open_rooms",), *_dialect("thinws")),
)

# Limits of a part, and that of the whole, which holds before a greater one of the part is reached.
SHARES = (
    ("max_connections_per_address", "max_connections"),
    ("max_unadmitted", "max_connections"),
    ("max_unadmitted_per_address", "max_unadmitted"),
    ("max_calls_per_client", "max_calls"),
    ("max_pending_calls", "max_calls_per_client"),
    ("max_waiting_polls_per_client", "max_waiting_polls"),
    ("memory_per_address_bytes", "memory_limit_bytes"),
)


def without_effect(settings: Any) -> Iterator[str]:
    """Yield a sentence for each setting that was given and does nothing, with the setting that is why.

    One that is 0, ``none`` or ``false`` switches off what is off, and is passed by.
    """
    given = settings.sources
    for need in NEEDS:
        names = [given[name] for name in need.names if name in given and getattr(settings, name)]
        if names and not need.met(settings):
            yield from (f"{name} has no effect: {need.missing}" for name in names)
    for part, total in SHARES:
        limit = getattr(settings, total)
        if part in given and 0 < limit < getattr(settings, part):
            yield f"{given[part]} has no effect: TXBROKER_{total.upper()} is {limit}, which is less"
    yield from _powerless(settings)


def _powerless(settings: Any) -> Iterator[str]:
    """Yield that the credentials keep nobody out, if it is so."""
    if not settings.secured or settings.guarded or "auth" in settings.faults:
        return
    why = "TXBROKER_AUTH is none"
    if settings.auth == "optional":
        why = "TXBROKER_AUTH is optional, and without TXBROKER_PERMISSIONS_FILE who shows nothing may do everything"
    yield f"{settings.credentials} can keep nobody out: {why}"
