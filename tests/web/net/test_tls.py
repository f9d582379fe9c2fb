"""Which TLS ports get connections that can be half-closed; what those do is in tests/web/http/test_half_close.py."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from broker.web.net import tls
from broker.web.net.tls import HalfCloseableTLS, make_half_closeable


@pytest.fixture
def factory() -> Any:
    return TLSMemoryBIOFactory(CertificateOptions(), False, Factory())


def test_a_port_of_twisteds_gets_them(factory: Any) -> None:
    make_half_closeable(factory)
    assert factory.protocol is HalfCloseableTLS
    assert TLSMemoryBIOFactory.protocol is BufferingTLSTransport


def test_what_comes_behind_a_close_notify_is_not_kept(factory: Any) -> None:
    connection = HalfCloseableTLS(factory, Protocol())
    connection._tlsConnection = None  # nothing is given to it
    connection._read_closed = True
    connection.dataReceived(b"x")


def test_one_that_has_ended_can_be_aborted(factory: Any) -> None:
    connection = HalfCloseableTLS(factory, Protocol())
    connection.makeConnection(StringTransport())
    connection.connectionLost(Failure(ConnectionDone()))
    connection.abortConnection()


def test_without_twisteds_private_names_it_is_left_alone(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "PRIVATE_NAMES", ("_flushReceiveBIO", "_renamed"))
    make_half_closeable(factory)
    assert factory.protocol is BufferingTLSTransport


def test_a_factory_of_another_kind_is_left_alone() -> None:
    factory = Factory()
    make_half_closeable(factory)
    assert factory.protocol is None
