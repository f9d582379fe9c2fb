"""What the thread of the reactor does while it does not come back: the log names who blocks the loop."""

from __future__ import annotations

import faulthandler
import re
import threading
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile

LOOK = 0.5  # seconds between two looks
SUSPICIOUS = 2  # looks without a tick in between, after which the stack is kept
MAX_FRAMES = 5  # of a stack that are named, the innermost first
THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
FRAME = re.compile(r'^  File "(.*)", line (\S+) in (.*)$', re.MULTILINE)


class StackWatch:
    """Looks from a thread of its own whether the reactor ticks, and keeps the stack when it does not.

    What it has kept is logged by the reactor: the log is not written to by two threads.
    """

    def __init__(self) -> None:
        self._ticks = 0
        self._caught = ""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look; called in the thread that is looked at."""
        self._stopped.clear()
        arguments = (threading.get_ident(),)
        self._thread = threading.Thread(target=self._run, args=arguments, name="txbroker stacks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def ticked(self) -> None:
        """Notice that the loop runs."""
        self._ticks += 1

    def caught(self) -> str:
        """Return where the thread was that has not come back, the innermost frame first; "" if nobody has looked."""
        caught, self._caught = self._caught, ""
        return caught

    def _run(self, thread: int) -> None:
        seen, looks = -1, 0
        while not self._stopped.wait(LOOK):
            ticks = self._ticks
            looks = looks + 1 if ticks == seen else 0
            seen = ticks
            if looks == SUSPICIOUS:
                self._caught = stack_of(thread)


def stack_of(thread: int) -> str:
    """Return the innermost frames of a thread as text: file, line and function, without any value.

    "" if it has gone, or there is no room for a temporary file.
    """
    # Not by ``sys._current_frames``, which makes objects of the frames of a thread that runs: Python 3.11 may
    # deadlock with that (its issue 106883), and crash when they are followed (99110).
    try:
        with TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return described(file.read().decode("utf-8", "replace"), thread)
    except OSError:
        return ""


def described(dump: str, thread: int) -> str:
    """Return what ``stack_of`` returns, of a *dump* of ``faulthandler``."""
    for part in dump.split("\n\n"):
        head, _, frames = part.partition("\n")
        found = THREAD.match(head)
        if found and int(found[1], 16) == thread:
            named = islice(FRAME.finditer(frames), MAX_FRAMES)
            return " < ".join(f"{_short(each[1])}:{each[2]} {each[3]}" for each in named)
    return ""


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])
