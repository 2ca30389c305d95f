"""The state database: present, complete, writable, and not an older one put in its place."""

from agent_pipelines.errors import UserError
from agent_pipelines.health.machine import Machinery
from agent_pipelines.health.signal import Reading, Signal, holds
from agent_pipelines.state.canary import Proof, prove

_EXPECTED = "a row written is found by whoever connects next, in a schema that is complete"


def judge(proof: Proof, remembered: int) -> Reading:
    """Judge what was found, remembering the canary that was found before (0: none was)."""
    if proof.found is None and not proof.missing:
        return holds(False, "another file has taken the database's place", _EXPECTED)
    if proof.missing:
        return holds(False, f"there is no table {', '.join(proof.missing)}", _EXPECTED)
    if proof.version != proof.newest:
        observed = f"its schema has version {proof.version}, this program's is {proof.newest}"
        return holds(False, observed, _EXPECTED)
    if proof.found != proof.written:
        observed = f"row {proof.written} was written, and {proof.found} is found: another file "
        return holds(False, observed + "has taken the database's place", _EXPECTED)
    if proof.found <= remembered:
        observed = f"row {proof.found} is found after {remembered}: an older database was restored"
        return holds(False, observed, _EXPECTED)
    return holds(True, f"row {proof.found} written and found", _EXPECTED)


def _evaluate(view: Machinery) -> Reading:
    try:
        proof = prove(view.engine)
    except UserError as error:
        return holds(False, error.message, _EXPECTED)
    reading = judge(proof, view.memory.canary)
    view.memory.canary = max(view.memory.canary, proof.found or 0)
    return reading


SIGNAL = Signal(
    name="state_database_writable",
    statement="the state database takes a row and gives it back, has every table, and has not gone "
    "back in time",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="Without the state database no sync can start, and nothing can be told of any index. "
    "The evidence says whether it does not answer, is read-only or full, lacks tables, or was "
    "replaced. Processes that had it open go on with what nobody else sees: restart all of them "
    "(daemon, tool servers, exporter). After a restore run `agent-pipelines sync INDEX --verify` "
    "for every index; then restart the exporter, which else remembers the newer one.",
    evaluate=_evaluate,
)
