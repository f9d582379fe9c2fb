"""Where the log goes, by the options of twistd and by the settings, and what happens to it on a signal."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from twisted.logger import Logger, LogLevel

from broker.app.reloadables import secrets_of
from broker.config.changes import variable
from broker.config.settings import Settings, SettingsError
from broker.observe.log_file import LogFile, descriptor_of
from broker.observe.logs import LogLines, Redaction

log = Logger()

DEFAULT = "twistd.log"  # of twistd in the background


class LogOutput:
    """The file or stream of the log, and the observer that writes it.

    Attributes:
        name: of the file, "-" for standard output.

    Args:
        name: as above.
        option: the option or variable that says so.
        settings: level and form of the lines, and the secrets that they must not show.
        worker: the number of this process, of several; 0: it is no worker.

    Raises:
        SettingsError: the file can not be opened; says why.
    """

    def __init__(self, name: str, option: str, settings: Settings, worker: int = 0) -> None:
        self.name, self._option = name, option
        try:
            self.file = LogFile(name)
        except OSError as error:
            raise SettingsError([f"{option}: {name} can not be opened: {error.strerror}"]) from None
        form = settings.log_format
        if form == "auto":
            form = "text" if descriptor_of(name) is not None and self.file.isatty() else "json"
        self.lines = LogLines(
            cast(Any, self.file), settings.log_level, form, settings.node, Redaction(secrets_of(settings)), worker
        )

    def reopen(self) -> None:
        """Open the file again, for it was moved away; if that fails, go on with the old one."""
        try:
            self.file.reopen()
        except OSError as error:
            log.error(
                "{option}: {file} can not be opened again, and is not: {reason}",
                option=self._option,
                file=self.file.path,
                reason=error.strerror,
            )
        else:
            log.info("the log was opened again")

    def trace_faults(self) -> None:
        """Let the interpreter write where it was when the process ends by a fault, such as SIGSEGV or SIGABRT."""
        with suppress(OSError, RuntimeError):
            faulthandler.enable(self.file.fileno())


def log_output(parent: Mapping[str, Any], settings: Settings, worker: int = 0) -> LogOutput | None:
    """Return where the log goes, or None when the options of twistd, *parent*, name another log.

    *worker* is the number of this process, of several.

    Raises:
        SettingsError: the file can not be opened; says why.
    """
    if parent.get("logger") or parent.get("syslog"):
        return None
    name, option = log_name(parent, settings.log_file)
    return LogOutput(name, option, settings, worker)


def log_name(parent: Mapping[str, Any], setting: str) -> tuple[str, str]:
    """Return the name of the file of the log, "-" for standard output, and the option that says so.

    Args:
        parent: the options of twistd, or of ``python -m twisted``.
        setting: the value of ``TXBROKER_LOG_FILE``.
    """
    if "logFile" in parent:  # python -m twisted, which has opened it
        name = str(getattr(parent["logFile"], "name", "-"))
        if not name.startswith("<"):
            return name, "--log-file"
    elif parent.get("logfile"):
        return parent["logfile"], "--logfile"
    if setting:
        return setting, variable("log_file")
    if "logFile" in parent:
        return ("/dev/stderr" if parent["logFile"] is sys.stderr else "-"), "--log-file"
    return ("-" if parent.get("nodaemon") else DEFAULT), "--logfile"


def observe(parent: Any, lines: LogLines) -> None:
    """Let ``python -m twisted``, whose options *parent* are, write *lines*."""
    if "fileLogObserverFactory" in parent:
        parent["fileLogObserverFactory"] = lambda _: lines
        parent["logLevel"] = LogLevel.debug
