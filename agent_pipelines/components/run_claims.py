"""The GPU of a run in a cluster: tags by which Dagster's launcher has its pod claim one.

Belongs here: which tags, and which claim the assets of a run ask for. Does not belong here: what
a claim asks of the cluster (`gpu/claims.py`), or when runs get these tags (`agent.py` for the jobs,
`run_coordinator.py` for everything else).

Format: `dagster-k8s/config`, https://docs.dagster.io/deployment/oss/deployment-options/kubernetes/customizing-your-deployment.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent_pipelines.errors import UserError

#: Names the ResourceClaimTemplate: a tag of the asset that needs it, and of each run of that.
CLAIM_TAG = "agent-pipelines/claim"

_K8S_TAG = "dagster-k8s/config"
_PRIORITY_TAG = "dagster/priority"

#: Below everything that needs no GPU (which is at 0): a queue for GPUs never holds up a sync.
_PRIORITY = "-1"

#: What the pod calls its claim.
_IN_POD = "gpu"


def one(claims: Iterable[str]) -> str | None:
    """The claim of a run whose assets ask for these; None where none does.

    Raises:
        UserError: they ask for different ones.
    """
    found = sorted(set(claims))
    if len(found) > 1:
        # With both, each model would see the GPUs of the other, and hold them while that works.
        raise UserError(
            f"the run needs GPUs by {len(found)} claims ({', '.join(found)}), and gets them by one",
            remedy="start a run for each of these agents, or let them share an llm",
        )
    return found[0] if found else None


def tags(claim: str, given: Mapping[str, str]) -> dict[str, str]:
    """What a run with these tags must have in addition, to get its GPU by this claim.

    A claim that a person has written into the run's tags is left as it is.
    """
    if given.get(CLAIM_TAG) == claim:
        return {}
    wanted = {CLAIM_TAG: claim, _PRIORITY_TAG: given.get(_PRIORITY_TAG, _PRIORITY)}
    config: dict[str, Any] = json.loads(given.get(_K8S_TAG, "{}"))
    pod = config.setdefault("pod_spec_config", {})
    if pod.get("resource_claims") and CLAIM_TAG not in given:
        return wanted
    resources = config.setdefault("container_config", {}).setdefault("resources", {})
    _put(pod, "resource_claims", {"resource_claim_template_name": claim})
    _put(resources, "claims", {})
    return {**wanted, _K8S_TAG: json.dumps(config)}


def _put(spec: dict[str, Any], key: str, claim: Mapping[str, str]) -> None:
    """Exactly one of that name: Dagster appends lists to each other, and Kubernetes refuses two."""
    others = [other for other in spec.get(key, ()) if other["name"] != _IN_POD]
    spec[key] = [*others, {"name": _IN_POD, **claim}]
