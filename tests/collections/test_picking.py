"""Texts of hits."""

from __future__ import annotations

import pytest

from vecserve_server.collections.hits.picking import Picked, check_text_bytes, with_texts
from vecserve_server.domain.rows import Hit, Row, Source
from vecserve_server.errors import InvalidArgument


def picked(*seqs: int) -> Picked:
    hits = [Hit(id=f"r{seq}", seq=seq, score=1.0, payload_json=None) for seq in seqs]
    return Picked(
        hits=hits, candidates=[], looked_at=len(seqs), vanished=False, reached_min_score=False
    )


def row(seq: int, text: str | None) -> Row:
    source = Source(text=text) if text is not None else None
    return Row(seq=seq, id=f"r{seq}", vector=None, payload_json="{}", source=source)


def test_hits_get_the_texts_of_their_own_versions() -> None:
    told = with_texts(picked(1, 2), {1: row(1, "one"), 2: row(2, None)})
    assert [(hit.text, told.vanished) for hit in told.hits] == [("one", False), (None, False)]


def test_a_hit_whose_row_is_gone_meanwhile_is_looked_for_again() -> None:
    assert with_texts(picked(1, 2), {1: row(1, "one")}).vanished


def test_the_texts_of_all_answers_count_together() -> None:
    answers = [with_texts(picked(1), {1: row(1, "ü" * 50)})] * 3
    check_text_bytes(answers, limit_bytes=300)
    with pytest.raises(InvalidArgument, match="with_text: the texts of the hits take 300 bytes"):
        check_text_bytes(answers, limit_bytes=299)
