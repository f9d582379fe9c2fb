"""Where subscriptions begin: in which topics, after which events, and what is lost of what they ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from broker.core.pages import first_id
from broker.errors import Invalid, TooLarge
from broker.interfaces import IStore
from broker.messages import EPOCH, NEW, RETENTION, START, Loss, Origin, Position, Start
from broker.patterns import CONTROL_PREFIX, LOG_PREFIX, is_pattern, literal_beginning, matches

MAX_TOPICS = 100  # whose events one pattern may ask for from a position
LOGS_AT_ONCE = 1000  # names that are looked through
MAX_LOGS = 100_000  # of them, for one pattern

Place: TypeAlias = "Position | str"  # where one topic is begun: a position, START or NEW
PlaceOf: TypeAlias = Callable[[str], Awaitable[Place]]  # that of a topic


async def places_of(store: IStore, topic: str, origin: Origin | PlaceOf, *, exact: bool) -> list[tuple[str, Place]]:
    """Return the topics that *topic* stands for, a name or a pattern, each with where *origin* begins it.

    Raises:
        Invalid: *origin* does not fit the topic.
        TooLarge: a pattern matches too many topics.
    """
    if exact or not is_pattern(topic):
        if isinstance(origin, Mapping):
            raise Invalid("from", topic, message=f"from has a position for each topic, and {topic} is one topic")
        return [(topic, await origin(topic) if callable(origin) else origin)]
    if isinstance(origin, Position):
        raise Invalid("from", topic, message=f"from is a position of one topic, and {topic} is a pattern")
    topics = await _topics_of(store, topic)
    if callable(origin):
        return [(each, await origin(each)) for each in topics]
    if isinstance(origin, str):
        return [(each, origin) for each in topics]
    for each in origin:
        if not matches(topic, each) or each.startswith(CONTROL_PREFIX):
            raise Invalid("from", each, message=f"from names {each}, which {topic} does not match")
    every = dict.fromkeys([*topics, *origin])
    if len(every) > MAX_TOPICS:
        raise TooLarge("topics", topic)
    return [(each, origin.get(each, START)) for each in every]


async def _topics_of(store: IStore, pattern: str) -> list[str]:
    """Return the stored topics that *pattern* matches, as far as clients may read them.

    Raises:
        TooLarge: there are more than ``MAX_TOPICS``, or far too many whose names begin alike.
    """
    prefix, last = LOG_PREFIX + literal_beginning(pattern), ""
    found: list[str] = []
    for _ in range(0, MAX_LOGS, LOGS_AT_ONCE):
        names = await store.logs(prefix, last, LOGS_AT_ONCE)
        topics = (name.removeprefix(LOG_PREFIX) for name in names)
        found += [each for each in topics if matches(pattern, each) and not each.startswith(CONTROL_PREFIX)]
        if len(found) > MAX_TOPICS:
            break
        if len(names) < LOGS_AT_ONCE:
            return found
        last = names[-1]
    raise TooLarge("topics", pattern)


async def start_of(store: IStore, topic: str, place: Place) -> tuple[Start, int]:
    """Return where *topic* begins that is to be followed from *place* on, and its newest id.

    Raises:
        Invalid: the position is beyond the newest event.
    """
    log, epoch = LOG_PREFIX + topic, store.epoch
    head = await store.head(log)
    if place == NEW:
        return Start(topic, Position(epoch, head)), head
    if isinstance(place, Position) and place.epoch == epoch:
        if place.id > head:
            raise Invalid("from", topic, message=f"from is beyond the newest event of {topic}, {head}")
        following = await store.read(log, place.id, 1) if place.id < head else []
        if place.id == head or (following and following[0].id == place.id + 1):
            return Start(topic, place), head
    first = await first_id(store, log)
    start = Position(epoch, first - 1)
    if not isinstance(place, Position):
        return Start(topic, start), head
    if place.epoch != epoch:
        return Start(topic, start, Loss(topic, place.epoch, place.id + 1, None, EPOCH)), head
    if first <= place.id + 1:  # what was to follow has come meanwhile
        return Start(topic, place), head
    return Start(topic, start, Loss(topic, epoch, place.id + 1, first - 1, RETENTION)), head
