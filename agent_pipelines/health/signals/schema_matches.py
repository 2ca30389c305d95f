"""The schema of the live collection, against the one that it was created with."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    generation = view.generation
    found = view.index.store.deviations(generation.collection, generation.settings)
    return Reading(
        State.FALSE if found else State.TRUE,
        observed=f"{len(found)} deviations"
        + (f": {', '.join(deviation.what for deviation in found)}" if found else ""),
        expected="none from what the generation was created with",
        evidence=[{"what": d.what, "observed": d.observed, "expected": d.expected} for d in found],
    )


SIGNAL = Signal(
    name="schema_matches",
    statement="properties, tokenisation and vector index are those the generation was created with",
    severity="page",
    depth="tick",
    guards="index",
    repair="sync",
    runbook="Somebody changed the collection's schema, or made a collection of that name anew: "
    "filters and words may silently find less. The next sync builds a new generation beside it and "
    "swaps the alias.",
    evaluate=_evaluate,
)
