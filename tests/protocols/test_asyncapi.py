"""docs/asyncapi.json describes the frames that are sent, those that are taken, and every method of the broker."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.messages import EPOCH, MISSED, Loss
from protocols.owlmeans import wire
from protocols.owlmeans.frames import ENVELOPE, RECEIVED, SENT, Frame
from protocols.owlmeans.reserved import METHODS
from protocols.owlmeans.session import FRAMES
from tests.protocols.owlmeans_emulator import HOLD, Room

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text())
    return found


def test_the_file_is_what_the_code_makes() -> None:
    spec = importlib.util.spec_from_file_location("asyncapi_page", DOCS / "asyncapi_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == (DOCS / "asyncapi.json").read_text(), (
        "python docs/asyncapi_page.py >docs/asyncapi.json brings it up to date"
    )


def test_it_has_each_frame_that_a_client_may_send() -> None:
    assert set(SENT) == {*FRAMES, "auth"}
    for frame in SENT.values():
        assert {*frame.needed, *frame.more} <= set(ENVELOPE)


def test_it_has_each_method_of_the_broker(document: dict[str, Any]) -> None:
    for name in METHODS.names:
        schema = document["components"]["messages"][name]["payload"]
        assert schema["properties"]["method"] == {"const": name}
        arguments = schema["properties"]["payload"]
        assert arguments["maxItems"] == len(METHODS.classes[name].__struct_fields__)
        assert document["operations"][name]["action"] == "receive"


def test_its_references_lead_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [each for item in value.values() for each in references(item)]
        return [each for item in value for each in references(item)] if isinstance(value, list) else []

    for reference in {*references(document)}:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def described(frame: dict[str, Any]) -> str:
    """Return the name under which *frame*, which a client was sent, is described.

    Raises:
        AssertionError: it is not.
    """
    data = json.dumps(frame).encode()
    for name, kind in RECEIVED.items():
        try:
            msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            continue
        return name
    raise AssertionError(frame)


def sent_in_a_session() -> list[dict[str, Any]]:
    """Return the frames of clients who use everything."""
    room = Room(auth_deadline_seconds=0.0)
    ann, bob = room.join("ann"), room.join("bob")
    room.offer(ann, "sum", lambda *numbers: sum(numbers))
    room.offer(ann, "hold", lambda: HOLD)
    assert room.ask(bob, "sum", 1, 2) == 3
    bob.client.call("nobody")
    bob.client.call("hold", id="held")
    room.ask(bob, "broker.cancel", "held")
    ann.client.acknowledge(lambda message: ann.client.reply(message["id"], 1) is None)
    room.ask(ann, "broker.acknowledge", "news")
    bob.client.request({"action": "news"})
    room.ask(ann, "broker.subscribe", ["a", "b.*"], {"cursor": "me"})
    room.ask(ann, "broker.watch", "k*", {"previous": True})
    room.ask(bob, "broker.publish", "a", 1, {"durable": True, "content_type": "text/plain", "ttl": 60})
    room.ask(bob, "broker.publish", "b.c", 2)
    room.ask(bob, "broker.set", "key", "v")
    room.ask(ann, "broker.consume", "work", {"ack": True})
    room.ask(bob, "broker.enqueue", "work", 1)
    bob.client.enqueue(1, "m", recipient="ann")
    bob.client.notify("broker.x", 1)
    bob.client.ping()
    bob.client.auth("init", {})
    room.advance(1)
    return [*ann.client.frames, *bob.client.frames]


RARE = [
    wire.expiring(30.0, 1.0),
    wire.gap("a", 7),
    *(wire.gap_of_changes("kv/k*", why) for why in (MISSED, EPOCH)),
    wire.gap_of(Loss("a", "e", 1, 2, "retention")),
    wire.gap_of(Loss("a", "e", 1, None, "epoch")),
    wire.notice("SocketErrorMessage|||socket:message:limit:rate|||", wire.Envelope(type="event", event="a"), 0.02),
    wire.failure("SocketErrorMessage|||socket:message:limit:rate|||", False, 0.02)[0]
    % (b'"1"', b'"x"', b'"broker"', 1),
    wire.failure("SocketErrorMessage|||socket:message:limit:rate|||", True, 0.02)[0] % (b'"1"', b"{}", b'"broker"', 1),
]


def test_every_frame_that_a_client_is_sent_is_described() -> None:
    seen = {described(frame) for frame in [*sent_in_a_session(), *map(json.loads, RARE)]}
    assert seen == set(RECEIVED)
    assert all(issubclass(kind, Frame) for kind in RECEIVED.values())
