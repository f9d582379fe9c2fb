"""The file of the log: append only, opened again on a signal, never rotated by the daemon itself."""

from __future__ import annotations

import os
import re
import select
import stat
from contextlib import suppress
from select import PIPE_BUF

STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self))/fd/(\d+)")
MAX_WAIT_MS = 1000  # milliseconds for a reader of a pipe to make room
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY


def descriptor_of(name: str) -> int | None:
    """Return the file descriptor that *name* stands for, such as 1 for ``/dev/stdout``; None: it names a file.

    To open such a name again fails when it is a socket, as under systemd, or another user's.
    """
    match = DESCRIPTOR.fullmatch(name)
    return int(match[1]) if match else STANDARD.get(name)


class LogFile:
    """A file to which lines are appended, each with one write.

    Whoever truncates it in place, as ``copytruncate`` of logrotate does, gets no hole: the system
    finds the end for each write.  Its file descriptor stays the same when it is opened again.

    A pipe or socket that nobody reads, though it is open, holds up nobody for longer than a second.

    Attributes:
        lost: how many lines such a one has not taken since the last time that this was set to 0.

    Args:
        name: of a file, which is made if there is none, or what ``descriptor_of`` knows.

    Raises:
        OSError: it can not be opened.
    """

    def __init__(self, name: str) -> None:
        inherited = descriptor_of(name)
        # The working directory is another one in the background, perhaps.
        self.path = os.path.abspath(name) if inherited is None else ""
        self._fd = _open(self.path) if inherited is None else os.dup(inherited)
        self._is_pipe = _is_pipe(self._fd)
        self.lost = 0

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, text: str) -> None:
        """Append *text*.

        What can not be written is lost: the disk is full, or nobody reads the pipe any more.
        """
        rest = text.encode("utf-8", "backslashreplace")
        with suppress(OSError):
            while rest:
                # Who reads slowly is waited for once, not again for each line: the reactor stands still meanwhile.
                if self._is_pipe and not self.is_writable(0 if self.lost else MAX_WAIT_MS):
                    self.lost += 1
                    return
                try:
                    rest = rest[os.write(self._fd, rest[:PIPE_BUF] if self._is_pipe else rest) :]
                except BlockingIOError:  # whoever has made the pipe has made it so
                    if not self.is_writable(MAX_WAIT_MS):
                        return

    def is_writable(self, milliseconds: int = 0) -> bool:
        """Whether there is room for ``PIPE_BUF`` bytes, at once or in so many *milliseconds*."""
        waiting = select.poll()
        waiting.register(self._fd, select.POLLOUT)
        return bool(waiting.poll(milliseconds))

    def flush(self) -> None:
        """Do nothing: all is written."""

    def reopen(self) -> None:
        """Open the file of the same name, and make it if it was moved away, with the mode and owner of that one.

        Raises:
            OSError: it can not be opened; the one that was open stays so.
        """
        if not self.path:
            return
        before = os.fstat(self._fd)
        is_new = not os.path.exists(self.path)
        fd = _open(self.path)
        if is_new and stat.S_ISREG(before.st_mode):
            with suppress(OSError):  # the owner is another only if this process was root
                os.fchown(fd, before.st_uid, before.st_gid)
            with suppress(OSError):
                os.fchmod(fd, stat.S_IMODE(before.st_mode))
        os.dup2(fd, self._fd, inheritable=False)
        self._is_pipe = _is_pipe(fd)
        os.close(fd)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def _is_pipe(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _open(path: str) -> int:
    # A named pipe that nobody reads is an error, rather than a start that waits for ever.
    fd = os.open(path, FLAGS | os.O_NONBLOCK, 0o666)
    os.set_blocking(fd, True)
    return fd
