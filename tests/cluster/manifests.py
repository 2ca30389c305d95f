"""What is installed of the product in a cluster of the tests, as the chart would: objects, as data.

Belongs here: Deployments, accounts and settings. Does not belong here: applying them, or what runs
on the machine itself (`product`).

What pods cannot have here (`node`) is replaced: addresses of this machine stand for Services.
Dagster is set as deploy/values says.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent_pipelines.settings import Settings
from tests.cluster import images
from tests.cluster.pods import folders, python_folders
from tests.dagster_ui import LOCATION

#: Where deploy/rbac has the account of the kubernetes tool server.
NAMESPACE = "agent-pipelines"
CLAIM = "llm-big"

TOOL_SERVERS = ("search", "kubernetes")

_HOME = "/opt/dagster/dagster_home"
_VALUES = Path(__file__).parents[2] / "deploy" / "values" / "upstream" / "dagster.yaml"


_RBAC = "rbac.authorization.k8s.io/v1"

#: As the chart has them, by account: of those who launch runs, and of whoever says why one waits.
_RULES = {
    "launcher": [
        (["batch"], ["jobs"], ["create", "get", "list", "delete"]),
        (["batch"], ["jobs/status"], ["get"]),
        ([""], ["pods"], ["get", "list", "delete"]),
        ([""], ["pods/log"], ["get"]),
        ([""], ["events"], ["get", "list"]),
    ],
    "code-location": [
        ([""], ["pods", "events"], ["get", "list"]),
        (["batch"], ["jobs"], ["get", "list"]),
        (["resource.k8s.io"], ["resourceclaims"], ["get", "list"]),
    ],
}


@dataclass(frozen=True)
class Manifests:
    """Of one installation."""

    python: Path
    """What pods run."""
    folder: Path
    """Shared by all of them."""
    ports: Mapping[str, int]
    """Of `code`, `web` and each tool server, which has its probes at the next one."""
    environment: Mapping[str, str]
    """Of everything that loads the assets."""
    authority: Path
    certificates: Mapping[str, tuple[Path, Path]]
    """By the name of its Secret."""

    def settings(self) -> Iterator[dict[str, Any]]:
        """Everything but pods."""
        for name in ("launcher", "code-location", "runs"):
            yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        for name, rules in _RULES.items():
            yield {
                "apiVersion": _RBAC,
                "kind": "Role",
                "metadata": {"name": name},
                "rules": [{"apiGroups": g, "resources": r, "verbs": v} for g, r, v in rules],
            }
            yield {
                "apiVersion": _RBAC,
                "kind": "RoleBinding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": _RBAC.split("/")[0], "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name}],
            }
        server = {"host": "127.0.0.1", "port": self.ports["code"], "location_name": LOCATION}
        workspace = {"load_from": [{"grpc_server": server}]}
        for name, data in {
            "environment": self.environment,
            "dagster-instance": {"dagster.yaml": yaml.safe_dump(_dagster_yaml())},
            "workspace": {"workspace.yaml": yaml.safe_dump(workspace)},
        }.items():
            yield {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": data,
            }
        for name, (cert, key) in self.certificates.items():
            yield {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name},
                "stringData": {
                    "ca.crt": self.authority.read_text(),
                    "tls.crt": cert.read_text(),
                    "tls.key": key.read_text(),
                },
            }
        yield {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": "gpu.nvidia.com"},
            "spec": {"selectors": [{"cel": {"expression": 'device.driver == "gpu.nvidia.com"'}}]},
        }
        request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
        yield {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": CLAIM},
            "spec": {"spec": {"devices": {"requests": [request]}}},
        }

    def code_location(self) -> dict[str, Any]:
        """It tells Dagster's launcher what the pods of runs are made of."""
        volumes, mounts = self._volumes("agents-tls")
        context = {
            "k8s": {
                "namespace": NAMESPACE,
                "service_account_name": "runs",
                "image_pull_policy": "Never",
                "env_config_maps": ["environment"],
                "env": [_POD],
                "volumes": volumes,
                "volume_mounts": mounts,
                "run_k8s_config": {
                    "pod_spec_config": {
                        "host_network": True,
                        "automount_service_account_token": False,
                        "termination_grace_period_seconds": 5,
                    },
                },
            }
        }
        port = self.ports["code"]
        return self._deployment(
            "code-location",
            *("dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(port)),
            *("-m", "agent_pipelines.definitions", "--use-python-environment-entry-point"),
            tls="agents-tls",
            port=port,
            service_account="code-location",
            environment={
                "DAGSTER_CURRENT_IMAGE": images.HOST_ROOT,
                "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT": json.dumps(context),
                "DAGSTER_HOME": _HOME,
            },
        )

    def tool_server(self, name: str) -> dict[str, Any]:
        port = self.ports[name]
        return self._deployment(
            name,
            *("agent_pipelines.cli", "tools", name, "--host", "127.0.0.1"),
            *("--port", str(port), "--probes-port", str(port + 1)),
            tls=f"{name}-tls",
            port=port + 1,
            service_account="kubernetes-tool" if name == "kubernetes" else None,
            environment={
                "TOOLS_TLS_CERT": "/tls/tls.crt",
                "TOOLS_TLS_KEY": "/tls/tls.key",
                "TOOLS_TLS_CLIENT_CA": "/tls/ca.crt",
                "TOOLS_KUBERNETES_NAMESPACES": NAMESPACE,
            },
        )

    def dagster(self, name: str) -> dict[str, Any]:
        """Its daemon, or its webserver."""
        web = str(self.ports["web"])
        command = {
            "daemon": ("dagster._daemon", "run", "-w", "/workspace/workspace.yaml"),
            "webserver": (
                *("dagster_webserver", "-h", "127.0.0.1", "-p", web),
                *("-w", "/workspace/workspace.yaml"),
            ),
        }[name]
        return self._deployment(
            name,
            *command,
            service_account="launcher",
            port=self.ports["web"] if name == "webserver" else None,
            environment={"DAGSTER_HOME": _HOME},
        )

    def _deployment(
        self,
        name: str,
        *command: str,
        environment: Mapping[str, str],
        tls: str | None = None,
        port: int | None = None,
        service_account: str | None = None,
    ) -> dict[str, Any]:
        volumes, mounts = self._volumes(tls)
        for config_map, folder, file in (
            ("dagster-instance", _HOME, "dagster.yaml"),
            ("workspace", "/workspace", "workspace.yaml"),
        ):
            volumes.append({"name": config_map, "configMap": {"name": config_map}})
            mounts.append({"name": config_map, "mountPath": f"{folder}/{file}", "subPath": file})
        labels = {"app": name}
        spec = {
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": service_account is not None,
            "containers": [
                {
                    "name": "main",
                    "image": images.HOST_ROOT,
                    "imagePullPolicy": "Never",
                    "command": [str(self.python), "-m", *command],
                    "envFrom": [{"configMapRef": {"name": "environment"}}],
                    "env": [
                        _POD,
                        *({"name": key, "value": value} for key, value in environment.items()),
                    ],
                    "volumeMounts": mounts,
                    **({"readinessProbe": _probe(port)} if port else {}),
                }
            ],
            "volumes": volumes,
            **({"serviceAccountName": service_account} if service_account else {}),
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                # Its address is the machine's: the new pod cannot have it beside the old one.
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }

    def _volumes(self, tls: str | None) -> tuple[list[Any], list[Any]]:
        read, mounts = folders(Path("/usr"), *python_folders())
        written, more = folders(self.folder, Settings().cache_dir, writable=True)
        volumes, mounts = read + written, mounts + more
        if tls:
            volumes.append({"name": "tls", "secret": {"secretName": tls}})
            mounts.append({"name": "tls", "mountPath": "/tls", "readOnly": True})
        return volumes, mounts


def database_driver() -> str:
    """The one that our values for Dagster's chart name."""
    scheme: str = yaml.safe_load(_VALUES.read_text())["postgresql"]["postgresqlScheme"]
    return scheme.partition("+")[2]


def _dagster_yaml() -> dict[str, Any]:
    """What Dagster's own chart makes of our values for it, with less patience."""
    values = yaml.safe_load(_VALUES.read_text())
    launcher = values["runLauncher"]["config"]["customRunLauncher"]
    runs, pools = values["concurrency"]["runs"], values["concurrency"]["pools"]
    config = {
        **launcher["config"],
        "job_namespace": NAMESPACE,
        "service_account_name": "runs",
        "image_pull_policy": "Never",
    }
    del config["postgres_password_secret"]  # there is none
    return {
        **values["additionalInstanceConfig"],
        "telemetry": values["telemetry"],
        "storage": {"postgres": {"postgres_url": {"env": "DAGSTER_PG_URL"}}},
        "run_launcher": {**launcher, "config": config},
        "run_coordinator": values["dagsterDaemon"]["runCoordinator"]["config"][
            "customRunCoordinator"
        ],
        "run_monitoring": {
            "enabled": True,
            "max_resume_run_attempts": 0,
            "poll_interval_seconds": 5,
            "start_timeout_seconds": 120,
        },
        "concurrency": {
            "runs": {
                "max_concurrent_runs": runs["maxConcurrentRuns"],
                "tag_concurrency_limits": runs["tagConcurrencyLimits"],
            },
            "pools": {"granularity": pools["granularity"], "default_limit": pools["defaultLimit"]},
        },
        "sensors": {"use_threads": True, "num_workers": 4},
    }


_POD = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def _probe(port: int) -> dict[str, Any]:
    return {"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1}
