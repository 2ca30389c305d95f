"""SQL: rows are listed as they come, told apart by id, and read by it; real SQLite files."""

import sqlite3
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import event, make_url, select, text
from sqlalchemy.dialects import mysql, postgresql, sqlite

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.sources import Document, DocumentError, Ref, Source, SourceError
from agent_pipelines.indexing.sources.sql import Sql, SqlSource, _text


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.db"
    run(
        path,
        "CREATE TABLE tickets (id INTEGER PRIMARY KEY, title, body, changed, labels)",
        "INSERT INTO tickets VALUES (7, 'Slow', '# Slow', 'v1', '{\"team\": \"db\", \"size\": 3}')",
        "INSERT INTO tickets VALUES (8, NULL, 'Broken', 'v1', NULL)",
    )
    return path


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def sql(path: Path | str, query: str, **more: Any) -> Source:
    url = str(path) if "://" in str(path) else f"sqlite:///{path}"
    return Sql(kind="sql", url=url, query=query, **more).open(Path("/nowhere"))


def versions(source: Source) -> dict[str, str]:
    return {ref.id: ref.version for ref in source.list()}


def loaded(source: Source, id_: str) -> Document:
    return source.load(Ref(id_, "listed"))


ALL = "SELECT id, title, body AS text, changed AS version, labels AS metadata FROM tickets"


def test_a_row_is_a_document(tickets: Path) -> None:
    source = sql(tickets, ALL, format="markdown")
    source.check()
    assert versions(source) == {"7": "v1", "8": "v1"}
    assert loaded(source, "7") == Document(
        id="7",
        version="listed",
        text="# Slow",
        title="Slow",
        uri="7",
        format="markdown",
        metadata={"team": "db", "size": "3"},
    )
    assert loaded(source, "8").title == "8"


def test_uri_and_format_may_come_from_the_row(tickets: Path) -> None:
    query = "SELECT id, body AS text, 'https://x/' || id AS uri, 'markdown' AS format FROM tickets"
    document = loaded(sql(tickets, query), "7")
    assert (document.uri, document.format) == ("https://x/7", "markdown")


def test_with_a_version_only_that_says_what_changed(tickets: Path) -> None:
    source = sql(tickets, ALL)
    before = versions(source)
    run(tickets, "UPDATE tickets SET body = 'other' WHERE id = 7")
    assert versions(source) == before
    run(tickets, "UPDATE tickets SET changed = 'v2' WHERE id = 7")
    assert versions(source) == {"7": "v2", "8": "v1"}


@pytest.mark.parametrize("column", ["title", "body", "labels"])
def test_without_a_version_any_column_that_changes_changes_it(tickets: Path, column: str) -> None:
    query = "SELECT id, body AS text, title, labels FROM tickets"
    before = versions(sql(tickets, query))
    assert versions(sql(tickets, query)) == before
    run(tickets, f"UPDATE tickets SET {column} = 'other' WHERE id = 7")
    after = versions(sql(tickets, query))
    assert (after["7"] == before["7"], after["8"] == before["8"]) == (False, True)


def test_a_relative_sqlite_path_starts_at_the_folder_of_the_yaml(tickets: Path) -> None:
    config = Sql(kind="sql", url="sqlite:///../tickets.db", query=ALL)
    assert len(versions(config.open(tickets.parent / "assets"))) == 2


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    source = sql(tmp_path / "none.db", ALL)
    with pytest.raises(UserError, match=r"source\.url .*none\.db cannot be connected to"):
        source.check()
    with pytest.raises(SourceError, match=r"none\.db cannot be listed"):
        list(source.list())
    assert not (tmp_path / "none.db").exists()


def test_the_first_row_is_listed_before_the_last_is_made(tmp_path: Path) -> None:
    made = 0

    def make(n: int) -> str:
        nonlocal made
        made = n
        return f"v{n}"

    rows = 100_000
    source = sql(
        "sqlite://",
        f"WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {rows}) "
        "SELECT id, 'text' AS text, made(id) AS version FROM n",
    )
    assert isinstance(source, SqlSource)

    @event.listens_for(source._database.engine(), "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.create_function("made", 1, make)

    tracemalloc.start()
    listing = source.list()
    first = next(listing)
    assert (first.id, made < rows / 10) == ("1", True)
    assert sum(1 for _ in listing) == rows - 1 == made - 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # the refs alone would take twenty times that


def test_an_abandoned_listing_lets_go_of_the_database(tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    run(
        path,
        "CREATE TABLE many AS WITH RECURSIVE n(id) AS "
        "(SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 5000) SELECT id, 'x' AS text FROM n",
    )
    listing = sql(path, "SELECT * FROM many").list()
    next(listing)
    with closing(sqlite3.connect(path, timeout=0)) as database:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            database.execute("BEGIN EXCLUSIVE")
        del listing
        database.execute("BEGIN EXCLUSIVE")


@pytest.mark.parametrize(
    ("id_", "said"),
    [
        ("NULL", "id is None"),
        ("''", "id is ''"),
        ("1.5", r"id 1\.5 of type float"),
        ("x'00'", "of type bytes"),
        ("CASE id WHEN 7 THEN 7 ELSE 'x' END", "two types, int and str"),
    ],
)
def test_an_id_that_cannot_be_one_fails_the_listing(tickets: Path, id_: str, said: str) -> None:
    source = sql(tickets, f"SELECT {id_} AS id, body AS text FROM tickets")
    with pytest.raises(SourceError, match=said):
        list(source.list())


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT id, body FROM tickets", "gives the columns id, body"),
        ("SELECT id, boddy AS text FROM tickets", "no such column: boddy"),
        ("SELECT id, body AS text FROM tickets; DELETE FROM tickets", "syntax error"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_before_and_while_listing(
    tickets: Path, query: str, said: str
) -> None:
    source = sql(tickets, query)
    with pytest.raises(UserError, match=rf"source\.query .*{said}"):
        source.check()
    with pytest.raises(SourceError, match=said):
        list(source.list())
    assert len(versions(sql(tickets, ALL))) == 2


@pytest.mark.parametrize(
    "query", ["DELETE FROM tickets", "", "  ", "-- SELECT\nDROP TABLE tickets", "EXPLAIN SELECT 1"]
)
def test_what_is_no_select_is_refused_by_name(query: str) -> None:
    with pytest.raises(ValidationError, match=r"query\n.*must be one SELECT"):
        Sql(kind="sql", url="sqlite://", query=query)


@pytest.mark.parametrize(
    "query",
    [
        ALL + " ; \n",
        ALL + " -- all of them",
        "-- all of them\n/* really */ " + ALL,
        f"WITH every AS ({ALL}) SELECT * FROM every",
        "SELECT id, body AS text, ':x' AS title, '%s' AS uri FROM tickets WHERE 5 % 3 = 2",
    ],
)
def test_a_query_is_taken_as_it_is_written(tickets: Path, query: str) -> None:
    source = sql(tickets, query)
    source.check()
    assert set(versions(source)) == {"7", "8"}
    assert loaded(source, "8").text == "Broken"


@given(st.text(alphabet="ab:%\\'\"$?-\n"))
def test_no_character_of_a_query_means_anything_to_us(inside: str) -> None:
    query = f"SELECT '{inside}'"
    source = SqlSource(make_url("sqlite://"), query, "text")
    for dialect in (sqlite.dialect(), postgresql.psycopg2.dialect(), mysql.dialect()):
        compiled = str(select(text("*")).select_from(source._query).compile(dialect=dialect))
        sent = compiled.replace("%%", "%") if dialect.paramstyle != "qmark" else compiled
        assert f"({query}\n)" in sent


def test_a_row_that_is_gone_is_that_documents_failure(tickets: Path) -> None:
    source = sql(tickets, ALL)
    refs = {ref.id: ref for ref in source.list()}
    run(tickets, "DELETE FROM tickets WHERE id = 7")
    with pytest.raises(DocumentError, match="was deleted"):
        source.load(refs["7"])
    for never in ("9", "x", "7.0"):
        with pytest.raises(DocumentError, match="was deleted"):
            loaded(source, never)
    assert source.load(refs["8"]).text == "Broken"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("NULL AS text", "holds no text"),
        ("5 AS text", "`text` is of type int"),
        ("'a' AS text, 'html' AS format", "`format` is 'html'"),
        ("'a' AS text, '{' AS metadata", "`metadata` is not JSON"),
        ("'a' AS text, '[1]' AS metadata", "`metadata` is a JSON list"),
    ],
)
def test_a_bad_row_is_that_documents_failure(tickets: Path, columns: str, said: str) -> None:
    source = sql(tickets, f"SELECT id, {columns} FROM tickets")
    with pytest.raises(DocumentError, match=said):
        loaded(source, "7")


def test_a_computed_id_is_looked_up_as_what_it_is(tickets: Path) -> None:
    """SQLite holds no number equal to its text, unless a column's declaration tells it to."""
    assert loaded(sql(tickets, "SELECT id + 0 AS id, body AS text FROM tickets"), "8").text


def test_ids_that_the_database_finds_equal_are_two_documents(tmp_path: Path) -> None:
    run(
        tmp_path / "t.db",
        "CREATE TABLE t (id TEXT COLLATE NOCASE, text TEXT)",
        "INSERT INTO t VALUES ('A', 'upper'), ('a', 'lower')",
    )
    source = sql(tmp_path / "t.db", "SELECT id, text FROM t")
    assert (loaded(source, "A").text, loaded(source, "a").text) == ("upper", "lower")


def test_many_read_at_once(tickets: Path) -> None:
    source = sql(tickets, ALL)
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: loaded(source, str(7 + n % 2)).text, range(40)))
    assert texts == ["# Slow", "Broken"] * 20


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tickets.db", r"'tickets\.db' is not a SQLAlchemy URL"),
        ("postgresql://me:hush@db:port/x", "'postgresql:…' is not a SQLAlchemy URL"),
    ],
)
def test_a_url_that_is_none_is_the_users_to_mend(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sql(kind="sql", url=url, query=ALL).open(Path())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:hush@db/x", "pip install 'mysqlclient'"),
        ("mysql+pymysql://me:hush@db/x", "pip install 'pymysql'"),
        ("nonsense://me:hush@db/x", "a kind that SQLAlchemy does not know"),
        ("sqlite+aiosqlite:///x.db", "aiosqlite"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_its_package(url: str, said: str) -> None:
    source = sql(url, ALL)
    with pytest.raises(UserError, match=said) as failure:
        source.check()
    assert "hush" not in str(failure.value)
    with pytest.raises(SourceError) as listing:
        list(source.list())
    assert "hush" not in str(listing.value)


def test_the_text_of_a_value_does_not_depend_on_where_it_is_made() -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert _text(noon) == _text(noon.astimezone(timezone(timedelta(hours=5))))
    assert _text({"b": noon, "a": [Decimal("1.0")]}) == _text({"a": [Decimal("1.0")], "b": noon})
    naive = noon.replace(tzinfo=None)
    for value, said in (
        (naive, "2026-01-02T12:00:00"),
        (naive.date(), "2026-01-02"),
        (naive.time(), "12:00:00"),
        (b"x", "78"),
        (memoryview(b"x"), "78"),
        (None, "null"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ):
        assert _text(value) == said
    with pytest.raises(TypeError, match="must be cast to text"):
        _text(object())
