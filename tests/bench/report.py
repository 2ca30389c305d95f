"""Results as people read them: a table in the terminal, Markdown, and JSON for programs.

Belongs here: turning results into text. Does not belong here: getting them, or the picture
(`picture.py`).
"""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Group
from rich.text import Text

from agent_pipelines.errors import UserError
from agent_pipelines.terminal import table
from tests.bench.contenders import CONTENDERS
from tests.bench.phases import PHASES, Result

PHASE_TITLES = {phase.name: phase.title for phase in PHASES}

COLUMNS = (
    *("phase", "indexer", "seconds", "s/1k chunks", "CPU s", "Weaviate's"),
    *("peak MB", "embedded", "chunks", "store", "found"),
)

BACKENDS = {
    "torch": "PyTorch, the peers' default",
    "openvino": "OpenVINO, our default, given to all",
    "stand-in": "a stand-in that costs nothing",
}

#: What a reader must know to judge the numbers.
NOTES = (
    "Inside the clock: listing and reading the files, cutting, embedding, writing, and the "
    "indexer's own books. Outside, for all alike: starting the process, connecting, loading the "
    "model.",
    "Every phase is a fresh process; every indexer has a fresh Weaviate. The store is read and "
    "compared by the harness, text by text, with what the indexer's own splitter makes of the "
    "files.",
    "Chunks are at most 200 tokens without overlap, cut by the splitter that each documentation "
    "names, and so differ in number: compare per 1,000 chunks.",
    "CPU seconds are the process's own, then its Weaviate's; memory is the process's peak RSS, "
    "with whatever it had loaded before.",
    "`found`: of the texts that should be in the store, half of them in documents that the phase "
    "changed, those that a search for their own vector has among the ten nearest.",
)


def document(results: Sequence[Result], extras: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    """Everything measured, with what it was measured on; JSON-able."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": _machine(),
        "notes": list(NOTES),
        "results": [asdict(result) for result in results],
        **extras,
    }


def groups(results: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Results by what may be compared: one corpus, one set of embedder backends."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault((result["corpus"], result["backend"]), []).append(result)
    return found


def shown(measured: dict[str, Any]) -> Group:
    """The tables, for a terminal."""
    tables: list[Any] = []
    for (corpus, backend), results in groups(measured["results"]).items():
        rows = [
            [Text(cell, style=_style(result)) for cell in _row(result)]
            for result in _in_order(results)
        ]
        tables.append(table(COLUMNS, rows, title=_title(corpus, backend)))
    for title, columns, rows_ in extra_tables(measured):
        tables.append(table(columns, rows_, title=title))
    return Group(*tables)


def markdown(measured: dict[str, Any]) -> str:
    """The same as Markdown, with notes and the evidence for what was wrong."""
    machine = measured["machine"]
    lines = [
        f"Measured {measured['measured_at']}{' (quick)' if measured['quick'] else ''} on "
        f"{machine['cpus']} × {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, load {machine['load']} at the end.",
        "",
        *(f"- {note}" for note in measured["notes"]),
        *_versions(measured["results"]),
        "",
    ]
    for (corpus, backend), results in groups(measured["results"]).items():
        lines += [f"### {_title(corpus, backend)}", "", *_markdown_table(COLUMNS, results)]
        lines += [evidence for result in _in_order(results) if (evidence := _evidence(result))]
        lines += ["", *_parts(results), ""]
    for title, columns, rows in extra_tables(measured):
        lines += [f"### {title}", "", _cells(columns), _cells(["---"] * len(columns))]
        lines += [*map(_cells, rows), ""]
    return "\n".join(lines)


def extra_tables(
    measured: dict[str, Any],
) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, columns and rows of what is measured of ours alone."""
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = []
    if no_op := measured.get("no-op"):
        tables.append(
            (
                f"a sync that finds nothing changed, {no_op['chunks']:,} chunks",
                ("what", "wall s", "CPU s"),
                [[r["what"], _number(r["wall"]), _number(r["cpu"])] for r in no_op["rows"]],
            )
        )
    if pace := measured.get("pace"):
        alone = " / ".join(map(_number, pace["alone"]))
        tables.append(
            (
                f"the pace of a cold sync beside that of the model alone, {pace['texts']:,} texts",
                ("the model alone s, before / after", "sync s", "share", "target"),
                [[alone, _number(pace["sync"]), f"{pace['share']:.1%}", f"≥ {pace['target']:.0%}"]],
            )
        )
    if looks := measured.get("looks"):
        target = looks["targets"]
        tables.append(
            (
                f"looking whether an index is true; targets: tick ≤ {target['tick']} s, audit "
                f"≤ {target['audit']} s",
                ("chunks", "tick s", "of which listing s", "audit s", "CPU s", "Weaviate's"),
                [
                    [
                        f"{row['chunks']:,}",
                        *map(_number, (row["tick"], row["listing"], row["audit"])),
                        *map(_number, (row["audit_cpu"], row["store_cpu"])),
                    ]
                    for row in looks["rows"]
                ],
            )
        )
    if memory := measured.get("memory"):
        tables.append(
            (
                f"memory of a cold sync of {memory['chunks']:,} chunks, 16 dimensions",
                ("RSS before MB", "peak RSS MB", "beyond MB", "target MB", "wall s"),
                [
                    [
                        f"{memory['before_mb']:.0f}",
                        f"{memory['peak_mb']:.0f}",
                        f"{memory['peak_mb'] - memory['before_mb']:.0f}",
                        f"≤ {memory['target_mb']}",
                        f"{memory['wall']:.0f}",
                    ]
                ],
            )
        )
    return tables


def line(result: Result) -> str:
    """One phase in a line, as it is done."""
    values = asdict(result)
    if result.cost is None:
        return f"{PHASE_TITLES[result.phase]}: failed: {result.failed}"
    return (
        f"{PHASE_TITLES[result.phase]}: {result.cost.wall_seconds:,.2f} s, "
        f"{result.embedded:,} embedded, store {store_of(values)}"
    )


def read(file: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        UserError: it is not there, or is something else.
    """
    try:
        measured: dict[str, Any] = json.loads(file.read_text("utf-8"))
        measured["results"], measured["machine"], measured["measured_at"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--redraw {file} cannot be read as results: {type(error).__name__}: {error}",
            remedy="name a bench.json that this command wrote",
        ) from error
    return measured


def write(measured: dict[str, Any], folder: Path) -> None:
    """`bench.json` and `bench.md` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    (folder / "bench.md").write_text(markdown(measured), encoding="utf-8")


def store_of(result: dict[str, Any]) -> str:
    """`right`, or what is wrong with the store."""
    truth = result["truth"]
    if truth is None:
        return "failed"
    wrong = [
        f"{truth[key]:,} {word}"
        for key, word in (
            ("missing", "missing"),
            ("extra", "extra"),
            ("duplicates", "duplicate"),
            ("ids_twice", "ids twice"),
        )
        if truth[key]
    ]
    return "WRONG: " + ", ".join(wrong) if wrong else "right"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _in_order(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    phases, contenders = list(PHASE_TITLES), list(CONTENDERS)
    return sorted(
        results, key=lambda r: (phases.index(r["phase"]), contenders.index(r["contender"]))
    )


def _row(result: dict[str, Any]) -> list[str]:
    start = [PHASE_TITLES[result["phase"]], CONTENDERS[result["contender"]].title]
    cost, truth = result["cost"], result["truth"]
    if cost is None or truth is None:
        return [*start, *["–"] * (len(COLUMNS) - 4), "failed", "–"]
    return [
        *start,
        f"{cost['wall_seconds']:,.2f}",
        f"{1000 * cost['wall_seconds'] / truth['wanted']:.2f}",
        f"{cost['cpu_seconds']:,.1f}",
        f"{cost['store_cpu_seconds']:,.1f}",
        f"{cost['rss_peak_mb']:,.0f}",
        f"{result['embedded']:,}",
        f"{truth['held']:,}",
        store_of(result),
        f"{truth['found']}/{truth['probes']}",
    ]


def _evidence(result: dict[str, Any]) -> str | None:
    title = f"{CONTENDERS[result['contender']].title}, {PHASE_TITLES[result['phase']]}"
    if result["failed"]:
        return f"\n{title}: failed.\n\n```\n{result['failed']}\n```"
    said = store_of(result)
    if said == "right":
        return None
    some = {what: result["truth"][f"{what}_documents"] for what in ("missing", "extra")}
    documents = "; ".join(
        f"{what} in {', '.join(f'`{name}`' for name in names)}, …"
        for what, names in some.items()
        if names
    )
    return f"\n{title}: {said} ({documents}). It reported {json.dumps(result['reported'])}."


def _versions(results: list[dict[str, Any]]) -> list[str]:
    by_contender = {result["contender"]: result["versions"] for result in results}
    return [
        f"- {CONTENDERS[name].title}: {', '.join(f'{p} {v}' for p, v in versions.items())}."
        for name, versions in by_contender.items()
        if versions
    ]


def _parts(results: list[dict[str, Any]]) -> list[str]:
    """Where a call's seconds went, as far as its contender can tell."""
    return [
        f"- {CONTENDERS[result['contender']].title}, {PHASE_TITLES[result['phase']]}, of which: "
        + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in result["parts"].items())
        for result in _in_order(results)
        if result["parts"]
    ]


def _style(result: dict[str, Any]) -> str:
    if store_of(result) != "right":
        return "red"
    return "bold" if result["contender"] == "ours" else ""


def _title(corpus: str, backend: str) -> str:
    return f"{corpus}, embedder: {BACKENDS[backend]}"


def _markdown_table(columns: Sequence[str], results: list[dict[str, Any]]) -> list[str]:
    return [
        _cells(columns),
        _cells(["---"] * len(columns)),
        *(_cells(_row(result)) for result in _in_order(results)),
    ]


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or "CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
