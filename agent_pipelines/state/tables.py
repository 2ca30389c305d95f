"""The tables of the state database, in SQLAlchemy Core.

Belongs here: columns, keys, and what each row means. Does not belong here: how the schema came to
be (`migrations/`) or any query. A change here needs a migration; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. Naive datetimes are refused: a shifted time zone hides staleness."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: state times carry a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        # SQLite returns what it stored without the zone; it was UTC when it was written.
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


#: One row per generation: a Weaviate collection built under one spec.
generations = Table(
    "generations",
    metadata,
    Column("collection", String(255), primary_key=True),
    Column("index_name", String(200), nullable=False, index=True),
    Column("fingerprint", String(64), nullable=False),
    Column("spec", JSON, nullable=False),
    # creating → building → live → previous → retired; rejected: live once, and rolled back
    Column("state", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # The vector of the golden text, by whichever backend built this first.
    Column("golden_vector", JSON),
    # Of the collection, as it was created; empty where that was before this was kept.
    Column("settings", JSON),
)

#: One row per partition of a generation: the listing it is in step with.
partitions = Table(
    "partitions",
    metadata,
    Column("collection", String(255), primary_key=True),
    Column("number", Integer, primary_key=True),
    # how many partitions there are; the same in all rows of a generation
    Column("of", Integer, nullable=False),
    # both empty while a sync is changing it
    Column("source_digest", String(64)),
    Column("listed_at", UtcDateTime),
)

#: The ledger, per document: what we believe is in a generation.
documents = Table(
    "documents",
    metadata,
    Column("collection", String(255), primary_key=True),
    Column("document_id", String(1024), primary_key=True),
    Column("version", String(255), nullable=False),
    # empty until the document was read once
    Column("content_hash", String(64), nullable=False, default=""),
    # pending: a write is in flight; indexed: confirmed; failed: see error
    Column("state", String(16), nullable=False),
    # of the id: which partition it is in
    Column("bucket", Integer, nullable=False),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "collection", "state"),
)

#: The ledger, per chunk. While a write is in flight old and new rows stand side by side.
chunks = Table(
    "chunks",
    metadata,
    Column("collection", String(255), primary_key=True),
    Column("chunk_id", String(36), primary_key=True),
    Column("document_id", String(1024), nullable=False),
    Column("position", Integer, nullable=False),
    Column("content_hash", String(64), nullable=False),
    # of the text alone, which is all that its vector depends on
    Column("text_hash", String(32), nullable=False),
    # writing: may be in the store, or half in it; present: confirmed there; moving: confirmed, its
    # position may be the old or the new; doubted: was confirmed, and is missing or wrong now;
    # retiring: may still be there
    Column("state", String(16), nullable=False),
    # of the document's id
    Column("bucket", Integer, nullable=False),
    Index(None, "collection", "document_id"),
    Index(None, "collection", "text_hash"),
    Index(None, "collection", "state", "bucket"),
)

#: Chunk ids that were served once, so that an old citation still resolves to its document.
tombstones = Table(
    "tombstones",
    metadata,
    Column("index_name", String(200), primary_key=True),
    Column("chunk_id", String(36), primary_key=True),
    Column("document_id", String(1024), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("retired_at", UtcDateTime, nullable=False, index=True),
)

#: Committed syncs. The newest row of an index is what readers get.
snapshots = Table(
    "snapshots",
    metadata,
    Column("index_name", String(200), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("collection", String(255), nullable=False),
    Column("source_digest", String(64), nullable=False),
    Column("manifest_digest", String(64), nullable=False),
    Column("documents", Integer, nullable=False),
    Column("failed_documents", Integer, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("listed_at", UtcDateTime, nullable=False),
    Column("committed_at", UtcDateTime, nullable=False),
)

#: Source changes seen but not yet live; the oldest `since` is the staleness of the index.
source_changes = Table(
    "source_changes",
    metadata,
    Column("index_name", String(200), primary_key=True),
    Column("document_id", String(1024), primary_key=True),
    # empty for a deleted document
    Column("version", String(255), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    # the last listing that had it
    Column("listed_at", UtcDateTime, nullable=False),
)

#: The last complete listing of each source: when, and its digest.
listings = Table(
    "listings",
    metadata,
    Column("index_name", String(200), primary_key=True),
    Column("listed_at", UtcDateTime, nullable=False),
    Column("source_digest", String(64), nullable=False),
    Column("documents", Integer, nullable=False),
    # What that took; and when a look began another that has not ended.
    Column("seconds", Float, nullable=False),
    Column("begun_at", UtcDateTime),
)

#: One writer per name. A holder's token only grows, so that a late writer can be told apart.
leases = Table(
    "leases",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("holder", String(255), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

#: The last reading of each signal, and since when it has been in that state.
signals = Table(
    "signals",
    metadata,
    # the index or the batch it speaks of
    Column("subject", String(255), primary_key=True),
    Column("name", String(100), primary_key=True),
    # true, false, cannot tell
    Column("state", String(16), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("evaluated_at", UtcDateTime, nullable=False),
    Column("observed", Text, nullable=False),
    Column("expected", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
)

#: How far the rotating sample of a generation has come.
rotations = Table(
    "rotations",
    metadata,
    Column("collection", String(255), primary_key=True),
    # the chunk that was looked at last
    Column("position", String(36), nullable=False),
    # chunks that are to be looked at as quickly as can be: a fault was found among the others
    Column("hurried", Integer, nullable=False),
    Column("taken_at", UtcDateTime, nullable=False),
)

#: Chunks in which an audit found what only writing them anew can mend.
suspects = Table(
    "suspects",
    metadata,
    Column("collection", String(255), primary_key=True),
    Column("chunk_id", String(36), primary_key=True),
    # wrong vector: not that of its text; not found: its vector is there and no search finds it
    Column("fault", String(16), primary_key=True),
    Column("detail", Text, nullable=False),
    # a sync has seen to it that it is written anew; the next audit looks whether that helped
    Column("doubted", Boolean, nullable=False),
)

#: Runs that were asked for because a signal is false, since it last was not.
repairs = Table(
    "repairs",
    metadata,
    Column("index_name", String(200), primary_key=True),
    Column("signal", String(100), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("asked_at", UtcDateTime, nullable=False),
    # how far the index was when the last one was asked for
    Column("reached", String(255), nullable=False),
)

#: One row per agent batch.
batches = Table(
    "batches",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("agent", String(200), nullable=False),
    # opening: its tasks are being staged; running, finished, stopped; waiting: for what is down,
    # to be started again by itself; interactive: of the API
    Column("state", String(16), nullable=False),
    # a digest of what it is to do, by which it is found again; empty while it is opening
    Column("work", String(64)),
    # how many; empty while it is opening
    Column("tasks", BigInteger),
    # the model that answers, by the name that its server gives it
    Column("model", String(255)),
    # which part of the agent's tasks, such as 2-of-4; empty for all of them
    Column("partition", String(32), nullable=False, server_default=""),
    # the batch whose failed rows it answers anew; the journals of the others are there
    Column("rerun_of", String(64)),
    # of an interactive one: whose tasks these are
    Column("tenant", Text),
    Column("index_name", String(200)),
    Column("sequence", BigInteger),
    # names of the signals that were false when it started, under the `label` policy
    Column("false_signals", JSON, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    # of an interactive one: when its day ends
    Column("finished_at", UtcDateTime),
    # that its runs took, all together; what kill -9 cut off is not in it
    Column("seconds", Float, nullable=False, server_default="0"),
    # what it took of its model server (agents/use.py); empty where that did not say
    Column("used", JSON),
    # how it is started again: the config, tags and partition of its run
    Column("resumption", JSON),
    # what it waits for and why, how often in a row it has without an answer in between, and from
    # when on it may be, and is to be, started again
    Column("waits_for", String(200)),
    Column("wait_reason", Text),
    Column("waits", Integer, nullable=False, server_default="0"),
    Column("resume_from", UtcDateTime),
    Column("resume_at", UtcDateTime),
    Index(None, "agent", "tenant"),
)

#: What a batch is to answer, staged when it is opened; the source may change, its batch does not.
tasks = Table(
    "tasks",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    # where it stands in its source: line or row, from 1; there may be gaps
    Column("ordinal", BigInteger, primary_key=True),
    Column("task_id", String(255), nullable=False),
    Column("inputs", JSON, nullable=False),
    Index(None, "batch_id", "task_id"),
)

#: One answer per task of a batch.
answers = Table(
    "answers",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("task_id", String(255), primary_key=True),
    # ok, model, tool, transport, budget, schema, refused
    Column("outcome", String(16), nullable=False),
    Column("output", JSON),
    Column("citations", JSON, nullable=False),
    Column("error", Text),
    Column("turns", Integer, nullable=False),
    Column("tool_calls", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("index_name", String(200)),
    Column("sequence", BigInteger),
    # names of the signals that were not true when it was given
    Column("false_signals", JSON, nullable=False, default=list),
    # calls (tool, arguments) that were sent once, and nobody knows whether they took effect
    Column("outcome_unknown", JSON, nullable=False, default=list),
    # calls (tool, arguments) that took effect, and may not be repeated
    Column("calls_done", JSON, nullable=False, default=list),
    Column("finished_at", UtcDateTime, nullable=False),
)

#: The journal: every finished message of every conversation, in order.
messages = Table(
    "messages",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("task_id", String(255), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    # an OpenAI chat message, as sent to or received from the model, with a `trace` beside it
    # (tokens, what was retrieved) that is never sent
    Column("message", JSON, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

#: Tool calls of all batches there ever were, added up: counters that outlive the processes.
tool_calls = Table(
    "tool_calls",
    metadata,
    Column("server", String(200), primary_key=True),
    Column("tool", String(200), primary_key=True),
    # ok, error, outage, transport, unavailable, cancelled
    Column("outcome", String(16), primary_key=True),
    # they took at most this many seconds; empty for calls that were not sent, or not waited for
    Column("bound", String(16), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
)

#: The breaker of each tool server in the worker of each agent, as it was last heard of.
tool_breakers = Table(
    "tool_breakers",
    metadata,
    Column("agent", String(200), primary_key=True),
    Column("server", String(200), primary_key=True),
    # closed, open, half open
    Column("state", String(16), nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)
