"""The administrative calls of the synchronous client.

Owns the methods behind `Client.admin`. Must not know channels, nor how requests are made and
replies read (`admin_calls`).
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from vecserve_client import admin_calls
from vecserve_client.calls import Call
from vecserve_client.types import Alias, Reindex, Snapshot, Verification

T = TypeVar("T")


class Invoke(Protocol):
    """Make one call, with its retries."""

    def __call__(self, call: Call[T], timeout_s: float | None) -> T:
        """Return what the reply says."""
        ...


class Admin:
    """Maintain collections. Like those of `Client`, each method raises a `VecserveError`."""

    def __init__(self, invoke: Invoke) -> None:
        self._invoke = invoke

    def set_alias(
        self, name: str, collection: str, *, timeout_s: float | None = None
    ) -> str | None:
        """Create or move an alias; return the collection that it pointed at before, if any."""
        return self._invoke(admin_calls.set_alias(name, collection), timeout_s)

    def list_aliases(self, *, timeout_s: float | None = None) -> list[Alias]:
        """List all aliases by name."""
        aliases, token = self._invoke(admin_calls.list_aliases_page(page_token=""), timeout_s)
        while token:
            page, token = self._invoke(admin_calls.list_aliases_page(page_token=token), timeout_s)
            aliases += page
        return aliases

    def delete_alias(self, name: str, *, timeout_s: float | None = None) -> None:
        """Remove an alias; the collection stays."""
        self._invoke(admin_calls.delete_alias(name), timeout_s)

    def start_reindex(
        self, collection: str, *, model: str = "", timeout_s: float | None = None
    ) -> str:
        """Start to embed a collection again. Default model: the latest version of its own model.

        Returns the id of the re-index. The old vectors serve until the re-index is done.
        """
        return self._invoke(admin_calls.start_reindex(collection, model=model), timeout_s)

    def get_reindex(self, reindex_id: str, *, timeout_s: float | None = None) -> Reindex:
        """Return the progress of a re-index."""
        return self._invoke(admin_calls.get_reindex(reindex_id), timeout_s)

    def cancel_reindex(self, reindex_id: str, *, timeout_s: float | None = None) -> None:
        """Stop a running re-index, or roll back a finished one and keep all later writes."""
        self._invoke(admin_calls.cancel_reindex(reindex_id), timeout_s)

    def create_snapshot(
        self, collection: str, name: str, *, timeout_s: float | None = None
    ) -> Snapshot:
        """Write a consistent copy of a collection into the server's snapshot folder."""
        return self._invoke(admin_calls.create_snapshot(collection, name), timeout_s)

    def list_snapshots(self, *, timeout_s: float | None = None) -> list[Snapshot]:
        """List all snapshots by name."""
        found, token = self._invoke(admin_calls.list_snapshots_page(page_token=""), timeout_s)
        while token:
            following = admin_calls.list_snapshots_page(page_token=token)
            page, token = self._invoke(following, timeout_s)
            found += page
        return found

    def delete_snapshot(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a snapshot; collections that were made from it stay."""
        self._invoke(admin_calls.delete_snapshot(name), timeout_s)

    def restore_snapshot(
        self, name: str, collection: str, *, timeout_s: float | None = None
    ) -> int:
        """Create a collection from a snapshot; return its row count. It must not exist before."""
        return self._invoke(admin_calls.restore_snapshot(name, collection), timeout_s)

    def compact_collection(self, collection: str, *, timeout_s: float | None = None) -> int:
        """Rewrite a collection's files so that they contain nothing of deleted rows.

        Returns the number of freed bytes. Writes wait while the rows' file is rewritten.
        """
        return self._invoke(admin_calls.compact_collection(collection), timeout_s)

    def verify_collection(
        self, collection: str, *, repair: bool = False, timeout_s: float | None = None
    ) -> Verification:
        """Check a collection: every record, everything derived from records, and searches.

        `repair` rebuilds damaged parts from the rows.
        """
        return self._invoke(admin_calls.verify_collection(collection, repair=repair), timeout_s)
