"""Web pages, named by a sitemap or one by one.

Belongs here: finding pages, telling when they changed, fetching them. Does not belong here: the
text in them (`extraction.py`).
"""

import gzip
import hashlib
import io
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urljoin, urlsplit

from pydantic import Field, field_validator, model_validator

from agent_pipelines.errors import UserError
from agent_pipelines.indexing import extraction
from agent_pipelines.indexing.overlap import mapped
from agent_pipelines.indexing.sources import (
    Document,
    DocumentError,
    Ref,
    Source,
    SourceConfig,
    SourceError,
)
from agent_pipelines.indexing.sources.globs import matcher

if TYPE_CHECKING:
    import httpx2

#: Pages asked for at the same time while listing.
_AT_ONCE = 8

#: Longest a page or sitemap may be, unpacked; the sitemap protocol allows as much.
_MAX_BYTES = 50 * 2**20
_TOO_LONG = f"is longer than {_MAX_BYTES // 2**20} MiB"

#: Sitemaps that one index may lead to, as many as the sitemap protocol allows.
_MAX_SITEMAPS = 50_000

#: Seconds to connect, and between two pieces of an answer.
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 30.0

#: Answers that a moment later may be others.
_PASSING = (429, 500, 502, 503, 504)
_ATTEMPTS = 4
_BACK_OFF_SECONDS = 0.5

#: What servers say that know no HEAD.
_NO_HEAD = (405, 501)


class Http(SourceConfig):
    """Pages of a web site. One without ETag and Last-Modified is read whole at each listing."""

    kind: Literal["http"]
    sitemap: str | None = Field(
        default=None,
        description="URL of a sitemap, or of an index of sitemaps; may be gzipped. Its pages are "
        "the documents.",
        examples=["https://docs.example.com/sitemap.xml"],
    )
    urls: tuple[str, ...] = Field(default=(), description="The pages, instead of a sitemap.")
    include: tuple[str, ...] = Field(
        default=("**",),
        description="Globs of URLs to index; `**` crosses slashes, case does not matter.",
        examples=[["https://docs.example.com/guide/**"]],
    )
    exclude: tuple[str, ...] = Field(default=(), description="Globs of URLs to leave out.")
    headers: Mapping[str, str] = Field(
        default={},
        repr=False,
        description="Sent with each request to the scheme, host and port of `sitemap` or `urls`, "
        "and to no other, such as Authorization.",
    )

    @field_validator("sitemap", "urls")
    @classmethod
    def _are_urls(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for url in (value,) if isinstance(value, str) else value or ():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is not the URL of a page: https://host/path")
            if parts.username is not None:
                raise ValueError(f"the URL at {parts.hostname} holds a user: give it in `headers`")
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> "Http":
        if bool(self.sitemap) == bool(self.urls):
            raise ValueError("give either `sitemap` or `urls`")
        return self

    def open(self, folder: Path) -> Source:
        """The source; `folder` does not matter, pages are where their URLs say."""
        del folder
        return HttpSource(self.sitemap, self.urls, self.include, self.exclude, self.headers)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said in the end, redirects followed."""

    status: int
    reason: str
    headers: "httpx2.Headers"
    body: bytes

    def page(self) -> "_Answer":
        """Itself, where it is an answer with a page.

        Raises:
            DocumentError: it is an error or something else.
        """
        if not 200 <= self.status < 300:
            raise DocumentError(f"answered {self.status} {self.reason}".rstrip())
        return self

    @property
    def version(self) -> str | None:
        """What changes with the page, if the server says."""
        return self.headers.get("etag") or self.headers.get("last-modified")

    @property
    def modified_at(self) -> datetime | None:
        try:
            modified = parsedate_to_datetime(self.headers.get("last-modified", ""))
        except ValueError:
            return None
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)


class HttpSource:
    """The pages of `sitemap`, or at `urls`, whose URLs match `include` and not `exclude`.

    A document's id is its URL; its version the ETag, else the time of modification, else a digest
    of the page. A page that cannot be read is listed all the same, its failure as its version:
    reading it says why. Where no page can be read, or a server not be reached, nothing is listed.
    """

    def __init__(
        self,
        sitemap: str | None,
        urls: Sequence[str],
        include: Sequence[str],
        exclude: Sequence[str],
        headers: Mapping[str, str],
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        self._sitemap = sitemap
        self._urls = urls
        self._matches = matcher(include, exclude)
        self._headers = {name: value.strip() for name, value in headers.items()}
        for name, value in self._headers.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise UserError(
                    f"source.headers {name!r} holds a character that no header can",
                    remedy="give it in printable ASCII, on one line",
                )
        self._read_seconds = read_seconds
        self._loading: httpx2.Client | None = None
        self._opening = Lock()

    def check(self) -> None:
        """Read the sitemap, or see that the server of the first page answers."""
        try:
            with self._client() as client:
                if self._sitemap:
                    deque(_links(client, self._sitemap), maxlen=0)
                else:
                    _ask(client, "HEAD", self._urls[0])
        except (SourceError, DocumentError) as error:
            raise UserError(
                f"source.{'sitemap' if self._sitemap else 'urls'}: {error}",
                remedy="correct it in defs.yaml, or see that the server answers from here",
            ) from error

    def list(self) -> Iterator[Ref]:
        """List the pages in the order they are named in, asking for several at once."""
        readable, last = False, ""
        with (
            self._client() as client,
            closing(mapped(partial(_ref, client), self._pages(client), workers=_AT_ONCE)) as refs,
        ):
            for ref, failure in refs:
                readable = readable or failure is None
                last = f"; the last one, {ref.id}, {failure}"
                yield ref
        if not readable:
            raise SourceError(f"not one page of {self._sitemap or 'urls'} could be read{last}")

    def _pages(self, client: "httpx2.Client") -> Iterator[str]:
        """The URLs to index, each once."""
        seen: set[str] = set()
        for url in self._named(client) if self._sitemap else self._urls:
            if url not in seen and self._matches(url):
                seen.add(url)
                yield url

    def _named(self, client: "httpx2.Client") -> Iterator[str]:
        """The pages that the sitemap names, and the sitemaps it leads to."""
        assert self._sitemap
        known, waiting = {self._sitemap}, deque([self._sitemap])
        while waiting:
            for kind, url in _links(client, waiting.popleft()):
                if kind == "url":
                    yield url
                elif url not in known:
                    known.add(url)
                    waiting.append(url)
            if len(known) > _MAX_SITEMAPS:
                raise SourceError(f"{self._sitemap} leads to more than {_MAX_SITEMAPS} sitemaps")

    def load(self, ref: Ref) -> Document:
        """Read one page."""
        with self._opening:
            self._loading = client = self._loading or self._client()
        try:
            page = _ask(client, "GET", ref.id).page()
        except SourceError as error:
            raise DocumentError(str(error)) from error
        extracted = extraction.extract(
            page.body,
            name=PurePosixPath(unquote(urlsplit(ref.id).path)).name,
            media_type=page.headers.get("content-type"),
        )
        return Document(
            id=ref.id,
            version=ref.version,
            text=extracted.text,
            title=extracted.title or ref.id,
            uri=ref.id,
            format=extracted.format,
            metadata=extracted.metadata,
        )

    def _client(self) -> "httpx2.Client":
        import httpx2

        ours = {httpx2.URL(url).origin for url in (self._sitemap, *self._urls) if url}

        def add_headers(request: httpx2.Request) -> None:
            # Called for each redirect, too: what is secret must not follow it anywhere else.
            for name, value in self._headers.items():
                request.headers.pop(name, None)
                if request.url.origin in ours:
                    request.headers[name] = value

        return httpx2.Client(
            headers={"User-Agent": "agent-pipelines"},
            event_hooks={"request": [add_headers]},
            follow_redirects=True,
            timeout=httpx2.Timeout(self._read_seconds, connect=_CONNECT_SECONDS),
        )


def _ref(client: "httpx2.Client", url: str) -> tuple[Ref, str | None]:
    """The page as it is listed, and why it could not be read."""
    try:
        answer = _ask(client, "HEAD", url)
        if answer.status in _NO_HEAD or answer.page().version is None:
            answer = _ask(client, "GET", url).page()
    except DocumentError as error:
        return Ref(url, str(error)), str(error)
    version = answer.version or hashlib.sha256(answer.body).hexdigest()[:32]
    return Ref(url, version, answer.modified_at), None


def _links(client: "httpx2.Client", url: str) -> Iterator[tuple[str, str]]:
    """What a sitemap names: `url` and a page, or `sitemap` and a sitemap.

    The format is that of https://www.sitemaps.org/protocol.html.

    Raises:
        SourceError: it cannot be read to its end.
    """
    from defusedxml.ElementTree import ParseError, iterparse

    try:
        xml = _unpacked(_ask(client, "GET", url).page().body)
        root = None
        for event, element in iterparse(io.BytesIO(xml), ("start", "end"), forbid_dtd=True):
            kind = _local_name(element.tag)
            if root is None:
                root = element
                if kind not in ("urlset", "sitemapindex"):
                    raise DocumentError(f"is no sitemap: it begins with <{kind}>")
            elif event == "end" and kind in ("url", "sitemap"):
                locations = [child.text for child in element if _local_name(child.tag) == "loc"]
                root.clear()
                if len(locations) != 1 or not (location := (locations[0] or "").strip()):
                    raise DocumentError(f"is no sitemap: a <{kind}> has no <loc>")
                yield kind, urljoin(url, location)
    except DocumentError as error:
        raise SourceError(f"{url} {error}") from error
    except (ParseError, ValueError) as error:  # ValueError: what is not to be in a sitemap
        raise SourceError(f"{url} is no sitemap: {error}") from error


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.open(io.BytesIO(data)) as file:
            unpacked = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DocumentError(f"cannot be unpacked: {error}") from error
    if len(unpacked) > _MAX_BYTES:
        raise DocumentError(_TOO_LONG)
    return unpacked


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2]


def _ask(client: "httpx2.Client", method: str, url: str) -> _Answer:
    """What the server answers, be it an error, after a few tries.

    Raises:
        SourceError: the server cannot be reached.
        DocumentError: it can, and this page cannot be had for a reason of its own.
    """
    import httpx2
    import tenacity

    outages = (
        httpx2.TimeoutException,
        httpx2.NetworkError,
        httpx2.RemoteProtocolError,
        httpx2.ProxyError,
    )
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(outages)
        | tenacity.retry_if_result(lambda answer: answer.status in _PASSING),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(_BACK_OFF_SECONDS),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    try:
        return retrying(_once, client, method, url)
    except outages as error:
        said = str(error) or type(error).__name__
        if error.request.url.host == httpx2.URL(url).host:
            raise SourceError(f"{url} cannot be reached: {said}") from error
        raise DocumentError(f"redirects to {error.request.url}: {said}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DocumentError(f"cannot be read: {error}") from error


def _once(client: "httpx2.Client", method: str, url: str) -> _Answer:
    with client.stream(method, url) as response:
        body = bytearray()
        # Of HEAD, too, has the end to be read, else the connection is lost for the next request.
        for piece in response.iter_bytes() if method == "GET" else response.iter_raw():
            body += piece
            if len(body) > _MAX_BYTES:
                raise DocumentError(_TOO_LONG)
        return _Answer(response.status_code, response.reason_phrase, response.headers, bytes(body))
