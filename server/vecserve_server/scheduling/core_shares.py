"""Which model may start a run, where several share the cores.

Owns the rule of sharing. Sans I/O: no clock, no threads; run times come in as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass


# Each share is itself and equals no other.
@dataclass(slots=True, eq=False)
class Share:
    """What one model has of the cores."""

    running: int = 0
    """Its runs in progress."""
    used_ns: int = 0
    """Time of its runs so far, moved up where it was idle: idleness earns no credit."""
    waits: bool = False
    """It has work and a free instance, and was not allowed to start."""

    @property
    def is_active(self) -> bool:
        """Whether it runs or would run."""
        return self.waits or self.running > 0


class CoreShares:
    """The model that was served least comes first.

    A model without a run in progress may always start one, so no model waits for another. Further
    runs of a model start while it is alone, or while fewer runs than `cores` are in progress and no
    model that waits was served less. So of models that are never idle, each gets one run at a time
    or, where there are more cores than models, an equal part of the run time.
    """

    def __init__(self, *, cores: int) -> None:
        self._cores = cores
        self._shares: set[Share] = set()
        self._running = 0
        self._floor_ns = 0

    def join(self) -> Share:
        """Take in a model."""
        share = Share()
        self._shares.add(share)
        return share

    def leave(self, share: Share) -> None:
        """Let go of a model; its runs in progress count no more."""
        self._shares.discard(share)
        self._running -= share.running
        share.running, share.waits = 0, False

    def allowance(self, share: Share, free_instances: int) -> int:
        """Return how many of its free instances a model may start now.

        Where that is none although there are free ones, the model waits.
        """
        if not share.is_active:
            share.used_ns = max(share.used_ns, self._floor_ns)
        allowed = self._allowed(share, free_instances)
        share.waits = free_instances > 0 and not allowed
        return allowed

    def started(self, share: Share) -> None:
        """Count a run that begins."""
        share.running += 1
        self._running += 1

    def ended(self, share: Share, run_ns: int) -> None:
        """Count a run that is over."""
        if share not in self._shares:
            return
        share.running -= 1
        self._running -= 1
        share.used_ns += run_ns
        served = [other.used_ns for other in self._shares if other.is_active]
        self._floor_ns = max(self._floor_ns, min(served, default=share.used_ns))

    def next(self) -> Share | None:
        """Return the model that waits and may start now; it waits no more."""
        waiting = [share for share in self._shares if share.waits]
        share = min(waiting, key=_served, default=None)
        if share is None or not self._allowed(share, 1):
            return None
        share.waits = False
        return share

    def _allowed(self, share: Share, wanted: int) -> int:
        others = [other for other in self._shares if other is not share and other.is_active]
        if not others:
            return wanted
        first = 0 if share.running else 1
        if any(other.waits and other.used_ns < share.used_ns for other in others):
            return min(wanted, first)
        return min(wanted, max(first, self._cores - self._running))


def _served(share: Share) -> int:
    return share.used_ns
