"""Texts to vectors.

Owns the use case: check, tokenise in worker threads, batch, and gather per-item failures. Must
not know protocols.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from vecserve_server.domain.validation import check_count, check_text
from vecserve_server.domain.vectors import Encodings, Vectors
from vecserve_server.encoding.model_repository import TextModel
from vecserve_server.encoding.tokenising import Tokenising, pieces
from vecserve_server.encoding.tokenizer import Tokenised, hidden_from_pooling
from vecserve_server.errors import InvalidArgument, RequestError
from vecserve_server.model_files.model_config import EncoderConfig
from vecserve_server.observability.metrics import Metrics, length_label
from vecserve_server.serving.catalog import Catalog, ServedModel
from vecserve_server.settings.settings import LimitSettings

MAX_PROMPT_BYTES = 4096

Truncate: TypeAlias = Literal["right", "left", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How to embed: see EmbedOptions of embedding.proto."""

    prompt_name: str = ""
    prompt_text: str = ""
    dimensions: int = 0
    normalise: bool | None = None
    """Whether vectors get length 1; as the model is configured when None."""
    truncate: Truncate | None = None
    """Where texts are cut that are too long; as the model is configured when None."""
    field: str = "options"
    """The field that they stand in, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What an embed call got.

    `vectors` is float32 [N, D] with rows of zeros where `errors` has the index; `tokens` and
    `total_tokens` count what was encoded and what the whole text has.
    """

    model: ServedModel
    vectors: Vectors
    tokens: Sequence[int]
    total_tokens: Sequence[int]
    errors: Mapping[int, RequestError]
    queue_us: int
    tokenise_us: int
    encode_us: int


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call: what it asked for, and its results while the pieces come in."""

    served: ServedModel
    texts: Sequence[str | RequestError]
    prompt: str
    truncate: Truncate
    normalise: bool
    deadline_ns: int | None
    start_by_ns: int | None
    priority: int
    names: Sequence[str]
    vectors: Vectors
    tokens: list[int]
    total_tokens: list[int]
    errors: dict[int, RequestError] = field(default_factory=dict)
    queue_us: int = 0
    tokenise_us: int = 0
    encode_us: int = 0

    def characters(self, index: int) -> int:
        """Return the length of a good text with its prompt."""
        return len(self.prompt) + len(cast("str", self.texts[index]))


class EmbeddingService:
    """Embed texts with any served model. Loop only."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        tokenising: Tokenising,
        limits: LimitSettings,
        clock_ns: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._catalog = catalog
        self._tokenising = tokenising
        self._limits = limits
        self._clock_ns = clock_ns
        self._metrics = metrics

    @property
    def max_texts(self) -> int:
        """Texts that one call may have."""
        return self._limits.max_items_per_call

    async def embed(
        self,
        model: str,
        texts: Sequence[str | RequestError],
        options: EmbedOptions,
        *,
        deadline_ns: int | None = None,
    ) -> Embedded:
        """Embed a batch with the latest version of a model, as `embed_with` does.

        Raises NotFound for the model.
        """
        return await self.embed_with(
            self._catalog.get(model), texts, options, deadline_ns=deadline_ns
        )

    async def embed_with(
        self,
        served: ServedModel,
        texts: Sequence[str | RequestError],
        options: EmbedOptions,
        *,
        names: Sequence[str] | None = None,
        deadline_ns: int | None = None,
        start_by_ns: int | None = None,
        priority: int = 0,
    ) -> Embedded:
        """Embed a batch; a bad text fails alone, as does an item that is an error already.

        `names` are the fields that the texts stand in, for messages; the rest is as in
        `DynamicBatcher.submit`. The model stays open meanwhile.

        Raises InvalidArgument for an option or the batch's size, and what the batcher raises.
        """
        check_count("inputs", len(texts), limit=self.max_texts)
        # Once for the whole call, and before anything is spent on it: a text has a token at least.
        served.batcher.admit(
            len(texts),
            tokens=len(texts),
            priority=priority,
            deadline_ns=deadline_ns,
            start_by_ns=start_by_ns,
        )
        started_ns = self._clock_ns()
        call = _Call(
            served=served,
            texts=texts,
            prompt=resolve_prompt(options, served.text.config),
            truncate=options.truncate or _side(served.text.config),
            normalise=_normalises(options, served.text.config),
            deadline_ns=deadline_ns,
            start_by_ns=start_by_ns,
            priority=priority,
            names=names or [f"inputs[{index}].text" for index in range(len(texts))],
            vectors=np.zeros(
                (len(texts), resolve_dimensions(options, served.text.config.dim)), np.float32
            ),
            tokens=[0] * len(texts),
            total_tokens=[0] * len(texts),
        )
        good = self._good_texts(call)
        with served.leases.hold():
            await _all_or_none(
                [self._embed_piece(call, piece) for piece in pieces(good, call.characters)]
            )
        if good:
            self._metrics.embed_seconds.labels(
                model=served.text.ref.name, tokens=length_label(max(call.tokens))
            ).observe((self._clock_ns() - started_ns) / 1e9)
        return Embedded(
            model=served,
            vectors=call.vectors,
            tokens=call.tokens,
            total_tokens=call.total_tokens,
            errors=call.errors,
            queue_us=call.queue_us,
            tokenise_us=call.tokenise_us,
            encode_us=call.encode_us,
        )

    def _good_texts(self, call: _Call) -> list[int]:
        good = []
        for index, text in enumerate(call.texts):
            try:
                if isinstance(text, RequestError):
                    raise text
                check_text(call.names[index], text, limit_bytes=self._limits.max_text_bytes)
            except RequestError as error:
                call.errors[index] = error
            else:
                good.append(index)
        return good

    async def _embed_piece(self, call: _Call, piece: Sequence[int]) -> None:
        tokenised = await self._tokenise(call, piece)
        fitting = self._fitting(call, tokenised)
        if not fitting:
            return
        encoded = await call.served.batcher.submit(
            [tokenised[index].ids for index in fitting],
            priority=call.priority,
            deadline_ns=call.deadline_ns,
            start_by_ns=call.start_by_ns,
            admitted=True,
        )
        call.vectors[fitting] = finish(
            encoded.encodings, dim=call.vectors.shape[1], normalise=call.normalise
        )
        call.queue_us = max(call.queue_us, encoded.queue_us)
        call.encode_us = max(call.encode_us, encoded.encode_us)

    async def _tokenise(self, call: _Call, piece: Sequence[int]) -> dict[int, Tokenised]:
        text_model = call.served.text

        def work() -> list[Tokenised]:
            texts = [f"{call.prompt}{call.texts[index]}" for index in piece]
            return tokenise(text_model, texts, prompt=call.prompt, truncate=call.truncate)

        started_ns = self._clock_ns()
        tokenised = await self._tokenising.run(
            work, characters=sum(map(call.characters, piece)), deadline_ns=call.deadline_ns
        )
        call.tokenise_us = max(call.tokenise_us, (self._clock_ns() - started_ns) // 1000)
        return dict(zip(piece, tokenised, strict=True))

    def _fitting(self, call: _Call, tokenised: Mapping[int, Tokenised]) -> list[int]:
        fitting = []
        for index, item in tokenised.items():
            call.total_tokens[index] = item.total_tokens
            if call.truncate == "error" and item.truncated:
                call.errors[index] = InvalidArgument(
                    call.names[index],
                    f"has {item.total_tokens} tokens; "
                    f"the limit is {call.served.text.config.max_tokens}",
                )
                continue
            call.tokens[index] = len(item.ids)
            fitting.append(index)
        return fitting


def tokenise(
    model: TextModel, texts: Sequence[str], *, prompt: str, truncate: Truncate
) -> list[Tokenised]:
    """Tokenise texts that begin with the prompt, to as many ids as the model takes."""
    config = model.config
    tokenised = model.tokenizer.encode(
        texts, max_tokens=config.max_tokens, truncate="left" if truncate == "left" else "right"
    )
    if config.include_prompt or not prompt:
        return tokenised
    count = model.tokenizer.prompt_tokens(prompt, max_tokens=config.max_tokens)
    return [hidden_from_pooling(item, count) for item in tokenised]


def _side(config: EncoderConfig) -> Truncate:
    return "left" if config.truncation_side == "left" else "right"


def resolve_prompt(options: EmbedOptions, config: EncoderConfig) -> str:
    """Find the text to put before each input; the model's default where none is asked for."""
    if len(options.prompt_text.encode()) > MAX_PROMPT_BYTES:
        raise InvalidArgument(
            f"{options.field}.prompt_text",
            f"has {len(options.prompt_text.encode())} bytes; the limit is {MAX_PROMPT_BYTES}",
        )
    if options.prompt_text:
        return options.prompt_text
    name = options.prompt_name or config.default_prompt
    if name and name not in config.prompts:
        known = ", ".join(sorted(config.prompts)) or "none"
        raise InvalidArgument(
            f"{options.field}.prompt_name", f"{name!r} is unknown; the model has {known}"
        )
    return config.prompts[name] if name else ""


def resolve_dimensions(options: EmbedOptions, model_dim: int) -> int:
    """Find how many components to keep; refuse what the graph cannot give."""
    if options.dimensions > model_dim:
        raise InvalidArgument(
            f"{options.field}.dimensions", f"is {options.dimensions}; the model has {model_dim}"
        )
    return options.dimensions or model_dim


def finish(encodings: Encodings, *, dim: int, normalise: bool) -> Vectors:
    """Keep the first `dim` components, of length 1 or as long as pooling made them."""
    if normalise:
        return shorten(encodings.vectors, dim)
    return encodings.vectors[:, :dim] * encodings.norms[:, None]


def shorten(vectors: Vectors, dim: int) -> Vectors:
    """Keep the first `dim` components of unit vectors and scale back to length 1 (Matryoshka)."""
    if vectors.shape[1] == dim:
        return vectors
    short = vectors[:, :dim]
    norms: Vectors = np.linalg.norm(short, axis=1, keepdims=True)
    unit: Vectors = (short / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _normalises(options: EmbedOptions, config: EncoderConfig) -> bool:
    return config.normalise if options.normalise is None else options.normalise


async def _all_or_none(pieces: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run the pieces side by side; the first failure cancels the others."""
    if len(pieces) == 1:
        await pieces[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for piece in pieces:
                group.create_task(piece)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
