"""The models of the catalog behind the inference protocol.

Owns the look-up for a server whose models are loaded once, at its start. Must not know protocols.
"""

# ruff: noqa: ARG002  (the seam dictates arguments)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tritonclient.grpc import service_pb2

from vecserve_server.errors import FailedPrecondition, InvalidArgument, NotFound
from vecserve_server.services.catalog import Catalog
from vecserve_server.services.control import READY, ModelEntry
from vecserve_server.services.embedding import EmbeddingService
from vecserve_server.services.tensor_model import TensorModel
from vecserve_server.services.text_model import TextTensorModel


class CatalogControl:
    """A ModelControl whose models never change. Loop only."""

    def __init__(
        self, *, catalog: Catalog, service: EmbeddingService, clock_ns: Callable[[], int]
    ) -> None:
        self._catalog = catalog
        self._models = {
            served.text.ref.name: TextTensorModel(served=served, service=service, clock_ns=clock_ns)
            for served in catalog.all()
        }

    async def index(self, ready_only: bool) -> Sequence[ModelEntry]:
        """List the models, all of which are ready."""
        return [ModelEntry(m.name, m.version, READY, "") for m in self._models.values()]

    async def load(
        self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Refuse: FailedPrecondition."""
        raise FailedPrecondition("explicit model load is not allowed by the model control mode")

    async def unload(self, name: str, unload_dependents: bool) -> None:
        """Refuse: FailedPrecondition."""
        raise FailedPrecondition("explicit model unload is not allowed by the model control mode")

    async def statistics(self, name: str, version: str) -> Sequence[service_pb2.ModelStatistics]:
        """Name the versions; nothing is counted here."""
        wanted = [self._find(name, version)] if name else list(self._models.values())
        return [service_pb2.ModelStatistics(name=m.name, version=m.version) for m in wanted]

    @contextmanager
    def lease(self, name: str, version: str) -> Iterator[TensorModel]:
        """Find a model; it stays in any case."""
        yield self._find(name, version)

    def is_ready(self, name: str, version: str) -> bool:
        """Tell whether there is such a version."""
        try:
            self._find(name, version)
        except (NotFound, InvalidArgument):
            return False
        return True

    def _find(self, name: str, version: str) -> TextTensorModel:
        return self._models[self._catalog.get(name, version).text.ref.name]
