"""Which collections serve, under which names, and what their manifests say.

Owns these names in memory, and which of them may be given. Must not know files, nor how a
collection is opened. Loop only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vecserve_server.collections.aliases import Aliases
from vecserve_server.collections.collection import Collection
from vecserve_server.domain.collections import CollectionState
from vecserve_server.errors import AlreadyExists, FailedPrecondition, NotFound
from vecserve_server.index.vectors.vector_index import IndexStats
from vecserve_server.observability.metrics import Metrics
from vecserve_server.storage.folders.manifest import Manifest


class Register:
    """The collections that serve, and their metrics."""

    def __init__(self, *, aliases: Aliases, max_collections: int, metrics: Metrics) -> None:
        self._aliases = aliases
        self._max_collections = max_collections
        self._metrics = metrics
        self._serving: dict[str, Collection] = {}
        self._manifests: dict[str, Manifest] = {}
        # Collections that are being made.
        self._arriving: set[str] = set()

    def get(self, name: str, *, field: str = "collection") -> Collection:
        """Find a collection by its name or an alias. Raises NotFound."""
        collection = self._serving.get(self._aliases.resolve(name))
        if collection is None:
            raise NotFound(f"{name!r} does not exist", field=field)
        return collection

    def all(self) -> list[Collection]:
        """Return every collection, by name."""
        return [self._serving[name] for name in sorted(self._serving)]

    def index_stats(self) -> dict[str, IndexStats]:
        """Tell the state of each collection's index. From any thread."""
        return {name: collection.index_stats for name, collection in list(self._serving.items())}

    def manifest(self, name: str) -> Manifest:
        """Return what is known of a collection beside its rows. Raises NotFound."""
        if name not in self._manifests:
            raise NotFound(f"{name!r} does not exist", field="collection")
        return self._manifests[name]

    def manifests(self) -> list[Manifest]:
        """Return the manifests of all collections."""
        return list(self._manifests.values())

    def put(self, collection: Collection, manifest: Manifest) -> None:
        """Let a collection serve under its name, in place of the one that does so now."""
        name = collection.spec.name
        self._serving[name], self._manifests[name] = collection, manifest
        self._metrics.rows.labels(collection=name).set_function(lambda: collection.live_rows)
        self._metrics.store.collection_up.labels(collection=name).set_function(
            lambda: collection.standing.state is not CollectionState.DOWN
        )

    def note(self, manifest: Manifest) -> None:
        """Keep what a manifest on disk says by now."""
        self._manifests[manifest.spec.name] = manifest

    def remove(self, name: str) -> None:
        """Let a collection serve no more."""
        del self._serving[name], self._manifests[name]
        self._metrics.rows.remove(name)
        self._metrics.store.collection_up.remove(name)

    def clear(self) -> list[Collection]:
        """Let none serve any more; return those that did."""
        served = self.all()
        self._serving.clear()
        return served

    def is_live(self, collection: Collection) -> bool:
        """Tell whether it is this generation that serves."""
        return self._serving.get(collection.spec.name) is collection

    def refuse_unless_live(self, collection: Collection) -> None:
        """Raise NotFound unless it is this generation that serves."""
        if not self.is_live(collection):
            raise NotFound(f"{collection.spec.name!r} was dropped or replaced", field="collection")

    @contextmanager
    def arriving(self, name: str) -> Iterator[None]:
        """Hold a place for a collection that is being made; `refuse_new` comes first."""
        self._arriving.add(name)
        try:
            yield
        finally:
            self._arriving.discard(name)

    def refuse_new(self, name: str) -> None:
        """Raise AlreadyExists if the name is taken, FailedPrecondition if there are too many."""
        if self._is_taken(name):
            raise AlreadyExists(f"collection {name!r} exists already", field="name")
        if (target := self._aliases.resolve(name)) != name:
            raise AlreadyExists(f"{name!r} is an alias of {target!r}", field="name")
        count = len(self._serving) + len(self._arriving)
        if count >= self._max_collections:
            raise FailedPrecondition(
                f"{count} collections exist; limits.max_collections = {self._max_collections}",
                field="name",
            )

    def refuse_alias(self, alias: str, name: str) -> None:
        """Raise AlreadyExists, NotFound unless the alias may stand for the collection."""
        if self._is_taken(alias):
            raise AlreadyExists(f"{alias!r} is the name of a collection", field=("alias", "name"))
        if name not in self._serving:
            raise NotFound(
                f"{name!r} is not the name of a collection", field=("alias", "collection")
            )

    def refuse_if_aliased(self, name: str) -> None:
        """Raise FailedPrecondition if the name is an alias, or an alias stands for it."""
        if (target := self._aliases.resolve(name)) != name:
            raise FailedPrecondition(f"{name!r} is an alias of {target!r}; name that", field="name")
        if aliases := self._aliases.of(name):
            raise FailedPrecondition(
                f"the alias {aliases[0]!r} stands for {name!r}; move or delete it first",
                field="name",
            )

    def _is_taken(self, name: str) -> bool:
        return name in self._serving or name in self._arriving
