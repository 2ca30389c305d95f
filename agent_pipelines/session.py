"""What one command works with: the assets, Dagster's instance, and the parts it keeps running.

Belongs here: starting or attaching to what a command needs, and running a job the way the UI sees
it. Does not belong here: what is printed (`terminal.py`) or which commands there are (`cli.py`).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import add
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.definitions import build_defs
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.loading import PACKAGED_ASSETS, Loaded, load_assets
from agent_pipelines.local import dagster_home, ports, vllm, weaviate
from agent_pipelines.local.models import check_llm, packaged_llm
from agent_pipelines.local.parts import Launch, Parts, find
from agent_pipelines.progress import Progress, shown_in
from agent_pipelines.settings import Settings
from agent_pipelines.state.leases import this_process
from resources.orchestrator import PROCESS_TAG

#: A run started by a command reports to the person in front of it, not to Dagster's console log.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

#: Errors whose message is for people; whatever caused them is not.
_OURS = {UserError.__name__, UnavailableError.__name__}

#: Numbers of a run that do not add up with those of another.
_WORSE: Mapping[str, Callable[[Any, Any], Any]] = {
    "latency_p50": max,
    "latency_p95": max,
    "tokens_per_second": min,
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class JobOutcome:
    """How a job run ended, read from its events."""

    run_id: str
    success: bool
    error: str | None
    metadata: Mapping[str, Mapping[str, Any]]
    """Metadata of each asset, by the last part of its key; of one that is not finished too."""
    checks: tuple["CheckOutcome", ...]

    def then(self, other: "JobOutcome") -> "JobOutcome":
        """Both, one after the other, as one: numbers of the same asset add up, but for those that
        are no amounts, of which the worse stands."""
        metadata = {asset: dict(values) for asset, values in self.metadata.items()}
        for asset, values in other.metadata.items():
            mine = metadata.setdefault(asset, {})
            for name, value in values.items():
                adds = isinstance(value, int | float) and name in mine
                mine[name] = _WORSE.get(name, add)(mine[name], value) if adds else value
        return JobOutcome(
            other.run_id,
            self.success and other.success,
            self.error or other.error,
            metadata,
            self.checks + other.checks,
        )


@dataclass(frozen=True)
class CheckOutcome:
    """One evaluated asset check."""

    asset: str
    name: str
    passed: bool
    warning: bool
    """Whether it only warns when it does not pass."""
    description: str


class Session:
    """One command's view of a state directory. Opens nothing until it is needed."""

    def __init__(self, settings: Settings, assets: Path | None, parts: Parts) -> None:
        self.settings = settings
        self._parts = parts
        self.assets = (assets or settings.agent_pipelines_assets or PACKAGED_ASSETS).absolute()

    @cached_property
    def loaded(self) -> Loaded:
        """What the assets folder holds."""
        return load_assets(self.assets)

    @cached_property
    def definitions(self) -> dg.Definitions:
        return build_defs(assets=self.assets)

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        return dagster_home.instance(self.settings.state_dir)

    @property
    def under_dev(self) -> bool:
        """Whether `dev` runs in this state directory; then it alone restarts parts."""
        return find(self.settings.state_dir, "dagster") is not None

    @property
    def environment(self) -> dict[str, str]:
        """What a process started by this command must know to see the same folders."""
        return {
            "AGENT_PIPELINES_STATE_DIR": str(self.settings.state_dir),
            "AGENT_PIPELINES_CACHE_DIR": str(self.settings.cache_dir),
            "AGENT_PIPELINES_ASSETS": str(self.assets),
        }

    def start_weaviate(self, say: Say, *, start: bool = True) -> None:
        """Have a Weaviate: the configured one, or the embedded one."""
        if self.settings.weaviate_url:
            return

        def launch() -> Launch:
            binary = weaviate.obtain(self.settings.cache_dir, say)
            state_dir = self.settings.state_dir
            return weaviate.launch(binary, state_dir, weaviate.api_key(state_dir))

        self._parts.ensure("weaviate", launch, start=start, progress=say)

    def start_search(self, say: Say) -> None:
        """Have a search tool server: the configured one, or one of our own."""
        if self.settings.search_tool_url:
            return

        def launch() -> Launch:
            (port,) = ports.stable(self.settings.state_dir, "search", 1)
            url = f"http://{ports.HOST}:{port}"
            return Launch(
                name="search",
                argv=(
                    *(sys.executable, "-m", "agent_pipelines.cli", "tools", "search"),
                    *("--port", str(port)),
                ),
                env=self.environment,
                addresses={"url": url},
                health_url=f"{url}/health",
                start_timeout=180.0,  # it loads the embedders before it serves
                stop_timeout=20.0,
            )

        self._parts.ensure("search", launch, progress=say)

    def needs_vllm(self, agents: Iterable[str]) -> bool:
        """Whether some of these agents use the embedded vLLM."""
        return not self.settings.llm_base_url and self.loaded.embedded_llm(agents)

    def start_llm(self, say: Say) -> None:
        """Have the embedded vLLM."""

        def launch() -> Launch:
            if self.settings.llm_model:
                check_llm(self.settings.llm_model)
            model = self.settings.llm_model or packaged_llm(self.settings.cache_dir, say)
            return vllm.launch(model, self.settings.state_dir, served_name=Path(model).name)

        self._parts.ensure("vllm", launch, progress=say)

    def start_dagster(self, say: Say, port: int | None) -> str:
        """Have Dagster's webserver and daemon; returns the URL of the UI."""

        def launch() -> Launch:
            return dagster_home.launch(self.settings.state_dir, self.environment, port)

        return self._parts.ensure("dagster", launch, progress=say)["url"]

    def start_exporter(self, say: Say) -> str:
        """Have an exporter beside Dagster, which watches it; returns its URL."""

        def launch() -> Launch:
            (port,) = ports.stable(self.settings.state_dir, "exporter", 1)
            url = f"http://{ports.HOST}:{port}"
            home = dagster_home.home(self.settings.state_dir)
            return Launch(
                name="exporter",
                argv=(
                    *(sys.executable, "-m", "agent_pipelines.cli", "exporter"),
                    *("--port", str(port)),
                ),
                env={**self.environment, "DAGSTER_HOME": str(home)},
                addresses={"url": url},
                health_url=f"{url}/health",
                stop_timeout=15.0,
            )

        return self._parts.ensure("exporter", launch, progress=say)["url"]

    def close(self) -> None:
        """Let go of every part at once; one that is just being started by a thread included."""
        self._parts.close()

    def run_job(
        self,
        job_name: str,
        progress: Progress,
        *,
        ops: Mapping[str, Any] | None = None,
        partition_key: str | None = None,
    ) -> JobOutcome:
        """Run a job in this process, recorded in Dagster's instance like any other run."""
        job = self.definitions.resolve_job_def(job_name)
        with shown_in(progress):
            result = job.execute_in_process(
                run_config={**_QUIET, "ops": ops or {}},
                instance=self.instance,
                partition_key=partition_key,
                # Nobody launched it, so nobody else could tell whether it still runs.
                tags={PROCESS_TAG: this_process()},
                raise_on_error=False,
            )
        if _interrupted(result):
            # Dagster has made a failed run of it. Whoever pressed Ctrl-C wants no next job either.
            raise KeyboardInterrupt
        return JobOutcome(
            run_id=result.run_id,
            success=result.success,
            error=_error(result),
            metadata={
                key.path[-1]: {name: value.value for name, value in metadata.items()}
                for key, metadata in _told(result)
            },
            checks=tuple(
                CheckOutcome(
                    check.asset_key.to_user_string(),
                    check.check_name,
                    check.passed,
                    check.severity is dg.AssetCheckSeverity.WARN,
                    check.description or "",
                )
                for check in result.get_asset_check_evaluations()
            ),
        )


def _told(
    result: dg.ExecuteInProcessResult,
) -> Iterator[tuple[dg.AssetKey, Mapping[str, dg.MetadataValue]]]:
    for event in result.get_asset_observation_events():
        observed = event.asset_observation_data.asset_observation
        yield observed.asset_key, observed.metadata
    for event in result.get_asset_materialization_events():
        if event.asset_key:
            yield event.asset_key, event.materialization.metadata


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    for event in result.all_events:
        error = getattr(event.event_specific_data, "error", None)
        while error is not None:
            if error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
                return True
            error = error.cause
    return False


def _error(result: dg.ExecuteInProcessResult) -> str | None:
    """Why the first step that failed did, in the words of our own error where it was one."""
    for event in result.filter_events(lambda e: e.is_step_failure):
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return str(data.user_failure_data.description)
        if data.error:
            error = data.error
            while error.cause and error.cls_name not in _OURS:
                error = error.cause
            message = error.message.strip()
            return message.split(": ", 1)[-1] if error.cls_name in _OURS else message
    return None


@contextmanager
def open_session(settings: Settings, assets: Path | None) -> Iterator[Session]:
    """A session whose parts are let go at the end, whatever happened.

    Raises:
        UserError: the state directory cannot be written.
    """
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        (settings.state_dir / ".writable").write_bytes(b"")
    except OSError as error:
        raise UserError(
            f"the state directory {settings.state_dir} cannot be written: {error}",
            remedy="set AGENT_PIPELINES_STATE_DIR to a folder that can",
        ) from error
    with Parts(settings.state_dir) as parts:
        yield Session(settings, assets, parts)
