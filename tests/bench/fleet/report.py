"""What the days came to: a table for people, JSON for programs.

Belongs here: numbers side by side. Does not belong here: getting them (`simulation`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType

from agent_pipelines.terminal import table
from tests.bench.fleet.day import HOUR
from tests.bench.fleet.simulation import Outcome

_COLUMNS = (
    *("policy", "cost", "ours is cheaper by", "GPU-hours", "ours takes less by"),
    *("a cheaper one was free", "wait", "from arrival to end", "devices"),
)


def shown(outcomes: Sequence[Outcome]) -> RenderableType:
    """A row for each policy, then one for each model: small ones are where a choice saves most.

    Cost in hours of a T4; waiting and lasting in minutes, both in the mean.
    """
    return Group(_by_policy(outcomes), _by_model(outcomes))


def _by_model(outcomes: Sequence[Outcome]) -> RenderableType:
    costs: dict[str, Counter[str]] = {}
    batches = Counter(one.batch.model.name for one in outcomes[0].served)
    for outcome in outcomes:
        for one in outcome.served:
            found = costs.setdefault(one.batch.model.name, Counter())
            found[outcome.policy.name] += one.cost
    names = [outcome.policy.name for outcome in outcomes]
    return table(
        ("cost by model", "batches", *names),
        [
            (model, str(batches[model]), *(f"{costs[model][name]:,.0f}" for name in names))
            for model in sorted(costs, key=lambda model: costs[model][names[0]])
        ],
    )


def _by_policy(outcomes: Sequence[Outcome]) -> RenderableType:
    ours = outcomes[0]
    return table(
        _COLUMNS,
        [
            (
                one.policy.title,
                f"{one.cost:,.0f}",
                _less(ours.cost, one.cost) if one is not ours else "",
                f"{one.gpu_hours:,.0f}",
                _less(ours.gpu_hours, one.gpu_hours) if one is not ours else "",
                f"{one.dearer / len(one.served):.0%}",
                f"{one.waited / 60:.1f}",
                f"{one.lasted / 60:.1f}",
                ", ".join(f"{name} {n}" for name, n in devices(one).items()),
            )
            for one in outcomes
        ],
    )


def document(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The same, and every batch."""
    return [
        {
            "policy": one.policy.name,
            "batches": len(one.served),
            "tokens": one.tokens,
            "cost_in_hours_of_a_t4": one.cost,
            "gpu_hours": one.gpu_hours,
            "a_cheaper_device_was_free": one.dearer,
            "mean_wait_seconds": one.waited,
            "mean_seconds_from_arrival_to_end": one.lasted,
            "devices": devices(one),
            "served": [
                {
                    "batch": served.batch.name,
                    "model": served.batch.model.name,
                    "device": served.slots[0].device.name,
                    "count": len(served.slots),
                    "arrived_hour": served.batch.arrives / HOUR,
                    "waited_seconds": served.waited,
                    "hours": served.hours,
                    "cost": served.cost,
                }
                for served in one.served
            ],
        }
        for one in outcomes
    ]


def devices(outcome: Outcome) -> dict[str, int]:
    """How many batches each kind of device served, the cheapest first."""
    served = Counter(one.slots[0].device for one in outcome.served)
    return {d.name: served[d] for d in sorted(served, key=lambda device: device.price)}


def _less(ours: float, theirs: float) -> str:
    return f"{1 - ours / theirs:.0%}"
