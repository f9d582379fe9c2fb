"""Members of topics on several nodes: each tells the others of its own sessions, and keeps what they tell.

What has changed goes to every other node over its link.  A node that is new is sent all there is.  When a link was
broken, so is the other node, and it is asked for all of its own, too: it may not have noticed that.
"""

from __future__ import annotations

from itertools import islice

from broker.cluster.messages import MemberChanged, MemberList, MembersAsked
from broker.cluster.messenger import NodeMessenger
from broker.core.bounded import BoundedDict
from broker.core.members import Members, Place
from broker.interfaces import ISharedBus

PAGE = 200  # members of one message
MAX_DOUBTFUL = 10_000  # addresses of nodes whose link was broken


class SharedMembers(Members):
    """The members of all topics, as one of several nodes knows them; *use* must be called first."""

    def use(self, bus: ISharedBus, messenger: NodeMessenger) -> None:
        """Be the node of *bus*, which *messenger* leads to the others."""
        self._bus, self._messenger = bus, messenger
        self._others: dict[str, dict[tuple[str, str], str]] = {}  # by address: client ids by topic and session
        self._listed: dict[str, set[tuple[str, str]]] = {}  # what the lists under way have had so far
        self._told: dict[str, None] = {}  # addresses of those that know of all sessions of this node
        # Of those that may know of some who are gone, and of those that may have others than this node knows.
        self._misled: BoundedDict[str, None] = BoundedDict(MAX_DOUBTFUL)
        self._doubtful: BoundedDict[str, None] = BoundedDict(MAX_DOUBTFUL)
        messenger.on(MemberChanged, self._on_change)
        messenger.on(MemberList, self._on_list)
        messenger.on(MembersAsked, lambda address, _: self._send_all(address))
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
        if self._bus.lease:
            for address in [each for each in self._others if each not in others]:
                self._departed(address)

    def changed(self, topic: str, client: str, session: str, info: bytes | None) -> None:
        """See ``Members.changed``."""
        message = MemberChanged(topic, client, session, info)
        for address in list(self._told):
            if not self._messenger.send(address, message):
                self._mislead(address)

    def _send_all(self, address: str) -> None:
        sessions = (
            (topic, client, session, info)
            for session, (client, said) in self._sessions.items()
            for topic, info in said.items()
        )
        first, more = True, True
        while more:
            page = list(islice(sessions, PAGE))
            more = len(page) == PAGE
            if not self._messenger.send(address, MemberList(page, first, not more)):
                self._mislead(address)
                return
            first = False
        self._told[address] = None
        self._misled.pop(address, None)

    def _on_change(self, address: str, message: MemberChanged) -> None:
        if message.info is None:
            self._remove(address, message.topic, message.session)
        else:
            self._add(address, message.topic, message.client, message.session, message.info)

    def _on_list(self, address: str, message: MemberList) -> None:
        listed = set() if message.first else self._listed.pop(address, None)
        if listed is None:
            return  # its beginning is missing: the link was broken
        for topic, client, session, info in message.members:
            listed.add((topic, session))
            self._add(address, topic, client, session, info)
        if not message.last:
            self._listed[address] = listed
            return
        self._doubtful.pop(address, None)
        for topic, session in [each for each in self._others.get(address, {}) if each not in listed]:
            self._remove(address, topic, session)

    def _add(self, address: str, topic: str, client: str, session: str, info: bytes) -> None:
        known = self._others.setdefault(address, {})
        if known.get((topic, session), client) != client:
            self._remove(address, topic, session)
        self._others.setdefault(address, {})[topic, session] = client
        self.add(topic, client, Place(address, session), info)

    def _remove(self, address: str, topic: str, session: str) -> None:
        known = self._others.get(address, {})
        client = known.pop((topic, session), None)
        if client is not None:
            self.remove(topic, client, Place(address, session))
            if not known:
                del self._others[address]

    def _mislead(self, address: str) -> None:
        """Notice that something was not told to that node: it is sent all of it later."""
        self._told.pop(address, None)
        self._misled[address] = None

    def _broken(self, address: str) -> None:
        """Notice that messages from and to that node may be lost."""
        self._mislead(address)
        self._doubtful[address] = None
        self._listed.pop(address, None)

    def _departed(self, address: str) -> None:
        """Notice that the sessions of that node are gone, or that nobody knows."""
        self._broken(address)
        if self._bus.lease_of(address):
            return  # it may have missed something: it says who is there
        for topic, session in list(self._others.get(address, {})):
            self._remove(address, topic, session)
