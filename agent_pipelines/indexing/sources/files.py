"""Files behind any fsspec URL: a local folder, s3://, gs://, zip://…

Belongs here: listing and reading files. Does not belong here: decoding them (`extraction.py`).
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fsspec import AbstractFileSystem
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import Field

from agent_pipelines.errors import UserError
from agent_pipelines.indexing import extraction
from agent_pipelines.indexing.sources import (
    Document,
    DocumentError,
    GoneError,
    Ref,
    Source,
    SourceConfig,
    SourceError,
)
from agent_pipelines.indexing.sources.globs import matcher
from agent_pipelines.locations import anonymous, check_protocols, located, public, said

#: How a byte of a name begins in an id where the name is not UTF-8.
_ESCAPED = r"\udc"


class Files(SourceConfig):
    """Every file below a folder."""

    kind: Literal["files"]
    url: str = Field(
        description="A folder: a path (relative to this YAML's folder) or any fsspec URL.",
        examples=["../../docs", "s3://bucket/handbook", "zip://docs::../../handbook.zip"],
    )
    options: Mapping[str, Any] = Field(
        default={},
        repr=False,
        description="What fsspec is given besides the URL, such as `key`, `secret` and "
        "`endpoint_url` for s3.",
    )
    include: tuple[str, ...] = Field(
        default=tuple(f"**/*{ending}" for ending in sorted(extraction.FORMATS)),
        description="Globs of files to index; `**` crosses folders, case does not matter.",
    )
    exclude: tuple[str, ...] = Field(default=(), description="Globs of files to leave out.")

    def open(self, folder: Path) -> Source:
        """The source; a relative path is below `folder`."""
        return FilesSource(located(self.url, folder), self.include, self.exclude, self.options)


class FilesSource:
    """Files matching `include` and not `exclude` below `url`.

    A document's id is its path below `url`, so that moving the folder keeps every id. Nothing is
    opened before it is needed.
    """

    def __init__(
        self,
        url: str,
        include: Sequence[str],
        exclude: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        self._url = url
        self._shown = public(url)
        self._options = options
        self._opened: tuple[AbstractFileSystem, str] | None = None
        self._matches = matcher(include, exclude)
        check_protocols(url, "source.url")

    def _open(self) -> tuple[AbstractFileSystem, str]:
        """The file system as it is now, and where in it the folder is."""
        fs, root = url_to_fs(self._url, **self._options)
        self._opened = fs, str(root).rstrip("/")
        return self._opened

    def check(self) -> None:
        """See that the folder is there and can be listed."""
        try:
            fs, root = self._open()
            if not fs.isdir(root):
                raise NotADirectoryError("no such folder")
            fs.ls(root, detail=False)
        except Exception as error:  # every fsspec backend raises its own kinds
            raise UserError(
                f"source.url {self._shown!r} is not a folder that can be listed: "
                f"{self._said(error)}",
                remedy="correct `url` in defs.yaml (a relative path starts at that file's folder)",
            ) from error

    def list(self) -> Iterator[Ref]:
        """List matching files; a missing root is an error, never an empty listing."""
        try:
            # What an archive held when it was opened, or a cached listing (object stores keep
            # one), would hide the very change we look for.
            fs, root = self._open()
            fs.invalidate_cache()
            if not fs.isdir(root):
                raise SourceError(f"{self._shown} does not exist or is not a folder")
            yield from self._refs(fs, root)
        except SourceError:
            raise
        except Exception as error:  # every fsspec backend raises its own kinds
            raise SourceError(f"{self._shown} cannot be listed: {self._said(error)}") from error

    def _refs(self, fs: AbstractFileSystem, root: str) -> Iterator[Ref]:
        # fsspec's find() and walk() pass over subfolders that they may not read, whatever
        # `on_error` says: their documents would seem to be gone.
        folders = [root]
        while folders:
            folder = folders.pop()
            for info in _entries(fs, folder):
                name = str(info["name"]).rstrip("/")
                if info["type"] == "directory":
                    folders += [name] if name != folder else []
                    continue
                path = name.removeprefix(root).lstrip("/")
                if self._matches(path):
                    # A name that is not UTF-8 cannot be stored as an id: it becomes one that
                    # cannot be read, a failure of this document alone.
                    id_ = path.encode("utf-8", "backslashreplace").decode()
                    yield Ref(id_, _version(info), _modified_at(info))

    def load(self, ref: Ref) -> Document:
        """Read and decode one file."""
        try:
            fs, root = self._opened or self._open()
            data: bytes = fs.cat_file(f"{root}/{ref.id}")
        except FileNotFoundError as error:
            # What has a name that cannot be an id is there, under that other name.
            if _ESCAPED in ref.id:
                raise DocumentError(f"cannot be read: {self._said(error)}") from error
            raise GoneError("was deleted after it was listed") from error
        except Exception as error:  # every fsspec backend raises its own kinds
            raise DocumentError(f"cannot be read: {self._said(error)}") from error
        extracted = extraction.extract(data, name=ref.id)
        return Document(
            id=ref.id,
            version=ref.version,
            text=extracted.text,
            title=extracted.title or ref.id,
            uri=self._uri(fs, f"{root}/{ref.id}"),
            format=extracted.format,
            metadata=extracted.metadata,
        )

    def _said(self, error: BaseException) -> str:
        return said(error, self._url)

    def _uri(self, fs: AbstractFileSystem, path: str) -> str:
        uri = anonymous(fs.unstrip_protocol(path))
        if not isinstance(fs, AbstractArchiveFileSystem):
            return uri
        # The file system does not say in which archive it is.
        place = self._shown.partition("::")[2]
        return f"{uri}::{place if '://' in place else f'file://{place}'}"


def _entries(fs: AbstractFileSystem, folder: str) -> Iterator[dict[str, Any]]:
    if not isinstance(fs, LocalFileSystem):
        yield from fs.ls(folder, detail=True)
        return
    # As its ls() does it, without holding a folder of a million files in memory.
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                info: dict[str, Any] = fs.info(entry)
            except FileNotFoundError:  # deleted since
                continue
            yield info


def _version(info: dict[str, Any]) -> str:
    for key in ("etag", "ETag", "md5Hash", "sha256"):
        if info.get(key):
            return str(info[key]).strip('"')
    modified = info.get("mtime") or info.get("LastModified")
    if modified:
        return f"{modified}:{info.get('size')}"
    # Size alone would hide an edit that keeps it. Whatever else the backend says of a file (an
    # archive its checksum, another one a date under some other name) changes with it.
    said = repr(sorted((key, repr(value)) for key, value in info.items() if key != "name"))
    return hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _modified_at(info: dict[str, Any]) -> datetime | None:
    modified = info.get("mtime", info.get("LastModified"))
    if isinstance(modified, datetime):
        return modified if modified.tzinfo else None
    if isinstance(modified, int | float):
        return datetime.fromtimestamp(modified, UTC)
    return None
