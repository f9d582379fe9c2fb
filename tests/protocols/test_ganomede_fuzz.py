"""Whatever is asked, the answer has the shape of the dialect, and others are served as before."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.access.principals import Access
from broker.messages import Event
from broker.testing import value_of
from tests.protocols.ganomede_api import EVENTS, SECRET, Api

pytestmark = pytest.mark.unmeasured  # others run the same code

KEYS = ("clientId", "channel", "secret", "from", "type", "data", "id", "field", "after", "limit", "__proto__", "")
MEDIA = (
    "application/json",
    "application/json; charset=latin1",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "text/plain",
    "",
)
PATHS = (EVENTS, "/events/v1/indices", "/events/v1/latest", "/latest", "/about", "/events/v1/ping/")

texts = st.one_of(st.text(max_size=20), st.sampled_from((SECRET, "ch", "0", "1", "100", "-1", "\x00", "\ud800")))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(KEYS), values)
bodies = st.one_of(
    st.binary(max_size=100),
    values.map(lambda value: json.dumps(value).encode()),
    objects.map(lambda value: json.dumps(value).encode()),
    # Cut off or with something behind it.
    st.tuples(objects, st.integers(0, 200), st.binary(max_size=3)).map(
        lambda parts: json.dumps(parts[0]).encode()[: parts[1]] + parts[2]
    ),
)
characters = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?")
queries = st.one_of(
    st.text(characters, max_size=60),
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from(("", "[]", "[a]")), st.text(characters, max_size=10)),
        max_size=8,
    ).map(lambda pairs: "&".join(f"{key}{bracket}={value}" for key, bracket, value in pairs)),
)
paths = st.one_of(
    st.sampled_from(PATHS),
    st.text(characters, max_size=20).map(lambda text: f"/events/v1/{text}"),
    st.tuples(st.text(characters, max_size=5), st.text(characters, max_size=5)).map(
        lambda parts: f"/events/v1/indices/{parts[0]}/{parts[1]}"
    ),
)


def check(api, method, target, body, headers):
    answer = api.start(method, target, body, **headers)
    for _ in range(120):
        if answer.called:
            break
        api.clock.advance(0.1)
    response = value_of(answer)
    if response.status >= 400 and response.status != 406:
        said = json.loads(response.body)
        assert list(said) == ["code", "message"]
        assert all(isinstance(text, str) for text in said.values())
    elif response.content_type.startswith("application/json"):
        json.loads(response.body)
    assert api.broker.channels.waiting == 0
    return response


@given(
    st.sampled_from(("GET", "POST", "PUT", "HEAD")),
    paths,
    queries,
    bodies,
    st.sampled_from(MEDIA),
    st.sampled_from((None, "gzip", "br")),
    st.booleans(),
)
def test_any_request_is_answered_in_the_shape_of_the_dialect(method, path, query, body, media, coding, open_to_all):
    api = Api(Access() if open_to_all else None, max_message_bytes=5000)
    headers = {"content_type": media}
    if coding:
        headers["content_encoding"] = coding
    assert check(api, method, f"{path}?{query}", body, headers).status != 500
    assert json.loads(api.post("afterwards").body)["id"] == 1


@given(objects)
def test_what_is_stored_comes_back_as_it_came(fields):
    api = Api()
    body = json.dumps({**fields, "secret": SECRET}).encode()
    response = check(api, "POST", EVENTS, body, {"content_type": "application/json"})
    if response.status != 200:
        assert response.status in (400, 403)
        return
    stored = value_of(api.broker.channels.latest(fields["channel"], 1))[0]
    assert json.loads(response.body)["type"] == stored.name == fields["type"]
    assert ("data" in fields) == (stored.body is not None)
    if stored.body is not None:
        assert stored.body in body


@given(st.lists(st.tuples(st.sampled_from("abc"), texts, st.integers(0, 5)), max_size=12))
def test_an_index_has_what_a_look_at_every_event_finds(posts):
    api = Api()
    for name, text, number in posts:
        body = json.dumps({"text": text, "number": number, "list": [text]}).encode()
        value_of(api.broker.channels.post(Event("c", name, body)))
    definition = {"id": "i", "channel": "c", "field": "data.list[0]", "secret": SECRET}
    api.post_raw(json.dumps(definition).encode(), "/events/v1/indices")
    for wanted in {text for _, text, _ in posts if text.isascii() and text.isalnum()}:
        found = json.loads(api.ask("GET", f"/events/v1/indices/i/{wanted}?secret={SECRET}").body)["rows"]
        expected = [place for place, (_, text, _) in enumerate(posts, 1) if text == wanted]
        assert [row["id"] for row in found] == expected[::-1]
