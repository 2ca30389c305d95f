"""The chart, as Helm renders it.

Belongs here: running Helm. Does not belong here: what the rendered objects must be.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "chart"

#: Of the tests' releases; the names of everything begin with it.
RELEASE = "ap"


class RefusedError(Exception):
    """What Helm says of values that it refuses."""


def lint(values: Sequence[Path] = ()) -> None:
    """`helm lint --strict`: what it warns of counts too."""
    _run("lint", CHART, "--strict", *_given(values))


def template(
    values: Sequence[Path] = (), *, namespace: str, settings: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Every object of a release with these values; ``settings`` are `key=value`.

    Raises:
        RefusedError: the values are not right.
    """
    text = _run(
        *("template", RELEASE, CHART, "--namespace", namespace),
        *("--kube-version", binaries.KUBERNETES, *_given(values)),
        *(part for setting in settings for part in ("--set", setting)),
    )
    # libyaml, where there is one: there is a lot of it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [found for found in yaml.load_all(text, loader) if found]


def release(control_plane: ControlPlane, command: str, *arguments: str | Path) -> str:
    """`helm install`, `upgrade`, … of the tests' release, in a cluster."""
    access = f"--kubeconfig={control_plane.kubeconfig}"
    return _run(command, RELEASE, *arguments, access)


def of_kind(objects: Sequence[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The objects of one kind, by name without the release's."""
    return {
        found["metadata"]["name"].removeprefix(f"{RELEASE}-"): found
        for found in objects
        if found["kind"] == kind
    }


def _given(values: Sequence[Path]) -> list[str | Path]:
    return [part for path in values for part in ("--values", path)]


def _run(*arguments: str | Path) -> str:
    done = subprocess.run(
        [binaries.helm(), *arguments], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise RefusedError(done.stderr.strip() + done.stdout.strip())
    return done.stdout
