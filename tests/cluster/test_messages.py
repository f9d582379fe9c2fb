"""What travels between nodes arrives as it was."""

import msgspec
import pytest

from broker import errors
from broker.cluster.messages import Drain, PlainCall, WireError, decode_all, encode, encode_all
from broker.errors import BrokerError, CalleeFailed
from broker.messages import Reply
from tests.support.logs import logging

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


def test_messages_are_encoded_together_with_those_that_were_before():
    reply = Reply("id", b"[1]", None, "bob")
    first, second, third = decode_all(msgspec.Raw(encode_all([msgspec.Raw(encode(Drain("a"))), reply, Drain("b")])))
    assert (first.queue, second.ref, second.body, second.source, third.queue) == ("a", "id", b"[1]", "bob", "b")


def test_one_that_can_not_be_encoded_takes_no_other_with_it():
    with logging() as events:
        array = encode_all([Drain("a"), Drain("\ud800"), Drain("b")])
    first, failed, last = decode_all(msgspec.Raw(array))
    assert (first.queue, type(failed), last.queue) == ("a", msgspec.ValidationError, "b")
    assert len(events) == 1


def test_a_plain_call_says_what_a_whole_one_says():
    call = PlainCall("id", "a.b", b"[1]", "ann", 2.0, 3.0, "owlmeans").called()
    request = call.request
    assert (call.name, call.quiet, request.id, request.procedure) == ("procedure:a.b", False, "id", "a.b")
    assert (request.body, request.caller, request.timeout, request.time) == (b"[1]", "ann", 2.0, 3.0)
    assert (request.dialect, request.recipient, request.streamed, request.original) == ("owlmeans", "", False, b"")
