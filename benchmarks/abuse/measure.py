"""Measures one attack: the worst lag of /health, and the growth of memory."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from contextlib import suppress
from multiprocessing.sharedctypes import SynchronizedArray
from multiprocessing.synchronize import Event
from pathlib import Path

import attrs

from benchmarks.abuse import combined, frames, memory, patterns, strangers, texts, verbs  # noqa: F401 # attacks
from benchmarks.abuse.target import ATTACKS, HOST, Target
from benchmarks.clients import raw_request
from benchmarks.servers import LOAD_CORE, Broker, pin

PERIOD = 0.005  # seconds between two questions for /health
SETTLING = 3.0  # seconds from the end of an attack to the look at what memory is left
TIMEOUT = 60.0  # seconds for one answer of /health
GRACE = 15.0  # seconds for an attack that does not end when it should


@attrs.frozen
class Result:
    """What one attack has cost.

    Attributes:
        lag: seconds of the slowest answer of /health.
        cpu: seconds that the reactor's thread computed while it kept a /health waiting, at worst.
        growth: MiB more than before, while the attack lasted.
        left: MiB more than before, after it.
    """

    lag: float
    cpu: float
    growth: float
    left: float


def computed(pid: int) -> float:
    """Return how long the reactor's thread has computed, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def watch_health(port: int, pid: int, stop: Event, worst: SynchronizedArray[float]) -> None:
    """Keep the worst lag and the worst CPU time of an answer in *worst* until *stop* is set."""
    pin(LOAD_CORE)
    while not stop.is_set():
        began, cpu = time.monotonic(), computed(pid)
        with suppress(OSError):
            raw_request(port, f"GET /health {HOST}", timeout=TIMEOUT)
        took = time.monotonic() - began
        worst[0], worst[1] = max(worst[0], took), max(worst[1], computed(pid) - cpu)
        time.sleep(max(0.0, PERIOD - took))


def run_attack(name: str, port: int, end: float) -> None:
    pin(LOAD_CORE)
    os.nice(10)  # who asks for /health, on the same core, must not wait for the attack itself
    socket.setdefaulttimeout(TIMEOUT)
    with suppress(OSError, EOFError):
        ATTACKS[name](Target(port, end))


def measure(name: str, seconds: float, server: Broker) -> Result:
    """Attack *server* and return what that costs."""
    raw_request(server.port, f"GET /ready {HOST}")
    assert server.process is not None
    before = most = server.resident_kib()
    stop, worst = multiprocessing.Event(), multiprocessing.Array("d", 2)
    watcher = multiprocessing.Process(target=watch_health, args=(server.port, server.process.pid, stop, worst))
    end = time.monotonic() + seconds
    attacker = multiprocessing.Process(target=run_attack, args=(name, server.port, end))
    watcher.start()
    attacker.start()
    while attacker.is_alive() and time.monotonic() < end + GRACE:
        most = max(most, server.resident_kib())
        attacker.join(0.05)
    attacker.kill()
    time.sleep(1.0)  # what is closed may cost, too
    stop.set()
    watcher.join()
    time.sleep(SETTLING - 1.0)
    return Result(worst[0], worst[1], (most - before) / 1024, (server.resident_kib() - before) / 1024)
