"""Addresses as limits count them, and the clients of trusted proxies."""

from __future__ import annotations

import pytest

from broker.access.addresses import TrustedProxies, plain_address
from broker.access.limits import network_of

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1"])


def client_of(forwarded_for: str = "", forwarded: str = "", address: str = "10.0.0.1") -> str:
    named = {"x-forwarded-for": forwarded_for, "forwarded": forwarded}
    return PROXIES.client_of(address, {name: value for name, value in named.items() if value})


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.5:4711", "203.0.113.5"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:DB8::7]:4711", "2001:db8::7"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("6.6.6.6, 203.0.113.5", "203.0.113.5"),
        ("6.6.6.6,203.0.113.5,10.2.3.4", "203.0.113.5"),
        ("garbage, 203.0.113.5, 10.2.3.4 ,2001:db8:1::1", "203.0.113.5"),
        ("10.2.3.4, 10.0.0.9", "10.2.3.4"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_the_first_address_from_the_right_that_is_no_proxy_is_the_client(value, client):
    assert client_of(value) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.5", "203.0.113.5"),
        ('For="203.0.113.5:4711";proto=https;by=10.0.0.1', "203.0.113.5"),
        ('proto=http; for="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=6.6.6.6, for=203.0.113.5;host=a, for=10.2.3.4", "203.0.113.5"),
        ('for="6.6.6.6, for=203.0.113.5', "203.0.113.5"),
        ('for="x", for=203.0.113.5', "203.0.113.5"),
    ],
)
def test_forwarded_says_it_as_well(value, client):
    assert client_of(forwarded=value) == client


@pytest.mark.parametrize(
    "value",
    ["unknown", "", ",", "203.0.113.5,", "203.0.113.5, unknown", "1.2.3", "1.2.3.4.5", "01.2.3.4x", "a:b", "[::1",
     "203.0.113.5 6.6.6.6", "203.0.113.5:999999", "-1", "１.2.3.4", "203.0.113.5, , 10.2.3.4", "10.2.3.4, x"],
)  # fmt: skip
def test_what_can_not_be_read_leaves_the_address_of_the_proxy(value):
    assert client_of(value) == "10.0.0.1"


@pytest.mark.parametrize("value", ["for=_hidden", "for=unknown", "by=6.6.6.6", "for=", 'for="', "203.0.113.5", "for"])
def test_what_forwarded_does_not_tell_leaves_the_address_of_the_proxy(value):
    assert client_of(forwarded=value) == "10.0.0.1"


def test_without_headers_it_is_the_proxy_that_asks():
    assert client_of() == "10.0.0.1"


def test_headers_that_do_not_agree_are_not_believed():
    assert client_of("203.0.113.5", "for=203.0.113.5") == "203.0.113.5"
    assert client_of("203.0.113.5", "for=6.6.6.6") == "10.0.0.1"


def test_a_long_chain_is_read_from_its_end_only():
    assert client_of("6.6.6.6, " * 1000 + "203.0.113.5") == "203.0.113.5"
    assert client_of("6.6.6.6" + ", 10.2.3.4" * 1000) == "10.2.3.4"


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("10.255.0.1", True), ("11.0.0.1", False), ("2001:db8:1:ffff::1", True), ("2001:db8:2::1", False),
     ("127.0.0.1", True), ("127.0.0.2", False), ("", False), ("/run/x", False)],
)  # fmt: skip
def test_who_is_trusted(address, trusted):
    assert PROXIES.trusts(address) is trusted


def test_nobody_is_trusted_by_default():
    assert not any(map(TrustedProxies().trusts, ("127.0.0.1", "::1", "10.0.0.1", "")))


def test_unix_sockets_can_be_trusted():
    assert TrustedProxies(["unix"]).trusts("")
    assert not TrustedProxies(["unix"]).trusts("10.0.0.1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.0.1", "::1", "", "/run/x", "10.1.1.1"])
def test_this_machine_and_proxies_are_exempt(address):
    assert PROXIES.is_exempt(address)


@pytest.mark.parametrize("address", ["128.0.0.1", "::2", "fe80::1%eth0", "192.168.0.1"])
def test_others_are_not_exempt(address):
    assert not PROXIES.is_exempt(address)


def test_an_ipv4_address_is_the_same_on_a_socket_of_ipv6():
    assert plain_address("::ffff:203.0.113.5") == "203.0.113.5"
    assert [plain_address(text) for text in ("203.0.113.5", "2001:db8::1", "", "/run/x")] == [
        "203.0.113.5", "2001:db8::1", "", "/run/x",
    ]  # fmt: skip


def test_addresses_of_ipv6_are_counted_by_their_network():
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1:2:3") != network_of("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("headers", "host", "secure"),
    [
        ({}, "", False),
        ({"x-forwarded-host": "app.example"}, "app.example", False),
        ({"x-forwarded-host": "evil.example, app.example:8443"}, "app.example:8443", False),
        ({"x-forwarded-host": "a/b"}, "", False),
        ({"x-forwarded-host": ""}, "", False),
        ({"x-forwarded-proto": "https"}, "", True),
        ({"x-forwarded-proto": "https, http"}, "", False),
        ({"x-forwarded-proto": "WSS"}, "", True),
        ({"forwarded": "for=203.0.113.5;host=app.example;proto=https"}, "app.example", True),
        ({"forwarded": 'for="[2001:db8::7]:1";Host="app.example:8443"'}, "app.example:8443", False),
        ({"forwarded": "for=6.6.6.6;host=evil, for=203.0.113.5;host=app.example"}, "app.example", False),
        ({"forwarded": "for=203.0.113.5;host=app.example, for=10.0.0.9;host=inner"}, "app.example", False),
        ({"forwarded": "host=app.example", "x-forwarded-host": "evil.example"}, "", False),
        ({"forwarded": "proto=http", "x-forwarded-proto": "https"}, "", False),
    ],
)
def test_a_proxy_tells_the_host_and_the_scheme_that_its_client_used(headers, host, secure):
    said = PROXIES.read(headers)
    assert (said.host, said.secure) == (host, secure)
