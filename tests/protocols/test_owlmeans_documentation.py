"""The frames of docs/dialects/owlmeans.rst pass as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.protocols.owlmeans_emulator import Room

PAGE = Path(__file__).parent.parent.parent / "docs" / "dialects" / "owlmeans.rst"
FRAME = re.compile(r"^ {4}(\w+) ([<>]) (\{.*\})$", re.MULTILINE)


def comparable(frame):
    return {**frame, "dt": 0} if "dt" in frame else frame


def test_a_streamed_request_is_answered_as_the_page_shows():
    room = Room()
    links = {name: room.join(name).connected for name in "ab"}
    ids = {}  # that of a request as the page has it, and as the broker has given it
    frames = FRAME.findall(PAGE.read_text())
    assert len(frames) == 10
    for link in links.values():
        link.link.take()
    for who, direction, text in frames:
        frame = json.loads(text)
        if direction == ">":
            frame["id"] = ids.get(frame["id"], frame["id"])
            links[who].session.received(json.dumps(frame).encode(), False)
            continue
        came = json.loads(links[who].link.sent.pop(0))
        if came["type"] == "request":
            ids[frame["id"]] = came["id"]
            frame["id"] = came["id"]
        assert comparable(came) == comparable(frame)
