"""What the core does when there are other nodes: calls, mail, jobs and takeovers between them."""

from broker.cluster.calls import RemoteCalls
from broker.cluster.jobs import SharedJobs
from broker.cluster.members import SharedMembers
from broker.cluster.names import ClusterNames
from broker.cluster.queues import SharedQueues

__all__ = ["ClusterNames", "RemoteCalls", "SharedJobs", "SharedMembers", "SharedQueues"]
