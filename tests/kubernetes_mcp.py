"""The Kubernetes MCP server (containers/kubernetes-mcp-server), as somebody else's tool server.

Belongs here: obtaining and running it. It is written in Go on the official Go SDK, keeps sessions,
and knows nothing of us.
"""

import contextlib
import fcntl
import platform
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent_pipelines.errors import UserError
from agent_pipelines.settings import Settings
from tests.processes import until

VERSION = "0.0.67"

#: What npm calls the platforms that it has programs for.
_PLATFORMS = {
    ("Linux", "x86_64"): "linux-amd64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "darwin-arm64",
}

_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: nowhere
clusters:
- {name: nowhere, cluster: {server: "http://127.0.0.1:9"}}
users:
- {name: nobody, user: {}}
contexts:
- {name: nowhere, context: {cluster: nowhere, user: nobody}}
"""


def program() -> Path:
    """The server's binary, from its npm package; kept by version.

    Raises:
        UserError: there is none for this platform, or no npm to fetch it with.
    """
    found = _PLATFORMS.get((platform.system(), platform.machine()))
    if found is None or shutil.which("npm") is None:
        raise UserError(
            f"no Kubernetes MCP server for {platform.system()} {platform.machine()}, or no npm",
            remedy="install Node.js, which brings npm",
        )
    kept = Settings().cache_dir / "kubernetes-mcp-server" / VERSION
    kept.mkdir(parents=True, exist_ok=True)
    binary = kept / "kubernetes-mcp-server"
    with open(kept / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists():
            return binary
        with tempfile.TemporaryDirectory(dir=kept, prefix=".new-") as new:
            package = f"kubernetes-mcp-server-{found}@{VERSION}"
            subprocess.run(
                ["npm", "pack", package], cwd=new, check=True, capture_output=True, timeout=300
            )
            (archive,) = Path(new).glob("*.tgz")
            with tarfile.open(archive) as files:
                files.extractall(new, filter="data")
            (unpacked,) = Path(new, "package/bin").iterdir()
            unpacked.chmod(0o755)
            unpacked.rename(binary)
    return binary


class KubernetesMcp:
    """A process of it, for a cluster that is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "kubeconfig").write_text(_KUBECONFIG)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/mcp"

    def start(self) -> None:
        address = ("--bind-address", "127.0.0.1", "--port", str(self._port))
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(), *address, "--kubeconfig", self._folder / "kubeconfig"],
                stdout=log,
                stderr=log,
            )

        def up() -> bool:
            assert self.process.poll() is None, (self._folder / "log").read_text()
            with socket.socket() as asking:
                return asking.connect_ex(("127.0.0.1", self._port)) == 0

        until(up, 30, "the Kubernetes MCP server")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def kubernetes_mcp(folder: Path) -> Iterator[KubernetesMcp]:
    server = KubernetesMcp(folder)
    try:
        yield server
    finally:
        server.kill()
