"""Vectors against what they are of: chunks in turn are embedded again and compared.

A vector that is sound by itself may be another text's. The golden vector does not tell: it is of
the model, not of what was stored.
"""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import CannotTellError, View
from agent_pipelines.indexing.embedding import embed_checked
from agent_pipelines.indexing.golden import MIN_COSINE, cosine

#: The least cosine between a stored vector and the same text's, embedded now.
#:
#: Who built the generation and who looks now may each be off the reference by what MIN_COSINE
#: allows, to either side: at most 5 degrees apart, a cosine of 0.996; single texts scatter around
#: the golden one, so as much again is allowed. Another text's vector is seldom above 0.95 with
#: MiniLM; where it is above this, the two texts say the same.
_LEAST = 0.99


def _evaluate(view: View) -> Reading:
    likeness = view.golden_likeness
    if likeness is not None and likeness < MIN_COSINE:
        raise CannotTellError("the embedder is not what it was; see golden_vector_matches")
    sampled = view.in_turn
    vectors = embed_checked(view.index.embedder, [stored.chunk.text for stored in sampled])
    wrong = {}
    for stored, now in zip(sampled, vectors, strict=True):
        assert stored.vector is not None
        if (found := cosine(stored.vector, now)) < _LEAST:
            wrong[stored.chunk.id] = f"cosine {found:.4f}"
    if not view.undisturbed:
        raise CannotTellError("a sync or a commit came between")
    view.turn.found("wrong vector", wrong)
    documents = {stored.chunk.id: stored.chunk.document_id for stored in sampled}
    return Reading(
        State.FALSE if wrong else State.TRUE,
        observed=f"{len(sampled) - len(wrong)} of {len(sampled)} vectors are those of their text"
        f" ({view.turn.total} chunks in turn)",
        expected=f"all, by a cosine of at least {_LEAST}",
        evidence=[
            {"chunk": id_, "document": documents[id_], "fault": fault}
            for id_, fault in list(wrong.items())[:20]
        ],
    )


SIGNAL = Signal(
    name="vectors_match_text",
    statement="stored vectors are those of the stored texts; all chunks have their turn within a "
    "day, 500 per audit at most",
    severity="page",
    depth="audit",
    guards="index",
    repair="sync",
    runbook="Something other than a sync wrote vectors, or mixed them up: search finds the wrong "
    "text. The next sync embeds those chunks anew, and audits look at as many others as they can "
    "until all had their turn. If it comes back, see who else can write to Weaviate.",
    evaluate=_evaluate,
)
