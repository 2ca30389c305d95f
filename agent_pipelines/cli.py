"""The command line: `agent-pipelines run | dev | sync | rollback | search | batch | api | …`.

Belongs here: arguments, exit codes and what a program reads. Does not belong here: what a command
does (`commands/`), or anything a Dagster run or a sensor would need too.

Exit codes: 0 done and true; 1 something is false or failed; 2 a person must change something, or
`status` cannot tell; 130 interrupted, by Ctrl-C or SIGTERM.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from agent_pipelines.commands.api_arguments import HELP as API_HELP
from agent_pipelines.commands.tool_arguments import HELP, NAME, STDIO, ToolsGroup
from agent_pipelines.errors import UserError
from agent_pipelines.settings import Settings

if TYPE_CHECKING:
    from agent_pipelines.session import Session
    from agent_pipelines.toolservers.shell import Options

app = typer.Typer(
    help="Vector indexes that prove they are true, and batches of LLM agents that rely on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
tools_app = typer.Typer(
    cls=ToolsGroup,
    help=HELP,
    no_args_is_help=True,
    subcommand_metavar="NAME | --stdio CMD… | new",
)
app.add_typer(tools_app, name="tools")

#: For people. Standard output is for results, so that `--json` can be read by a program.
console = Console(stderr=True)

Assets = Annotated[
    Path | None,
    typer.Option(
        help="Folder of indexes and agents, instead of the packaged one.",
        envvar="AGENT_PIPELINES_ASSETS",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
IndexName = Annotated[str, typer.Argument(help="Name of the index: its folder's name.")]


@contextmanager
def _session(assets: Path | None) -> Iterator["Session"]:
    from agent_pipelines.session import open_session

    try:
        with open_session(Settings(), assets) as session:
            yield session
    except KeyboardInterrupt:
        # Said here: Typer turns it into exit code 130 before `main` could.
        console.print("interrupted; the next command continues from here")
        raise


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, default=str, indent=2))


def _finish_jobs(results: list[Any], as_json: bool) -> None:
    from agent_pipelines.commands import results as command

    if as_json:
        _print_json(
            {
                "ok": all(r.ok for r in results),
                "indexes": {r.name: r.as_json() for r in results if r.kind == "index"},
                "agents": {r.name: r.as_json() for r in results if r.kind == "agent"},
            }
        )
    else:
        command.show(Console(), results)
    if not all(r.ok for r in results):
        raise typer.Exit(1)


@app.command()
def run(assets: Assets = None, as_json: Json = False) -> None:
    """Do everything once: bring up what it takes, sync and check every index, run every agent.

    With `--json`: per index `listed`, `changed`, `embedded`, `deleted` and its checks; per agent
    its `outcomes`.
    """
    from agent_pipelines.commands import jobs

    with _session(assets) as session:
        results = jobs.run_everything(session, console)
    _finish_jobs(results, as_json)


@app.command()
def dev(
    assets: Assets = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the Dagster UI; default: one that is free.")
    ] = None,
) -> None:
    """Bring everything up, with Dagster's UI and daemon, until Ctrl-C."""
    from agent_pipelines.commands.dev import dev as bring_up

    with _session(assets) as session:
        bring_up(session, console, port)


@app.command()
def sync(
    index: IndexName,
    accept_deletions: Annotated[
        bool,
        typer.Option(
            "--accept-deletions",
            help="The listing shrank, and that is right: delete what it no longer has.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare and search for every object in the store, and repair it."
        ),
    ] = False,
    assets: Assets = None,
    as_json: Json = False,
) -> None:
    """Bring one index in step with its source, check it, and commit it."""
    from agent_pipelines.commands import jobs

    with _session(assets) as session:
        session.loaded.index(index).source.check()
        jobs.check_surroundings(session, console, [index])
        results = jobs.sync_indexes(
            session, console, [index], accept_deletions=accept_deletions, verify=verify
        )
    _finish_jobs(results, as_json)


@app.command()
def rollback(index: IndexName, assets: Assets = None, as_json: Json = False) -> None:
    """Return an index to the generation that was live before the last change of its spec.

    At once, for every reader. Syncs of the spec that was rolled back from are refused until
    defs.yaml changes; rolling back once more returns to it.
    """
    from agent_pipelines.commands import jobs

    with _session(assets) as session:
        session.loaded.index(index)
        jobs.check_surroundings(session, console, [index])
        result = jobs.roll_back(session, console, index)
    _finish_jobs([result], as_json)


@app.command()
def search(
    index: IndexName,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many hits.")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Only documents with this in their metadata, `document_id`, `uri` or `title`; "
            "`*` stands for anything. Again with the same field: either value; with another: both.",
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of vectors (1) against words (0).")
    ] = 0.5,
    assets: Assets = None,
    as_json: Json = False,
) -> None:
    """Search an index the way agents do: by words and by meaning."""
    from dataclasses import asdict

    from agent_pipelines.health.readers import CheckedSearcher
    from agent_pipelines.indexing.search import read_filters
    from agent_pipelines.terminal import STATE_STYLE, ago, waiting
    from resources.embedder import EmbedderResource
    from resources.state import StateResource
    from resources.weaviate import WeaviateResource

    filters = read_filters(where or [])
    with _session(assets) as session:
        component = session.loaded.index(index)
        with waiting(console, "Weaviate:") as say:
            session.start_weaviate(say)
        with component.open(WeaviateResource(), EmbedderResource(), StateResource()) as opened:
            searcher = CheckedSearcher({index: opened})
            found = searcher.search(index, query, limit=limit, filters=filters, alpha=alpha)
    if as_json:
        _print_json(asdict(found))
        return
    output = Console()
    for hit in found.hits:
        origin = escape(f"{hit.score:.3f}  {hit.uri}")
        output.print(f"[bold]{escape(hit.title)}[/bold]  [dim]{origin}[/dim]", highlight=False)
        output.print(hit.text.strip()[:400] + "\n", markup=False, highlight=False)
    output.print(
        f"[dim]{len(found.hits)} hits, snapshot {found.sequence} committed "
        f"{ago(found.committed_at)}, staleness {found.staleness_seconds:.0f} s, source checked "
        f"{found.checked_seconds_ago:.0f} s ago[/dim]"
    )
    for doubt in found.not_true:
        output.print(
            Text.assemble(
                f"{doubt.signal}: ", (doubt.state, STATE_STYLE[doubt.state]), f", {doubt.reason}"
            )
        )


@app.command()
def batch(
    agent: Annotated[str, typer.Argument(help="Name of the agent: its folder's name.")],
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Other tasks than the agent's own: a path or URL that ends in .jsonl (OpenAI "
            "Batch requests included), .csv or .parquet.",
        ),
    ] = None,
    rerun_failed: Annotated[
        bool,
        typer.Option(
            "--rerun-failed",
            help="Answer anew only the rows of the last finished batch whose outcome is not ok.",
        ),
    ] = False,
    assets: Assets = None,
    as_json: Json = False,
) -> None:
    """Let one agent work through its tasks.

    One that was cut off goes on where it was. With `--rerun-failed` a new batch of the same tasks
    starts with the good answers of the last one and answers the others anew; the earlier batch, its
    failed answers included, stays on record, and report and checks are of the whole.
    """
    from agent_pipelines.agents.tasks.reading import digest_of
    from agent_pipelines.commands import jobs
    from agent_pipelines.locations import located

    with _session(assets) as session:
        component = session.loaded.agent(agent)
        if rerun_failed and tasks:
            raise UserError(
                "--rerun-failed is about the tasks of the last batch, and --tasks names others",
                remedy="leave out one of the two",
            )
        if not rerun_failed:
            digest_of(component.tasks(tasks))
        jobs.check_surroundings(
            session, console, [component.spec.index] if component.spec.index else []
        )
        config: dict[str, Any] = {"tasks": located(tasks, Path.cwd())} if tasks else {}
        config |= {"rerun_failed": True} if rerun_failed else {}
        result = jobs.run_batch(session, console, agent, config)
    _finish_jobs([result], as_json)


@app.command()
def answers(
    agent: Annotated[str, typer.Argument(help="Name of the agent: its folder's name.")],
    output: Annotated[
        Path,
        typer.Option(help="File to write: .parquet, or .jsonl for OpenAI Batch output."),
    ],
    batch: Annotated[
        str | None, typer.Option(metavar="ID", help="Another batch than the agent's newest.")
    ] = None,
    assets: Assets = None,
    as_json: Json = False,
) -> None:
    """Write the answers of an agent's last batch to a file: a row per task, whatever its outcome.

    Of an agent whose tasks are split, those of all partitions. The file appears when it is whole.
    """
    from agent_pipelines.commands.answers import write_answers
    from resources.state import StateResource

    with _session(assets) as session:
        component = session.loaded.agent(agent)
        count, batches = write_answers(StateResource().engine(), component, output, batch)
    ids = [found.batch_id for found in batches]
    if as_json:
        _print_json({"rows": count, "batches": ids, "output": str(output)})
    else:
        console.print(f"{count:,} rows of {', '.join(ids)} in {output}", highlight=False)


@app.command(help=API_HELP)
def api(
    port: Annotated[int, typer.Option(help="Port of the API.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    probes_port: Annotated[
        int | None,
        typer.Option(
            help="Also serve /health, /ready and /metrics, in plain HTTP, on this port; with TLS "
            "9090 where nothing is said."
        ),
    ] = None,
    assets: Assets = None,
) -> None:
    """Answer tasks one at a time, over HTTP."""
    from agent_pipelines.api.options import ApiOptions
    from agent_pipelines.commands.api import serve_api

    options = ApiOptions.from_environment(host=host, port=port, probes_port=probes_port)
    with _session(assets) as session:
        serve_api(session, options)


@app.command()
def trace(
    batch: Annotated[
        str | None,
        typer.Argument(help="A batch's id, or an agent's name: its last batch. Default: the last."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; default: trace-BATCH.html, here.")
    ] = None,
) -> None:
    """Write a batch as one HTML page: every row, every conversation, every tool call.

    The page needs no server. Filter and order its rows (worst first), open a conversation, and
    click a citation to see the passage that it rests on.
    """
    from agent_pipelines.commands.trace import write
    from resources.state import StateResource

    write(StateResource().engine(), console, batch, output)


@app.command()
def status(assets: Assets = None, as_json: Json = False) -> None:
    """What is true right now. Exit code 0: all true; 1: something is false; 2: cannot tell."""
    from agent_pipelines.commands import status as command

    with _session(assets) as session:
        found = command.gather(session, console)
        broken = dict(session.loaded.broken)
    if as_json:
        _print_json(command.as_json(found, broken))
    else:
        command.show(Console(), found)
    raise typer.Exit(found.exit_code)


@app.command()
def doctor(assets: Assets = None, as_json: Json = False) -> None:
    """Whether everything can work here; each line that cannot says what to do."""
    from dataclasses import asdict

    from agent_pipelines.commands.doctor import examine
    from agent_pipelines.loading import PACKAGED_ASSETS
    from agent_pipelines.terminal import passed_text, table

    settings = Settings()
    findings = examine(settings, assets or settings.agent_pipelines_assets or PACKAGED_ASSETS)
    if as_json:
        _print_json([asdict(finding) | {"ok": finding.ok} for finding in findings])
    else:
        rows = [
            (passed_text(f.ok), f.subject, f.observed + (f"\n→ {f.remedy}" if f.remedy else ""))
            for f in findings
        ]
        Console().print(table(("", "what", "observed"), rows))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def claim(
    model: Annotated[
        str | None,
        typer.Argument(
            help="An llm or agent in `assets/`, a model's folder, or its hub name. With "
            "--from-batch the default is that batch's agent."
        ),
    ] = None,
    from_batch: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Ask for more or less than now, by what this batch took of its model server.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of one conversation; default: the model's own."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Conversations of that length at once.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="What it computes in: vLLM's --dtype.")] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="Of the KV cache, such as fp8: vLLM's --kv-cache-dtype.")
    ] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0, help="Of each conversation; slower GPUs are left out.")
    ] = None,
    ttft_ms: Annotated[
        float | None, typer.Option(min=0, help="Milliseconds to the first token; likewise.")
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that no prefix cache has; default: the whole context."),
    ] = None,
    fleet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE[=N]",
            help="A device that the cluster has, and how many one pod can get; again for others. "
            "Default: any.",
        ),
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML of prices, measured bandwidths and devices of your own, such as "
            "`L4: {price: 0.7}`.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The template's name.")] = None,
    namespace: Annotated[str | None, typer.Option(help="The template's namespace.")] = None,
    assets: Assets = None,
    as_json: Json = False,
) -> None:
    """Which GPUs a model needs, as a ResourceClaimTemplate to pipe into `kubectl apply -f -`.

    Weights, KV cache and what vLLM keeps beside them are added up from the model's own files;
    devices that hold them and are quick enough become tiers, the cheapest first. A model that no
    device can serve is refused with the arithmetic.
    """
    from agent_pipelines.commands import claim as command

    said = {
        "context": context,
        "concurrency": concurrency,
        "dtype": dtype,
        "kv_dtype": kv_dtype,
        "tokens_per_second": tokens_per_second,
        "ttft_ms": ttft_ms,
        "prompt": prompt,
    }
    asked = command.Asked(
        need={field: value for field, value in said.items() if value is not None},
        devices=command.read_devices(devices),
        fleet=command.read_fleet(fleet or ()),
    )
    folder = assets or Settings().agent_pipelines_assets
    if from_batch is None:
        if model is None:
            raise UserError("claim names no model", remedy="name one, or use --from-batch ID")
        subject, advice = command.subject_of(model, folder, asked), None
    else:
        from resources.state import StateResource

        engine = StateResource().engine()
        subject = command.subject_of(model or command.agent_of(engine, from_batch), folder, asked)
        advice = command.advice_of(engine, from_batch, subject)
    found = subject.plan(advice.need if advice else subject.need)
    shown = (name or subject.template, found, namespace, advice)
    if as_json:
        _print_json(command.as_json(*shown))
    else:
        typer.echo(command.as_yaml(*shown), nl=False)


@app.command()
def exporter(
    port: Annotated[int, typer.Option(help="Port of /metrics, /health and /ready.")] = 9090,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks at a subject.")
    ] = 30.0,
    assets: Assets = None,
) -> None:
    """Watch every index and the machinery from outside of Dagster, for Prometheus."""
    from agent_pipelines.commands.exporter import export
    from agent_pipelines.loading import PACKAGED_ASSETS

    settings = Settings()
    export(
        settings,
        assets or settings.agent_pipelines_assets or PACKAGED_ASSETS,
        console,
        host=host,
        port=port,
        interval=interval,
    )


@app.command()
def janitor(
    namespace: Annotated[str, typer.Option(help="Where Dagster's run launcher makes its Jobs.")],
    minutes: Annotated[
        float, typer.Option(min=0, help="For how long a run must have ended.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove Jobs in a cluster whose run has ended, with their pods and claims.

    DAGSTER_HOME names the instance that knows the runs.
    """
    from dataclasses import asdict
    from datetime import timedelta

    from agent_pipelines.commands.janitor import sweep

    home = Settings().dagster_home
    if home is None:
        raise UserError(
            "DAGSTER_HOME is not set, so nobody can say which runs have ended",
            remedy="set it to the folder with the deployment's dagster.yaml",
        )
    found = sweep(home, namespace, ended_for=timedelta(minutes=minutes), dry_run=dry_run)
    if as_json:
        _print_json({"dry_run": dry_run, "jobs": [asdict(leftover) for leftover in found]})
        return
    for leftover in found:
        console.print(f"{leftover.job}: {leftover.reason}", highlight=False)
    console.print(f"{len(found)} Jobs {'would go' if dry_run else 'removed'}", highlight=False)


Port = Annotated[int, typer.Option(help="Port of the MCP endpoint (/mcp).")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
ProbesPort = Annotated[
    int | None,
    typer.Option(help="Also serve /health, /ready and /metrics, in plain HTTP, on this port."),
]


def _options(host: str, port: int, probes_port: int | None) -> "Options":
    from agent_pipelines.toolservers.shell import Options

    return Options.from_environment(host=host, port=port, probes_port=probes_port)


@tools_app.command("search")
def tools_search(
    port: Port,
    host: Host = "127.0.0.1",
    probes_port: ProbesPort = None,
    assets: Assets = None,
) -> None:
    """Search over every index, for agents."""
    from agent_pipelines.commands.tools import serve_search

    options = _options(host, port, probes_port)
    with _session(assets) as session:
        serve_search(session, options)


@tools_app.command(NAME, hidden=True)
def tools_named(
    name: Annotated[str, typer.Argument()],
    port: Port,
    host: Host = "127.0.0.1",
    probes_port: ProbesPort = None,
) -> None:
    """Serve the tool server of this name."""
    from agent_pipelines.commands.tools import serve_named

    serve_named(name, _options(host, port, probes_port))


@tools_app.command(STDIO, context_settings={"allow_interspersed_args": False})
def tools_stdio(
    command: Annotated[
        list[str],
        typer.Argument(metavar="CMD", help="The server's command; `--` before it if you like."),
    ],
    port: Port,
    host: Host = "127.0.0.1",
    probes_port: ProbesPort = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help="A variable that it gets, besides HOME, LOGNAME, PATH, SHELL, TERM and USER. "
            "Without a value: ours, so that no secret stands in a list of processes.",
        ),
    ] = None,
) -> None:
    """Any stdio MCP server, behind HTTP with probes, metrics, TLS and limits.

    `agent-pipelines tools --stdio --port 8000 -- npx -y some-server /data`

    One process of it serves every caller. It is started again when it ends, and ends with us,
    together with all that it started.
    """
    from agent_pipelines.commands.tools import serve_stdio

    serve_stdio(command, env or [], _options(host, port, probes_port))


@tools_app.command("new")
def tools_new(
    name: Annotated[str, typer.Argument(help="Name of the server, of its file and of its tool.")],
    function: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODULE:FUNCTION",
            help="An existing function; its signature and docstring make the tool.",
        ),
    ] = None,
) -> None:
    """Write a tool server of your own, NAME.py, and its test, here."""
    from agent_pipelines.commands.new_tool import write

    for line in write(Path.cwd(), name, function):
        console.print(line, highlight=False, soft_wrap=True)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> None:
    """The entry point: one clear message for what a person can put right, never a traceback."""
    # SIGTERM ends a command the way Ctrl-C does: what it started is taken down again.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except UserError as error:
        # Soft: a terminal wraps by itself, and in a log no path or URL is broken in two.
        console.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
