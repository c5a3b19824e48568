"""When to try a failed call again.

Owns the retry policy and which methods are safe to repeat. Pure: time and randomness come in as
arguments. Must not know channels or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vecserve_client.errors import DeadlineExceeded, Overloaded, Unavailable, VecserveError

IDEMPOTENT: Final = frozenset(
    {
        "Check",
        "Classify",
        "CompactCollection",
        "Count",
        "Delete",
        "DeleteAlias",
        "Embed",
        "EmbedStream",
        "Get",
        "GetCollection",
        "GetReindex",
        "GetStats",
        "ListAliases",
        "ListCollections",
        "ListModels",
        "ListSnapshots",
        "Scan",
        "Search",
        "SearchBatch",
        "SetAlias",
        "Upsert",
        "UpsertStream",
        "VerifyCollection",
    }
)
"""Methods that may run twice with the same outcome. An upsert with `expected_seq` may not."""

NOT_IDEMPOTENT: Final = frozenset(
    {
        "CancelReindex",
        "CreateCollection",
        "CreateSnapshot",
        "DeleteSnapshot",
        "DropCollection",
        "RestoreSnapshot",
        "StartReindex",
    }
)
"""Methods whose second run fails or does something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter, within the call's deadline.

    `max_attempts` counts the first try; None leaves the deadline as the only bound.
    """

    max_attempts: int | None = 5
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 2.0

    def delay_s(
        self,
        failure: VecserveError,
        *,
        attempt: int,
        idempotent: bool,
        remaining_s: float,
        jitter: float,
    ) -> float | None:
        """Decide how long to wait after the `attempt`-th try (from 1) failed.

        Returns seconds, or None where the failure is final. `jitter` is uniform in [0, 1).
        """
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        if not may_repeat(failure, idempotent=idempotent):
            return None
        doublings = min(attempt - 1, 32)
        backoff_s = min(self.initial_backoff_s * 2.0**doublings, self.max_backoff_s)
        delay_s = max(backoff_s * (0.5 + jitter / 2), failure.retry_after_s or 0.0)
        return delay_s if delay_s < remaining_s else None


def may_repeat(failure: VecserveError, *, idempotent: bool) -> bool:
    """Tell whether a failure is worth another try.

    An overloaded server has not begun the work and says when to come back; without that hint it
    is a limit that the request itself breaks. After a lost connection the work may be done, so
    only idempotent calls are repeated.
    """
    if isinstance(failure, Overloaded):
        return failure.retry_after_s is not None
    return isinstance(failure, Unavailable) and idempotent


class Attempts:
    """The tries of one call: counts them and watches their common deadline."""

    def __init__(
        self,
        *,
        policy: RetryPolicy,
        idempotent: bool,
        timeout_s: float,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._idempotent = idempotent
        self._timeout_s = timeout_s
        self._clock = clock
        self._jitter = jitter
        self._failed = 0
        self._deadline = clock() + timeout_s

    def remaining_s(self) -> float:
        """Seconds until the deadline, 0 or more."""
        return max(self._deadline - self._clock(), 0.0)

    def restart(self) -> None:
        """Begin anew after progress: the full time, no failures."""
        self._failed = 0
        self._deadline = self._clock() + self._timeout_s

    def delay_after(self, failure: VecserveError) -> float:
        """Seconds to wait before the next try; raise the failure where there is none."""
        self._failed += 1
        remaining_s = self.remaining_s()
        delay_s = self._policy.delay_s(
            failure,
            attempt=self._failed,
            idempotent=self._idempotent,
            remaining_s=remaining_s,
            jitter=self._jitter(),
        )
        if delay_s is None:
            raise failure
        return delay_s

    def timed_out(self, method: str) -> DeadlineExceeded:
        """Make the error for a wait that took the whole time."""
        return DeadlineExceeded(f"no answer within {self._timeout_s:g} s", method=method)
