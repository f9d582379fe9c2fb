"""Builds the image of contrib/docker/Dockerfile without Docker, in a Debian root, and runs it once.

``python -m tests.image ROOT`` takes the root of a Debian with Python, in the place of the base image::

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm ROOT

It is changed.  Needs to be root, for chroot.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import attrs

TREE = Path(__file__).parent.parent
DOCKER = TREE / "contrib" / "docker"
SECRET = "run/secrets/api_secret"
TIMEOUT = 60  # seconds until it must be healthy, or have ended
# What pip needs to reach an index from where this runs.
PASSED_ON = re.compile(r"PIP_\w+|\w+_(proxy|PROXY)|SSL_CERT_FILE|REQUESTS_CA_BUNDLE")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with what they say, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def ignored_patterns() -> list[str]:
    """Return the patterns of what is no part of the build's context."""
    lines = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def left_out(path: str, patterns: Iterable[str]) -> bool:
    """Whether *path*, in the tree, is no part of the context; ``**/`` stands for any directories, or none."""
    return any(
        fnmatch(path, pattern) or (pattern.startswith("**/") and fnmatch(Path(path).name, pattern[3:]))
        for pattern in patterns
    )


@attrs.define(eq=False)
class Image:
    """What is built in *root*."""

    root: Path
    environ: dict[str, str] = attrs.Factory(
        lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    )
    directory: str = "/"
    said: dict[str, str] = attrs.Factory(dict)  # the last of each instruction

    def build(self) -> None:
        """Do what the Dockerfile says, in one root for all its stages."""
        for word, rest in instructions():
            print(word, rest[:100], flush=True)
            self.said[word] = rest
            if word == "WORKDIR":
                self.directory = rest
                self.inside(rest).mkdir(parents=True, exist_ok=True)
            elif word == "ENV":
                pairs = (pair.split("=", 1) for pair in shlex.split(rest))
                self.environ |= {name: value.replace("$PATH", self.environ["PATH"]) for name, value in pairs}
            elif word == "COPY" and not rest.startswith("--from"):
                self.copy_context()
            elif word == "RUN":
                passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
                shell = ["/bin/sh", "-c", f"cd {self.directory} && {rest}"]
                subprocess.run(["chroot", self.root, *shell], env=self.environ | passed, check=True)

    def inside(self, path: str) -> Path:
        """Return where *path* of the image is."""
        return self.root / path.lstrip("/")

    def copy_context(self) -> None:
        """Copy the tree to where the build is, without what is ignored."""
        patterns = ignored_patterns()

        def ignored(folder: str, names: list[str]) -> list[str]:
            below = Path(folder).relative_to(TREE)
            return [name for name in names if left_out(str(below / name), patterns)]

        shutil.rmtree(self.inside(self.directory))
        shutil.copytree(TREE, self.inside(self.directory), ignore=ignored, symlinks=True)

    def start(self, command: list[str], **environ: str) -> subprocess.Popen[bytes]:
        """Start *command* in the image, as its user."""
        user = self.said["USER"]
        words = ["chroot", f"--userspec={user}", str(self.root), "/usr/bin/env", "-C", self.directory, *command]
        return subprocess.Popen(words, env=self.environ | environ)

    def run(self) -> None:
        """Start the daemon with a secret, wait until the check of its health is content, and end it."""
        self.inside(SECRET).parent.mkdir(parents=True, exist_ok=True)
        self.inside(SECRET).write_text("a secret that is for this run only\n")
        daemon = self.start(json.loads(self.said["ENTRYPOINT"]), TXBROKER_API_SECRET_FILE=f"/{SECRET}")
        end = time.monotonic() + TIMEOUT
        try:
            while self.start(json.loads(self.said["HEALTHCHECK"].partition("CMD ")[2])).wait():
                assert daemon.poll() is None, "it has ended"
                assert time.monotonic() < end, "it does not become healthy"
                time.sleep(0.5)
        finally:
            daemon.send_signal(signal.Signals[self.said["STOPSIGNAL"]])
        assert daemon.wait(TIMEOUT) == 0
        print("built, healthy, stopped")


def main() -> None:
    """Build in the root that is named, and run."""
    root = Path(sys.argv[1]).resolve()
    if not (root / "usr/bin/python").exists():  # the base image has it
        (root / "usr/bin/python").symlink_to("python3")
    image = Image(root)
    image.build()
    image.run()


if __name__ == "__main__":
    main()
