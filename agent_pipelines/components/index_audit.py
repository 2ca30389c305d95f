"""Looking at an index in a run of its own, where the sensor has no time for it.

Belongs here: the audit, with its schedule, and the listing of a source that takes long. Does not
belong here: any signal, or what is done about one (`index_sensor.py`).
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from agent_pipelines.components import index_checks
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.health.evaluate import audit, evaluate, tick
from agent_pipelines.health.signal import Signal
from agent_pipelines.health.view import View
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource


def build(component: ConfiguredIndex) -> dg.JobDefinition:
    """The job: reports every check of depth audit, of what is committed."""
    return _looking(
        component,
        component.audit_job_name,
        audit(),
        f"Look at everything in index {component.name}: ids, content, vectors, search.",
    )


def listing(component: ConfiguredIndex) -> dg.JobDefinition:
    """The job that lists the source, however long that takes, and reports what is fresh."""
    return _looking(
        component,
        component.listing_job_name,
        [signal for signal in tick() if signal.name == "fresh"],
        f"List the source of index {component.name}, which takes too long for its sensor.",
    )


def _looking(
    component: ConfiguredIndex, name: str, signals: Sequence[Signal], description: str
) -> dg.JobDefinition:
    """A job that reports these checks.

    It succeeds whatever it finds: what is false is for the checks to say. Beside a sync that is in
    flight it finds nothing out, and says that.
    """

    @dg.op(name=f"{name}_op")
    def look(
        context: dg.OpExecutionContext,
        weaviate: WeaviateResource,
        embedder: EmbedderResource,
        state: StateResource,
    ) -> None:
        with (
            component.open(weaviate, embedder, state) as index,
            View(index, committed=True, in_run=True) as view,
        ):
            readings = evaluate(view, signals)
        for evaluation in index_checks.evaluations(component, readings):
            context.log_event(evaluation)  # type: ignore[arg-type]  # it takes them, unsaid

    # In one process: a step of its own would load the model a second time.
    @dg.job(
        name=name,
        description=description,
        tags={"index": component.name},
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        look()

    return job


def schedule(component: ConfiguredIndex) -> dg.ScheduleDefinition:
    """The schedule of that job, switched on."""

    @dg.schedule(
        name=f"{component.audit_job_name}_schedule",
        job_name=component.audit_job_name,
        cron_schedule=component.config.audit,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Audits index {component.name}.",
    )
    def audits(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return audits
