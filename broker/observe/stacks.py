"""What the thread of the reactor does while it does not come back: the log names who blocks the loop."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType

LOOK = 0.5  # seconds between two looks
SUSPICIOUS = 2  # looks without a tick in between, after which the stack is kept
MAX_FRAMES = 5  # of a stack that are named, the innermost first


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
                self._caught = described(sys._current_frames().get(thread))


def described(frame: FrameType | None) -> str:
    """Return the innermost frames of a stack as text: file, line and function, without any value."""
    found: list[str] = []
    while frame is not None and len(found) < MAX_FRAMES:
        path = Path(frame.f_code.co_filename)
        found.append(f"{path.parent.name}/{path.name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(found)
