"""A deadline for calls that have no reliable timeout of their own.

A socket's timeout starts again with every byte, and clients retry, so a slow service can block a caller for ever. Each
call runs in a thread of its own, which is abandoned when the time is up, so that the caller goes on.
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
    """A number of seconds for several calls together; only the time in which they are waited for counts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = self._left_s = seconds

    def call(self, doing: str, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises OutOfTime, whose message says what was being done.

        An abandoned call may still complete later, so `work` must do no harm then.
        """
        if self._left_s <= 0:
            raise OutOfTime(f"gave up after {self._seconds:g} s, before {doing}")
        answer: Future[T] = Future()
        # Not an executor's thread, for which the interpreter would wait when it exits.
        threading.Thread(target=_answer, args=(answer, work), name=f"deadline: {doing}", daemon=True).start()
        began = time.monotonic()
        try:
            return answer.result(self._left_s)
        except TimeoutError as error:
            if answer.done():  # it ended just now, or the error was raised by the work
                return answer.result()
            raise OutOfTime(f"gave up after {self._seconds:g} s while {doing}") from error
        finally:
            self._left_s -= time.monotonic() - began


def _answer(answer: Future[T], work: Callable[[], T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        answer.set_exception(error)
