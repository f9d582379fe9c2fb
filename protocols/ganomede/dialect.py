"""Which request goes to which handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from zope.interface import implementer

from broker.errors import BrokerError, RateLimited
from broker.interfaces import IHttpDialect, IPeer
from broker.messages import HttpRequest, Response
from protocols.ganomede.answers import STATUSES, Refusal, failed, failure, missing, not_allowed
from protocols.ganomede.events import Events
from protocols.ganomede.indices import Indices
from protocols.ganomede.server import about, ping

if TYPE_CHECKING:
    from broker.config.settings import Settings

PREFIX = "/events/v1"

Handler = Callable[[IPeer, HttpRequest], Awaitable[Response]]


def dialect(settings: Settings) -> Ganomede:
    """Return the dialect for a daemon with *settings*."""
    return Ganomede(settings)


@implementer(IHttpDialect)
class Ganomede:
    """Answers what clients of ganomede-events ask."""

    name = "ganomede"
    # Those that are asked for most by themselves: such a path is found without a search.
    http_paths = (PREFIX + "/", PREFIX + "/events", PREFIX + "/latest", "/latest", "/about")
    example = f'curl -d "clientId=me&channel=news&secret={{key}}&from=me&type=hello" {{http}}{PREFIX}/events'

    def __init__(self, settings: Settings) -> None:
        # The shipped client comes back at once, whyever it is refused.
        self.refusal_delay = settings.error_delay_seconds
        events, indices = Events(settings), Indices(settings)
        self._paths: dict[str, dict[str, Handler]] = {
            f"{PREFIX}/events": {"GET": events.poll, "POST": events.post},
            f"{PREFIX}/latest": {"GET": events.latest},
            "/latest": {"GET": events.latest},
            f"{PREFIX}/indices": {"POST": indices.create},
            f"{PREFIX}/about": {"GET": about},
            "/about": {"GET": about},
        }
        self._ping: dict[str, Handler] = {"GET": ping, "HEAD": ping}
        self._index: dict[str, Handler] = {"GET": indices.read}

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the answer to *request*; see ``IHttpDialect``."""
        handlers = self._paths.get(request.path) or self._find(request.path)
        if handlers is None:
            return _counted(peer, request, missing(request))
        handler = handlers.get(request.method)
        if handler is None:
            return _counted(peer, request, not_allowed(request, tuple(handlers)))
        try:
            return await handler(peer, request)
        except Refusal as refusal:
            return _counted(peer, request, refusal.response)
        except BrokerError as error:
            return _counted(peer, request, failed(error, request))

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return how to say that *request* is refused before it has reached ``answer``."""
        if status == 404:
            return missing(request)
        if status == 405:
            handlers = self._paths.get(request.path) or self._find(request.path) or {}
            return not_allowed(request, tuple(handlers))
        return failure(status, STATUSES.get(status, "BadRequest"), message, plain=status < 500)

    def _find(self, path: str) -> dict[str, Handler] | None:
        """Return the handlers of a path whose last parts are the client's."""
        match path.removeprefix(PREFIX).split("/"):
            case ["", "ping", _]:
                return self._ping
            case ["", "indices", _, _]:
                return self._index
        return None


def _counted(peer: IPeer, request: HttpRequest, response: Response) -> Response:
    """Return *response*, unless *request* was not counted before, by its handler, and is one too many."""
    try:
        peer.take_one_token()
    except RateLimited as error:
        return failed(error, request)
    return response
