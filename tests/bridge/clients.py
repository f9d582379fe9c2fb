"""One small client of each dialect on a real connection.

They keep the exact text of what comes: that is what the bridge promises.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from typing import Any, ClassVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.web.client import HTTPConnectionPool

from tests.protocols.owlmeans_emulator import Emulator
from tests.support.daemon import Daemon
from tests.support.http_client import Answer, get, post
from tests.support.ws_client import WebSocket, ws_connect

NO_BODY = None  # no JSON text at all, which is not "null"

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def member(text: str, *path: str) -> str:
    """Return the exact text of a member of the JSON object *text*; "" when it is not there."""
    for name in path:
        text = bytes(_members(text).get(name, b"")).decode()
    return text


@attrs.define(eq=False)
class Client:
    """A WebSocket whose messages are sorted by kind."""

    path: ClassVar[str]
    socket: WebSocket
    _heard: dict[str, deque[str]] = attrs.field(factory=lambda: defaultdict(deque))
    _count: int = 0

    @classmethod
    async def join(cls, daemon: Daemon, **query: str) -> Any:
        """Connect, as the shipped client does."""
        client = cls(await ws_connect(daemon.ws(f"{cls.path}?{urlencode(query)}")))
        await client.greet()
        return client

    async def greet(self) -> None:
        """Say what the client says by itself, and wait for the answer."""

    def kind(self, text: str) -> str:
        """Return what kind of message *text* is."""
        return "message"

    def number(self) -> int:
        self._count += 1
        return self._count

    def say(self, text: str) -> None:
        self.socket.send(text)

    async def next(self, kind: str) -> str:
        """Return the next message of *kind*, past or to come."""
        while not self._heard[kind]:
            text = await self.socket.receive()
            assert isinstance(text, str), "a binary message"
            self._heard[self.kind(text)].append(text)
        return self._heard[kind].popleft()

    def count(self, kind: str) -> int:
        """Return how many messages of *kind* have come and were not asked for."""
        return len(self._heard[kind])


@attrs.define(eq=False)
class OwlMeans(Client):
    """With the strict emulator attached: it fails on any frame that would throw in the shipped client."""

    path: ClassVar[str] = "/owlmeans"
    emulator: Emulator = attrs.field(factory=lambda: Emulator(stamped=False))

    def kind(self, text: str) -> str:
        self.emulator.received(text)
        self.flush()
        kind: str = json.loads(text)["type"]
        return "answer" if kind in ("result", "error") else kind

    def flush(self) -> None:
        while self.emulator.outbox:
            self.socket.send(self.emulator.outbox.popleft())

    def begin(self, method: str, *arguments: str, **extra: Any) -> None:
        """Call with arguments that are JSON texts."""
        self.emulator.call(method, **extra)
        frame = json.loads(self.emulator.outbox.pop())
        frame.pop("payload")
        self.say(f'{json.dumps(frame)[:-1]},"payload":[{",".join(arguments)}]}}')

    async def call(self, method: str, *arguments: str, **extra: Any) -> str:
        """Do so; return the text of the answer."""
        self.begin(method, *arguments, **extra)
        return await self.next("answer")

    async def ask(self, method: str, *arguments: Any, **extra: Any) -> Any:
        """Call; return the result, or raise what the client's promise is rejected with."""
        pending = self.emulator.call(method, *arguments, **extra)
        self.flush()
        while not pending.done:
            await self.next("answer")
        return pending.result()

    async def failure(self, method: str, *arguments: Any, **extra: Any) -> str:
        """Call; return the error as it stands on the wire."""
        text = await self.call(method, *map(json.dumps, arguments), **extra)
        assert json.loads(text)["type"] == "error", text
        failure: str = json.loads(text)["payload"]
        return failure

    async def subscribe(self, *topics: str, **options: Any) -> None:
        await self.ask("broker.subscribe", list(topics), options)

    def notify(self, event: str, payload: str | None) -> None:
        body = "" if payload is NO_BODY else f',"payload":{payload}'
        self.say(f'{{"type":"event","event":{json.dumps(event)}{body}}}')

    async def event(self) -> str:
        return await self.next("event")

    async def sync(self) -> None:
        """Wait until everything that was sent before now has come."""
        self.say('{"type":"ping"}')
        await self.next("pong")


@attrs.define(eq=False)
class ThinWs(Client):
    path: ClassVar[str] = "/thinws"
    connection_id: str = "1"

    async def greet(self) -> None:
        self.connection_id = str(uuid4())  # no other client's, which may be another principal's
        assert (await self.ask(type="connect", connectionID=self.connection_id))["type"] == "ack"

    def kind(self, text: str) -> str:
        return "reply" if "messageID" in json.loads(text) or '"type":"error"' in text else "message"

    async def ask(self, **members: Any) -> Any:
        """Send a frame; return the one reply to it."""
        self.say(json.dumps({"messageID": self.number(), **members}))
        return json.loads(await self.next("reply"))

    async def enter(self, room: str) -> None:
        assert (await self.ask(type="subscribe", roomID=room))["type"] == "ack"

    async def send(self, room: str, message: str | None, field: str = "message") -> None:
        """Send the JSON text *message* to *room*, of which it must be a member."""
        body = "" if message is NO_BODY else f'"{field}":{message},'
        self.say(f'{{"messageID":{self.number()},"type":"message",{body}"roomID":{json.dumps(room)}}}')
        reply = await self.next("reply")
        assert json.loads(reply)["type"] == "ack", reply

    async def message(self) -> str:
        return await self.next("message")


@attrs.define(eq=False)
class Hpkv(Client):
    """With an API key; one with a token comes by ``watcher``."""

    path: ClassVar[str] = "/ws"

    @classmethod
    async def join(cls, daemon: Daemon, **query: str) -> Hpkv:
        return await super().join(daemon, **(query or {"apiKey": "any"}))

    @classmethod
    async def watcher(cls, daemon: Daemon, *keys: str, access: str = ".", key: str = "any") -> Hpkv:
        """Return a client that is told of the changes of *keys*."""
        wanted = {"subscribeKeys": keys, "accessPattern": access}
        answer = await post(daemon.url + "/token/websocket", wanted, headers={"x-api-key": key})
        return await cls.join(daemon, token=answer.json()["token"])

    def kind(self, text: str) -> str:
        return "notification" if '"type":"notification"' in text[:30] else "answer"

    async def do(self, op: int, key: str, value: Any = None, **more: Any) -> Any:
        said = {"op": op, "key": key, **({} if value is None else {"value": value}), **more}
        self.say(json.dumps({**said, "messageId": self.number()}))
        return json.loads(await self.next("answer"))

    async def get(self, key: str) -> Any:
        return await self.do(1, key)

    async def set(self, key: str, value: str) -> None:
        assert (await self.do(2, key, value))["code"] == 200

    async def patch(self, key: str, value: str) -> None:
        assert (await self.do(3, key, value))["code"] == 200

    async def delete(self, key: str) -> None:
        assert (await self.do(4, key))["code"] == 200

    async def range(self, first: str, last: str) -> list[tuple[str, str]]:
        answer = await self.do(5, first, endKey=last)
        return [(record["key"], record["value"]) for record in answer["records"]]

    async def increment(self, key: str, amount: float) -> None:
        assert (await self.do(6, key, amount))["code"] == 200

    async def notification(self) -> Any:
        return json.loads(await self.next("notification"))


@attrs.define(eq=False)
class MicroStream(Client):
    """A service of the hub, on WebSocket."""

    path: ClassVar[str] = "/socket.io/"

    @classmethod
    async def join(cls, daemon: Daemon, name: str = "", **query: str) -> MicroStream:
        named = {"serviceName": name} if name else {}
        return await super().join(daemon, EIO="4", transport="websocket", **named, **query)

    async def greet(self) -> None:
        await self.next("0")
        self.say("40")
        await self.next("40")

    def kind(self, text: str) -> str:
        for kind in ("request", "response"):
            if text.startswith(f'42["{kind}",'):
                return kind
        if text == "2":
            self.say("3")
        return text[:2] if text[:1] == "4" else text[:1]

    def ask(self, target: str, event: str, data: str | None = NO_BODY) -> None:
        body = "" if data is NO_BODY else f',"data":{data}'
        payload = f'{{"id":"r{self.number()}","event":{json.dumps(event)}{body}}}'
        self.say(f'42["request",{{"targetService":{json.dumps(target)},"payload":{payload}}}]')

    async def response(self) -> str:
        """Return the exact text of the next response, ``null`` or not."""
        text = await self.next("response")
        return member(text[len('42["response",') : -1], "response")

    async def call(self, target: str, event: str, data: str | None = NO_BODY) -> str:
        self.ask(target, event, data)
        return await self.response()

    async def error(self, target: str, event: str, data: str | None = NO_BODY) -> Any:
        return json.loads(await self.call(target, event, data))["error"]

    async def request(self) -> str:
        """Return the exact text of the payload of the next request to this service."""
        return (await self.next("request"))[len('42["request",') : -1]

    def answer(self, payload: str, response: str) -> None:
        """Answer the request *payload* with the JSON text *response*."""
        self.say(f'42["response",{{"id":"{json.loads(payload)["id"]}","response":{response}}}]')

    async def serve(self, response: str) -> str:
        """Answer the next request; return its payload."""
        payload = await self.request()
        self.answer(payload, response)
        return payload


@attrs.define(eq=False)
class Ganomede:
    """The HTTP API."""

    daemon: Daemon
    secret: str = "any"
    pool: HTTPConnectionPool | None = None  # of connections to keep; without it each request has its own

    def url(self, path: str, **fields: Any) -> str:
        query = urlencode({"secret": self.secret, **fields}, quote_via=quote)
        return f"{self.daemon.url}/events/v1/{path}?{query}"

    def post_raw(self, body: bytes) -> Deferred[Answer]:
        url = self.daemon.url + "/events/v1/events"
        return post(url, body=body, headers={"Content-Type": "application/json"}, pool=self.pool)

    async def post(self, channel: str, data: str | None, kind: str = "T", source: str = "svc/v1") -> Any:
        """Publish; *data* is JSON text."""
        said = {"clientId": "w", "secret": self.secret, "channel": channel, "from": source, "type": kind}
        body = "" if data is NO_BODY else f',"data":{data}'
        answer = await self.post_raw(f"{json.dumps(said)[:-1]}{body}}}".encode())
        assert answer.status == 200, answer.text
        return answer.json()

    def poll(self, channel: str, after: int = 0, client: str = "r") -> Deferred[Answer]:
        return get(self.url("events", channel=channel, clientId=client, after=after), pool=self.pool)

    async def latest(self, channel: str) -> list[str]:
        """Return the exact texts of the events of *channel*."""
        answer = await get(self.url("latest", channel=channel))
        assert answer.status == 200, answer.text
        return [bytes(event).decode() for event in msgspec.json.decode(answer.body, type=list[msgspec.Raw])]
