"""What a store, or a daemon, finds when it starts on what a power cut has left."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.tokens import Tokens
from broker.core.channels import CURSOR, cursor_key
from broker.core.indices import DEFINITION
from broker.core.keys import SPACE as KEYS
from broker.core.memberships import SPACE as MEMBERSHIPS
from broker.core.owners import CLIENT_ID
from broker.core.owners import SPACE as OWNERS
from broker.core.pages import position_of
from broker.core.queues import LOG as MAIL
from broker.core.queues import POSITION
from broker.errors import Unauthenticated
from broker.messages import Event
from broker.patterns import CLIENT, LOG_PREFIX, pair_key
from broker.stores.sqlite import SqliteStore
from tests.faults.clients import Failed, Native, Thin
from tests.faults.power_cut.disk import Image
from tests.faults.power_cut.load import CHANNEL, CREDENTIALS, MEMBER, OWNER
from tests.faults.power_cut.promises import NOTHING, Found, Promises
from tests.support.daemon import Daemon
from tests.support.eventually import eventually
from tests.support.http_client import Answer, get
from tests.support.store_pump import Pump
from tests.support.ws_client import Refused, ws_connect

DATABASE = "txbroker.db"
LOG = LOG_PREFIX + CHANNEL


def write_image(image: Image, directory: Path) -> None:
    """Make the files of *image*."""
    directory.mkdir()
    for name, content in image.items():
        (directory / name).write_bytes(content)


@attrs.define(eq=False)
class StoreReader:
    """Reads what was promised from a store of this process."""

    store: SqliteStore
    pump: Pump
    clock: Clock

    @classmethod
    def start(cls, path: Path) -> StoreReader:
        """Start a store on the file *path*.

        Raises:
            Unavailable: that can not be done.
        """
        clock, pump = Clock(), Pump()
        clock.advance(time.time())
        store = SqliteStore(str(path), clock=clock, reactor=pump)
        store.startService()
        return cls(store, pump, clock)

    def get(self, space: str, key: str) -> Any:
        return self.pump.result(self.store.get(space, key))

    def events(self) -> dict[int, Any]:
        found = self.pump.result(self.store.read(LOG, 0, 1_000_000))
        return {event.id: json.loads(event.body or b"null") for event in found}

    def value(self, kind: str, name: str, promised: Iterable[Any]) -> Any:
        """Return what is found of a register, to which the values *promised* were written."""
        match kind:
            case "epoch":
                return self.store.epoch if self.store.epoch in promised else NOTHING  # it is never without one
            case "key":
                entry = self.get(KEYS, name)
                return entry.value.decode() if entry else NOTHING
            case "cursor":
                entry = self.get(CURSOR, cursor_key(name, CHANNEL))
                return position_of(entry) if entry else NOTHING
            case "room":
                return True if self.get(MEMBERSHIPS, pair_key(f"thinws:{MEMBER}", name)) else NOTHING
            case "index":
                return True if self.get(DEFINITION, name) else NOTHING
            case "owner":
                entry = self.get(OWNERS, pair_key(CLIENT_ID, name))
                return entry.value.decode() if entry else NOTHING
            case "token":
                return self._verified(name)
            case "mail":
                return self._last_message(CLIENT + name)
        raise AssertionError(kind)

    def _verified(self, token: str) -> Any:
        tokens = Tokens(self.store, lambda event: None)
        try:
            self.pump.result(Deferred.fromCoroutine(tokens.verify(token)))
        except Unauthenticated:
            return NOTHING
        return True

    def _last_message(self, mailbox: str) -> Any:
        position = position_of(self.get(POSITION, mailbox))
        kept = self.pump.result(self.store.read(MAIL + mailbox, position, 1000))
        return json.loads((kept[-1].body or b"").partition(b"\n")[2]) if kept else NOTHING

    def append(self) -> int:
        """Append an event, and return its id."""
        return int(self.pump.result(self.store.append(LOG, Event(CHANNEL, "t", b"null", time=1.0))).id)

    def stop(self) -> None:
        self.pump.stop(self.store)


def found_by_store(directory: Path, promises: Promises) -> Found:
    """Return what a store finds in *directory*, how it goes on, and whether the file is sound after that."""
    path = directory / DATABASE
    try:
        reader = StoreReader.start(path)
        try:
            found = _read(reader, promises)
        finally:
            reader.stop()
        found.faults += _damage(path)
        return found
    except Exception as error:  # what a damaged file leads to can be anything
        return Found(unreadable=str(error) or type(error).__name__)


def _read(reader: StoreReader, promises: Promises) -> Found:
    found = Found(reader.events())
    for (kind, name), register in promises.registers.items():
        found.values[kind, name] = reader.value(kind, name, register.values)
    last, id = max(found.events, default=0), reader.append()
    if id != last + 1:
        found.faults.append(f"ids go on with {id} after {last}")
    return found


def _damage(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [
            f"file is damaged: {fault}" for (fault,) in connection.execute("PRAGMA integrity_check") if fault != "ok"
        ]


@attrs.define(eq=False)
class ClientReader:
    """Asks a daemon for what was promised."""

    daemon: Daemon
    client: Native
    member: Thin
    events: dict[int, Any] = attrs.field(factory=dict)

    @classmethod
    async def start(cls, daemon: Daemon) -> ClientReader:
        reader = cls(daemon, await Native.join(daemon), await Thin.join(daemon, MEMBER))
        while page := (await reader.poll("other", f"after={max(reader.events, default=0)}")).json():
            reader.events.update({event["id"]: event.get("data") for event in page})
        return reader

    async def poll(self, client: str, query: str = "") -> Answer:
        url = f"{self.daemon.url}/events/v1/events?clientId={client}&channel={CHANNEL}&limit=1000&{query}"
        return await get(url)

    async def value(self, kind: str, name: str, promised: Iterable[Any]) -> Any:
        """Return what is found of a register, to which the values *promised* were written."""
        match kind:
            case "epoch":
                epoch = (await self.poll("other", "epoch=")).headers["x-epoch"]
                return epoch if epoch in promised else NOTHING  # it is never without one
            case "key":
                return (await self.client.ask("broker.get", name))["value"]
            case "cursor":
                ahead = (await self.poll(name)).json()
                at = ahead[0]["id"] - 1 if ahead else max(self.events, default=0)
                return at if at in promised else NOTHING  # who has none is before the first
            case "room":
                return await self._is_member(name)
            case "index":
                answer = await get(f"{self.daemon.url}/events/v1/indices/{name}/any")
                return True if answer.status == 200 else NOTHING
            case "owner":
                return OWNER if (await self.poll(name)).status == 403 else NOTHING  # others may not use it
            case "token":
                return await self._is_valid(name)
            case "mail":
                return await self._last_message(name)
        raise AssertionError(kind)

    async def _is_member(self, room: str) -> Any:
        try:
            await self.member.ask(type="message", roomID=room, message="x")
        except Failed:
            return NOTHING
        return True

    async def _is_valid(self, token: str) -> Any:
        try:
            (await ws_connect(self.daemon.ws(f"/ws?token={token}"))).abort()
        except Refused:
            return NOTHING
        return True

    async def _last_message(self, client: str) -> Any:
        """Return the last message for *client*, in a mailbox that has room for one more."""
        got: list[Any] = []
        recipient = await Native.join(self.daemon, token=CREDENTIALS[client])
        recipient.on_message = lambda frame: got.append(frame["payload"])
        recipient.send(type="ping")
        # Its own message comes behind those that wait.
        recipient.send(type="message", id="end", recipient=client, payload="end")
        await eventually(lambda: "end" in got)
        recipient.drop()
        return got[-2] if len(got) > 1 else NOTHING

    def stop(self) -> None:
        self.client.drop()
        self.member.drop()


async def found_by_clients(daemon: Daemon, promises: Promises) -> Found:
    """Return what clients find of a daemon that has started on an image."""
    reader = await ClientReader.start(daemon)
    found = Found(reader.events)
    for (kind, name), register in promises.registers.items():
        found.values[kind, name] = await reader.value(kind, name, register.values)
    reader.stop()
    return found
