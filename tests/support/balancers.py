"""Two real brokers on one Redis behind real balancers, which have the configurations of ``contrib``."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults

from tests.support.daemon import ROOT, Daemon
from tests.support.eventually import eventually
from tests.support.processes import Program
from tests.support.redis_server import RedisServer, free_port

CONTRIB = ROOT / "contrib"
NODES = 2
PROXY_LINE = "PROXY TCP4 {} 127.0.0.1 4711 443\r\n"
NGINX = """
daemon off;
pid {0}/nginx.pid;
error_log stderr warn;
worker_processes 1;
user root;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
    uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
    set_real_ip_from 127.0.0.1;
    include {0}/txbroker.conf;
}}
"""


def path_of(name: str) -> str | None:
    """Return the path of a balancer, which may stand where ordinary users do not look; None: there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class BalancedNode(Daemon):
    """A node with the same endpoints in each of its runs."""

    async def start(self, *arguments: float) -> BalancedNode:
        listen = self.environ["TXBROKER_LISTEN"]
        await super().start(*arguments)
        self.environ["TXBROKER_LISTEN"] = listen
        return self


class Balanced:
    """The nodes with HAProxy or nginx before them.

    Attributes:
        nodes: node1 and node2.
        ports: of the balancer, by what they are for: ``http``, ``https`` and ``through``, as its configuration has
            them; those that end in ``-told`` are told by the PROXY protocol which address a client has.

    Args:
        balancer: ``haproxy`` or ``nginx``.
        pem: paths of a certificate with its chain, of its key, and of both in one file.
        environ: settings of the nodes.
    """

    def __init__(self, balancer: str, pem: tuple[str, str, str], **environ: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
        self.directory.chmod(0o755)
        self.balancer = balancer
        self.redis = RedisServer(self.directory, "--appendonly", "yes", "--appendfsync", "no")
        self._pem = pem
        self._reserved = ExitStack()  # ports that nobody else gets, until they are listened on
        self.ports = {f"{name}{told}": self._port() for name in ("http", "https", "through") for told in ("", "-told")}
        self.nodes = [self._node(number, environ) for number in range(1, NODES + 1)]
        self._program: Program | None = None

    def _port(self) -> int:
        bound = self._reserved.enter_context(socket.socket())
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", free_port()))
        return int(bound.getsockname()[1])

    def _node(self, number: int, environ: Mapping[str, str]) -> BalancedNode:
        directory = self.directory / f"node{number}"
        directory.mkdir()
        self.ports |= {f"node{number}": self._port(), f"node{number}-through": self._port()}
        plain, through = self.ports[f"node{number}"], self.ports[f"node{number}-through"]
        certificate, key, _ = self._pem
        return BalancedNode(
            directory,
            **{
                "TXBROKER_NODE": f"node{number}",
                "TXBROKER_STORE": f"redis+unix://{self.redis.socket}",
                "TXBROKER_DRAIN_SECONDS": "2",
                "TXBROKER_TRUSTED_PROXIES": "127.0.0.1",
                "TXBROKER_LISTEN": f"tcp:{plain}:interface=127.0.0.1;"
                f"haproxy:ssl:{through}:interface=127.0.0.1:certKey={certificate}:privateKey={key}",
                **environ,
            },
        )

    @property
    def program(self) -> Program:
        """The balancer."""
        assert self._program is not None, "it was not started"
        return self._program

    @property
    def url(self) -> str:
        """Where clients come to."""
        return f"http://127.0.0.1:{self.ports['http']}"

    async def start(self) -> Balanced:
        """Start Redis, the nodes and the balancer; return when that has found the nodes."""
        self._reserved.close()
        await self.redis.start()
        await gatherResults([Deferred.fromCoroutine(node.start()) for node in self.nodes])
        self._program = self._start_haproxy() if self.balancer == "haproxy" else self._start_nginx()
        await eventually(self._is_up)
        return self

    def _is_up(self) -> bool:
        assert self.program.status is None, self.program.report()
        asked = (self.ports["http"], b"GET /ready HTTP/1.0\r\nHost: h\r\n\r\n")
        try:
            with socket.create_connection(("127.0.0.1", asked[0]), 1) as connection:
                connection.sendall(asked[1])
                return connection.recv(12).endswith(b" 200")
        except OSError:
            return False

    def _start_haproxy(self) -> Program:
        text, ports = (CONTRIB / "haproxy" / "haproxy.cfg").read_text(), self.ports
        text = replaced(text, "maxconn 20000", "maxconn 500")
        ssl = f"ssl crt {self._pem[2]} alpn h2,http/1.1"
        binds = {
            "    bind :80\n": [f"{ports['http']}", f"{ports['http-told']} accept-proxy"],
            "    bind :443 ssl crt /etc/haproxy/txbroker.pem alpn h2,http/1.1\n": [
                f"{ports['https']} {ssl}",
                f"{ports['https-told']} accept-proxy {ssl}",
            ],
            "    bind :8443\n": [f"{ports['through']}", f"{ports['through-told']} accept-proxy"],
        }
        for line, instead in binds.items():
            text = replaced(text, line, "".join(f"    bind 127.0.0.1:{words}\n" for words in instead))
        for number in range(1, NODES + 1):
            plain, through = ports[f"node{number}"], ports[f"node{number}-through"]
            checked = "send-proxy-v2 check port"
            text = replaced(text, f"10.0.0.{number}:8443 {checked} 8000", f"127.0.0.1:{through} {checked} {plain}")
            text = replaced(text, f"10.0.0.{number}:8000", f"127.0.0.1:{plain}")
        file = self.directory / "haproxy.cfg"
        file.write_text(text)
        return self._run(path_of("haproxy"), "-db", "-f", str(file))

    def _start_nginx(self) -> Program:
        text, ports = (CONTRIB / "nginx" / "txbroker.conf").read_text(), self.ports
        text = replaced(text, "/etc/nginx/fullchain.pem", self._pem[0])
        text = replaced(text, "/etc/nginx/privkey.pem", self._pem[1])
        for number in range(1, NODES + 1):
            text = replaced(text, f"10.0.0.{number}:8000", f"127.0.0.1:{ports[f'node{number}']}")
        text = replaced(text, "listen 80;", f"listen 127.0.0.1:{ports['http']};")
        text = replaced(text, "listen 443 ssl;", f"listen 127.0.0.1:{ports['https']} ssl;")
        told = replaced(text, f"{ports['http']};", f"{ports['http-told']} proxy_protocol;")
        told = replaced(told, f"{ports['https']} ssl;", f"{ports['https-told']} ssl proxy_protocol;")
        server = told[told.index("server {\n    listen") :].replace(
            "server {", "server { real_ip_header proxy_protocol;"
        )
        (self.directory / "txbroker.conf").write_text(text + server)
        file = self.directory / "nginx.conf"
        file.write_text(NGINX.format(self.directory))
        return self._run(path_of("nginx"), "-p", str(self.directory), "-c", str(file))

    def _run(self, *words: str | None) -> Program:
        return Program.start([word or "" for word in words], env={"PATH": "/usr/bin:/bin"}, cwd=self.directory)

    def is_up(self, node: str) -> bool:
        """Whether HAProxy sends clients to the node that is called so, by the last that it has said of that."""
        said = [line for line in self.program.lines if f"Server nodes/{node} is " in line]
        return not said or f"nodes/{node} is UP" in said[-1]

    async def end(self) -> None:
        """Stop all of it, and fail when a node had an error in its log that no test provoked."""
        self._reserved.close()
        try:
            if self._program is not None and self._program.status is None:
                self._program.signal(signal.SIGTERM)  # its workers end with it then
                await self._program.exit()
            running = [node for node in self.nodes if node.running]
            statuses = await gatherResults([Deferred.fromCoroutine(node.stop()) for node in running])
            assert set(statuses) <= {0}, self.output
        finally:
            await self.redis.kill()
            shutil.rmtree(self.directory)
        assert not [line for node in self.nodes for line in node.troubles()], self.output

    @property
    def output(self) -> str:
        """What the nodes have said."""
        return "\n".join(line for node in self.nodes for line in node.output)


def replaced(text: str, old: str, new: str) -> str:
    """Return *text* with *new* for *old*, which must be there."""
    assert old in text, f"the configuration has no {old!r} any more"
    return text.replace(old, new)
