"""What may break under Dagster in a cluster: nodes, the API server, GPUs, tool servers.

Slow: each waits until something that is not there is missed.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping

import pytest

from agent_pipelines.agents.tally import BOUNDS
from agent_pipelines.agents.tool_records import read_calls
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node
from tests.cluster.product import GPU, QUESTIONS, Product, device
from tests.processes import until

pytestmark = pytest.mark.slow

_OTHER_GPU = "GPU-00000000-b"


def ask_anew(product: Product, words: str) -> int:
    """Questions that no batch was asked before; how many model calls there were until now."""
    product.standin.delay(1.0)
    product.ask(*(question.replace("is to be", words) for question in QUESTIONS))
    return len(product.standin.asked)


def test_a_batch_whose_node_dies_goes_on_on_another(
    indexed: Product, cluster: ControlPlane, gpu_node: Node
) -> None:
    before = ask_anew(indexed, "may be")
    other = Node(cluster, cluster.node_address(2), devices=[device(_OTHER_GPU)])
    try:
        cluster.kubectl("cordon", gpu_node.name)
        run = indexed.ui.launch("triage_batch")
        until(lambda: len(indexed.standin.asked) > before + 3, 120, "some of the work is done")
        cluster.kubectl("uncordon", gpu_node.name)
        finished = indexed.journalled()
        other.kill()
        died_at = len(indexed.standin.asked)
        indexed.wait_for_run(indexed.retry_of(run, 120), "SUCCESS")
    finally:
        other.end()
    calls = indexed.standin.asked
    assert {call["gpu"] for call in calls[before:died_at]} == {_OTHER_GPU}
    assert {call["gpu"] for call in calls[died_at:]} == {GPU}
    assert finished
    assert not finished & {(call["task"], call["messages"]) for call in calls[died_at:]}
    assert indexed.outcomes() == ["ok"] * len(QUESTIONS)


def test_without_an_api_server_a_batch_goes_on_and_none_is_started_twice(
    indexed: Product, cluster: ControlPlane
) -> None:
    before = ask_anew(indexed, "could be")
    indexed.standin.delay(6.0)
    run = indexed.ui.launch("triage_batch")
    until(lambda: len(indexed.standin.asked) > before + 1, 120, "it has begun")
    with cluster.without_api_server():
        time.sleep(15)  # Dagster looks after its runs every five
    indexed.wait_for_run(run, "SUCCESS")
    assert not [one for one in indexed.ui.runs() if one.parent == run]
    assert indexed.outcomes() == ["ok"] * len(QUESTIONS)
    # And the next one starts as ever.
    indexed.ask("Did you notice?", agent="report")
    indexed.wait_for_run(indexed.ui.launch("report_batch"), "SUCCESS")


def test_a_batch_without_a_gpu_waits_in_the_queue_and_says_so(indexed: Product) -> None:
    before = ask_anew(indexed, "should be")
    indexed.standin.delay(15.0)
    first = indexed.ui.launch("triage_batch")
    until(lambda: len(indexed.standin.asked) > before, 120, "it has begun")
    indexed.ask("And what now?", agent="report")
    second = indexed.ui.launch("report_batch")

    until(
        lambda: "cannot allocate all claims" in indexed.ui.log(second),
        *(90, "the UI says why it waits"),
    )
    assert indexed.ui.run(first).status == "STARTED"
    assert indexed.ui.run(second).status == "STARTING"
    indexed.standin.delay(0.0)
    for run in (first, second):
        indexed.wait_for_run(run, "SUCCESS")


def test_a_gpu_that_never_comes_is_an_error_with_the_reason(
    indexed: Product, cluster: ControlPlane, gpu_node: Node
) -> None:
    indexed.standin.delay(0.0)
    indexed.ask("Is there a GPU?", agent="report")
    cluster.kubectl("cordon", gpu_node.name)
    run = indexed.ui.launch("report_batch")
    indexed.wait_for_run(run, "FAILURE", 240)
    cluster.kubectl("uncordon", gpu_node.name)
    assert "taking longer than" in indexed.ui.log(run)
    assert "unschedulable" in indexed.ui.log(run)
    # It was started again meanwhile, and there is a GPU again.
    indexed.wait_for_run(indexed.retry_of(run), "SUCCESS")
    assert indexed.outcomes("report") == ["ok"]


def test_a_tool_server_that_dies_is_waited_for_and_leaves_the_other_as_it_was(
    indexed: Product,
) -> None:
    indexed.standin.delay(0.0)
    many = [f"What is to be done about service {n % 6}, for the {n}th time?" for n in range(24)]

    def batch(words: str) -> Counter[tuple[str, str, float | None]]:
        """Its calls, by server, outcome and how long they took at most."""
        before = read_calls(indexed.engine)
        indexed.ask(*(question.replace("is to be", words) for question in many))
        run = indexed.ui.launch("triage_batch")
        if words == "cannot be":
            asked = len(indexed.standin.asked)
            until(lambda: len(indexed.standin.asked) > asked + 4, 120, "it has begun")
            (pod,) = indexed.pods("app=kubernetes")
            indexed.kill(pod["metadata"]["name"])
        indexed.wait_for_run(run, "SUCCESS")
        assert indexed.outcomes() == ["ok"] * len(many)
        found: Counter[tuple[str, str, float | None]] = Counter()
        for counted, total in read_calls(indexed.engine).items():
            new = total.calls - (before[counted].calls if counted in before else 0)
            found[counted.server, counted.outcome, counted.bound] += new
        return +found

    well, ill = batch("ought to be"), batch("cannot be")
    assert {outcome for server, outcome, _ in ill if server == "kubernetes"} > {"ok"}
    for calls in (well, ill):
        assert {outcome for server, outcome, _ in calls if server == "search"} == {"ok"}
    # By the bounds of its histogram, whose neighbours are twice as far or more.
    assert BOUNDS.index(p99(ill)) <= BOUNDS.index(p99(well)) + 1


def p99(calls: Mapping[tuple[str, str, float | None], int]) -> float:
    """Of the searches, in seconds, rounded up to a bound."""
    took = sorted(
        bound or 0.0
        for (server, _, bound), number in calls.items()
        if server == "search"
        for _ in range(number)
    )
    return took[math.ceil(0.99 * len(took)) - 1]
