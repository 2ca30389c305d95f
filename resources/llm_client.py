"""The HTTP client of a model server: whom it trusts, who it is, and what a refusal means.

Belongs here: TLS, the key and the headers, read anew where they are renewed, and the first
question. Does not belong here: where the server is (`llm.py`) or what agents ask it (`agents`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2

from agent_pipelines.errors import UnavailableError, UserError
from resources.llm_wire import Wire
from resources.tool_tls import ClientTls, TlsFiles, explain, why_refused

#: Statuses that say: try another key.
_UNAUTHORISED = (401, 403)

#: Seconds that a connection is kept open between requests: less than vLLM's five and anybody
#: else's, for a request that meets a connection as it closes has failed.
_KEPT_SECONDS = 3.0

#: Connections, where the openai client sets no bound.
_AT_ONCE = 1000

#: Seconds for the first question, which no model has to think about.
_GREETING = 10.0


@dataclass(frozen=True)
class Access:
    """What it takes to be let in."""

    files: TlsFiles = field(default_factory=TlsFiles)
    key: Callable[[], str] | None = None
    """Asked for before every request: it may be renewed while a batch runs."""
    headers: Mapping[str, str] = field(default_factory=dict)


class LlmClient(httpx2.AsyncClient):
    """An HTTP client with the openai client's own patience, and a server's access."""

    def __init__(self, base_url: str, access: Access) -> None:
        """Read the TLS files.

        Raises:
            UserError: one of them cannot be used.
        """
        import openai

        self._tls = ClientTls(access.files)
        self._key = access.key
        at_once = openai.DEFAULT_CONNECTION_LIMITS.max_connections or _AT_ONCE
        # A proxy of the office does not know our loopback.
        proxied = not _is_loopback(base_url) and bool(getproxies())
        super().__init__(
            verify=self._tls.context,
            headers=dict(access.headers),
            timeout=openai.DEFAULT_TIMEOUT,
            limits=httpx2.Limits(
                max_connections=at_once,
                max_keepalive_connections=at_once,
                keepalive_expiry=_KEPT_SECONDS,
            ),
            follow_redirects=True,
            # Only httpx2's own wire goes through proxies.
            transport=None
            if proxied
            else Wire(self._tls.context, connections=at_once, kept_seconds=_KEPT_SECONDS),
            trust_env=proxied,
        )

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request. What a person must put right comes back as a 503 that says so.

        As an exception it would reach them through the openai client as "Connection error".
        """
        self._tls.renew()
        try:
            if self._key is not None:
                request.headers["authorization"] = f"Bearer {self._key()}"
            return await super().send(request, **options)
        except UserError as error:
            # The key's file is gone for now, perhaps while somebody renews it.
            return _refusal(request, f"{error.message}; {error.remedy}")
        except httpx2.RequestError as error:
            if said := explain(error, str(request.url), self._tls.files):
                return _refusal(request, said)
            raise

    async def why_refused(self, url: str) -> str | None:
        """What TLS has against us, or we against it; None where it is something else.

        A server that wants another client certificate may just close the connection.
        """
        if not url.startswith("https:"):
            return None
        return await asyncio.to_thread(why_refused, url, self._tls)


async def served_models(http: LlmClient, base_url: str) -> list[str]:
    """The names of the models at a server; none where it keeps no list of them.

    Raises:
        UserError: it refuses us, or we it; the message says why.
        UnavailableError: it does not answer, or not as a model server does.
    """
    try:
        answer = await http.get(f"{base_url.rstrip('/')}/models", timeout=_GREETING)
        if answer.status_code in _UNAUTHORISED:
            raise UserError(
                f"the model server at {base_url} refuses our key: HTTP {answer.status_code} "
                f"{answer.text[:200].strip()}",
                remedy="set LLM_API_KEY, or `api_key` or `api_key_file` of the llm, to one that "
                "it accepts",
            )
        if refused := answer.extensions.get(_REFUSED):
            raise UserError(refused, remedy="correct the llm's `ca`, `cert` or `key`")
        if answer.status_code == httpx2.codes.NOT_FOUND:
            return []  # a gateway that only passes completions on
        return [str(model["id"]) for model in answer.raise_for_status().json()["data"]]
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        if isinstance(error, httpx2.TransportError) and (why := await http.why_refused(base_url)):
            raise UserError(why, remedy="correct the llm's `ca`, `cert` or `key`") from error
        raise UnavailableError(
            f"the model server at {base_url} does not list its models: "
            f"{type(error).__name__}: {error}",
            remedy="check that it runs, LLM_BASE_URL or the `url` of the llm; a model that is "
            "named there or by LLM_MODEL is waited for",
        ) from error


@asynccontextmanager
async def opened(base_url: str, access: Access) -> AsyncIterator[LlmClient]:
    """A client, closed at the end.

    Raises:
        UserError: the key or a file cannot be read.
    """
    if access.key is not None:
        access.key()
    async with LlmClient(base_url, access) as http:
        yield http


_REFUSED = "agent_pipelines_refused"


def _refusal(request: httpx2.Request, said: str) -> httpx2.Response:
    return httpx2.Response(
        httpx2.codes.SERVICE_UNAVAILABLE,
        json={"error": {"message": said}},
        extensions={_REFUSED: said},
        request=request,
    )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
