"""Why the daemon could not start: on the standard error that it was started with, and in its log."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from twisted.logger import Logger

from broker.app.log_output import LogOutput, log_output
from broker.app.process import StartError
from broker.config.settings import Settings, SettingsError

log = Logger()


class StartReport:
    """Tells an operator why the daemon can not start.

    In the background twistd shows 100 bytes of that on standard error, and what the daemon writes there itself
    goes nowhere: its standard error of before is kept until it runs.

    Attributes:
        output: of the log, as soon as there is one.
    """

    def __init__(self) -> None:
        self.output: LogOutput | None = None
        self._fd = -1
        with suppress(OSError, ValueError, AttributeError):  # it is closed
            self._fd = os.dup(sys.__stderr__.fileno())  # type: ignore[union-attr]

    def install(self) -> None:
        """Let an uncaught error that an operator can mend end the process with its message alone, and status 1."""
        previous = sys.excepthook

        def explain(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
            if issubclass(kind, (StartError, OSError)) and self._fd >= 0:
                self.write(f"txbroker: {error}")
                # sys.stderr goes to the log by then.
                self._log(str(error))
            else:
                previous(kind, error, where)

        sys.excepthook = explain

    def refuse(self, problems: list[str], parent: Mapping[str, Any], settings: Settings) -> None:
        """Tell all *problems* of the settings, and write them to the log that they and twistd's options name."""
        self.write("\n  ".join(["txbroker can not start:", *problems]))
        if self.output is None:
            with suppress(SettingsError):  # which is one of the problems
                self.output = log_output(parent, settings)
        if self.output is not None:
            log.observer = self.output.lines  # twistd has not begun to log
            for problem in problems:
                self._log(problem)

    def write(self, text: str) -> None:
        """Write *text* to standard error."""
        with suppress(OSError):
            os.write(self._fd, f"{text}\n".encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Give standard error back: the daemon has started, and whoever started it may wait for its end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _log(self, reason: str) -> None:
        if self.output is not None and not self.output.file.path:
            return  # it goes to where it was started, and so does standard error
        log.critical("can not start: {reason}", reason=reason)
