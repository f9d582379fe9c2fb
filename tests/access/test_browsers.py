"""The one judge of requests that browsers make: its words, and the rules between host, page and kind of request."""

import pytest

from broker.access.browsers import BrowserPolicy
from broker.messages import HttpRequest

EVIL = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
IMAGE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
TYPED = {**LINK, "sec-fetch-site": "none"}
DEV = {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}
OPEN = BrowserPolicy(hosts=(), secured=False)
SECURED = BrowserPolicy()


def setting(policy, headers, host="localhost:8000", method="GET", address="127.0.0.1", **how):
    """Return the setting that would allow the request, or ""."""
    request = HttpRequest(method, "/x", "", {"host": host, **headers}, address=address)
    objection = policy.objection(request, **how)
    assert objection is None or objection.setting in objection.message
    return objection.setting if objection else ""


@pytest.mark.parametrize("headers", [EVIL, IMAGE, LINK, DEV, {"origin": "null"}, {"sec-fetch-site": "same-site"}])
@pytest.mark.parametrize("policy", [OPEN, SECURED])
def test_a_page_of_another_origin_is_refused_what_may_change_something(policy, headers):
    assert setting(policy, headers) == "TXBROKER_ALLOWED_ORIGINS"


@pytest.mark.parametrize("headers", [{}, TYPED, {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}])
@pytest.mark.parametrize("policy", [OPEN, SECURED])
def test_programs_users_and_own_pages_are_not_refused(policy, headers):
    assert setting(policy, headers) == ""


@pytest.mark.parametrize("headers", [EVIL, IMAGE, {}, TYPED, {"origin": "http://evil.example:8000"}])
def test_a_foreign_name_is_refused_whatever_the_page(headers):
    assert setting(OPEN, headers, host="evil.example:8000", harmless=True) == "TXBROKER_ALLOWED_HOSTS"


def test_a_foreign_name_is_fine_with_credentials_and_on_unix_sockets():
    assert setting(SECURED, {}, host="evil.example") == ""
    assert setting(OPEN, {}, host="evil.example", address="") == ""
    assert setting(OPEN, EVIL, host="evil.example", address="") == "TXBROKER_ALLOWED_ORIGINS"


def test_what_is_harmless_is_shown_to_those_who_follow_a_link():
    assert setting(OPEN, LINK, harmless=True) == ""
    assert setting(OPEN, IMAGE, harmless=True) == "TXBROKER_ALLOWED_ORIGINS"
    assert setting(OPEN, LINK, harmless=True, method="POST") == "TXBROKER_ALLOWED_ORIGINS"
    assert setting(OPEN, {**LINK, **EVIL}, harmless=True) == "TXBROKER_ALLOWED_ORIGINS"
    assert setting(SECURED, EVIL, harmless=True) == ""


def test_a_dialect_whose_credential_no_browser_adds_takes_any_page():
    assert setting(SECURED, EVIL, any_origin=True) == ""
    assert setting(BrowserPolicy(("https://app.example",)), EVIL, any_origin=True) == "TXBROKER_ALLOWED_ORIGINS"


def test_without_credentials_it_takes_those_of_this_machine():
    assert setting(OPEN, DEV, any_origin=True) == ""
    assert setting(OPEN, EVIL, any_origin=True) == "TXBROKER_ALLOWED_ORIGINS"
    assert setting(OPEN, DEV, any_origin=True, host="evil.example") == "TXBROKER_ALLOWED_HOSTS"


@pytest.mark.parametrize("host", [None, "localhost"])
def test_the_log_is_told_what_was_refused(host):
    headers = dict(EVIL) if host is None else {"host": host, **EVIL}
    objection = OPEN.objection(HttpRequest("GET", "/x", "", headers, address="127.0.0.1"))
    assert objection is not None
    assert objection.cause == "a page of https://evil.example"
