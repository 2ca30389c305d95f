"""The ASGI applications: the API behind its gate, and the probes.

Belongs here: paths, what OpenAPI says of them, and putting them together. Does not belong here:
sockets, TLS and signals (`toolservers/shell/serving.py`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Path, Request
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount

from agent_pipelines.api.agents import ServedAgent
from agent_pipelines.api.bodies import AgentBody, NewTask, TaskBody, TaskId, finished
from agent_pipelines.api.conversations import Conversations
from agent_pipelines.api.identity import TENANT, Identity
from agent_pipelines.api.metrics import Metrics
from agent_pipelines.api.options import ApiOptions
from agent_pipelines.api.problems import Problem, ProblemBody, handle_in
from agent_pipelines.api.telling import EVENT_STREAM, Telling
from agent_pipelines.toolservers.server import Readiness
from agent_pipelines.toolservers.shell.probes import probe_routes

_ABOUT = """Agents that answer one task at a time, for whoever waits.

A task is a JSON object, such as `{"question": "…"}`. POST it and wait, or ask for
`text/event-stream` and see what happens while it does: `waiting`, `started`, `turn`, `tool_call`,
`tool_result`, `correction`, and at the end `answer`, or `problem`.

Whoever hangs up ends the conversation. What was cut off goes on where it was when the same task is
asked for again, by its `task_id`; no model is asked twice and no tool called twice for it.
"""

_EVENTS = {EVENT_STREAM: {"schema": {"type": "string"}, "example": "event: answer\ndata: {}\n\n"}}

KnownId = Annotated[TaskId, Path(description="The task's id.")]


def _problems(**described: str) -> dict[int | str, dict[str, Any]]:
    always = {
        "s401": "The token is missing or not known.",
        "s403": "The page may not call.",
        "s429": "Too many ask at once; Retry-After says when to ask again.",
    }
    return {
        int(status[1:]): {"model": ProblemBody, "description": description}
        for status, description in {**always, **described}.items()
    }


def build_app(
    agents: Mapping[str, ServedAgent],
    conversations: Conversations,
    *,
    ready: Readiness,
    options: ApiOptions,
    metrics: Metrics,
) -> tuple[Starlette, Starlette]:
    """The application that serves the API and the probes, and one that serves the probes alone.

    With TLS the first serves the API alone.

    Raises:
        UserError: the token file cannot be used.
    """
    api = _api(agents, conversations, options)
    probes = probe_routes(metrics.registry, ready)
    app = Starlette(
        routes=[
            *([] if options.tls else probes),
            Mount("/", Identity(api, options, metrics)),
        ]
    )
    return app, Starlette(routes=probes)


def _api(
    agents: Mapping[str, ServedAgent],
    conversations: Conversations,
    options: ApiOptions,
) -> FastAPI:
    app = FastAPI(
        title="agent-pipelines",
        version="1",
        description=_ABOUT,
        # Its pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(HTTPBearer(auto_error=False))] if options.token_file else [],
    )
    handle_in(app)

    def known(name: str) -> ServedAgent:
        if name in agents:
            return agents[name]
        raise Problem(
            404,
            "no_agent",
            f"there is no agent {name!r}",
            remedy=f"use one of: {', '.join(agents) or 'none is defined'}",
        )

    names = {"enum": sorted(agents)}
    AgentName = Annotated[  # noqa: N806 - a type, and which agents there are belongs to it
        str, Path(description="The agent: the name of its folder.", json_schema_extra=names)
    ]

    @app.get("/agents", responses=_problems())
    async def list_agents() -> list[AgentBody]:
        """The agents that can be asked."""
        return [_about(agent) for agent in agents.values()]

    @app.post(
        "/agents/{agent}/tasks",
        response_model=TaskBody,
        responses={
            200: {"description": "The answer, or the events.", "content": _EVENTS},
            **_problems(
                s404="There is no such agent.",
                s409="The id is that of another task, or the agent has changed since.",
                s413="The task is too large.",
                s422="It is not a task for this agent.",
                s503="The index is not true, or what it takes is down, or this server ends.",
            ),
        },
    )
    async def answer_task(agent: AgentName, task: NewTask, request: Request) -> Response:
        """Ask an agent: the answer is the body or, for `Accept: text/event-stream`, the last event.

        Whatever becomes of the task is an answer, with status 200: its `outcome` says what. An
        error means that there is no answer yet, and asking again may bring one.
        """
        served = known(agent)
        conversation = conversations.submit(
            served, _tenant(request), task.task(served.spec), new=task.task_id is None
        )
        stream = EVENT_STREAM in request.headers.get("accept", "")
        return Telling(conversations, conversation, stream=stream)

    @app.get(
        "/agents/{agent}/tasks/{task_id}",
        responses=_problems(
            s404="There is no such agent, or no such task of yours.",
            s422="No task has such an id.",
            s503="The state database does not answer.",
        ),
    )
    async def read_task(agent: AgentName, task_id: KnownId, request: Request) -> TaskBody:
        """A task of yours, and its answer once there is one."""
        served, tenant = known(agent), _tenant(request)
        if held := conversations.held(served.name, tenant, task_id):
            state: Literal["running", "waiting"] = "running" if held.begun else "waiting"
            return TaskBody(agent=agent, task_id=task_id, state=state, inputs=held.task.inputs)
        taken = await conversations.find(served.name, tenant, task_id)
        if taken is None:
            raise Problem(
                404,
                "no_task",
                f"there is no task {task_id!r} of agent {agent!r}",
                remedy="POST it; ids are kept as long as RETENTION_ANSWERS_DAYS says",
            )
        if taken.answer is not None:
            return finished(agent, taken.task(task_id), taken.answer)
        return TaskBody(agent=agent, task_id=task_id, state="unfinished", inputs=taken.inputs)

    return app


def _tenant(request: Request) -> str:
    tenant: str = request.scope["state"][TENANT]
    return tenant


def _about(agent: ServedAgent) -> AgentBody:
    spec = agent.spec
    return AgentBody(
        name=agent.name,
        description=agent.description,
        index=spec.index,
        on_stale_index=spec.on_stale_index,
        tools=spec.tools,
        task_fields=sorted(spec.task_fields),
        output_schema=spec.output_schema,
        seconds=spec.limits.seconds,
    )
