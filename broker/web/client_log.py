"""The lines of the log that tell of clients: at debug when one has come, at info when it has gone."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from broker.web.unadmitted import UnadmittedSocket

log = Logger()


def log_came(dialect: str, address: str, peer: Any) -> None:
    """Tell that a client has come; with very many of them a second line for each would cost a tenth of its work."""
    log.debug("{dialect}: a client came from {address}", dialect=dialect, address=address, conn=peer.id)


def log_went(socket: UnadmittedSocket, code: int) -> None:
    """Tell that a client has gone, where it was, for how long, and how many bytes it has sent and received."""
    counted = (
        {} if socket.transferred is None else dict(zip(("bytes_in", "bytes_out"), socket.transferred, strict=True))
    )
    log.info(
        "{dialect}: a client of {address} went after {seconds:.3f} s, with {code}"
        + (", {bytes_in} bytes in, {bytes_out} out" if counted else ""),
        dialect=socket.dialect,
        address=socket.address,
        seconds=round(socket.seconds, 3),
        code=code,
        conn=socket.peer.id,
        identity=socket.peer.client,
        **counted,
    )
