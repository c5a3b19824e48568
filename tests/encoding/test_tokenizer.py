"""The tokenizer: truncation keeps the special tokens, and no thread pool appears."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.domain.embedding import Truncate
from vecserve_server.encoding.text_model import TextModel
from vecserve_server.encoding.tokenizer import (
    TextTokenizer,
    Tokenised,
    hidden_from_pooling,
)
from vecserve_server.errors import InvalidArgument, ModelError

CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def tokenizer(int8_model: TextModel) -> TextTokenizer:
    return int8_model.tokenizer


def test_a_text_becomes_its_word_pieces_between_the_special_tokens(
    tokenizer: TextTokenizer,
) -> None:
    [hello] = tokenizer.encode(["hello world"], max_tokens=256)

    assert hello.ids.tolist() == [CLS, 7592, 2088, SEP]
    assert hello.ids.dtype == np.int64
    assert (hello.total_tokens, hello.truncated) == (4, False)


def test_an_empty_text_is_the_special_tokens_alone(tokenizer: TextTokenizer) -> None:
    [empty] = tokenizer.encode([""], max_tokens=256)

    assert empty.ids.tolist() == [CLS, SEP]


@given(
    words=st.lists(st.sampled_from(["red", "shoes", "[SEP]", "zebra", "!"]), max_size=40),
    max_tokens=st.integers(3, 50),
    truncate=st.sampled_from(["right", "left"]),
)
def test_truncation_drops_one_end_of_the_body_only(
    tokenizer: TextTokenizer, words: list[str], max_tokens: int, truncate: Truncate
) -> None:
    text = " ".join(words)
    [whole] = tokenizer.encode([text], max_tokens=10_000)
    [cut] = tokenizer.encode([text], max_tokens=max_tokens, truncate=truncate)

    body, room = whole.ids[1:-1].tolist(), max_tokens - 2
    kept = body[:room] if truncate == "right" else body[max(0, len(body) - room) :]
    assert cut.ids.tolist() == [CLS, *kept, SEP]
    assert cut.total_tokens == len(whole.ids)
    assert cut.truncated == (len(whole.ids) > max_tokens)


def test_a_long_text_is_refused_by_its_place_when_asked_to(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidArgument, match=r"texts\[1\]: has 6 tokens, the limit is 5"):
        tokenizer.encode(["fits", "one two three four"], max_tokens=5, truncate="error")


def test_a_limit_without_room_for_a_token_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidArgument, match="must exceed the 2 special tokens"):
        tokenizer.encode(["a"], max_tokens=2)


def test_threads_get_the_same_ids(tokenizer: TextTokenizer) -> None:
    texts = [f"text number {i} of many" for i in range(50)]
    expected = [item.ids.tolist() for item in tokenizer.encode(texts, max_tokens=64)]

    def ids(_: int) -> list[list[int]]:
        return [item.ids.tolist() for item in tokenizer.encode(texts, max_tokens=64)]

    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(ids, range(16)))


def test_tokenising_a_batch_starts_no_threads(model_repository: Path) -> None:
    file = model_repository / "all-MiniLM-L6-v2" / "1" / "tokenizer.json"
    script = f"""
import os, pathlib
from vecserve_server.domain.embedding import Truncate
from vecserve_server.encoding.tokenizer import TextTokenizer
assert "TOKENIZERS_PARALLELISM" not in os.environ, "importing must not set it"
tokenizer = TextTokenizer(pathlib.Path({str(file)!r}).read_bytes())
before = len(os.listdir("/proc/self/task"))
tokenizer.encode(["some text"] * 64, max_tokens=16)
print(len(os.listdir("/proc/self/task")) - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={}
    )
    assert run.stdout.strip() == "0"


def test_a_malformed_file_is_a_model_error() -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        TextTokenizer(b"{}")


@given(ids=st.lists(st.integers(0, 2**40), min_size=1), count=st.integers(0, 60))
def test_a_mark_leaves_the_last_id_alone_and_can_be_taken_off(ids: list[int], count: int) -> None:
    plain = Tokenised(np.array(ids, np.int64), len(ids), truncated=False)

    marked = hidden_from_pooling(plain, count).ids

    assert (marked < 0).sum() == min(count, len(ids) - 1)
    np.testing.assert_array_equal(np.maximum(marked, ~marked), plain.ids)
    assert (plain.ids >= 0).all()


@pytest.mark.parametrize(("prompt", "tokens"), [("", 1), ("query: ", 3), ("word " * 300, 255)])
def test_a_prompt_counts_up_to_where_the_text_begins(
    tokenizer: TextTokenizer, prompt: str, tokens: int
) -> None:
    assert tokenizer.prompt_tokens(prompt, max_tokens=256) == tokens
