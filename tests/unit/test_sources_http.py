"""HTTP: pages are listed by what their server says of them; a real server on this machine."""

import gzip
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.sources import DocumentError, Ref, Source, SourceError, http
from agent_pipelines.indexing.sources.http import Http, HttpSource


@dataclass
class Page:
    """What the site answers at a path."""

    body: bytes = b"text"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    head: int | None = None
    """The status of HEAD, if another."""
    before: Callable[[], object] = lambda: None


class Site:
    """A web server on this machine; `asked` is what it was asked for, in order."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sitemap(self, *urls: str, path: str = "/sitemap.xml", of: str = "url") -> str:
        """Serve a sitemap of these URLs or paths."""
        root = "urlset" if of == "url" else "sitemapindex"
        entries = "".join(
            f"<{of}><loc>\n{url if '://' in url else self.url + url}</loc>"
            "<lastmod>2026-01-01</lastmod></{of}>".replace("{of}", of)
            for url in urls
        )
        namespace = "http://www.sitemaps.org/schemas/sitemap/0.9"
        xml = f'<?xml version="1.0"?><{root} xmlns="{namespace}">{entries}</{root}>'
        self.pages[path] = Page(xml.encode())
        return self.url + path

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.command, self.path))
                site.headers.append({name.lower(): value for name, value in self.headers.items()})
                page = site.pages.get(self.path, Page(b"no", 404))
                page.before()
                is_head = self.command == "HEAD"
                self.send_response(page.head if is_head and page.head else page.status)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                if not is_head:
                    self.wfile.write(page.body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(http, "_BACK_OFF_SECONDS", 0.001)
    opened = Site()
    yield opened
    opened.close()


@pytest.fixture
def elsewhere() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.close()


@pytest.fixture
def nobody() -> str:
    """The URL of a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def pages(**config: Any) -> Source:
    return Http(kind="http", **config).open(Path("/nowhere"))


def paths(site: Site, source: Source) -> list[str]:
    return [ref.id.removeprefix(site.url) for ref in source.list()]


DATE = "Thu, 01 Jan 2026 12:00:00 GMT"


def test_a_version_is_the_etag_else_the_date_else_a_digest(site: Site) -> None:
    site.pages = {
        "/etag.md": Page(headers={"ETag": '"strong"', "Last-Modified": DATE}),
        "/weak.md": Page(headers={"ETag": 'W/"weak"'}),
        "/date.md": Page(headers={"Last-Modified": DATE}),
        "/none.md": Page(b"body"),
    }
    source = pages(sitemap=site.sitemap(*site.pages))
    source.check()
    site.asked.clear()
    etag, weak, date, none = source.list()
    assert (etag.id, etag.version) == (f"{site.url}/etag.md", '"strong"')
    assert (weak.version, weak.modified_at) == ('W/"weak"', None)
    assert date.version == DATE
    assert etag.modified_at == date.modified_at
    assert date.modified_at is not None
    assert date.modified_at.isoformat() == "2026-01-01T12:00:00+00:00"
    assert none.version == hashlib.sha256(b"body").hexdigest()[:32]
    assert [path for method, path in site.asked if method == "GET"] == ["/sitemap.xml", "/none.md"]


def test_a_page_that_changed_has_a_new_version(site: Site) -> None:
    site.pages = {"/etag.md": Page(headers={"ETag": '"1"'}), "/none.md": Page(b"one")}
    source = pages(urls=[f"{site.url}{path}" for path in site.pages])
    before = list(source.list())
    assert list(source.list()) == before
    site.pages = {"/etag.md": Page(headers={"ETag": '"2"'}), "/none.md": Page(b"two")}
    after = list(source.list())
    assert all(a.id == b.id and a.version != b.version for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_that_knows_no_head_is_asked_for_the_page(site: Site, status: int) -> None:
    site.pages["/a.md"] = Page(headers={"ETag": '"1"'}, head=status)
    (ref,) = pages(urls=[f"{site.url}/a.md"]).list()
    assert ref.version == '"1"'


def test_sitemaps_are_followed_unpacked_and_read_once_each(site: Site) -> None:
    site.pages = {path: Page() for path in ("/a.md", "/b.md", "/c.md")}
    site.sitemap("/a.md", "/b.md", path="/one.xml")
    packed = site.sitemap("/b.md", "/c.md", path="/two.xml.gz")
    site.pages["/two.xml.gz"].body = gzip.compress(site.pages["/two.xml.gz"].body)
    deeper = site.sitemap(packed, "/index.xml", path="/deeper.xml", of="sitemap")
    index = site.sitemap("/one.xml", deeper, "/one.xml", path="/index.xml", of="sitemap")
    assert paths(site, pages(sitemap=index)) == ["/a.md", "/b.md", "/c.md"]
    assert sum(path.endswith((".xml", ".gz")) for _, path in site.asked) == 4


def test_globs_choose_among_the_urls(site: Site) -> None:
    site.pages = {path: Page() for path in ("/guide/a.md", "/guide/x/b.md", "/blog/c.md")}
    sitemap = site.sitemap(*site.pages)
    chosen = pages(sitemap=sitemap, include=[f"{site.url}/GUIDE/**"], exclude=["**/x/*"])
    assert paths(site, chosen) == ["/guide/a.md"]


def test_pages_are_listed_as_they_come_several_at_once_and_in_order(site: Site) -> None:
    """Eight that wait for each other; had they been asked one by one, none would be answered."""
    together = threading.Barrier(8)
    names = [f"/{n:03}.md" for n in range(96)]
    for name in names:
        headers = {"ETag": name}
        site.pages[name] = Page(headers=headers, before=lambda: together.wait(timeout=60))
    listing = pages(sitemap=site.sitemap(*names)).list()
    first = next(listing)
    assert first.version == names[0]
    assert len(site.asked) <= 1 + 2 * 8
    assert [ref.version for ref in listing] == names[1:]


def test_a_page_that_fails_is_listed_and_its_reading_says_why(site: Site, nobody: str) -> None:
    dead = nobody.replace("127.0.0.1", "localhost")  # another host
    site.pages = {
        "/good.md": Page(b"# Good\n\ntext"),
        "/gone.md": Page(status=410),
        "/ill.md": Page(status=500),
        "/loop.md": Page(status=302, headers={"Location": "/loop.md"}),
        "/ftp.md": Page(status=302, headers={"Location": "ftp://127.0.0.1/x.md"}),
        "/file.md": Page(status=302, headers={"Location": "file:///etc/passwd"}),
        "/dead.md": Page(status=302, headers={"Location": f"{dead}/x.md"}),
        "/long.md": Page(b"x" * (50 * 2**20 + 1)),
    }
    source = pages(sitemap=site.sitemap(*site.pages, "/missing.md"))
    refs = {ref.id.removeprefix(site.url): ref for ref in source.list()}
    failures = {
        "/gone.md": "answered 410 Gone",
        "/ill.md": "answered 500 Internal Server Error",
        "/missing.md": "answered 404 Not Found",
        "/loop.md": "redirects",
        "/ftp.md": "protocol",
        "/file.md": "protocol",
        "/dead.md": f"redirects to {dead}/x.md: ",
        "/long.md": "is longer than 50 MiB",
    }
    assert refs.keys() == {"/good.md", *failures}
    for path, said in failures.items():
        with pytest.raises(DocumentError, match=said) as failure:
            source.load(refs[path])
        assert refs[path].version == str(failure.value)
    assert source.load(refs["/good.md"]).title == "Good"


def test_what_passes_in_a_moment_is_asked_again(site: Site) -> None:
    page = Page(status=503)

    def recover() -> None:
        if sum(path == "/a.md" for _, path in site.asked) == 3:
            page.status, page.headers = 200, {"ETag": '"1"'}

    page.before = recover
    site.pages["/a.md"] = page
    (ref,) = pages(urls=[f"{site.url}/a.md"]).list()
    assert ref.version == '"1"'


LAUGHS = (
    b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><urlset><url><loc>&b;</loc></url></urlset>'
)
THEFT = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><urlset>&a;</urlset>'


@pytest.mark.parametrize(
    ("sitemap", "said"),
    [
        (Page(status=404), "answered 404 Not Found"),
        (Page(b"<html><body/></html>"), "begins with <html>"),
        (Page(b"<urlset><url><loc>http://x/</loc></url>"), "no element found"),
        (Page(b"<urlset><url></url></urlset>"), "a <url> has no <loc>"),
        (Page(b"<urlset><url><loc>http://[x</loc></url></urlset>"), "is no sitemap"),
        (Page(b""), "no element found"),
        (Page(LAUGHS), "is no sitemap: DTDForbidden"),
        (Page(THEFT), "is no sitemap: DTDForbidden"),
        (Page(gzip.compress(b"<urlset></urlset>")[:-9]), "cannot be unpacked"),
        (Page(gzip.compress(b" " * (50 * 2**20 + 1))), "is longer than 50 MiB"),
    ],
)
def test_a_sitemap_that_cannot_be_read_is_an_error(site: Site, sitemap: Page, said: str) -> None:
    site.pages["/sitemap.xml"] = sitemap
    source = pages(sitemap=f"{site.url}/sitemap.xml")
    with pytest.raises(UserError, match=rf"source\.sitemap: .*{said}"):
        source.check()
    with pytest.raises(SourceError, match=said):
        list(source.list())


def test_one_bad_sitemap_of_many_fails_the_listing(site: Site) -> None:
    site.pages["/a.md"] = Page()
    site.sitemap("/a.md", path="/good.xml")
    index = site.sitemap("/good.xml", "/gone.xml", path="/index.xml", of="sitemap")
    with pytest.raises(SourceError, match=r"gone\.xml answered 404"):
        list(pages(sitemap=index).list())


@pytest.mark.parametrize("named", [["/a.md", "/b.md"], []], ids=["all fail", "there are none"])
def test_where_no_page_can_be_read_there_is_no_listing(site: Site, named: list[str]) -> None:
    with pytest.raises(SourceError, match=r"not one page of .*sitemap\.xml could be read"):
        list(pages(sitemap=site.sitemap(*named)).list())


def test_a_server_that_is_not_there_is_an_error(site: Site, nobody: str) -> None:
    site.pages["/a.md"] = Page()
    for config in (
        {"sitemap": f"{nobody}/sitemap.xml"},
        {"urls": [f"{nobody}/a.md"]},
    ):
        source = pages(**config)
        with pytest.raises(UserError, match=f"{nobody}.* cannot be reached"):
            source.check()
        with pytest.raises(SourceError, match=f"{nobody}.* cannot be reached"):
            list(source.list())
    with pytest.raises(SourceError, match=f"{nobody}/b.md cannot be reached"):
        list(pages(urls=[f"{site.url}/a.md", f"{nobody}/b.md"]).list())
    with pytest.raises(DocumentError, match="cannot be reached"):
        source.load(Ref(f"{nobody}/a.md", "1"))


def test_a_server_that_does_not_answer_in_time_is_an_error(site: Site) -> None:
    answer = threading.Event()
    site.pages["/a.md"] = Page(before=lambda: answer.wait(60))
    source = HttpSource(None, [f"{site.url}/a.md"], ["**"], [], {}, read_seconds=0.05)
    with pytest.raises(SourceError, match=r"a\.md cannot be reached: timed out"):
        list(source.list())
    answer.set()


def test_a_page_is_read_where_it_was_moved_to_under_its_old_name(site: Site) -> None:
    site.pages = {
        "/old.md": Page(status=301, headers={"Location": "/new.md"}),
        "/new.md": Page(b"# Moved\n\ntext", headers={"ETag": '"1"'}),
    }
    source = pages(urls=[f"{site.url}/old.md"])
    (ref,) = source.list()
    assert ref.version == '"1"'
    page = source.load(ref)
    assert (page.id, page.uri, page.title) == (ref.id, ref.id, "Moved")
    assert (page.version, page.text, page.format) == ('"1"', "# Moved\n\ntext", "markdown")


def test_headers_are_sent_to_their_own_site_and_nowhere_else(site: Site, elsewhere: Site) -> None:
    elsewhere.pages = {"/moved.md": Page(), "/linked.md": Page()}
    location = {"Location": f"{elsewhere.url}/moved.md"}
    site.pages = {"/a.md": Page(), "/b.md": Page(status=302, headers=location)}
    sitemap = site.sitemap("/a.md", "/b.md", f"{elsewhere.url}/linked.md")
    source = pages(sitemap=sitemap, headers={"X-Key": "hush\n"})
    for ref in source.list():
        source.load(ref)
    assert {headers.get("x-key") for headers in site.headers} == {"hush"}
    assert {headers.get("x-key") for headers in elsewhere.headers} == {None}
    assert {headers["user-agent"] for headers in site.headers} == {"agent-pipelines"}


def test_a_header_that_cannot_be_sent_is_refused_without_being_shown() -> None:
    for value in ("a\nb", "häh"):
        with pytest.raises(UserError, match=r"source\.headers 'X-Key'") as failure:
            pages(urls=["http://x/"], headers={"X-Key": value})
        assert value not in str(failure.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "either `sitemap` or `urls`"),
        ({"sitemap": "http://x/s.xml", "urls": ["http://x/"]}, "either `sitemap` or `urls`"),
        ({"sitemap": "x/s.xml"}, "'x/s.xml' is not the URL of a page"),
        ({"urls": ["http://x/", "file:///etc/passwd"]}, "'file:///etc/passwd' is not the URL"),
        ({"urls": ["http://me:hush@x/"]}, "the URL at x holds a user"),
    ],
)
def test_what_names_no_pages_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        pages(**config)
