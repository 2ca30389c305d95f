"""One evaluator, at two depths, and one recorder of since when.

Belongs here: going through the catalogue so that no signal's failure hides another's. Does not
belong here: who asks (sensor, checks, `status`, a batch at its start).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import Engine, select
from typing_extensions import TypeVar

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import CannotTellError
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import signals as table
from agent_pipelines.state.upsert import upsert


@dataclass(frozen=True)
class Recorded:
    """The last reading of a signal, and since when it has been in that state."""

    name: str
    state: State
    since: datetime
    evaluated_at: datetime
    observed: str
    expected: str
    evidence: Sequence[Mapping[str, str]]


def tick() -> tuple[Signal, ...]:
    """The signals that are cheap enough for every tick."""
    return tuple(signal for signal in catalogue() if signal.depth == "tick")


def audit() -> tuple[Signal, ...]:
    """The signals that look at everything."""
    return tuple(signal for signal in catalogue() if signal.depth == "audit")


class Observed(Protocol):
    """What every view tells of itself, whatever it looks at."""

    @property
    def engine(self) -> Engine: ...

    @property
    def subject(self) -> str:
        """What the readings are of: an index's name, or `machinery`."""

    @property
    def undisturbed(self) -> bool:
        """Whether what was looked at is as it was."""


Looking = TypeVar("Looking", bound=Observed)


def evaluate(view: Looking, signals: Sequence[Signal[Looking]]) -> dict[Signal[Looking], Reading]:
    """Evaluate these signals and record their readings.

    Raises:
        UnavailableError: they cannot be recorded.
    """
    readings = look(view, signals)
    record(view.engine, view.subject, readings)
    return readings


def look(view: Looking, signals: Sequence[Signal[Looking]]) -> dict[Signal[Looking], Reading]:
    """Evaluate these signals. Whatever goes wrong is a reading; nothing is raised."""
    return {signal: _read(signal, view) for signal in signals}


def _read(signal: Signal[Looking], view: Looking) -> Reading:
    try:
        reading = signal.evaluate(view)
        if reading.state is State.FALSE and not view.undisturbed:
            # What was compared is not of one moment.
            raise CannotTellError(
                f"a sync or a commit came between; before that: {reading.observed}"
            )
        return reading
    except CannotTellError as reason:
        observed = str(reason)
    except Exception as error:  # whatever it is, it must be seen, and must not hide the others
        observed = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Reading(State.CANNOT_TELL, observed, signal.statement)


def record(engine: Engine, subject: str, readings: Mapping[Signal[Any], Reading]) -> None:
    """Remember the readings; `since` moves only when the state changes."""
    now = datetime.now(UTC)
    with write(engine) as connection:
        known: dict[str, Any] = {
            row.name: row
            for row in connection.execute(select(table).where(table.c.subject == subject))
        }
        rows = []
        for signal, reading in readings.items():
            before = known.get(signal.name)
            since = before.since if before and before.state == reading.state else now
            rows.append(
                {
                    "subject": subject,
                    "name": signal.name,
                    "state": str(reading.state),
                    "since": since,
                    "evaluated_at": now,
                    "observed": reading.observed,
                    "expected": reading.expected,
                    "evidence": [dict(row) for row in reading.evidence],
                }
            )
        columns = ("state", "since", "evaluated_at", "observed", "expected", "evidence")
        upsert(connection, table, rows, overwrite=columns)


def recorded(engine: Engine, subject: str) -> dict[str, Recorded]:
    """The last reading of every signal of an index, by name."""
    query = select(table).where(table.c.subject == subject)
    with engine.connect() as connection:
        return {
            row.name: Recorded(
                row.name,
                State(row.state),
                row.since,
                row.evaluated_at,
                row.observed,
                row.expected,
                row.evidence,
            )
            for row in connection.execute(query)
        }
