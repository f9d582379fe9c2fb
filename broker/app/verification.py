"""Everything that is wrong with settings, found by making the parts of a daemon and starting none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker.app.backends import make_backends
from broker.app.certificates import make_certificates
from broker.app.checks import Attempts, problems_of
from broker.app.dialects import load_dialects
from broker.config.settings import Settings
from broker.web.routes import Routes


def verify(reactor: Any, settings: Settings, found: Iterable[str]) -> tuple[list[Any], list[str]]:
    """Return the dialects of *settings*, and everything that is wrong with them, of which *found* is known."""
    attempts = Attempts([*found, *problems_of(settings)])
    dialects = attempts.make("PROTOCOLS", lambda: load_dialects(settings.protocols, settings)) or []
    attempts.make("PROTOCOLS", lambda: Routes(dialects))
    attempts.make("STORE", lambda: make_backends(reactor, settings, attempts.problems))
    attempts.make("TLS_CERTIFICATE_FILE", lambda: make_certificates(settings))
    return dialects, list(dict.fromkeys(attempts.problems))
