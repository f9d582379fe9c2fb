"""What is wrong with the settings as a whole, found before anything runs, and all of it at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from broker.access.hosts import Hosts
from broker.access.origins import Origins
from broker.app.dialects import DialectError, found_dialects
from broker.config.own import LISTEN, own_prefix
from broker.config.settings import ENV_PREFIX, Settings, SettingsError
from broker.errors import BrokerError
from broker.stores import database_path
from broker.web.net.endpoints import Place, can_be_shared, check_endpoint, overlap

NOT_INSTALLED = "hiredis"  # what an error is about that is no fault of a setting

T = TypeVar("T")


class Attempts:
    """Makes parts of the daemon, and keeps why the settings of some of them can not be used.

    Attributes:
        problems: a sentence for each.
    """

    def __init__(self, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems)

    def make(self, setting: str, make: Callable[[], T]) -> T | None:
        """Return what *make* returns, or None after noting what is wrong with *setting*."""
        try:
            return make()
        except SettingsError as error:
            self.problems += error.problems
        except (DialectError, BrokerError, ValueError) as error:
            text = str(error)
            named = text.startswith(ENV_PREFIX) or getattr(error, "what", "") == NOT_INSTALLED
            self.problems.append(text if named else f"{ENV_PREFIX}{setting}: {text}")
        return None

    def finish(self) -> None:
        """Go on only if nothing was wrong.

        Raises:
            SettingsError: something was.
        """
        if self.problems:
            raise SettingsError(list(dict.fromkeys(self.problems)))


def problems_of(settings: Settings) -> list[str]:
    """Return a sentence for each thing that is wrong with *settings* and needs no part to be made."""
    attempts = Attempts([*_of_endpoints(settings), *_of_names(settings), *_of_file(settings)])
    for origin in settings.allowed_origins:
        attempts.make("ALLOWED_ORIGINS", partial(Origins, (origin,)))
    for host in settings.allowed_hosts:
        attempts.make("ALLOWED_HOSTS", partial(Hosts, (host,)))
    return attempts.problems


def _of_endpoints(settings: Settings) -> list[str]:
    found: list[str] = []
    places: list[tuple[str, Place]] = []
    known = [(attribute, getattr(settings, attribute)) for attribute in ("listen", "admin_listen")]
    own = [(f"{own_prefix('', name).lower()}{LISTEN}", found) for name, found in settings.own_endpoints.items()]
    for attribute, endpoints in (known[0], *own, known[1]):
        name = settings.sources.get(attribute, ENV_PREFIX + attribute.upper())
        for endpoint in endpoints:
            try:
                place = check_endpoint(endpoint)
            except ValueError as error:
                found.append(f"{name}: {endpoint} is no endpoint: {error}")
                continue
            same = [other for other, taken in places if place is not None and overlap(place, taken)]
            # The port for operators that nobody has asked for gives way; see ``AdminPort``.
            if same and (attribute != "admin_listen" or attribute in settings.sources):
                found.append(f"{name}: {endpoint} can not be listened on beside {same[0]}")
            if place is not None:
                places.append((endpoint, place))
            if settings.process_count > 1 and attribute != "admin_listen" and not can_be_shared(endpoint):
                found.append(f"{name}: {endpoint} is of a kind that TXBROKER_PROCESSES can not share")
    return found


def _of_names(settings: Settings) -> list[str]:
    known = {*settings.protocols, *found_dialects(), *settings.own_endpoints}
    return [
        f"TXBROKER_INSECURE: there is no dialect {name}{_nearest(name, known)} (found: {', '.join(sorted(known))})"
        for name in settings.insecure
        if name not in known
    ]


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _of_file(settings: Settings) -> list[str]:
    """Return what is wrong with where the file of a SQLite store is to be."""
    scheme, colon, rest = settings.store.partition(":")
    if scheme != "sqlite" or not colon or (rest.startswith("//") and not rest.startswith("///")):
        return []  # the store itself says what it wants
    path = database_path(rest, settings.state_directory)
    directory = os.path.dirname(path)
    if os.path.isdir(path):
        return [f"TXBROKER_STORE: {path} is a directory"]
    if not os.path.isdir(directory):
        return [f"TXBROKER_STORE: there is no directory {directory}"]
    return []
