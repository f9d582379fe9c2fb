"""What the daemon tells systemd, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from twisted.internet.task import LoopingCall

PER_TIMEOUT = 3  # heartbeats in the time after which the watchdog ends the process


def notify_systemd(*states: str) -> None:
    """Send *states*, such as ``READY=1``, to the service manager that ``$NOTIFY_SOCKET`` names, if any."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # What systemd does not take is its own affair: the daemon runs on.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # An address that begins with "@" stands for one of Linux's abstract namespace.
        sender.sendto("\n".join(states).encode(), "\0" + address[1:] if address[0] == "@" else address)


def notify_reloading() -> None:
    """Say that a reload begins; ``READY=1`` says that it has ended."""
    notify_systemd("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float:
    """Return the seconds within which the watchdog wants to hear of the process *pid*; 0.0: it does not.

    sd_watchdog_enabled(3): it is meant for the process that ``WATCHDOG_PID`` names.
    """
    microseconds, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or meant not in ("", str(pid)):
        return 0.0
    return int(microseconds) / 1e6


def answer_watchdog(clock: Any) -> None:
    """Tell the watchdog, if there is one, that the reactor runs, for as long as it does."""
    seconds = watchdog_seconds(os.environ, os.getpid())
    if seconds:
        call = LoopingCall(notify_systemd, "WATCHDOG=1")
        call.clock = clock
        call.start(seconds / PER_TIMEOUT)
