"""Tests of the dialect of lines over TCP; run them with pytest."""

from lines import dialect as lines
from telnet import dialect

from broker.testing import connect, make_broker


def test_lines_are_found_wherever_the_network_cuts_them():
    broker = make_broker()
    ann, bob = connect(broker, dialect(None)), connect(broker, dialect(None))
    assert bob.say(b"SUB ne") == []
    assert bob.say(b"ws\nSUB more\n") == [b"OK\n", b"OK\n"]
    assert ann.say('PUB news {"a":\r1}\n') == [b"OK\n"]
    assert bob.link.take() == [b'EVENT news {"a":\r1}\n']


def test_a_client_must_show_the_secret():
    client = connect(make_broker(api_secret="s"), dialect(None))
    assert client.say("SUB news\n") == [b"ERR UNAUTHENTICATED subscribe\n"]
    assert client.say("AUTH s\nSUB news\n") == [b"OK\n", b"OK\n"]


def test_an_event_of_another_dialect_arrives():
    broker = make_broker()
    client = connect(broker, dialect(None))
    client.say("SUB news\n")
    connect(broker, lines(None)).say("PUB news [1,\n2]")
    assert client.link.take() == [b"EVENT news [1, 2]\n"]


def test_nothing_behind_the_last_line_is_done():
    client = connect(make_broker(), dialect(None))
    assert client.say("QUIT\nSUB news\n") == []
    assert client.link.closed is not None
