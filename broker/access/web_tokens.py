"""JSON web tokens: which keys they may be signed with, and what they say of who shows them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import Logger

from broker.errors import Invalid, Unauthenticated
from broker.patterns import is_reserved

log = Logger()

SHORT_KEY = r"The HMAC key is \d+ bytes long"  # how the warning of PyJWT begins
MAX_NAME = 128  # characters of a ``sub``
SHOWN = ("userId", "profileId", "role", "scopes")  # claims that a client may be told
# What is not judged: ``iat`` says nothing of whether a token is good, and ``sub`` and ``jti`` may be of any type.
OPTIONS: Any = {"require": ["exp"], "verify_iat": False, "verify_sub": False, "verify_jti": False}
# What PyJWT may find wrong with a token whose signature is right: its issuer has made it, and it is no guess.
NOT_GOOD = {
    "ExpiredSignatureError": "The token has expired",
    "ImmatureSignatureError": 'The token is not good yet, as its claim "nbf" says',
    "InvalidAudienceError": 'The claim "aud" of the token is not what TXBROKER_JWT_AUDIENCE says',
    "InvalidIssuerError": 'The claim "iss" of the token is not what TXBROKER_JWT_ISSUER says',
}
# What a file may have in the place of a public key, and how to get that out of it.
INSTEAD = {
    "PRIVATE KEY-----": ", but a private key, which only the issuer should have: openssl pkey -pubout shows the other",
    "BEGIN CERTIFICATE-----": ", but a certificate: openssl x509 -noout -pubkey shows its key",
}
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}


@attrs.frozen
class SigningKey:
    """A key that tokens may be signed with.

    Attributes:
        key: as PyJWT takes it.
        algorithm: the only one that counts with it.
        fingerprint: tells it from other keys, and says nothing else of it.
        id: the ``kid`` of its tokens; "" for any.
    """

    key: Any = attrs.field(repr=False)
    algorithm: str
    fingerprint: str = attrs.field(repr=False)
    id: str = ""


@attrs.frozen
class WebToken:
    """What a token says.

    Attributes:
        name: its ``sub``; "" when it has none that could be a name.
        roles: what its bearer is beside.
        expires: when it is no longer accepted, in seconds since the epoch.
        fingerprint: of the key it is signed with.
        details: the claims that a client may be told.
    """

    name: str
    roles: tuple[str, ...]
    expires: float
    fingerprint: str
    details: Mapping[str, Any]


@attrs.frozen
class WebTokens:
    """Verifies tokens.

    Attributes:
        keys: they may be signed with one of these.
        audience: the ``aud`` they must have; None: they must have none.
        issuer: the ``iss`` they must have; None: any.
        leeway: for how many seconds clocks may differ.
    """

    keys: tuple[SigningKey, ...] = ()
    audience: str | None = None
    issuer: str | None = None
    leeway: float = 60.0

    def verify(self, token: bytes) -> WebToken:
        """Return what *token* says.

        Raises:
            Unauthenticated: it is not signed with one of the keys, or not good now, or
                says of its bearer what nobody could be.
        """
        import jwt  # here, for the cryptography it brings: a tenth of the time and memory of a start

        wrong = Unauthenticated("token")
        for key in self._candidates(token):
            try:
                claims = jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    audience=self.audience,
                    issuer=self.issuer,
                    leeway=self.leeway,
                    options=OPTIONS,
                )
                return self._said(claims, key)
            except jwt.MissingRequiredClaimError as error:
                wrong = Unauthenticated("token", message=f'The token has no claim "{error.claim}"', guessed=False)
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                # Whatever else is wrong with it: a number that is none, text that can not be read …
                if (reason := NOT_GOOD.get(type(error).__name__)) is not None:
                    wrong = Unauthenticated("token", guessed=False, reason=reason)
        raise wrong

    def _candidates(self, token: bytes) -> Iterable[SigningKey]:
        """Return the keys that *token* may be signed with: those of its ``kid`` if it has one."""
        if not any(key.id for key in self.keys):
            return self.keys
        import jwt

        try:
            id = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, RecursionError):
            return ()
        return [key for key in self.keys if id is None or key.id in ("", id)]

    def _said(self, claims: Mapping[str, Any], key: SigningKey) -> WebToken:
        role = claims.get("role", [])
        roles = claims.get("roles", [role] if isinstance(role, str) else role)
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise Unauthenticated("token", message='The claim "roles" of the token is no list of text')
        details = {name: claims[name] for name in SHOWN if name in claims}
        json.dumps(details, ensure_ascii=False).encode()  # ValueError: a client could not be told
        expires = float(int(claims["exp"])) + self.leeway
        return WebToken(_name(claims.get("sub")), tuple(roles), expires, key.fingerprint, details)


def fingerprint(*parts: str) -> str:
    """Return what tells a key from all others; the same for the same *parts* on every node."""
    return hashlib.sha256("\0".join(("txbroker", *parts)).encode("utf-8", "surrogatepass")).hexdigest()


def secret_key(secret: str) -> SigningKey:
    """Return the key that is the shared *secret* of an issuer (HS256).

    PyJWT warns of a short one whenever it is used, on standard error; ``Settings.weaknesses`` has said so once.
    """
    warnings.filterwarnings("ignore", SHORT_KEY)
    return SigningKey(secret, "HS256", fingerprint("HS256", secret))


def public_key(path: str) -> SigningKey:
    """Return the public key in the PEM file *path*.

    Raises:
        Invalid: it holds none, or one of a kind that is not supported.
    """
    # Imported here: few need it, and it takes long.
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = Path(path).read_text("utf-8", "replace")
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        key = None  # reported like a key of an unknown kind
    algorithm = None
    if isinstance(key, rsa.RSAPublicKey):
        algorithm = "RS256"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "EdDSA"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = CURVES.get(key.curve.name)
    if algorithm is None:
        message = f"TXBROKER_JWT_PUBLIC_KEY_FILE: {path} holds no RSA, Ed25519 or EC public key of a supported curve"
        hint = next((hint for mark, hint in INSTEAD.items() if mark in pem), "")
        raise Invalid("key", message=f"{message}{hint}")
    return SigningKey(pem, algorithm, fingerprint(algorithm, pem))


def key_set(path: str) -> tuple[SigningKey, ...]:
    """Return the keys in the JWK set file *path* (RFC 7517, 5), those that are for encryption left out.

    Raises:
        Invalid: it is no JWK set, has a private key, or none that is supported.
    """
    try:
        entries = json.loads(Path(path).read_text("utf-8-sig"))["keys"]
        signing = [entry for entry in entries if entry.get("use", "sig") == "sig"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Not what was wrong: that could be the text of a key.
        raise Invalid("key", message=f'TXBROKER_JWKS_FILE: {path} is no set of keys, {{"keys": [...]}}') from None
    if any("d" in entry for entry in signing):
        raise Invalid("key", message=f"TXBROKER_JWKS_FILE: {path} has a private key, which only the issuer should have")
    found = [key for key in map(_web_key, signing) if key is not None]
    if not found:
        raise Invalid("key", message=f"TXBROKER_JWKS_FILE: {path} holds no key that is supported to verify tokens by")
    return tuple(found)


def _web_key(entry: dict[str, Any]) -> SigningKey | None:
    """Return the key that *entry* of a JWK set is; None, and a line in the log, for one that is not supported."""
    import jwt

    try:
        key = jwt.PyJWK(entry)
        if CURVES.get(getattr(getattr(key.key, "curve", None), "name", ""), key.algorithm_name) != key.algorithm_name:
            raise ValueError("the algorithm is that of another curve")
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, jwt.PyJWTError):
        # RFC 7517, 5: "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" (key type) values that are
        # not understood by them, that are missing required members, or for which values are out of the supported
        # ranges."  What is wrong is not told: that could be the text of a key.
        log.warn("TXBROKER_JWKS_FILE: the key {kid} is left out: it is not supported", kid=json.dumps(entry.get("kid")))
        return None
    told_apart_by = fingerprint("JWK", json.dumps(entry, sort_keys=True))
    return SigningKey(key.key, key.algorithm_name, told_apart_by, _text(key.key_id))


def could_name(sub: str) -> bool:
    """Whether *sub* could be the name of a user, if all of it is printable."""
    return 0 < len(sub) <= MAX_NAME and not is_reserved(sub)


def _name(sub: object) -> str:
    """Return the name that the claim *sub* gives; "" when it gives none.

    Raises:
        Unauthenticated: it holds control characters or lone surrogates: nobody is called so.
    """
    if isinstance(sub, int) and not isinstance(sub, bool):
        sub = str(sub)
    if not isinstance(sub, str) or not could_name(sub):
        return ""
    if not sub.isprintable():
        raise Unauthenticated("token", message='The claim "sub" of the token holds what is not printable')
    return sub


def _text(id: object) -> str:
    return id if isinstance(id, str) else ""
