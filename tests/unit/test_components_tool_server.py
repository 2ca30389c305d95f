"""Tool servers in YAML: what they become, and what is wrong with them before anything runs."""

import textwrap
from pathlib import Path

import pytest

from agent_pipelines.definitions import definitions_of
from agent_pipelines.loading import Loaded, load_assets
from resources.tools import ToolServerResource

SERVER = """
type: agent_pipelines.components.ToolServerComponent
attributes:
  url: https://orders.example/mcp
"""
AGENT = """
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  tools: [read]
  tool_servers: [orders]
"""


def loaded(assets: Path, **folders: str) -> Loaded:
    for name, text in folders.items():
        (assets / name).mkdir()
        (assets / name / "defs.yaml").write_text(textwrap.dedent(text))
    return load_assets(assets)


def test_a_folder_is_a_resource_that_its_agents_require(tmp_path: Path) -> None:
    text = SERVER + (
        "  ca: tls/ca.pem\n"
        "  cert: /etc/tls/tls.crt\n"
        "  key: /etc/tls/tls.key\n"
        '  token: "{{ env.ORDERS_TOKEN }}"\n'
        "  tools: [read]\n"
        "  concurrency: 4\n"
        "  breaker: {failures: 5, open_seconds: 10}\n"
    )
    found = loaded(tmp_path, orders=text, clerk=AGENT)
    assert found.broken == {}
    defs = definitions_of(found)
    resource = defs.resources["tools_orders"]
    assert isinstance(resource, ToolServerResource)
    assert resource.model_dump(exclude_none=True) == {
        "name": "orders",
        "url": "https://orders.example/mcp",
        "ca": str(tmp_path / "orders/tls/ca.pem"),
        "cert": "/etc/tls/tls.crt",
        "key": "/etc/tls/tls.key",
        # Never the token: Dagster shows resources.
        "token_variable": "ORDERS_TOKEN",
        "tools": ["read"],
        "connect_timeout_seconds": 5.0,
        "call_timeout_seconds": 30.0,
        "concurrency": 4,
        "breaker_failures": 5,
        "breaker_open_seconds": 10.0,
    }
    job = defs.resolve_job_def("clerk_batch")
    assert "tools_orders" in job.resource_defs


def test_an_agent_that_names_no_server_has_the_one_for_searching(tmp_path: Path) -> None:
    agent = AGENT.replace("  tool_servers: [orders]\n", "")
    found = loaded(tmp_path, clerk=agent)
    assert found.broken == {}
    assert found.agents["clerk"].tool_servers == ("search",)
    search = "type: agent_pipelines.components.ToolServerComponent\nattributes: {concurrency: 2}\n"
    found = loaded(tmp_path, search=search)
    assert found.broken == {}
    resource = definitions_of(found).resources["tools"]
    assert (resource.name, resource.url, resource.concurrency) == ("search", None, 2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  timeout: 3\n", "there is no such field"),
        ("  concurrency: 0\n", "concurrency"),
        ("  breaker: {failures: 0}\n", "failures"),
        ("  cert: tls.crt\n", "cert is set and key is not; set both"),
        ("  token: hunter2\n", "write `{{ env.NAME }}`"),
        ('  token: "{{ env.T }}"\n  token_file: t\n', "token and token_file are both set"),
        ("  tools: [a, a]\n", "tools names one twice: a"),
        ("  tools: []\n", "tools"),
    ],
)
def test_a_wrong_value_is_one_error_that_names_it(tmp_path: Path, more: str, said: str) -> None:
    reason = loaded(tmp_path, orders=SERVER + more).broken["orders"]
    assert said in reason
    assert "hunter2" not in reason


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("orders.example", "'orders.example' is no URL; write it like https://"),
        ("https://user:hunter2@orders.example/mcp", "it holds a password; say it as `token`"),
        (
            "http://orders.example/mcp\n  ca: ca.pem",
            "ca is set and url 'http://orders.example/mcp'",
        ),
    ],
)
def test_a_wrong_url_is_named(tmp_path: Path, url: str, said: str) -> None:
    text = SERVER.replace("https://orders.example/mcp", url)
    reason = loaded(tmp_path, orders=text).broken["orders"]
    assert said in reason
    assert "hunter2" not in reason


def test_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    nowhere = "type: agent_pipelines.components.ToolServerComponent\nattributes: {}\n"
    found = loaded(tmp_path, orders=nowhere, clerk=AGENT, **{"my-orders": SERVER})
    assert "tool server orders: `url` is missing; set it" in found.broken["orders"]
    assert "cannot be called 'my-orders'" in found.broken["my-orders"]
    assert (
        "there is no tool server 'orders'; set `tool_servers` to some of: search"
        in (found.broken["clerk"])
    )
