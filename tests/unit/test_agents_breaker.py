"""The circuit breaker against a model of it: every order of calls, outcomes and waits."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from agent_pipelines.agents.breaker import Breaker, BreakerOpenError, BreakerSettings, Permit

FAILURES, OPEN = 3, 30.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class History(RuleBasedStateMachine):
    """The model: what has been heard since the last turn, and when the next probe may go."""

    under_way = Bundle("under_way")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(BreakerSettings(FAILURES, OPEN), clock=self.clock)
        self.heard: Sequence[bool] = ()
        self.probe_from: float | None = None
        self.probe: Permit | None = None
        self.current: list[Permit] = []
        """Permits of before the last turn say nothing any more."""

    def turn(self, probe_from: float | None) -> None:
        self.heard, self.probe, self.current, self.probe_from = (), None, [], probe_from

    @rule(seconds=st.sampled_from([0.0, 1.0, OPEN - 1, OPEN]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(target=under_way)
    def call(self) -> Permit | None:
        due = self.probe_from is not None and self.clock.now >= self.probe_from
        if self.probe_from is None or (due and self.probe is None):
            permit = self.breaker.enter()
            assert permit.probe == due
            self.probe = permit if due else None
            self.current.append(permit)
            return permit
        with pytest.raises(BreakerOpenError) as refused:
            self.breaker.enter()
        assert 0 < refused.value.retry_after <= OPEN
        if not due:
            assert refused.value.retry_after == self.probe_from - self.clock.now
        return None

    @rule(permit=consumes(under_way), well=st.sampled_from([True, False, None]))
    def end(self, permit: Permit | None, well: bool | None) -> None:
        if permit is None:
            return
        self.breaker.leave(permit, well)
        if not any(permit is one for one in self.current):
            return
        self.current = [one for one in self.current if one is not permit]
        if permit is self.probe:
            if well is None:
                self.probe = None
            else:
                self.turn(None if well else self.clock.now + OPEN)
        elif well is not None:
            self.heard = [*self.heard, well]
            if self.heard[-FAILURES:] == [False] * FAILURES:
                self.turn(self.clock.now + OPEN)

    @invariant()
    def its_state_is_the_models(self) -> None:
        if self.probe_from is None:
            assert self.breaker.state == "closed"
        else:
            due = self.clock.now >= self.probe_from
            assert self.breaker.state == ("half open" if due else "open")

    @precondition(lambda self: self.probe_from is not None)
    @rule()
    def it_is_never_shut_for_ever(self) -> None:
        """Whatever happened: once its time is over and no probe is under way, one is admitted."""
        self.clock.now += OPEN
        if self.probe is None:
            permit = self.breaker.enter()
            self.breaker.leave(permit, None)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=150, stateful_step_count=40)


def test_it_opens_at_the_third_failure_in_a_row_and_closes_after_a_probe() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    for well in (False, False, True, False, False):
        breaker.leave(breaker.enter(), well)
    assert breaker.state == "closed"
    breaker.leave(breaker.enter(), False)
    with pytest.raises(BreakerOpenError, match="retry after 30 s"):
        breaker.enter()
    clock.now += 30
    probe = breaker.enter()
    with pytest.raises(BreakerOpenError):
        breaker.enter()
    breaker.leave(probe, False)
    assert (breaker.state, breaker.openings) == ("open", 2)
    clock.now += 30
    breaker.leave(breaker.enter(), True)
    assert (breaker.state, breaker.openings) == ("closed", 2)


def test_what_was_asked_before_it_opened_says_nothing_of_now() -> None:
    """Thirty-two calls that fail at once open it once, and a late success does not close it."""
    breaker = Breaker(clock=Clock())
    permits = [breaker.enter() for _ in range(32)]
    for permit in permits[:-1]:
        breaker.leave(permit, False)
    breaker.leave(permits[-1], True)
    assert (breaker.state, breaker.openings) == ("open", 1)


def test_a_cancelled_probe_frees_its_place() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    for _ in range(3):
        breaker.leave(breaker.enter(), False)
    clock.now += 30
    breaker.leave(breaker.enter(), None)
    assert breaker.state == "half open"
    breaker.leave(breaker.enter(), True)
    assert breaker.state == "closed"
