"""A number that is infinite as a double gets in by no dialect; any other passes as it is written."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs, member
from tests.protocols.owlmeans_emulator import HOLD


@pytest.mark.parametrize("number", ["1e309", "-1E+309", "9" * 309, "1" + "0" * 400])
@pytest_twisted.ensureDeferred
async def test_infinite_number_is_refused_by_each(shared_daemon, join, number):
    listener, owl = await join(OwlMeans), await join(OwlMeans)
    thin, hpkv, micro = await join(ThinWs), await join(Hpkv), await join(MicroStream, "counter")
    listener.emulator.perform("numbers.take", lambda *_: HOLD)
    await listener.ask("broker.register", "numbers.take")
    await listener.subscribe("numbers")
    await thin.enter("numbers")
    body = f'{{"deep":[{number}]}}'

    owl.notify("numbers", body)
    assert "malformed:payload" in await owl.next("system")
    assert "malformed:payload" in await owl.call("numbers.take", body)
    said = f'{{"clientId":"w","secret":"any","channel":"numbers","from":"f","type":"T","data":{body}}}'
    assert (await Ganomede(shared_daemon).post_raw(said.encode())).status == 400
    thin.say(f'{{"messageID":1,"type":"message","roomID":"numbers","message":{body}}}')
    assert json.loads(await thin.next("reply"))["type"] == "error"
    hpkv.say(f'{{"op":6,"key":"numbers","value":{number},"messageId":1}}')
    assert json.loads(await hpkv.next("answer"))["code"] == 400
    assert (await micro.error("numbers", "take", body))["code"] == "INVALID_REQUEST"

    await thin.send("numbers", '"the first that arrives"')
    assert member(await listener.event(), "payload") == '"the first that arrives"'
    assert listener.count("call") == 0


@pytest.mark.parametrize("number", ["1e308", "9" * 308, "-17976931348623157" + "0" * 292, "1E-999", '"1e999"'])
@pytest_twisted.ensureDeferred
async def test_any_other_number_passes_as_it_is_written(shared_daemon, join, number):
    listener, owl, thin = await join(OwlMeans), await join(OwlMeans), await join(ThinWs)
    await listener.subscribe("numbers.fine")
    await thin.enter("numbers.fine")
    for publish in (
        lambda: owl.notify("numbers.fine", number),
        lambda: thin.send("numbers.fine", number),
        lambda: Ganomede(shared_daemon).post("numbers.fine", f"[{number}]"),
    ):
        waiting = publish()
        if waiting is not None:
            await waiting
        assert member(await listener.event(), "payload").strip("[]") == number
