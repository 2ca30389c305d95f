"""A real Kubernetes for one machine: `control_plane` anywhere Go is, `node` on Linux as root; and
the product in one that may break.

Belongs here: starting each once for a session, and saying why a node cannot run. Does not belong
here: how (`control_plane`, `node`, `product`).
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node
from tests.cluster.product import QUESTIONS, Product, device
from tests.processes import until

_T = TypeVar("_T", ControlPlane, Node, Product)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """API server, etcd, scheduler and controllers. No node: pods stay as a test writes them."""
    with _folder("cluster-") as folder, _ended(ControlPlane(folder)) as started:
        yield started


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane) -> Iterator[Node]:
    """A node where pods run."""
    _needs_nodes()
    with _ended(Node(control_plane, control_plane.node_address(1))) as started:
        yield started


@pytest.fixture(scope="session")
def cluster() -> Iterator[ControlPlane]:
    """A cluster of its own for what breaks it: it notices when a node is gone."""
    _needs_nodes()
    with (
        _folder("cluster-") as folder,
        _ended(ControlPlane(folder, watches_nodes=True)) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def gpu_node(cluster: ControlPlane) -> Iterator[Node]:
    """A node of it, with one GPU."""
    with _ended(Node(cluster, cluster.node_address(1), devices=[device()])) as started:
        yield started


@pytest.fixture(scope="session")
def product(
    cluster: ControlPlane, gpu_node: Node, weaviate_url: dict[str, str]
) -> Iterator[Product]:
    """Installed there, with nothing to do yet."""
    with (
        _folder("product-") as folder,
        _ended(Product(cluster, folder, weaviate_url)) as installed,
    ):
        yield installed


@pytest.fixture(scope="session")
def indexed(product: Product) -> Product:
    """With documents, and an index that the sensor has found stale and had synced."""
    services = {
        f"service{number}": f"# Service {number}\n\nWhen service {number} is down, restart it."
        for number in range(6)
    }
    product.write(**services)
    product.ask(*QUESTIONS)
    until(
        lambda: product.ui.runs(pipelineName="docs_live", statuses=["SUCCESS"]),
        *(240, "the index is committed"),
    )
    return product


def _needs_nodes() -> None:
    if reason := binaries.no_node_because():
        pytest.skip(reason)


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    # Not below pytest's own folder, which keeps three sessions: etcd's files alone are 128 MB, and
    # sockets below a long path could not be bound.
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _ended(started: _T) -> Iterator[_T]:
    try:
        yield started
    finally:
        started.end()
