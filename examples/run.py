"""Runs an example with a broker of its own: ``python examples/run.py NAME``.  Ctrl-C ends both.

With ``BROKER=http://host:port`` the programs use the broker that is there.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from local_broker import broker

HERE = Path(__file__).parent
EXAMPLES = {
    "chat": ("chat.html",),
    "consumer": ("consumer.py",),
    "dashboard": ("dashboard.html", "dashboard.py"),
    "pair": ("pair/prices.py", "pair/shop.js"),
    "plugin": ("plugin/try_it.py",),
    "tour": ("tour.py",),
    "worker": ("worker.py",),
}
KEY = {"TXBROKER_WEBHOOK_KEY": "s3cret"}  # a setting of the plugin


def command(file: Path) -> list[str]:
    """Return how to run *file*; what a program for Node needs is installed once."""
    if file.suffix == ".py":
        return [sys.executable, "-u", str(file)]
    if not (node := shutil.which("node")) or not (npm := shutil.which("npm")):
        sys.exit("this example needs Node and npm: apt-get install nodejs npm")
    if not (file.parent / "node_modules").exists() and "NODE_PATH" not in os.environ:
        subprocess.run([npm, "install", "--silent", "--no-fund", "--no-package-lock"], cwd=file.parent, check=True)
    return [node, str(file)]


def run(files: tuple[str, ...], url: str) -> int:
    """Run the programs among *files* until the last ends; a page stays until Ctrl-C."""
    programs: list[subprocess.Popen[bytes]] = []
    try:
        for file in files:
            if file.endswith(".html"):
                print(f"open {url}/examples/{file}", flush=True)
            else:
                programs.append(subprocess.Popen(command(HERE / file), env={**os.environ, **KEY, "BROKER": url}))
        while not programs:
            signal.pause()
        return programs[-1].wait()
    finally:
        for program in programs:
            program.terminate()
            program.wait()


def main(words: list[str]) -> int:
    """Run the example that *words* name and return its exit status."""
    if len(words) != 1 or words[0] not in EXAMPLES:
        print(f"usage: python examples/run.py {'|'.join(EXAMPLES)}", file=sys.stderr)
        return 2
    plugin = ("webhook", KEY) if words[0] == "plugin" else ("", {})
    there = os.environ.get("BROKER")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with nullcontext(there) if there else broker(plugin[0], **plugin[1]) as url:
            return run(EXAMPLES[words[0]], url)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
