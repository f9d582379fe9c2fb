"""A setting that does nothing beside the others is warned of, by both names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.config.effects import NEEDS, SHARES
from broker.config.options import options_of
from broker.config.settings import Settings

KEY = "0123456789abcdef0123456789abcdef"
REDIS = "redis://host"
OUTSIDE = "tcp:8000"
SOCKET = "unix:/tmp/txbroker.sock"
# Each does something, whatever the others are.
INDEPENDENT = """
api_secret api_keys jwt_secret jwt_public_key_file jwks_file permissions_file auth_deadline_seconds allowed_origins
listen tls_key_file admin_listen protocols node processes
store bus retention durable_topics retained_topics dedup_seconds max_store_bytes
max_channels max_cursors cursor_seconds max_indices index_seconds max_memberships membership_seconds max_clients
client_seconds max_ids max_queues max_mailbox mailbox_seconds max_jobs max_keys
lease_seconds max_deliveries call_timeout_seconds max_call_timeout_seconds late_window_seconds request_idle_seconds
keepalive_seconds upload_stall_seconds takeover_probe_seconds ping_seconds slow_grace_seconds drain_seconds
max_message_bytes max_value_bytes max_connections max_subscriptions max_registrations max_calls max_waiting_polls
send_queue_bytes resume_events memory_limit_bytes rate
settings_file fast_path speedups compression log_level log_file log_format
""".split()

# A setting, others with which it does nothing, which one the warning names, and others with which it does something.
CASES = [
    ("JWT_AUDIENCE", "a", {"API_SECRET": KEY}, "JWKS_FILE", {"JWT_SECRET": KEY}),
    ("JWT_ISSUER", "a", {}, "JWT_PUBLIC_KEY_FILE", {"JWT_SECRET": KEY}),
    ("JWT_LEEWAY_SECONDS", "5", {}, "JWT_SECRET", {"JWT_SECRET": KEY}),
    ("AUTH", "optional", {}, "API_KEYS", {"API_SECRET": KEY, "PERMISSIONS_FILE": "{file}"}),
    ("AUTH_TRIES", "2", {}, "API_KEYS", {"API_SECRET": KEY}),
    ("AUTH_FAILURES_PER_MINUTE", "2", {}, "ADMIN_SECRET", {"ADMIN_SECRET": KEY}),
    ("API_SECRET_PREVIOUS", KEY, {"API_SECRET": KEY}, "API_SECRET", {"API_SECRET": KEY[::-1]}),
    ("TOKEN_SECONDS", "60", {"PROTOCOLS": "http"}, "PROTOCOLS", {"PROTOCOLS": "hpkv"}),
    ("INSECURE", "http", {}, "LISTEN", {"LISTEN": OUTSIDE, "PROTOCOLS": "http"}),
    ("INSECURE", "http", {"API_SECRET": KEY}, "LISTEN", {"LISTEN": OUTSIDE, "PROTOCOLS": "http"}),
    ("ALLOWED_HOSTS", "a", {"API_SECRET": KEY, "ADMIN_SECRET": KEY[::-1]}, "AUTH", {"API_SECRET": KEY}),
    ("TLS_CERTIFICATE_FILE", "{file}", {"LISTEN": SOCKET}, "LISTEN", {"LISTEN": "haproxy:tcp:1:interface=::1"}),
    ("ADMIN_SECRET", KEY, {"ADMIN_LISTEN": "none"}, "ADMIN_LISTEN", {}),
    ("METRICS_QUEUES", "q", {"ADMIN_LISTEN": "none"}, "ADMIN_LISTEN", {}),
    ("TRUSTED_PROXIES", "unix", {}, "LISTEN", {"LISTEN": SOCKET}),
    ("WORKER_TIMEOUT_SECONDS", "5", {}, "PROCESSES", {"PROCESSES": "2", "STORE": REDIS}),
    ("DURABILITY", "fsync", {"STORE": REDIS}, "STORE", {}),
    ("MIN_FREE_BYTES", "5", {"STORE": "memory:"}, "STORE", {}),
    ("REDIS_PREFIX", "a", {}, "STORE", {"STORE": REDIS}),
    ("REDIS_WAIT_REPLICAS", "1", {}, "STORE", {"STORE": REDIS}),
    ("REDIS_WAIT_MS", "5", {"STORE": REDIS}, "REDIS_WAIT_REPLICAS", {"STORE": REDIS, "REDIS_WAIT_REPLICAS": "1"}),
    ("NODE_LEASE_SECONDS", "5", {"STORE": REDIS, "BUS": "local:"}, "BUS", {"STORE": REDIS}),
    ("POLL_TIMEOUT_SECONDS", "5", {"PROTOCOLS": "http"}, "PROTOCOLS", {"PROTOCOLS": "plugin:dialect"}),
    ("ERROR_DELAY_SECONDS", "5", {"PROTOCOLS": "http"}, "PROTOCOLS", {}),
    ("PONG_SECONDS", "5", {"PING_SECONDS": "0", "PROTOCOLS": "http"}, "PING_SECONDS", {"PING_SECONDS": "0"}),
    ("RATE_BURST", "5", {}, "RATE", {"RATE": "5"}),
    ("OWLMEANS_DEFAULT_SUBSCRIPTIONS", "a", {"PROTOCOLS": "http"}, "PROTOCOLS", {}),
    ("OWLMEANS_PASS_STACKS", "true", {"PROTOCOLS": "http"}, "PROTOCOLS", {}),
    ("MICROSTREAM_IDLE_SECONDS", "5", {"PROTOCOLS": "http"}, "PROTOCOLS", {}),
    ("THINWS_OPEN_ROOMS", "true", {"PROTOCOLS": "http"}, "PROTOCOLS", {}),
    ("MAX_CONNECTIONS_PER_ADDRESS", "6", {"MAX_CONNECTIONS": "5"}, "MAX_CONNECTIONS", {"MAX_CONNECTIONS": "0"}),
    ("MAX_UNADMITTED", "6", {"MAX_CONNECTIONS": "5"}, "MAX_CONNECTIONS", {}),
    ("MAX_UNADMITTED_PER_ADDRESS", "6", {"MAX_UNADMITTED": "5"}, "MAX_UNADMITTED", {"MAX_UNADMITTED": "6"}),
    ("MAX_CALLS_PER_CLIENT", "6", {"MAX_CALLS": "5"}, "MAX_CALLS", {}),
    ("MAX_PENDING_CALLS", "6", {"MAX_CALLS_PER_CLIENT": "5"}, "MAX_CALLS_PER_CLIENT", {}),
    ("MAX_WAITING_POLLS_PER_CLIENT", "6", {"MAX_WAITING_POLLS": "5"}, "MAX_WAITING_POLLS", {}),
    ("MEMORY_PER_ADDRESS_BYTES", "9999999", {"MEMORY_LIMIT_BYTES": "5000000"}, "MEMORY_LIMIT_BYTES", {}),
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.touch(0o600)
    return str(path)


def ineffective(file: str, **given: str) -> list[str]:
    environ = {f"TXBROKER_{name}": text.format(file=file) for name, text in given.items()}
    return [note for note in Settings.read(environ)[0].warnings if "has no effect" in note]


@pytest.mark.parametrize(("name", "text", "without", "other", "beside"), CASES)
def test_what_does_nothing_is_warned_of_with_what_it_needs(
    name: str, text: str, without: dict[str, str], other: str, beside: dict[str, str], file: str
) -> None:
    (note,) = ineffective(file, **{name: text}, **without)
    assert note.startswith(f"TXBROKER_{name} has no effect: ")
    assert re.search(rf"\bTXBROKER_{other}\b", note.partition(": ")[2])
    assert ineffective(file, **{name: text}, **beside) == []


def test_of_each_setting_it_is_decided_whether_it_may_have_no_effect() -> None:
    dependent = {name for need in NEEDS for name in need.names} | {part for part, _ in SHARES}
    assert sorted([*dependent, *INDEPENDENT]) == sorted(options_of(Settings))
    assert dependent == {name.lower() for name, *_ in CASES}


@pytest.mark.parametrize(
    "given",
    [
        {"RATE_BURST": "0"},
        {"MIN_FREE_BYTES": "none", "STORE": "memory:"},
        {"THINWS_OPEN_ROOMS": "false", "PROTOCOLS": "http"},
        {"AUTH_FAILURES_PER_MINUTE": "0"},
        {"AUTH": "none"},
        {"MAX_CALLS": "5"},  # which is less than other limits are by default
        {"RATE_BURST": "5", "RATE": "fast"},  # which is told already
        {"JWT_ISSUER": "a", "JWKS_FILE": "/nowhere"},
    ],
)
def test_what_is_off_by_default_or_wrong_anyway_is_not_warned_of(given: dict[str, str], file: str) -> None:
    assert ineffective(file, **given) == []


def test_the_name_that_it_was_given_by_is_warned_of() -> None:
    settings = Settings.from_environ({"POLL_TIMEOUT": "500", "TXBROKER_PROTOCOLS": "http"})
    assert settings.warnings == ("POLL_TIMEOUT has no effect: TXBROKER_PROTOCOLS does not name ganomede",)


@pytest.mark.parametrize(
    ("auth", "permissions", "why"),
    [
        ("required", False, None),
        ("none", False, "TXBROKER_AUTH is none"),
        ("none", True, "TXBROKER_AUTH is none"),
        ("optional", False, "TXBROKER_AUTH is optional, and without TXBROKER_PERMISSIONS_FILE"),
        ("optional", True, None),
    ],
)
def test_credentials_that_keep_nobody_out_are_warned_of(
    auth: str, permissions: bool, why: str | None, file: str
) -> None:
    environ = {"TXBROKER_API_KEYS": f"ann:{KEY}", "TXBROKER_JWT_SECRET": KEY[::-1], "TXBROKER_AUTH": auth}
    environ |= {"TXBROKER_PERMISSIONS_FILE": file} if permissions else {}
    notes = Settings.from_environ(environ).warnings
    start = f"TXBROKER_API_KEYS, TXBROKER_JWT_SECRET can keep nobody out: {why}"
    assert [note.startswith(start) for note in notes] == ([] if why is None else [True])
    assert KEY not in "".join(notes)
