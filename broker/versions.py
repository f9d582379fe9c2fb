"""What the nodes of a broker must agree on, although some of them are of a later version while they are updated.

A node says in its address which messages it understands, and gets no others: nodes of two versions can be at work
together.  What is in Redis has a form, which is noted there: a node whose version does not know it refuses to work.
"""

from __future__ import annotations

from typing import Final

MESSAGES: Final = 2  # rises with each kind of message between nodes that earlier versions do not understand
FORM: Final = 1  # rises when earlier versions would misread what is in Redis, or what is published there


def address_of(node: str, start: str) -> str:
    """Return the address of the node that is called *node*, at its *start*, which has no dot."""
    return f"{node}/{start}.{MESSAGES}"


def messages_of(address: str) -> int:
    """Return which messages the node at *address* understands: 1 if it does not say so, as the first ones did not."""
    number = address.rpartition("/")[2].partition(".")[2]
    return int(number) if number.isascii() and number.isdecimal() else 1
