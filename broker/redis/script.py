"""The text of a Lua script that does many operations in one call, and calling it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from broker.redis.connection import ResponseError

RUN = ("broker.redis.scripts", "run")  # package and name of the part that all scripts end with


class Script:
    """The text of several .lua files, one after the other, as one script.

    The last is always ``run.lua``: the others fill the table ``verbs`` and set
    ``FIRST`` and ``STOP``.

    Args:
        package: where the files are.
        names: their names, without the ending.
    """

    def __init__(self, package: str, *names: str) -> None:
        parts = [(package, name) for name in names] + [RUN]
        self._text = b"\n".join(files(folder).joinpath(f"{name}.lua").read_bytes() for folder, name in parts)
        self._hash = b""

    async def load(self, protocol: Any) -> None:
        """Load it into the script cache of the server."""
        self._hash = await protocol.execute_command(b"SCRIPT", b"LOAD", self._text)

    async def call(self, protocol: Any, arguments: list[bytes]) -> Any:
        """Return what it returns for *arguments*; load it first if the server has dropped it.

        Raises:
            ResponseError: the script has failed as a whole.
            ConnectionError: of txredisapi: there was no reply.
        """
        try:
            return await protocol.execute_command(b"EVALSHA", self._hash, b"0", *arguments)
        except ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        await self.load(protocol)
        return await protocol.execute_command(b"EVALSHA", self._hash, b"0", *arguments)
