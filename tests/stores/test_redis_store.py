"""The Redis store keeps the contract, and what is special about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import pytest_twisted
import trustme
import txredisapi
from twisted.internet import reactor
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import Clock
from twisted.protocols.portforward import ProxyServer
from zope.interface.verify import verifyObject

from broker.buses import open_bus
from broker.config.addresses import is_redis
from broker.core.channels import StoreEventSource
from broker.errors import Invalid, NotDone, Unavailable
from broker.interfaces import ISharedStore, IStore
from broker.messages import Addition, Announcement, Event, KeyAnnouncement
from broker.redis import RedisAddress
from broker.redis.connection import NotUsable, ResponseError, refusal_text
from broker.redis.event_codec import decode_stored
from broker.redis.server import ServerInfo
from broker.redis.unprivileged import read_unprivileged
from broker.stores import open_store
from tests.stores.made_store import MakeStore
from tests.stores.store_contract import AnnouncementContract, DurableContract
from tests.support.eventually import eventually
from tests.support.processes import Ended, Program
from tests.support.redis_server import RedisServer, free_port, redis_executable, refusing_port

_numbers = count()


class TestRedisStore(DurableContract):
    """What every durable store does, on a real redis-server."""

    announces = False

    @pytest.fixture
    def make(self, clock: Clock, shared_redis_server: RedisServer) -> MakeStore:
        options: Any = {"prefix": f"test{next(_numbers)}:", "announce": self.announces}
        return lambda: open_store(shared_redis_server.url, clock=clock, reactor=cast(Any, reactor), **options)

    @pytest.fixture
    def make_limited(self, clock: Clock, redis_server: RedisServer) -> Callable[[int], IStore]:
        # An empty Redis uses something already.
        return lambda size: open_store(redis_server.url, clock=clock, reactor=cast(Any, reactor), max_bytes=size)


class TestAnnouncingRedisStore(AnnouncementContract):
    """How the changes of keys are announced by a store that several nodes share."""

    announces = True
    make = TestRedisStore.make


MakeRedisStore = Callable[..., Any]


@pytest_twisted.async_yield_fixture
async def make_store(redis_server: RedisServer) -> AsyncIterator[MakeRedisStore]:
    """Makes started stores on a Redis of the test's own."""
    made: list[Any] = []

    def make(url: str = "", **options: Any) -> Any:
        store = open_store(url or redis_server.url, clock=reactor, prefix="own:", **options)
        made.append(store)
        store.startService()
        return store

    yield make
    for store in made:
        await maybeDeferred(store.stopService)


def event(body: bytes = b"1") -> Event:
    return Event("topic", "kind", body)


@pytest_twisted.ensureDeferred
async def test_revisions_go_on_above_those_of_an_older_version(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store = make_store()
    await store.append("log", event())
    mark = await store.mark()
    await redis_server.command("DEL", "own:revisions")
    for key, entry in (("k", "7 0.0 old"), ("l", f"{500 * mark} 0.0 old")):
        await redis_server.command("HSET", "own:keys:kv", key, entry)
        await redis_server.command("ZADD", "own:order:kv", "0", key)
    assert await store.revision("kv") >= 500 * mark
    entry = await store.set("kv", "k", b"new", revision=7)
    assert entry.revision > 500 * mark
    assert (await store.patch("kv", "l", b"new", lambda old, new: new)).revision == entry.revision + 1
    assert (await store.set("other", "k", b"new")).revision > 500 * mark


@pytest_twisted.ensureDeferred
async def test_a_revision_is_above_that_which_a_node_of_an_older_version_has_given(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store = make_store()
    await store.set("kv", "k", b"1")
    await redis_server.command("HSET", "own:keys:kv", "k", "2 0.0 of the older")
    assert (await store.set("kv", "other", b"1")).revision == 2
    assert (await store.set("kv", "k", b"1", revision=2)).revision == 3
    await redis_server.command("HSET", "own:keys:kv", "k", "9 0.0 of the older")
    assert (await store.set("kv", "k", b"1")).revision == 10
    assert await store.revision("kv") == 10


def announcement() -> Announcement:
    return KeyAnnouncement("kv/k", "set", 1.0, key="k")


# What it says of itself.


@pytest_twisted.ensureDeferred
async def test_it_provides_the_interface_of_a_shared_store(make_store: MakeRedisStore) -> None:
    verifyObject(ISharedStore, make_store())


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("options", "promise"),
    [
        ({"appendfsync": "always"}, "appendonly yes, appendfsync always: what was answered survives a power cut"),
        ({"appendfsync": "everysec"}, "appendonly yes, appendfsync everysec: the last second may be lost"),
        ({"appendonly": "no"}, "appendonly no: everything is lost when it ends"),
        ({"appendonly": "no", "save": "60 1"}, "appendonly no: what was not saved in its last snapshot is lost"),
    ],
)
async def test_the_description_says_what_redis_promises(
    make_store: MakeRedisStore, redis_server: RedisServer, options: dict[str, str], promise: str
) -> None:
    for name, value in options.items():
        await redis_server.command("CONFIG", "SET", name, value)
    store = make_store()
    assert store.description.endswith("not reached yet")
    await store.head("log")
    assert promise in store.description
    assert f"127.0.0.1:{redis_server.port}" in store.description


@pytest_twisted.ensureDeferred
async def test_a_redis_that_throws_data_away_is_warned_of(redis_server: RedisServer) -> None:
    await redis_server.command("CONFIG", "SET", "maxmemory", "100mb")
    await redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    client = await txredisapi.UnixConnection(
        str(redis_server.socket), reconnect=False, charset=None, convertNumbers=False
    )
    server = await ServerInfo.query(client)
    assert server.warnings() == [
        "Redis throws data away when it is full (maxmemory-policy allkeys-lru): set noeviction"
    ]
    await client.disconnect()


@pytest.mark.parametrize(
    "text",
    [
        "@user_script: 159: -OOM command not allowed",
        "ERR Error running script (call to f_fb): @user_script:84: @user_script: 84: -OOM command not allowed",
        "OOM command not allowed script: fb23f8, on @user_script:84.",
    ],
)
def test_what_a_script_was_refused_for_is_told_without_its_position(text: str) -> None:
    assert refusal_text(ResponseError(text)) == "OOM command not allowed"


def test_what_the_user_of_a_script_may_not_do_is_told_without_its_position() -> None:
    text = "The user executing the script can't run this command or subcommand"
    assert refusal_text(ResponseError(f"@user_script: 255: {text}")) == text


def test_where_a_script_has_failed_itself_is_told() -> None:
    text = "ERR Error running script (call to f_fb): @user_script:84: attempt to index a nil value"
    assert refusal_text(ResponseError(text)) == text


def test_what_can_not_serve_is_not_used() -> None:
    for info, reason in (({"loading": "1"}, "loading"), ({"role": "slave"}, "replica")):
        with pytest.raises(NotUsable, match=reason):
            ServerInfo(info).check()
    for version in ("6.0.16", "5.0.14", "2.8.4"):
        with pytest.raises(NotUsable, match="too old"):
            ServerInfo({"redis_version": version}).check()
    for version in ("6.2.0", "7.4.1", "10.0.0", "", "unstable"):
        ServerInfo({"redis_version": version}).check()
    assert ServerInfo({"aof_enabled": "1"}).promise == "version unknown, appendonly yes, appendfsync unknown"


# Ways to come to it.


@pytest_twisted.ensureDeferred
async def test_a_password_a_user_and_a_database(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    await redis_server.command("ACL", "SETUSER", "me", "on", ">my secret", "~*", "&*", "+@all")
    host = f"127.0.0.1:{redis_server.port}"
    store = make_store(f"redis://me:my%20secret@{host}/3")
    assert (await store.append("log", event())).id == 1
    assert "secret" not in store.description
    assert "database 3" in store.description
    assert await make_store(f"redis://{host}").head("log") == 0
    wrong = make_store(f"redis://me:wrong@{host}/3")
    with pytest.raises(Unavailable, match="WRONGPASS"):
        await wrong.head("log")
    assert "WRONGPASS" in wrong.ready
    await redis_server.command("ACL", "SETUSER", "me", ">wrong")
    await eventually(lambda: wrong.ready == "")
    assert await wrong.head("log") == 1


@pytest_twisted.ensureDeferred
async def test_what_may_not_be_published_is_not_stored(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    await redis_server.command("ACL", "SETUSER", "me", "on", ">s", "+@all", "~*", "-publish")
    store = make_store(f"redis://me:s@127.0.0.1:{redis_server.port}", announce=True)
    for refused in (
        lambda: store.append("event/topic", event()),
        lambda: store.set("kv", "k", b"1", announcement=announcement()),
        lambda: store.patch("kv", "k", b"1", lambda *_: b"", announcement=announcement()),
        lambda: store.increment("kv", "k", b"1", announcement=announcement()),
        lambda: store.increment("kv", "k", b"0.5", announcement=announcement()),
    ):
        with pytest.raises(NotDone, match="NOPERM"):
            await refused()
    assert "NOPERM" in store.ready
    assert await store.head("event/topic") == 0
    assert await store.get("kv", "k") is None
    await redis_server.command("ACL", "SETUSER", "me", "+publish", "&*")
    await eventually(lambda: store.ready == "")
    assert (await store.set("kv", "k", b"1", announcement=announcement())).revision == 1
    assert (await store.append("event/topic", event())).id == 1


@pytest_twisted.ensureDeferred
async def test_who_may_publish_elsewhere_only_is_refused_as_well(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    await redis_server.command("ACL", "SETUSER", "me", "on", ">s", "+@all", "~*", "resetchannels", "&other*")
    store = make_store(f"redis://me:s@127.0.0.1:{redis_server.port}", announce=True)
    with pytest.raises(NotDone, match="NOPERM"):
        await store.set("kv", "k", b"1", announcement=announcement())
    assert await store.get("kv", "k") is None
    await redis_server.command("ACL", "SETUSER", "me", "&own:*")
    await eventually(lambda: store.ready == "")
    assert (await store.set("kv", "k", b"1", announcement=announcement())).revision == 1


# "Own keys, and nothing dangerous", as it is advised everywhere: INFO, CONFIG and ROLE are dangerous, too.
SAFE_RIGHTS = ("~own:*", "&*", "+@all", "-@dangerous", "-@admin")


@pytest_twisted.ensureDeferred
async def test_a_user_without_dangerous_commands_can_do_everything(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    await redis_server.command("ACL", "SETUSER", "me", "on", ">s", *SAFE_RIGHTS)
    url, heard = f"redis://me:s@127.0.0.1:{redis_server.port}", []
    store, bus = make_store(url, announce=True), cast(Any, open_bus(url, "me", reactor=reactor, prefix="own:"))
    bus.source, bus.deliver = StoreEventSource(store), heard.append
    bus.startService()
    bus.listen("kv/", prefix=True)
    await bus.claim("name")
    assert (await store.append("event/topic", event())).id == 1
    await (bus.listening() or store.head(""))
    await store.set("kv", "k", b"1", announcement=announcement())
    await eventually(lambda: len(heard) == 1)
    assert store.ready == bus.ready == ""
    assert "does not permit INFO" in store.description
    assert store.used_bytes > 0
    await bus.stopService()


@pytest_twisted.ensureDeferred
async def test_each_run_of_a_server_has_a_word_without_info_too(redis_server: RedisServer) -> None:
    async def words() -> set[str]:
        found = set()
        for _ in range(3):
            client = await txredisapi.UnixConnection(
                str(redis_server.socket), reconnect=False, charset=None, convertNumbers=False
            )
            found.add((await read_unprivileged(client, b"own:"))["run_id"])
            await client.disconnect()
        return found

    first = await words()
    await redis_server.stop()  # which keeps its data
    await redis_server.start()
    second = await words()
    assert (len(first), len(second), len(first | second)) == (1, 1, 2)


@pytest_twisted.ensureDeferred
async def test_without_info_it_is_noticed_too_that_data_have_gone(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    await redis_server.command("ACL", "SETUSER", "me", "on", ">s", *SAFE_RIGHTS)
    store = make_store(f"redis://me:s@127.0.0.1:{redis_server.port}")
    await store.append("log", event())
    epoch = store.epoch
    await redis_server.command("FLUSHALL")
    await redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await eventually(lambda: store.ready != "" or store.epoch != epoch)
    await eventually(lambda: store.ready == "")
    assert store.epoch != epoch


@pytest_twisted.ensureDeferred
async def test_a_unix_socket(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    store = make_store(f"redis+unix://{redis_server.socket}?db=2")
    assert (await store.append("log", event())).id == 1
    assert str(redis_server.socket) in store.description


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # Twisted does
@pytest_twisted.ensureDeferred
async def test_tls(make_store: MakeRedisStore, short_path: Path) -> None:
    """Redis behind a TLS port of ours: not every redis-server is built with it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(short_path / "ca.pem"))
    server = RedisServer(short_path)
    await server.start()
    issued = authority.issue_cert("localhost")
    context = PrivateCertificate.loadPEM(issued.cert_chain_pems[0].bytes() + issued.private_key_pem.bytes()).options()
    factory = Factory.forProtocol(ProxyServer)
    factory.host, factory.port = "127.0.0.1", server.port  # type: ignore[attr-defined]
    port = cast(Any, reactor).listenSSL(0, factory, context, interface="127.0.0.1")
    url = f"rediss://localhost:{port.getHost().port}/0"
    store = make_store(f"{url}?ca={short_path / 'ca.pem'}")
    assert (await store.append("log", event())).id == 1
    suspicious = make_store(url)
    with pytest.raises(Unavailable):
        await suspicious.head("log")
    for each in (store, suspicious):
        await maybeDeferred(each.stopService)
    await maybeDeferred(port.stopListening)
    await server.kill()


async def start_sentinel(master: RedisServer) -> tuple[Program, int]:
    """Return a Sentinel that watches *master* as "shop", and its port."""
    conf = master.directory / "sentinel.conf"
    command = [redis_executable(), str(conf), "--sentinel"]
    while True:
        port = free_port()
        watched = f"sentinel monitor shop 127.0.0.1 {master.port} 1"
        conf.write_text(f"port {port}\nbind 127.0.0.1\ndir {master.directory}\n{watched}\n")
        sentinel = Program.start(command, env={"LC_ALL": "C"}, cwd=master.directory)
        try:
            await sentinel.line(lambda line: "+monitor" in line)
        except Ended:
            assert "in use" in sentinel.report()  # somebody took it in between
        else:
            return sentinel, port


@pytest_twisted.ensureDeferred
async def test_sentinels_name_the_master(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    sentinel, port = await start_sentinel(redis_server)
    with refusing_port() as dead:
        store = make_store(f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{dead}/shop/1")
        assert (await store.append("log", event())).id == 1
    assert "shop of the Sentinels" in store.description
    unknown = make_store(f"redis+sentinel://127.0.0.1:{port}/cart")
    await eventually(lambda: "the Sentinels know no master 'cart': they know 'shop'" in unknown.ready)
    no_data = make_store(f"redis://127.0.0.1:{port}")
    await eventually(lambda: "it is a Sentinel, which has no data: write redis+sentinel://" in no_data.ready)
    master = redis_server.port
    await redis_server.stop()
    named = f"the Sentinels name 127.0.0.1:{master}, which can not be reached: Connection was refused"
    await eventually(lambda: named in store.ready)
    await maybeDeferred(store.stopService)
    await sentinel.end()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", RedisAddress(hosts=(("localhost", 6379),))),
        ("redis://host", RedisAddress(hosts=(("host", 6379),))),
        ("redis://host:1/2", RedisAddress(hosts=(("host", 1),), db=2)),
        ("redis://[::1]:1", RedisAddress(hosts=(("::1", 1),))),
        ("redis://:p%40w@host?db=4", RedisAddress(hosts=(("host", 6379),), password="p@w", db=4)),
        ("rediss://u:p@host?ca=/ca", RedisAddress(hosts=(("host", 6379),), user="u", password="p", tls=True, ca="/ca")),
        ("redis+unix:///run/my%20redis.sock", RedisAddress(path="/run/my redis.sock")),
        ("redis+sentinel://a,b:2/m", RedisAddress(hosts=(("a", 26379), ("b", 2)), master="m")),
        ("rediss+sentinel://a/m/3", RedisAddress(hosts=(("a", 26379),), master="m", db=3, tls=True)),
    ],
)
def test_a_url_says_where_redis_is(url: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(url) == address
    assert is_redis(url)


@pytest.mark.parametrize(
    "url",
    [
        "horse://host",
        "redis://host/name",
        "redis://host:port",
        "redis://secret@host?what=1",
        "redis://host?what",
        "redis+unix://",
        "redis+unix://host/path",
        "redis+sentinel://host",
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Invalid, match="This is no URL of a Redis") as caught:
        RedisAddress.parse(url)
    assert "secret" not in str(caught.value)


# When Redis is not well.


@pytest_twisted.ensureDeferred
async def test_a_redis_that_is_away_at_the_start_may_come(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    await redis_server.kill()
    store = make_store()
    first = store.append("log", event())
    await eventually(lambda: "refused" in store.ready)
    with pytest.raises(Unavailable, match=r"Redis can not be used: .*refused") as caught:
        await first
    assert caught.value.message == "Redis can not be used."  # no addresses or errors for clients
    with pytest.raises(Unavailable):
        await store.head("log")  # at once, now that it has waited in vain
    await redis_server.start()
    await eventually(lambda: store.ready == "")
    assert (await store.append("log", event())).id == 1


class OldRedis(Protocol):
    """Answers INFO with a version that we can not use."""

    def dataReceived(self, data: bytes) -> None:
        text = b"redis_version:6.0.16\r\nrole:master\r\n"
        answer = b"$%d\r\n%b\r\n" % (len(text), text) if b"INFO" in data else b"*0\r\n"
        cast(Any, self.transport).write(answer)


@pytest_twisted.ensureDeferred
async def test_a_redis_that_is_too_old_is_refused_with_a_word(make_store: MakeRedisStore) -> None:
    port = cast(Any, reactor).listenTCP(0, Factory.forProtocol(OldRedis), interface="127.0.0.1")
    url = f"redis://127.0.0.1:{port.getHost().port}"
    store = make_store(url)
    bus: Any = open_bus(url, "node", reactor=reactor, prefix="own:")
    bus.startService()
    reason = "its version 6.0.16 is too old: 6.2 or later is needed"
    await eventually(lambda: reason in store.ready and reason in bus.ready)
    with pytest.raises(Unavailable, match="too old"):
        await store.append("log", event())
    for part in (store, bus):
        await maybeDeferred(part.stopService)
    await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_what_waits_survives_a_short_absence(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    store = make_store()
    await store.append("log", event())
    await redis_server.kill()
    await eventually(lambda: store.ready)
    waiting = [store.append("log", event()), store.head("log"), store.read("log", 0, 9)]
    await redis_server.start()
    appended, head, found = await gatherResults(waiting)
    assert (appended.id, head, len(found)) == (2, 2, 2)


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_fails_writes_and_repeats_reads(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    failed: list[int] = []
    store = make_store(failed=failed.append)
    await store.append("log", event())
    redis_server.pause()
    write, read = store.append("log", event()), store.read("log", 0, 9)
    await eventually(lambda: store._batcher._running and not store._batcher._waiting)
    store._batcher.connection.drop("cut by the test")
    with pytest.raises(Unavailable, match="has not answered"):
        await write
    redis_server.resume()
    assert len(await read) in (1, 2)
    assert failed == [1]


@pytest_twisted.ensureDeferred
async def test_a_silent_redis_is_given_up(
    make_store: MakeRedisStore, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.connection.REPLY_TIMEOUT", 2.0)
    store = make_store()
    await store.append("log", event())
    redis_server.pause()
    with pytest.raises(Unavailable, match="has not answered"):
        await store.append("log", event())
    assert store.ready
    redis_server.resume()
    await eventually(lambda: store.ready == "")
    assert (await store.append("log", event())).id in (2, 3)


@pytest_twisted.ensureDeferred
async def test_a_redis_that_is_loading_is_waited_for(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    await redis_server.command("CONFIG", "SET", "save", "3600 1")
    await redis_server.command("CONFIG", "SET", "appendonly", "no")
    await redis_server.command("CONFIG", "SET", "rdbcompression", "no")
    fill = "for n = 1, 3000 do redis.call('SET', n, string.rep('x', 10000)) end"
    await redis_server.command("EVAL", fill, "0")
    await redis_server.command("SAVE")
    await redis_server.kill()
    redis_server.options = ["--key-load-delay", "5000"]  # microseconds: it looks at its clients every 2 MB
    store = make_store()
    redis_server._spawn()
    await eventually(lambda: "loading" in store.ready)
    with pytest.raises(Unavailable, match="loading"):
        await store.append("log", event())
    await redis_server.kill()


@pytest_twisted.ensureDeferred
async def test_a_script_that_was_forgotten_is_loaded_again(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store = make_store()
    await store.append("log", event())
    await redis_server.command("SCRIPT", "FLUSH")
    answers = [store.append("log", event(b"%d" % number)) for number in range(10)]
    assert [each.id for each in await gatherResults(answers)] == list(range(2, 12))


@pytest_twisted.ensureDeferred
async def test_a_wiped_redis_changes_the_epoch(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    store = make_store()
    wiped: list[str] = []
    store.wiped = lambda: wiped.append(store.epoch)
    before = (await store.append("log", event())).epoch
    await redis_server.command("FLUSHALL")
    again = await store.append("log", event())
    assert again.id == 1
    assert wiped == [store.epoch] == [again.epoch]
    assert again.epoch != before


@pytest_twisted.ensureDeferred
async def test_a_full_redis_refuses_some_operations_of_a_call_and_does_the_others(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    failed: list[int] = []
    store = make_store(failed=failed.append)
    await gatherResults([store.append("log", event()) for _ in range(3)])
    await store.set("s", "k", b"1")
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    write, read = store.set("s", "k", b"2"), store.get("s", "k")
    with pytest.raises(Unavailable, match=r"Redis refuses: .*OOM"):
        await write
    assert (await read).value == b"1"
    assert "OOM" in store.ready
    await store.trim("log", 2)
    assert await store.expired("s", 9) == []
    assert "OOM" in store.ready  # what deletes, and what finds nothing to do, is done and says nothing
    assert [each.id for each in await store.read("log", 0, 9)] == [3]
    await redis_server.command("CONFIG", "SET", "maxmemory", "0")
    await eventually(lambda: store.ready == "")  # it tries by itself
    assert (await store.set("s", "k", b"2")).revision == 2
    assert sum(failed) >= 1


@pytest_twisted.ensureDeferred
async def test_what_is_removed_while_redis_is_full_has_its_revision(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store = make_store()
    for key in ("a", "b", "c"):
        await store.set("kv", key, b"1", expires=1.0 if key == "c" else 0.0)
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    await store.keep_changes(600, 60)
    assert await store.delete("kv", "a", announcement=announcement())
    assert await gatherResults([store.delete("kv", "b"), store.expired("kv", 9)]) == [True, ["c"]]
    await redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert (await store.set("kv", "a", b"2")).revision == 7


@pytest_twisted.ensureDeferred
async def test_a_node_that_comes_while_redis_is_full_reads(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    await make_store().append("log", event())
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    assert [each.id for each in await make_store().read("log", 0, 9)] == [1]


@pytest_twisted.ensureDeferred
async def test_too_much_at_once_is_refused(
    make_store: MakeRedisStore, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.batcher.MAX_PENDING", 5)
    store = make_store()
    answers = [store.append("log", event()) for _ in range(6)]
    with pytest.raises(Unavailable, match="can not keep up"):
        await answers.pop()
    assert [each.id for each in await gatherResults(answers)] == [1, 2, 3, 4, 5]


@pytest_twisted.ensureDeferred
async def test_what_is_submitted_at_an_answer_is_one_call_of_its_own(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    await store.head("log")
    batcher, under_way, most = store._batcher, 0, 0

    def call(*arguments: Any, original: Any = batcher._send_call) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        return original(*arguments).addBoth(answered_one)

    def answered_one(result: Any) -> Any:
        nonlocal under_way
        under_way -= 1
        return result

    monkeypatch.setattr(batcher, "_send_call", call)
    later: list[Any] = []

    def append() -> None:
        later.append(store.append("log", event()))

    def answered() -> None:
        cast(Any, reactor).callLater(0, append)
        append()

    store.on_answer(answered)
    await store.append("log", event())
    await eventually(lambda: len(later) == 2)
    assert [stored.id for stored in await gatherResults(later)] == [2, 3]
    assert most == 1


@pytest_twisted.ensureDeferred
async def test_reads_of_much_are_not_all_one_call(make_store: MakeRedisStore) -> None:
    calls: list[int] = []
    store = make_store(observe=lambda operations, seconds: calls.append(operations))
    await store.set("s", "k", b"x" * 1_000_000)
    await store.get("s", "k")
    calls.clear()
    await gatherResults([store.get("s", "k") for _ in range(20)])
    assert max(calls) == 5
    assert store._reply_bytes > 1_000_000
    await store.set("s", "k", b"x")
    await gatherResults([store.get("s", "k") for _ in range(100)])
    assert store._reply_bytes == 16384


@pytest_twisted.ensureDeferred
async def test_a_stopped_store_leaves_no_timer(make_store: MakeRedisStore) -> None:
    store = make_store()
    await store.append("log", event())
    await maybeDeferred(store.stopService)
    await eventually(lambda: store._batcher.connection.protocol is None)
    assert store._batcher._timeout is None


# Across nodes.


@pytest_twisted.ensureDeferred
async def test_changes_of_several_nodes_meet(make_store: MakeRedisStore) -> None:
    stores = [make_store() for _ in range(3)]
    values = [b"1", b"0.25", b"9007199254740993"]
    for amount in values:
        await gatherResults([stores[n % 3].increment("s", "n", amount) for n in range(150)])
    found = await stores[0].get("s", "n")
    assert (found.value, found.revision) == (b"1351079888211149137", 450)
    await gatherResults([stores[n % 3].patch("s", "t", b"%d" % n, lambda a, b: a + b"," + b) for n in range(90)])
    found = await stores[1].get("s", "t")
    assert sorted(map(int, found.value.split(b","))) == list(range(90))


@pytest_twisted.ensureDeferred
async def test_a_key_that_was_made_anew_is_not_taken_for_the_old_one(make_store: MakeRedisStore) -> None:
    one, two = make_store(), make_store()
    await one.set("s", "k", b"old")

    def merge(stored: bytes, value: bytes) -> bytes:
        merged.append(stored)
        return stored + value

    merged: list[bytes] = []
    patched = one.patch("s", "k", b"+", merge)
    changed = [two.delete("s", "k"), two.set("s", "k", b"new")]
    await gatherResults([patched, *changed])
    assert (await two.get("s", "k")).value in (b"new", b"new+")


@pytest_twisted.ensureDeferred
async def test_marks_tell_what_was_appended_since(make_store: MakeRedisStore) -> None:
    store = make_store(announce=True)
    await store.append("event/a", event())
    mark = await store.mark()
    await gatherResults([store.append(f"event/{name}", event()) for name in "abc"])
    await store.append("mail/a", event())
    changes = await store.changes(mark)
    assert set(changes) == {"event/a", "event/b", "event/c"}
    assert await store.since("event/a", mark) == 2
    assert await store.since("event/b", mark) == 1
    assert await store.since("event/a", await store.mark()) == 0
    await gatherResults([store.append(f"event/{number}", event()) for number in range(2500)])
    assert len(await store.changes(0)) == 2503
    await gatherResults([store.append("event/a", event()) for _ in range(600)])
    assert await store.since("event/a", mark) == 2


async def append_around(store: Any, before: list[Any]) -> None:
    """Append several to two logs behind operations that may not be done at once, and one more to each."""
    several = store.append_all([Addition(log, Event("topic", "kind", b"1")) for log in "ab"])
    after = [store.append(log, Event("topic", "kind", b"2")) for log in "ab"]
    await gatherResults([*before, several, *after])
    for log in "ab":
        assert [each.body for each in await store.read(log, 0, 9)] == [b"1", b"2"]


@pytest_twisted.ensureDeferred
async def test_what_follows_several_waits_with_them_in_the_script(make_store: MakeRedisStore) -> None:
    store = make_store()
    await store.head("")  # what a node knows of logs it forgets when it learns the epoch
    await store.append("forgotten", event())
    await store.trim("forgotten", 1)
    await store.sweep("", 0.0, 0)
    await append_around(store, [store.append("forgotten", event())])


@pytest_twisted.ensureDeferred
async def test_what_follows_several_waits_with_them_for_a_later_call(make_store: MakeRedisStore) -> None:
    store = make_store()
    names = [f"large{number}" for number in range(6)]
    await gatherResults([store.set("s", name, b"x" * (1 << 20)) for name in names])
    # Each new value is computed here, and they are more than one call of the script has.
    await append_around(store, [store.patch("s", name, b"y", lambda stored, value: stored + value) for name in names])


@pytest_twisted.ensureDeferred
async def test_keys_of_events_end_by_themselves(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    await make_store().append("log", event(), key="k", key_seconds=300.0)
    assert await redis_server.command("KEYS", "own:known:*") == ["own:known:3:logk"]
    # A minute longer, for a clock that is set forward.
    assert 300 < cast(int, await redis_server.command("TTL", "own:known:3:logk")) <= 360


def test_an_event_that_was_stored_before_there_were_authors_is_read() -> None:
    head = msgspec.msgpack.encode(("topic", "kind", "svc/v1", True))
    found = decode_stored(1, "epoch", b"1.5 %d %b{}" % (len(head), head))
    assert (found.topic, found.name, found.body, found.source, found.author) == ("topic", "kind", b"{}", "svc/v1", "")
