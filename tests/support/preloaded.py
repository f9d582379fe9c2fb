"""Libraries that come between other processes and the C library, by ``LD_PRELOAD``; compiled when they are needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FLAGS = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
LIBRARIES = ("-ldl", "-lpthread")


class NoCompiler(Exception):
    """There is none; the message says how to get one."""


def find_compiler() -> str:
    """Return the C compiler.

    Raises:
        NoCompiler: there is none.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("a C compiler is needed: apt-get install gcc libc6-dev, or what your system calls it")
    return compiler


def compile_library(source: Path, directory: Path) -> Path:
    """Compile *source* into *directory*, without a warning; return the library.

    Raises:
        NoCompiler: there is none.
    """
    library = directory / f"{source.stem}.so"
    command = [find_compiler(), *FLAGS, "-o", str(library), str(source), *LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library
