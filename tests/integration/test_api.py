"""The API as a process over real HTTP: a scripted model, a real tool server, the state database."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert, select, update

from agent_pipelines.settings import Retention
from agent_pipelines.state import tables
from agent_pipelines.state.engine import open_engine
from agent_pipelines.state.retention import expire
from tests import shell_server
from tests.api_server import Api, commit, serving, signal_readings, write_assets
from tests.certificates import Authority
from tests.processes import until
from tests.scripted_model import ScriptedModel, Turn, calls, says

SSE = {"accept": "text/event-stream"}

CLERK = "/agents/clerk/tasks"


def script(body: dict[str, Any]) -> Turn:
    """`echo X`, `wait FILE`: calls that tool, then answers with its result. Else answers at once;
    `slowly SECONDS`: after that long.
    """
    asked, last = body["messages"][1]["content"], body["messages"][-1]
    if last["role"] == "tool":
        return says({"answer": last["content"]})
    verb, _, rest = asked.partition(" ")
    if verb == "echo":
        return calls(("echo", {"text": rest}))
    if verb == "wait":
        return calls(("wait_for", {"file": rest}))
    return says({"answer": asked}, delay=float(rest) if verb == "slowly" else 0.0)


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(script) as server:
        yield server


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shell_server.Running]:
    with shell_server.running(tmp_path_factory.mktemp("tools")) as server:
        yield server


@pytest.fixture(scope="module")
def api(
    model: ScriptedModel, tools: shell_server.Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """Two places, and room for one to wait."""
    folder = tmp_path_factory.mktemp("api")
    assets = write_assets(folder, tools.url)
    limits = {"max_concurrent": 2, "max_waiting": 1, "max_request_bytes": 20_000}
    with serving(folder, assets, model.base_url, **limits) as server:
        yield server


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    with api.client() as client:
        yield client


def ask(http: httpx2.Client, question: str, path: str = CLERK, **more: Any) -> Any:
    """The finished task."""
    answer = http.post(path, json={"question": question, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


@contextmanager
def watching(http: httpx2.Client, question: str, **more: Any) -> Iterator[Iterator[Any]]:
    """Its events, until the block hangs up."""
    body = {"question": question, **more}
    with http.stream("POST", CLERK, json=body, headers=SSE) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        yield events(response.iter_lines())


def asked_of(model: ScriptedModel, question: str) -> int:
    return sum(body["messages"][1]["content"] == question for body in model.requests)


def quiet(api: Api) -> None:
    until(lambda: api.metric("agent_api_conversations") == 0, 20, "no conversation")


def test_an_answer_can_be_waited_for_or_watched(http: httpx2.Client) -> None:
    waited = ask(http, "echo x")
    assert waited["state"] == "finished"
    assert waited["inputs"] == {"question": "echo x"}
    answer = waited["answer"]
    assert (answer["outcome"], answer["output"]) == ("ok", {"answer": "x"})
    assert (answer["turns"], answer["tool_calls"], answer["prompt_tokens"]) == (2, 1, 20)

    with watching(http, "echo x") as told:
        seen = list(told)
    assert [kind for kind, _ in seen] == [
        *("started", "turn", "tool_call", "tool_result", "turn", "answer")
    ]
    by_kind = dict(seen)
    assert by_kind["tool_call"]["arguments"] == {"text": "x"}
    assert by_kind["tool_call"]["call_id"] == by_kind["tool_result"]["call_id"]
    assert by_kind["tool_result"]["text"] == "x"
    watched = by_kind["answer"]
    assert watched["answer"]["output"] == {"answer": "x"}
    assert watched["task_id"] != waited["task_id"], "without an id each task is a new one"
    for task in (waited, watched):
        assert http.get(f"{CLERK}/{task['task_id']}").json() == task


def test_one_id_is_one_task(http: httpx2.Client, model: ScriptedModel, tmp_path: Path) -> None:
    file = tmp_path / "file"
    question, task_id = f"wait {file}", "mine-1"
    with (
        ThreadPoolExecutor() as pool,
        watching(http, question, task_id=task_id) as told,
    ):
        while next(told)[0] != "tool_call":
            pass
        # Who asks the same meanwhile joins, and is told what happened before they came.
        joined = pool.submit(ask, http, question, task_id=task_id)
        conflict = http.post(CLERK, json={"question": "another", "task_id": task_id})
        running = http.get(f"{CLERK}/{task_id}").json()
        file.touch()
        finished = list(told)[-1][1]
        assert joined.result() == finished
    assert (conflict.status_code, conflict.json()["code"]) == (409, "conflict")
    assert (running["state"], running["answer"]) == ("running", None)
    assert ask(http, question, task_id=task_id) == finished
    conflict = http.post(CLERK, json={"question": "another", "task_id": task_id})
    assert (conflict.status_code, conflict.json()["code"]) == (409, "conflict")
    assert asked_of(model, question) == 2, "two turns, once"


def test_hanging_up_ends_it_and_asking_again_goes_on_where_it_was(
    api: Api, http: httpx2.Client, model: ScriptedModel, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    question = f"wait {file}"
    left = api.metric("agent_api_tasks_left_total", agent="clerk")
    with watching(http, question, task_id="hung-up") as told:
        while next(told)[0] != "tool_call":
            pass
        assert api.metric("agent_api_conversations") == 1
    quiet(api)
    assert api.metric("agent_api_tasks_left_total", agent="clerk") == left + 1
    unfinished = http.get(f"{CLERK}/hung-up").json()
    assert (unfinished["state"], unfinished["answer"]) == ("unfinished", None)
    assert unfinished["inputs"] == {"question": question}

    with watching(http, question, task_id="hung-up") as told:
        seen = list(told)
    # It was sent once, and the tool does not say that it may be called twice.
    assert "outcome of this call is unknown" in dict(seen)["tool_result"]["text"]
    assert dict(seen)["answer"]["answer"]["turns"] == 2
    assert asked_of(model, question) == 2, "the first turn is told again, not asked again"


def test_a_journal_that_another_replica_writes_is_left_to_it(
    api: Api, http: httpx2.Client, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    body = {"question": f"wait {file}", "task_id": "elsewhere"}
    engine = open_engine(api.database)
    mine = tables.messages.c.task_id == "elsewhere"
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(http.post, CLERK, json=body)

        def turn() -> Any:
            with engine.connect() as connection:
                return connection.execute(select(tables.messages).where(mine)).all()[2:]

        (last,) = until(turn, 20, "the model's turn in the journal")
        with engine.begin() as connection:
            theirs = {**last._mapping, "ordinal": last.ordinal + 1}
            connection.execute(insert(tables.messages).values(theirs))
        file.touch()
        refused = asked.result()
    assert (refused.status_code, refused.json()["code"]) == (409, "elsewhere")
    assert http.get(f"{CLERK}/elsewhere").json()["state"] == "unfinished"


def test_what_another_version_of_the_agent_began_is_not_gone_on_with(
    api: Api, http: httpx2.Client
) -> None:
    """Its journal may not fit; and its answer is given as it was."""
    finished = ask(http, "echo before", task_id="before")
    with watching(http, "slowly 20", task_id="begun") as told:
        assert next(told)[0] == "started"
    quiet(api)
    with open_engine(api.database).begin() as connection:
        before = connection.execute(select(tables.batches.c.work)).scalars().first()
        connection.execute(update(tables.batches).values(work="of another version"))
    try:
        refused = http.post(CLERK, json={"question": "slowly 20", "task_id": "begun"})
        assert (refused.status_code, refused.json()["code"]) == (409, "changed")
        assert ask(http, "echo before", task_id="before") == finished
    finally:
        with open_engine(api.database).begin() as connection:
            connection.execute(update(tables.batches).values(work=before))


def test_whoever_comes_when_all_is_full_is_told_when_to_come_back(
    api: Api, http: httpx2.Client, tmp_path: Path
) -> None:
    refused = api.metric("agent_api_requests_refused_total", reason="busy")
    file = tmp_path / "file"
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(ask, http, f"wait {file}") for _ in range(2)]
        until(lambda: api.metric("agent_api_conversations") == 2, 20, "both at work")
        with watching(http, "echo patience", task_id="queued") as told:
            assert next(told) == (
                *("waiting", {"agent": "clerk", "task_id": "queued", "before": 0}),
            )
            assert http.get(f"{CLERK}/queued").json()["state"] == "waiting"
            answer = http.post(CLERK, json={"question": "x"})
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "busy"
            file.touch()
            assert list(told)[-1][1]["answer"]["outcome"] == "ok"
        assert all(done.result()["answer"]["outcome"] == "ok" for done in running)
    assert api.metric("agent_api_requests_refused_total", reason="busy") == refused + 1
    quiet(api)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        (
            "POST",
            "/agents/nobody/tasks",
            {"question": "x"},
            404,
            "use one of: bold, careful, clerk",
        ),
        ("GET", "/agents/clerk/tasks/never", None, 404, "there is no task 'never'"),
        ("GET", "/agents/clerk/tasks/no%20id", None, 422, "task_id"),
        ("POST", CLERK, {}, 422, "it is not a task"),
        ("POST", CLERK, ["x"], 422, "body"),
        ("POST", CLERK, {"question": "x", "task_id": "a/b"}, 422, "task_id"),
        ("POST", CLERK, {"question": "x" * 20_000}, 413, "larger than 20000 bytes"),
        ("DELETE", CLERK, None, 405, "Method Not Allowed"),
        ("GET", "/nothing", None, 404, "/openapi.json"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    http: httpx2.Client, method: str, path: str, body: Any, status: int, named: str
) -> None:
    answer = http.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"code", "message", "remedy"}
    assert named in answer.text


def test_json_that_no_model_could_be_sent_is_refused(http: httpx2.Client) -> None:
    for text in ('{"question": NaN}', '{"question": "\\ud800"}'):
        answer = http.post(CLERK, content=text, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_the_policy_decides_as_it_does_for_a_batch(http: httpx2.Client, api: Api) -> None:
    engine = open_engine(api.database)
    refused = http.post("/agents/careful/tasks", json={"question": "x"})
    assert (refused.status_code, refused.json()["code"]) == (503, "index")
    assert "nothing was committed yet" in refused.text

    commit(engine, "docs", 7)
    refused = http.post("/agents/careful/tasks", json={"question": "x"})
    assert "cannot tell" in refused.text
    assert refused.headers["retry-after"]
    signal_readings(engine, "docs")
    answer = ask(http, "x", "/agents/careful/tasks")["answer"]
    assert (answer["outcome"], answer["sequence"], answer["false_signals"]) == ("ok", 7, [])

    signal_readings(engine, "docs", counts_match="false")
    refused = http.post("/agents/careful/tasks", json={"question": "x"})
    assert "counts_match: false" in refused.text
    assert ask(http, "x", "/agents/bold/tasks")["answer"]["false_signals"] == ["counts_match"]

    # False by the time that it has an answer: it is not given, and can be asked for again.
    signal_readings(engine, "docs")
    with ThreadPoolExecutor() as pool:
        body = {"question": "slowly 1.5", "task_id": "turned"}
        asked = pool.submit(http.post, "/agents/careful/tasks", json=body)
        path = "/agents/careful/tasks/turned"
        until(lambda: http.get(path).json().get("state") == "running", 20, "the task to run")
        signal_readings(engine, "docs", counts_match="false")
        refused = asked.result()
        assert (refused.status_code, refused.json()["code"]) == (503, "index")
        assert "counts_match turned false" in refused.text
        assert http.get(path).json()["state"] == "unfinished"
        signal_readings(engine, "docs")
        assert ask(http, task_id="turned", question="slowly 1.5", path="/agents/careful/tasks")


def test_rows_are_a_batch_of_the_day_that_retention_takes_away(
    http: httpx2.Client, api: Api
) -> None:
    task = ask(http, "echo kept")
    engine = open_engine(api.database)
    with engine.connect() as connection:
        row = connection.execute(
            select(tables.batches)
            .join(tables.answers, tables.answers.c.batch_id == tables.batches.c.batch_id)
            .where(tables.answers.c.task_id == task["task_id"])
        ).one()
        query = select(tables.messages.c.message).where(
            tables.messages.c.task_id == task["task_id"]
        )
        roles = [message["role"] for message in connection.scalars(query)]
    assert (row.agent, row.state, row.tenant) == ("clerk", "interactive", "anyone")
    assert row.finished_at.date() > row.started_at.date()
    assert roles == ["system", "user", "assistant", "tool", "assistant"]

    now = datetime.now(UTC)
    expire(engine, Retention(), now=now)
    assert http.get(f"{CLERK}/{task['task_id']}").status_code == 200
    gone = expire(engine, Retention(), now=now.replace(year=now.year + 1))
    assert gone["answers"] >= 1
    assert gone["tasks"] >= gone["answers"]
    assert http.get(f"{CLERK}/{task['task_id']}").status_code == 404


def test_the_counts_are_those_of_its_answers(http: httpx2.Client, api: Api) -> None:
    def counted() -> tuple[float, ...]:
        return (
            api.metric("agent_api_answers_total", agent="clerk", outcome="ok"),
            api.metric("agent_api_task_duration_seconds_count", agent="clerk"),
            api.metric("agent_api_tokens_total", agent="clerk", kind="completion"),
        )

    before = counted()
    ask(http, "echo counted")
    assert counted() == (before[0] + 1, before[1] + 1, before[2] + 10)
    assert json.loads(answered(api)[-1])["outcome"] == "ok"
    assert "counted" not in api.stderr, "a log sees no task"


def test_what_it_takes_to_answer_is_asked_for_by_name(model: ScriptedModel, tmp_path: Path) -> None:
    """A tool server that is not there at the start, comes, and goes; the breaker opens at once."""
    with shell_server.running(tmp_path / "tools") as tools:
        assets = write_assets(tmp_path, tools.url)
    port = tools.port
    with serving(tmp_path / "api", assets, model.base_url) as api, api.client() as http:
        ready = api.probe("/ready")
        assert ready.status_code == 503
        assert "tool server shelled" in ready.text
        refused = http.post(CLERK, json={"question": "echo x"})
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "tool server shelled" in refused.text
        with shell_server.running(tmp_path / "again", port=port):
            until(lambda: api.probe("/ready").text == "ready\n", 30, "ready")
            assert ask(http, "echo x")["answer"]["outcome"] == "ok"
        outcomes = [ask(http, "echo x")["answer"] for _ in range(2)]
        assert [answer["outcome"] for answer in outcomes] == ["transport", "transport"]
        began = time.monotonic()
        assert "tool unavailable, retry after" in ask(http, "echo y")["answer"]["error"]
        assert time.monotonic() - began < 5, "nobody waits for what is known to be down"


def test_killed_or_drained_it_leaves_what_can_be_resumed(
    model: ScriptedModel, tools: shell_server.Running, tmp_path: Path
) -> None:
    assets = write_assets(tmp_path, tools.url)
    file = tmp_path / "file"
    question = f"wait {file}"
    with serving(tmp_path / "api", assets, model.base_url, drain_seconds=6) as api:
        with api.client() as http, watching(http, question, task_id="killed") as told:
            while next(told)[0] != "tool_call":
                pass
            api.end(signal.SIGKILL)
            with pytest.raises(httpx2.TransportError):
                list(told)
        api.start()
        with api.client() as http, ThreadPoolExecutor() as pool:
            assert http.get(f"{CLERK}/killed").json()["state"] == "unfinished"
            resumed = ask(http, question, task_id="killed")["answer"]
            assert (resumed["outcome"], resumed["turns"]) == ("ok", 2)
            assert asked_of(model, question) == 2, "no finished turn is asked for again"

            quick = pool.submit(ask, http, "slowly 1", task_id="quick")
            slow = pool.submit(http.post, CLERK, json={"question": "slowly 30", "task_id": "slow"})
            until(lambda: api.metric("agent_api_conversations") == 2, 20, "both at work")
            api.process.send_signal(signal.SIGTERM)
            until(lambda: api.probe("/ready").text == "draining\n", 10, "draining")

            def refused() -> bool:
                # Until the server's next look at its signals, a tenth of a second, one gets in.
                return http.post(CLERK, json={"question": "new", "task_id": "late"}).is_error

            until(refused, 10, "new tasks are refused")
            response = http.post(CLERK, json={"question": "new"})
            assert (response.status_code, response.json()["code"]) == (503, "draining")
            assert quick.result()["answer"]["outcome"] == "ok", "it is let finish"
            ended = slow.result()
            assert (ended.status_code, ended.json()["code"]) == (503, "draining")
        # On a machine with no time for it the kernel ends it, as it would any drain that lasts.
        assert api.process.wait(timeout=20) in (0, -signal.SIGALRM)
        with open_engine(api.database).connect() as connection:
            answered = set(connection.scalars(select(tables.answers.c.task_id)))
            begun = set(connection.scalars(select(tables.messages.c.task_id)))
    assert answered - {"late"} == {"killed", "quick"}
    assert "slow" in begun


def test_over_mtls_a_certificate_names_the_tenant(
    model: ScriptedModel, tools: shell_server.Running, tmp_path: Path
) -> None:
    ours = Authority(tmp_path / "tls")
    cert, key = ours.issue("server", "127.0.0.1")
    day, night = (
        ours.client(ours.issue(name, f"{name}.example", caller=name)) for name in ("day", "night")
    )
    tls = {"tls_cert": cert, "tls_key": key, "tls_client_ca": ours.pem}
    assets = write_assets(tmp_path, tools.url)
    with serving(tmp_path / "api", assets, model.base_url, **tls) as api:
        with pytest.raises(httpx2.TransportError), api.client(verify=ours.client()) as stranger:
            stranger.get("/agents")
        with api.client(verify=day) as by_day, api.client(verify=night) as by_night:
            assert ask(by_day, "echo mine", task_id="same")["answer"]["outcome"] == "ok"
            assert by_night.get(f"{CLERK}/same").status_code == 404
            assert ask(by_night, "echo theirs", task_id="same")["answer"]["outcome"] == "ok"
            assert by_day.get(f"{CLERK}/same").json()["inputs"] == {"question": "echo mine"}
            # A probe has no certificate to show, and no business with tasks.
            assert api.probe("/agents").status_code == 404
            assert by_day.get("/metrics").status_code == 404
        assert [json.loads(line)["caller"] for line in answered(api)] == ["day", "night"]


def answered(api: Api) -> list[str]:
    return [line for line in api.stderr.splitlines() if '"message": "task"' in line]
