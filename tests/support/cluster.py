"""A RabbitMQ cluster of three nodes for tests, which may lose any one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from fedbroker.broker.cluster import ClusterNode, PrivateCluster
from tests.support.wait import until

__all__ = ["ClusterNode", "PrivateCluster", "at_port", "killed", "whole"]

BACK = 60.0


def at_port(cluster: PrivateCluster, port: int) -> ClusterNode:
    """The node that listens there."""
    (node,) = [node for node in cluster.nodes if node.port == port]
    return node


def whole(cluster: PrivateCluster, vhost: str = "/") -> bool:
    """Whether every replica of every replicated queue is there: then any one node may be lost."""
    if not all(node.running for node in cluster.nodes):
        return False
    queues = json.loads(
        cluster.nodes[0].ctl("list_queues", "-p", vhost, "type", "members", "online", "--formatter", "json")
    )
    return all(len(queue["online"]) == len(queue["members"]) for queue in queues if queue["type"] == "quorum")


@contextmanager
def killed(cluster: PrivateCluster, node: ClusterNode) -> Iterator[None]:
    """A node is dead within the block, and fully back after it."""
    node.kill()
    try:
        yield
    finally:
        node.start()
        until(lambda: whole(cluster), BACK, "a whole cluster")
