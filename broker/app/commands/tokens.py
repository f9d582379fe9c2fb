"""``txbroker token``: mint, verify and revoke."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.app.commands.console import (
    WRONG,
    Group,
    admin_option,
    ask,
    cell,
    fail,
    json_option,
    read_settings,
    show,
    write,
)
from broker.app.commands.durations import Duration
from broker.errors import Unauthenticated

if TYPE_CHECKING:
    from broker.access.web_tokens import WebTokens


@click.group(cls=Group)
def token() -> None:
    """Mint, verify and revoke tokens."""


@token.command()
@click.option("--sub", default="", metavar="NAME", help="Whom a JSON web token names.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of a JSON web token; may be repeated.")
@click.option("--hpkv", is_flag=True, help="Let the daemon mint a token for hpkv clients instead.")
@click.option("--api-key", "key", default="", metavar="NAME", help="Which of TXBROKER_API_KEYS an hpkv token is of.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="A key that an hpkv token subscribes to.")
@click.option("--access", default="", metavar="PATTERN", help="Which keys an hpkv token may use, a regular expression.")
@click.option("--ttl", type=Duration(), default=3600.0, metavar="TIME", help="For how long: 90s, 30m, 12h, 7d; 1h.")
@admin_option
@json_option
def mint(
    sub: str,
    roles: tuple[str, ...],
    hpkv: bool,
    key: str,
    keys: tuple[str, ...],
    access: str,
    ttl: float,
    admin: str | None,
    as_json: bool,
) -> None:
    """Print a new token.

    With TXBROKER_JWT_SECRET that is a JSON web token, which clients of every dialect can show; else, or with --hpkv,
    the daemon mints one for clients of the dialect hpkv.
    """
    settings = read_settings()
    if not (hpkv or key or keys or access) and settings.jwt_secret:
        text, expires = _web_token(settings, sub, roles, ttl)
    elif sub or roles:
        fail("TXBROKER_JWT_SECRET is not set: there is nothing to sign a JSON web token with", WRONG)
    else:
        claims = {"keys": list(keys), "patterns": [], "access": access}
        done = ask(admin, "tokens/mint", {"key": key, "claims": claims, "seconds": ttl})
        text, expires = done["token"], done["expires"]
    if as_json:
        show({"token": text, "expires": expires})
    else:
        write(text)


def _web_token(settings: Any, sub: str, roles: tuple[str, ...], ttl: float) -> tuple[str, float]:
    import jwt

    from broker.access.web_tokens import could_name, secret_key
    from broker.core.clocks import MACHINE

    if sub and not (could_name(sub) and sub.isprintable()):
        fail(f"--sub {sub!r} can not name a user", WRONG)
    for note in settings.warnings:
        if note.startswith("TXBROKER_JWT_"):
            print(f"txbroker: warning: {note}", file=sys.stderr)
    key = secret_key(settings.jwt_secret)
    now = int(MACHINE.time())
    claims: dict[str, Any] = {"iat": now, "exp": int(now + ttl)}
    claims |= {"sub": sub} if sub else {}
    claims |= {"roles": list(roles)} if roles else {}
    claims |= {"aud": settings.jwt_audience} if settings.jwt_audience else {}
    claims |= {"iss": settings.jwt_issuer} if settings.jwt_issuer else {}
    return jwt.encode(claims, key.key, algorithm=key.algorithm), float(claims["exp"])


@token.command()
@click.option("--file", type=Path, help="With the token; by default the standard input.")
@admin_option
@json_option
@click.argument("arguments", nargs=-1, metavar="")
def verify(file: Path | None, admin: str | None, as_json: bool, arguments: tuple[str, ...]) -> None:
    """Say whose a token is, and until when; the status is 1 if it is not good.

    Reads it from the standard input or a file, since others can see the arguments of a program.  A JSON web token is
    verified by the settings; any other is shown to the daemon, which knows the tokens that it has minted.
    """
    text = _read(file, arguments)
    settings = read_settings()
    from broker.access.principals import make_access

    access = make_access(settings)
    try:
        identity = access.identify(text) if settings.secured else None
    except Unauthenticated as error:
        if _says_who_minted(text):
            found = ask(admin, "tokens/verify", {"token": text})
        else:
            fail(f"the token is not good: {error.reason or _mismatch(access.web_tokens, text)}")
    else:
        if identity is None:
            found = ask(admin, "tokens/verify", {"token": text})
        else:
            found = {
                "principal": identity.principal,
                "client": identity.client,
                "roles": list(identity.roles),
                "expires": identity.expires or None,
            }
    if as_json:
        show(found)
    else:
        write("\n".join(f"{name:<10} {_shown(name, value)}" for name, value in found.items()))


def _mismatch(tokens: WebTokens, text: str) -> str:
    """Return why *text* is signed with none of the keys of *tokens*."""
    import jwt

    if not tokens.keys:
        return "there is no key to verify a JSON web token by: set TXBROKER_JWT_SECRET"
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return "it is no JSON web token"
    known = [f"{key.algorithm} (kid {json.dumps(key.id)})" if key.id else key.algorithm for key in tokens.keys]
    # Other programs have written the header: as JSON nothing in it reaches the terminal as it is.
    said = " and ".join(f"{name} {json.dumps(header.get(name))}" for name in ("alg", "kid") if name in header)
    return f"it is signed with none of the known keys: it says {said}; the keys are {', '.join(known)}"


def _says_who_minted(text: str) -> bool:
    """Whether *text* looks like a token of the broker itself: it says who its bearer is."""
    import jwt

    try:
        return "bearer" in jwt.decode(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return False


def _shown(name: str, value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else cell(name, value)


@token.command()
@click.option("--file", type=Path, help="With the token; by default the standard input.")
@click.option("--id", default="", metavar="ID", help="Of a token in use on one of the nodes, instead of the token.")
@admin_option
@json_option
@click.argument("arguments", nargs=-1, metavar="")
def revoke(file: Path | None, id: str, admin: str | None, as_json: bool, arguments: tuple[str, ...]) -> None:
    """Revoke a minted token, and close what lives by it, on every node.

    Reads the token from the standard input or a file, since others can see the arguments of a program, and gives it to
    the admin port of a daemon.  TXBROKER_ADMIN_SECRET is what that may ask for.
    """
    body = {"id": id} if id else {"token": _read(file, arguments, "there is no token to revoke")}
    done = ask(admin, "tokens/revoke", body)
    if as_json:
        show(done)
    else:
        write("the token is revoked")


def _read(file: Path | None, arguments: tuple[str, ...], missing: str = "there is no token") -> str:
    """Return the token, or end: with the status 2 if it stands among the *arguments*, which must not be repeated."""
    if arguments:
        fail("give the token on the standard input or by --file: others can see the arguments of a program", WRONG)
    try:
        text = (file.read_text("utf-8") if file else sys.stdin.read()).strip()
    except OSError as error:
        fail(f"{file or 'the standard input'} can not be read: {error.strerror}")
    except UnicodeDecodeError:  # whose text has a part of it
        fail(f"{file or 'the standard input'} has no token: it is no text in UTF-8")
    return text or fail(missing)
