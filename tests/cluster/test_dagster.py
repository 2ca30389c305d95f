"""Dagster end to end in a cluster: from a change of the source to answers, and through what breaks.

Everything but Weaviate and PostgreSQL is in pods; runs are pods that Dagster's launcher makes.
"""

from tests.cluster.manifests import CLAIM
from tests.cluster.node import Node
from tests.cluster.product import GPU, QUESTIONS, Product
from tests.processes import until


def test_a_change_of_the_source_is_indexed_by_a_pod_per_partition(indexed: Product) -> None:
    runs = indexed.ui.runs(pipelineName="docs_sync")
    assert {run.tags["dagster/partition"] for run in runs} == {"1-of-2", "2-of-2"}
    assert all(run.status == "SUCCESS" for run in runs)
    # The sensor has asked for them, because of what it saw; each had a pod of its own.
    assert all("agent-pipelines/signal" in run.tags for run in runs)
    assert all(indexed.pod_of(run.id) for run in runs)
    assert not indexed.claims(), "none of them needs a GPU"


def test_a_batch_gets_a_gpu_and_its_answers_land(indexed: Product, gpu_node: Node) -> None:
    """By the UI's Materialize button, whose runs have none of the job's tags."""
    indexed.standin.delay(1.0)
    run = indexed.ui.materialize("triage/answers")

    def allocated() -> bool:
        return any(claim["status"].get("reservedFor") for claim in indexed.claims())

    until(allocated, 60, "a device is allocated")
    (claim,) = indexed.claims()
    (device,) = claim["status"]["allocation"]["devices"]["results"]
    assert (device["driver"], device["pool"], device["device"]) == (
        *("gpu.nvidia.com", gpu_node.name),
        "gpu-0",
    )
    indexed.wait_for_run(run, "SUCCESS")
    pod = indexed.pod_of(run)
    assert pod is not None
    assert pod["spec"]["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": CLAIM}]
    assert {(call["pod"], call["gpu"]) for call in indexed.standin.asked} == {
        (pod["metadata"]["name"], GPU)
    }
    assert indexed.outcomes() == ["ok"] * len(QUESTIONS)
    until(lambda: not indexed.claims(), 60, "the device is free for others")


def test_a_batch_whose_pod_is_killed_goes_on_where_it_was(indexed: Product) -> None:
    indexed.standin.delay(1.0)
    indexed.ask(*(question.replace("is to be", "must be") for question in QUESTIONS))
    before = len(indexed.standin.asked)
    run = indexed.ui.launch("triage_batch")
    until(lambda: len(indexed.standin.asked) > before + 5, 120, "some of the work is done")
    pod = indexed.pod_of(run)
    assert pod is not None
    indexed.kill(pod["metadata"]["name"])
    finished = indexed.journalled()
    assert finished
    killed_at = len(indexed.standin.asked)

    indexed.wait_for_run(indexed.retry_of(run), "SUCCESS")
    assert indexed.ui.run(run).status == "FAILURE"
    assert indexed.outcomes() == ["ok"] * len(QUESTIONS)
    later = {(call["task"], call["messages"]) for call in indexed.standin.asked[killed_at:]}
    assert later, "there was something left to do"
    assert not later & finished, "what was finished was asked again"
