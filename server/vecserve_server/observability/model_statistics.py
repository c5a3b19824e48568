"""What each version of a model has done, counted the way Triton counts.

Owns the counters. Must not know who runs models, nor protocols. The event loop alone
writes; other threads may read: every number is whole, and numbers read together may be one event
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol


class Times(Protocol):
    """Where the time of one request went."""

    @property
    def queue_ns(self) -> int:
        """From arrival to the start of its run, or to the look-up that answered it."""
        ...

    @property
    def compute_input_ns(self) -> int:
        """Gathering the inputs of its run."""
        ...

    @property
    def compute_infer_ns(self) -> int:
        """The run."""
        ...

    @property
    def compute_output_ns(self) -> int:
        """Handing out the outputs of its run."""
        ...


class Reply(Protocol):
    """An answered request."""

    @property
    def times(self) -> Times:
        """Where its time went."""
        ...

    @property
    def cache_hit(self) -> bool:
        """Whether no run was made for it."""
        ...


class Failure(Enum):
    """Why a request failed, in Triton's words."""

    REJECTED = "REJECTED"
    """A full queue or a passed deadline."""
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    """The run failed."""
    OTHER = "OTHER"
    """The request was malformed."""


@dataclass(slots=True)
class Duration:
    """A number of events and the time that they took together."""

    count: int = 0
    ns: int = 0

    def add(self, duration_ns: int) -> None:
        """Count one event."""
        self.count += 1
        self.ns += max(0, duration_ns)


@dataclass(slots=True)
class Compute:
    """The stages of runs."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count one run, or one request."""
        self.input.add(input_ns)
        self.infer.add(infer_ns)
        self.output.add(output_ns)


class ModelStatistics:
    """The counters of one version of a model."""

    def __init__(self, *, wall_clock_ms: Callable[[], int]) -> None:
        """Start at zero; `wall_clock_ms` tells milliseconds since the epoch."""
        self._wall_clock_ms = wall_clock_ms
        self.success = Duration()
        self.queue = Duration()
        self.compute = Compute()
        self.cache_hit = Duration()
        self.cache_miss = Duration()
        self.failures = {reason: Duration() for reason in Failure}
        self.inference_count = 0
        """Rows that went through a run; answers from the cache are not among them."""
        self.execution_count = 0
        self.last_inference_ms = 0
        self.load_seconds = 0.0
        self._queued: Callable[[], int] = _nothing
        self._runs: dict[int, Compute] = {}

    def executed(
        self, rows: int, compute_input_ns: int, compute_infer_ns: int, compute_output_ns: int
    ) -> None:
        """Count one successful run of a batch of `rows`."""
        self.inference_count += rows
        self.execution_count += 1
        self.last_inference_ms = self._wall_clock_ms()
        if rows not in self._runs:
            # A reader iterates over the old mapping meanwhile.
            self._runs = self._runs | {rows: Compute()}
        self._runs[rows].add(compute_input_ns, compute_infer_ns, compute_output_ns)

    def succeeded(self, reply: Reply, total_ns: int) -> None:
        """Count an answered request; the compute times are those of its whole run."""
        times = reply.times
        self.success.add(total_ns)
        self.queue.add(times.queue_ns)
        if not reply.cache_hit:
            self.compute.add(
                times.compute_input_ns, times.compute_infer_ns, times.compute_output_ns
            )

    def failed(self, total_ns: int, reason: Failure = Failure.OTHER) -> None:
        """Count a request that got no answer."""
        self.failures[reason].add(total_ns)

    def hit(self, lookup_ns: int) -> None:
        """Count a request that was answered without a run of its own."""
        self.cache_hit.add(lookup_ns)
        self.last_inference_ms = self._wall_clock_ms()

    def missed(self, lookup_and_insert_ns: int) -> None:
        """Count a request that the cache could not answer."""
        self.cache_miss.add(lookup_and_insert_ns)

    @property
    def queued(self) -> int:
        """What waits for a run at this moment."""
        return self._queued()

    def loaded(self, *, seconds: float, queued: Callable[[], int]) -> None:
        """Take note of a version that is loaded: how long that took, and what tells its queue."""
        self.load_seconds = seconds
        self._queued = queued

    def closed(self) -> None:
        """Let go of the queue: the version does not serve any more."""
        self._queued = _nothing

    def failed_in_all(self) -> Duration:
        """Add up the requests that got no answer, for whatever reason."""
        failures = list(self.failures.values())
        return Duration(
            sum(failure.count for failure in failures), sum(failure.ns for failure in failures)
        )

    def runs(self) -> list[tuple[int, Compute]]:
        """Return the stages of runs by their rows, fewest first."""
        return sorted(self._runs.items())


class VersionStatistics(NamedTuple):
    """The counters of a version, and whose they are."""

    name: str
    version: str
    counted: ModelStatistics


class StatisticsTable:
    """The statistics of every version that is or was loaded, as long as the server runs."""

    def __init__(self, *, wall_clock_ms: Callable[[], int]) -> None:
        self._wall_clock_ms = wall_clock_ms
        self._entries: dict[tuple[str, str], ModelStatistics] = {}

    def of(self, name: str, version: str) -> ModelStatistics:
        """Return a version's statistics; they go on where they were when it is loaded again."""
        key = (name, version)
        if key not in self._entries:
            # The thread of a scrape iterates over the old mapping meanwhile.
            self._entries = self._entries | {
                key: ModelStatistics(wall_clock_ms=self._wall_clock_ms)
            }
        return self._entries[key]

    def forget(self, name: str, version: str) -> None:
        """Drop a version that will not come back."""
        self._entries = {k: v for k, v in self._entries.items() if k != (name, version)}

    def all(self) -> dict[tuple[str, str], ModelStatistics]:
        """Return every entry by name and version. Any thread."""
        return self._entries


def _nothing() -> int:
    return 0
