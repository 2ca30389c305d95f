"""The chart, rendered by Helm and judged by a real API server with the kinds of its neighbours.

Nothing of it runs here: no image can be built on this machine. What its objects say is held against
the API server's schemas, its pod security and its authorizer, and against each other.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.cluster import crds, helm
from tests.cluster.control_plane import ControlPlane
from tests.cluster.helm import DEPLOY, RELEASE, of_kind

_SIZES = ("small", "medium", "large", "kind")

_NAMESPACE = "chart"

#: Namespaces in which a pod that is not restricted is refused, and a Deployment of such warned of.
_RESTRICTED = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
}


#: How every tool server is served.
_SERVING = ("--host", "0.0.0.0", "--port", "8443", "--probes-port", "9090")


@pytest.fixture(scope="module")
def rendered() -> Mapping[str, list[dict[str, Any]]]:
    """The objects of every documented size."""
    return {
        size: helm.template([DEPLOY / "values" / f"{size}.yaml"], namespace=_NAMESPACE)
        for size in _SIZES
    }


@pytest.fixture(scope="module")
def large(rendered: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The size in which everything is switched on."""
    return rendered["large"]


@pytest.fixture(scope="module")
def neighbours(control_plane: ControlPlane) -> ControlPlane:
    """A cluster that knows every kind, and has a namespace for restricted pods."""
    crds.install(control_plane)
    control_plane.ask(
        "POST",
        "/api/v1/namespaces",
        {"metadata": {"name": _NAMESPACE, "labels": _RESTRICTED}},
    )
    return control_plane


@pytest.mark.parametrize("size", ["defaults", *_SIZES])
def test_helm_finds_nothing_to_warn_of(size: str) -> None:
    helm.lint([] if size == "defaults" else [DEPLOY / "values" / f"{size}.yaml"])


@pytest.mark.parametrize("size", _SIZES)
def test_the_api_server_takes_every_object_as_it_is(
    size: str, rendered: Mapping[str, list[dict[str, Any]]], neighbours: ControlPlane
) -> None:
    # An unknown field is an error, and so is a warning; pods that are not restricted are warned of.
    neighbours.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict"),
        *("--warnings-as-errors", "--namespace", _NAMESPACE, "-f", "-"),
        text=yaml.safe_dump_all(rendered[size]),
    )


def test_a_field_that_does_not_exist_would_be_seen(neighbours: ControlPlane) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "wrong"},
        "spec": {"prots": []},
    }
    with pytest.raises(AssertionError, match="field not declared in schema"):
        neighbours.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict"),
            *("--namespace", _NAMESPACE, "-f", "-"),
            text=yaml.safe_dump(service),
        )


def test_it_is_installed_upgraded_rolled_back_and_removed(neighbours: ControlPlane) -> None:
    namespace = f"--namespace={_NAMESPACE}-life"
    chart = (helm.CHART, namespace)
    medium, large = (f"--values={DEPLOY / 'values' / f'{size}.yaml'}" for size in _SIZES[1:3])

    def claimed() -> str:
        wanted = ("resourceclaimtemplate", "qwen3-8b", "-o", "json")
        return neighbours.kubectl("get", *wanted, namespace)

    def deployments() -> set[str]:
        printed = neighbours.kubectl("get", "deployments", "-o", "name", namespace)
        return {line.removeprefix(f"deployment.apps/{RELEASE}-") for line in printed.split()}

    notes = helm.release(neighbours, "install", *chart, "--create-namespace", medium)
    assert "agent-pipelines-state, key url: STATE_DATABASE_URL" in notes
    first = deployments()
    assert {"search", "code-location", "exporter", "api", "qwen3-8b", "qwen3-8b-picker"} <= first
    # A volume that is bound can grow; here nobody binds it.
    as_it_was = ("--set=modelDefaults.weights.size=40Gi,modelDefaults.weights.storageClassName=",)
    helm.release(neighbours, "upgrade", *chart, large, *as_it_was)
    # What a template of claims says is immutable, and yet was changed.
    assert '"a100-40"' in claimed()
    assert deployments() - first == {
        *("postgres", "llama-70b", "llama-70b-picker", "qwen3-8b-next", "qwen3-8b-next-picker")
    }
    helm.release(neighbours, "rollback", "1", namespace)
    assert deployments() == first
    assert '"a100-40"' not in claimed()
    helm.release(neighbours, "uninstall", namespace)
    assert deployments() == set()
    # Hundreds of gigabytes are not downloaded again for a mistake.
    assert "qwen3-8b-weights" in neighbours.kubectl("get", "pvc", "-o", "name", namespace)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("tls.enabled=perhaps", "/tls/enabled"),
        ("api.replicas=0", "/api/replicas"),
        ("tools.search.replica=3", "replica"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("tls.duration=1day", "/tls/duration"),
        ("models.big.replicas=1", "/models/big"),
        ("networkpolicy.enabled=true", "networkpolicy"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(setting: str, named: str) -> None:
    with pytest.raises(helm.RefusedError) as refused:
        helm.template(namespace=_NAMESPACE, settings=[setting])
    assert named in str(refused.value)


def test_every_value_is_explained() -> None:
    # A line of the file that names a value follows a comment, or another value that does.
    explained = False
    for number, line in enumerate((helm.CHART / "values.yaml").read_text().splitlines(), 1):
        text = line.strip()
        if text.startswith("#"):
            explained = True
        elif not text:
            explained = False
        else:
            assert explained, f"values.yaml, line {number}: {text}"


def _pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every pod that these objects make, by its maker's name."""
    for found in objects:
        spec = found.get("spec", {})
        if found["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if found["kind"] in ("Deployment", "Job", "CronJob"):
            yield _pod(found["metadata"]["name"], spec["template"])


def _pod(name: str, template: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {**template["metadata"], "name": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _run_pod(objects: list[dict[str, Any]], control_plane: ControlPlane) -> dict[str, Any]:
    """The pod of a run, as Dagster's run launcher makes it of what the code location says."""
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import construct_dagster_k8s_job
    from kubernetes.client import ApiClient

    deployment = of_kind(objects, "Deployment")["code-location"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    context = K8sContainerContext.create_from_config(
        json.loads(given["DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"])
    )
    launcher = K8sRunLauncher(
        service_account_name="dagster",
        instance_config_map="dagster-instance",
        dagster_home="/opt/dagster/dagster_home",
        postgres_password_secret="dagster-postgresql-secret",
        load_incluster_config=False,
        kubeconfig_file=str(control_plane.kubeconfig),
    )
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(given["DAGSTER_CURRENT_IMAGE"], launcher),
        args=["dagster", "api", "execute_run"],
        job_name="run",
        user_defined_k8s_config=context.run_k8s_config,
    )
    return _pod("run", ApiClient().sanitize_for_serialization(job.spec.template))


def test_every_pod_passes_the_restricted_standard(
    large: list[dict[str, Any]], neighbours: ControlPlane
) -> None:
    accounts = list(of_kind(large, "ServiceAccount").values())
    pods = [*_pods(large), _run_pod(large, neighbours)]
    # Admission looks up a pod's account.
    neighbours.kubectl(
        "apply", "--namespace", _NAMESPACE, "-f", "-", text=yaml.safe_dump_all(accounts)
    )
    neighbours.kubectl(
        *("create", "--dry-run=server", "--validate=strict", "--warnings-as-errors"),
        *("--namespace", _NAMESPACE, "-f", "-"),
        text=yaml.safe_dump_all(pods),
    )
    pods[0]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        neighbours.kubectl(
            *("create", "--dry-run=server", "--namespace", _NAMESPACE, "-f", "-"),
            text=yaml.safe_dump(pods[0]),
        )


def test_a_run_has_what_the_code_location_has(
    large: list[dict[str, Any]], neighbours: ControlPlane
) -> None:
    run = _run_pod(large, neighbours)["spec"]
    code = of_kind(large, "Deployment")["code-location"]["spec"]["template"]["spec"]
    (in_run,), (in_code,) = run["containers"], code["containers"]
    assert in_run["image"] == in_code["image"]
    assert run["serviceAccountName"] == f"{RELEASE}-runs"
    assert run["automountServiceAccountToken"] is False
    assert {"configMapRef": {"name": f"{RELEASE}-environment"}} in in_run["envFrom"]
    of_its_own = {"DAGSTER_CURRENT_IMAGE", "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"}
    wanted = {variable["name"] for variable in in_code["env"]} - of_its_own
    assert wanted <= {variable["name"] for variable in in_run["env"]}
    wanted = {mount["mountPath"] for mount in in_code["volumeMounts"]}
    assert wanted <= {mount["mountPath"] for mount in in_run["volumeMounts"]}


def test_secrets_are_only_referred_to(
    large: list[dict[str, Any]], neighbours: ControlPlane
) -> None:
    assert not of_kind(large, "Secret")
    secret = {
        *("STATE_DATABASE_URL", "WEAVIATE_API_KEY", "DAGSTER_PG_PASSWORD", "TOOLS_POSTGRES_URL"),
        *("VLLM_API_KEY", "HF_TOKEN", "TRACES_TOKEN"),
    }
    seen = [
        variable
        for pod in [*_pods(large), _run_pod(large, neighbours)]
        for container in pod["spec"]["containers"]
        for variable in container.get("env", ())
        if variable["name"] in secret
    ]
    assert {variable["name"] for variable in seen} == secret
    assert all(set(variable) == {"name", "valueFrom"} for variable in seen)
    assert not secret & of_kind(large, "ConfigMap")["environment"]["data"].keys()


def test_what_a_pod_refers_to_is_made_here_or_named_in_the_readme(
    large: list[dict[str, Any]], neighbours: ControlPlane
) -> None:
    readme = (DEPLOY / "README.md").read_text()
    made = {f"{found['kind']}/{found['metadata']['name']}" for found in large} | {
        f"Secret/{found['spec']['secretName']}" for found in of_kind(large, "Certificate").values()
    }
    for pod in [*_pods(large), _run_pod(large, neighbours)]:
        for wanted in set(_references(pod["spec"])) - made:
            assert f"`{wanted.partition('/')[2]}`" in readme, (pod["metadata"]["name"], wanted)


def _references(spec: Mapping[str, Any]) -> Iterator[str]:
    yield f"ServiceAccount/{spec['serviceAccountName']}"
    for claim in spec.get("resourceClaims", ()):
        yield f"ResourceClaimTemplate/{claim['resourceClaimTemplateName']}"
    for volume in spec.get("volumes", ()):
        if "secret" in volume:
            yield f"Secret/{volume['secret']['secretName']}"
        if "configMap" in volume:
            yield f"ConfigMap/{volume['configMap']['name']}"
        if "persistentVolumeClaim" in volume:
            yield f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}"
    for container in spec["containers"]:
        for source in container.get("envFrom", ()):
            for kind, name in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if kind in source:
                    yield f"{name}/{source[kind]['name']}"
        for variable in container.get("env", ()):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield f"Secret/{reference['name']}"


def test_a_tool_server_is_a_deployment_that_loses_no_call_when_it_is_rolled(
    large: list[dict[str, Any]],
) -> None:
    servers = {
        name: found
        for name, found in of_kind(large, "Deployment").items()
        if found["metadata"]["labels"]["app.kubernetes.io/component"] == "tool-server"
    }
    assert set(servers) == {"search", "kubernetes", "postgres"}
    for name, found in servers.items():
        spec, pod = found["spec"], found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert found["metadata"]["labels"]["agent-pipelines/tool-server"] == name
        # Its replicas are the autoscaler's affair.
        assert "replicas" not in spec
        scaler = of_kind(large, "HorizontalPodAutoscaler")[name]["spec"]
        assert scaler["minReplicas"] >= 2
        assert scaler["metrics"][0]["pods"]["metric"]["name"] == "mcp_tool_calls_in_flight"
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        drain = next(v["value"] for v in container["env"] if v["name"] == "TOOLS_DRAIN_SECONDS")
        before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        # The shell ends itself 5 s after a drain that does not end.
        assert pod["terminationGracePeriodSeconds"] >= before + int(drain) + 5
        budget = of_kind(large, "PodDisruptionBudget")[name]["spec"]
        assert budget["selector"] == spec["selector"]
        (service,) = (found for key, found in of_kind(large, "Service").items() if key == name)
        assert service["spec"]["selector"] == spec["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        (["server=my_package.orders"], ["my_package.orders", *_SERVING]),
        (["stdio={npx,-y,orders}"], ["--stdio", *_SERVING, "--", "npx", "-y", "orders"]),
    ],
)
def test_a_tool_server_of_ones_own_is_four_lines_of_values(
    settings: list[str], served: list[str]
) -> None:
    given = [f"tools.orders.{setting}" for setting in ("enabled=true", *settings)]
    found = helm.template(namespace=_NAMESPACE, settings=given)
    (container,) = of_kind(found, "Deployment")["orders"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["agent-pipelines", "tools", *served]
    # It loads no assets, and so is told no secret of theirs.
    assert not [variable for variable in container["env"] if "valueFrom" in variable]
    for kind in ("Service", "ServiceAccount", "PodDisruptionBudget", "Certificate"):
        assert "orders" in of_kind(found, kind), kind


def test_one_service_selects_one_deployment(large: list[dict[str, Any]]) -> None:
    deployments = of_kind(large, "Deployment")
    for name, service in of_kind(large, "Service").items():
        selected = [
            key
            for key, found in deployments.items()
            if service["spec"]["selector"].items()
            <= found["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert selected == [name]


# mTLS, models, network


def test_each_certificate_is_for_the_names_by_which_it_is_called(
    large: list[dict[str, Any]],
) -> None:
    certificates = of_kind(large, "Certificate")
    environment = of_kind(large, "ConfigMap")["environment"]["data"]
    host = environment["SEARCH_TOOL_URL"].split("/")[2].partition(":")[0]
    assert host in certificates["search"]["spec"]["dnsNames"]
    (container,) = of_kind(large, "Deployment")["search"]["spec"]["template"]["spec"]["containers"]
    allowed = next(v["value"] for v in container["env"] if v["name"] == "TOOLS_ALLOWED_HOSTS")
    assert f"{host}:8443" in allowed.split(",")
    # An agent's certificate opens no server, and the other way round.
    assert "server auth" not in certificates["agents"]["spec"]["usages"]
    assert "client auth" not in certificates["search"]["spec"]["usages"]
    # A CA with another key would not be trusted by who has not yet been renewed.
    changing = {
        name: found["spec"]["privateKey"]["rotationPolicy"] for name, found in certificates.items()
    }
    assert changing.pop("ca") == "Never"
    assert set(changing.values()) == {"Always"}


def test_each_name_of_a_model_leads_every_tenant_to_its_pools(large: list[dict[str, Any]]) -> None:
    pools = of_kind(large, "InferencePool")
    ways: dict[tuple[str, str], dict[str, int]] = {}
    for route in of_kind(large, "HTTPRoute").values():
        (parent,), (rule,) = route["spec"]["parentRefs"], route["spec"]["rules"]
        for match in rule["matches"]:
            (header,) = match["headers"]
            assert header["name"] == "X-Gateway-Model-Name"
            backends = {
                backend["name"].removeprefix(f"{RELEASE}-"): backend["weight"]
                for backend in rule["backendRefs"]
            }
            key = (parent["sectionName"], header["value"])
            assert key not in ways
            ways[key] = backends
            assert backends.keys() <= pools.keys()
    of_one = {
        "qwen3-8b": {"qwen3-8b": 1},
        "support": {"qwen3-8b": 1},
        "finance": {"qwen3-8b": 1},
        "qwen3-8b-next": {"qwen3-8b-next": 1},
        "llama-70b": {"llama-70b": 1},
        "helpdesk": {"qwen3-8b": 90, "qwen3-8b-next": 10},
    }
    assert ways == {
        (tenant, model): backends
        for tenant in ("interactive", "batch")
        for model, backends in of_one.items()
    }


def test_whose_request_it_is_the_gateway_says(large: list[dict[str, Any]]) -> None:
    objectives = of_kind(large, "InferenceObjective")
    for route in of_kind(large, "HTTPRoute").values():
        (parent,), (rule,) = route["spec"]["parentRefs"], route["spec"]["rules"]
        for backend in rule["backendRefs"]:
            (change,) = backend["filters"]
            # `set` overwrites what a client sent, `add` would not.
            written = {one["name"]: one["value"] for one in change["requestHeaderModifier"]["set"]}
            assert written["x-llm-d-inference-fairness-id"] == parent["sectionName"]
            named = written["x-llm-d-inference-objective"].removeprefix(f"{RELEASE}-")
            assert objectives[named]["spec"]["poolRef"]["name"] == backend["name"]
    priorities = {
        name.rpartition("-")[2]: found["spec"]["priority"] for name, found in objectives.items()
    }
    assert priorities["interactive"] > priorities["batch"]


def test_a_pool_is_the_servers_of_one_model(large: list[dict[str, Any]]) -> None:
    deployments, services = of_kind(large, "Deployment"), of_kind(large, "Service")
    for name, pool in of_kind(large, "InferencePool").items():
        selector = pool["spec"]["selector"]["matchLabels"]
        assert selector == deployments[name]["spec"]["selector"]["matchLabels"]
        picker = pool["spec"]["endpointPickerRef"]
        service = services[picker["name"].removeprefix(f"{RELEASE}-")]["spec"]
        assert picker["port"]["number"] in [port["port"] for port in service["ports"]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("large", {"gateway", "endpoint-picker", "prometheus"}),
        ("small", set()),
    ],
)
def test_only_the_gateway_its_pickers_and_prometheus_reach_a_model_server(
    size: str, expected: set[str], rendered: Mapping[str, list[dict[str, Any]]]
) -> None:
    policies = of_kind(rendered[size], "NetworkPolicy")
    assert policies["deny-all"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    reach = set()
    for policy in policies.values():
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        if labels.get("app.kubernetes.io/component") != "model-server":
            continue
        for rule in policy["spec"].get("ingress", ()):
            assert rule["from"], "an empty list would be everybody"
            reach |= {_called(peer) for peer in rule["from"]}
    assert reach == (expected or {"prometheus"})


def _called(peer: Mapping[str, Any]) -> str:
    if "namespaceSelector" in peer:
        return "prometheus"
    labels = peer["podSelector"]["matchLabels"]
    if "gateway.networking.k8s.io/gateway-name" in labels:
        return "gateway"
    return str(labels["app.kubernetes.io/component"])


def test_the_alerts_are_those_that_promtool_tests(large: list[dict[str, Any]]) -> None:
    rules = yaml.safe_load((DEPLOY / "alerts" / "rules.yaml").read_text())["groups"]
    for group in rules:
        for rule in group["rules"]:
            page = rule["annotations"]["runbook_url"].removeprefix("deploy/runbooks/")
            rule["annotations"]["runbook_url"] = (
                f"https://git.example/agent-pipelines/blob/main/deploy/runbooks/{page}"
            )
    assert of_kind(large, "PrometheusRule")["alerts"]["spec"]["groups"] == rules


def test_grafana_finds_every_dashboard(large: list[dict[str, Any]]) -> None:
    found = {
        file: text
        for config_map in of_kind(large, "ConfigMap").values()
        if config_map["metadata"]["labels"].get("grafana_dashboard") == "1"
        for file, text in config_map["data"].items()
    }
    files = (helm.CHART / "files" / "dashboards").glob("*.json")
    assert found == {path.name: path.read_text() for path in files}


# What each ServiceAccount may do


@pytest.fixture(scope="module")
def accounts(large: list[dict[str, Any]], neighbours: ControlPlane) -> ControlPlane:
    """A cluster in which they exist, with their rights."""
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    neighbours.kubectl(
        *("apply", "--namespace", _NAMESPACE, "-f", "-"),
        text=yaml.safe_dump_all([found for found in large if found["kind"] in kinds]),
    )
    return neighbours


_LAUNCHES = {
    *(f"{verb} jobs.batch" for verb in ("create", "get", "list", "delete")),
    "get jobs.batch/status",
    *(f"{verb} pods" for verb in ("get", "list", "delete")),
    "get pods/log",
    *(f"{verb} events" for verb in ("get", "list")),
}
_LOOKS = {f"{verb} {resource}" for verb in ("get", "list") for resource in ("pods", "events")}
_PICKS = {
    f"{verb} {resource}"
    for verb in ("get", "list", "watch")
    for resource in (
        "pods",
        "inferencepools.inference.networking.k8s.io",
        "inferenceobjectives.llm-d.ai",
        "inferencemodelrewrites.llm-d.ai",
    )
}
_MAY: Mapping[str, set[str]] = {
    "launcher": _LAUNCHES,
    "code-location": _LOOKS,
    "exporter": _LOOKS,
    "janitor": {"list jobs.batch", "delete jobs.batch"},
    "pickers": _PICKS,
    **{name: set() for name in ("runs", "api", "search", "postgres", "models", "collector")},
}
_VERBS = ("create", "get", "list", "watch", "update", "patch", "delete", "deletecollection")
_RESOURCES = (
    *("pods", "pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/eviction"),
    *("events", "services", "configmaps", "secrets", "serviceaccounts", "serviceaccounts/token"),
    *("persistentvolumeclaims", "nodes", "nodes/proxy", "namespaces"),
    *("jobs.batch", "jobs.batch/status", "cronjobs.batch", "deployments.apps"),
    *("roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io"),
    *("clusterroles.rbac.authorization.k8s.io", "networkpolicies.networking.k8s.io"),
    *("resourceclaims.resource.k8s.io", "resourceclaimtemplates.resource.k8s.io"),
    *("inferencepools.inference.networking.k8s.io", "inferenceobjectives.llm-d.ai"),
    *("inferencemodelrewrites.llm-d.ai", "certificates.cert-manager.io"),
)


@pytest.mark.parametrize("name", _MAY)
def test_an_account_may_do_this_and_nothing_else(name: str, accounts: ControlPlane) -> None:
    account = f"{_NAMESPACE}:{RELEASE}-{name}"
    allowed = {
        f"{verb} {resource}"
        for resource in _RESOURCES
        for verb in _VERBS
        if accounts.may(account, verb, resource, _NAMESPACE)
    }
    assert allowed == _MAY[name]
    elsewhere = [
        right for right in _MAY[name] if accounts.may(account, *right.split(" "), "default")
    ]
    assert not elsewhere


def test_the_kubernetes_tool_has_the_rights_of_the_plain_manifest(
    large: list[dict[str, Any]], accounts: ControlPlane
) -> None:
    plain = yaml.safe_load_all((DEPLOY / "rbac" / "kubernetes-tool.yaml").read_text())
    (wanted,) = (found["rules"] for found in plain if found["kind"] == "ClusterRole")
    (role,) = of_kind(large, "ClusterRole").values()
    assert role["rules"] == wanted
    account = f"{_NAMESPACE}:{RELEASE}-kubernetes"
    assert accounts.may(account, "list", "pods", "default")
    assert not accounts.may(account, "get", "secrets", "default")
    assert not accounts.may(account, "create", "pods/exec", "default")


def test_only_who_has_rights_gets_a_token(large: list[dict[str, Any]]) -> None:
    holders = {
        pod["spec"]["serviceAccountName"].removeprefix(f"{RELEASE}-")
        for pod in _pods(large)
        if pod["spec"].get("automountServiceAccountToken") is not False
    }
    assert holders == {"code-location", "exporter", "janitor", "pickers", "kubernetes"}
    bound = {
        subject["name"].removeprefix(f"{RELEASE}-")
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for found in of_kind(large, kind).values()
        for subject in found["subjects"]
    }
    # Dagster's own chart mounts the launcher's.
    assert holders | {"launcher"} == bound
