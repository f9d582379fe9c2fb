"""The settings of the environment, with those that its dialects have of their own."""

from __future__ import annotations

from collections.abc import Callable

from broker.app.dialects import own_settings
from broker.config.environment import Environment
from broker.config.settings import Settings, protocols_of


def read_settings(
    environment: Environment, own: Callable[[Settings], Settings] | None = None
) -> tuple[Settings, list[str]]:
    """Return the settings of *environment*, and a sentence for each thing that is wrong with them.

    *own* returns what one of several processes has of them.
    """
    environ, problems = environment.read()
    settings, more = Settings.read(environ, own_settings(protocols_of(environ)))
    return settings if own is None else own(settings), problems + more
