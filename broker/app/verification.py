"""Everything that is wrong with settings, found by making the parts of a daemon and starting none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from broker.app.backends import make_backends
from broker.app.certificates import certificate_warnings, make_certificates
from broker.app.checks import Attempts, problems_of
from broker.app.dialects import load_dialects
from broker.config.settings import Settings
from broker.web.routes import Routes


@attrs.frozen
class Verified:
    """What was found.

    Attributes:
        dialects: those of the settings, as far as they could be made.
        problems: a sentence for each reason for which no daemon can start.
        warnings: a sentence for whatever else an operator should know.
    """

    dialects: list[Any]
    problems: list[str]
    warnings: list[str]


def verify(reactor: Any, settings: Settings, found: Iterable[str]) -> Verified:
    """Return what is found of *settings*, of which the problems *found* are known."""
    attempts = Attempts([*found, *problems_of(settings)])
    dialects = attempts.make("PROTOCOLS", lambda: load_dialects(settings.protocols, settings)) or []
    attempts.make("PROTOCOLS", lambda: Routes(dialects))
    attempts.make("STORE", lambda: make_backends(reactor, settings, attempts.problems))
    certificates = attempts.make("TLS_CERTIFICATE_FILE", lambda: make_certificates(settings))
    warnings = [*settings.warnings, *certificate_warnings(settings, certificates)]
    return Verified(dialects, list(dict.fromkeys(attempts.problems)), warnings)
