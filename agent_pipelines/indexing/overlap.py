"""Stages that overlap: each works ahead of the next by a bounded amount, in a thread of its own.

Belongs here: handing items from thread to thread, errors and early ends included. Does not belong
here: what the stages do (`sync.py`).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Seconds between two looks at whether the other side is gone.
_LOOK = 0.1


@contextmanager
def ahead(items: Iterable[T], *, size: int) -> Iterator[Iterator[T]]:
    """Iterate over `items` in a thread, at most `size` items ahead of whoever takes them.

    What iterating raises is raised where the item would have been taken. Leaving the block ends
    the thread after the item that it is at.
    """
    stage = _Ahead(items, size)
    try:
        yield stage.taken()
    finally:
        stage.end()


class _Ahead(Generic[T]):
    def __init__(self, items: Iterable[T], size: int) -> None:
        self._items = items
        self._queue: Queue[T] = Queue(size)
        self._ended, self._abandoned = Event(), Event()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name="ahead", daemon=True)
        self._thread.start()

    def taken(self) -> Iterator[T]:
        while True:
            # Asked first: an item that came before the end is in the queue by now.
            ended = self._ended.is_set()
            try:
                yield self._queue.get(timeout=_LOOK)
            except Empty:
                if ended:
                    break
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        self._abandoned.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # carried over to the thread that takes
            self._error = error
        finally:
            if isinstance(self._items, Generator):
                self._items.close()
            self._ended.set()

    def _put(self, item: T) -> bool:
        while not self._abandoned.is_set():
            try:
                self._queue.put(item, timeout=_LOOK)
            except Full:
                continue
            return True
        return False


def mapped(
    function: Callable[[T], R], items: Iterable[T], *, workers: int
) -> Generator[R, None, None]:
    """`function` of each item, in order, several at once; for calls that wait, such as reads."""
    remaining = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="mapped") as pool:
        running: deque[Future[R]] = deque(
            pool.submit(function, item) for item in islice(remaining, workers)
        )
        try:
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in running:
                future.cancel()
