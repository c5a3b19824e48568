"""The state that searches compare themselves with."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.index.live_rows import NO_SEQS, LiveRows
from vecserve_server.index.vectors.vector_index import KEPT_REMOVALS

NO_VECTORS = np.empty((0, 4), np.float16)


@given(st.lists(st.booleans(), max_size=2 * KEPT_REMOVALS), st.data())
def test_removals_since_a_version_are_known_or_known_to_be_unknown(
    removes: list[bool], data: st.DataObject
) -> None:
    rows = LiveRows(dim=4, exact_rows=10)
    removed = []
    for seq, is_removal in enumerate(removes):
        seqs = np.array([seq]) if is_removal else NO_SEQS
        rows.apply(added_seqs=NO_SEQS, added_vectors=NO_VECTORS, removed_seqs=seqs)
        removed.append(seqs.tolist())
    assert rows.state.version == len(removes)
    since = data.draw(st.integers(0, len(removes)))
    expected = [seq for seqs in removed[since:] for seq in seqs]
    found = rows.state.removed_since(since)
    if found is None:
        assert sum(removes) >= KEPT_REMOVALS
    else:
        assert found.tolist() == expected
    if len(expected) <= KEPT_REMOVALS - 1:
        assert found is not None


def test_the_last_seq_is_that_of_the_rows_that_are_visible() -> None:
    rows = LiveRows(dim=4, exact_rows=10, sealed_seq=5)
    assert rows.state.last_seq == 5
    rows.apply(
        added_seqs=np.array([9]), added_vectors=np.ones((1, 4), np.float16), removed_seqs=NO_SEQS
    )
    assert rows.state.last_seq == 9


def test_many_transactions_are_remembered_in_few_pieces() -> None:
    rows = LiveRows(dim=4, exact_rows=10)
    for seq in range(3000):
        rows.apply(added_seqs=NO_SEQS, added_vectors=NO_VECTORS, removed_seqs=np.array([seq]))
    assert len(rows._removed) <= 1100
    assert rows.removed_rows == 3000
    assert rows.take_removed().tolist() == list(range(3000))
