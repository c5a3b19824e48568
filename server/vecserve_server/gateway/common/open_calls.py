"""How many calls are open.

Owns the bounds on open calls of one kind, all together and of one connection. Must not know what
the calls do. Loop only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vecserve_server.errors import Overloaded
from vecserve_server.observability.metrics import Metrics

RETRY_AFTER_MS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A limit and the setting that it comes from; None: there is none."""

    setting: str
    limit: int | None


class OpenCalls:
    """Counters of the open calls of one kind, with bounds."""

    def __init__(
        self,
        *,
        kind: str,
        total: Bound,
        by_connection: Bound,
        make_room: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        """Start at zero; `make_room` ends a call of the kind that is of no use, if there is one."""
        self._kind = kind
        self._total = total
        self._by_connection = by_connection
        self._make_room = make_room
        self._rejected = metrics.rejected.labels(reason=kind)
        self._open = 0
        self._open_by_connection: Counter[str] = Counter()
        metrics.open_calls.labels(kind=kind).set_function(lambda: self._open)

    @contextmanager
    def admit(self, connection: str) -> Iterator[None]:
        """Count a call in while it is open. Raises Overloaded at once."""
        here = self._open_by_connection.get(connection, 0)
        self._check(here, self._by_connection, " on this connection")
        if not self._has_room(self._open, self._total) and not self._make_room():
            self._check(self._open, self._total, "")
        self._open += 1
        self._open_by_connection[connection] = here + 1
        try:
            yield
        finally:
            self._open -= 1
            self._open_by_connection[connection] -= 1
            if not self._open_by_connection[connection]:
                del self._open_by_connection[connection]

    def _check(self, open_calls: int, bound: Bound, where: str) -> None:
        if self._has_room(open_calls, bound):
            return
        self._rejected.inc()
        raise Overloaded(
            f"{open_calls} {self._kind} are open{where}; {bound.setting} = {bound.limit}",
            retry_after_ms=RETRY_AFTER_MS,
        )

    @staticmethod
    def _has_room(open_calls: int, bound: Bound) -> bool:
        return bound.limit is None or open_calls < bound.limit
