"""mTLS of a tool server: who is refused, and certificates that change while it serves."""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509

from agent_pipelines.toolservers.shell.certificates import subject
from tests.certificates import Authority
from tests.processes import until
from tests.shell_server import Running, connected, running

HOST = "127.0.0.1"


class Mounted:
    """The server's files as Kubernetes mounts a Secret: links through a folder that is swapped."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._generation = 0
        self.names = ("tls.crt", "tls.key", "ca.crt")
        for name in self.names:
            (folder / name).symlink_to(Path("..data") / name)

    def swap(self, pair: tuple[Path, Path], ca: Path) -> None:
        """All three at once."""
        self._generation += 1
        fresh = self.folder / f"..{self._generation}"
        fresh.mkdir()
        for name, source in zip(self.names, (*pair, ca), strict=True):
            (fresh / name).write_bytes(source.read_bytes())
        link = self.folder / "..new"
        link.symlink_to(fresh.name)
        link.rename(self.folder / "..data")

    @property
    def settings(self) -> dict[str, Path]:
        cert, key, ca = (self.folder / name for name in self.names)
        return {"tls_cert": cert, "tls_key": key, "tls_client_ca": ca}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def server(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    mounted = Mounted(tmp_path_factory.mktemp("tls") / "mounted")
    mounted.swap(ours.issue("server", HOST), ours.pem)
    folder = tmp_path_factory.mktemp("server")
    with running(
        folder, probes=True, **mounted.settings, allowed_hosts="127.0.0.1:*,localhost:*"
    ) as started:
        yield started


def call(url: str, tls: ssl.SSLContext) -> Any:
    async def main() -> Any:
        async with connected(url, tls=tls) as client:
            return await client.call_tool("echo", {"text": "x"})

    return asyncio.run(main())


def served(server: Running, tls: ssl.SSLContext) -> x509.Certificate:
    """What a new connection is shown."""
    with (
        socket.create_connection((HOST, server.port), timeout=10) as plain,
        tls.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def test_who_shows_a_certificate_may_call_and_is_named(server: Running, ours: Authority) -> None:
    tls = ours.client(ours.issue("triage", "triage.agents.svc", caller="triage"))
    assert not call(server.url, tls).is_error
    assert server.calls(1)[0]["caller"] == "triage"


@pytest.mark.parametrize(
    ("named", "caller"),
    [
        ([("DNS", "triage.svc"), ("URI", "spiffe://cluster/triage")], "spiffe://cluster/triage"),
        ([("DNS", "triage.svc")], "triage"),
        ([], "triage"),
    ],
)
def test_a_workload_identity_comes_before_a_common_name(
    named: list[tuple[str, str]], caller: str
) -> None:
    certificate = {"subject": ((("commonName", "triage"),),), "subjectAltName": tuple(named)}
    assert subject(certificate) == caller


def test_who_shows_none_or_a_bad_one_is_refused(
    server: Running, ours: Authority, tmp_path: Path
) -> None:
    calls = server.metric("mcp_tool_call_total")
    failed = server.metric("mcp_tls_handshake_failures_total")
    theirs = Authority(tmp_path / "theirs")
    shown = {
        "none": None,
        "of another CA": theirs.issue("client", "triage"),
        "expired": ours.issue("expired", "triage", days=-1),
    }
    for pair in shown.values():
        with pytest.raises(BaseExceptionGroup) as refused:
            call(server.url, ours.client(pair))
        assert refused.group_contains(httpx2.TransportError)
    assert server.metric("mcp_tool_call_total") == calls
    assert server.metric("mcp_tls_handshake_failures_total") == failed + len(shown)


def test_a_name_that_the_certificate_lacks_is_refused_by_the_client(
    server: Running, ours: Authority
) -> None:
    tls = ours.client(ours.issue("careful", "triage"))
    with pytest.raises(BaseExceptionGroup) as refused:
        call(server.url.replace(HOST, "localhost"), tls)
    assert refused.group_contains(httpx2.ConnectError, match="certificate")


def test_the_probes_need_no_certificate_and_are_served_apart(
    server: Running, ours: Authority
) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert server.get(path).status_code == 200
        tls = ours.client(ours.issue("prober", "triage"))
        answer = httpx2.get(server.url.replace("/mcp", path), verify=tls)
        assert answer.status_code == 404, "the main port serves tools alone"
    assert server.get("/mcp").status_code == 404


def test_certificates_change_under_load_without_a_failed_call(tmp_path: Path) -> None:
    """Three times the pair, once with a new CA, and once half of a pair."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    both = tmp_path / "both.pem"
    both.write_bytes(old.pem.read_bytes() + new.pem.read_bytes())
    mounted = Mounted(tmp_path / "mounted")
    first = old.issue("first", HOST, days=1)
    mounted.swap(first, old.pem)
    with running(tmp_path / "server", probes=True, **mounted.settings) as server:
        tls = ssl.create_default_context(cafile=str(both))
        tls.load_cert_chain(*old.issue("client", "triage"))
        calls, over = [0], asyncio.Event()

        async def keep_calling() -> None:
            async with connected(server.url, tls=tls) as client:
                while not over.is_set():
                    assert not (await client.call_tool("echo", {"text": "x"})).is_error
                    calls[0] += 1

        async def keep_connecting() -> None:
            while not over.is_set():
                async with connected(server.url, tls=tls) as client:
                    assert not (await client.call_tool("echo", {"text": "x"})).is_error
                calls[0] += 1

        async def rotate() -> None:
            for name, authority, trusted in (
                ("second", old, old.pem),
                ("third", new, both),
            ):
                pair = authority.issue(name, HOST, days=2)
                await asyncio.to_thread(mounted.swap, pair, trusted)
                await under(pair[0])
            # A certificate without its key, as something that copies one file by one leaves it.
            fourth = new.issue("fourth", HOST, days=3)
            _overwrite(mounted.folder / "tls.crt", fourth[0])
            await under(pair[0])
            assert server.metric("mcp_tls_certificate_stale") == 1
            assert "cannot be used, the older ones stay" in server.stderr
            _overwrite(mounted.folder / "tls.key", fourth[1])
            await under(fourth[0])
            assert server.metric("mcp_tls_certificate_stale") == 0

        async def under(cert: Path) -> None:
            """New connections are shown this one, while calls go on."""
            expected = x509.load_pem_x509_certificate(cert.read_bytes())
            shown = await asyncio.to_thread(served, server, tls)
            assert shown.serial_number == expected.serial_number
            expiry = await asyncio.to_thread(
                server.metric, "mcp_tls_certificate_expiry_timestamp_seconds"
            )
            assert datetime.fromtimestamp(expiry, UTC) == expected.not_valid_after_utc
            before = calls[0]
            await asyncio.to_thread(until, lambda: calls[0] > before + 50, 30, "calls under load")

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for work in (keep_calling, keep_calling, keep_connecting, keep_connecting):
                    group.create_task(work())
                try:
                    await rotate()
                finally:
                    over.set()

        asyncio.run(main())
        assert {line["outcome"] for line in server.calls(calls[0])} == {"ok"}


def test_a_ca_that_is_no_longer_trusted_lets_nobody_in(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    mounted = Mounted(tmp_path / "mounted")
    pair = old.issue("server", HOST)
    mounted.swap(pair, old.pem)
    with running(tmp_path / "server", probes=True, **mounted.settings) as server:
        theirs = old.client(old.issue("client", "triage"))
        assert not call(server.url, theirs).is_error
        mounted.swap(pair, new.pem)
        # The same context, which could resume its session where sessions are kept.
        with pytest.raises(BaseExceptionGroup):
            call(server.url, theirs)
        assert not call(server.url, old.client(new.issue("client", "triage"))).is_error


def _overwrite(path: Path, source: Path) -> None:
    """In place, through the link, as `cp` does."""
    Path(os.path.realpath(path)).write_bytes(source.read_bytes())
