"""``make release VERSION=1.2.3``: say that version everywhere, and make the fragments an entry of the changelog.

``broker.__version__`` is the version; what else shows it is made to follow.  Nothing is committed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from broker import __version__

ROOT = Path(__file__).parent.parent
FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
HEADING = re.compile(r"^(\d\S*) \(.+\)\n-+$", re.MULTILINE)


class Refused(Exception):
    """It can not be the next version, or not now."""


def numbers(version: str) -> tuple[int, ...]:
    """Return *version* as what can be compared.

    Raises:
        Refused: it is not of a form that pip and npm know.
    """
    if not FORM.fullmatch(version):
        raise Refused(f"VERSION is three numbers, as in 1.2.3, and not {version!r}")
    return tuple(map(int, version.split(".")))


def check(version: str, root: Path) -> None:
    """Check that *version* can be the next one, and that nothing else is under way.

    Raises:
        Refused: why not.
    """
    released = [numbers(found) for found in HEADING.findall((root / "CHANGELOG.rst").read_text("utf-8"))]
    if released and numbers(version) <= max(released):
        raise Refused(f"{version} is not after {'.'.join(map(str, max(released)))}, which CHANGELOG.rst has already")
    if numbers(version) < numbers(__version__):
        raise Refused(f"{version} is before {__version__}, which broker/__init__.py says")
    if run("git", "status", "--porcelain", root=root):
        raise Refused("there are changes that are not committed")


def followers(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that say the version, each with a pattern of what stands before it."""
    yield root / "broker" / "__init__.py", r'(?<=^__version__ = ")'
    for path in (root / "clients").rglob("package.json"):
        if "node_modules" not in path.parts:
            yield path, r'(?<="version": ")'
    pages = [*(root / "docs").rglob("*.rst"), *root.glob("*.rst"), *(root / "contrib").rglob("*.y*ml")]
    for path in pages:
        yield path, r"(?<=\btxbroker[ -])"


def write(version: str, root: Path) -> list[Path]:
    """Let all files say *version* in the place of the present one; return those that are changed."""
    changed = []
    for path, before in followers(root):
        text = path.read_text("utf-8")
        again = re.sub(before + re.escape(__version__) + r"\b", version, text, flags=re.MULTILINE)
        if again != text:
            path.write_text(again, "utf-8")
            changed.append(path)
    return changed


def run(*words: str, root: Path = ROOT) -> str:
    """Return what a command writes to its standard output."""
    return subprocess.run(words, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout


def prepare(version: str, root: Path) -> None:
    """Do all of it.

    Raises:
        Refused: it can not be done.
    """
    check(version, root)
    write(version, root)
    (root / "docs" / "asyncapi.json").write_text(run(sys.executable, "docs/asyncapi_page.py", root=root), "utf-8")
    run(sys.executable, "-m", "towncrier", "build", "--yes", "--version", version, root=root)
    run("git", "add", "--update", root=root)


def main() -> int:
    """Return the exit status: 1 when nothing was done."""
    if len(sys.argv) != 2 or not sys.argv[1]:
        print("usage: make release VERSION=1.2.3", file=sys.stderr)
        return 1
    try:
        prepare(sys.argv[1], ROOT)
    except (Refused, subprocess.CalledProcessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    version = sys.argv[1]
    print(f"Look at it by `git diff --cached`; then `git commit -m 'Release {version}.'`, `make release-check`,")
    print(f"and, when its last line names 3.11, 3.12 and 3.13, `git tag v{version}`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
