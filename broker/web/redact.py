"""What a log may say of a URL."""

from __future__ import annotations

import re
from urllib.parse import unquote

SECRETS = frozenset(
    ("secret", "token", "apikey", "api_key", "x-api-key", "authorization", "auth", "password", "access_token", "key")
)
FIELD = re.compile(r"([^&;=?#]*)=([^&;#]*)")
USER = re.compile(r"(?<=//)[^/?#@]*@")


def redact(url: str) -> str:
    """Return *url* with the values of secret fields replaced by ``***``.

    The names are compared without regard to case and as a server would decode
    them: ``%73ecret=x`` is a secret too.  A user name and a password before the
    host go as well.  A query alone, without a path, will do.
    """
    return FIELD.sub(_field, USER.sub("***@", url))


def _field(match: re.Match[str]) -> str:
    name = unquote(match[1].replace("+", " ")).strip().lower().removesuffix("[]")
    return f"{match[1]}=***" if name in SECRETS else match[0]
