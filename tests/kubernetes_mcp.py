"""The Kubernetes MCP server (containers/kubernetes-mcp-server), as somebody else's tool server.

Belongs here: obtaining and running it. It is written in Go on the official Go SDK, keeps sessions,
and knows nothing of us.
"""

import contextlib
import platform
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agent_pipelines.errors import UserError
from tests import packages
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
        UserError: there is none for this platform, or the package cannot be had.
    """
    found = _PLATFORMS.get((platform.system(), platform.machine()))
    if found is None:
        raise UserError(
            f"no Kubernetes MCP server for {platform.system()} {platform.machine()}",
            remedy=f"use one of: {', '.join(_PLATFORMS.values())}",
        )
    (binary,) = (packages.from_npm(f"kubernetes-mcp-server-{found}", VERSION) / "bin").iterdir()
    binary.chmod(0o755)
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
