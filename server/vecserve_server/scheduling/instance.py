"""One thread that runs an encoder.

Owns the thread. Must not know queues, policies or requests: it runs what it is handed, one run
at a time, and says how that went.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vecserve_server.domain import Encodings, TokenIds

RunEncoder: TypeAlias = Callable[[Sequence[TokenIds]], Encodings]
"""N token sequences to N encodings; synchronous, safe to call from several threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a run went: `encodings` or the exception that it raised."""

    encodings: Encodings | None
    error: Exception | None
    started_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class _Run:
    sequences: Sequence[TokenIds]
    report: Callable[[Finished], None]


class ModelInstance:
    """A worker thread around a shared, thread-safe encoder."""

    def __init__(
        self,
        *,
        name: str,
        run_encoder: RunEncoder,
        clock_ns: Callable[[], int],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._run_encoder = run_encoder
        self._clock_ns = clock_ns
        self._on_death = on_death
        # Holds one run at most, as only idle instances get one, and the None that ends the thread.
        self._runs: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def start(self, sequences: Sequence[TokenIds], report: Callable[[Finished], None]) -> None:
        """Run the sequences; `report` is called from the worker thread."""
        self._runs.put(_Run(sequences, report))

    def close(self, timeout_s: float) -> bool:
        """Stop after the run in progress; return whether the thread has ended in time."""
        self._runs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        try:
            while (run := self._runs.get()) is not None:
                run.report(self._execute(run.sequences))
        except BaseException as death:  # noqa: BLE001 - a dead worker must not die silently
            self._on_death(death)

    def _execute(self, sequences: Sequence[TokenIds]) -> Finished:
        started_ns = self._clock_ns()
        encodings: Encodings | None = None
        error: Exception | None = None
        try:
            encodings = self._run_encoder(sequences)
        except Exception as failure:  # noqa: BLE001 - the batcher answers every caller of the run
            error = failure
        return Finished(
            encodings=encodings,
            error=error,
            started_ns=started_ns,
            ended_ns=self._clock_ns(),
        )
