"""An index that turns false while a batch runs on it, under both policies: the job as Dagster runs
it, a real search tool server, a scripted model.
"""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import select

from agent_pipelines.agents import watch
from agent_pipelines.commands.results import Result
from agent_pipelines.definitions import build_defs
from agent_pipelines.indexing import live
from agent_pipelines.session import JobOutcome
from agent_pipelines.state.tables import answers, batches
from resources.llm import LlmResource
from resources.state import StateResource
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.engine import raw
from tests.integration.test_tool_search import free_port
from tests.processes import started, until
from tests.scripted_model import MODEL, ScriptedModel, Turn, says

ALIAS = "Watched"
TASKS = 6

INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  source: {kind: files, url: ../../docs}
"""

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  index: watched
  on_stale_index: POLICY
  instructions: Answer from what the search found.
  tool_calls: structured
  tools: [search]
  bound_arguments:
    search: {query: "{question}", limit: 2, where: [], by: words and meaning}
  limits: {turns: 2, tool_calls: 1}
  concurrency: 1
"""


class World:
    """An index of ten documents that is true, an agent, and a search tool server."""

    def __init__(self, folder: Path, weaviate: WeaviateResource, instance: dg.DagsterInstance):
        self.folder = folder
        self.instance = instance
        self.weaviate = weaviate
        self.state = StateResource(url=f"sqlite:///{folder / 'state.db'}")
        self.port = free_port()
        docs = folder / "docs"
        docs.mkdir()
        for n in range(10):
            (docs / f"{n}.md").write_text(f"# Runbook {n}\n\nRestart pod {n} and wait.\n")
        self._write("watched", {"defs.yaml": INDEX})
        tasks = [json.dumps({"task_id": f"t{n}", "question": f"pod {n}"}) for n in range(TASKS)]
        self._write("helper", {"tasks.jsonl": "\n".join(tasks)})

    @property
    def environment(self) -> dict[str, str]:
        """What the search tool server must know to see the same."""
        return {
            "AGENT_PIPELINES_ASSETS": str(self.folder / "assets"),
            "STATE_DATABASE_URL": str(self.state.url),
            "WEAVIATE_URL": str(self.weaviate.url),
            "WEAVIATE_GRPC": str(self.weaviate.grpc),
            "WEAVIATE_API_KEY": str(self.weaviate.api_key),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def _write(self, name: str, files: dict[str, str]) -> None:
        for file, text in files.items():
            path = self.folder / "assets" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run(self, job: str, *, model: str = "", policy: str = "block", **ops: Any) -> Any:
        self._write("helper", {"defs.yaml": AGENT.replace("POLICY", policy)})
        overrides = {
            "weaviate": self.weaviate,
            "state": self.state,
            "llm": LlmResource(base_url=model or "http://127.0.0.1:9/v1", model=MODEL),
            "tools": ToolServerResource(url=self.url),
        }
        defs = build_defs(assets=self.folder / "assets", resource_overrides=overrides)
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config={"ops": ops}, raise_on_error=False
        )

    def given(self) -> dict[str, list[str]]:
        """The label of every answer of the newest batch, by task."""
        with self.state.engine().connect() as connection:
            newest = select(batches.c.batch_id).order_by(batches.c.started_at.desc()).limit(1)
            rows = connection.execute(
                select(answers.c.task_id, answers.c.false_signals).where(
                    answers.c.batch_id == newest.scalar_subquery()
                )
            )
            return {row.task_id: row.false_signals for row in rows}

    def batch_states(self) -> list[str]:
        with self.state.engine().connect() as connection:
            return list(connection.scalars(select(batches.c.state)))

    def collection(self) -> str:
        snapshot = live.latest(self.state.engine(), "watched")
        assert snapshot is not None
        return snapshot.collection


@pytest.fixture
def world(
    tmp_path: Path,
    weaviate_resource: WeaviateResource,
    store: WeaviateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.0)
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(tmp_path, weaviate_resource, instance)
        assert world.run("watched_sync").success
        argv = ("tools", "search", "--port", str(world.port))
        with started(*argv, state=tmp_path / "server", **world.environment) as server:

            def up() -> bool:
                assert server.running(), server.err
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{world.port}/ready", timeout=5):
                        return True
                except OSError:
                    return False

            until(up, 120, "the search tool server")
            monkeypatch.setenv("SEARCH_TOOL_URL", world.url)
            yield world
    raw(store).alias.delete(alias_name=ALIAS)
    for collection in store.collections():
        if collection.startswith(f"{ALIAS}__"):
            store.drop_collection(collection)


@pytest.fixture
def breaking(world: World, store: WeaviateStore) -> Callable[[dict[str, Any]], Turn]:
    """A model that works, while whose fourth task an object is deleted from Weaviate."""
    broken = False

    def script(body: dict[str, Any]) -> Turn:
        nonlocal broken
        question = body["messages"][1]["content"]
        if question == "pod 3" and not broken:
            broken = True
            objects = raw(store).collections.use(world.collection())
            (one,) = objects.query.fetch_objects(limit=1).objects
            objects.data.delete_by_id(one.uuid)
        if len(body["messages"]) == 2:
            return says({"tool": "search", "arguments": {}})
        return says({"answer": f"Restart {question}.", "citations": ["c1"]})

    return script


def outcome_of(result: Any) -> JobOutcome:
    metadata = {
        event.asset_key.path[-1]: {n: v.value for n, v in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    }
    return JobOutcome(result.run_id, result.success, None, metadata, ())


def test_block_stops_it_and_the_rest_is_resumed_once_the_index_is_true(
    world: World, breaking: Callable[[dict[str, Any]], Turn]
) -> None:
    with ScriptedModel(breaking) as model:
        stopped = world.run("helper_batch", model=model.base_url)
        assert not stopped.success
        (failure,) = stopped.filter_events(lambda e: e.is_step_failure)
        said = failure.step_failure_data.user_failure_data.description
        assert "agent helper stopped after 3 of 6 tasks" in said
        assert "counts_match turned false: 9 objects in the store" in said
        assert world.given() == {f"t{n}": [] for n in range(3)}, "none that was given in doubt"
        assert world.batch_states() == ["stopped"]
        asked = len(model.requests)

        refused = world.run("helper_batch", model=model.base_url)
        assert not refused.success
        assert len(model.requests) == asked, "nothing is asked of a model on a false index"

        verify = {"watched__index": {"config": {"verify": True}}}
        assert world.run("watched_sync", **verify).success
        resumed = world.run("helper_batch", model=model.base_url)
    assert resumed.success
    answered = outcome_of(resumed).metadata["answers"]
    assert (answered["resumed"], answered["outcome_ok"]) == (3, TASKS)
    assert answered["false_signals"] == "none"
    assert world.given() == {f"t{n}": [] for n in range(TASKS)}
    assert world.batch_states() == ["finished"]
    # The fourth was in the journal: neither of its two replies was asked for again.
    assert len(model.requests) == 2 * TASKS


def test_label_goes_on_and_marks_what_is_answered_from_then_on(
    world: World, breaking: Callable[[dict[str, Any]], Turn]
) -> None:
    with ScriptedModel(breaking) as model:
        result = world.run("helper_batch", model=model.base_url, policy="label")
    assert result.success
    labels = world.given()
    assert [labels[f"t{n}"] for n in range(3)] == [[], [], []]
    for n in range(3, TASKS):
        assert "counts_match" in labels[f"t{n}"]
    outcome = outcome_of(result)
    answered = outcome.metadata["answers"]
    assert answered["label_counts_match"] == 3
    assert "not true then: counts_match" in answered["sample"]
    shown = Result("agent", "helper", outcome, None).as_json()
    assert shown["labels"]["counts_match"] == 3
