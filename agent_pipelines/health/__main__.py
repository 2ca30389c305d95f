"""`python -m agent_pipelines.health`: alert rules and runbooks, from the catalogues into `deploy/`.

Belongs here: the files and their folders. Does not belong here: what is in them.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from agent_pipelines.health import alerts, runbooks

#: The checkout that this program lies in.
ROOT = Path(__file__).parents[2]

#: The second is the chart's: Helm reads nothing outside of its folder.
_RULES = ("deploy/alerts/rules.yaml", "deploy/chart/files/rules.yaml")

_HEAD = """\
# Generated from the catalogues in agent_pipelines/health by `python -m agent_pipelines.health`.
# A plain Prometheus rule file (2.42 or later).
"""


class _Dumper(yaml.SafeDumper):
    """Long queries as blocks of lines."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def files() -> dict[str, str]:
    """What is to be in the checkout: text by path, relative to its root."""
    found = alerts.catalogues()
    pages = runbooks.pages(found)
    rules = _HEAD + _yaml(alerts.rule_file(found))
    return {
        **dict.fromkeys(_RULES, rules),
        **{f"{alerts.RUNBOOKS}/{name}": text for name, text in pages.items()},
    }


def _yaml(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def write(root: Path = ROOT) -> None:
    """Write them, and remove the pages of signals that are no more."""
    wanted = files()
    for page in (root / alerts.RUNBOOKS).glob("*.md"):
        if f"{alerts.RUNBOOKS}/{page.name}" not in wanted:
            page.unlink()
    for path, text in wanted.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    sys.stdout.write(f"{len(wanted)} files below {root / 'deploy'}\n")


if __name__ == "__main__":
    write()
