"""A day on a simulated clock, with the real scheduler: pods come and go, and hold what they got.

Belongs here: the order of events, and waiting until the scheduler has nothing left to place. Does
not belong here: what a batch asks for (`policies`), or what it came to (`report`).
"""

import heapq
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from tests.bench.fleet.day import HOUR, Batch
from tests.bench.fleet.machines import SERVER, Slot, sizes, slots
from tests.bench.fleet.policies import Policy, Request
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fleet import Fleet, Placement, placement
from tests.cluster.watch import Objects

#: More than controllers and schedulers allow themselves by default: a day passes in minutes.
_QUICK = ("--kube-api-qps=1000", "--kube-api-burst=1000")
FLAGS = {"kube-scheduler": _QUICK, "kube-controller-manager": _QUICK}


@dataclass(frozen=True)
class Served:
    """A batch that is done."""

    batch: Batch
    slots: Sequence[Slot]
    began: float
    """Seconds after midnight, as `ended`."""
    ended: float
    cheaper: bool
    """Whether another device that the request names was free, at a lower price."""

    @property
    def hours(self) -> float:
        return (self.ended - self.began) / HOUR

    @property
    def cost(self) -> float:
        """In hours of a T4."""
        return self.hours * sum(slot.device.price for slot in self.slots)

    @property
    def gpu_hours(self) -> float:
        return self.hours * sum(slot.share for slot in self.slots)

    @property
    def waited(self) -> float:
        """Seconds."""
        return self.began - self.batch.arrives


@dataclass(frozen=True)
class Outcome:
    """Days, done."""

    policy: Policy
    served: Sequence[Served]

    @property
    def tokens(self) -> int:
        return sum(one.batch.tokens for one in self.served)

    @property
    def cost(self) -> float:
        return sum(one.cost for one in self.served)

    @property
    def gpu_hours(self) -> float:
        return sum(one.gpu_hours for one in self.served)

    @property
    def dearer(self) -> int:
        """Batches that were given a device though a cheaper one, which they asked for, was free."""
        return sum(one.cheaper for one in self.served)

    @property
    def waited(self) -> float:
        """Seconds in the mean."""
        return mean(one.waited for one in self.served)

    @property
    def lasted(self) -> float:
        """Seconds in the mean, from arrival to the end."""
        return mean(one.ended - one.batch.arrives for one in self.served)


def simulate(
    control_plane: ControlPlane,
    policy: Policy,
    batches: Sequence[Batch],
    say: Callable[[str], object],
    *,
    seed: int,
) -> list[Served]:
    """Let a day pass. Machines join in an order that the seed decides: between nodes that it finds
    equally good the scheduler of 1.35 takes the first.
    """
    joining = sorted(policy.machines)
    random.Random(seed).shuffle(joining)
    fleet = Fleet(
        control_plane,
        {name: policy.machines[name] for name in joining},
        sizes=sizes(policy.machines),
        plugin=policy.plugin,
    )
    try:
        return _Day(fleet, policy, batches, say).pass_by()
    finally:
        fleet.end()


class _Day:
    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        batches: Sequence[Batch],
        say: Callable[[str], object],
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._say = say
        self._batches = {batch.name: batch for batch in batches}
        self._slots = slots(policy.machines)
        self._requests: dict[str, Request] = {}
        self._waiting: dict[str, Batch] = {}
        self._running: dict[str, Served] = {}
        self._done: list[Served] = []
        #: Seconds, 0: the batch ends, 1: it arrives; what ends makes room for what arrives then.
        self._events = [(batch.arrives, 1, batch.name) for batch in batches]
        heapq.heapify(self._events)

    def pass_by(self) -> list[Served]:
        while self._events:
            now = self._events[0][0]
            while self._events and self._events[0][0] == now:
                _, arrives, name = heapq.heappop(self._events)
                if arrives:
                    self._arrive(self._batches[name])
                else:
                    self._end(name)
            self._settle(now)
            hour = f"{int(now // HOUR):02}:{int(now % HOUR // 60):02}"
            busy = f"{len(self._running)} run, {len(self._waiting)} wait"
            self._say(f"{hour}  {len(self._done)} of {len(self._batches)} done, {busy}")
        assert not self._waiting, f"never placed: {', '.join(self._waiting)}"
        return self._done

    def _arrive(self, batch: Batch) -> None:
        request = self._policy.request(batch)
        self._requests[batch.name] = request
        self._waiting[batch.name] = batch
        if request.template:
            self._fleet.offer(request.template)
        self._fleet.ask_for(
            batch.name,
            batch.name if request.template else None,
            size=SERVER,
            limits=request.limits,
            affinity=request.affinity,
        )

    def _end(self, name: str) -> None:
        self._done.append(self._running.pop(name))
        self._fleet.end_pod(name)

    def _settle(self, now: float) -> None:
        """Wait until nothing waits that could be placed."""

        def settled(found: Mapping[str, Objects]) -> bool:
            for name in list(self._waiting):
                if got := placement(name, found):
                    self._begin(name, got, now)
            free = self._free()
            return not any(
                want.found_in(free) for name in self._waiting for want in self._requests[name].wants
            )

        self._fleet.until(settled, f"the scheduler places {', '.join(self._waiting)}")

    def _begin(self, name: str, got: Placement, now: float) -> None:
        batch = self._waiting.pop(name)
        free = self._free()
        wants = self._requests[name].wants
        given = list(self._given(got, wants[0].count))
        price = sum(slot.device.price for slot in given)
        cheaper = any(want.price < price and want.found_in(free) for want in wants)
        ends = now + batch.seconds(given[0].device, len(given))
        self._running[name] = Served(batch, given, now, ends, cheaper)
        heapq.heappush(self._events, (ends, 0, name))

    def _given(self, got: Placement, count: int) -> Iterable[Slot]:
        if got.devices:
            return (
                slot
                for slot in self._slots
                if slot.machine == got.node and slot.name in got.devices
            )
        # The device plugin gives any of its node's, and they are alike.
        return [slot for slot in self._free() if slot.machine == got.node][:count]

    def _free(self) -> list[Slot]:
        taken = {slot for served in self._running.values() for slot in served.slots}
        return [slot for slot in self._slots if slot not in taken]
