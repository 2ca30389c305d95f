"""What the real scheduler gives to the claims that are made of a model's needs."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent_pipelines.gpu.claims import claim_template
from agent_pipelines.gpu.devices import CATALOGUE
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.plan import plan
from tests.cluster import models
from tests.cluster.control_plane import ControlPlane
from tests.cluster.devices import A10, A100_80, H100, L4, T4, Gpu
from tests.cluster.fleet import Fleet, Placement
from tests.cluster.watch import Objects

MakeFleet = Callable[[Mapping[str, Sequence[Gpu]]], Fleet]

#: Of a small agent; T4s compute in float16, and not in bfloat16.
SMALL = Need(context=4096, concurrency=2, dtype="float16")

REFUSED = "cannot allocate all claims"


@contextlib.contextmanager
def fleets(control_plane: ControlPlane) -> Iterator[MakeFleet]:
    """What makes fleets that are gone at the end."""
    with contextlib.ExitStack() as held:

        def make(nodes: Mapping[str, Sequence[Gpu]]) -> Fleet:
            fleet = Fleet(control_plane, nodes)
            held.callback(fleet.end)
            return fleet

        yield make


@pytest.fixture
def fleet(control_plane: ControlPlane) -> Iterator[MakeFleet]:
    with fleets(control_plane) as make:
        yield make


def serve(fleet: Fleet, model: str, need: Need, *pods: str) -> None:
    """Pods that want to serve this model, made in this order."""
    template = claim_template(model.lower().replace(".", "-"), plan(models.shape(model), need))
    fleet.offer(template)
    for pod in pods:
        fleet.ask_for(pod, str(template["metadata"]["name"]))  # type: ignore[index]


def holding(fleet: Fleet, pods: Collection[str], count: int) -> set[str]:
    """Wait until that many of these pods have a device, and see which."""

    def held(found: Mapping[str, Objects]) -> set[str]:
        names = {pod for pod in pods if found["pods"].get(pod, {}).get("spec", {}).get("nodeName")}
        return names if len(names) == count else set()

    return fleet.until(held, f"{count} of {pods} hold a device")


def test_the_cheapest_device_comes_first_on_whichever_node_it_is(fleet: MakeFleet) -> None:
    nodes = fleet({"h100": [Gpu(H100)], "a100": [Gpu(A100_80)], "a10": [Gpu(A10)], "t4": [Gpu(T4)]})
    # As somebody lists them who knows the fleet: a claim has room for eight kinds.
    listed = [CATALOGUE[name] for name in ("T4", "A10", "A100-80", "H100-SXM")]
    nodes.offer(claim_template("small", plan(models.shape("Llama-3.2-3B"), SMALL, listed)))
    found = []
    for pod in "abcd":
        nodes.ask_for(pod, "small")
        found += nodes.placed(pod)
    assert [one.node for one in found] == ["t4", "a10", "a100", "h100"]


def test_the_cheapest_device_of_a_node_comes_first(fleet: MakeFleet) -> None:
    mixed = fleet({"mixed": [Gpu(H100), Gpu(A10), Gpu(T4)]})
    serve(mixed, "Llama-3.2-3B", SMALL, "a", "b")
    assert {tuple(one.devices) for one in mixed.placed("a", "b")} == {("gpu-1",), ("gpu-2",)}


def test_an_8b_never_gets_an_80_gb_card_while_a_24_gb_one_is_free(fleet: MakeFleet) -> None:
    nodes = fleet(
        {
            "large-1": [Gpu(A100_80)] * 4,
            "large-2": [Gpu(H100)] * 4,
            "small-1": [Gpu(A10)] * 2,
            "small-2": [Gpu(L4)] * 2,
        }
    )
    serve(nodes, "Llama-3.1-8B", SMALL, *"abcd")
    assert {one.node for one in nodes.placed(*"abcd")} == {"small-1", "small-2"}
    serve(nodes, "Llama-3.2-3B", SMALL, "e")
    assert nodes.placed("e")[0].node.startswith("large"), "there is no other left"


def test_who_finds_nothing_free_waits_until_something_is(fleet: MakeFleet) -> None:
    nodes = fleet({"one": [Gpu(A10)], "other": [Gpu(A10)]})
    left = set("abcde")
    serve(nodes, "Llama-3.1-8B", SMALL, *sorted(left))
    while left:
        held = holding(nodes, left, min(2, len(left)))
        assert len({one.node for one in nodes.placed(*held)}) == len(held), "nobody shares"
        for pod in left - held:
            assert REFUSED in nodes.waits(pod)
        done = held.pop()
        nodes.end_pod(done)
        left.remove(done)


def test_what_nothing_satisfies_stays_pending_with_the_reason(fleet: MakeFleet) -> None:
    nodes = fleet({"t4": [Gpu(T4)] * 8, "a10": [Gpu(A10)]})
    serve(nodes, "Llama-3.3-70B", Need(context=4096, dtype="float16"), "asks")
    assert f"2 {REFUSED}" in nodes.waits("asks")


def test_two_gpus_are_below_one_pcie_root(fleet: MakeFleet) -> None:
    both = Need(context=8192, concurrency=2, dtype="float16")
    near, far = "pci0000:10", "pci0000:20"
    apart = fleet({"apart": [Gpu(A100_80, root=near), Gpu(A100_80, root=far)]})
    serve(apart, "Llama-3.3-70B", both, "asks")
    assert REFUSED in apart.waits("asks")

    crossed = [Gpu(A100_80, root=root) for root in (near, far, near, far)]
    nodes = fleet({"crossed": crossed})
    serve(nodes, "Llama-3.3-70B", both, "a", "b")
    assert {tuple(sorted(one.devices)) for one in nodes.placed("a", "b")} == {
        ("gpu-0", "gpu-2"),
        ("gpu-1", "gpu-3"),
    }


def test_a_small_model_gets_a_slice_of_a_gpu(fleet: MakeFleet) -> None:
    nodes = fleet(
        {
            "whole": [Gpu(A100_80), Gpu(A10)],
            "cut": [Gpu(A100_80, mig=("1g.10gb", "2g.20gb", "3g.40gb"))],
        }
    )
    serve(nodes, "Qwen2.5-0.5B", SMALL, "tiny")
    assert nodes.placed("tiny") == [Placement("cut", ["gpu-0-mig-1g10gb-19-0"])]
    # Too large for 10 GB, and for it 20 GB of an A100 cost what an A10 does and read more quickly.
    serve(nodes, "Llama-3.2-3B", Need(context=8192, concurrency=4, dtype="float16"), "small")
    (placed,) = nodes.placed("small")
    assert (placed.node, placed.devices) != ("whole", ["gpu-0"])


def test_a_device_that_cannot_compute_in_the_type_is_not_given(fleet: MakeFleet) -> None:
    nodes = fleet({"turing": [Gpu(T4)] * 2, "ampere": [Gpu(A10)]})
    serve(nodes, "Qwen2.5-1.5B", Need(context=4096, dtype="bfloat16"), "a")
    assert nodes.placed("a")[0].node == "ampere"
    nodes.ask_for("b", "qwen2-5-1-5b")
    assert REFUSED in nodes.waits("b")


@pytest.fixture(scope="module")
def partitioning() -> Iterator[ControlPlane]:
    """A control plane with the feature gate that GPUs cut on demand take; alpha in 1.35."""
    gate = ("--feature-gates=DRAPartitionableDevices=true",)
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        started = ControlPlane(folder, flags={"kube-apiserver": gate, "kube-scheduler": gate})
        try:
            yield started
        finally:
            started.end()
    finally:
        shutil.rmtree(folder)


def test_a_gpu_that_is_cut_on_demand_is_never_given_twice(partitioning: ControlPlane) -> None:
    with fleets(partitioning) as make:
        nodes = make({"a100": [Gpu(A100_80, dynamic=True)]})
        serve(nodes, "Qwen2.5-0.5B", SMALL, "tiny")
        (tiny,) = nodes.placed("tiny")
        assert tiny.devices[0].startswith("gpu-0-mig-1g10gb-19-")
        # What is left is less than the whole: a model that takes all of it has to wait.
        serve(nodes, "Qwen2.5-32B", Need(context=4096, dtype="float16"), "large")
        assert REFUSED in nodes.waits("large")
        nodes.end_pod("tiny")
        assert nodes.placed("large") == [Placement("a100", ["gpu-0"])]
        serve(nodes, "Qwen2.5-1.5B", SMALL, "late")
        assert REFUSED in nodes.waits("late")
