"""The spec that the live generation was built under, against the one that is configured."""

from agent_pipelines.health.signal import Reading, Signal, holds
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    stored, active = view.generation.fingerprint, view.index.spec.fingerprint
    return holds(stored == active, f"built under spec {stored[:10]}", f"spec {active[:10]}")


SIGNAL = Signal(
    name="spec_is_current",
    statement="the live generation was built under the configured chunking and embedder",
    severity="page",
    depth="tick",
    guards="live",
    repair="sync",
    runbook="The configuration or the model's weights changed. The next sync builds a generation "
    "under the new spec beside the old one, which is served until then. If nobody meant to change "
    "it, look at EMBEDDER_MODEL and at the model folder.",
    evaluate=_evaluate,
)
