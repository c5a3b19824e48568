"""How a collection stands: whether its files are where they were opened.

Owns the states and the words for them, which go to callers. Must not know how files are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vecserve_server.domain.collections import CollectionState
from vecserve_server.errors import StoreGone


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A state and, unless all is well, the reason and the cure."""

    state: CollectionState = CollectionState.SERVING
    reason: str = ""
    was_replaced: bool = False
    """Whether other files lie in the place of those that were opened."""


ALL_WELL = Standing()


def down(name: str, error: StoreGone) -> Standing:
    """Judge a collection whose rows are not where they were opened."""
    what, cure = "are gone", "or drop it"
    if error.replaced:
        what, cure = "were replaced", "or restart the server to serve the files that are there now"
    reason = (
        f"files of {name!r} {what} while they were served, and nothing is written to it any more; "
        f"put back those that were there, {cure}"
    )
    return Standing(state=CollectionState.DOWN, reason=reason, was_replaced=error.replaced)


def without_segments(name: str, folders: Sequence[str]) -> Standing:
    """Judge a collection whose rows are there, but not the files of its index."""
    reason = (
        f"files of the index of {name!r} are gone ({folders[0]}); no row is lost: searches go on "
        "from memory, and the next start builds them again"
    )
    return Standing(state=CollectionState.DEGRADED, reason=reason)
