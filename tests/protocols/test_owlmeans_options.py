"""Arguments and options of the reserved methods: what is not known is refused by its name, and all are described."""

from __future__ import annotations

import json

import msgspec
import pytest

from broker.core.starts import MAX_TOPICS
from broker.errors import Invalid, TooLarge
from broker.peer.jobs import MAX_IDS
from protocols.owlmeans import methods
from protocols.owlmeans.methods import MAX_COMMAS, MAX_NAMES, MAX_NESTED, Options
from protocols.owlmeans.reserved import METHODS
from tests.protocols.owlmeans_emulator import Failed, Room

MALFORMED = "SocketErrorMessageMalformed: socket:message:malformed:"


@pytest.fixture
def room():
    return Room()


def refusal(room, member, method, *args, **extra):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *args, **extra)
    return str(caught.value)


def option_classes(kind):
    """Yield the classes of objects that an argument of the type *kind* may have in it."""
    match msgspec.inspect.type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind:
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            yield cls
            for field in fields:
                yield from option_classes(field.type)
        case msgspec.inspect.UnionType(types=types):
            for each in types:
                yield from option_classes(each)
        case msgspec.inspect.ListType(item_type=item):
            yield from option_classes(item)
        case msgspec.inspect.DictType(value_type=value):
            yield from option_classes(value)


def sample(field):
    """Return a value that the argument *field* may have: a text, or a number where that must be one."""
    return 1.5 if field.type is float else "x"


EVERY_METHOD = [pytest.param(name, method, id=name) for name, method in METHODS.classes.items()]


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_an_unknown_option_of_any_method_is_named(name, method):
    fields = msgspec.structs.fields(method)
    # All arguments but the options are texts or something that comes later: the options are looked at all the same.
    arguments = [sample(field) for field in fields if field.name != "options"]
    with pytest.raises(Invalid) as caught:
        METHODS.read(name, msgspec.json.encode([*arguments, {"nope": 5}]))
    assert (caught.value.what, caught.value.name) == ("options", "nope")


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_of_many_arguments_too_many_one_is_kept(name, method, monkeypatch):
    kept = []
    first_member = methods._first_member
    monkeypatch.setattr(methods, "_first_member", lambda value: kept.append(value) or first_member(value))
    arguments = [sample(field) if field.name != "options" else {} for field in msgspec.structs.fields(method)]
    long = {str(number): 1 for number in range(2000)}
    for surplus, more in (({"nope": 5}, list(range(2000))), (long, [])):
        with pytest.raises(Invalid) as caught:
            METHODS.read(name, msgspec.json.encode([*arguments, surplus, *more]))
        assert caught.value.what == ("options" if more else "arguments")
    assert kept == [b'{"nope":5}', msgspec.json.encode(long)]


@pytest.mark.parametrize("arguments", ['["a.>",{"from":%s}]', '["a",{"filter":{"a":%s}}]'])
def test_options_of_any_shape_hold_some_thousand_parts_at_most(arguments):
    name = "broker.consume" if "filter" in arguments else "broker.subscribe"
    METHODS.read(name, (arguments % '{"a":1}').encode())
    for many in ('{"a":[%s]}' % ",".join(["[]"] * MAX_NESTED), '{"a":[%s]}' % ",".join(["{}"] * MAX_NESTED)):
        with pytest.raises(Invalid) as caught:
            METHODS.read(name, (arguments % many).encode())
        assert caught.value.what == "arguments"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("register", "[%s]"),
        ("subscribe", "[%s]"),
        ("retry", '["q",%s]'),
        ("release", '["q",{"not_begun":%s}]'),
        ("publish", '["t",1,{"exclude":%s}]'),
    ],
)
def test_a_hundred_thousand_items_are_refused_before_they_are_decoded(name, arguments):
    many = "[%s]" % ",".join(['"a"'] * MAX_COMMAS)
    METHODS.read(f"broker.{name}", (arguments % many).encode())
    # The last is none: whoever decodes it says so.
    with pytest.raises(TooLarge):
        METHODS.read(f"broker.{name}", (arguments % (many[:-1] + ",1,1]")).encode())


def test_commas_of_a_text_or_a_payload_are_not_counted():
    long = msgspec.json.encode(["k", "," * (MAX_COMMAS * 4)])
    assert msgspec.to_builtins(METHODS.read("broker.set", long))[1] == "," * (MAX_COMMAS * 4)
    METHODS.read("broker.publish", b'["t",[%b]]' % b",".join([b"1"] * (MAX_COMMAS * 4)))


def test_a_position_is_short_and_positions_are_few(room):
    bob = room.join()
    assert refusal(room, bob, "broker.ack", "c", "t", [[]] * 1000) == MALFORMED + "id"
    many = {f"a.{number}": 1 for number in range(MAX_TOPICS + 1)}
    assert "limit:topics" in refusal(room, bob, "broker.subscribe", "a.>", {"from": many})


def test_dead_jobs_that_are_chosen_have_a_limit(room):
    bob = room.join()
    assert "limit:ids" in refusal(room, bob, "broker.retry", "q", ["-"] * (MAX_IDS + 1))
    assert room.ask(bob, "broker.drop", "q", ["-" * 1000] * 3) == {"dropped": 0}


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_an_argument_too_many_is_refused(name, method):
    arguments = [sample(field) if field.name != "options" else {} for field in msgspec.structs.fields(method)]
    for surplus in (None, 1, {}, [{"nope": 1}]):
        with pytest.raises(Invalid) as caught:
            METHODS.read(name, msgspec.json.encode([*arguments, surplus]))
        assert (caught.value.what, caught.value.name) == ("arguments", "")


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_every_object_among_the_arguments_is_one_of_options(name, method):
    found = [each for field in msgspec.structs.fields(method) for each in option_classes(field.type)]
    assert all(issubclass(each, Options) for each in found)


@pytest.mark.parametrize(
    ("method", "arguments", "option"),
    [
        ("subscribe", ["a", {"ecko": True}], "ecko"),
        ("subscribe", ["a", {"echo": True, "Echo": True}], "Echo"),
        ("set", ["k", "v", {"tll": 5}], "tll"),
        ("register", ["m", {"mod": "single"}], "mod"),
        ("get", ["k", {"ttl": 5}], "ttl"),
        ("range", ["a", "b", {"": 1}], ""),
        ("delete", ["k", {"` - at `$[7]`": 1}], "` - at `$[7]`"),
        ("delete", ["k", {"x|||y": 1}], "xy"),
        ("delete", ["k", {"x" * 500: 1}], "x" * 128),
    ],
)
def test_a_misspelt_option_is_told_and_nothing_is_done(room, method, arguments, option):
    alice = room.join("alice")
    expected = f"options:{option}" if option else "options"
    assert refusal(room, alice, f"broker.{method}", *arguments) == MALFORMED + expected
    assert alice.connected.peer.subscriptions == []
    assert room.ask(alice, "broker.get", "k")["value"] is None
    assert room.ask(alice, "broker.methods") == {"methods": []}


@pytest.mark.parametrize("options", [{}, None])
def test_options_may_be_empty_or_null(room, options):
    alice = room.join("alice")
    assert room.ask(alice, "broker.subscribe", "a", options) == {"subscribed": ["a"]}
    assert room.ask(alice, "broker.set", "k", "v", options)["revision"] == 1


def test_a_call_without_a_payload_has_no_arguments(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "now", lambda: 7)
    sent = [
        alice.connected.say('{"type":"call","id":"1","method":"broker.whoami"}'),
        alice.connected.say('{"type":"call","id":"2","method":"broker.get"}'),
    ]
    assert [json.loads(text)["type"] for (text,) in sent] == ["result", "error"]
    alice.connected.session.received(b'{"type":"call","id":"3","method":"now"}', False)
    bob.pump()
    assert bob.client.of("call")[-1]["payload"] == []


def test_methods_of_the_broker_are_listed_with_descriptions_and_arguments(room):
    alice = room.join("alice")
    room.offer(alice, "brokers.of.mine", lambda: 1)
    found = room.ask(alice, "broker.methods", "broker.>")["methods"]
    assert [method["name"] for method in found] == sorted(METHODS.names)
    for method in found:
        assert method["description"].endswith(".")
        assert "\n" not in method["description"]
    (register,) = room.ask(alice, "broker.methods", "broker.register")["methods"]
    method, options = register["arguments"]
    assert (method["name"], method["required"], options["required"]) == ("method", True, False)
    modes = options["schema"]["anyOf"][0]["properties"]["mode"]
    assert modes["default"] == "single"
    assert "roundrobin" in modes["enum"]


def test_defaults_of_arguments_are_described(room):
    (acknowledge,) = room.ask(room.join("alice"), "broker.methods", "broker.acknowledge")["methods"]
    assert acknowledge["arguments"] == [
        {"name": "topic", "required": False, "schema": {"type": "string", "default": "*"}}
    ]


def test_methods_of_the_broker_are_asked_for_by_a_name_or_a_pattern(room):
    alice = room.join("alice")
    assert refusal(room, alice, "broker.methods", "broker.>.x") == f"{MALFORMED}pattern"
    assert room.ask(alice, "broker.methods", "broker.nope") == {"methods": []}
    found = room.ask(alice, "broker.methods", "broker.*")["methods"]
    assert len(found) == len(METHODS.names)


def test_one_answer_describes_no_more_methods_than_there_are_names():
    assert len(METHODS.names) < MAX_NAMES
