"""A folder of assets: what is broken is named, and takes nothing else along."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines.definitions import build_defs
from agent_pipelines.errors import UserError
from agent_pipelines.loading import Loaded, load_assets

INDEX = """
type: agent_pipelines.components.index.IndexComponent
attributes:
  source: {kind: files, url: texts}
"""
AGENT = """
type: agent_pipelines.components.agent.AgentComponent
attributes:
  index: good
  instructions: Answer.
  tools: [search]
  tasks: tasks.jsonl
  output_schema: {type: object, properties: {answer: {type: string}}}
"""


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """An index and an agent that are right."""
    add(tmp_path, "good", INDEX)
    add(tmp_path, "helper", AGENT)
    return tmp_path


def add(assets: Path, name: str, text: str, file: str = "defs.yaml") -> None:
    (assets / name).mkdir(exist_ok=True)
    (assets / name / file).write_text(textwrap.dedent(text))


def loads_the_good_ones(loaded: Loaded) -> dg.RepositoryDefinition:
    """What is right is there, as Dagster loads it."""
    assert set(loaded.indexes) == {"good"}
    assert set(loaded.agents) == {"helper"}
    repository = build_defs(assets=loaded.folder).get_repository_def()
    assert {sensor.name for sensor in repository.sensor_defs} >= {"good_sensor"}
    assert {"good_sync", "helper_batch"} <= {job.name for job in repository.get_all_jobs()}
    return repository


def test_a_folder_that_is_right_has_nothing_broken(assets: Path) -> None:
    loaded = load_assets(assets)
    assert loaded.broken == {}
    loads_the_good_ones(loaded)


@pytest.mark.parametrize(
    ("text", "file", "named"),
    [
        (INDEX + "  chunksize: 100\n", "defs.yaml", "chunksize"),
        (INDEX + "  chunking: {tokens: many}\n", "defs.yaml", "tokens"),
        (INDEX + "  chunking: {tokens: 20, overlap: 20}\n", "defs.yaml", "overlap"),
        (INDEX.replace("files,", "fils,"), "defs.yaml", "fils"),
        (INDEX.replace("IndexComponent", "Indx"), "defs.yaml", "Indx"),
        ("type: [unclosed\n", "defs.yaml", "defs.yaml"),
        ("", "defs.yaml", ""),
        ("raise RuntimeError('no such secret')\n", "definitions.py", "no such secret"),
        ("import surely_not_installed\n", "definitions.py", "surely_not_installed"),
        ("def broken(:\n", "definitions.py", "syntax"),
        (AGENT.replace("index: good", "index: gone"), "defs.yaml", "gone"),
        (AGENT.replace("tools: [search]", "tools: 3"), "defs.yaml", "tools"),
    ],
)
def test_a_broken_folder_is_named_with_its_reason_and_unloads_nothing_else(
    assets: Path, text: str, file: str, named: str
) -> None:
    add(assets, "bad", text, file)
    loaded = load_assets(assets)
    assert set(loaded.broken) == {"bad"}
    assert named in loaded.broken["bad"]
    assert loaded.broken["bad"].strip()
    repository = loads_the_good_ones(loaded)
    broken = repository.asset_graph.get(dg.AssetKey(["bad", "broken"]))
    assert loaded.broken["bad"] in (broken.description or ""), "seen in the UI"
    with pytest.raises(UserError) as refused:
        loaded.index("bad")
    assert str(assets / "bad") in refused.value.remedy


def test_the_reason_names_the_field_the_file_and_the_line(assets: Path) -> None:
    add(assets, "bad", INDEX + "  chunksize: 100\n")
    reason = load_assets(assets).broken["bad"]
    assert "chunksize" in reason
    assert "defs.yaml" in reason


def test_a_folder_whose_name_cannot_name_an_index_is_broken(assets: Path) -> None:
    add(assets, "My-Docs", INDEX)
    loaded = load_assets(assets)
    assert "cannot name an index" in loaded.broken["My-Docs"]
    loads_the_good_ones(loaded)


def test_no_index_takes_the_name_that_the_machinery_is_watched_under(assets: Path) -> None:
    add(assets, "machinery", INDEX)
    assert "rename its folder" in load_assets(assets).broken["machinery"]


def test_an_agent_of_a_broken_index_is_broken_too_and_says_which(assets: Path) -> None:
    add(assets, "good", INDEX + "  typo: 1\n")
    loaded = load_assets(assets)
    assert set(loaded.broken) == {"good", "helper"}
    assert "good" in loaded.broken["helper"]


def test_a_plain_python_asset_is_welcome(assets: Path) -> None:
    add(
        assets,
        "mine",
        """
        import dagster as dg

        @dg.asset
        def my_table() -> None: ...
        """,
        "tables.py",
    )
    loaded = load_assets(assets)
    assert loaded.broken == {}
    repository = loads_the_good_ones(loaded)
    assert dg.AssetKey("my_table") in repository.asset_graph.get_all_asset_keys()


def test_the_same_asset_in_two_folders_breaks_the_second_and_nothing_else(assets: Path) -> None:
    for name in ("one", "two"):
        add(assets, name, "import dagster as dg\n@dg.asset\ndef same() -> None: ...\n", "a.py")
    loaded = load_assets(assets)
    loads_the_good_ones(loaded)
    assert set(loaded.broken) == {"two"}
    assert "same" in loaded.broken["two"]


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, assets: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_assets(tmp_path / "gone")
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no folder below .* has a defs.yaml"):
        load_assets(tmp_path / "empty")
    loaded = load_assets(assets)
    with pytest.raises(UserError, match="no index 'nowhere'") as refused:
        loaded.index("nowhere")
    assert "good" in refused.value.remedy
    with pytest.raises(UserError, match="no agent 'good'"):
        loaded.agent("good")


def test_hidden_folders_and_folders_without_definitions_are_passed_over(assets: Path) -> None:
    for name in (".git", "__pycache__", "notes"):
        add(assets, name, "broken: [", "defs.yaml" if name != "notes" else "readme.txt")
    assert load_assets(assets).broken == {}


def test_the_whole_code_location_can_be_loaded(assets: Path) -> None:
    dg.Definitions.validate_loadable(build_defs(assets=assets))


def test_loading_imports_nothing_heavy(assets: Path) -> None:
    """Every tick, `status` and `--help` would pay for it."""
    code = (
        "import json, sys; from pathlib import Path;"
        "from agent_pipelines.definitions import build_defs;"
        "build_defs(assets=Path(sys.argv[1])).get_repository_def();"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(assets)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"torch", "transformers", "sentence_transformers", "vllm", "weaviate", "openai", "mcp"}
    assert heavy & set(json.loads(done.stdout.splitlines()[-1])) == set()


def test_a_secret_comes_from_the_environment_and_stays_out_of_messages(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
        type: agent_pipelines.components.IndexComponent
        attributes:
          source:
            kind: sql
            url: "postgresql://reader:{{ env.TICKETS_PASSWORD }}@db/tickets"
            query: SELECT id, body AS text FROM tickets
        """
    add(assets, "tickets", text)
    assert "TICKETS_PASSWORD is not set" in load_assets(assets).broken["tickets"]

    monkeypatch.setenv("TICKETS_PASSWORD", "s3cret")
    config = load_assets(assets).indexes["tickets"].config
    assert config.source.url == "postgresql://reader:s3cret@db/tickets"
    assert "s3cret" not in repr(config)

    add(assets, "tickets", text.replace("SELECT id", "DELETE id"))
    reason = load_assets(assets).broken["tickets"]
    assert "DELETE" in reason
    assert "s3cret" not in reason
