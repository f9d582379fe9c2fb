"""All that a running daemon knows clients by is replaced at once, while they are connected and events flow."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import attrs
import jwt
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.ssl import Certificate, optionsForClientTLS

from tests.support.daemon import Daemon
from tests.support.eventually import eventually
from tests.support.ws_client import WebSocket, ws_connect
from tests.web.net.test_certificates import ROOT, write

SECRETS = ("the-secret-of-before", "the-secret-of-today")
KEYS = {"kept": "the-key-that-stays", "gone": "the-key-that-goes", "new": "the-key-that-comes"}
SIGNERS = {"old": ec.generate_private_key(ec.SECP256R1()), "new": ec.generate_private_key(ec.SECP256R1())}
AT_ONCE = 20  # connections that are opened together
EVENTS = 30  # published before, while and after each reload
EVERYTHING = "".join(f'[default.{verb}]\nallow = [">"]\n' for verb in ("publish", "subscribe", "read", "call"))
CLOSED = EVERYTHING + '[key.kept.subscribe]\nallow = [">"]\ndeny = ["closed.>"]\n'


@attrs.define
class Rotation:
    """The files of a daemon, and the clients of it.

    Attributes:
        published: how many events there were.
    """

    directory: Path
    clients: list[WebSocket] = attrs.field(factory=list)
    published: int = 0

    def write(self, names: str, secrets: tuple[str, ...], signers: str, permissions: str, *hosts: str) -> None:
        """Write all files anew: which keys there are, which secrets, who signs, what is permitted, and TLS."""
        files = write(self.directory, "localhost", *hosts)
        public = [
            ECAlgorithm.to_jwk(SIGNERS[name].public_key(), as_dict=True) | {"kid": name} for name in signers.split()
        ]
        (self.directory / "jwks.json").write_text(json.dumps({"keys": public}))
        (self.directory / "permissions.toml").write_text(permissions)
        said = {
            "API_SECRET": secrets[0],
            "API_SECRET_PREVIOUS": " ".join(secrets[1:]),
            "API_KEYS": '"' + " ".join(f"{name}:{KEYS[name]}" for name in names.split()) + '"',
            "JWKS_FILE": self.directory / "jwks.json",
            "PERMISSIONS_FILE": self.directory / "permissions.toml",
            "TLS_CERTIFICATE_FILE": files.certificate,
            "TLS_KEY_FILE": files.key,
        }
        lines = [f"TXBROKER_{name}={value}\n" for name, value in said.items()]
        (self.directory / "settings").write_text("".join(lines))

    async def connect(self, daemon: Daemon, credential: str, topic: str = "news") -> WebSocket:
        """Connect by TLS, and subscribe to *topic*."""
        trust = optionsForClientTLS("localhost", Certificate.loadPEM(ROOT.cert_pem.bytes()))
        url = f"wss://localhost:{daemon.port}/owlmeans?token={credential}"
        socket = await ws_connect(url, tls=trust)
        socket.send_json(
            {"type": "call", "id": "1", "method": "broker.subscribe", "payload": [topic], "timeout": 60000}
        )
        assert (await socket.receive_json())["type"] == "result"
        return socket

    async def connect_all(self, daemon: Daemon, credentials: list[str]) -> None:
        """Connect one client by each of *credentials*."""
        for first in range(0, len(credentials), AT_ONCE):
            some = [Deferred.fromCoroutine(self.connect(daemon, one)) for one in credentials[first : first + AT_ONCE]]
            self.clients += await gatherResults(some)

    def publish(self, publisher: WebSocket) -> None:
        """Publish some events."""
        for _ in range(EVENTS):
            self.published += 1
            publisher.send_json({"type": "event", "event": "news", "payload": self.published})

    async def check(self) -> None:
        """Check that all clients are there, and got all events, each once and in order."""
        await eventually(lambda: all(len(client.waiting) >= self.published for client in self.clients))
        for client in self.clients:
            assert [json.loads(event)["payload"] for event in client.waiting] == list(range(1, self.published + 1))


def token(signer: str) -> str:
    return jwt.encode({"sub": "ann", "exp": 4e9}, SIGNERS[signer], "ES256", headers={"kid": signer})


@pytest_twisted.ensureDeferred
async def test_all_that_clients_are_known_by_is_rotated_under_them(
    start_daemon: Any, short_path: Path, soak: bool
) -> None:
    rotation = Rotation(short_path)
    rotation.write("kept gone", SECRETS[:1], "old", EVERYTHING)
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="owlmeans", TXBROKER_SETTINGS_FILE=str(short_path / "settings"), TXBROKER_RATE="0"
    )
    credentials = [SECRETS[0], KEYS["kept"], token("old")]
    await rotation.connect_all(daemon, credentials * (167 if soak else 4))
    losing = [await rotation.connect(daemon, *who) for who in ((KEYS["gone"],), (KEYS["kept"], "closed.room"))]
    publisher = await rotation.connect(daemon, SECRETS[0], "nothing")
    rotation.publish(publisher)
    rotation.write("kept new", SECRETS[::-1], "old new", CLOSED, "renewed.example")
    daemon.program.signal(signal.SIGHUP)
    rotation.publish(publisher)
    told = await daemon.program.line(lambda line: "reloaded: " in line)
    rotation.publish(publisher)
    for name in ("API_SECRET", "API_SECRET_PREVIOUS", "JWKS_FILE", "PERMISSIONS_FILE"):
        assert f"TXBROKER_{name}" in told
    assert "TXBROKER_API_KEYS (new: new; removed: gone)" in told
    assert "clients disconnected: 2" in told
    assert "fullchain.pem" in told
    ends = [await socket.closed() for socket in losing]
    assert [code for code, _ in ends] == [1008, 1008]
    assert ["withdrawn" in words for _, words in ends] == [True, True]
    await rotation.check()
    for credential in (*SECRETS, KEYS["kept"], KEYS["new"], token("old"), token("new")):
        (await rotation.connect(daemon, credential)).abort()
    assert not any(word in line for line in daemon.output for word in (*SECRETS, *KEYS.values()))
    for client in (publisher, *rotation.clients):
        client.abort()
