"""What a source's YAML may be: one of the kinds found here, or a class anywhere on the path."""

from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import TypeAdapter, ValidationError

from agent_pipelines.indexing import sources
from agent_pipelines.indexing.sources import Source, SourceConfig
from agent_pipelines.indexing.sources.catalogue import AnySource
from agent_pipelines.indexing.sources.files import Files
from agent_pipelines.kinds import kinds_in

ANY: TypeAdapter[Any] = TypeAdapter(AnySource)

ELSEWHERE = """
from collections.abc import Sequence
from pathlib import Path
from agent_pipelines.indexing.sources import Source, SourceConfig

class Wiki(SourceConfig):
    space: str
    limit: int = 5

    def open(self, folder: Path) -> Source:
        raise NotImplementedError

class Named(Wiki):
    kind: str

class Half(SourceConfig):
    space: str
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody else's, on the Python path."""
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").touch()
    (tmp_path / "their_package" / "wiki.py").write_text(ELSEWHERE)
    (tmp_path / "their_package" / "ill.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"kind": "nonsense"}, "nonsense"),
        ({"kind": "files"}, "url"),
        ({"kind": "files", "url": "x", "globs": []}, "globs"),
        ({}, "kind"),
    ],
)
def test_a_source_that_is_written_wrongly_is_refused_by_its_field(
    said: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        ANY.validate_python(said)


def test_a_source_kind_is_found_by_looking() -> None:
    assert type(ANY.validate_python({"kind": "files", "url": "x"})) is Files


@pytest.mark.usefixtures("elsewhere")
def test_a_class_on_the_python_path_is_a_kind() -> None:
    wiki = ANY.validate_python({"kind": "their_package.wiki.Wiki", "space": "ops"})
    assert isinstance(wiki, SourceConfig)
    assert wiki.model_dump() == {"space": "ops", "limit": 5}
    named = ANY.validate_python({"kind": "their_package.wiki.Named", "space": "ops"})
    assert named.kind == "their_package.wiki.Named"


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no_such_package.Wiki", "'no_such_package.Wiki' cannot be imported: ModuleNotFoundError"),
        ("their_package.ill.Wiki", "cannot be imported: ZeroDivisionError"),
        (".Wiki", "'.Wiki' names no module"),
        ("their_package.wiki.Wikki", "the module their_package.wiki has no Wikki"),
        ("their_package.wiki.Path", "'their_package.wiki.Path' is no subclass of"),
        ("their_package.wiki.Sequence", "is no subclass of"),
        ("their_package.wiki.Half", "is abstract: it does not define open"),
        ("their_package.wiki.SourceConfig", "is abstract"),
    ],
)
def test_a_path_that_leads_to_no_source_is_refused_by_name(kind: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refusal:
        ANY.validate_python({"kind": kind, "space": "ops"})
    assert refusal.value.error_count() == 1


@pytest.mark.usefixtures("elsewhere")
def test_the_fields_of_a_class_elsewhere_are_checked_as_ours_are() -> None:
    with pytest.raises(ValidationError) as refusal:
        ANY.validate_python({"kind": "their_package.wiki.Wiki", "limit": "x", "spice": 1})
    assert [fault["loc"] for fault in refusal.value.errors()] == [
        ("space",),
        ("limit",),
        ("spice",),
    ]


def test_the_schema_that_editors_read_knows_the_kinds_and_admits_a_path() -> None:
    schema = ANY.json_schema()
    for valid in (
        {"kind": "files", "url": "x"},
        {"kind": "sql", "url": "x", "query": "SELECT 1"},
        {"kind": "their_package.wiki.Wiki", "space": "ops"},
    ):
        jsonschema.validate(valid, schema)
    for wrong in ({"kind": "files"}, {"kind": "nonsense"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_a_class_defined_elsewhere_has_no_short_name() -> None:
    """Tests and users define kinds of their own; the union is of those that stand here."""

    class Stray(SourceConfig):
        kind: Literal["stray"] = "stray"

        def open(self, folder: Path) -> Source:
            raise NotImplementedError

    assert Stray in SourceConfig.__subclasses__()
    found = kinds_in(sources, SourceConfig)
    assert {kind.__name__ for kind in found} == {"Distributions", "Files", "Http", "Sql"}
