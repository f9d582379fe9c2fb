"""A broker for the examples: on port 8000, or ``PORT``, or another one where that is in use."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO

HERE = Path(__file__).parent
DIALECTS = "owlmeans ganomede thinws hpkv microstream http page:dialect"


def listen() -> str:
    """Return the endpoint to listen at."""
    port = int(os.environ.get("PORT", "8000"))
    with socket.socket() as probe:
        in_use = probe.connect_ex(("127.0.0.1", port)) == 0
    return f"tcp:{0 if in_use else port}:interface=127.0.0.1"


def twistd() -> Path:
    """Return the program that starts the broker; it is beside the Python that has it."""
    program = Path(sys.executable).with_name("twistd")
    if not program.exists():
        sys.exit(f"{sys.executable} has no broker: `make run` once, then .venv/bin/python {sys.argv[0]} …")
    return program


def install(plugin: Path, site: str) -> None:
    """Install a plugin for this broker alone; yours go where the broker is installed, by ``pip install``."""
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site)
    subprocess.run([*pip, plugin], check=True)


def show_troubles(lines: IO[str]) -> None:
    """Print the warnings and errors among the *lines* of the broker's log."""
    for line in lines:
        if '"level":"info"' not in line:
            print(line, end="", file=sys.stderr)


@contextmanager
def broker(plugin: str = "", **settings: str) -> Iterator[str]:
    """Run a broker, and yield its URL; what it has stored is gone at the end."""
    with TemporaryDirectory(prefix="txbroker-example-") as state:
        if plugin:
            install(HERE / "plugin", f"{state}/site")
        path = [str(HERE), f"{state}/site", os.environ.get("PYTHONPATH", "")]
        environ = {"TXBROKER_LISTEN": listen(), "TXBROKER_ADMIN_LISTEN": "none", **settings, **os.environ}
        environ |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "STATE_DIRECTORY": state}
        environ |= {"TXBROKER_PROTOCOLS": f"{DIALECTS} {plugin}", "TXBROKER_LOG_FORMAT": "json"}
        command = [str(twistd()), "-n", "--pidfile=", "broker"]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            ready = next((line for line in process.stdout if '"url":' in line), None)
            if ready is None:
                sys.exit("the broker did not start")
            Thread(target=show_troubles, args=(process.stdout,), daemon=True).start()
            yield json.loads(ready)["url"]
        finally:
            process.terminate()
            process.wait()
