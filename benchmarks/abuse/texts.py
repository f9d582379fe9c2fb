"""JSON that costs more than its length says."""

from __future__ import annotations

import json
from contextlib import suppress

from benchmarks.abuse.target import EVENTS_PATH, MEGABYTE, ROOMS_PATH, SOCKET_IO_PATH, Target, attack


def hostile_texts() -> dict[str, str]:
    """JSON texts of nearly a megabyte that cost more than others."""
    return {
        "floats": "[1e100" + ",1.5" * (MEGABYTE // 4) + "]",
        "exponents": "[1" + ",1e308" * (MEGABYTE // 6) + "]",
        "infinite in texts": "[1" + ',"1e999"' * (MEGABYTE // 8) + "]",
        "digits": "[" + "9" * 300 + "," + "1" * MEGABYTE + "]",
        "digits of shorter numbers": "[1" + ("," + "1" * 199) * (MEGABYTE // 201) + "," + "1" * 300 + "]",
        "digits of many numbers": "[1" + ("," + "1" * 305) * (MEGABYTE // 306) + "]",
        "arrays": "[1" + ",[]" * (MEGABYTE // 3) + "]",
        "nesting": "[" * (MEGABYTE // 2) + "]" * (MEGABYTE // 2),
        "members": "{" + ",".join(f'"{number}":1' for number in range(MEGABYTE // 10)) + "}",
        "surrogates": '{"\\ud800":1,' + ",".join(f'"{number}":1' for number in range(MEGABYTE // 10)) + "}",
        "surrogate values": "[1" + ',"\\ud800"' * (MEGABYTE // 9) + "]",
    }


@attack
def json_owlmeans(target: Target) -> None:
    link = target.owlmeans()
    texts = list(hostile_texts().values())
    while not target.over():
        for text in texts:
            link.send('{"type":"event","event":"a","payload":%s}' % text)
            link.send('{"type":"call","id":"a","method":"b","payload":[%s]}' % text)
            link.send(text)
        link.call("broker.whoami", timeout=30)


@attack
def json_hpkv(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        link = target.hpkv()
        for text in texts:
            with suppress(OSError, EOFError):
                link.send('{"op":2,"key":"a","value":%s,"messageId":1}' % text)
                link.send('{"op":2,"key":"a","value":1,"messageId":%s}' % text)
                link.send(text)
        with suppress(OSError, EOFError):
            link.drain(0.5)
        link.close()


@attack
def json_thinws(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        link = target.websocket(ROOMS_PATH)
        with suppress(OSError, EOFError):
            for text in texts:
                link.send('{"type":"message","roomID":"r","messageID":1,"message":%s}' % text)
                link.send(text)
            link.drain(0.5)
        link.close()


@attack
def json_ganomede(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        for text in texts:
            said = '{"clientId":"a","channel":"c","from":"a","type":"t","data":{"a":%s}}' % text
            target.post(EVENTS_PATH, said)
            target.post(EVENTS_PATH, text)


@attack
def json_index(target: Target) -> None:
    """An index over large events, read again and again."""
    texts = list(hostile_texts().values())
    for number in range(4):
        asked = {"id": f"i{number}", "channel": "c", "field": "data.a.b[0].c"}
        target.post("/events/v1/indices", asked)
    round_ = 0
    while not target.over():
        for text in texts:
            said = '{"clientId":"a","channel":"c","from":"a","type":"t","data":{"a":{"b":%s}}}' % text
            target.post(EVENTS_PATH, said)
        for number in range(4):
            target.get(f"/events/v1/indices/i{number}/x")
        round_ += 1


@attack
def json_microstream(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        with suppress(OSError, EOFError):
            link = target.websocket(SOCKET_IO_PATH.format("websocket"))
            link.send("40")
            link.drain(0.3)
            for text in texts:
                said = '{"targetService":"me","payload":{"id":"1","event":"e","data":%s}}' % text
                link.send('42["request",%s]' % said)
                link.send('42["response",{"id":"1","response":%s}]' % text)
                link.send('451-["request",%s]' % said)
                link.send(b"x")
            link.drain(0.5)
            link.close()


@attack
def json_patched(target: Target) -> None:
    """Objects of many members, merged again and again."""
    link = target.hpkv()
    half = json.dumps({str(number): 1 for number in range(MEGABYTE // 24)})
    link.send({"op": 2, "key": "k", "value": half, "messageId": 1})
    link.wait(1)
    while not target.over():
        for _ in range(4):
            link.send({"op": 3, "key": "k", "value": half, "messageId": 1})
        link.wait(4)
