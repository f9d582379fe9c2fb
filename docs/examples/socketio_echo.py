"""The servers that the official suites of Engine.IO and Socket.IO test, as two dialects."""

from typing import Any

from twisted.internet import reactor

from protocols.microstream import Connect, Emit, Server, Session, SocketSession, server_options


class Echo(Session):
    """Engine.IO: every message comes back."""

    def on_message(self, data: bytes, binary: bool) -> None:
        self.send([(data, binary)])


class Events(SocketSession):
    """Socket.IO: a client is sent its CONNECT payload, and its events come back."""

    connect_timeout = 1.0  # seconds

    def on_connect(self, connect: Connect) -> None:
        if connect.namespace not in ("/", "/custom"):
            return super().on_connect(connect)  # "Invalid namespace"
        self.accept(connect.namespace)
        auth = b'["auth",%b]' % (connect.auth or b"{}")
        # Later: the suite does not listen yet when both come at once.
        reactor.callLater(0.015, self.emit, auth, namespace=connect.namespace)

    def on_event(self, emit: Emit) -> None:
        if emit.name == "message":
            back = b",".join([b'"message-back"', *map(bytes, emit.args)])
            self.emit(b"[%b]" % back, emit.attachments, namespace=emit.namespace)
        elif emit.name == "message-with-ack":
            self.acknowledge(emit, b"[%b]" % b",".join(map(bytes, emit.args)), emit.attachments)


def engineio(settings: Any) -> Server:
    return Server(Echo, reactor, name="engineio", path="/engine.io/", **server_options(settings))


def socketio(settings: Any) -> Server:
    return Server(Events, reactor, name="socketio", path="/socket.io/", **server_options(settings))
