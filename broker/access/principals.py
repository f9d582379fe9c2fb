"""Who may do what: credentials, identities, permissions and rates."""

from __future__ import annotations

import hmac
import tomllib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.errors import Invalid, Unauthenticated
from broker.messages import Identity
from broker.patterns import check_pattern, covers, is_pattern, matches, overlaps

VERBS = (
    "publish", "subscribe", "call", "register", "request", "acknowledge",
    "send", "consume", "read", "write", "mint",
)  # fmt: skip
SHOWN = ("userId", "profileId", "role", "scopes")  # claims that a client may be told
REMEMBERED = 1024  # decisions kept per set of grants


@attrs.frozen
class Rule:
    """What of one verb is allowed and denied; deny wins."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def may(self, name: str) -> bool:
        """Whether the plain *name* is permitted."""
        return any(matches(p, name) for p in self.allow) and not any(matches(p, name) for p in self.deny)

    def may_all(self, pattern: str) -> bool:
        """Whether every name that *pattern* matches is permitted."""
        return any(covers(p, pattern) for p in self.allow) and not any(overlaps(p, pattern) for p in self.deny)


class Grants:
    """The rules of one identity or role, by verb.

    Attributes:
        lenient: whether a verb without a rule is permitted, else it is refused.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.lenient = False
        self._rules = dict(rules)
        self._known: dict[tuple[str, str], bool] = {}

    def may(self, verb: str, name: str) -> bool:
        """Whether *verb* is permitted with *name*, which may be a pattern when subscribing."""
        known = self._known.get((verb, name))
        if known is None:
            rule = self._rules.get(verb)
            if rule is None:
                known = self.lenient
            else:
                known = rule.may_all(name) if verb == "subscribe" and is_pattern(name) else rule.may(name)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[verb, name] = known
        return known

    def names(self, verb: str) -> Iterable[str]:
        """Return the allow patterns of *verb* as they were written."""
        rule = self._rules.get(verb)
        return rule.allow if rule else ()


def read_permissions(path: Path) -> dict[str, Grants]:
    """Read the permission file: TOML, ``[name.verb]`` with ``allow`` and ``deny`` lists.

    Raises:
        Invalid: it can not be read or says something else.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid("permissions", message=f"permissions file: {error}") from None
    return {
        name: Grants({verb: _rule(name, verb, rule) for verb, rule in verbs.items()}) for name, verbs in tables.items()
    }


def _rule(name: str, verb: str, rule: Any) -> Rule:
    where = f"[{name}.{verb}]"
    if verb not in VERBS:
        raise Invalid("permissions", message=f"permissions file: {where}: no such verb; there are {', '.join(VERBS)}")
    if not isinstance(rule, dict) or not set(rule) <= {"allow", "deny"}:
        raise Invalid("permissions", message=f"permissions file: {where} takes allow and deny")
    lists = []
    for key in ("allow", "deny"):
        patterns = rule.get(key, [])
        if not isinstance(patterns, list):
            raise Invalid("permissions", message=f"permissions file: {where} {key} is a list of patterns")
        lists.append(tuple(check_pattern(p, f"permissions file: {where} {key}") for p in patterns))
    return Rule(*lists)


@attrs.define(eq=False)
class Access:
    """Turns a credential into an identity.

    A credential is the shared secret (or its predecessor), which names nobody;
    a named API key; or a JSON web token, whose ``sub`` is the name.

    Attributes:
        mode: "none" (nobody is asked), "optional" or "required".
        anonymous: the identity of a peer that has shown nothing.
    """

    mode: str = "none"
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)
    keys: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    jwt_keys: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)  # (key, algorithm)
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    permissions: Mapping[str, Grants] = attrs.field(factory=dict)
    anonymous: Identity = attrs.field(init=False)
    _others: Grants = attrs.field(init=False, repr=False)  # those whom no rule names

    def __attrs_post_init__(self) -> None:
        self._others = Grants({})
        for grants in (*self.permissions.values(), self._others):
            # Where nobody is asked who he is, the file takes away; elsewhere it gives.
            grants.lenient = self.mode == "none"
        self.anonymous = Identity(grants=self._grants_of("anonymous", ()))

    def identify(self, credential: object) -> Identity:
        """Return who shows *credential*, perhaps behind a scheme word.

        Where no credential is configured, any text will do and names nobody.

        Raises:
            Unauthenticated: it is missing or wrong.
        """
        if not isinstance(credential, str) or not credential:
            raise Unauthenticated("token")
        if not self.configured:
            return self.anonymous
        whole = credential.encode("utf-8", "surrogatepass")
        token = whole.strip().rpartition(b" ")[2]
        found = None
        # All are compared, in constant time each: how long a refusal takes says nothing.
        for secret in self.secrets:
            if _same(secret, token) or _same(secret, whole):
                found = Identity(authenticated=True, grants=self._grants_of("secret", ()))
        for name, key in self.keys.items():
            if _same(key, token) or _same(key, whole):
                found = Identity(name=name, authenticated=True, grants=self._grants_of(name, ()))
        return found or self._from_jwt(token)

    @property
    def configured(self) -> bool:
        """Whether any credential exists that could be shown."""
        return bool(self.secrets or self.keys or self.jwt_keys)

    def knows(self, name: str) -> bool:
        """Whether *name* is an identity of the configuration."""
        return name in self.keys or name in self.permissions

    def remember(self, identity: Identity) -> dict[str, Any]:
        """Return what ``recall`` needs to know of *identity*; no secrets."""
        rules = next((name for name, grants in self.permissions.items() if grants is identity.grants), "")
        return {
            "name": identity.name,
            "rules": rules,
            "authenticated": identity.authenticated,
            "key": identity.name in self.keys,
        }

    def recall(self, record: Mapping[str, Any]) -> Identity:
        """Return the identity of *record*, with the rights that it has today.

        Raises:
            Unauthenticated: its key was taken away, or it had shown nothing and now must.
        """
        name, rules, authenticated = record["name"], record["rules"], record["authenticated"]
        if (record["key"] and name not in self.keys) or (self.mode == "required" and not authenticated):
            raise Unauthenticated("token")
        grants = self.permissions.get(rules, self._others) if self.permissions else None
        return Identity(name=name, authenticated=authenticated, grants=grants)

    def _from_jwt(self, token: bytes) -> Identity:
        import jwt  # here, for the cryptography it brings: a tenth of the time and memory of a start

        for key, algorithm in self.jwt_keys:
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self.jwt_audience,
                    issuer=self.jwt_issuer,
                    options={"require": ["exp"]},
                )
            except jwt.InvalidTokenError:
                continue
            name = str(claims.get("sub", ""))[:128]
            roles = claims.get("roles", claims.get("role", ()))
            roles = (roles,) if isinstance(roles, str) else tuple(r for r in roles if isinstance(r, str))
            details: dict[str, Any] = {k: claims[k] for k in SHOWN if k in claims}
            return Identity(name=name, authenticated=True, grants=self._grants_of(name, roles), details=details)
        raise Unauthenticated("token")

    def _grants_of(self, name: str, roles: Iterable[str]) -> Grants | None:
        for key in (name, *roles, "default"):
            if key in self.permissions:
                return self.permissions[key]
        return self._others if self.permissions else None


def _same(secret: str, shown: bytes) -> bool:
    return hmac.compare_digest(secret.encode(), shown)


class Bucket:
    """A token bucket: *rate* a second, at most *burst* at once."""

    __slots__ = ("_burst", "_clock", "_level", "_rate", "_when")

    def __init__(self, clock: IReactorTime, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = self._level = max(burst, 1.0)
        self._when = clock.seconds()

    def take(self) -> bool:
        """Take one token if there is one."""
        now = self._clock.seconds()
        self._level = min(self._burst, self._level + (now - self._when) * self._rate)
        self._when = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


class Buckets:
    """A bucket for each key that was seen lately; at most *size* of them."""

    def __init__(self, clock: IReactorTime, rate: float, burst: float, size: int = 10000) -> None:
        self._clock = clock
        self._rate, self._burst, self._size = rate, burst or rate, size
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, key: str) -> Bucket | None:
        """Return the bucket of *key*, or None where nothing is limited."""
        if self._rate <= 0:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._clock, self._rate, self._burst)
            if len(self._buckets) > self._size:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
