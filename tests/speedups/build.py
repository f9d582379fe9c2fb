"""Builds the accelerator with AddressSanitizer and UndefinedBehaviorSanitizer, and puts it into the place of the other.

``python -m tests.speedups.build DIRECTORY [more options of the compiler]`` prints the path of what it has built.
``TXBROKER_TESTED_SPEEDUPS`` names such a file for :func:`load_from_environment`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

NAME = "broker._speedups"
SOURCE = Path(__file__).parents[2] / "broker" / "_speedups.c"
VARIABLE = "TXBROKER_TESTED_SPEEDUPS"
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wno-cast-function-type", "-Wno-missing-field-initializers")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g")


def compiler() -> str | None:
    """Return the C compiler, if there is one that can build for this Python."""
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return shutil.which(os.environ.get("CC", "gcc")) if headers.exists() else None


def build(directory: Path, *options: str) -> Path:
    """Compile the accelerator in *directory*."""
    built = directory / f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_paths()['include']}"
    program = compiler()
    assert program is not None
    command = [program, "-shared", "-fPIC", "-fwrapv", include, *STRICT, *options, str(SOURCE), "-o", str(built)]
    subprocess.run(command, check=True)
    return built


def load(path: Path, name: str = NAME) -> ModuleType:
    """Return a new module of the extension at *path*."""
    spec = spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
    assert spec is not None
    module = module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def load_from_environment() -> None:
    """Let the broker have the accelerator that the environment names, if it names one."""
    path = os.environ.get(VARIABLE)
    if path:
        sys.modules[NAME] = built = load(Path(path))
        setattr(import_module("broker"), "_speedups", built)  # noqa: B010  # as an import would


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), *(sys.argv[2:] or SANITIZED)))
