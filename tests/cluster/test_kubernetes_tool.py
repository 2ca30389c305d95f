"""The kubernetes tool server against a real API server, with the rights that deploy/rbac gives it.

Pods' statuses are written as kubelets write them; some pods run, on a real node.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from mcp.client import Client
from mcp.types import CallToolResult

from agent_pipelines.local import ports
from agent_pipelines.toolservers.kubernetes import TOOL_SERVER
from agent_pipelines.toolservers.kubernetes.cluster import KINDS
from agent_pipelines.toolservers.outcome import OUTAGE
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node
from tests.cluster.pods import host_pod, python_pod
from tests.processes import started, until

T = TypeVar("T")

_RBAC = Path(__file__).parents[2] / "deploy" / "rbac" / "kubernetes-tool.yaml"
_ACCOUNT = "agent-pipelines:kubernetes-tool"

#: Namespaces of these tests: one for what is ill, and one for what is not.
_WARD, _SHOP = "ward", "shop"

_SECRET = "geheim-5f1c"


@pytest.fixture(scope="module")
def kubeconfig(control_plane: ControlPlane) -> Path:
    """Of the service account that the shipped RBAC makes: all that the server has."""
    control_plane.kubectl("create", "namespace", "agent-pipelines")
    control_plane.kubectl("apply", "-f", _RBAC)
    for namespace in (_WARD, _SHOP):
        control_plane.make_namespace(namespace)
    until(lambda: control_plane.may(_ACCOUNT, "list", "pods", _WARD), 10, "the binding acts")
    token = control_plane.token(*_ACCOUNT.split(":"))
    return control_plane.write_kubeconfig("kubernetes-tool", token)


@pytest.fixture(autouse=True)
def its_own_credentials(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))


def within(use: Callable[[Client], Awaitable[T]]) -> T:
    """What ``use`` returns, inside one session with a server of its own."""

    async def main() -> T:
        with TOOL_SERVER.open() as opened:
            async with Client(opened.server) as client:
                return await use(client)

    return asyncio.run(main())


def call(tool: str, **arguments: Any) -> CallToolResult:
    return within(lambda client: client.call_tool(tool, arguments))


def answer(tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer, which is what the tool's output schema says."""

    async def both(client: Client) -> tuple[CallToolResult, Any]:
        tools = (await client.list_tools()).tools
        (schema,) = (listed.output_schema for listed in tools if listed.name == tool)
        return await client.call_tool(tool, arguments), schema

    result, schema = within(both)
    assert not result.is_error, text(result)
    assert result.structured_content is not None
    Draft202012Validator(schema).validate(result.structured_content)
    return result.structured_content


def refusal(tool: str, **arguments: Any) -> tuple[str, str]:
    """Why there is no answer, for programs and for a model."""
    result = call(tool, **arguments)
    assert result.is_error
    assert OUTAGE not in (result.meta or {})
    assert result.structured_content is not None
    return result.structured_content["reason"], text(result)


def text(result: CallToolResult) -> str:
    return "".join(getattr(block, "text", "") for block in result.content)


@pytest.fixture(scope="module")
def made_node(control_plane: ControlPlane) -> str:
    """A node without a kubelet: what is bound to it stays as a test writes it."""
    room = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    made = {"metadata": {"name": "made"}, "status": {"capacity": room, "allocatable": room}}
    control_plane.ask("POST", "/api/v1/nodes", made)
    return "made"


class Ward:
    """Makes pods with the status that a kubelet would have written."""

    def __init__(self, control_plane: ControlPlane, node: str) -> None:
        self._control_plane = control_plane
        self._node = node

    def pod(self, name: str, status: Mapping[str, Any], **spec: Any) -> None:
        containers = [{"name": "main", "image": "shop/api:7"}]
        pod = {
            "metadata": {"name": name},
            "spec": {"nodeName": self._node, "containers": containers, **spec},
        }
        self._control_plane.ask("POST", f"/api/v1/namespaces/{_WARD}/pods", pod)
        write_status(self._control_plane, _WARD, name, status)


def write_status(
    control_plane: ControlPlane, namespace: str, pod: str, status: Mapping[str, Any]
) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/status"
    merge = "application/merge-patch+json"
    control_plane.ask("PATCH", path, {"status": status}, content_type=merge)


@pytest.fixture(scope="module")
def ward(control_plane: ControlPlane, kubeconfig: Path, made_node: str) -> Ward:
    return Ward(control_plane, made_node)


def container(state: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "main",
        "image": "shop/api:7",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
        **more,
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(reason: str, code: int) -> dict[str, Any]:
    return {
        "terminated": {
            "reason": reason,
            "exitCode": code,
            "startedAt": "2026-11-01T11:00:00Z",
            "finishedAt": "2026-11-01T12:00:00Z",
        }
    }


def status(phase: str, *containers: Mapping[str, Any], ready: bool = False) -> dict[str, Any]:
    since = "2026-11-01T12:00:00Z"
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": since}
    return {"phase": phase, "conditions": [condition], "containerStatuses": list(containers)}


RUNNING = {"running": {"startedAt": "2026-11-01T12:00:00Z"}}
INIT = {"initContainers": [{"name": "migrate", "image": "shop/migrate:7"}]}

#: What kubelets write of pods that are ill, and what of it must be said.
_ILL: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], str]] = {
    "crash-loop": (
        status(
            "Running",
            container(
                waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container"),
                restartCount=7,
                lastState=ended("Error", 3),
            ),
        ),
        {},
        ["CrashLoopBackOff"],
        "ended with Error, exit code 3",
    ),
    "out-of-memory": (
        status(
            "Running",
            container(
                waiting("CrashLoopBackOff", "back-off 40s restarting failed container"),
                restartCount=3,
                lastState=ended("OOMKilled", 137),
            ),
        ),
        {},
        ["CrashLoopBackOff"],
        "ended with OOMKilled, exit code 137",
    ),
    "not-ready": (
        status("Running", container(RUNNING, started=True)),
        {},
        ["NotReady"],
        "its readiness probe does not pass",
    ),
    "not-started": (
        status("Running", container(RUNNING, started=False)),
        {},
        ["NotReady"],
        "its startup probe does not pass",
    ),
    "node-gone": (
        {
            **status("Running", container(RUNNING, ready=True)),
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "NodeNotReady", "message": "gone"}
            ],
        },
        {},
        ["NodeNotReady"],
        "gone",
    ),
    "no-image": (
        status("Pending", container(waiting("ImagePullBackOff", "Back-off pulling shop/api:7"))),
        {},
        ["ImagePullBackOff"],
        "Back-off pulling shop/api:7",
    ),
    "no-secret": (
        status(
            "Pending", container(waiting("CreateContainerConfigError", 'secret "db" not found'))
        ),
        {},
        ["CreateContainerConfigError"],
        'secret "db" not found',
    ),
    "init-fails": (
        {
            **status("Pending", container(waiting("PodInitializing"))),
            "initContainerStatuses": [
                container(
                    waiting("CrashLoopBackOff", "back-off 20s"),
                    name="migrate",
                    restartCount=2,
                    lastState=ended("Error", 1),
                )
            ],
        },
        INIT,
        ["CrashLoopBackOff"],
        "ended with Error, exit code 1",
    ),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."},
        {},
        ["Evicted"],
        "low on memory",
    ),
    "failed": (
        status("Failed", container(ended("Error", 2))),
        {"restartPolicy": "Never"},
        ["Error"],
        "exit code 2",
    ),
    "should-not-end": (
        status("Running", container(ended("Completed", 0))),
        {},
        ["Completed"],
        "should go on for ever",
    ),
}


@pytest.mark.parametrize("name", _ILL)
def test_what_is_wrong_with_a_pod_is_said_whatever_its_phase(ward: Ward, name: str) -> None:
    written, spec, reasons, message = _ILL[name]
    ward.pod(name, written, **spec)
    checked = answer("check_pod_status", namespace=_WARD, pod=name)
    assert not checked["healthy"]
    (pod,) = checked["pods"]
    assert (pod["health"], pod["phase"]) == ("unhealthy", written["phase"])
    assert [problem["reason"] for problem in pod["problems"]] == reasons
    assert message in pod["problems"][0]["message"]


@pytest.mark.parametrize(
    ("name", "written", "spec"),
    [
        ("serves", status("Running", container(RUNNING, ready=True), ready=True), {}),
        (
            "completed",
            status("Succeeded", container(ended("Completed", 0))),
            {"restartPolicy": "Never"},
        ),
        (
            "half-done",
            status(
                "Running",
                container(ended("Completed", 0)),
                container(RUNNING, name="second", ready=True),
            ),
            {
                "restartPolicy": "Never",
                "containers": [
                    {"name": "main", "image": "shop/api:7"},
                    {"name": "second", "image": "shop/api:7"},
                ],
            },
        ),
        (
            "with-sidecar",
            {
                **status("Running", container(RUNNING, ready=True), ready=True),
                "initContainerStatuses": [container(RUNNING, name="migrate", ready=True)],
            },
            {"initContainers": [{**INIT["initContainers"][0], "restartPolicy": "Always"}]},
        ),
    ],
)
def test_a_pod_that_does_or_has_done_its_work_is_healthy(
    ward: Ward, name: str, written: dict[str, Any], spec: dict[str, Any]
) -> None:
    ward.pod(name, written, **spec)
    checked = answer("check_pod_status", namespace=_WARD, pod=name)
    assert checked["healthy"], checked["pods"]
    assert checked["counts"] == {"healthy": 1}


def test_a_pod_without_a_node_or_a_gpu_says_why(
    control_plane: ControlPlane, kubeconfig: Path, made_node: str
) -> None:
    control_plane.kubectl("apply", "-f", "-", text=_WAITING_FOR_A_GPU)

    def reason(pod: str) -> str:
        (found,) = answer("check_pod_status", namespace=_SHOP, pod=pod)["pods"]
        return " ".join(f"{p['reason']}: {p['message']}" for p in found["problems"])

    until(lambda: "Unschedulable" in reason("gpu"), 20, "the scheduler has tried")
    assert "cannot allocate all claims" in reason("gpu")
    until(lambda: "Unschedulable" in reason("nowhere"), 20, "the scheduler has tried")
    assert "node(s) didn't match Pod's node affinity/selector" in reason("nowhere")
    # The scheduler reports it as an event as well.
    found = answer("list_events", namespace=_SHOP, about="gpu", warnings_only=True)["events"]
    assert [(event["reason"], event["about"]) for event in found] == [
        ("FailedScheduling", "Pod/gpu")
    ]
    described = answer(
        "describe", kind="resourceclaim", name=_claim(control_plane), namespace=_SHOP
    )
    assert described["object"]["spec"]["devices"]["requests"][0]["name"] == "gpu"


def _claim(control_plane: ControlPlane) -> str:
    (claim,) = control_plane.ask(
        "GET", f"/apis/resource.k8s.io/v1/namespaces/{_SHOP}/resourceclaims"
    )["items"]
    return str(claim["metadata"]["name"])


def test_of_many_pods_those_that_are_ill_are_shown(ward: Ward) -> None:
    ward.pod("ill", *_ILL["crash-loop"][:1])
    for name in ("well-1", "well-2"):
        ward.pod(name, status("Running", container(RUNNING, ready=True), ready=True))
    checked = answer("check_pod_status", namespace=_WARD)
    assert not checked["healthy"]
    assert checked["counts"]["healthy"] >= 2
    assert "ill" in [pod["name"] for pod in checked["pods"]]
    assert {pod["health"] for pod in checked["pods"]} == {"unhealthy"}


def test_lists_go_on_where_they_were_cut(control_plane: ControlPlane) -> None:
    control_plane.make_namespace("many")
    for number in range(5):
        container = {"name": "main", "image": "shop/api:7"}
        pod = {
            "metadata": {"name": f"p{number}", "labels": {"odd": str(number % 2)}},
            "spec": {"nodeSelector": {"no": "such"}, "containers": [container]},
        }
        control_plane.ask("POST", "/api/v1/namespaces/many/pods", pod)
    first = answer("list_pods", namespace="many", limit=3)
    assert first["truncated"]
    rest = answer("list_pods", namespace="many", limit=3, cursor=first["next"])
    assert not rest["truncated"]
    names = [pod["name"] for page in (first, rest) for pod in page["pods"]]
    assert names == ["p0", "p1", "p2", "p3", "p4"]
    odd = answer("list_pods", namespace="many", labels="odd=1")
    assert [pod["name"] for pod in odd["pods"]] == ["p1", "p3"]
    assert refusal("list_pods", namespace="many", cursor="nonsense")[0] == "mistaken"
    assert refusal("list_pods", namespace="many", labels="odd in")[0] == "mistaken"


def test_a_deployment_is_healthy_when_its_pods_are(
    control_plane: ControlPlane, kubeconfig: Path
) -> None:
    control_plane.make_namespace("rollout")
    control_plane.kubectl("apply", "--namespace=rollout", "-f", "-", text=_DEPLOYMENT)

    def deployment() -> dict[str, Any]:
        (found,) = answer("list_deployments", namespace="rollout")["deployments"]
        return dict(found)

    until(lambda: len(answer("list_pods", namespace="rollout")["pods"]) == 2, 20, "two pods")
    # They find no node, and the deadline passes.
    until(lambda: deployment()["health"] == "unhealthy", 30, "the rollout is late")
    assert any("ProgressDeadlineExceeded" in problem for problem in deployment()["problems"])
    for pod in answer("list_pods", namespace="rollout", labels="app=api")["pods"]:
        assert pod["owner"].startswith("ReplicaSet/api-")
        written = status("Running", container(RUNNING, ready=True), ready=True)
        write_status(control_plane, "rollout", pod["name"], written)
    until(lambda: deployment()["health"] == "healthy", 30, "the controller counts them")
    counted = deployment()
    assert [counted[which] for which in ("desired", "updated", "ready", "available")] == [2] * 4


def test_describe_shows_an_object_without_what_may_be_secret(
    control_plane: ControlPlane, kubeconfig: Path
) -> None:
    control_plane.make_namespace("described")
    # As people do it: kubectl then keeps the whole object in an annotation as well.
    control_plane.kubectl("apply", "--namespace=described", "-f", "-", text=_DEPLOYMENT)
    deployment = control_plane.kubectl("get", "deployment", "api", "-n", "described", "-o", "json")
    assert deployment.count(_SECRET) > 5
    described = answer("describe", kind="Deployment", name="api", namespace="described")
    assert _SECRET not in json.dumps(described)
    (seen,) = described["object"]["spec"]["template"]["spec"]["containers"]
    assert [variable["name"] for variable in seen["env"]] == ["PASSWORD", "FROM_SECRET"]
    # Which Secret it is stays visible: that it does not exist is a usual cause.
    assert seen["env"][1]["valueFrom"]["secretKeyRef"] == {"name": "db", "key": "password"}
    assert seen["args"][0] == "--max-tokens=100"
    until(lambda: answer("list_pods", namespace="described")["pods"], 10, "the deployment's pods")
    for pod in answer("list_pods", namespace="described")["pods"]:
        described = answer("describe", kind="pod", name=pod["name"], namespace="described")
        assert _SECRET not in json.dumps(described)


def test_every_kind_that_can_be_described_is(control_plane: ControlPlane, made_node: str) -> None:
    assert answer("describe", kind="node", name=made_node)["object"]["metadata"]["name"] == "made"
    for kind in KINDS.values():
        reason, said = refusal(
            "describe",
            kind=kind.plural,
            name="nobody",
            namespace=_SHOP if kind.namespaced else None,
        )
        assert reason == "missing", said
        assert f"there is no {kind.name} 'nobody'" in said


def test_a_mistake_is_answered_with_what_there_is(ward: Ward) -> None:
    ward.pod("checkout-7d9f", status("Running", container(RUNNING, ready=True), ready=True))
    reason, said = refusal("check_pod_status", namespace=_WARD, pod="checkout-7d9e")
    assert reason == "missing"
    assert "checkout-7d9f" in said
    # An empty list of what does not exist would be a lie.
    for tool in ("list_pods", "list_events", "list_deployments", "check_pod_status"):
        reason, said = refusal(tool, namespace="shopp")
        assert (reason, "namespace 'shopp' does not exist" in said) == ("missing", True)
        assert _SHOP in said
    reason, said = refusal("describe", kind="pod", name="checkout-7d9f")
    assert reason == "mistaken"
    assert _WARD in said


def test_a_namespace_that_is_not_allowed_is_refused_by_every_tool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOOLS_KUBERNETES_NAMESPACES", f"{_SHOP}, many")
    for tool, arguments in {
        "check_pod_status": {},
        "list_pods": {},
        "list_events": {},
        "list_deployments": {},
        "pod_logs": {"pod": "x"},
        "describe": {"kind": "pod", "name": "x"},
    }.items():
        reason, said = refusal(tool, namespace="kube-system", **arguments)
        assert reason == "forbidden"
        assert f"{_SHOP}, many" in said
    assert answer("list_pods", namespace=_SHOP)["pods"]


_WRITES = ("create", "update", "patch", "delete", "deletecollection")


def test_the_service_account_reads_what_the_tools_read_and_changes_nothing(
    control_plane: ControlPlane,
) -> None:
    _, role, _ = yaml.safe_load_all(_RBAC.read_text())
    granted = {
        f"{resource.partition('/')[0]}.{rule['apiGroups'][0]}".rstrip(".")
        + resource.partition("/")[1]
        + resource.partition("/")[2]
        for rule in role["rules"]
        for resource in rule["resources"]
    }
    used = {
        f"{kind.plural}.{kind.api.split('/')[2]}" if kind.api.startswith("/apis/") else kind.plural
        for kind in KINDS.values()
    }
    assert granted == used | {"pods/log", "events", "namespaces"}
    may = control_plane.may
    for resource in granted:
        assert may(_ACCOUNT, "get", resource, _SHOP), resource
        assert not [verb for verb in _WRITES if may(_ACCOUNT, verb, resource, _SHOP)], resource


def test_secrets_are_out_of_reach_of_the_service_account(control_plane: ControlPlane) -> None:
    verbs = ("get", "list", "watch", *_WRITES)
    resources = ("secrets", "configmaps", "pods/exec", "pods/attach", "pods/portforward")
    resources += ("pods/proxy", "nodes/proxy", "serviceaccounts/token", "pods/ephemeralcontainers")
    for namespace, resource, verb in itertools.product((_SHOP, "kube-system"), resources, verbs):
        assert not control_plane.may(_ACCOUNT, verb, resource, namespace), (verb, resource)


@pytest.mark.parametrize("who", ["the service account", "an administrator"])
def test_no_call_reads_a_secret_whoever_runs_the_server(
    who: str, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    if who == "an administrator":
        monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    secret = {"metadata": {"name": f"db-{who.split()[1]}"}, "stringData": {"password": _SECRET}}
    name = control_plane.ask("POST", f"/api/v1/namespaces/{_SHOP}/secrets", secret)["metadata"][
        "name"
    ]
    for kind in ("secret", "Secrets", "secrets", "configmap"):
        reason, said = refusal("describe", kind=kind, name=name, namespace=_SHOP)
        assert (reason, "never shown" in said) == ("forbidden", True)
    for arguments in (
        {"kind": "pod", "name": f"../secrets/{name}", "namespace": _SHOP},
        {"kind": "pod", "name": name, "namespace": f"{_SHOP}/secrets/{name}?"},
        {"kind": "../secrets", "name": name, "namespace": _SHOP},
        {"kind": "pod", "name": f"%2e%2e%2fsecrets%2f{name}", "namespace": _SHOP},
    ):
        reason, said = refusal("describe", **arguments)
        assert reason == "mistaken"
        assert _SECRET not in said
    reason, _ = refusal("pod_logs", namespace=_SHOP, pod=f"../secrets/{name}#")
    assert reason == "mistaken"


def test_a_right_that_is_lacking_is_named(control_plane: ControlPlane, kubeconfig: Path) -> None:
    control_plane.make_namespace("bare")
    control_plane.kubectl("create", "serviceaccount", "powerless", "-n", "bare")
    token = control_plane.token("bare", "powerless")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(control_plane.write_kubeconfig("powerless", token)))
        reason, said = refusal("list_pods", namespace=_SHOP)
    assert reason == "forbidden"
    assert "system:serviceaccount:bare:powerless" in said
    assert 'cannot list resource "pods"' in said
    assert "deploy/rbac/kubernetes-tool.yaml" in said


def test_ready_means_that_the_api_server_knows_who_asks(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ready() -> str | None:
        with TOOL_SERVER.open() as opened:
            return await opened.ready()

    assert asyncio.run(ready()) is None
    stranger = control_plane.write_kubeconfig("stranger", "not.a.token")
    monkeypatch.setenv("KUBECONFIG", str(stranger))
    reason = asyncio.run(ready())
    assert reason is not None
    assert "does not accept the credentials" in reason
    # Every call fails the same way: for whoever calls that is as good as an outage.
    assert (call("list_pods", namespace=_SHOP).meta or {})[OUTAGE] == "Kubernetes API server"


def test_annotations_are_true() -> None:
    listed = within(lambda client: client.list_tools()).tools
    assert {tool.name for tool in listed} == {
        *("check_pod_status", "list_pods", "list_events", "list_deployments"),
        *("pod_logs", "describe"),
    }
    for tool in listed:
        assert tool.annotations is not None
        assert tool.annotations.model_dump(exclude_none=True) == {
            "read_only_hint": True,
            "destructive_hint": False,
            "idempotent_hint": True,
            "open_world_hint": False,
        }


def test_served_by_the_command_it_answers_over_http(kubeconfig: Path, tmp_path: Path) -> None:
    port, probes = ports.free(1, 1)
    serve = ("tools", "kubernetes", "--port", str(port), "--probes-port", str(probes))

    def ready() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{probes}/ready").status_code == 200
        return False

    async def ask() -> CallToolResult:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            return await client.call_tool("list_deployments", {"namespace": _SHOP})

    with started(*serve, state=tmp_path, KUBECONFIG=str(kubeconfig)) as command:
        until(lambda: not command.running() or ready(), 60, "it is ready")
        assert command.running(), command.err
        assert asyncio.run(ask()).structured_content == {
            "namespace": _SHOP,
            "deployments": [],
            "truncated": False,
            "next": None,
        }


@pytest.fixture(scope="module")
def crashing(control_plane: ControlPlane, kubeconfig: Path, node: Node) -> Iterator[str]:
    """A pod that crashes again and again, for real."""
    script = "echo starting; echo 'no such table: orders'; exit 3"
    pod = host_pod("crashing", ["/bin/sh", "-c", script], node=node.name)
    path = f"/api/v1/namespaces/{_SHOP}/pods"
    control_plane.ask("POST", path, pod)
    yield "crashing"
    control_plane.kubectl("delete", "pod", "crashing", "-n", _SHOP, "--grace-period=0", "--force")


def test_a_real_pod_that_crashes_is_unhealthy_with_the_reason_and_its_log(crashing: str) -> None:
    def looping() -> dict[str, Any] | None:
        (pod,) = answer("check_pod_status", namespace=_SHOP, pod=crashing)["pods"]
        reasons = [problem["reason"] for problem in pod["problems"]]
        return dict(pod) if "CrashLoopBackOff" in reasons else None

    pod = until(looping, 120, "kubelet backs off")
    assert pod is not None
    assert (pod["phase"], pod["health"], pod["ready"]) == ("Running", "unhealthy", "0/1")
    assert pod["restarts"] >= 1
    assert pod["containers"][0]["last_end"]["exit_code"] == 3

    def told() -> bool:
        # A container that kubelet is just replacing has no log for a moment, and kubelet says so.
        log: str = answer("pod_logs", namespace=_SHOP, pod=crashing, previous=True)["text"]
        return log == "starting\nno such table: orders\n"

    until(told, 60, "the log of the container before")
    found = answer("list_events", namespace=_SHOP, about=crashing, warnings_only=True)["events"]
    assert "BackOff" in [event["reason"] for event in found]


def test_a_long_log_is_cut_at_its_beginning_and_says_so(
    control_plane: ControlPlane, kubeconfig: Path, node: Node
) -> None:
    script = (
        "i=0; while [ $i -lt 3000 ]; do echo line $i of a log that is too long; i=$((i+1)); done"
    )
    pod = host_pod("talks", ["/bin/sh", "-c", script], node=node.name, restart="Never")
    pod["spec"]["containers"].append({**pod["spec"]["containers"][0], "name": "second"})
    control_plane.ask("POST", f"/api/v1/namespaces/{_SHOP}/pods", pod)

    def done() -> bool:
        (found,) = answer("check_pod_status", namespace=_SHOP, pod="talks")["pods"]
        return bool(found["phase"] == "Succeeded" and found["health"] == "healthy")

    until(done, 120, "the pod has printed everything")
    last = answer("pod_logs", namespace=_SHOP, pod="talks", container="main", lines=2)
    assert (
        last["text"] == "line 2998 of a log that is too long\nline 2999 of a log that is too long\n"
    )
    assert last["truncated"] is None
    much = answer("pod_logs", namespace=_SHOP, pod="talks", container="main", lines=2000)
    assert much["text"].endswith("line 2999 of a log that is too long\n")
    assert much["truncated"].startswith("the first ")
    assert much["lines"] < 2000
    # Which containers there are is what the caller needs.
    reason, said = refusal("pod_logs", namespace=_SHOP, pod="talks")
    assert reason == "mistaken"
    assert "main" in said
    assert "second" in said


def test_in_a_pod_the_server_finds_its_cluster_by_itself(
    control_plane: ControlPlane, kubeconfig: Path, node: Node
) -> None:
    namespace, account = _ACCOUNT.split(":")
    pod = python_pod("tool", _IN_A_POD, service_account=account, node=node.name)
    path = f"/api/v1/namespaces/{namespace}/pods"
    control_plane.ask("POST", path, pod)

    def phase() -> str:
        return str(control_plane.ask("GET", f"{path}/tool")["status"]["phase"])

    until(lambda: phase() in ("Succeeded", "Failed"), 120, "the server has answered")
    printed = control_plane.kubectl("logs", "tool", "-n", namespace)
    assert phase() == "Succeeded", printed
    # What it sees is itself, at work.
    (seen,) = json.loads(printed)["pods"]
    assert (seen["name"], seen["health"], seen["phase"]) == ("tool", "healthy", "Running")


#: No kubeconfig, no setting: the service account's token is all that this process is given.
_IN_A_POD = """
import asyncio
from mcp.client import Client
from agent_pipelines.local import ports
from agent_pipelines.toolservers.kubernetes import TOOL_SERVER

async def main():
    with TOOL_SERVER.open() as opened:
        async with Client(opened.server) as client:
            return await client.call_tool(
                "check_pod_status", {"namespace": "agent-pipelines", "pod": "tool"}
            )

print(asyncio.run(main()).content[0].text)
"""


def test_an_api_server_that_is_away_is_an_outage_until_it_is_back(
    control_plane: ControlPlane,
) -> None:
    # The last test here: scheduler and controllers take up to half a minute to come back.
    async def through(client: Client) -> list[Any]:
        async def check() -> CallToolResult:
            return await client.call_tool("list_pods", {"namespace": _SHOP})

        results = [await check()]
        with control_plane.api_server.paused():
            results.append(await check())
        results.append(await check())
        with control_plane.without_api_server():
            results.append(await check())
        results.append(await check())
        return results

    well, stopped, again, killed, at_last = within(through)
    for result in (well, again, at_last):
        assert not result.is_error, text(result)
    for result in (stopped, killed):
        assert result.is_error
        assert result.meta[OUTAGE] == "Kubernetes API server"
        assert result.structured_content == {"reason": "unavailable"}
        assert "Nothing is known of the cluster" in text(result)


_WAITING_FOR_A_GPU = f"""
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{name: gpu.nvidia.com}}
spec:
  selectors: [{{cel: {{expression: 'device.driver == "gpu.nvidia.com"'}}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: gpu, namespace: {_SHOP}}}
spec:
  spec:
    devices:
      requests: [{{name: gpu, exactly: {{deviceClassName: gpu.nvidia.com}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: gpu, namespace: {_SHOP}}}
spec:
  resourceClaims: [{{name: gpu, resourceClaimTemplateName: gpu}}]
  containers: [{{name: main, image: shop/llm:7, resources: {{claims: [{{name: gpu}}]}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: nowhere, namespace: {_SHOP}}}
spec:
  nodeSelector: {{zone: moon}}
  containers: [{{name: main, image: shop/api:7}}]
"""

_DEPLOYMENT = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: api, annotations: {{example.com/note: "{_SECRET}"}}}}
spec:
  replicas: 2
  progressDeadlineSeconds: 2
  minReadySeconds: 1
  selector: {{matchLabels: {{app: api}}}}
  template:
    metadata: {{labels: {{app: api}}, annotations: {{example.com/note: "{_SECRET}"}}}}
    spec:
      nodeSelector: {{zone: moon}}
      containers:
      - name: main
        image: shop/api:7
        command: [/bin/sh, -c, "PASSWORD={_SECRET} serve --url https://me:{_SECRET}@db"]
        args: [--max-tokens=100, --token, "{_SECRET}"]
        env:
        - {{name: PASSWORD, value: "{_SECRET}"}}
        - {{name: FROM_SECRET, valueFrom: {{secretKeyRef: {{name: db, key: password}}}}}}
        livenessProbe:
          httpGet: {{port: 80, httpHeaders: [{{name: Authorization, value: "{_SECRET}"}}]}}
"""
