"""The committed sequence: the state database and the store must know of the same one."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import CannotTellError, View
from agent_pipelines.indexing import live
from agent_pipelines.indexing.sequence import told


def _evaluate(view: View) -> Reading:
    # The snapshot first: a commit that comes between is then seen as one.
    snapshot = live.latest(view.engine, view.subject)
    sequence = view.snapshot.sequence if snapshot else 0
    known = told(view.index)
    if known is None:
        raise CannotTellError(
            "the store was not told of any commit" if snapshot else "the index was never committed"
        )
    agree = known.agrees_with(sequence)
    if agree is None or (snapshot is None and live.latest(view.engine, view.subject)):
        raise CannotTellError(
            f"a commit is in flight, or was killed: the store knows {known}, the state database "
            f"{sequence}"
        )
    older = "the state database" if known.sequence > sequence else "the store"
    return Reading(
        State.TRUE if agree else State.FALSE,
        observed=f"snapshot {known} in the store"
        + ("" if agree else f": {older} is older than the other"),
        expected=f"snapshot {sequence}, as in the state database",
    )


SIGNAL = Signal(
    name="snapshot_in_store",
    statement="store and state database know of the same committed snapshot",
    severity="page",
    depth="tick",
    guards="live",
    repair="verify",
    runbook="One of the two was restored from a backup, or replaced by an empty one; the reading "
    "says which is older. The next sync compares everything and brings both in step with the "
    "source. Numbers of snapshots that were lost are not given again. If nobody restored anything, "
    "look at STATE_DATABASE_URL and WEAVIATE_URL of each process.",
    evaluate=_evaluate,
)
