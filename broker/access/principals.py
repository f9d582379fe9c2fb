"""Who a client is: turns a credential into an identity."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from broker.access.permissions import Permissions, read_permissions
from broker.access.web_tokens import SigningKey, WebTokens, fingerprint, key_set, public_key, secret_key
from broker.errors import Invalid, Unauthenticated
from broker.messages import Identity
from broker.patterns import is_reserved
from broker.remembered import remembered

if TYPE_CHECKING:
    from broker.access.permissions import Grants
    from broker.config.settings import Settings

MAX_LENGTH = 16384  # characters of a credential, as of a header; to read a token of a megabyte takes 0.1 s

_fingerprint = remembered(1024)(fingerprint)


@attrs.define(eq=False)
class Access:
    """Turns a credential into an identity.

    A credential is the shared secret (or its predecessor), which names nobody;
    a named API key; or a JSON web token, whose ``sub`` is the name.

    Attributes:
        mode: "none" (no credential is asked for), "optional" or "required".
        secrets: any of them is the shared secret.
        keys: the API keys by name.
        web_tokens: verifies JSON web tokens.
        permissions: what everybody may do; None: everything.
        anonymous: the identity of a peer that has shown nothing.
    """

    mode: str = "none"
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)
    keys: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    web_tokens: WebTokens = attrs.field(factory=WebTokens)
    permissions: Permissions | None = attrs.field(default=None, repr=False)
    anonymous: Identity = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.anonymous = Identity(grants=self._grants_of("anonymous"))

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
        if len(credential) > MAX_LENGTH:
            raise Unauthenticated("token", message=f"A credential has at most {MAX_LENGTH} characters")
        shown = credential.encode("utf-8", "surrogatepass")
        token = shown.strip().rpartition(b" ")[2]
        found = None
        # All are compared, in constant time each: how long a refusal takes says nothing.
        for secret in self.secrets:
            if _same(secret, token) or _same(secret, shown):
                found = self._secret(secret)
        for name, key in self.keys.items():
            if _same(key, token) or _same(key, shown):
                found = self._key(name, key)
        return found or self._user(token)

    @property
    def configured(self) -> bool:
        """Whether any credential exists that could be shown."""
        return bool(self.secrets or self.keys or self.web_tokens.keys)

    def replace(self, other: Access) -> None:
        """Take over the credentials and permissions of *other*; those who are connected stay who they are."""
        self.secrets, self.keys, self.web_tokens = other.secrets, other.keys, other.web_tokens
        self.permissions, self.anonymous = other.permissions, other.anonymous

    def knows(self, name: str) -> bool:
        """Whether the client id *name* is that of a key, or of a user whom the permissions name."""
        return bool(self.owner_by_name(name))

    @property
    def names_people(self) -> bool:
        """Whether any credential exists that names who shows it."""
        return bool(self.keys or self.web_tokens.keys)

    def by_key(self, name: str) -> Identity | None:
        """Return who has the API key that is called *name*, or None."""
        return self._key(name, self.keys[name]) if name in self.keys else None

    def owner_by_name(self, id: str) -> str:
        """Return whose *id* is by the configuration: that of the key or the user who is called so; "" for nobody's."""
        if id in self.keys:
            return f"key:{id}"
        return f"user:{id}" if self.permissions is not None and self.permissions.names(id) else ""

    def remember(self, identity: Identity) -> dict[str, Any]:
        """Return what ``recall`` needs to know of *identity*; no secrets."""
        return {
            "kind": identity.kind,
            "name": identity.name,
            "roles": list(identity.roles),
            "expires": identity.expires,
            "fingerprint": identity.fingerprint,
        }

    def recall(self, record: Mapping[str, Any], tag: Callable[[str], str] = str) -> Identity:
        """Return the identity of *record*, with the rights that it has today.

        Args:
            record: what ``remember`` has returned, with *tag* applied to its fingerprint.
            tag: see ``Tokens.tag``.

        Raises:
            Unauthenticated: the key that it was good by is not configured any more, or it
                had shown nothing and now must.
        """
        try:
            kind, name, roles = record["kind"], record["name"], tuple(record["roles"])
            tagged, expires = record["fingerprint"], record["expires"]
        except KeyError:  # of another version
            raise Unauthenticated("token", guessed=False) from None
        if kind == "anonymous":
            found = "" if self.mode != "required" else None
        else:
            found = next((mark for mark in self._fingerprints(kind, name) if tag(mark) == tagged), None)
        if found is None:
            raise Unauthenticated("token", guessed=False)
        client, grants = self._client_of(kind, name), self._grants_of(kind, name, roles)
        return Identity(kind, name, client, roles, grants, expires, found)

    def is_valid(self, identity: Identity) -> bool:
        """Whether the key that *identity* was admitted by is still configured, or none is needed."""
        if not identity.fingerprint:  # nothing was shown, or a dialect has looked at it
            return identity.authenticated or self.mode != "required"
        return identity.fingerprint in self._fingerprints(identity.kind, identity.name)

    def renewed(self, identity: Identity) -> Identity | None:
        """Return *identity* with the rights it has now; None: what it was admitted by is not configured any more."""
        if not self.is_valid(identity):
            return None
        if not identity.fingerprint and identity.authenticated:
            return identity  # a dialect has said what it may do
        kind, name = identity.kind, identity.name
        if self._client_of(kind, name) != identity.client:
            return None  # its client id is that of another now
        return attrs.evolve(identity, grants=self._grants_of(kind, name, identity.roles))

    def _secret(self, secret: str) -> Identity:
        return Identity("secret", grants=self._grants_of("secret"), fingerprint=_fingerprint("secret", secret))

    def _key(self, name: str, key: str) -> Identity:
        mark = _fingerprint("key", name, key)
        return Identity("key", name, self._client_of("key", name), (), self._grants_of("key", name), 0.0, mark)

    def _user(self, shown: bytes) -> Identity:
        """Return whom the JSON web token *shown* names.

        Raises:
            Unauthenticated: it is none, or not good.
        """
        token = self.web_tokens.verify(shown)
        client, grants = self._client_of("user", token.name), self._grants_of("user", token.name, token.roles)
        return Identity(
            "user", token.name, client, token.roles, grants, token.expires, token.fingerprint, token.details
        )

    def _client_of(self, kind: str, name: str) -> str:
        """Return the client id that is a principal's by its name.

        If a key and a user have the same name, or a key one that is reserved, the principal in full is the id.
        """
        in_full = is_reserved(name) or (kind == "user" and name in self.keys)
        return f"{kind}:{name}" if name and in_full else name

    def _grants_of(self, kind: str, name: str = "", roles: tuple[str, ...] = ()) -> Grants | None:
        return self.permissions.grants_of(kind, name, roles) if self.permissions is not None else None

    def _fingerprints(self, kind: str, name: str) -> list[str]:
        """Return the fingerprints of everything that a credential of a principal could be good by."""
        if kind == "secret":
            return [_fingerprint("secret", secret) for secret in self.secrets]
        if kind == "key":
            return [_fingerprint("key", name, self.keys[name])] if name in self.keys else []
        return [key.fingerprint for key in self.web_tokens.keys]


def make_access(settings: Settings) -> Access:
    """Return the ``Access`` that *settings* configure.

    Raises:
        Invalid: its files say something wrong; all of that.
    """
    problems: list[str] = []
    keys, permissions = list(_keys(settings, problems)), None
    try:
        permissions = _permissions(settings)
    except Invalid as error:
        problems.append(str(error))
    if problems:
        raise Invalid("access", message="; ".join(problems))
    return Access(
        mode=settings.auth,
        secrets=tuple(secret for secret in (settings.api_secret, settings.api_secret_previous) if secret),
        keys=settings.api_keys,
        web_tokens=WebTokens(
            tuple(keys), settings.jwt_audience or None, settings.jwt_issuer or None, settings.jwt_leeway_seconds
        ),
        permissions=permissions,
    )


def _keys(settings: Settings, problems: list[str]) -> Iterator[SigningKey]:
    """Yield the keys of JSON web tokens; what is wrong with a file of them is appended to *problems*."""
    if settings.jwt_secret:
        yield secret_key(settings.jwt_secret)
    try:
        if _is_there(settings, "jwt_public_key_file"):
            yield public_key(settings.jwt_public_key_file)
    except Invalid as error:
        problems.append(str(error))
    try:
        if _is_there(settings, "jwks_file"):
            yield from key_set(settings.jwks_file)
    except Invalid as error:
        problems.append(str(error))


def _is_there(settings: Settings, attribute: str) -> bool:
    """Whether the file *attribute* is set; that one can not be read is told before."""
    return bool(getattr(settings, attribute)) and attribute not in settings.faults


def _permissions(settings: Settings) -> Permissions | None:
    if not _is_there(settings, "permissions_file"):
        return None
    # Which keys there are is not known when the setting that says so can not be read.
    keys = None if "api_keys" in settings.faults else settings.api_keys
    return read_permissions(Path(settings.permissions_file), keys, lenient=settings.auth == "none")


def _same(secret: str, shown: bytes) -> bool:
    return hmac.compare_digest(secret.encode(), shown)
