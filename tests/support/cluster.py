"""A RabbitMQ cluster of three nodes for tests, which survives the loss of any one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from fedbroker.broker.cluster import ClusterNode, PrivateCluster
from tests.support.wait import wait_until

__all__ = ["ClusterNode", "PrivateCluster", "is_complete", "killed_node", "node_at_port"]

BACK = 60.0


def node_at_port(cluster: PrivateCluster, port: int) -> ClusterNode:
    """Return the node that listens on a port."""
    (node,) = [node for node in cluster.nodes if node.port == port]
    return node


def is_complete(cluster: PrivateCluster, vhost: str = "/") -> bool:
    """Return whether every replica of every replicated queue is running, so that any one node may be killed."""
    if not all(node.running for node in cluster.nodes):
        return False
    queues = json.loads(
        cluster.nodes[0].ctl("list_queues", "-p", vhost, "type", "members", "online", "--formatter", "json")
    )
    return all(len(queue["online"]) == len(queue["members"]) for queue in queues if queue["type"] == "quorum")


@contextmanager
def killed_node(cluster: PrivateCluster, node: ClusterNode) -> Iterator[None]:
    """Keep a node dead within the block; return when it is fully back."""
    node.kill()
    try:
        yield
    finally:
        node.start()
        wait_until(lambda: is_complete(cluster), BACK, "a whole cluster")
