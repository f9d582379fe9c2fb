"""Puts the JavaScript client into the package that serves it, and builds what is in C; all else is in setup.cfg."""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

SOURCE, TARGET = Path("clients", "js"), Path("protocols", "http")
FILES = ("txbroker.js", "txbroker.d.ts")


class BuildWithClient(build_py):
    """Copies the client; in the repository, where it is found at its own place, there is no second one."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            for name in FILES:
                self.copy_file(str(SOURCE / name), str(Path(self.build_lib, TARGET, name)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name the copies, too."""
        return [*super().get_outputs(include_bytecode), *(str(Path(self.build_lib, TARGET, name)) for name in FILES)]


# Without a compiler, or with one that fails, the broker does without them.
COMPILED = [Extension(f"broker.{name}", [f"broker/{name}.c"], optional=True) for name in ("_speedups", "_arenas")]

# The wheel of a release is for every machine and Python, so that it has none: see release/reproducible.py.
setup(cmdclass={"build_py": BuildWithClient}, ext_modules=[] if os.environ.get("PURE_WHEEL") else COMPILED)
