"""Messages that are on their way in.

Owns the waiting for a message and how much memory all that wait may take together. gRPC gathers a
message before anybody sees it and does not tell its size before it is whole, so what is measured is
the process: where it has grown too much since nothing was slow to arrive, all that is slow goes.
Must not know methods or what messages mean. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpc import aio

from vecserve_server.errors import DeadlineExceeded, InvalidArgument, Overloaded, VecserveError
from vecserve_server.observability.metrics import Metrics

LOOK_S = 0.1
"""How often it is looked for what is slow; whatever has waited for so long is slow."""
TARDY_S = 0.5
"""Who has sent no message for so long makes room for others where there is none."""
CANCELLED_S = 0.1
"""The end of a call comes before the word that its client has cancelled it."""
RETRY_AFTER_MS = 1000


@dataclass(slots=True)
class _Wait:
    """One reading of one message."""

    since_s: float
    is_stream: bool
    refusal: VecserveError | None = None


class Arrivals:
    """The calls that wait for a message of their client."""

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_s: float,
        resident_bytes: Callable[[], int],
        clock_s: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resident_bytes = resident_bytes
        self._clock_s = clock_s
        self._metrics = metrics
        self._waits: dict[asyncio.Task[Any], _Wait] = {}
        self._quiet_bytes = 0
        self._look: asyncio.TimerHandle | None = None
        metrics.arriving_messages.set_function(lambda: len(self._waits))

    async def message(self, context: aio.ServicerContext[Any, Any]) -> bytes:
        """Return the message of a unary call.

        Raises InvalidArgument where the client sends none, and DeadlineExceeded or Overloaded.
        """
        message = await self._read(context, is_stream=False)
        if message is None:
            await asyncio.sleep(CANCELLED_S)
            raise InvalidArgument("request", "is missing: the call has ended without a message")
        return message

    async def next_message(self, context: aio.ServicerContext[Any, Any]) -> bytes | None:
        """Return the next message of a stream, None at its end. Raises Overloaded."""
        return await self._read(context, is_stream=True)

    def make_room(self) -> bool:
        """End the unary call that has waited longest for its message, if it is tardy."""
        for task, wait in self._waits.items():
            if wait.is_stream or wait.refusal is not None:
                continue
            if self._clock_s() - wait.since_s < TARDY_S:
                return False
            self._refuse(
                task, wait, "tardy", _overloaded("no message came in time, and others wait")
            )
            return True
        return False

    def look(self) -> None:
        """Refuse what has taken too long, and all that is slow where it takes too much memory."""
        now_s, resident_bytes = self._clock_s(), self._resident_bytes()
        slow = [(t, w) for t, w in self._waits.items() if now_s - w.since_s >= LOOK_S]
        for task, wait in slow:
            if not wait.is_stream and now_s - wait.since_s >= self._timeout_s:
                late = f"no message came within server.receive_timeout_s = {self._timeout_s:g}"
                self._refuse(task, wait, "late", DeadlineExceeded(late))
        if not slow or not self._quiet_bytes:
            self._quiet_bytes = resident_bytes
        elif resident_bytes - self._quiet_bytes > self._max_bytes:
            for task, wait in slow:
                self._refuse(task, wait, "arriving", self._too_much())

    async def _read(
        self, context: aio.ServicerContext[Any, Any], *, is_stream: bool
    ) -> bytes | None:
        task = asyncio.current_task()
        assert task is not None, "messages are read in tasks"
        wait = self._waits[task] = _Wait(self._clock_s(), is_stream)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if wait.refusal is None:
                raise
            task.uncancel()
            raise wait.refusal from None
        finally:
            del self._waits[task]
        return message if isinstance(message, bytes) else None

    def _look_again(self) -> None:
        self.look()
        again = asyncio.get_running_loop().call_later
        self._look = again(LOOK_S, self._look_again) if self._waits else None

    def _refuse(
        self, task: asyncio.Task[Any], wait: _Wait, reason: str, refusal: VecserveError
    ) -> None:
        if wait.refusal is None:
            wait.refusal = refusal
            self._metrics.rejected.labels(reason=reason).inc()
            task.cancel()

    def _too_much(self) -> Overloaded:
        return _overloaded(
            f"the messages that are on their way take more than server.max_arriving_bytes = "
            f"{self._max_bytes}; send smaller ones, or fewer at once"
        )


def _overloaded(problem: str) -> Overloaded:
    return Overloaded(problem, retry_after_ms=RETRY_AFTER_MS)
