"""What is asked for when a signal is false: which run, how often, and when it is over."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.health import repair
from agent_pipelines.health.evaluate import Recorded, audit, tick
from agent_pipelines.health.repair import (
    BACK_OFF,
    BACK_OFF_CAP,
    GIVES_UP_AFTER,
    UNCONFIRMED,
    UNFINISHED,
    Attempts,
    Seen,
    Want,
)
from agent_pipelines.health.signal import Reading, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.state.engine import open_engine

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
RUN = NOW - timedelta(minutes=5)
REPAIRS = {signal.name: signal.repair for signal in catalogue()}


def seen(
    *false: str,
    cannot_tell: tuple[str, ...] = (),
    audited: timedelta = timedelta(minutes=1),
    **more: Any,
) -> Seen:
    """An index of which these signals are false; audit readings were taken so long after RUN."""

    def state(name: str) -> State:
        if name in cannot_tell:
            return State.CANNOT_TELL
        return State.FALSE if name in false else State.TRUE

    at = RUN + audited
    well: dict[str, Any] = {
        "readings": {signal: Reading(state(signal.name), "", "") for signal in tick()},
        "recorded": {s.name: Recorded(s.name, state(s.name), at, at, "", "", ()) for s in audit()},
        "unfinished": False,
        "pending": False,
        "changed": False,
        "split": False,
        "last_run": RUN,
        "reached": "7 abc",
    }
    return Seen(**{**well, **more})


def tried(signal: str, attempts: int = 1, *, reached: str = "7 abc") -> dict[str, Attempts]:
    """That many runs were asked for, the last one just now."""
    return {signal: Attempts(signal, attempts, NOW, reached)}


def test_where_nothing_is_false_nothing_is_wanted() -> None:
    assert repair.wanted(seen(), {}, NOW) is None
    assert repair.wanted(seen(cannot_tell=tuple(REPAIRS)), {}, NOW) is None


@pytest.mark.parametrize("name", sorted(REPAIRS))
def test_the_run_is_the_one_that_the_signal_names(name: str) -> None:
    """Staleness is synced by its changes, before it is too old; a person is no run."""
    want = repair.wanted(seen(name), {}, NOW)
    if REPAIRS[name] == "person" or name == "fresh":
        assert want is None
    else:
        assert want == Want(name, REPAIRS[name], name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index", "because", "kind"),
    [
        (seen(changed=True), "fresh", "sync"),
        (seen(unfinished=True), UNFINISHED, "sync"),
        (seen(pending=True), UNFINISHED, "sync"),
        (seen(pending=True, split=True), UNFINISHED, "commit"),
        (seen(pending=True, changed=True), UNFINISHED, "sync"),
        (seen("alias_points_to_live", pending=True), "alias_points_to_live", "sync"),
        (seen("alias_points_to_live", "counts_match"), "counts_match", "verify"),
        (seen("counts_match", "ids_match", changed=True), "counts_match", "verify"),
        (seen("vectors_match_text", "vectors_findable"), "vectors_findable", "verify"),
        (seen("store_writable", changed=True), "fresh", "sync"),
    ],
)
def test_of_several_reasons_the_one_whose_run_mends_most_comes_first(
    index: Seen, because: str, kind: repair.Kind
) -> None:
    assert repair.wanted(index, {}, NOW) == Want(because, kind, because)


def test_a_finding_that_a_run_may_have_mended_is_looked_at_again_before_anything_is_run() -> None:
    before = seen("ids_match", audited=-timedelta(minutes=1))
    assert repair.wanted(before, {}, NOW) == Want("ids_match", "audit", UNCONFIRMED)
    after = seen("ids_match", audited=timedelta(minutes=1))
    assert repair.wanted(after, {}, NOW) == Want("ids_match", "verify", "ids_match")
    never = replace(before, last_run=None)
    assert repair.wanted(never, {}, NOW) == Want("ids_match", "verify", "ids_match")


def test_what_waits_for_its_next_try_does_not_hold_the_others_off() -> None:
    both = seen("counts_match", changed=True)
    assert repair.wanted(both, tried("counts_match"), NOW) == Want("fresh", "sync", "fresh")


def test_a_commit_that_fails_lets_a_sync_have_its_turn() -> None:
    index = seen(pending=True, split=True)
    later = NOW + BACK_OFF_CAP
    kinds = [repair.wanted(index, tried(UNFINISHED, n), later) for n in (1, 2, 3)]
    assert [want.kind for want in kinds if want] == ["sync", "commit", "sync"]


@given(attempts=st.integers(1, 5000), passed=st.floats(0, 1e6))
def test_the_back_off_doubles_up_to_its_cap(attempts: int, passed: float) -> None:
    wait = min(BACK_OFF.total_seconds() * 2 ** min(attempts - 1, 99), BACK_OFF_CAP.total_seconds())
    later = NOW + timedelta(seconds=passed)
    asks = repair.wanted(seen("counts_match"), tried("counts_match", attempts), later) is not None
    assert asks == (later - NOW >= timedelta(seconds=wait))


def test_a_clock_that_was_set_back_holds_nothing_off() -> None:
    index, before = seen("counts_match"), tried("counts_match", 9)
    assert repair.wanted(index, before, NOW - timedelta(days=1)) is not None


def test_progress_resets_the_back_off_of_an_index_that_is_behind_and_of_nothing_else() -> None:
    """A source that never rests is no failure. Nor does it mend objects that were altered."""
    moved = seen("counts_match", changed=True, reached="8 def")
    behind = {**tried("fresh", 5), **tried("counts_match", 5)}
    want = repair.wanted(moved, behind, NOW)
    assert want == Want("fresh", "sync", "fresh")
    assert repair.asked(moved, behind, want, NOW).attempts == 1
    again = repair.asked(moved, behind, Want("counts_match", "verify", "counts_match"), NOW)
    assert again.attempts == 6
    assert again.reached == "8 def"


def test_one_look_is_asked_for_after_each_run() -> None:
    index = seen("ids_match", audited=-timedelta(minutes=1))
    want = repair.wanted(index, {}, NOW)
    assert want is not None
    before = {UNCONFIRMED: repair.asked(index, {}, want, NOW)}
    assert repair.wanted(index, before, NOW) is None
    another = replace(index, last_run=RUN + timedelta(minutes=1))
    assert repair.wanted(another, before, NOW) == want


@given(names=st.sets(st.sampled_from(sorted(REPAIRS))))
def test_what_was_tried_is_forgotten_once_it_is_known_to_be_over(names: set[str]) -> None:
    """What cannot be told is not known to be right: its back-off goes on."""
    attempts: Mapping[str, Attempts] = {name: tried(name)[name] for name in REPAIRS}
    blind = seen(cannot_tell=tuple(names))
    assert set(repair.over(blind, attempts)) == REPAIRS.keys() - names
    mended = {name for name in names if REPAIRS[name] != "person" and name != "fresh"}
    assert REPAIRS.keys() - set(repair.over(seen(*names), attempts)) >= mended
    assert set(repair.over(seen(*names), attempts)) >= REPAIRS.keys() - names


def test_after_some_attempts_somebody_must_look() -> None:
    gave_up = [Attempts("ids_match", n, NOW, "").gave_up for n in range(1, GIVES_UP_AFTER + 2)]
    assert gave_up == [False] * (GIVES_UP_AFTER - 1) + [True, True]


def test_attempts_are_kept_per_index_until_they_are_over(state_url: str) -> None:
    engine = open_engine(state_url)
    first, second = tried("counts_match")["counts_match"], tried("fresh", 3)["fresh"]
    repair.remember(engine, "docs", now=first, over=[])
    repair.remember(engine, "docs", now=second, over=[])
    repair.remember(engine, "other", now=first, over=[])
    assert repair.attempts(engine, "docs") == {"counts_match": first, "fresh": second}
    repair.remember(engine, "docs", now=replace(second, attempts=4), over=["counts_match"])
    assert repair.attempts(engine, "docs") == {"fresh": replace(second, attempts=4)}
    assert repair.attempts(engine, "other") == {"counts_match": first}
