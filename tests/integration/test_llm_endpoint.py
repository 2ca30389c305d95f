"""A model server behind a gateway: TLS, a key that changes, tenancy headers, what it tells us."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from agent_pipelines.agents.model import ModelError
from agent_pipelines.agents.use import recorded_use
from agent_pipelines.definitions import definitions_of
from agent_pipelines.errors import UserError
from agent_pipelines.loading import load_assets
from resources.llm import LlmResource
from resources.state import StateResource
from tests.certificates import Authority
from tests.scripted_model import MODEL, ScriptedModel, Turn, says
from tests.vllm_metrics import told

GATEWAY = """\
type: agent_pipelines.components.LlmComponent
attributes:
  server:
    kind: endpoint
    url: URL
    ca: ca.pem
    cert: client.pem
    key: client.key
    api_key_file: key
    headers: {x-tenant: search}
"""

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  llm: gateway
  concurrency: 1
"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@contextmanager
def gateway(ours: Authority, script: Any, **more: Any) -> Iterator[ScriptedModel]:
    """A model server that wants a client certificate of ours."""
    cert, key = ours.issue("server", "127.0.0.1")
    tls = {
        "ssl_certfile": cert,
        "ssl_keyfile": key,
        "ssl_ca_certs": str(ours.pem),
        "ssl_cert_reqs": 2,
    }
    with ScriptedModel(script, tls=tls, **more) as server:
        yield server


def shown(pair: tuple[Path, Path]) -> dict[str, str]:
    return dict(zip(("cert", "key"), map(str, pair), strict=True))


async def ask(resource: LlmResource) -> None:
    async with resource.open() as model:
        await model.reply([], temperature=0, completion_tokens=16, options={})


def test_a_batch_shows_its_certificate_its_key_of_now_and_its_tenant(
    ours: Authority, tmp_path: Path
) -> None:
    """The key is renewed while the batch runs: the old one is refused from then on."""
    folder = tmp_path / "assets" / "gateway"
    folder.mkdir(parents=True)
    keys = iter(["first", "second", "third", "fourth"])
    valid = next(keys)
    (folder / "key").write_text(valid + "\n")

    def renewing(_body: dict[str, Any]) -> Turn:
        nonlocal valid
        valid = next(keys)
        (folder / "key").write_text(valid + "\n")
        return says({"answer": "done"})

    def admits(headers: Mapping[str, str]) -> bool:
        return headers.get("authorization") == f"Bearer {valid}"

    cert, key = ours.issue("client", "agents")
    for name, file in (("ca.pem", ours.pem), ("client.pem", cert), ("client.key", key)):
        (folder / name).write_bytes(file.read_bytes())
    (tmp_path / "assets" / "clerk").mkdir()
    (tmp_path / "assets" / "clerk" / "defs.yaml").write_text(AGENT)
    tasks = [json.dumps({"task_id": f"t{n}", "question": f"{n}"}) for n in range(3)]
    (tmp_path / "assets" / "clerk" / "tasks.jsonl").write_text("\n".join(tasks))
    # What a vLLM had counted before the batch, and then after it.
    counted = iter([told("idle")])
    with (
        gateway(
            ours, renewing, admits=admits, metrics=lambda: next(counted, told("after"))
        ) as server,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        (folder / "defs.yaml").write_text(GATEWAY.replace("URL", server.base_url))
        state = StateResource(url=f"sqlite:///{tmp_path / 'state.db'}")
        defs = definitions_of(load_assets(tmp_path / "assets"), {"state": state})
        result = defs.resolve_job_def("clerk_batch").execute_in_process(instance=instance)
    (event,) = result.get_asset_materialization_events()
    found = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (found["outcome_ok"], found["model"]) == (3, MODEL)
    assert {headers["x-tenant"] for headers in server.headers} == {"search"}
    assert found["targets"] == "gpu", "where nobody knows better"
    assert 0 < found["ttft_p50"] <= found["ttft_p95"]
    assert found["server_tokens_per_second"] > 0
    # By which `claim --from-batch` sizes the next one.
    use = recorded_use(state.engine(), found["batch"])
    assert use is not None
    assert use.kv_cache_tokens == 46592
    checks = {c.check_name: c for c in result.get_asset_check_evaluations()}
    assert "target < 0.5 s" in (checks["ttft"].description or "")
    assert checks["queue"].passed
    assert checks["stream_speed"].severity is dg.AssetCheckSeverity.WARN


def test_who_is_refused_learns_why_before_anything_is_asked(
    ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    right = shown(ours.issue("client", "agents"))
    wrong = shown(theirs.issue("client", "agents"))
    empty = tmp_path / "key"
    empty.write_text("\n")
    with gateway(ours, [], admits=lambda headers: "x" in headers) as server:
        for fields, said in (
            ({"ca": str(theirs.pem), **right}, f"not signed by a CA in {theirs.pem}"),
            ({"ca": str(ours.pem)}, "wants a client certificate, and none is set"),
            ({"ca": str(ours.pem), "cert": wrong["cert"], "key": right["key"]}, "`cert`"),
            ({"ca": str(ours.pem), **right}, "refuses our key: HTTP 401 who are you?"),
            ({"ca": str(ours.pem), **right, "api_key_file": str(empty)}, "it is empty"),
        ):
            with pytest.raises(UserError) as failure:
                asyncio.run(ask(LlmResource(base_url=server.base_url, model=MODEL, **fields)))
            assert said in failure.value.message
        admitted = LlmResource(
            base_url=server.base_url, ca=str(ours.pem), **right, headers={"x": "y"}
        )
        assert admitted.endpoint().model == MODEL
    assert server.requests == []


def test_a_key_that_is_gone_for_a_moment_is_what_the_row_says(tmp_path: Path) -> None:
    """And not "Connection error", which is all that the openai client would pass on."""
    key = tmp_path / "key"
    key.write_text("first")

    async def main(resource: LlmResource) -> None:
        async with resource.open() as model:
            key.unlink()
            with pytest.raises(ModelError, match=f"`api_key_file` {key} cannot be read"):
                await model.reply([], temperature=0, completion_tokens=16, options={})
            key.write_text("second")
            await model.reply([], temperature=0, completion_tokens=16, options={})

    with ScriptedModel([says("well")]) as server:
        asyncio.run(main(LlmResource(base_url=server.base_url, api_key_file=str(key))))
    assert server.headers[-1]["authorization"] == "Bearer second"


def test_a_named_model_whose_server_is_down_is_one_to_wait_for() -> None:
    async def main() -> str:
        async with LlmResource(base_url="http://127.0.0.1:9/v1", model="big").open() as model:
            assert model.server is not None
            assert await model.server.load() is None
            return model.name

    assert asyncio.run(main()) == "big"
