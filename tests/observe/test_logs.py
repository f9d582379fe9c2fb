"""Log lines say what happened and keep credentials to themselves."""

import io
import json

import pytest
from twisted.logger import Logger, LogPublisher, eventAsJSON, eventFromJSON, formatEvent
from twisted.python import log as old_log
from twisted.python.failure import Failure

from broker.observe.logs import LogLines, Redaction, message_of


def lines(form: str = "json", level: str = "info", secrets: tuple[str, ...] = ()):
    stream = io.StringIO()
    observer = LogLines(stream, level, form, "n1", Redaction(secrets))
    return stream, Logger(namespace="broker.some", observer=observer), observer


def test_json_line_has_time_level_message_node_and_fields():
    stream, log, _ = lines()
    log.info("{dialect} client came", dialect="thinws", conn=7, thing=object())
    line = json.loads(stream.getvalue())
    assert line.pop("ts").endswith("Z")
    assert line == {"level": "info", "msg": "thinws client came", "node": "n1", "dialect": "thinws", "conn": 7}


def test_text_line_is_short():
    stream, log, _ = lines("text")
    log.warn("careful")
    assert stream.getvalue()[8:] == " warn  careful\n"


def test_name_of_a_client_forges_no_line():
    stream, log, _ = lines("text")
    log.info("client {name} came", name="x\n12:00:00 info  nice\r\x1b[2Jtry")
    assert stream.getvalue()[8:] == " info  client x\n    12:00:00 info  nice\\x0d\\x1b[2Jtry came\n"


def test_line_below_the_level_is_left_out():
    stream, log, _ = lines(level="warn")
    log.info("one")
    log.error("two")
    assert [json.loads(line)["msg"] for line in stream.getvalue().splitlines()] == ["two"]


def test_information_of_libraries_counts_as_debug():
    stream, _, observer = lines()
    library = Logger(namespace="twisted.internet.protocol.Factory", observer=observer)
    library.info("Starting factory")
    library.error("lost")
    assert "Starting" not in stream.getvalue()
    assert "lost" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "text"])
def test_failure_is_written_with_its_traceback(form):
    stream, log, _ = lines(form)
    try:
        raise KeyError("gone")
    except KeyError:
        log.failure("it broke", Failure())
    assert "it broke" in stream.getvalue()
    assert "Traceback (most recent call last)" in stream.getvalue()
    assert form == "text" or stream.getvalue().count("\n") == 1


def test_message_of_the_old_log_is_written_too():
    stream, _, observer = lines(level="debug")
    publisher = LogPublisher(observer)
    old_log.LogPublisher(publisher, publisher).msg("hello from the past")
    assert json.loads(stream.getvalue())["msg"] == "hello from the past"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /x?channel=a&secret=abc&after=1", "GET /x?channel=a&secret=***&after=1"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ('{"apiKey": "abc"}', '{"apiKey": "***"}'),
        ("{'token': 'abc', 'a': 1}", "{'token': '***', 'a': 1}"),
        (r'"{\"token\": \"abc\"}"', r'"{\"token\": \"***\"}"'),
        ("ws://h/ws?TOKEN=abc", "ws://h/ws?TOKEN=***"),
        ("GET /events?secret=abc&channel=x", "GET /events?secret=***&channel=x"),
        ("GET /ws?apiKey=abc", "GET /ws?apiKey=***"),
        ("GET /ws?token=a.b-c_d", "GET /ws?token=***"),
        ("GET /ws?authorization=Bearer+abc", "GET /ws?authorization=***"),
        ("GET /ws?%73ecret=abc", "GET /ws?%73ecret=***"),
        ("GET /ws?a=1&token=abc&token=abc", "GET /ws?a=1&token=***&token=***"),
        ("GET /ws?token[]=abc;secret=abc", "GET /ws?token[]=***;secret=***"),
        ("GET /ws?token=abc=abc HTTP/1.1", "GET /ws?token=*** HTTP/1.1"),
        ("GET /ws?+secret+=abc", "GET /ws?+secret+=***"),
        ("GET /ws?key=abc", "GET /ws?key=***"),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
        ("redis://user:abc@host/0?password=abc", "redis://***@host/0?password=***"),
        ("https://h/x#access_token=abc", "https://h/x#access_token=***"),
        ('{"url":"/x?%74oken=abc","a":1}', '{"url":"/x?%74oken=***","a":1}'),
        ("GET /x?channel=users/v1&after=1", "GET /x?channel=users/v1&after=1"),
        ("GET /x?monkey=1&secretary=2", "GET /x?monkey=1&secretary=2"),
        ("no token was shown", "no token was shown"),
        ("a tokenizer: fine", "a tokenizer: fine"),
        ("a hunter22 here", "a *** here"),
    ],
)
def test_credential_is_masked(text, shown):
    assert Redaction(["hunter22", "", "x"])(text) == shown


def test_credential_in_a_traceback_is_masked():
    stream, log, _ = lines(secrets=("hunter22",))
    try:
        raise ValueError("bad hunter22")
    except ValueError:
        log.failure("wrong", Failure())
    assert "hunter22" not in stream.getvalue()


def test_a_trusted_line_may_show_where_a_secret_goes():
    stream, log, _ = lines("text", secrets=("hunter22",))
    log.info("curl '/x?secret=any&y=hunter22'", log_trusted=True)
    assert stream.getvalue().endswith("curl '/x?secret=any&y=***'\n")


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("{name} and {thing.real:>4} {{}}", "ann and    7 {}"),
        ("{call()} {thing.conjugate()}", "called 7"),
        (b"{name}", "ann"),
        ("{name!r} {missing}", "Unable to format event"),
        ("{unspeakable}", "Unable to format event"),
        ("{name", "Unable to format event"),
    ],
)
def test_messages_are_those_of_the_logger(form, message):
    event = {"log_format": form, "name": "ann", "thing": 7, "call": lambda: "called", "unspeakable": Unspeakable()}
    assert message_of(event) == formatEvent(event)
    assert message in message_of(event) or "MESSAGE LOST" in message_of(event)


def test_an_event_that_was_flattened_says_what_was_said_then():
    event = eventFromJSON(eventAsJSON({"log_format": "{said}", "said": ["one"]}))
    event["said"] = ["two"]
    assert message_of(event) == "['one']"
