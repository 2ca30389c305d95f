"""What an agent may be, and the pure decisions around a batch."""

from typing import Any, Self

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import BaseModel, Field, ValidationError, model_validator

from agent_pipelines.agents.admission import admit, go_on
from agent_pipelines.agents.citations import Retrieved
from agent_pipelines.agents.schemas import (
    answer_schema,
    call_schema,
    inlined,
    problem,
    without,
)
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tools import ToolResult


class TestSpec:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"unknown": 1}, "unknown"),
            ({"tools": ["search", "search"], "index": "i"}, "twice"),
            ({"tools": ["search"]}, "index must name"),
            ({"bound_arguments": {"other": {"a": 1}}}, "not in tools"),
            ({"must_consult": True}, "at least one tool"),
            ({"output_schema": {"type": "string"}}, "type: object"),
            ({"output_schema": {"type": 3}}, "not a JSON Schema"),
            (
                {"output_schema": {"type": "object", "properties": {"citations": {}}}},
                "to the harness",
            ),
            (
                {"tool_calls": "structured", "tools": ["t"], "limits": {"turns": 1}},
                "turns >= 2",
            ),
        ],
    )
    def test_what_cannot_work_is_refused(self, change: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            AgentSpec.model_validate({"name": "a", "instructions": "b"} | change)

    def test_an_index_tool_reads_the_index_of_the_agent(self) -> None:
        spec = AgentSpec(
            name="a",
            instructions="b",
            tools=("search", "other"),
            index="runbooks",
            bound_arguments={"search": {"limit": 3, "index": "elsewhere"}},
        )
        assert spec.bound("search") == {"limit": 3, "index": "runbooks"}
        assert spec.bound("other") == {}

    def test_consulting_first_is_the_rule_where_a_model_cannot_choose(self) -> None:
        native = AgentSpec(name="a", instructions="b", tools=("t",))
        assert not native.consults
        assert AgentSpec(**(native.model_dump() | {"tool_calls": "structured"})).consults


class Rated(BaseModel):
    """An answer whose validator knows more than a schema can say."""

    answer: str
    sure: int = Field(ge=0, le=100)

    @model_validator(mode="after")
    def _no_guesses(self) -> Self:
        if self.sure < 50:
            raise ValueError("do not guess: say that you do not know")
        return self


class TestOutputClass:
    path = f"{__name__}.Rated"

    def test_it_gives_the_schema_and_its_validators_decide(self) -> None:
        spec = AgentSpec(name="a", instructions="b", output_class=self.path)
        assert set(spec.output_schema["properties"]) == {"answer", "sure"}
        assert spec.refusal({"answer": "x", "sure": 90}) is None
        assert "do not guess" in (spec.refusal({"answer": "x", "sure": 10}) or "")
        again = AgentSpec(**spec.model_dump())
        assert again == spec

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"output_class": "Rated"}, "names no module"),
            ({"output_class": "nowhere.Rated"}, "cannot be imported"),
            ({"output_class": f"{__name__}.Nothing"}, "has no Nothing"),
            ({"output_class": f"{__name__}.TestOutputClass"}, "no subclass of pydantic"),
            ({"output_class": path, "output_schema": {"type": "object"}}, "leave output_schema"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, fields: dict[str, Any], says: str) -> None:
        with pytest.raises(ValidationError, match=says):
            AgentSpec(name="a", instructions="b", **fields)


class TestSchemas:
    def test_references_are_inlined(self) -> None:
        class Step(BaseModel):
            text: str

        class Plan(BaseModel):
            steps: list[Step]

        schema = inlined(Plan.model_json_schema())
        assert "$defs" not in schema
        assert schema["properties"]["steps"]["items"]["properties"]["text"]["type"] == "string"

    def test_a_recursive_reference_is_refused(self) -> None:
        tree = {"type": "object", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}}
        with pytest.raises(ValueError, match="recursive"):
            inlined(tree | {"properties": {"t": {"$ref": "#/$defs/t"}}})

    def test_bound_arguments_are_not_shown(self) -> None:
        schema = {
            "type": "object",
            "properties": {"index": {"type": "string"}, "query": {"type": "string"}},
            "required": ["index", "query"],
        }
        shown = without(schema, ["index"])
        assert shown["required"] == ["query"]
        assert list(shown["properties"]) == ["query"]
        assert "index" in schema["properties"]

    def test_every_string_of_a_turn_has_an_end(self) -> None:
        turn = call_schema(
            "t",
            {
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "own": {"type": "string", "maxLength": 9},
                    "kind": {"type": "string", "enum": ["a"]},
                    "many": {"type": "array", "items": {"type": "string"}},
                },
            },
        )
        arguments = turn["properties"]["arguments"]["properties"]
        assert arguments["title"] == {"type": "string", "maxLength": 120}
        assert arguments["own"]["maxLength"] == 9
        assert "maxLength" not in arguments["kind"]
        assert arguments["many"]["items"]["maxLength"] == 120
        assert turn["properties"]["arguments"]["additionalProperties"] is False

    def test_an_answer_cites_what_was_retrieved(self) -> None:
        output = {"type": "object", "properties": {"answer": {"type": "string"}}}
        assert "citations" not in answer_schema(output, [])["properties"]
        schema = answer_schema(output, ["c1", "c2"])
        validator = Draft202012Validator(schema)
        assert validator.is_valid({"answer": "x", "citations": ["c2"]})
        assert not validator.is_valid({"answer": "x", "citations": ["c3"]})
        assert not validator.is_valid({"answer": "x", "citations": []})
        assert not validator.is_valid({"answer": "x"})
        assert "citations" not in output["properties"]

    def test_problems_are_said_in_words(self) -> None:
        output = {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
        }
        assert problem({"n": 1, "citations": ["c9"]}, output, cites=True) is None
        assert "JSON object" in (problem(None, output, cites=False) or "")
        assert "'n' is a required property" in (problem({}, output, cites=False) or "")
        assert "citations" in (problem({"n": 1}, output, cites=True) or "")
        assert "list" in (problem({"n": 1, "citations": "c1"}, output, cites=True) or "")


def hit(number: int, text: str = "text") -> dict[str, Any]:
    return {
        "chunk_id": f"id-{number}",
        "document_id": f"doc-{number}",
        "content_hash": "ff",
        "uri": "file:///x",
        "title": f"Title {number}",
        "text": text,
        "score": 1.0,
    }


class TestCitations:
    def test_a_chunk_keeps_its_ref(self) -> None:
        retrieved = Retrieved()
        first = {"sequence": 9, "hits": [hit(1), hit(2)]}
        second = {"sequence": 8, "hits": [hit(2), hit(3)]}
        retrieved.admit(ToolResult(False, "", first), characters=1000)
        text = retrieved.admit(ToolResult(False, "", second), characters=1000)
        assert text == "[c2] Title 2\ntext\n\n[c3] Title 3\ntext"
        assert retrieved.refs == ["c1", "c2", "c3"]
        assert retrieved.sequence == 8

    def test_what_was_not_retrieved_is_marked(self) -> None:
        retrieved = Retrieved()
        retrieved.admit(ToolResult(False, "", {"hits": [hit(1)]}), characters=1000)
        by_ref, unknown = retrieved.resolve(["[c1]", "id-1", "c1", "c7"])
        assert (by_ref.chunk_id, by_ref.content_hash, by_ref.retrieved) == (
            "id-1",
            "ff",
            True,
        )
        assert (unknown.chunk_id, unknown.retrieved) == ("c7", False)

    def test_what_does_not_fit_cannot_be_cited(self) -> None:
        retrieved = Retrieved()
        hits = [hit(1, "a" * 300), hit(2)]
        text = retrieved.admit(ToolResult(False, "", {"hits": hits}), characters=200)
        assert text is not None
        assert text.endswith("(cut)")
        assert retrieved.refs == ["c1"]

    @pytest.mark.parametrize("structured", [None, {}, {"hits": "x"}, {"hits": [{"text": "x"}]}])
    def test_other_results_hold_no_passages(self, structured: Any) -> None:
        assert Retrieved().admit(ToolResult(False, "t", structured), characters=100) is None


class TestAdmission:
    def test_all_true_is_admitted_without_a_label(self) -> None:
        decision = admit("block", [("a", "true"), ("b", "true")])
        assert decision.allowed
        assert decision.false_signals == ()

    @pytest.mark.parametrize("state", ["false", "cannot tell"])
    def test_a_doubt_blocks_or_labels(self, state: Any) -> None:
        readings: Any = [("fresh", "true"), ("complete", state)]
        blocked, labelled = admit("block", readings), admit("label", readings)
        assert not blocked.allowed
        assert labelled.allowed
        assert labelled.false_signals == ("complete",)
        assert f"complete: {state}" in blocked.reason

    def test_no_signal_is_no_evidence(self) -> None:
        assert not admit("block", []).allowed
        assert admit("label", []).allowed

    def test_a_warning_labels_and_does_not_block(self) -> None:
        decision = admit("block", [("a", "true"), ("odd", "false")], warnings=["odd"])
        assert decision.allowed
        assert decision.false_signals == ("odd",)

    def test_while_it_runs_only_what_is_false_ends_a_batch(self) -> None:
        blind: Any = [("fresh", "cannot tell", "a sync is in flight")]
        assert go_on("block", blind).allowed
        assert go_on("block", blind).false_signals == ("fresh",)
        false: Any = [*blind, ("counts_match", "false", "9 objects")]
        assert go_on("label", false).allowed
        assert go_on("block", false, warnings=["counts_match"]).allowed
        stopped = go_on("block", false)
        assert not stopped.allowed
        assert stopped.reason == "counts_match turned false: 9 objects"
