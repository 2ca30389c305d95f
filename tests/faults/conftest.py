"""What the fault tests found, as one table at the end of the run.

Belongs here: printing it. Does not belong here: any fault.
"""

import pytest
from rich.console import Console

from agent_pipelines.terminal import table

_COLUMNS = (
    *("fault", "false at the next tick", "and at the next audit"),
    *("seconds to see", "seconds to repair"),
)


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a row per fault; with xdist, too: reports carry their properties."""
    rows = [
        [str(cell) for cell in value]
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == "fault"
    ]
    if rows:
        console = Console(width=200, highlight=False)
        with console.capture() as captured:
            console.print(table(_COLUMNS, rows))
        terminalreporter.write_line(captured.get())
