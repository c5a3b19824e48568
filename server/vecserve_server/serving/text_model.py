"""A text encoder as the inference protocol sees it.

Owns the mapping between tensors and the embedding use case. Must not know protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve.inference import model_config_pb2
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.inputs import Text
from vecserve_server.domain.tensors import TensorReply, TensorRequest, Tensors
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.vectors import TokenIds
from vecserve_server.errors import InvalidArgument
from vecserve_server.serving.embedder import Embedder, finish
from vecserve_server.serving.model_versions import ServedModel

TEXT, TOKENS, MASK, OUTPUT = "text", "input_ids", "attention_mask", "embedding"


class TextInference:
    """A served text encoder: `text`, or `input_ids` with `attention_mask`, to `embedding`.

    Loop only.
    """

    def __init__(
        self, *, served: ServedModel, embedder: Embedder, clock_ns: Callable[[], int]
    ) -> None:
        self._served = served
        self._embedder = embedder
        self._clock_ns = clock_ns

    async def infer(self, request: TensorRequest) -> TensorReply:
        """Embed texts, or token ids; raises InvalidArgument that names the tensor at fault."""
        names = set(request.inputs)
        if names == {TEXT}:
            return await self._embed(request)
        if names in ({TOKENS, MASK}, {TOKENS}):
            return await self._embed_tokens(request)
        raise InvalidArgument(
            "inputs",
            f"are {', '.join(sorted(request.inputs)) or 'empty'}; {TEXT!r} alone, or {TOKENS!r} "
            f"with {MASK!r}, are expected",
        )

    async def _embed(self, request: TensorRequest) -> TensorReply:
        texts = _texts(request.inputs[TEXT])
        embedded = await self._embedder.embed(
            self._served,
            [Text(text) for text in texts],
            EmbedOptions(),
            names=[("inputs", TEXT, index) for index in range(len(texts))],
            urgency=self._urgency(request),
        )
        for error in embedded.errors.values():
            raise error
        return TensorReply(
            outputs={OUTPUT: embedded.vectors},
            times=embedded.timings,
        )

    async def _embed_tokens(self, request: TensorRequest) -> TensorReply:
        sequences = self._sequences(request.inputs)
        encoded = await self._served.compute.submit(sequences, self._urgency(request))
        config = self._served.text.config
        vectors = finish(encoded.result, dim=config.dim, normalise=config.normalise)
        return TensorReply(
            outputs={OUTPUT: vectors},
            times=encoded.timings,
        )

    def _urgency(self, request: TensorRequest) -> Urgency:
        return request.urgency(self._clock_ns())  # tokenising counts as waiting

    def _sequences(self, inputs: Tensors) -> list[TokenIds]:
        # A copy: what lies in shared memory may change after it was checked.
        tokens = inputs[TOKENS].copy()
        mask = inputs.get(MASK, np.ones_like(tokens))
        _check_pair(tokens, mask)
        vocabulary = self._served.text.tokenizer.vocabulary_size
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            raise InvalidArgument(("inputs", TOKENS), f"holds ids outside 0 to {vocabulary - 1}")
        sequences = [
            row[kept != 0].astype(np.int64) for row, kept in zip(tokens, mask, strict=True)
        ]
        limit = self._served.text.config.max_tokens
        for index, sequence in enumerate(sequences):
            if not 1 <= len(sequence) <= limit:
                raise InvalidArgument(
                    ("inputs", TOKENS, index),
                    f"has {len(sequence)} tokens; 1 to {limit} are allowed",
                )
        if not sequences:
            raise InvalidArgument(("inputs", TOKENS), "has no rows")
        return sequences


def unlisted_inputs(config: model_config_pb2.ModelConfig) -> list[model_config_pb2.ModelInput]:
    """Return the inputs that are taken whether the configuration lists them or not: token ids."""
    listed = {tensor.name for tensor in config.input}
    return [
        model_config_pb2.ModelInput(
            name=name, data_type=model_config_pb2.TYPE_INT64, dims=[-1], optional=True
        )
        for name in (TOKENS, MASK)
        if name not in listed
    ]


def _texts(tensor: NDArray[Any]) -> list[str]:
    if tensor.dtype != object or tensor.ndim not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise InvalidArgument(
            ("inputs", TEXT), f"must be BYTES of the shape [N, 1], not {list(tensor.shape)}"
        )
    texts = []
    for index, element in enumerate(tensor.ravel()):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise InvalidArgument(("inputs", TEXT, index), "is not valid UTF-8") from None
    return texts


def _check_pair(tokens: NDArray[Any], mask: NDArray[Any]) -> None:
    for name, tensor in ((TOKENS, tokens), (MASK, mask)):
        if tensor.dtype.kind not in "iu" or tensor.ndim != 2:
            raise InvalidArgument(("inputs", name), "must be INT64 of the shape [N, T]")
    if mask.shape != tokens.shape:
        raise InvalidArgument(
            ("inputs", MASK),
            f"has the shape {list(mask.shape)}; {TOKENS!r} has {list(tokens.shape)}",
        )
