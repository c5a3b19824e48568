"""Embed: the use case.

Owns which model a caller means. Must not know protocols, nor how vectors are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from vecserve_server.domain.caller import Caller
from vecserve_server.domain.embedding import Embedded, EmbedOptions
from vecserve_server.domain.inputs import Embeddable
from vecserve_server.domain.urgency import Urgency
from vecserve_server.errors import RequestError
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.embedder import Embedder


class EmbeddingService:
    """Embed inputs with the models that are served. Loop only."""

    def __init__(self, *, catalog: Catalog, embedder: Embedder) -> None:
        self._catalog = catalog
        self._embedder = embedder

    async def embed(
        self,
        model: str,
        inputs: Sequence[Embeddable | RequestError],
        options: EmbedOptions,
        caller: Caller,
    ) -> Embedded:
        """Embed a batch with the latest version of a model; a bad input fails alone.

        Raises NotFound for the model, and what `Embedder.embed` raises.
        """
        urgency = Urgency(deadline_ns=caller.deadline_ns)
        return await self._embedder.embed(
            self._catalog.get(model), inputs, options, urgency=urgency
        )
