"""The accelerator does what the Python code does, or leaves it to that."""

from __future__ import annotations

import gc
import json
import os
import sys
from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import broker.speedups
from protocols.owlmeans.codec import PYTHON, codec
from protocols.owlmeans.wire import CALL, RESULT
from tests.speedups.build import VARIABLE, compiler, load
from tests.speedups.checks import (
    accelerator,
    check_envelope,
    check_frames,
    check_refused,
    check_text,
    quick_decode,
    quick_envelope,
)
from tests.web.ws.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client_frame, open_link

SWITCHED_OFF = os.environ.get("TXBROKER_SPEEDUPS") == "off"
built = pytest.mark.skipif(accelerator is None or SWITCHED_OFF, reason="the accelerator was not built, or is off")

USUAL = (
    b'{"type":"call","id":"1","method":"m","payload":[1,"a"]}',
    b'{"method":"m","payload":[],"type":"call","id":"1","dt":1700000000000,"timeout":60000,"recipient":"bob"}',
    b'{"type":"result","id":"\xc3\xa4","payload":{"a":{"b":[null,true,false,-0.5e-10,1E+9]},"":""}}',
    b' {"type":"event"'[1:] + b' ,\n\t"event" : "a.b" , "payload" : "\\u00e4\\n\\"\\/" }\r\n',
    b'{"type":"unknown","stage":"init","payload":0}',
    b'{"type":"message","payload":' + b"[" * 64 + b"]" * 64 + b',"dt":0}',
    b'{"type":"message","payload":' + b"9" * 199 + b"}",
    b'{"type":"message","payload":"\xff"}',  # the frame is known to be UTF-8
)
ODD = (
    b"", b"{", b"{}", b"[]", b"null", b' {"type":"ping"}', b'{"type":"ping"}', b'{"payload":1}',
    b'{"type":"call","payload":1,"type":"call"}', b'{"type":"call","payload":1,"sender":"a"}',
    b'{"type":"call","payload":1,}', b'{"type":"call" "payload":1}', b'{"type":"call","payload":1}}',
    b'{"type":"call","payload":1} x', b'{"type":"call","payload":1', b'{"type":"call","payload"', b'{"type',
    b'{"type":null,"payload":1}', b'{"type":1,"payload":1}', b'{"type":"a\\n","payload":1}',
    b'{"\\u0074ype":"call","payload":1}', b'{"type":"\xff","payload":1}', b'{"type":"a\x01","payload":1}',
    b'{"type":"call","timeout":-1,"payload":1}', b'{"type":"call","timeout":1.5,"payload":1}',
    b'{"type":"call","timeout":01,"payload":1}', b'{"type":"call","timeout":"1","payload":1}',
    b'{"type":"call","dt":1e3,"payload":1}', b'{"type":"call","dt":1000000000000000,"payload":1}',
    b'{"type":"call","dt":,"payload":1}', b'{"type":"call","stage":null,"payload":1}',
    b'{"type":"call","payload":1e100}', b'{"type":"call","payload":1e-100}',
    b'{"type":"call","payload":' + b"9" * 200 + b"}",
    b'{"type":"call","payload":' + b"[" * 65 + b"]" * 65 + b"}",
    *(
        b'{"type":"call","payload":%b}' % payload
        for payload in (
            b"", b"01", b"-", b"1.", b".5", b"1e", b"+1", b"nul", b"tru", b"NaN", b"[1", b"[1,]", b"[,1]", b"[1 2]",
            b"[1}", b'{"a"}', b'{"a":}', b'{"a":1,}', b"{1:2}", b'{"a" 1}', b'"', b'"\\', b'"\\x"', b'"\\u12"',
            b'"\\u12g4"', b'"\\ud800"', b'"\\uDFFF"', b'"\n"', b'"a', b"'a'", b"\xff",
        )
    ),
)  # fmt: skip

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
# No lone surrogates: those are damage.
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
members = st.sampled_from(("type", "id", "method", "event", "recipient", "stage", "timeout", "dt", "payload", "sender"))
kinds = st.sampled_from(("call", "result", "event", "error", "message", "ping", "other"))
usual = st.fixed_dictionaries(
    {"type": kinds, "payload": values},
    optional={name: st.text(max_size=8) for name in ("id", "method", "event", "recipient", "stage")}
    | {"timeout": st.integers(0, 10**15), "dt": st.integers(0, 10**15)},
)
objects = usual | st.lists(st.tuples(members, values | kinds), max_size=6).map(dict)
spaces = st.sampled_from(((",", ":"), (", ", ": "), (" ,\n", "\t: ")))
texts = st.builds(
    lambda value, separators, escaped: json.dumps(value, separators=separators, ensure_ascii=escaped).encode(),
    objects,
    spaces,
    st.booleans(),
)
# What the accelerator leaves to nobody.
plain_text = st.text(st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=["Cc"]), max_size=20)
plain = st.fixed_dictionaries(
    {
        "type": kinds | plain_text,
        "payload": st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64)
            | st.decimals(-(10**9), 10**9, places=3).map(float)
            | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
        ),
    },
    optional=dict.fromkeys(("id", "method", "event", "recipient", "stage"), plain_text)
    | dict.fromkeys(("timeout", "dt"), st.integers(0, 10**15 - 1)),
)
# And twice the same member, which no dictionary has.
texts |= st.builds(lambda one, other: one[:-1] + b"," + other[1:], texts, texts)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(texts))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(-1, 255)), max_size=3)):
        place %= len(text) + 1
        text[place : place + 1] = b"" if byte < 0 else bytes((byte,))
    return bytes(text)


def test_it_is_built_where_there_is_a_compiler() -> None:
    if compiler() is None or SWITCHED_OFF:
        pytest.skip("there is no compiler, or this run is without the accelerator")
    assert broker.speedups.speedups() is not None, "run `make .venv/.test`, which builds it"


@built
class TestEnvelopes:
    @pytest.mark.parametrize("text", USUAL)
    def test_what_clients_write_is_read_quickly(self, text: bytes) -> None:
        assert check_envelope(text)

    @pytest.mark.parametrize("text", ODD)
    def test_what_is_odd_is_left_to_the_reference(self, text: bytes) -> None:
        assert quick_envelope(text) is None

    @pytest.mark.parametrize("text", USUAL)
    def test_what_is_cut_off_anywhere_is_odd(self, text: bytes) -> None:
        text = text.rstrip()
        assert [size for size in range(len(text)) if quick_envelope(text[:size])] == []

    @given(texts)
    def test_objects_are_read_as_the_reference_reads_them(self, text: bytes) -> None:
        check_envelope(text)

    @given(damaged() | st.binary(max_size=80))
    def test_damaged_text_is_read_as_the_reference_reads_it(self, text: bytes) -> None:
        check_envelope(text)

    @given(plain, spaces, st.permutations(range(9)))
    def test_plain_objects_are_read_quickly(
        self, value: dict[str, Any], separators: tuple[str, str], order: list[int]
    ) -> None:
        items = sorted(value.items(), key=lambda item: order[list(value).index(item[0])])
        text = json.dumps(dict(items), separators=separators, ensure_ascii=False)
        assert check_envelope(text.encode())

    def test_the_reference_is_asked_with_the_same_bytes(self) -> None:
        asked: list[bytes] = []
        data = b'{"type":"ping"}'
        assert accelerator.read_envelope(lambda data: asked.append(data) or 5, data) == 5
        assert asked[0] is data
        with pytest.raises(msgspec.DecodeError):
            quick_decode(b"{")

    def test_an_envelope_can_be_changed(self) -> None:
        envelope = quick_decode(USUAL[0])
        envelope.stage = "x"
        assert (envelope.stage, envelope.timeout, envelope.dt) == ("x", None, 0.0)


@built
class TestTexts:
    @given(st.text(), st.text(max_size=70), st.binary(), st.integers(-(2**70), 2**70), st.none() | st.booleans())
    def test_values_are_written_as_the_reference_writes_them(
        self, one: str, other: str, body: bytes, number: int, word: bool | None
    ) -> None:
        assert check_text(b"", ()) == b""
        check_text(b"%b", (one,))
        check_text(b"%b%b%b%b%b", (one, other, body, number, word))
        check_text(RESULT, (one, body, other, number))
        check_text(CALL, (one, other, body, number, other, b'"a"', number))

    @pytest.mark.parametrize("number", [0, 9, 10, 2**63 - 1, 2**63, -1, -(2**63), 10**40])
    def test_integers_are_written_whole(self, number: int) -> None:
        assert check_text(b"<%d>", (number,)) == b"<%d>" % number

    @pytest.mark.parametrize("place", range(20))
    @pytest.mark.parametrize("byte", [0, 9, 31, 32, 33, 34, 35, 91, 92, 93, 127])
    def test_each_byte_is_escaped_wherever_it_stands(self, byte: int, place: int) -> None:
        check_text(b"%b", ("x" * place + chr(byte) + "y" * (19 - place),))

    def test_what_can_not_be_written_raises_what_the_reference_raises(self) -> None:
        check_refused(b"%b %b", ("a\ud800", "b"))
        check_refused(b"%b %b", ("b", object()))

    @pytest.mark.parametrize(
        ("form", "given"), [(b"%b", 0), (b"", 1), (b"%b%b", 1), (b"%b", 2), (b"x%", 1), (b"%", 1), (b"%b" * 13, 13)]
    )
    def test_as_many_values_as_places_or_none(self, form: bytes, given: int) -> None:
        with pytest.raises(TypeError):
            accelerator.write_json(msgspec.json.encode, form, *["a"] * given)

    def test_an_encoder_that_returns_no_bytes_is_refused(self) -> None:
        with pytest.raises(TypeError):
            accelerator.write_json(lambda value: "text", b"%b", None)


frames = st.one_of(
    st.builds(client_frame, st.sampled_from((TEXT, BINARY, PING, PONG)), st.binary(max_size=140)),
    st.builds(
        client_frame, st.just(TEXT), st.text(max_size=140).map(str.encode), mask=st.binary(min_size=4, max_size=4)
    ),
    st.builds(client_frame, st.sampled_from((TEXT, CONTINUATION, CLOSE, PING, 3)), st.just(b"fail"), fin=st.booleans()),
    st.binary(max_size=12),
)


@built
class TestFrames:
    @given(
        st.lists(frames, max_size=8).map(b"".join),
        st.sampled_from((0, 20, 125, 126, 65535)),
        st.sampled_from((inf, 1.0, 3.0)),
        st.sampled_from((-1, 1, 2)),
        st.integers(0, 20),
    )
    def test_frames_are_found_as_the_reference_finds_them(
        self, data: bytes, limit: int, end: float, pause_after: int, cut: int
    ) -> None:
        check_frames(data, limit, end, pause_after)
        check_frames(data[: max(0, len(data) - cut)], limit, end, pause_after)

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 65535])
    def test_payloads_of_any_length_come_whole(self, size: int) -> None:
        data = client_frame(TEXT, b"a" * size) + client_frame(BINARY, b"\xff" * size)
        found = accelerator.read_frames(data, 0, 65535)
        assert list(found) == [(b"a" * size, False), (b"\xff" * size, True)]
        assert (found.position, found.slow) == (len(data), False)
        assert check_frames(data[:-1]) == 1
        assert check_frames(client_frame(TEXT, b"a" * (size - 1) + b"\xff" if size else b"\x80")) == 0

    def test_an_iterator_that_has_ended_stays_where_it_is(self) -> None:
        data = client_frame(TEXT, b"a") + client_frame(PING, b"b") + client_frame(TEXT, b"c")
        found = accelerator.read_frames(data, 0, 100)
        assert [list(found), list(found)] == [[(b"a", False)], []]
        assert (found.position, found.slow) == (7, True)
        assert list(accelerator.read_frames(data, 14, 100)) == [(b"c", False)]
        assert list(accelerator.read_frames(data, len(data), 100)) == []

    @pytest.mark.parametrize("arguments", [(), (b"",), ("", 0, 1), (b"", 0, "1"), (b"", -1, 1), (b"", 1, 1)])
    def test_wrong_arguments_are_refused(self, arguments: tuple[Any, ...]) -> None:
        with pytest.raises((TypeError, ValueError)):
            accelerator.read_frames(*arguments)


@built
class TestModule:
    def test_each_module_has_its_own_state(self) -> None:
        path = accelerator.__file__
        one, other = load(path), load(path)
        assert one is not other
        assert one.Envelope is not other.Envelope
        envelope = one.read_envelope(None, USUAL[0])
        frames = one.read_frames(client_frame(TEXT, b"a"), 0, 9)
        del one
        gc.collect()
        assert (envelope.id, next(frames)) == ("1", (b"a", False))
        assert isinstance(other.read_envelope(None, USUAL[0]), other.Envelope)

    @pytest.mark.parametrize("name", ["Envelope", "Frames"])
    def test_types_are_only_made_by_functions(self, name: str) -> None:
        with pytest.raises(TypeError):
            getattr(accelerator, name)()
        with pytest.raises(TypeError):
            getattr(accelerator, name).x = 1

    @pytest.mark.parametrize("arguments", [(), (None,), (None, "text"), (None, b"", b"")])
    def test_wrong_arguments_are_refused(self, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(TypeError):
            accelerator.read_envelope(*arguments)
        with pytest.raises(TypeError):
            accelerator.write_json(*arguments[:1], *map(str, arguments[1:]))

    def test_nothing_is_kept_of_what_was_read_and_written(self, soak: bool) -> None:
        rounds = 500_000 if soak else 1000
        _work(100)
        gc.collect()
        before, resident = sys.getallocatedblocks(), _resident()
        _work(rounds)
        gc.collect()
        assert sys.getallocatedblocks() - before < 100
        if VARIABLE not in os.environ:  # AddressSanitizer keeps for long what is freed
            assert _resident() - resident < 1 << 20


def _work(rounds: int) -> None:
    """Read and write 20 frames in each round, of which some are wrong."""
    usual = b"".join(client_frame(TEXT, text) for text in (*USUAL[:5], "ä".encode())) * 3
    data = usual + client_frame(BINARY, b"\xff" * 200) + client_frame(TEXT, b"\xff")
    for _ in range(rounds):
        for payload, _ in accelerator.read_frames(data, 0, 65535):
            found = quick_envelope(payload)
            accelerator.write_json(msgspec.json.encode, RESULT, "a\nä", payload, "b", 17)
            del found
        quick_envelope(ODD[20])
        try:
            accelerator.write_json(msgspec.json.encode, RESULT, "a\nä", b"", "\ud800", 17)
        except UnicodeEncodeError:
            pass


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestWithout:
    @pytest.fixture(params=["switched off", "not built"])
    def setting(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        if request.param == "switched off":
            return "off"
        monkeypatch.setattr("broker.speedups.built", None)
        return "auto"

    def test_python_reads_and_writes(self, setting: str) -> None:
        assert codec(setting) is PYTHON
        bench = open_link(speedups=setting)
        assert bench.link.read_frames is None
        bench.wire.feed(client_frame(TEXT, b"echo a"))
        assert bench.sent == [(TEXT, b"a")]


def test_a_link_uses_it_where_it_was_built() -> None:
    bench = open_link()
    assert (bench.link.read_frames is None) == (broker.speedups.built is None)
    assert (codec() is PYTHON) == (broker.speedups.built is None)
