"""*Index truth*: is every index what its source says, since when, and is anybody looking.

Belongs here: what the exporter says of indexes and of the machinery.
"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from agent_pipelines.dashboards.panels import NONE, Target, board, choice, number, series, states

_OF = 'index=~"$index"'
_CHUNKS = f"agent_pipelines_chunks{{{_OF}}}"
_SIGNAL = 'agent_pipelines_signal{subject=~"$index|machinery"'


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "index-truth",
        "Index truth",
        "Every index beside its source: which signals are true, how stale it is, what repairs it.",
        {
            "Now": [
                number(
                    "False signals",
                    "Exact statements about the indexes and their machinery that are false now. "
                    "Each has a runbook page by its name.",
                    f'sum({_SIGNAL},state="false"}})',
                    unit="short",
                    target=NONE,
                ),
                number(
                    "Cannot tell",
                    "Signals nobody can evaluate now: no good news.",
                    f'sum({_SIGNAL},state="cannot_tell"}})',
                    unit="short",
                    target=NONE,
                ),
                number(
                    "Worst staleness",
                    "Age of the oldest change of a source that readers do not get yet.",
                    f"max(agent_pipelines_staleness_seconds{{{_OF}}})",
                    unit="s",
                ),
                number(
                    "Oldest snapshot",
                    "Since an index last committed anything.",
                    f"max(agent_pipelines_snapshot_age_seconds{{{_OF}}})",
                    unit="s",
                ),
                number(
                    "Failed documents",
                    "Documents that cannot be read; the index serves what it had of them.",
                    f'sum(agent_pipelines_documents{{{_OF},state="failed"}})',
                    unit="short",
                    target=NONE,
                ),
                number(
                    "Last look",
                    "Since the exporter last looked at its slowest subject.",
                    "max(agent_pipelines_exporter_tick_age_seconds)",
                    unit="s",
                    target=Target(120, "below"),
                ),
            ],
            "Signals": [
                states(
                    "Signals",
                    "Each signal over time. Orange: it could not be told.",
                    {
                        "{{subject}} · {{signal}}": (
                            "sum by (subject, signal) ("
                            f'{_SIGNAL},state="false"}} * 2 or {_SIGNAL},state="cannot_tell"}} * 1)'
                        )
                    },
                    named=[(0, "true", "good"), (1, "cannot tell", "unknown"), (2, "false", "bad")],
                ),
            ],
            "Freshness": [
                series(
                    "Staleness",
                    "Age of the oldest source change that is not live, by index.",
                    {"{{index}}": f"agent_pipelines_staleness_seconds{{{_OF}}}"},
                    unit="s",
                ),
                series(
                    "Snapshot age",
                    "Grows until something changes: judge it beside the staleness.",
                    {"{{index}}": f"agent_pipelines_snapshot_age_seconds{{{_OF}}}"},
                    unit="s",
                ),
                series(
                    "Age of readings",
                    "The oldest reading of each subject; past its limit it counts as “cannot "
                    "tell”.",
                    {
                        "{{subject}}": (
                            "max by (subject) "
                            '(agent_pipelines_signal_age_seconds{subject=~"$index|machinery"})'
                        )
                    },
                    unit="s",
                ),
                series(
                    "Length of a look",
                    "How long the exporter's last look at each subject took.",
                    {"{{subject}}": "agent_pipelines_exporter_tick_seconds"},
                    unit="s",
                ),
            ],
            "Sync and repair": [
                series(
                    "Snapshots committed per hour",
                    "Syncs that changed what readers get.",
                    {
                        "{{index}}": (
                            f"max_over_time(agent_pipelines_snapshot_sequence{{{_OF}}}[1h])"
                            f" - min_over_time(agent_pipelines_snapshot_sequence{{{_OF}}}[1h])"
                        )
                    },
                    unit="short",
                ),
                series(
                    "Chunks",
                    "Chunks that readers get, and how many more or fewer than ten minutes ago.",
                    {
                        "{{index}}": _CHUNKS,
                        "{{index}}, change in 10 min": f"delta({_CHUNKS}[10m])",
                    },
                    unit="short",
                ),
                series(
                    "Documents by state",
                    "Pending ones are in flight; failed ones keep what was indexed before.",
                    {
                        "{{index}} {{state}}": (
                            f"sum by (index, state) (agent_pipelines_documents{{{_OF}}})"
                        )
                    },
                    unit="short",
                ),
                series(
                    "Repairs in vain",
                    "Repairs asked for since one got anywhere; after six somebody must look.",
                    {"{{index}}": f"agent_pipelines_repair_attempts{{{_OF}}}"},
                    unit="short",
                    target=Target(6, "below"),
                ),
            ],
        },
        choices=[choice("index", "agent_pipelines_snapshot_sequence")],
    )
