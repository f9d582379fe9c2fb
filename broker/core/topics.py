"""Subscriptions, exact names in a dict, patterns in a tree of their tokens; and delivery of what the bus brings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from broker.core.channels import Channels
from broker.core.fan_outs import FEW, FanOuts, Listener
from broker.core.keys import Keys
from broker.core.slices import Slices
from broker.core.tree import PatternTree
from broker.messages import Event
from broker.patterns import KEY_PREFIX, is_pattern


class Sampler(Protocol):
    """What decides which deliveries are timed; ``broker.observe.metrics.DeliverySampler`` does it."""

    left: int

    def delivers(self, dialect: str) -> Callable[[object], None]:
        """Begin to time the delivery of an event of *dialect*; return what is to be called at its end."""


Listeners = dict[Listener, bool]  # each with whether it gets its own events too


class Topics:
    """Delivers an event to those who subscribed to its topic.

    Args:
        listen: called with a topic or pattern that has got its first listener.
        forget: called with one that has lost its last.
        slices: in which events are delivered that very many listen to.

    Attributes:
        subscriptions: how many there are, of all listeners.
        late: delivers the events that go to very many.
    """

    def __init__(self, listen: Callable[[str], object], forget: Callable[[str], object], slices: Slices) -> None:
        self._listen, self._forget = listen, forget
        self.subscriptions = 0
        self.late = FanOuts(slices)
        self._names: dict[str, Listeners] = {}
        self._patterns: PatternTree[Listener, bool] = PatternTree()

    def __len__(self) -> int:
        return len(self._names) + self._patterns.count

    def subscribe(self, listener: Listener, topic: str, *, exact: bool = False, echo: bool = False) -> None:
        """Subscribe *listener* to *topic*; with *exact*, wildcards are ordinary characters.

        With *echo* it gets what it published itself, too.
        """
        listeners = (
            self._names.setdefault(topic, {}) if exact or not is_pattern(topic) else self._patterns.insert(topic)
        )
        first = not listeners
        self.subscriptions += listener not in listeners
        listeners[listener] = echo
        if first:
            self._listen(topic)

    def unsubscribe(self, listener: Listener, topic: str, *, exact: bool = False) -> None:
        """Undo ``subscribe``; a no-op without one."""
        if self.late.waiting:
            self.late.forget(listener, topic)
        if exact or not is_pattern(topic):
            listeners = self._names.get(topic)
            if listeners is not None and listeners.pop(listener, None) is not None:
                self.subscriptions -= 1
                if not listeners:
                    del self._names[topic]
                    self._forget(topic)
            return
        removed = self._patterns.remove(topic, listener)
        if removed is not None:
            self.subscriptions -= 1
            if removed:
                self._forget(topic)

    def counts(self) -> Iterator[tuple[str, bool, int]]:
        """Yield each name and pattern that somebody listens to, whether it is a pattern, and by how many.

        Nobody may subscribe or unsubscribe meanwhile.
        """
        for name, listeners in self._names.items():
            yield name, False, len(listeners)
        for pattern, listeners in self._patterns.items():
            yield pattern, True, len(listeners)

    def listeners(self, topic: str) -> int:
        """Return how many have subscribed to the name *topic* itself."""
        return len(self._names.get(topic, ()))

    def has_listeners(self, topic: str) -> bool:
        """Whether an event on *topic* would be delivered to anybody."""
        return topic in self._names or bool(self._patterns.count and self._patterns.matching(topic))

    def count(self, event: Event, excluded: Collection[str] = ()) -> int:
        """Return to how many sessions *event* would be delivered."""
        return len(
            {
                listener.id
                for listener, echo, _ in self._matching(event.topic)
                # A follower has its client's wish as an attribute.
                if listener.id not in excluded
                and (listener.id != event.origin or (echo and getattr(listener, "echo", True)))
            }
        )

    def listening(self, beginning: str) -> list[tuple[Listener, str]]:
        """Return who listens to names and patterns with that *beginning*, each with one of these."""
        every = [*self._names.items(), *self._patterns.items()]
        return [(listener, topic) for topic, several in every if topic.startswith(beginning) for listener in several]

    def deliver(self, event: Event) -> None:
        """Hand *event* to every subscription that matches, once each."""
        topic = event.topic
        listeners = self._names.get(topic)
        if listeners:
            self._deliver(event, topic, listeners)
        if self._patterns.count:
            for node in self._patterns.matching(topic):
                self._deliver(event, node.pattern, node.listeners)

    def _deliver(self, event: Event, pattern: str, listeners: Listeners) -> None:
        origin = event.origin
        if self.late.waiting or len(listeners) > FEW:
            receivers = [listener for listener, echo in listeners.items() if echo or listener.id != origin]
            self.late.add(event, pattern, receivers)
            return
        # A copy: a listener may subscribe or unsubscribe meanwhile.
        for listener, echo in list(listeners.items()):
            if echo or listener.id != origin:
                listener.on_event(event, pattern)

    def deliver_named(self, event: Event, beginning: str) -> None:
        """Hand *event* to those subscriptions that match and have the same *beginning* as its topic.

        Others, such as that of ``>``, need other permissions.
        """
        receivers: dict[str, list[Listener]] = {}
        for listener, _, pattern in self._matching(event.topic):
            if pattern.startswith(beginning):
                receivers.setdefault(pattern, []).append(listener)
        self._deliver_to(event, receivers)

    def deliver_except(self, event: Event, excluded: Collection[str]) -> None:
        """Do what ``deliver`` does, but for the sessions whose ids are in *excluded*."""
        receivers: dict[str, list[Listener]] = {}
        for listener, echo, pattern in self._matching(event.topic):
            # A follower gets all, and leaves out what excludes its client: else it would read that from the store.
            if listener.id in excluded and not hasattr(listener, "echo"):
                continue
            if echo or listener.id != event.origin:
                receivers.setdefault(pattern, []).append(listener)
        self._deliver_to(event, receivers)

    def _deliver_to(self, event: Event, receivers: Mapping[str, Sequence[Listener]]) -> None:
        for pattern, listeners in receivers.items():
            self.late.add(event, pattern, listeners)

    def _matching(self, topic: str) -> list[tuple[Listener, bool, str]]:
        """Return all subscriptions that match *topic*: who, whether with echo, and the name or pattern."""
        found = [(listener, echo, topic) for listener, echo in (self._names.get(topic) or {}).items()]
        if self._patterns.count:
            for node in self._patterns.matching(topic):
                found += [(listener, echo, node.pattern) for listener, echo in node.listeners.items()]
        return found


class Delivery:
    """Delivers an event to all whom it concerns: who waits for it, who subscribed to its topic, who watches its key.

    Args:
        topics: has the subscriptions.
        channels: has the polls that wait.
        keys: has the watches.
        controls: what to do with an event by which nodes notify each other, by its topic.
        excluded: returns the ids of the sessions here that an event is not to be delivered to.
        sampler: times some deliveries.

    Attributes:
        is_next: says whether the change of a key is to be delivered now; None: each is.
    """

    is_next: Callable[[Event], bool] | None = None

    def __init__(
        self,
        topics: Topics,
        channels: Channels,
        keys: Keys,
        controls: Mapping[str, Callable[[Event], object]],
        excluded: Callable[[Event], Collection[str]],
        sampler: Sampler,
    ) -> None:
        self._topics, self._channels, self._keys = topics, channels, keys
        self._excluded, self._sampler = excluded, sampler
        self._controls = controls

    def arrived(self, event: Event) -> None:
        """Deliver *event*, which the bus has brought, unless it has expired; nothing is delivered otherwise."""
        control = self._controls.get(event.topic)
        if control is not None:
            control(event)
            return
        if event.expires and self._channels.is_over(event):
            return
        is_next = self.is_next
        if is_next and event.topic.startswith(KEY_PREFIX) and not (event.dialect or is_next(event)):
            return
        done = None
        if event.dialect:
            sampler = self._sampler
            sampler.left -= 1
            if not sampler.left:
                done = sampler.delivers(event.dialect)
        if event.id:
            self._channels.arrived(event)
        if event.exclude:
            self._topics.deliver_except(event, self._excluded(event))
        else:
            self._topics.deliver(event)
        # Only the broker itself announces key changes; an older version let clients publish there.
        if event.topic.startswith(KEY_PREFIX) and not event.dialect:
            self._keys.arrived(event)
        if done is not None:
            done(None)
