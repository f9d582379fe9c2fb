"""twistd whose reactor notes the longest of its iterations: ``python -m benchmarks.timed_loop FILE twistd's words``.

The file gets the most seconds of CPU time that passed between two looks at the connections; what other processes of
a busy machine take is not among them.  It is written anew whenever an iteration was longer than all before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import thread_time
from typing import Any

from twisted.internet import reactor
from twisted.scripts.twistd import run


class TimedPoller:
    """An epoll object; see ``select.epoll``."""

    def __init__(self, poller: Any, file: Path) -> None:
        self._poller, self._file = poller, file
        self._began, self._longest = thread_time(), 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def poll(self, *arguments: Any) -> Any:
        took = thread_time() - self._began
        if took > self._longest or not self._file.exists():  # who has removed the file begins anew
            self._longest = took
            self._file.write_text(str(took), "utf-8")
        found = self._poller.poll(*arguments)
        self._began = thread_time()
        return found


if __name__ == "__main__":
    loop: Any = reactor
    loop._poller = TimedPoller(loop._poller, Path(sys.argv[1]))
    sys.argv[:] = ["twistd", *sys.argv[2:]]
    run()
