"""An index as Dagster assets: `<name>/documents` → `<name>/index` → `<name>/live`.

Belongs here: which definitions an index becomes, and how its engine's reports read in the UI. Does
not belong here: how an index is opened (`configured_index.py`), the checks (`index_checks.py`), the
audit (`index_audit.py`), the sensor (`index_sensor.py`).
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from agent_pipelines.components import index_audit, index_checks, index_sensor
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.components.cron import longest_gap
from agent_pipelines.components.index_config import IndexConfig
from agent_pipelines.errors import UserError
from agent_pipelines.indexing.listing import Listing
from agent_pipelines.indexing.live import CommitError, Snapshot, commit, rollback
from agent_pipelines.indexing.partition import WHOLE
from agent_pipelines.indexing.sources import SourceError
from agent_pipelines.indexing.sync import SyncError, SyncReport, sync
from agent_pipelines.progress import progress_or_log
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource


class SyncConfig(dg.Config):
    """What a person may say to one sync, in the launchpad or on the command line."""

    accept_deletions: bool = Field(
        default=False,
        description="Delete even though the listing shrank suspiciously: the shrinking is right.",
    )
    verify: bool = Field(
        default=False,
        description="Compare every object in the store with the ledger, search for each by its "
        "vector, and repair what is wrong.",
    )


class IndexComponent(ConfiguredIndex, dg.Component):
    """An index: a source, kept in step as vectors in Weaviate, for agents to search."""

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return IndexConfig

    @classmethod
    def load(
        cls, attributes: BaseModel | None, context: dg.ComponentLoadContext
    ) -> "IndexComponent":
        assert isinstance(attributes, IndexConfig)
        return cls(context.path.name, attributes, context.path)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        del context
        jobs, audit, listing = self._jobs(), index_audit.build(self), index_audit.listing(self)
        return dg.Definitions(
            assets=[self._documents(), self._index(), self._live()],
            asset_checks=index_checks.build(self),
            jobs=[*jobs, audit, listing, self._rollback()],
            schedules=[self._schedule(), index_audit.schedule(self)],
            sensors=[index_sensor.build(self, jobs, audit, listing)],
        )

    def _jobs(self) -> Sequence[Any]:
        description = f"Bring index {self.name} in step with its source"
        documents, index, live = (
            dg.AssetSelection.assets(self.key(asset)) for asset in ("documents", "index", "live")
        )
        tags = {"index": self.name}
        if not self.partitions:
            return [
                dg.define_asset_job(
                    self.job_name,
                    selection=documents | index | live,
                    description=f"{description}, check it, commit it.",
                    tags=tags,
                )
            ]
        # A commit in the job of a partition would run after the first partition of all.
        return [
            dg.define_asset_job(
                self.job_name,
                selection=(documents | index).without_checks(),
                description=f"{description}, one partition per run.",
                tags=tags,
            ),
            dg.define_asset_job(
                self.live_job_name,
                selection=live | dg.AssetSelection.checks_for_assets(self.key("index")),
                description=f"Check index {self.name} and commit it, once all partitions are in.",
                tags=tags,
            ),
        ]

    def _schedule(self) -> dg.ScheduleDefinition:
        @dg.schedule(
            name=f"{self.job_name}_schedule",
            job_name=self.job_name,
            cron_schedule=self.config.schedule,
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Syncs index {self.name} even when nothing seems stale.",
        )
        def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
            at = context.scheduled_execution_time.isoformat()
            if not self.partitions:
                yield dg.RunRequest(run_key=at)
            for key in self.partitions:
                yield dg.RunRequest(run_key=f"{at} {key}", partition_key=key)

        return schedule

    def _rollback(self) -> dg.JobDefinition:
        @dg.op(name=f"{self.name}__rollback")
        def rollback_op(
            context: dg.OpExecutionContext,
            weaviate: WeaviateResource,
            embedder: EmbedderResource,
            state: StateResource,
        ) -> None:
            try:
                with self.open(weaviate, embedder, state) as opened:
                    snapshot = rollback(opened)
            except (CommitError, UserError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            context.log_event(
                dg.AssetMaterialization(self.key("live"), metadata=_snapshot_metadata(snapshot))
            )

        @dg.job(
            name=self.rollback_job_name,
            description=f"Return index {self.name} to the generation that was live before.",
            tags={"index": self.name},
        )
        def rollback_job() -> None:
            rollback_op()

        return rollback_job

    def _common(self, asset: str, description: str) -> dict[str, Any]:
        return {
            "key": self.key(asset),
            "group_name": self.name,
            "description": f"{description}\n\n{self.config.description}".strip(),
        }

    def _documents(self) -> Any:
        @dg.observable_source_asset(
            **self._common("documents", "The source as it lists itself; its version is a digest.")
        )
        def documents() -> dg.ObserveResult:
            try:
                with Listing(self.source.list()) as listing:
                    return dg.ObserveResult(
                        data_version=dg.DataVersion(listing.digest()),
                        metadata={"documents": len(listing)},
                    )
            except SourceError as error:
                raise dg.Failure(f"{self.name}: {error}", allow_retries=False) from error

        return documents

    def _index(self) -> Any:
        @dg.asset(
            **self._common("index", "Chunks and vectors of every document, in one generation."),
            deps=[self.key("documents")],
            kinds={"weaviate"},
            freshness_policy=_ran(self.config.schedule),
            partitions_def=dg.StaticPartitionsDefinition(list(self.partitions))
            if self.partitions
            else None,
        )
        def index(
            context: dg.AssetExecutionContext,
            config: SyncConfig,
            weaviate: WeaviateResource,
            embedder: EmbedderResource,
            state: StateResource,
        ) -> dg.MaterializeResult[None]:
            try:
                with self.open(weaviate, embedder, state) as opened:
                    report = sync(
                        opened,
                        accept_deletions=config.accept_deletions,
                        verify=config.verify,
                        progress=progress_or_log(context.log.info),
                        partition=self.partitions[context.partition_key]
                        if self.partitions
                        else WHOLE,
                    )
            except (SyncError, UserError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            return dg.MaterializeResult(metadata=_sync_metadata(report))

        return index

    def _live(self) -> Any:
        @dg.asset(
            **self._common("live", "What agents get: the alias and the committed snapshot."),
            deps=[self.key("index")],
            kinds={"weaviate"},
        )
        def live(
            weaviate: WeaviateResource, embedder: EmbedderResource, state: StateResource
        ) -> dg.MaterializeResult[None]:
            try:
                with self.open(weaviate, embedder, state) as opened:
                    snapshot = commit(opened)
            except (CommitError, UserError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            return dg.MaterializeResult(
                data_version=dg.DataVersion(snapshot.manifest_digest),
                metadata=_snapshot_metadata(snapshot),
            )

        return live


def _ran(cron: str) -> dg.FreshnessPolicy:
    """Dagster's own word on whether the schedule's syncs end; whether the index is true, it cannot
    tell. One that is missed is made up for by the next.
    """
    return dg.FreshnessPolicy.time_window(fail_window=2 * longest_gap(cron))


def _snapshot_metadata(snapshot: Snapshot) -> dict[str, Any]:
    age = (datetime.now(UTC) - snapshot.listed_at).total_seconds()
    return {
        "sequence": snapshot.sequence,
        "generation": snapshot.collection,
        "documents": snapshot.documents,
        "failed_documents": snapshot.failed_documents,
        "chunks": snapshot.chunks,
        "committed_at": dg.TimestampMetadataValue(snapshot.committed_at.timestamp()),
        "age_of_listing_seconds": round(age, 1),
    }


def _sync_metadata(report: SyncReport) -> dict[str, Any]:
    counts = ("listed", "changed", "deleted", "failed", "written", "embedded", "reused", "retired")
    seconds = ("seconds", "seconds_listing", "seconds_embedding")
    return {
        **{name: getattr(report, name) for name in (*counts, "repaired")},
        **{name: round(getattr(report, name), 3) for name in seconds},
        "generation": report.collection,
        "changes": dg.TableMetadataValue(
            [
                dg.TableRecord({"document": c.document_id, "change": c.kind, "reason": c.reason})
                for c in report.changes
            ],
            dg.TableSchema([dg.TableColumn(n) for n in ("document", "change", "reason")]),
        ),
    }
