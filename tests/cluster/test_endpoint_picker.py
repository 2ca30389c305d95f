"""The upstream endpoint picker with the chart's configuration: who is to answer which request.

It is asked as a gateway asks it, over Envoy's ext-proc API. Nodes, probes and the API server are
real; the model servers say what a real vLLM said at /metrics, and which adapters they have loaded.

The chart's own picker is llm-d's, which no Go module proxy has; this one is what it was made of.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from agent_pipelines.local import ports
from tests.cluster import binaries, crds, pods
from tests.cluster.control_plane import ControlPlane
from tests.cluster.ext_proc import Gateway
from tests.cluster.node import Node
from tests.cluster.programs import Program
from tests.processes import until

pytestmark = pytest.mark.slow

_SECONDS = 60.0
_PORT = 8000
_NAMESPACE = "picked"

#: What the chart's picker may read (its Role in templates/pickers.yaml).
_RIGHTS = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {
        "apiGroups": ["inference.networking.k8s.io", "inference.networking.x-k8s.io"],
        "resources": ["inferencepools", "inferenceobjectives", "inferencemodelrewrites"],
        "verbs": ["get", "list", "watch"],
    },
]

#: A model server, as far as a picker and a kubelet see it.
_SERVER = """
import http.server, os
from tests.vllm_metrics import told

class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(1)
        loaded = 'running_lora_adapters="{adapter}",waiting_lora_adapters="",max_lora="1"'
        said = told("idle") + "vllm:lora_requests_info{{" + loaded + "}} 1.0\\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said.encode())

http.server.ThreadingHTTPServer(("{host}", {port}), Server).serve_forever()
"""


@pytest.fixture(scope="module")
def servers(control_plane: ControlPlane) -> Iterator[dict[str, Node]]:
    """By adapter, the node where the one server is that has it loaded."""
    if reason := binaries.no_node_because():
        pytest.skip(reason)
    crds.install(control_plane)
    control_plane.make_namespace(_NAMESPACE)
    found = {
        adapter: Node(control_plane, control_plane.node_address(number))
        for number, adapter in enumerate(("triage", "summaries"), start=21)
    }
    try:
        for adapter, node in found.items():
            program = _SERVER.format(adapter=adapter, host=node.name, port=_PORT)
            pod = pods.python_pod(adapter, program, service_account="default", node=node.name)
            pod["metadata"]["labels"] = {"app": "model"}
            (container,) = pod["spec"]["containers"]
            container["readinessProbe"] = {
                "httpGet": {"path": "/health", "port": _PORT},
                "periodSeconds": 1,
            }
            control_plane.ask("POST", f"/api/v1/namespaces/{_NAMESPACE}/pods", pod)
        yield found
    finally:
        for node in found.values():
            node.end()


@pytest.fixture(scope="module")
def picker(
    control_plane: ControlPlane, servers: dict[str, Node], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    pool = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "model"},
        "spec": {
            "selector": {"matchLabels": {"app": "model"}},
            "targetPorts": [{"number": _PORT}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    }
    api = "/apis/inference.networking.k8s.io/v1"
    control_plane.ask("POST", f"{api}/namespaces/{_NAMESPACE}/inferencepools", pool)
    folder = tmp_path_factory.mktemp("picker")
    port, health, metrics = ports.free(1, 1, 1)
    program = Program(
        [
            binaries.endpoint_picker(),
            *("--pool-name=model", f"--pool-namespace={_NAMESPACE}"),
            *(f"--grpc-port={port}", f"--grpc-health-port={health}"),
            *(f"--metrics-port={metrics}", "--metrics-endpoint-auth=false"),
            *("--secure-serving=false", "--tracing=false", f"--config-text={_configuration()}"),
        ],
        folder / "picker.log",
        cwd=folder,
        environment={"KUBECONFIG": str(_access(control_plane)), "PATH": os.environ["PATH"]},
    )
    try:
        with Gateway(f"{ports.HOST}:{port}") as gateway:
            everywhere = {f"{node.name}:{_PORT}" for node in servers.values()}
            program.await_ready(
                lambda: set(gateway.endpoints("anything", 16)) == everywhere, _SECONDS
            )
            yield gateway
    finally:
        program.end()


def test_a_request_goes_to_the_server_that_has_its_adapter(
    picker: Gateway, servers: dict[str, Node]
) -> None:
    def all_are_right() -> bool:
        return all(
            set(picker.endpoints(adapter, 20)) == {f"{node.name}:{_PORT}"}
            for adapter, node in servers.items()
        )

    # As soon as it knows what they say at /metrics, where it looks every 50 ms.
    until(all_are_right, _SECONDS, "requests go to their adapter's server")


def test_a_server_that_dies_leaves(picker: Gateway, servers: dict[str, Node]) -> None:
    dead, left = (f"{servers[adapter].name}:{_PORT}" for adapter in ("triage", "summaries"))
    _kill(dead)
    until(lambda: dead not in picker.endpoints("triage", 5), _SECONDS, "it has left")
    assert set(picker.endpoints("triage", 20)) == {left}
    assert set(picker.endpoints("summaries", 20)) == {left}


def _kill(server: str) -> None:
    with contextlib.suppress(urllib3.exceptions.HTTPError):  # its answer is its end
        urllib3.request("GET", f"http://{server}/die", retries=False)


def _configuration() -> str:
    """The chart's, by the name that it has for this picker."""
    values = Path(__file__).parents[2] / "deploy" / "chart" / "values.yaml"
    found: dict[str, Any] = yaml.safe_load(values.read_text())["gateway"]["picker"]["config"]
    return json.dumps(found | {"apiVersion": "inference.networking.x-k8s.io/v1alpha1"})


def _access(control_plane: ControlPlane) -> Path:
    """A kubeconfig with the rights that it needs, and no other."""
    api = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{_NAMESPACE}"
    control_plane.ask("POST", f"{api}/roles", {"metadata": {"name": "picker"}, "rules": _RIGHTS})
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": _NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "picker"}
    binding = {"metadata": {"name": "picker"}, "subjects": [subject], "roleRef": role}
    control_plane.ask("POST", f"{api}/rolebindings", binding)
    return control_plane.write_kubeconfig("picker", control_plane.token(_NAMESPACE, "default"))
