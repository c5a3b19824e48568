"""From texts to token ids.

Owns truncation and the special tokens around it. Must not know models or batches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers

from vecserve_server.domain.embedding import Truncate
from vecserve_server.domain.vectors import TokenIds
from vecserve_server.errors import InvalidArgument, ModelError


@dataclass(frozen=True, slots=True)
class Tokenised:
    """One text as token ids."""

    ids: TokenIds
    """At most `max_tokens` ids, special tokens included; int64 [T]."""
    total_tokens: int
    """Ids before truncation."""
    truncated: bool


def hidden_from_pooling(tokenised: Tokenised, count: int) -> Tokenised:
    """Mark the first `count` ids for a graph that leaves them out of the pooling.

    An id is marked by its bitwise complement, which is negative. The last one is never marked.
    """
    ids = tokenised.ids.copy()
    marked = slice(0, min(count, len(ids) - 1))
    ids[marked] = ~ids[marked]
    return replace(tokenised, ids=ids)


class TextTokenizer:
    """Tokenise texts with a `tokenizer.json`. Safe to call from several threads."""

    def __init__(self, tokenizer_json: bytes) -> None:
        """Parse the file; raises `ModelError` where it is malformed.

        The library tokenises a batch in a thread pool of its own unless this variable forbids it,
        and offers no other switch. The operator's own setting wins.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:
            raise ModelError(f"tokenizer.json: not a readable tokenizer ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._leading, self._trailing = self._special_tokens_around()

    @property
    def vocabulary_size(self) -> int:
        """Ids are below this number."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def prompt_tokens(self, prompt: str, *, max_tokens: int) -> int:
        """Count the ids that a prompt puts before a text, leading special tokens included."""
        ids = self.encode([prompt], max_tokens=max_tokens)[0].ids
        return len(ids) - min(1, self._trailing)

    def encode(
        self, texts: Sequence[str], *, max_tokens: int, truncate: Truncate = "right"
    ) -> list[Tokenised]:
        """Tokenise each text to at most `max_tokens` ids, special tokens included.

        Raises `InvalidArgument` for a longer text with `truncate="error"`, and for a `max_tokens`
        that leaves no room beside the special tokens.
        """
        if max_tokens <= self._leading + self._trailing:
            special = self._leading + self._trailing
            raise InvalidArgument("max_tokens", f"must exceed the {special} special tokens")
        # The batch call is the one that lets go of the GIL.
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [
            self._tokenised(np.array(encoding.ids, np.int64), i, max_tokens, truncate)
            for i, encoding in enumerate(encodings)
        ]

    def _tokenised(
        self, ids: TokenIds, index: int, max_tokens: int, truncate: Truncate
    ) -> Tokenised:
        total = len(ids)
        if total <= max_tokens:
            return Tokenised(ids, total, truncated=False)
        if truncate == "error":
            problem = f"has {total} tokens, the limit is {max_tokens}"
            raise InvalidArgument(f"texts[{index}]", problem)
        excess = total - max_tokens
        cut = self._leading if truncate == "left" else total - self._trailing - excess
        kept = np.delete(ids, slice(cut, cut + excess))
        return Tokenised(kept, total, truncated=True)

    def _special_tokens_around(self) -> tuple[int, int]:
        """Count the special tokens that go before and after every text."""
        mask = self._tokenizer.encode("a").special_tokens_mask
        body = mask.index(0) if 0 in mask else len(mask)
        return body, mask[::-1].index(0) if 0 in mask else 0
