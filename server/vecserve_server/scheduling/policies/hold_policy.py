"""A test hook: hold a queue until enough entries wait, so that batches can be foretold.

Owns nothing but the hold. Must not know which policy it holds.
"""

from __future__ import annotations

from typing import Generic

from vecserve_server.scheduling.policies.policy import Batch, BatchPolicy, Entry, T


class HoldPolicy(Generic[T]):
    """Another policy that gives no batch until `hold` entries have waited at once; then as usual.

    What expires meanwhile is given.
    """

    def __init__(self, policy: BatchPolicy[T], *, hold: int) -> None:
        self._policy = policy
        self._hold = hold
        self._holding = hold > 0

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._policy)

    def add(self, entry: Entry[T]) -> None:
        """Append an entry; raises Overloaded where the policy does."""
        self._policy.add(entry)
        if len(self._policy) >= self._hold:
            self._holding = False

    def form(self, *, now_ns: int, free_instances: int) -> Batch[T]:
        """Form what the policy forms, as if no instance were free while it is held."""
        free = 0 if self._holding else free_instances
        return self._policy.form(now_ns=now_ns, free_instances=free)

    def wake_ns(self, now_ns: int) -> int | None:
        """Return when the policy wants to be asked again."""
        return self._policy.wake_ns(now_ns)

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait, as the policy counts them."""
        return self._policy.queued_tokens

    def tokens_ahead(self, priority: int, expires_ns: int) -> int:
        """Tell what the policy tells; 0 while nothing is known of when it will run."""
        return 0 if self._holding else self._policy.tokens_ahead(priority, expires_ns)

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        return self._policy.clear()
