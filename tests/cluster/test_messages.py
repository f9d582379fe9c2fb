"""What travels between nodes arrives as it was."""

import pytest

from broker import errors
from broker.cluster.messages import WireError
from broker.errors import BrokerError, CalleeFailed

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BrokerError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (CalleeFailed, errors.Refused)])
@pytest.mark.parametrize("more", [{}, {"message": "A sentence."}, {"data": b"[1]"}])
def test_an_error_of_any_kind(kind, more):
    error = kind("what", "name", **more)
    arrived = WireError.of(error).error()
    assert type(arrived) is kind
    for name in ("code", "what", "name", "message", "explanation", "data"):
        assert getattr(arrived, name) == getattr(error, name)


def test_an_error_of_the_callee_itself():
    arrived = WireError.of(CalleeFailed("OWN", "", b"{}")).error()
    assert (type(arrived), arrived.code, arrived.message, arrived.data) == (CalleeFailed, "OWN", "", b"{}")
