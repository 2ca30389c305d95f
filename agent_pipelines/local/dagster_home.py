"""Dagster's own instance in the state directory: history and lineage survive between commands.

Belongs here: its dagster.yaml, opening it, and the webserver with daemon as a part. Does not
belong here: what runs in it.
"""

import sys
from pathlib import Path

import dagster as dg

from agent_pipelines.local import ports
from agent_pipelines.local.parts import Launch

#: Written once, so that a person may change it; see Dagster's reference of dagster.yaml.
_DAGSTER_YAML = """\
# Dagster's instance. Delete this file to get the defaults of the installed version back.
telemetry:
  enabled: false
nux:
  enabled: false
run_monitoring:
  enabled: true
  start_timeout_seconds: 300
  free_slots_after_run_end_seconds: 60
run_retries:
  enabled: true
freshness:
  enabled: true
# One slow sensor holds up neither the others nor its daemon's heartbeat.
sensors:
  use_threads: true
  num_workers: 8
# What a sensor saw every 30 s is kept in the state database; Dagster's ticks need not pile up.
retention:
  schedule:
    purge_after_days: 30
  sensor:
    purge_after_days:
      skipped: 1
      success: 7
      failure: 7
"""


def home(state_dir: Path) -> Path:
    """The DAGSTER_HOME of this state directory, with its dagster.yaml."""
    folder = state_dir / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.exists():
        config.write_text(_DAGSTER_YAML)
    return folder


def instance(state_dir: Path) -> dg.DagsterInstance:
    """The instance; also a context manager."""
    return dg.DagsterInstance.from_config(str(home(state_dir)))


def launch(state_dir: Path, environment: dict[str, str], port: int | None) -> Launch:
    """Webserver, daemon and code location as one part, on `port` or on one that is free."""
    if port is None:
        (port,) = ports.stable(state_dir, "dagster", 1)
    url = f"http://{ports.HOST}:{port}"
    return Launch(
        name="dagster",
        argv=(
            sys.executable,
            *("-m", "dagster", "dev"),
            *(
                "-m",
                "agent_pipelines.definitions",
                "-d",
                str(Path(__file__).parents[2]),
            ),
            *("-h", ports.HOST, "-p", str(port)),
        ),
        env={**environment, "DAGSTER_HOME": str(home(state_dir))},
        addresses={"url": url},
        health_url=f"{url}/server_info",
        start_timeout=120.0,
        stop_timeout=30.0,
    )
