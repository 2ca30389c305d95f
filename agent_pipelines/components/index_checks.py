"""The signals of an index as Dagster asset checks.

Belongs here: catalogue → check specs, readings → check results. Does not belong here: any signal.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.health.evaluate import evaluate
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource


def build(component: ConfiguredIndex) -> list[dg.AssetChecksDefinition]:
    """One check operation per asset; those of `index` block the commit."""
    return [
        _checks(component, "index", committed=False),
        _checks(component, "live", committed=True),
    ]


def _checks(component: ConfiguredIndex, asset: str, *, committed: bool) -> dg.AssetChecksDefinition:
    signals = {signal.name: signal for signal in catalogue() if signal.guards == asset}

    @dg.multi_asset_check(
        name=f"{component.name}_{asset}_checks",
        specs=[
            dg.AssetCheckSpec(
                name=signal.name,
                asset=component.key(asset),
                # Only what is about to be committed can be held back.
                blocking=not committed and signal.severity == "page",
                description=f"{signal.statement}.\n\n{signal.runbook}",
            )
            for signal in signals.values()
        ],
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext,
        weaviate: WeaviateResource,
        embedder: EmbedderResource,
        state: StateResource,
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = [signals[key.name] for key in context.selected_asset_check_keys]
        with (
            component.open(weaviate, embedder, state) as index,
            View(index, committed=committed, in_run=True) as view,
        ):
            readings = evaluate(view, chosen)
        for signal, reading in readings.items():
            yield dg.AssetCheckResult(
                asset_key=component.key(asset), check_name=signal.name, **result(signal, reading)
            )

    return checks


def evaluations(
    component: ConfiguredIndex, readings: dict[Signal, Reading]
) -> Sequence[dg.AssetCheckEvaluation]:
    """Readings as events that a sensor may report without starting a run."""
    return [
        dg.AssetCheckEvaluation(
            asset_key=component.key(signal.guards),
            check_name=signal.name,
            **result(signal, reading),
        )
        for signal, reading in readings.items()
    ]


def result(signal: Signal, reading: Reading) -> dict[str, Any]:
    """What Dagster is told: only `true` passes; `cannot tell` says so in its state."""
    metadata: dict[str, Any] = {
        "state": str(reading.state),
        "observed": reading.observed,
        "expected": reading.expected,
    }
    if reading.evidence:
        metadata["evidence"] = dg.TableMetadataValue(
            [dg.TableRecord(dict(row)) for row in reading.evidence],
            dg.TableSchema([dg.TableColumn(name) for name in reading.evidence[0]]),
        )
    return {
        "passed": reading.state is State.TRUE,
        "severity": dg.AssetCheckSeverity.ERROR
        if signal.severity == "page"
        else dg.AssetCheckSeverity.WARN,
        "description": reading.observed
        if reading.state is State.TRUE
        else f"{reading.state}: {reading.observed}",
        "metadata": metadata,
    }
