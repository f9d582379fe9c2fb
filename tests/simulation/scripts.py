"""The broker's own Lua scripts, run by LuaJIT: its language is Lua 5.1, which Redis has, and it takes half the time.

``test_server.py`` compares the two.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lupa import lua51

from tests.simulation.commands import CommandError, Data, Status, digest

try:
    from lupa import luajit21 as fastest
except ImportError:  # not on every machine
    fastest = lua51

Table = Any  # a table of Lua
PLAIN = {bytes, int}  # the types of what is the same for a client, a command and a script
MAX_UNPACKED = 1000  # elements of a table that are got at once


class Scripts:
    """Runs scripts; one is enough for all servers, since a script keeps nothing.

    Args:
        lua: the module of ``lupa`` that runs them.
    """

    def __init__(self, lua: Any = fastest) -> None:
        self._lua = lua.LuaRuntime(encoding=None, unpack_returned_tuples=True, register_eval=False)
        self._table_from = self._lua.table_from
        # What a table has as a reply, in one step; of a long one only how long it is.
        self._unpack = self._lua.eval(
            b"function(value) if #value > %d then return value.err, value.ok, #value end "
            b"return value.err, value.ok, #value, unpack(value) end" % MAX_UNPACKED
        )
        self._lua.execute(b"collectgarbage('setpause', 1000)")  # each run leaves little: less work for the collector
        self._compiled: dict[bytes, Any] = {}
        self._data: Data
        library = {
            b"call": self._call,
            b"pcall": self._call,
            b"sha1hex": digest,
            b"error_reply": lambda text: self._table_from({b"err": text}),
            b"status_reply": lambda text: self._table_from({b"ok": text}),
            b"acl_check_cmd": lambda *_: True,
        }
        self._lua.globals()[b"redis"] = self._table_from(library)

    def load(self, text: bytes) -> bytes:
        """Compile a script; return what it is called by."""
        name = digest(text)
        if name not in self._compiled:
            # Nothing that depends on time or chance, as in Redis.
            self._compiled[name] = self._lua.eval(b"function(KEYS, ARGV)\n" + text + b"\nend")
        return name

    def run(self, name: bytes, data: Data, words: tuple[bytes, ...]) -> Any:
        """Run a loaded script on *data*; return its reply.

        Raises:
            CommandError: it is not loaded, or replies with an error.
        """
        script = self._compiled.get(name)
        if script is None:
            raise CommandError("NOSCRIPT No matching script. Please use EVAL.")
        self._data = data
        return self._reply(script(self._table_from(()), self._table_from(words)))

    def _call(self, name: bytes, *words: Any) -> Any:
        for word in words:
            if type(word) is not bytes:
                words = tuple([word if type(word) is bytes else _text(word) for word in words])
                break
        found = self._data.execute(name, *words)
        return found if type(found) in PLAIN else self._value(found)

    def _value(self, found: Any) -> Any:
        """Return a reply of a command as Lua has it."""
        if found is None:
            return False
        if type(found) is list:
            if not all(type(each) is bytes for each in found):
                found = [self._value(each) for each in found]
            return self._table_from(found)
        if type(found) is Status:
            return self._table_from({b"ok": bytes(found)})
        return found

    def _reply(self, value: Any) -> Any:
        """Return what a script has returned as a client sees it."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if value is None or value is False:
            return None
        if kind is bool:
            return 1
        if kind is float:
            return int(value)
        error, status, length, *elements = self._unpack(value)
        if error is not None:
            return CommandError(error.decode("utf-8", "replace"))
        if status is not None:
            return Status(status)
        if length > len(elements):
            elements = [value[index] for index in range(1, length + 1)]
        if None in elements:
            del elements[elements.index(None) :]
        return [each if type(each) in PLAIN else self._reply(each) for each in elements]


def _text(number: float) -> bytes:
    """Return a number of Lua as Redis takes it for an argument."""
    return b"%d" % number if number == int(number) else b"%.17g" % number


@cache
def scripts() -> Scripts:
    """Return those of this process."""
    return Scripts()
