"""Packs ``broker.client``, and the modules of the broker that it imports; all else is in pyproject.toml.

The files are those of the repository, two directories above; in a source archive, copies of them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

REPOSITORY = Path("..", "..")
SOURCE = REPOSITORY if (REPOSITORY / "broker" / "client").is_dir() else Path()
MODULES = ("broker.errors", "broker.patterns", "broker.remembered")  # and broker itself
MARKER = Path("broker", "py.typed")
LINKED = ("LICENSE", "reproducible.py")  # in the repository, links to files that are outside of this directory, too
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


class BuildTyped(build_py):
    """Adds the marker that says that there are types: it stands in a package of which not all modules are taken."""

    def run(self) -> None:
        """Build."""
        super().run()
        self.copy_file(str(SOURCE / MARKER), str(Path(self.build_lib, MARKER)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name the marker, too."""
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, MARKER))]


class CopySource(sdist):
    """Puts what is outside of this directory into the archive."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy all."""
        super().make_release_tree(base_dir, [name for name in files if not name.startswith("..")])
        names = [
            Path("broker", "__init__.py"),
            MARKER,
            *(Path(*name.split(".")).with_suffix(".py") for name in MODULES),
        ]
        names += [path.relative_to(SOURCE) for path in sorted((SOURCE / "broker" / "client").glob("*.py"))]
        for name in names:
            Path(base_dir, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SOURCE / name, Path(base_dir, name))
        for name in LINKED:
            Path(base_dir, name).unlink(missing_ok=True)
            shutil.copyfile(name, Path(base_dir, name))


found = VERSION.search((SOURCE / "broker" / "__init__.py").read_text("utf-8"))
assert found is not None
setup(
    version=found[1],
    package_dir={"": str(SOURCE)},
    packages=["broker.client"],
    py_modules=list(MODULES),
    cmdclass={"build_py": BuildTyped, "sdist": CopySource},
)
