"""mTLS towards a tool server: whatever is refused is said so that somebody can put it right."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agent_pipelines.agents.tools import ToolSession, ToolTransportError
from agent_pipelines.errors import UserError
from resources.tool_tls import _LOOK_EVERY
from resources.tools import ToolServerResource
from tests.certificates import Authority
from tests.orders_server import orders_over_tls
from tests.shell_server import running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def url(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server behind our shell, which wants a client certificate of our CA."""
    cert, key = ours.issue("server", "127.0.0.1")
    folder = tmp_path_factory.mktemp("shell")
    with running(folder, probes=True, tls_cert=cert, tls_key=key, tls_client_ca=ours.pem) as shell:
        yield shell.url


@contextmanager
def elsewhere(ours: Authority, folder: Path, host: str, *, days: float = 1.0) -> Iterator[str]:
    """A server of somebody else, with a certificate for this host."""
    cert, key = ours.issue(f"server-{host}", host, days=days)
    with orders_over_tls(folder, ssl_certfile=cert, ssl_keyfile=key) as served:
        yield served


def shown(pair: tuple[Path, Path]) -> dict[str, str]:
    """A client certificate, as fields of the resource."""
    return dict(zip(("cert", "key"), map(str, pair), strict=True))


def refused(url: str, **tls: str | None) -> str:
    """What somebody is told who cannot open a session."""

    async def main() -> None:
        resource = ToolServerResource(name="orders", url=url, connect_timeout_seconds=5, **tls)
        async with resource.session():
            pytest.fail("it was not refused")

    with pytest.raises(ToolTransportError) as failure:
        asyncio.run(main())
    assert str(failure.value).startswith("tool server orders: ")
    assert url in str(failure.value)
    return str(failure.value)


async def ask(session: ToolSession) -> str:
    return (await session.call("echo", {"text": "well"})).text


def test_with_the_right_files_it_is_a_session_like_any_other(url: str, ours: Authority) -> None:
    async def main() -> str:
        pair = shown(ours.issue("client", "agents"))
        async with ToolServerResource(url=url, ca=str(ours.pem), **pair).session() as session:
            return await ask(session)

    assert asyncio.run(main()) == "well"


def test_no_client_certificate(url: str, ours: Authority) -> None:
    assert "none is set: set `cert` and `key`" in refused(url, ca=str(ours.pem))


def test_a_client_certificate_of_a_ca_that_the_server_does_not_know(
    url: str, ours: Authority, theirs: Authority
) -> None:
    pair = shown(theirs.issue("client", "agents"))
    said = refused(url, ca=str(ours.pem), **pair)
    assert pair["cert"] in said
    assert "not signed by a CA that the server trusts" in said


def test_a_client_certificate_that_has_expired(url: str, ours: Authority) -> None:
    pair = shown(ours.issue("old", "agents", days=-1))
    said = refused(url, ca=str(ours.pem), **pair)
    assert f"{url} refuses us: the client certificate {pair['cert']} has expired on" in said


def test_a_server_of_a_ca_that_we_do_not_know(url: str, ours: Authority, theirs: Authority) -> None:
    pair = shown(ours.issue("client", "agents"))
    said = refused(url, ca=str(theirs.pem), **pair)
    assert f"not signed by a CA in {theirs.pem}" in said
    assert "set `ca`" in said
    assert "that this machine trusts" in refused(url, **pair)


def test_a_server_whose_certificate_is_for_another_name(ours: Authority, tmp_path: Path) -> None:
    with elsewhere(ours, tmp_path, "elsewhere.example") as url:
        assert "is not for '127.0.0.1'" in refused(url, ca=str(ours.pem))


def test_a_server_whose_certificate_has_expired(ours: Authority, tmp_path: Path) -> None:
    with elsewhere(ours, tmp_path, "127.0.0.1", days=-1) as url:
        assert "has expired: renew it on the server" in refused(url, ca=str(ours.pem))


def test_a_server_that_speaks_no_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    with orders_over_tls(tmp_path_factory.mktemp("plain")) as plain:
        assert "does not speak TLS" in refused(plain)


def test_files_that_cannot_be_used_are_named_with_their_field(
    url: str, ours: Authority, theirs: Authority
) -> None:
    cert = str(ours.issue("client", "agents")[0])
    other = str(theirs.issue("other", "agents")[1])
    missing = str(ours.folder / "missing.pem")
    locked = ours.folder / "locked.key"
    locked.write_bytes(encrypted(ours.issue("client", "agents")[1]))
    empty = ours.folder / "empty.pem"
    empty.write_text("")
    for files, said in (
        ({"cert": missing, "key": other}, f"`cert` {missing} cannot be read"),
        ({"cert": cert, "key": other}, f"`cert` {cert} and `key` {other} cannot be used together"),
        ({"cert": cert, "key": str(locked)}, f"`cert` {cert} and `key` {locked} cannot be used"),
        ({"ca": str(empty)}, f"`ca` {empty} holds no certificate"),
    ):

        async def main(files: dict[str, str] = files) -> None:
            async with ToolServerResource(name="orders", url=url, **files).session():
                pytest.fail("it was opened")

        with pytest.raises(UserError) as failure:
            asyncio.run(main())
        assert f"tool server orders: {said}" in failure.value.message
        assert failure.value.remedy


def encrypted(key: Path) -> bytes:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"nobody knows it"),
    )


def test_a_renewed_certificate_is_shown_without_a_new_session(url: str, ours: Authority) -> None:
    """The one in use expires while the batch goes on; a half-written new one harms nobody."""
    cert, key = ours.issue("renewed", "agents")
    old = ours.issue("expired", "agents", days=-1)
    _, wrong = ours.issue("third", "agents")
    good = cert.read_bytes(), key.read_bytes()

    def put(certificate: bytes, private: bytes) -> None:
        for path, content in ((cert, certificate), (key, private)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            os.replace(new, path)

    async def main() -> None:
        resource = ToolServerResource(url=url, ca=str(ours.pem), cert=str(cert), key=str(key))
        async with resource.session() as session:
            assert await ask(session) == "well"
            put(good[0], wrong.read_bytes())
            await asyncio.sleep(_LOOK_EVERY + 0.1)
            assert await ask(session) == "well"
            put(old[0].read_bytes(), old[1].read_bytes())
            await asyncio.sleep(3.5)  # until the connection that has been accepted is given up
            assert f"{cert} has expired" in await until_refused(session)
            put(*good)
            await asyncio.sleep(_LOOK_EVERY + 0.1)
            assert await ask(session) == "well"

    asyncio.run(main())


async def until_refused(session: ToolSession) -> str:
    async with asyncio.timeout(20):
        while True:
            try:
                await ask(session)
            except ToolTransportError as error:
                return str(error)
            await asyncio.sleep(0.5)
