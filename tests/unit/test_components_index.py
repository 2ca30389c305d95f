"""What an index becomes in Dagster, and how its sensor decides; nothing is connected to."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from agent_pipelines.components import index_checks
from agent_pipelines.components.index import IndexComponent
from agent_pipelines.components.index_config import IndexConfig
from agent_pipelines.definitions import build_defs
from agent_pipelines.errors import UserError
from agent_pipelines.health.signal import Reading, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.loading import load_assets


def config(**more: Any) -> IndexConfig:
    return IndexConfig.model_validate({"source": {"kind": "files", "url": "."}, **more})


@pytest.fixture
def component(tmp_path: Path) -> IndexComponent:
    return IndexComponent("docs", config(), tmp_path)


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "defs.yaml").write_text(
        "type: agent_pipelines.components.index.IndexComponent\n"
        "attributes:\n"
        "  source: {kind: files, url: .}\n"
        "  schedule: '*/5 * * * *'\n"
        "  sensor: stopped\n"
        "  audit: '*/7 * * * *'\n"
    )
    return build_defs(assets=tmp_path)


def test_an_index_is_three_assets_its_jobs_their_schedules_and_a_sensor(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    documents, index, live = (dg.AssetKey(["docs", n]) for n in ("documents", "index", "live"))
    assert graph.get_all_asset_keys() == {documents, index, live}
    assert graph.get(index).parent_keys == {documents}
    assert graph.get(live).parent_keys == {index}
    schedule = definitions.resolve_schedule_def("docs_sync_schedule")
    assert schedule.cron_schedule == "*/5 * * * *"
    assert schedule.job_name == "docs_sync"
    audit = definitions.resolve_schedule_def("docs_audit_schedule")
    assert audit.cron_schedule == "*/7 * * * *"
    assert audit.job_name == "docs_audit"
    assert audit.default_status is dg.DefaultScheduleStatus.RUNNING
    sensor = definitions.resolve_sensor_def("docs_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_every_signal_is_a_check_and_those_of_the_index_hold_the_commit_back(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    specs = {key.name: graph.get_check_spec(key) for key in graph.asset_check_keys}
    assert set(specs) == {signal.name for signal in catalogue()}
    for signal in catalogue():
        spec = specs[signal.name]
        assert spec.asset_key == dg.AssetKey(["docs", signal.guards])
        assert spec.blocking == (signal.guards == "index")
        assert signal.statement in (spec.description or "")
        assert signal.runbook in (spec.description or "")


@pytest.mark.parametrize("state", list(State))
def test_only_true_passes_and_cannot_tell_says_so(component: IndexComponent, state: State) -> None:
    evidence = ({"chunk": "c", "fault": "missing"},)
    readings = {signal: Reading(state, "seen", "wanted", evidence) for signal in catalogue()}
    evaluations = index_checks.evaluations(component, readings)
    assert len(evaluations) == len(catalogue())
    for evaluation in evaluations:
        assert evaluation.passed == (state is State.TRUE)
        assert evaluation.metadata["state"].value == str(state)
        assert evaluation.metadata["observed"].value == "seen"
        said = "seen" if state is State.TRUE else f"{state}: seen"
        assert evaluation.description == said


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunking": {"tokens": 15}},
        {"chunking": {"overlap": -1}},
        {"max_delete_share": 1.1},
        {"max_staleness": 0},
        {"sensor": "on"},
        {"shedule": "0 * * * *"},
        {"source": {"kind": "files"}},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)


def test_an_overlap_as_long_as_a_chunk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"chunking\.overlap 16 is not below"):
        IndexComponent("docs", config(chunking={"tokens": 16, "overlap": 16}), tmp_path)


def test_staleness_is_written_in_seconds_or_as_iso_8601() -> None:
    assert config(max_staleness=90).max_staleness == timedelta(seconds=90)
    assert config(max_staleness="PT2H").max_staleness == timedelta(hours=2)


@pytest.mark.parametrize("cron", ["every hour", "61 * * * *"])
def test_a_schedule_that_is_no_cron_expression_breaks_its_folder(tmp_path: Path, cron: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "defs.yaml").write_text(
        "type: agent_pipelines.components.index.IndexComponent\n"
        f"attributes:\n  source: {{kind: files, url: .}}\n  schedule: '{cron}'\n"
    )
    assert cron in load_assets(tmp_path).broken["docs"]
