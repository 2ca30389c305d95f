"""The catalogue of the machinery: one file per signal, found by looking. Each defines `SIGNAL`.

Adding a signal is adding a file here, and nothing anywhere else. They are evaluated from outside
of what they watch: by the exporter and by `status`, never by a Dagster run.
"""

from agent_pipelines.health.machine import Machinery
from agent_pipelines.health.signal import Signal, found_in


def catalogue() -> tuple[Signal[Machinery], ...]:
    """Every signal of the machinery, by name; all of them are cheap enough for every tick."""
    return tuple(sorted(found_in(__name__, __path__), key=lambda signal: signal.name))
