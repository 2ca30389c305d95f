"""The multi-turn tasks of the Berkeley Function-Calling Leaderboard, and its eight stateful APIs.

Belongs here: what the benchmark's own package holds, and how a call of it is carried out. Does not
belong here: tools, servers or models. Its data and code stay in the cache (Apache-2.0).
"""

import ast
import copy
import hashlib
import importlib
import inspect
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from tests import packages

_PACKAGE, _VERSION = "bfcl-eval", "2026.3.23"
_TASKS = "BFCL_v4_multi_turn_base.json"
_CODE = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"

#: The module of each API.
APIS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}

#: The one API without a state to begin with.
_STATELESS = "MathAPI"


@dataclass(frozen=True)
class Call:
    """One call of the ground truth."""

    method: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One task: what users ask in turn, and the calls that do it."""

    entry_id: str
    questions: Sequence[str]
    apis: Sequence[str]
    initial: Mapping[str, Any]
    calls: Sequence[Call]


@cache
def entries() -> Mapping[str, Entry]:
    """All 200, by id."""
    data = _package() / "bfcl_eval" / "data"
    truths = {row["id"]: row["ground_truth"] for row in _rows(data / "possible_answer" / _TASKS)}
    found = [
        Entry(
            entry_id=row["id"],
            questions=[message["content"] for turn in row["question"] for message in turn],
            apis=row["involved_classes"],
            initial=row["initial_config"],
            calls=[_read(call) for turn in truths[row["id"]] for call in turn],
        )
        for row in _rows(data / _TASKS)
    ]
    return {entry.entry_id: entry for entry in found}


@cache
def api(name: str) -> type:
    """The class of one API."""
    if (path := str(_package())) not in sys.path:
        sys.path.append(path)
    made: type = getattr(importlib.import_module(f"{_CODE}.{APIS[name]}"), name)
    return made


@cache
def methods() -> Mapping[str, tuple[str, Any]]:
    """The API and the function of every method that is a tool; no two have one name."""
    return {
        method: (name, function)
        for name in APIS
        for method, function in inspect.getmembers(api(name), inspect.isfunction)
        if not method.startswith("_")
    }


class World:
    """The APIs that one task works with, from the state in which it finds them."""

    def __init__(self, entry: Entry) -> None:
        self._apis = {}
        for name in entry.apis:
            self._apis[name] = made = api(name)()
            if name != _STATELESS:
                made._load_scenario(copy.deepcopy(entry.initial.get(name, {})))

    def call(self, method: str, arguments: Mapping[str, Any]) -> str:
        """Carry out one call.

        Returns:
            What it returned, as the benchmark shows it to a model.

        Raises:
            Exception: whatever the API raises.
        """
        name, _ = methods()[method]
        returned = getattr(self._apis[name], method)(**arguments)
        return returned if isinstance(returned, str) else json.dumps(returned, default=str)

    def state(self) -> dict[str, Any]:
        """Everything the APIs hold, as JSON; their private attributes too, but not the time."""
        return {name: _described(made, ()) for name, made in self._apis.items()}


def _described(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime):
        return "a time"
    if isinstance(value, random.Random):
        # How often it was asked decides what the next id will be.
        return hashlib.sha256(repr(value.getstate()).encode()).hexdigest()
    if id(value) in above:
        return "above"
    above = (*above, id(value))
    if isinstance(value, dict):
        return {repr(key): _described(item, above) for key, item in value.items()}
    if isinstance(value, set):
        return [type(value).__name__, *sorted(repr(item) for item in value)]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_described(item, above) for item in value)]
    return {type(value).__name__: _described(vars(value), above)}


@cache
def _package() -> Path:
    return packages.from_pypi(_PACKAGE, _VERSION)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read(text: str) -> Call:
    """A call as the ground truth writes it: Python, positional arguments included."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    _, function = methods()[call.func.id]
    positional = [ast.literal_eval(value) for value in call.args]
    named = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
    bound = inspect.signature(function).bind(None, *positional, **named).arguments
    return Call(call.func.id, {key: value for key, value in bound.items() if key != "self"})
