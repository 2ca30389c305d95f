"""A model server as a Dagster resource, which agents share.

Belongs here: its name, and YAML → resource. Does not belong here: the YAML's fields
(`llm_config.py`) or talking to it (`resources/llm.py`).
"""

from pathlib import Path

import dagster as dg
from pydantic import BaseModel

from agent_pipelines.agents.spec import DEFAULT_LLM
from agent_pipelines.components.llm_config import ClaimConfig, LlmConfig, SpawnConfig
from agent_pipelines.components.tool_server_config import variable_in
from agent_pipelines.errors import UserError
from agent_pipelines.gpu.claims import claim_name
from resources.llm import LlmResource, Spawn


def llm_key(name: str) -> str:
    """The key that a model server has among Dagster's resources."""
    return "llm" if name == DEFAULT_LLM else f"llm_{name}"


class LlmComponent(dg.Component):
    """A model server: an OpenAI-compatible endpoint, or a vLLM that runs start for themselves."""

    def __init__(self, name: str, config: LlmConfig, folder: Path) -> None:
        self.name = name
        self.config = config
        self._folder = folder
        if not llm_key(name).isidentifier():
            raise UserError(
                f"an llm cannot be called {name!r}: Dagster's resources cannot",
                remedy="rename its folder to letters, digits and _",
            )

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return LlmConfig

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "LlmComponent":
        config = attributes or LlmConfig.model_validate({})  # which says what is missing
        assert isinstance(config, LlmConfig)
        return cls(context.path.name, config, context.path)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """None: its resource is bound with all the others, in `definitions.py`."""
        del context
        return dg.Definitions()

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded vLLM, where LLM_BASE_URL names no other."""
        return not isinstance(self.config.server, SpawnConfig) and self.config.server.url is None

    @property
    def resource(self) -> LlmResource:
        server = self.config.server
        if isinstance(server, SpawnConfig):
            model = server.model
            return LlmResource(
                name=self.name,
                spawn=Spawn(
                    model=self._path(model) if model and model.startswith(".") else model,
                    gpu=server.gpu or ("required" if server.claim else "optional"),
                    context=server.context,
                    arguments=list(server.arguments),
                    claimed=server.claim is not None,
                ),
            )
        return LlmResource(
            name=self.name,
            base_url=server.url,
            model=server.model,
            api_key_variable=variable_in(server.api_key) if server.api_key else None,
            api_key_file=self._path(server.api_key_file),
            headers=dict(server.headers),
            ca=self._path(server.ca),
            cert=self._path(server.cert),
            key=self._path(server.key),
        )

    @property
    def claim(self) -> ClaimConfig | None:
        """What a run of it asks a cluster for; None: nothing."""
        server = self.config.server
        return server.claim if isinstance(server, SpawnConfig) else None

    @property
    def template(self) -> str:
        """The name of the ResourceClaimTemplate that its claim is made of."""
        return (self.claim and self.claim.template) or claim_name(self.name)

    def check(self) -> str:
        """See whether it could be used, and what it is, in words for a person. Starts nothing.

        Raises:
            UserError: it cannot be used as configured.
            UnavailableError: it does not answer.
        """
        return self.resource.check()

    def _path(self, path: str | None) -> str | None:
        """From the YAML's folder, unless it is absolute."""
        return None if path is None else str((self._folder / path).absolute())
