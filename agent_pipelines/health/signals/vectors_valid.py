"""Vectors as they are in the store: the store itself accepts NaN, zero and missing ones."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    census = view.census
    identity = view.generation.embedder
    flawed = census.count("bad vector")
    return Reading(
        State.FALSE if flawed else State.TRUE,
        observed=f"{census.objects - flawed} of {census.objects} vectors are sound",
        expected=f"all finite, of {identity.dimension} dimensions"
        + (" and length 1" if identity.normalized else ""),
        evidence=[
            {"chunk": id_, "fault": f"its vector {wrong}"}
            for id_, wrong in census.details("bad vector", limit=20)
        ],
    )


SIGNAL = Signal(
    name="vectors_valid",
    statement="every stored vector is finite, not zero, and of the spec's dimension and length",
    severity="page",
    depth="audit",
    guards="index",
    repair="verify",
    runbook="Something other than a sync wrote these objects. `agent-pipelines sync INDEX "
    "--verify` writes them again.",
    evaluate=_evaluate,
)
