"""What ``txbroker doctor`` finds, and what to do about it."""

from __future__ import annotations

import json

import attrs

from broker.app.client.output import one_line

MAX_TEXT = 300  # characters of an answer that are shown

SHOW_ONE = "set TXBROKER_CREDENTIAL, or --credential-file, to the secret, a key or a token of the broker"
SHOW_ANOTHER = (
    "compare TXBROKER_CREDENTIAL with TXBROKER_API_SECRET and TXBROKER_API_KEYS of the broker; a token may have expired"
)
PASS_UPGRADE = (
    "let the proxy before the broker pass the headers Upgrade and Connection over HTTP/1.1: see docs/operations/proxies"
)


@attrs.frozen
class Finding:
    """Something that was tried.

    Attributes:
        check: what, in a word.
        fine: whether it is as it should be; None: that is not known, or does not matter.
        text: what was found.
        remedy: what to change, or "".
    """

    check: str
    fine: bool | None
    text: str
    remedy: str = ""


@attrs.frozen
class Answer:
    """An HTTP answer.

    Attributes:
        status: its status.
        headers: by lower-case name.
        body: the beginning of it.
    """

    status: int
    headers: dict[str, str]
    body: str

    @property
    def message(self) -> str:
        """What it says of itself: the sentence of a broker's refusal, or the beginning of the body."""
        try:
            found = json.loads(self.body)
            found = found.get("error", found) if isinstance(found, dict) else found
            if isinstance(found, dict):
                found = found.get("detail") or found.get("message") or found.get("title") or found.get("code")
            text = found if isinstance(found, str) else self.body
        except ValueError:
            text = self.body
        return one_line(" ".join(text.split()))[:MAX_TEXT]


def refused(check: str, answer: Answer, *, shown: bool, origin: str) -> Finding:
    """Return why *answer* is no good one.

    Args:
        check: what was tried.
        answer: to a request that should have had another.
        shown: whether a credential was shown.
        origin: that was named, or "".
    """
    text = f"it has answered with {answer.status}"
    text += f": {answer.message}" if answer.message else ""
    return Finding(check, False, text, _remedy(answer, shown, origin))


def _remedy(answer: Answer, shown: bool, origin: str) -> str:
    message = answer.message
    match answer.status:
        case 403 if "TXBROKER_ALLOWED_ORIGINS" in message:
            return f"add {origin} to TXBROKER_ALLOWED_ORIGINS of the broker; see docs/browsers"
        case 403 if "TXBROKER_ALLOWED_HOSTS" in message:
            return "add the host of the URL to TXBROKER_ALLOWED_HOSTS of the broker, or let it ask for a credential"
        case 401:
            return SHOW_ANOTHER if shown else SHOW_ONE
        case 403 if "key" in message.lower() or "token" in message.lower():
            return SHOW_ANOTHER if shown else SHOW_ONE
        case 403:
            return "look at TXBROKER_PERMISSIONS_FILE of the broker, or at what the proxy before it allows"
        case 426:
            return PASS_UPGRADE
        case 429:
            return "wait a minute; TXBROKER_AUTH_FAILURES_PER_MINUTE and TXBROKER_RATE of the broker set the limits"
        case 502 | 504:
            return "the proxy does not reach the broker: compare what it passes on to with TXBROKER_LISTEN"
        case 503:
            return "ask the broker why: txbroker status; TXBROKER_MAX_CONNECTIONS may be reached, or its store be away"
        case 404:
            return "add the dialect to TXBROKER_PROTOCOLS, or pass its path on at the proxy before the broker"
        case status if 300 <= status < 400:
            return f"use {one_line(answer.headers.get('location', 'where it points to'))} in the place of this URL"
    return ""
