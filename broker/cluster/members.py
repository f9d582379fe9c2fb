"""Members of topics on several nodes: each tells the others of its own sessions, and keeps what they tell.

What has changed goes to every other node over its link.  A node that is new is sent all there is, in pages.  When a
link was broken, so is the other node, and it is asked for all of its own, too: it may not have noticed that.

However many come or go with a node, each loop iteration sends and notes some of them only.  What comes from other
nodes is noted in the order in which it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.cluster.messages import MemberChanged, MemberList, MembersAsked
from broker.cluster.messenger import NodeMessenger
from broker.core.bounded import BoundedDict
from broker.core.members import PLACE_BYTES, Members, Place
from broker.core.slices import slices_of
from broker.core.steps import Steps
from broker.interfaces import ISharedBus
from broker.messages import Event

PAGE = 200  # members of one message
PAGE_BYTES = 1 << 16  # of names and what they say of themselves, after which a message has no more of them
MAX_DOUBTFUL = 10_000  # addresses of nodes whose link was broken
PAUSE = 0.1  # seconds until more is sent to a node for which too much waits


class SharedMembers(Members):
    """The members of all topics, as one of several nodes knows them; *use* must be called first.

    Args:
        clock, now, deliver: as for ``Members``.
        count: called with how many bytes more the members of other nodes take here, or fewer.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], float],
        deliver: Callable[[Event], object],
        count: Callable[[int], object],
    ) -> None:
        super().__init__(clock, now, deliver)
        self._count = count

    def use(self, bus: ISharedBus, messenger: NodeMessenger) -> None:
        """Be the node of *bus*, which *messenger* leads to the others."""
        self._bus, self._messenger = bus, messenger
        # By address, topic and session: the client id, and the bytes that are counted.
        self._others: dict[str, dict[tuple[str, str], tuple[str, int]]] = {}
        self._listed: dict[str, set[tuple[str, str]]] = {}  # what the lists under way have had so far
        self._told: dict[str, None] = {}  # addresses of those that know of all sessions of this node, or will
        self._lists: dict[str, Iterator[MemberList]] = {}  # what is left of those that are being sent
        self._pauses: dict[str, IDelayedCall] = {}  # of these, where a node is slow
        # Of those that may know of some who are gone, and of those that may have others than this node knows.
        self._misled: BoundedDict[str, None] = BoundedDict(MAX_DOUBTFUL)
        self._doubtful: BoundedDict[str, None] = BoundedDict(MAX_DOUBTFUL)
        self._slices = slices_of(self._clock)
        self._noting = Steps(self._slices)
        messenger.on(MemberChanged, lambda *said: self._noting.add(self._note_change(*said)))
        messenger.on(MemberList, lambda *said: self._noting.add(self._note_list(*said)))
        messenger.on(MembersAsked, lambda address, _: self._asked(address))
        messenger.on_break(lambda address, _: self._broken(address))
        messenger.on_departure(self._departed)
        messenger.on_lease(self.beat)

    def beat(self) -> None:
        """See ``Members.beat``."""
        others = self._bus.others if self._bus.lease else []
        for address in others:
            if address not in self._told:
                if address in self._misled or self._sessions:
                    self._send_all(address)
                else:
                    self._told[address] = None  # there is nothing to be told
            if address in self._doubtful:
                self._messenger.send(address, MembersAsked())
        if self._bus.lease and not len(self._noting):
            for address in [each for each in self._others if each not in others]:
                self._departed(address)

    def stop(self) -> None:
        """See ``Members.stop``."""
        super().stop()
        self._noting.stop()
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()
        self._lists.clear()

    # What the others are told.

    def changed(self, topic: str, client: str, session: str, info: bytes | None) -> None:
        """See ``Members.changed``."""
        message = MemberChanged(topic, client, session, info)
        for address in list(self._told):
            if not self._messenger.send(address, message):
                self._mislead(address)

    def _asked(self, address: str) -> None:
        # It asks again and again until it has all.  What was begun before it asked first was given up with the link.
        if address not in self._lists:
            self._send_all(address)

    def _send_all(self, address: str) -> None:
        """Send all sessions of this node; what changes meanwhile is told between the pages."""
        self._give_up_list(address)
        self._told[address] = None
        self._lists[address] = pages = self._pages()
        self._send_pages(address, pages)

    def _send_pages(self, address: str, pages: Iterator[MemberList]) -> None:
        self._pauses.pop(address, None)
        now, end = self._slices.now, self._slices.deadline()
        while self._lists.get(address) is pages:
            if self._messenger.is_crowded(address):
                self._pauses[address] = self._clock.callLater(PAUSE, self._send_pages, address, pages)
                return
            page = next(pages)
            if not self._messenger.send(address, page):
                self._mislead(address)
            elif page.last:
                del self._lists[address]
                self._misled.pop(address, None)
            elif now() >= end:
                self._slices.add(lambda: self._send_pages(address, pages))
                return

    def _pages(self) -> Iterator[MemberList]:
        """Yield all sessions of this node, as they are when their page is sent."""
        page: list[tuple[str, str, str, bytes]] = []
        first, size = True, 0
        for session in list(self._sessions):
            for topic in list(self._said_by(session)[1]):
                client, said = self._said_by(session)  # a page may have been sent since the last one
                if topic not in said:
                    continue
                page.append((topic, client, session, said[topic]))
                size += len(topic) + len(client) + len(said[topic])
                if len(page) >= PAGE or size >= PAGE_BYTES:
                    yield MemberList(page, first, False)
                    page, first, size = [], False, 0
        yield MemberList(page, first, True)

    def _said_by(self, session: str) -> tuple[str, dict[str, bytes]]:
        return self._sessions.get(session, ("", {}))

    def _mislead(self, address: str) -> None:
        """Notice that something was not told to that node: it is sent all of it later."""
        self._give_up_list(address)
        self._told.pop(address, None)
        self._misled[address] = None

    def _give_up_list(self, address: str) -> None:
        self._lists.pop(address, None)
        pause = self._pauses.pop(address, None)
        if pause is not None:
            pause.cancel()

    # What the others tell.

    def _note_change(self, address: str, message: MemberChanged) -> Iterator[None]:
        topic, session = message.topic, message.session
        if message.info is None:
            self._remove(address, topic, session)
        else:
            if address in self._listed:
                self._listed[address].add((topic, session))  # its page may have been before this
            self._add(address, topic, message.client, session, message.info)
        yield

    def _note_list(self, address: str, message: MemberList) -> Iterator[None]:
        if message.first:
            self._listed[address] = set()
        listed = self._listed.get(address)
        if listed is None:
            return  # its beginning is missing: the link was broken
        for topic, client, session, info in message.members:
            listed.add((topic, session))
            self._add(address, topic, client, session, info)
            yield
        if not message.last:
            return
        del self._listed[address]
        self._doubtful.pop(address, None)
        for topic, session in [each for each in self._others.get(address, {}) if each not in listed]:
            self._remove(address, topic, session)
            yield

    def _add(self, address: str, topic: str, client: str, session: str, info: bytes) -> None:
        before, counted = self._others.get(address, {}).get((topic, session), (client, 0))
        if before != client:
            self._remove(address, topic, session)
            counted = 0
        size = len(info) + PLACE_BYTES
        self._others.setdefault(address, {})[topic, session] = client, size
        self._count(size - counted)
        self.add(topic, client, Place(address, session), info)

    def _remove(self, address: str, topic: str, session: str) -> None:
        known = self._others.get(address, {})
        client, counted = known.pop((topic, session), ("", 0))
        if counted:
            if not known:
                del self._others[address]
            self._count(-counted)
            self.remove(topic, client, Place(address, session))

    def _broken(self, address: str) -> None:
        """Notice that messages from and to that node may be lost."""
        self._mislead(address)
        self._noting.add(self._doubt(address))

    def _departed(self, address: str) -> None:
        """Notice that the sessions of that node are gone, or that nobody knows."""
        self._broken(address)
        if not self._bus.lease_of(address):  # else it may have missed something: it says who is there
            self._noting.add(self._forget(address))

    def _doubt(self, address: str) -> Iterator[None]:
        self._doubtful[address] = None
        self._listed.pop(address, None)
        yield

    def _forget(self, address: str) -> Iterator[None]:
        for topic, session in list(self._others.get(address, {})):
            self._remove(address, topic, session)
            yield
