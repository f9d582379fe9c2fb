"""What is submitted to a ``Batcher``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred

AGAIN = 0  # in the place of a state: the operation was left undone, and nothing new is known


def _unchanged(result: Any) -> Any:
    return result


@attrs.define(eq=False)
class Operation:
    """One call of a verb of the script.

    Attributes:
        words: the verb, and its arguments.
        decode: makes the result of what the verb has returned; may raise.  It is dropped when that was answered: as a
            method of the operation it would keep it, and what it carries, until the garbage collector comes.
        size: the bytes that are kept for it, about: those that it carries, and those of an event that it returns.
        reply: the bytes that its result may have, about.
        reads: whether it changes nothing, so that it can be repeated.
        origin: the id of the session that it publishes for, or "".
        control: whether it keeps the node going, and is accepted however much waits.
        prompt: whether it need not wait for others of the loop iteration: it is a batch itself.
        answer: fires with the result.
        chained: whether its new state must be computed here.
        computes: whether that is possible; see ``broker.redis.chains``.
        passes_reads: whether it may go before reads of the same place.
        barrier: whether all that is submitted later waits until it is done, as it has several places.
        follows_all: whether it has several places, and must not go before any change that was submitted sooner.
    """

    words: Sequence[bytes]
    decode: Callable[[Any], Any] = _unchanged
    size: int = 0
    reads: bool = False
    origin: str = ""
    reply: int = 0
    control: bool = False
    prompt: bool = False
    answer: Deferred[Any] = attrs.field(factory=Deferred, init=False)
    chained: bool = attrs.field(default=False, init=False)

    computes: ClassVar[bool] = False
    passes_reads: ClassVar[bool] = False
    barrier: ClassVar[bool] = False
    follows_all: ClassVar[bool] = False

    def place(self) -> Hashable:
        """Return what it reads or changes; None for more than one place."""
        return None

    def found(self, state: Any) -> None:
        """Take the present state, on which the verb could not act."""
        raise AssertionError(f"the script has stopped at {self.words[0]!r}")

    def foresee(self, state: Any) -> Any:
        """Return the state of its place after it, for *state* before it."""
        return state
