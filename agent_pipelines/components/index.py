"""An index as Dagster assets: `<name>/documents` → `<name>/index` → `<name>/live`.

Belongs here: which definitions an index becomes, and how its engine's reports read in the UI. Does
not belong here: how an index is opened (`configured_index.py`), the checks (`index_checks.py`), the
sensor (`index_sensor.py`).
"""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from agent_pipelines.components import index_checks, index_sensor
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.components.index_config import IndexConfig
from agent_pipelines.errors import UserError
from agent_pipelines.indexing.live import CommitError, commit
from agent_pipelines.indexing.sources import SourceError
from agent_pipelines.indexing.sync import SyncError, SyncReport, sync
from agent_pipelines.progress import progress_or_log
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource

#: Rows of a metadata table; the UI is no place for thousands.
_TABLE_ROWS = 50


class SyncConfig(dg.Config):
    """What a person may say to one sync, in the launchpad or on the command line."""

    accept_deletions: bool = Field(
        default=False,
        description="Delete even though the listing shrank suspiciously: the shrinking is right.",
    )
    verify: bool = Field(
        default=False,
        description="Compare every object in the store with the ledger, and repair differences.",
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
        checks = index_checks.build(self)
        job = dg.define_asset_job(
            self.job_name,
            selection=dg.AssetSelection.assets(*map(self.key, ("documents", "index", "live"))),
            description=f"Bring index {self.name} in step with its source, check it, commit it.",
            tags={"index": self.name},
        )
        return dg.Definitions(
            assets=[self._documents(), self._index(), self._live()],
            asset_checks=checks,
            jobs=[job],
            schedules=[
                dg.ScheduleDefinition(
                    name=f"{self.job_name}_schedule",
                    job=job,
                    cron_schedule=self.config.schedule,
                    execution_timezone="UTC",
                    default_status=dg.DefaultScheduleStatus.RUNNING,
                )
            ],
            sensors=[index_sensor.build(self)],
        )

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
            from agent_pipelines.indexing.plan import source_digest

            try:
                listing = self.source.list()
            except SourceError as error:
                raise dg.Failure(f"{self.name}: {error}", allow_retries=False) from error
            if listing.incomplete:
                raise dg.Failure(f"{self.name}: the listing is incomplete: {listing.incomplete}")
            return dg.ObserveResult(
                data_version=dg.DataVersion(source_digest(listing.refs)),
                metadata={"documents": len(listing.refs)},
            )

        return documents

    def _index(self) -> Any:
        @dg.asset(
            **self._common("index", "Chunks and vectors of every document, in one generation."),
            deps=[self.key("documents")],
            kinds={"weaviate"},
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
                metadata={
                    "sequence": snapshot.sequence,
                    "generation": snapshot.collection,
                    "documents": snapshot.documents,
                    "failed_documents": snapshot.failed_documents,
                    "chunks": snapshot.chunks,
                    "committed_at": dg.TimestampMetadataValue(snapshot.committed_at.timestamp()),
                    "age_of_listing_seconds": round(
                        (datetime.now(UTC) - snapshot.listed_at).total_seconds(), 1
                    ),
                },
            )

        return live


def _sync_metadata(report: SyncReport) -> dict[str, Any]:
    changes = [
        *({"document": id_, "change": "deleted", "reason": ""} for id_ in report.deleted),
        *(
            {
                "document": id_,
                "change": "failed" if id_ in report.failed else "indexed",
                "reason": report.failed.get(id_, ""),
            }
            for id_ in report.changed
        ),
    ]
    return {
        "listed": report.listed,
        "changed": len(report.changed),
        "deleted": len(report.deleted),
        "failed": len(report.failed),
        "written": report.written,
        "embedded": report.embedded,
        "retired": report.retired,
        "repaired": report.repaired,
        "seconds": round(report.seconds, 3),
        "seconds_listing": round(report.seconds_listing, 3),
        "seconds_embedding": round(report.seconds_embedding, 3),
        "generation": report.collection,
        "changes": dg.TableMetadataValue(
            [dg.TableRecord(row) for row in changes[:_TABLE_ROWS]],
            dg.TableSchema([dg.TableColumn(n) for n in ("document", "change", "reason")]),
        ),
    }
