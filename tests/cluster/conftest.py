"""A real Kubernetes for one machine: `control_plane` anywhere Go is, `node` on Linux as root.

Belongs here: starting each once for a session, and saying why a node cannot run. Does not belong
here: how (`control_plane`, `node`).
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """API server, etcd, scheduler and controllers. No node: pods stay as a test writes them."""
    # Not below pytest's own folder, which keeps three sessions: etcd's files alone are 128 MB, and
    # sockets below a long path could not be bound.
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        started = ControlPlane(folder)
        try:
            yield started
        finally:
            started.end()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane) -> Iterator[Node]:
    """A node where pods run."""
    if reason := binaries.no_node_because():
        pytest.skip(reason)
    started = Node(control_plane, control_plane.node_address(1))
    try:
        yield started
    finally:
        started.end()
