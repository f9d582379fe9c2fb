"""The text of a Lua script that does many operations in one call."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from broker.versions import FORM

PACKAGE = "broker.redis.scripts"  # of the parts that all scripts have
HEAD = b"local FORM = %d  -- see broker/versions.py" % FORM  # of each script


class Script:
    """The text of several .lua files, one after the other, as one script.

    The first is always ``begin.lua``, the last ``run.lua``: the others fill the table ``verbs``, and those of
    ``begin.lua`` if a verb may stop, and set ``FIRST`` and ``STOP``.  All know ``FORM``.

    Args:
        package: where the files are.
        names: their names, without the ending.

    Attributes:
        text: of all of them.
        hash: by which the server calls it, once it is loaded.
    """

    def __init__(self, package: str, *names: str) -> None:
        parts = [(PACKAGE, "begin"), *((package, name) for name in names), (PACKAGE, "run")]
        self.text = b"\n".join([HEAD, *(read_part(*part) for part in parts)])
        self.hash = b""

    async def load(self, protocol: Any) -> None:
        """Load it into the script cache of the server."""
        self.hash = await protocol.execute_command(b"SCRIPT", b"LOAD", self.text)


@cache
def read_part(package: str, name: str) -> bytes:
    """Return the text of the file *name*.lua of *package*."""
    return files(package).joinpath(f"{name}.lua").read_bytes()
