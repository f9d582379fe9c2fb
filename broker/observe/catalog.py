"""All metrics of the daemon: what they are called, their labels, and what they say.

The exposition, the page of the documentation and the tests of dashboards and alerts are made from this table.
Those that a dialect has of its own are not in it, nor those of the process and of Python, which a library has.
"""

from __future__ import annotations

import attrs

METRIC_PREFIX = "txbroker_"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
# What several processes of one daemon make of their values: add them, have the greatest, or show each by a label.
SUM, MAX, LABEL = "sum", "max", "label"
SAMPLE = 64  # of so many messages one is timed, on the average

# The values that labels have from the start, where they are not the names of dialects.
VERBS = (
    *("publish", "subscribe", "call", "register", "request", "acknowledge", "send", "consume", "manage", "read"),
    *("write", "mint", "answer", "cancel", "procedures", "watch", "index", "join", "part", "identify", "about"),
    "ignore",
)
REFUSALS = ("UNAUTHENTICATED", "DENIED", "RATE_LIMITED", "UNAVAILABLE")
CLOSE_CODES = ("1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1011", "1012", "1013")
APPLICATION_CODES = ("3xxx", "4xxx")
RESULTS = OK, ERROR, TIMEOUT, LOST, CANCELLED, ABANDONED = ("ok", "error", "timeout", "lost", "cancelled", "abandoned")
POLICIES = ("close", "drop", "pull", "memory")
# Of the processes and of Python, by prometheus_client; dashboards and alerts may use them.
LIBRARY = (
    *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds"),
    *("process_cpu_seconds_total", "process_open_fds", "process_max_fds", "python_info"),
    *("python_gc_objects_collected_total", "python_gc_objects_uncollectable_total", "python_gc_collections_total"),
)


@attrs.frozen
class Metric:
    """One metric.

    Attributes:
        name: without prefix, and without the ``_total`` of a counter.
        kind: ``COUNTER``, ``GAUGE`` or ``HISTOGRAM``.
        help: a sentence.
        labels: their names.
        source: the attribute of ``Metrics`` that has the values, if it is called otherwise.
        when: where it is there; "" for everywhere.
        group: the heading in the documentation.
        across: what several processes of one daemon make of it: ``SUM``, ``MAX`` or ``LABEL``.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    source: str = ""
    when: str = ""
    group: str = ""
    across: str = SUM

    @property
    def full_name(self) -> str:
        """With the prefix, and with the ``_total`` of a counter."""
        return f"{METRIC_PREFIX}{self.name}{'_total' if self.kind == COUNTER else ''}"

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names of its samples, which those of no other metric may be."""
        if self.kind != HISTOGRAM:
            return (self.full_name,)
        return tuple(self.full_name + ending for ending in ("_bucket", "_sum", "_count"))


REDIS, SQLITE = "with a Redis store", "with an SQLite store"
PROCESSES = "with several processes"

_GROUPS: dict[str, tuple[Metric, ...]] = {
    "The daemon": (
        Metric("build_info", GAUGE, "Always 1; its label says which version runs.", ("version",), across=MAX),
        Metric("ready", GAUGE, "Whether /ready says yes: 1, or 0.", across=LABEL),
        Metric("draining", GAUGE, "Whether it is about to stop: 1, or 0.", across=LABEL),
        Metric("nodes", GAUGE, "Nodes that have a lease, this one included; 0 while it has none.", across=MAX),
        Metric("workers", GAUGE, "Worker processes that there are to be.", when=PROCESSES),
        Metric("workers_ready", GAUGE, "Worker processes that serve clients.", when=PROCESSES),
        Metric("worker_restarts", COUNTER, "Worker processes that were started again.", when=PROCESSES),
        Metric("reactor_lag_seconds", HISTOGRAM, "By how much a timer of the reactor was late, ten times a second."),
        Metric(
            "reactor_lag_max_seconds",
            GAUGE,
            "The longest lag of the last minute, one that goes on included.",
            across=LABEL,
        ),
    ),
    "Connections": (
        Metric(
            "connections",
            GAUGE,
            "Connections now; 'http' are those that are no WebSocket, of clients and of operators.",
            ("dialect",),
        ),
        Metric("connections_opened", COUNTER, "Connections opened.", ("dialect",), "opened_total"),
        Metric(
            "connections_closed",
            COUNTER,
            "Connections closed, with the WebSocket close code; 101: an HTTP connection became a WebSocket.",
            ("dialect", "code"),
            "closed_total",
        ),
        Metric("sessions", GAUGE, "Sessions that others can see."),
        Metric("members", GAUGE, "Clients that are present on topics, on all nodes, each topic by itself.", across=MAX),
        Metric("auth_failures", COUNTER, "Credentials refused.", ("dialect",)),
        Metric(
            "refusals",
            COUNTER,
            "Credentials, permissions, rates, web pages and connections refused.",
            ("dialect", "code"),
        ),
        Metric("refusals_not_logged", COUNTER, "Refusals that the log has no line of."),
        Metric("rate_limited", COUNTER, "Verbs refused for their rate, or because memory is short."),
        Metric("slow_consumers", COUNTER, "Clients that read too slowly, and what was done about it.", ("policy",)),
    ),
    "Messages": (
        Metric("messages_in", COUNTER, "Verbs called by clients.", ("dialect", "verb"), "verbs"),
        Metric("messages_out", COUNTER, "Messages sent to clients over WebSockets."),
        Metric("bytes_in", COUNTER, "Bytes received from clients over WebSockets, with the headers of frames."),
        Metric("bytes_out", COUNTER, "Bytes of messages sent to clients over WebSockets."),
        Metric(
            "publish_seconds",
            HISTOGRAM,
            "From a publication until its client is acknowledged; of the dialect of that client. "
            f"One of {SAMPLE} is timed and counts for all.",
            ("dialect",),
        ),
        Metric(
            "deliver_seconds",
            HISTOGRAM,
            "While an event that has arrived at this node is handed to all its subscribers here; of the dialect of the "
            f"client that published it. One of {SAMPLE} is timed and counts for all.",
            ("dialect",),
        ),
        Metric("subscriptions", GAUGE, "Subscriptions to topics and patterns, of all clients."),
        Metric("subscriptions_behind", GAUGE, "Subscriptions that catch up with what is stored."),
        Metric("topics", GAUGE, "Topics and patterns somebody listens to."),
        Metric("polls_waiting", GAUGE, "Long polls that wait."),
    ),
    "Calls": (
        Metric(
            "call_seconds",
            HISTOGRAM,
            "From a call until its end, at the node of the caller; of the caller's dialect, and how it ended. "
            f"Of those with the result 'ok' one of {SAMPLE} is timed and counts for all.",
            ("dialect", "result"),
        ),
        Metric("calls_pending", GAUGE, "Calls that wait for an answer."),
        Metric("answers_dropped", COUNTER, "Late, double or forged answers."),
        Metric("services", GAUGE, "Procedures and services that are performed."),
    ),
    "Work queues": (
        Metric("jobs_ready", GAUGE, "Jobs that wait for a worker, in all work queues.", across=MAX),
        Metric("jobs_delayed", GAUGE, "Jobs whose time has not come, those included that have failed.", across=MAX),
        Metric("jobs_in_flight", GAUGE, "Jobs that workers have.", across=MAX),
        Metric("jobs_dead", GAUGE, "Jobs that have failed too often.", across=MAX),
        Metric("jobs_oldest_seconds", GAUGE, "Age of the oldest job that is ready; 0: there is none.", across=MAX),
        *(
            Metric(
                f"queue_{state}",
                GAUGE,
                f"{text}, in this queue.",
                ("queue",),
                when="for :envvar:`TXBROKER_METRICS_QUEUES`",
                across=MAX,
            )
            for state, text in (
                ("ready", "Jobs that wait for a worker"),
                ("delayed", "Jobs whose time has not come, those included that have failed"),
                ("in_flight", "Jobs that workers have"),
                ("dead", "Jobs that have failed too often"),
                ("oldest_seconds", "Age of the oldest job that is ready; 0: there is none"),
            )
        ),
    ),
    "The store": (
        Metric("store_ready", GAUGE, "Whether the store takes writes: 1, or 0.", across=LABEL),
        Metric("bus_ready", GAUGE, "Whether the bus carries events to other nodes: 1, or 0.", across=LABEL),
        Metric("store_bytes", GAUGE, "Bytes that the store uses, as far as it knows.", across=MAX),
        Metric(
            "store_limit_bytes", GAUGE, "How many it may use (TXBROKER_MAX_STORE_BYTES); 0: any number.", across=MAX
        ),
        Metric("store_wal_bytes", GAUGE, "Bytes of the write-ahead log.", when=SQLITE),
        Metric("store_commit_seconds", HISTOGRAM, "Time of a commit, or of a batch of Redis.", source="commit_seconds"),
        Metric("store_batch_rows", HISTOGRAM, "Operations in a commit.", source="batch_rows"),
        Metric("store_errors", COUNTER, "Operations that the store refused."),
        Metric("store_checkpoint_errors", COUNTER, "Attempts to write back the write-ahead log that failed."),
        Metric("store_went_back", COUNTER, "How often the store was found to lack what was acknowledged."),
    ),
    "Redis": tuple(
        Metric(name, GAUGE, text, when=REDIS, across=LABEL if name == "redis_connected" else MAX)
        for name, text in (
            ("redis_connected", "Whether there is a connection for what is stored: 1, or 0."),
            ("redis_master", "Whether its server is a master: 1, or 0."),
            ("redis_replicas", "Replicas that are connected to its server."),
            ("redis_replica_lag_seconds", "Since when the replica that is furthest behind has said nothing."),
            ("redis_replica_lag_bytes", "How many bytes the replica that is furthest behind does not have."),
            ("redis_memory_bytes", "Memory that its server uses."),
            ("redis_memory_limit_bytes", "How much it may use (maxmemory); 0: any amount."),
            ("redis_memory_ratio", "Which part of that it uses, from 0 to 1."),
        )
    ),
    "Memory": (
        Metric("memory_held_bytes", GAUGE, "Bytes that clients make the daemon hold, in all."),
        Metric("memory_limit_bytes", GAUGE, "How many there may be; 0: any number."),
        Metric("send_queue_bytes", GAUGE, "Bytes that wait for clients which read too slowly."),
        Metric("upload_bytes", GAUGE, "Bytes of requests and messages that have come in part, or are being answered."),
        Metric("held_bytes", GAUGE, "Bytes that sessions keep for later: frames, events, packets, pending calls."),
    ),
}

CATALOG = {metric.name: attrs.evolve(metric, group=group) for group, metrics in _GROUPS.items() for metric in metrics}
# What the label ``result`` may be.
LABELS = {
    "dialect": "names of the dialects that are spoken; admin for operators, http for connections that are no WebSocket",
    "verb": ", ".join(VERBS),
    "code": "close codes; 3xxx and 4xxx for those of applications; codes of refusals",
    "policy": ", ".join(POLICIES),
    "result": ", ".join(RESULTS),
}
