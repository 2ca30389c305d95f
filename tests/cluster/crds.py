"""The kinds that the chart uses and Kubernetes does not have: their projects' own definitions.

Belongs here: where they come from. They lie inside Go modules, are taken from there when the tests
run, and are never committed. Does not belong here: objects of these kinds.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from agent_pipelines.local import go
from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane

_INFERENCE = "sigs.k8s.io/gateway-api-inference-extension@v1.5.0"

#: By module, the files of the kinds that are used.
_SOURCES = {
    "sigs.k8s.io/gateway-api@v1.4.0": (
        "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    _INFERENCE: (
        "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml",
        "config/crd/bases/inference.networking.x-k8s.io_inferenceobjectives.yaml",
    ),
    "github.com/cert-manager/cert-manager@v1.21.2": (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}

#: InferenceObjective moved to llm-d with its schema as it was; llm-d's module is on no proxy.
_MOVED = {"inference.networking.x-k8s.io": "llm-d.ai"}


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """A folder of them, downloaded once.

    Raises:
        UserError: there is no Go, or the modules cannot be downloaded.
    """

    def build(program: Path, new: Path) -> None:
        for module, files in _SOURCES.items():
            done = subprocess.run(
                [program, "mod", "download", "-json", module],
                cwd=new,
                env={**environ, "GOFLAGS": "-mod=mod"},
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise go.Unable(f"{module}: {(done.stderr or done.stdout).strip()}")
            source = Path(json.loads(done.stdout)["Dir"])
            for file in files:
                text = (source / file).read_text()
                for old, current in _MOVED.items():
                    text = text.replace(old, current)
                (new / Path(file).name).write_text(text)

    digest = hashlib.sha256(repr((_SOURCES, _MOVED)).encode()).hexdigest()[:8]
    kept = binaries.cache() / f"crds-{digest}"
    return binaries.once("CustomResourceDefinitions", kept, build, print, environ)


def install(control_plane: ControlPlane) -> None:
    """Have the API server know them all."""
    found = folder()
    # Larger than the annotation that a client-side apply leaves.
    control_plane.kubectl("apply", "--server-side", "-f", found)
    names = [yaml.safe_load(file.read_text())["metadata"]["name"] for file in found.iterdir()]
    control_plane.kubectl(
        "wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names)
    )
