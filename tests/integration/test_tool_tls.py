"""mTLS towards a tool server: whatever is refused is said so that somebody can put it right."""

import asyncio
import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from agent_pipelines.agents.tools import ToolSession, ToolTransportError
from agent_pipelines.errors import UserError
from resources.tool_tls import _LOOK_EVERY
from resources.tools import ToolServerResource
from tests.orders_server import orders_over_tls

PAST = datetime.now(UTC) - timedelta(days=1)


class Authority:
    """A CA, and the files of what it has signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._ca = trustme.CA()
        self.pem = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.pem))

    def issue(self, name: str, *hosts: str, expired: bool = False) -> tuple[str, str]:
        """Certificate and key."""
        leaf = self._ca.issue_cert(
            *hosts,
            not_before=PAST - timedelta(days=1),
            not_after=PAST if expired else datetime.now(UTC) + timedelta(days=1),
        )
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return str(cert), str(key)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def url(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a client certificate of our CA."""
    with serving(ours, tmp_path_factory, "127.0.0.1") as served:
        yield served


def serving(
    ours: Authority, folders: pytest.TempPathFactory, host: str, *, expired: bool = False
) -> "orders_over_tls":  # type: ignore[valid-type]
    cert, key = ours.issue(f"server-{host}-{expired}", host, expired=expired)
    return orders_over_tls(
        folders.mktemp("server"),
        ssl_certfile=cert,
        ssl_keyfile=key,
        ssl_ca_certs=str(ours.pem),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )


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
    return (await session.call("read", {"order": "7"})).text


def test_with_the_right_files_it_is_a_session_like_any_other(url: str, ours: Authority) -> None:
    cert, key = ours.issue("client", "agents")

    async def main() -> str:
        resource = ToolServerResource(url=url, ca=str(ours.pem), cert=cert, key=key)
        async with resource.session() as session:
            return await ask(session)

    assert asyncio.run(main()) == "order 7"


def test_no_client_certificate(url: str, ours: Authority) -> None:
    assert "none is set: set `cert` and `key`" in refused(url, ca=str(ours.pem))


def test_a_client_certificate_of_a_ca_that_the_server_does_not_know(
    url: str, ours: Authority, theirs: Authority
) -> None:
    cert, key = theirs.issue("client", "agents")
    said = refused(url, ca=str(ours.pem), cert=cert, key=key)
    assert cert in said
    assert "not signed by a CA that the server trusts" in said


def test_a_client_certificate_that_has_expired(url: str, ours: Authority) -> None:
    cert, key = ours.issue("old", "agents", expired=True)
    said = refused(url, ca=str(ours.pem), cert=cert, key=key)
    assert f"{url} refuses us: the client certificate {cert} has expired on" in said


def test_a_server_of_a_ca_that_we_do_not_know(url: str, ours: Authority, theirs: Authority) -> None:
    cert, key = ours.issue("client", "agents")
    said = refused(url, ca=str(theirs.pem), cert=cert, key=key)
    assert f"not signed by a CA in {theirs.pem}" in said
    assert "set `ca`" in said
    assert "that this machine trusts" in refused(url, cert=cert, key=key)


def test_a_server_whose_certificate_is_for_another_name(
    ours: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cert, key = ours.issue("client", "agents")
    with serving(ours, tmp_path_factory, "elsewhere.example") as url:
        said = refused(url, ca=str(ours.pem), cert=cert, key=key)
    assert "is not for '127.0.0.1'" in said


def test_a_server_whose_certificate_has_expired(
    ours: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cert, key = ours.issue("client", "agents")
    with serving(ours, tmp_path_factory, "127.0.0.1", expired=True) as url:
        said = refused(url, ca=str(ours.pem), cert=cert, key=key)
    assert "has expired: renew it on the server" in said


def test_a_server_that_speaks_no_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    with orders_over_tls(tmp_path_factory.mktemp("plain")) as plain:
        assert "does not speak TLS" in refused(plain)


def test_files_that_cannot_be_used_are_named_with_their_field(
    url: str, ours: Authority, theirs: Authority
) -> None:
    cert, _ = ours.issue("client", "agents")
    _, other = theirs.issue("other", "agents")
    missing = str(ours.folder / "missing.pem")
    empty = ours.folder / "empty.pem"
    empty.write_text("")
    for files, said in (
        ({"cert": missing, "key": other}, f"`cert` {missing} cannot be read"),
        ({"cert": cert, "key": other}, f"`cert` {cert} and `key` {other} cannot be used together"),
        ({"ca": str(empty)}, f"`ca` {empty} holds no certificate"),
    ):

        async def main(files: dict[str, str] = files) -> None:
            async with ToolServerResource(name="orders", url=url, **files).session():
                pytest.fail("it was opened")

        with pytest.raises(UserError) as failure:
            asyncio.run(main())
        assert f"tool server orders: {said}" in failure.value.message
        assert failure.value.remedy


def test_a_renewed_certificate_is_shown_without_a_new_session(url: str, ours: Authority) -> None:
    """The one in use expires while the batch goes on; a half-written new one harms nobody."""
    cert, key = map(Path, ours.issue("renewed", "agents"))
    old, _ = map(Path, ours.issue("expired", "agents", expired=True))
    _, wrong = map(Path, ours.issue("third", "agents"))
    good = cert.read_bytes(), key.read_bytes()

    def put(certificate: bytes, private: bytes) -> None:
        for path, content in ((cert, certificate), (key, private)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            os.replace(new, path)

    async def main() -> None:
        resource = ToolServerResource(url=url, ca=str(ours.pem), cert=str(cert), key=str(key))
        async with resource.session() as session:
            assert await ask(session) == "order 7"
            put(good[0], wrong.read_bytes())
            await asyncio.sleep(_LOOK_EVERY + 0.1)
            assert await ask(session) == "order 7"
            put(old.read_bytes(), ours.folder.joinpath("expired.key").read_bytes())
            await asyncio.sleep(3.5)  # until the connection that has been accepted is given up
            assert f"{cert} has expired" in await until_refused(session)
            put(*good)
            await asyncio.sleep(_LOOK_EVERY + 0.1)
            assert await ask(session) == "order 7"

    asyncio.run(main())


async def until_refused(session: ToolSession) -> str:
    async with asyncio.timeout(20):
        while True:
            try:
                await ask(session)
            except ToolTransportError as error:
                return str(error)
            await asyncio.sleep(0.5)
