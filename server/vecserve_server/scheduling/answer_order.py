"""In which order answers reach their callers.

Owns the futures of callers between the run and the answer. Must not know runs or queues.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

A = TypeVar("A")


class Answer(Generic[A]):
    """What one caller waits for."""

    __slots__ = ("_value", "future")

    def __init__(self, future: asyncio.Future[A]) -> None:
        self.future = future
        self._value: A | Exception | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it is known, or nobody waits for it any more."""
        return self._value is not None or self.future.done()

    def settle(self, value: A | Exception) -> None:
        """Note the answer, the first one given, without telling the caller."""
        if self._value is None:
            self._value = value

    def release(self) -> None:
        """Tell the caller, if it still waits."""
        if self.future.done() or self._value is None:
            return
        if isinstance(self._value, Exception):
            self.future.set_exception(self._value)
        else:
            self.future.set_result(self._value)


class AnswerOrder(Generic[A]):
    """Releases answers when they are known, or in the order in which their requests came."""

    def __init__(self, *, preserve: bool) -> None:
        self._preserve = preserve
        self._outstanding: deque[Answer[A]] = deque()

    def enter(self, answer: Answer[A]) -> None:
        """Take note of a request that has come."""
        if self._preserve:
            self._outstanding.append(answer)

    def settle(self, answer: Answer[A], value: A | Exception) -> None:
        """Give an answer; it goes out once all those before it have."""
        answer.settle(value)
        if self._preserve:
            self.advance()
        else:
            answer.release()

    def advance(self) -> None:
        """Release what nothing stands before."""
        while self._outstanding and self._outstanding[0].is_settled:
            self._outstanding.popleft().release()
