"""Prometheus, promtool, amtool and Alertmanager, from PATH or Debian's packages.

Belongs here: obtaining and running them. Does not belong here: what they are given.
"""

import contextlib
import fcntl
import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agent_pipelines.errors import UserError
from agent_pipelines.local.ports import HOST, free
from agent_pipelines.settings import Settings
from tests.processes import until

#: Debian's name of a program where it differs, and the package that carries it.
_DEBIAN = {
    "prometheus": ("prometheus", "prometheus"),
    "promtool": ("promtool", "prometheus"),
    "amtool": ("amtool", "prometheus-alertmanager"),
    "alertmanager": ("prometheus-alertmanager", "prometheus-alertmanager"),
}


#: Debian's Alertmanager reads its templates at this place. As the path becomes a relative one, of
#: the same length, it finds them where they were unpacked.
_TEMPLATES = b"/usr/share/prometheus/alertmanager", b"usr//share/prometheus/alertmanager"


@lru_cache
def program(name: str) -> str:
    """Where this program is; obtained the first time.

    Raises:
        UserError: it is not on PATH, and cannot be downloaded either.
    """
    debian, package = _DEBIAN[name]
    if found := shutil.which(name) or shutil.which(debian):
        return found
    kept = Settings().cache_dir / "prometheus"
    kept.mkdir(parents=True, exist_ok=True)
    with open(kept / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = sorted(kept.glob(f"{package}_*/usr/bin/{debian}"))
        return str(there[-1] if there else _unpacked(package, kept) / "usr" / "bin" / debian)


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program to its end, with what it printed."""
    return subprocess.run(
        [program(name), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def _unpacked(package: str, kept: Path) -> Path:
    """The package's files in a folder named by its version. Needs no root, installs nothing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise UserError(
            f"{package} is not on PATH, and there is no apt-get to download it with",
            remedy="install it: `brew install prometheus alertmanager` on macOS (it carries "
            "promtool and amtool)",
        )
    with tempfile.TemporaryDirectory(dir=kept, prefix=".new-") as new:
        # Lists of packages of our own, for a machine that has none and for users who may not write
        # to its.
        lists = ["-o", f"Dir::State::Lists={new}/lists", "-o", f"Dir::Cache={new}/cache"]
        for command in (
            ["apt-get", "download", package],
            ["apt-get", *lists, "update"],
            ["apt-get", *lists, "download", package],
        ):
            done = subprocess.run(command, cwd=new, capture_output=True, text=True)
            if downloaded := list(Path(new).glob("*.deb")):
                break
        else:
            raise UserError(
                f"{package} is not on PATH, and cannot be downloaded: {done.stderr.strip()}",
                remedy="install prometheus and prometheus-alertmanager",
            )
        folder = kept / downloaded[0].stem
        subprocess.run(["dpkg", "-x", downloaded[0], f"{new}/files"], check=True)
        for name in Path(new, "files/usr/bin").glob("prometheus-alertmanager"):
            name.write_bytes(name.read_bytes().replace(*_TEMPLATES))
        Path(new, "files").rename(folder)
    return folder


@dataclass(frozen=True)
class Alertmanager:
    """A running one."""

    url: str

    def post(self, *alerts: dict[str, str]) -> None:
        """Raise alerts with these labels, as Prometheus does."""
        self._ask([{"labels": labels} for labels in alerts])

    def states(self) -> dict[str, str]:
        """State of each alert by its name: `unprocessed`, `active` or `suppressed`."""
        return {a["labels"]["alertname"]: a["status"]["state"] for a in self._ask()}

    def _ask(self, document: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts",
            data=None if document is None else json.dumps(document).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read() or "null")


@contextlib.contextmanager
def alertmanager(config: Path, folder: Path) -> Iterator[Alertmanager]:
    """A real Alertmanager on loopback with this configuration."""
    (port,) = free(1)
    url = f"http://{HOST}:{port}"
    arguments = (
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={HOST}:{port}",
        "--cluster.listen-address=",
    )
    with _running("alertmanager", *arguments, folder=folder, ready=f"{url}/-/ready"):
        yield Alertmanager(url)


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def up(self) -> dict[str, bool]:
        """Whether each job's last scrape got an answer."""
        return {one["metric"]["job"]: one["value"][1] == "1" for one in self.query("up")}

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that this comes to now; an expression that is wrong fails the test."""
        asked = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/query?{asked}", timeout=30) as answer:
                found = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        result: list[dict[str, Any]] = found["result"]
        return result


@contextlib.contextmanager
def prometheus(targets: Mapping[str, str], folder: Path) -> Iterator[Prometheus]:
    """A real Prometheus on loopback that scrapes these URLs, by job, every second."""
    jobs = []
    for job, url in targets.items():
        at = urllib.parse.urlsplit(url)
        static = [{"targets": [at.netloc]}]
        jobs.append({"job_name": job, "metrics_path": at.path, "static_configs": static})
    scrape = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config = folder / "prometheus.yaml"
    config.write_text(json.dumps({"global": scrape, "scrape_configs": jobs}))
    (port,) = free(1)
    url = f"http://{HOST}:{port}"
    arguments = (
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={HOST}:{port}",
    )
    with _running("prometheus", *arguments, folder=folder, ready=f"{url}/-/ready"):
        yield Prometheus(url)


@contextlib.contextmanager
def _running(name: str, *arguments: str, folder: Path, ready: str) -> Iterator[None]:
    """The program, from when it is ready until the end of the block."""
    binary = Path(program(name))
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, *arguments], cwd=binary.parents[2], stdout=output, stderr=output
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(ready, timeout=2).close()
            return True
        return False

    try:
        until(answers, 30, f"{name} is ready")
        yield
    finally:
        process.kill()
        process.wait()
