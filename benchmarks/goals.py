"""The goals: our servers under a load, beside others under the same."""

from __future__ import annotations

import attrs

from benchmarks.peer_servers import Ganomede, JetStream, Limit, Mosquitto, Nats, Nchan, SocketIo, Ws
from benchmarks.servers import Broker, OneNode, Server, TwoNodes


@attrs.frozen
class Side:
    """One server under one load: what is spoken, how much of it, and where."""

    server: type[Server]
    kind: str
    load: tuple[str, ...]
    path: str = ""


@attrs.frozen
class Goal:
    """Ours beside a peer, and beside others that only tell more.

    Attributes:
        limit: the most that ours may be, times the peer's.
        others: among them the bare C server, which does the least that such a load takes.
        figure: what is compared: server CPU time per operation, or a latency.
    """

    name: str
    text: str
    ours: Side
    peer: Side
    limit: float
    others: tuple[Side, ...] = ()
    figure: str = "cpu_us"

    @property
    def sides(self) -> tuple[Side, ...]:
        """All that are measured, ours first."""
        return (self.ours, self.peer, *self.others)


RELAY = ("-m", "relay", "-n", "32", "-w", "1")
RELAY_DEEP = ("-m", "relay", "-n", "32", "-w", "16")
FAN_OUT = ("-m", "fanout", "-n", "1000", "-w", "1")
APPEND = ("-m", "append", "-n", "32", "-w", "1")
JOBS = ("-m", "jobs", "-n", "32", "-w", "4")
POLL = ("-m", "poll", "-n", "200", "-i", "100")
IDLE = ("-m", "idle", "-n", "5000", "-W", "2")

NEWS, NCHAN_NEWS = "/v1/topics/news", "/sse/news"
SOCKET_IO = "/socket.io/?EIO=4&transport=websocket"

LIMIT_RELAY, LIMIT_RELAY_DEEP = Side(Limit, "limit", RELAY), Side(Limit, "limit", RELAY_DEEP)
LIMIT_FAN_OUT, LIMIT_APPEND = Side(Limit, "limit", FAN_OUT), Side(Limit, "ganomede", APPEND)

GOALS = [
    Goal(
        "P1",
        "request relay, 32 x 1 in flight",
        Side(Broker, "owlmeans", RELAY),
        Side(Nats, "nats", RELAY),
        0.8,
        (LIMIT_RELAY, Side(Ws, "limit", RELAY)),
    ),
    Goal(
        "P2",
        "request relay, 32 x 16 in flight",
        Side(Broker, "owlmeans", RELAY_DEEP),
        Side(Nats, "nats", RELAY_DEEP),
        2.0,
        (LIMIT_RELAY_DEEP, Side(Ws, "limit", RELAY_DEEP)),
    ),
    Goal(
        "P3",
        "MicroStream requests, 32 x 1 in flight, beside a bare Socket.IO hub",
        Side(Broker, "micro", RELAY, SOCKET_IO),
        Side(SocketIo, "micro", RELAY, SOCKET_IO),
        0.5,
        (LIMIT_RELAY,),
    ),
    Goal(
        "P3d",
        "MicroStream requests, 32 x 16 in flight, beside a bare Socket.IO hub",
        Side(Broker, "micro", RELAY_DEEP, SOCKET_IO),
        Side(SocketIo, "micro", RELAY_DEEP, SOCKET_IO),
        0.3,
        (LIMIT_RELAY_DEEP,),
    ),
    Goal(
        "P4",
        "fan-out to 1,000, per delivery",
        Side(Broker, "owlmeans", FAN_OUT),
        LIMIT_FAN_OUT,
        1.5,
        (Side(SocketIo, "sio", FAN_OUT), Side(Ws, "limit", FAN_OUT), Side(Mosquitto, "mqtt", FAN_OUT)),
    ),
    Goal(
        "P5",
        "durable append over HTTP (fsync on ours and the C server's, none on ganomede-events')",
        Side(Broker, "ganomede", APPEND),
        Side(Ganomede, "ganomede", APPEND),
        0.18,
        (LIMIT_APPEND,),
    ),
    Goal("P6", "200 long polls, per delivery", Side(Broker, "ganomede", POLL), Side(Nchan, "nchan", POLL), 2.5),
    Goal(
        "P6p99",
        "200 long polls, p99 from post to delivery",
        Side(Broker, "ganomede", POLL),
        Side(Nchan, "nchan", POLL),
        1.5,
        figure="p99_us",
    ),
    Goal(
        "P11",
        "request relay between two nodes on one Redis, 32 x 16 in flight, CPU of both",
        Side(TwoNodes, "owlmeans", RELAY_DEEP),
        Side(OneNode, "owlmeans", RELAY_DEEP),
        1.5,
    ),
    Goal(
        "P11fan",
        "fan-out to 500 on each of two nodes, CPU of both per delivery",
        Side(TwoNodes, "owlmeans", FAN_OUT),
        Side(OneNode, "owlmeans", FAN_OUT),
        1.5,
    ),
    Goal(
        "P11log",
        "durable append over HTTP to two nodes, 16 connections to each, CPU of both",
        Side(TwoNodes, "ganomede", APPEND),
        Side(OneNode, "ganomede", APPEND),
        1.5,
    ),
    Goal(
        "P12",
        "durable publish over the native dialect, 32 x 1 in flight (fsync on ours, none on theirs)",
        Side(Broker, "owlmeans", APPEND),
        Side(JetStream, "nats", APPEND),
        3.0,
    ),
    Goal(
        "P13",
        "job cycle: enqueue, deliver, done, 32 x 4 in flight (fsync on ours, none on theirs)",
        Side(Broker, "owlmeans", JOBS),
        Side(JetStream, "nats", JOBS),
        10.0,
    ),
    Goal(
        "P14",
        "server-sent events to 1,000, per delivery",
        Side(Broker, "sse", FAN_OUT, NEWS),
        Side(Nchan, "nchansse", FAN_OUT, NCHAN_NEWS),
        2.0,
    ),
]
