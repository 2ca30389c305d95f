"""What an exporter said over time, kept small, and as promtool reads it.

Belongs here: scrapes → series with one value per scrape → text. Does not belong here: which alerts
a trace must raise (`tests/unit/test_health_alerts.py`), or making up an exporter
(`tests/standin_exporter.py`).

A trace's file begins with `every SECONDS for SECONDS fires ALERT/SUBJECT …`. Then comes one line
per series in promtool's notation: `1+0x19` is twenty times 1, `0+30x9` ten values with 30 more each
time, `_` nothing, `stale` not there any more. A healthy hour of two indexes is some 20 KB.
`tests/recordings.py` makes those that are in git.
"""

import math
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: How our own metrics begin: the exporter's, and those of tool servers.
_OURS = ("agent_pipelines_", "mcp_tool_call")

#: A series, whose labels may hold anything, and its values.
_LINE = re.compile(r"(\w+(?:\{.*\})?) (.+)")

#: An alert by name and subject.
Fired = tuple[str, str]


class Trace:
    """Scrapes at even distances."""

    def __init__(self, every: float) -> None:
        """Begin one, with `every` seconds between two scrapes."""
        self.every = every
        self.scrapes = 0
        self._series: dict[str, list[float | None]] = {}

    def add(self, text: str | None) -> None:
        """One scrape: the text of /metrics, or None where the exporter did not answer."""
        for line in (text or "").splitlines():
            # Comments, and what is of the process and its libraries, begin otherwise.
            if line.startswith(_OURS):
                name, _, value = line.rpartition(" ")
                values = self._series.setdefault(name, [])
                values += [None] * (self.scrapes - len(values))
                # Tenths of a second are as exact as anything here.
                values.append(round(float(value), 1))
        self.scrapes += 1

    def again(self) -> None:
        """One more scrape, of an exporter that says what it said before."""
        for values in self._series.values():
            if len(values) == self.scrapes:
                values.append(values[-1])
        self.scrapes += 1

    @property
    def seconds(self) -> float:
        """When the last scrape was, counted from the first."""
        return (self.scrapes - 1) * self.every

    def series(self) -> dict[str, str]:
        """Values by series, in promtool's notation."""
        return {
            name: _notation(values + [None] * (self.scrapes - len(values)))
            for name, values in self._series.items()
        }

    def dump(self, fires: Iterable[Fired] = ()) -> str:
        """The text of its file.

        Args:
            fires: everything that must fire at any time of it, but the watchdog.
        """
        alerts = " ".join(f"{alert}/{subject}" for alert, subject in sorted(fires))
        head = f"every {self.every:g} for {self.seconds:g} fires {alerts}".rstrip()
        lines = (f"{name} {values}" for name, values in self.series().items())
        return "\n".join([head, *lines]) + "\n"


@contextmanager
def recording(
    url: str, every: float, *, heard: Callable[[str], str] = lambda text: text
) -> Iterator[Trace]:
    """Scrape a real exporter for as long as the block lasts.

    Args:
        url: of its /metrics.
        every: seconds between two scrapes.
        heard: what is kept of a scrape's text.
    """
    trace, done = Trace(every), threading.Event()

    def scrape() -> None:
        began = time.monotonic()
        while not done.wait(max(0.0, began + trace.scrapes * every - time.monotonic())):
            try:
                with urllib.request.urlopen(url, timeout=every) as response:
                    text = heard(response.read().decode())
            except OSError:  # whatever the reason: Prometheus would see nothing either
                text = None
            trace.add(text)

    thread = threading.Thread(target=scrape, name=f"scraping {url}", daemon=True)
    thread.start()
    try:
        yield trace
    finally:
        done.set()
        thread.join()


@dataclass(frozen=True)
class Told:
    """What a trace's file says."""

    every: float
    seconds: float
    fires: set[Fired]
    series: dict[str, str]
    """Values by series, in promtool's notation."""


def parse(text: str) -> Told:
    """The trace of a file's text."""
    head, *lines = text.splitlines()
    _, every, _, seconds, _, *alerts = head.split()
    return Told(
        float(every),
        float(seconds),
        {(alert, subject) for alert, _, subject in (fired.partition("/") for fired in alerts)},
        {name: values for line in lines for name, values in _LINE.findall(line)},
    )


def judged(name: str, trace: Told) -> dict[str, Any]:
    """A trace as promtool reads it: whatever fired at any time of it, and nothing else."""
    return {
        "interval": f"{trace.every:g}s",
        "input_series": [{"series": s, "values": values} for s, values in trace.series.items()],
        "promql_expr_test": [
            {
                # promtool 2.42 says of a failure only its query: so that has the name as a comment.
                "expr": "max by (alertname, subject) "
                f'(max_over_time(ALERTS{{alertstate="firing"}}[1d])) # {name}',
                "eval_time": f"{trace.seconds:g}s",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}",subject="{subject}"}}', "value": 1}
                    for alert, subject in {*trace.fires, ("Watchdog", "exporter")}
                ],
            }
        ],
    }


def _notation(values: list[float | None]) -> str:
    """Runs of equal steps; the first missing value after others is Prometheus' stale marker."""
    parts: list[str] = []
    at = 0
    while at < len(values):
        first = values[at]
        if first is None:
            end = at
            while end < len(values) and values[end] is None:
                end += 1
            gone = at > 0
            parts += ["stale"] if gone else []
            if end - at - gone:
                parts.append(f"_x{end - at - gone}")
            at = end
            continue
        step, length = 0.0, 1
        for before, value in zip(values[at:], values[at + 1 :], strict=False):
            if value is None or before is None or not math.isfinite(value - before):
                break
            if length == 1:
                step = round(value - before, 1)
            elif round(value - before, 1) != step:
                break
            length += 1
        if length == 2:  # two values are no run yet: the second may begin a longer one
            length = 1
        parts.append(_number(first) + (f"{step:+g}x{length - 1}" if length > 1 else ""))
        at += length
    return " ".join(parts)


def _number(value: float) -> str:
    return f"{value:.12g}" if math.isfinite(value) else str(value).capitalize()
