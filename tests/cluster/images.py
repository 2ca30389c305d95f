"""Container images without a registry or docker, as archives that containerd imports.

Belongs here: writing them. Does not belong here: what pods do with them.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAUSE = "localhost/pause:1"

#: An almost empty root: pods mount /usr from the host and run what is there.
HOST_ROOT = "localhost/hostroot:1"

_FOLDERS = ("usr", "etc", "tmp", "var", "run", "root", "opt", "proc", "sys", "dev", "home")
_MERGED = ("bin", "sbin", "lib", "lib64")
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}


def write_pause(archive: Path, program: Path) -> None:
    """The image that holds a pod's namespaces: one static program."""

    def fill(layer: tarfile.TarFile) -> None:
        _add(layer, "pause", program.read_bytes(), mode=0o755)

    _write(archive, PAUSE, {"Entrypoint": ["/pause"]}, fill)


def write_host_root(archive: Path) -> None:
    """The image of every test's pod: mount points, and the links of a merged /usr."""

    def fill(layer: tarfile.TarFile) -> None:
        for name in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            folder.mode = 0o1777 if name == "tmp" else 0o755
            layer.addfile(folder)
        for name in _MERGED:
            link = tarfile.TarInfo(name)
            link.type = tarfile.SYMTYPE
            link.linkname = f"usr/{name}"
            layer.addfile(link)
        for name, content in _FILES.items():
            _add(layer, name, content)

    config = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/sh"]}
    _write(archive, HOST_ROOT, config, fill)


def _write(
    archive: Path, name: str, config: dict[str, Any], fill: Callable[[tarfile.TarFile], None]
) -> None:
    """One layer in the format of `docker save`, which containerd reads as well."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        fill(layer)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    image = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "tests", "created": "2026-01-01T00:00:00Z"}],
            "created": "2026-01-01T00:00:00Z",
        }
    ).encode()
    config_file = f"{hashlib.sha256(image).hexdigest()}.json"
    layer_file = f"{digest}/layer.tar"
    manifest = [{"Config": config_file, "RepoTags": [name], "Layers": [layer_file]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, config_file, image)
        _add(tar, layer_file, content.getvalue())
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    file = tarfile.TarInfo(name)
    file.size = len(content)
    file.mode = mode
    archive.addfile(file, io.BytesIO(content))
