"""The daemon as a process: limits, memory, garbage collection."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress

from twisted.logger import Logger

from broker.arenas import arenas

log = Logger()

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of <malloc.h>
OWN_PAGES = 1 << 17  # bytes
# Thresholds of garbage collection.  The youngest generation is collected when 10,000 more objects were made than have
# gone: that takes a few milliseconds.  The next takes the longer the more is under way: it waits for 100 of those, and
# all wait for 100 of these.  ``MemoryTrimmer`` collects whenever there is time.
COLLECTIONS = (10_000, 100, 100)
# Open files besides connections: the store, the log, Redis, libraries, and those who ask for pages over the limit.
OTHER_FILES = 264


class StartError(Exception):
    """The daemon can not start; the message says why, for the operator."""


def raise_file_limit(connections: int) -> None:
    """Let the process open as many files as it may; warn if those are too few for *connections* (0: any number)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if connections and _reaches(soft, needed):
        return
    with suppress(OSError, ValueError):  # a container may not permit it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not connections:
        return
    words = "RLIMIT_NOFILE was {soft}, too low for TXBROKER_MAX_CONNECTIONS={connections}, and is {now} now"
    if _reaches(now, needed):
        log.info(words, soft=soft, connections=connections, now=now)
    else:
        log.warn(
            words + ": raise it (LimitNOFILE= of systemd, ulimit -n) to {needed} at least, or allow fewer connections",
            soft=soft,
            connections=connections,
            now=now,
            needed=needed,
        )


def end_with(status: int) -> None:
    """Let the process end with *status* when its reactor has stopped: twistd knows no other than 0 then."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)


def _reaches(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def tune_garbage_collector() -> None:
    """Exempt what was made at the start from garbage collection, and collect less often.

    What the start has used and freed goes back to the operating system.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)
        arenas.begin()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


def tune_allocator() -> None:
    """Let the C library keep little of what is freed.

    With one arena for all threads, those of the store do not each keep the most that they ever had.
    With a fixed threshold, large buffers are pages of their own, which go back at once; else the library
    raises it to the size of the largest that was freed, and they leave holes between what is in use.
    """
    with suppress(OSError, AttributeError):  # not the GNU C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, OWN_PAGES)
