from collections.abc import Callable, Iterator
from typing import Any, final

@final
class Frames(Iterator[tuple[bytes, bool]]):
    @property
    def position(self) -> int: ...
    @property
    def slow(self) -> bool: ...
    def __next__(self) -> tuple[bytes, bool]: ...

@final
class Envelope:
    type: str
    id: str
    method: str
    event: str
    recipient: str
    stage: str | None
    timeout: float | None
    dt: float
    payload: bytes

def read_frames(data: bytes, start: int, limit: int, /) -> Frames: ...
def read_envelope(otherwise: Callable[[bytes], Any], data: bytes, /) -> Any: ...
def write_json(encode: Callable[[Any], bytes], form: bytes, /, *values: object) -> bytes: ...
