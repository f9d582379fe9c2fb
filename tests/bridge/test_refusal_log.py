"""Each refusal of a credential or a permission leaves a line by which an operator, or fail2ban, can act."""

from __future__ import annotations

import configparser
import json
import re
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from broker.errors import Denied
from broker.messages import HttpRequest
from broker.observe.logs import LogLines, Redaction
from broker.testing import connect, http_request, make_broker, value_of
from protocols import ganomede, hpkv, owlmeans, thinws
from protocols.microstream.hub import MicroStream
from tests.bridge import test_guessing as doors
from tests.support.daemon import WITH_METRICS
from tests.support.eventually import eventually
from tests.support.http_client import get, post
from tests.support.logs import lines_of
from tests.support.ws_client import Refused, ws_connect

FILTER = Path(__file__).parents[2] / "docs" / "examples" / "fail2ban-filter.conf"
PERMISSIONS = """
[key.ann.mint]
allow = ["ann"]
"""
KEY = doors.RIGHT
PATHS = {
    "ganomede": "/events/v1/latest?channel=c&secret=hidden",
    "microstream": "/socket.io/?EIO=4&transport=polling&token=hidden",
    "hpkv": "/token/websocket?apiKey=hidden",
    "http": "/v1/topics/t?token=hidden",
}
DIALECTS = {"ganomede": "ganomede", "token": "hpkv"}


def refused_lines(logged):
    return [line for line in lines_of(logged) if " refused " in line]


@pytest.mark.parametrize("door", doors.DOORS, ids=lambda door: door.__name__)
def test_a_wrong_credential_leaves_one_line_with_its_address_and_without_itself(door, logged):
    broker = doors.a_broker()
    assert door(broker, "mistyped-credential") == doors.WRONG
    dialect = DIALECTS.get(door.__name__.partition("_")[0], door.__name__.partition("_")[0])
    setting = "TXBROKER_TOKEN_SECONDS" if door is doors.hpkv_token else "TXBROKER_API_KEYS"
    line = f"{dialect} refused 192.0.2.7: UNAUTHENTICATED for anonymous at identify; see {setting}"
    assert refused_lines(logged) == [line]
    assert "mistyped" not in repr(logged)


@pytest.mark.parametrize("door", doors.DOORS, ids=lambda door: door.__name__)
def test_a_credential_that_is_not_looked_at_leaves_a_line_too(door, logged):
    broker = doors.a_broker()
    for number in range(doors.LIMIT + 1):
        door(broker, f"wrong-{number}")
    (line,) = [line for line in refused_lines(logged) if "RATE_LIMITED" in line][:1]
    assert "refused 192.0.2.7: RATE_LIMITED for anonymous at identify" in line
    assert line.endswith("see TXBROKER_AUTH_FAILURES_PER_MINUTE")


def owl(broker, frame):
    client = connect(broker, owlmeans.dialect(broker.settings), HttpRequest("GET", "/", f"token={KEY}", {}))
    client.say(json.dumps(frame))


def thin(broker, frame):
    client = connect(broker, thinws.dialect(broker.settings), HttpRequest("GET", "/thinws", f"token={KEY}", {}))
    client.say(json.dumps(frame))


def keys(broker, frame):
    client = connect(broker, hpkv.dialect(broker.settings), HttpRequest("GET", "/ws", f"apiKey={KEY}", {}))
    client.say(json.dumps(frame))


def events(broker, frame):
    body = json.dumps({"clientId": "c", "secret": KEY, **frame}).encode()
    headers = {"content-type": "application/json"}
    value_of(http_request(broker, ganomede.dialect(broker.settings), "POST", "/events/v1/events", body, headers))


def service(broker, packet):
    request = HttpRequest("GET", "/socket.io/", f"EIO=4&transport=websocket&serviceName=ann&token={KEY}", {})
    connect(broker, MicroStream(broker.settings, broker.clock), request).say(packet)


def call(method, *args):
    return {"type": "call", "id": "1", "method": method, "payload": args}


DENIED = [
    (owl, {"type": "event", "event": "t", "payload": 1}, "owlmeans", 'publish of "t"'),
    (owl, call("m"), "owlmeans", 'call of "m"'),
    (owl, call("broker.register", "m"), "owlmeans", 'register of "m"'),
    (owl, call("broker.subscribe", "a.>"), "owlmeans", 'subscribe of "a.>"'),
    (owl, call("broker.get", "k"), "owlmeans", 'read of "kv/k"'),
    (owl, call("broker.set", "k", "v"), "owlmeans", 'write of "kv/k"'),
    (owl, call("broker.consume", "q"), "owlmeans", 'consume of "queue:q"'),
    (owl, call("broker.acknowledge", "t"), "owlmeans", 'acknowledge of "t"'),
    (owl, {"type": "message", "recipient": "bob", "payload": 1}, "owlmeans", 'send of "bob"'),
    (owl, {"type": "request", "id": "1", "payload": {"action": "t"}}, "owlmeans", 'request of "t"'),
    (thin, {"type": "subscribe", "roomID": "r"}, "thinws", 'subscribe of "r"'),
    (keys, {"op": 1, "key": "k"}, "hpkv", 'read of "kv/k"'),
    (keys, {"op": 2, "key": "k", "value": "v"}, "hpkv", 'write of "kv/k"'),
    (events, {"channel": "c", "from": "f", "type": "T"}, "ganomede", 'publish of "c"'),
    (service, "40", "microstream", 'register of "ann"'),
]


@pytest.mark.parametrize(
    ("act", "frame", "dialect", "what"), DENIED, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_permission_that_is_missing_leaves_one_line(act, frame, dialect, what, logged, tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text(PERMISSIONS)
    act(doors.a_broker(permissions_file=str(file)), frame)
    assert refused_lines(logged) == [
        f"{dialect} refused 127.0.0.1: DENIED for key:ann at {what}; see TXBROKER_PERMISSIONS_FILE"
    ]


@pytest.mark.parametrize("id", ["broker", "broker.x", "kv/x", "queue:x", "user:ann"])
def test_an_id_that_is_reserved_leaves_a_line_without_a_setting(id, logged):
    events(doors.a_broker(), {"channel": "c", "from": "f", "type": "T", "clientId": id})
    assert refused_lines(logged) == [f'ganomede refused 127.0.0.1: DENIED for key:ann at act of "{id}"']


def test_an_id_by_which_a_member_has_its_rooms_is_not_logged(logged):
    secret = doors.RIGHT + "-to-sign-tokens-with-it"
    broker = doors.a_broker(jwt_secret=secret)
    for token in (jwt.encode({"sub": "bob", "exp": 4e9}, secret, "HS256"), KEY):
        client = doors.socket(broker, thinws.dialect(broker.settings), "/thinws", f"token={token}")
        client.say('{"type":"connect","connectionID":"known-to-bob"}')
    assert refused_lines(logged) == [
        "thinws refused 192.0.2.7: DENIED for key:ann at join; see TXBROKER_PERMISSIONS_FILE"
    ]
    assert "known-to-bob" not in repr(logged) + repr(broker.parts.refusals.recent)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": "bob", "roles": ["r", "s"]}, None),
        (
            {"sub": "bob", "roles": ["s\n"]},
            'the new credential lacks "r" of the roles of the old one, which goes on: connect again with it',
        ),
        ({"sub": "eve", "roles": ["r"]}, "a connection that has shown a credential takes none of another principal"),
    ],
)
def test_a_credential_that_does_not_renew_the_one_before_leaves_a_line_with_the_reason(claims, why, logged):
    secret = doors.RIGHT + "-to-sign-tokens-with-it"
    peer = doors.a_broker(jwt_secret=secret).attach("owlmeans", "192.0.2.7")
    peer.identify(jwt.encode({"sub": "bob", "roles": ["r"], "exp": 4e9}, secret, "HS256"))
    try:
        peer.identify(jwt.encode({**claims, "exp": 4e9}, secret, "HS256"))
    except Denied:
        assert peer.identity.roles == ("r",)
    line = f'owlmeans refused 192.0.2.7: DENIED for user:bob at identify of "{claims["sub"]}"; {why}'
    assert refused_lines(logged) == ([line] if why else [])


def test_of_many_roles_that_are_lost_some_are_named(logged):
    secret = doors.RIGHT + "-to-sign-tokens-with-it"
    peer = doors.a_broker(jwt_secret=secret).attach("owlmeans", "192.0.2.7")
    roles = [f"r{number}" + "x" * 50 for number in range(100)]
    peer.identify(jwt.encode({"sub": "bob", "roles": roles, "exp": 4e9}, secret, "HS256"))
    with pytest.raises(Denied):
        peer.identify(jwt.encode({"sub": "bob", "exp": 4e9}, secret, "HS256"))
    (line,) = refused_lines(logged)
    assert f'lacks "r0{"x" * 38}", "r1{"x" * 38}", "r2{"x" * 38}" and 97 more of the roles' in line


def test_an_id_too_many_leaves_a_line(logged):
    broker = doors.a_broker(max_ids=1)
    for id in ("one", "two"):
        events(broker, {"channel": "c", "from": "f", "type": "T", "clientId": id})
    assert refused_lines(logged) == [
        "ganomede refused 127.0.0.1: RATE_LIMITED for key:ann at act; see TXBROKER_MAX_IDS"
    ]


def test_who_shows_nothing_is_told_apart(logged):
    broker = doors.a_broker()
    connect(broker, owlmeans.dialect(broker.settings)).say(json.dumps(call("m")))
    connect(broker, thinws.dialect(broker.settings)).say('{"type":"subscribe","roomID":"r"}')
    for line in refused_lines(logged):
        assert re.fullmatch(r"\w+ refused 127\.0\.0\.1: UNAUTHENTICATED for anonymous at \w+; see TXBROKER_AUTH", line)
    assert len(refused_lines(logged)) == 2


def test_a_token_that_may_not_have_a_key_leaves_a_line(logged):
    broker = make_broker(Clock())
    minter = broker.attach("hpkv", "10.0.0.1")
    token = value_of(minter.mint({"keys": [], "patterns": [], "access": "^mine$"}, 100.0))
    client = connect(broker, hpkv.dialect(broker.settings), HttpRequest("GET", "/ws", f"token={token}", {}))
    client.say('{"op":1,"key":"theirs"}')
    assert refused_lines(logged) == ['hpkv refused 127.0.0.1: DENIED for anonymous at read of "kv/theirs"']


def test_a_rate_that_is_exceeded_leaves_a_line(logged):
    peer = make_broker(Clock(), rate=1.0, rate_burst=1).attach("test", "2001:db8::1")
    peer.take_token()
    with pytest.raises(Exception, match="rate"):
        peer.subscribe("a")
    assert refused_lines(logged) == [
        "test refused 2001:db8::1: RATE_LIMITED for anonymous at subscribe; see TXBROKER_RATE"
    ]


def banned(output, form):
    """Return the addresses that fail2ban finds in *output*, by the filter of the documentation for that form."""
    parser = configparser.RawConfigParser()
    parser.read_string(FILTER.read_text("utf-8"))
    expressions = [line.replace("<ADDR>", r"(?P<host>[\da-fA-F:]*[.:][\da-fA-F.:]+)")
                   for line in parser["Definition"]["failregex"].strip().splitlines()]  # fmt: skip
    date = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z" if form == "json" else r"^\d\d:\d\d:\d\d")
    lines = [date.sub("", line, count=1) for line in output]  # as fail2ban does
    return [match["host"] for line in lines for one in expressions if (match := re.search(one, line))]


@pytest.mark.parametrize("form", ["json", "text"])
def test_fail2ban_reads_what_several_processes_write_and_passes_over_a_unix_socket(logged, form):
    broker = doors.a_broker()
    doors.owlmeans_query(broker, "guess", "192.0.2.9")
    broker.parts.failures.count("owlmeans", "", "TXBROKER_API_KEYS")
    stream = StringIO()
    for event in logged:
        LogLines(stream, "info", form, "node", Redaction(), worker=2)(event)
    assert "refused unix: UNAUTHENTICATED" in stream.getvalue()
    assert banned(stream.getvalue().splitlines(), form) == ["192.0.2.9"]


EXPIRED = jwt.encode({"sub": "bob", "exp": 1000}, doors.RIGHT + "-to-sign-tokens-with-it", "HS256")


@pytest.mark.parametrize("form", ["json", "text"])
def test_fail2ban_bans_nobody_for_a_token_that_has_expired(logged, form):
    broker = doors.a_broker(jwt_secret=doors.RIGHT + "-to-sign-tokens-with-it")
    for door in (doors.owlmeans_query, doors.thinws_frame, doors.hpkv_query, doors.ganomede_query):
        assert door(broker, EXPIRED) == doors.WRONG
    lines = [line for line in refused_lines(logged) if "identify" in line]
    end = "_JWT_SECRET; not counted as a guess: The token has expired"
    assert [line.endswith(end) for line in lines] == [True] * 4, lines
    stream = StringIO()
    for event in logged:
        LogLines(stream, "info", form, "node", Redaction())(event)
    assert len(stream.getvalue().splitlines()) >= 4
    assert banned(stream.getvalue().splitlines(), form) == []


TRAP = "ganomede refused 10.6.6.6: UNAUTHENTICATED for anonymous at identify"


@pytest.mark.parametrize("form", ["json", "text"])
def test_fail2ban_bans_those_who_guess_and_nobody_else(logged, form):
    broker = doors.a_broker()
    peer = broker.attach("test", "192.0.2.1")
    for name in (TRAP, f"\n{TRAP}", f'","msg":"{TRAP}', f"\n00:00:00 warn  {TRAP}"):
        peer.deny("publish", name)
    for door in (doors.owlmeans_query, doors.thinws_frame):
        door(broker, "guess", "2001:db8::7")
    stream = StringIO()
    for event in logged:
        LogLines(stream, "info", form, "node", Redaction())(event)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 6
    assert banned(lines, form) == ["2001:db8::7"] * 2


@pytest_twisted.ensureDeferred
async def test_fail2ban_finds_those_who_guess_in_the_output_of_a_daemon(start_daemon):
    daemon = await start_daemon(TXBROKER_API_KEYS=f"ann:{KEY}", TXBROKER_ERROR_DELAY_SECONDS="0")
    event = {"clientId": "c", "from": "f", "type": "T"}
    for channel in ("c", f"broker.\n{TRAP}", f'broker."msg":"{TRAP}'):
        await post(daemon.url + "/events/v1/events", {**event, "secret": KEY, "channel": channel})
    await get(f"{daemon.url}/{TRAP.replace(' ', '%20')}")
    assert banned(daemon.output, "json") == []
    await post(daemon.url + "/events/v1/events", {**event, "channel": "c", "secret": "guess-1"})
    for path in ("/ws?apiKey=guess-2", "/owlmeans?token=guess-3"):
        with pytest.raises(Refused):
            await ws_connect(daemon.ws(path))
    await eventually(lambda: len(banned(daemon.output, "json")) == 3)
    assert set(banned(daemon.output, "json")) == {"127.0.0.1"}
    assert "guess" not in "\n".join(daemon.output)


@pytest_twisted.ensureDeferred
async def test_a_page_or_a_name_that_is_refused_leaves_one_line_in_each_dialect(start_daemon):
    daemon = await start_daemon(TXBROKER_ERROR_DELAY_SECONDS="0")
    for fields, setting in (({"Origin": "https://evil.example"}, "ORIGINS"), ({"Host": "evil.example"}, "HOSTS")):
        for dialect, path in PATHS.items():
            told = f'"dialect":"{dialect}","address":"127.0.0.1","principal":"anonymous","verb":"request"'
            answer = await get(daemon.url + path, headers=fields)
            assert (answer.status, f"TXBROKER_ALLOWED_{setting}" in answer.text) == (403, True)
            await eventually(lambda: any(told in line and setting in line for line in daemon.output))  # noqa: B023
            (line,) = [json.loads(line) for line in daemon.output if told in line and setting in line]
            head = f"{dialect} refused 127.0.0.1: DENIED for anonymous at request of "
            assert (line["level"], line["msg"].startswith(head)) == ("warn", True), line
            assert (line["setting"], "evil.example" in line["name"]) == (f"TXBROKER_ALLOWED_{setting}", True)
            assert "hidden" not in str(line)
    assert banned(daemon.output, "json") == []


FORGED = f"{TRAP}; see TXBROKER_API_KEYS"
FORGERIES = (
    FORGED,
    f"\n{FORGED}",
    f"\nwarn  {FORGED}",
    f"\n warn  {FORGED}",
    f"\r\n00:00:00 warn  {FORGED}",
    f"\u2028 warn  {FORGED}",
    f"\x85 warn  {FORGED}",
    f'\n{{"ts":"2026-01-01T00:00:00Z","level":"warn","msg":"{FORGED}"',
    f'","level":"warn","msg":"{FORGED}"',
)


@pytest_twisted.ensureDeferred
async def test_nothing_that_a_client_says_makes_a_line_that_bans_another(start_daemon):
    secret = "a-secret-to-sign-tokens-with-it" * 2
    more = {"TXBROKER_JWT_SECRET": secret, "TXBROKER_LOG_LEVEL": "debug", "TXBROKER_ERROR_DELAY_SECONDS": "0"}
    daemon = await start_daemon(TXBROKER_API_KEYS=f"ann:{KEY}", **more)
    event = {"from": "f", "type": "T"}
    for forgery in FORGERIES:
        token = jwt.encode({"sub": forgery, "roles": forgery, "exp": 4e9}, secret, "HS256")
        said = {**event, "clientId": forgery, "channel": f"broker.{forgery}", "secret": KEY}
        await post(daemon.url + "/events/v1/events", said)
        in_url, in_field = quote(forgery), re.sub(r"[^ -~]", " ", forgery)
        fields = dict.fromkeys(("User-Agent", "Origin", "X-Forwarded-For", "X-Request-Id", "Referer"), in_field)
        for path in (f"/{in_url}", f"/v1/topics/{in_url}", f"/events/v1/{in_url}?secret={KEY}&clientId={in_url}"):
            await get(daemon.url + path, headers=fields)
            await get(daemon.url + path, headers={"Authorization": f"Bearer {token}"})
        for path in (f"/owlmeans?token={KEY}&clientId={in_url}", f"/thinws?token={KEY}&connectionID={in_url}"):
            link = await ws_connect(daemon.ws(path))
            call = {"type": "call", "id": forgery, "method": f"broker.{forgery}", "payload": [forgery]}
            link.send(json.dumps(call))
    await post(daemon.url + "/events/v1/events", {**event, "clientId": "c", "channel": "c", "secret": "guess"})
    await eventually(lambda: banned(daemon.output, "json"))
    assert set(banned(daemon.output, "json")) == {"127.0.0.1"}
    assert all(isinstance(json.loads(line), dict) for line in "\n".join(daemon.output).splitlines())


@pytest.mark.parametrize("forgery", FORGERIES)
def test_nothing_in_a_line_or_a_traceback_of_the_log_as_text_bans_another(forgery):
    stream = StringIO()
    lines = LogLines(stream, "debug", "text", "node", Redaction())
    failure = Failure(ValueError(forgery))
    lines({"log_level": LogLevel.error, "log_format": "{what}", "what": forgery, "log_failure": failure})
    assert forgery.split()[-1] in stream.getvalue()
    assert banned(stream.getvalue().split("\n"), "text") == []
    assert banned(re.split("[\n\r\u2028\x85]", stream.getvalue()), "text") == []


@pytest_twisted.ensureDeferred
async def test_the_metrics_of_refusals_exist_from_the_start(start_daemon):
    daemon = await start_daemon(**WITH_METRICS)
    for dialect in ("owlmeans", "ganomede", "thinws", "hpkv", "microstream"):
        await daemon.until_metric(f'txbroker_auth_failures_total{{dialect="{dialect}"}}', 0)
        for code in ("UNAUTHENTICATED", "DENIED", "RATE_LIMITED"):
            await daemon.until_metric(f'txbroker_refusals_total{{code="{code}",dialect="{dialect}"}}', 0)
    await daemon.until_metric("txbroker_refusals_not_logged_total", 0)
    await daemon.until_metric("txbroker_rate_limited_total", 0)
