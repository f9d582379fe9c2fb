"""Whatever is sent to HPKV: one answer for each frame, nothing for the log, others unharmed."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel

from broker.config.settings import Settings
from broker.testing import make_broker
from protocols.hpkv import dialect
from tests.protocols.hpkv_client import Bench, frame, told
from tests.support.logs import logging

texts = st.sampled_from(["k", "k1", "n", "", "z", '{"a":1}', "5"]) | st.text(st.characters(codec=None), max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
names = st.sampled_from(["op", "key", "value", "endKey", "limit", "messageId", "\ud800"])
operations = st.fixed_dictionaries(
    {"op": st.integers(0, 7), "key": texts},
    optional={
        "value": texts | st.integers() | st.floats(),
        "endKey": texts,
        "limit": st.integers(-1, 5),
        "messageId": values,
    },
)
objects = (operations | st.dictionaries(names, values, max_size=6)).map(lambda said: json.dumps(said).encode())
broken = st.tuples(objects, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
)
others = broken | values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)


def is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_whole(answer):
    """Whether *answer* has everything that answers of its code have, with the right types."""
    if answer["code"] != 200:
        return answer["code"] in (400, 403, 404) and isinstance(answer["error"], str)
    if "records" in answer:
        return answer["count"] == len(answer["records"]) and isinstance(answer["truncated"], bool)
    return answer.get("success") is True or isinstance(answer["value"], str)


# The transport lets no text through that is no UTF-8.
@given(st.lists((objects | others).filter(is_text), max_size=30), st.booleans())
def test_one_answer_for_each_frame_whatever_it_is(sent, with_token):
    with logging(LogLevel.error) as errors:
        bench = Bench(make_broker(), dialect(Settings()))
        client = bench.holder(patterns=["k*"], access="^[kn]") if with_token else bench.api()
        bystander = bench.holder(keys=["calm"])
        for data in sent:
            answer, *notifications = map(json.loads, client.say(data))
            assert is_whole(answer)
            assert all(one["type"] == "notification" for one in notifications)
        assert client.link.closed is None
        bench.api().say(frame(2, "calm", "v"))
        assert told(bystander)[-1] == ("calm", "v")
        client.leave()
        bystander.leave()
        assert (bench.broker.keys._watched, errors) == ({}, [])


@given(others | st.dictionaries(names, values).map(lambda said: json.dumps(said).encode()))
def test_the_token_endpoint_answers_whatever_it_is_asked(body):
    bench = Bench(make_broker(), dialect(Settings()))
    answer = bench.ask(body)
    assert answer.status in (200, 400)
    assert list(json.loads(answer.body)) == ["token" if answer.status == 200 else "error"]
