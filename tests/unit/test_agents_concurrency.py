"""Concurrency that follows the model server's load."""

from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.agents.concurrency import DEFAULT, HIGHEST, LOWEST, Concurrency
from agent_pipelines.agents.load import Load

LOADS = st.builds(
    Load,
    waiting=st.integers(0, 1000),
    kv_cache=st.floats(0, 1),
    preemptions=st.integers(0, 1000),
)


@given(loads=st.lists(st.tuples(st.none() | LOADS, st.integers(0, 1000))))
def test_it_stays_within_its_bounds_and_goes_only_where_the_load_says(
    loads: list[tuple[Load | None, int]],
) -> None:
    concurrency, preemptions = Concurrency(), None
    for load, at_work in loads:
        before = concurrency.limit
        after = concurrency.observe(load, at_work)
        assert LOWEST <= after <= HIGHEST
        if load is None:
            assert after == before
            continue
        preempted = preemptions is not None and load.preemptions > preemptions
        preemptions = load.preemptions
        if after > before:
            assert (load.waiting, load.kv_cache) < (10, 1.0)
            assert at_work >= before
            assert not preempted
        if after < before:
            assert load.waiting >= 10 or preempted


@given(slots=st.integers(1, 400), tasks=st.integers(1, 600))
def test_it_settles_where_a_server_is_busy_and_does_not_queue(slots: int, tasks: int) -> None:
    """A server of so many slots, and a batch of so many tasks at most: one look a step."""
    concurrency, at_work = Concurrency(), 0
    queued = []
    for _ in range(400):
        # Those at work end little by little, so that a lower limit takes a while to show.
        at_work = max(min(concurrency.limit, tasks), at_work - max(1, at_work // 10))
        waiting = max(0, at_work - slots)
        concurrency.observe(Load(waiting, at_work / 500, 0), at_work)
        queued.append(waiting)
    settled = queued[200:]
    assert sum(settled) / len(settled) < 10 or slots < DEFAULT
    assert at_work >= min(tasks, 0.6 * slots, 440)


def test_a_lower_limit_is_given_time_to_show() -> None:
    concurrency = Concurrency()
    queueing = Load(waiting=50, kv_cache=0.5, preemptions=0)
    for _ in range(20):
        concurrency.observe(Load(0, 0.1, 0), concurrency.limit)
    high = concurrency.limit
    lowered = concurrency.observe(queueing, high)
    assert lowered < high
    assert [concurrency.observe(queueing, high - n) for n in range(5)] == [lowered] * 5
    assert concurrency.observe(queueing, lowered) < lowered


def test_preemptions_lower_it_and_a_restarted_server_does_not() -> None:
    concurrency = Concurrency()
    concurrency.observe(Load(0, 0.1, preemptions=7), at_work=8)
    before = concurrency.limit
    assert concurrency.observe(Load(0, 0.1, preemptions=0), at_work=before) > before
    assert concurrency.observe(Load(0, 0.1, preemptions=1), at_work=before) < before


def test_a_number_is_a_number() -> None:
    assert Concurrency(3).observe(Load(0, 0.1, 0), at_work=3) == 3
    assert Concurrency().observe(None, at_work=8) == DEFAULT
