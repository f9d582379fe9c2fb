"""What HTTP connections hold is counted, and bounded, and nothing is left of it when they end."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred

from broker.core.memory import Memory, UnadmittedBytes
from broker.messages import HttpRequest, Response
from broker.web.http.channel import HttpChannel
from broker.web.http.parser import Limits
from tests.web.http.fake_site import FakeSite, get, post
from tests.web.wire import Wire

HEAD = get("/p", "Content-Length: 100000", method="POST")


def a_site(share: int = 0) -> FakeSite:
    site = FakeSite()
    site.limits = Limits(body_bytes=200_000)
    site.memory = Memory(share=share)
    return site


def test_a_body_under_way_is_counted_until_it_is_answered() -> None:
    site = a_site()
    answer: Deferred[Response] = Deferred()
    site.reply = lambda request: answer
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(HEAD + b"x" * 50_000)
    assert site.memory.upload.used == 50_000
    wire.say(b"x" * 50_000)
    assert site.memory.upload.used == 100_000
    answer.callback(Response())
    assert [heard.status for heard in wire.heard()] == [200]
    assert site.memory.used == 0
    wire.lose()


def test_a_body_that_comes_at_once_is_counted_while_its_answer_is_awaited() -> None:
    site = a_site()
    site.reply = lambda request: Deferred()
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(post(b"x" * 8000))
    assert site.memory.upload.used == 8000
    wire.lose()
    assert site.memory.used == 0
    assert site.requests[0].body == b""


def test_the_body_of_a_get_is_not_kept_while_it_waits() -> None:
    site = a_site()
    site.reply = lambda request: Deferred()
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(get("/p", "Content-Length: 8000") + b"x" * 8000)
    assert (len(site.requests), site.requests[0].body, site.memory.used) == (1, b"", 0)
    wire.lose()


def test_pipelined_bodies_are_counted() -> None:
    site = a_site()
    site.reply = lambda request: Deferred()
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(get("/p") + post(b"x" * 5000) * 3)
    assert site.memory.upload.used == 15_000
    wire.lose()
    assert site.memory.used == 0


def test_small_bodies_cost_nothing() -> None:
    site = a_site()
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(HEAD + b"x" * 4000)
    assert site.memory.used == 0
    wire.lose()


def test_the_largest_upload_is_refused_when_there_are_too_many() -> None:
    site = a_site(share=100_000)
    first, second = (Wire(HttpChannel(site, "10.0.0.1")) for _ in range(2))
    first.say(HEAD + b"x" * 60_000)
    second.say(HEAD + b"x" * 50_000)
    ((refusal,), none) = first.heard(), second.heard()
    assert (refusal.status, refusal.headers["connection"], none) == (503, "close", [])
    assert site.memory.upload.used == 50_000
    first.lose()
    second.lose()
    assert site.memory.used == 0


def test_an_answer_that_is_not_read_is_counted_until_it_is() -> None:
    site = a_site()
    site.reply = lambda request: Response(body=b"x" * 1000)
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.full = True
    wire.server.dataReceived(get("/p"))
    assert site.memory.send_queue.used > 1000
    wire.drain()
    assert site.memory.used == 0
    wire.full = True
    wire.server.dataReceived(get("/p"))
    wire.lose()
    assert site.memory.used == 0


def test_the_largest_of_those_that_do_not_read_is_dropped() -> None:
    site = a_site(share=180_000)
    site.reply = lambda request: Response(body=b"x" * 100_000)
    first, second = (Wire(HttpChannel(site, "10.0.0.1")) for _ in range(2))
    for wire in (first, second):
        wire.full = True
        wire.server.dataReceived(get("/p"))
    assert (first.aborted, second.aborted) == (True, False)
    assert 100_000 < site.memory.used < 101_000
    second.lose()
    assert site.memory.used == 0


@attrs.define
class Stranger:
    admitted: bool = False


def half_upload(site: FakeSite, size: int, address: str = "10.0.0.1") -> Wire:
    wire = Wire(HttpChannel(site, address))
    wire.say(HEAD + b"x" * size)
    return wire


def test_the_uploads_of_strangers_have_a_bound_of_their_own() -> None:
    site = a_site()
    site.memory.unadmitted = UnadmittedBytes(100_000)
    other = half_upload(site, 20_000, "10.0.0.2")
    wires = [half_upload(site, 30_000) for _ in range(3)]
    assert [[heard.status for heard in wire.heard()] for wire in (other, *wires)] == [[], [503], [], []]
    assert (site.memory.unadmitted.used, site.memory.upload.used) == (80_000, 80_000)
    for wire in (other, *wires):
        wire.lose()
    assert (site.memory.unadmitted.used, site.memory.used) == (0, 0)


def test_the_upload_of_an_admitted_client_does_not_count_for_it() -> None:
    site = a_site()

    def admit(request: HttpRequest) -> Response:
        request.peer = Stranger(admitted=True)
        return Response()

    site.reply = admit
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(HEAD + b"x" * 100_000)
    wire.say(HEAD + b"x" * 50_000)
    assert (site.memory.unadmitted.used, site.memory.upload.used, len(site.admitted)) == (0, 50_000, 1)
    wire.lose()


def test_nothing_is_left_of_one_whose_own_bytes_were_too_much() -> None:
    site = a_site(share=20_000)
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    wire.say(HEAD + b"x" * 50_000)
    wire.lose()
    assert (site.memory.used, site.memory.unadmitted.used) == (0, 0)
