"""Cut the power of a daemon, again and again: ``python -m tests.faults.power_cut 300``.

It prints how many images were tried, how much had been acknowledged at the moments of the cuts, how much
of that was lost, and the same of a control that ignores each sync, which has to lose something.  What a
failed run has recorded is kept: with ``--recording``, a seed makes the same image again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from random import randrange
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.faults.power_cut.replay import Recording, check_by_daemon, check_by_store, explain, record
from tests.support.preloaded import NoCompiler

STEPS = ("kill", "stop", "compact", "kill", "stop")  # of a recording
GOAL, LARGE = 200, 9  # events in each life, and large keys
BY_DAEMON, CONTROL = 0.03, 0.2  # as many images more, as parts of those that are asked for
FEW = 10  # images, of which the control may lose nothing by chance


async def run(options: argparse.Namespace, work: Path) -> str:
    """Record in *work* unless there is a recording, and replay; return what is wrong."""
    recording = Recording.load(options.recording) if options.recording else await record(work, STEPS, GOAL, large=LARGE)
    print(f"recorded: {recording}; seeds from {options.seed} on")
    by_store = check_by_store(recording, options.seed, options.images)
    print(f"by a store: {by_store}")
    by_daemon = await check_by_daemon(recording, options.seed, round(options.images * BY_DAEMON))
    print(f"by a daemon: {by_daemon}")
    control = check_by_store(recording, options.seed, max(1, round(options.images * CONTROL)), syncs=False)
    print(f"control, syncs ignored: {control}, on {len(control.broken)} of {control.images} images")
    wrong = explain(options.recording or work, by_store, by_daemon)
    return wrong or ("the control has lost nothing" if options.images >= FEW and not control.lost else "")


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power_cut", description=__doc__)
    parser.add_argument("images", type=int, nargs="?", default=300, metavar="IMAGES")
    parser.add_argument("--seed", type=int, default=randrange(1 << 30), help="of the first image")
    parser.add_argument("--recording", type=Path, metavar="DIRECTORY", help="what a failed run has kept")
    options = parser.parse_args()

    async def do(_: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="txbroker-") as work:
            try:
                wrong = await run(options, Path(work))
            except NoCompiler as error:
                wrong = str(error)
        if wrong:
            sys.exit(wrong)

    react(lambda reactor: Deferred.fromCoroutine(do(reactor)))


if __name__ == "__main__":
    main()
