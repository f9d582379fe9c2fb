"""Unix sockets that a daemon can listen on however the last one ended.

Twisted's ``unix:`` leaves a lock that names a process, and honours it for as long as any process has that number: in
a container always, and often after a reboot.  Whether somebody listens is asked of the socket itself here.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet import unix
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory

LOCK = ".lock"  # what Twisted leaves beside the socket
ABSTRACT = ("", "\0")  # how names begin that are no files


class SocketFilePort(unix.Port):
    """A port of a unix socket with a mode and a group; see :func:`bind_socket`.

    Args:
        path: of the socket.
        factory: makes the protocols.
        backlog: how many connections may wait to be accepted.
        mode: of the file.
        group: a name or a number; "" for that of the process.
        reactor: the reactor.
        bound: the socket, if it is bound already.
        shared: whether *bound* is another process's, too, which removes its file.
    """

    def __init__(
        self,
        path: str,
        factory: IProtocolFactory,
        backlog: int,
        mode: int,
        group: str,
        reactor: Any,
        bound: socket.socket | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__(os.fsencode(path), factory, backlog, mode, reactor)
        self._path, self._group = path, group
        # To Twisted a name that is no file: it neither sets the mode nor removes the file of somebody else.
        self._bindPath = b"\0" + os.fsencode(path)
        self._preexistingSocket = bound
        self._file: tuple[int, int] | None = None
        self._shared = shared

    def startListening(self) -> None:
        """Bind and listen.

        Raises:
            CannotListenError: another process listens there, or the file can not be made as it is wanted.
        """
        if self._preexistingSocket is None:
            self._preexistingSocket = bind_socket(self._path, self.backlog, self.mode, self._group)
        if self._shared:
            self._shouldShutdown = False  # else nobody could connect to the others either
        else:
            self._file = file_identity(self._path)
        super().startListening()

    def connectionLost(self, reason: Any) -> None:
        """Remove the file, if it is still that of this port."""
        if self._file is not None:
            remove_own(self._path, self._file)
        super().connectionLost(reason)


def bind_socket(path: str, backlog: int, mode: int, group: str) -> socket.socket:
    """Return a socket that listens on *path*, after removing a file that nobody listens on.

    At no time more may connect than in the end: the file is made for its owner alone.

    Raises:
        CannotListenError: another process listens there, or the file can not be made as it is wanted.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        remove_stale(path)
        mask = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(mask)
        if path[:1] not in ABSTRACT:
            if group:
                os.chown(path, -1, group_id(group))
            os.chmod(path, mode)
        made.listen(backlog)
    except (OSError, ValueError) as error:
        made.close()
        raise CannotListenError(None, path, error) from None
    return made


def remove_stale(path: str) -> None:
    """Remove the socket at *path*, and Twisted's lock of it, unless somebody listens there.

    Raises:
        OSError: somebody does, or it can not be removed.
    """
    if path[:1] in ABSTRACT:
        return
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError("it is there already, and no socket")
    except FileNotFoundError:
        pass
    else:
        if is_listened_on(path):
            raise OSError("another process listens there")
        os.unlink(path)
    if os.path.islink(path + LOCK):
        with suppress(OSError):
            os.unlink(path + LOCK)


def is_listened_on(path: str) -> bool:
    """Whether a process listens on the socket at *path*."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # its queue is full, or it is not ours to ask
    return True


def group_id(group: str) -> int:
    """Return the number of *group*, a name or a number.

    Raises:
        ValueError: there is no such group.
    """
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group}") from None


def remove_own(path: str, identity: tuple[int, int]) -> None:
    """Remove the file of a socket at *path*, if it is still the one with *identity*."""
    if file_identity(path) == identity:
        with suppress(OSError):  # its directory may be another user's: the next start removes it
            os.unlink(path)


def file_identity(path: str) -> tuple[int, int] | None:
    """Return what tells the file at *path* from all others; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
