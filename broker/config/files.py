"""What can be said of a file before it is opened."""

from __future__ import annotations

import os
import stat

MOUNTED = "/run/secrets/"  # where Docker and the manifests of contrib/kubernetes mount secrets, for whoever is inside
INHERITED = ("/dev/std", "/dev/fd/", "/proc/self/fd/")  # what is open already, whoever may open it


def unwritable(path: str) -> str:
    """Return why the file at *path* can not be written to, or made, "" when it can; that of "" is nobody's business.

    It is not made: nothing is until all settings are right.
    """
    if not path or path == "-" or path.startswith(INHERITED):
        return ""
    directory, reason = os.path.dirname(os.path.abspath(path)), ""
    if os.path.isdir(path):
        reason = "Is a directory"
    elif not os.path.exists(directory):
        reason = "No such file or directory"
    elif not os.path.isdir(directory):
        reason = "Not a directory"
    elif not os.access(path if os.path.exists(path) else directory, os.W_OK):
        reason = "Permission denied"
    return f"{path} can not be opened: {reason}" if reason else ""


def unreadable(path: str) -> str:
    """Return why the file at *path* can not be read, "" when it can; that of "" is nobody's business.

    It is not opened: what is behind a pipe can be read only once.
    """
    if not path:
        return ""
    try:
        os.stat(path)
    except OSError as error:
        return f"{path} can not be read: {error.strerror}"
    if os.path.isdir(path):
        return f"{path} can not be read: it is a directory"
    return "" if os.access(path, os.R_OK) else f"{path} can not be read: permission denied"


def open_to_others(path: str) -> str:
    """Return that other users can read or change the file at *path*, which has a secret, and "" when they can not."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""  # which is told otherwise
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or not mode & (stat.S_IROTH | stat.S_IWOTH) or path.startswith(MOUNTED):
        return ""
    return f"every user of this machine can {'change' if mode & stat.S_IWOTH else 'read'} {path}: chmod o= {path}"
