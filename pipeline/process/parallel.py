"""Apply a function to many items, several at a time, and yield the results in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], *, at_a_time: int) -> Iterator[R]:
    """What `work` returns for each item, in order. If it raises, so does this, and no further item is started.

    Each call runs in a thread. Items are taken one by one, in the caller's thread. At most `at_a_time` of them are
    under way or waiting for the caller, so memory holds no more.
    """
    under_way: deque[Future[R]] = deque()
    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            for item in items:
                if len(under_way) == at_a_time:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(work, item))
            while under_way:
                yield under_way.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
