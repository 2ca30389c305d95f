"""Files behind any fsspec URL: a local folder, s3://, gs://, zip://…

Belongs here: listing and reading files. Does not belong here: decoding them (`extraction.py`).
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fsspec.core import url_to_fs
from fsspec.utils import glob_translate
from pydantic import Field

from agent_pipelines.errors import UserError
from agent_pipelines.indexing import extraction
from agent_pipelines.indexing.sources import (
    Document,
    DocumentError,
    Ref,
    Source,
    SourceConfig,
    SourceError,
)


class Files(SourceConfig):
    """Every file below a folder."""

    kind: Literal["files"]
    url: str = Field(
        description="A folder: a path (relative to this YAML's folder) or any fsspec URL.",
        examples=["../../docs", "s3://bucket/handbook"],
    )
    include: tuple[str, ...] = Field(
        default=tuple(f"**/*{ending}" for ending in sorted(extraction.FORMATS)),
        description="Globs of files to index; `**` crosses folders.",
    )
    exclude: tuple[str, ...] = Field(default=(), description="Globs of files to leave out.")

    def open(self, folder: Path) -> Source:
        """The source; a relative path is below `folder`."""
        if "://" in self.url or "::" in self.url:
            return FilesSource(self.url, self.include, self.exclude)
        path = (folder / Path(self.url).expanduser()).resolve()
        return FilesSource(str(path), self.include, self.exclude)


class FilesSource:
    """Files matching `include` and not `exclude` below `url`.

    A document's id is its path below `url`, so that moving the folder keeps every id.
    """

    def __init__(self, url: str, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._url = url
        try:
            self._open()
        except (ImportError, ValueError) as error:
            raise UserError(
                f"source.url {url!r} cannot be opened: {error}",
                remedy="use a path or an fsspec URL, and install the package it names",
            ) from error
        self._include = _regex(include)
        self._exclude = _regex(exclude)

    def _open(self) -> None:
        self._fs, root = url_to_fs(self._url)
        self._root = str(root).rstrip("/")

    def check(self) -> None:
        """See that the folder is there and can be listed."""
        try:
            self._open()
            if not self._fs.isdir(self._root):
                raise NotADirectoryError("no such folder")
            self._fs.ls(self._root, detail=False)
        except Exception as error:  # every fsspec backend raises its own kinds
            raise UserError(
                f"source.url {self._url!r} is not a folder that can be listed: {error}",
                remedy="correct `url` in defs.yaml (a relative path starts at that file's folder)",
            ) from error

    def list(self) -> Iterator[Ref]:
        """List matching files; a missing root is an error, never an empty listing."""
        try:
            # What an archive held when it was opened, or a cached listing (object stores keep
            # one), would hide the very change we look for.
            self._open()
            self._fs.invalidate_cache()
            if not self._fs.isdir(self._root):
                raise SourceError(f"{self._url} does not exist or is not a folder")
            yield from self._refs()
        except SourceError:
            raise
        except Exception as error:  # every fsspec backend raises its own kinds
            raise SourceError(f"{self._url} cannot be listed: {error}") from error

    def _refs(self) -> Iterator[Ref]:
        # fsspec's find() and walk() pass over subfolders that they may not read, whatever
        # `on_error` says: their documents would seem to be gone.
        folders = [self._root]
        while folders:
            folder = folders.pop()
            for info in self._fs.ls(folder, detail=True):
                name = str(info["name"]).rstrip("/")
                if info["type"] == "directory":
                    folders += [name] if name != folder else []
                    continue
                path = name.removeprefix(self._root).lstrip("/")
                if self._include.match(path) and not self._exclude.match(path):
                    # A name that is not UTF-8 cannot be stored as an id: it becomes one that
                    # cannot be read, a failure of this document alone.
                    id_ = path.encode("utf-8", "backslashreplace").decode()
                    yield Ref(id_, _version(info), _modified_at(info))

    def load(self, ref: Ref) -> Document:
        """Read and decode one file."""
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{ref.id}")
        except Exception as error:  # every fsspec backend raises its own kinds
            raise DocumentError(f"cannot be read: {error}") from error
        extracted = extraction.extract(data, name=ref.id)
        return Document(
            id=ref.id,
            version=ref.version,
            text=extracted.text,
            title=extracted.title or ref.id,
            uri=self._fs.unstrip_protocol(f"{self._root}/{ref.id}"),
            format=extracted.format,
            metadata=extracted.metadata,
        )


def _regex(globs: Sequence[str]) -> re.Pattern[str]:
    # `(?!)` matches nothing: no globs, no files.
    return re.compile("|".join(f"(?:{glob_translate(glob)})" for glob in globs) or r"(?!)")


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
