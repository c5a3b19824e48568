"""Making all files of a collection anew from its rows, while it serves.

Owns when that may be done and its steps: the rows are copied into a new generation, which then
takes the place of the damaged one. Killed before that, the old one serves and the next start
removes what was begun. Must not know how files are laid out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vecserve_server.collections.checking import Checked
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.rebuilding import Rebuild, copy_row, switch
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.errors import FailedPrecondition
from vecserve_server.services.reindex_rules import is_running, next_number


def is_repairable(found: Checked) -> bool:
    """Tell whether a check found something, and nothing that only the caller can mend."""
    return bool(found.problems) and not (found.has_damaged_rows or found.has_lost_rows)


async def repair(collections: Collections, name: str) -> Collection:
    """Make the files of a collection anew; return the generation that serves then.

    The caller holds the collection's `upkeep` lock. Raises FailedPrecondition while it is being
    re-indexed, CorruptData that names a damaged row, StorageError.
    """
    live, manifest = collections.get(name), collections.manifest(name)
    if is_running(manifest.reindex):
        raise FailedPrecondition(f"{name!r} is being re-indexed; wait for it", field="collection")
    generation = replace(manifest.live, number=next_number(manifest))
    target = await collections.open_generation(live, generation)
    rebuild = Rebuild(source=live, target=target, make_rows=_copies)
    try:
        await rebuild.begin()
        await rebuild.follow()
        await switch(
            collections,
            live=live,
            target=target,
            rebuild=rebuild,
            change=lambda now: replace(now, generation=generation.number),
        )
    finally:
        rebuild.end()
        await collections.release(target)
    repaired = collections.get(name)
    await collections.discard(repaired)
    return repaired


async def _copies(rows: Sequence[Row], sources: Mapping[int, Source]) -> Mapping[int, NewRow]:
    return {row.seq: copy_row(row, sources.get(row.seq)) for row in rows}
