"""The audit of an index: the signals that look at everything, as a job and its schedule.

Belongs here: when they are evaluated beside the syncs, which evaluate them too. Does not belong
here: any signal, or what is done about one (`index_sensor.py`).
"""

from collections.abc import Iterator

import dagster as dg

from agent_pipelines.components import index_checks
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.health.evaluate import audit, evaluate
from agent_pipelines.health.view import View
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource


def build(component: ConfiguredIndex) -> dg.JobDefinition:
    """The job: reports every check of depth audit, of what is committed.

    It succeeds whatever it finds: what is false is for the checks to say. Beside a sync that is in
    flight it finds nothing out, and says that.
    """

    @dg.op(name=f"{component.name}__audit")
    def audit_op(
        context: dg.OpExecutionContext,
        weaviate: WeaviateResource,
        embedder: EmbedderResource,
        state: StateResource,
    ) -> None:
        with (
            component.open(weaviate, embedder, state) as index,
            View(index, committed=True) as view,
        ):
            readings = evaluate(view, audit())
        for evaluation in index_checks.evaluations(component, readings):
            context.log_event(evaluation)  # type: ignore[arg-type]  # it takes them, unsaid

    # In one process: a step of its own would load the model a second time.
    @dg.job(
        name=component.audit_job_name,
        description=f"Look at everything in index {component.name}: ids, content, vectors, search.",
        tags={"index": component.name},
        executor_def=dg.in_process_executor,
    )
    def audit_job() -> None:
        audit_op()

    return audit_job


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
