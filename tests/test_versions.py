"""What nodes of different versions say and know of each other."""

import pytest

from broker.versions import MESSAGES, address_of, messages_of


@pytest.mark.parametrize("node", ["node1", "a.b.7", "a/b.9", ""])
def test_an_address_says_which_messages_its_node_understands(node):
    assert messages_of(address_of(node, "0f3a")) == MESSAGES


@pytest.mark.parametrize(
    "address", ["node1/0f3a", "a.7/0f3a", "node1/0f3a.", "node1/0f3a.x", "node1/0f3a.\u0662", "", "."]
)
def test_one_that_does_not_understands_the_first_ones(address):
    assert messages_of(address) == 1
