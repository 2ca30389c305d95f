"""Index names, aliases and collections: different indexes never share one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import EmbedderIdentity
from agent_pipelines.indexing.generations import alias_of, check_index_name
from agent_pipelines.indexing.spec import Spec

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,4}(_[a-z0-9]{1,4}){0,3}", fullmatch=True)


@given(NAMES, NAMES)
def test_different_names_have_different_aliases_and_collections(one: str, other: str) -> None:
    """Weaviate capitalises the first letter itself; no name may be another one's so."""
    assert (alias_of(one) == alias_of(other)) == (one == other)
    assert alias_of(one)[0].isupper()
    # No alias is, or is the beginning of, the collection of another index.
    assert (f"{alias_of(one)}__".startswith(f"{alias_of(other)}__")) == (one == other)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Docs",
        "1docs",
        "my-docs",
        "my docs",
        "a__b",
        "_a",
        "a_",
        "docs\n",
        "dócs",
        "a/b",
        "..",
        "a.b",
    ],
)
def test_a_name_for_which_that_would_not_hold_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot name an index") as refused:
        check_index_name(name)
    assert "rename the folder" in refused.value.remedy


def test_the_fingerprint_changes_with_everything_that_decides_what_a_vector_means() -> None:
    identity = EmbedderIdentity("m", "d", 384, 256, True)
    specs = [
        Spec(ChunkerSpec(200, 0), identity),
        Spec(ChunkerSpec(201, 0), identity),
        Spec(ChunkerSpec(200, 1), identity),
        Spec(ChunkerSpec(200, 0, version=99), identity),
        *(
            Spec(ChunkerSpec(200, 0), EmbedderIdentity(**(identity.__dict__ | change)))
            for change in (
                {"name": "n"},
                {"digest": "e"},
                {"dimension": 383},
                {"max_tokens": 128},
                {"normalized": False},
            )
        ),
    ]
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert Spec(ChunkerSpec(200, 0), identity).fingerprint == specs[0].fingerprint
