"""What operators ask of other nodes by the admin API of this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as NoReply
from twisted.logger import Logger

from broker.cluster.messages import OperatorAsked, OperatorReply
from broker.cluster.messenger import NodeMessenger
from broker.errors import NotFound, Unavailable

log = Logger()

Answer = tuple[int, bytes]  # the status of HTTP, and JSON text


class OperatorLink:
    """Asks other nodes, and answers them.

    Args:
        messenger: leads to them.

    Attributes:
        answer: called with the name of a node and its question; fails with nothing.
    """

    def __init__(self, messenger: NodeMessenger) -> None:
        self._messenger = messenger
        self._numbers = count(1)
        self._asked: dict[int, tuple[str, Deferred[Answer]]] = {}
        self.answer: Callable[[str, OperatorAsked], Awaitable[Answer]] = _refuse
        messenger.on(OperatorAsked, self._on_question)
        messenger.on(OperatorReply, self._on_reply)
        messenger.on_break(lambda address, _: self._on_break(address))

    @property
    def names(self) -> list[str]:
        """The names of the other nodes, in order, as far as this one knows."""
        return sorted(set(map(_name_of, self._messenger.bus.others)))

    async def ask(self, node: str, method: str, name: str, query: str, body: bytes, timeout: float) -> Answer:
        """Return what the node that is called *node* answers; see ``OperatorAsked``.

        Raises:
            NotFound: there is no such node.
            Unavailable: it does not answer within *timeout* seconds.
        """
        found = [address for address in self._messenger.bus.others if _name_of(address) == node]
        if not found:
            raise NotFound("node", node, message=f"There is no node {node[:100]}; there are {self._others_in_words()}.")
        number, address = next(self._numbers), found[0]
        reply: Deferred[Answer] = Deferred()
        self._asked[number] = address, reply
        try:
            if self._messenger.send(address, OperatorAsked(number, method, name, query, body)):
                return await reply.addTimeout(timeout, self._messenger.clock)
        except (NoReply, CancelledError):
            pass
        finally:
            del self._asked[number]
        raise Unavailable("node", node, message=f"Node {node[:100]} has not answered within {timeout:g} s.")

    def _others_in_words(self) -> str:
        return ", ".join(self.names) or "no others"

    def _on_question(self, address: str, question: OperatorAsked) -> None:
        Deferred.fromCoroutine(self._reply(address, question))

    async def _reply(self, address: str, question: OperatorAsked) -> None:
        try:
            status, body = await self.answer(_name_of(address), question)
        except Exception:
            log.failure("a question of an operator at node {node} could not be answered", node=_name_of(address))
            status, body = 500, b"{}"
        self._messenger.send(address, OperatorReply(question.id, status, body))

    def _on_reply(self, _: str, reply: OperatorReply) -> None:
        asked = self._asked.get(reply.id)
        if asked is not None and not asked[1].called:
            asked[1].callback((reply.status, reply.body))

    def _on_break(self, address: str) -> None:
        for asked, reply in list(self._asked.values()):
            if asked == address and not reply.called:
                reply.cancel()


async def _refuse(node: str, question: OperatorAsked) -> Answer:
    return 503, b"{}"


def _name_of(address: str) -> str:
    """Return the name of the node at *address*."""
    return address.rpartition("/")[0]
