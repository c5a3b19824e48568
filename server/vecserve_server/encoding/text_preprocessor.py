"""Texts to token ids, in the tokenise threads.

Owns the prompt before each text and the end that is cut off. Must not know runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from vecserve_server.domain.embedding import Truncate
from vecserve_server.domain.inputs import Embeddable, Modality, Text
from vecserve_server.domain.validation import check_text
from vecserve_server.encoding.preprocessor import Preparation, Prepared
from vecserve_server.encoding.tokenising import Tokenising, pieces
from vecserve_server.encoding.tokenizer import TextTokenizer, Tokenised, hidden_from_pooling
from vecserve_server.errors import FieldPath
from vecserve_server.model_files.encoder_config import EncoderConfig


class TextPreprocessor:
    """The `Preprocessor` of a text encoder. Loop only."""

    def __init__(
        self,
        *,
        tokenizer: TextTokenizer,
        config: EncoderConfig,
        tokenising: Tokenising,
        max_text_bytes: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._tokenising = tokenising
        self._max_text_bytes = max_text_bytes

    @property
    def modality(self) -> Modality:
        """See `Preprocessor`."""
        return Modality.TEXT

    def check(self, field: FieldPath, item: Embeddable) -> None:
        """See `Preprocessor`."""
        check_text(field, cast("Text", item).text, limit_bytes=self._max_text_bytes)

    def cut(self, items: Sequence[Embeddable], preparation: Preparation) -> list[list[int]]:
        """See `Preprocessor`."""
        if len(items) == 1:
            return [[0]]
        before = len(preparation.prompt)
        texts = _texts(items)
        return pieces(range(len(texts)), lambda index: before + len(texts[index]))

    async def prepare(
        self, items: Sequence[Embeddable], preparation: Preparation, *, deadline_ns: int | None
    ) -> Sequence[Prepared]:
        """See `Preprocessor`."""
        texts = [f"{preparation.prompt}{text}" for text in _texts(items)]

        def work() -> list[Prepared]:
            found = tokenise(self._tokenizer, self._config, texts, preparation)
            return [self._prepared(text, preparation.truncate) for text in found]

        return await self._tokenising.run(
            work, characters=sum(map(len, texts)), deadline_ns=deadline_ns
        )

    def _prepared(self, text: Tokenised, truncate: Truncate) -> Prepared:
        problem = ""
        if truncate == "error" and text.truncated:
            limit = self._config.max_tokens
            problem = f"has {text.total_tokens} tokens; the limit is {limit}"
        return Prepared(sequence=text.ids, total_tokens=text.total_tokens, problem=problem)


def tokenise(
    tokenizer: TextTokenizer,
    config: EncoderConfig,
    texts: Sequence[str],
    preparation: Preparation,
) -> list[Tokenised]:
    """Tokenise texts that begin with the prompt, to as many ids as the model takes."""
    side: Truncate = "left" if preparation.truncate == "left" else "right"
    tokenised = tokenizer.encode(texts, max_tokens=config.max_tokens, truncate=side)
    prompt = preparation.prompt
    if config.include_prompt or not prompt:
        return tokenised
    count = tokenizer.prompt_tokens(prompt, max_tokens=config.max_tokens)
    return [hidden_from_pooling(item, count) for item in tokenised]


def _texts(items: Sequence[Embeddable]) -> list[str]:
    return [cast("Text", item).text for item in items]
