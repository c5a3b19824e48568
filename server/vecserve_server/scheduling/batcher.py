"""The dynamic batcher: waiting sequences meet free model instances.

Owns the futures and the instances of one model. Everything but the encoder runs happens on the
event loop. Batches are formed late: only when an instance is free, from all that waits at that
moment; nothing waits for company. Must not know protocols or what the sequences mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vecserve_server.domain import Encodings, TokenIds, Vectors
from vecserve_server.errors import DeadlineExceeded, Draining, Overloaded, VecserveError
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.alarm import Alarm
from vecserve_server.scheduling.instance import Finished, ModelInstance, RunEncoder
from vecserve_server.scheduling.policy import RETRY_AFTER_MS, BatchPolicy, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What a submission got, and its longest waits."""

    encodings: Encodings
    queue_us: int
    encode_us: int


class Ticket:
    """One submission: where its results gather until the last one is in."""

    __slots__ = ("done", "encode_ns", "encodings", "missing", "queue_ns", "sequences")

    def __init__(
        self, sequences: Sequence[TokenIds], *, dim: int, done: asyncio.Future[None]
    ) -> None:
        self.sequences = sequences
        self.encodings = Encodings(
            np.empty((len(sequences), dim), np.float32), np.empty(len(sequences), np.float32)
        )
        self.missing = len(sequences)
        self.done = done
        self.queue_ns = 0
        self.encode_ns = 0

    def fail(self, error: Exception) -> None:
        """Answer the whole submission with an error."""
        if not self.done.done():
            self.done.set_exception(error)

    def fill(self, index: int, vector: Vectors, norm: np.float32) -> None:
        """Take one result; the last one completes the submission."""
        self.encodings.vectors[index] = vector
        self.encodings.norms[index] = norm
        self.missing -= 1
        if self.missing == 0 and not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Place:
    """Which sequence of which submission an entry stands for."""

    ticket: Ticket
    index: int

    @property
    def sequence(self) -> TokenIds:
        """The token ids to encode."""
        return self.ticket.sequences[self.index]


def abandoned(place: Place) -> bool:
    """Tell whether nobody waits for this result any more."""
    return place.ticket.done.done()


class DynamicBatcher:
    """Queue, policy and instances of one model version. Loop only."""

    def __init__(
        self,
        *,
        name: str,
        dim: int,
        run_encoder: RunEncoder,
        policy: BatchPolicy[Place],
        instance_count: int,
        max_queued_entries: int,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        statistics: ModelStatistics,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._name = name
        self._dim = dim
        self._policy = policy
        self._max_queued_entries = max_queued_entries
        self._clock_ns = clock_ns
        self._metrics = metrics
        self._statistics = statistics
        self._on_death = on_death
        self._closed = False
        self._alarm = Alarm(ring=self._dispatch, clock_ns=clock_ns)
        self._running: dict[ModelInstance, Sequence[Entry[Place]]] = {}
        self._loop = asyncio.get_running_loop()
        self._instances = [
            ModelInstance(
                name=f"instance-{name}-{number}",
                run_encoder=run_encoder,
                clock_ns=clock_ns,
                on_death=self._report_death,
            )
            for number in range(instance_count)
        ]
        self._free = list(self._instances)
        statistics.queued = policy.__len__

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        return len(self._instances)

    async def submit(
        self, sequences: Sequence[TokenIds], *, deadline_ns: int | None = None
    ) -> Encoded:
        """Encode sequences; row i of the answer belongs to sequence i.

        A cancelled caller costs nothing more than the runs that are in progress. Raises
        Draining, Overloaded, DeadlineExceeded, or what the encoder raised.
        """
        self._refuse_if_full(len(sequences))
        now_ns = self._clock_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            raise DeadlineExceeded("the deadline passed before the encoder was asked")
        ticket = Ticket(sequences, dim=self._dim, done=self._loop.create_future())
        for index, sequence in enumerate(sequences):
            self._policy.add(
                Entry(
                    work=Place(ticket, index),
                    tokens=len(sequence),
                    enqueued_ns=now_ns,
                    deadline_ns=deadline_ns,
                )
            )
        self._dispatch()
        await self._completion(ticket, deadline_ns)
        return Encoded(
            encodings=ticket.encodings,
            queue_us=ticket.queue_ns // 1000,
            encode_us=ticket.encode_ns // 1000,
        )

    async def close(self, timeout_s: float) -> bool:
        """Fail what still waits and stop the instances; return whether they ended in time."""
        self._closed = True
        self._alarm.cancel()
        for entry in self._policy.clear():
            entry.work.ticket.fail(Draining("the server is shutting down"))
        ends = [asyncio.to_thread(instance.close, timeout_s) for instance in self._instances]
        return all(await asyncio.gather(*ends))

    def _refuse_if_full(self, count: int) -> None:
        if self._closed:
            raise Draining("the server is shutting down")
        if len(self._policy) + count > self._max_queued_entries:
            raise Overloaded(
                f"model {self._name}: {len(self._policy)} sequences wait and {count} more exceed "
                f"the limit of {self._max_queued_entries}",
                retry_after_ms=RETRY_AFTER_MS,
            )

    async def _completion(self, ticket: Ticket, deadline_ns: int | None) -> None:
        if deadline_ns is None:
            await ticket.done
            return
        try:
            async with asyncio.timeout((deadline_ns - self._clock_ns()) / 1e9):
                await ticket.done
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the encoder was done") from None

    def _dispatch(self) -> None:
        while len(self._policy):
            now_ns = self._clock_ns()
            batch = self._policy.form(now_ns=now_ns, free_instances=len(self._free))
            for entry in batch.expired:
                entry.work.ticket.fail(DeadlineExceeded("the deadline passed in the queue"))
            if not batch.entries:
                break
            self._start(batch.entries)
        self._alarm.set(self._policy.wake_ns(self._clock_ns()))

    def _start(self, entries: Sequence[Entry[Place]]) -> None:
        instance = self._free.pop()
        self._running[instance] = entries

        def report(finished: Finished) -> None:  # on the instance's thread
            self._loop.call_soon_threadsafe(self._finish, instance, finished)

        instance.start([entry.work.sequence for entry in entries], report)
        self._metrics.batch_items.labels(model=self._name).observe(len(entries))
        self._metrics.batch_tokens.labels(model=self._name).observe(
            sum(entry.tokens for entry in entries)
        )

    def _finish(self, instance: ModelInstance, finished: Finished) -> None:
        entries = self._running.pop(instance)
        self._free.append(instance)
        self._dispatch()  # the instance works on while the answers go out
        if finished.encodings is not None:
            run_ns = finished.ended_ns - finished.started_ns
            self._statistics.executed(len(entries), 0, run_ns, 0)
        for position, entry in enumerate(entries):
            ticket = entry.work.ticket
            if finished.encodings is None:
                ticket.fail(finished.error or VecserveError("the encoder run failed"))
                continue
            ticket.queue_ns = max(ticket.queue_ns, finished.started_ns - entry.enqueued_ns)
            ticket.encode_ns = max(ticket.encode_ns, finished.ended_ns - finished.started_ns)
            vectors, norms = finished.encodings
            ticket.fill(entry.work.index, vectors[position], norms[position])

    def _report_death(self, death: BaseException) -> None:  # on the instance's thread
        self._loop.call_soon_threadsafe(self._die, death)

    def _die(self, death: BaseException) -> None:
        self._closed = True
        running = [entry for entries in self._running.values() for entry in entries]
        for entry in (*running, *self._policy.clear()):
            entry.work.ticket.fail(VecserveError("a model instance has died"))
        self._on_death(death)
