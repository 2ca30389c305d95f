"""What `status` says of an index that is not true: the evidence, and what is done about it."""

from datetime import UTC, datetime

import dagster as dg
from rich.console import Console

from agent_pipelines.commands.status import Gathered, show
from agent_pipelines.components.index_sensor import SIGNAL_TAG
from agent_pipelines.health import repair
from agent_pipelines.health.evaluate import Recorded
from agent_pipelines.health.repair import GIVES_UP_AFTER, Attempts
from agent_pipelines.health.signal import State
from agent_pipelines.state.engine import open_engine
from agent_pipelines.status import IndexStatus, Repairing, ToolServerStatus, ToolUse, repairs

NOW = datetime.now(UTC)


def test_repairs_are_those_on_record_with_the_runs_that_are_under_way(state_url: str) -> None:
    engine = open_engine(state_url)
    for signal, attempts in (("counts_match", 1), ("fresh", GIVES_UP_AFTER)):
        repair.remember(engine, "docs", now=Attempts(signal, attempts, NOW, ""), over=[])

    @dg.job
    def docs_sync() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        tags = {"index": "docs", SIGNAL_TAG: "counts_match"}
        run = instance.create_run_for_job(docs_sync, tags=tags, status=dg.DagsterRunStatus.STARTED)
        instance.create_run_for_job(
            docs_sync, tags=tags | {SIGNAL_TAG: "fresh"}, status=dg.DagsterRunStatus.FAILURE
        )
        counts, fresh = repairs(engine, "docs", instance)
    assert (counts.signal, counts.attempts, counts.gave_up) == ("counts_match", 1, False)
    assert counts.run_id == run.run_id
    assert (fresh.signal, fresh.attempts, fresh.gave_up, fresh.run_id) == (
        "fresh",
        GIVES_UP_AFTER,
        True,
        None,
    )


def test_the_tables_say_what_is_done_and_when_somebody_must_look() -> None:
    false = Recorded(
        "counts_match", State.FALSE, NOW, NOW, "9 objects", "10", [{"chunk": "c", "fault": "gone"}]
    )
    under_way = Repairing("counts_match", 2, NOW, gave_up=False, run_id="a1b2")
    waiting = Repairing("ids_match", 3, NOW, gave_up=False, run_id=None)
    given_up = Repairing("fresh", 9, NOW, gave_up=True, run_id=None)
    index = IndexStatus("docs", None, 0.0, [false], [under_way, waiting, given_up])
    console = Console(record=True, width=200)

    show(console, Gathered([index], [], [], []))

    text = console.export_text()
    assert "chunk c, fault gone" in text
    assert "repair of counts_match: asked for 2 times, run a1b2 is under way" in text
    assert (
        f"repair of ids_match: asked for 3 times, next try not before {NOW.astimezone():%H:%M}"
        in text
    )
    assert "repair of fresh: given up, asked for 9 times; somebody must look" in text


def test_a_tool_server_is_shown_with_how_each_agent_fares_with_it() -> None:
    uses = [ToolUse("clerk", "open", NOW, 0.25), ToolUse("newcomer", None, None, None)]
    console = Console(record=True, width=200)

    show(console, Gathered([], [], [ToolServerStatus("orders", False, "refused", uses)], []))

    first, second = console.export_text().strip().splitlines()[-2:]
    assert all(said in first for said in ("orders", "NO", "refused", "clerk", "open, ", "25.0%"))
    assert second.split() == ["newcomer", "–", "–"]
