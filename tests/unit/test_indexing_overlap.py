"""Stages that overlap: nothing lost, nothing reordered, no thread left behind."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.indexing.overlap import ahead, mapped


def stages() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("ahead", "mapped"))]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_everything_arrives_in_order(items: list[int], size: int) -> None:
    with ahead(items, size=size) as taken:
        assert list(taken) == items
    assert list(mapped(lambda n: n + 1, items, workers=size)) == [n + 1 for n in items]
    assert stages() == []


def test_a_stage_works_ahead_by_no_more_than_it_may() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    with ahead(items(), size=3) as taken:
        assert next(taken) == 0
        deadline = time.monotonic() + 10
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(made) == 5, "one taken, three waiting, one that cannot be put yet"
    assert stages() == []


def test_an_error_is_raised_where_the_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the third page is torn")

    with ahead(items(), size=5) as taken:
        assert next(taken) == 1
        with pytest.raises(ValueError, match="third page"):
            next(taken)


@pytest.mark.parametrize("taken_before", [0, 1, 2])
def test_leaving_early_ends_the_thread_and_closes_what_it_read(taken_before: int) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from iter(int, 1)  # for ever
        finally:
            closed.set()

    def leave_early() -> None:
        with ahead(items(), size=2) as taken:
            for _ in range(taken_before):
                next(taken)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    assert closed.is_set()
    assert stages() == []


def test_calls_run_at_the_same_time_and_an_error_ends_them() -> None:
    together = threading.Barrier(3, timeout=10)

    def call(n: int) -> int:
        if n == 7:
            raise OSError("unplugged")
        if n < 3:
            together.wait()
        return n

    got: list[int] = []
    with pytest.raises(OSError, match="unplugged"):
        got.extend(mapped(call, range(100), workers=3))
    assert got == list(range(7))
    assert stages() == []
