"""A source's listing, kept out of memory while it is compared.

Belongs here: holding what a source lists, in order of id, and its digest. Does not belong here:
what the listing means for an index (`plan.py`).
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime

from agent_pipelines.indexing.partition import WHOLE, Partition, bucket_of
from agent_pipelines.indexing.sources import Ref, SourceError

#: Longer ids cannot be stored; longer versions are, as a digest.
_MAX_ID, _MAX_VERSION = 1024, 255


class Listing:
    """Everything a source lists now. Use it as a context manager: it may be a temporary file.

    Raises:
        SourceError: the source could not be listed to its end, or it names a document twice.
    """

    def __init__(self, refs: Iterable[Ref]) -> None:
        # The empty name is SQLite's private temporary database: in memory while it is small, and
        # deleted when it is closed, be it by the end of the process.
        self.database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = OFF")
        self.database.execute(
            "CREATE TABLE listed (id TEXT PRIMARY KEY, version TEXT, modified_at TEXT, "
            "bucket INTEGER) WITHOUT ROWID"
        )
        last = ""

        def rows() -> Iterator[tuple[str, str, str | None, int]]:
            nonlocal last
            for ref in refs:
                last = ref.id
                modified_at = ref.modified_at.isoformat() if ref.modified_at else None
                if len(ref.id) > _MAX_ID:
                    raise SourceError(
                        f"the id {ref.id[:60]}… has {len(ref.id)} characters, more than {_MAX_ID}"
                    )
                yield ref.id, _short(ref.version), modified_at, bucket_of(ref.id)

        try:
            self.database.execute("BEGIN")
            self.database.executemany("INSERT INTO listed VALUES (?, ?, ?, ?)", rows())
            self.database.execute("COMMIT")
        except BaseException as error:
            self.database.close()
            if isinstance(error, sqlite3.IntegrityError):
                raise SourceError(f"the listing names a document twice: {last}") from error
            if isinstance(error, UnicodeEncodeError):
                raise SourceError(f"the id {last!r} or its version is not text") from error
            raise

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def __len__(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM listed").fetchone()[0])

    def refs(self, partition: Partition = WHOLE) -> Iterator[Ref]:
        """What is listed, in order of id."""
        return refs_in(
            self.database,
            "SELECT id, version, modified_at FROM listed WHERE bucket % ? = ? ORDER BY id",
            (partition.of, partition.number),
        )

    def digest(self, partition: Partition = WHOLE) -> str:
        """SHA-256 over every document's id and version, in order of id."""
        digest = hashlib.sha256()
        for ref in self.refs(partition):
            digest.update(f"{ref.id}\0{ref.version}\n".encode())
        return digest.hexdigest()


def _short(version: str) -> str:
    return version if len(version) <= _MAX_VERSION else hashlib.sha256(version.encode()).hexdigest()


def refs_in(database: sqlite3.Connection, query: str, values: tuple[int, ...]) -> Iterator[Ref]:
    """The documents a query finds; its columns are id, version and modified_at."""
    for id_, version, modified_at in database.execute(query, values):
        yield Ref(id_, version, datetime.fromisoformat(modified_at) if modified_at else None)
