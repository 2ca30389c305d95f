"""What a person sees in a terminal: bars, tables, colours.

Belongs here: turning results into Rich output. Does not belong here: getting the results. Nothing
here is printed on standard output, so that `--json` stays readable by programs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichBars
from rich.table import Table
from rich.text import Text

from agent_pipelines.progress import Stage

#: Seconds between two lines of news where nobody watches.
_NEWS_EVERY = 10.0

#: How each state of a signal looks.
STATE_STYLE = {"true": "green", "false": "bold red", "cannot tell": "yellow"}


class TerminalProgress:
    """Progress as bars that leave one line each behind; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        started = datetime.now(UTC)
        with RichBars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *([BarColumn(), MofNCompleteColumn(), TextColumn(unit)] if total else []),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[news]}[/dim]"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as bars:
            bar = _Bar(bars, bars.add_task(name, total=total, news=""))
            yield bar
        seconds = (datetime.now(UTC) - started).total_seconds()
        amount = f" {total} {unit}" if total else ""
        news = f", {bar.news}" if bar.news else ""
        self._console.print(f"  [dim]{name}{amount}, {seconds:.1f} s{news}[/dim]")


class _Bar:
    def __init__(self, bars: RichBars, task: TaskID) -> None:
        self._bars, self._task = bars, task
        self.news = ""

    def advance(self, amount: int = 1, news: str = "") -> None:
        self.news = escape(news) or self.news
        self._bars.update(self._task, advance=amount, news=self.news)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """A spinner for a wait of unknown length; yields what its news are told to."""
    if console.is_terminal:
        with console.status(what) as status:
            yield lambda news: status.update(f"{what} [dim]{escape(news)}[/dim]")
    else:
        yield _Seldom(lambda news: console.print(f"  {what} {news}", highlight=False, markup=False))


class _Seldom:
    """Passes on the first news, and then what is new every ten seconds: a log is not a screen."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._shown_at = -_NEWS_EVERY

    def __call__(self, news: str) -> None:
        if monotonic() - self._shown_at >= _NEWS_EVERY:
            self._shown_at = monotonic()
            self._show(news)


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], title: str = "") -> Table:
    """A plain table with a heading per column."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        # A plain string may hold [brackets] of a document or an error: those are no markup.
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def state_text(state: str) -> Text:
    """A signal's state in its colour."""
    return Text(state, style=STATE_STYLE.get(state, ""))


def passed_text(passed: bool, warning: bool = False) -> Text:
    """A check's result in its colour; one that only warns does not fail."""
    if passed:
        return Text("passed", style="green")
    return Text("warning", style="yellow") if warning else Text("FAILED", style="bold red")


def ago(moment: datetime) -> str:
    """How long ago, in the largest sensible unit."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def counts(numbers: Mapping[str, int]) -> str:
    """`3 ok, 1 schema`."""
    return ", ".join(f"{n} {name}" for name, n in sorted(numbers.items()) if n) or "none"
