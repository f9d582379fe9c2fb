"""A program that adds jobs, ``add``, or that forks a worker for each line that it reads; they are made to be killed.

Workers ``work`` over the native dialect, or ``claim`` jobs by HTTP.  Each writes a line for each thing it does at
once, with its process ID: ``start``, ``done`` (the broker has answered) and ``lost`` (the connection has
ended) with job and delivery.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

RETRY = 0.05  # seconds
POISON = "poison"


def say(what: str, *words: object) -> None:
    """Write a line that is out before the next thing is done."""
    print(os.getpid(), what, *words, flush=True)


def call(ref: str, method: str, *arguments: Any) -> str:
    return json.dumps({"type": "call", "id": ref, "method": f"broker.{method}", "payload": arguments})


def connections(urls: list[str]) -> Iterator[ClientConnection]:
    """Yield a connection to one of *urls* whenever the one before has ended."""
    while True:
        try:
            with connect(random.choice(urls), open_timeout=5, compression=None) as connection:
                yield connection
        except (OSError, WebSocketException):
            time.sleep(RETRY)


def add(urls: list[str], queue: str, count: int, poison: int) -> None:
    """Add *count* jobs, each with a key, until all were answered; every *poison*-th of them fails for ever."""
    left = list(range(count))
    for connection in connections(urls):
        try:
            while left:
                some = left[:50]
                for number in some:
                    job = [number, POISON if number % poison == 0 else ""]
                    connection.send(call(str(number), "enqueue", queue, job, {"key": f"job-{number}"}))
                answered = {json.loads(connection.recv(timeout=10))["id"]: True for _ in some}
                left = [number for number in left if str(number) not in answered]
        except (OSError, WebSocketException):
            continue
        say("added", count)
        return


def work(urls: list[str], queue: str, lease: float, seconds: float) -> None:
    """Do jobs, each of which takes up to *seconds*, until killed."""
    for connection in connections(urls):
        doing: set[str] = set()
        try:
            connection.send(call("consume", "consume", queue, {"ack": True, "prefetch": 3, "lease": lease}))
            while True:
                frame = json.loads(connection.recv())
                if frame["type"] == "message":
                    _do(connection, frame, doing, seconds)
                elif frame["type"] == "result" and frame["id"] in doing:
                    doing.discard(frame["id"])
                    say("done", *frame["id"].split())
        except (OSError, WebSocketException):
            for each in doing:
                say("lost", *each.split())


def fork_workers(work: Callable[..., None], *words: Any) -> None:
    """Fork one that does *work*, for each line of the input; they are a process group with this."""
    os.setpgrp()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        if not os.fork():
            random.seed()
            work(*words)


def claim(urls: list[str], queue: str, lease: float, seconds: float) -> None:
    """Do jobs that are claimed over the HTTP API, each of which takes up to *seconds*, until killed."""
    while True:
        try:
            status, jobs = _post(urls, f"{queue}/claim?wait=5&lease={lease}")
            for job in jobs if status == 200 else ():
                _do_claimed(urls, queue, job, seconds)
        except (OSError, http.client.HTTPException):
            time.sleep(RETRY)


def _post(urls: list[str], path: str, body: str = "") -> tuple[int, Any]:
    node = http.client.HTTPConnection(urlsplit(random.choice(urls)).netloc, timeout=20)
    try:
        node.request("POST", f"/v1/queues/{path}", body)
        response = node.getresponse()
        return response.status, json.loads(response.read())
    finally:
        node.close()


def _do_claimed(urls: list[str], queue: str, job: dict[str, Any], seconds: float) -> None:
    number, kind = job["payload"]
    say("start", number, job["delivery"])
    time.sleep(random.random() * seconds)
    failure = json.dumps({"reason": "it is poison", "delay": 0.05})
    end, body = ("fail", failure) if kind == POISON else ("done", "")
    status = 0
    while status not in (200, 404):
        try:
            status, _ = _post(urls, f"{queue}/jobs/{job['id']}/{end}", body)
        except (OSError, http.client.HTTPException):
            time.sleep(RETRY)
    if end == "done":
        say("done" if status == 200 else "lost", number, job["delivery"])


def _do(connection: ClientConnection, frame: dict[str, Any], doing: set[str], seconds: float) -> None:
    number, kind = frame["payload"]
    ref = f"{number} {frame['delivery']}"
    doing.add(ref)
    say("start", ref)
    time.sleep(random.random() * seconds)
    if kind == POISON:
        doing.discard(ref)
        connection.send(call("fail", "fail", frame["id"], {"reason": "it is poison", "delay": 0.05}))
    else:
        connection.send(call(ref, "done", frame["id"]))


if __name__ == "__main__":
    role, urls, queue, first, second = sys.argv[1:]
    if role == "add":
        add(urls.split(","), queue, int(first), int(second))
    else:
        fork_workers({"work": work, "claim": claim}[role], urls.split(","), queue, float(first), float(second))
