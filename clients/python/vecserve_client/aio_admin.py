"""The administrative calls of the asynchronous client.

Owns the methods behind `AsyncClient.admin`. Must not know channels, nor how requests are made and
replies read (`admin_calls`).
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from vecserve_client import admin_calls
from vecserve_client.calls import Call
from vecserve_client.types import Alias, Reindex, Snapshot, Verification

T = TypeVar("T")


class AsyncInvoke(Protocol):
    """Make one call, with its retries."""

    async def __call__(self, call: Call[T], timeout_s: float | None) -> T:
        """Return what the reply says."""
        ...


class AsyncAdmin:
    """What looks after collections; raises a `VecserveError` as the methods of `AsyncClient`."""

    def __init__(self, invoke: AsyncInvoke) -> None:
        self._invoke = invoke

    async def set_alias(
        self, name: str, collection: str, *, timeout_s: float | None = None
    ) -> str | None:
        """Create or move an alias; return the collection that it pointed at before, if any."""
        return await self._invoke(admin_calls.set_alias(name, collection), timeout_s)

    async def list_aliases(self, *, timeout_s: float | None = None) -> list[Alias]:
        """List all aliases by name."""
        first = admin_calls.list_aliases_page(page_token="")
        aliases, token = await self._invoke(first, timeout_s)
        while token:
            following = admin_calls.list_aliases_page(page_token=token)
            page, token = await self._invoke(following, timeout_s)
            aliases += page
        return aliases

    async def delete_alias(self, name: str, *, timeout_s: float | None = None) -> None:
        """Remove an alias; the collection stays."""
        await self._invoke(admin_calls.delete_alias(name), timeout_s)

    async def start_reindex(
        self, collection: str, *, model: str = "", timeout_s: float | None = None
    ) -> str:
        """Start to embed a collection again. Default model: the latest version of its own model.

        Returns the id of the re-index. The old vectors serve until the re-index is done.
        """
        return await self._invoke(admin_calls.start_reindex(collection, model=model), timeout_s)

    async def get_reindex(self, reindex_id: str, *, timeout_s: float | None = None) -> Reindex:
        """Return the progress of a re-index."""
        return await self._invoke(admin_calls.get_reindex(reindex_id), timeout_s)

    async def cancel_reindex(self, reindex_id: str, *, timeout_s: float | None = None) -> None:
        """Stop a running re-index, or roll back a finished one and keep all later writes."""
        await self._invoke(admin_calls.cancel_reindex(reindex_id), timeout_s)

    async def create_snapshot(
        self, collection: str, name: str, *, timeout_s: float | None = None
    ) -> Snapshot:
        """Write a consistent copy of a collection into the server's snapshot folder."""
        return await self._invoke(admin_calls.create_snapshot(collection, name), timeout_s)

    async def list_snapshots(self, *, timeout_s: float | None = None) -> list[Snapshot]:
        """List all snapshots by name."""
        first = admin_calls.list_snapshots_page(page_token="")
        found, token = await self._invoke(first, timeout_s)
        while token:
            following = admin_calls.list_snapshots_page(page_token=token)
            page, token = await self._invoke(following, timeout_s)
            found += page
        return found

    async def delete_snapshot(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a snapshot; collections that were made from it stay."""
        await self._invoke(admin_calls.delete_snapshot(name), timeout_s)

    async def restore_snapshot(
        self, name: str, collection: str, *, timeout_s: float | None = None
    ) -> int:
        """Create a collection from a snapshot; return its row count. It must not exist before."""
        return await self._invoke(admin_calls.restore_snapshot(name, collection), timeout_s)

    async def compact_collection(self, collection: str, *, timeout_s: float | None = None) -> int:
        """Rewrite a collection's files so that they contain nothing of deleted rows.

        Returns the number of freed bytes. Writes wait while the rows' file is rewritten.
        """
        return await self._invoke(admin_calls.compact_collection(collection), timeout_s)

    async def verify_collection(
        self, collection: str, *, repair: bool = False, timeout_s: float | None = None
    ) -> Verification:
        """Check a collection: every record, everything derived from records, and searches.

        `repair` rebuilds damaged parts from the rows.
        """
        call = admin_calls.verify_collection(collection, repair=repair)
        return await self._invoke(call, timeout_s)
