"""Whatever a client sends, the others go on and the strict client never fails."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.owlmeans.reserved import METHODS as OWN
from tests.protocols.owlmeans_emulator import HOLD, Room

pytestmark = pytest.mark.unmeasured  # others run the same code

TYPES = ("call", "result", "error", "request", "response", "event", "message", "auth", "ping", "pong", "system")
METHODS = ("m", "@bob/m", "@bob", "nope", "broker.nope", *OWN.names)
WORDS = (
    "",
    "a",
    "a.*",
    ">",
    "a.>.b",
    "bob",
    "alice",
    "queue:default",
    "*",
    "default",
    "broker.x",
    "\ud800",
    "x|||y",
    "\n",
)

words = st.sampled_from(WORDS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
frames = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(TYPES) | values,
        "id": words | values,
        "method": st.sampled_from(METHODS) | values,
        "event": words | values,
        "recipient": words | values,
        "stage": st.sampled_from(("authenticate", "authenticated", "init", "error")) | values,
        "timeout": st.sampled_from((0, 1, 100, 60000)) | values,
        "dt": values,
        "payload": values | st.lists(values, max_size=3) | st.fixed_dictionaries({"token": values}),
        "sender": values,
    },
)
texts = (
    frames.map(json.dumps)
    | values.map(json.dumps)
    | st.text(max_size=40)
    | st.tuples(frames.map(json.dumps), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]])
)


@given(st.lists(texts, max_size=12))
def test_garbage_disturbs_nobody(garbage):
    room = Room()
    alice, bob, mallory = room.join("alice"), room.join("bob"), room.join("mallory")
    room.offer(bob, "m", lambda *_: HOLD)
    bob.client.acknowledge(lambda _: True)
    for method in ("acknowledge", "consume"):
        room.ask(bob, f"broker.{method}")
    for text in garbage:
        # Not through mallory's own emulator: what it sends there, no stock client does.
        for frame in mallory.connected.say(text.encode("utf-8", "replace")):
            assert frame.startswith(b"{")
            json.loads(frame)
        room.advance(0.3)
    assert mallory.closed is None or mallory.closed[0] == 1008
    mallory.leave()
    room.advance(0.3)
    room.offer(alice, "still.there", lambda: "yes")
    assert room.ask(bob, "still.there") == "yes"


@given(st.lists(texts, max_size=6))
def test_garbage_before_authentication_disturbs_nobody(garbage):
    room = Room(auth="required", api_secret="s")
    room.broker.access.mode = "required"
    room.broker.access.secrets = ("s",)
    mallory = room.join()
    for text in garbage:
        for frame in mallory.connected.say(text.encode("utf-8", "replace")):
            json.loads(frame)
    assert not mallory.connected.peer.admitted
    assert len(room.broker.presence) == 0
