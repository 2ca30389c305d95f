"""The long descriptions (READMEs) of the installed Python distributions.

Belongs here: the default corpus, real text that every machine has once this is installed; it
changes when a package is upgraded, so it can really go stale.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email import message_from_string
from pathlib import Path
from typing import Literal

from agent_pipelines.indexing import extraction
from agent_pipelines.indexing.sources import (
    Document,
    DocumentError,
    Ref,
    Source,
    SourceConfig,
    SourceError,
)


class Distributions(SourceConfig):
    """The READMEs of the Python distributions installed beside this program."""

    kind: Literal["distributions"]

    def open(self, folder: Path) -> Source:
        """The source; `folder` does not matter, distributions are where Python imports from."""
        del folder
        return DistributionsSource([Path(entry) for entry in sys.path])


class DistributionsSource:
    """Distributions found in `folders`.

    A document's id is the distribution's normalised name (PEP 503); its version is a digest of its
    metadata file. Distributions that carry no description are not documents.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def check(self) -> None:
        """Nothing to see: a program that runs has somewhere it was imported from."""

    def list(self) -> Iterator[Ref]:
        """List distributions with a description; the first on the path wins, as in an import."""
        seen: set[str] = set()
        try:
            for file in self._metadata_files():
                if (id_ := _name(file)) in seen:
                    continue
                seen.add(id_)
                data = file.read_bytes()
                if _has_description(data):
                    yield Ref(
                        id=id_,
                        version=hashlib.sha256(data).hexdigest()[:32],
                        modified_at=datetime.fromtimestamp(file.stat().st_mtime, UTC),
                    )
        except OSError as error:
            raise SourceError(f"installed distributions cannot be listed: {error}") from error

    def _metadata_files(self) -> Iterator[Path]:
        for folder in self._folders:
            if folder.is_dir():
                yield from sorted(folder.glob("*.dist-info/METADATA"))

    def load(self, ref: Ref) -> Document:
        """Read one distribution's description."""
        file = next((f for f in self._metadata_files() if _name(f) == ref.id), None)
        if file is None:
            raise DocumentError("was uninstalled while the sync ran")
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DocumentError(f"cannot be read: {error}") from error
        metadata = message_from_string(extraction.decode(data))
        description = str(metadata.get_payload() or metadata["Description"] or "")
        # The default of the core metadata specification; decoded already, whatever it says.
        media_type = (metadata["Description-Content-Type"] or "text/x-rst").partition(";")[0]
        extracted = extraction.extract(description.encode(), name=ref.id, media_type=media_type)
        return Document(
            id=ref.id,
            version=ref.version,
            text=extracted.text,
            # No version in either: an upgrade that leaves the text alone must embed nothing.
            title=metadata["Name"] or ref.id,
            uri=f"pkg:pypi/{ref.id}",
            format=extracted.format,
            metadata={
                "version": metadata["Version"] or "",
                "summary": metadata["Summary"] or "",
            },
        )


def _name(file: Path) -> str:
    # The folder is `name-version.dist-info`: the name is known without parsing the file.
    name, _, _version = file.parent.name.removesuffix(".dist-info").rpartition("-")
    return re.sub(r"[-_.]+", "-", name).lower()


def _has_description(metadata: bytes) -> bool:
    headers, _, body = metadata.replace(b"\r\n", b"\n").partition(b"\n\n")
    return bool(body.strip()) or b"\nDescription:" in headers
