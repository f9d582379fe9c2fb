"""The messages of work queues that an older version has kept as it does those of mailboxes: they become jobs."""

from __future__ import annotations

from twisted.logger import Logger

from broker.core.jobs import Jobs
from broker.core.queues import LOG, Queues
from broker.errors import Unavailable
from broker.interfaces import IStore
from broker.jobs import is_queue_of_broker
from broker.messages import Mail
from broker.patterns import QUEUE

log = Logger()

QUEUES_PER_STEP = 100
KEY_SECONDS = 86400.0  # for which a message is known that was moved: the move may have to begin again
KEY = "\0mail/"  # no client can name such a key


async def move_old_jobs(store: IStore, queues: Queues, jobs: Jobs) -> None:
    """Move what is there; what was moved before an error is not moved again.

    Raises:
        Unavailable: the store is away.
    """
    after = ""
    while names := await store.logs(LOG + QUEUE, after, QUEUES_PER_STEP):
        for name in names:
            await _move(store, queues, jobs, name.removeprefix(LOG))
        after = names[-1]


async def _move(store: IStore, queues: Queues, jobs: Jobs, queue: str) -> None:
    name, count = queue.removeprefix(QUEUE), 0
    if is_queue_of_broker(name):
        name += ".old"  # that name is the broker's by now

    async def put(mail: Mail, id: str) -> None:
        nonlocal count
        await store.jobs.add(name, mail, key=KEY + id, key_seconds=KEY_SECONDS)
        count += 1

    try:
        await queues.move(queue, put)
    except Unavailable as error:
        log.warn("messages of {queue} are still to be moved: {reason}", queue=queue, reason=str(error))
        raise
    if count:
        log.info("{count} messages of {queue} that an older version has kept are jobs now", count=count, queue=queue)
        jobs.added(name)
