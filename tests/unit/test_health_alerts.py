"""Rules, runbooks and routing, judged by Prometheus' own programs: each fault, only its alert."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent_pipelines.health import __main__ as generated
from agent_pipelines.health import alerts
from agent_pipelines.health.signal import Signal
from tests import prometheus, traces
from tests.loopback import LoopbackServer
from tests.processes import until
from tests.standin_exporter import SCRAPE, StandinExporter
from tests.traces import Fired, Trace

RULES = generated.ROOT / "deploy/alerts/rules.yaml"
CHART_RULES = generated.ROOT / "deploy/chart/files/rules.yaml"
ROUTES = generated.ROOT / "deploy/alerts/alertmanager.yaml"

#: Recorded from a real exporter: the first line of each says which alerts it must raise.
RECORDED = sorted((Path(__file__).parent / "traces").glob("*.trace"))

SIGNALS = [signal for some in alerts.catalogues().values() for signal in some]


#: Lets something happen, scrape by scrape.
Play = Callable[[StandinExporter, Trace], None]


@dataclass
class Case:
    """Something that happened, and everything that was to fire at any time of it."""

    play: Play
    fires: set[Fired]
    every: float = SCRAPE


CASES: dict[str, Case] = {}


def case(*fires: Fired, every: float = SCRAPE) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        CASES[play.__name__] = Case(play, set(fires), every)
        return play

    return add


def subject_of(signal: Signal[Any]) -> str:
    return "machinery" if signal.guards == "machinery" else "docs"


def one_false(signal: Signal[Any]) -> None:
    def play(exporter: StandinExporter, trace: Trace) -> None:
        exporter.run(trace, 3)
        exporter.states[subject_of(signal), signal.name] = "false"
        exporter.run(trace, 3)
        exporter.states.clear()
        exporter.run(trace, 2)

    CASES[f"{signal.name} is false"] = Case(play, {(alerts.name_of(signal), subject_of(signal))})


for each_signal in SIGNALS:
    one_false(each_signal)


def blind(exporter: StandinExporter, index: str, *, to: str = "cannot_tell") -> None:
    for subject, signal in exporter.subjects():
        if subject == index:
            exporter.states[subject, signal.name] = to


@case(every=15)
def a_busy_healthy_hour(exporter: StandinExporter, trace: Trace) -> None:
    """Edits every five minutes; each sync has a minute in which nothing can be told."""

    def work() -> None:
        docs, into = exporter.indexes["docs"], exporter.now % 300
        docs.staleness = max(0.0, into - 120) if into < 240 else 0.0
        docs.pending = 40 if 180 <= into < 240 else 0
        docs.sequence += into == 240
        docs.attempts = int(180 <= into < 240)
        blind(exporter, "docs", to="cannot_tell" if docs.pending else "true")

    exporter.run(trace, 60, each=work)


@case()
def the_exporter_is_restarted(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.answers = False
    exporter.run(trace, 1)
    exporter.answers, exporter.ticks = True, 0
    exporter.run(trace, 20)


@case()
def a_tick_saw_something_false_and_the_next_did_not(
    exporter: StandinExporter, trace: Trace
) -> None:
    exporter.run(trace, 5)
    exporter.states["docs", "counts_match"] = "false"
    exporter.run(trace, 1)
    exporter.states.clear()
    exporter.run(trace, 5)


@case(("CountsMatchFalse", "docs"))
def a_repair_in_flight_hides_what_is_false(exporter: StandinExporter, trace: Trace) -> None:
    """One alert, not one per attempt: see `uninterrupted`."""
    exporter.run(trace, 5)
    for _ in range(4):
        exporter.states["docs", "counts_match"] = "false"
        exporter.run(trace, 2)
        exporter.states["docs", "counts_match"] = "cannot_tell"
        exporter.run(trace, 1)
    exporter.states.clear()
    exporter.run(trace, 10)


@case(("ExporterGone", "exporter"))
def the_exporter_ends(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.answers = False
    exporter.run(trace, 20)


@case(("ExporterFrozen", "exporter"))
def the_exporter_shows_its_last_values_for_ever(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.frozen = exporter.metrics()
    exporter.run(trace, 20)


@case(
    ("ExporterFrozen", "exporter"),
    *(
        (alert, subject)
        for alert in ("TickTooOld", "ReadingTooOld", "CannotTell")
        for subject in ("wiki", *map(subject_of, SIGNALS))
    ),
)
def the_exporters_ticks_hang(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    ticks = exporter.ticks
    exporter.ticked_at = {subject: exporter.now for subject, _ in exporter.subjects()}

    def hang() -> None:
        exporter.ticks = ticks

    exporter.run(trace, 25, each=hang)


@case(("TickTooOld", "docs"), ("ReadingTooOld", "docs"), ("CannotTell", "docs"))
def the_look_at_one_index_hangs(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.ticked_at = {"docs": exporter.now}
    exporter.run(trace, 25)


@case(*((alert, s) for alert in ("CannotTell", "ReadingTooOld") for s in ("docs", "wiki")))
def no_audit_runs_any_more(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.audited_at = exporter.now
    exporter.run(trace, 75)


@case(every=120)
def an_index_is_audited_every_other_hour(exporter: StandinExporter, trace: Trace) -> None:
    exporter.indexes["docs"].audit_every = 7_200
    exporter.run(trace, 5 * 60)


@case(("CannotTell", "docs"), ("ReadingTooOld", "docs"), every=120)
def its_audit_does_not_run(exporter: StandinExporter, trace: Trace) -> None:
    """Told once it is late by less than an hour."""
    del exporter.indexes["wiki"]
    exporter.indexes["docs"].audit_every = 7_200
    exporter.audited_at = 0
    exporter.run(trace, 2 * 60 + 80)


@case()
def the_store_restarts_for_two_minutes(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 5)
    blind(exporter, "docs")
    exporter.run(trace, 2)
    exporter.states.clear()
    exporter.run(trace, 10)


@case(("CannotTell", "docs"))
def the_store_is_down_for_twenty_minutes(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 5)
    blind(exporter, "docs")
    exporter.run(trace, 20)
    exporter.states.clear()
    exporter.run(trace, 5)


@case()
def nothing_was_audited_yet(exporter: StandinExporter, trace: Trace) -> None:
    """The first quarter of an hour of a new installation."""
    exporter.audited_at = -math.inf
    exporter.run(trace, 12)
    exporter.audited_at = None
    exporter.run(trace, 10)


@case(("CannotTell", "docs"), ("CannotTell", "wiki"))
def nothing_is_ever_audited(exporter: StandinExporter, trace: Trace) -> None:
    exporter.audited_at = -math.inf
    exporter.run(trace, 25)


def long_sync(exporter: StandinExporter, trace: Trace, minutes: float) -> None:
    exporter.run(trace, 5)
    blind(exporter, "docs")
    docs = exporter.indexes["docs"]

    def get_on() -> None:
        docs.pending = 100
        docs.documents += 10

    exporter.run(trace, minutes, each=get_on)


@case()
def a_sync_gets_on_for_an_hour(exporter: StandinExporter, trace: Trace) -> None:
    long_sync(exporter, trace, 60)


@case()
def the_first_sync_takes_an_hour(exporter: StandinExporter, trace: Trace) -> None:
    exporter.indexes["docs"].sequence = 0
    blind(exporter, "docs")
    exporter.run(trace, 60)
    exporter.indexes["docs"].sequence = 1
    exporter.states.clear()
    exporter.run(trace, 5)


@case(("CannotTellForHours", "docs"), every=120)
def a_sync_gets_on_and_never_ends(exporter: StandinExporter, trace: Trace) -> None:
    long_sync(exporter, trace, 370)


@case(("SubjectVanished", "docs"))
def an_index_is_not_watched_any_more(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    del exporter.indexes["docs"]
    exporter.run(trace, 15)


@case(("SignalsVanished", "docs"))
def a_signal_is_not_exported_any_more(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.without = lambda _, labels: (
        (labels.get("subject"), labels.get("signal")) == ("docs", "fresh")
    )
    exporter.run(trace, 15)


@case(("SeriesMissing", "exporter"))
def no_age_is_exported_any_more(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 10)
    exporter.without = lambda name, _: name == "agent_pipelines_signal_age_seconds"
    exporter.run(trace, 15)


@case(("RepairsDoNotHelp", "docs"))
def six_repairs_did_not_help(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 5)
    for attempts in range(1, 7):
        exporter.indexes["docs"].attempts = attempts
        exporter.run(trace, 2)


def batch(exporter: StandinExporter, *, failing: int, arriving: bool = True) -> Callable[[], None]:
    """A hundred calls of agents a minute, some of which fail."""

    def work() -> None:
        tool = exporter.tool
        tool.calls += 100
        tool.errors += failing
        if tool.served is not None and arriving:
            tool.served += 100
            tool.served_errors += failing

    return work


@case()
def few_tool_calls_fail(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 2)
    exporter.run(trace, 20, each=batch(exporter, failing=5))
    exporter.run(trace, 20)


@case(("ToolErrors", "search"), ("ToolErrors", "search/search"))
def one_tool_call_in_ten_fails(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 2)
    exporter.run(trace, 10, each=batch(exporter, failing=10))


@case(("ToolErrors", "search/search"))
def tool_calls_do_not_arrive(exporter: StandinExporter, trace: Trace) -> None:
    """The server is well, and counts nothing."""
    exporter.run(trace, 2)
    exporter.run(trace, 10, each=batch(exporter, failing=10, arriving=False))


@case(
    ("ToolErrors", "search/search"), ("ToolServerDown", "search"), ("ToolServersNotSeen", "search")
)
def the_tool_server_dies_before_anybody_called_it(exporter: StandinExporter, trace: Trace) -> None:
    """Nothing but the agents' own counts can tell."""
    exporter.run(trace, 2)
    exporter.tool.served, exporter.tool.breaker = None, "open"
    exporter.run(trace, 10, each=batch(exporter, failing=100))


@case()
def the_breaker_opens_for_a_moment(exporter: StandinExporter, trace: Trace) -> None:
    exporter.run(trace, 5)
    exporter.tool.breaker = "open"
    exporter.run(trace, 1)
    exporter.tool.breaker = "closed"
    exporter.run(trace, 5)


@case(("ToolServersNotSeen", "search"))
def tool_servers_are_no_target_of_prometheus(exporter: StandinExporter, trace: Trace) -> None:
    exporter.tool.served = None
    exporter.run(trace, 15, each=batch(exporter, failing=0))


@case(("ToolCallsMissing", "exporter"))
def tool_calls_are_not_exported(exporter: StandinExporter, trace: Trace) -> None:
    exporter.without = lambda name, _: name.startswith("agent_pipelines_tool_call")
    exporter.run(trace, 10)


def test_what_is_in_git_is_what_the_catalogues_say() -> None:
    wanted = generated.files()
    kept = {
        str(path.relative_to(generated.ROOT)): path.read_text()
        for path in (RULES, CHART_RULES, *(generated.ROOT / alerts.RUNBOOKS).glob("*.md"))
    }
    stale = sorted(path for path in {*wanted, *kept} if wanted.get(path) != kept.get(path))
    assert not stale, f"run `uv run python -m agent_pipelines.health`, and commit {stale}"


def test_every_alert_has_its_page() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            page = generated.ROOT / rule["annotations"]["runbook_url"]
            assert rule["alert"] in page.read_text()


def test_the_rules_are_rules() -> None:
    checked = prometheus.run("promtool", "check", "rules", "--lint-fatal", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What promtool has against each case, all of them judged by one process."""
    tests = []
    for name, told in CASES.items():
        trace = Trace(told.every)
        told.play(StandinExporter(SIGNALS), trace)
        tests.append(traces.judged(name, traces.parse(trace.dump(told.fires))))
    tests += [traces.judged(file.stem, traces.parse(file.read_text())) for file in RECORDED]
    tests[0]["alert_rule_test"] = [rendered(SIGNALS[0])]
    hidden = list(CASES).index(a_repair_in_flight_hides_what_is_false.__name__)
    tests[hidden]["promql_expr_test"].append(uninterrupted())
    suite = tmp_path_factory.mktemp("promtool") / "tests.yaml"
    suite.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    done = prometheus.run("promtool", "test", "rules", suite)
    against: dict[str, str] = {}
    for part in re.split(r"(?=^ +expr: )", done.stderr + done.stdout, flags=re.MULTILINE):
        if found := re.search(r" # (.+?)\\?\", time", part):
            against[found[1]] = part
    assert done.returncode == 0 or against, done.stderr + done.stdout
    return against


def uninterrupted() -> dict[str, Any]:
    """Seen false in the fifth minute, and in two of three after it: it fires in each of ten."""
    firing = 'ALERTS{alertname="CountsMatchFalse",alertstate="firing"}'
    return {
        "expr": f"sum(count_over_time({firing}[9m30s])) "
        f"# {a_repair_in_flight_hides_what_is_false.__name__}",
        "eval_time": "16m",
        "exp_samples": [{"labels": "{}", "value": 10}],
    }


def rendered(signal: Signal[Any]) -> dict[str, Any]:
    """The alert as somebody gets it, while the first signal of all is false."""
    return {
        "eval_time": "5m",
        "alertname": alerts.name_of(signal),
        "exp_alerts": [
            {
                "exp_labels": {
                    "subject": subject_of(signal),
                    "signal": signal.name,
                    "severity": signal.severity,
                },
                "exp_annotations": {
                    "summary": f"{subject_of(signal)}: no longer true: {signal.statement}",
                    "description": signal.runbook,
                    "runbook_url": f"deploy/runbooks/{signal.name}.md",
                },
            }
        ],
    }


@pytest.mark.parametrize("name", [*CASES, *(file.stem for file in RECORDED)])
def test_each_fault_fires_its_alert_and_no_other(name: str, failed: dict[str, str]) -> None:
    assert name not in failed, failed[name]


def test_a_trace_keeps_what_was_scraped() -> None:
    trace = Trace(15)
    for text in (
        None,
        "# TYPE agent_pipelines_a gauge\nagent_pipelines_a 1\npython_info 3\n",
        "agent_pipelines_a 3\n",
        None,
        None,
    ):
        trace.add(text)
    for value in (7, 7, 7, 8):
        trace.add(f'agent_pipelines_a {value}\nagent_pipelines_b{{x="y"}} 0.25\n')
    fires = {("CountsMatchFalse", "docs"), ("CannotTell", "docs")}
    told = traces.parse(trace.dump(fires))
    assert (told.every, told.seconds, told.fires) == (15, 120, fires)
    assert told.series == {
        "agent_pipelines_a": "_x1 1 3 stale _x1 7+0x2 8",
        'agent_pipelines_b{x="y"}': "_x5 0.2+0x3",
    }


def test_an_exporter_is_recorded_with_its_silence() -> None:
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    class Exporter(LoopbackServer):
        scrapes = 0

        def routes(self) -> list[Route]:
            return [Route("/metrics", self.metrics)]

        def metrics(self, _: Request) -> PlainTextResponse:
            self.scrapes += 1
            return PlainTextResponse(
                f"agent_pipelines_a {self.scrapes}\n",
                status_code=500 if self.scrapes == 3 else 200,
            )

    with Exporter() as exporter:
        url = exporter.base_url.replace("/v1", "/metrics")
        with traces.recording(url, every=0.05) as trace:
            until(lambda: exporter.scrapes >= 6, 20, "six scrapes")
    assert trace.series()["agent_pipelines_a"].startswith("1 2 stale 4")


def test_amtool_accepts_the_routing_and_each_alert_reaches_its_receiver() -> None:
    checked = prometheus.run("amtool", "check-config", ROUTES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for labels, receiver in (
        ({"alertname": "Watchdog", "severity": "none"}, "dead-man"),
        ({"alertname": "FreshFalse", "severity": "page"}, "page"),
        ({"alertname": "SignalsVanished", "severity": "warn"}, "warn"),
    ):
        arguments = [f"{name}={value}" for name, value in labels.items()]
        routed = prometheus.run(
            "amtool", "config", "routes", "test", f"--config.file={ROUTES}", *arguments
        )
        assert routed.stdout.split() == [receiver]


def test_the_routing_names_alerts_that_exist() -> None:
    """A misspelt name inhibits nothing, and nobody would see it."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    known = {rule["alert"] for group in groups for rule in group["rules"]}
    config = yaml.safe_load(ROUTES.read_text())
    matchers = [m for route in config["route"]["routes"] for m in route["matchers"]]
    for rule in config["inhibit_rules"]:
        matchers += [*rule["source_matchers"], *rule["target_matchers"]]
    named = [m.split('"')[1] for m in matchers if m.startswith("alertname")]
    assert {name for some in named for name in some.split("|")} <= known


@pytest.mark.parametrize(
    ("cause", "consequence", "unrelated"),
    [
        (
            {"alertname": "DaemonAliveFalse", "subject": "machinery", "severity": "page"},
            {"alertname": "FreshFalse", "subject": "docs", "severity": "page"},
            {"alertname": "DocumentsIndexedFalse", "subject": "docs", "severity": "page"},
        ),
        (
            {"alertname": "CannotTell", "subject": "docs", "severity": "page"},
            {"alertname": "FreshFalse", "subject": "docs", "severity": "page"},
            {"alertname": "RepairsDoNotHelp", "subject": "wiki", "severity": "page"},
        ),
        (
            {"alertname": "SpecIsCurrentFalse", "subject": "docs", "severity": "page"},
            {"alertname": "CannotTell", "subject": "docs", "severity": "page"},
            {"alertname": "FreshFalse", "subject": "wiki", "severity": "page"},
        ),
        (
            {"alertname": "AliasPointsToLiveFalse", "subject": "docs", "severity": "page"},
            {"alertname": "KnownItemsFoundFalse", "subject": "docs", "severity": "page"},
            {"alertname": "VectorsValidFalse", "subject": "docs", "severity": "page"},
        ),
        (
            {"alertname": "ExporterFrozen", "subject": "exporter", "severity": "page"},
            {"alertname": "TickTooOld", "subject": "docs", "severity": "page"},
            {"alertname": "CountsMatchFalse", "subject": "docs", "severity": "page"},
        ),
    ],
    ids=lambda labels: labels["alertname"],
)
def test_one_cause_pages_once(
    cause: dict[str, str],
    consequence: dict[str, str],
    unrelated: dict[str, str],
    tmp_path: Path,
) -> None:
    with prometheus.alertmanager(ROUTES, tmp_path) as running:
        running.post(cause, consequence, unrelated)
        expected = {
            cause["alertname"]: "active",
            consequence["alertname"]: "suppressed",
            unrelated["alertname"]: "active",
        }
        until(lambda: running.states() == expected, 20, f"{running.states()} are {expected}")


def test_a_dead_man_hears_the_watchdog_at_once(tmp_path: Path) -> None:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    heard: list[Any] = []

    class DeadMan(LoopbackServer):
        def routes(self) -> list[Route]:
            return [Route("/heard", self.hear, methods=["POST"])]

        async def hear(self, request: Request) -> Response:
            heard.append(await request.json())
            return Response()

    with DeadMan() as receiver:
        config = tmp_path / "alertmanager.yaml"
        url = receiver.base_url.replace("/v1", "/heard")
        config.write_text(
            ROUTES.read_text().replace("http://dead-man.example/agent-pipelines", url)
        )
        with prometheus.alertmanager(config, tmp_path) as running:
            running.post(
                {"alertname": "Watchdog", "subject": "exporter", "severity": "none"},
                {"alertname": "FreshFalse", "subject": "docs", "severity": "page"},
            )
            until(lambda: heard, 20, "the watchdog arrives")
    assert [alert["labels"]["alertname"] for alert in heard[0]["alerts"]] == ["Watchdog"]
