"""The spec that the live generation was built under, against the one that is configured."""

from datetime import timedelta

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing import generations
from agent_pipelines.state import leases


def _evaluate(view: View) -> Reading:
    stored, active = view.generation.fingerprint, view.index.spec.fingerprint
    coming = stored != active and _is_coming(view)
    return Reading(
        State.TRUE if stored == active or coming else State.FALSE,
        observed=f"built under spec {stored[:10]}"
        + (f"; one under {active[:10]} is on its way" if coming else ""),
        expected=f"spec {active[:10]}",
    )


def _is_coming(view: View) -> bool:
    """Whether somebody builds what is configured, or has and readers will get it soon."""
    if leases.is_held(view.engine, f"index {view.subject}"):
        return True
    built = generations.under(view.engine, view.subject, view.index.spec)
    if built is None or built.listed_at is None:
        return False
    # One that was live before is not built anew: it was synced since the live one was.
    live_at = view.generation.listed_at
    again = built.state == "previous" and live_at is not None and built.listed_at > live_at
    if built.state != "building" and not again:
        return False
    return view.now - built.listed_at <= timedelta(seconds=view.index.max_staleness_seconds)


SIGNAL = Signal(
    name="spec_is_current",
    statement="the live generation was built under the configured chunking and embedder, or one "
    "that is is being built",
    severity="page",
    depth="tick",
    guards="live",
    repair="sync",
    runbook="The configuration or the model's weights changed. The next sync builds a generation "
    "under the new spec beside the old one, which is served until then. If nobody meant to change "
    "it, look at EMBEDDER_MODEL and at the model folder.",
    evaluate=_evaluate,
)
