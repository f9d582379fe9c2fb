"""A service of which the application's log is written."""

from __future__ import annotations

from typing import Any

from twisted.application.service import MultiService
from twisted.logger import ILogObserver
from twisted.python.components import Componentized


class LoggedService(MultiService):
    """Sets the observer of the log of the application that it becomes part of.

    Args:
        observer: of the log, or None when twistd writes it.
    """

    def __init__(self, observer: ILogObserver | None) -> None:
        super().__init__()
        self._observer = observer

    def setServiceParent(self, parent: Any) -> None:
        """See ``IService.setServiceParent``."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)
