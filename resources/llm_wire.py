"""How an HTTP client's requests travel: over aiohttp, whose parser is compiled.

Belongs here: a request and its response, and one family of errors for both libraries. Does not
belong here: whom we trust and who we are (`llm_client.py`).

By httpx2's own wire one small request takes twice the CPU time, which for agents that ask often is
most of what they take.
"""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx2
from yarl import URL

#: Of each kind of failure, the first that fits. What is not named is a failed request all the same.
_FAILURES: tuple[tuple[type[Exception], type[httpx2.RequestError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx2.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.ClientSSLError, httpx2.ConnectError),
    (aiohttp.ClientConnectorCertificateError, httpx2.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx2.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx2.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx2.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx2.UnsupportedProtocol),
    (aiohttp.ClientError, httpx2.ReadError),
    (OSError, httpx2.ReadError),
)

#: Headers that aiohttp would add of its own.
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Wire(httpx2.AsyncBaseTransport):
    """Of one server; opened by the first request, on its event loop."""

    def __init__(self, context: ssl.SSLContext, *, connections: int, kept_seconds: float) -> None:
        """Args:
        context: of TLS.
        connections: at once.
        kept_seconds: that one is kept open between requests.
        """
        self._context = context
        self._connections = connections
        self._kept_seconds = kept_seconds
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its body is read into memory first.

        Raises:
            httpx2.RequestError: it failed, as by httpx2's own wire.
        """
        limits = request.extensions.get("timeout", {})
        body = await request.aread()
        with _as_httpx2():
            response = await self._opened().request(
                request.method,
                URL(str(request.url), encoded=True),
                data=body or None,
                headers=request.headers.multi_items(),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=limits.get("connect"), sock_read=limits.get("read")
                ),
                # Both are the client's to do.
                allow_redirects=False,
                raise_for_status=False,
            )
        return httpx2.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response),
            extensions={"reason_phrase": (response.reason or "").encode("ascii", "ignore")},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections,
                    keepalive_timeout=self._kept_seconds,
                    ssl=self._context,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_NOT_ADDED,
            )
        return self._session


class _Body(httpx2.AsyncByteStream):
    """As it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx2():
            async for some in self._response.content.iter_any():
                yield some

    async def aclose(self) -> None:
        # Of one that was not read to its end the connection is no use.
        self._response.close()


@contextmanager
def _as_httpx2() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        made = next((made for kind, made in _FAILURES if isinstance(error, kind)), httpx2.ReadError)
        # What aiohttp makes of TLS's own words says less than they do.
        cause = error.__cause__ if isinstance(error, ssl.SSLError) else None
        raise made(str(error) or type(error).__name__) from cause or error
