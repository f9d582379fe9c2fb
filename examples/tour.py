"""A tour: clients of all dialects at once on one broker, and what crosses between them.

Each line shows a dialect, whether its client sends (>) or receives (<), and what stands on the wire.
"""

import asyncio
import os
from threading import Thread
from urllib.request import Request, urlopen

from websockets.asyncio.client import connect

HTTP = os.environ.get("BROKER", "http://localhost:8000")
WS = HTTP.replace("http", "ws", 1)
EVENT = '{"secret":"any","clientId":"me","channel":"tour","from":"me","type":"hello","data":{"n":1}}'
STEPS = (
    ("", "#", "All listen to the same topic."),
    ("owlmeans", ">", '{"type":"call","id":"1","method":"broker.subscribe","payload":[["tour","kv/visitors"]]}'),
    ("owlmeans", "<", '"result"'),
    ("thinws", ">", '{"messageID":1,"type":"subscribe","roomID":"tour"}'),
    ("thinws", "<", '"ack"'),
    ("http", ">", "GET /v1/topics/tour"),
    ("http", "<", "retry:"),
    ("", "#", "An event that one posts over HTTP reaches all others, each in its own words."),
    ("ganomede", ">", f"POST /events/v1/events {EVENT}"),
    ("ganomede", "<", '"id"'),
    ("owlmeans", "<", '"event":"tour"'),
    ("thinws", "<", '"roomID":"tour"'),
    ("http", "<", "data:"),
    ("", "#", "A change of a key is an event, too."),
    ("hpkv", ">", '{"op":2,"key":"visitors","value":"7","messageId":1}'),
    ("hpkv", "<", '"code":200'),
    ("owlmeans", "<", '"event":"kv/visitors"'),
    ("", "#", "A service of one dialect is called by a client of another."),
    ("microstream", ">", "40"),
    ("microstream", "<", "40{"),
    ("owlmeans", ">", '{"type":"call","id":"2","method":"guide.where","payload":[{"is":"the exit"}]}'),
    ("microstream", "<", '"request"'),
    ("microstream", ">", '42["response",{"id":"THAT ID","response":"to the left"}]'),
    ("owlmeans", "<", '"result"'),
)


class Web:
    """Requests over HTTP, as if on a connection: each line of an answer is a message."""

    def __init__(self) -> None:
        self.loop, self.lines = asyncio.get_running_loop(), asyncio.Queue[str]()
        self.recv = self.lines.get

    async def send(self, text: str) -> None:
        method, path, body = f"{text} ".split(" ", 2)
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream" if method == "GET" else "*/*"}
        request = Request(HTTP + path, body.encode(), headers, method=method)
        Thread(target=self.read, args=(request,), daemon=True).start()

    def read(self, request: Request) -> None:
        with urlopen(request, timeout=60) as answer:
            for line in answer:
                self.loop.call_soon_threadsafe(self.lines.put_nowait, line.decode().strip())


async def main() -> None:
    urls = {"owlmeans": "/v1/ws", "thinws": "/thinws", "hpkv": "/ws?apiKey=any"}
    urls["microstream"] = "/socket.io/?EIO=4&transport=websocket&serviceName=guide"
    clients = {name: await connect(WS + url) for name, url in urls.items()} | {"ganomede": Web(), "http": Web()}
    message = ""
    for dialect, sign, text in STEPS:
        if sign == ">":
            message = text.replace("THAT ID", message.partition('"id":"')[2].partition('"')[0])
            await clients[dialect].send(message)
        while sign == "<" and text not in (message := str(await asyncio.wait_for(clients[dialect].recv(), 60))):
            pass
        print(f"{dialect:11} {sign} {text if sign == '#' else message}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
