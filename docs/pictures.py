"""Draws the pictures of the documentation: ``python docs/pictures.py`` writes ``docs/pictures/*.svg``."""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"
INK, PALE, LINE = "#1f2933", "#5b6876", "#8996a5"
FILLS = {"client": "#e6f0fb", "broker": "#fff3d6", "stored": "#e5f5ea", "plain": "#ffffff"}
EDGES = {"client": "#4a86c5", "broker": "#c98a12", "stored": "#3f9a5f", "plain": "#8996a5"}
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


class Picture:
    """Boxes, arrows and words on a white ground; lengths are pixels."""

    def __init__(self, width: int, height: int, about: str) -> None:
        self.width, self.height, self.about = width, height, about
        self.parts: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, kind: str, title: str, *more: str) -> None:
        """Draw a box with a *title* in it, and *more* lines below that."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" '
            f'fill="{FILLS[kind]}" stroke="{EDGES[kind]}" stroke-width="1.5"/>'
        )
        top = y + height / 2 + 5 - 9 * len(more)
        self.words(x + width / 2, top, title, bold=True)
        for number, text in enumerate(more, 1):
            self.words(x + width / 2, top + 18 * number, text, size=12, colour=PALE)

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        bold: bool = False,
        size: int = 14,
        colour: str = INK,
        at: str = "middle",
    ) -> None:
        """Write *text*; ``at`` says which part of it is at *x*: its ``start``, ``middle`` or ``end``."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{at}" font-size="{size}"{weight} fill="{colour}">'
            f"{escape(text)}</text>"
        )

    def arrow(
        self, x1: int, y1: int, x2: int, y2: int, label: str = "", *, both: bool = False, dashed: bool = False
    ) -> None:
        """Draw an arrow, or one with two heads, with *label* above its middle."""
        style = ' stroke-dasharray="5 4"' if dashed else ""
        start = ' marker-start="url(#head)"' if both else ""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" stroke-width="1.8"{style}'
            f'{start} marker-end="url(#head)"/>'
        )
        if label:
            self.words((x1 + x2) / 2, (y1 + y2) / 2 - 7, label, size=12, colour=PALE)

    def svg(self) -> str:
        """Return the picture as a file."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" font-family="{FONT}">\n'
            f"<title>{escape(self.about)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{LINE}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" rx="10" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def clients() -> Picture:
    picture = Picture(760, 400, "Five kinds of clients, and any HTTP client, around one broker.")
    picture.box(
        270,
        130,
        220,
        140,
        "broker",
        "txbroker",
        "one port, one namespace:",
        "topics, calls, queues, keys",
        "SQLite inside, or Redis",
    )
    around = (
        (20, 20, "OwlMeans programs", "calls, events, mailboxes", "JSON over WebSocket", (220, 75, 285, 128)),
        (20, 160, "ganomede services", "channels with cursors", "HTTP long-poll", (220, 200, 268, 200)),
        (20, 300, "ThinWS pages", "rooms", "JSON over WebSocket", (220, 325, 285, 272)),
        (540, 20, "HPKV pages", "keys and their changes", "JSON over WebSocket", (540, 75, 475, 128)),
        (540, 160, "MicroStream services", "requests and responses", "Socket.IO", (540, 200, 492, 200)),
        (540, 300, "any HTTP client", "all of it", "HTTP, server-sent events", (540, 325, 475, 272)),
    )
    for x, y, title, what, how, line in around:
        picture.box(x, y, 200, 80, "client", title, what, how)
        picture.arrow(*line, both=True)
    picture.words(380, 300, "each in its own words,", size=12, colour=PALE)
    picture.words(380, 318, "and all see the same", size=12, colour=PALE)
    return picture


def topic() -> Picture:
    picture = Picture(640, 190, "An event that is published to a topic reaches all who have subscribed to it.")
    picture.box(20, 65, 130, 60, "client", "publisher", "HTTP")
    picture.box(255, 55, 130, 80, "broker", "topic", "orders.new")
    picture.arrow(152, 95, 253, 95, "event")
    for y, title, how in (
        (10, "subscriber", "orders.new"),
        (70, "subscriber", "orders.*"),
        (130, "member", "room orders.new"),
    ):
        picture.box(490, y, 130, 50, "client", title, how)
        picture.arrow(387, 95, 488, y + 25)
    return picture


def _log(picture: Picture, x: int, y: int, *, first: int = 1, count: int = 6) -> None:
    for number in range(count):
        picture.box(x + 52 * number, y, 46, 40, "stored", str(first + number))


def channel() -> Picture:
    picture = Picture(
        640, 150, "A channel keeps its events, numbered without a hole; each reader goes on after its own position."
    )
    picture.box(20, 45, 120, 60, "client", "publisher", "durable")
    _log(picture, 230, 55)
    picture.arrow(142, 75, 228, 75, "append")
    picture.words(225, 35, "channel orders: events with ids", at="start", size=12, colour=PALE)
    picture.words(225, 125, "old ones end by TXBROKER_RETENTION", at="start", size=12, colour=PALE)
    picture.arrow(545, 75, 620, 75, "next")
    return picture


def cursor() -> Picture:
    picture = Picture(
        640,
        190,
        "A cursor is a position that the broker remembers for a client: what is acknowledged does not come again.",
    )
    _log(picture, 160, 60)
    picture.arrow(287, 140, 287, 104)
    picture.words(287, 158, "cursor billing", bold=True)
    picture.words(287, 175, "acknowledged up to 3", size=12, colour=PALE)
    picture.words(395, 48, "still to come: 4, 5, 6", size=12, colour=PALE, at="middle")
    picture.arrow(470, 80, 520, 80)
    picture.box(522, 50, 100, 60, "client", "billing", "reads, acks")
    picture.box(20, 50, 110, 60, "client", "publisher")
    picture.arrow(132, 80, 158, 80)
    return picture


def room() -> Picture:
    picture = Picture(
        640, 190, "A room is a topic whose members the broker remembers, and all members get what one of them sends."
    )
    picture.box(250, 60, 140, 70, "broker", "room lobby", "members are stored")
    for x, y, name in ((20, 15, "ann"), (20, 125, "bob"), (500, 15, "cem"), (500, 125, "dee, away")):
        picture.box(x, y, 120, 50, "client", name)
        near = (142, y + 25, 248, 95) if x < 300 else (498, y + 25, 392, 95)
        picture.arrow(*near, both=True, dashed=name.endswith("away"))
    return picture


def key() -> Picture:
    picture = Picture(640, 180, "A key has a value and a revision; each change is an event for those who watch it.")
    picture.box(20, 60, 120, 60, "client", "writer", "set, patch, +1")
    picture.box(235, 45, 170, 90, "stored", "user:1", '{"name":"ann"}', "revision 42")
    picture.arrow(142, 90, 233, 90, "if revision 41")
    picture.box(500, 15, 120, 60, "client", "watcher", "user:*")
    picture.box(500, 105, 120, 60, "client", "subscriber", "kv/user:1")
    picture.arrow(407, 80, 498, 45, "change")
    picture.arrow(407, 100, 498, 135)
    return picture


def service() -> Picture:
    picture = Picture(
        640, 150, "A call goes through the broker to one client that performs the procedure, and its result comes back."
    )
    picture.box(20, 45, 130, 60, "client", "caller", "HTTP")
    picture.box(255, 45, 130, 60, "broker", "math.add", "one who performs it")
    picture.box(490, 45, 130, 60, "client", "service math", "Socket.IO")
    picture.arrow(152, 65, 253, 65, "call [2, 3]")
    picture.arrow(387, 65, 488, 65, "request")
    picture.arrow(488, 90, 387, 90)
    picture.arrow(253, 90, 152, 90)
    picture.words(437, 122, "response", size=12, colour=PALE)
    picture.words(202, 122, "result 5", size=12, colour=PALE)
    return picture


def queue() -> Picture:
    picture = Picture(640, 210, "A job of a queue goes to one worker; one that has failed too often is put aside.")
    picture.box(20, 40, 120, 60, "client", "producer", "enqueue")
    for number in range(3):
        picture.box(220 + 62 * number, 50, 56, 40, "stored", f"job {5 - number}")
    picture.arrow(142, 70, 218, 70)
    picture.words(312, 35, "queue mail", size=12, colour=PALE)
    for y, name in ((10, "worker 1"), (90, "worker 2")):
        picture.box(510, y, 110, 50, "client", name, "done or fail")
        picture.arrow(404, 70, 508, y + 25)
    picture.arrow(312, 94, 312, 148, dashed=True)
    picture.box(250, 150, 124, 44, "plain", "mail.dead")
    picture.words(384, 177, "after five failures, until somebody retries", size=12, colour=PALE, at="start")
    return picture


def identity() -> Picture:
    picture = Picture(
        640, 170, "A credential names a principal; the permissions of that decide, and its client ids are its own."
    )
    picture.box(20, 50, 130, 70, "client", "credential", "key, secret", "or JSON web token")
    picture.box(205, 50, 120, 70, "broker", "principal", "key:mailer")
    picture.box(380, 10, 240, 60, "plain", "permissions", "publish orders.>: yes; read audit: no")
    picture.box(380, 100, 240, 60, "plain", "client ids that are its own", "mailbox, cursors, jobs, service names")
    picture.arrow(152, 85, 203, 85)
    picture.arrow(327, 75, 378, 42)
    picture.arrow(327, 95, 378, 128)
    return picture


PICTURES = {each.__name__: each for each in (clients, topic, channel, cursor, room, key, service, queue, identity)}


if __name__ == "__main__":
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(picture().svg(), "utf-8")
