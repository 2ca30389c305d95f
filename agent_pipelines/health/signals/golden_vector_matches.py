"""The model behind the name: the golden text embedded again, against what the generation has."""

from agent_pipelines.health.signal import Reading, Signal, State, holds
from agent_pipelines.health.view import CannotTellError, View
from agent_pipelines.indexing.golden import MIN_COSINE


def _evaluate(view: View) -> Reading:
    likeness = view.golden_likeness
    if likeness is None and view.counts.chunks:
        # Not good news: whatever is embedded next would be taken for what it was built with.
        raise CannotTellError("the generation's golden vector is lost")
    if likeness is None:
        return Reading(State.TRUE, "nothing was embedded yet", "nothing to compare")
    return holds(likeness >= MIN_COSINE, f"cosine {likeness:.5f}", f"at least {MIN_COSINE}")


SIGNAL = Signal(
    name="golden_vector_matches",
    statement="the embedder gives the golden text the vector that the generation was built with",
    severity="page",
    depth="audit",
    guards="index",
    repair="person",
    runbook="The weights behind the embedder's name, its backend or its settings changed: queries "
    "are encoded otherwise than what they search, and syncs refuse to add to the index. Bring back "
    "the model that built it, or name the new one in the index's `embedder`, which builds a new "
    "generation.",
    evaluate=_evaluate,
)
