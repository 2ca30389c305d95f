"""The state database: one schema, whoever opens it first, and a named error for whoever cannot."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.exc import StatementError

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import answers, chunks, listings, metadata, partitions
from agent_pipelines.state.upsert import upsert


def test_the_migrations_make_the_schema_of_the_tables(state_url: str) -> None:
    engine = open_engine(state_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_opening_again_keeps_what_is_there(state_url: str) -> None:
    row = {
        "index_name": "i",
        "listed_at": datetime.now(UTC),
        "source_digest": "",
        "documents": 1,
        "seconds": 1.5,
        "begun_at": None,
    }
    with write(open_engine(state_url)) as connection:
        connection.execute(insert(listings).values(row))
    with open_engine(state_url).connect() as connection:
        assert connection.execute(select(listings)).one()._asdict() == row


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no url at all",
        "postgresql+psycopg2://u:secret@host:port/db",
        "postgres://u:secret@host/db",
        "postgresql+nosuchdriver://u:secret@host/db",
        "mysql+mysqldb://u:secret@host/db",
        "u:secret@host",
    ],
)
def test_a_url_that_cannot_be_used_is_the_users_to_mend_and_hides_the_password(url: str) -> None:
    with pytest.raises(UserError) as refused:
        open_engine(url)
    assert "sqlite:///" in refused.value.remedy
    assert "secret" not in str(refused.value)


def test_a_database_that_cannot_be_written_or_reached_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "garbage.db").write_bytes(b"this is no database, though it is long enough" * 50)
    urls = [
        "sqlite:////proc/agent-pipelines/state.db",
        f"sqlite:///{tmp_path}/file/state.db",
        f"sqlite:///{tmp_path}/folder.db",
        f"sqlite:///{tmp_path}/garbage.db",
        "postgresql+psycopg2://u:secret@127.0.0.1:9/db",
    ]
    for url in urls:
        with pytest.raises(UnavailableError, match="cannot be used") as refused:
            open_engine(url)
        assert "secret" not in str(refused.value)


def test_a_schema_newer_than_this_program_is_refused(state_url: str) -> None:
    """An older program must not write into what it does not know."""
    with write(open_engine(state_url)) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="9999, newer than this program's") as refused:
        open_engine(state_url)
    assert "upgrade" in refused.value.remedy


def test_three_processes_that_open_a_new_database_at_once_all_can(state_url: str) -> None:
    """As `dev` starts webserver, daemon and tool server together."""
    code = (
        "import sys; from agent_pipelines.state.engine import open_engine; import alembic.command;"
        "print('ready', flush=True); sys.stdin.readline(); open_engine(sys.argv[1])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, state_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ},
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        print(file=process.stdin, flush=True)
    for process in started:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    with open_engine(state_url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_times_carry_a_zone_and_come_back_in_utc(state_url: str) -> None:
    engine = open_engine(state_url)
    berlin = datetime(2026, 7, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    row = {"index_name": "i", "listed_at": berlin, "source_digest": "", "documents": 1}
    with write(engine) as connection:
        connection.execute(insert(listings).values(row))
    with engine.connect() as connection:
        (stored,) = connection.scalars(select(listings.c.listed_at))
    assert stored == berlin
    assert stored.tzinfo is UTC
    naive = row | {"index_name": "j", "listed_at": datetime(2026, 7, 1, 14)}  # noqa: DTZ001
    with pytest.raises(StatementError, match="carry a time zone"), write(engine) as connection:
        connection.execute(insert(listings).values(naive))


def test_a_failed_write_leaves_nothing_behind(state_url: str) -> None:
    engine = open_engine(state_url)
    row = {"index_name": "i", "listed_at": datetime.now(UTC), "source_digest": "", "documents": 1}

    def half_a_write() -> None:
        with write(engine) as connection:
            connection.execute(insert(listings).values(row))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_a_write()
    with engine.connect() as connection:
        assert connection.execute(select(listings)).all() == []


def test_a_reader_is_not_held_up_by_a_writer(state_url: str) -> None:
    engine = open_engine(state_url)
    row = {"index_name": "i", "listed_at": datetime.now(UTC), "source_digest": "", "documents": 1}
    with write(engine) as writing:
        writing.execute(insert(listings).values(row))
        with engine.connect() as reading:
            assert reading.execute(select(listings)).all() == []


def test_upsert_inserts_overwrites_and_adds(state_url: str) -> None:
    engine = open_engine(state_url)
    row = {"index_name": "i", "listed_at": datetime.now(UTC), "source_digest": "a", "documents": 1}
    with write(engine) as connection:
        upsert(connection, listings, [], overwrite=("source_digest",))
        for digest in ("a", "b"):
            rows = [row | {"source_digest": digest}]
            upsert(connection, listings, rows, overwrite=("source_digest",), add=("documents",))
    with engine.connect() as connection:
        stored = connection.execute(select(listings)).one()
    assert (stored.source_digest, stored.documents) == ("b", 2)


def test_a_database_of_the_first_version_is_upgraded_and_keeps_what_was_in_step(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    config = Config()
    config.set_main_option("script_location", "agent_pipelines.state:migrations")
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO generations VALUES ('C', 'i', 'f', '{}', 'live', "
                "'2026-11-01 12:00:00', 'digest', '2026-11-01 11:00:00')"
            )
        )
        connection.execute(
            text("INSERT INTO chunks VALUES ('C', 'id', 'doc', 0, 'hash', 'present')")
        )
    with open_engine(url).connect() as connection:
        (partition,) = connection.execute(select(partitions)).all()
        (chunk,) = connection.execute(select(chunks)).all()
    at = datetime(2026, 11, 1, 11, tzinfo=UTC)
    assert tuple(partition) == ("C", 0, 1, "digest", at)
    assert (chunk.chunk_id, chunk.state, chunk.text_hash) == ("id", "present", "")


def test_answers_given_before_they_were_labelled_take_the_label_of_their_batch(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    config = Config()
    config.set_main_option("script_location", "agent_pipelines.state:migrations")
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(
            text(
                "INSERT INTO batches (batch_id, agent, state, false_signals, started_at) "
                "VALUES ('b', 'a', 'finished', '[\"fresh\"]', '2026-11-01 12:00:00')"
            )
        )
        for batch in ("b", "unknown"):
            connection.execute(
                text(
                    "INSERT INTO answers (batch_id, task_id, outcome, citations, turns, "
                    "tool_calls, prompt_tokens, completion_tokens, seconds, finished_at) "
                    f"VALUES ('{batch}', 't', 'ok', '[]', 1, 0, 1, 1, 1.0, '2026-11-01 12:00:00')"
                )
            )
    with open_engine(url).connect() as connection:
        labels = dict(connection.execute(select(answers.c.batch_id, answers.c.false_signals)).all())
    assert labels == {"b": ["fresh"], "unknown": []}
