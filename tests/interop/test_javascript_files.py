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
EXPORT = re.compile(r"^export (?:class|const|function|async function) (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_PROTOCOLS": "http",
        "TXBROKER_API_SECRET": "s3cret",
        "TXBROKER_ALLOWED_ORIGINS": "http://page.test",
    }


def test_each_export_is_declared():
    exported = set(EXPORT.findall((CLIENT / "txbroker.js").read_text("utf-8")))
    declared = set(re.findall(r"^export class (\w+)", (CLIENT / "txbroker.d.ts").read_text("utf-8"), re.MULTILINE))
    assert exported == declared >= {"Client", "CallFailed", "Conflict"}


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
