"""What a port grants pages, and what it remembers of the names that it is called."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.access.browsers import BrowserPolicy
from broker.access.refusals import RefusalLog
from broker.messages import HttpRequest, Response
from broker.observe.metrics import Metrics
from broker.web.browsers import MAX_HOST_LENGTH, MAX_KNOWN_HOSTS, Browsers
from tests.support.logs import lines_of

APP = "https://app.example"


def browsers(*origins: str, hosts: tuple[str, ...] | None = ()) -> Browsers:
    return Browsers(BrowserPolicy(origins, hosts, secured=False), RefusalLog(Clock(), Metrics()))


def request(method: str = "GET", address: str = "127.0.0.1", **headers: str) -> HttpRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest(method, "/x", "", {"host": "localhost", **named}, address=address)


def granted(response: Response, method: str = "GET", **headers: str) -> Response:
    return browsers(APP).grant(request(method, origin=APP, **headers), response)


def test_what_a_dialect_grants_by_itself_is_replaced():
    own = (("access-control-allow-origin", "*"), ("Access-Control-Allow-Credentials", "false"), ("X-A", "b"))
    headers = granted(Response(200, headers=own)).headers
    assert dict(headers)["Access-Control-Allow-Origin"] == APP
    assert [value for name, value in headers if name.lower() == "access-control-allow-credentials"] == ["true"]
    assert ("X-A", "b") in headers


def test_the_answer_itself_is_not_changed():
    shared = Response(200, b"[]", headers=(("Vary", "Origin"),))
    answer = granted(shared)
    assert shared.headers == (("Vary", "Origin"),)
    assert (answer.body, answer.headers.count(("Vary", "Origin"))) == (b"[]", 1)


def test_a_page_that_is_not_allowed_is_granted_nothing():
    own = (("Access-Control-Allow-Origin", "*"),)
    answer = browsers(APP).grant(request(origin="https://evil.example"), Response(200, headers=own))
    assert answer.headers == (("Vary", "Origin"),)


def test_what_is_no_page_gets_the_answer_as_it_is():
    response = Response(200)
    assert browsers(APP).grant(request(), response) is response


def test_a_preflight_that_a_dialect_knows_nothing_of_is_answered():
    headers = {"access_control_request_method": "PUT", "access_control_request_headers": "x-a"}
    answer = granted(Response(405, b"no", headers=(("Allow", "GET, PUT"),)), "OPTIONS", **headers)
    said = dict(answer.headers)
    assert (answer.status, answer.body, "Allow" in said) == (204, b"", False)
    assert (said["Access-Control-Allow-Methods"], said["Access-Control-Allow-Headers"]) == ("GET, PUT", "x-a")


@pytest.mark.parametrize(("method", "headers"), [("OPTIONS", {}), ("PUT", {"access_control_request_method": "PUT"})])
def test_what_is_no_preflight_is_not_answered_so(method, headers):
    assert granted(Response(405), method, **headers).status == 405


def test_a_page_of_the_internet_may_be_allowed_to_ask_this_machine():
    asked = {"access_control_request_method": "GET", "access_control_request_private_network": "true"}
    assert ("Access-Control-Allow-Private-Network", "true") in granted(Response(204), "OPTIONS", **asked).headers


def test_only_so_many_names_are_remembered_and_none_that_is_long():
    site = browsers(hosts=None)
    assert not site.objection(request(host="h" * (MAX_HOST_LENGTH + 1)), None, "http")
    assert site.known_hosts == set()
    for number in range(MAX_KNOWN_HOSTS + 5):
        assert not site.objection(request(host=f"h:{number}"), None, "http")
    assert len(site.known_hosts) == MAX_KNOWN_HOSTS


def test_a_client_of_a_unix_socket_makes_no_name_known():
    site = browsers()
    assert not site.objection(request(address="", host="evil.example"), None, "http")
    assert site.objection(request(host="evil.example"), None, "http")
    assert site.known_hosts == set()


def test_each_refusal_is_logged_with_its_address_and_its_setting_but_without_the_query(logged):
    site = browsers()
    site.objection(request(origin="https://evil.example", address="192.0.2.1"), None, "http")
    asked = HttpRequest("POST", "/x", "secret=s", {"host": "evil.example"}, address="192.0.2.2")
    site.objection(asked, None, "ganomede")
    assert lines_of(logged) == [
        'http refused 192.0.2.1: DENIED for anonymous at request of "GET /x for a page of https://evil.example"; '
        "see TXBROKER_ALLOWED_ORIGINS",
        "ganomede refused 192.0.2.2: DENIED for anonymous at request of \"POST /x for Host 'evil.example'\"; "
        "see TXBROKER_ALLOWED_HOSTS",
    ]


def test_what_a_request_is_refused_for_stands_in_the_log_however_long_its_path_is(logged):
    headers = {"host": "evil.example"}
    browsers().objection(HttpRequest("X" * 99, "/" * 99, "", headers, address="192.0.2.1"), None, "http")
    assert "for Host 'evil.example'\"; see" in lines_of(logged)[0]
