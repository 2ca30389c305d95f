"""What the harness and a driver say to each other: one JSON object a line, a request, an answer.

Belongs here: the loop that every driver runs, and what all of them must do alike. Does not belong
here: anything of one contender. Standard library only: it runs in every contender's environment.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

#: More than a chunk, so that a splitter loads before the clock starts what it loads at first use.
WARM_UP = "This sentence is cut before the clock starts. " * 50


class Driver(Protocol):
    """One contender, as the harness drives it. Every method answers with a JSON object."""

    def open(self, **config: Any) -> dict[str, Any]:
        """Connect and load the model, before any clock runs."""
        ...

    def sync(self, folder: str) -> dict[str, Any]:
        """Bring the store in step with the folder: the one call that is measured."""
        ...

    def expected(self, *, folder: str, file: str, tokens: int, model: str) -> dict[str, Any]:
        """Write every [document id, text] that the store should hold, from the files alone.

        Asked of a process of its own, which was never opened.
        """
        ...

    def vectors(self, texts: Sequence[str]) -> dict[str, Any]:
        """The texts' vectors, as this contender computes them."""
        ...


def serve(driver: object) -> None:
    """Answer requests until standard input ends."""
    # Libraries print what they like: only answers may reach the harness.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            method = getattr(driver, request.pop("do"))
            started = time.perf_counter()
            answer = method(**request)
            seconds = time.perf_counter() - started
            answers.write(json.dumps({**answer, "seconds": seconds}) + "\n")
            answers.flush()


def documents(folder: str) -> Iterator[tuple[str, str]]:
    """Every file below the folder: its path there, which is its document's id, and its text."""
    root = Path(folder)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def write_expected(file: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What `expected` answers once the pairs are known."""
    Path(file).write_text(json.dumps(pairs), encoding="utf-8")
    return {"chunks": len(pairs)}


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of these packages."""
    return {package: importlib.metadata.version(package) for package in packages}
