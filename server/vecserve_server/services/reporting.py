"""What the server has and does now: its models, and its numbers.

Owns what is told of them. Must not know protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vecserve_server.collections.collections import Collections
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.observability.process import resident_bytes
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.model_versions import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model that embeds."""

    ref: ModelRef
    dim: int
    max_tokens: int
    precision: str
    engine: str
    instance_count: int
    is_default: bool
    prompt_names: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The numbers of a running server."""

    uptime_s: float
    queued_rows: int
    resident_bytes: int
    collection_count: int
    row_count: int
    down_collections: Sequence[str]


class ReportingService:
    """Tell about models and the running server. Loop only."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        collections: Collections,
        queued_rows: Callable[[], int],
        clock_ns: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._collections = collections
        self._queued_rows = queued_rows
        self._clock_ns = clock_ns
        self._started_ns = clock_ns()

    def models(self, caller: Caller) -> list[ModelDescription]:
        """Describe every version that serves, by name."""
        return [self._described(served) for served in self._catalog.all()]

    def stats(self, caller: Caller) -> Stats:
        """Report the server's numbers."""
        collections = self._collections.all()
        return Stats(
            uptime_s=(self._clock_ns() - self._started_ns) / 1e9,
            queued_rows=self._queued_rows(),
            resident_bytes=resident_bytes(),
            collection_count=len(collections),
            row_count=sum(collection.live_rows for collection in collections),
            down_collections=self._collections.down(),
        )

    def _described(self, served: ServedModel) -> ModelDescription:
        text, config = served.text, served.text.config
        return ModelDescription(
            ref=text.ref,
            dim=config.dim,
            max_tokens=config.max_tokens,
            precision=config.precision,
            engine=text.engine,
            instance_count=served.compute.instance_count,
            is_default=text.ref.name == self._catalog.default,
            prompt_names=sorted(config.prompts),
        )
