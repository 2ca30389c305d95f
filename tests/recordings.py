"""`python -m tests.recordings [NAME…]`: what a real exporter says of each fault, for promtool.

Belongs here: doing what `tests/faults` does under an exporter's eyes, and keeping what it said in
`tests/unit/traces`, which `tests/unit/test_health_alerts.py` judges. Does not belong here: a fault,
or which signals it turns false: both are those of `tests/faults`.

Time is short here and long there: the exporter looks so many times as often as it would, and what
it said is kept as if all had taken so much longer, ages included. Without names all are recorded,
in about half an hour; names are those of the files, without their ending.
"""

import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from math import isfinite
from pathlib import Path
from threading import Event
from typing import Any, cast

import psutil  # type: ignore[import-untyped]

from agent_pipelines.commands.exporter import IndexSubject
from agent_pipelines.health import alerts
from agent_pipelines.health.__main__ import ROOT
from agent_pipelines.health.evaluate import audit
from agent_pipelines.health.exporter.server import build_app
from agent_pipelines.health.exporter.worker import Fleet, Look
from agent_pipelines.health.signal import Depth, may_be_old
from agent_pipelines.health.signals import catalogue
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.sources.files import Files
from agent_pipelines.local import ports, weaviate
from agent_pipelines.local.parts import Parts
from agent_pipelines.settings import Settings
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateResource
from tests import processes, weaviate_nodes
from tests.engine import MemorySource, document, named_index, run_sync
from tests.faults import test_dev_faults as dev_faults
from tests.faults.test_dev_faults import Dev
from tests.faults.test_index_faults import FAULTS, Fault, System, repair, trace_of
from tests.faults.test_no_false_alarm import Busy
from tests.faults.test_replica_faults import replicated
from tests.loopback import LoopbackServer
from tests.processes import until
from tests.traces import Fired, Trace, recording

FOLDER = Path(__file__).parent / "unit" / "traces"

#: Seconds between two ticks, two audits and two scrapes, as they are kept.
_TICK, _AUDIT = 30, 600

#: How many times as fast an index is watched in this process, and a `dev` from another one.
_PACE, _DEV_PACE = 30, 10

#: Scrapes: before a fault, while it lasts, while it lasts where only `CannotTell` can say so, and
#: after its repair.
_BEFORE, _DURING, _UNSURE, _AFTER = 4, 8, 38, 6

#: A state that its signal never had: no rule asks for it.
_NEVER = re.compile(r"^\w+\{[^}]*state=[^}]*\} 0\+0x\d+\n", re.MULTILINE)

#: The metrics that a rule asks for: of the others nothing is kept.
_ASKED = frozenset(
    re.findall(r"agent_pipelines_\w+", (ROOT / "deploy/alerts/rules.yaml").read_text())
)

#: What is said of it is no time that passes.
_LIMIT = "agent_pipelines_reading_age_limit_seconds"

_SAMPLE = re.compile(r"(?P<name>\w+)(?P<labels>\{.*\})? (?P<value>\S+)")


def heard(text: str, *, pace: float, index: str = "docs") -> str:
    """What is kept of a scrape: what rules ask for, as slow as it is to be, of an index `docs`.

    Ages are rounded to whole ticks: by less than that no rule is moved.
    """
    lines = []
    for sample in map(_SAMPLE.fullmatch, text.splitlines()):
        if sample is None or sample["name"] not in _ASKED:
            continue
        value = float(sample["value"])
        if sample["name"].endswith("_seconds") and isfinite(value):
            value = round(value * pace / _TICK) * _TICK
        if sample["name"] == _LIMIT:  # as it is, however much time is hurried
            depth: Depth = "audit" if 'depth="audit"' in (sample["labels"] or "") else "tick"
            value = may_be_old(depth, timedelta(seconds=_AUDIT)).total_seconds()
        labels = (sample["labels"] or "").replace(f'"{index}"', '"docs"')
        lines.append(f"{sample['name']}{labels} {value:g}")
    return "\n".join(lines)


def keep(name: str, trace: Trace, fires: set[Fired], *, pace: float) -> None:
    """Write a recorded trace into its file."""
    trace.every = trace.every * pace
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{name}.trace"
    file.write_text(_NEVER.sub("", trace.dump(fires)))
    said = ", ".join("/".join(fired) for fired in sorted(fires)) or "nothing"
    sys.stdout.write(f"{name}: {trace.scrapes} scrapes, {file.stat().st_size} bytes, {said}\n")


def pass_scrapes(trace: Trace, number: int) -> None:
    until_ = trace.scrapes + number
    until(lambda: trace.scrapes >= until_, 10 + number * trace.every * 3, f"{number} scrapes")


class Component:
    """What the exporter opens an index by, of an index that a test has made."""

    audit_every = timedelta(seconds=_AUDIT / _PACE)

    def __init__(self, name: str, now: Callable[[], Index]) -> None:
        self.name = name
        self._now = now

    @contextmanager
    def open(self, *_: object) -> Iterator[Index]:
        yield self._now()


class Hanging(IndexSubject):
    """Its look waits while it is told to, as for somebody who never answers."""

    goes_on = Event()

    def look(self) -> Look:
        self.goes_on.wait()
        return super().look()


@contextmanager
def watched(
    name: str, now: Callable[[], Index], *, kind: type[IndexSubject] = IndexSubject
) -> Iterator[str]:
    """The exporter's own threads and endpoints over one index; the address of its /metrics."""
    every = _TICK / _PACE
    fleet = Fleet(interval=every, say=lambda _: None)
    app = build_app(fleet, tick_every=every)

    class Exporter(LoopbackServer):
        def routes(self) -> list[Any]:
            return list(app.routes)

    os.environ["STATE_DATABASE_URL"] = str(now().engine.url)
    fleet.watch([kind(cast(Any, Component(name, now)))])
    fleet.supervise()
    try:
        with Exporter() as serving:
            until(lambda: all(seen.ended for seen in fleet.seen), 30, "the first look")
            yield serving.base_url.replace("/v1", "/metrics")
    finally:
        fleet.stop(10)
        del os.environ["STATE_DATABASE_URL"]


@contextmanager
def systems(server: dict[str, str]) -> Iterator[tuple[System, Callable[[], Index]]]:
    """A healthy index, and the same over the connection of whoever watches it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        WeaviateResource(**server).connect() as store,
        WeaviateResource(**server).connect() as watching,
    ):
        source = MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(4)})
        engine = open_engine(f"sqlite:///{folder}/state.db")
        with named_index(store, engine, source) as index:
            system = System(index, source, Path(folder))
            system.synced()
            system.looked(audit())
            yield system, lambda: replace(system.index, store=watching)


@contextmanager
def recorded(
    system: System, now: Callable[[], Index], *, kind: type[IndexSubject] = IndexSubject
) -> Iterator[Trace]:
    name = system.index.name

    def kept(text: str) -> str:
        return heard(text, pace=_PACE, index=name)

    with (
        watched(name, now, kind=kind) as url,
        recording(url, _TICK / _PACE, heard=kept) as trace,
    ):
        pass_scrapes(trace, _BEFORE)
        yield trace


def of_fault(fault: Fault, server: dict[str, str]) -> None:
    """A fault of `test_index_faults.py`, seen and repaired as it is there."""
    silent = not fault.tick | fault.audit
    with systems(server) as (system, now), recorded(system, now) as trace:
        fault.inject(system)
        system.looked(audit())
        pass_scrapes(trace, _UNSURE if silent else _DURING)
        fault.person(system)
        repair(system, system.looked(catalogue()))
        pass_scrapes(trace, _AFTER)
    false = false_in(trace)
    assert fault.tick | fault.audit <= false <= fault.tick | fault.audit | fault.chance, false
    fires = {(alerts.name_of(s), "docs") for s in catalogue() if s.name in false}
    keep(
        trace_of(fault), trace, fires | ({("CannotTell", "docs")} if silent else set()), pace=_PACE
    )


def false_in(trace: Trace) -> set[str]:
    """Signals that were false at any time of it."""
    found = re.compile(r'agent_pipelines_signal\{.*signal="(\w+)".*state="false".*\}')
    return {
        said[1]
        for series, values in trace.series().items()
        if (said := found.fullmatch(series)) and re.search(r"(^| )1", values)
    }


def busy(server: dict[str, str]) -> None:
    """The healthy and busy one of `test_no_false_alarm.py`, for an hour."""
    with tempfile.TemporaryDirectory() as place, WeaviateResource(**server).connect() as store:
        folder = Path(place, "documents")
        folder.mkdir()
        for number in range(10):
            (folder / f"d{number}.md").write_text(document(f"Doc{number}", "one", "two"))
        source = Files(kind="files", url=str(folder)).open(folder)
        engine = open_engine(f"sqlite:///{place}/state.db")
        with (
            named_index(store, engine, source) as index,
            WeaviateResource(**server).connect() as watching,
        ):
            run_sync(index)
            commit(index)
            at_work = Busy(index, folder)
            system = System(index, cast(Any, source), Path(place))
            system.looked(audit())
            with (
                at_work.at_work(),
                recorded(system, lambda: replace(at_work.index, store=watching)) as trace,
            ):
                for _ in range(6):
                    pass_scrapes(trace, _AUDIT // _TICK)
                    system.index = at_work.index
                    system.looked(audit())
    assert not false_in(trace), trace.series()
    keep("a-healthy-busy-hour", trace, set(), pace=_PACE)


def replica_behind(_: dict[str, str]) -> None:
    """A node of three is killed while the others are written, and comes back."""
    with (
        tempfile.TemporaryDirectory() as place,
        weaviate_nodes.running(Path(place, "nodes")) as cluster,
        replicated(cluster, Path(place)) as (index, source),
        cluster.nodes[0].resource().connect() as watching,
    ):
        system, away = System(index, source, Path(place)), cluster.follower()
        system.looked(audit())
        with recorded(system, lambda: replace(index, store=watching)) as trace:
            away.kill()
            system.edited()
            away.start()
            cluster.wait()
            system.looked(audit())
            pass_scrapes(trace, _DURING)
            repair(system, system.looked(catalogue()))
            pass_scrapes(trace, _AFTER)
    assert false_in(trace) == {"replicas_agree"}, false_in(trace)
    keep("a-node-of-weaviate-was-away", trace, {("ReplicasAgreeFalse", "docs")}, pace=_PACE)


def hanging(server: dict[str, str]) -> None:
    """The exporter answers, and looks no more."""
    Hanging.goes_on.set()
    with systems(server) as (system, now), recorded(system, now, kind=Hanging) as trace:
        Hanging.goes_on.clear()
        pass_scrapes(trace, _UNSURE + 4)
        Hanging.goes_on.set()
        system.looked(audit())
        pass_scrapes(trace, _AFTER)
    fires = {("ExporterFrozen", "exporter")}
    fires |= {(alert, "docs") for alert in ("TickTooOld", "ReadingTooOld", "CannotTell")}
    keep("the-exporters-looks-hang", trace, fires, pace=_PACE)


def frozen(server: dict[str, str]) -> None:
    """What somebody between it and Prometheus had it say last, again and again."""
    with systems(server) as (system, now), recorded(system, now) as trace:
        pass
    for _ in range(20):
        trace.again()
    keep(
        "the-exporter-frozen-at-its-last-values",
        trace,
        {("ExporterFrozen", "exporter")},
        pace=_PACE,
    )


@contextmanager
def running_dev() -> Iterator[Dev]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        dev_faults.lay_out(folder)
        with processes.started(
            "dev", state=folder / "state", AGENT_PIPELINES_ASSETS=str(folder / "assets")
        ) as command:
            command.says("Ctrl-C ends all of it.", 2 * dev_faults.UP)
            (line,) = (said for said in command.err.splitlines() if said.startswith("Dagster UI: "))
            dev = Dev(command, folder, line.removeprefix("Dagster UI: "))
            dev_faults.until_true(dev, 2 * dev_faults.FIRST_SYNC)
            until(lambda: dev.not_true() == {}, dev_faults.NEXT_LOOKS, "every signal true")
            yield dev


def of_dev(
    dev: Dev, name: str, story: Callable[[Trace, psutil.Process], None], fires: set[Fired]
) -> None:
    """Something that happens to a `dev`, under the eyes of an exporter that is quicker than its."""
    # Its audits are fresh then.
    synced = dev_faults.cli(dev.folder, "sync", "docs")
    assert synced.code == 0, synced.err
    (port,) = ports.free(1)
    with processes.started(
        *("exporter", "--port", str(port)),
        *("--interval", str(_TICK / _DEV_PACE)),
        state=dev.state,
        AGENT_PIPELINES_ASSETS=str(dev.folder / "assets"),
    ) as exporter:
        url = f"http://127.0.0.1:{port}/metrics"
        until(lambda: processes.listening(port), 60, "the exporter")

        def all_true() -> bool:
            found = dev_faults.signals_at(url)
            every = {state for states in found.values() for state in states.values()}
            return found.keys() == {"docs", "machinery"} and every == {"true"}

        until(all_true, 60, "every signal true")

        def kept(text: str) -> str:
            return heard(text, pace=_DEV_PACE)

        with recording(url, _TICK / _DEV_PACE, heard=kept) as trace:
            pass_scrapes(trace, _BEFORE)
            story(trace, exporter.process)
    keep(name, trace, fires, pace=_DEV_PACE)


def dev_stories() -> None:
    """The faults of `test_dev_faults.py`."""

    def sensor_off(trace: Trace, _: Any) -> None:
        dev.switch("docs_sensor", "stopSensor")
        pass_scrapes(trace, _DURING)
        dev.switch("docs_sensor", "startSensor")
        pass_scrapes(trace, _AFTER)

    def weaviate_killed(trace: Trace, _: Any) -> None:
        psutil.Process(dev.part("weaviate").child).kill()
        pass_scrapes(trace, _DURING + _AFTER)

    def weaviate_hangs(trace: Trace, _: Any) -> None:
        child = psutil.Process(dev.part("weaviate").child)
        child.suspend()
        try:
            pass_scrapes(trace, _UNSURE)
        finally:
            child.resume()
        pass_scrapes(trace, _AFTER)

    def exporter_stopped(trace: Trace, exporter: Any) -> None:
        os.kill(exporter.pid, signal.SIGSTOP)
        try:
            pass_scrapes(trace, _DURING)
        finally:
            os.kill(exporter.pid, signal.SIGCONT)
        pass_scrapes(trace, _AFTER)

    with running_dev() as dev:
        of_dev(dev, "a-sensor-switched-off", sensor_off, {("WatchersOnFalse", "machinery")})
        of_dev(dev, "weaviate-killed-and-restarted", weaviate_killed, set())
        dev_faults.until_true(dev, 2 * dev_faults.FIRST_SYNC)
        of_dev(dev, "weaviate-hangs", weaviate_hangs, {("CannotTell", "docs")})
        dev_faults.until_true(dev, 2 * dev_faults.FIRST_SYNC)
        of_dev(dev, "the-exporter-stopped", exporter_stopped, {("ExporterGone", "exporter")})


def daemon_stopped() -> None:
    """As slow as it is: how late a daemon may be is no multiple of a tick."""
    with running_dev() as dev:
        stop_daemon(dev)


def stop_daemon(dev: Dev) -> None:
    (daemon,) = (
        process
        for process in processes.of(dev.state)
        if "dagster._daemon" in " ".join(process.cmdline()) and "run" in process.cmdline()
    )
    url = f"{dev.part('exporter').addresses['url']}/metrics"

    def kept(text: str) -> str:
        return heard(text, pace=1)

    with recording(url, _TICK, heard=kept) as trace:
        pass_scrapes(trace, 2)
        daemon.suspend()
        try:
            pass_scrapes(trace, 10)
        finally:
            daemon.resume()
        pass_scrapes(trace, 3)
    fires = {("DaemonAliveFalse", "machinery"), ("WatchersTickingFalse", "machinery")}
    keep("the-daemon-stopped", trace, fires, pace=1)


def main(names: Sequence[str]) -> None:
    """Record these, or all."""
    named: dict[str, Callable[[dict[str, str]], None]] = {
        "a-healthy-busy-hour": busy,
        "a-node-of-weaviate-was-away": replica_behind,
        "the-exporters-looks-hang": hanging,
        "the-exporter-frozen-at-its-last-values": frozen,
        "dev": lambda _: dev_stories(),
        "the-daemon-stopped": lambda _: daemon_stopped(),
        **{
            trace_of(fault): lambda server, fault=fault: of_fault(fault, server) for fault in FAULTS
        },
    }
    with tempfile.TemporaryDirectory() as place, Parts(Path(place)) as parts:
        binary, key = weaviate.obtain(Settings().cache_dir, print), weaviate.api_key(Path(place))
        at = parts.ensure("weaviate", lambda: weaviate.launch(binary, Path(place), key))
        for name in names or named:
            named[name]({**at, "api_key": key})


if __name__ == "__main__":
    main(sys.argv[1:])
