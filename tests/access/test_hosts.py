"""By which names a broker without a credential is reached."""

import pytest

from broker.access.hosts import Hosts, host_name

LOCAL = [
    None,  # HTTP/1.0: no browser leaves it out
    "localhost",
    "localhost:8000",
    "localhost:",
    "LocalHost:8000",
    "localhost.",
    "localhost.:8000",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.0.0.1.",
    "127.8.9.10",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]:8000",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
]
OTHERS = [
    "",
    ":8000",
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost.localdomain",
    "evil.localhost",
    "notlocalhost",
    "localhost..",
    ".localhost",
    "localhost@evil.example",
    "evil.example#localhost",
    "localhost/evil.example",
    "evil.example:80:localhost",
    "localhost evil.example",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.1",
    "0.0.0.0",
    "10.0.0.1",
    "128.0.0.1",
    "[::]",
    "[::2]",
    "[::1",
    "[::1].evil.example",
    "[::ffff:10.0.0.1]",
    "[127.0.0.1]",
    "[localhost]",
    "[fe80::1%lo]",
    "l\u00f6calhost",
]


@pytest.mark.parametrize("host", LOCAL)
def test_names_of_this_machine_are_answered_to(host):
    assert Hosts().admit(host)


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_not(host):
    assert not Hosts().admit(host)


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("broker.lan", "broker.lan:8000"),
        ("Broker.Lan:9", "broker.LAN."),
        ("broker.lan.", "broker.lan"),
        ("10.0.0.1", "10.0.0.1:8000"),
        ("fd00::1", "[FD00:0::1]:8000"),
        ("[fd00::1]:80", "[fd00::1]"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
    ],
)
def test_other_names_can_be_allowed(allowed, host):
    hosts = Hosts((allowed, "other.example"))
    assert hosts.admit(host)
    assert hosts.admit("localhost")
    assert not any(hosts.admit(other) for other in OTHERS if other != "10.0.0.1")


def test_what_a_client_sends_is_not_translated():
    assert not Hosts(("b\u00fccher.example",)).admit("b\u00fccher.example")
    assert host_name("\u00bd" * 15000) == ""


@pytest.mark.parametrize("host", [*LOCAL, *OTHERS])
def test_a_star_allows_any(host):
    assert Hosts(("*",)).admit(host)


@pytest.mark.parametrize("text", ["", "[", "http://broker.lan", "broker.lan/", ":8000", "*.broker.lan"])
def test_what_is_no_name_can_not_be_allowed(text):
    with pytest.raises(ValueError, match="TXBROKER_ALLOWED_HOSTS"):
        Hosts(("broker.lan", text))
