"""`dev`: everything up until Ctrl-C; a part that dies is started again, and that is said.

Belongs here: the order of starting and the watch over the parts.
"""

import socket
import threading
from collections.abc import Callable
from time import sleep

from rich.console import Console
from rich.markup import escape

from agent_pipelines.commands.jobs import check_inputs
from agent_pipelines.errors import UserError
from agent_pipelines.local.parts import find
from agent_pipelines.local.ports import HOST
from agent_pipelines.session import Session
from agent_pipelines.terminal import waiting

#: Seconds between two looks at the parts.
_WATCH_EVERY = 1.0

#: Seconds before a part that would not start is tried again.
_RETRY_AFTER = 30.0


def dev(session: Session, console: Console, port: int | None) -> None:
    """Bring everything up, print where the UI is, and keep it up until interrupted.

    Raises:
        UserError: `dev` runs here already, or a part that everything needs cannot be started.
    """
    if session.under_dev:
        raise UserError(
            f"`dev` is already running for {session.settings.state_dir}",
            remedy="use that one, or set AGENT_PIPELINES_STATE_DIR to another folder",
        )
    if port is not None:
        _check_port(port)
    check_inputs(session, console)
    parts: dict[str, Callable[[Callable[[str], None]], object]] = {
        "weaviate": session.start_weaviate,
        "search": session.start_search,
        "dagster": lambda say: session.start_dagster(say, port),
        "exporter": session.start_exporter,
    }
    for name, start in parts.items():
        with waiting(console, f"{name}:") as say:
            start(say)
    console.print(f"\n[bold]Dagster UI:[/bold] {session.start_dagster(lambda _: None, port)}")
    console.print(f"Metrics: {session.start_exporter(lambda _: None)}/metrics")
    console.print(f"state: {session.settings.state_dir}   assets: {session.assets}")
    console.print("Ctrl-C ends all of it.\n")
    if session.needs_vllm(session.loaded.agents):
        parts["vllm"] = session.start_llm
    configured = {
        "weaviate": session.settings.weaviate_url,
        "search": session.settings.search_tool_url,
    }
    stopping = threading.Event()
    watchers = [
        threading.Thread(
            target=_watch, args=(session, console, name, start, stopping), daemon=True, name=name
        )
        for name, start in parts.items()
        if not configured.get(name)
    ]
    for watcher in watchers:
        watcher.start()
    try:
        while True:
            sleep(_WATCH_EVERY)
    finally:
        stopping.set()
        console.print("stopping …")


def _check_port(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} cannot be used for the Dagster UI: {error}",
                remedy="name another with --port, or leave it out to get one that is free",
            ) from error


def _watch(
    session: Session,
    console: Console,
    name: str,
    start: Callable[[Callable[[str], None]], object],
    stopping: threading.Event,
) -> None:
    seen = find(session.settings.state_dir, name) is not None
    while not stopping.is_set():
        if find(session.settings.state_dir, name) is None:
            if seen:
                console.print(f"[yellow]{name} has died; starting it again[/yellow]")
            try:
                start(lambda _: None)
            except UserError as error:
                console.print(f"[yellow]{name}: {escape(str(error))}[/yellow]")
                stopping.wait(_RETRY_AFTER)
                continue
            except Exception as error:  # closing while a part starts; anything else is said
                if not stopping.is_set():
                    said = escape(f"{type(error).__name__}: {error}")
                    console.print(f"[yellow]{name}: {said}[/yellow]")
                continue
            console.print(f"[green]{name} is up{' again' if seen else ''}[/green]")
            seen = True
        stopping.wait(_WATCH_EVERY)
