"""Page tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.common.page_tokens import (
    cut_page,
    read_page_token,
    read_seq,
    write_page_token,
)


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_token_leads_back_to_its_position(position: str) -> None:
    assert read_page_token("scan:a", write_page_token("scan:a", position)) == position


@given(st.text(min_size=1, max_size=30))
def test_foreign_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="page_token"):
        read_page_token("scan:a", token)


def test_a_token_of_another_listing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="page_token"):
        read_page_token("scan:a", write_page_token("scan:b", "7"))


@given(st.integers(0, 10**18 - 1))
def test_a_seq_comes_back(seq: int) -> None:
    assert read_seq(str(seq)) == seq


@pytest.mark.parametrize("position", ["-1", "x", "1.5", "9" * 19, "9" * 5000])
def test_a_position_that_is_no_seq_is_refused(position: str) -> None:
    with pytest.raises(InvalidArgument, match="page_token"):
        read_seq(position)


@given(st.sets(st.text("abc", min_size=1, max_size=4)), st.integers(1, 5))
def test_pages_hold_every_name_once_in_order(names: set[str], size: int) -> None:
    found: list[str] = []
    token = ""
    for _ in range(len(names) // size + 1):
        page, token = cut_page("names", names, page_size=size, page_token=token)
        assert len(page) <= size
        found += page
        if not token:
            break
    assert not token
    assert found == sorted(names)


def test_a_page_is_as_large_as_allowed() -> None:
    assert cut_page("names", "abc", page_size=0, page_token="") == (["a", "b", "c"], "")
    with pytest.raises(InvalidArgument, match="page_size: is 1001"):
        cut_page("names", "abc", page_size=1001, page_token="")
