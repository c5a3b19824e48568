"""Collections and aliases: made, described, listed and dropped.

Owns these use cases, and what is told of a collection. Must not know protocols, nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.collections import (
    CollectionSpec,
    CollectionState,
    FieldSpec,
    TextAnalysis,
)
from vecserve_server.domain.validation import check_name
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.serving.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCollection:
    """A collection as the caller declares it."""

    name: str
    model: str = ""
    """Empty: the default model."""
    dim: int = 0
    """0: the model's."""
    fields: tuple[FieldSpec, ...] = ()
    text_analysis: TextAnalysis = field(default_factory=TextAnalysis)
    keep_text: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What there is to tell of a collection."""

    spec: CollectionSpec
    row_count: int
    last_seq: int
    disk_bytes: int
    memory_bytes: int
    generation: int
    reindex_id: str
    """Of the last re-index; empty: there was none."""
    state: CollectionState
    state_reason: str


class DeclaringService:
    """Make, describe and drop collections, and name them. Loop only."""

    def __init__(
        self, *, collections: Collections, catalog: Catalog, wall_clock_ms: Callable[[], int]
    ) -> None:
        self._collections = collections
        self._catalog = catalog
        self._wall_clock_ms = wall_clock_ms

    async def create(self, wanted: NewCollection, caller: Caller) -> Description:
        """Create an empty collection.

        Raises InvalidArgument, NotFound for the model, AlreadyExists, FailedPrecondition at the
        limit.
        """
        check_name("name", wanted.name)
        return await _described(
            await self._collections.create(self._spec(wanted)), self._collections
        )

    async def describe(self, name: str, caller: Caller) -> Description:
        """Describe a collection, by its name or an alias. Raises NotFound."""
        return await _described(self._collections.get(name, field="name"), self._collections)

    def names(self, caller: Caller) -> list[str]:
        """List the names of all collections."""
        return [collection.spec.name for collection in self._collections.all()]

    async def describe_all(self, names: Sequence[str], caller: Caller) -> list[Description]:
        """Describe some collections; those that are dropped meanwhile are left out."""
        described = []
        for name in names:
            with suppress(NotFound):
                described.append(await self.describe(name, caller))
        return described

    async def drop(self, name: str, caller: Caller) -> int:
        """Delete a collection and its rows; return how many there were.

        Raises NotFound, FailedPrecondition for an alias and while an alias stands for it.
        """
        return await self._collections.drop(name)

    async def set_alias(self, alias: str, collection: str, caller: Caller) -> str:
        """Make or move an alias; return the collection for which it stood before, if any.

        Raises InvalidArgument, NotFound, AlreadyExists if it is a collection's name.
        """
        check_name(("alias", "name"), alias)
        return await self._collections.set_alias(alias, collection)

    def aliases(self, caller: Caller) -> dict[str, str]:
        """List all aliases, each with its collection."""
        return dict(self._collections.aliases())

    async def delete_alias(self, alias: str, caller: Caller) -> None:
        """Remove an alias. Raises NotFound."""
        await self._collections.delete_alias(alias)

    def _spec(self, wanted: NewCollection) -> CollectionSpec:
        text_model = self._catalog.get(wanted.model).text
        model_dim = text_model.config.dim
        if wanted.dim > model_dim:
            raise InvalidArgument("dim", f"is {wanted.dim}; the model has {model_dim}")
        return CollectionSpec(
            name=wanted.name,
            model=text_model.ref,
            dim=wanted.dim or model_dim,
            created_unix_ms=self._wall_clock_ms(),
            fields=wanted.fields,
            text_analysis=wanted.text_analysis,
            keep_text=wanted.keep_text,
        )


async def _described(collection: Collection, collections: Collections) -> Description:
    spec = collection.spec
    manifest = collections.manifest(spec.name)
    return Description(
        spec=spec,
        row_count=collection.live_rows,
        last_seq=collection.last_seq(),
        disk_bytes=await collection.disk_bytes(),
        memory_bytes=collection.memory_bytes,
        generation=manifest.generation,
        reindex_id=manifest.reindex.id if manifest.reindex else "",
        state=collection.standing.state,
        state_reason=collection.standing.reason,
    )
