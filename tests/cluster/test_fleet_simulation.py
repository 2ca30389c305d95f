"""A small day on a small fleet: every way to ask for devices gets the same work done."""

from itertools import pairwise

import pytest

from tests.bench.fleet.__main__ import cluster
from tests.bench.fleet.day import day
from tests.bench.fleet.machines import SMALL
from tests.bench.fleet.policies import policies
from tests.bench.fleet.simulation import simulate

pytestmark = pytest.mark.slow


def test_every_policy_gets_every_batch_done_and_gives_no_device_twice() -> None:
    batches = [
        batch
        for batch in day(40, seed=1, tool_seconds=2.0)
        if batch.model.name in ("Qwen2.5-0.5B", "Llama-3.1-8B")
    ]
    with cluster() as control_plane:
        for policy in policies(SMALL):
            served = simulate(control_plane, policy, batches, lambda _: None, seed=1)
            assert {one.batch.name for one in served} == {batch.name for batch in batches}
            for slot in {slot for one in served for slot in one.slots}:
                held = sorted((one.began, one.ended) for one in served if slot in one.slots)
                assert all(ended <= began for (_, ended), (began, _) in pairwise(held)), slot
