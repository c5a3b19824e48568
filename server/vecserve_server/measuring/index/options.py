"""What the index is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.index.vectors.planning import Costs, Thresholds, measured_thresholds

PHASES: Final = ("speed", "filters", "start", "ingest", "rebuild", "lost", "turnover")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBenchmark:
    """Which rows, which phases, and how long each takes."""

    rows: int = 100_000
    dim: int = 384
    queries: int = 1000
    vectors: Path | None = None
    """Embeddings as .npy instead of synthetic ones."""
    blocks: int = 6
    """Of 3 s while rows arrive."""
    rebuild_seconds: float = 240.0
    """At most."""
    rounds: int = 10
    """Turns of what is compared."""
    rows_per_s: int = 1000
    """Arriving under load."""
    turnover_rows: int = 20_000
    first_rows: int | None = None
    """Fewer have no graph; None: as measured."""
    delta_rows: int | None = None
    """So many more are sealed; None: as measured."""
    peers: bool = True
    phases: Sequence[str] = PHASES
    keep: Path | None = None
    """Keep the rows there, and use those of before."""

    def index_options(self) -> IndexOptions:
        """Return how the index works."""

        def thresholds(costs: Costs) -> Thresholds:
            measured = measured_thresholds(costs)
            return replace(
                measured,
                first_rows=self.first_rows or measured.first_rows,
                delta_rows=self.delta_rows or measured.delta_rows,
            )

        return IndexOptions(thresholds=thresholds)
