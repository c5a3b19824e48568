"""The cores that several models share, as their batchers see them.

Owns who is told that it may go on. Must not know queues or threads. Loop only.
"""

from __future__ import annotations

from collections.abc import Callable

from vecserve_server.scheduling.core_shares import CoreShares, Share


class Cores:
    """A number of cores, and the models that run on them."""

    def __init__(self, *, count: int, niceness: int = 0) -> None:
        """Take their number, and how much the models' threads yield to those that answer calls."""
        self._shares = CoreShares(cores=count)
        self._niceness = niceness
        self._resume: dict[Share, Callable[[], None]] = {}

    def join(self, resume: Callable[[], None]) -> CoreUse:
        """Take in a model; `resume` is called when it waits and may start a run."""
        share = self._shares.join()
        self._resume[share] = resume

        def leave() -> None:
            self._shares.leave(share)
            self._resume.pop(share, None)
            self._offer()

        return CoreUse(
            share=share,
            shares=self._shares,
            offer=self._offer,
            leave=leave,
            niceness=self._niceness,
        )

    def _offer(self) -> None:
        # Each turn ends a wait, and a model that waits again may not start.
        while (share := self._shares.next()) is not None:
            self._resume[share]()


class CoreUse:
    """One model's use of the cores."""

    def __init__(
        self,
        *,
        share: Share,
        shares: CoreShares,
        offer: Callable[[], None],
        leave: Callable[[], None],
        niceness: int,
    ) -> None:
        self._share = share
        self._shares = shares
        self._offer = offer
        self.leave = leave
        self.niceness = niceness

    def allowance(self, free_instances: int) -> int:
        """Return how many free instances may start; where none may, `resume` will be called."""
        return self._shares.allowance(self._share, free_instances)

    def started(self) -> None:
        """Count a run that begins."""
        self._shares.started(self._share)

    def ended(self, run_ns: int) -> None:
        """Count a run that is over, and let those go on that waited for it."""
        self._shares.ended(self._share, run_ns)
        self._offer()
