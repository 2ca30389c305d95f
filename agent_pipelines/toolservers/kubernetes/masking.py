"""What `describe` shows of an object: all of it but values that may be somebody's password.

Belongs here: which values those are, and how much of a large object is shown. Does not belong here:
which kinds can be described (`cluster.KINDS`; Secrets and ConfigMaps cannot).

Environment variables, annotations, HTTP headers of probes and attributes of volumes are masked
whatever they hold. Command lines are needed for a diagnosis: there, only what looks like a password
is, so it is best to give none on a command line. References to Secrets are shown, never followed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "(masked)"

#: Annotations that Kubernetes' own parts write. Of all others only the keys are shown.
_OWN_ANNOTATIONS = re.compile(r"([a-z0-9.-]+\.)?(kubernetes|k8s)\.io/.+")

#: The whole object as somebody applied it, environment and all, in one annotation.
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

#: Not `--max-tokens`, nor `--tokenizer`.
_TELLING = (
    r"[\w-]*(?:passw(?:or)?d|passphrase|pwd|secret|token(?!s|iz)|credential"
    r"|(?:api|access|private)[-_]?key)[\w-]*"
)
#: `--token=x`, `PASSWORD=x`, `"apiKey": "x"`, `--token x`
_ASSIGNED = re.compile(
    rf"(?i)({_TELLING}[\"']?\s*[=:]\s*|--?{_TELLING}\s+)(\"[^\"]*\"|'[^']*'|[^\s\"',;&]+)"
)
_FLAG = re.compile(rf"(?i)--?{_TELLING}")
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+")

_STRING = 4_096
_ITEMS = 100
_OBJECT = 64_000


def shown(described: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The object without what may be secret and what is of no use, and whether it was cut."""
    cuts: list[str] = []
    # Who has set which field, longer than the fields themselves.
    metadata = {k: v for k, v in described["metadata"].items() if k != "managedFields"}
    seen: dict[str, Any] = _value("", {**described, "metadata": metadata}, cuts)
    size = len(json.dumps(seen))
    if size > _OBJECT:
        # The status says how it is; the specification how it was meant to be.
        cuts.append("spec")
        seen["spec"] = f"(left out: the object has {size} characters)"
    return seen, bool(cuts)


def _value(key: str, value: Any, cuts: list[str]) -> Any:
    # By type as well as by name: a label may be called `env`.
    match key, value:
        case "env", list():
            return _environment(value)
        case "annotations", dict():
            return _annotations(value)
        case (("command" | "args"), list()):
            return _command(value)
        case "httpHeaders", list():
            return [{**header, "value": MASK} for header in value]
        case (("volumeAttributes" | "options"), dict()):
            return dict.fromkeys(value, MASK)
        case _, dict():
            return {name: _value(name, inner, cuts) for name, inner in value.items()}
        case _, list():
            # A node lists every image that it holds.
            items = [_value("", item, cuts) for item in value[:_ITEMS]]
            if len(value) > _ITEMS:
                cuts.append(key)
                items.append(f"({len(value) - _ITEMS} more)")
            return items
        case _, str() if len(value) > _STRING:
            cuts.append(key)
            return f"{value[:_STRING]}… ({len(value) - _STRING} more characters)"
    return value


def _environment(variables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Names and references stay: what is missing is often a reference to what does not exist."""
    return [
        {name: MASK if name == "value" else inner for name, inner in variable.items()}
        for variable in variables
    ]


def _annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value[:_STRING] if _OWN_ANNOTATIONS.fullmatch(key) and key != _APPLIED else MASK
        for key, value in annotations.items()
    }


def _command(arguments: Sequence[str]) -> list[str]:
    seen = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        seen.append(MASK if _FLAG.fullmatch(previous) else _text(argument))
    return seen


def _text(text: str) -> str:
    text = _USER_INFO.sub(MASK, text)
    text = _AUTHORIZATION.sub(rf"\1 {MASK}", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)[:_STRING]
