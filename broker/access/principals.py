"""Who a client is: turns a credential into an identity."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from broker.access.permissions import Grants, read_permissions
from broker.errors import Invalid, Unauthenticated
from broker.messages import Identity
from broker.patterns import check_name

if TYPE_CHECKING:
    from broker.config.settings import Settings

SHOWN = ("userId", "profileId", "role", "scopes")  # claims that a client may be told


@attrs.define(eq=False)
class Access:
    """Turns a credential into an identity.

    A credential is the shared secret (or its predecessor), which names nobody;
    a named API key; or a JSON web token, whose ``sub`` is the name.

    Attributes:
        mode: "none" (no credential is asked for), "optional" or "required".
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
    _others: Grants = attrs.field(init=False, repr=False)  # of those whom no rule names

    def __attrs_post_init__(self) -> None:
        self._others = Grants({})
        for grants in (*self.permissions.values(), self._others):
            # Where no credential is asked for, rules only restrict; elsewhere what no rule allows is denied.
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
        shown = credential.encode("utf-8", "surrogatepass")
        token = shown.strip().rpartition(b" ")[2]
        found = None
        # All are compared, in constant time each: how long a refusal takes says nothing.
        for secret in self.secrets:
            if _same(secret, token) or _same(secret, shown):
                found = Identity(authenticated=True, grants=self._grants_of("secret", ()))
        for name, key in self.keys.items():
            if _same(key, token) or _same(key, shown):
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
            _check_told(name, details)
            return Identity(name=name, authenticated=True, grants=self._grants_of(name, roles), details=details)
        raise Unauthenticated("token")

    def _grants_of(self, name: str, roles: Iterable[str]) -> Grants | None:
        for key in (name, *roles, "default"):
            if key in self.permissions:
                return self.permissions[key]
        return self._others if self.permissions else None


def make_access(settings: Settings) -> Access:
    """Return the ``Access`` that *settings* configure.

    Raises:
        Invalid: one of its files says something wrong.
    """
    jwt_keys = [(settings.jwt_secret, "HS256")] if settings.jwt_secret else []
    if settings.jwt_public_key_file:
        pem = Path(settings.jwt_public_key_file).read_text("utf-8", "replace")
        jwt_keys.append((pem, _algorithm(pem)))
    return Access(
        mode=settings.auth,
        secrets=tuple(secret for secret in (settings.api_secret, settings.api_secret_previous) if secret),
        keys=settings.api_keys,
        jwt_keys=tuple(jwt_keys),
        jwt_audience=settings.jwt_audience or None,
        jwt_issuer=settings.jwt_issuer or None,
        permissions=read_permissions(Path(settings.permissions_file)) if settings.permissions_file else {},
    )


def _check_told(name: str, details: Mapping[str, Any]) -> None:
    """Check that clients can be told of *name* and *details*.

    Raises:
        Unauthenticated: the name has control characters, or one of them lone surrogates.
    """
    try:
        if name:
            check_name(name)
        json.dumps(details, ensure_ascii=False).encode()
    except (Invalid, UnicodeEncodeError):
        raise Unauthenticated("token") from None


def _same(secret: str, shown: bytes) -> bool:
    return hmac.compare_digest(secret.encode(), shown)


def _algorithm(pem: str) -> str:
    """Return the JWT algorithm of the public key *pem*.

    Raises:
        Invalid: it is no key, or of a kind that is not supported.
    """
    # Imported here: few need it, and it takes long.
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        key = None  # reported like a key of an unknown kind
    for kind, algorithm in (
        (rsa.RSAPublicKey, "RS256"),
        (ec.EllipticCurvePublicKey, "ES256"),
        (ed25519.Ed25519PublicKey, "EdDSA"),
    ):
        if isinstance(key, kind):
            return algorithm
    raise Invalid("key", message="TXBROKER_JWT_PUBLIC_KEY_FILE: it holds no RSA, EC or Ed25519 public key")
