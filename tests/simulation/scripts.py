"""The broker's own Lua scripts, run by Lua 5.1 as Redis runs them."""

from __future__ import annotations

from functools import cache
from typing import Any

from lupa import lua51

from tests.simulation.commands import CommandError, Data, Status, digest

Table = Any  # a table of Lua


class Scripts:
    """Runs scripts; one is enough for all servers, since a script keeps nothing."""

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True, register_eval=False)
        self._table_from = self._lua.table_from
        self._is_table = self._lua.eval(b"function(value) return type(value) == 'table' end")
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
        found = self._data.execute(name.upper(), *[word if type(word) is bytes else _text(word) for word in words])
        return self._value(found)

    def _value(self, found: Any) -> Any:
        """Return a reply of a command as Lua has it."""
        if found is None:
            return False
        if type(found) is list:
            return self._table_from([self._value(each) for each in found])
        if type(found) is Status:
            return self._table_from({b"ok": bytes(found)})
        return found

    def _reply(self, value: Any) -> Any:
        """Return what a script has returned as a client sees it."""
        kind = type(value)
        if kind is bytes:
            return value
        if value is None or value is False:
            return None
        if kind is bool:
            return 1
        if kind in (int, float):
            return int(value)
        error = value[b"err"]
        if error is not None:
            return CommandError(error.decode("utf-8", "replace"))
        status = value[b"ok"]
        if status is not None:
            return Status(status)
        found = []
        for index in range(1, len(value) + 1):
            each = value[index]
            if each is None:
                break
            found.append(self._reply(each))
        return found


def _text(number: float) -> bytes:
    """Return a number of Lua as Redis takes it for an argument."""
    return b"%d" % number if number == int(number) else b"%.17g" % number


@cache
def scripts() -> Scripts:
    """Return those of this process."""
    return Scripts()
