"""The file with the id of the process that twistd writes: one that a killed daemon has left must not stop the next."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MAX_ERROR = 1.5  # seconds by which the start of a process, which the system has in hundredths, may seem later


def remove_stale(path: str) -> bool:
    """Remove the file at *path* if the process that wrote it has ended; return whether it did.

    twistd asks only whether there is a process with that id.  In a container that was started again it may be this
    one, which is the first in each run, or another that has got the number since.  What does not look like the
    file of a process is left alone.
    """
    if not path:
        return False
    try:
        text = Path(path).read_text("ascii").strip()
        written = os.stat(path).st_mtime
    except (OSError, ValueError):
        return False
    # An empty one was left by a power cut.
    if text and not (text.isdecimal() and _is_other(int(text), written)):
        return False
    with suppress(OSError):
        os.unlink(path)
        return True
    return False


def _is_other(pid: int, written: float) -> bool:
    """Whether the process *pid* can not be the one that has written a file at *written*, seconds since the epoch."""
    if pid == os.getpid():
        return True  # it has not written it yet
    started = _started(pid)
    return started is not None and started > written + MAX_ERROR


def _started(pid: int, root: str = "/proc") -> float | None:
    """Return when the process *pid* began, in seconds since the epoch; None: nobody knows, or there is none."""
    try:
        # proc(5): the name in parentheses may hold anything; the start is the 22nd field, in clock ticks since boot.
        ticks = int(Path(root, str(pid), "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19])
        lines = Path(root, "stat").read_text("ascii").splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK")
