"""Whatever is sent to ThinWS: one reply for each frame, nothing for the log, others unharmed."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel

from broker.config.settings import Settings
from broker.testing import connect, make_broker
from protocols.thinws import dialect
from tests.support.logs import logging

words = st.sampled_from(["connect", "disconnect", "subscribe", "unsubscribe", "message", "ack", "", "x", "__proto__"])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(st.characters(codec=None), max_size=5)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
names = st.sampled_from(["type", "roomID", "connectionID", "messageID", "message", "payload", "token", "\ud800"])
objects = st.dictionaries(names, words | values, max_size=6).map(lambda frame: json.dumps(frame).encode())
broken = st.tuples(objects, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
)
texts = objects | broken | values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
frames = st.lists(st.tuples(texts, st.booleans()), max_size=30)


def is_text(data):
    try:
        return bool(data.decode()) or True
    except UnicodeDecodeError:
        return False


def is_ack(data):
    try:
        return json.loads(data).get("type") == "ack"
    except (ValueError, AttributeError):
        return False


@given(frames, st.booleans())
def test_one_reply_for_each_frame_whatever_it_is(sent, open_rooms):
    with logging(LogLevel.error) as errors:
        broker = make_broker()
        thinws = dialect(Settings(thinws_open_rooms=open_rooms))
        client, bystander = connect(broker, thinws), connect(broker, thinws)
        bystander.say('{"type":"subscribe","roomID":"calm"}')
        for data, binary in sent:
            binary = binary or not is_text(data)  # the transport lets no other text through
            client.session.received(data, binary)
            replies = [json.loads(text) for text in client.link.take()]
            kinds = [reply["type"] for reply in replies]
            if is_ack(data) and not binary:
                assert kinds in ([], ["error"])
            else:
                assert kinds in (["ack"], ["error"], ["ack", "message"])
        assert client.link.closed is None
        said = bystander.say('{"type":"message","roomID":"calm","message":1}')
        assert said == [b'{"type":"ack"}', b'{"type":"message","roomID":"calm","message":1}']
        client.leave()
        bystander.leave()
        assert (len(broker.topics), len(broker.memberships), errors) == (0, 0, [])
