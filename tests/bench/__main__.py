"""`python -m tests.bench`: our incremental indexer and its peers, side by side, in one run.

Belongs here: the command line and the order of the parts. Does not belong here: how anything is
measured.
"""

import signal
import sys
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from agent_pipelines.errors import UserError
from agent_pipelines.settings import Settings
from agent_pipelines.terminal import waiting
from tests.bench import corpora, looks, memory, no_op, pace, picture, report
from tests.bench.contenders import CONTENDERS
from tests.bench.corpora import Corpus, Say
from tests.bench.phases import Result, Run
from tests.bench.process import DriverError

_PICTURE = Path(__file__).parents[2] / "deploy" / "pictures" / "bench.png"

#: Documents of the generated corpus, ten chunks each.
_DOCUMENTS = 10_000

#: Of the manuals every second document is taken: ten thousand chunks, of the peers' as of ours.
_EVERY = 2

#: What `--quick` leaves of everything: one in ten.
_QUICK = 10


class Part(StrEnum):
    """What can be measured alone."""

    DOCS = "docs"
    SYNTHETIC = "synthetic"
    NO_OP = "no-op"
    PACE = "pace"
    LOOKS = "looks"
    MEMORY = "memory"


class Name(StrEnum):
    """Who can be measured alone."""

    OURS = "ours"
    LANGCHAIN = "langchain"
    LLAMAINDEX = "llamaindex"


app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
console = Console(stderr=True)


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of everything: minutes instead of hours.")
    ] = False,
    only: Annotated[
        list[Part] | None,
        typer.Option(help="Measure this part alone; may be given several times."),
    ] = None,
    contenders: Annotated[
        list[Name] | None,
        typer.Option("--contender", help="Take this indexer alone; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for bench.json, bench.md and bench.png; default: .agent-pipelines/bench. "
            "A whole run's picture becomes deploy/pictures/bench.png as well."
        ),
    ] = None,
    redraw: Annotated[
        Path | None,
        typer.Option(metavar="BENCH.JSON", help="Measure nothing; show and draw these results."),
    ] = None,
) -> None:
    """Compare our incremental vector indexer with LangChain's and LlamaIndex's.

    Each keeps a Weaviate of its own in step with the same files: **cold**, with **nothing
    changed**, with **1 % of the documents edited**, and with **10 % deleted**. After each phase
    the harness reads the whole store and compares it with the files. Parts:

    - **docs**: every second page of PostgreSQL's and git's manuals (Debian packages, downloaded
      once), embedded with all-MiniLM-L6-v2 on the CPU: with PyTorch, as the peers' users do, and
      again all of them with OpenVINO, which is our default.
    - **synthetic**: 100,000 chunks of generated text and an embedder that costs nothing, to see
      what the indexers themselves cost.
    - **no-op**: what our whole command costs when nothing changed, and our engine's share of it.
    - **pace**: how much of the model's own pace our first sync reaches, on the manuals.
    - **looks**: what a tick and an audit of our signals cost at 10,000 and at 100,000 chunks.
    - **memory**: what our sync needs for 1,000,000 chunks.

    The peers are installed by uv into environments of their own in the cache directory. Nothing
    stays behind but those, the corpora and the results.

    Measure on a machine that does nothing else: on two cores a whole run takes about two hours,
    a `--quick` one half an hour.
    """
    folder = out or Settings().state_dir / "bench"
    if redraw is not None:
        measured = report.read(redraw)
    else:
        parts = only or list(Part)
        names = contenders or list(Name)
        try:
            measured = _measure(parts, names, quick, folder)
        except KeyboardInterrupt:
            console.print(f"interrupted; what was measured until then is in {folder}")
            raise
        if not (quick or only or contenders):
            picture.draw(measured, _PICTURE)
    if measured["results"]:
        picture.draw(measured, folder / "bench.png")
    results = Console()
    # In a file or a pipe a table may be as wide as it is.
    (results if results.is_terminal else Console(width=140)).print(report.shown(measured))
    console.print(f"results: {folder}")


def _measure(parts: list[Part], names: list[Name], quick: bool, folder: Path) -> dict[str, Any]:
    """Measure and write after every step, so that an interrupted run keeps what it has."""
    cache_dir = Settings().cache_dir
    divisor = _QUICK if quick else 1
    results: list[Result] = []
    extras: dict[str, Any] = {}

    def keep() -> dict[str, Any]:
        measured = report.document(results, extras, quick=quick)
        report.write(measured, folder)
        return measured

    with waiting(console, "corpora:") as say:
        generated = _generated(parts, divisor, say)
        runs: list[tuple[Corpus, str, int]] = []
        every = _QUICK if quick else _EVERY
        if {Part.DOCS, Part.PACE} & set(parts):
            docs = corpora.docs(cache_dir, say)
        if Part.DOCS in parts:
            runs += [(docs, "torch", every), (docs, "openvino", every)]
        if Part.SYNTHETIC in parts and generated:
            runs.append((generated, "stand-in", 1))
    for corpus, backend, every in runs:
        for name in names:
            contender = CONTENDERS[name]
            with waiting(console, f"{corpus.name}, {contender.title}:") as say:
                run = Run(contender, corpus, backend, every=every, cache_dir=cache_dir, say=say)
                with closing(run.results()) as phases:  # on Ctrl-C, too, everything is ended
                    for result in phases:
                        results.append(result)
                        keep()
                        console.print(f"  {report.line(result)}", markup=False, highlight=False)
    if Part.NO_OP in parts and generated:
        with waiting(console, "no-op:") as say:
            extras["no-op"] = no_op.measure(generated, cache_dir, say)
    if Part.PACE in parts:
        with waiting(console, "pace:") as say:
            extras["pace"] = pace.measure(docs, every, cache_dir, say)
    if Part.LOOKS in parts:
        with waiting(console, "looks:") as say:
            extras["looks"] = looks.measure(looks.CHUNKS // divisor, cache_dir, say)
    if Part.MEMORY in parts:
        with waiting(console, "memory:") as say:
            extras["memory"] = memory.measure(memory.CHUNKS // divisor, cache_dir, say)
    return keep()


def _generated(parts: list[Part], divisor: int, say: Say) -> Corpus | None:
    if not {Part.SYNTHETIC, Part.NO_OP} & set(parts):
        return None
    return corpora.synthetic_corpus(Settings().cache_dir, _DOCUMENTS // divisor, say)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> None:
    """The entry point: one clear message for what a person can put right."""
    # Whoever says SIGTERM means Ctrl-C; and a shell's background job ignores SIGINT.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except UserError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except DriverError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
