"""Answers that sessions give later to messages and jobs."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed

from broker.core.acknowledgements import MAX_AWAITED
from broker.messages import Delivery, Identity
from broker.sessions import BaseSession
from broker.testing import make_broker, value_of
from tests.support.logs import failures_of


@attrs.define(eq=False)
class Session(BaseSession):
    """Says later whether its client has something."""

    answers: list[Deferred[Any]] = attrs.field(factory=list)
    got: list[Any] = attrs.field(factory=list)

    def mail(self, mail):
        self.got.append(mail)
        self.answers.append(Deferred())
        return self.answers[-1]


@pytest.fixture
def broker():
    return make_broker(lease_seconds=30.0)


def join(broker, name, session=None):
    peer = broker.attach("test", "")
    peer.admit(Identity("key", name, name))
    peer.bind(session or Session())
    peer.appear()
    return peer


def bodies(session):
    return [mail.body for mail in session.got]


@pytest.fixture
def bob(broker):
    return join(broker, "bob")


def send(broker, body, recipient="bob"):
    return value_of(join(broker, "ann").enqueue("", body, recipient=recipient))


def test_mail_that_is_not_acknowledged_in_time_comes_again(broker, bob):
    send(broker, b"1")
    broker.clock.advance(29.0)
    assert bodies(bob.session) == [b"1"]
    broker.clock.pump([1.0, 1.0])
    assert bodies(bob.session) == [b"1", b"1"]
    bob.session.answers[1].callback(True)
    bob.close()
    assert bodies(join(broker, "bob").session) == []


def test_what_a_session_had_when_it_went_is_delivered_to_the_next(broker, bob):
    send(broker, b"1")
    bob.close()
    assert bodies(join(broker, "bob").session) == [b"1"]


def test_a_coroutine_is_an_answer(broker):
    class Waiting(Session):
        async def mail(self, mail):  # type: ignore[override]
            self.got.append(mail)
            return await succeed(True)

    bob = join(broker, "bob", Waiting())
    send(broker, b"1")
    bob.close()
    assert bodies(join(broker, "bob").session) == []


def test_a_bug_in_an_answer_is_logged_and_the_message_is_kept(broker, bob, logged):
    send(broker, b"1")
    bob.session.answers[0].errback(ZeroDivisionError())
    broker.clock.advance(1.0)
    assert bodies(bob.session) == [b"1", b"1"]
    assert [type(error) for error in failures_of(logged)] == [ZeroDivisionError]


@pytest.mark.parametrize("ack", [True, False])
def test_a_job_that_is_acknowledged_is_done(broker, bob, ack):
    bob.consume("work", ack=ack)
    send(broker, b"1", "queue:work")
    bob.session.answers[0].callback(True)
    state = value_of(bob.queue_state("work"))
    assert (state.ready, state.in_flight, state.dead) == (0, 0, 0)


def test_a_job_that_is_not_acknowledged_has_failed(broker, bob):
    bob.consume("work", ack=True, lease=10.0)
    send(broker, b"1", "queue:work")
    broker.clock.advance(10.0)
    assert value_of(bob.queue_state("work")).in_flight == 0
    broker.clock.pump([0.5] * 4)
    assert [(mail.body, mail.delivery) for mail in bob.session.got] == [(b"1", 1), (b"1", 2)]


def test_a_job_that_is_declined_later_is_the_next_consumers(broker, bob):
    bob.consume("work", ack=True)
    send(broker, b"1", "queue:work")
    other = join(broker, "cid")
    other.consume("work", ack=True)
    bob.session.answers[0].callback(False)
    (mail,) = other.session.got
    assert (mail.body, mail.delivery) == (b"1", 1)
    assert isinstance(mail, Delivery)


def test_a_job_without_acknowledgement_is_given_back_when_its_session_has_not_got_it(broker, bob):
    bob.consume("work")
    send(broker, b"1", "queue:work")
    bob.close()
    other = join(broker, "cid")
    other.consume("work")
    assert bodies(other.session) == [b"1"]


def test_a_session_with_many_answers_due_is_handed_nothing_more(broker, bob):
    bob.consume("work", prefetch=1000)
    for _ in range(MAX_AWAITED + 10):
        send(broker, b"1", "queue:work")
    assert len(bob.session.got) == MAX_AWAITED
    for answer in bob.session.answers[: MAX_AWAITED // 2 + 1]:
        answer.callback(True)
    assert len(bob.session.got) == MAX_AWAITED + 10


def test_nothing_is_awaited_of_a_session_that_has_gone(broker, bob):
    answers = bob.session.answers
    bob.consume("work", ack=True)
    send(broker, b"1", "queue:work")
    send(broker, b"2")
    bob.close()
    assert [answer.called for answer in answers] == [True, True]
