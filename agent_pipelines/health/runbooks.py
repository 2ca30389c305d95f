"""Catalogue → runbook pages, as text: one per signal, one per alert that is no signal's, an index.

Belongs here: what whoever is woken reads first. Does not belong here: the words about one signal
(its `SIGNAL`) or one alert (`alerts.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent_pipelines.health import alerts
from agent_pipelines.health.alerts import Alert
from agent_pipelines.health.signal import Signal

_INDEX = "README.md"

_DEPTHS = {
    "tick": "tick: looked at every 30 seconds",
    "audit": "audit: looked at every 10 minutes, unless the index says otherwise",
}

_SEVERITIES = {
    "page": "page: somebody has to look now",
    "warn": "warn: somebody has to look today",
    "none": "none: for the receiver that misses it",
    None: "that of the signals it is about",
}

_REPAIRS = {
    "sync": ("a sync, which its sensor asks for", "agent-pipelines sync INDEX"),
    "verify": (
        "a sync that compares and searches for everything, which its sensor asks for",
        "agent-pipelines sync INDEX --verify",
    ),
    "person": ("none; a person has to", None),
}


_OF_WATCHING = "An alert about those who look; no signal could raise it about itself."
_OF_TOOLS = "An alert about the tools of agents."


def pages(found: Mapping[str, Sequence[Signal[Any]]]) -> dict[str, str]:
    """Markdown by file name.

    Args:
        found: catalogues by name.
    """
    signals = [signal for some in found.values() for signal in some]
    watching = _pages_of(alerts.of_watching(signals))
    tools = _pages_of(alerts.of_tools())
    return {
        _INDEX: _index(signals, watching, tools),
        **{f"{signal.name}.md": _signal_page(signal) for signal in signals},
        **{alert.page: _alert_page(alert, _OF_WATCHING) for alert in watching},
        **{alert.page: _alert_page(alert, _OF_TOOLS) for alert in tools},
    }


def _pages_of(some: Sequence[Alert]) -> list[Alert]:
    # Alerts of the same name differ in what they look at; one page tells of all.
    return list({alert.page: alert for alert in some}.values())


def _signal_page(signal: Signal[Any]) -> str:
    alert = alerts.of_signal(signal)
    machinery = signal.guards == "machinery"
    repair, command = _REPAIRS[signal.repair]
    shown = (
        "`agent-pipelines status` and the exporter; not in Dagster, which may be what is broken"
        if machinery
        else f"`agent-pipelines status`, the exporter, and Dagster: the check `{signal.name}` of "
        f"the asset `INDEX/{signal.guards}`"
    )
    commands = ["agent-pipelines status"]
    commands.append("agent-pipelines doctor" if machinery else command or "agent-pipelines doctor")
    return _page(
        signal.name,
        f"True where all is well: {signal.statement}.",
        {
            "Severity": _SEVERITIES[signal.severity],
            "Depth": _DEPTHS[signal.depth],
            "Repair": repair,
            "Shows in": shown,
            "Alert": f"`{alert.name}`, after {alert.wait}",
        },
        signal.runbook,
        commands=commands,
        query=alerts.query_of(signal),
    )


def _alert_page(alert: Alert, lead: str) -> str:
    return _page(
        alert.name,
        lead,
        {"Severity": _SEVERITIES[alert.severity], "Fires": f"after {alert.wait}"},
        alert.meaning,
        commands=["agent-pipelines status", "agent-pipelines doctor"],
        query=alert.expr,
    )


def _page(
    title: str,
    lead: str,
    facts: Mapping[str, str],
    meaning: str,
    *,
    commands: Sequence[str],
    query: str,
) -> str:
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    listed = "\n".join(commands)
    return (
        f"# {title}\n\n{lead}\n\n| | |\n| --- | --- |\n{table}\n\n"
        f"## What it means, and what to do\n\n{meaning}\n\n"
        f"```bash\n{listed}\n```\n\n"
        f"## In Prometheus\n\n```promql\n{query}\n```\n\n"
        f"[All runbooks]({_INDEX})\n"
    )


def _index(
    signals: Sequence[Signal[Any]], watching: Sequence[Alert], tools: Sequence[Alert]
) -> str:
    listed = "\n".join(
        f"| [{alerts.name_of(signal)}]({signal.name}.md) | {signal.severity} | {signal.depth} "
        f"| {signal.statement} |"
        for signal in signals
    )
    other, of_tools = (
        "\n".join(
            f"| [{alert.name}]({alert.page}) | {alert.severity or 'of its signals'} | "
            f"| {alert.meaning.split('. ')[0].rstrip('.')} |"
            for alert in some
        )
        for some in (watching, tools)
    )
    head = "| alert | severity | depth | {} |\n| --- | --- | --- | --- |\n"
    return (
        "# Runbooks\n\nOne page per alert. All of them are generated, together with "
        "[the rules](../alerts/rules.yaml), by `python -m agent_pipelines.health`; what they say "
        "is said in `agent_pipelines/health/`.\n\n"
        f"## Something is not true\n\n{head.format('what should be')}{listed}\n\n"
        f"## Something cannot be seen, or does not help\n\n{head.format('what is')}{other}\n\n"
        f"## Tools fail\n\n{head.format('what is')}{of_tools}\n"
    )
