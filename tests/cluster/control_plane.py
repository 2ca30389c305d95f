"""A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

Belongs here: starting and ending them, and a client with all rights. Does not belong here: nodes
(`node`) or what a test puts into the cluster.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from agent_pipelines.local import ports
from tests.cluster import binaries
from tests.cluster.keys import Keys, Pair
from tests.cluster.programs import Program
from tests.processes import until

_START_SECONDS = 120.0
_CONTROLLER_SECONDS = 30.0

#: What the default of minutes is in a cluster that watches its nodes: seconds until a node that was
#: not heard of is not ready, and until its pods are evicted. Kubelets here renew every two.
_GRACE, _TOLERATION = 8, 2
_SILENT = ("not-ready", "unreachable")
_WATCHES_NODES = (f"--node-monitor-grace-period={_GRACE}s", "--node-monitor-period=1s")
_TRUSTS_NODES = ("--controllers=*,-node-lifecycle-controller",)

#: Second bytes of 127.x.0.0/16 for clusters; two sessions on one machine take different ones.
_NETWORKS = range(64, 128)


@dataclass(frozen=True)
class Addresses:
    """Where the API server listens, and the network of Services."""

    host: str
    port: int
    services: str

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"


class ControlPlane:
    """One running control plane.

    Where this machine allows it, the API server listens where pods look for it: at the first
    address of the services' network, port 443. Nothing translates addresses here, so in-cluster
    configuration works only that way. Anywhere else it is a free port of 127.0.0.1.

    With ``watches_nodes`` a node that is silent for seconds is not ready, and its pods are evicted;
    otherwise a node that a test writes stays ready without a heartbeat.
    """

    def __init__(
        self,
        folder: Path,
        *,
        watches_nodes: bool = False,
        flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Args:
        folder: for everything that it writes.
        watches_nodes: as above.
        flags: more of them, by the program's name.
        """
        self.folder = folder
        self._watches_nodes = watches_nodes
        self._flags = flags or {}
        self.binary = binaries.kube_all()
        self.addresses = _service_network() or Addresses(
            ports.HOST, ports.free(1)[0], "10.96.0.0/16"
        )
        self.keys = Keys(folder / "keys")
        admin = self.keys.issue("admin", group="system:masters")
        self.kubeconfig = self.write_kubeconfig("admin", admin)
        self._pool = urllib3.PoolManager(
            ca_certs=str(self.keys.authority),
            cert_file=str(admin.certificate),
            key_file=str(admin.key),
        )
        self._programs: dict[str, Program] = {}
        try:
            self._start()
        except BaseException:
            self.end()
            raise

    def node_address(self, number: int) -> str:
        """A loopback address for a node of this cluster; its name as well."""
        first, second, *_ = self.addresses.host.split(".")
        return f"{first}.{second}.128.{number}"

    @property
    def api_server(self) -> Program:
        return self._programs["kube-apiserver"]

    def _start(self) -> None:
        etcd, peers, controllers, scheduler = ports.free(1, 1, 1, 1)
        etcd_url, peers_url = (f"http://{ports.HOST}:{port}" for port in (etcd, peers))
        self._run(
            "etcd",
            *("--name=tests", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync"),
            *(f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}"),
            *(f"--listen-peer-urls={peers_url}", f"--initial-advertise-peer-urls={peers_url}"),
            f"--initial-cluster=tests={peers_url}",
        )
        host = self.addresses.host
        served = self.keys.issue("kube-apiserver", addresses=[host, "localhost", "kubernetes"])
        kubelets = self.keys.issue("kube-apiserver-to-kubelets", group="system:masters")
        self._run(
            "kube-apiserver",
            *(
                f"--etcd-servers={etcd_url}",
                f"--service-cluster-ip-range={self.addresses.services}",
            ),
            *(f"--bind-address={host}", f"--secure-port={self.addresses.port}"),
            *(f"--tls-cert-file={served.certificate}", f"--tls-private-key-file={served.key}"),
            *(f"--client-ca-file={self.keys.authority}", "--authorization-mode=Node,RBAC"),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.keys.service_accounts}",
            f"--service-account-signing-key-file={self.keys.service_accounts}",
            f"--kubelet-client-certificate={kubelets.certificate}",
            f"--kubelet-client-key={kubelets.key}",
            *("--endpoint-reconciler-type=none", "--allow-privileged=true", "--profiling=false"),
            # A node that a test writes has no kubelet that would take this taint away.
            "--disable-admission-plugins=TaintNodesByCondition",
            *(f"--default-{state}-toleration-seconds={_TOLERATION}" for state in _SILENT),
        )
        self.await_api_server()
        for name, port, more in (
            (
                "kube-controller-manager",
                controllers,
                (
                    f"--service-account-private-key-file={self.keys.service_accounts}",
                    f"--root-ca-file={self.keys.authority}",
                    "--use-service-account-credentials",
                    *(_WATCHES_NODES if self._watches_nodes else _TRUSTS_NODES),
                ),
            ),
            ("kube-scheduler", scheduler, ()),
        ):
            access = self.write_kubeconfig(name, self.keys.issue(f"system:{name}"))
            self._run(
                name,
                *(f"--kubeconfig={access}", f"--authentication-kubeconfig={access}"),
                *(f"--authorization-kubeconfig={access}", "--leader-elect=false"),
                *(f"--bind-address={ports.HOST}", f"--secure-port={port}", *more),
            )
        until(
            lambda: self._answers("/api/v1/namespaces/default/serviceaccounts/default"),
            _START_SECONDS,
            "the controllers make service accounts",
        )

    def await_api_server(self) -> None:
        """Wait until it is ready, after it was started or restarted."""
        self.api_server.await_ready(lambda: self._answers("/readyz"), _START_SECONDS)

    @contextlib.contextmanager
    def without_api_server(self) -> Iterator[None]:
        """Killed at the beginning, started again and ready at the end; etcd keeps everything."""
        self.api_server.end()
        try:
            yield
        finally:
            self.api_server.restart()
            self.await_api_server()

    def end(self) -> None:
        """End every program, the last started first."""
        for program in reversed(self._programs.values()):
            program.end()
        self._programs.clear()

    def write_kubeconfig(self, name: str, user: Pair | str) -> Path:
        """A kubeconfig for whoever has this certificate or bearer token."""
        path = self.folder / f"{name}.kubeconfig"
        return self.keys.kubeconfig(path, self.addresses.url, user)

    def kubectl(self, *arguments: str | Path, text: str | None = None) -> str:
        """What kubectl prints with all rights; ``text`` is its standard input."""
        done = subprocess.run(
            [self.binary, "kubectl", f"--kubeconfig={self.kubeconfig}", *map(str, arguments)],
            input=text,
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One request with all rights; the object that the API server answers with."""
        status, answer = self._request(method, path, body, content_type)
        assert status < 300, f"{method} {path}: {status} {answer.get('message', answer)}"
        return answer

    def make_namespace(self, name: str) -> None:
        """A namespace in which pods can be made: they need its default service account."""
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        until(
            lambda: self._answers(f"/api/v1/namespaces/{name}/serviceaccounts/default"),
            _CONTROLLER_SECONDS,
            f"namespace {name} has a service account",
        )

    def token(self, namespace: str, service_account: str, seconds: int = 3600) -> str:
        """A token of this service account, as a pod of it would get."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        return str(self.ask("POST", path, asked)["status"]["token"])

    def may(
        self, service_account: str, verb: str, resource: str, namespace: str | None = None
    ) -> bool:
        """`kubectl auth can-i`, for `namespace:name` and a resource such as `jobs.batch/status`."""
        named, _, sub = resource.partition("/")
        plural, _, group = named.partition(".")
        attributes = {"verb": verb, "resource": plural, "group": group, "subresource": sub}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{service_account}",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {**attributes, "namespace": namespace or ""},
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.ask("POST", path, review)["status"]["allowed"])

    def _run(self, name: str, *arguments: str) -> None:
        self._programs[name] = Program(
            [self.binary, name, *arguments, *self._flags.get(name, ())],
            self.folder / f"{name}.log",
            cwd=self.folder,
        )

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self._request("GET", path)[0] == 200
        return False

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, dict[str, Any]]:
        response = self._pool.request(
            method,
            self.addresses.url + path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type, "Accept": "application/json"},
            timeout=10.0,
            retries=False,
        )
        try:
            return response.status, response.json()
        except ValueError:
            return response.status, {"message": response.data.decode(errors="replace")}


def _service_network() -> Addresses | None:
    """Linux routes all of 127.0.0.0/8 to itself; port 443 takes the right to bind it."""
    if sys.platform != "linux":
        return None
    for number in range(len(_NETWORKS)):
        # By the pid: workers that start at the same moment try different ones first.
        second = _NETWORKS[(os.getpid() + number) % len(_NETWORKS)]
        host = f"127.{second}.0.1"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, 443))
            except PermissionError:
                return None
            except OSError:
                continue  # another session's
        # Its upper half is for nodes.
        return Addresses(host, 443, f"127.{second}.0.0/17")
    return None
