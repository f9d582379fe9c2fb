"""Tests of the dialect of server-sent events; run them with pytest."""

from lines import dialect as lines
from sse import dialect

from broker.testing import connect, http_request, make_broker, value_of


def listen(broker, target="/sse/news", method="GET"):
    return value_of(http_request(broker, dialect(None), method, target))


def test_an_event_of_another_dialect_arrives():
    broker = make_broker()
    answer = listen(broker)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert connect(broker, lines(None)).say('PUB news {"a":\n1}') == [b"OK"]
    assert answer.body.take() == b'event: line\ndata: {"a":\ndata: 1}\n\n'


def test_nothing_remains_of_a_client_that_left():
    broker = make_broker()
    listen(broker).body.leave()
    assert len(broker.topics) == 0


def test_a_silent_client_gets_a_comment_now_and_then():
    broker = make_broker()
    stream = listen(broker).body
    broker.clock.advance(15)
    assert stream.take() == b":\n\n"
    stream.leave()


def test_who_does_not_read_is_dropped():
    broker = make_broker(send_queue_bytes=1000, slow_grace_seconds=5.0)
    stream, publisher = listen(broker).body, connect(broker, lines(None))
    for _ in range(70):
        publisher.say("PUB news [%s]" % ("1," * 500 + "1"))
    assert not stream.broken
    broker.clock.pump([1.0] * 6)
    assert stream.broken
    assert len(broker.topics) == 0


def test_a_credential_is_wanted():
    broker = make_broker(api_secret="s")
    assert listen(broker).status == 401
    assert listen(broker, "/sse/news?token=wrong").status == 401
    answer = listen(broker, "/sse/news?token=s")
    assert answer.status == 200
    answer.body.leave()


def test_a_head_is_answered_without_a_body():
    broker = make_broker()
    answer = listen(broker, method="HEAD")
    assert (answer.status, answer.body.take(), answer.body.ended) == (200, b"", True)
    assert len(broker.topics) == 0
