"""Bound the time of calls that have no bound of their own.

A socket's timeout starts anew with every byte, and clients retry; a service that is slow enough keeps a caller for
ever. Each call runs in a thread of its own, which is left behind when the time is up, so that whoever waits is free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pipeline.errors import ServiceError

T = TypeVar("T")


class OutOfTime(ServiceError):
    """The time was up before a service had answered."""


class Deadline:
    """So many seconds for several calls together; only waiting for them counts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = self._left_s = seconds

    def call(self, doing: str, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises OutOfTime, whose message says what was being done.

        A call that is left behind goes on by itself: only call what does no harm then.
        """
        if self._left_s <= 0:
            raise OutOfTime(f"gave up after {self._seconds:g} s, before {doing}")
        answer: Future[T] = Future()
        # Not an executor's thread: the interpreter would wait for it at its end.
        threading.Thread(target=_answer, args=(answer, work), name=f"deadline: {doing}", daemon=True).start()
        began = time.monotonic()
        try:
            return answer.result(self._left_s)
        except TimeoutError as error:
            if answer.done():  # at this very moment, or the error is the work's own
                return answer.result()
            raise OutOfTime(f"gave up after {self._seconds:g} s while {doing}") from error
        finally:
            self._left_s -= time.monotonic() - began


def _answer(answer: Future[T], work: Callable[[], T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        answer.set_exception(error)
