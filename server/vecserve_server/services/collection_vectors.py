"""Inputs to the vectors of a collection, by the model that made its rows.

Owns which model that is, and that vectors of two models never mix. Must not know rows or queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vecserve_server.domain.caller import Caller
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.inputs import Embeddable
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import FailedPrecondition, FieldPath, InvalidArgument, RequestError
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.embedder import Embedder, shorten
from vecserve_server.serving.model_versions import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedInput:
    """An input, and the field that it stands in."""

    name: FieldPath
    content: Embeddable


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionVectors:
    """A unit vector [D] for each input that has one, an error for each other one."""

    vectors: Mapping[int, Vectors]
    errors: Mapping[int, RequestError]
    timings: Timings


class CollectionEmbedder:
    """Embed what is written to collections and what is looked for in them. Loop only."""

    def __init__(self, *, catalog: Catalog, embedder: Embedder) -> None:
        self._catalog = catalog
        self._embedder = embedder

    async def embed(
        self,
        spec: CollectionSpec,
        inputs: Mapping[int, NamedInput],
        options: EmbedOptions,
        caller: Caller,
    ) -> CollectionVectors:
        """Embed inputs to the dim of the collection; a bad one fails alone.

        Raises FailedPrecondition if the collection's model is not the one that is loaded,
        InvalidArgument for an option, and what the batcher raises.
        """
        served = self._model_of(spec)
        _check_dimensions(options, spec)
        embedded = await self._embedder.embed(
            served,
            [item.content for item in inputs.values()],
            replace(options, normalise=True),  # collections hold unit vectors
            names=[item.name for item in inputs.values()],
            urgency=Urgency(deadline_ns=caller.deadline_ns),
        )
        vectors = shorten(embedded.vectors, spec.dim)
        places = list(enumerate(inputs))
        return CollectionVectors(
            vectors={index: vectors[at] for at, index in places if at not in embedded.errors},
            errors={index: embedded.errors[at] for at, index in places if at in embedded.errors},
            timings=embedded.timings,
        )

    def _model_of(self, spec: CollectionSpec) -> ServedModel:
        """Find the version that made a collection's vectors; refuse to mix in those of others."""
        served = self._catalog.with_weights(spec.model)
        loaded = served.text.ref
        if loaded.digest != spec.model.digest:
            raise FailedPrecondition(
                f"{spec.name!r} was embedded by model {spec.model.name!r} version "
                f"{spec.model.version} ({spec.model.digest[:12]}), but version {loaded.version} "
                f"({loaded.digest[:12]}) is loaded; re-index it, or serve the old weights",
                field="collection",
            )
        return served


def _check_dimensions(options: EmbedOptions, spec: CollectionSpec) -> None:
    """Refuse another dim than the collection's, which is what its inputs are embedded to."""
    if options.dimensions not in (0, spec.dim):
        raise InvalidArgument(
            (options.field, "dimensions"),
            f"is {options.dimensions}; collection {spec.name!r} has {spec.dim}",
        )
