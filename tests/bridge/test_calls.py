"""Calls between OwlMeans and MicroStream, both ways."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.bridge.clients import NO_BODY, MicroStream, OwlMeans, member
from tests.protocols.owlmeans_emulator import HOLD, Failed

# Names, numbers and order that a decoder would not give back.
EXACT = '{"z":[1e3,1.0,-0,12345678901234567890],"a":{"\\u00e9":"é\\ud83d\\ude00\\/"},"":null}'
ATTEMPTS = 1000  # to get a name that was another client's
TEXTS = [
    EXACT,
    "0",
    "false",
    '""',
    "[]",
    "{}",
    "123456789012345678901234567890",
    "-1.50E+2",
    '"\\ud800"',
    '"RS \\u001e"',
]


async def callee(join, *methods, terms=None, **query):
    """Return an OwlMeans client that performs *methods* and answers by hand."""
    owl = await join(OwlMeans, **query)
    for method in methods:
        owl.emulator.perform(method, lambda *_: HOLD)
    for _ in range(ATTEMPTS):
        try:
            await owl.ask("broker.register", list(methods), terms)
            break
        except Failed as error:
            # Another node may not have noticed yet that the client of the test before has gone.
            if "message:exists" not in str(error):
                raise
    return owl


async def asked(owl):
    """Return the exact text of the next call that *owl* is to perform."""
    return await owl.next("call")


def answer(owl, call, payload, kind="result"):
    owl.say(f'{{"type":"{kind}","id":"{json.loads(call)["id"]}","payload":{payload}}}')


async def called(service, caller, procedure, *arguments, response="1"):
    """Let *caller* call with JSON texts; *service* answers.  Return what it was asked, and the answer."""
    caller.begin(procedure, *arguments)
    request = await service.serve(response)
    return request, await caller.next("answer")


# OwlMeans calls MicroStream


@pytest.mark.parametrize("text", TEXTS)
@pytest_twisted.ensureDeferred
async def test_the_first_argument_becomes_data(join, text):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    request, result = await called(service, caller, "math.add", text, response=text)
    assert json.loads(request)["event"] == "add"
    assert request.endswith(f',"event":"add","data":{text}}}')
    assert '"type":"result",' in result
    assert f',"payload":{text},"sender":"math",' in result


@pytest_twisted.ensureDeferred
async def test_several_arguments_become_an_array(join):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    request, _ = await called(service, caller, "math.add", "1", EXACT, "null")
    assert member(request, "data") == f"[1,{EXACT},null]"


@pytest_twisted.ensureDeferred
async def test_no_argument_is_no_data(join):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    request, _ = await called(service, caller, "math.add")
    assert list(json.loads(request)) == ["id", "event"]
    request, _ = await called(service, caller, "math.add", "null")
    assert request.endswith(',"data":null}')


@pytest_twisted.ensureDeferred
async def test_a_response_that_tells_of_an_error_rejects_the_call(join):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    response = '{"error":{"code":"EVENT_NOT_FOUND","message":"Event \\"x\\" not found","errorData":{"event":"x"}}}'
    _, text = await called(service, caller, "math.x", response=response)
    assert json.loads(text)["type"] == "error"
    assert json.loads(text)["payload"] == 'ResilientError|||EVENT_NOT_FOUND: Event "x" not found|||'


@pytest.mark.parametrize(
    ("response", "payload"),
    [
        ('{"error":{"code":"SocketErrorTimeout","message":"m"}}', "SocketErrorTimeout|||m|||"),
        ('{"error":{"code":"A|||B","message":"c|||d"}}', "ResilientError|||AB: cd|||"),
        ('{"error":"kaput"}', 'ResilientError|||INTERNAL_SERVER_ERROR: "kaput"|||'),
        ('{"error":{"message":"no code"}}', 'ResilientError|||INTERNAL_SERVER_ERROR: {"message":"no code"}|||'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_error_of_any_shape_is_one_the_client_can_read(join, response, payload):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    _, text = await called(service, caller, "math.x", response=response)
    assert json.loads(text)["payload"] == payload


@pytest.mark.parametrize("response", ['{"error":null}', '{"error":""}', '{"error":false,"x":1}', '{"error":0}'])
@pytest_twisted.ensureDeferred
async def test_a_falsy_error_is_a_result(join, response):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    _, text = await called(service, caller, "math.x", response=response)
    assert member(text, "payload") == response


@pytest_twisted.ensureDeferred
async def test_a_response_without_a_result_is_null(join):
    service, caller = await join(MicroStream, "math"), await join(OwlMeans)
    _, text = await called(service, caller, "math.x", response="null")
    assert member(text, "payload") == "null"
    caller.emulator.call("math.x")
    caller.flush()
    payload = await service.request()
    service.say(f'42["response",{{"id":{member(payload, "id")}}}]')
    assert member(await caller.next("answer"), "payload") == "null"


@pytest_twisted.ensureDeferred
async def test_a_silent_service_costs_the_caller_its_timeout(join):
    service, caller = await join(MicroStream, "slow"), await join(OwlMeans)
    error = await caller.failure("slow.x", timeout=1000)
    assert error == "SocketErrorTimeout|||socket:timeout:call|||"
    service.answer(await service.request(), '"late"')
    # Nothing comes of that, or the emulator would know.
    _, text = await called(service, caller, "slow.x", response='"in time"')
    assert member(text, "payload") == '"in time"'


@pytest_twisted.ensureDeferred
async def test_a_lost_service_ends_its_calls(join):
    service, caller = await join(MicroStream, "lost"), await join(OwlMeans)
    pending = caller.emulator.call("lost.x")
    caller.flush()
    await service.request()
    service.socket.abort()
    assert json.loads(await caller.next("answer"))["payload"] == (
        "SocketErrorConnection|||socket:connection:lost:lost.x|||"
    )
    assert pending.done


@pytest_twisted.ensureDeferred
async def test_only_who_was_asked_can_answer(join):
    service, forger, caller = await join(MicroStream, "asked"), await join(MicroStream, "forger"), await join(OwlMeans)
    caller.emulator.call("asked.x")
    caller.flush()
    payload = await service.request()
    forger.answer(payload, '"forged"')
    service.answer(payload, '"true"')
    service.answer(payload, '"twice"')
    assert member(await caller.next("answer"), "payload") == '"true"'
    await caller.sync()
    assert caller.count("answer") == 0


@pytest_twisted.ensureDeferred
async def test_a_streamed_request_to_a_service_is_told_to_be_none(join):
    await join(MicroStream, "streamless")
    caller = await join(OwlMeans)
    caller.emulator.request({"action": "x"}, recipient="streamless")
    caller.flush()
    error = json.loads(await caller.next("response"))["payload"]["error"]
    assert error.startswith("SocketErrorConnectionUnsupported|||")


# MicroStream calls OwlMeans


@pytest.mark.parametrize("text", TEXTS)
@pytest_twisted.ensureDeferred
async def test_data_becomes_the_only_argument(join, text):
    owl, service = await callee(join, "sums.add"), await join(MicroStream, "caller")
    service.ask("sums", "add", text)
    call = await asked(owl)
    assert f',"method":"sums.add","payload":[{text}],' in call
    answer(owl, call, text)
    assert (await service.next("response")).endswith(f',"response":{text}}}]')


@pytest_twisted.ensureDeferred
async def test_absent_data_is_no_argument(join):
    owl, service = await callee(join, "sums.add"), await join(MicroStream, "caller")
    service.ask("sums", "add", NO_BODY)
    call = await asked(owl)
    assert member(call, "payload") == "[]"
    answer(owl, call, "1")
    assert await service.response() == "1"
    service.ask("sums", "add", "null")
    assert member(await asked(owl), "payload") == "[null]"


@pytest_twisted.ensureDeferred
async def test_an_array_stays_one_argument(join):
    owl, service = await callee(join, "sums.add"), await join(MicroStream, "caller")
    service.ask("sums", "add", "[1,2]")
    assert member(await asked(owl), "payload") == "[[1,2]]"


@pytest_twisted.ensureDeferred
async def test_a_null_result_does_not_end_the_requester(join):
    owl, service = await callee(join, "sums.add"), await join(MicroStream, "caller")
    service.ask("sums", "add")
    answer(owl, await asked(owl), "null")
    assert await service.response() == "{}"


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        ("SocketErrorMessage|||socket:message:bad|||at f.js:1", "SocketErrorMessage", "socket:message:bad"),
        ("User not found|||Error: User not found\n at f.js:1|||x", "ResilientError", "User not found"),
        ("just text", "ResilientError", "just text"),
        ({"not": "text"}, "ResilientError", "error"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_failure_has_code_message_and_data(join, payload, code, message):
    owl, service = await callee(join, "sums.add"), await join(MicroStream, "caller")
    service.ask("sums", "add", "1")
    answer(owl, await asked(owl), json.dumps(payload), "error")
    error = json.loads(await service.response())["error"]
    assert error == {"code": code, "message": message, "errorData": {}}


@pytest_twisted.ensureDeferred
async def test_a_procedure_nobody_has_is_a_service_nobody_has(join):
    service = await join(MicroStream, "caller")
    service.ask("nosuch", "add", "1")
    assert json.loads(await service.response())["error"] == {
        "code": "TARGET_SERVICE_NOT_FOUND",
        "message": 'Service "nosuch" not found',
        "errorData": {"targetService": "nosuch", "requestID": "r1"},
    }


@pytest_twisted.ensureDeferred
async def test_a_performer_that_has_all_it_takes_is_a_busy_service(join):
    owl, service = await callee(join, "worker.x", terms={"max_in_flight": 1}), await join(MicroStream, "caller")
    service.ask("worker", "x")
    service.ask("worker", "x")
    error = json.loads(await service.response())["error"]
    assert (error["code"], error["message"]) == ("BUSY", 'Service "worker" is busy')
    answer(owl, await asked(owl), "7")
    assert await service.response() == "7"


@pytest_twisted.ensureDeferred
async def test_a_lost_performer_is_a_disconnected_service(join):
    owl, service = await callee(join, "leaver.x"), await join(MicroStream, "caller")
    service.ask("leaver", "x")
    await asked(owl)
    owl.socket.abort()
    error = json.loads(await service.response())["error"]
    assert (error["code"], error["message"]) == ("TARGET_SERVICE_DISCONNECTED", 'Service "leaver" disconnected')
    assert error["errorData"] == {"targetService": "leaver", "requestID": "r1"}


@pytest_twisted.ensureDeferred
async def test_a_lost_caller_leaves_nothing_to_answer(join):
    owl, service = await callee(join, "left.x"), await join(MicroStream, "leaving")
    service.ask("left", "x")
    call = await asked(owl)
    await service.socket.close()
    answer(owl, call, "1")
    back = await join(MicroStream, "leaving")
    back.ask("left", "x")
    answer(owl, await asked(owl), "2")
    assert await back.response() == "2"


@pytest_twisted.ensureDeferred
async def test_performers_in_turn_serve_requests_too(join):
    owls = [await join(OwlMeans) for _ in range(2)]
    for number, owl in enumerate(owls):
        owl.emulator.perform("turns.x", lambda number=number: number)
        await owl.ask("broker.register", "turns.x", {"mode": "roundrobin"})
    service = await join(MicroStream, "caller")
    for _ in range(4):
        service.ask("turns", "x")
    for owl in owls:
        await owl.next("call")
        await owl.next("call")
    assert sorted([await service.response() for _ in range(4)]) == ["0", "0", "1", "1"]


@pytest_twisted.ensureDeferred
async def test_many_calls_at_once_find_their_own_answers(join):
    service, owl = await join(MicroStream, "many"), await callee(join, "many2.x", client="many-owl")
    for number in range(200):
        owl.emulator.call("many.x", number)
        service.ask("many2", "x", str(number))
    owl.flush()
    for _ in range(200):
        payload = await service.request()
        service.answer(payload, member(payload, "data"))
        call = await asked(owl)
        answer(owl, call, member(call, "payload"))
    assert [await service.response() for _ in range(200)] == [f"[{number}]" for number in range(200)]
    assert [member(await owl.next("answer"), "payload") for _ in range(200)] == [str(n) for n in range(200)]


# The real clients


async def told(program, word):
    """Return what *program* says next about *word*."""
    return json.loads(await program.line(lambda line: f'"{word}"' in line))[word]


@pytest.mark.parametrize("transports", ["polling", "websocket", "polling,websocket"])
@pytest_twisted.ensureDeferred
async def test_the_real_socketio_client_is_answered_by_an_owlmeans_perform(shared_daemon, join, node, transports):
    owl = await join(OwlMeans)
    owl.emulator.perform("math.add", lambda data: {"sum": data["a"] + data["b"]})
    await owl.ask("broker.register", "math.add")
    service = node.start("microstream_service.js", shared_daemon.url, "node-caller", transports)
    await told(service, "connected")
    service.say('{"target":"math","event":"add","data":{"a":2,"b":3}}')
    call = json.loads(await owl.next("call"))
    assert (call["sender"], call["payload"]) == ("node-caller", [{"a": 2, "b": 3}])
    assert await told(service, "response") == {"sum": 5}
    service.say('{"target":"math","event":"nosuch","data":1}')
    assert (await told(service, "error"))["code"] == "TARGET_SERVICE_NOT_FOUND"


@pytest.mark.parametrize("transports", ["polling", "websocket", "polling,websocket"])
@pytest_twisted.ensureDeferred
async def test_the_real_socketio_client_answers_an_owlmeans_call(shared_daemon, join, node, transports):
    service = node.start("microstream_service.js", shared_daemon.url, "node-callee", transports)
    await told(service, "connected")
    owl = await join(OwlMeans)
    assert await owl.ask("node-callee.echo", {"x": 1}) == {"got": {"x": 1}}
    assert await owl.ask("node-callee.echo", 1, 2) == {"got": [1, 2]}
    assert await owl.failure("node-callee.nosuch") == ('ResilientError|||EVENT_NOT_FOUND: Event "nosuch" not found|||')
