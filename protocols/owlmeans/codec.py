"""How frames become envelopes, and what the hot path sends becomes JSON: in Python, or with the accelerator.

Both do the same.  The accelerator reads what clients nearly always send, and hands all else to ``PYTHON``: members that
the broker does not know, that are there twice, of a wrong type or with escapes; a frame without a payload; numbers of
which :func:`broker.jsontext.overflows` has to say whether they are finite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from broker.speedups import AUTO, speedups
from protocols.owlmeans.wire import CALL, RESULT, Envelope, call, decode, encode, result


@attrs.frozen
class Codec:
    """The functions.

    Attributes:
        read: returns the envelope of a frame, or raises what ``wire.decode`` does.
        call: returns a call as JSON, of its id, method, arguments, timeout, caller, callee and time; arguments and
            callee are JSON already.
        result: returns a result as JSON, of its id, payload, sender and time; the payload is JSON already.
    """

    read: Callable[[bytes], Envelope]
    call: Callable[[str, str, bytes, int, str, bytes, int], bytes]
    result: Callable[[str, bytes, str, int], bytes]


PYTHON = Codec(decode, call, result)


def codec(setting: str = AUTO) -> Codec:
    """Return the codec to use by *setting*, see ``broker.speedups``."""
    module = speedups(setting)
    if module is None:
        return PYTHON
    return Codec(
        partial(module.read_envelope, decode),
        partial(module.write_json, encode, CALL),
        partial(module.write_json, encode, RESULT),
    )
