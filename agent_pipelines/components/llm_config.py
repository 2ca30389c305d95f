"""What the defs.yaml of a model server may say.

Belongs here: the fields, and what is wrong with a value before anything runs. Does not belong here:
the resource that is made of it (`llm.py`, `resources/llm.py`).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_pipelines.components.tls_config import TlsConfig
from agent_pipelines.components.tool_server_config import checked_url, variable_in
from agent_pipelines.gpu.devices import DeviceConfig

#: RFC 9110, 5.6.2.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class EndpointConfig(TlsConfig):
    """A model server that somebody else runs: any OpenAI-compatible base URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["endpoint"]
    url: str | None = Field(
        default=None,
        description="Its base URL, such as https://gateway.example/v1. Default: LLM_BASE_URL, else "
        "the embedded vLLM.",
    )
    model: str | None = Field(
        default=None,
        description="The model's name there. Default: the first that it serves; with "
        "LLM_BASE_URL, LLM_MODEL.",
    )
    api_key: str | None = Field(
        default=None, description="Its key, as `{{ env.NAME }}`: it has no place in a file."
    )
    api_key_file: str | None = Field(
        default=None, description="File with its key; read for every request."
    )
    headers: Mapping[str, str] = Field(
        default_factory=dict,
        description="Sent with every request, such as a gateway's tenancy headers. They are shown "
        "in Dagster: a secret is no header.",
    )

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        return url and checked_url(url, example="https://gateway.example/v1", say_as="api_key")

    @field_validator("api_key")
    @classmethod
    def _is_no_secret(cls, api_key: str | None) -> str | None:
        if api_key is not None and variable_in(api_key) is None:
            raise ValueError(
                "a secret has no place in a file; write `{{ env.NAME }}` for the environment "
                "variable that holds it, or use `api_key_file`"
            )
        return api_key

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise ValueError(f"{name!r} is no HTTP header, or its value cannot be sent")
            if name.lower() == "authorization":
                raise ValueError(f"{name!r} is what `api_key` is for")
        return headers

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file are both set; leave one out")
        if self.url:
            self.refuse_without_tls(self.url)
        return self


class ClaimConfig(BaseModel):
    """The GPUs that a run asks its cluster for, by what the model needs (`agent-pipelines claim`).

    What the model computes in, how full the GPU may be and how many share the model is said by
    `arguments`, as to vLLM: --dtype, --kv-cache-dtype, --gpu-memory-utilization,
    --tensor-parallel-size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(
        default=8, ge=1, description="Conversations of `context` tokens that fit at once."
    )
    tokens_per_second: float | None = Field(
        default=None, gt=0, description="Of each of them; GPUs too slow for it are not asked for."
    )
    ttft_ms: float | None = Field(
        default=None, gt=0, description="Milliseconds to the first token; likewise."
    )
    prompt: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of a request that no prefix cache has, for `ttft_ms`; default: all of "
        "`context`.",
    )
    fleet: Mapping[str, Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        description="What the cluster has, and how many of it one pod can get, such as {L4: 1, "
        "A100-80: 4}. Default: any device of the catalogue, up to 8.",
    )
    devices: Mapping[str, DeviceConfig] = Field(
        default_factory=dict,
        description="What is different here: prices, measured bandwidths, devices of your own. "
        "Names as `agent-pipelines claim` prints them, such as {L4: {price: 0.7}}.",
    )
    selectors: tuple[str, ...] = Field(
        default=(), description="CEL that every device has to satisfy as well."
    )
    template: str | None = Field(
        default=None,
        description="Name of the ResourceClaimTemplate; default: llm- and this folder's name.",
    )


class SpawnConfig(BaseModel):
    """A vLLM that a run starts where it is; runs on one machine share it, the last one ends it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["spawn"]
    model: str | None = Field(
        default=None,
        description="Name on the hub, or folder (with `./`, from this YAML's folder). Default: "
        "LLM_MODEL, else the packaged SmolLM2-135M.",
    )
    gpu: Literal["required", "optional"] | None = Field(
        default=None,
        description="required: a run that sees no GPU, though one was claimed for it, fails at "
        "once instead of crawling on the CPU. Default: required with a `claim`, else optional.",
    )
    context: int | None = Field(
        default=None, ge=256, description="Tokens of one conversation; default: the model's own."
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description="Further flags of vLLM's server, such as [--tensor-parallel-size, '2', "
        "--enable-auto-tool-choice, --tool-call-parser, hermes].",
    )
    claim: ClaimConfig | None = Field(
        default=None,
        description="In a cluster: the GPUs that a run of it asks for. It then uses all that it "
        "gets.",
    )


class LlmConfig(BaseModel):
    """A model server, which agents share.

    The folder that the defs.yaml stands in gives it its name; agents name it as `llm`.
    """

    # What is wrong is named, and not shown: it may be a key.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    description: str = Field(default="", description="What it is good for, for people.")
    server: Annotated[EndpointConfig | SpawnConfig, Field(discriminator="kind")] = Field(
        description="endpoint: one that somebody else runs. spawn: a vLLM of the run's own."
    )
