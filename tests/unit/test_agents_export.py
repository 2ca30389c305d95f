"""Answers as files: every row of a finished batch, in a file that is whole or not there."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from pyarrow import parquet
from sqlalchemy import Engine, delete

from agent_pipelines.agents import answers, lifecycle
from agent_pipelines.agents.answer import Answer, Outcome
from agent_pipelines.agents.batches import Batch, Recorded, named
from agent_pipelines.agents.citations import Citation
from agent_pipelines.agents.export import export
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.errors import UserError
from agent_pipelines.state import tables
from agent_pipelines.state.engine import open_engine, write

SPEC = AgentSpec(name="triage", instructions="Answer.")

CITED = Citation("c-1", "doc", "ff", "file:///doc", "Doc", 7, retrieved=True)

GIVEN = (
    Answer("t0", "ok", {"answer": "Because."}, [CITED], turns=2, prompt_tokens=9, sequence=7),
    Answer("t1", "ok", {"answer": "x", "score": 0.5}, completion_tokens=3),
    Answer("t2", "tool", error="the tool said no"),
)


@pytest.fixture
def engine(state_url: str) -> Engine:
    return open_engine(state_url)


def batch_of(engine: Engine, *given: Answer, finish: bool = True) -> Recorded:
    tasks = [Task(answer.task_id, {"question": f"{answer.task_id}?"}) for answer in given]
    batch = open_batch(engine, SPEC, tasks, model="gpt")
    _record(engine, batch, *given, finish=finish)
    found = named(engine, batch.batch_id)
    assert found is not None
    return found


def _record(engine: Engine, batch: Batch, *given: Answer, finish: bool) -> None:
    # In another order than that of the tasks.
    for answer in reversed(given):
        answers.record_answer(engine, batch, answer)
    if finish:
        lifecycle.finish_batch(engine, batch.batch_id)


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_openai_batch_output_is_read_by_its_client(engine: Engine, tmp_path: Path) -> None:
    batch = batch_of(engine, *GIVEN)
    assert export(engine, [batch], tmp_path / "out.jsonl") == 3
    plain, structured, failed = read_lines(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in (plain, structured, failed)] == ["t0", "t1", "t2"]
    assert len({line["id"] for line in (plain, structured, failed)}) == 3
    completion = ChatCompletion.model_validate(plain["response"]["body"], strict=True)
    assert (plain["error"], plain["response"]["status_code"], completion.model) == (
        None,
        200,
        "gpt",
    )
    assert completion.choices[0].message.content == "Because."
    assert plain["response"]["body"]["choices"][0]["message"]["citations"] == [CITED.as_json()]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 9
    content = structured["response"]["body"]["choices"][0]["message"]["content"]
    assert json.loads(content) == {"answer": "x", "score": 0.5}
    assert failed["response"] is None
    assert failed["error"] == {"code": "tool", "message": "the tool said no"}


def test_parquet_has_all_that_is_on_record(engine: Engine, tmp_path: Path) -> None:
    batch = batch_of(engine, *GIVEN)
    assert export(engine, [batch], tmp_path / "out.parquet") == 3
    first, second, failed = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (first["task_id"], first["row"], first["inputs"]) == ("t0", 1, '{"question": "t0?"}')
    assert first["citations"] == [CITED.as_json()]
    assert (first["snapshot"], first["turns"], first["batch"]) == (7, 2, batch.batch_id)
    assert json.loads(second["output"]) == {"answer": "x", "score": 0.5}
    assert (failed["outcome"], failed["output"]) == ("tool", None)
    assert failed["finished_at"].tzinfo is not None


def test_what_is_not_all_there_is_not_written(engine: Engine, tmp_path: Path) -> None:
    unfinished = batch_of(engine, *GIVEN, finish=False)
    for name in ("out.jsonl", "out.parquet"):
        (tmp_path / name).write_text("from before")
        with pytest.raises(
            UserError, match=f"{unfinished.batch_id} .* is not finished but running"
        ):
            export(engine, [unfinished], tmp_path / name)
    batch = batch_of(engine, *(answer for answer in GIVEN if answer.task_id != "t0"))
    with write(engine) as connection:
        connection.execute(delete(tables.answers).where(tables.answers.c.task_id == "t1"))
    for name in ("out.jsonl", "out.parquet"):
        with pytest.raises(UserError, match="had 2 tasks, and 1 answers are on record"):
            export(engine, [batch], tmp_path / name)
        assert (tmp_path / name).read_text() == "from before"
    with pytest.raises(UserError, match=r"out.xlsx ends in none of .parquet, .jsonl"):
        export(engine, [batch], tmp_path / "out.xlsx")
    with pytest.raises(UserError, match="cannot be written"):
        export(engine, [batch], tmp_path / "nowhere" / "out.jsonl")
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.jsonl", "out.parquet"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(), value, max_size=3),
    max_leaves=5,
)
OUTPUTS = st.dictionaries(st.text(), JSON, min_size=1, max_size=3)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(get_args(Outcome)), OUTPUTS, st.text()), max_size=8))
def test_rows_in_are_rows_out_of_any_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any, str]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    engine = open_engine(f"sqlite:///{folder / 'state.db'}")
    given_answers = [
        Answer(f"t{n}", outcome, output if outcome == "ok" else None, error=error or None)
        for n, (outcome, output, error) in enumerate(rows)
    ]
    batch = batch_of(engine, *given_answers)
    for name in ("out.jsonl", "out.parquet"):
        assert export(engine, [batch], folder / name) == len(rows)
    lines = read_lines(folder / "out.jsonl")
    table = parquet.read_table(folder / "out.parquet").to_pylist()
    engine.dispose()
    assert [line["custom_id"] for line in lines] == [answer.task_id for answer in given_answers]
    for answer, line, row in zip(given_answers, lines, table, strict=True):
        assert (row["task_id"], row["outcome"]) == (answer.task_id, answer.outcome)
        assert (json.loads(row["output"]) if row["output"] else None) == answer.output
        assert (line["error"] is None) == (answer.outcome == "ok")
