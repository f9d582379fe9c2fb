"""Finds and loads the dialects: plugins that each serve one protocol of clients.

A dialect is a module of the namespace package ``protocols``, to which anybody
may add a file, an entry point of an installed distribution in the group
``txbroker.dialects``, or any ``package.module:attribute``.  A module's ``dialect`` (or
that attribute) is called with the settings and returns a provider of
one or more of :class:`~broker.interfaces.IWebSocketDialect`,
:class:`~broker.interfaces.IHttpDialect` and :class:`~broker.interfaces.IStreamDialect`.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from zope.interface import Invalid
from zope.interface.verify import verifyObject

from broker.config.options import options_of
from broker.config.own import LISTEN
from broker.interfaces import IHttpDialect, IStreamDialect, IWebSocketDialect
from broker.patterns import is_reserved
from broker.plugins import ATTRIBUTE, OwnSettings

NAMESPACE = "protocols"
ENTRY_POINTS = "txbroker.dialects"
KINDS = (IWebSocketDialect, IHttpDialect, IStreamDialect)
NAME = re.compile("[A-Za-z0-9_-]{1,64}")  # what a dialect may call itself


class DialectError(Exception):
    """A dialect can not be loaded; the message says which and why."""


def found_dialects() -> list[str]:
    """Return the names of the modules in the namespace package ``protocols``, and of the entry points."""
    namespace = import_module(NAMESPACE)
    modules = {module.name for module in pkgutil.iter_modules(namespace.__path__) if module.name[0] != "_"}
    return sorted(modules | entry_points(group=ENTRY_POINTS).names)


def load_dialects(names: Iterable[str], settings: object) -> list[Any]:
    """Return the dialects of *names*, made with *settings*, in that order.

    Raises:
        DialectError: with all that is wrong: one is missing or broken, has a name that is none or is reserved, or two
            claim the same name, path or subprotocol.
    """
    dialects: list[Any] = []
    owners: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for name in names:
        try:
            dialects.append(_loaded(name, settings, owners))
        except DialectError as error:
            problems.append(str(error))
    if problems:
        raise DialectError("; ".join(problems))
    if not dialects:
        raise DialectError(f"no dialect is named; there are {', '.join(found_dialects())}")
    return dialects


def own_settings(names: Iterable[str]) -> dict[str, type]:
    """Return the classes of the settings that the dialects of *names* have of their own, by their names.

    What can not be imported has none: ``load_dialects`` says why.
    """
    found: dict[str, type] = {}
    for name in names:
        try:
            own = getattr(_factory(name), ATTRIBUTE, None)
        except DialectError:
            continue
        if isinstance(own, OwnSettings):
            found[own.name] = own.kind
    return found


def _loaded(name: str, settings: object, owners: dict[tuple[str, str], str]) -> Any:
    """Return the dialect *name*, after adding what it claims to *owners*."""
    dialect = _load(name, settings)
    _check_own_name(name, dialect.name)
    for claim in _claims(dialect):
        if claim in owners:
            raise DialectError(f"dialect {name}: {' '.join(claim)} is taken by dialect {owners[claim]}")
        owners[claim] = name
    return dialect


def _load(name: str, settings: object) -> Any:
    factory = _factory(name)
    try:
        dialect = factory(settings)
    except Exception as error:
        raise DialectError(f"dialect {name}: could not be made: {_describe(error)}") from error
    own = getattr(factory, ATTRIBUTE, None)
    if own is not None and own.name != dialect.name:
        raise DialectError(f"dialect {name}: its settings are those of {own.name}, and its name is {dialect.name}")
    provided = [which for which in KINDS if which.providedBy(dialect)]
    if not provided:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise DialectError(f"dialect {name}: {dialect!r} provides none of {kinds}")
    if IStreamDialect in provided and (own is None or LISTEN not in options_of(own.kind)):
        raise DialectError(
            f"dialect {name}: a stream dialect needs a setting {LISTEN}, see broker.plugins.listen_option"
        )
    for interface in provided:
        try:
            verifyObject(interface, dialect)
        except Invalid as error:
            raise DialectError(f"dialect {name}: {' '.join(str(error).split())}") from None
    return dialect


def _check_own_name(module: str, name: object) -> None:
    """Check the name that a dialect gives itself.

    It tells events and memberships of dialects apart, and the broker's own events are those of no
    dialect: one without a name could announce changes of keys.

    Raises:
        DialectError: it is not 1 to 64 letters, digits, "-" or "_", or reserved.
    """
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise DialectError(f"dialect {module}: its name must be 1 to 64 letters, digits, - or _, not {name!r}")
    if is_reserved(name):
        raise DialectError(f"dialect {module}: the name {name} is reserved")


def _factory(name: str) -> Callable[[object], Any]:
    path, _, attribute = name.partition(":")
    module_name = path if attribute else f"{NAMESPACE}.{name}"
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            if not attribute and name in entry_points(group=ENTRY_POINTS).names:
                return _factory(_installed(name))
            found = ", ".join(found_dialects()) or "none"
            raise DialectError(f"dialect {name}: there is no module {module_name} (found: {found})") from None
        raise DialectError(f"dialect {name}: could not be imported: {_describe(error)}") from error
    except Exception as error:
        raise DialectError(f"dialect {name}: could not be imported: {_describe(error)}") from error
    factory = getattr(module, attribute or "dialect", None)
    if not callable(factory):
        raise DialectError(f"dialect {name}: {module_name} has no function {attribute or 'dialect'}")
    return factory  # type: ignore[no-any-return]  # what it returns is verified


def _installed(name: str) -> str:
    """Return the ``module:attribute`` of the entry point *name*.

    Raises:
        DialectError: two distributions have one of that name, or it names no attribute.
    """
    values = {point.value for point in entry_points(group=ENTRY_POINTS, name=name)}
    if len(values) > 1:
        raise DialectError(f"dialect {name}: it is the name of several entry points: {', '.join(sorted(values))}")
    (value,) = values
    if ":" not in value:
        raise DialectError(f"dialect {name}: its entry point {value} names no function")
    return value


def _claims(dialect: Any) -> list[tuple[str, str]]:
    """Return what no two dialects may share, each with its kind: name, paths and subprotocols."""
    claims = [("the name", str(dialect.name))]
    if IWebSocketDialect.providedBy(dialect):
        claims += [("the WebSocket path", path) for path in dialect.websocket_paths]
        claims += [("the subprotocol", word) for word in dialect.subprotocols]
    if IHttpDialect.providedBy(dialect):
        claims += [("the HTTP path", path) for path in dialect.http_paths]
    return claims


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
