"""What a source is. One file beside this one per kind.

Belongs here: the protocol between a source and the sync. Does not belong here: a kind of source,
or turning bytes into text (`extraction.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class SourceError(Exception):
    """The source could not be listed to its end. Never expressed as a shorter listing."""


class DocumentError(Exception):
    """One document could not be read or holds no usable text; the others are not affected."""


class GoneError(DocumentError):
    """It was deleted after it was listed, which is no failure: the next listing will say so."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A document as the listing sees it, without reading it.

    `version` changes whenever the content may have changed (etag, digest, or mtime and size).
    `modified_at` is the source's own idea of when; None where it has none.
    """

    id: str
    version: str
    modified_at: datetime | None = None


@dataclass(frozen=True)
class Document:
    """One document's text, ready to be split into chunks."""

    id: str
    version: str
    text: str
    title: str
    uri: str
    format: str
    """`markdown` or `text`: decides how the text is split."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What searches can be filtered by; no key holds a `=`."""

    def __post_init__(self) -> None:
        for key in self.metadata:
            if "=" in key or not key:
                raise DocumentError(f"metadata key {key!r} is empty or holds a '='")


class Source(Protocol):
    """Where documents come from."""

    def check(self) -> None:
        """See that it can be reached at all, before anything is started.

        Raises:
            UserError: it cannot as configured; the message says what to change.
        """
        ...

    def list(self) -> Iterator[Ref]:
        """List every document cheaply, one after the other.

        A listing that ends is complete: whatever keeps a source from seeing everything is raised,
        at the latest where the listing would end.

        Raises:
            SourceError: while iterating; nothing may be concluded from what came before it.
        """
        ...

    def load(self, ref: Ref) -> Document:
        """Read one document. Called from several threads at once.

        Raises:
            GoneError: it is not there any more.
            DocumentError: it cannot be read, or holds no usable text.
        """
        ...


class SourceConfig(BaseModel, ABC):
    """The YAML of one kind of source.

    One that stands beside this file has a field `kind: Literal["…"]`; one in any other package
    needs none, it is named by its path: `kind: my_package.my_module.MySource`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def open(self, folder: Path) -> Source:
        """The source; relative paths are below `folder`, where the YAML stands."""
