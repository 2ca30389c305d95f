"""Tasks from any kind of source: every row one task, and what is none is named by its row."""

import csv
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import TypeAdapter, ValidationError

from agent_pipelines.agents.tasks import Task, TaskSource, TaskSourceConfig
from agent_pipelines.agents.tasks.catalogue import AnyTasks, source_at
from agent_pipelines.agents.tasks.reading import Tasks, digest_of, distinct
from agent_pipelines.components.agent_config import AgentConfig
from agent_pipelines.errors import UserError
from agent_pipelines.indexing.partition import Partition

ANY: TypeAdapter[Any] = TypeAdapter(AnyTasks)


def tasks_of(said: Any, folder: Path = Path("/")) -> list[Task]:
    return list(distinct(Tasks(ANY.validate_python(said).open(folder))))


def lines(folder: Path, *rows: Any, name: str = "tasks.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def request(custom_id: Any = "r1", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "why?"}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt", "messages": messages} | body,
    }


class TestIds:
    def test_they_are_explicit_or_follow_from_the_content(self, tmp_path: Path) -> None:
        explicit, question, fields = tasks_of(
            lines(
                tmp_path,
                {"task_id": "a", "question": "1?"},
                "",
                {"question": "2?"},
                {"x": 1, "y": 2},
            )
        )
        assert (explicit.task_id, explicit.prompt, explicit.row) == ("a", "1?", 1)
        assert (question.prompt, question.row) == ("2?", 3)
        (again,) = tasks_of(lines(tmp_path, {"y": 2, "x": 1}))
        assert again.task_id == fields.task_id != question.task_id
        assert fields.prompt == '{"x": 1, "y": 2}'

    def test_those_that_are_there_twice_are_named(self, tmp_path: Path) -> None:
        a, b = {"question": "a"}, {"task_id": 7, "question": "b"}
        path = lines(tmp_path, a, b, {"task_id": "7", "question": "c"}, "", a, a)
        with pytest.raises(
            UserError, match=r"tasks.jsonl holds tasks twice: \w+ on lines 1, 5, 6; 7 on lines 2, 3"
        ):
            tasks_of(path)

    @given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
    def test_the_digest_is_of_what_there_is_and_not_of_its_order(
        self, order: Sequence[int], kept: set[int]
    ) -> None:
        tasks = [Task(f"t{n}", {"question": f"q{n}"}) for n in range(8)]
        whole = str(digest_of(tasks))
        assert str(digest_of([tasks[n] for n in order])) == whole
        assert (str(digest_of(tasks[n] for n in kept)) == whole) == (len(kept) == 8)

    @given(st.sets(st.text(min_size=1)), st.integers(1, 9))
    def test_every_task_is_in_one_partition(self, ids: set[str], of: int) -> None:
        tasks = [Task(id_, {}) for id_ in sorted(ids)]
        parts = [[t for t in tasks if Partition(n, of).has(t.task_id)] for n in range(of)]
        assert sorted(t.task_id for part in parts for t in part) == [t.task_id for t in tasks]


class TestBadRows:
    @pytest.mark.parametrize(
        "line",
        [
            *("{", "[]", "{}", '{"task_id": "a"}', '{"task_id": "", "q": 1}', '{"q": NaN}'),
            *('{"task_id": true, "q": 1}', '{"task_id": "\\u0000", "q": 1}', '{"q": "\\ud800"}'),
        ],
    )
    def test_a_line_is_named(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(UserError, match=r"tasks.jsonl, line 2 is not a task"):
            tasks_of(lines(tmp_path, {"question": "a"}, line))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('question,n\na,1\n\n"b\n\nb",2\nc\n', "line 7 is not a task: it has 1 values"),
            ('question\n"a\n', "line 2 is not a task: unexpected end of data"),
            ("question,\na,b\n", "an empty name"),
            ("question,question\na,b\n", "'question' twice"),
            ("question\n", "holds no task"),
            ("", "holds no task"),
        ],
    )
    def test_a_row_of_csv_is_named_by_the_line_it_begins_on(
        self, tmp_path: Path, text: str, said: str
    ) -> None:
        (tmp_path / "tasks.csv").write_text(text)
        with pytest.raises(UserError, match=said):
            tasks_of("tasks.csv", tmp_path)

    def test_a_row_of_parquet_and_its_type_are_named(self, tmp_path: Path) -> None:
        table = pyarrow.table({"question": ["a", "b"], "raw": [None, b"\0"]})
        parquet.write_table(table, tmp_path / "tasks.parquet")
        with pytest.raises(UserError, match="row 2 is not a task: a value of type bytes"):
            tasks_of("tasks.parquet", tmp_path)

    @pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.csv", "tasks.parquet"])
    def test_no_file_and_no_such_content_are_errors(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UserError, match=f"tasks file {tmp_path}/{name} cannot be read"):
            tasks_of(name, tmp_path)
        (tmp_path / name).write_bytes(b"\xff\xfe\x00 no such file")
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            tasks_of(name, tmp_path)


class TestKinds:
    ROWS = (
        {"task_id": "a", "question": 'one,\n"1"?', "n": "1"},
        {"task_id": "b", "question": "zwei\u2028?", "n": ""},
    )

    def test_each_gives_the_same_tasks(self, tmp_path: Path) -> None:
        with (tmp_path / "t.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["task_id", "question", "n"])
            writer.writeheader()
            writer.writerows(self.ROWS)
        parquet.write_table(pyarrow.Table.from_pylist(list(self.ROWS)), tmp_path / "t.parquet")
        with sqlite3.connect(tmp_path / "t.db") as database:
            database.execute("CREATE TABLE t (task_id, question, n)")
            database.executemany("INSERT INTO t VALUES (:task_id, :question, :n)", self.ROWS)
        expected = tasks_of(lines(tmp_path, *self.ROWS))
        assert [task.inputs for task in expected] == [
            {"question": row["question"], "n": row["n"]} for row in self.ROWS
        ]
        query = "SELECT * FROM t ORDER BY task_id; "
        for said in (
            "t.csv",
            "t.parquet",
            {"kind": "csv", "url": "t.csv"},
            {"kind": "sql", "url": "sqlite:///t.db", "query": query},
            f"file://{tmp_path}/t.parquet",
        ):
            assert tasks_of(said, tmp_path) == expected

    def test_typed_values_become_json(self, tmp_path: Path) -> None:
        row = {
            "at": datetime(2026, 3, 1, tzinfo=UTC),
            "price": Decimal("12.50"),
            "gone": math.nan,
            "none": None,
            "deep": {"list": [1, 2], "yes": True, "half": 0.5},
        }
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "t.parquet")
        (task,) = tasks_of("t.parquet", tmp_path)
        assert task.inputs == {
            "at": "2026-03-01T00:00:00+00:00",
            "price": "12.50",
            "gone": None,
            "none": None,
            "deep": {"list": [1, 2], "yes": True, "half": 0.5},
        }

    def test_a_database_is_only_read_and_its_password_not_shown(self, tmp_path: Path) -> None:
        sql = {"kind": "sql", "url": "postgresql://u:secret@127.0.0.1:1/db", "query": "SELECT 1"}
        with pytest.raises(UserError, match="cannot be read") as refused:
            tasks_of(sql)
        assert "secret" not in str(refused.value)
        with pytest.raises(ValidationError, match="must be one SELECT"):
            ANY.validate_python(sql | {"query": "DELETE FROM t"})
        with pytest.raises(UserError, match="of which two are one"):
            tasks_of(sql | {"url": "sqlite://", "query": "SELECT 1 AS a, 2 AS a"})
        with pytest.raises(UserError, match="unable to open"):
            tasks_of(sql | {"url": "sqlite:///missing.db"}, tmp_path)
        assert not (tmp_path / "missing.db").exists()

    def test_a_path_is_of_the_kind_of_its_ending(self) -> None:
        with pytest.raises(UserError, match=r"'s3://b/t.xlsx' ends in none of .csv, .jsonl"):
            source_at("s3://key:secret@b/t.xlsx")
        schema = ANY.json_schema()
        for valid in ("t.jsonl", {"kind": "csv", "url": "t.txt"}, {"kind": "their.Tasks", "x": 1}):
            jsonschema.validate(valid, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"kind": "nonsense"}, schema)

    def test_a_class_on_the_python_path_is_a_kind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "their_tasks.py").write_text(
            "from agent_pipelines.agents.tasks import TaskSource, TaskSourceConfig\n"
            "class Source(TaskSource):\n"
            "    def __init__(self, n): self.n = n\n"
            "    def __str__(self): return 'theirs'\n"
            "    def rows(self):\n"
            "        return ((k, {'question': f'{k}?'}) for k in range(1, self.n + 1))\n"
            "class Counted(TaskSourceConfig):\n"
            "    n: int\n"
            "    def open(self, folder): return Source(self.n)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        found = tasks_of({"kind": "their_tasks.Counted", "n": 2})
        assert [task.prompt for task in found] == ["1?", "2?"]

    def test_a_secret_comes_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = {"kind": "sql", "url": "sqlite:///{{ env.DB }}", "query": "SELECT 1"}
        with pytest.raises(ValidationError, match="variable DB is not set"):
            AgentConfig.model_validate({"instructions": "x", "tasks": said})
        monkeypatch.setenv("DB", "hidden.db")
        config = AgentConfig.model_validate({"instructions": "x", "tasks": said})
        assert config.tasks.url == "sqlite:///hidden.db"
        with pytest.raises(ValidationError) as refused:
            AgentConfig.model_validate({"instructions": "x", "tasks": said | {"query": "DROP"}})
        assert "hidden" not in str(refused.value)


class TestOpenAIBatch:
    def test_a_file_of_requests_is_told_by_its_first_line(self, tmp_path: Path) -> None:
        first, second = request("r1", temperature=0.5), request("r2", n=1, tools=None)
        second["body"]["messages"][0]["content"] = [
            {"type": "text", "text": "why"},
            {"type": "text", "text": "not?"},
        ]
        one, two = tasks_of(lines(tmp_path, first, second))
        assert one == Task("r1", {"question": "why?"})
        assert two.prompt == "why\nnot?"

    def test_what_was_said_before_is_not_left_out(self, tmp_path: Path) -> None:
        earlier = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        asked = [*earlier, {"role": "user", "content": "why?"}]
        (task,) = tasks_of(lines(tmp_path, request(messages=asked)))
        assert task.inputs == {"question": "why?", "conversation": earlier}

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            (request(tools=[{}]), "body.tools would make another answer"),
            (request(response_format={"type": "json_object"}), "body.response_format"),
            (request(n=2), "body.n would"),
            (request(messages=[]), "neither a text nor a list"),
            (request(messages=[{"role": "assistant", "content": "x"}]), "is the assistant's"),
            (request(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "image_url"),
            (request() | {"url": "/v1/embeddings"}, "'/v1/embeddings' is none of"),
            (request() | {"method": "GET"}, "method must be POST"),
            (request(3), "custom_id must be a text"),
            ({"question": "why?"}, "needs custom_id and body"),
        ],
    )
    def test_what_an_agent_does_not_do_is_refused(
        self, tmp_path: Path, row: Any, said: str
    ) -> None:
        path = lines(tmp_path, request("r0"), row)
        with pytest.raises(UserError, match=f"line 2 is not a task: .*{said}"):
            tasks_of(path)
        lines(tmp_path, row)
        with pytest.raises(UserError, match=f"line 1 is not a task: .*{said}"):
            tasks_of({"kind": "openai_batch", "url": path})


#: What a row of any kind of source may hold, so that all of them can hold it.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=20)


@settings(max_examples=40)
@given(st.dictionaries(TEXT, st.tuples(TEXT, TEXT), min_size=1, max_size=12))
def test_rows_in_are_tasks_out_of_any_kind_of_source(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, tuple[str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "rows"
    folder.mkdir(exist_ok=True)
    given_rows = [{"task_id": id_, "question": q, "more": m} for id_, (q, m) in rows.items()]
    for said in _written(folder, given_rows):
        found = [{"task_id": t.task_id, **t.inputs} for t in tasks_of(said, folder)]
        assert found == given_rows


def _written(folder: Path, rows: list[dict[str, str]]) -> Iterator[Any]:
    yield lines(folder, *rows)
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["task_id", "question", "more"])
        writer.writeheader()
        writer.writerows(rows)
    yield "t.csv"
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "t.parquet", row_group_size=5)
    yield "t.parquet"
    (folder / "t.db").unlink(missing_ok=True)
    with sqlite3.connect(folder / "t.db") as database:
        database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, task_id, question, more)")
        database.executemany(
            "INSERT INTO t (task_id, question, more) VALUES (:task_id, :question, :more)", rows
        )
    query = "SELECT task_id, question, more FROM t ORDER BY n"
    yield {"kind": "sql", "url": "sqlite:///t.db", "query": query}


def test_memory_does_not_grow_with_the_rows() -> None:
    class Many(TaskSource):
        def __str__(self) -> str:
            return "many"

        def rows(self) -> Iterator[tuple[int, Any]]:
            return ((n, {"question": f"{n} {'x' * 100}"}) for n in range(1, 20_001))

    class Config(TaskSourceConfig):
        def open(self, folder: Path) -> TaskSource:
            return Many()

    import tracemalloc

    tracemalloc.start()
    digest = digest_of(Tasks(Config().open(Path())))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert digest.count == 20_000
    assert peak < 1_000_000  # the ids alone would take several times that
