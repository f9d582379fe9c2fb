"""What is reloaded on SIGHUP: credentials with permissions, the secret of the admin port, and the log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from broker.access.principals import Access, make_access
from broker.config.changes import Change, different, variable
from broker.config.settings import Settings
from broker.observe.logs import LogLines

KEY_FILES = ("jwt_public_key_file", "jwks_file")


class AccessReload:
    """Takes up keys, secrets and permissions, and disconnects whose credential is none any more.

    Args:
        settings: by which *access* was made.
        access: is changed.
        changed: called then; returns how many were disconnected.
    """

    names = (
        "api_secret", "api_secret_previous", "api_keys", "jwt_secret", "jwt_public_key_file", "jwks_file",
        "jwt_audience", "jwt_issuer", "jwt_leeway_seconds", "permissions_file",
    )  # fmt: skip

    def __init__(self, settings: Settings, access: Access, changed: Callable[[], int]) -> None:
        self._settings, self._access, self._changed = settings, access, changed
        self._files = _contents(settings)

    def prepare(self, settings: Settings) -> Change | None:
        """See ``Reloadable.prepare``."""
        files = _contents(settings)
        access = make_access(settings)
        names = [name for name in different(self._settings, settings) if name in map(variable, self.names)]
        names += [variable(name) for name in files if files[name] != self._files.get(name, b"")]
        if not names:
            return None
        what = ", ".join(_told(name, self._access, access) for name in dict.fromkeys(names))
        return Change(what, lambda: self._commit(settings, files, access))

    def _commit(self, settings: Settings, files: dict[str, bytes], access: Access) -> str:
        self._settings, self._files = settings, files
        self._access.replace(access)
        count = self._changed()
        return f"clients disconnected: {count}" if count else ""


class AdminSecretReload:
    """Takes up another secret of the admin port.

    Args:
        settings: those in effect.
        replace: called with the secret.
    """

    names = ("admin_secret",)

    def __init__(self, settings: Settings, replace: Callable[[str], object]) -> None:
        self._secret, self._replace = settings.admin_secret, replace

    def prepare(self, settings: Settings) -> Change | None:
        """See ``Reloadable.prepare``."""
        secret = settings.admin_secret
        if secret == self._secret:
            return None
        if not (secret and self._secret):
            raise ValueError("whether the admin port asks for a secret can be changed by a restart only")
        return Change(variable("admin_secret"), partial(self._commit, secret))

    def _commit(self, secret: str) -> None:
        self._secret = secret
        self._replace(secret)


class LogReload:
    """Takes up the level of the log, and lets it mask the secrets that are new."""

    names = ("log_level",)

    def __init__(self, lines: LogLines) -> None:
        self._lines = lines

    def prepare(self, settings: Settings) -> Change | None:
        """See ``Reloadable.prepare``."""
        level, lines = settings.log_level, self._lines

        def commit() -> None:
            lines.redact.add(secrets_of(settings))
            lines.level = level

        return Change(variable("log_level") if level != lines.level else "", commit)


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Return all secrets of *settings*, which no log must show."""
    return (
        settings.api_secret,
        settings.api_secret_previous,
        settings.admin_secret,
        settings.jwt_secret,
        *settings.api_keys.values(),
        *settings.secrets,
    )


def _contents(settings: Settings) -> dict[str, bytes]:
    """Return what the files have that *settings* name, by attribute.

    Raises:
        OSError: one can not be read.
    """
    paths = {name: getattr(settings, name) for name in (*KEY_FILES, "permissions_file")}
    return {name: Path(path).read_bytes() for name, path in paths.items() if path and name not in settings.faults}


def _told(name: str, before: Access, after: Access) -> str:
    """Return *name*, and of keys which have come, gone or changed."""
    if name != variable("api_keys"):
        return name
    changes = {
        "new": [key for key in after.keys if key not in before.keys],
        "changed": [key for key in after.keys if before.keys.get(key, after.keys[key]) != after.keys[key]],
        "removed": [key for key in before.keys if key not in after.keys],
    }
    told = [f"{word}: {', '.join(keys)}" for word, keys in changes.items() if keys]
    return f"{name} ({'; '.join(told)})" if told else name
