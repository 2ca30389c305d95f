"""What is sent and what comes back, as JSON.

Belongs here: the models that OpenAPI describes. Does not belong here: errors (`problems.py`) and
events (`events.py`).
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent_pipelines.agents.answer import Answer, Outcome
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task, task_from
from agent_pipelines.api.problems import Problem

TaskId = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9._~:@-]+$")
]


class NewTask(BaseModel):
    """A task, as a line of a tasks file: any fields; most often a single one, `question`."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"example": {"question": "How is a pod restarted?"}}
    )

    task_id: TaskId | None = Field(
        default=None,
        description="Yours, by which it is found again. The same id with the same fields is the "
        "same task, answered once. Without one, each task is a new one.",
    )

    def task(self, spec: AgentSpec) -> Task:
        """The task for an agent.

        Raises:
            Problem: it is none, or lacks a field that the agent needs.
        """
        task_id = self.task_id or uuid.uuid4().hex
        try:
            task = task_from({**(self.model_extra or {}), "task_id": task_id})
            # What no model server or database could be sent: NaN, half a surrogate pair.
            json.dumps(task.inputs, allow_nan=False, ensure_ascii=False).encode()
        except ValueError as error:
            raise Problem(
                422,
                "invalid",
                f"it is not a task: {error}",
                remedy='send an object with an input field, such as {"question": "…"}',
            ) from error
        if missing := spec.task_fields - set(task.inputs):
            raise Problem(
                422,
                "invalid",
                f"the task has no field {', '.join(sorted(missing))}",
                remedy=f"add it; GET /agents says what agent {spec.name} needs",
            )
        return task


class CitationBody(BaseModel):
    """A chunk that an answer rests on. Not `retrieved`: the model named what it never saw."""

    chunk_id: str
    document_id: str
    content_hash: str
    uri: str
    title: str
    sequence: int | None
    retrieved: bool


class AnswerBody(BaseModel):
    """What became of a task. Whatever happened, there is one; `outcome` says which."""

    outcome: Outcome
    output: Any = Field(description="As the agent's output_schema has it; null unless outcome ok.")
    citations: Sequence[CitationBody]
    error: str | None
    turns: int
    tool_calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    sequence: int | None = Field(description="The snapshot of the index that it rests on.")
    false_signals: Sequence[str] = Field(
        description="Signals of the index that were not true when it was given."
    )
    outcome_unknown: Sequence[Mapping[str, Any]] = Field(
        description="Calls (tool, arguments) that were sent once, and nobody knows whether they "
        "took effect."
    )
    calls_done: Sequence[Mapping[str, Any]] = Field(
        description="Calls (tool, arguments) that took effect, and may not be repeated."
    )


class TaskBody(BaseModel):
    """A task and how far it is."""

    agent: str
    task_id: str
    state: Literal["waiting", "running", "finished", "unfinished"] = Field(
        description="unfinished: it was cut off, or another replica is at it. Ask for it again, "
        "with the same task_id and fields: it goes on where it was."
    )
    inputs: Mapping[str, Any]
    answer: AnswerBody | None = None


class AgentBody(BaseModel):
    """An agent that can be asked."""

    name: str
    description: str
    index: str | None
    on_stale_index: Literal["block", "label"]
    tools: Sequence[str]
    task_fields: Sequence[str] = Field(description="Fields that every task must have.")
    output_schema: Mapping[str, Any]
    seconds: float = Field(description="Time for one task, waiting for its turn not included.")


def finished(agent: str, task: Task, answer: Answer) -> TaskBody:
    """A task with its answer."""
    body = AnswerBody.model_validate(asdict(answer))
    return TaskBody(
        agent=agent, task_id=task.task_id, state="finished", inputs=task.inputs, answer=body
    )
