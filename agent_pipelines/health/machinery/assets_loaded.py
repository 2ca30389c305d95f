"""The assets folder: what cannot be loaded is neither synced nor watched."""

from collections.abc import Mapping

from agent_pipelines.health.machine import Machinery
from agent_pipelines.health.signal import Reading, Signal, State


def judge(broken: Mapping[str, str]) -> Reading:
    """Judge the reasons why folders could not be loaded, by folder."""
    return Reading(
        State.FALSE if broken else State.TRUE,
        observed=f"{', '.join(broken)} cannot be loaded" if broken else "all of it is loaded",
        expected="every folder of the assets can be loaded",
        evidence=[{"folder": name, "why": why} for name, why in broken.items()],
    )


SIGNAL: Signal[Machinery] = Signal(
    name="assets_loaded",
    statement="every folder of the assets can be loaded",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="The defs.yaml or the Python of a folder is wrong, or a variable it names is not "
    "set. The others go on; what this folder defines exists for nobody until it is corrected and "
    "the code location is reloaded. The evidence names the field and the line; `agent-pipelines "
    "doctor` checks the correction.",
    evaluate=lambda view: judge(view.broken),
)
