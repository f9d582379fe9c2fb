"""``python -m broker.app.workers.main``: what a worker runs, which is twistd without a daemon's surroundings."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main() -> None:
    """Run twistd with the arguments of this process."""
    with suppress(OSError):
        os.setsid()  # Control-C is for the supervisor, which tells its workers
    if "LISTEN_PID" in os.environ:
        # sd_listen_fds(3): of systemd's sockets that were passed on.  Twisted reads it when it is imported.
        os.environ["LISTEN_PID"] = str(os.getpid())
    from broker.app.signals import hold_signals

    hold_signals()
    end_with_parent()
    from twisted.scripts.twistd import run

    run()


def end_with_parent() -> None:
    """Let the kernel end this process when that which has started it ends, however it does."""
    from broker.app.workers.plan import VARIABLE

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != json.loads(os.environ[VARIABLE])["supervisor"]:
        sys.exit(1)  # it had ended before


if __name__ == "__main__":
    main()
