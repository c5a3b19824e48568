"""Answers that are given again to the same question.

Owns the store, bounded in bytes, least recently used first out, and the joining of requests that
ask the same at the same time. Must not know what models compute. Loop only.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.tensors import Infer, TensorReply, TensorRequest, Tensors
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import DeadlineExceeded, QueueTimeout
from vecserve_server.observability.cache_metrics import CacheStatistics
from vecserve_server.observability.model_statistics import ModelStatistics

Key: TypeAlias = bytes
ENTRY_BYTES = 1024
"""What an entry takes beside its tensors, roughly and not too low."""
HASH_ON_LOOP_BYTES = 256 * 1024
"""Larger inputs are hashed in a thread."""


class ResponseCache:
    """Replies by the hash of everything that they depend on."""

    def __init__(self, *, max_bytes: int) -> None:
        self.statistics = CacheStatistics(max_bytes=max_bytes)
        self._entries: OrderedDict[Key, tuple[TensorReply, int]] = OrderedDict()

    def __len__(self) -> int:
        """Replies that are kept."""
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What the replies take; never more than the bound."""
        return self.statistics.size_bytes

    def get(self, key: Key) -> TensorReply | None:
        """Find a reply."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, reply: TensorReply) -> None:
        """Keep a reply, in place of those that were asked for least recently."""
        size_bytes = ENTRY_BYTES + _size_bytes(reply.outputs)
        counted = self.statistics
        if size_bytes > counted.max_bytes:
            return
        self._drop(key)
        while counted.size_bytes + size_bytes > counted.max_bytes:
            self._drop(next(iter(self._entries)))
            counted.evictions += 1
        self._entries[key] = (reply, size_bytes)
        counted.size_bytes += size_bytes
        counted.entries = len(self._entries)

    def looked_up(self, lookup_ns: int) -> None:
        """Count a look-up."""
        self.statistics.lookups += 1
        self.statistics.lookup_ns += lookup_ns

    def hit(self) -> None:
        """Count a request that was answered without a run of its own."""
        self.statistics.hits += 1

    def missed(self, insertion_ns: int) -> None:
        """Count a request that had to be computed."""
        self.statistics.misses += 1
        self.statistics.insertion_ns += insertion_ns

    def _drop(self, key: Key) -> None:
        _, size_bytes = self._entries.pop(key, (None, 0))
        self.statistics.size_bytes -= size_bytes


@dataclass(slots=True)
class _Flight:
    """A run that several requests wait for."""

    task: asyncio.Task[TensorReply]
    waiting: int = 0


class CachedInference:
    """Compute the answer to a question once.

    A request joins one that asks the same with the same priority and timeout. The run belongs to
    nobody: it goes on while anyone waits for it, and where it ends with its first asker's
    deadline or timeout, the others ask again.
    """

    def __init__(
        self,
        infer: Infer,
        *,
        identity: Sequence[str],
        cache: ResponseCache,
        statistics: ModelStatistics,
        clock_ns: Callable[[], int],
    ) -> None:
        """Answer in place of `infer`; `identity` names all of a version that answers depend on."""
        self._infer = infer
        self._identity = identity
        self._cache = cache
        self._statistics = statistics
        self._clock_ns = clock_ns
        self._flights: dict[_Place, _Flight] = {}

    async def infer(self, request: TensorRequest) -> TensorReply:
        """Answer; a reply without a run of its own is marked as a hit."""
        started_ns = self._clock_ns()
        key = await self._key(request)
        found = self._cache.get(key)
        lookup_ns = self._clock_ns() - started_ns
        self._cache.looked_up(lookup_ns)
        if found is not None:
            self._hit(lookup_ns)
            return _again(found, queue_ns=0)
        place = (key, request.priority, request.timeout_us)
        while (flight := self._flights.get(place)) is not None:
            try:
                reply = await self._wait(place, flight, request.deadline_ns)
            except (DeadlineExceeded, QueueTimeout):
                self._refuse_if_late(request, started_ns)
                continue
            self._hit(lookup_ns)
            return _again(reply, queue_ns=self._clock_ns() - started_ns - lookup_ns)
        run = asyncio.create_task(self._run(key, request, lookup_ns))
        run.add_done_callback(_retrieve)
        flight = self._flights[place] = _Flight(run)
        return await self._wait(place, flight, request.deadline_ns)

    async def _run(self, key: Key, request: TensorRequest, lookup_ns: int) -> TensorReply:
        reply = _kept(await self._infer(request))
        started_ns = self._clock_ns()
        self._cache.put(key, reply)
        insertion_ns = self._clock_ns() - started_ns
        self._cache.missed(insertion_ns)
        self._statistics.missed(lookup_ns + insertion_ns)
        return reply

    def _hit(self, lookup_ns: int) -> None:
        self._statistics.hit(lookup_ns)
        self._cache.hit()

    async def _wait(self, place: _Place, flight: _Flight, deadline_ns: int | None) -> TensorReply:
        timeout_s = None if deadline_ns is None else (deadline_ns - self._clock_ns()) / 1e9
        flight.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(flight.task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was there") from None
        finally:
            flight.waiting -= 1
            if not flight.waiting or flight.task.done():
                if self._flights.get(place) is flight:
                    del self._flights[place]
                flight.task.cancel()

    def _refuse_if_late(self, request: TensorRequest, started_ns: int) -> None:
        now_ns = self._clock_ns()
        if request.deadline_ns is not None and request.deadline_ns <= now_ns:
            raise DeadlineExceeded("the deadline passed before the answer was there")
        if request.timeout_us and started_ns + request.timeout_us * 1000 <= now_ns:
            raise QueueTimeout("the request waited for the answer for longer than it may")

    async def _key(self, request: TensorRequest) -> Key:
        if _is_large(request.inputs):
            return await asyncio.to_thread(self._hash, request)
        return self._hash(request)

    def _hash(self, request: TensorRequest) -> Key:
        """Hash all that an answer depends on; every part says how long it is."""
        hashed = hashlib.blake2b(digest_size=32)
        for text in (*self._identity, *request.outputs):
            _add(hashed, text.encode())
        for name, tensor in sorted(request.inputs.items()):
            _add(hashed, f"input {name}".encode())
            _add(hashed, f"{tensor.dtype.str}{tensor.shape}".encode())
            if tensor.dtype == object:
                for element in tensor.flat:
                    _add(hashed, element)
            else:
                _add(hashed, np.ascontiguousarray(tensor).data)
        return hashed.digest()


_Place: TypeAlias = tuple[Key, int, int]


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def _add(hashed: _Hash, part: bytes | memoryview) -> None:
    size_bytes = part.nbytes if isinstance(part, memoryview) else len(part)
    hashed.update(size_bytes.to_bytes(8, "little"))
    hashed.update(part)


def _kept(reply: TensorReply) -> TensorReply:
    """Make a reply fit to be given to several: read-only, and not a part of something larger."""
    return replace(
        reply,
        outputs=MappingProxyType({name: _frozen(array) for name, array in reply.outputs.items()}),
    )


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    alone = array if array.base is None else array.copy()
    alone.flags.writeable = False
    return alone


def _again(reply: TensorReply, *, queue_ns: int) -> TensorReply:
    return replace(reply, times=Timings(queue_ns=queue_ns), cache_hit=True)


def _is_large(tensors: Tensors) -> bool:
    """Tell whether hashing would hold up the loop; so would looking at too many byte strings."""
    referring_bytes = sum(array.nbytes for array in tensors.values())
    return referring_bytes > HASH_ON_LOOP_BYTES or _size_bytes(tensors) > HASH_ON_LOOP_BYTES


def _size_bytes(tensors: Tensors) -> int:
    """Return what tensors take, with the byte strings that they refer to."""
    return sum(
        array.nbytes
        + (sum(sys.getsizeof(item) for item in array.flat) if array.dtype == object else 0)
        for array in tensors.values()
    )


def _retrieve(run: asyncio.Task[TensorReply]) -> None:
    """Look at the error of a run that nobody waits for, so that asyncio does not log it."""
    if not run.cancelled():
        run.exception()
