"""The model server: any OpenAI-compatible base URL, or a vLLM that the run starts for itself.

Belongs here: what a person configures, and finding or starting the server. Does not belong here:
how it is reached (`llm_client.py`), started (`llm_spawn.py`) or measured (`llm_metrics.py`), and
what is asked of it (`agents`).
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from agent_pipelines.agents.spec import DEFAULT_LLM
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.settings import Settings
from resources.secret_file import secret_in

if TYPE_CHECKING:
    from agent_pipelines.agents.model import Model
    from resources.llm_client import Access, LlmClient
    from resources.llm_spawn import Order

logger = logging.getLogger(__name__)

#: vLLM without --api-key takes any; the client insists on one.
_NO_KEY = "none"


@dataclass(frozen=True)
class LlmEndpoint:
    """Where a model answers, and its name there."""

    base_url: str
    model: str
    api_key: str
    gpus: int | None = None
    """GPUs that it runs on; 0: a CPU; None: nobody here knows."""


class Spawn(dg.Config):
    """A vLLM that is started where the run is, and ends with the last run that uses it."""

    model: str | None = Field(
        default=None, description="Hub name or folder; default: LLM_MODEL, else the packaged one."
    )
    gpu: Literal["required", "optional"] = Field(
        default="optional", description="required: where none is visible, fail at once."
    )
    context: int | None = Field(
        default=None, description="Tokens of one conversation; default: what the model allows."
    )
    arguments: list[str] = Field(default=[], description="Further flags of vLLM's server.")
    claimed: bool = Field(
        default=False, description="The GPUs that are visible were asked for it: it uses all."
    )


class LlmResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A model server: an endpoint, or with ``spawn`` a vLLM of the run's own.

    Without either: LLM_BASE_URL, with LLM_MODEL and LLM_API_KEY; then the embedded vLLM of `dev`.
    """

    name: str = Field(default=DEFAULT_LLM, description="What agents call it.")
    base_url: str | None = Field(default=None, description="An OpenAI-compatible /v1.")
    model: str | None = Field(default=None, description="Model name there; default: its first.")
    api_key: str | None = None
    api_key_variable: str | None = Field(
        default=None, description="Environment variable that holds the key."
    )
    api_key_file: str | None = Field(
        default=None, description="File that holds the key; read for every request."
    )
    headers: dict[str, str] = Field(
        default={}, description="Sent with every request, such as a gateway's tenancy headers."
    )
    ca: str | None = Field(
        default=None, description="PEM file: who may sign its certificate. Default: the machine's."
    )
    cert: str | None = Field(default=None, description="PEM file: the certificate we show.")
    key: str | None = Field(default=None, description="PEM file: the key that belongs to it.")
    spawn: Spawn | None = Field(
        default=None, description="Start a vLLM instead; all other fields stay unset then."
    )

    def endpoint(self) -> LlmEndpoint:
        """Where the model answers, without starting anything. Blocks; not for an event loop.

        Raises:
            UserError: no model server is configured and none runs here, or it refuses us.
            UnavailableError: it does not say which models it has.
        """

        async def ask(base_url: str) -> str:
            from resources.llm_client import opened

            async with opened(base_url, self._access()) as http:
                return await _first_model(http, base_url)

        base_url, model, gpus = self._found()
        model = model or asyncio.run(ask(base_url))
        key = self._key()
        return LlmEndpoint(base_url, model, key() if key else _NO_KEY, gpus)

    @asynccontextmanager
    async def open(self, say: Callable[[str], object] = logger.info) -> "AsyncIterator[Model]":
        """The model with its client, for as long as the block lasts.

        Args:
            say: told how far the start of a spawned vLLM is, and what it logs.

        Raises:
            UserError: it cannot be used as configured: by its TLS files, its key, its model's name;
                or it cannot be started.
            UnavailableError: it does not answer, and no model is named that could be waited for.
        """
        if self.spawn is not None:
            from resources.llm_spawn import spawned

            async with (
                spawned(self._order(self.spawn), say) as at,
                self._opened(at["url"], at["model"], int(at["gpus"])) as model,
            ):
                yield model
            return
        async with self._opened(*await asyncio.to_thread(self._found)) as model:
            yield model

    def check(self) -> str:
        """See whether it could be used, without starting it; what it is, in words for a person.

        Raises:
            UserError: see `open`.
        """
        if self.spawn is not None:
            from resources.llm_spawn import check

            return check(self._order(self.spawn))
        endpoint = self.endpoint()
        return f"{endpoint.base_url}, model {endpoint.model}"

    @asynccontextmanager
    async def _opened(
        self, base_url: str, name: str | None, gpus: int | None
    ) -> "AsyncIterator[Model]":
        import openai

        from agent_pipelines.agents.model import Model
        from resources.llm_client import opened
        from resources.llm_metrics import VllmMetrics, address

        async with opened(base_url, self._access()) as http:
            name = await self._served(http, base_url, name)
            async with openai.AsyncOpenAI(
                base_url=base_url, api_key=_NO_KEY, http_client=http
            ) as client:
                yield Model(client, name, VllmMetrics(http, address(base_url)), gpus)

    async def _served(self, http: "LlmClient", base_url: str, name: str | None) -> str:
        """The model's name there. Asked for in any case: who is refused should know before a batch.

        A named model is one that may be waited for: whether it is there shows when it is asked.
        """
        from resources.llm_client import served_models

        if name is None:
            return await _first_model(http, base_url)
        try:
            await served_models(http, base_url)
        except UnavailableError as error:
            logger.warning("%s", error.message)
        return name

    def _found(self) -> tuple[str, str | None, int | None]:
        """Address, model and GPUs, as far as they are known without asking."""
        settings = Settings()
        if self.base_url:
            return self.base_url, self.model, None
        model = self.model or settings.llm_model
        if settings.llm_base_url:
            return settings.llm_base_url, model, None
        from agent_pipelines.local.parts import addresses

        embedded = addresses(settings.state_dir, "vllm")
        if embedded is None:
            raise UserError(
                "no model server: LLM_BASE_URL is not set and no embedded vLLM runs in "
                f"{settings.state_dir}",
                remedy="set LLM_BASE_URL to an OpenAI-compatible /v1, or start "
                "`agent-pipelines dev`",
            )
        gpus = embedded.get("gpus")
        return embedded["url"], embedded["model"], None if gpus is None else int(gpus)

    def _access(self) -> "Access":
        from resources.llm_client import Access
        from resources.tool_tls import TlsFiles

        files = TlsFiles(*(Path(p) if p else None for p in (self.ca, self.cert, self.key)))
        return Access(files, self._key(), self.headers)

    def _key(self) -> Callable[[], str] | None:
        """Reads the key anew each time. That of the settings is for the settings' server alone."""
        if self.api_key_file:
            return partial(secret_in, Path(self.api_key_file), "api_key_file")
        key = self.api_key or (None if self.base_url else Settings().llm_api_key)
        if self.api_key_variable:
            key = os.environ.get(self.api_key_variable)
            if not key:
                raise UserError(
                    f"llm {self.name}: `api_key` stands for the environment variable "
                    f"{self.api_key_variable}, which is not set",
                    remedy=f"set {self.api_key_variable} to the key of the model server",
                )
        return partial(str, key) if key else None

    def _order(self, spawn: Spawn) -> "Order":
        from resources.llm_spawn import Order

        return Order(
            self.name,
            spawn.model,
            spawn.gpu,
            spawn.context,
            tuple(spawn.arguments),
            spawn.claimed,
        )


async def _first_model(http: "LlmClient", base_url: str) -> str:
    from resources.llm_client import served_models

    models = await served_models(http, base_url)
    if not models:
        raise UserError(
            f"the model server at {base_url} names no model",
            remedy="load one, or name it: `model` of the llm, or LLM_MODEL",
        )
    return models[0]
