"""The collection that a file is written into: it is there, or is to be made.

Owns when it is made, and whether what was declared on the command line fits it. Must not know
files.
"""

from __future__ import annotations

from vecserve_client import AlreadyExists, Client, Collection, Fields, NotFound
from vecserve_client.types import FieldTypes
from vecserve_server.cli.exits import UsageProblem
from vecserve_server.cli.output import complain


class Target:
    """One collection. `declared` is what was asked for, `create` whether it may be made."""

    def __init__(
        self, client: Client, name: str, *, create: bool, model: str, dim: int, declared: Fields
    ) -> None:
        self._client = client
        self._name = name
        self._model = model
        self._dim = dim
        self._declared = declared
        self._found = self._find(create=create)
        if self._found is not None:
            self._compare(self._found.fields.types)

    @property
    def types(self) -> FieldTypes:
        """The types of its fields, and of those that were typed for this file."""
        found = self._found.fields.types if self._found is not None else {}
        return {**found, **self._declared.types}

    @property
    def kept(self) -> frozenset[str]:
        """The top keys of what it has indexes for, which it finds in payloads."""
        return frozenset(name.partition(".")[0] for name in self.types) | frozenset(self.types)

    def ensure(self, dim: int = 0) -> None:
        """Make it unless it is there: for vectors of `dim`, where nothing else was asked for."""
        if self._found is not None:
            return
        try:
            self._found = self._client.create_collection(
                self._name, model=self._model, dim=self._dim or dim, fields=self._declared
            )
        except AlreadyExists:
            self._found = self._client.get_collection(self._name)
            self._compare(self._found.fields.types)

    def _find(self, *, create: bool) -> Collection | None:
        try:
            return self._client.get_collection(self._name)
        except NotFound as missing:
            if not create:
                raise NotFound(f"{missing}; --create makes it") from None
            return None

    def _compare(self, found: FieldTypes) -> None:
        for name, kind in self._declared.types.items():
            if found.get(name, kind) != kind:
                raise UsageProblem(
                    f"--field {name}:{kind}: collection {self._name!r} declares it as "
                    f"{found[name]}; fields are fixed when a collection is created"
                )
        if bare := sorted(self._declared.types.keys() - found.keys()):
            complain(
                f"vecserve: --field: collection {self._name!r} exists and does not declare "
                f"{', '.join(bare)}: the values get their types, but no index"
            )
