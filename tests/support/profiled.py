"""``twistd broker`` that tells, each time it gets SIGUSR2, which of its functions it has entered since the last time.

It prints one line: ``entered`` and a JSON object of files, each with its functions, in the order in which they
were entered first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from twisted.internet.interfaces import IDelayedCall

ROOT = Path(__file__).parent.parent.parent
SIGN = "entered "  # what the line begins with
OURS = (f"{ROOT}/broker/", f"{ROOT}/protocols/")


class Profiler:
    """Notes which functions are entered, in every thread that begins after ``install``, but not by timers."""

    def __init__(self, reactor: Any) -> None:
        self._entered: dict[CodeType, None] = {}
        self._paused = False
        self._reactor = reactor
        self._later = reactor.callLater

    def install(self) -> None:
        self._reactor.callLater = self._call_later
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def _call_later(self, delay: float, function: Any, *arguments: Any, **named: Any) -> IDelayedCall:
        # What has no delay is a part of what is being done.
        return self._later(delay, *([self._unseen] if delay else []), function, *arguments, **named)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and not self._paused:
            self._entered[frame.f_code] = None

    def _unseen(self, function: Any, *arguments: Any, **named: Any) -> None:
        self._paused = True
        try:
            function(*arguments, **named)
        finally:
            self._paused = False

    def report(self) -> None:
        entered, self._entered = list(self._entered), {}
        files: dict[str, list[str]] = {}
        for code in entered:
            if code.co_filename.startswith(OURS):
                files.setdefault(code.co_filename.removeprefix(f"{ROOT}/"), []).append(code.co_qualname)
        os.write(1, f"{SIGN}{json.dumps(files)}\n".encode())  # what is printed would become a log line


def main() -> None:
    """Run the daemon as ``twistd -n`` does."""
    from twisted.internet import reactor as real_reactor
    from twisted.scripts import twistd

    reactor: Any = real_reactor
    profiler = Profiler(reactor)
    # Not at once: what has come before the signal is dealt with first.
    signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(profiler.report))
    profiler.install()
    sys.argv[:1] = ["twistd", "-n", "--pidfile="]
    twistd.run()


if __name__ == "__main__":
    main()
