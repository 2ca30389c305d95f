"""The chart's own pods on a real node: with their arguments, probes, certificates and rights, as a
user that is not root, on a file system that is read-only.

What a node of the tests cannot do is replaced: the image by this machine's Python, the network of
pods by the machine's (so ports are other ones), and names of Services by addresses.
"""

import asyncio
import hashlib
import json
import os
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.local import ports
from agent_pipelines.settings import Settings
from resources.embedder import EmbedderResource
from resources.tools import ToolServerResource
from tests.certificates import Authority
from tests.cluster import helm, images
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node
from tests.processes import until

_NAMESPACE = "chart-pods"
_ROOT = Path(__file__).parents[2]

#: Everything that is looked at, by the chart's names; all of it is Python on two cores.
_PODS = ("kubernetes", "code-location", "exporter", "janitor")
_READY_SECONDS = 240.0

_VALUES = {
    "assets": {
        "files": {
            "licences/defs.yaml": """
type: agent_pipelines.components.IndexComponent
attributes:
  source: {kind: files, url: /usr/share/common-licenses}
"""
        }
    },
    # Nothing listens there: the exporter says so, and is as ready as ever.
    "weaviate": {"url": "http://127.0.0.1:9", "grpc": "127.0.0.1:9"},
    "toolDefaults": {"replicas": 1, "maxReplicas": 1, "drainSeconds": 2},
}

_SECRETS = {
    "agent-pipelines-state": {"url": "sqlite:////state/state.db"},
    "agent-pipelines-weaviate": {"api-key": "none"},
    "dagster-postgresql-secret": {"postgresql-password": "none"},
}


class Installed:
    """What Helm renders, in a namespace of its own; of its pods those that are looked at."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        values = folder / "values.yaml"
        values.write_text(yaml.safe_dump(_VALUES))
        self._objects = helm.template([values], namespace=_NAMESPACE)
        self._control_plane = control_plane
        self.authority = Authority(folder / "certificates")
        #: By the port that the chart gives to a tool server, its probes, and the code location.
        self._ports: dict[str, Mapping[int, int]] = {
            name: dict(zip((8443, 9090, 3030), ports.free(1, 1, 1), strict=True)) for name in _PODS
        }
        control_plane.make_namespace(_NAMESPACE)
        self._apply(list(self._settings()))
        self._apply([self._pod(name) for name in _PODS])

    def url(self, tool: str) -> str:
        """As agents are told it."""
        host = f"{helm.RELEASE}-{tool}.{_NAMESPACE}.svc"
        return f"https://{host}:{self.port(tool)}/mcp"

    def port(self, tool: str) -> int:
        """Where it listens."""
        return self._ports[tool][8443]

    def status(self, name: str) -> dict[str, Any]:
        found = self._control_plane.ask("GET", f"/api/v1/namespaces/{_NAMESPACE}/pods/{name}")
        return dict(found["status"])

    def ready(self, name: str) -> bool:
        """Whether its kubelet says so."""
        status = self.status(name)
        assert status["phase"] not in ("Failed", "Succeeded"), self.log(name)
        return any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions", ())
        )

    def renew(self, name: str) -> Path:
        """Do as cert-manager does before a certificate ends; the new one."""
        found = helm.of_kind(self._objects, "Certificate")[name]
        pair = self.authority.issue(f"{name}-renewed", *found["spec"]["dnsNames"], caller=name)
        self._apply([self._certificate(found, *pair)])
        return pair[0]

    def log(self, name: str) -> str:
        return self._control_plane.kubectl("logs", name, "-n", _NAMESPACE)

    def _settings(self) -> Iterator[dict[str, Any]]:
        kinds = ("ServiceAccount", "ConfigMap", "Role", "RoleBinding")
        kinds += ("ClusterRole", "ClusterRoleBinding")
        yield from (found for found in self._objects if found["kind"] in kinds)
        for name, text in _SECRETS.items():
            yield _secret(name, text)
        for name, certificate in helm.of_kind(self._objects, "Certificate").items():
            if name != "ca":
                hosts = certificate["spec"].get("dnsNames", ["client.invalid"])
                pair = self.authority.issue(name, *hosts, caller=name)
                yield self._certificate(certificate, *pair)
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "dagster-instance"},
            "data": {"dagster.yaml": "telemetry: {enabled: false}\n"},
        }

    def _certificate(self, certificate: Mapping[str, Any], cert: Path, key: Path) -> dict[str, Any]:
        files = {"ca.crt": self.authority.pem, "tls.crt": cert, "tls.key": key}
        text = {file: path.read_text() for file, path in files.items()}
        return _secret(certificate["spec"]["secretName"], text)

    def _pod(self, name: str) -> dict[str, Any]:
        """The pod that the chart's Deployment, or Job, would make here."""
        if name == "janitor":
            cron = helm.of_kind(self._objects, "CronJob")[name]
            template = cron["spec"]["jobTemplate"]["spec"]["template"]
        else:
            template = helm.of_kind(self._objects, "Deployment")[name]["spec"]["template"]
        text = json.dumps(template["spec"])
        for theirs, ours in self._ports[name].items():
            text = text.replace(str(theirs), str(ours))
        spec = json.loads(text)
        spec["hostNetwork"] = True
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            container |= {"image": images.HOST_ROOT, "imagePullPolicy": "Never"}
            _mount(spec, container, "/usr")
        for container in spec.get("initContainers", ()):
            # What the image has there.
            _mount(spec, container, "/app/cache/embedders", Settings().cache_dir / "embedders")
        (container,) = spec["containers"]
        program, *container["args"] = container["args"]
        module = {"agent-pipelines": "agent_pipelines.cli", "dagster": "dagster"}[program]
        container["command"] = [sys.executable, "-m", module]
        container["env"].append({"name": "PYTHONPATH", "value": str(_ROOT)})
        for path in {str(_ROOT), sys.prefix, sys.base_prefix} - {"/usr"}:
            _mount(spec, container, path)
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    def _apply(self, objects: list[dict[str, Any]]) -> None:
        text = yaml.safe_dump_all(objects)
        self._control_plane.kubectl("apply", "-n", _NAMESPACE, "-f", "-", text=text)


def _mount(
    spec: dict[str, Any], container: dict[str, Any], path: str, here: Path | None = None
) -> None:
    """A folder of this machine, where it is here or at ``path``; nothing writes to it."""
    volumes = {volume["name"] for volume in spec["volumes"]}
    name = f"host-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    container["volumeMounts"].append({"name": name, "mountPath": path, "readOnly": True})
    if name not in volumes:
        spec["volumes"].append({"name": name, "hostPath": {"path": str(here or path)}})


def _secret(name: str, text: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": text}


@pytest.fixture(scope="module")
def installed(
    control_plane: ControlPlane, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    # Converted once for this machine, as it is once for the image.
    EmbedderResource().open()
    return Installed(control_plane, tmp_path_factory.mktemp("chart"))


@pytest.mark.parametrize("name", ["kubernetes", "code-location", "exporter"])
def test_a_pod_of_the_chart_becomes_ready(name: str, installed: Installed) -> None:
    try:
        until(lambda: installed.ready(name), _READY_SECONDS, f"{name} is ready")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{installed.status(name)}\n{installed.log(name)}") from None


def test_the_janitor_sweeps_with_the_rights_that_it_has(installed: Installed) -> None:
    def ended() -> bool:
        return str(installed.status("janitor")["phase"]) in ("Succeeded", "Failed")

    until(ended, _READY_SECONDS, "it has ended")
    assert "0 Jobs removed" in installed.log("janitor")
    assert installed.status("janitor")["phase"] == "Succeeded"


def test_an_agent_calls_a_tool_by_the_name_of_its_service(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: installed.ready("kubernetes"), _READY_SECONDS, "the tool server is ready")
    # There is no DNS here.
    real = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        service = os.fsdecode(host).endswith(".svc")
        return real("127.0.0.1" if service else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    folder, url = installed.authority.folder, installed.url("kubernetes")
    pair = {"cert": str(folder / "agents.pem"), "key": str(folder / "agents.key")}

    async def call(**files: str) -> str:
        resource = ToolServerResource(
            name="kubernetes", url=url, ca=str(installed.authority.pem), **files
        )
        async with resource.session() as session:
            return (await session.call("list_pods", {"namespace": _NAMESPACE})).text

    # What it sees is what its account may see.
    assert '"janitor"' in asyncio.run(call(**pair))
    with pytest.raises(ToolTransportError, match="certificate"):
        asyncio.run(call())


def test_a_renewed_certificate_is_served_by_the_pod_that_runs(installed: Installed) -> None:
    until(lambda: installed.ready("kubernetes"), _READY_SECONDS, "the tool server is ready")
    before = installed.status("kubernetes")["containerStatuses"][0]
    address = ("127.0.0.1", installed.port("kubernetes"))
    renewed = x509.load_pem_x509_certificate(installed.renew("kubernetes").read_bytes())

    def served() -> bool:
        shown = ssl.get_server_certificate(address, timeout=10).encode()
        return x509.load_pem_x509_certificate(shown).serial_number == renewed.serial_number

    assert not served()
    until(served, 120, "kubelet and the server have taken it up")
    assert installed.status("kubernetes")["containerStatuses"][0] == before
