"""All reserved methods, and the one that lists what can be called."""

from __future__ import annotations

from functools import cache

import msgspec

from broker.patterns import RESERVED_PREFIX, check_pattern, matches
from broker.schemas import default_of, schema_of
from protocols.owlmeans.call_methods import CALL_METHODS
from protocols.owlmeans.client_methods import CLIENT_METHODS
from protocols.owlmeans.history_methods import HISTORY_METHODS
from protocols.owlmeans.key_methods import KEY_METHODS
from protocols.owlmeans.methods import Answer, Method, Methods
from protocols.owlmeans.publish_methods import PUBLISH_METHODS
from protocols.owlmeans.queue_methods import QUEUE_METHODS
from protocols.owlmeans.session import Session
from protocols.owlmeans.topic_methods import TOPIC_METHODS


class Procedures(Method):
    """Ask for the methods that can be called; with a pattern that begins with ``broker.``, for those of the broker."""

    called = "methods"
    pattern: str = ">"

    async def run(self, session: Session) -> Answer:
        """Answer with the names that match and that the session may call; of the broker's own, with descriptions."""
        if self.pattern.startswith(RESERVED_PREFIX):
            check_pattern(self.pattern)
            return {"methods": [found for found in _described() if matches(self.pattern, found["name"])]}
        return {"methods": await session.peer.matching_procedures(self.pattern)}


METHODS = Methods(
    (
        *CALL_METHODS,
        Procedures,
        *PUBLISH_METHODS,
        *TOPIC_METHODS,
        *HISTORY_METHODS,
        *QUEUE_METHODS,
        *CLIENT_METHODS,
        *KEY_METHODS,
    )
)


@cache
def _described() -> list[Answer]:
    """Return name, description and arguments of each reserved method, by name."""
    return [describe(name, METHODS.classes[name]) for name in sorted(METHODS.names)]


def describe(name: str, method: type[Method]) -> Answer:
    """Return *method* as ``broker.methods`` shows it: ``{name, description, arguments: [{name, required, schema}]}``.

    ``schema`` is a JSON Schema, that of an object with all options among them.
    """
    arguments = [
        {"name": field.name, "required": field.required, "schema": schema_of(field.type) | default_of(field.default)}
        for field in msgspec.structs.fields(method)
    ]
    description = (method.__doc__ or "").partition("\n")[0].replace("``", "")
    return {"name": name, "description": description, "arguments": arguments}
