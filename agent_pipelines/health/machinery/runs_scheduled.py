"""Runs: where each is a pod, one that is not given a device, or cannot start, waits for ever."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent_pipelines.health.machine import ago, where_expected
from agent_pipelines.health.orchestration import Waiting
from agent_pipelines.health.signal import Reading, Signal, State

#: Others may hold the devices that it claims, and a node may be on its way.
QUEUED = timedelta(minutes=30)

#: What does not start by itself: an image that is not there, a secret that is missing.
STOPPED = timedelta(minutes=5)

#: Kubernetes' reason where it is the scheduler that finds no place.
_UNSCHEDULABLE = "Unschedulable"

#: Waiting runs that the observation names; the evidence has all that wait too long.
_NAMED = 3


def judge(waiting: Sequence[Waiting], now: datetime) -> Reading:
    """Judge the runs whose pods do not run."""
    late = [one for one in waiting if now - one.since > _patience(one)]
    named = [
        f"{one.job} for {(now - one.since).total_seconds():.0f} s ({one.reason}: {one.message})"
        for one in waiting[:_NAMED]
    ]
    more = len(waiting) - len(named)
    return Reading(
        State.FALSE if late else State.TRUE,
        observed="waiting for their pods: "
        + "; ".join([*named, *([f"and {more} more"] if more else [])])
        if waiting
        else "no run waits for its pod",
        expected=f"none for more than {QUEUED.total_seconds() / 60:.0f} min for a place, or "
        f"{STOPPED.total_seconds() / 60:.0f} min for anything else",
        evidence=[
            {
                "run": one.run,
                "job": one.job,
                "pod": one.pod or "none",
                "since": ago(one.since, now),
                "reason": one.reason,
                "message": one.message,
            }
            for one in late
        ],
    )


def _patience(one: Waiting) -> timedelta:
    return QUEUED if one.reason == _UNSCHEDULABLE else STOPPED


SIGNAL = Signal(
    name="runs_scheduled",
    statement="no run waits long for a device or a place in the cluster, or for its pod to start",
    severity="warn",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="A run was started and its pod does not run; the evidence has Kubernetes' reason. "
    "`Unschedulable` with `cannot allocate all claims`: every device that its claim may have is "
    "taken, or the cluster has none such. `kubectl get resourceclaims -A` shows who holds what, "
    "`kubectl get resourceslices -o yaml` what there is, and `agent-pipelines claim` which devices "
    "the model can have: add one, end a run that holds one, or choose a smaller model, context or "
    "concurrency. `ErrImagePull`, `ImagePullBackOff`: the image's name, or the right to pull it. "
    "`CreateContainerConfigError`: a Secret or ConfigMap that is missing. `FailedCreate`: a policy "
    "or quota refuses the pod. The run waits until then, and its events in Dagster's UI say the "
    "same; terminate it there if it should not.",
    evaluate=where_expected(lambda view: judge(view.waiting, view.now)),
)
