"""The Socket.IO example of docs/writing-a-plugin.rst, in a daemon of its own.

The cases of the two official suites are in test_microstream_wire.py; they run against its sessions too.
"""

from __future__ import annotations

import pytest_twisted

from tests.support.examples import EXAMPLES
from tests.support.http_client import get, post
from tests.support.ws_client import ws_connect


def test_the_example_is_shorter_than_fifty_lines():
    assert len((EXAMPLES / "socketio_echo.py").read_text().splitlines()) < 50


@pytest_twisted.ensureDeferred
async def test_a_daemon_serves_it_with_the_times_of_its_settings(start_daemon):
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="socketio_echo:engineio socketio_echo:socketio",
        TXBROKER_PING_SECONDS="0.3",
        TXBROKER_PONG_SECONDS="20",
        PYTHONPATH=str(EXAMPLES),
    )
    opened = await get(f"{daemon.url}/engine.io/?EIO=4&transport=polling")
    assert '"pingInterval":300,"pingTimeout":20000' in opened.text
    sid = opened.text.split('"')[3]
    session = f"{daemon.url}/engine.io/?EIO=4&transport=polling&sid={sid}"
    assert (await post(session, body=b"4hello")).text == "ok"
    assert (await get(session)).text == "4hello"
    socket = await ws_connect(daemon.ws("/socket.io/?EIO=4&transport=websocket"))
    await socket.receive()
    socket.send("40")
    assert (await socket.receive()).startswith("40{")
    assert await socket.receive() == '42["auth",{}]'
    socket.send('42["message",1]')
    assert await socket.receive() == '42["message-back",1]'
    await socket.close()
