"""Clients of all dialects that write to a daemon, and note what it acknowledges."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from itertools import count
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults

from tests.faults.clients import NOT_REACHED, Failed, Lost, Native, Thin
from tests.faults.power_cut.promises import NOTHING, Promises
from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import eventually
from tests.support.http_client import Answer, get, post

CHANNEL, READER, MEMBER, RECIPIENT = "events", "reader", "walker", "bob"
WRITERS = 3
KEPT_EVENTS = 60
ROOMS = 5
LARGE_BYTES = 600_000  # of the value of a large key
CREDENTIALS = {"shop": "the-key-of-the-shop", RECIPIENT: "the-key-of-bob-alone"}  # others need none
KEY, OWNER = CREDENTIALS["shop"], "key:shop"
ENVIRON = {
    **WITH_METRICS,
    "TXBROKER_API_KEYS": ",".join(f"{name}:{key}" for name, key in CREDENTIALS.items()),
    "TXBROKER_AUTH": "optional",
    "TXBROKER_POLL_TIMEOUT_SECONDS": "0",
    "TXBROKER_ERROR_DELAY_SECONDS": "0",
    "TXBROKER_RETENTION": str(KEPT_EVENTS),
    # The write-ahead log has an eighth of it: there are many checkpoints.
    "TXBROKER_MAX_STORE_BYTES": str(16 << 20),
    # Of the messages that nobody answers, those are acknowledged that drop another: a notice says so.
    "TXBROKER_MAX_MAILBOX": "1",
}
NOT_DONE = (Failed, Lost, *NOT_REACHED)
Work = Coroutine[Any, Any, None]


def checked(answer: Answer) -> Answer:
    """Return *answer* if it is a good one.

    Raises:
        Failed: it is not.
    """
    if answer.status != 200:
        raise Failed(str(answer.status), answer.text)
    return answer


class Sender(Native):
    """A client for which a message has an answer: the notice that another was dropped for it."""

    def received(self, text: str) -> None:
        frame = json.loads(text)
        if frame["type"] != "system":
            super().received(text)
            return
        error, id = frame["payload"]["error"], frame["payload"]["ref"]["id"]
        self.settle(id, None if "limit:mailbox" in error else Failed(error))


@attrs.define(eq=False)
class Load:
    """The clients of one life of a daemon.

    Attributes:
        number: of the life.
        large: how many large keys are written and deleted in the first one.
        ending: whether the daemon may go at any moment.
        posted: events that were acknowledged in this life.
    """

    daemon: Daemon
    promises: Promises
    number: int
    large: int = 0
    ending: bool = False
    posted: int = 0

    async def run(self, goal: int, end: Callable[[], Awaitable[object]]) -> None:
        """Work until *goal* events are acknowledged and all else has been done, and *end* the daemon amid that."""
        await self.prepare()
        works = [Deferred.fromCoroutine(self._until_the_end(work)) for work in self.works()]
        first = [Deferred.fromCoroutine(work) for work in (self.grow_and_shrink(), self.mint_and_revoke())]
        await gatherResults(first)
        await eventually(lambda: self.posted >= goal or any(work.called for work in works))
        self.ending = True
        await end()
        await gatherResults(works)

    async def prepare(self) -> None:
        """Make what others need."""
        if not self.number:
            recipient = await Native.join(
                self.daemon, token=CREDENTIALS[RECIPIENT]
            )  # once: it would be given what waits for it
            await recipient.ask("broker.get", "anything")
            recipient.drop()
        answer = await self.poll("epoch=")
        await self.write("epoch", "", answer.headers["x-epoch"], self.poll("epoch="))
        index = {"id": f"index{self.number}", "channel": CHANNEL, "field": "writer"}
        await self.write("index", index["id"], True, self.post("indices", index))

    def works(self) -> Iterator[Callable[[], Work]]:
        """Yield what is done again and again."""
        for writer in range(WRITERS):
            yield partial(self.post_events, f"{self.number}-{writer}")
        yield from (self.read_events, self.change_keys, self.increment, self.send_mail, self.join_rooms, self.own_ids)

    async def _until_the_end(self, work: Callable[[], Work]) -> None:
        try:
            await work()
        except NOT_DONE:
            if not self.ending:
                raise

    async def write(self, kind: str, name: str, value: Any, asked: Awaitable[Any]) -> Any:
        """Note that *asked* writes *value* to a register, and that it was answered; return the answer."""
        register = self.promises.register(kind, name)
        register.begin(value)
        answer = await asked
        register.acknowledge()
        return answer

    async def post(self, path: str, body: Any) -> Answer:
        """Post to the ganomede dialect."""
        return await self._post(f"{self.daemon.url}/events/v1/{path}", body)

    async def _post(self, url: str, body: Any, **options: Any) -> Answer:
        return checked(await post(url, body, **options))

    async def poll(self, query: str) -> Answer:
        """Poll the channel."""
        url = f"{self.daemon.url}/events/v1/events?clientId={READER}&channel={CHANNEL}&{query}"
        return checked(await get(url))

    # What is done

    async def post_events(self, writer: str) -> None:
        for number in count():
            data = {"writer": writer, "n": number}
            event = {"clientId": "w", "channel": CHANNEL, "from": "f", "type": "t", "data": data}
            answer = await self.post("events", event)
            self.promises.posted(answer.json()["id"], data)
            self.posted += 1

    async def read_events(self) -> None:
        """Move a cursor to what was acknowledged last."""
        while True:
            last = max(self.promises.events, default=0)
            await self.write("cursor", READER, last, self.poll(f"after={last}"))

    async def own_ids(self) -> None:
        """Use ids that are their first user's from then on."""
        for number in count():
            id = f"own{self.number}-{number}"
            url = f"{self.daemon.url}/events/v1/events?clientId={id}&channel={CHANNEL}&limit=1&secret={KEY}"
            asked = get(url).addCallback(checked)
            await self.write("owner", id, OWNER, asked)

    async def change_keys(self) -> None:
        """Write one key and delete it, again and again."""
        client = await Native.join(self.daemon)
        for number in count():
            text = f"{self.number}-{number}-" + "x" * (number % 7 * 900)
            await self.write("key", "text", text, client.ask("broker.set", "text", text))
            if number % 3 == 2:
                await self.write("key", "text", NOTHING, client.ask("broker.delete", "text"))

    async def increment(self) -> None:
        """Count on from what is there."""
        client = await Native.join(self.daemon)
        number = int((await client.ask("broker.get", "number"))["value"] or 0)
        while True:
            number += 1
            await self.write("key", "number", str(number), client.ask("broker.increment", "number", 1))

    async def send_mail(self) -> None:
        """Send one message after the other to a client that is away; of the first of all there is no word."""
        client = await Sender.join(self.daemon)
        mail = self.promises.register("mail", RECIPIENT)
        number = mail.last or 0
        while True:
            number += 1
            mail.begin(number)
            client.send(type="message", id=f"mail{number}", recipient=RECIPIENT, payload=number)
            if number > 1:
                await client.expect(f"mail{number}")
                mail.acknowledge()

    async def join_rooms(self) -> None:
        client = await Thin.join(self.daemon, MEMBER)
        for number in count():
            room = f"room{number % ROOMS}"
            inside = self.promises.register("room", room).last
            verb, after = ("unsubscribe", NOTHING) if inside else ("subscribe", True)
            await self.write("room", room, after, client.ask(type=verb, roomID=room))

    # What is done once

    async def grow_and_shrink(self) -> None:
        """Write large keys, and delete them, after which the file is shortened at the next start."""
        if self.number:
            return
        client = await Native.join(self.daemon)
        for number in range(self.large):
            value = str(number) * LARGE_BYTES
            await self.write("key", f"large{number}", value, client.ask("broker.set", f"large{number}", value))
        for number in range(self.large):
            await self.write("key", f"large{number}", NOTHING, client.ask("broker.delete", f"large{number}"))
        client.drop()

    async def mint_and_revoke(self) -> None:
        """Mint two tokens, and revoke one of them."""
        for revoked in (False, True):
            minting = self._post(f"{self.daemon.url}/token/websocket", {}, headers={"x-api-key": KEY})
            token = (await minting).json()["token"]
            register = self.promises.register("token", token)
            register.begin(True)
            register.acknowledge()
            if revoked:
                revoking = self._post(f"{self.daemon.admin_url}/admin/api/tokens/revoke", {"token": token})
                await self.write("token", token, NOTHING, revoking)
