"""Schedules that have shown what was wrong, as short as they could be made."""

from __future__ import annotations

from tests.simulation.schedule import Schedule, Step

FOUND: dict[str, Schedule] = {
    "an event that came by a pattern was lost when its topic was subscribed to at that moment": Schedule(
        572,
        3,
        5,
        (
            Step(1.729, "c2", "observe", ("durable.*",)),
            Step(2.892, "redis", "hang", (0.125,)),
            Step(2.8921, "c1", "post", ("durable.b",)),
            Step(2.945, "c2", "observe", ("durable.b",)),
            Step(2.969, "c3", "post", ("durable.b",)),
        ),
    ),
    "mail for a client of a node that was frozen stayed where it was": Schedule(
        266,
        2,
        7,
        (
            Step(4.045, "n1", "freeze", (8.272, True)),
            Step(4.114, "c4", "enqueue", ("c3",)),
        ),
    ),
    "names that could not be given back while Redis was down stayed claimed": Schedule(
        71,
        3,
        4,
        (
            Step(2.647, "redis", "down", (2.684,)),
            Step(5.478, "c1", "leave"),
        ),
    ),
    "a call that had reached its deadline ended once more when its callee was not found": Schedule(
        152,
        2,
        6,
        (
            Step(2.834, "redis", "hang", (6.306,)),
            Step(2.968, "c1", "call", ("pool.one", 3.0)),
        ),
    ),
    "names that a restored state had as held, and that were given back since, stayed with their node": Schedule(
        339,
        3,
        4,
        (
            Step(8.348, "c0", "leave"),
            Step(8.95, "redis", "back", (0.159, 1.374)),
        ),
    ),
    "a lease that had ended for its node went on for the others, who sent over links that it had ended": Schedule(
        117,
        3,
        6,
        (
            Step(1.636, "c1", "consume", ("work",)),
            Step(1.727, "c4", "perform", ("svc.two", True)),
            Step(7.816, "c3", "enqueue", ("queue:work",)),
            Step(7.938, "n1", "cut", ("commands subscriber", 8.535)),
        ),
    ),
    "a node that was stopping noticed that Redis went back, and left a timer": Schedule(
        977,
        3,
        4,
        (
            Step(5.178, "redis", "back", (1.184, 1.85)),
            Step(6.116, "n2", "stop", (0.872,)),
        ),
    ),
    "an event came after a subscription was said to be in force, and before its mark was known": Schedule(
        9359,
        3,
        7,
        (
            Step(4.288, "n0", "stall", ("commands subscriber", 6.679)),
            Step(7.817, "c6", "observe", ("durable.a",)),
            Step(10.015, "c6", "post", ("durable.a",)),
        ),
    ),
    "a call to a node that had been away, and was there again when it came, counted as late": Schedule(
        2665,
        2,
        4,
        (
            Step(2.833, "n0", "freeze", (7.061, True)),
            Step(2.844, "c2", "perform", ("svc.two", True)),
            Step(10.813, "c3", "call", ("svc.two", 0.0)),
        ),
    ),
    "what only a node had seen that ended together with Redis was lost, which nobody can notice": Schedule(
        6105,
        2,
        6,
        (
            Step(2.46, "c0", "post", ("durable.b",)),
            Step(2.505, "redis", "back", (2.346, 0.674)),
            Step(2.513, "n0", "crash", (False, 4.857)),
        ),
    ),
    "names of a node that had ended stayed when the answer that said so to another was lost": Schedule(
        292,
        2,
        4,
        (
            Step(1.943, "c3", "observe", ("durable.*",)),
            Step(2.478, "c1", "observe", ("kv/watched.x",)),
            Step(3.596, "c3", "observe", ("durable.a",)),
            Step(3.621, "n1", "crash", (True, 3.784)),
            Step(5.886, "c3", "publish", ("live.b",)),
            Step(5.954, "c2", "publish", ("room",)),
            Step(5.982, "c3", "publish", ("live.b",)),
            Step(5.9998602950378555, "n0", "flaky", ("commands subscriber", 8.849, 0.1)),
        ),
    ),
    "what was stored before a node had had any contact was missed by who had subscribed there": Schedule(
        1,
        2,
        4,
        (
            Step(0.015, "n1", "cut", ("commands subscriber", 6.0)),
            Step(1.5, "c1", "observe", ("durable.a",)),
            Step(1.5, "c3", "observe", ("durable.*",)),
            Step(5.0, "c0", "post", ("durable.a",)),
            Step(5.5, "c2", "post", ("durable.b",)),
        ),
    ),
    "a name that was asked for while Redis was down was taken from its holder when the data went back": Schedule(
        20163,
        2,
        5,
        (
            Step(1.845, "c2", "perform", ("svc.two", True)),
            Step(3.336, "redis", "back", (0.2, 0.641)),
            Step(5.383, "redis", "back", (2.446, 1.999)),
            Step(5.387, "c1", "perform", ("svc.two", False)),
            Step(8.971, "c0", "call", ("svc.two", 0.0)),
        ),
    ),
    "what a node had only heard of by the bus was not compared with a Redis that went back": Schedule(
        82,
        3,
        7,
        (
            Step(2.3304181491099967, "c3", "read", ("durable.b",)),
            Step(3.3898639915141895, "c2", "post", ("durable.b",)),
            Step(3.3911124208508503, "redis", "back", (6.71, 0.503)),
        ),
    ),
    "what came from a server that a store could not look at yet was taken for something that it lacked": Schedule(
        199,
        2,
        6,
        (
            Step(2.18, "c5", "observe", ("durable.>",)),
            Step(2.622, "n1", "cut", ("commands", 8.598)),
            Step(5.141, "redis", "down", (0.213,)),
            Step(9.858, "c4", "post", ("durable.b",)),
        ),
    ),
    "a name was taken from the client of a node that was only subscribing again": Schedule(
        20148,
        3,
        4,
        (
            Step(1.765, "c1", "perform", ("svc.one", False)),
            Step(2.994, "n0", "cut", ("subscriber", 6.38)),
            Step(3.717, "n1", "flaky", ("commands subscriber", 4.879, 0.1)),
            Step(3.722, "c3", "perform", ("svc.one", True)),
            Step(6.57, "n1", "cut", ("commands", 7.885)),
            Step(8.464, "c1", "call", ("svc.one", 0.0)),
        ),
    ),
    "a key watcher heard nothing when another subscribed to the topics of keys": Schedule(
        54,
        2,
        4,
        (
            Step(1.8, "c0", "observe", ("kv/*",)),
            Step(1.9, "c2", "watch", ("watched.*",)),
        ),
    ),
    "a member that left while nodes lost and found each other stayed where his leave was not told": Schedule(
        68,
        3,
        4,
        (
            Step(1.7081298144570884, "c3", "enter", ("chat.a",)),
            Step(1.7482790700380226, "c1", "enter", ("chat.b",)),
            Step(2.889102579183353, "c3", "leave"),
        ),
    ),
    "a queue whose last consumer had gone while Redis hung was never forgotten": Schedule(
        829,
        3,
        7,
        (
            Step(1.771, "c1", "consume", ("work",)),
            Step(2.948, "c1", "leave"),
            Step(3.36, "redis", "hang", (8.07,)),
            Step(4.088, "c5", "enqueue", ("queue:work",)),
            Step(5.252, "c1", "leave"),
        ),
    ),
    "jobs were claimed for a worker by a connection that its node had given up, and nobody had them": Schedule(
        300076,
        2,
        7,
        (
            Step(1.7140301719026723, "c0", "consume", ("work",)),
            Step(2.801321923627792, "c2", "enqueue", ("queue:work",)),
            Step(2.8017041975703183, "n0", "stall", ("commands", 8.092)),
            Step(7.934058647421028, "n0", "stall", ("commands", 7.455)),
            Step(8.31596264735839, "c3", "enqueue", ("queue:work",)),
        ),
    ),
    "a name went back with the data to a node that had been cut off, and that another had by then": Schedule(
        1,
        2,
        4,
        (
            Step(1.6, "c0", "perform", ("svc.one", False)),
            Step(2.3, "n0", "stall", ("commands subscriber", 9.0)),
            Step(6.0, "c1", "perform", ("svc.one", True)),
            Step(7.9, "n1", "cut", ("commands", 1.5)),
            Step(7.95, "redis", "back", (0.2, 1.2)),
            Step(8.7, "c2", "call", ("svc.one", 1.0)),
        ),
    ),
    "a job was claimed for a worker of a node that had ended, and that the others had looked at already": Schedule(
        163,
        2,
        4,
        (
            Step(1.7, "c0", "consume", ("work",)),
            Step(2.801, "c2", "enqueue", ("queue:work",)),
            Step(2.8014, "n0", "stall", ("commands", 9.3)),
            Step(3.5, "n0", "crash", (False, 8.0)),
            Step(4.9, "c0", "leave"),
            *(Step(12 - 0.1 * number, "c1", "enqueue", ("queue:work",)) for number in range(8)),
        ),
    ),
    "a name was taken from a client for a node that had ended since the state to which Redis went back": Schedule(
        526743,
        2,
        6,
        (
            Step(1.871, "c3", "perform", ("svc.two", False)),
            Step(2.657, "n1", "crash", (False, 3.56)),
            Step(7.38, "c4", "perform", ("svc.two", False)),
            Step(7.408, "redis", "back", (0.192, 1.963)),
        ),
    ),
    "a node never heard another whose lease was lost with the data, and restored with older ones": Schedule(
        509753,
        3,
        6,
        (
            Step(2.83, "c0", "enqueue", ("queue:work",)),
            Step(2.977, "c0", "enqueue", ("queue:work",)),
            Step(5.383, "redis", "wipe", (1.01,)),
            Step(6.753, "redis", "back", (0.73, 1.049)),
        ),
    ),
    "a lock that a node left when it stopped was taken for one in force": Schedule(
        500851,
        2,
        5,
        (
            Step(2.343, "c1", "join", ("durable.room",)),
            Step(2.778, "n1", "lag", (0.3, 3.887)),
            Step(3.6, "c1", "enqueue", ("queue:work",)),
            Step(3.758, "c4", "enqueue", ("c1",)),
            Step(6.571, "n1", "stop", (9.819,)),
        ),
    ),
    "a lock that came back with older data was taken for one in force": Schedule(
        501562,
        2,
        4,
        (
            Step(2.725, "c2", "enqueue", ("c3",)),
            Step(4.118, "redis", "back", (2.778, 1.319)),
            Step(11.0, "c3", "leave"),
        ),
    ),
    "mail was lost whose ids had been delivered before the data went back": Schedule(
        1,
        2,
        4,
        (
            Step(2.0, "c2", "enqueue", ("c3",)),
            Step(3.0, "c2", "enqueue", ("c3",)),
            Step(3.9, "n1", "lag", (0.3, 3.0)),
            *(Step(4 + 0.001 * number, "c2", "enqueue", ("c3",)) for number in range(6)),
            Step(6.22, "redis", "back", (0.1, 2.5)),
        ),
    ),
    "a client left while its mail was delivered slowly, and was to get it once": Schedule(
        1,
        2,
        4,
        (
            Step(3.9, "n1", "lag", (0.6, 8.0)),
            Step(4.0, "c2", "enqueue", ("c3",)),
            Step(7.9, "c3", "leave"),
        ),
    ),
    "a lock could not be given back while Redis was away": Schedule(
        1,
        2,
        4,
        (
            Step(3.9, "n1", "lag", (0.3, 5.0)),
            Step(4.0, "c2", "enqueue", ("c3",)),
            Step(7.3, "redis", "down", (2.4,)),
        ),
    ),
    "a name was taken from a client for a node where nobody has it since the state to which Redis went back": Schedule(
        1,
        2,
        4,
        (
            Step(1.6, "c0", "perform", ("svc.one", False)),
            Step(3.0, "c0", "release", ("svc.one",)),
            Step(3.3, "c1", "perform", ("svc.one", False)),
            Step(6.6, "redis", "back", (2.0, 4.0)),
        ),
    ),
    "a name was taken for such a node after a time in which no node had a lease": Schedule(
        1,
        2,
        4,
        (
            Step(1.6, "c0", "perform", ("svc.one", False)),
            Step(3.0, "c0", "release", ("svc.one",)),
            Step(3.3, "c1", "perform", ("svc.one", False)),
            Step(3.8, "redis", "back", (7.0, 1.2)),
        ),
    ),
    "a name was taken for such a node before it had given it back again": Schedule(
        1,
        2,
        4,
        (
            Step(1.6, "c0", "perform", ("svc.one", False)),
            Step(3.0, "c0", "release", ("svc.one",)),
            Step(3.3, "c1", "perform", ("svc.one", False)),
            Step(3.8, "redis", "back", (0.3, 1.2)),
        ),
    ),
    "a name that a restored state had as held by a node was given to a newcomer there": Schedule(
        1,
        2,
        4,
        (
            Step(1.6, "c0", "perform", ("svc.one", False)),
            Step(3.0, "c0", "release", ("svc.one",)),
            Step(3.3, "c1", "perform", ("svc.one", False)),
            Step(3.75, "n1", "cut", ("commands", 3.0)),
            Step(3.8, "redis", "back", (0.3, 1.2)),
            Step(3.9, "c2", "perform", ("svc.one", False)),
            Step(4.7, "c3", "call", ("svc.one", 1.0)),
        ),
    ),
    "a name went back with older data to a node that had been cut off, and that another still had": Schedule(
        2,
        2,
        4,
        (
            Step(1.6, "c0", "perform", ("svc.one", False)),
            Step(2.3, "n0", "stall", ("commands subscriber", 9.0)),
            Step(6.0, "c1", "perform", ("svc.one", True)),
            Step(7.9, "n1", "cut", ("commands", 3.0)),
            Step(7.95, "redis", "back", (1.5, 1.2)),
            *(Step(9.7 + 0.2 * number, "c2", "call", ("svc.one", 1.0)) for number in range(6)),
        ),
    ),
}
