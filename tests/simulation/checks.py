"""What must hold at the end of a run."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from broker.core.deadlines import GRAIN
from broker.errors import BrokerError
from broker.messages import Event, Mail
from broker.patterns import CLIENT, matches
from tests.simulation.clients import GRACE, JOB_LEASE, JOB_SECONDS, Client, Issued
from tests.simulation.node import LEASE, TOLD, Node
from tests.simulation.schedule import KEYS, LEFT, NAMES, PRESENT, QUEUES, SHARED, TOPICS
from tests.simulation.world import START

if TYPE_CHECKING:
    from tests.simulation.run import Run

JOBS_DONE = 30.0  # seconds at the end, in which all jobs must have been done
MAIL_DELIVERED = 2.0  # seconds in quiet, in which a message reaches a client at another node
KEPT_NAMES = {b"sweeper"}


def connected(run: Run) -> list[Client]:
    """Return the clients that are connected."""
    return [client for client in run.clients if client.peer is not None and client.node.alive]


def open_calls(run: Run) -> list[Issued]:
    """Return the calls whose end somebody still waits for."""
    return [issued for issued in run.history.calls.values() if not (issued.ends or issued.parts or issued.gone)]


def check_deaf(run: Run) -> None:
    """Check that all who listen hear what is published now, and that all names are reachable by one holder."""
    world, clients = run.world, connected(run)
    if not clients:
        return
    poster = clients[0]
    before = len(run.history.acknowledged)
    asked = sorted({topic for client in clients for topic in client.listening if not topic.startswith("kv/")})
    topics = {topic if not topic.endswith(("*", ">")) else topic[:-1] + "a" for topic in asked} | set(TOPICS)
    for topic in sorted(topics):
        poster.do("post" if topic.startswith("durable.") else "publish", topic)
    marker = b"%d" % (run.history.numbers + 1)
    poster.do("set", "watched.x")
    began = world.now
    world.run_until(began + 2.5)
    if len(run.history.acknowledged) == before:
        world.violate("a post failed in quiet", f"by {poster.name} at {poster.node.name}")
        return
    final = run.history.acknowledged[before:]
    for client in connected(run):
        for key, since in client.watching.items():
            if since < began and not any(b'"' + marker + b'"' in body for body in client.keys_heard):
                world.violate("a watcher is deaf", f"{client.name} at {client.node.name}: {key}")
        for pattern, since in client.listening.items():
            if since < began:
                check_hears(run, client, pattern, final)


def check_members(run: Run) -> None:
    """Check that all nodes show who is present on topics, and that what listeners were told adds up to that."""
    for topic in PRESENT:
        expected = {client.name for client in connected(run) if topic in client.entered}
        for node in run.living():
            shown = {member.id for member in node.broker.parts.members.of(topic)}
            if shown != expected:
                run.world.violate("members are wrong", f"{node.name}: {topic}: {shown} in the place of {expected}")
        for client in connected(run):
            heard = client.present.get(topic, expected)
            if heard != expected:
                run.world.violate("joins do not add up", f"{client.name}: {topic}: {heard} in the place of {expected}")


def check_hears(run: Run, client: Client, pattern: str, final: list[tuple[str, str, int, bytes, float]]) -> None:
    for topic, epoch, id, body, _ in final:
        heard = client.heard[pattern, topic]
        if matches(pattern, topic) and not any((each.epoch, each.id) == (epoch, id) for each in heard):
            run.world.violate(
                "an observer is deaf",
                f"{client.name} at {client.node.name} has not heard {body!r}, {topic} {id}, by {pattern}; "
                f"it has heard {[each.id for each in heard]}",
            )
    if pattern.startswith("live.") and not any(by == pattern for by, _ in client.live):
        run.world.violate("an observer is deaf", f"{client.name} at {client.node.name}: {pattern}")


def check_names(run: Run) -> None:
    """Check that one client holds each name, and that calls from all nodes reach it."""
    world, history = run.world, run.history
    clients = connected(run)
    holders = {name: [held.client for held in history.held if held.name == name and held.client.peer] for name in NAMES}
    holders |= {name: [client for client in clients if ("share", name) in client.wishes] for name in SHARED}
    asked: list[tuple[str, Issued]] = []
    for name in filter(holders.__getitem__, holders):
        for caller in {client.node: client for client in clients}.values():
            before = len(history.calls)
            caller.do("call", name, 1.0)
            asked += [(name, issued) for issued in list(history.calls.values())[before:]]
    world.run_until(world.now + 2.0)
    for name, issued in asked:
        who = [execution.client for execution in history.executions[issued.token]]
        # Who has released a shared name before he had it may have it.
        if len(who) != 1 or (name in NAMES and who[0] not in holders[name]):
            world.violate(
                "a name is not reachable",
                f"{name} of {[each.name for each in holders[name]]} by {issued.client.name} at {issued.node.name}: "
                f"executed by {[each.name for each in who]}, {[each.error for each in issued.ends]}",
            )
    for name in NAMES:
        if len(holders[name]) > 1:
            world.violate("two holders of a name", f"{name}, in quiet: {[each.name for each in holders[name]]}")


def check_mail(run: Run) -> None:
    """Check that no node keeps a mailbox locked, and that each gets once what is stored there by another node."""
    check_unlocked(run)
    world, history = run.world, run.history
    sent: list[tuple[str, Client, Node]] = []
    for client in connected(run):
        others = [node for node in run.living() if node is not client.node]
        for node in others[:1]:
            body = f"mail {history.number()}"
            putting = node.broker.parts.queues.put(Mail(CLIENT + client.name, "", body.encode()))
            putting.addErrback(lambda failure: failure.trap(BrokerError))  # then it does not arrive
            sent.append((body, client, node))
    end = world.now + MAIL_DELIVERED
    while world.now < end and not all(history.done[body] for body, *_ in sent):
        world.run_until(world.now + 0.25)
    for body, client, node in sent:
        if history.done[body] != 1:
            world.violate(
                "mail does not arrive once",
                f"{body} by {node.name} for {client.name} at {client.node.name}: {history.done[body]} times",
            )


def check_unlocked(run: Run) -> None:
    """Check that no lock of a mailbox is in force: nobody delivers now.

    One of a node that has ended, of a lease that has, or of an epoch that has is none: it stays where nothing is left
    to deliver, until somebody does again.
    """
    leases = {node.bus.address: (node.bus.lease, node.store.epoch) for node in run.living()}
    for queue, entry in run.server.data.keys.get(b"sim:keys:mail-at", {}).items():
        _, _, _, address, lease, epoch = (*entry.decode().split(" "), "", "", "")[:6]
        if (int(lease or 0), epoch) == leases.get(address):
            run.world.violate("a queue is locked", f"{queue!r}: {entry!r}")


def check_history(run: Run) -> None:
    """Check what was acknowledged."""
    check_events(run)
    check_calls(run)
    check_takeovers(run)
    check_jobs(run)
    check_workers(run)
    check_testaments(run)
    check_counters(run)


def check_events(run: Run) -> None:
    world, history = run.world, run.history
    epochs = {node.store.epoch for node in run.living()}
    if len(epochs) != 1:
        world.violate("nodes disagree on the epoch", f"{epochs}")
        return
    (epoch,) = epochs
    acknowledged: defaultdict[str, dict[int, tuple[bytes, float]]] = defaultdict(dict)
    for topic, theirs, id, body, began in history.acknowledged:
        if theirs == epoch:
            if not history.is_lost((topic, epoch, id), body):
                acknowledged[topic][id] = (body, began)
        elif not run.lost_data:
            world.violate("an epoch has ended without reason", f"{topic} {id}")
    for client in connected(run):
        for topic, reader in client.readers.items():
            if reader.is_astray():
                continue
            missing = [id for id in acknowledged[topic] if reader.epoch == epoch and id > reader.after]
            if missing or (acknowledged[topic] and reader.epoch != epoch):
                world.violate(
                    "a reader missed events",
                    f"{client.name} at {client.node.name} has read {topic} up to {reader.after} "
                    f"of {reader.epoch}, and not {missing} of {epoch}",
                )
        for pattern, since in client.listening.items():
            for topic, found in acknowledged.items():
                if not matches(pattern, topic):
                    continue
                heard = {event.id for event in client.heard[pattern, topic] if event.epoch == epoch}
                missing = [id for id, (_, began) in found.items() if began > since and id not in heard]
                if missing:
                    world.violate(
                        "an observer missed events",
                        f"{client.name} at {client.node.name} has not got {topic} {missing} by {pattern}",
                    )
    bodies: dict[bytes, tuple[str, str, int]] = {}
    for place, body in history.appended.items():
        if bodies.setdefault(body, place) != place and place[1] == bodies[body][1]:
            world.violate("an event was stored twice", f"{body!r} at {bodies[body]} and {place}")


def check_calls(run: Run) -> None:
    world, history = run.world, run.history
    for issued in open_calls(run):
        if issued.limit:
            world.violate("a call never ended", f"{issued.token} of {issued.client.name}, with a deadline")
            continue
        executions = history.executions[issued.token]
        if not executions:
            world.violate("a call never ended", f"{issued.token} of {issued.client.name}, which nobody executes")
        elif not executions[-1].node.alive or executions[-1].node.died:
            world.violate(
                "a call never ended",
                f"{issued.token} of {issued.client.name}, executed at {executions[-1].node.name}, which has died",
            )
    check_absent(run)
    for issued in history.calls.values():
        if (
            issued.ends
            and issued.ends[0].error is None
            and not issued.streamed
            and not history.executions[issued.token]
        ):
            world.violate("a call was answered by nobody", issued.token)


def check_absent(run: Run) -> None:
    """Check that calls without a deadline have ended soon after the end of the lease of a node that is away.

    Looks at runs in which nothing else has happened to nodes, and nothing to that of the caller.
    """
    world, history = run.world, run.history
    faults = [step for step in run.schedule.steps if not step.actor.startswith("c")]
    if any(step.what not in ("crash", "freeze") for step in faults):
        return
    for issued in history.calls.values():
        if issued.limit or issued.streamed or issued.gone or issued.node.name in [step.actor for step in faults]:
            continue
        ended = issued.ended or world.now
        executions = history.executions[issued.token]
        if executions:
            last = executions[-1]
            begun = [max(last.when, began) for began, over in last.node.absences if began < ended and last.when <= over]
        else:
            begun = [max([issued.issued, *(START + step.at for step in faults if START + step.at < ended)])]
        for began in begun:
            late = ended - (began + LEASE + TOLD + GRACE)
            if late > 0:
                world.violate(
                    "a call ended late", f"{issued.token} of {issued.client.name}: {late:.3f} s after a lease"
                )


def check_takeovers(run: Run) -> None:
    """Check that a takeover has ended soon after a lease would have, where the rest of its way is well."""
    world = run.world
    faults = {step.actor for step in run.schedule.steps if not step.actor.startswith("c")}
    for attempt in run.history.takeovers:
        late = min(attempt.ended, world.now) - (attempt.began + LEASE + TOLD)
        if late > 0 and not faults & {"redis", attempt.node.name}:
            world.violate("a takeover ended late", f"{attempt.name} at {attempt.node.name} by {late:.3f} s")


def check_jobs(run: Run) -> None:
    world, history = run.world, run.history
    clients = connected(run)
    if not clients:
        return
    for client in run.clients:
        client.toils, client.job_times = False, (JOB_SECONDS, JOB_LEASE)
    for client in clients[:1]:
        client.do("consume", "work")
    end = world.now + JOBS_DONE
    while world.now < end and not all(
        history.done[body] for body, acknowledged in history.jobs.items() if acknowledged
    ):
        world.run_until(world.now + 1.0)
    world.run_until(world.now + 1.0)
    gone = {client.name for client in run.clients} - {client.name for client in connected(run)}
    if run.lost_data:
        return
    for body, acknowledged in history.jobs.items():
        if acknowledged and not history.done[body] and not gone:
            world.violate("a job was not done", body)
        faults = {step.what for step in run.schedule.steps if _may_repeat(step.what)}
        # Who leaves or is disconnected gives jobs back; a message that a session has got is delivered.
        repeats = faults - {"leave", "lag"} if body in history.mailed else faults | history.replaced
        if history.done[body] > 1 and not repeats:
            world.violate("a job was done twice", body)


def check_workers(run: Run) -> None:
    """Check that no job of a worker that is there went to another, where no node alone lost its lease."""
    for what in run.history.shared_jobs if _all_may_live(run) else ():
        run.world.violate("a job went to two workers", what)


def _all_may_live(run: Run) -> bool:
    """Whether no node has lost its lease that was not killed, but when Redis was away from all of them."""
    may_repeat = {step.what for step in run.schedule.steps if _may_repeat(step.what)}
    return may_repeat <= {"crash", "stop", "leave", "down", "hang"}


def check_testaments(run: Run) -> None:
    """Check that each testament was published whose session is lost, and none of one that is there."""
    world, history, clients = run.world, run.history, connected(run)
    if run.lost_data or not clients or not history.testaments:
        return
    events: list[Event] = []
    reader = clients[0].peer
    assert reader is not None
    Deferred.fromCoroutine(reader.poll(LEFT, 0, 1000, 0.0)).addCallback(events.extend)
    world.run_until(world.now + 1.0)
    found = {(event.body or b"").decode() for event in events if event.name == "left"}
    for body, (client, peer) in history.testaments.items():
        is_there = client.peer is peer and client.node.alive
        if body in found and is_there and _all_may_live(run):
            world.violate("a testament was published too early", body)
        elif body in history.bequeathed and not (is_there or body in found):
            world.violate("a testament was not published", body)


def _may_repeat(what: str) -> bool:
    return what not in QUEUES and what in (
        *(
            "cut",
            "reset",
            "lag",
            "freeze",
            "crash",
            "stop",
            "hang",
            "down",
            "wipe",
            "back",
            "leave",
            "flaky",
            "stall",
            "lossy",
        ),
    )


def check_counters(run: Run) -> None:
    world, history = run.world, run.history
    clients = connected(run)
    if run.lost_data or not clients:
        return
    found: list[int] = []
    for key in KEYS:
        peer = clients[0].peer
        assert peer is not None
        peer.get(key).addCallback(lambda entry: found.append(int(entry.value) if entry else 0))
        world.run_until(world.now + 1.0)
        least, most = sum(amount for amount, _ in history.added[key]), history.maybe_added[key]
        if not found or not least <= found[-1] <= most:
            world.violate("increments were lost or doubled", f"{key} is {found}, of {least} to {most}")


def check_empty(run: Run) -> None:
    """Check that nothing is left of clients that have all gone."""
    world = run.world
    for issued in open_calls(run):
        world.violate("a call never ended", f"{issued.token} of {issued.client.name}, although all have left")
    for node in run.living():
        parts: Any = node.broker.parts
        tables = {
            "calls": parts.calls.pending,
            "calls out": len(getattr(parts.calls, "_out", ())),
            "calls in": len(getattr(parts.calls, "_in", ())),
            "deadlines": len(parts.calls._deadlines),
            "polls": parts.channels.waiting,
            "waiters": len(parts.channels._waiters),
            "sessions": len(parts.presence),
            "performers": len(parts.calls.performers) + len(parts.calls.services) + len(parts.calls.takers),
            "backlogs": len(parts.queues),
            "work queues": len(parts.jobs),
            "members": len(parts.members),
            # Those of workers that have gone, and finished at another node, stay until they end.
            "leases": sum(
                bool(lease.session and not lease.lost) or lease.end + GRAIN <= node.clock.seconds()
                for lease in parts.jobs.leases._leases.values()
            ),
            "topics": len(parts.topics),
            "gaps": len(node.bus._subscriber._recovery._gaps),
            "questions": len(parts.cluster._messenger._asked),
            "names": len(getattr(parts.cluster, "_claims", ())),
            "kept by links": getattr(getattr(parts.cluster._messenger, "_links", None), "kept", 0),
        }
        left = {name: number for name, number in tables.items() if number}
        if left:
            world.violate("tables are not empty", f"{node.name}: {left}")
    names = set(run.server.data.keys.get(b"sim:names", ())) - KEPT_NAMES
    if names:
        world.violate("names are not given back", f"{sorted(names)}")
    check_unlocked(run)


def check_stopped(run: Run) -> None:
    """Check that nodes that have stopped have no timer left."""
    for node in run.all_nodes:
        if node.alive:
            run.world.violate("a node does not stop", node.name)
        elif not node.died and node.clock.timers:
            timers = sorted({getattr(timer.call, "__qualname__", repr(timer.call)) for timer in node.clock.timers})
            run.world.violate("timers are left", f"{node.name}: {timers}")
