"""The model server: any OpenAI-compatible base URL, vLLM by default.

Belongs here: finding it and opening a client. Does not belong here: what is asked of it
(`agents`) or starting the embedded one (`agent_pipelines.local`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.settings import Settings

if TYPE_CHECKING:
    from agent_pipelines.agents.model import Model

#: vLLM without --api-key takes any; the client insists on one.
_NO_KEY = "none"


@dataclass(frozen=True)
class LlmEndpoint:
    """Where a model answers, and its name there."""

    base_url: str
    model: str
    api_key: str


class LlmResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A model server. Unset fields come from the settings, then from the embedded vLLM."""

    base_url: str | None = Field(default=None, description="An OpenAI-compatible /v1.")
    model: str | None = Field(default=None, description="Model name there; default: its first.")
    api_key: str | None = None

    def endpoint(self) -> LlmEndpoint:
        """Where the model answers.

        Raises:
            UserError: no model server is configured and none runs here.
            UnavailableError: it does not say which models it has.
        """
        settings = Settings()
        api_key = self.api_key or settings.llm_api_key or _NO_KEY
        base_url = self.base_url or settings.llm_base_url
        if base_url:
            model = self.model or settings.llm_model or _first_model(base_url, api_key)
            return LlmEndpoint(base_url, model, api_key)
        from agent_pipelines.local.parts import addresses

        embedded = addresses(settings.state_dir, "vllm")
        if embedded is None:
            raise UserError(
                "no model server: LLM_BASE_URL is not set and no embedded vLLM runs in "
                f"{settings.state_dir}",
                remedy="set LLM_BASE_URL to an OpenAI-compatible /v1, or start "
                "`agent-pipelines dev`",
            )
        return LlmEndpoint(embedded["url"], embedded["model"], api_key)

    @asynccontextmanager
    async def open(self) -> "AsyncIterator[Model]":
        """The model with its client, for as long as the block lasts."""
        import openai

        from agent_pipelines.agents.model import Model
        from resources.llm_metrics import VllmMetrics, address

        endpoint = self.endpoint()
        async with (
            openai.DefaultAsyncHttpxClient() as http,
            openai.AsyncOpenAI(
                base_url=endpoint.base_url, api_key=endpoint.api_key, http_client=http
            ) as client,
        ):
            metrics = VllmMetrics(http, address(endpoint.base_url))
            yield Model(client, endpoint.model, metrics)


def _first_model(base_url: str, api_key: str) -> str:
    import openai

    with openai.OpenAI(base_url=base_url, api_key=api_key, timeout=10.0) as client:
        try:
            models = client.models.list().data
        except openai.OpenAIError as error:
            raise UnavailableError(
                f"the model server at {base_url} does not list its models: {error}",
                remedy="check LLM_BASE_URL and LLM_API_KEY, or name the model by LLM_MODEL",
            ) from error
    if not models:
        raise UserError(
            f"the model server at {base_url} serves no model", remedy="load one, or set LLM_MODEL"
        )
    return models[0].id
