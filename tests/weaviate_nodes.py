"""Three Weaviates on loopback that are one cluster; each can be killed and started again.

Belongs here: their ports, their processes and their state. Does not belong here: what is stored.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from agent_pipelines.local import ports, weaviate
from agent_pipelines.local.parts import Launch
from agent_pipelines.settings import Settings
from resources.weaviate import WeaviateResource
from tests.processes import dies_with_us, until

#: Seconds to be up, together.
_UP = 60


class Node:
    """One of them."""

    def __init__(self, name: str, launch: Launch, folder: Path) -> None:
        self.name = name
        self.url = launch.addresses["url"]
        self._launch = launch
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; `Cluster.wait` says when it is up."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._launch.argv,
                env={**os.environ, **self._launch.env},
                stdout=log,
                stderr=log,
                preexec_fn=dies_with_us,
            )

    def kill(self) -> None:
        """With SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def resource(self) -> WeaviateResource:
        """The whole cluster, asked through this node."""
        return WeaviateResource(url=self.url, grpc=self._launch.addresses["grpc"])


class Cluster:
    """All of them; whoever is killed is started again by its test."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def follower(self) -> Node:
        """One that does not lead, and is not the first: without a leader nobody knows the schema
        for half a minute.
        """
        url = f"{self.nodes[0].url}/v1/cluster/statistics"
        (leader, *_) = httpx2.get(url, timeout=10).json()["statistics"]
        return next(node for node in self.nodes[1:] if node.name != leader["leaderId"])

    def wait(self) -> None:
        """Until each sees that all are well."""
        until(lambda: all(self._seen_by(node) for node in self.nodes), _UP, "three healthy nodes")

    def _seen_by(self, node: Node) -> bool:
        try:
            ready = httpx2.get(f"{node.url}/v1/.well-known/ready", timeout=5)
            seen: Any = httpx2.get(f"{node.url}/v1/nodes", timeout=5).json()
        except (httpx2.TransportError, ValueError):
            return False
        states = [each["status"] for each in seen.get("nodes") or ()]
        return ready.is_success and states == ["HEALTHY"] * len(self.nodes)


@contextmanager
def running(folder: Path, *, nodes: int = 3) -> Iterator[Cluster]:
    """A cluster that does not mend itself: what its replicas miss they go on missing."""
    binary = weaviate.obtain(Settings().cache_dir, print)
    launches = {}
    for number in range(nodes):
        place = folder / f"node{number}"
        place.mkdir(parents=True)
        launches[f"node{number}"] = weaviate.launch(binary, place)
    gossip = [f"{ports.HOST}:{each.env['CLUSTER_GOSSIP_BIND_PORT']}" for each in launches.values()]
    raft = ",".join(f"{name}:{each.env['RAFT_PORT']}" for name, each in launches.items())
    made = []
    for name, each in launches.items():
        others = [at for at in gossip if not at.endswith(each.env["CLUSTER_GOSSIP_BIND_PORT"])]
        env = {
            **each.env,
            "CLUSTER_HOSTNAME": name,
            "CLUSTER_JOIN": ",".join(others),
            "RAFT_JOIN": raft,
            "RAFT_BOOTSTRAP_EXPECT": str(nodes),
            "ASYNC_REPLICATION_DISABLED": "true",
        }
        launch = Launch(name, each.argv, each.addresses, each.health_url, env)
        made.append(Node(name, launch, folder))
    try:
        for node in made:
            node.start()
        cluster = Cluster(made)
        cluster.wait()
        yield cluster
    finally:
        for node in made:
            node.kill()
