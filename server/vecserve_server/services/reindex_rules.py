"""What may be re-indexed, and what comes of it.

Owns the rules. Must not know the order of the steps.
"""

from __future__ import annotations

from dataclasses import replace

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.comparing import Comparison
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import FailedPrecondition
from vecserve_server.storage.folders.manifest import Generation, Manifest, Reindex, Retired

LEAST_SELF_HIT_RATE = 0.98
DAY_MS = 86_400_000


def check_comparison(comparison: Comparison, *, min_overlap: float) -> None:
    """Raise FailedPrecondition if the new generation answers too differently."""
    if comparison.self_hit_rate < LEAST_SELF_HIT_RATE:
        raise FailedPrecondition(
            f"of the sampled rows {comparison.self_hit_rate:.3f} find themselves in the new "
            f"generation; {LEAST_SELF_HIT_RATE} is asked for"
        )
    if comparison.overlap < min_overlap:
        raise FailedPrecondition(
            f"old and new generation share {comparison.overlap:.3f} of the ten nearest rows; "
            f"reindex.min_overlap = {min_overlap:g}"
        )


def serving(manifest: Manifest, generation: Generation) -> Manifest:
    """Return the manifest with another generation in service."""
    spec = replace(manifest.spec, model=generation.model, dim=generation.dim)
    return replace(manifest, spec=spec, generation=generation.number)


def next_number(manifest: Manifest) -> int:
    """Return a number that no generation of the collection ever had.

    What an earlier one left behind, if it could not be removed, is then not taken for the new one.
    """
    made = [generation.number for generation in manifest.needed]
    if manifest.reindex is not None:
        made.append(manifest.reindex.generation.number)
    return max(made) + 1


def is_over(previous: Retired | None, *, keep_days: float, now_ms: int) -> bool:
    """Tell whether nobody may go back to a generation any more."""
    return previous is not None and previous.retired_unix_ms + keep_days * DAY_MS <= now_ms


def is_running(reindex: Reindex | None) -> bool:
    """Tell whether a re-index is neither done nor given up."""
    return reindex is not None and reindex.state in ("running", "evaluating")


def succeeds(ref: ModelRef, before: ModelRef) -> bool:
    """Tell whether a model is the same one with newer, or with changed, weights."""
    return (
        ref.name == before.name
        and ref.digest != before.digest
        and int(ref.version) >= int(before.version)
    )


async def check_sources(collection: Collection) -> None:
    """Raise FailedPrecondition if rows do not keep what they were made of."""
    if ids := await collection.without_source():
        raise FailedPrecondition(
            f"rows of {collection.spec.name!r} do not keep the texts that they were "
            f"made of, so no other model can embed them; write these again, or a new "
            f"collection: {', '.join(map(repr, ids))} …",
            field="collection",
        )
