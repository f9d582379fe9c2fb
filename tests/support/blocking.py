"""A dialect that does what a plugin must not: it lets the reactor wait for it."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from broker.interfaces import IHttpDialect, IPeer
from broker.messages import HttpRequest, Response

log = Logger()

SIGN = "blocking from now on"


@implementer(IHttpDialect)
class Blocking:
    """Answers when the seconds of the query are over, and the file ``go-on`` is there; nobody is served meanwhile."""

    name = "blocking"
    http_paths = ("/block",)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Block."""
        log.info(SIGN)
        end = time.monotonic() + float(request.query)
        while time.monotonic() < end or not os.path.exists("go-on"):
            time.sleep(0.01)
        return Response(200, b"{}")


def dialect(settings: Any) -> Blocking:
    """Return the dialect."""
    return Blocking()
