"""What a source's YAML may be: one of the kinds found here, or a class anywhere on the path."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from agent_pipelines.indexing.sources.catalogue import AnySource
from agent_pipelines.indexing.sources.files import Files


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
    adapter: TypeAdapter[Any] = TypeAdapter(AnySource)
    with pytest.raises(ValidationError, match=named):
        adapter.validate_python(said)


def test_a_source_kind_is_found_by_looking() -> None:
    adapter: TypeAdapter[Callable[..., Any]] = TypeAdapter(AnySource)
    assert type(adapter.validate_python({"kind": "files", "url": "x"})) is Files
