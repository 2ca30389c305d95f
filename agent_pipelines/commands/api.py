"""`api`: serving the agents of the assets folder over HTTP.

Belongs here: handing the API its connections. Does not belong here: what it does with them (`api/`)
or how it is served (`toolservers/shell`).
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from functools import partial

import openai
from sqlalchemy import Engine, text
from starlette.types import ASGIApp

from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tool_records import recorded
from agent_pipelines.api.admission import Places
from agent_pipelines.api.agents import ServedAgent
from agent_pipelines.api.app import build_app
from agent_pipelines.api.conversations import Conversations
from agent_pipelines.api.metrics import Metrics
from agent_pipelines.api.options import ApiOptions
from agent_pipelines.api.policy import IndexPolicy
from agent_pipelines.api.tools import Opening, Sessions
from agent_pipelines.errors import UserError
from agent_pipelines.loading import Loaded
from agent_pipelines.session import Session
from agent_pipelines.state.engine import read
from agent_pipelines.toolservers.server import Readiness
from agent_pipelines.toolservers.shell import logs
from agent_pipelines.toolservers.shell.serving import serve_apps
from resources.llm import LlmResource
from resources.state import StateResource
from resources.tools import ToolServerResource

#: Tasks at once that are looked up for those who only read them: conversations need the state
#: database more.
_LOOKUPS = 8

_log = logging.getLogger(__name__)

#: What our worker is called where breakers are recorded, as others are by their agent.
_WORKER = "api"

#: Seconds for the model server to list its models: below what a probe waits.
_LISTING = 4.0


def serve_api(session: Session, options: ApiOptions) -> None:
    """Serve every agent of the assets folder until SIGTERM or Ctrl-C.

    Raises:
        UserError: no agent is defined, no model server is to be found, or an option is not right.
    """
    loaded = session.loaded
    if not loaded.agents:
        raise UserError(
            f"no agent is defined in {loaded.folder}",
            remedy="name a folder that has one with --assets",
        )
    for name, reason in loaded.broken.items():
        _log.error("assets/%s cannot be loaded: %s", name, reason)
    asyncio.run(_serve(loaded, options))


async def _serve(loaded: Loaded, options: ApiOptions) -> None:
    logs.to_stderr()
    engine = StateResource().engine()
    tally = Tally()
    places = Places(options.max_concurrent, options.max_waiting)
    metrics = Metrics(places, list(loaded.agents))
    async with AsyncExitStack() as stack:
        models = {
            name: await stack.enter_async_context(llm.open(_log.info))
            for name, llm in _llms(loaded).items()
        }
        sessions = await stack.enter_async_context(Sessions(_openings(loaded, tally)))
        await stack.enter_async_context(recorded(engine, _WORKER, tally, sessions.breakers))
        conversations = Conversations(
            engine=engine,
            places=places,
            lookups=Places(_LOOKUPS, options.max_waiting),
            metrics=metrics,
        )
        agents = {
            name: ServedAgent(
                component.spec,
                description=component.config.description,
                model=models[component.config.llm],
                policy=_policy(engine, loaded, component.spec),
                sessions=sessions,
            )
            for name, component in loaded.agents.items()
        }

        def build(ready: Readiness) -> tuple[ASGIApp, ASGIApp]:
            return build_app(
                agents,
                conversations,
                ready=ready,
                options=options,
                metrics=metrics,
            )

        await serve_apps(
            build,
            name="agents",
            ready=partial(_why_not_ready, engine, models.values(), sessions),
            registry=metrics.registry,
            options=options,
            settle=partial(conversations.drain, options.drain_seconds),
        )


def _policy(engine: Engine, loaded: Loaded, spec: AgentSpec) -> IndexPolicy | None:
    if spec.index is None:
        return None
    audit_every = loaded.indexes[spec.index].audit_every
    return IndexPolicy(engine, spec.index, spec.on_stale_index, audit_every=audit_every)


def _llms(loaded: Loaded) -> Mapping[str, LlmResource]:
    """The model servers that some agent names."""
    named = {agent.config.llm for agent in loaded.agents.values()}
    return {
        name: loaded.llms[name].resource if name in loaded.llms else LlmResource()
        for name in sorted(named)
    }


def _openings(loaded: Loaded, tally: Tally) -> Mapping[str, Opening]:
    """How the tool servers that some agent uses are opened."""
    used = {server for agent in loaded.agents.values() for server in agent.tool_servers}
    resources = {
        server: loaded.tool_servers[server].resource
        if server in loaded.tool_servers
        else ToolServerResource()
        for server in sorted(used)
    }
    return {server: partial(resource.session, tally) for server, resource in resources.items()}


async def _why_not_ready(
    engine: Engine, models: Collection[Model], sessions: Sessions
) -> str | None:
    """None when the state database, the model servers and all tool servers answer."""

    def ask_database() -> None:
        with read(engine) as connection:
            connection.execute(text("SELECT 1"))

    async def ask(model: Model) -> None:
        try:
            await model.client.with_options(max_retries=0, timeout=_LISTING).models.list()
        except openai.NotFoundError:
            return  # a gateway that only passes completions on
        except openai.OpenAIError as error:
            raise ConnectionError(f"the model server does not answer: {error}") from error

    asked = await asyncio.gather(
        asyncio.to_thread(ask_database), *map(ask, models), sessions.check(), return_exceptions=True
    )
    failed = [error for error in asked if isinstance(error, BaseException)]
    return "; ".join(str(error) for error in failed) or None
