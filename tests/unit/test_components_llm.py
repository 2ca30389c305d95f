"""A model server from YAML to resource, and what is refused before vLLM is started."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.components.llm import LlmComponent
from agent_pipelines.components.llm_config import LlmConfig
from agent_pipelines.errors import UserError
from agent_pipelines.loading import load_assets
from agent_pipelines.local.accelerators import visible_gpus
from agent_pipelines.local.vllm import gpus_taken
from resources.llm import LlmResource, Spawn

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  llm: {llm}
"""

LLM = """\
type: agent_pipelines.components.LlmComponent
attributes:
  server: {server}
"""


def loaded(folder: Path, **servers: str) -> Any:
    """Assets with these model servers, and an agent for each of them."""
    for name, server in servers.items():
        for where, text in (
            (name, LLM.replace("{server}", server)),
            (f"of_{name}", AGENT.replace("{llm}", name)),
        ):
            (folder / where).mkdir()
            (folder / where / "defs.yaml").write_text(text)
    return load_assets(folder)


def test_the_two_kinds_become_resources_with_paths_of_their_folder(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        gateway="{kind: endpoint, url: 'https://gateway/v1', ca: ca.pem, "
        "api_key: '{{ env.KEY }}', headers: {x-tenant: search}}",
        own="{kind: spawn, model: ./model, gpu: required, arguments: [--swap-space, '2']}",
        llm="{kind: endpoint, headers: {x-tenant: search}}",
    )
    assert not found.broken
    gateway = found.llms["gateway"].resource
    assert gateway.ca == str(tmp_path / "gateway" / "ca.pem")
    assert (gateway.api_key_variable, gateway.headers) == ("KEY", {"x-tenant": "search"})
    assert found.llms["own"].resource.spawn == Spawn(
        model=str(tmp_path / "own" / "model"), gpu="required", arguments=["--swap-space", "2"]
    )
    # Which is what `dev` starts, and what it does not.
    assert found.embedded_llm(["of_llm"])
    assert not found.embedded_llm(["of_gateway", "of_own"])


def test_an_agent_whose_model_server_is_not_there_is_broken(tmp_path: Path) -> None:
    (tmp_path / "clerk").mkdir()
    (tmp_path / "clerk" / "defs.yaml").write_text(AGENT.replace("{llm}", "big"))
    assert "there is no llm 'big'" in load_assets(tmp_path).broken["clerk"]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"kind": "spawned"}, "spawn"),
        ({"kind": "endpoint", "url": "gateway:8000"}, "is no URL; write it like"),
        ({"kind": "endpoint", "api_key": "sk-123"}, "a secret has no place in a file"),
        ({"kind": "endpoint", "headers": {"Authorization": "x"}}, "what `api_key` is for"),
        ({"kind": "endpoint", "headers": {"x tenant": "x"}}, "is no HTTP header"),
        ({"kind": "endpoint", "cert": "a.pem"}, "cert is set and key is not"),
        ({"kind": "endpoint", "url": "http://a/v1", "ca": "a.pem"}, "is not https"),
        ({"kind": "spawn", "gpu": "yes"}, "'required' or 'optional'"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(server: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as failure:
        LlmConfig.model_validate({"server": server})
    assert said in str(failure.value)
    assert "sk-123" not in str(failure.value)


def test_a_name_that_cannot_be_a_resource_is_refused(tmp_path: Path) -> None:
    config = LlmConfig.model_validate({"server": {"kind": "spawn"}})
    with pytest.raises(UserError, match="cannot be called 'big-one'"):
        LlmComponent("big-one", config, tmp_path)


def test_a_gpu_that_was_claimed_and_is_not_visible_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("AGENT_PIPELINES_STATE_DIR", str(tmp_path))

    async def start() -> None:
        async with LlmResource(name="big", spawn=Spawn(gpu="required")).open():
            pytest.fail("it was started")

    with pytest.raises(UserError, match="llm big requires a GPU, and none is visible"):
        asyncio.run(start())
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_gpus_are_counted_by_what_the_container_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert visible_gpus(tmp_path) == 0, "a driver, and no device"
    for number in (0, 3):
        (tmp_path / f"nvidia{number}").touch()
    assert visible_gpus(tmp_path) == 2
    for named, count in (("0", 1), ("0,1", 2), ("", 0), ("-1", 0), ("1,-1,0", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus(tmp_path) == count


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        ((), 1),
        (("--swap-space", "4"), 1),
        (("--tensor-parallel-size", "2"), 2),
        (("--tensor_parallel_size=2", "-pp", "2"), 4),
        (("-tp=2", "--data-parallel-size", "4"), 8),
        (("-tp", "16"), 8),
    ],
)
def test_a_vllm_takes_as_many_gpus_as_it_splits_itself_over(
    arguments: tuple[str, ...], gpus: int
) -> None:
    assert gpus_taken(arguments, visible=8) == gpus
    assert gpus_taken(arguments, visible=0) == 0
