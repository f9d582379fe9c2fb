"""Prints the page of all error codes: ``python docs/errors_page.py >docs/reference/error-codes.rst``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from broker import errors
from broker.errors import BrokerError
from protocols.ganomede import answers as ganomede
from protocols.hpkv import frames as hpkv
from protocols.http import answers as http
from protocols.microstream import wire as microstream
from protocols.owlmeans import marshalled as owlmeans
from protocols.thinws import session as thinws

BEGINNING = """Error codes
===========

After this page you know what each error means, how each dialect says it, and what to do.

.. Written by docs/errors_page.py from the tables of the dialects.

``what`` and ``name`` stand for what was wrong, such as ``method`` and ``math.add``.
``broker.client`` raises an exception for each code, :doc:`client`, and so does the client in JavaScript.
How connections are closed, and what the log says: :doc:`../operations/troubleshooting`.
"""
# What to do, by code.
ADVICE = {
    "NOT_FOUND": "Look at the spelling, and whether who performs it is connected: ``txbroker services`` lists them.",
    "TIMEOUT": "The callee may still be at work.  Ask for a longer timeout, or make the call one that may be repeated.",
    "GONE": "The call may have been done or not.  Call again if that does no harm; read from the present epoch anew.",
    "TAKEN": "Give it another name, or end who holds it: ``txbroker connections`` shows who that is.",
    "UNAUTHENTICATED": "Show a credential, or a newer one; do not try again with the same.",
    "DENIED": "Let the permissions file allow it, or use another credential; to try again is of no use.",
    "INVALID": "Mend the request: the text names the argument that is malformed.",
    "TOO_LARGE": "Send less: ``TXBROKER_MAX_MESSAGE_BYTES`` and ``TXBROKER_MAX_VALUE_BYTES`` are the limits.",
    "RATE_LIMITED": "Wait as long as ``retry_after`` or ``Retry-After`` says, and go on more slowly.",
    "UNAVAILABLE": "Wait and try again, with the same key if it was a write; ``/ready`` says what is away.",
    "BUSY": "It was not begun: try again in a moment, or let more clients perform it.",
    "CANCELLED": "You have cancelled it; it may have been done or not.",
    "CONFLICT": "Somebody else was faster: read what is there now, and decide anew.",
    "INTERNAL": "A fault of the broker: its log has a line with a traceback.  Please report it.",
}


def kinds() -> Iterator[type[BrokerError]]:
    """Yield the class of each code."""
    found: dict[str, type[BrokerError]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, BrokerError) and "code" in vars(kind):
            found.setdefault(kind.code, kind)
    yield from (kind for kind in found.values() if kind is not BrokerError)
    yield BrokerError


def words(kind: type[BrokerError]) -> dict[str, str]:
    """Return how each dialect says an error of *kind*; what it can not say is not in it."""
    error = kind("what", "name")
    status = http.STATUSES.get(kind.code, 500)
    ganomede_status, ganomede_code = ganomede.CODES.get(kind.code, ganomede.INTERNAL)
    code = json.loads(hpkv.error(error, b""))["code"]
    told = {"INVALID": "what is wrong"}  # which is another sentence each time
    text = told.get(kind.code) or hpkv.ERRORS.get(kind.code, (500, "Internal server error"))[1]
    room_text = told.get(kind.code) or thinws.ERRORS.get(kind.code, "Internal server error")
    service = json.loads(microstream.failed_response(error, "name", "1"))["error"]
    return {
        "owlmeans": f"``{owlmeans.marshal(error)}``",
        "ganomede": f"{ganomede_status} ``{ganomede_code}``",
        "thinws": f"``{room_text}``",
        "hpkv": f"{code} ``{text}``",
        "microstream": f"``{service['code']}``, ``{service['message']}``",
        "http": f"{status}, ``code`` is ``{kind.code}``",
    }


# What a dialect has no request for, or closes the connection at; the words above would not be seen.
NOT_SAID = {
    "TIMEOUT": ("ganomede", "thinws", "hpkv"),
    "GONE": ("ganomede", "thinws", "hpkv"),
    "TAKEN": ("ganomede", "thinws", "hpkv"),
    "BUSY": ("ganomede", "thinws", "hpkv"),
    "CANCELLED": ("ganomede", "thinws", "hpkv", "microstream"),
    "CONFLICT": ("ganomede", "thinws", "hpkv", "microstream"),
    "NOT_FOUND": ("thinws",),
}


def page() -> str:
    """Return the page as reStructuredText."""
    return "\n".join([BEGINNING, *map(_entry, kinds())])


def _entry(kind: type[BrokerError]) -> str:
    about = re.sub(r"\s+", " ", (kind.__doc__ or "").partition("\n\n")[0])
    if kind is BrokerError:
        about = "Something that should not happen."
    said = {name: text for name, text in words(kind).items() if name not in NOT_SAID.get(kind.code, ())}
    rows = "\n".join(f":{name}: {text}" for name, text in said.items())
    return f"{kind.code}\n{'-' * len(kind.code)}\n\n{about}\n{ADVICE[kind.code]}\n\n{rows}\n"


if __name__ == "__main__":
    print(page(), end="")
