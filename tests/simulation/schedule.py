"""What happens in a run: a list of steps, of which any may be left out."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs

NODES = (2, 3)
CLIENTS = (4, 7)
ACTIVE = 12.0  # seconds in which clients and faults are at work
START_STEP = 0.01  # seconds between the starts of two nodes
FIRST = 1.5  # seconds until the nodes have found each other
TOPICS = ("durable.a", "durable.b")
LIVE = ("live.a", "live.b")
NAMES = ("svc.one", "svc.two")
SHARED = ("pool.one",)
BALANCED = ("pool.balanced",)
LIMITED = ("pool.limited",)
STREAMS = ("feed",)
QUEUES = ("queue:work",)
ROOMS = ("durable.room", "room")
PRESENT = ("chat.a", "chat.b")
KEYS = ("counter",)
LEFT = "durable.left"  # the topic of testaments
KINDS = ({"commands"}, {"subscriber"}, {"commands", "subscriber"})
ALL = {"commands", "subscriber"}


@attrs.frozen
class Step:
    """One thing that happens.

    Attributes:
        at: seconds since the start.
        actor: "n0" for a node, "c0" for a client, "redis".
        what: a method of ``Run`` for faults, of ``Client`` for clients.
    """

    at: float
    actor: str
    what: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:7.3f} {self.actor:6} {self.what} {' '.join(map(str, self.arguments))}"


@attrs.frozen
class Schedule:
    """How many there are, and what they do.

    Attributes:
        faults: whether the store may lose what it has acknowledged ("wipe", "back").
    """

    seed: int
    nodes: int
    clients: int
    steps: tuple[Step, ...]


SETUP = (
    ("observe", TOPICS, 4),
    ("observe", LIVE, 2),
    ("observe", ("durable.*", "durable.>", "live.*"), 2),
    ("read", TOPICS, 3),
    ("perform", NAMES, 4),
    ("share", SHARED, 2),
    ("take", STREAMS, 2),
    ("consume", ("work",), 2),
    ("join", ROOMS, 2),
    ("watch", ("watched.x", "watched.*"), 2),
    ("observe", ("kv/*", "kv/watched.x"), 1),
)
WORK = (
    ("post", TOPICS, 9),
    ("publish", LIVE, 4),
    ("call", NAMES, 6),
    ("call", SHARED, 3),
    ("stream", STREAMS, 3),
    ("enqueue", QUEUES, 4),
    ("enqueue", (), 3),
    ("increment", KEYS, 3),
    ("set", ("watched.x",), 1),
    ("perform", NAMES, 2),
    ("release", NAMES, 1),
    ("join", ROOMS, 1),
    ("part", ROOMS, 1),
    ("observe", TOPICS, 1),
    ("publish", ROOMS, 2),
)
BURSTS = {"post", "publish", "enqueue"}
FAULTS = (
    ("cut", 4),
    ("reset", 5),
    ("lag", 3),
    ("flaky", 1),
    ("stall", 1),
    ("lossy", 1),
    ("freeze", 4),
    ("crash", 3),
    ("stop", 1),
    ("hang", 2),
    ("down", 2),
    ("wipe", 1),
    ("back", 1),
    ("leave", 3),
)


LENGTHS = (0.2, 1.0, 3.0, 6.0, 8.0)  # seconds of a fault, about
FRESH = tuple(f"durable.{letter}" for letter in "cdefgh")  # of which nothing may have been seen


@attrs.frozen
class Theme:
    """What runs are about.

    Attributes:
        likelier: how much likelier than otherwise each kind is.
        setup, work: what clients do besides.
        faults: how many there are: one of these.
        lengths: seconds of a fault, about.
        within: seconds after the beginning of a fault from which on clients do all their work, until it ends.
        caught: whether much is on its way when a fault begins.
        late: whether a node reaches Redis only some seconds after its start.
        bursts: what is often done several times, one right after the other.
    """

    likelier: dict[str, float] = attrs.field(factory=dict)
    setup: tuple[tuple[Any, ...], ...] = ()
    work: tuple[tuple[Any, ...], ...] = ()
    faults: tuple[int, ...] = (0, 1, 1, 2, 2, 3, 4, 6)
    lengths: tuple[float, ...] = LENGTHS
    within: float | None = None
    bursts: set[str] = BURSTS
    caught: bool = False
    late: bool = False


THEMES = {
    "anything": Theme(),
    "names": Theme(
        {"perform": 12, "release": 2, "call": 4, "freeze": 4, "cut": 3, "reset": 3, "crash": 2},
        work=(("mute", (1.0, 4.0), 12),),
        lengths=(1.0, 6.0, 8.0),
    ),
    "calls": Theme({"call": 5, "stream": 6, "share": 3, "take": 3, "perform": 2, "freeze": 2, "cut": 2, "crash": 2}),
    "topics": Theme({"post": 4, "observe": 3, "read": 2, "reset": 3, "cut": 2}),
    "mail": Theme({"enqueue": 8, "consume": 3, "leave": 3, "lag": 2, "crash": 2}),
    # A lease ends, others claim the names, and calls come at that moment.
    "lapse": Theme(
        {"perform": 9, "call": 6, "share": 2, "freeze": 20, "cut": 20}, faults=(1, 1, 2), lengths=(8.0, 9.0), within=4.5
    ),
    # What nodes tell each other is lost on the way, or nobody knows.
    "frames": Theme(
        {"call": 6, "stream": 12, "share": 5, "take": 8, "perform": 3, "flaky": 40, "lossy": 60},
        faults=(1, 2, 2, 3),
        lengths=(1.0, 1.5, 3.0),
        within=0.0,
        bursts=BURSTS | {"call", "stream"},
    ),
    # What nodes ask Redis comes there much later, when they have asked again.
    "stalls": Theme(
        {"perform": 6, "release": 6, "leave": 4, "stall": 90},
        work=(("share", SHARED, 12), ("release", SHARED, 6)),
        faults=(1, 1, 2, 3),
        lengths=(7.0, 8.0),
        caught=True,
    ),
    # Nodes ask for jobs and renew their leases by connections that are given up, and are asked for what was there.
    "late": Theme(
        {"consume": 30, "enqueue": 20, "perform": 4, "call": 3, "stall": 90},
        setup=(("toil", ("work",), 10),),
        work=(("enqueue", QUEUES, 20),),
        faults=(1, 2, 2, 3),
        lengths=(5.2, 6.0, 8.0),
        caught=True,
    ),
    # What is posted comes before, between and after subscriptions that begin or are lost.
    "seams": Theme(
        {"reset": 15, "flaky": 10, "lag": 10},
        setup=(("observe", FRESH, 30),),
        work=(("post", FRESH, 60), ("observe", FRESH, 20)),
        faults=(1, 2, 3, 4),
        lengths=(0.2, 1.0, 3.0),
    ),
    # Clients come to topics and go, also with their nodes, and others are told.
    "presence": Theme(
        {"leave": 10, "crash": 4, "freeze": 3, "cut": 3},
        setup=(("enter", PRESENT, 25), ("attend", PRESENT, 25)),
        work=(("enter", PRESENT, 30), ("exit", PRESENT, 20), ("attend", PRESENT, 5)),
    ),
    # Redis is away for longer than the leases, while jobs are under way that take long, and sessions leave testaments.
    "outage": Theme(
        {"consume": 0.1, "observe": 0.5, "enqueue": 2, "down": 60, "hang": 20, "leave": 5, "crash": 4},
        setup=(("toil", ("work",), 60), ("bequeath", (LEFT,), 60)),
        work=(("enqueue", QUEUES, 40), ("bequeath", (LEFT,), 20)),
        faults=(1, 1, 2),
        lengths=(6.0, 8.0),
    ),
    "jobs": Theme({"consume": 20, "enqueue": 15}, faults=(0, 0, 1)),
    # Nodes end while their workers, and those of others, have jobs.
    "workers": Theme({"consume": 20, "enqueue": 30, "crash": 60, "stop": 20}, faults=(1, 1, 2)),
    "back": Theme({"back": 40, "wipe": 15, "perform": 8, "call": 5, "release": 4, "crash": 2}, faults=(1, 2, 3)),
    "shared": Theme(
        {"share": 5, "consume": 2, "leave": 8}, work=(("release", SHARED, 3), ("share", SHARED, 3)), faults=(0, 0, 1)
    ),
    # Nodes are asked how busy they are, calls wait for a performer, and are taken back.
    "load": Theme(
        {"call": 3, "flaky": 3, "lossy": 3},
        setup=(("balance", BALANCED, 12), ("limit", LIMITED, 12)),
        work=(
            *(("call", BALANCED, 30), ("call", LIMITED, 40), ("cancel", (), 25), ("release", BALANCED + LIMITED, 4)),
            *(("balance", BALANCED, 4), ("limit", LIMITED, 4)),
        ),
        bursts=BURSTS | {"call"},
    ),
    # Nodes of callees end, while all else goes on.
    "ends": Theme(
        {"call": 12, "perform": 4, "share": 4, "crash": 40, "freeze": 40}, faults=(1, 1, 2), lengths=(8.0, 9.0)
    ),
    # Clients are at a node that has not reached Redis yet.
    "contact": Theme({"observe": 3, "watch": 3, "set": 6}, faults=(0, 0, 1), late=True),
}


def make_schedule(seed: int, theme: str = "") -> Schedule:
    """Return what happens in the run of *seed*, with the *theme* of that name, or the one that the seed chooses."""
    chance = Random(f"schedule {seed} {theme}")
    about = THEMES[theme or chance.choice(list(THEMES))]
    nodes, clients = chance.randint(*NODES), chance.randint(*CLIENTS)
    faults = [
        _fault(chance, about, nodes, clients, FIRST + 1 + (ACTIVE - 3) * chance.random() ** 2)
        for _ in range(chance.choice(about.faults))
    ]
    if about.late:
        number = chance.randrange(nodes)
        faults.append(Step(START_STEP * number, f"n{number}", "cut", ("commands subscriber", 2 + 5 * chance.random())))
    steps = list(faults)
    for _ in range(chance.randint(8, 16)):
        steps.append(_client_step(chance, about, clients, SETUP + about.setup, FIRST + chance.random()))
    for _ in range(chance.randint(15, 45)):
        step = _client_step(chance, about, clients, WORK + about.work, _moment(chance, about, faults))
        for _ in range(chance.choice((1, 1, 2, 4)) if step.what in about.bursts else 1):
            steps.append(step)
            step = attrs.evolve(step, at=step.at + 0.2 * chance.random())
    return Schedule(seed, nodes, clients, tuple(sorted(steps, key=lambda step: step.at)))


def _moment(chance: Random, theme: Theme, faults: list[Step]) -> float:
    """Return when a client does something: often at the beginning or at the end of a fault."""
    if not faults or chance.random() < 0.5:
        return FIRST + 0.5 + (ACTIVE - 2) * chance.random()
    fault = chance.choice(faults)
    at = fault.at
    if theme.caught and chance.random() < 0.5:
        return at - 0.0005 * chance.random()
    lasts = [word for word in fault.arguments if type(word) is float]
    if lasts and theme.within is not None and lasts[0] > theme.within:
        at += theme.within + (lasts[0] + 0.2 - theme.within) * chance.random()
        return min(ACTIVE, at)
    if lasts and chance.random() < 0.5:
        at += lasts[0]
    return min(ACTIVE, max(FIRST, at + chance.choice((0.01, 0.3, 1.0)) * (chance.random() - 0.3)))


def _weighted(chance: Random, theme: Theme, table: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    return chance.choices(table, [row[-1] * theme.likelier.get(row[0], 1) for row in table])[0]


def _client_step(chance: Random, theme: Theme, clients: int, table: tuple[tuple[Any, ...], ...], at: float) -> Step:
    what, names, _ = _weighted(chance, theme, table)
    name = chance.choice(names) if names else f"c{chance.randrange(clients)}"
    arguments: tuple[Any, ...] = (name,)
    if what == "call":
        # What waits for a performer that never answers would wait for ever.
        arguments = (name, chance.choice((1.0, 3.0) if name in LIMITED else (0.0, 1.0, 3.0)))
    elif what == "perform":
        arguments = (name, chance.random() < 0.3)
    return Step(at, f"c{chance.randrange(clients)}", what, arguments)


def _fault(chance: Random, theme: Theme, nodes: int, clients: int, at: float) -> Step:
    what = _weighted(chance, theme, FAULTS)[0]
    node = f"n{chance.randrange(nodes)}"
    seconds = round(chance.choice(theme.lengths) * (0.7 + 0.6 * chance.random()), 3)
    if what in ("cut", "reset"):
        kinds = " ".join(sorted(chance.choice(KINDS)))
        return Step(at, node, what, (kinds, seconds) if what == "cut" else (kinds,))
    if what == "stall":
        return Step(at, node, what, (" ".join(sorted(chance.choice(KINDS))), seconds))
    if what == "lossy":
        return Step(at, node, what, (seconds, chance.choice((0.1, 0.3))))
    if what == "flaky":
        return Step(at, node, what, (" ".join(sorted(chance.choice(KINDS))), seconds, chance.choice((0.0, 0.1, 0.3))))
    if what == "lag":
        return Step(at, node, what, (chance.choice((0.05, 0.3, 1.0)), seconds))
    if what == "freeze":
        return Step(at, node, what, (seconds, chance.random() < 0.5))
    if what == "crash":
        return Step(at, node, what, (chance.random() < 0.5, seconds))
    if what == "stop":
        return Step(at, node, what, (seconds,))
    if what == "leave":
        return Step(at, f"c{chance.randrange(clients)}", what)
    if what == "back":
        return Step(at, "redis", what, (seconds, round(2 * chance.random(), 3)))
    return Step(at, "redis", what, (seconds,))
