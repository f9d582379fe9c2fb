"""A client in a process of its own that does nothing but read.

``python only_reads.py URL FRAME LAST`` connects, sends FRAME, says "ready" when that was answered, reads until a
message ends with LAST, and says how many bytes came before it and with what the connection had ended by then.
"""

import json
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url, frame, last = sys.argv[1:]
size, code = 0, None
with connect(url, max_size=None, compression=None, ping_interval=None) as socket:
    socket.send(frame)
    socket.recv()
    print("ready", flush=True)
    try:
        while not (message := str(socket.recv())).endswith(last):
            size += len(message)
    except ConnectionClosed as closed:
        code = closed.rcvd and closed.rcvd.code
    print(json.dumps({"bytes": size, "closed": code}), flush=True)
