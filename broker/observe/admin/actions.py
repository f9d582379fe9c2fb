"""What operators do by the admin API: each action is a body that is checked, an act, and what the log says of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

import attrs
import msgspec

from broker.core.parts import Parts
from broker.errors import CalleeFailed, Invalid, NotFound, Unauthenticated, Unavailable
from broker.interfaces import IPeer
from broker.messages import Identity, Request
from broker.observe.admin.connections import Connections
from broker.observe.admin.peek import Peek, peek
from broker.sessions import CallerSession

OPERATOR = Identity("operator")  # whoever may use the admin port
MAX_IDS = 1000  # of one request
MAX_SHOWN = 100  # characters of a name in a line of the log
MAX_TIMEOUT = 60.0  # seconds
MAX_TOKEN_SECONDS = 10 * 366 * 86400.0

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Done = tuple[dict[str, Any], Mapping[str, object]]  # the answer, and what the log says


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A body with these members and no others."""


class Kick(Strict):
    """Whom to disconnect: a session, all sessions of a client id, or a connection without a session.

    ``code`` is that of the close frame: after 1001 clients come back, after 1008 those of some dialects do not.
    """

    session: str = ""
    client: str = ""
    connection: str = ""
    code: Literal[1000, 1001, 1008, 1013] = 1001
    reason: Annotated[str, msgspec.Meta(max_length=100)] = "disconnected by an operator"


class Publish(Strict):
    """What to publish; ``durable`` events are stored."""

    topic: Name
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    name: Annotated[str, msgspec.Meta(max_length=1000)] = "message"
    durable: bool = False
    retain: bool = False


class Call(Strict):
    """Which procedure to call; ``args`` is the array of its arguments."""

    procedure: Name
    args: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"[]"))
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT)] = 10.0


class DeadLetters(Strict):
    """Which dead letters: those with these ids, or all of the queue."""

    queue: Name
    ids: Annotated[list[str], msgspec.Meta(max_length=MAX_IDS)] | None = None
    all: bool = False


class Mint(Strict):
    """Which token to mint: of an API key, "" for nobody's, with the claims of a dialect."""

    key: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    claims: dict[str, Any] = msgspec.field(default_factory=dict)
    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_TOKEN_SECONDS)] = 3600.0


class Verify(Strict):
    """Which token to look at."""

    token: str


class Nothing(Strict):
    """No members."""


class Level(Strict):
    """The lowest level that is logged."""

    level: Literal["debug", "info", "warn", "error", "critical"]


@attrs.frozen
class Action:
    """One action.

    Attributes:
        summary: what it does, for the index.
        body: what its body is.
        run: does it; returns the answer, and what the log says besides.
    """

    summary: str
    body: type[msgspec.Struct]
    run: Callable[[IPeer, Any], Awaitable[Done]]


class Actions:
    """All actions, by their names.

    Args:
        parts: of the core.
        connections: finds who is to be disconnected.
        drain: begins to drain the daemon; None: it can not.
        set_level: sets the lowest level that is logged; None: somebody else writes the log.
    """

    def __init__(
        self,
        parts: Parts,
        connections: Connections,
        drain: Callable[[], object] | None = None,
        set_level: Callable[[str], object] | None = None,
    ) -> None:
        self._parts, self._connections = parts, connections
        self._drain_daemon, self._set_level = drain, set_level
        self.table: dict[str, Action] = {
            "kick": Action("Disconnect sessions or a connection of this node.", Kick, self._kick),
            "publish": Action("Publish an event.", Publish, self._publish),
            "call": Action("Call a procedure and answer with its result.", Call, self._call),
            "peek": Action("Look at events, jobs, dead letters or a key, and change nothing.", Peek, self._peek),
            "queues/retry": Action("Let dead letters be ready again.", DeadLetters, self._retry),
            "queues/drop": Action("Remove dead letters.", DeadLetters, self._drop),
            "tokens/mint": Action("Mint a token, for clients of hpkv.", Mint, self._mint),
            "tokens/verify": Action("Say whose a minted token is.", Verify, self._verify),
            "drain": Action("Be not ready, take no new connections, and close those there are.", Nothing, self._drain),
            "log-level": Action("Set the lowest level that is logged.", Level, self._level),
        }

    async def _kick(self, peer: IPeer, kick: Kick) -> Done:
        given = [name for name in ("session", "client", "connection") if getattr(kick, name)]
        if len(given) != 1:
            raise Invalid("body", message="Name one of session, client and connection.")
        (kind,) = given
        name = getattr(kick, kind)
        if kind == "connection":
            link = self._connections.find(name)
            found = [] if link is None else [link]
            for each in found:
                each.abort()
        else:
            found = self._connections.peers_of(**{kind: name})
            for each in found:
                each.disconnect(kick.code, kick.reason)
        if not found:
            raise NotFound(kind, name, message=f"There is no {kind} {name[:MAX_SHOWN]} on this node.")
        return {"disconnected": len(found)}, {kind: name, "disconnected": len(found)}

    async def _publish(self, peer: IPeer, publish: Publish) -> Done:
        options = {"durable": publish.durable, "retain": publish.retain}
        event = await peer.publish(publish.topic, publish.name, bytes(publish.payload), **options)  # type: ignore[arg-type]
        receivers = peer.receivers(event)
        said = {"id": event.id or None, "epoch": event.epoch or None, "receivers": receivers}
        return said, {"topic": publish.topic, "id": event.id, "bytes": len(publish.payload)}

    async def _call(self, peer: IPeer, call: Call) -> Done:
        body = bytes(call.args)
        if body[:1] != b"[":
            raise Invalid("args", message="args must be an array.")
        caller = CallerSession()
        peer.bind(caller)
        try:
            peer.call("1", Request("", call.procedure, "", "", body, timeout=call.timeout))
            reply = await caller.answered
        finally:
            peer.close()  # cancels the call if it is under way
        said: Mapping[str, object] = {"procedure": call.procedure}
        if isinstance(reply.error, CalleeFailed):
            error = {"code": reply.error.code, "message": reply.error.message}
            return {"ok": False, "error": error}, {**said, "failed": True}
        if reply.error is not None:
            raise reply.error
        return {"ok": True, "result": msgspec.Raw(reply.body or b"null")}, said

    async def _peek(self, peer: IPeer, wanted: Peek) -> Done:
        return await peek(self._parts, peer, wanted)

    async def _retry(self, peer: IPeer, dead: DeadLetters) -> Done:
        number = await peer.retry_jobs(dead.queue, _chosen(dead))
        return {"retried": number}, {"queue": dead.queue, "retried": number}

    async def _drop(self, peer: IPeer, dead: DeadLetters) -> Done:
        number = await peer.drop_jobs(dead.queue, _chosen(dead))
        return {"dropped": number}, {"queue": dead.queue, "dropped": number}

    async def _mint(self, peer: IPeer, mint: Mint) -> Done:
        access = self._parts.access
        if not mint.key and access.mode == "required":
            raise Invalid(
                "key", message="Nobody could use a token of no key: name one of TXBROKER_API_KEYS (--api-key)."
            )
        found = access.by_key(mint.key) if mint.key else access.anonymous
        if found is None:
            raise NotFound("key", mint.key, message=f"TXBROKER_API_KEYS has no key {mint.key[:MAX_SHOWN]}.")
        token = await self._parts.tokens.mint(access.remember(found), mint.claims, mint.seconds)
        expires = (await self._parts.tokens.verify(token)).expires
        return {"token": token, "expires": expires}, {"key": mint.key, "expires": expires}

    async def _verify(self, peer: IPeer, verify: Verify) -> Done:
        tokens, access = self._parts.tokens, self._parts.access
        try:
            token = await tokens.verify(verify.token)
            identity = access.recall(token.bearer, tokens.tag)
        except Unauthenticated:
            raise Invalid(
                "token", message="The token is not one of this broker's, has expired or was revoked."
            ) from None
        said = {"id": token.id, "principal": identity.principal, "claims": token.claims, "expires": token.expires}
        return said, {"id": token.id}

    async def _drain(self, peer: IPeer, nothing: Nothing) -> Done:
        if self._drain_daemon is None:
            raise Unavailable("drain", message="This daemon can not be drained.")
        self._drain_daemon()
        return {"draining": True}, {}

    async def _level(self, peer: IPeer, level: Level) -> Done:
        if self._set_level is None:
            raise Unavailable("level", message="twistd's options say where it logs to: the level is theirs.")
        self._set_level(level.level)
        return {"level": level.level}, {"level": level.level}


def _chosen(dead: DeadLetters) -> list[str] | None:
    """Return the ids of *dead*; None: all.

    Raises:
        Invalid: it has neither, or both.
    """
    if (dead.ids is None) != dead.all:
        raise Invalid("body", message='Give the ids, or "all": true.')
    return dead.ids


def told(said: Mapping[str, object]) -> str:
    """Return for a line of the log what an action has done, in one line whatever names it holds."""
    shown = {name: value[:MAX_SHOWN] if isinstance(value, str) else value for name, value in said.items()}
    return " ".join(f"{name}={json.dumps(value)}" for name, value in shown.items())
