"""The JavaScript client as a file: what the broker answers with, how large it is, and what its types declare."""

from __future__ import annotations

import json
import re

import pytest
import pytest_twisted

from broker import __version__
from tests.support.http_client import get
from tests.support.node import INTEROP

CLIENT = INTEROP.parent.parent / "clients" / "js"
MAX_SIZE = 25_000  # bytes: pages load it
DECLARED = (CLIENT / "txbroker.d.ts").read_text("utf-8")
NAMES = """
import * as txbroker from '%s';
const client = new txbroker.Client('ws://x.test', { WebSocket: class {} });
console.log(JSON.stringify([Object.keys(txbroker), Object.getOwnPropertyNames(client)]));
"""


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_PROTOCOLS": "http",
        "TXBROKER_API_SECRET": "s3cret",
        "TXBROKER_ALLOWED_ORIGINS": "http://page.test",
    }


@pytest_twisted.ensureDeferred
async def test_all_that_applications_may_use_is_declared(node, tmp_path):
    (tmp_path / "names.mjs").write_text(NAMES % (CLIENT / "txbroker.js").as_uri(), "utf-8")
    exported, members = json.loads((await node.run(str(tmp_path / "names.mjs")))[0])
    assert set(exported) == set(re.findall(r"^export class (\w+)", DECLARED, re.MULTILINE)) >= {"Client", "Conflict"}
    of_client = DECLARED.partition("export class Client {")[2].partition("\n}\n")[0]
    declared = re.findall(r"^  (?:readonly )?(\w+)(?:<.*?>)?[(:]", of_client, re.MULTILINE)
    assert set(members) == set(declared) - {"constructor"}


def test_it_stays_small():
    assert len((CLIENT / "txbroker.js").read_bytes()) < MAX_SIZE


def test_the_package_has_the_version_of_the_broker():
    assert json.loads((CLIENT / "package.json").read_text("utf-8"))["version"] == __version__


@pytest.mark.parametrize(
    ("path", "name", "kind"), [("client.js", "txbroker.js", "javascript"), ("client.d.ts", "txbroker.d.ts", "plain")]
)
@pytest_twisted.ensureDeferred
async def test_the_broker_has_it_without_a_credential_and_says_when_it_is_as_it_was(shared_daemon, path, name, kind):
    url = f"{shared_daemon.url}/v1/{path}"
    answer = await get(url)
    assert (answer.status, answer.body) == (200, (CLIENT / name).read_bytes())
    assert answer.headers["content-type"] == f"text/{kind}; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=300, must-revalidate"
    again = await get(url, headers={"If-None-Match": f"W/{answer.headers['etag']}"})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert (await get(url, headers={"If-None-Match": '"another"'})).status == 200


@pytest_twisted.ensureDeferred
async def test_pages_that_are_allowed_may_load_it_and_others_may_not(shared_daemon):
    url = f"{shared_daemon.url}/v1/client.js"
    allowed = await get(url, headers={"Origin": "http://page.test"})
    assert allowed.headers["access-control-allow-origin"] == "http://page.test"
    assert allowed.headers["vary"] == "Origin"
    assert (await get(url, headers={"Origin": "http://other.test"})).status == 403
