"""Which pages may come, by what their browsers say of them."""

import pytest

from broker.access.origins import Origins

APP = ("https://app.example",)
SAME = [  # spellings of APP
    "https://app.example",
    "https://app.example/",
    "https://app.example:443",
    "https://app.example:443/",
    "https://App.Example",
    "HTTPS://APP.EXAMPLE",
]
OTHERS = [
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.",
    "https://www.app.example",
    "https://app.example.evil",
    "https://app.example@evil",
    "https://evil\\@app.example",
    "https://evil#app.example",
    "https:app.example",
    "app.example",
    "null",
    "",
    "https://",
    "https://app.example:port",
    "https://app.example:65536",
    "https://app.example:99999",
    "https://[app.example]",
    "https://[::1",
    "https://[1:2]",
]


def admits(origin: str | None, allowed: tuple[str, ...] = (), host: str = "h", this_machine: bool = False) -> bool:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    return Origins(allowed).admit(headers, this_machine=this_machine)


@pytest.mark.parametrize("allowed", SAME)
@pytest.mark.parametrize("origin", SAME)
def test_all_spellings_of_an_origin_are_one(allowed, origin):
    assert admits(origin, ("https://other.example", allowed))


@pytest.mark.parametrize("origin", OTHERS)
def test_another_origin_is_not_allowed(origin):
    assert not admits(origin, APP)


def test_an_origin_that_no_browser_sends_is_not_translated():
    assert not admits("https://b\u00fccher.example", ("https://b\u00fccher.example",))


def test_once_origins_are_named_the_own_host_must_be_too():
    assert not admits("http://h", APP)


@pytest.mark.parametrize("origin", [*SAME, *OTHERS])
def test_a_star_allows_all(origin):
    assert admits(origin, ("https://other.example", "*"))


def test_pages_without_an_origin_are_allowed_by_name_only():
    assert admits("null", ("null",))
    assert not admits("https://app.example", ("null",))


def test_a_request_of_no_page_is_allowed():
    assert admits(None)
    assert admits(None, APP)


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]:80"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("http://app.example:65535", "http://app.example:65535"),
        ("http://app.example", "http://app.example:80"),
        ("ws://app.example", "ws://app.example:80"),
        ("wss://app.example:443", "wss://app.example"),
    ],
)
def test_hosts_are_compared_as_browsers_write_them(allowed, origin):
    assert admits(origin, (allowed,))


@pytest.mark.parametrize(
    ("origin", "host", "admitted"),
    [
        ("http://h", "h", True),
        ("http://h", "h:80", True),
        ("http://H:80", "h", True),
        ("http://h:8000", "H:8000", True),
        ("https://h", "h", True),  # TLS ends at a proxy
        ("https://h", "h:443", True),
        ("https://h:8443", "h:8443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]", "[0::1]:80", True),
        ("http://h:8000", "h", False),
        ("http://h", "h:8000", False),
        ("https://h", "h:80", False),
        ("https://h", "", False),
        ("http://localhost", "127.0.0.1", False),
        ("null", "null", False),
        ("http://[::1]:8000", "[::1]:8001", False),
    ],
)
def test_without_any_named_the_own_host_and_port_are_allowed(origin, host, admitted):
    assert admits(origin, host=host) is admitted


@pytest.mark.parametrize(
    ("origin", "admitted"),
    [
        ("http://localhost", True),
        ("https://LOCALHOST:3000", True),
        ("http://127.0.0.1:3000", True),
        ("http://[::1]:3000", True),
        ("https://broker:1", True),
        ("http://localhost.example", False),
        ("http://broker.example", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_pages_of_this_machine_can_be_allowed_besides(origin, admitted):
    assert admits(origin, host="broker:8000", this_machine=True) is admitted


def test_pages_of_this_machine_are_not_allowed_by_themselves():
    assert not admits("http://localhost", host="broker:8000")


def test_a_request_that_names_no_host_has_no_page_of_its_own():
    assert not admits("http://h", host="", this_machine=True)


@pytest.mark.parametrize(
    "text",
    [
        *("app.example", "https://", "app.example:8000", "https://a@b", "http://*.example:x"),
        *("https://*.app.example", "https://*", "https://app.example:65536"),
    ],
)
def test_what_is_no_origin_can_not_be_allowed(text):
    with pytest.raises(ValueError, match="TXBROKER_ALLOWED_ORIGINS"):
        Origins((*APP, text))


# What browsers say where they name no origin


@pytest.mark.parametrize("said", ["cross-site", "same-site", "Cross-Site", "none, cross-site", "cross-site,none"])
def test_another_sites_page_is_known_without_an_origin(said):
    assert not Origins().admit({"host": "h", "sec-fetch-site": said})
    assert not Origins(APP).admit({"host": "h", "sec-fetch-site": said})
    assert Origins(("*",)).admit({"host": "h", "sec-fetch-site": said})


@pytest.mark.parametrize("said", ["none", "same-origin", "", "nonsense"])
def test_users_and_own_pages_are_admitted(said):
    assert Origins().admit({"host": "h", "sec-fetch-site": said})
    assert Origins(APP).admit({"host": "h", "sec-fetch-site": said})


def test_an_allowed_origin_is_of_another_site():
    assert Origins(APP).admit({"host": "h", "origin": APP[0], "sec-fetch-site": "cross-site"})


def test_what_only_looks_like_the_own_origin_is_refused():
    """A page over http asks a port behind a proxy that ends TLS: the name is the same, the site is not."""
    assert not Origins().admit({"host": "h", "origin": "http://h", "sec-fetch-site": "cross-site"})
    assert Origins().admit({"host": "h", "origin": "http://h", "sec-fetch-site": "same-origin"})
