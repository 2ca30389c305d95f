"""The claim that a plan becomes, and what the command line prints and refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from agent_pipelines.cli import app
from agent_pipelines.errors import UserError
from agent_pipelines.gpu.claims import claim_name, claim_template
from agent_pipelines.gpu.devices import CATALOGUE, Device
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.model import ModelShape, read_shape
from agent_pipelines.gpu.plan import plan
from agent_pipelines.gpu.visible import chosen, visible_devices
from agent_pipelines.loading import load_assets
from agent_pipelines.local import vllm
from agent_pipelines.local.fit import refuse_what_cannot_fit
from resources.llm_spawn import Order, shared
from tests.models import write_model

EIGHT = Need(context=4096, concurrency=4)


@pytest.fixture
def llama(tmp_path: Path) -> ModelShape:
    return read_shape(write_model(tmp_path / "llama", "Llama-3.1-8B"), "Llama-3.1-8B")


def requests(template: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of the one request."""
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    found: list[dict[str, Any]] = request["firstAvailable"]
    return found


def cel(request: dict[str, Any]) -> list[str]:
    return [selector["cel"]["expression"] for selector in request["selectors"]]


def test_a_tier_is_told_by_memory_and_compute_capability(llama: ModelShape) -> None:
    found: Any = claim_template("llm-big", plan(llama, EIGHT, fleet={"L4": 1}), "agents")
    assert found["metadata"] == {"name": "llm-big", "namespace": "agents"}
    assert requests(found) == [
        {
            "name": "l4",
            "deviceClassName": "gpu.nvidia.com",
            "count": 1,
            "selectors": [
                {"cel": {"expression": expression}}
                for expression in (
                    # A little under its 23034Mi; no card of 40 GB.
                    'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("21192Mi")) >= 0',
                    'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("24877Mi")) < 0',
                    'device.attributes["gpu.nvidia.com"].cudaComputeCapability.compareTo('
                    'semver("8.9.0")) == 0',
                )
            ],
        }
    ]


def test_never_less_memory_than_is_needed(llama: ModelShape) -> None:
    # 20.3 of 20.7 GiB: one that has 8% less than its label is not enough any more.
    found: Any = claim_template(
        "x", plan(llama, Need(context=6784, concurrency=4), fleet={"L4": 1})
    )
    assert 'memory.compareTo(quantity("22646Mi")) >= 0' in cel(requests(found)[0])[0]


def test_what_is_alike_is_told_by_its_name(llama: ModelShape) -> None:
    # An H100 on PCIe has the memory and the capability of one on SXM, and another price.
    found: Any = claim_template("x", plan(llama, EIGHT, fleet={"H100-PCIe": 1, "H100-SXM": 1}))
    pcie, sxm = requests(found)
    assert 'productName in ["NVIDIA H100 80GB HBM3"]' in cel(pcie)[-1]
    assert cel(pcie)[-1].startswith("!(")
    assert 'productName in ["NVIDIA H100 PCIe"]' in cel(sxm)[-1]


def test_a_slice_is_told_by_its_profile(llama: ModelShape) -> None:
    found: Any = claim_template("x", plan(llama, EIGHT, fleet={"A100-80-3g.40gb": 1}))
    (request,) = requests(found)
    assert request["deviceClassName"] == "mig.nvidia.com"
    assert cel(request)[-1] == 'device.attributes["gpu.nvidia.com"].profile == "3g.40gb"'


def test_two_that_share_a_model_lie_below_one_pcie_root(tmp_path: Path) -> None:
    large = read_shape(write_model(tmp_path / "m", "Llama-3.1-70B"))
    fleet = {"H200": 2, "A100-80": 4, "L40S": 8, "B200": 1}
    found: Any = claim_template("x", plan(large, Need(context=8192, concurrency=8), fleet=fleet))
    devices = found["spec"]["spec"]["devices"]
    assert [(r["name"], r["count"]) for r in requests(found)] == [
        ("l40s-x4", 4),
        ("b200", 1),
        ("h200-x2", 2),
        ("a100-80-x4", 4),
    ]
    # Four that NVSwitch joins need no common root, and would hardly find one.
    assert devices["constraints"] == [
        {"requests": [f"gpu/{name}"], "matchAttribute": "resource.kubernetes.io/pcieRoot"}
        for name in ("l40s-x4", "h200-x2")
    ]


def test_extra_selectors_hold_for_every_tier(llama: ModelShape) -> None:
    mine = 'device.attributes["gpu.nvidia.com"].brand == "Nvidia"'
    found: Any = claim_template("x", plan(llama, EIGHT, selectors=[mine]))
    assert len(requests(found)) > 1
    assert all(cel(request)[-1] == mine for request in requests(found))


def test_a_claim_stays_within_what_the_api_takes(tmp_path: Path) -> None:
    small = read_shape(write_model(tmp_path / "m", "Qwen3-0.6B"))
    found: Any = claim_template("x", plan(small, Need(context=4096)))
    assert len(requests(found)) == 8
    assert len({request["name"] for request in requests(found)}) == 8
    # CELSelectorExpressionMaxLength, DeviceSelectorsMaxSize
    assert all(len(text) < 10 * 1024 for request in requests(found) for text in cel(request))
    assert all(len(request["selectors"]) <= 32 for request in requests(found))
    for name in ("No", "a_b", "a" * 64, ""):
        with pytest.raises(UserError, match="is none that Kubernetes takes"):
            claim_template(name, plan(small, Need(context=4096)))
    assert claim_name("Big_One") == "llm-big-one"
    assert len(claim_name("x" * 100)) == 63


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["claim", *arguments])


def test_the_command_prints_what_can_be_applied(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "Llama", "Llama-3.1-8B"))
    done = run(folder, "--context", "4096", "--concurrency", "4", "--namespace", "agents")
    assert done.exit_code == 0, done.output
    comments = [line for line in done.stdout.splitlines() if line.startswith("# ")]
    assert comments[1] == "# KV cache: 128 KiB per token; 4 × 4,096 tokens"
    template = yaml.safe_load(done.stdout)
    assert template["kind"] == "ResourceClaimTemplate"
    assert template["metadata"] == {"name": "llm-llama", "namespace": "agents"}
    # As one JSON document, with the numbers.
    told = json.loads(run(folder, "--context", "4096", "--concurrency", "4", "--json").stdout)
    assert told["tiers"][0][0]["device"] == "L4"
    assert told["left_out"]["T4"] == "compute capability 7.5, and bfloat16 takes 8.0"
    assert requests(told["template"])[0] == requests(template)[0]


def test_the_command_takes_a_fleet_and_a_file_of_devices(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "m", "Llama-3.1-8B"))
    devices = tmp_path / "devices.yaml"
    devices.write_text("L40S: {price: 0.5}\n")
    asked = (folder, "--context", "4096", "--devices", str(devices), "--fleet", "L4=1")
    done = run(*asked, "--fleet", "L40S", "--json")
    assert [tier[0]["device"] for tier in json.loads(done.stdout)["tiers"]] == ["L40S", "L4"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fleet", "A10=1"], "70B cannot be served by one A10"),
        (["--fleet", "A10=0"], "--fleet 'A10=0' has no number of devices"),
        (["--devices", "nowhere.yaml"], "devices cannot be read from nowhere.yaml"),
        (["--name", "Big"], "name 'Big' is none that Kubernetes takes"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    folder = write_model(tmp_path / "70B", "Llama-3.1-70B")
    done = run(str(folder), "--context", "8192", *arguments)
    assert isinstance(done.exception, UserError)
    assert said in done.exception.message


LLM = """\
type: agent_pipelines.components.LlmComponent
attributes:
  server:
    kind: spawn
    model: ./model
    context: 4096
    arguments: [--dtype=half, --kv-cache-dtype, auto]
    claim:
      concurrency: 4
      fleet: {L4: 1, T4: 2}
      devices: {T4: {price: 0.1}}
"""
AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes: {instructions: Answer., llm: big_one}
"""


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A model server with a claim, and an agent that uses it."""
    for name, text in (("big_one", LLM), ("clerk", AGENT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "defs.yaml").write_text(text)
    write_model(tmp_path / "big_one" / "model", "Llama-3.1-8B")
    return tmp_path


@pytest.mark.parametrize("name", ["big_one", "clerk"])
def test_an_llm_of_assets_is_claimed_for_as_its_yaml_says(assets: Path, name: str) -> None:
    done = run(name, "--assets", str(assets), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["template"]["metadata"]["name"] == "llm-big-one"
    assert [(t[0]["device"], t[0]["count"]) for t in told["tiers"]] == [("T4", 2), ("L4", 1)]
    # What is said on the command line counts instead.
    more = json.loads(run(name, "--assets", str(assets), "--concurrency", "9", "--json").stdout)
    assert [tier[0]["device"] for tier in more["tiers"]] == ["T4"]
    assert more["left_out"]["L4"].startswith("too small")


def test_flags_say_what_a_model_is_to_do() -> None:
    flags = ["--dtype", "half", "--gpu-memory-utilization=0.8", "--dtype=float16", "-tp", "2"]
    need = vllm.need(flags, context=4096, concurrency=3)
    assert need == Need(context=4096, concurrency=3, dtype="float16", utilization=0.8)
    assert vllm.tensor_parallel(flags) == 2
    assert vllm.need([], context=None) == Need()
    with pytest.raises(UserError, match="--gpu-memory-utilization '90%' is no share of a GPU"):
        vllm.need(["--gpu-memory-utilization", "90%"], context=None)
    with pytest.raises(UserError, match="--tensor-parallel-size 'all' is no number of GPUs"):
        vllm.tensor_parallel(["--tensor-parallel-size", "all"])


def test_a_claimed_llm_insists_on_its_gpus_and_uses_all(assets: Path) -> None:
    spawn = load_assets(assets).llms["big_one"].resource.spawn
    assert spawn is not None
    assert (spawn.gpu, spawn.claimed) == ("required", True)
    order = Order("big_one", spawn.model, spawn.gpu, spawn.context, (), claimed=True)
    assert shared(order, 1) == ()
    assert shared(order, 2) == ("--tensor-parallel-size", "2")
    # Where it says so itself, or shares the machine with others, it is left to it.
    assert shared(replace(order, arguments=("-tp", "2")), 4) == ()
    assert shared(replace(order, claimed=False), 4) == ()


def test_doctor_says_what_an_llm_claims(assets: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--assets", str(assets), "--json"])
    (found,) = [f for f in json.loads(done.stdout) if f["subject"] == "claim of llm big_one"]
    assert found["observed"] == "llm-big-one: 2 × T4 at first, 2 alternatives in all"
    write_model(assets / "big_one" / "model", "Llama-3.1-70B")
    done = CliRunner().invoke(app, ["doctor", "--assets", str(assets), "--json"])
    (found,) = [f for f in json.loads(done.stdout) if f["subject"] == "claim of llm big_one"]
    assert not found["ok"]
    assert "cannot be served by any of 2 devices" in found["observed"]


def test_a_launch_on_too_small_a_gpu_is_refused(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "70B", "Llama-3.1-70B"))
    cards = [CATALOGUE["A10"]] * 8
    with pytest.raises(
        UserError, match=r"does not fit on one A10: 131\.4 weights \+ 2\.5 KV cache"
    ):
        refuse_what_cannot_fit(folder, cards, context=8192)
    # All eight hold it, or a flag says that the weights lie elsewhere, or nobody can tell.
    refuse_what_cannot_fit(folder, cards, context=8192, sharing=8)
    refuse_what_cannot_fit(folder, cards, context=8192, arguments=["-tp=8"])
    refuse_what_cannot_fit(folder, cards, context=8192, arguments=["--cpu-offload-gb", "200"])
    refuse_what_cannot_fit(folder, [], context=8192)
    refuse_what_cannot_fit(str(tmp_path / "nowhere"), cards, context=8192)


def test_hidden_gpus_are_not_counted_on() -> None:
    assert visible_devices() == [], "there is no driver here"
    a, b, c = (CATALOGUE[name] for name in ("L4", "A10", "T4"))
    found: list[tuple[str, Device]] = [("GPU-aa1", a), ("GPU-bb2", b), ("MIG-cc3", c)]
    for named, expected in (
        (None, [a, b, c]),
        ("1", [b]),
        ("GPU-aa,2", [a, c]),
        ("0,7,1", [a]),
        ("", []),
        ("-1", []),
    ):
        assert chosen(found, named) == expected
