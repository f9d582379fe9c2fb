"""A node alone holds every name."""

from __future__ import annotations

import inspect

from broker.cluster import ClusterNames
from broker.core.names import LocalNames
from broker.messages import Mail
from broker.testing import value_of


def test_a_node_alone_gets_any_name_at_once():
    names = LocalNames()
    with names.claimant() as claimant:
        assert value_of(claimant.claim("service:a", shared=False, takeover=False)) is None
        claimant.check()
    assert names.settled() is None
    names.stop()


def test_no_other_node_takes_mail():
    mail = Mail("client:ann", "", b"1")
    assert value_of(LocalNames().deliver("ann", mail)) is False


def test_several_nodes_do_all_that_one_does():
    for name, method in inspect.getmembers(LocalNames, inspect.isfunction):
        assert getattr(ClusterNames, name) is not method, name
