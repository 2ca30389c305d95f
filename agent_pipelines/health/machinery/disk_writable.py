"""The disk: a full or read-only one stops Weaviate, the state database and Dagster alike."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from agent_pipelines.health.machine import Machinery
from agent_pipelines.health.signal import Reading, Signal, holds

#: Bytes that must be free: what a large sync writes between two ticks, with room to clean up.
FREE = 512 * 2**20


@dataclass(frozen=True)
class Disk:
    """What a canary file and the file system said."""

    free: int
    """Bytes that this process may still write."""
    error: str | None = None
    """Why the canary could not be written, or did not read back."""


def judge(disk: Disk, folder: Path) -> Reading:
    """Judge what the folder's disk did with a canary."""
    expected = f"a file written to {folder} reads back, and {FREE // 2**20} MiB are free"
    if disk.error is not None:
        return holds(False, disk.error, expected)
    return holds(disk.free >= FREE, f"{disk.free // 2**20:,} MiB free", expected)


def look(folder: Path) -> Disk:
    """Write a canary file down to the disk, read it back, and remove it."""
    wrote = uuid4().bytes
    canary = folder / f".canary-{os.getpid()}"
    free, error = 0, None
    try:
        free = shutil.disk_usage(folder).free
        with open(canary, "wb") as file:
            file.write(wrote)
            file.flush()
            os.fsync(file.fileno())
        if canary.read_bytes() != wrote:
            error = "the canary file does not hold what was written"
    except OSError as failure:
        error = f"{type(failure).__name__}: {failure}"
    try:
        canary.unlink(missing_ok=True)
    except OSError as failure:
        error = error or f"{type(failure).__name__}: {failure}"
    return Disk(free, error)


SIGNAL: Signal[Machinery] = Signal(
    name="disk_writable",
    statement="the state directory takes a file, gives it back, and has room",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="The disk of the state directory is full, read-only or broken. Weaviate turns "
    "read-only shortly before it is full, and the state database fails with it. Make room (old "
    "logs in `logs/`, other data on that disk), or move AGENT_PIPELINES_STATE_DIR to a larger one; "
    "what was interrupted is finished by the next sync.",
    evaluate=lambda view: judge(look(view.state_dir), view.state_dir),
)
