"""The JavaScript client under Node, with a clock and a WebSocket that do what each test says."""

from __future__ import annotations

import json

import pytest_twisted

from broker import client, errors
from broker.client import ClientError
from broker.client.errors import error_of
from protocols.owlmeans.marshalled import marshal

BROKER_ERRORS = (
    *(
        errors.NotFound,
        errors.Timeout,
        errors.Gone,
        errors.Taken,
        errors.Unauthenticated,
        errors.Denied,
        errors.Invalid,
    ),
    *(errors.RateLimited, errors.Busy, errors.Cancelled, errors.Conflict),
)


def cases() -> list[tuple[str, str, str]]:
    """Return errors as the broker writes them, each with the code and the class that they are to have."""
    written = [marshal(each("payload", "x")) for each in BROKER_ERRORS]
    written += [marshal(errors.TooLarge("frame")), marshal(errors.BrokerError()), "DivisionError|||by zero|||", "text"]
    found = [error_of(each) for each in written]
    return [(each, error.code, type(error).__name__) for each, error in zip(written, found, strict=True)]


def test_the_cases_have_every_class_of_an_error_of_the_broker():
    own = {"Untrusted", "NotConnected", "ConnectionLost", "BufferFull", "Closed", "ClientError"}
    known = {name for name, each in vars(client).items() if isinstance(each, type) and issubclass(each, ClientError)}
    assert {name for _, _, name in cases()} == known - own


@pytest_twisted.ensureDeferred
async def test_it_does_what_its_own_tests_say(node):
    lines = await node.run("javascript_unit.mjs", ERRORS=json.dumps(cases()))
    counted = {
        line.split()[1]: line.split()[2] for line in lines if line.startswith(("# tests", "# pass", "# skipped"))
    }
    assert int(counted["tests"]) == int(counted["pass"]) + int(counted["skipped"]) > 50
