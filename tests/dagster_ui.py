"""Dagster from outside: what its UI asks of its webserver, over GraphQL.

Belongs here: starting runs as a person does there, and what the UI tells of them. Does not belong
here: what a run should look like.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

#: As in pyproject.toml.
LOCATION = "agent-pipelines"

_IMPLICIT = "__ASSET_JOB"

_LAUNCH = """
mutation($params: ExecutionParams!) {
  launched: launchRun(executionParams: $params) {
    ... on LaunchRunSuccess { run { id } } ... on Error { message }
  }
}"""
_REEXECUTE = """
mutation($params: ReexecutionParams!) {
  launched: launchRunReexecution(reexecutionParams: $params) {
    ... on LaunchRunSuccess { run { id } } ... on Error { message }
  }
}"""
_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launched: launchPartitionBackfill(backfillParams: $params) {
    ... on LaunchBackfillSuccess { backfillId } ... on Error { message }
  }
}"""
_RUNS = """
query($filter: RunsFilter) {
  runsOrError(filter: $filter) {
    ... on Runs {
      results { id jobName status tags { key value } parentRunId assetSelection { path } }
    }
    ... on Error { message }
  }
}"""
_LOGS = """
query($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events { ... on MessageEvent { message } } } }
}"""


@dataclass(frozen=True)
class Run:
    """What the UI tells of a run."""

    id: str
    job: str
    status: str
    tags: Mapping[str, str]
    parent: str | None


@dataclass(frozen=True)
class Webserver:
    """A webserver that answers here."""

    url: str
    location: str = LOCATION

    def answers(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/server_info").is_success
        return False

    def launch(self, job: str, *, partition: str | None = None) -> str:
        """The Launchpad, or a job's page; the run's id."""
        return self._launch(job, partition)

    def materialize(self, *assets: str, partition: str | None = None) -> str:
        """The button of that name, for assets such as `triage/answers`; the run's id."""
        return self._launch(_IMPLICIT, partition, assetSelection=_keys(assets))

    def backfill(self, asset: str, partitions: Sequence[str]) -> str:
        """Several partitions at once; the backfill's id."""
        params = {"assetSelection": _keys([asset]), "partitionNames": list(partitions)}
        return str(self._done(_BACKFILL, params)["backfillId"])

    def reexecute(self, run: str) -> str:
        """The button of that name; the new run's id."""
        params = {"parentRunId": run, "strategy": "ALL_STEPS"}
        return str(self._done(_REEXECUTE, params)["run"]["id"])

    def runs(self, **filters: Any) -> list[Run]:
        """Newest first; all of them, or those of this `pipelineName`, `runIds`, `tags`, …"""
        found = self.ask(_RUNS, filter=filters)["runsOrError"]
        assert "results" in found, found
        return [
            Run(
                run["id"],
                run["jobName"],
                run["status"],
                {tag["key"]: tag["value"] for tag in run["tags"]},
                run["parentRunId"],
            )
            for run in found["results"]
        ]

    def run(self, id_: str) -> Run:
        (found,) = self.runs(runIds=[id_])
        return found

    def log(self, run: str) -> str:
        """Every message of a run's events."""
        events = self.ask(_LOGS, id=run)["logsForRun"]["events"]
        return "\n".join(event["message"] for event in events if "message" in event)

    def ask(self, query: str, **variables: Any) -> Any:
        asked = {"query": query, "variables": variables}
        answer = httpx2.post(f"{self.url}/graphql", json=asked, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def _launch(self, job: str, partition: str | None, **selector: Any) -> str:
        params = {
            "selector": {
                "repositoryLocationName": self.location,
                "repositoryName": "__repository__",
                "jobName": job,
                **selector,
            },
            "executionMetadata": {
                "tags": [{"key": "dagster/partition", "value": partition}] if partition else []
            },
        }
        return str(self._done(_LAUNCH, params)["run"]["id"])

    def _done(self, mutation: str, params: Mapping[str, Any]) -> Any:
        done = self.ask(mutation, params=params)["launched"]
        assert "message" not in done, done["message"]
        return done


def _keys(assets: Sequence[str]) -> list[dict[str, list[str]]]:
    return [{"path": asset.split("/")} for asset in assets]
