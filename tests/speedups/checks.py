"""Compares the accelerator with the Python code that it stands in for; each check raises AssertionError."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any, cast

import attrs
import pytest

from broker.jsontext import overflows
from broker.speedups import built
from broker.web.ws.autobahn import OPEN
from broker.web.ws.reader import FrameReader
from protocols.owlmeans.wire import Envelope, decode, encode

accelerator: Any = built
FIELDS = Envelope.__struct_fields__


class Odd(Exception):
    """The accelerator leaves this to the Python code."""


def _odd(data: bytes) -> Envelope:
    raise Odd


def quick_envelope(data: bytes) -> Any:
    """Return what the accelerator reads in *data* by itself; None: nothing."""
    try:
        return accelerator.read_envelope(_odd, data)
    except Odd:
        return None


def check_envelope(data: bytes) -> bool:
    """Check that *data* is read by both alike; say whether the accelerator reads it by itself."""
    found = quick_envelope(data)
    if found is None:
        return False
    expected = decode(data)  # it must not raise
    assert type(found.payload) is bytes
    assert not overflows(found.payload)
    for name in FIELDS:
        one, other = getattr(found, name), getattr(expected, name)
        assert one == (bytes(other) if name == "payload" else other), name
        assert type(one) is type(other) or name == "payload", name
    return True


@attrs.define(eq=False)
class Steady:
    """A time that does not pass, or passes when ``now`` was asked for so often."""

    end: float = inf
    time: float = 0.0

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def over(self) -> bool:
        return self.now() >= self.end


class Reader(FrameReader):
    """As much of a link as reading needs; notes all that it does."""

    def __init__(self, limit: int, slices: Steady, pause_after: int) -> None:
        self.max_fast_bytes = limit  # type: ignore[misc]
        self.read_frames = accelerator.read_frames  # type: ignore[misc]
        self.slices = cast(Any, slices)  # type: ignore[misc]
        self.state, self.data, self.receiving = OPEN, b"", True
        self.session = cast(Any, self)
        self.noted: list[Any] = []
        self._left = pause_after

    def received(self, payload: bytes, binary: bool) -> None:
        self.noted.append((payload, binary))
        self._left -= 1
        self.receiving = self._left != 0
        if payload == b"fail":
            raise ValueError("provoked")

    def session_failed(self) -> None:
        self.noted.append("failed")

    def sendPong(self, payload: bytes | None = None) -> None:
        self.noted.append(("pong", payload))

    def _postpone(self) -> None:
        self.noted.append("postponed")


def check_frames(data: bytes, limit: int = 65535, end: float = inf, pause_after: int = -1) -> int:
    """Check that both read the frames of *data* alike; return how many there are."""
    outcomes = []
    for way in (FrameReader._read_fast, FrameReader._read_compiled):
        reader = Reader(limit, Steady(end), pause_after)
        outcomes.append((way(reader, data), reader.data, reader.noted))
    assert outcomes[0] == outcomes[1]
    return len(outcomes[0][2])


def check_text(form: bytes, values: Sequence[object]) -> bytes:
    """Check that both write *values* into *form* alike, and return that."""
    encoded = [value if isinstance(value, bytes) else encode(value) for value in values]
    expected = form.replace(b"%d", b"%b") % tuple(encoded)
    assert accelerator.write_json(encode, form, *values) == expected
    return expected


def check_refused(form: bytes, values: Sequence[object]) -> None:
    """Check that what ``encode`` refuses is refused with the same error."""
    with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever it is
        [encode(value) for value in values if not isinstance(value, bytes)]
    with pytest.raises(expected.type):
        accelerator.write_json(encode, form, *values)


quick_decode = partial(accelerator.read_envelope, decode) if accelerator else decode
