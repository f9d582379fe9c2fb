"""SIGHUP: the settings and files that the daemon takes up without a restart, all of them or none."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from broker.app.checks import Attempts
from broker.config.changes import Change, Reloadable, different
from broker.config.settings import Settings, SettingsError

log = Logger()


class Reloads:
    """The parts of the daemon that can be reloaded, and the settings in effect.

    Each part prepares first, which may fail and changes nothing; only when all of them can, each commits.

    Args:
        settings: those in effect.
        read: returns those of now, and what is wrong with them, as ``Settings.read`` does.

    Attributes:
        settings: those in effect.
    """

    def __init__(self, settings: Settings, read: Callable[[], tuple[Settings, list[str]]]) -> None:
        self.settings = settings
        self._read = read
        self._parts: list[Reloadable] = []

    def add(self, part: Reloadable) -> None:
        """Let *part* be reloaded, after those that were added before."""
        self._parts.append(part)

    def reload(self) -> bool:
        """Take up what is different now, and log what that is; return False if nothing could be, which is logged."""
        try:
            wanted, problems = self._wanted()
            settings, changes = self._prepared(wanted, problems)
        except SettingsError as error:
            log.error("not reloaded, all is as it was: {problems}", problems="; ".join(error.problems))
            return False
        for warning in settings.warnings:
            if warning not in self.settings.warnings:
                log.warn("{warning}", warning=warning)
        self.settings = settings
        told = [words for words in map(_committed, changes) if words]
        log.info("reloaded: {changed}", changed="; ".join(told) or "nothing has changed")
        left = different(settings, wanted)
        if left:
            log.warn("a restart is needed for {settings}", settings=", ".join(left))
        return True

    def _wanted(self) -> tuple[Settings, list[str]]:
        wanted, problems = self._read()
        if "node" not in wanted.sources:  # else it has another random name each time
            wanted = attrs.evolve(wanted, node=self.settings.node)
        return wanted, problems

    def _prepared(self, wanted: Settings, problems: list[str]) -> tuple[Settings, list[Change]]:
        """Return the settings that will be in effect, and what the parts will do.

        Args:
            wanted: what the settings are now.
            problems: what is wrong with them.

        Raises:
            SettingsError: with everything that keeps them from it.
        """
        names = {name for part in self._parts for name in part.names}
        before = self.settings
        settings = attrs.evolve(
            before,
            **{name: getattr(wanted, name) for name in names},
            sources=_sources(before, wanted, names),
            warnings=wanted.warnings,
            faults=wanted.faults,
        )
        # What may be changed must also go together with what stays as it is.
        attempts = Attempts([*problems, *settings.problems()])
        if before.guarded and not settings.guarded and not problems:
            attempts.problems.append("clients without a credential would not be refused any more: that needs a restart")
        prepared = [attempts.make(_setting_of(part), _preparation(part, settings)) for part in self._parts]
        attempts.finish()
        return settings, [change for change in prepared if change is not None]


def _sources(before: Settings, wanted: Settings, names: set[str]) -> dict[str, str]:
    kept = {name: source for name, source in before.sources.items() if name not in names}
    return kept | {name: source for name, source in wanted.sources.items() if name in names}


def _setting_of(part: Reloadable) -> str:
    return next((name.upper() for name in part.names), "")


def _preparation(part: Reloadable, settings: Settings) -> Callable[[], Change | None]:
    def prepare() -> Change | None:
        try:
            return part.prepare(settings)
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None

    return prepare


def _committed(change: Change) -> str:
    """Commit *change*; return what is told of it."""
    try:
        more = change.commit()
    except Exception:
        log.failure("{what} was not taken up as a whole", what=change.what)
        return ""
    return f"{change.what} ({more})" if more and isinstance(more, str) else change.what
