"""A batch over a real tool server process: what an outage of it does to the rows."""

import asyncio
from pathlib import Path
from typing import Any

import openai
from sqlalchemy import create_engine

from agent_pipelines.agents.answers import read_answers
from agent_pipelines.agents.batch import BatchReport, Progress, run_batch
from agent_pipelines.agents.batches import Snapshot
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state import tables
from resources.tools import ToolServerResource
from tests.integration.test_tool_search import running
from tests.scripted_model import MODEL, ScriptedModel, Turn, says

SPEC = AgentSpec(
    name="triage",
    instructions="Answer.",
    tool_calls="structured",
    tools=("search",),
    bound_arguments={"search": {"limit": 2}},
    index="runbooks",
    concurrency=4,
    wait_minutes=0.02,
)


def searches_and_answers(body: dict[str, Any]) -> Turn:
    if len(body["messages"]) == 2:
        return says({"tool": "search", "arguments": {"query": "pod"}})
    return says({"answer": "Restart it.", "citations": ["c1"]})


def test_an_outage_costs_no_row(tmp_path: Path) -> None:
    """The tool server goes for good: the batch waits, ends, and goes on with another one."""
    engine = create_engine(f"sqlite:///{tmp_path / 'state.db'}")
    tables.metadata.create_all(engine)
    tasks = [Task(f"t{n}", {"question": f"question {n}"}) for n in range(20)]

    async def main(base_url: str, url: str, progress: Progress) -> BatchReport:
        batch = open_batch(engine, SPEC, tasks, model=MODEL, snapshot=Snapshot("runbooks", 7))
        async with (
            openai.AsyncOpenAI(base_url=base_url, api_key="x") as client,
            ToolServerResource(url=url).session() as tools,
        ):
            return await run_batch(
                SPEC,
                batch=batch,
                model=Model(client, MODEL),
                tools=tools,
                engine=engine,
                progress=progress,
            )

    with ScriptedModel(searches_and_answers) as model:
        with running(tmp_path) as server:

            def kill_it(done: int, *_: object) -> None:
                if done == 10:
                    server.process.kill()

            report = asyncio.run(main(model.base_url, server.url, kill_it))
        assert (report.ending.kind, report.ending.what) == ("waiting", "search")
        assert 10 <= report.outcomes["ok"] < 20
        assert set(report.outcomes) == {"ok"}
        with running(tmp_path) as server:
            whole = asyncio.run(main(model.base_url, server.url, lambda *_: None))
    assert (whole.batch_id, whole.outcomes) == (report.batch_id, {"ok": 20})
    # What the model had said before the outage was in the journal.
    assert len(model.requests) == 40
    for answer in read_answers(engine, report.batch_id):
        (citation,) = answer.citations
        assert (citation.chunk_id, citation.sequence) == ("chunk-0", 7)
        assert answer.sequence == 7
