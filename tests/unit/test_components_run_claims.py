"""The tags that give the pod of a run its GPU: what a run has already is kept."""

import json
from typing import Any

import pytest
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import get_user_defined_k8s_config

from agent_pipelines.components.run_claims import CLAIM_TAG, one, tags
from agent_pipelines.errors import UserError

K8S = "dagster-k8s/config"


def config(given: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(given[K8S])
    return found


def test_what_a_person_has_set_of_the_pod_stays() -> None:
    limits = {"container_config": {"resources": {"limits": {"memory": "64Gi"}}}}
    given = {K8S: json.dumps(limits), "dagster/priority": "3"}
    added = tags("llm-big", given)
    assert config(added)["container_config"]["resources"] == {
        "limits": {"memory": "64Gi"},
        "claims": [{"name": "gpu"}],
    }
    assert added["dagster/priority"] == "3"


def test_a_claim_that_a_person_has_set_is_the_only_one() -> None:
    own = [{"name": "mine", "resource_claim_template_name": "two-h100"}]
    added = tags("llm-big", {K8S: json.dumps({"pod_spec_config": {"resource_claims": own}})})
    assert K8S not in added
    assert added[CLAIM_TAG] == "llm-big"


def test_a_run_that_is_started_again_claims_once_and_by_the_claim_of_today() -> None:
    before = tags("llm-old", {})
    assert tags("llm-old", before) == {}
    after = config(tags("llm-new", before))
    assert after["pod_spec_config"]["resource_claims"] == [
        {"name": "gpu", "resource_claim_template_name": "llm-new"}
    ]
    assert after["container_config"]["resources"]["claims"] == [{"name": "gpu"}]


def test_limits_of_every_run_are_not_replaced_by_the_claim() -> None:
    """Those of the code location, with which Dagster's launcher merges a run's tags."""
    everywhere = K8sContainerContext(resources={"limits": {"memory": "8Gi"}})
    of_run = get_user_defined_k8s_config(tags("llm-big", {}))
    merged = everywhere.merge(K8sContainerContext(run_k8s_config=of_run)).run_k8s_config
    assert merged.container_config["resources"] == {
        "limits": {"memory": "8Gi"},
        "claims": [{"name": "gpu"}],
    }


def test_agents_that_need_different_gpus_are_told_to_run_apart() -> None:
    assert one([]) is None
    assert one(["llm-big", "llm-big"]) == "llm-big"
    with pytest.raises(UserError, match="by 2 claims") as refused:
        one(["llm-small", "llm-big"])
    assert "start a run for each" in refused.value.remedy
